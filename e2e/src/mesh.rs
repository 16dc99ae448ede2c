//! A whole mesh as processes: one control plane on a folder of manifests, one sidecar and perhaps one application a pod. It
//! runs on loopback addresses of its own, so that two meshes on a machine do not meet. Dropping it ends every process.

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::ExitStatus;
use std::sync::Mutex;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::bail;

use crate::http::Client;
use crate::manifests;
use crate::manifests::Application;
use crate::manifests::NAMESPACE;
use crate::manifests::Pod;
use crate::process::Process;

pub const TRUST_DOMAIN: &str = "cluster.local";
const SESSION: u16 = 15010;
const ADMIN: u16 = 15014;
/// Nothing speaks here: whoever has bound it has the network.
const CLAIM: u16 = 15009;

/// What a mesh is made of, before it runs.
pub struct Plan {
    pub pods: Vec<Pod>,
    pub leaf_ttl: Duration,
    /// Of the flaky service's answers, how many in a hundred fail.
    pub fail_percent: u32,
    /// Further manifests: file name and text.
    pub manifests: Vec<(&'static str, String)>,
    /// An OTLP endpoint for the sidecars' traces.
    pub otlp: Option<String>,
}

/// Where a mesh differs from the demo's.
#[derive(Debug, Clone)]
pub struct Settings {
    pub trust_domain: &'static str,
    /// What every sidecar's environment holds beside what the injector would write; later names win.
    pub sidecars: Vec<(&'static str, String)>,
    /// A program with its arguments that runs the sidecars, such as a profiler.
    pub wrapper: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { trust_domain: TRUST_DOMAIN, sidecars: Vec::new(), wrapper: Vec::new() }
    }
}

pub struct Mesh {
    /// Everything that the mesh writes; removed when it ends.
    pub folder: PathBuf,
    pub network: Ipv4Addr,
    pub plan: Plan,
    settings: Settings,
    programs: PathBuf,
    control_plane: Option<Process>,
    sidecars: Vec<Option<Process>>,
    applications: Vec<Option<Process>>,
}

/// A loopback network (its last byte free) on which nothing of ours listens yet, and which nobody else is given while this
/// process lives.
pub fn free_network() -> anyhow::Result<Ipv4Addr> {
    static CLAIMED: Mutex<Vec<TcpListener>> = Mutex::new(Vec::new());
    for _ in 0..64 {
        let network = Ipv4Addr::new(127, rand::random_range(10..250), rand::random_range(1..250), 0);
        let [a, b, c, _] = network.octets();
        let bind = |port| TcpListener::bind((Ipv4Addr::new(a, b, c, 1), port));
        if let (Ok(claim), Ok(_)) = (bind(CLAIM), bind(SESSION)) {
            CLAIMED.lock().expect("no holder of this lock panics").push(claim);
            return Ok(network);
        }
    }
    bail!("no free loopback network found: are 127.0.0.0/8 addresses usable here?")
}

impl Mesh {
    /// Writes the manifests and starts the control plane, every application and every sidecar, in that order. `say` hears
    /// of each step.
    pub async fn start(network: Ipv4Addr, plan: Plan, say: &dyn Fn(&str)) -> anyhow::Result<Self> {
        Self::start_with(network, plan, Settings::default(), say).await
    }

    pub async fn start_with(
        network: Ipv4Addr,
        plan: Plan,
        settings: Settings,
        say: &dyn Fn(&str),
    ) -> anyhow::Result<Self> {
        let [_, b, c, _] = network.octets();
        let folder = std::env::temp_dir().join(format!("leno-{}-{b}-{c}", std::process::id()));
        // A process of the same number that was killed may have left one.
        let _ = std::fs::remove_dir_all(&folder);
        for part in ["logs", "state", "tokens", "trust", "volumes"] {
            std::fs::create_dir_all(folder.join(part))?;
        }
        let programs = std::env::current_exe()?.parent().map(programs_folder).context("this program has no folder")?;
        manifests::write(&folder.join("manifests"), settings.trust_domain, &plan.pods)?;
        for (name, text) in &plan.manifests {
            std::fs::write(folder.join("manifests").join(name), text)?;
        }
        let count = plan.pods.len();
        let none = || (0..count).map(|_| None).collect();
        let (sidecars, applications) = (none(), none());
        let mut mesh = Self { folder, network, plan, settings, programs, control_plane: None, sidecars, applications };
        say("control plane");
        mesh.start_control_plane()?;
        mesh.until_ready(mesh.admin(), "control plane").await?;
        for number in 0..count {
            let pod = mesh.plan.pods[number].clone();
            mesh.mint_token(&pod)?;
            mesh.start_sidecar(number)?;
            if pod.application == Application::Storefront {
                mesh.start_application(number)?;
            }
        }
        for number in 0..count {
            let pod = mesh.plan.pods[number].clone();
            say(&format!("sidecar {} of {count}: {}", number + 1, pod.name));
            mesh.until_ready(pod.status(), &pod.name).await?;
        }
        Ok(mesh)
    }

