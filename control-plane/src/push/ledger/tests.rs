use std::collections::HashSet;

use bytes::Bytes;
use leno_proto::policy::ServiceName;
use leno_proto::policy::ServicePort;
use leno_proto::wire::policy;
use proptest::prelude::*;
use prost::Message;
use rand::RngExt;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;

fn service(number: u32) -> ServiceName {
    ServiceName { namespace: "shop".into(), name: format!("s{number}").into() }
}

fn outbound(number: u32, view: &str) -> Key {
    Key::Outbound { service: service(number), view: view.into() }
}

fn endpoints(number: u32, bucket: u32) -> Key {
    Key::Endpoints { target: ServicePort { service: service(number), port: 80 }, bucket }
}

fn destination(number: u32) -> Key {
    Key::Destination(format!("10.0.0.{number}:80").parse().unwrap())
}

fn entry(content: &str, leads_to: &[Key]) -> (Item, Vec<Key>) {
    (Item::new(Bytes::copy_from_slice(content.as_bytes())), leads_to.to_vec())
}

/// That may be another at any moment.
fn passing(item: &Item) -> Arc<Found> {
    let found = Found::of(item.bytes.clone());
    found.touch();
    Arc::new(found)
}

/// The plainest mesh: what is there, and what leads to what.
#[derive(Default, Clone)]
struct Table(BTreeMap<Key, (Item, Vec<Key>)>);

impl Table {
    fn insert(&mut self, key: Key, entry: (Item, Vec<Key>)) {
        self.0.insert(key, entry);
    }

    fn remove(&mut self, key: &Key) {
        self.0.remove(key);
    }
}

impl Offer for Table {
    fn closure(&self, roots: &mut dyn Iterator<Item = &Key>, namespace: &str) -> BTreeMap<Key, Arc<Found>> {
        let mut open: Vec<Key> = roots.cloned().collect();
        let mut closure = BTreeMap::new();
        while let Some(mut key) = open.pop() {
            if let Key::Outbound { service, view } = &mut key {
                let own = Key::Outbound { service: service.clone(), view: namespace.into() };
                *view = if self.0.contains_key(&own) { namespace.into() } else { DEFAULT_VIEW.into() };
            }
            let found = match (self.0.get(&key), &key) {
                (Some(found), _) => found.clone(),
                (None, Key::Destination(_)) => entry("not found", &[]),
                (None, Key::TrustBundle) => entry("trust", &[]),
                (None, _) => continue,
            };
            if closure.insert(key, passing(&found.0)).is_none() {
                open.extend(found.1);
            }
        }
        closure
    }

    fn renewed(&self, _: &Key, _: &Found, _: &str) -> Option<Arc<Found>> {
        None
    }

    fn knows_pod(&self, uid: &str) -> bool {
        self.0.contains_key(&Key::Inbound(uid.into()))
    }

    fn generation(&self) -> u64 {
        0
    }
}

fn ledger() -> Ledger {
    Ledger::new(Scope { namespace: "front".into(), pod_uid: "pod-1".into(), capabilities: BTreeSet::new() })
}

/// One Service with one bucket behind one address, and this pod.
fn small() -> Table {
    let mut table = Table::default();
    table.insert(destination(1), entry("d1", &[outbound(1, DEFAULT_VIEW)]));
    table.insert(outbound(1, DEFAULT_VIEW), entry("o1", &[endpoints(1, 0)]));
    table.insert(endpoints(1, 0), entry("e1", &[]));
    table.insert(Key::Inbound("pod-1".into()), entry("i1", &[]));
    table.insert(Key::ProxyConfig, entry("config", &[]));
    table
}

/// The other side: applies what it is told, and refuses contents that say so.
#[derive(Default)]
struct Proxy {
    holds: BTreeMap<Key, Hash>,
    refused: BTreeMap<Key, Vec<Hash>>,
    given: HashSet<(Key, Hash)>,
    subscriptions: BTreeSet<Key>,
}

