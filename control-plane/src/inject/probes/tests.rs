use serde_json::Value;
use serde_json::json;

use crate::inject::annotation;
use crate::inject::probes::VARIABLE;
use crate::inject::probes::turn;
use crate::inject::probes::turn_later;
use crate::inject::probes::value;

/// A Pod of one container with these fields.
fn pod(container: Value) -> Value {
    let mut pod = json!({"spec": {"containers": [
        {"name": "web", "ports": [{"name": "http", "containerPort": 8080}]},
    ]}});
    pod["spec"]["containers"][0].as_object_mut().unwrap().extend(container.as_object().unwrap().clone());
    pod
}

fn turned(pod: &Value) -> (Value, Value) {
    let mut pod = pod.clone();
    let wishes = annotation::parse(&pod["metadata"]).unwrap();
    let originals = turn(&mut pod, &wishes);
    (pod, originals.into())
}

#[test]
fn a_probe_is_turned_and_its_original_is_kept() {
    let get = |path: &str| json!({"path": path, "port": 15021});
    let cases = [
        (
            json!({"readinessProbe": {"httpGet": {"path": "/healthz", "port": 8080, "scheme": "HTTPS", "httpHeaders": [{"name": "X", "value": "y"}]}, "periodSeconds": 3}}),
            json!({"readinessProbe": {"httpGet": get("/probe/web/readiness"), "periodSeconds": 3}}),
            json!({"web/readiness": {"httpGet": {"path": "/healthz", "port": 8080, "scheme": "HTTPS", "httpHeaders": [{"name": "X", "value": "y"}]}, "timeoutSeconds": 1}}),
        ),
        (
            json!({"livenessProbe": {"httpGet": {"port": "http"}, "timeoutSeconds": 7, "terminationGracePeriodSeconds": 5}}),
            json!({"livenessProbe": {"httpGet": get("/probe/web/liveness"), "timeoutSeconds": 7, "terminationGracePeriodSeconds": 5}}),
            json!({"web/liveness": {"httpGet": {"port": 8080}, "timeoutSeconds": 7}}),
        ),
        (
            json!({"startupProbe": {"tcpSocket": {"port": "5432"}, "failureThreshold": 30}}),
            json!({"startupProbe": {"httpGet": get("/probe/web/startup"), "failureThreshold": 30}}),
            json!({"web/startup": {"tcpSocket": {"port": 5432}, "timeoutSeconds": 1}}),
        ),
        (
            json!({"readinessProbe": {"grpc": {"port": 9000, "service": "orders"}}}),
            json!({"readinessProbe": {"httpGet": get("/probe/web/readiness")}}),
            json!({"web/readiness": {"grpc": {"port": 9000, "service": "orders"}, "timeoutSeconds": 1}}),
        ),
        (
            json!({"lifecycle": {"preStop": {"httpGet": {"path": "/bye", "port": "http"}}}}),
            json!({"lifecycle": {"preStop": {"httpGet": get("/probe/web/preStop")}}}),
            json!({"web/preStop": {"httpGet": {"path": "/bye", "port": 8080}, "timeoutSeconds": 30}}),
        ),
        (
            json!({"lifecycle": {"postStart": {"httpGet": {"port": 80}}}}),
            json!({"lifecycle": {"postStart": {"httpGet": get("/probe/web/postStart")}}}),
            json!({"web/postStart": {"httpGet": {"port": 80}, "timeoutSeconds": 3600}}),
        ),
    ];
    for (before, after, originals) in cases {
        assert_eq!(turned(&pod(before.clone())), (pod(after), originals), "{before}");
    }
}

