//! What is answered, and until when.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::PrivatePkcs8KeyDer;
use serde_json::Value;
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::inject::Settings;
use crate::webhook;
use crate::webhook::ANSWER_TIMEOUT;
use crate::webhook::LEAVING;
use crate::webhook::Leaving;
use crate::webhook::Verdict;
use crate::webhook::Webhook;
use crate::webhook::validate;

fn reviewed(kind: &str, spec: Value, old: Value) -> Verdict {
    let object = |spec: Value| {
        let meta = json!({"name": "default", "namespace": if kind == "Mesh" { "" } else { "shop" }});
        json!({"apiVersion": "policy.leno.dev/v1alpha1", "kind": kind, "metadata": meta, "spec": spec})
    };
    let old = if old.is_null() { Value::Null } else { object(old) };
    validate(&json!({"kind": {"group": "policy.leno.dev", "kind": kind}, "object": object(spec), "oldObject": old}))
}

#[test]
fn a_policy_is_judged_as_in_a_folder() {
    let target = json!([{"kind": "Service", "name": "web"}]);
    let cases = [
        ("TrafficPolicy", json!({"targetRefs": target, "timeouts": {"request": "1s"}}), ""),
        (
            "TrafficPolicy",
            json!({"targetRefs": target, "timeouts": {"request": "1s", "perTry": "2s"}}),
            "longer than timeouts.request",
        ),
        ("TrafficPolicy", json!({"targetRefs": target, "timeout": {}}), "did you mean timeouts?"),
        ("AccessPolicy", json!({"action": "Allow", "rules": [{"sources": [{"spiffe": ["me"]}]}]}), "is no SPIFFE id"),
        (
            "EgressHost",
            json!({"hostnames": ["a.example"], "ports": [{"port": 443}], "visibility": "Cluster"}),
            "root namespace",
        ),
        ("Mesh", json!({"trustDomain": "a.example"}), ""),
    ];
    for (kind, spec, expected) in cases {
        let verdict = reviewed(kind, spec.clone(), Value::Null);
        let refused = verdict.refused.unwrap_or_default();
        assert!(refused.contains(expected) && refused.is_empty() == expected.is_empty(), "{spec}: {refused}");
    }
}

