//! What a budget allows.

use super::*;

fn rules() -> policy::Budget {
    policy::Budget { percent: 20, interval: Duration::from_secs(10), min_per_second: 10 }
}

/// Sends `rate` first tries a second for `seconds`, each failing and retried as often as the budget allows; the requests that
/// the backend receives.
fn storm(rate: u64, seconds: u64, attempts: u64) -> u64 {
    let start = Instant::now();
    let budget = Budget::of_policy(&rules(), start);
    let mut received = 0;
    for number in 0..rate * seconds {
        let now = start + Duration::from_micros(number * 1_000_000 / rate);
        budget.deposit(now);
        received += 1 + (0..attempts).filter(|_| budget.try_withdraw(now)).count() as u64;
    }
    received
}

#[test]
fn a_failing_backend_receives_at_most_a_fifth_more_and_ten_a_second() {
    for rate in [1, 10, 100, 200, 1000, 5000] {
        for seconds in [1, 5, 60] {
            let received = storm(rate, seconds, 3);
            let most = rate * seconds * 12 / 10 + 10 * seconds + 10;
            assert!(received <= most, "{rate}/s for {seconds} s: {received} > {most}");
        }
    }
}

#[test]
fn from_two_hundred_a_second_it_receives_at_most_a_quarter_more() {
    for rate in [200, 1000] {
        let received = storm(rate, 60, 3);
        assert!(received <= rate * 60 * 125 / 100, "{rate}/s: {received}");
    }
}

#[test]
fn a_quiet_service_has_its_few_retries_and_no_more() {
    let start = Instant::now();
    let budget = Budget::of_policy(&rules(), start);
    assert_eq!((0..1000).filter(|_| budget.try_withdraw(start)).count(), 10);
    let later = start + Duration::from_secs(1);
    assert_eq!((0..1000).filter(|_| budget.try_withdraw(later)).count(), 10);
}

#[test]
fn deposits_are_forgotten_after_the_interval() {
    let start = Instant::now();
    let rules = policy::Budget { min_per_second: 0, ..rules() };
    let budget = Budget::of_policy(&rules, start);
    for _ in 0..1000 {
        budget.deposit(start);
    }
    let late = start + Duration::from_secs(20);
    let free = (0..1000).filter(|_| budget.try_withdraw(late)).count();
    assert_eq!(free, 0, "nothing was deposited within the interval");
}
