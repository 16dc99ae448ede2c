use std::future::poll_fn;
use std::io;
use std::io::IoSlice;
use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;

use leno_proto::policy::Keepalive;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWrite;
use tokio::net::TcpSocket;

use crate::net;
use crate::net::Acceptor;
use crate::net::PIECES;
use crate::net::Share;
use crate::net::buffer::PIECE;
use crate::net::poll_write_in_pieces;
use crate::net::turn;

/// A port of this process that refuses connections for as long as this is held: were it free, anybody could listen there.
pub(crate) struct Refusing {
    _bound: TcpSocket,
    pub(crate) address: SocketAddr,
}

impl Refusing {
    pub(crate) fn new() -> Self {
        let bound = TcpSocket::new_v4().unwrap();
        bound.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let address = bound.local_addr().unwrap();
        Self { _bound: bound, address }
    }
}

fn loopback() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

fn keepalive() -> Keepalive {
    net::KEEPALIVE
}

#[tokio::test]
async fn workers_share_one_address() {
    let first = net::listen(loopback(), Share::Workers).unwrap();
    let address = first.local_addr().unwrap();
    net::listen(address, Share::Workers).unwrap();
    assert!(net::listen(address, Share::Alone).is_err());
}

#[test]
fn what_listens_widely_is_reached_by_every_family_that_the_host_has() {
    let listener = net::listen_widely((std::net::Ipv6Addr::UNSPECIFIED, 0).into()).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::net::TcpStream::connect((std::net::Ipv4Addr::LOCALHOST, port)).unwrap();
    // A host without IPv6 has no such address.
    if std::net::TcpListener::bind((std::net::Ipv6Addr::LOCALHOST, 0)).is_ok() {
        std::net::TcpStream::connect((std::net::Ipv6Addr::LOCALHOST, port)).unwrap();
    }
    let alone = net::listen_widely(loopback()).unwrap();
    assert!(alone.local_addr().unwrap().is_ipv4());
}

#[test]
fn a_thread_that_works_behind_is_nicer_and_overtakes_nobody() {
    let of_thread = || {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        // proc(5): what follows the name in brackets begins with field 3; nice is the 19th, the policy the 41st.
        let (_, fields) = stat.rsplit_once(')').unwrap();
        let fields: Vec<i32> = fields.split_whitespace().map(|field| field.parse().unwrap_or_default()).collect();
        (fields[19 - 3], fields[41 - 3])
    };
    let (nice, _) = of_thread();
    let behind = std::thread::spawn(move || net::work_behind(nice + 1).map(|()| of_thread())).join().unwrap();
    assert_eq!(behind.unwrap(), (nice + 1, libc::SCHED_BATCH));
    assert_eq!(of_thread().0, nice, "the others stay as they were");
}

#[tokio::test]
async fn an_idle_connection_is_quiet_until_the_peer_speaks_or_closes() {
    let acceptor = Acceptor::new(net::listen(loopback(), Share::Alone).unwrap()).unwrap();
    let ours = net::connect(acceptor.address().unwrap(), &keepalive()).await.unwrap();
    let (mut theirs, _) = acceptor.accept().await.unwrap();
    assert!(net::is_quiet(&ours));
    theirs.write_all(b"x").unwrap();
    ours.readable().await.unwrap();
    assert!(!net::is_quiet(&ours));

    let ours = net::connect(acceptor.address().unwrap(), &keepalive()).await.unwrap();
    let (theirs, _) = acceptor.accept().await.unwrap();
    drop(theirs);
    ours.readable().await.unwrap();
    assert!(!net::is_quiet(&ours));
}

#[tokio::test]
async fn acknowledged_bytes_are_counted() {
    let acceptor = Acceptor::new(net::listen(loopback(), Share::Alone).unwrap()).unwrap();
    let ours = net::connect(acceptor.address().unwrap(), &keepalive()).await.unwrap();
    let (mut theirs, _) = acceptor.accept().await.unwrap();
    theirs.set_nonblocking(false).unwrap();
    let before = net::bytes_acked(&ours).unwrap();
    ours.writable().await.unwrap();
    assert_eq!(ours.try_write(b"hello").unwrap(), 5);
    let mut five = [0; 5];
    theirs.read_exact(&mut five).unwrap();
    // What has arrived over loopback has been acknowledged, or will be before the answer is read.
    theirs.write_all(b"!").unwrap();
    ours.readable().await.unwrap();
    assert_eq!(net::bytes_acked(&ours).unwrap() - before, 5);
}

#[tokio::test]
async fn a_connection_that_was_not_redirected_has_no_original_destination() {
    let acceptor = Acceptor::new(net::listen(loopback(), Share::Alone).unwrap()).unwrap();
    let _ours = net::connect(acceptor.address().unwrap(), &keepalive()).await.unwrap();
    let (theirs, _) = acceptor.accept().await.unwrap();
    assert_eq!(net::original_destination(&net::adopt(theirs).unwrap().0), None);
}

