//! Workers: a thread with a runtime of its own each, the count of what each one carries, and the choice of who takes a new
//! connection. It must never let a panic leave a worker half dead: a connection's ends that connection, any other the process.

#[cfg(test)]
mod tests;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use leno_proto::policy::ServicePort;
use tokio::runtime::LocalOptions;
use tokio::sync::mpsc;

use crate::panics::Vital;

/// What a listener stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Front {
    /// The redirect sends the application's connections here; each knows where it meant to go.
    Outbound,
    /// The application connects here for one service's port, without any redirect.
    OutboundTo(ServicePort),
    /// The redirect sends connections for the application here; each knows which port it meant.
    Inbound,
    /// Peers connect here for one port of the application, without any redirect.
    InboundTo(SocketAddr),
}

/// A new connection on its way to its worker.
pub struct Accepted {
    pub stream: std::net::TcpStream,
    pub peer: SocketAddr,
    pub front: Arc<Front>,
    pub seat: Seat,
}

/// All workers, as everyone may see them.
pub struct Crew {
    desks: Box<[Desk]>,
    open: AtomicUsize,
    open_max: usize,
    refused: AtomicU64,
}

/// One worker, as the others see it.
struct Desk {
    // Bounded by `open_max` for connections, and by the waiters of the gates for the rest.
    inbox: mpsc::UnboundedSender<Job>,
    open: AtomicUsize,
}

/// One worker, as its own thread sees it.
pub struct Worker {
    pub index: usize,
    pub crew: Arc<Crew>,
    pub inbox: mpsc::UnboundedReceiver<Job>,
}

/// What comes to a worker from others.
pub enum Job {
    Connection(Accepted),
    /// Somebody waits for a connection to this destination: give up an idle one.
    Reclaim(ServicePort),
}

/// A connection's place on a worker, given back when dropped.
pub struct Seat {
    crew: Arc<Crew>,
    worker: usize,
}

/// Starts the threads. `story` is a worker's whole life, built and run on its own thread; when it returns the thread ends.
pub fn start<S, F>(count: usize, open_max: usize, story: S) -> io::Result<(Arc<Crew>, Vec<JoinHandle<()>>)>
where
    S: Fn(Worker) -> F + Clone + Send + 'static,
    F: Future<Output = ()>,
{
    let (desks, inboxes): (Vec<_>, Vec<_>) = (0..count)
        .map(|_| {
            let (inbox, receiver) = mpsc::unbounded_channel();
            (Desk { inbox, open: AtomicUsize::new(0) }, receiver)
        })
        .unzip();
    let crew = Arc::new(Crew { desks: desks.into(), open: AtomicUsize::new(0), open_max, refused: AtomicU64::new(0) });
    let mut threads = Vec::with_capacity(count);
    for (index, inbox) in inboxes.into_iter().enumerate() {
        let worker = Worker { index, crew: Arc::clone(&crew), inbox };
        let story = story.clone();
        threads
            .push(std::thread::Builder::new().name(format!("leno-worker-{index}")).spawn(move || live(worker, story))?);
    }
    Ok((crew, threads))
}

/// A worker without a thread: whoever holds it is its thread. For meshes in one process.
pub fn alone(open_max: usize) -> (Arc<Crew>, Worker) {
    let (inbox, receiver) = mpsc::unbounded_channel();
    let crew = Arc::new(Crew {
        desks: Box::new([Desk { inbox, open: AtomicUsize::new(0) }]),
        open: AtomicUsize::new(0),
        open_max,
        refused: AtomicU64::new(0),
    });
    let worker = Worker { index: 0, crew: Arc::clone(&crew), inbox: receiver };
    (crew, worker)
}

fn live<S, F>(worker: Worker, story: S)
where
    S: Fn(Worker) -> F,
    F: Future<Output = ()>,
{
    let _vital = Vital("a worker");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .expect("a worker without a runtime is no worker");
    runtime.block_on(story(worker));
}

impl Crew {
    /// Hands a connection over, before any runtime knows its descriptor.
    pub fn give(&self, accepted: Accepted) {
        // A worker that has gone takes nothing more: dropping the connection closes it.
        let _ = self.desks[accepted.seat.worker].inbox.send(Job::Connection(accepted));
    }

    /// A place on the least loaded worker; `here` wins ties, for a connection that stays costs nothing. `None`: all taken.
    pub fn seat(self: &Arc<Self>, here: usize) -> Option<Seat> {
        if self.open.fetch_add(1, Ordering::Relaxed) >= self.open_max {
            self.open.fetch_sub(1, Ordering::Relaxed);
            self.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        let load = |worker: usize| self.desks[worker].open.load(Ordering::Relaxed);
        let worker = (0..self.desks.len()).min_by_key(|&worker| (load(worker), worker != here)).unwrap_or(here);
        self.desks[worker].open.fetch_add(1, Ordering::Relaxed);
        Some(Seat { crew: Arc::clone(self), worker })
    }

    /// Asks every worker for an idle connection's permit.
    pub fn reclaim(&self, target: &ServicePort) {
        for desk in &self.desks {
            let _ = desk.inbox.send(Job::Reclaim(target.clone()));
        }
    }

    pub fn workers(&self) -> usize {
        self.desks.len()
    }

    /// Connections open now on every worker.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Connections refused because `open_max` were open.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.crew.desks[self.worker].open.fetch_sub(1, Ordering::Relaxed);
        self.crew.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How many workers fit a CPU quota (in cores). Without one a sidecar is a guest: one worker.
pub fn count(quota: Option<f64>) -> usize {
    quota.map_or(1, |cores| (cores.floor() as usize).clamp(1, WORKERS_MAX))
}

/// The quota of this process's control group, in cores: version 2's `cpu.max`, else version 1's pair of files.
pub fn cpu_quota() -> Option<f64> {
    let read = |path: String| std::fs::read_to_string(path).ok();
    let groups = read("/proc/self/cgroup".into()).unwrap_or_default();
    let own = groups.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/").trim_end_matches('/');
    if let Some(text) = read(format!("/sys/fs/cgroup{own}/cpu.max")).or_else(|| read("/sys/fs/cgroup/cpu.max".into())) {
        return parse_cpu_max(&text);
    }
    let quota: f64 = read("/sys/fs/cgroup/cpu/cpu.cfs_quota_us".into())?.trim().parse().ok()?;
    let period: f64 = read("/sys/fs/cgroup/cpu/cpu.cfs_period_us".into())?.trim().parse().ok()?;
    (quota > 0.0 && period > 0.0).then(|| quota / period)
}

/// `max 100000` or `150000 100000` (Documentation/admin-guide/cgroup-v2.rst).
fn parse_cpu_max(text: &str) -> Option<f64> {
    let (quota, period) = text.trim().split_once(' ')?;
    let (quota, period): (f64, f64) = (quota.parse().ok()?, period.parse().ok()?);
    (period > 0.0).then(|| quota / period)
}

/// More buy nothing for one pod, and each costs a connection to every endpoint.
const WORKERS_MAX: usize = 4;
