//! How the command line reaches a cluster: a kubeconfig or the Pod's own account, and through the API server the control plane
//! and the sidecars. Every error names the next step.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use anyhow::bail;
use bytes::Bytes;
use http::Request;
use http::Uri;
use http_body_util::BodyExt;
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use leno_control_plane::kube;
use leno_control_plane::kube::access::Access;
use leno_control_plane::kube::client::Client;
use leno_control_plane::query;
use serde_json::Value;
use tokio::net::TcpStream;

/// The control plane's own port.
const ADMIN_PORT: u16 = 15_014;
/// A page of a list.
const PAGE: usize = 500;

#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Cluster")]
pub(crate) struct Reach {
    /// By default KUBECONFIG, ~/.kube/config, or the account of the Pod that this runs in.
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Another context of the kubeconfig than its current one.
    #[arg(long, value_name = "NAME")]
    pub(crate) context: Option<String>,
    #[arg(short, long, value_name = "NAME")]
    pub(crate) namespace: Option<String>,
    /// Where the control plane is.
    #[arg(long, env = "LENO_NAMESPACE", value_name = "NAME", default_value = "leno-system")]
    pub(crate) system_namespace: String,
    /// Set by the kubelet, in every Pod.
    #[arg(long, env = "KUBERNETES_SERVICE_HOST", hide = true)]
    kubernetes_host: Option<String>,
    #[arg(long, env = "KUBERNETES_SERVICE_PORT", hide = true, default_value_t = 443)]
    kubernetes_port: u16,
}

/// A cluster that can be asked.
pub(crate) struct Cluster {
    pub(crate) client: Arc<Client>,
    /// What `-n` or the context says.
    pub(crate) namespace: String,
    pub(crate) system: String,
}

/// Runs what asks, on one thread.
pub(crate) fn block<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

impl Reach {
    pub(crate) fn cluster(&self) -> anyhow::Result<Cluster> {
        let (access, namespace) = self.access()?;
        let namespace = self.namespace.clone().unwrap_or(namespace);
        Ok(Cluster { client: Client::new(access), namespace, system: self.system_namespace.clone() })
    }

    fn access(&self) -> anyhow::Result<(Access, String)> {
        if let Some(path) = self.file() {
            return Ok(Access::context(&path, self.context.as_deref())?);
        }
        let Some(host) = &self.kubernetes_host else {
            bail!("there is no kubeconfig: set KUBECONFIG, or name one with --kubeconfig");
        };
        Ok((Access::in_cluster(host, self.kubernetes_port)?, self.system_namespace.clone()))
    }

    /// As kubectl looks for it; of several the first that exists.
    fn file(&self) -> Option<PathBuf> {
        if self.kubeconfig.is_some() {
            return self.kubeconfig.clone();
        }
        if let Some(list) = std::env::var_os("KUBECONFIG").filter(|list| !list.is_empty()) {
            let files: Vec<PathBuf> = std::env::split_paths(&list).collect();
            return files.iter().find(|path| path.exists()).or(files.first()).cloned();
        }
        let home = PathBuf::from(std::env::var_os("HOME")?).join(".kube/config");
        home.exists().then_some(home)
    }
}

/// What the API server says no to, said so that one knows what to ask for.
pub(crate) fn plainly(error: kube::Error, doing: &str) -> anyhow::Error {
    match error.status() {
        Some(401) => {
            anyhow::anyhow!("{doing}: the API server does not know you; log in to the cluster again ({error})")
        }
        Some(403) => anyhow::anyhow!("{doing}: you may not; ask for this right ({error})"),
        Some(_) => anyhow::anyhow!("{doing}: {error}"),
        None => anyhow::anyhow!("{doing}: {error}; is the cluster up, and the context right?"),
    }
}

impl Cluster {
    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<Option<Value>> {
        match self.client.get(path).await {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.not_found() => Ok(None),
            Err(error) => Err(plainly(error, &format!("read {path}"))),
        }
    }

    /// All pages. What is not installed has no objects.
    pub(crate) async fn list(&self, path: &str, selector: &str) -> anyhow::Result<Vec<Value>> {
        let (mut all, mut more) = (Vec::new(), String::new());
        loop {
            let mut pairs = vec![("limit", PAGE.to_string())];
            pairs.extend((!selector.is_empty()).then(|| ("labelSelector", selector.to_owned())));
            pairs.extend((!more.is_empty()).then(|| ("continue", more.clone())));
            let pairs: Vec<(&str, &str)> = pairs.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let Some(mut page) = self.get(&format!("{path}?{}", query::encode(&pairs))).await? else {
                return Ok(all);
            };
            if let Value::Array(items) = page["items"].take() {
                all.extend(items);
            }
            match page["metadata"]["continue"].as_str() {
                Some(token) if !token.is_empty() => token.clone_into(&mut more),
                _ => return Ok(all),
            }
        }
    }

    /// The control plane's pods.
    pub(crate) async fn control_plane(&self) -> anyhow::Result<Vec<Value>> {
        let path = format!("/api/v1/namespaces/{}/pods", self.system);
        self.list(&path, "app.kubernetes.io/name=leno,app.kubernetes.io/component=control-plane").await
    }

