//! Which rule a request falls under, and what that does to it. It must never send a request of one rule under the policy of
//! another.

mod edit;

use std::hash::BuildHasher;
use std::hash::BuildHasherDefault;
use std::hash::DefaultHasher;
use std::hash::Hash;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use leno_proto::policy::Algorithm;
use leno_proto::policy::Filter;
use leno_proto::policy::HashKey;
use leno_proto::policy::HeaderEdit;
use leno_proto::policy::Match;
use leno_proto::policy::Protocol;
use leno_proto::policy::Traffic;
use leno_proto::select;
use leno_proto::select::Selection;
use rand::RngExt;

use crate::error::Error;
use crate::http::head::RequestHead;
use crate::http::head::ResponseHead;
use crate::local::Local;
use crate::outbound::place::Place;
use crate::state::Port;
use crate::upstream::Target;

/// What was decided about one request.
pub(super) struct Chosen {
    pub(super) target: Arc<Target>,
    /// Timeouts and retries of the rule; the target has its own for connections and breakers.
    pub(super) policy: Arc<Traffic>,
    pub(super) protocol: Protocol,
    /// The route's origin; empty where no route was needed.
    pub(super) route: Arc<str>,
    pub(super) hash: Option<u64>,
    pub(super) answer_edits: Vec<HeaderEdit>,
    /// Who else gets a copy of the request.
    pub(super) mirrors: Vec<Chosen>,
}

pub(super) enum Decision {
    Send(Chosen),
    /// The rule itself answers.
    Redirect(ResponseHead),
    /// Routes are there, and none matches.
    NoMatch,
}

/// Decides, and edits the head as the rule's filters say.
pub(super) fn decide(
    local: &Rc<Local>,
    place: &Place,
    head: &mut RequestHead,
    client: IpAddr,
) -> Result<Decision, Error> {
    let mut chosen = match place {
        Place::Service { service, name } => {
            let port = service.port(name.port).ok_or_else(|| Error::NoEndpoints(name.clone()))?;
            match by_route(local, port, head)? {
                Decision::Send(chosen) => chosen,
                other => return Ok(other),
            }
        }
        Place::Workload { target, protocol } => plain(target, &target.policy, *protocol),
        Place::Outside(address) => return Err(Error::EgressDenied(*address)),
    };
    chosen.hash = hash(&chosen.target.policy, head, client);
    Ok(Decision::Send(chosen))
}

fn plain(target: &Arc<Target>, policy: &Arc<Traffic>, protocol: Protocol) -> Chosen {
    Chosen {
        target: Arc::clone(target),
        policy: Arc::clone(policy),
        protocol,
        route: Arc::default(),
        hash: None,
        answer_edits: Vec::new(),
        mirrors: Vec::new(),
    }
}

fn by_route(local: &Rc<Local>, port: &Port, head: &mut RequestHead) -> Result<Decision, Error> {
    let selected = match select::select(&port.policy, &head.view()) {
        Selection::Own => {
            return Ok(Decision::Send(plain(&port.own, &port.policy.policy, port.policy.backend.protocol)));
        }
        Selection::NoMatch => return Ok(Decision::NoMatch),
        Selection::Rule(selected) => selected,
    };
    let mut answer_edits = Vec::new();
    let filters = &selected.rule.filters;
    if let Some(answer) = apply(filters, selected.matched, head, &mut answer_edits) {
        return Ok(Decision::Redirect(answer));
    }
    let dice = local.dice.borrow_mut().random();
    let origin = &selected.route.origin;
    let backend = select::choose(&selected.rule.backends, dice).ok_or_else(|| Error::NoRoute(port.own.name.clone()))?;
    if !backend.resolved {
        return Err(Error::Unresolved(Arc::clone(origin)));
    }
    if let Some(answer) = apply(&backend.filters, selected.matched, head, &mut answer_edits) {
        return Ok(Decision::Redirect(answer));
    }
    let target = port.target(backend).ok_or_else(|| Error::Unresolved(Arc::clone(origin)))?;
    let filters = filters.iter().chain(&backend.filters);
    let mirrors = filters.filter_map(|filter| mirror(local, port, filter)).collect();
    Ok(Decision::Send(Chosen {
        route: Arc::clone(origin),
        answer_edits,
        mirrors,
        ..plain(target, &selected.rule.policy, backend.protocol)
    }))
}

/// Who gets a copy by this filter. A backend that does not resolve gets none: GEP-3171 fails nothing for a copy's sake.
fn mirror(local: &Local, port: &Port, filter: &Filter) -> Option<Chosen> {
    let Filter::Mirror { backend, parts_per_million } = filter else { return None };
    let drawn = local.dice.borrow_mut().random_range(0..MILLION) < *parts_per_million;
    let target = port.target(backend).filter(|_| drawn && backend.resolved)?;
    Some(plain(target, &backend.policy, backend.protocol))
}

const MILLION: u32 = 1_000_000;

fn apply(
    filters: &[Filter],
    matched: Option<&Match>,
    head: &mut RequestHead,
    answer_edits: &mut Vec<HeaderEdit>,
) -> Option<ResponseHead> {
    for filter in filters {
        match filter {
            Filter::RequestHeaders(headers) => edit::headers(&mut head.headers, headers),
            Filter::ResponseHeaders(headers) => answer_edits.push(headers.clone()),
            Filter::Rewrite { hostname, path } => edit::rewrite(head, hostname.as_deref(), path.as_ref(), matched),
            Filter::Redirect(redirect) => return Some(edit::redirect(head, redirect, matched)),
            // It needs the head as all the others leave it.
            Filter::Mirror { .. } => {}
        }
    }
    None
}

pub(super) fn edit_answer(head: &mut ResponseHead, edits: &[HeaderEdit]) {
    edits.iter().for_each(|edits| edit::headers(&mut head.headers, edits));
}

/// What consistent hashing goes by. Not secret: a stranger chooses an endpoint at most for itself.
fn hash(policy: &Traffic, head: &RequestHead, client: IpAddr) -> Option<u64> {
    let Algorithm::ConsistentHash { key, .. } = &policy.load_balancing.algorithm else { return None };
    match key {
        HashKey::Header(name) => head.headers.get(name).map(hashed),
        HashKey::Cookie(name) => edit::cookie(&head.headers, name).map(hashed),
        HashKey::SourceIp => Some(hashed(client)),
    }
}

/// As `hash`, of what carries no requests.
pub(super) fn hash_of_source(policy: &Traffic, client: IpAddr) -> Option<u64> {
    match &policy.load_balancing.algorithm {
        Algorithm::ConsistentHash { key: HashKey::SourceIp, .. } => Some(hashed(client)),
        Algorithm::ConsistentHash { .. } | Algorithm::LeastLoaded { .. } | Algorithm::RoundRobin => None,
    }
}

/// The same in every process: an endpoint outlasts a restart of ours.
fn hashed(value: impl Hash) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(value)
}
