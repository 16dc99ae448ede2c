//! Who the peer is: exactly one SPIFFE id in a certificate that chains to an anchor of that id's own trust domain. It must
//! never accept an anchor of one domain for an identity of another.

use std::collections::HashMap;
use std::sync::Arc;

use leno_proto::identity::SpiffeId;
use leno_proto::policy::TrustBundle;
use rustls::CertificateError;
use rustls::DigitallySignedStruct;
use rustls::DistinguishedName;
use rustls::SignatureScheme;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::client::danger::ServerCertVerified;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::ServerName;
use rustls::pki_types::TrustAnchor;
use rustls::pki_types::UnixTime;
use rustls::server::danger::ClientCertVerified;
use rustls::server::danger::ClientCertVerifier;
use webpki::EndEntityCert;
use webpki::KeyUsage;

use crate::tls::known::Known;
use crate::tls::provider;

/// Trust anchors by trust domain, parsed once, and what they have proved lately.
#[derive(Debug, Default)]
pub struct Trust {
    domains: HashMap<String, Vec<TrustAnchor<'static>>>,
    known: Known,
}

impl Trust {
    /// An anchor that cannot be parsed is left out, and said, so that one bad anchor does not take the others with it.
    pub fn new(bundle: &TrustBundle) -> Self {
        let mut domains = HashMap::new();
        for (domain, anchors) in &bundle.domains {
            let parsed: &mut Vec<_> = domains.entry(domain.as_str().to_owned()).or_default();
            for der in anchors {
                match webpki::anchor_from_trusted_cert(&CertificateDer::from(der.as_ref())) {
                    Ok(anchor) => parsed.push(anchor.to_owned()),
                    Err(error) => tracing::warn!(domain = domain.as_str(), %error, "a trust anchor cannot be read"),
                }
            }
        }
        Self { domains, known: Known::default() }
    }

    pub fn is_empty(&self) -> bool {
        self.domains.values().all(Vec::is_empty)
    }

    /// The peer's identity, if its chain proves it now and it is whom `expected` demands.
    pub(super) fn verify(
        &self,
        chain: Chain<'_>,
        usage: Usage,
        expected: Option<&SpiffeId>,
        now: UnixTime,
    ) -> Result<SpiffeId, CertificateError> {
        let leaf = EndEntityCert::try_from(chain.leaf).map_err(|_| CertificateError::BadEncoding)?;
        let id = identity_of(&leaf).inspect_err(|why| tracing::debug!(why, "peer's certificate refused"));
        let id = id.map_err(|_| CertificateError::ApplicationVerificationFailure)?;
        let Some(anchors) = self.domains.get(id.trust_domain().as_str()) else {
            tracing::debug!(peer = id.as_str(), "peer's trust domain is unknown");
            return Err(CertificateError::UnknownIssuer);
        };
        if !self.known.holds(chain, usage, now) {
            let algorithms = algorithms();
            leaf.verify_for_usage(algorithms.all, anchors, chain.intermediates, now, usage.key_usage(), None, None)
                .inspect_err(|error| tracing::debug!(peer = id.as_str(), %error, "peer's certificate refused"))
                .map_err(|error| refusal(&error))?;
            self.known.add(chain, usage);
        }
        match expected {
            Some(expected) if *expected != id => {
                tracing::debug!(peer = id.as_str(), expected = expected.as_str(), "peer is somebody else");
                Err(CertificateError::ApplicationVerificationFailure)
            }
            Some(_) | None => Ok(id),
        }
    }
}

/// A peer's certificates as it sent them.
#[derive(Clone, Copy)]
pub(super) struct Chain<'a> {
    pub(super) leaf: &'a CertificateDer<'a>,
    pub(super) intermediates: &'a [CertificateDer<'a>],
}

/// What a certificate is shown for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Usage {
    Client,
    Server,
}

impl Usage {
    fn key_usage(self) -> KeyUsage {
        match self {
            Self::Client => KeyUsage::client_auth(),
            Self::Server => KeyUsage::server_auth(),
        }
    }
}

/// The identity of a chain that was verified before.
pub(super) fn identity(chain: Chain<'_>) -> Result<SpiffeId, &'static str> {
    identity_of(&EndEntityCert::try_from(chain.leaf).map_err(|_| "its certificate cannot be read")?)
}

/// X509-SVID section 2: exactly one URI SAN, and that is the SPIFFE id.
fn identity_of(leaf: &EndEntityCert<'_>) -> Result<SpiffeId, &'static str> {
    let mut names = leaf.valid_uri_names();
    match (names.next(), names.next()) {
        (Some(name), None) => name.parse().map_err(|_| "its URI SAN is not a SPIFFE id"),
        (None, _) => Err("it has no URI SAN"),
        (Some(_), Some(_)) => Err("it has more than one URI SAN"),
    }
}

/// The three ways in which a chain fails that lead to different reasons.
fn refusal(error: &webpki::Error) -> CertificateError {
    match *error {
        webpki::Error::CertExpired { time, not_after } => CertificateError::ExpiredContext { time, not_after },
        webpki::Error::CertNotValidYet { time, not_before } => {
            CertificateError::NotValidYetContext { time, not_before }
        }
        // webpki's list is open; whatever else it finds means that the chain proves nothing.
        _ => CertificateError::UnknownIssuer,
    }
}

fn algorithms() -> WebPkiSupportedAlgorithms {
    provider().signature_verification_algorithms
}

/// What a client demands of a server: this one identity. Names and addresses prove nothing in the mesh.
#[derive(Debug)]
pub(super) struct ExpectServer {
    pub(super) trust: Arc<Trust>,
    pub(super) expected: SpiffeId,
}

impl ServerCertVerifier for ExpectServer {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let chain = Chain { leaf, intermediates };
        self.trust.verify(chain, Usage::Server, Some(&self.expected), now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _leaf: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::PeerIncompatible(rustls::PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, leaf, signature, &algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}

/// What a server demands of a client: any identity of a known trust domain. What it may do is `authorize`'s business.
#[derive(Debug)]
pub(super) struct KnownClient {
    pub(super) trust: Arc<Trust>,
}

impl ClientCertVerifier for KnownClient {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Every peer has one certificate; hints would only tell strangers whom we trust.
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.trust.verify(Chain { leaf, intermediates }, Usage::Client, None, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _leaf: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::PeerIncompatible(rustls::PeerIncompatible::Tls12NotOfferedOrEnabled))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, leaf, signature, &algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}
