//! Whether a request is tried again, and what is left of its body to send. It must never send half of a body twice.

use std::time::Duration;
use std::time::Instant;

use bytes::Bytes;
use bytes::BytesMut;
use leno_proto::policy::Retries;
use leno_proto::request::Headers;

use crate::answer;
use crate::ending::Outcome;
use crate::error::Error;
use crate::error::Reason;
use crate::http::body::Body;
use crate::http::h1::Answered;
use crate::http::head::RequestHead;
use crate::http::head::ResponseHead;
use crate::local::Local;
use crate::metrics::Retry;
use crate::outbound::request::Failed;
use crate::outbound::route::Chosen;
use crate::retry;
use crate::retry::Asked;
use crate::retry::Budgets;
use crate::retry::Ended;
use crate::retry::Spent;
use crate::retry::Stop;
use crate::retry::Verdict;
use crate::retry::Wish;

/// The request's body, and what of it can be sent once more.
pub(super) struct Replay<'c> {
    body: Option<Body<'c>>,
    whole: Option<Bytes>,
}

impl<'c> Replay<'c> {
    /// Reads a small body whole, where policy may want to send it again after it was processed.
    pub(super) async fn prepare(mut body: Body<'c>, retries: &Retries) -> Result<Self, Error> {
        if matches!(body, Body::Empty) {
            return Ok(Self { body: Some(Body::Empty), whole: Some(Bytes::new()) });
        }
        let small = body.length().is_some_and(|length| length <= u64::from(retries.max_body_bytes));
        if !retry::may_repeat(retries) || !small {
            return Ok(Self { body: Some(body), whole: None });
        }
        // Mostly it comes in one piece, which stays where it lies.
        let mut whole = Bytes::new();
        let mut gathered = BytesMut::new();
        while let Some(data) = body.data().await {
            let data = data.map_err(|reason| Error::Because { reason, detail: "the request's body was cut".into() })?;
            if whole.is_empty() {
                whole = data;
                continue;
            }
            if gathered.is_empty() {
                gathered.extend_from_slice(&whole);
            }
            gathered.extend_from_slice(&data);
        }
        if !gathered.is_empty() {
            whole = gathered.freeze();
        }
        Ok(Self { body: Some(Body::Full(whole.clone())), whole: Some(whole) })
    }

    /// For the next attempt.
    pub(super) fn body(&mut self) -> Option<Body<'c>> {
        self.body.take().or_else(|| {
            let whole = self.whole.clone()?;
            Some(if whole.is_empty() { Body::Empty } else { Body::Full(whole) })
        })
    }

    pub(super) fn give_back(&mut self, body: Option<Body<'c>>) {
        self.body = body.filter(|_| self.whole.is_none());
    }

    fn can(&self, returned: Option<&Body<'c>>) -> bool {
        self.whole.is_some() || returned.is_some()
    }
}

/// How long to wait before the next attempt; `None`: this outcome stands.
pub(super) fn verdict(
    chosen: &Chosen,
    head: &RequestHead,
    outcome: &Result<Answered<'_>, Failed<'_>>,
    replay: &Replay<'_>,
    course: &mut Course,
    local: &Local,
    now: Instant,
) -> Option<Duration> {
    let (ended, replayable) = match outcome {
        Ok(answered) => (ended(&answered.head.headers, answered.head.status), replay.can(None)),
        Err(failed) => {
            let Failed { reason, never_processed, answered, reused, .. } = *failed;
            let ended = Ended::Failed { reason, never_processed, reused, answered };
            (ended, replay.can(failed.body.as_ref()))
        }
    };
    let remaining = course.deadline.map(|deadline| deadline.saturating_duration_since(now));
    let asked = Asked { idempotent: is_idempotent(head), replayable, remaining };
    let shared = &chosen.target.shared;
    let budgets = Budgets { policy: &shared.retries, transport: &shared.transport_retries };
    let mut dice = local.dice.borrow_mut();
    let verdict = course.spent.verdict(&chosen.policy.retries, ended, asked, budgets, now, &mut *dice);
    match verdict {
        Verdict::Again { kind, after } => {
            course.last = Some(local.count_retry(&chosen.target.label, kind));
            Some(after)
        }
        Verdict::Stop(Stop::Budget) => {
            local.pool_metrics(&chosen.target.label).retries[Retry::Refused as usize].increment();
            None
        }
        Verdict::Stop(Stop::Final | Stop::Method | Stop::Body | Stop::Limit | Stop::Deadline | Stop::Wish) => None,
    }
}

pub(super) fn is_idempotent(head: &RequestHead) -> bool {
    retry::is_idempotent(&head.method, head.headers.contains("idempotency-key"))
}

/// One request on its way through its attempts.
pub(super) struct Course {
    pub(super) spent: Spent,
    pub(super) deadline: Option<Instant>,
    /// Why the attempt that comes is made; `None`: it is the first.
    pub(super) last: Option<Retry>,
}

/// An attempt that was not the last, for its span.
pub(super) fn told(outcome: &Result<Answered<'_>, Failed<'_>>) -> Outcome {
    let ended = Instant::now();
    match outcome {
        Ok(Answered { head: ResponseHead { status, headers, .. }, .. }) => Outcome {
            ended,
            status: *status,
            grpc_status: grpc_status(headers),
            reason: headers.get(answer::REASON_HEADER).and_then(Reason::parse),
            detail: String::new(),
        },
        Err(failed) => {
            Outcome { ended, status: 0, grpc_status: None, reason: Some(failed.reason), detail: failed.detail.clone() }
        }
    }
}

fn ended(headers: &Headers, status: u16) -> Ended {
    Ended::Answered {
        status,
        grpc_status: grpc_status(headers),
        reason: headers.get(answer::REASON_HEADER).and_then(Reason::parse),
        wish: Wish::parse(headers.get("retry-after"), headers.get("grpc-retry-pushback-ms")),
    }
}

/// Of answers that are trailers alone; what comes after data cannot be taken back.
fn grpc_status(headers: &Headers) -> Option<u16> {
    std::str::from_utf8(headers.get("grpc-status")?).ok()?.parse().ok()
}
