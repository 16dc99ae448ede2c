//! What one proxy wants, holds and has refused, and what to tell it next. Pure: no I/O, no clock.
//!
//! The dirty set is the difference between what the proxy should hold and what it does hold, taken anew for each
//! transaction. So there is no queue to fill: a proxy that is slow skips what it has missed, and memory depends on what a
//! proxy holds, never on how fast things change. A resource leaves with the last one that leads to it.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::sync::Arc;

use leno_proto::convert;
use leno_proto::hash;
use leno_proto::hash::Hash;
use leno_proto::key::DEFAULT_VIEW;
use leno_proto::key::Key;

use crate::push::offer::Item;
use crate::push::offer::Offer;
use crate::reconcile::Found;

/// A sidecar talks to tens of Services; this many is an attack or a port scan.
pub const SUBSCRIPTIONS_MAX: usize = 10_000;
/// Endpoints of all that is subscribed to, and everything else that follows.
pub const HELD_MAX: usize = 65_536;
/// Versions of one key that a build has refused; the oldest goes first.
pub const REJECTED_MAX: usize = 8;
/// Keys with refused versions that are remembered although the proxy does not need them now.
pub const REFUSED_KEYS_MAX: usize = 1024;
/// What one `Put` may carry, so that the message around it stays within 256 KiB.
pub const RESOURCE_MAX: usize = convert::RESOURCE_BYTES_MAX;

/// What the session's identity and Hello say; it decides what this proxy may see.
#[derive(Debug, Clone)]
pub struct Scope {
    pub namespace: Arc<str>,
    pub pod_uid: Arc<str>,
    pub capabilities: BTreeSet<Arc<str>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Put(Key, Item),
    Unchanged(Key, Hash),
    /// `gone`: there is no such resource any more; else this proxy does not need it now.
    Removed {
        key: Key,
        gone: bool,
    },
}

/// A version that the proxy has refused, in its own words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub hash: Hash,
    pub field: String,
    pub message: String,
}

/// Why a resource that the proxy should hold is not sent to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Withheld {
    /// The proxy's build cannot enforce what the resource demands.
    Incapable,
    /// It does not fit into a message.
    TooLarge,
}

/// Where a proxy stands with one version of a resource that it needs: what `Programmed` counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Applied,
    /// Not sent yet, or not reported yet.
    Pending,
    /// An earlier version, if any, stays in force.
    Rejected,
    Withheld(Withheld),
}

/// The proxy broke the protocol, or asked for more than anyone needs. The session ends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    #[error("more than {SUBSCRIPTIONS_MAX} subscriptions")]
    Subscriptions,
    #[error("more than {HELD_MAX} resources held")]
    Held,
    #[error("only Destinations and Outbounds are subscribed to, not {0}")]
    NotForSubscription(Key),
    #[error("a report of transaction {0}, which is not under way")]
    UnknownTransaction(u64),
}

#[derive(Debug)]
pub struct Ledger {
    scope: Scope,
    wanted: BTreeSet<Key>,
    held: BTreeMap<Key, Hash>,
    /// Held by the proxy's own word, from before this session; each gets an answer once.
    claimed: BTreeSet<Key>,
    refused: BTreeMap<Key, VecDeque<Refusal>>,
    unsupported: BTreeMap<Key, Vec<String>>,
    withheld: BTreeMap<Key, Withheld>,
    /// What the proxy needed when it was last planned for, and what there was of it, in the order of the keys.
    needed: Vec<(Key, Arc<Found>)>,
    /// `needed` is all that what is wanted leads to.
    whole: bool,
    flight: Option<Flight>,
    last_transaction: u64,
}

#[derive(Debug)]
struct Flight {
    id: u64,
    puts: BTreeMap<Key, Hash>,
    removed: Vec<Key>,
}

/// A transaction as it grows.
#[derive(Default)]
struct Draft {
    changes: VecDeque<Change>,
    puts: BTreeMap<Key, Hash>,
    removed: Vec<Key>,
}

/// One transaction to be sent.
#[derive(Debug)]
pub struct Plan {
    pub id: u64,
    pub changes: VecDeque<Change>,
}

/// What a report told, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Outcome {
    pub applied: usize,
    pub rejected: usize,
}

impl Ledger {
    pub fn new(scope: Scope) -> Ledger {
        Ledger {
            scope,
            wanted: BTreeSet::new(),
            held: BTreeMap::new(),
            claimed: BTreeSet::new(),
            refused: BTreeMap::new(),
            unsupported: BTreeMap::new(),
            withheld: BTreeMap::new(),
            needed: Vec::new(),
            whole: false,
            flight: None,
            last_transaction: 0,
        }
    }

    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    pub fn held(&self) -> &BTreeMap<Key, Hash> {
        &self.held
    }

