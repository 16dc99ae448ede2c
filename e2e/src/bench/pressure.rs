//! What must hold while something else goes on: latencies beside policy updates, certificates that change, scrapes and bulk
//! streams; memory after churn and with ten thousand connections. It must never compare what was not measured in turns.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::Once;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;

use crate::bench::awake::Awake;
use crate::bench::certificates;
use crate::bench::child::Load;
use crate::bench::child::Target;
use crate::bench::congestion::Cubic;
use crate::bench::counters;
use crate::bench::figures::median;
use crate::bench::gates::Spec;
use crate::bench::known;
use crate::bench::known::Known;
use crate::bench::load::Kind;
use crate::bench::peers::Door;
use crate::bench::peers::leno;
use crate::bench::run;
use crate::bench::run::OTHERS;
use crate::bench::run::SIDECARS;
use crate::manifests;
use crate::manifests::NAMESPACE;
use crate::mesh::Mesh;
use crate::mesh::Settings;
use crate::mesh::TRUST_DOMAIN;
use crate::process::Process;
use crate::scrape::scrape;

pub struct Plan {
    /// Names of cases; empty: all.
    pub only: Vec<String>,
    /// Slices with and without, in turns.
    pub pairs: usize,
    /// Of one slice.
    pub seconds: f64,
    /// Of the load whose memory is watched.
    pub churn: Duration,
    pub crowd: usize,
    /// Of the crowd, before its memory is read.
    pub idle: Duration,
    pub folder: PathBuf,
}

/// One thing that was looked at.
pub struct Finding {
    pub name: &'static str,
    pub text: String,
    pub holds: bool,
}

/// Names of all cases, in their order.
pub const CASES: [&str; 7] = ["updates", "rotation", "scrape", "bulk", "churn", "crowd", "known"];

/// p99 beside updates, rotation and scrapes, in times of the quiet one.
const QUIET_MAX: f64 = 1.2;
/// Bytes a second of each bulk stream, as its reader takes them. Readers without a limit would fill both cores, and what is
/// measured would be the kernel's turns between processes.
const BULK_PACE: &str = "8000000";
/// p99 of small requests beside bulk streams.
const BULK_MAX: f64 = 2.0;
/// Of the last third of the churn's samples to the middle third.
const GROWTH_MAX: f64 = 1.05;
/// MiB, of the crowd's sidecar.
const CROWD_MAX: f64 = 200.0;

/// Who has the core that all but the sidecars share: an application that writes megabytes would keep the client from its answer.
const CLIENT_FIRST: u8 = 2;
const APPLICATION: u8 = 1;

/// Leaves that are renewed every five to seven seconds.
const SHORT: Duration = Duration::from_secs(10);
const LONG: Duration = Duration::from_secs(24 * 3600);

const PACED: Spec = Spec {
    kind: Kind::Paced,
    door: Door::Http1,
    connections: 32,
    streams: 1,
    rate: 2000,
    path: "/1k",
    post: 0,
    headers: false,
};

/// Looks at everything that the plan asks for; `say` hears of each as it is found.
///
/// # Errors
/// A mesh does not start, or a load does not run.
pub async fn run(plan: &Plan, say: &dyn Fn(&Finding)) -> anyhow::Result<Vec<Finding>> {
    for name in &plan.only {
        anyhow::ensure!(CASES.contains(&name.as_str()), "no case {name:?}; there are {}", CASES.join(", "));
    }
    std::fs::create_dir_all(&plan.folder)?;
    counters::raise_descriptors()?;
    let (_awake, _cubic) = (Awake::start(&[OTHERS, SIDECARS])?, Cubic::start());
    let mut findings = Vec::new();
    for name in CASES.into_iter().filter(|name| plan.only.is_empty() || plan.only.iter().any(|only| only == name)) {
        let finding = look(plan, name).await?;
        say(&finding);
        findings.push(finding);
    }
    Ok(findings)
}

