//! What the sidecar is told when it starts: one table of variables from which flags, environment, `--help` and the
//! reference all come. It must never guess where a value is wrong: it names the field, the value and the remedy.

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::fmt;
use std::fmt::Write as _;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use clap::Arg;
use clap::ArgAction;
use clap::ArgMatches;
use clap::Command;
use ipnet::IpNet;
use leno_proto::identity::SpiffeId;
use leno_proto::identity::TrustDomain;
use leno_proto::policy::ServiceName;
use leno_proto::policy::ServicePort;

use crate::access_log::Mode;
use crate::probe::Probes;
use crate::redirect::Rules;
use crate::trace::Rules as TraceRules;
use crate::trace::export::Environment;

/// What the command line asks for.
#[derive(Debug)]
pub enum Invocation {
    Run(Box<Config>),
    Init { rules: Rules, action: InitAction },
    Show { socket: PathBuf, what: String },
    Drain { socket: PathBuf },
    LogLevel { socket: PathBuf, filter: String },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InitAction {
    Apply,
    Print,
    Undo,
}

/// Everything that `leno-proxy run` is told.
#[derive(Debug, Clone)]
pub struct Config {
    /// `host:port` of control-plane replicas; a name may stand for several, and is resolved at every connect.
    pub control_plane: Vec<String>,
    pub control_plane_identity: SpiffeId,
    pub trust_domain: TrustDomain,
    /// PEM, read anew at every connect.
    pub trust_anchor: PathBuf,
    /// The projected service-account token, read anew at every connect.
    pub token: PathBuf,
    pub pod_name: String,
    pub pod_namespace: String,
    pub pod_uid: String,
    pub service_account: String,
    /// Memory-backed, this sidecar's alone.
    pub volume: PathBuf,
    /// `None`: by the CPU quota.
    pub workers: Option<usize>,
    /// Where redirected connections arrive.
    pub outbound_capture: Vec<SocketAddr>,
    pub inbound_capture: Vec<SocketAddr>,
    /// Explicit listeners, where nothing redirects.
    pub outbound_listen: Vec<OutboundListen>,
    pub inbound_listen: Vec<InboundListen>,
    pub status: SocketAddr,
    /// The application's, performed for the kubelet.
    pub probes: Arc<Probes>,
    pub admin_socket: PathBuf,
    pub grace: Duration,
    /// A filter as `tracing` knows them: `info`, `leno_proxy=debug`.
    pub log: String,
    pub access_log: Mode,
    pub otel: Environment,
}

/// A listener of one service: what connects to `listen` means `service`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboundListen {
    pub listen: SocketAddr,
    pub service: ServicePort,
}

/// A listener of the application's one port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboundListen {
    pub listen: SocketAddr,
    pub application: SocketAddr,
}

