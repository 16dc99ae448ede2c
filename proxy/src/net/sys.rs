//! The calls that no safe crate offers. It must never hold a pointer longer than one call.
#![allow(unsafe_code)] // accept4, getsockopt(TCP_INFO), sched_setscheduler, setpriority, rlimits and a descriptor in a poller have no safe form here.

use std::io;
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::os::fd::FromRawFd;
use std::os::fd::OwnedFd;

use socket2::SockAddr;
use socket2::SockAddrStorage;
use tokio::io::unix::AsyncFd;
use tokio::net::TcpStream;

/// Puts a listener into the current runtime's poller without making its connections tokio's.
pub(super) fn register(listener: TcpListener) -> io::Result<AsyncFd<TcpListener>> {
    // SAFETY: a `TcpListener` owns its descriptor, always names the same one, and closes it only when dropped, which
    // `AsyncFd` does after taking it out of the poller.
    unsafe { AsyncFd::register(listener) }.map_err(Into::into)
}

/// Accepts what does not block, which `accept` of the standard library needs a second call for.
pub(super) fn accept(listener: &TcpListener) -> io::Result<(std::net::TcpStream, SockAddr)> {
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    let fill = |address: *mut SockAddrStorage, length: *mut libc::socklen_t| {
        // SAFETY: the listener is open while it is borrowed; the kernel writes at most `length` bytes of an address.
        match unsafe { libc::accept4(listener.as_raw_fd(), address.cast(), length, flags) } {
            -1 => Err(io::Error::last_os_error()),
            // SAFETY: the kernel has just made it, and nobody else knows it.
            descriptor => Ok(unsafe { OwnedFd::from_raw_fd(descriptor) }),
        }
    };
    // SAFETY: where `fill` succeeds, the kernel has written the address and its length.
    let (descriptor, peer) = unsafe { SockAddr::try_init(fill) }?;
    Ok((descriptor.into(), peer))
}

/// TCP_INFO, of a kernel that fills it up to `tcpi_bytes_acked` (Linux 4.1).
pub(super) fn tcp_info(stream: &TcpStream) -> Option<libc::tcp_info> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the descriptor is open while `stream` is borrowed; the kernel writes at most `length` bytes into `info`.
    let outcome = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    let needed = std::mem::offset_of!(libc::tcp_info, tcpi_bytes_acked) + size_of::<u64>();
    if outcome != 0 || (length as usize) < needed {
        return None;
    }
    // SAFETY: zeroed to begin with, and every bit pattern is a valid `tcp_info` of integers.
    Some(unsafe { info.assume_init() })
}

/// Makes the calling thread one for work that nobody waits for: nicer to the others, and never ahead of one that runs because
/// it has just woken up (`SCHED_BATCH`).
pub fn work_behind(nice: i32) -> io::Result<()> {
    // The kernel's `sched_param` is this one number, and 0 the only one for this policy. The C library's own function is no
    // call of the kernel's where that is musl.
    let priority: libc::c_int = 0;
    // SAFETY: the kernel reads one number from `priority`, which outlives the call; 0 means the calling thread on Linux.
    let policy = unsafe { libc::syscall(libc::SYS_sched_setscheduler, 0, libc::SCHED_BATCH, &raw const priority) };
    // SAFETY: no pointers.
    match (policy, unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) }) {
        (0, 0) => Ok(()),
        // Each helps by itself: where one is not allowed, the other was done.
        _ => Err(io::Error::last_os_error()),
    }
}

/// Raises the soft limit of open files to the hard one: a sidecar holds two for each connection.
pub fn raise_descriptors() -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` outlives both calls, which only read or write that one struct.
    let outcome = unsafe {
        match libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) {
            0 => {
                limit.rlim_cur = limit.rlim_max;
                libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit)
            }
            failed => failed,
        }
    };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
