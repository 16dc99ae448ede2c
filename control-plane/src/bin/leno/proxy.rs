//! `leno proxy`: one sidecar, through the API server: what only its own socket tells by running `leno-proxy` in its container,
//! what everybody may know from its status port. It must never change what the sidecar enforces.

use std::process::ExitCode;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use anyhow::bail;
use clap::Subcommand;
use leno_control_plane::inject::PORTS;
use leno_control_plane::inject::PROXY;
use leno_control_plane::kube;
use leno_control_plane::kube::exec;
use serde_json::Value;

use crate::lint::Format;
use crate::paint::table;
use crate::reach::Cluster;
use crate::reach::Place;
use crate::reach::Reach;
use crate::reach::block;
use crate::reach::items;
use crate::reach::plainly;
use crate::reach::text;

const VOLUME: &str = "/var/run/leno/volume";

#[derive(clap::Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// What it has in force, as JSON.
    Config(Pod),
    /// Connections and requests by destination, and the state of every endpoint.
    Pools(Pod),
    /// Its identity, and how long its certificate lives.
    Certs(Pod),
    /// Its metrics, as Prometheus reads them.
    Metrics(Pod),
    /// Whether it is ready, and what it waits for.
    Ready(Pod),
    /// Changes what it logs until it restarts: error, warn, info, debug, trace, or a filter such as info,leno_proxy::pool=debug.
    LogLevel {
        #[command(flatten)]
        pod: Pod,
        filter: String,
    },
}

#[derive(clap::Args)]
struct Pod {
    /// NAME, NAMESPACE/NAME, or deployment/NAME for any of its pods.
    pod: String,
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    output: Format,
    #[command(flatten)]
    reach: Reach,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let (pod, show, page): (&Pod, &[&str], &str) = match &options.what {
        What::Config(pod) => (pod, &["show", "config"], ""),
        What::Pools(pod) => (pod, &["show", "pools"], ""),
        What::Certs(pod) => (pod, &["show", "certs"], ""),
        What::LogLevel { pod, filter } => (pod, &["log-level", filter.as_str()], ""),
        What::Metrics(pod) => (pod, &[], "/metrics"),
        What::Ready(pod) => (pod, &[], "/ready"),
    };
    let said = block(async {
        let cluster = pod.reach.cluster()?;
        let (namespace, name) = cluster.pod(&pod.pod).await?;
        if page.is_empty() {
            return ask(&cluster, &namespace, &name, show).await;
        }
        let port = u16::try_from(PORTS[2]).expect("a port");
        cluster.through(&Place { namespace: &namespace, pod: &name, port }, page).await
    })?;
    let value = || serde_json::from_str::<Value>(&said).unwrap_or_default();
    match (&options.what, pod.output) {
        (What::Pools(_), Format::Text) => print!("{}", pools(&value())),
        (What::Certs(_), Format::Text) => print!("{}", certificate(&value(), now())),
        _ => print!("{said}"),
    }
    Ok(ExitCode::SUCCESS)
}

async fn ask(cluster: &Cluster, namespace: &str, pod: &str, words: &[&str]) -> anyhow::Result<String> {
    let mut command = vec!["/leno-proxy"];
    command.extend_from_slice(words);
    command.extend(["--volume", VOLUME]);
    let place = exec::Place { namespace, pod, container: PROXY };
    match exec::exec(&cluster.client, place, &command).await {
        Ok(said) => Ok(said),
        // The sidecar itself says what is wrong with the question.
        Err(kube::Error::Refused { reason, message, .. }) if reason == "NonZeroExitCode" => bail!("{message}"),
        Err(error) if error.to_string().contains("container") && error.status() == Some(400) => {
            bail!(
                "{namespace}/{pod} has no sidecar; `leno restart --unmeshed` gives it one where it asks for it ({error})"
            )
        }
        Err(error) => Err(plainly(error, &format!("ask the sidecar of {namespace}/{pod}"))),
    }
}

