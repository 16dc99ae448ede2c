//! The wiring of a cluster: who we are there, its root of trust, the watches that are the source, the webhooks, and what one of
//! the replicas writes. It must never go on with a root of its own where the cluster's cannot be read.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;

use leno_proto::hash::Hash;
use leno_proto::key::Key;
use rand::rngs::StdRng;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio::time::interval;
use tokio::time::sleep;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::app::App;
use crate::app::BATCHES_MAX;
use crate::app::Cluster;
use crate::app::Mesh;
use crate::app::encode_trust;
use crate::app::explain_page;
use crate::app::proxies;
use crate::app::publish;
use crate::app::renewal;
use crate::app::status_page;
use crate::ca::Ca;
use crate::ca::Issued;
use crate::ca::unix;
use crate::cluster;
use crate::cluster::audit::Auditor;
use crate::cluster::keep::Kept;
use crate::cluster::lease::Lease;
use crate::cluster::lease::TURN;
use crate::cluster::lease::held;
use crate::cluster::peers;
use crate::cluster::peers::Peers;
use crate::cluster::root::Mover;
use crate::cluster::root::Place;
use crate::cluster::root::Wishes;
use crate::cluster::write::Written;
use crate::cluster::xmesh::Xmesh;
use crate::config::Config;
use crate::error::Error;
use crate::folder::Folder;
use crate::kube::access::Access;
use crate::kube::client::Client;
use crate::metrics::Metrics;
use crate::push::door;
use crate::push::door::OwnLeaf;
use crate::push::sessions::Sessions;
use crate::reconcile::Table;
use crate::status;
use crate::vital::vital;
use crate::webhook;
use crate::webhook::LEAVING;
use crate::webhook::Webhook;

/// Between tries to reach an API server that is away as we start.
const AGAIN: Duration = Duration::from_secs(2);

/// Reads the cluster for as long as the program runs. Waits for an API server that is away; anything else is an error.
pub(super) async fn mesh(config: &Config, sessions: &Arc<Sessions>) -> Result<Mesh, Error> {
    let client = Client::new(access(config)?);
    let folder = Folder::open(&config.state)?;
    let place = place(config);
    while let Err(error) = cluster::root::fetch(&client, &folder, &place).await {
        match error {
            Error::Cluster { source, .. } if source.status().is_none() => tracing::warn!("{source}; trying again"),
            // cert-manager may make it only now, and what is wrong with it can be put right.
            Error::NoIssuer(_) | Error::Issuer { .. } => tracing::error!("{error}; trying again"),
            other => return Err(other),
        }
        sleep(AGAIN).await;
    }
    let (batches_in, batches) = mpsc::channel(BATCHES_MAX);
    let (stale_in, stale) = watch::channel(None);
    tokio::spawn(vital("the source", cluster::run(client.clone(), batches_in, stale_in)));
    let (tables, offers) = publish(config, batches);
    let status = status_page(tables.clone(), sessions.clone());
    let explain = explain_page(tables.clone());
    Ok(Mesh { tables: offers, status, explain, cluster: Some(Cluster { client, stale, tables }) })
}

fn place(config: &Config) -> Place {
    Place {
        namespace: config.namespace.clone(),
        trust_domain: config.trust_domain.clone(),
        leaf_ttl: config.leaf_ttl,
        issuer: config.issuer_secret.clone().filter(|name| !name.is_empty()),
    }
}

fn access(config: &Config) -> Result<Access, Error> {
    let access = match (&config.kubeconfig, &config.kubernetes_host) {
        (Some(path), _) => Access::kubeconfig(path),
        (None, Some(host)) => Access::in_cluster(host, config.kubernetes_port),
        (None, None) => return Err(Error::Usage("this is no Pod: name a --kubeconfig".to_owned())),
    };
    access.map_err(|source| Error::Cluster { doing: "find the cluster", source })
}

