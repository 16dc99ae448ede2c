//! The least that must be true on a real cluster: the chart installs, annotated pods get their sidecars, traffic between them
//! is mTLS, and a policy goes live with kubectl telling the truth about it. It must never sleep and hope: it asks until a deadline.

use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::ensure;

use crate::cluster::Cluster;
use crate::cluster::tools;
use crate::e2e::cli;
use crate::e2e::stories::LIFE;
use crate::shell;

/// The namespace of the application in `e2e/smoke/shop.yaml`.
pub(super) const SHOP: &str = "leno-e2e-shop";
pub(super) const SYSTEM: &str = "leno-system";

/// What the control plane's account may and may not do, as `kubectl auth can-i` asks.
const RIGHTS: [(bool, &str); 34] = [
    (true, "watch pods -A"),
    (true, "watch services -A"),
    (true, "watch endpointslices.discovery.k8s.io -A"),
    (true, "watch httproutes.gateway.networking.k8s.io -A"),
    (true, "watch trafficpolicies.policy.leno.dev -A"),
    (true, "patch trafficpolicies.policy.leno.dev -A --subresource=status"),
    (true, "create tokenreviews.authentication.k8s.io"),
    (true, "create configmaps -n default"),
    (true, "patch configmap/leno-trust -n default"),
    (true, "create secrets -n leno-system"),
    (true, "update secret/leno-root -n leno-system"),
    (true, "watch secret/leno-root -n leno-system"),
    (true, "update lease/leno-control-plane -n leno-system"),
    (true, "patch mutatingwebhookconfiguration/leno-injector"),
    (false, "patch mutatingwebhookconfiguration/another"),
    (false, "create mutatingwebhookconfigurations"),
    (false, "get secrets -n default"),
    (false, "get secret/another -n leno-system"),
    (false, "get secret/leno-root -n default"),
    (false, "list secrets -n leno-system"),
    (false, "watch secrets -n leno-system"),
    (false, "delete secret/leno-root -n leno-system"),
    (false, "list customresourcedefinitions.apiextensions.k8s.io"),
    (false, "update lease/another -n leno-system"),
    (false, "impersonate users"),
    (false, "get configmap/another -n default"),
    (false, "delete configmap/leno-trust -n default"),
    (false, "create pods -n default"),
    (false, "create pods -n default --subresource=exec"),
    (false, "delete pods -n default"),
    (false, "patch services -n default"),
    (false, "create trafficpolicies.policy.leno.dev -n default"),
    (false, "update trafficpolicies.policy.leno.dev -n default"),
    (false, "create serviceaccounts -n default --subresource=token"),
];

/// The same by trying: whether the API server does it in the account's name. Nothing of it would harm where it were done.
const TRIED: [(bool, &str); 12] = [
    (true, "get pods -A"),
    (true, "get httproutes.gateway.networking.k8s.io -A"),
    (true, "get secret leno-root -n leno-system"),
    (true, "get lease leno-control-plane -n leno-system"),
    (false, "get secrets -n default"),
    (false, "get secrets -n leno-system"),
    (false, "get secret leno-root -n default"),
    (false, "delete secret leno-root -n leno-system --dry-run=server"),
    (false, "delete pod nobody -n default --dry-run=server"),
    (false, "create service clusterip another -n default --tcp=80 --dry-run=server"),
    (false, "create token leno-control-plane -n leno-system"),
    (false, "annotate service kubernetes -n default tried=yes --dry-run=server"),
];

/// A cluster under test.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) kubeconfig: PathBuf,
    /// The command line.
    pub(crate) leno: PathBuf,
    /// Which of the two that are built installs the chart.
    pub(crate) helm: &'static str,
    /// Where its nodes find Leno's images, if not where the chart says.
    pub(crate) repository: Option<String>,
    /// Where it is ours: its programs may be stopped.
    pub(crate) cluster: Option<Cluster>,
}

