//! Frames that break the protocol, each with what the peer is told.

use proptest::prelude::*;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;

use super::wire::*;
use super::*;

const PROTOCOL: u32 = 1;
const FLOW_CONTROL: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE: u32 = 6;
const REFUSED: u32 = 7;
const COMPRESSION: u32 = 9;
const CALM: u32 = 11;

fn settings_of(name: u16, value: u32) -> Vec<u8> {
    frame(SETTINGS, 0, 0, &[&name.to_be_bytes()[..], &value.to_be_bytes()].concat())
}

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Told {
    /// The connection ends with this code.
    Goaway(u32),
    /// The stream does, and the connection lives.
    Reset(u32, u32),
    Nothing,
}

/// Says it all and takes what comes. A ping at the end shows whether the connection lives, and one more that nothing else
/// was to come.
async fn told(served: &mut Served, frames: Vec<u8>) -> Told {
    told_in_turn(served, Vec::new(), frames).await
}

/// The server has done with what comes first before it hears the rest.
async fn told_in_turn(served: &mut Served, first: Vec<u8>, then: Vec<u8>) -> Told {
    let mut io = served.io.take().expect("unused");
    let start = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(SETTINGS, 0, 0, &[])].concat();
    let (first, then) = ([start, first].concat(), [then, frame(PING, 0, 0, b"all said")].concat());
    let (mut read, mut write) = tokio::io::split(&mut io);
    let heard = tokio::sync::Notify::new();
    let writing = async {
        // The server may hang up on us.
        let _ = write.write_all(&first).await;
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        let _ = write.write_all(&then).await;
        heard.notified().await;
        let _ = write.write_all(&frame(PING, 0, 0, b"is that ")).await;
    };
    let reading = async {
        let mut reset = None;
        loop {
            let mut head = [0; 9];
            read.read_exact(&mut head).await.expect("a frame");
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
            read.read_exact(&mut payload).await.expect("a payload");
            let code = |at: usize| u32::from_be_bytes([payload[at], payload[at + 1], payload[at + 2], payload[at + 3]]);
            match head[3] {
                GOAWAY => {
                    heard.notify_one();
                    return Told::Goaway(code(4));
                }
                RST_STREAM => reset = Some(Told::Reset(stream, code(0))),
                PING if payload == b"all said" => heard.notify_one(),
                PING => return reset.unwrap_or(Told::Nothing),
                _ => {}
            }
        }
    };
    tokio::join!(writing, reading).1
}

