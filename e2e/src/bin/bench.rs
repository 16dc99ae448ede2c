//! The benchmark's program: it measures, and is the load and the application of what it measures, as processes of its own.
//! `cargo xtask bench` builds it, installs the peers and starts it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use clap::Parser;
use leno_e2e::bench::app;
use leno_e2e::bench::counts;
use leno_e2e::bench::decisions;
use leno_e2e::bench::load;
use leno_e2e::bench::peers::leno;
use leno_e2e::bench::plot;
use leno_e2e::bench::pressure;
use leno_e2e::bench::profile;
use leno_e2e::bench::report::Report;
use leno_e2e::bench::run;

#[derive(Parser)]
#[command(name = "leno-bench", about = "Leno beside Envoy, HAProxy and nginx")]
enum Verb {
    /// Measures; prints a table, and writes it with all figures and a plot into the folder.
    Run(Run),
    /// What must hold while something else goes on: updates, rotation, scrapes, bulk, churn, a crowd of connections, a mesh of
    /// thousands of services.
    Pressure(Pressure),
    /// Counts instructions and allocations for a request, and compares them with the committed figures.
    Gates(Gates),
    /// Where both sidecars spend a request, by stage.
    Profile(Profile),
    /// Loads for a pair of sidecars that count what they do; they write it down when they are told to end.
    Train {
        /// Where everything is written.
        #[arg(long, default_value = "target/bench")]
        folder: PathBuf,
    },
    /// What deciding about one request costs, step by step.
    Decisions,
    /// The load of one slice.
    Load(load::Options),
    /// The application behind every pair.
    App {
        #[arg(long)]
        http1: Vec<SocketAddr>,
        #[arg(long)]
        http2: Vec<SocketAddr>,
    },
}

#[derive(Args)]
struct Run {
    /// Under three minutes: fewer and shorter rounds, without nginx and what takes long.
    #[arg(long)]
    quick: bool,
    /// Only these tests, separated by commas.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Exit non-zero where a gate is missed.
    #[arg(long)]
    check: bool,
    /// Print the figures as JSON instead of a table.
    #[arg(long)]
    json: bool,
    #[arg(long)]
    rounds: Option<usize>,
    /// Seconds of one slice.
    #[arg(long)]
    seconds: Option<f64>,
    /// Envoy's program; without it Envoy takes no part.
    #[arg(long)]
    envoy: Option<PathBuf>,
    /// Where everything is written.
    #[arg(long, default_value = "target/bench")]
    folder: PathBuf,
}

#[derive(Args)]
struct Pressure {
    /// Some minutes: fewer pairs, a short churn, a thousand connections.
    #[arg(long)]
    quick: bool,
    /// Only these cases, separated by commas.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Exit non-zero where something does not hold.
    #[arg(long)]
    check: bool,
    /// Where everything is written.
    #[arg(long, default_value = "target/bench")]
    folder: PathBuf,
}

#[derive(Args)]
struct Gates {
    /// Only these cases, separated by commas.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Write the figures as the ones to compare with from now on.
    #[arg(long)]
    write: bool,
    /// Count with minimal policy instead, and compare with nothing: the difference is what everything on costs.
    #[arg(long, conflicts_with = "write")]
    minimal: bool,
    /// Print who allocates, and where instructions go, this many lines each.
    #[arg(long, default_value_t = 0)]
    top: usize,
    /// Where everything is written.
    #[arg(long, default_value = "target/bench")]
    folder: PathBuf,
}

#[derive(Args)]
struct Profile {
    /// Which load, as the gates name it.
    #[arg(long, default_value = "c32")]
    case: String,
    /// Count instructions under callgrind, even where perf works.
    #[arg(long)]
    count: bool,
    /// Where everything is written.
    #[arg(long, default_value = "target/bench")]
    folder: PathBuf,
}

