use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;

use super::*;
use crate::http::SendError;
use crate::http::h2::KeepAlive;

#[test]
fn a_body_goes_there_and_back_with_its_length() {
    run(async {
        let mut served = served(&settings());
        let client = served.client().await;
        let sent: Vec<u8> = (0..300_000_u32).map(|i| i as u8).collect();
        let mut head = get("/echo");
        head.headers.push(b"content-length", b"300000");
        let (answer, body) = exchange(&client, &head, Body::Full(sent.clone().into())).await;
        assert_eq!(answer.status, 200);
        assert_eq!(whole(body).await, Ok(sent));
        assert_eq!(client.in_flight(), 0);
        let end = served.app.ends.borrow()[0];
        assert_eq!((end.request_bytes, end.response_bytes, end.cut), (300_000, 300_000, None));
    });
}

#[test]
fn an_answer_cut_short_is_never_a_whole_one() {
    run(async {
        let mut served = served(&settings());
        let client = served.client().await;
        let slot = client.ready().await.expect("open");
        match client.exchange(slot, &get("/cut"), Body::Empty, &Interim::default()).await {
            Ok((_, body)) => assert!(whole(body).await.is_err()),
            Err(SendError { never_processed, .. }) => assert!(!never_processed),
        }
        assert_eq!(served.app.ends.borrow()[0].cut, Some(Reason::BadFraming));
        let (_, body) = exchange(&client, &get("/big"), Body::Empty).await;
        assert_eq!(whole(body).await.map(|all| all.len()), Ok(4 << 20), "the connection lives on");
    });
}

#[test]
fn interim_answers_come_before_the_answer() {
    run(async {
        let mut served = served(&settings());
        let client = served.client().await;
        let slot = client.ready().await.expect("open");
        let interim = Interim::default();
        let Ok((head, body)) = client.exchange(slot, &get("/hint"), Body::Empty, &interim).await else {
            panic!("no answer")
        };
        assert_eq!(interim.take().iter().map(|head| head.status).collect::<Vec<_>>(), [103]);
        assert_eq!(head.status, 200);
        assert_eq!(whole(body).await, Ok(b"after the hint".to_vec()));
    });
}

