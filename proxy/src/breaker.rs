//! When an endpoint is left out, and when a whole destination is. It must never eject more endpoints than its policy allows,
//! let more than one probe out at a time, or keep time of its own.

mod service;

use std::sync::Arc;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use leno_proto::policy::EndpointBreaker;
use parking_lot::Mutex;
use rand::Rng;
use rand::RngExt;

pub use crate::breaker::service::Admission;
pub use crate::breaker::service::Breaker;
pub use crate::breaker::service::Phase;
pub use crate::breaker::service::Verdict;

/// How one attempt on an endpoint ended, as its breakers see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// An answer below 500.
    Success,
    /// The transport failed: connect, TLS, reset, timeout.
    TransportFailure,
    /// A 5xx answer, or its gRPC equal.
    StatusFailure,
    /// Says nothing about the endpoint: the client left, or a limit of our own refused.
    Neutral,
}

/// How many endpoints a destination has and how many of them are out, shared by its endpoints so that the bound on ejection
/// is exact.
#[derive(Debug, Default)]
pub struct Quorum {
    members: AtomicU32,
    ejected: AtomicU32,
}

impl Quorum {
    pub fn new(members: u32) -> Self {
        Self { members: AtomicU32::new(members), ejected: AtomicU32::new(0) }
    }

    pub fn set_members(&self, members: u32) {
        self.members.store(members, Ordering::Relaxed);
    }

    pub fn ejected(&self) -> u32 {
        self.ejected.load(Ordering::Relaxed)
    }

    /// So many are out that the rest would drown: send to all of them rather than to the few.
    pub fn panics(&self, rules: &EndpointBreaker) -> bool {
        let (members, ejected) = (self.members.load(Ordering::Relaxed), self.ejected());
        let usable = u64::from(members.saturating_sub(ejected));
        ejected > 0 && usable * 100 < u64::from(members) * u64::from(rules.panic_threshold)
    }

    fn join(&self, rules: &EndpointBreaker) -> bool {
        let room = u64::from(self.members.load(Ordering::Relaxed)) * u64::from(rules.max_ejected_percent) / 100;
        let more = |ejected: u32| (u64::from(ejected) < room).then(|| ejected + 1);
        self.ejected.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok()
    }

    fn leave(&self) {
        let less = |ejected: u32| ejected.checked_sub(1);
        let _ = self.ejected.fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
    }
}

/// Whether an endpoint may be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    In,
    /// Its penalty is over: one request may find out.
    Probe,
    Out,
}

/// What changed, for logs and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Ejected { penalty: Duration },
    Reinstated,
}

/// One endpoint's failures in a row and its penalty, shared by all workers.
#[derive(Debug)]
pub struct Ejection {
    quorum: Arc<Quorum>,
    /// A summary of `inner` that the choice reads without the lock: CLEAN, DIRTY (some failures), or EJECTED.
    state: AtomicU8,
    /// When it last came back, in milliseconds after `base`; 0: never. Beside the lock, because slow start asks at each choice.
    back: AtomicU64,
    base: Instant,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    transport: u32,
    status: u32,
    /// Set while ejected.
    until: Option<Instant>,
    probing: bool,
    /// The last penalty and when it ended well, so that a relapse doubles it.
    penalty: Duration,
    reinstated: Option<Instant>,
}

const CLEAN: u8 = 0;
const DIRTY: u8 = 1;
const EJECTED: u8 = 2;

impl Ejection {
    pub fn new(quorum: Arc<Quorum>, now: Instant) -> Self {
        let (state, back) = (AtomicU8::new(CLEAN), AtomicU64::new(0));
        Self { quorum, state, back, base: now, inner: Mutex::new(Inner::default()) }
    }

    pub fn standing(&self, now: Instant) -> Standing {
        if self.state.load(Ordering::Acquire) != EJECTED {
            return Standing::In;
        }
        let inner = self.inner.lock();
        match inner.until {
            None => Standing::In,
            Some(until) if now >= until && !inner.probing => Standing::Probe,
            Some(_) => Standing::Out,
        }
    }

    pub fn is_ejected(&self) -> bool {
        self.state.load(Ordering::Acquire) == EJECTED
    }

    /// When it last came back, for slow start.
    pub fn reinstated(&self) -> Option<Instant> {
        match self.back.load(Ordering::Relaxed) {
            0 => None,
            millis => Some(self.base + Duration::from_millis(millis)),
        }
    }

