mod audit;
mod duties;
mod malformed;
mod root;

use std::time::Duration;

use serde_json::Value;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::cluster;
use crate::cluster::gather::Gathered;
use crate::cluster::gather::Read;
use crate::kube::fake::Fake;
use crate::kube::watch::News;
use crate::object::Event;
use crate::object::Kind;
use crate::object::Object;
use crate::source::Batch;

fn service(name: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "shop"}, "spec": {"ports": [{"port": 80}]}})
}

fn access(spec: Value) -> Value {
    json!({"metadata": {"name": "who", "namespace": "shop"}, "spec": spec})
}

fn read(kind: Kind, all: Vec<Value>) -> Vec<Read> {
    all.into_iter().map(|one| Read::object(kind, one)).collect()
}

/// In the order in which they came.
fn words(batch: &Batch) -> Vec<String> {
    let word = |event: &Event| match event {
        Event::Applied(object) => format!("+{}", object.meta().name),
        Event::Deleted(id) => format!("-{}", id.name.name),
    };
    batch.events.iter().map(word).collect()
}

fn gathered(kinds: &[Kind]) -> (Gathered, Instant) {
    (Gathered::new(kinds.iter().copied()), Instant::now())
}

#[test]
fn nothing_is_said_before_every_kind_has_been_listed() {
    let (mut all, now) = gathered(&[Kind::Service, Kind::Pod]);
    all.take(Kind::Service, News::Listed(read(Kind::Service, vec![service("a")])), now);
    assert!(all.batch().is_none());
    all.take(Kind::Pod, News::Listed(Vec::new()), now);
    assert_eq!(words(&all.batch().unwrap()), ["+a"]);
    assert!(all.batch().is_none());
}

#[test]
fn an_empty_cluster_is_said_to_be_empty_once() {
    let (mut all, now) = gathered(&[Kind::Service]);
    all.take(Kind::Service, News::Listed(Vec::new()), now);
    assert_eq!(words(&all.batch().unwrap()), Vec::<String>::new());
    all.take(Kind::Service, News::Listed(Vec::new()), now);
    assert!(all.batch().is_none());
}

#[test]
fn a_new_list_deletes_what_it_lacks_and_nothing_else() {
    let (mut all, now) = gathered(&[Kind::Service]);
    let list = |names: [&str; 2]| News::Listed(read(Kind::Service, names.map(service).into()));
    all.take(Kind::Service, list(["a", "b"]), now);
    all.batch();
    all.take(Kind::Service, News::Applied(Read::object(Kind::Service, service("c"))), now);
    all.take(Kind::Service, list(["b", "c"]), now);
    assert_eq!(words(&all.batch().unwrap()), ["+c", "-a", "+b", "+c"]);
}

#[test]
fn failing_is_stale_until_it_is_heard_of_again() {
    let (mut all, now) = gathered(&[Kind::Service]);
    let failing = || News::Failing(crate::kube::Error::Unreachable("away".to_owned()));
    all.take(Kind::Service, failing(), now);
    all.take(Kind::Service, failing(), now + Duration::from_secs(9));
    assert_eq!(all.stale(), Some(now), "since the first failure");
    all.take(Kind::Service, News::Current, now);
    assert_eq!(all.stale(), None);
}

#[test]
fn a_policy_that_cannot_be_read_is_absent_and_says_so() {
    let (mut all, now) = gathered(&[Kind::InboundPolicy]);
    let policy = |spec: Value| {
        Read::object(Kind::InboundPolicy, json!({"metadata": {"name": "in", "namespace": "shop"}, "spec": spec}))
    };
    all.take(Kind::InboundPolicy, News::Listed(vec![policy(json!({}))]), now);
    assert_eq!(words(&all.batch().unwrap()), ["+in"]);
    all.take(Kind::InboundPolicy, News::Applied(policy(json!({"workloads": {"pods": []}}))), now);
    let batch = all.batch().unwrap();
    assert_eq!(words(&batch), ["-in"]);
    assert!(batch.refused[0].message.contains("pods"), "{}", batch.refused[0]);
    all.take(Kind::InboundPolicy, News::Applied(policy(json!({}))), now);
    let batch = all.batch().unwrap();
    assert_eq!((words(&batch), batch.refused.len()), (vec!["+in".to_owned()], 0));
}

