//! What a Pod's annotations ask of its sidecar, read strictly: a misspelt wish must never be no wish.

use ipnet::IpNet;
use leno_proto::fields;
use serde_json::Value;
use serde_json::json;

use crate::inject::INJECTED;
use crate::object::INBOUND_PORTS;
use crate::object::INJECT;

/// Read and in bounds.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Wishes {
    pub skip_inbound_ports: Option<String>,
    pub skip_outbound_ports: Option<String>,
    pub skip_inbound_subnets: Option<String>,
    pub skip_outbound_subnets: Option<String>,
    pub log: Option<String>,
    pub access_log: Option<String>,
    pub workers: Option<String>,
    pub image: Option<String>,
    /// On top of the mesh's, as a container's `resources`.
    pub resources: Value,
}

impl Wishes {
    /// Whether what arrives at this port never goes through the sidecar.
    pub fn skips_inbound(&self, port: i64) -> bool {
        let ports = self.skip_inbound_ports.as_deref().unwrap_or_default();
        ports.split(',').any(|one| one.trim().parse() == Ok(port))
    }
}

/// Everything that one may write, with what its value is.
pub const KNOWN: [(&str, &str); 13] = [
    (
        "leno.dev/skip-inbound-ports",
        "ports that never go through the sidecar on arrival, such as 9090,9091; the kubelet probes them itself",
    ),
    ("leno.dev/skip-outbound-ports", "ports that never go through the sidecar when leaving, such as 25,465"),
    ("leno.dev/skip-inbound-subnets", "networks from which nothing goes through the sidecar, such as 10.0.0.0/8"),
    (
        "leno.dev/skip-outbound-subnets",
        "networks to which nothing goes through the sidecar, such as 169.254.169.254/32",
    ),
    (
        "leno.dev/proxy-log",
        "what the sidecar logs: error, warn, info, debug, trace, off, or a list such as info,leno_proxy::pool=debug",
    ),
    ("leno.dev/access-log", "off, errors, all, or a share such as 10%"),
    ("leno.dev/workers", "worker threads, 1 to 64"),
    ("leno.dev/proxy-image", "another image for the sidecar"),
    ("leno.dev/proxy-cpu-request", "a quantity such as 50m"),
    ("leno.dev/proxy-cpu-limit", "a quantity such as 2"),
    ("leno.dev/proxy-memory-request", "a quantity such as 64Mi"),
    ("leno.dev/proxy-memory-limit", "a quantity such as 256Mi"),
    (INBOUND_PORTS, "pairs of ports, where nothing redirects"),
];

/// # Errors
/// The first annotation that is wrong: which, why, and what to write.
pub fn parse(metadata: &Value) -> Result<Wishes, String> {
    let mut wishes = Wishes { resources: json!({}), ..Wishes::default() };
    for (name, value) in metadata["annotations"].as_object().into_iter().flatten() {
        let Some(short) = name.strip_prefix("leno.dev/") else { continue };
        let text = value.as_str().unwrap_or_default().trim();
        let wrong = |remedy: &str| Err(format!("annotation {name}: {text:?}: {remedy}"));
        let known = KNOWN.iter().find(|(known, _)| known == name);
        let Some((_, meaning)) = known else {
            if name == INJECT || name == INJECTED {
                continue;
            }
            return Err(unknown(name));
        };
        let good = match short {
            "skip-inbound-ports" | "skip-outbound-ports" => {
                all(text, |one| one.parse::<u16>().is_ok_and(|port| port > 0))
            }
            "skip-inbound-subnets" | "skip-outbound-subnets" => all(text, |one| one.parse::<IpNet>().is_ok()),
            "workers" => text.parse::<u8>().is_ok_and(|workers| (1..=64).contains(&workers)),
            "proxy-log" => log_filter(text),
            "access-log" => access_log(text),
            "proxy-cpu-request" | "proxy-cpu-limit" | "proxy-memory-request" | "proxy-memory-limit" => quantity(text),
            _ => !text.is_empty() && text.len() <= 253,
        };
        if !good {
            return wrong(&format!("write {meaning}"));
        }
        let text = text.to_owned();
        match short {
            "skip-inbound-ports" => wishes.skip_inbound_ports = Some(text),
            "skip-outbound-ports" => wishes.skip_outbound_ports = Some(text),
            "skip-inbound-subnets" => wishes.skip_inbound_subnets = Some(text),
            "skip-outbound-subnets" => wishes.skip_outbound_subnets = Some(text),
            "proxy-log" => wishes.log = Some(text),
            "access-log" => wishes.access_log = Some(text),
            "workers" => wishes.workers = Some(text),
            "proxy-image" => wishes.image = Some(text),
            "proxy-cpu-request" => wishes.resources["requests"]["cpu"] = text.into(),
            "proxy-cpu-limit" => wishes.resources["limits"]["cpu"] = text.into(),
            "proxy-memory-request" => wishes.resources["requests"]["memory"] = text.into(),
            "proxy-memory-limit" => wishes.resources["limits"]["memory"] = text.into(),
            _ => {}
        }
    }
    Ok(wishes)
}

fn all(text: &str, good: impl Fn(&str) -> bool) -> bool {
    !text.is_empty() && text.split(',').all(|one| good(one.trim()))
}

/// As the sidecar reads it: a list of `LEVEL` and `TARGET=LEVEL`.
fn log_filter(text: &str) -> bool {
    let levels = ["error", "warn", "info", "debug", "trace", "off"];
    let level = |part: &str| {
        let level = part.rsplit_once('=').map_or(part, |(_, level)| level);
        levels.iter().any(|known| known.eq_ignore_ascii_case(level))
    };
    text.len() <= 253 && text.split(',').all(level)
}

fn access_log(text: &str) -> bool {
    let share = text.strip_suffix('%').and_then(|share| share.parse::<u8>().ok());
    matches!(text, "off" | "errors" | "all") || share.is_some_and(|share| share <= 100)
}

/// As Kubernetes writes amounts: digits, perhaps a fraction, perhaps a suffix.
fn quantity(text: &str) -> bool {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let suffixes = ["", "m", "k", "M", "G", "T", "Ki", "Mi", "Gi", "Ti"];
    number.parse::<f64>().is_ok_and(|amount| amount > 0.0) && suffixes.contains(&suffix)
}

fn unknown(name: &str) -> String {
    let known = KNOWN.iter().map(|(known, _)| *known).chain([INJECT]);
    match fields::closest(name, known) {
        Some(close) => format!("annotation {name}: there is none of this name; did you mean {close}?"),
        None => {
            let names: Vec<&str> = KNOWN.iter().map(|(known, _)| *known).collect();
            format!("annotation {name}: there is none of this name; there are {}", names.join(", "))
        }
    }
}
