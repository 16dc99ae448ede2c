//! A mesh of sidecars on one thread, each with its own state and certificate, their policy filled in by hand.

#[allow(dead_code, clippy::duplicate_mod, reason = "the certificates that other tests make too")]
#[path = "../../tls/tests/ca.rs"]
mod ca;

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use leno_proto::key::Key;
use leno_proto::policy::*;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::runtime::LocalOptions;

use crate::access_log::AccessLog;
use crate::access_log::Mode as LogMode;
use crate::app;
use crate::app::Door;
use crate::drain;
use crate::http::h2::Ledger;
use crate::local::Shared;
use crate::metrics::Metrics;
use crate::net;
use crate::net::Share as Sharing;
use crate::net::tests::Refusing;
use crate::state::Change;
use crate::state::State;
use crate::trace;
use crate::trace::export;
use crate::upstream::fixtures::traffic;
use crate::worker;
use crate::worker::Front;
use ca::Ca;
use ca::Leaf;

const DOMAIN: &str = "mesh.test";
/// What a story lets run out: longer than a busy machine stands still, since what is to be cut must have begun by then.
pub(super) const STANDSTILL: Duration = Duration::from_secs(4);

pub(super) struct Mesh {
    ca: Ca,
    pods: RefCell<HashMap<String, Rc<Pod>>>,
    /// What tests change of the policy before it is applied.
    pub(super) traffic: Traffic,
    pub(super) inbound: InboundTraffic,
    pub(super) access: Access,
    pub(super) protocol: Protocol,
    /// Whether callers reach the other's sidecar. Otherwise they reach its application, in plaintext.
    pub(super) meshed: bool,
    /// Endpoints of every service that nobody answers at.
    pub(super) ghosts: Vec<SocketAddr>,
    /// Requests to `orders` are copied to `audit`.
    pub(super) mirrored: bool,
    /// What a TCPRoute's rule on `orders` says.
    pub(super) tcp_rule: Option<Traffic>,
    /// Whose application does not run.
    pub(super) down: &'static str,
}

/// Where an application is to be.
enum App {
    Listens(TcpListener),
    Down(Refusing),
}

impl App {
    fn address(&self) -> SocketAddr {
        match self {
            Self::Listens(listener) => listener.local_addr().unwrap(),
            Self::Down(refusing) => refusing.address,
        }
    }
}

/// A workload: its application's socket, its sidecar, and the door for calls to each other service.
pub(super) struct Pod {
    app: RefCell<Option<App>>,
    hop: SocketAddr,
    pub(super) calls: HashMap<String, SocketAddr>,
    #[allow(dead_code, reason = "dropped with the pod: its end is the end of the drain")]
    pub(super) drain: drain::Drain,
    pub(super) metrics: Arc<Metrics>,
    state: Arc<State>,
    _lines: crate::access_log::Writer,
    _crew: Arc<worker::Crew>,
}

/// The application's end of one connection.
pub(super) struct Served {
    pub(super) io: TcpStream,
    pub(super) read: Vec<u8>,
}

impl Mesh {
    pub(super) fn new() -> Self {
        Self {
            ca: Ca::new(DOMAIN),
            pods: RefCell::default(),
            traffic: traffic(),
            inbound: inbound(),
            access: Access::default(),
            protocol: Protocol::Http1,
            meshed: true,
            ghosts: Vec::new(),
            mirrored: false,
            tcp_rule: None,
            down: "",
        }
    }

    /// Three services, `web`, `orders` and `audit`, each calling the others, on one thread; then the story.
    pub(super) fn run<F: Future<Output = ()>>(self, story: impl FnOnce(Rc<Self>) -> F) {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap();
        runtime.block_on(async {
            let mesh = Rc::new(self);
            mesh.start(&["web", "orders", "audit"]).await;
            tokio::time::timeout(Duration::from_secs(120), story(mesh)).await.expect("the story hangs");
        });
    }

    async fn start(self: &Rc<Self>, names: &[&str]) {
        let mut sockets = Vec::new();
        for name in names {
            let app = match self.down == *name {
                true => App::Down(Refusing::new()),
                false => App::Listens(TcpListener::bind("127.0.0.1:0").await.unwrap()),
            };
            let hop = net::listen(([127, 0, 0, 1], 0).into(), Sharing::Alone).unwrap();
            sockets.push((name.to_string(), app, hop));
        }
        let endpoints: Vec<(String, SocketAddr, SocketAddr)> =
            sockets.iter().map(|(n, app, hop)| (n.clone(), app.address(), hop.local_addr().unwrap())).collect();
        for (name, app, hop) in sockets {
            let pod = self.pod(&name, app, hop, &endpoints);
            self.pods.borrow_mut().insert(name, Rc::new(pod));
        }
    }

