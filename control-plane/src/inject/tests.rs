use serde_json::Value;
use serde_json::json;

use crate::inject::Namespace;
use crate::inject::Outcome;
use crate::inject::Settings;
use crate::inject::annotation;
use crate::inject::difference;
use crate::inject::inject;
use crate::inject::list;
use crate::inject::template;

const ASKS: Namespace<'_> = Namespace { name: "shop", asks: true, enforces: "" };

fn settings() -> Settings {
    Settings {
        proxy_image: "leno/proxy:1".to_owned(),
        init_image: "leno/init:1".to_owned(),
        pull_policy: "IfNotPresent".to_owned(),
        control_plane: "leno-control-plane.leno-system.svc:15012".to_owned(),
        namespace: "leno-system".to_owned(),
        trust_domain: "cluster.local".to_owned(),
        log: "info".to_owned(),
        access_log: "errors".to_owned(),
        resources: json!({"requests": {"cpu": "20m", "memory": "32Mi"}}),
        otlp_endpoint: Some("http://collector:4317".to_owned()),
    }
}

fn pod() -> Value {
    json!({
        "metadata": {"generateName": "web-7c-", "labels": {"app": "web"}},
        "spec": {
            "terminationGracePeriodSeconds": 45,
            "initContainers": [{"name": "migrate", "image": "m"}],
            "containers": [{"name": "web", "image": "w", "ports": [{"containerPort": 8080}]}],
            "volumes": [{"name": "data", "emptyDir": {}}],
        },
    })
}

fn with(path: &str, value: Value) -> Value {
    let mut pod = pod();
    let mut at = &mut pod;
    for name in path.split(' ') {
        at = &mut at[name];
    }
    *at = value;
    pod
}

fn injected(pod: &Value) -> Value {
    match inject(pod, ASKS, &settings()) {
        Outcome::Injected(injected) => *injected,
        other => panic!("{other:?}"),
    }
}

fn refused(pod: &Value) -> String {
    match inject(pod, ASKS, &settings()) {
        Outcome::Refused(why) => why,
        other => panic!("{other:?}"),
    }
}

fn variable<'v>(container: &'v Value, name: &str) -> Option<&'v str> {
    list(&container["env"]).find(|one| one["name"] == name)?["value"].as_str()
}

#[test]
fn who_asks_gets_a_sidecar() {
    let quiet = Namespace { asks: false, ..ASKS };
    // The Pod's label, its annotation, and what follows where the namespace asks and where it does not.
    let cases = [
        (None, None, true, false),
        (Some("enabled"), None, true, true),
        (Some("disabled"), None, false, false),
        (None, Some("enabled"), true, true),
        (None, Some("disabled"), false, false),
        (Some("disabled"), Some("enabled"), false, false),
    ];
    for (label, note, asked, unasked) in cases {
        let mut pod = pod();
        if let Some(label) = label {
            pod["metadata"]["labels"]["leno.dev/inject"] = label.into();
        }
        if let Some(note) = note {
            pod["metadata"]["annotations"]["leno.dev/inject"] = note.into();
        }
        for (namespace, expected) in [(ASKS, asked), (quiet, unasked)] {
            let done = matches!(inject(&pod, namespace, &settings()), Outcome::Injected(_));
            assert_eq!(done, expected, "{label:?} {note:?} {namespace:?}");
        }
    }
}

#[test]
fn the_sidecar_comes_first_and_the_application_is_as_it_was() {
    let pod = pod();
    let injected = injected(&pod);
    let names: Vec<&Value> = list(&injected["spec"]["initContainers"]).map(|one| &one["name"]).collect();
    assert_eq!(names, ["leno-init", "leno-proxy", "migrate"]);
    assert_eq!(injected["spec"]["initContainers"][1]["restartPolicy"], "Always");
    assert_eq!(injected["spec"]["containers"], pod["spec"]["containers"]);
    assert_eq!(injected["metadata"]["labels"], pod["metadata"]["labels"]);
    let volumes: Vec<&Value> = list(&injected["spec"]["volumes"]).map(|one| &one["name"]).collect();
    assert_eq!(volumes, ["data", "leno-trust", "leno-volume"]);
    assert_eq!(injected["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"], "web");
}

