//! The session against a scripted control plane, in process and with time that the test moves.

use std::net::SocketAddr;

use bytes::Bytes;
use hyper_util::rt::TokioExecutor;
use hyper_util::rt::TokioIo;
use leno_proto::hash::Hash;
use leno_proto::policy::Destination;
use leno_proto::policy::ServiceName;
use leno_proto::policy::ServicePort;
use tokio::task::JoinHandle;
use tonic::Response;
use tonic::Status;
use wire::control_server::ControlServer;

use super::*;
use crate::control::dial::Way;
use crate::control::resource::Refusal;
use crate::state::Unanswered;
use crate::store::Owner;
use crate::store::tests::Folder;
use crate::tls::Tls;

const UID: &str = "u-1";

/// Texts stand for resources: `none`, `service NAME`, anything else is refused.
fn decode(bytes: &Bytes) -> Result<Resource, Refusal> {
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    match text.split_once(' ') {
        None if text == "none" => Ok(Resource::Destination(Destination::NotFound)),
        Some(("service", name)) => Ok(Resource::Destination(Destination::Service(port(name)))),
        _ => Err(Refusal::new("spec.what", format!("{text:?} is nothing"))),
    }
}

fn port(name: &str) -> ServicePort {
    ServicePort { service: ServiceName { namespace: "shop".into(), name: name.into() }, port: 80 }
}

fn address(last: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, last], 80))
}

fn key(last: u8) -> wire::Key {
    resource::to_wire(&Key::Destination(address(last)))
}

fn put(last: u8, text: &str) -> wire::Change {
    let hash = resource::hash_bytes(Hash::of(text.as_bytes()));
    let put = wire::Put { hash, resource: Bytes::copy_from_slice(text.as_bytes()) };
    wire::Change { key: Some(key(last)), change: Some(wire::change::Change::Put(put)) }
}

fn unchanged(last: u8, text: &str) -> wire::Change {
    let unchanged = wire::Unchanged { hash: resource::hash_bytes(Hash::of(text.as_bytes())) };
    wire::Change { key: Some(key(last)), change: Some(wire::change::Change::Unchanged(unchanged)) }
}

fn removed(key: wire::Key) -> wire::Change {
    wire::Change { key: Some(key), change: Some(wire::change::Change::Removed(wire::Removed { gone: true })) }
}

/// The server's end of one session, played by the test.
struct Seat {
    address: String,
    from: Streaming<FromProxy>,
    to: mpsc::Sender<Result<ToProxy, Status>>,
}

impl Seat {
    async fn next(&mut self) -> from_proxy::Message {
        self.from.message().await.unwrap().unwrap().message.unwrap()
    }

    /// The next message that is no heartbeat.
    async fn said(&mut self) -> from_proxy::Message {
        loop {
            match self.next().await {
                from_proxy::Message::Heartbeat(_) => {}
                other => return other,
            }
        }
    }

    async fn greeted(&mut self) -> Vec<wire::HeldResource> {
        let from_proxy::Message::Hello(hello) = self.next().await else { panic!("Hello comes first") };
        assert_eq!((hello.pod_uid.as_str(), hello.parallelism), (UID, 2));
        let mut all = Vec::new();
        loop {
            let from_proxy::Message::Held(held) = self.next().await else { panic!("Held follows") };
            all.extend(held.resources);
            if held.last {
                return all;
            }
        }
    }

    async fn say(&self, message: to_proxy::Message) {
        self.to.send(Ok(ToProxy { message: Some(message) })).await.unwrap();
    }

    async fn transact(&self, id: u64, changes: Vec<wire::Change>, last: bool) {
        self.say(to_proxy::Message::Transaction(wire::Transaction { id, changes, last })).await;
    }

    async fn reported(&mut self) -> wire::Report {
        match self.said().await {
            from_proxy::Message::Report(report) => report,
            other => panic!("{other:?}"),
        }
    }
}

struct Fake {
    address: String,
    seats: mpsc::Sender<Seat>,
}

#[tonic::async_trait]
impl wire::control_server::Control for Fake {
    type SessionStream = ReceiverStream<Result<ToProxy, Status>>;

    async fn session(&self, request: Request<Streaming<FromProxy>>) -> Result<Response<Self::SessionStream>, Status> {
        assert_eq!(request.metadata().get("authorization").unwrap(), "Bearer secret");
        let (to, outgoing) = mpsc::channel(8);
        let seat = Seat { address: self.address.clone(), from: request.into_inner(), to };
        self.seats.send(seat).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }

