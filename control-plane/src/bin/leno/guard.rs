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

pub(crate) fn run(reach: &Reach) -> anyhow::Result<ExitCode> {
    block(async {
        let cluster = reach.cluster()?;
        let pods = cluster.list("/api/v1/pods", "").await?;
        let ended = |phase: &serde_json::Value| phase == "Succeeded" || phase == "Failed";
        let stranded = pods.iter().filter(|pod| sidecar(pod).is_some() && !ended(&pod["status"]["phase"]));
        let stranded: Vec<String> = stranded.map(name).collect();
        if stranded.is_empty() {
            println!("no pod has a sidecar: nothing is stranded");
            return Ok(ExitCode::SUCCESS);
        }
        let shown = stranded.iter().take(NAMED_MAX).map(String::as_str).collect::<Vec<_>>().join(", ");
        eprintln!(
            "leno: {} still {} a sidecar, among them {shown}. Without a control plane their certificates end within a day and their traffic with them. Remove the label leno.dev/inject from their namespaces and restart them first; `helm uninstall --no-hooks` goes on all the same.",
            count(stranded.len(), "pod", "pods"),
            if stranded.len() == 1 { "has" } else { "have" },
        );
        Ok(ExitCode::FAILURE)
    })
}

/// The sidecar's container of a Pod.
pub(crate) fn sidecar(pod: &serde_json::Value) -> Option<&serde_json::Value> {
    items(&pod["spec"]["initContainers"]).find(|one| one["name"] == leno_control_plane::inject::PROXY)
}
