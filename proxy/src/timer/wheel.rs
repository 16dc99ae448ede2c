//! The wheel itself, without a clock: ticks are numbers. It must never lose a timer, nor ring one before its tick.

use std::task::Poll;
use std::task::Waker;

/// Five seconds of ticks; a timer that is further away passes its slot once a round.
const SLOTS: usize = 512;

pub(super) struct Wheel {
    slots: Vec<Vec<u32>>,
    /// Which slots are not empty.
    occupied: [u64; SLOTS / 64],
    timers: Vec<Timer>,
    free: Vec<u32>,
    /// Timers on the wheel, not yet rung.
    set: usize,
    /// The last tick that was turned to.
    now: u64,
}

struct Timer {
    tick: u64,
    /// Where in its slot.
    at: u32,
    rung: bool,
    waker: Option<Waker>,
}

/// A timer's name until it is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key(u32);

impl Wheel {
    pub(super) fn new() -> Self {
        Self {
            slots: (0..SLOTS).map(|_| Vec::new()).collect(),
            occupied: [0; SLOTS / 64],
            timers: Vec::new(),
            free: Vec::new(),
            set: 0,
            now: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.set == 0
    }

    /// Only while empty: what is between rings nobody.
    pub(super) fn skip_to(&mut self, now: u64) {
        if self.is_empty() {
            self.now = self.now.max(now);
        }
    }

    /// Sets a timer; one that is due already rings at the next tick. Gives the tick at which it will.
    pub(super) fn insert(&mut self, tick: u64) -> (Key, u64) {
        let tick = tick.max(self.now + 1);
        let slot = slot(tick);
        let timer = Timer { tick, at: self.slots[slot].len() as u32, rung: false, waker: None };
        let key = match self.free.pop() {
            Some(key) => {
                self.timers[key as usize] = timer;
                key
            }
            None => {
                self.timers.push(timer);
                (self.timers.len() - 1) as u32
            }
        };
        self.slots[slot].push(key);
        self.occupied[slot / 64] |= 1 << (slot % 64);
        self.set += 1;
        (Key(key), tick)
    }

    pub(super) fn remove(&mut self, key: Key) {
        let timer = &mut self.timers[key.0 as usize];
        timer.waker = None;
        if !timer.rung {
            let (tick, at) = (timer.tick, timer.at);
            self.take_off(slot(tick), at as usize);
        }
        self.free.push(key.0);
    }

    pub(super) fn poll(&mut self, key: Key, waker: &Waker) -> Poll<()> {
        let timer = &mut self.timers[key.0 as usize];
        if timer.rung {
            return Poll::Ready(());
        }
        match &mut timer.waker {
            Some(kept) => kept.clone_from(waker),
            None => timer.waker = Some(waker.clone()),
        }
        Poll::Pending
    }

    /// Rings what is due, and hands out whom to wake.
    pub(super) fn turn_to(&mut self, now: u64, wake: &mut Vec<Waker>) {
        if now <= self.now {
            return;
        }
        // After a long pause one round sees every slot.
        let first = (self.now + 1).max((now + 1).saturating_sub(SLOTS as u64));
        self.now = now;
        for tick in first..=now {
            let slot = slot(tick);
            let mut at = 0;
            while at < self.slots[slot].len() {
                let timer = &mut self.timers[self.slots[slot][at] as usize];
                if timer.tick > now {
                    at += 1;
                    continue;
                }
                timer.rung = true;
                wake.extend(timer.waker.take());
                self.take_off(slot, at);
            }
        }
    }

    /// The next tick at which a timer may ring: at or before the first that does.
    pub(super) fn next(&self) -> Option<u64> {
        if self.is_empty() {
            return None;
        }
        let start = slot(self.now + 1);
        // The word of the first slot comes twice: its upper bits first, its lower bits after a whole round.
        (0..=self.occupied.len()).find_map(|step| {
            let word = (start / 64 + step) % self.occupied.len();
            let mut bits = self.occupied[word];
            if step == 0 {
                bits &= u64::MAX << (start % 64);
            } else if step == self.occupied.len() {
                bits &= !(u64::MAX << (start % 64));
            }
            let found = (bits != 0).then(|| word * 64 + bits.trailing_zeros() as usize)?;
            Some(self.now + 1 + ((found + SLOTS - start) % SLOTS) as u64)
        })
    }

    fn take_off(&mut self, slot: usize, at: usize) {
        let keys = &mut self.slots[slot];
        keys.swap_remove(at);
        if let Some(moved) = keys.get(at) {
            self.timers[*moved as usize].at = at as u32;
        }
        if keys.is_empty() {
            self.occupied[slot / 64] &= !(1 << (slot % 64));
        }
        self.set -= 1;
    }
}

fn slot(tick: u64) -> usize {
    (tick % SLOTS as u64) as usize
}

#[cfg(test)]
mod tests;
