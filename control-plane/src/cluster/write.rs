//! Statuses, written back: what changes its meaning at once, what only counts now and then, and never more than the API server
//! should bear. Entries of other controllers are never touched, and nothing is written over what we have not read.

use std::collections::BTreeMap;
use std::time::Duration;
use std::time::SystemTime;

use serde_json::Value;
use serde_json::json;
use tokio::time::Instant;

use crate::cluster::path;
use crate::cluster::paths;
use crate::compile::conditions::Condition;
use crate::compile::conditions::TargetStatus;
use crate::compile::parents::ParentStatus;
use crate::kube::Error;
use crate::kube::client::Client;
use crate::kube::time::seconds;
use crate::object::CONTROLLER;
use crate::object::Kind;
use crate::object::Name;
use crate::object::ObjectId;
use crate::object::gateway::ParentRef;
use crate::status::ObjectStatus;
use crate::status::Proxies;
use crate::status::Report;

/// A change of counts alone waits for this since the last write of the object.
const COUNTS: Duration = Duration::from_secs(30);
/// What is in force and is compiled anew because something else changed says so no sooner: nearly always every proxy has applied it
/// again by then, and then nothing is written at all.
const SETTLE: Duration = Duration::from_secs(5);
/// A condition's message; the API server takes eight times as much.
const MESSAGE_MAX: usize = 4096;
/// Of one turn, which comes once a second.
const WRITES_MAX: usize = 20;

/// What has been written, by object.
#[derive(Default)]
pub struct Written {
    all: BTreeMap<ObjectId, (Said, Instant)>,
    /// Since when a proxy lags behind what has been told as in force.
    lagging: BTreeMap<ObjectId, Instant>,
}

/// What we say of an object, without when.
#[derive(Debug, Clone, PartialEq)]
struct Said {
    conditions: Vec<Condition>,
    /// Of a route.
    parents: Vec<ParentStatus>,
    targets: Vec<TargetStatus>,
    proxies: Option<Proxies>,
    /// 0: it could not be read.
    generation: i64,
}

