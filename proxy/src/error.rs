//! How a request or connection ends when it does not end well. `Error` explains to a person, the closed `Reason` decides
//! for the machine: status, gRPC code, side and retry verdict each in one exhaustive match. It must never have an "other".

#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use leno_proto::policy::ServicePort;

/// Every way in which a proxy itself ends a request or connection. It is at once the metric label, the log field, the span
/// attribute, the header `leno-reason` and the error of RFC 9209 `proxy-status`. Adding one is a change of the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    NoEndpoints,
    ConnectTimeout,
    ConnectRefused,
    TlsIdentity,
    AcquireTimeout,
    QueueFull,
    BreakerOpen,
    BreakerHalfOpen,
    ConcurrencyLimit,
    RateLimited,
    RequestTimeout,
    FirstByteTimeout,
    StreamIdle,
    RetryBudget,
    RetryLimit,
    ResetBeforeResponse,
    Draining,
    OverloadMemory,
    PolicyDenied,
    ProtocolError,
    NoRoute,
    UnknownPort,
    DiscoveryTimeout,
    DetectTimeout,
    EgressDenied,
    OpaqueDenied,
    LoopRefused,
    PlaintextRefused,
    TlsUntrusted,
    TlsExpired,
    TlsWrongIdentity,
    NoCertificate,
    BadFraming,
    HeadersTooLarge,
    HeaderTimeout,
    BodyIdle,
    ClientGone,
    AppRefused,
    AppReset,
    H2Abuse,
    FdLimit,
    InternalPanic,
}

/// Where the cause lies, as seen from the proxy that says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// Whoever called.
    Client,
    /// This proxy, its limits and its policy.
    Proxy,
    /// Whoever was called, or the way there.
    Upstream,
}

/// What a failure says about trying again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Again {
    /// The application never saw the request: any method may go elsewhere.
    NeverProcessed,
    /// It may have seen it: only what policy and the method allow.
    MayBeProcessed,
    /// Another try would end the same way, or must not be made.
    Final,
}

