//! Ends that nobody told.

use std::panic::AssertUnwindSafe;

use super::*;
use crate::local::fixtures;

fn dropped(by: impl FnOnce(Ending)) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .unwrap();
    runtime.block_on(async {
        let local = fixtures::local();
        by(Ending::connection(&local, Direction::Inbound, ([127, 0, 0, 2], 9).into()));
        local.shared.metrics.render()
    })
}

#[test]
fn what_is_dropped_without_an_end_was_left_by_its_client() {
    assert!(dropped(drop).contains("reason=\"client_gone\""));
}

#[test]
fn what_a_panic_dropped_says_so() {
    let text = dropped(|ending| {
        let doomed = AssertUnwindSafe(move || {
            let _ending = ending;
            panic!("a bug");
        });
        assert!(std::panic::catch_unwind(doomed).is_err());
    });
    assert!(text.contains("reason=\"internal_panic\""), "{text}");
}