/// Type, status, reason and generation of a condition: a change of one of these is a flip.
type Meaning = (&'static str, &'static str, &'static str, i64);

fn meaning(one: &Condition) -> Meaning {
    (one.kind, one.status, one.reason, one.observed_generation)
}

impl Said {
    fn all(&self) -> impl Iterator<Item = &Condition> {
        self.conditions.iter().chain(self.parents.iter().flat_map(|parent| &parent.conditions))
    }

    /// Something means something else.
    fn flips(&self, before: &Said) -> bool {
        let refs =
            |said: &Said| said.parents.iter().map(|parent| parent.parent_ref.clone()).collect::<Vec<ParentRef>>();
        self.all().map(meaning).ne(before.all().map(meaning))
            || self.targets != before.targets
            || refs(self) != refs(before)
    }

    /// All that has changed is that something in force has to be applied once more.
    fn lags(&self, before: &Said) -> bool {
        let again = |old: &Condition, new: &Condition| {
            let (kind, _, _, generation) = meaning(old);
            let programmed = meaning(old) == (kind, "True", "Programmed", generation);
            programmed && meaning(new) == (kind, "False", "Reconciling", generation)
        };
        let same = |(old, new): (&Condition, &Condition)| meaning(old) == meaning(new) || again(old, new);
        self.all().count() == before.all().count()
            && self.targets == before.targets
            && before.all().zip(self.all()).all(same)
            && before.all().zip(self.all()).any(|(old, new)| again(old, new))
    }
}

impl Written {
    /// One turn: the flips first.
    pub async fn write(&mut self, client: &Client, report: &Report, wall: SystemTime, now: Instant) {
        let said: BTreeMap<ObjectId, Said> =
            report.objects.iter().filter_map(of_object).chain(refusals(report)).collect();
        self.all.retain(|id, _| said.contains_key(id));
        let mut due: Vec<(bool, ObjectId, Said)> = Vec::new();
        let mut lagging = BTreeMap::new();
        for (id, said) in said {
            let Some((before, at)) = self.all.get(&id) else {
                due.push((false, id, said));
                continue;
            };
            if said.lags(before) {
                let since = self.lagging.get(&id).copied().unwrap_or(now);
                lagging.insert(id.clone(), since);
                if now.duration_since(since) < SETTLE {
                    continue;
                }
            }
            let flip = said.flips(before);
            if flip || (*before != said && now.duration_since(*at) >= COUNTS) {
                due.push((!flip, id, said));
            }
        }
        self.lagging = lagging;
        due.sort_by(|(one, first, _), (other, second, _)| (one, first).cmp(&(other, second)));
        for (_, id, said) in due.into_iter().take(WRITES_MAX) {
            match one(client, &id, &said, wall).await {
                Ok(true) => drop(self.all.insert(id, (said, now))),
                // What is stored is newer than what we judged; we shall hear of it.
                Ok(false) => {}
                // Somebody wrote in between: the next turn reads anew. Gone: the next report lacks it.
                Err(error) if error.conflicts() || error.not_found() => {}
                Err(error) => {
                    tracing::warn!("status of {id}: {error}");
                    if error.status().is_none() {
                        return;
                    }
                }
            }
        }
    }
}

fn of_object(one: &ObjectStatus) -> Option<(ObjectId, Said)> {
    let kind = Kind::ALL.into_iter().find(|kind| kind.as_str() == one.kind)?;
    let id = ObjectId { kind, name: Name::new(&one.namespace, &one.name) };
    let ours = kind.group() == "policy.leno.dev";
    let said = Said {
        // A route's status has no place for what is true of all its parents.
        conditions: if ours { one.conditions.clone() } else { Vec::new() },
        parents: one.parents.clone(),
        targets: one.targets.clone(),
        proxies: ours.then_some(one.proxies),
        generation: one.generation,
    };
    Some((id, said))
}

/// Objects that could not be read have no generation that we know.
fn refusals(report: &Report) -> impl Iterator<Item = (ObjectId, Said)> {
    report.refused.iter().filter_map(|one| {
        let (kind, name) = one.object.as_deref()?.split_once(' ')?;
        let kind = Kind::ALL.into_iter().find(|known| known.as_str() == kind).filter(|kind| kind.judged())?;
        let (namespace, name) = name.split_once('/').unwrap_or(("", name));
        let message = one.message.clone();
        // The Gateway API's word for what one does not understand.
        let reason = if kind.group() == "policy.leno.dev" { "Invalid" } else { "UnsupportedValue" };
        let condition = Condition { kind: "Accepted", status: "False", reason, message, observed_generation: 0 };
        let id = ObjectId { kind, name: Name::new(namespace, name) };
        let (parents, targets) = (Vec::new(), Vec::new());
        Some((id, Said { conditions: vec![condition], parents, targets, proxies: None, generation: 0 }))
    })
}

/// Whether it is written; `false`: it is another object by now.
async fn one(client: &Client, id: &ObjectId, said: &Said, wall: SystemTime) -> Result<bool, Error> {
    let (at, mut object) = read(client, id).await?;
    let generation = object["metadata"]["generation"].as_i64().unwrap_or_default();
    if said.generation != 0 && generation != 0 && generation != said.generation {
        return Ok(false);
    }
    let before = object["status"].clone();
    let time = seconds(wall);
    let stamp = Stamp { time: &time, generation };
    if id.kind.group() == "policy.leno.dev" {
        object["status"]["conditions"] = stamp.conditions(&said.conditions, &before["conditions"]).into();
        if let Some(proxies) = said.proxies {
            object["status"]["proxies"] = json!(proxies);
        }
        if !said.targets.is_empty() {
            object["status"]["targets"] = json!(said.targets);
        }
    } else {
        object["status"]["parents"] = parents(&object, said, &stamp).into();
    }
    if object["status"] == before {
        return Ok(true);
    }
    client.replace(&format!("{at}/status"), &object).await?;
    tell(client, id, &object, said, &before, wall).await;
    Ok(true)
}

/// In whatever version it is served.
async fn read(client: &Client, id: &ObjectId) -> Result<(String, Value), Error> {
    let mut last = None;
    for base in paths(id.kind) {
        let version = base.rsplit('/').nth(1).unwrap_or("v1");
        let at = format!("{}/{}", path(id.kind, version, &id.name.namespace), id.name.name);
        match client.get(&at).await {
            Ok(object) => return Ok((at, object)),
            Err(error) if error.not_found() => last = Some(error),
            Err(error) => return Err(error),
        }
    }
    Err(last.unwrap_or_else(|| Error::Malformed(format!("{id} is served in no version"))))
}

/// When we look, and at what.
struct Stamp<'a> {
    time: &'a str,
    /// Of what is stored: an object that we cannot read is judged as it stands now.
    generation: i64,
}

