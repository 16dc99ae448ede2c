//! A small HTTP/1.1 client on hyper, so that the tests' client is not Leno's own codec. One connection, reused while it lives.

use std::net::SocketAddr;

use anyhow::Context;
use bytes::Bytes;
use http_body_util::BodyExt;
use http_body_util::Full;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

pub type Response = http::Response<Bytes>;

/// A client of one address, or of a name and port.
pub struct Client {
    address: String,
    idle: Option<SendRequest<Full<Bytes>>>,
}

impl Client {
    pub fn new(address: SocketAddr) -> Self {
        Self::named(address.to_string())
    }

    /// `HOST:PORT`, resolved at every connect.
    pub fn named(address: String) -> Self {
        Self { address, idle: None }
    }

    /// Sends a request and reads the whole answer. A connection that the server closed while idle is replaced.
    pub async fn send(&mut self, request: http::Request<Full<Bytes>>) -> anyhow::Result<Response> {
        let mut sender = match self.idle.take() {
            Some(sender) if sender.is_ready() => sender,
            _ => connect(&self.address).await?,
        };
        let answer = sender.send_request(request).await.context("send request")?;
        let (parts, body) = answer.into_parts();
        let body = body.collect().await.context("read answer")?.to_bytes();
        // The connection becomes ready again once its task has seen the end of the answer.
        if sender.ready().await.is_ok() {
            self.idle = Some(sender);
        }
        Ok(http::Response::from_parts(parts, body))
    }

    pub async fn get(&mut self, host: &str, path: &str) -> anyhow::Result<Response> {
        self.send(get(host, path, &[])?).await
    }
}

pub fn get(host: &str, path: &str, headers: &[(&str, &str)]) -> anyhow::Result<http::Request<Full<Bytes>>> {
    let mut request = http::Request::get(path).header("host", host);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    Ok(request.body(Full::default())?)
}

async fn connect(address: &str) -> anyhow::Result<SendRequest<Full<Bytes>>> {
    let socket = TcpStream::connect(address).await.with_context(|| format!("connect to {address}"))?;
    socket.set_nodelay(true)?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await?;
    tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok(sender)
}
