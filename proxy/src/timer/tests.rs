use tokio::task::LocalSet;

use super::*;

fn run(test: impl Future<Output = ()>) {
    run_on(tokio::runtime::Builder::new_current_thread().enable_all(), test);
}

fn run_on(builder: &mut tokio::runtime::Builder, test: impl Future<Output = ()>) {
    LocalSet::new().block_on(&builder.build().expect("a runtime"), test);
}

#[test]
fn timers_ring_in_order_and_never_early() {
    // With a clock that stands still while they are set.
    run_on(tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true), async {
        let timers = Timers::new();
        let start = Instant::now();
        let order = Rc::new(RefCell::new(Vec::new()));
        let tasks: Vec<_> = [30, 0, 15]
            .into_iter()
            .map(|ms| {
                let (timers, order) = (timers.clone(), Rc::clone(&order));
                tokio::task::spawn_local(async move {
                    timers.sleep(Duration::from_millis(ms)).await;
                    assert!(start.elapsed() >= Duration::from_millis(ms));
                    order.borrow_mut().push(ms);
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("no panic");
        }
        assert_eq!(*order.borrow(), [0, 15, 30]);
    });
}

#[test]
fn a_timeout_gives_the_value_or_none() {
    run(async {
        let timers = Timers::new();
        assert_eq!(timers.timeout(Duration::ZERO, async { 1 }).await, Some(1));
        assert_eq!(timers.timeout(Duration::from_millis(1), std::future::pending::<()>()).await, None);
    });
}

#[test]
fn an_earlier_timer_is_not_kept_waiting_by_a_later_one() {
    run(async {
        let timers = Timers::new();
        let mut late = timers.sleep(Duration::from_secs(3600));
        poll_fn(|cx| {
            assert!(late.poll_elapsed(cx).is_pending());
            Poll::Ready(())
        })
        .await;
        tokio::task::yield_now().await;
        timers.sleep(Duration::from_millis(1)).await;
        late.reset(Instant::now());
        late.await;
    });
}

#[test]
fn the_driver_ends_with_the_last_handle() {
    run(async {
        let timers = Timers::new();
        tokio::task::yield_now().await;
        let weak = Rc::downgrade(&timers.0.0);
        drop(timers);
        tokio::task::yield_now().await;
        assert!(weak.upgrade().is_none());
    });
}
