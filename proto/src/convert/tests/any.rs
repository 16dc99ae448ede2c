//! Any resource that the model can say and the wire can carry, from dice.

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::policy::*;

/// SplitMix64: a seed is a whole resource.
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.roll() % bound
    }

    fn coin(&mut self) -> bool {
        self.below(2) == 0
    }

    fn of<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize].clone()
    }

    fn maybe<T>(&mut self, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.coin().then(|| make(self))
    }

    fn list<T>(&mut self, mut make: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.below(3)).map(|_| make(self)).collect()
    }

    /// Zero is as likely as any other.
    fn number(&mut self) -> u32 {
        self.of(&[0, 1, 7, 1024, u32::MAX])
    }

    fn positive(&mut self) -> u32 {
        self.number().max(1)
    }

    fn percent(&mut self) -> u8 {
        self.of(&[0, 1, 50, 100])
    }

    fn port(&mut self) -> u16 {
        self.of(&[1, 80, 8080, 65535])
    }

    fn duration(&mut self) -> Duration {
        Duration::from_millis(self.of(&[0, 1, 250, 3_600_000, 400_000 * 3_600_000]))
    }

    fn word(&mut self) -> Arc<str> {
        self.of(&["a", "shop", "orders-v2", "x.y_z"]).into()
    }

    fn text(&mut self) -> Arc<str> {
        self.of(&["", "shop/orders", "ä / %2F \u{0}", "*.example.com"]).into()
    }

    fn ip(&mut self) -> IpAddr {
        let bits = self.roll();
        match self.coin() {
            true => Ipv4Addr::from_bits(bits as u32).into(),
            false => Ipv6Addr::from_bits(u128::from(bits) << 64 | u128::from(self.roll())).into(),
        }
    }

    fn network(&mut self) -> ipnet::IpNet {
        let ip = self.ip();
        let bits = if ip.is_ipv4() { 32 } else { 128 };
        ipnet::IpNet::new(ip, self.below(bits + 1) as u8).expect("the length fits")
    }

    fn id(&mut self) -> crate::identity::SpiffeId {
        format!("spiffe://{}/ns/{}/sa/{}", self.word(), self.word(), self.word()).parse().expect("an id")
    }

    fn protocol(&mut self) -> Protocol {
        use Protocol::*;
        self.of(&[Detect, Http1, Http2, Grpc, Opaque, Tls])
    }

    fn service(&mut self) -> ServiceName {
        ServiceName { namespace: self.word(), name: self.word() }
    }

    fn target(&mut self) -> ServicePort {
        ServicePort { service: self.service(), port: self.port() }
    }
}

pub(super) fn resource(d: &mut Dice) -> Resource {
    match d.below(10) {
        0 => Resource::Destination(Destination::Service(d.target())),
        1 => Resource::Destination(Destination::NotFound),
        2 => Resource::Destination(Destination::Workload(Box::new(Workload {
            endpoint: endpoint(d),
            protocol: d.protocol(),
            policy: policy(d),
        }))),
        3 => Resource::Outbound(Outbound { service: d.service(), ports: d.list(port) }),
        4 => {
            let buckets = d.positive();
            Resource::Endpoints(Endpoints {
                target: d.target(),
                bucket: d.below(buckets.into()) as u32,
                buckets,
                endpoints: d.list(endpoint),
                own_node_only: d.coin(),
            })
        }
        5 => Resource::Inbound(inbound(d)),
        6 => {
            let anchors = |d: &mut Dice| d.list(|d| bytes::Bytes::copy_from_slice(&d.roll().to_be_bytes()));
            let names = ["a", "b.c"].iter().filter(|_| d.coin()).collect::<Vec<_>>();
            let domains = names.into_iter().map(|name| (name.parse().expect("a domain"), anchors(d))).collect();
            Resource::TrustBundle(TrustBundle { domains })
        }
        7 => Resource::ProxyConfig(ProxyConfig {
            trust_domain: d.word().parse().expect("a domain"),
            mesh_networks: d.list(Dice::network),
            discovery_timeout: d.duration(),
            on_discovery_timeout: d.of(&[OnDiscoveryTimeout::Fail, OnDiscoveryTimeout::Passthrough]),
            unknown: d.of(&[Unknown::Allow, Unknown::Deny]),
            tracing: Tracing { endpoint: d.maybe(Dice::text), sampling_ppm: d.of(&[0, 1_000_000]) },
        }),
        8 => Resource::EgressIndex(EgressIndex { hosts: d.list(egress_host) }),
        _ => Resource::Share(Share { max_connections: d.list(|d| (d.target(), d.number())) }),
    }
}

