//! `cargo xtask cluster`: a real Kubernetes node on this machine, for tests and for trying things. It must never touch what
//! is not its own: a node is a set of kernel namespaces, and what it does ends with them.

pub(crate) mod node;
mod space;
pub(crate) mod tools;

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::bail;

use crate::image;
use crate::shell;
use space::Space;

#[derive(clap::Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// Builds what is missing, starts a node, and returns when it is Ready.
    Up(Name),
    /// Ends a node and everything in it, and removes its files.
    Down(Name),
    /// Which nodes there are, and what runs on them.
    Status,
    /// Brings images (docker or OCI archives) onto a node.
    Load {
        #[command(flatten)]
        name: Name,
        #[arg(required = true, value_name = "ARCHIVE")]
        archives: Vec<PathBuf>,
    },
    /// Runs the node's programs; `up` starts it inside the node's namespaces.
    #[command(hide = true)]
    Node(node::Options),
    /// Waits for the end of its input, and ends the node if it is still there; `Own` starts it.
    #[command(hide = true)]
    Guard(Name),
}

#[derive(clap::Args)]
struct Name {
    /// Which cluster; several may run at once.
    #[arg(long, default_value = "leno", value_parser = name)]
    name: String,
}

/// A cluster's name becomes a folder, a host name and a cgroup.
fn name(text: &str) -> Result<String, String> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let fits = (1..=40).contains(&text.len()) && text.chars().all(good) && !text.starts_with('-') && text != "bin";
    if fits { Ok(text.to_owned()) } else { Err("up to 40 small letters, digits and dashes, and not bin".to_owned()) }
}

pub(crate) fn run(options: Options) -> anyhow::Result<()> {
    match options.verb {
        Verb::Up(Name { name }) => {
            let cluster = Cluster::up(&name)?;
            let config = cluster.kubeconfig();
            eprintln!("cluster {name} is up; now:\n  export KUBECONFIG={}", config.display());
            eprintln!("  export PATH={}:$PATH", tools::folder().display());
            Ok(())
        }
        Verb::Down(Name { name }) => Cluster::named(&name).down(),
        Verb::Status => status(),
        Verb::Load { name: Name { name }, archives } => {
            archives.iter().try_for_each(|archive| Cluster::named(&name).load(archive))
        }
        Verb::Node(options) => node::run(&options),
        Verb::Guard(Name { name }) => guard(&Cluster::named(&name)),
    }
}

/// How long a node may take to become Ready; 10 s on an idle machine of two cores.
const PATIENCE: Duration = Duration::from_secs(600);

/// One cluster of this work tree: everything about it is under `target/cluster/NAME`.
#[derive(Debug, Clone)]
pub(crate) struct Cluster {
    name: String,
    folder: PathBuf,
}

impl Cluster {
    pub(crate) fn named(name: &str) -> Self {
        Self { name: name.to_owned(), folder: shell::root().join("target/cluster").join(name) }
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.folder.join("kubeconfig")
    }

    /// Starts the cluster, or finds it running.
    pub(crate) fn up(name: &str) -> anyhow::Result<Self> {
        let cluster = Self::named(name);
        if let Some(kind) = Kind::found() {
            tools::build(&tools::CLIENTS)?;
            fs::create_dir_all(&cluster.folder)?;
            kind.up(&cluster)?;
            return Ok(cluster);
        }
        if Space::open(&cluster.folder)?.is_some() {
            eprintln!("cluster {name} is running");
            return Ok(cluster);
        }
        space::prepare()?;
        tools::build_all()?;
        // What a node that died has left.
        cluster.down()?;
        fs::create_dir_all(&cluster.folder)?;
        let started = Space::make(name, &cluster.folder).and_then(|_| cluster.wait_ready());
        if let Err(error) = started {
            cluster.show_logs();
            cluster.down()?;
            return Err(error);
        }
        image::load_pause(&cluster)?;
        Ok(cluster)
    }

    pub(crate) fn down(&self) -> anyhow::Result<()> {
        if let Some(kind) = Kind::found().filter(|_| self.folder.join("kind").exists()) {
            kind.down(&self.name)?;
        }
        Space::end(&self.folder)?;
        if self.folder.exists() {
            fs::remove_dir_all(&self.folder).with_context(|| format!("remove {}", self.folder.display()))?;
            eprintln!("cluster {} is gone", self.name);
        }
        Ok(())
    }

