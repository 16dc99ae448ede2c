//! What we tell users about their objects: conditions, and in how many proxies each is in force. Made when asked for.
//! It never counts a proxy as programmed by what was sent to it, only by what it said it applied.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt;
use std::fmt::Write as _;

use leno_proto::hash::Hash;
use leno_proto::key::Key;
use serde::Serialize;

use crate::compile;
use crate::compile::conditions;
use crate::compile::conditions::Condition;
use crate::compile::conditions::Judged;
use crate::compile::conditions::TargetStatus;
use crate::compile::parents::ParentStatus;
use crate::index::Topic;
use crate::object::Kind;
use crate::object::Object;
use crate::object::ObjectId;
use crate::reconcile::Table;
use crate::source::Refused;

/// Proxies named in a message; the rest are a number.
const NAMED_MAX: usize = 5;

/// What one proxy has reported.
#[derive(Debug, Clone, Default)]
pub struct Proxy {
    pub uid: String,
    /// `namespace/name` of its Pod, for people.
    pub pod: String,
    pub namespace: String,
    pub connected: bool,
    /// Versions that it said it applied.
    pub applied: BTreeMap<Key, Hash>,
    /// Versions that it refused, and why.
    pub rejected: BTreeMap<Key, (Hash, String)>,
    /// Fields in force in what it applied that its build does not enforce.
    pub unsupported: BTreeMap<Key, Vec<String>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    pub generation: u64,
    pub sidecars: Sidecars,
    pub objects: Vec<ObjectStatus>,
    pub refused: Vec<Refused>,
}

