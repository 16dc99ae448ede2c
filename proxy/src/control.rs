//! The session with the control plane: what the stories miss is asked for, what is pushed goes into force as one, and what
//! is in force survives in the file. It must never take anything away because the control plane is gone.

pub mod anchors;
pub mod book;
pub mod dial;
pub mod keep;
pub mod progress;
pub mod resource;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use leno_proto::capability;
use leno_proto::key::Key;
use leno_proto::policy::Resource;
use leno_proto::wire::control as wire;
use leno_proto::wire::control::FromProxy;
use leno_proto::wire::control::ToProxy;
use leno_proto::wire::control::from_proxy;
use leno_proto::wire::control::to_proxy;
use prost::Message;
use rand::RngExt;
use tokio::sync::mpsc;
use tokio::time::Instant as Time;
use tokio::time::MissedTickBehavior;
use tokio::time::interval_at;
use tokio::time::sleep;
use tokio::time::sleep_until;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Request;
use tonic::Streaming;

use crate::control::anchors::Anchors;
use crate::control::book::Book;
use crate::control::book::Keep;
use crate::control::dial::Dialer;
use crate::control::dial::Link;
use crate::control::progress::Progress;
use crate::control::resource::Decode;
use crate::metrics::Metrics;
use crate::state::Change;
use crate::state::State;
use crate::state::Wanted;
use crate::store::Kept;
use crate::store::Store;

/// What the session works with.
pub struct Parts {
    pub pod_uid: String,
    pub workers: u32,
    pub state: Arc<State>,
    pub wanted: Wanted,
    pub dialer: Arc<Dialer>,
    pub anchors: Arc<Anchors>,
    pub store: Arc<Store>,
    pub metrics: Arc<Metrics>,
    pub progress: Arc<Progress>,
    pub decode: Decode,
}

/// The session client. One per proxy.
pub struct Control {
    parts: Parts,
    book: Book,
    /// Changed since the file was written.
    unwritten: Unwritten,
    written: Option<Time>,
}

#[derive(Default)]
struct Unwritten {
    resources: Vec<(Key, Keep)>,
    rejected: bool,
}

/// How a session ended, and so what to do next.
#[derive(Debug)]
enum End {
    /// The replica leaves: another is reached without haste and without backing off.
    Goaway,
    Broken(String),
}

impl Control {
    /// Puts what the file holds into force, before any session: a restarted proxy serves at once.
    pub fn new(parts: Parts, kept: &Kept) -> Self {
        let mut book = Book::new(&parts.pod_uid, kept.rejected.clone());
        let mut changes = Vec::new();
        for (key, one) in kept.resources.iter().filter(|(_, one)| !one.evicted) {
            match resource::take(key, one.hash, &one.bytes, parts.decode) {
                Ok(resource) => {
                    if let Resource::TrustBundle(bundle) = &resource {
                        adopt(&parts.anchors, bundle);
                    }
                    book.restored(key.clone(), one.hash, now());
                    changes.push(Change::Put(key.clone(), resource.into()));
                }
                Err(refusal) => tracing::warn!(%key, why = refusal.message, "a kept resource cannot be used"),
            }
        }
        if !changes.is_empty() {
            tracing::info!(resources = changes.len(), "last known good configuration restored from the volume");
            parts.state.apply(changes, Instant::now());
        }
        parts.metrics.proxy.resources_held.set(book.len() as i64);
        Self { parts, book, unwritten: Unwritten::default(), written: None }
    }

    /// Holds a session for ever, with one replica after another.
    pub async fn run(mut self) {
        let mut failures = 0;
        let mut avoid = None;
        loop {
            let reached = self.while_away(avoid.take()).await;
            let why = match reached {
                Ok(link) => {
                    let address = link.address.clone();
                    self.parts.metrics.proxy.control_connects.increment();
                    let mut useful = false;
                    let end = self.session(link, &mut useful).await;
                    self.parts.metrics.proxy.control_connected.set(0);
                    self.write();
                    failures = if useful { 0 } else { failures };
                    avoid = Some(address.clone());
                    match end {
                        End::Goaway => continue,
                        End::Broken(why) => format!("session with {address}: {why}"),
                    }
                }
                Err(why) => why,
            };
            let pause = dial::backoff(failures, rand::rng().random());
            tracing::warn!(why, ?pause, "no session with the control plane; what is in force stays");
            self.parts.progress.not_connected(why);
            failures += 1;
            self.pause(pause).await;
        }
    }

