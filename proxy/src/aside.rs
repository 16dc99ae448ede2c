//! Work that no request waits for is done in pieces: after each the processor is whoever's wants it. It must never be called
//! with a lock held that a worker takes, nor by a worker.

use std::cell::Cell;
use std::time::Duration;
use std::time::Instant;

/// Called between the parts of a long piece of work, however short each of them is: whoever waits for the processor has it
/// first. A lower priority alone does not do that: the kernel lets a thread that runs go on for a slice of milliseconds (EEVDF)
/// before it heeds a worker that wakes, and a request would wait so in both sidecars of its way.
pub fn step_aside() {
    thread_local!(static BEGUN: Cell<Option<Instant>> = const { Cell::new(None) });
    let now = Instant::now();
    if is_full(BEGUN.get(), now) {
        std::thread::yield_now();
        // Not `now`: somebody else may have run meanwhile.
        BEGUN.set(Some(Instant::now()));
    }
}

/// What was done before the first call, nobody measured.
fn is_full(begun: Option<Instant>, now: Instant) -> bool {
    begun.is_none_or(|begun| now.saturating_duration_since(begun) >= PIECE)
}

/// Most parts are longer. What is shorter is put together, for to give way is a system call. Longer pieces were heeded less by
/// the kernel (6.18): a thread that has had more than its share and not yet its slice keeps the processor all the same.
const PIECE: Duration = Duration::from_micros(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_ends_after_its_time_and_before_unmeasured_work() {
        let begun = Instant::now();
        assert!(is_full(None, begun));
        assert!(!is_full(Some(begun), begun));
        assert!(!is_full(Some(begun), begun + PIECE - Duration::from_nanos(1)));
        assert!(is_full(Some(begun), begun + PIECE));
        // A clock that steps back ends nothing.
        assert!(!is_full(Some(begun + PIECE), begun));
    }
}
