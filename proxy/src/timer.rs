//! One coarse timer wheel per worker: most timeouts are set and dropped without ever ringing, so setting and dropping is
//! cheap and ringing is to 10 ms. It must never ring early, nor wake its worker while nothing is set.

mod wheel;

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::pin::pin;
use std::rc::Rc;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;
use std::time::Duration;

use tokio::time::Instant;

use crate::panics::vital;
use crate::timer::wheel::Key;
use crate::timer::wheel::Wheel;

const TICK: Duration = Duration::from_millis(10);

/// A worker's timers: a handle on the wheel that one local task turns.
#[derive(Clone)]
pub struct Timers(Rc<Handle>);

struct Handle(Rc<RefCell<Shared>>);

struct Shared {
    wheel: Wheel,
    origin: Instant,
    /// The tick at which the driver wakes by itself.
    armed: u64,
    driver: Option<Waker>,
    stopped: bool,
}

/// Ready once its deadline has passed, and from then on. Dropping it takes it off the wheel.
pub struct Sleep {
    shared: Rc<RefCell<Shared>>,
    key: Key,
}

impl Timers {
    /// On the worker's `LocalSet`, where the driver runs until the last handle is dropped.
    #[expect(clippy::new_without_default, reason = "it spawns")]
    pub fn new() -> Self {
        let shared = Rc::new(RefCell::new(Shared {
            wheel: Wheel::new(),
            origin: Instant::now(),
            armed: u64::MAX,
            driver: None,
            stopped: false,
        }));
        tokio::task::spawn_local(vital("a worker's timers", drive(Rc::clone(&shared))));
        Self(Rc::new(Handle(shared)))
    }

    pub fn sleep(&self, after: Duration) -> Sleep {
        self.sleep_until(Instant::now() + after)
    }

    pub fn sleep_until(&self, deadline: Instant) -> Sleep {
        let mut shared = self.0.0.borrow_mut();
        if shared.wheel.is_empty() {
            let now = shared.tick(Instant::now());
            shared.wheel.skip_to(now);
        }
        let key = shared.insert(deadline);
        Sleep { shared: Rc::clone(&self.0.0), key }
    }

    pub fn is_borrowed(&self) -> bool {
        self.0.0.try_borrow().is_err()
    }

    /// What the future gives, or `None` when it takes longer, from when it first has to wait.
    pub fn timeout<F: Future>(&self, after: Duration, future: F) -> impl Future<Output = Option<F::Output>> {
        timed(move || self.sleep(after), future)
    }

    pub fn timeout_at<F: Future>(&self, deadline: Instant, future: F) -> impl Future<Output = Option<F::Output>> {
        timed(move || self.sleep_until(deadline), future)
    }
}

/// What is ready at once costs no timer, and no look at the clock.
async fn timed<F: Future>(set: impl Fn() -> Sleep, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut sleep = None;
    poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        sleep.get_or_insert_with(&set).poll_elapsed(cx).map(|()| None)
    })
    .await
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut shared = self.0.borrow_mut();
        shared.stopped = true;
        shared.wake_driver();
    }
}

impl Shared {
    /// The last tick that has begun.
    fn tick(&self, now: Instant) -> u64 {
        (now.duration_since(self.origin).as_nanos() / TICK.as_nanos()) as u64
    }

    fn insert(&mut self, deadline: Instant) -> Key {
        let tick = deadline.duration_since(self.origin).as_nanos().div_ceil(TICK.as_nanos()) as u64;
        let (key, tick) = self.wheel.insert(tick);
        if tick < self.armed {
            self.wake_driver();
        }
        key
    }

    fn wake_driver(&mut self) {
        if let Some(driver) = self.driver.take() {
            driver.wake();
        }
    }
}

/// Turns the wheel: sleeps to its next tick that may ring, not at all when nothing is set.
async fn drive(shared: Rc<RefCell<Shared>>) {
    let mut sleep = pin!(tokio::time::sleep(Duration::ZERO));
    let mut rung = Vec::new();
    poll_fn(|cx| {
        let mut guard = shared.borrow_mut();
        let now = guard.tick(Instant::now());
        guard.wheel.turn_to(now, &mut rung);
        for waker in rung.drain(..) {
            waker.wake();
        }
        if guard.stopped {
            return Poll::Ready(());
        }
        guard.driver = Some(cx.waker().clone());
        match guard.wheel.next() {
            None => guard.armed = u64::MAX,
            Some(tick) => {
                guard.armed = tick;
                let at = guard.origin + Duration::from_millis(tick * TICK.as_millis() as u64);
                sleep.as_mut().reset(at);
                if sleep.as_mut().poll(cx).is_ready() {
                    cx.waker().wake_by_ref();
                }
            }
        }
        Poll::Pending
    })
    .await;
}

impl Sleep {
    pub fn poll_elapsed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.shared.borrow_mut().wheel.poll(self.key, cx.waker())
    }

    /// Begins anew.
    pub fn reset(&mut self, deadline: Instant) {
        let mut shared = self.shared.borrow_mut();
        shared.wheel.remove(self.key);
        self.key = shared.insert(deadline);
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.get_mut().poll_elapsed(cx)
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.shared.borrow_mut().wheel.remove(self.key);
    }
}

#[cfg(test)]
mod tests;
