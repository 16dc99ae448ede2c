//! Every interleaving of two workers at one gate, explored by loom. It must never be compiled into the product.
//!
//! Run with `cargo test -p leno-proxy --features loom --lib gate::model`.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Waker;

use loom::future::block_on;
use loom::thread;

use super::Gate;
use super::Permit;

fn explore(story: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(story);
}

/// Counts who is inside. A plain atomic of std: the model's scheduler runs one thread at a time.
fn inside(permit: Permit, limit: u32, inside: &AtomicU32) {
    assert!(inside.fetch_add(1, Ordering::SeqCst) < limit, "more permits than the limit");
    thread::yield_now();
    inside.fetch_sub(1, Ordering::SeqCst);
    drop(permit);
}

#[test]
fn two_workers_share_one_permit_and_both_get_it() {
    explore(|| {
        let gate = Gate::new(1);
        let count = Arc::new(AtomicU32::new(0));
        let other = {
            let (gate, count) = (Arc::clone(&gate), Arc::clone(&count));
            thread::spawn(move || {
                let permit = block_on(gate.acquire(4)).expect("the queue has room");
                inside(permit, 1, &count);
            })
        };
        let permit = block_on(gate.acquire(4)).expect("the queue has room");
        inside(permit, 1, &count);
        other.join().expect("no panic");
        assert_eq!((gate.in_use(), gate.waiters()), (0, 0));
    });
}

#[test]
fn a_waiter_that_leaves_while_a_permit_comes_back_loses_nothing() {
    explore(|| {
        let gate = Gate::new(1);
        let held = gate.try_acquire().expect("the gate is empty");
        let other = {
            let gate = Arc::clone(&gate);
            thread::spawn(move || {
                let mut acquire = pin!(gate.acquire(4));
                let _ = acquire.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            })
        };
        drop(held);
        other.join().expect("no panic");
        assert_eq!((gate.in_use(), gate.waiters()), (0, 0));
        assert!(gate.try_acquire().is_some());
    });
}

#[test]
fn a_leaver_ahead_of_a_waiter_does_not_swallow_its_permit() {
    explore(|| {
        let gate = Gate::new(1);
        let held = gate.try_acquire().expect("the gate is empty");
        let mut leaver = Box::pin(gate.acquire(4));
        assert!(leaver.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        let other = {
            let gate = Arc::clone(&gate);
            thread::spawn(move || drop(block_on(gate.acquire(4)).expect("the queue has room")))
        };
        drop(held);
        drop(leaver);
        other.join().expect("no panic");
        assert_eq!((gate.in_use(), gate.waiters()), (0, 0));
    });
}

#[test]
fn raising_the_limit_serves_whoever_queues_meanwhile() {
    explore(|| {
        let gate = Gate::new(0);
        let other = {
            let gate = Arc::clone(&gate);
            thread::spawn(move || drop(block_on(gate.acquire(4)).expect("the queue has room")))
        };
        gate.resize(1);
        other.join().expect("no panic");
        assert_eq!((gate.in_use(), gate.waiters()), (0, 0));
    });
}
