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
use crate::kube::Error;
use crate::kube::client::Client;
use crate::kube::time::seconds;
use crate::object::CONTROLLER;
use crate::object::Kind;
use crate::object::Name;
use crate::object::ObjectId;
use crate::status::ObjectStatus;
use crate::status::Proxies;
use crate::status::Report;

/// A change of counts alone waits for this since the last write of the object.
const COUNTS: Duration = Duration::from_secs(30);
/// Of one turn, which comes once a second.
const WRITES_MAX: usize = 20;

/// What has been written, by object.
#[derive(Default)]
pub struct Written {
    all: BTreeMap<ObjectId, (Said, Instant)>,
}

/// What we say of an object, without when.
#[derive(Debug, Clone, PartialEq)]
struct Said {
    conditions: Vec<Condition>,
    proxies: Option<Proxies>,
}

impl Said {
    /// Type, status and reason of each condition: what a flip is.
    fn meaning(&self) -> Vec<(&str, &str, &str, i64)> {
        let meaning = |one: &Condition| (one.kind, one.status, one.reason, one.observed_generation);
        // `Condition` holds static words.
        self.conditions.iter().map(meaning).collect()
    }
}

impl Written {
    /// One turn: the flips first.
    pub async fn write(&mut self, client: &Client, report: &Report, wall: SystemTime, now: Instant) {
        let said: BTreeMap<ObjectId, Said> =
            report.objects.iter().filter_map(of_object).chain(refusals(report)).collect();
        self.all.retain(|id, _| said.contains_key(id));
        let mut due: Vec<(bool, ObjectId, Said)> = Vec::new();
        for (id, said) in said {
            let before = self.all.get(&id);
            let flip = before.is_none_or(|(before, _)| before.meaning() != said.meaning());
            let counts = before.is_some_and(|(before, at)| *before != said && now.duration_since(*at) >= COUNTS);
            if flip || counts {
                due.push((!flip, id, said));
            }
        }
        due.sort_by(|(one, first, _), (other, second, _)| (one, first).cmp(&(other, second)));
        for (_, id, said) in due.into_iter().take(WRITES_MAX) {
            match one(client, &id, &said, wall).await {
                Ok(()) => drop(self.all.insert(id, (said, now))),
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
    Some((id, Said { conditions: one.conditions.clone(), proxies: Some(one.proxies) }))
}

/// Objects that could not be read have no generation that we know.
fn refusals(report: &Report) -> impl Iterator<Item = (ObjectId, Said)> {
    report.refused.iter().filter_map(|one| {
        let (kind, name) = one.object.as_deref()?.split_once(' ')?;
        let kind = Kind::ALL.into_iter().find(|known| known.as_str() == kind).filter(|kind| kind.judged())?;
        let (namespace, name) = name.split_once('/').unwrap_or(("", name));
        let message = one.message.clone();
        let condition =
            Condition { kind: "Accepted", status: "False", reason: "Invalid", message, observed_generation: 0 };
        let id = ObjectId { kind, name: Name::new(namespace, name) };
        Some((id, Said { conditions: vec![condition], proxies: None }))
    })
}

async fn one(client: &Client, id: &ObjectId, said: &Said, wall: SystemTime) -> Result<(), Error> {
    let (at, mut object) = read(client, id).await?;
    let before = object["status"].clone();
    let at_time = seconds(wall);
    if id.kind.group() == "policy.leno.dev" {
        let mut conditions = conditions(said, &before["conditions"], &at_time, |kind| kind.to_owned());
        for condition in &mut conditions {
            // An object that we cannot read is judged as it stands now.
            if condition["observedGeneration"] == 0 {
                condition["observedGeneration"] = object["metadata"]["generation"].clone();
            }
        }
        object["status"]["conditions"] = conditions.into();
        if let Some(proxies) = said.proxies {
            object["status"]["proxies"] = json!(proxies);
        }
    } else {
        object["status"]["parents"] = parents(&object, said, &at_time).into();
    }
    if object["status"] == before {
        return Ok(());
    }
    let written = client.replace(&format!("{at}/status"), &object).await;
    if written.is_ok() {
        tell(client, id, &object, said, &before, wall).await;
    }
    written.map(drop)
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

/// As Kubernetes writes conditions: the time is that of the last change of the status.
fn conditions(said: &Said, before: &Value, at: &str, named: impl Fn(&str) -> String) -> Vec<Value> {
    let all = said.conditions.iter().map(|one| {
        let kind = named(one.kind);
        let old = before.as_array().into_iter().flatten().find(|old| old["type"] == kind.as_str());
        let since = old.filter(|old| old["status"] == one.status).and_then(|old| old["lastTransitionTime"].as_str());
        json!({
            "type": kind,
            "status": one.status,
            "reason": one.reason,
            "message": one.message,
            "observedGeneration": one.observed_generation,
            "lastTransitionTime": since.unwrap_or(at),
        })
    });
    all.collect()
}

/// Others' entries as they are, then ours: one for each parent that is a Service.
fn parents(route: &Value, said: &Said, at: &str) -> Vec<Value> {
    let entries = || route["status"]["parents"].as_array().into_iter().flatten();
    let ours = |entry: &&Value| entry["controllerName"] == CONTROLLER;
    let mut parents: Vec<Value> = entries().filter(|entry| !ours(entry)).cloned().collect();
    let refs = route["spec"]["parentRefs"].as_array().into_iter().flatten();
    for parent in refs.filter(|parent| parent["kind"] == "Service" && parent["group"] == "") {
        let before = entries().find(|entry| ours(entry) && entry["parentRef"] == *parent);
        let before = before.map_or(&Value::Null, |entry| &entry["conditions"]);
        let kept = Said {
            conditions: said.conditions.iter().filter(|one| one.kind != "Warnings").cloned().collect(),
            proxies: None,
        };
        let named = |kind: &str| if kind == "Programmed" { "leno.dev/Programmed".to_owned() } else { kind.to_owned() };
        parents.push(json!({
            "parentRef": parent,
            "controllerName": CONTROLLER,
            "conditions": conditions(&kept, before, at, named),
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
    let refused =
        said.conditions.iter().find(|one| ["Accepted", "ResolvedRefs"].contains(&one.kind) && one.status == "False");
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
