//! A pod goes while it is busy: its sidecar drains, and nobody's request fails.

#![allow(clippy::unwrap_used)] // A test's helper may fail the test.

use std::time::Duration;
use std::time::Instant;

use leno_e2e::load::Load;
use leno_e2e::manifests;
use leno_e2e::mesh;
use leno_e2e::mesh::Mesh;
use leno_e2e::mesh::Plan;

/// For what takes some seconds where all is well.
const PATIENCE: Duration = Duration::from_secs(180);

/// A pod's deletion as the EndpointSlice tells it, some time after the pod itself was told.
fn mark_terminating(mesh: &Mesh, service: &str, pod: &str) {
    let file = mesh.manifests().join(format!("{service}.yaml"));
    let address = mesh.pod(pod).unwrap().1.address;
    let text = std::fs::read_to_string(&file).unwrap();
    let (here, leaving) = (
        format!("- addresses: [{address}]\n  nodeName: here\n  conditions: {{"),
        "ready: false, serving: true, terminating: true}",
    );
    let mut parts = text.split(&here);
    let mut marked = parts.next().unwrap().to_owned();
    for part in parts {
        let (_, rest) = part.split_once('}').unwrap();
        marked += &format!("{here}{leaving}{rest}");
    }
    assert_ne!(marked, text, "the pod has an endpoint");
    manifests::replace(&file, &marked).unwrap();
}

#[tokio::test]
async fn a_sidecar_that_is_told_to_end_under_load_fails_no_request() {
    let network = mesh::free_network().unwrap();
    let plan = Plan {
        pods: manifests::storefront(network),
        leaf_ttl: Duration::from_secs(3600),
        fail_percent: 0,
        manifests: manifests::storefront_policies(),
        otlp: None,
    };
    let mut mesh = Mesh::start(network, plan, &|_| ()).await.unwrap();
    let door = mesh.pod("shopper-0").unwrap().1.listener("web").unwrap();
    let load = Load::start(door, "web", "/", 60, 12);
    let begun = Instant::now();
    let name = "catalog-v1-0";
    let number = mesh.pod(name).unwrap().0;
    until(&mesh, || load.since(begun).total >= 100).await;

    mesh.terminate_sidecar(number).unwrap();
    let told = Instant::now();
    until(&mesh, || load.since(told).total >= 30).await;
    mark_terminating(&mesh, "catalog", name);
    let mut ended = None;
    while ended.is_none() {
        assert!(told.elapsed() < PATIENCE, "it does not end\n{}", mesh.tails());
        tokio::time::sleep(Duration::from_millis(50)).await;
        ended = mesh.sidecar_ended(number);
    }
    let took = told.elapsed();
    let gone = Instant::now();
    until(&mesh, || load.since(gone).total >= 100).await;
    load.stop();

    let window = load.since(begun);
    println!("{} requests, {} failed; the drain took {took:?}", window.total, window.failed);
    assert_eq!(window.failed, 0, "{:?}\n{}", window.reasons, mesh.tails());
    assert!(ended.unwrap().success(), "a drain is an orderly end: {ended:?}\n{}", mesh.tails());
}

async fn until(mesh: &Mesh, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "the load stands still\n{}", mesh.tails());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
