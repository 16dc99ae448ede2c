//! The gate's atomics and lock: the real ones, or loom's when its interleavings are explored. It must never hold more than
//! the gate names.

#[cfg(not(all(test, feature = "loom")))]
pub(super) use parking_lot::Mutex;
#[cfg(not(all(test, feature = "loom")))]
pub(super) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

#[cfg(all(test, feature = "loom"))]
pub(super) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};

#[cfg(all(test, feature = "loom"))]
pub(super) struct Mutex<T>(loom::sync::Mutex<T>);

#[cfg(all(test, feature = "loom"))]
impl<T> Mutex<T> {
    pub(super) fn new(value: T) -> Self {
        Self(loom::sync::Mutex::new(value))
    }

    pub(super) fn lock(&self) -> loom::sync::MutexGuard<'_, T> {
        self.0.lock().expect("the model has no panics under the lock")
    }
}