async fn look(plan: &Plan, name: &'static str) -> anyhow::Result<Finding> {
    if name == "known" {
        let Known { text, holds } = known::look(&plan.folder).await?;
        return Ok(Finding { name, text, holds });
    }
    let leaf_ttl = if name == "rotation" { SHORT } else { LONG };
    let stage = Stage::start(&plan.folder, leaf_ttl).await?;
    Ok(match name {
        "updates" => {
            let manifests = stage.mesh.manifests();
            let before = stage.pushed().await?;
            let begun = Instant::now();
            let mut finding = stage.beside(plan, name, PACED, QUIET_MAX, || {
                let manifests = manifests.clone();
                Disturbance::every(UPDATE, move |number| update(&manifests, number))
            })?;
            // Half of the time is quiet.
            let rate = (stage.pushed().await? - before) / begun.elapsed().as_secs_f64() * 2.0;
            let _ = write!(finding.text, "; {rate:.0} resources pushed a second meanwhile");
            finding
        }
        "rotation" => {
            let quiet = Stage::start(&plan.folder, LONG).await?;
            let before = stage.renewals().await?;
            let mut finding = compare(plan, name, PACED, QUIET_MAX, &quiet, &stage, || {
                stage.rotate();
                Ok(Disturbance::Own)
            })?;
            let renewals = stage.renewals().await? - before;
            let _ = write!(finding.text, "; {renewals} certificates renewed, the root under rotation");
            finding
        }
        "scrape" => {
            let ports = stage.status_ports();
            stage.beside(plan, name, PACED, QUIET_MAX, || {
                let ports = ports.clone();
                Disturbance::every(Duration::from_secs(1), move |_| ports.iter().for_each(|port| drop(page(*port))))
            })?
        }
        "bulk" => {
            let spec = Spec { rate: 500, connections: 8, ..PACED };
            stage.beside(plan, name, spec, BULK_MAX, || {
                let bulk = Spec { kind: Kind::Closed, path: "/4m", rate: 0, ..PACED };
                Disturbance::load(stage.load(&Spec { connections: 8, ..bulk }, 3600.0, &["--pace", BULK_PACE]))
            })?
        }
        "churn" => stage.churn(plan.churn)?,
        _ => stage.crowd(plan)?,
    })
}

/// A mesh with its application.
struct Stage {
    mesh: Mesh,
    _app: Process,
    papers: PathBuf,
}

/// Positions among the pods of `leno::pressed`.
const WEB: usize = 0;
const CLIENT: usize = 2;

impl Stage {
    async fn start(folder: &Path, leaf_ttl: Duration) -> anyhow::Result<Self> {
        let network: Ipv4Addr = run::networks(1)?[0];
        let (one, two) = leno::applications(network);
        let app = counters::pinned(Some(OTHERS), || run::start_app(folder, &[one], &[two]))?;
        come_first(app.pid(), APPLICATION);
        let settings = Settings { sidecars: vec![("LENO_WORKERS", "1".to_owned())], ..Settings::default() };
        let mesh = Mesh::start_with(network, leno::pressed(network, leaf_ttl), settings, &|_| ()).await?;
        for number in 0..mesh.plan.pods.len() {
            if let Some(pid) = mesh.sidecar_pid(number) {
                counters::move_to(pid, SIDECARS)?;
            }
        }
        if let Some(pid) = mesh.control_plane_pid() {
            counters::move_to(pid, OTHERS)?;
            counters::give_way(pid)?;
        }
        let papers = mesh.folder.join("client");
        let identity = format!("spiffe://{TRUST_DOMAIN}/ns/{NAMESPACE}/sa/client");
        certificates::leaf_of_leno(&mesh.folder.join("state"), &papers, &identity)?;
        Ok(Self { mesh, _app: app, papers })
    }

