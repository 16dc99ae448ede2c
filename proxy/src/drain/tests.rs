//! Phases and their times.

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

#[test]
fn times_follow_from_the_grace_period() {
    assert_eq!(Times::from_grace(seconds(30)), Times { draining: seconds(5), forced: seconds(28) });
    assert_eq!(Times::from_grace(seconds(10)), Times { draining: Duration::from_millis(2500), forced: seconds(9) });
    assert_eq!(Times::from_grace(Duration::ZERO), Times { draining: Duration::ZERO, forced: Duration::ZERO });
    let long = Times::from_grace(seconds(3600));
    assert_eq!(long, Times { draining: seconds(5), forced: seconds(3598) });
}

#[test]
fn notices_are_spread_over_half_of_the_draining_phase() {
    let times = Times::from_grace(seconds(30));
    let mut rng = StdRng::seed_from_u64(5);
    let notices: Vec<Duration> = (0..1000).map(|_| times.notice(&mut rng)).collect();
    let half = (times.forced - times.draining) / 2;
    assert!(notices.iter().all(|n| *n <= half));
    assert!(notices.iter().filter(|n| **n < half / 2).count().abs_diff(500) < 100);
}

#[tokio::test(start_paused = true)]
async fn phases_come_in_order_and_at_their_times() {
    let (drain, mut watch) = channel();
    assert_eq!(watch.phase(), Phase::Serving);
    let start = Instant::now();
    let run = drain.run(Times::from_grace(seconds(30)), || false);
    let observe = async {
        let mut seen = Vec::new();
        for phase in [Phase::LameDuck, Phase::Draining, Phase::Forced] {
            watch.reached(phase).await;
            seen.push(start.elapsed().as_secs());
        }
        seen
    };
    let ((), seen) = tokio::join!(run, observe);
    assert_eq!(seen, [0, 5, 28]);
}

#[tokio::test(start_paused = true)]
async fn the_end_comes_early_where_nothing_is_left() {
    // Open connections at each look from the fifth second on, ten looks a second, and when it ends (in tenths).
    let cases: [(&[(u64, usize)], u64); 4] = [
        (&[(0, 0)], 60),
        (&[(0, 2), (70, 0)], 80),
        // One that comes meanwhile begins the wait anew.
        (&[(0, 0), (55, 1), (60, 0)], 70),
        (&[(0, 1)], 280),
    ];
    for (open, expected) in cases {
        let (drain, _watch) = channel();
        let start = Instant::now();
        let tenths = || (start.elapsed().as_millis() / 100) as u64;
        let is_quiet = || open.iter().rfind(|(from, _)| *from <= tenths()).is_some_and(|(_, open)| *open == 0);
        drain.run(Times::from_grace(seconds(30)), is_quiet).await;
        assert_eq!((tenths(), drain.phase()), (expected, Phase::Forced), "{open:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_leaves_waits_for_the_peers_to_hang_up_but_not_long() {
    // When the last connection closes, and when it ends, in milliseconds.
    for (closes, expected) in [(0, 0), (25, 30), (995, 1000), (60_000, 1000)] {
        let (drain, watch) = channel();
        let start = Instant::now();
        let millis = || start.elapsed().as_millis() as u64;
        let is_empty = || {
            assert_eq!(watch.phase(), Phase::Leaving);
            millis() >= closes
        };
        drain.leave(is_empty).await;
        assert_eq!((millis(), drain.phase()), (expected, Phase::Forced));
    }
}

#[tokio::test]
async fn a_phase_never_goes_back() {
    let (drain, watch) = channel();
    drain.enter(Phase::Draining);
    drain.enter(Phase::LameDuck);
    assert_eq!(watch.phase(), Phase::Draining);
}

#[tokio::test]
async fn who_waits_does_not_wait_for_ever_when_the_proxy_is_gone() {
    let (drain, mut watch) = channel();
    drop(drain);
    watch.reached(Phase::Forced).await;
}
