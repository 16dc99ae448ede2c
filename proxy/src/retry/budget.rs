//! How many retries a destination may get: a share of the first tries of the last seconds, and a few a second on top. Shared
//! by all workers. It must never allow a retry that no first try has paid for beyond those few.

#[cfg(test)]
mod tests;

use std::time::Duration;
use std::time::Instant;

use leno_proto::policy;
use parking_lot::Mutex;

/// A windowed budget (Finagle's RetryBudget; GEP-3388): each first try pays for `percent` of a retry, once, within `interval`;
/// `min_per_second` retries a second need nobody to pay for them. The two do not add up: a slice of the interval grants what
/// its first tries pay for or what is free, whichever is more. So a failing backend receives at most 1.2 times what is asked
/// and what was saved before, which over a minute is less than ten a second (below 200 a second) or a twentieth (above).
#[derive(Debug)]
pub struct Budget {
    rules: policy::Budget,
    start: Instant,
    window: Mutex<Window>,
}

/// The interval in slices, so that what was saved is forgotten in steps of a tenth.
const SLICES: usize = 10;

/// One retry, in the unit in which first tries pay.
const RETRY: u64 = 100;

#[derive(Debug, Default)]
struct Window {
    /// The slice that `now` fell into last, counted since `start`.
    slice: u64,
    /// What the first tries of each slice have paid and no retry has used.
    saved: [u64; SLICES],
    /// Their sum.
    balance: u64,
    /// Retries made in this slice, whoever paid.
    made: u64,
    /// Free ones of each slice. Those of this slice come before its first tries have paid, who pay for them first.
    free: [u64; SLICES],
    owed: u64,
}

/// Never-processed retries have a budget of their own, whatever the policy says: the failure is the connection's, not the
/// service's.
const TRANSPORT: policy::Budget = policy::Budget { percent: 20, interval: Duration::from_secs(10), min_per_second: 10 };

impl Budget {
    pub fn of_policy(rules: &policy::Budget, now: Instant) -> Self {
        Self { rules: rules.clone(), start: now, window: Mutex::default() }
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
        let paid = u64::from(self.rules.percent);
        let left = paid.saturating_sub(window.owed);
        window.owed -= paid - left;
        window.saved[slice] += left;
        window.balance += left;
    }

    /// Takes one retry, if there is one. Free ones come evenly: a burst of them would be the storm that the budget is
    /// against.
    pub fn try_withdraw(&self, now: Instant) -> bool {
        self.withdraw(now, self.free_in(1).max(1))
    }

    /// The same for a request that met the end of an idle connection. As many do at one moment as connections idled, and
    /// no more than exchanges have ended well before: they may have the free retries of the whole interval at once.
    pub fn try_withdraw_for_race(&self, now: Instant) -> bool {
        self.withdraw(now, self.free_in(SLICES as u64))
    }

    fn withdraw(&self, now: Instant, at_once: u64) -> bool {
        let mut window = self.window.lock();
        let slice = window.turn(self.slice(now));
        let granted = window.spend() || self.advance(&mut window, slice, at_once);
        window.made += u64::from(granted);
        granted
    }

    /// A free retry.
    fn advance(&self, window: &mut Window, slice: usize, at_once: u64) -> bool {
        let all = window.free.iter().sum::<u64>();
        let granted = window.made < at_once && all < self.free_in(SLICES as u64);
        if granted {
            window.free[slice] += 1;
            window.owed += RETRY;
        }
        granted
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
            self.balance -= std::mem::take(&mut self.saved[index]);
            self.free[index] = 0;
            (self.made, self.owed) = (0, 0);
        }
        self.slice = self.slice.max(slice);
        (self.slice % SLICES as u64) as usize
    }

    /// Uses up one retry's worth of what was saved, the oldest first; each first try pays once.
    fn spend(&mut self) -> bool {
        if self.balance < RETRY {
            return false;
        }
        self.balance -= RETRY;
        let mut due = RETRY;
        for age in 1..=SLICES as u64 {
            let index = ((self.slice + age) % SLICES as u64) as usize;
            let part = due.min(self.saved[index]);
            self.saved[index] -= part;
            due -= part;
        }
        true
    }
}
