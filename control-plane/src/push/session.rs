//! One proxy's session from Hello to its end: what came goes into the ledger, what the ledger says goes out, one
//! transaction at a time. It must never hold more for a proxy than that transaction, and never wait for it without an end.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use leno_proto::hash::Hash;
use leno_proto::wire::control;
use leno_proto::wire::control::FromProxy;
use leno_proto::wire::control::ToProxy;
use leno_proto::wire::control::from_proxy;
use leno_proto::wire::control::to_proxy;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::Semaphore;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio::time::sleep_until;
use tokio::time::timeout;
use tonic::Status;

use crate::metrics::End;
use crate::metrics::Metrics;
use crate::push::frame;
use crate::push::frame::Parts;
use crate::push::grpc::Answer;
use crate::push::grpc::Messages;
use crate::push::ledger::Ledger;
use crate::push::ledger::REJECTED_MAX;
use crate::push::ledger::Scope;
use crate::push::ledger::Violation;
use crate::push::offer::Offers;
use crate::push::sessions::Seat;
use crate::push::sessions::Sessions;
use crate::token::Caller;

/// A build names each field it can enforce: hundreds, in words of tens of bytes.
const CAPABILITIES_MAX: usize = 2048;
const WORD_MAX: usize = 128;
/// Two in a row: one may have crossed a report on its way.
const MISMATCHES_MAX: u8 = 2;

/// How long is waited for what.
#[derive(Debug, Clone)]
pub struct Limits {
    pub heartbeat: Duration,
    /// Nothing received for this long: the session is dead.
    pub silence: Duration,
    /// A message not taken, or a transaction not reported, for this long: the same.
    pub stall: Duration,
    /// From the first byte to the end of Held.
    pub greeting: Duration,
    /// How long a pod may be unknown to the source.
    pub park: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Limits {
            heartbeat: seconds(10),
            silence: seconds(30),
            stall: seconds(30),
            greeting: seconds(10),
            park: seconds(10),
        }
    }
}

/// Where this replica stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    Serving,
    /// Sessions are told to go elsewhere within this time, and served until then.
    Leaving {
        within: Duration,
    },
    Closed,
}

/// What all sessions share.
pub struct Shared {
    pub offers: Offers,
    pub sessions: Arc<Sessions>,
    pub metrics: Arc<Metrics>,
    /// Paces first transactions, which are the large ones: a herd is served in turn.
    pub cold: Arc<Semaphore>,
    pub limits: Limits,
    pub phase: watch::Receiver<Phase>,
    pub replica: Arc<str>,
}

struct Ended {
    why: End,
    status: Status,
}

struct Session {
    shared: Arc<Shared>,
    seat: Seat,
    from: Messages,
    outbox: Outbox,
    heartbeat: Instant,
    heard: Instant,
    /// Since when we wait for the proxy: to take a message, or to report.
    waiting: Option<Instant>,
    parked: Option<Instant>,
    known: bool,
    /// Something has changed that the next transaction may be about: what is offered, or what is wanted.
    news: bool,
    turn: Turn,
    /// False where the proxy claimed keys that this build does not know: then the digests cannot agree.
    comparable: bool,
    mismatches: u8,
}

