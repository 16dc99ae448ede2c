//! The Gateway API's filters into the model. It never skips a filter: one that it does not know makes its rule unusable.

use std::sync::Arc;

use leno_proto::policy::Filter;
use leno_proto::policy::HeaderEdit;
use leno_proto::policy::PathEdit;
use leno_proto::policy::Redirect;

use crate::compile::Lens;
use crate::compile::route;
use crate::compile::route::Site;
use crate::object::gateway::HeaderModifier;
use crate::object::gateway::HeaderValue;
use crate::object::gateway::PathModifier;
use crate::object::gateway::RequestMirror;
use crate::object::gateway::RequestRedirect;
use crate::object::gateway::RouteFilter;
use crate::object::gateway::UrlRewrite;

const MILLION: u64 = 1_000_000;

/// `None`: one of them cannot be honoured, or not beside the others.
pub(super) fn filters(lens: &Lens<'_>, site: &Site<'_>, namespace: &str, all: &[RouteFilter]) -> Option<Vec<Filter>> {
    if incompatible(all) {
        return None;
    }
    all.iter().map(|one| filter(lens, site, namespace, one)).collect()
}

fn filter(lens: &Lens<'_>, site: &Site<'_>, namespace: &str, one: &RouteFilter) -> Option<Filter> {
    match one.kind.as_str() {
        "RequestHeaderModifier" => Some(Filter::RequestHeaders(edit(one.request_header_modifier.as_ref()?)?)),
        "ResponseHeaderModifier" => Some(Filter::ResponseHeaders(edit(one.response_header_modifier.as_ref()?)?)),
        "RequestRedirect" => redirect(one.request_redirect.as_ref()?).map(Filter::Redirect),
        "URLRewrite" => rewrite(one.url_rewrite.as_ref()?),
        "RequestMirror" => Some(mirror(lens, site, namespace, one.request_mirror.as_ref()?)),
        _ => None,
    }
}

/// `None`: a name or a value that no header field can have; it would end the message, or begin another.
fn edit(modifier: &HeaderModifier) -> Option<HeaderEdit> {
    let name = |text: &str| is_token(text).then(|| Arc::<str>::from(text.to_ascii_lowercase()));
    let pair = |one: &HeaderValue| Some((name(&one.name)?, field_value(&one.value)?));
    Some(HeaderEdit {
        set: modifier.set.iter().map(pair).collect::<Option<_>>()?,
        add: modifier.add.iter().map(pair).collect::<Option<_>>()?,
        remove: modifier.remove.iter().map(|text| name(text)).collect::<Option<_>>()?,
    })
}

/// RFC 9110 section 5.6.2.
fn is_token(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !text.is_empty() && text.bytes().all(allowed)
}

/// RFC 9110 section 5.5.
fn field_value(text: &str) -> Option<Arc<str>> {
    text.bytes().all(|b| b == b'\t' || (b >= b' ' && b != 0x7f)).then(|| text.into())
}

fn redirect(from: &RequestRedirect) -> Option<Redirect> {
    let status = from.status_code.unwrap_or(302);
    Some(Redirect {
        scheme: optional(from.scheme.as_ref(), |text| visible(text))?,
        hostname: optional(from.hostname.as_ref(), |text| visible(text))?,
        port: optional(from.port.as_ref(), |port| (*port > 0).then_some(*port))?,
        path: optional(from.path.as_ref(), path_edit)?,
        status: (300..400).contains(&status).then_some(status)?,
    })
}

fn rewrite(from: &UrlRewrite) -> Option<Filter> {
    let hostname = optional(from.hostname.as_ref(), |text| visible(text))?;
    Some(Filter::Rewrite { hostname, path: optional(from.path.as_ref(), path_edit)? })
}

fn path_edit(from: &PathModifier) -> Option<PathEdit> {
    match from.kind.as_str() {
        "ReplaceFullPath" => Some(PathEdit::Full(visible(from.replace_full_path.as_deref()?)?)),
        "ReplacePrefixMatch" => Some(PathEdit::Prefix(visible(from.replace_prefix_match.as_deref()?)?)),
        _ => None,
    }
}

/// What is not there is fine; what is there must be.
fn optional<T, U>(from: Option<&T>, read: impl Fn(&T) -> Option<U>) -> Option<Option<U>> {
    match from {
        Some(from) => read(from).map(Some),
        None => Some(None),
    }
}

/// What may stand in a request line.
fn visible(text: &str) -> Option<Arc<str>> {
    text.bytes().all(|b| b.is_ascii_graphic()).then(|| text.into())
}

fn mirror(lens: &Lens<'_>, site: &Site<'_>, namespace: &str, from: &RequestMirror) -> Filter {
    let parts = match (&from.fraction, from.percent) {
        (Some(fraction), _) => {
            u64::from(fraction.numerator) * MILLION / u64::from(fraction.denominator.unwrap_or(100).max(1))
        }
        (None, Some(percent)) => u64::from(percent) * MILLION / 100,
        (None, None) => MILLION,
    };
    let backend = route::backend(lens, site, namespace, &from.backend_ref);
    Filter::Mirror { backend, parts_per_million: u32::try_from(parts.min(MILLION)).expect("at most a million") }
}

/// A request is sent elsewhere by its client, or forwarded as another: not both.
pub(super) fn incompatible(all: &[RouteFilter]) -> bool {
    let has = |kind: &str| all.iter().any(|one| one.kind == kind);
    has("RequestRedirect") && has("URLRewrite")
}

/// Whether we know the filter and it says what to do.
pub(super) fn known(one: &RouteFilter) -> bool {
    match one.kind.as_str() {
        "RequestHeaderModifier" => one.request_header_modifier.as_ref().and_then(edit).is_some(),
        "ResponseHeaderModifier" => one.response_header_modifier.as_ref().and_then(edit).is_some(),
        "RequestRedirect" => one.request_redirect.as_ref().and_then(redirect).is_some(),
        "URLRewrite" => one.url_rewrite.as_ref().and_then(rewrite).is_some(),
        "RequestMirror" => one.request_mirror.is_some(),
        _ => false,
    }
}
