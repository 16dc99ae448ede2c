//! Takes a body's bytes out of a connection's buffer, by length, by chunks or until the close. It must never take a byte
//! that follows the body, nor call a cut body complete.

use bytes::Buf;
use bytes::Bytes;
use bytes::BytesMut;
use leno_proto::request::Headers;

use crate::http::h1::fields;
use crate::http::h1::parse::Framing;

/// Where in its body a reader stands.
#[derive(Debug)]
pub struct Decoder {
    state: State,
    /// Bytes of chunk extensions so far, over the whole body.
    extensions: usize,
    trailers: Option<Headers>,
    /// Found while gathering, told after what was gathered.
    broken: Option<Broken>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Ended,
    Length(u64),
    UntilClose,
    ChunkSize,
    ChunkData(u64),
    /// The CRLF after a chunk's data.
    ChunkEnd,
    Trailers,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    Data(Bytes),
    /// More bytes are needed.
    More,
    End,
}

/// The body's framing is broken: everything after it on the connection is in doubt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Broken(pub &'static str);

impl Decoder {
    pub fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::None | Framing::Length(0) => State::Ended,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::ChunkSize,
            Framing::UntilClose => State::UntilClose,
        };
        Decoder { state, extensions: 0, trailers: None, broken: None }
    }

    pub fn is_ended(&self) -> bool {
        self.state == State::Ended
    }

    /// Bytes still to come, where the framing says.
    pub fn length(&self) -> Option<u64> {
        match self.state {
            State::Ended => Some(0),
            State::Length(left) => Some(left),
            State::UntilClose | State::ChunkSize | State::ChunkData(_) | State::ChunkEnd | State::Trailers => None,
        }
    }

    pub fn trailers(&mut self) -> Option<Headers> {
        self.trailers.take()
    }

    /// Small chunks that lie together are given as one piece: whoever takes them does so at a cost per piece.
    pub fn decode(&mut self, buf: &mut BytesMut) -> Result<Step, Broken> {
        if let Some(broken) = self.broken {
            return Err(broken);
        }
        let first = match self.step(buf)? {
            Step::Data(data) if data.len() <= COPY_MAX && self.state == State::ChunkEnd => data,
            step => return Ok(step),
        };
        let mut gathered = BytesMut::new();
        while gathered.len() <= COPY_MAX && !buf.is_empty() {
            match self.step(buf) {
                Ok(Step::Data(data)) => {
                    if gathered.is_empty() {
                        gathered.extend_from_slice(&first);
                    }
                    gathered.extend_from_slice(&data);
                }
                Ok(Step::More | Step::End) => break,
                Err(broken) => {
                    self.broken = Some(broken);
                    break;
                }
            }
        }
        Ok(Step::Data(if gathered.is_empty() { first } else { gathered.freeze() }))
    }

    fn step(&mut self, buf: &mut BytesMut) -> Result<Step, Broken> {
        loop {
            match self.state {
                State::Ended => return Ok(Step::End),
                _ if buf.is_empty() => return Ok(Step::More),
                State::UntilClose => return Ok(Step::Data(take(buf, usize::MAX))),
                State::Length(left) => {
                    let data = take(buf, usize::try_from(left).unwrap_or(usize::MAX));
                    let left = left - data.len() as u64;
                    self.state = if left == 0 { State::Ended } else { State::Length(left) };
                    return Ok(Step::Data(data));
                }
                State::ChunkData(left) => {
                    let data = take(buf, usize::try_from(left).unwrap_or(usize::MAX));
                    let left = left - data.len() as u64;
                    self.state = if left == 0 { State::ChunkEnd } else { State::ChunkData(left) };
                    return Ok(Step::Data(data));
                }
                State::ChunkEnd => {
                    match buf[..] {
                        [b'\r', b'\n', ..] => buf.advance(2),
                        [b'\r'] => return Ok(Step::More),
                        _ => return Err(Broken("chunk data longer than its size")),
                    }
                    self.state = State::ChunkSize;
                }
                State::ChunkSize => {
                    let Some(size) = self.chunk_size(buf)? else { return Ok(Step::More) };
                    self.state = if size == 0 { State::Trailers } else { State::ChunkData(size) };
                }
                State::Trailers => {
                    let Some(end) = trailers_end(buf)? else { return Ok(Step::More) };
                    let lines = buf.split_to(end);
                    let trailers = fields::trailers(&lines, TRAILER_FIELDS_MAX).map_err(|_| Broken("trailers"))?;
                    self.trailers = (!trailers.is_empty()).then_some(trailers);
                    self.state = State::Ended;
                }
            }
        }
    }

    /// The connection's bytes have ended: was that the body's end too?
    pub fn end_of_bytes(&mut self) -> Result<(), Broken> {
        match self.state {
            State::Ended => Ok(()),
            State::UntilClose => {
                self.state = State::Ended;
                Ok(())
            }
            State::Length(_) | State::ChunkSize | State::ChunkData(_) | State::ChunkEnd | State::Trailers => {
                Err(Broken("closed within the body"))
            }
        }
    }

    /// `1*HEXDIG [";" ...] CRLF`, and nothing between the digits and the semicolon.
    fn chunk_size(&mut self, buf: &mut BytesMut) -> Result<Option<u64>, Broken> {
        let digits = buf.iter().take(SIZE_DIGITS_MAX + 1).take_while(|b| b.is_ascii_hexdigit()).count();
        if digits > SIZE_DIGITS_MAX {
            return Err(Broken("chunk size"));
        }
        let Some(&after) = buf.get(digits) else { return Ok(None) };
        if digits == 0 || !matches!(after, b'\r' | b';') {
            return Err(Broken("chunk size"));
        }
        let line = &buf[digits..];
        let end = line.iter().position(|&b| !fields::is_value(b)).unwrap_or(line.len());
        if self.extensions + end > EXTENSIONS_MAX {
            return Err(Broken("chunk extensions"));
        }
        match line[end..] {
            [] | [b'\r'] => return Ok(None),
            [b'\r', b'\n', ..] => {}
            _ => return Err(Broken("chunk size line does not end in CRLF")),
        }
        let size = buf[..digits].iter().fold(0_u64, |n, &b| n << 4 | u64::from(hex(b)));
        if size > i64::MAX as u64 {
            return Err(Broken("chunk size"));
        }
        self.extensions += end;
        buf.advance(digits + end + 2);
        Ok(Some(size))
    }
}

