//! TLS between sidecars and towards the control plane: TLS 1.3 only, X25519MLKEM768 first, both sides proven by SPIFFE id.
//! It must never accept a peer whose identity it did not check against what it was told to expect, resumed or not.
//!
//! Keys, chain and anchors of one moment are a `Material`, swapped as one. Everything that can resume a session (tickets,
//! client caches) belongs to its material, so that no session outlives the trust or the certificate under which it began.

pub mod hello;
mod known;
mod verify;

#[cfg(test)]
pub(crate) mod tests;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::LazyLock;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use leno_proto::identity::SpiffeId;
use parking_lot::Mutex;
use rustls::AlertDescription;
use rustls::CertificateError;
use rustls::ClientConfig;
use rustls::CommonState;
use rustls::HandshakeKind;
use rustls::ServerConfig;
use rustls::client::ClientSessionMemoryCache;
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::ServerName;
use rustls::pki_types::UnixTime;
use rustls::server::Accepted;
use rustls::server::Acceptor;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::server::TlsStream;

use crate::error::Reason;
use crate::net::Io;
use crate::net::big_read::BigRead;
use crate::tls::hello::Sniffed;
pub use crate::tls::verify::Trust;

/// What flows inside a hop connection (CONTRACTS section 7). Any other ALPN belongs to the application.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Alpn {
    /// Requests, multiplexed.
    H2,
    /// Upgrades, one connection each.
    H1,
    /// Opaque bytes.
    Tcp,
}

impl Alpn {
    pub const ALL: [Self; 3] = [Self::H2, Self::H1, Self::Tcp];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::H2 => "leno/h2",
            Self::H1 => "leno/h1",
            Self::Tcp => "leno/tcp",
        }
    }

    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|alpn| alpn.as_str().as_bytes() == bytes)
    }
}

/// Who this proxy is: its key and the chain that the control plane signed.
#[derive(Clone)]
pub struct Identity {
    pub id: SpiffeId,
    /// Leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// PKCS#8.
    pub key: Arc<PrivateKeyDer<'static>>,
    pub not_before_unix: i64,
    pub not_after_unix: i64,
}

/// The other end of a connection, proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    pub identity: SpiffeId,
    pub alpn: Alpn,
    pub resumed: bool,
}

/// A handshake that failed: why for the machine, and why for a person.
#[derive(Debug, Clone)]
pub struct TlsError {
    pub reason: Reason,
    pub message: String,
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason.as_str(), self.message)
    }
}

impl std::error::Error for TlsError {}

/// The TLS of one proxy, shared by all workers.
#[derive(Default)]
pub struct Tls {
    material: ArcSwapOption<Material>,
    /// What the next material is made of, and how many there were.
    parts: Mutex<Parts>,
}

#[derive(Default)]
struct Parts {
    identity: Option<Arc<Identity>>,
    trust: Option<Arc<Trust>>,
    generation: u64,
}

/// Key, chain and anchors of one generation, with the configurations made of them.
struct Material {
    generation: u64,
    identity: Arc<Identity>,
    trust: Arc<Trust>,
    server: Arc<ServerConfig>,
    clients: Mutex<HashMap<(SpiffeId, Alpn), Arc<ClientConfig>>>,
}

impl Tls {
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// A new key and chain: connections that begin from now on use it, and sessions of the old one are not resumed.
    pub fn set_identity(&self, identity: Identity) -> Result<(), TlsError> {
        let mut parts = self.parts.lock();
        let before = parts.identity.replace(Arc::new(identity));
        self.rebuild(&mut parts).inspect_err(|_| parts.identity = before)
    }

    /// New anchors: the same.
    pub fn set_trust(&self, trust: Trust) -> Result<(), TlsError> {
        let mut parts = self.parts.lock();
        let before = parts.trust.replace(Arc::new(trust));
        self.rebuild(&mut parts).inspect_err(|_| parts.trust = before)
    }

    fn rebuild(&self, parts: &mut Parts) -> Result<(), TlsError> {
        let (Some(identity), Some(trust)) = (&parts.identity, &parts.trust) else { return Ok(()) };
        let server = server_config(identity, trust)?;
        parts.generation += 1;
        self.material.store(Some(Arc::new(Material {
            generation: parts.generation,
            identity: Arc::clone(identity),
            trust: Arc::clone(trust),
            server: Arc::new(server),
            clients: Mutex::default(),
        })));
        Ok(())
    }

