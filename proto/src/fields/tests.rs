//! What users write, what it means, and what they are told where it is wrong.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::policy::Traffic;

fn body(value: Value) -> Body {
    match value {
        Value::Object(body) => body,
        _ => panic!("a body is an object"),
    }
}

fn said(table: &[Field], value: Value) -> String {
    let problems = check(table, &body(value));
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n")
}

#[test]
fn every_default_is_a_value_that_its_own_field_takes() {
    for field in TRAFFIC.iter().chain(INBOUND).filter(|f| !f.default.is_empty()) {
        let value = match field.kind {
            Kind::Count { .. } | Kind::Percent => json!(field.default.parse::<u32>().unwrap()),
            Kind::Switch => json!(field.default == "true"),
            _ => json!(field.default),
        };
        // 0 stands for off where a count of one is the least that does something.
        assert_eq!(fault(field.kind, &value), None, "{}", field.path);
    }
}

/// kubectl still reads YAML 1.1, where these words are true and false: a bare `on:` would be a field of another name.
#[test]
fn no_field_is_named_as_a_truth_value() {
    let truths = ["y", "n", "yes", "no", "on", "off", "true", "false"];
    for field in TRAFFIC.iter().chain(INBOUND) {
        assert!(
            field.path.split('.').all(|name| !truths.contains(&name.to_ascii_lowercase().as_str())),
            "{}",
            field.path
        );
    }
}

#[test]
fn profiles_are_valid_policies_and_differ_where_they_say() {
    for profile in [Profile::Minimal, Profile::Recommended, Profile::Strict] {
        assert_eq!(check(TRAFFIC, &profile.traffic()), []);
        assert_eq!(check(INBOUND, &profile.inbound()), []);
    }
    let (minimal, strict) = (traffic(&Profile::Minimal.traffic()), traffic(&Profile::Strict.traffic()));
    assert_eq!((minimal.retries.attempts, minimal.circuit_breaker.endpoint.consecutive_failures), (0, None));
    assert_eq!(minimal.load_balancing.slow_start, None);
    assert_eq!(traffic(&Profile::Recommended.traffic()), Traffic::default());
    assert_eq!(strict.timeouts.request, Some(Duration::from_secs(30)));
    assert!(strict.circuit_breaker.service.is_some());
    assert_eq!(inbound(&Profile::Strict.inbound()).tls, crate::policy::TlsMode::Strict);
}

#[test]
fn no_path_stands_twice() {
    for table in [TRAFFIC, INBOUND] {
        let mut paths: Vec<&str> = table.iter().map(|f| f.path).collect();
        paths.sort_unstable();
        let count = paths.len();
        paths.dedup();
        assert_eq!(paths.len(), count);
    }
}

#[test]
fn an_empty_body_is_valid_and_bounds_everything() {
    assert_eq!(said(TRAFFIC, json!({})), "");
    assert_eq!(said(INBOUND, json!({})), "");
    let policy = Traffic::default();
    assert_eq!(policy.connection.connect_timeout, Duration::from_secs(2));
    assert_eq!((policy.connection.max_connections, policy.concurrency.max_requests), (1024, 1024));
    assert_eq!(policy.timeouts.request, None);
    assert_eq!(policy.retries.attempts, 2);
    assert!(policy.circuit_breaker.service.is_none() && policy.rate_limit.is_none());
    assert_eq!(policy, crate::testing::traffic());
}

