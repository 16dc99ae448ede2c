//! Bodies of 1 GiB each way: they pass whole, and the sidecars stay small.

use std::io::Read;
use std::io::Write;
use std::process::Command;
use std::process::Stdio;
use std::time::Instant;

use crate::pair::Pair;
use crate::pair::script;

const MIB: usize = 1 << 20;
const BLOCKS: usize = 1024;
/// How much a sidecar may grow while bodies pass, in MiB: some windows of flow control and the buffers of some connections.
const GROWTH: u64 = 64;

#[tokio::test]
async fn a_body_of_a_gibibyte_passes_each_way_in_bounded_memory() {
    let pair = Pair::start(Some("http"), |_| script("python3", "bulk.py")).await;
    pair.curl(&[], "/length/1");
    let before = pair.peak_memory();
    upload(&pair, "length", &[]);
    tell(&pair, "up, content-length", before);
    upload(&pair, "chunked", &["-H", "Transfer-Encoding: chunked"]);
    tell(&pair, "up, chunked", before);
    download(&pair, "/length/1024", &[]);
    tell(&pair, "down, content-length", before);
    download(&pair, "/chunked/1024", &[]);
    tell(&pair, "down, chunked", before);
    download(&pair, "/length/1024", &["--http2-prior-knowledge"]);
    tell(&pair, "down, to a client of HTTP/2", before);
}

/// The same bytes, undeclared and not HTTP: a database's dump, say.
#[tokio::test]
async fn a_gibibyte_of_opaque_bytes_passes_each_way_in_bounded_memory() {
    let pair = Pair::start(None, |_| script("python3", "opaque.py")).await;
    let before = pair.peak_memory();
    let mut socket = std::net::TcpStream::connect(pair.listener).unwrap();
    let mut back = std::io::BufReader::new(socket.try_clone().unwrap());
    let writer = std::thread::spawn(move || {
        (0..BLOCKS).for_each(|number| socket.write_all(&block(number)).unwrap());
        // Half-closed: what comes back still comes.
        socket.shutdown(std::net::Shutdown::Write).unwrap();
    });
    let start = Instant::now();
    check(&mut back);
    writer.join().unwrap();
    let took = start.elapsed();
    println!("1 GiB up and down at once, opaque: {:.0} MiB/s", 2.0 * BLOCKS as f64 / took.as_secs_f64());
    tell(&pair, "up and down, opaque", before);
}

fn upload(pair: &Pair, framing: &str, arguments: &[&str]) {
    let path = pair.mesh.folder.join("gibibyte");
    if !path.exists() {
        let mut file = std::fs::File::create(&path).unwrap();
        (0..BLOCKS).for_each(|number| file.write_all(&block(number)).unwrap());
    }
    let start = Instant::now();
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--max-time", "900", "-T"]).arg(&path).args(arguments).arg(format!("http://{}/", pair.listener));
    let said: serde_json::Value = serde_json::from_slice(&pair.finish(&mut curl).stdout).unwrap();
    assert_eq!(said, serde_json::json!({"length": BLOCKS * MIB, "right": true, "framing": framing}));
    println!("1 GiB up, {framing}: {:.0} MiB/s", BLOCKS as f64 / start.elapsed().as_secs_f64());
}

fn download(pair: &Pair, path: &str, arguments: &[&str]) {
    let start = Instant::now();
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--max-time", "900"]).args(arguments).arg(format!("http://{}{path}", pair.listener));
    let mut curl = curl.stdout(Stdio::piped()).spawn().unwrap();
    check(curl.stdout.as_mut().unwrap());
    assert!(curl.wait().unwrap().success(), "curl {path}\n{}", pair.tails());
    println!("1 GiB down, {path} {arguments:?}: {:.0} MiB/s", BLOCKS as f64 / start.elapsed().as_secs_f64());
}

/// A MiB that differs from every other.
fn block(number: usize) -> Vec<u8> {
    (number as u64).to_be_bytes().repeat(MIB / 8)
}

/// Reads the gibibyte, and that it ends there.
fn check(body: &mut impl Read) {
    let mut read = vec![0; MIB];
    for number in 0..BLOCKS {
        body.read_exact(&mut read).unwrap();
        assert!(read == block(number), "MiB {number} is not what was sent");
    }
    assert_eq!(body.read(&mut read).unwrap(), 0, "more came than was sent");
}

fn tell(pair: &Pair, what: &str, before: [u64; 2]) {
    let now = pair.peak_memory();
    println!(
        "{what}: peak memory of the caller's sidecar {} MiB (before: {}), of the server's {} MiB (before: {})",
        now[0], before[0], now[1], before[1]
    );
    for (now, before) in now.into_iter().zip(before) {
        assert!(now < before + GROWTH, "{what}: a sidecar grew from {before} to {now} MiB");
    }
}
