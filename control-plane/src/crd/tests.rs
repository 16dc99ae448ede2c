use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use leno_proto::fields::Field;
use leno_proto::fields::Kind as FieldKind;
use regex::Regex;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::crd;
use crate::object::Kind;
use crate::object::Object;
use crate::object::check;

/// What an API server would say of a value without its CEL rules; empty: it is valid. Unknown fields are faults, as they are for
/// `kubectl`.
fn faults(schema: &Value, value: &Value, at: &str) -> Vec<String> {
    if value.is_null() {
        // Without `nullable` the API server drops a null before it judges.
        let listed = schema["enum"].as_array().is_none_or(|of| of.contains(&Value::Null));
        return if schema["nullable"] == true && !listed { vec![format!("{at}: null")] } else { Vec::new() };
    }
    let mut found = Vec::new();
    let mut fault = |holds: bool, what: &str| {
        if !holds {
            found.push(format!("{at}: {what}"));
        }
    };
    if schema["x-kubernetes-int-or-string"] == true {
        fault(value.is_i64() || value.is_string(), "neither a number nor a text");
    }
    if let Some(of) = schema["enum"].as_array() {
        fault(of.contains(value), "not one of these");
    }
    match (schema["type"].as_str(), value) {
        (None, _) => {}
        (Some("string"), Value::String(text)) => {
            let pattern = schema["pattern"].as_str().map(|pattern| Regex::new(pattern).unwrap());
            fault(pattern.is_none_or(|pattern| pattern.is_match(text)), "the pattern");
            fault(schema["maxLength"].as_u64().is_none_or(|max| text.len() as u64 <= max), "too long");
            fault(schema["minLength"].as_u64().is_none_or(|min| text.len() as u64 >= min), "too short");
        }
        (Some("integer"), Value::Number(number)) if number.is_i64() || number.is_u64() => {
            let number = number.as_i64().unwrap();
            fault(schema["minimum"].as_i64().is_none_or(|min| number >= min), "too small");
            fault(schema["maximum"].as_i64().is_none_or(|max| number <= max), "too large");
        }
        (Some("boolean"), Value::Bool(_)) => {}
        (Some("array"), Value::Array(items)) => {
            fault(schema["maxItems"].as_u64().is_none_or(|max| items.len() as u64 <= max), "too many");
            fault(schema["minItems"].as_u64().is_none_or(|min| items.len() as u64 >= min), "too few");
            found.extend(items.iter().flat_map(|item| faults(&schema["items"], item, &format!("{at}[]"))));
        }
        (Some("object"), Value::Object(members)) => found.extend(object_faults(schema, members, at)),
        (Some(kind), _) => fault(false, &format!("not of type {kind}")),
    }
    found
}

fn object_faults(schema: &Value, members: &Map<String, Value>, at: &str) -> Vec<String> {
    let open = schema["x-kubernetes-preserve-unknown-fields"] == true || schema.get("properties").is_none();
    let mut found = Vec::new();
    for required in schema["required"].as_array().into_iter().flatten() {
        if !members.contains_key(required.as_str().unwrap()) {
            found.push(format!("{at}: lacks {required}"));
        }
    }
    for (name, member) in members {
        let at = format!("{at}.{name}");
        match (schema["properties"].get(name), schema.get("additionalProperties")) {
            (Some(schema), _) | (None, Some(schema)) => found.extend(faults(schema, member, &at)),
            (None, None) if open => {}
            (None, None) => found.push(format!("{at}: no such field")),
        }
    }
    found
}