/// One setting: an environment variable, a flag of the same meaning, and what it is for.
#[derive(Debug)]
pub struct Var {
    pub name: &'static str,
    pub flag: &'static str,
    /// How its value is written.
    pub value: &'static str,
    pub default: Default,
    pub help: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Default {
    Required,
    /// Absent means what `help` says.
    Empty,
    Is(&'static str),
}

/// The settings of `leno-proxy run`.
pub const RUN: &[Var] = &[
    Var {
        name: "LENO_CONTROL_PLANE",
        flag: "control-plane",
        value: "HOST:PORT,...",
        default: Default::Required,
        help: "Addresses of control-plane replicas; a name may stand for several",
    },
    Var {
        name: "LENO_CONTROL_PLANE_IDENTITY",
        flag: "control-plane-identity",
        value: "SPIFFE-ID",
        default: Default::Empty,
        help: "Whom the control plane must prove to be; by default spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/leno-control-plane",
    },
    Var {
        name: "LENO_CONTROL_PLANE_NAMESPACE",
        flag: "control-plane-namespace",
        value: "NAMESPACE",
        default: Default::Is("leno-system"),
        help: "Namespace of the control plane, for its identity",
    },
    Var {
        name: "LENO_TRUST_DOMAIN",
        flag: "trust-domain",
        value: "DOMAIN",
        default: Default::Is("cluster.local"),
        help: "The mesh's trust domain",
    },
    Var {
        name: "LENO_TRUST_ANCHOR",
        flag: "trust-anchor",
        value: "FILE",
        default: Default::Is("/var/run/leno/trust/anchor.pem"),
        help: "Trust anchors (PEM) by which the control plane proves itself; read anew at every connect",
    },
    Var {
        name: "LENO_TOKEN",
        flag: "token",
        value: "FILE",
        default: Default::Is("/var/run/leno/trust/token"),
        help: "The pod's service-account token with audience leno; read anew at every connect",
    },
    Var { name: "LENO_POD_NAME", flag: "pod-name", value: "NAME", default: Default::Required, help: "Name of the pod" },
    Var {
        name: "LENO_POD_NAMESPACE",
        flag: "pod-namespace",
        value: "NAMESPACE",
        default: Default::Required,
        help: "Namespace of the pod",
    },
    Var { name: "LENO_POD_UID", flag: "pod-uid", value: "UID", default: Default::Required, help: "Uid of the pod" },
    Var {
        name: "LENO_SERVICE_ACCOUNT",
        flag: "service-account",
        value: "NAME",
        default: Default::Is("default"),
        help: "Service account of the pod",
    },
    Var {
        name: "LENO_VOLUME",
        flag: "volume",
        value: "FOLDER",
        default: Default::Empty,
        help: "Memory-backed folder of this sidecar alone, for its key and its last known good configuration; by default /dev/shm/leno-UID-POD",
    },
    Var {
        name: "LENO_WORKERS",
        flag: "workers",
        value: "COUNT",
        default: Default::Empty,
        help: "Worker threads, 1 to 64; by default one per whole CPU of the quota, at most 4, and 1 without a quota",
    },
    Var {
        name: "LENO_OUTBOUND_CAPTURE",
        flag: "outbound-capture",
        value: "ADDRESS:PORT,...",
        default: Default::Empty,
        help: "Where redirected outgoing connections arrive; loopback addresses only",
    },
    Var {
        name: "LENO_INBOUND_CAPTURE",
        flag: "inbound-capture",
        value: "ADDRESS:PORT,...",
        default: Default::Empty,
        help: "Where redirected incoming connections arrive",
    },
    Var {
        name: "LENO_OUTBOUND_LISTEN",
        flag: "listen-outbound",
        value: "ADDRESS:PORT=SERVICE.NAMESPACE:PORT,...",
        default: Default::Empty,
        help: "Listeners for one service each, where nothing redirects",
    },
    Var {
        name: "LENO_INBOUND_LISTEN",
        flag: "listen-inbound",
        value: "ADDRESS:PORT=APPLICATION:PORT,...",
        default: Default::Empty,
        help: "Listeners for one port of the application each, where nothing redirects",
    },
    Var {
        name: "LENO_STATUS",
        flag: "status",
        value: "ADDRESS:PORT",
        default: Default::Is("[::]:15021"),
        help: "Where /ready, /live, /metrics and the application's probes answer; [::] is both families, or IPv4 where the host has no other",
    },
    Var {
        name: "LENO_PROBES",
        flag: "probes",
        value: "JSON",
        default: Default::Empty,
        help: "The application's probes, performed at /probe/CONTAINER/KIND of the status port: an object of CONTAINER/KIND and the probe as Kubernetes writes it, with the port as a number",
    },
    Var {
        name: "LENO_ADMIN_SOCKET",
        flag: "admin-socket",
        value: "FILE",
        default: Default::Empty,
        help: "Unix socket of `show` and `drain`; by default admin.sock in the volume",
    },
    Var {
        name: "LENO_GRACE",
        flag: "grace",
        value: "SECONDS",
        default: Default::Is("30"),
        help: "The pod's termination grace period, from which the times of the drain follow; 1 to 86400",
    },
    Var {
        name: "LENO_LOG",
        flag: "log",
        value: "FILTER",
        default: Default::Is("info"),
        help: "What the proxy logs about itself: error, warn, info, debug, trace, or a list such as info,leno_proxy::tls=debug",
    },
    Var {
        name: "LENO_ACCESS_LOG",
        flag: "access-log",
        value: "off|errors|all|N%",
        default: Default::Is("errors"),
        help: "Which requests and connections get a line: none, those that failed, all, or failures and N percent of the rest",
    },
];

/// The settings of `leno-proxy init`.
pub const INIT: &[Var] = &[
    Var {
        name: "LENO_INBOUND_PORT",
        flag: "inbound-port",
        value: "PORT",
        default: Default::Is("15006"),
        help: "Where the sidecar takes what arrives",
    },
    Var {
        name: "LENO_OUTBOUND_PORT",
        flag: "outbound-port",
        value: "PORT",
        default: Default::Is("15001"),
        help: "Where the sidecar takes what leaves",
    },
    Var {
        name: "LENO_PROXY_UID",
        flag: "proxy-uid",
        value: "UID",
        default: Default::Is("15000"),
        help: "The sidecar's user, whose own connections are not captured again",
    },
    Var {
        name: "LENO_SKIP_INBOUND_PORTS",
        flag: "skip-inbound-ports",
        value: "PORT,...",
        default: Default::Is("15021"),
        help: "Ports that are never captured on arrival",
    },
    Var {
        name: "LENO_SKIP_OUTBOUND_PORTS",
        flag: "skip-outbound-ports",
        value: "PORT,...",
        default: Default::Empty,
        help: "Ports that are never captured when leaving",
    },
    Var {
        name: "LENO_SKIP_INBOUND_SUBNETS",
        flag: "skip-inbound-subnets",
        value: "CIDR,...",
        default: Default::Empty,
        help: "Addresses from which nothing is captured",
    },
    Var {
        name: "LENO_SKIP_OUTBOUND_SUBNETS",
        flag: "skip-outbound-subnets",
        value: "CIDR,...",
        default: Default::Empty,
        help: "Addresses to which nothing is captured",
    },
];

/// A setting that is wrong: which, what it holds, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    var: &'static str,
    flag: &'static str,
    value: String,
    remedy: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { var, flag, value, remedy } = self;
        write!(f, "{var} (--{flag}) is {value:?}: {remedy}")
    }
}

