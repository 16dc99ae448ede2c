//! The CustomResourceDefinitions of our kinds: structural schemas from the tables of fields, rules whose messages name the
//! remedy, columns for `kubectl get`. It must never know a field, default or bound that the Rust types do not know.

mod body;
mod place;
#[cfg(test)]
mod tests;

use leno_proto::fields;
use serde_json::Value;
use serde_json::json;

use crate::object::Kind;

/// The kinds in the order in which they are installed.
pub const KINDS: [Kind; 5] =
    [Kind::Mesh, Kind::TrafficPolicy, Kind::InboundPolicy, Kind::AccessPolicy, Kind::EgressHost];

/// One kind's definition.
pub struct Crd {
    pub kind: Kind,
    /// As the API server names the resource, in lower case.
    pub plural: &'static str,
    pub document: Value,
}

impl Crd {
    /// As `kubectl apply` takes it.
    pub fn yaml(&self) -> String {
        serde_saphyr::to_string(&self.document).expect("plain data with string keys")
    }
}

/// All of them.
pub fn all() -> Vec<Crd> {
    KINDS.into_iter().map(definition).collect()
}

/// What the API server is told about a kind beside its schema.
struct Names {
    plural: &'static str,
    short: &'static str,
    columns: Value,
}

fn names(kind: Kind) -> Names {
    let column = |name: &str, kind: &str, path: &str| json!({"name": name, "type": kind, "jsonPath": path});
    let (plural, short, own) = match kind {
        Kind::TrafficPolicy => {
            ("trafficpolicies", "tpol", vec![column("Target", "string", ".spec.targetRefs[*].name")])
        }
        Kind::InboundPolicy => ("inboundpolicies", "ipol", vec![column("TLS", "string", ".spec.tls.mode")]),
        Kind::AccessPolicy => ("accesspolicies", "apol", vec![column("Action", "string", ".spec.action")]),
        Kind::EgressHost => {
            let hosts = column("Hosts", "string", ".spec.hostnames");
            ("egresshosts", "ehost", vec![hosts, column("Visibility", "string", ".spec.visibility")])
        }
        Kind::Mesh => ("meshes", "lmesh", vec![column("Profile", "string", ".spec.profile")]),
        Kind::Namespace
        | Kind::ServiceAccount
        | Kind::Pod
        | Kind::Service
        | Kind::EndpointSlice
        | Kind::HttpRoute
        | Kind::GrpcRoute
        | Kind::TcpRoute
        | Kind::ReferenceGrant => unreachable!("KINDS lists our own alone"),
    };
    // The reason is what a person needs when the status is not True.
    let mut columns = own;
    columns.extend([
        column("Accepted", "string", ".status.conditions[?(@.type==\"Accepted\")].reason"),
        column("Programmed", "string", ".status.conditions[?(@.type==\"Programmed\")].status"),
        column("Applied", "integer", ".status.proxies.applied"),
        column("Of", "integer", ".status.proxies.selected"),
        column("Age", "date", ".metadata.creationTimestamp"),
    ]);
    Names { plural, short, columns: columns.into() }
}

fn definition(kind: Kind) -> Crd {
    let Names { plural, short, columns } = names(kind);
    let name = kind.as_str();
    let scope = if kind.namespaced() { "Namespaced" } else { "Cluster" };
    let (group, version) = crate::object::POLICY_VERSION.split_once('/').expect("a group and a version");
    let document = json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": format!("{plural}.{group}"),
            "labels": {"app.kubernetes.io/part-of": "leno"},
            // A chart that is removed must not take the users' policies with it.
            "annotations": {"helm.sh/resource-policy": "keep"},
        },
        "spec": {
            "group": group,
            "scope": scope,
            "names": {
                "kind": name,
                "listKind": format!("{name}List"),
                "plural": plural,
                "singular": name.to_ascii_lowercase(),
                "shortNames": [short],
                "categories": ["leno"],
            },
            "versions": [{
                "name": version,
                "served": true,
                "storage": true,
                "subresources": {"status": {}},
                "additionalPrinterColumns": columns,
                "schema": {"openAPIV3Schema": schema(kind)},
            }],
        },
    });
    Crd { kind, plural, document }
}

