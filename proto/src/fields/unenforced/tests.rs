use serde_json::Value;
use serde_json::json;

use super::*;
use crate::fields::Field;
use crate::fields::Kind;
use crate::policy::Access;
use crate::policy::EgressHost;
use crate::policy::EgressIndex;
use crate::policy::Inbound;
use crate::policy::InboundPort;
use crate::policy::Protocol;

fn outbound_of(body: &Body) -> Resource {
    let host = EgressHost {
        origin: "shop/api".into(),
        hostnames: vec![],
        ports: vec![],
        addresses: vec![],
        policy: traffic(body).into(),
    };
    Resource::EgressIndex(EgressIndex { hosts: vec![host] })
}

fn inbound_of(body: &Body) -> Resource {
    let port = |port| InboundPort {
        port,
        protocol: Protocol::Detect,
        listen: None,
        policy: inbound(body).into(),
        access: Access::default(),
    };
    Resource::Inbound(Inbound {
        uid: "u".into(),
        identity: "spiffe://mesh.test/ns/shop/sa/web".parse().unwrap(),
        namespace: "shop".into(),
        pod: "web".into(),
        addresses: vec![],
        ports: vec![port(80)],
        other: port(0),
        grace: std::time::Duration::from_secs(30),
        node: "".into(),
        zone: "".into(),
    })
}

/// A value that the field does not have by itself.
fn another(field: &Field) -> Value {
    match field.kind {
        Kind::Duration { max, .. } => json!(max),
        Kind::Count { .. } | Kind::Percent => json!(7),
        Kind::Switch => json!(field.default != "true"),
        Kind::Choice(of) => json!(of.iter().find(|one| **one != field.default)),
        Kind::Text => json!("x-priority"),
        Kind::Objects => json!([{"spiffe": "spiffe://mesh.test/ns/shop/sa/web", "requestsPerSecond": 1}]),
        Kind::Choices { of, .. } => json!([of[0]]),
        Kind::Part | Kind::Union => json!({}),
    }
}

fn set(body: &mut Body, path: &str, value: Value) {
    match path.split_once('.') {
        None => drop(body.insert(path.to_owned(), value)),
        Some((first, rest)) => {
            let below = body.entry(first.to_owned()).or_insert_with(|| json!({}));
            set(below.as_object_mut().unwrap(), rest, value);
        }
    }
}

#[test]
fn every_field_that_is_not_enforced_is_named_where_it_changes_something() {
    type Make = fn(&Body) -> Resource;
    for (table, prefix, make) in [(TRAFFIC, "traffic", outbound_of as Make), (INBOUND, "inbound", inbound_of as Make)] {
        assert_eq!(unenforced(&make(&Body::new())), [""; 0], "nothing is set");
        for field in table.iter().filter(|field| !field.enforced && !matches!(field.kind, Kind::Part | Kind::Union)) {
            let mut body = Body::new();
            set(&mut body, field.path, another(field));
            // A burst means something beside its rate alone.
            if let Some(above) = field.path.strip_suffix(".burst").filter(|above| !above.ends_with("warmup")) {
                let rate = if above.ends_with("perClient") { "ratePerSecond" } else { "requestsPerSecond" };
                set(&mut body, &format!("{above}.{rate}"), json!(9));
            }
            let named = unenforced(&make(&body));
            let path = format!("{prefix}.{}", field.path);
            assert!(named.contains(&path), "{path} is missing in {named:?}: add it to `{prefix}_differs`");
        }
        for field in table.iter().filter(|field| field.enforced && matches!(field.kind, Kind::Count { .. })) {
            let mut body = Body::new();
            set(&mut body, field.path, another(field));
            assert!(!unenforced(&make(&body)).contains(&format!("{prefix}.{}", field.path)), "{}", field.path);
        }
    }
}