#[test]
fn a_route_s_policy_counts_for_requests_and_says_what_has_no_effect() {
    let (http, tcp) = (RouteKind::Http, RouteKind::Tcp);
    let cases = [
        (http, json!({"timeouts": {"request": "1s"}, "retries": {"attempts": 1}}), &[][..]),
        (http, json!({"retries": {"attempts": 1, "budget": {"percent": 50}}}), &["retries.budget.percent"]),
        (http, json!({"connection": {"maxPending": 1}, "mode": "Shadow"}), &["connection.maxPending", "mode"]),
        // A part stands for its members, and what is put back counts as what is set.
        (http, json!({"circuitBreaker": {"service": {"openFor": "1s"}}}), &["circuitBreaker.service"]),
        (http, json!({"retries": null, "rateLimit": null}), &["rateLimit"]),
        (tcp, json!({"timeouts": {"streamIdle": "1m", "request": "1s"}}), &["timeouts.request"]),
        (tcp, json!({"retries": {"attempts": 1, "methods": "Any"}}), &["retries.methods"]),
    ];
    for (kind, policy, idle) in cases {
        let policy = body(policy);
        assert_eq!(idle_on_route(kind, &policy), idle, "{policy:?}");
        let kept = on_route(kind, &policy);
        assert_eq!(idle_on_route(kind, &kept), [""; 0], "{policy:?}");
        let lost = set_fields(TRAFFIC, &policy).len() - set_fields(TRAFFIC, &kept).len();
        assert!(lost >= idle.len(), "{policy:?} became {kept:?}");
    }
    let whole = body(json!({"timeouts": {"request": "1s"}, "retries": {"budget": {"percent": 50}, "attempts": 1}}));
    assert_eq!(on_route(http, &whole), body(json!({"timeouts": {"request": "1s"}, "retries": {"attempts": 1}})));
}

#[test]
fn what_counts_for_requests_alone_has_no_effect_on_bytes() {
    for path in OF_REQUESTS {
        assert!(TRAFFIC.iter().any(|field| field.path == path || is_below(field.path, path)), "{path} is no field");
    }
    let cases = [
        (json!({"timeouts": {"streamIdle": "1m", "maxStreamDuration": "1h"}, "retries": {"attempts": 1}}), &[][..]),
        (json!({"connection": {"maxConnections": 9}, "loadBalancing": {"algorithm": "RoundRobin"}}), &[]),
        (json!({"timeouts": {"request": "1s"}, "rateLimit": {"burst": 3}}), &["rateLimit", "timeouts.request"]),
        (
            json!({"circuitBreaker": {"service": {"openFor": "1s"}, "endpoint": {"consecutiveFailures": 3}}}),
            &["circuitBreaker.service"],
        ),
    ];
    for (policy, idle) in cases {
        assert_eq!(idle_for_bytes(&body(policy.clone())), idle, "{policy}");
    }
}

#[test]
fn a_duration_is_printed_as_a_user_would_write_it() {
    let cases = [
        (0, "0s"),
        (1, "1ms"),
        (250, "250ms"),
        (1000, "1s"),
        (1500, "1500ms"),
        (61_250, "61250ms"),
        (90_000, "1m30s"),
        (100_001, "1m40s1ms"),
        (3_600_000, "1h"),
        (5_400_000, "1h30m"),
        (359_999_999, "99h59m59s999ms"),
    ];
    for (millis, text) in cases {
        let duration = Duration::from_millis(millis);
        assert_eq!(duration::print(duration), text);
        assert_eq!(duration::parse(text), Ok(duration));
    }
}

