//! An upstream's answers, good and bad, and a relay made of both roles.

#[allow(dead_code, clippy::duplicate_mod, reason = "the certificates that other tests make too")]
#[path = "../../../tls/tests/ca.rs"]
mod ca;

use std::cell::Cell;
use std::cell::RefCell;
use std::future::pending;
use std::future::poll_fn;
use std::io::Read;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use leno_proto::request::Headers;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;

use crate::error::Reason;
use crate::http::Interim;
use crate::http::Request;
use crate::http::Response;
use crate::http::Service;
use crate::http::body::Body;
use crate::http::h1::Client;
use crate::http::h1::Home;
use crate::http::h1::ServerSettings;
use crate::http::h1::Stream;
use crate::http::h1::serve;
use crate::http::h1::tests::Ends;
use crate::http::h1::tests::answer_head;
use crate::http::h1::tests::exchange;
use crate::http::h1::tests::run;
use crate::http::head::RequestHead;
use crate::http::head::ResponseHead;
use crate::http::head::Version;
use crate::net::Io;
use crate::tls::Alpn;

#[derive(Default)]
struct Shelf(RefCell<Vec<Client>>);

impl Home for Rc<Shelf> {
    fn keep(self: Box<Self>, client: Client) {
        self.0.borrow_mut().push(client);
    }
}

fn request(method: &str) -> RequestHead {
    RequestHead {
        version: Version::Http11,
        method: method.to_owned().into(),
        scheme: "",
        authority: "a".into(),
        target: "/".into(),
        headers: Headers::new(),
    }
}

/// One exchange with an upstream that says `answer` and closes: status, body and how it ended, whether the connection went
/// home, and the interim answers.
async fn ask(head: &RequestHead, answer: &[u8]) -> String {
    let (ours, mut theirs) = tokio::io::duplex(1 << 20);
    theirs.write_all(answer).await.unwrap();
    let shelf = Rc::new(Shelf::default());
    let interim = Interim::default();
    let asking = Client::new(Io::Memory(ours), None).exchange(head, Body::Empty, &interim, Box::new(Rc::clone(&shelf)));
    let closing = async {
        let mut sent = [0; 4096];
        let n = theirs.read(&mut sent).await.unwrap();
        assert!(sent[..n].ends_with(b"\r\n\r\n"));
        theirs
    };
    let (answered, theirs) = tokio::join!(asking, closing);
    let interims: String = interim.take().iter().map(|head| format!("{} ", head.status)).collect();
    let mut answered = match answered {
        Ok(answered) => answered,
        Err(error) => return format!("{interims}!{:?} {}", error.reason, error.detail),
    };
    let mut told = format!("{interims}{}", answered.head.status);
    if answered.tunnel.is_some() {
        return told + " tunnel";
    }
    // Without the FIN a body that ends with the connection would not end; with it, no connection is kept.
    let keeper = (answered.body.length().is_some() || answer.ends_with(b"0\r\n\r\n")).then_some(theirs);
    let mut body = String::new();
    while let Some(piece) = answered.body.data().await {
        match piece {
            Ok(data) => body.push_str(&String::from_utf8_lossy(&data)),
            Err(reason) => body.push_str(&format!("!{reason:?}")),
        }
        if keeper.is_some() && body.len() > 1000 {
            break;
        }
    }
    told.push_str(&format!(" [{body}]"));
    if !shelf.0.borrow().is_empty() {
        told.push_str(" kept");
    }
    told
}

