//! What a scrape shows.

use super::*;

#[test]
fn workers_are_summed_into_one_series() {
    let metrics = Metrics::default();
    for worker in 0..3 {
        let requests = metrics.requests(Direction::Outbound, "shop/web:80", "shop/web", worker);
        requests.ended(Tls::Mtls, 200, None, Duration::from_millis(2));
    }
    let text = metrics.render();
    let row = "leno_requests_total{direction=\"outbound\",service=\"shop/web:80\",route=\"shop/web\",tls=\"mtls\",class=\"2xx\"} 3";
    assert!(text.contains(row), "{text}");
    assert!(text.contains("leno_request_duration_seconds_bucket{direction=\"outbound\",service=\"shop/web:80\",route=\"shop/web\",le=\"0.001\"} 0"));
    assert!(text.contains("leno_request_duration_seconds_bucket{direction=\"outbound\",service=\"shop/web:80\",route=\"shop/web\",le=\"0.0025\"} 3"));
}

#[test]
fn the_same_handle_is_given_twice() {
    let metrics = Metrics::default();
    let first = metrics.pool("a/b:1", 0);
    assert!(Arc::ptr_eq(&first, &metrics.pool("a/b:1", 0)));
    assert!(!Arc::ptr_eq(&first, &metrics.pool("a/b:1", 1)));
}

#[test]
fn a_million_services_cost_a_bounded_number_of_series() {
    let metrics = Metrics::default();
    for number in 0..SERIES_MAX + 500 {
        metrics.requests(Direction::Outbound, &format!("n/s{number}:80"), "", 0).ended(
            Tls::Mtls,
            200,
            None,
            Duration::ZERO,
        );
        metrics.pool(&format!("n/s{number}:80"), 0).ejections.increment();
    }
    assert_eq!(metrics.requests.lock().len(), SERIES_MAX + 1);
    assert_eq!(metrics.pools.lock().len(), SERIES_MAX + 1);
    assert!(metrics.render().contains("leno_ejections_total{service=\"other\"} 500"));
}

#[test]
fn reasons_and_closes_have_names_of_their_own() {
    let metrics = Metrics::default();
    let requests = metrics.requests(Direction::Inbound, "8080", "", 0);
    for reason in Reason::ALL {
        requests.ended(Tls::Plaintext, 503, Some(reason), Duration::ZERO);
        metrics.proxy.connection_failures.increment(reason);
    }
    let pool = metrics.pool("n/s:80", 0);
    for why in Close::ALL {
        pool.closed(why, Duration::from_secs(1));
    }
    let text = metrics.render();
    let rows = |start: &str| text.lines().filter(|l| l.starts_with(start)).count();
    assert_eq!(rows("leno_request_failures_total{"), Reason::ALL.len());
    assert_eq!(rows("leno_connection_failures_total{"), Reason::ALL.len());
    assert_eq!(rows("leno_pool_closes_total{"), Close::ALL.len());
}

#[test]
fn every_family_is_introduced_once_and_every_sample_belongs_to_one() {
    let metrics = Metrics::default();
    metrics.pool("n/s:80", 0).acquire.record(Duration::from_millis(1));
    metrics.requests(Direction::Inbound, "80", "", 0).ended(Tls::Mtls, 0, None, Duration::ZERO);
    let level = Level { service: "n/s:80".into(), connections_max: 1024, breaker_open: Some(true) };
    let text = metrics.render_with(&[level]);
    assert!(text.contains("leno_pool_limit{service=\"n/s:80\"} 1024\n"));
    assert!(text.contains("leno_breaker_open{service=\"n/s:80\"} 1\n"));
    let mut families: Vec<&str> = text.lines().filter_map(|l| l.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let count = families.len();
    families.sort_unstable();
    families.dedup();
    assert_eq!(families.len(), count);
    for line in text.lines().filter(|l| !l.starts_with('#')) {
        let name = line.split(['{', ' ']).next().unwrap();
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|s| name.strip_suffix(s)).unwrap_or(name);
        assert!(families.contains(&name) || families.contains(&base), "{line}");
    }
}
