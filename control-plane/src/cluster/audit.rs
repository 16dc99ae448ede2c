//! Finds what asks for a sidecar and has none, and says so in Events, which `kubectl describe` shows, and in a number. It must
//! never change a Pod, nor say the same twice.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::Value;
use serde_json::json;

use crate::cluster::aside;
use crate::cluster::reference;
use crate::compile;
use crate::index::Topic;
use crate::index::World;
use crate::kube::client::Client;
use crate::kube::time::seconds;
use crate::object::CONTROLLER;
use crate::object::INJECT;
use crate::object::Kind;
use crate::object::Object;
use crate::object::ObjectId;
use crate::reconcile::Table;

/// Of one turn, which comes once a second.
const EVENTS_MAX: usize = 10;

/// What is not as its author means it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub object: ObjectId,
    pub uid: String,
    pub reason: &'static str,
    pub message: String,
}

#[derive(Default)]
pub struct Auditor {
    looked: Option<u64>,
    found: Vec<Finding>,
    /// Of which objects an Event was made, by uid.
    told: BTreeSet<String>,
}

/// All that is to be found. The webhooks do not look at `own` and Kubernetes' namespaces, and neither do we.
pub fn findings(world: &World, own: &str) -> Vec<Finding> {
    let looked_at = |namespace: &str| ![own, "kube-system", "kube-node-lease"].contains(&namespace);
    let pods = world.about(&Topic::All(Kind::Pod)).filter_map(|object| match object {
        Object::Pod(pod) => Some(&**pod),
        _ => None,
    });
    let without = pods.filter(|pod| {
        let stays =
            pod.metadata.deletion_timestamp.is_empty() && !["Succeeded", "Failed"].contains(&pod.status.phase.as_str());
        pod.admitted && stays && looked_at(&pod.metadata.namespace) && compile::lacks_sidecar(world, pod)
    });
    let without = without.map(|pod| {
        let remedy = if pod.spec.host_network {
            "It uses the host's network, where no sidecar can be: remove hostNetwork, or label it leno.dev/inject: disabled"
        } else {
            "It was made before it was asked for, or while no injector answered: restart what made it, for example with kubectl rollout restart"
        };
        Finding {
            object: ObjectId { kind: Kind::Pod, name: pod.metadata.key() },
            uid: pod.metadata.uid.clone(),
            reason: "SidecarMissing",
            message: format!("This Pod should have a sidecar and has none; its traffic is not part of the mesh. {remedy}"),
        }
    });
    let annotated = world.about(&Topic::All(Kind::Namespace)).filter_map(|object| {
        let meta = object.meta();
        let only = meta.annotations.contains_key(INJECT) && !meta.labels.contains_key(INJECT);
        (only && looked_at(&meta.name)).then(|| Finding {
            object: object.id(),
            uid: meta.uid.clone(),
            reason: "InjectAnnotationIgnored",
            message: format!(
                "An annotation {INJECT} on a Namespace does nothing, as webhooks select by labels; run kubectl label namespace {} {INJECT}=enabled",
                meta.name
            ),
        })
    });
    without.chain(annotated).collect()
}

impl Auditor {
    /// Looks where the world has changed, and tells what has not been told. How many Pods lack their sidecars.
    pub async fn turn(&mut self, client: &Client, table: &Arc<Table>, own: &str, wall: SystemTime) -> usize {
        if self.looked != Some(table.generation) {
            self.looked = Some(table.generation);
            let (table, own) = (Arc::clone(table), own.to_owned());
            self.found = aside(move || findings(table.world(), &own)).await;
            let found: BTreeSet<&str> = self.found.iter().map(|one| one.uid.as_str()).collect();
            self.told.retain(|uid| found.contains(uid.as_str()));
        }
        let news: Vec<&Finding> =
            self.found.iter().filter(|one| !self.told.contains(&one.uid)).take(EVENTS_MAX).collect();
        for one in news {
            let namespace = match &*one.object.name.namespace {
                "" => "default",
                namespace => namespace,
            };
            match client.create(&format!("/api/v1/namespaces/{namespace}/events"), &event(one, namespace, wall)).await {
                Ok(_) => tracing::warn!("{}: {}", one.object, one.message),
                // Whoever led before has told it.
                Err(error) if error.conflicts() => {}
                Err(error) => {
                    tracing::debug!("an Event on {}: {error}", one.object);
                    break;
                }
            }
            self.told.insert(one.uid.clone());
        }
        self.found.iter().filter(|one| one.object.kind == Kind::Pod).count()
    }
}

/// Named by its object's uid, so that a second one is refused.
fn event(one: &Finding, namespace: &str, wall: SystemTime) -> Value {
    let at = seconds(wall);
    let ObjectId { kind, name } = &one.object;
    json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": format!("leno-audit.{}", one.uid), "namespace": namespace},
        "involvedObject": reference(*kind, &name.namespace, &name.name, &one.uid),
        "type": "Warning",
        "reason": one.reason,
        "message": one.message,
        "source": {"component": "leno-control-plane"},
        "reportingComponent": CONTROLLER,
        "reportingInstance": "leno-control-plane",
        "firstTimestamp": at,
        "lastTimestamp": at,
        "count": 1,
    })
}