pub(crate) fn run(target: &Target) -> anyhow::Result<()> {
    step("Gateway API's own definitions, as they come", || target.gateway_api())?;
    step("leno check --before: the cluster is fit", || cli::fit(target))?;
    step("the chart installs, and its control plane is ready", || target.install())?;
    step("the control plane may do what it needs, and nothing else", || target.rights())?;
    step("helm test", || target.helm_test())?;
    step("annotated pods run with their sidecars", || target.inject())?;
    step("one service calls the other", || target.calls())?;
    step("what travels between them is mTLS", || target.is_mtls())?;
    step("leno check: all is well", || cli::well(target))?;
    step("leno proxy and leno explain tell of one sidecar and one request", || cli::sidecar(target))?;
    step("who has no sidecar is still served", || target.outsider())?;
    step("a TrafficPolicy goes live, and kubectl says so", || target.policy())?;
    step("an HTTPRoute goes live", || target.route())?;
    step("an AccessPolicy goes live: the caller gets its reason", || target.denied())?;
    step("a Job with a sidecar calls at once, and ends", || target.job())?;
    step("a strict port refuses who has no sidecar, and neither the others nor the kubelet", || target.strict())?;
    step("calls go on while there is no control plane, and policies after it is back", || target.outage())?;
    step("helm uninstall refuses to strand pods, and the release can be kept", || cli::guarded(target))?;
    target.calls()
}

/// Runs a step and says how long it took.
pub(super) fn step(what: &str, run: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let start = Instant::now();
    run().with_context(|| format!("NOT TRUE: {what}"))?;
    eprintln!("\x1b[32mtrue\x1b[0m {what} ({:.1} s)", start.elapsed().as_secs_f32());
    Ok(())
}

/// Asks again until the answer is yes; the last answer is told where it never is.
pub(super) fn eventually(limit: Duration, mut ask: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let start = Instant::now();
    loop {
        match ask() {
            Ok(()) => return Ok(()),
            Err(error) if start.elapsed() > limit => return Err(error.context(format!("after {} s", limit.as_secs()))),
            Err(_) => std::thread::sleep(Duration::from_millis(200)),
        }
    }
}

impl Target {
    pub(super) fn gateway_api(&self) -> anyhow::Result<()> {
        let folder = tools::files("gateway-api", "sigs.k8s.io/gateway-api")?.join("config/crd/standard");
        self.kubectl(&["apply", "--server-side", "-f", &folder.to_string_lossy()]).map(drop)
    }

    pub(super) fn install(&self) -> anyhow::Result<()> {
        self.install_with(&[])
    }

    /// With these arguments to helm.
    pub(super) fn install_with(&self, more: &[&str]) -> anyhow::Result<()> {
        self.install_chart("charts/leno", more)
    }

    pub(super) fn install_chart(&self, chart: &str, more: &[&str]) -> anyhow::Result<()> {
        let repository = self.repository.as_ref().map(|r| format!("image.repository={r}"));
        let mut arguments = vec!["upgrade", "--install", "leno", chart, "--namespace", SYSTEM, "--create-namespace"];
        // Room for a machine whose node is also the one that builds.
        arguments.extend(["--wait", "--timeout", "10m", "--set", "controlPlane.priorityClassName="]);
        // Images of the same tag are new ones: a cluster that has run before must take them.
        let fresh = format!("controlPlane.podAnnotations.run={}", std::process::id());
        arguments.extend(["--set-string", &fresh]);
        arguments.extend(repository.iter().flat_map(|set| ["--set", set.as_str()]));
        arguments.extend(more);
        self.helm(&arguments).map(drop)
    }

    /// As the control plane's account, by asking the API server and by trying.
    fn rights(&self) -> anyhow::Result<()> {
        let account = format!("--as=system:serviceaccount:{SYSTEM}:leno-control-plane");
        for (expected, words) in RIGHTS {
            let mut question = vec!["auth", "can-i", "--quiet", &account];
            question.extend(words.split(' '));
            let may = self.command("kubectl").args(&question).output()?.status.success();
            ensure!(may == expected, "can-i {words}: {may}, and should be {expected}");
        }
        for (expected, words) in TRIED {
            let attempt: Vec<&str> = words.split(' ').chain([account.as_str()]).collect();
            match self.kubectl(&attempt) {
                Ok(_) => ensure!(expected, "it may {words}"),
                Err(error) => {
                    let said = error.to_string();
                    ensure!(!expected && said.contains("is forbidden"), "kubectl {words}: {said}");
                }
            }
        }
        Ok(())
    }

    pub(super) fn helm_test(&self) -> anyhow::Result<()> {
        self.helm(&["test", "leno", "--namespace", SYSTEM, "--timeout", "5m"]).map(drop)
    }

