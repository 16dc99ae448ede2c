//! What a bucket admits.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;

fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

#[test]
fn a_burst_passes_and_then_the_rate() {
    let start = Instant::now();
    let bucket = TokenBucket::new(10, 5, start);
    let admitted = |at: Instant| (0..100).filter(|_| bucket.take(at).is_ok()).count();
    assert_eq!(admitted(start), 5);
    assert_eq!(admitted(start + millis(99)), 0);
    assert_eq!(admitted(start + millis(100)), 1);
    assert_eq!(admitted(start + millis(1_000)), 5, "an idle bucket fills up to its burst and no further");
}

#[test]
fn a_refusal_says_when_to_come_back() {
    let start = Instant::now();
    let bucket = TokenBucket::new(10, 1, start);
    assert!(bucket.take(start).is_ok());
    let wait = bucket.take(start).unwrap_err();
    assert_eq!(wait, millis(100));
    assert!(bucket.take(start + wait).is_ok());
}

#[test]
fn a_queue_spaces_its_waiters_and_ends_at_its_bound() {
    let start = Instant::now();
    let bucket = TokenBucket::new(10, 1, start);
    let waits: Vec<_> = (0..7).map(|_| bucket.reserve(start, millis(500))).collect();
    let expected: Vec<_> = (0..6).map(|n| Ok(millis(100 * n))).chain([Err(millis(600))]).collect();
    assert_eq!(waits, expected);
}

#[test]
fn threads_together_get_no_more_than_the_burst() {
    let start = Instant::now();
    let bucket = Arc::new(TokenBucket::new(1, 1000, start));
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let bucket = bucket.clone();
            std::thread::spawn(move || (0..1000).filter(|_| bucket.take(start).is_ok()).count())
        })
        .collect();
    assert_eq!(threads.into_iter().map(|t| t.join().unwrap()).sum::<usize>(), 1000);
}

proptest! {
    #[test]
    fn never_more_than_rate_times_time_plus_burst(rate in 1u32..1000, burst in 1u32..100, gaps in proptest::collection::vec(0u64..50, 1..300)) {
        let start = Instant::now();
        let bucket = TokenBucket::new(rate, burst, start);
        let (mut now, mut admitted) = (start, 0u64);
        for gap in gaps {
            now += millis(gap);
            admitted += u64::from(bucket.take(now).is_ok());
        }
        let most = u64::from(rate) as f64 * (now - start).as_secs_f64() + f64::from(burst) + 1.0;
        prop_assert!(admitted as f64 <= most, "{admitted} > {most}");
    }
}