    /// Rises with every new key, chain or bundle; 0 while there is no identity or no trust.
    pub fn generation(&self) -> u64 {
        self.material.load().as_ref().map_or(0, |material| material.generation)
    }

    pub fn identity(&self) -> Option<Arc<Identity>> {
        self.parts.lock().identity.clone()
    }

    pub fn trust(&self) -> Option<Arc<Trust>> {
        self.parts.lock().trust.clone()
    }

    fn current(&self) -> Result<Arc<Material>, TlsError> {
        self.material.load_full().ok_or_else(|| TlsError {
            reason: Reason::NoCertificate,
            message: "this proxy has no certificate or no trust bundle yet".into(),
        })
    }

    /// Terminates the mesh's TLS. `head` is what was already read (not peeked) from the stream, if anything. A connection
    /// that is not the mesh's own is refused; whoever may pass it on asks `hello::client_hello` first.
    pub async fn accept(&self, mut stream: TcpStream, head: &[u8]) -> Result<(Io, Peer), TlsError> {
        let material = self.current()?;
        let accepted = read_hello(&mut stream, head).await?;
        let ours = accepted.client_hello().alpn().is_some_and(|mut all| all.any(|one| Alpn::from_bytes(one).is_some()));
        if !ours {
            return Err(TlsError { reason: Reason::PlaintextRefused, message: "TLS, but not the mesh's".into() });
        }
        let start = tokio_rustls::StartHandshake::from_parts(accepted, BigRead::new(stream));
        let shaken = start.into_stream(Arc::clone(&material.server)).into_fallible().await;
        let mut stream: TlsStream<BigRead<TcpStream>> = match shaken {
            Ok(stream) => stream,
            Err((error, stream)) => {
                hear_out(stream).await;
                return Err(failed(&error, "handshake", Reason::ClientGone));
            }
        };
        let peer = material.peer(stream.get_ref().1, verify::Usage::Client, None)?;
        stream.get_mut().1.set_buffer_limit(Some(SENDABLE));
        Ok((Io::TlsServer(Box::new(stream)), peer))
    }

    /// Proves that the other end is `expected`, and who we are. In TLS 1.3 the server judges us only after this returns:
    /// its refusal shows at the first read (`refusal`).
    pub async fn connect(&self, stream: TcpStream, expected: &SpiffeId, alpn: Alpn) -> Result<(Io, Peer), TlsError> {
        let material = self.current()?;
        let config = material.client(expected, alpn)?;
        // Not verified and not sent: only the name under which the session cache keeps this address's tickets.
        let address = stream.peer_addr().map_err(|error| failed(&error, "connect", Reason::TlsIdentity))?;
        let name = ServerName::IpAddress(address.ip().into());
        let mut stream = TlsConnector::from(config)
            .connect(name, BigRead::new(stream))
            .await
            .map_err(|error| failed(&error, expected.as_str(), Reason::TlsIdentity))?;
        let peer = material.peer(stream.get_ref().1, verify::Usage::Server, Some(expected))?;
        if peer.alpn != alpn {
            let message = format!("{} answered {} to {}", expected.as_str(), peer.alpn.as_str(), alpn.as_str());
            return Err(TlsError { reason: Reason::TlsIdentity, message });
        }
        stream.get_mut().1.set_buffer_limit(Some(SENDABLE));
        Ok((Io::TlsClient(Box::new(stream)), peer))
    }
}

impl Material {
    /// One configuration per expected identity and protocol; all workers share it and its resumable sessions.
    fn client(&self, expected: &SpiffeId, alpn: Alpn) -> Result<Arc<ClientConfig>, TlsError> {
        let mut clients = self.clients.lock();
        if let Some(config) = clients.get(&(expected.clone(), alpn)) {
            return Ok(Arc::clone(config));
        }
        if clients.len() >= CLIENT_CONFIGS_MAX {
            // Only cached sessions are lost; the connections that run keep theirs.
            clients.clear();
        }
        let config = client_config(&self.trust, expected, Some(&self.identity), alpn.as_str())?;
        clients.insert((expected.clone(), alpn), Arc::clone(&config));
        Ok(config)
    }

