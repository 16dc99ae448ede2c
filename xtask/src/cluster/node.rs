//! The inside of a node: writes its configuration, starts the upstream programs and starts them again when they end. It must
//! never run outside the namespaces that `space` makes.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;

use super::space;
use super::space::Link;
use super::tools;
use crate::shell;

#[derive(clap::Args)]
pub(crate) struct Options {
    #[arg(long)]
    folder: PathBuf,
}

/// What sandboxes run; `image::load_pause` brings it.
pub(crate) const PAUSE: &str = "docker.io/leno/pause:1";

const PODS: (&str, &str) = ("10.244.0.0/16", "fd00:10:244::/64");
const SERVICES: (&str, &str) = ("10.96.0.0/16", "fd00:10:96::/112");
const DNS: &str = "10.96.0.10";

/// What everything in a node knows.
struct Node {
    folder: PathBuf,
    link: Link,
    dual: bool,
    tokens: Vec<(&'static str, String)>,
}

/// Who calls the API server: a user name and its groups. `{node}` is the node's name.
const CALLERS: [(&str, &str, &str); 6] = [
    ("admin", "admin", "system:masters"),
    ("kubelet", "system:node:{node}", "system:nodes"),
    ("controller-manager", "system:kube-controller-manager", ""),
    ("scheduler", "system:kube-scheduler", ""),
    ("proxy", "system:kube-proxy", ""),
    ("dns", "leno:dns", ""),
];

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    // The first process of our own namespace is the shell that `space` started; elsewhere it is the machine's init.
    let first = fs::read("/proc/1/cmdline").unwrap_or_default();
    anyhow::ensure!(
        String::from_utf8_lossy(&first).contains(&*options.folder.to_string_lossy()),
        "`cluster node` is started by `cluster up`, inside the node's namespaces"
    );
    let folder = options.folder.clone();
    let link = space::read_number(&folder).context("the node has no number yet")?;
    let mut node = Node { folder, link, dual: space::has_ipv6(), tokens: Vec::new() };
    node.mounts()?;
    node.credentials()?;
    node.configurations()?;
    for (program, arguments) in node.programs() {
        // All others name its certificate in their kubeconfig and end where that file is missing.
        while program != "containerd" && program != "etcd" && program != "kube-apiserver" && !node.has_certificate() {
            std::thread::sleep(Duration::from_millis(50));
        }
        supervise(&node, program, arguments)?;
    }
    node.introduce()?;
    loop {
        std::thread::park();
    }
}

impl Node {
    fn name(&self) -> String {
        self.folder.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    fn ip(&self) -> IpAddr {
        self.link.node().0.into()
    }

    fn path(&self, name: &str) -> String {
        self.folder.join(name).to_string_lossy().into_owned()
    }

    /// `four`, or both where this machine has IPv6.
    fn ranges(&self, (four, six): (&str, &str)) -> String {
        if self.dual { format!("{four},{six}") } else { four.to_owned() }
    }

    fn server(&self) -> String {
        format!("https://{}:6443", self.ip())
    }

    fn has_certificate(&self) -> bool {
        self.folder.join("apiserver/apiserver.crt").exists()
    }

    /// Fresh folders over the standard ones, so that every program runs with its own defaults and sees nobody else's files.
    fn mounts(&self) -> anyhow::Result<()> {
        let disk = ["containerd", "kubelet"];
        for name in disk {
            fs::create_dir_all(self.folder.join(name))?;
        }
        // Our own folder stays in reach where it is itself under /var/lib.
        mount(&["--bind", &self.path(""), "/mnt"])?;
        for top in ["/run", "/var/lib", "/var/log"] {
            mount(&["-t", "tmpfs", "-o", "mode=755", "tmpfs", top])?;
        }
        for name in disk {
            let at = format!("/var/lib/{name}");
            fs::create_dir_all(&at)?;
            mount(&["--bind", &format!("/mnt/{name}"), &at])?;
        }
        // kubelet wants its mounts to be seen by containers that ask for it.
        mount(&["--make-rshared", "/"])?;
        for group in space::cgroups(self.link) {
            fs::create_dir_all(&group).with_context(|| format!("make {}", group.display()))?;
        }
        for setting in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            let path = Path::new("/proc/sys/net").join(setting);
            if path.exists() {
                fs::write(&path, "1").with_context(|| format!("set {}", path.display()))?;
            }
        }
        // The API server calls webhooks by their ClusterIPs: the kernel wants a way there before the packet filter turns it
        // aside. There is no other way out of the node.
        for range in self.ranges(SERVICES).split(',') {
            shell::quiet(Command::new("ip").args(["route", "add", range, "dev", "eth0"]))?;
        }
        Ok(())
    }