    /// Dials, and meanwhile takes note of what the stories miss: the next session begins with it.
    async fn while_away(&mut self, avoid: Option<String>) -> Result<Link, String> {
        let dialer = self.parts.dialer.clone();
        let dial = dialer.connect(avoid.as_deref());
        tokio::pin!(dial);
        loop {
            // The arms are equal: a question is noted whenever it comes.
            tokio::select! {
                reached = &mut dial => return reached,
                Some(key) = self.parts.wanted.recv() => self.missed_while_away(key),
            }
        }
    }

    async fn pause(&mut self, pause: Duration) {
        let end = sleep(pause);
        tokio::pin!(end);
        loop {
            // The arms are equal, as above.
            tokio::select! {
                () = &mut end => return,
                Some(key) = self.parts.wanted.recv() => self.missed_while_away(key),
            }
        }
    }

    /// What the file still has of it serves at once; the next session begins with the question.
    fn missed_while_away(&mut self, key: Key) {
        self.book.ask(key.clone(), now());
        self.revive(&key);
    }

    /// One session, from Hello to its end. `useful`: it has brought something.
    async fn session(&mut self, link: Link, useful: &mut bool) -> End {
        let (to, outgoing) = mpsc::channel(OUTGOING_MAX);
        let mut request = Request::new(ReceiverStream::new(outgoing));
        request.metadata_mut().insert("authorization", link.bearer);
        let mut client = link.client;
        let greeting = self.greeting();
        let greet = async {
            for message in greeting {
                if to.send(message).await.is_err() {
                    return;
                }
            }
        };
        let opened = timeout(SILENCE, async { tokio::join!(client.session(request), greet).0 }).await;
        let mut incoming = match opened {
            Ok(Ok(answer)) => answer.into_inner(),
            Ok(Err(status)) => return End::Broken(format!("{:?}: {}", status.code(), status.message())),
            Err(_) => return End::Broken("no answer in time".into()),
        };
        self.parts.metrics.proxy.control_connected.set(1);
        self.parts.progress.connected();
        Talk { control: self, to, building: None, leave_at: None, late: VecDeque::new(), useful }
            .run(&mut incoming)
            .await
    }

    fn greeting(&mut self) -> Vec<FromProxy> {
        let hello = wire::Hello {
            build: crate::config::VERSION.into(),
            pod_uid: self.parts.pod_uid.clone(),
            capabilities: CAPABILITIES.iter().map(|one| (*one).into()).collect(),
            parallelism: self.parts.workers,
        };
        let held = self.book.held(now()).into_iter().map(from_proxy::Message::Held);
        [from_proxy::Message::Hello(hello)].into_iter().chain(held).map(say).collect()
    }

    /// A whole transaction: judged, swapped in, kept. Returns what to report.
    fn apply(&mut self, building: Building) -> wire::Report {
        let judged = self.book.judge(building.id, building.changes, self.parts.decode);
        let metrics = &self.parts.metrics.proxy;
        metrics.resources_applied.add(judged.report.applied.len() as u64);
        metrics.resources_rejected.add(judged.report.rejected.len() as u64);
        metrics.resources_unchanged.add(judged.unchanged);
        metrics.resources_evicted.add(judged.kept.iter().filter(|(_, keep)| *keep == Keep::Evicted).count() as u64);
        metrics.resources_held.set(self.book.len() as i64);
        for change in &judged.changes {
            if let Change::Put(_, resource) = change
                && let Resource::TrustBundle(bundle) = &**resource
            {
                adopt(&self.parts.anchors, bundle);
            }
        }
        if !judged.changes.is_empty() {
            self.parts.state.apply(judged.changes, Instant::now());
        }
        self.unwritten.resources.extend(judged.kept);
        self.unwritten.rejected |= !judged.report.rejected.is_empty();
        judged.report
    }
}

