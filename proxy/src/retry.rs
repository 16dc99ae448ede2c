//! Whether a request may be tried again, and when. Pure. It must never let retries grow faster than the requests that they
//! serve, or repeat what may have been done unless policy and method allow it.

mod budget;

use std::time::Duration;
use std::time::Instant;

use leno_proto::policy::Retries;
use leno_proto::policy::RetryMethods;
use leno_proto::policy::RetryOn;
use rand::Rng;
use rand::RngExt;

use crate::error::Again;
use crate::error::Reason;
pub use crate::retry::budget::Budget;

/// How one attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    Failed {
        reason: Reason,
        /// Proven: nothing was written, or the peer said so.
        never_processed: bool,
        /// The connection had idled before: the server may have closed it as the request was on its way.
        reused: bool,
        /// A byte of an answer came: it cannot be taken back.
        answered: bool,
    },
    Answered {
        status: u16,
        /// Of an answer without a body; what comes in trailers comes too late.
        grpc_status: Option<u16>,
        /// What a proxy on the way says about it (`leno-reason`).
        reason: Option<Reason>,
        wish: Wish,
    },
}

/// What the server asks of whoever wants to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Wish {
    #[default]
    None,
    /// `Retry-After` in seconds: not before this.
    NotBefore(Duration),
    /// `grpc-retry-pushback-ms`: after this, without jitter (gRFC A6).
    After(Duration),
    /// A negative or malformed pushback (gRFC A6).
    Never,
}

impl Wish {
    /// From the two header fields. A `Retry-After` that is a date is left aside: clocks differ more than backoffs do.
    pub fn parse(retry_after: Option<&[u8]>, pushback: Option<&[u8]>) -> Self {
        let text = |value: &[u8]| std::str::from_utf8(value).ok().map(|text| text.trim().to_owned());
        if let Some(pushback) = pushback {
            let millis = text(pushback).and_then(|text| text.parse::<u32>().ok());
            return millis.map_or(Self::Never, |millis| Self::After(Duration::from_millis(u64::from(millis))));
        }
        let seconds = retry_after.and_then(text).and_then(|text| text.parse::<u32>().ok());
        seconds.map_or(Self::None, |seconds| Self::NotBefore(Duration::from_secs(u64::from(seconds))))
    }
}

/// What the request brings.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    /// See `is_idempotent`.
    pub idempotent: bool,
    /// Its body can be sent again from the first byte.
    pub replayable: bool,
    /// Until its deadline.
    pub remaining: Option<Duration>,
}

/// The budgets of the request's destination.
#[derive(Debug, Clone, Copy)]
pub struct Budgets<'a> {
    pub policy: &'a Budget,
    pub transport: &'a Budget,
}

/// The retries that one request has had, by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spent {
    policy: u32,
    transport: u32,
    idle_races: u32,
}

/// Why another try is made: the metric's label and the attempt's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The application never saw the request.
    NeverProcessed,
    /// The connection was closed while it was idle, and the request was provably not processed. At once, on a fresh
    /// connection.
    IdleRace,
    /// The connection had idled and was reset, which proves nothing: only what may be repeated, as `IdleRace`.
    IdleReset,
    /// Policy names this outcome.
    Policy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Again {
        kind: Kind,
        after: Duration,
    },
    /// The outcome stands.
    Stop(Stop),
}

/// Why an outcome stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// It is an answer, or a failure that another try would only repeat.
    Final,
    /// The method may not be repeated once it may have been processed.
    Method,
    /// Part of the body is gone.
    Body,
    /// All tries are used up.
    Limit,
    Budget,
    /// The next try would begin after the request's deadline.
    Deadline,
    /// The server asked not to, or not for longer than policy waits.
    Wish,
}

/// Never-processed retries, whatever the policy's `attempts`: they are always on and pay from a budget of their own.
const TRANSPORT_MAX: u32 = 2;
const IDLE_RACES_MAX: u32 = 1;

