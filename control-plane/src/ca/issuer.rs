//! An operator's issuer, as cert-manager keeps one in a Secret: `tls.crt`, `tls.key`, `ca.crt`. It must never be taken before a
//! leaf that it signs is one that a sidecar would accept.

use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;

use leno_proto::identity::TrustDomain;
use rcgen::CertificateParams;
use rcgen::DistinguishedName;
use rcgen::ExtendedKeyUsagePurpose;
use rcgen::KeyPair;
use rcgen::KeyUsagePurpose;
use rcgen::SanType;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::UnixTime;
use rustls::server::WebPkiClientVerifier;
use serde_json::Value;
use x509_parser::prelude::FromDer;
use x509_parser::prelude::X509Certificate;

use crate::ca::roots;
use crate::ca::unix;
use crate::error::Error;
use crate::kube::base64;

/// The certificate that signs, and what leads from it to an anchor.
const CHAIN: &str = "tls.crt";
/// Its key.
const KEY: &str = "tls.key";
/// What sidecars are to trust.
const ANCHORS: &str = "ca.crt";
/// A chain of any sense has two or three; each is sent with every handshake.
const CHAIN_MAX: usize = 5;
const ANCHORS_MAX: usize = 10;

/// Proven to sign leaves that chain to its own anchors.
#[derive(Clone, PartialEq, Eq)]
pub struct Issuer {
    /// PEM, the signer's own certificate first.
    pub(super) chain: String,
    /// PEM.
    pub(super) key: String,
    /// PEM.
    pub(super) anchors: String,
    /// The first end among them, Unix seconds.
    pub(super) not_after: u64,
}

impl std::fmt::Debug for Issuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issuer").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

impl Issuer {
    /// `secret` is the object as the API server has it; `name` is how messages call it, `namespace/name`.
    pub fn read(secret: &Value, name: &str, trust_domain: &TrustDomain, now: SystemTime) -> Result<Issuer, Error> {
        let wrong = |field, why: String| Error::Issuer { secret: name.to_owned(), field, why };
        let text = |field: &'static str| {
            let coded = secret["data"][field].as_str().filter(|text| !text.is_empty());
            let coded = coded.ok_or_else(|| {
                wrong(
                    field,
                    "it is missing; cert-manager's CA certificates have it, see that the Certificate says isCA: true"
                        .to_owned(),
                )
            })?;
            let bytes = base64::decode(coded).ok_or_else(|| wrong(field, "it is not base64".to_owned()))?;
            String::from_utf8(bytes).map_err(|_| wrong(field, "it is not PEM".to_owned()))
        };
        let chain = authorities(&text(CHAIN)?, CHAIN_MAX).map_err(|why| wrong(CHAIN, why))?;
        let anchors = authorities(&text(ANCHORS)?, ANCHORS_MAX).map_err(|why| wrong(ANCHORS, why))?;
        let pem = text(KEY)?;
        let key = KeyPair::from_pem(&pem)
            .map_err(|error| wrong(KEY, format!("it is no private key that we can use: {error}")))?;
        let (_, signer) = X509Certificate::from_der(&chain[0]).map_err(|error| wrong(CHAIN, error.to_string()))?;
        if signer.public_key().subject_public_key.data.as_ref() != rcgen::PublicKeyData::der_bytes(&key) {
            return Err(wrong(KEY, format!("it is not the key of the first certificate in {CHAIN}")));
        }
        let not_after = chain.iter().filter_map(end).min().unwrap_or(0);
        if not_after <= unix(now) {
            return Err(wrong(CHAIN, format!("it ended at unix {not_after}; renew it")));
        }
        try_it(&chain, &key, &anchors, trust_domain, now).map_err(|why| {
            wrong(CHAIN, format!("a sidecar that trusts {ANCHORS} would not accept what this signs: {why}"))
        })?;
        let not_after = not_after.min(anchors.iter().filter_map(end).max().unwrap_or(0));
        Ok(Issuer { chain: encode(&chain), key: key.serialize_pem(), anchors: encode(&anchors), not_after })
    }
}

fn authorities(pem: &str, max: usize) -> Result<Vec<CertificateDer<'static>>, String> {
    let all = roots::certificates(pem).map_err(|error| format!("it is not PEM: {error}"))?;
    if all.is_empty() || all.len() > max {
        return Err(format!("it holds {} certificates in PEM, expected 1 to {max}", all.len()));
    }
    for one in &all {
        let (_, parsed) =
            X509Certificate::from_der(one).map_err(|error| format!("it holds no X.509 certificate: {error}"))?;
        if !parsed.is_ca() {
            return Err(format!("{} is no certificate authority; in cert-manager, set isCA: true", parsed.subject()));
        }
    }
    Ok(all)
}

fn end(certificate: &CertificateDer<'static>) -> Option<u64> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    u64::try_from(parsed.validity().not_after.timestamp()).ok()
}

fn encode(all: &[CertificateDer<'static>]) -> String {
    all.iter()
        .map(|der| {
            let body = base64::encode(der);
            let lines: Vec<&str> =
                body.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
            format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
        })
        .collect()
}

/// Signs a leaf and does with it what any sidecar does.
fn try_it(
    chain: &[CertificateDer<'static>],
    key: &KeyPair,
    anchors: &[CertificateDer<'static>],
    trust_domain: &TrustDomain,
    now: SystemTime,
) -> Result<(), String> {
    let said = |error: rcgen::Error| error.to_string();
    let issuer = rcgen::Issuer::from_ca_cert_der(&chain[0], key).map_err(said)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let id = format!("spiffe://{trust_domain}/ns/leno/sa/probe");
    params.subject_alt_names = vec![SanType::URI(id.try_into().map_err(said)?)];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.not_before = now.into();
    params.not_after = (now + Duration::from_secs(3600)).into();
    let leaf = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(said)?;
    let leaf = params.signed_by(&leaf, &issuer).map_err(said)?;
    let mut store = RootCertStore::empty();
    for anchor in anchors {
        store.add(anchor.clone()).map_err(|error| error.to_string())?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider).build();
    let verifier = verifier.map_err(|error| error.to_string())?;
    let between: Vec<_> = chain.iter().filter(|one| !anchors.contains(one)).cloned().collect();
    let now = UnixTime::since_unix_epoch(Duration::from_secs(unix(now)));
    verifier.verify_client_cert(leaf.der(), &between, now).map(drop).map_err(|error| error.to_string())
}
