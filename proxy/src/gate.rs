//! An exact limit that all workers share: so many permits, and a bounded queue, first come first served, when they are out.
//! It must never hand out more permits than its limit, lose one to a cancelled waiter, or let a newcomer pass the queue.

mod sync;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;

use crate::gate::sync::AtomicU32;
use crate::gate::sync::AtomicU64;
use crate::gate::sync::Mutex;
use crate::gate::sync::Ordering;

/// How many permits are out and how many wait stand in one word, so that taking and giving back are one exchange while
/// nobody waits. Waiters change only under the queue's lock; a release that sees one takes the lock and hands its permit to
/// the head, so that it never lies free for a newcomer.
pub struct Gate {
    word: AtomicU64,
    limit: AtomicU32,
    queue: Mutex<Queue>,
    reclaim: Option<Reclaim>,
}

/// Called, outside any lock, each time somebody begins to wait: whoever holds a permit that it does not use (an idle
/// connection) should give one back. It must not block.
pub type Reclaim = Box<dyn Fn() + Send + Sync>;

/// Why the gate did not even let one wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    QueueFull,
    /// Only from `acquire_until`.
    Timeout,
}

/// One of the gate's permits; dropping it gives it back, from any thread.
pub struct Permit {
    gate: Arc<Gate>,
}

impl Gate {
    /// A limit of 0 is a gate that lets nobody in until it is raised.
    pub fn new(limit: u32) -> Arc<Self> {
        Arc::new(Self::build(limit, None))
    }

    pub fn with_reclaim(limit: u32, reclaim: Reclaim) -> Arc<Self> {
        Arc::new(Self::build(limit, Some(reclaim)))
    }

    fn build(limit: u32, reclaim: Option<Reclaim>) -> Self {
        Self { word: AtomicU64::new(0), limit: AtomicU32::new(limit), queue: Mutex::new(Queue::new()), reclaim }
    }

    /// A permit now, or nothing: never waits, never passes those who do.
    pub fn try_acquire(self: &Arc<Self>) -> Option<Permit> {
        self.take_free().then(|| Permit { gate: Arc::clone(self) })
    }

    /// A permit, in the order of arrival. At most `waiters_max` may wait at once. Dropping the future leaves the queue, or
    /// passes on a permit that had just been granted.
    pub fn acquire(self: &Arc<Self>, waiters_max: u32) -> Acquire {
        Acquire { gate: Arc::clone(self), waiters_max, ticket: None }
    }

