//! What must be true of a cluster before Leno: its version, what stands between an application and its sidecar, and the rights
//! of whoever installs.

use leno_control_plane::object::INJECT;
use serde_json::Value;
use serde_json::json;

use crate::check::Lines;
use crate::reach::Cluster;
use crate::reach::items;
use crate::reach::text;

/// Native sidecars are stable since then.
const MINOR_MIN: u64 = 33;
/// Labels and annotations by which other meshes take a namespace.
const OTHERS: [&str; 4] = ["istio-injection", "istio.io/rev", "linkerd.io/inject", "kuma.io/sidecar-injection"];

/// Whether the API server answers at all.
pub(super) async fn look(cluster: &Cluster, lines: &mut Lines, before: bool) -> bool {
    let version = match cluster.get("/version").await {
        Ok(version) => version.unwrap_or_default(),
        Err(error) => {
            lines.wrong("API_UNREACHABLE", format!("{error:#}"));
            return false;
        }
    };
    versions(cluster, lines, &version).await;
    gateway_api(cluster, lines).await;
    socket_load_balancing(cluster, lines).await;
    namespaces(cluster, lines).await;
    if before {
        rights(cluster, lines).await;
    }
    true
}

async fn versions(cluster: &Cluster, lines: &mut Lines, version: &Value) {
    let shown = text(&version["gitVersion"]);
    let mut old: Vec<String> = Vec::new();
    if minor(shown) < Some(MINOR_MIN) {
        old.push(format!("the API server is {shown}"));
    }
    let nodes = cluster.list("/api/v1/nodes", "").await;
    for node in nodes.iter().flatten() {
        let kubelet = text(&node["status"]["nodeInfo"]["kubeletVersion"]);
        if minor(kubelet) < Some(MINOR_MIN) {
            old.push(format!("node {} is {kubelet}", text(&node["metadata"]["name"])));
        }
    }
    match (old.is_empty(), nodes) {
        (false, _) => lines.wrong("KUBERNETES_TOO_OLD", old.join(", ")),
        (true, Ok(nodes)) => lines
            .well("KUBERNETES_TOO_OLD", format!("Kubernetes {shown} on {} node(s) has native sidecars", nodes.len())),
        (true, Err(error)) => lines.unknown("KUBERNETES_TOO_OLD", format!("Kubernetes {shown}; {error:#}")),
    }
}

/// Of `v1.36.3`.
fn minor(version: &str) -> Option<u64> {
    let mut parts = version.trim_start_matches('v').split('.');
    let major: u64 = parts.next()?.parse().ok()?;
    let minor: u64 = parts.next()?.trim_end_matches('+').parse().ok()?;
    Some(if major > 1 { u64::MAX } else { minor })
}

async fn gateway_api(cluster: &Cluster, lines: &mut Lines) {
    match cluster.get("/apis/gateway.networking.k8s.io").await {
        Ok(Some(group)) => {
            let version = text(&group["preferredVersion"]["version"]);
            lines.well("GATEWAY_API_MISSING", format!("Gateway API is served ({version})"));
        }
        Ok(None) => lines.wrong("GATEWAY_API_MISSING", "Gateway API is not installed: there are no routes"),
        Err(error) => lines.unknown("GATEWAY_API_MISSING", format!("{error:#}")),
    }
}

/// What a CNI's own configuration says of pods' sockets.
async fn socket_load_balancing(cluster: &Cluster, lines: &mut Lines) {
    let cilium = cluster.get("/api/v1/namespaces/kube-system/configmaps/cilium-config").await;
    let calico = cluster.get("/apis/crd.projectcalico.org/v1/felixconfigurations/default").await;
    let mut found = Vec::new();
    if let Ok(Some(config)) = &cilium
        && cilium_replaces(&config["data"])
    {
        found.push("Cilium balances in pods' sockets");
    }
    if let Ok(Some(config)) = &calico
        && calico_replaces(&config["spec"])
    {
        found.push("Calico balances at connect time");
    }
    match (found.is_empty(), cilium.and(calico)) {
        (false, _) => lines.wrong("SOCKET_LOAD_BALANCING", found.join(", ")),
        (true, Ok(_)) => {
            lines.well("SOCKET_LOAD_BALANCING", "no CNI replaces Services' addresses before the sidecar sees them")
        }
        (true, Err(error)) => lines.unknown("SOCKET_LOAD_BALANCING", format!("{error:#}")),
    }
}

