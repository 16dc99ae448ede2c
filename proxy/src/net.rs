//! Sockets: listening, accepting, dialling, and what only the kernel knows about a connection. It must never decide
//! anything about traffic; who asks decides.

mod sys;
#[cfg(test)]
pub(crate) mod tests;

pub mod big_read;
pub mod buffer;
pub mod turn;

use std::io;
use std::io::IoSlice;
use std::io::Read;
use std::mem::MaybeUninit;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::task::ready;
use std::time::Duration;

use bytes::BytesMut;
use leno_proto::policy::Keepalive;
use socket2::Domain;
use socket2::Protocol;
use socket2::SockRef;
use socket2::Socket;
use socket2::TcpKeepalive;
use socket2::Type;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::DuplexStream;
use tokio::io::Interest;
use tokio::io::ReadBuf;
use tokio::io::unix::AsyncFd;
use tokio::net::TcpSocket;
use tokio::net::TcpStream;

use crate::net::big_read::BigRead;
use crate::net::buffer::PIECE;
pub use crate::net::sys::raise_descriptors;
pub use crate::net::sys::work_behind;

/// A listening socket. With `Share::Workers` each worker binds one of its own to the same address and the kernel spreads
/// new connections over them.
pub fn listen(address: SocketAddr, share: Share) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // One listener per family, so that an IPv4 address never arrives in IPv6 clothes.
        socket.set_only_v6(true)?;
    }
    match share {
        Share::Workers => socket.set_reuse_port(true)?,
        Share::Alone => {}
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// As `listen`, and on `[::]` for both families, with IPv4 in IPv6 clothes: where it does not matter by which one somebody comes.
/// Where the host has no IPv6 at all, `[::]` is `0.0.0.0`.
pub fn listen_widely(address: SocketAddr) -> io::Result<TcpListener> {
    if address.ip() != Ipv6Addr::UNSPECIFIED {
        return listen(address, Share::Alone);
    }
    let both =
        Socket::new(Domain::IPV6, Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP)).and_then(|socket| {
            socket.set_reuse_address(true)?;
            socket.set_only_v6(false)?;
            socket.bind(&address.into())?;
            socket.listen(BACKLOG)?;
            Ok(socket.into())
        });
    match both {
        Err(error) if !matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied) => {
            listen((Ipv4Addr::UNSPECIFIED, address.port()).into(), Share::Alone)
        }
        both => both,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    Workers,
    Alone,
}

/// Accepts plain descriptors that do not block and that no runtime knows yet, so that a connection can move to another worker
/// first: once registered with one runtime's poller it cannot leave.
pub struct Acceptor(AsyncFd<TcpListener>);

impl Acceptor {
    /// On the runtime that will accept. What is accepted has the listener's options (Linux: a connection begins as its copy),
    /// which spares each connection seven system calls.
    pub fn new(listener: TcpListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        tune(SockRef::from(&listener), &KEEPALIVE);
        Ok(Self(sys::register(listener)?))
    }

    pub async fn accept(&self) -> io::Result<(std::net::TcpStream, SocketAddr)> {
        loop {
            let mut ready = self.0.readable().await?;
            match ready.try_io(|listener| sys::accept(listener.get_ref())) {
                Ok(outcome) => {
                    let (stream, peer) = outcome?;
                    return Ok((stream, peer.as_socket().ok_or(io::ErrorKind::ConnectionAborted)?));
                }
                Err(_would_block) => continue,
            }
        }
    }

    pub fn address(&self) -> io::Result<SocketAddr> {
        self.0.get_ref().local_addr()
    }
}

/// Registers an accepted descriptor with the current worker's runtime, with the bytes that have come already: who speaks first
/// mostly has by now, and is spared a turn of the poller and the timer beside it.
pub fn adopt(mut stream: std::net::TcpStream) -> io::Result<(TcpStream, BytesMut)> {
    let mut early = buffer::take();
    early.resize(EARLY, 0);
    // An end or an error shows again where the connection is read next.
    let come = stream.read(&mut early).unwrap_or(0);
    early.truncate(come);
    if early.is_empty() {
        buffer::give(std::mem::take(&mut early));
    }
    Ok((TcpStream::from_std(stream)?, early))
}

