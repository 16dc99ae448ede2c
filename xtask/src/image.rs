//! `cargo xtask image`: Leno's container images, from scratch and without a container engine. The same inputs must always
//! give the same bytes: no clock, no user, no order of a folder gets in.

mod archive;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Context;

use crate::cluster::Cluster;
use crate::cluster::node;
use crate::e2e::example;
use crate::shell;
use crate::trained;
use archive::Image;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// How the programs are built.
    #[arg(long, default_value = "release")]
    profile: String,
    /// For which machine, such as x86_64-unknown-linux-musl or aarch64-unknown-linux-musl, whose programs are static; it needs
    /// `rustup target add` and a C compiler for it (Debian: musl-tools). By default this machine's own programs, with the
    /// libraries that they load.
    #[arg(long, value_name = "TRIPLE")]
    target: Option<String>,
    /// As it is released: the sidecar is built twice, the second time for what it had to do under the benchmark's loads, and
    /// takes about a tenth less CPU. Some ten minutes more, and no two builds give the same bytes.
    #[arg(long)]
    trained: bool,
    /// Also what e2e/example runs: three services, and an OTLP backend, Otelite, which is built with `cargo install` once.
    #[arg(long, conflicts_with = "target")]
    example: bool,
    /// Brings the images onto this cluster (cargo xtask cluster up) when they are made.
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
}

/// Images are named as Kubernetes completes a name without a registry.
const REPOSITORY: &str = "docker.io/leno";
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The users of Leno's own programs; the proxy's is the one whose connections are not captured.
const CONTROL_PLANE_USER: &str = "65532:65532";
const PROXY_USER: &str = "15000:15000";

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let programs = build(options)?;
    let mut archives = leno(&programs)?;
    if options.example {
        archives.extend(example::images(&programs)?);
    }
    for archive in &archives {
        println!("{}", archive.display());
        if let Some(name) = &options.cluster {
            Cluster::named(name).load(archive)?;
        }
    }
    Ok(())
}

/// Builds the programs and says in which folder they are.
fn build(options: &Options) -> anyhow::Result<PathBuf> {
    let (profile, target) = (options.profile.as_str(), options.target.as_deref());
    let mut cargo = shell::cargo(&["build", "--locked", "--profile", profile, "--bins"]);
    cargo.args(["-p", "leno-control-plane", "-p", "leno-proxy"]);
    if options.example {
        cargo.args(["-p", "leno-e2e"]);
    }
    let mut folder = shell::root().join("target");
    if let Some(target) = target {
        cargo.args(["--target", target]);
        shell::for_musl(&mut cargo, target);
        folder.push(target);
    }
    shell::run(&mut cargo)?;
    folder.push(shell::folder_of(profile));
    if options.trained {
        trained::install(profile, target, &folder)?;
    }
    Ok(folder)
}

/// The images of Leno itself, from the programs of one folder.
pub(crate) fn leno(programs: &Path) -> anyhow::Result<Vec<PathBuf>> {
    tagged(programs, VERSION)
}

/// The same of another release.
pub(crate) fn tagged(programs: &Path, tag: &str) -> anyhow::Result<Vec<PathBuf>> {
    shell::install(&[("nft", "nftables")])?;
    let nft = shell::find("nft").context("nft is not installed; install the package nftables")?;
    let (control_plane, cli) = (programs.join("leno-control-plane"), programs.join("leno"));
    let proxy = programs.join("leno-proxy");
    [
        image("control-plane", &[&control_plane, &cli], &["/leno-control-plane"], CONTROL_PLANE_USER)?,
        image("proxy", &[&proxy], &["/leno-proxy", "run"], PROXY_USER)?,
        // The kubelet gives no ambient capabilities: only uid 0 keeps the NET_ADMIN that its container is granted.
        image("init", &[&proxy, &nft], &["/leno-proxy", "init"], "0:0")?,
    ]
    .map(|mut image| {
        image.name = image.name.replace(&format!(":{VERSION}"), &format!(":{tag}"));
        write(&image)
    })
    .into_iter()
    .collect()
}

