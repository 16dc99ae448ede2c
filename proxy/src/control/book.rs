//! What this proxy holds, asked for and refused, and what a transaction makes of it. Pure: no I/O, no clock. It must never
//! drop what is in force because something newer was bad.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::Duration;
use std::time::Instant;

use bytes::Bytes;
use leno_proto::fields;
use leno_proto::hash;
use leno_proto::hash::Hash;
use leno_proto::key::DEFAULT_VIEW;
use leno_proto::key::Key;
use leno_proto::policy::Destination;
use leno_proto::policy::Resource;
use leno_proto::policy::ServiceName;
use leno_proto::wire::control as wire;
use leno_proto::wire::control::change::Change as Wire;

use crate::aside::step_aside;
use crate::control::resource;
use crate::control::resource::Decode;
use crate::control::resource::Refusal;
use crate::state::Change;

/// One proxy's side of the ledger.
#[derive(Debug)]
pub struct Book {
    pod_uid: String,
    held: BTreeMap<Key, Hash>,
    rejected: BTreeMap<Key, Vec<Hash>>,
    /// What this proxy is subscribed to, with its last use: what the stories asked for, and what a session began with. Outbounds
    /// stand here in the default view: which one it is, is not ours to say.
    asked: BTreeMap<Key, Instant>,
    /// Addresses that nothing has: the first to be forgotten when there is no room.
    not_found: BTreeSet<Key>,
}

/// What becomes of a resource in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keep {
    InForce(Hash, Bytes),
    /// Not used for long: it stays, and serves when it is asked for while no control plane answers.
    Evicted,
    Gone,
}

/// A transaction, judged.
#[derive(Debug, Default)]
pub struct Judged {
    /// For the state.
    pub changes: Vec<Change>,
    /// For the file.
    pub kept: Vec<(Key, Keep)>,
    pub report: wire::Report,
    pub unchanged: u64,
}

impl Book {
    /// `restored` is in force already.
    pub fn new(pod_uid: &str, rejected: BTreeMap<Key, Vec<Hash>>) -> Self {
        let (held, asked) = (BTreeMap::new(), BTreeMap::new());
        Self { pod_uid: pod_uid.into(), held, rejected, asked, not_found: BTreeSet::new() }
    }

    /// A resource of the file, now in force. The next session's greeting asks for it.
    pub fn restored(&mut self, key: Key, hash: Hash, now: Instant) {
        if matches!(key, Key::Destination(_) | Key::Outbound { .. }) {
            self.asked.insert(viewless(key.clone()), now);
        }
        self.held.insert(key, hash);
    }

    pub fn holds(&self, key: &Key) -> bool {
        match key {
            Key::Outbound { service, .. } => {
                let first = Key::Outbound { service: service.clone(), view: "".into() };
                self.held.range(first..).next().is_some_and(|(held, _)| is_outbound_of(held, service))
            }
            key => self.held.contains_key(key),
        }
    }

    pub fn rejected(&self) -> &BTreeMap<Key, Vec<Hash>> {
        &self.rejected
    }

    pub fn len(&self) -> usize {
        self.held.len()
    }

    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// What to send for a key that a story misses. Above the bound another is given up for it: the one not used for longest
    /// among those that nothing has or nobody answered.
    pub fn ask(&mut self, key: Key, now: Instant) -> Option<wire::Subscribe> {
        let key = viewless(key);
        if let Some(used) = self.asked.get_mut(&key) {
            *used = now;
            return None;
        }
        let mut subscribe = wire::Subscribe::default();
        if self.asked.len() >= ASKED_MAX {
            let idle = self.asked.iter().filter(|(key, _)| self.not_found.contains(*key) || !self.holds(key));
            let given_up = idle.min_by_key(|(_, used)| **used).map(|(key, _)| key.clone())?;
            self.asked.remove(&given_up);
            self.not_found.remove(&given_up);
            subscribe.remove.push(resource::to_wire(&given_up));
        }
        subscribe.add.push(resource::to_wire(&key));
        self.asked.insert(key, now);
        Some(subscribe)
    }

    /// Takes note of what is in use, and says what to unsubscribe from: what has not been for `IDLE`. What leaves with it is the
    /// server's to say. To be called while the session is healthy.
    pub fn idle(&mut self, used: Vec<Key>, now: Instant) -> wire::Subscribe {
        for key in used {
            if let Some(at) = self.asked.get_mut(&key) {
                *at = now;
            }
        }
        let is_idle = |used: &Instant| now.saturating_duration_since(*used) >= IDLE;
        let idle: Vec<Key> =
            self.asked.iter().filter(|(_, used)| is_idle(used)).map(|(key, _)| key.clone()).take(IDLE_MAX).collect();
        for key in &idle {
            self.asked.remove(key);
        }
        wire::Subscribe { add: Vec::new(), remove: idle.iter().map(resource::to_wire).collect() }
    }

    /// Everything that a new session must know, in chunks. The server takes each Destination and Outbound among it as asked for,
    /// and so do we from here on.
    pub fn held(&mut self, now: Instant) -> Vec<wire::Held> {
        let subscribable = self.held.keys().filter(|key| matches!(key, Key::Destination(_) | Key::Outbound { .. }));
        for key in subscribable {
            self.asked.entry(viewless(key.clone())).or_insert(now);
        }
        let rejections = |key: &Key| {
            let all = self.rejected.get(key).into_iter().flatten();
            all.map(|hash| resource::hash_bytes(*hash)).collect()
        };
        let line = |key: &Key, hash: Bytes| wire::HeldResource {
            key: Some(resource::to_wire(key)),
            hash,
            rejected: rejections(key),
        };
        let held = self.held.iter().map(|(key, hash)| line(key, resource::hash_bytes(*hash)));
        let asked = self.asked.keys().filter(|key| !self.holds(key)).map(|key| line(key, Bytes::new()));
        let refused = self.rejected.keys().filter(|key| !self.held.contains_key(key) && !self.asked.contains_key(key));
        let lines: Vec<_> = held.chain(asked).chain(refused.map(|key| line(key, Bytes::new()))).collect();
        let mut chunks: Vec<_> =
            lines.chunks(CHUNK).map(|lines| wire::Held { resources: lines.to_vec(), last: false }).collect();
        match chunks.last_mut() {
            Some(last) => last.last = true,
            None => chunks.push(wire::Held { resources: Vec::new(), last: true }),
        }
        chunks
    }

