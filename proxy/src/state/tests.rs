//! Snapshots and the wait for them.

use leno_proto::policy::Endpoints;
use leno_proto::policy::Protocol;

use super::*;
use crate::upstream::fixtures;

fn state() -> (Arc<State>, Wanted) {
    State::new(|_| Box::new(|| ()))
}

fn name() -> ServiceName {
    ServiceName { namespace: "shop".into(), name: "web".into() }
}

fn port() -> ServicePort {
    ServicePort { service: name(), port: 80 }
}

fn outbound(max_connections: u32) -> Change {
    let mut traffic = fixtures::traffic();
    traffic.connection.max_connections = max_connections;
    let policy = Arc::new(traffic);
    let backend = Backend {
        target: port(),
        weight: 1,
        protocol: Protocol::Http1,
        filters: vec![],
        policy: policy.clone(),
        resolved: true,
    };
    let port = OutboundPort {
        port: 80,
        name: "http".into(),
        protocol: Protocol::Http1,
        routes: vec![],
        backend,
        policy,
        client_ip_affinity: None,
    };
    let key = Key::Outbound { service: name(), view: DEFAULT_VIEW.into() };
    Change::Put(key, Arc::new(Resource::Outbound(Outbound { service: name(), ports: vec![port] })))
}

fn endpoints(uids: &[&str]) -> Change {
    let endpoints = uids.iter().enumerate().map(|(n, uid)| fixtures::endpoint(uid, n as u8)).collect();
    let resource = Endpoints { target: port(), bucket: 0, buckets: 1, endpoints, own_node_only: false };
    Change::Put(Key::Endpoints { target: port(), bucket: 0 }, Arc::new(Resource::Endpoints(resource)))
}

#[test]
fn what_was_learned_survives_new_policy_and_leaves_with_its_endpoint() {
    let (state, _wanted) = state();
    let now = Instant::now();
    state.apply(vec![outbound(10), endpoints(&["a", "b"])], now);
    let before = state.load();
    let own = before.service(&name()).unwrap().port(80).unwrap().own.clone();
    own.members[1].shared.idle.closed(Duration::from_secs(4), Duration::ZERO, now);
    let _permit = own.shared.connections.try_acquire().unwrap();
    state.apply(vec![outbound(20), endpoints(&["b", "c"])], now);
    let after = state.load().service(&name()).unwrap().port(80).unwrap().own.clone();
    assert_eq!(after.shared.connections.limit(), 20);
    assert_eq!(after.shared.connections.in_use(), 1);
    // b moved to another address, so it is another endpoint now, and c is new.
    let policy = Duration::from_secs(300);
    assert!(after.members.iter().all(|m| m.shared.idle.usable_for(policy, now) == policy));
    assert_eq!(state.version(), 2);
    assert_eq!(before.version, 1, "a snapshot that somebody holds does not change");
}

#[test]
fn an_endpoint_that_stays_keeps_its_record() {
    let (state, _wanted) = state();
    let now = Instant::now();
    state.apply(vec![outbound(10), endpoints(&["a", "b"])], now);
    let first = state.load().targets().next().unwrap().members[1].shared.clone();
    first.idle.closed(Duration::from_secs(4), Duration::ZERO, now);
    state.apply(vec![endpoints(&["x", "b", "y"])], now);
    let target = state.load().targets().next().unwrap().clone();
    assert!(Arc::ptr_eq(&target.members[1].shared, &first));
    assert_eq!(target.members[1].shared.idle.usable_for(Duration::from_secs(300), now), Duration::from_millis(3200));
}

