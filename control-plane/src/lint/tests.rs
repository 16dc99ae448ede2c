use leno_proto::fields;
use serde_json::Value;
use serde_json::json;

use super::*;

fn codes(body: Value, site: &Site) -> Vec<&'static str> {
    let policy = fields::traffic(body.as_object().unwrap());
    let found = traffic(&policy, site);
    for warning in &found {
        for field in warning.fields {
            let known = fields::TRAFFIC.iter().any(|one| one.path == *field);
            assert!(known, "{field} of {} is no field", warning.code);
        }
        assert!(!warning.remedy.is_empty() && !warning.message.is_empty());
    }
    found.into_iter().map(|warning| warning.code).collect()
}

#[test]
fn nothing_is_said_of_the_defaults() {
    let site = Site { meshed_endpoints: Some(3), server_idle: Some(Duration::from_secs(600)), ..Site::default() };
    assert_eq!(codes(json!({}), &site), [""; 0]);
    assert_eq!(inbound(&fields::inbound(&fields::Body::new())), []);
}

#[test]
fn each_contradiction_has_its_code() {
    let plain = Site::default();
    let grpc = Site { protocol: Protocol::Grpc, ..Site::default() };
    let meshed = Site { meshed_endpoints: Some(3), ..Site::default() };
    let opaque = Site { protocol: Protocol::Opaque, ..meshed };
    let short_server = Site { server_idle: Some(Duration::from_secs(60)), ..Site::default() };
    let long = json!({"request": "10s"});
    let cases = [
        (json!({"timeouts": {"request": "10s", "perTry": "11s"}}), plain, "PER_TRY_ABOVE_REQUEST"),
        (json!({"timeouts": {"request": "10s", "perTry": "4s"}}), plain, "RETRIES_CUT_SHORT"),
        (json!({"timeouts": {"request": "10s", "perTry": "3s"}}), plain, ""),
        (json!({"timeouts": {"request": "10s", "perTry": "10s"}, "retries": {"attempts": 0}}), plain, ""),
        (json!({"timeouts": {"request": "10s", "firstByte": "10s"}}), plain, "FIRST_BYTE_NEVER_APPLIES"),
        (json!({"timeouts": {"request": "10s", "maxStreamDuration": "5s"}}), plain, "STREAM_ENDS_BEFORE_REQUEST"),
        (json!({"timeouts": long, "connection": {"connectTimeout": "10s"}}), plain, "CONNECT_TAKES_ALL"),
        (json!({"timeouts": long, "connection": {"acquireTimeout": "20s"}}), plain, "QUEUE_TAKES_ALL"),
        (json!({"retries": {"retryOn": ["GrpcUnavailable"]}}), grpc, "GRPC_NEVER_RETRIED"),
        (json!({"retries": {"retryOn": ["ConnectFailure"]}}), grpc, ""),
        (
            json!({"retries": {"retryOn": ["GatewayError"], "budget": {"percent": 0, "minPerSecond": 0}}}),
            plain,
            "NO_RETRY_BUDGET",
        ),
        (json!({"retries": {"budget": {"percent": 80}}}), plain, "LOOSE_RETRY_BUDGET"),
        (json!({"timeouts": {"perTry": "20ms"}}), plain, "BACKOFF_ABOVE_TRY"),
        (json!({"connection": {"idleTimeout": "60s"}}), plain, "KEEPALIVE_NEVER_SENT"),
        (json!({"connection": {"idleTimeout": "61s"}}), plain, ""),
        (json!({"connection": {"maxLifetime": "5m"}}), plain, "IDLE_NEVER_APPLIES"),
        (json!({}), short_server, "SERVER_CLOSES_FIRST"),
        (json!({"connection": {"maxConnections": 2}}), meshed, "FEW_HOP_CONNECTIONS"),
        (json!({"connection": {"maxConnections": 2}}), plain, ""),
        (json!({"connection": {"maxConnections": 2}}), opaque, ""),
        (json!({"circuitBreaker": {"endpoint": {"maxEjectedPercent": 80}}}), plain, "PANIC_BEFORE_EJECTION"),
        (json!({"circuitBreaker": {"endpoint": {"maxEjectedPercent": 0}}}), plain, "NOTHING_EJECTED"),
        (
            json!({"circuitBreaker": {"service": {}}, "rateLimit": {"requestsPerSecond": 1, "burst": 5}}),
            plain,
            "BREAKER_NEVER_TRIPS",
        ),
        (json!({"circuitBreaker": {"service": {"slow": {"threshold": "10s"}}}, "timeouts": long}), plain, "NEVER_SLOW"),
    ];
    for (body, site, expected) in cases {
        let expected: Vec<&str> = Some(expected).into_iter().filter(|code| !code.is_empty()).collect();
        assert_eq!(codes(body.clone(), &site), expected, "{body}");
    }
}

#[test]
fn the_server_side_has_its_own() {
    let cases = [
        (json!({"timeouts": {"idle": "1m"}}), "SERVER_CLOSES_FIRST"),
        (json!({"http2": {"maxConcurrentStreams": 8}}), "FEW_STREAMS"),
        (json!({"connections": {"maxAge": "1m", "maxAgeGrace": "2m"}}), "GRACE_ABOVE_AGE"),
    ];
    for (body, expected) in cases {
        let found = inbound(&fields::inbound(body.as_object().unwrap()));
        assert_eq!(found.iter().map(|warning| warning.code).collect::<Vec<_>>(), [expected]);
        let known = |field: &str| fields::INBOUND.iter().any(|one| one.path == field);
        assert!(found[0].fields.iter().all(|field| known(field)));
    }
}

#[test]
fn what_sidecars_do_otherwise_than_kube_proxy_is_said_of_the_service() {
    let found = |spec: Value, annotations: Value| {
        let meta = json!({"name": "orders", "namespace": "shop", "annotations": annotations});
        let service = serde_json::from_value(json!({"metadata": meta, "spec": spec})).unwrap();
        service_fields(&service)
    };
    let affinity = |seconds: u32| json!({"clientIP": {"timeoutSeconds": seconds}});
    let cases = [
        (json!({"internalTrafficPolicy": "Local", "publishNotReadyAddresses": true}), json!({}), ""),
        (json!({"trafficDistribution": "PreferSameNode"}), json!({}), ""),
        (json!({"trafficDistribution": "PreferMoon"}), json!({}), "trafficDistribution"),
        (json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": affinity(10_800)}), json!({}), ""),
        (
            json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": affinity(60)}),
            json!({}),
            "sessionAffinityConfig.clientIP.timeoutSeconds",
        ),
        (json!({}), json!({"service.kubernetes.io/topology-mode": "Auto"}), "metadata.annotations"),
        (json!({}), json!({"service.kubernetes.io/topology-mode": "Disabled"}), ""),
    ];
    for (spec, annotations, field) in cases {
        assert_eq!(found(spec.clone(), annotations), field, "{spec}");
    }
}

fn service_fields(one: &Service) -> String {
    service(one).into_iter().map(|finding| finding.field).collect::<Vec<_>>().join(" ")
}
