//! The chart by Helm 3.17, which many still have: the same objects as by Helm 4, and the same life on a cluster, up to the day on
//! which Helm 4 takes the release over. It must never let Helm 4 do what Helm 3 is asked for.

use anyhow::ensure;

use super::chart;
use super::cli;
use super::smoke::SYSTEM;
use super::smoke::Target;
use super::smoke::step;
use crate::cluster::tools::HELM;
use crate::cluster::tools::HELM3;

pub(crate) fn run(target: &Target) -> anyhow::Result<()> {
    let old = &Target { helm: HELM3, ..target.clone() };
    step("Helm 3.17 lints and refuses as Helm 4 does, and renders the same objects", || {
        let version = old.helm(&["version", "--short"])?;
        ensure!(version.starts_with("v3.17"), "not Helm 3.17: {version}");
        chart::check(HELM3)?;
        chart::same(HELM, HELM3)
    })?;
    step("no Leno", || cli::uninstalled(target))?;
    step("Helm 3.17 installs it", || old.install())?;
    step("helm test", || old.helm_test())?;
    step("annotated pods get sidecars, and call each other over mTLS", || {
        old.inject()?;
        old.calls()?;
        old.is_mtls()
    })?;
    step("helm upgrade to two replicas, and helm rollback to one", || {
        old.install_with(&["--set", "controlPlane.replicas=2"])?;
        replicas(old, "2")?;
        old.helm(&["rollback", "leno", "--namespace", SYSTEM, "--wait", "--timeout", "10m"])?;
        replicas(old, "1")?;
        old.calls()
    })?;
    step("helm uninstall refuses to strand pods; why is in the log of its hook", || cli::guarded(old))?;
    step("Helm 4 takes the release over, and Helm 3.17 takes it back", || {
        target.install()?;
        target.calls()?;
        old.install()?;
        old.calls()
    })?;
    step("helm uninstall takes Leno away when nobody needs it", || cli::uninstalled(old))?;
    step("the mesh as it was", || target.install())
}

fn replicas(target: &Target, expected: &str) -> anyhow::Result<()> {
    let ready = "-o=jsonpath={.status.readyReplicas}";
    let ready = target.kubectl(&["-n", SYSTEM, "get", "deployment", "leno-control-plane", ready])?;
    ensure!(ready == expected, "{ready} replicas are ready, expected {expected}");
    Ok(())
}
