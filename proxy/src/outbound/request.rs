//! One request of the application: route, limits, attempts, answer. It must never try again what may have been processed,
//! unless policy and the method allow it.

use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use leno_proto::policy::Mode;
use leno_proto::policy::OnOpen;
use leno_proto::policy::Timeouts;

use crate::answer;
use crate::answer::Caller;
use crate::breaker;
use crate::breaker::Admission;
use crate::breaker::Outcome;
use crate::edge;
use crate::edge::Hop;
use crate::ending::Ending;
use crate::error::Again;
use crate::error::Error;
use crate::error::Reason;
use crate::http::Interim;
use crate::http::Request;
use crate::http::Response;
use crate::http::SendError;
use crate::http::Service;
use crate::http::body::Body;
use crate::http::h1;
use crate::http::h1::Answered;
use crate::http::head::RequestHead;
use crate::http::head::ResponseHead;
use crate::http::head::Version;
use crate::inbound;
use crate::local::Local;
use crate::metrics::Direction;
use crate::metrics::Retry;
use crate::metrics::Tls;
use crate::outbound::again;
use crate::outbound::again::Course;
use crate::outbound::again::Replay;
use crate::outbound::mirror;
use crate::outbound::pick;
use crate::outbound::pick::Choice;
use crate::outbound::pick::Need;
use crate::outbound::place::Place;
use crate::outbound::route;
use crate::outbound::route::Chosen;
use crate::outbound::route::Decision;
use crate::pool::Take;
use crate::pool::Wire;
use crate::retry::Spent;
use crate::upstream::Member;

/// The requests of one connection.
#[derive(Clone)]
pub(super) struct Requests {
    pub(super) local: Rc<Local>,
    pub(super) place: Place,
    pub(super) peer: SocketAddr,
}

/// An answer of our own, with when to come back where that is known.
struct Refusal {
    error: Error,
    retry_after: Option<Duration>,
    status: Option<u16>,
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self { error, retry_after: None, status: None }
    }
}

impl Service for Requests {
    type Log = Ending;

    async fn call<'c>(&'c self, request: Request<'c>) -> Response<'c, Ending> {
        let caller = Caller::of(&request.head);
        let mut ending = Ending::request(&self.local, Direction::Outbound, self.peer, &request.head);
        // Boxed: an idle connection must not be as large as a request under way.
        match Box::pin(self.answer(request, &mut ending)).await {
            Ok(Answered { head, body, tunnel }) => {
                ending.status = head.status;
                Response { head, body, tunnel, log: ending }
            }
            Err(refusal) => {
                let reason = refusal.error.reason();
                ending.failed(reason, refusal.error.to_string());
                let mut head = answer::answer(reason, caller, refusal.retry_after);
                if let (Some(status), Caller::Http) = (refusal.status, caller) {
                    head.status = status;
                }
                ending.status = head.status;
                Response { head, body: Body::Empty, tunnel: None, log: ending }
            }
        }
    }

    fn refused(&self, reason: Reason) -> ResponseHead {
        let mut ending = Ending::connection(&self.local, Direction::Outbound, self.peer);
        ending.protocol = "http/1.1";
        ending.service = self.place.label();
        ending.failed(reason, "the request could not be read".to_owned());
        let head = answer::answer(reason, Caller::Http, None);
        ending.status = head.status;
        drop(ending);
        head
    }
}

