//! Policy and endpoints for the tests of this crate.

use std::sync::Arc;

use leno_proto::policy::Endpoint;
use leno_proto::policy::Traffic;

/// What no policy at all means (the built-in defaults).
pub(crate) fn traffic() -> Traffic {
    Traffic::default()
}

/// A ready endpoint without an identity at 10.0.0.`last`:8080.
pub(crate) fn endpoint(uid: &str, last: u8) -> Endpoint {
    Endpoint {
        uid: uid.into(),
        addresses: vec![([10, 0, 0, last], 8080).into()],
        identity: None,
        hop_port: None,
        node: Arc::default(),
        zone: Arc::default(),
        cluster: Arc::default(),
        ready: true,
        serving: true,
        terminating: false,
        parallelism: 1,
        pod: uid.into(),
    }
}
