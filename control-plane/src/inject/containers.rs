//! The two containers that a Pod gets: one that writes the redirect and ends, one that stays. The first alone has a capability,
//! and only while it runs; the second must never have any.

use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::inject::GRACE;
use crate::inject::INIT;
use crate::inject::PORTS;
use crate::inject::PROXY;
use crate::inject::Settings;
use crate::inject::UID;
use crate::inject::annotation::Wishes;
use crate::inject::list;
use crate::inject::probes;

const TRUST: &str = "/var/run/leno/trust";
const VOLUME: &str = "/var/run/leno/volume";

/// Writes the redirect. It runs as root: the kubelet gives capabilities to root alone.
pub(super) fn init(wishes: &Wishes, settings: &Settings) -> Value {
    let status = PORTS[2];
    let skip_inbound = match &wishes.skip_inbound_ports {
        Some(ports) => format!("{status},{ports}"),
        None => status.to_string(),
    };
    let mut env = vec![variable("LENO_SKIP_INBOUND_PORTS", &skip_inbound)];
    let optional = [
        ("LENO_SKIP_OUTBOUND_PORTS", &wishes.skip_outbound_ports),
        ("LENO_SKIP_INBOUND_SUBNETS", &wishes.skip_inbound_subnets),
        ("LENO_SKIP_OUTBOUND_SUBNETS", &wishes.skip_outbound_subnets),
    ];
    env.extend(optional.into_iter().filter_map(|(name, value)| Some(variable(name, value.as_deref()?))));
    json!({
        "name": INIT,
        "image": settings.init_image,
        "imagePullPolicy": settings.pull_policy,
        "env": env,
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
        "securityContext": {
            "runAsUser": 0,
            "runAsGroup": 0,
            "runAsNonRoot": false,
            "privileged": false,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    })
}

/// The sidecar: started before the application and stopped after it, by the kubelet. `probes` are the application's.
pub(super) fn proxy(pod: &Value, probes: &Map<String, Value>, wishes: &Wishes, settings: &Settings) -> Value {
    let mut env = environment(pod, wishes, settings);
    env.extend(probes::value(probes).map(|probes| variable(probes::VARIABLE, &probes)));
    let probe = |path: &str, period: i64, failures: i64| {
        json!({
            "httpGet": {"path": path, "port": PORTS[2]},
            "periodSeconds": period,
            "timeoutSeconds": 2,
            "failureThreshold": failures,
        })
    };
    json!({
        "name": PROXY,
        "image": wishes.image.as_ref().unwrap_or(&settings.proxy_image),
        "imagePullPolicy": settings.pull_policy,
        "restartPolicy": "Always",
        "env": env,
        "ports": [{"name": "leno-status", "containerPort": PORTS[2], "protocol": "TCP"}],
        "resources": resources(wishes, settings),
        // The application starts when this has succeeded once.
        "startupProbe": probe("/ready", 1, 120),
        "readinessProbe": probe("/ready", 5, 3),
        "livenessProbe": probe("/live", 10, 6),
        "lifecycle": {"preStop": {"exec": {"command": ["/leno-proxy", "drain", "--volume", VOLUME]}}},
        "securityContext": {
            "runAsUser": UID,
            "runAsGroup": UID,
            "runAsNonRoot": true,
            "privileged": false,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [
            {"name": "leno-trust", "mountPath": TRUST, "readOnly": true},
            {"name": "leno-volume", "mountPath": VOLUME},
        ],
    })
}

fn environment(pod: &Value, wishes: &Wishes, settings: &Settings) -> Vec<Value> {
    let grace = pod["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(GRACE).max(1);
    let [outbound, inbound, _] = PORTS;
    let mut env = vec![
        field("LENO_POD_NAME", "metadata.name"),
        field("LENO_POD_NAMESPACE", "metadata.namespace"),
        field("LENO_POD_UID", "metadata.uid"),
        field("LENO_SERVICE_ACCOUNT", "spec.serviceAccountName"),
        variable("LENO_CONTROL_PLANE", &settings.control_plane),
        variable("LENO_CONTROL_PLANE_NAMESPACE", &settings.namespace),
        variable("LENO_TRUST_DOMAIN", &settings.trust_domain),
        variable("LENO_TRUST_ANCHOR", &format!("{TRUST}/anchor.pem")),
        variable("LENO_TOKEN", &format!("{TRUST}/token")),
        variable("LENO_VOLUME", VOLUME),
        variable("LENO_OUTBOUND_CAPTURE", &format!("127.0.0.1:{outbound},[::1]:{outbound}")),
        variable("LENO_INBOUND_CAPTURE", &format!("0.0.0.0:{inbound},[::]:{inbound}")),
        variable("LENO_GRACE", &grace.to_string()),
        variable("LENO_LOG", wishes.log.as_ref().unwrap_or(&settings.log)),
        variable("LENO_ACCESS_LOG", wishes.access_log.as_ref().unwrap_or(&settings.access_log)),
    ];
    env.extend(wishes.workers.as_deref().map(|workers| variable("LENO_WORKERS", workers)));
    if let Some(endpoint) = &settings.otlp_endpoint {
        env.push(variable("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint));
    }
    if let Some(service) = service_name(pod) {
        env.push(variable("OTEL_SERVICE_NAME", &service));
    }
    // The kubelet fills the references in.
    let attributes =
        "k8s.namespace.name=$(LENO_POD_NAMESPACE),k8s.pod.name=$(LENO_POD_NAME),k8s.pod.uid=$(LENO_POD_UID)";
    env.push(variable("OTEL_RESOURCE_ATTRIBUTES", attributes));
    env
}

/// OpenTelemetry's order for Kubernetes: annotation, instance, name, and then what made the Pod.
fn service_name(pod: &Value) -> Option<String> {
    let meta = &pod["metadata"];
    let labels = &meta["labels"];
    let said = meta["annotations"]["resource.opentelemetry.io/service.name"].as_str();
    let labelled = ["app.kubernetes.io/instance", "app.kubernetes.io/name", "app"];
    let said = said.or_else(|| labelled.iter().find_map(|label| labels[label].as_str()));
    let made = || {
        let owner = list(&meta["ownerReferences"]).find(|owner| owner["controller"] == true)?;
        let name = owner["name"].as_str()?;
        // A Deployment's ReplicaSet carries the hash of its template.
        let hash = labels["pod-template-hash"].as_str().map(|hash| format!("-{hash}"));
        Some(hash.and_then(|hash| name.strip_suffix(hash.as_str())).unwrap_or(name))
    };
    said.or_else(made).or_else(|| meta["name"].as_str()).map(str::to_owned)
}

/// The mesh's, with the Pod's own wishes on top.
fn resources(wishes: &Wishes, settings: &Settings) -> Value {
    let mut resources = settings.resources.clone();
    for part in ["requests", "limits"] {
        for (name, amount) in wishes.resources[part].as_object().into_iter().flatten() {
            resources[part][name] = amount.clone();
        }
    }
    resources
}

fn variable(name: &str, value: &str) -> Value {
    json!({"name": name, "value": value})
}

fn field(name: &str, path: &str) -> Value {
    json!({"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}})
}
