//! A Kubernetes cluster as the world: everything that bears on the mesh is watched, trimmed, judged alone, and turned into
//! events; and what belongs to the whole mesh is kept there. It must never let one bad object, or the API server's absence,
//! change what is in force for others.

pub mod audit;
mod gather;
pub mod keep;
pub mod lease;
pub mod peers;
pub mod root;
#[cfg(test)]
mod tests;
pub mod write;
pub mod xmesh;

use std::sync::Arc;

use serde_json::Value;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::cluster::gather::Gathered;
use crate::cluster::gather::Read;
use crate::kube::Error;
use crate::kube::client::Client;
use crate::kube::watch::News;
use crate::kube::watch::Resource;
use crate::kube::watch::Sink;
use crate::kube::watch::follow;
use crate::kube::watch::list;
use crate::object::Kind;
use crate::source::Batch;

/// What is watched. ServiceAccounts are not: a Pod names its own, and the API server vouches for it.
pub const WATCHED: [Kind; 13] = [
    Kind::Namespace,
    Kind::Pod,
    Kind::Service,
    Kind::EndpointSlice,
    Kind::HttpRoute,
    Kind::GrpcRoute,
    Kind::TcpRoute,
    Kind::ReferenceGrant,
    Kind::TrafficPolicy,
    Kind::InboundPolicy,
    Kind::AccessPolicy,
    Kind::EgressHost,
    Kind::Mesh,
];

/// News that wait for the world to take them; the streams then wait too, and the API server's buffers after them.
const NEWS_MAX: usize = 256;
/// Changes taken together at most.
const BATCH_MAX: usize = 5000;

/// Since when what we know may be behind; `None`: it is not.
pub type Stale = watch::Receiver<Option<Instant>>;

/// The path of a kind's objects in each version that we can read, the preferred first.
pub fn paths(kind: Kind) -> Vec<String> {
    let versions: &[&str] = match kind {
        Kind::TcpRoute => &["v1", "v1alpha2"],
        Kind::ReferenceGrant => &["v1", "v1beta1"],
        Kind::TrafficPolicy | Kind::InboundPolicy | Kind::AccessPolicy | Kind::EgressHost | Kind::Mesh => &["v1alpha1"],
        _ => &["v1"],
    };
    versions.iter().map(|version| path(kind, version, "")).collect()
}

/// Of one kind in a namespace, or in all where it is empty.
pub fn path(kind: Kind, version: &str, namespace: &str) -> String {
    let base = match kind.group() {
        "" => format!("/api/{version}"),
        group => format!("/apis/{group}/{version}"),
    };
    match namespace {
        "" => format!("{base}/{}", plural(kind)),
        namespace => format!("{base}/namespaces/{namespace}/{}", plural(kind)),
    }
}

pub fn plural(kind: Kind) -> &'static str {
    match kind {
        Kind::Namespace => "namespaces",
        Kind::ServiceAccount => "serviceaccounts",
        Kind::Pod => "pods",
        Kind::Service => "services",
        Kind::EndpointSlice => "endpointslices",
        Kind::HttpRoute => "httproutes",
        Kind::GrpcRoute => "grpcroutes",
        Kind::TcpRoute => "tcproutes",
        Kind::ReferenceGrant => "referencegrants",
        Kind::TrafficPolicy => "trafficpolicies",
        Kind::InboundPolicy => "inboundpolicies",
        Kind::AccessPolicy => "accesspolicies",
        Kind::EgressHost => "egresshosts",
        Kind::Mesh => "meshes",
    }
}

/// Watches for as long as somebody takes the batches. The first batch comes when every kind has been listed once.
pub async fn run(client: Arc<Client>, batches: mpsc::Sender<Batch>, stale: watch::Sender<Option<Instant>>) {
    let (to, mut news) = mpsc::channel(NEWS_MAX);
    // Dropped with this task, and then nobody listens, which ends them.
    let mut watches = tokio::task::JoinSet::new();
    for kind in WATCHED {
        let (client, sink) = (client.clone(), Sink { tag: kind, to: to.clone() });
        let read = move |object: Value| Read::object(kind, object);
        watches.spawn(async move { follow(&client, Resource { paths: paths(kind), only: None }, read, sink).await });
    }
    drop(to);
    let mut gathered = Gathered::new(WATCHED);
    while let Some((kind, one)) = news.recv().await {
        hear(&mut gathered, kind, one);
        // What is here already goes along; what is not yet here waits for nobody.
        while gathered.len() < BATCH_MAX
            && let Ok((kind, one)) = news.try_recv()
        {
            hear(&mut gathered, kind, one);
        }
        stale.send_if_modified(|since| {
            let changed = *since != gathered.stale();
            *since = gathered.stale();
            changed
        });
        if let Some(batch) = gathered.batch()
            && batches.send(batch).await.is_err()
        {
            return;
        }
    }
}

/// All that is watched, as it is now: for tools that look once.
///
/// # Errors
/// A kind that could not be listed: half a world would be a wrong one.
pub async fn snapshot(client: &Client) -> Result<Batch, Error> {
    let mut gathered = Gathered::new(WATCHED);
    for kind in WATCHED {
        let mut listed = Vec::new();
        for path in paths(kind) {
            match list(client, &path, &|object| Read::object(kind, object)).await {
                Ok((all, _)) => {
                    listed = all;
                    break;
                }
                // Not installed, or not in this version.
                Err(error) if error.not_found() => {}
                Err(error) => return Err(error),
            }
        }
        gathered.take(kind, News::Listed(listed), Instant::now());
    }
    Ok(gathered.batch().expect("every kind has been listed, and nothing was passed on before"))
}

fn hear(gathered: &mut Gathered, kind: Kind, news: News<Read>) {
    match &news {
        News::Failing(error) if gathered.fails(kind) => tracing::debug!("watch {}: {error}", plural(kind)),
        News::Failing(error) => tracing::warn!("watch {}: {error}; what is known stays in force", plural(kind)),
        _ if gathered.fails(kind) => tracing::info!("watch {}: it is back", plural(kind)),
        _ => {}
    }
    gathered.take(kind, news, Instant::now());
}

/// Work that looks at the whole world, on a thread of its own: sessions must not wait for it.
pub async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime ends, and we with it.
            Err(_) => std::future::pending().await,
        },
    }
}

/// A reference to one of our objects, for Events and owners.
pub fn reference(kind: Kind, namespace: &str, name: &str, uid: &str) -> Value {
    let version = match kind.group() {
        "" => "v1".to_owned(),
        "policy.leno.dev" => crate::object::POLICY_VERSION.to_owned(),
        group => format!("{group}/v1"),
    };
    json!({"apiVersion": version, "kind": kind.as_str(), "namespace": namespace, "name": name, "uid": uid})
}
