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
fn races_may_have_the_free_retries_of_the_interval_at_once_and_no_more() {
    let start = Instant::now();
    let budget = Budget::of_policy(&rules(), start);
    assert_eq!((0..1000).filter(|_| budget.try_withdraw_for_race(start)).count(), 100);
    assert!(!budget.try_withdraw(start));
    let late = start + Duration::from_secs(9);
    assert!(!budget.try_withdraw_for_race(late), "they are of this interval still");
    let later = start + Duration::from_secs(10);
    assert_eq!((0..1000).filter(|_| budget.try_withdraw(later)).count(), 10);
    assert_eq!((0..1000).filter(|_| budget.try_withdraw_for_race(later)).count(), 90);
}

#[test]
fn a_first_try_pays_once_and_what_it_pays_for_comes_evenly() {
    // Ten seconds in which nothing fails, then a storm: what was saved is spent at once, and after that each second grants
    // a fifth of its own first tries, without a second burst when the first one leaves the window.
    let start = Instant::now();
    let budget = Budget::of_policy(&rules(), start);
    let mut retries = [0_u64; 40];
    for number in 0..200 * 40_u64 {
        let now = start + Duration::from_millis(number * 5);
        budget.deposit(now);
        let second = (number / 200) as usize;
        if second >= 10 {
            retries[second] += (0..3).filter(|_| budget.try_withdraw(now)).count() as u64;
        }
    }
    assert!((380..=440).contains(&(retries[10] + retries[11])), "{retries:?}");
    assert!(retries[12..].iter().all(|second| *second == 40), "{retries:?}");
}

#[test]
fn free_retries_are_a_minimum_and_not_an_addition() {
    for (rate, granted) in [(1, 10), (20, 10), (50, 10), (100, 20), (1000, 200)] {
        let start = Instant::now();
        let budget = Budget::of_policy(&rules(), start);
        let mut retries = 0;
        for number in 0..rate * 60 {
            let now = start + Duration::from_micros(number * 1_000_000 / rate);
            budget.deposit(now);
            retries += (0..30).filter(|_| budget.try_withdraw(now)).count() as u64;
        }
        assert_eq!(retries, granted * 60, "{rate}/s");
    }
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
    let paid = (0..1000).filter(|_| budget.try_withdraw(late)).count();
    assert_eq!(paid, 0, "nothing was deposited within the interval");
}
