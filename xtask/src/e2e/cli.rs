//! The command line on a live cluster, as a person types it: what is well it must call well, what is wrong it must find, and what
//! it says of a policy must be what the wire does. It must never take an exit code alone for an answer.

use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use anyhow::ensure;

use super::smoke::SHOP;
use super::smoke::SYSTEM;
use super::smoke::Target;
use super::smoke::eventually;
use super::smoke::step;
use crate::cluster::tools::HELM3;

/// The only doubt about a control plane of one replica.
const DOUBTS: [&str; 1] = ["ONE_REPLICA"];
/// What `policy` is about.
pub(super) const RATE: &str = "e2e/smoke/rate.yaml";
const CATALOG: &str = "TrafficPolicy leno-e2e-shop/catalog";

pub(super) fn fit(target: &Target) -> anyhow::Result<()> {
    ask(target, &["check", "--before"], 0, &["has native sidecars", "you may install it", "0 failed"]).map(drop)
}

/// Every line of it, and in both forms.
pub(super) fn well(target: &Target) -> anyhow::Result<()> {
    let said = ask(target, &["check", "--wait", "300s", "-o", "json"], 0, &[])?;
    let said: serde_json::Value = serde_json::from_str(&said).with_context(|| format!("read {said}"))?;
    let lines = said["lines"].as_array().context("lines")?;
    ensure!(said["well"] == true && lines.len() >= 20, "{} lines: {said:#}", lines.len());
    for line in lines {
        let known = DOUBTS.iter().any(|code| line["code"] == *code);
        ensure!(line["verdict"] == "well" || known, "nothing is wrong, and it says {line}");
    }
    ask(target, &["check", "--data-plane", "-n", SHOP], 0, &["sidecars are ready", "0 failed"])?;
    ask(target, &["lint", "cluster", "-n", SHOP], 0, &["0 errors, 0 warnings"])?;
    ask(target, &["restart", "--outdated", "--unmeshed", "-n", SHOP, "--dry-run"], 0, &["nothing to restart"]).map(drop)
}

/// One sidecar, and one request of it.
pub(super) fn sidecar(target: &Target) -> anyhow::Result<()> {
    let asked = |verb: &str, words: &[&str]| {
        ask(target, &["proxy", verb, "-n", SHOP, "deployment/client"], 0, words)
            .with_context(|| format!("proxy {verb}"))
    };
    let config = asked("config", &[])?;
    serde_json::from_str::<serde_json::Value>(&config).with_context(|| format!("no JSON: {config}"))?;
    ensure!(config.contains("leno-e2e-shop/catalog"), "it calls the catalog, and does not hold it: {config}");
    asked("pools", &["leno-e2e-shop/catalog:80", "ready, mTLS"])?;
    asked("certs", &["spiffe://cluster.local/ns/leno-e2e-shop/sa/client", "left of 24h"])?;
    asked("ready", &[])?;
    for level in ["debug", "info"] {
        ask(target, &["proxy", "log-level", "-n", SHOP, "deployment/client", level], 0, &[level])?;
    }
    let wrong = ["proxy", "log-level", "-n", SHOP, "deployment/client", "leno_proxy=loud"];
    ask(target, &wrong, 2, &["is no level; write error, warn, info, debug, trace, off"])?;
    let request = ["explain", "-n", SHOP, "deployment/client", "catalog", "/items"];
    ask(target, &request, 0, &["leno-e2e-shop/catalog:80", "spiffe://cluster.local/ns/leno-e2e-shop/sa/catalog"])?;
    ask(target, &["proxy", "pools", "-n", SHOP, "deployment/outsider"], 2, &["has no sidecar"])?;
    ask(
        target,
        &["explain", "-n", SHOP, "deployment/client", "catalogue"],
        2,
        &["there is no Service leno-e2e-shop/catalogue; there are leno-e2e-shop/catalog"],
    )
    .map(drop)
}

/// Before the policy is applied.
pub(super) fn foretold(target: &Target) -> anyhow::Result<()> {
    ask(target, &["lint", RATE, "cluster"], 0, &["0 errors, 0 warnings"])?;
    let changes = ["towards Service leno-e2e-shop/catalog", "rateLimit.requestsPerSecond: default -> 1"];
    ask(target, &["diff", RATE], 1, &changes).map(drop)
}

/// When it is in force.
pub(super) fn in_force(target: &Target) -> anyhow::Result<()> {
    ask(target, &["wait", "-f", RATE, "--timeout", "300s"], 0, &[&format!("{CATALOG} is in force")])?;
    ask(target, &["status", "-n", SHOP], 0, &["live", CATALOG, "all of them are in force"])?;
    ask(target, &["diff", "-n", SHOP], 0, &["everything that is declared is in force"])?;
    ask(target, &["diff", RATE], 0, &["nothing would change"])?;
    let request = ["explain", "-n", SHOP, "deployment/client", "catalog", "/items"];
    ask(target, &request, 0, &["rateLimit.requestsPerSecond", CATALOG]).map(drop)
}

