//! The connections of one worker to one endpoint in one protocol. It must never lend a connection that is spent, nor keep one
//! whose permit somebody else has.

use std::cell::Cell;
use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use std::time::Instant;

use leno_proto::policy::ServicePort;
use tokio::sync::Notify;
use tokio::sync::oneshot;

use crate::error::Error;
use crate::error::Reason;
use crate::gate::Gate;
use crate::gate::Permit;
use crate::http::h1;
use crate::http::h1::Parting;
use crate::http::h2;
use crate::metrics;
use crate::metrics::Close;
use crate::net;
use crate::net::Io;
use crate::pool::Http1;
use crate::pool::Limits;
use crate::pool::Make;
use crate::pool::Pool;
use crate::pool::Reused;
use crate::pool::Take;
use crate::pool::Way;
use crate::pool::Wire;
use crate::pool::idle::Idle;
use crate::pool::idle::Watch;
use crate::pool::shelf;
use crate::pool::shelf::Closed;
use crate::pool::shelf::Kept;
use crate::pool::shelf::Shelf;
use crate::pool::shelf::jittered;
use crate::upstream::IdleLimit;

pub(super) struct Lane {
    target: ServicePort,
    gate: Arc<Gate>,
    limits: RefCell<Limits>,
    /// Learns how long the server lets a connection idle.
    idle_limit: RefCell<Arc<IdleLimit>>,
    /// What it said of that last, and when that was passed on.
    said: Cell<Option<(Duration, Instant)>>,
    metrics: Arc<metrics::Pool>,
    shelf: RefCell<Shelf<Idle>>,
    /// HTTP/2 connections, those included that finish their last streams.
    shared: RefCell<Vec<Shared>>,
    opening: Opening,
    /// Whether the last connection that came back went to a waiter of our own.
    kept_last: Cell<bool>,
}

struct Shared {
    client: h2::Client,
    _permit: Permit,
    born: Instant,
    dies: Option<Instant>,
    used: Cell<Instant>,
    retired: Cell<Option<Close>>,
}

/// A request's place on an HTTP/2 connection.
pub struct Stream {
    pub client: h2::Client,
    pub slot: h2::Slot,
    pub reused: bool,
}

/// At most one HTTP/2 connection is being opened at a time; who comes meanwhile shares its outcome.
#[derive(Default)]
struct Opening {
    busy: Cell<bool>,
    done: Notify,
    failure: RefCell<Option<(Reason, String)>>,
}

impl Lane {
    pub(super) fn new(way: &Way) -> Self {
        Self {
            target: way.target.clone(),
            gate: Arc::clone(&way.gate),
            limits: RefCell::new(way.limits.clone()),
            idle_limit: RefCell::new(Arc::clone(&way.idle)),
            said: Cell::new(None),
            metrics: Arc::clone(&way.metrics),
            shelf: RefCell::new(Shelf::default()),
            shared: RefCell::default(),
            opening: Opening::default(),
            kept_last: Cell::new(false),
        }
    }

    pub(super) fn is_borrowed(&self) -> bool {
        self.limits.try_borrow().is_err()
            || self.idle_limit.try_borrow().is_err()
            || self.shelf.try_borrow().is_err()
            || self.shared.try_borrow().is_err()
    }

    /// Policy may have changed since the lane was made.
    pub(super) fn obey(&self, way: &Way) {
        if !self.limits.borrow().is_same(&way.limits) {
            self.limits.replace(way.limits.clone());
        }
        if !Arc::ptr_eq(&self.idle_limit.borrow(), &way.idle) {
            self.idle_limit.replace(Arc::clone(&way.idle));
        }
    }

    /// How long a connection may have idled and still be used.
    fn usable_for(&self, now: Instant) -> Duration {
        let policy = self.limits.borrow().connection().idle_timeout;
        self.idle_limit.borrow().usable_for(policy, now)
    }

    pub(super) fn target(&self) -> &ServicePort {
        &self.target
    }

