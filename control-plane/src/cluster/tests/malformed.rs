//! Objects that no schema has stopped: whatever a user or a newer API server stores, it is judged alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use leno_proto::convert;
use leno_proto::key::Key;
use leno_proto::policy::Resource;
use proptest::prelude::*;
use serde_json::Value;
use serde_json::json;
use tokio::time::Instant;

use crate::cluster::gather::Gathered;
use crate::cluster::gather::Read;
use crate::index::World;
use crate::kube::watch::News;
use crate::object::Kind;
use crate::object::Name;
use crate::object::ObjectId;
use crate::reconcile::Entry;
use crate::reconcile::Table;
use crate::source::Refused;
use crate::status;
use crate::status::ObjectStatus;
use crate::status::Report;

/// A small mesh in which everything is used: what is in it must not care what else there is.
fn mesh() -> Vec<(Kind, Value)> {
    let service = |name: &str, address: &str| json!({"metadata": {"name": name, "namespace": "shop"}, "spec": {"clusterIP": address, "selector": {"app": name}, "ports": [{"name": "main", "port": 80, "targetPort": 8080}]}});
    let pod = |name: &str, address: &str| {
        json!({
            "metadata": {"name": name, "namespace": "shop", "uid": format!("{name}-uid"), "labels": {"app": name}, "annotations": {"leno.dev/inject": "enabled"}},
            "spec": {"serviceAccountName": name, "containers": [{"name": "app", "ports": [{"containerPort": 8080}]}]},
            "status": {"podIP": address, "conditions": [{"type": "Ready", "status": "True"}]},
        })
    };
    let slice = |name: &str, address: &str| {
        json!({
            "metadata": {"name": name, "namespace": "shop", "labels": {"kubernetes.io/service-name": name}},
            "ports": [{"name": "main", "port": 8080}],
            "endpoints": [{"addresses": [address], "targetRef": {"kind": "Pod", "name": name}}],
        })
    };
    let mut all = vec![
        (Kind::Namespace, json!({"metadata": {"name": "shop"}})),
        (
            Kind::Mesh,
            json!({"metadata": {"name": "default"}, "spec": {"meshNetworks": ["10.0.0.0/8"], "defaultAccess": "Deny"}}),
        ),
    ];
    for (name, virtual_ip, ip) in [("catalog", "10.96.0.10", "10.1.0.1"), ("other", "10.96.0.11", "10.1.0.2")] {
        all.extend([
            (Kind::Service, service(name, virtual_ip)),
            (Kind::Pod, pod(name, ip)),
            (Kind::EndpointSlice, slice(name, ip)),
        ]);
    }
    all.extend(valid("good"));
    all
}

/// One of every kind that users write, each about what `mesh` holds.
fn valid(name: &str) -> Vec<(Kind, Value)> {
    let object = |spec: Value| json!({"metadata": {"name": name, "namespace": "shop", "generation": 1}, "spec": spec});
    vec![
        (
            Kind::TrafficPolicy,
            object(json!({
                "targetRefs": [{"group": "", "kind": "Service", "name": "catalog", "sectionName": "main"}],
                "timeouts": {"request": "5s", "perTry": "1s"},
                "retries": {"attempts": 2, "retryOn": ["ConnectFailure", 503], "backoff": {"base": "20ms", "max": "1s"}},
                "connection": {"maxConnections": 10},
                "rateLimit": {"requestsPerSecond": 100},
            })),
        ),
        (
            Kind::InboundPolicy,
            object(json!({
                "workloads": {"selector": {"matchLabels": {"app": "catalog"}}, "ports": [8080]},
                "tls": {"mode": "Strict"},
                "app": {"maxConnections": 8, "acquireTimeout": "2s"},
            })),
        ),
        (
            Kind::AccessPolicy,
            object(json!({
                "workloads": {"selector": {"matchLabels": {"app": "catalog"}}},
                "action": "Allow",
                "rules": [{"sources": [{"namespaces": ["shop"]}, {"cidrs": ["10.0.0.0/8"]}, {"spiffe": ["spiffe://cluster.local/ns/shop/sa/other"]}], "methods": ["GET"], "paths": ["/items*"], "ports": [8080]}],
            })),
        ),
        (
            Kind::EgressHost,
            object(json!({"hostnames": ["api.example.org"], "ports": [{"port": 443, "protocol": "TLS"}]})),
        ),
        (
            Kind::HttpRoute,
            object(json!({
                "parentRefs": [{"group": "", "kind": "Service", "name": "catalog", "port": 80}],
                "rules": [{
                    "name": "one",
                    "matches": [{"path": {"type": "PathPrefix", "value": "/a"}, "method": "GET", "headers": [{"name": "X-A", "value": "b"}], "queryParams": [{"name": "q", "type": "RegularExpression", "value": "x+"}]}],
                    "filters": [
                        {"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "X-B", "value": "c"}], "remove": ["X-C"]}},
                        {"type": "RequestMirror", "requestMirror": {"percent": 5, "backendRef": {"name": "other", "port": 80}}},
                    ],
                    "backendRefs": [{"name": "catalog", "port": 80, "weight": 9}, {"name": "other", "port": 80, "weight": 1}],
                    "timeouts": {"request": "3s", "backendRequest": "1s"},
                    "retry": {"attempts": 2, "codes": [503], "backoff": "10ms"},
                }, {
                    "filters": [{"type": "RequestRedirect", "requestRedirect": {"scheme": "https", "hostname": "a.example", "port": 8443, "statusCode": 302, "path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/n"}}}],
                }],
            })),
        ),
        (
            Kind::GrpcRoute,
            object(json!({
                "parentRefs": [{"group": "", "kind": "Service", "name": "other"}],
                "rules": [{"matches": [{"method": {"service": "a.B", "method": "C"}}], "backendRefs": [{"name": "other", "port": 80}]}],
            })),
        ),
        (
            Kind::TcpRoute,
            object(json!({
                "parentRefs": [{"group": "", "kind": "Service", "name": "other"}],
                "rules": [{"backendRefs": [{"name": "catalog", "port": 80, "weight": 3}]}],
            })),
        ),
    ]
}