    async fn certify(
        &self,
        _request: Request<wire::CertifyRequest>,
    ) -> Result<Response<wire::CertifyResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }
}

/// A proxy's control side, and the seats of its sessions.
struct Bench {
    folder: Folder,
    names: Vec<String>,
    state: Arc<State>,
    metrics: Arc<Metrics>,
    seats: mpsc::Receiver<Seat>,
    running: JoinHandle<()>,
}

impl Bench {
    fn start(names: &[&str]) -> Self {
        Self::start_in(Folder::new(), names)
    }

    fn start_in(folder: Folder, names: &[&str]) -> Self {
        let (accept, mut pipes) = mpsc::channel::<(String, tokio::io::DuplexStream)>(4);
        let (seat, seats) = mpsc::channel(4);
        tokio::spawn(async move {
            while let Some((address, pipe)) = pipes.recv().await {
                let fake = ControlServer::new(Fake { address, seats: seat.clone() });
                let service = hyper_util::service::TowerToHyperService::new(fake);
                let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                tokio::spawn(server.serve_connection(TokioIo::new(pipe), service));
            }
        });
        let owner = Owner { pod_uid: UID.into(), build: "1".into() };
        let (store, _) = Store::open(&folder.0, owner, 1 << 20).unwrap();
        let token = folder.0.join("token");
        std::fs::write(&token, "secret\n").unwrap();
        let kept = store.kept();
        let (state, wanted) = State::new(|_| Box::new(|| ()));
        let metrics = Arc::<Metrics>::default();
        let names: Vec<String> = names.iter().map(|name| (*name).into()).collect();
        let anchors = Anchors::new(folder.0.join("anchor.pem"), "mesh.test".parse().unwrap(), Tls::new());
        let parts = Parts {
            pod_uid: UID.into(),
            workers: 2,
            state: state.clone(),
            wanted,
            dialer: Arc::new(Dialer::new(Way::Memory { names: names.clone(), accept }, token, Vec::new())),
            anchors: Arc::new(anchors),
            store: Arc::new(store),
            metrics: metrics.clone(),
            progress: Arc::default(),
            decode,
        };
        let running = tokio::spawn(Control::new(parts, &kept).run());
        Self { folder, names, state, metrics, seats, running }
    }

    /// As after a crash: nothing survives but the volume.
    async fn restart(self) -> Self {
        self.running.abort();
        let _ = self.running.await;
        let names: Vec<_> = self.names.iter().map(String::as_str).collect();
        Self::start_in(self.folder, &names)
    }

    async fn seat(&mut self) -> Seat {
        self.seats.recv().await.unwrap()
    }

