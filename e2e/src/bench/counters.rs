//! What the kernel counts for processes: CPU time, memory, system calls. It must never slow down what it reads.

use std::fs;
use std::path::Path;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::OnceLock;

use anyhow::Context;

/// The processes and all their descendants: nginx does its work in a child.
fn tree(pids: &[u32]) -> Vec<u32> {
    let mut all = pids.to_vec();
    let mut at = 0;
    while at < all.len() {
        for task in tasks(all[at]) {
            let children = fs::read_to_string(format!("{task}/children")).unwrap_or_default();
            all.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
        at += 1;
    }
    all
}

fn tasks(pid: u32) -> Vec<String> {
    let folder = format!("/proc/{pid}/task");
    let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
    entries.map(|entry| format!("{folder}/{}", entry.file_name().to_string_lossy())).collect()
}

/// CPU seconds of these processes so far, by the scheduler's own nanoseconds.
pub fn cpu(pids: &[u32]) -> f64 {
    ran(tree(pids).into_iter().flat_map(tasks))
}

/// The same of this process alone, without those that it started.
pub fn own_cpu() -> f64 {
    ran(tasks(std::process::id()).into_iter())
}

fn ran(tasks: impl Iterator<Item = String>) -> f64 {
    let nanos = |task: String| {
        let text = fs::read_to_string(format!("{task}/schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    };
    tasks.filter_map(nanos).sum::<u64>() as f64 / 1e9
}

/// Resident memory in MiB.
pub fn rss(pids: &[u32]) -> f64 {
    let of = |pid: u32| {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with("Rss:"))?;
        line.split_whitespace().nth(1)?.parse::<f64>().ok()
    };
    tree(pids).into_iter().filter_map(of).sum::<f64>() / 1024.0
}

/// Seconds in which any CPU of the machine was busy, and those that its host took.
pub fn machine() -> (f64, f64) {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let first = text.lines().next().unwrap_or_default();
    let field: Vec<f64> = first.split_whitespace().skip(1).filter_map(|value| value.parse().ok()).collect();
    let sum: f64 = field.iter().take(8).sum();
    let at = |number: usize| field.get(number).copied().unwrap_or_default();
    ((sum - at(3) - at(4) - at(7)) / 100.0, at(7) / 100.0)
}

/// Runs `work` with the calling thread, and all it starts, on one CPU.
///
/// # Errors
/// `taskset` is missing, or `work` fails.
pub fn pinned<T>(core: Option<usize>, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let Some(core) = core else { return work() };
    static BEFORE: OnceLock<String> = OnceLock::new();
    let status = fs::read_to_string("/proc/self/status")?;
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).context("no list of CPUs")?;
    let before = BEFORE.get_or_init(|| list.trim().to_owned());
    // The main thread, whose id is the process's.
    let own = std::process::id().to_string();
    pin("-cp", &core.to_string(), &own)?;
    let done = work();
    pin("-cp", before, &own)?;
    done
}

fn pin(options: &str, list: &str, id: &str) -> anyhow::Result<()> {
    let status = Command::new("taskset").args([options, list, id]).stdout(Stdio::null()).status();
    anyhow::ensure!(
        status.context("run taskset (Debian: util-linux)")?.success(),
        "taskset {options} {list} {id} failed"
    );
    Ok(())
}

/// As many open files as this process may have, for it and for all that it starts.
///
/// # Errors
/// They are too few for a thousand connections.
pub fn raise_descriptors() -> anyhow::Result<()> {
    let limits = fs::read_to_string("/proc/self/limits")?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).context("no limit of open files")?;
    let most = line.split_whitespace().nth(1).context("no hard limit of open files")?;
    let enough = most.parse::<u64>().is_ok_and(|most| most >= 4096) || most == "unlimited";
    anyhow::ensure!(enough, "the hard limit of open files is {most}: a thousand connections need 4096");
    let own = std::process::id().to_string();
    let status = Command::new("prlimit").args(["--pid", &own, &format!("--nofile={most}:{most}")]).status();
    anyhow::ensure!(status.context("run prlimit (Debian: util-linux)")?.success(), "prlimit --nofile={most} failed");
    Ok(())
}

/// Moves a running process, all its threads, to one CPU.
///
/// # Errors
/// `taskset` is missing, or the process is gone.
pub fn move_to(pid: u32, core: usize) -> anyhow::Result<()> {
    pin("-acp", &core.to_string(), &pid.to_string())
}

/// Moves the calling thread alone.
///
/// # Errors
/// `taskset` is missing, or there is no such CPU.
pub fn move_here_to(core: usize) -> anyhow::Result<()> {
    pin("-cp", &core.to_string(), &this_thread()?)
}

/// Lets a process run only where nobody else wants the core: for what shares a core with what is measured, and would be on
/// another machine.
///
/// # Errors
/// `chrt` is missing, or the process is gone.
pub fn give_way(pid: u32) -> anyhow::Result<()> {
    schedule(&["--idle", "--all-tasks"], "0", &pid.to_string())
}

/// The same for the calling thread alone.
///
/// # Errors
/// `chrt` is missing.
pub fn give_way_here() -> anyhow::Result<()> {
    schedule(&["--idle"], "0", &this_thread()?)
}

/// Lets a process have its core before everybody who shares it: what gives way would still keep it from the core for up to a
/// tick (EEVDF looks at what each has had before it looks at priorities). A higher priority comes before a lower one.
///
/// # Errors
/// This user may not (`CAP_SYS_NICE`), `chrt` is missing, or the process is gone.
pub fn come_first(pid: u32, priority: u8) -> anyhow::Result<()> {
    schedule(&["--fifo", "--all-tasks"], &priority.to_string(), &pid.to_string())
}

fn this_thread() -> anyhow::Result<String> {
    let own = fs::read_link("/proc/thread-self")?;
    Ok(own.file_name().context("it ends with a number")?.to_string_lossy().into_owned())
}

fn schedule(options: &[&str], priority: &str, id: &str) -> anyhow::Result<()> {
    let output = Command::new("chrt").args(options).args(["--pid", priority, id]).output();
    let output = output.context("run chrt (Debian: util-linux)")?;
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "chrt {} --pid {priority} {id}: {}", options.join(" "), said.trim());
    Ok(())
}

/// Counts the system calls of processes, where `perf` can.
pub struct SystemCalls(Child);

impl SystemCalls {
    /// `None`: this machine cannot.
    pub fn begin(pids: &[u32]) -> Option<Self> {
        let list = tree(pids).iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        let mut command = Command::new("perf");
        command.args(["stat", "-x,", "-e", "raw_syscalls:sys_enter", "-p", &list]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().ok().map(Self)
    }

    pub fn end(self) -> Option<u64> {
        // perf prints its counts when it is interrupted.
        let _ = Command::new("kill").args(["-INT", &self.0.id().to_string()]).status();
        let output = self.0.wait_with_output().ok()?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let line = text.lines().find(|line| line.contains("sys_enter"))?;
        line.split(',').next()?.parse().ok()
    }
}

/// Size of a program without its symbols, in MiB.
///
/// # Errors
/// It is not there.
pub fn stripped(program: &Path, scratch: &Path) -> anyhow::Result<f64> {
    let bare = scratch.join("stripped");
    let done = Command::new("strip").arg("-o").arg(&bare).arg(program).stderr(Stdio::null()).status();
    let measured = if done.is_ok_and(|status| status.success()) { bare.as_path() } else { program };
    Ok(fs::metadata(measured).with_context(|| format!("look at {}", program.display()))?.len() as f64
        / f64::from(1 << 20))
}
