//! The process that a panic ends is this test's program, run again.

use std::process::Command;

use super::*;

/// Whether this process is to panic.
const CASE: &str = "LENO_TEST_VITAL";

#[test]
#[allow(clippy::disallowed_methods, reason = "how a process learns its part")]
fn a_process_with_a_panic() {
    if std::env::var_os(CASE).is_none() {
        return;
    }
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let gone = runtime.spawn(vital("the reconciler", async { panic!("a bug") }));
    let _: Result<(), _> = runtime.block_on(gone);
    panic!("it lives on");
}

#[test]
fn the_panic_of_a_vital_task_ends_the_process_and_says_so() {
    let own = std::env::current_exe().unwrap();
    let name = "vital::tests::a_process_with_a_panic";
    let output = Command::new(own).args(["--exact", name, "--nocapture"]).env(CASE, "1").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(EXIT), "{said}");
    assert!(said.contains("the reconciler panicked") && said.contains("a bug"), "{said}");
}
