//! The repeatable gate: instructions and heap allocations for one request in each sidecar of a real pair, compared with the
//! figures that are committed. It must never depend on how fast the machine is.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Context;
use serde_json::Value;
use serde_json::json;

use crate::bench::callgrind;
use crate::bench::callgrind::Counted;
use crate::bench::callgrind::Counts;
use crate::bench::peers::leno;
use crate::mesh;
use crate::mesh::Mesh;
use crate::mesh::Plan;
use crate::mesh::Settings;
use crate::process::Process;

/// One way of asking: a name, connections, requests, and what each request is.
pub struct Case {
    pub name: &'static str,
    pub connections: usize,
    pub requests: u64,
    pub load: &'static [&'static str],
}

pub const CASES: [Case; 4] = [
    Case { name: "c1", connections: 1, requests: 1000, load: &[] },
    Case { name: "c32", connections: 32, requests: 4000, load: &[] },
    Case { name: "headers", connections: 32, requests: 4000, load: &["--path", "/headers", "--headers"] },
    Case { name: "post", connections: 32, requests: 4000, load: &["--post", "1024"] },
];

/// Which of the two sidecars.
pub const SIDES: [&str; 2] = ["outbound", "inbound"];

/// Instructions may differ by so much, in percent: which requests meet in one turn of the loop is left to chance.
const INSTRUCTIONS_PERCENT: f64 = 5.0;
/// Allocations by so much; buffers grow now and then.
const ALLOCATIONS: f64 = 0.6;

/// One case in one sidecar.
pub struct Measured {
    pub case: &'static str,
    pub side: &'static str,
    pub requests: u64,
    pub counts: Counts,
}

impl Measured {
    pub fn instructions(&self) -> f64 {
        self.counts.instructions as f64 / self.requests as f64
    }

    pub fn allocations(&self) -> f64 {
        self.counts.allocations as f64 / self.requests as f64
    }

    /// Who allocates and where instructions go, the most first, for one request.
    pub fn details(&self, lines: usize) -> String {
        let mut out = format!("{} {}\n", self.case, self.side);
        for (what, table, digits) in
            [("allocations", &self.counts.allocated_by, 2), ("instructions", &self.counts.own, 0)]
        {
            let mut rows: Vec<(&String, f64)> =
                table.iter().map(|(name, count)| (name, *count as f64 / self.requests as f64)).collect();
            rows.sort_by(|a, b| b.1.total_cmp(&a.1));
            out += &format!("  {what}\n");
            for (name, count) in rows.into_iter().take(lines) {
                out += &format!("  {count:>9.digits$}  {name}\n");
            }
        }
        out
    }
}

/// Runs every case (or those of `only`) through a pair under callgrind.
///
/// # Errors
/// valgrind is missing, or a sidecar does not get ready under it.
pub async fn measure(folder: &Path, only: &[String]) -> anyhow::Result<Vec<Measured>> {
    measure_in(folder, only, leno::pair).await
}

