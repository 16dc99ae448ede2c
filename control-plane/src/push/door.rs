//! The port that proxies call: TLS 1.3 with our own SPIFFE leaf, HTTP/2, and a token on every call before any of its body
//! is read. Replicas call it too, and prove themselves by certificate. It must never spend more than a bounded few kilobytes and seconds on a caller that has not proven itself.

use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use http::HeaderMap;
use hyper::body::Incoming;
use hyper_util::rt::TokioExecutor;
use hyper_util::rt::TokioIo;
use hyper_util::rt::TokioTimer;
use leno_proto::wire::control::control_server::ControlServer;
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
use tokio::time::sleep;
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service as _;

use crate::ca::Issued;
use crate::error::Error;
use crate::metrics::Metrics;
use crate::push::Control;
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
    pub control: ControlServer<Control>,
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
                    tokio::select! {
                        () = replica::converse(door.reports.clone(), stream) => {}
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

type TlsStream = tokio_rustls::server::TlsStream<TcpStream>;

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
        hello.into_stream(door.replicas.clone()).await.map(Shaken::Replica)
    } else {
        hello.into_stream(door.proxies.clone()).await.map(Shaken::Proxy)
    }
}

/// HTTP/2 until the peer leaves, proves nothing, or we close.
async fn converse(door: Arc<Door>, stream: TlsStream) {
    let proven = Arc::new(AtomicBool::new(false));
    let service = {
        let (door, proven) = (door.clone(), proven.clone());
        hyper::service::service_fn(move |request| answer(door.clone(), proven.clone(), request))
    };
    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADERS_MAX)
        .initial_stream_window_size(64 * 1024)
        .initial_connection_window_size(256 * 1024)
        .max_send_buf_size(256 * 1024)
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(10));
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut phase = door.phase.clone();
    tokio::select! {
        _ = connection.as_mut() => return,
        () = async { sleep(PROVE_TIMEOUT).await; if proven.load(Ordering::Relaxed) { std::future::pending().await } } => {
            door.metrics.unauthenticated.one();
            return;
        }
        _ = phase.wait_for(|phase| *phase == Phase::Closed) => {}
    }
    // The sessions have just been ended; their last words still have to leave.
    connection.as_mut().graceful_shutdown();
    let _ = timeout(Duration::from_secs(1), connection).await;
}

async fn answer(
    door: Arc<Door>,
    proven: Arc<AtomicBool>,
    mut request: http::Request<Incoming>,
) -> Result<http::Response<Body>, Infallible> {
    // Boxed, as a session's call lasts for days after it.
    match Box::pin(authenticate(&door.verifier, request.headers())).await {
        Ok(caller) => {
            proven.store(true, Ordering::Relaxed);
            request.extensions_mut().insert(caller);
            door.control.clone().call(request).await
        }
        // An API server that is away proves nothing against the caller, who keeps what it has and comes again.
        Err(TokenError::Unavailable(why)) => Ok(Status::unavailable(why).into_http()),
        Err(refused) => {
            door.metrics.unauthenticated.one();
            Ok(Status::unauthenticated(refused.to_string()).into_http())
        }
    }
}

async fn authenticate(verifier: &Verifier, headers: &HeaderMap) -> Result<Caller, TokenError> {
    let mut values = headers.get_all(http::header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return Err(TokenError::Missing) };
    let token = value.to_str().ok().and_then(|value| value.strip_prefix("Bearer ")).ok_or(TokenError::Missing)?;
    verifier.verify(token, SystemTime::now()).await
}
