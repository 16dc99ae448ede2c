//! A client's connection, from the answers' side.

use std::cell::Cell;
use std::future::pending;
use std::future::ready;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use bytes::BytesMut;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::io::DuplexStream;

use crate::error::Reason;
use crate::http::Interim;
use crate::http::Request;
use crate::http::Response;
use crate::http::Service;
use crate::http::Tunnel;
use crate::http::body::Body;
use crate::http::h1::Served;
use crate::http::h1::ServerSettings;
use crate::http::h1::Stream;
use crate::http::h1::serve;
use crate::http::h1::tests::Echo;
use crate::http::h1::tests::Ends;
use crate::http::h1::tests::answer_head;
use crate::http::h1::tests::exchange;
use crate::http::h1::tests::outcome;
use crate::http::h1::tests::run;
use crate::http::head::ResponseHead;
use crate::net::Io;

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// Answers by a function, without reading the request's body.
struct By<F>(F);

impl<F: Fn(&Interim) -> Response<'static, Ends>> Service for By<F> {
    type Log = Ends;

    async fn call<'c>(&'c self, request: Request<'c>) -> Response<'c, Ends> {
        (self.0)(request.interim)
    }

    fn refused(&self, _: Reason) -> ResponseHead {
        answer_head(500)
    }
}

/// Never answers; says when it was dropped.
struct Silent(Rc<Cell<bool>>);

struct OnDrop(Rc<Cell<bool>>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.set(true);
    }
}

impl Service for Silent {
    type Log = Ends;

    async fn call<'c>(&'c self, _: Request<'c>) -> Response<'c, Ends> {
        let _dropped = OnDrop(Rc::clone(&self.0));
        pending().await
    }

    fn refused(&self, _: Reason) -> ResponseHead {
        answer_head(500)
    }
}

fn log() -> Ends {
    Ends(Rc::default())
}

