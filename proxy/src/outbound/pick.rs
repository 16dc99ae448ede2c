//! Which endpoint gets the next attempt, how it is reached, and what was learned of it.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use leno_proto::policy::Algorithm;
use leno_proto::policy::Protocol;

use crate::balance;
use crate::balance::Picked;
use crate::breaker::Change;
use crate::breaker::Outcome;
use crate::breaker::Probe;
use crate::error::Error;
use crate::local::Local;
use crate::pool::Key;
use crate::pool::Limits;
use crate::pool::Take;
use crate::pool::Way;
use crate::pool::Wire;
use crate::upstream::InFlight;
use crate::upstream::Member;
use crate::upstream::Target;

/// One endpoint for one attempt. Dropped, it is no longer in flight there.
pub(super) struct Choice {
    index: usize,
    target: Arc<Target>,
    /// Which connection the attempt may have.
    pub(super) take: Take,
    /// When it was made.
    pub(super) at: Instant,
    in_flight: InFlight,
    /// This attempt finds out whether an ejected endpoint is well again.
    probe: Option<Probe>,
}

impl Choice {
    pub(super) fn member(&self) -> &Member {
        &self.target.members[self.index]
    }

    /// What stays until the answer has ended.
    pub(super) fn into_guards(self) -> (InFlight, Option<Probe>) {
        (self.in_flight, self.probe)
    }

    pub(super) fn index(&self) -> usize {
        self.index
    }
}

pub(super) fn pick(
    local: &Local,
    target: &Arc<Target>,
    tried: &[usize],
    now: Instant,
    hash: Option<u64>,
) -> Result<Choice, Error> {
    let choice = balance::Choice { target, tried, hash, turn: local.turn(), now };
    let decay = decay(target);
    let latency = |index: usize| local.latency(&target.members[index].shared, decay, now);
    let Picked { index, probe } = balance::pick(&choice, latency, &mut *local.dice.borrow_mut())
        .ok_or_else(|| Error::NoEndpoints(target.name.clone()))?;
    let in_flight = InFlight::begin(&target.members[index].shared);
    Ok(Choice { index, target: Arc::clone(target), take: Take::Any, at: now, in_flight, probe })
}

/// What an attempt told about its endpoint.
pub(super) fn record(
    local: &Rc<Local>,
    target: &Target,
    choice: &Choice,
    outcome: Outcome,
    took: Option<Duration>,
    now: Instant,
) {
    if let (Outcome::Success, Some(took)) = (outcome, took) {
        local.observe(&choice.member().shared, took, decay(target), now);
    }
    let rules = &target.policy.circuit_breaker.endpoint;
    let change = choice.member().shared.ejection.record(outcome, now, rules, &mut *local.dice.borrow_mut());
    let endpoint = choice.member().shared.identity.address;
    match change {
        Some(Change::Ejected { penalty }) => {
            tracing::info!(%endpoint, service = %target.label, ?penalty, "endpoint ejected");
            local.pool_metrics(&target.label).ejections.increment();
        }
        Some(Change::Reinstated) => tracing::info!(%endpoint, service = %target.label, "endpoint reinstated"),
        None => {}
    }
}

fn decay(target: &Target) -> Duration {
    match target.policy.load_balancing.algorithm {
        Algorithm::LeastLoaded { decay } => decay,
        Algorithm::RoundRobin | Algorithm::ConsistentHash { .. } => Duration::from_secs(10),
    }
}

/// What an exchange needs of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    Requests(Protocol),
    /// A connection of its own, for HTTP/1 that may switch protocols.
    Upgrade,
    Bytes,
}

/// How the chosen endpoint is reached: over mTLS wherever it has an identity.
pub(super) fn way(local: &Local, target: &Target, member: &Member, need: Need) -> Way {
    let key = &member.shared.identity;
    let wire = match (need, key.expected.is_some()) {
        (Need::Requests(_), true) => Wire::Hop,
        (Need::Requests(Protocol::Http2 | Protocol::Grpc), false) => Wire::Http2,
        (Need::Requests(_) | Need::Upgrade, false) => Wire::Http1,
        (Need::Upgrade, true) => Wire::HopUpgrade,
        (Need::Bytes, true) => Wire::HopOpaque,
        (Need::Bytes, false) => Wire::Opaque,
    };
    Way {
        key: Key { uid: Arc::clone(&key.uid), address: key.address, identity: key.expected.clone(), wire },
        target: target.name.clone(),
        gate: Arc::clone(&target.shared.connections),
        limits: Limits::Traffic(Arc::clone(&target.policy)),
        idle: Arc::clone(&member.shared.idle),
        parallelism: member.endpoint.parallelism,
        metrics: local.pool_metrics(&target.label),
    }
}
