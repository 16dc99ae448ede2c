//! Probes over real sockets, and what the application sees of them.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::BodyExt;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioExecutor;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use super::*;
use crate::net::tests::Refusing;

const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
const KUBELET: HeaderValue = HeaderValue::from_static("kube-probe/1.36");

/// Serves each connection with `story`; the port.
async fn application<F: Future<Output = ()> + Send + 'static>(
    story: impl Fn(TcpStream) -> F + Send + Sync + 'static,
) -> u16 {
    let listener = TcpListener::bind((HERE, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(story(socket));
        }
    });
    port
}

/// Reads a head, tells it, and answers with these bytes.
async fn answers(answer: impl Fn(&str) -> String + Send + Sync + 'static) -> (u16, Heads) {
    let (told, heads) = tokio::sync::mpsc::unbounded_channel();
    let answer = Arc::new(answer);
    let port = application(move |mut socket| {
        let (told, answer) = (told.clone(), answer.clone());
        async move {
            let mut read = Vec::new();
            while !read.windows(4).any(|end| end == b"\r\n\r\n") {
                if socket.read_buf(&mut read).await.unwrap_or(0) == 0 {
                    return;
                }
            }
            let head = String::from_utf8_lossy(&read).into_owned();
            let _ = socket.write_all(answer(&head).as_bytes()).await;
            let _ = told.send(head);
        }
    })
    .await;
    (port, Heads(heads))
}

/// The heads that an application has read.
struct Heads(tokio::sync::mpsc::UnboundedReceiver<String>);

impl Heads {
    async fn next(&mut self) -> String {
        self.0.recv().await.unwrap()
    }
}

async fn ask(probe: Value) -> Answer {
    let probes = Probes::parse(&json!({"web/readiness": probe}).to_string()).unwrap();
    probes.perform("web/readiness", HERE, Some(&KUBELET)).await.unwrap()
}

async fn get(port: u16, path: &str) -> Answer {
    ask(json!({"httpGet": {"port": port, "path": path}, "timeoutSeconds": 60})).await
}

fn plain(status: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n")
}

#[tokio::test]
async fn the_application_is_asked_what_the_kubelet_would_ask() {
    let (port, mut heads) = answers(|_| plain("200 OK")).await;
    let headers = json!([{"name": "Host", "value": "shop.example"}, {"name": "X-Token", "value": "a b"}]);
    let cases = [
        (json!({"port": port}), format!("GET / HTTP/1.1\r\naccept: */*\r\nuser-agent: kube-probe/1.36\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\n\r\n")),
        (
            json!({"port": port, "path": "healthz?deep=1 2#x", "httpHeaders": headers}),
            "GET /healthz?deep=1%202 HTTP/1.1\r\nhost: shop.example\r\nx-token: a b\r\naccept: */*\r\nuser-agent: kube-probe/1.36\r\nconnection: close\r\n\r\n".to_owned(),
        ),
        (
            json!({"port": port, "httpHeaders": [{"name": "User-Agent", "value": "me"}, {"name": "accept", "value": ""}]}),
            format!("GET / HTTP/1.1\r\nuser-agent: me\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\n\r\n"),
        ),
    ];
    for (action, expected) in cases {
        let answer = ask(json!({"httpGet": action, "timeoutSeconds": 60})).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.said);
        let head = heads.next().await;
        let lines = |text: &str| {
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            lines[1..].sort();
            lines
        };
        assert_eq!(lines(&head), lines(&expected));
    }
}

#[tokio::test]
async fn the_kubelet_gets_the_applications_status() {
    for status in ["200 OK", "204 No Content", "304 Not Modified", "404 Not Found", "503 Busy"] {
        let (port, _heads) = answers(move |_| plain(status)).await;
        assert_eq!(get(port, "/").await.status.as_str(), &status[..3]);
    }
}

