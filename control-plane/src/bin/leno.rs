//! `leno`, the command line: what a person asks the mesh, and what a developer makes without a cluster.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;

use anyhow::Context;
use anyhow::bail;
use bytes::Bytes;
use clap::Parser;
use clap::Subcommand;
use http::Request;
use http::Uri;
use http_body_util::BodyExt;
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use leno_control_plane::ca;
use leno_control_plane::config::Injection;
use leno_control_plane::config::duration;
use leno_control_plane::explain::Question;
use leno_control_plane::explain::explain;
use leno_control_plane::folder;
use leno_control_plane::folder::Access;
use leno_control_plane::folder::Folder;
use leno_control_plane::index::World;
use leno_control_plane::inject;
use leno_control_plane::inject::Namespace;
use leno_control_plane::inject::Outcome;
use leno_control_plane::inject::Settings;
use leno_control_plane::query;
use leno_control_plane::source::Directory;
use leno_control_plane::token::FolderKey;
use leno_control_plane::token::Subject;
use leno_proto::identity::TrustDomain;
use tokio::net::TcpStream;

/// Ask a Leno mesh how it is, and make what a mesh without Kubernetes needs.
#[derive(Parser)]
#[command(name = "leno", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Conditions of every object: accepted, resolved, and applied in how many proxies.
    Status {
        /// The control plane's admin address, as http://HOST:PORT or HOST:PORT.
        #[arg(long, env = "LENO_ADMIN_URL", default_value = "http://127.0.0.1:15014")]
        admin: String,
        /// JSON instead of text.
        #[arg(long)]
        json: bool,
    },
    /// Print the definitions of Leno's kinds, for `kubectl apply -f -`; the chart brings them too.
    Crds,
    /// Why a request goes where it goes: its route, policies, endpoints and access, and who says each value.
    Explain(Explain),
    /// Add sidecars to manifests, as the webhook would: Pods, and all that makes Pods.
    Inject {
        /// YAML files; `-` is standard input.
        #[arg(value_name = "FILE", default_value = "-")]
        files: Vec<PathBuf>,
        /// The control plane's namespace.
        #[arg(long, env = "LENO_NAMESPACE", default_value = "leno-system")]
        namespace: String,
        #[arg(long, env = "LENO_TRUST_DOMAIN", default_value = "cluster.local")]
        trust_domain: TrustDomain,
        #[command(flatten)]
        injection: Injection,
    },
    /// For a mesh on a folder of manifests.
    #[command(subcommand)]
    Dev(Dev),
}

#[derive(clap::Args)]
struct Explain {
    /// The Pod that sends it, as NAMESPACE/NAME.
    pod: String,
    /// NAME[.NAMESPACE][:PORT]; without a namespace, the Pod's.
    service: String,
    /// With the query.
    #[arg(default_value = "/")]
    path: String,
    #[arg(short = 'X', long, default_value = "GET")]
    method: String,
    /// `Name: value`, as often as needed.
    #[arg(short = 'H', long = "header", value_name = "HEADER")]
    headers: Vec<String>,
    /// Also the values that nobody set.
    #[arg(long)]
    all: bool,
    /// JSON instead of text.
    #[arg(long)]
    json: bool,
    /// Ask these manifests instead of a control plane.
    #[arg(long, value_name = "DIR")]
    files: Option<PathBuf>,
    /// The control plane's admin address, as http://HOST:PORT or HOST:PORT.
    #[arg(long, env = "LENO_ADMIN_URL", default_value = "http://127.0.0.1:15014")]
    admin: String,
}