    /// Rustls verifies chains in full handshakes only; a resumed one carries the certificates of the first, which are
    /// judged again, because they may have expired since.
    fn peer(&self, state: &CommonState, usage: verify::Usage, expected: Option<&SpiffeId>) -> Result<Peer, TlsError> {
        let resumed = state.handshake_kind() == Some(HandshakeKind::Resumed);
        let (leaf, intermediates) = state.peer_certificates().and_then(<[_]>::split_first).ok_or_else(|| TlsError {
            reason: Reason::NoCertificate,
            message: "the peer showed no certificate".into(),
        })?;
        let chain = verify::Chain { leaf, intermediates };
        let identity = if resumed {
            self.trust.verify(chain, usage, expected, UnixTime::now()).map_err(|error| {
                let error = rustls::Error::InvalidCertificate(error);
                TlsError { reason: reason(&error), message: format!("resumed session: {error}") }
            })?
        } else {
            verify::identity(chain).map_err(|why| TlsError { reason: Reason::TlsWrongIdentity, message: why.into() })?
        };
        let alpn = state.alpn_protocol().and_then(Alpn::from_bytes).ok_or_else(|| TlsError {
            reason: Reason::TlsIdentity,
            message: "the peer chose no protocol of the mesh".into(),
        })?;
        Ok(Peer { identity, alpn, resumed })
    }
}

/// Reads until the ClientHello is whole; the caller bounds the time.
async fn read_hello(stream: &mut TcpStream, head: &[u8]) -> Result<Accepted, TlsError> {
    let mut acceptor = Acceptor::default();
    let mut seen = head.to_vec();
    feed(&mut acceptor, head)?;
    let mut buffer = [0; 4096];
    loop {
        // Ours is stricter and knows plaintext; rustls' own parser has the last word.
        match hello::client_hello(&seen) {
            Sniffed::NotTls => {
                return Err(TlsError { reason: Reason::PlaintextRefused, message: "plaintext on a mesh port".into() });
            }
            Sniffed::NeedMore => {}
            Sniffed::Hello(_) => match acceptor.accept() {
                Ok(Some(accepted)) => return Ok(accepted),
                Ok(None) => {}
                Err((error, mut alert)) => {
                    let mut bytes = Vec::new();
                    let _ = alert.write_all(&mut bytes);
                    let _ = stream.try_write(&bytes);
                    return Err(TlsError { reason: reason(&error), message: error.to_string() });
                }
            },
        }
        let count = stream.read(&mut buffer).await.map_err(|error| failed(&error, "handshake", Reason::ClientGone))?;
        if count == 0 {
            let message = "the client closed before its hello was complete".into();
            return Err(TlsError { reason: Reason::ClientGone, message });
        }
        seen.extend_from_slice(&buffer[..count]);
        feed(&mut acceptor, &buffer[..count])?;
    }
}