    /// `acquire` that gives up at `deadline`. The clock is the runtime's, so that tests can hold it.
    pub async fn acquire_until(
        self: &Arc<Self>,
        waiters_max: u32,
        deadline: std::time::Instant,
    ) -> Result<Permit, Refused> {
        if let Some(permit) = self.try_acquire() {
            return Ok(permit);
        }
        match tokio::time::timeout_at(deadline.into(), self.acquire(waiters_max)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Refused::Timeout),
        }
    }

    pub fn in_use(&self) -> u32 {
        Word::unpack(self.word.load(Ordering::Relaxed)).in_use
    }

    pub fn waiters(&self) -> u32 {
        Word::unpack(self.word.load(Ordering::Relaxed)).waiters
    }

    pub fn limit(&self) -> u32 {
        self.limit.load(Ordering::Relaxed)
    }

    /// Raising it serves waiters at once; lowering it takes effect as permits come back.
    pub fn resize(&self, limit: u32) {
        let mut woken = Vec::new();
        {
            let mut queue = self.queue.lock();
            // Under the lock, so that who queues has seen the new limit or is seen here.
            self.limit.store(limit, Ordering::SeqCst);
            while self.grant_free(limit) {
                woken.push(queue.grant_head());
            }
        }
        for waker in woken.into_iter().flatten() {
            waker.wake();
        }
    }

    /// Takes a permit if one is free and nobody waits.
    fn take_free(&self) -> bool {
        let mut seen = self.word.load(Ordering::Acquire);
        loop {
            let word = Word::unpack(seen);
            if word.waiters > 0 || word.in_use >= self.limit.load(Ordering::SeqCst) {
                return false;
            }
            let next = Word { in_use: word.in_use + 1, waiters: 0 }.pack();
            match self.word.compare_exchange_weak(seen, next, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return true,
                Err(now) => seen = now,
            }
        }
    }

    /// Under the lock: moves one waiter to a free permit, if there are both.
    fn grant_free(&self, limit: u32) -> bool {
        let mut seen = self.word.load(Ordering::Acquire);
        loop {
            let word = Word::unpack(seen);
            if word.waiters == 0 || word.in_use >= limit {
                return false;
            }
            let next = Word { in_use: word.in_use + 1, waiters: word.waiters - 1 }.pack();
            match self.word.compare_exchange(seen, next, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return true,
                Err(now) => seen = now,
            }
        }
    }

    /// Under the lock: a permit, a place in the queue, or neither.
    fn enqueue(&self, queue: &mut Queue, waiters_max: u32, waker: &Waker) -> Entry {
        let mut seen = self.word.load(Ordering::Acquire);
        loop {
            let word = Word::unpack(seen);
            let free = word.waiters == 0 && word.in_use < self.limit.load(Ordering::SeqCst);
            if !free && word.waiters >= waiters_max {
                return Entry::Refused;
            }
            let next = match free {
                true => Word { in_use: word.in_use + 1, waiters: 0 },
                false => Word { in_use: word.in_use, waiters: word.waiters + 1 },
            };
            match self.word.compare_exchange(seen, next.pack(), Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) if free => return Entry::Permit,
                Ok(_) => return Entry::Ticket(queue.push(waker.clone())),
                Err(now) => seen = now,
            }
        }
    }

    /// Gives a permit back: to the head of the queue if somebody waits and the limit still allows it.
    fn release(&self) {
        let mut seen = self.word.load(Ordering::Acquire);
        loop {
            let word = Word::unpack(seen);
            if word.waiters > 0 {
                return self.hand_over();
            }
            let next = Word { in_use: word.in_use - 1, waiters: 0 }.pack();
            match self.word.compare_exchange_weak(seen, next, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return,
                Err(now) => seen = now,
            }
        }
    }

    #[cold]
    fn hand_over(&self) {
        let waker = {
            let mut queue = self.queue.lock();
            let mut seen = self.word.load(Ordering::Acquire);
            loop {
                let word = Word::unpack(seen);
                // The last waiter may have left meanwhile, and a lowered limit wants the permit itself.
                let hand = word.waiters > 0 && word.in_use <= self.limit.load(Ordering::SeqCst);
                let next = match hand {
                    true => Word { in_use: word.in_use, waiters: word.waiters - 1 },
                    false => Word { in_use: word.in_use - 1, waiters: word.waiters },
                };
                match self.word.compare_exchange(seen, next.pack(), Ordering::AcqRel, Ordering::Acquire) {
                    Ok(_) if hand => break queue.grant_head(),
                    Ok(_) => break None,
                    Err(now) => seen = now,
                }
            }
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// A waiter leaves without having asked for its outcome again.
    fn abandon(&self, ticket: u32) {
        let granted = {
            let mut queue = self.queue.lock();
            let granted = queue.remove(ticket);
            if !granted {
                self.word.fetch_sub(Word { in_use: 0, waiters: 1 }.pack(), Ordering::AcqRel);
            }
            granted
        };
        if granted {
            self.release();
        }
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gate({} of {}, {} waiting)", self.in_use(), self.limit(), self.waiters())
    }
}

impl Permit {
    pub fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.gate.release();
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Permit({:?})", self.gate)
    }
}

/// A permit on its way.
pub struct Acquire {
    gate: Arc<Gate>,
    waiters_max: u32,
    /// The place in the queue, while there is one to give up.
    ticket: Option<u32>,
}

