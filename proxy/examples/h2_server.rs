//! An HTTP/2 server on this crate's own code alone, in the clear: what h2spec and httpwg are pointed at. It answers every
//! request with a short page once it has read it, and must never be more than that.
//!
//! `cargo run -p leno-proxy --example h2_server -- 127.0.0.1:8080`
//!
//! h2spec 2.6.0 passes whole (146 of 146). httpwg 0.2.5 passes 104 of 107; of the others, none of them unsafe, one makes the tool
//! itself panic, and two want another code where the stream or the connection ends as it must: a stream id below the last one
//! is told as `STREAM_CLOSED`, as a stream that is over would be, and a CONNECT with a scheme as `HTTP_1_1_REQUIRED`.

use std::rc::Rc;

use bytes::Bytes;
use leno_proto::request::Headers;
use leno_proxy::error::Reason;
use leno_proxy::http::End;
use leno_proxy::http::Request;
use leno_proxy::http::Response;
use leno_proxy::http::ResponseLog;
use leno_proxy::http::Service;
use leno_proxy::http::body::Body;
use leno_proxy::http::h2;
use leno_proxy::http::head::ResponseHead;
use leno_proxy::http::head::Version;
use leno_proxy::timer::Timers;
use tokio::task::LocalSet;

struct Page;

struct Quiet;

impl ResponseLog for Quiet {
    fn ended(self, _: End) {}
}

impl Service for Page {
    type Log = Quiet;

    async fn call<'c>(&'c self, request: Request<'c>) -> Response<'c, Quiet> {
        let mut body = request.body;
        // What a stream that is not done yet does wrong must show on it before the answer ends it.
        while let Some(Ok(_)) = body.data().await {}
        let body = Body::Full(Bytes::from_static(b"woven\n"));
        Response { head: head(200), body, tunnel: None, log: Quiet }
    }

    fn refused(&self, reason: Reason) -> ResponseHead {
        head(reason.status())
    }
}

fn head(status: u16) -> ResponseHead {
    ResponseHead { version: Version::Http2, status, reason_phrase: Vec::new(), headers: Headers::new() }
}

fn main() -> std::io::Result<()> {
    let listen = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let listener = tokio::net::TcpListener::bind(listen).await?;
        println!("listening on {}", listener.local_addr()?);
        let (timers, service) = (Timers::new(), Rc::new(Page));
        let settings = h2::Settings::plaintext(h2::Ledger::new(256 << 20));
        loop {
            let (stream, peer) = listener.accept().await?;
            let (timers, service, settings) = (timers.clone(), Rc::clone(&service), settings.clone());
            tokio::task::spawn_local(async move {
                let ended = h2::serve(stream, &settings, service, &timers, std::future::pending()).await;
                println!("{peer}: {ended:?}");
            });
        }
    })
}