#[test]
fn what_is_wrong_names_the_field_and_the_remedy() {
    let cases = [
        (json!({"timeouts": {"request": 30}}), "timeouts.request: 30 has no unit; write \"30s\", or such as \"1ms\""),
        (
            json!({"timeouts": {"request": "30"}}),
            "timeouts.request: \"30\" has no unit; write such as \"250ms\", \"30s\", \"1h30m\"",
        ),
        (json!({"timeouts": {"request": "25h"}}), "timeouts.request: 25h is out of bounds; write 1ms to 24h"),
        (json!({"timeouts": {"requests": "1s"}}), "timeouts.requests: no such field; did you mean request?"),
        (json!({"timeout": {"request": "1s"}}), "timeout: no such field; did you mean timeouts?"),
        (
            json!({"timeouts": "1s"}),
            "timeouts: takes an object with request, perTry, firstByte, streamIdle, maxStreamDuration",
        ),
        (
            json!({"connection": {"maxConnections": 0}}),
            "connection.maxConnections: 0 is out of bounds; write an integer from 1 to 100000",
        ),
        (
            json!({"connection": {"maxConnections": 1.5}}),
            "connection.maxConnections: 1.5 is out of bounds; write an integer from 1 to 100000",
        ),
        (
            json!({"connection": {"maxConnections": "10"}}),
            "connection.maxConnections: \"10\" is not an integer from 1 to 100000",
        ),
        (
            json!({"retries": {"budget": {"percent": 101}}}),
            "retries.budget.percent: 101 is out of bounds; write an integer from 0 to 100",
        ),
        (
            json!({"connection": {"maxLifetime": "5s"}}),
            "connection.maxLifetime: 5s is out of bounds; write 30s to 24h, or 0s to turn it off",
        ),
        (json!({"mode": "Audit"}), "mode: \"Audit\" is not one of Enforce, Shadow"),
        (
            json!({"circuitBreaker": {"service": {"trip": {"ratio": {}, "count": {}}}}}),
            "circuitBreaker.service.trip: set exactly one of ratio, consecutive, count",
        ),
        (
            json!({"timeouts": {"request": "1s", "perTry": "2s"}}),
            "timeouts.perTry: 2s is longer than timeouts.request (1s); shorten it",
        ),
        (
            json!({"retries": {"backoff": {"base": "1s"}}}),
            "retries.backoff.base: 1s is above retries.backoff.max (250ms); lower it or raise the maximum",
        ),
        (
            json!({"connection": {"capacity": {}}}),
            "connection.capacity: set connection.capacity.maxConnections: what the destination takes in all",
        ),
    ];
    for (value, expected) in cases {
        assert_eq!(said(TRAFFIC, value.clone()), expected, "{value}");
    }
    assert!(said(TRAFFIC, json!({"retries": {"methods": "Any"}})).contains("acknowledgeNonIdempotent: true"));
    assert!(
        said(TRAFFIC, json!({"retries": {"retryOn": ["Sometimes"]}}))
            .starts_with("retries.retryOn: \"Sometimes\" is not one of")
    );
    assert_eq!(said(TRAFFIC, json!({"retries": {"retryOn": ["ServerError", 503]}})), "");
}

#[test]
fn more_specific_policy_overrides_field_by_field_and_lists_and_unions_whole() {
    let mut base = body(json!({"timeouts": {"request": "1s", "perTry": "1s"}, "retries": {"retryOn": ["Reset"]},
        "circuitBreaker": {"service": {"trip": {"ratio": {"failurePercent": 10}}}}}));
    let over = body(json!({"timeouts": {"request": "5s", "perTry": null}, "retries": {"retryOn": ["Timeout"]},
        "circuitBreaker": {"service": {"trip": {"consecutive": {"count": 3}}}}}));
    merge(TRAFFIC, &mut base, &over);
    let policy = traffic(&base);
    assert_eq!((policy.timeouts.request, policy.timeouts.per_try), (Some(Duration::from_secs(5)), None));
    assert_eq!(policy.retries.on, [crate::policy::RetryOn::Timeout]);
    assert_eq!(policy.circuit_breaker.service.unwrap().trip, crate::policy::Trip::Consecutive { count: 3 });
}

#[test]
fn what_this_release_does_not_enforce_is_named() {
    let set = body(json!({"mode": "Shadow", "timeouts": {"request": "1s"}, "concurrency": {"adaptive": "Enforce"}}));
    assert_eq!(unsupported(TRAFFIC, &set), ["concurrency.adaptive", "mode"]);
}

#[test]
fn disjoint_bodies_share_no_field() {
    let (a, b) = (body(json!({"timeouts": {"request": "1s"}})), body(json!({"timeouts": {"perTry": "1s"}})));
    assert!(are_disjoint(TRAFFIC, &a, &b) && !are_disjoint(TRAFFIC, &a, &a));
}

