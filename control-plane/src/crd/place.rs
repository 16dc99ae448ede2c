//! Where policies attach and whom they concern, as structural schemas: the parts that are Rust structs and not tables. It must
//! never name a field that `object::ours` refuses; a test compares the two.

use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::crd::body;
use crate::crd::body::rule;

pub(super) fn traffic(body: Value) -> Value {
    let target = object(
        "One object that the policy is attached to.",
        &["kind", "name"],
        json!({
            "group": {"type": "string", "maxLength": 253, "default": "", "description": "API group; empty for Kubernetes' core."},
            "kind": {"type": "string", "maxLength": 63, "description": "Mesh, Namespace, Service, EgressHost, HTTPRoute, GRPCRoute or TCPRoute."},
            "name": name("Name of the object; of a Mesh, default."),
            "namespace": name("Another namespace than the policy's own: then it is a consumer's policy, for clients here."),
            "sectionName": name("A port of a Service, by its name or number, or a rule of a route."),
        }),
    );
    let mut target = target;
    target["x-kubernetes-validations"] = json!([
        rule(
            "[['policy.leno.dev','Mesh'],['policy.leno.dev','EgressHost'],['','Namespace'],['','Service'],['gateway.networking.k8s.io','HTTPRoute'],['gateway.networking.k8s.io','GRPCRoute'],['gateway.networking.k8s.io','TCPRoute']].exists(known, known[0] == self.group && known[1] == self.kind)".to_owned(),
            "use Mesh or EgressHost (group policy.leno.dev), Namespace or Service (group \"\"), HTTPRoute, GRPCRoute or TCPRoute (group gateway.networking.k8s.io)".to_owned(),
        ),
        rule(
            "!(self.kind in ['Mesh', 'Namespace']) || !has(self.namespace)".to_owned(),
            "a Mesh or a Namespace has no namespace; remove it".to_owned(),
        ),
    ]);
    let mut targets =
        list("What the policy is attached to (GEP-713); more specific targets override field by field.", 16, target);
    targets["minItems"] = 1.into();
    let strategy = choice(
        "PatchOverrides: this policy overrides more specific ones; for a Mesh or a Namespace.",
        &["PatchDefaults", "PatchOverrides"],
        Some("PatchDefaults"),
    );
    let mut spec = with(body, &["targetRefs"], json!({"targetRefs": targets, "strategy": strategy}));
    add_rule(
        &mut spec,
        "self.strategy != 'PatchOverrides' || self.targetRefs.all(target, target.kind in ['Mesh', 'Namespace'])",
        "PatchOverrides is for a Mesh or a Namespace alone; remove it, or attach the policy there",
    );
    spec
}

pub(super) fn inbound(body: Value) -> Value {
    with(body, &[], json!({"workloads": workloads()}))
}

pub(super) fn access() -> Value {
    let account = object(
        "A service account.",
        &["name"],
        json!({"name": name("Its name."), "namespace": name("Its namespace; absent: the policy's own.")}),
    );
    let spiffe = checked(
        json!({"type": "string", "maxLength": 2048}),
        "self.startsWith('spiffe://')",
        "write spiffe://DOMAIN/ns/NAMESPACE/sa/NAME, or end it with /*",
    );
    let cidr = checked(
        json!({"type": "string", "maxLength": 64}),
        "isCIDR(self) || isIP(self)",
        "this is no network; write such as 10.0.0.0/8",
    );
    let source = object(
        "Who calls: all that is set must hold.",
        &[],
        json!({
            "spiffe": list("SPIFFE ids, or prefixes that end in /*.", 64, spiffe),
            "serviceAccount": account,
            "namespaces": list("Namespaces of meshed callers.", 64, name("A namespace.")),
            "cidrs": list("Networks or addresses; they prove nothing about identity.", 64, cidr),
        }),
    );
    let path = checked(
        json!({"type": "string", "maxLength": 1024}),
        "self.startsWith('/') || self == '*'",
        "begin the path with /; a last * makes it a prefix",
    );
    let rule = object(
        "All that is set must hold; `{}` matches everything.",
        &[],
        json!({
            "sources": list("Absent: anyone. Empty: no one.", 32, source),
            "methods": list("HTTP methods; absent: all.", 32, json!({"type": "string", "minLength": 1, "maxLength": 32})),
            "paths": list("Paths; a last * makes a prefix; absent: all.", 64, path),
            "ports": ports("Ports of the workload; absent: all."),
        }),
    );
    let rules = list("Empty: an Allow that grants nothing.", 64, rule);
    let action = choice("Allow grants, Deny refuses and wins, Audit only counts.", &["Allow", "Deny", "Audit"], None);
    let mut spec = object(
        "Whom it protects and who may call.",
        &["action"],
        json!({"workloads": workloads(), "action": action, "rules": rules}),
    );
    add_rule(
        &mut spec,
        "self.action == 'Allow' || (has(self.rules) && self.rules.size() > 0)",
        "without rules the policy matches nothing; add a rule, `{}` matches everything",
    );
    spec
}