/// What proxies are sent, of everything that `mesh` holds.
fn keys() -> Vec<Key> {
    let named = [
        (1, "10.96.0.10:80"),
        (1, "10.1.0.1:8080"),
        (2, "shop/catalog@default"),
        (2, "shop/other@default"),
        (2, "shop/catalog@buyer"),
        (3, "shop/catalog:80/0"),
        (4, "catalog-uid"),
        (4, "other-uid"),
        (6, "mesh"),
        (7, "mesh"),
    ];
    named
        .into_iter()
        .map(|(kind, name)| Key::parse(kind, name).unwrap_or_else(|_| panic!("no key {kind} {name}")))
        .collect()
}

/// The source of a cluster and the world behind it.
struct Cluster {
    gathered: Gathered,
    world: World,
    refused: Arc<[Refused]>,
}

impl Cluster {
    fn new() -> Cluster {
        let mut one = Cluster { gathered: Gathered::new([]), world: World::default(), refused: Arc::from([]) };
        for (kind, object) in mesh() {
            one.store(kind, object);
        }
        assert!(one.refused.is_empty(), "{:?}", one.refused);
        one
    }

    fn store(&mut self, kind: Kind, object: Value) {
        self.hear(kind, News::Applied(Read::object(kind, object)));
    }

    fn remove(&mut self, kind: Kind, object: Value) {
        self.hear(kind, News::Deleted(Read::object(kind, object)));
    }

    fn hear(&mut self, kind: Kind, news: News<Read>) {
        self.gathered.take(kind, news, Instant::now());
        let Some(batch) = self.gathered.batch() else { return };
        self.world.apply(batch.events);
        self.refused = batch.refused;
    }

    /// As bytes, which every proxy must be able to read.
    fn compiled(&self) -> BTreeMap<Key, Option<Arc<Entry>>> {
        let table = Table::of(self.world.clone(), convert::encode);
        let entry = |key: Key| {
            let entry = table.entry(&key, "shop");
            if let Some(entry) = &entry {
                let read = Resource::decode(&entry.bytes);
                assert!(read.is_ok(), "no proxy could read {key}: {read:?}");
            }
            (key, entry)
        };
        keys().into_iter().map(entry).collect()
    }

    fn bytes(&self) -> BTreeMap<Key, Option<Bytes>> {
        self.compiled().into_iter().map(|(key, entry)| (key, entry.map(|entry| entry.bytes.clone()))).collect()
    }

    fn report(&self) -> Report {
        status::report(&Table::of(self.world.clone(), convert::encode), &[])
    }

    fn refuses(&self, id: &ObjectId) -> bool {
        let name = id.to_string();
        self.refused.iter().any(|one| one.object.as_deref() == Some(name.as_str()))
    }
}