impl std::error::Error for ConfigError {}

/// Reads the command line and the environment.
///
/// # Errors
/// What clap says (`--help` among it), or a setting that is wrong.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> anyhow::Result<Invocation> {
    let matches = command().try_get_matches_from(arguments)?;
    Ok(match matches.subcommand() {
        Some(("run", matches)) => Invocation::Run(Box::new(Config::read(&Settings { vars: RUN, matches })?)),
        Some(("init", matches)) => {
            let action = match (matches.get_flag("print"), matches.get_flag("undo")) {
                (true, _) => InitAction::Print,
                (false, true) => InitAction::Undo,
                (false, false) => InitAction::Apply,
            };
            let rules = rules(&Settings { vars: INIT, matches })?;
            if action != InitAction::Undo {
                rules.check()?;
            }
            Invocation::Init { rules, action }
        }
        Some(("show", matches)) => {
            let what = matches.get_one::<String>("what").cloned().unwrap_or_default();
            Invocation::Show { socket: socket(&Settings { vars: RUN, matches }), what }
        }
        Some(("drain", matches)) => Invocation::Drain { socket: socket(&Settings { vars: RUN, matches }) },
        Some(("log-level", matches)) => {
            let filter = matches.get_one::<String>("filter").cloned().unwrap_or_default();
            Invocation::LogLevel { socket: socket(&Settings { vars: RUN, matches }), filter }
        }
        Some(_) | None => unreachable!("clap demands one of these subcommands"),
    })
}

