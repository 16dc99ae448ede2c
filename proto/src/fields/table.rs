//! The tables themselves. Where a default was weighed against other systems', the source says so; the longer story of each is
//! in its commit.

use crate::fields::Field;
use crate::fields::Kind;

const fn time(
    path: &'static str,
    default: &'static str,
    min: &'static str,
    max: &'static str,
    source: &'static str,
) -> Field {
    Field { path, kind: Kind::Duration { min, max, zero: false }, default, source, enforced: true }
}

const fn time_or_off(
    path: &'static str,
    default: &'static str,
    min: &'static str,
    max: &'static str,
    source: &'static str,
) -> Field {
    Field { path, kind: Kind::Duration { min, max, zero: true }, default, source, enforced: true }
}

const fn count(path: &'static str, default: &'static str, min: u32, max: u32, source: &'static str) -> Field {
    Field { path, kind: Kind::Count { min, max }, default, source, enforced: true }
}

const fn percent(path: &'static str, default: &'static str, source: &'static str) -> Field {
    Field { path, kind: Kind::Percent, default, source, enforced: true }
}

const fn switch(path: &'static str, default: &'static str, source: &'static str) -> Field {
    Field { path, kind: Kind::Switch, default, source, enforced: true }
}

const fn choice(path: &'static str, default: &'static str, of: &'static [&'static str], source: &'static str) -> Field {
    Field { path, kind: Kind::Choice(of), default, source, enforced: true }
}

const fn text(path: &'static str, source: &'static str) -> Field {
    Field { path, kind: Kind::Text, default: "", source, enforced: true }
}

const fn part(path: &'static str, source: &'static str) -> Field {
    Field { path, kind: Kind::Part, default: "", source, enforced: true }
}

const fn union(path: &'static str, source: &'static str) -> Field {
    Field { path, kind: Kind::Union, default: "", source, enforced: true }
}

/// Parsed, validated, and reported as `Unsupported`.
const fn later(field: Field) -> Field {
    Field { enforced: false, ..field }
}

/// What `retries.retryOn` may name beside status codes.
pub(super) const RETRY_ON: &[&str] = &[
    "ConnectFailure",
    "RefusedStream",
    "ResetBeforeRequest",
    "GatewayError",
    "ServerError",
    "Reset",
    "Timeout",
    "RateLimited",
    "GrpcCancelled",
    "GrpcDeadlineExceeded",
    "GrpcInternal",
    "GrpcResourceExhausted",
    "GrpcUnavailable",
];

