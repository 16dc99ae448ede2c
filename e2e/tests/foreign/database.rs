//! Databases, and a server that speaks first: protocols that nobody declared pass as bytes.

use std::io::Read;
use std::io::Write;
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use crate::pair::Pair;
use crate::pair::Place;
use crate::pair::script;

/// Debian's `nobody`: PostgreSQL refuses to run as root.
const NOBODY: u32 = 65534;

#[tokio::test]
async fn postgres_passes_undeclared() {
    let pair = Pair::start(None, postgres).await;
    let version = psql(&pair, &["-c", "show server_version"]);
    // A row a line, 20 MB of them, in and out again.
    let rows: String = (0..200_000).map(|n| format!("{n}\t{:0>93}\n", n * 7)).collect();
    let (path, back) = (pair.mesh.folder.join("rows"), pair.mesh.folder.join("back"));
    std::fs::write(&path, &rows).unwrap();
    psql(&pair, &["-c", "create table t (n int primary key, s text)"]);
    let start = Instant::now();
    psql(&pair, &["-c", &format!("\\copy t from '{}'", path.display())]);
    let copied_in = start.elapsed();
    psql(&pair, &["-c", &format!("\\copy (select n, s from t order by n) to '{}'", back.display())]);
    let copied = start.elapsed();
    assert!(std::fs::read(&back).unwrap() == rows.as_bytes(), "what went in came out");
    // Silent for a while on both sides, then an answer.
    let start = Instant::now();
    assert_eq!(psql(&pair, &["-c", "select 'slept' from pg_sleep(3)"]), "slept");
    let slept = start.elapsed();
    // A client cancels over a second connection: sixteen bytes, then it waits for the end.
    let mut sleeper = client("psql", &pair);
    sleeper.args(["-At", "-c", "select pg_sleep(60)"]).stderr(Stdio::piped());
    let sleeper = sleeper.spawn().unwrap();
    while psql(&pair, &["-c", "select count(*) from pg_stat_activity where query = 'select pg_sleep(60)'"]) != "1" {}
    Command::new("kill").args(["-INT", &sleeper.id().to_string()]).status().unwrap();
    let said = String::from_utf8_lossy(&sleeper.wait_with_output().unwrap().stderr).into_owned();
    assert!(said.contains("canceling statement due to user request"), "{said}\n{}", pair.tails());
    // Many sessions at once, with prepared statements.
    pair.finish(client("pgbench", &pair).args(["-i", "-q", "-s", "1"]));
    let bench = pair.finish(client("pgbench", &pair).args(["-c", "8", "-j", "1", "-t", "100", "-M", "prepared"]));
    let bench = String::from_utf8_lossy(&bench.stdout).into_owned();
    assert!(bench.contains("processed: 800/800"), "{bench}");
    let rate = bench.lines().find(|line| line.starts_with("tps")).unwrap_or_default();
    println!(
        "PostgreSQL {version}: COPY of {} bytes in {copied_in:.1?} in and {:.1?} out, a query of 3 s took {slept:.3?}, a \
         cancel arrived, 8 clients x 100 transactions at {rate}",
        rows.len(),
        copied - copied_in,
    );
}