/// The command line, built from the tables.
pub fn command() -> Command {
    let pick = |names: &[&str]| RUN.iter().filter(|var| names.contains(&var.name)).map(arg).collect::<Vec<_>>();
    let place = || {
        pick(&["LENO_VOLUME", "LENO_ADMIN_SOCKET"]).into_iter().chain(
            // Only for the default of the volume.
            pick(&["LENO_POD_NAME"]).into_iter().map(|arg| arg.required(false)),
        )
    };
    let switch =
        |name: &'static str, help: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue).help(help);
    Command::new("leno-proxy")
        .version(VERSION)
        .about("Leno's sidecar: every connection of one pod, secured, pooled, timed, retried, broken, drained and explained")
        .args_override_self(true)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(Command::new("run").about("Carries the pod's traffic").args(RUN.iter().map(arg)))
        .subcommand(
            Command::new("init")
                .about("Writes the rules that bring the pod's traffic to the sidecar (needs NET_ADMIN and nft)")
                .args(INIT.iter().map(arg))
                .arg(switch("print", "Prints the rules and changes nothing"))
                .arg(switch("undo", "Removes the rules").conflicts_with("print")),
        )
        .subcommand(
            Command::new("show")
                .about("Prints what a running sidecar knows, as JSON")
                .args(place())
                .arg(Arg::new("what").default_value("config").help("A dump's name, such as config")),
        )
        .subcommand(
            Command::new("log-level")
                .about("Changes what a running sidecar logs about itself, until it restarts")
                .args(place())
                .arg(Arg::new("filter").required(true).help("Such as info, or info,leno_proxy=debug")),
        )
        .subcommand(Command::new("drain").about("Begins a running sidecar's end: it serves what it has and then stops").args(place()))
}

/// The build, as the control plane sees it.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

fn arg(var: &'static Var) -> Arg {
    let arg = Arg::new(var.name).long(var.flag).env(var.name).value_name(var.value).help(var.help);
    match var.default {
        Default::Required => arg.required(true),
        Default::Empty => arg,
        Default::Is(default) => arg.default_value(default),
    }
}

/// The reference of all settings, as a page of Markdown.
pub fn reference() -> String {
    let mut page = String::new();
    for (title, vars) in [("leno-proxy run", RUN), ("leno-proxy init", INIT)] {
        let _ =
            writeln!(page, "### `{title}`\n\n| variable | flag | value | default | meaning |\n|---|---|---|---|---|");
        for Var { name, flag, value, default, help } in vars {
            let default = match default {
                Default::Required => "required".into(),
                Default::Empty => String::new(),
                Default::Is(text) => format!("`{text}`"),
            };
            let _ = writeln!(page, "| `{name}` | `--{flag}` | `{}` | {default} | {help} |", value.replace('|', "\\|"));
        }
        page.push('\n');
    }
    page
}

/// The values of one subcommand, by the table's names.
struct Settings<'a> {
    vars: &'static [Var],
    matches: &'a ArgMatches,
}

impl Settings<'_> {
    /// Empty where it is not set.
    fn text(&self, name: &'static str) -> &str {
        debug_assert!(self.vars.iter().any(|var| var.name == name), "{name} is not in the table");
        self.matches.get_one::<String>(name).map_or("", String::as_str).trim()
    }

    fn wrong(&self, name: &'static str, value: &str, remedy: impl fmt::Display) -> ConfigError {
        let flag = self.vars.iter().find(|var| var.name == name).map_or("", |var| var.flag);
        ConfigError { var: name, flag, value: value.chars().take(200).collect(), remedy: remedy.to_string() }
    }

    fn one<T: FromStr>(&self, name: &'static str, remedy: &str) -> Result<T, ConfigError> {
        let text = self.text(name);
        text.parse().map_err(|_| self.wrong(name, text, remedy))
    }

    fn some(&self, name: &'static str) -> Result<String, ConfigError> {
        match self.text(name) {
            "" => Err(self.wrong(name, "", "give it a value")),
            text => Ok(text.to_owned()),
        }
    }

    /// The elements of a list, each read by `read`.
    fn list<T>(
        &self,
        name: &'static str,
        remedy: &str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<Vec<T>, ConfigError> {
        let parts = self.text(name).split(',').map(str::trim).filter(|part| !part.is_empty());
        parts.map(|part| read(part).ok_or_else(|| self.wrong(name, part, remedy))).collect()
    }

    fn bounded(&self, name: &'static str, min: u64, max: u64) -> Result<u64, ConfigError> {
        let text = self.text(name);
        text.parse()
            .ok()
            .filter(|number| (min..=max).contains(number))
            .ok_or_else(|| self.wrong(name, text, format_args!("give a whole number from {min} to {max}")))
    }
}

