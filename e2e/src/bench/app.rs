//! The application of the benchmark: fixed pages over HTTP/1.1 and HTTP/2, gRPC echoes, and a place for spans to end. It must
//! never be what limits a pair of sidecars, so it parses only what its own clients send.

use std::net::SocketAddr;
use std::rc::Rc;

use anyhow::Context;
use bytes::Bytes;
use bytes::BytesMut;
use h2::RecvStream;
use h2::server::SendResponse;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::net::TcpStream;

use crate::bench::http2::WINDOW;

/// Bytes that are written at once: what a busy application does.
const PIECE: usize = 64 * 1024;
/// A request's head has to fit.
const HEAD_MAX: usize = 64 * 1024;

/// Serves until it is killed. Both kinds of address serve the same pages.
///
/// # Errors
/// An address cannot be listened on.
pub async fn serve(http1: &[SocketAddr], http2: &[SocketAddr]) -> anyhow::Result<()> {
    let pages = Rc::new(Pages::new());
    for address in http1 {
        let listener = TcpListener::bind(address).await.with_context(|| format!("listen on {address}"))?;
        let pages = pages.clone();
        tokio::task::spawn_local(async move {
            while let Ok((io, _)) = listener.accept().await {
                let _ = io.set_nodelay(true);
                tokio::task::spawn_local(serve_http1(io, pages.clone()));
            }
        });
    }
    for address in http2 {
        let listener = TcpListener::bind(address).await.with_context(|| format!("listen on {address}"))?;
        let pages = pages.clone();
        tokio::task::spawn_local(async move {
            while let Ok((io, _)) = listener.accept().await {
                let _ = io.set_nodelay(true);
                tokio::task::spawn_local(serve_http2(io, pages.clone()));
            }
        });
    }
    std::future::pending().await
}

/// One page: the whole HTTP/1.1 answer, and its parts for HTTP/2.
struct Page {
    path: &'static str,
    answer: Bytes,
    fields: Vec<(&'static str, String)>,
    body: Bytes,
}

struct Pages(Vec<Page>);

impl Pages {
    fn new() -> Self {
        let page = |path, length: usize, fields: Vec<(&'static str, String)>| {
            let body = Bytes::from(vec![b'x'; length]);
            let lines: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
            let head = format!("HTTP/1.1 200 OK\r\n{lines}content-length: {length}\r\n\r\n");
            Page { path, answer: [head.as_bytes(), &body].concat().into(), fields, body }
        };
        let plain = || vec![("content-type", "text/plain".to_owned())];
        Self(vec![
            page("/1k", 1024, plain()),
            page("/100", 100, plain()),
            page("/16k", 16 * 1024, plain()),
            page("/4m", 4 << 20, plain()),
            page("/headers", 1024, headers()),
        ])
    }

    fn at(&self, path: &[u8]) -> &Page {
        self.0.iter().find(|page| page.path.as_bytes() == path).unwrap_or(&self.0[0])
    }
}

/// What a web framework adds, about; with Content-Length fourteen.
fn headers() -> Vec<(&'static str, String)> {
    [
        ("content-type", "application/json; charset=utf-8"),
        ("date", "Tue, 15 Nov 1994 08:12:31 GMT"),
        ("cache-control", "private, max-age=0, must-revalidate"),
        ("etag", "W/\"7b2-186c1a5f1c8\""),
        ("vary", "accept-encoding, origin"),
        ("set-cookie", "session=5f0c2a7be1d94f4a8c1d; path=/; httponly; samesite=lax"),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "deny"),
        ("strict-transport-security", "max-age=31536000; includesubdomains"),
        ("referrer-policy", "strict-origin-when-cross-origin"),
        ("x-request-id", "0f9a6c58-3d1b-4f7e-9a53-2f8a1f6f0c11"),
        ("x-runtime", "0.004312"),
        ("access-control-allow-origin", "https://shop.example.com"),
    ]
    .map(|(name, value)| (name, value.to_owned()))
    .into()
}

