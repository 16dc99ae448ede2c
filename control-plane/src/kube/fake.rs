//! An API server of one process, for tests: objects by path, lists in pages, watches with history that can be forgotten. It
//! admits everything, and must never be taken for the real one where a rule of Kubernetes is in question.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "it is for tests, which panic where they are wrong")]

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use http::Request;
use http::Response;
use http_body_util::BodyExt;
use http_body_util::Full;
use http_body_util::StreamBody;
use http_body_util::combinators::BoxBody;
use hyper::body::Frame;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::Value;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio_stream::wrappers::ReceiverStream;

use crate::kube::access::Access;
use crate::kube::access::Credential;
use crate::kube::base64;
use crate::kube::client::Client;

#[derive(Default)]
struct State {
    version: u64,
    /// Versions before it are forgotten.
    oldest: u64,
    objects: BTreeMap<Place, Value>,
    log: Vec<(u64, &'static str, Place, Value)>,
    calls: Vec<String>,
    /// Answers for paths that are not objects, such as reviews.
    answers: Vec<(String, Value)>,
    down: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    /// Such as `/apis/policy.leno.dev/v1alpha1`.
    version: String,
    plural: String,
    namespace: String,
    name: String,
    status: bool,
}

pub struct Fake {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    /// Grows with each change; a new epoch ends every watch.
    news: watch::Sender<(u64, u64)>,
}

type Page = Response<BoxBody<Bytes, Infallible>>;

impl Fake {
    pub async fn start() -> Arc<Fake> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = State { version: 1, ..State::default() };
        let fake = Arc::new(Fake { address, state: Arc::new(Mutex::new(state)), news: watch::Sender::new((1, 0)) });
        let serving = fake.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let fake = serving.clone();
                let service = hyper::service::service_fn(move |request| {
                    let fake = fake.clone();
                    async move { fake.answer(request).await.ok_or("down") }
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service),
                );
            }
        });
        fake
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn client(&self) -> Arc<Client> {
        let (host, port) = (self.address.ip().to_string(), self.address.port());
        Client::new(Access { host, port, tls: None, credential: Credential::Token("ours".to_owned()) })
    }

    /// Creates or replaces, as somebody else would.
    pub fn put(&self, path: &str, object: Value) {
        let place = Place::parse(path).unwrap();
        self.state.lock().store(place, object);
        self.tell();
    }

    pub fn delete(&self, path: &str) {
        let place = Place::parse(path).unwrap();
        let mut state = self.state.lock();
        if let Some(object) = state.objects.remove(&place) {
            state.version += 1;
            let version = state.version;
            state.log.push((version, "DELETED", place, object));
        }
        drop(state);
        self.tell();
    }

    pub fn object(&self, path: &str) -> Option<Value> {
        self.state.lock().objects.get(&Place::parse(path).unwrap()).cloned()
    }

    /// `null`: there is no such path.
    pub fn answer_with(&self, path: &str, answer: Value) {
        self.state.lock().answers.push((path.to_owned(), answer));
    }

    /// Method and path of each request.
    pub fn calls(&self) -> Vec<String> {
        self.state.lock().calls.clone()
    }

    /// Forgets all history, and ends every watch: who comes back with an old version is told 410.
    pub fn compact(&self) {
        let mut state = self.state.lock();
        // Nothing watches a version that has not been yet, so that even the newest is too old.
        state.version += 1;
        state.oldest = state.version;
        state.log.clear();
        drop(state);
        self.news.send_modify(|(_, epoch)| *epoch += 1);
    }

    /// Neither answers nor goes on with watches, until it is up again.
    pub fn set_down(&self, down: bool) {
        self.state.lock().down = down;
        self.news.send_modify(|(_, epoch)| *epoch += 1);
    }

    fn tell(&self) {
        let version = self.state.lock().version;
        self.news.send_modify(|news| news.0 = version);
    }

    /// `None`: the connection breaks.
    async fn answer(&self, request: Request<Incoming>) -> Option<Page> {
        let method = request.method().clone();
        let (path, query) = (request.uri().path().to_owned(), request.uri().query().unwrap_or_default().to_owned());
        let body = request.into_body().collect().await.ok()?.to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let mut state = self.state.lock();
        if state.down {
            return None;
        }
        state.calls.push(format!("{method} {path}"));
        if path.ends_with("/tokenreviews") && state.answers.is_empty() {
            return Some(page(201, &review(body["spec"]["token"].as_str().unwrap_or_default())));
        }
        if let Some((_, answer)) = state.answers.iter().rev().find(|(known, _)| *known == path) {
            return Some(if answer.is_null() { nowhere() } else { page(200, answer) });
        }
        let parameter = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        let Some(place) = Place::parse(&path) else { return Some(status(404, "NotFound")) };
        match (method.clone(), place.name.as_str()) {
            (Method::GET, "") if parameter("watch") == Some("true") => {
                let from: u64 = parameter("resourceVersion").and_then(|text| text.parse().ok()).unwrap_or(0);
                drop(state);
                Some(self.watch(place.named(parameter("fieldSelector")), from))
            }
            (Method::GET, "") => {
                let place = place.named(parameter("fieldSelector"));
                Some(state.list(&place, parameter("limit"), parameter("continue")))
            }
            (Method::GET, _) => {
                Some(state.objects.get(&place).map_or_else(|| status(404, "NotFound"), |one| page(200, one)))
            }
            (Method::POST, "") => {
                let name = body["metadata"]["name"].as_str().unwrap_or("generated").to_owned();
                let place = Place { name, ..place };
                if state.objects.contains_key(&place) {
                    return Some(status(409, "AlreadyExists"));
                }
                let stored = state.store(place, body);
                drop(state);
                self.tell();
                Some(page(201, &stored))
            }
            (Method::PUT | Method::PATCH, _) => {
                let Some(old) = state.objects.get(&Place { status: false, ..place.clone() }).cloned() else {
                    return Some(status(404, "NotFound"));
                };
                let asked = &body["metadata"]["resourceVersion"];
                if !asked.is_null() && *asked != old["metadata"]["resourceVersion"] {
                    return Some(status(409, "Conflict"));
                }
                let mut object = old;
                if place.status {
                    object["status"] = body["status"].clone();
                } else if method == Method::PUT {
                    object = body;
                } else {
                    merge(&mut object, body);
                }
                let stored = state.store(Place { status: false, ..place }, object);
                drop(state);
                self.tell();
                Some(page(200, &stored))
            }
            _ => Some(status(405, "MethodNotAllowed")),
        }
    }

    fn watch(&self, place: Place, from: u64) -> Page {
        let (lines, out) = mpsc::channel::<Result<Frame<Bytes>, Infallible>>(16);
        let state = self.state.clone();
        let mut news = self.news.subscribe();
        let epoch = news.borrow().1;
        tokio::spawn(async move {
            let mut from = from;
            loop {
                let mut events = Vec::new();
                let now = news.borrow_and_update().1;
                {
                    let state = state.lock();
                    if state.down || now != epoch {
                        return;
                    }
                    if from < state.oldest {
                        let error = json!({"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"});
                        events.push(json!({"type": "ERROR", "object": error}));
                    }
                    let news = state.log.partition_point(|(version, ..)| *version <= from);
                    for (_, kind, at, object) in &state.log[news..] {
                        if place.holds(at) {
                            events.push(json!({"type": kind, "object": object}));
                        }
                    }
                    from = from.max(state.version);
                }
                for event in events {
                    if lines.send(Ok(Frame::data(format!("{event}\n").into()))).await.is_err() {
                        return;
                    }
                }
                tokio::select! {
                    changed = news.changed() => if changed.is_err() { return },
                    () = lines.closed() => return,
                }
            }
        });
        Response::new(StreamBody::new(ReceiverStream::new(out)).boxed())
    }
}