fn endpoint(d: &mut Dice) -> Endpoint {
    Endpoint {
        uid: d.word(),
        addresses: (0..=d.below(2)).map(|_| SocketAddr::new(d.ip(), d.port())).collect(),
        identity: d.maybe(Dice::id),
        hop_port: d.maybe(Dice::port),
        node: d.text(),
        zone: d.text(),
        cluster: d.text(),
        ready: d.coin(),
        serving: d.coin(),
        terminating: d.coin(),
        parallelism: d.number(),
        pod: d.text(),
    }
}

pub(super) fn outbound_port(port: u16, backend: Backend, policy: Arc<Traffic>) -> OutboundPort {
    OutboundPort {
        port,
        name: "http".into(),
        protocol: Protocol::Http1,
        routes: Vec::new(),
        backend,
        policy,
        client_ip_affinity: None,
    }
}

pub(super) fn backend(name: &str, policy: Arc<Traffic>) -> Backend {
    Backend {
        target: ServicePort { service: ServiceName { namespace: "shop".into(), name: name.into() }, port: 80 },
        weight: 1,
        protocol: Protocol::Http1,
        filters: Vec::new(),
        policy,
        resolved: true,
    }
}

fn port(d: &mut Dice) -> OutboundPort {
    OutboundPort {
        port: d.port(),
        name: d.text(),
        protocol: d.protocol(),
        routes: d.list(route),
        backend: any_backend(d, 2),
        policy: policy(d),
        client_ip_affinity: d.maybe(Dice::duration),
    }
}

fn route(d: &mut Dice) -> Route {
    Route {
        kind: d.of(&[RouteKind::Http, RouteKind::Grpc, RouteKind::Tcp]),
        origin: d.text(),
        hostnames: d.list(Dice::text),
        rules: d.list(|d| Rule {
            name: d.text(),
            matches: d.list(a_match),
            filters: d.list(|d| filter(d, 2)),
            backends: d.list(|d| any_backend(d, 2)),
            policy: policy(d),
        }),
    }
}

fn pattern(d: &mut Dice) -> Pattern {
    Pattern::new(d.of(&["", "a|b", "/[^/]+/x", r"(?i)v\d+"])).expect("a pattern")
}

fn a_match(d: &mut Dice) -> Match {
    let path = |d: &mut Dice| match d.below(3) {
        0 => PathMatch::Exact(d.text()),
        1 => PathMatch::Prefix(d.text()),
        _ => PathMatch::Regex(pattern(d)),
    };
    let value = |d: &mut Dice| ValueMatch {
        name: d.word(),
        value: match d.coin() {
            true => StringMatch::Exact(d.text()),
            false => StringMatch::Regex(pattern(d)),
        },
    };
    Match { path: d.maybe(path), method: d.maybe(Dice::word), headers: d.list(value), query: d.list(value) }
}

fn path_edit(d: &mut Dice) -> PathEdit {
    match d.coin() {
        true => PathEdit::Full(d.text()),
        false => PathEdit::Prefix(d.text()),
    }
}

fn filter(d: &mut Dice, depth: u32) -> Filter {
    let edit = |d: &mut Dice| HeaderEdit {
        set: d.list(|d| (d.word(), d.text())),
        add: d.list(|d| (d.word(), d.text())),
        remove: d.list(Dice::word),
    };
    match d.below(if depth > 0 { 5 } else { 4 }) {
        0 => Filter::RequestHeaders(edit(d)),
        1 => Filter::ResponseHeaders(edit(d)),
        2 => Filter::Redirect(Redirect {
            scheme: d.maybe(Dice::word),
            hostname: d.maybe(Dice::word),
            port: d.maybe(Dice::port),
            path: d.maybe(path_edit),
            status: d.of(&[301, 302, 308]),
        }),
        3 => Filter::Rewrite { hostname: d.maybe(Dice::word), path: d.maybe(path_edit) },
        _ => Filter::Mirror { backend: any_backend(d, depth - 1), parts_per_million: d.of(&[0, 1_000_000]) },
    }
}

fn any_backend(d: &mut Dice, depth: u32) -> Backend {
    Backend {
        target: d.target(),
        weight: d.of(&[0, 1, 1_000_000]),
        protocol: d.protocol(),
        filters: d.list(|d| filter(d, depth)),
        policy: policy(d),
        resolved: d.coin(),
    }
}

