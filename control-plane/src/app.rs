//! The wiring: source -> reconcile -> push, the two ports, the certificate authority's slow clock, and an orderly end.
//! It must never listen before it knows its root, nor leave without telling its sessions where to go.

mod kubernetes;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;

use bytes::Bytes;
use leno_proto::convert;
use leno_proto::hash::Hash;
use leno_proto::identity::SpiffeId;
use leno_proto::key::Key;
use leno_proto::policy::Resource;
use leno_proto::policy::TrustBundle;
use parking_lot::Mutex;
use rand::RngExt;
use rand::rngs::StdRng;
use rustls::ClientConfig;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;
use tokio::sync::Semaphore;
use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::interval;
use tokio::time::timeout;

use crate::admin;
use crate::admin::Admin;
use crate::admin::ExplainPage;
use crate::admin::Format;
use crate::admin::StatusPage;
use crate::ca;
use crate::ca::Ca;
use crate::ca::Issued;
use crate::ca::Trust;
use crate::cluster;
use crate::config::Config;
use crate::config::Source;
use crate::error::Error;
use crate::explain::explain;
use crate::folder::Access;
use crate::folder::Folder;
use crate::folder::Lock;
use crate::kube::client::Client;
use crate::metrics::Metrics;
use crate::push::Control;
use crate::push::door;
use crate::push::door::Door;
use crate::push::door::OwnLeaf;
use crate::push::ledger::Refusal;
use crate::push::offer;
use crate::push::offer::Offers;
use crate::push::quota::Quota;
use crate::push::replica::Reports;
use crate::push::replica::Sibling;
use crate::push::session::Limits;
use crate::push::session::Phase;
use crate::push::session::Shared;
use crate::push::sessions::Live;
use crate::push::sessions::Sessions;
use crate::reconcile;
use crate::reconcile::Reconciler;
use crate::reconcile::Table;
use crate::source;
use crate::source::Batch;
use crate::source::Directory;
use crate::status;
use crate::token::FolderKey;
use crate::token::Review;
use crate::token::Verifier;
use crate::vital::vital;

/// Where tools find the ports.
pub const ADDRESSES_FILE: &str = "addresses.json";
/// A replica of this design serves a few thousand; the rest belongs to its siblings.
const SESSIONS_MAX: usize = 10_000;
/// First transactions under way at once.
const COLD_MAX: usize = 64;
/// How many reconnecting proxies a sibling takes in a second.
const RECONNECTS_PER_SECOND: usize = 1000;

/// What was admitted last, for a restart on a folder that has gone bad.
const ADMITTED_FOLDER: &str = "admitted";
/// Looks at the folder that wait for the one before.
const BATCHES_MAX: usize = 4;

/// What is served: the mesh, and how its conditions are shown.
pub struct Mesh {
    pub tables: Offers,
    pub status: StatusPage,
    pub explain: ExplainPage,
    /// Where the source is a cluster.
    pub cluster: Option<Cluster>,
}

/// The cluster that is the source.
#[derive(Clone)]
pub struct Cluster {
    pub client: Arc<Client>,
    pub stale: cluster::Stale,
    pub tables: watch::Receiver<Option<Arc<Table>>>,
}

/// A running control plane. Dropping it abandons it; `stop` ends it in order.
pub struct App {
    pub session: SocketAddr,
    pub admin: SocketAddr,
    pub sessions: Arc<Sessions>,
    pub metrics: Arc<Metrics>,
    pub ca: Arc<Ca>,
    /// For calls to other replicas.
    peers: Arc<ClientConfig>,
    phase: watch::Sender<Phase>,
    tasks: Vec<JoinHandle<()>>,
    _lock: Lock,
}