impl Proxy {
    fn take(&mut self, plan: Plan, ledger: &mut Ledger) {
        let (mut applied, mut rejected) = (Vec::new(), Vec::new());
        for change in plan.changes {
            match change {
                Change::Put(key, item) if item.bytes.starts_with(b"bad") => {
                    assert!(self.given.insert((key.clone(), item.hash)), "a refused version came again: {key}");
                    self.refused.entry(key.clone()).or_default().push(item.hash);
                    rejected.push((key, Refusal { hash: item.hash, field: "f".into(), message: "bad".into() }));
                }
                Change::Put(key, item) => {
                    assert_ne!(self.holds.insert(key.clone(), item.hash), Some(item.hash), "{key} sent twice");
                    applied.push((key, item.hash, Vec::new()));
                }
                Change::Unchanged(key, hash) => assert_eq!(self.holds.get(&key), Some(&hash)),
                Change::Removed { key, .. } => assert!(self.holds.remove(&key).is_some(), "{key} was not held"),
            }
        }
        ledger.report(plan.id, applied, rejected).unwrap();
    }
}

fn settle(ledger: &mut Ledger, proxy: &mut Proxy, table: &Table) {
    while let Some(plan) = ledger.plan(table) {
        proxy.take(plan, ledger);
    }
}

#[test]
fn one_address_brings_all_it_leads_to_in_one_transaction() {
    let (mut ledger, mut proxy, table) = (ledger(), Proxy::default(), small());
    ledger.subscribe(destination(1)).unwrap();
    let plan = ledger.plan(&table).unwrap();
    let keys: Vec<_> = plan.changes.iter().map(|change| matches!(change, Change::Put(..))).collect();
    assert_eq!(keys, [true; 6], "destination, outbound, endpoints, inbound, trust, configuration");
    assert!(ledger.plan(&table).is_none(), "one transaction in flight");
    proxy.take(plan, &mut ledger);
    assert!(ledger.plan(&table).is_none(), "nothing left to say");
    assert_eq!(ledger.held(), &proxy.holds);

    ledger.unsubscribe(destination(1));
    settle(&mut ledger, &mut proxy, &table);
    assert_eq!(proxy.holds.len(), 3, "what nothing leads to has left");
}

#[test]
fn an_address_that_nobody_has_is_answered_and_stays_subscribed() {
    let (mut ledger, mut proxy, mut table) = (ledger(), Proxy::default(), small());
    ledger.subscribe(destination(9)).unwrap();
    settle(&mut ledger, &mut proxy, &table);
    assert_eq!(proxy.holds[&destination(9)], Hash::of(b"not found"));
    table.insert(destination(9), entry("d9", &[]));
    settle(&mut ledger, &mut proxy, &table);
    assert_eq!(proxy.holds[&destination(9)], Hash::of(b"d9"));
}

#[test]
fn the_view_follows_the_clients_namespace_whatever_it_asks_for() {
    let (mut ledger, mut proxy, mut table) = (ledger(), Proxy::default(), small());
    table.insert(outbound(1, "other"), entry("not yours", &[]));
    ledger.subscribe(outbound(1, "other")).unwrap();
    settle(&mut ledger, &mut proxy, &table);
    assert!(proxy.holds.contains_key(&outbound(1, DEFAULT_VIEW)) && !proxy.holds.contains_key(&outbound(1, "other")));

    table.insert(outbound(1, "front"), entry("yours", &[]));
    settle(&mut ledger, &mut proxy, &table);
    assert!(proxy.holds.contains_key(&outbound(1, "front")));
    assert!(!proxy.holds.contains_key(&outbound(1, DEFAULT_VIEW)) && !proxy.holds.contains_key(&endpoints(1, 0)));
}

#[test]
fn what_a_proxy_brings_back_is_not_sent_again() {
    let table = small();
    let mut ledger = ledger();
    for (key, content) in
        [(destination(1), "d1"), (outbound(1, DEFAULT_VIEW), "o1"), (endpoints(1, 0), "old"), (endpoints(7, 0), "x")]
    {
        ledger.claim(key, Some(Hash::of(content.as_bytes())), Vec::new()).unwrap();
    }
    let plan = ledger.plan(&table).unwrap();
    let said: BTreeMap<Key, &str> = plan
        .changes
        .iter()
        .map(|change| match change {
            Change::Put(key, _) => (key.clone(), "put"),
            Change::Unchanged(key, _) => (key.clone(), "unchanged"),
            Change::Removed { key, gone: true } => (key.clone(), "gone"),
            Change::Removed { key, gone: false } => (key.clone(), "removed"),
        })
        .collect();
    assert_eq!(said[&destination(1)], "unchanged");
    assert_eq!(said[&outbound(1, DEFAULT_VIEW)], "unchanged");
    assert_eq!(said[&endpoints(1, 0)], "put");
    assert_eq!(said[&endpoints(7, 0)], "gone");
}

