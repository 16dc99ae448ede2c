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
    let error = exporter(Some("http://a b"), &source(), &none).unwrap_err().to_string();
    assert!(error.contains("http://a b") && error.contains("write http://"), "{error}");
}

#[test]
fn a_second_takes_so_many_spans_and_the_next_one_again() {
    let start = Instant::now();
    let cap = Cap { start, state: AtomicU64::new(0) };
    let admitted = |at: Instant| (0..2 * PER_SECOND_MAX).filter(|_| cap.admits(at)).count() as u64;
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
        parent_is_remote: false,
        kind: Kind::Client,
        name: "GET".to_owned(),
        start: time,
        end: time,
        attributes: vec![],
        failed: false,
    };
    for number in 0..WAITING_MAX as u64 + 9 {
        spans.offer(record.clone(), start + Duration::from_secs(number));
    }
    assert_eq!(metrics.proxy.spans_dropped.value(), 9);
}