/// The pace of first transactions.
enum Turn {
    Awaited,
    Had(#[expect(dead_code, reason = "held until the first report")] OwnedSemaphorePermit),
    Over,
}

/// What is to be sent, in order: small messages between transactions, never inside one.
#[derive(Default)]
struct Outbox {
    welcome: Option<ToProxy>,
    goaway: Option<ToProxy>,
    heartbeat: bool,
    parts: Option<Parts>,
    begun: bool,
}

pub async fn run(shared: Arc<Shared>, caller: Caller, mut from: Messages, mut to: Answer) {
    let up = shared.clone();
    let _up = up.metrics.sessions.up();
    let (namespace, pod) = (caller.namespace.clone(), caller.pod_name.clone());
    let greeted = timeout(shared.limits.greeting, Box::pin(greet(&caller, &mut from))).await;
    let ended = match greeted {
        Err(_) => ended(End::Silent, Status::deadline_exceeded("no complete Hello and Held")),
        Ok(Err(ended)) => ended,
        Ok(Ok(greeting)) => match Session::new(shared.clone(), caller, greeting, from) {
            Ok(mut session) => session.serve(&mut to).await,
            Err(ended) => ended,
        },
    };
    shared.metrics.ended(ended.why).one();
    tracing::info!(%namespace, %pod, why = ended.why.as_str(), "session ended: {}", ended.status.message());
    // Behind what was sent before: whoever does not read does not hear it either.
    to.end(&ended.status);
}

struct Greeting {
    build: String,
    ledger: Ledger,
    comparable: bool,
}

/// Hello, then Held until its last chunk.
async fn greet(caller: &Caller, from: &mut Messages) -> Result<Greeting, Ended> {
    let Some(from_proxy::Message::Hello(hello)) = next(from).await? else {
        return Err(violation("the first message is not Hello"));
    };
    if hello.pod_uid != *caller.pod_uid {
        return Err(ended(End::Violation, Status::permission_denied("Hello's pod uid is not the token's")));
    }
    let words = hello.capabilities.iter().chain([&hello.build]);
    if hello.capabilities.len() > CAPABILITIES_MAX || words.into_iter().any(|word| word.len() > WORD_MAX) {
        return Err(violation("too many or too long capabilities"));
    }
    let capabilities: BTreeSet<Arc<str>> = hello.capabilities.into_iter().map(Arc::from).collect();
    let scope = Scope { namespace: caller.namespace.clone(), pod_uid: caller.pod_uid.clone(), capabilities };
    let mut greeting = Greeting { build: hello.build, ledger: Ledger::new(scope), comparable: true };
    loop {
        let Some(from_proxy::Message::Held(held)) = next(from).await? else {
            return Err(violation("Held does not follow Hello"));
        };
        for resource in held.resources {
            let Some(key) = frame::key(resource.key.as_ref()) else {
                greeting.comparable = false;
                continue;
            };
            let hash = Hash::from_bytes(&resource.hash);
            let rejected =
                resource.rejected.iter().take(REJECTED_MAX).filter_map(|hash| Hash::from_bytes(hash)).collect();
            greeting.ledger.claim(key, hash, rejected)?;
        }
        if held.last {
            return Ok(greeting);
        }
    }
}

async fn next(from: &mut Messages) -> Result<Option<from_proxy::Message>, Ended> {
    match from.next::<FromProxy>().await {
        Ok(Some(message)) => Ok(message.message),
        Ok(None) => Err(ended(End::Left, Status::ok("the proxy left"))),
        Err(status) => Err(ended(End::Left, Status::cancelled(format!("the proxy left: {}", status.message())))),
    }
}

/// Resolves at the next value that was not looked at, and gives the receiver back; `None` when there will be no other. Who keeps
/// it does not enter the list of those who wait again at each turn.
async fn changed<T>(mut of: watch::Receiver<T>) -> Option<watch::Receiver<T>> {
    of.changed().await.ok()?;
    Some(of)
}

impl Session {
    fn new(shared: Arc<Shared>, caller: Caller, greeting: Greeting, from: Messages) -> Result<Session, Ended> {
        let Greeting { build, mut ledger, comparable } = greeting;
        if ledger.wanted().is_empty() {
            for key in shared.sessions.wanted_by_siblings(&caller) {
                ledger.subscribe(key)?;
            }
        }
        let seat = shared
            .sessions
            .enter(caller, build, ledger, SystemTime::now())
            .map_err(|full| ended(End::Violation, Status::resource_exhausted(full.to_string())))?;
        let now = Instant::now();
        let welcome = control::Welcome {
            replica: shared.replica.to_string(),
            build: env!("CARGO_PKG_VERSION").to_owned(),
            capabilities: Vec::new(),
        };
        let outbox = Outbox { welcome: Some(frame::message(to_proxy::Message::Welcome(welcome))), ..Outbox::default() };
        Ok(Session {
            seat,
            from,
            outbox,
            heartbeat: now + shared.limits.heartbeat,
            heard: now,
            waiting: None,
            parked: None,
            known: false,
            news: true,
            turn: Turn::Awaited,
            comparable,
            mismatches: 0,
            shared,
        })
    }