/// Dials; the caller bounds the time.
pub async fn connect(address: SocketAddr, keepalive: &Keepalive) -> io::Result<TcpStream> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    let stream = socket.connect(address).await?;
    tune(SockRef::from(&stream), keepalive);
    Ok(stream)
}

/// Failures are ignored: a connection without these options still carries bytes, and a peer that has just gone away makes
/// every one of them fail.
fn tune(socket: SockRef<'_>, keepalive: &Keepalive) {
    let _ = socket.set_tcp_nodelay(true);
    let probes =
        TcpKeepalive::new().with_time(keepalive.idle).with_interval(keepalive.interval).with_retries(keepalive.probes);
    let _ = socket.set_tcp_keepalive(&probes);
    let _ = socket.set_tcp_user_timeout(Some(USER_TIMEOUT));
    let _ = socket.set_tcp_notsent_lowat(NOTSENT_LOWAT);
}

/// Where the client meant to go before the redirect brought it here. `None`: it was not redirected.
pub fn original_destination(stream: &TcpStream) -> Option<SocketAddr> {
    let local = stream.local_addr().ok()?;
    let socket = SockRef::from(stream);
    let address = match local {
        SocketAddr::V4(_) => socket.original_dst_v4().ok()?,
        SocketAddr::V6(_) => socket.original_dst_v6().ok()?,
    };
    address.as_socket().filter(|original| *original != local)
}

/// Whether an idle connection is still of use: no end, no error, and no byte, which a server that owes no answer cannot
/// send in good faith. Does not consume anything and does not wait.
pub fn is_quiet(stream: &TcpStream) -> bool {
    let mut byte = [MaybeUninit::uninit()];
    match SockRef::from(stream).peek(&mut byte) {
        Ok(_) => false,
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    }
}

/// Ready once an idle connection is not quiet any more; until then the task is woken when that may be so.
pub fn poll_unquiet(stream: &TcpStream, cx: &mut Context<'_>) -> Poll<()> {
    while stream.poll_read_ready(cx).is_ready() {
        // What the poller remembers may be of the last answer: asking makes it forget.
        let asked = stream.try_io(Interest::READABLE, || match is_quiet(stream) {
            true => Err(io::ErrorKind::WouldBlock.into()),
            false => Ok(()),
        });
        if asked.is_ok() {
            return Poll::Ready(());
        }
    }
    Poll::Pending
}

/// How many bytes the other end's kernel has acknowledged; `None` where this kernel does not say.
pub fn bytes_acked(stream: &TcpStream) -> Option<u64> {
    sys::tcp_info(stream).map(|info| info.tcpi_bytes_acked)
}

/// The kernel's average of the time there and back.
pub fn round_trip(stream: &TcpStream) -> Option<Duration> {
    sys::tcp_info(stream).map(|info| Duration::from_micros(info.tcpi_rtt.into()))
}

/// Whether the other end is on this machine, or no farther than its zone: so near that little on its way fills the path.
pub fn is_near(io: &Io) -> bool {
    io.tcp().and_then(round_trip).is_some_and(|there_and_back| there_and_back < NEAR)
}

