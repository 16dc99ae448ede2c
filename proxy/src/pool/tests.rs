//! Idle connections and their servers' closes, over real sockets.

use std::io::Read;
use std::io::Write;
use std::net::TcpListener;
use std::net::TcpStream;

use leno_proto::policy::ServiceName;
use leno_proto::request::Headers;
use tokio::task::LocalSet;

use super::*;
use crate::http::Interim;
use crate::http::body::Body;
use crate::http::h2::Ledger;
use crate::http::head::RequestHead;
use crate::http::head::Version;
use crate::upstream::fixtures::traffic;

struct World {
    pool: Pool,
    way: Way,
    server: TcpListener,
}

fn world() -> World {
    let timers = Timers::new();
    let ledger = Ledger::new(1 << 20);
    let make = Make {
        tls: Tls::new(),
        hop: h2::Settings::hop(ledger.clone()),
        plaintext: h2::Settings { streams: 1, ..h2::Settings::plaintext(ledger) },
        timers,
    };
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap();
    let service = ServiceName { namespace: "shop".into(), name: "orders".into() };
    let way = Way {
        key: Key { uid: "orders-0".into(), address, identity: None, wire: Wire::Http1 },
        target: ServicePort { service, port: 80 },
        gate: Gate::new(2),
        limits: Limits::Traffic(Arc::new(traffic())),
        idle: Arc::default(),
        parallelism: 1,
        metrics: Arc::default(),
    };
    World { pool: Pool::new(make), way, server }
}

impl World {
    async fn lease(&self, take: Take) -> Http1 {
        match self.pool.http1(&self.way, take, Instant::now(), Instant::now() + Duration::from_secs(120)).await {
            Ok(lease) => lease,
            Err(error) => panic!("{error}"),
        }
    }

    /// One exchange over `lease`, which then comes home; the server's end of it.
    async fn exchange(&self, lease: Http1, known: Option<TcpStream>, fields: &str) -> TcpStream {
        let mut theirs = known.unwrap_or_else(|| self.server.accept().unwrap().0);
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{fields}\r\n");
        // There already when it is asked for: the other end's kernel keeps it.
        theirs.write_all(answer.as_bytes()).unwrap();
        let head = RequestHead {
            version: Version::Http11,
            method: "GET".into(),
            scheme: "",
            authority: "a".into(),
            target: "/".into(),
            headers: Headers::new(),
        };
        let sent = lease.client.exchange(&head, Body::Empty, &Interim::default(), lease.home).await;
        assert!(sent.is_ok_and(|answered| answered.head.status == 200));
        assert!(theirs.read(&mut [0; 1024]).unwrap() > 0);
        theirs
    }

    fn closes(&self, why: Close) -> u64 {
        self.way.metrics.closes[why as usize].value()
    }

    /// Until the poller has told.
    async fn rung(&self) {
        tokio::time::timeout(Duration::from_secs(120), self.pool.bell.notified()).await.expect("it rings");
    }
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, test);
}

#[test]
fn a_close_is_noticed_when_it_happens_and_teaches_the_server_s_limit() {
    run(async {
        let (world, begun) = (world(), Instant::now());
        let lease = world.lease(Take::Any).await;
        let theirs = world.exchange(lease, None, "").await;
        // Used again: what the poller told of the answers rings for nobody.
        let lease = world.lease(Take::Any).await;
        assert!(lease.reused);
        let theirs = world.exchange(lease, Some(theirs), "").await;
        drop(theirs);
        world.rung().await;
        let later = Instant::now() + Duration::from_secs(10);
        world.pool.notice(later);
        assert_eq!((world.closes(Close::Peer), world.way.metrics.idle.value(), world.way.gate.in_use()), (1, 0, 0));
        let policy = Duration::from_secs(300);
        let learned = world.way.idle.usable_for(policy, later);
        // Somewhat less than it idled, and that was ten seconds and what this machine took.
        assert!((Duration::from_secs(7)..(later - begun).mul_f64(0.9)).contains(&learned), "{learned:?}");
    });
}

