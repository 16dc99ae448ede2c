//! The root of trust is replaced under load, with every leaf renewed meanwhile: nobody notices, and no anchor goes while a
//! leaf of it is in use.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;
use std::time::Instant;

use leno_e2e::manifests;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::prelude::FromDer;
use x509_parser::prelude::X509Certificate;

use crate::probe;
use crate::stage::PATIENCE;
use crate::stage::Setting;
use crate::stage::Stage;
use crate::stage::line;
use crate::stage::tell;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotated_root_costs_no_request_and_no_anchor_goes_before_its_last_leaf() {
    let leaf_ttl = Duration::from_secs(20);
    let mut stage = Stage::set(Setting { leaf_ttl, ..Setting::default() }).await;
    let load = stage.load("caller-0", "server", 100).await;
    let start = Instant::now();
    let old = stage.anchors();
    assert_eq!(old.len(), 1);
    let old = old.into_iter().next().unwrap();
    assert!(stage.rotate().contains("a new root is trusted beside the old one"));
    let refused = stage.rotate();
    assert!(refused.contains("a rotation is under way already"), "a second one at once: {refused}");

    let mut phases = Phases::default();
    while stage.anchors().contains(&old) {
        assert!(start.elapsed() < Duration::from_secs(300), "the rotation does not end: {phases:?}");
        // First who uses the old root, then whether it is trusted: in the other order a change between would mislead.
        let users = stage.users_of(&old).await;
        let anchors = stage.anchors();
        assert!(users == 0 || anchors.contains(&old), "{users} leaves chain to an anchor that is gone");
        phases.see(start, users, anchors.len(), stage.rotation().await);
        if phases.restart_due() {
            // What was decided is on disk: a crash in the middle changes nothing.
            stage.mesh.kill_control_plane();
            stage.sessions_resume().await;
            phases.is_restarted = true;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let ended = start.elapsed();
    let renewals = || async { stage.metrics("server-0").await.sum("leno_certificate_renewals_total", &[]) };
    let before = renewals().await;
    stage.until(PATIENCE, "a renewal under the new root alone", || async { renewals().await > before }).await;
    let window = load.since(start);
    load.stop();
    for (at, what) in &phases.told {
        tell(format_args!("rotation, {:4.1} s: {what}", at.as_secs_f64()));
    }
    tell(format_args!("rotation, {:4.1} s: the old root is gone; {}", ended.as_secs_f64(), line(&window)));
    stage.all_succeeded(&window);
    assert!(phases.was_guarded, "the old anchor was kept for leaves that chained to it");
    let renewals = stage.metrics("caller-0").await.sum("leno_certificate_renewals_total", &[]);
    let handshakes = stage.metrics("server-0").await.sum("leno_tls_handshakes_total", &[]);
    tell(format_args!("the caller renewed {renewals} times; {handshakes} handshakes with one of its servers"));
}

/// What was seen of the state machine.
#[derive(Debug, Default)]
struct Phases {
    told: Vec<(Duration, String)>,
    /// The new root issues, and old leaves are still in use.
    was_guarded: bool,
    is_retiring: bool,
    is_restarted: bool,
}

impl Phases {
    fn see(&mut self, start: Instant, users: usize, anchors: usize, rotation: String) {
        self.is_retiring = rotation.contains("the old root is trusted until");
        self.was_guarded |= self.is_retiring && users > 0;
        let what = format!("{anchors} anchors, {users} servers' leaves of the old root; {rotation}");
        if self.told.last().is_none_or(|(_, last)| *last != what) {
            self.told.push((start.elapsed(), what));
        }
    }

    fn restart_due(&self) -> bool {
        self.is_retiring && self.was_guarded && !self.is_restarted
    }
}

impl Stage {
    fn rotate(&self) -> String {
        let mut command = Command::new(self.mesh.program("leno"));
        let output = command.args(["dev", "rotate-root", "--state"]).arg(self.mesh.state()).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    }

    /// The published anchors, DER.
    fn anchors(&self) -> BTreeSet<Vec<u8>> {
        let pem = std::fs::read(self.mesh.anchor()).unwrap();
        CertificateDer::pem_slice_iter(&pem).map(|der| der.unwrap().to_vec()).collect()
    }

    /// What the control plane says about the rotation.
    async fn rotation(&self) -> String {
        let mut client = leno_e2e::http::Client::new(self.mesh.admin());
        let Ok(answer) = client.get("control-plane", "/sessions").await else { return String::new() };
        let said: serde_json::Value = serde_json::from_slice(answer.body()).unwrap();
        said["trust"]["rotation"].as_str().unwrap_or("no rotation").to_owned()
    }

    /// How many servers show a leaf that `root` itself has signed.
    async fn users_of(&self, root: &[u8]) -> usize {
        let (_, root) = X509Certificate::from_der(root).unwrap();
        let mut users = 0;
        for pod in self.mesh.plan.pods.iter().filter(|pod| pod.serves()) {
            let door = (pod.address, manifests::INBOUND).into();
            let (chain, _) = probe::shake(door, None, "leno/h2").await.unwrap();
            let (_, leaf) = X509Certificate::from_der(&chain[0]).unwrap();
            users += usize::from(leaf.issuer().as_raw() == root.subject().as_raw());
        }
        users
    }
}
