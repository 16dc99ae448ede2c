//! What may happen to pods and planes while requests run, told on a real cluster: after each story the caller says how many of its
//! requests failed, and that must be none. It must never count a story in which nobody called.

use std::process::Child;
use std::process::Stdio;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::ensure;

use super::smoke::SYSTEM;
use super::smoke::Target;
use super::smoke::eventually;
use super::smoke::step;

pub(super) const LIFE: &str = "leno-e2e-life";
/// Where nothing asks for sidecars.
const PLAIN: &str = "default";
/// How long the control plane is away; its sidecars notice after half of it.
const AWAY: Duration = Duration::from_secs(75);
/// Shorter than the 50 s after which Kubernetes itself would take the node's pods out of every Service.
const API_AWAY: Duration = Duration::from_secs(35);
/// Requests that must have ended after a story for it to count.
const CALLS: u64 = 100;
/// Pods that must have been made meanwhile.
const PODS: u32 = 5;

pub(crate) fn run(target: &Target) -> anyhow::Result<()> {
    let life = Life { target };
    step("an application calls from its first moment on, and no call fails", || life.begin())?;
    step("rolling restart of the servers: no call fails", || life.watch(|| life.restart(LIFE, "catalog")))?;
    step("rolling restart of the caller: its last calls succeed too", || life.restart_caller())?;
    step("every server is evicted under its disruption budget: no call fails", || life.watch(|| life.evict()))?;
    step("rolling restart of the control plane: no call fails, and no pod that is made meanwhile is refused", || {
        life.watch(|| life.restart_control_plane())
    })?;
    step("a minute without control plane: no call fails, and pods are made as the failure policy says", || {
        life.watch(|| life.without_control_plane())
    })?;
    if target.cluster.is_none() {
        eprintln!("not shown: a loss of the API server, which on this cluster is not ours to stop");
    } else {
        step("the API server stands still: no call fails", || life.watch(|| life.without_api_server()))?;
    }
    super::trust::run(&life)?;
    super::killed::run(&life)?;
    life.end()
}

pub(super) struct Life<'a> {
    pub(super) target: &'a Target,
}

/// What the caller has counted since its start.
#[derive(Debug)]
pub(super) struct Figures {
    pub(super) total: u64,
    pub(super) failed: u64,
    pub(super) text: String,
}

