//! Cases of compiling: folders of `in.yaml` (manifests, with `# compile: KIND NAME` lines) and `out.yaml` (what comes of them).
//! `UPDATE=1 cargo test -p leno-control-plane --test compile` rewrites the second; read the difference before committing it.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::time::SystemTime;

use leno_control_plane::compile::compile;
use leno_control_plane::index::Base;
use leno_control_plane::index::World;
use leno_control_plane::object::Event;
use leno_control_plane::object::Kind;
use leno_control_plane::object::Object;
use leno_control_plane::object::gateway::ParentRef;
use leno_control_plane::push::ledger::Change;
use leno_control_plane::push::ledger::Ledger;
use leno_control_plane::push::ledger::Scope;
use leno_control_plane::reconcile::Reconciler;
use leno_control_plane::reconcile::Table;
use leno_control_plane::source::Batch;
use leno_control_plane::source::Directory;
use leno_control_plane::status;
use leno_proto::convert;
use leno_proto::key::Key;
use leno_proto::policy::Backend;
use leno_proto::policy::Destination;
use leno_proto::policy::InboundTraffic;
use leno_proto::policy::OutboundPort;
use leno_proto::policy::Resource;
use leno_proto::policy::Traffic;
use serde_json::Value;
use serde_json::json;

const KINDS: [&str; 8] =
    ["destination", "outbound", "endpoints", "inbound", "trust-bundle", "proxy-config", "egress-index", "share"];

#[test]
fn every_case_compiles_to_what_is_written_down() {
    let update = std::env::var_os("UPDATE").is_some();
    let mut wrong = Vec::new();
    let mut cases = 0;
    for case in folders() {
        cases += 1;
        let out = rendered(&case);
        let path = case.join("out.yaml");
        if update {
            fs::write(&path, &out).unwrap();
        } else if fs::read_to_string(&path).unwrap_or_default() != out {
            wrong.push(format!("{}:\n{out}", case.display()));
        }
    }
    assert!(wrong.is_empty(), "differs from out.yaml:\n{}", wrong.join("\n"));
    assert!(cases >= 20, "only {cases} cases");
}

#[test]
fn the_order_of_events_does_not_matter() {
    for case in folders() {
        let (batch, keys) = read(&case);
        let mut forward = World::default();
        forward.apply(batch.events.clone());
        let mut backward = World::default();
        for event in batch.events.into_iter().rev() {
            backward.apply(vec![event]);
        }
        for key in keys {
            assert_eq!(compile(&forward, &key), compile(&backward, &key), "{key} of {}", case.display());
        }
    }
}

#[test]
fn what_is_remembered_is_what_would_be_compiled_anew() {
    for case in folders() {
        let (batch, keys) = read(&case);
        let mut reconciler = Reconciler::new(convert::encode);
        let mut world = World::default();
        // Objects arrive one by one, then leave one by one; all keys are asked for at every step.
        let leaving: Vec<Event> = batch.events.iter().filter_map(leave).collect();
        for event in batch.events.iter().cloned().chain(leaving) {
            world.apply(vec![event.clone()]);
            let table = reconciler.take(Batch { events: vec![event], ..Batch::default() });
            let fresh = Table::of(world.clone(), convert::encode);
            for key in &keys {
                let (held, anew) = (table.entry(key, "shop"), fresh.entry(key, "shop"));
                assert_eq!(held, anew, "{key} of {}", case.display());
            }
        }
    }
}

#[test]
fn a_session_that_looks_only_at_what_was_touched_holds_all_that_it_needs() {
    for case in folders() {
        let (batch, keys) = read(&case);
        for namespace in ["shop", "buyer"] {
            let mut reconciler = Reconciler::new(convert::encode);
            let mut world = World::default();
            let mut lasting = ledger(namespace, &keys);
            let leaving: Vec<Event> = batch.events.iter().filter_map(leave).collect();
            for event in batch.events.iter().cloned().chain(leaving) {
                world.apply(vec![event.clone()]);
                let table = reconciler.take(Batch { events: vec![event.clone()], ..Batch::default() });
                settle(&mut lasting, &table);
                let mut fresh = ledger(namespace, &keys);
                settle(&mut fresh, &Table::of(world.clone(), convert::encode));
                let held = |ledger: &Ledger| -> Vec<_> {
                    // A Pod's own stays while its session does.
                    let held = ledger.held().iter().filter(|(key, _)| !matches!(key, Key::Inbound(_)));
                    held.map(|(key, hash)| (key.to_string(), *hash)).collect()
                };
                assert_eq!(held(&lasting), held(&fresh), "{namespace} of {} after {event:?}", case.display());
            }
        }
    }
}