impl State {
    fn store(&mut self, place: Place, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        if !place.namespace.is_empty() {
            object["metadata"]["namespace"] = place.namespace.clone().into();
        }
        let kind = if self.objects.contains_key(&place) { "MODIFIED" } else { "ADDED" };
        self.log.push((self.version, kind, place.clone(), object.clone()));
        self.objects.insert(place, object.clone());
        object
    }

    fn list(&self, place: &Place, limit: Option<&str>, from: Option<&str>) -> Page {
        let limit: usize = limit.and_then(|text| text.parse().ok()).unwrap_or(usize::MAX);
        let from: usize = from.and_then(|text| text.parse().ok()).unwrap_or(0);
        let all: Vec<&Value> =
            self.objects.iter().filter(|(at, _)| place.holds(at)).map(|(_, object)| object).collect();
        let items: Vec<&Value> = all.iter().copied().skip(from).take(limit).collect();
        let more = from + items.len();
        let more = if more < all.len() { more.to_string() } else { String::new() };
        page(200, &json!({"metadata": {"resourceVersion": self.version.to_string(), "continue": more}, "items": items}))
    }
}

impl Place {
    fn parse(path: &str) -> Option<Place> {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let (version, rest) = match parts.first()? {
            &"api" => parts.split_at_checked(2)?,
            _ => parts.split_at_checked(3)?,
        };
        let (namespace, rest) = match rest {
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (*namespace, rest),
            rest => ("", rest),
        };
        let (plural, name, status) = match rest {
            [plural] => (*plural, "", false),
            [plural, name] => (*plural, *name, false),
            [plural, name, "status"] => (*plural, *name, true),
            _ => return None,
        };
        let (version, plural) = (format!("/{}", version.join("/")), plural.to_owned());
        Some(Place { version, plural, namespace: namespace.to_owned(), name: name.to_owned(), status })
    }