    pub(super) fn is_empty(&self) -> bool {
        self.shelf.borrow().idle() == 0 && self.shared.borrow().is_empty()
    }

    pub(super) fn take_idle(&self, now: Instant, take: Take) -> Option<Kept<Idle>> {
        let limit = self.usable_for(now);
        let old = match take {
            Take::Any => None,
            Take::Recent => self.shelf.borrow_mut().take_newest_if(|kept| kept.idle(now) >= limit.min(RECENT)),
            Take::Fresh => return None,
        };
        if let Some(old) = old {
            // The new one takes its place: the pool does not grow by it.
            self.closed_idle(vec![(old, Close::Idle)], now);
            return None;
        }
        let is_quiet = |kept: &mut Kept<Idle>| {
            let trusted = kept.requests >= PROVEN && kept.idle(now) < GLANCE;
            if trusted { kept.connection.seems_quiet() } else { kept.connection.is_quiet() }
        };
        let (kept, closed) = self.shelf.borrow_mut().take(now, limit, is_quiet);
        self.closed_idle(closed, now);
        if kept.is_some() {
            self.metrics.idle.add(-1);
        }
        kept
    }

    pub(super) fn wait(&self) -> oneshot::Receiver<Kept<Idle>> {
        self.shelf.borrow_mut().wait()
    }

    pub(super) fn lend(self: &Rc<Self>, kept: Kept<Idle>, way: &Way, reused: Reused, now: Instant) -> Http1 {
        match reused {
            Reused::Yes => way.metrics.checkouts_reused.increment(),
            Reused::No => way.metrics.checkouts_new.increment(),
        }
        way.metrics.active.add(1);
        let Kept { connection: Idle { client, mut berth }, born, dies, requests, since } = kept;
        let idled = (reused == Reused::Yes).then(|| now.saturating_duration_since(since));
        berth.out = Some(Out { lane: Rc::clone(self), born, dies, requests: requests + 1, idled });
        Http1 { client, home: berth, reused: reused == Reused::Yes }
    }

    pub(super) fn lend_new(self: &Rc<Self>, io: Io, permit: Permit, way: &Way, bell: &Arc<Notify>) -> Http1 {
        let lifetime = way.limits.connection().max_lifetime.map(|most| jittered(most, rand::random()));
        let client = h1::Client::new(io, Some(Box::new(permit)));
        let (now, berth) = (Instant::now(), Box::new(Berth { watch: Watch::new(bell), out: None }));
        self.lend(Kept::new(Idle { client, berth }, now, lifetime), way, Reused::No, now)
    }

    /// A place on the HTTP/2 connection that has the fewest streams, if there is one.
    pub(super) fn stream_at_once(self: &Rc<Self>, pool: &Pool, way: &Way, now: Instant) -> Option<Stream> {
        self.retire(now);
        let stream = self.place(now)?;
        if self.is_busy(way) && !self.opening.busy.get() {
            self.open_another(pool, way);
        }
        way.metrics.checkouts_reused.increment();
        Some(stream)
    }

    /// The same, when there is one; opens a connection where there is none.
    pub(super) async fn stream(self: &Rc<Self>, pool: &Pool, way: &Way) -> Result<Stream, Error> {
        loop {
            if let Some(stream) = self.stream_at_once(pool, way, Instant::now()) {
                return Ok(stream);
            }
            let open = self.open_connections().count();
            if self.opening.busy.get() {
                tokio::select! {
                    // Whichever is first: both are looked at again.
                    biased;
                    () = self.opening.done.notified() => {}
                    () = self.freed() => continue,
                }
                match &*self.opening.failure.borrow() {
                    Some((reason, detail)) if open == 0 => {
                        return Err(Error::Because { reason: *reason, detail: detail.clone() });
                    }
                    Some(_) | None => continue,
                }
            }
            if open >= CONNECTIONS_MAX {
                self.freed().await;
                continue;
            }
            let turn = self.opening.begin();
            let permit = tokio::select! {
                // Where the connections that are open have all permits, a stream of theirs ends sooner than one of them.
                biased;
                () = self.freed() => continue,
                // Waiting for the permit is bounded by the caller's deadline.
                permit = pool.permit(way, Instant::now() + way.limits.connection().acquire_timeout) => permit,
            };
            let opened = match permit {
                Ok(permit) => self.open(&pool.make, way, permit).await,
                Err(error) => Err(error),
            };
            turn.end(opened.as_ref().err());
            opened?;
            way.metrics.checkouts_new.increment();
            if let Some(mut stream) = self.place(Instant::now()) {
                stream.reused = false;
                return Ok(stream);
            }
        }
    }

