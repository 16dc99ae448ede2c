//! Servers that close idle connections, called around their own limit: the keep-alive race.

use std::io::Read;
use std::io::Write;
use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use bytes::Bytes;
use http_body_util::Full;
use leno_e2e::http::Client;
use tokio::sync::Barrier;

use crate::pair::Pair;
use crate::pair::Place;
use crate::pair::SCRIPTS;
use crate::pair::python;
use crate::pair::script;

/// Requests at once: as many connections idle, and are closed, at nearly the same time.
const CLIENTS: u32 = 16;

/// How long clients wait between one burst of requests and the next: from `first` on, a little longer each time, so that the
/// server's closes and the requests meet.
struct Gaps {
    first: Duration,
    step: Duration,
    bursts: u32,
}

impl Gaps {
    /// From 20 ms before the server's limit to 20 ms after it.
    fn around(limit: Duration) -> Self {
        Self { first: limit.saturating_sub(Duration::from_millis(20)), step: Duration::from_millis(2), bursts: 20 }
    }

    fn posts(&self) -> usize {
        (CLIENTS * self.bursts.div_ceil(2)) as usize
    }
}

/// It announces its limit: `Keep-Alive: timeout=0`.
#[tokio::test]
async fn no_request_fails_against_node() {
    let pair = Pair::start(Some("http"), |_| script("node", "server.js")).await;
    let gaps = Gaps { bursts: 10, ..Gaps::around(limit(&pair)) };
    hammer(&pair, &gaps).await;
    counted_once(&pair, &gaps).await;
    report("node, announcing its limit", &pair, &gaps).await;
}

#[tokio::test]
async fn no_request_fails_against_a_node_that_does_not_announce_its_limit() {
    let server = |_: &Place| {
        let mut command = script("node", "server.js");
        command.env("SILENT", "1");
        command
    };
    let pair = Pair::start(Some("http"), server).await;
    let gaps = Gaps::around(limit(&pair));
    hammer(&pair, &gaps).await;
    counted_once(&pair, &gaps).await;
    report("node", &pair, &gaps).await;
}

/// It looks about once a second, so a connection ends one to two seconds after its last request.
#[tokio::test]
async fn no_request_fails_against_gunicorn() {
    let gunicorn = |place: &Place| {
        let mut command = Command::new(python());
        command.args(["-m", "gunicorn", "--config", "python:counter", "counter:app"]);
        command.env("HOME", &place.folder).env("PYTHONPATH", SCRIPTS).env("PYTHONDONTWRITEBYTECODE", "1");
        command
    };
    let pair = Pair::start(Some("http"), gunicorn).await;
    let gaps = Gaps { first: Duration::from_millis(900), step: Duration::from_millis(60), bursts: 20 };
    hammer(&pair, &gaps).await;
    counted_once(&pair, &gaps).await;
    report("gunicorn", &pair, &gaps).await;
}

/// It closes after a second, and after every fourth request.
#[tokio::test]
async fn no_request_fails_against_nginx() {
    let pair = Pair::start(Some("http"), nginx).await;
    let gaps = Gaps::around(limit(&pair));
    hammer(&pair, &gaps).await;
    let log = std::fs::read_to_string(pair.mesh.folder.join("server/access.log")).unwrap();
    let mut posts: Vec<&str> = log.lines().filter(|line| line.starts_with("POST ")).collect();
    let all = posts.len();
    posts.sort_unstable();
    posts.dedup();
    assert_eq!((posts.len(), all), (gaps.posts(), gaps.posts()), "each POST arrived once");
    report("nginx", &pair, &gaps).await;
}

/// How long the server itself leaves a connection open after an answer.
fn limit(pair: &Pair) -> Duration {
    let mut socket = TcpStream::connect(pair.mesh.plan.pods[0].app()).unwrap();
    socket.write_all(b"GET / HTTP/1.1\r\nHost: server\r\n\r\n").unwrap();
    let mut answer = vec![0; 1 << 16];
    assert!(socket.read(&mut answer).unwrap() > 0);
    let start = Instant::now();
    // The rest of the answer may still come; then only the end.
    while socket.read(&mut answer).unwrap() > 0 {}
    start.elapsed()
}

