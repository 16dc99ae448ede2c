//! A load as a process of its own, so that its CPU and its stalls are not the runner's. It must never outlive whoever holds it.

use std::io::BufRead;
use std::io::BufReader;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;

use anyhow::Context;

use crate::bench::counters;
use crate::bench::figures::Figures;
use crate::bench::gates::Spec;
use crate::bench::load::Kind;

/// Where a load goes, and as whom.
pub struct Target<'a> {
    pub to: SocketAddr,
    /// Folder with `client.pem` and `client.key`.
    pub certificates: &'a Path,
    pub alpn: &'a str,
}

/// The load's process.
pub struct Load {
    child: Child,
    out: BufReader<std::process::ChildStdout>,
    figures: Option<Figures>,
}

impl Load {
    /// # Errors
    /// It does not start.
    pub fn begin(
        target: &Target<'_>,
        spec: &Spec,
        seconds: f64,
        core: Option<usize>,
        more: &[&str],
    ) -> anyhow::Result<Self> {
        let kind = match spec.kind {
            Kind::Closed => "closed",
            Kind::Fresh => "fresh",
            Kind::Paced => "paced",
            Kind::Http2 => "http2",
            Kind::Unary => "unary",
            Kind::Stream => "stream",
            Kind::Handshakes => "handshakes",
            Kind::Crowd => "crowd",
        };
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["load", kind, "--stay"]).args(more);
        let mut put = |name: &str, value: &str| {
            if !more.contains(&name) {
                command.args([name, value]);
            }
        };
        put("--to", &target.to.to_string());
        put("--connections", &spec.connections.to_string());
        put("--streams", &spec.streams.to_string());
        put("--seconds", &seconds.to_string());
        put("--warm", &(seconds * 0.25).min(0.5).to_string());
        put("--rate", &spec.rate.max(1).to_string());
        put("--path", spec.path);
        put("--post", &spec.post.to_string());
        put("--certificates", &target.certificates.display().to_string());
        put("--alpn", target.alpn);
        if spec.headers && !more.contains(&"--headers") {
            command.arg("--headers");
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = counters::pinned(core, || command.spawn().context("start the load"))?;
        let out = BufReader::new(child.stdout.take().context("its output is piped")?);
        Ok(Self { child, out, figures: None })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        let read = self.out.read_line(&mut line)?;
        anyhow::ensure!(read > 0, "the load ended without a word; what it said is above");
        Ok(line.trim().to_owned())
    }

    /// Waits until what it does counts.
    ///
    /// # Errors
    /// It ended before.
    pub fn warm(&mut self) -> anyhow::Result<()> {
        let line = self.line()?;
        anyhow::ensure!(line == "go", "the load said {line:?}");
        Ok(())
    }

    /// Its process stays until `end`, so that its CPU can be read.
    ///
    /// # Errors
    /// It ended without figures.
    pub fn wait_for_end(&mut self) -> anyhow::Result<()> {
        let line = self.line()?;
        self.figures = Some(Figures::parse(&line)?);
        Ok(())
    }

    /// Waits for its figures, and ends it.
    ///
    /// # Errors
    /// It ended without figures.
    pub fn end(mut self) -> anyhow::Result<Figures> {
        while self.figures.is_none() {
            let line = self.line()?;
            if line != "go" {
                self.figures = Some(Figures::parse(&line)?);
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.figures.take().context("read above")
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