    fn service(&self, last: u8) -> Option<String> {
        match &**self.state.load().destination(address(last))? {
            Destination::Service(port) => Some(port.service.name.to_string()),
            Destination::Workload(_) | Destination::NotFound => Some("none".into()),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_resumes_with_unchanged_and_keeps_what_is_in_force() {
    let mut bench = Bench::start(&["a"]);
    let mut seat = bench.seat().await;
    assert_eq!(seat.greeted().await, []);
    seat.transact(7, vec![put(1, "service web"), put(2, "none")], true).await;
    let report = seat.reported().await;
    assert_eq!((report.transaction, report.applied.len(), report.rejected.len()), (7, 2, 0));
    assert_eq!(bench.service(1).as_deref(), Some("web"));
    drop(seat);

    let mut seat = bench.seat().await;
    let held = seat.greeted().await;
    assert_eq!(held.len(), 2);
    assert_eq!(held[0].hash, resource::hash_bytes(Hash::of(b"service web")));
    assert_eq!(bench.service(1).as_deref(), Some("web"), "in force while there is no session");
    seat.transact(1, vec![unchanged(1, "service web"), unchanged(2, "none")], true).await;
    assert_eq!(seat.reported().await, wire::Report { transaction: 1, ..Default::default() });
    let metrics = &bench.metrics.proxy;
    assert_eq!((metrics.resources_unchanged.value(), metrics.resources_applied.value()), (2, 2));
    assert_eq!(metrics.control_connects.value(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_bad_resource_leaves_the_last_good_one_and_is_known_for_ever() {
    let mut bench = Bench::start(&["a"]);
    let mut seat = bench.seat().await;
    seat.greeted().await;
    seat.transact(1, vec![put(1, "service web")], true).await;
    seat.reported().await;
    seat.transact(2, vec![put(1, "nonsense"), put(2, "service api")], true).await;
    let report = seat.reported().await;
    assert_eq!(report.applied.len(), 1);
    assert_eq!(report.rejected[0].key, Some(key(1)));
    assert_eq!(report.rejected[0].field, "spec.what");
    assert_eq!((bench.service(1).as_deref(), bench.service(2).as_deref()), (Some("web"), Some("api")));
    drop(seat);

    let check = |held: Vec<wire::HeldResource>| {
        assert_eq!(held[0].hash, resource::hash_bytes(Hash::of(b"service web")));
        assert_eq!(held[0].rejected, [resource::hash_bytes(Hash::of(b"nonsense"))]);
        assert!(held[1].rejected.is_empty());
    };
    let mut seat = bench.seat().await;
    check(seat.greeted().await);
    // The file is written a second after the swap at the latest.
    sleep(UPKEEP * 2).await;
    let mut bench = bench.restart().await;
    assert_eq!(bench.service(1).as_deref(), Some("web"), "a restarted proxy serves before any session");
    check(bench.seat().await.greeted().await);
}

#[tokio::test(start_paused = true)]
async fn bytes_that_are_not_what_their_hash_says_are_refused() {
    let mut bench = Bench::start(&["a"]);
    let mut seat = bench.seat().await;
    seat.greeted().await;
    let mut change = put(1, "service web");
    if let Some(wire::change::Change::Put(put)) = &mut change.change {
        put.resource = Bytes::from_static(b"service evil");
    }
    let mut inbound = put(2, "none");
    inbound.key = Some(resource::to_wire(&Key::Inbound("another".into())));
    seat.transact(1, vec![change, inbound], true).await;
    let report = seat.reported().await;
    let fields: Vec<_> = report.rejected.iter().map(|one| one.field.as_str()).collect();
    assert_eq!(fields, ["hash", "key"]);
    assert_eq!(bench.service(1), None);
}

#[tokio::test(start_paused = true)]
async fn a_transaction_is_in_force_only_when_its_last_part_is_here() {
    let mut bench = Bench::start(&["a"]);
    let mut seat = bench.seat().await;
    seat.greeted().await;
    seat.transact(3, vec![put(1, "service web")], false).await;
    // A heartbeat passes through the same queue, so the first part has been taken when it returns.
    sleep(HEARTBEAT).await;
    assert_eq!(bench.service(1), None);
    let before = bench.state.version();
    seat.transact(3, vec![put(2, "service api")], true).await;
    assert_eq!(seat.reported().await.applied.len(), 2);
    assert_eq!(bench.state.version(), before + 1);
    assert_eq!((bench.service(1).as_deref(), bench.service(2).as_deref()), (Some("web"), Some("api")));
    // Parts of two transactions do not mix: the session ends, and what was in force stays.
    seat.transact(4, vec![put(1, "none")], false).await;
    seat.transact(5, vec![put(2, "none")], true).await;
    let mut seat = bench.seat().await;
    assert_eq!(seat.greeted().await.len(), 2);
    assert_eq!(bench.service(1).as_deref(), Some("web"));
}

#[tokio::test(start_paused = true)]
async fn silence_for_30_s_leads_to_another_replica() {
    let mut bench = Bench::start(&["a", "b"]);
    let mut seat = bench.seat().await;
    seat.greeted().await;
    let (first, begun) = (seat.address.clone(), Time::now());
    let mut next = bench.seat().await;
    assert!(begun.elapsed() >= SILENCE && begun.elapsed() < SILENCE + Duration::from_secs(2), "{:?}", begun.elapsed());
    assert_ne!(next.address, first);
    next.greeted().await;
    // Whoever speaks is kept.
    let begun = Time::now();
    for _ in 0..9 {
        let heartbeat = wire::Heartbeat { unix_millis: 0, digest: Bytes::new() };
        next.say(to_proxy::Message::Heartbeat(heartbeat)).await;
        let from_proxy::Message::Heartbeat(heartbeat) = next.next().await else { panic!("a heartbeat every 10 s") };
        assert_eq!(heartbeat.digest, resource::hash_bytes(leno_proto::hash::digest([])));
    }
    assert!(begun.elapsed() > SILENCE * 2);
    assert!(bench.seats.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn goaway_moves_the_session_within_its_window() {
    let mut bench = Bench::start(&["a", "b"]);
    let mut seat = bench.seat().await;
    seat.greeted().await;
    let begun = Time::now();
    seat.say(to_proxy::Message::Goaway(wire::Goaway { reconnect_within_millis: 5000, why: "restart".into() })).await;
    let next = bench.seat().await;
    assert_ne!(next.address, seat.address);
    assert!(begun.elapsed() <= Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn what_a_story_misses_is_asked_for_once_and_again_in_the_next_session() {
    let mut bench = Bench::start(&["a"]);
    let mut seat = bench.seat().await;
    seat.greeted().await;
    let wait = async |state: Arc<State>, last| state.destination(address(last), Duration::from_secs(60)).await;
    let asking = tokio::spawn({
        let state = bench.state.clone();
        async move { tokio::join!(wait(state.clone(), 1), wait(state.clone(), 1), wait(state, 2)) }
    });
    let from_proxy::Message::Subscribe(subscribe) = seat.said().await else { panic!("a subscription") };
    assert_eq!(subscribe.add, [key(1), key(2)]);
    seat.transact(1, vec![put(1, "service web")], true).await;
    seat.reported().await;
    drop(seat);
    // Still unanswered, so the next replica hears of it in Held, without a hash.
    let mut seat = bench.seat().await;
    let held = seat.greeted().await;
    assert_eq!((held[0].key.clone(), held[0].hash.is_empty()), (Some(key(1)), false));
    assert_eq!((held[1].key.clone(), held[1].hash.is_empty()), (Some(key(2)), true));
    seat.transact(1, vec![put(2, "none")], true).await;
    let (first, second, third) = asking.await.unwrap();
    assert_eq!(first, second);
    assert_eq!(*third.unwrap(), Destination::NotFound);
}

#[tokio::test(start_paused = true)]
async fn without_a_control_plane_a_question_ends_at_its_deadline_and_is_asked_later() {
    let mut bench = Bench::start(&[]);
    let asked = bench.state.destination(address(1), Duration::from_secs(1)).await;
    assert_eq!(asked.err(), Some(Unanswered));
    assert_eq!(bench.metrics.proxy.control_connects.value(), 0);
    assert!(bench.seats.try_recv().is_err());
}

/// A healthy session in which nothing happens but heartbeats, for so long; what the proxy says in between.
async fn quiet(seat: &mut Seat, time: Duration) -> Option<wire::Subscribe> {
    let end = Time::now() + time;
    loop {
        let heartbeat = wire::Heartbeat { unix_millis: 0, digest: Bytes::new() };
        seat.say(to_proxy::Message::Heartbeat(heartbeat)).await;
        match tokio::time::timeout_at(end, seat.next()).await {
            Ok(from_proxy::Message::Heartbeat(_)) => {}
            Ok(from_proxy::Message::Subscribe(subscribe)) => return Some(subscribe),
            Ok(other) => panic!("{other:?}"),
            Err(_) => return None,
        }
    }
}

fn evicted(last: u8) -> wire::Change {
    wire::Change { key: Some(key(last)), change: Some(wire::change::Change::Removed(wire::Removed { gone: false })) }
}

#[tokio::test(start_paused = true)]
async fn what_nobody_uses_for_ten_minutes_is_given_back_and_what_is_used_stays() {
    let mut bench = Bench::start(&["a"]);
    let mut seat = bench.seat().await;
    seat.greeted().await;
    let ask = async |state: &State, last| drop(state.destination(address(last), Duration::ZERO).await);
    ask(&bench.state, 1).await;
    ask(&bench.state, 2).await;
    ask(&bench.state, 3).await;
    let from_proxy::Message::Subscribe(subscribe) = seat.said().await else { panic!("a subscription") };
    assert_eq!(subscribe.add.len(), 3);
    // The third is never answered, and leaves like the others.
    seat.transact(1, vec![put(1, "service web"), put(2, "service api")], true).await;
    seat.reported().await;
    let nearly = book::IDLE - Duration::from_secs(60);
    assert_eq!(quiet(&mut seat, nearly).await, None);
    assert_eq!(bench.service(1).as_deref(), Some("web"), "a use");
    let given_back = quiet(&mut seat, Duration::from_secs(120)).await.unwrap();
    assert_eq!((given_back.remove, given_back.add.len()), (vec![key(2), key(3)], 0));
    assert_eq!(bench.service(2).as_deref(), Some("api"), "in force until the control plane has heard");
    seat.transact(2, vec![evicted(2)], true).await;
    seat.reported().await;
    assert_eq!(bench.service(2), None);
    assert_eq!(bench.metrics.proxy.resources_evicted.value(), 1);
    // Asked for again it is a question like any other: the session is healthy, so nothing old is served.
    ask(&bench.state, 2).await;
    let from_proxy::Message::Subscribe(subscribe) = seat.said().await else { panic!("a subscription") };
    assert_eq!(subscribe.add, [key(2)]);
    assert_eq!(bench.service(2), None);
}

#[tokio::test(start_paused = true)]
async fn what_was_evicted_serves_from_the_file_while_no_control_plane_answers() {
    let mut bench = Bench::start(&["a"]);
    let mut seat = bench.seat().await;
    seat.greeted().await;
    seat.transact(1, vec![put(1, "service web"), put(2, "service api"), put(3, "service old")], true).await;
    seat.reported().await;
    seat.transact(2, vec![evicted(1), evicted(2), removed(key(3))], true).await;
    seat.reported().await;
    assert_eq!((bench.service(1), bench.service(2)), (None, None));
    let answer = async |state: Arc<State>, last| state.destination(address(last), Duration::from_secs(1)).await.is_ok();
    // A session that says nothing: half of what a request waits, then the file's answer.
    assert!(answer(bench.state.clone(), 1).await);
    assert_eq!(bench.service(1).as_deref(), Some("web"));
    // No session at all, and another process: at once.
    drop(seat);
    sleep(UPKEEP * 2).await;
    bench.names.clear();
    let bench = bench.restart().await;
    assert_eq!(bench.service(2), None, "evicted means not in force");
    let begun = Time::now();
    assert!(answer(bench.state.clone(), 2).await);
    assert!(begun.elapsed() < Duration::from_millis(100), "{:?}", begun.elapsed());
    assert_eq!(bench.service(2).as_deref(), Some("api"));
    assert!(!answer(bench.state.clone(), 3).await, "what the control plane said is gone stays gone");
    assert_eq!(bench.metrics.proxy.resources_revived.value(), 1);
}

#[test]
fn what_no_proxy_can_be_without_is_not_taken_away() {
    let mut book = Book::new(UID, Default::default());
    for key in [Key::TrustBundle, Key::ProxyConfig, Key::Inbound(UID.into()), Key::Destination(address(1))] {
        book.restored(key, Hash::of(b""), now());
    }
    let names = [Key::TrustBundle, Key::ProxyConfig, Key::Inbound(UID.into()), Key::Destination(address(1))];
    let judged = book.judge(1, names.iter().map(|key| removed(resource::to_wire(key))).collect(), decode);
    assert!(matches!(&judged.changes[..], [Change::Removed(Key::Destination(_))]));
    assert!(book.is_empty(), "the digests agree that the server no longer offers them");
}

#[test]
fn a_port_scan_does_not_crowd_out_what_is_used() {
    let mut book = Book::new(UID, Default::default());
    let far = |number: u16| Key::Destination(SocketAddr::from(([10, 9, 9, 9], number)));
    let used = Key::Destination(address(1));
    book.restored(used.clone(), Hash::of(b"service web"), now());
    let mut given_up = Vec::new();
    for number in 1..=9000 {
        let subscribe = book.ask(far(number), now()).unwrap();
        given_up.extend(subscribe.remove);
    }
    assert_eq!(given_up.len(), 9000 + 1 - 8000);
    assert_eq!(given_up[0], resource::to_wire(&far(1)), "the oldest without an answer goes first");
    assert!(!given_up.contains(&resource::to_wire(&used)));
    let chunks = book.held(now());
    assert_eq!(chunks.iter().map(|chunk| chunk.resources.len()).sum::<usize>(), 8000);
    assert!(chunks.iter().all(|chunk| chunk.encoded_len() < 256 * 1024));
    assert_eq!(chunks.iter().filter(|chunk| chunk.last).count(), 1);
}
