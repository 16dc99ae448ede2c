//! From a merged body to the policy that a proxy enforces: every field has its value, from the body or from the table. It must
//! never be handed a body that `check` refuses; what it cannot read it takes from the table.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::fields::Body;
use crate::fields::Field;
use crate::fields::Problem;
use crate::fields::duration;
use crate::fields::table::INBOUND;
use crate::fields::table::TRAFFIC;
use crate::policy::Adaptive;
use crate::policy::Algorithm;
use crate::policy::AppHop;
use crate::policy::Backoff;
use crate::policy::Budget;
use crate::policy::Capacity;
use crate::policy::CircuitBreaker;
use crate::policy::Concurrency;
use crate::policy::Connection;
use crate::policy::EndpointBreaker;
use crate::policy::HashKey;
use crate::policy::Http2Ping;
use crate::policy::InboundRateLimit;
use crate::policy::InboundTimeouts;
use crate::policy::InboundTraffic;
use crate::policy::Keepalive;
use crate::policy::LoadBalancing;
use crate::policy::Locality;
use crate::policy::Mode;
use crate::policy::OnExceeded;
use crate::policy::OnOpen;
use crate::policy::Overload;
use crate::policy::PerClient;
use crate::policy::Rate;
use crate::policy::RateLimit;
use crate::policy::Retries;
use crate::policy::RetryMethods;
use crate::policy::RetryOn;
use crate::policy::ServiceBreaker;
use crate::policy::Slow;
use crate::policy::SlowStart;
use crate::policy::SpiffeMatch;
use crate::policy::Subset;
use crate::policy::Timeouts;
use crate::policy::TlsMode;
use crate::policy::Traffic;
use crate::policy::Trip;
use crate::policy::Warmup;

/// What no policy at all means.
impl Default for Traffic {
    fn default() -> Self {
        traffic(&Body::new())
    }
}

impl Default for InboundTraffic {
    fn default() -> Self {
        inbound(&Body::new())
    }
}

/// The policy of a TrafficPolicy body, merged over all levels.
pub fn traffic(body: &Body) -> Traffic {
    let read = Reader { table: TRAFFIC, body };
    Traffic {
        mode: if read.text("mode").as_deref() == Some("Shadow") { Mode::Shadow } else { Mode::Enforce },
        connection: connection(&read),
        timeouts: Timeouts {
            request: read.time("timeouts.request"),
            per_try: read.time("timeouts.perTry"),
            first_byte: read.time("timeouts.firstByte"),
            stream_idle: read.time_on("timeouts.streamIdle"),
            max_stream_duration: read.time("timeouts.maxStreamDuration"),
        },
        retries: retries(&read),
        circuit_breaker: CircuitBreaker { endpoint: endpoint_breaker(&read), service: service_breaker(&read) },
        concurrency: Concurrency {
            max_requests: read.count("concurrency.maxRequests"),
            adaptive: adaptive(&read, "concurrency.adaptive"),
            priority_header: read.text("concurrency.priorityHeader").map(Arc::from),
        },
        load_balancing: load_balancing(&read),
        rate_limit: read.is_set("rateLimit").then(|| rate_limit(&read)),
    }
}

fn connection(read: &Reader<'_>) -> Connection {
    Connection {
        connect_timeout: read.duration("connection.connectTimeout"),
        max_connections: read.count("connection.maxConnections"),
        max_connections_per_endpoint: read.number("connection.maxConnectionsPerEndpoint"),
        min_idle_per_endpoint: read.count("connection.minIdlePerEndpoint"),
        capacity: read.number("connection.capacity.maxConnections").map(|max_connections| Capacity {
            max_connections,
            reserve_percent: read.percent("connection.capacity.reservePercent"),
        }),
        max_pending: read.count("connection.maxPending"),
        acquire_timeout: read.duration("connection.acquireTimeout"),
        idle_timeout: read.duration("connection.idleTimeout"),
        max_lifetime: read.time_on("connection.maxLifetime"),
        max_requests: Some(read.count("connection.maxRequests")).filter(|max| *max > 0),
        keepalive: Keepalive {
            idle: read.duration("connection.keepalive.idle"),
            interval: read.duration("connection.keepalive.interval"),
            probes: read.count("connection.keepalive.probes"),
        },
        http2: Http2Ping {
            ping_interval: read.duration("connection.http2.pingInterval"),
            ping_timeout: read.duration("connection.http2.pingTimeout"),
        },
        warmup: Warmup {
            connect_rate: read.count("connection.warmup.connectRate"),
            burst: read.count("connection.warmup.burst"),
        },
    }
}

