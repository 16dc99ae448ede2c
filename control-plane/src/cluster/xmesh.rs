//! Gateway API's own object for a mesh, where the cluster has its kind: that we are here, and which features may be relied on.
//! It must never touch the XMesh of another controller, nor claim a feature that the conformance suite has not shown.

use std::time::Duration;
use std::time::SystemTime;

use serde_json::Value;
use serde_json::json;
use tokio::time::Instant;

use crate::kube::Error;
use crate::kube::client::Client;
use crate::kube::time::seconds;
use crate::object::CONTROLLER;

const ALL: &str = "/apis/gateway.networking.x-k8s.io/v1alpha1/xmeshes";
/// Of the object that is made where there is none.
const NAME: &str = "leno";
/// The kind itself comes and goes, and nothing waits for it.
const LOOK: Duration = Duration::from_secs(30);

/// In the order that the API demands. `cargo xtask conformance` compares it with what it has run.
pub const FEATURES: [&str; 17] = [
    "GRPCRoute",
    "HTTPRoute",
    "HTTPRoute303RedirectStatusCode",
    "HTTPRoute307RedirectStatusCode",
    "HTTPRoute308RedirectStatusCode",
    "HTTPRouteParentRefPort",
    "HTTPRouteResponseHeaderModification",
    "Mesh",
    "MeshClusterIPMatching",
    "MeshConsumerRoute",
    "MeshHTTPRouteBackendRequestHeaderModification",
    "MeshHTTPRouteNamedRouteRule",
    "MeshHTTPRouteQueryParamMatching",
    "MeshHTTPRouteRedirectPath",
    "MeshHTTPRouteRedirectPort",
    "MeshHTTPRouteRewritePath",
    "MeshHTTPRouteSchemeRedirect",
];

/// When it was last looked at.
#[derive(Default)]
pub struct Xmesh {
    looked: Option<Instant>,
}

impl Xmesh {
    /// `namespace`: where the control plane runs, for people.
    pub async fn keep(&mut self, client: &Client, namespace: &str, wall: SystemTime, now: Instant) {
        if self.looked.is_some_and(|at| now.duration_since(at) < LOOK) {
            return;
        }
        self.looked = Some(now);
        match turn(client, namespace, wall).await {
            Ok(()) => {}
            Err(error) if error.not_found() || error.conflicts() => {}
            Err(error) => tracing::warn!("XMesh: {error}"),
        }
    }
}

async fn turn(client: &Client, namespace: &str, wall: SystemTime) -> Result<(), Error> {
    let list = client.get(ALL).await?;
    let all = list["items"].as_array().into_iter().flatten();
    let mut ours: Vec<Value> = all.filter(|mesh| mesh["spec"]["controllerName"] == CONTROLLER).cloned().collect();
    if ours.is_empty() {
        let mesh = json!({
            "apiVersion": "gateway.networking.x-k8s.io/v1alpha1",
            "kind": "XMesh",
            "metadata": {"name": NAME, "labels": {"app.kubernetes.io/part-of": "leno"}},
            "spec": {"controllerName": CONTROLLER, "description": "Leno"},
        });
        ours.push(client.create(ALL, &mesh).await?);
    }
    for mut mesh in ours {
        // Items of a list come without.
        mesh["apiVersion"] = "gateway.networking.x-k8s.io/v1alpha1".into();
        mesh["kind"] = "XMesh".into();
        let status = status(&mesh, namespace, &seconds(wall));
        if mesh["status"] == status {
            continue;
        }
        mesh["status"] = status;
        let name = mesh["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        client.replace(&format!("{ALL}/{name}/status"), &mesh).await?;
    }
    Ok(())
}

fn status(mesh: &Value, namespace: &str, at: &str) -> Value {
    let here = format!("Leno {}, whose control plane is in namespace {namespace}", env!("CARGO_PKG_VERSION"));
    let (status, reason, message) = if mesh["spec"]["parametersRef"].is_null() {
        ("True", "Accepted", here)
    } else {
        ("False", "InvalidParameters", "parametersRef: Leno reads the Mesh of policy.leno.dev instead".to_owned())
    };
    let old = mesh["status"]["conditions"].as_array().into_iter().flatten().find(|one| one["type"] == "Accepted");
    let since = old.filter(|old| old["status"] == status).and_then(|old| old["lastTransitionTime"].as_str());
    let features: Vec<Value> = FEATURES.iter().map(|name| json!({"name": name})).collect();
    json!({
        "conditions": [{
            "type": "Accepted",
            "status": status,
            "reason": reason,
            "message": message,
            "observedGeneration": mesh["metadata"]["generation"].as_i64().unwrap_or_default(),
            "lastTransitionTime": since.unwrap_or(at),
        }],
        "supportedFeatures": features,
    })
}
