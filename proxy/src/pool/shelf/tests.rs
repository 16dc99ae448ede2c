use std::time::Duration;
use std::time::Instant;

use crate::metrics::Close;
use crate::pool::shelf::Kept;
use crate::pool::shelf::Shelf;
use crate::pool::shelf::jittered;
use crate::pool::shelf::limit_shown;

const LIMIT: Duration = Duration::from_secs(5);

fn shelf(now: Instant, names: &[&'static str]) -> Shelf<&'static str> {
    let mut shelf = Shelf::default();
    names.iter().for_each(|name| shelf.put(Kept::new(*name, now, Some(Duration::from_secs(60)))));
    shelf
}

fn names(closed: Vec<(Kept<&'static str>, Close)>) -> Vec<(&'static str, Close)> {
    closed.into_iter().map(|(kept, why)| (kept.connection, why)).collect()
}

#[test]
fn the_last_one_back_is_the_first_one_out() {
    let now = Instant::now();
    let mut shelf = shelf(now, &["a", "b"]);
    assert_eq!(shelf.take(now, LIMIT, |_| true).0.unwrap().connection, "b");
    assert_eq!(shelf.take(now, LIMIT, |_| true).0.unwrap().connection, "a");
    assert!(shelf.take(now, LIMIT, |_| true).0.is_none());
}

#[test]
fn a_connection_that_spoke_or_idled_too_long_is_never_offered() {
    let now = Instant::now();
    let mut shelf = shelf(now, &["fine", "spoke"]);
    let (taken, closed) = shelf.take(now, LIMIT, |kept| kept.connection != "spoke");
    assert_eq!(taken.unwrap().connection, "fine");
    assert_eq!(names(closed), [("spoke", Close::Peer)]);

    let mut shelf = self::shelf(now, &["old"]);
    let (taken, closed) = shelf.take(now + LIMIT, LIMIT, |_| true);
    assert!(taken.is_none());
    assert_eq!(names(closed), [("old", Close::Idle)]);
}

#[test]
fn a_lifetime_ends_even_a_busy_connection() {
    let now = Instant::now();
    let kept = Kept::new("c", now, Some(Duration::from_secs(60)));
    assert!(!kept.is_spent(now, None));
    assert!(kept.is_spent(now, Some(0)));
    assert!(kept.is_spent(now + Duration::from_secs(60), None));
}

#[test]
fn waiters_are_served_in_order_and_those_who_left_are_passed_over() {
    let now = Instant::now();
    let mut shelf = shelf(now, &[]);
    let gone = shelf.wait();
    let mut first = shelf.wait();
    let mut second = shelf.wait();
    drop(gone);
    shelf.put(Kept::new("x", now, None));
    assert_eq!(first.try_recv().unwrap().connection, "x");
    assert!(second.try_recv().is_err());
    assert_eq!((shelf.idle(), shelf.waiting()), (0, 1));
}

#[test]
fn the_longest_idle_is_given_up_first() {
    let now = Instant::now();
    let mut shelf = shelf(now, &["a", "b"]);
    assert_eq!(shelf.give_up().unwrap().connection, "a");
    assert_eq!(names(shelf.sweep(now + LIMIT, LIMIT, |_| true)), [("b", Close::Idle)]);
}

#[test]
fn a_limit_is_shown_by_closes_of_one_age_and_not_by_a_server_that_goes_away() {
    let now = Instant::now();
    let shown = |ages: &[(u64, Close)]| {
        let aged = |(age, why): &(u64, Close)| (Kept::new("c", now - Duration::from_secs(*age), None), *why);
        limit_shown(&ages.iter().map(aged).collect::<Vec<_>>(), now).map(|limit| limit.as_secs())
    };
    assert_eq!(shown(&[(5, Close::Peer)]), Some(5));
    assert_eq!(shown(&[(6, Close::Peer), (5, Close::Peer), (1, Close::Idle)]), Some(5));
    assert_eq!(shown(&[(20, Close::Peer), (5, Close::Peer)]), None);
    assert_eq!(shown(&[(5, Close::Idle)]), None);
}

#[test]
fn a_lifetime_is_shortened_by_at_most_a_quarter() {
    let most = Duration::from_secs(100);
    assert_eq!(jittered(most, 0.0), Duration::from_secs(75));
    assert_eq!(jittered(most, 1.0), most);
}
