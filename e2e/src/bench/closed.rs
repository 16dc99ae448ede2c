//! Closed-loop HTTP/1.1 load: every connection sends again as soon as it has its answer, or opens anew for each request.

use std::cell::Cell;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;
use std::time::Instant;

use bytes::BufMut;
use bytes::BytesMut;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::bench::app::find;
use crate::bench::figures::Figures;
use crate::bench::figures::Latencies;
use crate::bench::load;
use crate::bench::load::Clock;
use crate::bench::load::Kind;
use crate::bench::load::Options;

struct Shared {
    clock: Clock,
    request: Vec<u8>,
    /// Bytes a second of each connection; 0: no limit.
    pace: u64,
    /// Requests that may still begin.
    left: Cell<u64>,
    done: Cell<u64>,
    bad: Cell<u64>,
    latencies: RefCell<Latencies>,
}

pub(super) async fn run(options: &Options, clock: Clock) -> anyhow::Result<Figures> {
    let shared = Rc::new(Shared {
        clock,
        request: load::request(options),
        pace: options.pace,
        left: Cell::new(options.requests.unwrap_or(u64::MAX)),
        done: Cell::new(0),
        bad: Cell::new(0),
        latencies: RefCell::default(),
    });
    // Nobody there at all is an error and not a figure.
    drop(TcpStream::connect(options.to).await?);
    let all = (0..options.connections).map(|number| {
        let (shared, to, fresh) = (shared.clone(), options.to, options.kind == Kind::Fresh);
        tokio::task::spawn_local(async move {
            if shared.pace > 0 {
                tokio::time::sleep(APART * number as u32).await;
            }
            let mut connection = None;
            while Instant::now() < shared.clock.end && shared.take() {
                let sent = Instant::now();
                let mut ended = exchange(&mut connection, to, &shared).await;
                if fresh && ended.is_ok() {
                    ended = end_of(&mut connection).await;
                }
                shared.count(sent, ended.is_ok());
                if ended.is_err() || fresh {
                    connection = None;
                }
            }
        })
    });
    let all: Vec<_> = all.collect();
    tokio::time::sleep_until(clock.begin.into()).await;
    load::go();
    for one in all {
        // A connection that hangs does not hold up the figures.
        let rest = clock.end + Duration::from_secs(2);
        let _ = tokio::time::timeout_at(rest.into(), one).await;
    }
    let took = if options.requests.is_some() { clock.begin.elapsed() } else { clock.end - clock.begin };
    Ok(Figures::new(shared.done.get(), shared.bad.get(), took, shared.latencies.take()))
}

impl Shared {
    fn take(&self) -> bool {
        let left = self.left.get();
        self.left.set(left.saturating_sub(1));
        left > 0
    }

    fn count(&self, sent: Instant, well: bool) {
        let now = Instant::now();
        if !well {
            self.bad.set(self.bad.get() + 1);
        } else if self.clock.counts(now) {
            self.done.set(self.done.get() + 1);
            self.latencies.borrow_mut().push(now - sent);
        }
    }
}

/// Between the first requests of those who keep to a pace: in step, all their answers would begin at the same moment for ever.
const APART: Duration = Duration::from_millis(61);

/// What is read at once by who keeps to a pace.
const PIECE: usize = 64 * 1024;

/// A connection and what was read from it.
type Connection = (TcpStream, BytesMut);

async fn exchange(
    connection: &mut Option<Connection>,
    to: std::net::SocketAddr,
    shared: &Shared,
) -> anyhow::Result<()> {
    let (io, read) = match connection {
        Some(connection) => connection,
        None => {
            let io = TcpStream::connect(to).await?;
            io.set_nodelay(true)?;
            connection.insert((io, BytesMut::with_capacity(32 * 1024)))
        }
    };
    io.write_all(&shared.request).await?;
    read.clear();
    let begun = tokio::time::Instant::now();
    loop {
        if shared.pace > 0 {
            let due = Duration::from_secs_f64(read.len() as f64 / shared.pace as f64);
            tokio::time::sleep_until(begun + due).await;
            read.reserve(PIECE);
        }
        let most = if shared.pace > 0 { PIECE } else { usize::MAX };
        anyhow::ensure!(io.read_buf(&mut (&mut *read).limit(most)).await? > 0, "closed before the answer was whole");
        if let Some(answer) = answer(read)? {
            anyhow::ensure!(answer, "not a 200");
            return Ok(());
        }
    }
}

/// The server closes, as it was asked to: so the used port rests at its side.
async fn end_of(connection: &mut Option<Connection>) -> anyhow::Result<()> {
    if let Some((io, read)) = connection {
        while io.read_buf(read).await? > 0 {}
    }
    Ok(())
}

/// `None`: not whole yet. Otherwise whether it is a 200.
pub(super) fn answer(read: &[u8]) -> anyhow::Result<Option<bool>> {
    let Some(end) = find(read, b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(&read[..end])?;
    let length = head.split("\r\n").find_map(|line| {
        let (name, value) = line.split_at_checked(15)?;
        name.eq_ignore_ascii_case("content-length:").then(|| value.trim().parse::<usize>().ok())?
    });
    let whole = match length {
        Some(length) => read.len() >= end + 4 + length,
        None => read.ends_with(b"0\r\n\r\n"),
    };
    Ok(whole.then(|| head.get(8..13) == Some(" 200 ")))
}
