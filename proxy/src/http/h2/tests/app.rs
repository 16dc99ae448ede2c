//! What the tests of HTTP/2 have in common: an application, a served connection, and how to ask it.

use std::cell::Cell;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use leno_proto::request::Headers;
use tokio::io::DuplexStream;
use tokio::runtime::Builder;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::task::LocalSet;

use super::Client;
use super::connect;
use super::serve;
use crate::error::Reason;
use crate::http::End;
use crate::http::Interim;
use crate::http::Request;
use crate::http::Response;
use crate::http::ResponseLog;
use crate::http::Service;
use crate::http::body::Body;
use crate::http::h2::Ledger;
use crate::http::h2::Settings;
use crate::http::head::RequestHead;
use crate::http::head::ResponseHead;
use crate::http::head::Version;
use crate::timer::Timers;

pub(super) fn run(test: impl Future<Output = ()>) {
    run_on(Builder::new_current_thread().enable_all(), test);
}

/// On a clock that stands still while there is something to do, and then jumps to what is waited for. Not with real sockets.
pub(super) fn run_paused(test: impl Future<Output = ()>) {
    run_on(Builder::new_current_thread().enable_all().start_paused(true), test);
}

fn run_on(builder: &mut Builder, test: impl Future<Output = ()>) {
    let runtime = builder.build().expect("a runtime");
    let bounded = async { tokio::time::timeout(Duration::from_secs(600), test).await };
    LocalSet::new().block_on(&runtime, bounded).expect("no test takes this long");
}

/// Answers by path, and keeps how exchanges ended.
#[derive(Default)]
pub(super) struct App {
    pub(super) calls: Cell<usize>,
    pub(super) running: Rc<Cell<usize>>,
    pub(super) most_running: Cell<usize>,
    pub(super) ends: Rc<RefCell<Vec<End>>>,
    pub(super) refused: RefCell<Vec<Reason>>,
    pub(super) heads: RefCell<Vec<RequestHead>>,
    /// `/gate` waits until it opens.
    pub(super) gate: Notify,
}

pub(super) struct Log(Rc<RefCell<Vec<End>>>);

impl ResponseLog for Log {
    fn ended(self, end: End) {
        self.0.borrow_mut().push(end);
    }
}

pub(super) struct Running(Rc<Cell<usize>>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Service for App {
    type Log = Log;

    async fn call<'c>(&'c self, mut request: Request<'c>) -> Response<'c, Log> {
        self.calls.set(self.calls.get() + 1);
        self.running.set(self.running.get() + 1);
        self.most_running.set(self.most_running.get().max(self.running.get()));
        let _running = Running(Rc::clone(&self.running));
        self.heads.borrow_mut().push(request.head.clone());
        let mut headers = Headers::new();
        let mut status = 200;
        let body = match &*request.head.target {
            "/read" => {
                while let Some(data) = request.body.data().await {
                    status = data.map_or_else(Reason::status, |_| status);
                }
                Body::Empty
            }
            "/echo" => request.body,
            "/gate" => {
                self.gate.notified().await;
                Body::Full(Bytes::from(vec![b'x'; 1024]))
            }
            "/never" => std::future::pending().await,
            "/big" => Body::Full(Bytes::from(vec![b'x'; 4 << 20])),
            "/cut" => {
                headers.push(b"content-length", b"2000");
                Body::Full(Bytes::from(vec![b'x'; 1000]))
            }
            "/hint" => {
                request.interim.push(answer(103, Headers::new()));
                tokio::task::yield_now().await;
                Body::Full(Bytes::from_static(b"after the hint"))
            }
            _ => Body::Empty,
        };
        Response { head: answer(status, headers), body, tunnel: None, log: Log(Rc::clone(&self.ends)) }
    }

    fn refused(&self, reason: Reason) -> ResponseHead {
        self.refused.borrow_mut().push(reason);
        answer(reason.status(), Headers::new())
    }
}

pub(super) fn answer(status: u16, headers: Headers) -> ResponseHead {
    ResponseHead { version: Version::Http2, status, reason_phrase: Vec::new(), headers }
}

pub(super) fn get(target: &str) -> RequestHead {
    RequestHead {
        version: Version::Http2,
        method: "GET".into(),
        scheme: "http",
        authority: "web.test".into(),
        target: target.into(),
        headers: Headers::new(),
    }
}

pub(super) fn settings() -> Settings {
    Settings { keep_alive: None, idle: None, ..Settings::hop(Ledger::new(64 << 20)) }
}

/// A served connection: the other end of the pipe, the application, and how serving ended.
pub(super) struct Served {
    pub(super) io: Option<DuplexStream>,
    pub(super) app: Rc<App>,
    pub(super) drain: Rc<Notify>,
    pub(super) done: JoinHandle<Result<(), Reason>>,
    pub(super) timers: Timers,
}

pub(super) fn served(settings: &Settings) -> Served {
    let (near, far) = tokio::io::duplex(1 << 20);
    let timers = Timers::new();
    let app = Rc::new(App::default());
    let drain = Rc::new(Notify::new());
    let done = tokio::task::spawn_local({
        let (settings, app, timers, drain) = (settings.clone(), Rc::clone(&app), timers.clone(), Rc::clone(&drain));
        async move { serve(far, &settings, app, &timers, drain.notified()).await }
    });
    Served { io: Some(near), app, drain, done, timers }
}

impl Served {
    pub(super) async fn client(&mut self) -> Client {
        let io = self.io.take().expect("one client a connection");
        connect(io, &settings(), &self.timers).await
    }
}

pub(super) async fn exchange<'c>(client: &Client, head: &RequestHead, body: Body<'c>) -> (ResponseHead, Body<'c>) {
    let slot = client.ready().await.expect("open");
    match client.exchange(slot, head, body, &Interim::default()).await {
        Ok(answer) => answer,
        Err(error) => panic!("{:?}: {}", error.reason, error.detail),
    }
}

pub(super) async fn whole(mut body: Body<'_>) -> Result<Vec<u8>, Reason> {
    let mut all = Vec::new();
    while let Some(data) = body.data().await {
        all.extend_from_slice(&data?);
    }
    Ok(all)
}
