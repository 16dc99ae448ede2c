//! Who asks for a sidecar and has none.

use std::time::SystemTime;

use serde_json::Value;
use serde_json::json;
use tokio::time::Instant;

use crate::cluster::audit::Auditor;
use crate::cluster::audit::findings;
use crate::cluster::gather::Gathered;
use crate::cluster::gather::Read;
use crate::compile;
use crate::index::World;
use crate::kube::fake::Fake;
use crate::kube::watch::News;
use crate::object::Kind;
use crate::object::Object;
use crate::reconcile::Table;

/// As a cluster has them.
fn world(objects: Vec<(Kind, Value)>) -> World {
    let mut gathered = Gathered::new([Kind::Namespace, Kind::Pod]);
    for kind in [Kind::Namespace, Kind::Pod] {
        let all = objects.iter().filter(|(of, _)| *of == kind).map(|(_, object)| Read::object(kind, object.clone()));
        gathered.take(kind, News::Listed(all.collect()), Instant::now());
    }
    let mut world = World::default();
    world.apply(gathered.batch().unwrap().events);
    world
}

fn pod(namespace: &str, name: &str, labels: Value, containers: &[&str], more: Value) -> (Kind, Value) {
    let containers: Vec<Value> = containers.iter().map(|name| json!({"name": name})).collect();
    let metadata = json!({"name": name, "namespace": namespace, "uid": format!("{name}-uid"), "labels": labels});
    let mut pod = json!({"metadata": metadata, "spec": {"containers": containers}, "status": {"phase": "Running"}});
    for (field, value) in more.as_object().unwrap() {
        *pod.pointer_mut(field.rsplit_once('/').unwrap().0).unwrap() =
            with(pod.pointer(field.rsplit_once('/').unwrap().0).unwrap(), field, value);
    }
    (Kind::Pod, pod)
}

fn with(parent: &Value, field: &str, value: &Value) -> Value {
    let mut parent = parent.clone();
    parent[field.rsplit_once('/').unwrap().1] = value.clone();
    parent
}

fn namespace(name: &str, labels: Value, annotations: Value) -> (Kind, Value) {
    let metadata = json!({"name": name, "uid": format!("{name}-uid"), "labels": labels, "annotations": annotations});
    (Kind::Namespace, json!({"metadata": metadata}))
}

fn shop() -> Vec<(Kind, Value)> {
    let (enabled, disabled) = (json!({"leno.dev/inject": "enabled"}), json!({"leno.dev/inject": "disabled"}));
    let both = ["app", "leno-proxy"];
    vec![
        namespace("shop", enabled.clone(), json!({})),
        namespace("quiet", json!({}), json!({})),
        namespace("mistaken", json!({}), enabled.clone()),
        namespace("leno-system", enabled.clone(), json!({})),
        pod("shop", "before", json!({}), &["app"], json!({})),
        pod("shop", "meshed", json!({}), &both, json!({})),
        pod("shop", "opted-out", disabled, &["app"], json!({})),
        pod("shop", "finished", json!({}), &["app"], json!({"/status/phase": "Succeeded"})),
        pod("shop", "leaving", json!({}), &["app"], json!({"/metadata/deletionTimestamp": "2026-01-01T00:00:00Z"})),
        pod("shop", "of-the-host", json!({}), &["app"], json!({"/spec/hostNetwork": true})),
        pod("quiet", "asks-itself", enabled, &["app"], json!({})),
        pod("quiet", "does-not-ask", json!({}), &["app"], json!({})),
        pod("leno-system", "ours", json!({}), &["control-plane"], json!({})),
    ]
}

#[test]
fn who_asks_and_has_none_is_found_and_nobody_else() {
    let world = world(shop());
    let found: Vec<(String, &str)> =
        findings(&world, "leno-system").into_iter().map(|one| (one.object.name.to_string(), one.reason)).collect();
    let expected = [
        ("quiet/asks-itself", "SidecarMissing"),
        ("shop/before", "SidecarMissing"),
        ("shop/of-the-host", "SidecarMissing"),
        ("mistaken", "InjectAnnotationIgnored"),
    ];
    assert_eq!(found, expected.map(|(name, reason)| (name.to_owned(), reason)));
}

#[test]
fn a_pod_without_its_sidecar_is_never_called_over_mtls() {
    let world = world(shop());
    let meshed = |name: &str| {
        let found = world.objects().find_map(|(_, object)| match &**object {
            Object::Pod(pod) if pod.metadata.name == name => Some(compile::meshed(&world, pod)),
            _ => None,
        });
        found.unwrap()
    };
    assert!(meshed("meshed"));
    for name in ["before", "asks-itself", "does-not-ask"] {
        assert!(!meshed(name), "{name}");
    }
}

#[tokio::test]
async fn each_finding_is_an_event_once_whoever_leads() {
    let fake = Fake::start().await;
    let table = std::sync::Arc::new(Table::of(world(shop()), leno_proto::convert::encode));
    for _ in 0..2 {
        let mut auditor = Auditor::default();
        for _ in 0..2 {
            assert_eq!(auditor.turn(&fake.client(), &table, "leno-system", SystemTime::now()).await, 3);
        }
    }
    let event = fake.object("/api/v1/namespaces/shop/events/leno-audit.before-uid").unwrap();
    assert_eq!(event["involvedObject"]["name"], "before");
    assert!(event["message"].as_str().unwrap().contains("rollout restart"));
    assert!(fake.object("/api/v1/namespaces/default/events/leno-audit.mistaken-uid").is_some());
    let made = fake.calls().iter().filter(|call| call.starts_with("POST")).count();
    assert_eq!(made, 8, "four by the first leader, four refused to the next, none at a second look");
}