fn main() -> anyhow::Result<ExitCode> {
    match Verb::parse() {
        Verb::Load(options) => load::run(&options).map(|()| ExitCode::SUCCESS),
        Verb::App { http1, http2 } => {
            local(async move { app::serve(&http1, &http2).await.map(|()| ExitCode::SUCCESS) })
        }
        Verb::Decisions => {
            for step in decisions::measure()? {
                println!("{:16} {:>6.0} ns", step.name, step.nanos);
            }
            Ok(ExitCode::SUCCESS)
        }
        Verb::Profile(options) => local(async move {
            let names: Vec<&str> = counts::CASES.iter().map(|case| case.name).collect();
            let case = counts::CASES.iter().find(|case| case.name == options.case);
            let case = case.with_context(|| format!("no case {:?}; there are {}", options.case, names.join(", ")))?;
            let folder = std::path::absolute(&options.folder)?;
            println!("{}", profile::measure(&folder, case, options.count).await?);
            Ok(ExitCode::SUCCESS)
        }),
        Verb::Train { folder } => local(async move {
            run::train(&std::path::absolute(&folder)?).await?;
            Ok(ExitCode::SUCCESS)
        }),
        Verb::Gates(options) => local(gates(options)),
        Verb::Pressure(options) => local(pressed(options)),
        Verb::Run(options) => local(measure(options)),
    }
}

fn local(work: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, work)
}

async fn pressed(options: Pressure) -> anyhow::Result<ExitCode> {
    let quick = options.quick;
    let plan = pressure::Plan {
        only: options.only,
        pairs: if quick { 3 } else { 9 },
        seconds: if quick { 3.0 } else { 6.0 },
        churn: Duration::from_secs(if quick { 60 } else { 600 }),
        crowd: if quick { 1000 } else { 10_000 },
        idle: Duration::from_secs(if quick { 5 } else { 30 }),
        folder: std::path::absolute(&options.folder)?,
    };
    let say = |finding: &pressure::Finding| {
        println!("{} {:9} {}", if finding.holds { "ok  " } else { "MISS" }, finding.name, finding.text);
    };
    let findings = pressure::run(&plan, &say).await?;
    let all = findings.iter().all(|finding| finding.holds);
    Ok(if options.check && !all { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn gates(options: Gates) -> anyhow::Result<ExitCode> {
    let folder = std::path::absolute(&options.folder)?;
    let pair = if options.minimal { leno::minimal_pair } else { leno::pair };
    let measured = counts::measure_in(&folder, &options.only, pair).await?;
    for one in measured.iter().filter(|_| options.top > 0) {
        println!("{}", one.details(options.top));
    }
    if options.minimal {
        return Ok(ExitCode::SUCCESS);
    }
    if options.write {
        counts::commit(&measured)?;
        return Ok(ExitCode::SUCCESS);
    }
    let compared = counts::compare(&measured)?;
    println!("{}", compared.table);
    if !compared.better.is_empty() {
        println!(
            "better than committed, write it down (cargo xtask bench --gates --write):\n  {}",
            compared.better.join("\n  ")
        );
    }
    if compared.worse.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    println!("worse than committed:\n  {}", compared.worse.join("\n  "));
    Ok(ExitCode::FAILURE)
}

async fn measure(options: Run) -> anyhow::Result<ExitCode> {
    let plan = run::Plan {
        quick: options.quick,
        only: options.only,
        rounds: options.rounds.unwrap_or(if options.quick { 2 } else { 9 }),
        seconds: options.seconds.unwrap_or(if options.quick { 0.8 } else { 1.5 }),
        patience: if options.quick { 0 } else { 2 },
        envoy: options.envoy,
        folder: std::path::absolute(&options.folder)?,
    };
    let report = Report::new(run::run(&plan).await?);
    let (table, json) = (report.table(), serde_json::to_string_pretty(&report.json())?);
    std::fs::write(plan.folder.join("bench.txt"), &table)?;
    std::fs::write(plan.folder.join("bench.json"), &json)?;
    std::fs::write(plan.folder.join("bench.svg"), plot::svg(&report.bars()))?;
    println!("{}", if options.json { json } else { table });
    eprintln!("written: {}/bench.{{txt,json,svg}}", options.folder.display());
    let missed: Vec<String> = report
        .verdicts()
        .iter()
        .filter(|verdict| !verdict.is_goal && verdict.holds() != Some(true))
        .map(|verdict| verdict.text())
        .collect();
    if !missed.is_empty() {
        eprintln!("gates missed:\n  {}", missed.join("\n  "));
    }
    Ok(if options.check && !missed.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