/// What Kubernetes' sandboxes run on a node of ours: a program that waits.
pub(crate) fn load_pause(cluster: &Cluster) -> anyhow::Result<()> {
    let Some(busybox) = shell::find("busybox") else { return Ok(()) };
    let mut pause = image("pause", &[&busybox], &["/busybox", "sleep", "2147483647"], "65535:65535")?;
    node::PAUSE.clone_into(&mut pause.name);
    cluster.load(&write(&pause)?)
}

/// An image of some programs and the libraries they load. Programs stand in its root; `nft` stands where PATH finds it.
pub(crate) fn image(name: &str, programs: &[&Path], entrypoint: &[&str], user: &str) -> anyhow::Result<Image> {
    let mut files = BTreeMap::new();
    // Without this file some C libraries ask a name server about names that /etc/hosts knows.
    files.insert("etc/nsswitch.conf".to_owned(), (0o644, b"hosts: files dns\n".to_vec()));
    for program in programs {
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let place = if name == "nft" { "usr/sbin/nft".to_owned() } else { name };
        files.insert(place, (0o755, read(program)?));
        for library in libraries(program)? {
            let bytes = read(&library)?;
            files.insert(library.to_string_lossy().trim_start_matches('/').to_owned(), (0o755, bytes));
        }
    }
    Ok(Image {
        name: format!("{REPOSITORY}/{name}:{VERSION}"),
        architecture: architecture(programs[0])?,
        files,
        entrypoint: entrypoint.iter().map(|&word| word.to_owned()).collect(),
        user: user.to_owned(),
    })
}

/// Writes an image's archive under target/images, by its name, and its tag where that is of another release.
pub(crate) fn write(image: &Image) -> anyhow::Result<PathBuf> {
    let folder = shell::root().join("target/images");
    fs::create_dir_all(&folder)?;
    let name = image.name.rsplit('/').next().unwrap_or_default();
    let (name, tag) = name.split_once(':').unwrap_or((name, VERSION));
    // What is not Leno's has a version of its own.
    let leno = image.name.starts_with(&format!("{REPOSITORY}/")) && name != "pause";
    let name = if leno && tag != VERSION { format!("{name}-{tag}") } else { name.to_owned() };
    let path = folder.join(format!("{name}.tar"));
    // Renamed at the end, so that a run beside ours never loads half an image.
    let unfinished = folder.join(format!(".{name}.{}", std::process::id()));
    fs::write(&unfinished, image.archive()).with_context(|| format!("write {}", unfinished.display()))?;
    fs::rename(&unfinished, &path)?;
    Ok(path)
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("read {}", path.display()))
}

/// The shared libraries of a program and its loader, by the paths at which it will look for them; none for a static one.
fn libraries(program: &Path) -> anyhow::Result<BTreeSet<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("run ldd")?;
    // For a static program ldd says so and fails.
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    anyhow::ensure!(!text.contains("not found"), "{}: a library is missing:\n{text}", program.display());
    Ok(text.lines().filter_map(library).collect())
}

/// The path in a line such as `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f...)`.
fn library(line: &str) -> Option<PathBuf> {
    let found = line.split_once("=>").map_or(line, |(_, found)| found);
    let path = found.trim().split(" (").next()?;
    path.starts_with('/').then(|| PathBuf::from(path))
}

/// As OCI names it, by the machine field of the ELF header.
fn architecture(program: &Path) -> anyhow::Result<&'static str> {
    let bytes = read(program)?;
    match bytes.get(18..20) {
        Some([0x3e, 0]) => Ok("amd64"),
        Some([0xb7, 0]) => Ok("arm64"),
        _ => anyhow::bail!("{}: neither x86-64 nor arm64", program.display()),
    }
}

#[cfg(test)]
mod tests;
