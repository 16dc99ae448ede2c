//! News of all kinds into batches of events: what a whole list no longer holds is deleted, what cannot be read is set aside.
//! Pure. It must never make an empty interim out of a list, nor let a bad object through half-read.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value;
use serde_json::json;
use tokio::time::Instant;

use crate::kube::watch::News;
use crate::object::Event;
use crate::object::Kind;
use crate::object::Name;
use crate::object::Object;
use crate::object::ObjectId;
use crate::object::check;
use crate::source::Batch;
use crate::source::Refused;

/// Annotations that we read; the rest, above all the last applied manifest, is not kept.
const ANNOTATIONS: [&str; 2] = ["leno.dev/", "service.kubernetes.io/"];

/// Of one object, told at most.
const FLAWS_MAX: usize = 10;

/// One object as it came.
#[derive(Debug)]
pub(super) struct Read {
    id: ObjectId,
    outcome: Result<Arc<Object>, Aside>,
}

/// An object that does not decode.
#[derive(Debug)]
struct Aside {
    refused: Refused,
    /// What is in force in its stead (CONTRACTS section 4): the rest of an AccessPolicy that still refuses.
    instead: Option<Arc<Object>>,
}

impl Read {
    pub(super) fn object(kind: Kind, mut object: Value) -> Read {
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        let namespace = if kind.namespaced() { text("namespace") } else { String::new() };
        let id = ObjectId { kind, name: Name::new(&namespace, &text("name")) };
        if kind.group() == "policy.leno.dev" {
            // Items of a list may come without.
            object["apiVersion"] = crate::object::POLICY_VERSION.into();
            object["kind"] = kind.as_str().into();
        }
        // A list would be taken for its fields in their order.
        let decoded = match object["spec"].is_array() {
            true => Err(serde::de::Error::custom("spec: it is a list")),
            false => Object::decode(kind, object.clone()),
        };
        let outcome = match decoded {
            Ok(mut object) => {
                let meta = object.meta_mut();
                meta.annotations.retain(|name, _| ANNOTATIONS.iter().any(|kept| name.starts_with(kept)));
                if let Object::Pod(pod) = &mut object {
                    pod.admitted = true;
                }
                match flaws(&object) {
                    Some(words) => Err(Aside { refused: refused(&id, &words), instead: None }),
                    None => Ok(Arc::new(object)),
                }
            }
            Err(error) => Err(Aside { refused: refused(&id, &error.to_string()), instead: instead(kind, object) }),
        };
        Read { id, outcome }
    }
}

/// What the schema and the webhook should have refused, had they been asked. A route is judged rule by rule, and an AccessPolicy
/// term by term, where they are compiled: what is left of them counts.
fn flaws(object: &Object) -> Option<String> {
    match object.kind() {
        Kind::TrafficPolicy | Kind::InboundPolicy | Kind::EgressHost | Kind::Mesh => {}
        _ => return None,
    }
    let flaws = check::check(object);
    let words: Vec<String> =
        flaws.iter().take(FLAWS_MAX).map(|flaw| format!("{}: {}", flaw.field, flaw.message)).collect();
    (!words.is_empty()).then(|| words.join("; "))
}

fn refused(id: &ObjectId, message: &str) -> Refused {
    Refused {
        file: "cluster".to_owned(),
        line: None,
        object: Some(id.to_string()),
        field: String::new(),
        message: message.to_owned(),
        remedy: "correct it; until then it is set aside".to_owned(),
        earlier_in_force: false,
    }
}

/// An Allow that cannot be read grants nothing, and its ports are closed to everyone else too; a Deny keeps the rules that can be
/// read, each without what cannot: it refuses more rather than less.
fn instead(kind: Kind, mut object: Value) -> Option<Arc<Object>> {
    if kind != Kind::AccessPolicy {
        return None;
    }
    let spec = object["spec"].take();
    let mut attempt = |spec: Value| {
        object["spec"] = spec;
        Object::decode(kind, object.clone()).ok()
    };
    let workloads = json!({"workloads": spec["workloads"], "action": "Audit"});
    let workloads = if attempt(workloads).is_some() { spec["workloads"].clone() } else { json!({}) };
    let action = spec["action"].as_str().filter(|word| ["Allow", "Deny", "Audit"].contains(word)).unwrap_or("Allow");
    let mut rules = Vec::new();
    for rule in spec["rules"].as_array().into_iter().flatten().filter(|_| action == "Deny") {
        let mut kept = json!({});
        for (name, value) in rule.as_object().into_iter().flatten() {
            let mut more = kept.clone();
            more[name] = value.clone();
            if attempt(json!({"action": "Deny", "rules": [more.clone()]})).is_some() {
                kept = more;
            }
        }
        rules.push(kept);
    }
    attempt(json!({"workloads": workloads, "action": action, "rules": rules})).map(Arc::new)
}

