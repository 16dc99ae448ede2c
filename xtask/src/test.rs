//! `cargo xtask test`: everything that needs no cluster, in the order in which a failure is cheapest. It installs what the
//! foreign peers need where that is missing, and prints what it runs.

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
    foreign()
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
    shell::run(&mut shell::cargo(&["test", "--profile", crate::demo::PROFILE, "-p", "leno-e2e"]))
}

/// What the foreign tests drive.
fn install() -> anyhow::Result<()> {
    shell::install(&[
        ("curl", "curl"),
        ("python3", "python3"),
        ("node", "nodejs"),
        ("nft", "nftables"),
        ("ip", "iproute2"),
    ])
}