#[test]
fn what_a_transaction_does_not_touch_stays_the_same_object() {
    let (state, _wanted) = state();
    let now = Instant::now();
    state.apply(vec![outbound(10), endpoints(&["a", "b"])], now);
    let before = state.load().targets().next().unwrap().clone();
    let policy = |snapshot: &Snapshot| snapshot.service(&name()).unwrap().port(80).unwrap().policy.clone();
    let routes = policy(&state.load());
    let (address, other) = ("10.0.0.9:80".parse().unwrap(), Arc::new(Resource::Destination(Destination::NotFound)));
    state.apply(vec![Change::Put(Key::Destination(address), other), outbound(10)], now);
    assert!(Arc::ptr_eq(&before, state.load().targets().next().unwrap()));
    assert!(Arc::ptr_eq(&routes, &policy(&state.load())));
    let known = state.load().destination(address).unwrap().clone();
    state.apply(vec![outbound(11)], now);
    assert!(Arc::ptr_eq(&known, state.load().destination(address).unwrap()));
    assert!(!Arc::ptr_eq(&routes, &policy(&state.load())));
    assert_eq!(state.load().targets().next().unwrap().shared.connections.limit(), 11);
    let gone = Endpoints { target: port(), bucket: 0, buckets: 1, endpoints: vec![], own_node_only: false };
    let key = Key::Endpoints { target: port(), bucket: 0 };
    state.apply(vec![Change::Put(key, Arc::new(Resource::Endpoints(gone)))], now);
    assert!(state.load().targets().next().unwrap().members.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_thousand_requests_for_one_address_ask_once_and_all_get_the_answer() {
    let (state, mut wanted) = state();
    let address: SocketAddr = "10.0.0.1:80".parse().unwrap();
    let waiting: Vec<_> = (0..1000)
        .map(|_| {
            let state = state.clone();
            tokio::spawn(async move { state.destination(address, Duration::from_secs(1)).await })
        })
        .collect();
    assert_eq!(wanted.recv().await, Some(Key::Destination(address)));
    tokio::task::yield_now().await;
    assert!(wanted.try_recv().is_err(), "asked once");
    let answer = Arc::new(Resource::Destination(Destination::NotFound));
    state.apply(vec![Change::Put(Key::Destination(address), answer)], Instant::now());
    for task in waiting {
        assert_eq!(*task.await.unwrap().unwrap(), Destination::NotFound);
    }
}

#[tokio::test(start_paused = true)]
async fn the_wait_is_bounded() {
    let (state, _wanted) = state();
    let start = tokio::time::Instant::now();
    let answer = state.service(&name(), Duration::from_secs(1)).await;
    assert!(answer.is_err());
    assert_eq!(start.elapsed(), Duration::from_secs(1));
}

#[test]
fn snapshots_are_freed_when_nobody_holds_them() {
    let (state, _wanted) = state();
    let now = Instant::now();
    let held = state.load();
    for _ in 0..10 {
        state.apply(vec![outbound(10)], now);
    }
    assert_eq!(state.book.lock().retired.len(), 1, "only the one that is held");
    drop(held);
    state.sweep();
    assert!(state.book.lock().retired.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_question_that_is_never_answered_is_forgotten_with_the_last_who_waits() {
    let (state, mut wanted) = state();
    let name = name();
    let (one, two) =
        tokio::join!(state.service(&name, Duration::from_secs(1)), state.service(&name, Duration::from_secs(2)));
    assert!(one.is_err() && two.is_err());
    assert!(wanted.recv().await.is_some());
    assert!(wanted.try_recv().is_err(), "asked once");
    assert!(state.asked.lock().is_empty());
    let _ = state.service(&name, Duration::ZERO).await;
    assert!(wanted.try_recv().is_ok(), "and again when it is asked for again");
}

#[test]
fn a_look_is_a_use_and_so_is_what_is_under_way() {
    let (state, _wanted) = state();
    let now = Instant::now();
    let address: SocketAddr = "10.0.0.1:80".parse().unwrap();
    let (destination, service) =
        (Key::Destination(address), Key::Outbound { service: name(), view: DEFAULT_VIEW.into() });
    let answer = Arc::new(Resource::Destination(Destination::Service(port())));
    state.apply(vec![Change::Put(destination.clone(), answer), outbound(10), endpoints(&["a"])], now);
    assert_eq!(state.used(), []);
    state.load().destination(address);
    // A new snapshot forgets no use.
    state.apply(vec![outbound(11)], now);
    assert_eq!(state.used(), std::slice::from_ref(&destination));
    assert_eq!(state.used(), []);
    state.load().service(&name());
    assert_eq!(state.used(), [service.clone(), destination.clone()], "the address that leads there is in use with it");
    let endpoint = state.load().targets().next().unwrap().members[0].shared.clone();
    let under_way = crate::upstream::InFlight::begin(&endpoint);
    assert_eq!(state.used(), [service.clone(), destination.clone()]);
    assert_eq!(state.used(), [service, destination], "for as long as it lasts");
    drop(under_way);
    assert_eq!(state.used(), []);
}

fn runs_on(node: &str, zone: &str) -> Change {
    let other = leno_proto::policy::InboundPort {
        port: 0,
        protocol: Protocol::Detect,
        listen: None,
        policy: Arc::default(),
        access: leno_proto::policy::Access::default(),
    };
    let own = Inbound {
        uid: "own".into(),
        identity: "spiffe://mesh.test/ns/shop/sa/web".parse().unwrap(),
        namespace: "shop".into(),
        pod: "own".into(),
        addresses: vec![],
        ports: vec![],
        other,
        grace: Duration::from_secs(30),
        node: node.into(),
        zone: zone.into(),
    };
    Change::Put(Key::Inbound("own".into()), Arc::new(Resource::Inbound(own)))
}

#[test]
fn where_a_service_is_local_only_the_own_node_s_endpoints_are_its_endpoints() {
    let (state, _wanted) = state();
    let now = Instant::now();
    let local = |nodes: &[&str]| {
        let on = |(n, node): (usize, &&str)| Endpoint { node: (*node).into(), ..fixtures::endpoint(node, n as u8) };
        let endpoints = nodes.iter().enumerate().map(on).collect();
        let resource = Endpoints { target: port(), bucket: 0, buckets: 1, endpoints, own_node_only: true };
        Change::Put(Key::Endpoints { target: port(), bucket: 0 }, Arc::new(Resource::Endpoints(resource)))
    };
    let members = || {
        let target = state.load().targets().next().unwrap().clone();
        target.members.iter().map(|member| member.endpoint.node.to_string()).collect::<Vec<_>>()
    };
    state.apply(vec![outbound(10), local(&["n1", "n2"])], now);
    assert_eq!(members(), [""; 0], "who does not know where it runs has no neighbours");
    state.apply(vec![runs_on("n2", "")], now);
    assert_eq!(members(), ["n2"]);
    state.apply(vec![local(&["n1", "n3"])], now);
    assert_eq!(members(), [""; 0], "no endpoint here is no endpoint");
}

#[test]
fn a_zone_that_becomes_known_counts_from_then_on() {
    let (state, _wanted) = state();
    let now = Instant::now();
    let mut near = fixtures::traffic();
    near.load_balancing.locality = leno_proto::policy::Locality::Strict;
    let Change::Put(key, resource) = outbound(10) else { unreachable!() };
    let Resource::Outbound(mut outbound) = Resource::clone(&resource) else { unreachable!() };
    outbound.ports[0].backend.policy = Arc::new(near);
    let zoned = |n: u8, zone: &str| Endpoint { zone: zone.into(), ..fixtures::endpoint(zone, n) };
    let endpoints = vec![zoned(1, "a"), zoned(2, "b")];
    let endpoints = Endpoints { target: port(), bucket: 0, buckets: 1, endpoints, own_node_only: false };
    let endpoints = (Key::Endpoints { target: port(), bucket: 0 }, Resource::Endpoints(endpoints));
    let changes = [(key, Resource::Outbound(outbound)), endpoints];
    state.apply(changes.map(|(key, resource)| Change::Put(key, Arc::new(resource))).into(), now);
    let near = || state.load().targets().next().unwrap().near().to_vec();
    assert_eq!(near(), [0, 1]);
    state.apply(vec![runs_on("n1", "b")], now);
    assert_eq!(near(), [1]);
}