#[tokio::test]
async fn what_has_come_before_a_connection_is_adopted_comes_with_it() {
    let acceptor = Acceptor::new(net::listen(loopback(), Share::Alone).unwrap()).unwrap();
    for said in [&b""[..], b"hello", &[b'x'; net::EARLY], &[b'x'; net::EARLY + 1]] {
        let mut ours = std::net::TcpStream::connect(acceptor.address().unwrap()).unwrap();
        ours.write_all(said).unwrap();
        let (theirs, _) = acceptor.accept().await.unwrap();
        // A busy kernel may deliver after the write has returned.
        let mut seen = [0; net::EARLY + 1];
        while !said.is_empty() && theirs.peek(&mut seen[..said.len()]).ok() != Some(said.len()) {
            tokio::task::yield_now().await;
        }
        let (mut theirs, early) = net::adopt(theirs).unwrap();
        assert_eq!(early, &said[..said.len().min(net::EARLY)]);
        assert_eq!(early.capacity() > 0, !said.is_empty(), "a silent client holds no buffer");
        drop(ours);
        let mut rest = Vec::new();
        theirs.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest.len(), said.len() - early.len(), "the end is left for who reads next");
    }
}

#[tokio::test]
async fn what_is_accepted_is_tuned_like_what_is_dialled() {
    let acceptor = Acceptor::new(net::listen(loopback(), Share::Alone).unwrap()).unwrap();
    let ours = net::connect(acceptor.address().unwrap(), &net::KEEPALIVE).await.unwrap();
    let (theirs, _) = acceptor.accept().await.unwrap();
    let (theirs, _) = net::adopt(theirs).unwrap();
    let options = |stream: &tokio::net::TcpStream| {
        let socket = socket2::SockRef::from(stream);
        let probes = (socket.tcp_keepalive_time().unwrap(), socket.tcp_keepalive_interval().unwrap());
        let times = (socket.tcp_keepalive_retries().unwrap(), socket.tcp_user_timeout().unwrap());
        let sends = (socket.tcp_nodelay().unwrap(), socket.tcp_notsent_lowat().unwrap());
        (socket.keepalive().unwrap(), probes, times, sends)
    };
    assert_eq!(options(&theirs), options(&ours));
    assert!(options(&ours).0 && options(&ours).3.0);
}

/// Where it woke itself, the runtime would come back to it sixty-one times before it looked at a socket.
#[tokio::test]
async fn who_gives_way_runs_again_after_every_socket_was_looked_at() {
    let (near, far) = tokio::net::UnixStream::pair().unwrap();
    let heard = Arc::new(AtomicBool::new(false));
    let listener = tokio::spawn({
        let heard = heard.clone();
        async move {
            far.readable().await.unwrap();
            heard.store(true, Ordering::Relaxed);
        }
    });
    // It waits for the socket now.
    tokio::task::yield_now().await;
    near.try_write(b"!").unwrap();
    for _ in 0..2 {
        let mut given = false;
        poll_fn(|cx| match std::mem::replace(&mut given, true) {
            true => Poll::Ready(()),
            false => {
                turn::give_way(cx);
                Poll::Pending
            }
        })
        .await;
    }
    assert!(heard.load(Ordering::Relaxed));
    listener.await.unwrap();
}

/// Takes whatever it is given, and remembers in what pieces.
#[derive(Default)]
struct Vectored {
    bytes: Vec<u8>,
    pieces: Vec<usize>,
}

impl AsyncWrite for Vectored {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(self: Pin<&mut Self>, _: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let before = this.bytes.len();
        for buf in bufs {
            this.bytes.extend_from_slice(buf);
            this.pieces.push(buf.len());
        }
        Poll::Ready(Ok(this.bytes.len() - before))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[test]
fn much_at_once_is_written_in_small_pieces_and_in_order() {
    let cx = &mut Context::from_waker(Waker::noop());
    let most = PIECES * PIECE;
    for (length, count) in [(1, 1), (PIECE, 1), (PIECE + 1, 2), (64 * 1024 + 36, 33), (most + 1, PIECES)] {
        let bytes: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
        let mut io = Vectored::default();
        let written = poll_write_in_pieces(Pin::new(&mut io), &bytes, cx);
        assert!(matches!(written, Poll::Ready(Ok(n)) if n == length.min(most)), "{length}");
        assert_eq!(io.bytes, bytes[..length.min(most)], "{length}");
        assert_eq!(io.pieces.len(), count, "{length}");
        assert!(io.pieces.iter().all(|piece| *piece <= PIECE), "{length}");
    }
}
