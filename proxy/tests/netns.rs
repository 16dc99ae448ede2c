//! Real redirection: the rules of `leno-proxy init` in network namespaces of their own, with real connections in both families.
//! Needs root, `ip` and `nft`, and says so where they are missing. It must never touch the namespace that it is started in.

#![allow(clippy::unwrap_used, reason = "a test")]
#![allow(clippy::disallowed_methods, reason = "the task travels to the inner process by its environment")]

use std::io::ErrorKind;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use leno_proxy::net::original_destination;
use leno_proxy::redirect;
use leno_proxy::redirect::Rules;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Set for the processes that run inside: what they are to do.
const TASK: &str = "LENO_TEST_NETNS";

/// Addresses of the pod's namespace; its neighbour has `.2`.
const POD: [&str; 2] = ["10.77.0.1", "fd77::1"];
const NEIGHBOUR: [&str; 2] = ["10.77.0.2", "fd77::2"];
const PROXY_UID: u32 = 15_000;

/// For what takes no time where all is well.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn a_pods_traffic_reaches_its_sidecar_and_nothing_else_does() {
    if let Some(missing) = missing() {
        // Loud on purpose: a machine that cannot run this has not tested redirection.
        eprintln!("SKIPPED: redirection in network namespaces needs {missing}");
        return;
    }
    let (pod, neighbour) = (Namespace::new("pod"), Namespace::new("far"));
    ip(&["link", "add", "va", "netns", &pod.0, "type", "veth", "peer", "name", "vb", "netns", &neighbour.0]);
    for (namespace, device, addresses) in [(&pod, "va", POD), (&neighbour, "vb", NEIGHBOUR)] {
        ip(&["-n", &namespace.0, "addr", "add", &format!("{}/24", addresses[0]), "dev", device]);
        ip(&["-n", &namespace.0, "addr", "add", &format!("{}/64", addresses[1]), "dev", device, "nodad"]);
        ip(&["-n", &namespace.0, "link", "set", device, "up"]);
        ip(&["-n", &namespace.0, "link", "set", "lo", "up"]);
    }
    // Where nobody is: whatever connects there arrives only if it is captured.
    ip(&["-n", &pod.0, "route", "add", "default", "via", NEIGHBOUR[0]]);
    ip(&["-n", &pod.0, "-6", "route", "add", "default", "via", NEIGHBOUR[1]]);
    assert!(enter(&pod.0, "pod", &neighbour.0), "its output is above");
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

/// Runs a task of this file inside a namespace.
fn enter(namespace: &str, task: &str, argument: &str) -> bool {
    let own = std::env::current_exe().expect("the test has a file");
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace]).arg(own);
    inside(&mut command, task, argument);
    command.status().expect("ip runs").success()
}

fn inside(command: &mut Command, task: &str, argument: &str) {
    command.args(["--exact", "task_inside", "--ignored", "--nocapture"]);
    command.env(TASK, format!("{task} {argument}"));
}

fn missing() -> Option<&'static str> {
    let runs = |name, argument| Command::new(name).arg(argument).output().is_ok_and(|output| output.status.success());
    if !runs("nft", "--version") {
        return Some("nft (package nftables)");
    }
    if !runs("ip", "-V") {
        return Some("ip (package iproute2)");
    }
    let probe = format!("leno-probe-{}", std::process::id());
    let made = Command::new("ip").args(["netns", "add", &probe]).output().is_ok_and(|output| output.status.success());
    let _ = Command::new("ip").args(["netns", "del", &probe]).output();
    (!made).then_some("root and the right to make network namespaces")
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().expect("ip runs");
    assert!(output.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
#[ignore = "runs inside a namespace, started by the test above"]
fn task_inside() {
    let Ok(task) = std::env::var(TASK) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (what, argument) = task.split_once(' ').unwrap();
    match what {
        "pod" => runtime.block_on(in_the_pod(argument)),
        "dial" => drop(runtime.block_on(dial(argument.parse().unwrap())).unwrap()),
        other => panic!("no task {other}"),
    }
}

async fn dial(address: SocketAddr) -> std::io::Result<TcpStream> {
    match timeout(PATIENCE, TcpStream::connect(address)).await {
        Ok(stream) => stream,
        Err(_) => Err(ErrorKind::TimedOut.into()),
    }
}

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse::<IpAddr>().unwrap(), port)
}

