//! The answers that a proxy makes itself, and how they name their reason. It must never send a body: its length would be
//! one more thing for a client to trip over.

use std::time::Duration;

use leno_proto::request::Headers;

use crate::error::Reason;
use crate::http::head::RequestHead;
use crate::http::head::ResponseHead;
use crate::http::head::Version;

/// The answer that this proxy makes itself: always with an empty body. gRPC callers get trailers-only (a 200 whose head
/// carries `grpc-status`), because their libraries read nothing else.
pub fn answer(reason: Reason, caller: Caller, retry_after: Option<Duration>) -> ResponseHead {
    let mut headers = Headers::new();
    let status = match caller {
        Caller::Grpc => {
            headers.push(b"content-type", b"application/grpc");
            headers.push(b"grpc-status", reason.grpc_code().to_string().as_bytes());
            headers.push(b"grpc-message", reason.as_str().as_bytes());
            200
        }
        Caller::Http => {
            headers.push(b"content-length", b"0");
            reason.status()
        }
    };
    let retry_after = retry_after.or_else(|| reason.sheds().then_some(Duration::from_secs(1)));
    if let Some(after) = retry_after {
        let seconds = after.as_millis().div_ceil(1000).max(1);
        headers.push(b"retry-after", seconds.to_string().as_bytes());
    }
    explain(&mut headers, reason);
    ResponseHead { version: Version::Http11, status, reason_phrase: Vec::new(), headers }
}

/// Names the reason on an answer that somebody else has begun.
pub fn explain(headers: &mut Headers, reason: Reason) {
    headers.set(REASON_HEADER, reason.as_str().as_bytes());
    let status = format!("leno; error={}; details=\"{}\"", reason.proxy_status(), reason.as_str());
    headers.push(b"proxy-status", status.as_bytes());
}

/// What kind of answer a caller understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    Http,
    Grpc,
}

impl Caller {
    /// gRPC says so in its content type (grpc/doc/PROTOCOL-HTTP2.md); grpc-web has another one and reads HTTP statuses.
    pub fn of(head: &RequestHead) -> Self {
        let Some(kind) = head.headers.get("content-type") else { return Self::Http };
        match kind.strip_prefix(b"application/grpc") {
            Some([] | [b'+' | b';', ..]) => Self::Grpc,
            Some(_) | None => Self::Http,
        }
    }
}

pub const REASON_HEADER: &str = "leno-reason";
