//! Envoy as a pair of sidecars, configured statically as a mesh would: HTTP/2 between them, SPIFFE identities checked both
//! ways, RBAC inbound, retries, timeouts, circuit breakers, outlier detection, its default statistics, one trace in a hundred.

use std::net::SocketAddr;

use serde_json::Value;
use serde_json::json;

use crate::bench::certificates::spiffe;
use crate::bench::peers::Door;
use crate::bench::peers::Setup;
use crate::bench::peers::Static;
use crate::bench::peers::text;

const TYPES: &str = "type.googleapis.com/envoy.";

pub(super) fn made(setup: &Setup) -> Static {
    let argv = |file: &str| {
        let (program, file, workers) = (text(&setup.envoy), text(&setup.folder.join(file)), setup.workers.to_string());
        [&program, "-c", &file, "--disable-hot-restart", "-l", "error", "--concurrency", &workers]
            .map(str::to_owned)
            .to_vec()
    };
    Static {
        files: vec![("out.json", outbound(setup).to_string()), ("in.json", inbound(setup).to_string())],
        outbound: argv("out.json"),
        inbound: argv("in.json"),
        doors: &[Door::Http1, Door::Http2, Door::Grpc, Door::Tls],
    }
}

fn outbound(setup: &Setup) -> Value {
    let tls = Some(tls(setup, "client", "server", &["h2"]));
    let listeners = json!([
        listener(setup.front(Door::Http1), "web", None),
        listener(setup.front(Door::Http2), "web", None),
        listener(setup.front(Door::Grpc), "echo", None),
    ]);
    let clusters = json!([
        cluster("web", setup.front(Door::Tls), true, tls.clone()),
        cluster("echo", setup.inbound_http2(), true, tls),
        cluster("spans", setup.spans, true, None),
    ]);
    bootstrap(listeners, clusters)
}

fn inbound(setup: &Setup) -> Value {
    let tls = tls(setup, "server", "client", &["h2", "http/1.1"]);
    let listeners = json!([
        listener(setup.front(Door::Tls), "web", Some(tls.clone())),
        listener(setup.inbound_http2(), "echo", Some(tls)),
    ]);
    let clusters = json!([
        cluster("web", setup.http1, false, None),
        cluster("echo", setup.http2, true, None),
        cluster("spans", setup.spans, true, None),
    ]);
    bootstrap(listeners, clusters)
}

fn bootstrap(listeners: Value, clusters: Value) -> Value {
    json!({"static_resources": {"listeners": listeners, "clusters": clusters}})
}

fn address(of: SocketAddr) -> Value {
    json!({"socket_address": {"address": of.ip().to_string(), "port_value": of.port()}})
}

fn typed(name: &str, rest: Value) -> Value {
    let mut value = json!({"@type": format!("{TYPES}{name}")});
    if let (Some(value), Value::Object(rest)) = (value.as_object_mut(), rest) {
        value.extend(rest);
    }
    value
}

fn tls(setup: &Setup, own: &str, other: &str, alpn: &[&str]) -> Value {
    let file = |name: String| json!({"filename": text(&setup.certificates.join(name))});
    let chain = json!({"certificate_chain": file(format!("{own}.pem")), "private_key": file(format!("{own}.key"))});
    let name = json!({"san_type": "URI", "matcher": {"exact": spiffe(other)}});
    json!({
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "alpn_protocols": alpn,
        "tls_certificates": [chain],
        "validation_context": {"trusted_ca": file("ca.pem".to_owned()), "match_typed_subject_alt_names": [name]},
    })
}

/// With `mtls`, an inbound one: whoever calls has to be the client.
fn listener(front: SocketAddr, cluster: &str, mtls: Option<Value>) -> Value {
    let filter =
        |name: &str, config: Value| json!({"name": format!("envoy.filters.http.{name}"), "typed_config": config});
    let router = filter("router", typed("extensions.filters.http.router.v3.Router", json!({})));
    let principal = json!({"authenticated": {"principal_name": {"exact": spiffe("client")}}});
    let rules = json!({"policies": {"client": {"permissions": [{"any": true}], "principals": [principal]}}});
    let rbac = filter("rbac", typed("extensions.filters.http.rbac.v3.RBAC", json!({"rules": rules})));
    let collector =
        json!({"grpc_service": {"envoy_grpc": {"cluster_name": "spans"}, "timeout": "1s"}, "service_name": cluster});
    let provider = json!({"name": "envoy.tracers.opentelemetry", "typed_config": typed("config.trace.v3.OpenTelemetryConfig", collector)});
    let mut manager = json!({
        "stat_prefix": cluster,
        "codec_type": "AUTO",
        "normalize_path": true,
        "stream_idle_timeout": "3600s",
        "tracing": {"random_sampling": {"value": 1.0}, "provider": provider},
        "http_filters": if mtls.is_some() { json!([rbac, router]) } else { json!([router]) },
        "route_config": {"name": "routes", "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
            {"match": {"path": "/admin"}, "route": route(cluster)},
            {"match": {"prefix": "/"}, "route": route(cluster)},
        ]}]},
    });
    let mut chain = json!({});
    if let Some(mtls) = mtls {
        manager["forward_client_cert_details"] = "SANITIZE_SET".into();
        manager["set_current_client_cert_details"] = json!({"uri": true});
        let context = json!({"require_client_certificate": true, "common_tls_context": mtls});
        let context = typed("extensions.transport_sockets.tls.v3.DownstreamTlsContext", context);
        chain["transport_socket"] = json!({"name": "envoy.transport_sockets.tls", "typed_config": context});
    }
    let manager = typed("extensions.filters.network.http_connection_manager.v3.HttpConnectionManager", manager);
    chain["filters"] = json!([{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]);
    json!({"name": front.to_string(), "address": address(front), "filter_chains": [chain]})
}

fn route(cluster: &str) -> Value {
    let retries = json!({
        "retry_on": "connect-failure,refused-stream,reset-before-request,retriable-status-codes",
        "retriable_status_codes": [503],
        "num_retries": 2,
    });
    json!({"cluster": cluster, "timeout": "15s", "retry_policy": retries})
}

fn cluster(name: &str, to: SocketAddr, http2: bool, mtls: Option<Value>) -> Value {
    let endpoint = json!({"endpoint": {"address": address(to)}});
    let protocol = if http2 { "http2_protocol_options" } else { "http_protocol_options" };
    let options =
        typed("extensions.upstreams.http.v3.HttpProtocolOptions", json!({"explicit_http_config": {protocol: {}}}));
    let limits = json!({
        "max_connections": 4096, "max_pending_requests": 4096, "max_requests": 4096, "max_retries": 3, "track_remaining": true,
    });
    let mut cluster = json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
        "circuit_breakers": {"thresholds": [limits]},
        "outlier_detection": {"consecutive_5xx": 7},
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options},
    });
    if let Some(mtls) = mtls {
        let context = json!({"sni": "server.bench.test", "common_tls_context": mtls});
        let context = typed("extensions.transport_sockets.tls.v3.UpstreamTlsContext", context);
        cluster["transport_socket"] = json!({"name": "envoy.transport_sockets.tls", "typed_config": context});
    }
    cluster
}
