//! Chooses an endpoint. Pure: the clock and the dice are arguments. It must never leave a request without an endpoint while
//! there is one: when all are ejected, a bad answer is better than none.

#[cfg(test)]
mod tests;

use std::hash::BuildHasher;
use std::hash::BuildHasherDefault;
use std::hash::DefaultHasher;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use leno_proto::policy::Algorithm;
use leno_proto::policy::HashKey;
use leno_proto::policy::SlowStart;
use rand::Rng;
use rand::RngExt;

use crate::breaker::Probe;
use crate::breaker::Standing;
use crate::upstream::Member;
use crate::upstream::Target;

/// Peak-sensitive moving average of an endpoint's latency, kept by each worker for itself: it rises at once with a slow
/// answer and falls slowly (Finagle's Peak EWMA).
#[derive(Debug, Clone, Copy)]
pub struct Ewma {
    nanos: f64,
    at: Instant,
}

/// What an endpoint costs that has not answered yet: little, so that new ones are found out soon.
const UNKNOWN_NANOS: f64 = 1_000_000.0;

impl Ewma {
    pub fn new(now: Instant) -> Self {
        Self { nanos: 0.0, at: now }
    }

    pub fn observe(&mut self, latency: Duration, decay: Duration, now: Instant) {
        let nanos = latency.as_nanos() as f64;
        self.nanos = match nanos > self.nanos {
            true => nanos,
            false => {
                let keep = self.keep(decay, now);
                self.nanos * keep + nanos * (1.0 - keep)
            }
        };
        self.at = now;
    }

    /// In nanoseconds. What has not been used for long is worth trying again.
    pub fn read(&self, decay: Duration, now: Instant) -> f64 {
        match self.nanos == 0.0 {
            true => UNKNOWN_NANOS,
            false => self.nanos * self.keep(decay, now),
        }
    }

    fn keep(&self, decay: Duration, now: Instant) -> f64 {
        (-now.saturating_duration_since(self.at).as_secs_f64() / decay.as_secs_f64().max(0.001)).exp()
    }
}

/// One choice, as far as the request and the worker shape it.
pub struct Choice<'a> {
    pub target: &'a Target,
    /// Endpoints that this request has tried and should not get again: by position in `target.members`.
    pub tried: &'a [usize],
    /// What the request hashes to, where the policy asks for it.
    pub hash: Option<u64>,
    /// This worker's turn, for round robin.
    pub turn: u64,
    pub now: Instant,
}

/// The endpoint, and the right to find out whether it is well again where that was its turn.
#[derive(Debug)]
pub struct Picked {
    /// Position in `target.members`.
    pub index: usize,
    pub probe: Option<Probe>,
}

/// `latency` is this worker's average for the endpoint at a position, in nanoseconds. `None`: the target has no usable
/// endpoint at all.
pub fn pick(choice: &Choice<'_>, latency: impl Fn(usize) -> f64, rng: &mut impl Rng) -> Option<Picked> {
    let target = choice.target;
    let all_well = target.shared.quorum.ejected() == 0;
    if !all_well && let Some(probe) = due_probe(choice) {
        return Some(probe);
    }
    // Nearly always nobody is out and nothing was tried before: then the pool was sorted out when the target was built.
    let narrowed = match all_well && choice.tried.is_empty() {
        true => None,
        false => Some(narrow(choice)),
    };
    let pool = narrowed.as_deref().unwrap_or_else(|| target.near());
    let index = match &target.policy.load_balancing.algorithm {
        Algorithm::LeastLoaded { .. } => least_loaded(choice, pool, latency, rng)?,
        Algorithm::RoundRobin => *pool.get((choice.turn % pool.len().max(1) as u64) as usize)?,
        Algorithm::ConsistentHash { key, bounded_percent } => match choice.hash {
            Some(hash) => consistent(target, pool, hash, bound(key, *bounded_percent))?,
            None => least_loaded(choice, pool, latency, rng)?,
        },
    };
    Some(Picked { index, probe: None })
}

