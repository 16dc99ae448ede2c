//! What a policy says that holds together and still does not do what its author means: fields of several objects, merged, seen at
//! once. Pure functions over the compiled view, so that conditions and the command line say the same. It never refuses anything.

pub mod codes;
#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

use leno_proto::fields;
use leno_proto::fields::duration;
use leno_proto::policy::InboundTraffic;
use leno_proto::policy::Protocol;
use leno_proto::policy::RetryMethods;
use leno_proto::policy::RetryOn;
use leno_proto::policy::RouteKind;
use leno_proto::policy::Traffic;
use leno_proto::policy::Trip;
use serde::Serialize;

use crate::object::kube::Service;
use crate::object::ours::Target;
use crate::object::ours::TrafficPolicy;

/// One thing that its author should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    pub code: &'static str,
    /// Dotted, below `spec`: it is told to whoever set one of these.
    pub fields: &'static [&'static str],
    pub message: String,
    pub remedy: &'static str,
}

/// What is known of the place where a client-side policy is in force. `None`: not known, and nothing is said of it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Site {
    pub protocol: Protocol,
    /// Endpoints behind it that have a sidecar.
    pub meshed_endpoints: Option<usize>,
    /// The shortest `timeouts.idle` among the InboundPolicies of its endpoints.
    pub server_idle: Option<Duration>,
    /// The shortest grace period among the Pods of its endpoints.
    pub server_grace: Option<Duration>,
}

/// What is told of one object: a warning where it holds, or what is wrong with the object itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub code: &'static str,
    /// Dotted, below `spec`; empty: the object as a whole.
    pub field: String,
    pub message: String,
    pub remedy: String,
    /// Such as `Service shop/orders port 80`; empty: the object itself.
    pub place: String,
}

