//! Three replicas of one control plane, as processes against an API server of this process: any of them serves, one writes, and
//! either may be killed.

use std::io::BufRead;
use std::io::BufReader;
use std::net::SocketAddr;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use leno_control_plane::kube::fake::Fake;
use leno_control_plane::kube::fake::fake_token;
use leno_proto::wire::control::to_proxy;
use serde_json::Value;
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio::time::interval;
use tokio::time::sleep;

use crate::mesh::Scratch;
use crate::mesh::destination;
use crate::proxy::Proxy;
use crate::proxy::tls;

const POLICY: &str = "/apis/policy.leno.dev/v1alpha1/namespaces/shop/trafficpolicies/quick";
const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/leno-system/leases/leno-control-plane";
const TRUST: &str = "/api/v1/namespaces/shop/configmaps/leno-trust";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/leno-system/endpointslices";

/// Longer than a lease and everything after it take on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(120);

struct Replica {
    name: &'static str,
    child: Child,
    session: SocketAddr,
    admin: SocketAddr,
    _state: Scratch,
}

impl Drop for Replica {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Replica {
    async fn start(fake: &Arc<Fake>, name: &'static str) -> Replica {
        let state = Scratch::new();
        let kubeconfig = state.path().join("kubeconfig");
        let server = format!("http://{}", fake.address());
        let config = json!({
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": server}}],
            "users": [{"name": "u", "user": {"token": "ours"}}],
        });
        std::fs::write(&kubeconfig, config.to_string()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_leno-control-plane"));
        command.args(["--source", "kubernetes", "--replica", name, "--kubeconfig"]).arg(kubeconfig);
        command.arg("--state").arg(state.path().join("state")).args(["--listen", "127.0.0.1:0"]);
        command.args(["--admin", "127.0.0.1:0"]).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let out = child.stdout.take().unwrap();
        let line = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            BufReader::new(out).read_line(&mut line).map(|_| line)
        });
        let addresses: Value = serde_json::from_str(&line.await.unwrap().unwrap()).unwrap();
        let address = |of: &str| addresses[of].as_str().unwrap().parse().unwrap();
        let replica = Replica { name, child, session: address("session"), admin: address("admin"), _state: state };
        replica.show(fake, true);
        replica
    }

    /// As Kubernetes would list it.
    fn show(&self, fake: &Fake, ready: bool) {
        let slice = json!({
            "metadata": {"name": self.name, "labels": {"kubernetes.io/service-name": "leno-control-plane"}},
            "addressType": "IPv4",
            "endpoints": [{
                "addresses": [self.session.ip().to_string()],
                "conditions": {"ready": ready},
                "targetRef": {"kind": "Pod", "name": self.name},
            }],
            "ports": [{"name": "grpc-sidecars", "port": self.session.port()}],
        });
        fake.put(&format!("{SLICES}/{}", self.name), slice);
    }
}

