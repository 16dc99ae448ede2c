//! Trace context in and out (W3C, B3) and the spans of sampled requests. Unsampled, a request costs reading or making 24
//! bytes and writing one header; it must never wait for the exporter, nor build a span before its end.

pub mod export;

#[cfg(test)]
mod tests;

use std::time::SystemTime;

use leno_proto::request::Headers;
use rand::Rng;

/// Which headers carried the context in; the same ones carry it out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// `traceparent`, `tracestate` (W3C Trace Context, Level 2).
    #[default]
    W3c,
    /// One header `b3`.
    B3Single,
    /// `x-b3-traceid` and its kin.
    B3Multi,
}

/// Where a request stands in its trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context {
    pub trace: [u8; 16],
    /// The span that whoever reads the header is a child of.
    pub span: [u8; 8],
    pub sampled: bool,
    pub format: Format,
}

/// A span under way: which it is, and whose child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub context: Context,
    /// `None`: the trace begins here.
    pub parent: Option<[u8; 8]>,
}

impl Span {
    /// The span of a request that has arrived: a child of what its headers say, sampled as its parent was; without a parent
    /// a new trace, sampled with a chance of `sampling_ppm` in a million.
    pub fn arrive(headers: &Headers, sampling_ppm: u32, rng: &mut impl Rng) -> Self {
        match extract(headers) {
            Some(parent) => Self { context: Context { span: random(rng), ..parent }, parent: Some(parent.span) },
            None => {
                let sampled = sampling_ppm > 0 && rng.next_u64() % 1_000_000 < u64::from(sampling_ppm);
                let context = Context { trace: random(rng), span: random(rng), sampled, format: Format::W3c };
                Self { context, parent: None }
            }
        }
    }

    /// A child of this span: an attempt.
    pub fn child(&self, rng: &mut impl Rng) -> Self {
        Self { context: Context { span: random(rng), ..self.context }, parent: Some(self.context.span) }
    }
}

/// Never all zeros, which both formats forbid.
fn random<const N: usize>(rng: &mut impl Rng) -> [u8; N] {
    let mut bytes = [0; N];
    rng.fill_bytes(&mut bytes);
    bytes[N - 1] |= 1;
    bytes
}

/// The context in the headers. W3C wins over B3 where both are there; what does not parse counts as absent.
pub fn extract(headers: &Headers) -> Option<Context> {
    let text = |name| std::str::from_utf8(headers.get(name)?).ok();
    text("traceparent")
        .and_then(w3c)
        .or_else(|| text("b3").and_then(b3_single))
        .or_else(|| b3_multi(text("x-b3-traceid")?, text("x-b3-spanid")?, text("x-b3-sampled"), text("x-b3-flags")))
}

/// Writes the context in its format, and removes what other formats said: two truths would part later.
pub fn inject(headers: &mut Headers, context: &Context) {
    let mut buffer = [0; 55];
    match context.format {
        Format::W3c => {
            headers.retain(|name, _| !is_b3(name));
            headers.set("traceparent", write_w3c(&mut buffer, context));
        }
        Format::B3Single => {
            let sampled = if context.sampled { "1" } else { "0" };
            headers.set("b3", format!("{}-{}-{sampled}", hex(&context.trace), hex(&context.span)).as_bytes());
        }
        Format::B3Multi => {
            // The parent's id is optional in B3, and would be wrong now.
            headers.remove("x-b3-parentspanid");
            headers.set("x-b3-traceid", hex(&context.trace).as_bytes());
            headers.set("x-b3-spanid", hex(&context.span).as_bytes());
            headers.set("x-b3-sampled", if context.sampled { b"1" } else { b"0" });
        }
    }
}

fn is_b3(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"b3") || name.get(..5).is_some_and(|start| start.eq_ignore_ascii_case(b"x-b3-"))
}

