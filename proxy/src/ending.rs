//! The end of each request and connection: counted once, logged once, and a span if it is sampled. It must never be lost:
//! what is dropped without an end counts as the client's leaving.

use std::any::Any;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;
use std::time::SystemTime;

use rand::RngExt;

use crate::access_log::Entry;
use crate::error::Reason;
use crate::http::End;
use crate::http::ResponseLog;
use crate::http::head::RequestHead;
use crate::http::head::Version;
use crate::local::Local;
use crate::metrics;
use crate::metrics::Direction;
use crate::metrics::Retry;
use crate::metrics::Tls;
use crate::tcp::Copied;
use crate::trace;
use crate::trace::Kind;
use crate::trace::Record;
use crate::trace::Span;
use crate::trace::Value;

/// What is known about a request or connection, filled as its story goes on.
pub struct Ending {
    local: Rc<Local>,
    started: Instant,
    direction: Direction,
    pub client: SocketAddr,
    pub client_identity: Option<Arc<str>>,
    pub service: Arc<str>,
    pub route: Arc<str>,
    pub endpoint: Option<SocketAddr>,
    pub protocol: &'static str,
    pub status: u16,
    pub reason: Option<Reason>,
    pub detail: String,
    pub tries: u32,
    /// Why the last of several tries was made.
    pub retry: Option<Retry>,
    pub tls: Tls,
    pub span: Option<Span>,
    texts: Texts,
    metrics: Option<Arc<metrics::Requests>>,
    /// Permits and counts that last as long as the answer.
    guards: Vec<Box<dyn Any>>,
    is_over: bool,
}

#[derive(Default)]
struct Texts {
    method: String,
    authority: String,
    path: String,
}

impl Ending {
    pub fn request(local: &Rc<Local>, direction: Direction, client: SocketAddr, head: &RequestHead) -> Self {
        let mut ending = Self::connection(local, direction, client);
        ending.protocol = match head.version {
            Version::Http10 | Version::Http11 => "http/1.1",
            Version::Http2 => "h2",
        };
        let path = head.target.split('?').next().unwrap_or_default().to_owned();
        ending.texts = Texts { method: head.method.clone(), authority: head.authority.clone(), path };
        ending
    }

    pub fn connection(local: &Rc<Local>, direction: Direction, client: SocketAddr) -> Self {
        let none: Arc<str> = "".into();
        Self {
            local: Rc::clone(local),
            started: Instant::now(),
            direction,
            client,
            client_identity: None,
            service: Arc::clone(&none),
            route: none,
            endpoint: None,
            protocol: "tcp",
            status: 0,
            reason: None,
            detail: String::new(),
            tries: 0,
            retry: None,
            tls: Tls::Plaintext,
            span: None,
            texts: Texts::default(),
            metrics: None,
            guards: Vec::new(),
            is_over: false,
        }
    }

    /// Once service and route are known. The gauge of what is being served goes up until the end.
    pub fn count(&mut self) {
        let metrics = self.local.requests(self.direction, &self.service, &self.route);
        metrics.active.add(1);
        if let Some(before) = self.metrics.replace(metrics) {
            before.active.add(-1);
        }
    }

    pub fn keep(&mut self, guard: impl Any) {
        self.guards.push(Box::new(guard));
    }

    pub fn failed(&mut self, reason: Reason, detail: String) {
        self.reason = Some(reason);
        self.detail = detail;
    }

    /// Nothing to tell: others tell it.
    pub fn silence(mut self) {
        self.is_over = true;
        if let Some(metrics) = &self.metrics {
            metrics.active.add(-1);
        }
    }

    pub fn started(&self) -> Instant {
        self.started
    }

