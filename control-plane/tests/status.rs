//! What users are told of an object while proxies take it up: counted by what they said, never by what was sent.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use leno_control_plane::reconcile::Reconciler;
use leno_control_plane::reconcile::Table;
use leno_control_plane::source::Directory;
use leno_control_plane::status;
use leno_control_plane::status::Proxies;
use leno_control_plane::status::Proxy;
use leno_control_plane::status::Report;
use leno_proto::convert;
use leno_proto::hash::Hash;
use leno_proto::key::Key;

const MANIFESTS: &str = "
apiVersion: v1
kind: Service
metadata: {name: orders, namespace: shop}
spec: {selector: {app: orders}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: orders-0, namespace: shop, uid: orders-uid, labels: {app: orders}, annotations: {leno.dev/inject: enabled}}
spec: {serviceAccountName: orders}
status: {podIP: 10.1.0.1}
---
apiVersion: policy.leno.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: orders, namespace: shop}
spec: {targetRefs: [{kind: Service, name: orders}], timeouts: {request: 1s}}
---
apiVersion: policy.leno.dev/v1alpha1
kind: AccessPolicy
metadata: {name: orders, namespace: shop}
spec: {action: Allow, rules: [{sources: [{namespaces: [shop]}]}]}
";

const POD: [&str; 3] = [
    "---\napiVersion: v1\nkind: Pod\nmetadata: {name: cart-",
    ", namespace: shop, uid: cart-",
    ", annotations: {leno.dev/inject: enabled}}\nspec: {serviceAccountName: cart}\nstatus: {podIP: 10.1.0.9}\n",
];

fn table() -> Arc<Table> {
    table_of(MANIFESTS)
}

fn table_of(manifests: &str) -> Arc<Table> {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let folder = std::env::temp_dir().join(format!("leno-status-{}-{number}", std::process::id()));
    // A process of the same number that was killed may have left one.
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("in.yaml"), manifests).unwrap();
    let batch = Directory::open(folder.clone(), None).unwrap().look(SystemTime::now()).unwrap();
    fs::remove_dir_all(folder).unwrap();
    Reconciler::new(convert::encode).take(batch)
}

fn outbound() -> Key {
    Key::parse(2, "shop/orders@default").unwrap()
}

fn proxy(name: &str, table: &Table, key: &Key) -> Proxy {
    let hash = table.entry(key, "shop").unwrap().hash;
    Proxy {
        uid: format!("{name}-uid"),
        pod: format!("shop/{name}"),
        namespace: "shop".to_owned(),
        connected: true,
        applied: [(key.clone(), hash)].into(),
        ..Proxy::default()
    }
}

fn told(report: &Report, kind: &str) -> (String, Proxies) {
    let object = report.objects.iter().find(|object| object.kind == kind).unwrap();
    let programmed = object.conditions.iter().find(|condition| condition.kind == "Programmed").unwrap();
    (format!("{} {} {}", programmed.status, programmed.reason, programmed.message), object.proxies)
}

fn counts(selected: usize, applied: usize, rejected: usize, disconnected: usize) -> Proxies {
    Proxies { selected, applied, rejected, disconnected }
}

#[test]
fn a_policy_that_nobody_uses_is_programmed() {
    let table = table();
    let (text, proxies) = told(&status::report(&table, &[]), "TrafficPolicy");
    assert_eq!(text, "True Programmed no client uses it yet");
    assert_eq!(proxies, counts(0, 0, 0, 0));
}

