//! The accept loop: takes connections from the kernel and gives each to a worker. It must never stop because one accept
//! failed, nor spin because all of them do.

use std::sync::Arc;
use std::time::Duration;

use crate::net;
use crate::net::Acceptor;
use crate::worker::Accepted;
use crate::worker::Crew;
use crate::worker::Front;

/// Accepts until dropped. `here` is the worker whose thread this runs on.
pub async fn run(acceptor: Acceptor, front: Arc<Front>, crew: Arc<Crew>, here: usize) {
    let mut pause = PAUSE_MIN;
    loop {
        let (stream, peer) = match acceptor.accept().await {
            Ok(accepted) => accepted,
            // The client was quicker to go than we to accept: that is its end, not ours.
            Err(error) if is_the_clients(&error) => continue,
            Err(error) => {
                tracing::warn!(?front, %error, ?pause, "accept failed: out of descriptors or memory, pausing");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
                continue;
            }
        };
        pause = PAUSE_MIN;
        match crew.seat(here) {
            Some(seat) => crew.give(Accepted { stream, peer, front: Arc::clone(&front), seat }),
            // At the cap a fast, visible refusal is kinder than a backlog that answers nobody.
            None => net::refuse(stream),
        }
    }
}

fn is_the_clients(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(
        error.kind(),
        ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::Interrupted | ErrorKind::TimedOut
    )
}

/// Out of descriptors (EMFILE, ENFILE) accept fails at once and the socket stays readable: only waiting helps.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(1);