    fn address(&self, last: u8, port: u16) -> SocketAddr {
        let [a, b, c, _] = self.network.octets();
        (IpAddr::V4(Ipv4Addr::new(a, b, c, last)), port).into()
    }

    pub fn session(&self) -> SocketAddr {
        self.address(1, SESSION)
    }

    pub fn admin(&self) -> SocketAddr {
        self.address(1, ADMIN)
    }

    pub fn manifests(&self) -> PathBuf {
        self.folder.join("manifests")
    }

    pub fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// What the sidecars mount: the anchors survive the control plane's own folder, as a ConfigMap would.
    pub fn anchor(&self) -> PathBuf {
        self.folder.join("trust/anchor.pem")
    }

    pub fn volume(&self, pod: &Pod) -> PathBuf {
        self.folder.join("volumes").join(&pod.name)
    }

    pub fn logs(&self) -> PathBuf {
        self.folder.join("logs")
    }

    pub fn pod(&self, name: &str) -> anyhow::Result<(usize, &Pod)> {
        self.plan.pods.iter().enumerate().find(|(_, p)| p.name == name).with_context(|| format!("no pod {name}"))
    }

    pub fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    pub fn start_control_plane(&mut self) -> anyhow::Result<()> {
        let mut command = Command::new(self.program("leno-control-plane"));
        command
            .arg("--source")
            .arg(format!("dir:{}", self.manifests().display()))
            .arg("--state")
            .arg(self.state())
            .arg("--publish-anchor")
            .arg(self.anchor())
            .args(["--trust-domain", self.settings.trust_domain])
            .args(["--listen", &self.session().to_string(), "--admin", &self.admin().to_string()])
            .args(["--leaf-ttl", &format!("{}s", self.plan.leaf_ttl.as_secs())]);
        self.control_plane = Some(Process::start("control-plane", &mut command, &self.logs())?);
        Ok(())
    }

    pub fn control_plane_pid(&self) -> Option<u32> {
        self.control_plane.as_ref().map(Process::pid)
    }

    /// SIGKILL.
    pub fn kill_control_plane(&mut self) {
        self.control_plane = None;
    }

    pub fn control_plane(&mut self) -> Option<&mut Process> {
        self.control_plane.as_mut()
    }