    async fn serve(&mut self, to: &mut Answer) -> Ended {
        let (mut offers, mut phase) = (self.shared.offers.clone(), self.shared.phase.clone());
        // What holds now is looked at without waiting for a change.
        offers.mark_changed();
        phase.mark_changed();
        let mut offered = pin!(changed(offers));
        let mut phased = pin!(changed(phase));
        let mut replaced = pin!(changed(self.seat.replaced.clone()));
        // One timer for all that is waited for: it is moved when something is due before it rings, and else looks when it does.
        let mut alarm = pin!(sleep_until(self.due()));
        loop {
            self.fill();
            let waits = self.outbox.holds() || self.seat.live.ledger.lock().in_flight();
            self.waiting = waits.then(|| self.waiting.unwrap_or_else(Instant::now));
            let due = self.due();
            if due < alarm.deadline() {
                alarm.as_mut().reset(due);
            }
            // The arms are equal: each is one event, and none may starve another.
            let step = tokio::select! {
                ready = to.ready(), if self.outbox.holds() => ready.and_then(|()| self.say(to)).map_err(|gone| {
                    ended(End::Left, Status::cancelled(format!("the connection is gone: {}", gone.message())))
                }),
                message = next(&mut self.from) => message.and_then(|message| self.take(message)),
                again = &mut offered => match again {
                    Some(again) => {
                        offered.set(changed(again));
                        self.look()
                    }
                    // The source is gone; what was said last stays in force.
                    None => Err(ended(End::Goaway, Status::unavailable("this replica is stopping"))),
                },
                // A pod that is not known yet takes no turn away from those that are.
                permit = self.shared.cold.clone().acquire_owned(), if self.known && matches!(self.turn, Turn::Awaited) => {
                    self.turn = permit.map_or(Turn::Over, Turn::Had);
                    Ok(())
                }
                () = &mut alarm => {
                    let step = self.ring(Instant::now());
                    alarm.as_mut().reset(self.due());
                    step
                }
                _ = &mut replaced => {
                    Err(ended(End::Replaced, Status::aborted("a newer session of the same pod took over")))
                }
                again = &mut phased => match again {
                    Some(again) => {
                        phased.set(changed(again));
                        self.turn_to_phase()
                    }
                    None => Err(ended(End::Goaway, Status::unavailable("this replica is stopping"))),
                },
            };
            if let Err(ended) = step {
                return ended;
            }
        }
    }

    /// Sends one message of what there is.
    fn say(&mut self, to: &mut Answer) -> Result<(), Status> {
        let message = self.outbox.next(&self.seat);
        self.waiting = None;
        let length = to.send(&message)?;
        count(&message, length, &self.shared.metrics);
        Ok(())
    }

    /// When `ring` is to be called at the latest.
    fn due(&self) -> Instant {
        let limits = &self.shared.limits;
        let silent = self.heard + limits.silence;
        let stalled = self.waiting.map(|since| since + limits.stall);
        let forgotten = self.parked.map(|since| since + limits.park);
        [stalled, forgotten].into_iter().flatten().fold(silent.min(self.heartbeat), Instant::min)
    }

    /// Does what is due by now.
    fn ring(&mut self, now: Instant) -> Result<(), Ended> {
        let limits = &self.shared.limits;
        let over = |since: Option<Instant>, limit| since.is_some_and(|since| now >= since + limit);
        if over(Some(self.heard), limits.silence) {
            return Err(ended(End::Silent, Status::deadline_exceeded("nothing was heard from the proxy")));
        }
        if over(self.waiting, limits.stall) {
            return Err(ended(End::Stalled, Status::deadline_exceeded("the proxy neither reads nor reports")));
        }
        if over(self.parked, limits.park) {
            let why = "the pod is not known here; see that its manifest is applied";
            return Err(ended(End::PodGone, Status::not_found(why)));
        }
        if now >= self.heartbeat {
            self.heartbeat = now + limits.heartbeat;
            self.outbox.heartbeat = true;
        }
        Ok(())
    }

    /// Plans the next transaction when nothing is under way. Nothing is said before the source has been read, nor while it does
    /// not know our pod: an answer without the pod's own policy would be a guess.
    fn fill(&mut self) {
        if !self.news || self.outbox.parts.is_some() || matches!(self.turn, Turn::Awaited) {
            return;
        }
        let Some(offer) = self.shared.offers.borrow().clone() else { return };
        let mut ledger = self.seat.live.ledger.lock();
        if !ledger.pod_stands() && !offer.knows_pod(&self.seat.live.caller.pod_uid) {
            return;
        }
        if ledger.in_flight() {
            return;
        }
        self.news = false;
        if let Some(plan) = ledger.plan(&*offer) {
            self.shared.metrics.transactions.one();
            self.outbox.parts = Some(Parts::new(plan));
            self.outbox.begun = false;
        } else {
            self.turn = Turn::Over;
        }
    }

    /// The mesh has changed: is our pod still in it?
    fn look(&mut self) -> Result<(), Ended> {
        let Some(offer) = self.shared.offers.borrow().clone() else { return Ok(()) };
        self.news = true;
        let stands = self.seat.live.ledger.lock().pod_stands();
        let knows = stands || offer.knows_pod(&self.seat.live.caller.pod_uid);
        if self.known && !knows {
            return Err(ended(End::PodGone, Status::not_found("the pod is gone")));
        }
        self.known |= knows;
        self.parked = if knows { None } else { Some(self.parked.unwrap_or_else(Instant::now)) };
        Ok(())
    }

