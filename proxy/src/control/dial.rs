//! Reaches the control plane: every address in turn, its identity proven before a token is shown. It must never send the
//! token to anyone else.

use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use leno_proto::identity::SpiffeId;
use leno_proto::wire::control::control_client::ControlClient;
use parking_lot::Mutex;
use rand::seq::SliceRandom;
use rustls::pki_types::ServerName;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tonic::metadata::Ascii;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::transport::Endpoint;

use crate::control::anchors::Anchors;
use crate::tls;

/// How the control plane is reached.
pub struct Dialer {
    way: Way,
    token: PathBuf,
    /// Addresses that worked, latest first: names may not resolve while the mesh is in trouble.
    remembered: Mutex<Vec<String>>,
}

pub enum Way {
    Network {
        /// `host:port`.
        addresses: Vec<String>,
        expected: SpiffeId,
        anchors: Arc<Anchors>,
    },
    /// Hands the far end of an in-process pipe to whoever plays the control plane, with the name that was dialled.
    #[cfg(test)]
    Memory { names: Vec<String>, accept: tokio::sync::mpsc::Sender<(String, tokio::io::DuplexStream)> },
}

/// An open connection to one replica.
pub struct Link {
    pub client: ControlClient<Channel>,
    pub address: String,
    /// `authorization: Bearer <token>`, as the file had it a moment ago.
    pub bearer: MetadataValue<Ascii>,
}

impl Dialer {
    pub fn new(way: Way, token: PathBuf, remembered: Vec<String>) -> Self {
        Self { way, token, remembered: Mutex::new(remembered) }
    }

    /// Addresses that worked, for the file.
    pub fn remembered(&self) -> Vec<String> {
        self.remembered.lock().clone()
    }

    /// The first replica that proves itself, in random order; `avoid` comes last.
    ///
    /// # Errors
    /// None did, with what each said.
    pub async fn connect(&self, avoid: Option<&str>) -> Result<Link, String> {
        let bearer = self.bearer()?;
        let mut said = String::new();
        let mut candidates = self.candidates(&mut said).await;
        candidates.sort_by_key(|address| Some(address.as_str()) == avoid);
        for address in candidates.into_iter().take(CANDIDATES_MAX) {
            match timeout(CONNECT_TIMEOUT, self.reach(&address)).await {
                Ok(Ok(channel)) => {
                    self.remember(&address);
                    let client = ControlClient::new(channel).max_decoding_message_size(MESSAGE_MAX);
                    return Ok(Link { client, address, bearer });
                }
                Ok(Err(why)) => note(&mut said, &address, &why),
                Err(_) => note(&mut said, &address, &format!("no answer in {} s", CONNECT_TIMEOUT.as_secs())),
            }
        }
        Err(said)
    }

    /// Names are resolved anew each time: replicas come and go.
    async fn candidates(&self, said: &mut String) -> Vec<String> {
        let mut found = Vec::new();
        match &self.way {
            Way::Network { addresses, .. } => {
                for name in addresses {
                    match timeout(CONNECT_TIMEOUT, tokio::net::lookup_host(name)).await {
                        Ok(Ok(all)) => found.extend(all.map(|address| address.to_string())),
                        Ok(Err(error)) => note(said, name, &error.to_string()),
                        Err(_) => note(said, name, "the name does not resolve in time"),
                    }
                }
            }
            #[cfg(test)]
            Way::Memory { names, .. } => found.extend(names.iter().cloned()),
        }
        found.sort();
        found.dedup();
        found.shuffle(&mut rand::rng());
        for address in self.remembered() {
            if !found.contains(&address) {
                found.push(address);
            }
        }
        found
    }

    async fn reach(&self, address: &str) -> Result<Channel, String> {
        match &self.way {
            Way::Network { expected, anchors, .. } => {
                let config = tls::control_plane(&anchors.for_control_plane()?, expected).map_err(|e| e.message)?;
                let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
                let _ = stream.set_nodelay(true);
                let peer = stream.peer_addr().map_err(|error| error.to_string())?;
                let name = ServerName::IpAddress(peer.ip().into());
                let stream = TlsConnector::from(config).connect(name, stream).await.map_err(|error| {
                    let reason = tls::refusal(&error).map_or("tls_identity", |reason| reason.as_str());
                    format!("{reason}: expected {}: {error}", expected.as_str())
                })?;
                channel(stream).await
            }
            #[cfg(test)]
            Way::Memory { accept, .. } => {
                let (near, far) = tokio::io::duplex(1 << 20);
                accept.send((address.to_owned(), far)).await.map_err(|_| "nobody listens")?;
                channel(near).await
            }
        }
    }

    fn remember(&self, address: &str) {
        let mut remembered = self.remembered.lock();
        remembered.retain(|one| one != address);
        remembered.insert(0, address.to_owned());
        remembered.truncate(REMEMBERED_MAX);
    }

    /// The kubelet renews the token's file, so it is read each time.
    fn bearer(&self) -> Result<MetadataValue<Ascii>, String> {
        let said = |why: &dyn std::fmt::Display| format!("token {}: {why}", self.token.display());
        let token = std::fs::read_to_string(&self.token).map_err(|error| said(&error))?;
        let token = token.trim();
        if token.is_empty() || token.len() > TOKEN_MAX {
            return Err(said(&"empty, or too large for a token"));
        }
        let mut value: MetadataValue<Ascii> =
            format!("Bearer {token}").parse().map_err(|_| said(&"it holds characters that no token has"))?;
        value.set_sensitive(true);
        Ok(value)
    }
}

/// One HTTP/2 connection over a stream that is open already; when it ends, so do its calls.
async fn channel<S>(stream: S) -> Result<Channel, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut once = Some(TokioIo::new(stream));
    let connector = tower::service_fn(move |_| {
        let stream = once.take().ok_or_else(|| io::Error::other("the connection to the control plane has ended"));
        std::future::ready(stream)
    });
    // Plain to tonic: the TLS is ours, below.
    Endpoint::from_static("http://leno-control-plane")
        .connect_with_connector(connector)
        .await
        .map_err(|error| error.to_string())
}

/// Full jitter: anywhere between nothing and a bound that doubles. `chance` is uniform in 0..1.
pub fn backoff(failures: u32, chance: f64) -> Duration {
    let bound = BACKOFF_BASE.saturating_mul(1 << failures.min(16)).min(BACKOFF_MAX);
    bound.mul_f64(chance.clamp(0.0, 1.0))
}

fn note(said: &mut String, address: &str, why: &str) {
    let gap = if said.is_empty() { "" } else { "; " };
    let _ = write!(said, "{gap}{address}: {why}");
}

/// TCP, TLS and HTTP/2 together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Addresses tried in one round; a control plane has three replicas.
const CANDIDATES_MAX: usize = 16;
const REMEMBERED_MAX: usize = 8;

/// The protocol's 256 KiB, with room for a later server's idea of it.
const MESSAGE_MAX: usize = 1 << 20;

/// Projected tokens have 1 to 2 KiB.
const TOKEN_MAX: usize = 64 * 1024;

/// A control plane that starts anew is asked again within half a second; after a long outage a thousand proxies come at 130 a second.
pub const BACKOFF_BASE: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(15);
