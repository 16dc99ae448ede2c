//! The control plane at scale: one process of it, an API server and simulated sessions in another, and what it took, beside the
//! gates that it is held to. It must never report a figure of a run in which a session was left behind.
//!
//! `cargo xtask bench --scale` builds and starts it.

#![allow(clippy::unwrap_used, reason = "a measurement that cannot go on ends")]

mod session;
mod stream;
mod world;

use std::io::BufRead;
use std::io::BufReader;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::ensure;
use clap::Parser;
use leno_control_plane::kube::fake::Fake;
use serde_json::json;
use tokio::time::sleep;
use tokio::time::timeout;

use session::Crowd;
use world::World;

/// Measures the control plane with many services, endpoints and sessions.
#[derive(Parser)]
struct Options {
    #[arg(long, default_value_t = 1000)]
    services: usize,
    /// Pods behind each service; each is a meshed Pod of its own.
    #[arg(long, default_value_t = 10)]
    endpoints: usize,
    #[arg(long, default_value_t = 1000)]
    sessions: usize,
    /// Services that a session uses beside the one that all use.
    #[arg(long, default_value_t = 10)]
    uses: usize,
    /// Changes that are timed, of each kind.
    #[arg(long, default_value_t = 100)]
    changes: usize,
    /// Ends with an error where a gate is missed.
    #[arg(long)]
    check: bool,
    /// Holds still for so many seconds with all connected, for whoever wants a closer look.
    #[arg(long, default_value_t = 0)]
    rest: u64,
}

/// Cores that others may have before we speak of it.
const DISTURBED: f64 = 0.2;
/// Kilobytes by which memory falls when more than chance is at work.
const FALL: u64 = 256;

/// A control plane as a process.
struct Plane {
    child: Child,
    started: Instant,
    session: SocketAddr,
    admin: SocketAddr,
}

impl Drop for Plane {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Plane {
    /// On the ports of the one before, if there was one.
    fn start(fake: &Fake, folder: &PathBuf, at: Option<(SocketAddr, SocketAddr)>) -> anyhow::Result<Plane> {
        std::fs::create_dir_all(folder)?;
        let kubeconfig = folder.join("kubeconfig");
        let server = format!("http://{}", fake.address());
        let config = json!({
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": server}}],
            "users": [{"name": "u", "user": {"token": "ours"}}],
        });
        std::fs::write(&kubeconfig, config.to_string())?;
        let program =
            std::env::current_exe()?.parent().and_then(|folder| folder.parent()).unwrap().join("leno-control-plane");
        let any: SocketAddr = ([127, 0, 0, 1], 0).into();
        let (listen, admin) = at.unwrap_or((any, any));
        let started = Instant::now();
        let mut child = Command::new(&program)
            .args(["--source", "kubernetes", "--replica", "one", "--kubeconfig"])
            .arg(kubeconfig)
            .arg("--state")
            .arg(folder.join("state"))
            .args(["--listen", &listen.to_string(), "--admin", &admin.to_string()])
            .env("LENO_LOG", "error")
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {}; build it first", program.display()))?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line)?;
        let addresses: serde_json::Value = serde_json::from_str(&line)?;
        let address = |of: &str| addresses[of].as_str().unwrap_or_default().parse();
        Ok(Plane { child, started, session: address("session")?, admin: address("admin")? })
    }

    /// Until it serves; how long it took from the start of the process.
    async fn ready(&self) -> anyhow::Result<Duration> {
        while self.started.elapsed() < Duration::from_secs(120) {
            if let Ok(true) = self.asked("/ready").await {
                return Ok(self.started.elapsed());
            }
            sleep(Duration::from_millis(20)).await;
        }
        anyhow::bail!("the control plane is not ready after 120 s")
    }

    async fn asked(&self, path: &str) -> anyhow::Result<bool> {
        use tokio::io::AsyncReadExt as _;
        use tokio::io::AsyncWriteExt as _;
        let mut socket = tokio::net::TcpStream::connect(self.admin).await?;
        socket.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await?;
        Ok(answer.starts_with("HTTP/1.1 200"))
    }

    /// Resident memory in kilobytes: now, and the most so far.
    fn memory(&self) -> anyhow::Result<(u64, u64)> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse().ok()
        };
        field("VmRSS:").zip(field("VmHWM:")).context("no memory in /proc")
    }

    /// Resident memory in kilobytes once it falls no more: an allocator gives back what a burst left a while after it.
    async fn at_rest(&self) -> anyhow::Result<(u64, u64)> {
        let (mut least, mut since) = (self.memory()?.0, Instant::now());
        while since.elapsed() < Duration::from_secs(6) {
            sleep(Duration::from_secs(1)).await;
            let (now, _) = self.memory()?;
            if now + FALL < least {
                (least, since) = (now, Instant::now());
            }
        }
        self.memory()
    }

    /// Processor time so far.
    fn spent(&self) -> anyhow::Result<Duration> {
        spent(&self.child.id().to_string())
    }
}

