//! The kernel namespaces that a node lives in: processes, mounts, network, host name. It must never leave anything behind:
//! the kernel ends the processes, unmounts the mounts and removes interfaces and packet filters when the first one dies.

use std::fs;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::bail;

use crate::shell;

/// A node that runs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Space {
    /// The node's first process, as this machine numbers it.
    pid: u32,
}

/// The pair of addresses between this machine and the node with this number.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Link {
    pub(crate) number: u8,
}

impl Link {
    pub(crate) fn host(self) -> (Ipv4Addr, Ipv6Addr) {
        self.address(1)
    }

    pub(crate) fn node(self) -> (Ipv4Addr, Ipv6Addr) {
        self.address(2)
    }

    fn address(self, end: u8) -> (Ipv4Addr, Ipv6Addr) {
        let number = u16::from(self.number);
        (Ipv4Addr::new(10, 213, self.number, end), Ipv6Addr::new(0xfd00, 0x213, number, 0, 0, 0, 0, end.into()))
    }

    /// The interface on this machine, and the cgroup of the node's pods.
    pub(crate) fn name(self) -> String {
        format!("leno{}", self.number)
    }
}

/// Where the node's own processes find which number they have.
pub(crate) const NUMBER: &str = "number";
const PID: &str = "pid";

/// What the node takes from the distribution: program and package.
const PACKAGES: [(&str, &str); 6] = [
    ("runc", "runc"),
    ("nft", "nftables"),
    ("ip", "iproute2"),
    ("openssl", "openssl"),
    ("conntrack", "conntrack"),
    ("busybox", "busybox-static"),
];

/// Checks what no build can make, and installs Debian's packages that are missing.
pub(crate) fn prepare() -> anyhow::Result<()> {
    let root = fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0);
    anyhow::ensure!(
        root,
        "a node needs root for its namespaces; run as root, install kind, or set KUBECONFIG to use a cluster of your own"
    );
    shell::install(&PACKAGES)
}

impl Space {
    /// The node of this folder, if its first process is alive.
    pub(crate) fn open(folder: &Path) -> anyhow::Result<Option<Self>> {
        let Ok(text) = fs::read_to_string(folder.join(PID)) else { return Ok(None) };
        let pid: u32 =
            text.trim().parse().with_context(|| format!("{} holds no number", folder.join(PID).display()))?;
        // A number that another process has since taken does not name our folder.
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let ours = String::from_utf8_lossy(&line).contains(&*folder.to_string_lossy());
        Ok(ours.then_some(Self { pid }))
    }

    /// Makes the namespaces, and in them the node's first process, which waits for its link and then starts the rest.
    pub(crate) fn make(name: &str, folder: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(folder.join("logs"))?;
        let log = fs::File::create(folder.join("logs/node.log"))?;
        let own = std::env::current_exe()?;
        // A shell is the first process: it takes in orphans, which containerd's shims become. Without its folder nobody wants it.
        let script = "hostname \"$1\"; until [ -e \"$2/number\" ]; do [ -d \"$2\" ] || exit; sleep 0.05; done; \"$0\" cluster node --folder \"$2\" & wait $!";
        let mut unshare = Command::new("setsid");
        unshare.args(["unshare", "--mount", "--propagation", "private", "--net", "--pid", "--uts", "--ipc"]);
        unshare.args(["--fork", "--kill-child", "--mount-proc", "sh", "-c", script]);
        unshare.arg(&own).arg(name).arg(folder);
        let child = unshare
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start unshare; it comes with util-linux")?;
        let pid = first_process(child.id())?;
        fs::write(folder.join(PID), pid.to_string())?;
        let link = connect(pid)?;
        fs::write(folder.join("number.new"), link.number.to_string())?;
        fs::rename(folder.join("number.new"), folder.join(NUMBER))?;
        Ok(Self { pid })
    }

    /// Runs a program inside, where the mounts and the network are the node's.
    pub(crate) fn enter(self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={}", self.pid)).args(["--mount", "--net", "--pid", "--"]).arg(program);
        command
    }

    /// One of the node's programs, as this machine numbers it.
    pub(crate) fn find(self, program: &str) -> anyhow::Result<u32> {
        let space = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let own = space(&self.pid.to_string()).context("the node has ended")?;
        for entry in fs::read_dir("/proc")? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            // What runs in the node's pods has namespaces of its own.
            if space(&name).as_ref() != Some(&own) {
                continue;
            }
            if runs(&name, program) {
                return name.parse().with_context(|| format!("/proc/{name} is no process"));
            }
        }
        bail!("{program} does not run on the node")
    }

    /// Ends the node of this folder, if there is one, and removes its cgroups, which the kernel keeps.
    pub(crate) fn end(folder: &Path) -> anyhow::Result<()> {
        if let Some(space) = Self::open(folder)? {
            eprintln!("ending the node's processes");
            shell::quiet(Command::new("kill").args(["-KILL", &space.pid.to_string()]))?;
            let start = Instant::now();
            while Self::open(folder)?.is_some() {
                anyhow::ensure!(
                    start.elapsed() < Duration::from_secs(180),
                    "process {} does not end after SIGKILL; see /proc/{0}/stack",
                    space.pid
                );
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        let Some(link) = read_number(folder) else { return Ok(()) };
        for group in cgroups(link) {
            remove_cgroup(&group)?;
        }
        Ok(())
    }
}

/// A program of the pod with this uid, as this machine numbers it.
pub(crate) fn in_pod(uid: &str, program: &str) -> anyhow::Result<u32> {
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let group = fs::read_to_string(format!("/proc/{name}/cgroup")).unwrap_or_default();
        if group.contains(&format!("pod{uid}")) && runs(&name, program) {
            return name.parse().with_context(|| format!("/proc/{name} is no process"));
        }
    }
    bail!("{program} does not run in the pod {uid}")
}