impl Future for Acquire {
    type Output = Result<Permit, Refused>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if let Some(ticket) = this.ticket {
            if !this.gate.queue.lock().poll(ticket, cx.waker()) {
                return Poll::Pending;
            }
            this.ticket = None;
            return Poll::Ready(Ok(Permit { gate: Arc::clone(&this.gate) }));
        }
        if let Some(permit) = this.gate.try_acquire() {
            return Poll::Ready(Ok(permit));
        }
        let entry = {
            let mut queue = this.gate.queue.lock();
            this.gate.enqueue(&mut queue, this.waiters_max, cx.waker())
        };
        match entry {
            Entry::Permit => Poll::Ready(Ok(Permit { gate: Arc::clone(&this.gate) })),
            Entry::Refused => Poll::Ready(Err(Refused::QueueFull)),
            Entry::Ticket(ticket) => {
                this.ticket = Some(ticket);
                if let Some(reclaim) = &this.gate.reclaim {
                    reclaim();
                }
                Poll::Pending
            }
        }
    }
}

impl Drop for Acquire {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.gate.abandon(ticket);
        }
    }
}

enum Entry {
    Permit,
    Ticket(u32),
    Refused,
}

#[derive(Clone, Copy)]
struct Word {
    in_use: u32,
    waiters: u32,
}

impl Word {
    fn pack(self) -> u64 {
        (u64::from(self.in_use) << 32) | u64::from(self.waiters)
    }

    fn unpack(word: u64) -> Self {
        Self { in_use: (word >> 32) as u32, waiters: word as u32 }
    }
}

/// The waiters as a doubly linked list in a slab, so that leaving from the middle costs the same as from the head. A granted
/// slot is out of the list and stays until its owner has seen it. Bounded by the callers' `waiters_max`.
struct Queue {
    slots: Vec<Slot>,
    free: Vec<u32>,
    head: u32,
    tail: u32,
}

struct Slot {
    /// `None`: granted.
    waker: Option<Waker>,
    previous: u32,
    next: u32,
}

impl Queue {
    fn new() -> Self {
        Self { slots: Vec::new(), free: Vec::new(), head: NIL, tail: NIL }
    }

    fn push(&mut self, waker: Waker) -> u32 {
        let slot = Slot { waker: Some(waker), previous: self.tail, next: NIL };
        let ticket = match self.free.pop() {
            Some(ticket) => {
                self.slots[ticket as usize] = slot;
                ticket
            }
            None => {
                self.slots.push(slot);
                (self.slots.len() - 1) as u32
            }
        };
        match self.tail {
            NIL => self.head = ticket,
            tail => self.slots[tail as usize].next = ticket,
        }
        self.tail = ticket;
        ticket
    }

    /// Takes the head out of the list and marks it; the caller wakes it after unlocking.
    fn grant_head(&mut self) -> Option<Waker> {
        let head = self.head;
        debug_assert_ne!(head, NIL, "the word counts the list's members, and both change under the lock");
        self.unlink(head);
        self.slots[head as usize].waker.take()
    }

    /// Whether the permit is there; if so the ticket is spent, else the waker is kept up to date.
    fn poll(&mut self, ticket: u32, waker: &Waker) -> bool {
        match &mut self.slots[ticket as usize].waker {
            Some(kept) => {
                kept.clone_from(waker);
                false
            }
            None => {
                self.free.push(ticket);
                true
            }
        }
    }

    /// Gives up a ticket; says whether it had been granted.
    fn remove(&mut self, ticket: u32) -> bool {
        let granted = self.slots[ticket as usize].waker.take().is_none();
        if !granted {
            self.unlink(ticket);
        }
        self.free.push(ticket);
        granted
    }

    fn unlink(&mut self, ticket: u32) {
        let Slot { previous, next, .. } = self.slots[ticket as usize];
        match previous {
            NIL => self.head = next,
            previous => self.slots[previous as usize].next = next,
        }
        match next {
            NIL => self.tail = previous,
            next => self.slots[next as usize].previous = previous,
        }
    }
}

const NIL: u32 = u32::MAX;

#[cfg(all(test, feature = "loom"))]
mod model;
#[cfg(all(test, not(feature = "loom")))]
mod tests;
