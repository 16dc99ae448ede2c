//! What a route says where its Service says something else.

use leno_proto::policy::Protocol;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;

use super::mesh::Mesh;
use super::mesh::STANDSTILL;
use super::mesh::until_counted;

#[test]
fn a_tcp_route_s_own_stream_idle_ends_its_connections() {
    let mut mesh = Mesh::new();
    mesh.protocol = Protocol::Opaque;
    let mut rule = mesh.traffic.clone();
    rule.timeouts.stream_idle = Some(STANDSTILL);
    mesh.tcp_rule = Some(rule);
    mesh.run(|mesh| async move {
        let app = mesh.application("orders");
        let mut client = mesh.call("web", "orders").await;
        client.write_all(b"ping").await.unwrap();
        let mut served = app.accept().await;
        assert_eq!(served.bytes(4).await, b"ping");
        // A reset, since it is no honest end.
        assert!(client.read(&mut [0; 1]).await.is_err());
        until_counted(&mesh, "web", "stream_idle").await;
    });
}
