//! Rates: a token bucket in one atomic word, shared by all workers. Pure: time is an argument. It must never admit more than
//! `rate * time + burst`, however many threads ask.

#[cfg(test)]
mod tests;

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

/// So many a second, and a burst on top. GCRA: the state is the time at which the bucket would be full again ("theoretical
/// arrival time", ITU-T I.371), in nanoseconds since `start`.
#[derive(Debug)]
pub struct TokenBucket {
    start: Instant,
    full_at: AtomicU64,
    /// Between two tokens, in nanoseconds.
    interval: u64,
    /// How far `full_at` may lie ahead: the burst.
    tolerance: u64,
}

impl TokenBucket {
    /// `per_second` and `burst` of 0 count as 1: policy's bounds exclude them.
    pub fn new(per_second: u32, burst: u32, start: Instant) -> Self {
        let interval = 1_000_000_000 / u64::from(per_second.max(1));
        Self { start, full_at: AtomicU64::new(0), interval, tolerance: interval * u64::from(burst.max(1)) }
    }

    /// Takes one token, or says how long until there is one.
    pub fn take(&self, now: Instant) -> Result<(), Duration> {
        self.reserve(now, Duration::ZERO).map(|_| ())
    }

    /// Takes one token that may lie up to `wait_max` ahead, and says how long to wait for it; else says how long it would
    /// have been. A token that was reserved is spent even if its owner goes away: the rate stays below the limit.
    pub fn reserve(&self, now: Instant, wait_max: Duration) -> Result<Duration, Duration> {
        let now = now.saturating_duration_since(self.start).as_nanos() as u64;
        let wait_max = u64::try_from(wait_max.as_nanos()).unwrap_or(u64::MAX);
        let mut full_at = self.full_at.load(Ordering::Relaxed);
        loop {
            let next = full_at.max(now).saturating_add(self.interval);
            let wait = next.saturating_sub(now).saturating_sub(self.tolerance);
            if wait > wait_max {
                return Err(Duration::from_nanos(wait));
            }
            match self.full_at.compare_exchange_weak(full_at, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Ok(Duration::from_nanos(wait)),
                Err(current) => full_at = current,
            }
        }
    }
}
