//! Leno's workshop: every developer command is `cargo xtask <verb>`. It must never be needed at run time.

mod codegen;

use clap::Parser;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Leno's developer commands")]
enum Verb {
    /// Writes the generated files anew.
    Codegen {
        /// Only compare, and fail where a file is stale.
        #[arg(long)]
        check: bool,
    },
}

fn main() -> anyhow::Result<()> {
    match Verb::parse() {
        Verb::Codegen { check } => codegen::run(check),
    }
}
