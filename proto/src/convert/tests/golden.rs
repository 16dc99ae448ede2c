//! The bytes of every release, kept for ever in `testdata/RELEASE/NAME.hex`. `UPDATE=1` writes those of this release anew,
//! which is right only before it is out.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use prost::Message;

use super::any::backend;
use super::any::outbound_port;
use crate::hash::Hash;
use crate::key::Key;
use crate::policy::*;
use crate::wire::control as wire;

/// The release whose wire this build speaks.
const RELEASE: &str = "0.1.0";

#[test]
fn this_release_writes_and_reads_its_golden_bytes() {
    for (name, resource) in resources() {
        let golden = golden(name, &resource.encode());
        assert_eq!(resource.encode(), golden, "{name}: the bytes have changed");
        assert_eq!(Resource::decode(&golden), Ok(resource), "{name}: the meaning has changed");
    }
    for (name, message) in to_proxy() {
        let golden = golden(name, &message.encode_to_vec());
        assert_eq!(message.encode_to_vec(), golden, "{name}: the bytes have changed");
        assert_eq!(wire::ToProxy::decode(golden.as_slice()), Ok(message), "{name}: the meaning has changed");
    }
    for (name, message) in from_proxy() {
        let golden = golden(name, &message.encode_to_vec());
        assert_eq!(message.encode_to_vec(), golden, "{name}: the bytes have changed");
        assert_eq!(wire::FromProxy::decode(golden.as_slice()), Ok(message), "{name}: the meaning has changed");
    }
}

#[test]
fn golden_bytes_of_every_release_decode() {
    let mut seen = 0;
    for release in fs::read_dir(testdata()).expect("testdata") {
        for file in fs::read_dir(release.expect("an entry").path()).expect("a release") {
            let path = file.expect("an entry").path();
            let name = path.file_stem().and_then(|stem| stem.to_str()).expect("a name");
            let bytes = read(&path);
            let decoded = match name.split_once('-') {
                Some(("to", _)) => wire::ToProxy::decode(bytes.as_slice()).is_ok(),
                Some(("from", _)) => wire::FromProxy::decode(bytes.as_slice()).is_ok(),
                _ => Resource::decode(&bytes).is_ok(),
            };
            assert!(decoded, "{}", path.display());
            seen += 1;
        }
    }
    assert!(seen > 0);
}

fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata")
}

fn golden(name: &str, bytes: &[u8]) -> Vec<u8> {
    let path = testdata().join(RELEASE).join(format!("{name}.hex"));
    if std::env::var_os("UPDATE").is_some() {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let lines: Vec<&str> = hex.as_bytes().chunks(120).map(|line| str::from_utf8(line).expect("hex")).collect();
        fs::create_dir_all(testdata().join(RELEASE)).expect("a directory");
        fs::write(&path, lines.join("\n") + "\n").expect("written");
    }
    read(&path)
}

