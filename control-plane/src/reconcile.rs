//! The one task that owns the world: takes a batch of events in and publishes what follows from it as one immutable table.
//! It never publishes a table before the source has been read once: an empty mesh must be the user's word, not our start-up.

pub mod debounce;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::LazyLock;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use leno_proto::hash::Hash;
use leno_proto::key::Key;
use leno_proto::lead::Lead;
use leno_proto::policy::Resource;
use leno_proto::policy::ServiceName;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio::time::sleep_until;

use crate::compile;
use crate::index::Base;
use crate::index::Dirty;
use crate::index::Topic;
use crate::index::World;
use crate::object::ObjectId;
use crate::reconcile::debounce::Debounce;
use crate::reconcile::debounce::Haste;
use crate::source::Batch;
use crate::source::Refused;

/// Compiled resources kept for the next who asks. They can be made again at any time, so that reaching the bound costs work, not
/// truth: proxies may ask for any address.
const MEMO_MAX: usize = 200_000;

/// The scope of all keys but one.
static EVERYWHERE: LazyLock<Arc<str>> = LazyLock::new(|| "".into());

/// How a resource becomes bytes (`leno_proto::convert`).
pub type Encode = fn(&Resource) -> Vec<u8>;

/// One resource as it goes out.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry {
    /// Of `bytes`.
    pub hash: Hash,
    /// A leno.policy.v1.Resource, shared by every session.
    pub bytes: Bytes,
    pub leads_to: BTreeSet<Lead>,
    /// Objects that are in force in it.
    pub sources: BTreeSet<ObjectId>,
    /// Of Endpoints: how many buckets there are.
    buckets: u32,
}

/// What there was for a key when it was looked up, and whether that still holds. Who keeps it need not look up again until it
/// does not.
#[derive(Debug)]
pub struct Found {
    /// `None`: there was no such thing.
    entry: Option<Arc<Entry>>,
    /// Of the world, in order; an event about one of these ends it.
    asked: Box<[Topic]>,
    /// The first table for which it holds.
    since: u64,
    touched: AtomicBool,
}

impl Found {
    /// A resource that is made from no world: it holds until whoever made it says otherwise.
    pub fn of(bytes: Bytes) -> Found {
        let entry =
            Entry { hash: Hash::of(&bytes), bytes, leads_to: BTreeSet::new(), sources: BTreeSet::new(), buckets: 0 };
        Found { entry: Some(Arc::new(entry)), asked: Box::default(), since: 0, touched: AtomicBool::new(false) }
    }

    pub fn entry(&self) -> Option<&Arc<Entry>> {
        self.entry.as_ref()
    }

    /// Nothing has happened since that could make it another.
    pub fn stands(&self) -> bool {
        !self.touched.load(Ordering::Acquire)
    }

    /// It may be another from now on.
    pub fn touch(&self) {
        self.touched.store(true, Ordering::Release);
    }

    /// Whether the same other keys follow from both.
    fn leads_as(&self, other: &Found) -> bool {
        match (&self.entry, &other.entry) {
            (Some(one), Some(other)) => one.leads_to == other.leads_to && one.buckets == other.buckets,
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        }
    }
}

/// What the mesh says at one moment. Resources are compiled when first asked for, and remembered: as compiling is pure, nobody can
/// tell when it happened.
#[derive(Debug)]
pub struct Table {
    /// Grows with every publication; for people and metrics, never compared between replicas.
    pub generation: u64,
    pub refused: Arc<[Refused]>,
    world: Arc<World>,
    encode: Encode,
    memo: Arc<Mutex<Memo>>,
}

/// A key, and the client namespace where the key alone does not say all (EgressIndex).
type Scoped = (Key, Arc<str>);

/// What has been compiled. The tables of one reconciler share it, so that a batch of events costs what it touches and not
/// what there is.
#[derive(Debug, Default)]
struct Memo {
    /// The newest table's: for that one all of it holds.
    generation: u64,
    made: HashMap<Arc<Scoped>, Arc<Found>>,
    /// Which of them asked a question. There are many more questions than keys, so that a set holds where they are.
    asked: HashMap<Topic, HashSet<Arc<Scoped>>>,
    /// Of the table before, for what must be made again: equal bytes are then shared, not copied.
    stale: HashMap<Arc<Scoped>, Arc<Entry>>,
}

impl Memo {
    /// What a table of this generation may use.
    fn find(&self, scoped: &Scoped, generation: u64) -> Option<&Arc<Found>> {
        self.made.get(scoped).filter(|made| made.since <= generation)
    }

