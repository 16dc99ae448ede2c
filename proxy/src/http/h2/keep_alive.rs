//! Pings that tell a silent peer from a gone one. It must never call a peer gone that has answered in time.

use std::task::Context;
use std::task::Poll;

use ::h2::Ping;
use ::h2::PingPong;

use crate::http::h2::KeepAlive;
use crate::timer::Sleep;
use crate::timer::Timers;

pub(super) struct Pings {
    pings: PingPong,
    every: KeepAlive,
    timers: Timers,
    sleep: Sleep,
    /// A ping is on its way: `sleep` is its deadline.
    asked: bool,
}

impl Pings {
    pub(super) fn new(pings: Option<PingPong>, every: Option<KeepAlive>, timers: &Timers) -> Option<Self> {
        let (pings, every) = (pings?, every?);
        Some(Self { pings, every, timers: timers.clone(), sleep: timers.sleep(every.interval), asked: false })
    }

    /// Ready when the peer is gone.
    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.asked {
                match self.pings.poll_pong(cx) {
                    Poll::Ready(Ok(_)) => self.wait(false),
                    // The connection has ended; it says so itself.
                    Poll::Ready(Err(_)) => return Poll::Pending,
                    Poll::Pending => {
                        return self.sleep.poll_elapsed(cx);
                    }
                }
            } else {
                if self.sleep.poll_elapsed(cx).is_pending() {
                    return Poll::Pending;
                }
                if self.pings.send_ping(Ping::opaque()).is_err() {
                    return Poll::Pending;
                }
                self.wait(true);
            }
        }
    }

    fn wait(&mut self, asked: bool) {
        self.asked = asked;
        self.sleep = self.timers.sleep(if asked { self.every.timeout } else { self.every.interval });
    }
}
