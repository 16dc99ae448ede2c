//! HTTP/2 clients (curl, nghttp, h2load) in front of applications that speak HTTP/1.1 and HTTP/2.

use std::process::Command;

use crate::pair::Pair;
use crate::pair::script;

#[tokio::test]
async fn h2_clients_reach_an_application_of_http2() {
    let pair = Pair::start(Some("kubernetes.io/h2c"), |_| script("node", "h2_server.js")).await;
    both_versions(&pair);
    let seen = nghttp(&pair, "/trailer");
    assert!(seen.contains("x-last: yes"), "the trailer passes\n{seen}");
    println!("nghttp and h2load to Node's http2: {}", h2load(&pair, "/"));
}

#[tokio::test]
async fn h2_clients_reach_an_application_of_http1() {
    let pair = Pair::start(Some("http"), |_| script("python3", "server.py")).await;
    both_versions(&pair);
    let head = pair.curl(&["-i", "--http2-prior-knowledge"], "/");
    assert!(head.starts_with("HTTP/2 200") && head.contains("x-mixed-case: kept\r\n"), "{head}");
    println!("nghttp and h2load to Python's http.server: {}", h2load(&pair, "/"));
}

#[tokio::test]
async fn h2_clients_reach_undeclared_applications() {
    let pair = Pair::start(None, |_| script("python3", "server.py")).await;
    let said = pair.curl(&[], "/a");
    assert!(said.contains("\"GET\""), "{said}");
    let pair = Pair::start(None, |_| script("node", "h2_server.js")).await;
    println!("h2load to Node's http2, undeclared: {}", h2load(&pair, "/"));
}

/// curl in either version: what it sends arrives, what is answered comes back.
fn both_versions(pair: &Pair) {
    let upload = pair.mesh.folder.join("upload");
    std::fs::write(&upload, vec![7; 10 << 20]).unwrap();
    let data = format!("@{}", upload.display());
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let said: serde_json::Value =
            serde_json::from_str(&pair.curl(&[version, "--data-binary", &data], "/a?b=c")).unwrap();
        assert_eq!((said["method"].as_str(), said["path"].as_str()), (Some("POST"), Some("/a?b=c")), "{version}");
        assert_eq!(said["length"], 10 << 20, "{version}");
        assert_eq!(pair.curl(&[version], "/bytes/10485760").len(), 10 << 20, "{version}");
    }
}

fn nghttp(pair: &Pair, path: &str) -> String {
    let mut command = Command::new("nghttp");
    command.args(["-v", "--no-dep", &format!("http://{}{path}", pair.listener)]);
    String::from_utf8_lossy(&pair.finish(&mut command).stdout).into_owned()
}

/// Many streams on few connections. Every one succeeds.
fn h2load(pair: &Pair, path: &str) -> String {
    let seen = nghttp(pair, path);
    assert!(seen.contains(":status: 200"), "{seen}");
    let mut command = Command::new("h2load");
    command.args(["-n", "5000", "-c", "4", "-m", "32", &format!("http://{}{path}", pair.listener)]);
    let said = String::from_utf8_lossy(&pair.finish(&mut command).stdout).into_owned();
    assert!(said.contains("5000 succeeded, 0 failed, 0 errored, 0 timeout"), "{said}");
    assert!(said.contains("status codes: 5000 2xx"), "{said}");
    said.lines().find(|line| line.starts_with("finished in")).unwrap_or_default().to_owned()
}