/// Processor time of a process so far.
fn spent(process: &str) -> anyhow::Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    // utime and stime, in hundredths of a second on every Linux that we run on.
    let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    Ok(Duration::from_millis(ticks * 10))
}

/// Processor time so far of whatever else runs on this machine. The control planes count as ours once they have ended.
fn spent_by_others() -> anyhow::Result<Duration> {
    let stat = std::fs::read_to_string("/proc/stat")?;
    let fields = stat.lines().next().unwrap_or_default().split_whitespace();
    let fields: Vec<u64> = fields.filter_map(|field| field.parse().ok()).collect();
    // user, nice, system, idle, iowait, irq, softirq, and what a host gave to others; guests are in user.
    let all = fields.iter().take(8).sum::<u64>() - fields[3] - fields[4];
    let own = std::fs::read_to_string("/proc/self/stat")?;
    let own = own.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(4);
    let own: u64 = own.filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(Duration::from_millis(all.saturating_sub(own) * 10))
}

/// One line of the result.
struct Row {
    what: &'static str,
    value: String,
    gate: &'static str,
    met: Option<bool>,
}

fn main() -> anyhow::Result<()> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(run(Options::parse()))
}

async fn run(options: Options) -> anyhow::Result<()> {
    ensure!(options.changes > 0 && options.endpoints > 0 && options.services > 1, "nothing would be measured");
    let folder = std::env::temp_dir().join(format!("leno-scale-{}", std::process::id()));
    let (begin, before) = (Instant::now(), spent_by_others()?);
    let result = measure(&options, &folder).await;
    let _ = std::fs::remove_dir_all(&folder);
    let rows = result?;
    let others = spent_by_others()?.saturating_sub(before).as_secs_f64() / begin.elapsed().as_secs_f64();
    println!("\n{:<58} {:>22}   gate", "", "measured");
    for Row { what, value, gate, met } in &rows {
        let word = match met {
            Some(true) => "met",
            Some(false) => "MISSED",
            None => "",
        };
        println!("{what:<58} {value:>22}   {gate:<22} {word}");
    }
    let cores = std::thread::available_parallelism()?;
    if others > DISTURBED {
        println!("\nother programs had {others:.1} of {cores} cores meanwhile: they are in these figures too");
    }
    let missed = rows.iter().filter(|row| row.met == Some(false)).count();
    ensure!(!options.check || missed == 0, "{missed} gates are missed");
    Ok(())
}

/// The result as it grows, shown on the way.
#[derive(Default)]
struct Rows(Vec<Row>);

impl Rows {
    fn add(&mut self, what: &'static str, value: String, gate: &'static str, met: Option<bool>) {
        eprintln!("  {what}: {value}");
        self.0.push(Row { what, value, gate, met });
    }
}

async fn measure(options: &Options, folder: &PathBuf) -> anyhow::Result<Vec<Row>> {
    let fake = Fake::start().await;
    let world = World::new(options.services, options.endpoints);
    let pods = world.put(&fake);
    eprintln!("{} services, {pods} pods and endpoints; {} sessions", options.services, options.sessions);
    let mut rows = Rows::default();

    let plane = Plane::start(&fake, folder, None)?;
    let ready = plane.ready().await?;
    rows.add("start to serving, lists and all", seconds(ready), "<= 5 s", Some(ready < Duration::from_secs(5)));
    // What it does for the cluster as a whole is no session's.
    let (empty_kb, peak) = plane.at_rest().await?;
    rows.add("memory, nobody connected (peak)", format!("{} MB ({} MB)", empty_kb / 1024, peak / 1024), "", None);

    let crowd = connect(options, &world, &plane, &mut rows).await?;
    sleep(Duration::from_secs(options.rest)).await;
    let (full_kb, _) = plane.at_rest().await?;
    let each = full_kb.saturating_sub(empty_kb) / options.sessions.max(1) as u64;
    rows.add("memory, all connected", format!("{} MB", full_kb / 1024), "<= 600 MB", Some(full_kb < 600 * 1024));
    rows.add("memory of a session", format!("{each} KB"), "<= 60 KB", Some(each <= 60));
    let idle = plane.spent()?;
    sleep(Duration::from_secs(10)).await;
    let idle = plane.spent()? - idle;
    rows.add("processor, idle, of one core", format!("{:.1} %", idle.as_secs_f64() * 10.0), "", None);

    let mesh = Mesh { options, fake: &fake, world: &world, crowd: &crowd, plane: &plane };
    mesh.change(Way::Goes, &mut rows).await?;
    mesh.change(Way::Comes, &mut rows).await?;
    mesh.change_unused(&mut rows).await?;

    let (session, admin) = (plane.session, plane.admin);
    let (steady, _) = plane.memory()?;
    crowd.disconnected();
    drop(plane);
    let plane = Plane::start(&fake, folder, Some((session, admin)))?;
    timeout(Duration::from_secs(120), crowd.synced()).await.context("not all sessions came back in 120 s")?;
    let took = plane.started.elapsed();
    let met = Some(took < Duration::from_secs(10));
    rows.add("killed and started: all sessions synced again", seconds(took), "<= 10 s", met);
    let (_, peak) = plane.memory()?;
    let share = peak as f64 / steady as f64;
    rows.add("peak memory after it, of steady", format!("{share:.2}"), "<= 1.5", Some(share <= 1.5));
    Ok(rows.0)
}

