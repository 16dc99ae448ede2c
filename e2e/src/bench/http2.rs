//! HTTP/2 load: so many streams at once on each connection, as requests, gRPC calls or gRPC streams.

use std::cell::Cell;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use bytes::Bytes;
use h2::client::SendRequest;
use http::Method;
use http::Request;
use tokio::net::TcpStream;

use crate::bench::figures::Figures;
use crate::bench::figures::Latencies;
use crate::bench::load;
use crate::bench::load::Clock;
use crate::bench::load::HOST;
use crate::bench::load::Kind;
use crate::bench::load::Options;

/// Of a stream; connections have sixteen times that. Flow control is not what is measured here.
pub(super) const WINDOW: u32 = 1 << 20;

/// A gRPC message: no compression, 32 bytes.
const MESSAGE: &[u8; 37] = b"\0\0\0\0\x20abcdefghijklmnopqrstuvwxyz012345";

/// Messages on one stream before the next one is opened.
const MESSAGES: u32 = 200;

struct Shared {
    clock: Clock,
    kind: Kind,
    path: String,
    done: Cell<u64>,
    bad: Cell<u64>,
    latencies: RefCell<Latencies>,
}

pub(super) async fn run(options: &Options, clock: Clock) -> anyhow::Result<Figures> {
    let path = match options.kind {
        Kind::Unary => "/bench.Echo/Unary".to_owned(),
        Kind::Stream => "/bench.Echo/Stream".to_owned(),
        _ => options.path.clone(),
    };
    let shared = Rc::new(Shared {
        clock,
        kind: options.kind,
        path,
        done: Cell::new(0),
        bad: Cell::new(0),
        latencies: RefCell::default(),
    });
    let mut all = Vec::new();
    for _ in 0..options.connections {
        let io = TcpStream::connect(options.to).await?;
        io.set_nodelay(true)?;
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW * 16).enable_push(false);
        let (sender, connection) = builder.handshake::<_, Bytes>(io).await?;
        tokio::task::spawn_local(async move { drop(connection.await) });
        for _ in 0..options.streams {
            let (shared, sender) = (shared.clone(), sender.clone());
            all.push(tokio::task::spawn_local(shared.drive(sender)));
        }
    }
    tokio::time::sleep_until(clock.begin.into()).await;
    load::go();
    for one in all {
        let rest = clock.end + Duration::from_secs(2);
        let _ = tokio::time::timeout_at(rest.into(), one).await;
    }
    Ok(Figures::new(shared.done.get(), shared.bad.get(), clock.end - clock.begin, shared.latencies.take()))
}

impl Shared {
    async fn drive(self: Rc<Self>, sender: SendRequest<Bytes>) {
        while Instant::now() < self.clock.end {
            let ended = match self.kind {
                Kind::Unary => self.unary(sender.clone()).await,
                Kind::Stream => self.stream(sender.clone()).await,
                _ => self.plain(sender.clone()).await,
            };
            if let Err(error) = ended {
                if self.bad.get() == 0 {
                    eprintln!("{:?}, the first that failed: {error:#}", self.kind);
                }
                self.bad.set(self.bad.get() + 1);
                // A connection that has ended fails at once, for ever.
                tokio::task::yield_now().await;
            }
        }
    }

    fn count(&self, sent: Instant) {
        let now = Instant::now();
        if self.clock.counts(now) {
            self.done.set(self.done.get() + 1);
            self.latencies.borrow_mut().push(now - sent);
        }
    }

    fn request(&self) -> anyhow::Result<Request<()>> {
        let uri = format!("http://{HOST}{}", self.path);
        Ok(match self.kind {
            Kind::Unary | Kind::Stream => Request::builder()
                .method(Method::POST)
                .uri(uri)
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .body(())?,
            _ => Request::builder().uri(uri).body(())?,
        })
    }

    async fn plain(&self, sender: SendRequest<Bytes>) -> anyhow::Result<()> {
        let mut sender = sender.ready().await?;
        let sent = Instant::now();
        let (answer, _) = sender.send_request(self.request()?, true)?;
        let (head, mut body) = answer.await?.into_parts();
        anyhow::ensure!(head.status == 200, "{}", head.status);
        while let Some(data) = body.data().await {
            let length = data?.len();
            body.flow_control().release_capacity(length)?;
        }
        self.count(sent);
        Ok(())
    }

    async fn unary(&self, sender: SendRequest<Bytes>) -> anyhow::Result<()> {
        let mut sender = sender.ready().await?;
        let sent = Instant::now();
        let (answer, mut body) = sender.send_request(self.request()?, false)?;
        body.send_data(Bytes::from_static(MESSAGE), true)?;
        let mut answer = answer.await?.into_body();
        let mut length = 0;
        while let Some(data) = answer.data().await {
            let data = data?;
            length += data.len();
            answer.flow_control().release_capacity(data.len())?;
        }
        let trailers = answer.trailers().await?.context("no trailers")?;
        let well = trailers.get("grpc-status").is_some_and(|status| status == "0") && length == MESSAGE.len();
        anyhow::ensure!(well, "{trailers:?}, {length} bytes");
        self.count(sent);
        Ok(())
    }

    /// One message after the other, each answered before the next.
    async fn stream(&self, sender: SendRequest<Bytes>) -> anyhow::Result<()> {
        let mut sender = sender.ready().await?;
        let (answer, mut body) = sender.send_request(self.request()?, false)?;
        let mut sent = Instant::now();
        body.send_data(Bytes::from_static(MESSAGE), false)?;
        let mut answer = answer.await?.into_body();
        let (mut length, mut left) = (0, MESSAGES);
        while let Some(data) = answer.data().await {
            let data = data?;
            length += data.len();
            answer.flow_control().release_capacity(data.len())?;
            while length >= MESSAGE.len() {
                length -= MESSAGE.len();
                self.count(sent);
                left -= 1;
                sent = Instant::now();
                let end = left == 0 || sent >= self.clock.end;
                if end {
                    body.send_data(Bytes::new(), true)?;
                    left = u32::MAX;
                } else {
                    body.send_data(Bytes::from_static(MESSAGE), false)?;
                }
            }
        }
        Ok(())
    }
}