impl Reason {
    pub const ALL: [Self; 42] = [
        Self::NoEndpoints,
        Self::ConnectTimeout,
        Self::ConnectRefused,
        Self::TlsIdentity,
        Self::AcquireTimeout,
        Self::QueueFull,
        Self::BreakerOpen,
        Self::BreakerHalfOpen,
        Self::ConcurrencyLimit,
        Self::RateLimited,
        Self::RequestTimeout,
        Self::FirstByteTimeout,
        Self::StreamIdle,
        Self::RetryBudget,
        Self::RetryLimit,
        Self::ResetBeforeResponse,
        Self::Draining,
        Self::OverloadMemory,
        Self::PolicyDenied,
        Self::ProtocolError,
        Self::NoRoute,
        Self::UnknownPort,
        Self::DiscoveryTimeout,
        Self::DetectTimeout,
        Self::EgressDenied,
        Self::OpaqueDenied,
        Self::LoopRefused,
        Self::PlaintextRefused,
        Self::TlsUntrusted,
        Self::TlsExpired,
        Self::TlsWrongIdentity,
        Self::NoCertificate,
        Self::BadFraming,
        Self::HeadersTooLarge,
        Self::HeaderTimeout,
        Self::BodyIdle,
        Self::ClientGone,
        Self::AppRefused,
        Self::AppReset,
        Self::H2Abuse,
        Self::FdLimit,
        Self::InternalPanic,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoEndpoints => "no_endpoints",
            Self::ConnectTimeout => "connect_timeout",
            Self::ConnectRefused => "connect_refused",
            Self::TlsIdentity => "tls_identity",
            Self::AcquireTimeout => "acquire_timeout",
            Self::QueueFull => "queue_full",
            Self::BreakerOpen => "breaker_open",
            Self::BreakerHalfOpen => "breaker_half_open",
            Self::ConcurrencyLimit => "concurrency_limit",
            Self::RateLimited => "rate_limited",
            Self::RequestTimeout => "request_timeout",
            Self::FirstByteTimeout => "first_byte_timeout",
            Self::StreamIdle => "stream_idle",
            Self::RetryBudget => "retry_budget",
            Self::RetryLimit => "retry_limit",
            Self::ResetBeforeResponse => "reset_before_response",
            Self::Draining => "draining",
            Self::OverloadMemory => "overload_memory",
            Self::PolicyDenied => "policy_denied",
            Self::ProtocolError => "protocol_error",
            Self::NoRoute => "no_route",
            Self::UnknownPort => "unknown_port",
            Self::DiscoveryTimeout => "discovery_timeout",
            Self::DetectTimeout => "detect_timeout",
            Self::EgressDenied => "egress_denied",
            Self::OpaqueDenied => "opaque_denied",
            Self::LoopRefused => "loop_refused",
            Self::PlaintextRefused => "plaintext_refused",
            Self::TlsUntrusted => "tls_untrusted",
            Self::TlsExpired => "tls_expired",
            Self::TlsWrongIdentity => "tls_wrong_identity",
            Self::NoCertificate => "no_certificate",
            Self::BadFraming => "bad_framing",
            Self::HeadersTooLarge => "headers_too_large",
            Self::HeaderTimeout => "header_timeout",
            Self::BodyIdle => "body_idle",
            Self::ClientGone => "client_gone",
            Self::AppRefused => "app_refused",
            Self::AppReset => "app_reset",
            Self::H2Abuse => "h2_abuse",
            Self::FdLimit => "fd_limit",
            Self::InternalPanic => "internal_panic",
        }
    }

    /// The HTTP status of an answer that this proxy makes itself.
    pub fn status(self) -> u16 {
        match self {
            Self::BadFraming | Self::H2Abuse => 400,
            Self::PolicyDenied | Self::EgressDenied | Self::OpaqueDenied | Self::PlaintextRefused => 403,
            Self::HeaderTimeout | Self::BodyIdle => 408,
            Self::RateLimited => 429,
            Self::HeadersTooLarge => 431,
            // Not registered, but what everybody writes into a log for it; it never reaches a wire.
            Self::ClientGone => 499,
            // The Gateway API asks for 500 where a rule has nowhere to send to.
            Self::NoRoute | Self::InternalPanic => 500,
            Self::ProtocolError
            | Self::TlsIdentity
            | Self::TlsUntrusted
            | Self::TlsExpired
            | Self::TlsWrongIdentity
            | Self::LoopRefused => 502,
            Self::ResetBeforeResponse | Self::AppReset => 502,
            Self::NoEndpoints
            | Self::ConnectTimeout
            | Self::ConnectRefused
            | Self::AcquireTimeout
            | Self::QueueFull
            | Self::BreakerOpen
            | Self::BreakerHalfOpen
            | Self::ConcurrencyLimit
            | Self::RetryBudget
            | Self::RetryLimit
            | Self::Draining
            | Self::OverloadMemory
            | Self::UnknownPort
            | Self::DiscoveryTimeout
            | Self::DetectTimeout
            | Self::NoCertificate
            | Self::AppRefused
            | Self::FdLimit => 503,
            Self::RequestTimeout | Self::FirstByteTimeout | Self::StreamIdle => 504,
        }
    }

    /// The gRPC status code (grpc/doc/statuscodes.md) of the same answer.
    pub fn grpc_code(self) -> u16 {
        match self {
            Self::ClientGone => grpc::CANCELLED,
            Self::RequestTimeout | Self::FirstByteTimeout | Self::StreamIdle => grpc::DEADLINE_EXCEEDED,
            Self::PolicyDenied | Self::EgressDenied | Self::OpaqueDenied | Self::PlaintextRefused => {
                grpc::PERMISSION_DENIED
            }
            Self::RateLimited | Self::ConcurrencyLimit | Self::QueueFull | Self::HeadersTooLarge => {
                grpc::RESOURCE_EXHAUSTED
            }
            Self::NoRoute => grpc::UNIMPLEMENTED,
            Self::BadFraming
            | Self::H2Abuse
            | Self::HeaderTimeout
            | Self::BodyIdle
            | Self::ProtocolError
            | Self::InternalPanic => grpc::INTERNAL,
            Self::NoEndpoints
            | Self::ConnectTimeout
            | Self::ConnectRefused
            | Self::TlsIdentity
            | Self::TlsUntrusted
            | Self::TlsExpired
            | Self::TlsWrongIdentity
            | Self::LoopRefused
            | Self::ResetBeforeResponse
            | Self::AppReset
            | Self::AcquireTimeout
            | Self::BreakerOpen
            | Self::BreakerHalfOpen
            | Self::RetryBudget
            | Self::RetryLimit
            | Self::Draining
            | Self::OverloadMemory
            | Self::UnknownPort
            | Self::DiscoveryTimeout
            | Self::DetectTimeout
            | Self::NoCertificate
            | Self::AppRefused
            | Self::FdLimit => grpc::UNAVAILABLE,
        }
    }

    pub fn side(self) -> Side {
        match self {
            Self::BadFraming
            | Self::HeadersTooLarge
            | Self::HeaderTimeout
            | Self::BodyIdle
            | Self::ClientGone
            | Self::H2Abuse
            | Self::DetectTimeout
            | Self::PlaintextRefused
            | Self::LoopRefused => Side::Client,
            Self::AcquireTimeout
            | Self::QueueFull
            | Self::BreakerOpen
            | Self::BreakerHalfOpen
            | Self::ConcurrencyLimit
            | Self::RateLimited
            | Self::RetryBudget
            | Self::RetryLimit
            | Self::Draining
            | Self::OverloadMemory
            | Self::PolicyDenied
            | Self::NoRoute
            | Self::UnknownPort
            | Self::DiscoveryTimeout
            | Self::EgressDenied
            | Self::OpaqueDenied
            | Self::NoCertificate
            | Self::FdLimit
            | Self::InternalPanic => Side::Proxy,
            Self::NoEndpoints
            | Self::ConnectTimeout
            | Self::ConnectRefused
            | Self::TlsIdentity
            | Self::TlsUntrusted
            | Self::TlsExpired
            | Self::TlsWrongIdentity
            | Self::RequestTimeout
            | Self::FirstByteTimeout
            | Self::StreamIdle
            | Self::ResetBeforeResponse
            | Self::ProtocolError
            | Self::AppRefused
            | Self::AppReset => Side::Upstream,
        }
    }

    /// What the same failure, met by one attempt, says about the next.
    pub fn again(self) -> Again {
        match self {
            Self::ConnectTimeout
            | Self::ConnectRefused
            | Self::TlsIdentity
            | Self::TlsUntrusted
            | Self::TlsExpired
            | Self::TlsWrongIdentity
            | Self::AppRefused
            | Self::Draining
            | Self::OverloadMemory
            | Self::FdLimit
            | Self::UnknownPort => Again::NeverProcessed,
            Self::ResetBeforeResponse | Self::AppReset | Self::FirstByteTimeout | Self::ProtocolError => {
                Again::MayBeProcessed
            }
            Self::NoEndpoints
            | Self::AcquireTimeout
            | Self::QueueFull
            | Self::BreakerOpen
            | Self::BreakerHalfOpen
            | Self::ConcurrencyLimit
            | Self::RateLimited
            | Self::RequestTimeout
            | Self::StreamIdle
            | Self::RetryBudget
            | Self::RetryLimit
            | Self::PolicyDenied
            | Self::NoRoute
            | Self::DiscoveryTimeout
            | Self::DetectTimeout
            | Self::EgressDenied
            | Self::OpaqueDenied
            | Self::LoopRefused
            | Self::PlaintextRefused
            | Self::NoCertificate
            | Self::BadFraming
            | Self::HeadersTooLarge
            | Self::HeaderTimeout
            | Self::BodyIdle
            | Self::ClientGone
            | Self::H2Abuse
            | Self::InternalPanic => Again::Final,
        }
    }

    /// The nearest of RFC 9209 section 2.3's proxy error types.
    pub fn proxy_status(self) -> &'static str {
        match self {
            Self::NoEndpoints | Self::Draining => "destination_unavailable",
            Self::ConnectTimeout => "connection_timeout",
            Self::ConnectRefused | Self::AppRefused => "connection_refused",
            Self::TlsIdentity | Self::TlsUntrusted | Self::TlsExpired | Self::TlsWrongIdentity => {
                "tls_certificate_error"
            }
            Self::NoCertificate => "proxy_configuration_error",
            Self::AcquireTimeout
            | Self::QueueFull
            | Self::ConcurrencyLimit
            | Self::BreakerOpen
            | Self::BreakerHalfOpen
            | Self::FdLimit => "connection_limit_reached",
            Self::RateLimited
            | Self::PolicyDenied
            | Self::EgressDenied
            | Self::OpaqueDenied
            | Self::PlaintextRefused => "http_request_denied",
            Self::RequestTimeout | Self::FirstByteTimeout => "http_response_timeout",
            Self::StreamIdle => "connection_read_timeout",
            Self::RetryBudget | Self::RetryLimit => "destination_unavailable",
            Self::ResetBeforeResponse | Self::AppReset => "connection_terminated",
            Self::OverloadMemory | Self::InternalPanic => "proxy_internal_error",
            Self::ProtocolError => "http_protocol_error",
            Self::NoRoute | Self::UnknownPort => "destination_not_found",
            Self::DiscoveryTimeout => "destination_unavailable",
            Self::DetectTimeout | Self::BadFraming | Self::HeadersTooLarge | Self::HeaderTimeout => {
                "http_request_error"
            }
            Self::BodyIdle | Self::ClientGone | Self::H2Abuse => "http_request_error",
            Self::LoopRefused => "proxy_loop_detected",
        }
    }

    /// Whether the answer says when to come back: what was shed, not what is wrong.
    pub fn sheds(self) -> bool {
        matches!(
            self,
            Self::AcquireTimeout
                | Self::QueueFull
                | Self::BreakerOpen
                | Self::BreakerHalfOpen
                | Self::ConcurrencyLimit
                | Self::RateLimited
                | Self::Draining
                | Self::OverloadMemory
        )
    }

    /// The reason with this name, as a peer's `leno-reason` says it.
    pub fn parse(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str().as_bytes() == name)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a request or connection ended, with the values that a person wants to see.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no endpoint of {0} may be called")]
    NoEndpoints(ServicePort),
    #[error("connect to {address}: {source}")]
    Connect { address: SocketAddr, source: io::Error },
    #[error("connect to {address}: no answer in {after:?}")]
    ConnectTimeout { address: SocketAddr, after: Duration },
    #[error("tls to {address}: {detail}")]
    Tls { address: SocketAddr, reason: Reason, detail: String },
    #[error("connect to {address}: its next attempt is not due yet")]
    Cooling { address: SocketAddr },
    #[error("no connection to {target} became free in {after:?}")]
    AcquireTimeout { target: ServicePort, after: Duration },
    #[error("too many already wait for a connection to {0}")]
    QueueFull(ServicePort),
    #[error("the circuit breaker of {0} is open")]
    BreakerOpen(ServicePort),
    #[error("the circuit breaker of {0} is trying a few requests")]
    BreakerHalfOpen(ServicePort),
    #[error("{0} has as many requests in flight as policy allows")]
    ConcurrencyLimit(ServicePort),
    #[error("{0} gets as many requests a second as policy allows")]
    RateLimited(ServicePort),
    #[error("no answer in {0:?}")]
    RequestTimeout(Duration),
    #[error("it lasted {0:?}, as long as timeouts.maxStreamDuration allows")]
    StreamDuration(Duration),
    #[error("no answer began in {0:?}")]
    FirstByteTimeout(Duration),
    #[error("{address} closed before it answered: {detail}")]
    ResetBeforeResponse { address: SocketAddr, detail: String },
    #[error("{address} broke the protocol: {detail}")]
    Protocol { address: SocketAddr, detail: String },
    #[error("denied by {0}")]
    Denied(Arc<str>),
    #[error("no route of {0} matches")]
    NoRoute(ServicePort),
    #[error("{0} names a backend that does not exist")]
    Unresolved(Arc<str>),
    #[error("{0} is not a port of this workload's policy")]
    UnknownPort(SocketAddr),
    #[error("nobody said what {address} is in {after:?}")]
    DiscoveryTimeout { address: SocketAddr, after: Duration },
    #[error("{0} is not in the mesh, and policy allows nothing else")]
    EgressDenied(SocketAddr),
    #[error("{0} leads back into this proxy")]
    Loop(SocketAddr),
    #[error("the application on {address} refused: {source}")]
    AppRefused { address: SocketAddr, source: io::Error },
    #[error("this proxy has no certificate yet")]
    NoCertificate,
    #[error("the client went away")]
    ClientGone,
    /// What a codec, a handshake or a limit has already named.
    #[error("{detail}")]
    Because { reason: Reason, detail: String },
}

