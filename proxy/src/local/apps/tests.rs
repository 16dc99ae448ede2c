use std::pin::pin;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Waker;

use super::*;

#[test]
fn who_waits_for_a_connection_to_the_application_asks_the_workers_for_an_idle_one() {
    let (apps, asked) = (Apps::default(), Arc::new(AtomicUsize::new(0)));
    let mut policy = InboundTraffic::default();
    policy.app.max_connections = 1;
    let hook = |name: &ServicePort| -> Reclaim {
        assert_eq!((&*name.service.name, name.port), ("application", 8080));
        let asked = Arc::clone(&asked);
        Box::new(move || {
            asked.fetch_add(1, Ordering::Relaxed);
        })
    };
    let app = apps.port(8080, &Arc::new(policy), hook);
    let held = app.connections.try_acquire();
    let mut waiting = pin!(app.connections.acquire(1));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(waiting.as_mut().poll(&mut cx).is_pending());
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    drop(held);
    assert!(waiting.as_mut().poll(&mut cx).is_ready());
}

#[test]
fn what_is_in_use_and_what_was_learned_survive_new_policy() {
    let apps = Apps::default();
    let port = |most: u32| {
        let mut policy = InboundTraffic::default();
        policy.app.max_connections = most;
        apps.port(8080, &Arc::new(policy), |_| Box::new(|| ()))
    };
    let (before, now) = (port(5), Instant::now());
    let _held = before.connections.try_acquire();
    before.idle.closed(Duration::from_secs(1), Duration::ZERO, now);
    let after = port(7);
    assert_eq!((after.connections.limit(), after.connections.in_use()), (7, 1));
    assert_eq!(after.idle.usable_for(Duration::from_secs(3), now), Duration::from_millis(800));
}
