//! Certificates from a control plane over real TLS, and from the volume.

use std::net::SocketAddr;

use bytes::Bytes;
use hyper_util::rt::TokioExecutor;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use leno_proto::wire::control as wire;
use leno_proto::wire::control::control_server::ControlServer;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Response;
use tonic::Status;

use super::*;
use crate::control::dial::Way;
use crate::control::resource::Refusal;
use crate::store::Owner;
use crate::store::tests::Folder;
use crate::tls::tests::ca::Ca;
use crate::tls::tests::ca::Leaf;

const DOMAIN: &str = "mesh.test";
const LIFE: i64 = 1000;

/// The test's authority, for the decoder, which is a plain function.
static CA: std::sync::LazyLock<Ca> = std::sync::LazyLock::new(|| Ca::new(DOMAIN));

fn decode(bytes: &Bytes) -> Result<Resource, Refusal> {
    match &bytes[..] {
        b"bundle" => Ok(Resource::TrustBundle(CA.bundle())),
        _ => Err(Refusal::new("", "not a bundle")),
    }
}

/// A control plane that certifies everybody as one account, and notes the tokens that it was shown.
struct Certifier {
    account: &'static str,
    tokens: Arc<Mutex<Vec<String>>>,
}

#[tonic::async_trait]
impl wire::control_server::Control for Certifier {
    type SessionStream = ReceiverStream<Result<wire::ToProxy, Status>>;

    async fn session(
        &self,
        _request: Request<tonic::Streaming<wire::FromProxy>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn certify(&self, request: Request<CertifyRequest>) -> Result<Response<wire::CertifyResponse>, Status> {
        let token = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        self.tokens.lock().push(token.unwrap_or("none").into());
        let (leaf, now) = (CA.sign(&request.get_ref().csr, self.account), unix_now());
        Ok(Response::new(wire::CertifyResponse {
            chain: vec![leaf.to_vec().into()],
            not_before_unix: now,
            not_after_unix: now + LIFE,
            trust_bundle: Bytes::from_static(b"bundle"),
        }))
    }
}

struct Bench {
    folder: Folder,
    address: SocketAddr,
    tokens: Arc<Mutex<Vec<String>>>,
}

impl Bench {
    /// A control plane that proves to be `server`, and certifies everybody as `account`.
    async fn start(server: Identity, account: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut config = rustls::ServerConfig::builder_with_provider(tls::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(server.chain, server.key.clone_key())
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let tokens = Arc::<Mutex<Vec<String>>>::default();
        let seen = tokens.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(stream) = acceptor.accept(stream).await else { continue };
                let certifier = Certifier { account, tokens: seen.clone() };
                let service = TowerToHyperService::new(ControlServer::new(certifier));
                let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
            }
        });
        let folder = Folder::new();
        std::fs::create_dir_all(&folder.0).unwrap();
        std::fs::write(folder.0.join("anchor.pem"), &CA.pem).unwrap();
        std::fs::write(folder.0.join("token"), "one\n").unwrap();
        Self { folder, address, tokens }
    }

    fn renewal(&self) -> Renewal {
        let tls = Tls::new();
        let anchors = Anchors::new(self.folder.0.join("anchor.pem"), DOMAIN.parse().unwrap(), tls.clone());
        let anchors = Arc::new(anchors);
        let way = Way::Network {
            addresses: vec![self.address.to_string()],
            expected: CA.id("control-plane"),
            anchors: anchors.clone(),
        };
        let owner = Owner { pod_uid: "u-1".into(), build: "1".into() };
        let (store, _) = Store::open(&self.folder.0, owner, 1 << 20).unwrap();
        Renewal {
            id: CA.id("web"),
            dialer: Arc::new(Dialer::new(way, self.folder.0.join("token"), Vec::new())),
            anchors,
            tls,
            store: Arc::new(store),
            metrics: Arc::default(),
            progress: Arc::default(),
            decode,
        }
    }
}

#[tokio::test]
async fn a_certificate_comes_for_a_token_that_is_read_each_time_and_survives_in_the_volume() {
    let bench = Bench::start(CA.identity("control-plane", Leaf::Good), "web").await;
    let renewal = bench.renewal();
    assert_eq!(renewal.certify().await, Ok(seconds(LIFE)));
    let first = renewal.tls.identity().unwrap();
    assert_eq!((&first.id, renewal.tls.generation()), (&CA.id("web"), 1));
    std::fs::write(bench.folder.0.join("token"), "two").unwrap();
    assert_eq!(renewal.certify().await, Ok(seconds(LIFE)));
    assert_eq!(*bench.tokens.lock(), ["Bearer one", "Bearer two"]);
    let second = renewal.tls.identity().unwrap();
    assert_ne!(first.chain, second.chain, "each renewal has a key of its own");

    let restarted = bench.renewal();
    restarted.restore(&restarted.store.kept());
    assert_eq!(restarted.tls.identity().unwrap().chain, second.chain);
    assert_eq!(restarted.dialer.remembered(), Vec::<String>::new());
    assert_eq!(restarted.store.kept().control_plane, [bench.address.to_string()]);
}

