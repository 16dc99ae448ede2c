//! Traces as a user's backend gets them: a real OpenTelemetry collector receives what the sidecars send, over OTLP/gRPC and
//! OTLP/HTTP, and one request is one connected trace through every service that it touched.

#![allow(clippy::unwrap_used)] // A test's helper may fail the test.

mod collector;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use leno_e2e::http::Client;
use leno_e2e::http::get;
use leno_e2e::manifests;
use leno_e2e::mesh;
use leno_e2e::mesh::Mesh;
use leno_e2e::mesh::Plan;

use collector::Collector;
use collector::Seen;

/// Of the requests that reach the till, every other one fails at first; retries hide it.
const FAIL_PERCENT: u32 = 50;

/// The storefront, traced: every request where `sampling` says so.
async fn storefront(sampling: &str, endpoint: impl FnOnce(&Collector) -> String) -> (Collector, Mesh, SocketAddr) {
    let network = mesh::free_network().unwrap();
    let collector = Collector::start(network).await;
    let mut manifests = manifests::storefront_policies();
    let mesh = format!(
        "apiVersion: policy.leno.dev/v1alpha1\nkind: Mesh\nmetadata: {{name: default}}\nspec:\n  trustDomain: cluster.local\n  \
         meshNetworks: [127.0.0.0/8]\n{sampling}---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {}}}\n",
        manifests::NAMESPACE
    );
    manifests.push(("00-mesh.yaml", mesh));
    let plan = Plan {
        pods: manifests::storefront(network),
        leaf_ttl: Duration::from_secs(3600),
        fail_percent: FAIL_PERCENT,
        manifests,
        otlp: Some(endpoint(&collector)),
    };
    let mesh = Mesh::start(network, plan, &|_| ()).await.unwrap();
    let door = mesh.pod("shopper-0").unwrap().1.listener("web").unwrap();
    (collector, mesh, door)
}

/// The attempts of a hop, in the order in which they were made.
fn attempts<'a>(trace: &'a [Seen], hop: &Seen) -> Vec<&'a Seen> {
    let mut attempts: Vec<&Seen> = trace.iter().filter(|span| span.parent == hop.id).collect();
    attempts.sort_by_key(|span| span.number("http.request.resend_count").unwrap_or(0));
    attempts
}

/// What the application of `from` asked `service` for.
fn hop<'a>(trace: &'a [Seen], from: &str, service: &str) -> &'a Seen {
    let found = trace.iter().find(|span| {
        span.kind == "CLIENT" && span.service() == from && span.attribute("leno.service") == Some(service)
    });
    found.unwrap_or_else(|| panic!("no hop from {from} to {service} in {trace:#?}"))
}

/// The trace of one page: the shopper's sidecar, the front's, and those of the three that the front asks. `root` is the
/// parent of its first span, where that came with the request.
fn check_page(trace: &[Seen], root: Option<&str>) {
    let ids: BTreeSet<&str> = trace.iter().map(|span| span.id.as_str()).collect();
    assert_eq!(ids.len(), trace.len(), "an id is one span's");
    let strangers: Vec<&Seen> = trace.iter().filter(|span| !ids.contains(span.parent.as_str())).collect();
    let [first] = strangers[..] else { panic!("the trace falls apart at {strangers:#?}") };
    assert_eq!(first.parent, root.unwrap_or_default());
    assert_eq!((first.kind.as_str(), first.service()), ("CLIENT", "shopper"));

    let services: BTreeSet<&str> = trace.iter().map(Seen::service).collect();
    let catalog = services.iter().find(|name| name.starts_with("catalog-v")).copied().expect("a catalog answered");
    assert_eq!(services, BTreeSet::from(["shopper", "web", "pricing", "orders", catalog]));

    for (from, to, server) in [
        ("shopper", "shop/web:80", "web"),
        ("web", hop_to_catalog(trace), catalog),
        ("web", "shop/pricing:80", "pricing"),
        ("web", "shop/orders:80", "orders"),
    ] {
        let hop = hop(trace, from, to);
        assert!(!hop.failed, "a page that came is no failure: {hop:#?}");
        let attempts = attempts(trace, hop);
        let (last, before) = attempts.split_last().expect("a hop has an attempt");
        assert_eq!(hop.number("leno.attempts"), Some(attempts.len() as i64));
        assert_eq!(last.number("http.response.status_code"), Some(200));
        assert!(!last.failed);
        for (number, attempt) in attempts.iter().enumerate() {
            assert_eq!(attempt.kind, "CLIENT");
            assert_eq!(attempt.service(), from);
            assert_eq!(attempt.number("http.request.resend_count"), (number > 0).then_some(number as i64));
            assert!(attempt.attribute("network.peer.address").is_some(), "{attempt:#?}");
            // What the other sidecar saw of it is its child, and nobody else's.
            let beneath: Vec<&Seen> = trace.iter().filter(|span| span.parent == attempt.id).collect();
            let [served] = beneath[..] else { panic!("{attempt:#?} was served as {beneath:#?}") };
            assert_eq!((served.kind.as_str(), served.service()), ("SERVER", server));
            assert_eq!(served.attribute("http.response.status_code"), attempt.attribute("http.response.status_code"));
            assert_eq!(
                served.attribute("leno.client.identity"),
                Some(&*format!("spiffe://cluster.local/ns/shop/sa/{from}"))
            );
        }
        for attempt in before {
            assert_eq!(attempt.number("http.response.status_code"), Some(503));
            assert_eq!(attempt.attribute("error.type"), Some("503"));
            assert!(attempt.failed);
        }
    }
    let orders = hop(trace, "web", "shop/orders:80");
    for span in [&[orders][..], &attempts(trace, orders)].concat() {
        assert_eq!(span.name, "storefront.v1.Orders/Place");
        assert_eq!(span.attribute("rpc.system.name"), Some("grpc"));
        assert_eq!(span.attribute("rpc.response.status_code"), Some("OK"));
    }
    for span in trace {
        assert_eq!(span.resource("k8s.namespace.name"), Some("shop"));
        assert_eq!(span.resource("k8s.pod.name").and_then(|pod| pod.rsplit_once('-')).unwrap().0, span.service());
        assert!(span.end >= span.start && span.start > 0);
        assert!(span.name == "GET" || span.name == "storefront.v1.Orders/Place", "{}", span.name);
    }
}

