//! A leaf that was not renewed in time: refused by whoever meets it, and its holder recovers as soon as it may renew.

use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use crate::refusals::answered;
use crate::stage::PATIENCE;
use crate::stage::Setting;
use crate::stage::Stage;
use crate::stage::tell;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_leaf_is_refused_on_either_side_and_does_not_block_its_own_renewal() {
    let mut stage = Stage::set(Setting {
        servers: &[("server", 1), ("late", 1)],
        callers: &[("caller", &["server", "late"]), ("tardy", &["server"])],
        leaf_ttl: Duration::from_secs(20),
        ..Setting::default()
    })
    .await;
    for (caller, service) in [("caller-0", "server"), ("caller-0", "late"), ("tardy-0", "server")] {
        stage.served(caller, service).await;
    }
    // Without its token, one sidecar on each side cannot renew.
    let tokens = ["late-0", "tardy-0"].map(|pod| {
        let token = stage.mesh.token(stage.mesh.pod(pod).unwrap().1);
        let kept = std::fs::read(&token).unwrap();
        std::fs::remove_file(&token).unwrap();
        (token, kept)
    });
    for pod in ["late-0", "tardy-0"] {
        stage.until(PATIENCE, "the end of its leaf", || async { stage.expired(pod).await }).await;
        assert!(!stage.expired("caller-0").await && !stage.expired("server-0").await, "the others renew");
    }
    // Connections of before their leaves' end are not what is tried.
    stage.restart_sidecar("server-0").await;
    let before = stage.connections_refused("server-0", "tls_expired").await;
    let answer = stage.get("tardy-0", "server").await;
    answered(&answer, 502, "tls_expired");
    stage.connection_refused("server-0", "tls_expired", before, "a client's expired leaf").await;
    stage.request_refused("tardy-0", "outbound", "tls_expired", "its own expired leaf, as the server says").await;

    stage.restart_sidecar("caller-0").await;
    let answer = stage.get("caller-0", "late").await;
    answered(&answer, 502, "tls_expired");
    stage.request_refused("caller-0", "outbound", "tls_expired", "a server's expired leaf").await;

    for (token, kept) in tokens {
        std::fs::write(token, kept).unwrap();
    }
    for (caller, service) in [("tardy-0", "server"), ("caller-0", "late")] {
        // An expired leaf does not block its own renewal.
        stage.served(caller, service).await;
        tell(format_args!("with its token back, {caller} reaches {service} again"));
    }
}

impl Stage {
    async fn expired(&self, pod: &str) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        // Certificates end with a whole second, which still counts.
        self.metrics(pod).await.sum("leno_certificate_expires_seconds", &[]) + 1.0 < now
    }
}
