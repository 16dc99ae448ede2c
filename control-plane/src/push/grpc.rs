//! gRPC on one stream of an HTTP/2 connection: messages in, messages out, a status at the end. It keeps nothing for a call that is
//! quiet, as thousands of sessions are quiet for days. It must never gather a message beyond the bound, nor queue another for a
//! peer that does not take the one before.

#[cfg(test)]
mod tests;

use std::future::poll_fn;
use std::task::Poll;

use bytes::Buf;
use bytes::BufMut;
use bytes::Bytes;
use bytes::BytesMut;
use h2::RecvStream;
use h2::SendStream;
use h2::server::SendResponse;
use http::HeaderMap;
use http::HeaderValue;
use http::Response;
use http::header::CONTENT_TYPE;
use prost::Message;
use tonic::Status;

use crate::push::frame::MESSAGE_MAX;

/// Before each message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// What the caller says.
pub struct Messages {
    body: RecvStream,
    /// Of a message that has not come whole; no memory in between.
    gathered: BytesMut,
}

impl Messages {
    pub fn new(body: RecvStream) -> Messages {
        Messages { body, gathered: BytesMut::new() }
    }

    /// The next one; `None` when the caller has said all. Whoever stops waiting loses nothing.
    pub async fn next<M: Message + Default>(&mut self) -> Result<Option<M>, Status> {
        loop {
            if let Some(message) = cut(&mut self.gathered)? {
                return Ok(Some(message));
            }
            match self.body.data().await {
                Some(Ok(data)) => {
                    // Once copied it is off the connection's hands; what is gathered is bounded by `cut`.
                    let _ = self.body.flow_control().release_capacity(data.len());
                    self.gathered.extend_from_slice(&data);
                }
                Some(Err(error)) => return Err(Status::cancelled(error.to_string())),
                None if self.gathered.is_empty() => return Ok(None),
                None => return Err(Status::internal("the stream ended within a message")),
            }
        }
    }
}

/// Takes one message off the front, when it has come whole.
fn cut<M: Message + Default>(gathered: &mut BytesMut) -> Result<Option<M>, Status> {
    let Some((prefix, rest)) = gathered.split_first_chunk::<PREFIX>() else { return Ok(None) };
    let [flag, length @ ..] = *prefix;
    if flag != 0 {
        return Err(Status::unimplemented("a compressed message, which was not agreed on"));
    }
    // A length that is no usize is none that we take.
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length > MESSAGE_MAX {
        return Err(Status::out_of_range(format!("a message of {length} bytes; at most {MESSAGE_MAX} are taken")));
    }
    if rest.len() < length {
        return Ok(None);
    }
    gathered.advance(PREFIX);
    let message = M::decode(gathered.split_to(length)).map_err(|error| Status::internal(error.to_string()))?;
    if gathered.is_empty() {
        *gathered = BytesMut::new();
    }
    Ok(Some(message))
}

/// What the caller is told.
pub struct Answer {
    stream: SendStream<Bytes>,
}

impl Answer {
    /// Says that the call is taken.
    pub fn begin(mut respond: SendResponse<Bytes>) -> Result<Answer, Status> {
        let mut response = Response::new(());
        response.headers_mut().insert(CONTENT_TYPE, GRPC);
        let stream = respond.send_response(response, false).map_err(gone)?;
        Ok(Answer { stream })
    }

    /// Until the caller has taken what was sent before. Whoever stops waiting loses nothing.
    pub async fn ready(&mut self) -> Result<(), Status> {
        self.stream.reserve_capacity(1);
        poll_fn(|cx| {
            loop {
                if self.stream.capacity() > 0 {
                    return Poll::Ready(Ok(()));
                }
                match std::task::ready!(self.stream.poll_capacity(cx)) {
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Poll::Ready(Err(gone(error))),
                    None => return Poll::Ready(Err(Status::cancelled("the stream is closed"))),
                }
            }
        })
        .await
    }

    /// Call it when `ready`. How long the message was.
    pub fn send(&mut self, message: &impl Message) -> Result<usize, Status> {
        let length = message.encoded_len();
        let announced = u32::try_from(length).ok().filter(|_| length <= MESSAGE_MAX);
        let announced = announced.ok_or_else(|| Status::internal(format!("a message of {length} bytes")))?;
        let mut framed = BytesMut::with_capacity(PREFIX + length);
        framed.put_u8(0);
        framed.put_u32(announced);
        // There is room for all of it.
        message.encode_raw(&mut framed);
        self.stream.send_data(framed.freeze(), false).map_err(gone)?;
        Ok(length)
    }

    /// The last word. A caller that is gone does not miss it.
    pub fn end(mut self, status: &Status) {
        let _ = self.stream.send_trailers(trailers(status));
    }
}

/// Answers a call with a status and nothing else.
pub fn refuse(mut respond: SendResponse<Bytes>, status: &Status) {
    let mut response = Response::new(());
    *response.headers_mut() = trailers(status);
    response.headers_mut().insert(CONTENT_TYPE, GRPC);
    // Who is gone does not miss it.
    let _ = respond.send_response(response, true);
}

/// Answers a call with one message.
pub async fn reply(respond: SendResponse<Bytes>, message: &impl Message) -> Result<(), Status> {
    let mut answer = Answer::begin(respond)?;
    answer.ready().await?;
    answer.send(message)?;
    answer.end(&Status::ok(""));
    Ok(())
}

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

/// The status as fields.
fn trailers(status: &Status) -> HeaderMap {
    let mut fields = HeaderMap::new();
    if status.add_header(&mut fields).is_err() {
        // What it says is not for a field; its code always is.
        fields = HeaderMap::from_iter([(Status::GRPC_STATUS, HeaderValue::from(status.code() as i32))]);
    }
    fields
}

fn gone(error: h2::Error) -> Status {
    Status::cancelled(error.to_string())
}
