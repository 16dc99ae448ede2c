//! Runs the tests: interleaved rounds in which every peer has its turn, one slice after the other. It must never let two
//! slices overlap, and says how much of the machine others took.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;

use crate::bench::awake::Awake;
use crate::bench::certificates;
use crate::bench::child::Load;
use crate::bench::child::Target;
use crate::bench::congestion::Cubic;
use crate::bench::counters;
use crate::bench::counters::SystemCalls;
use crate::bench::counts;
use crate::bench::decisions;
use crate::bench::figures::Figures;
use crate::bench::gates::Figure;
use crate::bench::gates::Spec;
use crate::bench::gates::TESTS;
use crate::bench::gates::Test;
use crate::bench::gates::Work;
use crate::bench::load::Kind;
use crate::bench::peers::Door;
use crate::bench::peers::Name;
use crate::bench::peers::Peer;
use crate::bench::peers::Setup;
use crate::bench::peers::leno;
use crate::mesh;
use crate::process::Process;

/// CPU of both sidecars; everything else has the other one.
pub(super) const SIDECARS: usize = 1;
pub(super) const OTHERS: usize = 0;

/// A slice in which other programs had more of a core than this is tried again, where there is time for it.
const FOREIGN_MAX: f64 = 0.10;

pub struct Plan {
    pub quick: bool,
    /// Names of tests; empty: all.
    pub only: Vec<String>,
    pub rounds: usize,
    /// Of one slice.
    pub seconds: f64,
    /// How often a slice is tried again when the machine was not ours.
    pub patience: usize,
    pub envoy: Option<PathBuf>,
    /// Everything that is written.
    pub folder: PathBuf,
}

/// What one slice gave.
#[derive(Debug, Clone)]
pub struct Record {
    pub round: usize,
    pub test: &'static str,
    pub peer: Name,
    pub figures: BTreeMap<Figure, f64>,
    pub bad: u64,
    /// Latencies that say nothing, because the generator stood still.
    pub late: u64,
    /// Cores that other programs had meanwhile, and that the machine's host took.
    pub foreign: f64,
    pub group: String,
}

/// Measures everything that the plan asks for.
///
/// # Errors
/// A peer does not start, or a load does not run.
pub async fn run(plan: &Plan) -> anyhow::Result<Vec<Record>> {
    std::fs::create_dir_all(&plan.folder)?;
    counters::raise_descriptors()?;
    certificates::write(&plan.folder.join("certificates"))?;
    let (_awake, _cubic) = (Awake::start(&[OTHERS, SIDECARS])?, Cubic::start());
    let (pinned, free): (Vec<&Test>, Vec<&Test>) =
        selected(plan)?.into_iter().partition(|test| !matches!(test.work, Work::Free(_)));
    let mut progress = Progress::new(slices(plan, &pinned) + slices(plan, &free));
    let mut records = Vec::new();
    for (tests, core) in [(pinned, Some(SIDECARS)), (free, None)] {
        if !tests.is_empty() {
            let mut stage = Stage::start(plan, &tests, core).await?;
            stage.run(plan, &tests, &mut progress, &mut records).await?;
        }
    }
    progress.end();
    Ok(records)
}

fn selected(plan: &Plan) -> anyhow::Result<Vec<&'static Test>> {
    for name in &plan.only {
        let names: Vec<&str> = TESTS.iter().map(|test| test.name).collect();
        anyhow::ensure!(names.contains(&name.as_str()), "no test {name:?}; there are {}", names.join(", "));
    }
    let wanted = |test: &&Test| match plan.only.is_empty() {
        true => test.quick || !plan.quick,
        false => plan.only.iter().any(|name| name == test.name),
    };
    Ok(TESTS.iter().filter(wanted).collect())
}

/// Who takes part in a test, Leno first.
fn peers(plan: &Plan, test: &Test) -> Vec<Name> {
    let wanted = |name: &&Name| match name {
        Name::Envoy => plan.envoy.is_some(),
        // Without sidecars only where it is taken off, in a hurry.
        Name::Nginx => !plan.quick,
        Name::Direct => !plan.quick || test.gate.iter().any(|limit| limit.figure.is_added()),
        Name::Leno | Name::Minimal | Name::Haproxy => true,
    };
    std::iter::once(Name::Leno).chain(test.peers.iter().filter(wanted).copied()).collect()
}

fn rounds(plan: &Plan, test: &Test) -> usize {
    match test.work {
        Work::Size | Work::IdleMemory | Work::Allocations | Work::Decision => 1,
        Work::BusyMemory => plan.rounds.min(3),
        Work::Load(_) | Work::Free(_) | Work::Start | Work::SystemCalls(_) => plan.rounds,
    }
}

