//! How connections end, and what their ends prove: a request that nobody has looked at must be known for one, however the
//! other end went.

use std::io;
use std::io::Read;
use std::io::Write;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;

use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::io::ReadBuf;
use tokio::task::yield_now;

use super::*;
use crate::http::SendError;
use crate::http::head::ResponseHead;

/// SETTINGS with nothing in it.
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
/// HEADERS of stream 1: `:status: 200`, and no body.
const ANSWER: &[u8] = &[0, 0, 1, 1, 5, 0, 0, 0, 1, 0x88];

fn goaway(last: u8) -> [u8; 17] {
    [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, last, 0, 0, 0, 0]
}

/// The preface, SETTINGS, and a GET of /never on stream 1.
fn asking() -> Vec<u8> {
    let block = [&[0x82, 0x86, 0x01, 1, b'a', 0x04, 6][..], b"/never"].concat();
    let head = [0, 0, block.len() as u8, 1, 5, 0, 0, 0, 1];
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", SETTINGS, &head[..], &block].concat()
}

async fn ask<'c>(client: &Client, body: Body<'c>) -> Result<(ResponseHead, Body<'c>), SendError<'c>> {
    let slot = client.ready().await.expect("open");
    client.exchange(slot, &get("/"), body, &Interim::default()).await
}

async fn failed(client: &Client) -> SendError<'static> {
    ask(client, Body::Empty).await.map(|(head, _)| head.status).expect_err("no answer")
}

