//! The sidecar as it is released: built once to count what it does under the benchmark's loads, and once more with these counts,
//! which tell the compiler what to put first (profile-guided optimisation). It must never mix counts of different programs.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Context;
use anyhow::ensure;

use crate::demo;
use crate::shell;

const PROXY: &str = "leno-proxy";
/// What the training starts beside the sidecars. How these are built does not matter.
const BESIDE: [&str; 3] = ["leno", "leno-bench", "leno-control-plane"];

/// Builds the sidecar with this profile, for this target or this machine, and replaces what an ordinary build left in the
/// folder.
pub(crate) fn install(profile: &str, target: Option<&str>, folder: &Path) -> anyhow::Result<()> {
    let host = host()?;
    let counts = counts(&host)?;
    let target = target.unwrap_or(&host);
    let mut build = build("trained", profile, target, &format!("-Cprofile-use={}", counts.display()));
    shell::run(&mut build)?;
    let (trained, place) = (built("trained", profile, target), folder.join(PROXY));
    // A copy: what cargo has linked there is its own.
    let _ = fs::remove_file(&place);
    fs::copy(&trained, &place).with_context(|| format!("copy {} to {}", trained.display(), place.display()))?;
    Ok(())
}

/// What the sidecar of these sources counted: kept until the sources change.
fn counts(host: &str) -> anyhow::Result<PathBuf> {
    let home = home();
    let raw = home.join("raw");
    shell::run(&mut build("counting", "profiling", host, &format!("-Cprofile-generate={}", raw.display())))?;
    let program = built("counting", "profiling", host);
    let merged = home.join("merged.profdata");
    if !is_newer(&merged, &program) {
        // Cargo looks at no file that a flag names: what was built with the counts of before must go.
        for old in [&raw, &home.join("trained")] {
            if old.exists() {
                fs::remove_dir_all(old).with_context(|| format!("remove {}", old.display()))?;
            }
        }
        train(&program, &home)?;
        merge(&raw, &merged, host)?;
    }
    Ok(merged)
}

/// Runs the loads on a pair of the program that counts.
fn train(program: &Path, home: &Path) -> anyhow::Result<()> {
    demo::build()?;
    let programs = home.join("programs");
    let _ = fs::remove_dir_all(&programs);
    fs::create_dir_all(&programs)?;
    for name in BESIDE {
        fs::copy(shell::root().join("target").join(demo::PROFILE).join(name), programs.join(name))
            .with_context(|| format!("copy {name}"))?;
    }
    fs::copy(program, programs.join(PROXY))?;
    shell::install(&[("taskset", "util-linux")])?;
    shell::run(Command::new(programs.join("leno-bench")).arg("train").arg("--folder").arg(home.join("load")))
}

fn merge(raw: &Path, merged: &Path, host: &str) -> anyhow::Result<()> {
    let files = fs::read_dir(raw).with_context(|| format!("read {}", raw.display()))?;
    let files: Vec<PathBuf> = files.map(|file| Ok(file?.path())).collect::<std::io::Result<_>>()?;
    ensure!(!files.is_empty(), "the sidecars ended without a word of what they counted");
    shell::run(Command::new(tool(host)?).arg("merge").arg("-o").arg(merged).args(files))
}

/// `llvm-profdata` of the very compiler, which rustup has.
fn tool(host: &str) -> anyhow::Result<PathBuf> {
    let sysroot = shell::quiet(Command::new("rustc").args(["--print", "sysroot"]))?;
    let tool = Path::new(sysroot.trim()).join("lib/rustlib").join(host).join("bin/llvm-profdata");
    if !tool.exists() {
        shell::run(Command::new("rustup").args(["component", "add", "llvm-tools"]))?;
    }
    ensure!(tool.exists(), "{} is not there; `rustup component add llvm-tools` brings it", tool.display());
    Ok(tool)
}

/// In a folder of its own for each purpose, so that neither throws the other's work away. With a target, so that what runs at
/// build time counts nothing.
fn build(purpose: &str, profile: &str, target: &str, flag: &str) -> Command {
    let mut cargo = shell::cargo(&["build", "--locked", "--profile", profile, "-p", PROXY, "--bin", PROXY]);
    cargo.args(["--target", target]).arg("--target-dir").arg(home().join(purpose));
    shell::for_musl(&mut cargo, target);
    let mut flags = std::env::var_os("RUSTFLAGS").unwrap_or_default();
    flags.push(format!(" {flag}"));
    cargo.env("RUSTFLAGS", flags);
    cargo
}

fn built(purpose: &str, profile: &str, target: &str) -> PathBuf {
    home().join(purpose).join(target).join(shell::folder_of(profile)).join(PROXY)
}

fn home() -> PathBuf {
    shell::root().join("target/trained")
}

fn host() -> anyhow::Result<String> {
    let said = shell::quiet(Command::new("rustc").arg("-vV"))?;
    let host = said.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("`rustc -vV` names no host")
}

fn is_newer(one: &Path, other: &Path) -> bool {
    let changed = |path: &Path| path.metadata().and_then(|found| found.modified());
    matches!((changed(one), changed(other)), (Ok(one), Ok(other)) if one > other)
}
