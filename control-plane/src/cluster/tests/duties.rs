//! What one replica writes for all, against a server that is not there to help.

use std::time::Duration;
use std::time::SystemTime;

use serde_json::Value;
use serde_json::json;
use tokio::time::Instant;

use crate::cluster::keep::Kept;
use crate::cluster::lease::Lease;
use crate::cluster::lease::held;
use crate::cluster::write::Written;
use crate::cluster::xmesh::FEATURES;
use crate::cluster::xmesh::Xmesh;
use crate::compile::conditions::Condition;
use crate::compile::parents::ParentStatus;
use crate::index::World;
use crate::kube::fake::Fake;
use crate::object::Event;
use crate::object::Kind;
use crate::object::Object;
use crate::reconcile::Table;
use crate::status::ObjectStatus;
use crate::status::Proxies;
use crate::status::Report;
use crate::status::Sidecars;

const POLICY: &str = "/apis/policy.leno.dev/v1alpha1/namespaces/shop/trafficpolicies/web";
const ROUTE: &str = "/apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes/web";

fn condition(kind: &'static str, status: &'static str, reason: &'static str) -> Condition {
    Condition { kind, status, reason, message: reason.to_owned(), observed_generation: 3 }
}

fn report(kind: &'static str, conditions: Vec<Condition>, applied: usize) -> Report {
    let proxies = Proxies { selected: 2, applied, ..Proxies::default() };
    let (namespace, name) = ("shop".to_owned(), "web".to_owned());
    let (parents, targets) = (Vec::new(), Vec::new());
    let objects = vec![ObjectStatus { kind, namespace, name, generation: 3, conditions, parents, targets, proxies }];
    Report { generation: 1, sidecars: Sidecars::default(), objects, refused: Vec::new() }
}

fn of_type<'v>(conditions: &'v Value, kind: &str) -> &'v Value {
    conditions.as_array().unwrap().iter().find(|one| one["type"] == kind).unwrap()
}

#[tokio::test]
async fn one_replica_leads_and_another_takes_over_when_it_goes_or_falls_silent() {
    let fake = Fake::start().await;
    let (client, wall, start) = (fake.client(), SystemTime::now(), Instant::now());
    let at = |seconds| start + Duration::from_secs(seconds);
    let (mut one, mut two) = (Lease::new("leno-system", "one", start), Lease::new("leno-system", "two", start));
    one.turn(&client, wall, at(0)).await.unwrap();
    two.turn(&client, wall, at(0)).await.unwrap();
    assert_eq!((held(one.renewed(), at(0)), held(two.renewed(), at(0))), (true, false));
    // It renews, so that the time of the other begins anew.
    one.turn(&client, wall, at(10)).await.unwrap();
    two.turn(&client, wall, at(10)).await.unwrap();
    two.turn(&client, wall, at(20)).await.unwrap();
    assert!(!held(two.renewed(), at(20)));
    assert!(!held(one.renewed(), at(21)), "who could not renew writes no more, before another does");
    two.turn(&client, wall, at(26)).await.unwrap();
    assert!(held(two.renewed(), at(26)));
    one.turn(&client, wall, at(27)).await.unwrap();
    assert!(!held(one.renewed(), at(27)));
    two.leave(&client).await;
    one.turn(&client, wall, at(28)).await.unwrap();
    assert!(held(one.renewed(), at(28)), "who goes lets another have it at once");
}

