//! An explanation for people. It must never leave out what a user would have to know, nor print what nobody set unless asked.

use std::fmt::Write;

use leno_proto::policy::Match;
use leno_proto::policy::PathMatch;
use leno_proto::policy::StringMatch;
use leno_proto::policy::ValueMatch;
use serde_json::Value;

use crate::compile::Setting;
use crate::explain::Explanation;
use crate::explain::Reached;
use crate::explain::Said;
use crate::explain::Toward;
use crate::explain::Verdict;

/// Endpoints that are printed one by one; the rest are counted.
const ENDPOINTS_SHOWN: usize = 8;

impl Explanation {
    /// `all`: also the values that nobody set.
    pub fn text(&self, all: bool) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = self.write(&mut out, all);
        out
    }

    fn write(&self, out: &mut String, all: bool) -> std::fmt::Result {
        let identity = self.client_identity.as_deref().unwrap_or("no identity");
        writeln!(out, "client    Pod {} ({identity})", self.client)?;
        if !self.client_meshed {
            writeln!(
                out,
                "          it has no sidecar: its requests go out as they are, and nothing of the following applies"
            )?;
        }
        writeln!(out, "service   {}, {}", self.service, self.protocol)?;
        if let Some(view) = &self.view {
            writeln!(out, "view      of namespace {view}, which has routes or policies of its own for this Service")?;
        }
        match &self.verdict {
            Verdict::Own => writeln!(out, "route     none: to the Service's own endpoints")?,
            Verdict::Rule { route, rule, matched } => writeln!(out, "route     {route}, rule {rule} ({matched})")?,
            Verdict::Redirect { route, rule, status } => {
                return writeln!(out, "route     {route}, rule {rule}: answers {status}, a redirect");
            }
            Verdict::NoMatch { routes } => {
                return writeln!(out, "route     none of {} matches: answers 404", routes.join(", "));
            }
        }
        if self.backends.is_empty() {
            writeln!(out, "backend   none: answers 500")?;
        }
        settings(out, "request", &self.request_policy, all)?;
        for backend in &self.backends {
            backend.write(out, all)?;
        }
        Ok(())
    }
}

impl Toward {
    fn write(&self, out: &mut String, all: bool) -> std::fmt::Result {
        writeln!(out, "backend   {}, {:.2} % of requests", self.service, Trimmed(self.percent))?;
        if !self.resolved {
            return writeln!(out, "          it does not exist, or has no such port: this share answers 500");
        }
        settings(out, "policy", &self.policy, all)?;
        if let Some(node) = &self.own_node {
            writeln!(out, "          of the endpoints those on node {node} alone: internalTrafficPolicy is Local")?;
        }
        if self.endpoints.is_empty() {
            writeln!(out, "          no endpoints: answers 503, no_endpoints")?;
        }
        for endpoint in self.endpoints.iter().take(ENDPOINTS_SHOWN) {
            endpoint.write(out)?;
        }
        let hidden = self.endpoints.len().saturating_sub(ENDPOINTS_SHOWN);
        if hidden > 0 {
            writeln!(out, "          and {hidden} endpoints more")?;
        }
        Ok(())
    }
}

impl Reached {
    fn write(&self, out: &mut String) -> std::fmt::Result {
        let identity = self.identity.as_ref().map_or("plaintext, no sidecar".to_owned(), |id| format!("mTLS to {id}"));
        writeln!(out, "endpoint  {} {} {}, {identity}", self.pod, self.address, self.state)?;
        let word = if self.access.allowed { "allowed" } else { "denied (403, policy_denied)" };
        match &self.access.policy {
            Some(policy) => writeln!(out, "          {word}: AccessPolicy {policy}, {}", self.access.because),
            None => writeln!(out, "          {word}: {}", self.access.because),
        }
    }
}

/// Without zeros that say nothing.
struct Trimmed(f64);

impl std::fmt::Display for Trimmed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let digits = f.precision().unwrap_or(2);
        let text = format!("{:.digits$}", self.0);
        f.write_str(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

fn settings(out: &mut String, title: &str, all_said: &[Said], all: bool) -> std::fmt::Result {
    let shown: Vec<&Said> = all_said.iter().filter(|said| all || said.from.is_some()).collect();
    if shown.is_empty() {
        return writeln!(out, "{title:<10}as built in (--all prints it)");
    }
    let field = shown.iter().map(|said| said.field.len()).max().unwrap_or(0);
    let value = shown.iter().map(|said| said.value.len()).max().unwrap_or(0).min(40);
    let mut title = title;
    for Said { field: name, value: is, from, enforced } in shown {
        let from = from.as_deref().unwrap_or("built in");
        let note = if *enforced { "" } else { " (not enforced by this release)" };
        writeln!(out, "{title:<10}{name:<field$}  {is:<value$}  {from}{note}")?;
        title = "";
    }
    Ok(())
}

/// As a user would write it.
pub(super) fn value(setting: &Setting) -> String {
    match &setting.value {
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
        None if setting.field.default.is_empty() => "unset".to_owned(),
        None => setting.field.default.to_owned(),
    }
}

/// What selected a rule.
pub(super) fn matched(condition: Option<&Match>) -> String {
    let Some(Match { path, method, headers, query }) = condition else { return "takes everything".to_owned() };
    let mut terms = Vec::new();
    terms.extend(method.as_ref().map(|method| format!("method {method}")));
    terms.extend(path.as_ref().map(|path| match path {
        PathMatch::Exact(path) => format!("path {path}"),
        PathMatch::Prefix(path) => format!("path prefix {path}"),
        PathMatch::Regex(pattern) => format!("path like {}", pattern.as_str()),
    }));
    let pair = |of: &str, one: &ValueMatch| match &one.value {
        StringMatch::Exact(value) => format!("{of} {} is {value}", one.name),
        StringMatch::Regex(pattern) => format!("{of} {} is like {}", one.name, pattern.as_str()),
    };
    terms.extend(headers.iter().map(|one| pair("header", one)));
    terms.extend(query.iter().map(|one| pair("parameter", one)));
    if terms.is_empty() { "takes everything".to_owned() } else { terms.join(", ") }
}
