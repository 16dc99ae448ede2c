//! Simulated proxies: each holds one session, applies what it is told and says when. They trust any server, so that they must
//! never call one that is not the measurement's own.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use leno_control_plane::kube::fake::fake_token;
use leno_proto::hash::Hash;
use leno_proto::key::Key;
use leno_proto::wire::control;
use leno_proto::wire::control::FromProxy;
use leno_proto::wire::control::change::Change;
use leno_proto::wire::control::from_proxy;
use leno_proto::wire::control::to_proxy;
use prost::Message;
use rand::RngExt;
use rustls::ClientConfig;
use rustls::DigitallySignedStruct;
use rustls::SignatureScheme;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::client::danger::ServerCertVerified;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::ServerName;
use rustls::pki_types::UnixTime;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::interval;
use tokio::time::sleep;
use tokio_rustls::TlsConnector;

use crate::stream::Stream;
use crate::world::World;

pub(crate) struct Crowd {
    members: Vec<Member>,
    /// Of transactions, as all together were told them.
    bytes: AtomicU64,
    tls: Arc<ClientConfig>,
}

struct Member {
    uid: String,
    token: String,
    wants: Vec<Key>,
    /// Of the last transaction that touched the service that all use.
    hot: watch::Sender<(u64, Instant)>,
    synced: watch::Sender<bool>,
}

impl Crowd {
    pub(crate) fn new(world: &World, sessions: usize, uses: usize) -> Crowd {
        let member = |number: usize| {
            // One Pod of each service, so that neighbours use different ones.
            let pod = world.pod(number * 10 + number / 1000);
            let account = world.account(number * 10 + number / 1000);
            let token = fake_token("scale", &account, &pod.name, &pod.uid);
            let services = std::iter::once(0).chain((1..=uses).map(|use_| (number + use_) % world.used()));
            let wants = services.map(|service| Key::Destination(world.address(service))).collect();
            let (hot, synced) = (watch::Sender::new((0, Instant::now())), watch::Sender::new(false));
            Member { uid: pod.uid, token, wants, hot, synced }
        };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody))
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let members = (0..sessions).map(member).collect();
        Crowd { members, bytes: AtomicU64::new(0), tls: Arc::new(tls) }
    }

    /// Every member, for ever: again when its session ends, after a pause of up to a second.
    pub(crate) fn connect(self: &Arc<Self>, address: SocketAddr) {
        for number in 0..self.members.len() {
            let crowd = self.clone();
            tokio::spawn(async move {
                let mut held = BTreeMap::new();
                loop {
                    // What ends it is the end of the control plane; that of the measurement is the end of this.
                    let _ = crowd.serve(number, address, &mut held).await;
                    let pause = rand::rng().random_range(0..1000);
                    sleep(Duration::from_millis(pause)).await;
                }
            });
        }
    }

    /// What all were told so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Until every member has applied its first transaction since it connected.
    pub(crate) async fn synced(&self) {
        for member in &self.members {
            let _ = member.synced.subscribe().wait_for(|synced| *synced).await;
        }
    }

    /// Forgets that they are.
    pub(crate) fn disconnected(&self) {
        for member in &self.members {
            member.synced.send_replace(false);
        }
    }

    /// How often each has heard of the service that all use.
    pub(crate) fn mark(&self) -> Vec<u64> {
        self.members.iter().map(|member| member.hot.borrow().0).collect()
    }

    /// Until all have heard of it once more; when the last did.
    pub(crate) async fn all_since(&self, mark: Vec<u64>) -> Instant {
        let mut last = None;
        for (member, before) in self.members.iter().zip(mark) {
            let mut hot = member.hot.subscribe();
            let at = hot.wait_for(|(count, _)| *count > before).await.unwrap().1;
            last = last.max(Some(at));
        }
        last.unwrap_or_else(Instant::now)
    }

    async fn serve(
        &self,
        number: usize,
        address: SocketAddr,
        held: &mut BTreeMap<Key, Hash>,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let member = &self.members[number];
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        let tls = TlsConnector::from(self.tls.clone()).connect("leno".try_into()?, socket).await?;
        let mut stream = Stream::open(tls, &member.token).await?;
        let build = "scale".to_owned();
        let hello = control::Hello { build, pod_uid: member.uid.clone(), capabilities: Vec::new(), parallelism: 1 };
        stream.say(&say(from_proxy::Message::Hello(hello))).await?;
        let resources = held.iter().map(|(key, hash)| control::HeldResource {
            key: Some(wire(key)),
            hash: hash.to_vec().into(),
            rejected: Vec::new(),
        });
        let held_all = control::Held { resources: resources.collect(), last: true };
        stream.say(&say(from_proxy::Message::Held(held_all))).await?;
        let add = member.wants.iter().map(wire).collect();
        stream.say(&say(from_proxy::Message::Subscribe(control::Subscribe { add, remove: Vec::new() }))).await?;
        let mut heartbeat = interval(Duration::from_secs(10));
        heartbeat.tick().await;
        let (mut applied, mut hot) = (Vec::new(), false);
        loop {
            let message = tokio::select! {
                message = stream.next() => message?,
                _ = heartbeat.tick() => {
                    let beat = control::Heartbeat { unix_millis: 0, digest: bytes::Bytes::new() };
                    stream.say(&say(from_proxy::Message::Heartbeat(beat))).await?;
                    continue;
                }
            };
            let Some(message) = message else { return Ok(()) };
            let length = message.encoded_len() as u64;
            let Some(to_proxy::Message::Transaction(part)) = message.message else { continue };
            self.bytes.fetch_add(length, Ordering::Relaxed);
            for change in part.changes {
                let (Some(key), Some(change)) = (change.key, change.change) else { continue };
                let Ok(parsed) = Key::parse(key.kind, &key.name) else { continue };
                match change {
                    Change::Put(put) => {
                        hot |= matches!(&parsed, Key::Endpoints { target, .. } if &*target.service.name == "service-0");
                        // What a proxy makes of it is its own work, which is not to be in these times.
                        held.extend(Hash::from_bytes(&put.hash).map(|hash| (parsed, hash)));
                        applied.push(control::Applied { key: Some(key), hash: put.hash, unsupported: Vec::new() });
                    }
                    Change::Unchanged(_) => {}
                    Change::Removed(_) => drop(held.remove(&parsed)),
                }
            }
            if part.last {
                let report = control::Report {
                    transaction: part.id,
                    applied: std::mem::take(&mut applied),
                    rejected: Vec::new(),
                };
                stream.say(&say(from_proxy::Message::Report(report))).await?;
                if std::mem::take(&mut hot) {
                    member.hot.send_modify(|(count, at)| (*count, *at) = (*count + 1, Instant::now()));
                }
                // Its own address and all that it asked for.
                if held.len() > member.wants.len() {
                    member.synced.send_replace(true);
                }
            }
        }
    }
}

fn wire(key: &Key) -> control::Key {
    control::Key { kind: key.kind() as i32, name: key.name() }
}

fn say(message: from_proxy::Message) -> FromProxy {
    FromProxy { message: Some(message) }
}

#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}