fn plain(head: ResponseHead, body: Body<'static>) -> Response<'static, Ends> {
    Response { head, body, tunnel: None, log: log() }
}

async fn text<S: Service>(service: &S, pieces: &[&[u8]]) -> String {
    String::from_utf8(exchange(service, pieces).await).unwrap()
}

#[test]
fn an_answer_says_its_length() {
    run(async {
        let service = By(|_: &Interim| plain(answer_head(200), Body::Full(Bytes::from_static(b"hi"))));
        assert_eq!(text(&service, &[GET]).await, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi");
        let service = By(|_: &Interim| plain(answer_head(404), Body::Empty));
        assert_eq!(text(&service, &[GET]).await, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
    });
}

#[test]
fn case_order_and_phrase_of_an_answer_survive() {
    run(async {
        let service = By(|_: &Interim| {
            let mut head = answer_head(200);
            head.reason_phrase = b"Fine, thanks".to_vec();
            head.headers.push(b"x-LOWER", b"1");
            head.headers.push(b"CONTENT-length", b"2");
            head.headers.push(b"Set-Cookie", b"a");
            head.headers.push(b"Set-Cookie", b"b");
            plain(head, Body::Full(Bytes::from_static(b"hi")))
        });
        assert_eq!(
            text(&service, &[GET]).await,
            "HTTP/1.1 200 Fine, thanks\r\nx-LOWER: 1\r\nCONTENT-length: 2\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n\r\nhi"
        );
    });
}

#[test]
fn an_answer_without_a_body_keeps_the_length_that_it_speaks_of() {
    run(async {
        for (method, status, wanted) in [
            ("HEAD", 200, "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n"),
            ("GET", 304, "HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n"),
            ("GET", 204, "HTTP/1.1 204 No Content\r\n\r\n"),
        ] {
            let service = By(|_: &Interim| {
                let mut head = answer_head(status);
                head.headers.push(b"Content-Length", b"7");
                plain(head, Body::Full(Bytes::from_static(b"ignored")))
            });
            let raw = format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!(text(&service, &[raw.as_bytes()]).await, wanted, "{method} {status}");
        }
    });
}

#[test]
fn interim_answers_come_first_and_not_to_old_clients() {
    run(async {
        let service = By(|interim: &Interim| {
            interim.push(answer_head(100));
            let mut hints = answer_head(103);
            hints.headers.push(b"Link", b"</a>");
            interim.push(hints);
            plain(answer_head(200), Body::Empty)
        });
        assert_eq!(
            text(&service, &[GET]).await,
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n\
             HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
        );
        let old = text(&service, &[b"GET / HTTP/1.0\r\n\r\n"]).await;
        assert_eq!(old, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    });
}

#[test]
fn an_early_answer_passes_over_a_short_rest_and_ends_before_a_long_one() {
    run(async {
        let service = By(|_: &Interim| plain(answer_head(200), Body::Empty));
        let short = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody";
        assert_eq!(text(&service, &[short, GET]).await.matches("200 OK").count(), 2);
        let long = [&b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 999999\r\n\r\n"[..], &[b'x'; 300_000]].concat();
        assert_eq!(text(&service, &[&long, GET]).await.matches("200 OK").count(), 1);
    });
}

#[test]
fn a_client_that_was_not_told_to_continue_is_told_to_go() {
    run(async {
        let service = By(|_: &Interim| plain(answer_head(403), Body::Empty));
        let raw = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n";
        let answer = text(&service, &[raw]).await;
        assert_eq!(answer, "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    });
}

#[test]
fn a_fin_after_the_request_still_gets_the_answer() {
    run(async {
        let (found, answers) = outcome(&[GET]).await;
        assert_eq!(found, "GET a /");
        assert!(answers.ends_with(b"ok"));
    });
}

#[test]
fn limits_hold() {
    run(async {
        let head = |filler: String| format!("GET / HTTP/1.1\r\nHost: a\r\n{filler}\r\n");
        let fields = |count: usize| (0..count).map(|n| format!("X-{n}: y\r\n")).collect::<String>();
        let cases = [
            (head(fields(99)), "GET a /"),
            (head(fields(100)), "431"),
            (head(format!("X: {}\r\n", "y".repeat(60_000))), "GET a /"),
            (head(format!("X: {}\r\n", "y".repeat(66_000))), "431"),
            (format!("X: {}", "y".repeat(200_000)), "431"),
            (head(format!("{}: y\r\n", "x".repeat(2_000))), "431"),
            (format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "y".repeat(17_000)), "414"),
            (head(format!("Connection: {}\r\n", vec!["x"; 100].join(","))), "431"),
        ];
        for (raw, wanted) in cases {
            assert_eq!(outcome(&[raw.as_bytes()]).await.0, wanted, "{:.60}", raw);
        }
        let chunks = |rest: String| format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{rest}");
        let cut = "POST a / [!BadFraming]";
        assert_eq!(outcome(&[chunks(format!("1;{}\r\na\r\n0\r\n\r\n", "e".repeat(2_000))).as_bytes()]).await.0, cut);
        let many = format!("{}0\r\n\r\n", format!("1;{}\r\na\r\n", "e".repeat(99)).repeat(11));
        assert!(outcome(&[chunks(many).as_bytes()]).await.0.contains("aaaaaaaaaa!BadFraming"));
        assert_eq!(outcome(&[chunks(format!("0\r\nX: {}\r\n\r\n", "y".repeat(9_000))).as_bytes()]).await.0, cut);
        assert_eq!(outcome(&[chunks(format!("0\r\n{}\r\n", fields(101))).as_bytes()]).await.0, cut);
    });
}

#[test]
fn a_thousand_pipelined_requests_are_answered_in_order() {
    run(async {
        let raw: String = (0..1000).map(|n| format!("GET /{n} HTTP/1.1\r\nHost: a\r\n\r\n")).collect();
        let (found, answers) = outcome(&[raw.as_bytes()]).await;
        let wanted: Vec<String> = (0..1000).map(|n| format!("GET a /{n}")).collect();
        assert_eq!(found, wanted.join(" | "));
        assert_eq!(String::from_utf8(answers).unwrap().matches("200 OK").count(), 1000);
    });
}

fn settings() -> ServerSettings {
    ServerSettings::default()
}

fn pair() -> (Stream, DuplexStream) {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    (Stream::from(Io::Memory(ours)), theirs)
}

#[tokio::test(start_paused = true)]
async fn a_head_has_ten_seconds_in_all() {
    let (stream, mut client) = pair();
    let (settings, echo) = (settings(), Echo::default());
    let speaking = async {
        // Half of what a head is made of, one byte a second.
        for byte in b"GET / HTTP/1.1\r\nX: y" {
            if client.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let begun = tokio::time::Instant::now();
    let (_, answer) = tokio::join!(serve(stream, &settings, &echo, pending()), speaking);
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert_eq!(*echo.refused.borrow(), Some(Reason::HeaderTimeout));
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_closed_without_a_word() {
    let (stream, mut client) = pair();
    let (settings, echo) = (settings(), Echo::default());
    client.write_all(GET).await.unwrap();
    let begun = tokio::time::Instant::now();
    serve(stream, &settings, &echo, pending()).await;
    assert!(begun.elapsed() >= settings.idle_timeout);
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer.matches("HTTP/1.1").count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_stands_still_fails_for_its_reader() {
    let (stream, mut client) = pair();
    let (settings, echo) = (settings(), Echo::default());
    client.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc").await.unwrap();
    serve(stream, &settings, &echo, pending()).await;
    assert_eq!(echo.seen.into_inner(), ["POST a / [abc!BodyIdle]"]);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_waits_to_be_told_to_continue_is_not_slow() {
    let (stream, mut client) = pair();
    let (settings, echo) = (settings(), Echo::default());
    let speaking = async {
        client
            .write_all(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_secs(90)).await;
        client.write_all(b"abc").await.unwrap();
        client.shutdown().await.unwrap();
    };
    tokio::join!(serve(stream, &settings, &echo, pending()), speaking);
    assert_eq!(echo.seen.into_inner(), ["POST a / [abc]"]);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_nothing_is_given_up() {
    let (stream, mut client) = pair();
    let settings = settings();
    let service = By(|_: &Interim| plain(answer_head(200), Body::Full(Bytes::from(vec![0; 1 << 20]))));
    client.write_all(GET).await.unwrap();
    let begun = tokio::time::Instant::now();
    serve(stream, &settings, &service, pending()).await;
    assert_eq!(begun.elapsed().as_secs(), settings.write_timeout.as_secs());
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_an_idle_connection_and_marks_the_last_answer() {
    let (stream, mut client) = pair();
    let (settings, echo) = (settings(), Echo::default());
    serve(stream, &settings, &echo, ready(())).await;
    assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0);

    let (stream, mut client) = pair();
    client.write_all(GET).await.unwrap();
    client.write_all(GET).await.unwrap();
    serve(stream, &settings, &echo, ready(())).await;
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
}

#[tokio::test(start_paused = true)]
async fn only_a_client_that_may_still_speak_is_heard_out() {
    for (asked, unread, heard_out) in
        [("close", "", false), ("close", "\r\n", true), ("close", "GET", true), ("keep-alive", "", true)]
    {
        let (stream, mut client) = pair();
        let service = By(|_: &Interim| plain(answer_head(200), Body::Full(Bytes::from_static(b"ok"))));
        let request = format!("GET / HTTP/1.0\r\nConnection: {asked}\r\n\r\n{unread}");
        client.write_all(request.as_bytes()).await.unwrap();
        let begun = tokio::time::Instant::now();
        serve(stream, &settings(), &service, ready(())).await;
        assert_eq!(begun.elapsed() > Duration::ZERO, heard_out, "{asked} {unread:?}");
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with("ok"), "{answer}");
    }
}

#[tokio::test]
async fn the_last_answer_arrives_whole_before_the_close() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    for length in [0, 2, 10_000, 1 << 20] {
        let mut client = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let service = By(|_: &Interim| plain(answer_head(200), Body::Full(Bytes::from(vec![b'x'; length]))));
        let exchange = async {
            client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.unwrap();
            answer
        };
        let settings = settings();
        let serving = serve(Stream::from(Io::Tcp(stream)), &settings, &service, pending());
        let (_, answer) = tokio::join!(serving, exchange);
        let head = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
        assert_eq!(answer.len() - head, length);
    }
}

#[test]
fn a_connection_at_rest_costs_little_beyond_its_socket() {
    let (stream, _client) = pair();
    let (settings, echo) = (settings(), Echo::default());
    let size = size_of_val(&serve(stream, &settings, &echo, pending()));
    assert!(size < 4096, "{size}");
}

#[tokio::test]
async fn a_reset_cancels_the_request() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let dropped = Rc::new(Cell::new(false));
    let (settings, service) = (settings(), Silent(Rc::clone(&dropped)));
    client.write_all(GET).await.unwrap();
    client.set_zero_linger().unwrap();
    let serving = serve(Stream::from(Io::Tcp(stream)), &settings, &service, pending());
    let resetting = async {
        tokio::task::yield_now().await;
        drop(client);
    };
    tokio::join!(serving, resetting);
    assert!(dropped.get());
}

#[tokio::test]
async fn a_tunnel_is_handed_over_with_what_was_read() {
    let (stream, mut client) = pair();
    let settings = settings();
    let service = By(|_: &Interim| {
        let mut head = answer_head(101);
        head.headers.push(b"Upgrade", b"websocket");
        let (io, _) = tokio::io::duplex(64);
        let tunnel = Tunnel { io: Io::Memory(io), read: BytesMut::from(&b"hello"[..]), guard: None, idle: None };
        Response { head, body: Body::Empty, tunnel: Some(Box::new(tunnel)), log: log() }
    });
    let raw = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x00";
    client.write_all(raw).await.unwrap();
    let served = serve(stream, &settings, &service, pending()).await;
    let Served::Tunnel { client: half, upstream, .. } = served else { panic!("no tunnel") };
    assert_eq!(half.read, &b"\x81\x00"[..]);
    assert_eq!(upstream.read, &b"hello"[..]);
    drop(half);
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
}