    fn pod(
        &self,
        name: &str,
        app: App,
        hop: std::net::TcpListener,
        endpoints: &[(String, SocketAddr, SocketAddr)],
    ) -> Pod {
        let metrics = Arc::new(Metrics::default());
        let (state, _wanted) = State::new(|_| Box::new(|| ()));
        state.apply(self.resources(name, app.address(), endpoints), Instant::now());
        let (log, lines) = AccessLog::new(LogMode::All, Arc::clone(&metrics));
        let (spans, _queue) = export::queue(Arc::clone(&metrics), Instant::now());
        let (drain, watch) = drain::channel();
        let hop_address = hop.local_addr().unwrap();
        let mut doors = vec![Door { socket: hop, front: Arc::new(Front::InboundTo(app.address())) }];
        let mut calls = HashMap::new();
        for (other, ..) in endpoints {
            let socket = net::listen(([127, 0, 0, 1], 0).into(), Sharing::Alone).unwrap();
            calls.insert(other.clone(), socket.local_addr().unwrap());
            doors.push(Door { socket, front: Arc::new(Front::OutboundTo(port_of(other))) });
        }
        let listens: Vec<SocketAddr> = doors.iter().map(|door| door.socket.local_addr().unwrap()).collect();
        let shared = Shared {
            state: Arc::clone(&state),
            tls: self.ca.tls(name, Leaf::Good),
            metrics: Arc::clone(&metrics),
            log,
            spans,
            tracing: trace::Rules::default(),
            drain: watch,
            ledger: Ledger::new(64 << 20),
            listens: listens.into(),
            own: Arc::new([]),
            pods: Arc::default(),
            apps: Arc::default(),
        };
        let (crew, worker) = worker::alone(1000);
        tokio::task::spawn_local(async move { app::work(worker, shared, doors).await.unwrap() });
        Pod { app: RefCell::new(Some(app)), hop: hop_address, calls, drain, metrics, state, _lines: lines, _crew: crew }
    }

    fn resources(&self, name: &str, app: SocketAddr, endpoints: &[(String, SocketAddr, SocketAddr)]) -> Vec<Change> {
        let policy = Arc::new(self.traffic.clone());
        let mut changes = Vec::new();
        let mut put = |key, resource| changes.push(Change::Put(key, Arc::new(resource)));
        for (other, app, hop) in endpoints {
            let target = port_of(other);
            let backend = Backend {
                target: target.clone(),
                weight: 1,
                protocol: self.protocol,
                filters: Vec::new(),
                policy: policy.clone(),
                resolved: true,
            };
            let routes = if other == "orders" { self.routes(&backend) } else { Vec::new() };
            let port = OutboundPort {
                port: 80,
                name: "http".into(),
                protocol: self.protocol,
                routes,
                backend,
                policy: policy.clone(),
                client_ip_affinity: None,
            };
            let outbound = Outbound { service: target.service.clone(), ports: vec![port] };
            let key = Key::Outbound { service: target.service.clone(), view: leno_proto::key::DEFAULT_VIEW.into() };
            put(key, Resource::Outbound(outbound));
            let endpoint = Endpoint {
                uid: other.as_str().into(),
                addresses: vec![*app],
                identity: self.meshed.then(|| self.ca.id(other)),
                hop_port: self.meshed.then_some(hop.port()),
                node: "n".into(),
                zone: "".into(),
                cluster: "".into(),
                ready: true,
                serving: true,
                terminating: false,
                parallelism: 1,
                pod: format!("shop/{other}").into(),
            };
            let ghosts = self.ghosts.iter().map(|address| Endpoint {
                uid: address.to_string().into(),
                addresses: vec![*address],
                hop_port: None,
                ..endpoint.clone()
            });
            let endpoints = ghosts.chain([endpoint.clone()]).collect();
            let endpoints =
                Endpoints { target: target.clone(), bucket: 0, buckets: 1, endpoints, own_node_only: false };
            put(Key::Endpoints { target, bucket: 0 }, Resource::Endpoints(endpoints));
        }
        let port = InboundPort {
            port: app.port(),
            protocol: self.protocol,
            listen: None,
            policy: Arc::new(self.inbound.clone()),
            access: self.access.clone(),
        };
        let inbound = Inbound {
            uid: name.into(),
            identity: self.ca.id(name),
            namespace: "shop".into(),
            pod: name.into(),
            addresses: vec![],
            ports: vec![port.clone()],
            other: InboundPort { port: 0, ..port },
            grace: Duration::from_secs(30),
            node: "n".into(),
            zone: "".into(),
        };
        put(Key::Inbound(name.into()), Resource::Inbound(inbound));
        changes
    }

