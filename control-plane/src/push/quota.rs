//! How often one pod may ask for a certificate: each costs a signature, and a proxy that asks in a loop must not take them
//! from the others. Pure: the clock is an argument, and the table has a bound. It must never refuse a pod for another's asking.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

/// At once, for a proxy that was started anew a few times.
const BURST: u32 = 10;
/// A pod that holds its file never asks more often than its leaf asks for; this is many times that.
const PERIOD_MAX: Duration = Duration::from_secs(60);
/// A renewal falls into 50 to 70 % of a leaf's life: four in one life is twice what anyone needs.
const PERIODS_PER_LIFE: u32 = 4;
/// Pods that asked lately. Above that the one that has been quiet longest is forgotten: it would be allowed anyway.
const PODS_MAX: usize = 20_000;

/// One bucket a pod.
#[derive(Debug)]
pub struct Quota {
    /// After which one more is allowed.
    period: Duration,
    /// When each pod's bucket is full again, which says all: a full bucket need not be kept.
    full_at: HashMap<Arc<str>, Instant>,
}

impl Quota {
    pub fn new(leaf_ttl: Duration) -> Quota {
        Quota { period: PERIOD_MAX.min(leaf_ttl / PERIODS_PER_LIFE), full_at: HashMap::new() }
    }

    /// # Errors
    /// The pod has asked too often: how long it should wait.
    pub fn take(&mut self, pod_uid: &Arc<str>, now: Instant) -> Result<(), Duration> {
        let full_at = self.full_at.get(pod_uid).copied().unwrap_or(now).max(now) + self.period;
        let over = (full_at - now).saturating_sub(self.period * BURST);
        if !over.is_zero() {
            return Err(over);
        }
        if self.full_at.len() >= PODS_MAX && !self.full_at.contains_key(pod_uid) {
            self.make_room(now);
        }
        self.full_at.insert(pod_uid.clone(), full_at);
        Ok(())
    }

    fn make_room(&mut self, now: Instant) {
        self.full_at.retain(|_, full_at| *full_at > now);
        if self.full_at.len() >= PODS_MAX
            && let Some(quietest) = self.full_at.iter().min_by_key(|(_, full_at)| **full_at).map(|(pod, _)| pod.clone())
        {
            self.full_at.remove(&quietest);
        }
    }
}
