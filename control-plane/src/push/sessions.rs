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
    live: Mutex<HashMap<Arc<str>, Arc<Live>>>,
    max: usize,
    /// Grows whenever a proxy has applied or refused something, came or left.
    news: watch::Sender<u64>,
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
        Arc::new(Sessions { live: Mutex::default(), max, news: watch::Sender::new(0) })
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
            let mut all = self.live.lock();
            if all.len() >= self.max && !all.contains_key(&uid) {
                return Err(Full);
            }
            if let Some(old) = all.insert(uid, live.clone()) {
                old.replaced.send_replace(true);
            }
        }
        self.tell();
        Ok(Seat { sessions: self.clone(), live, replaced })
    }

    pub fn count(&self) -> usize {
        self.live.lock().len()
    }

    /// All that are there now. Lock each ledger briefly and never across an await.
    pub fn all(&self) -> Vec<Arc<Live>> {
        self.live.lock().values().cloned().collect()
    }

    pub fn by_pod(&self, uid: &str) -> Option<Arc<Live>> {
        self.live.lock().get(uid).cloned()
    }

    /// What the pods of the same owner use: the newcomer will want it too, and should not wait for it.
    pub fn wanted_by_siblings(&self, caller: &Caller) -> Vec<Key> {
        let sibling = |live: &&Arc<Live>| {
            let other = &live.caller;
            (&other.namespace, &other.service_account) == (&caller.namespace, &caller.service_account)
                && other.pod_uid != caller.pod_uid
        };
        let siblings: Vec<_> = self.live.lock().values().filter(sibling).take(SIBLINGS_MAX).cloned().collect();
        let mut wanted = BTreeSet::new();
        for live in siblings {
            wanted.extend(live.ledger.lock().wanted().iter().take(PREFETCH_MAX).cloned());
        }
        wanted.into_iter().take(PREFETCH_MAX).collect()
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
            let mut all = self.sessions.live.lock();
            if all.get(uid).is_some_and(|live| Arc::ptr_eq(live, &self.live)) {
                all.remove(uid);
            }
        }
        self.sessions.tell();
    }
}
