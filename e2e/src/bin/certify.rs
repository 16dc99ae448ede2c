//! Asks a control plane for a certificate as a sidecar does, with a token from standard input, and prints what it is told. It must
//! never ask as itself: the request names whom it was told to name, so that a test sees whom the answer names.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use leno_proto::identity::SpiffeId;
use leno_proto::identity::TrustDomain;
use leno_proto::wire::control::CertifyRequest;
use leno_proxy::control::anchors::Anchors;
use leno_proxy::control::dial::Dialer;
use leno_proxy::control::dial::Way;
use leno_proxy::tls;
use leno_proxy::tls::Tls;
use rcgen::CertificateParams;
use rcgen::KeyPair;
use rcgen::SanType;
use rustls::pki_types::CertificateDer;
use tonic::Request;

const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Parser)]
struct Options {
    /// Where the control plane is, as HOST:PORT.
    address: String,
    /// The anchors that it is known by, in PEM.
    #[arg(long)]
    anchor: PathBuf,
    #[arg(long, default_value = "cluster.local")]
    trust_domain: TrustDomain,
    /// The control plane's namespace.
    #[arg(long, default_value = "leno-system")]
    namespace: String,
    /// The identity that the request asks for, as NAMESPACE/SERVICE-ACCOUNT.
    #[arg(long)]
    name: String,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let expected = SpiffeId::workload(&options.trust_domain, &options.namespace, "leno-control-plane")?;
    let anchors = Arc::new(Anchors::new(options.anchor.clone(), options.trust_domain.clone(), Tls::new()));
    let way = Way::Network { addresses: vec![options.address.clone()], expected, anchors };
    let dialer = Dialer::new(way, "/dev/stdin".into(), Vec::new());
    let mut link = dialer.connect(None).await.map_err(anyhow::Error::msg)?;
    let mut request = Request::new(CertifyRequest { csr: request(&options)?.into() });
    request.metadata_mut().insert("authorization", link.bearer.clone());
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, link.client.certify(request)).await.context("no answer")?;
    match answer {
        Ok(answer) => {
            let chain: Vec<CertificateDer<'_>> =
                answer.get_ref().chain.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
            let id = tls::identity_of(&chain).map_err(anyhow::Error::msg)?;
            println!("certified {}", id.as_str());
        }
        Err(status) => println!("refused {:?}: {}", status.code(), status.message()),
    }
    Ok(())
}

/// For a fresh key, in the name of whom we were told.
fn request(options: &Options) -> anyhow::Result<Vec<u8>> {
    let (namespace, account) = options.name.split_once('/').context("--name: write NAMESPACE/SERVICE-ACCOUNT")?;
    let id = SpiffeId::workload(&options.trust_domain, namespace, account)?;
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(id.as_str().try_into()?)];
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    Ok(params.serialize_request(&key)?.der().to_vec())
}
