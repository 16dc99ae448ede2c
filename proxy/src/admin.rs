//! What a proxy says about itself: the status port (read-only) and the unix socket for the rest. It must never decide
//! anything about traffic, and the application must never reach what changes something: that is the socket's alone.

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http::StatusCode;
use http_body_util::BodyExt;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use hyper_util::rt::TokioTimer;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::net::TcpListener;
use tokio::net::UnixListener;
use tokio::net::UnixStream;
use tokio::sync::Semaphore;

use crate::metrics::Level;
use crate::metrics::Metrics;
use crate::probe::Probes;

/// What the rest of the proxy lets be seen and done here.
pub struct Views {
    pub metrics: Arc<Metrics>,
    /// What the metrics do not count: limits and breakers by destination.
    pub levels: Box<dyn Fn() -> Vec<Level> + Send + Sync>,
    /// What the proxy still waits for, a line each; empty: ready.
    pub waits_for: Box<dyn Fn() -> Vec<String> + Send + Sync>,
    /// Named dumps for `leno-proxy show NAME`, such as `config` or `pools`. They never hold key material.
    pub shows: Vec<(&'static str, Show)>,
    /// The application's, performed for the kubelet at `/probe/CONTAINER/KIND`.
    pub probes: Arc<Probes>,
    /// Changes what the proxy logs about itself until it restarts; an error says how a filter is written.
    pub log: SetLog,
    /// Begins the drain; again: nothing.
    pub drain: Box<dyn Fn() + Send + Sync>,
}

/// Takes a filter, or says what is wrong with it.
pub type SetLog = Box<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

/// Makes one dump.
pub type Show = Box<dyn Fn() -> serde_json::Value + Send + Sync>;

/// Connections served at once on each of the two; more wait in the kernel's backlog.
const CONNECTIONS_MAX: usize = 64;

/// `POST /log-level/FILTER`, the filter percent-encoded.
const LOG: &str = "/log-level/";

/// A client of these ports sends its head and reads its answer within this time, or is closed.
const TIME_MAX: Duration = Duration::from_secs(30);

/// Serves `/live`, `/ready`, `/metrics` and the application's probes until dropped.
pub async fn serve_status(listener: TcpListener, views: Arc<Views>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((socket, _)) => {
                // The address that the kubelet dialled is the one at which it would have asked the application.
                let Ok(own) = socket.local_addr() else { continue };
                let door = Door::Status(own.ip().to_canonical());
                tokio::spawn(connection(socket, views.clone(), door, place));
            }
            Err(error) => pause_after(&error).await,
        }
    }
}

/// Serves the same, the dumps and the drain on a unix socket that only our own user may open, until dropped.
///
/// # Errors
/// The socket could not be made.
pub fn open_socket(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

pub async fn serve_socket(listener: UnixListener, views: Arc<Views>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((socket, _)) => drop(tokio::spawn(connection(socket, views.clone(), Door::Socket, place))),
            Err(error) => pause_after(&error).await,
        }
    }
}

/// Out of descriptors, most likely: trying again at once would only burn the CPU that could free one.
async fn pause_after(error: &io::Error) {
    tracing::warn!(%error, "the status port cannot accept");
    tokio::time::sleep(Duration::from_millis(100)).await;
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Door {
    /// At this address.
    Status(IpAddr),
    Socket,
}

async fn connection<S>(socket: S, views: Arc<Views>, door: Door, _place: tokio::sync::OwnedSemaphorePermit)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    // A hook may take as long as its pod's grace period.
    let limit = 10 * TIME_MAX + views.probes.longest();
    let service = hyper::service::service_fn(move |request: http::Request<Incoming>| {
        let views = views.clone();
        async move { Ok::<_, Infallible>(answer(&views, door, &request).await) }
    });
    let mut server = hyper::server::conn::http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(TIME_MAX).max_buf_size(16 * 1024);
    let _ = tokio::time::timeout(limit, server.serve_connection(TokioIo::new(socket), service)).await;
}

