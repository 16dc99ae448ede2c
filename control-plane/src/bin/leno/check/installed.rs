//! Whether the control plane is well: its replicas, definitions, webhooks, root of trust and leader, and what it could not read.

use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use leno_control_plane::crd;
use serde_json::Value;
use serde_json::json;

use crate::check::Lines;
use crate::check::cluster::holds;
use crate::guard::sidecar;
use crate::live;
use crate::live::Live;
use crate::live::State;
use crate::reach::Cluster;
use crate::reach::items;
use crate::reach::text;

/// A root is rotated in days, not hours.
const ROOT_MIN: Duration = Duration::from_secs(30 * 86_400);
/// A replica that is behind for longer than a re-list takes.
const STALE_MAX: f64 = 60.0;

/// Whether there is a control plane to go on with.
pub(super) async fn look(cluster: &Cluster, lines: &mut Lines) -> bool {
    let path = format!("/apis/apps/v1/namespaces/{}/deployments/leno-control-plane", cluster.system);
    let deployment = match cluster.get(&path).await {
        Ok(Some(deployment)) => deployment,
        Ok(None) => {
            lines.wrong("NOT_INSTALLED", format!("there is no control plane in namespace {}", cluster.system));
            return false;
        }
        Err(error) => {
            lines.unknown("NOT_INSTALLED", format!("{error:#}"));
            return false;
        }
    };
    replicas(lines, &deployment);
    definitions(cluster, lines).await;
    webhooks(cluster, lines).await;
    injects(cluster, lines).await;
    root(cluster, lines, &deployment).await;
    leader(cluster, lines).await;
    metrics(cluster, lines).await;
    policies(cluster, lines).await;
    true
}

fn replicas(lines: &mut Lines, deployment: &Value) {
    let wanted = deployment["spec"]["replicas"].as_i64().unwrap_or(1);
    let ready = deployment["status"]["readyReplicas"].as_i64().unwrap_or(0);
    let message = format!("{ready} of {wanted} replicas are ready");
    match ready >= wanted && wanted > 0 {
        true => lines.well("REPLICAS_NOT_READY", message),
        false => lines.wrong("REPLICAS_NOT_READY", message),
    }
    match wanted {
        1 => lines.wrong("ONE_REPLICA", "one replica: policies and new pods wait while it restarts"),
        _ => lines.well("ONE_REPLICA", "a replica may be away"),
    }
}

async fn definitions(cluster: &Cluster, lines: &mut Lines) {
    let (mut missing, mut outdated) = (Vec::new(), Vec::new());
    for ours in crd::all() {
        let name = format!("{}.policy.leno.dev", ours.plural);
        match cluster.get(&format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}")).await {
            Ok(Some(theirs)) if !holds(&theirs, "Established") => missing.push(name),
            Ok(Some(theirs)) if lacks(&theirs["spec"]["versions"], &ours.document["spec"]["versions"]) => {
                outdated.push(name)
            }
            Ok(Some(_)) => {}
            Ok(None) => missing.push(name),
            Err(error) => return lines.unknown("CRD_MISSING", format!("{error:#}")),
        }
    }
    match missing.is_empty() {
        true => lines.well("CRD_MISSING", "the definitions of all kinds are established"),
        false => lines.wrong("CRD_MISSING", format!("missing or not established: {}", missing.join(", "))),
    }
    match outdated.is_empty() {
        true => lines.well("CRD_OUTDATED", "they know every field of this release"),
        false => lines.wrong("CRD_OUTDATED", format!("fields of this release are not in {}", outdated.join(", "))),
    }
}

/// A field of ours that theirs does not know. What the API server adds does not count.
fn lacks(theirs: &Value, ours: &Value) -> bool {
    match (theirs, ours) {
        (Value::Object(theirs), Value::Object(ours)) => {
            // Only names of fields: descriptions and bounds may differ between patch releases.
            let within = |name: &str| {
                ["properties", "items", "schema", "openAPIV3Schema", "additionalProperties"].contains(&name)
            };
            ours.iter().any(|(name, one)| match (name.as_str(), theirs.get(name)) {
                ("properties", Some(known)) => one
                    .as_object()
                    .into_iter()
                    .flatten()
                    .any(|(field, below)| known.get(field).is_none_or(|known| lacks(known, below))),
                (name, Some(known)) if within(name) => lacks(known, one),
                ("properties", None) => true,
                _ => false,
            })
        }
        (Value::Array(theirs), Value::Array(ours)) => ours.iter().any(|one| {
            let same = theirs.iter().find(|known| known["name"] == one["name"]);
            same.is_none_or(|known| lacks(known, one))
        }),
        _ => false,
    }
}