fn slices(plan: &Plan, tests: &[&Test]) -> usize {
    tests.iter().map(|test| rounds(plan, test) * peers(plan, test).len()).sum()
}

/// Peers and application that run at one time.
struct Stage {
    peers: BTreeMap<Name, Peer>,
    app: Process,
    core: Option<usize>,
}

impl Stage {
    async fn start(plan: &Plan, tests: &[&Test], core: Option<usize>) -> anyhow::Result<Self> {
        let mut names: Vec<Name> = tests.iter().flat_map(|test| peers(plan, test)).collect();
        names.sort();
        names.dedup();
        Self::of(&names, &plan.folder, plan.envoy.as_deref(), core).await
    }

    async fn of(names: &[Name], folder: &Path, envoy: Option<&Path>, core: Option<usize>) -> anyhow::Result<Self> {
        let networks = networks(names.len() + 1)?;
        let own = networks[names.len()].octets();
        let at = |last: u8| SocketAddr::from(([own[0], own[1], own[2], last], 8080));
        let mut http1 = vec![at(21)];
        let mut http2 = vec![at(22)];
        for (name, network) in names.iter().zip(&networks) {
            if matches!(name, Name::Leno | Name::Minimal) {
                let (one, two) = leno::applications(*network);
                http1.push(one);
                http2.push(two);
            }
        }
        let app = counters::pinned(core.map(|_| OTHERS), || start_app(folder, &http1, &http2))?;
        let mut peers = BTreeMap::new();
        for (name, network) in names.iter().copied().zip(networks) {
            eprintln!("starting {}", name.as_str());
            let setup = Setup {
                network,
                http1: at(21),
                http2: at(22),
                spans: at(22),
                workers: if core.is_some() { 1 } else { 2 },
                core,
                folder: folder.join(name.as_str()),
                certificates: folder.join("certificates"),
                envoy: envoy.map(Path::to_path_buf).unwrap_or_default(),
            };
            peers.insert(name, Peer::start(name, setup).await?);
        }
        Ok(Self { peers, app, core })
    }

    async fn run(
        &mut self,
        plan: &Plan,
        tests: &[&'static Test],
        progress: &mut Progress,
        records: &mut Vec<Record>,
    ) -> anyhow::Result<()> {
        for round in 0..plan.rounds {
            for test in tests.iter().filter(|test| round < rounds(plan, test)) {
                let mut names = peers(plan, test);
                // Another one begins each time: what drifts, drifts for all.
                let turn = round % names.len();
                names.rotate_left(turn);
                for name in names {
                    let record = self.slice(plan, test, name, round).await?;
                    progress.step(plan, &record);
                    records.push(record);
                }
            }
        }
        Ok(())
    }

    async fn slice(&mut self, plan: &Plan, test: &'static Test, name: Name, round: usize) -> anyhow::Result<Record> {
        let mut last = None;
        for _ in 0..=plan.patience {
            let record = self.measure(plan, test, name, round).await?;
            let quiet = record.foreign <= FOREIGN_MAX;
            last = Some(record);
            if quiet {
                break;
            }
        }
        last.context("a slice is tried at least once")
    }

    async fn measure(&mut self, plan: &Plan, test: &'static Test, name: Name, round: usize) -> anyhow::Result<Record> {
        let mut record = Record {
            round,
            test: test.name,
            peer: name,
            figures: BTreeMap::new(),
            bad: 0,
            late: 0,
            foreign: 0.0,
            group: String::new(),
        };
        let app = self.app.pid();
        let core = self.core;
        let peer = self.peers.get_mut(&name).with_context(|| format!("{} does not run", name.as_str()))?;
        match &test.work {
            Work::Load(spec) | Work::Free(spec) => load(plan, peer, spec, app, core, &mut record)?,
            Work::SystemCalls(spec) => {
                let counting = SystemCalls::begin(&peer.pair());
                // It attaches first; what is idle calls nothing.
                std::thread::sleep(Duration::from_millis(300));
                let requests = if plan.quick { "10000" } else { "40000" };
                let child = begin(peer, spec, 60.0, core, &["--requests", requests, "--warm", "0"])?;
                let figures = child.end()?;
                record.bad = figures.bad;
                if let Some(calls) = counting.and_then(SystemCalls::end) {
                    record.figures.insert(Figure::Calls, calls as f64 / figures.done.max(1) as f64 / 2.0);
                }
            }
            Work::Start => {
                let took = peer.restart()?;
                record.figures.insert(Figure::Start, took.as_secs_f64() * 1e3);
            }
            Work::BusyMemory => {
                peer.restart()?;
                let spec = Spec { connections: 1000, ..BUSY };
                let mut child = start(plan, peer, &spec, core)?;
                child.warm()?;
                std::thread::sleep(Duration::from_secs_f64(plan.seconds * 0.9));
                record.figures.insert(Figure::Memory, counters::rss(&peer.pair()));
                record.bad = child.end()?.bad;
            }
            Work::IdleMemory => {
                let pid = peer.idle().context("an idle sidecar was asked for")?;
                record.figures.insert(Figure::Memory, counters::rss(&[pid]));
            }
            Work::Allocations => {
                let each = counts::measure(&plan.folder, &["c32".to_owned()]).await?;
                let sum: f64 = each.iter().map(counts::Measured::allocations).sum();
                record.figures.insert(Figure::Allocations, sum / each.len().max(1) as f64);
            }
            Work::Decision => {
                let steps = decisions::measure()?;
                let together = steps.last().context("all of them together")?;
                record.figures.insert(Figure::Decision, together.nanos / 1e3);
            }
            Work::Size => {
                let program = match name {
                    Name::Envoy => plan.envoy.clone().unwrap_or_default(),
                    _ => std::env::current_exe()?.with_file_name("leno-proxy"),
                };
                record.figures.insert(Figure::Size, counters::stripped(&program, &plan.folder)?);
            }
        }
        Ok(record)
    }
}

/// Leno alone, for a profile.
pub struct Pair(Stage);

impl Pair {
    /// # Errors
    /// It does not start.
    pub async fn start(folder: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder)?;
        certificates::write(&folder.join("certificates"))?;
        Ok(Self(Stage::of(&[Name::Leno], folder, None, Some(SIDECARS)).await?))
    }