#[test]
fn every_proxy_that_uses_it_must_have_applied_its_present_version() {
    let table = table();
    let current = proxy("web-0", &table, &outbound());
    let mut behind = proxy("web-1", &table, &outbound());
    let all = [current.clone(), proxy("web-1", &table, &outbound())];
    let (text, proxies) = told(&status::report(&table, &all), "TrafficPolicy");
    assert_eq!((text.as_str(), proxies), ("True Programmed applied in 2 of 2 proxies", counts(2, 2, 0, 0)));

    behind.applied.insert(outbound(), Hash::of(b"an earlier version"));
    let (text, proxies) = told(&status::report(&table, &[current.clone(), behind.clone()]), "TrafficPolicy");
    assert_eq!(text, "False Reconciling applied in 1 of 2 proxies; waiting for shop/web-1");
    assert_eq!(proxies, counts(2, 1, 0, 0));

    let hash = table.entry(&outbound(), "shop").unwrap().hash;
    behind.rejected.insert(outbound(), (hash, "ports[0] cannot be".to_owned()));
    let (text, proxies) = told(&status::report(&table, &[current, behind]), "TrafficPolicy");
    assert_eq!(text, "False Rejected shop/web-1: ports[0] cannot be");
    assert_eq!(proxies, counts(2, 1, 1, 0));
}

#[test]
fn a_meshed_pod_without_a_session_holds_back_what_selects_it() {
    let table = table();
    let (text, proxies) = told(&status::report(&table, &[]), "AccessPolicy");
    assert_eq!(text, "False Reconciling applied in 0 of 1 proxies; waiting for shop/orders-0");
    assert_eq!(proxies, counts(1, 0, 0, 1));
    let present = proxy("orders", &table, &Key::Inbound("orders-uid".into()));
    let (text, proxies) = told(&status::report(&table, &[present]), "AccessPolicy");
    assert_eq!((text.as_str(), proxies), ("True Programmed applied in 1 of 1 proxies", counts(1, 1, 0, 0)));
}

#[test]
fn the_text_names_what_needs_attention() {
    let text = status::report(&table(), &[]).text();
    assert!(text.contains("ok        TrafficPolicy shop/orders  generation 1"), "{text}");
    assert!(text.contains("ATTENTION AccessPolicy"), "{text}");
}

#[test]
fn a_proxy_that_lost_its_session_is_disconnected_in_every_view_until_its_pod_is_gone() {
    let table = table();
    let mut lost = proxy("orders", &table, &outbound());
    lost.connected = false;
    let report = status::report(&table, &[lost.clone(), proxy("web-0", &table, &outbound())]);
    let (text, proxies) = told(&report, "TrafficPolicy");
    assert_eq!(text, "False Reconciling applied in 1 of 2 proxies; waiting for shop/orders");
    assert_eq!(proxies, counts(2, 1, 0, 1));
    assert_eq!((report.sidecars.connected, report.sidecars.disconnected), (1, 1));
    let json: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
    assert_eq!(json["sidecars"]["named"], serde_json::json!(["shop/orders"]));
    let text = report.text();
    assert!(text.starts_with("sidecars  1 connected, 1 disconnected: shop/orders\n"), "{text}");
    assert!(text.contains("TrafficPolicy shop/orders  generation 1, applied in 1 of 2, 1 disconnected\n"), "{text}");
    // No Pod has this uid any more: it left with it.
    lost.uid = "gone".to_owned();
    let (text, proxies) = told(&status::report(&table, &[lost]), "TrafficPolicy");
    assert_eq!((text.as_str(), proxies), ("True Programmed no client uses it yet", counts(0, 0, 0, 0)));
}

#[test]
fn five_of_many_are_named() {
    let pods: String = (0..7).map(|n| format!("{}{n}{}{n}{}", POD[0], POD[1], POD[2])).collect();
    let report = status::report(&table_of(&format!("{MANIFESTS}{pods}")), &[]);
    assert_eq!((report.sidecars.disconnected, report.sidecars.named.len()), (8, 5));
    let text = report.text();
    let first = text.lines().next().unwrap();
    assert!(first.ends_with("shop/cart-0, shop/cart-1, shop/cart-2, shop/cart-3, shop/cart-4 and 3 more"), "{first}");
    let (text, _) = told(&report, "AccessPolicy");
    assert!(text.ends_with("and 3 more"), "{text}");
}

