//! A fake proxy: speaks the protocol by the book unless a test has it do otherwise.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use hyper_util::rt::TokioIo;
use leno_proto::hash;
use leno_proto::hash::Hash;
use leno_proto::key::Key;
use leno_proto::wire::control;
use leno_proto::wire::control::FromProxy;
use leno_proto::wire::control::ToProxy;
use leno_proto::wire::control::change::Change;
use leno_proto::wire::control::control_client::ControlClient;
use leno_proto::wire::control::from_proxy;
use leno_proto::wire::control::to_proxy;
use prost::Message;
use rustls::ClientConfig;
use rustls::DigitallySignedStruct;
use rustls::RootCertStore;
use rustls::SignatureScheme;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::client::danger::ServerCertVerified;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::ServerName;
use rustls::pki_types::UnixTime;
use rustls::pki_types::pem::PemObject;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Request;
use tonic::Status;
use tonic::Streaming;
use tonic::transport::Channel;
use tonic::transport::Endpoint;

use crate::mesh::ControlPlane;

pub(crate) const MESSAGE_MAX: usize = 256 * 1024;

/// A chain to the anchors and nothing about names: the path building that any TLS peer does.
#[derive(Debug)]
struct Anchored(Arc<dyn ClientCertVerifier>);

impl ServerCertVerifier for Anchored {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.0.verify_client_cert(leaf, intermediates, now)?;
        let id = b"spiffe://cluster.local/ns/leno-system/sa/leno-control-plane";
        assert!(leaf.windows(id.len()).any(|window| window == id), "the server proves its SPIFFE id");
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        unreachable!("TLS 1.3 only")
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

pub(crate) fn roots(pem: &[u8]) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    for anchor in CertificateDer::pem_slice_iter(pem) {
        roots.add(anchor.unwrap()).unwrap();
    }
    roots
}

pub(crate) async fn tls(address: SocketAddr, anchor_pem: &[u8]) -> TlsStream<TcpStream> {
    tls_as(address, anchor_pem, b"h2").await
}

/// Without a certificate of our own, and with this protocol.
pub(crate) async fn tls_as(address: SocketAddr, anchor_pem: &[u8], protocol: &[u8]) -> TlsStream<TcpStream> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots(anchor_pem)), provider.clone()).build().unwrap();
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anchored(verifier)))
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    let socket = TcpStream::connect(address).await.unwrap();
    TlsConnector::from(Arc::new(config)).connect("leno".try_into().unwrap(), socket).await.unwrap()
}

pub(crate) async fn client(control_plane: &ControlPlane) -> ControlClient<Channel> {
    let anchor = std::fs::read(control_plane.state.path().join("trust-anchor.pem")).unwrap();
    client_at(control_plane.app.session, &anchor).await
}

async fn client_at(address: SocketAddr, anchor_pem: &[u8]) -> ControlClient<Channel> {
    let mut stream = Some(tls(address, anchor_pem).await);
    let connector = tower::service_fn(move |_| {
        let stream = stream.take();
        async move { stream.map(TokioIo::new).ok_or(std::io::Error::other("one connection")) }
    });
    let channel = Endpoint::from_static("http://leno").connect_with_connector(connector).await.unwrap();
    ControlClient::new(channel).max_decoding_message_size(MESSAGE_MAX)
}

pub(crate) fn with_token<T>(message: T, token: &str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    request
}

/// What outlives a session: what the proxy holds.
#[derive(Default, Clone)]
pub(crate) struct Memory {
    pub(crate) held: BTreeMap<Key, (Hash, Vec<u8>)>,
    pub(crate) rejected: BTreeMap<Key, Vec<Hash>>,
}

pub(crate) struct Proxy {
    to: mpsc::Sender<FromProxy>,
    from: Streaming<ToProxy>,
    pub(crate) memory: Memory,
    /// Contents that begin so are refused.
    pub(crate) refuses: &'static str,
    pub(crate) largest: usize,
    _client: ControlClient<Channel>,
}