async fn listen(address: &str, port: u16) -> TcpListener {
    TcpListener::bind(at(address, port)).await.unwrap()
}

/// Whoever connected last, and where it meant to go.
async fn arrived(listener: &TcpListener) -> Option<SocketAddr> {
    let (stream, _) = timeout(PATIENCE, listener.accept()).await.expect("nobody arrived").unwrap();
    original_destination(&stream)
}

async fn in_the_pod(neighbour: &str) {
    let rules = Rules {
        inbound_port: 15006,
        outbound_port: 15001,
        proxy_uid: PROXY_UID,
        skip_inbound_ports: vec![15021],
        skip_outbound_ports: vec![5353],
        skip_outbound_subnets: vec!["10.88.0.0/16".parse().unwrap(), "fd88::/16".parse().unwrap()],
        skip_inbound_subnets: vec![],
    };
    rules.check().unwrap();
    redirect::apply(&rules.script()).unwrap();
    // Twice is the same as once.
    redirect::apply(&rules.script()).unwrap();
    ip(&["addr", "add", "10.88.0.1/32", "dev", "lo"]);
    for (family, far, skipped) in [(0, "10.99.0.1", Some("10.88.0.1")), (1, "fd99::1", None)] {
        let (loopback, any) = [("127.0.0.1", "0.0.0.0"), ("::1", "::")][family];
        let outbound = listen(loopback, 15001).await;
        let inbound = listen_family(any, 15006);
        println!("what leaves is captured, and says where it meant to go ({far})");
        let _stream = dial(at(far, 80)).await.unwrap();
        assert_eq!(arrived(&outbound).await, Some(at(far, 80)));
        println!("the sidecar's own connections are not captured");
        let app = listen(POD[family], 8080).await;
        as_proxy(at(POD[family], 8080));
        assert_eq!(arrived(&app).await, None);
        println!("loopback stays loopback");
        let private = listen(loopback, 9000).await;
        let _stream = dial(at(loopback, 9000)).await.unwrap();
        assert_eq!(arrived(&private).await, None);
        println!("skipped ports and subnets are not captured");
        let mdns = listen(POD[family], 5353).await;
        let _stream = dial(at(POD[family], 5353)).await.unwrap();
        assert_eq!(arrived(&mdns).await, None);
        if let Some(skipped) = skipped {
            let direct = listen(skipped, 80).await;
            let _stream = dial(at(skipped, 80)).await.unwrap();
            assert_eq!(arrived(&direct).await, None);
        }
        println!("what arrives from outside is captured, except at the status port");
        assert!(enter(neighbour, "dial", &at(POD[family], 8080).to_string()));
        assert_eq!(arrived(&inbound).await, Some(at(POD[family], 8080)));
        let status = listen(POD[family], 15021).await;
        assert!(enter(neighbour, "dial", &at(POD[family], 15021).to_string()));
        assert_eq!(arrived(&status).await, None);
    }
    println!("undone, twice, nothing is captured");
    redirect::apply(&redirect::undo_script()).unwrap();
    redirect::apply(&redirect::undo_script()).unwrap();
    for address in POD {
        let app = listen(address, 8080).await;
        assert!(enter(neighbour, "dial", &at(address, 8080).to_string()));
        assert_eq!(arrived(&app).await, None);
    }
}

/// One family only, as the proxy's own listeners are.
fn listen_family(address: &str, port: u16) -> TcpListener {
    let listener = leno_proxy::net::listen(at(address, port), leno_proxy::net::Share::Alone).unwrap();
    listener.set_nonblocking(true).unwrap();
    TcpListener::from_std(listener).unwrap()
}

/// Dials as the sidecar's user.
fn as_proxy(address: SocketAddr) {
    let own = std::env::current_exe().expect("the test has a file");
    let mut command = Command::new(own);
    inside(&mut command, "dial", &address.to_string());
    command.uid(PROXY_UID);
    assert!(command.status().expect("the test starts itself").success(), "{address} as the sidecar's user");
}