    /// The one right to try an endpoint whose penalty is over. Undone by drop.
    pub fn claim(self: &Arc<Self>, now: Instant) -> Option<Probe> {
        let mut inner = self.inner.lock();
        let due = inner.until.is_some_and(|until| now >= until) && !inner.probing;
        due.then(|| {
            inner.probing = true;
            Probe { ejection: Arc::clone(self) }
        })
    }

    pub fn record(
        &self,
        outcome: Outcome,
        now: Instant,
        rules: &EndpointBreaker,
        dice: &mut impl Rng,
    ) -> Option<Change> {
        match (outcome, self.state.load(Ordering::Acquire)) {
            (Outcome::Neutral, _) | (Outcome::Success, CLEAN) => return None,
            (Outcome::StatusFailure, CLEAN) if rules.status_failures.is_none() => return None,
            _ => {}
        }
        let mut inner = self.inner.lock();
        if let Some(until) = inner.until {
            return self.record_ejected(&mut inner, outcome, until, now, rules, dice);
        }
        match outcome {
            Outcome::Neutral => {}
            Outcome::Success => (inner.transport, inner.status) = (0, 0),
            Outcome::TransportFailure => inner.transport = inner.transport.saturating_add(1),
            // An answer proves that the transport works.
            Outcome::StatusFailure => (inner.transport, inner.status) = (0, inner.status.saturating_add(1)),
        }
        let reached = |limit: Option<u32>, count: u32| limit.is_some_and(|limit| count >= limit);
        let fails =
            reached(rules.consecutive_failures, inner.transport) || reached(rules.status_failures, inner.status);
        if fails && self.quorum.join(rules) {
            // A relapse soon after the last penalty doubles it; an endpoint that has behaved starts over.
            let relapse = inner.reinstated.is_some_and(|at| now.saturating_duration_since(at) < inner.penalty * 2);
            let base = if relapse { inner.penalty * 2 } else { rules.penalty_min };
            return Some(self.eject(&mut inner, base, now, rules, dice));
        }
        let dirty = inner.transport + inner.status > 0;
        self.state.store(if dirty { DIRTY } else { CLEAN }, Ordering::Release);
        None
    }

    /// Requests that were already under way when it was ejected say little; what comes after the penalty decides. Under
    /// panic nobody claims a probe, and any later answer counts.
    fn record_ejected(
        &self,
        inner: &mut Inner,
        outcome: Outcome,
        until: Instant,
        now: Instant,
        rules: &EndpointBreaker,
        dice: &mut impl Rng,
    ) -> Option<Change> {
        if now < until {
            return None;
        }
        let failed = match outcome {
            Outcome::Neutral => return None,
            Outcome::Success => false,
            Outcome::TransportFailure => true,
            Outcome::StatusFailure => rules.status_failures.is_some(),
        };
        if failed {
            let base = inner.penalty * 2;
            return Some(self.eject(inner, base, now, rules, dice));
        }
        (inner.until, inner.reinstated) = (None, Some(now));
        let back = now.saturating_duration_since(self.base).as_millis() as u64;
        self.back.store(back.max(1), Ordering::Relaxed);
        (inner.transport, inner.status) = (0, 0);
        self.quorum.leave();
        self.state.store(CLEAN, Ordering::Release);
        Some(Change::Reinstated)
    }

    fn eject(
        &self,
        inner: &mut Inner,
        base: Duration,
        now: Instant,
        rules: &EndpointBreaker,
        dice: &mut impl Rng,
    ) -> Change {
        inner.penalty = base.clamp(rules.penalty_min, rules.penalty_max);
        // Up to 50 % more, so that a fleet of clients does not come back at one moment.
        let penalty = inner.penalty.mul_f64(1.0 + dice.random_range(0.0..0.5));
        inner.until = Some(now + penalty);
        self.state.store(EJECTED, Ordering::Release);
        Change::Ejected { penalty }
    }
}

impl Drop for Ejection {
    fn drop(&mut self) {
        if self.is_ejected() {
            self.quorum.leave();
        }
    }
}

/// Held by the request that probes; without an outcome the next one may.
#[derive(Debug)]
pub struct Probe {
    ejection: Arc<Ejection>,
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.ejection.inner.lock().probing = false;
    }
}

#[cfg(test)]
mod tests;
