//! The wiring: builds each long-lived thing once, starts each thread and task, and owns the order of their end. It must never
//! decide anything about traffic.

mod addresses;
mod logs;
#[cfg(test)]
mod tests;
mod views;

use std::io;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::Weak;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context as _;
use leno_proto::identity::SpiffeId;
use leno_proto::policy::ServicePort;
use tokio::net::TcpListener;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;

use crate::access_log::AccessLog;
use crate::admin;
use crate::app::logs::Logs;
use crate::aside::step_aside;
use crate::config::Config;
use crate::config::VERSION;
use crate::control::Control;
use crate::control::Parts;
use crate::control::anchors::Anchors;
use crate::control::dial::Dialer;
use crate::control::dial::Way;
use crate::control::progress::Progress;
use crate::control::resource;
use crate::drain;
use crate::drain::Drain;
use crate::drain::Phase;
use crate::drain::Times;
use crate::http::h2;
use crate::identity::Renewal;
use crate::inbound;
use crate::listener;
use crate::local::Local;
use crate::local::Shared;
use crate::metrics::Metrics;
use crate::net;
use crate::net::Acceptor;
use crate::outbound;
use crate::panics;
use crate::panics::Vital;
use crate::panics::vital;
use crate::state::State;
use crate::state::Wanted;
use crate::store::Owner;
use crate::store::Store;
use crate::tls::Tls;
use crate::trace::export;
use crate::worker;
use crate::worker::Accepted;
use crate::worker::Crew;
use crate::worker::Front;
use crate::worker::Job;
use crate::worker::Worker;

/// Bytes of the last-known-good file.
const FILE_MAX: usize = 64 << 20;

/// Bytes of HTTP/2 bodies that may wait in this proxy at once.
const LEDGER_MAX: usize = 256 << 20;

/// Connections at once, over all workers: InboundPolicy's default, and the same again for the application's own.
const OPEN_MAX: usize = 20_000;

/// What is flushed at the very end has this long.
const FAREWELL: Duration = Duration::from_secs(1);

