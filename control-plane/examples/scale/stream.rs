//! One gRPC call over HTTP/2 and nothing around it, as cheap as it can be: a thousand of them run beside what is measured. It knows
//! only what this measurement's control plane says, and must never meet another server.

use bytes::Buf;
use bytes::BufMut;
use bytes::BytesMut;
use leno_proto::wire::control::FromProxy;
use leno_proto::wire::control::ToProxy;
use prost::Message;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Of a frame, RFC 9113 section 4.1; and of a gRPC message.
const HEAD: usize = 9;
const PREFIX: usize = 5;
/// So much may come before the control plane hears that we took it, on the stream and on the connection: half of what it may send.
const UNTOLD_MAX: usize = 32 * 1024;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

pub(crate) struct Stream {
    tls: TlsStream<TcpStream>,
    /// Not taken apart yet.
    frames: BytesMut,
    /// Of messages that have not come whole.
    gathered: BytesMut,
    untold: usize,
    out: Vec<u8>,
}

impl Stream {
    /// Calls Session with this token.
    pub(crate) async fn open(tls: TlsStream<TcpStream>, token: &str) -> std::io::Result<Stream> {
        let (frames, gathered) = (BytesMut::new(), BytesMut::new());
        let mut stream = Stream { tls, frames, gathered, untold: 0, out: PREFACE.to_vec() };
        stream.frame(SETTINGS, 0, 0, &[]);
        // :method POST and :scheme https by the static table, the rest literal, RFC 7541 section 6.2.2.
        let mut head = vec![0x83, 0x87];
        for (name, value) in [
            (&[0x04][..], "/leno.control.v1.Control/Session"),
            (&[0x01], "leno"),
            (&[0x0f, 0x10], "application/grpc"),
            (b"\0\x02te", "trailers"),
            (&[0x0f, 0x08], &format!("Bearer {token}")),
        ] {
            head.extend_from_slice(name);
            text(&mut head, value);
        }
        stream.frame(HEADERS, END_HEADERS, 1, &head);
        stream.flush().await?;
        Ok(stream)
    }

    pub(crate) async fn say(&mut self, message: &FromProxy) -> std::io::Result<()> {
        let mut framed = vec![0; PREFIX];
        message.encode(&mut framed).unwrap();
        let length = u32::try_from(framed.len() - PREFIX).unwrap();
        framed[1..PREFIX].copy_from_slice(&length.to_be_bytes());
        for part in framed.chunks(16 * 1024) {
            self.frame(DATA, 0, 1, part);
        }
        self.flush().await
    }

    /// `None` at the end. Whoever stops waiting loses nothing.
    pub(crate) async fn next(&mut self) -> std::io::Result<Option<ToProxy>> {
        loop {
            if let Some(message) = self.cut()? {
                return Ok(Some(message));
            }
            while self.frames.len() >= HEAD {
                let length = (&self.frames[..3]).get_uint(3) as usize;
                if self.frames.len() < HEAD + length {
                    break;
                }
                let mut frame = self.frames.split_to(HEAD + length);
                let (kind, flags) = (frame[3], frame[4]);
                frame.advance(HEAD);
                match kind {
                    DATA => {
                        self.untold += length;
                        self.gathered.extend_from_slice(&frame);
                    }
                    SETTINGS if flags & ACK == 0 => self.frame(SETTINGS, ACK, 0, &[]),
                    PING if flags & ACK == 0 => self.frame(PING, ACK, 0, &frame),
                    RESET | GOAWAY => return Ok(None),
                    _ => {}
                }
                if matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0 {
                    return Ok(None);
                }
            }
            if self.untold > UNTOLD_MAX {
                let taken = u32::try_from(std::mem::take(&mut self.untold)).unwrap().to_be_bytes();
                self.frame(WINDOW_UPDATE, 0, 0, &taken);
                self.frame(WINDOW_UPDATE, 0, 1, &taken);
            }
            self.flush().await?;
            if !self.whole() && self.tls.read_buf(&mut self.frames).await? == 0 {
                return Ok(None);
            }
        }
    }

    /// A message can be cut off.
    fn whole(&self) -> bool {
        self.gathered.len() >= PREFIX && self.gathered.len() - PREFIX >= (&self.gathered[1..PREFIX]).get_u32() as usize
    }

    fn cut(&mut self) -> std::io::Result<Option<ToProxy>> {
        if !self.whole() {
            return Ok(None);
        }
        self.gathered.advance(1);
        let length = self.gathered.get_u32() as usize;
        ToProxy::decode(self.gathered.split_to(length).freeze()).map(Some).map_err(std::io::Error::other)
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.out.put_uint(payload.len() as u64, 3);
        self.out.put_slice(&[kind, flags]);
        self.out.put_u32(stream);
        self.out.put_slice(payload);
    }

    /// What was not written whole is written by the next who flushes.
    async fn flush(&mut self) -> std::io::Result<()> {
        while !self.out.is_empty() {
            let written = self.tls.write(&self.out).await?;
            self.out.drain(..written);
        }
        self.tls.flush().await
    }
}

/// A string that is not compressed, RFC 7541 section 5.2.
fn text(to: &mut Vec<u8>, value: &str) {
    let mut length = value.len();
    if length < 127 {
        to.push(length as u8);
    } else {
        to.push(127);
        length -= 127;
        while length >= 128 {
            to.push((length % 128) as u8 | 128);
            length /= 128;
        }
        to.push(length as u8);
    }
    to.extend_from_slice(value.as_bytes());
}