/// Where the trailer section ends: just after its empty line.
fn trailers_end(buf: &[u8]) -> Result<Option<usize>, Broken> {
    let mut line_start = 0;
    loop {
        let Some(found) = buf[line_start..].iter().position(|&b| b == b'\n') else {
            return if buf.len() > TRAILERS_MAX { Err(Broken("trailers too large")) } else { Ok(None) };
        };
        let lf = line_start + found;
        if lf == line_start || buf[lf - 1] != b'\r' {
            return Err(Broken("a trailer line does not end in CRLF"));
        }
        if lf >= TRAILERS_MAX {
            return Err(Broken("trailers too large"));
        }
        if lf == line_start + 1 {
            return Ok(Some(lf + 1));
        }
        line_start = lf + 1;
    }
}

/// Small pieces are copied, so that the buffer stays the connection's own and is filled again; large ones are split off.
fn take(buf: &mut BytesMut, most: usize) -> Bytes {
    let n = buf.len().min(most);
    if n > COPY_MAX {
        return buf.split_to(n).freeze();
    }
    let data = Bytes::copy_from_slice(&buf[..n]);
    buf.advance(n);
    data
}

fn hex(b: u8) -> u8 {
    match b {
        b'0'..=b'9' => b - b'0',
        _ => (b | 0x20) - b'a' + 10,
    }
}

const COPY_MAX: usize = 4 * 1024;
/// A size below 2^64 has no more.
const SIZE_DIGITS_MAX: usize = 16;
/// Over one body: enough for the signatures that some clients put there on a few chunks, too little to hide a body in.
const EXTENSIONS_MAX: usize = 1024;
const TRAILERS_MAX: usize = 8 * 1024;
const TRAILER_FIELDS_MAX: usize = 100;