    /// Imports an archive under the names that it carries.
    pub(crate) fn load(&self, archive: &Path) -> anyhow::Result<()> {
        if self.folder.join("kind").exists() {
            let mut kind = Command::new("kind");
            return shell::run(kind.args(["load", "image-archive", "--name", &self.name]).arg(archive));
        }
        let space = Space::open(&self.folder)?
            .with_context(|| format!("cluster {} is not running; cargo xtask cluster up", self.name))?;
        let archive = archive.canonicalize().with_context(|| format!("find {}", archive.display()))?;
        let mut ctr = space.enter(&tools::folder().join("ctr"));
        ctr.args(["--namespace", "k8s.io", "images", "import", "--local"]).arg(&archive);
        // It speaks of cgroups at length; what it says matters where it fails.
        let output = ctr.output().with_context(|| format!("start {}", shell::line(&ctr)))?;
        anyhow::ensure!(
            output.status.success(),
            "import {}: {}",
            archive.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
        eprintln!("  {} is on {}", archive.file_name().unwrap_or_default().to_string_lossy(), self.name);
        Ok(())
    }

    /// kubectl with this cluster's credentials.
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> Command {
        let mut kubectl = tools::command("kubectl");
        kubectl.arg("--kubeconfig").arg(self.kubeconfig()).args(arguments);
        kubectl
    }

    /// Stops one of the node's programs until what is returned is dropped.
    pub(crate) fn stop(&self, program: &str) -> anyhow::Result<Stopped> {
        let pid = Space::open(&self.folder)?.context("this cluster is no node of ours")?.find(program)?;
        shell::quiet(Command::new("kill").args(["-STOP", &pid.to_string()]))?;
        Ok(Stopped { pid })
    }

    /// Kills this program of the pod with this uid.
    pub(crate) fn kill(&self, uid: &str, program: &str) -> anyhow::Result<()> {
        anyhow::ensure!(Space::open(&self.folder)?.is_some(), "cluster {} is no node of ours", self.name);
        let pid = space::in_pod(uid, program)?;
        shell::quiet(Command::new("kill").args(["-KILL", &pid.to_string()])).map(drop)
    }

    fn wait_ready(&self) -> anyhow::Result<()> {
        let start = Instant::now();
        for (what, arguments) in [
            ("API server", ["get", "--raw", "/readyz"].as_slice()),
            ("node Ready", ["wait", "node", "--all", "--for=condition=Ready", "--timeout=5s"].as_slice()),
            ("service accounts", ["get", "serviceaccount", "default", "-n", "default"].as_slice()),
            ("names", ["get", "endpointslices", "-n", "kube-system", "kube-dns"].as_slice()),
        ] {
            while !self.kubectl(arguments).output().context("run kubectl")?.status.success() {
                if start.elapsed() > PATIENCE {
                    bail!("{what}: not there after {} s", PATIENCE.as_secs());
                }
                if Space::open(&self.folder)?.is_none() {
                    bail!("{what}: the node has ended");
                }
                std::thread::sleep(Duration::from_millis(300));
            }
            eprintln!("  {what} after {:.1} s", start.elapsed().as_secs_f32());
        }
        Ok(())
    }

    /// The last words of each program, for whoever must find out why the node did not come up.
    fn show_logs(&self) {
        for entry in fs::read_dir(self.folder.join("logs")).into_iter().flatten().flatten() {
            let text = fs::read_to_string(entry.path()).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            eprintln!("--- {}", entry.file_name().to_string_lossy());
            for line in &lines[lines.len().saturating_sub(12)..] {
                eprintln!("{line}");
            }
        }
    }
}

/// A program that stands still.
pub(crate) struct Stopped {
    pid: u32,
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-CONT", &self.pid.to_string()]).status();
    }
}

/// A cluster that ends with this value, and with this process, however that ends: an interrupt, a kill and a closed terminal leave
/// no time, so another process waits for it, in a session of its own.
pub(crate) struct Own {
    cluster: Cluster,
    guard: Child,
}

impl Own {
    pub(crate) fn up(name: &str) -> anyhow::Result<Self> {
        let mut guard = Command::new("setsid");
        guard.arg(std::env::current_exe()?).args(["cluster", "guard", "--name", name]);
        let guard = guard.stdin(Stdio::piped()).spawn().context("start setsid; it comes with util-linux")?;
        let own = Self { cluster: Cluster::named(name), guard };
        Cluster::up(name)?;
        Ok(own)
    }

    pub(crate) fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// As its drop, which cannot say what went wrong.
    pub(crate) fn end(mut self) -> anyhow::Result<()> {
        drop(self.guard.stdin.take());
        let ended = self.guard.wait().context("wait for the cluster's end")?;
        anyhow::ensure!(ended.success(), "cluster {} has not ended", self.cluster.name);
        Ok(())
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
    }
}

fn guard(cluster: &Cluster) -> anyhow::Result<()> {
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    let words = format!("`cargo xtask cluster down --name {}` ends what is left", cluster.name);
    cluster.down().context(words)
}

fn status() -> anyhow::Result<()> {
    let mut any = false;
    for entry in fs::read_dir(shell::root().join("target/cluster")).into_iter().flatten() {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let cluster = Cluster::named(&name);
        if name == "bin" || !cluster.folder.is_dir() {
            continue;
        }
        any = true;
        let runs = cluster.folder.join("kind").exists() || Space::open(&cluster.folder)?.is_some();
        println!("{name}: {}", if runs { "up" } else { "not running (its files are left; `down` removes them)" });
        if runs {
            println!("  KUBECONFIG={}", cluster.kubeconfig().display());
            cluster.kubectl(&["get", "nodes,pods", "--all-namespaces"]).status()?;
        }
    }
    if !any {
        println!("no cluster; cargo xtask cluster up");
    }
    Ok(())
}

/// Kubernetes in a container, where an engine and `kind` are at hand.
struct Kind;

impl Kind {
    fn found() -> Option<Self> {
        let works = |program: &str, argument: &str| {
            Command::new(program).arg(argument).output().is_ok_and(|output| output.status.success())
        };
        (works("kind", "version") && (works("docker", "info") || works("podman", "info"))).then_some(Self)
    }

    fn up(&self, cluster: &Cluster) -> anyhow::Result<()> {
        let known = Command::new("kind").args(["get", "clusters"]).output()?;
        if !String::from_utf8_lossy(&known.stdout).lines().any(|line| line == cluster.name) {
            let config = cluster.folder.join("kind");
            fs::write(
                &config,
                "kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\nnetworking: {ipFamily: dual, kubeProxyMode: nftables}\n",
            )?;
            let mut kind = Command::new("kind");
            kind.args(["create", "cluster", "--wait", "3m", "--name", &cluster.name]);
            shell::run(kind.arg("--config").arg(&config).arg("--kubeconfig").arg(cluster.kubeconfig()))?;
        }
        Ok(())
    }

    fn down(&self, name: &str) -> anyhow::Result<()> {
        shell::run(Command::new("kind").args(["delete", "cluster", "--name", name]))
    }
}