#[test]
fn what_proxies_do_not_act_on_is_told_of_the_object_that_asks_for_it() {
    let warmup = "timeouts: {request: 1s}, connection: {warmup: {connectRate: 9}}";
    let table = table_of(&MANIFESTS.replace("timeouts: {request: 1s}", warmup));
    let warnings = |report: &Report, kind: &str| {
        let object = report.objects.iter().find(|object| object.kind == kind).unwrap();
        object.conditions.iter().find(|condition| condition.kind == "Warnings").unwrap().message.clone()
    };
    let mut old = proxy("web-0", &table, &outbound());
    let fields = ["traffic.connection.warmup.connectRate", "traffic.mode"].map(str::to_owned);
    old.unsupported.insert(outbound(), fields.to_vec());
    let new = proxy("web-1", &table, &outbound());
    let told = warnings(&status::report(&table, &[old.clone(), new.clone()]), "TrafficPolicy");
    assert!(
        told.starts_with("Unsupported: connection.warmup.connectRate: 1 of 2 proxies do not act on it ("),
        "{told}"
    );
    assert!(!told.contains("mode"), "another object set that: {told}");
    assert_eq!(warnings(&status::report(&table, &[old, new.clone()]), "AccessPolicy"), "");
    assert_eq!(warnings(&status::report(&table, &[new]), "TrafficPolicy"), "", "every proxy acts on it");
}

#[test]
fn what_policies_say_together_is_warned_of_with_a_code_and_a_remedy() {
    let lower = "
---
apiVersion: policy.leno.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: all, namespace: shop}
spec: {targetRefs: [{kind: Namespace, name: shop}], timeouts: {perTry: 800ms}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: slow, namespace: shop}
spec:
  parentRefs: [{kind: Service, group: '', name: orders}]
  rules: [{timeouts: {request: 1s}, backendRefs: [{name: orders, port: 80}]}]
";
    let report = status::report(&table_of(&format!("{MANIFESTS}{lower}")), &[]);
    let warnings = |name: &str| {
        let object = report.objects.iter().find(|object| object.name == name && object.kind != "AccessPolicy").unwrap();
        object.conditions.iter().find(|condition| condition.kind == "Warnings").unwrap().message.clone()
    };
    let expected = "RETRIES_CUT_SHORT timeouts.request: 3 tries of 800ms take 2400ms, and the request ends after 1s \
                    (shorten perTry, lower attempts or lengthen request), on Service shop/orders port 80";
    assert_eq!(warnings("orders"), expected);
    assert_eq!(warnings("all"), expected, "whoever set one of the fields is told");
    assert!(warnings("slow").ends_with("on rule 0 of HTTPRoute shop/slow"), "{}", warnings("slow"));
}

#[test]
fn what_is_refused_is_not_called_programmed_and_each_parent_is_told_its_own() {
    let more = "
---
apiVersion: policy.leno.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: lost, namespace: shop, generation: 4}
spec: {targetRefs: [{kind: Service, name: nowhere}], timeouts: {request: 1s}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: two, namespace: shop, generation: 5}
spec:
  parentRefs: [{kind: Service, group: '', name: orders}, {kind: Service, group: '', name: nowhere}]
  rules: [{backendRefs: [{name: orders, port: 80}]}]
";
    let report = status::report(&table_of(&format!("{MANIFESTS}{more}")), &[]);
    let object = |name: &str| report.objects.iter().find(|object| object.name == name).unwrap();
    let lost = object("lost").conditions.iter().find(|condition| condition.kind == "Programmed").unwrap();
    assert_eq!((lost.status, lost.reason, lost.observed_generation), ("False", "NotAccepted", 4));
    let said: Vec<String> = object("two")
        .parents
        .iter()
        .map(|parent| {
            let all =
                parent.conditions.iter().map(|one| format!("{}={} {}", one.kind, one.status, one.observed_generation));
            format!("{}: {}", parent.parent_ref.name, all.collect::<Vec<_>>().join(", "))
        })
        .collect();
    assert_eq!(
        said,
        [
            "orders: Accepted=True 5, ResolvedRefs=True 5, leno.dev/Programmed=True 5",
            "nowhere: Accepted=False 5, ResolvedRefs=True 5, leno.dev/Programmed=False 5",
        ]
    );
}