#[test]
fn a_version_refused_before_the_session_is_not_sent_and_the_next_one_is() {
    let (mut ledger, mut proxy, mut table) = (ledger(), Proxy::default(), small());
    ledger.claim(destination(1), None, vec![Hash::of(b"d1")]).unwrap();
    settle(&mut ledger, &mut proxy, &table);
    assert!(!proxy.holds.contains_key(&destination(1)));
    table.insert(destination(1), entry("d1, mended", &[]));
    settle(&mut ledger, &mut proxy, &table);
    assert_eq!(proxy.holds[&destination(1)], Hash::of(b"d1, mended"));
}

#[test]
fn a_slow_proxy_skips_what_it_missed() {
    let (mut ledger, mut proxy, mut table) = (ledger(), Proxy::default(), small());
    ledger.subscribe(destination(1)).unwrap();
    let first = ledger.plan(&table).unwrap();
    for version in 0..1000 {
        table.insert(endpoints(1, 0), entry(&format!("e1 v{version}"), &[]));
        assert!(ledger.plan(&table).is_none());
    }
    proxy.take(first, &mut ledger);
    let second = ledger.plan(&table).unwrap();
    assert_eq!(second.changes.len(), 1);
    proxy.take(second, &mut ledger);
    assert_eq!(proxy.holds[&endpoints(1, 0)], Hash::of(b"e1 v999"));
}

#[test]
fn a_resource_that_a_build_cannot_enforce_is_withheld_and_counted() {
    let (mut ledger, mut proxy, mut table) = (ledger(), Proxy::default(), small());
    // As leno.policy.v1.Resource has them: field 1, twice, and then the rest.
    let resource = policy::Resource {
        requires: vec!["access".to_owned(), "access.http".to_owned()],
        kind: Some(policy::resource::Kind::Share(policy::Share::default())),
        ..policy::Resource::default()
    };
    let demanding = Item::new(resource.encode_to_vec().into());
    assert_eq!(demanding.requires().collect::<Vec<_>>(), ["access", "access.http"]);
    table.insert(Key::Inbound("pod-1".into()), (demanding, Vec::new()));
    table.insert(destination(1), (Item::new(Bytes::from(vec![0; RESOURCE_MAX + 1])), Vec::new()));
    ledger.subscribe(destination(1)).unwrap();
    settle(&mut ledger, &mut proxy, &table);
    assert_eq!(ledger.withheld()[&Key::Inbound("pod-1".into())], Withheld::Incapable);
    assert_eq!(ledger.withheld()[&destination(1)], Withheld::TooLarge);
    assert_eq!(proxy.holds.len(), 2);
}

#[test]
fn where_a_proxy_stands_is_told_for_what_it_needs() {
    let (mut ledger, mut proxy, mut table) = (ledger(), Proxy::default(), small());
    table.insert(endpoints(1, 0), entry("bad e1", &[]));
    ledger.subscribe(destination(1)).unwrap();
    let plan = ledger.plan(&table).unwrap();
    let standing = |ledger: &Ledger, key: Key, content: &str| ledger.standing(&key, &Hash::of(content.as_bytes()));
    assert_eq!(standing(&ledger, destination(1), "d1"), Some(Standing::Pending));
    proxy.take(plan, &mut ledger);
    assert_eq!(standing(&ledger, destination(1), "d1"), Some(Standing::Applied));
    assert_eq!(standing(&ledger, destination(1), "d2"), Some(Standing::Pending), "a newer version");
    assert_eq!(standing(&ledger, endpoints(1, 0), "bad e1"), Some(Standing::Rejected));
    assert_eq!(standing(&ledger, destination(2), "d2"), None, "not needed");
}

