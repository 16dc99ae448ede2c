//! A proxy is killed: it comes back from its volume, with or without a control plane, and the other replicas carry on.

use std::time::Instant;

use leno_e2e::http::Client;
use leno_e2e::story;

use crate::stage::PATIENCE;
use crate::stage::Setting;
use crate::stage::Stage;
use crate::stage::line;
use crate::stage::tell;
use crate::stage::traffic_policy;

/// What is under way on a killed proxy is lost with it; a GET may be asked again, so policy does.
pub(crate) const AGAIN: &str =
    "retries: {attempts: 3, retryOn: [ConnectFailure, RefusedStream, ResetBeforeRequest, Reset]}";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_proxy_comes_back_from_its_volume() {
    let manifests = vec![("server-policy.yaml", traffic_policy("server", AGAIN))];
    let mut stage = Stage::set(Setting { manifests, ..Setting::default() }).await;
    servers_side(&mut stage, "control plane up").await;
    callers_side(&mut stage, "control plane up").await;
    stage.mesh.kill_control_plane();
    servers_side(&mut stage, "control plane down").await;
    callers_side(&mut stage, "control plane down").await;
}

/// Under load: the other replica carries it, and the killed one takes its part again.
async fn servers_side(stage: &mut Stage, when: &str) {
    let load = stage.load("caller-0", "server", 100).await;
    let start = Instant::now();
    let number = stage.number("server-0");
    stage.mesh.kill_sidecar(number);
    story::watch(&load, 200).await.unwrap();
    let took = stage.restart_sidecar("server-0").await;
    // Until its clients try it again.
    stage
        .until(PATIENCE, "requests at the proxy that came back", || async {
            stage.metrics("server-0").await.sum("leno_requests_total", &["tls=\"mtls\""]) >= 20.0
        })
        .await;
    let window = load.since(start);
    load.stop();
    from_volume(stage, "server-0").await;
    tell(format_args!("{when}, a server's proxy killed: ready after {took:.1?}; {}", line(&window)));
    stage.all_succeeded(&window);
}

/// Its application has nobody else to ask; so what counts is that it is served once the proxy is there.
async fn callers_side(stage: &mut Stage, when: &str) {
    let listener = stage.way("caller-0", "server");
    let took = stage.restart_sidecar("caller-0").await;
    let mut client = Client::new(listener);
    for _ in 0..50 {
        let answer = client.get("server", "/").await.unwrap();
        assert_eq!(answer.status(), 200, "{:?}", answer.headers());
    }
    from_volume(stage, "caller-0").await;
    tell(format_args!("{when}, a caller's proxy killed: ready after {took:.1?}, then 0 of 50 failed"));
}

/// Its certificate is the one that it had: none was asked for, and no peer came before it was in force.
pub(crate) async fn from_volume(stage: &mut Stage, pod: &str) {
    let renewals = stage.metrics(pod).await.sum("leno_certificate_renewals_total", &[]);
    assert_eq!(renewals, 0.0, "{pod} took its certificate from its volume");
    assert_eq!(
        stage.connections_refused(pod, "no_certificate").await,
        0.0,
        "{pod} accepted before it had its certificate"
    );
    assert!(stage.said(pod).contains("certificate restored from the volume"));
}
