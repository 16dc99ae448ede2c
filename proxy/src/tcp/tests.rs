use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::io::DuplexStream;

use crate::net::Io;
use crate::tcp;
use crate::tcp::Copied;
use crate::tcp::End;
use crate::tcp::Side;

/// A tunnel between two pipes: the far ends are returned.
fn tunnel(early: &'static [u8], idle: Option<Duration>) -> (DuplexStream, DuplexStream, impl Future<Output = Copied>) {
    let (client, near) = tokio::io::duplex(64);
    let (far, upstream) = tokio::io::duplex(64);
    let copy = async move {
        let (mut near, mut far) = (Io::Memory(near), Io::Memory(far));
        let client = Side { io: &mut near, read: BytesMut::from(early) };
        let upstream = Side { io: &mut far, read: BytesMut::new() };
        tcp::copy(client, upstream, idle, |_| std::task::Poll::Pending).await
    };
    (client, upstream, copy)
}

#[tokio::test]
async fn a_half_close_passes_and_the_other_way_stays_open() {
    let (mut client, mut upstream, copy) = tunnel(b"early ", None);
    let ends = async move {
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut question = String::new();
        upstream.read_to_string(&mut question).await.unwrap();
        assert_eq!(question, "early question");
        let write = async move { upstream.write_all(&[7; 100_000]).await.unwrap() };
        let mut answer = Vec::new();
        let (_, read) = tokio::join!(write, client.read_to_end(&mut answer));
        assert_eq!(read.unwrap(), 100_000);
    };
    let ((), copied) = tokio::join!(ends, copy);
    assert_eq!(copied, Copied { sent: 14, received: 100_000, end: End::Clean });
}

#[tokio::test(start_paused = true)]
async fn a_silent_tunnel_ends_after_its_idle_time_and_a_busy_one_does_not() {
    let (mut client, mut upstream, copy) = tunnel(b"", Some(Duration::from_secs(10)));
    let started = tokio::time::Instant::now();
    let ends = async {
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_secs(8)).await;
            client.write_all(b"x").await.unwrap();
            upstream.read_u8().await.unwrap();
        }
    };
    let ((), copied) = tokio::join!(ends, copy);
    assert_eq!(copied.end, End::Idle);
    assert_eq!(copied.sent, 5);
    assert!(started.elapsed() >= Duration::from_secs(50), "{:?}", started.elapsed());
}