/// Of a proxy that wants all that may be wanted.
fn ledger(namespace: &str, keys: &[Key]) -> Ledger {
    let pod_uid = keys.iter().find_map(|key| match key {
        Key::Inbound(uid) => Some(uid.clone()),
        _ => None,
    });
    let pod_uid = pod_uid.unwrap_or_else(|| "nobody".into());
    let capabilities = leno_proto::capability::SECURITY.iter().map(|name| (*name).into()).collect();
    let mut ledger = Ledger::new(Scope { namespace: namespace.into(), pod_uid, capabilities });
    for key in keys.iter().filter(|key| matches!(key, Key::Destination(_) | Key::Outbound { .. })) {
        ledger.subscribe(key.clone()).unwrap();
    }
    ledger
}

/// Everything that is told is applied.
fn settle(ledger: &mut Ledger, table: &Table) {
    let Some(plan) = ledger.plan(table) else { return };
    let applied = plan.changes.into_iter().filter_map(|change| match change {
        Change::Put(key, item) => Some((key, item.hash, Vec::new())),
        Change::Unchanged(..) | Change::Removed { .. } => None,
    });
    ledger.report(plan.id, applied.collect(), Vec::new()).unwrap();
}

#[test]
fn a_bad_document_changes_nothing_else() {
    let bad = [
        "apiVersion: policy.leno.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: bad, namespace: shop}\nspec: {targetRefs: [{kind: Service, name: catalog}], timeouts: {request: 5}}\n",
        "apiVersion: policy.leno.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {name: bad, namespace: shop}\nspec: {action: Refuse}\n",
        "apiVersion: v1\nkind: Service\nmetadata: {name: bad, namespace: shop}\nspec: {ports: [{port: 99999}]}\n",
        "apiVersion: policy.leno.dev/v1alpha1\nkind: Traffik\nmetadata: {name: bad}\n",
        "kind: {{{\n",
        "a: &a [*a]\n",
        "just text\n",
    ];
    for case in folders() {
        let (good, keys) = read(&case);
        let table = table(good.clone());
        let text = fs::read_to_string(case.join("in.yaml")).unwrap();
        for document in bad {
            let mixed = read_text(&format!("{text}\n---\n{document}"));
            assert_eq!(mixed.refused.len(), good.refused.len() + 1, "{document}");
            let mixed = self::table(mixed);
            for key in &keys {
                assert_eq!(
                    table.entry(key, "shop"),
                    mixed.entry(key, "shop"),
                    "{key} of {} beside {document}",
                    case.display()
                );
            }
        }
    }
}

fn leave(event: &Event) -> Option<Event> {
    match event {
        Event::Applied(object) => Some(Event::Deleted(object.id())),
        Event::Deleted(_) => None,
    }
}

fn folders() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/compile");
    let mut found: Vec<PathBuf> = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| path.join("in.yaml").is_file());
    found.sort();
    found
}

fn read(case: &Path) -> (Batch, Vec<Key>) {
    let text = fs::read_to_string(case.join("in.yaml")).unwrap();
    let keys = text.lines().filter_map(|line| line.strip_prefix("# compile: ")).map(key).collect();
    (read_text(&text), keys)
}

fn read_text(text: &str) -> Batch {
    static NUMBER: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let folder = std::env::temp_dir().join(format!("leno-compile-{}-{number}", std::process::id()));
    // A process of the same number that was killed may have left one.
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("in.yaml"), text).unwrap();
    let batch = Directory::open(folder.clone(), None).unwrap().look(SystemTime::now()).unwrap();
    fs::remove_dir_all(folder).unwrap();
    batch
}

fn key(line: &str) -> Key {
    let (kind, name) = line.split_once(' ').unwrap_or((line, "mesh"));
    let number = KINDS.iter().position(|k| *k == kind).unwrap_or_else(|| panic!("no kind {kind}"));
    Key::parse(i32::try_from(number + 1).unwrap(), name).unwrap()
}

fn table(batch: Batch) -> std::sync::Arc<Table> {
    Reconciler::new(convert::encode).take(batch)
}