/// Whether this process was started by the program's name.
fn runs(pid: &str, program: &str) -> bool {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let first = String::from_utf8_lossy(line.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned();
    Path::new(&first).file_name().is_some_and(|file| file == program)
}

/// The number that a node's folder says it has.
pub(crate) fn read_number(folder: &Path) -> Option<Link> {
    fs::read_to_string(folder.join(NUMBER)).ok()?.trim().parse().ok().map(|number| Link { number })
}

/// `unshare` forks: its child is number one in the new namespace.
fn first_process(parent: u32) -> anyhow::Result<u32> {
    let start = Instant::now();
    loop {
        for entry in fs::read_dir("/proc")? {
            let path = entry?.path();
            let status = fs::read_to_string(path.join("status")).unwrap_or_default();
            let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
            if field("PPid:").and_then(|p| p.parse().ok()) == Some(parent) {
                // Its line still names `unshare` until it has become the shell.
                let exec = fs::read(path.join("cmdline")).is_ok_and(|line| line.starts_with(b"sh\0"));
                if let Some(pid) = field("Pid:").and_then(|p| p.parse().ok()).filter(|_| exec) {
                    return Ok(pid);
                }
            }
        }
        if start.elapsed() > Duration::from_secs(120) {
            bail!(
                "unshare made no namespaces; this kernel or container forbids it (target/cluster/NAME/logs/node.log)"
            );
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// One cable between this machine and the node. The kernel gives an interface's name to one taker only, so two runs at once get
/// different numbers.
fn connect(pid: u32) -> anyhow::Result<Link> {
    let six = has_ipv6();
    for number in 1..=250 {
        let link = Link { number };
        let name = link.name();
        let pid = pid.to_string();
        let made = ["link", "add", &name, "type", "veth", "peer", "name", "eth0", "netns", &pid];
        let output = Command::new("ip").args(made).output().context("run ip")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            anyhow::ensure!(said.contains("exists"), "ip {}: {}", made.join(" "), said.trim());
            continue;
        }
        let (four_here, six_here) = link.host();
        let (four_there, six_there) = link.node();
        let here = |arguments: &[&str]| shell::quiet(Command::new("ip").args(arguments));
        let there = |arguments: &[&str]| {
            shell::quiet(Command::new("nsenter").args(["--target", &pid, "--net", "--", "ip"]).args(arguments))
        };
        here(&["address", "add", &format!("{four_here}/30"), "dev", &name])?;
        here(&["link", "set", &name, "up"])?;
        there(&["address", "add", &format!("{four_there}/30"), "dev", "eth0"])?;
        there(&["link", "set", "lo", "up"])?;
        there(&["link", "set", "eth0", "up"])?;
        if six {
            here(&["-6", "address", "add", &format!("{six_here}/64"), "dev", &name, "nodad"])?;
            there(&["-6", "address", "add", &format!("{six_there}/64"), "dev", "eth0", "nodad"])?;
        }
        return Ok(link);
    }
    bail!("250 nodes run on this machine; cargo xtask cluster down ends one")
}

pub(crate) fn has_ipv6() -> bool {
    fs::read_to_string("/proc/net/if_inet6").is_ok_and(|addresses| !addresses.is_empty())
}

/// The node's cgroup in each hierarchy that this machine has.
pub(crate) fn cgroups(link: Link) -> Vec<std::path::PathBuf> {
    let top = Path::new("/sys/fs/cgroup");
    if top.join("cgroup.controllers").exists() {
        return vec![top.join(link.name())];
    }
    let hierarchies = fs::read_dir(top).into_iter().flatten().flatten().map(|entry| entry.path());
    // `cpu` and `cpuacct` may be links to one hierarchy.
    hierarchies.filter(|path| path.is_dir() && !path.is_symlink()).map(|path| path.join(link.name())).collect()
}

/// Leaves first; the kernel lets a cgroup go a moment after its last process.
fn remove_cgroup(group: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&entry.path())?;
        }
    }
    let start = Instant::now();
    while group.exists() {
        match fs::remove_dir(group) {
            Ok(()) => break,
            Err(error) if start.elapsed() > Duration::from_secs(120) => {
                return Err(error).with_context(|| format!("remove {}", group.display()));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
    Ok(())
}