impl Config {
    fn read(settings: &Settings<'_>) -> Result<Self, ConfigError> {
        let trust_domain: TrustDomain =
            settings.one("LENO_TRUST_DOMAIN", "lower-case letters, digits, '.', '-' and '_', such as cluster.local")?;
        let config = Self {
            control_plane: control_plane(settings)?,
            control_plane_identity: control_plane_identity(settings, &trust_domain)?,
            trust_domain,
            trust_anchor: settings.some("LENO_TRUST_ANCHOR")?.into(),
            token: settings.some("LENO_TOKEN")?.into(),
            pod_name: settings.some("LENO_POD_NAME")?,
            pod_namespace: settings.some("LENO_POD_NAMESPACE")?,
            pod_uid: settings.some("LENO_POD_UID")?,
            service_account: settings.some("LENO_SERVICE_ACCOUNT")?,
            volume: volume(settings),
            workers: match settings.text("LENO_WORKERS") {
                "" => None,
                _ => Some(settings.bounded("LENO_WORKERS", 1, 64)? as usize),
            },
            outbound_capture: settings.list("LENO_OUTBOUND_CAPTURE", LOOPBACK, |text| {
                text.parse().ok().filter(|address: &SocketAddr| address.ip().is_loopback() && address.port() != 0)
            })?,
            inbound_capture: settings.list("LENO_INBOUND_CAPTURE", ADDRESS, |text| text.parse().ok())?,
            outbound_listen: settings.list("LENO_OUTBOUND_LISTEN", OUTBOUND, outbound_listen)?,
            inbound_listen: settings.list("LENO_INBOUND_LISTEN", INBOUND, inbound_listen)?,
            status: settings.one("LENO_STATUS", ADDRESS)?,
            probes: probes(settings)?,
            admin_socket: socket(settings),
            grace: Duration::from_secs(settings.bounded("LENO_GRACE", 1, 86_400)?),
            log: settings.some("LENO_LOG")?,
            access_log: access_log(settings)?,
            otel: otel(),
        };
        config.check_listeners(settings)?;
        Ok(config)
    }

    /// One address, one meaning.
    fn check_listeners(&self, settings: &Settings<'_>) -> Result<(), ConfigError> {
        let mut seen = vec![("LENO_STATUS", self.status)];
        let captures = self.outbound_capture.iter().map(|address| ("LENO_OUTBOUND_CAPTURE", *address));
        let captures = captures.chain(self.inbound_capture.iter().map(|address| ("LENO_INBOUND_CAPTURE", *address)));
        let explicit = self.outbound_listen.iter().map(|one| ("LENO_OUTBOUND_LISTEN", one.listen));
        let explicit = explicit.chain(self.inbound_listen.iter().map(|one| ("LENO_INBOUND_LISTEN", one.listen)));
        for (name, address) in captures.chain(explicit) {
            // The status port's `[::]` is both families; each of the others has one.
            let widely = self.status.ip() == Ipv6Addr::UNSPECIFIED
                && address.ip().is_unspecified()
                && address.port() == self.status.port();
            let same = |(other, at): &&(&str, SocketAddr)| {
                address.port() != 0 && (*at == address || widely && *other == "LENO_STATUS")
            };
            if let Some((other, _)) = seen.iter().find(same) {
                let remedy = format!("{other} uses the same address; give each listener its own");
                return Err(settings.wrong(name, &address.to_string(), remedy));
            }
            seen.push((name, address));
        }
        for one in &self.inbound_listen {
            if one.listen == one.application {
                let remedy = "the application itself listens there; give the sidecar another port";
                return Err(settings.wrong("LENO_INBOUND_LISTEN", &one.listen.to_string(), remedy));
            }
        }
        Ok(())
    }

