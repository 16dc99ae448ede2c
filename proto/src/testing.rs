//! Policy for the tests of this crate.

use std::time::Duration;

use crate::policy::*;

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// What no policy at all means (the built-in defaults).
pub(crate) fn traffic() -> Traffic {
    Traffic {
        mode: Mode::Enforce,
        connection: Connection {
            connect_timeout: seconds(2),
            max_connections: 1024,
            max_connections_per_endpoint: None,
            min_idle_per_endpoint: 0,
            capacity: None,
            max_pending: 1024,
            acquire_timeout: seconds(3),
            idle_timeout: seconds(300),
            max_lifetime: Some(seconds(1800)),
            max_requests: None,
            keepalive: Keepalive { idle: seconds(60), interval: seconds(10), probes: 3 },
            http2: Http2Ping { ping_interval: seconds(30), ping_timeout: seconds(10) },
            warmup: Warmup { connect_rate: 50, burst: 20 },
        },
        timeouts: Timeouts { stream_idle: Some(seconds(3600)), ..Timeouts::default() },
        retries: Retries {
            attempts: 2,
            on: vec![RetryOn::ConnectFailure, RetryOn::RefusedStream, RetryOn::ResetBeforeRequest],
            methods: RetryMethods::Idempotent,
            backoff: Backoff { base: Duration::from_millis(25), max: Duration::from_millis(250) },
            budget: Budget { percent: 20, interval: seconds(10), min_per_second: 10 },
            respect_retry_after: true,
            retry_after_max: seconds(10),
            max_body_bytes: 64 << 10,
            different_endpoint: true,
        },
        circuit_breaker: CircuitBreaker {
            endpoint: EndpointBreaker {
                consecutive_failures: Some(5),
                status_failures: None,
                penalty_min: seconds(1),
                penalty_max: seconds(60),
                max_ejected_percent: 50,
                panic_threshold: 50,
            },
            service: None,
        },
        concurrency: Concurrency { max_requests: 1024, adaptive: Adaptive::Off, priority_header: None },
        load_balancing: LoadBalancing {
            algorithm: Algorithm::LeastLoaded { decay: seconds(10) },
            slow_start: Some(SlowStart { window: seconds(10), min_weight_percent: 10 }),
            locality: Locality::Off,
            subset: Subset::Auto,
            penalize_rate_limited: Some(seconds(5)),
        },
        rate_limit: None,
    }
}

/// A meshed endpoint with this uid.
pub(crate) fn endpoint(uid: &str) -> Endpoint {
    Endpoint {
        uid: uid.into(),
        addresses: vec![([10, 0, 0, 1], 80).into()],
        identity: None,
        hop_port: None,
        node: "".into(),
        zone: "".into(),
        cluster: "".into(),
        ready: true,
        serving: true,
        terminating: false,
        parallelism: 0,
        pod: "".into(),
    }
}
