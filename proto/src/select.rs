//! Which route rule a request takes, and which of its backends. Pure; chance is an argument. It must never judge another path
//! than the one that will be forwarded.

#[cfg(test)]
mod tests;

use crate::policy::Backend;
use crate::policy::Match;
use crate::policy::OutboundPort;
use crate::policy::PathMatch;
use crate::policy::Route;
use crate::policy::RouteKind;
use crate::policy::Rule;
use crate::policy::StringMatch;
use crate::policy::ValueMatch;
use crate::request::RequestView;

/// The rule that a request takes.
#[derive(Debug, Clone, Copy)]
pub struct Selected<'a> {
    pub route: &'a Route,
    pub rule: &'a Rule,
    /// The match that selected it, for filters that replace its prefix; `None`: the rule has none and takes everything.
    pub matched: Option<&'a Match>,
}

/// What a port's routes say of a request.
#[derive(Debug, Clone, Copy)]
pub enum Selection<'a> {
    /// The port has no route of this kind: all goes to the Service's own endpoints.
    Own,
    Rule(Selected<'a>),
    /// There are routes, and none matches: 404 (GEP-1294; for gRPC `UNIMPLEMENTED`).
    NoMatch,
}

/// The best match over all routes of the port.
///
/// Gateway API v1, HTTPRouteRule.matches: "Proxy or Load Balancer routing configuration generated from HTTPRoutes MUST
/// prioritize matches based on the following criteria, continuing on ties. Across all rules specified on applicable Routes,
/// precedence must be given to the match having: * "Exact" path match. * "Prefix" path match with largest number of
/// characters. * Method match. * Largest number of header matches. * Largest number of query param matches. [...] If ties
/// still exist across multiple Routes, matching precedence MUST be determined in order of the following criteria, continuing
/// on ties: * The oldest Route based on creation timestamp. * The Route appearing first in alphabetical order by
/// "{namespace}/{name}". If ties still exist within an HTTPRoute, matching precedence MUST be granted to the FIRST matching
/// rule (in list order) with a match meeting the above criteria." Routes stand in that order in the policy already.
pub fn select<'a>(port: &'a OutboundPort, request: &RequestView<'_>) -> Selection<'a> {
    let mut best: Option<(Rank, Selected<'a>)> = None;
    let mut any = false;
    for route in port.routes.iter().filter(|r| r.kind != RouteKind::Tcp) {
        any = true;
        if !hosts_match(&route.hostnames, request.authority) {
            continue;
        }
        for rule in &route.rules {
            let Some((rank, matched)) = best_match(rule, request) else { continue };
            if best.as_ref().is_none_or(|(held, _)| rank > *held) {
                best = Some((rank, Selected { route, rule, matched }));
            }
        }
    }
    match best {
        Some((_, selected)) => Selection::Rule(selected),
        None if any => Selection::NoMatch,
        None => Selection::Own,
    }
}

/// The rule of a connection that carries no requests: the first TCPRoute's only rule.
pub fn select_tcp(port: &OutboundPort) -> Option<Selected<'_>> {
    let route = port.routes.iter().find(|r| r.kind == RouteKind::Tcp)?;
    Some(Selected { route, rule: route.rules.first()?, matched: None })
}

/// One of the backends by weight; `dice` is uniform in 0..2^64. `None`: none has a weight.
pub fn choose(backends: &[Backend], dice: u64) -> Option<&Backend> {
    if let [only] = backends {
        return (only.weight > 0).then_some(only);
    }
    let total: u64 = backends.iter().map(|b| u64::from(b.weight)).sum();
    let mut point = ((u128::from(dice) * u128::from(total)) >> 64) as u64;
    backends.iter().find(|backend| {
        let weight = u64::from(backend.weight);
        let here = point < weight;
        point = point.saturating_sub(weight);
        here
    })
}

/// Comparable precedence: greater wins, and the first of equals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    /// 3 exact, 2 prefix, 1 regular expression ("implementation-specific": below, as a named path is the clearer wish).
    path: u8,
    path_length: usize,
    method: bool,
    headers: usize,
    query: usize,
}