/// Of the whole mesh, as far as this replica knows.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Sidecars {
    pub connected: usize,
    /// Ready meshed Pods without a session.
    pub disconnected: usize,
    /// Of the disconnected, `NAMED_MAX` at most.
    pub named: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ObjectStatus {
    pub kind: &'static str,
    pub namespace: String,
    pub name: String,
    pub generation: i64,
    pub conditions: Vec<Condition>,
    /// Of a route: what each Service that it names as a parent is told.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parents: Vec<ParentStatus>,
    /// Of a TrafficPolicy.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<TargetStatus>,
    pub proxies: Proxies,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Proxies {
    pub selected: usize,
    pub applied: usize,
    pub rejected: usize,
    pub disconnected: usize,
}

/// Of every object that is ours to judge, and of what was not admitted.
pub fn report(table: &Table, proxies: &[Proxy]) -> Report {
    let proxies: Vec<&Proxy> = proxies.iter().filter(|proxy| counts(table, proxy)).collect();
    let provenance = table.provenance();
    let silent = Silent::of(table, &proxies);
    let none = BTreeSet::new();
    let mut objects = Vec::new();
    for (id, object) in conditions::judged(table.world()) {
        let Some(judged) = conditions::judge(table.world(), object) else { continue };
        let uses = Uses {
            keys: provenance.get(id).unwrap_or(&none),
            silent: silent.by_object.get(id).map_or(&[], Vec::as_slice),
            generation: object.meta().generation,
        };
        let (counts, mut programmed) = programmed(table, &proxies, &uses);
        let parents = judged.parents(&programmed, uses.generation);
        let targets = judged.targets.clone();
        // A route may be refused by one parent and be in force at another; each is told by itself.
        if let Some(reason) = judged.refused().filter(|_| counts.selected == 0 || parents.is_empty()) {
            programmed = conditions::idle(&format!("it is not accepted: {reason}"), uses.generation);
        }
        let unsupported = unsupported(&judged, &proxies, uses.keys);
        let mut conditions = judged.conditions(unsupported, uses.generation);
        conditions.insert(2, programmed);
        objects.push(ObjectStatus {
            kind: id.kind.as_str(),
            namespace: id.name.namespace.to_string(),
            name: id.name.name.to_string(),
            generation: object.meta().generation,
            conditions,
            parents,
            targets,
            proxies: counts,
        });
    }
    let sidecars = sidecars(&proxies, &silent);
    Report { generation: table.generation, sidecars, objects, refused: table.refused.to_vec() }
}

/// A proxy leaves the count with its Pod. One without a session counts only while its Pod serves: what is not ready is not
/// called, and where no Pod is known there is none.
fn counts(table: &Table, proxy: &Proxy) -> bool {
    match table.world().pod_by_uid(&proxy.uid) {
        Some(pod) => pod.metadata.deletion_timestamp.is_empty() && (proxy.connected || pod.ready()),
        None => proxy.connected,
    }
}

fn sidecars(proxies: &[&Proxy], silent: &Silent) -> Sidecars {
    let lost = proxies.iter().filter(|proxy| !proxy.connected).map(|proxy| proxy.pod.clone());
    let mut named: Vec<String> = lost.chain(silent.pods.iter().cloned()).collect();
    named.sort();
    let disconnected = named.len();
    named.truncate(NAMED_MAX);
    Sidecars { connected: proxies.iter().filter(|proxy| proxy.connected).count(), disconnected, named }
}

/// Ready meshed Pods whose sidecars this control plane has never heard.
struct Silent {
    pods: Vec<String>,
    /// By what every sidecar of theirs must have: they hold `Programmed` back.
    by_object: BTreeMap<ObjectId, Vec<String>>,
}

impl Silent {
    fn of(table: &Table, proxies: &[&Proxy]) -> Silent {
        let heard: BTreeSet<&str> = proxies.iter().map(|proxy| proxy.uid.as_str()).collect();
        let mut silent = Silent { pods: Vec::new(), by_object: BTreeMap::new() };
        let hold_back = conditions::judged(table.world()).next().is_some();
        for object in table.world().about(&Topic::All(Kind::Pod)) {
            let Object::Pod(pod) = object else { continue };
            let meta = &pod.metadata;
            let counts = pod.ready() && meta.deletion_timestamp.is_empty() && compile::meshed(table.world(), pod);
            if !counts || heard.contains(meta.uid.as_str()) {
                continue;
            }
            silent.pods.push(meta.key().to_string());
            if !hold_back {
                continue;
            }
            let own = [Key::Inbound(meta.uid.as_str().into()), Key::ProxyConfig, Key::EgressIndex, Key::Share];
            let entries: Vec<_> = own.iter().filter_map(|key| table.entry(key, &meta.namespace)).collect();
            let sources: BTreeSet<&ObjectId> = entries.iter().flat_map(|entry| &entry.sources).collect();
            for source in sources {
                silent.by_object.entry(source.clone()).or_default().push(meta.key().to_string());
            }
        }
        silent
    }
}

/// Who uses one object.
struct Uses<'a> {
    /// Resources that it is in force in.
    keys: &'a BTreeSet<Key>,
    silent: &'a [String],
    generation: i64,
}

/// True when every proxy that uses the object has applied its present version (CONTRACTS section 5).
fn programmed(table: &Table, proxies: &[&Proxy], object: &Uses<'_>) -> (Proxies, Condition) {
    let Uses { keys, silent, generation } = *object;
    let mut counts = Proxies::default();
    let mut waiting = Vec::new();
    let mut refusals = Vec::new();
    for proxy in proxies {
        let uses: Vec<&Key> =
            keys.iter().filter(|key| proxy.applied.contains_key(key) || proxy.rejected.contains_key(key)).collect();
        if uses.is_empty() {
            continue;
        }
        counts.selected += 1;
        let current = |key: &Key| table.entry(key, &proxy.namespace).map(|entry| entry.hash);
        let rejected =
            uses.iter().find(|key| proxy.rejected.get(**key).is_some_and(|(hash, _)| Some(*hash) == current(key)));
        if let Some(key) = rejected {
            counts.rejected += 1;
            refusals.extend(proxy.rejected.get(*key).map(|(_, why)| format!("{}: {why}", proxy.pod)));
        } else if !proxy.connected {
            counts.disconnected += 1;
            waiting.push(proxy.pod.as_str());
        } else if uses.iter().all(|key| proxy.applied.get(*key).copied() == current(key)) {
            counts.applied += 1;
        } else {
            waiting.push(proxy.pod.as_str());
        }
    }
    counts.selected += silent.len();
    counts.disconnected += silent.len();
    waiting.extend(silent.iter().map(String::as_str));
    let (status, reason, message) = if counts.selected == 0 {
        ("True", "Programmed", "no client uses it yet".to_owned())
    } else if counts.rejected > 0 {
        ("False", "Rejected", some(&refusals.iter().map(String::as_str).collect::<Vec<_>>(), "; "))
    } else if counts.applied < counts.selected {
        let text = format!(
            "applied in {} of {} proxies; waiting for {}",
            counts.applied,
            counts.selected,
            some(&waiting, ", ")
        );
        ("False", "Reconciling", text)
    } else {
        ("True", "Programmed", format!("applied in {} of {} proxies", counts.applied, counts.selected))
    };
    (counts, Condition { kind: "Programmed", status, reason, message, observed_generation: generation })
}

