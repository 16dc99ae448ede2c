//! `timeouts.maxStreamDuration`: what lasts as long as that ends, whatever it still does.

use std::time::Duration;

use leno_proto::policy::Protocol;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::answer;
use super::mesh::Mesh;
use super::mesh::STANDSTILL;
use super::mesh::until_counted;

fn bounded(protocol: Protocol) -> Mesh {
    let mut mesh = Mesh::new();
    mesh.protocol = protocol;
    mesh.traffic.timeouts.max_stream_duration = Some(STANDSTILL);
    mesh
}

/// Says something time and again until nobody hears it any more.
async fn until_cut(mut client: TcpStream, mut served: TcpStream, word: &[u8]) {
    let speak = async {
        while served.write_all(word).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let hear = async { while matches!(client.read(&mut [0; 4096]).await, Ok(count) if count > 0) {} };
    tokio::join!(speak, hear);
}

#[test]
fn what_does_not_end_is_cut_though_it_moves_and_what_does_not_begin_is_given_up() {
    bounded(Protocol::Http1).run(|mesh| async move {
        let app = mesh.application("orders");
        let mut silent = mesh.call("web", "orders").await;
        silent.write_all(b"GET /silence HTTP/1.1\r\nHost: orders\r\n\r\n").await.unwrap();
        let mut unanswered = app.accept().await;
        unanswered.head().await;

        let mut news = mesh.call("web", "orders").await;
        news.write_all(b"GET /news HTTP/1.1\r\nHost: orders\r\n\r\n").await.unwrap();
        let mut stream = app.accept().await;
        stream.head().await;
        stream.io.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nmore\r\n").await.unwrap();
        assert!(answer(&mut news, 9).await.1.contains("more"));

        let mut chat = mesh.call("web", "orders").await;
        let upgrade = b"GET /chat HTTP/1.1\r\nHost: orders\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        chat.write_all(upgrade).await.unwrap();
        let mut tunnel = app.accept().await;
        tunnel.head().await;
        let switched = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello";
        tunnel.io.write_all(switched).await.unwrap();
        assert_eq!(answer(&mut chat, 5).await.1, "hello");

        let ((), (), (head, _)) = tokio::join!(
            until_cut(news, stream.io, b"4\r\nmore\r\n"),
            until_cut(chat, tunnel.io, b"tick"),
            answer(&mut silent, 0),
        );
        assert!(head.starts_with("HTTP/1.1 504") && head.contains("request_timeout"), "{head}");
        until_counted(&mesh, "web", "request_timeout").await;
    });
}

#[test]
fn opaque_bytes_are_cut_though_they_move() {
    bounded(Protocol::Opaque).run(|mesh| async move {
        let app = mesh.application("orders");
        let mut client = mesh.call("web", "orders").await;
        client.write_all(b"ping").await.unwrap();
        let mut served = app.accept().await;
        assert_eq!(served.bytes(4).await, b"ping");
        until_cut(client, served.io, b"tick").await;
        until_counted(&mesh, "web", "request_timeout").await;
    });
}
