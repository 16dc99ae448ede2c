//! Transparent capture, whole: two pods in network namespaces of their own, applications that know nothing, sidecars as another
//! user, and everything that passes between the pods on record. Needs root, and says so. It must never touch the namespace that
//! it is started in.

use std::fs::File;
use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::os::unix::fs::chown;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use std::time::Instant;

use leno_e2e::process::Process;
use leno_e2e::scrape::Scrape;
use socket2::Domain;
use socket2::Protocol;
use socket2::Socket;
use socket2::Type;

use crate::stage::PATIENCE;
use crate::stage::tell;

/// Set for the processes that this file starts inside a namespace: what they are to do.
const TASK: &str = "LENO_TEST_OUTAGES";
const SIDECAR_UID: u32 = 15_000;
/// One address of each family: the pods, and between them the network, where the control plane is.
const CLIENT: [&str; 2] = ["10.79.0.1", "fd79::1"];
const SERVER: [&str; 2] = ["10.79.0.2", "fd79::2"];
const NETWORK: [&str; 2] = ["10.79.0.3", "fd79::3"];
/// The Service's own addresses: nobody has them.
const SERVICE: [&str; 2] = ["10.96.0.10", "fd96::10"];

#[test]
fn applications_that_know_nothing_meet_over_mtls() {
    if let Some(missing) = missing() {
        tell(format_args!("SKIPPED: transparent capture in network namespaces needs {missing}"));
        return;
    }
    let pods = Pods::start();
    let wire = pods.start_task("wire", &pods.network, &format!("wire {}", pods.wire().display()));
    pods.until("the recorder listens", || wire.said().contains("recording"));

    for family in [0, 1] {
        let service = SERVICE[family];
        let page = pods.curl(&url(service, 80, "/secret-service"));
        assert!(page.contains("items"), "{page}");
        let page = pods.curl(&url(SERVER[family], 8080, "/secret-pod"));
        assert!(page.contains("items"), "{page}");
        // The server speaks first, and nothing declares it.
        let said = pods.run(&pods.client, task(&format!("talk {}", address(service, 7000))));
        assert!(said.contains("heard: secret-greeting") && said.contains("heard: secret-words back"), "{said}");
    }
    let metrics = pods.metrics(&pods.server, SERVER[0]);
    let mtls = metrics.sum("leno_requests_total", &["direction=\"inbound\"", "tls=\"mtls\""]);
    let plain = metrics.sum("leno_requests_total", &["direction=\"inbound\"", "tls=\"plaintext\""]);
    assert!(mtls >= 4.0 && plain == 0.0, "{mtls} over mTLS, {plain} in plaintext");

    // The recorder does see plaintext where there is any: from outside the mesh, to a permissive port.
    let outside = pods.run(&pods.network, curl(&url(SERVER[0], 8080, "/open-outside")));
    assert!(outside.contains("items"), "{outside}");
    pods.until("plaintext from outside on the wire", || pods.seen("open-outside") > 0);
    let (frames, hops) = (pods.frames().len(), pods.seen("leno/"));
    tell(format_args!(
        "captured: {mtls} requests and connections over mTLS, {plain} in plaintext; {frames} frames on the wire, {hops} of \
         them hellos of the mesh, {} with an application's words",
        pods.seen("secret-")
    ));
    assert_eq!(pods.seen("secret-"), 0, "no word of the applications is readable between the pods");
    assert!(hops > 0, "the sidecars speak the mesh's TLS");
    undo(&pods);
}

/// Without the rules, the client is on its own again.
fn undo(pods: &Pods) {
    pods.run(&pods.client, program("leno-proxy", &["init", "--undo"]));
    let tables = pods.run(&pods.client, program("nft", &["list", "tables"]));
    assert!(!tables.contains("leno"), "{tables}");
    let page = pods.curl(&url(SERVER[0], 8080, "/open-undone"));
    assert!(page.contains("items"), "{page}");
    pods.until("plaintext after the undo on the wire", || pods.seen("open-undone") > 0);
    // Nothing answers there, so this is how long it takes.
    let nobody = curl_for(5, &url(SERVICE[0], 80, "/"));
    let nobody = pods.inside(&pods.client, nobody).output().unwrap();
    assert!(!nobody.status.success(), "a Service's address leads nowhere by itself");
    tell(format_args!("undone: the client's words are in the open again, and a Service's address leads nowhere"));
}