fn id(kind: Kind, object: &Value) -> ObjectId {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    let namespace = if kind.namespaced() { text("namespace") } else { String::new() };
    ObjectId { kind, name: Name::new(&namespace, &text("name")) }
}

fn told<'r>(report: &'r Report, id: &ObjectId) -> Option<&'r ObjectStatus> {
    report.objects.iter().find(|one| one.kind == id.kind.as_str() && one.name == *id.name.name)
}

/// A spec that must be without any effect, and be told so.
fn corpus() -> Vec<(Kind, &'static str, Value)> {
    let service = || json!([{"group": "", "kind": "Service", "name": "catalog"}]);
    let parent = || json!([{"group": "", "kind": "Service", "name": "catalog"}]);
    let huge = || "x".repeat(300_000);
    let deep = || (0..100).fold(json!(1), |inner, _| json!([inner]));
    vec![
        (Kind::TrafficPolicy, "no-spec", Value::Null),
        (Kind::TrafficPolicy, "list", json!([1, 2])),
        (Kind::TrafficPolicy, "no-targets", json!({"targetRefs": [], "timeouts": {"request": "1s"}})),
        (
            Kind::TrafficPolicy,
            "many-targets",
            json!({"targetRefs": vec![service()[0].clone(); 17], "timeouts": {"request": "1s"}}),
        ),
        (Kind::TrafficPolicy, "number", json!({"targetRefs": service(), "timeouts": {"request": 5}})),
        (Kind::TrafficPolicy, "unit", json!({"targetRefs": service(), "timeouts": {"request": "5 parsecs"}})),
        (Kind::TrafficPolicy, "negative", json!({"targetRefs": service(), "retries": {"attempts": -1}})),
        (Kind::TrafficPolicy, "far-out", json!({"targetRefs": service(), "retries": {"attempts": 1_000_000_000u64}})),
        (Kind::TrafficPolicy, "float", json!({"targetRefs": service(), "connection": {"maxConnections": 1e300}})),
        (Kind::TrafficPolicy, "unknown", json!({"targetRefs": service(), "timeout": {"request": "1s"}})),
        (Kind::TrafficPolicy, "huge", json!({"targetRefs": service(), "timeouts": {"request": huge()}})),
        (Kind::TrafficPolicy, "deep", json!({"targetRefs": service(), "timeouts": deep()})),
        (
            Kind::TrafficPolicy,
            "dangling",
            json!({"targetRefs": [{"group": "", "kind": "Service", "name": "nowhere"}], "timeouts": {"request": "1s"}}),
        ),
        (
            Kind::TrafficPolicy,
            "no-section",
            json!({"targetRefs": [{"group": "", "kind": "Service", "name": "catalog", "sectionName": "none"}], "timeouts": {"request": "1s"}}),
        ),
        (
            Kind::TrafficPolicy,
            "mesh",
            json!({"targetRefs": [{"group": "policy.leno.dev", "kind": "Mesh", "name": "default"}], "timeouts": {"request": "1s"}}),
        ),
        (
            Kind::TrafficPolicy,
            "foreign-namespace",
            json!({"targetRefs": [{"group": "", "kind": "Namespace", "name": "buyer"}], "timeouts": {"request": "1s"}}),
        ),
        (
            Kind::TrafficPolicy,
            "foreign-host",
            json!({"targetRefs": [{"group": "policy.leno.dev", "kind": "EgressHost", "name": "good", "namespace": "buyer"}], "timeouts": {"request": "1s"}}),
        ),
        (
            Kind::TrafficPolicy,
            "kind",
            json!({"targetRefs": [{"group": "apps", "kind": "Deployment", "name": "catalog"}], "timeouts": {"request": "1s"}}),
        ),
        (
            Kind::TrafficPolicy,
            "contradiction",
            json!({"targetRefs": service(), "strategy": "PatchOverrides", "timeouts": {"request": "1s"}}),
        ),
        (
            Kind::TrafficPolicy,
            "younger",
            json!({"targetRefs": [{"group": "", "kind": "Service", "name": "catalog", "sectionName": "main"}], "timeouts": {"request": "9s"}}),
        ),
        (Kind::InboundPolicy, "mode", json!({"workloads": {}, "tls": {"mode": "Perhaps"}})),
        (Kind::InboundPolicy, "port-0", json!({"workloads": {"ports": [0]}, "tls": {"mode": "Off"}})),
        (Kind::InboundPolicy, "port-70000", json!({"workloads": {"ports": [70_000]}, "tls": {"mode": "Off"}})),
        (Kind::InboundPolicy, "unknown", json!({"workloads": {}, "tsl": {"mode": "Off"}})),
        (Kind::InboundPolicy, "deep", json!({"workloads": deep(), "tls": {"mode": "Off"}})),
        (Kind::EgressHost, "nothing", json!({"hostnames": [], "ports": []})),
        (Kind::EgressHost, "port", json!({"hostnames": ["a.example"], "ports": [{"port": 0}]})),
        (Kind::EgressHost, "name", json!({"hostnames": ["a b\r\nc"], "ports": [{"port": 443}]})),
        (
            Kind::EgressHost,
            "cluster",
            json!({"hostnames": ["a.example"], "ports": [{"port": 443}], "visibility": "Cluster"}),
        ),
        (
            Kind::HttpRoute,
            "port",
            json!({"parentRefs": [{"group": "", "kind": "Service", "name": "catalog", "port": 70_000}], "rules": []}),
        ),
        (
            Kind::HttpRoute,
            "no-port",
            json!({"parentRefs": [{"group": "", "kind": "Service", "name": "catalog", "port": 81}], "rules": [{}]}),
        ),
        (
            Kind::HttpRoute,
            "dangling",
            json!({"parentRefs": [{"group": "", "kind": "Service", "name": "nowhere"}], "rules": [{}]}),
        ),
        (Kind::HttpRoute, "rules", json!({"parentRefs": parent(), "rules": "all"})),
        (
            Kind::HttpRoute,
            "pattern",
            json!({"parentRefs": parent(), "rules": [{"matches": [{"path": {"type": "RegularExpression", "value": "(("}}]}]}),
        ),
        (
            Kind::HttpRoute,
            "foreign-kind",
            json!({"parentRefs": parent(), "rules": [{"matches": [{"path": {"type": "Suffix", "value": "/a"}}]}]}),
        ),
        (Kind::GrpcRoute, "list", json!([parent()])),
        (
            Kind::TcpRoute,
            "younger",
            json!({"parentRefs": [{"group": "", "kind": "Service", "name": "other"}], "rules": [{"backendRefs": [{"name": "other", "port": 80}]}]}),
        ),
        (Kind::Mesh, "second", json!({"meshNetworks": ["0.0.0.0/0"], "defaultAccess": "Allow"})),
    ]
}