#[test]
fn answers_end_where_they_say_and_only_clean_ones_keep_the_connection() {
    #[rustfmt::skip]
    let table: &[(&str, &[u8], &str)] = &[
        ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "200 [hi] kept"),
        ("GET", b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nhi", "200 [hi] kept"),
        ("GET", b"HTTP/1.1 299 Own words\r\nContent-Length: 0\r\n\r\n", "299 [] kept"),
        ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\n\r\n", "200 [hi]"),
        ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi", "200 [hi]"),
        ("GET", b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", "200 [hi]"),
        ("GET", b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nhi", "200 [hi] kept"),
        ("GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", "200 [hi] kept"),
        ("GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n", "200 [hi!AppReset]"),
        ("GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhix\r\n", "200 [hi!ProtocolError]"),
        ("GET", b"HTTP/1.1 200 OK\r\n\r\nhi", "200 [hi]"),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", "204 [] kept"),
        ("GET", b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", "204 [] kept"),
        ("GET", b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\n", "204 []"),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\nhi", "204 []"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", "304 [] kept"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", "200 [] kept"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "200 [] kept"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "200 []"),
        ("GET", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "100 200 [] kept"),
        ("GET", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 204 x\r\n\r\n", "103 204 [] kept"),
        ("GET", b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "!ProtocolError switched protocols unasked"),
        ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n", "!ProtocolError Content-Length beside Transfer-Encoding"),
        ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nhi", "!ProtocolError two Content-Lengths"),
        ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nhi", "!ProtocolError Content-Length"),
        ("GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", "!ProtocolError Transfer-Encoding is not chunked"),
        ("GET", b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "!ProtocolError Transfer-Encoding on HTTP/1.0"),
        ("GET", b"HTTP/1.1 200 OK\nContent-Length: 2\n\nhi", "!ProtocolError a line does not end in CRLF"),
        ("GET", b"HTTP/1.1 200 OK\r\nX : y\r\n\r\n", "!ProtocolError space in a field name"),
        ("GET", b"HTTP/1.1 200 OK\r\nX: y\r\n z\r\n\r\n", "!ProtocolError folded line"),
        ("GET", b"HTTP/1.1 20 OK\r\n\r\n", "!ProtocolError status is not three digits"),
        ("GET", b"HTTP/1.1 2000 OK\r\n\r\n", "!ProtocolError reason phrase"),
        ("GET", b"HTTP/2 200 OK\r\n\r\n", "!ProtocolError version"),
        ("GET", b"ICY 200 OK\r\n\r\n", "!ProtocolError version"),
        ("GET", b"\r\nHTTP/1.1 200 OK\r\n\r\n", "!ProtocolError the head does not begin with a token"),
    ];
    run(async {
        for (method, answer, wanted) in table {
            assert_eq!(ask(&request(method), answer).await, *wanted, "{}", String::from_utf8_lossy(answer));
        }
        let many = format!("{}HTTP/1.1 204 x\r\n\r\n", "HTTP/1.1 102 x\r\n\r\n".repeat(100));
        assert!(ask(&request("GET"), many.as_bytes()).await.ends_with("!ProtocolError too many interim answers"));
        let large = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "y".repeat(70_000));
        assert_eq!(ask(&request("GET"), large.as_bytes()).await, "!ProtocolError head too large");
    });
}

#[test]
fn an_upgrade_that_was_asked_for_becomes_a_tunnel() {
    run(async {
        let mut head = request("GET");
        head.headers.push(b"Upgrade", b"websocket");
        let answer = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x00";
        assert_eq!(ask(&head, answer).await, "101 tunnel");
        assert_eq!(ask(&head, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno").await, "200 [no] kept");
    });
}

#[test]
fn what_a_failed_exchange_knows() {
    run(async {
        let (ours, mut theirs) = tokio::io::duplex(1 << 20);
        let client = Client::new(Io::Memory(ours), None);
        let body = Body::Full(Bytes::from_static(b"body"));
        let (interim, head) = (Interim::default(), request("POST"));
        let asking = client.exchange(&head, body, &interim, Box::new(Rc::<Shelf>::default()));
        let closing = async {
            let mut sent = [0; 1024];
            let n = theirs.read(&mut sent).await.unwrap();
            drop(theirs);
            String::from_utf8_lossy(&sent[..n]).into_owned()
        };
        let (outcome, sent) = tokio::join!(asking, closing);
        assert_eq!(sent, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody");
        let Err(error) = outcome else { panic!("answered") };
        assert_eq!(error.reason, Reason::ResetBeforeResponse);
        assert!(error.written && !error.answered && !error.never_processed);
        let mut again = error.body.expect("all of it is still here");
        assert_eq!(again.length(), Some(4));
        assert_eq!(again.data().await.unwrap().unwrap(), "body");
    });
}

#[tokio::test]
async fn a_connection_that_was_closed_or_speaks_unasked_is_not_alive() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    for word in [&b""[..], b"HTTP/1.1 408 Request Timeout\r\n\r\n"] {
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let (mut theirs, _) = listener.accept().await.unwrap();
        let mut client = Client::new(Io::Tcp(stream), None);
        assert!(client.is_idle_alive());
        theirs.write_all(word).await.unwrap();
        drop(theirs);
        poll_fn(|cx| client.poll_idle_end(cx)).await;
        assert!(!client.is_idle_alive());
    }
}

#[test]
fn an_early_answer_is_passed_on_and_the_connection_is_not_used_again() {
    run(async {
        let (ours, mut theirs) = tokio::io::duplex(1024);
        theirs.write_all(b"HTTP/1.1 413 x\r\nContent-Length: 2\r\n\r\nno").await.unwrap();
        let shelf = Rc::new(Shelf::default());
        let (interim, head) = (Interim::default(), request("POST"));
        let body = Body::Full(Bytes::from(vec![b'x'; 100_000]));
        let client = Client::new(Io::Memory(ours), None);
        let answered = client.exchange(&head, body, &interim, Box::new(Rc::clone(&shelf))).await;
        let Ok(mut answered) = answered else { panic!("not answered") };
        assert_eq!(answered.body.data().await.unwrap().unwrap(), "no");
        assert!(answered.body.data().await.is_none());
        assert!(shelf.0.borrow().is_empty());
    });
}

#[test]
fn a_server_says_how_long_it_waits() {
    run(async {
        let (ours, mut theirs) = tokio::io::duplex(1024);
        theirs.write_all(b"HTTP/1.1 204 x\r\nKeep-Alive: max=9, timeout=5\r\n\r\n").await.unwrap();
        let shelf = Rc::new(Shelf::default());
        let (interim, head) = (Interim::default(), request("GET"));
        let client = Client::new(Io::Memory(ours), None);
        assert!(client.exchange(&head, Body::Empty, &interim, Box::new(Rc::clone(&shelf))).await.is_ok());
        assert_eq!(shelf.0.borrow()[0].idle_hint(), Some(Duration::from_secs(5)));
    });
}

/// Forwards each request over a connection of its own to an upstream in the same process.
struct Relay<U>(Rc<U>, Cell<u64>);

impl<U: Service + 'static> Service for Relay<U> {
    type Log = Ends;

    async fn call<'c>(&'c self, request: Request<'c>) -> Response<'c, Ends> {
        let (ours, theirs) = tokio::io::duplex(32 * 1024);
        let upstream = Rc::clone(&self.0);
        tokio::task::spawn_local(async move {
            serve(Stream::from(Io::Memory(theirs)), &ServerSettings::default(), &*upstream, pending()).await;
        });
        let client = Client::new(Io::Memory(ours), None);
        let answered =
            client.exchange(&request.head, request.body, request.interim, Box::new(Rc::<Shelf>::default())).await;
        self.1.set(self.1.get() + 1);
        let log = Ends(Rc::default());
        match answered {
            Ok(answered) => Response { head: answered.head, body: answered.body, tunnel: None, log },
            Err(_) => Response { head: answer_head(502), body: Body::Empty, tunnel: None, log },
        }
    }

    fn refused(&self, _: Reason) -> ResponseHead {
        answer_head(500)
    }
}

/// Sends the request's body back while it arrives.
struct Mirror;

impl Service for Mirror {
    type Log = Ends;

    async fn call<'c>(&'c self, request: Request<'c>) -> Response<'c, Ends> {
        Response { head: answer_head(200), body: request.body, tunnel: None, log: Ends(Rc::default()) }
    }

    fn refused(&self, _: Reason) -> ResponseHead {
        answer_head(500)
    }
}

#[test]
fn a_large_body_passes_both_ways_at_once() {
    run(async {
        let relay = Relay(Rc::new(Mirror), Cell::new(0));
        let body = vec![b'x'; 8 << 20];
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
        let (ours, theirs) = tokio::io::duplex(32 * 1024);
        let settings = ServerSettings::default();
        let serving = serve(Stream::from(Io::Memory(ours)), &settings, &relay, pending());
        let (mut read, mut write) = tokio::io::split(theirs);
        let writing = async {
            write.write_all(head.as_bytes()).await.unwrap();
            write.write_all(&body).await.unwrap();
            write.shutdown().await.unwrap();
        };
        let reading = async {
            let mut answer = Vec::new();
            read.read_to_end(&mut answer).await.unwrap();
            answer
        };
        let (_, (), answer) = tokio::join!(serving, writing, reading);
        let wanted = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        assert!(answer.starts_with(wanted.as_bytes()));
        assert_eq!(answer.len(), wanted.len() + body.len());
    });
}

#[test]
fn a_reader_that_stands_still_stops_the_writer() {
    run(async {
        let relay = Relay(Rc::new(Mirror), Cell::new(0));
        let (ours, mut theirs) = tokio::io::duplex(32 * 1024);
        let settings = ServerSettings::default();
        let serving = serve(Stream::from(Io::Memory(ours)), &settings, &relay, pending());
        let writing = async {
            theirs.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n").await.unwrap();
            let (mut taken, mut full) = (0, 0);
            while full < 100 {
                let mut writing = pin!(theirs.write(&[b'x'; 4096]));
                match poll_fn(|cx| Poll::Ready(writing.as_mut().poll(cx))).await {
                    Poll::Ready(n) => taken += n.unwrap(),
                    Poll::Pending => {
                        full += 1;
                        tokio::task::yield_now().await;
                    }
                }
            }
            taken
        };
        let taken = tokio::select! { _ = serving => unreachable!("the client is there"), taken = writing => taken };
        // Pipes of 32 KiB at three places, what is encoded twice, what is read ahead, what may be sent again.
        assert!(taken < 512 * 1024, "{taken}");
    });
}

#[test]
fn chunks_and_trailers_pass_through_a_relay() {
    run(async {
        let relay = Relay(Rc::new(Mirror), Cell::new(0));
        let raw = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n3\r\ncde\r\n0\r\nX-Sum: 5\r\n\r\n";
        let answer = String::from_utf8(exchange(&relay, &[&raw[..70], &raw[70..]]).await).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"), "{answer}");
        assert!(answer.ends_with("0\r\nX-Sum: 5\r\n\r\n"), "{answer}");
    });
}

#[test]
fn a_cut_request_never_becomes_a_whole_one() {
    run(async {
        let echo = Rc::new(super::Echo::default());
        let relay = Relay(Rc::clone(&echo), Cell::new(0));
        let raw = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n";
        exchange(&relay, &[raw]).await;
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert!(echo.seen.borrow().iter().all(|seen| seen.contains("!ClientGone")), "{:?}", echo.seen.borrow());
        assert_eq!(relay.1.get(), 1);
    });
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Upstream {
    ClosesWhileIdle,
    ReadsAndCloses,
}

/// What is proven about a request, and how much of its body can be sent again.
async fn fate(upstream: Upstream) -> (bool, Option<u64>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let client = Client::new(Io::Tcp(stream), None);
    let (mut theirs, _) = listener.accept().unwrap();
    let serving = match upstream {
        Upstream::ClosesWhileIdle => {
            drop(theirs);
            None
        }
        Upstream::ReadsAndCloses => Some(std::thread::spawn(move || theirs.read(&mut [0; 1024]).unwrap())),
    };
    let (interim, head) = (Interim::default(), request("POST"));
    let body = Body::Full(Bytes::from_static(b"body"));
    let outcome = client.exchange(&head, body, &interim, Box::new(Rc::<Shelf>::default())).await;
    if let Some(serving) = serving {
        assert!(serving.join().unwrap() > 0);
    }
    let Err(error) = outcome else { panic!("answered") };
    (error.never_processed, error.body.and_then(|body| body.length()))
}

#[tokio::test]
async fn only_a_close_before_any_acknowledged_byte_proves_that_nothing_was_processed() {
    assert_eq!(fate(Upstream::ClosesWhileIdle).await, (true, Some(4)));
    assert_eq!(fate(Upstream::ReadsAndCloses).await, (false, Some(4)));
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TlsUpstream {
    ClosesWhileIdle,
    /// Without a word in TLS: anybody on the way could do that.
    BreaksWhileIdle,
    ReadsAndCloses,
}

/// `fate` over TLS, where the kernel counts other bytes than were written.
async fn fate_over_tls(upstream: TlsUpstream) -> bool {
    let mesh = ca::Ca::new("mesh.test");
    let (near, far) = (mesh.tls("web", ca::Leaf::Good), mesh.tls("orders", ca::Leaf::Good));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (theirs, _) = listener.accept().await.unwrap();
    let expected = mesh.id("orders");
    let (ours, theirs) = tokio::join!(near.connect(stream, &expected, Alpn::H1), far.accept(theirs, b""));
    let (client, mut theirs) = (Client::new(ours.unwrap().0, None), theirs.unwrap().0);
    match upstream {
        TlsUpstream::ClosesWhileIdle => theirs.shutdown().await.unwrap(),
        TlsUpstream::BreaksWhileIdle | TlsUpstream::ReadsAndCloses => {}
    }
    let serving = async {
        if upstream == TlsUpstream::ReadsAndCloses {
            assert!(theirs.read(&mut [0; 1024]).await.unwrap() > 0);
            theirs.shutdown().await.unwrap();
        }
        drop(theirs);
    };
    // By now our handshake's last word is acknowledged.
    client.tcp().unwrap().readable().await.unwrap();
    let (interim, head) = (Interim::default(), request("POST"));
    let body = Body::Full(Bytes::from_static(b"body"));
    let asking = client.exchange(&head, body, &interim, Box::new(Rc::<Shelf>::default()));
    let (outcome, ()) = match upstream {
        TlsUpstream::ReadsAndCloses => tokio::join!(asking, serving),
        TlsUpstream::ClosesWhileIdle | TlsUpstream::BreaksWhileIdle => {
            serving.await;
            (asking.await, ())
        }
    };
    let Err(error) = outcome else { panic!("answered") };
    error.never_processed
}

#[tokio::test]
async fn over_tls_only_a_close_that_tls_vouches_for_proves_anything() {
    assert!(fate_over_tls(TlsUpstream::ClosesWhileIdle).await);
    assert!(!fate_over_tls(TlsUpstream::BreaksWhileIdle).await);
    assert!(!fate_over_tls(TlsUpstream::ReadsAndCloses).await);
}
