//! The application of Gateway API's mesh conformance suite, in our words: a server that says what it received, and, under the
//! name `client`, the program that the suite runs inside its pods. It must never soften an answer: what arrives is what it prints.

use std::convert::Infallible;
use std::net::Ipv6Addr;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use clap::Parser;
use http_body_util::BodyExt;
use http_body_util::Full;
use hyper_util::rt::TokioExecutor;
use hyper_util::rt::TokioIo;
use hyper_util::rt::TokioTimer;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::net::TcpStream;

/// The upstream application's flags, as its manifests give them, and its defaults: one manifest gives none.
#[derive(Parser)]
struct Server {
    /// Ports for HTTP/1.1 and HTTP/2 in cleartext.
    #[arg(long, default_values_t = [8080])]
    port: Vec<u16>,
    /// Ports for gRPC, which is HTTP/2 that names it.
    #[arg(long, default_values_t = [7070])]
    grpc: Vec<u16>,
    /// Ports that give back what they are sent.
    #[arg(long, default_values_t = [9090])]
    tcp: Vec<u16>,
    /// Ports for TLS. No test calls one, so none is served: a port that is named here and above stays closed.
    #[arg(long)]
    tls: Vec<u16>,
    #[arg(long)]
    crt: Option<String>,
    #[arg(long)]
    key: Option<String>,
}

#[derive(Parser)]
struct Client {
    url: http::Uri,
    #[arg(long, default_value = "GET")]
    method: http::Method,
    /// `NAME:VALUE`.
    #[arg(short = 'H')]
    header: Vec<String>,
    /// How many requests, each on a connection of its own.
    #[arg(long, default_value_t = 1)]
    count: u32,
}

type Request = hyper::Request<hyper::body::Incoming>;
type Answer = hyper::Response<http_body_util::combinators::BoxBody<Bytes, Infallible>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let name = std::env::args_os().next().unwrap_or_default();
    if Path::new(&name).file_name().is_some_and(|name| name == "client") {
        return Client::parse().run().await;
    }
    Server::parse().run().await
}

impl Server {
    async fn run(self) -> anyhow::Result<()> {
        let closed = |port: &&u16| !self.tls.contains(port);
        let mut tasks = tokio::task::JoinSet::new();
        for &port in self.port.iter().chain(&self.grpc).filter(closed) {
            let listener = listen(port).await?;
            tasks.spawn(async move {
                while let Ok((socket, _)) = listener.accept().await {
                    tokio::spawn(serve(socket, port));
                }
            });
        }
        for &port in self.tcp.iter().filter(closed) {
            let listener = listen(port).await?;
            tasks.spawn(async move {
                while let Ok((socket, _)) = listener.accept().await {
                    tokio::spawn(give_back(socket));
                }
            });
        }
        let mut terminated = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::select! {
            // Either ends the program; which comes first does not matter.
            _ = terminated.recv() => Ok(()),
            _ = tasks.join_next() => anyhow::bail!("a listener ended"),
        }
    }
}

async fn listen(port: u16) -> anyhow::Result<TcpListener> {
    TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await.with_context(|| format!("listen on port {port}"))
}