    /// Remembers it, unless a later batch may have touched what it asked, or somebody else was first: of one key there is one
    /// that stands, so that all who hold it hear when it does not.
    fn keep(&mut self, scoped: Arc<Scoped>, made: Found) -> Arc<Found> {
        let made = Arc::new(made);
        if made.since != self.generation {
            made.touch();
            return made;
        }
        if let Some(first) = self.made.get(&scoped) {
            return Arc::clone(first);
        }
        if self.made.len() >= MEMO_MAX {
            self.made.values().for_each(|made| made.touch());
            *self = Memo { generation: self.generation, ..Memo::default() };
        }
        for topic in &made.asked {
            match self.asked.get_mut(topic) {
                Some(askers) => {
                    askers.insert(scoped.clone());
                }
                None => {
                    self.asked.insert(topic.clone(), HashSet::from([scoped.clone()]));
                }
            }
        }
        self.stale.remove(&scoped);
        self.made.insert(scoped, Arc::clone(&made));
        made
    }

    /// Forgets what a batch touched.
    fn turn(&mut self, dirty: &Dirty, generation: u64) {
        self.generation = generation;
        self.stale.clear();
        for topic in &dirty.topics {
            for scoped in self.asked.remove(topic).into_iter().flatten() {
                let Some(made) = self.made.remove(&scoped) else { continue };
                made.touch();
                for other in made.asked.iter().filter(|other| *other != topic) {
                    if let Some(askers) = self.asked.get_mut(other) {
                        askers.remove(&scoped);
                        if askers.is_empty() {
                            self.asked.remove(other);
                        }
                    }
                }
                self.stale.extend(made.entry.clone().map(|entry| (scoped, entry)));
            }
        }
    }
}

/// Who holds the world.
#[derive(Debug)]
pub struct Reconciler {
    encode: Encode,
    world: Arc<World>,
    memo: Arc<Mutex<Memo>>,
    table: Option<Arc<Table>>,
}

impl Reconciler {
    pub fn new(encode: Encode) -> Reconciler {
        Reconciler { encode, world: Arc::default(), memo: Arc::default(), table: None }
    }

    /// With what holds where the Mesh says nothing.
    pub fn on(base: Base, encode: Encode) -> Reconciler {
        Reconciler { encode, world: Arc::new(World::with(base)), memo: Arc::default(), table: None }
    }

    /// The first reading of a source is waited for by everybody.
    fn haste(&self, batch: &Batch) -> Haste {
        if self.table.is_none() { Haste::AtOnce } else { debounce::haste(&self.world, &batch.events) }
    }

    pub fn take(&mut self, batch: Batch) -> Arc<Table> {
        // Sessions hold the world through their table, so this makes a copy, which shares all that does not change.
        let dirty = Arc::make_mut(&mut self.world).apply(batch.events);
        let generation = self.table.as_ref().map_or(1, |table| table.generation + 1);
        self.memo.lock().turn(&dirty, generation);
        let (world, memo) = (Arc::clone(&self.world), Arc::clone(&self.memo));
        let table = Arc::new(Table { generation, refused: batch.refused, world, encode: self.encode, memo });
        self.table = Some(Arc::clone(&table));
        table
    }
}

/// Runs until the source ends. What was published last stays.
pub async fn run(
    mut reconciler: Reconciler,
    mut batches: mpsc::Receiver<Batch>,
    tables: watch::Sender<Option<Arc<Table>>>,
) {
    let mut debounce = Debounce::default();
    let mut known: Arc<[Refused]> = Arc::from([]);
    let mut open = true;
    while open {
        let due = debounce.due().map(Instant::from_std);
        tokio::select! {
            // What is due goes first, so that a source that never rests cannot put it off.
            biased;
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            batch = batches.recv() => match batch {
                Some(batch) => {
                    let haste = reconciler.haste(&batch);
                    debounce.add(batch, haste, Instant::now().into_std());
                    continue;
                }
                None => open = false,
            },
        }
        let Some(batch) = debounce.take() else { continue };
        let table = reconciler.take(batch);
        for one in table.refused.iter().filter(|one| !known.contains(one)) {
            tracing::warn!("not admitted: {one}");
        }
        known = Arc::clone(&table.refused);
        tables.send_replace(Some(table));
    }
}

impl Table {
    /// A table of a world as it stands: for the CLI and for tests.
    pub fn of(world: World, encode: Encode) -> Table {
        let memo = Memo { generation: 1, ..Memo::default() };
        Table {
            generation: 1,
            refused: Arc::from([]),
            world: Arc::new(world),
            encode,
            memo: Arc::new(Mutex::new(memo)),
        }
    }

    pub fn world(&self) -> &World {
        &self.world
    }

    /// The resource as clients in `namespace` are to have it. `None`: there is none now; asking again later is right.
    pub fn entry(&self, key: &Key, namespace: &str) -> Option<Arc<Entry>> {
        self.found(key, namespace).entry.clone()
    }

