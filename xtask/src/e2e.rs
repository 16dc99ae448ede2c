//! `cargo xtask e2e`: Leno on a real Kubernetes, as a user meets it: helm, annotations, kubectl. It must never pass where it
//! did not look.

mod chart;
pub(crate) mod conformance;
mod smoke;
mod stories;
mod trust;

use std::path::Path;
use std::path::PathBuf;

use anyhow::Context;

use crate::cluster::Cluster;
use crate::cluster::tools;
use crate::image;
use crate::shell;
use smoke::Target;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only what needs no cluster: the chart, linted, rendered, and given values that it must refuse.
    #[arg(long)]
    chart: bool,
    /// After that the long stories: restarts, evictions and losses under load.
    #[arg(long, conflicts_with = "chart")]
    all: bool,
    #[command(flatten)]
    place: Place,
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
    /// With KUBECONFIG: where that cluster's nodes find the images control-plane, proxy, init, storefront, caller and shell, which
    /// this command writes under target/images.
    #[arg(long, value_name = "REGISTRY/PATH")]
    repository: Option<String>,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    tools::build(&["helm"])?;
    chart::check()?;
    if options.chart {
        return Ok(());
    }
    options.place.with(|target| {
        smoke::run(target)?;
        if options.all { stories::run(target) } else { Ok(()) }
    })
}

/// `cargo xtask conformance`.
pub(crate) fn conformance(options: &conformance::Options) -> anyhow::Result<()> {
    options.place.with(|target| conformance::run(options, target))
}

impl Place {
    /// Builds Leno, brings a cluster and the images together, and runs the tests on it. What went wrong is described while the
    /// cluster is still there.
    fn with(&self, tests: impl FnOnce(&Target) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let archives = images(&self.profile)?;
        if let Some(kubeconfig) = std::env::var_os("KUBECONFIG").filter(|_| self.cluster.is_none()) {
            tools::build(&tools::CLIENTS)?;
            let target = Target { kubeconfig: kubeconfig.into(), repository: self.repository.clone(), cluster: None };
            return tests(&target).inspect_err(|_| target.describe());
        }
        let own = format!("e2e-{}", std::process::id());
        let cluster = Cluster::up(self.cluster.as_deref().unwrap_or(&own))?;
        let target = Target { kubeconfig: cluster.kubeconfig(), repository: None, cluster: Some(cluster.clone()) };
        let loaded = archives.iter().try_for_each(|archive| cluster.load(archive));
        let result = loaded.and_then(|()| tests(&target)).inspect_err(|_| target.describe());
        if self.cluster.is_none() {
            cluster.down()?;
        }
        result
    }
}

/// One build of everything, and the images of Leno and of the applications that the tests run.
fn images(profile: &str) -> anyhow::Result<Vec<PathBuf>> {
    let mut cargo = shell::cargo(&["build", "--profile", profile, "--bins"]);
    shell::run(cargo.args(["-p", "leno-control-plane", "-p", "leno-proxy", "-p", "leno-e2e"]))?;
    let programs = shell::root().join("target").join(if profile == "dev" { "debug" } else { profile });
    shell::install(&[("busybox", "busybox-static")])?;
    let busybox = shell::find("busybox").context("busybox is not installed; install the package busybox-static")?;
    let application = |name: &str, program: &Path, entrypoint: &[&str]| {
        image::image(name, &[program], entrypoint, "1000:1000").and_then(|image| image::write(&image))
    };
    let mut archives = image::leno(&programs)?;
    archives.push(application("storefront", &programs.join("storefront"), &["/storefront"])?);
    archives.push(application("caller", &programs.join("caller"), &["/caller"])?);
    archives.push(application("shell", &busybox, &["/busybox", "sleep", "2147483647"])?);
    archives.push(conformance::echo(&programs)?);
    Ok(archives)
}