    /// Every address that is ours: dialling one of them would be a loop.
    pub fn own_listeners(&self) -> impl Iterator<Item = SocketAddr> {
        let captures = self.outbound_capture.iter().chain(&self.inbound_capture).copied();
        let explicit = self.outbound_listen.iter().map(|one| one.listen);
        captures.chain(explicit).chain(self.inbound_listen.iter().map(|one| one.listen)).chain([self.status])
    }
}

fn control_plane(settings: &Settings<'_>) -> Result<Vec<String>, ConfigError> {
    let name = "LENO_CONTROL_PLANE";
    let remedy = "write host:port, such as leno-control-plane.leno-system.svc:15012 or [::1]:15012";
    let addresses = settings.list(name, remedy, |text| {
        let (host, port) = text.rsplit_once(':')?;
        let bracketed = host.starts_with('[') && host.ends_with(']');
        let sound = !host.is_empty() && (bracketed || !host.contains(':')) && !host.contains('/');
        (sound && port.parse::<u16>().is_ok_and(|port| port != 0)).then(|| text.to_owned())
    })?;
    match addresses.is_empty() {
        true => Err(settings.wrong(name, "", remedy)),
        false => Ok(addresses),
    }
}

fn control_plane_identity(settings: &Settings<'_>, domain: &TrustDomain) -> Result<SpiffeId, ConfigError> {
    match settings.text("LENO_CONTROL_PLANE_IDENTITY") {
        "" => {
            let name = "LENO_CONTROL_PLANE_NAMESPACE";
            let namespace = settings.text(name);
            SpiffeId::workload(domain, namespace, "leno-control-plane")
                .map_err(|error| settings.wrong(name, namespace, error))
        }
        text => text.parse().map_err(|error| settings.wrong("LENO_CONTROL_PLANE_IDENTITY", text, error)),
    }
}

/// `/dev/shm` is memory on every Linux; the user and the pod in its name keep neighbours apart.
fn volume(settings: &Settings<'_>) -> PathBuf {
    match settings.text("LENO_VOLUME") {
        "" => {
            let uid = std::fs::metadata("/proc/self").map_or(0, |own| own.uid());
            let pod: String =
                settings.text("LENO_POD_NAME").chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
            PathBuf::from(format!("/dev/shm/leno-{uid}-{pod}"))
        }
        path => path.into(),
    }
}

fn socket(settings: &Settings<'_>) -> PathBuf {
    match settings.text("LENO_ADMIN_SOCKET") {
        "" => volume(settings).join("admin.sock"),
        path => path.into(),
    }
}

fn probes(settings: &Settings<'_>) -> Result<Arc<Probes>, ConfigError> {
    let name = "LENO_PROBES";
    let text = settings.text(name);
    Probes::parse(text).map(Arc::new).map_err(|why| settings.wrong(name, text, why))
}

fn outbound_listen(text: &str) -> Option<OutboundListen> {
    let (listen, service) = text.split_once('=')?;
    let (host, port) = service.trim().rsplit_once(':')?;
    let (name, namespace) = host.split_once('.')?;
    // Kubernetes' longer spellings of the same name.
    let namespace =
        namespace.strip_suffix(".svc.cluster.local").or(namespace.strip_suffix(".svc")).unwrap_or(namespace);
    let plain = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    if !plain(name) || !plain(namespace) {
        return None;
    }
    let port = port.parse().ok().filter(|port| *port != 0)?;
    let service = ServiceName { namespace: namespace.into(), name: name.into() };
    Some(OutboundListen { listen: listen.trim().parse().ok()?, service: ServicePort { service, port } })
}