impl Spent {
    /// All retries so far.
    pub fn total(self) -> u32 {
        self.policy + self.transport + self.idle_races
    }

    /// Judges one attempt; a retry is counted, and paid for, here.
    pub fn verdict(
        &mut self,
        rules: &Retries,
        ended: Ended,
        asked: Asked,
        budgets: Budgets<'_>,
        now: Instant,
        dice: &mut impl Rng,
    ) -> Verdict {
        match self.judge(rules, ended, asked, budgets, now, dice) {
            Ok((kind, after)) => {
                match kind {
                    Kind::NeverProcessed => self.transport += 1,
                    Kind::IdleRace | Kind::IdleReset => self.idle_races += 1,
                    Kind::Policy => self.policy += 1,
                }
                Verdict::Again { kind, after }
            }
            Err(stop) => Verdict::Stop(stop),
        }
    }

    fn judge(
        self,
        rules: &Retries,
        ended: Ended,
        asked: Asked,
        budgets: Budgets<'_>,
        now: Instant,
        dice: &mut impl Rng,
    ) -> Result<(Kind, Duration), Stop> {
        let kind = kind(rules, ended, asked).ok_or(Stop::Final)?;
        if kind == Kind::Policy && !asked.idempotent && rules.methods == RetryMethods::Idempotent {
            return Err(Stop::Method);
        }
        if !asked.replayable {
            return Err(Stop::Body);
        }
        let (spent, most) = match kind {
            Kind::NeverProcessed => (self.transport, TRANSPORT_MAX),
            Kind::IdleRace | Kind::IdleReset => (self.idle_races, IDLE_RACES_MAX),
            Kind::Policy => (self.policy, rules.attempts),
        };
        if spent >= most {
            return Err(Stop::Limit);
        }
        let after = match kind {
            Kind::IdleRace | Kind::IdleReset => Duration::ZERO,
            Kind::NeverProcessed | Kind::Policy => self.wait(rules, ended, dice)?,
        };
        if asked.remaining.is_some_and(|remaining| after >= remaining) {
            return Err(Stop::Deadline);
        }
        // Last, so that only a retry that will be made is paid for.
        let paid = match kind {
            Kind::Policy => budgets.policy.try_withdraw(now),
            Kind::NeverProcessed | Kind::IdleRace | Kind::IdleReset => pay(kind, budgets.transport, now),
        };
        paid.then_some((kind, after)).ok_or(Stop::Budget)
    }

    fn wait(self, rules: &Retries, ended: Ended, dice: &mut impl Rng) -> Result<Duration, Stop> {
        let wish = match ended {
            Ended::Answered { wish, .. } if rules.respect_retry_after => wish,
            Ended::Answered { .. } | Ended::Failed { .. } => Wish::None,
        };
        let backoff = backoff(&rules.backoff, self.total(), dice);
        match wish {
            Wish::None => Ok(backoff),
            // The jitter on top keeps those who were told the same moment apart.
            Wish::NotBefore(least) if least <= rules.retry_after_max => Ok(least + backoff),
            Wish::After(exactly) if exactly <= rules.retry_after_max => Ok(exactly),
            Wish::NotBefore(_) | Wish::After(_) | Wish::Never => Err(Stop::Wish),
        }
    }
}

/// Full jitter: anything between nothing and the doubled base, so that clients which failed together do not return together.
pub fn backoff(rules: &leno_proto::policy::Backoff, retries: u32, dice: &mut impl Rng) -> Duration {
    let most = rules.base.saturating_mul(1 << retries.min(16)).min(rules.max);
    most.mul_f64(dice.random_range(0.0..=1.0))
}

/// RFC 9110 section 9.2.2, or a client that vouches for it by `Idempotency-Key`.
pub fn is_idempotent(method: &str, has_key: bool) -> bool {
    has_key || matches!(method, "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE")
}

