use leno_proto::convert;
use serde_json::Value;
use serde_json::json;

use super::*;
use crate::object::Event;
use crate::object::Kind;
use crate::object::Object;

fn service(name: &str, port: u16) -> Event {
    let meta = json!({"name": name, "namespace": "shop"});
    event(Kind::Service, json!({"metadata": meta, "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": port}]}}))
}

fn event(kind: Kind, object: Value) -> Event {
    Event::Applied(Object::decode(kind, object).unwrap().into())
}

fn take(reconciler: &mut Reconciler, events: Vec<Event>) -> Arc<Table> {
    reconciler.take(Batch { events, ..Batch::default() })
}

fn outbound(name: &str) -> Key {
    Key::Outbound { service: ServiceName { namespace: "shop".into(), name: name.into() }, view: "default".into() }
}

#[test]
fn what_is_found_stands_until_what_it_was_made_from_changes() {
    let mut reconciler = Reconciler::new(convert::encode);
    let table = take(&mut reconciler, vec![service("a", 80), service("b", 80)]);
    let (a, b) = (table.found(&outbound("a"), "shop"), table.found(&outbound("b"), "shop"));
    let table = take(&mut reconciler, vec![service("a", 81)]);
    assert!(!a.stands() && b.stands());
    assert!(Arc::ptr_eq(&b, &table.found(&outbound("b"), "shop")));
    let renewed = table.renewed(&outbound("a"), &a, "shop");
    // Endpoints of another port follow from it.
    assert!(renewed.is_none());
    assert!(table.found(&outbound("a"), "shop").stands());
}

#[test]
fn what_an_old_table_finds_does_not_stand() {
    let mut reconciler = Reconciler::new(convert::encode);
    let old = take(&mut reconciler, vec![service("a", 80)]);
    take(&mut reconciler, vec![service("a", 81)]);
    assert!(!old.found(&outbound("a"), "shop").stands());
}

#[test]
fn of_one_key_all_hold_the_same_whoever_made_it_first() {
    let mut reconciler = Reconciler::new(convert::encode);
    let table = take(&mut reconciler, vec![service("a", 80)]);
    let scoped = (outbound("a"), Arc::clone(&EVERYWHERE));
    // Two at once: both have looked, and found nothing remembered.
    let (one, two) = (table.make(&scoped, None), table.make(&scoped, None));
    let scoped = Arc::new(scoped);
    let one = table.memo.lock().keep(Arc::clone(&scoped), one);
    let two = table.memo.lock().keep(scoped, two);
    assert!(Arc::ptr_eq(&one, &two));
    take(&mut reconciler, vec![service("a", 81)]);
    assert!(!one.stands());
}

#[test]
fn a_consumers_first_object_for_a_service_is_heard_of_even_where_no_route_can_be_taken() {
    let mut reconciler = Reconciler::new(convert::encode);
    let headless =
        json!({"metadata": {"name": "a", "namespace": "shop"}, "spec": {"clusterIP": "None", "ports": [{"port": 80}]}});
    let table = take(&mut reconciler, vec![event(Kind::Service, headless)]);
    let found =
        table.found(&table.outbound(&ServiceName { namespace: "shop".into(), name: "a".into() }, "buyer"), "buyer");
    let route = json!({"metadata": {"name": "r", "namespace": "buyer"},
        "spec": {"parentRefs": [{"group": "", "kind": "Service", "namespace": "shop", "name": "a"}]}});
    let table = take(&mut reconciler, vec![event(Kind::HttpRoute, route)]);
    assert!(!found.stands());
    assert!(table.renewed(&outbound("a"), &found, "buyer").is_none(), "it is in another view now");
}
