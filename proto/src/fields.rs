//! What users may write in a TrafficPolicy or InboundPolicy: every field with its kind, default, bounds, unit and source, in
//! one table each. Validation, merging and resolving all follow from the table; it must never be written down twice.

pub mod duration;
mod profile;
mod resolve;
mod table;
mod unenforced;

#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

use serde_json::Map;
use serde_json::Value;

pub use crate::fields::profile::Profile;
pub use crate::fields::resolve::inbound;
pub use crate::fields::resolve::traffic;
pub use crate::fields::table::INBOUND;
pub use crate::fields::table::TRAFFIC;
pub use crate::fields::unenforced::unenforced;
use crate::policy::RouteKind;

/// One field that a user may set.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// Dotted, below `spec`.
    pub path: &'static str,
    pub kind: Kind,
    /// As a user would write it; empty: unset, which the source explains.
    pub default: &'static str,
    /// What it means, why this default, and where it comes from.
    pub source: &'static str,
    /// Whether this release's proxy acts on it. What it does not act on is reported as `Unsupported` where it is set.
    pub enforced: bool,
}

/// What values a field takes. Bounds are inclusive.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// A GEP-2257 string. `zero`: `0s` is allowed too, and means off.
    Duration {
        min: &'static str,
        max: &'static str,
        zero: bool,
    },
    Count {
        min: u32,
        max: u32,
    },
    /// An integer from 0 to 100.
    Percent,
    Switch,
    Choice(&'static [&'static str]),
    Text,
    /// A list of these, or of numbers where `codes` names their bounds.
    Choices {
        of: &'static [&'static str],
        codes: Option<(u32, u32)>,
    },
    /// A list of objects that a module of its own judges.
    Objects,
    /// An object that means something by being there, even if it is empty.
    Part,
    /// An object of which exactly one member is set. More specific policy replaces it whole.
    Union,
}

/// What is wrong with one field, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Dotted, below `spec`.
    pub field: String,
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// The body of a policy: its spec without what says where it applies.
pub type Body = Map<String, Value>;

/// Everything that is wrong with a body, unknown fields included; empty: it is valid.
pub fn check(table: &[Field], body: &Body) -> Vec<Problem> {
    let mut problems = Vec::new();
    walk(table, "", body, &mut problems);
    if problems.is_empty() {
        problems = resolve::contradictions(table, body);
    }
    problems
}

/// `over` on top of `base`: field by field, lists and unions whole (RFC 7386; GEP-713 "Patch defaults"). `null` returns a
/// field to its default.
pub fn merge(table: &[Field], base: &mut Body, over: &Body) {
    merge_below(table, "", base, over);
}

/// Whether the two set no field in common.
pub fn are_disjoint(table: &[Field], one: &Body, other: &Body) -> bool {
    let (one, other) = (set_fields(table, one), set_fields(table, other));
    !one.iter().any(|field| other.contains(field))
}

/// Paths of the fields that a body sets, unions as one.
pub fn set_fields(table: &[Field], body: &Body) -> Vec<String> {
    let mut paths = Vec::new();
    collect(table, "", body, &mut paths);
    paths
}

/// Of the fields that a body sets, those that this release does not enforce.
pub fn unsupported(table: &[Field], body: &Body) -> Vec<String> {
    let enforced = |path: &String| find(table, path).is_none_or(|field| field.enforced);
    set_fields(table, body).into_iter().filter(|path| !enforced(path)).collect()
}

/// Whether a TrafficPolicy on a route of this kind, or on one of its rules, decides about a field. All else is one for all that
/// leads to a Service: its connections, its limits, its breakers, and the budget that the retries to it share.
pub fn counts_on_route(kind: RouteKind, path: &str) -> bool {
    match kind {
        RouteKind::Http | RouteKind::Grpc => {
            path.starts_with("timeouts.") || (path.starts_with("retries.") && !path.starts_with("retries.budget"))
        }
        // Bytes have no answer to wait for, and a connection is tried again only until it stands.
        RouteKind::Tcp => {
            ["timeouts.streamIdle", "timeouts.maxStreamDuration", "retries.attempts", "retries.differentEndpoint"]
                .contains(&path)
        }
    }
}

/// Whether a field decides about connections whose bytes nobody reads as requests: opaque TCP and the application's own TLS.
pub fn counts_for_bytes(path: &str) -> bool {
    !OF_REQUESTS.iter().any(|field| path == *field || is_below(path, field))
}

const OF_REQUESTS: [&str; 16] = [
    "connection.maxRequests",
    "connection.http2",
    "timeouts.request",
    "timeouts.perTry",
    "timeouts.firstByte",
    "retries.retryOn",
    "retries.methods",
    "retries.acknowledgeNonIdempotent",
    "retries.backoff",
    "retries.budget",
    "retries.respectRetryAfter",
    "retries.maxBodyBytes",
    "circuitBreaker.endpoint.statusFailures",
    "circuitBreaker.service",
    "concurrency",
    "rateLimit",
];

