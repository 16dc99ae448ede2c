//! `cargo xtask e2e`: Leno on a real Kubernetes, as a user meets it: helm, annotations, kubectl. It must never pass where it
//! did not look.

mod chart;
mod cli;
pub(crate) mod conformance;
mod earlier;
pub(crate) mod example;
mod helm3;
mod killed;
mod malformed;
mod outsiders;
mod routes;
mod smoke;
mod stories;
mod tokens;
mod trust;
mod upgrade;

use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use clap::ValueEnum as _;

use crate::cluster::Cluster;
use crate::cluster::Own;
use crate::cluster::tools;
use crate::image;
use crate::shell;
use smoke::Target;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only what needs no cluster: the chart, linted, rendered, and given values that it must refuse.
    #[arg(long)]
    chart: bool,
    /// After that everything else.
    #[arg(long, conflicts_with = "chart")]
    all: bool,
    /// One part of everything else, alone.
    #[arg(long, value_name = "PART", conflicts_with_all = ["chart", "all"])]
    only: Option<Part>,
    #[command(flatten)]
    place: Place,
}

/// What `--all` tells after the smoke test, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Gateway API's own mesh suite, whole, as `cargo xtask conformance`.
    Conformance,
    /// Whose requests take which routes, and what kubectl says of those that cannot be.
    Routes,
    /// Objects that make no sense: refused at admission or told so, and without effect.
    Malformed,
    /// Callers without sidecars: a scraper and an ingress controller.
    Outsiders,
    /// The README's first half hour on Kubernetes, with traces in an OTLP backend.
    Example,
    /// Whose token buys which certificate, and which tokens are refused.
    Tokens,
    /// Restarts, evictions and losses under load.
    Stories,
    /// From an earlier Leno to this one and back, under load.
    Upgrade,
    /// The chart by Helm 3.17: linted, rendered, installed, tested, upgraded, rolled back, taken over by Helm 4, uninstalled.
    Helm3,
    /// Sidecars of another release rolled by `leno restart`, and Leno taken away for good.
    Leave,
    /// One control plane, a thousand services, ten thousand endpoints, a thousand sessions: all are served, and it says how fast.
    Scale,
}

/// On which cluster, and with which build of Leno.
#[derive(clap::Args)]
pub(crate) struct Place {
    /// How Leno is built for it: by default as for the demo and the tests, so that nothing is built twice.
    #[arg(long, default_value = crate::demo::PROFILE)]
    profile: String,
    /// Use this cluster of `cargo xtask cluster`, starting it where it does not run, and leave it up. By default a cluster of its
    /// own is made and ended.
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
    /// With KUBECONFIG: where that cluster's nodes find the images control-plane, proxy, init, storefront, caller, certify, shell and
    /// traces, and those of the earlier Leno under its tag, which this command writes under target/images.
    #[arg(long, value_name = "REGISTRY/PATH")]
    repository: Option<String>,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    tools::build(&[tools::HELM])?;
    chart::check(tools::HELM)?;
    if options.chart {
        return Ok(());
    }
    let tells = |part| options.all || options.only == Some(part);
    if tells(Part::Helm3) {
        tools::build(&[tools::HELM3])?;
    }
    if options.only == Some(Part::Scale) {
        return scale(&options.place.profile);
    }
    let wants = Wants { traces: tells(Part::Example), earlier: tells(Part::Upgrade) };
    options.place.with(wants, |target| match options.only {
        Some(part) => {
            target.gateway_api()?;
            target.install()?;
            part.run(target, &options.place.profile)
        }
        None => story(target, if options.all { Part::value_variants() } else { &[] }, &options.place.profile),
    })
}

/// The smoke test, and these parts after it; how long each took is said at the end.
fn story(target: &Target, parts: &[Part], profile: &str) -> anyhow::Result<()> {
    let mut told: Vec<(String, Duration)> = Vec::new();
    let start = Instant::now();
    smoke::run(target)?;
    told.push(("smoke".to_owned(), start.elapsed()));
    for part in parts {
        let name = part.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        eprintln!("--- {name}");
        let start = Instant::now();
        part.run(target, profile).with_context(|| format!("in `--only {name}`"))?;
        told.push((name, start.elapsed()));
    }
    eprintln!("all parts hold:");
    for (name, took) in told {
        eprintln!("{name:>12} {:6.0} s", took.as_secs_f32());
    }
    Ok(())
}