/// One whole transaction, as it came.
#[derive(Debug)]
pub(crate) struct Transaction {
    pub(crate) id: u64,
    pub(crate) changes: Vec<(Key, Change)>,
    pub(crate) parts: usize,
}

pub(crate) fn wire_key(key: &Key) -> control::Key {
    control::Key { kind: key.kind() as i32, name: key.name() }
}

pub(crate) fn hello(uid: &str) -> FromProxy {
    let (build, pod_uid) = ("test".to_owned(), uid.to_owned());
    say(from_proxy::Message::Hello(control::Hello { build, pod_uid, capabilities: Vec::new(), parallelism: 1 }))
}

pub(crate) fn say(message: from_proxy::Message) -> FromProxy {
    FromProxy { message: Some(message) }
}

impl Proxy {
    /// Hello and Held, in chunks of two.
    pub(crate) async fn connect(control_plane: &ControlPlane, memory: Memory) -> Result<Proxy, Status> {
        Proxy::connect_as(control_plane, &control_plane.token(), "uid-1", memory).await
    }

    pub(crate) async fn connect_as(
        control_plane: &ControlPlane,
        token: &str,
        uid: &str,
        memory: Memory,
    ) -> Result<Proxy, Status> {
        Proxy::connect_by(client(control_plane).await, token, uid, memory).await
    }

    /// To whatever control plane is there.
    pub(crate) async fn connect_at(address: SocketAddr, anchor_pem: &[u8], token: &str, uid: &str) -> Proxy {
        let client = client_at(address, anchor_pem).await;
        Proxy::connect_by(client, token, uid, Memory::default()).await.unwrap()
    }

    async fn connect_by(
        mut client: ControlClient<Channel>,
        token: &str,
        uid: &str,
        memory: Memory,
    ) -> Result<Proxy, Status> {
        let (to, messages) = mpsc::channel(64);
        to.send(hello(uid)).await.unwrap();
        let from = client.session(with_token(ReceiverStream::new(messages), token)).await?.into_inner();
        let held: Vec<_> = memory
            .held
            .iter()
            .map(|(key, (hash, _))| control::HeldResource {
                key: Some(wire_key(key)),
                hash: hash.to_vec().into(),
                rejected: memory.rejected.get(key).into_iter().flatten().map(|hash| hash.to_vec().into()).collect(),
            })
            .collect();
        let proxy = Proxy { to, from, memory, refuses: "bad", largest: 0, _client: client };
        for chunk in held.chunks(2) {
            proxy.send(from_proxy::Message::Held(control::Held { resources: chunk.to_vec(), last: false })).await;
        }
        proxy.send(from_proxy::Message::Held(control::Held { resources: Vec::new(), last: true })).await;
        Ok(proxy)
    }

    pub(crate) async fn send(&self, message: from_proxy::Message) {
        // A server that has hung up is seen when reading.
        let _ = self.to.send(say(message)).await;
    }

    pub(crate) async fn subscribe(&self, add: &[Key], remove: &[Key]) {
        let [add, remove] = [add, remove].map(|keys| keys.iter().map(wire_key).collect());
        self.send(from_proxy::Message::Subscribe(control::Subscribe { add, remove })).await;
    }

    pub(crate) async fn next(&mut self) -> Result<to_proxy::Message, Status> {
        let message = self.from.message().await?.ok_or_else(|| Status::ok("the stream ended"))?;
        self.largest = self.largest.max(message.encoded_len());
        message.message.ok_or_else(|| Status::internal("an empty message"))
    }