/// Of the fields that a TrafficPolicy's body sets, those without any effect on such connections; a part stands for its members.
pub fn idle_for_bytes(body: &Body) -> Vec<String> {
    let mut idle = set_fields(TRAFFIC, body);
    idle.retain(|path| !counts_for_bytes(path));
    without_members(idle)
}

/// Of a TrafficPolicy's body, what has an effect on a route of this kind.
pub fn on_route(kind: RouteKind, body: &Body) -> Body {
    keep_below(kind, "", body)
}

/// Of the fields that a TrafficPolicy's body sets, those without any effect on a route of this kind; a part stands for its members.
pub fn idle_on_route(kind: RouteKind, body: &Body) -> Vec<String> {
    let mut idle = set_fields(TRAFFIC, body);
    idle.retain(|path| !leads_to_counting(kind, path));
    without_members(idle)
}

fn without_members(mut paths: Vec<String>) -> Vec<String> {
    let whole = paths.clone();
    paths.retain(|path| !whole.iter().any(|part| is_below(path, part)));
    paths
}

fn keep_below(kind: RouteKind, prefix: &str, body: &Body) -> Body {
    let keep = |(name, value): (&String, &Value)| {
        let path = join(prefix, name);
        let kept = match value {
            Value::Object(members) => Some(keep_below(kind, &path, members)).filter(|kept| !kept.is_empty())?.into(),
            value => leads_to_counting(kind, &path).then(|| value.clone())?,
        };
        Some((name.clone(), kept))
    };
    body.iter().filter_map(keep).collect()
}

/// It counts itself, or is a whole of which something does: `retries: null` puts back more than the budget.
fn leads_to_counting(kind: RouteKind, path: &str) -> bool {
    counts_on_route(kind, path)
        || TRAFFIC.iter().any(|field| is_below(field.path, path) && counts_on_route(kind, field.path))
}

fn is_below(path: &str, whole: &str) -> bool {
    path.strip_prefix(whole).is_some_and(|rest| rest.starts_with('.'))
}

fn find<'t>(table: &'t [Field], path: &str) -> Option<&'t Field> {
    table.iter().find(|field| field.path == path)
}

fn join(prefix: &str, name: &str) -> String {
    if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") }
}

fn walk(table: &[Field], prefix: &str, body: &Body, problems: &mut Vec<Problem>) {
    for (name, value) in body {
        let path = join(prefix, name);
        let below = format!("{path}.");
        let has_members = table.iter().any(|field| field.path.starts_with(&below));
        match (find(table, &path), value) {
            // RFC 7386: back to the default.
            (Some(_), Value::Null) => {}
            (None, Value::Null) if has_members => {}
            (Some(Field { kind: Kind::Union, .. }), Value::Object(members)) if members.len() != 1 => {
                problems.push(problem(&path, format!("set exactly one of {}", members_of(table, &below))));
            }
            (Some(Field { kind: Kind::Part | Kind::Union, .. }) | None, Value::Object(members)) if has_members => {
                walk(table, &path, members, problems);
            }
            (Some(field), value) => problems.extend(fault(field.kind, value).map(|message| problem(&path, message))),
            (None, _) if has_members => {
                problems.push(problem(&path, format!("takes an object with {}", members_of(table, &below))))
            }
            (None, _) => problems.push(problem(&path, unknown(table, prefix, name))),
        }
    }
}

fn problem(field: &str, message: String) -> Problem {
    Problem { field: field.to_owned(), message }
}

/// The names directly below a path that ends in a dot.
fn names<'t>(table: &'t [Field], below: &str) -> Vec<&'t str> {
    let mut names: Vec<&str> = table.iter().filter_map(|f| f.path.strip_prefix(below)?.split('.').next()).collect();
    names.dedup();
    names
}

fn members_of(table: &[Field], below: &str) -> String {
    names(table, below).join(", ")
}

fn unknown(table: &[Field], prefix: &str, name: &str) -> String {
    let below = if prefix.is_empty() { String::new() } else { format!("{prefix}.") };
    let known = names(table, &below);
    match closest(name, known.iter().copied()) {
        Some(close) => format!("no such field; did you mean {close}?"),
        None => format!("no such field; here are {}", known.join(", ")),
    }
}

/// Which of the known names was most likely meant: at most three edits away, or four where a name is long.
pub fn closest<'k>(name: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let edits_max = if name.len() > 16 { 4 } else { 3 };
    let near = known.into_iter().map(|known| (distance(known, name), known));
    near.filter(|(edits, _)| *edits <= edits_max).min_by_key(|(edits, _)| *edits).map(|(_, known)| known)
}

/// Levenshtein, without case.
fn distance(one: &str, other: &str) -> usize {
    let (one, other) = (one.to_ascii_lowercase(), other.to_ascii_lowercase());
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.bytes().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, b) in other.bytes().enumerate() {
            let change = corner + usize::from(a != b);
            corner = row[j + 1];
            row[j + 1] = change.min(corner + 1).min(row[j] + 1);
        }
    }
    row[other.len()]
}

