//! The load of one slice, as its own process runs it: which kind, to whom, for how long. It says `go` when it is warm, so that
//! the runner's counters begin with its own.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

use clap::Args;
use clap::ValueEnum;

use crate::bench::closed;
use crate::bench::crowd;
use crate::bench::figures::Figures;
use crate::bench::handshakes;
use crate::bench::http2;
use crate::bench::paced;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// HTTP/1.1, each connection at once again.
    Closed,
    /// HTTP/1.1, a new connection for every request.
    Fresh,
    /// HTTP/1.1 at a fixed rate; latency from the intended time.
    Paced,
    Http2,
    /// gRPC calls of one small message.
    Unary,
    /// gRPC streams of small messages, each answered before the next; a message counts as one.
    Stream,
    /// TLS handshakes alone.
    Handshakes,
    /// Connections of the hop that stay, each after `requests` requests.
    Crowd,
}

#[derive(Debug, Clone, Args)]
pub struct Options {
    #[arg(value_enum)]
    pub kind: Kind,
    #[arg(long)]
    pub to: SocketAddr,
    #[arg(long, default_value_t = 1)]
    pub connections: usize,
    /// At once on each HTTP/2 connection.
    #[arg(long, default_value_t = 1)]
    pub streams: usize,
    #[arg(long, default_value_t = 1.0)]
    pub seconds: f64,
    /// Load before anything counts.
    #[arg(long, default_value_t = 0.3)]
    pub warm: f64,
    /// Requests a second, of `paced`.
    #[arg(long, default_value_t = 1000)]
    pub rate: u32,
    /// End after so many requests instead of a time, of `closed`; of each connection, of `crowd`.
    #[arg(long)]
    pub requests: Option<u64>,
    /// Bytes a second that each connection takes at most, of `closed`; 0: as fast as they come.
    #[arg(long, default_value_t = 0)]
    pub pace: u64,
    #[arg(long, default_value = "/1k")]
    pub path: String,
    /// Bytes of a POST's body; 0: GET.
    #[arg(long, default_value_t = 0)]
    pub post: usize,
    /// Send fourteen header fields.
    #[arg(long)]
    pub headers: bool,
    /// Folder with `client.pem` and `client.key`, of `handshakes` and `crowd`.
    #[arg(long)]
    pub certificates: Option<PathBuf>,
    #[arg(long, default_value = "h2")]
    pub alpn: String,
    #[arg(long, default_value = "web")]
    pub server_name: String,
    /// Do not end after the figures: the runner reads this process's counters first.
    #[arg(long)]
    pub stay: bool,
}

/// The Host of every request.
pub const HOST: &str = "web.shop";

/// Runs it and prints its figures.
///
/// # Errors
/// Nobody is there at all, or the options do not fit together.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let clock = Clock::new(options);
    let figures = match options.kind {
        Kind::Paced => paced::run(options, clock)?,
        Kind::Handshakes => handshakes::run(options, clock)?,
        Kind::Crowd => local(crowd::run(options))?,
        Kind::Closed | Kind::Fresh => local(closed::run(options, clock))?,
        Kind::Http2 | Kind::Unary | Kind::Stream => local(http2::run(options, clock))?,
    };
    println!("{}", figures.line());
    if options.stay {
        loop {
            std::thread::park();
        }
    }
    Ok(())
}

fn local(work: impl Future<Output = anyhow::Result<Figures>>) -> anyhow::Result<Figures> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, work)
}

/// When the slice begins to count, and when it ends.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    pub begin: Instant,
    pub end: Instant,
}

impl Clock {
    fn new(options: &Options) -> Self {
        let begin = Instant::now() + Duration::from_secs_f64(options.warm);
        Self { begin, end: begin + Duration::from_secs_f64(options.seconds) }
    }

    pub fn counts(&self, now: Instant) -> bool {
        now >= self.begin && now < self.end
    }
}

/// Tells the runner that what comes now counts.
pub fn go() {
    println!("go");
}

/// The request as HTTP/1.1 writes it.
pub fn request(options: &Options) -> Vec<u8> {
    let method = if options.post > 0 { "POST" } else { "GET" };
    let close = if options.kind == Kind::Fresh { "connection: close\r\n" } else { "" };
    let mut text = format!("{method} {} HTTP/1.1\r\nhost: {HOST}\r\n{close}", options.path);
    if options.headers {
        for (name, value) in HEADERS {
            text += &format!("{name}: {value}\r\n");
        }
    }
    if options.post > 0 {
        text += &format!("content-type: application/octet-stream\r\ncontent-length: {}\r\n", options.post);
    }
    let mut bytes = (text + "\r\n").into_bytes();
    bytes.resize(bytes.len() + options.post, b'x');
    bytes
}

/// What a browser and an edge proxy send, about; with Host fourteen.
pub const HEADERS: [(&str, &str); 13] = [
    ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
    ("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
    ("accept-language", "en-US,en;q=0.5"),
    ("accept-encoding", "gzip, deflate, br, zstd"),
    ("referer", "https://shop.example.com/catalog/4711"),
    ("cookie", "session=5f0c2a7be1d94f4a8c1d; theme=dark; consent=1"),
    ("x-request-id", "0f9a6c58-3d1b-4f7e-9a53-2f8a1f6f0c11"),
    ("x-forwarded-for", "203.0.113.7, 10.0.3.11"),
    ("x-forwarded-proto", "https"),
    ("sec-fetch-dest", "document"),
    ("sec-fetch-mode", "navigate"),
    ("sec-fetch-site", "same-origin"),
    ("cache-control", "no-cache"),
];
