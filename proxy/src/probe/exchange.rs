//! One request of a probe, on a connection of its own that ends with it. It must never read more of an answer than the kubelet
//! would, nor wait without whoever asks having set a limit.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::LazyLock;

use bytes::Bytes;
use http::HeaderMap;
use http::HeaderValue;
use http::Request;
use http::Response;
use http::StatusCode;
use http::header;
use http_body_util::BodyExt;
use http_body_util::Full;
use hyper::body::Body as _;
use hyper::body::Incoming;
use hyper_util::rt::TokioExecutor;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::DigitallySignedStruct;
use rustls::SignatureScheme;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::client::danger::ServerCertVerified;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::ServerName;
use rustls::pki_types::UnixTime;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::probe::Place;
use crate::tls;

/// As much of an answer as the kubelet reads.
const BODY_MAX: usize = 10 * 1024;

/// One GET: the status, and where it leads.
pub(super) async fn get(
    socket: TcpStream,
    place: &Place,
    headers: &HeaderMap,
) -> Result<(StatusCode, Option<String>), String> {
    let (scheme, host) = (if place.tls { "https" } else { "http" }, place.address.to_string());
    let mut two = false;
    let answer = if place.tls {
        let name = ServerName::IpAddress(place.address.ip().into());
        let stream = TlsConnector::from(ANYBODY.clone()).connect(name, socket).await;
        let stream = stream.map_err(|error| format!("TLS with {}: {error}", place.address))?;
        two = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let uri = if two { format!("{scheme}://{host}{}", place.path) } else { place.path.clone() };
        exchange(stream, two, request(uri, &host, two, headers)?).await?
    } else {
        exchange(socket, two, request(place.path.clone(), &host, two, headers)?).await?
    };
    let location = answer.headers().get(header::LOCATION).and_then(|l| l.to_str().ok()).map(str::to_owned);
    let status = answer.status();
    read(answer.into_body()).await?;
    Ok((status, location))
}

fn request(uri: String, host: &str, two: bool, headers: &HeaderMap) -> Result<Request<Full<Bytes>>, String> {
    let mut request = Request::get(&uri).body(Full::default()).map_err(|error| format!("{uri:?}: {error}"))?;
    *request.headers_mut() = headers.clone();
    if two {
        // There the authority says it.
        request.headers_mut().remove(header::HOST);
        return Ok(request);
    }
    let host = HeaderValue::from_str(host).map_err(|error| error.to_string())?;
    request.headers_mut().entry(header::HOST).or_insert(host);
    request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    Ok(request)
}

/// Sends a request and returns the answer's head; its body follows while the connection's task runs.
async fn exchange<S>(io: S, two: bool, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let io = TokioIo::new(io);
    let answered = if two {
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await;
        let (mut sender, connection) = handshake.map_err(|error| error.to_string())?;
        // It ends with the sender.
        tokio::spawn(connection);
        sender.send_request(request).await
    } else {
        let handshake = hyper::client::conn::http1::handshake(io).await;
        let (mut sender, connection) = handshake.map_err(|error| error.to_string())?;
        tokio::spawn(connection);
        sender.send_request(request).await
    };
    answered.map_err(|error| match std::error::Error::source(&error) {
        Some(source) => format!("no answer: {error}: {source}"),
        None => format!("no answer: {error}"),
    })
}

/// The answer's bytes and trailers, as far as the kubelet reads.
async fn read(mut body: Incoming) -> Result<(Vec<u8>, HeaderMap), String> {
    let (mut bytes, mut trailers) = (Vec::new(), HeaderMap::new());
    while !body.is_end_stream() && bytes.len() < BODY_MAX {
        let Some(frame) = body.frame().await else { break };
        match frame.map_err(|error| format!("the answer breaks off: {error}"))?.into_data() {
            Ok(data) => bytes.extend_from_slice(&data),
            Err(frame) => trailers = frame.into_trailers().unwrap_or_default(),
        }
    }
    Ok((bytes, trailers))
}

/// gRPC's health protocol: `grpc.health.v1.Health/Check`.
pub(super) async fn grpc(
    socket: TcpStream,
    address: SocketAddr,
    service: &str,
    agent: Option<&HeaderValue>,
) -> Result<(), String> {
    let mut request = Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
        .body(Full::new(health_request(service)))
        .map_err(|error| error.to_string())?;
    let headers = request.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    headers.extend(agent.map(|agent| (header::USER_AGENT, agent.clone())));
    let answer = exchange(socket, true, request).await?;
    let (http, head) = (answer.status(), answer.headers().clone());
    let (bytes, trailers) = read(answer.into_body()).await?;
    // An error without a message comes in the head alone.
    let field = |name: &str| trailers.get(name).or_else(|| head.get(name)).and_then(|value| value.to_str().ok());
    match (field("grpc-status"), serving(&bytes)) {
        (Some("0"), Some(1)) => Ok(()),
        (Some("0"), Some(status)) => Err(format!("the application says that it is not serving (status {status})")),
        (Some("0"), None) => Err("the application's answer is no HealthCheckResponse".to_owned()),
        (Some("12"), _) => Err("the application does not implement grpc.health.v1.Health".to_owned()),
        (Some(code), _) => Err(format!("gRPC status {code}: {}", field("grpc-message").unwrap_or_default())),
        (None, _) => Err(format!("HTTP status {http}, and no gRPC status")),
    }
}

/// A message whose field 1 is the service's name, in a gRPC frame.
fn health_request(service: &str) -> Bytes {
    let message = Health { service: service.to_owned() };
    let mut frame = vec![0];
    let bytes = prost::Message::encode_to_vec(&message);
    frame.extend(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    frame.extend(bytes);
    frame.into()
}

/// The status in a framed HealthCheckResponse: 1 is SERVING.
fn serving(frame: &[u8]) -> Option<i32> {
    let message = frame.split_at_checked(5).filter(|(head, _)| head[0] == 0)?.1;
    prost::Message::decode(message).ok().map(|Healthy { status }| status)
}

/// `grpc.health.v1.HealthCheckRequest`.
#[derive(Clone, PartialEq, prost::Message)]
struct Health {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`.
#[derive(Clone, PartialEq, prost::Message)]
struct Healthy {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// Kubernetes promises that a probe over HTTPS skips the check of the certificate: it asks whether the application lives, and
/// sends no secret.
static ANYBODY: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| {
    let mut config = ClientConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider knows TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(config)
});

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
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &tls::provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &tls::provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        tls::provider().signature_verification_algorithms.supported_schemes()
    }
}