fn inbound(d: &mut Dice) -> Inbound {
    let port = |d: &mut Dice, port: u16| InboundPort {
        port,
        protocol: d.protocol(),
        listen: d.maybe(Dice::port),
        policy: Arc::new(inbound_traffic(d)),
        access: Access {
            deny: d.list(access_rule),
            allow: d.list(access_rule),
            audit: d.list(access_rule),
            restricted: d.coin(),
            default: d.of(&[DefaultAccess::Allow, DefaultAccess::Deny]),
        },
    };
    Inbound {
        uid: d.word(),
        identity: d.id(),
        namespace: d.word(),
        pod: d.text(),
        addresses: d.list(Dice::ip),
        ports: d.list(|d| {
            let number = d.port();
            port(d, number)
        }),
        other: port(d, 0),
        grace: d.duration(),
        node: d.text(),
        zone: d.text(),
    }
}

fn spiffe_match(d: &mut Dice) -> SpiffeMatch {
    match d.coin() {
        true => SpiffeMatch::Exact(d.id()),
        false => SpiffeMatch::Prefix(d.of(&["spiffe://a/*", "spiffe://a/ns/shop/*"]).into()),
    }
}

fn access_rule(d: &mut Dice) -> AccessRule {
    let source = |d: &mut Dice| Source {
        spiffe: d.list(spiffe_match),
        namespaces: d.list(Dice::word),
        cidrs: d.list(Dice::network),
    };
    AccessRule {
        origin: d.text(),
        sources: d.maybe(|d| d.list(source)),
        methods: d.list(Dice::word),
        paths: d.list(Dice::text),
    }
}

fn egress_host(d: &mut Dice) -> EgressHost {
    EgressHost {
        origin: d.text(),
        hostnames: d.list(Dice::word),
        ports: d.list(|d| EgressPort { port: d.port(), protocol: d.protocol(), originate_tls: d.maybe(Dice::word) }),
        addresses: d.list(Dice::ip),
        policy: policy(d),
    }
}

fn policy(d: &mut Dice) -> Arc<Traffic> {
    Arc::new(traffic(d, 2))
}

fn adaptive(d: &mut Dice) -> Adaptive {
    d.of(&[Adaptive::Off, Adaptive::Shadow, Adaptive::Enforce])
}

fn traffic(d: &mut Dice, depth: u32) -> Traffic {
    Traffic {
        mode: d.of(&[Mode::Enforce, Mode::Shadow]),
        connection: connection(d),
        timeouts: Timeouts {
            request: d.maybe(Dice::duration),
            per_try: d.maybe(Dice::duration),
            first_byte: d.maybe(Dice::duration),
            stream_idle: d.maybe(Dice::duration),
            max_stream_duration: d.maybe(Dice::duration),
        },
        retries: retries(d),
        circuit_breaker: CircuitBreaker {
            endpoint: EndpointBreaker {
                consecutive_failures: d.maybe(Dice::number),
                status_failures: d.maybe(Dice::number),
                penalty_min: d.duration(),
                penalty_max: d.duration(),
                max_ejected_percent: d.percent(),
                panic_threshold: d.percent(),
            },
            service: d.maybe(|d| service_breaker(d, depth)),
        },
        concurrency: Concurrency {
            max_requests: d.positive(),
            adaptive: adaptive(d),
            priority_header: d.maybe(Dice::word),
        },
        load_balancing: load_balancing(d),
        rate_limit: d.maybe(|d| RateLimit {
            requests_per_second: d.positive(),
            burst: d.positive(),
            on_exceeded: match d.coin() {
                true => OnExceeded::Reject,
                false => OnExceeded::Queue { max_wait: d.duration() },
            },
        }),
    }
}

fn connection(d: &mut Dice) -> Connection {
    Connection {
        connect_timeout: d.duration(),
        max_connections: d.positive(),
        max_connections_per_endpoint: d.maybe(Dice::number),
        min_idle_per_endpoint: d.number(),
        capacity: d.maybe(|d| Capacity { max_connections: d.number(), reserve_percent: d.percent() }),
        max_pending: d.number(),
        acquire_timeout: d.duration(),
        idle_timeout: d.duration(),
        max_lifetime: d.maybe(Dice::duration),
        max_requests: d.maybe(Dice::number),
        keepalive: Keepalive { idle: d.duration(), interval: d.duration(), probes: d.number() },
        http2: Http2Ping { ping_interval: d.duration(), ping_timeout: d.duration() },
        warmup: Warmup { connect_rate: d.positive(), burst: d.positive() },
    }
}

