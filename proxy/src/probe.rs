//! The kubelet's probes of the application, performed by its sidecar: a kubelet has no certificate, so a strict port would refuse
//! it. What the application is asked must be what the kubelet would ask: same address, port, path, headers; and it must never be
//! asked anything that the pod's manifest does not.

mod exchange;
mod parse;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::HeaderMap;
use http::HeaderValue;
use http::StatusCode;
use http::Uri;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// As many as the kubelet follows.
const REDIRECTS_MAX: usize = 10;

/// Every probe of the pod's containers, by `CONTAINER/KIND`.
#[derive(Debug, Default)]
pub struct Probes(BTreeMap<String, Probe>);

#[derive(Debug)]
struct Probe {
    action: Action,
    timeout: Duration,
    /// The last time it was asked; a change is worth a line in the log.
    failed: AtomicBool,
}

#[derive(Debug)]
enum Action {
    Http { port: u16, tls: bool, path: String, headers: HeaderMap },
    Tcp { port: u16 },
    Grpc { port: u16, service: String },
}

/// What the kubelet is answered: it reads the status alone; the words are for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: StatusCode,
    pub said: String,
}

impl Probes {
    /// Reads `LENO_PROBES`: an object of `CONTAINER/KIND` and the probe as Kubernetes writes it.
    ///
    /// # Errors
    /// Which probe is wrong, and what of it.
    pub fn parse(text: &str) -> Result<Self, String> {
        parse::probes(text).map(Self)
    }

    /// The longest that one may take.
    pub fn longest(&self) -> Duration {
        self.0.values().map(|probe| probe.timeout).max().unwrap_or_default()
    }

    /// Asks the application at `host`, where the kubelet would have. `agent` is the kubelet's name for itself. `None`: there is no
    /// probe of this name.
    pub async fn perform(&self, name: &str, host: IpAddr, agent: Option<&HeaderValue>) -> Option<Answer> {
        let probe = self.0.get(name)?;
        let answer = match timeout(probe.timeout, probe.action.perform(host, agent)).await {
            Ok(Ok(status)) => Answer { status, said: format!("the application says {}", status.as_u16()) },
            Ok(Err(why)) => Answer { status: StatusCode::SERVICE_UNAVAILABLE, said: why },
            Err(_) => Answer {
                status: StatusCode::GATEWAY_TIMEOUT,
                said: format!("no answer within {} s", probe.timeout.as_secs()),
            },
        };
        let failed = !(200..400).contains(&answer.status.as_u16());
        if probe.failed.swap(failed, Ordering::Relaxed) != failed {
            let (said, asked) = (&answer.said, probe.action.words(host));
            tracing::info!(probe = name, asked, said, "a probe {}", if failed { "fails" } else { "succeeds again" });
        }
        Some(answer)
    }
}

impl Action {
    /// The application's status; an error is why there is none.
    async fn perform(&self, host: IpAddr, agent: Option<&HeaderValue>) -> Result<StatusCode, String> {
        match self {
            Self::Tcp { port } => connect((host, *port).into()).await.map(|_| StatusCode::OK),
            Self::Grpc { port, service } => {
                let socket = connect((host, *port).into()).await?;
                exchange::grpc(socket, (host, *port).into(), service, agent).await.map(|()| StatusCode::OK)
            }
            Self::Http { port, tls, path, headers } => {
                let mut headers = headers.clone();
                if let (Some(agent), false) = (agent, headers.contains_key(http::header::USER_AGENT)) {
                    headers.insert(http::header::USER_AGENT, agent.clone());
                }
                let first = Place { address: (host, *port).into(), tls: *tls, path: path.clone() };
                follow(first, &headers).await
            }
        }
    }

    /// As one would type it.
    fn words(&self, host: IpAddr) -> String {
        let at = |port: &u16| SocketAddr::from((host, *port));
        match self {
            Self::Http { port, tls, path, .. } => {
                format!("GET {}://{}{path}", if *tls { "https" } else { "http" }, at(port))
            }
            Self::Tcp { port } => format!("connect {}", at(port)),
            Self::Grpc { port, service } => format!("gRPC health of {service:?} at {}", at(port)),
        }
    }
}

async fn connect(address: SocketAddr) -> Result<TcpStream, String> {
    TcpStream::connect(address).await.map_err(|error| format!("connect to {address}: {error}"))
}

/// Where one request of a chain of redirects goes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    address: SocketAddr,
    tls: bool,
    path: String,
}

/// As the kubelet does: within the pod redirects are followed, and one that leads elsewhere is a success by itself.
async fn follow(mut place: Place, headers: &HeaderMap) -> Result<StatusCode, String> {
    for _ in 0..=REDIRECTS_MAX {
        let socket = connect(place.address).await?;
        let (status, location) = exchange::get(socket, &place, headers).await?;
        let followed = matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308);
        let next = location.filter(|_| followed).and_then(|location| place.next(&location));
        match next {
            Some(next) => place = next,
            None => return Ok(status),
        }
    }
    Err(format!("stopped after {REDIRECTS_MAX} redirects"))
}

impl Place {
    /// Where a `Location` leads, if it is in the pod (RFC 3986 section 5.2, as far as redirects use it).
    fn next(&self, location: &str) -> Option<Self> {
        let location = location.split('#').next()?;
        if location.starts_with("//") {
            return None;
        }
        if location.starts_with('/') {
            return Some(Self { path: location.to_owned(), ..self.clone() });
        }
        if location.contains("://") {
            let uri: Uri = location.parse().ok()?;
            let tls = uri.scheme_str()? == "https";
            let host: IpAddr = uri.host()?.trim_matches(['[', ']']).parse().ok()?;
            let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
            let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
            return (host == self.address.ip()).then_some(Self { address: (host, port).into(), tls, path });
        }
        let base = self.path.split('?').next()?;
        let folder = &base[..=base.rfind('/')?];
        Some(Self { path: format!("{folder}{location}"), ..self.clone() })
    }
}
