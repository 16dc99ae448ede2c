//! The inbound story: what arrives for the application, from accept to the last byte of each answer. It must never reach the
//! application without a `Permit`, nor take a stranger's word for who it is.

mod app;
pub(crate) mod request;
mod tunnel;

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use leno_proto::authorize;
use leno_proto::identity::SpiffeId;
use leno_proto::policy::Inbound;
use leno_proto::policy::InboundPort;
use leno_proto::policy::Protocol;
use leno_proto::policy::TlsMode;
use rand::RngExt;
use tokio::net::TcpStream;

use crate::drain::Phase;
use crate::drain::Times;
use crate::ending::Ending;
use crate::error::Error;
use crate::error::Reason;
use crate::http::End;
use crate::http::ResponseLog;
use crate::http::h1;
use crate::http::h1::Stream;
use crate::http::h2;
use crate::inbound::request::Requests;
use crate::local::Local;
use crate::metrics::Direction;
use crate::metrics::Tls;
use crate::net;
use crate::net::Early;
use crate::net::Io;
use crate::sniff::Sniff;
use crate::tcp;
use crate::tls::Alpn;
use crate::tls::TlsError;
use crate::tls::hello;
use crate::tls::hello::Sniffed;
use crate::worker::Accepted;
use crate::worker::Front;

/// Who called which port.
#[derive(Clone)]
pub(crate) struct Caller {
    pub(crate) address: SocketAddr,
    /// Proven by mTLS.
    pub(crate) identity: Option<SpiffeId>,
    /// The application's own address and port.
    pub(crate) app: SocketAddr,
}

/// The life of one connection for the application.
pub async fn serve(local: Rc<Local>, accepted: Accepted) {
    let Accepted { stream, peer, front, seat: _seat } = accepted;
    let mut ending = Ending::connection(&local, Direction::Inbound, peer);
    let outcome = match net::adopt(stream) {
        Ok((stream, early)) => connection(&local, stream, early, peer, &front, &mut ending).await,
        Err(error) => Err(Error::Because { reason: Reason::ClientGone, detail: error.to_string() }),
    };
    match outcome {
        // Its requests, or its tunnel, have told their own ends.
        Ok(()) => ending.silence(),
        Err(error) => {
            local.shared.metrics.proxy.connection_failures.increment(error.reason());
            ending.failed(error.reason(), error.to_string());
            ending.ended(End { cut: Some(error.reason()), ..End::default() });
        }
    }
}

async fn connection(
    local: &Rc<Local>,
    stream: TcpStream,
    mut early: BytesMut,
    peer: SocketAddr,
    front: &Front,
    ending: &mut Ending,
) -> Result<(), Error> {
    let app = application(local, &stream, front)?;
    ending.service = app.port().to_string().into();
    let policy = policy(local, app.port())?;
    let caller = Caller { address: peer, identity: None, app };
    let port = policy.port();
    let clients = Arc::clone(&local.app(app.port(), &port.policy).clients);
    let Some(_place) = clients.try_acquire() else {
        let detail = format!("{} connections are open, as many as policy allows", clients.limit());
        return Err(Error::Because { reason: Reason::FdLimit, detail });
    };
    if port.policy.tls == TlsMode::Off {
        return Box::pin(plaintext(local, stream, early, caller, &policy)).await;
    }
    let silence = if policy.may_be_opaque() && port.policy.tls == TlsMode::Permissive {
        SILENCE
    } else {
        port.policy.timeouts.detect
    };
    match tokio::time::timeout(silence, hello(&stream, &mut early)).await {
        Ok(hello) => match hello? {
            Some(hello) if hello.leno => mesh(local, stream, early, caller, &policy, ending).await,
            // TLS of the application's own passes as bytes, where bytes may pass.
            Some(_) | None if port.policy.tls == TlsMode::Strict => {
                Err(refused("the port takes the mesh's mTLS alone"))
            }
            // Boxed: the mesh's own connections, of which there are thousands, must not be as large as these.
            Some(_) | None => Box::pin(plaintext(local, stream, early, caller, &policy)).await,
        },
        Err(_) if port.policy.tls == TlsMode::Strict || !policy.may_be_opaque() => {
            let detail = format!("nothing was said in {silence:?}");
            Err(Error::Because { reason: Reason::DetectTimeout, detail })
        }
        // Not the mesh: its sidecars speak at once. Perhaps the application speaks first.
        Err(_) => Box::pin(tunnel::speculate(local, stream, early, caller, &policy)).await,
    }
}

fn refused(detail: &str) -> Error {
    Error::Because { reason: Reason::PlaintextRefused, detail: detail.to_owned() }
}

