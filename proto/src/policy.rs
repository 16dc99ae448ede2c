//! The one policy model that both planes share: what the control plane compiles and what a proxy enforces.
//!
//! Everything here is *resolved*: no selectors, no lookups, no field whose default the proxy would have to know. It does no
//! I/O and names no clock; `convert` is the only place that also knows the wire.

mod traffic;

use std::fmt;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::identity::SpiffeId;
use crate::identity::TrustDomain;
pub use crate::policy::traffic::Adaptive;
pub use crate::policy::traffic::Algorithm;
pub use crate::policy::traffic::AppHop;
pub use crate::policy::traffic::Backoff;
pub use crate::policy::traffic::Budget;
pub use crate::policy::traffic::Capacity;
pub use crate::policy::traffic::CircuitBreaker;
pub use crate::policy::traffic::Concurrency;
pub use crate::policy::traffic::Connection;
pub use crate::policy::traffic::EndpointBreaker;
pub use crate::policy::traffic::HashKey;
pub use crate::policy::traffic::Http2Ping;
pub use crate::policy::traffic::InboundRateLimit;
pub use crate::policy::traffic::InboundTimeouts;
pub use crate::policy::traffic::InboundTraffic;
pub use crate::policy::traffic::Keepalive;
pub use crate::policy::traffic::LoadBalancing;
pub use crate::policy::traffic::Locality;
pub use crate::policy::traffic::Mode;
pub use crate::policy::traffic::OnExceeded;
pub use crate::policy::traffic::OnOpen;
pub use crate::policy::traffic::Overload;
pub use crate::policy::traffic::PerClient;
pub use crate::policy::traffic::Rate;
pub use crate::policy::traffic::RateLimit;
pub use crate::policy::traffic::Retries;
pub use crate::policy::traffic::RetryMethods;
pub use crate::policy::traffic::RetryOn;
pub use crate::policy::traffic::ServiceBreaker;
pub use crate::policy::traffic::Slow;
pub use crate::policy::traffic::SlowStart;
pub use crate::policy::traffic::Subset;
pub use crate::policy::traffic::Timeouts;
pub use crate::policy::traffic::TlsMode;
pub use crate::policy::traffic::Traffic;
pub use crate::policy::traffic::Trip;
pub use crate::policy::traffic::Warmup;

/// One unit of what the control plane tells a proxy (DESIGN: few small resources).
#[derive(Debug, Clone, PartialEq)]
pub enum Resource {
    Destination(Destination),
    Outbound(Outbound),
    Endpoints(Endpoints),
    Inbound(Inbound),
    TrustBundle(TrustBundle),
    ProxyConfig(ProxyConfig),
    EgressIndex(EgressIndex),
    Share(Share),
}

/// What an address is. A live answer: when the address changes hands, the control plane says so.
#[derive(Debug, Clone, PartialEq)]
pub enum Destination {
    /// A Service's address: its routes and policies apply.
    Service(ServicePort),
    /// A pod's address: identity and TLS apply, no routes and no balancing.
    Workload(Box<Workload>),
    /// Nothing in the mesh has this address.
    NotFound,
}

/// A pod that is called by its own address.
#[derive(Debug, Clone, PartialEq)]
pub struct Workload {
    pub endpoint: Endpoint,
    pub protocol: Protocol,
    /// Policy of the one headless Service that this pod and port stand in, else the mesh's defaults.
    pub policy: Arc<Traffic>,
}

/// `namespace/name` of a Service.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceName {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

/// One port of a Service, as clients name it (`shop/orders:80`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServicePort {
    pub service: ServiceName,
    pub port: u16,
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Display for ServicePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.service, self.port)
    }
}

/// The application protocol of a port, from `appProtocol`, the port's name, or a route's kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Protocol {
    /// Not declared: sniffed, and failing closed.
    #[default]
    Detect,
    Http1,
    /// HTTP/2 with prior knowledge, gRPC included.
    Http2,
    Grpc,
    /// Bytes: decided once per connection.
    Opaque,
    /// The application's own TLS: opaque, the server speaks after the client.
    Tls,
}

