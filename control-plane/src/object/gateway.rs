//! The Gateway API's routes with Service parents (GEP-1294), trimmed. Unknown fields are ignored, as for every foreign kind.
//! It keeps the user's words: what a reference or a match means is decided in `compile`.

use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;

use super::CONTROLLER;
use super::Name;
use super::kube::Meta;
use super::kube::or_default;

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct HttpRoute {
    pub metadata: Meta,
    pub spec: RouteSpec<HttpRule>,
    /// Its status holds something that we said, which must go where we have nothing to say any more.
    #[serde(default, rename = "status", deserialize_with = "told")]
    pub told: bool,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct GrpcRoute {
    pub metadata: Meta,
    pub spec: RouteSpec<GrpcRule>,
    /// Its status holds something that we said, which must go where we have nothing to say any more.
    #[serde(default, rename = "status", deserialize_with = "told")]
    pub told: bool,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct TcpRoute {
    pub metadata: Meta,
    pub spec: RouteSpec<TcpRule>,
    /// Its status holds something that we said, which must go where we have nothing to say any more.
    #[serde(default, rename = "status", deserialize_with = "told")]
    pub told: bool,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteSpec<Rule> {
    #[serde(default, deserialize_with = "or_default")]
    pub parent_refs: Vec<ParentRef>,
    #[serde(default, deserialize_with = "or_default")]
    pub hostnames: Vec<String>,
    #[serde(default = "Vec::new")]
    pub rules: Vec<Rule>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentRef {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpRule {
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
    #[serde(default, deserialize_with = "or_default")]
    pub matches: Vec<HttpMatch>,
    #[serde(default, deserialize_with = "or_default")]
    pub filters: Vec<RouteFilter>,
    #[serde(default, deserialize_with = "or_default")]
    pub backend_refs: Vec<BackendRef>,
    #[serde(default, deserialize_with = "or_default")]
    pub timeouts: RouteTimeouts,
    #[serde(default)]
    pub retry: Option<RouteRetry>,
    #[serde(default)]
    pub session_persistence: Option<serde::de::IgnoredAny>,
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpMatch {
    #[serde(default)]
    pub path: Option<PathMatch>,
    #[serde(default, deserialize_with = "or_default")]
    pub headers: Vec<ValueMatch>,
    #[serde(default, deserialize_with = "or_default")]
    pub query_params: Vec<ValueMatch>,
    #[serde(default)]
    pub method: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct PathMatch {
    #[serde(default = "path_prefix", rename = "type")]
    pub kind: String,
    #[serde(default = "root")]
    pub value: String,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct ValueMatch {
    #[serde(default = "exact", rename = "type")]
    pub kind: String,
    pub name: String,
    pub value: String,
}

/// Filters of HTTPRoute and GRPCRoute, on rules and on backends.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteFilter {
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub request_header_modifier: Option<HeaderModifier>,
    #[serde(default)]
    pub response_header_modifier: Option<HeaderModifier>,
    #[serde(default)]
    pub request_redirect: Option<RequestRedirect>,
    #[serde(default, rename = "urlRewrite")]
    pub url_rewrite: Option<UrlRewrite>,
    #[serde(default)]
    pub request_mirror: Option<RequestMirror>,
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
pub struct HeaderModifier {
    #[serde(default, deserialize_with = "or_default")]
    pub set: Vec<HeaderValue>,
    #[serde(default, deserialize_with = "or_default")]
    pub add: Vec<HeaderValue>,
    #[serde(default, deserialize_with = "or_default")]
    pub remove: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct HeaderValue {
    pub name: String,
    pub value: String,
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestRedirect {
    #[serde(default)]
    pub scheme: Option<String>,
    #[serde(default)]
    pub hostname: Option<String>,
    #[serde(default)]
    pub path: Option<PathModifier>,
    #[serde(default)]
    pub port: Option<u16>,
    #[serde(default)]
    pub status_code: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
pub struct UrlRewrite {
    #[serde(default)]
    pub hostname: Option<String>,
    #[serde(default)]
    pub path: Option<PathModifier>,
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PathModifier {
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub replace_full_path: Option<String>,
    #[serde(default)]
    pub replace_prefix_match: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestMirror {
    pub backend_ref: BackendRef,
    #[serde(default)]
    pub percent: Option<u32>,
    #[serde(default)]
    pub fraction: Option<Fraction>,
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
pub struct Fraction {
    pub numerator: u32,
    #[serde(default)]
    pub denominator: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendRef {
    #[serde(default)]
    pub group: Option<String>,
    #[serde(default)]
    pub kind: Option<String>,
    #[serde(default)]
    pub namespace: Option<String>,
    pub name: String,
    #[serde(default)]
    pub port: Option<u16>,
    #[serde(default)]
    pub weight: Option<u32>,
    #[serde(default, deserialize_with = "or_default")]
    pub filters: Vec<RouteFilter>,
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteTimeouts {
    #[serde(default)]
    pub request: Option<String>,
    #[serde(default)]
    pub backend_request: Option<String>,
}

/// GEP-1731, experimental channel.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
pub struct RouteRetry {
    #[serde(default, deserialize_with = "or_default")]
    pub codes: Vec<u16>,
    #[serde(default)]
    pub attempts: Option<u32>,
    #[serde(default)]
    pub backoff: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GrpcRule {
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
    #[serde(default, deserialize_with = "or_default")]
    pub matches: Vec<GrpcMatch>,
    #[serde(default, deserialize_with = "or_default")]
    pub filters: Vec<RouteFilter>,
    #[serde(default, deserialize_with = "or_default")]
    pub backend_refs: Vec<BackendRef>,
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
pub struct GrpcMatch {
    #[serde(default)]
    pub method: Option<GrpcMethod>,
    #[serde(default, deserialize_with = "or_default")]
    pub headers: Vec<ValueMatch>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct GrpcMethod {
    #[serde(default = "exact", rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub service: Option<String>,
    #[serde(default)]
    pub method: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TcpRule {
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
    #[serde(default, deserialize_with = "or_default")]
    pub backend_refs: Vec<BackendRef>,
}

/// Read and listed, though routes with Service parents need none for their backends (GEP-1294).
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct ReferenceGrant {
    pub metadata: Meta,
}

impl ParentRef {
    /// The Service that is meant, where it is one.
    pub fn service(&self, namespace: &str) -> Option<Name> {
        // The Gateway API's default is a Gateway; a Service parent names the core group.
        let service = self.kind.as_deref() == Some("Service") && self.group.as_deref() == Some("");
        service.then(|| Name::new(self.namespace.as_deref().unwrap_or(namespace), &self.name))
    }
}

impl BackendRef {
    /// What is meant, for people.
    pub fn kind(&self) -> String {
        let kind = self.kind.as_deref().unwrap_or("Service");
        match self.group.as_deref().unwrap_or_default() {
            "" => kind.to_owned(),
            group => format!("{kind} of {group}"),
        }
    }

    /// The Service that is meant, where it is one.
    pub fn service(&self, namespace: &str) -> Option<Name> {
        let service = self.kind.as_deref().is_none_or(|kind| kind == "Service")
            && self.group.as_deref().is_none_or(str::is_empty);
        service.then(|| Name::new(self.namespace.as_deref().unwrap_or(namespace), &self.name))
    }
}

/// Only whether we are in it: an entry of another controller, or a new time in ours, changes nothing for us.
fn told<'de, D: Deserializer<'de>>(from: D) -> Result<bool, D::Error> {
    #[derive(Default, Deserialize)]
    struct Status {
        #[serde(default, deserialize_with = "or_default")]
        parents: Vec<Entry>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Entry {
        #[serde(default)]
        controller_name: String,
    }
    let status: Status = or_default(from)?;
    Ok(status.parents.iter().any(|entry| entry.controller_name == CONTROLLER))
}

fn path_prefix() -> String {
    "PathPrefix".to_owned()
}

fn root() -> String {
    "/".to_owned()
}

fn exact() -> String {
    "Exact".to_owned()
}