    pub(super) fn inject(&self) -> anyhow::Result<()> {
        self.apply(&self.manifest("shop.yaml")?)?;
        for deployment in ["deployment/catalog", "deployment/client"] {
            self.kubectl(&["-n", SHOP, "rollout", "status", deployment, "--timeout=300s"])?;
        }
        let path = "-o=jsonpath={range .items[*]}{.metadata.name}:{range .spec.initContainers[*]} {.name}={.restartPolicy}{end}{\"\\n\"}{end}";
        let pods = self.kubectl(&["-n", SHOP, "get", "pods", "-l", "meshed=yes", path])?;
        ensure!(pods.lines().count() >= 2, "two pods were asked for:\n{pods}");
        for pod in pods.lines() {
            ensure!(pod.contains(" leno-init=") && pod.contains(" leno-proxy=Always"), "no sidecar: {pod}");
        }
        Ok(())
    }

    /// The same pods anew, after the mesh that they trusted is no more.
    pub(super) fn renewed(&self) -> anyhow::Result<()> {
        if self.kubectl(&["get", "namespace", SHOP, "--ignore-not-found", "-o", "name"])?.is_empty() {
            return Ok(());
        }
        for deployment in ["deployment/catalog", "deployment/client"] {
            self.kubectl(&["-n", SHOP, "rollout", "restart", deployment])?;
            self.kubectl(&["-n", SHOP, "rollout", "status", deployment, "--timeout=300s"])?;
        }
        self.calls()
    }

    pub(super) fn calls(&self) -> anyhow::Result<()> {
        eventually(Duration::from_secs(300), || {
            let answer = self.get("client", "http://catalog/items")?;
            ensure!(answer.contains("\"mug\""), "not the catalog's answer: {answer}");
            Ok(())
        })
    }

    /// By the caller's own count: the kubelet's probes reach the server in plaintext, and are not what this is about.
    pub(super) fn is_mtls(&self) -> anyhow::Result<()> {
        let metrics = self.metrics("app=client")?;
        let outbound = |tls: &str| {
            let words =
                [format!("service=\"{SHOP}/catalog:80\""), format!("tls=\"{tls}\""), "class=\"2xx\"".to_owned()];
            let counts = |line: &&str| words.iter().all(|word| line.contains(word.as_str())) && !line.ends_with(" 0");
            metrics.lines().filter(|line| line.starts_with("leno_requests_total{")).any(|line| counts(&line))
        };
        ensure!(outbound("mtls"), "the client's sidecar counted no request over mTLS:\n{metrics}");
        ensure!(!outbound("plaintext"), "the client's sidecar counted a request in plaintext:\n{metrics}");
        Ok(())
    }

    fn outsider(&self) -> anyhow::Result<()> {
        self.kubectl(&["-n", SHOP, "rollout", "status", "deployment/outsider", "--timeout=300s"])?;
        let answer = self.get("outsider", "http://catalog/items")?;
        ensure!(answer.contains("\"mug\""), "a permissive port refused plaintext: {answer}");
        Ok(())
    }

    /// A rate of one in a second with no burst: of calls in a row some must be refused, and only once the policy is in force.
    fn policy(&self) -> anyhow::Result<()> {
        cli::foretold(self)?;
        self.apply(&self.manifest("rate.yaml")?)?;
        self.kubectl(&["-n", SHOP, "wait", "trafficpolicy/catalog", "--for=condition=Programmed", "--timeout=300s"])?;
        cli::in_force(self)?;
        let shown = self.kubectl(&["-n", SHOP, "get", "trafficpolicy", "catalog"])?;
        eprint!("{shown}");
        // From one shell in the pod: kubectl takes a second for each call where the machine is busy.
        let script =
            "n=0; while [ $n -lt 20 ]; do /busybox wget -q -O - http://catalog/items 2>&1; n=$((n + 1)); done; true";
        let exec = ["-n", SHOP, "exec", "deployment/client", "-c", "app", "--", "/busybox", "sh", "-c", script];
        let answers = self.kubectl(&exec)?;
        ensure!(
            answers.contains("429"),
            "Programmed is True, and twenty calls in a row pass a limit of one a second: {answers}"
        );
        self.kubectl(&["-n", SHOP, "delete", "trafficpolicy", "catalog"])?;
        self.calls()
    }

    /// Requests that name the new version get it; all others get the old one.
    fn route(&self) -> anyhow::Result<()> {
        self.apply(&self.manifest("route.yaml")?)?;
        self.kubectl(&["-n", SHOP, "rollout", "status", "deployment/catalog-v2", "--timeout=300s"])?;
        let programmed = "--for=jsonpath={.status.parents[?(@.controllerName==\"leno.dev/control-plane\")].conditions[?(@.type==\"leno.dev/Programmed\")].status}=True";
        self.kubectl(&["-n", SHOP, "wait", "httproute/catalog", programmed, "--timeout=300s"])?;
        for (path, version) in [("/items", "v1"), ("/next/items", "v2")] {
            let answer = self.get("client", &format!("http://catalog{path}"))?;
            ensure!(answer.contains(&format!("\"version\":\"{version}\"")), "{path} wants {version}: {answer}");
        }
        // With the version that it led to: nobody would renew that one when the mesh is made anew.
        self.feed(&["delete", "-f", "-"], &self.manifest("route.yaml")?)
    }

