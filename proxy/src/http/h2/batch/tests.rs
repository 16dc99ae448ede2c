use std::cell::Cell;

use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::io::DuplexStream;
use tokio::task::LocalSet;

use super::*;

/// Counts the writes that reach the stream.
pub(in crate::http::h2) struct Counted<T> {
    pub(in crate::http::h2) io: T,
    pub(in crate::http::h2) writes: Rc<Cell<usize>>,
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

fn pair(size: usize) -> (BatchIo<Counted<DuplexStream>>, Rc<Cell<usize>>, DuplexStream) {
    let (near, far) = tokio::io::duplex(size);
    let writes = Rc::new(Cell::new(0));
    (BatchIo::new(Counted { io: near, writes: Rc::clone(&writes) }), writes, far)
}

fn append(hop: &BatchIo<Counted<DuplexStream>>, bytes: &[u8]) {
    hop.writer().append(|out| out.extend_from_slice(bytes));
}

#[test]
fn appended_writes_leave_as_one() {
    run(async {
        let (hop, writes, mut far) = pair(1 << 20);
        for _ in 0..32 {
            append(&hop, &[7; 1000]);
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
        for _ in 0..10 {
            let writer = hop.writer();
            tokio::task::spawn_local(async move { writer.append(|out| out.extend_from_slice(b"0123456789")) });
        }
        let mut read = [0; 100];
        far.read_exact(&mut read).await.expect("all of it");
        assert_eq!(writes.get(), 1);
    });
}

#[test]
fn room_comes_back_when_a_stalled_peer_reads() {
    run(async {
        let (hop, _, mut far) = pair(1024);
        let writer = hop.writer();
        append(&hop, &[1; CAP]);
        assert_eq!(writer.room(), 0);
        let (near_end, mut read) = (writer.position(), vec![0; CAP]);
        far.read_exact(&mut read).await.expect("all of it");
        poll_fn(|cx| {
            if writer.room() == CAP {
                return Poll::Ready(());
            }
            writer.wake_when_written(cx.waker());
            Poll::Pending
        })
        .await;
        assert_eq!((writer.written(), writer.waiting()), (near_end, 0));
        append(&hop, b"the end");
        let rest = tokio::task::spawn_local(async move {
            let mut rest = Vec::new();
            far.read_to_end(&mut rest).await.expect("an end");
            rest
        });
        poll_fn(|cx| hop.poll_shutdown(cx)).await;
        assert_eq!(rest.await.expect("no panic"), b"the end");
    });
}

#[test]
fn a_failed_write_wakes_a_connection_that_only_reads() {
    run(async {
        let (mut hop, _, far) = pair(1024);
        let writer = hop.writer();
        let reading = tokio::task::spawn_local(async move {
            let mut woken = 0;
            poll_fn(|cx| {
                woken += 1;
                let mut byte = [0];
                let read = Pin::new(&mut hop).poll_read(cx, &mut ReadBuf::new(&mut byte));
                if woken == 1 { read.map(|_| ()) } else { Poll::Ready(()) }
            })
            .await;
            poll_fn(|cx| hop.poll_shutdown(cx)).await;
        });
        tokio::task::yield_now().await;
        let (far_read, far_write) = tokio::io::split(far);
        drop((far_read, far_write));
        writer.append(|out| out.push(b'x'));
        reading.await.expect("no panic");
        writer.append(|out| out.push(b'y'));
        assert_eq!(writer.waiting(), 0, "nobody will ever take it");
    });
}

#[test]
fn a_drop_writes_what_waits_and_lets_go_of_a_stalled_peer() {
    run(async {
        let (hop, _, mut far) = pair(1 << 16);
        append(&hop, b"last words");
        drop(hop);
        let mut all = Vec::new();
        far.read_to_end(&mut all).await.expect("reads");
        assert_eq!(all, b"last words");

        let (hop, _, mut far) = pair(4);
        append(&hop, b"last words");
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
