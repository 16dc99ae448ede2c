//! What the proxy still waits for before it is ready, in words for whoever looks at `/ready`. It must never say "ready" for
//! a proxy that could not serve its first connection.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::state::State;
use crate::tls::Tls;

/// The last thing that went wrong on each of the two ways to the control plane.
#[derive(Debug, Default)]
pub struct Progress {
    certify: Mutex<Option<String>>,
    session: Mutex<Option<String>>,
}

impl Progress {
    pub fn certified(&self) {
        *self.certify.lock() = None;
    }

    pub fn not_certified(&self, why: String) {
        *self.certify.lock() = Some(why);
    }

    pub fn connected(&self) {
        *self.session.lock() = None;
    }

    pub fn not_connected(&self, why: String) {
        *self.session.lock() = Some(why);
    }

    /// A line for each thing that is missing; empty: ready.
    pub fn waits_for(&self, tls: &Arc<Tls>, state: &State) -> Vec<String> {
        let snapshot = state.load();
        let certify = || said(&self.certify.lock());
        let session = || said(&self.session.lock());
        let mut lines = Vec::new();
        let mut missing = |there: bool, what: &str, why: String| {
            if !there {
                lines.push(format!("{what}{why}"));
            }
        };
        missing(tls.identity().is_some(), "its certificate", certify());
        missing(tls.trust().is_some(), "the trust bundle", certify());
        missing(snapshot.config.is_some(), "the mesh's configuration (ProxyConfig)", session());
        missing(snapshot.inbound.is_some(), "its own workload's policy (Inbound)", session());
        lines
    }
}

fn said(why: &Option<String>) -> String {
    why.as_ref().map(|why| format!(": {why}")).unwrap_or_default()
}
