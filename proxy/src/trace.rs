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

/// Who decides what is sampled, and in which format a new trace begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rules {
    /// What `OTEL_TRACES_SAMPLER` says; `None`: the mesh decides.
    pub sampler: Option<Sampler>,
    /// The first of `OTEL_PROPAGATORS` that carries a context.
    pub format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sampler {
    /// Of a million traces.
    pub ppm: u32,
    /// A parent's decision stands.
    pub parent_based: bool,
}

impl Rules {
    /// From `OTEL_TRACES_SAMPLER`, `OTEL_TRACES_SAMPLER_ARG` and `OTEL_PROPAGATORS`. A sampler that is not known decides
    /// nothing, as OpenTelemetry asks for: the mesh's setting stands.
    pub fn from_environment(sampler: Option<&str>, argument: Option<&str>, propagators: Option<&str>) -> Self {
        const ALL: u32 = 1_000_000;
        let ratio = argument.and_then(|text| text.trim().parse::<f64>().ok()).filter(|r| (0.0..=1.0).contains(r));
        let ratio = ratio.map_or(ALL, |ratio| (ratio * f64::from(ALL)).round() as u32);
        let name = sampler.unwrap_or_default().trim();
        let parent_based = name.starts_with("parentbased_");
        let ppm = match name.trim_start_matches("parentbased_") {
            "always_on" => Some(ALL),
            "always_off" => Some(0),
            "traceidratio" => Some(ratio),
            _ => None,
        };
        let format = propagators.unwrap_or_default().split(',').find_map(|name| match name.trim() {
            "tracecontext" => Some(Format::W3c),
            "b3" => Some(Format::B3Single),
            "b3multi" => Some(Format::B3Multi),
            _ => None,
        });
        Self { sampler: ppm.map(|ppm| Sampler { ppm, parent_based }), format: format.unwrap_or_default() }
    }

    /// These rules over the mesh's own, which are: as the parent decided, else `sampling_ppm` of a million.
    fn sampler(&self, sampling_ppm: u32) -> Sampler {
        self.sampler.unwrap_or(Sampler { ppm: sampling_ppm, parent_based: true })
    }
}

impl Span {
    /// Reads the context that came with a request, and leaves that of its own span in its place.
    pub fn begin(headers: &mut Headers, sampling_ppm: u32, rules: &Rules, rng: &mut impl Rng) -> Self {
        let span = Self::arrive(headers, sampling_ppm, rules, rng);
        if span.parent.is_none() {
            // The state of a trace that does not go on (W3C Trace Context section 4.3).
            headers.remove("tracestate");
        }
        inject(headers, &span.context);
        span
    }

    /// The span of a request that has arrived: a child of what its headers say and sampled as its parent was, else the
    /// beginning of a trace, sampled with a chance of `sampling_ppm` in a million.
    fn arrive(headers: &Headers, sampling_ppm: u32, rules: &Rules, rng: &mut impl Rng) -> Self {
        let parent = extract(headers);
        let sampler = rules.sampler(sampling_ppm);
        let decided = parent.map_or_else(|| lone_decision(headers), |parent| parent.sampled);
        let sampled = match decided.filter(|_| sampler.parent_based) {
            Some(sampled) => sampled,
            None => sampler.ppm > 0 && rng.next_u64() % 1_000_000 < u64::from(sampler.ppm),
        };
        let (trace, format) = match &parent {
            Some(parent) => (parent.trace, parent.format),
            None => (random(rng), rules.format),
        };
        let context = Context { trace, span: random(rng), sampled, format };
        Self { context, parent: parent.map(|parent| parent.span) }
    }

    /// A child of this span: an attempt.
    pub fn child(&self, rng: &mut impl Rng) -> Self {
        Self { context: Context { span: random(rng), ..self.context }, parent: Some(self.context.span) }
    }
}

/// Never all zeros, which both formats forbid.
fn random<const N: usize>(rng: &mut impl Rng) -> [u8; N] {
    let mut bytes = [0; N];
    for word in bytes.as_chunks_mut::<8>().0 {
        *word = rng.next_u64().to_le_bytes();
    }
    bytes[N - 1] |= 1;
    bytes
}