impl Life<'_> {
    pub(super) fn begin(&self) -> anyhow::Result<()> {
        self.end()?;
        self.target.apply(&self.target.manifest("life.yaml")?)?;
        self.rolled_out(LIFE, "catalog")?;
        self.target.apply(&self.target.manifest("caller.yaml")?)?;
        self.rolled_out(LIFE, "caller")?;
        self.unharmed(0)
    }

    /// A pod may be there for as long as its grace period.
    pub(super) fn end(&self) -> anyhow::Result<()> {
        let arguments = ["delete", "namespace", LIFE, "--ignore-not-found", "--wait", "--timeout=300s"];
        self.target.kubectl(&arguments).map(drop)
    }

    /// Tells a story and asks the caller afterwards.
    pub(super) fn watch(&self, story: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
        story()?;
        self.unharmed(self.figures()?.total)
    }

    /// Calls have gone on since this many, and none has failed.
    fn unharmed(&self, since: u64) -> anyhow::Result<()> {
        let mut last = String::new();
        eventually(Duration::from_secs(300), || {
            let Figures { total, text, .. } = self.figures()?;
            last = text;
            ensure!(total >= since + CALLS, "the caller stands still: {last}");
            Ok(())
        })?;
        let Figures { total, failed, text } = self.figures()?;
        ensure!(failed == 0, "{failed} of {total} calls failed: {text}");
        eprintln!("  {total} calls, none failed");
        Ok(())
    }

    pub(super) fn figures(&self) -> anyhow::Result<Figures> {
        let path = format!("/api/v1/namespaces/{LIFE}/pods/{}:8080/proxy/", self.caller()?);
        Figures::read(&self.target.kubectl(&["get", "--raw", &path])?)
    }

    pub(super) fn caller(&self) -> anyhow::Result<String> {
        self.pod("caller")
    }

    /// One of those that run.
    pub(super) fn pod(&self, app: &str) -> anyhow::Result<String> {
        let label = format!("app={app}");
        let pods = ["-n", LIFE, "get", "pods", "-l", &label, "--field-selector=status.phase=Running"];
        self.target.kubectl(&[&pods[..], &["-o=jsonpath={.items[0].metadata.name}"]].concat())
    }

    pub(super) fn restart(&self, namespace: &str, deployment: &str) -> anyhow::Result<()> {
        self.target.kubectl(&["-n", namespace, "rollout", "restart", &format!("deployment/{deployment}")])?;
        self.rolled_out(namespace, deployment)
    }

    pub(super) fn rolled_out(&self, namespace: &str, deployment: &str) -> anyhow::Result<()> {
        let name = format!("deployment/{deployment}");
        self.target.kubectl(&["-n", namespace, "rollout", "status", &name, "--timeout=300s"]).map(drop)
    }

    fn restart_caller(&self) -> anyhow::Result<()> {
        self.last_words(|| self.restart(LIFE, "caller"))
    }

    /// A story in which the caller is made anew: its log is followed to its end, where it says what it counted, and its successor
    /// is asked too.
    pub(super) fn last_words(&self, story: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
        let mut follow = self.target.command("kubectl");
        // By its name: its successor is a pod of the same Deployment.
        follow.args(["-n", LIFE, "logs", "--follow", &self.caller()?, "-c", "app"]);
        let follow = Follow(follow.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("start kubectl")?);
        story()?;
        let said = follow.words()?;
        let last = said.lines().last().context("the caller ended without a word")?;
        let Figures { total, failed, text } = Figures::read(last)?;
        ensure!(total > 0 && failed == 0, "{failed} of {total} calls of the caller that ended failed: {text}");
        eprintln!("  {total} calls of the caller that ended, none failed");
        self.unharmed(0)
    }

    /// As a node's drain does it: one after another, again where the budget says not yet.
    fn evict(&self) -> anyhow::Result<()> {
        let names = ["-n", LIFE, "get", "pods", "-l", "app=catalog", "-o=jsonpath={.items[*].metadata.name}"];
        let pods = self.target.kubectl(&names)?;
        ensure!(pods.split(' ').count() >= 2, "two servers were asked for: {pods}");
        for pod in pods.split(' ') {
            let eviction = format!(
                "{{\"apiVersion\": \"policy/v1\", \"kind\": \"Eviction\", \"metadata\": {{\"name\": \"{pod}\", \"namespace\": \"{LIFE}\"}}}}"
            );
            let path = format!("/api/v1/namespaces/{LIFE}/pods/{pod}/eviction");
            eventually(Duration::from_secs(300), || {
                self.target.feed(&["create", "--raw", &path, "-f", "-"], &eviction)
            })?;
        }
        let gone: Vec<String> = pods.split(' ').map(|pod| format!("pod/{pod}")).collect();
        let gone: Vec<&str> = gone.iter().map(String::as_str).collect();
        let wait = ["-n", LIFE, "wait", "--for=delete", "--timeout=300s"];
        self.target.kubectl(&[&wait[..], &gone[..]].concat())?;
        self.rolled_out(LIFE, "catalog")
    }

    /// Pods are asked for until the old replicas have ended, one after another, by connections that the API server keeps. Nobody
    /// stores them.
    fn restart_control_plane(&self) -> anyhow::Result<()> {
        let pod = self.target.manifest("pod.yaml")?.replace("NAMESPACE", LIFE);
        let create = ["create", "--dry-run=server", "-f", "-", "-o=jsonpath={.spec.initContainers[*].name}"];
        let names = ["-n", SYSTEM, "get", "pods", "-l", "app.kubernetes.io/component=control-plane", "-o", "name"];
        let old = self.target.kubectl(&names)?;
        let over = AtomicBool::new(false);
        let made = std::thread::scope(|scope| {
            let asking = scope.spawn(|| {
                let mut made = 0;
                while !over.load(Ordering::Relaxed) {
                    let said = self.target.ask(&create, &pod).with_context(|| format!("pod {made} was refused"))?;
                    ensure!(said.contains("leno-proxy"), "pod {made} has no sidecar: {said}");
                    made += 1;
                }
                anyhow::Ok(made)
            });
            let gone = ["-n", SYSTEM, "wait", "--for=delete", "--timeout=120s"];
            let gone: Vec<&str> = gone.into_iter().chain(old.split_whitespace()).collect();
            let rolled = self.restart(SYSTEM, "leno-control-plane").and_then(|()| self.target.kubectl(&gone).map(drop));
            over.store(true, Ordering::Relaxed);
            let made = asking.join().expect("it does not panic");
            rolled.and(made)
        })?;
        eprintln!("  {made} pods were made meanwhile, none refused");
        ensure!(made >= PODS, "{made} pods are too few to say so");
        Ok(())
    }

    /// The injector is away with it: who asks for a sidecar waits for one, and nobody else notices.
    fn without_control_plane(&self) -> anyhow::Result<()> {
        let away = Instant::now();
        self.target.scale("0")?;
        let pod = |namespace| self.target.manifest("pod.yaml").map(|text| text.replace("NAMESPACE", namespace));
        let meshed = pod(LIFE)?;
        let refused = self.target.feed(&["create", "-f", "-"], &meshed);
        let said = refused.err().context("a pod that asks for a sidecar was made without one")?.to_string();
        ensure!(said.contains("inject.leno.dev"), "the refusal does not name the webhook: {said}");
        self.target.feed(&["create", "-f", "-"], &pod(PLAIN)?).context("a pod that asks for nothing")?;
        self.target.kubectl(&["-n", PLAIN, "delete", "pod", "alone"])?;
        while away.elapsed() < AWAY {
            std::thread::sleep(Duration::from_secs(1));
        }
        let Figures { failed, text, .. } = self.figures()?;
        ensure!(failed == 0, "without control plane: {text}");
        self.target.scale("1")?;
        eventually(Duration::from_secs(120), || self.target.feed(&["create", "-f", "-"], &meshed))?;
        self.target.kubectl(&["-n", LIFE, "wait", "pod/alone", "--for=condition=Ready", "--timeout=300s"])?;
        self.target.kubectl(&["-n", LIFE, "delete", "pod", "alone"]).map(drop)
    }

    /// It is stopped and not ended, so that its clients hang, which is worse for them than being refused.
    fn without_api_server(&self) -> anyhow::Result<()> {
        let cluster = self.target.cluster.as_ref().context("a cluster of ours")?;
        let stopped = cluster.stop("kube-apiserver")?;
        std::thread::sleep(API_AWAY);
        drop(stopped);
        eventually(Duration::from_secs(120), || self.target.kubectl(&["get", "--raw", "/readyz"]).map(drop))?;
        // What happens after it is known again.
        self.restart(LIFE, "catalog")
    }
}

impl Figures {
    fn read(text: &str) -> anyhow::Result<Self> {
        let value: serde_json::Value = serde_json::from_str(text).with_context(|| format!("read {text:?}"))?;
        let count = |name: &str| value[name].as_u64().with_context(|| format!("no {name} in {text}"));
        Ok(Self { total: count("total")?, failed: count("failed")?, text: text.to_owned() })
    }
}

/// A program whose words are waited for; ended where they are not.
struct Follow(Child);

impl Follow {
    fn words(mut self) -> anyhow::Result<String> {
        let out = self.0.stdout.take().context("it was asked for")?;
        std::io::read_to_string(out).context("read kubectl logs")
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