    /// The application itself, without sidecars.
    fn directly(&self, spec: &Spec, seconds: f64) -> anyhow::Result<Load> {
        let to = self.mesh.plan.pods[WEB].app();
        Load::begin(&Target { to, certificates: &self.papers, alpn: "leno/h2" }, spec, seconds, Some(OTHERS), &[])
    }

    fn load(&self, spec: &Spec, seconds: f64, more: &[&str]) -> anyhow::Result<Load> {
        let pods = &self.mesh.plan.pods;
        let to = match spec.door {
            Door::Http1 | Door::Http2 => pods[CLIENT].listener("web"),
            Door::Grpc => pods[CLIENT].listener("echo"),
            Door::Tls => Some(SocketAddr::from((pods[WEB].address, manifests::INBOUND))),
        };
        let to = to.context("the client has such a listener")?;
        Load::begin(&Target { to, certificates: &self.papers, alpn: "leno/h2" }, spec, seconds, Some(OTHERS), more)
    }

    /// One slice through both sidecars and one without them. A machine that stood still all the time gives none, and is asked
    /// again.
    fn slice(&self, spec: &Spec, seconds: f64) -> anyhow::Result<Slice> {
        let p99 = |begin: &dyn Fn() -> anyhow::Result<Load>| {
            for _ in 0..3 {
                let load = begin()?;
                come_first(load.pid(), CLIENT_FIRST);
                let figures = load.end()?;
                anyhow::ensure!(figures.bad == 0, "{} of {} requests failed", figures.bad, figures.done);
                if figures.p99 > 0.0 {
                    return Ok(figures.p99);
                }
            }
            anyhow::bail!("the load generator was late for every request: this machine is too busy to judge latencies")
        };
        Ok(Slice { whole: p99(&|| self.load(spec, seconds, &[]))?, direct: p99(&|| self.directly(spec, seconds))? })
    }

    /// The same mesh with and without.
    fn beside(
        &self,
        plan: &Plan,
        name: &'static str,
        spec: Spec,
        most: f64,
        disturb: impl Fn() -> anyhow::Result<Disturbance>,
    ) -> anyhow::Result<Finding> {
        compare(plan, name, spec, most, self, self, disturb)
    }

    async fn pushed(&self) -> anyhow::Result<f64> {
        Ok(scrape(self.mesh.admin()).await?.sum("leno_control_resources_put_total", &[]))
    }

    fn status_ports(&self) -> Vec<SocketAddr> {
        [CLIENT, WEB].map(|number| self.mesh.plan.pods[number].status()).into()
    }

    async fn renewals(&self) -> anyhow::Result<f64> {
        let mut sum = 0.0;
        for port in self.status_ports() {
            sum += scrape(port).await?.sum("leno_certificate_renewals_total", &[]);
        }
        Ok(sum)
    }

    /// Begins another rotation of the root, where none is under way.
    fn rotate(&self) {
        let mut command = Command::new(self.mesh.program("leno"));
        let _ = command.args(["dev", "rotate-root", "--state"]).arg(self.mesh.state()).output();
    }