impl Stamp<'_> {
    /// As Kubernetes writes conditions: the time is that of the last change of the status.
    fn conditions(&self, said: &[Condition], before: &Value) -> Vec<Value> {
        let all = said.iter().map(|one| {
            let old = before.as_array().into_iter().flatten().find(|old| old["type"] == one.kind);
            let since =
                old.filter(|old| old["status"] == one.status).and_then(|old| old["lastTransitionTime"].as_str());
            let generation = if one.observed_generation == 0 { self.generation } else { one.observed_generation };
            let message: String = one.message.chars().take(MESSAGE_MAX).collect();
            json!({
                "type": one.kind,
                "status": one.status,
                "reason": one.reason,
                "message": message,
                "observedGeneration": generation,
                "lastTransitionTime": since.unwrap_or(self.time),
            })
        });
        all.collect()
    }
}

/// Others' entries as they are, then ours: one for each parent that is a Service.
fn parents(route: &Value, said: &Said, stamp: &Stamp<'_>) -> Vec<Value> {
    let entries = || route["status"]["parents"].as_array().into_iter().flatten();
    let ours = |entry: &&Value| entry["controllerName"] == CONTROLLER;
    let mut parents: Vec<Value> = entries().filter(|entry| !ours(entry)).cloned().collect();
    let refs = route["spec"]["parentRefs"].as_array().into_iter().flatten();
    for parent in refs.filter(|parent| parent["kind"] == "Service" && parent["group"] == "") {
        let told = said.parents.iter().find(|one| {
            serde_json::from_value::<ParentRef>(parent.clone()).is_ok_and(|parent| parent == one.parent_ref)
        });
        // A route that could not be read is told so at every parent.
        let conditions = told.map_or(&said.conditions, |one| &one.conditions);
        let before = entries().find(|entry| ours(entry) && entry["parentRef"] == *parent);
        let before = before.map_or(&Value::Null, |entry| &entry["conditions"]);
        parents.push(json!({
            "parentRef": parent,
            "controllerName": CONTROLLER,
            "conditions": stamp.conditions(conditions, before),
        }));
    }
    parents
}

/// An Event where an object is not accepted, or not everywhere in force, and was before.
async fn tell(client: &Client, id: &ObjectId, object: &Value, said: &Said, before: &Value, wall: SystemTime) {
    let was = |kind: &str, status: &str| {
        let all = before["conditions"].as_array().into_iter().flatten();
        all.chain(
            before["parents"]
                .as_array()
                .into_iter()
                .flatten()
                .flat_map(|parent| parent["conditions"].as_array().into_iter().flatten()),
        )
        .any(|one| one["type"] == kind && one["status"] == status)
    };
    let refused = said.all().find(|one| ["Accepted", "ResolvedRefs"].contains(&one.kind) && one.status == "False");
    let Some(refused) = refused.filter(|one| !was(one.kind, "False")) else { return };
    let namespace = if id.name.namespace.is_empty() { "default" } else { &id.name.namespace };
    let at = seconds(wall);
    let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
    let unique = wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
    let event = json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": format!("{}.{unique:x}", id.name.name), "namespace": namespace},
        "involvedObject": crate::cluster::reference(id.kind, &id.name.namespace, &id.name.name, uid),
        "type": "Warning",
        "reason": refused.reason,
        "message": refused.message,
        "source": {"component": "leno-control-plane"},
        "reportingComponent": CONTROLLER,
        "reportingInstance": "leno-control-plane",
        "firstTimestamp": at,
        "lastTimestamp": at,
        "count": 1,
    });
    // An Event is a courtesy; the status says the same.
    let _ = client.create(&format!("/api/v1/namespaces/{namespace}/events"), &event).await;
}