#[test]
fn a_dropped_exchange_cancels_the_call_and_frees_its_slot() {
    run(async {
        let mut served = served(&settings());
        let client = served.client().await;
        let slot = client.ready().await.expect("open");
        let (head, interim) = (get("/never"), Interim::default());
        let mut never = Box::pin(client.exchange(slot, &head, Body::Empty, &interim));
        poll_fn(|cx| {
            assert!(never.as_mut().poll(cx).is_pending());
            if served.app.running.get() == 1 {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
        drop(never);
        assert_eq!(client.in_flight(), 0);
        while served.app.running.get() > 0 {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn slots_are_as_many_as_the_peer_allows_and_waiting_takes_turns() {
    run(async {
        let mut served = served(&Settings { streams: 2, ..settings() });
        let client = served.client().await;
        let (_, body) = exchange(&client, &get("/echo"), Body::Empty).await;
        drop(body);
        assert_eq!(client.capacity(), 2);
        let first = client.try_slot().expect("free");
        let second = client.try_slot().expect("free");
        assert!(client.try_slot().is_none());
        let waiting = tokio::task::spawn_local({
            let client = client.clone();
            async move { client.ready().await.is_ok() }
        });
        tokio::task::yield_now().await;
        drop(first);
        assert!(waiting.await.expect("no panic"));
        let waiting = tokio::task::spawn_local({
            let client = client.clone();
            async move {
                let _first = client.ready().await;
                client.ready().await.is_ok()
            }
        });
        tokio::task::yield_now().await;
        client.close();
        assert!(!waiting.await.expect("no panic"), "a closed connection lets nobody wait");
        drop(second);
    });
}

#[test]
fn a_large_transfer_marks_the_connection_while_it_lasts() {
    run(async {
        let mut served = served(&settings());
        let client = served.client().await;
        let (_, mut body) = exchange(&client, &get("/big"), Body::Empty).await;
        assert!(!client.is_bulk());
        let mut read = 0;
        while read < 2 << 20 {
            read += body.data().await.expect("more").expect("whole").len();
        }
        assert!(client.is_bulk());
        drop(body);
        assert!(!client.is_bulk());
    });
}

#[test]
fn a_refused_stream_was_never_processed_and_any_other_reset_may_have_been() {
    run(async {
        for (reason, never) in [(::h2::Reason::REFUSED_STREAM, true), (::h2::Reason::INTERNAL_ERROR, false)] {
            let (near, far) = tokio::io::duplex(1 << 16);
            tokio::task::spawn_local(async move {
                let mut server = ::h2::server::handshake(far).await.expect("a handshake");
                while let Some(Ok((_, mut respond))) = server.accept().await {
                    respond.send_reset(reason);
                }
            });
            let client = connect(near, &settings(), &Timers::new()).await;
            let slot = client.ready().await.expect("open");
            let body = Body::Full(Bytes::from_static(b"not taken yet"));
            let Err(error) = client.exchange(slot, &get("/"), body, &Interim::default()).await else {
                panic!("an answer")
            };
            assert_eq!((error.never_processed, error.written, error.answered), (never, true, false), "{reason}");
            assert_eq!(error.reason, Reason::ResetBeforeResponse);
        }
    });
}

/// A server that reads a little and says these frames.
async fn saying(frames: &'static [u8], then_close: bool) -> Client {
    let (near, mut far) = tokio::io::duplex(1 << 16);
    let client = connect(near, &settings(), &Timers::new()).await;
    tokio::task::spawn_local(async move {
        let mut buf = [0; 4096];
        let mut seen = Vec::new();
        // The preface, and a HEADERS frame (type 1, END_STREAM | END_HEADERS) of stream 1.
        while !seen.windows(6).any(|w| w == [1, 5, 0, 0, 0, 1]) {
            let n = far.read(&mut buf).await.expect("reads");
            seen.extend_from_slice(&buf[..n]);
        }
        far.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.expect("settings");
        far.write_all(frames).await.expect("frames");
        if then_close {
            return;
        }
        while far.read(&mut buf).await.is_ok_and(|n| n > 0) {}
    });
    client
}

#[test]
fn a_request_above_a_goaway_was_never_processed() {
    run(async {
        let client = saying(&[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], false).await;
        let slot = client.ready().await.expect("open");
        let Err(error) = client.exchange(slot, &get("/"), Body::Empty, &Interim::default()).await else {
            panic!("an answer")
        };
        assert!(error.never_processed);
        assert!(client.is_closed());
        assert!(client.ready().await.is_err());
    });
}

#[test]
fn a_request_below_a_goaway_may_have_been_processed() {
    run(async {
        let client = saying(&[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0], true).await;
        let slot = client.ready().await.expect("open");
        let Err(error) = client.exchange(slot, &get("/"), Body::Empty, &Interim::default()).await else {
            panic!("an answer")
        };
        assert!(!error.never_processed, "{}", error.detail);
    });
}

#[test]
fn a_request_on_a_lost_connection_may_have_been_processed() {
    run(async {
        let client = saying(&[], true).await;
        let slot = client.ready().await.expect("open");
        let Err(error) = client.exchange(slot, &get("/"), Body::Empty, &Interim::default()).await else {
            panic!("an answer")
        };
        assert!(!error.never_processed, "{}", error.detail);
        assert!(client.is_closed());
    });
}

#[test]
fn what_http_2_cannot_say_is_never_sent() {
    run(async {
        let mut served = served(&settings());
        let client = served.client().await;
        let connect = RequestHead { method: "CONNECT".into(), target: "".into(), ..get("/") };
        for head in [connect, get("/a#b"), get("not a path")] {
            let slot = client.ready().await.expect("open");
            let Err(error) = client.exchange(slot, &head, Body::Empty, &Interim::default()).await else {
                panic!("an answer to {head:?}")
            };
            assert!(error.never_processed && !error.written && error.body.is_some());
        }
        assert_eq!(served.app.calls.get(), 0);
    });
}

#[test]
fn a_peer_that_answers_no_ping_is_gone() {
    run_paused(async {
        let (near, far) = tokio::io::duplex(1 << 16);
        let timers = Timers::new();
        let every = KeepAlive { interval: Duration::from_millis(10), timeout: Duration::from_millis(20) };
        let settings = Settings { keep_alive: Some(every), ..settings() };
        let client = connect(near, &settings, &timers).await;
        let slot = client.ready().await.expect("open");
        let sent = client.exchange(slot, &get("/"), Body::Empty, &Interim::default()).await;
        assert!(sent.is_err());
        assert!(client.is_closed());
        drop(far);
    });
}

#[test]
fn closing_waits_for_what_is_in_flight() {
    run(async {
        let mut served = served(&settings());
        let client = served.client().await;
        let (_, body) = exchange(&client, &get("/big"), Body::Empty).await;
        client.close();
        assert!(client.is_closed());
        drop(client);
        assert_eq!(whole(body).await.map(|all| all.len()), Ok(4 << 20));
        assert_eq!(served.done.await.expect("no panic"), Ok(()));
    });
}
