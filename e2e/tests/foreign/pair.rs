//! Two pods, `caller` and `server`, and the mesh between them. It must leave no process behind.

use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;
use std::time::Duration;
use std::time::Instant;

use leno_e2e::manifests::Application;
use leno_e2e::manifests::Pod;
use leno_e2e::mesh;
use leno_e2e::mesh::Mesh;
use leno_e2e::mesh::Plan;
use leno_e2e::process::Process;
use leno_e2e::scrape::Scrape;
use leno_e2e::scrape::scrape;

pub(crate) struct Pair {
    /// Ends before the mesh whose folder it uses.
    server: Server,
    pub(crate) mesh: Mesh,
    /// Where the caller's application would call the server.
    pub(crate) listener: SocketAddr,
}

/// Where the server is to listen, and a folder of its own.
pub(crate) struct Place {
    pub(crate) address: SocketAddr,
    pub(crate) folder: PathBuf,
}

struct Server(Process);

impl Drop for Server {
    /// Some servers are several processes: the whole group ends.
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-KILL", "--", &format!("-{}", self.0.pid())]).output();
    }
}

impl Pair {
    /// Starts the mesh, and the command that `server` makes, which finds the address to listen on also in `HOST` and `PORT`.
    /// `protocol` is what the Service declares.
    pub(crate) async fn start(protocol: Option<&'static str>, server: impl FnOnce(&Place) -> Command) -> Self {
        let network = mesh::free_network().unwrap();
        let [a, b, c, _] = network.octets();
        let pod = |name: &str, last: u8, calls: &[&str], application: Application| Pod {
            name: format!("{name}-0"),
            service: name.to_owned(),
            version: None,
            address: std::net::Ipv4Addr::new(a, b, c, last),
            calls: calls.iter().map(|s| (*s).to_owned()).collect(),
            application,
            protocol,
        };
        let pods =
            vec![pod("server", 11, &[], Application::Foreign), pod("caller", 12, &["server"], Application::None)];
        let (address, listener) = (pods[0].app(), pods[1].listener("server").unwrap());
        let plan = Plan { pods, leaf_ttl: Duration::from_secs(3600), fail_percent: 0, manifests: vec![], otlp: None };
        let mesh = Mesh::start(network, plan, &|_| ()).await.unwrap();
        let place = Place { address, folder: mesh.folder.join("server") };
        std::fs::create_dir_all(&place.folder).unwrap();
        let mut command = server(&place);
        command.env("HOST", address.ip().to_string()).env("PORT", address.port().to_string()).process_group(0);
        let process = Process::start("server", &mut command, &mesh.folder.join("logs")).unwrap();
        let mut server = Server(process);
        let start = Instant::now();
        while tokio::net::TcpStream::connect(address).await.is_err() {
            let waits = server.0.is_running() && start.elapsed() < Duration::from_secs(180);
            assert!(waits, "the server does not listen: {}", server.0.tail());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Self { server, mesh, listener }
    }

    /// Runs curl against the listener and returns what it wrote; fails with every log where curl fails.
    pub(crate) fn curl(&self, arguments: &[&str], path: &str) -> String {
        let url = format!("http://{}{path}", self.listener);
        String::from_utf8_lossy(&self.run("curl", &[&["-sS", "--max-time", "300"], arguments, &[&url]].concat()).stdout)
            .into_owned()
    }

    /// Runs a client to its end; fails with every log where it fails.
    pub(crate) fn run(&self, program: &str, arguments: &[&str]) -> Output {
        self.finish(Command::new(program).args(arguments))
    }

    /// The same for a command made before. It finds the listener's address in `HOST` and `PORT`.
    pub(crate) fn finish(&self, command: &mut Command) -> Output {
        command.env("HOST", self.listener.ip().to_string()).env("PORT", self.listener.port().to_string());
        let output = command.output().unwrap_or_else(|error| panic!("{:?}: {error}", command.get_program()));
        let said = || [&output.stdout[..], &output.stderr].map(|s| String::from_utf8_lossy(s).into_owned()).join("\n");
        assert!(output.status.success(), "{command:?}: {}\n{}\n{}", output.status, said(), self.tails());
        output
    }

    /// The end of every log.
    pub(crate) fn tails(&self) -> String {
        format!("{}--- server\n{}", self.mesh.tails(), self.server.0.tail())
    }

    /// The metrics of the caller's and the server's sidecar.
    pub(crate) async fn scrape(&self) -> [Scrape; 2] {
        let [server, caller] = [0, 1].map(|pod| self.mesh.plan.pods[pod].status());
        [scrape(caller).await.unwrap(), scrape(server).await.unwrap()]
    }

    /// The most memory that each sidecar ever held, in MiB: the caller's and the server's.
    pub(crate) fn peak_memory(&self) -> [u64; 2] {
        let planes = self.mesh.planes();
        ["caller-0-sidecar", "server-0-sidecar"].map(|name| {
            let (_, pid) = planes.iter().find(|(running, _)| running == name).unwrap();
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
            let kib: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
            kib / 1024
        })
    }
}

/// The folder of the scripts.
pub(crate) const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/foreign");

/// A script of ours, run by `program`.
pub(crate) fn script(program: &str, name: &str) -> Command {
    let mut command = Command::new(program);
    // Where Debian keeps the packages of Node.
    command.arg(format!("{SCRIPTS}/{name}")).env("NODE_PATH", "/usr/share/nodejs").env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

/// The Python that has the packages which `cargo xtask test` installs.
pub(crate) fn python() -> String {
    let own = std::env::current_exe().unwrap();
    let target = own.ancestors().nth(3).map(Path::to_path_buf).unwrap();
    let python = target.join("foreign/bin/python3");
    assert!(python.exists(), "{} is missing: `cargo xtask test` makes it", python.display());
    python.display().to_string()
}
