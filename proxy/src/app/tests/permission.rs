//! A permission that is withdrawn while it is used.

use leno_proto::policy::*;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::answer;
use super::mesh::Mesh;
use super::mesh::until_counted;
use super::opaque;

fn denied() -> Access {
    Access { default: DefaultAccess::Deny, ..Access::default() }
}

fn without(path: &str) -> Access {
    let rule = AccessRule { origin: "shop/no".into(), paths: vec![path.into()], ..AccessRule::default() };
    Access { deny: vec![rule], ..Access::default() }
}

/// Whether nothing more comes: a close or a reset, not a byte.
async fn is_cut(io: &mut TcpStream) -> bool {
    !matches!(io.read(&mut [0; 1]).await, Ok(count) if count > 0)
}

#[test]
fn open_bytes_end_when_their_permission_does() {
    opaque(Protocol::Opaque).run(|mesh| async move {
        let app = mesh.application("orders");
        let mut client = mesh.call("web", "orders").await;
        let mut served = app.accept().await;
        client.write_all(b"hello").await.unwrap();
        assert_eq!(served.bytes(5).await, b"hello");
        mesh.permit("orders", denied());
        assert!(is_cut(&mut client).await && is_cut(&mut served.io).await);
        until_counted(&mesh, "orders", "policy_denied").await;
        let mut again = mesh.call("web", "orders").await;
        assert!(is_cut(&mut again).await);
    });
}

#[test]
fn a_tunnel_within_http_ends_when_its_permission_does() {
    Mesh::new().run(|mesh| async move {
        let app = mesh.application("orders");
        let mut client = mesh.call("web", "orders").await;
        let upgrade = b"GET /chat HTTP/1.1\r\nHost: orders\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        client.write_all(upgrade).await.unwrap();
        let mut served = app.accept().await;
        served.head().await;
        let switched = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello";
        served.io.write_all(switched).await.unwrap();
        assert_eq!(answer(&mut client, 5).await.1, "hello");
        mesh.permit("orders", without("/chat"));
        assert!(is_cut(&mut client).await && is_cut(&mut served.io).await);
        until_counted(&mesh, "orders", "policy_denied").await;
    });
}

#[test]
fn a_long_answer_ends_when_its_permission_does_and_its_neighbour_stays() {
    Mesh::new().run(|mesh| async move {
        let app = mesh.application("orders");
        let (mut doomed, mut spared) = (mesh.call("web", "orders").await, mesh.call("web", "orders").await);
        let mut served = Vec::new();
        for (client, path) in [(&mut doomed, "/news"), (&mut spared, "/prices")] {
            client.write_all(format!("GET {path} HTTP/1.1\r\nHost: orders\r\n\r\n").as_bytes()).await.unwrap();
            let mut stream = app.accept().await;
            stream.head().await;
            stream.io.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nmore\r\n").await.unwrap();
            assert!(answer(client, 9).await.1.contains("more"));
            served.push(stream);
        }
        mesh.permit("orders", without("/news"));
        assert!(is_cut(&mut doomed).await);
        assert!(is_cut(&mut served[0].io).await);
        until_counted(&mesh, "orders", "policy_denied").await;
        served[1].io.write_all(b"4\r\nlast\r\n0\r\n\r\n").await.unwrap();
        let mut rest = vec![0; 14];
        spared.read_exact(&mut rest).await.unwrap();
        assert_eq!(rest, b"4\r\nlast\r\n0\r\n\r\n");
    });
}

#[test]
fn a_request_that_waits_for_its_answer_is_refused_when_its_permission_ends() {
    Mesh::new().run(|mesh| async move {
        let app = mesh.application("orders");
        let mut client = mesh.call("web", "orders").await;
        client.write_all(b"GET /poll HTTP/1.1\r\nHost: orders\r\n\r\n").await.unwrap();
        let mut served = app.accept().await;
        served.head().await;
        mesh.permit("orders", without("/poll"));
        let (head, _) = answer(&mut client, 0).await;
        assert!(head.starts_with("HTTP/1.1 403") && head.contains("leno-reason: policy_denied"), "{head}");
        assert!(is_cut(&mut served.io).await);
    });
}
