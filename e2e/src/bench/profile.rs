//! Where both sidecars spend a request, by stage: CPU time where `perf` works, else instructions under callgrind.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;

use anyhow::Context;

use crate::bench::counts;
use crate::bench::run::Pair;
use crate::bench::stages;

/// Writes `profile.txt` into the folder and returns its text.
///
/// # Errors
/// Neither perf nor valgrind works here.
pub async fn measure(folder: &Path, case: &counts::Case, count: bool) -> anyhow::Result<String> {
    let text =
        if count || !perf_works() { by_instructions(folder, case).await? } else { by_time(folder, case).await? };
    fs::write(folder.join("profile.txt"), &text)?;
    Ok(text)
}

fn perf_works() -> bool {
    let mut command = Command::new("perf");
    command.args(["record", "-q", "-e", "cpu-clock", "-o", "/dev/null", "true"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

async fn by_instructions(folder: &Path, case: &counts::Case) -> anyhow::Result<String> {
    let measured = counts::measure(folder, &[case.name.to_owned()]).await?;
    let mut out = String::new();
    for one in measured {
        out += &format!("## {} {}: instructions for one request (callgrind; without the kernel)\n", one.case, one.side);
        let costs = one.counts.own.iter().map(|(name, cost)| (name.as_str(), *cost as f64 / one.requests as f64));
        out += &stages::table(costs, stages::stage, "instructions");
        out += "\n";
    }
    Ok(out)
}

/// Samples each sidecar while the load runs; a request's part follows from the CPU that it took in the same slice.
async fn by_time(folder: &Path, case: &counts::Case) -> anyhow::Result<String> {
    let pair = Pair::start(folder).await?;
    let mut out = String::new();
    for (side, pid) in pair.sides() {
        let data = folder.join(format!("{side}.perf"));
        let mut perf = Command::new("perf");
        perf.args(["record", "-q", "-e", "cpu-clock", "-F", "1999", "-p", &pid.to_string(), "-o"]).arg(&data);
        perf.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let (figures, cpu) = pair.load(case, pid, || perf.spawn().context("run perf"))?;
        let micros = cpu * 1e6 / figures.done.max(1) as f64;
        let report = Command::new("perf")
            .args(["report", "--stdio", "-q", "-g", "none", "--sort", "symbol", "-F", "overhead,symbol", "-i"])
            .arg(&data)
            .output()
            .context("run perf report")?;
        let text = String::from_utf8_lossy(&report.stdout).into_owned();
        let samples = text.lines().filter_map(|line| {
            let (share, symbol) = line.trim().split_once('%')?;
            Some((symbol.trim(), share.trim().parse::<f64>().ok()? * micros / 100.0))
        });
        out += &format!("## {} {side}: CPU microseconds for one request ({:.0}/s)\n", case.name, figures.rate());
        out += &stages::table(samples, stages::stage_of_symbol, "us");
        out += "\n";
    }
    Ok(out)
}
