//! The body of a policy as a structural schema, from a table of fields. Defaults are told, never filled in: a stored default
//! would override what less specific policies say.

use std::collections::BTreeMap;

use leno_proto::fields::Field;
use leno_proto::fields::Kind;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

/// GEP-2257.
const DURATION: &str = "^([0-9]{1,5}(h|m|s|ms)){1,4}$";
/// Four parts of five digits and `ms`.
pub(super) const DURATION_MAX: usize = 28;

/// The paths of a table as the tree that they are.
#[derive(Default)]
struct Node<'t> {
    field: Option<&'t Field>,
    members: BTreeMap<&'t str, Node<'t>>,
}

pub(super) fn schema(table: &[Field]) -> Value {
    let mut root = Node::default();
    for field in table {
        let node = field.path.split('.').fold(&mut root, |node, name| node.members.entry(name).or_default());
        node.field = Some(field);
    }
    let mut schema = object("", &root);
    // The spec itself is not a member of anything that one might reset.
    drop(schema.as_object_mut().and_then(|schema| schema.remove("nullable")));
    schema
}

fn object(path: &str, node: &Node<'_>) -> Value {
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    let members: Map<String, Value> =
        node.members.iter().map(|(name, member)| ((*name).to_owned(), one(&below(name), member))).collect();
    let mut schema = json!({"type": "object", "nullable": true, "properties": members});
    // Both tables have `timeouts`, and not the same ones.
    let mut rules: Vec<Value> = contradictions(path)
        .into_iter()
        .filter(|(fields, _)| fields.iter().all(|field| node.members.contains_key(field)))
        .map(|(_, rule)| rule)
        .collect();
    if matches!(node.field, Some(Field { kind: Kind::Union, .. })) {
        let names: Vec<&str> = node.members.keys().copied().collect();
        let present: Vec<String> = names.iter().map(|name| format!("has(self.{name})")).collect();
        rules.push(rule(
            format!("[{}].filter(x, x).size() == 1", present.join(", ")),
            format!("set exactly one of {}", names.join(", ")),
        ));
    }
    if !rules.is_empty() {
        schema["x-kubernetes-validations"] = rules.into();
    }
    schema
}

fn one(path: &str, node: &Node<'_>) -> Value {
    let mut schema = match node.field {
        Some(field) if node.members.is_empty() => leaf(path, field),
        Some(_) | None => object(path, node),
    };
    if let Some(field) = node.field {
        let text = description(field);
        if !text.is_empty() {
            schema["description"] = text.into();
        }
    }
    // RFC 7386: null returns a field to its default, so the API server must keep it.
    schema["nullable"] = true.into();
    schema
}

fn description(field: &Field) -> String {
    let mut parts = vec![field.source.to_owned()];
    if !field.default.is_empty() {
        parts.push(format!("Default: {}.", field.default));
    }
    if !field.enforced {
        parts.push("Not enforced yet: setting it is reported as Unsupported.".to_owned());
    }
    parts.retain(|part| !part.is_empty());
    parts.join(" ")
}

fn leaf(path: &str, field: &Field) -> Value {
    match field.kind {
        Kind::Duration { min, max, zero } => {
            let mut schema = duration();
            let within = format!("duration(self) >= duration('{min}') && duration(self) <= duration('{max}')");
            schema["x-kubernetes-validations"] = match zero {
                true => json!([rule(
                    format!("duration(self) == duration('0s') || ({within})"),
                    format!("{path} is out of bounds; write {min} to {max}, or 0s to turn it off"),
                )]),
                false => json!([rule(within, format!("{path} is out of bounds; write {min} to {max}"))]),
            };
            schema
        }
        Kind::Count { min, max } => json!({"type": "integer", "format": "int64", "minimum": min, "maximum": max}),
        Kind::Percent => json!({"type": "integer", "format": "int64", "minimum": 0, "maximum": 100}),
        Kind::Switch => json!({"type": "boolean"}),
        Kind::Choice(of) => {
            let mut values: Vec<Value> = of.iter().map(|one| json!(one)).collect();
            values.push(Value::Null);
            json!({"type": "string", "enum": values})
        }
        Kind::Text => json!({"type": "string", "minLength": 1, "maxLength": 253}),
        Kind::Choices { of, codes: None } => list(json!({"type": "string", "enum": of})),
        Kind::Choices { of, codes: Some((min, max)) } => {
            let named: Vec<String> = of.iter().map(|one| format!("'{one}'")).collect();
            let whole = format!("self >= {min} && self <= {max}");
            list(json!({
                "x-kubernetes-int-or-string": true,
                "maxLength": 64,
                "x-kubernetes-validations": [rule(
                    format!("type(self) == int ? ({whole}) : self in [{}]", named.join(", ")),
                    format!("write a number from {min} to {max}, or one of {}", of.join(", ")),
                )],
            }))
        }
        // Their members are judged by the control plane; the table knows them only as text.
        Kind::Objects => list(json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})),
        Kind::Part | Kind::Union => json!({"type": "object"}),
    }
}