    fn turn_to_phase(&mut self) -> Result<(), Ended> {
        match *self.shared.phase.borrow() {
            Phase::Serving => {}
            Phase::Leaving { within } => {
                let reconnect_within_millis = u32::try_from(within.as_millis()).unwrap_or(u32::MAX);
                let why = "this replica is stopping".to_owned();
                let goaway = to_proxy::Message::Goaway(control::Goaway { reconnect_within_millis, why });
                self.outbox.goaway = Some(frame::message(goaway));
            }
            Phase::Closed => return Err(ended(End::Goaway, Status::unavailable("this replica is stopping"))),
        }
        Ok(())
    }

    fn take(&mut self, message: Option<from_proxy::Message>) -> Result<(), Ended> {
        self.heard = Instant::now();
        match message {
            Some(from_proxy::Message::Subscribe(subscribe)) => {
                self.news = true;
                let mut ledger = self.seat.live.ledger.lock();
                for key in subscribe.remove.iter().filter_map(|key| frame::key(Some(key))) {
                    ledger.unsubscribe(key);
                }
                for key in subscribe.add.iter().filter_map(|key| frame::key(Some(key))) {
                    ledger.subscribe(key)?;
                }
            }
            Some(from_proxy::Message::Report(report)) => {
                let (applied, rejected) = (frame::applied(report.applied), frame::rejected(report.rejected));
                let outcome = self.seat.live.ledger.lock().report(report.transaction, applied, rejected)?;
                self.shared.metrics.applied.add(outcome.applied);
                self.shared.metrics.rejected.add(outcome.rejected);
                self.turn = Turn::Over;
                self.waiting = None;
                self.seat.tell();
            }
            Some(from_proxy::Message::Heartbeat(heartbeat)) => return self.compare(&heartbeat.digest),
            Some(from_proxy::Message::Hello(_)) => return Err(violation("a second Hello")),
            Some(from_proxy::Message::Held(_)) => return Err(violation("Held after its last chunk")),
            // A newer proxy may say more than we understand.
            None => {}
        }
        Ok(())
    }

    /// The proxy says what it holds; if that is not what we believe, only a fresh start helps.
    fn compare(&mut self, digest: &[u8]) -> Result<(), Ended> {
        let ledger = self.seat.live.ledger.lock();
        if !self.comparable || digest.is_empty() || ledger.in_flight() {
            return Ok(());
        }
        self.mismatches = if digest == ledger.digest().as_bytes() { 0 } else { self.mismatches + 1 };
        if self.mismatches < MISMATCHES_MAX {
            return Ok(());
        }
        Err(ended(End::Diverged, Status::aborted("what the proxy holds is not what it was sent; starting anew")))
    }
}

impl Outbox {
    fn holds(&self) -> bool {
        self.welcome.is_some() || self.goaway.is_some() || self.heartbeat || self.parts.is_some()
    }

    /// Call only while it `holds` something; an empty message, which every proxy passes over, would follow otherwise.
    fn next(&mut self, seat: &Seat) -> ToProxy {
        if !self.begun {
            if let Some(message) = self.welcome.take().or_else(|| self.goaway.take()) {
                return message;
            }
            if std::mem::take(&mut self.heartbeat) {
                return heartbeat(&seat.live.ledger.lock());
            }
        }
        let Some(parts) = &mut self.parts else { return ToProxy::default() };
        let (message, last) = parts.take();
        self.begun = !last;
        if last {
            self.parts = None;
        }
        message
    }
}

fn heartbeat(ledger: &Ledger) -> ToProxy {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    frame::message(to_proxy::Message::Heartbeat(control::Heartbeat {
        unix_millis: i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
        digest: frame::hash_bytes(&ledger.digest()),
    }))
}

/// A transaction's part, and by kind what it changes. Nothing else: who looks for the cause of traffic between the planes must
/// not find the heartbeats of sessions at rest.
fn count(message: &ToProxy, length: usize, metrics: &Metrics) {
    let Some(to_proxy::Message::Transaction(transaction)) = &message.message else { return };
    metrics.messages.one();
    metrics.message_bytes.add(length);
    for change in transaction.changes.iter().filter_map(|change| change.change.as_ref()) {
        match change {
            control::change::Change::Put(_) => metrics.puts.one(),
            control::change::Change::Unchanged(_) => metrics.unchanged.one(),
            control::change::Change::Removed(_) => metrics.removed.one(),
        }
    }
}

fn ended(why: End, status: Status) -> Ended {
    Ended { why, status }
}

fn violation(what: &'static str) -> Ended {
    ended(End::Violation, Status::invalid_argument(what))
}

impl From<Violation> for Ended {
    fn from(violation: Violation) -> Ended {
        ended(End::Violation, Status::invalid_argument(violation.to_string()))
    }
}