#[test]
fn what_is_malformed_says_so_and_changes_no_byte_for_others() {
    let mut cluster = Cluster::new();
    let before = cluster.bytes();
    for (kind, name, spec) in corpus() {
        let object = json!({"metadata": {"name": format!("bad-{name}"), "namespace": "shop", "generation": 1, "creationTimestamp": "2026-06-01T00:00:00Z"}, "spec": spec});
        let id = id(kind, &object);
        cluster.store(kind, object.clone());
        assert!(cluster.bytes() == before, "{id} changes what others get");
        let report = cluster.report();
        let refused = cluster.refuses(&id);
        let says = told(&report, &id).is_some_and(|one| {
            let all = one.conditions.iter().chain(one.parents.iter().flat_map(|parent| &parent.conditions));
            all.into_iter().any(|one| ["Accepted", "ResolvedRefs"].contains(&one.kind) && one.status == "False")
        });
        assert!(refused || says, "{id} is told nothing");
        cluster.remove(kind, object);
        assert!(cluster.bytes() == before && !cluster.refuses(&id), "{id} leaves something behind");
    }
}

#[test]
fn a_mesh_that_cannot_be_read_leaves_the_one_that_could_in_force() {
    let mut cluster = Cluster::new();
    let before = cluster.bytes();
    for spec in [
        json!({"defaultAccess": "Perhaps"}),
        json!({"meshNetworks": ["everything"]}),
        json!([]),
        json!({"defaults": {"traffic": {"timeouts": {"request": "never"}}}}),
    ] {
        cluster.store(Kind::Mesh, json!({"metadata": {"name": "default"}, "spec": spec}));
        assert!(cluster.bytes() == before, "{spec} opens what was closed");
        assert!(cluster.refuses(&id(Kind::Mesh, &json!({"metadata": {"name": "default"}}))), "{spec}");
    }
}

