//! What the leader keeps true for the whole mesh: the anchors in every namespace with sidecars, and by which anchors the API
//! server knows our webhooks. It must never write what is so already.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;
use serde_json::json;
use tokio::time::Instant;

use crate::cluster::root::ANCHOR;
use crate::cluster::root::TRUST;
use crate::compile;
use crate::index::Topic;
use crate::index::World;
use crate::kube::Error;
use crate::kube::base64;
use crate::kube::client::Client;
use crate::kube::client::Patch;
use crate::object::INJECT;
use crate::object::Kind;
use crate::object::Object;

/// Our configurations, by the path at which the API server has them.
const HOOKS: [&str; 2] = [
    "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/leno-injector",
    "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/leno-validator",
];
/// How often we look whether somebody else changed what we wrote.
const LOOK: Duration = Duration::from_secs(30);

/// What has been written, so that it is not written again.
#[derive(Default)]
pub struct Kept {
    trusting: BTreeMap<String, (String, Instant)>,
    hooks: Option<(String, Instant)>,
}

impl Kept {
    /// `anchors`: PEM.
    pub async fn keep(&mut self, client: &Client, world: &World, anchors: &str, now: Instant) {
        let fresh = |kept: Option<&(String, Instant)>| {
            kept.is_some_and(|(what, at)| what == anchors && now.duration_since(*at) < LOOK)
        };
        let wanted = namespaces(world);
        self.trusting.retain(|namespace, _| wanted.contains(namespace));
        for namespace in wanted {
            if fresh(self.trusting.get(&namespace)) {
                continue;
            }
            match trust(client, &namespace, anchors).await {
                Ok(()) => drop(self.trusting.insert(namespace, (anchors.to_owned(), now))),
                Err(error) => tracing::warn!("ConfigMap {namespace}/{TRUST}: {error}"),
            }
        }
        if !fresh(self.hooks.as_ref()) {
            match hooks(client, anchors).await {
                Ok(()) => self.hooks = Some((anchors.to_owned(), now)),
                Err(error) => tracing::warn!("webhook configurations: {error}"),
            }
        }
    }
}

/// Those that ask for sidecars, and those where a Pod has or wants one.
fn namespaces(world: &World) -> BTreeSet<String> {
    let needs = |object: &&Object| {
        let meta = object.meta();
        // A namespace that is going takes no more objects.
        let stays = meta.deletion_timestamp.is_empty();
        let asks = meta.labels.get(INJECT).is_some_and(|word| word == "enabled");
        // Most ask, so that their Pods, which are many, need not be looked at.
        stays && (asks || has_meshed(world, &meta.name))
    };
    world.about(&Topic::All(Kind::Namespace)).filter(needs).map(|object| object.meta().name.clone()).collect()
}

fn has_meshed(world: &World, namespace: &str) -> bool {
    world.about(&Topic::In(Kind::Pod, namespace.into())).any(|object| match object {
        Object::Pod(pod) => compile::meshed(world, pod),
        _ => false,
    })
}

async fn trust(client: &Client, namespace: &str, anchors: &str) -> Result<(), Error> {
    let maps = format!("/api/v1/namespaces/{namespace}/configmaps");
    let one = format!("{maps}/{TRUST}");
    match client.get(&one).await {
        Ok(map) if map["data"][ANCHOR] == anchors => Ok(()),
        Ok(_) => client.patch(&one, Patch::Merge, &json!({"data": {ANCHOR: anchors}})).await.map(drop),
        Err(error) if error.not_found() => {
            let map = json!({
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": TRUST, "labels": {"app.kubernetes.io/part-of": "leno"}},
                "data": {ANCHOR: anchors},
            });
            match client.create(&maps, &map).await {
                Err(error) if error.conflicts() => Ok(()),
                other => other.map(drop),
            }
        }
        Err(error) => Err(error),
    }
}

async fn hooks(client: &Client, anchors: &str) -> Result<(), Error> {
    let bundle = base64::encode(anchors.as_bytes());
    for path in HOOKS {
        let configuration = match client.get(path).await {
            // The chart may leave either out.
            Err(error) if error.not_found() => continue,
            other => other?,
        };
        let operations = bundle_patch(&configuration, &bundle);
        if !operations.is_empty() {
            client.patch(path, Patch::Json, &operations.into()).await?;
        }
    }
    Ok(())
}

/// A place in a list says nothing by itself, so that each is tested for its name first.
fn bundle_patch(configuration: &Value, bundle: &str) -> Vec<Value> {
    let hooks = configuration["webhooks"].as_array().into_iter().flatten().enumerate();
    hooks
        .filter(|(_, hook)| hook["clientConfig"]["caBundle"] != bundle)
        .flat_map(|(place, hook)| {
            let at = format!("/webhooks/{place}");
            [
                json!({"op": "test", "path": format!("{at}/name"), "value": hook["name"]}),
                json!({"op": "add", "path": format!("{at}/clientConfig/caBundle"), "value": bundle}),
            ]
        })
        .collect()
}