/// kube-proxy's replacement turns it on by itself.
fn cilium_replaces(data: &Value) -> bool {
    let on = |name: &str| matches!(text(&data[name]), "true" | "strict" | "probe");
    (on("bpf-lb-sock") || on("kube-proxy-replacement")) && !on("bpf-lb-sock-hostns-only")
}

fn calico_replaces(spec: &Value) -> bool {
    let mode = spec["bpfConnectTimeLoadBalancing"].as_str().unwrap_or("TCP");
    spec["bpfEnabled"] == true && mode != "Disabled"
}

async fn namespaces(cluster: &Cluster, lines: &mut Lines) {
    let all = match cluster.list("/api/v1/namespaces", &format!("{INJECT}=enabled")).await {
        Ok(all) => all,
        Err(error) => return lines.unknown("POD_SECURITY", format!("{error:#}")),
    };
    let forbids = |one: &&Value| {
        matches!(text(&one["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]), "baseline" | "restricted")
    };
    let others = |one: &&Value| {
        let meta = &one["metadata"];
        OTHERS.iter().any(|name| {
            let word = meta["labels"][*name].as_str().or_else(|| meta["annotations"][*name].as_str());
            word.is_some_and(|word| word != "disabled")
        })
    };
    let names = |keep: &dyn Fn(&&Value) -> bool| {
        all.iter().filter(keep).map(|one| text(&one["metadata"]["name"])).collect::<Vec<_>>().join(", ")
    };
    let (forbidding, shared) = (names(&forbids), names(&others));
    match forbidding.as_str() {
        "" => lines
            .well("POD_SECURITY", format!("{} namespace(s) ask for sidecars, and allow what those need", all.len())),
        names => lines.wrong("POD_SECURITY", format!("{names}: Pod Security forbids NET_ADMIN")),
    }
    match shared.as_str() {
        "" => lines.well("OTHER_MESH", "no other mesh injects them"),
        names => lines.wrong("OTHER_MESH", format!("{names}: another mesh injects too")),
    }
}

/// What helm will do in the name of whoever asks.
async fn rights(cluster: &Cluster, lines: &mut Lines) {
    let wanted = [
        ("apiextensions.k8s.io", "customresourcedefinitions", "create"),
        ("rbac.authorization.k8s.io", "clusterroles", "create"),
        ("rbac.authorization.k8s.io", "clusterrolebindings", "create"),
        ("admissionregistration.k8s.io", "mutatingwebhookconfigurations", "create"),
        ("admissionregistration.k8s.io", "validatingwebhookconfigurations", "create"),
        ("", "namespaces", "create"),
    ];
    let mut missing = Vec::new();
    for (group, resource, verb) in wanted {
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {"group": group, "resource": resource, "verb": verb}},
        });
        match cluster.client.create("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", &review).await {
            Ok(answer) if answer["status"]["allowed"] == true => {}
            Ok(_) => missing.push(format!("{verb} {resource}")),
            Err(error) => return lines.unknown("NOT_PERMITTED", error.to_string()),
        }
    }
    match missing.is_empty() {
        true => lines.well("NOT_PERMITTED", "you may install it"),
        false => lines.wrong("NOT_PERMITTED", format!("you may not {}", missing.join(", "))),
    }
}

/// Its conditions, by name, that are true.
pub(super) fn holds(object: &Value, condition: &str) -> bool {
    items(&object["status"]["conditions"]).any(|one| one["type"] == condition && one["status"] == "True")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_numbers() {
        assert_eq!(minor("v1.36.3"), Some(36));
        assert_eq!(minor("v1.29+"), Some(29));
        assert!(minor("v2.0.0") > Some(MINOR_MIN));
        assert!(minor("unknown") < Some(MINOR_MIN), "what cannot be read is not fit");
    }

    #[test]
    fn a_cni_that_balances_in_sockets_is_found() {
        let cases = [
            (json!({"kube-proxy-replacement": "true"}), true),
            (json!({"kube-proxy-replacement": "true", "bpf-lb-sock-hostns-only": "true"}), false),
            (json!({"bpf-lb-sock": "true"}), true),
            (json!({"kube-proxy-replacement": "false"}), false),
            (json!({}), false),
        ];
        for (data, expected) in cases {
            assert_eq!(cilium_replaces(&data), expected, "{data}");
        }
        assert!(calico_replaces(&json!({"bpfEnabled": true})));
        assert!(!calico_replaces(&json!({"bpfEnabled": true, "bpfConnectTimeLoadBalancing": "Disabled"})));
        assert!(!calico_replaces(&json!({})));
    }
}