fn retries(read: &Reader<'_>) -> Retries {
    let on = match read.value("retries.retryOn") {
        Some(Value::Array(items)) => items.iter().filter_map(retry_on).collect(),
        _ => vec![RetryOn::ConnectFailure, RetryOn::RefusedStream, RetryOn::ResetBeforeRequest],
    };
    Retries {
        attempts: read.count("retries.attempts"),
        on,
        methods: if read.text("retries.methods").as_deref() == Some("Any") {
            RetryMethods::Any
        } else {
            RetryMethods::Idempotent
        },
        backoff: Backoff { base: read.duration("retries.backoff.base"), max: read.duration("retries.backoff.max") },
        budget: Budget {
            percent: read.percent("retries.budget.percent"),
            interval: read.duration("retries.budget.interval"),
            min_per_second: read.count("retries.budget.minPerSecond"),
        },
        respect_retry_after: read.switch("retries.respectRetryAfter"),
        retry_after_max: Duration::from_secs(10),
        max_body_bytes: read.count("retries.maxBodyBytes"),
        different_endpoint: read.switch("retries.differentEndpoint"),
    }
}

fn retry_on(item: &Value) -> Option<RetryOn> {
    Some(match item {
        Value::Number(code) => RetryOn::Status(u16::try_from(code.as_u64()?).ok()?),
        Value::String(name) => match name.as_str() {
            "ConnectFailure" => RetryOn::ConnectFailure,
            "RefusedStream" => RetryOn::RefusedStream,
            "ResetBeforeRequest" => RetryOn::ResetBeforeRequest,
            "GatewayError" => RetryOn::GatewayError,
            "ServerError" => RetryOn::ServerError,
            "Reset" => RetryOn::Reset,
            "Timeout" => RetryOn::Timeout,
            "RateLimited" => RetryOn::RateLimited,
            "GrpcCancelled" => RetryOn::Grpc(1),
            "GrpcDeadlineExceeded" => RetryOn::Grpc(4),
            "GrpcResourceExhausted" => RetryOn::Grpc(8),
            "GrpcInternal" => RetryOn::Grpc(13),
            "GrpcUnavailable" => RetryOn::Grpc(14),
            _ => return None,
        },
        _ => return None,
    })
}

fn endpoint_breaker(read: &Reader<'_>) -> EndpointBreaker {
    let on = |path| Some(read.count(path)).filter(|count| *count > 0);
    EndpointBreaker {
        consecutive_failures: on("circuitBreaker.endpoint.consecutiveFailures"),
        status_failures: on("circuitBreaker.endpoint.statusFailures"),
        penalty_min: read.duration("circuitBreaker.endpoint.penalty.min"),
        penalty_max: read.duration("circuitBreaker.endpoint.penalty.max"),
        max_ejected_percent: read.percent("circuitBreaker.endpoint.maxEjectedPercent"),
        panic_threshold: read.percent("circuitBreaker.endpoint.panicThreshold"),
    }
}

fn service_breaker(read: &Reader<'_>) -> Option<ServiceBreaker> {
    let own = "circuitBreaker.service";
    if !read.is_set(own) {
        return None;
    }
    let trip = if read.is_set("circuitBreaker.service.trip.consecutive") {
        Trip::Consecutive { count: read.count("circuitBreaker.service.trip.consecutive.count") }
    } else if read.is_set("circuitBreaker.service.trip.count") {
        let failures = read.count("circuitBreaker.service.trip.count.failures");
        Trip::Count { failures, window: read.duration("circuitBreaker.service.trip.count.window") }
    } else {
        Trip::Ratio {
            failure_percent: read.percent("circuitBreaker.service.trip.ratio.failurePercent"),
            window: read.duration("circuitBreaker.service.trip.ratio.window"),
            min_requests: read.count("circuitBreaker.service.trip.ratio.minRequests"),
        }
    };
    let slow = read.is_set("circuitBreaker.service.slow").then(|| Slow {
        threshold: read.duration("circuitBreaker.service.slow.threshold"),
        percent: read.percent("circuitBreaker.service.slow.percent"),
    });
    let status = u16::try_from(read.count("circuitBreaker.service.rejectStatus")).unwrap_or(503);
    Some(ServiceBreaker {
        trip,
        slow,
        open_for: read.duration("circuitBreaker.service.openFor"),
        open_for_max: read.duration("circuitBreaker.service.openForMax"),
        half_open_requests: read.count("circuitBreaker.service.halfOpen.requests"),
        half_open_timeout: read.duration("circuitBreaker.service.halfOpen.timeout"),
        on_open: OnOpen::Reject { status },
    })
}

