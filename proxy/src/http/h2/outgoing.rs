//! A body on its way out: what is ready of it, as far as its stream has room. It must never end a body cleanly that was cut.

use std::task::Context;
use std::task::Poll;
use std::task::ready;

use crate::error::Reason;
use crate::http::body::Body;
use crate::http::h2::FRAME;
use crate::http::h2::frame::Code;
use crate::http::h2::gathered::Cut;
use crate::http::h2::gathered::Gathered;
use crate::http::h2::handle::Handle;
use crate::http::h2::stream::Gone;

/// Sends until the body has ended and is on its way. Resets the stream if the source was cut.
pub(super) fn poll_send(
    gathered: &mut Gathered,
    body: &mut Body<'_>,
    stream: &Handle,
    cx: &mut Context<'_>,
) -> Poll<Result<(), Cut>> {
    loop {
        if let Err(reason) = gathered.gather(body, cx) {
            stream.reset(reset_for(reason));
            return Poll::Ready(Err(Cut::Source(reason)));
        }
        match stream.poll_room(cx) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(gone)) => return Poll::Ready(Err(cut(gone))),
            Poll::Pending => {
                body.poll_idle(cx);
                return Poll::Pending;
            }
        }
        if stream.with(|stream| stream.ended) {
            return Poll::Ready(Ok(()));
        }
        if gathered.is_empty() && !gathered.has_ended() {
            body.poll_idle(cx);
            let gone = ready!(stream.poll_gone(cx));
            return Poll::Ready(Err(cut(gone)));
        }
        match gathered.last_trailers() {
            Some(trailers) => stream.send_trailers(&trailers),
            None => {
                let data = gathered.take(FRAME);
                stream.send(data, gathered.is_nothing());
            }
        }
    }
}

/// How the peer ended the stream: it may merely need no more.
fn cut(gone: Gone) -> Cut {
    Cut::Peer { wanted: gone != Gone::Reset(Code::NO_ERROR) }
}

/// What the peer is told of a body that was cut: never an end.
pub(super) fn reset_for(reason: Reason) -> Code {
    match reason {
        Reason::ClientGone => Code::CANCEL,
        Reason::BadFraming | Reason::ProtocolError => Code::PROTOCOL_ERROR,
        Reason::H2Abuse => Code::ENHANCE_YOUR_CALM,
        _ => Code::INTERNAL_ERROR,
    }
}
