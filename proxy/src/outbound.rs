//! The outbound story: the application's connections, from accept to the last byte of each answer. It must never send in
//! plaintext where policy says mTLS, nor dial an address that leads back here.

mod again;
mod mirror;
mod pick;
mod place;
mod request;
mod route;
mod tunnel;

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use leno_proto::policy::Protocol;
use tokio::net::TcpStream;

use crate::ending::Ending;
use crate::error::Error;
use crate::error::Reason;
use crate::http::ResponseLog;
use crate::http::h1;
use crate::http::h1::Stream;
use crate::http::h2;
use crate::local::Local;
use crate::metrics::Direction;
use crate::net;
use crate::net::Early;
use crate::net::Io;
use crate::outbound::place::Place;
use crate::outbound::request::Requests;
use crate::outbound::tunnel::Tunnelled;
use crate::sniff::Sniff;
use crate::tcp;
use crate::worker::Accepted;
use crate::worker::Front;

/// The life of one connection of the application.
pub async fn serve(local: Rc<Local>, accepted: Accepted) {
    let Accepted { stream, peer, front, seat: _seat } = accepted;
    let mut ending = Ending::connection(&local, Direction::Outbound, peer);
    let outcome = match net::adopt(stream) {
        Ok((stream, early)) => connection(&local, stream, early, peer, &front, &mut ending).await,
        Err(error) => Err(Error::Because { reason: Reason::ClientGone, detail: error.to_string() }),
    };
    match outcome {
        // Its requests, or its tunnel, have told their own ends.
        Ok(()) => ending.silence(),
        Err(error) => {
            local.shared.metrics.proxy.connection_failures.increment(error.reason());
            ending.failed(error.reason(), error.to_string());
            ending.ended(crate::http::End { cut: Some(error.reason()), ..Default::default() });
        }
    }
}

async fn connection(
    local: &Rc<Local>,
    stream: TcpStream,
    mut early: BytesMut,
    peer: SocketAddr,
    front: &Front,
    ending: &mut Ending,
) -> Result<(), Error> {
    let place = place::of(local, front, &stream).await?;
    ending.service = place.label();
    // What is boxed here is done once, and must not stay as large as it was.
    match place.protocol() {
        Protocol::Opaque | Protocol::Tls => return Box::pin(tunnel::run(local, place, stream, early, peer)).await,
        Protocol::Http1 | Protocol::Http2 | Protocol::Grpc => {
            // The client of an HTTP server speaks first, however late.
            http(local, place, stream, early, peer, Wait::ForEver).await
        }
        Protocol::Detect if !place.may_be_opaque() => {
            http(local, place, stream, early, peer, Wait::Until(DETECT_MAX)).await
        }
        Protocol::Detect => match tokio::time::timeout(SILENCE, tcp::first_bytes(&stream, &mut early)).await {
            Ok(sniffed) => match sniffed? {
                Sniff::Http1 | Sniff::Http2 | Sniff::NeedMore => {
                    http(local, place, stream, early, peer, Wait::Until(DETECT_MAX)).await
                }
                Sniff::Tls | Sniff::Opaque => Box::pin(tunnel::run(local, place, stream, early, peer)).await,
            },
            // Perhaps the server speaks first: whoever is first decides.
            Err(_) => match Box::pin(tunnel::speculate(local, &place, &stream, &mut early, peer)).await? {
                Tunnelled::Opaque(upstream) => upstream.run(stream, early).await,
                Tunnelled::Http => http(local, place, stream, early, peer, Wait::Until(DETECT_MAX)).await,
            },
        },
    }
}

enum Wait {
    ForEver,
    Until(Duration),
}

/// A connection that carries requests.
async fn http(
    local: &Rc<Local>,
    place: Place,
    stream: TcpStream,
    mut early: BytesMut,
    peer: SocketAddr,
    wait: Wait,
) -> Result<(), Error> {
    let sniffed = match wait {
        Wait::ForEver => tcp::first_bytes(&stream, &mut early).await?,
        Wait::Until(most) => match tokio::time::timeout(most, tcp::first_bytes(&stream, &mut early)).await {
            Ok(sniffed) => sniffed?,
            Err(_) => {
                let detail = format!("no protocol was recognised in {most:?}");
                return Err(Error::Because { reason: Reason::DetectTimeout, detail });
            }
        },
    };
    let requests = Rc::new(Requests { local: Rc::clone(local), place, peer });
    let drained = local.shared.drain.clone().when_reached(crate::drain::Phase::Forced);
    match sniffed {
        Sniff::Http1 => {
            let stream = Stream { io: Io::Tcp(stream), read: early };
            let served = h1::serve(stream, &h1::ServerSettings::default(), &*requests, drained).await;
            tcp::served(served).await;
            Ok(())
        }
        Sniff::Http2 => {
            let io = Io::Tcp(stream);
            let settings =
                h2::Settings { near: net::is_near(&io), ..h2::Settings::plaintext(local.shared.ledger.clone()) };
            let io = Early::new(io, early);
            Error::of_http2(h2::serve(io, &settings, requests, &local.timers, drained).await)
        }
        Sniff::Tls | Sniff::Opaque | Sniff::NeedMore => {
            let detail = "neither HTTP/1 nor HTTP/2 on a port for HTTP".to_owned();
            Err(Error::Because { reason: Reason::OpaqueDenied, detail })
        }
    }
}

/// A client that is silent for this long may be waiting for the server to speak (CONTRACTS section 8).
const SILENCE: Duration = Duration::from_millis(100);
/// Then the connection is closed, where only requests may pass (InboundPolicy's `timeouts.detect` by default).
const DETECT_MAX: Duration = Duration::from_secs(3);