fn load_balancing(read: &Reader<'_>) -> LoadBalancing {
    let algorithm = match read.text("loadBalancing.algorithm").as_deref() {
        Some("RoundRobin") => Algorithm::RoundRobin,
        Some("ConsistentHash") => {
            let key = read.text("loadBalancing.hash.header").map(|h| HashKey::Header(h.to_ascii_lowercase().into()));
            let key = key.or_else(|| read.text("loadBalancing.hash.cookie").map(|c| HashKey::Cookie(c.into())));
            let bounded_percent = read.count("loadBalancing.boundedPercent");
            Algorithm::ConsistentHash { key: key.unwrap_or(HashKey::SourceIp), bounded_percent }
        }
        _ => Algorithm::LeastLoaded { decay: read.duration("loadBalancing.decay") },
    };
    let min_weight_percent = read.percent("loadBalancing.slowStart.minWeightPercent");
    LoadBalancing {
        algorithm,
        slow_start: read
            .time_on("loadBalancing.slowStart.window")
            .map(|window| SlowStart { window, min_weight_percent }),
        locality: match read.text("loadBalancing.locality").as_deref() {
            Some("Prefer") => Locality::Prefer,
            Some("Strict") => Locality::Strict,
            Some("Node") => Locality::Node,
            _ => Locality::Off,
        },
        subset: read.number("loadBalancing.subsetSize").map_or(Subset::Auto, Subset::Size),
        penalize_rate_limited: read.time_on("loadBalancing.penalizeRateLimited"),
    }
}

fn rate_limit(read: &Reader<'_>) -> RateLimit {
    RateLimit {
        requests_per_second: read.count("rateLimit.requestsPerSecond"),
        burst: read.count("rateLimit.burst"),
        on_exceeded: match read.text("rateLimit.onExceeded").as_deref() {
            Some("Queue") => OnExceeded::Queue { max_wait: read.duration("rateLimit.maxWait") },
            _ => OnExceeded::Reject,
        },
    }
}

fn adaptive(read: &Reader<'_>, path: &str) -> Adaptive {
    match read.text(path).as_deref() {
        Some("Shadow") => Adaptive::Shadow,
        Some("Enforce") => Adaptive::Enforce,
        _ => Adaptive::Off,
    }
}

/// The policy of an InboundPolicy body, merged over all levels.
pub fn inbound(body: &Body) -> InboundTraffic {
    let read = Reader { table: INBOUND, body };
    InboundTraffic {
        tls: match read.text("tls.mode").as_deref() {
            Some("Strict") => TlsMode::Strict,
            Some("Off") => TlsMode::Off,
            _ => TlsMode::Permissive,
        },
        max_connections: read.count("connections.max"),
        per_client: read.is_set("connections.perClient").then(|| PerClient {
            max: read.number("connections.perClient.max"),
            rate_per_second: read.number("connections.perClient.ratePerSecond"),
            burst: read.count("connections.perClient.burst"),
        }),
        timeouts: InboundTimeouts {
            tls_handshake: read.duration("timeouts.tlsHandshake"),
            request_headers: read.duration("timeouts.requestHeaders"),
            request_body_idle: read.duration("timeouts.requestBodyIdle"),
            idle: read.duration("timeouts.idle"),
            detect: read.duration("timeouts.detect"),
        },
        max_age: read.time_on("connections.maxAge"),
        max_age_grace: read.duration("connections.maxAgeGrace"),
        hop_streams: read.count("http2.maxConcurrentStreams"),
        plaintext_streams: read.count("http2.plaintextStreams"),
        reset_limit: read.count("http2.resetLimit"),
        headers_max_bytes: read.count("headers.maxBytes"),
        headers_max_count: read.count("headers.maxCount"),
        app: AppHop {
            idle_timeout: read.duration("app.idleTimeout"),
            retry_reset_before_request: read.switch("app.retryResetBeforeRequest"),
            max_concurrency: read.number("app.maxConcurrency"),
            max_connections: read.count("app.maxConnections"),
            max_pending: read.count("app.maxPending"),
            acquire_timeout: read.duration("app.acquireTimeout"),
        },
        rate_limit: read.is_set("rateLimit").then(|| inbound_rate_limit(&read)),
        overload: Overload {
            adaptive: adaptive(&read, "overload.adaptive"),
            shed_percent: read.percent("overload.shedPercent"),
            refuse_percent: read.percent("overload.refusePercent"),
        },
    }
}

