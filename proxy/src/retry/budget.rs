//! How many retries a destination may get: a share of the first tries of the last seconds, and a few a second on top. Shared
//! by all workers. It must never allow a retry that no first try has paid for beyond those few.

#[cfg(test)]
mod tests;

use std::time::Duration;
use std::time::Instant;

use leno_proto::policy;
use parking_lot::Mutex;

/// A windowed budget (Finagle's RetryBudget; GEP-3388): each first try deposits `percent` of a retry, which counts for
/// `interval`; `min_per_second` retries a second are free.
#[derive(Debug)]
pub struct Budget {
    rules: policy::Budget,
    start: Instant,
    window: Mutex<Window>,
}

/// The interval in slices, so that old deposits leave in steps of a tenth.
const SLICES: usize = 10;

#[derive(Debug)]
struct Window {
    /// The slice that `now` fell into last, counted since `start`.
    slice: u64,
    deposits: [u64; SLICES],
    /// Retries that first tries paid for, and free ones.
    paid: [u64; SLICES],
    free: [u64; SLICES],
}

/// Never-processed retries have a budget of their own, whatever the policy says: the failure is the connection's, not the
/// service's.
const TRANSPORT: policy::Budget = policy::Budget { percent: 20, interval: Duration::from_secs(10), min_per_second: 10 };

impl Budget {
    pub fn of_policy(rules: &policy::Budget, now: Instant) -> Self {
        let window = Window { slice: 0, deposits: [0; SLICES], paid: [0; SLICES], free: [0; SLICES] };
        Self { rules: rules.clone(), start: now, window: Mutex::new(window) }
    }

    pub fn of_transport(now: Instant) -> Self {
        Self::of_policy(&TRANSPORT, now)
    }

    pub fn is_of(&self, rules: &policy::Budget) -> bool {
        self.rules == *rules
    }

    /// A first try begins.
    pub fn deposit(&self, now: Instant) {
        let mut window = self.window.lock();
        let slice = window.turn(self.slice(now));
        window.deposits[slice] += 1;
    }

    /// Takes one retry, if there is one.
    pub fn try_withdraw(&self, now: Instant) -> bool {
        let mut window = self.window.lock();
        let slice = window.turn(self.slice(now));
        // What is free comes evenly: a burst of it would be the storm that the budget is against.
        let free = window.free.iter().sum::<u64>();
        if window.free[slice] < self.free_in(1).max(1) && free < self.free_in(SLICES as u64) {
            window.free[slice] += 1;
            return true;
        }
        let earned = window.deposits.iter().sum::<u64>() * u64::from(self.rules.percent) / 100;
        let allowed = window.paid.iter().sum::<u64>() < earned;
        window.paid[slice] += u64::from(allowed);
        allowed
    }

    /// Free retries in so many slices, rounded down.
    fn free_in(&self, slices: u64) -> u64 {
        u64::from(self.rules.min_per_second) * self.rules.interval.as_millis() as u64 * slices / (1000 * SLICES as u64)
    }

    fn slice(&self, now: Instant) -> u64 {
        let millis = now.saturating_duration_since(self.start).as_millis() as u64;
        millis * SLICES as u64 / (self.rules.interval.as_millis() as u64).max(1)
    }
}

impl Window {
    /// Moves on to `slice`, forgetting what has left the interval; the index of the slice.
    fn turn(&mut self, slice: u64) -> usize {
        let passed = slice.saturating_sub(self.slice).min(SLICES as u64);
        for step in 1..=passed {
            let index = ((self.slice + step) % SLICES as u64) as usize;
            (self.deposits[index], self.paid[index], self.free[index]) = (0, 0, 0);
        }
        self.slice = self.slice.max(slice);
        (self.slice % SLICES as u64) as usize
    }
}
