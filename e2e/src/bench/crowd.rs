//! Many connections of the hop at once: each asks a few times and then stays, with nothing to do. It must keep answering what
//! a live peer answers (PING), or the other side would rightly close it.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use bytes::Bytes;
use h2::client::SendRequest;
use http::Request;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;

use crate::bench::counters;
use crate::bench::figures::Figures;
use crate::bench::figures::Latencies;
use crate::bench::handshakes;
use crate::bench::http2::WINDOW;
use crate::bench::load;
use crate::bench::load::HOST;
use crate::bench::load::Options;

/// Handshakes under way at once: more would wait for the same core.
const AT_ONCE: usize = 64;

/// Says `go` when every connection has had its answers; they stay for the seconds of the options. A connection that does not
/// come about, gets a wrong answer, or ends before that time counts as bad.
pub(super) async fn run(options: &Options) -> anyhow::Result<Figures> {
    counters::raise_descriptors()?;
    let folder = options.certificates.as_deref().context("a crowd needs --certificates")?;
    let connector = TlsConnector::from(Arc::new(handshakes::config(folder, &options.alpn)?));
    let (asked, ended) = (options.requests.unwrap_or(1), Rc::new(Cell::new(0)));
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    let joined: Vec<_> = (0..options.connections)
        .map(|_| {
            let (options, connector, turns, ended) = (options.clone(), connector.clone(), turns.clone(), ended.clone());
            tokio::task::spawn_local(async move {
                let _turn = turns.acquire().await?;
                join(&options, &connector, asked, ended).await
            })
        })
        .collect();
    let (mut present, mut bad) = (Vec::new(), 0);
    for one in joined {
        match one.await? {
            Ok(sender) => present.push(sender),
            Err(error) => {
                if bad == 0 {
                    eprintln!("a connection of the crowd: {error:#}");
                }
                bad += 1;
            }
        }
    }
    load::go();
    let begun = Instant::now();
    tokio::time::sleep(Duration::from_secs_f64(options.seconds)).await;
    let done = present.len() as u64 * asked;
    Ok(Figures::new(done, bad + ended.get(), begun.elapsed(), Latencies::default()))
}

/// One connection with its answers. It stays for as long as the sender does.
async fn join(
    options: &Options,
    connector: &TlsConnector,
    requests: u64,
    ended: Rc<Cell<u64>>,
) -> anyhow::Result<SendRequest<Bytes>> {
    let socket = TcpStream::connect(options.to).await.context("connect")?;
    socket.set_nodelay(true)?;
    let name = ServerName::try_from(options.server_name.clone())?;
    // What TLS buffers is this side's matter; the other side is what is measured.
    let tls = connector.connect(name, socket).await.context("handshake")?;
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW).enable_push(false);
    let (mut sender, connection) = builder.handshake::<_, Bytes>(tls).await?;
    tokio::task::spawn_local(async move {
        let _ = connection.await;
        ended.set(ended.get() + 1);
    });
    for _ in 0..requests {
        sender = sender.ready().await?;
        let request = Request::builder().uri(format!("http://{HOST}{}", options.path)).body(())?;
        let (answer, _) = sender.send_request(request, true)?;
        let (head, mut body) = answer.await?.into_parts();
        anyhow::ensure!(head.status == 200, "{}", head.status);
        while let Some(data) = body.data().await {
            let length = data?.len();
            body.flow_control().release_capacity(length)?;
        }
    }
    Ok(sender)
}