    pub fn sides(&self) -> Vec<(&'static str, u32)> {
        let pids = self.0.peers.get(&Name::Leno).map(Peer::pair).unwrap_or_default();
        counts::SIDES.into_iter().zip(pids).collect()
    }

    /// A case as load; `watch` starts what observes, which is interrupted at the end. Returns the CPU seconds of `pid`.
    ///
    /// # Errors
    /// The load does not run.
    pub fn load(
        &self,
        case: &counts::Case,
        pid: u32,
        mut watch: impl FnMut() -> anyhow::Result<Child>,
    ) -> anyhow::Result<(Figures, f64)> {
        let peer = self.0.peers.get(&Name::Leno).context("it runs")?;
        let spec = Spec { connections: case.connections, ..BUSY };
        let mut load = begin(peer, &spec, 4.0, Some(SIDECARS), case.load)?;
        load.warm()?;
        let before = counters::cpu(&[pid]);
        let mut watching = watch()?;
        load.wait_for_end()?;
        let cpu = counters::cpu(&[pid]) - before;
        let _ = Command::new("kill").args(["-INT", &watching.id().to_string()]).status();
        let _ = watching.wait();
        Ok((load.end()?, cpu))
    }
}

/// Every load of the table on Leno alone, whose sidecars are then told to end, and waited for.
///
/// # Errors
/// It does not start, a load does not run, or a sidecar does not end.
pub async fn train(folder: &Path) -> anyhow::Result<()> {
    let mut pair = Pair::start(folder).await?;
    let peer = pair.0.peers.get_mut(&Name::Leno).context("it runs")?;
    for test in TESTS {
        let Work::Load(spec) = &test.work else { continue };
        let figures = begin(peer, spec, TRAINING, Some(SIDECARS), &[])?.end()?;
        println!("{:12} {:>9.0}/s, {} failed", test.name, figures.rate(), figures.bad);
    }
    peer.end().await
}

/// Seconds of each load.
const TRAINING: f64 = 2.0;

const BUSY: Spec = Spec {
    kind: Kind::Closed,
    door: Door::Http1,
    connections: 1000,
    streams: 1,
    rate: 0,
    path: "/1k",
    post: 0,
    headers: false,
};

