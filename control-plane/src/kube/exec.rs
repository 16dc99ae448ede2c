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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::AsyncBufReadExt;
    use tokio::io::AsyncRead;
    use tokio::io::BufReader;
    use tokio::net::TcpListener;

    use super::*;
    use crate::kube::access::Access;
    use crate::kube::access::Credential;

    const PLACE: Place<'_> = Place { namespace: "shop", pod: "orders", container: "leno-proxy" };
    const DONE: &[u8] = b"\x03{\"status\":\"Success\"}";

    /// A kubelet behind its API server, for one command: refuses whoever insists on a type of document, as go-restful does where a
    /// route declares none, and then sends these frames.
    async fn kubelet(frames: Vec<u8>) -> Arc<Client> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let mut socket = BufReader::new(listener.accept().await.unwrap().0);
            let anything = head(&mut socket).await.iter().any(|line| line == "accept: */*");
            let answer: &[u8] = match anything {
                true => b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\r\n",
                false => b"HTTP/1.1 406 Not Acceptable\r\ncontent-length: 0\r\n\r\n",
            };
            socket.write_all(answer).await.unwrap();
            socket.write_all(&frames).await.unwrap();
            // Until the client has read it all and goes.
            let _ = socket.read(&mut [0; 64]).await;
        });
        let (host, port) = (address.ip().to_string(), address.port());
        Client::new(Access { host, port, tls: None, credential: Credential::Token("ours".to_owned()) })
    }

    async fn head(socket: &mut BufReader<impl AsyncRead + Unpin>) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            socket.read_line(&mut line).await.unwrap();
            match line.trim() {
                "" => return lines,
                some => lines.push(some.to_ascii_lowercase()),
            }
        }
    }

    fn framed(first: u8, payload: &[u8]) -> Vec<u8> {
        [&[first, u8::try_from(payload.len()).unwrap()], payload].concat()
    }

    #[tokio::test]
    async fn a_command_gives_what_it_printed() {
        // In two messages, one of them in two frames, with a ping between.
        let frames = [framed(0x02, b"\x01one "), framed(0x89, b"?"), framed(0x80, b"two "), framed(0x82, b"\x01three")];
        let client = kubelet([frames.concat(), framed(0x82, DONE)].concat()).await;
        assert_eq!(exec(&client, PLACE, &["/leno-proxy"]).await.unwrap(), "one two three");
    }

    #[tokio::test]
    async fn a_command_that_failed_says_what_it_complained_of() {
        let failed = b"\x03{\"status\":\"Failure\",\"reason\":\"NonZeroExitCode\",\"message\":\"exit 1\"}";
        let client = kubelet([framed(0x82, b"\x02no such thing\n"), framed(0x82, failed)].concat()).await;
        let said = exec(&client, PLACE, &["/leno-proxy"]).await.unwrap_err().to_string();
        assert!(said.contains("no such thing"), "{said}");
    }

    #[tokio::test]
    async fn an_end_without_an_outcome_is_none() {
        let client = kubelet([framed(0x82, b"\x01half of it"), framed(0x88, b"")].concat()).await;
        assert!(exec(&client, PLACE, &["/leno-proxy"]).await.is_err());
    }
}