/// Makes the close a reset: for ends that must not look clean.
pub fn reset_on_close(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// Refuses an accepted connection with a reset.
pub fn refuse(stream: std::net::TcpStream) {
    let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
}

/// Every byte stream that a connection can be.
pub enum Io {
    Tcp(TcpStream),
    TlsServer(Box<tokio_rustls::server::TlsStream<BigRead<TcpStream>>>),
    TlsClient(Box<tokio_rustls::client::TlsStream<BigRead<TcpStream>>>),
    /// In-process pipe, for tests of whole meshes.
    Memory(DuplexStream),
}

impl Io {
    /// Writes what only the close follows: the kernel keeps it for the FIN, and one segment carries both.
    pub fn poll_write_last(&mut self, cx: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let Self::Tcp(stream) = self else { return Pin::new(self).poll_write_vectored(cx, parts) };
        loop {
            ready!(stream.poll_write_ready(cx))?;
            let send = || SockRef::from(&*stream).send_vectored_with_flags(parts, libc::MSG_MORE);
            match stream.try_io(Interest::WRITABLE, send) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                outcome => return Poll::Ready(outcome),
            }
        }
    }

    /// The socket below, if there is one.
    pub fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(stream) => Some(stream),
            Self::TlsServer(stream) => Some(stream.get_ref().0.io()),
            Self::TlsClient(stream) => Some(stream.get_ref().0.io()),
            Self::Memory(_) => None,
        }
    }
}

/// A stream of which the beginning was already read.
pub struct Early {
    io: Io,
    read: BytesMut,
}

impl Early {
    pub fn new(io: Io, read: BytesMut) -> Self {
        Self { io, read }
    }
}

impl AsyncRead for Early {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.read.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let count = self.read.len().min(buf.remaining());
        buf.put_slice(&self.read.split_to(count));
        if self.read.is_empty() {
            buffer::give(std::mem::take(&mut self.read));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Early {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

macro_rules! each {
    ($self:ident, $io:ident => $call:expr) => {
        match $self.get_mut() {
            Io::Tcp($io) => $call,
            Io::TlsServer($io) => $call,
            Io::TlsClient($io) => $call,
            Io::Memory($io) => $call,
        }
    };
}

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self, io => Pin::new(io).poll_read(cx, buf))
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(io) => Pin::new(io).poll_write(cx, buf),
            Self::TlsServer(io) => poll_write_in_pieces(Pin::new(io), buf, cx),
            Self::TlsClient(io) => poll_write_in_pieces(Pin::new(io), buf, cx),
            Self::Memory(io) => Pin::new(io).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, io => Pin::new(io).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Io::Tcp(io) => io.is_write_vectored(),
            Io::TlsServer(io) => io.is_write_vectored(),
            Io::TlsClient(io) => io.is_write_vectored(),
            Io::Memory(io) => io.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, io => Pin::new(io).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, io => Pin::new(io).poll_shutdown(cx))
    }
}

/// TLS copies what it encrypts, each piece by itself. The bytes on the wire are the same.
fn poll_write_in_pieces<T: AsyncWrite>(io: Pin<&mut T>, bytes: &[u8], cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    if bytes.len() <= PIECE {
        return io.poll_write(cx, bytes);
    }
    let mut pieces = [IoSlice::new(&[]); PIECES];
    let mut count = 0;
    for (piece, bytes) in pieces.iter_mut().zip(bytes.chunks(PIECE)) {
        *piece = IoSlice::new(bytes);
        count += 1;
    }
    io.poll_write_vectored(cx, &pieces[..count])
}

/// In one write: what a batch of HTTP/2 has at most, which is four full frames and a little more.
const PIECES: usize = 33;
/// The kernel cuts it to net.core.somaxconn.
const BACKLOG: i32 = 4096;
/// Of what a connection begins with: a request's head mostly fits, and a ClientHello with a post-quantum share (1.7 KB) does.
pub const EARLY: usize = 4096;

/// For connections that others opened; those that we open follow their policy.
const KEEPALIVE: Keepalive = Keepalive { idle: Duration::from_secs(60), interval: Duration::from_secs(10), probes: 3 };

/// Unacknowledged bytes for this long mean that the path is gone (research: connection.keepalive).
const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// There and back, of who is near: 256 KiB on their way are 2 Gbit/s then, and more where it is less.
const NEAR: Duration = Duration::from_millis(1);

/// Bytes that the kernel holds unsent at most before it stops saying "writable": what waits in the proxy can still be
/// ordered, what waits in the kernel cannot.
const NOTSENT_LOWAT: u32 = 32 * 1024;