    fn routes(&self, backend: &Backend) -> Vec<Route> {
        let audit = Backend { target: port_of("audit"), ..backend.clone() };
        let mirror = Filter::Mirror { backend: audit, parts_per_million: 1_000_000 };
        let route = |kind, filters, policy: &Traffic| Route {
            kind,
            origin: "shop/routed".into(),
            hostnames: Vec::new(),
            rules: vec![Rule {
                name: "".into(),
                matches: Vec::new(),
                filters,
                backends: vec![backend.clone()],
                policy: Arc::new(policy.clone()),
            }],
        };
        let tcp = self.tcp_rule.iter().map(|policy| route(RouteKind::Tcp, Vec::new(), policy));
        let http = self.mirrored.then(|| route(RouteKind::Http, vec![mirror], &backend.policy));
        tcp.chain(http).collect()
    }

    pub(super) fn application(&self, name: &str) -> Rc<Pod> {
        self.pods.borrow()[name].clone()
    }

    /// As a changed AccessPolicy would: from now on this holds for every port of `name`.
    pub(super) fn permit(&self, name: &str, access: Access) {
        let state = &self.application(name).state;
        let mut inbound = Inbound::clone(state.load().inbound.as_ref().unwrap());
        inbound.ports.iter_mut().chain([&mut inbound.other]).for_each(|port| port.access = access.clone());
        state.apply(vec![Change::Put(Key::Inbound(name.into()), Arc::new(Resource::Inbound(inbound)))], Instant::now());
    }

    /// As the application of `from` would: a connection to its sidecar's door for `to`.
    pub(super) async fn call(&self, from: &str, to: &str) -> TcpStream {
        let door = self.application(from).calls[to];
        TcpStream::connect(door).await.unwrap()
    }
}

impl Pod {
    pub(super) async fn accept(&self) -> Served {
        let Some(App::Listens(listener)) = self.app.take() else {
            panic!("it does not run, or somebody accepts already")
        };
        let accepted = listener.accept().await.unwrap().0;
        self.app.replace(Some(App::Listens(listener)));
        Served { io: accepted, read: Vec::new() }
    }

    /// Where its sidecar listens for peers.
    pub(super) fn hop(&self) -> SocketAddr {
        self.hop
    }
}

impl Served {
    /// Up to the empty line.
    pub(super) async fn head(&mut self) -> String {
        head(&mut self.io, &mut self.read).await
    }

    pub(super) async fn bytes(&mut self, count: usize) -> Vec<u8> {
        while self.read.len() < count {
            assert!(self.io.read_buf(&mut self.read).await.unwrap() > 0);
        }
        self.read.drain(..count).collect()
    }
}

/// Until the sidecar of `pod` has counted something that ended for this reason.
pub(super) async fn until_counted(mesh: &Mesh, pod: &str, reason: &str) {
    let metrics = Arc::clone(&mesh.application(pod).metrics);
    while !metrics.render().contains(&format!("reason=\"{reason}\"")) {
        tokio::task::yield_now().await;
    }
}

pub(super) async fn head(io: &mut TcpStream, read: &mut Vec<u8>) -> String {
    loop {
        if let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = read.drain(..end + 4).collect();
            return String::from_utf8(head).unwrap();
        }
        let mut buf = [0; 4096];
        let count = io.read(&mut buf).await.unwrap();
        assert!(count > 0, "closed after {:?}", String::from_utf8_lossy(read));
        read.extend_from_slice(&buf[..count]);
    }
}

fn port_of(service: &str) -> ServicePort {
    ServicePort { service: ServiceName { namespace: "shop".into(), name: service.into() }, port: 80 }
}

fn inbound() -> InboundTraffic {
    let seconds = Duration::from_secs;
    InboundTraffic {
        tls: TlsMode::Permissive,
        max_connections: 10_000,
        per_client: None,
        timeouts: InboundTimeouts {
            tls_handshake: seconds(10),
            request_headers: seconds(10),
            request_body_idle: seconds(60),
            idle: seconds(600),
            detect: seconds(3),
        },
        max_age: None,
        max_age_grace: seconds(30),
        hop_streams: 128,
        plaintext_streams: 100,
        reset_limit: 200,
        headers_max_bytes: 65536,
        headers_max_count: 100,
        app: AppHop {
            idle_timeout: seconds(3),
            retry_reset_before_request: true,
            max_concurrency: None,
            max_connections: 1024,
            max_pending: 128,
            acquire_timeout: seconds(3),
        },
        rate_limit: None,
        overload: Overload { adaptive: Adaptive::Off, shed_percent: 90, refuse_percent: 95 },
    }
}
