//! Who has a session now, and what each of them has applied: what `status` counts and `/sessions` shows.
//! One session a pod: the newest wins, so that a proxy whose connection broke unseen never waits for the old one to die.

use std::collections::BTreeSet;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use leno_proto::hash::Hash;
use leno_proto::key::Key;
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::watch;

use crate::ca::unix;
use crate::push::ledger::Ledger;
use crate::token::Caller;

/// A few siblings have seen all that there is to see.
const SIBLINGS_MAX: usize = 4;
/// What is guessed must stay small beside what is asked for.
const PREFETCH_MAX: usize = 256;

/// One session; its end is the end of the last clone that `session` holds.
#[derive(Debug)]
pub struct Live {
    pub caller: Caller,
    pub build: String,
    pub since: SystemTime,
    pub ledger: Mutex<Ledger>,
    replaced: watch::Sender<bool>,
}

#[derive(Debug)]
pub struct Sessions {
    present: Mutex<Present>,
    max: usize,
    /// Grows whenever a proxy has applied or refused something, came or left.
    news: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Present {
    live: HashMap<Arc<str>, Arc<Live>>,
    /// Proxies that had applied something when their session ended, until they return or their Pod is gone: they still run
    /// what they were told last, and nobody can say more of them than that.
    departed: HashMap<Arc<str>, Arc<Live>>,
}

/// The place of a session among the others; dropping it leaves.
#[derive(Debug)]
pub struct Seat {
    sessions: Arc<Sessions>,
    pub live: Arc<Live>,
    pub replaced: watch::Receiver<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this replica has as many sessions as it takes")]
pub struct Full;

impl Sessions {
    pub fn new(max: usize) -> Arc<Sessions> {
        Arc::new(Sessions { present: Mutex::default(), max, news: watch::Sender::new(0) })
    }

    pub fn enter(
        self: &Arc<Self>,
        caller: Caller,
        build: String,
        ledger: Ledger,
        now: SystemTime,
    ) -> Result<Seat, Full> {
        let (sender, replaced) = watch::channel(false);
        let uid = caller.pod_uid.clone();
        let live = Arc::new(Live { caller, build, since: now, ledger: Mutex::new(ledger), replaced: sender });
        {
            let mut present = self.present.lock();
            if present.live.len() >= self.max && !present.live.contains_key(&uid) {
                return Err(Full);
            }
            present.departed.remove(&uid);
            if let Some(old) = present.live.insert(uid, live.clone()) {
                old.replaced.send_replace(true);
            }
        }
        self.tell();
        Ok(Seat { sessions: self.clone(), live, replaced })
    }

    pub fn count(&self) -> usize {
        self.present.lock().live.len()
    }

    /// All that are there now. Lock each ledger briefly and never across an await.
    pub fn all(&self) -> Vec<Arc<Live>> {
        self.present.lock().live.values().cloned().collect()
    }

    /// Proxies without a session that have applied something, and whose Pod is not known to be gone.
    pub fn departed(&self) -> Vec<Arc<Live>> {
        self.present.lock().departed.values().cloned().collect()
    }

    /// Forgets the departed whose Pod is no more.
    pub fn forget_departed(&self, is_there: impl Fn(&str) -> bool) {
        let mut present = self.present.lock();
        let before = present.departed.len();
        present.departed.retain(|uid, _| is_there(uid));
        let fewer = present.departed.len() < before;
        drop(present);
        if fewer {
            self.tell();
        }
    }

    pub fn by_pod(&self, uid: &str) -> Option<Arc<Live>> {
        self.present.lock().live.get(uid).cloned()
    }

    /// What the pods of the same owner use: the newcomer will want it too, and should not wait for it.
    pub fn wanted_by_siblings(&self, caller: &Caller) -> Vec<Key> {
        let sibling = |live: &&Arc<Live>| {
            let other = &live.caller;
            (&other.namespace, &other.service_account) == (&caller.namespace, &caller.service_account)
                && other.pod_uid != caller.pod_uid
        };
        let siblings: Vec<_> = self.present.lock().live.values().filter(sibling).take(SIBLINGS_MAX).cloned().collect();
        let mut wanted = BTreeSet::new();
        for live in siblings {
            wanted.extend(live.ledger.lock().wanted().iter().take(PREFETCH_MAX).cloned());
        }
        wanted.into_iter().take(PREFETCH_MAX).collect()
    }

    /// Grows whenever `all` or `departed` would say something else.
    pub fn version(&self) -> u64 {
        *self.news.borrow()
    }

    /// Wakes whoever counts what is applied where.
    pub fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    pub fn tell(&self) {
        self.news.send_modify(|news| *news += 1);
    }

    /// True when every session has applied this version of the key.
    pub fn all_hold(&self, key: &Key, hash: &Hash) -> bool {
        self.all().iter().all(|live| live.ledger.lock().held().get(key) == Some(hash))
    }

    /// For `/sessions`.
    pub fn describe(&self) -> serde_json::Value {
        let mut all = self.all();
        all.sort_by(|a, b| (&a.caller.namespace, &a.caller.pod_name).cmp(&(&b.caller.namespace, &b.caller.pod_name)));
        let sessions = all.iter().map(|live| {
            let ledger = live.ledger.lock();
            let keys: Vec<_> =
                ledger.held().iter().map(|(key, hash)| json!({"key": key.to_string(), "hash": hash.to_string()})).collect();
            let refused: Vec<_> = ledger
                .refused()
                .iter()
                .flat_map(|(key, refusals)| {
                    refusals.iter().map(move |refusal| {
                        json!({"key": key.to_string(), "hash": refusal.hash.to_string(), "field": refusal.field,
                               "message": refusal.message})
                    })
                })
                .collect();
            json!({
                "namespace": &*live.caller.namespace, "pod": &*live.caller.pod_name, "podUid": &*live.caller.pod_uid,
                "serviceAccount": &*live.caller.service_account, "build": live.build, "sinceUnix": unix(live.since),
                "subscriptions": ledger.wanted().len(), "inFlight": ledger.in_flight(), "held": keys, "rejected": refused,
            })
        });
        serde_json::Value::Array(sessions.collect())
    }
}

impl Seat {
    pub fn tell(&self) {
        self.sessions.tell();
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let uid = &self.live.caller.pod_uid;
        {
            let mut present = self.sessions.present.lock();
            if present.live.get(uid).is_some_and(|live| Arc::ptr_eq(live, &self.live)) {
                present.live.remove(uid);
                let counts = !self.live.ledger.lock().held().is_empty();
                if counts && present.departed.len() < self.sessions.max {
                    present.departed.insert(uid.clone(), self.live.clone());
                }
            }
        }
        self.sessions.tell();
    }
}
