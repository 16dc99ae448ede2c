//! What replicas tell each other, on the port that proxies call: both prove themselves to be the control plane. It must never
//! tell anybody else which proxies there are and what they run.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http::Request;
use http::Response;
use http::StatusCode;
use http::header;
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use hyper_util::rt::TokioTimer;
use leno_proto::identity::SpiffeId;
use rustls::CertificateError;
use rustls::ClientConfig;
use rustls::DigitallySignedStruct;
use rustls::DistinguishedName;
use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::SignatureScheme;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::client::danger::ServerCertVerified;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::ServerName;
use rustls::pki_types::UnixTime;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerified;
use rustls::server::danger::ClientCertVerifier;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::sync::watch;
use tokio::time::timeout;
use x509_parser::prelude::FromDer;
use x509_parser::prelude::GeneralName;
use x509_parser::prelude::X509Certificate;

use crate::ca::Trust;
use crate::error::Error;
use crate::push::door::OwnLeaf;

/// How a replica that calls another says so, so that proxies are never asked for certificates.
pub const ALPN: &[u8] = b"leno/replica";
/// Where a replica tells what its proxies said; `?known=` names what the caller has already.
pub const PATH: &str = "/proxies";
/// Then the caller proves itself anew.
const CONNECTION_MAX: Duration = Duration::from_secs(600);
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
const HEAD_MAX: usize = 16 * 1024;

/// What there is to tell to who has `known` already.
pub type Reports = Arc<dyn Fn(&str) -> String + Send + Sync>;

/// Takes the control plane's own certificates, by the anchors that hold at that moment, and no others.
pub struct Sibling {
    own: SpiffeId,
    trust: watch::Receiver<Arc<Trust>>,
    provider: Arc<CryptoProvider>,
}

impl std::fmt::Debug for Sibling {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sibling").field("own", &self.own).finish_non_exhaustive()
    }
}

impl Sibling {
    pub fn new(own: SpiffeId, trust: watch::Receiver<Arc<Trust>>) -> Arc<Sibling> {
        Arc::new(Sibling { own, trust, provider: Arc::new(rustls::crypto::aws_lc_rs::default_provider()) })
    }

    /// For who is called.
    pub fn server_config(self: Arc<Self>, leaf: Arc<OwnLeaf>) -> Result<ServerConfig, Error> {
        let mut config = ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(self)
            .with_cert_resolver(leaf);
        config.alpn_protocols = vec![ALPN.to_vec()];
        // Each connection proves anew.
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    /// For who calls.
    pub fn client_config(self: Arc<Self>, leaf: Arc<OwnLeaf>) -> Result<ClientConfig, Error> {
        let mut config = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(self)
            .with_client_cert_resolver(leaf);
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(config)
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let mut anchors = RootCertStore::empty();
        for anchor in &self.trust.borrow().anchors {
            anchors.add(CertificateDer::from(anchor.as_slice()))?;
        }
        let chain = WebPkiClientVerifier::builder_with_provider(Arc::new(anchors), self.provider.clone()).build();
        let chain = chain.map_err(|error| rustls::Error::General(error.to_string()))?;
        chain.verify_client_cert(leaf, between, now)?;
        let (_, parsed) = X509Certificate::from_der(leaf)
            .map_err(|_| rustls::Error::InvalidCertificate(CertificateError::BadEncoding))?;
        let names = parsed.subject_alternative_name().ok().flatten();
        let names = names.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
        match names {
            [GeneralName::URI(id)] if *id == self.own.as_str() => Ok(()),
            _ => Err(rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)),
        }
    }

    fn signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn tls13_only() -> Result<HandshakeSignatureValid, rustls::Error> {
    Err(rustls::Error::General("TLS 1.3 only".to_owned()))
}

impl ServerCertVerifier for Sibling {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(leaf, between, now).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        tls13_only()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

impl ClientCertVerifier for Sibling {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.verify(leaf, between, now).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        tls13_only()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

/// Answers a replica that has proven itself, until it leaves or its time is over.
pub(super) async fn converse<S>(reports: Reports, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = hyper::service::service_fn(move |request| {
        let page = answer(&reports, &request);
        async move { Ok::<_, Infallible>(page) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_MAX)
        .serve_connection(TokioIo::new(stream), service);
    // What the caller did wrong is the caller's to see.
    let _ = timeout(CONNECTION_MAX, connection).await;
}

fn answer<B>(reports: &Reports, request: &Request<B>) -> Response<Full<Bytes>> {
    let uri = request.uri();
    let (status, content) = if request.method() == Method::GET && uri.path() == PATH {
        let known = uri.query().and_then(|query| query.strip_prefix("known=")).unwrap_or_default();
        (StatusCode::OK, reports(known))
    } else {
        (StatusCode::NOT_FOUND, String::new())
    };
    let mut response = Response::new(Full::new(Bytes::from(content)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}