    /// Everything at once, with connections that come and go: memory settles, and stays.
    fn churn(&self, length: Duration) -> anyhow::Result<Finding> {
        let seconds = length.as_secs_f64();
        let base = Spec { kind: Kind::Closed, rate: 0, connections: 16, ..PACED };
        let http2 = Spec { kind: Kind::Http2, door: Door::Http2, connections: 2, streams: 8, ..base };
        let specs = [
            Spec { kind: Kind::Fresh, ..base },
            Spec { path: "/headers", headers: true, ..base },
            Spec { path: "/16k", post: 1024, ..base },
            http2,
            Spec { kind: Kind::Unary, door: Door::Grpc, ..http2 },
            Spec { kind: Kind::Stream, door: Door::Grpc, ..http2 },
            Spec { kind: Kind::Handshakes, door: Door::Tls, connections: 1, ..base },
        ];
        let loads: Vec<Load> = specs.iter().map(|spec| self.load(spec, seconds, &[])).collect::<anyhow::Result<_>>()?;
        let pids: Vec<u32> = [CLIENT, WEB].into_iter().filter_map(|number| self.mesh.sidecar_pid(number)).collect();
        let (begun, mut samples) = (Instant::now(), Vec::new());
        while begun.elapsed() < length {
            std::thread::sleep(length / 60);
            samples.push(counters::rss(&pids));
        }
        let (mut done, mut bad) = (0, 0);
        for (spec, load) in specs.iter().zip(loads) {
            let figures = load.end()?;
            eprintln!("churn, {:?} {}: {} exchanges, {} failed", spec.kind, spec.path, figures.done, figures.bad);
            (done, bad) = (done + figures.done, bad + figures.bad);
        }
        let third = samples.len() / 3;
        let most = |part: &[f64]| part.iter().copied().fold(0.0, f64::max);
        let (first, middle, last) =
            (most(&samples[..third]), most(&samples[third..2 * third]), most(&samples[2 * third..]));
        let text = format!(
            "{:.0} s of mixed load, {done} exchanges, {bad} failed: RSS of the pair at most {first:.1}, {middle:.1}, {last:.1} MiB in \
             the three thirds (last to middle at most {GROWTH_MAX}x)",
            length.as_secs_f64()
        );
        Ok(Finding { name: "churn", text, holds: bad == 0 && last <= middle * GROWTH_MAX })
    }

    /// Ten thousand hop connections at one server.
    fn crowd(&self, plan: &Plan) -> anyhow::Result<Finding> {
        let pid = self.mesh.sidecar_pid(WEB).context("the server's sidecar runs")?;
        let before = counters::rss(&[pid]);
        let spec = Spec { kind: Kind::Crowd, door: Door::Tls, connections: plan.crowd, path: "/16k", ..PACED };
        let mut load = self.load(&spec, plan.idle.as_secs_f64() + 5.0, &["--requests", "10"])?;
        load.warm()?;
        let after = counters::rss(&[pid]);
        std::thread::sleep(plan.idle);
        let idle = counters::rss(&[pid]);
        let figures = load.end()?;
        let text = format!(
            "{} hop connections, {} answers of 16 KB, {} failed: RSS of the server's sidecar {before:.1} MiB before, {after:.1} after, \
             {idle:.1} when idle for {} s (at most {CROWD_MAX})",
            plan.crowd,
            figures.done,
            figures.bad,
            plan.idle.as_secs()
        );
        Ok(Finding { name: "crowd", text, holds: figures.bad == 0 && idle <= CROWD_MAX })
    }
}

/// The client, then the application have their core before the control plane and the readers of bulk: all of these would be on
/// other machines.
fn come_first(pid: u32, priority: u8) {
    static SAID: Once = Once::new();
    if let Err(error) = counters::come_first(pid, priority) {
        SAID.call_once(|| eprintln!("what shares a core with the client is in the figures: {error:#}"));
    }
}

/// p99 of a load, in microseconds.
struct Slice {
    whole: f64,
    /// Of the same load on the application itself, which the client, the control plane and whoever else share a core with.
    direct: f64,
}

impl Slice {
    /// What the sidecars add, as everywhere in the benchmark.
    fn added(&self) -> f64 {
        (self.whole - self.direct).max(1.0)
    }
}