#[test]
fn the_inbound_of_a_pod_that_is_not_known_yet_is_kept() {
    let mut ledger = ledger();
    ledger.claim(Key::Inbound("pod-1".into()), Some(Hash::of(b"i0")), Vec::new()).unwrap();
    let plan = ledger.plan(&Table::default()).unwrap();
    assert!(plan.changes.iter().all(|change| matches!(change, Change::Put(Key::TrustBundle, _))));
}

#[test]
fn what_a_report_passes_over_counts_as_refused() {
    let (mut ledger, table) = (ledger(), small());
    let plan = ledger.plan(&table).unwrap();
    let outcome = ledger.report(plan.id, Vec::new(), Vec::new()).unwrap();
    assert_eq!(outcome, Outcome { applied: 0, rejected: 3 });
    assert!(ledger.plan(&table).is_none(), "or it would go on for ever");
    assert_eq!(ledger.report(plan.id, Vec::new(), Vec::new()), Err(Violation::UnknownTransaction(plan.id)));
}

#[test]
fn only_what_a_proxy_may_ask_for_is_taken() {
    let mut ledger = ledger();
    for key in [Key::Inbound("pod-2".into()), endpoints(1, 0), Key::TrustBundle, Key::Share] {
        assert_eq!(ledger.subscribe(key.clone()), Err(Violation::NotForSubscription(key)));
    }
    for port in 0..SUBSCRIPTIONS_MAX {
        ledger.subscribe(Key::Destination(([10, 0, 0, 1], u16::try_from(port).unwrap()).into())).unwrap();
    }
    assert_eq!(ledger.subscribe(destination(2)), Err(Violation::Subscriptions));
}

#[test]
fn claims_are_bounded() {
    let mut ledger = ledger();
    let claim = |ledger: &mut Ledger, bucket: u32| ledger.claim(endpoints(1, bucket), Some(Hash::of(b"")), Vec::new());
    for bucket in 0..u32::try_from(HELD_MAX).unwrap() {
        claim(&mut ledger, bucket).unwrap();
    }
    assert_eq!(claim(&mut ledger, u32::MAX), Err(Violation::Held));
    for version in 0..100u32 {
        ledger.refuse(
            &destination(1),
            Refusal { hash: Hash::of(&version.to_be_bytes()), field: "".into(), message: "".into() },
        );
    }
    assert_eq!(ledger.refused()[&destination(1)].len(), REJECTED_MAX);
}

/// Everything that the proxy should end with, computed the plain way.
fn expected(table: &Table, proxy: &Proxy) -> BTreeMap<Key, Hash> {
    let mut fresh = ledger();
    for key in &proxy.subscriptions {
        fresh.subscribe(key.clone()).unwrap();
    }
    fresh.desired(table).into_iter().filter_map(|(key, found)| Some((key, found.entry()?.hash))).collect()
}