impl Error {
    /// The end of a client's HTTP/2 connection. That the client merely left, its streams have told.
    pub fn of_http2(served: Result<(), Reason>) -> Result<(), Self> {
        match served {
            Ok(()) | Err(Reason::ClientGone) => Ok(()),
            Err(reason) => Err(Self::Because { reason, detail: "the client's HTTP/2 connection was ended".to_owned() }),
        }
    }

    /// Refused by the AccessPolicy of this name; `None`: by the lack of one that allows.
    pub fn denied(origin: Option<Arc<str>>) -> Self {
        Self::Denied(origin.unwrap_or_else(|| "the lack of an Allow".into()))
    }

    pub fn reason(&self) -> Reason {
        match self {
            Self::NoEndpoints(_) => Reason::NoEndpoints,
            Self::Connect { .. } | Self::Cooling { .. } => Reason::ConnectRefused,
            Self::ConnectTimeout { .. } => Reason::ConnectTimeout,
            Self::Tls { reason, .. } => *reason,
            Self::AcquireTimeout { .. } => Reason::AcquireTimeout,
            Self::QueueFull(_) => Reason::QueueFull,
            Self::BreakerOpen(_) => Reason::BreakerOpen,
            Self::BreakerHalfOpen(_) => Reason::BreakerHalfOpen,
            Self::ConcurrencyLimit(_) => Reason::ConcurrencyLimit,
            Self::RateLimited(_) => Reason::RateLimited,
            Self::RequestTimeout(_) | Self::StreamDuration(_) => Reason::RequestTimeout,
            Self::FirstByteTimeout(_) => Reason::FirstByteTimeout,
            Self::ResetBeforeResponse { .. } => Reason::ResetBeforeResponse,
            Self::Protocol { .. } => Reason::ProtocolError,
            Self::Denied(_) => Reason::PolicyDenied,
            Self::NoRoute(_) | Self::Unresolved(_) => Reason::NoRoute,
            Self::UnknownPort(_) => Reason::UnknownPort,
            Self::DiscoveryTimeout { .. } => Reason::DiscoveryTimeout,
            Self::EgressDenied(_) => Reason::EgressDenied,
            Self::Loop(_) => Reason::LoopRefused,
            Self::AppRefused { .. } => Reason::AppRefused,
            Self::NoCertificate => Reason::NoCertificate,
            Self::ClientGone => Reason::ClientGone,
            Self::Because { reason, .. } => *reason,
        }
    }
}

mod grpc {
    pub(super) const CANCELLED: u16 = 1;
    pub(super) const DEADLINE_EXCEEDED: u16 = 4;
    pub(super) const PERMISSION_DENIED: u16 = 7;
    pub(super) const RESOURCE_EXHAUSTED: u16 = 8;
    pub(super) const UNIMPLEMENTED: u16 = 12;
    pub(super) const INTERNAL: u16 = 13;
    pub(super) const UNAVAILABLE: u16 = 14;
}