impl Requests {
    async fn answer<'c>(&'c self, request: Request<'c>, ending: &mut Ending) -> Result<Answered<'c>, Refusal> {
        let Request { mut head, body, interim } = request;
        let local = &self.local;
        edge::strip(&mut head.headers);
        ending.begin_span(&mut head);
        let place = self.place.renewed(local);
        ending.service = place.label();
        let mut chosen = match route::decide(local, &place, &mut head, self.peer.ip())? {
            Decision::Send(chosen) => chosen,
            Decision::Redirect(head) => return Ok(Answered { head, body: Body::Empty, tunnel: None }),
            Decision::NoMatch => {
                let error = Error::NoRoute(place.name());
                return Err(Refusal { error, retry_after: None, status: Some(404) });
            }
        };
        ending.service = Arc::clone(&chosen.target.label);
        ending.route = Arc::clone(&chosen.route);
        ending.count();
        let (admission, admitted) = self.admit(&chosen, ending).await?;
        let body = mirror::send(self, &mut chosen, &head, body);
        let outcome = {
            // Pinned here: handed on by value, a future is copied at each step, and this one is large.
            let attempts = pin!(self.attempts(&chosen, admitted, &mut head, body, interim, ending));
            match within(&chosen.policy.timeouts) {
                Some(most) => local.timers.timeout(most, attempts).await.unwrap_or(Err(Error::RequestTimeout(most))),
                None => attempts.await,
            }
        };
        if let Some(admission) = admission {
            let seen = match &outcome {
                Ok(answered) => outcome_of(&answered.head),
                Err(error) => outcome_of_error(error),
            };
            let now = Instant::now();
            let mut dice = local.dice.borrow_mut();
            let _ = admission.report(seen, now.saturating_duration_since(admitted), now, &mut *dice);
        }
        Ok(outcome?)
    }

    /// The limits of the destination, in the order in which they are cheap: rate, breaker, bulkhead. And when it was let in.
    async fn admit(&self, chosen: &Chosen, ending: &mut Ending) -> Result<(Option<Admission>, Instant), Refusal> {
        let target = &chosen.target;
        // Deciding takes microseconds, a look at the clock a good part of one: only waiting makes it later.
        let mut now = ending.started();
        if target.policy.mode == Mode::Shadow {
            return Ok((None, now));
        }
        if let Some(rate) = &target.shared.rate {
            match rate.bucket.reserve(now, rate.wait_max) {
                Ok(Duration::ZERO) => {}
                Ok(wait) => {
                    self.local.timers.sleep(wait).await;
                    now = Instant::now();
                }
                Err(after) => {
                    let error = Error::RateLimited(target.name.clone());
                    return Err(Refusal { error, retry_after: Some(after), status: None });
                }
            }
        }
        let admission = match &target.shared.breaker {
            None => None,
            Some(breaker) => match breaker.admit(now) {
                breaker::Verdict::Admitted(admission) => Some(admission),
                breaker::Verdict::Open { retry_after } => {
                    let error = Error::BreakerOpen(target.name.clone());
                    let status = match &breaker.rules().on_open {
                        OnOpen::Reject { status } => Some(*status),
                        OnOpen::Fallback(_) => None,
                    };
                    return Err(Refusal { error, retry_after: Some(retry_after), status });
                }
                breaker::Verdict::HalfOpen { retry_after } => {
                    let error = Error::BreakerHalfOpen(target.name.clone());
                    return Err(Refusal { error, retry_after: Some(retry_after), status: None });
                }
            },
        };
        match target.shared.requests.try_acquire() {
            Some(permit) => ending.hold(permit),
            None => return Err(Error::ConcurrencyLimit(target.name.clone()).into()),
        }
        Ok((admission, now))
    }

