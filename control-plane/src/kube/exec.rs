//! A command in a container, through the API server: its WebSocket (RFC 6455) with a channel number before each message. It must
//! never take a command that failed, or one cut short, for one that said nothing.

use bytes::BytesMut;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use crate::kube::Error;
use crate::kube::client::Client;
use crate::kube::client::unreachable;
use crate::query;

/// Messages of one byte of channel and then bytes; the outcome comes as a `Status`.
const PROTOCOL: &str = "v4.channel.k8s.io";
const TIME_MAX: std::time::Duration = std::time::Duration::from_secs(60);
/// The configuration of a proxy in a large mesh.
const SAID_MAX: usize = 64 << 20;

/// In which container.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    pub namespace: &'a str,
    pub pod: &'a str,
    pub container: &'a str,
}

/// What it printed.
///
/// # Errors
/// The API server refused, or the command failed; then what it complained of is the message.
pub async fn exec(client: &Client, place: Place<'_>, command: &[&str]) -> Result<String, Error> {
    let Place { namespace, pod, container } = place;
    let mut pairs = vec![("container", container), ("stdout", "true"), ("stderr", "true")];
    pairs.extend(command.iter().map(|word| ("command", *word)));
    let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}/exec?{}", query::encode(&pairs));
    let whole = async {
        let socket = client.upgraded(&path, PROTOCOL).await?;
        listen(TokioIo::new(socket)).await
    };
    timeout(TIME_MAX, whole).await.map_err(|_| Error::Unreachable(format!("no end in {} s", TIME_MAX.as_secs())))?
}

/// One frame of the API server.
struct Frame {
    last: bool,
    opcode: u8,
    payload: Vec<u8>,
}

async fn listen(mut socket: TokioIo<Upgraded>) -> Result<String, Error> {
    let (mut out, mut complaint, mut message) = (Vec::new(), Vec::new(), BytesMut::new());
    loop {
        let frame = frame(&mut socket).await?;
        match frame.opcode {
            // Continuation, text, binary.
            0..=2 => message.extend_from_slice(&frame.payload),
            8 => return Err(Error::Malformed("the API server closed before the command's outcome".to_owned())),
            9 => {
                socket.write_all(&pong(&frame.payload)).await.map_err(unreachable)?;
                continue;
            }
            _ => continue,
        }
        if out.len() + complaint.len() + message.len() > SAID_MAX {
            return Err(Error::Malformed(format!("it printed more than {SAID_MAX} bytes")));
        }
        if !frame.last {
            continue;
        }
        let whole = std::mem::take(&mut message);
        match whole.split_first() {
            Some((1, said)) => out.extend_from_slice(said),
            Some((2, said)) => complaint.extend_from_slice(said),
            Some((3, said)) => {
                let said: Value = serde_json::from_slice(said).map_err(|error| Error::Malformed(error.to_string()))?;
                return outcome(&said, out, &complaint);
            }
            _ => {}
        }
    }
}

fn outcome(said: &Value, out: Vec<u8>, complaint: &[u8]) -> Result<String, Error> {
    if said["status"] == "Success" {
        return Ok(String::from_utf8_lossy(&out).into_owned());
    }
    let words = String::from_utf8_lossy(complaint).trim().to_owned();
    let message = if words.is_empty() { said["message"].as_str().unwrap_or("it failed").to_owned() } else { words };
    let reason = said["reason"].as_str().unwrap_or("Failure").to_owned();
    Err(Error::Refused { status: 500, reason, message })
}

/// RFC 6455 section 5.2. A server never masks.
async fn frame(socket: &mut TokioIo<Upgraded>) -> Result<Frame, Error> {
    let mut head = [0; 2];
    socket.read_exact(&mut head).await.map_err(unreachable)?;
    let length = match head[1] & 0x7f {
        126 => u64::from(socket.read_u16().await.map_err(unreachable)?),
        127 => socket.read_u64().await.map_err(unreachable)?,
        short => u64::from(short),
    };
    let length = usize::try_from(length).ok().filter(|length| *length <= SAID_MAX && head[1] & 0x80 == 0);
    let mut payload = vec![0; length.ok_or_else(|| Error::Malformed("a WebSocket frame".to_owned()))?];
    socket.read_exact(&mut payload).await.map_err(unreachable)?;
    Ok(Frame { last: head[0] & 0x80 != 0, opcode: head[0] & 0x0f, payload })
}

/// A client masks (section 5.3); a mask of zeros leaves the bytes as they are. A ping carries 125 bytes at most.
fn pong(payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap_or(0).min(125);
    let mut frame = vec![0x8a, 0x80 | length, 0, 0, 0, 0];
    frame.extend_from_slice(&payload[..usize::from(length)]);
    frame
}