/// What a replica does for the cluster beside serving sessions.
pub(super) struct Duties {
    /// Dropped when we go.
    staying: watch::Sender<()>,
    stand: JoinHandle<()>,
    webhook: Option<JoinHandle<()>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Duties {
    pub(super) async fn start(config: &Config, cluster: Cluster, app: &App) -> Result<Duties, Error> {
        let Cluster { client, tables, .. } = cluster;
        let lease = Lease::new(&config.namespace, &config.replica, Instant::now());
        let (staying, stays) = watch::channel(());
        let (mut webhook, mut tasks) = (None, Vec::new());
        if let Some(address) = config.webhook {
            let listener = TcpListener::bind(address).await.map_err(|source| Error::Listen { address, source })?;
            let name = format!("leno-webhook.{}.svc", config.namespace);
            let names = vec![name.clone(), format!("{name}.cluster.local")];
            let (key, issued) = app.ca.issue_names(&names, SystemTime::now())?;
            let leaf = Arc::new(OwnLeaf::new(&key, &issued)?);
            let mut tls = door::server_config(leaf.clone())?;
            // The API server calls webhooks over HTTP/1.1 alone, so that its calls spread over replicas.
            tls.alpn_protocols = vec![b"http/1.1".to_vec()];
            let tls = TlsAcceptor::from(Arc::new(tls));
            let settings = config.injection.settings(&config.namespace, &config.trust_domain);
            let hook = Webhook { tls, settings, tables: tables.clone() };
            let serving = webhook::serve(Arc::new(hook), listener, stays.clone(), LEAVING);
            webhook = Some(tokio::spawn(vital("the webhook", serving)));
            let renewing = renew(app.ca.clone(), app.metrics.clone(), names, leaf, issued);
            tasks.push(tokio::spawn(vital("the webhook's certificate", renewing)));
        }
        let place = place(config);
        let (wishes_in, wishes) = watch::channel(Wishes::default());
        let following = cluster::root::follow(client.clone(), place.clone(), app.ca.clone(), wishes_in);
        tasks.push(tokio::spawn(vital("the root of trust", following)));
        let (lead, renewed) = watch::channel(None);
        let stand = tokio::spawn(vital("the leader's lease", stand(lease, client.clone(), lead, stays)));
        let leader = Leader {
            client,
            renewed,
            tables,
            ca: app.ca.clone(),
            place,
            wishes,
            sessions: app.sessions.clone(),
            metrics: app.metrics.clone(),
            replica: config.replica.clone(),
            peers: Peers::new(app.peers.clone()),
        };
        tasks.push(tokio::spawn(vital("the leader", leader.run())));
        Ok(Duties { staying, stand, webhook, tasks })
    }

    /// Ends them: another replica may lead at once, and the API server is answered until it calls elsewhere.
    pub(super) async fn stop(self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        drop(self.staying);
        let _ = timeout(AGAIN, self.stand).await;
        // It knows its own end.
        if let Some(webhook) = self.webhook {
            let _ = webhook.await;
        }
    }
}

/// A new certificate for the webhook well before the old one ends, and when the root changes.
async fn renew(ca: Arc<Ca>, metrics: Arc<Metrics>, names: Vec<String>, leaf: Arc<OwnLeaf>, issued: Issued) {
    let show = |issued: &Issued| {
        metrics.webhook_not_after.set(i64::try_from(unix(issued.not_after)).unwrap_or(i64::MAX));
    };
    show(&issued);
    let mut dice: StdRng = rand::make_rng();
    let mut at = renewal(&issued, &mut dice);
    let mut trust = ca.trust();
    loop {
        let wait = at.duration_since(SystemTime::now()).unwrap_or_default().min(Duration::from_secs(60));
        tokio::select! {
            () = sleep(wait) => if SystemTime::now() < at { continue },
            changed = trust.changed() => if changed.is_err() { return },
        }
        let renewed = ca.issue_names(&names, SystemTime::now()).and_then(|(key, issued)| {
            leaf.replace(&key, &issued)?;
            Ok(issued)
        });
        match renewed {
            Ok(issued) => {
                show(&issued);
                at = renewal(&issued, &mut dice);
            }
            Err(error) => {
                tracing::error!("the webhook's certificate: {error}");
                sleep(AGAIN).await;
            }
        }
    }
}

/// Stands for the lead and keeps it, until we go.
async fn stand(
    mut lease: Lease,
    client: Arc<Client>,
    renewed: watch::Sender<Option<Instant>>,
    mut stays: watch::Receiver<()>,
) {
    let mut tick = interval(TURN);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            // Nothing is ever sent: it has ended.
            _ = stays.changed() => return lease.leave(&client).await,
        }
        if let Err(error) = lease.turn(&client, SystemTime::now(), Instant::now()).await {
            tracing::warn!("the lease: {error}");
        }
        let now = Instant::now();
        let before = renewed.send_replace(lease.renewed());
        match (held(before, now), held(lease.renewed(), now)) {
            (false, true) => tracing::info!("leading: this replica writes statuses"),
            (true, false) => tracing::info!("another replica leads"),
            (true, true) | (false, false) => {}
        }
    }
}

