//! The hop from the sidecar to its own application. It must never be taken without a `Permit`.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use leno_proto::authorize::Permit;

use crate::error::Error;
use crate::error::Reason;
use crate::inbound::Caller;
use crate::inbound::PortPolicy;
use crate::local::App;
use crate::local::Local;
use crate::pool::Key;
use crate::pool::Limits;
use crate::pool::Opened;
use crate::pool::Way;
use crate::pool::Wire;

/// The application's port, behind its limits.
pub(super) struct Application {
    pub(super) app: Arc<App>,
    way: Way,
}

impl Application {
    pub(super) fn new(local: &Local, caller: &Caller, policy: &PortPolicy, wire: Wire) -> Self {
        let app = local.app(caller.app.port(), &policy.port().policy);
        let way = Way {
            key: Key { uid: Arc::clone(&app.label), address: caller.app, identity: None, wire },
            target: app.name.clone(),
            gate: Arc::clone(&app.connections),
            limits: Limits::Application(Arc::clone(&app.limits)),
            idle: Arc::clone(&app.idle),
            parallelism: 1,
            metrics: local.pool_metrics(&app.label),
        };
        Self { app, way }
    }

    pub(super) fn way(&self, _: &Permit) -> &Way {
        &self.way
    }

    pub(super) fn deadline(&self, now: Instant) -> Instant {
        now + self.app.limits.acquire_timeout
    }

    /// A connection for one tunnel.
    pub(super) async fn open(&self, local: &Rc<Local>, permit: &Permit) -> Result<Opened, Error> {
        local.pool.open(self.way(permit), self.deadline(Instant::now())).await.map_err(as_application)
    }
}

/// The same failure, named for what it is here.
pub(super) fn as_application(error: Error) -> Error {
    match error {
        Error::Connect { address, source } => Error::AppRefused { address, source },
        Error::ConnectTimeout { address, after } => Error::Because {
            reason: Reason::AppRefused,
            detail: format!("connect to {address}: no answer in {after:?}"),
        },
        other => other,
    }
}
