//! The end of each request and connection: counted once, logged once, and a span if it is sampled. It must never be lost:
//! what is dropped without an end counts as the client's leaving, or as the panic that dropped it.

mod spans;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::borrow::Cow;
use std::cell::RefCell;
use std::net::SocketAddr;
use std::ops::Deref;
use std::ops::DerefMut;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;

use rand::RngExt;

use crate::access_log::Entry;
use crate::answer;
use crate::breaker::Probe;
use crate::ending::spans::Traced;
use crate::error::Error;
use crate::error::Reason;
use crate::gate::Permit;
use crate::http::End;
use crate::http::ResponseLog;
use crate::http::head::RequestHead;
use crate::http::head::ResponseHead;
use crate::http::head::Version;
use crate::local::Local;
use crate::metrics;
use crate::metrics::Direction;
use crate::metrics::Retry;
use crate::metrics::Tls;
use crate::standing::Stand;
use crate::tcp::Copied;
use crate::timer::Sleep;
use crate::trace;
use crate::trace::Span;
use crate::upstream::InFlight;

pub use crate::ending::spans::Outcome;

/// A request or connection that will end. What is known about it lies apart, so that it is not copied from hand to hand, in
/// memory that the thread uses again.
pub struct Ending {
    local: Rc<Local>,
    /// `None` only while it is dropped.
    known: Option<Box<Known>>,
}

/// What is known about a request or connection, filled as its story goes on.
pub struct Known {
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
    /// The permission by which it runs, where it may be withdrawn.
    pub stand: Option<Stand>,
    /// When it ends, whatever it still does.
    ceiling: Option<Box<Ceiling>>,
    /// Where the request is sampled.
    traced: Option<Box<Traced>>,
    texts: Texts,
    metrics: Option<Arc<metrics::Requests>>,
    /// Last as long as the answer: its place among the requests under way, and at its endpoint.
    room: Option<Permit>,
    endpoint_guards: Option<(InFlight, Option<Probe>)>,
    guards: Vec<Box<dyn Any>>,
    is_over: bool,
}

/// `timeouts.maxStreamDuration`, counted from the start.
struct Ceiling {
    sleep: Sleep,
    most: Duration,
}

impl Deref for Ending {
    type Target = Known;

    fn deref(&self) -> &Known {
        self.known.as_ref().expect("only drop takes it")
    }
}

impl DerefMut for Ending {
    fn deref_mut(&mut self) -> &mut Known {
        self.known.as_mut().expect("only drop takes it")
    }
}

/// Cleared, for the next ones.
struct Spare(#[expect(clippy::vec_box, reason = "the boxes are what is kept")] Vec<Box<Known>>);

thread_local! {
    static SPARE: RefCell<Spare> = const { RefCell::new(Spare(Vec::new())) };
}

/// As many as end at about one time on a busy worker.
const SPARES: usize = 64;

impl Known {
    fn new(direction: Direction, client: SocketAddr, started: Instant) -> Self {
        Self {
            started,
            direction,
            client,
            client_identity: None,
            service: Arc::default(),
            route: Arc::default(),
            endpoint: None,
            protocol: "tcp",
            status: 0,
            reason: None,
            detail: String::new(),
            tries: 0,
            retry: None,
            tls: Tls::Plaintext,
            stand: None,
            ceiling: None,
            traced: None,
            texts: Texts::default(),
            metrics: None,
            room: None,
            endpoint_guards: None,
            guards: Vec::new(),
            is_over: false,
        }
    }

    /// Gives back what it holds.
    fn clear(&mut self) {
        let nobody = SocketAddr::from(([0, 0, 0, 0], 0));
        *self = Self::new(self.direction, nobody, self.started);
    }
}

#[derive(Default)]
struct Texts {
    method: Cow<'static, str>,
    authority: Arc<str>,
    /// With its query, which no log shows.
    target: Arc<str>,
}

impl Texts {
    fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }
}

impl Ending {
    pub fn request(local: &Rc<Local>, direction: Direction, client: SocketAddr, head: &RequestHead) -> Self {
        let mut ending = Self::connection(local, direction, client);
        ending.protocol = match head.version {
            Version::Http10 | Version::Http11 => "http/1.1",
            Version::Http2 => "h2",
        };
        let (authority, target) = (Arc::clone(&head.authority), Arc::clone(&head.target));
        ending.texts = Texts { method: head.method.clone(), authority, target };
        ending
    }

    /// A part of a request whose end others tell.
    pub fn part(local: &Rc<Local>, direction: Direction, client: SocketAddr) -> Self {
        let mut part = Self::connection(local, direction, client);
        part.is_over = true;
        part
    }

    pub fn connection(local: &Rc<Local>, direction: Direction, client: SocketAddr) -> Self {
        let known = Known::new(direction, client, Instant::now());
        let known = match SPARE.with_borrow_mut(|spare| spare.0.pop()) {
            Some(mut spare) => {
                *spare = known;
                spare
            }
            None => Box::new(known),
        };
        Self { local: Rc::clone(local), known: Some(known) }
    }

