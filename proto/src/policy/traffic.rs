//! The policies themselves: what the client side does towards a destination, and the server side with what arrives. It must
//! never hold a default or a bound: those stand in `fields`.

use std::sync::Arc;
use std::time::Duration;

use crate::policy::Backend;
use crate::policy::SpiffeMatch;

/// Everything the client side does towards a destination (kind `TrafficPolicy`), folded over all levels.
/// Fields, defaults and bounds: `fields`.
#[derive(Debug, Clone, PartialEq)]
pub struct Traffic {
    pub mode: Mode,
    pub connection: Connection,
    pub timeouts: Timeouts,
    pub retries: Retries,
    pub circuit_breaker: CircuitBreaker,
    pub concurrency: Concurrency,
    pub load_balancing: LoadBalancing,
    pub rate_limit: Option<RateLimit>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    #[default]
    Enforce,
    /// Evaluated and counted, never acted on.
    Shadow,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Connection {
    pub connect_timeout: Duration,
    pub max_connections: u32,
    pub max_connections_per_endpoint: Option<u32>,
    pub min_idle_per_endpoint: u32,
    pub capacity: Option<Capacity>,
    pub max_pending: u32,
    pub acquire_timeout: Duration,
    pub idle_timeout: Duration,
    /// `None`: off.
    pub max_lifetime: Option<Duration>,
    /// `None`: no bound.
    pub max_requests: Option<u32>,
    pub keepalive: Keepalive,
    pub http2: Http2Ping,
    pub warmup: Warmup,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Capacity {
    pub max_connections: u32,
    pub reserve_percent: u8,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Keepalive {
    pub idle: Duration,
    pub interval: Duration,
    pub probes: u32,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Http2Ping {
    pub ping_interval: Duration,
    pub ping_timeout: Duration,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Warmup {
    pub connect_rate: u32,
    pub burst: u32,
}

/// `None`: no limit.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Timeouts {
    pub request: Option<Duration>,
    pub per_try: Option<Duration>,
    pub first_byte: Option<Duration>,
    pub stream_idle: Option<Duration>,
    pub max_stream_duration: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Retries {
    /// Extra tries.
    pub attempts: u32,
    pub on: Vec<RetryOn>,
    pub methods: RetryMethods,
    pub backoff: Backoff,
    pub budget: Budget,
    pub respect_retry_after: bool,
    pub retry_after_max: Duration,
    pub max_body_bytes: u32,
    pub different_endpoint: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RetryOn {
    ConnectFailure,
    RefusedStream,
    ResetBeforeRequest,
    /// 502, 503, 504.
    GatewayError,
    /// Any 5xx.
    ServerError,
    Reset,
    Timeout,
    /// 429.
    RateLimited,
    Status(u16),
    Grpc(u8),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RetryMethods {
    /// RFC 9110 section 9.2.2, or any request with an `Idempotency-Key`.
    #[default]
    Idempotent,
    Any,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Backoff {
    pub base: Duration,
    pub max: Duration,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Budget {
    pub percent: u8,
    pub interval: Duration,
    pub min_per_second: u32,
}

#[derive(Debug, Clone, PartialEq)]
pub struct CircuitBreaker {
    pub endpoint: EndpointBreaker,
    pub service: Option<ServiceBreaker>,
}

/// Ejection of single endpoints.
#[derive(Debug, Clone, PartialEq)]
pub struct EndpointBreaker {
    /// Transport failures in a row. `None`: off.
    pub consecutive_failures: Option<u32>,
    /// 5xx answers in a row. `None`: off.
    pub status_failures: Option<u32>,
    pub penalty_min: Duration,
    pub penalty_max: Duration,
    pub max_ejected_percent: u8,
    pub panic_threshold: u8,
}

/// The breaker of a whole destination.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceBreaker {
    pub trip: Trip,
    pub slow: Option<Slow>,
    pub open_for: Duration,
    pub open_for_max: Duration,
    pub half_open_requests: u32,
    pub half_open_timeout: Duration,
    pub on_open: OnOpen,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Trip {
    Ratio { failure_percent: u8, window: Duration, min_requests: u32 },
    Consecutive { count: u32 },
    Count { failures: u32, window: Duration },
}

#[derive(Debug, Clone, PartialEq)]
pub struct Slow {
    pub threshold: Duration,
    pub percent: u8,
}

#[derive(Debug, Clone, PartialEq)]
pub enum OnOpen {
    Reject { status: u16 },
    Fallback(Box<Backend>),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Concurrency {
    pub max_requests: u32,
    pub adaptive: Adaptive,
    /// Header whose value `high`, `normal` or `low` is the request's priority.
    pub priority_header: Option<Arc<str>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Adaptive {
    #[default]
    Off,
    Shadow,
    Enforce,
}

#[derive(Debug, Clone, PartialEq)]
pub struct LoadBalancing {
    pub algorithm: Algorithm,
    /// `None`: off.
    pub slow_start: Option<SlowStart>,
    pub locality: Locality,
    pub subset: Subset,
    pub penalize_rate_limited: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Algorithm {
    /// P2C over peak EWMA.
    LeastLoaded {
        decay: Duration,
    },
    RoundRobin,
    ConsistentHash {
        key: HashKey,
        bounded_percent: u32,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub enum HashKey {
    Header(Arc<str>),
    Cookie(Arc<str>),
    SourceIp,
}

#[derive(Debug, Clone, PartialEq)]
pub struct SlowStart {
    pub window: Duration,
    pub min_weight_percent: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Locality {
    /// The own zone, while three endpoints there are ready.
    Prefer,
    #[default]
    Off,
    /// The own zone, while any endpoint there is ready.
    Strict,
    /// The own node, else the own zone, each while any endpoint there is ready.
    Node,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Subset {
    #[default]
    Auto,
    Off,
    Size(u32),
}

#[derive(Debug, Clone, PartialEq)]
pub struct RateLimit {
    pub requests_per_second: u32,
    pub burst: u32,
    pub on_exceeded: OnExceeded,
}

#[derive(Debug, Clone, PartialEq)]
pub enum OnExceeded {
    Reject,
    Queue { max_wait: Duration },
}

/// Everything the server side does with what arrives (kind `InboundPolicy`), folded over all levels.
#[derive(Debug, Clone, PartialEq)]
pub struct InboundTraffic {
    pub tls: TlsMode,
    pub max_connections: u32,
    pub per_client: Option<PerClient>,
    pub timeouts: InboundTimeouts,
    /// `None`: off. With ±10 % jitter.
    pub max_age: Option<Duration>,
    pub max_age_grace: Duration,
    pub hop_streams: u32,
    pub plaintext_streams: u32,
    /// Resets a second on one HTTP/2 connection.
    pub reset_limit: u32,
    pub headers_max_bytes: u32,
    pub headers_max_count: u32,
    pub app: AppHop,
    pub rate_limit: Option<InboundRateLimit>,
    pub overload: Overload,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TlsMode {
    #[default]
    Permissive,
    Strict,
    Off,
}

#[derive(Debug, Clone, PartialEq)]
pub struct PerClient {
    pub max: Option<u32>,
    pub rate_per_second: Option<u32>,
    pub burst: u32,
}

#[derive(Debug, Clone, PartialEq)]
pub struct InboundTimeouts {
    pub tls_handshake: Duration,
    pub request_headers: Duration,
    pub request_body_idle: Duration,
    pub idle: Duration,
    pub detect: Duration,
}

/// The hop from the sidecar to its own application.
#[derive(Debug, Clone, PartialEq)]
pub struct AppHop {
    pub idle_timeout: Duration,
    pub retry_reset_before_request: bool,
    pub max_concurrency: Option<u32>,
    pub max_connections: u32,
    pub max_pending: u32,
    pub acquire_timeout: Duration,
}

#[derive(Debug, Clone, PartialEq)]
pub struct InboundRateLimit {
    pub total: Option<Rate>,
    pub per_identity: Option<Rate>,
    pub overrides: Vec<(SpiffeMatch, Rate)>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Rate {
    pub requests_per_second: u32,
    pub burst: u32,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Overload {
    pub adaptive: Adaptive,
    /// Of the memory limit: stop keep-alive.
    pub shed_percent: u8,
    /// Of the memory limit: refuse.
    pub refuse_percent: u8,
}
