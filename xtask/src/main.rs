//! Leno's workshop: every developer command is `cargo xtask <verb>`. It must never be needed at run time.

mod bench;
mod cluster;
mod codegen;
mod demo;
mod e2e;
mod image;
mod shell;
mod test;
mod tidy;
mod trained;

use clap::Parser;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Leno's developer commands")]
enum Verb {
    /// A whole mesh on this machine: control plane, services, sidecars and real traffic.
    Demo(demo::Options),
    /// Everything that needs no cluster: tidy, unit and property tests, meshes in one process, foreign peers, the demo's story.
    Test(test::Options),
    /// Leno beside Envoy, HAProxy and nginx in one run: a table, a plot, and the gates.
    Bench(bench::Options),
    /// Where both sidecars spend a request, by stage.
    Profile(bench::Profile),
    /// The house rules: import table, module headers, generated files, formatting, clippy.
    Tidy,
    /// Writes the generated files anew.
    Codegen {
        /// Only compare, and fail where a file is stale.
        #[arg(long)]
        check: bool,
    },
    /// A real Kubernetes node on this machine: up, down, status, load.
    Cluster(cluster::Options),
    /// Leno's container images, without a container engine, under target/images.
    Image(image::Options),
    /// Leno on a real cluster: installs the chart, injects, sees mTLS and policies at work.
    E2e(e2e::Options),
    /// Gateway API's own mesh conformance suite, unchanged, against Leno.
    Conformance(e2e::conformance::Options),
}

fn main() -> anyhow::Result<()> {
    std::env::set_current_dir(shell::root())?;
    match Verb::parse() {
        Verb::Demo(options) => demo::run(&options),
        Verb::Test(options) => test::run(&options),
        Verb::Bench(options) => bench::run(&options),
        Verb::Profile(options) => bench::profile(&options),
        Verb::Tidy => tidy::run(),
        Verb::Codegen { check } => codegen::run(check),
        Verb::Cluster(options) => cluster::run(options),
        Verb::Image(options) => image::run(&options),
        Verb::E2e(options) => e2e::run(&options),
        Verb::Conformance(options) => e2e::conformance(&options),
    }
}
