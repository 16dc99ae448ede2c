//! The storefront's manifests as files that a user may edit while the mesh runs. Kubernetes-shaped, with 127.x.y.z addresses
//! for pods that are local processes.

use std::fs;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::path::Path;

/// The ports that every pod of the demo uses on its own address.
pub const APP: u16 = 8080;
pub const INBOUND: u16 = 18080;
pub const STATUS: u16 = 15020;
/// Seconds from a pod's deletion to its end.
pub const GRACE: u32 = 10;
/// The sidecar's listener for the first service that the pod calls; the next ones follow.
pub const OUTBOUND: u16 = 15101;

/// One pod: an application (or only a caller) behind its sidecar.
#[derive(Debug, Clone)]
pub struct Pod {
    pub name: String,
    /// The Service and service account it belongs to.
    pub service: String,
    /// `version` label.
    pub version: Option<String>,
    pub address: Ipv4Addr,
    /// Services that it calls, each through a listener of its sidecar.
    pub calls: Vec<String>,
    /// What is to be called there.
    pub application: Application,
    /// `appProtocol` of its Service's port; `None`: undeclared.
    pub protocol: Option<&'static str>,
}

/// What runs behind the sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Application {
    /// Nothing: the pod only calls.
    None,
    /// The storefront's program, in the role that the service's name says.
    Storefront,
    /// Something that a test starts itself, on the pod's address.
    Foreign,
}

impl Pod {
    pub fn uid(&self) -> String {
        format!("{}-uid", self.name)
    }

    /// Where its application calls the `n`th service of `calls`.
    pub fn listener(&self, service: &str) -> Option<std::net::SocketAddr> {
        let number = self.calls.iter().position(|c| c == service)?;
        Some((IpAddr::V4(self.address), OUTBOUND + number as u16).into())
    }

    pub fn serves(&self) -> bool {
        self.application != Application::None
    }

    /// Where its application listens.
    pub fn app(&self) -> std::net::SocketAddr {
        (IpAddr::V4(self.address), APP).into()
    }

    pub fn status(&self) -> std::net::SocketAddr {
        (IpAddr::V4(self.address), STATUS).into()
    }
}

/// The storefront's pods on `network` (its last byte is replaced).
pub fn storefront(network: Ipv4Addr) -> Vec<Pod> {
    let [a, b, c, _] = network.octets();
    let mut pods = Vec::new();
    let mut add = |name: &str, service: &str, version: Option<&str>, calls: &[&str], application: Application| {
        let address = Ipv4Addr::new(a, b, c, 11 + pods.len() as u8);
        pods.push(Pod {
            name: name.to_owned(),
            service: service.to_owned(),
            version: version.map(str::to_owned),
            address,
            calls: calls.iter().map(|s| (*s).to_owned()).collect(),
            application,
            protocol: Some(if service == "orders" { "kubernetes.io/h2c" } else { "http" }),
        });
    };
    let (app, none) = (Application::Storefront, Application::None);
    add("web-0", "web", None, &["catalog", "pricing", "orders"], app);
    add("catalog-v1-0", "catalog", Some("v1"), &[], app);
    add("catalog-v1-1", "catalog", Some("v1"), &[], app);
    add("catalog-v2-0", "catalog", Some("v2"), &[], app);
    add("pricing-0", "pricing", None, &[], app);
    add("orders-0", "orders", None, &[], app);
    add("shopper-0", "shopper", None, &["web"], none);
    add("stranger-0", "stranger", None, &["orders", "web"], none);
    pods
}

pub const NAMESPACE: &str = "shop";

/// Writes the mesh and a file a service.
pub fn write(folder: &Path, trust_domain: &str, pods: &[Pod]) -> anyhow::Result<()> {
    fs::create_dir_all(folder)?;
    fs::write(folder.join("00-mesh.yaml"), mesh(trust_domain))?;
    let mut services: Vec<&str> = pods.iter().map(|p| p.service.as_str()).collect();
    services.dedup();
    for service in services {
        let members: Vec<&Pod> = pods.iter().filter(|p| p.service == service).collect();
        fs::write(folder.join(format!("{service}.yaml")), service_file(service, &members))?;
    }
    Ok(())
}

/// As an editor saves: whoever reads meanwhile sees the old text or the new one.
pub fn replace(file: &Path, text: &str) -> std::io::Result<()> {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let new = file.with_file_name(format!(".{name}.new"));
    fs::write(&new, text)?;
    fs::rename(new, file)
}

/// The storefront's route and policies: file name and text.
pub fn storefront_policies() -> Vec<(&'static str, String)> {
    vec![
        ("catalog-route.yaml", catalog_route(90, 10)),
        ("pricing-policy.yaml", PRICING_POLICY.to_owned()),
        ("orders-access.yaml", ORDERS_ACCESS.to_owned()),
    ]
}

