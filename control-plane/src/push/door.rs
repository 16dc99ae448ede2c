//! The port that proxies call: TLS 1.3 with our own SPIFFE leaf, HTTP/2, and a token on every call before any of its body
//! is read. Replicas call it too, and prove themselves by certificate. It must never spend more than a bounded few kilobytes and seconds on a caller that has not proven itself.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use bytes::Bytes;
use h2::Ping;
use h2::PingPong;
use h2::RecvStream;
use h2::server::SendResponse;
use http::HeaderMap;
use http::Method;
use http::Request;
use rcgen::KeyPair;
use rustls::ServerConfig;
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::server::ClientHello;
use rustls::server::ResolvesServerCert;
use rustls::sign::CertifiedKey;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio::time::sleep;
use tokio::time::sleep_until;
use tokio::time::timeout;
use tokio::time::timeout_at;
use tokio_rustls::LazyConfigAcceptor;
use tonic::Status;

use crate::ca::Issued;
use crate::error::Error;
use crate::metrics::Metrics;
use crate::push::Control;
use crate::push::grpc;
use crate::push::grpc::Messages;
use crate::push::replica;
use crate::push::replica::Reports;
use crate::push::session::Phase;
use crate::token::Caller;
use crate::token::TokenError;
use crate::token::Verifier;

/// A proxy has one connection, two while it reconnects.
const CONNECTIONS_MAX: usize = 20_000;
/// Handshakes cost a millisecond of CPU each and come from anyone.
const HANDSHAKES_MAX: usize = 256;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// From the handshake to the first call with a good token.
const PROVE_TIMEOUT: Duration = Duration::from_secs(10);
/// A token is at most 8 KiB; nothing else that we read is large.
const HEADERS_MAX: u32 = 16 * 1024;
/// A session and a Certify at once, and a few to spare.
const STREAMS_MAX: u32 = 8;
/// What a caller may send on a stream and on the connection before we have read it, and what may wait for it to read.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 256 * 1024;
const UNREAD_MAX: usize = 256 * 1024;
/// A caller that went without a word is found by asking it, so often, and waiting for so long.
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// The calls of `leno.control.v1.Control`.
const SESSION: &str = "/leno.control.v1.Control/Session";
const CERTIFY: &str = "/leno.control.v1.Control/Certify";

/// Our own certificate, replaced while connections go on.
#[derive(Debug)]
pub struct OwnLeaf(ArcSwap<CertifiedKey>);

impl OwnLeaf {
    pub fn new(key: &KeyPair, issued: &Issued) -> Result<OwnLeaf, Error> {
        Ok(OwnLeaf(ArcSwap::from_pointee(certified(key, issued)?)))
    }

    pub fn replace(&self, key: &KeyPair, issued: &Issued) -> Result<(), Error> {
        self.0.store(Arc::new(certified(key, issued)?));
        Ok(())
    }
}

fn certified(key: &KeyPair, issued: &Issued) -> Result<CertifiedKey, Error> {
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let key = rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&key)?;
    Ok(CertifiedKey::new(issued.chain.clone(), key))
}

impl ResolvesServerCert for OwnLeaf {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

impl ResolvesClientCert for OwnLeaf {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

pub fn server_config(leaf: Arc<OwnLeaf>) -> Result<ServerConfig, Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(leaf);
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A session lasts for days: resumption would save nothing and outlive a renewed leaf.
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// What every connection needs.
pub struct Door {
    pub proxies: Arc<ServerConfig>,
    /// For callers that name `replica::ALPN`.
    pub replicas: Arc<ServerConfig>,
    pub reports: Reports,
    pub verifier: Verifier,
    pub control: Arc<Control>,
    pub metrics: Arc<Metrics>,
    pub phase: watch::Receiver<Phase>,
}

/// Accepts until this replica is closed.
pub async fn serve(door: Arc<Door>, listener: TcpListener) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    let mut phase = door.phase.clone();
    let mut closed = pin!(phase.wait_for(|phase| *phase == Phase::Closed));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = &mut closed => return,
        };
        let socket = match accepted {
            Ok((socket, _)) => socket,
            Err(error) => {
                pause_after(&error).await;
                continue;
            }
        };
        let (Ok(place), Ok(turn)) = (connections.clone().try_acquire_owned(), handshakes.clone().try_acquire_owned())
        else {
            door.metrics.connections_refused.one();
            continue;
        };
        let door = door.clone();
        tokio::spawn(async move {
            let _up = door.metrics.connections.up();
            // Boxed, as what a handshake needs is not to stay for as long as the connection does.
            let shaken = timeout(HANDSHAKE_TIMEOUT, Box::pin(shake(&door, socket))).await;
            drop(turn);
            match shaken {
                Ok(Ok(Shaken::Proxy(stream))) => Box::pin(converse(door.clone(), stream)).await,
                Ok(Ok(Shaken::Replica(stream))) => {
                    let mut phase = door.phase.clone();
                    // Boxed, as most connections are a proxy's and pay for the larger of the two.
                    let talk = Box::pin(replica::converse(door.reports.clone(), stream));
                    tokio::select! {
                        () = talk => {}
                        _ = phase.wait_for(|phase| *phase == Phase::Closed) => {}
                    }
                }
                Ok(Err(_)) | Err(_) => door.metrics.handshakes_failed.one(),
            }
            drop(place);
        });
    }
}