/// Which address of the application this is for.
fn application(local: &Local, stream: &TcpStream, front: &Front) -> Result<SocketAddr, Error> {
    let listened = || stream.local_addr().unwrap_or(([0, 0, 0, 0], 0).into());
    match front {
        Front::InboundTo(app) => Ok(*app),
        Front::Inbound => {
            let app = net::original_destination(stream).ok_or_else(|| Error::Loop(listened()))?;
            // Only what is ours: a packet that was routed here for somebody else must not find an open relay.
            match local.leads_back(app) || !local.is_own(app.ip()) {
                true => Err(Error::Loop(app)),
                false => Ok(app),
            }
        }
        Front::Outbound | Front::OutboundTo(_) => Err(Error::Loop(listened())),
    }
}

/// The policy of one port, as of one snapshot.
pub(crate) struct PortPolicy {
    inbound: Arc<Inbound>,
    /// Position in `inbound.ports`; `None`: `inbound.other`.
    index: Option<usize>,
}

/// Without any policy yet nothing is forwarded.
pub(crate) fn policy(local: &Local, port: u16) -> Result<PortPolicy, Error> {
    let inbound = local.snapshot().inbound.clone().ok_or_else(|| Error::Because {
        reason: Reason::UnknownPort,
        detail: "this proxy has no inbound policy yet".to_owned(),
    })?;
    let index = inbound.ports.iter().position(|declared| declared.port == port);
    Ok(PortPolicy { inbound, index })
}

impl PortPolicy {
    pub(crate) fn port(&self) -> &InboundPort {
        match self.index {
            Some(index) => &self.inbound.ports[index],
            None => &self.inbound.other,
        }
    }

    /// A port with any rule about requests never falls back to bytes.
    pub(crate) fn may_be_opaque(&self) -> bool {
        !authorize::has_layer7(&self.port().access)
            && matches!(self.port().protocol, Protocol::Detect | Protocol::Opaque | Protocol::Tls)
    }
}

/// The mesh's own TLS: the other end is a sidecar, and proves whose.
async fn mesh(
    local: &Rc<Local>,
    stream: TcpStream,
    early: BytesMut,
    mut caller: Caller,
    policy: &PortPolicy,
    ending: &mut Ending,
) -> Result<(), Error> {
    let timeouts = &policy.port().policy.timeouts;
    // Boxed: it must not stay as large as a handshake.
    let handshake = Box::pin(async move { local.shared.tls.accept(stream, &early).await });
    let (io, peer) = match tokio::time::timeout(timeouts.tls_handshake, handshake).await {
        Ok(accepted) => accepted.map_err(|TlsError { reason, message }| Error::Because { reason, detail: message })?,
        Err(_) => {
            let detail = format!("the TLS handshake was not done in {:?}", timeouts.tls_handshake);
            return Err(Error::Because { reason: Reason::HeaderTimeout, detail });
        }
    };
    local.shared.metrics.proxy.handshakes.increment();
    ending.client_identity = Some(peer.identity.text());
    ending.tls = Tls::Mtls;
    caller.identity = Some(peer.identity);
    match peer.alpn {
        Alpn::H2 => {
            let traffic = &policy.port().policy;
            let settings = h2::Settings {
                streams: traffic.hop_streams,
                header_list: traffic.headers_max_bytes,
                early_resets: traffic.reset_limit,
                near: net::is_near(&io),
                idle: Some(traffic.timeouts.idle),
                body_idle: Some(traffic.timeouts.request_body_idle),
                ..h2::Settings::hop(local.shared.ledger.clone())
            };
            let requests = Rc::new(Requests::new(local, caller));
            Error::of_http2(h2::serve(io, &settings, requests, &local.timers, drained(local, policy)).await)
        }
        Alpn::H1 => Box::pin(http1(local, Stream::from(io), caller, policy)).await,
        Alpn::Tcp => Box::pin(tunnel::run(local, io, BytesMut::new(), caller, policy)).await,
    }
}

