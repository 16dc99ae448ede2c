//! The wiring of a cluster: who we are there, its root of trust, the watches that are the source, the webhooks, and what one of
//! the replicas writes. It must never go on with a root of its own where the cluster's cannot be read.

use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;

use rand::rngs::StdRng;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio::time::interval;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;

use crate::app::App;
use crate::app::BATCHES_MAX;
use crate::app::Cluster;
use crate::app::Mesh;
use crate::app::explain_page;
use crate::app::proxies;
use crate::app::publish;
use crate::app::renewal;
use crate::app::status_page;
use crate::ca::Ca;
use crate::ca::Issued;
use crate::cluster;
use crate::cluster::keep::Kept;
use crate::cluster::lease::Lease;
use crate::cluster::lease::TURN;
use crate::cluster::lease::held;
use crate::cluster::peers;
use crate::cluster::peers::Peers;
use crate::cluster::write::Written;
use crate::cluster::xmesh::Xmesh;
use crate::config::Config;
use crate::error::Error;
use crate::folder::Folder;
use crate::kube::access::Access;
use crate::kube::client::Client;
use crate::push::door;
use crate::push::door::OwnLeaf;
use crate::push::sessions::Sessions;
use crate::reconcile::Table;
use crate::status;
use crate::vital::vital;
use crate::webhook;
use crate::webhook::Webhook;

/// Between tries to reach an API server that is away as we start.
const AGAIN: Duration = Duration::from_secs(2);

/// Reads the cluster for as long as the program runs. Waits for an API server that is away; anything else is an error.
pub(super) async fn mesh(config: &Config, sessions: &Arc<Sessions>) -> Result<Mesh, Error> {
    let client = Client::new(access(config)?);
    let folder = Folder::open(&config.state)?;
    while let Err(error) = cluster::root::fetch(&client, &folder, &config.namespace, &config.trust_domain).await {
        match error {
            Error::Cluster { source, .. } if source.status().is_none() => tracing::warn!("{source}; trying again"),
            other => return Err(other),
        }
        sleep(AGAIN).await;
    }
    let (batches_in, batches) = mpsc::channel(BATCHES_MAX);
    let (stale_in, stale) = watch::channel(None);
    tokio::spawn(vital("the source", cluster::run(client.clone(), batches_in, stale_in)));
    let (tables, offers) = publish(batches);
    let status = status_page(tables.clone(), sessions.clone());
    let explain = explain_page(tables.clone());
    Ok(Mesh { tables: offers, status, explain, cluster: Some(Cluster { client, stale, tables }) })
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
    staying: oneshot::Sender<()>,
    stand: JoinHandle<()>,
    tasks: Vec<JoinHandle<()>>,
}

impl Duties {
    pub(super) async fn start(config: &Config, cluster: Cluster, app: &App) -> Result<Duties, Error> {
        let Cluster { client, tables, .. } = cluster;
        let lease = Lease::new(&config.namespace, &config.replica, Instant::now());
        let mut tasks = Vec::new();
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
            tasks.push(tokio::spawn(vital("the webhook", webhook::serve(Arc::new(hook), listener))));
            tasks.push(tokio::spawn(vital("the webhook's certificate", renew(app.ca.clone(), names, leaf, issued))));
        }
        let (lead, renewed) = watch::channel(None);
        let (staying, going) = oneshot::channel();
        let stand = tokio::spawn(vital("the leader's lease", stand(lease, client.clone(), lead, going)));
        let leader = Leader {
            client,
            renewed,
            tables,
            ca: app.ca.clone(),
            sessions: app.sessions.clone(),
            namespace: config.namespace.clone(),
            replica: config.replica.clone(),
            port: app.admin.port(),
        };
        tasks.push(tokio::spawn(vital("the leader", leader.run())));
        Ok(Duties { staying, stand, tasks })
    }

    /// Ends them, and lets another replica lead at once.
    pub(super) async fn stop(self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        drop(self.staying);
        let _ = tokio::time::timeout(AGAIN, self.stand).await;
    }
}

/// A new certificate for the webhook well before the old one ends, and when the root changes.
async fn renew(ca: Arc<Ca>, names: Vec<String>, leaf: Arc<OwnLeaf>, issued: Issued) {
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
            Ok(issued) => at = renewal(&issued, &mut dice),
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
    mut going: oneshot::Receiver<()>,
) {
    let mut tick = interval(TURN);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            _ = &mut going => return lease.leave(&client).await,
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

/// What one replica writes for all.
struct Leader {
    client: Arc<Client>,
    renewed: watch::Receiver<Option<Instant>>,
    tables: watch::Receiver<Option<Arc<Table>>>,
    ca: Arc<Ca>,
    sessions: Arc<Sessions>,
    namespace: String,
    replica: String,
    /// At which every replica tells what its proxies said.
    port: u16,
}

impl Leader {
    async fn run(self) {
        let (mut kept, mut written, mut replicas) = (Kept::default(), Written::default(), Peers::default());
        let mut xmesh = Xmesh::default();
        let mut tick = interval(Duration::from_secs(1));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            if !held(*self.renewed.borrow(), Instant::now()) {
                // Whoever led in between may have written anything.
                (kept, written) = (Kept::default(), Written::default());
                continue;
            }
            let Some(table) = self.tables.borrow().clone() else { continue };
            kept.keep(&self.client, table.world(), &self.ca.anchors_pem(), Instant::now()).await;
            xmesh.keep(&self.client, &self.namespace, SystemTime::now(), Instant::now()).await;
            let theirs = match replicas.ask(table.world(), &self.namespace, &self.replica, self.port).await {
                Ok(theirs) => theirs,
                // Half the proxies would be told as lost: what was written stands until all have answered.
                Err(error) => {
                    tracing::debug!("statuses wait for the other replicas: {error}");
                    continue;
                }
            };
            // What only their proxies use has not been compiled here.
            for proxy in &theirs {
                proxy.applied.keys().for_each(|key| drop(table.entry(key, &proxy.namespace)));
            }
            let all = peers::merged(proxies(&self.sessions), theirs);
            let report = status::report(&table, &all);
            written.write(&self.client, &report, SystemTime::now(), Instant::now()).await;
        }
    }
}
