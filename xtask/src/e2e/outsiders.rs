//! Who calls meshed pods and has no sidecar: a scraper that asks each pod for its metrics, and an ingress controller that dials
//! pods by their addresses. Permissive ports serve both as ever, strict ones in the ways of docs/outsiders.md. It must never take
//! a call that could not be made for one that was refused.

use std::time::Duration;

use anyhow::ensure;

use super::smoke::Target;
use super::smoke::eventually;
use super::smoke::step;

const NAMESPACE: &str = "leno-e2e-outsiders";
const PAGES: u16 = 8080;
const METRICS: u16 = 9090;
/// Where the ingress controller is called from outside.
const DOOR: u16 = 8000;

pub(crate) fn run(target: &Target) -> anyhow::Result<()> {
    let outsiders = Outsiders { target };
    step("an application with a port for pages and one for metrics starts", || outsiders.begin())?;
    step("Permissive: a scraper and an ingress controller without sidecars are served, and counted", || {
        outsiders.permissive()
    })?;
    step("Strict: both are refused", || outsiders.strict())?;
    step("Strict but for the metrics' port: the scraper is served there, and nobody else", || outsiders.scraped())?;
    step("Strict, and a sidecar for the ingress controller: it is served over mTLS, and reached as before", || {
        outsiders.ingress()
    })?;
    step("a port that goes around the sidecar is served as without a mesh", || outsiders.around())?;
    outsiders.end()
}

struct Outsiders<'a> {
    target: &'a Target,
}

