//! What a rule's filters do to heads (Gateway API HTTPRouteFilter). Pure. It must never let an edit forge what the proxies say
//! to each other.

use leno_proto::policy::HeaderEdit;
use leno_proto::policy::Match;
use leno_proto::policy::PathEdit;
use leno_proto::policy::PathMatch;
use leno_proto::policy::Redirect;
use leno_proto::request::Headers;

use crate::http::head::RequestHead;
use crate::http::head::ResponseHead;
use crate::http::head::Version;

pub(super) fn headers(headers: &mut Headers, edit: &HeaderEdit) {
    for (name, value) in &edit.set {
        headers.set(name, value.as_bytes());
    }
    for (name, value) in &edit.add {
        headers.push(name.as_bytes(), value.as_bytes());
    }
    for name in &edit.remove {
        headers.remove(name);
    }
}

pub(super) fn rewrite(
    head: &mut RequestHead,
    hostname: Option<&str>,
    path: Option<&PathEdit>,
    matched: Option<&Match>,
) {
    if let Some(hostname) = hostname {
        head.authority = hostname.into();
    }
    if let Some(path) = path {
        head.target = edited(&head.target, path, matched).into();
    }
}

pub(super) fn redirect(head: &RequestHead, redirect: &Redirect, matched: Option<&Match>) -> ResponseHead {
    let scheme = redirect.scheme.as_deref().unwrap_or(if head.scheme.is_empty() { "http" } else { head.scheme });
    let (host, port) = match head.authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => (host, port.parse().ok()),
        _ => (&*head.authority, None),
    };
    let host = redirect.hostname.as_deref().unwrap_or(host);
    // HTTPRequestRedirectFilter: without a port, a named scheme has its well-known one, else the request's stays.
    let port = redirect.port.or(if redirect.scheme.is_some() { None } else { port });
    let target =
        redirect.path.as_ref().map_or_else(|| head.target.to_string(), |path| edited(&head.target, path, matched));
    let authority = match (scheme, port) {
        (_, None) | ("http", Some(80)) | ("https", Some(443)) => host.to_owned(),
        (_, Some(port)) => format!("{host}:{port}"),
    };
    let mut headers = Headers::new();
    headers.push(b"location", format!("{scheme}://{authority}{target}").as_bytes());
    headers.push(b"content-length", b"0");
    ResponseHead { version: Version::Http11, status: redirect.status, reason_phrase: Vec::new(), headers }
}

/// The target with its path replaced and its query kept.
fn edited(target: &str, edit: &PathEdit, matched: Option<&Match>) -> String {
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    let mut new = match edit {
        PathEdit::Full(full) => full.to_string(),
        PathEdit::Prefix(replacement) => {
            let prefix = match matched.and_then(|matched| matched.path.as_ref()) {
                Some(PathMatch::Prefix(prefix)) => prefix.trim_end_matches('/'),
                _ => "",
            };
            let rest = path.strip_prefix(prefix).unwrap_or(path).trim_start_matches('/');
            let start = replacement.trim_end_matches('/');
            if rest.is_empty() && !start.is_empty() { start.to_owned() } else { format!("{start}/{rest}") }
        }
    };
    if let Some(query) = query {
        new.push('?');
        new.push_str(query);
    }
    new
}

pub(super) fn cookie<'a>(headers: &'a Headers, name: &str) -> Option<&'a str> {
    let mut pairs =
        headers.get_all("cookie").filter_map(|line| std::str::from_utf8(line).ok()).flat_map(|line| line.split(';'));
    pairs.find_map(|pair| pair.trim().strip_prefix(name)?.strip_prefix('='))
}