fn mesh(fake: &Fake) {
    fake.put(
        "/api/v1/namespaces/shop",
        json!({"metadata": {"name": "shop", "labels": {"leno.dev/inject": "enabled"}}}),
    );
    for number in 1..=2 {
        let name = format!("cart-{number}");
        let pod = json!({
            "metadata": {"name": name, "uid": format!("uid-{number}"), "labels": {"app": "cart"}},
            "spec": {"serviceAccountName": "cart", "initContainers": [{"name": "leno-proxy"}], "containers": [{"name": "app"}]},
            "status": {
                "phase": "Running",
                "podIP": format!("10.9.0.{number}"),
                "podIPs": [{"ip": format!("10.9.0.{number}")}],
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        });
        fake.put(&format!("/api/v1/namespaces/shop/pods/{name}"), pod);
    }
    let ports = json!([{"name": "main", "port": 80, "targetPort": 8080, "protocol": "TCP"}]);
    let spec = json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ports": ports});
    fake.put("/api/v1/namespaces/shop/services/orders", json!({"metadata": {"name": "orders"}, "spec": spec}));
}

fn policy(fake: &Fake, generation: i64) {
    let target = json!([{"group": "", "kind": "Service", "name": "orders"}]);
    let mut object = fake.object(POLICY).unwrap_or_else(|| json!({"metadata": {"name": "quick"}}));
    object["metadata"]["generation"] = generation.into();
    object["spec"] = json!({"targetRefs": target, "timeouts": {"request": format!("{generation}s")}});
    fake.put(POLICY, object);
}

/// Asks again until there is an answer.
async fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < PATIENCE, "never: {what}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// Until both proxies are said to run this generation.
async fn programmed(fake: &Fake, generation: i64) {
    eventually(&format!("generation {generation} applied in 2 of 2"), || {
        let status = fake.object(POLICY)?["status"].clone();
        let conditions = status["conditions"].as_array()?.clone();
        let programmed = conditions.iter().find(|one| one["type"] == "Programmed")?;
        let holds = programmed["status"] == "True" && programmed["observedGeneration"] == generation;
        (holds && status["proxies"]["applied"] == 2 && status["proxies"]["disconnected"] == 0).then_some(())
    })
    .await;
}

fn holder(fake: &Fake) -> Option<String> {
    fake.object(LEASE)?["spec"]["holderIdentity"].as_str().map(str::to_owned)
}

/// A proxy that applies what it is told for as long as its session lasts, and then goes to the next address, as proxies do.
fn live(pod: usize, anchor: Vec<u8>, addresses: Vec<SocketAddr>) -> tokio::task::JoinHandle<()> {
    let (name, uid) = (format!("cart-{pod}"), format!("uid-{pod}"));
    tokio::spawn(async move {
        for address in addresses {
            let mut proxy = Proxy::connect_at(address, &anchor, &fake_token("shop", "cart", &name, &uid), &uid).await;
            proxy.subscribe(&[destination()], &[]).await;
            let mut heartbeat = interval(Duration::from_secs(5));
            loop {
                // Nothing is lost where a transaction is half read: the next read goes on with it.
                tokio::select! {
                    message = proxy.next() => match message {
                        Ok(to_proxy::Message::Transaction(part)) => proxy.report(part).await,
                        Ok(_) => {}
                        Err(_) => break,
                    },
                    _ = heartbeat.tick() => proxy.heartbeat(Vec::new()).await,
                }
            }
        }
    })
}

#[tokio::test]
async fn any_replica_serves_one_writes_and_a_killed_leader_is_replaced() {
    let fake = Fake::start().await;
    mesh(&fake);
    let mut replicas = Vec::new();
    for name in ["one", "two", "three"] {
        replicas.push(Replica::start(&fake, name).await);
    }
    let anchor = eventually("the anchors in the namespace", || {
        fake.object(TRUST)?["data"]["anchor.pem"].as_str().map(|pem| pem.as_bytes().to_vec())
    })
    .await;
    let leader = eventually("a leader", || holder(&fake)).await;
    let at = replicas.iter().position(|replica| replica.name == leader).unwrap();
    let dead = replicas.remove(at);
    let [first, second] = [replicas[0].session, replicas[1].session];
    // One at the leader, one elsewhere.
    let proxies = [live(1, anchor.clone(), vec![dead.session, first]), live(2, anchor.clone(), vec![second])];
    policy(&fake, 1);
    programmed(&fake, 1).await;

    // SIGKILL: it says nothing to anybody.
    let gone = dead.name;
    drop(dead);
    fake.delete(&format!("{SLICES}/{gone}"));
    policy(&fake, 2);
    programmed(&fake, 2).await;
    assert_ne!(holder(&fake).unwrap(), gone);

    // The API server goes; what is open stays open, and what comes after it is served and counted.
    fake.set_down(true);
    sleep(Duration::from_millis(300)).await;
    fake.set_down(false);
    policy(&fake, 3);
    programmed(&fake, 3).await;
    assert!(proxies.iter().all(|proxy| !proxy.is_finished()), "no session was cut for it");
    proxies.iter().for_each(tokio::task::JoinHandle::abort);

    refuses_strangers(&replicas[0], &anchor).await;
}

/// What replicas tell each other is for replicas: not on the plain port, not for who proves nothing.
async fn refuses_strangers(replica: &Replica, anchor: &[u8]) {
    let mut plain = TcpStream::connect(replica.admin).await.unwrap();
    plain.write_all(b"GET /proxies HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    plain.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");

    let mut stranger = crate::proxy::tls_as(replica.session, anchor, b"leno/replica").await;
    let _ = stranger.write_all(b"GET /proxies HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let mut heard = Vec::new();
    let ended = stranger.read_to_end(&mut heard).await;
    assert!(ended.is_err() && heard.is_empty(), "{ended:?} {}", String::from_utf8_lossy(&heard));

    // And a proxy's own way in leads to calls with tokens only.
    let mut proxy = tls(replica.session, anchor).await;
    let _ = proxy.write_all(b"GET /proxies HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let mut heard = Vec::new();
    let _ = proxy.read_to_end(&mut heard).await;
    assert!(!String::from_utf8_lossy(&heard).contains("uid-"), "{}", String::from_utf8_lossy(&heard));
}