#[tokio::test]
async fn redirects_are_followed_within_the_pod_and_nowhere_else() {
    let (other, _heads) = answers(|_| plain("418 Teapot")).await;
    let (port, _heads) = answers(move |head| {
        let to = |location: &str| format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n");
        match head.split(' ').nth(1).unwrap() {
            "/absolute" => to("/end"),
            "/in/relative" => to("end?x#y"),
            "/port" => to(&format!("http://127.0.0.1:{other}/")),
            "/elsewhere" => to("https://login.example/"),
            "/network" => to("//login.example/"),
            "/round" => to("/round"),
            "/without" => plain("301 Moved"),
            "/end" | "/in/end?x" => plain("418 Teapot"),
            _ => plain("400 Bad"),
        }
    })
    .await;
    let cases = [
        ("/absolute", 418),
        ("/in/relative", 418),
        ("/port", 418),
        // The kubelet takes these for successes too.
        ("/elsewhere", 302),
        ("/network", 302),
        ("/without", 301),
        ("/round", 503),
    ];
    for (path, expected) in cases {
        let answer = get(port, path).await;
        assert_eq!(answer.status.as_u16(), expected, "{path}: {}", answer.said);
    }
}

#[tokio::test]
async fn what_is_no_answer_is_a_failure_that_says_why() {
    let refusing = Refusing::new();
    let closed = refusing.address.port();
    let refused = get(closed, "/").await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(refused.said.contains("refused"), "{}", refused.said);
    let (port, _heads) = answers(|_| String::new()).await;
    assert!(get(port, "/").await.said.starts_with("no answer: "));
    let (port, _heads) = answers(|_| "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhal".to_owned()).await;
    let broken = get(port, "/").await;
    assert!(broken.said.starts_with("the answer breaks off"), "{}", broken.said);
    let silent = application(|socket| async move {
        std::future::pending::<()>().await;
        drop(socket);
    })
    .await;
    let late = ask(json!({"httpGet": {"port": silent}, "timeoutSeconds": 1})).await;
    assert_eq!((late.status, late.said.as_str()), (StatusCode::GATEWAY_TIMEOUT, "no answer within 1 s"));
}

#[tokio::test]
async fn no_more_of_an_answer_is_read_than_the_kubelet_reads() {
    let port = application(|mut socket| async move {
        let mut read = [0; 1024];
        let _ = socket.read(&mut read).await;
        let body = "x".repeat(16 * 1024);
        let _ = socket.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n{body}").as_bytes()).await;
        // It never ends, and need not.
        std::future::pending::<()>().await;
    })
    .await;
    assert_eq!(get(port, "/").await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_port_that_takes_connections_passes_a_tcp_probe() {
    let port = application(|socket| async move { drop(socket) }).await;
    assert_eq!(ask(json!({"tcpSocket": {"port": port}, "timeoutSeconds": 60})).await.status, StatusCode::OK);
    let refusing = Refusing::new();
    let closed = refusing.address.port();
    let refused = ask(json!({"tcpSocket": {"port": closed}, "timeoutSeconds": 60})).await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
}

/// A gRPC health service: `slow` is not serving, `other` is unknown, the rest serve.
async fn health(request: hyper::Request<Incoming>) -> Result<hyper::Response<Rest>, Infallible> {
    assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
    assert_eq!(request.headers()["te"], "trailers");
    let asked = request.into_body().collect().await.unwrap().to_bytes();
    let service = asked.get(7..).map(|name| String::from_utf8_lossy(name).into_owned()).unwrap_or_default();
    let (status, body) = match service.as_str() {
        "slow" => ("0", &[0, 0, 0, 0, 2, 8, 2][..]),
        "other" => ("5", &[][..]),
        _ => ("0", &[0, 0, 0, 0, 2, 8, 1][..]),
    };
    let trailers = HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), status.parse().unwrap())]);
    let body = Full::new(Bytes::copy_from_slice(body)).with_trailers(std::future::ready(Some(Ok(trailers))));
    Ok(hyper::Response::builder().header("content-type", "application/grpc").body(body.boxed()).unwrap())
}

type Rest = http_body_util::combinators::BoxBody<Bytes, Infallible>;