#[test]
fn what_a_server_says_about_its_limit_is_heeded() {
    run(async {
        let world = world();
        let lease = world.lease(Take::Any).await;
        let theirs = world.exchange(lease, None, "Keep-Alive: timeout=5, max=100\r\n").await;
        let learned = world.way.idle.usable_for(Duration::from_secs(300), Instant::now());
        assert!((Duration::from_secs(3)..=Duration::from_secs(4)).contains(&learned), "{learned:?}");
        world.pool.sweep(Instant::now() + Duration::from_secs(4));
        assert_eq!(world.closes(Close::Idle), 1);
        drop(theirs);
    });
}

#[test]
fn who_needs_a_fresh_connection_gets_one_even_where_idle_ones_hold_every_permit() {
    run(async {
        let world = world();
        let (one, two) = (world.lease(Take::Any).await, world.lease(Take::Any).await);
        let _first = world.exchange(one, None, "").await;
        let _second = world.exchange(two, None, "").await;
        assert_eq!(world.way.gate.in_use(), 2);
        let fresh = world.lease(Take::Fresh).await;
        assert!(!fresh.reused);
        assert_eq!((world.way.gate.in_use(), world.way.metrics.idle.value()), (2, 1));
    });
}

#[test]
fn a_connection_that_does_not_come_home_says_why() {
    run(async {
        let world = world();
        let lease = world.lease(Take::Any).await;
        drop(world.exchange(lease, None, "Connection: close\r\n").await);
        assert_eq!(world.closes(Close::Done), 1);
        drop(world.lease(Take::Any).await);
        assert_eq!(world.closes(Close::Cancelled), 1);
        assert_eq!((world.way.gate.in_use(), world.way.metrics.active.value()), (0, 0));
    });
}

#[test]
fn a_stream_that_ends_serves_who_waits_for_a_permit_that_its_connection_holds() {
    run(async {
        let mut world = world();
        world.way.key.wire = Wire::Http2;
        world.way.gate = Gate::new(1);
        let deadline = Instant::now() + Duration::from_secs(120);
        let Ok(first) = world.pool.http2(&world.way, Instant::now(), deadline).await else { panic!("no connection") };
        let mut second = std::pin::pin!(world.pool.http2(&world.way, Instant::now(), deadline));
        let mut third = std::pin::pin!(world.pool.http2(&world.way, Instant::now(), deadline));
        std::future::poll_fn(|cx| {
            assert!(second.as_mut().poll(cx).is_pending() && third.as_mut().poll(cx).is_pending());
            std::task::Poll::Ready(())
        })
        .await;
        drop(first);
        // Well within the time that a permit is waited for.
        let Ok(second) = second.await else { panic!("a stream was free") };
        drop(second);
        assert!(third.await.is_ok_and(|third| third.reused));
    });
}

#[test]
fn what_cannot_be_repeated_takes_no_connection_that_a_server_may_be_closing() {
    run(async {
        let world = world();
        let (one, two) = (world.lease(Take::Any).await, world.lease(Take::Any).await);
        let _first = world.exchange(one, None, "").await;
        let _second = world.exchange(two, None, "").await;
        let (lane, now) = (world.pool.lane(&world.way), Instant::now());
        assert!(lane.take_idle(now + Duration::from_secs(1), Take::Recent).is_none());
        assert_eq!((world.closes(Close::Idle), world.way.metrics.idle.value()), (1, 1), "the new one takes a place");
        assert!(lane.take_idle(now + Duration::from_secs(1), Take::Any).is_some());
        let kind = |idempotent, body| Take::of(idempotent, &body);
        assert_eq!(kind(true, Body::Empty), Take::Any);
        assert_eq!(kind(false, Body::Empty), Take::Recent);
        assert_eq!(kind(true, Body::Full(vec![0; 65 << 10].into())), Take::Recent, "more than is kept");
    });
}
