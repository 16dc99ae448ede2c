//! A real OTLP backend: Rotel, a collector that prints every span which it receives. `cargo xtask test` installs it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use std::time::Instant;

use leno_e2e::process::Process;

/// For what takes some seconds where all is well.
const PATIENCE: Duration = Duration::from_secs(180);

pub(crate) struct Collector {
    process: Process,
    grpc: SocketAddr,
    http: SocketAddr,
    folder: PathBuf,
}

/// A span as the backend got it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    pub(crate) trace: String,
    /// Empty: none.
    pub(crate) parent: String,
    pub(crate) id: String,
    pub(crate) name: String,
    /// `CLIENT`, `SERVER`.
    pub(crate) kind: String,
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) failed: bool,
    attributes: BTreeMap<String, String>,
    resource: BTreeMap<String, String>,
}

impl Seen {
    pub(crate) fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.get(name).map(String::as_str)
    }

    pub(crate) fn number(&self, name: &str) -> Option<i64> {
        self.attribute(name).map(|text| text.parse().unwrap())
    }

    pub(crate) fn resource(&self, name: &str) -> Option<&str> {
        self.resource.get(name).map(String::as_str)
    }

    pub(crate) fn service(&self) -> &str {
        self.resource("service.name").expect("a span says whose it is")
    }
}

impl Collector {
    /// Listens on the mesh's network.
    pub(crate) async fn start(network: Ipv4Addr) -> Self {
        let [a, b, c, _] = network.octets();
        let address = |port: u16| SocketAddr::from((Ipv4Addr::new(a, b, c, 3), port));
        let (grpc, http) = (address(4317), address(4318));
        let folder = std::env::temp_dir().join(format!("leno-collector-{}-{b}-{c}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let mut command = Command::new(agent());
        command
            .args(["start", "--debug-log", "traces", "--debug-log-verbosity", "detailed", "--exporter", "blackhole"])
            .args(["--otlp-grpc-endpoint", &grpc.to_string(), "--otlp-http-endpoint", &http.to_string()]);
        let process = Process::start("collector", &mut command, &folder).unwrap();
        let start = Instant::now();
        for port in [grpc, http] {
            while tokio::net::TcpStream::connect(port).await.is_err() {
                assert!(start.elapsed() < PATIENCE, "no collector at {port}: {}", process.tail());
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Self { process, grpc, http, folder }
    }

    pub(crate) fn grpc(&self) -> String {
        format!("http://{}", self.grpc)
    }

    pub(crate) fn http(&self) -> String {
        format!("http://{}", self.http)
    }

    /// All that it printed.
    pub(crate) fn text(&self) -> String {
        std::fs::read_to_string(&self.process.log).unwrap()
    }

    /// `count` traces, once `is_whole` says of each that it is.
    pub(crate) async fn traces(&self, count: usize, is_whole: impl Fn(&[Seen]) -> bool) -> Vec<Vec<Seen>> {
        let start = Instant::now();
        loop {
            let traces = by_trace(parse(&self.text()));
            if traces.len() >= count && traces.iter().all(|trace| is_whole(trace)) {
                assert_eq!(traces.len(), count, "{traces:#?}");
                return traces;
            }
            assert!(start.elapsed() < PATIENCE, "no {count} whole traces among {traces:#?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.process.kill();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn by_trace(spans: Vec<Seen>) -> Vec<Vec<Seen>> {
    let mut traces: BTreeMap<String, Vec<Seen>> = BTreeMap::new();
    for span in spans {
        traces.entry(span.trace.clone()).or_default().push(span);
    }
    traces.into_values().collect()
}

/// Where an attribute belongs.
enum Part {
    None,
    Resource,
    Span,
}

/// The collector's own text: a block for each resource, in it one for each span. The last line may not be whole yet.
fn parse(text: &str) -> Vec<Seen> {
    let mut resource = BTreeMap::new();
    let mut spans: Vec<Seen> = Vec::new();
    let mut part = Part::None;
    for line in text.rsplit_once('\n').map_or("", |(whole, _)| whole).lines() {
        if line.starts_with("ResourceSpans #") {
            resource = BTreeMap::new();
        } else if line.starts_with("Resource attributes:") {
            part = Part::Resource;
        } else if line.starts_with("Span #") {
            spans.push(Seen { resource: resource.clone(), ..Seen::default() });
            part = Part::Span;
        } else if let Some(attribute) = line.trim_start().strip_prefix("-> ") {
            let (name, value) = attribute.split_once(": ").unwrap_or((attribute, ""));
            let value = value.split_once('(').and_then(|(_, value)| value.strip_suffix(')')).unwrap_or(value);
            let attributes = match part {
                Part::Resource => Some(&mut resource),
                Part::Span => spans.last_mut().map(|span| &mut span.attributes),
                Part::None => None,
            };
            attributes.and_then(|attributes| attributes.insert(name.to_owned(), value.to_owned()));
        } else if let (Part::Span, Some(span), Some((name, value))) = (&part, spans.last_mut(), line.split_once(':')) {
            field(span, name.trim(), value.trim());
        }
    }
    spans
}

fn field(span: &mut Seen, name: &str, value: &str) {
    let text = value.to_owned();
    match name {
        "Trace ID" => span.trace = text,
        "Parent ID" => span.parent = text,
        "ID" => span.id = text,
        "Name" => span.name = text,
        "Kind" => span.kind = text.trim_start_matches("SPAN_KIND_").to_owned(),
        "Start time" => span.start = text.parse().unwrap(),
        "End time" => span.end = text.parse().unwrap(),
        "Status code" => span.failed = text == "STATUS_CODE_ERROR",
        _ => {}
    }
}

/// In the environment that `cargo xtask test` makes in the target folder.
fn agent() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let target = own.ancestors().find(|folder| folder.join("CACHEDIR.TAG").exists()).expect("cargo marks its folder");
    let lib = target.join("collector/lib");
    let found = std::fs::read_dir(&lib).into_iter().flatten().flatten();
    let agent = found.map(|python| python.path().join("site-packages/rotel/rotel-agent")).find(|agent| agent.is_file());
    agent.unwrap_or_else(|| panic!("no collector in {}; `cargo xtask test` installs it", lib.display()))
}