async fn webhooks(cluster: &Cluster, lines: &mut Lines) {
    let group = "/apis/admissionregistration.k8s.io/v1";
    let (mut missing, mut untrusted) = (Vec::new(), Vec::new());
    for (plural, name) in
        [("mutatingwebhookconfigurations", "leno-injector"), ("validatingwebhookconfigurations", "leno-validator")]
    {
        match cluster.get(&format!("{group}/{plural}/{name}")).await {
            Ok(Some(hook)) => {
                let bare = |one: &Value| text(&one["clientConfig"]["caBundle"]).is_empty();
                if items(&hook["webhooks"]).any(bare) {
                    untrusted.push(name);
                }
            }
            Ok(None) => missing.push(name),
            Err(error) => return lines.unknown("WEBHOOK_MISSING", format!("{error:#}")),
        }
    }
    match missing.is_empty() {
        true => lines.well("WEBHOOK_MISSING", "injector and validator are registered"),
        false => lines.wrong("WEBHOOK_MISSING", format!("not registered: {}", missing.join(", "))),
    }
    match untrusted.is_empty() {
        true => lines.well("WEBHOOK_UNTRUSTED", "the API server knows by which root they prove themselves"),
        false => lines.wrong("WEBHOOK_UNTRUSTED", format!("no caBundle: {}", untrusted.join(", "))),
    }
}

/// A pod that is never made: what would the API server answer?
async fn injects(cluster: &Cluster, lines: &mut Lines) {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"generateName": "leno-check-", "labels": {"leno.dev/inject": "enabled"}},
        "spec": {"containers": [{"name": "app", "image": "none"}]},
    });
    match cluster.client.create("/api/v1/namespaces/default/pods?dryRun=All", &pod).await {
        Ok(made) if sidecar(&made).is_some() => lines.well("INJECTOR_SILENT", "a pod that asks for a sidecar gets one"),
        Ok(_) => lines.wrong("INJECTOR_SILENT", "a trial pod came back without a sidecar"),
        Err(error) if error.status() == Some(403) && error.to_string().contains("cannot create") => {
            lines.unknown("INJECTOR_SILENT", format!("a trial pod (dry run): {error}"));
        }
        Err(error) if error.to_string().contains("x509") => {
            lines.wrong("WEBHOOK_UNTRUSTED", format!("a trial pod: {error}"))
        }
        Err(error) => lines.wrong("INJECTOR_SILENT", format!("a trial pod was refused: {error}")),
    }
}

async fn root(cluster: &Cluster, lines: &mut Lines, deployment: &Value) {
    let (name, what) = match issuer(deployment) {
        "" => ("leno-root", "the root of trust is kept"),
        name => (name, "the issuer of one's own is there"),
    };
    match cluster.get(&format!("/api/v1/namespaces/{}/secrets/{name}", cluster.system)).await {
        Ok(Some(_)) => lines.well("ROOT_MISSING", what),
        Ok(None) => lines.wrong("ROOT_MISSING", format!("there is no Secret {name} in {}", cluster.system)),
        Err(error) => lines.unknown("ROOT_MISSING", format!("{error:#}")),
    }
}

/// The Secret that signs instead of a root of Leno's own, where the chart names one.
fn issuer(deployment: &Value) -> &str {
    let containers = items(&deployment["spec"]["template"]["spec"]["containers"]);
    let named = containers.flat_map(|one| items(&one["env"])).find(|one| one["name"] == "LENO_ISSUER_SECRET");
    named.map(|one| text(&one["value"])).unwrap_or_default()
}

async fn leader(cluster: &Cluster, lines: &mut Lines) {
    let path = format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases/leno-control-plane", cluster.system);
    match cluster.get(&path).await {
        Ok(Some(lease)) if !text(&lease["spec"]["holderIdentity"]).is_empty() => {
            lines.well("NO_LEADER", format!("{} leads", text(&lease["spec"]["holderIdentity"])));
        }
        Ok(_) => lines.wrong("NO_LEADER", "no replica holds the lease"),
        Err(error) => lines.unknown("NO_LEADER", format!("{error:#}")),
    }
}

