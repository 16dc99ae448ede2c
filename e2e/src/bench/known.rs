//! What a large mesh costs a proxy that uses little of it: instructions, memory and the session's bytes, with and without five
//! thousand services that the control plane knows and nobody calls. It must never pass for want of changes: they are counted.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;

use crate::bench::counters;
use crate::bench::counts;
use crate::bench::figures::median;
use crate::bench::peers::leno;
use crate::mesh;
use crate::mesh::Mesh;
use crate::mesh::Plan;
use crate::mesh::Settings;
use crate::scrape::Scrape;
use crate::scrape::scrape;

/// Services, and endpoints of each: fifty thousand.
const SERVICES: usize = 5000;
const ENDPOINTS: usize = 10;
/// Files that have them: the folder's source reads a file anew when it changes, and one of these does, again and again.
const FILES: [&str; 10] = [
    "far-0.yaml",
    "far-1.yaml",
    "far-2.yaml",
    "far-3.yaml",
    "far-4.yaml",
    "far-5.yaml",
    "far-6.yaml",
    "far-7.yaml",
    "far-8.yaml",
    "far-9.yaml",
];
const MOVING: &str = "far-moving.yaml";
/// Changes of what nobody uses. A table for each has to be seen.
const CHANGES: usize = 20;
/// Memory is read so often, of fresh sidecars: a page more or less is chance.
const ROUNDS: usize = 3;

/// At most so much more, in percent and MiB.
const INSTRUCTIONS_MAX: f64 = 3.0;
const MEMORY_MAX: f64 = 1.0;

/// What was found, and whether it holds.
pub struct Known {
    pub text: String,
    pub holds: bool,
}

/// Looks at both meshes.
///
/// # Errors
/// A mesh does not start, or valgrind is missing.
pub async fn look(folder: &Path) -> anyhow::Result<Known> {
    let (mut small, mut large) = (Vec::new(), Vec::new());
    let mut told = 0.0;
    for round in 0..ROUNDS {
        small.push(memory(&started(leno::using).await?).await?);
        let mesh = started(among_many).await?;
        large.push(memory(&mesh).await?);
        if round == 0 {
            told = told_of_changes(&mesh).await?;
        }
    }
    let of = |values: &[f64]| median(values).context("at least one round");
    let (small, large) = (of(&small)?, of(&large)?);
    let (few, many) = (instructions(folder, leno::using).await?, instructions(folder, among_many).await?);
    let more = (many / few - 1.0) * 100.0;
    let mut text =
        format!("a proxy that uses ten services, beside {SERVICES} more with {} endpoints: ", SERVICES * ENDPOINTS);
    let _ = write!(text, "{few:.0} to {many:.0} instructions a request ({more:+.1} %, at most {INSTRUCTIONS_MAX}), ");
    let _ = write!(text, "RSS {small:.1} to {large:.1} MiB (at most {MEMORY_MAX} more), ");
    let _ = write!(text, "{told:.0} bytes told to it of {CHANGES} changes (none)");
    let holds = more <= INSTRUCTIONS_MAX && large - small <= MEMORY_MAX && told == 0.0;
    Ok(Known { text, holds })
}

async fn started(plan: fn(Ipv4Addr) -> Plan) -> anyhow::Result<Mesh> {
    let network = mesh::free_network()?;
    Mesh::start_with(network, plan(network), Settings::default(), &|_| ()).await
}

/// Of the client's sidecar at rest.
async fn memory(mesh: &Mesh) -> anyhow::Result<f64> {
    tokio::time::sleep(Duration::from_secs(3)).await;
    let [client, _] = leno::PAIR;
    Ok(counters::rss(&[mesh.sidecar_pid(client).context("the client's sidecar runs")?]))
}

/// Bytes of sessions while endpoints change that no proxy uses.
async fn told_of_changes(mesh: &Mesh) -> anyhow::Result<f64> {
    let bytes = |page: &Scrape| page.sum("leno_control_message_bytes_total", &[]);
    let generation = |page: &Scrape| page.sum("leno_control_table_generation", &[]);
    let before = scrape(mesh.admin()).await?;
    for change in 0..CHANGES {
        let seen = generation(&scrape(mesh.admin()).await?);
        // Whole or not at all: a half-written file would be refused.
        let new = mesh.manifests().with_file_name(MOVING);
        std::fs::write(&new, moving(change + 1))?;
        std::fs::rename(&new, mesh.manifests().join(MOVING))?;
        let mut looks = 0;
        while generation(&scrape(mesh.admin()).await?) <= seen {
            looks += 1;
            anyhow::ensure!(looks < 300, "the control plane has not seen change {change} in 30 s");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    Ok(bytes(&scrape(mesh.admin()).await?) - bytes(&before))
}

/// Of the client's sidecar for one request.
async fn instructions(folder: &Path, plan: fn(Ipv4Addr) -> Plan) -> anyhow::Result<f64> {
    let measured = counts::measure_in(folder, &["c32".to_owned()], plan).await?;
    Ok(measured.first().context("the case was counted")?.instructions())
}

fn among_many(network: Ipv4Addr) -> Plan {
    let mut plan = leno::using(network);
    let each = SERVICES / FILES.len();
    for (number, file) in FILES.into_iter().enumerate() {
        let services = number * each..(number + 1) * each;
        plan.manifests.push((file, services.map(|service| leno::service(&far(service), &places(service))).collect()));
    }
    plan.manifests.push((MOVING, moving(0)));
    plan
}

fn moving(change: usize) -> String {
    leno::service("far-moving", &[format!("127.101.0.{}", change % 250 + 1)])
}

fn far(service: usize) -> String {
    format!("far-{service}")
}

fn places(service: usize) -> Vec<String> {
    let place = |endpoint: usize| {
        let number = service * ENDPOINTS + endpoint;
        format!("127.{}.{}.{}", 102 + (number >> 16), (number >> 8) & 255, number & 255)
    };
    (0..ENDPOINTS).map(place).collect()
}