#[test]
fn only_the_init_container_may_do_anything_and_only_one_thing() {
    let injected = injected(&pod());
    let init = &injected["spec"]["initContainers"][0]["securityContext"];
    assert_eq!(init["capabilities"], json!({"drop": ["ALL"], "add": ["NET_ADMIN"]}));
    let proxy = &injected["spec"]["initContainers"][1]["securityContext"];
    assert_eq!((&proxy["runAsUser"], &proxy["runAsNonRoot"]), (&json!(15000), &json!(true)));
    assert_eq!(proxy["capabilities"], json!({"drop": ["ALL"]}));
    for one in [init, proxy] {
        assert_eq!((&one["allowPrivilegeEscalation"], &one["readOnlyRootFilesystem"]), (&json!(false), &json!(true)));
    }
}

#[test]
fn the_sidecar_is_told_what_it_must_know() {
    let injected = injected(&pod());
    let proxy = &injected["spec"]["initContainers"][1];
    let expected = [
        ("LENO_GRACE", "45"),
        ("LENO_CONTROL_PLANE", "leno-control-plane.leno-system.svc:15012"),
        ("LENO_OUTBOUND_CAPTURE", "127.0.0.1:15001,[::1]:15001"),
        ("OTEL_SERVICE_NAME", "web"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317"),
    ];
    for (name, value) in expected {
        assert_eq!(variable(proxy, name), Some(value), "{name}");
    }
    let names = ["LENO_POD_NAME", "LENO_POD_NAMESPACE", "LENO_POD_UID", "LENO_SERVICE_ACCOUNT"];
    for name in names {
        assert!(list(&proxy["env"]).any(|one| one["name"] == name && one["valueFrom"].is_object()), "{name}");
    }
}

#[test]
fn the_kubelets_probes_go_to_the_sidecar_which_knows_what_they_were() {
    let probe = json!({"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 3});
    let injected = injected(&with("spec containers", json!([{"name": "web", "readinessProbe": probe}])));
    let turned = json!({"httpGet": {"path": "/probe/web/readiness", "port": 15021}, "periodSeconds": 3});
    assert_eq!(injected["spec"]["containers"][0]["readinessProbe"], turned);
    let told = variable(&injected["spec"]["initContainers"][1], "LENO_PROBES");
    assert_eq!(told, Some(r#"{"web/readiness":{"httpGet":{"path":"/healthz","port":8080},"timeoutSeconds":1}}"#));
    // Its own are the kubelet's.
    assert_eq!(injected["spec"]["initContainers"][1]["readinessProbe"]["httpGet"]["path"], "/ready");
}

#[test]
fn a_service_is_named_as_open_telemetry_would() {
    let owned = json!([{"kind": "ReplicaSet", "name": "cart-7c9", "controller": true}]);
    let cases = [
        (json!({"annotations": {"resource.opentelemetry.io/service.name": "a"}, "labels": {"app": "b"}}), Some("a")),
        (json!({"labels": {"app.kubernetes.io/name": "n", "app.kubernetes.io/instance": "i"}}), Some("i")),
        (json!({"labels": {"pod-template-hash": "7c9"}, "ownerReferences": owned}), Some("cart")),
        (json!({"name": "alone"}), Some("alone")),
        (json!({}), None),
    ];
    for (metadata, expected) in cases {
        let injected = injected(&with("metadata", metadata.clone()));
        assert_eq!(variable(&injected["spec"]["initContainers"][1], "OTEL_SERVICE_NAME"), expected, "{metadata}");
    }
}

#[test]
fn what_is_done_once_is_not_done_again() {
    let again = inject(&injected(&pod()), ASKS, &settings());
    assert_eq!(again, Outcome::Left("it has its sidecar already"));
}

#[test]
fn what_cannot_be_is_refused_with_the_reason_and_the_remedy() {
    let cases = [
        (with("spec hostNetwork", json!(true)), "remove hostNetwork"),
        (with("spec securityContext", json!({"runAsUser": 15000})), "user 15000"),
        (with("spec containers", json!([{"name": "web", "securityContext": {"runAsUser": 15000}}])), "container web"),
        (with("spec containers", json!([{"name": "leno-proxy"}])), "rename it"),
        (with("spec containers", json!([{"name": "web", "ports": [{"containerPort": 15006}]}])), "port 15006"),
        (with("spec os", json!({"name": "windows"})), "Linux"),
        (with("metadata labels", json!({"leno.dev/inject": "yes"})), "neither enabled nor disabled"),
        (
            with("metadata annotations", json!({"leno.dev/skip-inbound-prots": "1"})),
            "did you mean leno.dev/skip-inbound-ports?",
        ),
        (with("metadata annotations", json!({"leno.dev/colour": "blue"})), "there are leno.dev/skip"),
        (with("metadata annotations", json!({"leno.dev/skip-outbound-ports": "25,mail"})), "such as 25,465"),
        (with("metadata annotations", json!({"leno.dev/proxy-memory-limit": "lots"})), "a quantity"),
        (with("metadata annotations", json!({"leno.dev/workers": "65"})), "1 to 64"),
    ];
    for (pod, expected) in cases {
        let why = refused(&pod);
        assert!(why.contains(expected), "{why}");
    }
    let strict = Namespace { enforces: "restricted", ..ASKS };
    let Outcome::Refused(why) = inject(&pod(), strict, &settings()) else { panic!() };
    assert!(why.contains("pod-security.kubernetes.io/enforce: privileged"), "{why}");
}

#[test]
fn a_pod_may_wish_within_bounds() {
    let wishes = json!({
        "leno.dev/skip-inbound-ports": "9090",
        "leno.dev/skip-outbound-subnets": "169.254.169.254/32, fd00::/8",
        "leno.dev/access-log": "10%",
        "leno.dev/proxy-memory-limit": "256Mi",
        "leno.dev/proxy-cpu-request": "0.5",
        "prometheus.io/scrape": "true",
    });
    let injected = injected(&with("metadata annotations", wishes));
    let [init, proxy] = [0, 1].map(|place| &injected["spec"]["initContainers"][place]);
    assert_eq!(variable(init, "LENO_SKIP_INBOUND_PORTS"), Some("15021,9090"));
    assert_eq!(variable(init, "LENO_SKIP_OUTBOUND_SUBNETS"), Some("169.254.169.254/32, fd00::/8"));
    assert_eq!(variable(proxy, "LENO_ACCESS_LOG"), Some("10%"));
    let resources = json!({"requests": {"cpu": "0.5", "memory": "32Mi"}, "limits": {"memory": "256Mi"}});
    assert_eq!(proxy["resources"], resources);
}

#[test]
fn every_annotation_that_is_named_is_read() {
    for (name, _) in annotation::KNOWN {
        let wrong = annotation::parse(&json!({"annotations": {name: ""}}));
        assert!(wrong.is_err(), "{name} takes anything");
    }
}

/// RFC 6902, the operations that we make.
fn apply(value: &mut Value, operations: &[Value]) {
    for operation in operations {
        let (parent, last) = operation["path"].as_str().unwrap().rsplit_once('/').unwrap();
        let last = last.replace("~1", "/").replace("~0", "~");
        let parent = value.pointer_mut(parent).unwrap();
        match (parent, operation["op"].as_str().unwrap()) {
            (Value::Object(parent), "remove") => drop(parent.remove(&last)),
            (Value::Object(parent), _) => drop(parent.insert(last, operation["value"].clone())),
            (Value::Array(parent), "replace") => parent[last.parse::<usize>().unwrap()] = operation["value"].clone(),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn the_patch_makes_the_pod() {
    let mut bare = pod();
    bare["spec"].as_object_mut().unwrap().remove("volumes");
    for before in [pod(), bare] {
        let after = injected(&before);
        let mut patched = before.clone();
        apply(&mut patched, &difference(&before, &after));
        assert_eq!(patched, after);
    }
    assert!(difference(&pod(), &pod()).is_empty());
}

#[test]
fn the_template_is_found_wherever_pods_are_made() {
    let cases = [
        (json!({"kind": "Pod", "spec": 1}), true),
        (json!({"kind": "Deployment", "spec": {"template": {}}}), true),
        (json!({"kind": "CronJob", "spec": {"jobTemplate": {"spec": {"template": {}}}}}), true),
        (json!({"kind": "Service", "spec": {}}), false),
        (json!({"kind": "Job", "spec": {}}), false),
    ];
    for (mut manifest, expected) in cases {
        assert_eq!(template(&mut manifest).is_some(), expected, "{manifest}");
    }
}
