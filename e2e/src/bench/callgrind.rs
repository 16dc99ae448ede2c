//! Instructions and heap allocations of a program that runs under callgrind, by function. Both are counts, so that they mean
//! the same on a busy machine. It must never be asked about time.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;

use anyhow::Context;

/// Every allocation of Rust code ends in one of these, in whatever way the compiler inlined what is above.
const ALLOCATORS: [&str; 6] =
    ["mi_malloc", "mi_malloc_aligned", "mi_zalloc", "mi_zalloc_aligned", "mi_realloc", "mi_realloc_aligned"];

/// What to put before a program so that it can be counted; its counts begin with `begin`.
pub fn wrapper(folder: &Path) -> Vec<String> {
    let out = folder.join("callgrind.%p").display().to_string();
    let mut words: Vec<String> =
        ["valgrind", "--tool=callgrind", "-q", "--instr-atstart=no", "--dump-line=no"].map(str::to_owned).into();
    words.push(format!("--callgrind-out-file={out}"));
    // Who allocates shows only with callers: what calls the allocator itself is mostly a container.
    words.extend(ALLOCATORS.map(|name| format!("--separate-callers8={name}")));
    words
}

/// A program under callgrind.
#[derive(Debug)]
pub struct Counted {
    pid: u32,
    folder: PathBuf,
    dumps: u32,
}

impl Counted {
    /// `folder` is the wrapper's.
    pub fn new(pid: u32, folder: &Path) -> Self {
        Self { pid, folder: folder.to_path_buf(), dumps: 0 }
    }

    /// Counts from here.
    ///
    /// # Errors
    /// The program does not run under callgrind.
    pub fn begin(&self) -> anyhow::Result<()> {
        self.control(&["-i", "on"])?;
        self.control(&["-z"])
    }

    /// What was counted since `begin` or the last of these.
    ///
    /// # Errors
    /// The program does not run under callgrind.
    pub fn counts(&mut self) -> anyhow::Result<Counts> {
        self.control(&["-d"])?;
        self.dumps += 1;
        let file = self.folder.join(format!("callgrind.{}.{}", self.pid, self.dumps));
        let text = std::fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        Ok(Counts::parse(&text))
    }

    fn control(&self, arguments: &[&str]) -> anyhow::Result<()> {
        let mut command = Command::new("callgrind_control");
        command.args(arguments).arg(self.pid.to_string()).stdout(Stdio::null()).stderr(Stdio::null());
        let status = command.status().context("run callgrind_control (Debian: valgrind)")?;
        anyhow::ensure!(status.success(), "callgrind_control {arguments:?} {}: {status}", self.pid);
        Ok(())
    }
}

/// Counts by function.
#[derive(Debug, Default)]
pub struct Counts {
    pub instructions: u64,
    pub allocations: u64,
    /// Instructions of each function itself.
    pub own: BTreeMap<String, u64>,
    /// Allocations by who asked for them, innermost first, containers of the standard library left out.
    pub allocated_by: BTreeMap<String, u64>,
}

impl Counts {
    /// callgrind's format, as far as it is needed: `fn=(id) name`, `cfn=`, `calls=`, and lines of position and cost.
    pub fn parse(text: &str) -> Self {
        let mut counts = Self::default();
        let mut names: HashMap<&str, &str> = HashMap::new();
        let mut current = "";
        let mut called = "";
        let mut is_call = false;
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("fn=") {
                current = resolve(&mut names, name);
            } else if let Some(name) = line.strip_prefix("cfn=") {
                called = resolve(&mut names, name);
            } else if let Some(rest) = line.strip_prefix("calls=") {
                let times = rest.split(' ').next().and_then(|times| times.parse::<u64>().ok()).unwrap_or_default();
                if allocates(called) && !is_allocator(outermost(current)) {
                    counts.allocations += times;
                    *counts.allocated_by.entry(asker(called, current)).or_default() += times;
                }
                is_call = true;
            } else if line.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '*')) {
                // The line after `calls=` holds what the callee cost, which is its own already.
                let cost = line.split(' ').nth(1).and_then(|cost| cost.parse::<u64>().ok()).unwrap_or_default();
                if !std::mem::take(&mut is_call) {
                    counts.instructions += cost;
                    *counts.own.entry(outermost(current).to_owned()).or_default() += cost;
                }
            }
        }
        counts
    }
}

/// Names are written once, and then as their number.
fn resolve<'t>(names: &mut HashMap<&'t str, &'t str>, text: &'t str) -> &'t str {
    let (id, name) = text.split_once(' ').unwrap_or((text, ""));
    if !name.is_empty() {
        names.insert(id, name);
    }
    names.get(id).copied().unwrap_or(id)
}

/// A name with its callers is `callee'caller'caller`.
fn outermost(name: &str) -> &str {
    name.split('\'').next().unwrap_or(name)
}

fn allocates(name: &str) -> bool {
    ALLOCATORS.contains(&outermost(name))
}

/// Its functions call each other.
fn is_allocator(name: &str) -> bool {
    name.starts_with("mi_") || name.starts_with("_mi_")
}

/// The first caller that is no container of a library, with the one that called it.
fn asker(called: &str, current: &str) -> String {
    let mut callers = called.split('\'').skip(1).peekable();
    let is_container = |name: &str| CONTAINERS.iter().any(|part| name.contains(part));
    if callers.peek().is_none() {
        return outermost(current).to_owned();
    }
    let named: Vec<&str> = callers.filter(|name| !is_container(name)).take(2).collect();
    match named[..] {
        [] => outermost(current).to_owned(),
        _ => named.join(" < "),
    }
}

const CONTAINERS: [&str; 16] = [
    "__rust",
    "__rg_",
    "mimalloc",
    "alloc::raw_vec",
    "raw_vec",
    "alloc::alloc",
    "exchange_malloc",
    "alloc::vec",
    "alloc::string",
    "alloc::sync",
    "alloc::rc",
    "to_vec",
    "clone",
    "bytes::",
    "spec_from",
    "from_iter",
];

#[cfg(test)]
mod tests;