fn inbound_listen(text: &str) -> Option<InboundListen> {
    let (listen, application) = text.split_once('=')?;
    let application: SocketAddr = application.trim().parse().ok()?;
    (application.port() != 0).then_some(())?;
    Some(InboundListen { listen: listen.trim().parse().ok()?, application })
}

fn access_log(settings: &Settings<'_>) -> Result<Mode, ConfigError> {
    let name = "LENO_ACCESS_LOG";
    let text = settings.text(name);
    match text {
        "off" => Ok(Mode::Off),
        "errors" => Ok(Mode::Errors),
        "all" => Ok(Mode::All),
        _ => {
            let percent = text.strip_suffix('%').and_then(|number| number.parse::<f64>().ok());
            match percent.filter(|percent| (0.0..=100.0).contains(percent)) {
                Some(percent) => Ok(Mode::Sampled((percent * 10_000.0).round() as u32)),
                None => Err(settings.wrong(name, text, "write off, errors, all, or a percentage such as 1%")),
            }
        }
    }
}

/// OpenTelemetry's own variables keep their names and their meaning.
#[allow(clippy::disallowed_methods, reason = "this is the place where the environment is read")]
fn otel() -> Environment {
    let one = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let (sampler, argument) = (one("OTEL_TRACES_SAMPLER"), one("OTEL_TRACES_SAMPLER_ARG"));
    let propagators = one("OTEL_PROPAGATORS");
    Environment {
        service: one("OTEL_SERVICE_NAME"),
        resource: one("OTEL_RESOURCE_ATTRIBUTES"),
        endpoint: one("OTEL_EXPORTER_OTLP_ENDPOINT"),
        traces_endpoint: one("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"),
        protocol: one("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL").or_else(|| one("OTEL_EXPORTER_OTLP_PROTOCOL")),
        disabled: std::env::var("OTEL_SDK_DISABLED").is_ok_and(|value| value.eq_ignore_ascii_case("true")),
        rules: TraceRules::from_environment(sampler.as_deref(), argument.as_deref(), propagators.as_deref()),
    }
}

fn rules(settings: &Settings<'_>) -> Result<Rules, ConfigError> {
    let port = |name| Ok::<_, ConfigError>(settings.bounded(name, 1, u64::from(u16::MAX))? as u16);
    let ports = |name| settings.list(name, "write port numbers, such as 15021,9090", |text| text.parse().ok());
    let subnets = |name| {
        settings.list(name, "write networks, such as 10.0.0.0/8 or fd00::/8", |text| {
            text.parse::<IpNet>().ok().or_else(|| Some(text.parse::<std::net::IpAddr>().ok()?.into()))
        })
    };
    Ok(Rules {
        inbound_port: port("LENO_INBOUND_PORT")?,
        outbound_port: port("LENO_OUTBOUND_PORT")?,
        proxy_uid: settings.bounded("LENO_PROXY_UID", 0, u64::from(u32::MAX))? as u32,
        skip_inbound_ports: ports("LENO_SKIP_INBOUND_PORTS")?,
        skip_outbound_ports: ports("LENO_SKIP_OUTBOUND_PORTS")?,
        skip_outbound_subnets: subnets("LENO_SKIP_OUTBOUND_SUBNETS")?,
        skip_inbound_subnets: subnets("LENO_SKIP_INBOUND_SUBNETS")?,
    })
}

const ADDRESS: &str = "write an IP address and a port, such as 0.0.0.0:15021 or [::]:15021";
const LOOPBACK: &str =
    "write a loopback address and a port, such as 127.0.0.1:15001: others could use it to send as us";
const OUTBOUND: &str = "write listener=service.namespace:port, such as 127.0.0.1:9000=orders.shop:80";
const INBOUND: &str = "write listener=application, such as 10.0.0.7:18080=10.0.0.7:8080";