impl Warning {
    pub fn at(self, place: &str) -> Finding {
        Finding {
            code: self.code,
            field: self.fields.first().copied().unwrap_or_default().to_owned(),
            message: self.message,
            remedy: self.remedy.to_owned(),
            place: place.to_owned(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code)?;
        if !self.field.is_empty() {
            write!(f, " {}", self.field)?;
        }
        write!(f, ": {}", self.message)?;
        if !self.remedy.is_empty() {
            write!(f, " ({})", self.remedy)?;
        }
        if !self.place.is_empty() {
            write!(f, ", on {}", self.place)?;
        }
        Ok(())
    }
}

/// Of the fields that a policy sets, those without any effect on a route that it targets: each once, with the first such route.
/// What no proxy acts on anywhere is told elsewhere.
pub fn on_routes(policy: &TrafficPolicy) -> Vec<Finding> {
    let body = &policy.spec.body;
    let unsupported = fields::unsupported(fields::TRAFFIC, body);
    let mut found: Vec<Finding> = Vec::new();
    for target in policy.targets() {
        let Target::Route(kind, name) = target else { continue };
        let Some(route) = kind.route() else { continue };
        for field in fields::idle_on_route(route, body) {
            if unsupported.contains(&field) || found.iter().any(|one| one.field == field) {
                continue;
            }
            let (message, remedy) = match route == RouteKind::Tcp && !fields::counts_for_bytes(&field) {
                true => ("it has no effect on a TCPRoute, which carries no requests", "remove it"),
                false => (
                    "it has no effect on a route: all that leads to a Service shares it",
                    "put it on a policy that targets the Service",
                ),
            };
            let (message, remedy, place) = (message.to_owned(), remedy.to_owned(), format!("{kind} {name}"));
            found.push(Finding { code: "NO_EFFECT_ON_ROUTE", field, message, remedy, place });
        }
    }
    found
}

/// Of the fields that a policy sets, those without any effect on a port that carries bytes.
pub fn on_bytes(policy: &TrafficPolicy, place: &str) -> Vec<Finding> {
    let body = &policy.spec.body;
    let unsupported = fields::unsupported(fields::TRAFFIC, body);
    let idle = fields::idle_for_bytes(body).into_iter().filter(|field| !unsupported.contains(field));
    let finding = |field| Finding {
        code: "NO_EFFECT_ON_BYTES",
        field,
        message: "it has no effect here: the port is declared as opaque, and carries no requests".to_owned(),
        remedy: "remove it, or declare what the port speaks by its appProtocol or name".to_owned(),
        place: place.to_owned(),
    };
    idle.map(finding).collect()
}

/// Of an EgressHost, or of what targets one.
pub fn egress(place: String) -> Finding {
    Finding {
        code: UNSUPPORTED_KIND,
        field: String::new(),
        message:
            "no proxy of this release acts on an EgressHost: what leaves the mesh follows Mesh.spec.outbound alone"
                .to_owned(),
        remedy: "do not rely on it".to_owned(),
        place,
    }
}

pub const UNSUPPORTED_KIND: &str = "UNSUPPORTED_KIND";

/// Of Kubernetes' own fields of a Service, what sidecars do otherwise than kube-proxy would.
pub fn service(service: &Service) -> Vec<Finding> {
    let spec = &service.spec;
    let finding = |field: &str, message: &str, remedy: &str| Finding {
        code: "SERVICE_FIELD_NOT_ENFORCED",
        field: field.to_owned(),
        message: message.to_owned(),
        remedy: remedy.to_owned(),
        place: String::new(),
    };
    let mut found = Vec::new();
    if !["", "PreferClose", "PreferSameZone", "PreferSameNode"].contains(&spec.traffic_distribution.as_str()) {
        let message = "this release does not know it: sidecars call all endpoints alike";
        found.push(finding("trafficDistribution", message, "use PreferSameZone or PreferSameNode"));
    }
    let stays = spec.session_affinity_config.client_ip.timeout_seconds.unwrap_or(AFFINITY_DEFAULT);
    if spec.session_affinity == "ClientIP" && stays != AFFINITY_DEFAULT {
        let message = "a client stays with its endpoint for as long as that is there, not for a time";
        found.push(finding("sessionAffinityConfig.clientIP.timeoutSeconds", message, "do not rely on its end"));
    }
    let annotations = &service.metadata.annotations;
    let hinted = TOPOLOGY_ANNOTATIONS
        .into_iter()
        .find(|name| annotations.get(*name).is_some_and(|word| word.eq_ignore_ascii_case("auto")));
    if let Some(name) = hinted {
        let message = format!("sidecars do not follow the hints that {name} puts into EndpointSlices");
        found.push(finding("metadata.annotations", &message, "set spec.trafficDistribution: PreferSameZone instead"));
    }
    found
}

/// Kubernetes' default of `sessionAffinityConfig.clientIP.timeoutSeconds`.
const AFFINITY_DEFAULT: u32 = 10_800;

const TOPOLOGY_ANNOTATIONS: [&str; 2] =
    ["service.kubernetes.io/topology-mode", "service.kubernetes.io/topology-aware-hints"];

/// Of a policy folded for one Service port or one rule.
pub fn traffic(policy: &Traffic, site: &Site) -> Vec<Warning> {
    let mut found = Vec::new();
    timeouts(policy, site, &mut found);
    retries(policy, site, &mut found);
    connections(policy, site, &mut found);
    breakers(policy, &mut found);
    found
}

/// Of a policy folded for one port of a workload.
pub fn inbound(policy: &InboundTraffic) -> Vec<Warning> {
    let mut found = Vec::new();
    let idle = policy.timeouts.idle;
    if idle < CLIENT_IDLE {
        found.push(Warning {
            code: "SERVER_CLOSES_FIRST",
            fields: &["timeouts.idle"],
            message: format!(
                "{} is below the {} for which clients keep idle connections",
                text(idle),
                text(CLIENT_IDLE)
            ),
            remedy: "raise it above the clients' connection.idleTimeout",
        });
    }
    if policy.hop_streams < STREAMS_FEW {
        found.push(Warning {
            code: "FEW_STREAMS",
            fields: &["http2.maxConcurrentStreams"],
            message: format!("{} requests at once on each client's one connection", policy.hop_streams),
            remedy: "bound what the application gets with app.maxConcurrency",
        });
    }
    if let Some(age) = policy.max_age.filter(|age| policy.max_age_grace >= *age) {
        found.push(Warning {
            code: "GRACE_ABOVE_AGE",
            fields: &["connections.maxAgeGrace", "connections.maxAge"],
            message: format!("{} of grace after an age of {}", text(policy.max_age_grace), text(age)),
            remedy: "a connection lives for both; shorten the grace",
        });
    }
    found
}

fn timeouts(policy: &Traffic, site: &Site, found: &mut Vec<Warning>) {
    let times = &policy.timeouts;
    let Some(request) = times.request else { return };
    let tries = policy.retries.attempts + 1;
    if let Some(per_try) = times.per_try {
        if per_try > request {
            found.push(Warning {
                code: "PER_TRY_ABOVE_REQUEST",
                fields: &["timeouts.perTry", "timeouts.request"],
                message: format!("one try may take {}, all together {}", text(per_try), text(request)),
                remedy: "shorten perTry or lengthen request",
            });
        } else if tries > 1 && per_try * tries > request {
            found.push(Warning {
                code: "RETRIES_CUT_SHORT",
                fields: &["timeouts.request", "timeouts.perTry", "retries.attempts"],
                message: format!(
                    "{tries} tries of {} take {}, and the request ends after {}",
                    text(per_try),
                    text(per_try * tries),
                    text(request)
                ),
                remedy: "shorten perTry, lower attempts or lengthen request",
            });
        }
    }
    if times.first_byte.is_some_and(|first_byte| first_byte >= request) {
        found.push(Warning {
            code: "FIRST_BYTE_NEVER_APPLIES",
            fields: &["timeouts.firstByte", "timeouts.request"],
            message: format!("the request ends after {} before it", text(request)),
            remedy: "shorten firstByte or remove it",
        });
    }
    if times.max_stream_duration.is_some_and(|whole| whole < request) {
        found.push(Warning {
            code: "STREAM_ENDS_BEFORE_REQUEST",
            fields: &["timeouts.maxStreamDuration", "timeouts.request"],
            message: format!("it is below the {} that the answer's head alone may take", text(request)),
            remedy: "lengthen maxStreamDuration",
        });
    }
    if let Some(grace) = site.server_grace.filter(|grace| request >= *grace) {
        found.push(Warning {
            code: "GRACE_BELOW_REQUEST",
            fields: &["timeouts.request"],
            message: format!(
                "a request may take {}, and a server's pod is killed after {}",
                text(request),
                text(grace)
            ),
            remedy: "raise the pods' terminationGracePeriodSeconds or shorten request",
        });
    }
    // Only for those who set it: the default is cut by the request's end, as it should.
    if policy.connection.connect_timeout >= request {
        found.push(Warning {
            code: "CONNECT_TAKES_ALL",
            fields: &["connection.connectTimeout"],
            message: format!("one connect may take all {} of the request: no other endpoint is tried", text(request)),
            remedy: "shorten connectTimeout to less than half of timeouts.request",
        });
    }
    if policy.connection.acquire_timeout >= request {
        found.push(Warning {
            code: "QUEUE_TAKES_ALL",
            fields: &["connection.acquireTimeout"],
            message: format!("waiting for a connection may take all {} of the request", text(request)),
            remedy: "shorten acquireTimeout: what waited so long is not wanted any more",
        });
    }
}

fn retries(policy: &Traffic, site: &Site, found: &mut Vec<Warning>) {
    let retries = &policy.retries;
    let safe = [RetryOn::ConnectFailure, RetryOn::RefusedStream, RetryOn::ResetBeforeRequest];
    let beyond = retries.on.iter().any(|on| !safe.contains(on));
    if retries.attempts == 0 {
        return;
    }
    if beyond && retries.methods == RetryMethods::Idempotent && site.protocol == Protocol::Grpc {
        found.push(Warning {
            code: "GRPC_NEVER_RETRIED",
            fields: &["retries.retryOn", "retries.methods"],
            message: "every gRPC call is a POST, and only idempotent methods are retried".to_owned(),
            remedy: "set retries.methods: Any for calls that may run twice, or remove retries.retryOn",
        });
    }
    if beyond && retries.budget.percent == 0 && retries.budget.min_per_second == 0 {
        found.push(Warning {
            code: "NO_RETRY_BUDGET",
            fields: &["retries.budget.percent", "retries.budget.minPerSecond"],
            message: "no retry is ever paid for".to_owned(),
            remedy: "raise one of the two, or set retries.attempts: 0",
        });
    }
    if retries.budget.percent > BUDGET_LOOSE {
        found.push(Warning {
            code: "LOOSE_RETRY_BUDGET",
            fields: &["retries.budget.percent"],
            message: format!(
                "a backend in trouble may get {} % more load than it failed under",
                retries.budget.percent
            ),
            remedy: "keep it at 20, or at most 50",
        });
    }
    if let Some(per_try) = policy.timeouts.per_try.filter(|per_try| retries.backoff.base > *per_try) {
        found.push(Warning {
            code: "BACKOFF_ABOVE_TRY",
            fields: &["retries.backoff.base", "timeouts.perTry"],
            message: format!(
                "the wait of up to {} is longer than a try of {}",
                text(retries.backoff.base),
                text(per_try)
            ),
            remedy: "shorten backoff.base",
        });
    }
}

fn connections(policy: &Traffic, site: &Site, found: &mut Vec<Warning>) {
    let connection = &policy.connection;
    let idle = connection.idle_timeout;
    if connection.keepalive.idle >= idle {
        found.push(Warning {
            code: "KEEPALIVE_NEVER_SENT",
            fields: &["connection.keepalive.idle", "connection.idleTimeout"],
            message: format!("an idle connection is closed after {}, before the first probe", text(idle)),
            remedy: "set keepalive.idle below idleTimeout",
        });
    }
    if let Some(lifetime) = connection.max_lifetime.filter(|lifetime| idle >= *lifetime) {
        found.push(Warning {
            code: "IDLE_NEVER_APPLIES",
            fields: &["connection.idleTimeout", "connection.maxLifetime"],
            message: format!("{} is not below the lifetime of {}", text(idle), text(lifetime)),
            remedy: "shorten idleTimeout or lengthen maxLifetime",
        });
    }
    if let Some(server) = site.server_idle.filter(|server| idle >= *server) {
        found.push(Warning {
            code: "SERVER_CLOSES_FIRST",
            fields: &["connection.idleTimeout"],
            message: format!(
                "the server's sidecar closes idle connections after {}, we after {}",
                text(server),
                text(idle)
            ),
            remedy: "keep it below the InboundPolicy's timeouts.idle",
        });
    }
    let carries_requests = !matches!(site.protocol, Protocol::Opaque | Protocol::Tls);
    if let Some(endpoints) = site.meshed_endpoints.filter(|endpoints| carries_requests && *endpoints > 0)
        && usize::try_from(connection.max_connections).is_ok_and(|max| max < endpoints.max(CONNECTIONS_FEW))
    {
        found.push(Warning {
            code: "FEW_HOP_CONNECTIONS",
            fields: &["connection.maxConnections"],
            message: format!(
                "it counts connections between sidecars, each of which carries many requests: {} for {endpoints} endpoints",
                connection.max_connections
            ),
            remedy: "bound requests with concurrency.maxRequests",
        });
    }
}

fn breakers(policy: &Traffic, found: &mut Vec<Warning>) {
    let endpoint = &policy.circuit_breaker.endpoint;
    let ejected = u32::from(endpoint.max_ejected_percent);
    if ejected + u32::from(endpoint.panic_threshold) > 100 {
        found.push(Warning {
            code: "PANIC_BEFORE_EJECTION",
            fields: &["circuitBreaker.endpoint.maxEjectedPercent", "circuitBreaker.endpoint.panicThreshold"],
            message: format!(
                "all endpoints are used again below {} % well ones, so {ejected} % are never out",
                endpoint.panic_threshold
            ),
            remedy: "let the two sum up to at most 100",
        });
    }
    if ejected == 0 && (endpoint.consecutive_failures.is_some() || endpoint.status_failures.is_some()) {
        found.push(Warning {
            code: "NOTHING_EJECTED",
            fields: &["circuitBreaker.endpoint.maxEjectedPercent"],
            message: "with 0 % no endpoint is ever left out".to_owned(),
            remedy: "raise it, or set consecutiveFailures: 0 to say so",
        });
    }
    let Some(service) = &policy.circuit_breaker.service else { return };
    if let (Trip::Ratio { window, min_requests, .. }, Some(rate)) = (&service.trip, &policy.rate_limit) {
        let most = f64::from(rate.requests_per_second) * window.as_secs_f64() + f64::from(rate.burst);
        if most < f64::from(*min_requests) {
            found.push(Warning {
                code: "BREAKER_NEVER_TRIPS",
                fields: &["circuitBreaker.service.trip", "rateLimit.requestsPerSecond"],
                message: format!("the rate limit lets {most:.0} requests into a window that needs {min_requests}"),
                remedy: "lower minRequests or lengthen the window",
            });
        }
    }
    if let (Some(slow), Some(request)) = (&service.slow, policy.timeouts.request)
        && slow.threshold >= request
    {
        found.push(Warning {
            code: "NEVER_SLOW",
            fields: &["circuitBreaker.service.slow.threshold", "timeouts.request"],
            message: format!("a request ends after {}, before it counts as slow", text(request)),
            remedy: "lower the threshold below timeouts.request",
        });
    }
}

fn text(time: Duration) -> String {
    duration::print(time)
}

/// `connection.idleTimeout`'s default, in the table of fields.
const CLIENT_IDLE: Duration = Duration::from_secs(300);
/// Fewer requests on a connection than one busy page makes.
const STREAMS_FEW: u32 = 16;
/// As many as a proxy may have workers.
const CONNECTIONS_FEW: usize = 4;
/// Above that a failing backend gets half as much again.
const BUDGET_LOOSE: u8 = 50;