/// The route's choice.
fn hop_to_catalog(trace: &[Seen]) -> &str {
    let of = |span: &Seen| span.attribute("leno.service").is_some_and(|name| name.starts_with("shop/catalog"));
    let span = trace.iter().find(|span| span.kind == "CLIENT" && of(span)).expect("the front asked the catalog");
    span.attribute("leno.service").unwrap()
}

#[tokio::test]
async fn a_page_is_one_trace_over_grpc_and_each_retry_a_span() {
    let sampling = "  tracing: {sampling: {percent: 100}}\n";
    let (collector, mesh, door) = storefront(sampling, Collector::grpc).await;
    let mut client = Client::new(door);
    let mut pages = 0;
    for _ in 0..4 {
        let answer = client.get("web", "/?card=1234").await.unwrap();
        assert_eq!(answer.status(), 200, "{:?}\n{}", answer.headers(), mesh.tails());
        pages += 1;
    }
    let is_whole = |trace: &[Seen]| trace.iter().filter(|span| span.kind == "SERVER").count() >= 4 && connected(trace);
    let traces = collector.traces(pages, is_whole).await;
    for trace in &traces {
        check_page(trace, Some(""));
    }
    let resent = |span: &&Seen| span.service() == "web" && span.number("http.request.resend_count").is_some();
    assert!(
        traces.iter().flatten().filter(resent).count() >= 2,
        "half of the till's answers were failures: {traces:#?}"
    );
    assert!(!collector.text().contains("card="), "queries are nobody's business");
}

#[tokio::test]
async fn b3_comes_in_and_goes_out_and_http_carries_the_spans_too() {
    // Nothing is sampled but what the client wants.
    let (collector, mesh, door) = storefront("  tracing: {sampling: {percent: 0}}\n", Collector::http).await;
    let mut client = Client::new(door);
    let (multi, single, parent) =
        ("463ac35c9f6413ad48485a3953bb6124", "80f198ee56343ba864fe8b2a57d3eff7", "e457b5a2e4d86bd1");
    let b3 = format!("{single}-{parent}-1");
    let cases: [&[(&str, &str)]; 4] = [
        &[],
        &[("b3", "0")],
        &[("X-B3-TraceId", multi), ("X-B3-SpanId", parent), ("X-B3-Sampled", "1")],
        &[("b3", &b3)],
    ];
    for headers in cases {
        let answer = client.send(get("web", "/", headers).unwrap()).await.unwrap();
        assert_eq!(answer.status(), 200, "{:?}\n{}", answer.headers(), mesh.tails());
    }
    let is_whole = |trace: &[Seen]| trace.iter().filter(|span| span.kind == "SERVER").count() >= 4 && connected(trace);
    let traces = collector.traces(2, is_whole).await;
    let found: BTreeSet<&str> = traces.iter().map(|trace| trace[0].trace.as_str()).collect();
    assert_eq!(found, BTreeSet::from([multi, single]), "and no other");
    for trace in &traces {
        check_page(trace, Some(parent));
    }
}

/// All but the first span have their parents here, and every attempt its other end.
fn connected(trace: &[Seen]) -> bool {
    let has = |id: &str| trace.iter().any(|span| span.id == id);
    let strangers = trace.iter().filter(|span| !has(&span.parent)).count();
    let is_attempt = |span: &&Seen| span.kind == "CLIENT" && span.attribute("leno.service").is_none();
    let served = |id: &str| trace.iter().any(|span| span.parent == id);
    strangers == 1 && trace.iter().filter(is_attempt).all(|span| served(&span.id))
}
