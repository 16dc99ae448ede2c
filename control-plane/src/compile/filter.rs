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
        "RequestHeaderModifier" => Some(Filter::RequestHeaders(edit(one.request_header_modifier.as_ref()?))),
        "ResponseHeaderModifier" => Some(Filter::ResponseHeaders(edit(one.response_header_modifier.as_ref()?))),
        "RequestRedirect" => redirect(one.request_redirect.as_ref()?).map(Filter::Redirect),
        "URLRewrite" => {
            let rewrite = one.url_rewrite.as_ref()?;
            let path = match &rewrite.path {
                Some(path) => Some(path_edit(path)?),
                None => None,
            };
            Some(Filter::Rewrite { hostname: text(rewrite.hostname.as_deref()), path })
        }
        "RequestMirror" => Some(mirror(lens, site, namespace, one.request_mirror.as_ref()?)),
        _ => None,
    }
}

fn edit(modifier: &HeaderModifier) -> HeaderEdit {
    let pairs = |all: &[HeaderValue]| -> Vec<(Arc<str>, Arc<str>)> {
        all.iter().map(|one| (one.name.to_ascii_lowercase().into(), one.value.as_str().into())).collect()
    };
    HeaderEdit {
        set: pairs(&modifier.set),
        add: pairs(&modifier.add),
        remove: modifier.remove.iter().map(|name| name.to_ascii_lowercase().into()).collect(),
    }
}

fn redirect(from: &RequestRedirect) -> Option<Redirect> {
    let path = match &from.path {
        Some(path) => Some(path_edit(path)?),
        None => None,
    };
    Some(Redirect {
        scheme: text(from.scheme.as_deref()),
        hostname: text(from.hostname.as_deref()),
        port: from.port,
        path,
        status: from.status_code.unwrap_or(302),
    })
}

fn path_edit(from: &PathModifier) -> Option<PathEdit> {
    match from.kind.as_str() {
        "ReplaceFullPath" => Some(PathEdit::Full(text(from.replace_full_path.as_deref())?)),
        "ReplacePrefixMatch" => Some(PathEdit::Prefix(text(from.replace_prefix_match.as_deref())?)),
        _ => None,
    }
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

fn text(from: Option<&str>) -> Option<Arc<str>> {
    from.map(Into::into)
}

/// A request is sent elsewhere by its client, or forwarded as another: not both.
pub(super) fn incompatible(all: &[RouteFilter]) -> bool {
    let has = |kind: &str| all.iter().any(|one| one.kind == kind);
    has("RequestRedirect") && has("URLRewrite")
}

/// Whether we know the filter and it says what to do.
pub(super) fn known(one: &RouteFilter) -> bool {
    match one.kind.as_str() {
        "RequestHeaderModifier" => one.request_header_modifier.is_some(),
        "ResponseHeaderModifier" => one.response_header_modifier.is_some(),
        "RequestRedirect" => one.request_redirect.as_ref().and_then(redirect).is_some(),
        "URLRewrite" => {
            one.url_rewrite.as_ref().is_some_and(|to| to.path.as_ref().is_none_or(|path| path_edit(path).is_some()))
        }
        "RequestMirror" => one.request_mirror.is_some(),
        _ => false,
    }
}
