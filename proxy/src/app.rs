//! The wiring: what a sidecar is made of, and in which order it comes up and goes down. It must never forward anything before
//! it is wired whole.

#[cfg(test)]
mod tests;

use std::io;
use std::net::TcpListener;
use std::sync::Arc;

use crate::inbound;
use crate::listener;
use crate::listener::Accepted;
use crate::listener::Front;
use crate::local::Local;
use crate::local::Shared;
use crate::net::Acceptor;
use crate::outbound;
use crate::worker;
use crate::worker::Job;
use crate::worker::Worker;

/// A listening socket and what it stands for.
pub struct Door {
    pub socket: TcpListener,
    pub front: Arc<Front>,
}

/// A worker's life: accepts at its own doors, serves what it is given, until everybody who could give it something is gone.
pub async fn work(mut worker: Worker, shared: Shared, doors: Vec<Door>) -> io::Result<()> {
    let local = Local::new(worker.index, shared);
    tokio::task::spawn_local(local.clone().sweep());
    for Door { socket, front } in doors {
        let acceptor = Acceptor::new(socket)?;
        tokio::task::spawn_local(listener::run(acceptor, front, Arc::clone(&worker.crew), worker.index));
    }
    while let Some(job) = worker.inbox.recv().await {
        match job {
            Job::Connection(accepted) => {
                let local = local.clone();
                worker::spawn(&worker.crew, async move { serve(local, accepted).await });
            }
            Job::Reclaim(target) => {
                local.pool.give_up(&target);
            }
        }
    }
    Ok(())
}

async fn serve(local: std::rc::Rc<Local>, accepted: Accepted) {
    match *accepted.front {
        Front::Outbound | Front::OutboundTo(_) => outbound::serve(local, accepted).await,
        Front::Inbound | Front::InboundTo(_) => inbound::serve(local, accepted).await,
    }
}
