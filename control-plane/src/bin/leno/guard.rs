//! `leno guard`: the chart's hook before it is uninstalled. A pod with a sidecar and no control plane goes on for as long as its
//! certificate, and then stops: nobody should find that out a day later.

use std::process::ExitCode;

use crate::paint::count;
use crate::reach::Reach;
use crate::reach::block;
use crate::reach::items;
use crate::reach::name;

/// Named in the message; the rest is a number.
const NAMED_MAX: usize = 10;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// The release that is to go.
    #[arg(long, value_name = "NAME", default_value = "leno")]
    release: String,
    /// Its revision, for the way back.
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    revision: u32,
    #[command(flatten)]
    reach: Reach,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    block(async {
        let cluster = options.reach.cluster()?;
        let pods = cluster.list("/api/v1/pods", "").await?;
        let ended = |phase: &serde_json::Value| phase == "Succeeded" || phase == "Failed";
        let stranded = pods.iter().filter(|pod| sidecar(pod).is_some() && !ended(&pod["status"]["phase"]));
        let stranded: Vec<String> = stranded.map(name).collect();
        if stranded.is_empty() {
            println!("no pod has a sidecar: nothing is stranded");
            return Ok(ExitCode::SUCCESS);
        }
        eprintln!("leno: {}", refusal(&stranded, options, &cluster.system));
        Ok(ExitCode::FAILURE)
    })
}

/// A refused uninstall leaves helm's record of the release in the state "uninstalling", and no upgrade begins there: a rollback to
/// the revision that runs is the way out.
fn refusal(stranded: &[String], options: &Options, namespace: &str) -> String {
    let Options { release, revision, .. } = options;
    let shown = stranded.iter().take(NAMED_MAX).map(String::as_str).collect::<Vec<_>>().join(", ");
    format!(
        "{} still {} a sidecar, among them {shown}. Without a control plane their certificates end within a day and their traffic with them. Remove the label leno.dev/inject from their namespaces and restart them, then uninstall again; `helm uninstall {release} -n {namespace} --no-hooks` goes on all the same. To keep the release, say `helm rollback {release} {revision} -n {namespace}`: until then helm takes it for one that is being uninstalled.",
        count(stranded.len(), "pod", "pods"),
        if stranded.len() == 1 { "has" } else { "have" },
    )
}

/// The sidecar's container of a Pod.
pub(crate) fn sidecar(pod: &serde_json::Value) -> Option<&serde_json::Value> {
    items(&pod["spec"]["initContainers"]).find(|one| one["name"] == leno_control_plane::inject::PROXY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_pods_and_both_ways_on() {
        let options = Options { release: "mesh".to_owned(), revision: 3, reach: Reach::default() };
        let said = refusal(&["shop/orders-1".to_owned()], &options, "leno-system");
        for word in [
            "one pod still has",
            "shop/orders-1",
            "--no-hooks",
            "`helm rollback mesh 3 -n leno-system`",
            "uninstall again",
        ] {
            assert!(said.contains(word), "{word}: {said}");
        }
        let many: Vec<String> = (0..12).map(|number| format!("shop/orders-{number}")).collect();
        let said = refusal(&many, &options, "leno-system");
        assert!(said.contains("12 pods still have") && !said.contains("orders-10"), "{said}");
    }
}