/// A transaction of which not all parts are here.
struct Building {
    id: u64,
    changes: Vec<wire::Change>,
    bytes: usize,
}

/// A session under way.
struct Talk<'a> {
    control: &'a mut Control,
    to: mpsc::Sender<FromProxy>,
    building: Option<Building>,
    /// After a Goaway.
    leave_at: Option<Time>,
    /// Questions to which the file has an answer, should none come by then.
    late: VecDeque<(Time, Key)>,
    useful: &'a mut bool,
}

impl Talk<'_> {
    async fn run(mut self, incoming: &mut Streaming<ToProxy>) -> End {
        let now = Time::now();
        let mut heartbeat = interval_at(now + HEARTBEAT, HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut upkeep = interval_at(now + UPKEEP, UPKEEP);
        upkeep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut idle = interval_at(now + IDLE_CHECK, IDLE_CHECK);
        idle.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = now;
        loop {
            let late = self.late.front().map(|(at, _)| *at);
            // The arms are equal: each is one event, and none may starve another.
            let step = tokio::select! {
                message = incoming.message() => match message {
                    Ok(Some(message)) => {
                        heard = Time::now();
                        self.take(message).await
                    }
                    Ok(None) => Err(End::Broken("the control plane ended it".into())),
                    Err(status) => Err(End::Broken(format!("{:?}: {}", status.code(), status.message()))),
                },
                Some(key) = self.control.parts.wanted.recv() => self.ask(key).await,
                _ = heartbeat.tick() => {
                    let digest = resource::hash_bytes(self.control.book.digest());
                    self.send(from_proxy::Message::Heartbeat(wire::Heartbeat { unix_millis: unix_millis(), digest })).await
                }
                _ = upkeep.tick() => {
                    self.control.parts.state.sweep();
                    self.control.write();
                    Ok(())
                }
                _ = idle.tick(), if heard.elapsed() < HEARTBEAT * 2 => self.give_back().await,
                () = sleep_until(late.unwrap_or(heard)), if late.is_some() => {
                    self.answer_late();
                    Ok(())
                }
                () = sleep_until(heard + SILENCE) => Err(End::Broken("nothing was heard for 30 s".into())),
                () = sleep_until(self.leave_at.unwrap_or(heard)), if self.leave_at.is_some() => Err(End::Goaway),
            };
            if let Err(end) = step {
                return end;
            }
        }
    }

    async fn take(&mut self, message: ToProxy) -> Result<(), End> {
        match message.message {
            Some(to_proxy::Message::Welcome(welcome)) => {
                tracing::info!(replica = welcome.replica, build = welcome.build, "session with the control plane");
                Ok(())
            }
            Some(to_proxy::Message::Transaction(part)) => self.part(part).await,
            Some(to_proxy::Message::Goaway(goaway)) => {
                let window = Duration::from_millis(goaway.reconnect_within_millis.into()).min(GOAWAY_MAX);
                tracing::info!(why = goaway.why, ?window, "the control plane asks to go elsewhere");
                self.leave_at = Some(Time::now() + window.mul_f64(rand::rng().random()));
                Ok(())
            }
            // That it came is what counts; the server compares the digests.
            Some(to_proxy::Message::Heartbeat(_)) => Ok(()),
            // A newer server may say more than we understand.
            None => Ok(()),
        }
    }

    async fn part(&mut self, part: wire::Transaction) -> Result<(), End> {
        let mut building = match self.building.take() {
            Some(building) if building.id == part.id => building,
            Some(building) => {
                return Err(End::Broken(format!("transaction {} came inside transaction {}", part.id, building.id)));
            }
            None => Building { id: part.id, changes: Vec::new(), bytes: 0 },
        };
        building.bytes += part.encoded_len();
        building.changes.extend(part.changes);
        if building.bytes > TRANSACTION_BYTES_MAX || building.changes.len() > TRANSACTION_CHANGES_MAX {
            return Err(End::Broken(format!("transaction {} is larger than any mesh needs", building.id)));
        }
        if !part.last {
            self.building = Some(building);
            return Ok(());
        }
        let report = self.control.apply(building);
        *self.useful = true;
        // At once, unless changes come faster than a file is worth: then `upkeep` writes it.
        if self.control.written.is_none_or(|at| at.elapsed() >= UPKEEP) {
            self.control.write();
        }
        self.send(from_proxy::Message::Report(report)).await
    }

    /// Takes everything that waits, so that a burst of questions is one message.
    async fn ask(&mut self, first: Key) -> Result<(), End> {
        let mut keys = BTreeSet::from([first]);
        while keys.len() < ASK_MAX
            && let Ok(key) = self.control.parts.wanted.try_recv()
        {
            keys.insert(key);
        }
        let mut subscribe = wire::Subscribe::default();
        for key in keys {
            if self.late.len() < LATE_MAX && self.control.has_evicted(&key) {
                self.late.push_back((Time::now() + LATE, key.clone()));
            }
            let Some(one) = self.control.book.ask(key, now()) else { continue };
            subscribe.add.extend(one.add);
            subscribe.remove.extend(one.remove);
        }
        match subscribe.add.is_empty() {
            true => Ok(()),
            false => self.send(from_proxy::Message::Subscribe(subscribe)).await,
        }
    }

    /// The session seems well and says nothing: what was true when the resource was let go is better than no answer.
    fn answer_late(&mut self) {
        let due = Time::now();
        while let Some((_, key)) = self.late.pop_front_if(|(at, _)| *at <= due) {
            if !self.control.book.holds(&key) {
                self.control.revive(&key);
            }
        }
    }

    /// Unsubscribes from what has not been used for long.
    async fn give_back(&mut self) -> Result<(), End> {
        let used = self.control.parts.state.used();
        let subscribe = self.control.book.idle(used, now());
        if subscribe.remove.is_empty() {
            return Ok(());
        }
        tracing::debug!(keys = subscribe.remove.len(), "subscriptions not used for long are given back");
        self.send(from_proxy::Message::Subscribe(subscribe)).await
    }

    async fn send(&mut self, message: from_proxy::Message) -> Result<(), End> {
        match timeout(SILENCE, self.to.send(say(message))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(End::Broken("the connection has ended".into())),
            Err(_) => Err(End::Broken("the control plane reads nothing".into())),
        }
    }
}