#[test]
fn each_offence_has_its_code() {
    let table: Vec<(&str, Vec<Vec<u8>>, Told)> = vec![
        ("a frame above the limit", vec![frame(DATA, 0, 1, &[0; 16_385])], Told::Goaway(FRAME_SIZE)),
        ("data on stream nought", vec![frame(DATA, 0, 0, &[0])], Told::Goaway(PROTOCOL)),
        ("data on a stream that never was", vec![frame(DATA, 0, 1, &[0])], Told::Goaway(PROTOCOL)),
        ("more padding than data", vec![open(1), frame(DATA, 8, 1, &[2, 0])], Told::Goaway(PROTOCOL)),
        ("padding alone", vec![open(1), frame(DATA, 8, 1, &[1, 0])], Told::Nothing),
        ("data after the end", vec![closed(1), frame(DATA, 0, 1, &[0])], Told::Reset(1, STREAM_CLOSED)),
        ("a head on stream nought", vec![closed(0)], Told::Goaway(PROTOCOL)),
        ("a head on the server's stream", vec![closed(2)], Told::Goaway(PROTOCOL)),
        ("an older stream", vec![closed(3), closed(1)], Told::Goaway(STREAM_CLOSED)),
        (
            "a head and another frame",
            vec![frame(HEADERS, 1, 1, &never(&[])), frame(PING, 0, 0, &[0; 8])],
            Told::Goaway(PROTOCOL),
        ),
        (
            "a head that goes on elsewhere",
            vec![frame(HEADERS, 1, 1, &never(&[])), frame(CONTINUATION, 4, 3, &[])],
            Told::Goaway(PROTOCOL),
        ),
        (
            "a head that goes on",
            vec![frame(HEADERS, 1, 1, &never(&[])[..5]), frame(CONTINUATION, 4, 1, &never(&[])[5..])],
            Told::Nothing,
        ),
        ("going on with nothing", vec![frame(CONTINUATION, 4, 1, &[])], Told::Goaway(PROTOCOL)),
        (
            "a head that goes on for ever",
            vec![frame(HEADERS, 1, 1, &[]), frame(CONTINUATION, 0, 1, &[]).repeat(65)],
            Told::Goaway(CALM),
        ),
        ("a head without a priority it promised", vec![frame(HEADERS, 0x25, 1, &[0; 4])], Told::Goaway(FRAME_SIZE)),
        ("no HPACK", vec![frame(HEADERS, 5, 1, &[0x80])], Told::Goaway(COMPRESSION)),
        ("a malformed head", vec![frame(HEADERS, 5, 1, &never(b"\0\x01X\x01y"))], Told::Reset(1, PROTOCOL)),
        ("an end short of the length", vec![frame(HEADERS, 5, 1, &never(b"\x0f\x0d\x015"))], Told::Reset(1, PROTOCOL)),
        (
            "data beyond the length",
            vec![frame(HEADERS, 4, 1, &never(b"\x0f\x0d\x011")), frame(DATA, 0, 1, &[0; 2])],
            Told::Reset(1, PROTOCOL),
        ),
        (
            "data short of the length",
            vec![frame(HEADERS, 4, 1, &never(b"\x0f\x0d\x015")), frame(DATA, 1, 1, &[0; 2])],
            Told::Reset(1, PROTOCOL),
        ),
        ("trailers that do not end", vec![open(1), open(1)], Told::Reset(1, PROTOCOL)),
        ("a tunnel", vec![frame(HEADERS, 4, 1, b"\x02\x07CONNECT\x01\x01a")], Told::Reset(1, 13)),
        ("a priority of another size", vec![frame(PRIORITY, 0, 1, &[0; 4])], Told::Goaway(FRAME_SIZE)),
        ("a priority", vec![frame(PRIORITY, 0, 1, &[0; 5])], Told::Nothing),
        ("a priority below itself", vec![frame(PRIORITY, 0, 1, &[0, 0, 0, 1, 0])], Told::Goaway(PROTOCOL)),
        (
            "a head with a priority below itself",
            vec![frame(HEADERS, 0x25, 1, &[&[0, 0, 0, 1, 0][..], &never(&[])].concat())],
            Told::Goaway(PROTOCOL),
        ),
        ("a reset of nothing", vec![frame(RST_STREAM, 0, 1, &[0; 4])], Told::Goaway(PROTOCOL)),
        ("a reset of another size", vec![open(1), frame(RST_STREAM, 0, 1, &[0; 3])], Told::Goaway(FRAME_SIZE)),
        ("a push", vec![frame(PUSH_PROMISE, 4, 1, &[0; 4])], Told::Goaway(PROTOCOL)),
        ("settings of another size", vec![frame(SETTINGS, 0, 0, &[0; 5])], Told::Goaway(FRAME_SIZE)),
        ("settings of a stream", vec![frame(SETTINGS, 0, 1, &[])], Told::Goaway(PROTOCOL)),
        ("settings heard, with something", vec![frame(SETTINGS, 1, 0, &[0; 6])], Told::Goaway(FRAME_SIZE)),
        ("a window too large", vec![settings_of(4, 1 << 31)], Told::Goaway(FLOW_CONTROL)),
        (
            "a window too large with what is left",
            vec![open(1), frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 9]), settings_of(4, (1 << 31) - 1)],
            Told::Goaway(FLOW_CONTROL),
        ),
        ("frames too small", vec![settings_of(5, 16_383)], Told::Goaway(PROTOCOL)),
        ("frames too large", vec![settings_of(5, 1 << 24)], Told::Goaway(PROTOCOL)),
        ("a push that is neither", vec![settings_of(2, 2)], Told::Goaway(PROTOCOL)),
        ("a setting that nobody knows", vec![settings_of(99, 7)], Told::Nothing),
        ("a ping of another size", vec![frame(PING, 0, 0, &[0; 7])], Told::Goaway(FRAME_SIZE)),
        ("a ping on a stream", vec![frame(PING, 0, 1, &[0; 8])], Told::Goaway(PROTOCOL)),
        ("a short goodbye", vec![frame(GOAWAY, 0, 0, &[0; 7])], Told::Goaway(FRAME_SIZE)),
        ("credit of another size", vec![frame(WINDOW_UPDATE, 0, 0, &[0; 3])], Told::Goaway(FRAME_SIZE)),
        ("no credit", vec![frame(WINDOW_UPDATE, 0, 0, &[0; 4])], Told::Goaway(PROTOCOL)),
        ("no credit for a stream", vec![open(1), frame(WINDOW_UPDATE, 0, 1, &[0; 4])], Told::Reset(1, PROTOCOL)),
        ("too much credit", vec![frame(WINDOW_UPDATE, 0, 0, &[0x7f, 255, 255, 255])], Told::Goaway(FLOW_CONTROL)),
        (
            "too much credit for a stream",
            vec![open(1), frame(WINDOW_UPDATE, 0, 1, &[0x7f, 255, 255, 255])],
            Told::Reset(1, FLOW_CONTROL),
        ),
        ("credit for a stream that never was", vec![frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])], Told::Goaway(PROTOCOL)),
        (
            "data beyond the stream's window",
            vec![open(1), frame(DATA, 0, 1, &[0; 16_384]).repeat(17)],
            Told::Reset(1, FLOW_CONTROL),
        ),
        ("data of nothing, again and again", vec![open(1), frame(DATA, 0, 1, &[]).repeat(1001)], Told::Goaway(CALM)),
        ("streams beyond the limit", (0..129).map(|i| closed(2 * i + 1)).collect(), Told::Reset(257, REFUSED)),
        ("a frame that nobody knows", vec![frame(99, 255, 1, &[1, 2, 3])], Told::Nothing),
    ];
    for (name, frames, expected) in table {
        run(async move {
            let mut served = served(&settings());
            assert_eq!(told(&mut served, frames.concat()).await, expected, "{name}");
        });
    }
}

