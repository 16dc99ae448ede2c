//! Shutdown in phases whose times follow from the pod's grace period: no knobs. Every connection watches the phase. It must
//! never go back a phase.

#[cfg(test)]
mod tests;

use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;
use std::time::Duration;

use rand::Rng;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio::time::sleep_until;

/// How far the proxy's end has come. The order is the order of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Serving,
    /// Not ready any more, and serving as before while the news travels to the clients.
    LameDuck,
    /// Requests under way finish; connections are told to go elsewhere, one after the other.
    Draining,
    /// The application has gone: whoever has not been told is told now.
    Leaving,
    /// What is left is cut.
    Forced,
}

/// When each phase begins, counted from the start of the drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    pub draining: Duration,
    pub forced: Duration,
}

/// EndpointSlices reach the other sidecars within this time.
const NEWS_TRAVELS: Duration = Duration::from_secs(5);

/// Kept free at the end: telemetry is flushed, and the kubelet's own clock is a little ahead of ours.
const RESERVE: Duration = Duration::from_secs(2);

/// Without any connection for so long, nobody is expected any more.
const QUIET: Duration = Duration::from_secs(1);
/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// What peers have for their way out once the application has gone: they hear of it, have their last answers, and hang up.
const LEAVE: Duration = Duration::from_secs(1);
/// How often it is looked at whether they have.
const LAST_LOOK: Duration = Duration::from_millis(10);

impl Times {
    /// Draining after 5 s, or a quarter of a shorter grace period; forced 2 s, or a tenth, before its end.
    pub fn from_grace(grace: Duration) -> Self {
        let forced = grace.saturating_sub(RESERVE.min(grace / 10));
        Self { draining: NEWS_TRAVELS.min(grace / 4), forced }
    }

    /// When one connection is told to go: spread over the first half of the draining phase, so that clients do not all
    /// come back at once elsewhere.
    pub fn notice(&self, rng: &mut impl Rng) -> Duration {
        let half = (self.forced.saturating_sub(self.draining)) / 2;
        half.mul_f64(rng.next_u32() as f64 / f64::from(u32::MAX))
    }
}

/// The one who may begin it.
#[derive(Debug)]
pub struct Drain {
    phase: watch::Sender<Phase>,
}

/// The ones who must notice. Clones are cheap.
#[derive(Debug, Clone)]
pub struct Watch(watch::Receiver<Phase>);

pub fn channel() -> (Drain, Watch) {
    let (phase, watch) = watch::channel(Phase::Serving);
    (Drain { phase }, Watch(watch))
}

impl Drain {
    /// Enters the phase; an earlier one than the present is ignored.
    pub fn enter(&self, phase: Phase) {
        self.phase.send_if_modified(|current| {
            let forward = phase > *current;
            *current = phase.max(*current);
            forward
        });
    }

    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    pub fn watch(&self) -> Watch {
        Watch(self.phase.subscribe())
    }

    /// Runs the phases to the last, which comes early where nothing is left to drain: where `is_quiet` stays true for a while.
    /// Dropped before, it leaves the phase where it is.
    pub async fn run(&self, times: Times, is_quiet: impl Fn() -> bool) {
        let start = Instant::now();
        self.enter(Phase::LameDuck);
        sleep_until(start + times.draining).await;
        self.enter(Phase::Draining);
        let end = start + times.forced;
        let mut quiet_since = None;
        while Instant::now() < end {
            let since = is_quiet().then(|| *quiet_since.get_or_insert_with(Instant::now));
            quiet_since = since;
            if since.is_some_and(|since| since.elapsed() >= QUIET) {
                break;
            }
            sleep_until(end.min(Instant::now() + LOOK)).await;
        }
        self.enter(Phase::Forced);
    }

    /// The last phases without the first: no request is left to wait for, but peers must hear that nothing more is served
    /// here, or what they send at this moment is lost without a proof that nobody has seen it.
    pub async fn leave(&self, is_empty: impl Fn() -> bool) {
        let end = Instant::now() + LEAVE;
        self.enter(Phase::Leaving);
        while Instant::now() < end && !is_empty() {
            sleep_until(end.min(Instant::now() + LAST_LOOK)).await;
        }
        self.enter(Phase::Forced);
    }
}

impl Watch {
    pub fn phase(&self) -> Phase {
        *self.0.borrow()
    }

    /// Returns once the phase is `phase` or a later one. Where the `Drain` is gone, the proxy ends: that is `Forced`.
    pub async fn reached(&mut self, phase: Phase) {
        let _ = self.0.wait_for(|current| *current >= phase).await;
    }

    /// The same, for those who ask again and again.
    pub fn when_reached(self, phase: Phase) -> Reached {
        let mut wait = self.clone();
        Reached { news: self.0, wait: Box::pin(async move { wait.reached(phase).await }), waker: None }
    }
}

/// Ready once a phase is reached. The channel is asked only where there is news, or somebody else to wake.
pub struct Reached {
    news: watch::Receiver<Phase>,
    wait: Pin<Box<dyn Future<Output = ()>>>,
    waker: Option<Waker>,
}

impl Future for Reached {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let known = self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
        if known && matches!(self.news.has_changed(), Ok(false)) {
            return Poll::Pending;
        }
        self.news.borrow_and_update();
        let polled = self.wait.as_mut().poll(cx);
        if polled.is_pending() && !known {
            self.waker = Some(cx.waker().clone());
        }
        polled
    }
}