impl Outsiders<'_> {
    fn begin(&self) -> anyhow::Result<()> {
        self.end()?;
        self.target.apply(&self.target.manifest("outsiders.yaml")?)?;
        ["app", "scraper", "ingress"].into_iter().try_for_each(|name| self.rolled_out(name))
    }

    fn end(&self) -> anyhow::Result<()> {
        let arguments = ["delete", "namespace", NAMESPACE, "--ignore-not-found", "--wait", "--timeout=300s"];
        self.target.kubectl(&arguments).map(drop)
    }

    fn permissive(&self) -> anyhow::Result<()> {
        self.served("scraper", METRICS)?;
        self.served("ingress", PAGES)?;
        let counted = self.counted("tls=\"plaintext\"")?;
        ensure!(counted > 0, "nobody can see in the metrics who still speaks plaintext");
        Ok(())
    }

    fn strict(&self) -> anyhow::Result<()> {
        self.policy("InboundPolicy", "strict", "{selector: {matchLabels: {app: app}}}", "tls: {mode: Strict}")?;
        self.refused("scraper", METRICS)?;
        self.refused("ingress", PAGES)
    }

    /// The port stays permissive, and an AccessPolicy says from where it is called.
    fn scraped(&self) -> anyhow::Result<()> {
        let port = format!("{{selector: {{matchLabels: {{app: app}}}}, ports: [{METRICS}]}}");
        self.policy("InboundPolicy", "metrics", &port, "tls: {mode: Permissive}")?;
        let scraper = self.address("scraper")?;
        let bits = if scraper.contains(':') { 128 } else { 32 };
        let access = format!("action: Allow\n  rules: [{{sources: [{{cidrs: [\"{scraper}/{bits}\"]}}]}}]");
        self.policy("AccessPolicy", "metrics", &port, &access)?;
        self.served("scraper", METRICS)?;
        self.refused("ingress", METRICS)?;
        self.refused("scraper", PAGES)
    }

    /// Its own callers are no mesh: the port that they call goes around its sidecar.
    fn ingress(&self) -> anyhow::Result<()> {
        self.annotate("ingress", "{\"leno.dev/inject\":\"enabled\",\"leno.dev/skip-inbound-ports\":\"8000\"}")?;
        let before = self.counted("tls=\"mtls\"")?;
        self.served("ingress", PAGES)?;
        ensure!(self.counted("tls=\"mtls\"")? > before, "the ingress controller is not served over mTLS");
        self.policy("InboundPolicy", "door", "{selector: {matchLabels: {app: ingress}}}", "tls: {mode: Strict}")?;
        let page = self.fetch("scraper", "ingress", DOOR)?;
        ensure!(page.contains("\"mug\""), "the ingress controller's own port: {page}");
        Ok(())
    }

    fn around(&self) -> anyhow::Result<()> {
        self.target.kubectl(&["-n", NAMESPACE, "delete", "inboundpolicy/metrics", "accesspolicy/metrics"])?;
        self.annotate("app", &format!("{{\"leno.dev/skip-inbound-ports\":\"{METRICS}\"}}"))?;
        self.served("scraper", METRICS)?;
        self.refused("scraper", PAGES)
    }

    /// Declared, and in force.
    fn policy(&self, kind: &str, name: &str, workloads: &str, body: &str) -> anyhow::Result<()> {
        self.target.apply(&format!(
            "apiVersion: policy.leno.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}, namespace: {NAMESPACE}}}\nspec:\n  workloads: {workloads}\n  {body}\n"
        ))?;
        let object = format!("{kind}/{name}");
        self.target
            .kubectl(&["-n", NAMESPACE, "wait", &object, "--for=condition=Programmed", "--timeout=300s"])
            .map(drop)
    }

    /// New pods of a Deployment, with these annotations.
    fn annotate(&self, name: &str, annotations: &str) -> anyhow::Result<()> {
        let patch = format!("{{\"spec\":{{\"template\":{{\"metadata\":{{\"annotations\":{annotations}}}}}}}}}");
        let deployment = format!("deployment/{name}");
        self.target.kubectl(&["-n", NAMESPACE, "patch", &deployment, "--type=merge", "-p", &patch])?;
        self.rolled_out(name)
    }

    fn served(&self, who: &str, port: u16) -> anyhow::Result<()> {
        eventually(Duration::from_secs(60), || {
            let answer = self.fetch(who, "app", port)?;
            ensure!(answer.contains("\"mug\""), "{who} on port {port}: {answer}");
            Ok(())
        })
    }

    /// By the application's sidecar, not because it could not be called.
    fn refused(&self, who: &str, port: u16) -> anyhow::Result<()> {
        let said = match self.fetch(who, "app", port) {
            Ok(answer) => anyhow::bail!("{who} is served on port {port}: {answer}"),
            Err(error) => format!("{error:#}"),
        };
        let answered = ["403", "error getting response", "reset by peer", "short read"];
        ensure!(answered.iter().any(|words| said.contains(words)), "{who} on port {port} was not refused: {said}");
        Ok(())
    }

    /// By the pod's own address, as scrapers and ingress controllers do.
    fn fetch(&self, who: &str, of: &str, port: u16) -> anyhow::Result<String> {
        let address = self.address(of)?;
        let host = if address.contains(':') { format!("[{address}]") } else { address };
        let (deployment, url) = (format!("deployment/{who}"), format!("http://{host}:{port}/"));
        // Debian's own limit, `wget -T`, is a segmentation fault.
        let wget = ["/busybox", "timeout", "20", "/busybox", "wget", "-q", "-O", "-", &url];
        self.target.kubectl(&[&["-n", NAMESPACE, "exec", &deployment, "-c", "app", "--"][..], &wget[..]].concat())
    }

    fn address(&self, of: &str) -> anyhow::Result<String> {
        self.pod(of, "{.status.podIP}")
    }

    /// A field of a Deployment's newest pod: one that leaves is still listed for a while.
    fn pod(&self, of: &str, field: &str) -> anyhow::Result<String> {
        let label = format!("app={of}");
        let path = format!("-o=jsonpath={{range .items[*]}}{field}{{\"\\n\"}}{{end}}");
        let sorted = ["--sort-by=.metadata.creationTimestamp", "--field-selector=status.phase=Running"];
        let pods =
            self.target.kubectl(&[&["-n", NAMESPACE, "get", "pods", "-l", &label, &path][..], &sorted].concat())?;
        Ok(pods.lines().last().unwrap_or_default().to_owned())
    }

    /// Requests that the application's sidecar has let in, by a label.
    fn counted(&self, label: &str) -> anyhow::Result<u64> {
        let pod = self.pod("app", "{.metadata.name}")?;
        let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/{pod}:15021/proxy/metrics");
        let metrics = self.target.kubectl(&["get", "--raw", &path])?;
        let inbound = metrics
            .lines()
            .filter(|line| line.starts_with("leno_requests_total{direction=\"inbound\"") && line.contains(label));
        Ok(inbound.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum())
    }

    fn rolled_out(&self, name: &str) -> anyhow::Result<()> {
        let deployment = format!("deployment/{name}");
        self.target.kubectl(&["-n", NAMESPACE, "rollout", "status", &deployment, "--timeout=300s"]).map(drop)
    }
}