#[test]
fn an_access_policy_that_cannot_be_read_still_refuses() {
    let cases = [
        // An Allow grants nothing; its workloads stay closed to others.
        (
            json!({"workloads": {"ports": [80]}, "action": "Allow", "rules": [{"pats": ["/"]}]}),
            json!({"workloads": {"ports": [80]}, "action": "Allow"}),
        ),
        (json!({"workloads": 7, "action": "Permit"}), json!({"action": "Allow"})),
        // A Deny without what cannot be read denies more, not less.
        (
            json!({"action": "Deny", "rules": [{"paths": ["/a"]}, {"paths": ["/b"], "methods": "GET"}]}),
            json!({"action": "Deny", "rules": [{"paths": ["/a"]}, {"paths": ["/b"]}]}),
        ),
    ];
    for (bad, meant) in cases {
        let (mut all, now) = gathered(&[Kind::AccessPolicy]);
        all.take(Kind::AccessPolicy, News::Listed(read(Kind::AccessPolicy, vec![access(bad.clone())])), now);
        let batch = all.batch().unwrap();
        let [Event::Applied(object)] = batch.events.as_slice() else { panic!("{bad}: {:?}", batch.events) };
        let Object::AccessPolicy(policy) = &**object else { panic!("{object:?}") };
        let mut expected = access(meant);
        expected["apiVersion"] = "policy.leno.dev/v1alpha1".into();
        expected["kind"] = "AccessPolicy".into();
        let Object::AccessPolicy(expected) = Object::decode(Kind::AccessPolicy, expected).unwrap() else { panic!() };
        assert_eq!(policy.spec, expected.spec, "{bad}");
        assert_eq!(batch.refused.len(), 1);
    }
}

#[test]
fn what_users_applied_last_is_not_kept_twice() {
    let mut object = service("a");
    object["metadata"]["annotations"] =
        json!({"kubectl.kubernetes.io/last-applied-configuration": "{}", "leno.dev/inject": "enabled"});
    let (mut all, now) = gathered(&[Kind::Service]);
    all.take(Kind::Service, News::Listed(read(Kind::Service, vec![object])), now);
    let Event::Applied(object) = &all.batch().unwrap().events[0] else { panic!() };
    assert_eq!(object.meta().annotations.keys().collect::<Vec<_>>(), ["leno.dev/inject"]);
}

#[tokio::test]
async fn the_world_survives_a_compaction_and_an_absence_without_an_empty_interim() {
    let fake = Fake::start().await;
    let services = "/api/v1/namespaces/shop/services";
    fake.put(&format!("{services}/a"), service("a"));
    fake.put(&format!("{services}/b"), service("b"));
    let (batches_in, mut batches) = mpsc::channel(4);
    let (stale_in, mut stale) = watch::channel(None);
    tokio::spawn(cluster::run(fake.client(), batches_in, stale_in));
    assert_eq!(words(&batches.recv().await.unwrap()), ["+a", "+b"]);
    fake.set_down(true);
    stale.wait_for(Option::is_some).await.unwrap();
    fake.delete(&format!("{services}/a"));
    fake.put(&format!("{services}/c"), service("c"));
    fake.compact();
    fake.set_down(false);
    let mut seen = Vec::new();
    while !(seen.contains(&"-a".to_owned()) && seen.contains(&"+c".to_owned())) {
        seen.extend(words(&batches.recv().await.unwrap()));
    }
    assert!(!seen.contains(&"-b".to_owned()), "{seen:?}");
    stale.wait_for(Option::is_none).await.unwrap();
}
