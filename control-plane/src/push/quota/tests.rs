use super::*;

fn pod(name: &str) -> Arc<str> {
    name.into()
}

const DAY: Duration = Duration::from_secs(24 * 3600);

#[test]
fn a_pod_that_asks_in_a_loop_is_refused_with_the_time_to_wait_and_nobody_else_is() {
    let (mut quota, now) = (Quota::new(DAY), Instant::now());
    for _ in 0..BURST {
        assert_eq!(quota.take(&pod("loop"), now), Ok(()));
    }
    assert_eq!(quota.take(&pod("loop"), now), Err(PERIOD_MAX));
    assert_eq!(quota.take(&pod("other"), now), Ok(()));
    let soon = now + Duration::from_secs(20);
    assert_eq!(quota.take(&pod("loop"), soon), Err(Duration::from_secs(40)));
    assert_eq!(quota.take(&pod("loop"), now + PERIOD_MAX), Ok(()));
    assert!(quota.take(&pod("loop"), now + PERIOD_MAX).is_err(), "one a minute from then on");
}

#[test]
fn short_leaves_are_renewed_as_often_as_they_need() {
    let ttl = Duration::from_secs(10);
    let (mut quota, mut now) = (Quota::new(ttl), Instant::now());
    for _ in 0..1000 {
        now += ttl / 2;
        assert_eq!(quota.take(&pod("busy"), now), Ok(()));
    }
}

#[test]
fn the_table_is_bounded_and_forgets_who_was_quiet() {
    let (mut quota, now) = (Quota::new(DAY), Instant::now());
    for _ in 0..BURST {
        quota.take(&pod("loop"), now).unwrap();
    }
    for number in 0..PODS_MAX + 50 {
        assert_eq!(quota.take(&pod(&number.to_string()), now), Ok(()));
    }
    assert_eq!(quota.full_at.len(), PODS_MAX);
    assert!(quota.take(&pod("loop"), now).is_err(), "whoever asks most is forgotten last");
    quota.take(&pod("late"), now + DAY).unwrap();
    assert_eq!(quota.full_at.len(), 1, "full buckets are not kept");
}