fn rendered(case: &Path) -> String {
    let (batch, keys) = read(case);
    let table = table(batch);
    let mut resources = serde_json::Map::new();
    for key in &keys {
        let compiled = compile(table.world(), key);
        let value = compiled.resource.as_ref().map_or(Value::Null, show);
        // What goes over the wire must come back the same.
        if let Some(resource) = &compiled.resource {
            let back = Resource::decode(&convert::encode(resource))
                .unwrap_or_else(|error| panic!("{key} of {}: {error:?}", case.display()));
            assert!(back == *resource, "{key} of {} comes back different", case.display());
        }
        resources.insert(key.to_string(), value);
        table.entry(key, "shop");
    }
    let report = status::report(&table, &[]);
    let conditions: Vec<String> = report
        .objects
        .iter()
        .flat_map(|object| {
            let name = format!("{} {}/{}", object.kind, object.namespace, object.name);
            let all = if object.parents.is_empty() {
                object.conditions.iter().map(|c| (name.clone(), c)).collect::<Vec<_>>()
            } else {
                let told = object.parents.iter().flat_map(|parent| {
                    let name = format!("{name} at {}", parent_name(&parent.parent_ref));
                    parent.conditions.iter().map(move |c| (name.clone(), c))
                });
                told.collect()
            };
            let told = all.into_iter().filter(|(_, c)| !c.kind.ends_with("Programmed") && c.reason != "NoWarnings");
            let lines = told.map(|(name, c)| format!("{name}: {}={} {} {}", c.kind, c.status, c.reason, c.message));
            let targets = object.targets.iter().filter_map(|target| {
                let said = target.message.as_ref()?;
                Some(format!("{name} at {} {}/{}: {said}", target.kind, target.namespace, target.name))
            });
            lines.chain(targets).map(|line| line.trim().to_owned()).collect::<Vec<_>>()
        })
        .collect();
    let refused: Vec<String> = report.refused.iter().map(ToString::to_string).collect();
    let all = json!({"resources": resources, "conditions": conditions, "refused": refused});
    serde_saphyr::to_string(&all).unwrap()
}

fn parent_name(parent: &ParentRef) -> String {
    let port = parent.port.map(|port| format!(":{port}")).unwrap_or_default();
    let section = parent.section_name.as_ref().map(|name| format!("#{name}")).unwrap_or_default();
    let namespace = parent.namespace.as_ref().map(|name| format!("{name}/")).unwrap_or_default();
    format!("{namespace}{}{port}{section}", parent.name)
}

/// For reading: names, numbers, and of policies only what is not the default.
fn show(resource: &Resource) -> Value {
    match resource {
        Resource::Destination(Destination::Workload(workload)) => {
            json!({"workload": format!("{:?}", workload.endpoint), "protocol": format!("{:?}", workload.protocol), "policy": traffic(&workload.policy)})
        }
        Resource::Destination(other) => json!(format!("{other:?}")),
        Resource::Outbound(outbound) => outbound.ports.iter().map(port).collect(),
        Resource::Endpoints(endpoints) => {
            let all: Vec<String> = endpoints.endpoints.iter().map(|one| format!("{one:?}")).collect();
            let mut shown = json!({"buckets": endpoints.buckets, "endpoints": all});
            if endpoints.own_node_only {
                shown["ownNodeOnly"] = json!(true);
            }
            shown
        }
        Resource::Inbound(inbound) => {
            let ports: Vec<Value> = inbound.ports.iter().chain([&inbound.other]).map(|port| {
                json!({"port": port.port, "protocol": format!("{:?}", port.protocol), "listen": port.listen, "policy": inbound_traffic(&port.policy), "access": format!("{:?}", port.access)})
            }).collect();
            let mut shown = json!({"identity": inbound.identity.to_string(), "addresses": format!("{:?}", inbound.addresses), "grace": format!("{:?}", inbound.grace), "ports": ports});
            if !inbound.zone.is_empty() {
                shown["place"] = json!(format!("{} in {}", inbound.node, inbound.zone));
            }
            shown
        }
        Resource::EgressIndex(index) => {
            let host = |host: &leno_proto::policy::EgressHost| json!({"origin": *host.origin, "hostnames": format!("{:?}", host.hostnames), "ports": format!("{:?}", host.ports), "addresses": format!("{:?}", host.addresses), "policy": traffic(&host.policy)});
            index.hosts.iter().map(host).collect()
        }
        Resource::TrustBundle(_) | Resource::ProxyConfig(_) | Resource::Share(_) => json!(format!("{resource:?}")),
    }
}

fn port(port: &OutboundPort) -> Value {
    let routes: Vec<Value> = port.routes.iter().map(|route| {
        let rules: Vec<Value> = route.rules.iter().map(|rule| {
            let matches: Vec<String> = rule.matches.iter().map(|one| format!("{one:?}")).collect();
            let filters: Vec<String> = rule.filters.iter().map(|one| shorten(&format!("{one:?}"))).collect();
            let backends: Vec<Value> = rule.backends.iter().map(backend).collect();
            json!({"name": *rule.name, "matches": matches, "filters": filters, "backends": backends, "policy": traffic(&rule.policy)})
        }).collect();
        json!({"origin": *route.origin, "kind": format!("{:?}", route.kind), "rules": rules})
    }).collect();
    json!({"port": port.port, "name": *port.name, "protocol": format!("{:?}", port.protocol), "routes": routes, "own": backend(&port.backend), "policy": traffic(&port.policy), "affinity": format!("{:?}", port.client_ip_affinity)})
}