    /// A token for each caller, the key that signs the pods' tokens, and a kubeconfig for each.
    fn credentials(&mut self) -> anyhow::Result<()> {
        fs::create_dir_all(self.folder.join("apiserver"))?;
        for (caller, user, groups) in CALLERS {
            let random = shell::quiet(Command::new("openssl").args(["rand", "-hex", "24"]))?;
            let token = random.trim().to_owned();
            let line = format!("{token},{},{caller},\"{groups}\"\n", user.replace("{node}", &self.name()));
            append(&self.folder.join("tokens.csv"), &line)?;
            self.write(&format!("{caller}.kubeconfig"), &self.kubeconfig(&token))?;
            self.tokens.push((caller, token));
        }
        // The same file that users are given.
        fs::copy(self.path("admin.kubeconfig"), self.path("kubeconfig"))?;
        let key = ["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", &self.path("account.key")];
        shell::quiet(Command::new("openssl").args(key))?;
        Ok(())
    }

    /// The server's certificate is its own work, so clients learn its anchor from its file; it is on this machine and
    /// nowhere else, and on an address that only this machine has.
    fn kubeconfig(&self, token: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: leno\n\
             contexts: [{{name: leno, context: {{cluster: leno, user: leno}}}}]\n\
             clusters: [{{name: leno, cluster: {{server: \"{}\", certificate-authority: \"{}\"}}}}]\n\
             users: [{{name: leno, user: {{token: \"{token}\"}}}}]\n",
            self.server(),
            self.path("apiserver/apiserver.crt"),
        )
    }

    fn configurations(&self) -> anyhow::Result<()> {
        fs::create_dir_all(self.folder.join("cni"))?;
        self.write("cni/10-leno.conflist", &self.cni())?;
        self.write("containerd.toml", &self.containerd())?;
        self.write("kubelet.yaml", &self.kubelet())?;
        self.write("resolv.conf", "")?;
        self.write("Corefile", &self.corefile())
    }

    /// Each pod hangs on a cable of its own and everything is routed: no bridge, whose traffic would pass by the packet
    /// filter that makes ClusterIPs.
    fn cni(&self) -> String {
        let range = |range: &str| format!("[{{\"subnet\": \"{range}\"}}]");
        let mut ranges = vec![range(PODS.0)];
        let mut routes = vec!["{\"dst\": \"0.0.0.0/0\"}"];
        if self.dual {
            ranges.push(range(PODS.1));
            routes.push("{\"dst\": \"::/0\"}");
        }
        format!(
            "{{\"cniVersion\": \"1.0.0\", \"name\": \"leno\", \"plugins\": [{{\"type\": \"ptp\", \"ipMasq\": false, \
             \"ipam\": {{\"type\": \"host-local\", \"ranges\": [{}], \"routes\": [{}]}}}}]}}\n",
            ranges.join(", "),
            routes.join(", "),
        )
    }

    fn containerd(&self) -> String {
        let snapshotter = if overlay_works(&self.folder) { "overlayfs" } else { "native" };
        let (programs, cni) = (tools::folder(), self.path("cni"));
        let runc = shell::find("runc").unwrap_or_else(|| "runc".into());
        let (programs, runc) = (programs.display(), runc.display());
        format!(
            r#"version = 3
root = "/var/lib/containerd"
state = "/run/containerd"

[grpc]
address = "/run/containerd/containerd.sock"

[plugins."io.containerd.cri.v1.images"]
snapshotter = "{snapshotter}"
pinned_images = {{sandbox = "{PAUSE}"}}

[plugins."io.containerd.cri.v1.runtime"]
disable_apparmor = true
restrict_oom_score_adj = true

[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["{programs}"]
conf_dir = "{cni}"

[plugins."io.containerd.cri.v1.runtime".containerd]
default_runtime_name = "runc"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
BinaryName = "{runc}"
SystemdCgroup = false
"#
        )
    }

    fn kubelet(&self) -> String {
        format!(
            "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n\
             containerRuntimeEndpoint: unix:///run/containerd/containerd.sock\n\
             cgroupDriver: cgroupfs\ncgroupRoot: /{}\nfailCgroupV1: false\nenforceNodeAllocatable: []\nfailSwapOn: false\n\
             clusterDNS: [{DNS}]\nclusterDomain: cluster.local\nresolvConf: {}\n\
             # Nobody reaches this kubelet but the node's own pods and this machine.\n\
             authentication: {{anonymous: {{enabled: true}}, webhook: {{enabled: false}}}}\nauthorization: {{mode: AlwaysAllow}}\n\
             makeIPTablesUtilChains: false\nmaxPods: 250\n\
             # A developer's disk is fuller than a server's.\n\
             evictionHard: {{memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%}}\nimageGCHighThresholdPercent: 100\n",
            self.link.name(),
            self.path("resolv.conf"),
        )
    }

    /// Names of the cluster only: there is no way out of the node.
    fn corefile(&self) -> String {
        let (ip, config) = (self.ip(), self.path("dns.kubeconfig"));
        format!(
            ".:53 {{\n  bind {ip}\n  errors\n  kubernetes cluster.local in-addr.arpa ip6.arpa {{\n    kubeconfig {config}\n    \
             pods insecure\n    ttl 5\n  }}\n  cache 5\n}}\n"
        )
    }

    /// Program and arguments, in the order of their start.
    fn programs(&self) -> Vec<(&'static str, Vec<String>)> {
        let (ip, name) = (self.ip(), self.name());
        let config = |caller: &str| format!("--kubeconfig={}", self.path(&format!("{caller}.kubeconfig")));
        let key = self.path("account.key");
        let mut node_ips = ip.to_string();
        if self.dual {
            node_ips = format!("{ip},{}", self.link.node().1);
        }
        let words = |list: &[&str]| list.iter().map(|&word| word.to_owned()).collect::<Vec<String>>();
        let services = format!("--service-cluster-ip-range={}", self.ranges(SERVICES));
        vec![
            ("containerd", vec!["--config".to_owned(), self.path("containerd.toml")]),
            // A test's state is worth no wait for the disk.
            ("etcd", vec!["--unsafe-no-fsync".to_owned(), format!("--data-dir={}", self.path("etcd"))]),
            (
                "kube-apiserver",
                vec![
                    "--etcd-servers=http://127.0.0.1:2379".to_owned(),
                    format!("--advertise-address={ip}"),
                    format!("--cert-dir={}", self.path("apiserver")),
                    format!("--token-auth-file={}", self.path("tokens.csv")),
                    "--service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
                    format!("--service-account-key-file={key}"),
                    format!("--service-account-signing-key-file={key}"),
                    "--authorization-mode=Node,RBAC".to_owned(),
                    "--allow-privileged=true".to_owned(),
                    "--kubelet-preferred-address-types=InternalIP".to_owned(),
                    services.clone(),
                ],
            ),
            (
                "kube-controller-manager",
                [
                    vec![config("controller-manager"), services],
                    words(&["--use-service-account-credentials", "--leader-elect=false"]),
                    vec![
                        format!("--service-account-private-key-file={key}"),
                        format!("--root-ca-file={}", self.path("apiserver/apiserver.crt")),
                    ],
                ]
                .concat(),
            ),
            ("kube-scheduler", vec![config("scheduler"), "--leader-elect=false".to_owned()]),
            (
                "kubelet",
                vec![
                    config("kubelet"),
                    format!("--config={}", self.path("kubelet.yaml")),
                    format!("--hostname-override={name}"),
                    format!("--node-ip={node_ips}"),
                ],
            ),
            (
                "kube-proxy",
                [
                    vec![config("proxy"), format!("--hostname-override={name}")],
                    vec![format!("--cluster-cidr={}", self.ranges(PODS))],
                    // The connection table is the whole machine's: only its own first namespace may size it.
                    words(&["--proxy-mode=nftables", "--conntrack-max-per-core=0"]),
                    words(&["--conntrack-tcp-timeout-established=0s", "--conntrack-tcp-timeout-close-wait=0s"]),
                ]
                .concat(),
            ),
            ("coredns", vec!["-conf".to_owned(), self.path("Corefile")]),
        ]
    }

    /// What the cluster must hold from the start: CoreDNS's rights and its Service, whose endpoint is the node.
    fn introduce(&self) -> anyhow::Result<()> {
        let ip = self.ip();
        let objects = format!(
            "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {{name: leno-test-dns}}\nrules:\n\
             - {{apiGroups: [\"\"], resources: [services, pods, namespaces, endpoints, nodes], verbs: [get, list, watch]}}\n\
             - {{apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [get, list, watch]}}\n---\n\
             apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\nmetadata: {{name: leno-test-dns}}\n\
             roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: leno-test-dns}}\n\
             subjects: [{{apiGroup: rbac.authorization.k8s.io, kind: User, name: \"leno:dns\"}}]\n---\n\
             apiVersion: v1\nkind: Service\nmetadata: {{name: kube-dns, namespace: kube-system, labels: {{k8s-app: kube-dns}}}}\n\
             spec: {{clusterIP: {DNS}, ports: [{{name: dns, port: 53, protocol: UDP}}, {{name: dns-tcp, port: 53, protocol: TCP}}]}}\n---\n\
             apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n\
             metadata: {{name: kube-dns, namespace: kube-system, labels: {{kubernetes.io/service-name: kube-dns}}}}\n\
             endpoints: [{{addresses: [{ip}], conditions: {{ready: true}}}}]\n\
             ports: [{{name: dns, port: 53, protocol: UDP}}, {{name: dns-tcp, port: 53, protocol: TCP}}]\n"
        );
        self.write("introduction.yaml", &objects)?;
        let (config, file) = (self.path("admin.kubeconfig"), self.path("introduction.yaml"));
        loop {
            let mut kubectl = tools::command("kubectl");
            kubectl.args(["--kubeconfig", &config, "apply", "--server-side", "-f", &file]);
            if kubectl.output().is_ok_and(|output| output.status.success()) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(300));
        }
    }

    fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        fs::write(self.folder.join(name), text).with_context(|| format!("write {}", self.path(name)))
    }
}

/// Starts a program, and starts it again a second after it ends: tests take programs away to see what happens.
fn supervise(node: &Node, program: &'static str, arguments: Vec<String>) -> anyhow::Result<()> {
    let log = node.folder.join("logs").join(format!("{program}.log"));
    let programs = tools::folder();
    let path = std::env::join_paths(std::iter::once(programs.clone()).chain(shell::path()))?;
    fs::create_dir_all(node.folder.join("logs"))?;
    std::thread::Builder::new().name(program.to_owned()).spawn(move || {
        loop {
            let ended = fs::File::options().create(true).append(true).open(&log).and_then(|out| {
                let mut command = Command::new(programs.join(program));
                command.args(&arguments).env("PATH", &path).stdin(Stdio::null());
                command.stdout(out.try_clone()?).stderr(out).status()
            });
            println!("{program}: {ended:?}; again in a second");
            std::thread::sleep(Duration::from_secs(1));
        }
    })?;
    Ok(())
}

/// Whether a file system of layers can stand on the one that holds our folder: on another overlay it cannot.
fn overlay_works(folder: &Path) -> bool {
    let probe = folder.join("probe");
    let parts = ["lower", "upper", "work", "merged"].map(|name| probe.join(name));
    let made = parts.iter().all(|part| fs::create_dir_all(part).is_ok());
    let [lower, upper, work, merged] = parts.map(|part| part.to_string_lossy().into_owned());
    let layers = format!("lowerdir={lower},upperdir={upper},workdir={work}");
    let works = made && mount(&["-t", "overlay", "-o", &layers, "overlay", &merged]).is_ok();
    if works {
        let _ = Command::new("umount").arg(&merged).status();
    }
    let _ = fs::remove_dir_all(&probe);
    works
}

fn mount(arguments: &[&str]) -> anyhow::Result<()> {
    shell::quiet(Command::new("mount").args(arguments)).map(drop)
}

fn append(path: &Path, text: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    let mut file = fs::File::options().create(true).append(true).open(path)?;
    file.write_all(text.as_bytes()).with_context(|| format!("write {}", path.display()))
}
