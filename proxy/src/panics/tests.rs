//! What lives on after a panic, and what does not: each case is a process of its own, this test's program run again.

use std::process::Command;
use std::process::Output;

use super::*;
use crate::worker;

/// Which case this process plays.
const CASE: &str = "LENO_TEST_PANIC";

fn play(case: &str) -> Output {
    let own = std::env::current_exe().unwrap();
    let name = "panics::tests::a_process_with_a_panic";
    Command::new(own).args(["--exact", name, "--nocapture"]).env(CASE, case).output().unwrap()
}

#[test]
#[allow(clippy::disallowed_methods, reason = "how a process learns its part")]
fn a_process_with_a_panic() {
    let Ok(case) = std::env::var(CASE) else { return };
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let metrics = Arc::new(Metrics::default());
    install(Arc::clone(&metrics));
    let control = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    match case.as_str() {
        "control" => {
            let gone = control.spawn(vital("the session with the control plane", async { panic!("a bug") }));
            let _: Result<(), _> = control.block_on(gone);
        }
        "root" => {
            let root = async { worker_with(|| async { vital("the accept loop", async { panic!("a bug") }).await }) };
            control.block_on(root);
        }
        "state" => worker_with(|| async {
            let state = Rc::new(RefCell::new(1));
            let watched = Rc::clone(&state);
            let is_borrowed: Rc<dyn Fn() -> bool> = Rc::new(move || watched.try_borrow().is_err());
            watch(&is_borrowed);
            connection(async move {
                let _changing = state.borrow_mut();
                panic!("a bug");
            })
            .await;
        }),
        "connection" => {
            worker_with(|| async {
                let state = Rc::new(RefCell::new(1));
                let watched = Rc::clone(&state);
                let is_borrowed: Rc<dyn Fn() -> bool> = Rc::new(move || watched.try_borrow().is_err());
                watch(&is_borrowed);
                connection(async move {
                    drop(state.borrow_mut());
                    panic!("a bug");
                })
                .await;
            });
            assert_eq!(metrics.proxy.panics.value(), 1);
            std::process::exit(0);
        }
        _ => {}
    }
    panic!("it lives on");
}

fn worker_with<F: Future<Output = ()>>(story: impl Fn() -> F + Clone + Send + 'static) {
    let (_crew, threads) = worker::start(1, 1, move |_| story()).unwrap();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

async fn connection(life: impl Future<Output = ()> + 'static) {
    let ended = tokio::task::spawn_local(life).await;
    assert!(ended.is_err_and(|error| error.is_panic()));
}

#[test]
fn a_panic_in_a_control_task_a_root_task_or_a_state_ends_the_process_and_says_so() {
    for (case, what) in [
        ("control", "the session with the control plane"),
        ("root", "the accept loop"),
        ("state", "worker's state was being changed"),
    ] {
        let Output { status, stderr, .. } = play(case);
        let said = String::from_utf8_lossy(&stderr);
        assert_eq!(status.code(), Some(EXIT), "{case}: {said}");
        assert!(said.contains(what) && said.contains("internal_panic") && said.contains("a bug"), "{case}: {said}");
    }
}

#[test]
fn a_panic_in_a_connection_ends_that_connection_and_is_counted() {
    let Output { status, stderr, .. } = play("connection");
    assert_eq!(status.code(), Some(0), "{}", String::from_utf8_lossy(&stderr));
}