/// What comes on a stream that is over: forgiven where the peer may not know it yet, else not (RFC 9113 section 5.1).
#[test]
fn a_stream_that_is_over_takes_no_more() {
    let malformed = || frame(HEADERS, 4, 1, &never(b"\0\x01X\x01y"));
    let given_up = || [open(1), frame(RST_STREAM, 0, 1, &[0, 0, 0, 8])].concat();
    let late = [
        ("data after the client's reset", given_up(), frame(DATA, 0, 1, &[0]), Told::Reset(1, STREAM_CLOSED)),
        ("a head after the client's reset", given_up(), open(1), Told::Goaway(STREAM_CLOSED)),
        ("data after ours", malformed(), frame(DATA, 0, 1, &[0]), Told::Reset(1, PROTOCOL)),
        ("a head after ours", malformed(), open(1), Told::Reset(1, PROTOCOL)),
        ("credit after ours", malformed(), frame(WINDOW_UPDATE, 0, 1, &[0; 4]), Told::Reset(1, PROTOCOL)),
    ];
    for (name, first, then, expected) in late {
        run(async move {
            let mut served = served(&settings());
            assert_eq!(told_in_turn(&mut served, first, then).await, expected, "{name}");
            assert_eq!(served.app.running.get(), 0, "{name}");
        });
    }
}

#[test]
fn the_first_frame_is_settings() {
    run(async {
        let served = served(&settings());
        let mut io = served.io.expect("unused");
        let first = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(PING, 0, 0, &[0; 8])].concat();
        io.write_all(&first).await.expect("room");
        let mut said = Vec::new();
        io.read_to_end(&mut said).await.expect("reads");
        assert_eq!(said[said.len() - 17..][3], GOAWAY);
        assert_eq!(served.done.await.expect("no panic"), Err(Reason::BadFraming));
    });
}

#[test]
fn a_connection_that_breaks_off_within_a_frame_was_lost() {
    run(async {
        for (end, expected) in [(0, Ok(())), (5, Err(Reason::ClientGone)), (12, Err(Reason::ClientGone))] {
            let served = served(&settings());
            let mut io = served.io.expect("unused");
            io.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("room");
            io.write_all(&frame(SETTINGS, 0, 0, &[])).await.expect("room");
            io.write_all(&open(1)[..end]).await.expect("room");
            drop(io);
            assert_eq!(served.done.await.expect("no panic"), expected, "{end}");
        }
    });
}