#[tokio::test]
async fn a_flip_is_written_at_once_and_a_count_when_its_time_has_come() {
    let fake = Fake::start().await;
    fake.put(POLICY, json!({"metadata": {"name": "web", "generation": 3}, "spec": {}}));
    let (client, start) = (fake.client(), Instant::now());
    let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    let mut written = Written::default();
    let waiting = || vec![condition("Accepted", "True", "Accepted"), condition("Programmed", "False", "Reconciling")];
    written.write(&client, &report("TrafficPolicy", waiting(), 0), wall, start).await;
    let status = fake.object(POLICY).unwrap()["status"].clone();
    assert_eq!(status["proxies"], json!({"selected": 2, "applied": 0, "rejected": 0, "disconnected": 0}));
    let since = of_type(&status["conditions"], "Accepted")["lastTransitionTime"].clone();

    written.write(&client, &report("TrafficPolicy", waiting(), 1), wall, start + Duration::from_secs(1)).await;
    assert_eq!(fake.object(POLICY).unwrap()["status"]["proxies"]["applied"], 0, "a count waits");
    let later = wall + Duration::from_secs(40);
    written.write(&client, &report("TrafficPolicy", waiting(), 1), later, start + Duration::from_secs(40)).await;
    assert_eq!(fake.object(POLICY).unwrap()["status"]["proxies"]["applied"], 1);

    let done = vec![condition("Accepted", "True", "Accepted"), condition("Programmed", "True", "Programmed")];
    written.write(&client, &report("TrafficPolicy", done, 2), later, start + Duration::from_secs(41)).await;
    let status = fake.object(POLICY).unwrap()["status"].clone();
    let programmed = of_type(&status["conditions"], "Programmed");
    assert_eq!((&programmed["status"], &status["proxies"]["applied"]), (&json!("True"), &json!(2)));
    assert_eq!(of_type(&status["conditions"], "Accepted")["lastTransitionTime"], since, "it has not changed");
    assert_ne!(programmed["lastTransitionTime"], since);
}

#[tokio::test]
async fn what_is_so_already_is_not_written_again_by_the_next_leader() {
    let fake = Fake::start().await;
    fake.put(POLICY, json!({"metadata": {"name": "web", "generation": 3}, "spec": {}}));
    let (client, wall) = (fake.client(), SystemTime::now());
    for _ in 0..2 {
        let accepted = vec![condition("Accepted", "True", "Accepted")];
        Written::default().write(&client, &report("TrafficPolicy", accepted, 0), wall, Instant::now()).await;
    }
    let writes = fake.calls().iter().filter(|call| call.starts_with("PUT")).count();
    assert_eq!(writes, 1);
}

#[tokio::test]
async fn in_a_route_only_our_own_entries_are_ours() {
    let fake = Fake::start().await;
    let service = json!({"group": "", "kind": "Service", "name": "web"});
    let gateway = json!({"name": "front"});
    let theirs = json!({"parentRef": gateway, "controllerName": "example.com/gateway", "conditions": []});
    let stale = json!({"parentRef": {"name": "gone"}, "controllerName": "leno.dev/control-plane", "conditions": []});
    fake.put(
        ROUTE,
        json!({
            "metadata": {"name": "web", "generation": 3},
            "spec": {"parentRefs": [service, gateway]},
            "status": {"parents": [theirs, stale]},
        }),
    );
    let mut report = report("HTTPRoute", Vec::new(), 2);
    report.objects[0].parents = vec![ParentStatus {
        parent_ref: serde_json::from_value(service.clone()).unwrap(),
        conditions: vec![
            condition("Accepted", "True", "Accepted"),
            condition("leno.dev/Programmed", "True", "Programmed"),
        ],
    }];
    Written::default().write(&fake.client(), &report, SystemTime::now(), Instant::now()).await;
    let parents = fake.object(ROUTE).unwrap()["status"]["parents"].clone();
    assert_eq!(parents.as_array().unwrap().len(), 2, "{parents:#}");
    assert_eq!(parents[0], theirs);
    assert_eq!(parents[1]["parentRef"], service);
    let kinds: Vec<&Value> = parents[1]["conditions"].as_array().unwrap().iter().map(|one| &one["type"]).collect();
    assert_eq!(kinds, ["Accepted", "leno.dev/Programmed"]);
}