async fn answer(views: &Views, door: Door, request: &http::Request<Incoming>) -> http::Response<Full<Bytes>> {
    if let (Door::Status(host), &Method::GET, Some(name)) =
        (door, request.method(), request.uri().path().strip_prefix("/probe/"))
    {
        return probe(views, name, host, request.headers().get(http::header::USER_AGENT)).await;
    }
    match (request.method(), request.uri().path()) {
        (&Method::POST, "/drain") if door == Door::Socket => {
            (views.drain)();
            text(StatusCode::OK, "draining\n".to_owned())
        }
        (&Method::POST, path) if door == Door::Socket && path.starts_with(LOG) => {
            let filter = unescape(&path[LOG.len()..]);
            match (views.log)(&filter) {
                Ok(()) => text(StatusCode::OK, format!("logs {filter} until it restarts\n")),
                Err(why) => text(StatusCode::BAD_REQUEST, why + "\n"),
            }
        }
        (&Method::GET | &Method::HEAD, path) => look(views, door, path),
        _ => text(StatusCode::METHOD_NOT_ALLOWED, "only GET here; see leno-proxy --help for drain\n".to_owned()),
    }
}

async fn probe(
    views: &Views,
    name: &str,
    host: IpAddr,
    agent: Option<&http::HeaderValue>,
) -> http::Response<Full<Bytes>> {
    let Some(answer) = views.probes.perform(name, host, agent).await else {
        return text(StatusCode::NOT_FOUND, "the pod has no such probe; see LENO_PROBES in its manifest\n".to_owned());
    };
    views.metrics.proxy.probes.increment();
    if !(200..400).contains(&answer.status.as_u16()) {
        views.metrics.proxy.probe_failures.increment();
    }
    text(answer.status, answer.said + "\n")
}

fn look(views: &Views, door: Door, path: &str) -> http::Response<Full<Bytes>> {
    match path {
        "/live" => text(StatusCode::OK, "live\n".to_owned()),
        "/ready" => match (views.waits_for)() {
            waits if waits.is_empty() => text(StatusCode::OK, "ready\n".to_owned()),
            waits => text(StatusCode::SERVICE_UNAVAILABLE, waits.join("\n") + "\n"),
        },
        "/metrics" => {
            let mut response = text(StatusCode::OK, views.metrics.render_with(&(views.levels)()));
            let kind = http::HeaderValue::from_static("text/plain; version=0.0.4");
            response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
            response
        }
        _ if door == Door::Socket => show(views, path),
        _ => text(StatusCode::NOT_FOUND, "here are /live, /ready, /metrics and the application's probes\n".to_owned()),
    }
}

fn show(views: &Views, path: &str) -> http::Response<Full<Bytes>> {
    let name = path.trim_start_matches('/');
    match views.shows.iter().find(|(known, _)| *known == name) {
        Some((_, dump)) => text(StatusCode::OK, format!("{:#}\n", dump())),
        None => {
            let names: Vec<&str> = views.shows.iter().map(|(name, _)| *name).collect();
            text(StatusCode::NOT_FOUND, format!("nothing is called {name}; there are {}\n", names.join(", ")))
        }
    }
}

fn text(status: StatusCode, body: String) -> http::Response<Full<Bytes>> {
    let mut response = http::Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
}

/// The name under which a proxy is asked to log something else.
pub fn log_level(filter: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~=,:".contains(&byte);
    let written =
        filter.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") });
    format!("{}{}", &LOG[1..], written.collect::<String>())
}

/// What is not well encoded stands for itself.
fn unescape(path: &str) -> String {
    let mut parts = path.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        match part.get(..2).and_then(|two| u8::from_str_radix(two, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                bytes.extend_from_slice(&part.as_bytes()[2..]);
            }
            None => {
                bytes.push(b'%');
                bytes.extend_from_slice(part.as_bytes());
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Asks a running proxy through its socket: `GET /NAME`, or `POST /drain`.
///
/// # Errors
/// No proxy listens there, or it refused; the text says which.
pub async fn ask(path: &Path, method: Method, name: &str) -> anyhow::Result<String> {
    let socket = UnixStream::connect(path)
        .await
        .map_err(|error| anyhow::anyhow!("{}: {error}; is a proxy running with this --volume?", path.display()))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await?;
    let request = http::Request::builder().method(method).uri(format!("/{name}")).header("host", "leno");
    let exchange = async {
        let response = sender.send_request(request.body(Full::<Bytes>::default())?).await?;
        let status = response.status();
        let body = String::from_utf8_lossy(&response.into_body().collect().await?.to_bytes()).into_owned();
        anyhow::ensure!(status.is_success(), "{}", body.trim_end());
        Ok(body)
    };
    // The connection's future does the reading and writing; the exchange ends first.
    tokio::select! {
        biased;
        body = exchange => body,
        ended = connection => Err(ended.err().map_or_else(|| anyhow::anyhow!("the proxy closed"), Into::into)),
    }
}
