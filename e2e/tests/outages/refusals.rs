//! Who is refused, by whom, and in which words: each with a reason of its own, in the refusing proxy's metrics and log, and in
//! the answer where one is possible.

use std::net::SocketAddr;

use leno_e2e::http::Response;
use leno_e2e::manifests;
use leno_e2e::mesh::Settings;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::probe;
use crate::stage::PATIENCE;
use crate::stage::Setting;
use crate::stage::Stage;
use crate::stage::inbound_policy;
use crate::stage::tell;

const GUARD: &str = "apiVersion: policy.leno.dev/v1alpha1
kind: AccessPolicy
metadata: {name: guarded, namespace: shop}
spec:
  workloads: {selector: {matchLabels: {app: guarded}}}
  action: Allow
  rules:
  - sources:
    - serviceAccount: {namespace: shop, name: friend}
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_stranger_is_refused_with_its_own_reason() {
    let manifests = vec![
        ("strict.yaml", inbound_policy("server", "tls: {mode: Strict}")),
        ("guarded-access.yaml", GUARD.to_owned()),
    ];
    let mut stage = Stage::set(Setting {
        servers: &[("server", 1), ("guarded", 1), ("impostor", 1)],
        callers: &[("caller", &["server", "guarded"]), ("friend", &["guarded"])],
        manifests,
        ..Setting::default()
    })
    .await;
    // Whom policy allows is served.
    stage.served("caller-0", "server").await;
    stage.served("friend-0", "guarded").await;
    strangers_at_the_door(&mut stage).await;

    let answer = stage.get("caller-0", "guarded").await;
    answered(&answer, 403, "policy_denied");
    stage.request_refused("guarded-0", "inbound", "policy_denied", "AccessPolicy").await;

    // In the server's place, at its address, another workload of the same mesh.
    let server = stage.number("server-0");
    stage.mesh.kill_sidecar(server);
    let impostor = stage.number("impostor-0");
    let listen = ("LENO_INBOUND_LISTEN", place(&stage));
    stage.mesh.start_sidecar_with(impostor, &[listen]).unwrap();
    stage.ready("impostor-0").await;
    let answer = stage.get("caller-0", "server").await;
    answered(&answer, 502, "tls_wrong_identity");
    stage.request_refused("caller-0", "outbound", "tls_wrong_identity", "the certificate of another workload").await;
    stage.mesh.kill_sidecar(impostor);

    // And a workload of the same name in another trust domain.
    let settings = Settings { trust_domain: "elsewhere.example", ..Settings::default() };
    let mut other =
        Stage::set(Setting { servers: &[("server", 1)], callers: &[], settings, ..Setting::default() }).await;
    other.mesh.start_sidecar_with(0, &[("LENO_INBOUND_LISTEN", place(&stage))]).unwrap();
    other.ready("server-0").await;
    let answer = stage.get("caller-0", "server").await;
    answered(&answer, 502, "tls_untrusted");
    stage.request_refused("caller-0", "outbound", "tls_untrusted", "a server of another trust domain").await;
    drop(other);

    stage.mesh.start_sidecar(server).unwrap();
    stage.ready("server-0").await;
    stage.served("caller-0", "server").await;
}

/// What comes to a strict port and is not a client of this mesh.
async fn strangers_at_the_door(stage: &mut Stage) {
    let door = door(stage);
    for (id, what) in [
        ("spiffe://elsewhere.example/ns/shop/sa/caller", "a client of another trust domain"),
        ("spiffe://cluster.local/ns/shop/sa/caller", "a client with a forged certificate"),
    ] {
        let before = stage.connections_refused("server-0", "tls_untrusted").await;
        let (_, end) = probe::shake(door, Some(probe::forged(id)), "leno/h2").await.unwrap();
        stage.connection_refused("server-0", "tls_untrusted", before, what).await;
        tell(format_args!("   it sees: {}", end.expect_err("no byte comes for it")));
    }
    let before = stage.connections_refused("server-0", "no_certificate").await;
    let (_, end) = probe::shake(door, None, "leno/h2").await.unwrap();
    stage.connection_refused("server-0", "no_certificate", before, "a client without a certificate").await;
    tell(format_args!("   it sees: {}", end.expect_err("no byte comes for it")));

    let before = stage.connections_refused("server-0", "plaintext_refused").await;
    let mut plain = TcpStream::connect(door).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nhost: server\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(answer.is_empty(), "plaintext to a strict port is closed: {}", String::from_utf8_lossy(&answer));
    stage.connection_refused("server-0", "plaintext_refused", before, "plaintext to a strict port").await;

    let before = stage.connections_refused("server-0", "plaintext_refused").await;
    let end = probe::shake(door, None, "h2").await;
    assert!(end.is_err(), "the application's own TLS is not the mesh's");
    stage.connection_refused("server-0", "plaintext_refused", before, "TLS that is not the mesh's").await;
}

/// Where the server's sidecar is expected.
fn door(stage: &Stage) -> SocketAddr {
    let (_, server) = stage.mesh.pod("server-0").unwrap();
    (server.address, manifests::INBOUND).into()
}

fn place(stage: &Stage) -> String {
    let (_, server) = stage.mesh.pod("server-0").unwrap();
    format!("{}={}", door(stage), server.app())
}

/// An answer that the proxy made itself.
pub(crate) fn answered(answer: &Response, status: u16, reason: &str) {
    let said = answer.headers().get("leno-reason").and_then(|v| v.to_str().ok());
    assert_eq!((answer.status().as_u16(), said), (status, Some(reason)));
}

impl Stage {
    pub(crate) async fn connections_refused(&self, pod: &str, reason: &str) -> f64 {
        let label = format!("reason=\"{reason}\"");
        self.metrics(pod).await.sum("leno_connection_failures_total", &[&label])
    }

    /// Once more than `before`, and once in the log.
    pub(crate) async fn connection_refused(&mut self, pod: &str, reason: &str, before: f64, what: &str) {
        self.until(PATIENCE, &format!("{pod} counts {what} as {reason}"), || async {
            self.connections_refused(pod, reason).await > before
        })
        .await;
        self.logged(pod, reason, what).await;
    }

    /// A request that ended here: counted and logged.
    pub(crate) async fn request_refused(&mut self, pod: &str, direction: &str, reason: &str, what: &str) {
        let labels = [format!("direction=\"{direction}\""), format!("reason=\"{reason}\"")];
        let labels = labels.each_ref().map(String::as_str);
        self.until(PATIENCE, &format!("{pod} counts {what} as {reason}"), || async {
            self.metrics(pod).await.sum("leno_request_failures_total", &labels) > 0.0
        })
        .await;
        self.logged(pod, reason, what).await;
    }

    async fn logged(&mut self, pod: &str, reason: &str, what: &str) {
        let number = self.number(pod);
        let log = self.mesh.sidecar(number).unwrap().log.clone();
        let named = format!("\"reason\":\"{reason}\"");
        self.until(PATIENCE, &format!("{pod} logs {what} as {reason}"), || async {
            std::fs::read_to_string(&log).unwrap().contains(&named)
        })
        .await;
        tell(format_args!("{what}: {pod} refuses, {reason}"));
    }
}
