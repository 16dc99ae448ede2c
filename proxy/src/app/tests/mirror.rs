//! Copies of requests, for which nobody waits.

use tokio::io::AsyncWriteExt;

use super::GET;
use super::OK;
use super::answer;
use super::mesh::Mesh;

#[test]
fn a_copy_of_a_request_goes_to_the_mirror_and_its_answer_nowhere() {
    let mut mesh = Mesh::new();
    mesh.mirrored = true;
    mesh.run(|mesh| async move {
        let (app, audit) = (mesh.application("orders"), mesh.application("audit"));
        let mut client = mesh.call("web", "orders").await;
        client.write_all(b"POST /buy HTTP/1.1\r\nHost: orders\r\nContent-Length: 4\r\n\r\nbook").await.unwrap();
        // The copy is answered first, and with another status.
        let mut copied = audit.accept().await;
        assert!(copied.head().await.starts_with("POST /buy HTTP/1.1\r\n"));
        assert_eq!(copied.bytes(4).await, b"book");
        copied.io.write_all(b"HTTP/1.1 500 Watched\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        let mut served = app.accept().await;
        assert!(served.head().await.starts_with("POST /buy HTTP/1.1\r\n"));
        assert_eq!(served.bytes(4).await, b"book");
        served.io.write_all(OK).await.unwrap();
        assert!(answer(&mut client, 2).await.0.starts_with("HTTP/1.1 200"));
    });
}

#[test]
fn a_mirror_that_does_not_answer_costs_the_request_nothing() {
    let mut mesh = Mesh::new();
    mesh.mirrored = true;
    mesh.down = "audit";
    mesh.run(|mesh| async move {
        let app = mesh.application("orders");
        let mut client = mesh.call("web", "orders").await;
        client.write_all(GET).await.unwrap();
        let mut served = app.accept().await;
        for round in 0..2 {
            served.head().await;
            served.io.write_all(OK).await.unwrap();
            assert_eq!(answer(&mut client, 2).await.1, "ok");
            if round == 0 {
                client.write_all(GET).await.unwrap();
            }
        }
    });
}