/// The same text with `pod` deleted and not yet gone, as an API server and its endpoint controller show it.
pub fn with_terminating(text: &str, pod: &Pod) -> String {
    let (uid, address) = (format!("  uid: {}\n  labels", pod.uid()), pod.address);
    let deleted = uid.replace("\n", "\n  deletionTimestamp: \"2026-01-01T00:00:00Z\"\n");
    let listed = format!("- addresses: [{address}]\n  nodeName: here\n  conditions: ");
    text.replace(&uid, &deleted).replace(
        &format!("{listed}{{ready: true, serving: true, terminating: false}}"),
        &format!("{listed}{{ready: false, serving: true, terminating: true}}"),
    )
}

fn mesh(trust_domain: &str) -> String {
    format!(
        "apiVersion: policy.leno.dev/v1alpha1\nkind: Mesh\nmetadata: {{name: default}}\nspec:\n  trustDomain: {trust_domain}\n  \
         meshNetworks: [127.0.0.0/8]\n---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {NAMESPACE}}}\n"
    )
}

fn service_file(service: &str, pods: &[&Pod]) -> String {
    let mut text =
        format!("apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: {service}, namespace: {NAMESPACE}}}\n");
    for pod in pods {
        text += &pod_document(pod);
    }
    if pods.iter().any(|p| p.serves()) {
        text += &service_documents(service, None, pods);
        let mut versions: Vec<&str> = pods.iter().filter_map(|p| p.version.as_deref()).collect();
        versions.dedup();
        for version in versions {
            let members: Vec<&Pod> = pods.iter().copied().filter(|p| p.version.as_deref() == Some(version)).collect();
            text += &service_documents(&format!("{service}-{version}"), Some((service, version)), &members);
        }
    }
    text
}

fn pod_document(pod: &Pod) -> String {
    let Pod { name, service, address, .. } = pod;
    let version = pod.version.as_ref().map(|v| format!(", version: {v}")).unwrap_or_default();
    let uid = pod.uid();
    let ports =
        if pod.serves() { format!("ports: [{{name: main, containerPort: {APP}}}]") } else { "ports: []".to_owned() };
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  namespace: {NAMESPACE}\n  uid: {uid}\n  labels: {{app: {service}{version}}}\n  \
         annotations: {{leno.dev/inject: enabled, \"leno.dev/inbound-ports\": \"{APP}={INBOUND}\"}}\n\
         spec:\n  serviceAccountName: {service}\n  nodeName: here\n  terminationGracePeriodSeconds: {GRACE}\n  \
         containers: [{{name: app, image: storefront, {ports}}}]\n\
         status:\n  phase: Running\n  podIP: {address}\n  podIPs: [{{ip: {address}}}]\n  conditions: [{{type: Ready, status: \"True\"}}]\n"
    )
}

fn service_documents(name: &str, selects: Option<(&str, &str)>, pods: &[&Pod]) -> String {
    let selector = match selects {
        Some((app, version)) => format!("{{app: {app}, version: {version}}}"),
        None => format!("{{app: {name}}}"),
    };
    let protocol = pods.iter().find_map(|p| p.protocol).map(|p| format!(", appProtocol: {p}")).unwrap_or_default();
    let mut text = format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {NAMESPACE}}}\nspec:\n  selector: {selector}\n  \
         ports: [{{name: main, port: 80, targetPort: {APP}{protocol}}}]\n\
         ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {name}-1\n  namespace: {NAMESPACE}\n  \
         labels: {{kubernetes.io/service-name: {name}}}\naddressType: IPv4\nports: [{{name: main, port: {APP}, protocol: TCP{protocol}}}]\nendpoints:\n"
    );
    for pod in pods {
        let (uid, pod_name, address) = (pod.uid(), &pod.name, pod.address);
        text += &format!(
            "- addresses: [{address}]\n  nodeName: here\n  conditions: {{ready: true, serving: true, terminating: false}}\n  \
             targetRef: {{kind: Pod, name: {pod_name}, namespace: {NAMESPACE}, uid: {uid}}}\n"
        );
    }
    text
}

/// Splits the catalog between its two versions.
pub fn catalog_route(v1: u32, v2: u32) -> String {
    format!(
        "# Try it: change the weights and watch the versions of the answers.\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: catalog, namespace: {NAMESPACE}}}\nspec:\n  \
         parentRefs: [{{group: \"\", kind: Service, name: catalog, port: 80}}]\n  rules:\n  - backendRefs:\n    \
         - {{name: catalog-v1, port: 80, weight: {v1}}}\n    - {{name: catalog-v2, port: 80, weight: {v2}}}\n"
    )
}

const PRICING_POLICY: &str =
    "# The pricing service fails one request in ten on purpose: retries hide it, within their budget.
apiVersion: policy.leno.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: pricing, namespace: shop}
spec:
  targetRefs: [{group: \"\", kind: Service, name: pricing}]
  timeouts: {request: 5s}
  retries: {attempts: 5, retryOn: [ConnectFailure, RefusedStream, ResetBeforeRequest, GatewayError]}
";

const ORDERS_ACCESS: &str = "# Only the web front may place orders.
apiVersion: policy.leno.dev/v1alpha1
kind: AccessPolicy
metadata: {name: orders, namespace: shop}
spec:
  workloads: {selector: {matchLabels: {app: orders}}}
  action: Allow
  rules:
  - sources:
    - serviceAccount: {namespace: shop, name: web}
";
