//! `cargo xtask e2e`: Leno on a real Kubernetes, as a user meets it: helm, annotations, kubectl. It must never pass where it
//! did not look.

mod chart;
mod smoke;

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
    /// How Leno is built for it; the unoptimised profile builds fastest.
    #[arg(long, default_value = "dev")]
    profile: String,
    /// Use this cluster of `cargo xtask cluster`, starting it where it does not run, and leave it up. By default a cluster of its
    /// own is made and ended.
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
    /// With KUBECONFIG: where that cluster's nodes find the images control-plane, proxy, init, storefront and shell, which
    /// `cargo xtask image` and this command write under target/images.
    #[arg(long, value_name = "REGISTRY/PATH")]
    repository: Option<String>,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    tools::build(&["helm"])?;
    chart::check()?;
    if options.chart {
        return Ok(());
    }
    let archives = images(&options.profile)?;
    if let Some(kubeconfig) = std::env::var_os("KUBECONFIG").filter(|_| options.cluster.is_none()) {
        tools::build(&tools::CLIENTS)?;
        return on(&Target { kubeconfig: kubeconfig.into(), repository: options.repository.clone() });
    }
    let own = format!("e2e-{}", std::process::id());
    let name = options.cluster.as_deref().unwrap_or(&own);
    let cluster = Cluster::up(name)?;
    let result = archives
        .iter()
        .try_for_each(|archive| cluster.load(archive))
        .and_then(|()| on(&Target { kubeconfig: cluster.kubeconfig(), repository: None }));
    if options.cluster.is_none() {
        cluster.down()?;
    }
    result
}

fn on(target: &Target) -> anyhow::Result<()> {
    smoke::run(target).inspect_err(|_| target.describe())
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
    archives.push(application("shell", &busybox, &["/busybox", "sleep", "2147483647"])?);
    Ok(archives)
}
