use super::*;

const POLICY: Duration = Duration::from_secs(300);
const NEAR: Duration = Duration::ZERO;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

#[test]
fn the_shortest_limit_seen_counts_with_a_margin_for_the_way() {
    let (limit, now) = (IdleLimit::default(), Instant::now());
    assert_eq!(limit.usable_for(POLICY, now), POLICY);
    limit.closed(ms(10_000), ms(100), now);
    assert_eq!(limit.usable_for(POLICY, now), ms(7_900));
    limit.closed(ms(60_000), NEAR, now);
    assert_eq!(limit.usable_for(POLICY, now), ms(7_900), "a longer one teaches nothing");
    limit.said(ms(5_000), NEAR, now);
    assert_eq!(limit.usable_for(POLICY, now), ms(4_000), "the server's own word counts at once");
    assert_eq!(limit.usable_for(ms(1_000), now), ms(1_000), "policy may be stricter");
    limit.said(NEAR, NEAR, now);
    assert_eq!(limit.usable_for(POLICY, now), ms(80), "less than a second");
}

#[test]
fn a_server_that_went_away_teaches_nothing_and_one_that_waits_shortly_is_believed_the_second_time() {
    let (limit, now) = (IdleLimit::default(), Instant::now());
    // A restart closes all at once, whatever their age.
    for idle in [20, 250, 240] {
        limit.closed(ms(idle), NEAR, now + ms(idle / 100));
    }
    assert_eq!(limit.usable_for(POLICY, now), POLICY);
    limit.closed(ms(60), NEAR, now + ms(1_000));
    assert_eq!(limit.usable_for(POLICY, now), POLICY, "not alike");
    limit.closed(ms(250), NEAR, now + ms(2_000));
    limit.closed(ms(260), NEAR, now + ms(3_000));
    assert_eq!(limit.usable_for(POLICY, now), ms(208));
}

#[test]
fn what_was_learned_is_forgotten() {
    let (limit, now) = (IdleLimit::default(), Instant::now());
    limit.closed(ms(5_000), NEAR, now);
    let later = now + Duration::from_secs(600);
    assert_eq!(limit.usable_for(POLICY, later - ms(1)), ms(4_000));
    assert_eq!(limit.usable_for(POLICY, later), POLICY);
    limit.closed(ms(40_000), NEAR, later);
    assert_eq!(limit.usable_for(POLICY, later), ms(32_000), "a longer one counts once the shorter is old");
}