fn retries(d: &mut Dice) -> Retries {
    use RetryOn::*;
    let on =
        [ConnectFailure, RefusedStream, ResetBeforeRequest, GatewayError, ServerError, Reset, Timeout, RateLimited];
    Retries {
        attempts: d.number(),
        on: d.list(|d| match d.below(3) {
            0 => d.of(&on),
            1 => Status(d.of(&[100, 409, 599])),
            _ => Grpc(d.of(&[1, 14, 16])),
        }),
        methods: d.of(&[RetryMethods::Idempotent, RetryMethods::Any]),
        backoff: Backoff { base: d.duration(), max: d.duration() },
        budget: Budget {
            percent: d.percent(),
            interval: d.duration().max(Duration::from_millis(1)),
            min_per_second: d.number(),
        },
        respect_retry_after: d.coin(),
        retry_after_max: d.duration(),
        max_body_bytes: d.number(),
        different_endpoint: d.coin(),
    }
}

fn service_breaker(d: &mut Dice, depth: u32) -> ServiceBreaker {
    ServiceBreaker {
        trip: match d.below(3) {
            0 => Trip::Ratio { failure_percent: d.percent(), window: d.duration(), min_requests: d.number() },
            1 => Trip::Consecutive { count: d.number() },
            _ => Trip::Count { failures: d.number(), window: d.duration() },
        },
        slow: d.maybe(|d| Slow { threshold: d.duration(), percent: d.percent() }),
        open_for: d.duration(),
        open_for_max: d.duration(),
        half_open_requests: d.number(),
        half_open_timeout: d.duration(),
        on_open: match depth > 0 && d.coin() {
            false => OnOpen::Reject { status: d.of(&[400, 503, 599]) },
            true => {
                let policy = Arc::new(traffic(d, depth - 1));
                OnOpen::Fallback(Box::new(Backend { weight: d.number() % 9, ..backend("fallback", policy) }))
            }
        },
    }
}

fn load_balancing(d: &mut Dice) -> LoadBalancing {
    LoadBalancing {
        algorithm: match d.below(3) {
            0 => Algorithm::LeastLoaded { decay: d.duration() },
            1 => Algorithm::RoundRobin,
            _ => {
                let (header, cookie) = (HashKey::Header(d.word()), HashKey::Cookie(d.word()));
                let key = d.of(&[header, cookie, HashKey::SourceIp]);
                Algorithm::ConsistentHash { key, bounded_percent: d.number() }
            }
        },
        slow_start: d.maybe(|d| SlowStart { window: d.duration(), min_weight_percent: d.percent() }),
        locality: d.of(&[Locality::Prefer, Locality::Off, Locality::Strict, Locality::Node]),
        subset: d.of(&[Subset::Auto, Subset::Off, Subset::Size(0), Subset::Size(20)]),
        penalize_rate_limited: d.maybe(Dice::duration),
    }
}

fn inbound_traffic(d: &mut Dice) -> InboundTraffic {
    let rate = |d: &mut Dice| Rate { requests_per_second: d.positive(), burst: d.positive() };
    InboundTraffic {
        tls: d.of(&[TlsMode::Permissive, TlsMode::Strict, TlsMode::Off]),
        max_connections: d.positive(),
        per_client: d.maybe(|d| PerClient {
            max: d.maybe(Dice::number),
            rate_per_second: d.maybe(Dice::number),
            burst: d.number(),
        }),
        timeouts: InboundTimeouts {
            tls_handshake: d.duration(),
            request_headers: d.duration(),
            request_body_idle: d.duration(),
            idle: d.duration(),
            detect: d.duration(),
        },
        max_age: d.maybe(Dice::duration),
        max_age_grace: d.duration(),
        hop_streams: d.positive(),
        plaintext_streams: d.positive(),
        reset_limit: d.number(),
        headers_max_bytes: d.number(),
        headers_max_count: d.number(),
        app: AppHop {
            idle_timeout: d.duration(),
            retry_reset_before_request: d.coin(),
            max_concurrency: d.maybe(Dice::number),
            max_connections: d.positive(),
            max_pending: d.number(),
            acquire_timeout: d.duration(),
        },
        rate_limit: d.maybe(|d| InboundRateLimit {
            total: d.maybe(rate),
            per_identity: d.maybe(rate),
            overrides: d.list(|d| (spiffe_match(d), rate(d))),
        }),
        overload: Overload { adaptive: adaptive(d), shed_percent: d.percent(), refuse_percent: d.percent() },
    }
}
