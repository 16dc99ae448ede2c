//! An earlier Leno, as the repository's history has it: its chart, and its images under a tag of their own, for upgrades and
//! rollbacks. It must never touch this work tree, nor leave its programs where this tree's own are looked for.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Context;

use crate::image;
use crate::shell;

/// From which one may upgrade without a failed request, and to which one may go back: the first whose sidecars lose nothing on
/// their own way out. Before it the restarts that follow a rollback cost requests of their own.
const COMMIT: &str = "29189fec4d3c9388e643a5985a5211cce54c0a8a";
/// Its images' tag.
pub(super) const TAG: &str = "29189fe";

/// Its chart.
pub(super) fn chart() -> PathBuf {
    source().join("charts/leno")
}

/// Its images, built where this tree's own are: what both have in common is built once.
pub(super) fn images(profile: &str) -> anyhow::Result<Vec<PathBuf>> {
    let source = source();
    if !source.exists() {
        unpack(&source)?;
    }
    let (root, out) = (shell::root(), folder().join("target"));
    let mut cargo = shell::cargo(&["build", "--profile", profile]);
    // The last package brings no program, only the features that this tree's build has.
    cargo.args(["-p", "leno-control-plane", "-p", "leno-proxy", "-p", "leno-e2e"]);
    cargo.args(["--bin", "leno-control-plane", "--bin", "leno", "--bin", "leno-proxy"]);
    cargo.env("CARGO_BUILD_BUILD_DIR", root.join("target")).env("CARGO_TARGET_DIR", &out);
    shell::run(cargo.current_dir(&source))?;
    image::tagged(&out.join(shell::folder_of(profile)), TAG)
}

fn folder() -> PathBuf {
    shell::root().join("target/earlier").join(TAG)
}

fn source() -> PathBuf {
    folder().join("source")
}

/// The files of that commit alone: no second work tree, which the repository would have to remember.
fn unpack(source: &Path) -> anyhow::Result<()> {
    let unfinished = folder().join("unfinished");
    fs::create_dir_all(&unfinished)?;
    let archive = folder().join("source.tar");
    let mut git = Command::new("git");
    git.args(["archive", "--format=tar", "-o"]).arg(&archive).arg(COMMIT);
    shell::quiet(git.current_dir(shell::root()))
        .with_context(|| format!("commit {TAG} is not in this clone; `git fetch --unshallow` brings it"))?;
    shell::quiet(Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(&unfinished))?;
    fs::remove_file(&archive)?;
    name(&unfinished.join("Cargo.toml"))?;
    fs::rename(&unfinished, source).with_context(|| format!("make {}", source.display()))
}

/// Its programs say what they are, and cargo keeps them apart from this tree's of the same name and place.
fn name(manifest: &Path) -> anyhow::Result<()> {
    let text = fs::read_to_string(manifest).with_context(|| format!("read {}", manifest.display()))?;
    let (before, rest) = text.split_once("\nversion = \"").context("the workspace has a version")?;
    let (version, after) = rest.split_once('"').context("a version ends")?;
    Ok(fs::write(manifest, format!("{before}\nversion = \"{version}-{TAG}\"{after}"))?)
}