/// Once the client has said so many bytes.
async fn until_heard(far: &mut std::net::TcpStream, bytes: usize) {
    let mut heard = vec![0; bytes];
    let mut at = 0;
    while at < bytes {
        match far.read(&mut heard[at..]) {
            Ok(n) => at += n,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => yield_now().await,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn a_goaway_counts_though_a_reset_comes_behind_it() {
    run(async {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let near = tokio::net::TcpStream::connect(listener.local_addr().expect("bound")).await.expect("connects");
        let (mut far, _) = listener.accept().expect("accepts");
        far.set_nonblocking(true).expect("a socket");
        let client = connect(near, &settings(), &Timers::new()).await;
        let server = async {
            // Not all of it: closing over unread bytes resets the connection. All in one turn, so that the client sees the
            // reset no later than the words before it.
            until_heard(&mut far, 24).await;
            far.write_all(&[SETTINGS, &goaway(0)].concat()).expect("room");
            drop(far);
        };
        let (error, ()) = tokio::join!(failed(&client), server);
        assert!(error.never_processed, "{}", error.detail);
    });
}

/// Takes no more once it is broken, though what came before can still be read.
struct Deaf {
    io: DuplexStream,
    broken: Rc<Cell<bool>>,
}

impl AsyncRead for Deaf {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Deaf {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.broken.get() {
            true => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            false => Pin::new(&mut self.io).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// A client with a request under way on stream 1, that the other end has read; its stream breaks for writing when told.
async fn deaf() -> (Client, DuplexStream, Rc<Cell<bool>>) {
    let (near, far) = tokio::io::duplex(1 << 16);
    let broken = Rc::new(Cell::new(false));
    let client = connect(Deaf { io: near, broken: Rc::clone(&broken) }, &settings(), &Timers::new()).await;
    (client, far, broken)
}

#[test]
fn words_that_came_before_a_failed_write_are_heard() {
    run(async {
        let (client, mut far, broken) = deaf().await;
        let peer = async {
            let mut preface = [0; 24];
            far.read_exact(&mut preface).await.expect("a preface");
            broken.set(true);
            far.write_all(&[SETTINGS, ANSWER, &goaway(1)].concat()).await.expect("room");
            drop(far);
            // In the same turn: the write fails before anybody has read.
            failed(&client).await
        };
        let (answered, late) = tokio::join!(ask(&client, Body::Empty), peer);
        assert_eq!(answered.map(|(head, _)| head.status).map_err(|error| error.detail), Ok(200));
        assert!(late.never_processed, "{}", late.detail);
    });
}

#[test]
fn a_request_that_never_left_was_never_processed() {
    run(async {
        let (client, mut far, broken) = deaf().await;
        let peer = async {
            let mut preface = [0; 24];
            far.read_exact(&mut preface).await.expect("a preface");
            far.write_all(SETTINGS).await.expect("room");
            broken.set(true);
            drop(far);
            failed(&client).await
        };
        let (early, late) = tokio::join!(failed(&client), peer);
        assert!(!early.never_processed, "{}", early.detail);
        assert!(late.never_processed, "{}", late.detail);
    });
}

#[test]
fn a_server_that_is_cut_says_what_it_has_not_looked_at() {
    run(async {
        let mut served = served(&settings());
        let mut io = served.io.take().expect("unused");
        io.write_all(&asking()).await.expect("room");
        while served.app.calls.get() == 0 {
            yield_now().await;
        }
        served.done.abort();
        assert!(served.done.await.is_err_and(|error| error.is_cancelled()));
        let mut said = Vec::new();
        io.read_to_end(&mut said).await.expect("an end");
        assert!(said.windows(17).any(|frame| frame == goaway(1)), "{said:?}");
    });
}

#[test]
fn a_server_whose_worker_ends_says_what_it_has_not_looked_at() {
    let (mut client, far) = tokio::io::duplex(1 << 16);
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (worker, local) = (runtime(), tokio::task::LocalSet::new());
    local.block_on(&worker, async {
        let (timers, app) = (Timers::new(), Rc::new(App::default()));
        let serving = Rc::clone(&app);
        tokio::task::spawn_local(
            async move { serve(far, &settings(), serving, &timers, std::future::pending()).await },
        );
        client.write_all(&asking()).await.expect("room");
        while app.calls.get() == 0 {
            yield_now().await;
        }
    });
    drop((local, worker));
    let mut said = Vec::new();
    runtime().block_on(client.read_to_end(&mut said)).expect("an end");
    assert!(said.windows(17).any(|frame| frame == goaway(1)), "{said:?}");
}

#[test]
fn a_server_that_has_ended_well_listens_until_the_peer_has_too() {
    run(async {
        let mut served = served(&settings());
        let mut io = served.io.take().expect("unused");
        io.write_all(&[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", SETTINGS, &goaway(0)].concat()).await.expect("room");
        let mut said = Vec::new();
        io.read_to_end(&mut said).await.expect("an end");
        assert!(!served.done.is_finished());
        for _ in 0..3 {
            io.write_all(&[0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]).await.expect("somebody reads it");
            yield_now().await;
        }
        drop(io);
        assert_eq!(served.done.await.expect("no panic"), Ok(()));
    });
}

#[test]
fn a_small_body_that_was_sent_in_vain_can_be_sent_again() {
    run(async {
        for (size, again) in [(4, true), (60_000, true), (70_000, false)] {
            let (near, mut far) = tokio::io::duplex(1 << 20);
            let client = connect(near, &settings(), &Timers::new()).await;
            let sent = Bytes::from(vec![b'x'; size]);
            let peer = async {
                let mut heard = vec![0; size.min(60_000)];
                far.read_exact(&mut heard).await.expect("most of the body");
                far.write_all(&[SETTINGS, &goaway(0)].concat()).await.expect("room");
                std::future::pending::<()>().await;
            };
            let error = tokio::select! {
                sent = ask(&client, Body::Full(sent.clone())) => sent.map(|(head, _)| head.status).expect_err("no answer"),
                () = peer => unreachable!(),
            };
            assert!(error.never_processed, "{}", error.detail);
            let body = match error.body {
                Some(body) => Some(whole(body).await.expect("whole")),
                None => None,
            };
            assert_eq!(body.is_some_and(|body| body == sent), again, "{size}");
        }
    });
}