fn pools(all: &Value) -> String {
    let mut rows = vec![
        ["DESTINATION", "CONNECTIONS", "WAITING", "REQUESTS", "ENDPOINT", "STATE", "NOW"].map(str::to_owned).to_vec(),
    ];
    let of = |one: &Value| match (one["in_use"].as_i64(), one["limit"].as_i64()) {
        (Some(used), Some(limit)) => format!("{used}/{limit}"),
        (Some(used), None) => used.to_string(),
        _ => "-".to_owned(),
    };
    for target in items(all) {
        let waiting = target["connections"]["waiting"].to_string();
        let mut head =
            [text(&target["service"]).to_owned(), of(&target["connections"]), waiting, of(&target["requests"])];
        let endpoints: Vec<&Value> = items(&target["endpoints"]).collect();
        if endpoints.is_empty() {
            rows.push([head.as_slice(), &["none".to_owned(), String::new(), String::new()]].concat());
        }
        for endpoint in endpoints {
            let state = match (endpoint["ejected"] == true, endpoint["ready"] == true, endpoint["identity"].is_string())
            {
                (true, ..) => "left out after failures",
                (false, false, _) => "not ready",
                (false, true, true) => "ready, mTLS",
                (false, true, false) => "ready, plaintext",
            };
            let place = format!("{} {}", text(&endpoint["pod"]), text(&endpoint["address"]));
            rows.push([head.as_slice(), &[place, state.to_owned(), endpoint["requests"].to_string()]].concat());
            head = Default::default();
        }
    }
    if rows.len() == 1 { "it calls nobody now\n".to_owned() } else { table(&rows) }
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// Its life as a bar: what has passed, and what is left.
fn certificate(one: &Value, now: i64) -> String {
    let (Some(begun), Some(end)) = (one["not_before_unix"].as_i64(), one["not_after_unix"].as_i64()) else {
        return "it has no certificate yet; `leno proxy ready` says what it waits for\n".to_owned();
    };
    let passed = usize::try_from((now - begun).clamp(0, end - begun) * 20 / (end - begun).max(1)).unwrap_or(0);
    let left = end - now;
    let bar = format!("{}{}", "#".repeat(passed), "-".repeat(20 - passed));
    let life = if left > 0 { format!("{} left", spell(left)) } else { format!("ended {} ago", spell(-left)) };
    format!(
        "identity          {}\ncertificate       [{bar}] {life} of {}; renewed at 50-70 % of its life\ntrust generation  {}\n",
        text(&one["identity"]),
        spell(end - begun),
        one["trust_generation"],
    )
}

pub(crate) fn spell(seconds: i64) -> String {
    match seconds {
        ..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..172_800 => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_certificate_tells_how_long_it_lives() {
        let one = json!({"identity": "spiffe://d/ns/a/sa/b", "not_before_unix": 0, "not_after_unix": 86_400, "trust_generation": 1});
        let text = certificate(&one, 43_200);
        assert!(text.contains("[##########----------] 12h00m left of 24h00m"), "{text}");
        assert!(certificate(&one, 90_000).contains("ended 1h00m ago"));
        assert!(certificate(&json!({"identity": null}), 0).contains("no certificate yet"));
    }

    #[test]
    fn pools_show_each_destination_once() {
        let endpoint = |pod: &str, ejected: bool| json!({"pod": pod, "address": "10.0.0.1:8080", "identity": "spiffe://d", "ready": true, "ejected": ejected, "requests": 0});
        let all = json!([{"service": "shop/orders:80", "connections": {"in_use": 2, "limit": 100, "waiting": 0}, "requests": {"in_use": 1, "limit": null}, "endpoints": [endpoint("a", false), endpoint("b", true)]}]);
        let text = pools(&all);
        assert_eq!(text.matches("shop/orders:80").count(), 1);
        assert!(
            text.contains("2/100") && text.contains("left out after failures") && text.contains("ready, mTLS"),
            "{text}"
        );
        assert!(pools(&json!([])).contains("nobody"));
    }
}