    /// Those that take requests.
    fn open_connections(&self) -> impl Iterator<Item = h2::Client> {
        let shared = self.shared.borrow();
        let open = shared.iter().filter(|shared| shared.retired.get().is_none());
        open.map(|shared| shared.client.clone()).collect::<Vec<_>>().into_iter()
    }

    /// Until a stream has ended on any of them, or one of them has. Its place is given back at once: the caller looks again
    /// over all connections.
    async fn freed(&self) {
        let open: Vec<h2::Client> = self.open_connections().collect();
        let mut slots: Vec<_> = open.iter().map(|client| Box::pin(client.ready())).collect();
        poll_fn(|cx| match slots.iter_mut().any(|slot| slot.as_mut().poll(cx).is_ready()) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        })
        .await;
    }

    /// Large transfers keep connections to themselves as long as there is another.
    fn place(&self, now: Instant) -> Option<Stream> {
        let shared = self.shared.borrow();
        let open = shared.iter().filter(|shared| shared.retired.get().is_none());
        let with_room = open.filter(|shared| shared.client.has_room());
        let best = with_room.min_by_key(|shared| (shared.client.is_bulk(), shared.client.in_flight()))?;
        let slot = best.client.try_slot()?;
        best.used.set(now);
        Some(Stream { client: best.client.clone(), slot, reused: true })
    }

    /// Every connection carries several streams, and the server has workers that none of them reaches.
    fn is_busy(&self, way: &Way) -> bool {
        let shared = self.shared.borrow();
        let mut open = shared.iter().filter(|shared| shared.retired.get().is_none()).peekable();
        let count = open.clone().count();
        let spread = (way.parallelism.clamp(1, WORKERS_MAX) as usize).min(CONNECTIONS_MAX);
        open.peek().is_some()
            && open.all(|shared| {
                let streams = shared.client.in_flight();
                (count < spread && streams >= BUSY)
                    || (count < CONNECTIONS_MAX && streams * 10 >= shared.client.capacity() * 9)
            })
    }

    /// Nobody waits for it, so it only takes a permit that is free.
    fn open_another(self: &Rc<Self>, pool: &Pool, way: &Way) {
        let Some(permit) = way.gate.try_acquire() else { return };
        let (lane, way, make) = (Rc::clone(self), way.clone(), Rc::clone(&pool.make));
        self.opening.busy.set(true);
        tokio::task::spawn_local(async move {
            let turn = lane.opening.begin();
            let opened = lane.open(&make, &way, permit).await;
            turn.end(opened.as_ref().err());
        });
    }

    async fn open(&self, make: &Make, way: &Way, permit: Permit) -> Result<(), Error> {
        // Boxed: seldom, and as large as a handshake.
        let io = Box::pin(way.connect(make)).await?;
        let near = net::is_near(&io);
        let settings = match way.key.wire {
            Wire::Hop => {
                let pings = &way.limits.connection().http2;
                let keep_alive = h2::KeepAlive { interval: pings.ping_interval, timeout: pings.ping_timeout };
                h2::Settings { keep_alive: Some(keep_alive), near, ..make.hop.clone() }
            }
            Wire::Http1 | Wire::Http2 | Wire::HopUpgrade | Wire::HopOpaque | Wire::Opaque => {
                h2::Settings { near, ..make.plaintext.clone() }
            }
        };
        let client = h2::Client::connect(io, &settings, &make.timers);
        let now = Instant::now();
        let dies = way.limits.connection().max_lifetime.map(|most| now + jittered(most, rand::random()));
        self.metrics.active.add(1);
        self.shared.borrow_mut().push(Shared {
            client,
            _permit: permit,
            born: now,
            dies,
            used: Cell::new(now),
            retired: Cell::new(None),
        });
        Ok(())
    }

    /// Takes aside what takes no more requests, and lets go of what has finished.
    fn retire(&self, now: Instant) {
        let idle_limit = self.usable_for(now);
        self.shared.borrow_mut().retain(|shared| {
            let streams = shared.client.in_flight();
            if shared.retired.get().is_none() {
                let idle = streams == 0 && now.saturating_duration_since(shared.used.get()) >= idle_limit;
                let why = match () {
                    () if shared.client.is_closed() => Some(Close::Goaway),
                    () if shared.dies.is_some_and(|dies| now >= dies) => Some(Close::Lifetime),
                    () if idle => Some(Close::Idle),
                    () => None,
                };
                shared.retired.set(why);
                if why.is_some() {
                    shared.client.close();
                }
            }
            let done = shared.retired.get().filter(|_| streams == 0);
            if let Some(why) = done {
                self.metrics.active.add(-1);
                self.metrics.closed(why, shared.born.elapsed());
            }
            done.is_none()
        });
    }

    pub(super) fn sweep(&self, now: Instant) {
        let closed = self.shelf.borrow_mut().sweep(now, self.usable_for(now), Idle::is_quiet);
        self.closed_idle(closed, now);
        self.retire(now);
    }

    /// Lets go of the idle connections that the server has closed, as far as the poller has rung for them.
    pub(super) fn notice(&self, now: Instant) {
        if !self.shelf.borrow().any(Idle::has_rung) {
            return;
        }
        let quiet = |idle: &mut Idle| !idle.has_rung() || idle.still_quiet();
        let closed = self.shelf.borrow_mut().sweep(now, self.usable_for(now), quiet);
        self.closed_idle(closed, now);
    }

    pub(super) fn give_up(&self) -> bool {
        let given = self.shelf.borrow_mut().give_up();
        if let Some(kept) = given {
            self.closed_idle(vec![(kept, Close::Reclaimed)], Instant::now());
            return true;
        }
        let idle = {
            let shared = self.shared.borrow();
            let idle = shared.iter().find(|shared| shared.retired.get().is_none() && shared.client.in_flight() == 0);
            idle.inspect(|shared| {
                shared.client.close();
                shared.retired.set(Some(Close::Reclaimed));
            })
            .is_some()
        };
        self.retire(Instant::now());
        idle
    }

    pub(super) fn close_idle(&self, why: Close) {
        let idle = self.shelf.borrow_mut().clear();
        self.closed_idle(idle.into_iter().map(|kept| (kept, why)).collect(), Instant::now());
        for shared in self.shared.borrow().iter().filter(|shared| shared.retired.get().is_none()) {
            shared.client.close();
            shared.retired.set(Some(why));
        }
        self.retire(Instant::now());
    }

    fn closed_idle(&self, closed: Vec<Closed<Idle>>, now: Instant) {
        if let Some(limit) = shelf::limit_shown(&closed, now) {
            let way = closed.iter().map(|(kept, _)| kept.connection.round_trip()).max().unwrap_or_default();
            self.idle_limit.borrow().closed(limit, way, now);
        }
        for (kept, why) in closed {
            self.metrics.idle.add(-1);
            self.metrics.closed(why, now.saturating_duration_since(kept.born));
        }
    }

    /// What the server says about its limit, passed on when it is news or would be forgotten.
    fn heed(&self, idle: &Idle, now: Instant) {
        let Some(hint) = idle.client.idle_hint() else { return };
        let known =
            self.said.get().is_some_and(|(said, at)| said == hint && now.saturating_duration_since(at) < REMIND);
        if !known {
            self.said.set(Some((hint, now)));
            self.idle_limit.borrow().said(hint, idle.round_trip(), now);
        }
    }

    fn came_back(&self, client: h1::Client, berth: Box<Berth>, out: &Out) {
        self.metrics.active.add(-1);
        let now = Instant::now();
        let Out { born, dies, requests, .. } = *out;
        let kept = Kept { connection: Idle { client, berth }, born, dies, requests, since: now };
        self.heed(&kept.connection, now);
        if kept.is_spent(now, self.limits.borrow().connection().max_requests) {
            return self.metrics.closed(Close::Lifetime, born.elapsed());
        }
        let mut shelf = self.shelf.borrow_mut();
        let ours = shelf.waiting();
        // Others wait for the permit too, on other workers or for other endpoints: every second one goes to them.
        if self.gate.waiters() as usize > ours && (ours == 0 || self.kept_last.replace(false)) {
            drop(shelf);
            return self.metrics.closed(Close::Reclaimed, born.elapsed());
        }
        if ours > 0 {
            self.kept_last.set(true);
        } else {
            self.metrics.idle.add(1);
            kept.connection.listen();
        }
        shelf.put(kept);
    }
}