/// Who is left when some are ejected, or were tried before: each narrowing that would leave nobody is passed over.
fn narrow(choice: &Choice<'_>) -> Vec<usize> {
    let target = choice.target;
    let panics = target.shared.quorum.panics(&target.policy.circuit_breaker.endpoint);
    let well = |index: &usize| panics || target.members[*index].shared.ejection.standing(choice.now) == Standing::In;
    let pool = unless_empty(&unless_empty(target.usable(), well), |index| !choice.tried.contains(index));
    target.nearest(pool)
}

/// An endpoint whose penalty is over gets one request, before anything else is considered.
fn due_probe(choice: &Choice<'_>) -> Option<Picked> {
    let due = choice.target.usable().iter().filter(|index| !choice.tried.contains(index));
    due.copied().find_map(|index| {
        let ejection = &choice.target.members[index].shared.ejection;
        let probe = (ejection.standing(choice.now) == Standing::Probe).then(|| ejection.claim(choice.now))??;
        Some(Picked { index, probe: Some(probe) })
    })
}

fn unless_empty(pool: &[usize], keep: impl Fn(&usize) -> bool) -> Vec<usize> {
    let kept: Vec<usize> = pool.iter().copied().filter(keep).collect();
    if kept.is_empty() { pool.to_vec() } else { kept }
}

/// The cheaper of two chosen by chance (Mitzenmacher's power of two choices): latency times what is under way.
fn least_loaded(
    choice: &Choice<'_>,
    pool: &[usize],
    latency: impl Fn(usize) -> f64,
    rng: &mut impl Rng,
) -> Option<usize> {
    let [first, second] = match pool.len() {
        0 => return None,
        1 => return Some(pool[0]),
        count => {
            let first = rng.random_range(0..count);
            let second = rng.random_range(0..count - 1);
            [pool[first], pool[if second >= first { second + 1 } else { second }]]
        }
    };
    let cost = |index: usize| {
        let shared = &choice.target.members[index].shared;
        let under_way = f64::from(shared.in_flight.load(Ordering::Relaxed)) + 1.0;
        latency(index) * under_way / weight(choice, index)
    };
    Some(if cost(second) < cost(first) { second } else { first })
}

/// Slow start: what is new, or back from an ejection, weighs less at first. Not where most are new: a rollout would starve.
fn weight(choice: &Choice<'_>, index: usize) -> f64 {
    let Some(SlowStart { window, min_weight_percent }) = &choice.target.policy.load_balancing.slow_start else {
        return 1.0;
    };
    let age =
        |m: &Member| choice.now.saturating_duration_since(m.shared.ejection.reinstated().unwrap_or(m.shared.since));
    let members = &choice.target.members;
    let own = age(&members[index]);
    if own >= *window || members.iter().filter(|m| age(m) < *window).count() * 2 > members.len() {
        return 1.0;
    }
    (own.as_secs_f64() / window.as_secs_f64().max(0.001)).max(f64::from(*min_weight_percent) / 100.0)
}

/// All that one application sends has one source: bounded, it would be spread for its own number.
fn bound(key: &HashKey, percent: u32) -> Option<u32> {
    match key {
        HashKey::SourceIp => None,
        HashKey::Header(_) | HashKey::Cookie(_) => Some(percent),
    }
}

/// Rendezvous hashing with bounded loads (Mirrokni et al.): the endpoint that ranks first for this hash and has no more than
/// its share of what is under way; without a bound, the first.
fn consistent(target: &Target, pool: &[usize], hash: u64, bounded_percent: Option<u32>) -> Option<usize> {
    let under_way = |index: usize| u64::from(target.members[index].shared.in_flight.load(Ordering::Relaxed));
    let total: u64 = pool.iter().map(|i| under_way(*i)).sum::<u64>() + 1;
    let share = |percent: u32| (total * u64::from(percent)).div_ceil(100 * pool.len().max(1) as u64);
    let most = bounded_percent.map_or(u64::MAX, share);
    let hasher = BuildHasherDefault::<DefaultHasher>::default();
    let rank = |index: usize| hasher.hash_one((hash, &target.members[index].shared.identity));
    let first = |bounded: bool| {
        let may = |index: &&usize| !bounded || under_way(**index) < most;
        pool.iter().filter(may).max_by_key(|index| rank(**index)).copied()
    };
    first(true).or_else(|| first(false))
}