/// Bytes come as the network likes.
#[test]
fn a_request_may_come_byte_by_byte() {
    run(async {
        let mut served = served(&settings());
        let mut io = served.io.take().expect("unused");
        let block = [&[0x82, 0x86, 0x01, 1, b'a', 0x04, 5][..], b"/echo"].concat();
        let said = [
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            frame(SETTINGS, 0, 0, &[]),
            frame(HEADERS, 4, 1, &block),
            frame(DATA, 1, 1, b"hello"),
            frame(GOAWAY, 0, 0, &[0; 8]),
        ];
        for byte in said.concat() {
            io.write_all(&[byte]).await.expect("room");
            tokio::task::yield_now().await;
        }
        let mut all = Vec::new();
        io.read_to_end(&mut all).await.expect("reads");
        assert!(all.windows(5).any(|window| window == b"hello"));
        assert_eq!(served.done.await.expect("no panic"), Ok(()));
    });
}

/// A peer that asks and does not read cannot make us keep more than it may.
#[test]
fn answers_that_nobody_reads_stop_the_reading() {
    run(async {
        let mut served = served(&settings());
        let mut io = served.io.take().expect("unused");
        io.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("room");
        io.write_all(&frame(SETTINGS, 0, 0, &[])).await.expect("room");
        let pings = frame(PING, 0, 0, &[0; 8]).repeat(1000);
        let mut taken = 0;
        // The pipe holds 1 MiB each way.
        while let Ok(wrote) = tokio::time::timeout(std::time::Duration::from_millis(500), io.write(&pings)).await {
            taken += wrote.expect("open");
            assert!(taken < 4 << 20, "it reads for ever");
        }
    });
}

/// Frames that are nearly right, in any order.
fn any_frames() -> impl Strategy<Value = Vec<u8>> {
    let block = prop_oneof![
        Just(never(&[])),
        Just(vec![0x88]),
        Just(vec![0x88, 0x0f, 0x0d, 1, b'5']),
        prop::collection::vec(any::<u8>(), 0..20),
    ];
    let payload = prop_oneof![
        block,
        Just(vec![0; 4]),
        Just(vec![0, 0, 0, 1]),
        Just(vec![0; 8]),
        Just(vec![0, 4, 0, 0, 0, 1]),
        Just(vec![0, 1, 0, 0, 0, 0]),
        prop::collection::vec(any::<u8>(), 0..40),
    ];
    let one = (0..11_u8, prop_oneof![Just(0_u8), Just(1), Just(4), Just(5), any::<u8>()], 0..8_u32, payload);
    prop::collection::vec(one, 0..30).prop_map(|frames| {
        let all = frames.into_iter().map(|(kind, flags, stream, payload)| frame(kind, flags, stream, &payload));
        all.collect::<Vec<_>>().concat()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_frames_make_the_server_panic_or_hang(frames in any_frames()) {
        run(async {
            let mut served = served(&settings());
            let mut io = served.io.take().expect("unused");
            io.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("room");
            io.write_all(&frame(SETTINGS, 0, 0, &[])).await.expect("room");
            io.write_all(&frames).await.expect("room");
            drop(io);
            // However it ends, it does.
            let _ = served.done.await.expect("no panic");
            while served.app.running.get() > 0 {
                tokio::task::yield_now().await;
            }
        });
    }

    #[test]
    fn no_frames_make_the_client_panic_or_hang(frames in any_frames()) {
        run(async {
            let (near, mut far) = tokio::io::duplex(1 << 20);
            let client = connect(near, &settings(), &Timers::new()).await;
            let asking: Vec<_> = (0..3).map(|i| {
                let client = client.clone();
                tokio::task::spawn_local(async move {
                    let slot = client.ready().await.expect("open");
                    let body = Body::Full(vec![0; 100_000 * i].into());
                    match client.exchange(slot, &get("/"), body, &Interim::default()).await {
                        Ok((_, body)) => drop(whole(body).await),
                        Err(error) => assert!(error.written),
                    }
                })
            }).collect();
            tokio::task::yield_now().await;
            far.write_all(&frame(SETTINGS, 0, 0, &[])).await.expect("room");
            far.write_all(&frames).await.expect("room");
            drop(far);
            for asking in asking {
                asking.await.expect("no panic");
            }
            assert_eq!(client.in_flight(), 0);
        });
    }
}
