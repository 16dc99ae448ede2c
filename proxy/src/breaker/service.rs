//! The breaker of a whole destination: closed, open, half open. It must never let a thundering herd through when it opens a
//! little: the number of trial requests is exact.

use std::sync::Arc;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use leno_proto::policy::ServiceBreaker;
use leno_proto::policy::Trip;
use parking_lot::Mutex;
use rand::Rng;
use rand::RngExt;

use crate::breaker::Outcome;

/// Shared by all workers. The lock guards a handful of words; a destination without this breaker has none.
#[derive(Debug)]
pub struct Breaker {
    rules: ServiceBreaker,
    phase: AtomicU8,
    inner: Mutex<Inner>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Closed,
    Open,
    HalfOpen,
}

/// What the breaker says to a request.
#[derive(Debug)]
pub enum Verdict {
    Admitted(Admission),
    /// `retry_after`: until it opens a little.
    Open {
        retry_after: Duration,
    },
    /// The trial requests are out already.
    HalfOpen {
        retry_after: Duration,
    },
}

/// One request's right to report. Dropped without a report it gives a trial back.
#[derive(Debug)]
pub struct Admission {
    breaker: Arc<Breaker>,
    trial: Option<u64>,
}

#[derive(Debug)]
struct Inner {
    state: State,
    /// How often it opened without closing between, for the doubling.
    openings: u32,
    /// Tells the trials of one half-open phase from those of an earlier one.
    generation: u64,
    consecutive: u32,
    window: Window,
}

#[derive(Debug)]
enum State {
    Closed,
    Open { until: Instant, length: Duration },
    HalfOpen { free: u32, succeeded: u32, until: Instant },
}

impl Breaker {
    pub fn new(rules: ServiceBreaker, now: Instant) -> Arc<Self> {
        let length = match rules.trip {
            Trip::Ratio { window, .. } | Trip::Count { window, .. } => window,
            // Only `slow` looks at the window then.
            Trip::Consecutive { .. } => Duration::from_secs(10),
        };
        let inner = Inner {
            state: State::Closed,
            openings: 0,
            generation: 0,
            consecutive: 0,
            window: Window::new(length, now),
        };
        Arc::new(Self { rules, phase: AtomicU8::new(0), inner: Mutex::new(inner) })
    }

    pub fn rules(&self) -> &ServiceBreaker {
        &self.rules
    }

