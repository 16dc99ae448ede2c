//! Stories of a mesh in one process: an application behind its sidecar calls another behind its own, over loopback and mTLS.

mod mesh;

use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;

use mesh::Mesh;

#[test]
fn a_request_goes_through_both_sidecars_and_its_answer_comes_back() {
    Mesh::new().run(|mesh| async move {
        let app = mesh.application("orders");
        let mut client = mesh.call("web", "orders").await;
        client.write_all(b"GET /items?x=1 HTTP/1.1\r\nHost: orders\r\nX-Odd-CASE: 1\r\n\r\n").await.unwrap();
        let mut served = app.accept().await;
        let request = served.head().await;
        assert!(request.starts_with("GET /items?x=1 HTTP/1.1\r\n"), "{request}");
        assert!(request.contains("\r\nX-Odd-CASE: 1\r\n"), "{request}");
        assert!(request.contains("spiffe=\"spiffe://mesh.test/ns/shop/sa/web\""), "{request}");
        assert!(!request.contains("leno-hop"), "{request}");
        served.io.write_all(b"HTTP/1.1 200 Fine\r\nContent-Length: 2\r\nX-App: A\r\n\r\nok").await.unwrap();
        let mut answer = vec![0; 1024];
        let count = client.read(&mut answer).await.unwrap();
        let answer = String::from_utf8_lossy(&answer[..count]).into_owned();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.ends_with("\r\n\r\nok"), "{answer}");
    });
}
