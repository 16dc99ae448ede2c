//! A connection for the application that carries no requests: authorized once, then copied. It must never pass a byte before
//! that.

use std::rc::Rc;

use bytes::BytesMut;
use leno_proto::authorize;
use leno_proto::authorize::Peer;
use leno_proto::identity::SpiffeId;
use leno_proto::policy::Protocol;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::ending::Ending;
use crate::error::Error;
use crate::http::ResponseLog;
use crate::inbound;
use crate::inbound::Caller;
use crate::inbound::PortPolicy;
use crate::inbound::app::Application;
use crate::local::Local;
use crate::metrics::Direction;
use crate::metrics::Tls;
use crate::net::Io;
use crate::pool::Opened;
use crate::pool::Wire;
use crate::sniff::Sniff;
use crate::standing::Facts;
use crate::standing::Stand;
use crate::tcp;
use crate::tcp::Side;
use crate::tcp::first_bytes;

pub(super) async fn run(
    local: &Rc<Local>,
    mut client: Io,
    early: BytesMut,
    caller: Caller,
    policy: &PortPolicy,
) -> Result<(), Error> {
    let (mut opened, stand) = open(local, &caller, policy).await?;
    copy(local, &mut client, early, &mut opened, BytesMut::new(), (&caller, stand)).await;
    Ok(())
}

/// Connects while the client is silent; whoever speaks first decides.
pub(super) async fn speculate(
    local: &Rc<Local>,
    stream: TcpStream,
    mut early: BytesMut,
    caller: Caller,
    policy: &PortPolicy,
) -> Result<(), Error> {
    let (mut opened, stand) = open(local, &caller, policy).await?;
    let mut read = BytesMut::new();
    let sniffed = tokio::select! {
        // Requests must not slip past as bytes, so the client is heard first.
        biased;
        sniffed = first_bytes(&stream, &mut early) => Some(sniffed?),
        _ = opened.io.read_buf(&mut read) => None,
    };
    match sniffed {
        Some(sniffed @ (Sniff::Http1 | Sniff::Http2 | Sniff::NeedMore))
            if policy.port().protocol == Protocol::Detect =>
        {
            drop(opened);
            inbound::sniffed_plaintext(local, stream, early, caller, policy, sniffed).await
        }
        Some(_) | None => {
            let mut client = Io::Tcp(stream);
            copy(local, &mut client, early, &mut opened, read, (&caller, stand)).await;
            Ok(())
        }
    }
}

async fn open(local: &Rc<Local>, caller: &Caller, policy: &PortPolicy) -> Result<(Opened, Stand), Error> {
    let peer = Peer { identity: caller.identity.as_ref(), ip: caller.address.ip() };
    let permit =
        authorize::authorize(&policy.port().access, &peer, None).map_err(|denied| Error::denied(denied.origin))?;
    let Caller { address, identity, app } = caller;
    let facts = Facts { port: app.port(), ip: address.ip(), identity: identity.clone(), request: None };
    let stand = local.standing.enter(facts);
    Ok((Application::new(local, caller, policy, Wire::Opaque).open(local, &permit).await?, stand))
}

async fn copy(
    local: &Rc<Local>,
    client: &mut Io,
    early: BytesMut,
    opened: &mut Opened,
    read: BytesMut,
    (caller, stand): (&Caller, Stand),
) {
    let mut ending = Ending::connection(local, Direction::Inbound, caller.address);
    ending.service = caller.app.port().to_string().into();
    ending.endpoint = Some(caller.app);
    ending.client_identity = caller.identity.as_ref().map(SpiffeId::text);
    ending.tls = if caller.identity.is_some() { Tls::Mtls } else { Tls::Plaintext };
    ending.stand = Some(stand);
    ending.count();
    let client = Side { io: client, read: early };
    let upstream = Side { io: &mut opened.io, read };
    let copied = tcp::copy(client, upstream, Some(inbound::TUNNEL_IDLE), |cx| ending.poll_cut(cx)).await;
    ending.copied(copied);
}