fn inbound_rate_limit(read: &Reader<'_>) -> InboundRateLimit {
    let rate = |rate: &str, burst: &str| {
        let requests_per_second = read.number(rate)?;
        Some(Rate { requests_per_second, burst: read.count(burst) })
    };
    InboundRateLimit {
        total: rate("rateLimit.total.requestsPerSecond", "rateLimit.total.burst"),
        per_identity: rate("rateLimit.perIdentity.requestsPerSecond", "rateLimit.perIdentity.burst"),
        overrides: match read.value("rateLimit.overrides") {
            Some(Value::Array(items)) => items.iter().filter_map(override_of).collect(),
            _ => Vec::new(),
        },
    }
}

fn override_of(item: &Value) -> Option<(SpiffeMatch, Rate)> {
    let matched = SpiffeMatch::parse(item.get("spiffe")?.as_str()?)?;
    let count = |name: &str| u32::try_from(item.get(name)?.as_u64()?).ok().filter(|count| *count > 0);
    let requests_per_second = count("requestsPerSecond")?;
    Some((matched, Rate { requests_per_second, burst: count("burst").unwrap_or(requests_per_second) }))
}

/// What an item of `rateLimit.overrides` must be.
const OVERRIDE: &str =
    "write {spiffe, requestsPerSecond, burst}: an id or spiffe://domain/path/*, and counts of at least 1";

fn override_fault(item: &Value) -> Option<String> {
    const MEMBERS: [&str; 3] = ["spiffe", "requestsPerSecond", "burst"];
    let extra = item.as_object()?.keys().find(|name| !MEMBERS.contains(&name.as_str()));
    let positive = |count: &Value| count.as_u64().is_some_and(|n| (1..=1_000_000).contains(&n));
    let counts = [item.get("requestsPerSecond"), item.get("burst")].into_iter().flatten().all(positive);
    match extra {
        Some(name) => Some(format!("no such field {name}; {OVERRIDE}")),
        None => (override_of(item).is_none() || !counts).then(|| format!("{item} is no override; {OVERRIDE}")),
    }
}

/// What single fields cannot say: fields that contradict each other, each seen with the other's default.
pub(super) fn contradictions(table: &[Field], body: &Body) -> Vec<Problem> {
    if table.first().map(|f| f.path) == TRAFFIC.first().map(|f| f.path) {
        traffic_contradictions(&traffic(body), &Reader { table: TRAFFIC, body })
    } else {
        inbound_contradictions(&inbound(body), &Reader { table: INBOUND, body })
    }
}

