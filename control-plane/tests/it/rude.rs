//! Bytes that no proxy sends, on both ports.

use std::time::Duration;

use leno_control_plane::push::session::Limits;
use rand::RngExt;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::mesh::start;
use crate::mesh::table;
use crate::proxy::Memory;
use crate::proxy::Proxy;
use crate::proxy::tls;

async fn answer(socket: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin), bytes: &[u8]) -> Vec<u8> {
    let mut heard = Vec::new();
    let exchange = async {
        let _ = socket.write_all(bytes).await;
        let _ = socket.read_to_end(&mut heard).await;
    };
    timeout(Duration::from_secs(20), exchange).await.expect("the server ends what is no use");
    // The longest that anybody is told here are the metrics.
    assert!(heard.len() < 16 * 1024, "{} bytes for garbage", heard.len());
    heard
}

#[tokio::test]
async fn garbage_is_cut_off_and_harms_nobody() {
    let control_plane = start(Some(table()), Limits::default()).await;
    let mut proxy = Proxy::connect(&control_plane, Memory::default()).await.unwrap();
    proxy.take().await.unwrap();
    let mut dice = StdRng::seed_from_u64(7);
    let random: Vec<u8> = (0..100_000).map(|_| dice.random()).collect();
    let zeroes = vec![0; 100_000];
    let preface_then_random = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &random].concat();
    let long_line = [b"GET /".as_slice(), &vec![b'a'; 100_000], b" HTTP/1.1\r\n\r\n"].concat();
    let bytes: [&[u8]; 5] = [&random, &zeroes, b"GET / HTTP/1.1\r\n\r\n", &preface_then_random, &long_line];
    let anchor = std::fs::read(control_plane.state.path().join("trust-anchor.pem")).unwrap();
    for garbage in bytes {
        let mut plain = TcpStream::connect(control_plane.app.session).await.unwrap();
        answer(&mut plain, garbage).await;
        let mut encrypted = tls(control_plane.app.session, &anchor).await;
        answer(&mut encrypted, garbage).await;
        let mut admin = TcpStream::connect(control_plane.app.admin).await.unwrap();
        if !garbage.starts_with(b"GET / ") {
            answer(&mut admin, garbage).await;
        }
    }
    assert!(control_plane.app.metrics.handshakes_failed.value() >= 5);
    proxy.heartbeat(proxy.digest()).await;
    proxy.subscribe(&[crate::mesh::destination()], &[]).await;
    proxy.take().await.unwrap();
}

#[tokio::test]
async fn a_message_beyond_the_limit_ends_the_session() {
    use leno_proto::wire::control;
    use leno_proto::wire::control::from_proxy;
    let control_plane = start(Some(table()), Limits::default()).await;
    let mut proxy = Proxy::connect(&control_plane, Memory::default()).await.unwrap();
    proxy.take().await.unwrap();
    let add = vec![control::Key { kind: 1, name: "x".repeat(300_000) }];
    proxy.send(from_proxy::Message::Subscribe(control::Subscribe { add, remove: Vec::new() })).await;
    let end = proxy.end().await;
    assert_ne!(end.code(), tonic::Code::Ok, "{end:?}");
}

#[tokio::test]
async fn the_admin_port_answers_what_it_should() {
    let control_plane = start(None, Limits::default()).await;
    let get = async |path: &str, more: &str| {
        let mut socket = TcpStream::connect(control_plane.app.admin).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{more}\r\n");
        String::from_utf8(answer(&mut socket, request.as_bytes()).await).unwrap()
    };
    assert!(get("/live", "").await.starts_with("HTTP/1.1 200"));
    assert!(get("/ready", "").await.contains("503") && get("/ready", "").await.contains("not been read"));
    control_plane.publish(&table());
    // `join` passes the table on in a task of its own; a session cannot begin before it has.
    let mut proxy = Proxy::connect(&control_plane, Memory::default()).await.unwrap();
    proxy.take().await.unwrap();
    assert!(get("/ready", "").await.starts_with("HTTP/1.1 200"));
    assert!(get("/metrics", "").await.contains("\nleno_control_sessions 1\n"));
    assert!(get("/status", "").await.ends_with("Json"));
    assert!(get("/status?format=text", "").await.ends_with("Text"));
    assert!(get("/status", "accept: text/plain\r\n").await.ends_with("Text"));
    assert!(get("/sessions", "").await.contains("\"pod\": \"cart-1\""));
    assert!(get("/nothing", "").await.starts_with("HTTP/1.1 404"));
}
