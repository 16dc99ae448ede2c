//! Leno's workshop: every developer command is `cargo xtask <verb>`. It must never be needed at run time.

mod codegen;
mod demo;
mod shell;
mod test;
mod tidy;

use clap::Parser;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Leno's developer commands")]
enum Verb {
    /// A whole mesh on this machine: control plane, services, sidecars and real traffic.
    Demo(demo::Options),
    /// Everything that needs no cluster: tidy, unit and property tests, meshes in one process, foreign peers, the demo's story.
    Test(test::Options),
    /// The house rules: import table, module headers, generated files, formatting, clippy.
    Tidy,
    /// Writes the generated files anew.
    Codegen {
        /// Only compare, and fail where a file is stale.
        #[arg(long)]
        check: bool,
    },
}

fn main() -> anyhow::Result<()> {
    std::env::set_current_dir(shell::root())?;
    match Verb::parse() {
        Verb::Demo(options) => demo::run(&options),
        Verb::Test(options) => test::run(&options),
        Verb::Tidy => tidy::run(),
        Verb::Codegen { check } => codegen::run(check),
    }
}
