use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use ::h2::client::SendRequest;
use ::http::HeaderMap;
use tokio::io::AsyncRead;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWrite;
use tokio::io::AsyncWriteExt;

use super::*;
use crate::http::h2::batch::tests::Counted;

/// The h2 crate's own client, for what ours would not do.
async fn raw<T: AsyncRead + AsyncWrite + Unpin + 'static>(io: T) -> SendRequest<Bytes> {
    let (send, connection) = ::h2::client::Builder::new()
        .initial_window_size(1 << 20)
        .initial_connection_window_size(64 << 20)
        .initial_max_send_streams(1000)
        .handshake(io)
        .await
        .expect("a handshake");
    tokio::task::spawn_local(async move {
        // How it ends is the server's to say.
        let _ = connection.await;
    });
    send
}

fn to(path: &str) -> ::http::Request<()> {
    ::http::Request::builder()
        .uri(format!("http://web.test{path}"))
        .version(::http::Version::HTTP_2)
        .body(())
        .expect("valid")
}

#[test]
fn thirty_two_ready_answers_leave_in_three_writes() {
    run(async {
        let (near, far) = tokio::io::duplex(1 << 20);
        let writes = Rc::new(Cell::new(0));
        let far = Counted { io: far, writes: Rc::clone(&writes) };
        let (timers, app) = (Timers::new(), Rc::new(App::default()));
        let service = Rc::clone(&app);
        let server = timers.clone();
        tokio::task::spawn_local(
            async move { serve(far, &settings(), service, &server, std::future::pending()).await },
        );
        let client = connect(near, &settings(), &timers).await;
        let readers: Vec<_> = (0..32)
            .map(|_| {
                let client = client.clone();
                tokio::task::spawn_local(async move {
                    let (_, body) = exchange(&client, &get("/gate"), Body::Empty).await;
                    whole(body).await.map(|all| all.len())
                })
            })
            .collect();
        while app.running.get() < 32 {
            tokio::task::yield_now().await;
        }
        let before = writes.get();
        app.gate.notify_waiters();
        for reader in readers {
            assert_eq!(reader.await.expect("no panic"), Ok(1024));
        }
        let used = writes.get() - before;
        assert!(used <= 3, "{used} writes");
    });
}

#[test]
fn trailers_go_both_ways_without_what_must_not_be_one() {
    run(async {
        let mut served = served(&settings());
        let mut send = raw(served.io.take().expect("unused")).await;
        let (response, mut stream) = send.send_request(to("/echo"), false).expect("sent");
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "5".parse().expect("valid"));
        trailers.insert("content-length", "7".parse().expect("valid"));
        trailers.insert("leno-hop", "forged".parse().expect("valid"));
        stream.send_data(Bytes::from_static(b"body"), false).expect("sent");
        stream.send_trailers(trailers).expect("sent");
        let mut body = response.await.expect("an answer").into_body();
        assert_eq!(body.data().await.expect("data").expect("whole"), "body");
        let trailers = body.trailers().await.expect("whole").expect("trailers");
        assert_eq!(trailers.len(), 1);
        assert_eq!(trailers["grpc-status"], "5");
        assert_eq!(served.app.ends.borrow()[0].grpc_status, Some(5));
    });
}

#[test]
fn a_body_arrives_whole_however_its_frames_are_cut() {
    run(async {
        let sent: Vec<u8> = (0..100_000_u32).map(|at| (at * 7 / 3) as u8).collect();
        for pipe in [100, 1_023, 1_033, 4_096, 16_384, 16_392, 16_393, 16_394, 40_000] {
            let (near, far) = tokio::io::duplex(pipe);
            let (timers, app) = (Timers::new(), Rc::new(App::default()));
            let server = timers.clone();
            tokio::task::spawn_local(
                async move { serve(far, &settings(), app, &server, std::future::pending()).await },
            );
            let client = connect(near, &settings(), &timers).await;
            let (_, body) = exchange(&client, &get("/echo"), Body::Full(sent.clone().into())).await;
            assert!(whole(body).await.as_deref() == Ok(&sent[..]), "through {pipe} bytes");
        }
    });
}