    fn mint_token(&self, pod: &Pod) -> anyhow::Result<()> {
        let output = Command::new(self.program("leno"))
            .args(["dev", "token", "--state"])
            .arg(self.state())
            .args([
                "--namespace",
                NAMESPACE,
                "--service-account",
                &pod.service,
                "--pod",
                &pod.name,
                "--pod-uid",
                &pod.uid(),
            ])
            .arg("-o")
            .arg(self.token(pod))
            .output()
            .context("run leno dev token")?;
        anyhow::ensure!(output.status.success(), "leno dev token: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    pub fn token(&self, pod: &Pod) -> PathBuf {
        self.folder.join("tokens").join(&pod.name)
    }

    pub fn start_sidecar(&mut self, number: usize) -> anyhow::Result<()> {
        self.start_sidecar_with(number, &[])
    }

    /// As `start_sidecar`, with some of its environment replaced.
    pub fn start_sidecar_with(&mut self, number: usize, changed: &[(&str, String)]) -> anyhow::Result<()> {
        let pod = &self.plan.pods[number];
        std::fs::create_dir_all(self.volume(pod))?;
        let program = self.program("leno-proxy");
        let mut command = match &self.settings.wrapper[..] {
            [] => Command::new(program),
            [wrapper, arguments @ ..] => {
                let mut command = Command::new(wrapper);
                command.args(arguments).arg(program);
                command
            }
        };
        command.arg("run").envs(self.sidecar_environment(pod));
        command.envs(changed.iter().map(|(name, value)| (name, value)));
        self.sidecars[number] = Some(Process::start(&format!("{}-sidecar", pod.name), &mut command, &self.logs())?);
        Ok(())
    }

    pub fn sidecar(&mut self, number: usize) -> Option<&mut Process> {
        self.sidecars[number].as_mut()
    }

    pub fn application(&mut self, number: usize) -> Option<&mut Process> {
        self.applications[number].as_mut()
    }

    /// What the injector would write into the sidecar's container.
    fn sidecar_environment(&self, pod: &Pod) -> Vec<(&'static str, String)> {
        let listeners: Vec<String> =
            pod.calls.iter().filter_map(|s| Some(format!("{}={s}.{NAMESPACE}:80", pod.listener(s)?))).collect();
        let mut environment = vec![
            ("LENO_CONTROL_PLANE", self.session().to_string()),
            ("LENO_TRUST_DOMAIN", self.settings.trust_domain.to_owned()),
            ("LENO_TRUST_ANCHOR", self.anchor().display().to_string()),
            ("LENO_TOKEN", self.token(pod).display().to_string()),
            ("LENO_POD_NAME", pod.name.clone()),
            ("LENO_POD_NAMESPACE", NAMESPACE.to_owned()),
            ("LENO_POD_UID", pod.uid()),
            ("LENO_SERVICE_ACCOUNT", pod.service.clone()),
            ("LENO_VOLUME", self.volume(pod).display().to_string()),
            ("LENO_STATUS", pod.status().to_string()),
            ("LENO_OUTBOUND_LISTEN", listeners.join(",")),
            ("LENO_WORKERS", "1".to_owned()),
            ("LENO_GRACE", manifests::GRACE.to_string()),
        ];
        if pod.serves() {
            let inbound = format!("{}:{}={}:{}", pod.address, manifests::INBOUND, pod.address, manifests::APP);
            environment.push(("LENO_INBOUND_LISTEN", inbound));
        }
        if let Some(otlp) = &self.plan.otlp {
            environment.push(("OTEL_EXPORTER_OTLP_ENDPOINT", otlp.clone()));
        }
        environment.extend(self.settings.sidecars.iter().cloned());
        environment
    }

    /// SIGTERM: it drains.
    pub fn terminate_sidecar(&self, number: usize) -> anyhow::Result<()> {
        self.sidecars[number].as_ref().context("this sidecar does not run")?.terminate()
    }

    /// How it ended, once it has.
    pub fn sidecar_ended(&mut self, number: usize) -> Option<ExitStatus> {
        self.sidecars[number].as_mut()?.ended()
    }

    /// Name and process id of everything that is Leno's.
    pub fn planes(&self) -> Vec<(String, u32)> {
        let planes = self.control_plane.iter().chain(self.sidecars.iter().flatten());
        planes.map(|process| (process.name.clone(), process.pid())).collect()
    }

    pub fn sidecar_pid(&self, number: usize) -> Option<u32> {
        self.sidecars.get(number)?.as_ref().map(Process::pid)
    }

    /// SIGKILL.
    pub fn kill_sidecar(&mut self, number: usize) {
        self.sidecars[number] = None;
    }

    pub fn start_application(&mut self, number: usize) -> anyhow::Result<()> {
        let pod = &self.plan.pods[number];
        let mut command = Command::new(self.program("storefront"));
        command.args(["--role", &pod.service, "--listen", &format!("{}:{}", pod.address, manifests::APP)]);
        command.args(["--fail-percent", &self.plan.fail_percent.to_string()]);
        if let Some(version) = &pod.version {
            command.args(["--version", version]);
        }
        for service in &pod.calls {
            if let Some(address) = pod.listener(service) {
                command.args([format!("--{service}"), address.to_string()]);
            }
        }
        self.applications[number] = Some(Process::start(&pod.name, &mut command, &self.logs())?);
        Ok(())
    }

    /// SIGKILL.
    pub fn kill_application(&mut self, number: usize) {
        self.applications[number] = None;
    }

    /// Waits until `/ready` answers 200, and says what it answered last where it does not.
    pub async fn until_ready(&self, address: SocketAddr, who: &str) -> anyhow::Result<()> {
        let start = Instant::now();
        let mut last = String::new();
        // A busy machine and a profiler take their time.
        let most = Duration::from_secs(300);
        while start.elapsed() < most {
            match Client::new(address).get("status", "/ready").await {
                Ok(answer) if answer.status() == 200 => return Ok(()),
                Ok(answer) => last = String::from_utf8_lossy(answer.body()).into_owned(),
                Err(error) => last = format!("{error:#}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bail!("{who} is not ready after {most:?}: {last}\n{}", self.tails())
    }

    pub fn logs_contain(&self, text: &str) -> bool {
        let logs = std::fs::read_dir(self.logs()).into_iter().flatten().flatten();
        logs.filter_map(|log| std::fs::read_to_string(log.path()).ok()).any(|log| log.contains(text))
    }

    /// The end of every log, for an error message.
    pub fn tails(&self) -> String {
        let all =
            self.control_plane.iter().chain(self.sidecars.iter().flatten()).chain(self.applications.iter().flatten());
        all.map(|p| format!("--- {}\n{}\n", p.name, p.tail())).collect()
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        self.sidecars.clear();
        self.applications.clear();
        self.control_plane = None;
        if std::env::var_os("LENO_DEMO_KEEP").is_none() {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}

/// Where the programs are: beside this one, or beside the folder that cargo puts tests into.
fn programs_folder(own: &Path) -> PathBuf {
    let up = own.parent().filter(|_| own.ends_with("deps"));
    up.unwrap_or(own).to_path_buf()
}