#[tokio::test]
async fn a_policy_that_has_changed_since_is_not_told_what_was_said_of_its_past() {
    let fake = Fake::start().await;
    fake.put(POLICY, json!({"metadata": {"name": "web", "generation": 4}, "spec": {}}));
    let (client, now) = (fake.client(), Instant::now());
    let accepted = || report("TrafficPolicy", vec![condition("Accepted", "True", "Accepted")], 0);
    let mut written = Written::default();
    written.write(&client, &accepted(), SystemTime::now(), now).await;
    assert_eq!(fake.object(POLICY).unwrap()["status"], Value::Null, "generation 3 was judged, and 4 is stored");
    fake.put(POLICY, json!({"metadata": {"name": "web", "generation": 3}, "spec": {}}));
    written.write(&client, &accepted(), SystemTime::now(), now).await;
    assert_ne!(fake.object(POLICY).unwrap()["status"], Value::Null, "nothing was taken for written");
}

#[tokio::test]
async fn what_is_in_force_does_not_flicker_when_it_is_compiled_anew() {
    let fake = Fake::start().await;
    fake.put(POLICY, json!({"metadata": {"name": "web", "generation": 3}, "spec": {}}));
    let (client, wall, start) = (fake.client(), SystemTime::now(), Instant::now());
    let at = |seconds| start + Duration::from_secs(seconds);
    let told = || fake.object(POLICY).unwrap()["status"]["conditions"][0]["status"].clone();
    let programmed = || report("TrafficPolicy", vec![condition("Programmed", "True", "Programmed")], 2);
    let lagging = || report("TrafficPolicy", vec![condition("Programmed", "False", "Reconciling")], 1);
    let mut written = Written::default();
    written.write(&client, &programmed(), wall, at(0)).await;
    written.write(&client, &lagging(), wall, at(1)).await;
    written.write(&client, &programmed(), wall, at(3)).await;
    written.write(&client, &lagging(), wall, at(4)).await;
    written.write(&client, &lagging(), wall, at(8)).await;
    assert_eq!(told(), "True");
    assert_eq!(fake.calls().iter().filter(|call| call.starts_with("PUT")).count(), 1);
    written.write(&client, &lagging(), wall, at(9)).await;
    assert_eq!(told(), "False", "it has lasted");
    written.write(&client, &programmed(), wall, at(10)).await;
    assert_eq!(told(), "True", "the way back is told at once");
}

#[tokio::test]
async fn a_route_that_is_not_ours_any_more_loses_our_entry_alone() {
    let fake = Fake::start().await;
    let theirs = json!({"parentRef": {"name": "front"}, "controllerName": "example.com/gateway", "conditions": []});
    let ours = json!({"parentRef": {"group": "", "kind": "Service", "name": "web"}, "controllerName": "leno.dev/control-plane", "conditions": []});
    let route = json!({
        "metadata": {"name": "web", "namespace": "shop", "generation": 3},
        "spec": {"parentRefs": [{"name": "front"}]},
        "status": {"parents": [theirs, ours]},
    });
    fake.put(ROUTE, route.clone());
    let mut world = World::default();
    world.apply(vec![Event::Applied(Object::decode(Kind::HttpRoute, route).unwrap().into())]);
    let report = crate::status::report(&Table::of(world, leno_proto::convert::encode), &[]);
    Written::default().write(&fake.client(), &report, SystemTime::now(), Instant::now()).await;
    assert_eq!(fake.object(ROUTE).unwrap()["status"]["parents"], json!([theirs]));
}

