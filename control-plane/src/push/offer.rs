//! What there is to tell: the compiled resources with the anchors laid over them. It must never pick a view by a
//! proxy's word, nor offer anything before the source has been read once.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use leno_proto::hash::Hash;
use leno_proto::key::Key;
use tokio::sync::watch;

use crate::ca::Trust;
use crate::reconcile::Entry;
use crate::reconcile::Found;
use crate::reconcile::Table;

/// One resource as it goes out; a clone shares its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Of `bytes`.
    pub hash: Hash,
    /// A leno.policy.v1.Resource.
    pub bytes: Bytes,
}

impl From<&Entry> for Item {
    fn from(entry: &Entry) -> Item {
        Item { hash: entry.hash, bytes: entry.bytes.clone() }
    }
}

impl Item {
    pub fn new(bytes: Bytes) -> Item {
        Item { hash: Hash::of(&bytes), bytes }
    }

    /// Security capabilities without which a proxy must not be given this resource: `requires` of leno.policy.v1.Resource,
    /// which is its first field, so that the rest need not be decoded once for each session.
    pub fn requires(&self) -> impl Iterator<Item = &str> {
        let mut rest = &*self.bytes;
        std::iter::from_fn(move || {
            // Field 1, length-delimited; a capability's name is shorter than 128 bytes, so its length is one byte.
            let [0x0a, length @ 0..128, after @ ..] = rest else { return None };
            let (name, left) = after.split_at_checked(usize::from(*length))?;
            rest = left;
            std::str::from_utf8(name).ok()
        })
    }
}

/// The mesh at one moment.
pub trait Offer: Send + Sync {
    /// These keys and all that they lead to, as a client in `namespace` is to have them, and those of them that do not exist.
    fn closure(&self, roots: &mut dyn Iterator<Item = &Key>, namespace: &str) -> BTreeMap<Key, Arc<Found>>;

    /// What stands in the place of one of a closure that does not stand. `None`: take the whole closure anew.
    fn renewed(&self, key: &Key, old: &Found, namespace: &str) -> Option<Arc<Found>>;

    fn knows_pod(&self, uid: &str) -> bool;

    /// For people.
    fn generation(&self) -> u64;
}

/// The mesh, live. `None`: the source has not been read yet, and nobody is told anything.
pub type Offers = watch::Receiver<Option<Arc<dyn Offer>>>;

/// A table with the anchors of the authority: the source does not know them.
struct Trusting {
    table: Arc<dyn Offer>,
    trust: Arc<Found>,
}

impl Offer for Trusting {
    fn closure(&self, roots: &mut dyn Iterator<Item = &Key>, namespace: &str) -> BTreeMap<Key, Arc<Found>> {
        let mut closure = self.table.closure(roots, namespace);
        closure.insert(Key::TrustBundle, Arc::clone(&self.trust));
        closure
    }

    fn renewed(&self, key: &Key, old: &Found, namespace: &str) -> Option<Arc<Found>> {
        match key {
            Key::TrustBundle => Some(Arc::clone(&self.trust)),
            _ => self.table.renewed(key, old, namespace),
        }
    }

    fn knows_pod(&self, uid: &str) -> bool {
        self.table.knows_pod(uid)
    }

    fn generation(&self) -> u64 {
        self.table.generation()
    }
}

/// Publishes each table with the anchors that hold, and again when either changes. Ends with either of its sources.
pub async fn join(
    mut tables: Offers,
    mut anchors: watch::Receiver<Arc<Trust>>,
    encode: fn(&Trust) -> Bytes,
    offers: watch::Sender<Option<Arc<dyn Offer>>>,
) {
    let mut trust = Arc::new(Found::of(encode(&anchors.borrow_and_update())));
    loop {
        if let Some(table) = tables.borrow_and_update().clone() {
            offers.send_replace(Some(Arc::new(Trusting { table, trust: Arc::clone(&trust) })));
        }
        let changed = tokio::select! {
            changed = tables.changed() => changed,
            changed = anchors.changed() => {
                let before = std::mem::replace(&mut trust, Arc::new(Found::of(encode(&anchors.borrow_and_update()))));
                before.touch();
                changed
            }
        };
        if changed.is_err() {
            return;
        }
    }
}

impl Offer for Table {
    fn closure(&self, roots: &mut dyn Iterator<Item = &Key>, namespace: &str) -> BTreeMap<Key, Arc<Found>> {
        Table::closure(self, roots, namespace)
    }

    fn renewed(&self, key: &Key, old: &Found, namespace: &str) -> Option<Arc<Found>> {
        Table::renewed(self, key, old, namespace)
    }

    fn knows_pod(&self, uid: &str) -> bool {
        Table::knows_pod(self, uid)
    }

    fn generation(&self) -> u64 {
        self.generation
    }
}

/// Passes on what `reconcile` publishes.
pub async fn follow(mut tables: watch::Receiver<Option<Arc<Table>>>, offers: watch::Sender<Option<Arc<dyn Offer>>>) {
    loop {
        if let Some(table) = tables.borrow_and_update().clone() {
            offers.send_replace(Some(table));
        }
        if tables.changed().await.is_err() {
            return;
        }
    }
}