/// What has been heard and not been passed on.
pub(super) struct Gathered {
    known: BTreeMap<Kind, BTreeSet<Name>>,
    unlisted: BTreeSet<Kind>,
    failing: BTreeMap<Kind, Instant>,
    refused: BTreeMap<ObjectId, Refused>,
    events: Vec<Event>,
    /// Nothing has been passed on yet.
    first: bool,
    refusals_changed: bool,
}

impl Gathered {
    pub(super) fn new(kinds: impl IntoIterator<Item = Kind>) -> Gathered {
        Gathered {
            known: BTreeMap::new(),
            unlisted: kinds.into_iter().collect(),
            failing: BTreeMap::new(),
            refused: BTreeMap::new(),
            events: Vec::new(),
            first: true,
            refusals_changed: false,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.events.len()
    }

    pub(super) fn fails(&self, kind: Kind) -> bool {
        self.failing.contains_key(&kind)
    }

    /// Since when any of the kinds has been failing.
    pub(super) fn stale(&self) -> Option<Instant> {
        self.failing.values().min().copied()
    }

    pub(super) fn take(&mut self, kind: Kind, news: News<Read>, now: Instant) {
        if let News::Failing(_) = news {
            self.failing.entry(kind).or_insert(now);
            return;
        }
        self.failing.remove(&kind);
        match news {
            News::Listed(all) => {
                self.unlisted.remove(&kind);
                let before = self.known.remove(&kind).unwrap_or_default();
                let now: BTreeSet<Name> = all.iter().map(|one| one.id.name.clone()).collect();
                for name in before.difference(&now) {
                    self.delete(ObjectId { kind, name: name.clone() });
                }
                all.into_iter().for_each(|one| self.apply(one));
                self.known.insert(kind, now);
            }
            News::Applied(one) => {
                self.known.entry(kind).or_default().insert(one.id.name.clone());
                self.apply(one);
            }
            News::Deleted(one) => {
                self.known.entry(kind).or_default().remove(&one.id.name);
                self.delete(one.id);
            }
            News::Current | News::Failing(_) => {}
        }
    }

    /// `None`: there is nothing to say, or not every kind has been listed.
    pub(super) fn batch(&mut self) -> Option<Batch> {
        let idle = self.events.is_empty() && !self.refusals_changed && !self.first;
        if idle || !self.unlisted.is_empty() {
            return None;
        }
        (self.first, self.refusals_changed) = (false, false);
        let refused: Vec<Refused> = self.refused.values().cloned().collect();
        Some(Batch { events: std::mem::take(&mut self.events), refused: refused.into() })
    }

    fn apply(&mut self, one: Read) {
        let Read { id, outcome } = one;
        let (object, refused) = match outcome {
            Ok(object) => (Some(object), None),
            Err(aside) => (aside.instead, Some(aside.refused)),
        };
        self.refusals_changed |= self.refused.get(&id) != refused.as_ref();
        let ours = id.kind.group() == "policy.leno.dev";
        match (refused, object) {
            (None, None) => {}
            (None, Some(object)) => {
                self.refused.remove(&id);
                self.events.push(Event::Applied(object));
            }
            (Some(refused), Some(object)) => {
                self.refused.insert(id, refused);
                self.events.push(Event::Applied(object));
            }
            (Some(refused), None) => {
                self.refused.insert(id.clone(), refused);
                // A policy that says what we cannot read is absent. The Mesh stays as we knew it, as its absence would open what it
                // closes, and so does a Pod or Service of a newer cluster.
                if ours && id.kind != Kind::Mesh {
                    self.events.push(Event::Deleted(id));
                }
            }
        }
    }

    fn delete(&mut self, id: ObjectId) {
        self.refusals_changed |= self.refused.remove(&id).is_some();
        self.events.push(Event::Deleted(id));
    }
}