#[tokio::test]
async fn a_grpc_probe_asks_the_health_service() {
    let port = application(|socket| async move {
        let service = hyper::service::service_fn(health);
        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = server.serve_connection(TokioIo::new(socket), service).await;
    })
    .await;
    let cases = [
        (json!({"port": port}), 200, "says 200"),
        (json!({"port": port, "service": "orders"}), 200, "says 200"),
        (json!({"port": port, "service": "slow"}), 503, "not serving (status 2)"),
        (json!({"port": port, "service": "other"}), 503, "gRPC status 5"),
    ];
    for (action, status, said) in cases {
        let answer = ask(json!({"grpc": action, "timeoutSeconds": 60})).await;
        assert!(answer.status.as_u16() == status && answer.said.contains(said), "{action}: {answer:?}");
    }
    let (port, _heads) = answers(|_| plain("200 OK")).await;
    let answer = ask(json!({"grpc": {"port": port}, "timeoutSeconds": 60})).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "HTTP/1 is no gRPC: {}", answer.said);
}

/// Whatever certificate it has: the kubelet does not look either.
#[tokio::test]
async fn an_https_probe_takes_any_certificate_and_either_http() {
    for alpn in [&b"http/1.1"[..], b"h2", b""] {
        let certified = rcgen::generate_simple_self_signed(vec!["nobody.example".to_owned()]).unwrap();
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der());
        let mut config = rustls::ServerConfig::builder_with_provider(crate::tls::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certified.cert.der().clone()], key.into())
            .unwrap();
        config.alpn_protocols.extend((!alpn.is_empty()).then(|| alpn.to_vec()));
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let two = alpn == b"h2";
        let port = application(move |socket| {
            let acceptor = acceptor.clone();
            async move {
                let io = TokioIo::new(acceptor.accept(socket).await.unwrap());
                let service = hyper::service::service_fn(|request: hyper::Request<Incoming>| async move {
                    assert_eq!(request.headers()["user-agent"], "kube-probe/1.36");
                    Ok::<_, Infallible>(hyper::Response::new(Full::new(Bytes::from("fine"))))
                });
                let _ = match two {
                    true => {
                        hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                            .serve_connection(io, service)
                            .await
                    }
                    false => hyper::server::conn::http1::Builder::new().serve_connection(io, service).await,
                };
            }
        })
        .await;
        let answer = ask(json!({"httpGet": {"port": port, "scheme": "HTTPS"}, "timeoutSeconds": 60})).await;
        assert_eq!(answer.status, StatusCode::OK, "{alpn:?}: {}", answer.said);
    }
}

#[tokio::test]
async fn nothing_is_asked_that_the_manifest_does_not_ask() {
    let (port, _heads) = answers(|_| plain("200 OK")).await;
    let probes = Probes::parse(&json!({"web/readiness": {"tcpSocket": {"port": port}}}).to_string()).unwrap();
    for name in ["web/liveness", "web", "", "web/readiness/", "other/readiness"] {
        assert_eq!(probes.perform(name, HERE, None).await, None, "{name}");
    }
}

#[test]
fn a_probe_that_is_wrong_is_named() {
    let cases = [
        ("[]", "an object"),
        ("{", "not JSON"),
        (r#"{"web/readiness": {}}"#, "web/readiness: write one of"),
        (r#"{"a/b": {"tcpSocket": {"port": "http"}}}"#, "a/b: port is a number"),
        (r#"{"a/b": {"tcpSocket": {"port": 65536}}}"#, "1 to 65535"),
        (r#"{"a/b": {"httpGet": {"port": 1, "scheme": "ftp"}}}"#, "HTTP or HTTPS"),
        (r#"{"a/b": {"httpGet": {"port": 1, "httpHeaders": [{"name": "a b"}]}}}"#, "header's name"),
        (r#"{"a/b": {"grpc": {"port": 1}, "timeoutSeconds": 0}}"#, "1 to 86400"),
        (r#"{"a/b": {"grpc": {"port": 1}, "tcpSocket": {"port": 1}}}"#, "write one of"),
    ];
    for (text, expected) in cases {
        let why = Probes::parse(text).unwrap_err();
        assert!(why.contains(expected), "{text}: {why}");
    }
    let probes = Probes::parse(r#"{"a/b": {"grpc": {"port": 1}}, "a/c": {"grpc": {"port": 1}, "timeoutSeconds": 9}}"#);
    assert_eq!(probes.unwrap().longest(), Duration::from_secs(9));
    assert_eq!(Probes::parse("").unwrap().longest(), Duration::ZERO);
}
