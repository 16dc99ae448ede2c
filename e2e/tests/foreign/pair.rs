//! Two pods, `caller` and `server`, and the mesh between them.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;
use std::time::Instant;

use leno_e2e::manifests::Application;
use leno_e2e::manifests::Pod;
use leno_e2e::mesh;
use leno_e2e::mesh::Mesh;
use leno_e2e::mesh::Plan;
use leno_e2e::process::Process;

pub(crate) struct Pair {
    pub(crate) mesh: Mesh,
    /// Where the caller's application would call the server.
    pub(crate) listener: SocketAddr,
    /// Ends with the pair.
    _server: Process,
}

impl Pair {
    /// Starts the mesh; the server's application is `server`'s command, given the address to listen on as `HOST` and `PORT`.
    pub(crate) async fn start(protocol: Option<&'static str>, mut server: Command) -> Self {
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
        let (app, listener) = (pods[0].app(), pods[1].listener("server").unwrap());
        server.env("HOST", app.ip().to_string()).env("PORT", app.port().to_string());
        let plan = Plan { pods, leaf_ttl: Duration::from_secs(3600), fail_percent: 0, manifests: vec![], otlp: None };
        let mesh = Mesh::start(network, plan, &|_| ()).await.unwrap();
        let process = Process::start("server", &mut server, &mesh.folder.join("logs")).unwrap();
        let start = Instant::now();
        while tokio::net::TcpStream::connect(app).await.is_err() {
            assert!(start.elapsed() < Duration::from_secs(20), "the server does not listen: {}", process.tail());
            tokio::task::yield_now().await;
        }
        Self { mesh, listener, _server: process }
    }

    /// Runs curl against the listener and returns what it wrote; fails with every log where curl fails.
    pub(crate) fn curl(&self, arguments: &[&str], path: &str) -> String {
        let url = format!("http://{}{path}", self.listener);
        let output = Command::new("curl").args(["-sS", "--max-time", "60"]).args(arguments).arg(&url).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "curl {arguments:?} {url}: {said}\n{}", self.mesh.tails());
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

/// A script in `tests/foreign`, run by `program`.
pub(crate) fn script(program: &str, name: &str) -> Command {
    let mut command = Command::new(program);
    command.arg(format!("{}/tests/foreign/{name}", env!("CARGO_MANIFEST_DIR")));
    command
}