/// From outside the mesh, or a port without our TLS.
async fn plaintext(
    local: &Rc<Local>,
    stream: TcpStream,
    mut early: BytesMut,
    caller: Caller,
    policy: &PortPolicy,
) -> Result<(), Error> {
    let port = policy.port();
    if matches!(port.protocol, Protocol::Opaque | Protocol::Tls) && policy.may_be_opaque() {
        return Box::pin(tunnel::run(local, Io::Tcp(stream), early, caller, policy)).await;
    }
    let silence = if policy.may_be_opaque() { SILENCE } else { port.policy.timeouts.detect };
    let sniffed = match tokio::time::timeout(silence, tcp::first_bytes(&stream, &mut early)).await {
        Ok(sniffed) => sniffed?,
        Err(_) if policy.may_be_opaque() => {
            return Box::pin(tunnel::speculate(local, stream, early, caller, policy)).await;
        }
        Err(_) => {
            let detail = format!("no protocol was recognised in {silence:?}");
            return Err(Error::Because { reason: Reason::DetectTimeout, detail });
        }
    };
    sniffed_plaintext(local, stream, early, caller, policy, sniffed).await
}

async fn sniffed_plaintext(
    local: &Rc<Local>,
    stream: TcpStream,
    early: BytesMut,
    caller: Caller,
    policy: &PortPolicy,
    sniffed: Sniff,
) -> Result<(), Error> {
    match sniffed {
        Sniff::Http1 | Sniff::NeedMore => {
            http1(local, Stream { io: Io::Tcp(stream), read: early }, caller, policy).await
        }
        Sniff::Http2 => {
            let (io, traffic) = (Io::Tcp(stream), &policy.port().policy);
            let settings = h2::Settings {
                streams: traffic.plaintext_streams,
                header_list: traffic.headers_max_bytes,
                early_resets: traffic.reset_limit,
                near: net::is_near(&io),
                idle: Some(traffic.timeouts.idle),
                body_idle: Some(traffic.timeouts.request_body_idle),
                ..h2::Settings::plaintext(local.shared.ledger.clone())
            };
            let requests = Rc::new(Requests::new(local, caller));
            let io = Early::new(io, early);
            Error::of_http2(h2::serve(io, &settings, requests, &local.timers, drained(local, policy)).await)
        }
        Sniff::Tls | Sniff::Opaque if policy.may_be_opaque() => {
            Box::pin(tunnel::run(local, Io::Tcp(stream), early, caller, policy)).await
        }
        Sniff::Tls | Sniff::Opaque => {
            let detail = "bytes that are no request, on a port with rules about requests".to_owned();
            Err(Error::Because { reason: Reason::OpaqueDenied, detail })
        }
    }
}

async fn http1(local: &Rc<Local>, stream: Stream, caller: Caller, policy: &PortPolicy) -> Result<(), Error> {
    let settings = h1::ServerSettings::from(&*policy.port().policy);
    let requests = Requests::new(local, caller);
    let served = h1::serve(stream, &settings, &requests, drained(local, policy)).await;
    tcp::served(served).await;
    Ok(())
}

/// When this connection is told to go elsewhere: the proxy drains, or it has reached its age, which differs by a tenth either
/// way so that connections opened together do not end together.
fn drained(local: &Local, policy: &PortPolicy) -> impl Future<Output = ()> + 'static {
    let mut drain = local.shared.drain.clone();
    let spread = local.dice.borrow_mut().random_range(0.9..1.1);
    // A drain tells its clients one after the other, so that they do not all come back elsewhere at one moment.
    let notice = Times::from_grace(policy.inbound.grace).notice(&mut *local.dice.borrow_mut());
    let timers = local.timers.clone();
    let age = policy.port().policy.max_age.map(|age| age.mul_f64(spread));
    let old = age.map(|age| local.timers.sleep(age));
    async move {
        let told = async {
            drain.reached(Phase::Draining).await;
            tokio::select! {
                biased;
                () = drain.reached(Phase::Leaving) => {}
                () = timers.sleep(notice) => {}
            }
        };
        match old {
            None => told.await,
            Some(old) => tokio::select! {
                // Both end the same way.
                biased;
                () = told => {}
                () = old => {}
            },
        }
    }
}

/// Reads until it shows whether this is TLS, and whose.
async fn hello(stream: &TcpStream, early: &mut BytesMut) -> Result<Option<hello::Hello>, Error> {
    loop {
        match hello::client_hello(early) {
            Sniffed::Hello(hello) => return Ok(Some(hello)),
            Sniffed::NotTls => return Ok(None),
            Sniffed::NeedMore => {}
        }
        // Whatever it is that has ended there.
        if !tcp::more(stream, early).await? {
            return Ok(None);
        }
    }
}

/// A client that is silent for this long may be waiting for the application to speak (CONTRACTS section 8).
const SILENCE: Duration = Duration::from_millis(100);
/// Nothing moved either way in a tunnel. The client's sidecar has a limit of its own, by its TrafficPolicy
/// (`timeouts.streamIdle`); this one only ends what nobody ends.
const TUNNEL_IDLE: Duration = Duration::from_secs(24 * 3600);
