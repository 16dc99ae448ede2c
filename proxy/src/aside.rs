//! Work that no request waits for is done in pieces: after each the processor is whoever's wants it. It must never be called
//! with a lock held that a worker takes, nor by a worker.

use std::cell::Cell;
use std::time::Duration;
use std::time::Instant;

/// Called between the parts of a long piece of work, however short each of them is: whoever waits for the processor has it
/// first. A lower priority alone does not do that: the kernel lets a thread that runs go on for a slice of milliseconds (EEVDF)
/// before it heeds a worker that wakes, and a request would wait so in both sidecars of its way.
pub fn step_aside() {
    thread_local!(static END: Cell<Option<Instant>> = const { Cell::new(None) });
    let now = Instant::now();
    // What was done before the first call, nobody measured.
    if END.get().is_none_or(|end| now >= end) {
        std::thread::yield_now();
        let back = Instant::now();
        END.set(Some(back + piece(back.saturating_duration_since(now))));
    }
}

/// How long to work on after having waited so long. Where others always want the processor, each time takes a slice of theirs
/// (milliseconds): a quarter of it in return, which is what a lower priority leaves, or a change would not be in force for
/// seconds.
fn piece(waited: Duration) -> Duration {
    (waited / 4).max(PIECE)
}

/// Most parts are longer. What is shorter is put together, for to give way is a system call. Longer pieces were heeded less by
/// the kernel (6.18): a thread that has had more than its share and not yet its slice keeps the processor all the same.
const PIECE: Duration = Duration::from_micros(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_waited_long_may_work_for_a_quarter_of_it() {
        for (waited, may_work) in [(0, 5), (1, 5), (20, 5), (60, 15), (8_000, 2_000)] {
            assert_eq!(piece(Duration::from_micros(waited)), Duration::from_micros(may_work), "{waited} us");
        }
    }
}
