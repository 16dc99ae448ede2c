//! Frames that no honest client sends, written by hand.

use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;

use super::wire::*;
use super::*;

/// Says all of it, takes what comes, and tells the code of the GOAWAY.
async fn attack(served: &mut Served, frames: Vec<u8>) -> Option<u32> {
    let (mut read, mut write) = tokio::io::split(served.io.take().expect("unused"));
    let writer = tokio::task::spawn_local(async move {
        let start = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(SETTINGS, 0, 0, &[])].concat();
        for piece in std::iter::once(&start[..]).chain(frames.chunks(4096)) {
            // The server may hang up on us.
            if write.write_all(piece).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        write
    });
    let mut said = Vec::new();
    read.read_to_end(&mut said).await.expect("reads");
    drop(writer.await.expect("no panic"));
    let mut at = 0;
    let mut code = None;
    while let Some(head) = said.get(at..at + 9) {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        if head[3] == GOAWAY {
            code = said.get(at + 13..at + 17).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]));
        }
        at += 9 + length;
    }
    code
}

fn each_stream(n: u32, frames: impl Fn(u32) -> Vec<u8>) -> Vec<u8> {
    (0..n).flat_map(|i| frames(2 * i + 1)).collect()
}

const PROTOCOL_ERROR: u32 = 1;
const CALM: u32 = 11;

#[test]
fn what_makes_us_reset_streams_ends_the_connection() {
    type Frames = fn(u32) -> Vec<u8>;
    let made: [(&str, Frames); 4] = [
        ("rapid reset", |id| [closed(id), frame(RST_STREAM, 0, id, &[0, 0, 0, 8])].concat()),
        ("window update of nothing", |id| [closed(id), frame(WINDOW_UPDATE, 0, id, &[0; 4])].concat()),
        ("window overflow", |id| [open(id), frame(WINDOW_UPDATE, 0, id, &[0x7f, 255, 255, 255])].concat()),
        ("trailers that do not end", |id| [open(id), open(id)].concat()),
    ];
    for (name, frames) in made {
        run(async move {
            let mut served = served(&settings());
            let code = attack(&mut served, each_stream(10_000, frames)).await;
            assert!(matches!(code, Some(CALM | PROTOCOL_ERROR)), "{name}: {code:?}");
            assert!(served.app.calls.get() <= 500, "{name}: {} calls", served.app.calls.get());
            assert!(served.app.most_running.get() <= 128, "{name}");
            while served.app.running.get() > 0 {
                tokio::task::yield_now().await;
            }
        });
    }
}

#[test]
fn a_head_without_an_end_is_not_collected() {
    run(async {
        let mut served = served(&settings());
        let mut frames = frame(HEADERS, 1, 1, &[0x82, 0x86, 0x84]);
        // 10 MiB of field, never END_HEADERS.
        for _ in 0..640 {
            frames.extend(frame(CONTINUATION, 0, 1, &[0; 16_384]));
        }
        assert!(attack(&mut served, frames).await.is_some());
        assert_eq!(served.app.calls.get(), 0);
    });
}

#[test]
fn floods_of_control_frames_are_answered_in_bounded_memory() {
    for kind in [PING, SETTINGS] {
        run(async move {
            let payload: &[u8] = if kind == PING { &[0; 8] } else { &[] };
            let mut served = served(&settings());
            let flood: Vec<u8> = (0..20_000).flat_map(|_| frame(kind, 0, 0, payload)).collect();
            let end = frame(GOAWAY, 0, 0, &[0; 8]);
            // Nobody reads the answers before all is said: the pipe's and BatchIo's bounds are all there is.
            attack(&mut served, [flood, end].concat()).await;
            assert_eq!(served.done.await.expect("no panic"), Ok(()));
        });
    }
}