    pub fn digest(&self) -> Hash {
        hash::digest(&self.held)
    }

    /// Judges each change alone: what is good goes into force, what is not keeps its last good version.
    pub fn judge(&mut self, transaction: u64, changes: Vec<wire::Change>, decode: Decode) -> Judged {
        let mut judged = Judged { report: wire::Report { transaction, ..Default::default() }, ..Default::default() };
        for change in changes {
            step_aside();
            let (Some(name), Some(change)) = (change.key, change.change) else { continue };
            match (Key::parse(name.kind, &name.name), change) {
                (Ok(key), Wire::Put(put)) => self.put(&mut judged, key, put, decode),
                (Err(error), Wire::Put(put)) => {
                    judged.reject(name, put.hash, Refusal::new("key", error.to_string()));
                }
                (Ok(key), Wire::Unchanged(unchanged)) => {
                    judged.unchanged += 1;
                    if self.held.get(&key).is_none_or(|held| held.as_bytes()[..] != unchanged.hash[..]) {
                        // We never said so; the digests will tell, and the next session begins with the truth.
                        tracing::warn!(%key, "the control plane believes that this proxy holds another version");
                    }
                }
                (Ok(key), Wire::Removed(removed)) => self.removed(&mut judged, key, removed),
                (Err(_), Wire::Unchanged(_) | Wire::Removed(_)) => {}
            }
        }
        judged
    }

    fn put(&mut self, judged: &mut Judged, key: Key, put: wire::Put, decode: Decode) {
        let name = resource::to_wire(&key);
        let Some(hash) = Hash::from_bytes(&put.hash) else {
            return judged.reject(name, put.hash, Refusal::new("hash", "not 32 bytes"));
        };
        let mine = match &key {
            Key::Inbound(uid) => **uid == *self.pod_uid,
            _ => true,
        };
        let taken = match mine {
            true => resource::take(&key, hash, &put.resource, decode),
            false => Err(Refusal::new("key", "another workload's Inbound")),
        };
        match taken {
            Ok(resource) => {
                match &resource {
                    Resource::Destination(Destination::NotFound) => drop(self.not_found.insert(key.clone())),
                    _ => drop(self.not_found.remove(&key)),
                }
                self.held.insert(key.clone(), hash);
                let unsupported = fields::unenforced(&resource);
                judged.report.applied.push(wire::Applied { key: Some(name), hash: put.hash, unsupported });
                judged.kept.push((key.clone(), Keep::InForce(hash, put.resource)));
                judged.changes.push(Change::Put(key, resource.into()));
            }
            Err(refusal) => {
                tracing::warn!(%key, field = refusal.field, why = refusal.message, "a resource is refused; the last good one stays");
                let rejected = self.rejected.entry(key).or_default();
                rejected.retain(|one| *one != hash);
                rejected.push(hash);
                if rejected.len() > REJECTED_MAX {
                    rejected.remove(0);
                }
                while self.rejected.len() > REJECTED_KEYS_MAX {
                    self.rejected.pop_first();
                }
                judged.reject(name, put.hash, refusal);
            }
        }
    }

    fn removed(&mut self, judged: &mut Judged, key: Key, removed: wire::Removed) {
        self.held.remove(&key);
        self.not_found.remove(&key);
        // A mesh always has these; a control plane that says otherwise has lost its state, and we keep ours.
        if matches!(key, Key::TrustBundle | Key::ProxyConfig | Key::Inbound(_)) {
            tracing::warn!(%key, "the control plane takes away what no proxy can be without; the last good one stays");
            return;
        }
        judged.kept.push((key.clone(), if removed.gone { Keep::Gone } else { Keep::Evicted }));
        judged.changes.push(Change::Removed(key));
    }
}

/// In which view an Outbound comes is the server's to say.
fn viewless(key: Key) -> Key {
    match key {
        Key::Outbound { service, .. } => Key::Outbound { service, view: DEFAULT_VIEW.into() },
        other => other,
    }
}

fn is_outbound_of(key: &Key, service: &ServiceName) -> bool {
    matches!(key, Key::Outbound { service: it, .. } if it == service)
}

impl Judged {
    fn reject(&mut self, key: wire::Key, hash: Bytes, refusal: Refusal) {
        let Refusal { field, message } = refusal;
        self.report.rejected.push(wire::Rejected { key: Some(key), hash, field, message });
    }
}

/// Below what the server bears (10,000), because what is held is claimed as well.
const ASKED_MAX: usize = 8_000;

/// A subscription that nobody used for so long is given back.
pub(super) const IDLE: Duration = Duration::from_secs(600);
/// Given back in one message: its size is bounded, and the rest goes with the next.
const IDLE_MAX: usize = 512;

/// Of one key; the oldest goes first. As the server remembers.
const REJECTED_MAX: usize = 8;
const REJECTED_KEYS_MAX: usize = 1024;

/// Lines of one Held message: a line has at most 650 bytes (a name of two Kubernetes names, nine hashes), in 256 KiB.
const CHUNK: usize = 256;
