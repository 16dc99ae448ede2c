//! TLS handshakes alone: each turn is a new connection with a full mutual TLS 1.3 handshake and nothing on it. Who answers is
//! not checked: the servers' work is measured, and not this client's.

use std::io::Read;
use std::io::Write;
use std::net::Shutdown;
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use rustls::ClientConfig;
use rustls::ClientConnection;
use rustls::DigitallySignedStruct;
use rustls::Error;
use rustls::SignatureScheme;
use rustls::client::Resumption;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::client::danger::ServerCertVerified;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::ServerName;
use rustls::pki_types::UnixTime;
use rustls::pki_types::pem::PemObject;

use crate::bench::figures::Figures;
use crate::bench::figures::Latencies;
use crate::bench::load;
use crate::bench::load::Clock;
use crate::bench::load::Options;

pub(super) fn run(options: &Options, clock: Clock) -> anyhow::Result<Figures> {
    let folder = options.certificates.as_deref().context("handshakes need --certificates")?;
    let config = Arc::new(config(folder, &options.alpn)?);
    let name = ServerName::try_from(options.server_name.clone())?;
    // Errors of the first one are errors of the set-up.
    let mut group = handshake(options, &config, &name)?;
    let workers: Vec<_> = (0..options.connections)
        .map(|_| {
            let (options, config, name) = (options.clone(), config.clone(), name.clone());
            std::thread::spawn(move || {
                let (mut done, mut bad, mut latencies) = (0, 0, Latencies::default());
                while Instant::now() < clock.end {
                    let begun = Instant::now();
                    match handshake(&options, &config, &name) {
                        Ok(_) if clock.counts(Instant::now()) => {
                            done += 1;
                            latencies.push(begun.elapsed());
                        }
                        Ok(_) => {}
                        Err(_) => bad += 1,
                    }
                }
                (done, bad, latencies)
            })
        })
        .collect();
    std::thread::sleep(clock.begin.saturating_duration_since(Instant::now()));
    load::go();
    let (mut done, mut bad, mut latencies) = (0, 0, Latencies::default());
    for worker in workers {
        let (d, b, mut l) = worker.join().map_err(|_| anyhow::anyhow!("a worker panicked"))?;
        (done, bad) = (done + d, bad + b);
        latencies.append(&mut l);
    }
    let mut figures = Figures::new(done, bad, clock.end - clock.begin, latencies);
    figures.group = std::mem::take(&mut group);
    Ok(figures)
}

/// Returns the key exchange's group.
fn handshake(options: &Options, config: &Arc<ClientConfig>, name: &ServerName<'static>) -> anyhow::Result<String> {
    let mut socket = TcpStream::connect(options.to)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut tls = ClientConnection::new(config.clone(), name.clone())?;
    while tls.is_handshaking() {
        tls.complete_io(&mut socket)?;
    }
    tls.send_close_notify();
    while tls.wants_write() {
        tls.write_tls(&mut socket)?;
    }
    socket.flush()?;
    socket.shutdown(Shutdown::Write)?;
    // The server's end of the connection says that it has verified us.
    let mut sink = [0; 4096];
    while matches!(socket.read(&mut sink), Ok(count) if count > 0) {}
    Ok(tls.negotiated_key_exchange_group().map(|group| format!("{:?}", group.name())).unwrap_or_default())
}

/// A client of the mesh with these papers, who takes any server for the right one.
pub(super) fn config(folder: &Path, alpn: &str) -> anyhow::Result<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let chain = CertificateDer::pem_file_iter(folder.join("client.pem"))?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(folder.join("client.key"))?;
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
        .with_client_auth_cert(chain, key)?;
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    Ok(config)
}

/// Takes any server for the right one.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("only TLS 1.3 is offered".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
