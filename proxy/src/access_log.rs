//! One JSON line for a request or connection that has ended, written by a thread of its own. It must never delay a request,
//! never write a byte that a peer chose without escaping it, and never grow without bound: what cannot be written is counted.

#[cfg(test)]
mod tests;

use std::fmt::Write as _;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;

use tokio::sync::mpsc;

use crate::error::Reason;
use crate::metrics::Direction;
use crate::metrics::Metrics;
use crate::metrics::Retry;

/// Which endings leave a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Off,
    /// What this proxy ended itself, and answers of 500 and above.
    Errors,
    /// Errors, and this many in a million of the rest.
    Sampled(u32),
    All,
}

impl Mode {
    /// Whether this ending is logged; `dice` is uniform in 0..1,000,000 and asked only where it matters.
    pub fn wants(self, status: u16, reason: Option<Reason>, dice: impl FnOnce() -> u32) -> bool {
        let failed = reason.is_some() || status >= 500;
        match self {
            Self::Off => false,
            Self::All => true,
            Self::Errors => failed,
            Self::Sampled(parts) => failed || dice() < parts,
        }
    }
}

/// What a line says. Texts from the network are cut to `TEXT_MAX` bytes when they are written.
#[derive(Debug, Clone)]
pub struct Entry {
    pub ended: SystemTime,
    pub direction: Direction,
    /// Who called: address, and identity where there was mTLS.
    pub client: SocketAddr,
    pub client_identity: Option<Arc<str>>,
    /// `namespace/name:port` outbound, the port inbound; empty where it was never known.
    pub service: Arc<str>,
    pub route: Arc<str>,
    /// Who answered, where someone was asked.
    pub endpoint: Option<SocketAddr>,
    /// `http/1.1`, `h2`, `tcp`.
    pub protocol: &'static str,
    pub method: String,
    pub authority: String,
    pub path: String,
    /// 0: none was sent.
    pub status: u16,
    pub grpc_status: Option<u16>,
    pub reason: Option<Reason>,
    /// What happened, in words, where `reason` says something.
    pub detail: String,
    pub duration: Duration,
    pub tries: u32,
    /// Why the last of several tries was made.
    pub retry: Option<Retry>,
    pub request_bytes: u64,
    pub response_bytes: u64,
    /// Lower-case hexadecimal, where the request was traced.
    pub trace: Option<String>,
}

/// Bytes of one text from the network in a line.
const TEXT_MAX: usize = 1024;

/// Lines that may wait for the writer; above that they are dropped and counted.
const WAITING_MAX: usize = 4096;

/// The workers' end. Clones share the queue.
#[derive(Clone)]
pub struct AccessLog {
    pub mode: Mode,
    queue: mpsc::Sender<Entry>,
    metrics: Arc<Metrics>,
}

impl AccessLog {
    /// The workers' end, and the writer to be run on a thread that may block.
    pub fn new(mode: Mode, metrics: Arc<Metrics>) -> (Self, Writer) {
        let (queue, entries) = mpsc::channel(WAITING_MAX);
        (Self { mode, queue, metrics }, Writer { entries })
    }

    /// Hands the entry to the writer without waiting.
    pub fn write(&self, entry: Entry) {
        if self.queue.try_send(entry).is_err() {
            self.metrics.proxy.log_lines_dropped.increment();
        }
    }
}

/// The other end: turns entries into lines.
pub struct Writer {
    entries: mpsc::Receiver<Entry>,
}

impl Writer {
    /// Writes until every `AccessLog` is gone. Flushes whenever nothing waits. Blocks: give it a thread.
    pub fn run(mut self, out: impl Write) {
        let mut out = std::io::BufWriter::new(out);
        let mut line = String::new();
        while let Some(entry) = self.entries.blocking_recv() {
            let mut next = Some(entry);
            while let Some(entry) = next {
                line.clear();
                format(&mut line, &entry);
                // A reader of our output that went away must not end the proxy.
                let _ = out.write_all(line.as_bytes());
                next = self.entries.try_recv().ok();
            }
            let _ = out.flush();
        }
    }
}

/// One line of JSON with its line feed. Fields that say nothing are left out.
fn format(line: &mut String, entry: &Entry) {
    let since = entry.ended.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let direction = match entry.direction {
        Direction::Inbound => "inbound",
        Direction::Outbound => "outbound",
    };
    let _ = write!(line, "{{\"time\":{}.{:03},\"direction\":\"{direction}\"", since.as_secs(), since.subsec_millis());
    text(line, "client", &entry.client.to_string());
    text(line, "client_identity", entry.client_identity.as_deref().unwrap_or_default());
    text(line, "service", &entry.service);
    text(line, "route", &entry.route);
    text(line, "endpoint", &entry.endpoint.map(|e| e.to_string()).unwrap_or_default());
    text(line, "protocol", entry.protocol);
    text(line, "method", &entry.method);
    text(line, "authority", &entry.authority);
    text(line, "path", &entry.path);
    if entry.status != 0 {
        let _ = write!(line, ",\"status\":{}", entry.status);
    }
    if let Some(status) = entry.grpc_status {
        let _ = write!(line, ",\"grpc_status\":{status}");
    }
    text(line, "reason", entry.reason.map(Reason::as_str).unwrap_or_default());
    text(line, "detail", &entry.detail);
    let _ = write!(line, ",\"duration_ms\":{:.3},\"tries\":{}", entry.duration.as_secs_f64() * 1e3, entry.tries);
    text(line, "retry", entry.retry.map(Retry::as_str).unwrap_or_default());
    let _ = write!(line, ",\"request_bytes\":{},\"response_bytes\":{}", entry.request_bytes, entry.response_bytes);
    text(line, "trace", entry.trace.as_deref().unwrap_or_default());
    line.push_str("}\n");
}

/// `,"name":"value"`, escaped for JSON (RFC 8259 section 7) and cut; nothing where the value is empty.
fn text(line: &mut String, name: &str, value: &str) {
    if value.is_empty() {
        return;
    }
    let _ = write!(line, ",\"{name}\":\"");
    let end = value.floor_char_boundary(TEXT_MAX);
    for c in value[..end].chars() {
        match c {
            '"' => line.push_str("\\\""),
            '\\' => line.push_str("\\\\"),
            // Controls, and those that a terminal or a viewer might act on.
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}') => {
                let _ = write!(line, "\\u{:04x}", c as u32);
            }
            c => line.push(c),
        }
    }
    line.push_str(if end < value.len() { "…\"" } else { "\"" });
}
