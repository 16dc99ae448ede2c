//! Sidecars that die in their pods while there is no control plane, told on a real cluster while requests run: each serves again
//! from its volume what it knew. It must never count a sidecar that was not killed, nor one that a control plane has helped.

use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::ensure;

use super::smoke::Target;
use super::smoke::eventually;
use super::smoke::step;
use super::stories::LIFE;
use super::stories::Life;
use super::trust;

/// The caller's connections, on each of which one call may be under way as its server's sidecar dies. No other call may fail.
const UNDER_WAY: u64 = 5;
/// Without failure, after which the dead sidecar counts as back.
const CALLS: u64 = 100;

/// After it the caller's figures are not those of a mesh that loses nothing.
pub(super) fn run(life: &Life<'_>) -> anyhow::Result<()> {
    let target = life.target;
    if target.cluster.is_none() {
        eprintln!("not shown: sidecars that are killed, which on this cluster are not ours to reach");
        return Ok(());
    }
    target.scale("0")?;
    step("no control plane, and a server's sidecar is killed: it serves again, and only calls under way fail", || {
        server(life)
    })?;
    step("no control plane, and the caller's own is killed: its calls fail until it is back, and none after", || {
        caller(life)
    })?;
    step("the control plane is back, and policies live in both", || {
        target.scale("1")?;
        trust::policy_lives(target)
    })
}

fn server(life: &Life<'_>) -> anyhow::Result<()> {
    let before = life.figures()?;
    let pod = life.pod("catalog")?;
    kill(life.target, &pod)?;
    eventually(Duration::from_secs(60), || {
        let metrics = format!("/api/v1/namespaces/{LIFE}/pods/{pod}:15021/proxy/metrics");
        let metrics = life.target.kubectl(&["get", "--raw", &metrics])?;
        // They began anew with it.
        let served = |line: &str| {
            let words = ["leno_requests_total{", "tls=\"mtls\"", "class=\"2xx\""];
            words.iter().all(|word| line.contains(word)) && !line.ends_with(" 0")
        };
        ensure!(metrics.lines().any(served), "{pod} has served nobody over mTLS since:\n{metrics}");
        Ok(())
    })?;
    let after = calm(life)?;
    let lost = after.failed - before.failed;
    eprintln!("  {lost} of {} calls failed", after.total - before.total);
    ensure!(lost <= UNDER_WAY, "{lost} calls failed, and only {UNDER_WAY} could be under way: {}", after.text);
    Ok(())
}

fn caller(life: &Life<'_>) -> anyhow::Result<()> {
    let before = life.figures()?;
    kill(life.target, &life.caller()?)?;
    let after = calm(life)?;
    eprintln!("  {} of {} calls failed", after.failed - before.failed, after.total - before.total);
    Ok(())
}

/// Kills the sidecar of this pod as the kernel does when memory is out, and returns when it is ready again.
fn kill(target: &Target, pod: &str) -> anyhow::Result<()> {
    let uid = target.kubectl(&["-n", LIFE, "get", "pod", pod, "-o=jsonpath={.metadata.uid}"])?;
    let (ready, restarts) = sidecar(target, pod)?;
    ensure!(ready, "the sidecar of {pod} is not ready before anything");
    target.cluster.as_ref().context("a cluster of ours")?.kill(&uid, "leno-proxy")?;
    let killed = Instant::now();
    eventually(Duration::from_secs(120), || {
        let now = sidecar(target, pod)?;
        ensure!(now == (true, restarts + 1), "the sidecar of {pod} is not back: (ready, restarts) = {now:?}");
        Ok(())
    })?;
    eprintln!("  it is ready {:.1} s after its end", killed.elapsed().as_secs_f32());
    Ok(())
}

/// Whether it is ready, and how often it was restarted.
fn sidecar(target: &Target, pod: &str) -> anyhow::Result<(bool, u32)> {
    let path =
        "-o=jsonpath={range .status.initContainerStatuses[?(@.name==\"leno-proxy\")]}{.ready} {.restartCount}{end}";
    let said = target.kubectl(&["-n", LIFE, "get", "pod", pod, path])?;
    let (ready, restarts) = said.split_once(' ').with_context(|| format!("no state of the sidecar: {said:?}"))?;
    Ok((ready == "true", restarts.parse().with_context(|| format!("read {said:?}"))?))
}

/// Waits until calls in a row succeed, and says what was counted until then.
fn calm(life: &Life<'_>) -> anyhow::Result<super::stories::Figures> {
    let mut since = life.figures()?;
    eventually(Duration::from_secs(120), || {
        let now = life.figures()?;
        if now.failed != since.failed {
            since = now;
            anyhow::bail!("calls fail: {}", since.text);
        }
        ensure!(now.total >= since.total + CALLS, "the caller stands still: {}", now.text);
        since = now;
        Ok(())
    })?;
    Ok(since)
}
