//! From an earlier Leno to this one and back, told on a real cluster while requests run: first the chart, then the sidecars, and
//! between the two old and new ones call each other. It must never count an upgrade after which the same programs run.

use std::time::Duration;

use anyhow::ensure;

use super::cli;
use super::earlier;
use super::smoke::SYSTEM;
use super::smoke::Target;
use super::smoke::eventually;
use super::smoke::step;
use super::stories::LIFE;
use super::stories::Life;
use super::trust;

const NOW: &str = env!("CARGO_PKG_VERSION");

pub(crate) fn run(target: &Target) -> anyhow::Result<()> {
    let upgrade = Upgrade { target, life: Life { target } };
    let life = &upgrade.life;
    step("a mesh of an earlier Leno: an application calls from its first moment on", || upgrade.begin())?;
    step("helm upgrade: no call fails, and the earlier sidecars take policies from the new control plane", || {
        life.watch(|| upgrade.upgraded())
    })?;
    step("new servers are called by an earlier sidecar: no call fails", || life.watch(|| upgrade.half()))?;
    step("leno restart --outdated rolls who is left, and nobody else: no call fails", || upgrade.rest())?;
    step("helm rollback: no call fails, and the new sidecars take policies from the earlier control plane", || {
        life.watch(|| upgrade.rolled_back())
    })?;
    step("leno restart --outdated brings the earlier sidecars back: no call fails", || upgrade.all())?;
    step("the mesh as it was", || upgrade.end())
}

struct Upgrade<'a> {
    target: &'a Target,
    life: Life<'a>,
}

impl Upgrade<'_> {
    fn begin(&self) -> anyhow::Result<()> {
        self.life.end()?;
        trust::forget(self.target)?;
        let tag = format!("image.tag={}", earlier::TAG);
        self.target.install_chart(&earlier::chart().to_string_lossy(), &["--set-string", &tag])?;
        self.life.begin()?;
        self.control_plane(earlier::TAG)?;
        self.sidecars("catalog", earlier::TAG)?;
        self.sidecars("caller", earlier::TAG)
    }

    fn upgraded(&self) -> anyhow::Result<()> {
        self.target.install()?;
        self.control_plane(NOW)?;
        self.sidecars("catalog", earlier::TAG)?;
        self.sidecars("caller", earlier::TAG)?;
        cli::ask(self.target, &["check", "--data-plane", "-n", LIFE, "--wait", "30s"], 0, &["SIDECAR_OUTDATED"])?;
        trust::policy_lives(self.target)
    }

    /// The servers, as their next deployment would.
    fn half(&self) -> anyhow::Result<()> {
        self.life.restart(LIFE, "catalog")?;
        self.sidecars("catalog", NOW)?;
        self.sidecars("caller", earlier::TAG)?;
        trust::policy_lives(self.target)
    }

    fn rest(&self) -> anyhow::Result<()> {
        let foretold = self.outdated(&["--dry-run"], &["would restart -n leno-e2e-life deployment/caller"])?;
        ensure!(!foretold.contains("catalog"), "its sidecars are of this release: {foretold}");
        self.life.last_words(|| {
            self.outdated(&[], &["restarted -n leno-e2e-life deployment/caller"])?;
            self.settled(NOW)
        })
    }

    fn rolled_back(&self) -> anyhow::Result<()> {
        self.target.helm(&["rollback", "leno", "--namespace", SYSTEM, "--wait", "--timeout", "10m"])?;
        self.control_plane(earlier::TAG)?;
        self.sidecars("catalog", NOW)?;
        self.sidecars("caller", NOW)?;
        trust::policy_lives(self.target)
    }

    fn all(&self) -> anyhow::Result<()> {
        self.life.last_words(|| {
            let both =
                ["restarted -n leno-e2e-life deployment/catalog", "restarted -n leno-e2e-life deployment/caller"];
            self.outdated(&[], &both)?;
            self.settled(earlier::TAG)
        })
    }

    fn end(&self) -> anyhow::Result<()> {
        self.life.end()?;
        trust::forget(self.target)?;
        self.target.install()?;
        self.target.renewed()
    }

    fn outdated(&self, more: &[&str], holds: &[&str]) -> anyhow::Result<String> {
        cli::ask(self.target, &[&["restart", "--outdated", "-n", LIFE], more].concat(), 0, holds)
    }

    /// Everybody has rolled, and there is nothing more to do.
    fn settled(&self, tag: &str) -> anyhow::Result<()> {
        for name in ["catalog", "caller"] {
            self.life.rolled_out(LIFE, name)?;
        }
        // Pods that are on their way out still run.
        eventually(Duration::from_secs(60), || {
            self.sidecars("catalog", tag)?;
            self.sidecars("caller", tag)?;
            self.outdated(&["--dry-run"], &["nothing to restart"]).map(drop)
        })
    }

    /// All sidecars of this application's pods, but for those that are on their way out, are of this release.
    fn sidecars(&self, app: &str, tag: &str) -> anyhow::Result<()> {
        let label = format!("app={app}");
        let path = "-o=jsonpath={range .items[*]}{.metadata.deletionTimestamp} {.spec.initContainers[?(@.name==\"leno-proxy\")].image}{\"\\n\"}{end}";
        let said = self.target.kubectl(&["-n", LIFE, "get", "pods", "-l", &label, path])?;
        let staying: Vec<&str> = said.lines().filter_map(|line| line.strip_prefix(' ')).collect();
        let all = staying.iter().all(|image| image.ends_with(&format!("/proxy:{tag}")));
        ensure!(!staying.is_empty() && all, "of {app}, not all sidecars are of {tag}:\n{said}");
        Ok(())
    }

    fn control_plane(&self, tag: &str) -> anyhow::Result<()> {
        let path = "-o=jsonpath={.spec.template.spec.containers[0].image}";
        let image = self.target.kubectl(&["-n", SYSTEM, "get", "deployment", "leno-control-plane", path])?;
        ensure!(image.ends_with(&format!("/control-plane:{tag}")), "the control plane is not of {tag}: {image}");
        Ok(())
    }
}
