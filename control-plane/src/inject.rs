//! What a Pod becomes when it joins the mesh: a Pod in, a Pod out, or the reason why not. Pure, so that the webhook and
//! `leno inject` cannot differ. It must never change what the application's containers are.

pub mod annotation;
mod containers;
mod patch;
mod probes;
#[cfg(test)]
mod tests;

use serde_json::Value;
use serde_json::json;

use crate::inject::annotation::Wishes;
use crate::object::INJECT;

pub use crate::inject::patch::difference;

/// The names of what is added.
pub const PROXY: &str = "leno-proxy";
pub const INIT: &str = "leno-init";
/// Says which version injected the Pod.
pub const INJECTED: &str = "leno.dev/injected";
/// The sidecar's user: the redirect exempts what it sends.
pub const UID: i64 = 15_000;
/// Where the sidecar listens: outgoing, arriving, status.
pub const PORTS: [i64; 3] = [15_001, 15_006, 15_021];
/// Kubernetes' own default of a Pod's grace period, in seconds.
const GRACE: i64 = 30;

/// What every sidecar of this mesh is given.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    pub proxy_image: String,
    pub init_image: String,
    pub pull_policy: String,
    /// `host:port` of the control plane.
    pub control_plane: String,
    pub namespace: String,
    pub trust_domain: String,
    pub log: String,
    pub access_log: String,
    /// As a container's `resources`.
    pub resources: Value,
    pub otlp_endpoint: Option<String>,
}

/// What is known of the Pod's namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Namespace<'a> {
    pub name: &'a str,
    /// Its label asks for sidecars.
    pub asks: bool,
    /// What Pod Security enforces there; empty where nothing is.
    pub enforces: &'a str,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The Pod with its sidecar.
    Injected(Box<Value>),
    /// It stays as it is, and why.
    Left(&'static str),
    /// It asks for a sidecar and cannot have one: what is wrong, and the remedy.
    Refused(String),
}

/// Decides and does it.
pub fn inject(pod: &Value, namespace: Namespace<'_>, settings: &Settings) -> Outcome {
    let asked = match asked(pod) {
        Ok(asked) => asked.unwrap_or(namespace.asks),
        Err(wrong) => return Outcome::Refused(wrong),
    };
    if !asked {
        return Outcome::Left("nothing asks for a sidecar");
    }
    let wishes = match annotation::parse(&pod["metadata"]) {
        Ok(wishes) => wishes,
        Err(wrong) => return Outcome::Refused(wrong),
    };
    if list(&pod["spec"]["initContainers"]).any(|one| one["name"] == PROXY) {
        return match probes::turn_later(pod, &wishes) {
            Some(pod) => Outcome::Injected(Box::new(pod)),
            None => Outcome::Left("it has its sidecar already"),
        };
    }
    if let Some(why) = obstacle(pod, namespace) {
        return Outcome::Refused(format!("{why}, or opt out with the label {INJECT}: disabled"));
    }
    Outcome::Injected(Box::new(with_sidecar(pod, &wishes, settings)))
}

/// The Pod's own word, by label or annotation; the label wins, as the webhook selects by it.
fn asked(pod: &Value) -> Result<Option<bool>, String> {
    let meta = &pod["metadata"];
    let word = meta["labels"][INJECT].as_str().or_else(|| meta["annotations"][INJECT].as_str());
    match word {
        None => Ok(None),
        Some("enabled" | "true") => Ok(Some(true)),
        Some("disabled" | "false") => Ok(Some(false)),
        Some(other) => Err(format!("{INJECT}: {other:?} is neither enabled nor disabled; write one of the two")),
    }
}

/// Why a sidecar cannot be, with the remedy.
fn obstacle(pod: &Value, namespace: Namespace<'_>) -> Option<String> {
    let spec = &pod["spec"];
    if spec["hostNetwork"] == true {
        return Some(
            "the Pod uses the host's network, where the redirect would take the node's own traffic; remove hostNetwork"
                .to_owned(),
        );
    }
    if spec["os"]["name"] == "windows" {
        return Some("the sidecar runs on Linux only; schedule the Pod there".to_owned());
    }
    if matches!(namespace.enforces, "baseline" | "restricted") {
        let (name, level) = (namespace.name, namespace.enforces);
        return Some(format!(
            "namespace {name} enforces Pod Security {level}, which forbids the NET_ADMIN that {INIT} needs while it writes the redirect; label it pod-security.kubernetes.io/enforce: privileged"
        ));
    }
    if spec["securityContext"]["runAsUser"] == UID {
        return Some(format!("the Pod runs as user {UID}, which is the sidecar's; run it as another"));
    }
    list(&spec["initContainers"]).chain(list(&spec["containers"])).find_map(|container| {
        let name = container["name"].as_str().unwrap_or_default();
        if container["securityContext"]["runAsUser"] == UID {
            return Some(format!("container {name} runs as user {UID}, which is the sidecar's; run it as another"));
        }
        if [PROXY, INIT].contains(&name) {
            return Some(format!("a container is named {name}, as the sidecar's are; rename it"));
        }
        let taken =
            list(&container["ports"]).find_map(|port| port["containerPort"].as_i64().filter(|p| PORTS.contains(p)))?;
        Some(format!("container {name} uses port {taken}, which is the sidecar's; use another"))
    })
}

fn with_sidecar(pod: &Value, wishes: &Wishes, settings: &Settings) -> Value {
    let mut injected = pod.clone();
    let probes = probes::turn(&mut injected, wishes);
    let first = pod["spec"]["containers"][0]["name"].clone();
    let annotations = object(&mut injected["metadata"]["annotations"]);
    annotations.insert(INJECTED.to_owned(), env!("CARGO_PKG_VERSION").into());
    // So that `kubectl logs` and `exec` mean the application, as ever.
    for name in ["kubectl.kubernetes.io/default-container", "kubectl.kubernetes.io/default-logs-container"] {
        annotations.entry(name).or_insert_with(|| first.clone());
    }
    let spec = &mut injected["spec"];
    let mut init = vec![containers::init(wishes, settings), containers::proxy(pod, &probes, wishes, settings)];
    init.extend(list(&spec["initContainers"]).cloned());
    spec["initContainers"] = init.into();
    let mut volumes: Vec<Value> = list(&spec["volumes"]).cloned().collect();
    volumes.extend(volumes_of_ours());
    spec["volumes"] = volumes.into();
    injected
}

/// Anchors and token in one place; and memory that the sidecar alone mounts.
fn volumes_of_ours() -> [Value; 2] {
    [
        json!({"name": "leno-trust", "projected": {"sources": [
            {"configMap": {"name": "leno-trust", "items": [{"key": "anchor.pem", "path": "anchor.pem"}]}},
            {"serviceAccountToken": {"audience": "leno", "expirationSeconds": 3600, "path": "token"}},
        ]}}),
        json!({"name": "leno-volume", "emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}}),
    ]
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// The object that is there, or an empty one put there.
fn object(value: &mut Value) -> &mut serde_json::Map<String, Value> {
    if !value.is_object() {
        *value = json!({});
    }
    value.as_object_mut().expect("it was made an object just now")
}

/// The Pod template of a manifest's object, where it has one: a Pod itself, or what makes Pods.
pub fn template(manifest: &mut Value) -> Option<&mut Value> {
    let pointer = match manifest["kind"].as_str()? {
        "Pod" => "",
        "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet" | "Job" | "ReplicationController" => "/spec/template",
        "CronJob" => "/spec/jobTemplate/spec/template",
        _ => return None,
    };
    manifest.pointer_mut(pointer)
}
