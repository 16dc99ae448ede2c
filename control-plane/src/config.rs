//! How the control plane is started: flags, each with its environment variable. It must never read anything later on.

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use leno_proto::identity::TrustDomain;

use crate::ca::LEAF_TTL;
use crate::index::Base;
use crate::inject::Settings;

/// Watches what users declare and tells each sidecar what concerns it.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "leno-control-plane", version)]
pub struct Config {
    /// Where the mesh is declared: `kubernetes`, or `dir:PATH`, a folder of YAML manifests that is read again when it changes.
    #[arg(long, env = "LENO_SOURCE", value_parser = source)]
    pub source: Source,
    /// Folder for the root of trust, the key of tokens, and what was admitted last. Made, 0700, where it is missing.
    #[arg(long, env = "LENO_STATE", value_name = "DIR")]
    pub state: PathBuf,
    /// Where sidecars connect. Port 0 takes a free one; DIR/addresses.json says which.
    #[arg(long, env = "LENO_LISTEN", value_name = "ADDRESS", default_value = "127.0.0.1:15012")]
    pub listen: SocketAddr,
    /// Where /live, /ready, /metrics, /status and /sessions are.
    #[arg(long, env = "LENO_ADMIN", value_name = "ADDRESS", default_value = "127.0.0.1:15014")]
    pub admin: SocketAddr,
    /// The mesh's SPIFFE trust domain. It cannot change once the state folder exists.
    #[arg(long, env = "LENO_TRUST_DOMAIN", value_name = "NAME", default_value = "cluster.local")]
    pub trust_domain: TrustDomain,
    /// Our own namespace: sidecars expect spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/leno-control-plane.
    #[arg(long, env = "LENO_NAMESPACE", value_name = "NAME", default_value = "leno-system")]
    pub namespace: String,
    /// How long the certificates of workloads live, 10s to 168h.
    #[arg(long, env = "LENO_LEAF_TTL", value_name = "DURATION", value_parser = duration, default_value = "24h")]
    pub leaf_ttl: Duration,
    /// The Secret in our own namespace whose certificate authority signs, as cert-manager keeps one (tls.crt, tls.key, ca.crt).
    /// Absent: Leno's own root. With a cluster as the source only.
    #[arg(long, env = "LENO_ISSUER_SECRET", value_name = "NAME")]
    pub issuer_secret: Option<String>,
    /// A further file that is to hold the trust anchors, beside DIR/trust-anchor.pem.
    #[arg(long, env = "LENO_PUBLISH_ANCHOR", value_name = "FILE", value_delimiter = ',')]
    pub publish_anchor: Vec<PathBuf>,
    /// How to reach Kubernetes from outside of it: a kubeconfig, whose current context counts.
    #[arg(long, env = "KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Set by the kubelet, in every Pod.
    #[arg(long, env = "KUBERNETES_SERVICE_HOST", hide = true)]
    pub kubernetes_host: Option<String>,
    #[arg(long, env = "KUBERNETES_SERVICE_PORT", hide = true, default_value_t = 443)]
    pub kubernetes_port: u16,
    /// Where the API server asks about Pods and policies. Absent: nowhere.
    #[arg(long, env = "LENO_WEBHOOK", value_name = "ADDRESS")]
    pub webhook: Option<SocketAddr>,
    #[command(flatten)]
    pub injection: Injection,
    #[command(flatten)]
    pub mesh: MeshDefaults,
    /// How sidecars and logs name this replica.
    #[arg(long, env = "LENO_REPLICA", value_name = "NAME", default_value = "local")]
    pub replica: String,
}

/// What holds where the Mesh object says nothing, or is not there.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Where the Mesh says nothing")]
pub struct MeshDefaults {
    /// Networks of Services and Pods; by default the private ranges.
    #[arg(long, env = "LENO_MESH_NETWORKS", value_name = "CIDR", value_delimiter = ',')]
    pub mesh_networks: Vec<IpNet>,
    /// An OTLP receiver for the spans of sidecars.
    #[arg(long, env = "LENO_TRACING_ENDPOINT", value_name = "URL")]
    pub tracing_endpoint: Option<String>,
    /// Of a million root spans, how many are kept.
    #[arg(long, env = "LENO_TRACING_SAMPLING", value_name = "PPM", value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    pub tracing_sampling: Option<u32>,
}