fn read(path: &Path) -> Vec<u8> {
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let digits: Vec<u8> = text.chars().filter_map(|c| c.to_digit(16)).map(|digit| digit as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn resources() -> Vec<(&'static str, Resource)> {
    let target = ServicePort { service: ServiceName { namespace: "shop".into(), name: "orders".into() }, port: 80 };
    let endpoint = Endpoint {
        uid: "7d3c5a9e-0000-4000-8000-000000000001".into(),
        addresses: vec!["10.1.2.3:8080".parse().unwrap(), "[fd00::3]:8080".parse().unwrap()],
        identity: Some("spiffe://cluster.local/ns/shop/sa/orders".parse().unwrap()),
        hop_port: Some(18080),
        node: "node-1".into(),
        zone: "zone-a".into(),
        cluster: "main".into(),
        ready: true,
        serving: true,
        terminating: false,
        parallelism: 2,
        pod: "shop/orders-1".into(),
    };
    let workload =
        Workload { endpoint: endpoint.clone(), protocol: Protocol::Grpc, policy: Arc::new(crate::testing::traffic()) };
    let endpoints =
        Endpoints { target: target.clone(), bucket: 1, buckets: 2, endpoints: vec![endpoint], own_node_only: true };
    vec![
        ("destination-service", Resource::Destination(Destination::Service(target.clone()))),
        ("destination-workload", Resource::Destination(Destination::Workload(Box::new(workload)))),
        ("destination-not-found", Resource::Destination(Destination::NotFound)),
        ("outbound", Resource::Outbound(outbound())),
        ("endpoints", Resource::Endpoints(endpoints)),
        ("inbound", Resource::Inbound(inbound())),
        ("trust_bundle", Resource::TrustBundle(trust_bundle())),
        ("proxy_config", Resource::ProxyConfig(proxy_config())),
        ("egress_index", Resource::EgressIndex(egress_index())),
        ("share", Resource::Share(Share { max_connections: vec![(target, 40)] })),
    ]
}

/// Every union in each of its branches, and a policy that falls back.
fn outbound() -> Outbound {
    let plain = Arc::new(crate::testing::traffic());
    let header = |name: &str, value| ValueMatch { name: name.into(), value };
    let edit = HeaderEdit {
        set: vec![("x-a".into(), "1".into())],
        add: vec![("x-b".into(), "2".into())],
        remove: vec!["x-c".into()],
    };
    let redirect = Redirect {
        scheme: Some("https".into()),
        hostname: Some("other".into()),
        port: Some(8443),
        path: Some(PathEdit::Full("/new".into())),
        status: 301,
    };
    let rewrite = Filter::Rewrite { hostname: Some("in".into()), path: Some(PathEdit::Prefix("/v2".into())) };
    let mirror = Filter::Mirror { backend: backend("shadow", plain.clone()), parts_per_million: 10_000 };
    let rule = |name: &str, path, filters| Rule {
        name: name.into(),
        matches: vec![Match {
            path: Some(path),
            method: Some("GET".into()),
            headers: vec![header("x-user", StringMatch::Exact("a".into()))],
            query: vec![header("q", StringMatch::Regex(Pattern::new("[a-z]+").unwrap()))],
        }],
        filters,
        backends: vec![Backend { weight: 9, ..backend("orders-v1", plain.clone()) }, backend("orders-v2", full())],
        policy: full(),
    };
    let rules = vec![
        rule("exact", PathMatch::Exact("/a".into()), vec![Filter::RequestHeaders(edit.clone()), rewrite]),
        rule("prefix", PathMatch::Prefix("/b".into()), vec![Filter::ResponseHeaders(edit), mirror]),
        rule("regex", PathMatch::Regex(Pattern::new("/c/[0-9]+").unwrap()), vec![Filter::Redirect(redirect)]),
    ];
    let route =
        Route { kind: RouteKind::Http, origin: "shop/orders".into(), hostnames: vec!["orders.shop".into()], rules };
    Outbound {
        service: ServiceName { namespace: "shop".into(), name: "orders".into() },
        ports: vec![OutboundPort {
            routes: vec![route],
            client_ip_affinity: Some(seconds(10_800)),
            ..outbound_port(80, backend("orders", plain.clone()), plain)
        }],
    }
}

/// A policy in which everything is set.
fn full() -> Arc<Traffic> {
    let plain = crate::testing::traffic();
    let fallback = backend("orders-cache", Arc::new(plain.clone()));
    use RetryOn::*;
    let on = vec![ConnectFailure, RefusedStream, ResetBeforeRequest, GatewayError, ServerError, Reset, Timeout];
    Arc::new(Traffic {
        mode: Mode::Shadow,
        connection: Connection {
            max_connections_per_endpoint: Some(4),
            capacity: Some(Capacity { max_connections: 500, reserve_percent: 10 }),
            max_requests: Some(1000),
            ..plain.connection
        },
        timeouts: Timeouts {
            request: Some(seconds(30)),
            per_try: Some(seconds(10)),
            first_byte: Some(seconds(5)),
            stream_idle: Some(seconds(300)),
            max_stream_duration: Some(seconds(600)),
        },
        retries: Retries {
            on: [on, vec![RateLimited, Status(409), Grpc(14)]].concat(),
            methods: RetryMethods::Any,
            ..plain.retries
        },
        circuit_breaker: CircuitBreaker {
            endpoint: EndpointBreaker { status_failures: Some(7), ..plain.circuit_breaker.endpoint },
            service: Some(ServiceBreaker {
                trip: Trip::Ratio { failure_percent: 50, window: seconds(10), min_requests: 20 },
                slow: Some(Slow { threshold: seconds(2), percent: 80 }),
                open_for: seconds(30),
                open_for_max: seconds(300),
                half_open_requests: 3,
                half_open_timeout: seconds(10),
                on_open: OnOpen::Fallback(Box::new(fallback)),
            }),
        },
        concurrency: Concurrency {
            max_requests: 64,
            adaptive: Adaptive::Shadow,
            priority_header: Some("x-priority".into()),
        },
        load_balancing: LoadBalancing {
            algorithm: Algorithm::ConsistentHash { key: HashKey::Header("x-user".into()), bounded_percent: 125 },
            locality: Locality::Strict,
            subset: Subset::Size(20),
            ..plain.load_balancing
        },
        rate_limit: Some(RateLimit {
            requests_per_second: 100,
            burst: 20,
            on_exceeded: OnExceeded::Queue { max_wait: Duration::from_millis(500) },
        }),
    })
}

pub(super) fn inbound() -> Inbound {
    let sources = vec![Source {
        spiffe: vec![
            SpiffeMatch::Exact("spiffe://cluster.local/ns/shop/sa/web".parse().unwrap()),
            SpiffeMatch::Prefix("spiffe://cluster.local/ns/ops/*".into()),
        ],
        namespaces: vec!["shop".into()],
        cidrs: vec!["10.0.0.0/8".parse().unwrap()],
    }];
    let rule = AccessRule {
        origin: "shop/callers".into(),
        sources: Some(sources),
        methods: vec!["GET".into()],
        paths: vec!["/api/*".into()],
    };
    let rate = |requests_per_second| Rate { requests_per_second, burst: 10 };
    let policy = Arc::new(InboundTraffic {
        tls: TlsMode::Strict,
        max_connections: 10_000,
        per_client: Some(PerClient { max: Some(100), rate_per_second: Some(50), burst: 20 }),
        timeouts: InboundTimeouts {
            tls_handshake: seconds(10),
            request_headers: seconds(10),
            request_body_idle: seconds(60),
            idle: seconds(600),
            detect: seconds(3),
        },
        max_age: Some(seconds(3600)),
        max_age_grace: seconds(30),
        hop_streams: 128,
        plaintext_streams: 100,
        reset_limit: 200,
        headers_max_bytes: 65_536,
        headers_max_count: 100,
        app: AppHop {
            idle_timeout: seconds(3),
            retry_reset_before_request: true,
            max_concurrency: Some(32),
            max_connections: 1024,
            max_pending: 128,
            acquire_timeout: seconds(3),
        },
        rate_limit: Some(InboundRateLimit {
            total: Some(rate(1000)),
            per_identity: Some(rate(100)),
            overrides: vec![(SpiffeMatch::Prefix("spiffe://cluster.local/*".into()), rate(200))],
        }),
        overload: Overload { adaptive: Adaptive::Off, shed_percent: 90, refuse_percent: 95 },
    });
    let access = Access {
        deny: vec![AccessRule { sources: Some(Vec::new()), ..rule.clone() }],
        audit: vec![AccessRule { origin: "shop/watch".into(), ..AccessRule::default() }],
        allow: vec![rule],
        restricted: true,
        default: DefaultAccess::Deny,
    };
    let port = InboundPort { port: 8080, protocol: Protocol::Http1, listen: Some(18080), policy, access };
    Inbound {
        uid: "7d3c5a9e-0000-4000-8000-000000000001".into(),
        identity: "spiffe://cluster.local/ns/shop/sa/orders".parse().unwrap(),
        namespace: "shop".into(),
        pod: "orders-1".into(),
        addresses: vec!["10.1.2.3".parse().unwrap(), "fd00::3".parse().unwrap()],
        other: InboundPort { port: 0, protocol: Protocol::Detect, listen: None, ..port.clone() },
        ports: vec![port],
        grace: seconds(30),
        node: "node-1".into(),
        zone: "zone-a".into(),
    }
}

fn trust_bundle() -> TrustBundle {
    let anchor = bytes::Bytes::from_static(b"\x30\x03\x02\x01\x00");
    TrustBundle { domains: vec![("cluster.local".parse().unwrap(), vec![anchor])] }
}

fn proxy_config() -> ProxyConfig {
    ProxyConfig {
        trust_domain: "cluster.local".parse().unwrap(),
        mesh_networks: vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()],
        discovery_timeout: seconds(1),
        on_discovery_timeout: OnDiscoveryTimeout::Passthrough,
        unknown: Unknown::Deny,
        tracing: Tracing { endpoint: Some("http://otel.ops:4317".into()), sampling_ppm: 10_000 },
    }
}

fn egress_index() -> EgressIndex {
    EgressIndex {
        hosts: vec![EgressHost {
            origin: "shop/pay".into(),
            hostnames: vec!["api.pay.example".into(), "*.pay.example".into()],
            ports: vec![EgressPort {
                port: 80,
                protocol: Protocol::Http2,
                originate_tls: Some("api.pay.example".into()),
            }],
            addresses: vec!["192.0.2.7".parse().unwrap()],
            policy: Arc::new(crate::testing::traffic()),
        }],
    }
}

fn to_proxy() -> Vec<(&'static str, wire::ToProxy)> {
    use wire::to_proxy::Message;
    let key = Some(Key::TrustBundle.to_wire());
    let hash = || bytes::Bytes::copy_from_slice(Hash::of(b"a").as_bytes());
    let change = |change| wire::Change { key: key.clone(), change: Some(change) };
    let changes = vec![
        change(wire::change::Change::Put(wire::Put { hash: hash(), resource: bytes::Bytes::from_static(b"a") })),
        change(wire::change::Change::Unchanged(wire::Unchanged { hash: hash() })),
        change(wire::change::Change::Removed(wire::Removed { gone: false })),
    ];
    let welcome = wire::Welcome { replica: "leno-0".into(), build: "0.1.0".into(), capabilities: vec!["a.b".into()] };
    vec![
        ("to-welcome", Message::Welcome(welcome)),
        ("to-transaction", Message::Transaction(wire::Transaction { id: 7, changes, last: true })),
        ("to-heartbeat", Message::Heartbeat(wire::Heartbeat { unix_millis: 1_700_000_000_000, digest: hash() })),
        ("to-goaway", Message::Goaway(wire::Goaway { reconnect_within_millis: 5000, why: "restart".into() })),
    ]
    .into_iter()
    .map(|(name, message)| (name, wire::ToProxy { message: Some(message) }))
    .collect()
}

fn from_proxy() -> Vec<(&'static str, wire::FromProxy)> {
    use wire::from_proxy::Message;
    let key = || Some(Key::Destination("10.1.2.3:80".parse().unwrap()).to_wire());
    let hash = || bytes::Bytes::copy_from_slice(Hash::of(b"a").as_bytes());
    let hello = wire::Hello {
        build: "0.1.0".into(),
        pod_uid: "uid-1".into(),
        capabilities: vec!["access".into()],
        parallelism: 2,
    };
    let held = wire::HeldResource { key: key(), hash: hash(), rejected: vec![hash()] };
    let applied = wire::Applied { key: key(), hash: hash(), unsupported: vec!["traffic.timeouts.request".into()] };
    let rejected =
        wire::Rejected { key: key(), hash: hash(), field: "outbound.service".into(), message: "missing".into() };
    let subscribe = wire::Subscribe { add: vec![key().expect("a key")], remove: vec![key().expect("a key")] };
    let report = wire::Report { transaction: 7, applied: vec![applied], rejected: vec![rejected] };
    vec![
        ("from-hello", Message::Hello(hello)),
        ("from-held", Message::Held(wire::Held { resources: vec![held], last: true })),
        ("from-subscribe", Message::Subscribe(subscribe)),
        ("from-report", Message::Report(report)),
        ("from-heartbeat", Message::Heartbeat(wire::Heartbeat { unix_millis: 1_700_000_000_000, digest: hash() })),
    ]
    .into_iter()
    .map(|(name, message)| (name, wire::FromProxy { message: Some(message) }))
    .collect()
}
