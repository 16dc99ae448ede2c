//! The spans of a sampled request: what it remembers while it runs, and what is built of that at its end. It must never cost
//! a request that is not sampled anything.

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::time::Instant;
use std::time::SystemTime;

use crate::ending::Ending;
use crate::ending::Texts;
use crate::error::Reason;
use crate::http::End;
use crate::http::head::RequestHead;
use crate::http::head::Version;
use crate::metrics::Direction;
use crate::trace::Kind;
use crate::trace::Lives;
use crate::trace::Record;
use crate::trace::Span;
use crate::trace::Status;
use crate::trace::Value;

/// Attempts of one request that get a span of their own: five retries are the most that policy allows, and two more are
/// made for requests that were never processed.
const ATTEMPTS_MAX: usize = 8;

/// Bytes of a text from the network in a span.
const TEXT_MAX: usize = 1024;

/// A sampled request under way.
pub(super) struct Traced {
    span: Span,
    version: Version,
    scheme: &'static str,
    is_grpc: bool,
    user_agent: String,
    attempts: Vec<Attempt>,
    /// What a sidecar on the way said of the answer that stands.
    told: Option<Reason>,
}

/// One endpoint, asked once.
struct Attempt {
    span: Span,
    started: Instant,
    /// How many came before it.
    resends: u32,
    endpoint: SocketAddr,
    /// `None`: it ends as the request does.
    outcome: Option<Outcome>,
}

/// How an attempt ended that was not the last word.
pub struct Outcome {
    pub ended: Instant,
    /// 0: there was no answer.
    pub status: u16,
    pub grpc_status: Option<u16>,
    pub reason: Option<Reason>,
    pub detail: String,
}

impl Traced {
    pub(super) fn new(span: Span, head: &RequestHead) -> Self {
        let text = |name| String::from_utf8_lossy(cut(head.headers.get(name).unwrap_or_default())).into_owned();
        Self {
            span,
            version: head.version,
            scheme: if head.scheme == "https" { "https" } else { "http" },
            is_grpc: head.headers.get("content-type").is_some_and(|kind| kind.starts_with(b"application/grpc")),
            user_agent: text("user-agent"),
            attempts: Vec::new(),
            told: None,
        }
    }

    pub(super) fn span(&self) -> &Span {
        &self.span
    }

    /// The span of another attempt. `None`: there were so many that this one has none.
    pub(super) fn attempt(&mut self, span: Span, resends: u32, endpoint: SocketAddr) -> Option<Span> {
        if self.attempts.len() == ATTEMPTS_MAX {
            return None;
        }
        self.attempts.push(Attempt { span, started: Instant::now(), resends, endpoint, outcome: None });
        Some(span)
    }

    /// The attempt under way is over, and another may follow.
    pub(super) fn attempted(&mut self, outcome: Outcome) {
        if let Some(attempt) = self.attempts.last_mut().filter(|attempt| attempt.outcome.is_none()) {
            attempt.outcome = Some(outcome);
        }
    }

    pub(super) fn answered(&mut self, told: Option<Reason>) {
        self.told = told;
    }
}

impl Ending {
    /// The request's own span, then one for each attempt.
    pub(super) fn records(&self, traced: &Traced, end: End) -> Vec<Record> {
        let clock = Clock { system: SystemTime::now(), instant: Instant::now() };
        let last = Outcome {
            ended: clock.instant,
            status: self.status,
            grpc_status: end.grpc_status,
            reason: self.reason.or(traced.told),
            detail: self.detail.clone(),
        };
        let mut records = Vec::with_capacity(1 + traced.attempts.len());
        records.push(self.hop(traced, &last, &clock));
        records.extend(traced.attempts.iter().map(|attempt| self.attempt_record(traced, attempt, &last, &clock)));
        records
    }

    fn hop(&self, traced: &Traced, last: &Outcome, clock: &Clock) -> Record {
        let (kind, mut attributes) = match self.direction {
            Direction::Inbound => (Kind::Server, self.server(traced)),
            Direction::Outbound => (Kind::Client, client(&self.texts, traced.scheme)),
        };
        if self.direction == Direction::Outbound {
            attributes.push(("leno.service", Value::Text(self.service.to_string())));
            attributes.push(("leno.attempts", Value::Number(self.tries.into())));
        }
        if !self.route.is_empty() {
            attributes.push(("leno.route", Value::Text(self.route.to_string())));
        }
        let parent = Lives::InAnotherProcess;
        self.record(traced, traced.span, (parent, kind), (self.started, last), attributes, clock)
    }

    fn attempt_record(&self, traced: &Traced, attempt: &Attempt, last: &Outcome, clock: &Clock) -> Record {
        let mut attributes = client(&self.texts, traced.scheme);
        attributes.push(("network.peer.address", Value::Text(attempt.endpoint.ip().to_string())));
        attributes.push(("network.peer.port", Value::Number(attempt.endpoint.port().into())));
        if attempt.resends > 0 {
            attributes.push(("http.request.resend_count", Value::Number(attempt.resends.into())));
        }
        let outcome = attempt.outcome.as_ref().unwrap_or(last);
        self.record(traced, attempt.span, (Lives::Here, Kind::Client), (attempt.started, outcome), attributes, clock)
    }

