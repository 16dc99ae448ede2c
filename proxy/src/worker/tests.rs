use crate::worker;

#[test]
fn the_quota_decides_how_many_workers_there_are() {
    for (quota, expected) in [(None, 1), (Some(0.5), 1), (Some(1.9), 1), (Some(2.0), 2), (Some(64.0), 4)] {
        assert_eq!(worker::count(quota), expected, "{quota:?}");
    }
}

#[test]
fn a_control_group_without_a_quota_says_max() {
    assert_eq!(worker::parse_cpu_max("max 100000\n"), None);
    assert_eq!(worker::parse_cpu_max("150000 100000\n"), Some(1.5));
    assert_eq!(worker::parse_cpu_max(""), None);
}

#[test]
fn seats_spread_over_workers_and_end_at_the_cap() {
    let (crew, threads) = worker::start(2, 3, |_| async {}).unwrap();
    let first = crew.seat(0).unwrap();
    let second = crew.seat(0).unwrap();
    assert_ne!(first.worker, second.worker);
    let third = crew.seat(1).unwrap();
    assert_eq!(third.worker, 1);
    assert!(crew.seat(0).is_none());
    assert_eq!(crew.refused(), 1);
    drop(second);
    assert!(crew.seat(0).is_some());
    drop((first, third));
    assert_eq!(crew.open(), 0);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}