fn best_match<'a>(rule: &'a Rule, request: &RequestView<'_>) -> Option<(Rank, Option<&'a Match>)> {
    if rule.matches.is_empty() {
        // The API's default match: prefix "/".
        return Some((Rank { path: 2, path_length: 1, method: false, headers: 0, query: 0 }, None));
    }
    let mut best: Option<(Rank, Option<&'a Match>)> = None;
    for matched in rule.matches.iter().filter(|m| holds(m, request)) {
        let rank = rank(matched);
        if best.as_ref().is_none_or(|(held, _)| rank > *held) {
            best = Some((rank, Some(matched)));
        }
    }
    best
}

fn rank(matched: &Match) -> Rank {
    let (path, path_length) = match &matched.path {
        Some(PathMatch::Exact(path)) => (3, path.len()),
        Some(PathMatch::Prefix(prefix)) => (2, prefix.trim_end_matches('/').len().max(1)),
        Some(PathMatch::Regex(_)) => (1, 0),
        None => (2, 1),
    };
    let (headers, query) = (matched.headers.len(), matched.query.len());
    Rank { path, path_length, method: matched.method.is_some(), headers, query }
}

fn holds(matched: &Match, request: &RequestView<'_>) -> bool {
    matched.method.as_deref().is_none_or(|method| method == request.method)
        && matched.path.as_ref().is_none_or(|path| path_holds(path, request.path))
        && matched.headers.iter().all(|header| header_holds(header, request))
        && matched.query.iter().all(|parameter| query_holds(parameter, request.query.unwrap_or_default()))
}

fn path_holds(matched: &PathMatch, path: &str) -> bool {
    match matched {
        PathMatch::Exact(exact) => path == &**exact,
        PathMatch::Prefix(prefix) => {
            let prefix = prefix.trim_end_matches('/');
            path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }
        PathMatch::Regex(pattern) => pattern.matches(path.as_bytes()),
    }
}

/// Several lines of one field are one value, joined by commas (RFC 9110 section 5.3); each alone matches too.
fn header_holds(matched: &ValueMatch, request: &RequestView<'_>) -> bool {
    let text = |value| std::str::from_utf8(value).ok();
    let mut values = request.headers.get_all(&matched.name);
    let Some(first) = values.next() else { return false };
    let mut rest = values.peekable();
    if rest.peek().is_none() {
        return text(first).is_some_and(|value| value_holds(&matched.value, value));
    }
    let all: Option<Vec<&str>> = std::iter::once(first).chain(rest).map(text).collect();
    all.is_some_and(|all| {
        value_holds(&matched.value, &all.join(",")) || all.iter().any(|value| value_holds(&matched.value, value))
    })
}

/// HTTPQueryParamMatch: where a parameter stands more than once, the first one counts. Values are compared decoded.
fn query_holds(matched: &ValueMatch, query: &str) -> bool {
    let mut pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let value = pairs.find(|(name, _)| decode(name).as_deref() == Some(&*matched.name)).map(|(_, value)| value);
    value.and_then(decode).is_some_and(|value| value_holds(&matched.value, &value))
}

/// `+` and `%XX` (WHATWG URL, application/x-www-form-urlencoded). `None`: not UTF-8, which matches nothing.
fn decode(text: &str) -> Option<std::borrow::Cow<'_, str>> {
    if !text.contains(['%', '+']) {
        return Some(text.into());
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let hex = |at: usize| tail.get(at).and_then(|b| (*b as char).to_digit(16));
        match (first, hex(0), hex(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high * 16 + low) as u8);
                rest = &tail[2..];
            }
            (b'+', ..) => {
                bytes.push(b' ');
                rest = tail;
            }
            (byte, ..) => {
                bytes.push(*byte);
                rest = tail;
            }
        }
    }
    String::from_utf8(bytes).ok().map(Into::into)
}

fn value_holds(matched: &StringMatch, value: &str) -> bool {
    match matched {
        StringMatch::Exact(exact) => value == &**exact,
        StringMatch::Regex(pattern) => pattern.matches(value.as_bytes()),
    }
}

/// Hostnames compare without case and without the port. Empty: any.
pub fn hosts_match<T: AsRef<str>>(hostnames: &[T], authority: &str) -> bool {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !host.ends_with(':') => host,
        _ => authority,
    };
    hostnames.is_empty() || hostnames.iter().any(|hostname| host_matches(hostname.as_ref(), host))
}

/// `*.suffix` matches one or more labels before the suffix (Gateway API Hostname).
fn host_matches(hostname: &str, host: &str) -> bool {
    match hostname.strip_prefix('*') {
        Some(suffix) => {
            let at = host.len().checked_sub(suffix.len());
            at.is_some_and(|at| at > 0 && host.is_char_boundary(at) && host[at..].eq_ignore_ascii_case(suffix))
        }
        None => host.eq_ignore_ascii_case(hostname),
    }
}
