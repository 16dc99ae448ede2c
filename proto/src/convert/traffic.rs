//! The policies of both sides, as `message` does the rest. It must never judge values against the bounds for users (those
//! stand in `fields`), only what would break a proxy.

use super::At;
use super::Invalid;
use super::Reader;
use super::Wire;
use super::Writer;
use super::invalid;
use super::message::closed;
use super::message::message;
use crate::policy::Adaptive;
use crate::policy::AppHop;
use crate::policy::Backoff;
use crate::policy::Budget;
use crate::policy::Capacity;
use crate::policy::CircuitBreaker;
use crate::policy::Concurrency;
use crate::policy::Connection;
use crate::policy::EndpointBreaker;
use crate::policy::Http2Ping;
use crate::policy::InboundRateLimit;
use crate::policy::InboundTimeouts;
use crate::policy::InboundTraffic;
use crate::policy::Keepalive;
use crate::policy::LoadBalancing;
use crate::policy::Locality;
use crate::policy::Mode;
use crate::policy::OnExceeded;
use crate::policy::Overload;
use crate::policy::PerClient;
use crate::policy::Rate;
use crate::policy::RateLimit;
use crate::policy::Retries;
use crate::policy::RetryMethods;
use crate::policy::ServiceBreaker;
use crate::policy::Slow;
use crate::policy::SlowStart;
use crate::policy::SpiffeMatch;
use crate::policy::Timeouts;
use crate::policy::TlsMode;
use crate::policy::Traffic;
use crate::policy::Warmup;
use crate::wire::policy as wire;

closed!(Mode { Enforce, Shadow });
closed!(RetryMethods { Idempotent, Any });
closed!(Adaptive { Off, Shadow, Enforce });
closed!(Locality { Prefer, Off, Strict, Node });
closed!(TlsMode { Permissive, Strict, Off });

message!(Traffic {
    mode: mode,
    connection: connection,
    timeouts: timeouts,
    retries: retries,
    circuit_breaker: circuit_breaker,
    concurrency: concurrency,
    load_balancing: load_balancing,
    rate_limit: rate_limit,
});

message!(Connection {
    connect_timeout: connect_timeout_ms,
    max_connections: max_connections,
    max_connections_per_endpoint: max_connections_per_endpoint,
    min_idle_per_endpoint: min_idle_per_endpoint,
    capacity: capacity,
    max_pending: max_pending,
    acquire_timeout: acquire_timeout_ms,
    idle_timeout: idle_timeout_ms,
    max_lifetime: max_lifetime_ms,
    max_requests: max_requests,
    keepalive: keepalive,
    http2: http2,
    warmup: warmup,
} check |it| {
    // A gate of no permits would never let anything through.
    positive(it.max_connections).at("max_connections")
});

message!(Capacity { max_connections: max_connections, reserve_percent: reserve_percent });
message!(Keepalive { idle: idle_ms, interval: interval_ms, probes: probes });
message!(Http2Ping { ping_interval: ping_interval_ms, ping_timeout: ping_timeout_ms });
message!(Warmup { connect_rate: connect_rate, burst: burst } check |it| {
    positive(it.connect_rate).at("connect_rate")?;
    positive(it.burst).at("burst")
});

message!(Timeouts {
    request: request_ms,
    per_try: per_try_ms,
    first_byte: first_byte_ms,
    stream_idle: stream_idle_ms,
    max_stream_duration: max_stream_duration_ms,
});

message!(Retries {
    attempts: attempts,
    on: on,
    methods: methods,
    backoff: backoff,
    budget: budget,
    respect_retry_after: respect_retry_after,
    retry_after_max: retry_after_max_ms,
    max_body_bytes: max_body_bytes,
    different_endpoint: different_endpoint,
});

message!(Backoff { base: base_ms, max: max_ms });
message!(Budget { percent: percent, interval: interval_ms, min_per_second: min_per_second } check |it| {
    match it.interval.is_zero() {
        false => Ok(()),
        true => invalid("0".to_owned()).at("interval_ms"),
    }
});

message!(CircuitBreaker { endpoint: endpoint, service: service });

message!(EndpointBreaker {
    consecutive_failures: consecutive_failures,
    status_failures: status_failures,
    penalty_min: penalty_min_ms,
    penalty_max: penalty_max_ms,
    max_ejected_percent: max_ejected_percent,
    panic_threshold: panic_threshold,
});

impl Wire<wire::ServiceBreaker> for ServiceBreaker {
    fn read(wire: wire::ServiceBreaker, cx: &mut Reader) -> Result<Self, Invalid> {
        Ok(Self {
            trip: Wire::read(wire.trip, cx).at("trip")?,
            slow: Wire::read(wire.slow, cx).at("slow")?,
            open_for: Wire::read(wire.open_for_ms, cx).at("open_for_ms")?,
            open_for_max: Wire::read(wire.open_for_max_ms, cx).at("open_for_max_ms")?,
            half_open_requests: wire.half_open_requests,
            half_open_timeout: Wire::read(wire.half_open_timeout_ms, cx).at("half_open_timeout_ms")?,
            on_open: Wire::read(wire.on_open, cx).at("on_open")?,
        })
    }

