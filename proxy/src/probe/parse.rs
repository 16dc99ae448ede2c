//! Reads the probes that the injector has put into the sidecar's environment. It must never take half of one: what is wrong is
//! named, and the sidecar does not start.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use serde_json::Value;

use crate::probe::Action;
use crate::probe::Probe;

/// A day: no hook takes longer.
const TIMEOUT_MAX: u64 = 86_400;

pub(super) fn probes(text: &str) -> Result<BTreeMap<String, Probe>, String> {
    if text.is_empty() {
        return Ok(BTreeMap::new());
    }
    let value: Value = serde_json::from_str(text).map_err(|error| format!("this is not JSON: {error}"))?;
    let probes = value.as_object().ok_or("write an object of CONTAINER/KIND and its probe")?;
    probes
        .iter()
        .map(|(name, value)| Ok((name.clone(), probe(value).map_err(|why| format!("{name}: {why}"))?)))
        .collect()
}

fn probe(value: &Value) -> Result<Probe, String> {
    let seconds = match &value["timeoutSeconds"] {
        Value::Null => 1,
        number => number.as_u64().filter(|s| (1..=TIMEOUT_MAX).contains(s)).ok_or("timeoutSeconds is 1 to 86400")?,
    };
    let (get, tcp, grpc) = (&value["httpGet"], &value["tcpSocket"], &value["grpc"]);
    let action = match (get.is_object(), tcp.is_object(), grpc.is_object()) {
        (true, false, false) => http(get)?,
        (false, true, false) => Action::Tcp { port: port(tcp)? },
        (false, false, true) => {
            Action::Grpc { port: port(grpc)?, service: grpc["service"].as_str().unwrap_or_default().to_owned() }
        }
        _ => return Err("write one of httpGet, tcpSocket, grpc".to_owned()),
    };
    Ok(Probe { action, timeout: Duration::from_secs(seconds), failed: AtomicBool::new(false) })
}

fn port(action: &Value) -> Result<u16, String> {
    let port = action["port"].as_u64().and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0);
    port.ok_or_else(|| "port is a number, 1 to 65535".to_owned())
}

fn http(action: &Value) -> Result<Action, String> {
    let tls = match action["scheme"].as_str().unwrap_or("HTTP") {
        scheme if scheme.eq_ignore_ascii_case("http") => false,
        scheme if scheme.eq_ignore_ascii_case("https") => true,
        other => return Err(format!("scheme is HTTP or HTTPS, and not {other:?}")),
    };
    let mut headers = HeaderMap::new();
    for header in action["httpHeaders"].as_array().into_iter().flatten() {
        let (name, value) = (header["name"].as_str().unwrap_or_default(), header["value"].as_str().unwrap_or_default());
        let name: HeaderName = name.parse().map_err(|_| format!("httpHeaders: {name:?} is no header's name"))?;
        let value = HeaderValue::from_str(value).map_err(|_| format!("httpHeaders: {value:?} is no header's value"))?;
        headers.append(name, value);
    }
    // The kubelet's own, unless the probe says otherwise; empty means none.
    let accept = headers.entry(http::header::ACCEPT).or_insert(HeaderValue::from_static("*/*"));
    if accept.is_empty() {
        headers.remove(http::header::ACCEPT);
    }
    Ok(Action::Http { port: port(action)?, tls, path: path(action["path"].as_str().unwrap_or_default()), headers })
}

/// As a request line can carry it: what no URL holds is escaped, and a fragment is not sent.
fn path(text: &str) -> String {
    let text = text.split('#').next().unwrap_or_default();
    let mut path = if text.starts_with('/') { String::new() } else { "/".to_owned() };
    for byte in text.bytes() {
        match byte {
            0..=b' ' | 0x7f.. | b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' => {
                let _ = write!(path, "%{byte:02X}");
            }
            _ => path.push(char::from(byte)),
        }
    }
    path
}
