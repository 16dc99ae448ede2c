//! Manifests and clusters as one world: what files declare, on top of what a cluster holds. Workloads stand for the pods that
//! they make, so that a policy can be judged before anything runs. It must never judge by itself.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use leno_control_plane::cluster;
use leno_control_plane::index::World;
use leno_control_plane::inject;
use leno_control_plane::inject::Namespace;
use leno_control_plane::inject::Outcome;
use leno_control_plane::inject::Settings;
use leno_control_plane::object::Event;
use leno_control_plane::object::INJECT;
use leno_control_plane::object::Kind;
use leno_control_plane::object::Object;
use leno_control_plane::object::ObjectId;
use leno_control_plane::source;
use leno_control_plane::source::Refused;
use serde_json::Value;
use serde_json::json;

use crate::reach::Cluster;
use crate::reach::plainly;
use crate::reach::text;

/// What files declare.
#[derive(Default)]
pub(crate) struct Declared {
    pub(crate) objects: Vec<Arc<Object>>,
    pub(crate) refused: Vec<Refused>,
    /// Workloads whose pods cannot have the sidecar that they ask for: where, which, and why.
    pub(crate) without: Vec<Without>,
    /// Where each object stands.
    pub(crate) places: BTreeMap<ObjectId, String>,
}

pub(crate) struct Without {
    pub(crate) place: String,
    pub(crate) object: String,
    pub(crate) why: String,
}

/// `-` is standard input; a folder is every manifest in it.
pub(crate) fn declared(paths: &[PathBuf]) -> anyhow::Result<Declared> {
    let mut texts = Vec::new();
    for path in paths {
        if path.as_os_str() == "-" {
            texts.push(("standard input".to_owned(), std::io::read_to_string(std::io::stdin())?));
        } else if path.is_dir() {
            let files = source::files(path).with_context(|| format!("read {}", path.display()))?;
            texts.extend(files.iter().map(|file| one(file)).collect::<anyhow::Result<Vec<_>>>()?);
        } else {
            texts.push(one(path)?);
        }
    }
    Ok(said(&texts))
}

/// What texts declare, each with the name of its file.
pub(crate) fn said(texts: &[(String, String)]) -> Declared {
    let mut declared = Declared::default();
    let mut templates = Vec::new();
    for (file, text) in texts {
        declared.take(file, text);
        templates.extend(documents(file, text));
    }
    declared.pods(&templates);
    declared
}

fn one(path: &Path) -> anyhow::Result<(String, String)> {
    let text = source::read(path).map_err(|why| anyhow::anyhow!("{}: {why}", path.display()))?;
    Ok((path.display().to_string(), text))
}

/// Documents as values, for the kinds that only make pods. What is no YAML has been said already.
fn documents(file: &str, text: &str) -> Vec<(String, Value)> {
    let parts = text.split("\n---").map(|part| part.trim_start_matches("---"));
    let values = parts.filter_map(|part| serde_saphyr::from_str::<Value>(part).ok()).filter(Value::is_object);
    values.map(|value| (file.to_owned(), value)).collect()
}

impl Declared {
    fn take(&mut self, file: &str, text: &str) {
        for manifest in source::manifests(file, text) {
            let place = format!("{file}:{}", manifest.line);
            if let Some(id) = manifest.id {
                self.places.insert(id, place);
            }
            match manifest.outcome {
                Ok(object) => self.objects.push(object),
                Err(refused) => self.refused.push(*refused),
            }
        }
    }

    /// A pod for each workload: its template, ready, with an address of its own.
    fn pods(&mut self, documents: &[(String, Value)]) {
        let asks: Vec<String> = self.objects.iter().filter_map(asking).collect();
        for (number, (file, document)) in documents.iter().enumerate() {
            let mut manifest = document.clone();
            let meta = &document["metadata"];
            let namespace = meta["namespace"].as_str().unwrap_or("default").to_owned();
            let (kind, name) = (text(&document["kind"]).to_owned(), text(&meta["name"]).to_owned());
            let Some(template) = inject::template(&mut manifest) else { continue };
            let place = Namespace { name: &namespace, asks: asks.contains(&namespace), enforces: "" };
            match inject::inject(template, place, &settings()) {
                Outcome::Refused(why) => {
                    let object = format!("{kind} {namespace}/{name}");
                    self.without.push(Without { place: file.clone(), object, why });
                    continue;
                }
                Outcome::Injected(with) if kind != "Pod" => *template = *with,
                Outcome::Injected(_) | Outcome::Left(_) => {}
            }
            if kind != "Pod" {
                let pod = pod(template, &namespace, &name, number);
                self.objects.extend(Object::decode(Kind::Pod, pod).ok().map(Arc::new));
            }
        }
    }

    /// On top of what a world holds. Endpoints are made only where no cluster has made them.
    pub(crate) fn apply(&self, world: &mut World) {
        let bare = world.is_empty();
        world.apply(self.objects.iter().cloned().map(Event::Applied).collect());
        if bare {
            let slices = source::endpoint_slices(self.objects.iter());
            world.apply(slices.into_iter().map(Event::Applied).collect());
        }
    }
}

/// The namespace that asks for sidecars.
fn asking(object: &Arc<Object>) -> Option<String> {
    match &**object {
        Object::Namespace(namespace) => {
            let meta = &namespace.metadata;
            meta.labels.get(INJECT).is_some_and(|word| word == "enabled").then(|| meta.name.clone())
        }
        _ => None,
    }
}

fn pod(template: &Value, namespace: &str, name: &str, number: usize) -> Value {
    let [high, low] = u16::try_from(number).unwrap_or(u16::MAX).to_be_bytes();
    // RFC 2544's network for benchmarks: nobody's pods.
    let address = Ipv4Addr::new(198, 18, high, low).to_string();
    let meta = &template["metadata"];
    json!({
        "metadata": {
            "name": format!("{name}-pod"), "namespace": namespace, "uid": format!("{namespace}/{name}"),
            "labels": meta["labels"], "annotations": meta["annotations"],
        },
        "spec": template["spec"],
        "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "conditions": [{"type": "Ready", "status": "True"}]},
    })
}

/// What a sidecar is given is of no matter here, only whether there can be one.
fn settings() -> Settings {
    Settings {
        proxy_image: "proxy".to_owned(),
        init_image: "init".to_owned(),
        pull_policy: "IfNotPresent".to_owned(),
        control_plane: String::new(),
        namespace: "leno-system".to_owned(),
        trust_domain: "cluster.local".to_owned(),
        log: String::new(),
        access_log: String::new(),
        resources: json!({}),
        otlp_endpoint: None,
    }
}

/// What a cluster holds, and what of it cannot be read.
pub(crate) async fn held(cluster: &Cluster) -> anyhow::Result<(World, Vec<Refused>)> {
    let batch = cluster::snapshot(&cluster.client).await.map_err(|error| plainly(error, "read the cluster"))?;
    let mut world = World::default();
    world.apply(batch.events);
    Ok((world, batch.refused.to_vec()))
}