/// As `measure`, in a mesh of this plan, whose pair stands where that of `leno::pair` does.
///
/// # Errors
/// As `measure`.
pub async fn measure_in(folder: &Path, only: &[String], plan: fn(Ipv4Addr) -> Plan) -> anyhow::Result<Vec<Measured>> {
    let dumps = folder.join("callgrind");
    let _ = fs::remove_dir_all(&dumps);
    fs::create_dir_all(&dumps)?;
    let network = mesh::free_network()?;
    let (app, _) = leno::applications(network);
    let settings = Settings { wrapper: callgrind::wrapper(&dumps), ..Settings::default() };
    eprintln!("starting a pair under callgrind (about ten times slower)");
    let mesh = Mesh::start_with(network, plan(network), settings, &|_| ()).await?;
    let own = std::env::current_exe()?;
    let _app = Process::start("app", Command::new(&own).args(["app", "--http1", &app.to_string()]), folder)?;
    let [client, web] = leno::PAIR;
    let door = mesh.plan.pods[client].listener("web").context("the client calls web")?;
    let pid = |number| mesh.sidecar_pid(number).context("it runs");
    let mut sides = [Counted::new(pid(client)?, &dumps), Counted::new(pid(web)?, &dumps)];
    let load = |case: &Case, requests: u64| {
        let mut command = Command::new(&own);
        command.args(["load", "closed", "--seconds", "600", "--warm", "0", "--to", &door.to_string()]);
        command.args(["--connections", &case.connections.to_string(), "--requests", &requests.to_string()]);
        let output = command.args(case.load).output().context("run the load")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let figures = crate::bench::figures::Figures::parse(text.lines().last().unwrap_or_default())
            .with_context(|| format!("{}\n{}", String::from_utf8_lossy(&output.stderr), mesh.tails()))?;
        anyhow::ensure!(figures.bad == 0 && figures.done == requests, "{}: {figures:?}\n{}", case.name, mesh.tails());
        Ok(())
    };
    let mut measured = Vec::new();
    for case in CASES.iter().filter(|case| only.is_empty() || only.iter().any(|name| name == case.name)) {
        // Connections, pools and buffers come to rest first.
        load(case, (case.connections * 8) as u64)?;
        for side in &sides {
            side.begin()?;
        }
        load(case, case.requests)?;
        for (side, name) in sides.iter_mut().zip(SIDES) {
            let one = Measured { case: case.name, side: name, requests: case.requests, counts: side.counts()? };
            eprintln!(
                "{:8} {:8} {:>8.0} instructions {:>7.2} allocations",
                one.case,
                one.side,
                one.instructions(),
                one.allocations()
            );
            measured.push(one);
        }
    }
    Ok(measured)
}

/// Where the committed figures are.
pub fn file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("counts.json")
}

/// What is worse than committed, and what is so much better that it should be written down.
pub struct Comparison {
    pub table: String,
    pub worse: Vec<String>,
    pub better: Vec<String>,
}

/// # Errors
/// There are no committed figures.
pub fn compare(measured: &[Measured]) -> anyhow::Result<Comparison> {
    let file = file();
    let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    let committed: Value = serde_json::from_str(&text)?;
    let mut all = Comparison { table: String::new(), worse: Vec::new(), better: Vec::new() };
    all.table +=
        &format!("{:17} {:>14} {:>10} {:>13} {:>10}\n", "", "instructions", "committed", "allocations", "committed");
    for one in measured {
        let before = &committed[one.case][one.side];
        let figure = |name: &str| before[name].as_f64();
        let shown = |value: Option<f64>, digits: usize| value.map_or("-".to_owned(), |v| format!("{v:.digits$}"));
        all.table += &format!(
            "{:8} {:8} {:>14.0} {:>10} {:>13.2} {:>10}\n",
            one.case,
            one.side,
            one.instructions(),
            shown(figure("instructions"), 0),
            one.allocations(),
            shown(figure("allocations"), 2)
        );
        let allowed = |name: &str, value: f64| match name {
            "instructions" => value * INSTRUCTIONS_PERCENT / 100.0,
            _ => ALLOCATIONS,
        };
        for (name, now) in [("instructions", one.instructions()), ("allocations", one.allocations())] {
            let Some(before) = figure(name) else {
                all.worse.push(format!("{} {} {name}: {now:.2}, nothing is committed", one.case, one.side));
                continue;
            };
            let text = format!("{} {} {name}: {now:.2}, committed are {before:.2}", one.case, one.side);
            if now > before + allowed(name, before) {
                all.worse.push(text);
            } else if now < before - allowed(name, before) {
                all.better.push(text);
            }
        }
    }
    Ok(all)
}

/// Writes these figures; those of cases that were not measured stay.
///
/// # Errors
/// The file cannot be written.
pub fn commit(measured: &[Measured]) -> anyhow::Result<()> {
    let mut all: Value = match fs::read_to_string(file()) {
        Ok(text) => serde_json::from_str(&text)?,
        Err(_) => json!({}),
    };
    for one in measured {
        let allocations = (one.allocations() * 100.0).round() / 100.0;
        all[one.case][one.side] = json!({"instructions": one.instructions() as u64, "allocations": allocations});
    }
    fs::write(file(), serde_json::to_string_pretty(&all)? + "\n")?;
    Ok(())
}