    /// As `entry`, with what tells whether it still holds.
    pub fn found(&self, key: &Key, namespace: &str) -> Arc<Found> {
        let scope = if matches!(key, Key::EgressIndex) { namespace.into() } else { Arc::clone(&EVERYWHERE) };
        let scoped: Scoped = (key.clone(), scope);
        let stale = {
            let memo = self.memo.lock();
            if let Some(made) = memo.find(&scoped, self.generation) {
                return Arc::clone(made);
            }
            memo.stale.get(&scoped).cloned()
        };
        let made = self.make(&scoped, stale);
        self.memo.lock().keep(Arc::new(scoped), made)
    }

    /// The key of a Service's Outbound for clients in `namespace`.
    pub fn outbound(&self, service: &ServiceName, namespace: &str) -> Key {
        Key::Outbound { service: service.clone(), view: compile::view(&self.world, service, namespace) }
    }

    /// What a client in `namespace` needs so that it can use these keys: themselves and everything that they lead to, and the
    /// keys among them for which there is nothing now.
    pub fn closure<'a>(&self, roots: impl IntoIterator<Item = &'a Key>, namespace: &str) -> BTreeMap<Key, Arc<Found>> {
        let mut closure = BTreeMap::new();
        let mut todo: Vec<Key> = roots.into_iter().cloned().collect();
        while let Some(key) = todo.pop() {
            let key = self.own_view(&key, namespace);
            if closure.contains_key(&key) {
                continue;
            }
            let found = self.found(&key, namespace);
            if let Some(entry) = &found.entry {
                todo.extend(entry.leads_to.iter().map(|lead| self.first_key(lead, namespace)));
                if let Key::Endpoints { target, bucket: 0 } = &key {
                    todo.extend((1..entry.buckets).map(|bucket| Key::Endpoints { target: target.clone(), bucket }));
                }
            }
            closure.insert(key, found);
        }
        closure
    }

    /// What stands in the place of something that was found in a closure and may be another now. `None`: other keys may follow
    /// from it, so that only the whole closure tells.
    pub fn renewed(&self, key: &Key, old: &Found, namespace: &str) -> Option<Arc<Found>> {
        if self.own_view(key, namespace) != *key {
            return None;
        }
        let new = self.found(key, namespace);
        new.leads_as(old).then_some(new)
    }

    /// The view is not the caller's to pick.
    fn own_view(&self, key: &Key, namespace: &str) -> Key {
        match key {
            Key::Outbound { service, .. } => self.outbound(service, namespace),
            other => other.clone(),
        }
    }

    /// True when the source knows this Pod.
    pub fn knows_pod(&self, uid: &str) -> bool {
        self.world.pod_by_uid(uid).is_some()
    }

    /// Provenance, the other way round: of what has been asked for so far, the keys that each object is in force in.
    pub fn provenance(&self) -> BTreeMap<ObjectId, BTreeSet<Key>> {
        let mut keys: BTreeMap<ObjectId, BTreeSet<Key>> = BTreeMap::new();
        let memo = self.memo.lock();
        for (scoped, made) in memo.made.iter().filter(|(_, made)| made.since <= self.generation) {
            for source in made.entry.iter().flat_map(|entry| &entry.sources) {
                keys.entry(source.clone()).or_default().insert(scoped.0.clone());
            }
        }
        keys
    }

    fn first_key(&self, lead: &Lead, namespace: &str) -> Key {
        match lead {
            Lead::Outbound(service) => self.outbound(service, namespace),
            Lead::Endpoints(target) => Key::Endpoints { target: target.clone(), bucket: 0 },
        }
    }

    /// `stale`: what it was before.
    fn make(&self, scoped: &Scoped, stale: Option<Arc<Entry>>) -> Found {
        let (key, scope) = scoped;
        let compiled = match key {
            Key::EgressIndex => compile::egress_index(&self.world, scope),
            _ => compile::compile(&self.world, key),
        };
        let entry = compiled.resource.as_ref().map(|resource| {
            let buckets = if let Resource::Endpoints(endpoints) = resource { endpoints.buckets } else { 0 };
            let bytes = Bytes::from((self.encode)(resource));
            let hash = Hash::of(&bytes);
            let (leads_to, sources) = (compiled.leads_to, compiled.sources);
            match stale {
                Some(old) if old.hash == hash && old.sources == sources && old.leads_to == leads_to => old,
                Some(old) if old.hash == hash => {
                    Arc::new(Entry { hash, bytes: old.bytes.clone(), leads_to, sources, buckets })
                }
                Some(_) | None => Arc::new(Entry { hash, bytes, leads_to, sources, buckets }),
            }
        });
        let asked = compiled.asked.into_iter().collect();
        Found { entry, asked, since: self.generation, touched: AtomicBool::new(false) }
    }
}