    /// Reads the request's trace context and writes our own in its place: what follows is a child of this request.
    pub fn begin_span(&mut self, head: &mut RequestHead) {
        if self.is_over {
            // Others tell of this request: its context is theirs too.
            return;
        }
        let shared = &self.local.shared;
        let sampling = self.local.snapshot().config.as_ref().map_or(0, |config| config.tracing.sampling_ppm);
        let span = Span::begin(&mut head.headers, sampling, &shared.tracing, &mut *self.local.dice.borrow_mut());
        if span.context.sampled {
            self.traced = Some(Box::new(Traced::new(span, head)));
        }
    }

    /// Another endpoint is asked. Where the request is sampled, what follows is a child of this attempt.
    pub fn attempt(&mut self, endpoint: SocketAddr, tls: Tls, head: &mut RequestHead) {
        self.endpoint = Some(endpoint);
        self.tls = tls;
        let (local, tries) = (Rc::clone(&self.local), self.tries);
        if let Some(traced) = &mut self.traced {
            let span = traced.span().child(&mut *local.dice.borrow_mut());
            if let Some(span) = traced.attempt(span, tries, endpoint) {
                trace::inject(&mut head.headers, &span.context);
            }
        }
        self.tries += 1;
    }

    /// The attempt under way has ended, and its outcome is not the request's; asked for only where somebody will see it.
    pub fn attempted(&mut self, outcome: impl FnOnce() -> Outcome) {
        if let Some(traced) = &mut self.traced {
            traced.attempted(outcome());
        }
    }

    /// The answer that stands. Whether a sidecar on the way made it, it says itself.
    pub fn answered(&mut self, head: &ResponseHead) {
        if let Some(traced) = &mut self.traced {
            traced.answered(head.headers.get(answer::REASON_HEADER).and_then(Reason::parse));
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

    /// It lasts this long at most, from its start to the last byte.
    pub fn last_at_most(&mut self, most: Duration) {
        let end = tokio::time::Instant::from_std(self.started + most);
        self.ceiling = Some(Box::new(Ceiling { sleep: self.local.timers.sleep_until(end), most }));
    }

    /// The request's place among those under way.
    pub fn hold(&mut self, room: Permit) {
        self.room = Some(room);
    }

    /// Who answers, counted there until the end.
    pub fn serve_from(&mut self, guards: (InFlight, Option<Probe>)) {
        self.endpoint_guards = Some(guards);
    }

    /// Whatever else lasts as long.
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
            crate::tcp::End::Cut(reason) => Some(reason),
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
        let traced = self.traced.take();
        if let Some(traced) = &traced {
            self.local.shared.spans.offer(self.records(traced, end), Instant::now());
        }
        if logged {
            self.local.shared.log.write(Entry {
                ended: SystemTime::now(),
                direction: self.direction,
                client: self.client,
                client_identity: self.client_identity.clone(),
                service: Arc::clone(&self.service),
                route: Arc::clone(&self.route),
                endpoint: self.endpoint,
                protocol: self.protocol,
                method: self.texts.method.to_string(),
                authority: self.texts.authority.to_string(),
                path: self.texts.path().to_owned(),
                status: self.status,
                grpc_status: end.grpc_status,
                reason: self.reason,
                detail: self.detail.clone(),
                duration,
                tries: self.tries,
                retry: self.retry,
                request_bytes: end.request_bytes,
                response_bytes: end.response_bytes,
                trace: traced.map(|traced| trace::hex(&traced.span().context.trace)),
            });
        }
    }
}

impl ResponseLog for Ending {
    fn poll_cut(&mut self, cx: &mut Context<'_>) -> Poll<Reason> {
        if let Some(ceiling) = &mut self.ceiling
            && ceiling.sleep.poll_elapsed(cx).is_ready()
        {
            let over = Error::StreamDuration(ceiling.most);
            self.failed(over.reason(), over.to_string());
            return Poll::Ready(over.reason());
        }
        let Some(stand) = &self.stand else { return Poll::Pending };
        stand.poll_revoked(cx).map(|denied| {
            let denied = Error::denied(denied);
            self.failed(denied.reason(), denied.to_string());
            denied.reason()
        })
    }

    fn ended(mut self, end: End) {
        self.over(end);
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        if !self.is_over {
            let panicked = std::thread::panicking();
            let cut = if panicked { Reason::InternalPanic } else { Reason::ClientGone };
            self.over(End { cut: Some(cut), ..End::default() });
        }
        let Some(mut known) = self.known.take() else { return };
        known.clear();
        // A thread that ends keeps nothing.
        let _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.0.len() < SPARES {
                spare.0.push(known);
            }
        });
    }
}