#[test]
fn circles_end() {
    let mut cluster = Cluster::new();
    let before = cluster.bytes();
    let alias = |name: &str, of: &str| json!({"metadata": {"name": name, "namespace": "shop"}, "spec": {"type": "ExternalName", "externalName": format!("{of}.shop.svc.cluster.local"), "ports": [{"port": 80}]}});
    let route = |name: &str, from: &str, to: &str| json!({"metadata": {"name": name, "namespace": "round"}, "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": from}], "rules": [{"backendRefs": [{"name": to, "port": 80}]}]}});
    let service = |name: &str| json!({"metadata": {"name": name, "namespace": "round"}, "spec": {"clusterIP": "10.96.9.9", "ports": [{"port": 80}]}});
    cluster.store(Kind::Service, alias("a", "b"));
    cluster.store(Kind::Service, alias("b", "a"));
    cluster.store(Kind::Service, alias("self", "self"));
    for (name, from, to) in [("ab", "one", "two"), ("ba", "two", "one"), ("own", "three", "three")] {
        cluster.store(Kind::Service, service(from));
        cluster.store(Kind::HttpRoute, route(name, from, to));
    }
    assert!(cluster.bytes() == before);
    let table = Table::of(cluster.world.clone(), convert::encode);
    let roots = ["shop/a", "shop/b", "shop/self", "round/one", "round/two", "round/three"];
    let roots: Vec<Key> = roots.iter().map(|name| Key::parse(2, &format!("{name}@default")).unwrap()).collect();
    assert!(table.closure(&roots, "round").len() >= roots.len());
    cluster.report();
}

/// What stands in the place of a field.
fn evil() -> Vec<Value> {
    vec![
        Value::Null,
        json!(true),
        json!(-1),
        json!(0),
        json!(65_536),
        json!(4_294_967_296u64),
        json!(1e300),
        json!(""),
        json!("x".repeat(70_000)),
        json!("a\r\nset-cookie: b"),
        json!("\u{0}"),
        json!("../.."),
        json!("99999999h"),
        json!("0s"),
        json!("(((("),
        json!([]),
        json!({}),
        (0..60).fold(json!(1), |inner, _| json!([inner])),
        Value::Array(vec![json!({}); 3000]),
        Value::Array(vec![json!("a"); 3000]),
    ]
}

/// Every place in an object's spec, the spec itself included.
fn places(value: &Value, at: &str, out: &mut Vec<String>) {
    out.push(at.to_owned());
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, one)| places(one, &format!("{at}/{name}"), out)),
        Value::Array(all) => all.iter().enumerate().for_each(|(index, one)| places(one, &format!("{at}/{index}"), out)),
        _ => {}
    }
}

/// Whoever is not named as a source of a resource has no part in a byte of it, and whoever is refused is no source.
fn alone(cluster: &mut Cluster, before: &BTreeMap<Key, Option<Bytes>>, kind: Kind, object: Value) {
    let id = id(kind, &object);
    cluster.store(kind, object.clone());
    // What of an AccessPolicy cannot be read refuses: its own workloads are no others.
    let refused = cluster.refuses(&id) && kind != Kind::AccessPolicy;
    for (key, entry) in cluster.compiled() {
        let own = entry.as_ref().is_some_and(|entry| entry.sources.contains(&id));
        assert!(!(own && refused), "{id} is refused and in force in {key}: {object}");
        let same = entry.map(|entry| entry.bytes.clone()) == before[&key];
        assert!(own || same, "{id} changes {key} and is no source of it: {object}");
    }
    cluster.report();
    cluster.remove(kind, object);
}

#[test]
fn any_one_field_gone_wrong_is_its_own_objects_alone() {
    let mut cluster = Cluster::new();
    let before = cluster.bytes();
    for (kind, object) in valid("odd") {
        let mut all = Vec::new();
        places(&object["spec"], "/spec", &mut all);
        for place in all {
            for value in evil() {
                let mut object = object.clone();
                *object.pointer_mut(&place).unwrap() = value;
                alone(&mut cluster, &before, kind, object);
            }
            assert!(cluster.bytes() == before, "{place} of a {kind:?} leaves something behind");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn fields_gone_wrong_together_are_their_own_objects_alone(kind in 0..7usize, wrongs in prop::collection::vec((any::<usize>(), any::<usize>()), 2..4)) {
        let mut cluster = Cluster::new();
        let before = cluster.bytes();
        let (kind, mut object) = valid("odd").swap_remove(kind);
        for (place, value) in wrongs {
            let mut all = Vec::new();
            places(&object["spec"], "/spec", &mut all);
            let values = evil();
            let place = object.pointer_mut(&all[place % all.len()]).unwrap();
            *place = values[value % values.len()].clone();
        }
        alone(&mut cluster, &before, kind, object);
        prop_assert!(cluster.bytes() == before);
    }
}
