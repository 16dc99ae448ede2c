use serde_json::Value;
use serde_json::json;

use crate::webhook::Verdict;
use crate::webhook::validate;

fn reviewed(kind: &str, spec: Value, old: Value) -> Verdict {
    let object = |spec: Value| {
        let meta = json!({"name": "default", "namespace": if kind == "Mesh" { "" } else { "shop" }});
        json!({"apiVersion": "policy.leno.dev/v1alpha1", "kind": kind, "metadata": meta, "spec": spec})
    };
    let old = if old.is_null() { Value::Null } else { object(old) };
    validate(&json!({"kind": {"group": "policy.leno.dev", "kind": kind}, "object": object(spec), "oldObject": old}))
}

#[test]
fn a_policy_is_judged_as_in_a_folder() {
    let target = json!([{"kind": "Service", "name": "web"}]);
    let cases = [
        ("TrafficPolicy", json!({"targetRefs": target, "timeouts": {"request": "1s"}}), ""),
        (
            "TrafficPolicy",
            json!({"targetRefs": target, "timeouts": {"request": "1s", "perTry": "2s"}}),
            "longer than timeouts.request",
        ),
        ("TrafficPolicy", json!({"targetRefs": target, "timeout": {}}), "did you mean timeouts?"),
        ("AccessPolicy", json!({"action": "Allow", "rules": [{"sources": [{"spiffe": ["me"]}]}]}), "is no SPIFFE id"),
        (
            "EgressHost",
            json!({"hostnames": ["a.example"], "ports": [{"port": 443}], "visibility": "Cluster"}),
            "root namespace",
        ),
        ("Mesh", json!({"trustDomain": "a.example"}), ""),
    ];
    for (kind, spec, expected) in cases {
        let verdict = reviewed(kind, spec.clone(), Value::Null);
        let refused = verdict.refused.unwrap_or_default();
        assert!(refused.contains(expected) && refused.is_empty() == expected.is_empty(), "{spec}: {refused}");
    }
}

#[test]
fn a_field_without_effect_on_its_route_is_warned_of() {
    let route = json!([{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": "split"}]);
    let service = json!([{"kind": "Service", "name": "web"}]);
    let budget = json!({"budget": {"percent": 30}});
    let warned = |targets: &Value| {
        let spec = json!({"targetRefs": targets, "retries": budget, "timeouts": {"request": "1s"}});
        reviewed("TrafficPolicy", spec, Value::Null).warnings
    };
    assert_eq!(
        warned(&route),
        ["spec.retries.budget.percent, on HTTPRoute shop/split: it has no effect on a route: \
          all that leads to a Service shares it; put it on a policy that targets the Service"]
    );
    assert_eq!(warned(&service), [""; 0]);
}

#[test]
fn what_cannot_change_does_not() {
    let verdict = reviewed("Mesh", json!({"trustDomain": "b"}), json!({"trustDomain": "a"}));
    assert!(verdict.refused.unwrap().contains("set it back to a"));
}

#[test]
fn a_review_is_answered_as_the_api_server_expects() {
    let patch = vec![json!({"op": "add", "path": "/a", "value": 1})];
    let verdict = Verdict { patch, warnings: vec!["mind".to_owned()], ..Verdict::allowed() };
    let review = verdict.review(&json!("uid-1"));
    let response = &review["response"];
    assert_eq!((&response["uid"], &response["allowed"]), (&json!("uid-1"), &json!(true)));
    assert_eq!((&response["patchType"], &response["warnings"]), (&json!("JSONPatch"), &json!(["mind"])));
    let patch = crate::kube::base64::decode(response["patch"].as_str().unwrap()).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&patch).unwrap()[0]["path"], "/a");
    let refused = Verdict { refused: Some("no".to_owned()), ..Verdict::allowed() }.review(&json!("uid-2"));
    assert_eq!(
        (&refused["response"]["allowed"], &refused["response"]["status"]["message"]),
        (&json!(false), &json!("no"))
    );
}