fn missing() -> Option<&'static str> {
    for (name, argument, needs) in [
        ("nft", "--version", "nft (package nftables)"),
        ("ip", "-V", "ip (package iproute2)"),
        ("setpriv", "--version", "setpriv (package util-linux)"),
        ("curl", "--version", "curl"),
    ] {
        if !Command::new(name).arg(argument).output().is_ok_and(|output| output.status.success()) {
            return Some(needs);
        }
    }
    let probe = format!("leno-probe-{}", std::process::id());
    let made = Command::new("ip").args(["netns", "add", &probe]).output().is_ok_and(|output| output.status.success());
    let _ = Command::new("ip").args(["netns", "del", &probe]).output();
    (!made).then_some("root and the right to make network namespaces")
}

/// A network namespace that goes with the test.
struct Namespace(String);

impl Namespace {
    fn new(name: &str) -> Self {
        let name = format!("leno-{name}-{}", std::process::id());
        // A process of the same number that was killed may have left one.
        let _ = Command::new("ip").args(["netns", "del", &name]).output();
        ip(&["netns", "add", &name]);
        Self(name)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().expect("ip runs");
    assert!(output.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Both pods, the network between them, and the control plane on it. Processes end before their namespaces.
struct Pods {
    processes: Vec<Process>,
    client: Namespace,
    server: Namespace,
    network: Namespace,
    folder: PathBuf,
}

impl Drop for Pods {
    fn drop(&mut self) {
        self.processes.clear();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Pods {
    fn start() -> Self {
        let folder = std::env::temp_dir().join(format!("leno-capture-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        for part in ["logs", "state", "manifests", "client", "server"] {
            std::fs::create_dir_all(folder.join(part)).unwrap();
        }
        std::fs::write(folder.join("manifests/mesh.yaml"), MANIFESTS).unwrap();
        // The sidecars' user may not be allowed where the programs are built.
        // Not by this process: what another test starts meanwhile would hold the copy open for writing, and nobody could run it.
        succeeded(Command::new("cp").arg(built("leno-proxy")).arg(folder.join("leno-proxy")));
        let (client, server, network) = (Namespace::new("client"), Namespace::new("server"), Namespace::new("net"));
        let mut pods = Self { processes: Vec::new(), client, server, network, folder };
        pods.connect();
        let state = pods.folder.join("state").display().to_string();
        let source = format!("dir:{}", pods.folder.join("manifests").display());
        let (listen, admin) = (address(NETWORK[0], 15012), address(NETWORK[0], 15014));
        let arguments = ["--source", &source, "--state", &state, "--listen", &listen, "--admin", &admin];
        let control_plane = pods.spawn("control-plane", &pods.network, program("leno-control-plane", &arguments));
        pods.processes.push(control_plane);
        pods.until_ready(&pods.network, &admin);
        let catalog = program("storefront", &["--role", "catalog", "--listen", "[::]:8080"]);
        let catalog = pods.spawn("catalog", &pods.server, catalog);
        let greeter = pods.start_task("greeter", &pods.server, "greet");
        pods.processes.extend([catalog, greeter]);
        for (name, addresses) in [("client", CLIENT), ("server", SERVER)] {
            let sidecar = pods.start_sidecar(name, addresses);
            pods.processes.push(sidecar);
        }
        pods.until_ready(&pods.client, &address(CLIENT[0], 15021));
        pods.until_ready(&pods.server, &address(SERVER[0], 15021));
        pods
    }

    /// Each pod has a cable to a bridge in a namespace of its own, which is also the way to everywhere else.
    fn connect(&self) {
        let network = &self.network.0;
        ip(&["-n", network, "link", "add", "bridge", "type", "bridge"]);
        for (namespace, addresses) in [(&self.client, CLIENT), (&self.server, SERVER), (&self.network, NETWORK)] {
            let name = &namespace.0;
            let device = if name == network { "bridge" } else { "eth0" };
            if device == "eth0" {
                let port = if addresses == CLIENT { "client" } else { "server" };
                ip(&["link", "add", device, "netns", name, "type", "veth", "peer", "name", port, "netns", network]);
                ip(&["-n", network, "link", "set", port, "master", "bridge", "up"]);
            }
            ip(&["-n", name, "addr", "add", &format!("{}/24", addresses[0]), "dev", device]);
            ip(&["-n", name, "addr", "add", &format!("{}/64", addresses[1]), "dev", device, "nodad"]);
            ip(&["-n", name, "link", "set", device, "up"]);
            ip(&["-n", name, "link", "set", "lo", "up"]);
            if device == "eth0" {
                ip(&["-n", name, "route", "add", "default", "via", NETWORK[0]]);
                ip(&["-n", name, "-6", "route", "add", "default", "via", NETWORK[1]]);
            }
        }
    }

    /// What the injector would put into the pod: the rules, then the sidecar as a user of its own.
    fn start_sidecar(&self, name: &str, addresses: [&str; 2]) -> Process {
        let namespace = if name == "client" { &self.client } else { &self.server };
        self.run(namespace, program("leno-proxy", &["init"]));
        let (volume, token) = (self.folder.join(name), self.folder.join(name).join("token"));
        let (uid, state) = (format!("{name}-0-uid"), self.folder.join("state"));
        let mut mint = Command::new(built("leno"));
        mint.args(["dev", "token", "--namespace", "shop", "--service-account", name, "--pod-uid", &uid]);
        mint.args(["--pod", &format!("{name}-0"), "--state"]).arg(&state).arg("-o").arg(&token);
        succeeded(&mut mint);
        for path in [&volume, &token] {
            chown(path, Some(SIDECAR_UID), Some(SIDECAR_UID)).unwrap();
        }
        let uid_argument = format!("--reuid={SIDECAR_UID}");
        let mut sidecar = program("setpriv", &[&uid_argument, "--regid=15000", "--clear-groups"]);
        sidecar.arg(self.folder.join("leno-proxy")).arg("run");
        let anchor = state.join("trust-anchor.pem");
        let mut sidecar = self.inside(namespace, sidecar);
        sidecar.envs([
            ("LENO_CONTROL_PLANE", address(NETWORK[0], 15012)),
            ("LENO_TRUST_ANCHOR", anchor.display().to_string()),
            ("LENO_TOKEN", token.display().to_string()),
            ("LENO_POD_NAME", format!("{name}-0")),
            ("LENO_POD_NAMESPACE", "shop".to_owned()),
            ("LENO_POD_UID", uid),
            ("LENO_SERVICE_ACCOUNT", name.to_owned()),
            ("LENO_VOLUME", volume.display().to_string()),
            ("LENO_STATUS", address(addresses[0], 15021)),
            ("LENO_OUTBOUND_CAPTURE", "127.0.0.1:15001,[::1]:15001".to_owned()),
            ("LENO_INBOUND_CAPTURE", "0.0.0.0:15006,[::]:15006".to_owned()),
        ]);
        Process::start(&format!("{name}-sidecar"), &mut sidecar, &self.folder.join("logs")).unwrap()
    }

    /// The same command, inside a namespace.
    fn inside(&self, namespace: &Namespace, command: Command) -> Command {
        let mut whole = Command::new("ip");
        whole.args(["netns", "exec", &namespace.0]).arg(command.get_program()).args(command.get_args());
        whole.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        whole
    }

    fn spawn(&self, name: &str, namespace: &Namespace, command: Command) -> Process {
        Process::start(name, &mut self.inside(namespace, command), &self.folder.join("logs")).unwrap()
    }

    fn start_task(&self, name: &str, namespace: &Namespace, what: &str) -> Process {
        self.spawn(name, namespace, task(what))
    }

    fn run(&self, namespace: &Namespace, command: Command) -> String {
        let mut command = self.inside(namespace, command);
        let output = command.output().unwrap();
        let (said, why) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{command:?}: {said}{why}\n{}", self.tails());
        said.into_owned()
    }

    /// As the client's application.
    fn curl(&self, url: &str) -> String {
        self.run(&self.client, curl(url))
    }

    fn metrics(&self, namespace: &Namespace, pod: &str) -> Scrape {
        Scrape::parse(&self.run(namespace, curl(&url(pod, 15021, "/metrics"))))
    }

    fn until_ready(&self, namespace: &Namespace, address: &str) {
        let probe = || self.inside(namespace, curl(&format!("http://{address}/ready")));
        self.until(&format!("{address} is ready"), || probe().output().is_ok_and(|o| o.status.success()));
    }

    fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let start = Instant::now();
        while !holds() {
            assert!(start.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}\n{}", self.tails());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn tails(&self) -> String {
        self.processes.iter().map(|p| format!("--- {}\n{}\n", p.name, p.tail())).collect()
    }

    fn wire(&self) -> PathBuf {
        self.folder.join("wire")
    }

    /// Every frame that was on the network, as it was.
    fn frames(&self) -> Vec<Vec<u8>> {
        let recorded = std::fs::read(self.wire()).unwrap();
        let (mut rest, mut frames) = (recorded.as_slice(), Vec::new());
        while let Some((length, after)) = rest.split_first_chunk::<4>() {
            let Some((frame, after)) = after.split_at_checked(u32::from_be_bytes(*length) as usize) else { break };
            frames.push(frame.to_vec());
            rest = after;
        }
        frames
    }

    /// In how many frames these words stand.
    fn seen(&self, words: &str) -> usize {
        let holds = |frame: &Vec<u8>| frame.windows(words.len()).any(|window| window == words.as_bytes());
        self.frames().iter().filter(|frame| holds(frame)).count()
    }
}

fn built(name: &str) -> PathBuf {
    let own = std::env::current_exe().unwrap();
    own.parent().and_then(Path::parent).unwrap().join(name)
}

/// One of ours, or of the system's.
fn program(name: &str, arguments: &[&str]) -> Command {
    let ours = built(name);
    let mut command = if ours.exists() { Command::new(ours) } else { Command::new(name) };
    command.args(arguments);
    command
}

fn curl(url: &str) -> Command {
    curl_for(PATIENCE.as_secs(), url)
}

fn curl_for(seconds: u64, url: &str) -> Command {
    program("curl", &["-sS", "--fail", "--max-time", &seconds.to_string(), url])
}

fn succeeded(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn address(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

fn url(host: &str, port: u16, path: &str) -> String {
    format!("http://{}{path}", address(host, port))
}

/// This very program, with something to do inside a namespace.
fn task(what: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "capture::task_inside", "--ignored", "--nocapture"]).env(TASK, what);
    command
}

#[test]
#[ignore = "runs inside a namespace, started by the test above"]
#[allow(clippy::disallowed_methods, reason = "the task travels to the inner process by its environment")]
fn task_inside() {
    let Ok(task) = std::env::var(TASK) else { return };
    match task.split_once(' ').unwrap_or((&task, "")) {
        ("greet", _) => greet(),
        ("talk", address) => talk(address.parse().unwrap()),
        ("wire", path) => record(Path::new(path)),
        other => panic!("no task {other:?}"),
    }
}

/// A server that speaks first, and repeats what it hears.
fn greet() {
    let listener = TcpListener::bind("[::]:7000").unwrap();
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        std::thread::spawn(move || {
            stream.write_all(b"secret-greeting\n").unwrap();
            let mut buffer = [0; 1024];
            while let Ok(count @ 1..) = stream.read(&mut buffer) {
                stream.write_all(&[&buffer[..count], b" back\n"].concat()).unwrap();
            }
        });
    }
}

/// Its client, which waits to be greeted.
fn talk(address: SocketAddr) {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut buffer = [0; 1024];
    let count = stream.read(&mut buffer).unwrap();
    println!("heard: {}", String::from_utf8_lossy(&buffer[..count]));
    stream.write_all(b"secret-words").unwrap();
    let count = stream.read(&mut buffer).unwrap();
    println!("heard: {}", String::from_utf8_lossy(&buffer[..count]));
}

/// Writes every frame on every device of this namespace to a file, each after its length.
fn record(path: &Path) {
    let every_protocol = Protocol::from(i32::from(0x0003_u16.to_be()));
    let mut socket = Socket::new(Domain::PACKET, Type::RAW, Some(every_protocol)).unwrap();
    let mut file = File::create(path).unwrap();
    println!("recording");
    let mut frame = vec![0; 1 << 16];
    while let Ok(count) = socket.read(&mut frame) {
        let length = (count as u32).to_be_bytes();
        file.write_all(&[&length, &frame[..count]].concat()).unwrap();
    }
}

const MANIFESTS: &str = "apiVersion: policy.leno.dev/v1alpha1
kind: Mesh
metadata: {name: default}
spec:
  trustDomain: cluster.local
  meshNetworks: [10.79.0.0/24, 10.96.0.0/16, 'fd79::/64', 'fd96::/64']
---
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Service
metadata: {name: server, namespace: shop}
spec:
  selector: {app: server}
  clusterIPs: [10.96.0.10, 'fd96::10']
  ports:
  - {name: web, port: 80, targetPort: 8080}
  - {name: words, port: 7000, targetPort: 7000}
---
apiVersion: v1
kind: Pod
metadata: {name: server-0, namespace: shop, uid: server-0-uid, labels: {app: server}, annotations: {leno.dev/inject: enabled}}
spec:
  serviceAccountName: server
  containers: [{name: app, ports: [{name: web, containerPort: 8080}, {name: words, containerPort: 7000}]}]
status:
  phase: Running
  podIPs: [{ip: 10.79.0.2}, {ip: 'fd79::2'}]
  conditions: [{type: Ready, status: 'True'}]
---
apiVersion: v1
kind: Pod
metadata: {name: client-0, namespace: shop, uid: client-0-uid, labels: {app: client}, annotations: {leno.dev/inject: enabled}}
spec: {serviceAccountName: client, containers: [{name: app}]}
status:
  phase: Running
  podIPs: [{ip: 10.79.0.1}, {ip: 'fd79::1'}]
  conditions: [{type: Ready, status: 'True'}]
";
