//! A connection of the application that carries no requests we may see: decided once, then copied. It must never open a
//! second connection for bytes of which some may have left.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use std::time::Instant;

use bytes::BytesMut;
use leno_proto::policy::Keepalive;
use leno_proto::select;
use rand::RngExt;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::breaker::Outcome;
use crate::ending::Ending;
use crate::error::Error;
use crate::http::ResponseLog;
use crate::local::Local;
use crate::metrics::Direction;
use crate::metrics::Tls;
use crate::net;
use crate::net::Io;
use crate::outbound::pick;
use crate::outbound::pick::Need;
use crate::outbound::place::Place;
use crate::outbound::route;
use crate::sniff::Sniff;
use crate::tcp;
use crate::tcp::Side;
use crate::tcp::first_bytes;

/// The other half of a tunnel, connected.
pub(super) struct Upstream {
    io: Io,
    read: BytesMut,
    idle: Option<Duration>,
    ending: Ending,
}

pub(super) enum Tunnelled {
    Opaque(Box<Upstream>),
    Http,
}

/// Connects and copies.
pub(super) async fn run(
    local: &Rc<Local>,
    place: Place,
    stream: TcpStream,
    early: BytesMut,
    peer: SocketAddr,
) -> Result<(), Error> {
    let upstream = open(local, &place, peer).await?;
    upstream.run(stream, early).await
}

/// Connects while the client is silent. Whoever speaks first decides: a server that does needs no declaration, and a client
/// that then sends a request is served as if nothing had happened.
pub(super) async fn speculate(
    local: &Rc<Local>,
    place: &Place,
    stream: &TcpStream,
    early: &mut BytesMut,
    peer: SocketAddr,
) -> Result<Tunnelled, Error> {
    let mut upstream = open(local, place, peer).await?;
    let Upstream { io, read, .. } = &mut upstream;
    tokio::select! {
        // Requests must not slip past as bytes, so the client is heard first.
        biased;
        sniffed = first_bytes(stream, early) => match sniffed? {
            Sniff::Http1 | Sniff::Http2 | Sniff::NeedMore => {
                upstream.ending.silence();
                Ok(Tunnelled::Http)
            }
            Sniff::Tls | Sniff::Opaque => Ok(Tunnelled::Opaque(Box::new(upstream))),
        },
        // An end or an error shows again in the copy.
        _ = io.read_buf(read) => Ok(Tunnelled::Opaque(Box::new(upstream))),
    }
}

impl Upstream {
    pub(super) async fn run(self, stream: TcpStream, early: BytesMut) -> Result<(), Error> {
        let Self { mut io, read, idle, mut ending } = self;
        ending.count();
        let mut client = Io::Tcp(stream);
        let client = Side { io: &mut client, read: early };
        let upstream = Side { io: &mut io, read };
        let copied = tcp::copy(client, upstream, idle, |cx| ending.poll_cut(cx)).await;
        ending.copied(copied);
        Ok(())
    }
}

/// A connection to one of the place's endpoints; those that cannot be reached are passed over, as nothing has been sent.
async fn open(local: &Rc<Local>, place: &Place, peer: SocketAddr) -> Result<Upstream, Error> {
    let mut ending = Ending::connection(local, Direction::Outbound, peer);
    ending.service = place.label();
    let (target, policy) = match place {
        Place::Outside(address) => return outside(local, *address, ending).await,
        Place::Workload { target, .. } => (target.clone(), target.policy.clone()),
        Place::Service { service, name } => {
            let port = service.port(name.port).ok_or_else(|| Error::NoEndpoints(name.clone()))?;
            match select::select_tcp(&port.policy) {
                None => (port.own.clone(), port.policy.policy.clone()),
                Some(selected) => {
                    ending.route = selected.route.origin.clone();
                    let dice = local.dice.borrow_mut().random();
                    let backend = select::choose(&selected.rule.backends, dice).filter(|backend| backend.resolved);
                    let target = backend.and_then(|backend| port.target(backend));
                    let target = target.cloned().ok_or_else(|| Error::NoRoute(name.clone()))?;
                    (target, selected.rule.policy.clone())
                }
            }
        }
    };
    ending.service = target.label.clone();
    let connection = &target.policy.connection;
    let deadline = Instant::now() + connection.acquire_timeout;
    let hash = route::hash_of_source(&target.policy, peer.ip());
    let mut tried = Vec::new();
    loop {
        let choice = pick::pick(local, &target, &tried, Instant::now(), hash)?;
        let way = pick::way(local, &target, choice.member(), Need::Bytes);
        ending.tries += 1;
        ending.endpoint = Some(way.key.address);
        ending.tls = if way.key.identity.is_some() { Tls::Mtls } else { Tls::Plaintext };
        let opened = local.pool.open(&way, deadline).await;
        let outcome = if opened.is_ok() { Outcome::Success } else { Outcome::TransportFailure };
        pick::record(local, &target, &choice, outcome, None, Instant::now());
        match opened {
            Ok(opened) => {
                ending.keep(opened.guard);
                ending.keep(choice);
                if let Some(most) = policy.timeouts.max_stream_duration {
                    ending.last_at_most(most);
                }
                let idle = policy.timeouts.stream_idle;
                return Ok(Upstream { io: opened.io, read: BytesMut::new(), idle, ending });
            }
            Err(error) if ending.tries > policy.retries.attempts => {
                ending.silence();
                return Err(error);
            }
            Err(_) if policy.retries.different_endpoint => tried.push(choice.index()),
            Err(_) => {}
        }
    }
}

/// Out of the mesh, to exactly where the application meant.
async fn outside(local: &Rc<Local>, address: SocketAddr, mut ending: Ending) -> Result<Upstream, Error> {
    if local.leads_back(address) {
        ending.silence();
        return Err(Error::Loop(address));
    }
    ending.endpoint = Some(address);
    let connected = match tokio::time::timeout(OUTSIDE_TIMEOUT, net::connect(address, &OUTSIDE_KEEPALIVE)).await {
        Ok(connected) => connected.map_err(|source| Error::Connect { address, source }),
        Err(_) => Err(Error::ConnectTimeout { address, after: OUTSIDE_TIMEOUT }),
    };
    match connected {
        Ok(stream) => Ok(Upstream { io: Io::Tcp(stream), read: BytesMut::new(), idle: None, ending }),
        Err(error) => {
            ending.silence();
            Err(error)
        }
    }
}

/// Egress may take longer than the mesh (TrafficPolicy `connection.connectTimeout`).
const OUTSIDE_TIMEOUT: Duration = Duration::from_secs(5);
const OUTSIDE_KEEPALIVE: Keepalive =
    Keepalive { idle: Duration::from_secs(60), interval: Duration::from_secs(10), probes: 3 };