/// How the clients of one view reach a Service.
#[derive(Debug, Clone, PartialEq)]
pub struct Outbound {
    pub service: ServiceName,
    pub ports: Vec<OutboundPort>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct OutboundPort {
    pub port: u16,
    /// The port's name in the Service, or its number.
    pub name: Arc<str>,
    pub protocol: Protocol,
    /// In order of precedence. Empty: all goes to the Service's own endpoints under `policy`.
    pub routes: Vec<Route>,
    /// The Service's own endpoints.
    pub backend: Backend,
    /// Timeouts, retries, limits where no route rule says otherwise.
    pub policy: Arc<Traffic>,
    /// `sessionAffinity: ClientIP` with its timeout.
    pub client_ip_affinity: Option<Duration>,
}

/// An HTTPRoute, GRPCRoute or TCPRoute with a Service parent.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    pub kind: RouteKind,
    /// The object it comes from, `namespace/name`, for logs and `explain`.
    pub origin: Arc<str>,
    /// Exact names, or `*.suffix`. Empty: any. (GEP-1294: ignored for Service parents; kept for EgressHosts.)
    pub hostnames: Vec<Arc<str>>,
    pub rules: Vec<Rule>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteKind {
    Http,
    Grpc,
    Tcp,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// The rule's own name, else its position in the route.
    pub name: Arc<str>,
    /// Any of them selects the rule. Empty: everything.
    pub matches: Vec<Match>,
    pub filters: Vec<Filter>,
    /// Weighted. Empty, or no weight: 500 `no_route` as the Gateway API asks.
    pub backends: Vec<Backend>,
    /// Everything that the rule's parents and its own inline fields say, folded.
    pub policy: Arc<Traffic>,
}

/// All that is set must hold.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Match {
    pub path: Option<PathMatch>,
    pub method: Option<Arc<str>>,
    pub headers: Vec<ValueMatch>,
    pub query: Vec<ValueMatch>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum PathMatch {
    Exact(Arc<str>),
    /// By path element: `/foo` matches `/foo` and `/foo/bar`, not `/foobar`.
    Prefix(Arc<str>),
    Regex(Pattern),
}

/// A header (name in lower case) or a query parameter.
#[derive(Debug, Clone, PartialEq)]
pub struct ValueMatch {
    pub name: Arc<str>,
    pub value: StringMatch,
}

#[derive(Debug, Clone, PartialEq)]
pub enum StringMatch {
    Exact(Arc<str>),
    /// Must match the whole value.
    Regex(Pattern),
}

/// A compiled regular expression (linear time, bounded size) that must match the whole value; compared by its text. Classes
/// such as `\w` are ASCII, as in the engines that route authors know, unless the text says `(?u)`.
#[derive(Debug, Clone)]
pub struct Pattern {
    text: Arc<str>,
    regex: regex::bytes::Regex,
}

/// Why a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadPattern {
    #[error("the regular expression is longer than {PATTERN_BYTES_MAX} bytes")]
    Long,
    #[error("no regular expression: {0}")]
    Syntax(String),
    #[error("the regular expression compiles to more than {PATTERN_COMPILED_MAX} bytes")]
    Large,
}

/// The Gateway API's longest header value match.
const PATTERN_BYTES_MAX: usize = 4096;
const PATTERN_COMPILED_MAX: usize = 64 * 1024;

