//! `leno restart`: rolls the workloads whose sidecars are missing or of another release, as `kubectl rollout restart` does. It
//! must never delete a pod by itself: what makes pods replaces them in its own order and under its own budget.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;

use anyhow::bail;
use leno_control_plane::kube::client::Patch;
use leno_control_plane::kube::time::seconds;
use leno_control_plane::object::INJECT;
use serde_json::Value;
use serde_json::json;
use tokio::time::sleep;

use crate::guard::sidecar;
use crate::paint::count;
use crate::reach::Cluster;
use crate::reach::Reach;
use crate::reach::block;
use crate::reach::items;
use crate::reach::name;
use crate::reach::plainly;
use crate::reach::text;

/// Longer than a replica's grace period.
const SETTLED_WITHIN: Duration = Duration::from_secs(60);

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Workloads whose sidecars are not of the control plane's release.
    #[arg(long)]
    outdated: bool,
    /// Workloads that ask for sidecars and run without.
    #[arg(long)]
    unmeshed: bool,
    /// Only says what would be restarted.
    #[arg(long)]
    dry_run: bool,
    /// In every namespace.
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    #[command(flatten)]
    reach: Reach,
}

/// What makes pods, and why it should make them anew.
type Owners = BTreeMap<Owner, String>;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Owner {
    pub(crate) kind: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    if !options.outdated && !options.unmeshed {
        bail!("say --outdated, --unmeshed or both");
    }
    block(async {
        let cluster = options.reach.cluster()?;
        if options.outdated && !options.dry_run {
            settled(&cluster).await?;
        }
        let scope = if options.all_namespaces { String::new() } else { format!("/namespaces/{}", cluster.namespace) };
        let pods = cluster.list(&format!("/api/v1{scope}/pods"), "").await?;
        let wanted = wanted_image(&cluster).await?;
        let asking = asking(&cluster).await?;
        let mut owners = Owners::new();
        for pod in pods.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()) {
            let why = match sidecar(pod) {
                Some(one) if options.outdated => outdated(pod, one, &wanted),
                None if options.unmeshed => unmeshed(pod, &asking).then(|| "it has no sidecar".to_owned()),
                _ => None,
            };
            let Some(why) = why else { continue };
            match owner(&cluster, pod).await? {
                Some(owner) => drop(owners.insert(owner, why)),
                None => eprintln!("{}: {why}; nothing would make it again: replace it yourself", name(pod)),
            }
        }
        for (owner, why) in &owners {
            let Owner { kind, namespace, name } = owner;
            if !options.dry_run {
                roll(&cluster, owner).await?;
            }
            println!(
                "{} -n {namespace} {}/{name}: {why}",
                if options.dry_run { "would restart" } else { "restarted" },
                kind.to_ascii_lowercase()
            );
        }
        match owners.is_empty() {
            true => println!("nothing to restart"),
            false if !options.dry_run => eprintln!(
                "{}; `kubectl rollout status` follows each, `leno check` looks at them all",
                count(owners.len(), "workload rolls", "workloads roll")
            ),
            false => {}
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// Returns when no replica runs any more that would give new pods another sidecar than the release's: whoever was restarted
/// before it would be outdated again. `helm upgrade --wait` does not wait for that.
async fn settled(cluster: &Cluster) -> anyhow::Result<()> {
    let (wanted, until) = (wanted_image(cluster).await?, Instant::now() + SETTLED_WITHIN);
    let mut told = false;
    loop {
        let replicas = cluster.control_plane().await?;
        let Some(other) = replicas.iter().find(|replica| !gives(replica, &wanted)) else { return Ok(()) };
        if Instant::now() > until {
            bail!(
                "{} still gives new pods a sidecar of another release; look at `kubectl -n {} rollout status \
                 deployment/leno-control-plane`, and restart then",
                name(other),
                cluster.system
            );
        }
        if !std::mem::replace(&mut told, true) {
            eprintln!("waiting for {} of another release to leave", name(other));
        }
        sleep(Duration::from_secs(1)).await;
    }
}

/// What a replica's Pod gives to others, whether it comes, stays or leaves.
fn gives(replica: &Value, wanted: &str) -> bool {
    let ended = matches!(text(&replica["status"]["phase"]), "Succeeded" | "Failed");
    ended || image_given(&replica["spec"]).is_none_or(|image| image == wanted)
}

fn image_given(spec: &Value) -> Option<&str> {
    let mut variables = items(&spec["containers"]).flat_map(|one| items(&one["env"]));
    variables.find(|one| one["name"] == "LENO_PROXY_IMAGE").map(|one| text(&one["value"]))
}

/// The image that the injector gives now.
pub(crate) async fn wanted_image(cluster: &Cluster) -> anyhow::Result<String> {
    let path = format!("/apis/apps/v1/namespaces/{}/deployments/leno-control-plane", cluster.system);
    let Some(deployment) = cluster.get(&path).await? else {
        bail!("there is no control plane in namespace {}; `leno check` says more", cluster.system);
    };
    Ok(image_given(&deployment["spec"]["template"]["spec"]).unwrap_or_default().to_owned())
}

/// Namespaces whose label asks for sidecars.
pub(crate) async fn asking(cluster: &Cluster) -> anyhow::Result<Vec<String>> {
    let labelled = cluster.list("/api/v1/namespaces", &format!("{INJECT}=enabled")).await?;
    Ok(labelled.iter().map(|one| text(&one["metadata"]["name"]).to_owned()).collect())
}

/// Why its sidecar should be another; an image that the Pod asked for is its own wish.
pub(crate) fn outdated(pod: &Value, sidecar: &Value, wanted: &str) -> Option<String> {
    let image = text(&sidecar["image"]);
    let asked = !pod["metadata"]["annotations"]["leno.dev/proxy-image"].is_null();
    (!asked && !wanted.is_empty() && image != wanted)
        .then(|| format!("its sidecar is {image}, the release's is {wanted}"))
}

/// Should have a sidecar, as far as can be told from outside.
pub(crate) fn unmeshed(pod: &Value, asking: &[String]) -> bool {
    let meta = &pod["metadata"];
    let own = meta["labels"][INJECT].as_str().or_else(|| meta["annotations"][INJECT].as_str());
    let wants = match own {
        Some(word) => matches!(word, "enabled" | "true"),
        None => asking.iter().any(|namespace| *namespace == text(&meta["namespace"])),
    };
    let ended = matches!(text(&pod["status"]["phase"]), "Succeeded" | "Failed");
    wants && !ended && sidecar(pod).is_none() && pod["spec"]["hostNetwork"] != true
}

/// The workload behind a Pod; a ReplicaSet stands for its Deployment. `None`: nothing that could be rolled.
async fn owner(cluster: &Cluster, pod: &Value) -> anyhow::Result<Option<Owner>> {
    let namespace = text(&pod["metadata"]["namespace"]).to_owned();
    let controller =
        |object: &Value| items(&object["metadata"]["ownerReferences"]).find(|one| one["controller"] == true).cloned();
    let Some(mut found) = controller(pod) else { return Ok(None) };
    if found["kind"] == "ReplicaSet" {
        let path = format!("/apis/apps/v1/namespaces/{namespace}/replicasets/{}", text(&found["name"]));
        match cluster.get(&path).await?.as_ref().and_then(controller) {
            Some(deployment) => found = deployment,
            None => return Ok(None),
        }
    }
    let kind = text(&found["kind"]).to_owned();
    let rolls = ["Deployment", "StatefulSet", "DaemonSet"].contains(&kind.as_str());
    Ok(rolls.then(|| Owner { kind, namespace, name: text(&found["name"]).to_owned() }))
}

async fn roll(cluster: &Cluster, owner: &Owner) -> anyhow::Result<()> {
    let Owner { kind, namespace, name } = owner;
    let path = format!("/apis/apps/v1/namespaces/{namespace}/{}s/{name}", kind.to_ascii_lowercase());
    let annotations = json!({"kubectl.kubernetes.io/restartedAt": seconds(SystemTime::now())});
    let patch = json!({"spec": {"template": {"metadata": {"annotations": annotations}}}});
    let doing = format!("restart {kind} {namespace}/{name}");
    cluster.client.patch(&path, Patch::Merge, &patch).await.map(drop).map_err(|error| plainly(error, &doing))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_should_have_a_sidecar_where_it_or_its_namespace_asks() {
        let pod = |meta: Value, spec: Value| json!({"metadata": meta, "spec": spec, "status": {"phase": "Running"}});
        let asking = ["shop".to_owned()];
        let cases = [
            (json!({"namespace": "shop"}), json!({}), true),
            (json!({"namespace": "other"}), json!({}), false),
            (json!({"namespace": "other", "annotations": {"leno.dev/inject": "enabled"}}), json!({}), true),
            (json!({"namespace": "shop", "labels": {"leno.dev/inject": "disabled"}}), json!({}), false),
            (json!({"namespace": "shop"}), json!({"hostNetwork": true}), false),
            (json!({"namespace": "shop"}), json!({"initContainers": [{"name": "leno-proxy"}]}), false),
        ];
        for (meta, spec, expected) in cases {
            let pod = pod(meta, spec);
            assert_eq!(unmeshed(&pod, &asking), expected, "{pod}");
        }
    }

    #[test]
    fn a_replica_gives_its_own_release_until_it_has_ended() {
        let replica = |image: &str, phase: &str| {
            let env = json!([{"name": "LENO_PROXY_IMAGE", "value": image}]);
            json!({"spec": {"containers": [{"env": env}]}, "status": {"phase": phase}})
        };
        let cases = [("new", "Pending", true), ("old", "Running", false), ("old", "Succeeded", true)];
        for (image, phase, expected) in cases {
            assert_eq!(gives(&replica(image, phase), "new"), expected, "{image} {phase}");
        }
    }

    #[test]
    fn an_image_of_its_own_wish_is_not_outdated() {
        let sidecar = json!({"name": "leno-proxy", "image": "docker.io/leno/proxy:0.0.9"});
        let plain = json!({"metadata": {}});
        assert!(outdated(&plain, &sidecar, "docker.io/leno/proxy:0.1.0").is_some());
        assert!(outdated(&plain, &sidecar, "docker.io/leno/proxy:0.0.9").is_none());
        let asked = json!({"metadata": {"annotations": {"leno.dev/proxy-image": "mine"}}});
        assert!(outdated(&asked, &sidecar, "docker.io/leno/proxy:0.1.0").is_none());
    }
}