#[derive(Subcommand)]
enum Dev {
    /// Write a pod's token, as Kubernetes would project it.
    Token {
        /// The control plane's state folder.
        #[arg(long, value_name = "DIR")]
        state: PathBuf,
        #[arg(long)]
        namespace: String,
        #[arg(long)]
        service_account: String,
        /// The pod's name.
        #[arg(long)]
        pod: String,
        #[arg(long)]
        pod_uid: String,
        #[arg(long, value_parser = duration, default_value = "24h")]
        ttl: Duration,
        /// Where to write it, 0600; `-` is standard output.
        #[arg(short, long, value_name = "FILE", default_value = "-")]
        output: PathBuf,
    },
    /// Print the trust anchors that sidecars are started with.
    Anchor {
        #[arg(long, value_name = "DIR")]
        state: PathBuf,
    },
    /// Replace the root of trust without a failed request: ask the control plane that runs on this folder.
    RotateRoot {
        #[arg(long, value_name = "DIR")]
        state: PathBuf,
        /// Wait until the old root is no longer trusted: a leaf's lifetime and up to a minute.
        #[arg(long)]
        wait: bool,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("leno: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Status { admin, json } => {
            let path = if json { "/status" } else { "/status?format=text" };
            print!("{}", ask(&admin, path)?);
            Ok(())
        }
        Command::Explain(asked) => {
            print!("{}", explained(&asked)?);
            Ok(())
        }
        Command::Crds => {
            for crd in leno_control_plane::crd::all() {
                print!("---\n{}", crd.yaml());
            }
            Ok(())
        }
        Command::Inject { files, namespace, trust_domain, injection } => {
            inject(&files, &injection.settings(&namespace, &trust_domain))
        }
        Command::Dev(Dev::Token { state, namespace, service_account, pod, pod_uid, ttl, output }) => {
            let key = FolderKey::open(&Folder::open(&state)?)?;
            let subject = Subject { namespace, service_account, pod_name: pod, pod_uid };
            let token = key.mint(&subject, ttl, SystemTime::now())?;
            if output.as_os_str() == "-" {
                println!("{token}");
            } else {
                folder::write(&output, Access::Private, token.as_bytes())?;
            }
            Ok(())
        }
        Command::Dev(Dev::Anchor { state }) => {
            let path = state.join(ca::ANCHOR_FILE);
            let pem = folder::read(&path)?.with_context(|| {
                format!("{} does not exist; the control plane writes it when it first starts", path.display())
            })?;
            print!("{}", String::from_utf8_lossy(&pem));
            Ok(())
        }
        Command::Dev(Dev::RotateRoot { state, wait }) => rotate_root(&state, wait),
    }
}

/// Documents in which nothing makes Pods come out as they went in.
fn inject(files: &[PathBuf], settings: &Settings) -> anyhow::Result<()> {
    for file in files {
        let text = match file.as_os_str() == "-" {
            true => std::io::read_to_string(std::io::stdin())?,
            false => std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?,
        };
        for document in text.split("\n---").filter(|document| !document.trim().is_empty()) {
            let document = document.trim_start_matches("---").trim_start_matches('\n');
            let mut manifest: serde_json::Value =
                serde_saphyr::from_str(document).with_context(|| format!("{}: not YAML", file.display()))?;
            let name = format!("{} {}", text_of(&manifest["kind"]), text_of(&manifest["metadata"]["name"]));
            let namespace = text_of(&manifest["metadata"]["namespace"]).to_owned();
            let namespace = Namespace { name: &namespace, asks: true, enforces: "" };
            println!("---");
            let outcome = inject::template(&mut manifest).map(|pod| (inject::inject(pod, namespace, settings), pod));
            match outcome {
                Some((Outcome::Injected(injected), pod)) => {
                    *pod = *injected;
                    print!("{}", serde_saphyr::to_string(&manifest)?);
                }
                Some((Outcome::Refused(why), _)) => bail!("{}: {name}: {why}", file.display()),
                Some((Outcome::Left(why), _)) => {
                    eprintln!("{name}: left as it is: {why}");
                    println!("{}", document.trim_end());
                }
                None => println!("{}", document.trim_end()),
            }
        }
    }
    Ok(())
}