impl Pattern {
    /// # Errors
    /// No regular expression, or one above the bounds.
    pub fn new(text: &str) -> Result<Self, BadPattern> {
        if text.len() > PATTERN_BYTES_MAX {
            return Err(BadPattern::Long);
        }
        // Alone first: `a)|(b` is no expression, though it becomes one within ours.
        compile(text)?;
        Ok(Self { text: text.into(), regex: compile(&format!("^(?:{text})$"))? })
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the whole value matches.
    pub fn matches(&self, value: &[u8]) -> bool {
        self.regex.is_match(value)
    }
}

fn compile(text: &str) -> Result<regex::bytes::Regex, BadPattern> {
    regex::bytes::RegexBuilder::new(text)
        .unicode(false)
        .size_limit(PATTERN_COMPILED_MAX)
        .dfa_size_limit(PATTERN_COMPILED_MAX)
        .build()
        .map_err(|e| match e {
            regex::Error::CompiledTooBig(_) => BadPattern::Large,
            // The last line says what is wrong; those before it draw the place.
            other => BadPattern::Syntax(other.to_string().lines().last().unwrap_or_default().to_owned()),
        })
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum Filter {
    RequestHeaders(HeaderEdit),
    ResponseHeaders(HeaderEdit),
    Redirect(Redirect),
    Rewrite {
        hostname: Option<Arc<str>>,
        path: Option<PathEdit>,
    },
    /// Copies this share of requests (parts of a million) to a backend whose answers are dropped.
    Mirror {
        backend: Backend,
        parts_per_million: u32,
    },
}

/// Names are in lower case.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct HeaderEdit {
    pub set: Vec<(Arc<str>, Arc<str>)>,
    pub add: Vec<(Arc<str>, Arc<str>)>,
    pub remove: Vec<Arc<str>>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Redirect {
    pub scheme: Option<Arc<str>>,
    pub hostname: Option<Arc<str>>,
    pub port: Option<u16>,
    pub path: Option<PathEdit>,
    pub status: u16,
}

#[derive(Debug, Clone, PartialEq)]
pub enum PathEdit {
    Full(Arc<str>),
    /// Replaces the prefix that the rule's match named.
    Prefix(Arc<str>),
}

/// A weighted reference to a Service's port, not an address.
#[derive(Debug, Clone, PartialEq)]
pub struct Backend {
    pub target: ServicePort,
    /// 0 to 1,000,000.
    pub weight: u32,
    pub protocol: Protocol,
    pub filters: Vec<Filter>,
    /// `connection`, `circuitBreaker` and `loadBalancing` towards this backend.
    pub policy: Arc<Traffic>,
    /// False where the reference did not resolve: its share answers 500 (Gateway API).
    pub resolved: bool,
}

/// One hash bucket of a Service port's endpoints.
#[derive(Debug, Clone, PartialEq)]
pub struct Endpoints {
    pub target: ServicePort,
    pub bucket: u32,
    pub buckets: u32,
    pub endpoints: Vec<Endpoint>,
    /// `internalTrafficPolicy: Local`: a proxy calls those on its own node alone.
    pub own_node_only: bool,
}

/// One address of a service.
#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    /// The pod's uid, or the address where there is no pod.
    pub uid: Arc<str>,
    /// What to dial, preferred family first. Never empty.
    pub addresses: Vec<SocketAddr>,
    /// Who must answer. `None`: not in the mesh, plaintext.
    pub identity: Option<SpiffeId>,
    /// Where the sidecar listens when nothing redirects (`leno.dev/inbound-ports`): the port to dial instead.
    pub hop_port: Option<u16>,
    pub node: Arc<str>,
    pub zone: Arc<str>,
    pub cluster: Arc<str>,
    /// Ready for new requests.
    pub ready: bool,
    /// Still answering, though perhaps terminating.
    pub serving: bool,
    pub terminating: bool,
    /// Workers of its sidecar; 0 where unknown.
    pub parallelism: u32,
    /// `namespace/name` of the pod, for people.
    pub pod: Arc<str>,
}

/// What a workload's sidecar does with what arrives.
#[derive(Debug, Clone, PartialEq)]
pub struct Inbound {
    pub uid: Arc<str>,
    pub identity: SpiffeId,
    pub namespace: Arc<str>,
    pub pod: Arc<str>,
    pub addresses: Vec<IpAddr>,
    pub ports: Vec<InboundPort>,
    /// For ports that no Service and no container declares.
    pub other: InboundPort,
    pub grace: Duration,
    /// Where the pod runs; empty: not known.
    pub node: Arc<str>,
    pub zone: Arc<str>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct InboundPort {
    /// 0 in `Inbound::other`.
    pub port: u16,
    pub protocol: Protocol,
    /// Where the sidecar listens when nothing redirects.
    pub listen: Option<u16>,
    pub policy: Arc<InboundTraffic>,
    pub access: Access,
}

/// Who may call a port: any matching deny denies; else, where `restricted`, one allow must match; else `default`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Access {
    pub deny: Vec<AccessRule>,
    pub allow: Vec<AccessRule>,
    pub audit: Vec<AccessRule>,
    /// Some Allow policy selects this port, even if it grants nothing.
    pub restricted: bool,
    pub default: DefaultAccess,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DefaultAccess {
    #[default]
    Allow,
    Deny,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct AccessRule {
    /// The policy it comes from, `namespace/name`, for logs.
    pub origin: Arc<str>,
    /// `None`: any source. Empty: none.
    pub sources: Option<Vec<Source>>,
    /// Empty: any method.
    pub methods: Vec<Arc<str>>,
    /// Empty: any path. Exact, or a prefix where it ends in `*`.
    pub paths: Vec<Arc<str>>,
}

/// All that is set must hold.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Source {
    pub spiffe: Vec<SpiffeMatch>,
    pub namespaces: Vec<Arc<str>>,
    pub cidrs: Vec<IpNet>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum SpiffeMatch {
    Exact(SpiffeId),
    /// `spiffe://domain/path/*`
    Prefix(Arc<str>),
}

impl SpiffeMatch {
    /// An id, or a prefix of whole segments that ends in `/*`.
    pub fn parse(text: &str) -> Option<Self> {
        match Self::is_prefix(text) {
            true => Some(Self::Prefix(text.into())),
            false => text.parse().ok().map(Self::Exact),
        }
    }

    /// Whether the text is like `spiffe://domain/path/*` or `spiffe://domain/*`.
    pub fn is_prefix(text: &str) -> bool {
        match text.strip_suffix("/*") {
            // A whole id stands where the star does, so that the checks of ids hold for the rest.
            Some(start) => format!("{start}/x").parse::<SpiffeId>().is_ok(),
            None => false,
        }
    }

    pub fn matches(&self, id: &SpiffeId) -> bool {
        match self {
            Self::Exact(exact) => exact == id,
            Self::Prefix(prefix) => prefix.strip_suffix('*').is_some_and(|start| id.as_str().starts_with(start)),
        }
    }
}

impl AccessRule {
    /// Whether it has terms that only a request can meet.
    pub fn speaks_http(&self) -> bool {
        !self.methods.is_empty() || !self.paths.is_empty()
    }
}

/// Trust anchors (DER) by trust domain.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TrustBundle {
    pub domains: Vec<(TrustDomain, Vec<bytes::Bytes>)>,
}

/// What is the same for every connection of one proxy.
#[derive(Debug, Clone, PartialEq)]
pub struct ProxyConfig {
    pub trust_domain: TrustDomain,
    /// Addresses that the control plane is asked about.
    pub mesh_networks: Vec<IpNet>,
    pub discovery_timeout: Duration,
    pub on_discovery_timeout: OnDiscoveryTimeout,
    pub unknown: Unknown,
    pub tracing: Tracing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnDiscoveryTimeout {
    #[default]
    Fail,
    Passthrough,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Unknown {
    #[default]
    Allow,
    Deny,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Tracing {
    /// An OTLP endpoint; `None`: no export (the environment may still name one).
    pub endpoint: Option<Arc<str>>,
    /// Of root spans, in parts of a million.
    pub sampling_ppm: u32,
}

/// The declared external destinations that this proxy may see.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct EgressIndex {
    pub hosts: Vec<EgressHost>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct EgressHost {
    pub origin: Arc<str>,
    /// Exact names, or `*.suffix`.
    pub hostnames: Vec<Arc<str>>,
    pub ports: Vec<EgressPort>,
    /// Static addresses; empty: the proxy resolves the name itself.
    pub addresses: Vec<IpAddr>,
    pub policy: Arc<Traffic>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct EgressPort {
    pub port: u16,
    pub protocol: Protocol,
    /// The sidecar speaks TLS to the host on this port, with this server name.
    pub originate_tls: Option<Arc<str>>,
}

/// Numbers that differ per client: this proxy's part of each declared capacity.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Share {
    pub max_connections: Vec<(ServicePort, u32)>,
}