impl Config {
    /// Under every Mesh.
    pub fn base(&self) -> Base {
        let MeshDefaults { mesh_networks, tracing_endpoint, tracing_sampling } = self.mesh.clone();
        Base {
            trust_domain: Some(self.trust_domain.clone()),
            mesh_networks: (!mesh_networks.is_empty()).then_some(mesh_networks),
            tracing_endpoint: tracing_endpoint.filter(|url| !url.is_empty()),
            sampling_ppm: tracing_sampling,
        }
    }
}

/// What injected Pods are given.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Injection")]
pub struct Injection {
    /// The sidecar's image.
    #[arg(long, env = "LENO_PROXY_IMAGE", value_name = "IMAGE", default_value = concat!("docker.io/leno/proxy:", env!("CARGO_PKG_VERSION")))]
    pub proxy_image: String,
    /// The image that writes the redirect.
    #[arg(long, env = "LENO_INIT_IMAGE", value_name = "IMAGE", default_value = concat!("docker.io/leno/init:", env!("CARGO_PKG_VERSION")))]
    pub init_image: String,
    #[arg(long, env = "LENO_IMAGE_PULL_POLICY", value_name = "POLICY", default_value = "IfNotPresent")]
    pub image_pull_policy: String,
    /// What sidecars log about themselves.
    #[arg(long, env = "LENO_PROXY_LOG", value_name = "FILTER", default_value = "info")]
    pub proxy_log: String,
    /// What sidecars log of requests and connections.
    #[arg(long, env = "LENO_PROXY_ACCESS_LOG", value_name = "off|errors|all|N%", default_value = "errors")]
    pub proxy_access_log: String,
    /// The sidecar's resources, as a container's, in JSON.
    #[arg(long, env = "LENO_PROXY_RESOURCES", value_name = "JSON", value_parser = json, default_value = "{}")]
    pub proxy_resources: serde_json::Value,
    /// Where sidecars send traces.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL")]
    pub otlp_endpoint: Option<String>,
}

fn json(text: &str) -> Result<serde_json::Value, String> {
    match serde_json::from_str(text) {
        Ok(value @ serde_json::Value::Object(_)) => Ok(value),
        Ok(_) => Err("expected an object such as {\"requests\":{\"cpu\":\"20m\"}}".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

impl Injection {
    /// For the sidecars of a mesh whose control plane is in `namespace`.
    pub fn settings(&self, namespace: &str, trust_domain: &TrustDomain) -> Settings {
        Settings {
            proxy_image: self.proxy_image.clone(),
            init_image: self.init_image.clone(),
            pull_policy: self.image_pull_policy.clone(),
            control_plane: format!("leno-control-plane.{namespace}.svc:15012"),
            namespace: namespace.to_owned(),
            trust_domain: trust_domain.as_str().to_owned(),
            log: self.proxy_log.clone(),
            access_log: self.proxy_access_log.clone(),
            resources: self.proxy_resources.clone(),
            otlp_endpoint: self.otlp_endpoint.clone().filter(|url| !url.is_empty()),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    Directory(PathBuf),
    Kubernetes,
}

fn source(text: &str) -> Result<Source, String> {
    match text.split_once(':') {
        Some(("dir", path)) if !path.is_empty() => Ok(Source::Directory(path.into())),
        None if text == "kubernetes" => Ok(Source::Kubernetes),
        _ => Err("expected kubernetes or dir:PATH".to_owned()),
    }
}

/// A Gateway API duration (GEP-2257): up to four parts such as `1h30m`, `500ms`, each unit at most once and in any order.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no duration; write for example 30s, 10m, 1h30m");
    let mut total = Duration::ZERO;
    let (mut rest, mut seen) = (text, Vec::new());
    while !rest.is_empty() {
        let digits =
            rest.find(|c: char| !c.is_ascii_digit()).filter(|digits| (1..=5).contains(digits)).ok_or_else(wrong)?;
        let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = &rest[digits..];
        let unit = &rest[..rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len())];
        let millis = match unit {
            "h" => 3_600_000,
            "m" => 60_000,
            "s" => 1000,
            "ms" => 1,
            _ => return Err(wrong()),
        };
        if seen.contains(&unit) {
            return Err(wrong());
        }
        seen.push(unit);
        rest = &rest[unit.len()..];
        total += Duration::from_millis(number * millis);
    }
    if seen.is_empty() { Err(wrong()) } else { Ok(total) }
}

const _: () = assert!(LEAF_TTL.as_secs() == 24 * 3600, "the flag's default and help say 24h");