    fn denied(&self) -> anyhow::Result<()> {
        self.apply(&self.manifest("deny.yaml")?)?;
        self.kubectl(&["-n", SHOP, "wait", "accesspolicy/nobody", "--for=condition=Programmed", "--timeout=300s"])?;
        let answer = self.get("client", "http://catalog/items").unwrap_or_else(|e| format!("{e:#}"));
        ensure!(answer.contains("403"), "Programmed is True, and the call is not refused: {answer}");
        self.kubectl(&["-n", SHOP, "delete", "accesspolicy", "nobody"])?;
        self.calls()
    }

    fn strict(&self) -> anyhow::Result<()> {
        self.apply(&self.manifest("strict.yaml")?)?;
        self.kubectl(&["-n", SHOP, "wait", "inboundpolicy/strict", "--for=condition=Programmed", "--timeout=300s"])?;
        let answer = self.get("outsider", "http://catalog/items");
        ensure!(answer.is_err(), "plaintext is served on a strict port: {answer:?}");
        self.calls()?;
        self.probes()?;
        self.kubectl(&["-n", SHOP, "delete", "inboundpolicy", "strict"]).map(drop)
    }

    /// The kubelet goes on asking, and likes what it hears.
    fn probes(&self) -> anyhow::Result<()> {
        let [asked, failed] = self.probed()?;
        eventually(Duration::from_secs(300), || {
            let [now, _] = self.probed()?;
            ensure!(now >= asked + 5, "the kubelet has asked {now} times, and {asked} before");
            Ok(())
        })?;
        let [_, now] = self.probed()?;
        ensure!(now == failed, "{} of the kubelet's probes failed on a strict port", now - failed);
        let state = "-o=jsonpath={.items[*].status.conditions[?(@.type==\"Ready\")].status} {.items[*].status.containerStatuses[*].restartCount}";
        let state = self.kubectl(&["-n", SHOP, "get", "pods", "-l", "app=catalog", state])?;
        ensure!(state == "True 0", "the catalog's pod is not as it was (Ready, restarts): {state}");
        Ok(())
    }

    /// How many probes the catalog's sidecar has performed, and how many of them failed.
    fn probed(&self) -> anyhow::Result<[u64; 2]> {
        let metrics = self.metrics("app=catalog")?;
        let count = |name: &str| {
            let line = metrics.lines().find_map(|line| line.strip_prefix(name));
            line.with_context(|| format!("no {name} in the metrics"))?.trim().parse().context("a count")
        };
        Ok([count("leno_probes_total ")?, count("leno_probe_failures_total ")?])
    }

    fn job(&self) -> anyhow::Result<()> {
        self.kubectl(&["-n", SHOP, "delete", "job", "once", "--ignore-not-found"])?;
        self.apply(&self.manifest("job.yaml")?)?;
        self.kubectl(&["-n", SHOP, "wait", "job/once", "--for=condition=Complete", "--timeout=300s"])?;
        let said = self.kubectl(&["-n", SHOP, "logs", "job/once", "-c", "app"])?;
        ensure!(said.contains("\"mug\""), "the Job's one call was not answered: {said}");
        Ok(())
    }

    fn outage(&self) -> anyhow::Result<()> {
        self.scale("0")?;
        for number in 0..20 {
            let answer = self.get("client", "http://catalog/items").with_context(|| format!("call {number}"))?;
            ensure!(answer.contains("\"mug\""), "not the catalog's answer: {answer}");
        }
        cli::lost(self)?;
        self.scale("1")?;
        cli::well(self)?;
        self.denied()
    }

    /// So many replicas of the control plane; returns when there are.
    pub(super) fn scale(&self, replicas: &str) -> anyhow::Result<()> {
        let count = format!("--replicas={replicas}");
        self.kubectl(&["-n", SYSTEM, "scale", "deployment/leno-control-plane", &count])?;
        if replicas == "0" {
            let pods = "-l=app.kubernetes.io/component=control-plane";
            return self.kubectl(&["-n", SYSTEM, "wait", "pod", pods, "--for=delete", "--timeout=300s"]).map(drop);
        }
        self.kubectl(&["-n", SYSTEM, "rollout", "status", "deployment/leno-control-plane", "--timeout=300s"]).map(drop)
    }

