//! Whether the sidecars are well: there, ready, connected, of this release, and with certificates that live.

use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use leno_control_plane::inject::PORTS;
use serde_json::Value;

use crate::check::Lines;
use crate::check::installed::metric;
use crate::guard::sidecar;
use crate::paint::count;
use crate::reach::Cluster;
use crate::reach::Place;
use crate::reach::items;
use crate::reach::name;
use crate::reach::text;
use crate::restart;

/// Asked one by one; beyond that a sample has to do.
const ASKED_MAX: usize = 200;
/// Named in a line; the rest is a number.
const NAMED_MAX: usize = 5;
/// Of a certificate's life; renewal begins with 30-50 % left.
const LIFE_MIN: f64 = 3600.0;

pub(super) async fn look(cluster: &Cluster, lines: &mut Lines, namespace: Option<&str>) {
    let scope = namespace.map(|name| format!("/namespaces/{name}")).unwrap_or_default();
    let pods = match cluster.list(&format!("/api/v1{scope}/pods"), "").await {
        Ok(pods) => pods,
        Err(error) => return lines.unknown("SIDECAR_MISSING", format!("{error:#}")),
    };
    let pods: Vec<Value> = pods.into_iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()).collect();
    match restart::asking(cluster).await {
        Ok(asking) => {
            let without = pods.iter().filter(|pod| restart::unmeshed(pod, &asking)).map(name);
            said(lines, "SIDECAR_MISSING", "every pod that asks for a sidecar has one", &without.collect::<Vec<_>>());
        }
        Err(error) => lines.unknown("SIDECAR_MISSING", format!("{error:#}")),
    }
    let running = |pod: &&Value| pod["status"]["phase"] == "Running" && sidecar(pod).is_some();
    let meshed: Vec<&Value> = pods.iter().filter(running).collect();
    if meshed.is_empty() {
        return lines.well(
            "SIDECAR_NOT_READY",
            "no pod has a sidecar yet: `kubectl label namespace NAME leno.dev/inject=enabled`",
        );
    }
    let unready = meshed.iter().filter(|pod| !proxy_ready(pod)).map(|pod| name(pod));
    let all = count(meshed.len(), "sidecar is", "sidecars are");
    said(lines, "SIDECAR_NOT_READY", &format!("{all} ready"), &unready.collect::<Vec<_>>());
    match restart::wanted_image(cluster).await {
        Ok(wanted) => {
            let old =
                meshed.iter().filter(|pod| sidecar(pod).and_then(|one| restart::outdated(pod, one, &wanted)).is_some());
            said(
                lines,
                "SIDECAR_OUTDATED",
                "they are of the control plane's release",
                &old.map(|pod| name(pod)).collect::<Vec<_>>(),
            );
        }
        Err(error) => lines.unknown("SIDECAR_OUTDATED", format!("{error:#}")),
    }
    trust(cluster, lines, &meshed).await;
    themselves(cluster, lines, &meshed).await;
}

fn said(lines: &mut Lines, code: &'static str, well: &str, wrong: &[String]) {
    if wrong.is_empty() {
        return lines.well(code, well);
    }
    let mut message = wrong.iter().take(NAMED_MAX).map(String::as_str).collect::<Vec<_>>().join(", ");
    if wrong.len() > NAMED_MAX {
        message.push_str(&format!(" and {} more", wrong.len() - NAMED_MAX));
    }
    lines.wrong(code, message);
}

fn proxy_ready(pod: &Value) -> bool {
    let mut statuses = items(&pod["status"]["initContainerStatuses"]);
    statuses.any(|one| one["name"] == leno_control_plane::inject::PROXY && one["ready"] == true)
}

async fn trust(cluster: &Cluster, lines: &mut Lines, meshed: &[&Value]) {
    let mut namespaces: Vec<&str> = meshed.iter().map(|pod| text(&pod["metadata"]["namespace"])).collect();
    namespaces.sort_unstable();
    namespaces.dedup();
    let mut missing = Vec::new();
    for namespace in namespaces {
        match cluster.get(&format!("/api/v1/namespaces/{namespace}/configmaps/leno-trust")).await {
            Ok(Some(map)) if !text(&map["data"]["anchor.pem"]).is_empty() => {}
            Ok(_) => missing.push(namespace.to_owned()),
            Err(error) => return lines.unknown("TRUST_MISSING", format!("{error:#}")),
        }
    }
    said(lines, "TRUST_MISSING", "their namespaces hold the trust anchors", &missing);
}

/// By what each of them says, as far as there are not too many.
async fn themselves(cluster: &Cluster, lines: &mut Lines, meshed: &[&Value]) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let (mut lost, mut ending) = (Vec::new(), Vec::new());
    for pod in meshed.iter().filter(|pod| proxy_ready(pod)).take(ASKED_MAX) {
        let (namespace, short) = (text(&pod["metadata"]["namespace"]), text(&pod["metadata"]["name"]));
        let place = Place { namespace, pod: short, port: u16::try_from(PORTS[2]).expect("a port") };
        let page = match cluster.through(&place, "/metrics").await {
            Ok(page) => page,
            Err(error) => return lines.unknown("SIDECAR_DISCONNECTED", format!("{error:#}")),
        };
        if metric(&page, "leno_control_connected") == Some(0.0) {
            lost.push(name(pod));
        }
        if metric(&page, "leno_certificate_expires_seconds").is_none_or(|ends| ends - now < LIFE_MIN) {
            ending.push(name(pod));
        }
    }
    let asked = meshed.len().min(ASKED_MAX);
    said(lines, "SIDECAR_DISCONNECTED", &format!("{asked} of {} asked, and all have a session", meshed.len()), &lost);
    said(lines, "CERTIFICATE_EXPIRES", "their certificates live for over an hour", &ending);
}