/// Where an HTTP/1 connection returns to; made once, and goes with it. Dropped while it is out, the connection is gone.
pub(super) struct Berth {
    pub(super) watch: Watch,
    out: Option<Out>,
}

/// The connection is lent.
struct Out {
    lane: Rc<Lane>,
    born: Instant,
    dies: Option<Instant>,
    requests: u32,
    /// How long it had idled, when it was lent.
    idled: Option<Duration>,
}

impl Out {
    fn lost(&self, why: Close) {
        self.lane.metrics.active.add(-1);
        self.lane.metrics.closed(why, self.born.elapsed());
    }
}

impl h1::Home for Berth {
    fn keep(mut self: Box<Self>, client: h1::Client) {
        if let Some(out) = self.out.take() {
            out.lane.came_back(client, self, &out);
        }
    }

    fn part(mut self: Box<Self>, why: Parting) {
        let Some(out) = self.out.take() else { return };
        match (why, out.idled) {
            (Parting::Unread, Some(idled)) => {
                // The race was lost, and the limit is known by it.
                out.lane.idle_limit.borrow().closed(idled, Duration::ZERO, Instant::now());
                out.lost(Close::Peer);
            }
            (Parting::Unread, None) | (Parting::Broken, _) => out.lost(Close::Error),
            (Parting::Ended, _) => out.lost(Close::Done),
        }
    }
}

