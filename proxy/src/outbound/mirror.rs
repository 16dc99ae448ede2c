//! Copies of requests for backends that are only to watch (Gateway API `RequestMirror`): sent once, answers thrown away. It must
//! never delay or fail the request that is copied.

use std::rc::Rc;
use std::time::Duration;
use std::time::Instant;

use crate::edge::Hop;
use crate::error::Error;
use crate::gate::Permit;
use crate::http::Interim;
use crate::http::body::Body;
use crate::http::copy;
use crate::http::head::RequestHead;
use crate::metrics::Mirror;
use crate::outbound::pick;
use crate::outbound::request::Requests;
use crate::outbound::request::outcome_of;
use crate::outbound::request::outcome_of_reason;
use crate::outbound::route::Chosen;

/// A copy may take this long where its rule sets no time for requests.
const MOST: Duration = Duration::from_secs(15);

/// Sends the copies that the rule asks for, as far as their backends have room, and gives back the body to forward.
pub(super) fn send<'c>(requests: &Requests, chosen: &mut Chosen, head: &RequestHead, body: Body<'c>) -> Body<'c> {
    if chosen.mirrors.is_empty() {
        return body;
    }
    let mut admitted = Vec::new();
    // What switches protocols has no copy.
    let whole = !head.switches_protocols();
    for mirror in std::mem::take(&mut chosen.mirrors) {
        match mirror.target.shared.requests.try_acquire().filter(|_| whole) {
            Some(permit) => admitted.push((mirror, permit)),
            None => count(requests, &mirror, Mirror::Dropped),
        }
    }
    let (body, copies) = copy::copies(body, admitted.len());
    for ((mirror, permit), body) in admitted.into_iter().zip(copies) {
        let requests = requests.clone();
        tokio::task::spawn_local(run(requests, mirror, head.clone(), body, permit));
    }
    body
}

async fn run(requests: Requests, mirror: Chosen, head: RequestHead, body: Body<'static>, _room: Permit) {
    let most = mirror.policy.timeouts.request.unwrap_or(MOST);
    let timers = Rc::clone(&requests.local);
    let sent = timers.timers.timeout(most, exchange(&requests, &mirror, head, body)).await;
    let outcome = if matches!(sent, Some(Ok(()))) { Mirror::Sent } else { Mirror::Failed };
    count(&requests, &mirror, outcome);
}

/// One attempt, and its answer to the end: half an answer would cost the connection.
async fn exchange(
    requests: &Requests,
    mirror: &Chosen,
    mut head: RequestHead,
    body: Body<'static>,
) -> Result<(), Error> {
    let local = &requests.local;
    let choice = pick::pick(local, &mirror.target, &[], Instant::now(), None)?;
    let hop = Hop { version: head.version, attempt: 1, deadline: None, phrase: Vec::new() };
    let started = Instant::now();
    let interim = Interim::default();
    let answered = requests.try_at(mirror, &choice, hop, &mut head, body, &interim).await;
    let seen = match &answered {
        Ok(answered) => outcome_of(&answered.head),
        Err(failed) => outcome_of_reason(failed.reason),
    };
    pick::record(local, &mirror.target, &choice, seen, Some(started.elapsed()), Instant::now());
    let mut answered = answered.map_err(|failed| failed.into_error(choice.member().shared.identity.address))?;
    while let Some(data) = answered.body.data().await {
        data.map_err(|reason| Error::Because { reason, detail: "the answer to a copy was cut".into() })?;
    }
    Ok(())
}

fn count(requests: &Requests, mirror: &Chosen, outcome: Mirror) {
    requests.local.pool_metrics(&mirror.target.label).mirrors[outcome as usize].increment();
}