/// TrafficPolicy: what client sidecars do towards a destination.
pub const TRAFFIC: &[Field] = &[
    later(choice("mode", "Enforce", &["Enforce", "Shadow"], "Shadow evaluates and counts, and never acts.")),
    time(
        "connection.connectTimeout",
        "2s",
        "10ms",
        "60s",
        "TCP and TLS of one attempt: survives one lost SYN (1 s), then another endpoint. Linkerd 1 s, Envoy 5 s, Istio 10 s.",
    ),
    count(
        "connection.maxConnections",
        "1024",
        1,
        100_000,
        "Per proxy and destination, idle ones included; hop connections for mesh HTTP. Envoy's default; never unbounded.",
    ),
    count(
        "connection.maxConnectionsPerEndpoint",
        "",
        1,
        10_000,
        "Unset: HTTP/1 and TCP only by maxConnections, HTTP/2 up to 4.",
    ),
    later(count("connection.minIdlePerEndpoint", "0", 0, 100, "Connections kept warm.")),
    part(
        "connection.capacity",
        "What the destination can take in all, divided over its client proxies by the control plane.",
    ),
    count("connection.capacity.maxConnections", "", 1, 1_000_000, "Of the whole destination."),
    percent("connection.capacity.reservePercent", "10", "Kept back for clients that appear."),
    count("connection.maxPending", "1024", 0, 100_000, "Requests that may wait for a connection; 0 fails fast."),
    time_or_off(
        "connection.acquireTimeout",
        "3s",
        "1ms",
        "60s",
        "The longest wait for a connection, and never past the request's deadline. Linkerd's failfast is 3 s.",
    ),
    time(
        "connection.idleTimeout",
        "5m",
        "1s",
        "24h",
        "An idle connection is closed after this, or after three quarters of what the server was seen to allow.",
    ),
    time_or_off(
        "connection.maxLifetime",
        "30m",
        "30s",
        "24h",
        "With up to 25 % less by chance, so that connections do not end together (HikariCP).",
    ),
    count("connection.maxRequests", "0", 0, 536_870_912, "Requests on one connection; 0: any number."),
    time("connection.keepalive.idle", "60s", "10s", "2h", "TCP_KEEPIDLE. Linux waits 2 h, longer than NATs remember."),
    time("connection.keepalive.interval", "10s", "1s", "10m", "TCP_KEEPINTVL."),
    count("connection.keepalive.probes", "3", 1, 20, "TCP_KEEPCNT."),
    time(
        "connection.http2.pingInterval",
        "30s",
        "10s",
        "1h",
        "On the mesh hop only: gRPC servers punish pings below 5 min.",
    ),
    time("connection.http2.pingTimeout", "10s", "1s", "1m", "Without an answer the connection is dead."),
    later(count("connection.warmup.connectRate", "50", 1, 10_000, "New connections a second to one destination.")),
    later(count("connection.warmup.burst", "20", 1, 10_000, "New connections at once.")),
    time(
        "timeouts.request",
        "",
        "1ms",
        "24h",
        "All tries together, to the answer's head. Unset: none; cutting unknown long calls is unsafe. Profile Strict: 30 s.",
    ),
    time("timeouts.perTry", "", "1ms", "24h", "One try, to the answer's head. At most `request`."),
    time("timeouts.firstByte", "", "1ms", "24h", "From the end of the request to the answer's head."),
    time_or_off(
        "timeouts.streamIdle",
        "1h",
        "1s",
        "24h",
        "Nothing either way in a tunnel or opaque connection (answers: not yet). Envoy's 5 min break quiet gRPC streams.",
    ),
    time(
        "timeouts.maxStreamDuration",
        "",
        "1s",
        "720h",
        "The whole exchange, from the request to the answer's last byte: streams, WebSockets, opaque connections. Unset: none.",
    ),
    count("retries.attempts", "2", 0, 5, "Extra tries: by default of failures only whose request was never processed."),
    Field {
        path: "retries.retryOn",
        kind: Kind::Choices { of: RETRY_ON, codes: Some((400, 599)) },
        default: "",
        source: "Unset: ConnectFailure, RefusedStream, ResetBeforeRequest, which are safe for POST.",
        enforced: true,
    },
    choice(
        "retries.methods",
        "Idempotent",
        &["Idempotent", "Any"],
        "For everything beyond the safe three: RFC 9110 section 9.2.2, or a request with an Idempotency-Key.",
    ),
    switch(
        "retries.acknowledgeNonIdempotent",
        "false",
        "Must be true for methods: Any: the application may see a request twice.",
    ),
    time("retries.backoff.base", "25ms", "1ms", "10s", "Full jitter: uniform in 0..min(max, base * 2^n)."),
    time("retries.backoff.max", "250ms", "1ms", "60s", "Envoy, Istio and Kuma agree."),
    percent("retries.budget.percent", "20", "Retries as a share of first tries. Finagle, Linkerd and GEP-3388 agree."),
    time("retries.budget.interval", "10s", "1s", "60s", "Over which the share counts."),
    count("retries.budget.minPerSecond", "10", 0, 1000, "Retries that need no first try to pay for them."),
    switch(
        "retries.respectRetryAfter",
        "true",
        "Retry-After and grpc-retry-pushback-ms decide when; negative: not at all.",
    ),
    count(
        "retries.maxBodyBytes",
        "65536",
        0,
        1_048_576,
        "Longer request bodies are not kept for a retry. Linkerd 64 KiB.",
    ),
    switch("retries.differentEndpoint", "true", "Where there is another."),
    count(
        "circuitBreaker.endpoint.consecutiveFailures",
        "5",
        0,
        1000,
        "Transport failures in a row that eject an endpoint; 0: off.",
    ),
    count("circuitBreaker.endpoint.statusFailures", "0", 0, 1000, "5xx answers in a row that eject it; 0: off."),
    time(
        "circuitBreaker.endpoint.penalty.min",
        "1s",
        "100ms",
        "10m",
        "First ejection; doubles with each relapse, with 50 % jitter.",
    ),
    time("circuitBreaker.endpoint.penalty.max", "60s", "100ms", "1h", "Linkerd 60 s."),
    percent("circuitBreaker.endpoint.maxEjectedPercent", "50", "Envoy 10 %."),
    percent("circuitBreaker.endpoint.panicThreshold", "50", "With fewer well endpoints than this share, all are used."),
    part(
        "circuitBreaker.service",
        "The breaker of the whole destination; off unless it is there, `{}` takes the defaults.",
    ),
    union("circuitBreaker.service.trip", "When it opens. Unset: ratio."),
    percent("circuitBreaker.service.trip.ratio.failurePercent", "50", "Resilience4j, Hystrix."),
    time("circuitBreaker.service.trip.ratio.window", "10s", "1s", "10m", ""),
    count("circuitBreaker.service.trip.ratio.minRequests", "20", 1, 100_000, "Below that a ratio says nothing."),
    count("circuitBreaker.service.trip.consecutive.count", "5", 1, 100_000, ""),
    count("circuitBreaker.service.trip.count.failures", "5", 1, 100_000, ""),
    time("circuitBreaker.service.trip.count.window", "10s", "1s", "10m", ""),
    part("circuitBreaker.service.slow", "Slow answers open it too."),
    time("circuitBreaker.service.slow.threshold", "1s", "1ms", "1h", ""),
    percent("circuitBreaker.service.slow.percent", "50", ""),
    time("circuitBreaker.service.openFor", "30s", "1s", "1h", "Doubles with each relapse, with 20 % jitter."),
    time("circuitBreaker.service.openForMax", "5m", "1s", "24h", ""),
    count("circuitBreaker.service.halfOpen.requests", "3", 1, 1000, "Tries that must succeed to close it."),
    time(
        "circuitBreaker.service.halfOpen.timeout",
        "10s",
        "100ms",
        "10m",
        "A try that does not end by then has failed.",
    ),
    count("circuitBreaker.service.rejectStatus", "503", 400, 599, "What callers get while it is open."),
    count(
        "concurrency.maxRequests",
        "1024",
        1,
        1_000_000,
        "Requests under way per proxy and destination: the bulkhead.",
    ),
    later(choice("concurrency.adaptive", "Off", &["Off", "Shadow", "Enforce"], "A limit that follows latency.")),
    later(text("concurrency.priorityHeader", "Header whose value high, normal or low is the request's priority.")),
    choice(
        "loadBalancing.algorithm",
        "LeastLoaded",
        &["LeastLoaded", "RoundRobin", "ConsistentHash"],
        "LeastLoaded: power of two choices over peak EWMA.",
    ),
    time("loadBalancing.decay", "10s", "100ms", "10m", "How fast a slow answer is forgotten."),
    union("loadBalancing.hash", "What ConsistentHash hashes."),
    text("loadBalancing.hash.header", "A request header."),
    text("loadBalancing.hash.cookie", "A cookie."),
    switch("loadBalancing.hash.sourceIP", "true", "The client's address."),
    count(
        "loadBalancing.boundedPercent",
        "125",
        100,
        1000,
        "No endpoint gets more than this share of the mean; not by sourceIP, where all that one application sends belongs together.",
    ),
    time_or_off("loadBalancing.slowStart.window", "10s", "1s", "10m", "New endpoints weigh less at first."),
    percent("loadBalancing.slowStart.minWeightPercent", "10", ""),
    choice(
        "loadBalancing.locality",
        "Off",
        &["Off", "Prefer", "Strict", "Node"],
        "Prefer: the own zone, while three endpoints there are well. Strict: while any is. Node: first the own node. A Service's trafficDistribution sets it; Off as in Kubernetes, since the smaller zone would get more than its part.",
    ),
    later(count(
        "loadBalancing.subsetSize",
        "",
        1,
        10_000,
        "Unset: above 100 endpoints each proxy takes a rendezvous subset.",
    )),
    later(time_or_off(
        "loadBalancing.penalizeRateLimited",
        "5s",
        "100ms",
        "10m",
        "An endpoint that answers 429 is avoided for so long.",
    )),
    part("rateLimit", "Requests that this proxy sends to the destination; off unless it is there."),
    count("rateLimit.requestsPerSecond", "100", 1, 1_000_000, ""),
    count("rateLimit.burst", "20", 1, 1_000_000, ""),
    choice("rateLimit.onExceeded", "Reject", &["Reject", "Queue"], ""),
    time("rateLimit.maxWait", "500ms", "1ms", "60s", "With Queue."),
];

