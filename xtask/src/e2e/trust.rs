//! Replicas and trust, told on a real cluster while requests run: a leader and a serving replica are lost, and the root of trust
//! changes while every certificate is renewed. It must never count a rotation that did not end.

use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::ensure;

use super::smoke::SYSTEM;
use super::smoke::Target;
use super::smoke::eventually;
use super::smoke::step;
use super::stories::LIFE;
use super::stories::Life;

/// A renewal every few seconds, and the shortest wait for the old root's last leaf.
const LEAF_TTL: &str = "leafTtl=20s";
/// 2 s to 60 s until it is trusted, then 90 s for replicas that have not heard, a leaf's life, and as much again for clocks.
const ROTATION: Duration = Duration::from_secs(400);

pub(super) fn run(life: &Life<'_>) -> anyhow::Result<()> {
    let target = life.target;
    step("three replicas: the leader is killed, and another one writes within its lease", || {
        scale(target, 3)?;
        life.watch(|| lose(target, true))
    })?;
    step("three replicas: one that only serves is killed", || life.watch(|| lose(target, false)))?;
    step("back to one", || scale(target, 1))?;
    step("a new mesh whose certificates live 20 s: renewed under load, no call fails", || {
        anew(life)?;
        life.begin()?;
        life.watch(|| {
            std::thread::sleep(Duration::from_secs(45));
            Ok(())
        })
    })?;
    step("the root of trust is replaced under load, to its end: no call fails", || {
        scale(target, 2)?;
        life.watch(|| rotate(target))
    })?;
    step("the mesh as it was", || {
        life.end()?;
        forget(target)?;
        target.install()?;
        target.renewed()?;
        life.begin()
    })
}

fn scale(target: &Target, replicas: usize) -> anyhow::Result<()> {
    target.scale(&replicas.to_string())?;
    let name = "deployment/leno-control-plane";
    target.kubectl(&["-n", SYSTEM, "rollout", "status", name, "--timeout=180s"]).map(drop)
}

fn holder(target: &Target) -> anyhow::Result<String> {
    target.kubectl(&["-n", SYSTEM, "get", "lease", "leno-control-plane", "-o=jsonpath={.spec.holderIdentity}"])
}

/// Kills the leader, or another; then a policy goes live, and somebody says so.
fn lose(target: &Target, leader: bool) -> anyhow::Result<()> {
    let mut before = String::new();
    eventually(Duration::from_secs(60), || {
        before = holder(target)?;
        ensure!(!before.is_empty(), "nobody leads");
        Ok(())
    })?;
    let names = ["-n", SYSTEM, "get", "pods", "-l", "app.kubernetes.io/component=control-plane"];
    let pods = target.kubectl(&[&names[..], &["-o=jsonpath={.items[*].metadata.name}"]].concat())?;
    ensure!(pods.split(' ').count() >= 3, "three replicas were asked for: {pods}");
    let victim = pods.split(' ').find(|pod| (*pod == before) == leader).context("no such replica")?;
    let killed = Instant::now();
    target.kubectl(&["-n", SYSTEM, "delete", "pod", victim, "--grace-period=0", "--force"])?;
    eventually(Duration::from_secs(40), || {
        let now = holder(target)?;
        ensure!(!leader || (now != before && !now.is_empty()), "still {now}");
        Ok(())
    })?;
    if leader {
        eprintln!("  another leads {:.1} s after its end", killed.elapsed().as_secs_f32());
    }
    policy_lives(target)?;
    scale(target, 3)
}

/// A policy goes into force in every sidecar that it concerns, and somebody says so.
pub(super) fn policy_lives(target: &Target) -> anyhow::Result<()> {
    let policy = format!(
        "{{apiVersion: policy.leno.dev/v1alpha1, kind: TrafficPolicy, metadata: {{name: after, namespace: {LIFE}}}, \
         spec: {{targetRefs: [{{group: '', kind: Service, name: catalog}}], timeouts: {{request: 9s}}}}}}"
    );
    target.apply(&policy)?;
    target.kubectl(&["-n", LIFE, "wait", "trafficpolicy/after", "--for=condition=Programmed", "--timeout=90s"])?;
    target.kubectl(&["-n", LIFE, "delete", "trafficpolicy", "after"]).map(drop)
}

/// A state of trust counts on the longest leaf that it ever signed for: short ones want a new one.
fn anew(life: &Life<'_>) -> anyhow::Result<()> {
    life.end()?;
    forget(life.target)?;
    life.target.install_with(&["--set", LEAF_TTL])
}

/// As an operator who starts again: no control plane, no root, and nobody who trusts it.
pub(super) fn forget(target: &Target) -> anyhow::Result<()> {
    target.scale("0")?;
    target.kubectl(&["-n", SYSTEM, "delete", "secret", "leno-root", "--ignore-not-found"])?;
    let maps = target.kubectl(&[
        "get",
        "configmaps",
        "-A",
        "--field-selector=metadata.name=leno-trust",
        "-o=jsonpath={.items[*].metadata.namespace}",
    ])?;
    for namespace in maps.split_whitespace() {
        target.kubectl(&["-n", namespace, "delete", "configmap", "leno-trust"])?;
    }
    Ok(())
}

fn anchors(target: &Target) -> anyhow::Result<Vec<String>> {
    let path = "-o=jsonpath={.data.anchor\\.pem}";
    let pem = target.kubectl(&["-n", LIFE, "get", "configmap", "leno-trust", path])?;
    Ok(pem.split("-----BEGIN CERTIFICATE-----").skip(1).map(str::to_owned).collect())
}

fn rotate(target: &Target) -> anyhow::Result<()> {
    let before = anchors(target)?;
    ensure!(before.len() == 1, "{} anchors before anything", before.len());
    let start = Instant::now();
    target.kubectl(&["-n", SYSTEM, "annotate", "secret", "leno-root", "leno.dev/rotate=now"])?;
    let reached = |count: usize, limit| {
        eventually(limit, || {
            let now = anchors(target)?;
            ensure!(now.len() == count, "{} anchors, expected {count}", now.len());
            Ok(())
        })
    };
    reached(2, Duration::from_secs(60))?;
    eprintln!("  both roots are trusted after {:.0} s", start.elapsed().as_secs_f32());
    reached(1, ROTATION)?;
    ensure!(anchors(target)? != before, "it is the old root that is left");
    eprintln!("  the new root alone is trusted after {:.0} s", start.elapsed().as_secs_f32());
    // Whoever starts now knows the new root alone.
    target.kubectl(&["-n", LIFE, "rollout", "restart", "deployment/catalog"])?;
    target.kubectl(&["-n", LIFE, "rollout", "status", "deployment/catalog", "--timeout=180s"]).map(drop)
}
