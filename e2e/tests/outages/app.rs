//! An application whose behaviour a test decides, and that remembers what reached it. It must never know of Leno.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// An HTTP/1.1 server on one address; it ends with this.
pub(crate) struct App {
    seen: Arc<Seen>,
    server: JoinHandle<()>,
}

/// What reached it, and what it is to do.
#[derive(Default)]
struct Seen {
    is_failing: AtomicBool,
    /// How long each answer takes.
    hold_millis: AtomicU64,
    arrivals: Mutex<Vec<Instant>>,
    requests: Level,
    connections: Level,
}

/// How many at once, now and at most.
#[derive(Default)]
struct Level {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Level {
    fn up(&self) -> Up<'_> {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        Up(self)
    }
}

struct Up<'l>(&'l Level);

impl Drop for Up<'_> {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::SeqCst);
    }
}

impl App {
    pub(crate) async fn start(address: SocketAddr) -> Self {
        let seen = Arc::<Seen>::default();
        let listener = TcpListener::bind(address).await.unwrap();
        let server = tokio::spawn(serve(listener, seen.clone()));
        Self { seen, server }
    }

    /// Answers 503 from now on, or 200 again.
    pub(crate) fn fail(&self, is_failing: bool) {
        self.seen.is_failing.store(is_failing, Ordering::SeqCst);
    }

    pub(crate) fn hold(&self, each: Duration) {
        self.seen.hold_millis.store(each.as_millis() as u64, Ordering::SeqCst);
    }

    /// When each request since `since` arrived.
    pub(crate) fn arrivals(&self, since: Instant) -> Vec<Instant> {
        let arrivals = self.seen.arrivals.lock().unwrap();
        arrivals.iter().filter(|at| **at >= since).copied().collect()
    }

    pub(crate) fn requests_most(&self) -> usize {
        self.seen.requests.most.load(Ordering::SeqCst)
    }

    pub(crate) fn connections_most(&self) -> usize {
        self.seen.connections.most.load(Ordering::SeqCst)
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(listener: TcpListener, seen: Arc<Seen>) {
    loop {
        let Ok((socket, _)) = listener.accept().await else { return };
        let _ = socket.set_nodelay(true);
        let seen = seen.clone();
        tokio::spawn(async move {
            let _up = seen.connections.up();
            let service = hyper::service::service_fn(|_: hyper::Request<Incoming>| async {
                Ok::<_, Infallible>(answer(&seen).await)
            });
            let server = hyper::server::conn::http1::Builder::new();
            let _ = server.serve_connection(TokioIo::new(socket), service).await;
        });
    }
}

async fn answer(seen: &Seen) -> hyper::Response<Full<Bytes>> {
    let _up = seen.requests.up();
    seen.arrivals.lock().unwrap().push(Instant::now());
    let hold = Duration::from_millis(seen.hold_millis.load(Ordering::SeqCst));
    if !hold.is_zero() {
        tokio::time::sleep(hold).await;
    }
    let (status, text) = match seen.is_failing.load(Ordering::SeqCst) {
        true => (503, "out of order\n"),
        false => (200, "well\n"),
    };
    let mut answer = hyper::Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *answer.status_mut() = hyper::StatusCode::from_u16(status).unwrap();
    answer
}
