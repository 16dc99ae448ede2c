//! `cargo xtask demo`: builds both planes and the storefront, showing progress, then hands the terminal to the demo itself.

use std::process::Command;

use crate::shell;

/// Fast enough to mean something, quick enough to build on two cores.
pub(crate) const PROFILE: &str = "demo";

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Tell the story without a terminal, assert each step on measured traffic, and exit non-zero where one fails.
    #[arg(long)]
    check: bool,
    /// Send the sidecars' traces to this OTLP endpoint, such as http://localhost:4317.
    #[arg(long, value_name = "URL")]
    otlp: Option<String>,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    build()?;
    let mut demo = Command::new(format!("target/{PROFILE}/leno-demo"));
    if options.check {
        demo.arg("--check");
    }
    if let Some(url) = &options.otlp {
        demo.args(["--otlp", url]);
    }
    shell::run(&mut demo)
}

/// Both planes and the programs of `e2e`; a cold build takes some minutes, and cargo shows how far it is.
pub(crate) fn build() -> anyhow::Result<()> {
    eprintln!("building both planes and the storefront (minutes when cold, seconds when warm)");
    let packages = ["-p", "leno-control-plane", "-p", "leno-proxy", "-p", "leno-e2e"];
    shell::run(shell::cargo(&["build", "--profile", PROFILE, "--bins"]).args(packages))
}