fn schema_of(kind: Kind) -> Value {
    let crd = crd::all().into_iter().find(|crd| crd.kind == kind).unwrap();
    crd.document["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

fn spec_of(kind: Kind) -> Value {
    schema_of(kind)["properties"]["spec"].clone()
}

/// Our own kinds in a text of YAML documents.
fn ours(text: &str) -> Vec<(Kind, Value)> {
    let documents = text.split("\n---").filter_map(|part| serde_saphyr::from_str::<Value>(part).ok());
    let named = |document: Value| {
        let kind = Kind::named(document["apiVersion"].as_str()?, document["kind"].as_str()?)?;
        crd::KINDS.contains(&kind).then_some((kind, document))
    };
    documents.filter_map(named).collect()
}

fn admitted(kind: Kind, document: &Value) -> bool {
    let mut document = document.clone();
    let namespace = json!(if kind.namespaced() { "shop" } else { "" });
    document["metadata"].as_object_mut().unwrap().entry("namespace").or_insert(namespace);
    Object::decode(kind, document).is_ok_and(|object| {
        let flaws = check::check(&object);
        flaws.iter().all(|flaw| flaw.field == "metadata.namespace")
    })
}

#[test]
fn what_the_directory_admits_the_schema_admits() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut texts = vec![fs::read_to_string(root.join("../README.md")).unwrap().replace("```", "\n---\n")];
    for case in fs::read_dir(root.join("tests/compile")).unwrap() {
        texts.push(fs::read_to_string(case.unwrap().path().join("in.yaml")).unwrap());
    }
    let mut seen = BTreeSet::new();
    for (kind, document) in texts.iter().flat_map(|text| ours(text)) {
        let faults = faults(&schema_of(kind), &document, kind.as_str());
        if admitted(kind, &document) {
            assert_eq!(faults, Vec::<String>::new(), "{document:#}");
            seen.insert(kind);
        }
    }
    assert_eq!(seen.len(), crd::KINDS.len(), "only {seen:?}");
}

#[test]
fn what_is_wrong_by_itself_the_schema_refuses() {
    let target = json!([{"kind": "Service", "name": "catalog"}]);
    let cases = [
        (Kind::TrafficPolicy, json!({}), "lacks"),
        (Kind::TrafficPolicy, json!({"targetRefs": []}), "too few"),
        (Kind::TrafficPolicy, json!({"targetRefs": target, "timeout": {}}), "timeout: no such field"),
        (Kind::TrafficPolicy, json!({"targetRefs": target, "timeouts": {"request": 5}}), "not of type string"),
        (Kind::TrafficPolicy, json!({"targetRefs": target, "timeouts": {"request": "5"}}), "the pattern"),
        (Kind::TrafficPolicy, json!({"targetRefs": target, "retries": {"retryOn": [399.5]}}), "neither"),
        (Kind::TrafficPolicy, json!({"targetRefs": target, "retries": {"methods": "All"}}), "not one of"),
        (Kind::InboundPolicy, json!({"workloads": {"ports": [0]}}), "too small"),
        (Kind::InboundPolicy, json!({"tls": {"mode": "strict"}}), "not one of"),
        (Kind::AccessPolicy, json!({"rules": []}), "lacks"),
        (Kind::AccessPolicy, json!({"action": "Refuse"}), "not one of"),
        (Kind::AccessPolicy, json!({"action": "Allow", "rules": [{"source": []}]}), "source: no such field"),
        (Kind::EgressHost, json!({"hostnames": ["a b"], "ports": [{"port": 443}]}), "the pattern"),
        (Kind::EgressHost, json!({"hostnames": ["a.example"], "ports": [{"port": 70000}]}), "too large"),
        (Kind::Mesh, json!({"profile": "Strict"}), "not one of"),
        (Kind::Mesh, json!({"defaults": {"traffic": {"targetRefs": []}}}), "no such field"),
    ];
    for (kind, spec, expected) in cases {
        let faults = faults(&spec_of(kind), &spec, "spec");
        assert!(faults.iter().any(|fault| fault.contains(expected)), "{kind} {spec}: {faults:?}");
    }
}

/// The bounds of a count, one beyond them, and null.
#[test]
fn a_field_has_in_the_schema_the_bounds_that_it_has_in_the_table() {
    for (kind, table) in
        [(Kind::TrafficPolicy, leno_proto::fields::TRAFFIC), (Kind::InboundPolicy, leno_proto::fields::INBOUND)]
    {
        let spec = spec_of(kind);
        for Field { path, kind, .. } in table {
            let field = path.split('.').fold(&spec, |schema, name| &schema["properties"][name]);
            assert_eq!(faults(field, &Value::Null, path), Vec::<String>::new(), "{path} may be reset");
            if let FieldKind::Count { min, max } = kind {
                let refused = |value: i64| !faults(field, &json!(value), path).is_empty();
                let (min, max) = (i64::from(*min), i64::from(*max));
                assert_eq!([min - 1, min, max, max + 1].map(refused), [true, false, false, true], "{path}");
            }
        }
    }
}

/// Every object of the schema below `spec`, by the path that leads there.
fn objects(schema: &Value, at: &[&str], found: &mut Vec<(Vec<String>, BTreeSet<String>)>) {
    if let Some(properties) = schema["properties"].as_object() {
        found.push((at.iter().map(|name| (*name).to_owned()).collect(), properties.keys().cloned().collect()));
        for (name, member) in properties {
            objects(member, &[at, &[name.as_str()]].concat(), found);
        }
    }
    if schema["type"] == "array" {
        objects(&schema["items"], &[at, &["[]"]].concat(), found);
    }
}

/// The least that decodes, with `inner` at a place.
fn holding(schema: &Value, place: &[String], inner: Value) -> Value {
    let mut value = Map::new();
    for required in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        value.insert(required.to_owned(), least(&schema["properties"][required]));
    }
    let Some((first, rest)) = place.split_first() else {
        value.extend(inner.as_object().cloned().unwrap_or_default());
        return value.into();
    };
    if first == "[]" {
        return json!([holding(&schema["items"], rest, inner)]);
    }
    value.insert(first.clone(), holding(&schema["properties"][first], rest, inner));
    value.into()
}