/// The whole program: until a signal.
pub async fn run(config: Config) -> Result<(), Error> {
    let signals = |kind| signal(kind).map_err(|error| Error::Usage(format!("listen for signals: {error}")));
    let (mut terminate, mut interrupt) = (signals(SignalKind::terminate())?, signals(SignalKind::interrupt())?);
    let sessions = Sessions::new(SESSIONS_MAX);
    let mesh = match &config.source {
        Source::Directory(_) => mesh(&config, &sessions)?,
        Source::Kubernetes => tokio::select! {
            mesh = kubernetes::mesh(&config, &sessions) => mesh?,
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
        },
    };
    let cluster = mesh.cluster.clone();
    let app = App::start(&config, mesh, sessions, Limits::default()).await?;
    let duties = match cluster {
        Some(cluster) => Some(kubernetes::Duties::start(&config, cluster, &app).await?),
        None => None,
    };
    println!("{}", app.addresses());
    tracing::info!(session = %app.session, admin = %app.admin, trust_domain = config.trust_domain.as_str(), "serving");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!(sessions = app.sessions.count(), "stopping");
    let stopped = async {
        match duties {
            // At once: while sessions move on, the API server is told to, too.
            Some(duties) => drop(tokio::join!(duties.stop(), app.stop())),
            None => app.stop().await,
        }
    };
    tokio::select! {
        () = stopped => {}
        // A second signal means now.
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// Reads a folder for as long as the program runs.
pub fn mesh(config: &Config, sessions: &Arc<Sessions>) -> Result<Mesh, Error> {
    let Source::Directory(path) = &config.source else {
        return Err(Error::Usage("a cluster is no folder".to_owned()));
    };
    let admitted = config.state.join(ADMITTED_FOLDER);
    let directory = Directory::open(path.clone(), Some(admitted)).map_err(Error::file("read", path))?;
    let (batches_in, batches) = mpsc::channel(BATCHES_MAX);
    tokio::spawn(vital("the source", source::run(directory, batches_in)));
    let (tables, offers) = publish(config, batches);
    let explain = explain_page(tables.clone());
    Ok(Mesh { tables: offers, status: status_page(tables, sessions.clone()), explain, cluster: None })
}

/// From the source's batches to what sessions are offered.
fn publish(config: &Config, batches: mpsc::Receiver<Batch>) -> (watch::Receiver<Option<Arc<Table>>>, Offers) {
    let (tables_in, tables) = watch::channel(None);
    let (offers_in, offers) = watch::channel(None);
    let reconciler = Reconciler::on(config.base(), convert::encode);
    tokio::spawn(vital("the reconciler", reconcile::run(reconciler, batches, tables_in)));
    tokio::spawn(vital("the offers", offer::follow(tables.clone(), offers_in)));
    (tables, offers)
}

/// Conditions from what the source says, and counts from what the proxies said.
fn explain_page(tables: watch::Receiver<Option<Arc<Table>>>) -> ExplainPage {
    Arc::new(move |question| {
        let table = tables.borrow().clone().ok_or("the source has not been read yet")?;
        explain(table.world(), question).map_err(|error| error.to_string())
    })
}

fn status_page(tables: watch::Receiver<Option<Arc<Table>>>, sessions: Arc<Sessions>) -> StatusPage {
    Arc::new(move |format| {
        let Some(table) = tables.borrow().clone() else {
            return match format {
                Format::Json => "null\n".to_owned(),
                Format::Text => "the source has not been read yet\n".to_owned(),
            };
        };
        let report = status::report(&table, &proxies(&sessions));
        match format {
            Format::Json => report.json(),
            Format::Text => report.text(),
        }
    })
}

/// For the replica that writes statuses. No two runs of a replica name what they tell alike.
fn reports(sessions: Arc<Sessions>) -> Reports {
    let run: u64 = rand::random();
    Arc::new(move |known| {
        // Before what it names is looked at: what comes in between is told again, and never missed.
        let at = format!("{run:x}-{}", sessions.version());
        cluster::peers::encode(&at, known, || proxies(&sessions))
    })
}

/// What the proxies of this replica said.
fn proxies(sessions: &Sessions) -> Vec<status::Proxy> {
    let present = sessions.all().into_iter().map(|live| reported(&live, Link::Open));
    let departed = sessions.departed().into_iter().map(|live| reported(&live, Link::Lost));
    present.chain(departed).collect()
}

/// Whether a proxy has a session now.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Link {
    Open,
    Lost,
}

fn reported(live: &Live, link: Link) -> status::Proxy {
    let ledger = live.ledger.lock();
    let newest = |(key, refused): (&Key, &VecDeque<Refusal>)| {
        let refusal = refused.back()?;
        Some((key.clone(), (refusal.hash, format!("{} {}", refusal.field, refusal.message).trim().to_owned())))
    };
    status::Proxy {
        uid: live.caller.pod_uid.to_string(),
        pod: format!("{}/{}", live.caller.namespace, live.caller.pod_name),
        namespace: live.caller.namespace.to_string(),
        connected: link == Link::Open,
        applied: ledger.held().clone(),
        rejected: ledger.refused().iter().filter_map(newest).collect(),
        unsupported: ledger.unsupported().clone(),
    }
}

impl App {
    pub async fn start(config: &Config, mesh: Mesh, sessions: Arc<Sessions>, limits: Limits) -> Result<App, Error> {
        let folder = Folder::open(&config.state)?;
        let lock = folder.lock()?;
        let now = SystemTime::now();
        let settings = ca::Settings {
            trust_domain: config.trust_domain.clone(),
            leaf_ttl: config.leaf_ttl,
            publish: config.publish_anchor.clone(),
            shared: mesh.cluster.is_some(),
        };
        let ca = Arc::new(Ca::open(folder.clone(), settings, now)?);
        let verifier = match &mesh.cluster {
            Some(cluster) => Verifier::Review(Arc::new(Review::new(cluster.client.clone()))),
            None => Verifier::Folder(Arc::new(FolderKey::open(&folder)?)),
        };
        let (key, issued) = ca.issue_own(&config.namespace, now)?;
        let leaf = Arc::new(OwnLeaf::new(&key, &issued)?);
        let own = SpiffeId::workload(&config.trust_domain, &config.namespace, ca::OWN_ACCOUNT);
        let sibling = Sibling::new(own.map_err(|error| Error::Usage(error.to_string()))?, ca.trust());

        let (port, admin_port) = (listen(config.listen).await?, listen(config.admin).await?);
        let (session, admin) = (address(&port, config.listen)?, address(&admin_port, config.admin)?);
        let metrics = Arc::new(Metrics::default());
        let (phase, phases) = watch::channel(Phase::Serving);
        let (offers_in, offers) = watch::channel(None);
        let shared = Arc::new(Shared {
            offers: offers.clone(),
            sessions: sessions.clone(),
            metrics: metrics.clone(),
            cold: Arc::new(Semaphore::new(COLD_MAX)),
            limits,
            phase: phases.clone(),
            replica: config.replica.as_str().into(),
        });
        let quota = Mutex::new(Quota::new(config.leaf_ttl));
        let control = Arc::new(Control { shared, ca: ca.clone(), encode_trust, quota });
        let door = Door {
            proxies: Arc::new(door::server_config(leaf.clone())?),
            replicas: Arc::new(sibling.clone().server_config(leaf.clone())?),
            reports: reports(sessions.clone()),
            verifier,
            control,
            metrics: metrics.clone(),
            phase: phases.clone(),
        };
        let peers = Arc::new(sibling.client_config(leaf.clone())?);
        let page = Admin {
            metrics: metrics.clone(),
            sessions: sessions.clone(),
            offers: offers.clone(),
            phase: phases,
            ca: ca.clone(),
            status: mesh.status,
            explain: mesh.explain,
        };
        let clock = SlowClock {
            ca: ca.clone(),
            sessions: sessions.clone(),
            metrics: metrics.clone(),
            offers,
            leaf,
            namespace: config.namespace.clone(),
            renew_at: renewal(&issued, &mut rand::make_rng()),
            trust_generation: ca.trust().borrow().generation,
            stale: mesh.cluster.as_ref().map(|cluster| cluster.stale.clone()),
        };
        let tasks = vec![
            tokio::spawn(vital("the offers", offer::join(mesh.tables, ca.trust(), encode_trust, offers_in))),
            tokio::spawn(vital("the session port", door::serve(Arc::new(door), port))),
            tokio::spawn(vital("the admin port", admin::serve(Arc::new(page), admin_port))),
            tokio::spawn(vital("the certificate authority's clock", clock.run(issued))),
        ];
        let app = App { session, admin, sessions, metrics, ca, peers, phase, tasks, _lock: lock };
        folder.write(ADDRESSES_FILE, Access::Public, app.addresses().as_bytes())?;
        Ok(app)
    }

    /// One line for people and tools.
    pub fn addresses(&self) -> String {
        json!({"session": self.session, "admin": self.admin}).to_string()
    }

    /// Tells the sessions where to go, serves them until they have gone or the time is over, and closes.
    pub async fn stop(self) {
        let within = reconnect_within(self.sessions.count());
        self.phase.send_replace(Phase::Leaving { within });
        let mut news = self.sessions.news();
        let gone = news.wait_for(|_| self.sessions.count() == 0);
        // Once more, for the last one's reconnect to be under way before we close its connection.
        let _ = timeout(within + Duration::from_secs(1), gone).await;
        self.phase.send_replace(Phase::Closed);
        let mut news = self.sessions.news();
        let _ = timeout(Duration::from_secs(1), news.wait_for(|_| self.sessions.count() == 0)).await;
        for task in self.tasks {
            task.abort();
        }
    }
}

/// A sibling takes a thousand reconnects a second; all at once would be a herd.
fn reconnect_within(sessions: usize) -> Duration {
    let seconds = sessions.div_ceil(RECONNECTS_PER_SECOND).clamp(1, 60);
    Duration::from_secs(u64::try_from(seconds).unwrap_or(60))
}

async fn listen(address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(|source| Error::Listen { address, source })
}

fn address(listener: &TcpListener, address: SocketAddr) -> Result<SocketAddr, Error> {
    listener.local_addr().map_err(|source| Error::Listen { address, source })
}

/// The anchors as the resource that proxies hold.
pub fn encode_trust(trust: &Trust) -> Bytes {
    let anchors = trust.anchors.iter().map(|der| Bytes::copy_from_slice(der)).collect();
    let domains = vec![(trust.trust_domain.clone(), anchors)];
    convert::encode(&Resource::TrustBundle(TrustBundle { domains })).into()
}

/// Once a second: rotation of the root, and renewal of our own leaf.
struct SlowClock {
    ca: Arc<Ca>,
    sessions: Arc<Sessions>,
    metrics: Arc<Metrics>,
    offers: Offers,
    leaf: Arc<OwnLeaf>,
    namespace: String,
    renew_at: SystemTime,
    trust_generation: u64,
    stale: Option<cluster::Stale>,
}

impl SlowClock {
    async fn run(mut self, issued: Issued) {
        let mut dice: StdRng = rand::make_rng();
        self.show(&issued);
        let mut tick = interval(Duration::from_secs(1));
        loop {
            tick.tick().await;
            if let Err(error) = self.step(SystemTime::now(), &mut dice) {
                tracing::error!("certificate authority: {error}");
            }
        }
    }

    fn step(&mut self, now: SystemTime, dice: &mut StdRng) -> Result<(), Error> {
        if !self.ca.shared() {
            self.rotate(now)?;
        }
        let generation = self.ca.trust().borrow().generation;
        if now >= self.renew_at || generation != self.trust_generation {
            let (key, issued) = self.ca.issue_own(&self.namespace, now)?;
            self.leaf.replace(&key, &issued)?;
            self.renew_at = renewal(&issued, dice);
            self.trust_generation = generation;
            self.show(&issued);
        }
        let offer = self.offers.borrow().clone();
        if let Some(offer) = &offer {
            self.sessions.forget_departed(|uid| offer.knows_pod(uid));
        }
        let stale = self.stale.as_ref().and_then(|stale| *stale.borrow()).map_or(0, |since| since.elapsed().as_secs());
        self.metrics.source_stale.set(i64::try_from(stale).unwrap_or(i64::MAX));
        let table = offer.map_or(0, |offer| offer.generation());
        self.metrics.table_generation.set(i64::try_from(table).unwrap_or(i64::MAX));
        Ok(())
    }

    /// Where the state is ours alone. What replicas share is moved on by their leader.
    fn rotate(&self, now: SystemTime) -> Result<(), Error> {
        if self.ca.take_request()? {
            self.ca.rotate(now)?;
            tracing::info!("a new root is trusted beside the old one");
        }
        let trust = self.ca.trust().borrow().clone();
        let everywhere = self.sessions.all_hold(&Key::TrustBundle, &Hash::of(&encode_trust(&trust)));
        if self.ca.step(now, everywhere)? {
            let under_way = self.ca.rotation();
            tracing::info!("{}", under_way.as_deref().unwrap_or("the rotation of the root is complete"));
        }
        Ok(())
    }

    fn show(&self, issued: &Issued) {
        let seconds = |time| i64::try_from(ca::unix(time)).unwrap_or(i64::MAX);
        self.metrics.leaf_not_after.set(seconds(issued.not_after));
        self.metrics.root_not_after.set(seconds(self.ca.root_not_after()));
        self.metrics.trust_generation.set(i64::try_from(self.trust_generation).unwrap_or(i64::MAX));
    }
}

/// A uniformly random point of 50 to 70 % of its life, so that nobody renews in step with anybody.
fn renewal(issued: &Issued, dice: &mut StdRng) -> SystemTime {
    let life = issued.not_after.duration_since(issued.not_before).unwrap_or_default();
    issued.not_before + life.mul_f64(dice.random_range(0.5..0.7))
}