async fn give_back(mut socket: TcpStream) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = socket.read(&mut buffer).await {
        if socket.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

/// HTTP/2 begins with a preface that no HTTP/1 request begins with (RFC 9113 section 3.4).
async fn serve(socket: TcpStream, port: u16) {
    let mut first = [0; 3];
    // `PRI` in fewer bytes than three is no request either.
    let two = socket.peek(&mut first).await.is_ok_and(|count| count == 3 && &first == b"PRI");
    let service = hyper::service::service_fn(move |request| async move { Ok::<_, Infallible>(answer(&request, port)) });
    let socket = TokioIo::new(socket);
    if two {
        let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(socket, service).await;
    } else {
        let _ =
            hyper::server::conn::http1::Builder::new().timer(TokioTimer::new()).serve_connection(socket, service).await;
    }
}

/// What was received, a line each; for gRPC as the one field of the answer's message.
fn answer(request: &Request, port: u16) -> Answer {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let authority = request.uri().authority().map(ToString::to_string);
    let name = request.headers().get("host").and_then(|h| h.to_str().ok()).map(str::to_owned).or(authority);
    let mut text = format!(
        "ServicePort={port}\nHost={}\nURL={}\nMethod={}\nProto={:?}\n",
        name.unwrap_or_default(),
        request.uri().path_and_query().map_or("/", |p| p.as_str()),
        request.method(),
        request.version(),
    );
    for (name, value) in request.headers() {
        text += &format!("RequestHeader={name}:{}\n", value.to_str().unwrap_or_default());
    }
    text += &format!("Hostname={}\n", host.trim());
    let grpc = request.headers().get("content-type").is_some_and(|v| v.as_bytes().starts_with(b"application/grpc"));
    let answer = hyper::Response::builder();
    if !grpc {
        let body = Full::new(Bytes::from(text)).boxed();
        return answer.header("content-type", "text/plain").body(body).expect("a constant header is valid");
    }
    let trailers = http::HeaderMap::from_iter([(
        http::HeaderName::from_static("grpc-status"),
        http::HeaderValue::from_static("0"),
    )]);
    let body = Full::new(frame(&text)).with_trailers(std::future::ready(Some(Ok(trailers)))).boxed();
    answer.header("content-type", "application/grpc").body(body).expect("a constant header is valid")
}

/// A gRPC message whose field 1 is this text: a flag and a length, then protobuf's tag, length and bytes.
fn frame(text: &str) -> Bytes {
    let mut message = vec![0x0a];
    let mut length = text.len();
    while length >= 0x80 {
        message.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    message.push(length as u8);
    message.extend(text.as_bytes());
    let mut frame = vec![0];
    frame.extend((message.len() as u32).to_be_bytes());
    frame.extend(message);
    frame.into()
}

impl Client {
    async fn run(self) -> anyhow::Result<()> {
        let mut failed = None;
        for number in 0..self.count.max(1) {
            match tokio::time::timeout(Duration::from_secs(10), self.call()).await.context("no answer in 10 s") {
                Ok(Ok(answer)) => print(number, &self.url, &answer),
                Ok(Err(error)) | Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(()), Err)
    }

    async fn call(&self) -> anyhow::Result<http::Response<Bytes>> {
        let host = self.url.host().context("the URL names no host")?;
        let port = self.url.port_u16().unwrap_or(80);
        let socket = TcpStream::connect((host.trim_matches(['[', ']']), port))
            .await
            .with_context(|| format!("connect to {host}:{port}"))?;
        socket.set_nodelay(true)?;
        let socket = TokioIo::new(socket);
        let response = if self.url.scheme_str() == Some("grpc") {
            let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), socket).await?;
            tokio::spawn(connection);
            sender.send_request(self.grpc()?).await?
        } else {
            let (mut sender, connection) = hyper::client::conn::http1::handshake(socket).await?;
            tokio::spawn(connection);
            sender.send_request(self.http()?).await?
        };
        let (parts, body) = response.into_parts();
        Ok(http::Response::from_parts(parts, body.collect().await?.to_bytes()))
    }

    fn http(&self) -> anyhow::Result<http::Request<Full<Bytes>>> {
        let authority = self.url.authority().context("the URL names no host")?.as_str();
        let path = self.url.path_and_query().map_or("/", |p| p.as_str());
        let mut request =
            http::Request::builder().method(self.method.clone()).uri(path).header("user-agent", "leno-echo");
        let mut host = Some(authority);
        for header in &self.header {
            let (name, value) = header.split_once(':').with_context(|| format!("-H {header}: write NAME:VALUE"))?;
            if name.eq_ignore_ascii_case("host") {
                host = None;
            }
            request = request.header(name, value.trim());
        }
        request = host.into_iter().fold(request, |request, host| request.header("host", host));
        Ok(request.body(Full::default())?)
    }

    fn grpc(&self) -> anyhow::Result<http::Request<Full<Bytes>>> {
        let authority = self.url.authority().context("the URL names no host")?;
        let mut request = http::Request::post(format!("http://{authority}/proto.EchoTestService/Echo"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for header in &self.header {
            let (name, value) = header.split_once(':').with_context(|| format!("-H {header}: write NAME:VALUE"))?;
            request = request.header(name, value.trim());
        }
        Ok(request.body(Full::new(frame("hello")))?)
    }
}

/// The lines that the suite reads, and the empty line that ends one answer.
fn print(number: u32, url: &http::Uri, answer: &http::Response<Bytes>) {
    println!("[{number}] Url={url}\n[{number}] StatusCode={}", answer.status().as_u16());
    for (name, value) in answer.headers() {
        println!("[{number}] ResponseHeader={name}:{}", value.to_str().unwrap_or_default());
    }
    let text = String::from_utf8_lossy(answer.body());
    // A gRPC message begins with its lengths; the first line we know is behind them.
    let text = text.find("ServicePort=").map_or(&*text, |at| &text[at..]);
    for line in text.lines() {
        println!("[{number} body] {line}");
    }
    println!();
}
