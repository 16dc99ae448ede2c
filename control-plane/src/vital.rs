//! Tasks without which there is no control plane: the panic of one ends the process, so that another takes its place. It must
//! never leave a replica that answers and decides nothing.

#[cfg(test)]
mod tests;

/// As Rust's own runtime exits after a panic.
const EXIT: i32 = 101;

/// `task`, whose panic ends the process.
pub async fn vital<T>(name: &'static str, task: impl Future<Output = T>) -> T {
    let _vital = Vital(name);
    task.await
}

struct Vital(&'static str);

impl Drop for Vital {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Not `abort`: an operator wants a message and no core.
            tracing::error!("{} panicked: ending the process; please report this with the panic above", self.0);
            std::process::exit(EXIT);
        }
    }
}
