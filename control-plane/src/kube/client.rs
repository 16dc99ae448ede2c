//! One request to the API server, or one stream from it, over HTTP/1.1 connections that are kept for the next. It must never
//! repeat a request that may have been carried out.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use bytes::BytesMut;
use http::Method;
use http::Request;
use http::Response;
use http::StatusCode;
use http::header;
use http_body_util::BodyExt;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::kube::Error;
use crate::kube::access::Access;
use crate::kube::base64;

/// For everything but a stream, from dialling to the last byte.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A page of a list: 500 objects, of which etcd takes 1.5 MiB each at most and 10 KiB usually.
const BODY_MAX: usize = 256 << 20;
/// Kept for the next request; the API server closes what is idle.
const IDLE_MAX: usize = 8;
/// One event of a watch: an object, and a little around it.
const LINE_MAX: usize = 4 << 20;

type Sender = SendRequest<Full<Bytes>>;

pub struct Client {
    access: Access,
    idle: Mutex<Vec<Sender>>,
}

/// How a patch is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patch {
    /// RFC 7386.
    Merge,
    /// RFC 6902.
    Json,
}

impl Client {
    pub fn new(access: Access) -> Arc<Client> {
        Arc::new(Client { access, idle: Mutex::default() })
    }

    pub async fn get(&self, path: &str) -> Result<Value, Error> {
        self.call(Method::GET, path, None).await
    }

    /// Whatever a path answers, and whoever does: a Pod's own port behind the API server's `proxy`, for example.
    pub async fn text(&self, path: &str) -> Result<(StatusCode, String), Error> {
        let answered = timeout(REQUEST_TIMEOUT, self.answered(path)).await;
        let (status, body) = answered.map_err(|_| unreachable_in(REQUEST_TIMEOUT))??;
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }

    async fn answered(&self, path: &str) -> Result<(StatusCode, Bytes), Error> {
        let mut sender =
            timeout(CONNECT_TIMEOUT, self.connect()).await.map_err(|_| unreachable_in(CONNECT_TIMEOUT))??;
        let response = sender.send_request(self.request(Method::GET, path, None)?).await.map_err(unreachable)?;
        let status = response.status();
        // `sender` lives until the last byte: dropping it would end the connection.
        let body = collect(response.into_body()).await?;
        drop(sender);
        Ok((status, body))
    }

    /// A connection that has stopped to be HTTP, in the named protocol (RFC 6455 section 4).
    pub(super) async fn upgraded(&self, path: &str, protocol: &str) -> Result<Upgraded, Error> {
        let mut request = self.request(Method::GET, path, None)?;
        let nonce: [u8; 16] = rand::random();
        for (name, value) in [
            // What comes is no document: a kubelet, which declares no type for it, refuses whoever insists on one.
            ("accept", "*/*"),
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", &base64::encode(&nonce)),
            ("sec-websocket-protocol", protocol),
        ] {
            let value = value.parse().map_err(|_| Error::Malformed(format!("{name}: {value}")))?;
            request.headers_mut().insert(name, value);
        }
        let mut sender =
            timeout(CONNECT_TIMEOUT, self.connect()).await.map_err(|_| unreachable_in(CONNECT_TIMEOUT))??;
        let response = timeout(REQUEST_TIMEOUT, sender.send_request(request)).await;
        let response = response.map_err(|_| unreachable_in(REQUEST_TIMEOUT))?.map_err(unreachable)?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(match accepted(response).await {
                Ok(other) => Error::Malformed(format!("{path}: {} instead of a WebSocket", other.status())),
                Err(error) => error,
            });
        }
        hyper::upgrade::on(response).await.map_err(unreachable)
    }

    pub async fn create(&self, path: &str, object: &Value) -> Result<Value, Error> {
        self.call(Method::POST, path, Some(("application/json", object))).await
    }

    /// Refused with a conflict where `metadata.resourceVersion` is no longer the newest.
    pub async fn replace(&self, path: &str, object: &Value) -> Result<Value, Error> {
        self.call(Method::PUT, path, Some(("application/json", object))).await
    }

    pub async fn patch(&self, path: &str, kind: Patch, patch: &Value) -> Result<Value, Error> {
        let content_type = match kind {
            Patch::Merge => "application/merge-patch+json",
            Patch::Json => "application/json-patch+json",
        };
        self.call(Method::PATCH, path, Some((content_type, patch))).await
    }

    /// A watch: one JSON value a line, until the API server ends it.
    pub async fn lines(&self, path: &str) -> Result<Lines, Error> {
        let request = self.request(Method::GET, path, None)?;
        let mut sender =
            timeout(CONNECT_TIMEOUT, self.connect()).await.map_err(|_| unreachable_in(CONNECT_TIMEOUT))??;
        let response = timeout(REQUEST_TIMEOUT, sender.send_request(request)).await;
        let response = response.map_err(|_| unreachable_in(REQUEST_TIMEOUT))?.map_err(unreachable)?;
        let body = accepted(response).await?.into_body();
        Ok(Lines { body, read: BytesMut::new(), _sender: sender })
    }

    async fn call(&self, method: Method, path: &str, body: Option<(&str, &Value)>) -> Result<Value, Error> {
        let answered = timeout(REQUEST_TIMEOUT, self.exchange(method, path, body)).await;
        let bytes = answered.map_err(|_| unreachable_in(REQUEST_TIMEOUT))??;
        serde_json::from_slice(&bytes).map_err(|error| Error::Malformed(error.to_string()))
    }

    async fn exchange(&self, method: Method, path: &str, body: Option<(&str, &Value)>) -> Result<Bytes, Error> {
        let kept = std::iter::from_fn(|| self.idle.lock().pop()).find(Sender::is_ready);
        let mut sender = match kept {
            Some(sender) => sender,
            None => timeout(CONNECT_TIMEOUT, self.connect()).await.map_err(|_| unreachable_in(CONNECT_TIMEOUT))??,
        };
        let response = match sender.send_request(self.request(method.clone(), path, body)?).await {
            Ok(response) => response,
            // The connection ended before the request was written: nothing happened, so it may go again.
            Err(error) if error.is_canceled() => {
                sender = self.connect().await?;
                sender.send_request(self.request(method, path, body)?).await.map_err(unreachable)?
            }
            Err(error) => return Err(unreachable(error)),
        };
        let bytes = collect(accepted(response).await?.into_body()).await?;
        let mut idle = self.idle.lock();
        if idle.len() < IDLE_MAX {
            idle.push(sender);
        }
        Ok(bytes)
    }

    fn request(&self, method: Method, path: &str, body: Option<(&str, &Value)>) -> Result<Request<Full<Bytes>>, Error> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, format!("{}:{}", self.access.host, self.access.port))
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, concat!("leno/", env!("CARGO_PKG_VERSION")));
        if let Some(token) = self.access.bearer()? {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let bytes = match body {
            None => Bytes::new(),
            Some((content_type, value)) => {
                request = request.header(header::CONTENT_TYPE, content_type);
                value.to_string().into()
            }
        };
        request.body(Full::new(bytes)).map_err(|error| Error::Malformed(error.to_string()))
    }

    async fn connect(&self) -> Result<Sender, Error> {
        let Access { host, port, tls, .. } = &self.access;
        let socket = TcpStream::connect((host.as_str(), *port)).await.map_err(unreachable)?;
        socket.set_nodelay(true).map_err(unreachable)?;
        match tls {
            None => handshake(TokioIo::new(socket)).await,
            Some(config) => {
                let name = ServerName::try_from(host.clone()).map_err(unreachable)?;
                let stream = TlsConnector::from(config.clone()).connect(name, socket).await.map_err(unreachable)?;
                handshake(TokioIo::new(stream)).await
            }
        }
    }
}