/// What each replica says of itself.
async fn metrics(cluster: &Cluster, lines: &mut Lines) {
    let replicas = match cluster.replicas().await {
        Ok(replicas) => replicas,
        Err(error) => return lines.unknown("SOURCE_STALE", format!("{error:#}")),
    };
    let (mut stale, mut ends) = (Vec::new(), None);
    for replica in &replicas {
        let page = match cluster.ask_replica(replica, "/metrics").await {
            Ok(page) => page,
            Err(error) => return lines.unknown("SOURCE_STALE", format!("{error:#}")),
        };
        if metric(&page, "leno_control_source_stale_seconds").is_some_and(|age| age > STALE_MAX) {
            stale.push(replica.as_str());
        }
        ends = metric(&page, "leno_control_root_not_after_seconds").or(ends);
    }
    match stale.is_empty() {
        true => lines.well("SOURCE_STALE", "every replica follows the API server"),
        false => lines.wrong("SOURCE_STALE", format!("behind for over a minute: {}", stale.join(", "))),
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    if let Some(left) = ends.map(|ends| ends - now) {
        let message = format!("the root of trust lives for {:.0} more days", left / 86_400.0);
        match left > ROOT_MIN.as_secs_f64() {
            true => lines.well("ROOT_EXPIRES", message),
            false => lines.wrong("ROOT_EXPIRES", message),
        }
    }
}

/// The first sample of a name.
pub(super) fn metric(page: &str, name: &str) -> Option<f64> {
    let sample = page.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{'])));
    sample?.rsplit(' ').next()?.parse().ok()
}

async fn policies(cluster: &Cluster, lines: &mut Lines) {
    match live::all(cluster, None).await {
        Ok(all) => {
            let named = |state: State| {
                let found = all.iter().filter(|one| one.state == state);
                found.map(Live::object).collect::<Vec<_>>()
            };
            let (refused, pending) = (named(State::Refused), [named(State::Pending), named(State::Unseen)].concat());
            match refused.is_empty() {
                true => lines.well("OBJECT_REFUSED", format!("{} policies and routes are sound", all.len())),
                false => lines.wrong("OBJECT_REFUSED", refused.join(", ")),
            }
            match pending.is_empty() {
                true => lines.well("POLICY_NOT_LIVE", "they are in force in every proxy that uses them"),
                false => lines.wrong("POLICY_NOT_LIVE", pending.join(", ")),
            }
        }
        Err(error) => lines.unknown("POLICY_NOT_LIVE", format!("{error:#}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_found_by_its_whole_name() {
        let page = "# HELP leno_a b\nleno_a_total 3\nleno_a{x=\"y\"} 4\nleno_b 5e2\n";
        assert_eq!(metric(page, "leno_a"), Some(4.0));
        assert_eq!(metric(page, "leno_b"), Some(500.0));
        assert_eq!(metric(page, "leno"), None);
    }

    #[test]
    fn an_issuer_is_the_one_that_the_control_plane_was_given() {
        let deployment = |env: Value| json!({"spec": {"template": {"spec": {"containers": [{"env": env}]}}}});
        let given =
            json!([{"name": "LENO_STATE", "value": "/"}, {"name": "LENO_ISSUER_SECRET", "value": "corporate-ca"}]);
        assert_eq!(issuer(&deployment(given)), "corporate-ca");
        assert_eq!(issuer(&deployment(json!([]))), "");
    }

    #[test]
    fn a_definition_is_outdated_when_it_lacks_a_field() {
        let ours = json!([{"name": "v1alpha1", "schema": {"openAPIV3Schema": {"properties": {"spec": {"properties": {"a": {"type": "string"}}}}}}}]);
        let mut theirs = ours.clone();
        assert!(!lacks(&theirs, &ours));
        theirs[0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"] = json!({"b": {}});
        assert!(lacks(&theirs, &ours));
        for crd in crd::all() {
            let versions = &crd.document["spec"]["versions"];
            assert!(!lacks(versions, versions), "{}", crd.plural);
        }
    }
}
