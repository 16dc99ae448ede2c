//! What users expect of routes on a real cluster beyond the conformance suite: whose requests take them, on which ports, and what
//! kubectl says of those that cannot be. It must never take a route for live that is not Programmed.

use std::time::Duration;

use anyhow::ensure;

use super::smoke::Target;
use super::smoke::eventually;
use super::smoke::step;

/// The namespace of the Services, and one of other clients.
const OWN: &str = "leno-e2e-routes";
const BUYER: &str = "leno-e2e-buyer";
/// Calls that must show both sides of an even split: one in 10^9 runs shows but one.
const CALLS: usize = 30;

pub(crate) fn run(target: &Target) -> anyhow::Result<()> {
    let routes = Routes { target };
    step("two namespaces of clients and servers", || routes.begin())?;
    step("a producer's route splits by weight, for clients of every namespace", || routes.weights())?;
    step("a consumer's route is for its own namespace, and replaces the producer's there", || routes.consumer())?;
    step("a route of one port leaves the other alone", || routes.port())?;
    step("a rule's retries hide a server that fails every other time", || routes.retries())?;
    step("pods are called by a headless Service's name and by address, over mTLS", || routes.headless())?;
    step("what cannot be in force says why, parent by parent", || routes.refused())?;
    routes.end()
}

struct Routes<'a> {
    target: &'a Target,
}

