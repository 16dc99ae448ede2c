//! What a panic ends. A connection's ends that connection; where it would leave a worker's state half changed, or a task that
//! the proxy cannot be without, it ends the process: it must never go on half dead.

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::rc::Rc;
use std::rc::Weak;
use std::sync::Arc;

use crate::metrics::Metrics;

/// As Rust's own runtime exits after a panic.
const EXIT: i32 = 101;

thread_local! {
    static WATCHED: RefCell<Vec<Weak<dyn Fn() -> bool>>> = const { RefCell::new(Vec::new()) };
}

/// For the whole process, once. Runs where the panic began, before anything is unwound: what is borrowed is borrowed still.
pub fn install(metrics: Arc<Metrics>) {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        metrics.proxy.panics.increment();
        if is_state_half_changed() {
            end("a panic while its worker's state was being changed");
        }
    }));
}

/// `is_borrowed` says whether a state of this thread is being changed, for as long as it is kept.
pub fn watch(is_borrowed: &Rc<dyn Fn() -> bool>) {
    WATCHED.with_borrow_mut(|watched| {
        watched.retain(|other| other.strong_count() > 0);
        watched.push(Rc::downgrade(is_borrowed));
    });
}

fn is_state_half_changed() -> bool {
    let look = |watched: &RefCell<Vec<Weak<dyn Fn() -> bool>>>| {
        let Ok(watched) = watched.try_borrow() else { return true };
        watched.iter().filter_map(Weak::upgrade).any(|is_borrowed| is_borrowed())
    };
    WATCHED.try_with(look).unwrap_or(false)
}

/// A task without which there is no proxy: its panic ends the process.
pub async fn vital<T>(name: &'static str, task: impl Future<Output = T>) -> T {
    let _vital = Vital(name);
    task.await
}

/// Kept by a thread without which there is no proxy.
pub struct Vital(pub &'static str);

impl Drop for Vital {
    fn drop(&mut self) {
        if std::thread::panicking() {
            end(self.0);
        }
    }
}

/// Not `abort`: an operator wants a message and no core.
fn end(what: &str) -> ! {
    tracing::error!(
        what,
        "internal_panic: ending the process, for a part of it is gone; please report this with the panic above"
    );
    std::process::exit(EXIT)
}