/// Whether policy may ever repeat what may have been processed: then a small body is kept.
pub fn may_repeat(rules: &Retries) -> bool {
    rules.attempts > 0 && rules.on.iter().any(|on| !is_safe(*on))
}

/// Pays for a retry that is made whatever the policy says; whether it may be. A race that nobody has received a byte of adds
/// no load to anything, and so is never refused.
pub fn pay(kind: Kind, budget: &Budget, now: Instant) -> bool {
    match kind {
        Kind::IdleRace => {
            budget.try_withdraw_for_race(now);
            true
        }
        Kind::IdleReset => budget.try_withdraw_for_race(now),
        Kind::NeverProcessed | Kind::Policy => budget.try_withdraw(now),
    }
}

/// The kind of retry that a failure calls for whatever the policy says.
pub fn always(ended: Ended, asked: Asked) -> Option<Kind> {
    let Ended::Failed { reason, never_processed, reused, answered: false } = ended else { return None };
    match (never_processed, reused) {
        (true, true) => Some(Kind::IdleRace),
        (true, false) => Some(Kind::NeverProcessed),
        (false, _) if reason.again() == Again::NeverProcessed => Some(Kind::NeverProcessed),
        (false, true) if asked.idempotent && reason == Reason::ResetBeforeResponse => Some(Kind::IdleReset),
        (false, _) => None,
    }
}

/// The kind of retry that an ending calls for, if any.
fn kind(rules: &Retries, ended: Ended, asked: Asked) -> Option<Kind> {
    let named = |holds: &dyn Fn(RetryOn) -> bool| rules.on.iter().any(|on| holds(*on)).then_some(Kind::Policy);
    match ended {
        Ended::Failed { answered: true, .. } => None,
        Ended::Failed { reason, .. } => always(ended, asked).or_else(|| match reason.again() {
            Again::MayBeProcessed => named(&|on| fails(on, reason)),
            Again::NeverProcessed | Again::Final => None,
        }),
        Ended::Answered { status, grpc_status, reason, .. } => match reason {
            // A retry storm ends at the hop that noticed it: who is out of tries or budget is not asked again from here.
            Some(Reason::RetryBudget | Reason::RetryLimit) => None,
            Some(reason) if reason.again() == Again::NeverProcessed => Some(Kind::NeverProcessed),
            Some(_) | None => named(&|on| answers(on, status, grpc_status)),
        },
    }
}

/// What was provably not processed needs no leave of the method's, and is repeated whether or not policy names it.
fn is_safe(on: RetryOn) -> bool {
    matches!(on, RetryOn::ConnectFailure | RetryOn::RefusedStream | RetryOn::ResetBeforeRequest)
}

fn answers(on: RetryOn, status: u16, grpc_status: Option<u16>) -> bool {
    match on {
        RetryOn::GatewayError => matches!(status, 502..=504),
        RetryOn::ServerError => (500..600).contains(&status),
        RetryOn::RateLimited => status == 429,
        RetryOn::Status(wanted) => status == wanted,
        RetryOn::Grpc(wanted) => grpc_status == Some(u16::from(wanted)),
        RetryOn::ConnectFailure
        | RetryOn::RefusedStream
        | RetryOn::ResetBeforeRequest
        | RetryOn::Reset
        | RetryOn::Timeout => false,
    }
}

fn fails(on: RetryOn, reason: Reason) -> bool {
    match on {
        RetryOn::Timeout => reason == Reason::FirstByteTimeout,
        RetryOn::Reset => reason != Reason::FirstByteTimeout,
        // A connection that broke or spoke nonsense is what a gateway answers 502 for.
        RetryOn::GatewayError | RetryOn::ServerError => reason != Reason::FirstByteTimeout,
        RetryOn::ConnectFailure
        | RetryOn::RefusedStream
        | RetryOn::ResetBeforeRequest
        | RetryOn::RateLimited
        | RetryOn::Status(_)
        | RetryOn::Grpc(_) => false,
    }
}

#[cfg(test)]
mod tests;
