//! Keeps cores awake while something is measured. It must never take time that anybody else wants.
//!
//! A virtual core that has nothing to do goes back to its host, and the next wake-up waits until the host runs it again: ten
//! microseconds, or milliseconds where the host is busy. That is in every latency, and says nothing about who is measured.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread::JoinHandle;

use anyhow::Context;

use crate::bench::counters;

/// Threads that want nothing but their core; they end when this is dropped.
pub struct Awake {
    end: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Awake {
    /// # Errors
    /// A thread cannot be bound to its core, or cannot be given the lowest priority.
    pub fn start(cores: &[usize]) -> anyhow::Result<Self> {
        let mut awake = Self { end: Arc::default(), threads: Vec::new() };
        for core in cores.iter().copied() {
            let (end, (settled, ready)) = (awake.end.clone(), mpsc::channel());
            awake.threads.push(std::thread::spawn(move || {
                let done = counters::move_here_to(core).and_then(|()| counters::give_way_here());
                let well = done.is_ok();
                if settled.send(done).is_ok() && well {
                    spin(&end);
                }
            }));
            ready.recv().context("a thread that keeps a core awake ended")??;
        }
        Ok(awake)
    }
}

fn spin(end: &AtomicBool) {
    while !end.load(Ordering::Relaxed) {
        for _ in 0..PAUSES {
            std::hint::spin_loop();
        }
        // Lowest priority is not enough: who has had more than his share a moment ago, and is runnable, waits until the slice
        // of whoever has had less is over, of whatever priority (EEVDF). A slice is up to a tick, which is 4 ms here.
        std::thread::yield_now();
    }
}

/// Between two looks at who else wants the core: about a microsecond.
const PAUSES: usize = 100;

impl Drop for Awake {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // One that panicked has ended too.
            let _ = thread.join();
        }
    }
}