    /// Pick, send, record, decide, until there is an answer or nothing more to try.
    async fn attempts<'c>(
        &'c self,
        chosen: &Chosen,
        admitted: Instant,
        head: &mut RequestHead,
        body: Body<'c>,
        interim: &'c Interim,
        ending: &mut Ending,
    ) -> Result<Answered<'c>, Error> {
        let target = &chosen.target;
        let takes_time = !matches!(body, Body::Empty);
        let mut replay = Replay::prepare(body, &chosen.policy.retries).await?;
        let mut tried: Vec<usize> = Vec::new();
        let mut now = if takes_time { Instant::now() } else { admitted };
        target.shared.retries.deposit(now);
        target.shared.transport_retries.deposit(now);
        let deadline = chosen.policy.timeouts.request.map(|most| ending.started() + most);
        let mut course = Course { spent: Spent::default(), deadline, last: None };
        loop {
            let body = replay.body().ok_or(Error::ClientGone)?;
            let mut choice = pick::pick(&self.local, target, &tried, now, chosen.hash)?;
            choice.take = match course.last {
                Some(Retry::IdleRace | Retry::IdleReset) => Take::Fresh,
                Some(Retry::NeverProcessed | Retry::Policy | Retry::Refused) | None => {
                    Take::of(again::is_idempotent(head), &body)
                }
            };
            let (address, expected) = {
                let identity = &choice.member().shared.identity;
                (identity.address, identity.expected.is_some())
            };
            ending.attempt(address, if expected { Tls::Mtls } else { Tls::Plaintext }, head);
            let (started, left) = (now, deadline.map(|deadline| deadline.saturating_duration_since(now)));
            let hop = Hop { version: head.version, attempt: ending.tries, deadline: left, phrase: Vec::new() };
            let outcome = self.try_at(chosen, &choice, hop, head, body, interim).await;
            now = Instant::now();
            let seen = match &outcome {
                Ok(answered) => outcome_of(&answered.head),
                // The connection was old: that says nothing of the endpoint.
                Err(failed) if failed.is_stale() => Outcome::Neutral,
                Err(failed) => outcome_of_reason(failed.reason),
            };
            pick::record(&self.local, target, &choice, seen, Some(now.saturating_duration_since(started)), now);
            let verdict = again::verdict(chosen, head, &outcome, &replay, &mut course, &self.local, now);
            match (outcome, verdict) {
                (Ok(mut answered), None) => {
                    if let Some(tunnel) = &mut answered.tunnel {
                        tunnel.idle = chosen.policy.timeouts.stream_idle;
                    }
                    if let Some(most) = chosen.policy.timeouts.max_stream_duration {
                        ending.last_at_most(most);
                    }
                    ending.answered(&answered.head);
                    self.arrive(&mut answered.head, head.version, ending.tls);
                    route::edit_answer(&mut answered.head, &chosen.answer_edits);
                    ending.serve_from(choice.into_guards());
                    return Ok(answered);
                }
                (Err(failed), None) => return Err(failed.into_error(address)),
                (outcome, Some(wait)) => {
                    ending.retry = course.last;
                    ending.attempted(|| again::told(&outcome));
                    if let Err(failed) = outcome {
                        replay.give_back(failed.body);
                    }
                    if chosen.policy.retries.different_endpoint {
                        tried.push(choice.index());
                    }
                    drop(choice);
                    self.local.timers.sleep(wait).await;
                    now = Instant::now();
                }
            }
        }
    }

    /// One attempt on the endpoint that was picked, wherever it is.
    pub(super) async fn try_at<'c>(
        &'c self,
        chosen: &Chosen,
        choice: &Choice,
        hop: Hop,
        head: &mut RequestHead,
        body: Body<'c>,
        interim: &'c Interim,
    ) -> Result<Answered<'c>, Failed<'c>> {
        match self.ourselves(choice.member()) {
            Some(requests) => Box::pin(self.to_ourselves(&requests, hop, head, body, interim)).await,
            None => self.attempt(chosen, choice, hop, head, body, interim).await,
        }
    }

    /// The inbound story of this very proxy, where the endpoint is our own pod: nothing would redirect a connection that
    /// we open to ourselves.
    fn ourselves(&self, member: &Member) -> Option<inbound::request::Requests> {
        let snapshot = self.local.snapshot();
        let own = snapshot.inbound.as_ref().filter(|own| own.uid == member.endpoint.uid)?;
        let app = *member.endpoint.addresses.first()?;
        let caller = inbound::Caller { address: self.peer, identity: Some(own.identity.clone()), app };
        Some(inbound::request::Requests::new(&self.local, caller))
    }

    async fn to_ourselves<'c>(
        &self,
        requests: &inbound::request::Requests,
        hop: Hop,
        head: &RequestHead,
        body: Body<'c>,
        interim: &'c Interim,
    ) -> Result<Answered<'c>, Failed<'c>> {
        let mut head = head.clone();
        hop.write(&mut head.headers);
        // Counted and logged once, by the outbound story.
        let mut inner = Ending::part(&self.local, Direction::Inbound, self.peer);
        let answered = requests.answer(Request { head, body, interim }, &mut inner).await;
        answered.map_err(|error| {
            let reason = error.reason();
            let never_processed = reason.again() == Again::NeverProcessed;
            Failed { reason, detail: error.to_string(), never_processed, answered: false, reused: false, body: None }
        })
    }

    /// One attempt on one endpoint.
    async fn attempt<'c>(
        &'c self,
        chosen: &Chosen,
        choice: &Choice,
        hop: Hop,
        head: &mut RequestHead,
        body: Body<'c>,
        interim: &Interim,
    ) -> Result<Answered<'c>, Failed<'c>> {
        let need = if head.switches_protocols() { Need::Upgrade } else { Need::Requests(chosen.protocol) };
        let way = pick::way(&self.local, &chosen.target, choice.member(), need);
        head.headers.remove(edge::HOP_HEADER);
        if way.key.identity.is_some() {
            hop.write(&mut head.headers);
        }
        let pool = &self.local.pool;
        let (now, patience) = (choice.at, chosen.target.policy.connection.acquire_timeout);
        let timeouts = &chosen.policy.timeouts;
        let first_byte = [timeouts.per_try, timeouts.first_byte].into_iter().flatten().min();
        match way.key.wire {
            Wire::Hop | Wire::Http2 => {
                let stream = match pool.http2(&way, now, now + patience).await {
                    Ok(stream) => stream,
                    Err(error) => return Err(Failed::unsent(error, body)),
                };
                let exchange = pin!(stream.client.exchange(stream.slot, head, body, interim));
                let (head, body) = self.within(first_byte, exchange).await?;
                Ok(Answered { head, body, tunnel: None })
            }
            Wire::Http1 if need != Need::Upgrade => {
                let lease = match pool.http1(&way, choice.take, now, now + patience).await {
                    Ok(lease) => lease,
                    Err(error) => return Err(Failed::unsent(error, body)),
                };
                let exchange = pin!(lease.client.exchange(head, body, interim, lease.home));
                self.within(first_byte, exchange).await.map_err(|failed| Failed { reused: lease.reused, ..failed })
            }
            Wire::Http1 | Wire::HopUpgrade | Wire::HopOpaque | Wire::Opaque => {
                let opened = match pool.open(&way, now + patience).await {
                    Ok(opened) => opened,
                    Err(error) => return Err(Failed::unsent(error, body)),
                };
                let client = h1::Client::new(opened.io, Some(Box::new(opened.guard)));
                let exchange = pin!(client.exchange(head, body, interim, Box::new(NoHome)));
                self.within(first_byte, exchange).await
            }
        }
    }

    async fn within<'c, T>(
        &self,
        most: Option<Duration>,
        exchange: impl Future<Output = Result<T, SendError<'c>>>,
    ) -> Result<T, Failed<'c>> {
        let outcome = match most {
            None => exchange.await,
            Some(most) => match self.local.timers.timeout(most, exchange).await {
                Some(outcome) => outcome,
                None => return Err(Failed::late(most)),
            },
        };
        outcome.map_err(Failed::from)
    }

    /// An answer's head as the application may see it.
    fn arrive(&self, head: &mut ResponseHead, version: Version, tls: Tls) {
        match tls {
            // Only a peer of ours may name a reason, and its names come in the case that its application wrote.
            Tls::Mtls => {
                let phrase = Hop::take(&mut head.headers).map(|hop| hop.phrase);
                if let Some(phrase) = phrase.filter(|phrase| !phrase.is_empty()) {
                    head.reason_phrase = phrase;
                }
            }
            Tls::Plaintext => edge::strip(&mut head.headers),
        }
        head.version = version;
    }
}