/// `leno-proxy run`: serves until it is told to end, drains, and returns.
///
/// # Errors
/// An address, a folder or a thread cannot be had.
pub fn run(config: Config) -> anyhow::Result<()> {
    let logs = Logs::start(&config.log)?;
    if let Err(error) = net::raise_descriptors() {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
    let metrics = Arc::new(Metrics::default());
    panics::install(metrics.clone());
    let (log, log_writer) = AccessLog::new(config.access_log, metrics.clone());
    let log_thread = std::thread::Builder::new().name("leno-log".to_owned()).spawn(move || {
        let _vital = Vital("the access log");
        log_writer.run(io::stdout())
    })?;
    let (spans, span_queue) = export::queue(metrics.clone(), Instant::now());
    let (drain, drain_watch) = drain::channel();
    let workers = worker_count(&config);
    // The workers come after the state whose gates ask them for idle connections.
    let crew: Arc<OnceLock<Weak<Crew>>> = Arc::default();
    let (state, wanted) = State::new({
        let crew = crew.clone();
        move |target: &ServicePort| {
            let (target, crew) = (target.clone(), crew.clone());
            Box::new(move || {
                if let Some(crew) = crew.get().and_then(Weak::upgrade) {
                    crew.reclaim(&target);
                }
            })
        }
    });
    let listens = listens(&config)?;
    let shared = Shared {
        state,
        tls: Tls::new(),
        metrics,
        log,
        spans,
        tracing: config.otel.rules,
        drain: drain_watch,
        ledger: h2::Ledger::new(LEDGER_MAX),
        listens: listens.iter().map(|(address, _)| *address).collect(),
        own: own_addresses(&config).into(),
        pods: Arc::default(),
        apps: Arc::default(),
    };
    let store = open_store(&config)?;
    let control = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("leno-control")
        // Telemetry and control never delay a request: not in the middle of their work (`aside`), nor when they wake up.
        .on_thread_start(|| drop(net::work_behind(5)))
        .on_thread_unpark(step_aside)
        .enable_all()
        .build()?;
    let drain = Arc::new(drain);
    let side = restore(&config, &shared, &store, wanted)?;
    let (hands, threads) = start_workers(workers, &shared, &listens)?;
    crew.set(Arc::downgrade(&hands)).expect("set here alone");
    tracing::info!(version = VERSION, workers, pod = config.pod_name, "leno-proxy runs");
    let export =
        control.spawn(vital("the export of spans", export_spans(config.clone(), shared.state.clone(), span_queue)));
    let last_words = shared.spans.clone();
    let reins = Reins { drain: drain.clone(), crew: hands.clone(), logs };
    let end = control.block_on(vital("the control task", govern(&config, &shared, side, &reins)));
    drop(reins);
    // Whatever ended it, connections are cut now, and the threads return.
    drain.enter(Phase::Forced);
    for thread in threads {
        let _ = thread.join();
    }
    drop((hands, shared));
    last_words.close();
    let _ = control.block_on(async { tokio::time::timeout(FAREWELL, export).await });
    control.shutdown_timeout(FAREWELL);
    let _ = log_thread.join();
    end
}

/// Every address that we listen on, and what it stands for.
fn listens(config: &Config) -> anyhow::Result<Vec<(SocketAddr, Front)>> {
    let captured = config.outbound_capture.iter().map(|a| (*a, Front::Outbound));
    let services = config.outbound_listen.iter().map(|l| (l.listen, Front::OutboundTo(l.service.clone())));
    let arriving = config.inbound_capture.iter().map(|a| (*a, Front::Inbound));
    let ports = config.inbound_listen.iter().map(|l| (l.listen, Front::InboundTo(l.application)));
    let all: Vec<_> = captured.chain(services).chain(arriving).chain(ports).collect();
    for (number, (address, _)) in all.iter().enumerate() {
        anyhow::ensure!(
            all[..number].iter().all(|(other, _)| other != address),
            "{address} is listened on twice; give each listener its own"
        );
    }
    Ok(all)
}

/// The pod's addresses: what the interfaces have, and what the applications are configured at.
fn own_addresses(config: &Config) -> Vec<IpAddr> {
    let mut own = addresses::of_interfaces();
    own.extend(config.inbound_listen.iter().flat_map(|l| [l.listen.ip(), l.application.ip()]));
    own.sort_unstable();
    own.dedup();
    own
}

fn open_store(config: &Config) -> anyhow::Result<Arc<Store>> {
    let owner = Owner { pod_uid: config.pod_uid.clone(), build: VERSION.to_owned() };
    let (store, found) = Store::open(&config.volume, owner, FILE_MAX)
        .with_context(|| format!("LENO_VOLUME (--volume) {}", config.volume.display()))?;
    tracing::info!(?found, volume = %config.volume.display(), "last known good");
    Ok(Arc::new(store))
}

type Threads = Vec<std::thread::JoinHandle<()>>;

fn start_workers(
    count: usize,
    shared: &Shared,
    listens: &[(SocketAddr, Front)],
) -> anyhow::Result<(Arc<Crew>, Threads)> {
    // Bound here, so that an address that is taken is an error of the start and not of a thread.
    let share = if count > 1 { net::Share::Workers } else { net::Share::Alone };
    let door = |(address, front): &(SocketAddr, Front)| {
        let socket = net::listen(*address, share).with_context(|| format!("listen on {address}"))?;
        Ok(Door { socket, front: Arc::new(front.clone()) })
    };
    let doors = (0..count).map(|_| listens.iter().map(door).collect()).collect::<anyhow::Result<Vec<Vec<Door>>>>()?;
    let doors = Arc::new(parking_lot::Mutex::new(doors.into_iter().map(Some).collect::<Vec<_>>()));
    let shared = shared.clone();
    let story = move |worker: Worker| {
        let own = doors.lock()[worker.index].take().expect("each worker starts once");
        let work = work(worker, shared.clone(), own);
        async move {
            if let Err(error) = work.await {
                tracing::error!(%error, "a worker cannot serve: ending the process");
                std::process::exit(1);
            }
        }
    };
    Ok(worker::start(count, OPEN_MAX, story)?)
}

/// A listening socket and what it stands for.
pub struct Door {
    pub socket: std::net::TcpListener,
    pub front: Arc<Front>,
}

/// A worker's life: accepts at its own doors and serves what it is given, until the drain is forced.
///
/// # Errors
/// A door cannot be served.
pub async fn work(mut worker: Worker, shared: Shared, doors: Vec<Door>) -> io::Result<()> {
    let mut drain = shared.drain.clone();
    let local = Local::new(worker.index, shared);
    let watched = local.clone();
    let is_borrowed: Rc<dyn Fn() -> bool> = Rc::new(move || watched.is_borrowed());
    panics::watch(&is_borrowed);
    tokio::task::spawn_local(vital("a worker's housekeeping", local.clone().keep_house()));
    let standing = local.standing.clone();
    tokio::task::spawn_local(vital("a worker's permissions", standing.watch(local.shared.state.clone())));
    for Door { socket, front } in doors {
        let acceptor = Acceptor::new(socket)?;
        let accepting = listener::run(acceptor, front, Arc::clone(&worker.crew), worker.index);
        tokio::task::spawn_local(vital("an accept loop", accepting));
    }
    loop {
        tokio::select! {
            // The end first: what has not begun by then does not begin.
            biased;
            () = drain.reached(Phase::Forced) => return Ok(()),
            Some(job) = worker.inbox.recv() => match job {
                // A panic in it ends it alone: what it holds are guards.
                Job::Connection(accepted) => serve(local.clone(), accepted),
                Job::Reclaim(target) => drop(local.pool.give_up(&target)),
            },
        }
    }
}

/// Boxed: on its way into a task a future is copied nine times, and thousands of connections may be open.
fn serve(local: Rc<Local>, accepted: Accepted) {
    match *accepted.front {
        Front::Outbound | Front::OutboundTo(_) => {
            drop(tokio::task::spawn_local(Box::pin(outbound::serve(local, accepted))));
        }
        Front::Inbound | Front::InboundTo(_) => {
            drop(tokio::task::spawn_local(Box::pin(inbound::serve(local, accepted))));
        }
    }
}

/// What speaks with the control plane, with everything that the volume held already in force.
struct ControlSide {
    progress: Arc<Progress>,
    renewal: Renewal,
    session: Control,
}

/// Takes up what an earlier process of this pod left in the volume. It must be done before the first connection is
/// accepted: a peer that was refused for want of our certificate would leave this endpoint out for a while.
fn restore(config: &Config, shared: &Shared, store: &Arc<Store>, wanted: Wanted) -> anyhow::Result<ControlSide> {
    let progress = Arc::new(Progress::default());
    let anchors = Arc::new(Anchors::new(config.trust_anchor.clone(), config.trust_domain.clone(), shared.tls.clone()));
    let file = store.kept();
    let way = Way::Network {
        addresses: config.control_plane.clone(),
        expected: config.control_plane_identity.clone(),
        anchors: anchors.clone(),
    };
    let dialer = Arc::new(Dialer::new(way, config.token.clone(), file.control_plane.clone()));
    let renewal = Renewal {
        id: SpiffeId::workload(&config.trust_domain, &config.pod_namespace, &config.service_account)?,
        dialer: dialer.clone(),
        anchors: anchors.clone(),
        tls: shared.tls.clone(),
        store: store.clone(),
        metrics: shared.metrics.clone(),
        progress: progress.clone(),
        decode: resource::decode,
    };
    let session = Control::new(
        Parts {
            pod_uid: config.pod_uid.clone(),
            workers: worker_count(config) as u32,
            state: shared.state.clone(),
            wanted,
            dialer,
            anchors,
            store: store.clone(),
            metrics: shared.metrics.clone(),
            progress: progress.clone(),
            decode: resource::decode,
        },
        &file,
    );
    renewal.restore(&file);
    Ok(ControlSide { progress, renewal, session })
}

fn worker_count(config: &Config) -> usize {
    config.workers.unwrap_or_else(|| worker::count(worker::cpu_quota()))
}

/// By what the proxy is told to end, and what to say meanwhile.
struct Reins {
    drain: Arc<Drain>,
    crew: Arc<Crew>,
    logs: Logs,
}

/// The control side at work: identity, session, status, telemetry; ends with the proxy.
async fn govern(config: &Config, shared: &Shared, side: ControlSide, reins: &Reins) -> anyhow::Result<()> {
    let Reins { drain, crew, logs } = reins;
    let ControlSide { progress, renewal, session } = side;
    // Explicit listeners know what they will need: ask before the first connection does.
    for listen in &config.outbound_listen {
        let (state, service) = (shared.state.clone(), listen.service.service.clone());
        tokio::spawn(async move { drop(state.service(&service, Duration::from_secs(1)).await) });
    }
    tokio::spawn(vital("the renewal of the certificate", renewal.run()));
    tokio::spawn(vital("the session with the control plane", session.run()));
    let begin = Arc::new(tokio::sync::Notify::new());
    let levers = views::Levers { begin: begin.clone(), logs: logs.clone() };
    let views = Arc::new(views::of(shared, progress, config.probes.clone(), levers));
    let status = net::listen_widely(config.status)
        .and_then(TcpListener::from_std)
        .with_context(|| format!("LENO_STATUS (--status): listen on {}", config.status))?;
    tokio::spawn(vital("the status port", admin::serve_status(status, views.clone())));
    let socket = admin::open_socket(&config.admin_socket)
        .with_context(|| format!("LENO_ADMIN_SOCKET (--admin-socket) {}", config.admin_socket.display()))?;
    tokio::spawn(vital("the admin socket", admin::serve_socket(socket, views)));
    until_drained(config.grace, drain, &begin, crew).await
}

/// Waits for SIGTERM, SIGINT or `leno-proxy drain`, then runs the drain's phases. A second SIGTERM shortens them to the last
/// farewell, a SIGINT ends it at once.
async fn until_drained(grace: Duration, drain: &Drain, begin: &tokio::sync::Notify, crew: &Crew) -> anyhow::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let told = tokio::select! {
        _ = terminate.recv() => true,
        _ = interrupt.recv() => return Ok(()),
        () = begin.notified() => false,
    };
    let times = Times::from_grace(grace);
    tracing::info!(?times, "draining");
    // After the preStop hook the application still runs, and may call others to its very end: then SIGTERM says when.
    let is_quiet = || told && crew.open() == 0;
    tokio::select! {
        () = drain.run(times, is_quiet) => return Ok(()),
        // The kubelet sends this once the application has ended: nothing is left to serve.
        _ = terminate.recv() => {}
        _ = interrupt.recv() => return Ok(()),
    }
    tokio::select! {
        () = drain.leave(|| crew.open() == 0) => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// The endpoint comes with the mesh's configuration, unless the environment names one; the exporter starts when it is known.
async fn export_spans(config: Config, state: Arc<State>, queue: export::Queue) {
    let source = export::Source {
        service: config.service_account.clone(),
        namespace: config.pod_namespace.clone(),
        pod: config.pod_name.clone(),
        pod_uid: config.pod_uid.clone(),
    };
    let mut changes = state.changes();
    let endpoint = loop {
        match &state.load().config {
            Some(mesh) => break mesh.tracing.endpoint.clone(),
            None if config.otel.names_an_endpoint() => break None,
            None => {}
        }
        if changes.changed().await.is_err() {
            return;
        }
    };
    let exporter = export::exporter(endpoint.as_deref(), &source, &config.otel).unwrap_or_else(|error| {
        tracing::warn!(%error, "no spans are exported");
        None
    });
    queue.run(exporter).await;
}
