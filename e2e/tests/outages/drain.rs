//! A pod ends while it is used: its application and its sidecar are told together, and no request fails.

use std::process::Command;
use std::time::Duration;
use std::time::Instant;

use leno_e2e::manifests;
use leno_e2e::manifests::Application;

use crate::stage::PATIENCE;
use crate::stage::Setting;
use crate::stage::Stage;
use crate::stage::line;
use crate::stage::tell;

const GRACE: Duration = Duration::from_secs(manifests::GRACE as u64);

/// How a pod's end is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// SIGTERM to both at once.
    Together,
    /// As the kubelet ends a pod whose sidecar is an init container: the sidecar's preStop hook and the application's SIGTERM
    /// first, the sidecar's SIGTERM once the application has gone.
    Kubelet,
    /// SIGTERM to both, and nobody is told: the control plane is away.
    Unannounced,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_is_told_to_end_fails_no_request_and_ends_within_its_grace() {
    let mut stage = Stage::set(Setting {
        servers: &[("catalog", 2)],
        callers: &[("caller", &["catalog"])],
        application: Application::Storefront,
        ..Setting::default()
    })
    .await;
    for end in [End::Together, End::Kubelet, End::Unannounced] {
        let load = stage.load("caller-0", "catalog", 100).await;
        let start = Instant::now();
        let took = stage.end_pod("catalog-0", end).await;
        stage.begin_pod("catalog-0").await;
        let window = load.since(start);
        load.stop();
        tell(format_args!("pod ended ({end:?}): exit 0 after {took:.1?} of {GRACE:?}; {}", line(&window)));
        stage.all_succeeded(&window);
    }
}

impl Stage {
    /// Ends it, and says how long the sidecar took.
    async fn end_pod(&mut self, name: &str, end: End) -> Duration {
        let (number, pod) = self.mesh.pod(name).unwrap();
        let (pod, file) = (pod.clone(), self.mesh.manifests().join("catalog.yaml"));
        let text = std::fs::read_to_string(&file).unwrap();
        if end == End::Unannounced {
            self.mesh.kill_control_plane();
        } else {
            manifests::replace(&file, &manifests::with_terminating(&text, &pod)).unwrap();
        }
        let start = Instant::now();
        if end == End::Kubelet {
            let volume = self.mesh.volume(&pod);
            let mut drain = Command::new(self.mesh.program("leno-proxy"));
            let output = drain.arg("drain").arg("--volume").arg(volume).output().unwrap();
            assert!(output.status.success(), "leno-proxy drain: {}", String::from_utf8_lossy(&output.stderr));
        } else {
            self.mesh.sidecar(number).unwrap().terminate().unwrap();
        }
        let application = self.mesh.application(number).unwrap();
        application.terminate().unwrap();
        let (status, _) = application.until_ended(GRACE).await.unwrap();
        assert!(status.success(), "the application ends well: {status}");
        let sidecar = self.mesh.sidecar(number).unwrap();
        if end == End::Kubelet {
            sidecar.terminate().unwrap();
        }
        let (status, _) = sidecar.until_ended(GRACE).await.unwrap();
        let took = start.elapsed();
        assert_eq!(status.code(), Some(0), "{}", sidecar.tail());
        assert!(took < GRACE, "the kubelet would have killed it: {took:?}");
        if end == End::Unannounced {
            self.sessions_resume_without(1).await;
        } else {
            manifests::replace(&file, &text).unwrap();
        }
        took
    }

    /// The pod's successor, at its place, serving its part of the load.
    async fn begin_pod(&mut self, name: &str) {
        let number = self.number(name);
        self.mesh.start_application(number).unwrap();
        self.mesh.start_sidecar(number).unwrap();
        self.ready(name).await;
        self.until(PATIENCE, "requests at the new pod", || async {
            self.metrics(name).await.sum("leno_requests_total", &["tls=\"mtls\""]) >= 20.0
        })
        .await;
    }
}
