//! Where spans go, and what is kept from going.

use super::*;

fn source() -> Source {
    Source { service: "web".to_owned(), namespace: "shop".to_owned(), pod: "web-0".to_owned(), pod_uid: String::new() }
}

#[tokio::test]
async fn the_endpoint_decides_the_protocol_and_nothing_is_sent_without_one() {
    let none = Environment::default();
    assert!(exporter(None, &source(), &none).unwrap().is_none());
    for endpoint in ["collector:4317", "http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"] {
        assert!(exporter(Some(endpoint), &source(), &none).unwrap().is_some(), "{endpoint}");
    }
    let disabled = Environment { disabled: true, ..none.clone() };
    assert!(exporter(Some("collector:4317"), &source(), &disabled).unwrap().is_none());
    let https = exporter(Some("https://collector:4317"), &source(), &none).unwrap_err().to_string();
    assert!(https.contains("write http://"), "{https}");
    let error = exporter(Some("http://a b"), &source(), &none).unwrap_err().to_string();
    assert!(error.contains("http://a b") && error.contains("write http://"), "{error}");
}

#[test]
fn a_second_takes_so_many_spans_and_the_next_one_again() {
    let start = Instant::now();
    let cap = Cap { start, state: AtomicU64::new(0) };
    let admitted = |at: Instant| (0..2 * PER_SECOND_MAX).filter(|_| cap.admits(1, at)).count() as u64;
    assert_eq!(admitted(start), PER_SECOND_MAX);
    assert_eq!(admitted(start + Duration::from_millis(999)), 0);
    assert_eq!(admitted(start + Duration::from_secs(1)), PER_SECOND_MAX);
}

#[test]
fn a_full_queue_costs_spans_and_is_counted() {
    let metrics = Arc::new(Metrics::default());
    let start = Instant::now();
    let (spans, _queue) = queue(metrics.clone(), start);
    let context =
        crate::trace::Context { trace: [1; 16], span: [1; 8], sampled: true, format: crate::trace::Format::W3c };
    let span = crate::trace::Span { context, parent: None };
    let time = std::time::SystemTime::UNIX_EPOCH;
    let record = Record {
        span,
        parent: Lives::Here,
        kind: Kind::Client,
        name: "GET".to_owned(),
        start: time,
        end: time,
        attributes: vec![],
        status: Status::Unset,
    };
    for number in 0..WAITING_MAX as u64 / 4 {
        spans.offer(vec![record.clone(); 4], start + Duration::from_secs(number));
    }
    assert_eq!(metrics.proxy.spans_dropped.value(), 0);
    spans.offer(vec![record; 3], start + Duration::from_secs(WAITING_MAX as u64));
    assert_eq!(metrics.proxy.spans_dropped.value(), 3);
}

fn attribute(resource: &Resource, key: &'static str) -> Option<String> {
    resource.get(&opentelemetry::Key::from_static_str(key)).map(|value| value.to_string())
}

#[test]
fn a_pod_is_named_after_its_workload_unless_the_operator_names_it() {
    let source = Source { pod: "web-7d4b9c6f5-x2x4z".to_owned(), pod_uid: "u-1".to_owned(), ..source() };
    let known = resource(&source, &Environment::default());
    for (key, value) in [
        ("service.name", "web"),
        ("service.namespace", "shop"),
        ("service.instance.id", "u-1"),
        ("k8s.namespace.name", "shop"),
        ("k8s.pod.name", "web-7d4b9c6f5-x2x4z"),
        ("telemetry.sdk.language", "rust"),
    ] {
        assert_eq!(attribute(&known, key).as_deref(), Some(value), "{key}");
    }
    let told = Some("service.name=till,team=a%20%26%20b, k8s.pod.name=p".to_owned());
    let environment = Environment { resource: told, ..Environment::default() };
    let named = resource(&source, &environment);
    assert_eq!(attribute(&named, "service.name").as_deref(), Some("till"));
    assert_eq!(attribute(&named, "team").as_deref(), Some("a & b"));
    assert_eq!(attribute(&named, "k8s.pod.name").as_deref(), Some("p"));
    let environment = Environment { service: Some("desk".to_owned()), ..environment };
    assert_eq!(attribute(&resource(&source, &environment), "service.name").as_deref(), Some("desk"));
    let wrong = Environment { resource: Some("a=b,c=%zz".to_owned()), ..Environment::default() };
    assert_eq!(attribute(&resource(&source, &wrong), "a"), None);
}

#[test]
fn what_controllers_append_to_a_pods_name_is_not_its_workloads() {
    for (pod, expected) in [
        ("web-7d4b9c6f5-x2x4z", Some("web")),
        ("web-front-5d8b4c-2xkfz", Some("web-front")),
        ("agent-x2x4z", Some("agent")),
        ("db-0", Some("db")),
        ("db-main-12", Some("db-main")),
        ("my-debug-shell", Some("my-debug-shell")),
        ("single", None),
    ] {
        assert_eq!(workload(pod), expected, "{pod}");
    }
}