/// The proxies of all replicas at one moment, and the statuses that follow.
struct Counted {
    /// The table's generation, our sessions' version, and what names what the other replicas told.
    of: (u64, u64, Vec<String>),
    report: status::Report,
    /// The anchors that connected proxies have applied.
    bundles: BTreeSet<Option<Hash>>,
}

/// What one replica writes for all.
struct Leader {
    client: Arc<Client>,
    renewed: watch::Receiver<Option<Instant>>,
    tables: watch::Receiver<Option<Arc<Table>>>,
    ca: Arc<Ca>,
    place: Place,
    wishes: watch::Receiver<Wishes>,
    sessions: Arc<Sessions>,
    metrics: Arc<Metrics>,
    replica: String,
    peers: Peers,
}

impl Leader {
    async fn run(mut self) {
        let (mut kept, mut written, mut mover) = (Kept::default(), Written::default(), Mover::default());
        let mut xmesh = Xmesh::default();
        let mut auditor = Auditor::default();
        let mut counted = None;
        let mut tick = interval(Duration::from_secs(1));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            if !held(*self.renewed.borrow(), Instant::now()) {
                // Whoever led in between may have written anything.
                (kept, written, mover) = (Kept::default(), Written::default(), Mover::default());
                auditor = Auditor::default();
                self.metrics.without_sidecar.set(0);
                self.metrics.issuer_refused.set(0);
                continue;
            }
            let Some(table) = self.tables.borrow().clone() else { continue };
            kept.keep(&self.client, table.world(), &self.ca.anchors_pem(), Instant::now()).await;
            xmesh.keep(&self.client, &self.place.namespace, SystemTime::now(), Instant::now()).await;
            let without = auditor.turn(&self.client, &table, &self.place.namespace, SystemTime::now()).await;
            self.metrics.without_sidecar.set(i64::try_from(without).unwrap_or(i64::MAX));
            counted = self.count(counted, table).await;
            self.trust(&mut mover, counted.as_ref()).await;
            let Some(Counted { report, .. }) = &counted else { continue };
            written.write(&self.client, report, SystemTime::now(), Instant::now()).await;
        }
    }

    /// What the proxies of all replicas said, and what follows from it; as it was counted before, where nothing has changed.
    /// `None`: a replica does not answer, and half the proxies would be told as lost; what was written stands until all have
    /// answered.
    async fn count(&mut self, before: Option<Counted>, table: Arc<Table>) -> Option<Counted> {
        let asked = self.peers.ask(table.world(), &self.place.namespace, &self.replica).await;
        let theirs =
            asked.inspect_err(|error| tracing::debug!("statuses wait for the other replicas: {error}")).ok()?;
        // Before what it names is looked at, as in `reports`.
        let of = (table.generation, self.sessions.version(), self.peers.told());
        if let Some(before) = before.filter(|before| before.of == of) {
            return Some(before);
        }
        let sessions = self.sessions.clone();
        let counted = cluster::aside(move || {
            // What only their proxies use has not been compiled here.
            for proxy in &theirs {
                proxy.applied.keys().for_each(|key| drop(table.entry(key, &proxy.namespace)));
            }
            let all = peers::merged(proxies(&sessions), theirs);
            let bundle = |proxy: &status::Proxy| proxy.applied.get(&Key::TrustBundle).copied();
            let bundles = all.iter().filter(|proxy| proxy.connected).map(bundle).collect();
            Counted { of, report: status::report(&table, &all), bundles }
        });
        Some(counted.await)
    }

    /// Moves a change of trust on.
    async fn trust(&self, mover: &mut Mover, counted: Option<&Counted>) {
        let bundle = Hash::of(&encode_trust(&self.ca.trust().borrow()));
        let everywhere = counted.is_some_and(|counted| counted.bundles.iter().all(|held| *held == Some(bundle)));
        let wishes = *self.wishes.borrow();
        match mover.turn(&self.client, &self.place, &self.ca, wishes, everywhere).await {
            Ok(fit) => self.metrics.issuer_refused.set(i64::from(!fit)),
            Err(error) => tracing::warn!("trust: {error}"),
        }
    }
}