#[test]
fn slow_readers_do_not_hold_up_the_rest() {
    run(async {
        let mut served = served(&settings());
        let client = served.client().await;
        let mut stalled = Vec::new();
        for _ in 0..16 {
            stalled.push(exchange(&client, &get("/big"), Body::Empty).await);
        }
        for _ in 0..200 {
            let (_, body) = exchange(&client, &get("/echo"), Body::Full(Bytes::from(vec![0; 100_000]))).await;
            assert_eq!(whole(body).await.map(|all| all.len()), Ok(100_000));
        }
        for (_, body) in stalled {
            assert_eq!(whole(body).await.map(|all| all.len()), Ok(4 << 20));
        }
    });
}

/// gRPC's way: many streams of many tiny messages, and a reader who takes a look now and then. The size of the field's
/// bug (hyperium/h2#939) with LENO_FULL set.
#[test]
fn many_streams_of_tiny_messages_lose_nothing() {
    let (connections, streams, messages) =
        if std::env::var_os("LENO_FULL").is_some() { (3, 100, 10_000) } else { (1, 40, 1_000) };
    run(async move {
        let mut readers = Vec::new();
        for _ in 0..connections {
            let mut served = served(&settings());
            let send = raw(served.io.take().expect("unused")).await;
            for _ in 0..streams {
                readers.push(tokio::task::spawn_local(tiny_messages(send.clone(), messages)));
            }
        }
        for reader in readers {
            assert_eq!(reader.await.expect("no panic"), messages * 20);
        }
    });
}

async fn tiny_messages(mut send: SendRequest<Bytes>, messages: usize) -> usize {
    poll_fn(|cx| send.poll_ready(cx)).await.expect("open");
    let (response, mut stream) = send.send_request(to("/echo"), false).expect("sent");
    let writer = tokio::task::spawn_local(async move {
        for i in 0..messages {
            stream.reserve_capacity(20);
            while stream.capacity() < 20 {
                poll_fn(|cx| stream.poll_capacity(cx)).await.expect("open").expect("open");
            }
            stream.send_data(Bytes::from_static(&[7; 20]), i + 1 == messages).expect("sent");
        }
    });
    let mut body = response.await.expect("an answer").into_body();
    let mut read = 0;
    while let Some(data) = body.data().await {
        let data = data.expect("whole");
        read += data.len();
        body.flow_control().release_capacity(data.len()).expect("received");
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
    }
    writer.await.expect("no panic");
    read
}

#[test]
fn tiny_messages_that_are_ready_leave_together() {
    run(async {
        let mut served = served(&settings());
        let mut send = raw(served.io.take().expect("unused")).await;
        let (response, mut stream) = send.send_request(to("/echo"), false).expect("sent");
        let (messages, mut frames, mut read) = (1_000, 0, 0);
        stream.reserve_capacity(messages * 20);
        for i in 0..messages {
            stream.send_data(Bytes::from_static(&[7; 20]), i + 1 == messages).expect("sent");
        }
        let mut body = response.await.expect("an answer").into_body();
        while let Some(data) = body.data().await {
            read += data.expect("whole").len();
            frames += 1;
        }
        assert_eq!(read, messages * 20);
        assert!(frames <= 10, "{frames} frames");
    });
}

/// Eight downloads that never want for data, and requests beside them: what is ahead of an answer is bounded.
#[test]
fn small_answers_pass_large_ones() {
    run(async {
        let mut served = served(&settings());
        let client = served.client().await;
        let read = Rc::new(Cell::new(0));
        for _ in 0..8 {
            let (client, read) = (client.clone(), Rc::clone(&read));
            tokio::task::spawn_local(async move {
                loop {
                    let (_, mut body) = exchange(&client, &get("/big"), Body::Empty).await;
                    while let Some(Ok(data)) = body.data().await {
                        read.set(read.get() + data.len());
                    }
                }
            });
        }
        while read.get() < 8 << 20 {
            tokio::task::yield_now().await;
        }
        let mut most = 0;
        for _ in 0..100 {
            let before = read.get();
            let (_, body) = exchange(&client, &get("/echo"), Body::Full(Bytes::from(vec![0; 1024]))).await;
            assert_eq!(whole(body).await.map(|all| all.len()), Ok(1024));
            most = most.max(read.get() - before);
        }
        // The pipe holds 1 MiB, a kernel with TCP_NOTSENT_LOWAT 32 KiB; the rest is BatchIo's 64 KiB and a frame for each.
        assert!(most < 2 << 20, "{most} bytes of others came before one small answer");
    });
}