/// `00-{32 hex}-{16 hex}-{2 hex}`; a later version may append fields (W3C Trace Context section 3.2).
fn w3c(text: &str) -> Option<Context> {
    let bytes = text.as_bytes();
    let dashes = bytes.len() >= 55 && bytes[2] == b'-' && bytes[35] == b'-' && bytes[52] == b'-';
    let version = parse_hex::<1>(text.get(..2)?)?[0];
    let length_fits = match version {
        0 => bytes.len() == 55,
        0xff => false,
        _ => bytes.len() == 55 || bytes[55] == b'-',
    };
    if !dashes || !length_fits || bytes[..55].iter().any(u8::is_ascii_uppercase) {
        return None;
    }
    let trace = nonzero(parse_hex::<16>(text.get(3..35)?)?)?;
    let span = nonzero(parse_hex::<8>(text.get(36..52)?)?)?;
    let flags = parse_hex::<1>(text.get(53..55)?)?[0];
    Some(Context { trace, span, sampled: flags & 1 == 1, format: Format::W3c })
}

/// `{trace}-{span}[-{sampled}[-{parent}]]`. A lone `0` or `1` decides sampling without a context; we then start our own.
fn b3_single(text: &str) -> Option<Context> {
    let mut parts = text.split('-');
    let (trace, span) = (parts.next()?, parts.next()?);
    // Not said: the decision is deferred to us, and a parent that did not decide is not sampled.
    let sampled = matches!(parts.next(), Some("1" | "d" | "true"));
    Some(Context { trace: b3_trace(trace)?, span: nonzero(parse_hex(span)?)?, sampled, format: Format::B3Single })
}

fn b3_multi(trace: &str, span: &str, sampled: Option<&str>, flags: Option<&str>) -> Option<Context> {
    let sampled = matches!(sampled, Some("1" | "true")) || flags == Some("1");
    Some(Context { trace: b3_trace(trace)?, span: nonzero(parse_hex(span)?)?, sampled, format: Format::B3Multi })
}

/// 128 bits, or 64 that are padded on the left.
fn b3_trace(text: &str) -> Option<[u8; 16]> {
    match text.len() {
        16 => {
            let mut trace = [0; 16];
            trace[8..].copy_from_slice(&parse_hex::<8>(text)?);
            nonzero(trace)
        }
        _ => nonzero(parse_hex(text)?),
    }
}

fn nonzero<const N: usize>(bytes: [u8; N]) -> Option<[u8; N]> {
    bytes.iter().any(|b| *b != 0).then_some(bytes)
}

fn parse_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |c: u8| (c as char).to_digit(16);
        *byte = (digit(pair[0])? * 16 + digit(pair[1])?) as u8;
    }
    Some(bytes)
}

const DIGITS: &[u8; 16] = b"0123456789abcdef";

fn write_hex(out: &mut [u8], bytes: &[u8]) {
    for (pair, byte) in out.chunks_exact_mut(2).zip(bytes) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
}

fn write_w3c<'a>(buffer: &'a mut [u8; 55], context: &Context) -> &'a [u8] {
    buffer.copy_from_slice(b"00-00000000000000000000000000000000-0000000000000000-00");
    write_hex(&mut buffer[3..35], &context.trace);
    write_hex(&mut buffer[36..52], &context.span);
    buffer[54] = if context.sampled { b'1' } else { b'0' };
    buffer
}

/// Lower-case hexadecimal, for logs and B3.
pub fn hex(bytes: &[u8]) -> String {
    let mut out = vec![0; 2 * bytes.len()];
    write_hex(&mut out, bytes);
    String::from_utf8(out).expect("hexadecimal digits are ASCII")
}

/// What a span is (OpenTelemetry span kind).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A request from the mesh to our application.
    Server,
    /// A request of our application, all its attempts; and each attempt.
    Client,
}

/// A span that has ended, built only where it is sampled. Names and attributes follow OpenTelemetry's semantic conventions
/// 1.44 for HTTP and RPC.
#[derive(Debug, Clone)]
pub struct Record {
    pub span: Span,
    /// Whether the parent lives in another process.
    pub parent_is_remote: bool,
    pub kind: Kind,
    /// `{method}` or `{method} {route}`; never the raw path.
    pub name: String,
    pub start: SystemTime,
    pub end: SystemTime,
    pub attributes: Vec<(&'static str, Value)>,
    pub failed: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Text(String),
    Number(i64),
}
