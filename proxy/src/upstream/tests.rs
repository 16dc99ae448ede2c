//! Who may be asked, and what is learned.

use super::*;

fn target(endpoints: &[Endpoint]) -> Target {
    let service = leno_proto::policy::ServiceName { namespace: "n".into(), name: "s".into() };
    let name = ServicePort { service, port: 80 };
    let context =
        Context { now: Instant::now(), reclaim: &|_| Box::new(|| ()), share: Some(7), here: &Here::default() };
    let endpoints: Vec<&Endpoint> = endpoints.iter().collect();
    Target::build(&name, &Arc::new(fixtures::traffic()), &endpoints, None, &context)
}

#[test]
fn terminating_endpoints_serve_only_where_none_is_ready() {
    let ready = fixtures::endpoint("a", 1);
    let leaving = Endpoint { ready: false, serving: true, terminating: true, ..fixtures::endpoint("b", 2) };
    let gone = Endpoint { ready: false, serving: false, terminating: true, ..fixtures::endpoint("c", 3) };
    let uids = |t: &Target| t.usable().iter().map(|n| t.members[*n].endpoint.uid.to_string()).collect::<Vec<_>>();
    assert_eq!(uids(&target(&[ready, leaving.clone(), gone.clone()])), ["a"]);
    assert_eq!(uids(&target(&[leaving, gone])), ["b"]);
}

#[test]
fn a_share_bounds_the_connections_below_the_policys_own_limit() {
    assert_eq!(target(&[]).shared.connections.limit(), 7);
}

#[test]
fn a_hop_port_is_what_is_dialled() {
    let endpoint = Endpoint { hop_port: Some(18080), ..fixtures::endpoint("a", 1) };
    assert_eq!(EndpointKey::of(&endpoint).unwrap().address.port(), 18080);
}

#[test]
fn requests_under_way_are_counted_until_they_end() {
    let target = target(&[fixtures::endpoint("a", 1)]);
    let shared = &target.members[0].shared;
    let (one, two) = (InFlight::begin(shared), InFlight::begin(shared));
    assert_eq!(shared.in_flight.load(Ordering::Relaxed), 2);
    drop((one, two));
    assert_eq!(shared.in_flight.load(Ordering::Relaxed), 0);
}