    /// The next whole transaction; heartbeats and the rest are passed over between transactions only.
    pub(crate) async fn transaction(&mut self) -> Result<Transaction, Status> {
        let mut whole = Transaction { id: 0, changes: Vec::new(), parts: 0 };
        loop {
            match self.next().await? {
                to_proxy::Message::Transaction(part) => {
                    assert!(whole.parts == 0 || whole.id == part.id, "parts of two transactions mixed");
                    whole.id = part.id;
                    whole.parts += 1;
                    for change in part.changes {
                        let key = change.key.unwrap();
                        whole.changes.push((Key::parse(key.kind, &key.name).unwrap(), change.change.unwrap()));
                    }
                    if part.last {
                        return Ok(whole);
                    }
                }
                other => assert_eq!(whole.parts, 0, "between parts: {other:?}"),
            }
        }
    }

    /// Takes it in and reports.
    pub(crate) async fn apply(&mut self, transaction: &Transaction) {
        let (mut applied, mut rejected) = (Vec::new(), Vec::new());
        for (key, change) in &transaction.changes {
            match change {
                Change::Put(put) => {
                    let hash = Hash::of(&put.resource);
                    assert_eq!(put.hash, hash.to_vec());
                    let wire_hash = put.hash.clone();
                    if put.resource.starts_with(self.refuses.as_bytes()) {
                        self.memory.rejected.entry(key.clone()).or_default().push(hash);
                        let (field, message) = ("spec".to_owned(), "no good".to_owned());
                        let key = Some(wire_key(key));
                        rejected.push(control::Rejected { key, hash: wire_hash, field, message });
                        continue;
                    }
                    self.memory.held.insert(key.clone(), (hash, put.resource.to_vec()));
                    applied.push(control::Applied {
                        key: Some(wire_key(key)),
                        hash: wire_hash,
                        unsupported: Vec::new(),
                    });
                }
                Change::Unchanged(unchanged) => assert_eq!(unchanged.hash, self.memory.held[key].0.to_vec()),
                Change::Removed(_) => {
                    self.memory.held.remove(key);
                }
            }
        }
        self.send(from_proxy::Message::Report(control::Report { transaction: transaction.id, applied, rejected }))
            .await;
    }

    /// Applies a transaction of one part.
    pub(crate) async fn report(&mut self, part: control::Transaction) {
        assert!(part.last, "a small mesh fits into one part");
        let change = |change: control::Change| {
            let key = change.key.unwrap();
            (Key::parse(key.kind, &key.name).unwrap(), change.change.unwrap())
        };
        let changes = part.changes.into_iter().map(change).collect();
        self.apply(&Transaction { id: part.id, changes, parts: 1 }).await;
    }

    pub(crate) async fn take(&mut self) -> Result<Transaction, Status> {
        let transaction = self.transaction().await?;
        self.apply(&transaction).await;
        Ok(transaction)
    }

    pub(crate) async fn heartbeat(&self, digest: Vec<u8>) {
        let digest = digest.into();
        self.send(from_proxy::Message::Heartbeat(control::Heartbeat { unix_millis: 0, digest })).await;
    }

    pub(crate) fn digest(&self) -> Vec<u8> {
        hash::digest(self.memory.held.iter().map(|(key, (hash, _))| (key, hash))).to_vec()
    }

    /// Reads until the server ends it.
    pub(crate) async fn end(&mut self) -> Status {
        loop {
            if let Err(status) = self.next().await {
                return status;
            }
        }
    }

    pub(crate) fn content(&self, key: &Key) -> Option<&str> {
        self.memory.held.get(key).map(|(_, bytes)| std::str::from_utf8(bytes).unwrap())
    }
}

/// How many changes of each kind: puts, unchanged, removed.
pub(crate) fn kinds(transaction: &Transaction) -> (usize, usize, usize) {
    let count = |wanted: fn(&Change) -> bool| transaction.changes.iter().filter(|(_, change)| wanted(change)).count();
    (
        count(|change| matches!(change, Change::Put(_))),
        count(|change| matches!(change, Change::Unchanged(_))),
        count(|change| matches!(change, Change::Removed(_))),
    )
}