pub(super) fn egress() -> Value {
    let hostname = json!({
        "type": "string",
        "maxLength": 255,
        "pattern": "^(\\*\\.)?[A-Za-z0-9._-]{1,253}$",
        "description": "A name, or *.suffix.",
    });
    let tls = object(
        "Originate TLS towards it.",
        &[],
        json!({"serverName": name("The name that its certificate must have; absent: the first hostname.")}),
    );
    let port = object(
        "One port.",
        &["port"],
        json!({
            "port": {"type": "integer", "format": "int32", "minimum": 1, "maximum": 65535},
            "name": {"type": "string", "maxLength": 63, "description": "By which policies may name it."},
            "protocol": {"type": "string", "maxLength": 63, "description": "As a Service's appProtocol."},
            "tls": tls,
        }),
    );
    let address = checked(json!({"type": "string", "maxLength": 64}), "isIP(self)", "this is no IP address");
    let mut hostnames = list("By which applications call it.", 64, hostname);
    hostnames["minItems"] = 1.into();
    let mut all_ports = list("Where it listens.", 64, port);
    all_ports["minItems"] = 1.into();
    object(
        "An external destination.",
        &["hostnames", "ports"],
        json!({
            "hostnames": hostnames,
            "ports": all_ports,
            "addresses": list("Static addresses; absent: each proxy resolves the name.", 64, address),
            "visibility": choice("Who may use it; Cluster from the root namespace only.", &["Namespace", "Cluster"], Some("Namespace")),
        }),
    )
}

pub(super) fn mesh(traffic: Value, inbound: Value) -> Value {
    let network = checked(
        json!({"type": "string", "maxLength": 64}),
        "isCIDR(self)",
        "this is no network; write such as 10.0.0.0/8",
    );
    let discovery =
        checked(body::duration(), "duration(self) >= duration('0s')", "write a duration such as 250ms or 1s");
    let outbound = object(
        "What sidecars do with destinations that they do not know.",
        &[],
        json!({
            "discoveryTimeout": described(discovery, "How long a first request waits to learn what its destination is. Default: 1s."),
            "onDiscoveryTimeout": choice("What happens to it then, inside the mesh networks.", &["Fail", "Passthrough"], Some("Fail")),
            "unknown": choice("Destinations that nobody has declared.", &["Allow", "Deny"], Some("Allow")),
        }),
    );
    let sampling = object(
        "Of root spans; a caller's decision is respected.",
        &[],
        json!({
            "percent": {"type": "integer", "format": "int32", "minimum": 0, "maximum": 100},
            "partsPerMillion": {"type": "integer", "format": "int64", "minimum": 0, "maximum": 1_000_000},
        }),
    );
    let endpoint = checked(
        json!({"type": "string", "maxLength": 2048, "description": "Address of an OTLP receiver."}),
        "self.startsWith('http://')",
        "begin the address with http://, for spans are sent without TLS",
    );
    let domain = json!({
        "type": "string",
        "minLength": 1,
        "maxLength": 255,
        "pattern": "^[a-z0-9._-]+$",
        "description": "The SPIFFE trust domain; it cannot change. Default: cluster.local.",
    });
    object(
        "Of the whole mesh.",
        &[],
        json!({
            "trustDomain": domain,
            "profile": choice("What stands below everything that policies say.", &["minimal", "recommended", "strict"], Some("recommended")),
            "meshNetworks": list("Networks of Services and Pods; absent: the private ranges.", 64, network),
            "outbound": outbound,
            "defaultAccess": choice("For ports that no AccessPolicy of action Allow selects; absent: as the profile says.", &["Allow", "Deny"], None),
            "tracing": object("Spans.", &[], json!({"endpoint": endpoint, "sampling": sampling})),
            "defaults": object("Policy that holds wherever nothing says otherwise.", &[], json!({
                "traffic": described(traffic, "As a TrafficPolicy's spec, without targets."),
                "inbound": described(inbound, "As an InboundPolicy's spec, without workloads."),
            })),
        }),
    )
}

fn workloads() -> Value {
    let labels = json!({
        "type": "object",
        "maxProperties": 64,
        "additionalProperties": {"type": "string", "maxLength": 63},
        "description": "Labels that a Pod must have.",
    });
    object(
        "Which Pods and which of their ports. Never across namespaces, but from the root namespace for the mesh.",
        &[],
        json!({
            "selector": object("Empty: all Pods of the namespace.", &[], json!({"matchLabels": labels})),
            "ports": ports("Empty: all ports."),
        }),
    )
}

fn ports(description: &str) -> Value {
    let port = json!({"type": "integer", "format": "int32", "minimum": 1, "maximum": 65535});
    list(description, 128, port)
}

fn name(description: &str) -> Value {
    json!({"type": "string", "minLength": 1, "maxLength": 253, "description": description})
}

fn object(description: &str, required: &[&str], properties: Value) -> Value {
    let mut schema = json!({"type": "object", "description": description, "properties": properties});
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

fn list(description: &str, items_max: usize, items: Value) -> Value {
    let kind = "atomic";
    json!({"type": "array", "description": description, "maxItems": items_max, "x-kubernetes-list-type": kind, "items": items})
}

fn choice(description: &str, of: &[&str], default: Option<&str>) -> Value {
    let mut schema = json!({"type": "string", "description": description, "enum": of});
    if let Some(default) = default {
        schema["default"] = default.into();
    }
    schema
}

fn checked(mut schema: Value, cel: &str, message: &str) -> Value {
    add_rule(&mut schema, cel, message);
    schema
}

fn described(mut schema: Value, description: &str) -> Value {
    schema["description"] = description.into();
    schema
}

fn add_rule(schema: &mut Value, cel: &str, message: &str) {
    let one = rule(cel.to_owned(), message.to_owned());
    match schema["x-kubernetes-validations"].as_array_mut() {
        Some(rules) => rules.push(one),
        None => schema["x-kubernetes-validations"] = json!([one]),
    }
}

/// A body, and where it applies.
fn with(mut body: Value, required: &[&str], more: Value) -> Value {
    if let (Some(all), Value::Object(more)) = (properties(&mut body), more) {
        all.extend(more);
    }
    if !required.is_empty() {
        body["required"] = json!(required);
    }
    body
}

fn properties(schema: &mut Value) -> Option<&mut Map<String, Value>> {
    schema.get_mut("properties")?.as_object_mut()
}
