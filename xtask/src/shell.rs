//! Runs other programs and says so. It must never hide what it ran or that it failed.

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use anyhow::Context;
use anyhow::bail;

/// The workspace's root.
pub(crate) fn root() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.parent().map_or(here.clone(), PathBuf::from)
}

/// Prints the command, runs it with our terminal, and fails where it fails.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let line = line(command);
    eprintln!("\x1b[1m> {line}\x1b[0m");
    let start = Instant::now();
    let status = command.status().with_context(|| format!("start {line}"))?;
    if !status.success() {
        bail!("{line}: {status}");
    }
    eprintln!("  {:.1} s", start.elapsed().as_secs_f32());
    Ok(())
}

/// Runs the command unseen and returns what it prints; an error tells what it said.
pub(crate) fn quiet(command: &mut Command) -> anyhow::Result<String> {
    let line = line(command);
    let output = command.output().with_context(|| format!("start {line}"))?;
    let (out, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if !output.status.success() {
        bail!("{line}: {}{}", out, said.trim());
    }
    Ok(out.into_owned())
}

pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments);
    command
}

/// Static programs of this machine's kind need musl's own C compiler.
pub(crate) fn for_musl(cargo: &mut Command, target: &str) {
    if target.contains("musl") && target.starts_with(std::env::consts::ARCH) {
        cargo.env(format!("CC_{}", target.replace('-', "_")), "musl-gcc");
    }
}

/// The command as one would type it.
pub(crate) fn line(command: &Command) -> String {
    let program = std::path::Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let words = command.get_args().map(|a| a.to_string_lossy().into_owned());
    std::iter::once(program.to_string_lossy().into_owned()).chain(words).collect::<Vec<_>>().join(" ")
}

/// The folders of PATH and of administrators' programs.
pub(crate) fn path() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let sbin = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(sbin).collect()
}

/// The folder below `target` where a profile's programs are.
pub(crate) fn folder_of(profile: &str) -> &str {
    if profile == "dev" { "debug" } else { profile }
}

/// Where a program is.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    path().into_iter().map(|folder| folder.join(program)).find(|path| path.exists())
}

/// Installs Debian's packages of the programs or files (name or path, package) that are missing; needs root only then.
pub(crate) fn install(wanted: &[(&str, &str)]) -> anyhow::Result<()> {
    let missing: Vec<&str> =
        wanted.iter().filter(|(program, _)| find(program).is_none()).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    run(Command::new("apt-get").args(["update", "-qq"]))?;
    let mut install = Command::new("apt-get");
    install.args(["install", "-y", "-qq", "--no-install-recommends"]).args(missing);
    // The tests start servers of their own: the packages' need not run.
    run(install.env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1"))
}