/// While there is no control plane.
pub(super) fn lost(target: &Target) -> anyhow::Result<()> {
    // Kubernetes hears of its Pod's end before it says so of the Deployment and of the Service.
    eventually(Duration::from_secs(120), || {
        ask(target, &["check"], 1, &["REPLICAS_NOT_READY", "INJECTOR_SILENT"])?;
        ask(target, &["explain", "-n", SHOP, "deployment/client", "catalog"], 2, &["no control-plane replica is ready"])
            .map(drop)
    })
}

/// helm refuses to strand pods, says why, and the release can be kept.
pub(super) fn guarded(target: &Target) -> anyhow::Result<()> {
    let said = target.helm(&["uninstall", "leno", "--namespace", SYSTEM, "--timeout", "10m"]);
    let said = format!("{:#}", said.err().context("helm took the control plane away from pods with sidecars")?);
    let said = match target.helm {
        // Before 3.18 it tells only that the hook failed.
        HELM3 => target.kubectl(&["-n", SYSTEM, "logs", "job/leno-uninstall-guard"])?,
        _ => said,
    };
    ensure!(said.contains("have a sidecar") || said.contains("has a sidecar"), "the refusal does not say why: {said}");
    let back = said.split('`').find(|words| words.starts_with("helm rollback")).map(str::to_owned);
    let back = back.with_context(|| format!("the refusal does not say how to keep the release: {said}"))?;
    target.helm(&back.split(' ').skip(1).collect::<Vec<_>>())?;
    let status = target.helm(&["status", "leno", "--namespace", SYSTEM])?;
    ensure!(status.contains("STATUS: deployed"), "after {back}: {status}");
    target.install()
}

/// The end of a mesh. It comes last: nothing of Leno is there afterwards.
pub(super) fn leave(target: &Target) -> anyhow::Result<()> {
    step("two applications with sidecars", || target.inject().and_then(|()| target.calls()))?;
    match &target.repository {
        Some(_) => eprintln!("not shown: leno restart --outdated, for which images must have two names"),
        None => step("leno restart --outdated rolls what is of another release", || outdated(target))?,
    }
    step("helm uninstall takes Leno away when nobody needs it", || uninstalled(target))
}

/// The same image under a shorter name is another release to whoever compares names.
fn outdated(target: &Target) -> anyhow::Result<()> {
    target.install_with(&["--set", "image.repository=leno"])?;
    // Sessions are still moving from the old replica to the new one.
    let check = ["check", "--data-plane", "-n", SHOP, "--wait", "30s"];
    ask(target, &check, 0, &["SIDECAR_OUTDATED", "leno restart --outdated"])?;
    let rolled = ["restart -n leno-e2e-shop deployment/catalog", "restarted -n leno-e2e-shop deployment/catalog"];
    ask(target, &["restart", "--outdated", "-n", SHOP, "--dry-run"], 0, &[&format!("would {}", rolled[0])])?;
    ask(target, &["restart", "--outdated", "-n", SHOP], 0, &[rolled[1], "deployment/client"])?;
    for deployment in ["deployment/catalog", "deployment/client"] {
        target.kubectl(&["-n", SHOP, "rollout", "status", deployment, "--timeout=300s"])?;
    }
    // Pods that are on their way out still run.
    eventually(Duration::from_secs(300), || {
        ask(target, &["restart", "--outdated", "-n", SHOP, "--dry-run"], 0, &["nothing to restart"]).map(drop)
    })?;
    target.calls()
}

/// With nobody left to strand, all goes but what users have written and its definitions.
pub(super) fn uninstalled(target: &Target) -> anyhow::Result<()> {
    target.kubectl(&["delete", "namespace", SHOP, "--ignore-not-found", "--wait", "--timeout=300s"])?;
    target.helm(&["uninstall", "leno", "--namespace", SYSTEM, "--wait", "--timeout", "5m"])?;
    ask(target, &["check"], 1, &["NOT_INSTALLED"])?;
    target.kubectl(&["get", "crd", "trafficpolicies.policy.leno.dev"])?;
    let left = "mutatingwebhookconfigurations,validatingwebhookconfigurations,clusterroles,clusterrolebindings";
    let left = target.kubectl(&["get", left, "-o", "name"])?;
    // A cluster of ours has its name server's rights from its own beginning.
    let left: Vec<&str> =
        left.lines().filter(|name| name.contains("leno") && !name.ends_with("/leno-test-dns")).collect();
    ensure!(left.is_empty(), "helm leaves behind {left:?}");
    Ok(())
}

/// What `leno` says to these words, with this exit code; all of `holds` must be in it.
pub(super) fn ask(target: &Target, words: &[&str], code: i32, holds: &[&str]) -> anyhow::Result<String> {
    let mut leno = target.asking(Command::new(&target.leno));
    let output = leno.args(words).env("NO_COLOR", "1").output().context("start leno")?;
    let (out, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let all = format!("{out}{said}");
    let line = words.join(" ");
    ensure!(output.status.code() == Some(code), "leno {line}: {}, expected {code}:\n{all}", output.status);
    for word in holds {
        ensure!(all.contains(word), "leno {line} does not say {word:?}:\n{all}");
    }
    Ok(out.into_owned())
}