async fn serve_http1(mut io: TcpStream, pages: Rc<Pages>) {
    let mut read = BytesMut::with_capacity(32 * 1024);
    loop {
        let head = loop {
            if let Some(end) = find(&read, b"\r\n\r\n") {
                break end + 4;
            }
            if read.len() > HEAD_MAX || !matches!(io.read_buf(&mut read).await, Ok(n) if n > 0) {
                return;
            }
        };
        let answer = pages.at(path(&read[..head])).answer.clone();
        // Only POST has a body here.
        let body = if read[0] == b'P' { body_length(&read[..head]) } else { Some(0) };
        match body {
            Some(body) => {
                while read.len() < head + body {
                    if !matches!(io.read_buf(&mut read).await, Ok(n) if n > 0) {
                        return;
                    }
                }
                let _ = read.split_to(head + body);
            }
            None => {
                while !read.ends_with(b"\r\n0\r\n\r\n") {
                    if !matches!(io.read_buf(&mut read).await, Ok(n) if n > 0) {
                        return;
                    }
                }
                read.clear();
            }
        }
        if read.is_empty() {
            read.reserve(32 * 1024);
        }
        if write(&mut io, &answer).await.is_err() {
            return;
        }
    }
}

/// A kernel with four megabytes of room takes them in one call of a millisecond or two, and all that time nobody else would be
/// answered: in pieces, with a look at the others between them.
async fn write(io: &mut TcpStream, answer: &[u8]) -> std::io::Result<()> {
    let mut pieces = answer.chunks(PIECE);
    if let Some(first) = pieces.next() {
        io.write_all(first).await?;
    }
    for piece in pieces {
        tokio::task::yield_now().await;
        io.write_all(piece).await?;
    }
    Ok(())
}

fn path(head: &[u8]) -> &[u8] {
    head.split(|&b| b == b' ').nth(1).unwrap_or(b"/")
}

/// `None`: chunked.
fn body_length(head: &[u8]) -> Option<usize> {
    let text = std::str::from_utf8(head).ok()?;
    let value = |name: &str| {
        text.split("\r\n").find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    };
    match value("content-length") {
        Some(length) => length.parse().ok(),
        None if value("transfer-encoding").is_some() => None,
        None => Some(0),
    }
}

/// Where `needle` begins in `hay`.
pub(super) fn find(hay: &[u8], needle: &[u8]) -> Option<usize> {
    hay.windows(needle.len()).position(|window| window == needle)
}

async fn serve_http2(io: TcpStream, pages: Rc<Pages>) {
    let mut builder = h2::server::Builder::new();
    builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW * 16).max_concurrent_streams(1000);
    let Ok(mut connection) = builder.handshake::<_, Bytes>(io).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        let (head, body) = request.into_parts();
        match head.uri.path() {
            // gRPC, and whoever exports spans to us.
            path if path.contains('.') => {
                let stream = path.ends_with("Stream");
                tokio::task::spawn_local(async move { drop(grpc(body, respond, stream).await) });
            }
            path => drop(page(pages.at(path.as_bytes()), respond)),
        }
    }
}

fn page(page: &Page, mut respond: SendResponse<Bytes>) -> anyhow::Result<()> {
    let mut answer = http::Response::builder().header("content-length", page.body.len());
    for (name, value) in &page.fields {
        answer = answer.header(*name, value);
    }
    let mut stream = respond.send_response(answer.body(())?, false)?;
    stream.send_data(page.body.clone(), true)?;
    Ok(())
}

/// Echoes: a stream piece by piece, a call when it is whole. Exported spans are answered with an empty message.
async fn grpc(mut body: RecvStream, mut respond: SendResponse<Bytes>, piecewise: bool) -> anyhow::Result<()> {
    let head = http::Response::builder().header("content-type", "application/grpc").body(())?;
    let mut whole = BytesMut::new();
    let mut stream = None;
    if piecewise {
        stream = Some(respond.send_response(head.clone(), false)?);
    }
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        match &mut stream {
            // The end of the request is an empty piece, which is no piece of the echo: HTTP/2 endpoints bound how many empty
            // frames they take (h2: a hundred in a connection's life).
            Some(_) if data.is_empty() => {}
            Some(stream) => stream.send_data(data, false)?,
            None => whole.extend_from_slice(&data),
        }
    }
    let mut stream = match stream {
        Some(stream) => stream,
        None => {
            let mut stream = respond.send_response(head, false)?;
            let echo = if whole.len() > ECHO_MAX { Bytes::from_static(&[0; 5]) } else { whole.freeze() };
            stream.send_data(echo, false)?;
            stream
        }
    };
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
    stream.send_trailers(trailers)?;
    Ok(())
}

/// Larger messages come from exporters, not from the load.
const ECHO_MAX: usize = 256;
