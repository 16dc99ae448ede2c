//! How long a server lets a connection idle, learned from what it says and from when it closes. A pool that knows it does not
//! use a connection that the server is about to close, and so ends the keep-alive 503. It must never keep a limit for ever: a
//! server may have been configured anew.

#[cfg(test)]
mod tests;

use std::time::Duration;
use std::time::Instant;

use parking_lot::Mutex;

/// Of one endpoint, shared by all workers.
#[derive(Debug, Default)]
pub struct IdleLimit(Mutex<Learned>);

#[derive(Debug, Default)]
struct Learned {
    /// The shortest of late.
    limit: Option<Seen>,
    /// A close so soon that it may have had another cause.
    doubtful: Option<Seen>,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    idle: Duration,
    /// From us to the server and back.
    round_trip: Duration,
    at: Instant,
}

impl IdleLimit {
    /// The server closed a connection that nobody had used for `idle`. One close before `SURE` proves little, the server may
    /// have gone away: it takes two alike, at different times.
    pub fn closed(&self, idle: Duration, round_trip: Duration, now: Instant) {
        let seen = Seen { idle, round_trip, at: now };
        let mut learned = self.0.lock();
        if idle < SURE {
            let before = learned.doubtful.replace(seen);
            if !before.is_some_and(|before| before.is_fresh(now) && before.confirms(&seen)) {
                return;
            }
        }
        learned.shorten(seen, now);
    }

    /// The server said so (`Keep-Alive: timeout=5`), in whole seconds: 0 is any part of one.
    pub fn said(&self, idle: Duration, round_trip: Duration, now: Instant) {
        let idle = if idle.is_zero() { PART_OF_SECOND } else { idle };
        self.0.lock().shorten(Seen { idle, round_trip, at: now }, now);
    }

    /// How long a connection may be idle and still be used: the policy's time, or four fifths of what the server allows, less
    /// the way there and back. A request sent then arrives before the server gives up.
    pub fn usable_for(&self, policy: Duration, now: Instant) -> Duration {
        let limit = self.0.lock().limit.filter(|limit| limit.is_fresh(now));
        limit.map_or(policy, |limit| policy.min((limit.idle * 4 / 5).saturating_sub(limit.round_trip)))
    }
}

impl Learned {
    fn shorten(&mut self, seen: Seen, now: Instant) {
        if self.limit.is_none_or(|known| seen.idle <= known.idle || !known.is_fresh(now)) {
            self.limit = Some(seen);
        }
    }
}

impl Seen {
    fn is_fresh(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) < REMEMBERED
    }

    /// Not the same event, and the same limit.
    fn confirms(&self, other: &Self) -> bool {
        let apart = other.at.saturating_duration_since(self.at);
        apart >= APART && self.idle.abs_diff(other.idle) <= self.idle.max(other.idle) / 4
    }
}

/// Few servers wait less on purpose.
const SURE: Duration = Duration::from_millis(500);
/// What a server that rounds its limit down to nothing is taken to mean.
const PART_OF_SECOND: Duration = Duration::from_millis(100);
/// Connections that close within this are closed by one event.
const APART: Duration = Duration::from_millis(50);
/// After that the next close teaches anew.
const REMEMBERED: Duration = Duration::from_secs(600);