/// Out of descriptors the listener stays ready: without a pause we would spin.
async fn pause_after(error: &io::Error) {
    tracing::warn!("accept: {error}");
    sleep(Duration::from_millis(100)).await;
}

/// Boxed, as it passes through futures that would each keep room for it.
type TlsStream = Box<tokio_rustls::server::TlsStream<TcpStream>>;

/// Who is at the other end of a handshake that went well.
enum Shaken {
    /// Who proves itself by a token with each call.
    Proxy(TlsStream),
    /// Whose certificate says that it is what we are.
    Replica(TlsStream),
}

async fn shake(door: &Door, socket: TcpStream) -> io::Result<Shaken> {
    socket.set_nodelay(true)?;
    let hello = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), socket).await?;
    let replica = hello.client_hello().alpn().is_some_and(|mut names| names.any(|name| name == replica::ALPN));
    if replica {
        hello.into_stream(door.replicas.clone()).await.map(|stream| Shaken::Replica(Box::new(stream)))
    } else {
        hello.into_stream(door.proxies.clone()).await.map(|stream| Shaken::Proxy(Box::new(stream)))
    }
}

/// HTTP/2 until the peer leaves, proves nothing, or we close.
async fn converse(door: Arc<Door>, stream: TlsStream) {
    let mut builder = h2::server::Builder::new();
    builder
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADERS_MAX)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(UNREAD_MAX);
    let (proven, prove_by) = (Arc::new(AtomicBool::new(false)), Instant::now() + PROVE_TIMEOUT);
    let mut connection = match timeout_at(prove_by, Box::pin(builder.handshake::<_, Bytes>(stream))).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(_)) => return,
        Err(_) => return door.metrics.unauthenticated.one(),
    };
    let mut lost = pin!(lost(&door.metrics, &proven, prove_by, connection.ping_pong()));
    let mut phase = door.phase.clone();
    let mut closed = pin!(phase.wait_for(|phase| *phase == Phase::Closed));
    loop {
        // The arms are equal: each is one event. Waiting for a call is also what reads and writes for those that there are.
        tokio::select! {
            call = connection.accept() => match call {
                // It ends with its stream, and that ends with the connection at the latest.
                Some(Ok((request, respond))) => drop(tokio::spawn(answer(door.clone(), proven.clone(), request, respond))),
                Some(Err(_)) | None => return,
            },
            () = &mut lost => return,
            _ = &mut closed => break,
        }
    }
    // The sessions have just been ended; their last words still have to leave.
    connection.graceful_shutdown();
    let _ = timeout(Duration::from_secs(1), poll_fn(|cx| connection.poll_closed(cx))).await;
}

/// Returns when the caller has proven nothing for too long, or answers no more.
async fn lost(metrics: &Metrics, proven: &AtomicBool, prove_by: Instant, ping_pong: Option<PingPong>) {
    sleep_until(prove_by).await;
    if !proven.load(Ordering::Relaxed) {
        return metrics.unauthenticated.one();
    }
    // There is one for each connection.
    let Some(mut ping_pong) = ping_pong else { return };
    loop {
        sleep(PING_EVERY).await;
        let Ok(Ok(_)) = timeout(PING_TIMEOUT, ping_pong.ping(Ping::opaque())).await else { return };
    }
}

/// One call.
async fn answer(door: Arc<Door>, proven: Arc<AtomicBool>, request: Request<RecvStream>, respond: SendResponse<Bytes>) {
    let (head, body) = request.into_parts();
    // Boxed, as a session's call lasts for days after it.
    let caller = match Box::pin(authenticate(&door.verifier, &head.headers)).await {
        Ok(caller) => caller,
        // An API server that is away proves nothing against the caller, who keeps what it has and comes again.
        Err(TokenError::Unavailable(why)) => return grpc::refuse(respond, &Status::unavailable(why)),
        Err(refused) => {
            door.metrics.unauthenticated.one();
            return grpc::refuse(respond, &Status::unauthenticated(refused.to_string()));
        }
    };
    proven.store(true, Ordering::Relaxed);
    let (path, post) = (head.uri.path().to_owned(), head.method == Method::POST);
    // A head has a token in it, and is not to stay for as long as a session does.
    drop((head, proven));
    let from = Messages::new(body);
    match path.as_str() {
        SESSION if post => Box::pin(door.control.session(caller, from, respond)).await,
        CERTIFY if post => match Box::pin(door.control.certify(caller, from)).await {
            // Who is gone does not miss it.
            Ok(response) => drop(grpc::reply(respond, &response).await),
            Err(refused) => grpc::refuse(respond, &refused),
        },
        _ => grpc::refuse(respond, &Status::unimplemented("there is no such call here")),
    }
}

async fn authenticate(verifier: &Verifier, headers: &HeaderMap) -> Result<Caller, TokenError> {
    let mut values = headers.get_all(http::header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return Err(TokenError::Missing) };
    let token = value.to_str().ok().and_then(|value| value.strip_prefix("Bearer ")).ok_or(TokenError::Missing)?;
    verifier.verify(token, SystemTime::now()).await
}
