//! Waits a moment for what belongs together: a rollout changes hundreds of objects within a second, and each publication makes
//! every session look anew. What takes something away does not wait: a dead endpoint costs requests, a table costs work.
//! Pure: the clock is an argument. It keeps one event an object, so that it is bounded by the world and never by the rate.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use crate::index::World;
use crate::object::Event;
use crate::object::Object;
use crate::object::ObjectId;
use crate::object::kube::EndpointSlice;
use crate::source::Batch;
use crate::source::Refused;

/// Nothing new for so long: what has come is whole.
pub const QUIET: Duration = Duration::from_millis(50);
/// The longest wait, however much keeps coming: a fifth of the second in which a policy is to be live.
pub const PATIENCE: Duration = Duration::from_millis(200);

/// Batches that have come and are not published yet.
#[derive(Debug, Default)]
pub struct Debounce {
    events: BTreeMap<ObjectId, Event>,
    refused: Option<Arc<[Refused]>>,
    due: Option<Due>,
}

#[derive(Debug, Clone, Copy)]
struct Due {
    first: Instant,
    at: Instant,
}

/// Whether a batch may wait for others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Haste {
    Gather,
    AtOnce,
}

impl Debounce {
    pub fn add(&mut self, batch: Batch, haste: Haste, now: Instant) {
        for event in batch.events {
            let id = match &event {
                Event::Applied(object) => object.id(),
                Event::Deleted(id) => id.clone(),
            };
            self.events.insert(id, event);
        }
        self.refused = Some(batch.refused);
        let first = self.due.map_or(now, |due| due.first);
        let at = match haste {
            Haste::AtOnce => now,
            Haste::Gather => (now + QUIET).min(first + PATIENCE),
        };
        // What was urgent stays so.
        let at = self.due.filter(|due| due.at <= now).map_or(at, |due| due.at);
        self.due = Some(Due { first, at });
    }

    /// When to publish; `None`: nothing waits.
    pub fn due(&self) -> Option<Instant> {
        self.due.map(|due| due.at)
    }

    pub fn take(&mut self) -> Option<Batch> {
        let refused = self.refused.take()?;
        self.due = None;
        Some(Batch { events: std::mem::take(&mut self.events).into_values().collect(), refused })
    }
}

/// Whether one of these takes away what requests may be on their way to: an object, a ready endpoint, a ready Pod.
pub fn haste(world: &World, events: &[Event]) -> Haste {
    let takes_away = |event: &Event| match event {
        Event::Deleted(_) => true,
        Event::Applied(object) => match (world.object(&object.id()).map(|old| &**old), &**object) {
            (Some(Object::EndpointSlice(old)), Object::EndpointSlice(new)) => loses(old, new),
            (Some(Object::Pod(old)), Object::Pod(new)) => {
                let leaves = |pod: &crate::object::kube::Pod| !pod.metadata.deletion_timestamp.is_empty();
                (old.ready() && !new.ready()) || (!leaves(old) && leaves(new))
            }
            _ => false,
        },
    };
    if events.iter().any(takes_away) { Haste::AtOnce } else { Haste::Gather }
}

fn loses(old: &EndpointSlice, new: &EndpointSlice) -> bool {
    let ready = |slice: &'_ EndpointSlice| -> Vec<String> {
        let ready = slice.endpoints.iter().filter(|endpoint| endpoint.conditions.ready.unwrap_or(true));
        ready.flat_map(|endpoint| endpoint.addresses.iter().cloned()).collect()
    };
    let kept = ready(new);
    ready(old).iter().any(|address| !kept.contains(address))
}
