use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;

use proptest::prelude::*;

use super::*;

fn poll(acquire: &mut Pin<Box<Acquire>>) -> Poll<Result<Permit, Refused>> {
    acquire.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

fn waiting(gate: &Arc<Gate>) -> Pin<Box<Acquire>> {
    let mut acquire = Box::pin(gate.acquire(100));
    assert!(poll(&mut acquire).is_pending());
    acquire
}

fn granted(acquire: &mut Pin<Box<Acquire>>) -> Permit {
    match poll(acquire) {
        Poll::Ready(Ok(permit)) => permit,
        other => panic!("no permit: {other:?}"),
    }
}

#[test]
fn permits_run_out_and_come_back() {
    let gate = Gate::new(2);
    let first = gate.try_acquire().unwrap();
    let _second = gate.try_acquire().unwrap();
    assert!(gate.try_acquire().is_none());
    drop(first);
    assert!(gate.try_acquire().is_some());
}

#[test]
fn waiters_are_served_in_the_order_of_arrival() {
    let gate = Gate::new(1);
    let held = gate.try_acquire().unwrap();
    let mut first = waiting(&gate);
    let mut second = waiting(&gate);
    drop(held);
    assert!(gate.try_acquire().is_none(), "a newcomer does not pass the queue");
    assert!(poll(&mut second).is_pending());
    let permit = granted(&mut first);
    drop(permit);
    granted(&mut second);
}

#[test]
fn a_full_queue_refuses_and_none_means_fail_fast() {
    let gate = Gate::new(1);
    let _held = gate.try_acquire().unwrap();
    assert!(matches!(poll(&mut Box::pin(gate.acquire(0))), Poll::Ready(Err(Refused::QueueFull))));
    let mut one = Box::pin(gate.acquire(1));
    assert!(poll(&mut one).is_pending());
    assert!(matches!(poll(&mut Box::pin(gate.acquire(1))), Poll::Ready(Err(Refused::QueueFull))));
    drop(one);
    assert_eq!(gate.waiters(), 0);
}

#[test]
fn a_granted_waiter_that_goes_away_passes_its_permit_on() {
    let gate = Gate::new(1);
    let held = gate.try_acquire().unwrap();
    let first = waiting(&gate);
    let mut second = waiting(&gate);
    drop(held);
    drop(first);
    granted(&mut second);
}

#[test]
fn a_waiter_may_leave_from_the_middle() {
    let gate = Gate::new(1);
    let held = gate.try_acquire().unwrap();
    let mut first = waiting(&gate);
    let middle = waiting(&gate);
    let mut last = waiting(&gate);
    drop(middle);
    drop(held);
    drop(granted(&mut first));
    drop(granted(&mut last));
    assert_eq!((gate.in_use(), gate.waiters()), (0, 0));
}

#[test]
fn a_lower_limit_takes_effect_as_permits_come_back_and_a_higher_one_at_once() {
    let gate = Gate::new(2);
    let one = gate.try_acquire().unwrap();
    let two = gate.try_acquire().unwrap();
    let mut waiter = waiting(&gate);
    gate.resize(1);
    drop(one);
    assert!(poll(&mut waiter).is_pending(), "the limit swallows the first permit");
    let mut late = waiting(&gate);
    gate.resize(3);
    let (_a, _b) = (granted(&mut waiter), granted(&mut late));
    assert_eq!((gate.in_use(), gate.waiters()), (3, 0));
    drop(two);
}

#[test]
fn everyone_who_begins_to_wait_asks_for_idle_permits() {
    let asked = Arc::new(AtomicU32::new(0));
    let gate = {
        let asked = Arc::clone(&asked);
        Gate::with_reclaim(1, Box::new(move || _ = asked.fetch_add(1, Ordering::Relaxed)))
    };
    let held = gate.try_acquire().unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 0);
    let mut waiter = waiting(&gate);
    assert!(poll(&mut waiter).is_pending());
    assert_eq!(asked.load(Ordering::Relaxed), 1, "once per waiter, not per poll");
    drop(held);
}

#[test]
fn a_deadline_ends_the_wait_and_leaves_the_queue() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let gate = Gate::new(1);
        let held = gate.try_acquire().unwrap();
        let past = std::time::Instant::now();
        assert_eq!(gate.acquire_until(10, past).await.unwrap_err(), Refused::Timeout);
        assert_eq!(gate.waiters(), 0);
        drop(held);
        assert!(gate.acquire_until(10, past).await.is_ok(), "what is free is given even after the deadline");
    });
}

#[test]
fn four_threads_never_exceed_the_limit_and_none_starves() {
    let gate = Gate::new(3);
    let inside = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                for _ in 0..2_000 {
                    let permit = runtime.block_on(gate.acquire(8)).unwrap();
                    assert!(inside.fetch_add(1, Ordering::SeqCst) < 3);
                    inside.fetch_sub(1, Ordering::SeqCst);
                    drop(permit);
                }
            });
        }
    });
    assert_eq!((gate.in_use(), gate.waiters()), (0, 0));
}

#[derive(Debug, Clone)]
enum Step {
    Arrive,
    Leave(usize),
    Release(usize),
    Collect,
    Resize(u32),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => Just(Step::Arrive),
        1 => (0usize..8).prop_map(Step::Leave),
        3 => (0usize..8).prop_map(Step::Release),
        3 => Just(Step::Collect),
        1 => (0u32..5).prop_map(Step::Resize),
    ];
    proptest::collection::vec(step, 0..200)
}

proptest! {
    /// Whatever the order of arrivals, departures and returns: the queue is served from its head, the counts are exact, and
    /// a free permit and a waiter never stand side by side.
    #[test]
    fn the_counts_are_exact_and_the_order_holds(limit in 0u32..4, steps in steps()) {
        let gate = Gate::new(limit);
        let mut held: Vec<Permit> = Vec::new();
        let mut queue: VecDeque<Pin<Box<Acquire>>> = VecDeque::new();
        for step in steps {
            match step {
                Step::Arrive => {
                    let mut acquire = Box::pin(gate.acquire(6));
                    match poll(&mut acquire) {
                        Poll::Ready(Ok(permit)) => held.push(permit),
                        Poll::Ready(Err(refused)) => {
                            prop_assert_eq!(refused, Refused::QueueFull);
                            prop_assert_eq!(gate.waiters(), 6);
                        }
                        Poll::Pending => queue.push_back(acquire),
                    }
                }
                Step::Leave(n) if n < queue.len() => drop(queue.remove(n)),
                Step::Release(n) if n < held.len() => drop(held.swap_remove(n)),
                Step::Collect => {
                    let mut still = VecDeque::new();
                    for mut acquire in queue.drain(..) {
                        match poll(&mut acquire) {
                            Poll::Ready(outcome) => {
                                prop_assert!(still.is_empty(), "served out of order");
                                held.push(outcome.unwrap());
                            }
                            Poll::Pending => still.push_back(acquire),
                        }
                    }
                    queue = still;
                    prop_assert_eq!(gate.in_use() as usize, held.len());
                    prop_assert_eq!(gate.waiters() as usize, queue.len());
                }
                Step::Resize(limit) => gate.resize(limit),
                Step::Leave(_) | Step::Release(_) => {}
            }
            prop_assert!(gate.waiters() == 0 || gate.in_use() >= gate.limit(), "{:?}", gate);
        }
        drop(queue);
        drop(held);
        prop_assert_eq!((gate.in_use(), gate.waiters()), (0, 0));
    }
}
