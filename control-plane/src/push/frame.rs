//! Between the ledger's words and the wire's, and cuts transactions into messages. Pure.
//! It must never make a message larger than 256 KiB, nor take one that is.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use bytes::Bytes;
use leno_proto::hash::Hash;
use leno_proto::key::Key;
use leno_proto::wire::control;
use leno_proto::wire::control::change;
use leno_proto::wire::control::to_proxy;
use prost::Message;

use crate::push::ledger::Change;
use crate::push::ledger::Plan;
use crate::push::ledger::Refusal;

/// Both ways, with everything around the payload.
pub const MESSAGE_MAX: usize = 256 * 1024;
/// What goes together into one message, except where one change is larger: a session keeps a buffer of the largest that it sent.
const TOGETHER_MAX: usize = 4 * 1024;
/// What stands around the changes of one part: ids, tags and lengths.
const FRAME: usize = 64;
/// What a proxy says in words is kept for people, cut to this.
const WORDS_MAX: usize = 512;
/// Fields of one resource that a build does not enforce.
const UNSUPPORTED_MAX: usize = 64;

/// A transaction that is being sent, part by part, each made when the one before is gone.
#[derive(Debug)]
pub struct Parts {
    id: u64,
    left: VecDeque<Change>,
}

impl Parts {
    pub fn new(plan: Plan) -> Parts {
        Parts { id: plan.id, left: plan.changes }
    }

    /// The next part, and whether it is the last.
    pub fn take(&mut self) -> (control::ToProxy, bool) {
        let (mut changes, mut size) = (Vec::new(), FRAME);
        while let Some(next) = self.left.pop_front() {
            let change = to_wire(&next);
            let cost = change.encoded_len() + 8;
            if size + cost > TOGETHER_MAX && !changes.is_empty() {
                self.left.push_front(next);
                break;
            }
            size += cost;
            changes.push(change);
        }
        let last = self.left.is_empty();
        (message(to_proxy::Message::Transaction(control::Transaction { id: self.id, changes, last })), last)
    }
}

pub fn message(message: to_proxy::Message) -> control::ToProxy {
    control::ToProxy { message: Some(message) }
}

fn to_wire(change: &Change) -> control::Change {
    let (key, change) = match change {
        Change::Put(key, item) => {
            let put = control::Put { hash: hash_bytes(&item.hash), resource: item.bytes.clone() };
            (key, change::Change::Put(put))
        }
        Change::Unchanged(key, hash) => (key, change::Change::Unchanged(control::Unchanged { hash: hash_bytes(hash) })),
        Change::Removed { key, gone } => (key, change::Change::Removed(control::Removed { gone: *gone })),
    };
    control::Change { key: Some(control::Key { kind: key.kind() as i32, name: key.name() }), change: Some(change) }
}

pub fn hash_bytes(hash: &Hash) -> Bytes {
    Bytes::copy_from_slice(hash.as_bytes())
}

/// `None`: no key, or none that this build knows. A newer proxy may name kinds that we do not have; these are passed over.
pub fn key(wire: Option<&control::Key>) -> Option<Key> {
    let wire = wire?;
    Key::parse(wire.kind, &wire.name).ok()
}

pub fn applied(wire: Vec<control::Applied>) -> Vec<(Key, Hash, Vec<String>)> {
    let one = |applied: control::Applied| {
        let mut unsupported = applied.unsupported;
        unsupported.truncate(UNSUPPORTED_MAX);
        unsupported.iter_mut().for_each(cut);
        Some((key(applied.key.as_ref())?, Hash::from_bytes(&applied.hash)?, unsupported))
    };
    wire.into_iter().filter_map(one).collect()
}

pub fn rejected(wire: Vec<control::Rejected>) -> Vec<(Key, Refusal)> {
    let one = |mut rejected: control::Rejected| {
        cut(&mut rejected.field);
        cut(&mut rejected.message);
        let hash = Hash::from_bytes(&rejected.hash)?;
        Some((key(rejected.key.as_ref())?, Refusal { hash, field: rejected.field, message: rejected.message }))
    };
    wire.into_iter().filter_map(one).collect()
}

fn cut(words: &mut String) {
    words.truncate(words.floor_char_boundary(WORDS_MAX));
}