async fn handshake<S>(socket: S) -> Result<Sender, Error>
where
    S: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (sender, connection) = hyper::client::conn::http1::handshake(socket).await.map_err(unreachable)?;
    // Ends with the connection; dropping the sender ends that.
    tokio::spawn(connection.with_upgrades());
    Ok(sender)
}

/// A body line by line.
pub struct Lines {
    body: Incoming,
    read: BytesMut,
    /// Dropping it would end the connection.
    _sender: Sender,
}

impl Lines {
    /// `None`: the API server ended the stream.
    pub async fn next(&mut self) -> Result<Option<Value>, Error> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line = self.read.split_to(end + 1);
                if line.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                return serde_json::from_slice(&line).map(Some).map_err(|error| Error::Malformed(error.to_string()));
            }
            if self.read.len() > LINE_MAX {
                return Err(Error::Malformed(format!("an event is larger than {LINE_MAX} bytes")));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(unreachable(error)),
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.read.extend_from_slice(data);
                    }
                }
            }
        }
    }
}

async fn accepted(response: Response<Incoming>) -> Result<Response<Incoming>, Error> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let body = collect(response.into_body()).await.unwrap_or_default();
    // A group that is not installed has no handler that could write a Status.
    if status == StatusCode::NOT_FOUND && body.trim_ascii() == b"404 page not found" {
        let (reason, message) = ("NotFound".to_owned(), "no such group or version".to_owned());
        return Err(Error::Refused { status: status.as_u16(), reason, message });
    }
    Err(refusal(status, &serde_json::from_slice(&body).unwrap_or(Value::Null)))
}

/// A `Status` in words. What is not one, is not the API server's own word: 404 is then a failure, not an absence.
fn refusal(status: StatusCode, said: &Value) -> Error {
    if said["kind"] != "Status" {
        return Error::Unreachable(format!("{status} without a Status; is there a proxy in between?"));
    }
    let text = |field: &str| said[field].as_str().unwrap_or_default().to_owned();
    Error::Refused { status: status.as_u16(), reason: text("reason"), message: text("message") }
}

/// The `Status` that ends a watch.
pub(super) fn ended(said: &Value) -> Error {
    let code = said["code"].as_u64().and_then(|code| u16::try_from(code).ok()).unwrap_or(500);
    refusal(StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), said)
}

async fn collect(mut body: Incoming) -> Result<Bytes, Error> {
    let mut read = BytesMut::new();
    while let Some(frame) = body.frame().await {
        if let Some(data) = frame.map_err(unreachable)?.data_ref() {
            read.extend_from_slice(data);
        }
        if read.len() > BODY_MAX {
            return Err(Error::Malformed(format!("an answer is larger than {BODY_MAX} bytes")));
        }
    }
    Ok(read.freeze())
}

pub(super) fn unreachable(error: impl std::error::Error) -> Error {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    Error::Unreachable(text)
}

fn unreachable_in(time: Duration) -> Error {
    Error::Unreachable(format!("no answer in {} s", time.as_secs()))
}