#[test]
fn requests_reset_as_they_come_end_the_connection() {
    run(async {
        let mut served = served(&Settings { early_resets: 50, ..settings() });
        let send = raw(served.io.take().expect("unused")).await;
        let mut sent = 0;
        for _ in 0..5_000 {
            let mut send = send.clone();
            if poll_fn(|cx| send.poll_ready(cx)).await.is_err() {
                break;
            }
            let Ok((response, mut stream)) = send.send_request(to("/never"), true) else { break };
            // Let the server see the request before its reset.
            for _ in 0..4 {
                tokio::task::yield_now().await;
            }
            stream.send_reset(::h2::Reason::CANCEL);
            drop(response);
            sent += 1;
        }
        assert!(sent < 500, "{sent} resets were taken");
        assert_eq!(served.done.await.expect("no panic"), Err(Reason::H2Abuse));
        assert!(served.app.most_running.get() <= 128);
        while served.app.running.get() > 0 {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn a_bad_host_is_refused_before_the_service_sees_it() {
    run(async {
        let mut served = served(&settings());
        let mut send = raw(served.io.take().expect("unused")).await;
        let mut request = to("/echo");
        request.headers_mut().insert("host", "other.test".parse().expect("valid"));
        let error = send.send_request(request, true).expect("sent").0.await.expect_err("a reset");
        assert_eq!(error.reason(), Some(::h2::Reason::PROTOCOL_ERROR));
        assert_eq!(served.app.calls.get(), 0);
        assert_eq!(*served.app.refused.borrow(), [Reason::BadFraming]);
    });
}

#[test]
fn connect_is_sent_to_http_1() {
    run(async {
        let mut served = served(&settings());
        let mut send = raw(served.io.take().expect("unused")).await;
        let request = ::http::Request::connect("web.test:443").body(()).expect("valid");
        let error = send.send_request(request, false).expect("sent").0.await.expect_err("a reset");
        assert_eq!(error.reason(), Some(::h2::Reason::HTTP_1_1_REQUIRED));
    });
}

#[test]
fn a_full_ledger_refuses_streams_in_a_way_that_is_safe_to_retry() {
    run(async {
        let ledger = Ledger::new(100);
        let mut served = served(&Settings { ledger: ledger.clone(), ..settings() });
        let client = served.client().await;
        ledger.add(100);
        let slot = client.ready().await.expect("open");
        let Err(error) = client.exchange(slot, &get("/echo"), Body::Empty, &Interim::default()).await else {
            panic!("an answer")
        };
        assert!(error.never_processed);
        assert_eq!(*served.app.refused.borrow(), [Reason::OverloadMemory]);
        ledger.sub(100);
        exchange(&client, &get("/echo"), Body::Empty).await;
    });
}

#[test]
fn what_waits_for_a_reader_is_in_the_ledger_until_it_is_gone() {
    run(async {
        let ledger = Ledger::new(1 << 20);
        let mut served = served(&Settings { ledger: ledger.clone(), ..settings() });
        let client = served.client().await;
        let slot = client.ready().await.expect("open");
        let (head, interim) = (get("/never"), Interim::default());
        let mut call = Box::pin(client.exchange(slot, &head, Body::Full(vec![0; 500_000].into()), &interim));
        poll_fn(|cx| {
            assert!(call.as_mut().poll(cx).is_pending());
            // The whole stream window, and no more of it.
            if ledger.held() == 256 * 1024 {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
        drop(call);
        while ledger.held() > 0 {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn a_drain_ends_the_connection_with_its_last_stream() {
    run(async {
        let mut served = served(&settings());
        let client = served.client().await;
        let waiting = tokio::task::spawn_local({
            let client = client.clone();
            async move {
                let (_, body) = exchange(&client, &get("/gate"), Body::Empty).await;
                whole(body).await.map(|all| all.len())
            }
        });
        while served.app.running.get() == 0 {
            tokio::task::yield_now().await;
        }
        served.drain.notify_one();
        while !client.is_closed() {
            tokio::task::yield_now().await;
        }
        assert!(!served.done.is_finished());
        served.app.gate.notify_one();
        assert_eq!(waiting.await.expect("no panic"), Ok(1024));
        assert_eq!(served.done.await.expect("no panic"), Ok(()));
    });
}

#[test]
fn an_idle_connection_is_closed_and_a_busy_one_is_not() {
    run_paused(async {
        let mut served = served(&Settings { idle: Some(Duration::from_millis(20)), ..settings() });
        let client = served.client().await;
        let waiting = tokio::task::spawn_local({
            let client = client.clone();
            async move { exchange(&client, &get("/gate"), Body::Empty).await.0.status }
        });
        served.timers.sleep(Duration::from_millis(50)).await;
        assert!(!served.done.is_finished());
        served.app.gate.notify_one();
        assert_eq!(waiting.await.expect("no panic"), 200);
        assert_eq!(served.done.await.expect("no panic"), Ok(()));
    });
}

#[test]
fn a_silent_connection_is_closed() {
    run_paused(async {
        let served = served(&Settings { handshake: Duration::from_millis(10), ..settings() });
        assert_eq!(served.done.await.expect("no panic"), Err(Reason::HeaderTimeout));
    });
}

#[test]
fn an_answer_that_the_client_leaves_standing_is_cut_and_a_silent_one_is_not() {
    run_paused(async {
        let mut served = served(&Settings { stall: Some(Duration::from_millis(30)), ..settings() });
        let client = served.client().await;
        let silent = tokio::task::spawn_local({
            let client = client.clone();
            async move { exchange(&client, &get("/gate"), Body::Empty).await.0.status }
        });
        let (_, mut body) = exchange(&client, &get("/big"), Body::Empty).await;
        while served.app.ends.borrow().is_empty() {
            served.timers.sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(served.app.ends.borrow()[0].cut, Some(Reason::StreamIdle));
        let cut = loop {
            if let Err(reason) = body.data().await.expect("not a whole answer") {
                break reason;
            }
        };
        assert_eq!(cut, Reason::AppReset);
        served.app.gate.notify_one();
        assert_eq!(silent.await.expect("no panic"), 200);
    });
}

#[test]
fn a_body_that_stands_still_is_cut_and_the_silence_of_a_call_is_not() {
    run_paused(async {
        let mut served = served(&Settings { body_idle: Some(Duration::from_millis(30)), ..settings() });
        let mut send = raw(served.io.take().expect("unused")).await;
        let mut post = |kind: &'static str| {
            let request = ::http::Request::post("http://web.test/read").header("content-type", kind);
            let (answer, mut body) = send.send_request(request.body(()).expect("a request"), false).expect("open");
            body.send_data(Bytes::from_static(b"abc"), false).expect("open");
            (answer, body)
        };
        let (call, mut messages) = post("application/grpc+proto");
        let (slow, _body) = post("text/plain");
        assert_eq!(slow.await.expect("an answer").status(), 408);
        messages.send_data(Bytes::from_static(b"def"), true).expect("still open");
        assert_eq!(call.await.expect("an answer").status(), 200);
    });
}

#[test]
fn a_client_that_waits_to_be_told_to_continue_owes_no_body() {
    run_paused(async {
        let mut served = served(&Settings { body_idle: Some(Duration::from_millis(30)), ..settings() });
        let mut send = raw(served.io.take().expect("unused")).await;
        let mut post = |expects: bool| {
            let mut request = ::http::Request::post("http://web.test/read").header("content-length", "3");
            if expects {
                request = request.header("expect", "100-continue");
            }
            send.send_request(request.body(()).expect("a request"), false).expect("open")
        };
        let (patient, mut body) = post(true);
        let (slow, _body) = post(false);
        assert_eq!(slow.await.expect("an answer").status(), 408);
        body.send_data(Bytes::from_static(b"def"), true).expect("still open");
        assert_eq!(patient.await.expect("an answer").status(), 200);
    });
}

#[test]
fn the_last_words_reach_a_peer_that_is_still_talking() {
    run(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let mut client = tokio::net::TcpStream::connect(address).await.expect("connects");
        // Not a preface, and more than the server will read of it.
        client.write_all(&[b'x'; 50_000]).await.expect("room");
        let (server, _) = listener.accept().await.expect("accepts");
        let (timers, app) = (Timers::new(), Rc::new(App::default()));
        assert_eq!(serve(server, &settings(), app, &timers, std::future::pending()).await, Err(Reason::BadFraming));
        let mut said = Vec::new();
        client.read_to_end(&mut said).await.expect("an end, not a reset");
        assert_eq!(said[3], 4, "SETTINGS");
    });
}
