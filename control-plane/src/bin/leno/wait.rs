//! `leno wait`: returns when what was declared is in force on the wire, for policies and routes alike. It must never take
//! silence for success.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::bail;
use leno_control_plane::cluster;
use leno_control_plane::config::duration;
use leno_control_plane::object::Kind;
use leno_control_plane::object::Name;
use leno_control_plane::object::ObjectId;
use leno_proto::fields;

use crate::live;
use crate::live::Live;
use crate::live::State;
use crate::reach::Cluster;
use crate::reach::Reach;
use crate::reach::block;
use crate::world;

const POLL: Duration = Duration::from_millis(300);

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Such as trafficpolicy/orders or httproute/orders.
    #[arg(value_name = "KIND/NAME", required_unless_present = "files")]
    objects: Vec<String>,
    /// Everything that these manifests declare.
    #[arg(short, long = "filename", value_name = "FILE")]
    files: Vec<PathBuf>,
    #[arg(long, value_parser = duration, default_value = "60s")]
    timeout: Duration,
    #[command(flatten)]
    reach: Reach,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let cluster = options.reach.cluster()?;
    let named = options.objects.iter().map(|asked| parse(asked, &cluster.namespace));
    let mut wanted = named.collect::<anyhow::Result<Vec<ObjectId>>>()?;
    let declared = world::declared(&options.files)?;
    if let Some(refused) = declared.refused.first() {
        bail!("{refused}");
    }
    wanted.extend(declared.places.into_keys().filter(|id| live::KINDS.contains(&id.kind)));
    block(async {
        let end = Instant::now() + options.timeout;
        for id in wanted {
            if !one(&cluster, &id, end).await? {
                return Ok(ExitCode::FAILURE);
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}

async fn one(cluster: &Cluster, id: &ObjectId, end: Instant) -> anyhow::Result<bool> {
    loop {
        let live = read(cluster, id).await?;
        let why = match &live {
            Some(Live { state: State::Live, proxies, .. }) => {
                println!(
                    "{id} is in force{}",
                    if proxies.is_empty() { String::new() } else { format!(" in {proxies} proxies") }
                );
                return Ok(true);
            }
            Some(Live { state: State::Refused, message, .. }) => {
                eprintln!("leno: {id} will not be in force as it stands: {message}");
                return Ok(false);
            }
            Some(Live { message, .. }) => message,
            None => "it has no Service as a parent, so it is not Leno's",
        };
        if Instant::now() > end {
            eprintln!("leno: {id} is not in force: {why}");
            return Ok(false);
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn read(cluster: &Cluster, id: &ObjectId) -> anyhow::Result<Option<Live>> {
    for base in cluster::paths(id.kind) {
        let version = base.rsplit('/').nth(1).unwrap_or("v1");
        let path = format!("{}/{}", cluster::path(id.kind, version, &id.name.namespace), id.name.name);
        if let Some(object) = cluster.get(&path).await? {
            return Ok(live::of(id.kind, &object));
        }
    }
    bail!("there is no {id}")
}

/// As kubectl takes it: the kind's name, plural or short name.
fn parse(asked: &str, namespace: &str) -> anyhow::Result<ObjectId> {
    let (kind, name) = asked.split_once('/').with_context(|| format!("{asked}: write KIND/NAME"))?;
    let word = kind.to_ascii_lowercase();
    let short = |kind: Kind| match kind {
        Kind::TrafficPolicy => "tpol",
        Kind::InboundPolicy => "ipol",
        Kind::AccessPolicy => "apol",
        Kind::EgressHost => "ehost",
        Kind::Mesh => "lmesh",
        _ => "",
    };
    let called = |kind: &Kind| {
        [kind.as_str().to_ascii_lowercase().as_str(), cluster::plural(*kind), short(*kind)].contains(&word.as_str())
    };
    let Some(kind) = live::KINDS.into_iter().find(called) else {
        let known: Vec<String> = live::KINDS.iter().map(|kind| kind.as_str().to_ascii_lowercase()).collect();
        match fields::closest(&word, known.iter().map(String::as_str)) {
            Some(close) => bail!("there is no kind {kind}; did you mean {close}?"),
            None => bail!("there is no kind {kind}; there are {}", known.join(", ")),
        }
    };
    let namespace = if kind.namespaced() { namespace } else { "" };
    Ok(ObjectId { kind, name: Name::new(namespace, name) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_named_as_kubectl_names_them() {
        for asked in ["TrafficPolicy/a", "trafficpolicies/a", "tpol/a"] {
            assert_eq!(parse(asked, "shop").unwrap().to_string(), "TrafficPolicy shop/a");
        }
        let said = parse("trafficpolcy/a", "shop").unwrap_err().to_string();
        assert!(said.contains("did you mean trafficpolicy?"), "{said}");
        assert!(parse("orders", "shop").unwrap_err().to_string().contains("KIND/NAME"));
    }
}