/// Ends a connection whose client was refused. It may have spoken already: closing over unread bytes resets the connection,
/// and a reset overtakes the alert that says why.
async fn hear_out(mut stream: BigRead<TcpStream>) {
    let heard = async {
        let _ = stream.shutdown().await;
        let mut discard = [0; 4096];
        for _ in 0..REFUSED_MAX / discard.len() {
            if !matches!(stream.read(&mut discard).await, Ok(1..)) {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(REFUSED_TIME, heard).await;
}

fn feed(acceptor: &mut Acceptor, mut bytes: &[u8]) -> Result<(), TlsError> {
    while !bytes.is_empty() {
        let taken = acceptor.read_tls(&mut bytes).map_err(|error| failed(&error, "handshake", Reason::ClientGone))?;
        if taken == 0 {
            let message = "the hello is longer than its own length says".into();
            return Err(TlsError { reason: Reason::TlsIdentity, message });
        }
    }
    Ok(())
}

fn server_config(identity: &Identity, trust: &Arc<Trust>) -> Result<ServerConfig, TlsError> {
    let verifier = Arc::new(verify::KnownClient { trust: Arc::clone(trust) });
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .and_then(|builder| {
            builder
                .with_client_cert_verifier(verifier)
                .with_single_cert(identity.chain.clone(), identity.key.clone_key())
        })
        .map_err(|error| unusable(&error))?;
    config.alpn_protocols = Alpn::ALL.map(|alpn| alpn.as_str().as_bytes().to_vec()).into();
    // Tickets of its own, so that what another generation issued is not accepted; and no 0-RTT, which can be replayed.
    config.ticketer = aws_lc_rs::Ticketer::new().map_err(|error| unusable(&error))?;
    config.max_early_data_size = 0;
    // A connection uses one up and gets one back.
    config.send_tls13_tickets = 1;
    // Our own order: the first suite's hash is done in hardware, the second one's is not.
    config.ignore_client_order = true;
    Ok(config)
}

fn client_config(
    trust: &Arc<Trust>,
    expected: &SpiffeId,
    identity: Option<&Identity>,
    alpn: &str,
) -> Result<Arc<ClientConfig>, TlsError> {
    let verifier = Arc::new(verify::ExpectServer { trust: Arc::clone(trust), expected: expected.clone() });
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| unusable(&error))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match identity {
        Some(identity) => builder
            .with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())
            .map_err(|error| unusable(&error))?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    config.enable_sni = false;
    config.enable_early_data = false;
    config.resumption = Resumption::store(Arc::new(ClientSessionMemoryCache::new(SESSIONS_MAX)));
    Ok(Arc::new(config))
}

/// Towards the control plane: it proves its identity by certificate, we prove ours by token.
pub fn control_plane(trust: &Arc<Trust>, expected: &SpiffeId) -> Result<Arc<ClientConfig>, TlsError> {
    client_config(trust, expected, None, "h2")
}

/// The SPIFFE id that a chain names; nothing is verified.
///
/// # Errors
/// There is no leaf, or it does not have exactly one URI SAN with a SPIFFE id.
pub fn identity_of(chain: &[CertificateDer<'_>]) -> Result<SpiffeId, String> {
    let (leaf, intermediates) = chain.split_first().ok_or("the chain is empty")?;
    Ok(verify::identity(verify::Chain { leaf, intermediates })?)
}

fn unusable(error: &rustls::Error) -> TlsError {
    TlsError { reason: Reason::NoCertificate, message: format!("own key and certificate cannot be used: {error}") }
}

/// The cryptography of every handshake: TLS 1.3 suites, and the hybrid key exchange first so that recorded traffic stays
/// closed to a later quantum computer.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        use rustls::crypto::aws_lc_rs::cipher_suite as suite;
        use rustls::crypto::aws_lc_rs::kx_group as group;
        Arc::new(CryptoProvider {
            cipher_suites: vec![
                suite::TLS13_AES_128_GCM_SHA256,
                suite::TLS13_AES_256_GCM_SHA384,
                suite::TLS13_CHACHA20_POLY1305_SHA256,
            ],
            kx_groups: vec![group::X25519MLKEM768, group::X25519, group::SECP256R1],
            ..aws_lc_rs::default_provider()
        })
    });
    Arc::clone(&PROVIDER)
}

/// A handshake that ended in an error of the stream: TLS' own reason, or else `gone`.
fn failed(error: &io::Error, what: &str, gone: Reason) -> TlsError {
    TlsError { reason: refusal(error).unwrap_or(gone), message: format!("{what}: {error}") }
}

/// The reason inside an error that reading or writing a TLS stream gave; `None` where it is not TLS that failed. A server
/// refuses a client's certificate after the client's handshake is done, so this also reads the alerts that then arrive.
pub fn refusal(error: &io::Error) -> Option<Reason> {
    error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()).map(reason)
}

fn reason(error: &rustls::Error) -> Reason {
    // Rustls' lists are open; what is not named here is a handshake that failed for no reason of identity.
    match error {
        rustls::Error::NoCertificatesPresented => Reason::NoCertificate,
        rustls::Error::InvalidCertificate(error) => match error {
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => Reason::TlsExpired,
            CertificateError::ApplicationVerificationFailure => Reason::TlsWrongIdentity,
            _ => Reason::TlsUntrusted,
        },
        rustls::Error::AlertReceived(alert) => match alert {
            AlertDescription::CertificateRequired => Reason::NoCertificate,
            AlertDescription::CertificateExpired => Reason::TlsExpired,
            AlertDescription::UnknownCA | AlertDescription::BadCertificate => Reason::TlsUntrusted,
            AlertDescription::AccessDenied => Reason::TlsWrongIdentity,
            _ => Reason::TlsIdentity,
        },
        _ => Reason::TlsIdentity,
    }
}

/// What a refused client may still say before it has heard so: the first requests of a connection, and a moment.
const REFUSED_MAX: usize = 64 * 1024;
const REFUSED_TIME: Duration = Duration::from_millis(500);

/// More identities than one proxy calls; each costs about 2 KiB beside its sessions.
const CLIENT_CONFIGS_MAX: usize = 1024;
/// Bytes that leave in one write. With rustls' own bound of 64 KiB a batch of four full frames, which is a few bytes longer,
/// took two: the rest a record and a system call of its own.
const SENDABLE: usize = 128 * 1024;

/// Addresses of one identity whose tickets are kept.
const SESSIONS_MAX: usize = 64;