/// Fields that the user wrote and that proxies said they do not act on; before any has taken the object up, what our own release
/// says of itself.
fn unsupported(judged: &Judged, proxies: &[&Proxy], keys: &BTreeSet<Key>) -> Vec<String> {
    let users: Vec<_> = proxies.iter().filter(|proxy| keys.iter().any(|key| proxy.applied.contains_key(key))).collect();
    if users.is_empty() {
        let ours = judged.unsupported.iter();
        return ours.map(|field| conditions::unsupported(field, "no proxy of this release acts on it")).collect();
    }
    let named = |proxy: &Proxy, field: &String| {
        keys.iter().filter_map(|key| proxy.unsupported.get(key)).flatten().any(|one| one == field)
    };
    let said = judged.fields.iter().filter_map(|field| {
        let without = users.iter().filter(|proxy| named(proxy, field)).count();
        let whom = format!("{without} of {} proxies do not act on it", users.len());
        (without > 0).then(|| conditions::unsupported(field, &whom))
    });
    said.collect()
}

fn some(names: &[&str], between: &str) -> String {
    let mut text = names.iter().take(NAMED_MAX).copied().collect::<Vec<_>>().join(between);
    if names.len() > NAMED_MAX {
        let _ = write!(text, " and {} more", names.len() - NAMED_MAX);
    }
    text
}

impl fmt::Display for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Proxies { selected, applied, rejected, disconnected } = *self;
        write!(f, "applied in {applied} of {selected}")?;
        for (count, what) in [(rejected, "rejected"), (disconnected, "disconnected")] {
            if count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        Ok(())
    }
}

impl Report {
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("plain data with string keys")
    }

    /// For people: the sidecars, then one line an object, what is wrong below it.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let Sidecars { connected, disconnected, named } = &self.sidecars;
        let _ =
            writeln!(out, "{:10}{connected} connected, {disconnected} disconnected{}", "sidecars", self.lost(named));
        for refused in &self.refused {
            let _ = writeln!(out, "REFUSED   {refused}");
        }
        for one in &self.objects {
            let name =
                if one.namespace.is_empty() { one.name.clone() } else { format!("{}/{}", one.namespace, one.name) };
            let bad = one.conditions.iter().any(|c| (c.status == "False") != (c.kind == "Warnings"));
            let word = if bad { "ATTENTION" } else { "ok" };
            let _ = writeln!(out, "{word:10}{} {name}  generation {}, {}", one.kind, one.generation, one.proxies);
            for condition in one.conditions.iter().filter(|c| (c.status == "False") != (c.kind == "Warnings")) {
                let _ = writeln!(out, "          {}: {} {}", condition.kind, condition.reason, condition.message);
            }
        }
        if self.objects.is_empty() && self.refused.is_empty() {
            out.push_str("no policies and no routes\n");
        }
        out
    }

    fn lost(&self, named: &[String]) -> String {
        let more = match self.sidecars.disconnected.saturating_sub(named.len()) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        if named.is_empty() { more } else { format!(": {}{more}", named.join(", ")) }
    }
}
