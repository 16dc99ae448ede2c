//! What no client sends, at every port of both planes: nothing falls over, nothing grows, and what is refused is told apart.

#![allow(clippy::unwrap_used)] // A test's helper may fail the test.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use leno_e2e::http::Client;
use leno_e2e::manifests;
use leno_e2e::manifests::Application;
use leno_e2e::manifests::Pod;
use leno_e2e::mesh;
use leno_e2e::mesh::Mesh;
use leno_e2e::mesh::Plan;
use leno_e2e::scrape::scrape;
use rand::RngExt;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::UnixStream;

/// What a process may grow by: less than what is thrown at each of its ports.
const GROWTH_MAX: u64 = 24 << 20;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// After the preface and the settings that must follow it.
fn http2(frames: &[Vec<u8>]) -> Vec<u8> {
    [PREFACE, &frame(4, 0, 0, &[]), &frames.concat()].concat()
}

/// A TLS record of this kind and version that claims `claims` bytes and has `payload`.
fn record(kind: u8, version: u8, claims: u16, payload: &[u8]) -> Vec<u8> {
    [&[kind, 3, version], &claims.to_be_bytes()[..], payload].concat()
}

fn table() -> Vec<(&'static str, Vec<u8>)> {
    let many = |text: &str, count: usize| text.repeat(count).into_bytes();
    let get = |more: &str| format!("GET / HTTP/1.1\r\nHost: catalog\r\n{more}\r\n").into_bytes();
    // HPACK: indexed fields; 0x82 is `:method: GET`, 0x84 `:path: /`, 0x86 `:scheme: http`.
    let request = [0x82, 0x84, 0x86];
    vec![
        ("nothing", vec![]),
        ("one byte", vec![0]),
        ("zeroes", vec![0; 100_000]),
        ("ones", vec![0xff; 100_000]),
        ("line ends", many("\r\n", 50_000)),
        ("half a request", b"GET / HTTP/1.1\r\nHost: cat".to_vec()),
        ("half a body", b"POST / HTTP/1.1\r\nHost: catalog\r\nContent-Length: 100\r\n\r\nhalf".to_vec()),
        ("no such version", b"GET / HTTP/9.9\r\nHost: catalog\r\n\r\n".to_vec()),
        ("a word", b"HELLO\r\n\r\n".to_vec()),
        ("a head without an end", [get("")[..get("").len() - 2].to_vec(), many("X: y\r\n", 1 << 20)].concat()),
        ("a line without an end", [b"GET /".to_vec(), many("a", 8 << 20)].concat()),
        ("a name with a space", get("Bad Name: x\r\n")),
        ("two lengths", get("Content-Length: 1\r\nContent-Length: 2\r\n")),
        ("length and chunks", get("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n")),
        ("a chunk too large", [get("Transfer-Encoding: chunked\r\n"), b"ffffffffffffffff\r\nx".to_vec()].concat()),
        ("a chunk of nonsense", [get("Transfer-Encoding: chunked\r\n"), b"zz\r\n".to_vec()].concat()),
        ("folded", get("X: a\r\n b\r\n")),
        ("nul in a value", get("X: a\0b\r\n")),
        ("pipelined without pause", many("GET / HTTP/1.1\r\nHost: catalog\r\n\r\n", 5_000)),
        ("half a preface", PREFACE[..10].to_vec()),
        ("a preface and noise", [PREFACE, &vec![0xa5; 100_000]].concat()),
        ("a frame too large", http2(&[frame(0, 0, 1, &vec![0; 100_000])])),
        ("data on no stream", http2(&[frame(0, 0, 1, b"x")])),
        ("headers that are none", http2(&[frame(1, 5, 1, &[0xff; 64])])),
        ("a request without an authority", http2(&[frame(1, 5, 1, &request)])),
        ("an even stream", http2(&[frame(1, 5, 2, &request)])),
        ("endless continuations", http2(&[frame(1, 0, 1, &request), frame(9, 0, 1, &[0x40; 16_000]).repeat(500)])),
        ("many pings", http2(&[frame(6, 0, 0, &[7; 8]).repeat(20_000)])),
        ("many settings", http2(&[frame(4, 0, 0, &[0, 3, 0, 0, 0, 1]).repeat(20_000)])),
        ("rapid resets", http2(&[rapid_resets(&request)])),
        ("a window of nothing", http2(&[frame(8, 0, 0, &[0; 4])])),
        ("a window too large", http2(&[frame(8, 0, 0, &[0x7f, 0xff, 0xff, 0xff]).repeat(2)])),
        ("half a record", record(22, 1, 500, &[1, 0, 1])),
        ("a record of noise", record(22, 1, 500, &[0xa5; 500])),
        ("a hello that claims too much", record(22, 1, 16_000, &[&[1, 0xff, 0xff, 0xff][..], &[3; 16_000]].concat())),
        ("an alert", record(21, 3, 2, &[2, 40])),
        ("application data before any hello", record(23, 3, 1000, &[0; 1000])),
        ("a very old hello", vec![0x80, 0x2e, 1, 0, 2, 0, 0x15, 0, 0, 0, 0x10]),
        ("another protocol's greeting", b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()),
    ]
}

