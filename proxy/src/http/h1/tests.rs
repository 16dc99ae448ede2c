//! What goes in and what must come out, byte by byte.

mod arbitrary;
mod cases;
mod client;
mod differential;
mod server;

use std::cell::RefCell;
use std::future::Future;
use std::future::pending;
use std::rc::Rc;

use bytes::Bytes;
use leno_proto::request::Headers;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::io::DuplexStream;

use crate::error::Reason;
use crate::http::End;
use crate::http::Request;
use crate::http::Response;
use crate::http::ResponseLog;
use crate::http::Service;
use crate::http::body::Body;
use crate::http::h1::ServerSettings;
use crate::http::h1::Stream;
use crate::http::h1::serve;
use crate::http::head::ResponseHead;
use crate::http::head::Version;
use crate::net::Io;

fn answer_head(status: u16) -> ResponseHead {
    ResponseHead { version: Version::Http11, status, reason_phrase: Vec::new(), headers: Headers::new() }
}

fn run<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, future)
}

struct Ends(Rc<RefCell<Vec<End>>>);

impl ResponseLog for Ends {
    fn ended(self, end: End) {
        self.0.borrow_mut().push(end);
    }
}

/// Reads each request whole, writes down what it saw, and answers `ok`.
#[derive(Default)]
struct Echo {
    seen: RefCell<Vec<String>>,
    ends: Rc<RefCell<Vec<End>>>,
    refused: RefCell<Option<Reason>>,
}

impl Service for Echo {
    type Log = Ends;

    async fn call<'c>(&'c self, mut request: Request<'c>) -> Response<'c, Ends> {
        let head = &request.head;
        let mut line = format!("{} {} {}", head.method, head.authority, head.target);
        let mut body = Vec::new();
        let mut cut = String::new();
        while let Some(piece) = request.body.data().await {
            match piece {
                Ok(data) => body.extend_from_slice(&data),
                Err(reason) => cut = format!("!{reason:?}"),
            }
        }
        let trailers = request.body.trailers();
        if !body.is_empty() || !cut.is_empty() {
            line.push_str(&format!(" [{}{cut}]", String::from_utf8_lossy(&body)));
        }
        for (name, value) in trailers.iter().flat_map(Headers::iter) {
            line.push_str(&format!(" +{}:{}", String::from_utf8_lossy(name), String::from_utf8_lossy(value)));
        }
        self.seen.borrow_mut().push(line);
        let status = if cut.is_empty() { 200 } else { 400 };
        let body = Body::Full(Bytes::from_static(b"ok"));
        Response { head: answer_head(status), body, tunnel: None, log: Ends(Rc::clone(&self.ends)) }
    }

    fn refused(&self, reason: Reason) -> ResponseHead {
        *self.refused.borrow_mut() = Some(reason);
        answer_head(500)
    }
}

/// Serves `pieces` as one client's bytes, FIN after the last; what the service saw, then the status of a refusal.
async fn outcome(pieces: &[&[u8]]) -> (String, Vec<u8>) {
    let echo = Echo::default();
    let answers = exchange(&echo, pieces).await;
    let mut told = echo.seen.into_inner();
    if echo.refused.borrow().is_some() {
        let last = String::from_utf8_lossy(&answers).into_owned();
        let at = last.rfind("HTTP/1.1 ").expect("a refusal is answered");
        told.push(last[at + 9..at + 12].to_owned());
    }
    (told.join(" | "), answers)
}

async fn exchange<S: Service>(service: &S, pieces: &[&[u8]]) -> Vec<u8> {
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    let settings = ServerSettings::default();
    let serving = serve(Stream::from(Io::Memory(ours)), &settings, service, pending());
    let (_, answers) = tokio::join!(serving, speak(theirs, pieces));
    answers
}

async fn speak(mut io: DuplexStream, pieces: &[&[u8]]) -> Vec<u8> {
    for piece in pieces {
        if io.write_all(piece).await.is_err() {
            break;
        }
        tokio::task::yield_now().await;
    }
    let _ = io.shutdown().await;
    let mut answers = Vec::new();
    let _ = io.read_to_end(&mut answers).await;
    answers
}
