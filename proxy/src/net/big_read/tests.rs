use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;

use super::*;

#[tokio::test]
async fn small_reads_come_from_one_large_one_and_an_idle_stream_holds_nothing() {
    let (near, mut far) = tokio::io::duplex(1 << 20);
    let mut near = BigRead::new(near);
    let sent: Vec<u8> = (0..100_000_u32).map(|i| i as u8).collect();
    far.write_all(&sent).await.expect("room");
    let mut read = Vec::new();
    while read.len() < sent.len() {
        let mut piece = [0; 1000];
        let n = near.read(&mut piece).await.expect("open");
        read.extend_from_slice(&piece[..n]);
        assert_eq!(near.buf.is_some(), near.has_buffered());
    }
    assert_eq!(read, sent);
    let mut more = [0; 10];
    std::future::poll_fn(|cx| {
        assert!(Pin::new(&mut near).poll_read(cx, &mut ReadBuf::new(&mut more)).is_pending());
        Poll::Ready(())
    })
    .await;
    assert!(near.buf.is_none());
    drop(far);
    assert_eq!(near.read(&mut more).await.expect("an end"), 0);
}

#[tokio::test]
async fn reads_as_large_as_the_buffer_pass_it_by() {
    let (near, mut far) = tokio::io::duplex(1 << 20);
    let mut near = BigRead::new(near);
    far.write_all(&[7; 50_000]).await.expect("room");
    let mut all = vec![0; 64 * 1024];
    assert_eq!(near.read(&mut all).await.expect("open"), 50_000);
    assert!(near.buf.is_none());
}