#[test]
fn a_field_without_effect_on_its_route_is_warned_of() {
    let route = json!([{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": "split"}]);
    let service = json!([{"kind": "Service", "name": "web"}]);
    let budget = json!({"budget": {"percent": 30}});
    let warned = |targets: &Value| {
        let spec = json!({"targetRefs": targets, "retries": budget, "timeouts": {"request": "1s"}});
        reviewed("TrafficPolicy", spec, Value::Null).warnings
    };
    assert_eq!(
        warned(&route),
        ["spec.retries.budget.percent, on HTTPRoute shop/split: it has no effect on a route: \
          all that leads to a Service shares it; put it on a policy that targets the Service"]
    );
    assert_eq!(warned(&service), [""; 0]);
}

#[test]
fn what_cannot_change_does_not() {
    let verdict = reviewed("Mesh", json!({"trustDomain": "b"}), json!({"trustDomain": "a"}));
    assert!(verdict.refused.unwrap().contains("set it back to a"));
}

#[test]
fn a_review_is_answered_as_the_api_server_expects() {
    let patch = vec![json!({"op": "add", "path": "/a", "value": 1})];
    let verdict = Verdict { patch, warnings: vec!["mind".to_owned()], ..Verdict::allowed() };
    let review = verdict.review(&json!("uid-1"));
    let response = &review["response"];
    assert_eq!((&response["uid"], &response["allowed"]), (&json!("uid-1"), &json!(true)));
    assert_eq!((&response["patchType"], &response["warnings"]), (&json!("JSONPatch"), &json!(["mind"])));
    let patch = crate::kube::base64::decode(response["patch"].as_str().unwrap()).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&patch).unwrap()[0]["path"], "/a");
    let refused = Verdict { refused: Some("no".to_owned()), ..Verdict::allowed() }.review(&json!("uid-2"));
    assert_eq!(
        (&refused["response"]["allowed"], &refused["response"]["status"]["message"]),
        (&json!(false), &json!("no"))
    );
}

/// No test outlives it.
const NEVER: Duration = Duration::from_secs(3600);
const REVIEW: &str = "{\"request\": {\"uid\": \"1\", \"kind\": {\"group\": \"apps\", \"kind\": \"Deployment\"}}}";

/// A replica's webhook; it leaves when `staying` is dropped.
struct Replica {
    address: SocketAddr,
    trust: Arc<ClientConfig>,
    staying: Option<watch::Sender<()>>,
    serving: JoinHandle<()>,
}

impl Replica {
    async fn start(leaving: Leaving) -> Replica {
        let made = rcgen::generate_simple_self_signed(["webhook".to_owned()]).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let certificate: CertificateDer<'static> = made.cert.der().clone();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let server = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
        let server = server.unwrap().with_no_client_auth().with_single_cert(vec![certificate.clone()], key).unwrap();
        let mut anchors = RootCertStore::empty();
        anchors.add(certificate).unwrap();
        let trust = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let trust = Arc::new(trust.with_root_certificates(anchors).with_no_client_auth());
        let (_, tables) = watch::channel(None);
        let hook = Webhook { tls: TlsAcceptor::from(Arc::new(server)), settings: settings(), tables };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (staying, stays) = watch::channel(());
        let serving = tokio::spawn(webhook::serve(Arc::new(hook), listener, stays, leaving));
        Replica { address, trust, staying: Some(staying), serving }
    }

    fn leave(&mut self) {
        drop(self.staying.take());
    }

    async fn caller(&self) -> Caller {
        let socket = TcpStream::connect(self.address).await.unwrap();
        let connector = TlsConnector::from(self.trust.clone());
        Caller(connector.connect("webhook".try_into().unwrap(), socket).await.unwrap())
    }
}

fn settings() -> Settings {
    let word = || "1".to_owned();
    Settings {
        proxy_image: word(),
        init_image: word(),
        pull_policy: word(),
        control_plane: word(),
        namespace: word(),
        trust_domain: word(),
        log: word(),
        access_log: word(),
        resources: json!({}),
        otlp_endpoint: None,
    }
}

/// An API server's kept connection.
struct Caller(TlsStream<TcpStream>);

impl Caller {
    /// The head of the answer to a whole request.
    async fn ask(&mut self) -> String {
        self.begin("").await;
        self.end().await
    }

    async fn begin(&mut self, more: &str) {
        let length = REVIEW.len();
        let head = format!("POST /validate HTTP/1.1\r\nhost: webhook\r\ncontent-length: {length}\r\n{more}\r\n");
        self.0.write_all(head.as_bytes()).await.unwrap();
    }

    async fn end(&mut self) -> String {
        self.0.write_all(REVIEW.as_bytes()).await.unwrap();
        let head = self.head().await;
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap().parse().unwrap();
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).await.unwrap();
        let review: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(review["response"]["allowed"], true, "{review}");
        head
    }

    async fn head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.0.read_u8().await.unwrap());
        }
        String::from_utf8(head).unwrap()
    }

    /// Nothing comes any more.
    async fn ended(mut self) {
        assert_eq!(self.0.read(&mut [0]).await.unwrap(), 0);
    }
}

fn last(head: &str) -> bool {
    head.contains("\r\nconnection: close\r\n")
}

#[tokio::test]
async fn a_replica_that_leaves_answers_whoever_still_comes_and_tells_each_to_go() {
    let mut replica = Replica::start(Leaving { kept: NEVER, quiet: NEVER, most: NEVER }).await;
    let (mut kept, mut busy) = (replica.caller().await, replica.caller().await);
    assert!(!last(&kept.ask().await), "nobody has to go while we stay");
    busy.begin("").await;
    replica.leave();
    let mut new = replica.caller().await;
    for head in [kept.ask().await, busy.end().await, new.ask().await] {
        assert!(last(&head), "{head}");
    }
    for caller in [kept, busy, new] {
        caller.ended().await;
    }
}

#[tokio::test]
async fn a_replica_is_gone_when_nobody_comes_and_all_have_their_answers() {
    let mut replica =
        Replica::start(Leaving { kept: Duration::ZERO, quiet: Duration::ZERO, most: Duration::ZERO }).await;
    let (mut unused, mut busy) = (replica.caller().await, replica.caller().await);
    unused.ask().await;
    busy.begin("expect: 100-continue\r\n").await;
    assert!(busy.head().await.starts_with("HTTP/1.1 100 "));
    replica.leave();
    unused.ended().await;
    assert!(last(&busy.end().await));
    busy.ended().await;
    // With it the listener is gone; its port may be somebody else's now.
    replica.serving.await.unwrap();
}

#[test]
fn a_replica_leaves_within_the_grace_period_of_its_pod() {
    let chart = include_str!("../../../charts/leno/templates/deployment.yaml");
    let grace = chart.lines().find_map(|line| line.trim().strip_prefix("terminationGracePeriodSeconds: ")).unwrap();
    assert!(LEAVING.most + ANSWER_TIMEOUT < Duration::from_secs(grace.parse().unwrap()));
}