fn postgres(place: &Place) -> Command {
    let data = place.folder.join("data");
    let root = is_root();
    let as_nobody = |command: &mut Command| {
        if root {
            command.uid(NOBODY).gid(NOBODY);
        }
    };
    if root {
        std::os::unix::fs::chown(&place.folder, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let mut initdb = Command::new(postgres_program("initdb"));
    initdb.arg("-D").arg(&data).args(["-U", "leno", "-A", "trust", "--no-sync", "--locale=C", "-E", "UTF8"]);
    as_nobody(initdb.current_dir(&place.folder));
    let made = initdb.output().unwrap();
    assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
    let mut command = Command::new(postgres_program("postgres"));
    command.arg("-D").arg(&data).args(["-h", &place.address.ip().to_string(), "-p", &place.address.port().to_string()]);
    std::fs::write(data.join("pg_hba.conf"), "host all all 127.0.0.0/8 trust\n").unwrap();
    command.args(["-c", "fsync=off", "-c"]).arg(format!("unix_socket_directories={}", place.folder.display()));
    as_nobody(command.current_dir(&place.folder));
    command
}

/// Debian keeps the server's programs outside of PATH, one folder a version.
fn postgres_program(name: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let found = versions.map(|version| version.path().join("bin").join(name)).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("{name} is missing: `cargo xtask test` installs it"))
}

fn is_root() -> bool {
    std::fs::read_to_string("/proc/self/status").unwrap().lines().any(|line| line.starts_with("Uid:\t0\t"))
}

fn client(program: &str, pair: &Pair) -> Command {
    let mut command = Command::new(program);
    let (host, port) = (pair.listener.ip().to_string(), pair.listener.port().to_string());
    command.env("PGHOST", host).env("PGPORT", port).env("PGUSER", "leno").env("PGDATABASE", "postgres");
    command.env("PGCONNECT_TIMEOUT", "180");
    command
}

fn psql(pair: &Pair, arguments: &[&str]) -> String {
    let mut command = client("psql", pair);
    command.args(["-X", "-q", "-At", "-v", "ON_ERROR_STOP=1"]).args(arguments);
    String::from_utf8_lossy(&pair.finish(&mut command).stdout).trim().to_owned()
}

#[tokio::test]
async fn redis_passes_undeclared() {
    let redis = |place: &Place| {
        let mut command = Command::new("redis-server");
        command.args(["--bind", &place.address.ip().to_string(), "--port", &place.address.port().to_string()]);
        command.args(["--save", "", "--appendonly", "no", "--dir"]).arg(&place.folder);
        command
    };
    let pair = Pair::start(None, redis).await;
    assert_eq!(redis_cli(&pair, &["PING"]), "PONG");
    pipeline(&pair);
    let message = subscription(&pair);
    // A client that says nothing for a second, then asks.
    let mut silent = TcpStream::connect(pair.listener).unwrap();
    silent.set_read_timeout(Some(Duration::from_secs(180))).unwrap();
    std::thread::sleep(Duration::from_secs(1));
    silent.write_all(b"*1\r\n$4\r\nPING\r\n").unwrap();
    let mut answer = [0; 7];
    silent.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"+PONG\r\n");
    let mut bench = Command::new("redis-benchmark");
    bench.args(host(&pair)).args(["-n", "20000", "-c", "20", "-P", "8", "-t", "set,get", "-q"]);
    let bench = pair.finish(&mut bench);
    let bench = String::from_utf8_lossy(&bench.stdout).replace('\r', "\n");
    let rates: Vec<&str> = bench.lines().filter(|line| line.contains("requests per second")).map(str::trim).collect();
    assert_eq!(rates.len(), 2, "{bench}");
    println!("Redis: 50000 pipelined commands, a message of {message} bytes to a subscriber, {}", rates.join("; "));
}

fn host(pair: &Pair) -> [String; 4] {
    ["-h".to_owned(), pair.listener.ip().to_string(), "-p".to_owned(), pair.listener.port().to_string()]
}

fn redis_cli(pair: &Pair, arguments: &[&str]) -> String {
    let output = pair.finish(Command::new("redis-cli").args(host(pair)).args(arguments));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Fifty thousand commands without waiting for an answer; every answer comes.
fn pipeline(pair: &Pair) {
    let commands = pair.mesh.folder.join("commands");
    let mut text = Vec::new();
    for n in 0..50_000 {
        let (key, value) = (format!("key-{n}"), format!("value-{n}"));
        let command = format!("*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${}\r\n{value}\r\n", key.len(), value.len());
        text.extend_from_slice(command.as_bytes());
    }
    std::fs::write(&commands, text).unwrap();
    let mut command = Command::new("redis-cli");
    command.args(host(pair)).arg("--pipe").stdin(std::fs::File::open(commands).unwrap());
    let said = String::from_utf8_lossy(&pair.finish(&mut command).stdout).into_owned();
    assert!(said.contains("errors: 0, replies: 50000"), "{said}");
    assert_eq!(redis_cli(pair, &["GET", "key-49999"]), "value-49999");
}

/// A subscriber waits in silence, and hears what another client publishes.
fn subscription(pair: &Pair) -> usize {
    let mut subscriber = Command::new("redis-cli");
    subscriber.args(host(pair)).args(["SUBSCRIBE", "news"]).stdout(Stdio::piped());
    let mut subscriber = subscriber.spawn().unwrap();
    let message = "x".repeat(1 << 20);
    // Answered with how many subscribers there are to hear it.
    while redis_cli(pair, &["PUBLISH", "news", "are you there?"]) != "1" {}
    let published = pair.mesh.folder.join("message");
    std::fs::write(&published, &message).unwrap();
    let mut publish = Command::new("redis-cli");
    publish.args(host(pair)).args(["-x", "PUBLISH", "news"]).stdin(std::fs::File::open(published).unwrap());
    pair.finish(&mut publish);
    let mut heard = Vec::new();
    let mut output = subscriber.stdout.take().unwrap();
    let end = [message.as_bytes(), b"\n"].concat();
    while !heard.ends_with(&end) {
        let mut block = vec![0; 1 << 16];
        let count = output.read(&mut block).unwrap();
        assert!(count > 0, "the subscription ended after {} bytes\n{}", heard.len(), pair.tails());
        heard.extend_from_slice(&block[..count]);
    }
    subscriber.kill().unwrap();
    subscriber.wait().unwrap();
    message.len()
}

#[tokio::test]
async fn a_server_that_speaks_first_passes_undeclared() {
    let pair = Pair::start(None, |_| script("python3", "greeting.py")).await;
    let start = Instant::now();
    let said = pair.finish(&mut script("python3", "greeting_client.py"));
    let said = String::from_utf8_lossy(&said.stdout).trim().to_owned();
    println!("SMTP: {said}; all in {:.1?}", start.elapsed());
}