fn traffic_contradictions(policy: &Traffic, read: &Reader<'_>) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut demand = |holds: bool, field: &str, message: String| {
        if !holds {
            problems.push(Problem { field: field.to_owned(), message });
        }
    };
    let text = duration::print;
    if let (Some(per_try), Some(request)) = (policy.timeouts.per_try, policy.timeouts.request) {
        let said = format!("{} is longer than timeouts.request ({}); shorten it", text(per_try), text(request));
        demand(per_try <= request, "timeouts.perTry", said);
    }
    let connection = &policy.connection;
    if let Some(lifetime) = connection.max_lifetime {
        let said = format!(
            "{} is not below connection.maxLifetime ({}); it would never apply",
            text(connection.idle_timeout),
            text(lifetime)
        );
        demand(connection.idle_timeout < lifetime, "connection.idleTimeout", said);
    }
    let per_endpoint = connection.max_connections_per_endpoint.unwrap_or(u32::MAX);
    let said =
        format!("{} is above connection.maxConnectionsPerEndpoint ({per_endpoint})", connection.min_idle_per_endpoint);
    demand(connection.min_idle_per_endpoint <= per_endpoint, "connection.minIdlePerEndpoint", said);
    let backoff = &policy.retries.backoff;
    let said = format!(
        "{} is above retries.backoff.max ({}); lower it or raise the maximum",
        text(backoff.base),
        text(backoff.max)
    );
    demand(backoff.base <= backoff.max, "retries.backoff.base", said);
    let acknowledged =
        policy.retries.methods == RetryMethods::Idempotent || read.switch("retries.acknowledgeNonIdempotent");
    let said =
        "Any lets the application see a POST twice; if it may, set retries.acknowledgeNonIdempotent: true".to_owned();
    demand(acknowledged, "retries.methods", said);
    let endpoint = &policy.circuit_breaker.endpoint;
    let said = format!("{} is above penalty.max ({})", text(endpoint.penalty_min), text(endpoint.penalty_max));
    demand(endpoint.penalty_min <= endpoint.penalty_max, "circuitBreaker.endpoint.penalty.min", said);
    if let Some(service) = &policy.circuit_breaker.service {
        let said = format!("{} is above openForMax ({})", text(service.open_for), text(service.open_for_max));
        demand(service.open_for <= service.open_for_max, "circuitBreaker.service.openFor", said);
    }
    if read.is_set("connection.capacity") {
        let said = "set connection.capacity.maxConnections: what the destination takes in all".to_owned();
        demand(connection.capacity.is_some(), "connection.capacity", said);
    }
    let hashes = matches!(policy.load_balancing.algorithm, Algorithm::ConsistentHash { .. });
    let said = "is only for algorithm: ConsistentHash; set that, or remove this".to_owned();
    demand(hashes || !read.is_set("loadBalancing.hash"), "loadBalancing.hash", said);
    problems
}

fn inbound_contradictions(policy: &InboundTraffic, read: &Reader<'_>) -> Vec<Problem> {
    let mut problems = Vec::new();
    let overload = &policy.overload;
    if overload.shed_percent > overload.refuse_percent {
        let message =
            format!("{} is above overload.refusePercent ({})", overload.shed_percent, overload.refuse_percent);
        problems.push(Problem { field: "overload.shedPercent".to_owned(), message });
    }
    if let Some(Value::Array(items)) = read.value("rateLimit.overrides") {
        problems.extend(items.iter().enumerate().filter_map(|(i, item)| {
            Some(Problem { field: format!("rateLimit.overrides[{i}]"), message: override_fault(item)? })
        }));
    }
    problems
}

/// Values by path, from the body or from the table.
struct Reader<'a> {
    table: &'a [Field],
    body: &'a Body,
}

impl Reader<'_> {
    fn value(&self, path: &str) -> Option<&Value> {
        let mut names = path.split('.');
        let first = self.body.get(names.next()?)?;
        names.try_fold(first, |value, name| value.get(name)).filter(|value| !value.is_null())
    }

    fn is_set(&self, path: &str) -> bool {
        self.value(path).is_some()
    }

    fn default(&self, path: &str) -> &'static str {
        let field = self.table.iter().find(|field| field.path == path);
        field.expect("every path here is in the table: a test reads them all").default
    }

    fn time(&self, path: &str) -> Option<Duration> {
        let text = self.value(path).and_then(Value::as_str).unwrap_or(self.default(path));
        duration::parse(text).ok()
    }

    /// `None`: off.
    fn time_on(&self, path: &str) -> Option<Duration> {
        self.time(path).filter(|time| !time.is_zero())
    }

    fn duration(&self, path: &str) -> Duration {
        self.time(path).unwrap_or_default()
    }

    fn number(&self, path: &str) -> Option<u32> {
        match self.value(path) {
            Some(value) => u32::try_from(value.as_u64()?).ok(),
            None => self.default(path).parse().ok(),
        }
    }

    fn count(&self, path: &str) -> u32 {
        self.number(path).unwrap_or_default()
    }

    fn percent(&self, path: &str) -> u8 {
        u8::try_from(self.count(path)).unwrap_or(100)
    }

    fn switch(&self, path: &str) -> bool {
        self.value(path).and_then(Value::as_bool).unwrap_or(self.default(path) == "true")
    }

    fn text(&self, path: &str) -> Option<String> {
        let own = self.value(path).and_then(Value::as_str).map(str::to_owned);
        own.or_else(|| Some(self.default(path).to_owned()).filter(|text| !text.is_empty()))
    }
}