impl Routes<'_> {
    fn begin(&self) -> anyhow::Result<()> {
        self.end()?;
        self.target.apply(&self.target.manifest("routes.yaml")?)?;
        for (namespace, name) in
            [(OWN, "catalog-v1"), (OWN, "catalog-v2"), (OWN, "pricing"), (OWN, "client"), (BUYER, "client")]
        {
            let name = format!("deployment/{name}");
            self.target.kubectl(&["-n", namespace, "rollout", "status", &name, "--timeout=300s"])?;
        }
        for namespace in [OWN, BUYER] {
            eventually(Duration::from_secs(30), || self.get(namespace, "http://catalog.leno-e2e-routes/").map(drop))?;
        }
        Ok(())
    }

    fn end(&self) -> anyhow::Result<()> {
        let arguments = ["delete", "namespace", OWN, BUYER, "--ignore-not-found", "--wait", "--timeout=300s"];
        self.target.kubectl(&arguments).map(drop)
    }

    fn weights(&self) -> anyhow::Result<()> {
        let split = "[{name: catalog-v1, port: 80, weight: 1}, {name: catalog-v2, port: 80, weight: 1}]";
        self.live(OWN, "split", &format!("[{{backendRefs: {split}}}]"), "{name: catalog}")?;
        for namespace in [OWN, BUYER] {
            ensure!(self.versions(namespace, "")? == ["v1", "v2"], "{namespace} does not see both versions");
        }
        Ok(())
    }

    fn consumer(&self) -> anyhow::Result<()> {
        let rules = format!("[{{backendRefs: [{{name: catalog-v2, namespace: {OWN}, port: 80}}]}}]");
        self.live(BUYER, "own", &rules, &format!("{{name: catalog, namespace: {OWN}, port: 80}}"))?;
        ensure!(self.versions(BUYER, "")? == ["v2"], "the consumer's route is not what its clients take");
        ensure!(self.versions(OWN, "")? == ["v1", "v2"], "a consumer's route reaches other namespaces");
        ensure!(self.versions(BUYER, ":81")? == ["v1", "v2"], "a consumer's route of port 80 reaches port 81");
        self.target.kubectl(&["-n", BUYER, "delete", "httproute", "own"])?;
        eventually(Duration::from_secs(10), || {
            let seen = self.versions(BUYER, "")?;
            ensure!(seen == ["v1", "v2"], "without it the producer's counts again; seen: {seen:?}");
            Ok(())
        })
    }

    fn port(&self) -> anyhow::Result<()> {
        self.target.kubectl(&["-n", OWN, "delete", "httproute", "split"])?;
        let rules = "[{backendRefs: [{name: catalog-v2, port: 80}]}]";
        self.live(OWN, "admin", rules, "{name: catalog, sectionName: http-admin}")?;
        ensure!(self.versions(OWN, ":81")? == ["v2"], "port 81 has a route");
        ensure!(self.versions(OWN, "")? == ["v1"], "port 80 has none");
        Ok(())
    }

    /// The server fails twice in a row at most.
    fn retries(&self) -> anyhow::Result<()> {
        let url = format!("http://pricing.{OWN}/");
        let said = self.calls(OWN, &url)?;
        ensure!(said.contains("503"), "nothing fails even without retries: {said}");
        // The budget is the Service's: all routes to it draw on one.
        let policy = |name: &str, target: &str, retries: &str| {
            format!(
                "apiVersion: policy.leno.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: {name}, namespace: {OWN}}}\nspec: {{targetRefs: [{{{target}}}], retries: {{{retries}}}}}\n"
            )
        };
        let rule = "group: gateway.networking.k8s.io, kind: HTTPRoute, name: patient, sectionName: prices";
        self.target.apply(&policy("patient", rule, "attempts: 3, retryOn: [ConnectFailure, 503]"))?;
        let budget = "budget: {percent: 100, minPerSecond: 100}";
        self.target.apply(&policy("generous", "kind: Service, name: pricing", budget))?;
        self.live(OWN, "patient", "[{name: prices, backendRefs: [{name: pricing, port: 80}]}]", "{name: pricing}")?;
        self.target.kubectl(&[
            "-n",
            OWN,
            "wait",
            "trafficpolicy/patient",
            "trafficpolicy/generous",
            "--for=condition=Programmed",
            "--timeout=300s",
        ])?;
        let said = self.calls(OWN, &url)?;
        ensure!(!said.contains("wget:"), "Programmed is True, and calls fail: {said}");
        Ok(())
    }

    fn headless(&self) -> anyhow::Result<()> {
        let pod = self.target.kubectl(&[
            "-n",
            OWN,
            "get",
            "pods",
            "-l=app=catalog-v1",
            "-o=jsonpath={.items[0].status.podIP}",
        ])?;
        for host in [format!("headless.{OWN}"), pod] {
            let answer = self.get(BUYER, &format!("http://{host}:8080/"))?;
            ensure!(answer.contains("\"version\":\"v1\""), "not the pod's answer: {answer}");
        }
        let strict = format!(
            "apiVersion: policy.leno.dev/v1alpha1\nkind: InboundPolicy\nmetadata: {{name: strict, namespace: {OWN}}}\nspec: {{workloads: {{selector: {{matchLabels: {{app: catalog-v1}}}}}}, tls: {{mode: Strict}}}}\n"
        );
        self.target.apply(&strict)?;
        self.target.kubectl(&[
            "-n",
            OWN,
            "wait",
            "inboundpolicy/strict",
            "--for=condition=Programmed",
            "--timeout=300s",
        ])?;
        self.get(BUYER, &format!("http://headless.{OWN}:8080/")).map(drop)
    }

    fn refused(&self) -> anyhow::Result<()> {
        let rules = "[{backendRefs: [{name: nobody, port: 80}]}]";
        self.says(
            "odd",
            rules,
            "{name: nowhere}, {name: headless}, {name: catalog, port: 99}",
            &[
                "nowhere NoMatchingParent BackendNotFound NotAccepted",
                "headless UnsupportedValue BackendNotFound NotAccepted",
                "catalog NoMatchingParent BackendNotFound NotAccepted",
            ],
        )?;
        self.says("lost", rules, "{name: catalog, port: 80}", &["catalog Accepted BackendNotFound Programmed"])
    }

    /// The reasons of each parent's conditions.
    fn says(&self, name: &str, rules: &str, parents: &str, expected: &[&str]) -> anyhow::Result<()> {
        self.target.apply(&route(OWN, name, rules, parents))?;
        let path = "-o=jsonpath={range .status.parents[*]}{.parentRef.name}{range .conditions[*]} {.reason}{end}{\"\\n\"}{end}";
        eventually(Duration::from_secs(60), || {
            let said = self.target.kubectl(&["-n", OWN, "get", "httproute", name, path])?;
            let lines: Vec<&str> = said.lines().map(str::trim).collect();
            ensure!(lines == expected, "of {name} kubectl says:\n{said}");
            Ok(())
        })
    }

    /// A route of a namespace, in force.
    fn live(&self, namespace: &str, name: &str, rules: &str, parent: &str) -> anyhow::Result<()> {
        self.target.apply(&route(namespace, name, rules, parent))?;
        let programmed =
            "--for=jsonpath={.status.parents[0].conditions[?(@.type==\"leno.dev/Programmed\")].status}=True";
        let route = format!("httproute/{name}");
        self.target.kubectl(&["-n", namespace, "wait", &route, programmed, "--timeout=300s"]).map(drop)
    }

    /// The versions that answer a namespace's clients, each once.
    fn versions(&self, namespace: &str, port: &str) -> anyhow::Result<Vec<&'static str>> {
        let said = self.calls(namespace, &format!("http://catalog.{OWN}{port}/"))?;
        let seen = |version: &str| said.contains(&format!("\"version\":\"{version}\""));
        ensure!(!said.contains("wget:"), "a call failed: {said}");
        Ok(["v1", "v2"].into_iter().filter(|version| seen(version)).collect())
    }

    /// What so many calls in a row are answered, with wget's complaints: from one shell in the pod, because kubectl takes a second
    /// for each call where the machine is busy.
    fn calls(&self, namespace: &str, url: &str) -> anyhow::Result<String> {
        let script =
            format!("n=0; while [ $n -lt {CALLS} ]; do /busybox wget -q -O - {url} 2>&1; n=$((n + 1)); done; true");
        let exec = ["-n", namespace, "exec", "deployment/client", "-c", "app", "--", "/busybox", "sh", "-c", &script];
        self.target.kubectl(&exec)
    }

    fn get(&self, namespace: &str, url: &str) -> anyhow::Result<String> {
        let exec = ["-n", namespace, "exec", "deployment/client", "-c", "app", "--"];
        self.target.kubectl(&[&exec[..], &["/busybox", "wget", "-q", "-O", "-", url]].concat())
    }
}

/// `parents`: Services, without their group and kind.
fn route(namespace: &str, name: &str, rules: &str, parents: &str) -> String {
    let parents = parents.replace("{name", "{group: \"\", kind: Service, name");
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  parentRefs: [{parents}]\n  rules: {rules}\n"
    )
}
