//! The control plane's own port: liveness, readiness, metrics, and what it knows, for people and tools. Read-only: whoever
//! reaches it must never be able to change anything.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http::Request;
use http::Response;
use http::StatusCode;
use http::header;
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use hyper_util::rt::TokioTimer;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::ca::Ca;
use crate::explain::Explanation;
use crate::explain::Question;
use crate::metrics::Metrics;
use crate::push::offer::Offers;
use crate::push::session::Phase;
use crate::push::sessions::Sessions;
use crate::query;

/// A scraper, a probe, a few people.
const CONNECTIONS_MAX: usize = 128;
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
const HEAD_MAX: usize = 16 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Json,
    Text,
}

/// Every object's conditions, made when asked for.
pub type StatusPage = Arc<dyn Fn(Format) -> String + Send + Sync>;

/// The answer to a question about a request, or why there is none.
pub type ExplainPage = Arc<dyn Fn(&Question) -> Result<Explanation, String> + Send + Sync>;

pub struct Admin {
    pub metrics: Arc<Metrics>,
    pub sessions: Arc<Sessions>,
    pub offers: Offers,
    pub phase: watch::Receiver<Phase>,
    pub ca: Arc<Ca>,
    pub status: StatusPage,
    pub explain: ExplainPage,
}

type Page = Response<Full<Bytes>>;

/// Serves until this replica is closed.
pub async fn serve(admin: Arc<Admin>, listener: TcpListener) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut phase = admin.phase.clone();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = phase.wait_for(|phase| *phase == Phase::Closed) => return,
        };
        let Ok((socket, _)) = accepted else {
            // Out of descriptors: the listener stays ready, so without a pause we would spin.
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        if let Ok(place) = places.clone().try_acquire_owned() {
            let admin = admin.clone();
            tokio::spawn(async move {
                converse(admin, socket).await;
                drop(place);
            });
        }
    }
}

async fn converse(admin: Arc<Admin>, socket: TcpStream) {
    let mut phase = admin.phase.clone();
    let service = hyper::service::service_fn(move |request| {
        let page = answer(&admin, &request);
        async move { Ok::<_, Infallible>(page) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_MAX)
        .serve_connection(TokioIo::new(socket), service);
    // What a scraper did wrong is the scraper's to see.
    tokio::select! {
        _ = connection => {}
        _ = phase.wait_for(|phase| *phase == Phase::Closed) => {}
    }
}

fn answer<B>(admin: &Admin, request: &Request<B>) -> Page {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return text(StatusCode::METHOD_NOT_ALLOWED, "this port is read-only\n");
    }
    match request.uri().path() {
        "/live" => text(StatusCode::OK, "live\n"),
        "/ready" => match unready(admin) {
            None => text(StatusCode::OK, "ready\n"),
            Some(why) => text(StatusCode::SERVICE_UNAVAILABLE, why),
        },
        "/metrics" => page(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", admin.metrics.text()),
        "/status" => match format(request) {
            Format::Json => page(StatusCode::OK, "application/json", (admin.status)(Format::Json)),
            Format::Text => text(StatusCode::OK, (admin.status)(Format::Text)),
        },
        "/explain" => explain(admin, request),
        "/sessions" => json_page(&json!({
            "sessions": admin.sessions.describe(),
            "trust": { "generation": admin.ca.trust().borrow().generation, "rotation": admin.ca.rotation() },
        })),
        _ => text(
            StatusCode::NOT_FOUND,
            "there are /live /ready /metrics /status /status?format=text /explain?pod=&service=&path= /sessions\n",
        ),
    }
}

/// `pod`, `service` and, as far as it differs from a plain GET of `/`, `method`, `path`, `header` (`Name: value`, repeatable).
/// `format=text`, with `all` for what nobody set.
fn explain<B>(admin: &Admin, request: &Request<B>) -> Page {
    let mut question = Question::default();
    let mut all = false;
    for (name, value) in query::decode(request.uri().query().unwrap_or_default()) {
        match name.as_str() {
            "pod" => question.pod = value,
            "service" => question.service = value,
            "method" => question.method = value,
            "path" => question.path = value,
            "header" => {
                let (name, value) = value.split_once(':').unwrap_or((&value, ""));
                question.headers.push((name.trim().to_owned(), value.trim().to_owned()));
            }
            "all" => all = true,
            _ => {}
        }
    }
    match (admin.explain)(&question) {
        Err(why) => text(StatusCode::NOT_FOUND, format!("{why}\n")),
        Ok(explanation) => match format(request) {
            Format::Text => text(StatusCode::OK, explanation.text(all)),
            Format::Json => json_page(&json!(explanation)),
        },
    }
}

fn unready(admin: &Admin) -> Option<&'static str> {
    if *admin.phase.borrow() != Phase::Serving {
        return Some("stopping\n");
    }
    admin.offers.borrow().is_none().then_some("the source has not been read yet\n")
}

fn format<B>(request: &Request<B>) -> Format {
    let asked = request.uri().query().unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix("format="));
    let accepts = request.headers().get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    match asked {
        Some("text") => Format::Text,
        Some(_) => Format::Json,
        None if accepts.trim_start().starts_with("text/plain") => Format::Text,
        None => Format::Json,
    }
}

fn json_page(value: &serde_json::Value) -> Page {
    page(StatusCode::OK, "application/json", format!("{value:#}\n"))
}

fn text(status: StatusCode, words: impl Into<String>) -> Page {
    page(status, "text/plain; charset=utf-8", words.into())
}

fn page(status: StatusCode, content_type: &'static str, content: String) -> Page {
    let mut response = Response::new(Full::new(Bytes::from(content)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response
}
