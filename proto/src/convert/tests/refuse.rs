//! What no proxy may take, and how it is told.

use prost::Message;

use crate::policy::Resource;
use crate::wire::policy as wire;
use crate::wire::policy::resource::Kind;

fn refused(resource: wire::Resource) -> String {
    Resource::decode(&resource.encode_to_vec()).expect_err("refused").to_string()
}

fn kind(kind: Kind) -> wire::Resource {
    wire::Resource { kind: Some(kind), ..wire::Resource::default() }
}

fn target(port: u32) -> Option<wire::ServicePort> {
    let service = Some(wire::ServiceName { namespace: "shop".into(), name: "orders".into() });
    Some(wire::ServicePort { service, port })
}

fn backend(weight: u32, policy: u32) -> wire::Backend {
    wire::Backend {
        target: target(80),
        weight,
        protocol: wire::Protocol::Http1.into(),
        filters: Vec::new(),
        policy,
        resolved: true,
    }
}

fn endpoints(of: wire::Endpoints) -> wire::Resource {
    kind(Kind::Endpoints(of))
}

/// A policy that the model would write, to be damaged.
fn traffic() -> wire::Traffic {
    let resource = Resource::EgressIndex(crate::policy::EgressIndex {
        hosts: vec![crate::policy::EgressHost {
            origin: "shop/pay".into(),
            hostnames: Vec::new(),
            ports: Vec::new(),
            addresses: Vec::new(),
            policy: std::sync::Arc::new(crate::testing::traffic()),
        }],
    });
    let mut sent = wire::Resource::decode(resource.encode().as_slice()).expect("a message");
    sent.traffic.remove(0)
}

fn with_fallback(mut policy: wire::Traffic, to: u32) -> wire::Traffic {
    let breaker = policy.circuit_breaker.get_or_insert_default();
    breaker.service = Some(wire::ServiceBreaker {
        slow: None,
        open_for_ms: 1,
        open_for_max_ms: 1,
        half_open_requests: 1,
        half_open_timeout_ms: 1,
        trip: Some(wire::service_breaker::Trip::Consecutive(wire::TripConsecutive { count: 1 })),
        on_open: Some(wire::service_breaker::OnOpen::Fallback(backend(1, to))),
    });
    policy
}

#[test]
fn every_refusal_names_the_field() {
    let index = |policy| {
        let host = wire::EgressHost { policy, ..wire::EgressHost::default() };
        kind(Kind::EgressIndex(wire::EgressIndex { hosts: vec![host] }))
    };
    let cases = [
        (wire::Resource::default(), "no resource of a kind that this build knows"),
        (
            wire::Resource { requires: vec!["magic".into()], ..index(0) },
            "requires: this build lacks the required capability \"magic\"",
        ),
        (kind(Kind::Destination(wire::Destination::default())), "destination: missing"),
        (kind(Kind::Outbound(wire::Outbound::default())), "outbound.service: missing"),
        (index(0), "egress_index.hosts[0].policy: no policy 0"),
        (endpoints(wire::Endpoints { target: target(0), ..Default::default() }), "endpoints.target.port: 0 is no port"),
        (endpoints(wire::Endpoints { target: target(65536), ..Default::default() }), "endpoints.target.port: 65536"),
        (endpoints(wire::Endpoints { target: target(1), ..Default::default() }), "endpoints.bucket: 0 is not below"),
        (
            endpoints(wire::Endpoints {
                target: target(1),
                bucket: 0,
                buckets: 1,
                endpoints: vec![wire::Endpoint { uid: "a".into(), ..Default::default() }],
                own_node_only: false,
            }),
            "endpoints.endpoints[0].addresses: empty",
        ),
        (
            endpoints(wire::Endpoints {
                target: target(1),
                bucket: 0,
                buckets: 1,
                endpoints: vec![wire::Endpoint { addresses: vec!["[fe80::1%3]:80".into()], ..Default::default() }],
                own_node_only: false,
            }),
            "endpoints.endpoints[0].addresses[0]: \"[fe80::1%3]:80\" is no address",
        ),
        (
            wire::Resource { traffic: vec![wire::Traffic { mode: 9, ..traffic() }], ..index(0) },
            "traffic[0].mode: unknown Mode 9",
        ),
        (
            wire::Resource { traffic: vec![wire::Traffic { timeouts: None, ..traffic() }], ..index(0) },
            "traffic[0].timeouts: missing",
        ),
        (
            wire::Resource { traffic: vec![with_fallback(traffic(), 0)], ..index(0) },
            "traffic[0].circuit_breaker.service.on_open.fallback.policy: no policy 0 before this place",
        ),
    ];
    for (resource, wanted) in cases {
        let said = refused(resource);
        assert!(said.starts_with(wanted), "{said:?} does not begin with {wanted:?}");
    }
}

#[test]
fn chains_and_nesting_have_an_end() {
    let chain = |n: u32| {
        let mut table = vec![traffic()];
        table.extend((1..n).map(|i| with_fallback(traffic(), i - 1)));
        wire::Resource { traffic: table, ..kind(Kind::EgressIndex(wire::EgressIndex::default())) }
    };
    assert!(Resource::decode(&chain(8).encode_to_vec()).is_ok());
    assert_eq!(refused(chain(9)), "traffic[8]: fallbacks chain more than 8 policies");

    let nested = |n: u32| {
        let mut backend = backend(1, 0);
        for _ in 1..n {
            let mirror = wire::Mirror { backend: Some(backend), parts_per_million: 0 };
            let filter = wire::Filter { filter: Some(wire::filter::Filter::Mirror(mirror)) };
            backend = wire::Backend { filters: vec![filter], ..self::backend(1, 0) };
        }
        let port = wire::OutboundPort {
            port: 80,
            protocol: wire::Protocol::Http1.into(),
            backend: Some(backend),
            ..Default::default()
        };
        let service = Some(wire::ServiceName { namespace: "a".into(), name: "b".into() });
        let outbound = kind(Kind::Outbound(wire::Outbound { service, ports: vec![port] }));
        wire::Resource { traffic: vec![traffic()], ..outbound }
    };
    assert!(Resource::decode(&nested(4).encode_to_vec()).is_ok());
    assert!(refused(nested(5)).ends_with("backends nest deeper than 4"));
    // Beyond what the decoder itself follows.
    assert!(Resource::decode(&nested(2000).encode_to_vec()).is_err());
}

#[test]
fn a_resource_above_the_bound_is_refused_unread() {
    let bytes = vec![0; super::super::RESOURCE_BYTES_MAX + 1];
    let said = Resource::decode(&bytes).expect_err("refused").to_string();
    assert_eq!(said, "261121 bytes are more than 261120");
}

#[test]
fn what_guards_is_required_of_the_proxy() {
    use crate::policy::*;
    let inbound = crate::convert::tests::golden::inbound();
    assert_eq!(
        crate::capability::required(&Resource::Inbound(inbound.clone())),
        ["access", "access.http", "inbound.tls.strict"]
    );
    let sent = wire::Resource::decode(Resource::Inbound(inbound).encode().as_slice()).expect("a message");
    assert_eq!(sent.requires, ["access", "access.http", "inbound.tls.strict"]);
    assert!(crate::capability::required(&Resource::Share(Share::default())).is_empty());
}
