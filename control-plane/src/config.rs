//! How the control plane is started: flags, each with its environment variable. It must never read anything later on.

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use leno_proto::identity::TrustDomain;

use crate::ca::LEAF_TTL;

/// Watches what users declare and tells each sidecar what concerns it.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "leno-control-plane", version)]
pub struct Config {
    /// Where the mesh is declared: `dir:PATH`, a folder of YAML manifests that is read again when it changes.
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
    /// A further file that is to hold the trust anchors, beside DIR/trust-anchor.pem.
    #[arg(long, env = "LENO_PUBLISH_ANCHOR", value_name = "FILE", value_delimiter = ',')]
    pub publish_anchor: Vec<PathBuf>,
    /// How sidecars and logs name this replica.
    #[arg(long, env = "LENO_REPLICA", value_name = "NAME", default_value = "local")]
    pub replica: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    Directory(PathBuf),
}

fn source(text: &str) -> Result<Source, String> {
    match text.split_once(':') {
        Some(("dir", path)) if !path.is_empty() => Ok(Source::Directory(path.into())),
        _ => Err("expected dir:PATH".to_owned()),
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
