//! The chart without a cluster: lint, what it renders for which values, and which values it refuses. It must never need the
//! network.

use std::collections::BTreeSet;

use anyhow::Context;
use anyhow::ensure;

use crate::cluster::tools;

const CHART: &str = "charts/leno";
const HA: &str = "charts/leno/values-ha.yaml";
/// All that is not there by default.
const FULL: &str = "monitoring.serviceMonitor.enabled=true,monitoring.podMonitor.enabled=true,monitoring.rules.enabled=true,monitoring.dashboards.enabled=true,networkPolicy.enabled=true";

/// All of it by this helm.
pub(crate) fn check(program: &str) -> anyhow::Result<()> {
    let render = |values: &[&str]| render(program, values);
    for values in [&[][..], &["-f", HA]] {
        helm(program, &[&["lint", "--strict", CHART], values].concat())?;
    }
    let plain = render(&[])?;
    let control_plane = object(&plain, "Deployment", "leno-control-plane")?;
    ensure!(control_plane.contains("replicas: 1\n"), "one replica is the default:\n{control_plane}");
    for word in ["runAsNonRoot: true", "readOnlyRootFilesystem: true", "drop: [ALL]", "value: \"cluster.local\""] {
        ensure!(control_plane.contains(word), "the control plane's Deployment lacks {word}:\n{control_plane}");
    }
    ensure!(
        object(&plain, "Service", "leno-control-plane")?.contains("clusterIP: None"),
        "sidecars need a headless Service"
    );
    ensure!(
        object(&plain, "PodDisruptionBudget", "leno-control-plane").is_err(),
        "one replica and a budget block each drain"
    );
    for kind in ["MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"] {
        ensure!(plain.contains(&format!("kind: {kind}\n")), "no {kind}");
    }
    // An object of a kind that the same release brings could not be mapped at the first install.
    for kind in ["TrafficPolicy", "InboundPolicy", "AccessPolicy", "EgressHost", "Mesh"] {
        ensure!(!plain.contains(&format!("\nkind: {kind}\n")), "the chart holds a {kind}");
    }
    ensure!(!plain.contains("caBundle:"), "caBundle is the control plane's to write; helm would take it away");

    let three = render(&["-f", HA])?;
    ensure!(object(&three, "Deployment", "leno-control-plane")?.contains("replicas: 3\n"), "HA means three replicas");
    ensure!(
        object(&three, "PodDisruptionBudget", "leno-control-plane")?.contains("maxUnavailable: 1"),
        "HA wants a budget"
    );

    let crds = |set| render(&["--set", set]).map(|text| text.matches("kind: CustomResourceDefinition\n").count());
    ensure!(crds("crds.install=true")? == 5, "our five kinds are not all defined");
    ensure!(crds("crds.install=false")? == 0, "crds.install=false renders CRDs all the same");

    let guard = |set| render(&["--set", set]).map(|text| text.contains("helm.sh/hook: pre-delete"));
    ensure!(guard("uninstall.guard=true")? && !guard("uninstall.guard=false")?, "uninstall.guard does nothing");

    let full = render(&["--set", FULL, "--set", "tracing.endpoint=http://collector:4317"])?;
    ensure!(full.contains("value: \"http://collector:4317\""), "tracing.endpoint reaches nobody");
    for kind in ["PodMonitor", "ServiceMonitor", "PrometheusRule", "NetworkPolicy"] {
        ensure!(full.contains(&format!("\nkind: {kind}\n")), "no {kind}");
        ensure!(!plain.contains(&format!("\nkind: {kind}\n")), "a {kind} that nobody asked for");
    }
    let tuned = render(&["--set", "tracing.samplingPercent=0.5,meshNetworks={10.0.0.0/8,fd00::/8}"])?;
    for variable in ["{name: LENO_TRACING_SAMPLING, value: \"5000\"}", "value: \"10.0.0.0/8,fd00::/8\"}"] {
        ensure!(tuned.contains(variable), "not rendered: {variable}");
    }

    let issuer = render(&["--set", "issuer.secret=corporate-ca"])?;
    ensure!(!plain.contains("LENO_ISSUER_SECRET"), "an issuer is named that nobody asked for");
    for word in ["{name: LENO_ISSUER_SECRET, value: \"corporate-ca\"}", "resourceNames: [\"corporate-ca\"]"] {
        ensure!(issuer.contains(word), "issuer.secret does not become {word}");
    }

    for (wrong, says) in [
        ("issuer.secret=Not_A_Name", "issuer"),
        ("controlPlane.replcas=3", "replcas"),
        ("controlPlane.replicas=0", "replicas"),
        ("trustDomain=Not A Domain", "trustDomain"),
        ("leafTtl=1 day", "leafTtl"),
        ("injector.failurePolicy=Maybe", "failurePolicy"),
        ("tracing.endpoint=collector:4317", "endpoint"),
        ("tracing.samplingPercent=101", "samplingPercent"),
        ("meshNetworks={10.0.0.0}", "meshNetworks"),
    ] {
        let said = match render(&["--set", wrong]) {
            Ok(_) => anyhow::bail!("--set {wrong} is accepted"),
            Err(error) => error.to_string(),
        };
        ensure!(said.contains(says), "--set {wrong} is refused without naming {says}:\n{said}");
    }
    eprintln!("chart: lints, renders for one replica and for three, and refuses what it does not know");
    Ok(())
}

/// Two helms make the same objects of it, to the byte; in which order they print them is theirs.
pub(super) fn same(one: &str, other: &str) -> anyhow::Result<()> {
    for values in [&[][..], &["-f", HA], &["--set", FULL]] {
        let (ours, theirs) = (render(one, values)?, render(other, values)?);
        let (ours, theirs) = (objects(&ours), objects(&theirs));
        ensure!(ours.len() > 10, "{} objects are no chart: {ours:?}", ours.len());
        let odd: Vec<&str> = ours.symmetric_difference(&theirs).copied().collect();
        ensure!(odd.is_empty(), "with {values:?} {one} and {other} differ in\n{}", odd.join("\n---\n"));
        eprintln!("  {} objects with {values:?}", ours.len());
    }
    Ok(())
}

/// What the chart becomes.
fn render(program: &str, values: &[&str]) -> anyhow::Result<String> {
    let place = ["template", "leno", CHART, "--namespace", "leno-system", "--kube-version", "1.36.3"];
    helm(program, &[&place, values].concat())
}

fn objects(rendered: &str) -> BTreeSet<&str> {
    rendered.split("\n---\n").map(|object| object.trim_start_matches("---").trim()).collect()
}

/// The rendered object of a kind and a name.
fn object<'a>(rendered: &'a str, kind: &str, name: &str) -> anyhow::Result<&'a str> {
    let (kind, name) = (format!("kind: {kind}\n"), format!("\n  name: {name}\n"));
    let mut objects = rendered.split("\n---\n");
    objects
        .find(|object| object.contains(&kind) && object.contains(&name))
        .with_context(|| format!("not rendered: {}{}", kind.trim(), name.trim_end()))
}

fn helm(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let output = tools::command(program).args(arguments).output().context("start helm")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{program} {}: {}{said}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stdout)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