    fn write(&self, cx: &mut Writer) -> wire::ServiceBreaker {
        wire::ServiceBreaker {
            trip: self.trip.write(cx),
            slow: self.slow.write(cx),
            open_for_ms: self.open_for.write(cx),
            open_for_max_ms: self.open_for_max.write(cx),
            half_open_requests: self.half_open_requests,
            half_open_timeout_ms: self.half_open_timeout.write(cx),
            on_open: self.on_open.write(cx),
        }
    }
}

message!(Slow { threshold: threshold_ms, percent: percent });

message!(Concurrency { max_requests: max_requests, adaptive: adaptive, priority_header: priority_header } check |it| {
    positive(it.max_requests).at("max_requests")
});

message!(LoadBalancing {
    algorithm: algorithm,
    slow_start: slow_start,
    locality: locality,
    subset: subset,
    penalize_rate_limited: penalize_rate_limited_ms,
});

message!(SlowStart { window: window_ms, min_weight_percent: min_weight_percent });

impl Wire<wire::RateLimit> for RateLimit {
    fn read(wire: wire::RateLimit, cx: &mut Reader) -> Result<Self, Invalid> {
        positive(wire.requests_per_second).at("requests_per_second")?;
        positive(wire.burst).at("burst")?;
        let on_exceeded = match wire.queue_max_wait_ms {
            None => OnExceeded::Reject,
            Some(ms) => OnExceeded::Queue { max_wait: Wire::read(ms, cx).at("queue_max_wait_ms")? },
        };
        Ok(Self { requests_per_second: wire.requests_per_second, burst: wire.burst, on_exceeded })
    }

    fn write(&self, cx: &mut Writer) -> wire::RateLimit {
        let queue_max_wait_ms = match &self.on_exceeded {
            OnExceeded::Reject => None,
            OnExceeded::Queue { max_wait } => Some(max_wait.write(cx)),
        };
        wire::RateLimit { requests_per_second: self.requests_per_second, burst: self.burst, queue_max_wait_ms }
    }
}

message!(InboundTraffic {
    tls: tls,
    max_connections: max_connections,
    per_client: per_client,
    timeouts: timeouts,
    max_age: max_age_ms,
    max_age_grace: max_age_grace_ms,
    hop_streams: hop_streams,
    plaintext_streams: plaintext_streams,
    reset_limit: reset_limit,
    headers_max_bytes: headers_max_bytes,
    headers_max_count: headers_max_count,
    app: app,
    rate_limit: rate_limit,
    overload: overload,
} check |it| {
    positive(it.max_connections).at("max_connections")?;
    positive(it.hop_streams).at("hop_streams")?;
    positive(it.plaintext_streams).at("plaintext_streams")
});

message!(PerClient { max: max, rate_per_second: rate_per_second, burst: burst });

message!(InboundTimeouts {
    tls_handshake: tls_handshake_ms,
    request_headers: request_headers_ms,
    request_body_idle: request_body_idle_ms,
    idle: idle_ms,
    detect: detect_ms,
});

message!(AppHop {
    idle_timeout: idle_timeout_ms,
    retry_reset_before_request: retry_reset_before_request,
    max_concurrency: max_concurrency,
    max_connections: max_connections,
    max_pending: max_pending,
    acquire_timeout: acquire_timeout_ms,
} check |it| positive(it.max_connections).at("max_connections"));

message!(InboundRateLimit { total: total, per_identity: per_identity, overrides: overrides });
message!(Rate { requests_per_second: requests_per_second, burst: burst } check |it| {
    positive(it.requests_per_second).at("requests_per_second")?;
    positive(it.burst).at("burst")
});

impl Wire<wire::RateOverride> for (SpiffeMatch, Rate) {
    fn read(wire: wire::RateOverride, cx: &mut Reader) -> Result<Self, Invalid> {
        Ok((Wire::read(wire.identity, cx).at("identity")?, Wire::read(wire.rate, cx).at("rate")?))
    }

    fn write(&self, cx: &mut Writer) -> wire::RateOverride {
        wire::RateOverride { identity: self.0.write(cx), rate: self.1.write(cx) }
    }
}

message!(Overload { adaptive: adaptive, shed_percent: shed_percent, refuse_percent: refuse_percent });

fn positive(n: u32) -> Result<(), Invalid> {
    match n {
        0 => invalid("0".to_owned()),
        _ => Ok(()),
    }
}
