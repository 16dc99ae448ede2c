//! Leno as it is used: a control plane on a folder of manifests, sidecars with what users configure, or with nothing beyond
//! mTLS. Another pod's sidecar only waits, with fifty services to know.

use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;

use crate::bench::certificates;
use crate::bench::counters;
use crate::bench::peers::Door;
use crate::bench::peers::Setup;
use crate::manifests;
use crate::manifests::Application;
use crate::manifests::NAMESPACE;
use crate::manifests::Pod;
use crate::mesh::Mesh;
use crate::mesh::Plan;
use crate::mesh::Settings;
use crate::mesh::TRUST_DOMAIN;

pub(super) struct Leno {
    mesh: Mesh,
}

/// Positions in `pods`.
const WEB: usize = 0;
const ECHO: usize = 1;
const CLIENT: usize = 2;
const IDLE: usize = 3;

/// Addresses of the applications that a mesh on this network expects: HTTP/1.1 and HTTP/2.
pub fn applications(network: Ipv4Addr) -> (SocketAddr, SocketAddr) {
    let pods = pods(network, true);
    (pods[WEB].app(), pods[ECHO].app())
}

fn pods(network: Ipv4Addr, minimal: bool) -> Vec<Pod> {
    let [a, b, c, _] = network.octets();
    let pod = |service: &str, last: u8, calls: Vec<String>, application: Application, protocol| Pod {
        name: format!("{service}-0"),
        service: service.to_owned(),
        version: None,
        address: Ipv4Addr::new(a, b, c, last),
        calls,
        application,
        protocol: Some(protocol),
    };
    let mut pods = vec![
        pod("web", 11, vec![], Application::Foreign, "http"),
        pod("echo", 12, vec![], Application::Foreign, "kubernetes.io/h2c"),
        pod("client", 13, vec!["web".to_owned(), "echo".to_owned()], Application::None, "http"),
    ];
    if !minimal {
        pods.push(pod("idle", 14, (0..SERVICES).map(other).collect(), Application::None, "http"));
    }
    pods
}

/// For a sidecar that was told to end.
const DRAIN: Duration = Duration::from_secs(60);
/// What the waiting sidecar knows.
const SERVICES: usize = 50;

fn other(number: usize) -> String {
    format!("other-{number}")
}

impl Leno {
    pub(super) async fn start(setup: &Setup, minimal: bool) -> anyhow::Result<Self> {
        let plan = plan(pods(setup.network, minimal), minimal, Some(format!("http://{}", setup.spans)));
        let sidecars = vec![("LENO_WORKERS", setup.workers.to_string())];
        let settings = Settings { sidecars, ..Settings::default() };
        let mesh = Mesh::start_with(setup.network, plan, settings, &|_| ()).await?;
        let leno = Self { mesh };
        if let Some(core) = setup.core {
            let sidecars = (0..leno.mesh.plan.pods.len()).filter_map(|number| leno.mesh.sidecar_pid(number));
            for pid in sidecars {
                counters::move_to(pid, core)?;
            }
            if let Some(pid) = leno.mesh.control_plane_pid() {
                counters::move_to(pid, 1 - core)?;
            }
        }
        let identity = format!("spiffe://{TRUST_DOMAIN}/ns/{NAMESPACE}/sa/client");
        certificates::leaf_of_leno(&leno.mesh.folder.join("state"), &leno.client_certificate(), &identity)?;
        Ok(leno)
    }

    /// All sidecars drain, and end.
    pub(super) async fn end(&mut self) -> anyhow::Result<()> {
        let numbers = 0..self.mesh.plan.pods.len();
        for number in numbers.clone() {
            self.mesh.terminate_sidecar(number)?;
        }
        for number in numbers {
            let sidecar = self.mesh.sidecar(number).context("it was told to end")?;
            sidecar.until_ended(DRAIN).await?;
        }
        Ok(())
    }

    /// Ends the pair's sidecars; what they kept in their volumes goes, too, so that the next start is a pod's first.
    pub(super) fn stop(&mut self) -> anyhow::Result<()> {
        for number in [WEB, CLIENT] {
            self.mesh.kill_sidecar(number);
            let volume = self.mesh.folder.join("volumes").join(&self.mesh.plan.pods[number].name);
            std::fs::remove_dir_all(&volume).with_context(|| format!("empty {}", volume.display()))?;
        }
        Ok(())
    }

    pub(super) fn start_sidecars(&mut self) -> anyhow::Result<()> {
        self.mesh.start_sidecar(WEB)?;
        self.mesh.start_sidecar(CLIENT)
    }

    pub(super) fn door(&self, door: Door) -> Option<SocketAddr> {
        let pods = &self.mesh.plan.pods;
        match door {
            Door::Http1 | Door::Http2 => pods[CLIENT].listener("web"),
            Door::Grpc => pods[CLIENT].listener("echo"),
            Door::Tls => Some((pods[WEB].address, manifests::INBOUND).into()),
        }
    }

    pub(super) fn client_certificate(&self) -> PathBuf {
        self.mesh.folder.join("client")
    }

    pub(super) fn outbound(&self) -> Vec<u32> {
        self.mesh.sidecar_pid(CLIENT).into_iter().collect()
    }

    /// Both servers' sidecars: the one that is not called costs nothing.
    pub(super) fn inbound(&self) -> Vec<u32> {
        [WEB, ECHO].into_iter().filter_map(|number| self.mesh.sidecar_pid(number)).collect()
    }

    pub(super) fn idle(&self) -> Option<u32> {
        self.mesh.plan.pods.get(IDLE).and_then(|_| self.mesh.sidecar_pid(IDLE))
    }