fn backend(one: &Backend) -> Value {
    let word = if one.resolved { "" } else { " UNRESOLVED" };
    let text = format!("{} weight {} {:?}{word}", one.target, one.weight, one.protocol);
    match traffic(&one.policy) {
        Value::Null => json!(text),
        policy => json!({ text: policy }),
    }
}

/// A policy inside a Debug text says nothing here.
fn shorten(text: &str) -> String {
    text.split_once(", policy: ").map_or(text.to_owned(), |(head, _)| format!("{head} .."))
}

fn traffic(policy: &Traffic) -> Value {
    let default = Traffic::default();
    let parts = [
        ("mode", format!("{:?}", policy.mode), format!("{:?}", default.mode)),
        ("connection", format!("{:?}", policy.connection), format!("{:?}", default.connection)),
        ("timeouts", format!("{:?}", policy.timeouts), format!("{:?}", default.timeouts)),
        ("retries", format!("{:?}", policy.retries), format!("{:?}", default.retries)),
        ("circuitBreaker", format!("{:?}", policy.circuit_breaker), format!("{:?}", default.circuit_breaker)),
        ("concurrency", format!("{:?}", policy.concurrency), format!("{:?}", default.concurrency)),
        ("loadBalancing", format!("{:?}", policy.load_balancing), format!("{:?}", default.load_balancing)),
        ("rateLimit", format!("{:?}", policy.rate_limit), format!("{:?}", default.rate_limit)),
    ];
    changed(parts.into_iter())
}

fn inbound_traffic(policy: &InboundTraffic) -> Value {
    let default = InboundTraffic::default();
    let parts = [
        ("tls", format!("{:?}", policy.tls), format!("{:?}", default.tls)),
        ("timeouts", format!("{:?}", policy.timeouts), format!("{:?}", default.timeouts)),
        ("app", format!("{:?}", policy.app), format!("{:?}", default.app)),
        ("rateLimit", format!("{:?}", policy.rate_limit), format!("{:?}", default.rate_limit)),
    ];
    changed(parts.into_iter())
}

fn changed(parts: impl Iterator<Item = (&'static str, String, String)>) -> Value {
    let set: serde_json::Map<String, Value> =
        parts.filter(|(_, now, default)| now != default).map(|(name, now, _)| (name.to_owned(), json!(now))).collect();
    if set.is_empty() { Value::Null } else { Value::Object(set) }
}

/// Built in < what the operator set < Mesh.
#[test]
fn what_the_operator_set_holds_where_the_mesh_says_nothing() {
    let base = Base {
        trust_domain: Some("example.org".parse().unwrap()),
        mesh_networks: Some(vec!["10.7.0.0/16".parse().unwrap()]),
        tracing_endpoint: Some("http://collector:4317".to_owned()),
        sampling_ppm: Some(250_000),
    };
    let config = |world: &World| match compile(world, &Key::ProxyConfig).resource {
        Some(Resource::ProxyConfig(config)) => config,
        other => panic!("{other:?}"),
    };
    let mut world = World::with(base);
    let plain = config(&world);
    assert_eq!(
        (plain.trust_domain.as_str(), plain.mesh_networks[0].to_string().as_str()),
        ("example.org", "10.7.0.0/16")
    );
    assert_eq!(
        (plain.tracing.endpoint.as_deref(), plain.tracing.sampling_ppm),
        (Some("http://collector:4317"), 250_000)
    );
    let mesh = serde_json::json!({
        "apiVersion": "policy.leno.dev/v1alpha1", "kind": "Mesh", "metadata": {"name": "default"},
        "spec": {"meshNetworks": ["10.8.0.0/16"], "tracing": {"sampling": {"percent": 1}}},
    });
    world.apply(vec![Event::Applied(Object::decode(Kind::Mesh, mesh).unwrap().into())]);
    let meshed = config(&world);
    assert_eq!(meshed.mesh_networks[0].to_string(), "10.8.0.0/16");
    assert_eq!(
        (meshed.tracing.endpoint.as_deref(), meshed.tracing.sampling_ppm),
        (Some("http://collector:4317"), 10_000)
    );
}