fn load(
    plan: &Plan,
    peer: &Peer,
    spec: &Spec,
    app: u32,
    core: Option<usize>,
    record: &mut Record,
) -> anyhow::Result<()> {
    let (outbound, inbound) = (peer.outbound(), peer.inbound());
    let everyone: Vec<u32> = outbound.iter().chain(&inbound).copied().chain([app]).collect();
    let mut child = start(plan, peer, spec, core)?;
    child.warm()?;
    let ours = || counters::cpu(&everyone) + counters::own_cpu();
    let (begun, machine, load) = (Instant::now(), counters::machine(), counters::cpu(&[child.pid()]));
    let before = (counters::cpu(&outbound), counters::cpu(&inbound), ours());
    child.wait_for_end()?;
    let after = (counters::cpu(&outbound), counters::cpu(&inbound), ours());
    let (machine_after, load_after) = (counters::machine(), counters::cpu(&[child.pid()]));
    let wall = begun.elapsed().as_secs_f64();
    let figures = child.end()?;
    let known = after.2 - before.2 + (load_after - load).max(0.0);
    record.foreign = ((machine_after.0 - machine.0 - known + machine_after.1 - machine.1) / wall).max(0.0);
    (record.bad, record.late) = (figures.bad, figures.late);
    record.group.clone_from(&figures.group);
    let each = |seconds: f64| seconds * 1e6 / figures.done.max(1) as f64;
    let mut put = |figure, value| record.figures.insert(figure, value);
    put(Figure::Rate, figures.rate());
    if !outbound.is_empty() {
        put(Figure::Cpu, each(after.0 - before.0 + after.1 - before.1));
        put(Figure::CpuInbound, each(after.1 - before.1));
    }
    // On a machine that stands still all the time, no latency can be judged.
    if figures.p50 > 0.0 {
        put(Figure::P50, figures.p50);
        put(Figure::P99, figures.p99);
    }
    Ok(())
}

fn start(plan: &Plan, peer: &Peer, spec: &Spec, core: Option<usize>) -> anyhow::Result<Load> {
    // Of a thousand requests a second few are the hundredth part: they get longer.
    let seconds = if spec.kind == Kind::Paced { plan.seconds * 2.0 } else { plan.seconds };
    begin(peer, spec, seconds, core, &[])
}

fn begin(peer: &Peer, spec: &Spec, seconds: f64, core: Option<usize>, more: &[&str]) -> anyhow::Result<Load> {
    let to = peer.door(spec.door).with_context(|| format!("{} has no {:?} door", peer.name.as_str(), spec.door))?;
    let (certificates, alpn) = peer.handshake();
    let target = Target { to, certificates: &certificates, alpn };
    Load::begin(&target, spec, seconds, core.map(|_| OTHERS), more)
}

/// Loopback networks that nobody uses, all different where the folder of a mesh shows it.
pub(super) fn networks(count: usize) -> anyhow::Result<Vec<Ipv4Addr>> {
    let mut found: Vec<Ipv4Addr> = Vec::new();
    while found.len() < count {
        let network = mesh::free_network()?;
        if found.iter().all(|other| other.octets()[1] != network.octets()[1]) {
            found.push(network);
        }
    }
    Ok(found)
}

pub(super) fn start_app(folder: &Path, http1: &[SocketAddr], http2: &[SocketAddr]) -> anyhow::Result<Process> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("app");
    for address in http1 {
        command.args(["--http1", &address.to_string()]);
    }
    for address in http2 {
        command.args(["--http2", &address.to_string()]);
    }
    let process = Process::start("app", &mut command, folder)?;
    let begun = Instant::now();
    for address in http1.iter().chain(http2) {
        while std::net::TcpStream::connect(address).is_err() {
            anyhow::ensure!(
                begun.elapsed() < Duration::from_secs(10),
                "the application does not listen: {}",
                process.tail()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    Ok(process)
}

/// How far it is, and how long it takes still.
struct Progress {
    begun: Instant,
    all: usize,
    done: usize,
}

impl Progress {
    fn new(all: usize) -> Self {
        Self { begun: Instant::now(), all, done: 0 }
    }

    fn step(&mut self, plan: &Plan, record: &Record) {
        if self.done == 0 {
            // What came before is no slice; the first one tells how long they take, about.
            self.begun = Instant::now() - Duration::from_secs_f64(plan.seconds * 1.5);
        }
        self.done += 1;
        let left = self.begun.elapsed().as_secs_f64() / self.done as f64 * (self.all - self.done) as f64;
        let shown: Vec<String> = record
            .figures
            .iter()
            .filter(|(figure, _)| **figure != Figure::CpuInbound)
            .map(|(figure, value)| format!("{} {}", crate::bench::report::short(*value), figure.label()))
            .collect();
        let bad = if record.bad > 0 { format!("  {} BAD", record.bad) } else { String::new() };
        let line = format!(
            "[{}/{}] {}:{:02} left  round {}  {:11} {:12} {}{bad}",
            self.done,
            self.all,
            left as u64 / 60,
            left as u64 % 60,
            record.round + 1,
            record.test,
            record.peer.as_str(),
            shown.join("  "),
        );
        if std::io::stderr().is_terminal() {
            eprint!("\r\x1b[K{line}");
        } else {
            eprintln!("{line}");
        }
    }

    fn end(&self) {
        if std::io::stderr().is_terminal() {
            eprintln!("\r\x1b[Kmeasured in {} s", self.begun.elapsed().as_secs());
        }
    }
}
