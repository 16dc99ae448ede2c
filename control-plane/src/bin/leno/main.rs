//! `leno`, the command line: what a person asks the mesh, and what a developer makes without a cluster. Answers go to standard
//! output, everything else to standard error. Exit codes: 0 well, 1 found what is wrong, 2 could not be done.

mod check;
mod completion;
mod dev;
mod diff;
mod explain;
mod guard;
mod inject;
mod lint;
mod live;
mod paint;
mod proxy;
mod reach;
mod restart;
mod status;
mod wait;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::CommandFactory;
use clap::FromArgMatches;
use clap::Parser;
use clap::Subcommand;
use leno_control_plane::config::Injection;
use leno_proto::identity::TrustDomain;

/// Ask a Leno mesh how it is, and make what a mesh without Kubernetes needs.
#[derive(Parser)]
#[command(
    name = "leno",
    version,
    after_help = "Also `kubectl leno ...`, where this program is found as kubectl-leno. NO_COLOR is honoured.\nExit codes: 0 well, 1 found what is wrong, 2 could not be done."
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Is the cluster fit for Leno, is the control plane well, are the sidecars? Every line has a code and a remedy.
    Check(check::Options),
    /// What is wrong, or not as meant, with manifests or with what the cluster holds.
    Lint(lint::Options),
    /// Policies and routes: accepted, and in force in how many proxies.
    Status(status::Options),
    /// What manifests would change; without any: what is declared and not yet in force.
    Diff(diff::Options),
    /// Returns when policies or routes are in force in every proxy that uses them.
    Wait(wait::Options),
    /// Why a request goes where it goes: its route, policies, endpoints and access, and who says each value.
    Explain(explain::Options),
    /// One sidecar: its configuration, pools, certificates, metrics and log level.
    Proxy(proxy::Options),
    /// Rolls workloads whose sidecars are missing or of another release.
    Restart(restart::Options),
    /// Add sidecars to manifests, as the webhook would: Pods, and all that makes Pods.
    Inject {
        /// YAML files; `-` is standard input.
        #[arg(value_name = "FILE", default_value = "-")]
        files: Vec<PathBuf>,
        /// The control plane's namespace.
        #[arg(long, env = "LENO_NAMESPACE", default_value = "leno-system")]
        namespace: String,
        #[arg(long, env = "LENO_TRUST_DOMAIN", default_value = "cluster.local")]
        trust_domain: TrustDomain,
        #[command(flatten)]
        injection: Injection,
    },
    /// Print the definitions of Leno's kinds, for `kubectl apply -f -`; the chart brings them too.
    Crds,
    /// Print a script that completes commands: source it from your shell's start-up file.
    Completion { shell: completion::Shell },
    /// For a mesh on a folder of manifests.
    #[command(subcommand)]
    Dev(dev::Dev),
    /// Fails while pods have sidecars: the chart runs it before it is uninstalled.
    #[command(hide = true)]
    Guard(guard::Options),
    /// Print the pages of all codes, for `cargo xtask codegen`.
    #[command(hide = true)]
    Codes,
}

fn main() -> ExitCode {
    let arguments = Arguments::from_arg_matches(&command().get_matches()).unwrap_or_else(|error| error.exit());
    match run(arguments.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("leno: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Called through kubectl, it names itself as people call it.
fn command() -> clap::Command {
    let program = std::env::args_os().next().map(PathBuf::from).unwrap_or_default();
    match program.file_name().is_some_and(|name| name == "kubectl-leno") {
        true => Arguments::command().bin_name("kubectl leno"),
        false => Arguments::command(),
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Check(options) => check::run(&options),
        Command::Lint(options) => lint::run(&options),
        Command::Status(options) => status::run(&options),
        Command::Diff(options) => diff::run(&options),
        Command::Wait(options) => wait::run(&options),
        Command::Explain(options) => explain::run(&options),
        Command::Proxy(options) => proxy::run(&options),
        Command::Restart(options) => restart::run(&options),
        Command::Inject { files, namespace, trust_domain, injection } => {
            inject::run(&files, &injection.settings(&namespace, &trust_domain))
        }
        Command::Crds => {
            for crd in leno_control_plane::crd::all() {
                print!("---\n{}", crd.yaml());
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Completion { shell } => {
            print!("{}", completion::script(shell, &Arguments::command()));
            Ok(ExitCode::SUCCESS)
        }
        Command::Dev(dev) => dev::run(dev),
        Command::Guard(options) => guard::run(&options),
        Command::Codes => {
            lint::print_pages();
            Ok(ExitCode::SUCCESS)
        }
    }
}
