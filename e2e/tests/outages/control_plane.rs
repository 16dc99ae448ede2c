//! The control plane dies, or loses what it stands on: traffic to what is known goes on, and its return is cheap.

use std::time::Duration;
use std::time::Instant;

use leno_e2e::manifests;

use crate::proxies::AGAIN;
use crate::proxies::from_volume;
use crate::stage::PATIENCE;
use crate::stage::Setting;
use crate::stage::Stage;
use crate::stage::is_long;
use crate::stage::line;
use crate::stage::tell;
use crate::stage::traffic_policy;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_control_plane_costs_no_request_and_its_return_no_push() {
    let mut stage = Stage::set(Setting::default()).await;
    let load = stage.load("caller-0", "server", 100).await;
    let start = Instant::now();
    stage.mesh.kill_control_plane();
    let away = Duration::from_secs(if is_long() { 180 } else { 30 });
    // The outage itself is what is tried, so its length is given.
    tokio::time::sleep(away).await;
    let during = load.since(start);
    stage.all_succeeded(&during);
    tell(format_args!("control plane killed for {away:?}: {}", line(&during)));

    let (metrics, took) = stage.sessions_resume().await;
    let unchanged = metrics.sum("leno_control_resources_unchanged_total", &[]);
    let puts = metrics.sum("leno_control_resources_put_total", &[]);
    tell(format_args!(
        "its return: {} sessions after {:.1} s, {unchanged} resources unchanged, {puts} pushed",
        metrics.sum("leno_control_sessions", &[]),
        took.as_secs_f64()
    ));
    assert!(unchanged > 0.0 && puts == 0.0, "sessions resume: {unchanged} unchanged, {puts} pushed");

    // And it is in charge again: what changes now goes live.
    let limited = traffic_policy("server", "rateLimit: {requestsPerSecond: 1, burst: 1}");
    manifests::replace(&stage.mesh.manifests().join("limit.yaml"), &limited).unwrap();
    let seen = Instant::now();
    stage
        .until(PATIENCE, "a policy of after the outage", || async {
            load.since(seen).reasons.contains_key("429 rate_limited")
        })
        .await;
    tell(format_args!("a policy written then is live after {:.1} s", seen.elapsed().as_secs_f64()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_control_plane_without_its_state_says_so_and_no_proxy_drops_what_it_has() {
    // A proxy is killed on the way, and what is under way on it goes with it.
    let manifests = vec![("server-policy.yaml", traffic_policy("server", AGAIN))];
    let mut stage = Stage::set(Setting { manifests, ..Setting::default() }).await;
    let load = stage.load("caller-0", "server", 100).await;
    let start = Instant::now();
    let (state, kept) = (stage.mesh.state(), stage.mesh.folder.join("kept"));
    let anchor = std::fs::read(stage.mesh.anchor()).unwrap();
    std::fs::rename(&state, &kept).unwrap();
    stage.mesh.kill_control_plane();

    stage.mesh.start_control_plane().unwrap();
    let process = stage.mesh.control_plane().unwrap();
    let (status, _) = process.until_ended(PATIENCE).await.unwrap();
    let said = process.tail();
    tell(format_args!("state folder lost, control plane ends with {status}: {}", said.lines().last().unwrap_or("")));
    assert!(!status.success(), "it must not serve: {said}");
    for words in ["ca.json is missing", "anchor.pem", "Restore", "from a backup"] {
        assert!(said.contains(words), "no word of {words:?} in: {said}");
    }
    assert_eq!(std::fs::read(stage.mesh.anchor()).unwrap(), anchor, "what proxies trust was not touched");
    assert!(!state.join("ca.json").exists(), "no new root was made");

    // A proxy that restarts meanwhile still has what it had.
    stage.mesh.kill_control_plane();
    let took = stage.restart_sidecar("server-1").await;
    // Who met it while it was down leaves it out for a while.
    stage
        .until(PATIENCE, "requests at the proxy that came back", || async {
            let inbound = &["direction=\"inbound\"", "tls=\"mtls\""];
            stage.metrics("server-1").await.sum("leno_requests_total", inbound) > 0.0
        })
        .await;
    from_volume(&mut stage, "server-1").await;
    tell(format_args!("a proxy restarted meanwhile: ready after {took:.1?}, and it serves over mTLS"));

    // The remedy that was named.
    let _ = std::fs::remove_dir_all(&state);
    std::fs::rename(&kept, &state).unwrap();
    let (metrics, _) = stage.sessions_resume().await;
    let puts = metrics.sum("leno_control_resources_put_total", &[]);
    assert_eq!(puts, 0.0, "with its state back, sessions resume");
    let window = load.since(start);
    tell(format_args!("from the loss to the restored backup: {}", line(&window)));
    stage.all_succeeded(&window);
}