/// How long the answer's head may take: what lasts no longer as a whole has no head later.
fn within(timeouts: &Timeouts) -> Option<Duration> {
    [timeouts.request, timeouts.max_stream_duration].into_iter().flatten().min()
}

/// An attempt without an answer.
pub(super) struct Failed<'c> {
    pub(super) reason: Reason,
    pub(super) detail: String,
    pub(super) never_processed: bool,
    /// A byte of an answer came.
    pub(super) answered: bool,
    /// The connection had been idle before.
    pub(super) reused: bool,
    pub(super) body: Option<Body<'c>>,
}

impl<'c> Failed<'c> {
    fn unsent(error: Error, body: Body<'c>) -> Self {
        let reason = error.reason();
        let never_processed = reason.again() == Again::NeverProcessed;
        Self { reason, detail: error.to_string(), never_processed, answered: false, reused: false, body: Some(body) }
    }

    /// The connection had idled, and ended before a byte of an answer.
    fn is_stale(&self) -> bool {
        self.reused && !self.answered && self.reason == Reason::ResetBeforeResponse
    }

    fn late(after: Duration) -> Self {
        let error = Error::FirstByteTimeout(after);
        Self {
            reason: error.reason(),
            detail: error.to_string(),
            never_processed: false,
            answered: false,
            reused: false,
            body: None,
        }
    }