pub(super) fn duration() -> Value {
    json!({"type": "string", "pattern": DURATION, "maxLength": DURATION_MAX})
}

fn list(items: Value) -> Value {
    json!({"type": "array", "maxItems": 64, "x-kubernetes-list-type": "atomic", "items": items})
}

pub(super) fn rule(rule: String, message: String) -> Value {
    json!({"rule": rule, "message": message})
}

/// What `leno_proto::fields` says across fields, for the parent that the fields share, with their names. A field that is unset
/// counts as its default.
fn contradictions(path: &str) -> Vec<(&'static [&'static str], Value)> {
    let set = |name: &str| format!("has(self.{name}) && dyn(self.{name}) != null");
    let time = |name: &str, default: &str| format!("({} ? duration(self.{name}) : duration('{default}'))", set(name));
    let count = |name: &str, default: &str| format!("({} ? self.{name} : {default})", set(name));
    let at_most = |low: &str, high: &str| format!("{low} <= {high}");
    let demand = |fields: &'static [&'static str], rule: String, message: &str| {
        vec![(fields, json!({"rule": rule, "message": message}))]
    };
    match path {
        "timeouts" => demand(
            &["perTry", "request"],
            format!("!({}) || !({}) || duration(self.perTry) <= duration(self.request)", set("perTry"), set("request")),
            "timeouts.perTry is longer than timeouts.request; shorten it",
        ),
        "connection" => {
            let (idle, lifetime) = (time("idleTimeout", "5m"), time("maxLifetime", "30m"));
            let mut rules = demand(
                &["idleTimeout", "maxLifetime"],
                format!("{lifetime} == duration('0s') || {idle} < {lifetime}"),
                "connection.idleTimeout is not below connection.maxLifetime, and would never apply; lower it",
            );
            rules.extend(demand(
                &["minIdlePerEndpoint", "maxConnectionsPerEndpoint"],
                at_most(&count("minIdlePerEndpoint", "0"), &count("maxConnectionsPerEndpoint", "10000")),
                "connection.minIdlePerEndpoint is above connection.maxConnectionsPerEndpoint; lower it",
            ));
            rules
        }
        "connection.capacity" => demand(
            &["maxConnections"],
            set("maxConnections"),
            "set connection.capacity.maxConnections: what the destination takes in all",
        ),
        "retries" => demand(
            &["methods", "acknowledgeNonIdempotent"],
            format!(
                "!({}) || self.methods != 'Any' || ({} && self.acknowledgeNonIdempotent)",
                set("methods"),
                set("acknowledgeNonIdempotent")
            ),
            "retries.methods: Any lets the application see a POST twice; if it may, set retries.acknowledgeNonIdempotent: true",
        ),
        "retries.backoff" => demand(
            &["base", "max"],
            at_most(&time("base", "25ms"), &time("max", "250ms")),
            "retries.backoff.base is above retries.backoff.max; lower it or raise the maximum",
        ),
        "circuitBreaker.endpoint.penalty" => demand(
            &["min", "max"],
            at_most(&time("min", "1s"), &time("max", "60s")),
            "penalty.min is above penalty.max; lower it or raise the maximum",
        ),
        "circuitBreaker.service" => demand(
            &["openFor", "openForMax"],
            at_most(&time("openFor", "30s"), &time("openForMax", "5m")),
            "circuitBreaker.service.openFor is above openForMax; lower it or raise the maximum",
        ),
        "loadBalancing" => demand(
            &["hash", "algorithm"],
            format!("!({}) || (has(self.algorithm) && self.algorithm == 'ConsistentHash')", set("hash")),
            "loadBalancing.hash is only for algorithm: ConsistentHash; set that, or remove this",
        ),
        "overload" => demand(
            &["shedPercent", "refusePercent"],
            at_most(&count("shedPercent", "90"), &count("refusePercent", "95")),
            "overload.shedPercent is above overload.refusePercent; lower it",
        ),
        _ => Vec::new(),
    }
}
