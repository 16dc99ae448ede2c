//! What this proxy lets be seen: `leno-proxy show config`, `pools`, `certs`. It must never show key material.

use std::sync::Arc;

use serde_json::Value;
use serde_json::json;
use tokio::sync::Notify;

use crate::admin::Views;
use crate::app::logs::Logs;
use crate::breaker::Phase as Breaker;
use crate::control::progress::Progress;
use crate::drain::Phase;
use crate::local::Shared;
use crate::metrics::Level;
use crate::probe::Probes;
use crate::upstream::Target;

/// What the socket moves.
pub(super) struct Levers {
    /// Told when somebody asks for the drain.
    pub(super) begin: Arc<Notify>,
    pub(super) logs: Logs,
}

pub(super) fn of(shared: &Shared, progress: Arc<Progress>, probes: Arc<Probes>, levers: Levers) -> Views {
    let Levers { begin, logs } = levers;
    let waits = shared.clone();
    let waits_for = move || match waits.drain.phase() {
        Phase::Serving => progress.waits_for(&waits.tls, &waits.state),
        phase => vec![format!("nothing any more: {phase:?}")],
    };
    let state = shared.state.clone();
    let (config, pools, certs) = (shared.clone(), shared.clone(), shared.clone());
    Views {
        metrics: shared.metrics.clone(),
        levels: Box::new(move || state.load().targets().map(|target| level(target)).collect()),
        log: Box::new(move |filter| logs.set(filter)),
        waits_for: Box::new(waits_for),
        shows: vec![
            ("config", Box::new(move || show_config(&config))),
            ("pools", Box::new(move || show_pools(&pools))),
            ("certs", Box::new(move || show_certificates(&certs))),
        ],
        probes,
        drain: Box::new(move || begin.notify_one()),
    }
}

fn show_config(shared: &Shared) -> Value {
    let snapshot = shared.state.load();
    let services: Vec<String> =
        snapshot.services().map(|s| format!("{:?}", s.ports.iter().map(|p| &p.policy).collect::<Vec<_>>())).collect();
    json!({
        "version": snapshot.version,
        "config": snapshot.config.as_ref().map(|c| format!("{c:?}")),
        "inbound": snapshot.inbound.as_ref().map(|i| format!("{i:?}")),
        "services": services,
        "resources": shared.state.resources().iter().map(|(key, _)| key.to_string()).collect::<Vec<_>>(),
    })
}

fn show_pools(shared: &Shared) -> Value {
    let snapshot = shared.state.load();
    snapshot.targets().map(|target| pool(target)).collect()
}

fn pool(target: &Target) -> Value {
    let endpoint = |member: &crate::upstream::Member| {
        json!({
            "pod": &*member.endpoint.pod,
            "address": member.shared.identity.address.to_string(),
            "identity": member.endpoint.identity.as_ref().map(|id| id.as_str()),
            "ready": member.endpoint.ready,
            "ejected": member.shared.ejection.is_ejected(),
            "requests": member.shared.in_flight.load(std::sync::atomic::Ordering::Relaxed),
        })
    };
    json!({
        "service": &*target.label,
        "connections": {"in_use": target.shared.connections.in_use(), "limit": target.shared.connections.limit(), "waiting": target.shared.connections.waiters()},
        "requests": {"in_use": target.shared.requests.in_use(), "limit": target.shared.requests.limit()},
        "endpoints": target.members.iter().map(endpoint).collect::<Vec<_>>(),
    })
}

fn level(target: &Target) -> Level {
    Level {
        service: Arc::clone(&target.label),
        connections_max: target.shared.connections.limit(),
        breaker_open: target.shared.breaker.as_ref().map(|breaker| breaker.phase() != Breaker::Closed),
    }
}

fn show_certificates(shared: &Shared) -> Value {
    let identity = shared.tls.identity();
    json!({
        "identity": identity.as_ref().map(|i| i.id.as_str()),
        "not_before_unix": identity.as_ref().map(|i| i.not_before_unix),
        "not_after_unix": identity.as_ref().map(|i| i.not_after_unix),
        "trust_generation": shared.tls.generation(),
    })
}
