//! The upstream programs of a test cluster, built from the Go tool modules under `e2e/cluster`. It must never build what is
//! not pinned by a committed go.mod and go.sum, nor build again what is already there.

use std::fs;
use std::fs::File;
use std::hash::DefaultHasher;
use std::hash::Hash;
use std::hash::Hasher;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use anyhow::Context;

use crate::shell;

/// One program: the module that pins it, its package, and what the linker and compiler are told.
struct Tool {
    name: &'static str,
    module: &'static str,
    package: &'static str,
    tags: &'static str,
    link: &'static str,
}

/// Kubernetes refuses clients of a server that cannot say its version, and the version is in no file of the module.
const KUBERNETES: &str = "-X k8s.io/component-base/version.gitVersion=v1.36.3 \
    -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=36";
/// File systems that no test machine needs, and whose C libraries it then need not have.
const CONTAINERD: &str = "no_btrfs,no_devmapper,no_zfs";

const TOOLS: [Tool; 17] = [
    // Programs of one module stand together, because they are built together.
    plain(HELM, HELM, "helm.sh/helm/v4/cmd/helm"),
    plain(HELM3, HELM3, "helm.sh/helm/v3/cmd/helm"),
    plain("etcd", "etcd", "go.etcd.io/etcd/server/v3"),
    kubernetes("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
    kubernetes("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
    kubernetes("kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager"),
    kubernetes("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"),
    kubernetes("kubelet", "k8s.io/kubernetes/cmd/kubelet"),
    kubernetes("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy"),
    containerd("containerd", "github.com/containerd/containerd/v2/cmd/containerd"),
    containerd("ctr", "github.com/containerd/containerd/v2/cmd/ctr"),
    containerd("containerd-shim-runc-v2", "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2"),
    plain("ptp", "cni", "github.com/containernetworking/plugins/plugins/main/ptp"),
    plain("loopback", "cni", "github.com/containernetworking/plugins/plugins/main/loopback"),
    plain("host-local", "cni", "github.com/containernetworking/plugins/plugins/ipam/host-local"),
    plain("coredns", "coredns", "github.com/coredns/coredns"),
    // A test binary of the package in the module itself, which calls the suite.
    plain(CONFORMANCE, CONFORMANCE, "."),
];

const CONFORMANCE: &str = "conformance";
pub(crate) const HELM: &str = "helm";
/// The last line but one, 3.17, which many have: a module of its own, because both want other versions of the same libraries.
pub(crate) const HELM3: &str = "helm3";

/// What is needed to talk to a cluster that somebody else made.
pub(crate) const CLIENTS: [&str; 2] = ["kubectl", HELM];

const fn plain(name: &'static str, module: &'static str, package: &'static str) -> Tool {
    Tool { name, module, package, tags: "", link: "" }
}

const fn kubernetes(name: &'static str, package: &'static str) -> Tool {
    Tool { name, module: "kubernetes", package, tags: "", link: KUBERNETES }
}

const fn containerd(name: &'static str, package: &'static str) -> Tool {
    Tool { name, module: "containerd", package, tags: CONTAINERD, link: "" }
}

/// Where the programs are.
pub(crate) fn folder() -> PathBuf {
    shell::root().join("target/cluster/bin")
}

pub(crate) fn command(name: &str) -> Command {
    Command::new(folder().join(name))
}

/// Builds every program that a cluster is made of; what single tests want beside it they build themselves.
pub(crate) fn build_all() -> anyhow::Result<()> {
    let programs = TOOLS.iter().map(|tool| tool.name).filter(|name| ![CONFORMANCE, HELM3].contains(name));
    let programs: Vec<&str> = programs.collect();
    build(&programs)
}

/// Builds the named programs where they are missing or their pins have changed.
pub(crate) fn build(names: &[&str]) -> anyhow::Result<()> {
    let folder = folder();
    fs::create_dir_all(&folder)?;
    // Two runs at once: the second finds everything built.
    let lock = File::create(folder.join(".lock"))?;
    lock.lock().context("lock target/cluster/bin")?;
    let wanted: Vec<&Tool> = TOOLS.iter().filter(|tool| names.contains(&tool.name)).collect();
    let mut missing = Vec::new();
    for tool in wanted {
        let stamp = tool.stamp()?;
        let built = fs::read_to_string(folder.join(format!(".{}", tool.name))).is_ok_and(|old| old == stamp);
        if !(built && folder.join(tool.name).exists()) {
            missing.push((tool, stamp));
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    anyhow::ensure!(
        Command::new("go").arg("version").output().is_ok_and(|o| o.status.success()),
        "the cluster's programs are built with Go 1.26 or later, and there is no `go` in PATH; install it, or set KUBECONFIG to use a cluster of your own"
    );
    let count = missing.len();
    eprintln!(
        "building {count} upstream programs (about 10 minutes in all when cold; they stay in target/cluster/bin)"
    );
    // What comes from one module the same way is built at once: while one program is linked, another is compiled.
    for group in missing.chunk_by(|(one, _), (next, _)| one.is_built_with(next)) {
        let start = Instant::now();
        let tools: Vec<&Tool> = group.iter().map(|(tool, _)| *tool).collect();
        let names: Vec<&str> = tools.iter().map(|tool| tool.name).collect();
        eprint!("  {} ...", names.join(", "));
        compile(&tools, &folder)?;
        eprintln!(" {:.0} s", start.elapsed().as_secs_f32());
        for (tool, stamp) in group {
            fs::write(folder.join(format!(".{}", tool.name)), stamp)?;
        }
    }
    Ok(())
}

/// Programs of one module, in one run of the compiler.
fn compile(tools: &[&Tool], folder: &Path) -> anyhow::Result<()> {
    let first = tools.first().context("nothing to compile")?;
    // Renamed at the end, so that what has a program's name is whole.
    let unfinished = folder.join(".new");
    fs::create_dir_all(&unfinished)?;
    let mut go = Command::new("nice");
    go.args(["-n", "19", "go"]).args(if first.name == CONFORMANCE { &["test", "-c"][..] } else { &["build"] });
    go.args(["-mod=readonly", "-trimpath", "-buildvcs=false"]);
    go.arg("-tags").arg(first.tags).arg("-ldflags").arg(format!("-s -w {}", first.link));
    // Several go into a folder under their packages' names, which are theirs; one alone is named here.
    let out = if tools.len() == 1 { unfinished.join(first.name) } else { unfinished.clone() };
    go.arg("-o").arg(out).args(tools.iter().map(|tool| tool.package));
    let status = go.current_dir(first.module()).env("CGO_ENABLED", "0").status().context("start nice and go")?;
    anyhow::ensure!(status.success(), "{}: {}: {status}", first.module().display(), shell::line(&go));
    for tool in tools {
        fs::rename(unfinished.join(tool.name), folder.join(tool.name))
            .with_context(|| format!("{} made no {}", tool.package, tool.name))?;
    }
    Ok(())
}

/// The folder of a module's own files (manifests, not programs), downloaded and verified by the go.sum of `e2e/cluster/FOLDER`.
pub(crate) fn files(folder: &str, module: &str) -> anyhow::Result<PathBuf> {
    let place = shell::root().join("e2e/cluster").join(folder);
    shell::quiet(Command::new("go").args(["mod", "download", module]).current_dir(&place))?;
    let path = shell::quiet(Command::new("go").args(["list", "-m", "-f", "{{.Dir}}", module]).current_dir(&place))?;
    Ok(PathBuf::from(path.trim()))
}

impl Tool {
    fn module(&self) -> PathBuf {
        shell::root().join("e2e/cluster").join(self.module)
    }

    /// Changes whenever the program would.
    fn stamp(&self) -> anyhow::Result<String> {
        let mut hasher = DefaultHasher::new();
        let mut files: Vec<PathBuf> = Vec::new();
        for entry in fs::read_dir(self.module()).with_context(|| format!("read {}", self.module().display()))? {
            files.push(entry?.path());
        }
        files.sort();
        for path in files {
            fs::read(&path).with_context(|| format!("read {}", path.display()))?.hash(&mut hasher);
        }
        (self.package, self.tags, self.link).hash(&mut hasher);
        Ok(format!("{:016x}\n", hasher.finish()))
    }

    /// Whether one run of the compiler gives both.
    fn is_built_with(&self, other: &Self) -> bool {
        (self.module, self.tags, self.link) == (other.module, other.tags, other.link)
    }
}