fn text_of(value: &serde_json::Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The request is a file, as whoever may write there holds the root already.
fn rotate_root(state: &std::path::Path, wait: bool) -> anyhow::Result<()> {
    let anchors = || -> anyhow::Result<usize> {
        let trust = folder::read(&state.join(ca::TRUST_FILE))?.context("no control plane has run on this folder")?;
        let trust: serde_json::Value = serde_json::from_slice(&trust).context("trust.json")?;
        Ok(trust["anchors"].as_array().map_or(0, Vec::len))
    };
    if anchors()? > 1 {
        bail!("a rotation is under way already; {} says where it is", state.join(ca::TRUST_FILE).display());
    }
    let request = state.join(ca::ROTATE_FILE);
    folder::write(&request, Access::Private, b"")?;
    until(Duration::from_secs(10), || Ok(!request.exists() && anchors()? > 1)).inspect_err(|_| {
        let _ = std::fs::remove_file(&request);
    })?;
    println!("a new root is trusted beside the old one; it takes over as soon as every sidecar knows it");
    if wait {
        until(Duration::from_secs(8 * 24 * 3600), || Ok(anchors()? == 1))?;
        println!("the old root is no longer trusted");
    }
    Ok(())
}

fn until(limit: Duration, mut done: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let begun = Instant::now();
    while !done()? {
        if begun.elapsed() > limit {
            bail!("no control plane took the request; is one running on this folder?");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

fn explained(asked: &Explain) -> anyhow::Result<String> {
    let Some(folder) = &asked.files else {
        let mut pairs = vec![
            ("pod", asked.pod.as_str()),
            ("service", &asked.service),
            ("path", &asked.path),
            ("method", &asked.method),
            ("format", if asked.json { "json" } else { "text" }),
        ];
        pairs.extend(asked.headers.iter().map(|header| ("header", header.as_str())));
        pairs.extend(asked.all.then_some(("all", "")));
        return ask(&asked.admin, &format!("/explain?{}", query::encode(&pairs)));
    };
    let header = |header: &String| {
        let (name, value) =
            header.split_once(':').with_context(|| format!("write -H 'Name: value', not {header:?}"))?;
        anyhow::Ok((name.trim().to_owned(), value.trim().to_owned()))
    };
    let question = Question {
        pod: asked.pod.clone(),
        service: asked.service.clone(),
        method: asked.method.clone(),
        path: asked.path.clone(),
        headers: asked.headers.iter().map(header).collect::<anyhow::Result<_>>()?,
    };
    let mut directory = Directory::open(folder.clone(), None)?;
    let batch = directory.look(SystemTime::now()).unwrap_or_default();
    for refused in batch.refused.iter() {
        eprintln!("leno: not admitted: {refused}");
    }
    let mut world = World::default();
    world.apply(batch.events);
    let explanation = explain(&world, &question)?;
    Ok(match asked.json {
        true => format!("{:#}\n", serde_json::json!(explanation)),
        false => explanation.text(asked.all),
    })
}

fn ask(admin: &str, path: &str) -> anyhow::Result<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let text = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(10), fetch(admin, path)).await });
    text.context("no answer in 10 s")?
}

async fn fetch(admin: &str, path: &str) -> anyhow::Result<String> {
    let authority = admin.strip_prefix("http://").unwrap_or(admin).trim_end_matches('/');
    let uri: Uri = path.parse()?;
    let socket = TcpStream::connect(authority).await.with_context(|| format!("connect to {authority}"))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await?;
    let request = Request::get(uri).header(http::header::HOST, authority).body(Empty::<Bytes>::new())?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        anyhow::Ok((status, body))
    };
    let (status, body) = tokio::select! {
        answered = exchange => answered?,
        ended = connection => bail!("{authority} closed the connection: {ended:?}"),
    };
    let text = String::from_utf8_lossy(&body).into_owned();
    if !status.is_success() {
        bail!("{authority} answered {status}: {}", text.trim_end());
    }
    Ok(text)
}
