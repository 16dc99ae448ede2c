use std::cell::Cell;

use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::io::DuplexStream;
use tokio::task::LocalSet;

use super::*;

/// Counts the writes that reach the stream.
pub(crate) struct Counted<T> {
    pub(crate) io: T,
    pub(crate) writes: Rc<Cell<usize>>,
}

impl<T: AsyncRead + Unpin> AsyncRead for Counted<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Counted<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.writes.set(self.writes.get() + 1);
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    LocalSet::new().block_on(&runtime, test);
}

fn pair(size: usize) -> (HopIo<Counted<DuplexStream>>, Rc<Cell<usize>>, DuplexStream) {
    let (near, far) = tokio::io::duplex(size);
    let writes = Rc::new(Cell::new(0));
    (HopIo::new(Counted { io: near, writes: Rc::clone(&writes) }), writes, far)
}

#[test]
fn appended_writes_leave_as_one() {
    run(async {
        let (mut hop, writes, mut far) = pair(1 << 20);
        for _ in 0..32 {
            hop.write_all(&[7; 1000]).await.expect("room");
            hop.flush().await.expect("ignored");
        }
        let mut read = vec![0; 32_000];
        far.read_exact(&mut read).await.expect("all of it");
        assert_eq!(writes.get(), 1);
    });
}

#[test]
fn tasks_queued_before_the_flusher_write_with_it() {
    run(async {
        let (hop, writes, mut far) = pair(1 << 20);
        let hop = Rc::new(RefCell::new(hop));
        for _ in 0..10 {
            let hop = Rc::clone(&hop);
            tokio::task::spawn_local(async move {
                poll_fn(|cx| Pin::new(&mut *hop.borrow_mut()).poll_write(cx, b"0123456789")).await.expect("room");
            });
        }
        let mut read = [0; 100];
        far.read_exact(&mut read).await.expect("all of it");
        assert_eq!(writes.get(), 1);
    });
}

#[test]
fn a_stalled_peer_bounds_what_is_held() {
    run(async {
        let (mut hop, _, mut far) = pair(1024);
        let mut accepted = 0;
        poll_fn(|cx| {
            while let Poll::Ready(n) = Pin::new(&mut hop).poll_write(cx, &[1; 4000]) {
                accepted += n.expect("open");
            }
            Poll::Ready(())
        })
        .await;
        assert_eq!(accepted, CAP);
        let reader = tokio::task::spawn_local(async move {
            let mut all = Vec::new();
            far.read_to_end(&mut all).await.expect("reads");
            all.len()
        });
        hop.write_all(&[2; 100_000]).await.expect("room comes");
        hop.shutdown().await.expect("flushes");
        assert_eq!(reader.await.expect("no panic"), CAP + 100_000);
    });
}

#[test]
fn a_failed_write_reaches_a_connection_that_only_reads() {
    run(async {
        let (mut hop, _, far) = pair(1024);
        let (mut far_read, far_write) = tokio::io::split(far);
        hop.write_all(b"x").await.expect("room");
        far_read.read_exact(&mut [0]).await.expect("one byte");
        drop(far_read);
        drop(far_write);
        hop.write_all(b"y").await.expect("appended");
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
        assert_eq!(hop.flush().await.expect_err("the peer is gone").kind(), io::ErrorKind::BrokenPipe);
        assert!(hop.write_all(b"z").await.is_err());
        assert!(hop.shutdown().await.is_err());
    });
}

#[test]
fn a_drop_writes_what_waits_and_lets_go_of_a_stalled_peer() {
    run(async {
        let (mut hop, _, mut far) = pair(1 << 16);
        hop.write_all(b"last words").await.expect("room");
        drop(hop);
        let mut all = Vec::new();
        far.read_to_end(&mut all).await.expect("reads");
        assert_eq!(all, b"last words");

        let (mut hop, _, mut far) = pair(4);
        hop.write_all(b"last words").await.expect("room");
        tokio::task::yield_now().await;
        drop(hop);
        tokio::task::yield_now().await;
        let mut all = Vec::new();
        far.read_to_end(&mut all).await.expect("closed though not all was read");
        assert_eq!(all, b"last");
    });
}

#[test]
fn one_turn_reads_a_bounded_number_of_bytes() {
    run(async {
        let (mut hop, _, mut far) = pair(1 << 20);
        far.write_all(&vec![0; 200_000]).await.expect("room");
        let mut buf = vec![0; 16_384];
        let mut turn = 0;
        poll_fn(|cx| {
            loop {
                let mut read = ReadBuf::new(&mut buf);
                if Pin::new(&mut hop).poll_read(cx, &mut read).is_pending() {
                    return Poll::Ready(());
                }
                turn += read.filled().len();
            }
        })
        .await;
        assert!((TURN..TURN + 16_384).contains(&turn), "{turn}");
        let mut rest = vec![0; 200_000 - turn];
        hop.read_exact(&mut rest).await.expect("the turns go on");
    });
}