#[test]
fn what_the_kubelet_does_without_the_network_or_elsewhere_stays() {
    let cases = [
        json!({"readinessProbe": {"exec": {"command": ["true"]}}}),
        json!({"readinessProbe": {"httpGet": {"port": 80, "host": "192.0.2.1"}}}),
        json!({"readinessProbe": {"tcpSocket": {"port": 80, "host": "192.0.2.1"}}}),
        // The kubelet's own error names it.
        json!({"readinessProbe": {"httpGet": {"port": "metrics"}}}),
        json!({"readinessProbe": {"httpGet": {"port": 0}}}),
        json!({"readinessProbe": {"httpGet": {"port": 15021, "path": "/ready"}}}),
        json!({"lifecycle": {"preStop": {"exec": {"command": ["true"]}}, "postStart": {"sleep": {"seconds": 1}}}}),
        // Kubernetes never acts on it.
        json!({"lifecycle": {"preStop": {"tcpSocket": {"port": 80}}}}),
    ];
    for container in cases {
        let pod = pod(container);
        assert_eq!(turned(&pod), (pod.clone(), json!({})));
    }
}

#[test]
fn a_port_that_skips_the_sidecar_is_probed_by_the_kubelet_itself() {
    let mut pod = pod(json!({
        "readinessProbe": {"httpGet": {"port": "http"}},
        "livenessProbe": {"tcpSocket": {"port": 9090}},
    }));
    pod["metadata"]["annotations"]["leno.dev/skip-inbound-ports"] = "7070, 8080".into();
    let (after, originals) = turned(&pod);
    assert_eq!(after["spec"]["containers"][0]["readinessProbe"], json!({"httpGet": {"port": "http"}}));
    assert_eq!(originals, json!({"web/liveness": {"tcpSocket": {"port": 9090}, "timeoutSeconds": 1}}));
}

#[test]
fn each_container_has_its_own_and_a_name_is_looked_for_in_its_own() {
    let probe = json!({"httpGet": {"port": "http"}});
    let container = |name: &str, port: i64| json!({"name": name, "ports": [{"name": "http", "containerPort": port}], "readinessProbe": probe});
    let mut side = container("side", 3);
    side["restartPolicy"] = "Always".into();
    let mut ours = container("leno-proxy", 4);
    ours["restartPolicy"] = "Always".into();
    let pod = json!({"spec": {
        "terminationGracePeriodSeconds": 60,
        "initContainers": [container("ends", 5), side, ours],
        "containers": [container("one", 1), container("two", 2)],
    }});
    let (_, originals) = turned(&pod);
    let port = |port: i64| json!({"httpGet": {"port": port}, "timeoutSeconds": 1});
    assert_eq!(originals, json!({"one/readiness": port(1), "two/readiness": port(2), "side/readiness": port(3)}));
}

#[test]
fn no_dollar_reaches_the_kubelet_that_expands_it() {
    let original = json!({"web/readiness": {"httpGet": {"path": "/$(HOME)/$$", "port": 1}}});
    let text = value(original.as_object().unwrap()).unwrap();
    assert!(!text.contains('$'), "{text}");
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), original);
    assert_eq!(value(&serde_json::Map::new()), None);
}

#[test]
fn what_a_later_webhook_adds_is_turned_too_and_what_was_turned_stays() {
    let wishes = annotation::parse(&Value::Null).unwrap();
    let (mut pod, originals) = turned(&pod(json!({"readinessProbe": {"httpGet": {"port": "http"}}})));
    let text = value(originals.as_object().unwrap()).unwrap();
    pod["spec"]["initContainers"] = json!([{"name": "leno-proxy", "env": [{"name": VARIABLE, "value": text}]}]);
    assert_eq!(turn_later(&pod, &wishes), None);
    let late = json!({"name": "late", "livenessProbe": {"tcpSocket": {"port": 6379}}});
    pod["spec"]["containers"].as_array_mut().unwrap().push(late);
    let later = turn_later(&pod, &wishes).unwrap();
    let text = later["spec"]["initContainers"][0]["env"][0]["value"].as_str().unwrap();
    let both: Value = serde_json::from_str(text).unwrap();
    assert_eq!(both["web/readiness"], originals["web/readiness"]);
    assert_eq!(both["late/liveness"], json!({"tcpSocket": {"port": 6379}, "timeoutSeconds": 1}));
    assert_eq!(later["spec"]["containers"][1]["livenessProbe"]["httpGet"]["path"], "/probe/late/liveness");
    assert_eq!(turn_later(&later, &wishes), None);
}