/// InboundPolicy: what the server's sidecar does with what arrives.
pub const INBOUND: &[Field] = &[
    choice("tls.mode", "Permissive", &["Permissive", "Strict", "Off"], "Strict refuses plaintext."),
    count("connections.max", "10000", 1, 1_000_000, "Per pod, and at most 80 % of the descriptors."),
    part("connections.perClient", "Per SPIFFE id, else per address."),
    later(count("connections.perClient.max", "", 1, 1_000_000, "")),
    later(count("connections.perClient.ratePerSecond", "", 1, 100_000, "")),
    later(count("connections.perClient.burst", "20", 1, 100_000, "")),
    time_or_off(
        "connections.maxAge",
        "1h",
        "1m",
        "24h",
        "With 10 % jitter: at most half a certificate's life (gRPC A9).",
    ),
    time("connections.maxAgeGrace", "30s", "1s", "1h", ""),
    time("timeouts.tlsHandshake", "10s", "100ms", "60s", "Slowloris."),
    time("timeouts.requestHeaders", "10s", "100ms", "10m", "From the first byte to the end of the head, not per byte."),
    time("timeouts.requestBodyIdle", "60s", "1s", "24h", ""),
    time("timeouts.idle", "10m", "1s", "24h", "Above the clients' 5 min, so that they close first."),
    time("timeouts.detect", "3s", "100ms", "60s", "For the first bytes where no protocol is declared."),
    count("http2.maxConcurrentStreams", "128", 1, 10_000, "On the hop."),
    count("http2.plaintextStreams", "100", 1, 10_000, "From plaintext clients."),
    count("http2.resetLimit", "200", 1, 100_000, "Resets a second on one connection (CVE-2023-44487)."),
    count("headers.maxBytes", "65536", 1024, 1_048_576, ""),
    count("headers.maxCount", "100", 8, 1000, "hyper, HAProxy."),
    time(
        "app.idleTimeout",
        "3s",
        "100ms",
        "10m",
        "Below Node's and uvicorn's 5 s; longer once the application was seen to allow it.",
    ),
    switch("app.retryResetBeforeRequest", "true", "Once: the application closed an idle connection as it was used."),
    count("app.maxConcurrency", "", 1, 1_000_000, "Requests that the application gets at once."),
    count("app.maxConnections", "1024", 1, 100_000, ""),
    count("app.maxPending", "128", 0, 100_000, ""),
    time("app.acquireTimeout", "3s", "1ms", "60s", ""),
    part("rateLimit", "Requests that the application gets; off unless it is there."),
    count("rateLimit.total.requestsPerSecond", "", 1, 1_000_000, ""),
    count("rateLimit.total.burst", "20", 1, 1_000_000, ""),
    later(count("rateLimit.perIdentity.requestsPerSecond", "", 1, 1_000_000, "")),
    later(count("rateLimit.perIdentity.burst", "20", 1, 1_000_000, "")),
    later(Field {
        path: "rateLimit.overrides",
        kind: Kind::Objects,
        default: "",
        source: "{spiffe, requestsPerSecond, burst}",
        enforced: true,
    }),
    later(choice("overload.adaptive", "Off", &["Off", "Shadow", "Enforce"], "")),
    later(percent("overload.shedPercent", "90", "Of the memory limit: stop keep-alive.")),
    later(percent("overload.refusePercent", "95", "Of the memory limit: 503, and no new connections.")),
];