    /// As the last request left it.
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            0 => Phase::Closed,
            1 => Phase::Open,
            _ => Phase::HalfOpen,
        }
    }

    pub fn admit(self: &Arc<Self>, now: Instant) -> Verdict {
        let admission = |trial| Verdict::Admitted(Admission { breaker: Arc::clone(self), trial });
        if self.phase() == Phase::Closed {
            return admission(None);
        }
        let mut inner = self.inner.lock();
        match inner.state {
            State::Closed => return admission(None),
            State::Open { until, .. } if now < until => {
                return Verdict::Open { retry_after: until - now };
            }
            State::HalfOpen { until, .. } if now < until => {}
            // Half open too long: its trials hang or were lost. A new set may try.
            State::Open { .. } | State::HalfOpen { .. } => self.open_halfway(&mut inner, now),
        }
        let generation = inner.generation;
        match &mut inner.state {
            State::HalfOpen { free: 0, until, .. } => {
                Verdict::HalfOpen { retry_after: until.saturating_duration_since(now) }
            }
            State::HalfOpen { free, .. } => {
                *free -= 1;
                admission(Some(generation))
            }
            State::Closed | State::Open { .. } => admission(None),
        }
    }

    fn open_halfway(&self, inner: &mut Inner, now: Instant) {
        inner.generation += 1;
        inner.state = State::HalfOpen {
            free: self.rules.half_open_requests.max(1),
            succeeded: 0,
            until: now + self.rules.half_open_timeout,
        };
        self.phase.store(2, Ordering::Release);
    }

    fn trip(&self, inner: &mut Inner, now: Instant, dice: &mut impl Rng) {
        let doubled = self.rules.open_for.saturating_mul(1 << inner.openings.min(16));
        let length = doubled.min(self.rules.open_for_max.max(self.rules.open_for));
        let length = length.mul_f64(1.0 + dice.random_range(-0.2..0.2));
        inner.openings += 1;
        inner.consecutive = 0;
        inner.window.clear();
        inner.state = State::Open { until: now + length, length };
        self.phase.store(1, Ordering::Release);
    }

    fn report(
        &self,
        trial: Option<u64>,
        outcome: Outcome,
        took: Duration,
        now: Instant,
        dice: &mut impl Rng,
    ) -> Option<Phase> {
        let failed = match outcome {
            Outcome::Neutral => return None,
            Outcome::Success => false,
            Outcome::TransportFailure | Outcome::StatusFailure => true,
        };
        let slow = self.rules.slow.as_ref().is_some_and(|slow| took >= slow.threshold);
        let mut inner = self.inner.lock();
        let generation_now = inner.generation;
        match (trial, &mut inner.state) {
            (None, State::Closed) => {
                inner.consecutive = if failed { inner.consecutive.saturating_add(1) } else { 0 };
                inner.window.add(failed, slow, now);
                if !self.should_trip(&inner) {
                    return None;
                }
                inner.openings = 0;
                self.trip(&mut inner, now, dice);
                Some(Phase::Open)
            }
            (Some(generation), State::HalfOpen { .. }) if generation != generation_now => None,
            (Some(_), State::HalfOpen { .. }) if failed || slow => {
                self.trip(&mut inner, now, dice);
                Some(Phase::Open)
            }
            (Some(_), State::HalfOpen { succeeded, .. }) => {
                *succeeded += 1;
                if *succeeded < self.rules.half_open_requests.max(1) {
                    return None;
                }
                inner.state = State::Closed;
                inner.openings = 0;
                inner.consecutive = 0;
                inner.window.clear();
                self.phase.store(0, Ordering::Release);
                Some(Phase::Closed)
            }
            // What was under way before a change of phase says nothing about now.
            (_, State::Closed | State::Open { .. } | State::HalfOpen { .. }) => None,
        }
    }

    fn should_trip(&self, inner: &Inner) -> bool {
        let seen = inner.window.sum();
        let (percent, requests_min) = match self.rules.trip {
            Trip::Ratio { failure_percent, min_requests, .. } => (Some(failure_percent), min_requests),
            Trip::Consecutive { .. } | Trip::Count { .. } => (None, 20),
        };
        let share = |part: u32, percent: u8| u64::from(part) * 100 >= u64::from(seen.requests) * u64::from(percent);
        let enough = seen.requests >= requests_min.max(1);
        let failing = match self.rules.trip {
            Trip::Ratio { .. } => enough && percent.is_some_and(|percent| share(seen.failures, percent)),
            Trip::Consecutive { count } => inner.consecutive >= count,
            Trip::Count { failures, .. } => seen.failures >= failures,
        };
        failing || self.rules.slow.as_ref().is_some_and(|slow| enough && share(seen.slow, slow.percent))
    }

    fn give_back(&self, generation: u64) {
        let mut inner = self.inner.lock();
        if inner.generation == generation
            && let State::HalfOpen { free, .. } = &mut inner.state
        {
            *free += 1;
        }
    }

    /// How long it is open this time; for metrics and `explain`.
    pub fn open_for(&self) -> Option<Duration> {
        match self.inner.lock().state {
            State::Open { length, .. } => Some(length),
            State::Closed | State::HalfOpen { .. } => None,
        }
    }
}

impl Admission {
    /// The end of the request; says which phase the breaker entered, if it did.
    pub fn report(mut self, outcome: Outcome, took: Duration, now: Instant, dice: &mut impl Rng) -> Option<Phase> {
        if outcome == Outcome::Neutral {
            return None;
        }
        let trial = self.trial.take();
        self.breaker.report(trial, outcome, took, now, dice)
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        if let Some(generation) = self.trial {
            self.breaker.give_back(generation);
        }
    }
}

/// Ten slots that together span the window; the oldest is forgotten as a new one begins.
#[derive(Debug)]
struct Window {
    slot_length: Duration,
    base: Instant,
    current: u64,
    slots: [Seen; SLOTS],
}

#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    requests: u32,
    failures: u32,
    slow: u32,
}

const SLOTS: usize = 10;

impl Window {
    fn new(length: Duration, now: Instant) -> Self {
        let slot_length = (length / SLOTS as u32).max(Duration::from_millis(1));
        Self { slot_length, base: now, current: 0, slots: [Seen::default(); SLOTS] }
    }

    fn add(&mut self, failed: bool, slow: bool, now: Instant) {
        let slot = (now.saturating_duration_since(self.base).as_nanos() / self.slot_length.as_nanos()) as u64;
        if slot > self.current {
            for passed in (self.current + 1..=slot).take(SLOTS) {
                self.slots[(passed % SLOTS as u64) as usize] = Seen::default();
            }
            if slot - self.current > SLOTS as u64 {
                self.clear();
            }
            self.current = slot;
        }
        // Another worker's slightly older time counts as now.
        let seen = &mut self.slots[(self.current % SLOTS as u64) as usize];
        seen.requests = seen.requests.saturating_add(1);
        seen.failures = seen.failures.saturating_add(u32::from(failed));
        seen.slow = seen.slow.saturating_add(u32::from(slow));
    }

    fn clear(&mut self) {
        self.slots = [Seen::default(); SLOTS];
    }

    fn sum(&self) -> Seen {
        let mut sum = Seen::default();
        for seen in &self.slots {
            sum.requests = sum.requests.saturating_add(seen.requests);
            sum.failures = sum.failures.saturating_add(seen.failures);
            sum.slow = sum.slow.saturating_add(seen.slow);
        }
        sum
    }
}