/// A context as it arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parent {
    pub trace: [u8; 16],
    pub span: [u8; 8],
    /// `None`: B3 leaves it to whoever comes next.
    pub sampled: Option<bool>,
    pub format: Format,
}

/// The context in the headers. W3C wins over B3 where both are there; what does not parse counts as absent.
pub fn extract(headers: &Headers) -> Option<Parent> {
    let text = |name| std::str::from_utf8(headers.get(name)?).ok();
    headers
        .get("traceparent")
        .and_then(w3c)
        .or_else(|| text("b3").and_then(b3_single))
        .or_else(|| b3_multi(text("x-b3-traceid")?, text("x-b3-spanid")?, text("x-b3-sampled"), text("x-b3-flags")))
}

/// B3 may say whether to sample without saying what: `b3: 0`, or `x-b3-sampled` alone.
fn lone_decision(headers: &Headers) -> Option<bool> {
    let text = |name| std::str::from_utf8(headers.get(name)?).ok();
    if text("x-b3-flags") == Some("1") {
        return Some(true);
    }
    text("b3").or_else(|| text("x-b3-sampled")).and_then(decision)
}

fn decision(text: &str) -> Option<bool> {
    match text {
        "1" | "d" | "true" => Some(true),
        "0" | "false" => Some(false),
        _ => None,
    }
}

/// Writes the context in its format, and removes what other formats said: two truths would part later.
pub fn inject(headers: &mut Headers, context: &Context) {
    let mut buffer = [0; 55];
    match context.format {
        Format::W3c => {
            if headers.iter().any(|(name, _)| is_b3(name)) {
                headers.retain(|name, _| !is_b3(name));
            }
            headers.set("traceparent", write_w3c(&mut buffer, context));
        }
        Format::B3Single => {
            headers.retain(|name, _| !is_w3c(name) && (!is_b3(name) || name.len() == 2));
            let sampled = if context.sampled { "1" } else { "0" };
            headers.set("b3", format!("{}-{}-{sampled}", hex(&context.trace), hex(&context.span)).as_bytes());
        }
        Format::B3Multi => {
            // The parent's id is optional in B3, and would be wrong now; a debug flag is told by the decision.
            headers.retain(|name, _| !is_w3c(name) && !is_b3(name));
            headers.push(b"x-b3-traceid", hex(&context.trace).as_bytes());
            headers.push(b"x-b3-spanid", hex(&context.span).as_bytes());
            headers.push(b"x-b3-sampled", if context.sampled { b"1" } else { b"0" });
        }
    }
}

fn is_w3c(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"traceparent") || name.eq_ignore_ascii_case(b"tracestate")
}

fn is_b3(name: &[u8]) -> bool {
    matches!(name, [b'b' | b'B', _] | [b'x' | b'X', b'-', ..])
        && (name.eq_ignore_ascii_case(b"b3") || name.get(..5).is_some_and(|start| start.eq_ignore_ascii_case(b"x-b3-")))
}

/// `00-{32 hex}-{16 hex}-{2 hex}`; a later version may append fields (W3C Trace Context section 3.2).
fn w3c(text: &[u8]) -> Option<Parent> {
    let (known, later) = text.split_first_chunk::<55>()?;
    if known[2] != b'-' || known[35] != b'-' || known[52] != b'-' {
        return None;
    }
    let [version] = parse_hex(&known[..2], Digits::Lower)?;
    let length_fits = match version {
        0 => later.is_empty(),
        0xff => false,
        _ => later.first().is_none_or(|next| *next == b'-'),
    };
    if !length_fits {
        return None;
    }
    let trace = nonzero(parse_hex(&known[3..35], Digits::Lower)?)?;
    let span = nonzero(parse_hex(&known[36..52], Digits::Lower)?)?;
    let [flags] = parse_hex(&known[53..], Digits::Lower)?;
    Some(Parent { trace, span, sampled: Some(flags & 1 == 1), format: Format::W3c })
}