    pub(super) fn tails(&self) -> String {
        self.mesh.tails()
    }
}

fn plan(pods: Vec<Pod>, minimal: bool, otlp: Option<String>) -> Plan {
    let mut manifests = vec![("00-mesh.yaml", mesh_manifest(minimal))];
    if !minimal {
        manifests.extend([("policies.yaml", POLICIES.to_owned()), ("others.yaml", others())]);
    }
    Plan { pods, leaf_ttl: Duration::from_secs(24 * 3600), fail_percent: 0, manifests, otlp }
}

/// Everything on, and only the pair of the HTTP/1.1 application.
pub fn pair(network: Ipv4Addr) -> Plan {
    let mut pods = pods(network, true);
    pods.remove(ECHO);
    plan(pods, false, None)
}

/// The same pair with minimal policy: what is more than this is what everything on costs.
pub fn minimal_pair(network: Ipv4Addr) -> Plan {
    let mut pods = pods(network, true);
    pods.remove(ECHO);
    plan(pods, true, None)
}

/// Everything on, with a client that knows fifty more services.
pub fn pressed(network: Ipv4Addr, leaf_ttl: Duration) -> Plan {
    let mut pods = pods(network, true);
    pods[CLIENT].calls.extend((0..SERVICES).map(other));
    Plan { leaf_ttl, ..plan(pods, false, None) }
}

/// As `pair`, with a client that uses nine more services.
pub fn using(network: Ipv4Addr) -> Plan {
    let mut plan = pair(network);
    let [client, _] = PAIR;
    plan.pods[client].calls.extend((0..9).map(other));
    plan
}

/// The manifests of `pressed` after its change of this number: half of the fifty services have moved, and so has a timeout of
/// the two that are called.
pub fn changed(number: usize) -> [(&'static str, String); 2] {
    let moved = |name: usize| if name % 2 == number % 2 { number % 100 } else { 100 };
    let policies = POLICIES.replace("request: 15s", &format!("request: {}s", 15 + number % 2));
    [("policies.yaml", policies), ("others.yaml", others_at(moved))]
}

/// Client and server among the pods of `pair`.
pub const PAIR: [usize; 2] = [1, 0];

fn mesh_manifest(minimal: bool) -> String {
    let profile = if minimal { "minimal" } else { "recommended" };
    format!(
        "apiVersion: policy.leno.dev/v1alpha1\nkind: Mesh\nmetadata: {{name: default}}\nspec:\n  trustDomain: {TRUST_DOMAIN}\n  \
         profile: {profile}\n  meshNetworks: [127.0.0.0/8]\n---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {NAMESPACE}}}\n"
    )
}

/// Services that are known and never called.
fn others() -> String {
    others_at(|_| 100)
}

/// The same, each with its one endpoint at such a place.
fn others_at(place: impl Fn(usize) -> usize) -> String {
    (0..SERVICES).map(|number| service(&other(number), &[format!("127.{}.1.{number}", place(number))])).collect()
}

/// A Service with endpoints outside the mesh.
pub fn service(name: &str, addresses: &[String]) -> String {
    let mut text = format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {NAMESPACE}}}\nspec:\n  \
         ports: [{{name: main, port: 80, targetPort: 8080, appProtocol: http}}]\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {name}-1\n  namespace: {NAMESPACE}\n  \
         labels: {{kubernetes.io/service-name: {name}}}\naddressType: IPv4\n\
         ports: [{{name: main, port: 8080, protocol: TCP, appProtocol: http}}]\nendpoints:\n"
    );
    for address in addresses {
        text +=
            &format!("- addresses: [{address}]\n  conditions: {{ready: true, serving: true, terminating: false}}\n");
    }
    text
}

/// Everything that a user would turn on, for both services; tracing samples one in a hundred by default.
const POLICIES: &str = "apiVersion: policy.leno.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: all, namespace: shop}
spec:
  targetRefs:
  - {group: \"\", kind: Service, name: web}
  - {group: \"\", kind: Service, name: echo}
  connection: {connectTimeout: 1s, maxConnections: 4096, maxPending: 4096}
  timeouts: {request: 15s, perTry: 10s, streamIdle: 1h}
  retries: {attempts: 2, retryOn: [ConnectFailure, RefusedStream, ResetBeforeRequest, GatewayError]}
  circuitBreaker:
    endpoint: {consecutiveFailures: 5, statusFailures: 7}
    service: {trip: {ratio: {failurePercent: 50, window: 10s, minRequests: 20}}}
  concurrency: {maxRequests: 4096}
---
apiVersion: policy.leno.dev/v1alpha1
kind: InboundPolicy
metadata: {name: all, namespace: shop}
spec:
  workloads: {}
  tls: {mode: Strict}
  app: {maxConnections: 4096, maxPending: 4096}
---
apiVersion: policy.leno.dev/v1alpha1
kind: AccessPolicy
metadata: {name: all, namespace: shop}
spec:
  workloads: {}
  action: Allow
  rules:
  - sources:
    - serviceAccount: {namespace: shop, name: client}
    methods: [GET, POST]
---
apiVersion: policy.leno.dev/v1alpha1
kind: AccessPolicy
metadata: {name: strangers, namespace: shop}
spec:
  workloads: {}
  action: Deny
  rules:
  - sources:
    - namespaces: [elsewhere]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{group: \"\", kind: Service, name: web, port: 80}]
  rules:
  - matches: [{path: {type: Exact, value: /admin}}]
    backendRefs: [{name: web, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /}}]
    backendRefs: [{name: web, port: 80}]
";
