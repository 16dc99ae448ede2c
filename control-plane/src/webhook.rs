//! What the API server asks before it stores: which sidecar a Pod gets, and whether an object of ours is sound. It must never
//! change a Pod that did not ask, nor hold the API server up: what cannot be answered in time is refused. Nor may a replica that
//! leaves refuse what still reaches it, or keep what should reach its successor.

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http::Request;
use http::Response;
use http::StatusCode;
use http_body_util::BodyExt;
use http_body_util::Full;
use http_body_util::Limited;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use hyper_util::rt::TokioTimer;
use leno_proto::fields;
use serde_json::Value;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio::time::sleep;
use tokio::time::timeout;
use tokio::time::timeout_at;
use tokio_rustls::TlsAcceptor;

use crate::inject;
use crate::inject::Namespace;
use crate::inject::Outcome;
use crate::inject::Settings;
use crate::kube::base64;
use crate::lint;
use crate::object::Kind;
use crate::object::Object;
use crate::object::check;
use crate::reconcile::Table;

/// The API servers of a cluster, and whoever tries.
const CONNECTIONS_MAX: u32 = 128;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// The API server gives up after 5 s.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Longer than the 90 s after which the API server leaves an idle connection: who calls is who closes.
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);
/// etcd takes 1.5 MiB; an update shows the object twice.
const BODY_MAX: usize = 8 << 20;
const FLAWS_MAX: usize = 10;

/// How a replica leaves. The API server keeps HTTP/1.1 connections, which cannot be told to go but with an answer: from the first
/// moment on every answer is its connection's last.
#[derive(Debug, Clone, Copy)]
pub struct Leaving {
    /// Then a connection that nobody has used since is closed. Before it that would race with the calls of an API server that is
    /// busy, and a call that is lost is a Pod that is not made.
    pub kept: Duration,
    /// No new connection in so long: the Service leads elsewhere. A node's packet filter follows within a second or two.
    pub quiet: Duration,
    /// At most, however many still come: with the answers to the last of them less than the Pod's grace period.
    pub most: Duration,
}

pub const LEAVING: Leaving =
    Leaving { kept: Duration::from_secs(1), quiet: Duration::from_secs(5), most: Duration::from_secs(15) };

/// Ends when what sends into it is dropped: this replica leaves.
pub type Staying = watch::Receiver<()>;

pub struct Webhook {
    pub tls: TlsAcceptor,
    pub settings: Settings,
    pub tables: watch::Receiver<Option<Arc<Table>>>,
}

type Page = Response<Full<Bytes>>;

/// Answers whoever comes for as long as we stay, and then until nobody comes any more and all have their answers.
pub async fn serve(webhook: Arc<Webhook>, listener: TcpListener, staying: Staying, leaving: Leaving) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX as usize));
    let open = |socket| {
        let Ok(place) = places.clone().try_acquire_owned() else { return };
        let (webhook, staying) = (webhook.clone(), staying.clone());
        tokio::spawn(async move {
            converse(webhook, socket, staying, leaving.kept).await;
            drop(place);
        });
    };
    let mut left = pin!(left(staying.clone()));
    loop {
        // The arms are equal: who comes as we begin to leave is served all the same.
        tokio::select! {
            socket = accept(&listener) => open(socket),
            () = &mut left => break,
        }
    }
    let last = Instant::now() + leaving.most;
    while let Ok(socket) = timeout_at(last.min(Instant::now() + leaving.quiet), accept(&listener)).await {
        open(socket);
    }
    drop(listener);
    let _ = timeout(ANSWER_TIMEOUT, places.acquire_many(CONNECTIONS_MAX)).await;
}

async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((socket, _)) => return socket,
            // Out of descriptors the listener stays ready: without a pause we would spin.
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn left(mut staying: Staying) {
    while staying.changed().await.is_ok() {}
}

