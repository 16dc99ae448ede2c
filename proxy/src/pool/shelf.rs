//! The idle connections to one endpoint, and who waits for one. Pure: the clock is an argument. It must never offer a
//! connection past its lifetime or idle limit, nor pass over a waiter.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::Duration;
use std::time::Instant;

use tokio::sync::oneshot;

use crate::metrics::Close;

/// One connection with what it has lived through.
pub struct Kept<C> {
    pub connection: C,
    pub born: Instant,
    /// Jittered, so that connections opened together do not end together.
    pub dies: Option<Instant>,
    pub requests: u32,
    /// Since when nobody uses it.
    pub since: Instant,
}

/// Last in, first out: the warm ones stay warm and the rest age out.
pub struct Shelf<C> {
    idle: Vec<Kept<C>>,
    waiting: VecDeque<oneshot::Sender<Kept<C>>>,
}

/// Taken off the shelf for good, and why.
pub type Closed<C> = (Kept<C>, Close);

impl<C> Default for Shelf<C> {
    fn default() -> Self {
        Self { idle: Vec::new(), waiting: VecDeque::new() }
    }
}

impl<C> Shelf<C> {
    /// The most recently used connection that is still good, and those that turned out not to be.
    pub fn take(
        &mut self,
        now: Instant,
        idle_limit: Duration,
        mut is_quiet: impl FnMut(&mut Kept<C>) -> bool,
    ) -> (Option<Kept<C>>, Vec<Closed<C>>) {
        let mut closed = Vec::new();
        while let Some(mut kept) = self.idle.pop() {
            if !is_quiet(&mut kept) {
                closed.push((kept, Close::Peer));
            } else if let Some(why) = kept.expired(now, idle_limit) {
                closed.push((kept, why));
            } else {
                return (Some(kept), closed);
            }
        }
        (None, closed)
    }

    /// The most recently used connection, if it is so; otherwise it stays.
    pub fn take_newest_if(&mut self, is_so: impl FnOnce(&Kept<C>) -> bool) -> Option<Kept<C>> {
        self.idle.pop_if(|newest| is_so(newest))
    }

    /// Gives a connection to the longest waiter, else keeps it.
    pub fn put(&mut self, mut kept: Kept<C>) {
        while let Some(waiter) = self.waiting.pop_front() {
            match waiter.send(kept) {
                Ok(()) => return,
                Err(back) => kept = back,
            }
        }
        self.idle.push(kept);
    }

    /// A place in the line for the next connection that comes back.
    pub fn wait(&mut self) -> oneshot::Receiver<Kept<C>> {
        self.waiting.retain(|waiter| !waiter.is_closed());
        let (sender, receiver) = oneshot::channel();
        self.waiting.push_back(sender);
        receiver
    }

    /// Those that were closed, idled or lived too long.
    pub fn sweep(
        &mut self,
        now: Instant,
        idle_limit: Duration,
        mut is_quiet: impl FnMut(&mut C) -> bool,
    ) -> Vec<Closed<C>> {
        let (mut kept, mut closed) = (Vec::with_capacity(self.idle.len()), Vec::new());
        for mut item in self.idle.drain(..) {
            let peer = (!is_quiet(&mut item.connection)).then_some(Close::Peer);
            match peer.or_else(|| item.expired(now, idle_limit)) {
                Some(why) => closed.push((item, why)),
                None => kept.push(item),
            }
        }
        self.idle = kept;
        closed
    }

    /// The one that has idled longest, for somebody who needs its permit more.
    pub fn give_up(&mut self) -> Option<Kept<C>> {
        (!self.idle.is_empty()).then(|| self.idle.remove(0))
    }

    pub fn clear(&mut self) -> Vec<Kept<C>> {
        std::mem::take(&mut self.idle)
    }

    pub fn any(&self, holds: impl Fn(&C) -> bool) -> bool {
        self.idle.iter().any(|kept| holds(&kept.connection))
    }

    pub fn idle(&self) -> usize {
        self.idle.len()
    }

    pub fn waiting(&self) -> usize {
        self.waiting.iter().filter(|waiter| !waiter.is_closed()).count()
    }
}

/// How long the server was seen to let a connection idle. Closes of different ages at one time show no limit: the server did
/// not wait any longer, it went away.
pub fn limit_shown<C>(closed: &[Closed<C>], now: Instant) -> Option<Duration> {
    let ages = || closed.iter().filter(|(_, why)| *why == Close::Peer).map(|(kept, _)| kept.idle(now));
    let (least, most) = (ages().min()?, ages().max()?);
    (most - least <= most / 4).then_some(least)
}

impl<C> Kept<C> {
    pub fn new(connection: C, now: Instant, lifetime: Option<Duration>) -> Self {
        Self { connection, born: now, dies: lifetime.map(|lifetime| now + lifetime), requests: 0, since: now }
    }

    /// Since when nobody uses it.
    pub fn idle(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
    }

    fn expired(&self, now: Instant, idle_limit: Duration) -> Option<Close> {
        if self.dies.is_some_and(|dies| now >= dies) {
            return Some(Close::Lifetime);
        }
        (self.idle(now) >= idle_limit).then_some(Close::Idle)
    }

    /// Whether it may carry another request, as far as its age and its count say.
    pub fn is_spent(&self, now: Instant, requests_max: Option<u32>) -> bool {
        self.dies.is_some_and(|dies| now >= dies) || requests_max.is_some_and(|most| self.requests >= most)
    }
}

/// A lifetime between 75 % and 100 % of `most`. `dice` is uniform in 0.0..1.0.
pub fn jittered(most: Duration, dice: f64) -> Duration {
    most.mul_f64(0.75 + 0.25 * dice.clamp(0.0, 1.0))
}