    /// The end of a connection that carried bytes.
    pub fn copied(self, copied: Copied) {
        let cut = match copied.end {
            crate::tcp::End::Clean => None,
            crate::tcp::End::Idle => Some(Reason::StreamIdle),
            crate::tcp::End::Client(_) => Some(Reason::ClientGone),
            crate::tcp::End::Upstream(_) => Some(match self.direction {
                Direction::Inbound => Reason::AppReset,
                Direction::Outbound => Reason::ResetBeforeResponse,
            }),
        };
        self.ended(End { request_bytes: copied.sent, response_bytes: copied.received, cut, grpc_status: None });
    }

    fn over(&mut self, end: End) {
        self.is_over = true;
        if self.reason.is_none() && end.cut.is_some() {
            self.reason = end.cut;
        }
        if self.metrics.is_none() {
            self.count();
        }
        let duration = self.started.elapsed();
        if let Some(metrics) = &self.metrics {
            metrics.active.add(-1);
            metrics.received_bytes.add(end.request_bytes);
            metrics.sent_bytes.add(end.response_bytes);
            metrics.ended(self.tls, self.status, self.reason, duration);
        }
        let dice = || self.local.dice.borrow_mut().random_range(0..1_000_000);
        let logged = self.local.shared.log.mode.wants(self.status, self.reason, dice);
        let sampled = self.span.filter(|span| span.context.sampled);
        if let Some(span) = sampled {
            self.offer_span(span, end);
        }
        if logged {
            self.local.shared.log.write(Entry {
                ended: SystemTime::now(),
                direction: self.direction,
                client: self.client,
                client_identity: self.client_identity.take(),
                service: Arc::clone(&self.service),
                route: Arc::clone(&self.route),
                endpoint: self.endpoint,
                protocol: self.protocol,
                method: std::mem::take(&mut self.texts.method),
                authority: std::mem::take(&mut self.texts.authority),
                path: std::mem::take(&mut self.texts.path),
                status: self.status,
                grpc_status: end.grpc_status,
                reason: self.reason,
                detail: std::mem::take(&mut self.detail),
                duration,
                tries: self.tries,
                retry: self.retry,
                request_bytes: end.request_bytes,
                response_bytes: end.response_bytes,
                trace: sampled.map(|span| trace::hex(&span.context.trace)),
            });
        }
    }

    fn offer_span(&self, span: Span, end: End) {
        let (kind, name) = match self.direction {
            Direction::Inbound => (Kind::Server, self.texts.method.clone()),
            Direction::Outbound if self.route.is_empty() => (Kind::Client, self.texts.method.clone()),
            Direction::Outbound => (Kind::Client, format!("{} {}", self.texts.method, self.route)),
        };
        let mut attributes = vec![
            ("http.request.method", Value::Text(self.texts.method.clone())),
            ("url.path", Value::Text(self.texts.path.clone())),
            ("server.address", Value::Text(self.texts.authority.clone())),
            ("http.response.status_code", Value::Number(self.status.into())),
            ("leno.service", Value::Text(self.service.to_string())),
        ];
        if self.tries > 1 {
            attributes.push(("http.request.resend_count", Value::Number(i64::from(self.tries) - 1)));
        }
        if let Some(status) = end.grpc_status {
            attributes.push(("rpc.grpc.status_code", Value::Number(status.into())));
        }
        if let Some(reason) = self.reason {
            attributes.push(("error.type", Value::Text(reason.as_str().to_owned())));
            attributes.push(("leno.reason", Value::Text(reason.as_str().to_owned())));
        }
        let now = SystemTime::now();
        let failed = self.reason.is_some() || self.status >= 500 || end.grpc_status.is_some_and(|status| status != 0);
        let record = Record {
            span,
            parent_is_remote: true,
            kind,
            name,
            start: now - self.started.elapsed(),
            end: now,
            attributes,
            failed,
        };
        self.local.shared.spans.offer(record, Instant::now());
    }
}

impl ResponseLog for Ending {
    fn ended(mut self, end: End) {
        self.over(end);
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        if !self.is_over {
            self.over(End { cut: Some(Reason::ClientGone), ..End::default() });
        }
    }
}