async fn converse(webhook: Arc<Webhook>, socket: TcpStream, staying: Staying, kept: Duration) {
    let Ok(Ok(stream)) = timeout(HANDSHAKE_TIMEOUT, webhook.tls.accept(socket)).await else { return };
    let stays = staying.clone();
    let service = hyper::service::service_fn(move |request| {
        let (webhook, stays) = (webhook.clone(), stays.clone());
        async move {
            let answered = timeout(ANSWER_TIMEOUT, answer(&webhook, request)).await;
            let mut page = answered.unwrap_or_else(|_| page(StatusCode::REQUEST_TIMEOUT, "too slow\n".into()));
            if gone(&stays) {
                page.headers_mut().insert(http::header::CONNECTION, http::HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(page)
        }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    // Who comes while we leave has something to say.
    let (idle, kept) = if gone(&staying) { (HANDSHAKE_TIMEOUT, Duration::MAX) } else { (IDLE_TIMEOUT, kept) };
    builder.timer(TokioTimer::new()).header_read_timeout(idle);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let unused = async {
        left(staying).await;
        sleep(kept).await;
    };
    // The arms are equal. What the caller did wrong is the caller's to see.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = unused => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

fn gone(staying: &Staying) -> bool {
    staying.has_changed().is_err()
}

async fn answer(webhook: &Webhook, request: Request<Incoming>) -> Page {
    let judge: fn(&Webhook, &Value) -> Option<Verdict> = match (request.method(), request.uri().path()) {
        (&Method::POST, "/inject") => Webhook::inject,
        (&Method::POST, "/validate") => |_, request| Some(validate(request)),
        _ => return page(StatusCode::NOT_FOUND, "there are POST /inject and POST /validate\n".into()),
    };
    let Ok(body) = Limited::new(request.into_body(), BODY_MAX).collect().await else {
        return page(StatusCode::PAYLOAD_TOO_LARGE, "the review is larger than we read\n".into());
    };
    let review: Result<Value, _> = serde_json::from_slice(&body.to_bytes());
    let Ok(review) = review.map(|review| review["request"].clone()) else {
        return page(StatusCode::BAD_REQUEST, "this is no AdmissionReview\n".into());
    };
    match judge(webhook, &review) {
        Some(verdict) => page(StatusCode::OK, verdict.review(&review["uid"]).to_string()),
        None => page(StatusCode::SERVICE_UNAVAILABLE, "the cluster has not been read yet\n".into()),
    }
}

fn page(status: StatusCode, content: String) -> Page {
    let mut response = Response::new(Full::new(content.into()));
    *response.status_mut() = status;
    let kind = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    response
}

/// What the API server is told.
#[derive(Debug, PartialEq)]
struct Verdict {
    /// Why not; `None`: allowed.
    refused: Option<String>,
    patch: Vec<Value>,
    warnings: Vec<String>,
}

impl Verdict {
    fn allowed() -> Verdict {
        Verdict { refused: None, patch: Vec::new(), warnings: Vec::new() }
    }

    fn review(self, uid: &Value) -> Value {
        let mut response = json!({"uid": uid, "allowed": self.refused.is_none()});
        if let Some(why) = self.refused {
            response["status"] = json!({"code": 422, "reason": "Invalid", "message": why});
        }
        if !self.patch.is_empty() {
            response["patchType"] = "JSONPatch".into();
            response["patch"] = base64::encode(Value::from(self.patch).to_string().as_bytes()).into();
        }
        if !self.warnings.is_empty() {
            response["warnings"] = self.warnings.into();
        }
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
    }
}

impl Webhook {
    /// `None`: we do not know the namespaces yet.
    fn inject(&self, request: &Value) -> Option<Verdict> {
        let pod = &request["object"];
        let name = request["namespace"].as_str().unwrap_or_default();
        let table = self.tables.borrow().clone()?;
        let labels = table.world().namespace(name).map(|namespace| &namespace.metadata.labels);
        let enforces = labels.and_then(|labels| labels.get("pod-security.kubernetes.io/enforce"));
        // The API server asks about Pods of namespaces that ask, and of those that ask themselves, and about no others.
        let namespace = Namespace { name, asks: true, enforces: enforces.map_or("", String::as_str) };
        let verdict = match inject::inject(pod, namespace, &self.settings) {
            Outcome::Injected(injected) => Verdict { patch: inject::difference(pod, &injected), ..Verdict::allowed() },
            Outcome::Left(_) => Verdict::allowed(),
            Outcome::Refused(why) => {
                tracing::warn!(namespace = name, "a Pod cannot have its sidecar: {why}");
                Verdict { refused: Some(format!("leno: {why}")), ..Verdict::allowed() }
            }
        };
        Some(verdict)
    }
}

/// What the directory source would say of it, and what it may be surprised by.
fn validate(request: &Value) -> Verdict {
    let kind = request["kind"]["kind"].as_str().unwrap_or_default();
    let group = request["kind"]["group"].as_str().unwrap_or_default();
    let Some(kind) = Kind::named(&format!("{group}/"), kind) else { return Verdict::allowed() };
    let refuse = |why: String| Verdict { refused: Some(why), ..Verdict::allowed() };
    let object = match Object::decode(kind, request["object"].clone()) {
        Ok(object) => object,
        Err(error) => return refuse(error.to_string()),
    };
    let mut flaws = check::check(&object);
    // The API server has judged the name; a cluster-scoped kind has no namespace.
    flaws.retain(|flaw| !flaw.field.starts_with("metadata.namespace"));
    if let Ok(old) = Object::decode(kind, request["oldObject"].clone()) {
        flaws.extend(check::check_update(&old, &object));
    }
    if !flaws.is_empty() {
        let words: Vec<String> = flaws.iter().take(FLAWS_MAX).map(words).collect();
        return refuse(words.join("\n"));
    }
    Verdict { warnings: warnings(&object), ..Verdict::allowed() }
}

fn words(flaw: &check::Flaw) -> String {
    let remedy = if flaw.remedy.is_empty() { String::new() } else { format!("; {}", flaw.remedy) };
    format!("{}: {}{remedy}", flaw.field, flaw.message)
}

/// Fields that this release does not enforce, or not where they are set, told to whoever sets them.
fn warnings(object: &Object) -> Vec<String> {
    let idle = match object {
        Object::TrafficPolicy(policy) => lint::on_routes(policy),
        Object::EgressHost(_) => return vec![lint::egress(String::new()).message],
        _ => Vec::new(),
    };
    let idle = idle.iter().map(|one| format!("spec.{}, on {}: {}; {}", one.field, one.place, one.message, one.remedy));
    let unsupported = match object {
        Object::TrafficPolicy(policy) => fields::unsupported(fields::TRAFFIC, &policy.spec.body),
        Object::InboundPolicy(policy) => fields::unsupported(fields::INBOUND, &policy.spec.body),
        _ => Vec::new(),
    };
    unsupported.iter().map(|field| format!("spec.{field} is not enforced by this release")).chain(idle).collect()
}
