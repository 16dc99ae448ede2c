//! What may be seen and done where.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use super::*;
use crate::net::tests::Refusing;

struct Fixture {
    views: Arc<Views>,
    drains: Arc<AtomicUsize>,
    folder: std::path::PathBuf,
}

fn fixture(name: &str, waits: &[&str]) -> Fixture {
    let drains = Arc::new(AtomicUsize::new(0));
    let (counted, waits) = (drains.clone(), waits.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>());
    let views = Views {
        metrics: Arc::default(),
        levels: Box::new(Vec::new),
        log: Box::new(
            |filter| if filter == "info,leno_proxy[{a=1}]=debug" { Ok(()) } else { Err("write info".to_owned()) },
        ),
        waits_for: Box::new(move || waits.clone()),
        shows: vec![("config", Box::new(|| serde_json::json!({"a": 1})))],
        probes: Arc::default(),
        drain: Box::new(move || {
            counted.fetch_add(1, Ordering::Relaxed);
        }),
    };
    let folder = std::env::temp_dir().join(format!("leno-admin-{name}-{}", std::process::id()));
    // A process of the same number that was killed may have left one.
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    Fixture { views: Arc::new(views), drains, folder }
}

async fn get(address: std::net::SocketAddr, method: Method, path: &str) -> (StatusCode, String) {
    let socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await.unwrap();
    tokio::spawn(connection);
    let request =
        http::Request::builder().method(method).uri(path).header("host", "x").body(Full::<Bytes>::default()).unwrap();
    let response = sender.send_request(request).await.unwrap();
    let status = response.status();
    (status, String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap())
}

async fn status_port(fixture: &Fixture) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve_status(listener, fixture.views.clone()));
    address
}

#[tokio::test]
async fn ready_says_what_it_waits_for() {
    let waiting = fixture("waiting", &["a certificate from the control plane"]);
    let (status, body) = get(status_port(&waiting).await, Method::GET, "/ready").await;
    assert_eq!((status, body.as_str()), (StatusCode::SERVICE_UNAVAILABLE, "a certificate from the control plane\n"));
    let ready = fixture("ready", &[]);
    assert_eq!(get(status_port(&ready).await, Method::GET, "/ready").await.0, StatusCode::OK);
}

#[tokio::test]
async fn the_status_port_shows_metrics_and_changes_nothing() {
    let fixture = fixture("status", &[]);
    let address = status_port(&fixture).await;
    let (status, body) = get(address, Method::GET, "/metrics").await;
    assert!(status == StatusCode::OK && body.contains("leno_build_info"), "{body}");
    assert_eq!(get(address, Method::GET, "/live").await.0, StatusCode::OK);
    assert_eq!(get(address, Method::POST, "/drain").await.0, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(get(address, Method::GET, "/config").await.0, StatusCode::NOT_FOUND);
    assert_eq!(fixture.drains.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn the_applications_probes_answer_at_the_status_port_alone() {
    let application = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = application.local_addr().unwrap().port();
    let mut fixture = fixture("probes", &[]);
    let refusing = Refusing::new();
    let closed = refusing.address.port();
    let probe = |port: u16| format!(r#"{{"tcpSocket": {{"port": {port}}}, "timeoutSeconds": 60}}"#);
    let probes = format!(r#"{{"web/readiness": {}, "web/startup": {}}}"#, probe(port), probe(closed));
    Arc::get_mut(&mut fixture.views).unwrap().probes = Arc::new(Probes::parse(&probes).unwrap());
    let address = status_port(&fixture).await;
    assert_eq!(get(address, Method::GET, "/probe/web/readiness").await.0, StatusCode::OK);
    assert_eq!(get(address, Method::GET, "/probe/web/liveness").await.0, StatusCode::NOT_FOUND);
    assert_eq!(get(address, Method::POST, "/probe/web/readiness").await.0, StatusCode::METHOD_NOT_ALLOWED);
    let (status, why) = get(address, Method::GET, "/probe/web/startup").await;
    assert!(status == StatusCode::SERVICE_UNAVAILABLE && why.contains("refused"), "{status} {why}");
    let counts = [&fixture.views.metrics.proxy.probes, &fixture.views.metrics.proxy.probe_failures];
    assert_eq!(counts.map(|count| count.value()), [2, 1]);
    let path = fixture.folder.join("probes.sock");
    tokio::spawn(serve_socket(open_socket(&path).unwrap(), fixture.views.clone()));
    assert!(ask(&path, Method::GET, "probe/web/readiness").await.is_err());
}

#[tokio::test]
async fn the_socket_shows_and_drains_and_names_what_there_is() {
    let fixture = fixture("socket", &[]);
    let path = fixture.folder.join("admin.sock");
    for _ in 0..2 {
        // The second time there is a stale socket in the way.
        let listener = open_socket(&path).unwrap();
        let server = tokio::spawn(serve_socket(listener, fixture.views.clone()));
        assert_eq!(ask(&path, Method::GET, "config").await.unwrap(), "{\n  \"a\": 1\n}\n");
        server.abort();
        let _ = server.await;
    }
    let listener = open_socket(&path).unwrap();
    tokio::spawn(serve_socket(listener, fixture.views.clone()));
    assert_eq!(ask(&path, Method::POST, "drain").await.unwrap(), "draining\n");
    assert_eq!(fixture.drains.load(Ordering::Relaxed), 1);
    let error = ask(&path, Method::GET, "confg").await.unwrap_err().to_string();
    assert_eq!(error, "nothing is called confg; there are config");
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    std::fs::remove_dir_all(&fixture.folder).unwrap();
}

#[tokio::test]
async fn what_is_logged_changes_through_the_socket_alone() {
    let fixture = fixture("log", &[]);
    let path = fixture.folder.join("admin.sock");
    tokio::spawn(serve_socket(open_socket(&path).unwrap(), fixture.views.clone()));
    let said = ask(&path, Method::POST, &log_level("info,leno_proxy[{a=1}]=debug")).await.unwrap();
    assert_eq!(said, "logs info,leno_proxy[{a=1}]=debug until it restarts\n");
    let refused = ask(&path, Method::POST, &log_level("100 %")).await.unwrap_err();
    assert_eq!(refused.to_string(), "write info");
    let (status, _) = get(status_port(&fixture).await, Method::POST, "/log-level/debug").await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
}