    /// What all spans of a request have in common.
    fn record(
        &self,
        traced: &Traced,
        span: Span,
        (parent, kind): (Lives, Kind),
        (started, outcome): (Instant, &Outcome),
        mut attributes: Vec<(&'static str, Value)>,
        clock: &Clock,
    ) -> Record {
        let method = known_method(&self.texts.method);
        attributes.push(("http.request.method", Value::Text(method.unwrap_or("_OTHER").to_owned())));
        if method.is_none() {
            attributes.push(("http.request.method_original", Value::Text(text(&self.texts.method))));
        }
        let version = match traced.version {
            Version::Http10 => "1.0",
            Version::Http11 => "1.1",
            Version::Http2 => "2",
        };
        attributes.push(("network.protocol.version", Value::Text(version.to_owned())));
        if outcome.status != 0 {
            attributes.push(("http.response.status_code", Value::Number(outcome.status.into())));
        }
        // Whoever serves knows which methods there are: one that is not is no name (semantic conventions for RPC).
        let unknown = outcome.grpc_status == Some(UNIMPLEMENTED);
        let rpc = traced.is_grpc.then(|| self.texts.path().trim_start_matches('/'));
        if let Some(rpc) = rpc {
            attributes.push(("rpc.system.name", Value::Text("grpc".to_owned())));
            attributes.push(("rpc.method", Value::Text(if unknown { "_OTHER".to_owned() } else { text(rpc) })));
            if unknown {
                attributes.push(("rpc.method_original", Value::Text(text(rpc))));
            }
        }
        if let Some(status) = outcome.grpc_status {
            attributes.push(("rpc.response.status_code", Value::Text(grpc_name(status))));
        }
        if let Some(reason) = outcome.reason {
            attributes.push(("leno.reason", Value::Text(reason.as_str().to_owned())));
        }
        let error = error_type(kind, outcome);
        if let Some(error) = &error {
            attributes.push(("error.type", Value::Text(error.clone())));
        }
        Record {
            span,
            parent,
            kind,
            name: match rpc {
                Some(rpc) if !unknown => text(rpc),
                Some(_) => "_OTHER".to_owned(),
                None => method.unwrap_or("HTTP").to_owned(),
            },
            start: clock.at(started),
            end: clock.at(outcome.ended),
            attributes,
            status: match error {
                Some(_) => Status::Failed(text(&outcome.detail)),
                None => Status::Unset,
            },
        }
    }

    fn server(&self, traced: &Traced) -> Vec<(&'static str, Value)> {
        let mut attributes = address(&self.texts.authority);
        attributes.push(("url.scheme", Value::Text(traced.scheme.to_owned())));
        attributes.push(("url.path", Value::Text(text(self.texts.path()))));
        attributes.push(("client.address", Value::Text(self.client.ip().to_string())));
        attributes.push(("network.peer.address", Value::Text(self.client.ip().to_string())));
        attributes.push(("network.peer.port", Value::Number(self.client.port().into())));
        if let Some(identity) = &self.client_identity {
            attributes.push(("leno.client.identity", Value::Text(identity.to_string())));
        }
        if !traced.user_agent.is_empty() {
            attributes.push(("user_agent.original", Value::Text(traced.user_agent.clone())));
        }
        attributes
    }
}

/// The queries stay out: they are where secrets are.
fn client(texts: &Texts, scheme: &str) -> Vec<(&'static str, Value)> {
    let mut attributes = address(&texts.authority);
    let url = format!("{scheme}://{}{}", text(&texts.authority), text(texts.path()));
    attributes.push(("url.full", Value::Text(url)));
    attributes
}

/// `server.address` and `server.port`, as the client named them.
fn address(authority: &str) -> Vec<(&'static str, Value)> {
    let (host, port) = match authority.rsplit_once(':') {
        // Not the last group of an IPv6 address.
        Some((host, port)) if !port.ends_with(']') => (host, port.parse::<u16>().ok()),
        Some(_) | None => (authority, None),
    };
    let mut attributes = Vec::with_capacity(16);
    attributes.push(("server.address", Value::Text(text(host))));
    attributes.push(("server.port", Value::Number(port.unwrap_or(80).into())));
    attributes
}

/// Reads both clocks once, so that spans of one request are in order.
struct Clock {
    system: SystemTime,
    instant: Instant,
}

impl Clock {
    fn at(&self, instant: Instant) -> SystemTime {
        self.system - self.instant.saturating_duration_since(instant)
    }
}

/// RFC 9110 and RFC 5789; of any other, nobody knows how many there are.
fn known_method(method: &str) -> Option<&'static str> {
    const KNOWN: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
    KNOWN.into_iter().find(|known| *known == method)
}

/// What makes a span a failed one: for a client any answer of 400 and above, for a server its own errors alone.
fn error_type(kind: Kind, outcome: &Outcome) -> Option<String> {
    let status_from = match kind {
        Kind::Server => 500,
        Kind::Client => 400,
    };
    match (outcome.reason, outcome.grpc_status) {
        // Whoever hangs up has what it wanted (semantic conventions for HTTP, "Status").
        (Some(Reason::ClientGone), _) => None,
        (Some(reason), _) => Some(reason.as_str().to_owned()),
        (None, Some(status)) if status != 0 => Some(grpc_name(status)),
        (None, _) if outcome.status >= status_from => Some(outcome.status.to_string()),
        (None, _) => None,
    }
}

const UNIMPLEMENTED: u16 = 12;

/// grpc/doc/statuscodes.md.
fn grpc_name(status: u16) -> String {
    const NAMES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    NAMES.get(usize::from(status)).map_or_else(|| status.to_string(), |name| (*name).to_owned())
}

fn text(text: &str) -> String {
    String::from_utf8_lossy(cut(text.as_bytes())).into_owned()
}

fn cut(text: &[u8]) -> &[u8] {
    &text[..text.len().min(TEXT_MAX)]
}
