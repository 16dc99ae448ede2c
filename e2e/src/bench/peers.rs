//! The pairs that are compared: each an outbound and an inbound sidecar with mTLS between, started and stopped as a whole,
//! with the same duties. It must never give one of them less to do than the others can.

pub mod envoy;
pub mod haproxy;
pub mod leno;
pub mod nginx;

use std::fs;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::bail;

use crate::bench::counters;
use crate::bench::peers::leno::Leno;
use crate::process::Process;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Name {
    Leno,
    /// Leno with mTLS and nothing that a policy could add.
    Minimal,
    Haproxy,
    Envoy,
    Nginx,
    /// No sidecars at all.
    Direct,
}

impl Name {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Leno => "leno",
            Self::Minimal => "leno-minimal",
            Self::Haproxy => "haproxy",
            Self::Envoy => "envoy",
            Self::Nginx => "nginx",
            Self::Direct => "direct",
        }
    }
}

/// Which way a client takes through the pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// HTTP/1.1 client and application.
    Http1,
    /// HTTP/2 client, HTTP/1.1 application.
    Http2,
    /// HTTP/2 client and application.
    Grpc,
    /// The inbound sidecar's own port.
    Tls,
}

/// What every peer is told.
#[derive(Debug, Clone)]
pub struct Setup {
    /// A loopback network of its own, its last byte free.
    pub network: Ipv4Addr,
    pub http1: SocketAddr,
    pub http2: SocketAddr,
    /// Takes spans over OTLP/gRPC.
    pub spans: SocketAddr,
    pub workers: u32,
    /// The CPU of both sidecars; `None`: wherever the kernel likes.
    pub core: Option<usize>,
    pub folder: PathBuf,
    pub certificates: PathBuf,
    pub envoy: PathBuf,
}

impl Setup {
    fn at(&self, last: u8, port: u16) -> SocketAddr {
        let [a, b, c, _] = self.network.octets();
        (Ipv4Addr::new(a, b, c, last), port).into()
    }

    pub fn front(&self, door: Door) -> SocketAddr {
        match door {
            Door::Http1 => self.at(3, 15101),
            Door::Http2 => self.at(3, 15102),
            Door::Grpc => self.at(3, 15103),
            Door::Tls => self.at(2, 18080),
        }
    }

    /// The inbound sidecar's port for the HTTP/2 application.
    fn inbound_http2(&self) -> SocketAddr {
        self.at(2, 18081)
    }
}

/// Two processes with files of configuration.
pub struct Static {
    /// File name and text.
    pub files: Vec<(&'static str, String)>,
    pub outbound: Vec<String>,
    pub inbound: Vec<String>,
    pub doors: &'static [Door],
}

enum Parts {
    Direct,
    Static { made: Box<Static>, outbound: Option<Process>, inbound: Option<Process> },
    Leno(Box<Leno>),
}

pub struct Peer {
    pub name: Name,
    pub setup: Setup,
    parts: Parts,
}

impl Peer {
    /// Writes what it reads, and starts it.
    ///
    /// # Errors
    /// It does not answer in time; the error holds what it said.
    pub async fn start(name: Name, setup: Setup) -> anyhow::Result<Self> {
        fs::create_dir_all(&setup.folder)?;
        let made = match name {
            Name::Direct => None,
            Name::Leno | Name::Minimal => {
                let leno = Leno::start(&setup, name == Name::Minimal).await?;
                return Ok(Self { name, setup, parts: Parts::Leno(Box::new(leno)) });
            }
            Name::Haproxy => Some(haproxy::made(&setup)),
            Name::Envoy => Some(envoy::made(&setup)),
            Name::Nginx => Some(nginx::made(&setup)),
        };
        let parts = match made {
            None => Parts::Direct,
            Some(made) => {
                for (file, text) in &made.files {
                    fs::write(setup.folder.join(file), text)?;
                }
                Parts::Static { made: Box::new(made), outbound: None, inbound: None }
            }
        };
        let mut peer = Self { name, setup, parts };
        peer.restart()?;
        Ok(peer)
    }