#[tokio::test]
async fn the_mesh_of_the_gateway_api_is_told_what_we_support_and_nobody_elses_is() {
    let fake = Fake::start().await;
    let (client, wall, start) = (fake.client(), SystemTime::now(), Instant::now());
    let at = |name: &str| format!("/apis/gateway.networking.x-k8s.io/v1alpha1/xmeshes/{name}");
    let mesh = |name: &str, controller: &str| json!({"metadata": {"name": name, "generation": 1}, "spec": {"controllerName": controller}});
    fake.put(&at("theirs"), mesh("theirs", "example.com/mesh"));
    fake.put(&at("ours"), mesh("ours", "leno.dev/control-plane"));
    let mut odd = mesh("odd", "leno.dev/control-plane");
    odd["spec"]["parametersRef"] = json!({"group": "", "kind": "ConfigMap", "name": "x"});
    fake.put(&at("odd"), odd);
    for turn in 0..2 {
        // Twice by another leader: what is so is not written again.
        Xmesh::default().keep(&client, "leno-system", wall, start + Duration::from_secs(turn)).await;
    }
    let status = |name: &str| fake.object(&at(name)).unwrap()["status"].clone();
    assert_eq!(status("theirs"), Value::Null);
    assert_eq!(of_type(&status("ours")["conditions"], "Accepted")["status"], "True");
    assert_eq!(status("ours")["supportedFeatures"].as_array().unwrap().len(), FEATURES.len());
    assert_eq!(of_type(&status("odd")["conditions"], "Accepted")["reason"], "InvalidParameters");
    assert_eq!(fake.calls().iter().filter(|call| call.starts_with("PUT")).count(), 2);
    assert!(FEATURES.is_sorted(), "the API demands it");
}

#[tokio::test]
async fn what_turns_bad_is_an_event() {
    let fake = Fake::start().await;
    fake.put(POLICY, json!({"metadata": {"name": "web", "uid": "u", "generation": 3}, "spec": {}}));
    let bad = || report("TrafficPolicy", vec![condition("Accepted", "False", "TargetNotFound")], 0);
    for _ in 0..2 {
        Written::default().write(&fake.client(), &bad(), SystemTime::now(), Instant::now()).await;
    }
    let events = fake.calls().iter().filter(|call| *call == "POST /api/v1/namespaces/shop/events").count();
    assert_eq!(events, 1, "once, not at every look");
}

#[tokio::test]
async fn anchors_are_kept_where_sidecars_are_and_hooks_know_them() {
    let fake = Fake::start().await;
    let hooks = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/leno-injector";
    let hook = |name: &str| json!({"name": name, "clientConfig": {"service": {"name": "leno-webhook"}}});
    fake.put(hooks, json!({"metadata": {"name": "leno-injector"}, "webhooks": [hook("a"), hook("b")]}));
    let mut world = World::default();
    let namespace = |name: &str, labels: Value| {
        let object = json!({"metadata": {"name": name, "labels": labels}});
        Event::Applied(Object::decode(Kind::Namespace, object).unwrap().into())
    };
    let asks = json!({"leno.dev/inject": "enabled"});
    world.apply(vec![namespace("shop", asks), namespace("quiet", json!({})), namespace("one-pod", json!({}))]);
    let pod = json!({
        "metadata": {"name": "web", "namespace": "one-pod", "annotations": {"leno.dev/inject": "enabled"}},
        "spec": {"containers": [{"name": "web"}]},
    });
    world.apply(vec![Event::Applied(Object::decode(Kind::Pod, pod).unwrap().into())]);
    let map = |namespace: &str| fake.object(&format!("/api/v1/namespaces/{namespace}/configmaps/leno-trust"));
    let (client, start) = (fake.client(), Instant::now());
    let mut kept = Kept::default();
    for (anchors, seconds) in [("first", 0), ("second", 1)] {
        kept.keep(&client, &world, anchors, start + Duration::from_secs(seconds)).await;
        for namespace in ["shop", "one-pod"] {
            assert_eq!(map(namespace).unwrap()["data"]["anchor.pem"], anchors, "{namespace}");
        }
        assert!(map("quiet").is_none());
    }
    let patches = || fake.calls().iter().filter(|call| **call == format!("PATCH {hooks}")).count();
    assert_eq!(patches(), 2, "once for each");
    let calls = fake.calls().len();
    kept.keep(&client, &world, "second", start + Duration::from_secs(2)).await;
    assert_eq!(fake.calls().len(), calls, "what is so is not even looked at");
}