    /// Newest last.
    pub fn refused(&self) -> &BTreeMap<Key, VecDeque<Refusal>> {
        &self.refused
    }

    /// By key, the fields that are in force and that this build does not enforce.
    pub fn unsupported(&self) -> &BTreeMap<Key, Vec<String>> {
        &self.unsupported
    }

    pub fn withheld(&self) -> &BTreeMap<Key, Withheld> {
        &self.withheld
    }

    /// `None`: the proxy does not need this resource.
    pub fn standing(&self, key: &Key, hash: &Hash) -> Option<Standing> {
        self.need(key)?.entry()?;
        if self.held.get(key) == Some(hash) {
            return Some(Standing::Applied);
        }
        if self.refused.get(key).is_some_and(|refused| refused.iter().any(|refusal| refusal.hash == *hash)) {
            return Some(Standing::Rejected);
        }
        Some(self.withheld.get(key).map_or(Standing::Pending, |withheld| Standing::Withheld(*withheld)))
    }

    pub fn wanted(&self) -> &BTreeSet<Key> {
        &self.wanted
    }

    pub fn in_flight(&self) -> bool {
        self.flight.is_some()
    }

    /// One line of a Held: what the proxy brings from before. A Destination or Outbound that it brings is also asked for.
    pub fn claim(&mut self, key: Key, hash: Option<Hash>, refused: Vec<Hash>) -> Result<(), Violation> {
        if self.held.len() >= HELD_MAX || self.refused.len() >= HELD_MAX {
            return Err(Violation::Held);
        }
        if is_subscribable(&key) {
            self.subscribe(key.clone())?;
        }
        for hash in refused {
            self.refuse(
                &key,
                Refusal { hash, field: String::new(), message: "refused before this session".to_owned() },
            );
        }
        if let Some(hash) = hash {
            self.claimed.insert(key.clone());
            self.held.insert(key, hash);
        }
        Ok(())
    }

    pub fn subscribe(&mut self, key: Key) -> Result<(), Violation> {
        if !is_subscribable(&key) {
            return Err(Violation::NotForSubscription(key));
        }
        self.whole &= !self.wanted.insert(viewless(key));
        if self.wanted.len() > SUBSCRIPTIONS_MAX { Err(Violation::Subscriptions) } else { Ok(()) }
    }

    pub fn unsubscribe(&mut self, key: Key) {
        self.whole &= !self.wanted.remove(&viewless(key));
    }

    /// True while nothing has happened since the last plan that could make our Pod unknown.
    pub fn pod_stands(&self) -> bool {
        self.need(&self.own_inbound()).is_some_and(|found| found.stands() && found.entry().is_some())
    }

    /// The next transaction, if there is anything to say and the last one has been reported.
    pub fn plan(&mut self, offer: &dyn Offer) -> Option<Plan> {
        if self.flight.is_some() {
            return None;
        }
        let mut draft = Draft::default();
        match self.renew(offer) {
            Some(renewed) => renewed.into_iter().for_each(|place| self.compare(place, &mut draft)),
            None => self.look(offer, &mut draft),
        }
        let Draft { changes, puts, removed } = draft;
        if changes.is_empty() {
            return None;
        }
        self.last_transaction += 1;
        self.flight = Some(Flight { id: self.last_transaction, puts, removed });
        Some(Plan { id: self.last_transaction, changes })
    }

    /// Looks again only at what does not stand; where that is. `None`: that does not suffice.
    fn renew(&mut self, offer: &dyn Offer) -> Option<Vec<usize>> {
        if !self.whole {
            return None;
        }
        let mut renewed = Vec::new();
        for (place, (key, found)) in self.needed.iter_mut().enumerate().filter(|(_, (_, found))| !found.stands()) {
            *found = offer.renewed(key, found, &self.scope.namespace)?;
            renewed.push(place);
        }
        Some(renewed)
    }

    /// Looks at everything.
    fn look(&mut self, offer: &dyn Offer, draft: &mut Draft) {
        let desired = self.desired(offer);
        self.withheld.clear();
        self.whole = desired.len() <= HELD_MAX;
        self.needed = desired.into_iter().take(HELD_MAX).collect();
        (0..self.needed.len()).for_each(|place| self.compare(place, draft));
        let own_inbound = self.own_inbound();
        for key in self.held.keys() {
            if *key == own_inbound || self.need(key).is_some_and(|found| found.entry().is_some()) {
                continue;
            }
            draft.removed.push(key.clone());
            let there = offer.closure(&mut std::iter::once(key), &self.scope.namespace);
            let gone = there.get(key).is_none_or(|found| found.entry().is_none());
            draft.changes.push_back(Change::Removed { key: key.clone(), gone });
        }
        self.claimed.clear();
        // A refused version stays refused while the key comes and goes, as long as the list stays small.
        if self.refused.len() > REFUSED_KEYS_MAX {
            let needed = &self.needed;
            self.refused.retain(|key, _| needed.binary_search_by(|(one, _)| one.cmp(key)).is_ok());
        }
    }