/// All sessions, until each has what it asked for.
async fn connect(options: &Options, world: &World, plane: &Plane, rows: &mut Rows) -> anyhow::Result<Arc<Crowd>> {
    let begin = Instant::now();
    let crowd = Arc::new(Crowd::new(world, options.sessions, options.uses));
    crowd.connect(plane.session);
    timeout(Duration::from_secs(120), crowd.synced()).await.context("not all sessions synced in 120 s")?;
    rows.add("all sessions connected and synced, cold", seconds(begin.elapsed()), "", None);
    let told = crowd.bytes() / options.sessions.max(1) as u64;
    rows.add("what a session was told, cold", format!("{told} B"), "", None);
    Ok(crowd)
}

/// Everything at rest, to be disturbed.
struct Mesh<'a> {
    options: &'a Options,
    fake: &'a Fake,
    world: &'a World,
    crowd: &'a Crowd,
    plane: &'a Plane,
}

/// What becomes of an endpoint.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Goes,
    Comes,
}

impl Mesh<'_> {
    /// An endpoint of the service that all use, again and again.
    async fn change(&self, way: Way, rows: &mut Rows) -> anyhow::Result<()> {
        let (what, removal) = match way {
            Way::Goes => ("an endpoint goes: API event to last Applied of all", true),
            Way::Comes => ("an endpoint comes: the same", false),
        };
        let (mut times, mut made) = (Vec::new(), 0);
        let (before, beside) = (self.plane.spent()?, spent("self")?);
        for number in 0..self.options.changes {
            let place = number % self.options.endpoints;
            // The opposite first, so that it is a change.
            for away in [!removal, removal] {
                let (mark, at) = (self.crowd.mark(), Instant::now());
                if !self.world.flip(self.fake, place, away) {
                    continue;
                }
                let all = timeout(Duration::from_secs(30), self.crowd.all_since(mark));
                let last = all.await.context("a change did not arrive in 30 s")?;
                made += 1;
                if away == removal {
                    times.push(last.duration_since(at));
                }
            }
            sleep(Duration::from_millis(50)).await;
        }
        let (plane, beside) = (self.plane.spent()? - before, spent("self")? - beside);
        times.sort();
        let (half, most) = (times[times.len() / 2], times[times.len() * 99 / 100]);
        let met = half <= Duration::from_millis(20) && most <= Duration::from_millis(100);
        // Of fewer than a hundred it is the longest, and is called so.
        let name = if times.len() < 100 { "max" } else { "p99" };
        let value = format!("p50 {}, {name} {} ms", half.as_millis(), most.as_millis());
        let (gate, met) = if removal { ("p50 20, p99 100 ms", Some(met)) } else { ("", None) };
        rows.add(what, value, gate, met);
        let each = |spent: Duration| format!("{:.1} ms", spent.as_secs_f64() * 1000.0 / f64::from(made));
        rows.add("processor for one of them", each(plane), "", None);
        rows.add("processor of the sessions and the API server for it", each(beside), "", None);
        Ok(())
    }

    /// An endpoint of a service that nobody uses.
    async fn change_unused(&self, rows: &mut Rows) -> anyhow::Result<()> {
        // What is on its way to sessions now is of something else.
        sleep(Duration::from_secs(1)).await;
        let (told, spent) = (self.crowd.bytes(), self.plane.spent()?);
        for number in 0..self.options.changes {
            self.world.flip_unused(self.fake, number);
            sleep(Duration::from_millis(20)).await;
        }
        sleep(Duration::from_secs(1)).await;
        let (told, spent) = (self.crowd.bytes() - told, self.plane.spent()? - spent);
        rows.add("told to all of a change that nobody uses", format!("{told} B"), "0 B", Some(told == 0));
        let each = spent.as_secs_f64() * 1000.0 / self.options.changes.max(1) as f64;
        rows.add("processor for one of them", format!("{each:.1} ms"), "", None);
        Ok(())
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}
