//! Whether a request is tried again, and what is left of its body to send. It must never send half of a body twice.

use std::time::Duration;
use std::time::Instant;

use bytes::Bytes;
use bytes::BytesMut;
use leno_proto::policy::Retries;
use leno_proto::policy::RetryMethods;
use leno_proto::policy::RetryOn;
use rand::RngExt;

use crate::error;
use crate::error::Again;
use crate::error::Error;
use crate::error::Reason;
use crate::http::body::Body;
use crate::http::h1::Answered;
use crate::http::head::RequestHead;
use crate::local::Local;
use crate::metrics::Retry;
use crate::outbound::request::Failed;
use crate::outbound::route::Chosen;

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
        let after_processing = retries.attempts > 0 && retries.on.iter().any(|on| !is_safe(*on));
        let small = body.length().is_some_and(|length| length <= u64::from(retries.max_body_bytes));
        if !after_processing || !small {
            return Ok(Self { body: Some(body), whole: None });
        }
        let mut whole = BytesMut::new();
        while let Some(data) = body.data().await {
            let data = data.map_err(|reason| Error::Because { reason, detail: "the request's body was cut".into() })?;
            whole.extend_from_slice(&data);
        }
        let whole = whole.freeze();
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
    tries: u32,
    local: &Local,
) -> Option<Duration> {
    let retries = &chosen.policy.retries;
    let (again, possible) = match outcome {
        Ok(answered) => {
            let reason = answered.head.headers.get(error::REASON_HEADER).and_then(Reason::parse);
            let processed = reason.is_none_or(|reason| reason.again() != Again::NeverProcessed);
            let again = match processed {
                false => Some(Retry::NeverProcessed),
                true => retries.on.iter().any(|on| answers(*on, answered)).then_some(Retry::Policy),
            };
            (again, replay.can(None))
        }
        Err(failed) => {
            let again = match failed.never_processed {
                true => Some(Retry::NeverProcessed),
                false => retries.on.iter().any(|on| fails(*on, failed.reason)).then_some(Retry::Policy),
            };
            (again, replay.can(failed.body.as_ref()))
        }
    };
    let again = again.filter(|_| possible && tries <= retries.attempts)?;
    if again == Retry::Policy && !(retries.methods == RetryMethods::Any || is_idempotent(head)) {
        return None;
    }
    let metrics = local.pool_metrics(&chosen.target.label);
    let budget = match again {
        Retry::Policy => &chosen.target.shared.retries,
        Retry::NeverProcessed | Retry::IdleRace | Retry::Refused => &chosen.target.shared.transport_retries,
    };
    if !budget.try_withdraw(Instant::now()) {
        metrics.retries[Retry::Refused as usize].increment();
        return None;
    }
    metrics.retries[again as usize].increment();
    if let (Ok(answered), true) = (outcome, retries.respect_retry_after)
        && let Some(after) = retry_after(answered)
    {
        // Who asks for more patience than policy has is not asked again.
        return (after <= retries.retry_after_max).then_some(after);
    }
    // Full jitter: everything between nothing and the doubled base.
    let most = retries.backoff.base.saturating_mul(1 << (tries - 1).min(16)).min(retries.backoff.max);
    Some(most.mul_f64(local.dice.borrow_mut().random_range(0.0..1.0)))
}

/// RFC 9110 section 10.2.3, in seconds; a date is left to those who keep a calendar.
fn retry_after(answered: &Answered<'_>) -> Option<Duration> {
    let value = std::str::from_utf8(answered.head.headers.get("retry-after")?).ok()?;
    value.trim().parse().ok().map(Duration::from_secs)
}

/// What was provably not processed needs no leave of the method's.
fn is_safe(on: RetryOn) -> bool {
    matches!(on, RetryOn::ConnectFailure | RetryOn::RefusedStream | RetryOn::ResetBeforeRequest)
}

fn answers(on: RetryOn, answered: &Answered<'_>) -> bool {
    let status = answered.head.status;
    match on {
        RetryOn::GatewayError => matches!(status, 502..=504),
        RetryOn::ServerError => status >= 500,
        RetryOn::RateLimited => status == 429,
        RetryOn::Status(wanted) => status == wanted,
        // Trailers-only answers; what comes after data cannot be taken back.
        RetryOn::Grpc(code) => {
            answered.head.headers.get("grpc-status").is_some_and(|value| value == code.to_string().as_bytes())
        }
        RetryOn::ConnectFailure
        | RetryOn::RefusedStream
        | RetryOn::ResetBeforeRequest
        | RetryOn::Reset
        | RetryOn::Timeout => false,
    }
}

fn fails(on: RetryOn, reason: Reason) -> bool {
    match on {
        RetryOn::Reset => matches!(reason, Reason::ResetBeforeResponse | Reason::ProtocolError),
        RetryOn::Timeout => reason == Reason::FirstByteTimeout,
        RetryOn::ConnectFailure
        | RetryOn::RefusedStream
        | RetryOn::ResetBeforeRequest
        | RetryOn::GatewayError
        | RetryOn::ServerError
        | RetryOn::RateLimited
        | RetryOn::Status(_)
        | RetryOn::Grpc(_) => false,
    }
}

/// RFC 9110 section 9.2.2, or the client vouches for it.
fn is_idempotent(head: &RequestHead) -> bool {
    matches!(head.method.as_str(), "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE")
        || head.headers.contains("idempotency-key")
}