    /// Ends both sidecars and starts them again; returns how long from the first `exec` to the first 200 through the pair.
    ///
    /// # Errors
    /// It does not answer in time.
    pub fn restart(&mut self) -> anyhow::Result<Duration> {
        let core = self.setup.core;
        let begun = match &mut self.parts {
            Parts::Direct => return Ok(Duration::ZERO),
            Parts::Leno(leno) => {
                leno.stop()?;
                let begun = Instant::now();
                counters::pinned(core, || leno.start_sidecars())?;
                begun
            }
            Parts::Static { made, outbound, inbound } => {
                end([outbound.take(), inbound.take()]);
                let start = |role: &str, argv: &[String]| {
                    let mut command = Command::new(&argv[0]);
                    command.args(&argv[1..]);
                    Process::start(&format!("{}-{role}", self.name.as_str()), &mut command, &self.setup.folder)
                };
                let begun = Instant::now();
                counters::pinned(core, || {
                    *inbound = Some(start("in", &made.inbound)?);
                    *outbound = Some(start("out", &made.outbound)?);
                    Ok(())
                })?;
                begun
            }
        };
        let door = self.door(Door::Http1).context("every peer serves HTTP/1.1")?;
        while !answers(door) {
            if begun.elapsed() > Duration::from_secs(30) {
                bail!("{} does not answer at {door}\n{}", self.name.as_str(), self.tails());
            }
            std::thread::sleep(Duration::from_micros(500));
        }
        Ok(begun.elapsed())
    }

    /// Tells Leno's sidecars to end, and waits until they have.
    ///
    /// # Errors
    /// One runs on.
    pub async fn end(&mut self) -> anyhow::Result<()> {
        match &mut self.parts {
            Parts::Leno(leno) => leno.end().await,
            Parts::Direct | Parts::Static { .. } => Ok(()),
        }
    }

    /// Where a client of this kind connects; `None`: this peer has no such way.
    pub fn door(&self, door: Door) -> Option<SocketAddr> {
        match &self.parts {
            Parts::Direct => match door {
                Door::Http1 => Some(self.setup.http1),
                Door::Http2 | Door::Grpc => Some(self.setup.http2),
                Door::Tls => None,
            },
            Parts::Leno(leno) => leno.door(door),
            Parts::Static { made, .. } => made.doors.contains(&door).then(|| self.setup.front(door)),
        }
    }

    /// For a handshake with the inbound sidecar: the folder with the client's certificate, and the protocol it offers.
    pub fn handshake(&self) -> (PathBuf, &'static str) {
        match &self.parts {
            Parts::Leno(leno) => (leno.client_certificate(), "leno/h2"),
            Parts::Direct | Parts::Static { .. } if self.name == Name::Nginx => {
                (self.setup.certificates.clone(), "http/1.1")
            }
            Parts::Direct | Parts::Static { .. } => (self.setup.certificates.clone(), "h2"),
        }
    }

    pub fn outbound(&self) -> Vec<u32> {
        match &self.parts {
            Parts::Direct => vec![],
            Parts::Static { outbound, .. } => outbound.iter().map(Process::pid).collect(),
            Parts::Leno(leno) => leno.outbound(),
        }
    }

    pub fn inbound(&self) -> Vec<u32> {
        match &self.parts {
            Parts::Direct => vec![],
            Parts::Static { inbound, .. } => inbound.iter().map(Process::pid).collect(),
            Parts::Leno(leno) => leno.inbound(),
        }
    }

    /// Both sidecars of the way from an HTTP/1.1 client to the HTTP/1.1 application.
    pub fn pair(&self) -> Vec<u32> {
        self.outbound().into_iter().chain(self.inbound().into_iter().take(1)).collect()
    }

    /// A sidecar that knows 50 services and does nothing, where the peer has one that differs from its others.
    pub fn idle(&self) -> Option<u32> {
        match &self.parts {
            Parts::Leno(leno) => leno.idle(),
            Parts::Direct | Parts::Static { .. } => None,
        }
    }

    fn tails(&self) -> String {
        match &self.parts {
            Parts::Direct => String::new(),
            Parts::Static { outbound, inbound, .. } => {
                outbound.iter().chain(inbound).map(|p| format!("--- {}\n{}\n", p.name, p.tail())).collect()
            }
            Parts::Leno(leno) => leno.tails(),
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if let Parts::Static { outbound, inbound, .. } = &mut self.parts {
            end([outbound.take(), inbound.take()]);
        }
    }
}

/// Told, and not killed: nginx's workers outlive a master that is killed, and serve in place of the next one's.
fn end(processes: [Option<Process>; 2]) {
    let mut running: Vec<Process> = processes.into_iter().flatten().collect();
    running.retain(|process| process.terminate().is_ok());
    let begun = Instant::now();
    while running.iter_mut().any(Process::is_running) && begun.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// For a peer that was told to end; then it is killed.
const PATIENCE: Duration = Duration::from_secs(5);

/// One request on a connection of its own.
fn answers(door: SocketAddr) -> bool {
    use std::io::Read;
    use std::io::Write;
    let ask = || -> std::io::Result<bool> {
        let mut socket = std::net::TcpStream::connect(door)?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        socket.write_all(b"GET /100 HTTP/1.1\r\nhost: web.shop\r\nconnection: close\r\n\r\n")?;
        let mut head = [0; 12];
        socket.read_exact(&mut head)?;
        Ok(&head == b"HTTP/1.1 200")
    };
    ask().unwrap_or(false)
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