    /// The control plane's pods that are ready, by name.
    pub(crate) async fn replicas(&self) -> anyhow::Result<Vec<String>> {
        let pods = self.control_plane().await?;
        Ok(pods.iter().filter(|pod| ready(pod)).map(|pod| text(&pod["metadata"]["name"]).to_owned()).collect())
    }

    /// Of one ready replica's own port.
    pub(crate) async fn ask(&self, path: &str) -> anyhow::Result<String> {
        let replicas = self.replicas().await?;
        let Some(replica) = replicas.first() else {
            bail!("no control-plane replica is ready in namespace {}; `leno check` says more", self.system);
        };
        self.ask_replica(replica, path).await
    }

    pub(crate) async fn ask_replica(&self, replica: &str, path: &str) -> anyhow::Result<String> {
        let place = Place { namespace: &self.system, pod: replica, port: ADMIN_PORT };
        self.through(&place, path).await
    }

    /// A page of a Pod's own port, through the API server.
    pub(crate) async fn through(&self, place: &Place<'_>, path: &str) -> anyhow::Result<String> {
        let Place { namespace, pod, port } = place;
        let at = format!("/api/v1/namespaces/{namespace}/pods/{pod}:{port}/proxy{path}");
        let (status, body) = self.client.text(&at).await.map_err(|error| plainly(error, &format!("ask {pod}")))?;
        if status.is_success() {
            return Ok(body);
        }
        // The API server speaks of itself in a Status, a Pod does not.
        let said: Value = serde_json::from_str(&body).unwrap_or_default();
        let words = if said["kind"] == "Status" { text(&said["message"]) } else { body.trim() };
        match status.as_u16() {
            403 if said["kind"] == "Status" => bail!("ask {pod}: you may not; ask for `get` on `pods/proxy` ({words})"),
            _ => bail!("{words}"),
        }
    }

    /// `[NAMESPACE/]NAME`, or what makes Pods: `deployment/NAME`, of which any running Pod is taken.
    pub(crate) async fn pod(&self, asked: &str) -> anyhow::Result<(String, String)> {
        let (kind, name) = asked.split_once('/').unwrap_or(("", asked));
        let namespace = &self.namespace;
        let plural = match kind {
            "deployment" | "deployments" | "deploy" => "deployments",
            "statefulset" | "statefulsets" | "sts" => "statefulsets",
            "daemonset" | "daemonsets" | "ds" => "daemonsets",
            "" | "pod" | "pods" => return Ok((namespace.clone(), name.to_owned())),
            other => return Ok((other.to_owned(), name.to_owned())),
        };
        let path = format!("/apis/apps/v1/namespaces/{namespace}/{plural}/{name}");
        let owner = self.get(&path).await?.with_context(|| format!("there is no {asked} in namespace {namespace}"))?;
        let labels = owner["spec"]["selector"]["matchLabels"].as_object().into_iter().flatten();
        let selector = labels.map(|(name, value)| format!("{name}={}", text(value))).collect::<Vec<_>>().join(",");
        let pods = self.list(&format!("/api/v1/namespaces/{namespace}/pods"), &selector).await?;
        let pod = pods.iter().find(|pod| ready(pod)).or(pods.first());
        let pod = pod.with_context(|| format!("{asked} in namespace {namespace} has no pod"))?;
        Ok((namespace.clone(), text(&pod["metadata"]["name"]).to_owned()))
    }
}

/// A port of a Pod.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) pod: &'a str,
    pub(crate) port: u16,
}

pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

pub(crate) fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

pub(crate) fn ready(pod: &Value) -> bool {
    items(&pod["status"]["conditions"]).any(|one| one["type"] == "Ready" && one["status"] == "True")
}

/// `NAMESPACE/NAME` of an object.
pub(crate) fn name(object: &Value) -> String {
    let meta = &object["metadata"];
    match text(&meta["namespace"]) {
        "" => text(&meta["name"]).to_owned(),
        namespace => format!("{namespace}/{}", text(&meta["name"])),
    }
}

/// A control plane by its address, where there is no cluster in between.
pub(crate) fn ask_address(admin: &str, path: &str) -> anyhow::Result<String> {
    let asked = block(async { Ok(tokio::time::timeout(Duration::from_secs(10), fetch(admin, path)).await) });
    asked?.context("no answer in 10 s")?
}

async fn fetch(admin: &str, path: &str) -> anyhow::Result<String> {
    let authority = admin.strip_prefix("http://").unwrap_or(admin).trim_end_matches('/');
    let uri: Uri = path.parse()?;
    let socket = TcpStream::connect(authority).await.with_context(|| format!("connect to {authority}"))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await?;
    let request = Request::get(uri).header(http::header::HOST, authority).body(Empty::<Bytes>::new())?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        anyhow::Ok((status, body))
    };
    let (status, body) = tokio::select! {
        answered = exchange => answered?,
        ended = connection => bail!("{authority} closed the connection: {ended:?}"),
    };
    let text = String::from_utf8_lossy(&body).into_owned();
    if !status.is_success() {
        bail!("{authority} answered {status}: {}", text.trim_end());
    }
    Ok(text)
}