#[test]
fn durations_are_read_and_printed_as_gep_2257_says() {
    for (text, millis) in [
        ("1s", 1000),
        ("250ms", 250),
        ("1h30m", 5_400_000),
        ("0s", 0),
        ("1h1m1s1ms", 3_661_001),
        ("99999h", 359_996_400_000),
    ] {
        assert_eq!(duration::parse(text), Ok(Duration::from_millis(millis)), "{text}");
    }
    for text in ["", "s", "1", "1 s", "1.5s", "-1s", "1d", "100000s", "1s1s1s1s1s", "1S", "٣s"] {
        assert!(duration::parse(text).is_err(), "{text}");
    }
}

/// A value of the field: `edge` 0 is its least, 1 its most, 2 what else it takes.
fn value(field: &Field, edge: usize) -> Value {
    match field.kind {
        Kind::Duration { zero: true, .. } if edge == 2 => json!("0s"),
        Kind::Duration { min, max, .. } => json!([min, max, min][edge]),
        Kind::Count { min, max } => json!([min, max, min.midpoint(max)][edge]),
        Kind::Percent => json!([0, 100, 50][edge]),
        Kind::Switch => json!(edge == 0),
        Kind::Choice(of) => json!(of[edge % of.len()]),
        Kind::Text => json!("x-name"),
        Kind::Choices { of, codes } => {
            json!([of[edge], codes.map(|(min, max)| [min, max, min][edge])])
        }
        Kind::Objects => json!([{"spiffe": "spiffe://a/*", "requestsPerSecond": 1}]),
        Kind::Part | Kind::Union => json!({}),
    }
}

/// The body that sets the picked fields.
fn picked(table: &[Field], picks: &[(usize, usize)]) -> Body {
    let mut all = Body::new();
    for (field, edge) in picks {
        let field = &table[field % table.len()];
        let mut over = value(field, *edge);
        for name in field.path.rsplit('.') {
            over = json!({name: over});
        }
        merge(table, &mut all, &body(over));
    }
    all
}

#[test]
fn each_field_alone_at_its_bounds_is_valid_and_one_beyond_is_not() {
    // What a field says only together with another is below, in the order of the tables.
    let mut alone = Vec::new();
    for table in [TRAFFIC, INBOUND] {
        for (at, field) in table.iter().enumerate() {
            for edge in 0..2 {
                let problems = check(table, &picked(table, &[(at, edge)]));
                if !problems.is_empty() && !alone.contains(&field.path) {
                    alone.push(field.path);
                }
            }
            for beyond in beyond(field.kind) {
                assert!(fault(field.kind, &beyond).is_some(), "{} takes {beyond}", field.path);
            }
        }
    }
    let expected = [
        "connection.capacity",
        "connection.capacity.reservePercent",
        "connection.idleTimeout",
        "connection.maxLifetime",
        "retries.methods",
        "retries.backoff.base",
        "retries.backoff.max",
        "circuitBreaker.endpoint.penalty.min",
        "circuitBreaker.endpoint.penalty.max",
        "circuitBreaker.service.trip",
        "circuitBreaker.service.openFor",
        "circuitBreaker.service.openForMax",
        "loadBalancing.hash",
        "loadBalancing.hash.header",
        "loadBalancing.hash.cookie",
        "loadBalancing.hash.sourceIP",
        "overload.shedPercent",
        "overload.refusePercent",
    ];
    assert_eq!(alone, expected);
}

fn beyond(kind: Kind) -> Vec<Value> {
    let millis = |text, more: i64| {
        let millis = duration::parse(text).unwrap().as_millis() as i64 + more;
        json!(format!("{}ms", millis.min(99_999)))
    };
    match kind {
        Kind::Duration { min: "1ms", .. } => vec![json!("1441h"), json!(1), json!("")],
        Kind::Duration { min, .. } => vec![json!("1441h"), millis(min, -1), json!(1)],
        Kind::Count { min, max } => vec![json!(i64::from(min) - 1), json!(u64::from(max) + 1), json!("1")],
        Kind::Percent => vec![json!(-1), json!(101), json!(1.5)],
        Kind::Switch => vec![json!("true"), json!(0)],
        Kind::Choice(_) => vec![json!("other"), json!([]), json!("")],
        Kind::Text => vec![json!(""), json!("a".repeat(254)), json!(1)],
        Kind::Choices { .. } => vec![json!(["other"]), json!("Reset"), json!([null]), json!(vec!["Reset"; 65])],
        Kind::Objects => vec![json!([1]), json!({}), json!(vec![json!({}); 65])],
        Kind::Part | Kind::Union => vec![json!(1), json!([])],
    }
}