impl Drop for Berth {
    fn drop(&mut self) {
        if let Some(out) = self.out.take() {
            out.lost(Close::Cancelled);
        }
    }
}

impl Opening {
    fn begin(&self) -> Turn<'_> {
        self.busy.set(true);
        self.failure.take();
        Turn(self)
    }
}

/// Dropped without an outcome (the opener was cancelled) it lets the next one try.
struct Turn<'a>(&'a Opening);

impl Turn<'_> {
    fn end(self, failure: Option<&Error>) {
        self.0.failure.replace(failure.map(|error| (error.reason(), error.to_string())));
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.busy.set(false);
        self.0.done.notify_waiters();
    }
}

/// Streams on every connection from which one more pays: below, one write carries them all.
const BUSY: usize = 4;
/// A server has no more workers than this (`worker::count`).
const WORKERS_MAX: u32 = 4;
/// No server that counts its limit in seconds closes a connection so soon.
const RECENT: Duration = Duration::from_millis(500);
/// A server that has answered so often on a connection does not close it after each answer, as some do without saying so.
const PROVEN: u32 = 8;
/// So shortly after an answer only such a server would have closed. Asking the kernel about it costs as much as a tenth of the
/// request, and would not rule it out: an end may always be on its way.
const GLANCE: Duration = Duration::from_millis(1);
/// Well before a limit is forgotten (`IdleLimit`).
const REMIND: Duration = Duration::from_secs(60);
/// With 128 streams each, more than any concurrency limit lets through by default.
const CONNECTIONS_MAX: usize = 16;