fn adopt(anchors: &Anchors, bundle: &leno_proto::policy::TrustBundle) {
    if let Err(why) = anchors.adopt(bundle) {
        tracing::error!(why, "the trust bundle is not used; the one before stays");
    }
}

fn say(message: from_proxy::Message) -> FromProxy {
    FromProxy { message: Some(message) }
}

/// The clock that tests move, as the pure parts take it.
fn now() -> Instant {
    Time::now().into_std()
}

fn unix_millis() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// What this build can be trusted to enforce. TLS towards external hosts is not among it yet: an EgressIndex that asks for
/// it is withheld rather than sent in plaintext.
const CAPABILITIES: &[&str] = &[capability::ACCESS, capability::ACCESS_HTTP, capability::INBOUND_TLS_STRICT];

/// CONTRACTS of the protocol: control.proto, Heartbeat.
const HEARTBEAT: Duration = Duration::from_secs(10);
const SILENCE: Duration = Duration::from_secs(30);

/// How long freed snapshots and an unwritten file may wait.
const UPKEEP: Duration = Duration::from_secs(1);

/// How often uses are gathered: idle times are true to this.
const IDLE_CHECK: Duration = Duration::from_secs(30);

/// Half of what a request waits for an answer by default: the file's comes in time for it.
const LATE: Duration = Duration::from_millis(500);
const LATE_MAX: usize = 1024;

/// A window that nobody means: an hour without news would be worse than a herd.
const GOAWAY_MAX: Duration = Duration::from_secs(300);

/// Messages waiting to be sent; the greeting waits for room, the rest are few.
const OUTGOING_MAX: usize = 64;

/// Questions in one message.
const ASK_MAX: usize = 256;

/// All that the largest mesh may push at once; the server holds a proxy to as many resources.
const TRANSACTION_BYTES_MAX: usize = 256 * 1024 * 1024;
const TRANSACTION_CHANGES_MAX: usize = 2 * 65_536;