/// What is wrong with a value of this kind.
fn fault(kind: Kind, value: &Value) -> Option<String> {
    match (kind, value) {
        (Kind::Duration { min, max, zero }, Value::String(text)) => duration_fault(text, min, max, zero),
        (Kind::Duration { min, .. }, Value::Number(number)) => {
            Some(format!("{number} has no unit; write \"{number}s\", or such as \"{min}\""))
        }
        (Kind::Count { min, max }, Value::Number(number)) => count_fault(number, min, max),
        (Kind::Percent, Value::Number(number)) => count_fault(number, 0, 100),
        (Kind::Switch, Value::Bool(_)) => None,
        (Kind::Choice(of), Value::String(text)) => {
            (!of.contains(&text.as_str())).then(|| format!("{text:?} is not one of {}", of.join(", ")))
        }
        (Kind::Text, Value::String(text)) => {
            (text.is_empty() || text.len() > 253).then(|| "takes 1 to 253 characters".to_owned())
        }
        (Kind::Choices { of, codes }, Value::Array(items)) if items.len() <= 64 => {
            items.iter().find_map(|item| item_fault(of, codes, item))
        }
        (Kind::Choices { .. }, Value::Array(_)) => Some("takes at most 64 items".to_owned()),
        (Kind::Objects, Value::Array(items)) => (items.len() > 64 || !items.iter().all(Value::is_object))
            .then(|| "takes a list of at most 64 objects".to_owned()),
        (Kind::Part | Kind::Union, Value::Object(members)) => {
            members.keys().next().map(|name| format!("takes no members, and has {name}"))
        }
        (kind, value) => Some(format!("{value} is not {}", expected(kind))),
    }
}

fn expected(kind: Kind) -> String {
    match kind {
        Kind::Duration { min, max, .. } => format!("a duration from \"{min}\" to \"{max}\""),
        Kind::Count { min, max } => format!("an integer from {min} to {max}"),
        Kind::Percent => "an integer from 0 to 100".to_owned(),
        Kind::Switch => "true or false".to_owned(),
        Kind::Choice(of) => format!("one of {}", of.join(", ")),
        Kind::Text => "a text".to_owned(),
        Kind::Choices { of, .. } => format!("a list of {}", of.join(", ")),
        Kind::Objects => "a list of objects".to_owned(),
        Kind::Part | Kind::Union => "an object".to_owned(),
    }
}

fn duration_fault(text: &str, min: &str, max: &str, zero: bool) -> Option<String> {
    let bound = |text| duration::parse(text).unwrap_or(Duration::ZERO);
    match duration::parse(text) {
        Ok(Duration::ZERO) if zero => None,
        Ok(value) if (bound(min)..=bound(max)).contains(&value) => None,
        Ok(_) if zero => Some(format!("{text} is out of bounds; write {min} to {max}, or 0s to turn it off")),
        Ok(_) => Some(format!("{text} is out of bounds; write {min} to {max}")),
        Err(why) => Some(format!("{text:?} {why}")),
    }
}

fn count_fault(number: &serde_json::Number, min: u32, max: u32) -> Option<String> {
    let inside = number.as_u64().is_some_and(|n| (u64::from(min)..=u64::from(max)).contains(&n));
    (!inside).then(|| format!("{number} is out of bounds; write an integer from {min} to {max}"))
}

fn item_fault(of: &[&str], codes: Option<(u32, u32)>, item: &Value) -> Option<String> {
    match (item, codes) {
        (Value::String(text), _) if of.contains(&text.as_str()) => None,
        (Value::Number(number), Some((min, max))) => count_fault(number, min, max),
        _ => Some(format!("{item} is not one of {}", of.join(", "))),
    }
}

fn merge_below(table: &[Field], prefix: &str, base: &mut Body, over: &Body) {
    for (name, value) in over {
        let path = join(prefix, name);
        let is_union = matches!(find(table, &path), Some(Field { kind: Kind::Union, .. }));
        match (value, base.get_mut(name)) {
            (Value::Null, _) => drop(base.remove(name)),
            (Value::Object(over), Some(Value::Object(base))) if !is_union => merge_below(table, &path, base, over),
            (value, _) => drop(base.insert(name.clone(), value.clone())),
        }
    }
}

fn collect(table: &[Field], prefix: &str, body: &Body, paths: &mut Vec<String>) {
    for (name, value) in body {
        let path = join(prefix, name);
        let field = find(table, &path);
        match (field, value) {
            (Some(Field { kind: Kind::Part, .. }) | None, Value::Object(members)) => {
                if field.is_some() {
                    paths.push(path.clone());
                }
                collect(table, &path, members, paths);
            }
            _ => paths.push(path),
        }
    }
}