fn mutate(table: &mut Table, dice: &mut StdRng) {
    let number = dice.random_range(1..8);
    let version = dice.random_range(0..6);
    let word = if dice.random_ratio(1, 6) { "bad" } else { "good" };
    let leads = |dice: &mut StdRng| -> Vec<Key> {
        (0..dice.random_range(0..3)).map(|_| endpoints(dice.random_range(1..8), dice.random_range(0..2))).collect()
    };
    match dice.random_range(0..8) {
        0 => table.remove(&destination(number)),
        1 => table.remove(&outbound(number, "front")),
        2 => table.remove(&endpoints(number, version % 2)),
        3 => table.insert(destination(number), entry(&format!("{word} d{version}"), &[outbound(number, DEFAULT_VIEW)])),
        4 => table.insert(outbound(number, "front"), entry(&format!("{word} f{version}"), &leads(dice))),
        5 | 6 => table.insert(outbound(number, DEFAULT_VIEW), entry(&format!("{word} o{version}"), &leads(dice))),
        _ => table.insert(endpoints(number, version % 2), entry(&format!("{word} e{version}"), &[])),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// 1000 steps of changes, interest, slowness, refusals and reconnects.
    #[test]
    fn a_proxy_ends_with_what_the_table_says(seed in any::<u64>()) {
        let mut dice = StdRng::seed_from_u64(seed);
        let (mut ledger, mut proxy, mut table) = (ledger(), Proxy::default(), small());
        let mut flying = None;
        for _ in 0..1000 {
            match dice.random_range(0..10) {
                0..=3 => mutate(&mut table, &mut dice),
                4 => {
                    let key = destination(dice.random_range(1..8));
                    ledger.subscribe(key.clone()).unwrap();
                    proxy.subscriptions.insert(key);
                }
                5 => {
                    let key = destination(dice.random_range(1..8));
                    ledger.unsubscribe(key.clone());
                    proxy.subscriptions.remove(&key);
                }
                6 | 7 if flying.is_none() => flying = ledger.plan(&table),
                8 => if let Some(plan) = flying.take() { proxy.take(plan, &mut ledger) },
                _ if dice.random_ratio(1, 5) => {
                    // The connection breaks, whatever was under way is lost; perhaps the control plane is another.
                    flying = None;
                    ledger = self::ledger();
                    let keys: BTreeSet<Key> = proxy.holds.keys().chain(proxy.refused.keys()).cloned().collect();
                    for key in keys {
                        if matches!(key, Key::Destination(_)) && !proxy.subscriptions.contains(&key) { continue }
                        let refused = proxy.refused.get(&key).cloned().unwrap_or_default();
                        ledger.claim(key.clone(), proxy.holds.get(&key).copied(), refused).unwrap();
                        if matches!(key, Key::Outbound { .. }) { proxy.subscriptions.insert(key); }
                    }
                    for key in &proxy.subscriptions {
                        ledger.subscribe(key.clone()).unwrap();
                    }
                    proxy.holds.retain(|key, _| ledger.held().contains_key(key));
                    proxy.refused.retain(|key, _| !matches!(key, Key::Destination(_)) || proxy.subscriptions.contains(key));
                    proxy.given.retain(|(key, _)| proxy.refused.contains_key(key));
                }
                _ => {}
            }
        }
        if let Some(plan) = flying.take() { proxy.take(plan, &mut ledger) }
        settle(&mut ledger, &mut proxy, &table);
        prop_assert_eq!(ledger.held(), &proxy.holds);
        let expected = expected(&table, &proxy);
        for (key, hash) in &expected {
            let refused = ledger.refused().get(key).is_some_and(|list| list.iter().any(|refusal| refusal.hash == *hash));
            prop_assert!(refused || proxy.holds.get(key) == Some(hash), "{} differs", key);
        }
        for key in proxy.holds.keys() {
            prop_assert!(expected.contains_key(key), "{} was left behind", key);
        }
    }
}

#[test]
fn what_is_not_needed_and_what_is_gone_are_told_apart() {
    let (mut ledger, mut proxy, mut table) = (ledger(), Proxy::default(), small());
    ledger.subscribe(destination(1)).unwrap();
    ledger.subscribe(outbound(2, DEFAULT_VIEW)).unwrap();
    table.insert(outbound(2, DEFAULT_VIEW), entry("o2", &[endpoints(2, 0)]));
    table.insert(endpoints(2, 0), entry("e2", &[]));
    let plan = ledger.plan(&table).unwrap();
    proxy.take(plan, &mut ledger);
    // Given back: everything that only it led to leaves with it. The other Service is deleted meanwhile.
    ledger.unsubscribe(destination(1));
    table.remove(&outbound(2, DEFAULT_VIEW));
    table.remove(&endpoints(2, 0));
    let plan = ledger.plan(&table).unwrap();
    let told: BTreeMap<Key, bool> = plan
        .changes
        .iter()
        .map(|change| match change {
            Change::Removed { key, gone } => (key.clone(), *gone),
            other => panic!("{other:?}"),
        })
        .collect();
    let expected = [
        (destination(1), false),
        (outbound(1, DEFAULT_VIEW), false),
        (endpoints(1, 0), false),
        (outbound(2, DEFAULT_VIEW), true),
        (endpoints(2, 0), true),
    ];
    assert_eq!(told, expected.into());
}
