//! A proxy with two workers: what a user limits is exact for the whole proxy, and nothing fails for being split.

use std::time::Duration;
use std::time::Instant;

use leno_e2e::load::Load;
use leno_e2e::mesh::Settings;
use leno_e2e::story;

use crate::stage::Setting;
use crate::stage::Stage;
use crate::stage::inbound_policy;
use crate::stage::line;
use crate::stage::tell;
use crate::stage::traffic_policy;

fn two_workers() -> Settings {
    Settings { sidecars: vec![("LENO_WORKERS", "2".to_owned())], ..Settings::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_workers_lose_nothing_and_keep_every_limit_exactly() {
    let manifests = vec![
        ("bulkhead-policy.yaml", traffic_policy("bulkhead", "concurrency: {maxRequests: 5}")),
        (
            "narrow-policy.yaml",
            inbound_policy("narrow", "app: {maxConnections: 3, maxPending: 1000, acquireTimeout: 30s}"),
        ),
    ];
    let stage = Stage::set(Setting {
        servers: &[("server", 1), ("bulkhead", 1), ("narrow", 1)],
        callers: &[("caller", &["server", "bulkhead", "narrow"])],
        manifests,
        settings: two_workers(),
        ..Setting::default()
    })
    .await;

    let load = stage.load("caller-0", "server", 300).await;
    let start = Instant::now();
    story::watch(&load, 1500).await.unwrap();
    let window = load.since(start);
    load.stop();
    tell(format_args!("two workers: {}", line(&window)));
    stage.all_succeeded(&window);

    // 16 connections want more than five at once, all the time.
    stage.apps[1].hold(Duration::from_millis(50));
    let load = Load::start(stage.way("caller-0", "bulkhead"), "bulkhead", "/", 400, 16);
    story::watch(&load, 1500).await.unwrap();
    load.stop();
    let window = load.since(start);
    let most = stage.apps[1].requests_most();
    tell(format_args!("concurrency.maxRequests 5 over two workers: at most {most} at once; {:?}", window.reasons));
    assert_eq!(most, 5, "all of the limit and no more");
    assert!(window.reasons.keys().all(|reason| reason == "503 concurrency_limit"), "{:?}", window.reasons);

    stage.apps[2].hold(Duration::from_millis(20));
    let start = Instant::now();
    let load = Load::start(stage.way("caller-0", "narrow"), "narrow", "/", 100, 16);
    story::watch(&load, 400).await.unwrap();
    load.stop();
    let window = load.since(start);
    // A connection carries one request, so this many are the connections in use. Those that the application sees are one
    // more for the moment in which one worker's idle one has closed and another worker's opens.
    let (most, open) = (stage.apps[2].requests_most(), stage.apps[2].connections_most());
    tell(format_args!("app.maxConnections 3 over two workers: {most} used at once, {open} seen; {}", line(&window)));
    assert_eq!(most, 3, "all of the limit and no more");
    stage.all_succeeded(&window);
}