fn nginx(place: &Place) -> Command {
    let Place { address, folder } = place;
    let folder = folder.display();
    // One process, so that it ends with its owner.
    let text = format!(
        "daemon off;\nmaster_process off;\npid {folder}/pid;\nerror_log {folder}/error.log;\nevents {{}}\nhttp {{\n  \
         log_format one '$request_method $uri';\n  access_log {folder}/access.log one;\n  \
         client_body_temp_path {folder}/body;\n  proxy_temp_path {folder}/proxy;\n  fastcgi_temp_path {folder}/fastcgi;\n  \
         uwsgi_temp_path {folder}/uwsgi;\n  scgi_temp_path {folder}/scgi;\n  \
         keepalive_timeout 1s;\n  keepalive_requests 4;\n  server {{ listen {address}; location / {{ return 200 ok; }} }}\n}}\n"
    );
    let path = place.folder.join("nginx.conf");
    std::fs::write(&path, text).unwrap();
    let mut command = Command::new("/usr/sbin/nginx");
    command.arg("-c").arg(path).arg("-e").arg(place.folder.join("error.log"));
    command
}

/// Bursts of `CLIENTS` requests at once, POST and GET in turn. None may fail.
async fn hammer(pair: &Pair, gaps: &Gaps) {
    let start = Arc::new(Barrier::new(CLIENTS as usize));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let mut client = Client::new(pair.listener);
            let (start, first, step, bursts) = (Arc::clone(&start), gaps.first, gaps.step, gaps.bursts);
            tokio::spawn(async move {
                let mut failures = Vec::new();
                for burst in 0..bursts {
                    start.wait().await;
                    // Not all at the same moment: closes come one by one too.
                    tokio::time::sleep(Duration::from_micros(500) * number).await;
                    failures.extend(call(&mut client, number, burst).await.err());
                    // The test is about this gap.
                    tokio::time::sleep(first + step * burst).await;
                }
                failures
            })
        })
        .collect();
    let mut failures = Vec::new();
    for client in clients {
        failures.extend(client.await.unwrap());
    }
    let (some, all) = (&failures[..failures.len().min(8)], CLIENTS * gaps.bursts);
    assert!(failures.is_empty(), "{} of {all} failed:\n{}\n{}", failures.len(), some.join("\n"), pair.tails());
}

/// One request, or why it failed.
async fn call(client: &mut Client, number: u32, burst: u32) -> Result<(), String> {
    let body = Full::new(Bytes::from(format!("{number}-{burst}")));
    let method = if burst.is_multiple_of(2) { "POST" } else { "GET" };
    let request = http::Request::builder().method(method).uri(format!("/{number}/{burst}")).header("host", "server");
    match client.send(request.body(body).unwrap()).await {
        Ok(answer) if answer.status() == 200 => Ok(()),
        Ok(answer) => Err(format!("burst {burst}, {method}: {} {:?}", answer.status(), answer.headers())),
        Err(error) => Err(format!("burst {burst}, {method}: {error:#}")),
    }
}

/// The server tells how many POSTs it got, and how many different ones.
async fn counted_once(pair: &Pair, gaps: &Gaps) {
    let counted = Client::new(pair.listener).get("server", "/count").await.unwrap();
    let counted: serde_json::Value = serde_json::from_slice(counted.body()).unwrap();
    let posts = Some(gaps.posts() as u64);
    assert_eq!((counted["different"].as_u64(), counted["all"].as_u64()), (posts, posts), "each POST arrived once");
}

/// How the race went: what the pool of the server's sidecar saw, and what was sent again.
async fn report(server: &str, pair: &Pair, gaps: &Gaps) {
    let sidecars = pair.scrape().await;
    let both = |name: &str, with: &str| sidecars.iter().map(|scrape| scrape.sum(name, &[with])).sum::<f64>();
    let closes = |reason: &str| both("leno_pool_closes_total", &format!("reason=\"{reason}\""));
    let again = |kind: &str| both("leno_retries_total", &format!("kind=\"{kind}\""));
    println!(
        "{server}: {} requests, none failed, {} POSTs arrived once each; connections closed {} by the server, {} before it \
         would, {} in use; {} requests met a close and were sent again, {} by policy",
        CLIENTS * gaps.bursts,
        gaps.posts(),
        closes("peer"),
        closes("idle"),
        closes("error"),
        again("idle_race") + again("idle_reset") + again("never_processed"),
        again("policy"),
    );
}