fn rapid_resets(request: &[u8]) -> Vec<u8> {
    let streams = (0..5_000u32).map(|number| 2 * number + 1);
    streams.flat_map(|id| [frame(1, 5, id, request), frame(3, 0, id, &[0, 0, 0, 8])].concat()).collect()
}

#[derive(Debug, Clone)]
enum Port {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// Says it all, says that this is all, and listens for a while: whether there is an answer is not the matter here.
async fn throw(port: &Port, bytes: &[u8], patience: Duration) {
    let exchange = async {
        match port {
            Port::Tcp(address) => talk(TcpStream::connect(address).await.unwrap(), bytes).await,
            Port::Unix(path) => talk(UnixStream::connect(path).await.unwrap(), bytes).await,
        }
    };
    // A server that neither reads nor ends is left alone with it.
    let _ = tokio::time::timeout(patience, exchange).await;
}

async fn talk(mut io: impl AsyncReadExt + AsyncWriteExt + Unpin, bytes: &[u8]) {
    // In the middle of this the other end may close.
    let _ = io.write_all(bytes).await;
    let _ = io.shutdown().await;
    let mut heard = vec![0; 64 << 10];
    while io.read(&mut heard).await.is_ok_and(|count| count > 0) {}
}

async fn pair() -> Mesh {
    let network = mesh::free_network().unwrap();
    let [a, b, c, _] = network.octets();
    let pod = |name: &str, last: u8, calls: &[&str], application: Application| Pod {
        name: format!("{name}-0"),
        service: name.to_owned(),
        version: None,
        address: std::net::Ipv4Addr::new(a, b, c, last),
        calls: calls.iter().map(|s| (*s).to_owned()).collect(),
        application,
        protocol: Some("http"),
    };
    let pods =
        vec![pod("catalog", 11, &[], Application::Storefront), pod("caller", 12, &["catalog"], Application::None)];
    let plan = Plan { pods, leaf_ttl: Duration::from_secs(3600), fail_percent: 0, manifests: vec![], otlp: None };
    Mesh::start(network, plan, &|_| ()).await.unwrap()
}

fn memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("Linux says so");
    line.split_whitespace().nth(1).and_then(|kilobytes| kilobytes.parse::<u64>().ok()).unwrap() << 10
}