#[tokio::test]
async fn nobody_but_the_control_plane_sees_the_token() {
    let foreign = Ca::new(DOMAIN);
    for (server, says) in [
        (CA.identity("orders", Leaf::Good), "tls_wrong_identity"),
        (CA.identity("control-plane", Leaf::Expired), "tls_expired"),
        (foreign.identity("control-plane", Leaf::Good), "tls_untrusted"),
    ] {
        let bench = Bench::start(server, "web").await;
        let renewal = bench.renewal();
        let error = renewal.certify().await.unwrap_err();
        assert!(error.contains(says), "{error}");
        assert!(bench.tokens.lock().is_empty());
        assert!(renewal.tls.identity().is_none());
    }
}

#[tokio::test]
async fn a_certificate_for_somebody_else_is_not_taken() {
    let bench = Bench::start(CA.identity("control-plane", Leaf::Good), "admin").await;
    let renewal = bench.renewal();
    let error = renewal.certify().await.unwrap_err();
    assert!(error.contains("spiffe://mesh.test/ns/shop/sa/admin"), "{error}");
    assert!(renewal.tls.identity().is_none());
    assert_eq!(renewal.store.kept().identity, None);
}

#[tokio::test]
async fn what_is_missing_is_said_by_name() {
    let bench = Bench::start(CA.identity("control-plane", Leaf::Good), "web").await;
    let renewal = bench.renewal();
    std::fs::remove_file(bench.folder.0.join("token")).unwrap();
    assert!(renewal.certify().await.unwrap_err().contains("token"));
    std::fs::write(bench.folder.0.join("token"), "").unwrap();
    assert!(renewal.certify().await.unwrap_err().contains("empty"));
    std::fs::write(bench.folder.0.join("token"), "one").unwrap();
    std::fs::remove_file(bench.folder.0.join("anchor.pem")).unwrap();
    assert!(renewal.certify().await.unwrap_err().contains("anchor.pem"));
}

#[test]
fn the_volume_does_not_bring_back_what_does_not_hold() {
    let bench = Bench { folder: Folder::new(), address: ([127, 0, 0, 1], 1).into(), tokens: Arc::default() };
    let kept = |account, ends| {
        let identity = CA.identity(account, Leaf::Good);
        KeptIdentity {
            key: identity.key.secret_der().to_vec(),
            chain: identity.chain.iter().map(|der| der.to_vec()).collect(),
            not_before_unix: 0,
            not_after_unix: ends,
        }
    };
    let renewal = bench.renewal();
    assert_eq!(renewal.usable(&kept("web", unix_now() + 60)), Ok(()));
    assert!(renewal.usable(&kept("web", unix_now())).unwrap_err().contains("expired"));
    assert!(renewal.usable(&kept("orders", unix_now() + 60)).unwrap_err().contains("orders"));
    let garbage = KeptIdentity { chain: vec![vec![1, 2, 3]], ..kept("web", unix_now() + 60) };
    assert!(renewal.usable(&garbage).is_err());
}

#[test]
fn renewals_spread_over_the_middle_of_a_life_and_retries_over_their_bound() {
    let day = Duration::from_secs(86_400);
    assert_eq!(renewal(day, 0.0), day / 2);
    assert_eq!(renewal(day, 1.0), day.mul_f64(0.7));
    assert_eq!(backoff(0, 1.0), Duration::from_millis(500));
    assert_eq!(backoff(3, 0.5), Duration::from_secs(2));
    assert_eq!(backoff(u32::MAX, 1.0), Duration::from_secs(15));
    assert_eq!(backoff(9, 0.0), Duration::ZERO);
}

#[test]
fn what_is_left_of_a_life_bounds_the_pause_so_that_a_control_plane_that_returns_in_time_is_asked_in_time() {
    let second = Duration::from_secs(1);
    for (left, failures, pause) in [
        (3600 * second, 9, 15 * second),
        (3600 * second, 0, second / 2),
        (8 * second, 9, second),
        (second, 9, second / 2),
        // What has ended already is asked for as what never was: thousands may do so at once.
        (Duration::ZERO, 9, 15 * second),
    ] {
        assert_eq!(retry(failures, left, 1.0), pause, "{left:?} left after {failures} failures");
        assert_eq!(retry(failures, left, 0.5), pause / 2, "{left:?} left after {failures} failures");
        assert_eq!(retry(failures, left, 0.0), Duration::ZERO);
    }
}