    /// What a call from a Deployment's pod is answered; an error names the status.
    fn get(&self, from: &str, url: &str) -> anyhow::Result<String> {
        let deployment = format!("deployment/{from}");
        self.kubectl(&["-n", SHOP, "exec", &deployment, "-c", "app", "--", "/busybox", "wget", "-q", "-O", "-", url])
    }

    /// The metrics of the sidecar of the first pod with this label, through the API server.
    fn metrics(&self, label: &str) -> anyhow::Result<String> {
        let pod = self.kubectl(&["-n", SHOP, "get", "pods", "-l", label, "-o=jsonpath={.items[0].metadata.name}"])?;
        self.kubectl(&["get", "--raw", &format!("/api/v1/namespaces/{SHOP}/pods/{pod}:15021/proxy/metrics")])
    }

    /// A manifest of `e2e/smoke`, with our images in it.
    pub(super) fn manifest(&self, name: &str) -> anyhow::Result<String> {
        let path = Path::new("e2e/smoke").join(name);
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let repository = self.repository.as_deref().unwrap_or("docker.io/leno");
        Ok(text
            .replace("IMAGES/", &format!("{repository}/"))
            .replace(":VERSION", &format!(":{}", env!("CARGO_PKG_VERSION"))))
    }

    pub(super) fn apply(&self, objects: &str) -> anyhow::Result<()> {
        self.feed(&["apply", "-f", "-"], objects)
    }

    /// kubectl with this as its input.
    pub(super) fn feed(&self, arguments: &[&str], input: &str) -> anyhow::Result<()> {
        self.ask(arguments, input).map(drop)
    }

    /// The same, and what it answers.
    pub(super) fn ask(&self, arguments: &[&str], input: &str) -> anyhow::Result<String> {
        use std::io::Write as _;
        let mut command = self.command("kubectl");
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("start kubectl")?;
        child.stdin.take().expect("it was asked for").write_all(input.as_bytes())?;
        let output = child.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "kubectl {}: {}", arguments.join(" "), said.trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    pub(crate) fn kubectl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        shell::quiet(self.command("kubectl").args(arguments))
    }

    pub(super) fn helm(&self, arguments: &[&str]) -> anyhow::Result<String> {
        shell::quiet(self.command(self.helm).args(arguments))
    }

    /// One of the cluster's own programs.
    pub(super) fn command(&self, program: &str) -> Command {
        self.asking(tools::command(program))
    }

    /// A program that asks this cluster.
    pub(super) fn asking(&self, mut program: Command) -> Command {
        program.env("KUBECONFIG", &self.kubeconfig);
        program
    }

    /// What there is and what it says, for whoever must find out what went wrong.
    pub(crate) fn describe(&self) {
        // How a sidecar ended: 137 is somebody's SIGKILL, or memory.
        let ended = "-o=jsonpath={range .items[*]}{.metadata.namespace}/{.metadata.name}{range .status.initContainerStatuses[*]} {.name}: {.restartCount} restarts, {.lastState.terminated.exitCode} {.state.terminated.exitCode};{end}{\"\\n\"}{end}";
        for arguments in [
            &["get", "pods", "-A", "-o", "wide"][..],
            &["get", "pods", "-A", ended],
            &["get", "events", "-A", "--sort-by=.lastTimestamp"],
            &["-n", SYSTEM, "logs", "deployment/leno-control-plane", "--tail=40"],
            &["-n", LIFE, "logs", "deployment/caller", "-c", "leno-proxy", "--tail=40"],
            &["-n", LIFE, "logs", "deployment/catalog", "-c", "leno-proxy", "--tail=40"],
            &["-n", SHOP, "logs", "deployment/client", "-c", "leno-proxy", "--tail=40"],
            &["-n", SHOP, "logs", "deployment/catalog", "-c", "leno-proxy", "--tail=40"],
            &["get", "leno", "-A", "-o", "wide"],
        ] {
            eprintln!("--- kubectl {}", arguments.join(" "));
            let shown = self.kubectl(arguments).unwrap_or_else(|error| format!("{error:#}"));
            let lines: Vec<&str> = shown.lines().collect();
            lines[lines.len().saturating_sub(40)..].iter().for_each(|line| eprintln!("{line}"));
        }
    }
}
