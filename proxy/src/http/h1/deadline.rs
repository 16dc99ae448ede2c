//! One timer for all that a connection waits for. It must never be moved in the timer wheel for each byte or request: a later
//! deadline only moves once the earlier one has fired.

use std::future::Future;
use std::pin::Pin;
use std::task::Context;
use std::time::Duration;

use tokio::time::Instant;
use tokio::time::Sleep;

#[derive(Default)]
pub(super) struct Deadline {
    due: Option<Due>,
    sleep: Option<Pin<Box<Sleep>>>,
}

/// Most are set and cleared before anything has to wait: those cost no look at the clock.
#[derive(Clone, Copy)]
enum Due {
    /// From the first poll.
    After(Duration),
    At(Instant),
    /// Further away than clocks go.
    Never,
}

impl Deadline {
    pub(super) fn set(&mut self, after: Duration) {
        self.due = Some(Due::After(after));
    }

    pub(super) fn clear(&mut self) {
        self.due = None;
    }

    pub(super) fn is_set(&self) -> bool {
        self.due.is_some()
    }

    /// Whether it has passed; otherwise the task is woken when it does.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> bool {
        let at = match self.due {
            None | Some(Due::Never) => return false,
            Some(Due::At(at)) => at,
            Some(Due::After(after)) => {
                let at = Instant::now().checked_add(after);
                self.due = Some(at.map_or(Due::Never, Due::At));
                let Some(at) = at else { return false };
                at
            }
        };
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        if sleep.deadline() > at {
            sleep.as_mut().reset(at);
        }
        while sleep.as_mut().poll(cx).is_ready() {
            if sleep.deadline() >= at {
                return true;
            }
            sleep.as_mut().reset(at);
        }
        false
    }
}
