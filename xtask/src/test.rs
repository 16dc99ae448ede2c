//! `cargo xtask test`: everything that needs no cluster, in the order in which a failure is cheapest. It installs what the
//! foreign peers need where that is missing, and prints what it runs. `LENO_TEST_LONG=1` makes the outages minutes long.

use std::process::Command;

use crate::shell;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only the tests of the crates: no tidy, no model checking, no foreign peers.
    #[arg(long)]
    quick: bool,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    if options.quick {
        return shell::run(&mut shell::cargo(&["test", "--workspace", "--exclude", "leno-e2e"]));
    }
    crate::tidy::run()?;
    shell::run(&mut shell::cargo(&["test", "--workspace", "--exclude", "leno-e2e"]))?;
    model_check()?;
    foreign()?;
    crate::bench::gates(false)
}

/// The `Gate` under loom: every interleaving of two workers.
fn model_check() -> anyhow::Result<()> {
    let arguments = ["test", "-p", "leno-proxy", "--features", "loom", "--lib", "gate::model"];
    shell::run(&mut shell::cargo(&arguments))
}

/// Real processes with clients and servers that are not ours, over real sockets.
fn foreign() -> anyhow::Result<()> {
    crate::demo::build()?;
    install()?;
    collector()?;
    shell::run(&mut shell::cargo(&["test", "--profile", crate::demo::PROFILE, "-p", "leno-e2e"]))
}

/// What the foreign tests drive.
fn install() -> anyhow::Result<()> {
    shell::install(&[
        ("curl", "curl"),
        ("python3", "python3"),
        ("node", "nodejs"),
        ("/usr/share/nodejs/ws/package.json", "node-ws"),
        ("nft", "nftables"),
        ("ip", "iproute2"),
        ("psql", "postgresql-client"),
        ("/usr/lib/postgresql", "postgresql"),
        ("redis-server", "redis-server"),
        ("redis-cli", "redis-tools"),
        ("nginx", "nginx-light"),
        ("nghttp", "nghttp2-client"),
    ])?;
    python("foreign", &["grpcio==1.85.1", "gunicorn==27.0.1", "websockets==17.4"])
}

/// A real OTLP backend for the traces: Rotel.
fn collector() -> anyhow::Result<()> {
    python("collector", &["rotel==0.0.1a15"])
}

/// Python's packages, in a virtual environment of their own in the target folder.
fn python(name: &str, packages: &[&str]) -> anyhow::Result<()> {
    let own = std::env::current_exe()?;
    let target = own.ancestors().find(|folder| folder.join("CACHEDIR.TAG").exists()).unwrap_or(&own);
    let folder = target.join(name);
    let (installed, wanted) = (folder.join("installed"), packages.join(" "));
    if std::fs::read_to_string(&installed).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    let make = || shell::run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder));
    if make().is_err() {
        // Debian keeps what `venv` needs in a package of its own.
        shell::install(&[("ensurepip", "python3-venv")])?;
        make()?;
    }
    let mut pip = Command::new(folder.join("bin/pip"));
    shell::run(pip.args(["install", "--quiet", "--only-binary", ":all:"]).args(packages))?;
    Ok(std::fs::write(installed, wanted)?)
}