#[test]
fn an_override_that_would_say_nothing_is_refused() {
    for item in [
        json!({}),
        json!({"spiffe": "*", "requestsPerSecond": 1}),
        json!({"spiffe": "spiffe://a/b", "requestsPerSecond": 0}),
        json!({"spiffe": "spiffe://a/b", "requestsPerSecond": 1, "burst": 0}),
        json!({"spiffe": "spiffe://a/b", "requestsPerSecond": 1, "brust": 1}),
    ] {
        let said = said(INBOUND, json!({"rateLimit": {"overrides": [item]}}));
        assert!(said.starts_with("rateLimit.overrides[0]: "), "{said}");
    }
}

proptest! {
    #[test]
    fn whatever_is_valid_reaches_the_proxy(
        out in proptest::collection::vec((0usize..200, 0usize..3), 0..12),
        arriving in proptest::collection::vec((0usize..200, 0usize..3), 0..12),
    ) {
        use crate::policy::*;
        let (out, arriving) = (picked(TRAFFIC, &out), picked(INBOUND, &arriving));
        let workload = |endpoint| Resource::Destination(Destination::Workload(Box::new(Workload {
            endpoint, protocol: Protocol::Http1, policy: std::sync::Arc::new(traffic(&out)) })));
        if check(TRAFFIC, &out).is_empty() {
            let resource = workload(crate::testing::endpoint("a"));
            prop_assert_eq!(Resource::decode(&resource.encode()), Ok(resource));
        }
        if check(INBOUND, &arriving).is_empty() {
            let policy = std::sync::Arc::new(inbound(&arriving));
            let port = InboundPort {
                port: 0, protocol: Protocol::Detect, listen: None, policy, access: Access::default() };
            let resource = Resource::Inbound(Inbound {
                uid: "a".into(), identity: "spiffe://a/b".parse().unwrap(), namespace: "a".into(), pod: "a".into(),
                addresses: Vec::new(), ports: Vec::new(), other: port, grace: Duration::from_secs(30),
                node: "".into(), zone: "".into() });
            prop_assert_eq!(Resource::decode(&resource.encode()), Ok(resource));
        }
    }

    #[test]
    fn durations_come_back_from_their_text(millis in 0u64..359_999_000) {
        let duration = Duration::from_millis(millis);
        prop_assert_eq!(duration::parse(&duration::print(duration)), Ok(duration));
    }

    #[test]
    fn merging_is_associative(picks in proptest::collection::vec((0usize..3, 0usize..TRAFFIC.len()), 0..40)) {
        let mut levels = [Body::new(), Body::new(), Body::new()];
        for (level, field) in picks {
            let field = &TRAFFIC[field];
            let value = match field.kind {
                Kind::Duration { min, .. } => json!(min),
                Kind::Count { min, .. } => json!(min),
                Kind::Percent => json!(level),
                Kind::Switch => json!(true),
                Kind::Choice(of) => json!(of[level % of.len()]),
                _ => continue,
            };
            let mut over = value;
            for name in field.path.rsplit('.') {
                over = json!({name: over});
            }
            merge(TRAFFIC, &mut levels[level], &body(over));
        }
        let mut left = levels[0].clone();
        merge(TRAFFIC, &mut left, &levels[1]);
        merge(TRAFFIC, &mut left, &levels[2]);
        let mut upper = levels[1].clone();
        merge(TRAFFIC, &mut upper, &levels[2]);
        let mut right = levels[0].clone();
        merge(TRAFFIC, &mut right, &upper);
        prop_assert_eq!(left, right);
    }
}