impl Part {
    fn run(self, target: &Target, profile: &str) -> anyhow::Result<()> {
        match self {
            Self::Conformance => conformance::whole(target),
            Self::Routes => routes::run(target),
            Self::Malformed => malformed::run(target),
            Self::Outsiders => outsiders::run(target),
            Self::Example => example::run(target),
            Self::Tokens => tokens::run(target),
            Self::Stories => stories::run(target),
            Self::Upgrade => upgrade::run(target),
            Self::Helm3 => helm3::run(target),
            Self::Leave => cli::leave(target),
            Self::Scale => scale(profile),
        }
    }
}

/// Its figures are shown beside the gates and not held to them: those are for a machine that does nothing else.
fn scale(profile: &str) -> anyhow::Result<()> {
    shell::run(crate::bench::crowd(profile)?.arg("--changes=20"))
}

/// `cargo xtask conformance`.
pub(crate) fn conformance(options: &conformance::Options) -> anyhow::Result<()> {
    options.suite.clear()?;
    options.place.with(Wants::default(), |target| conformance::run(&options.suite, target))
}

/// Images that not all tests want.
#[derive(Default)]
struct Wants {
    /// An OTLP backend.
    traces: bool,
    /// Leno as it was.
    earlier: bool,
}

impl Place {
    /// Builds Leno, brings a cluster and the images together, and runs the tests on it. What went wrong is described while the
    /// cluster is still there.
    fn with(&self, wants: Wants, tests: impl FnOnce(&Target) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let programs = build(&self.profile)?;
        let mut archives = images(&programs)?;
        if wants.traces {
            archives.push(example::backend()?);
        }
        if wants.earlier {
            archives.extend(earlier::images(&self.profile)?);
        }
        let leno = programs.join("leno");
        if let Some(kubeconfig) = std::env::var_os("KUBECONFIG").filter(|_| self.cluster.is_none()) {
            tools::build(&tools::CLIENTS)?;
            let (kubeconfig, repository) = (kubeconfig.into(), self.repository.clone());
            let target = Target { kubeconfig, leno, helm: tools::HELM, repository, cluster: None };
            return tests(&target).inspect_err(|_| target.describe());
        }
        let (cluster, own) = match &self.cluster {
            Some(name) => (Cluster::up(name)?, None),
            None => {
                let own = Own::up(&format!("e2e-{}", std::process::id()))?;
                (own.cluster().clone(), Some(own))
            }
        };
        let target = Target {
            kubeconfig: cluster.kubeconfig(),
            leno,
            helm: tools::HELM,
            repository: None,
            cluster: Some(cluster.clone()),
        };
        let loaded = archives.iter().try_for_each(|archive| cluster.load(archive));
        let result = loaded.and_then(|()| tests(&target)).inspect_err(|_| target.describe());
        own.map_or(Ok(()), Own::end)?;
        result
    }
}

/// One build of everything; where the programs are.
fn build(profile: &str) -> anyhow::Result<PathBuf> {
    let mut cargo = shell::cargo(&["build", "--profile", profile, "--bins"]);
    shell::run(cargo.args(["-p", "leno-control-plane", "-p", "leno-proxy", "-p", "leno-e2e"]))?;
    Ok(shell::root().join("target").join(shell::folder_of(profile)))
}

/// The images of Leno and of the applications that the tests run.
fn images(programs: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut archives = image::leno(programs)?;
    archives.extend(example::applications(programs)?);
    archives.push(application("caller", &[&programs.join("caller")], &["/caller"])?);
    archives.push(certify(programs)?);
    archives.push(conformance::echo(programs)?);
    Ok(archives)
}

/// What asks for certificates, and a shell that waits until it is told to.
fn certify(programs: &Path) -> anyhow::Result<PathBuf> {
    let busybox = shell::find("busybox").context("busybox is not installed; install the package busybox-static")?;
    application("certify", &[&busybox, &programs.join("certify")], &["/busybox", "sleep", "2147483647"])
}

/// An image of a program that needs no rights.
fn application(name: &str, programs: &[&Path], entrypoint: &[&str]) -> anyhow::Result<PathBuf> {
    image::image(name, programs, entrypoint, "1000:1000").and_then(|image| image::write(&image))
}
