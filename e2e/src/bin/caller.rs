//! An application that calls another all the time, and says how that goes: for stories on a real cluster. It must begin at its
//! very first moment and try nothing twice: what fails is to be seen.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use bytes::Bytes;
use clap::Parser;
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use leno_e2e::load::Load;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;

#[derive(Parser)]
struct Options {
    /// Whom to call, as HOST:PORT; the name is looked up once, at the start.
    target: String,
    #[arg(long, default_value = "/")]
    path: String,
    /// Requests a second.
    #[arg(long, default_value_t = 50)]
    rate: u32,
    #[arg(long, default_value_t = 5)]
    connections: u32,
    /// Where the figures so far are, as JSON.
    #[arg(long)]
    listen: SocketAddr,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let mut terminate = signal(SignalKind::terminate())?;
    let listener = TcpListener::bind(options.listen).await.with_context(|| format!("listen on {}", options.listen))?;
    let target = lookup(&options.target).await?;
    let host = options.target.split(':').next().unwrap_or_default();
    let start = Instant::now();
    let load = Load::start(target, host, &options.path, options.rate, options.connections);
    loop {
        let socket = tokio::select! {
            accepted = listener.accept() => accepted?.0,
            _ = terminate.recv() => break,
        };
        tokio::spawn(show(socket, load.clone(), start));
    }
    // What is under way is finished, as a well-behaved application does, and is counted.
    load.stop();
    load.finished(Duration::from_secs(10)).await;
    println!("{}", figures(&load, start));
    Ok(())
}

/// The first moments of a pod are its name server's first too.
async fn lookup(target: &str) -> anyhow::Result<SocketAddr> {
    let start = Instant::now();
    loop {
        match tokio::net::lookup_host(target).await.map(|mut found| found.next()) {
            Ok(Some(address)) => return Ok(address),
            Ok(None) | Err(_) if start.elapsed() < Duration::from_secs(30) => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Ok(None) => anyhow::bail!("{target} has no address"),
            Err(error) => return Err(error).with_context(|| format!("look {target} up")),
        }
    }
}

async fn show(socket: TcpStream, load: Load, start: Instant) {
    let service = hyper::service::service_fn(move |_| {
        let body = Full::new(Bytes::from(figures(&load, start)));
        async move { Ok::<_, Infallible>(hyper::Response::new(body)) }
    });
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service).await;
}

fn figures(load: &Load, start: Instant) -> String {
    let window = load.since(start);
    json!({"total": window.total, "failed": window.failed, "reasons": window.reasons}).to_string()
}