/// The schema of a whole object.
fn schema(kind: Kind) -> Value {
    let (description, spec) = match kind {
        Kind::TrafficPolicy => (
            "What client sidecars do towards a destination: connections, timeouts, retries, circuit breaking, concurrency, load balancing, rate limits.",
            place::traffic(body::schema(fields::TRAFFIC)),
        ),
        Kind::InboundPolicy => (
            "What the server's sidecar does with arriving traffic: TLS mode, limits on connections and slow clients, the hop to the application, rate limits.",
            place::inbound(body::schema(fields::INBOUND)),
        ),
        Kind::AccessPolicy => ("Who may call. Policies add up; any matching Deny wins.", place::access()),
        Kind::EgressHost => ("A destination outside the mesh: names, ports, TLS origination.", place::egress()),
        _ => (
            "The mesh itself; there is one, named default.",
            place::mesh(body::schema(fields::TRAFFIC), body::schema(fields::INBOUND)),
        ),
    };
    let mut schema = json!({
        "type": "object",
        "description": description,
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": spec,
            "status": status(),
        },
    });
    if kind == Kind::Mesh {
        // Always there, so that the rule below may look into it.
        schema["properties"]["spec"]["default"] = json!({});
        schema["x-kubernetes-validations"] = json!([
            {"rule": "self.metadata.name == 'default'", "message": "there is one Mesh; name it default"},
            {
                "rule": "has(self.spec.trustDomain) == has(oldSelf.spec.trustDomain) && (!has(self.spec.trustDomain) || self.spec.trustDomain == oldSelf.spec.trustDomain)",
                "message": "the trust domain cannot change, as every identity carries it; set spec.trustDomain back",
            },
        ]);
    } else {
        schema["required"] = json!(["spec"]);
    }
    schema
}

/// What the control plane says of an object (CONTRACTS of every kind alike).
fn status() -> Value {
    let text = |description: &str| json!({"type": "string", "description": description});
    let count = |description: &str| json!({"type": "integer", "format": "int64", "description": description});
    json!({
        "type": "object",
        "description": "Written by the control plane.",
        "properties": {
            "conditions": {
                "type": "array",
                "description": "Accepted, ResolvedRefs, Programmed (in force in every proxy that uses it), Warnings.",
                "maxItems": 16,
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["type"],
                "items": {
                    "type": "object",
                    "required": ["type", "status", "lastTransitionTime", "reason", "message"],
                    "properties": {
                        "type": {"type": "string", "maxLength": 316},
                        "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
                        "reason": {"type": "string", "minLength": 1, "maxLength": 1024},
                        "message": {"type": "string", "maxLength": 32768},
                        "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0},
                        "lastTransitionTime": {"type": "string", "format": "date-time"},
                    },
                },
            },
            "targets": {
                "type": "array",
                "description": "What it is attached to, as the control plane resolved it.",
                "maxItems": 64,
                "x-kubernetes-list-type": "atomic",
                "items": {
                    "type": "object",
                    "properties": {
                        "group": text("API group; empty for Kubernetes' core."),
                        "kind": text("Kind of the target."),
                        "namespace": text("Namespace of the target."),
                        "name": text("Name of the target."),
                        "sectionName": text("Port or rule of the target."),
                        "message": text("What stands in the way, if anything does."),
                    },
                },
            },
            "proxies": {
                "type": "object",
                "description": "Proxies that use the object.",
                "properties": {
                    "selected": count("All of them."),
                    "applied": count("Those that reported its present version as in force."),
                    "rejected": count("Those that refused it."),
                    "disconnected": count("Those without a session."),
                },
            },
        },
    })
}