/// Slices without and with, in turns; the median of the ratios of neighbours is judged.
fn compare(
    plan: &Plan,
    name: &'static str,
    spec: Spec,
    most: f64,
    quiet: &Stage,
    disturbed: &Stage,
    disturb: impl Fn() -> anyhow::Result<Disturbance>,
) -> anyhow::Result<Finding> {
    let mut pairs = Vec::new();
    for pair in 0..plan.pairs {
        let beside = || {
            let _disturbance = disturb()?;
            disturbed.slice(&spec, plan.seconds)
        };
        // The other one begins each time: what drifts, drifts for both.
        let (calm, pressed) = if pair % 2 == 0 {
            let calm = quiet.slice(&spec, plan.seconds)?;
            (calm, beside()?)
        } else {
            let pressed = beside()?;
            (quiet.slice(&spec, plan.seconds)?, pressed)
        };
        eprintln!(
            "{name} {}/{}: p99 {:.0} us without ({:.0} of them without sidecars too), {:.0} us with ({:.0})",
            pair + 1,
            plan.pairs,
            calm.whole,
            calm.direct,
            pressed.whole,
            pressed.direct
        );
        pairs.push((calm, pressed));
    }
    let of = |figure: &dyn Fn(&(Slice, Slice)) -> f64| {
        median(&pairs.iter().map(figure).collect::<Vec<_>>()).context("at least one pair")
    };
    let added = |(calm, pressed): &(Slice, Slice)| pressed.added() / calm.added();
    let ratio = of(&added)?;
    let low = pairs.iter().map(added).fold(f64::INFINITY, f64::min);
    let high = pairs.iter().map(added).fold(0.0, f64::max);
    let text = format!(
        "added p99 {:.0} us without, {:.0} us with: {ratio:.2}x ({low:.2} to {high:.2}, {} pairs; at most {most}x); what is not the \
         sidecars' included {:.0} and {:.0} us: {:.2}x; without sidecars {:.0} and {:.0} us",
        of(&|(calm, _)| calm.added())?,
        of(&|(_, pressed)| pressed.added())?,
        plan.pairs,
        of(&|(calm, _)| calm.whole)?,
        of(&|(_, pressed)| pressed.whole)?,
        of(&|(calm, pressed)| pressed.whole / calm.whole)?,
        of(&|(calm, _)| calm.direct)?,
        of(&|(_, pressed)| pressed.direct)?,
    );
    Ok(Finding { name, text, holds: ratio <= most })
}

/// What goes on beside a slice, until it is dropped.
enum Disturbance {
    /// It goes on by itself.
    Own,
    Load(#[expect(dead_code, reason = "held while it runs")] Load),
    Again(#[expect(dead_code, reason = "ends when dropped")] Again),
}

impl Disturbance {
    fn load(load: anyhow::Result<Load>) -> anyhow::Result<Self> {
        let mut load = load?;
        counters::give_way(load.pid())?;
        load.warm()?;
        Ok(Self::Load(load))
    }

    /// `work` again and again, told how often before.
    fn every(pause: Duration, work: impl Fn(usize) + Send + 'static) -> anyhow::Result<Self> {
        let end: Arc<AtomicBool> = Arc::default();
        let ended = end.clone();
        let repeat = move || {
            // Without it the figures are worse, not wrong.
            let _ = counters::give_way_here();
            for number in 0.. {
                if ended.load(Ordering::Relaxed) {
                    break;
                }
                work(number);
                std::thread::park_timeout(pause);
            }
        };
        let thread = counters::pinned(Some(OTHERS), || Ok(std::thread::spawn(repeat)))?;
        Ok(Self::Again(Again { end, thread: Some(thread) }))
    }
}

/// A thread that ends when this is dropped.
struct Again {
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Again {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

/// Four times a second the folder is read; each time half of the fifty services and two policies have changed.
const UPDATE: Duration = Duration::from_millis(250);

/// Writes the change of this number.
fn update(manifests: &Path, number: usize) {
    for (name, text) in leno::changed(number) {
        // Whole or not at all: a half-written file would be refused.
        let new = manifests.with_file_name(name);
        let _ = std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, manifests.join(name)));
    }
}

/// `/metrics`, whole.
fn page(port: SocketAddr) -> std::io::Result<usize> {
    use std::io::Read;
    use std::io::Write;
    let mut socket = std::net::TcpStream::connect(port)?;
    socket.write_all(b"GET /metrics HTTP/1.1\r\nhost: metrics\r\nconnection: close\r\n\r\n")?;
    socket.read_to_end(&mut Vec::new())
}