/// `{trace}-{span}[-{sampled}[-{parent}]]`. A lone `0` or `1` decides sampling without a context; we then start our own.
fn b3_single(text: &str) -> Option<Parent> {
    let mut parts = text.split('-');
    let (trace, span) = (parts.next()?, parts.next()?);
    let sampled = parts.next().and_then(decision);
    Some(Parent {
        trace: b3_trace(trace)?,
        span: nonzero(parse_hex(span.as_bytes(), Digits::Any)?)?,
        sampled,
        format: Format::B3Single,
    })
}

fn b3_multi(trace: &str, span: &str, sampled: Option<&str>, flags: Option<&str>) -> Option<Parent> {
    let sampled = if flags == Some("1") { Some(true) } else { sampled.and_then(decision) };
    Some(Parent {
        trace: b3_trace(trace)?,
        span: nonzero(parse_hex(span.as_bytes(), Digits::Any)?)?,
        sampled,
        format: Format::B3Multi,
    })
}

/// 128 bits, or 64 that are padded on the left.
fn b3_trace(text: &str) -> Option<[u8; 16]> {
    match text.len() {
        16 => {
            let mut trace = [0; 16];
            trace[8..].copy_from_slice(&parse_hex::<8>(text.as_bytes(), Digits::Any)?);
            nonzero(trace)
        }
        _ => nonzero(parse_hex(text.as_bytes(), Digits::Any)?),
    }
}

fn nonzero<const N: usize>(bytes: [u8; N]) -> Option<[u8; N]> {
    (bytes != [0; N]).then_some(bytes)
}

/// Which digits above nine are taken: W3C knows the lower case alone.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Digits {
    Any,
    Lower,
}

fn parse_hex<const N: usize>(text: &[u8], digits: Digits) -> Option<[u8; N]> {
    let pairs = text.as_chunks::<2>().0;
    if text.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    // What was met, looked at once at the end.
    let mut met = 0;
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        let (high, low) = (VALUE[usize::from(*high)], VALUE[usize::from(*low)]);
        met |= high | low;
        *byte = (high << 4) | (low & 15);
    }
    let taken = met & OTHER == 0 && (digits == Digits::Any || met & UPPER == 0);
    taken.then_some(bytes)
}

const DIGITS: &[u8; 16] = b"0123456789abcdef";
const UPPER: u8 = 0x20;
const OTHER: u8 = 0x80;

/// What each byte is worth as a digit, in the lower four bits.
static VALUE: [u8; 256] = {
    let mut value = [OTHER; 256];
    let mut n = 0;
    while n < 16 {
        let digit = DIGITS[n];
        if digit.is_ascii_lowercase() {
            value[digit.to_ascii_uppercase() as usize] = n as u8 | UPPER;
        }
        value[digit as usize] = n as u8;
        n += 1;
    }
    value
};

/// The two digits of each byte.
static PAIRS: [[u8; 2]; 256] = {
    let mut pairs = [[0; 2]; 256];
    let mut n = 0;
    while n < 256 {
        pairs[n] = [DIGITS[n >> 4], DIGITS[n & 15]];
        n += 1;
    }
    pairs
};

fn write_hex(out: &mut [u8], bytes: &[u8]) {
    for (pair, byte) in out.as_chunks_mut::<2>().0.iter_mut().zip(bytes) {
        *pair = PAIRS[usize::from(*byte)];
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
    pub parent: Lives,
    pub kind: Kind,
    /// `{method}`, or gRPC's `{package.Service}/{Method}`; never the raw path.
    pub name: String,
    pub start: SystemTime,
    pub end: SystemTime,
    pub attributes: Vec<(&'static str, Value)>,
    pub status: Status,
}

/// Where the parent of a span was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lives {
    Here,
    InAnotherProcess,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    Unset,
    /// With what happened, in words; empty where the status code says it.
    Failed(String),
}

#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Text(String),
    Number(i64),
}