    /// Of a selector, what we send.
    fn named(self, selector: Option<&str>) -> Place {
        let name = selector.and_then(|text| text.strip_prefix("metadata.name%3D")).unwrap_or_default().to_owned();
        Place { name, ..self }
    }

    fn holds(&self, other: &Place) -> bool {
        let here = self.namespace.is_empty() || self.namespace == other.namespace;
        let here = here && (self.name.is_empty() || self.name == other.name);
        here && self.version == other.version && self.plural == other.plural
    }
}

/// A token that a Pod of the name and account that it says would have: `fake_token` makes it.
fn review(token: &str) -> Value {
    let claims = token.split('.').nth(1).unwrap_or_default().replace('-', "+").replace('_', "/");
    let padding = "=".repeat(claims.len().wrapping_neg() % 4);
    let claims = base64::decode(&(claims + &padding)).unwrap_or_default();
    let claims: Value = serde_json::from_slice(&claims).unwrap_or_default();
    let extra = |name: &str| json!([claims[name]]);
    json!({"status": {
        "authenticated": claims["account"].is_string(),
        "audiences": ["leno"],
        "user": {
            "username": claims["account"],
            "extra": {
                "authentication.kubernetes.io/pod-name": extra("pod"),
                "authentication.kubernetes.io/pod-uid": extra("uid"),
            },
        },
    }})
}

/// What `review` takes for a Pod's.
pub fn fake_token(namespace: &str, account: &str, pod: &str, uid: &str) -> String {
    let account = format!("system:serviceaccount:{namespace}:{account}");
    let claims = json!({"exp": 4_000_000_000_u64, "account": account, "pod": pod, "uid": uid});
    let claims = base64::encode(claims.to_string().as_bytes()).replace('+', "-").replace('/', "_");
    format!("e30.{}.c2ln", claims.trim_end_matches('='))
}

/// RFC 7386; of RFC 6902, what we send.
fn merge(object: &mut Value, patch: Value) {
    match (object, patch) {
        (object, Value::Array(operations)) if object.is_object() => {
            for operation in operations.iter().filter(|operation| operation["op"] == "add") {
                let (parent, name) = operation["path"].as_str().unwrap().rsplit_once('/').unwrap();
                object.pointer_mut(parent).unwrap()[name] = operation["value"].clone();
            }
        }
        (Value::Object(object), Value::Object(patch)) => {
            for (name, value) in patch {
                match value {
                    Value::Null => drop(object.remove(&name)),
                    value => merge(object.entry(name).or_insert(Value::Null), value),
                }
            }
        }
        (object, patch) => *object = patch,
    }
}

fn page(code: u16, value: &Value) -> Page {
    let mut response = Response::new(Full::new(Bytes::from(value.to_string())).boxed());
    *response.status_mut() = http::StatusCode::from_u16(code).unwrap();
    response
}

/// What a real one says of a group that is not installed.
fn nowhere() -> Page {
    let mut response = Response::new(Full::new(Bytes::from("404 page not found\n")).boxed());
    *response.status_mut() = http::StatusCode::NOT_FOUND;
    response
}

fn status(code: u16, reason: &str) -> Page {
    page(code, &json!({"kind": "Status", "code": code, "reason": reason, "message": reason}))
}