#[tokio::test]
async fn garbage_at_every_port_harms_nobody_and_is_told_apart() {
    let mesh = pair().await;
    let (catalog, caller) = (mesh.pod("catalog-0").unwrap().1.clone(), mesh.pod("caller-0").unwrap().1.clone());
    let (door, pods) = (caller.listener("catalog").unwrap(), [&catalog, &caller]);
    let ports = [
        Port::Tcp((catalog.address, manifests::INBOUND).into()),
        Port::Tcp(door),
        Port::Tcp(catalog.status()),
        Port::Unix(mesh.folder.join("volumes/catalog-0/admin.sock")),
        Port::Tcp(mesh.session()),
        Port::Tcp(mesh.admin()),
    ];
    let mut client = Client::new(door);
    assert_eq!(client.get("catalog", "/items").await.unwrap().status(), 200);
    let before: Vec<(String, u32, u64)> = mesh.planes().into_iter().map(|(n, pid)| (n, pid, memory(pid))).collect();

    let seed = rand::random();
    println!("seed {seed}");
    let mut dice = StdRng::seed_from_u64(seed);
    let mut garbage = table();
    garbage.extend((0..40).map(|_| {
        let length = dice.random_range(1..100_000);
        ("noise", (0..length).map(|_| dice.random()).collect())
    }));
    // What begins well goes further.
    for number in 0..40 {
        let (_, good) = &table()[number % table().len()];
        let mut bent = good[..good.len().min(4000)].to_vec();
        for _ in 0..dice.random_range(1..6) {
            if !bent.is_empty() {
                let at = dice.random_range(0..bent.len());
                bent[at] = dice.random();
            }
        }
        garbage.push(("bent", bent));
    }
    throw_all(&ports, &garbage, Duration::from_millis(500)).await;

    assert_eq!(client.get("catalog", "/items").await.unwrap().status(), 200, "{}", mesh.tails());
    for (name, pid, memory_before) in before {
        let now = memory(pid);
        println!("{name}: {} MiB before, {} MiB after", memory_before >> 20, now >> 20);
        assert!(now < memory_before + GROWTH_MAX, "{name} grew from {memory_before} to {now} bytes");
    }
    // On a machine that stands still, half a second may be over before anybody has read.
    for patience in [10, 60] {
        if reasons(&mesh, &pods).await.iter().all(|told| EXPECTED.iter().all(|reason| told.contains(*reason))) {
            break;
        }
        throw_all(&ports[..2], &table(), Duration::from_secs(patience)).await;
    }
    let told = reasons(&mesh, &pods).await;
    mesh.until_ready(mesh.admin(), "control plane").await.unwrap();
    assert!(!mesh.logs_contain("panicked at"), "{}", mesh.tails());
    for reason in EXPECTED {
        assert!(told.iter().all(|reasons| reasons.contains(reason)), "{reason} is missing in {told:?}");
    }
}

/// What both sidecars tell apart, each.
const EXPECTED: [&str; 4] = ["bad_framing", "headers_too_large", "opaque_denied", "client_gone"];

async fn throw_all(ports: &[Port], garbage: &[(&'static str, Vec<u8>)], patience: Duration) {
    let throws = ports.iter().map(|port| {
        let (port, garbage) = (port.clone(), garbage.to_vec());
        tokio::spawn(async move {
            for (_, bytes) in &garbage {
                throw(&port, bytes, patience).await;
            }
        })
    });
    for thrown in throws.collect::<Vec<_>>() {
        thrown.await.unwrap();
    }
}

/// Why each pod's sidecar says that something failed.
async fn reasons(mesh: &Mesh, pods: &[&Pod]) -> Vec<BTreeSet<String>> {
    let mut told = Vec::new();
    for pod in pods {
        mesh.until_ready(pod.status(), &pod.name).await.unwrap();
        let metrics = scrape(pod.status()).await.unwrap();
        assert_eq!(metrics.sum("leno_panics_total", &[]), 0.0, "{}", mesh.tails());
        let families = ["leno_connection_failures_total", "leno_request_failures_total"];
        let samples = families.iter().flat_map(|family| metrics.matching(family, &[]));
        let reasons: BTreeSet<String> = samples
            .filter_map(|sample| sample.labels.split("reason=\"").nth(1)?.split('"').next().map(str::to_owned))
            .collect();
        println!("{}: {reasons:?}", pod.name);
        told.push(reasons);
    }
    told
}