fn least(schema: &Value) -> Value {
    match schema["type"].as_str() {
        Some("object") => holding(schema, &[], json!({})),
        Some("array") => json!([]),
        Some("integer") => json!(1),
        _ => schema["enum"].get(0).cloned().unwrap_or(json!("a")),
    }
}

/// serde names the fields that it knows when it meets one that it does not.
fn known_to_serde(kind: Kind, spec: Value) -> BTreeSet<String> {
    let document = json!({"apiVersion": "policy.leno.dev/v1alpha1", "kind": kind.as_str(), "metadata": {"name": "a"}, "spec": spec});
    let error = Object::decode(kind, document).unwrap_err().to_string();
    let (_, known) = error.split_once("expected").unwrap_or_else(|| panic!("{kind}: {error}"));
    known.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn the_schema_has_the_fields_of_the_rust_types() {
    for kind in crd::KINDS {
        let mut found = Vec::new();
        let spec = spec_of(kind);
        objects(&spec, &[], &mut found);
        for (place, fields) in found {
            // Bodies come from the tables, and the first level of a policy with one is half of each.
            let body = match kind {
                Kind::TrafficPolicy => place.first().is_none_or(|first| first != "targetRefs"),
                Kind::InboundPolicy => place.first().is_none_or(|first| first != "workloads"),
                _ => place.starts_with(&["defaults".to_owned()]) && place.len() > 1,
            };
            if !body {
                let strange = holding(&spec, &place, json!({"zzz": 1}));
                assert_eq!(known_to_serde(kind, strange), fields, "{kind} {place:?}");
            }
        }
    }
}

#[test]
fn every_rule_names_a_remedy_and_every_list_has_an_end() {
    fn walk(schema: &Value, at: &str) {
        if let Value::Object(members) = schema {
            if members.get("type") == Some(&json!("array")) {
                assert!(members.contains_key("maxItems"), "{at}");
            }
            for rule in members.get("x-kubernetes-validations").into_iter().flat_map(|rules| rules.as_array().unwrap())
            {
                assert!(rule["message"].as_str().is_some_and(|text| !text.is_empty() && !text.ends_with('.')), "{at}");
            }
            members.iter().for_each(|(name, member)| walk(member, &format!("{at}.{name}")));
        }
    }
    for kind in crd::KINDS {
        walk(&spec_of(kind), kind.as_str());
    }
}