    pub(super) fn into_error(self, address: SocketAddr) -> Error {
        Error::Because { reason: self.reason, detail: format!("{address}: {}", self.detail) }
    }
}

impl<'c> From<SendError<'c>> for Failed<'c> {
    fn from(error: SendError<'c>) -> Self {
        let SendError { reason, detail, never_processed, answered, body, .. } = error;
        Self { reason, detail, never_processed, answered, reused: false, body }
    }
}

/// For connections that carry one exchange.
struct NoHome;

impl h1::Home for NoHome {
    fn keep(self: Box<Self>, client: h1::Client) {
        drop(client);
    }
}

pub(super) fn outcome_of(head: &ResponseHead) -> Outcome {
    let reason = head.headers.get(answer::REASON_HEADER).and_then(Reason::parse);
    match (head.status, reason) {
        // The other sidecar speaks for its application.
        (_, Some(reason)) => outcome_of_reason(reason),
        (500.., None) => Outcome::StatusFailure,
        (_, None) => Outcome::Success,
    }
}

fn outcome_of_error(error: &Error) -> Outcome {
    outcome_of_reason(error.reason())
}

pub(super) fn outcome_of_reason(reason: Reason) -> Outcome {
    match reason {
        Reason::ConnectTimeout
        | Reason::ConnectRefused
        | Reason::TlsIdentity
        | Reason::TlsUntrusted
        | Reason::TlsExpired
        | Reason::TlsWrongIdentity
        | Reason::ResetBeforeResponse
        | Reason::ProtocolError
        | Reason::FirstByteTimeout
        | Reason::RequestTimeout
        | Reason::StreamIdle
        | Reason::AppRefused
        | Reason::AppReset => Outcome::TransportFailure,
        Reason::NoEndpoints
        | Reason::AcquireTimeout
        | Reason::QueueFull
        | Reason::BreakerOpen
        | Reason::BreakerHalfOpen
        | Reason::ConcurrencyLimit
        | Reason::RateLimited
        | Reason::RetryBudget
        | Reason::RetryLimit
        | Reason::Draining
        | Reason::OverloadMemory
        | Reason::PolicyDenied
        | Reason::NoRoute
        | Reason::UnknownPort
        | Reason::DiscoveryTimeout
        | Reason::DetectTimeout
        | Reason::EgressDenied
        | Reason::OpaqueDenied
        | Reason::LoopRefused
        | Reason::PlaintextRefused
        | Reason::NoCertificate
        | Reason::BadFraming
        | Reason::HeadersTooLarge
        | Reason::HeaderTimeout
        | Reason::BodyIdle
        | Reason::ClientGone
        | Reason::H2Abuse
        | Reason::FdLimit
        | Reason::InternalPanic => Outcome::Neutral,
    }
}