    /// What is to be said of one that is needed.
    fn compare(&mut self, place: usize, draft: &mut Draft) {
        let (key, found) = &self.needed[place];
        self.withheld.remove(key);
        let Some(item) = found.entry().map(|entry| Item::from(&**entry)) else { return };
        if self.held.get(key) == Some(&item.hash) {
            if self.claimed.contains(key) {
                draft.changes.push_back(Change::Unchanged(key.clone(), item.hash));
            }
            return;
        }
        if self.refused.get(key).is_some_and(|refused| refused.iter().any(|refusal| refusal.hash == item.hash)) {
            return;
        }
        if let Some(withheld) = self.withhold(&item) {
            self.withheld.insert(key.clone(), withheld);
            return;
        }
        draft.puts.insert(key.clone(), item.hash);
        draft.changes.push_back(Change::Put(key.clone(), item));
    }

    /// What became of the transaction under way. A put that the report passes over counts as refused: it is not in force,
    /// and sending it again would go on for ever.
    pub fn report(
        &mut self,
        transaction: u64,
        applied: Vec<(Key, Hash, Vec<String>)>,
        rejected: Vec<(Key, Refusal)>,
    ) -> Result<Outcome, Violation> {
        let Some(mut flight) = self.flight.take_if(|flight| flight.id == transaction) else {
            return Err(Violation::UnknownTransaction(transaction));
        };
        let mut outcome = Outcome::default();
        for key in &flight.removed {
            self.held.remove(key);
            self.unsupported.remove(key);
        }
        for (key, hash, unsupported) in applied {
            if flight.puts.get(&key) != Some(&hash) {
                continue;
            }
            // The key that was sent shares its text with those of other sessions.
            let Some((key, _)) = flight.puts.remove_entry(&key) else { continue };
            if unsupported.is_empty() {
                self.unsupported.remove(&key)
            } else {
                self.unsupported.insert(key.clone(), unsupported)
            };
            self.held.insert(key, hash);
            outcome.applied += 1;
        }
        for (key, refusal) in rejected {
            if flight.puts.get(&key) == Some(&refusal.hash) {
                flight.puts.remove(&key);
                self.refuse(&key, refusal);
                outcome.rejected += 1;
            }
        }
        for (key, hash) in std::mem::take(&mut flight.puts) {
            self.refuse(
                &key,
                Refusal { hash, field: String::new(), message: "not mentioned in the report".to_owned() },
            );
            outcome.rejected += 1;
        }
        Ok(outcome)
    }

    /// Over what the proxy holds, to be compared with its own.
    pub fn digest(&self) -> Hash {
        hash::digest(&self.held)
    }

    /// Everything that the proxy should hold: what it asked for, what every proxy has, and what these lead to.
    fn desired(&self, offer: &dyn Offer) -> BTreeMap<Key, Arc<Found>> {
        let own = [Key::TrustBundle, Key::ProxyConfig, Key::EgressIndex, Key::Share, self.own_inbound()];
        offer.closure(&mut self.wanted.iter().chain(&own), &self.scope.namespace)
    }

    fn need(&self, key: &Key) -> Option<&Found> {
        let place = self.needed.binary_search_by(|(one, _)| one.cmp(key)).ok()?;
        self.needed.get(place).map(|(_, found)| &**found)
    }

    fn own_inbound(&self) -> Key {
        Key::Inbound(Arc::clone(&self.scope.pod_uid))
    }

    fn withhold(&self, item: &Item) -> Option<Withheld> {
        if item.bytes.len() > RESOURCE_MAX {
            return Some(Withheld::TooLarge);
        }
        let capable = item.requires().all(|required| self.scope.capabilities.contains(required));
        (!capable).then_some(Withheld::Incapable)
    }

    fn refuse(&mut self, key: &Key, refusal: Refusal) {
        let refused = self.refused.entry(key.clone()).or_default();
        refused.retain(|earlier| earlier.hash != refusal.hash);
        refused.push_back(refusal);
        if refused.len() > REJECTED_MAX {
            refused.pop_front();
        }
    }
}

fn is_subscribable(key: &Key) -> bool {
    matches!(key, Key::Destination(_) | Key::Outbound { .. })
}

/// A view is not the proxy's to pick, so every Outbound is wanted in the same one.
fn viewless(key: Key) -> Key {
    match key {
        Key::Outbound { service, .. } => Key::Outbound { service, view: DEFAULT_VIEW.into() },
        other => other,
    }
}
