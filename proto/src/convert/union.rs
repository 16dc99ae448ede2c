//! What has another shape on the wire than in the model: unions, pairs and lists that may be absent. It must never accept an
//! empty union: no branch is ever the default.

use std::sync::Arc;

use super::At;
use super::Invalid;
use super::Reader;
use super::Wire;
use super::Writer;
use super::invalid;
use super::message::parts_per_million;
use super::message::required;
use crate::identity::SpiffeId;
use crate::identity::TrustDomain;
use crate::policy::Algorithm;
use crate::policy::Destination;
use crate::policy::Filter;
use crate::policy::HashKey;
use crate::policy::OnOpen;
use crate::policy::PathEdit;
use crate::policy::PathMatch;
use crate::policy::Resource;
use crate::policy::RetryOn;
use crate::policy::ServicePort;
use crate::policy::Source;
use crate::policy::SpiffeMatch;
use crate::policy::StringMatch;
use crate::policy::Subset;
use crate::policy::Trip;
use crate::policy::ValueMatch;
use crate::wire::policy as wire;

pub(super) fn read_resource(kind: Option<wire::resource::Kind>, cx: &mut Reader) -> Result<Resource, Invalid> {
    use wire::resource::Kind;
    Ok(match kind {
        None => return invalid("no resource of a kind that this build knows".to_owned()),
        Some(Kind::Destination(it)) => Resource::Destination(Wire::read(it, cx).at("destination")?),
        Some(Kind::Outbound(it)) => Resource::Outbound(Wire::read(it, cx).at("outbound")?),
        Some(Kind::Endpoints(it)) => Resource::Endpoints(Wire::read(it, cx).at("endpoints")?),
        Some(Kind::Inbound(it)) => Resource::Inbound(Wire::read(it, cx).at("inbound")?),
        Some(Kind::TrustBundle(it)) => Resource::TrustBundle(Wire::read(it, cx).at("trust_bundle")?),
        Some(Kind::ProxyConfig(it)) => Resource::ProxyConfig(Wire::read(it, cx).at("proxy_config")?),
        Some(Kind::EgressIndex(it)) => Resource::EgressIndex(Wire::read(it, cx).at("egress_index")?),
        Some(Kind::Share(it)) => Resource::Share(Wire::read(it, cx).at("share")?),
    })
}

pub(super) fn write_resource(resource: &Resource, cx: &mut Writer) -> wire::resource::Kind {
    use wire::resource::Kind;
    match resource {
        Resource::Destination(it) => Kind::Destination(it.write(cx)),
        Resource::Outbound(it) => Kind::Outbound(it.write(cx)),
        Resource::Endpoints(it) => Kind::Endpoints(it.write(cx)),
        Resource::Inbound(it) => Kind::Inbound(it.write(cx)),
        Resource::TrustBundle(it) => Kind::TrustBundle(it.write(cx)),
        Resource::ProxyConfig(it) => Kind::ProxyConfig(it.write(cx)),
        Resource::EgressIndex(it) => Kind::EgressIndex(it.write(cx)),
        Resource::Share(it) => Kind::Share(it.write(cx)),
    }
}

fn empty<T>() -> Result<T, Invalid> {
    invalid("missing, or of a kind that this build does not know".to_owned())
}

impl Wire<wire::Destination> for Destination {
    fn read(wire: wire::Destination, cx: &mut Reader) -> Result<Self, Invalid> {
        use wire::destination::Answer;
        Ok(match wire.answer {
            None => return empty(),
            Some(Answer::Service(it)) => Self::Service(Wire::read(it, cx).at("service")?),
            Some(Answer::Workload(it)) => Self::Workload(Box::new(Wire::read(it, cx).at("workload")?)),
            Some(Answer::NotFound(wire::NotFound {})) => Self::NotFound,
        })
    }

    fn write(&self, cx: &mut Writer) -> wire::Destination {
        use wire::destination::Answer;
        let answer = match self {
            Self::Service(it) => Answer::Service(it.write(cx)),
            Self::Workload(it) => Answer::Workload(it.as_ref().write(cx)),
            Self::NotFound => Answer::NotFound(wire::NotFound {}),
        };
        wire::Destination { answer: Some(answer) }
    }
}

impl Wire<wire::PathMatch> for PathMatch {
    fn read(wire: wire::PathMatch, cx: &mut Reader) -> Result<Self, Invalid> {
        use wire::path_match::Path;
        Ok(match wire.path {
            None => return empty(),
            Some(Path::Exact(text)) => Self::Exact(text.into()),
            Some(Path::Prefix(text)) => Self::Prefix(text.into()),
            Some(Path::Regex(text)) => Self::Regex(cx.pattern(&text).at("regex")?),
        })
    }

    fn write(&self, _: &mut Writer) -> wire::PathMatch {
        use wire::path_match::Path;
        let path = match self {
            Self::Exact(text) => Path::Exact(text.to_string()),
            Self::Prefix(text) => Path::Prefix(text.to_string()),
            Self::Regex(pattern) => Path::Regex(pattern.as_str().to_owned()),
        };
        wire::PathMatch { path: Some(path) }
    }
}

impl Wire<wire::ValueMatch> for ValueMatch {
    fn read(wire: wire::ValueMatch, cx: &mut Reader) -> Result<Self, Invalid> {
        use wire::value_match::Value;
        let value = match wire.value {
            None => return empty().at("value"),
            Some(Value::Exact(text)) => StringMatch::Exact(text.into()),
            Some(Value::Regex(text)) => StringMatch::Regex(cx.pattern(&text).at("regex")?),
        };
        Ok(Self { name: wire.name.into(), value })
    }

    fn write(&self, _: &mut Writer) -> wire::ValueMatch {
        use wire::value_match::Value;
        let value = match &self.value {
            StringMatch::Exact(text) => Value::Exact(text.to_string()),
            StringMatch::Regex(pattern) => Value::Regex(pattern.as_str().to_owned()),
        };
        wire::ValueMatch { name: self.name.to_string(), value: Some(value) }
    }
}

impl Wire<wire::Filter> for Filter {
    fn read(wire: wire::Filter, cx: &mut Reader) -> Result<Self, Invalid> {
        use wire::filter::Filter as Kind;
        Ok(match wire.filter {
            None => return empty(),
            Some(Kind::RequestHeaders(it)) => Self::RequestHeaders(Wire::read(it, cx).at("request_headers")?),
            Some(Kind::ResponseHeaders(it)) => Self::ResponseHeaders(Wire::read(it, cx).at("response_headers")?),
            Some(Kind::Redirect(it)) => Self::Redirect(Wire::read(it, cx).at("redirect")?),
            Some(Kind::Rewrite(it)) => Self::Rewrite {
                hostname: Wire::read(it.hostname, cx).at("rewrite.hostname")?,
                path: Wire::read(it.path, cx).at("rewrite.path")?,
            },
            Some(Kind::Mirror(it)) => {
                parts_per_million(it.parts_per_million).at("mirror.parts_per_million")?;
                let backend = Wire::read(it.backend, cx).at("mirror.backend")?;
                Self::Mirror { backend, parts_per_million: it.parts_per_million }
            }
        })
    }

    fn write(&self, cx: &mut Writer) -> wire::Filter {
        use wire::filter::Filter as Kind;
        let filter = match self {
            Self::RequestHeaders(it) => Kind::RequestHeaders(it.write(cx)),
            Self::ResponseHeaders(it) => Kind::ResponseHeaders(it.write(cx)),
            Self::Redirect(it) => Kind::Redirect(it.write(cx)),
            Self::Rewrite { hostname, path } => {
                Kind::Rewrite(wire::Rewrite { hostname: hostname.write(cx), path: path.write(cx) })
            }
            Self::Mirror { backend, parts_per_million } => {
                Kind::Mirror(wire::Mirror { backend: backend.write(cx), parts_per_million: *parts_per_million })
            }
        };
        wire::Filter { filter: Some(filter) }
    }
}

impl Wire<wire::Header> for (Arc<str>, Arc<str>) {
    fn read(wire: wire::Header, _: &mut Reader) -> Result<Self, Invalid> {
        Ok((wire.name.into(), wire.value.into()))
    }

    fn write(&self, _: &mut Writer) -> wire::Header {
        wire::Header { name: self.0.to_string(), value: self.1.to_string() }
    }
}

impl Wire<wire::PathEdit> for PathEdit {
    fn read(wire: wire::PathEdit, _: &mut Reader) -> Result<Self, Invalid> {
        use wire::path_edit::Edit;
        Ok(match wire.edit {
            None => return empty(),
            Some(Edit::Full(text)) => Self::Full(text.into()),
            Some(Edit::Prefix(text)) => Self::Prefix(text.into()),
        })
    }

    fn write(&self, _: &mut Writer) -> wire::PathEdit {
        use wire::path_edit::Edit;
        let edit = match self {
            Self::Full(text) => Edit::Full(text.to_string()),
            Self::Prefix(text) => Edit::Prefix(text.to_string()),
        };
        wire::PathEdit { edit: Some(edit) }
    }
}

/// Absent: any source. Present and empty: none.
impl Wire<wire::Sources> for Vec<Source> {
    fn read(wire: wire::Sources, cx: &mut Reader) -> Result<Self, Invalid> {
        Wire::read(wire.any, cx)
    }

    fn write(&self, cx: &mut Writer) -> wire::Sources {
        wire::Sources { any: self.write(cx) }
    }
}

impl Wire<wire::SpiffeMatch> for SpiffeMatch {
    fn read(wire: wire::SpiffeMatch, _: &mut Reader) -> Result<Self, Invalid> {
        use wire::spiffe_match::Match;
        match wire.r#match {
            None => empty(),
            Some(Match::Exact(text)) => match text.parse::<SpiffeId>() {
                Ok(id) => Ok(Self::Exact(id)),
                Err(e) => invalid(e.to_string()).at("exact"),
            },
            Some(Match::Prefix(text)) => match SpiffeMatch::is_prefix(&text) {
                true => Ok(Self::Prefix(text.into())),
                false => invalid(format!("{text:?} is not like spiffe://domain/path/*")).at("prefix"),
            },
        }
    }

    fn write(&self, _: &mut Writer) -> wire::SpiffeMatch {
        use wire::spiffe_match::Match;
        let kind = match self {
            Self::Exact(id) => Match::Exact(id.to_string()),
            Self::Prefix(text) => Match::Prefix(text.to_string()),
        };
        wire::SpiffeMatch { r#match: Some(kind) }
    }
}

required!(SpiffeMatch);

impl Wire<wire::TrustAnchors> for (TrustDomain, Vec<bytes::Bytes>) {
    fn read(wire: wire::TrustAnchors, cx: &mut Reader) -> Result<Self, Invalid> {
        Ok((Wire::read(wire.trust_domain, cx).at("trust_domain")?, wire.anchors))
    }

    fn write(&self, cx: &mut Writer) -> wire::TrustAnchors {
        wire::TrustAnchors { trust_domain: self.0.write(cx), anchors: self.1.clone() }
    }
}

impl Wire<wire::ShareOf> for (ServicePort, u32) {
    fn read(wire: wire::ShareOf, cx: &mut Reader) -> Result<Self, Invalid> {
        Ok((Wire::read(wire.target, cx).at("target")?, wire.max_connections))
    }

    fn write(&self, cx: &mut Writer) -> wire::ShareOf {
        wire::ShareOf { target: self.0.write(cx), max_connections: self.1 }
    }
}

impl Wire<wire::RetryOn> for RetryOn {
    fn read(wire: wire::RetryOn, cx: &mut Reader) -> Result<Self, Invalid> {
        use wire::retry_on::On;
        match wire.on {
            None => empty(),
            Some(On::Condition(number)) => condition(number).at("condition"),
            Some(On::Status(status @ 100..=599)) => Ok(Self::Status(Wire::read(status, cx)?)),
            Some(On::Status(other)) => invalid(format!("{other} is not 100 to 599")).at("status"),
            Some(On::Grpc(code @ 1..=16)) => Ok(Self::Grpc(Wire::read(code, cx)?)),
            Some(On::Grpc(other)) => invalid(format!("{other} is not 1 to 16")).at("grpc"),
        }
    }

    fn write(&self, _: &mut Writer) -> wire::RetryOn {
        use wire::RetryCondition;
        use wire::retry_on::On;
        let on = match self {
            Self::ConnectFailure => On::Condition(RetryCondition::ConnectFailure.into()),
            Self::RefusedStream => On::Condition(RetryCondition::RefusedStream.into()),
            Self::ResetBeforeRequest => On::Condition(RetryCondition::ResetBeforeRequest.into()),
            Self::GatewayError => On::Condition(RetryCondition::GatewayError.into()),
            Self::ServerError => On::Condition(RetryCondition::ServerError.into()),
            Self::Reset => On::Condition(RetryCondition::Reset.into()),
            Self::Timeout => On::Condition(RetryCondition::Timeout.into()),
            Self::RateLimited => On::Condition(RetryCondition::RateLimited.into()),
            Self::Status(status) => On::Status((*status).into()),
            Self::Grpc(code) => On::Grpc((*code).into()),
        };
        wire::RetryOn { on: Some(on) }
    }
}

fn condition(number: i32) -> Result<RetryOn, Invalid> {
    use wire::RetryCondition;
    Ok(match RetryCondition::try_from(number) {
        Ok(RetryCondition::Unspecified) | Err(_) => return invalid(format!("unknown condition {number}")),
        Ok(RetryCondition::ConnectFailure) => RetryOn::ConnectFailure,
        Ok(RetryCondition::RefusedStream) => RetryOn::RefusedStream,
        Ok(RetryCondition::ResetBeforeRequest) => RetryOn::ResetBeforeRequest,
        Ok(RetryCondition::GatewayError) => RetryOn::GatewayError,
        Ok(RetryCondition::ServerError) => RetryOn::ServerError,
        Ok(RetryCondition::Reset) => RetryOn::Reset,
        Ok(RetryCondition::Timeout) => RetryOn::Timeout,
        Ok(RetryCondition::RateLimited) => RetryOn::RateLimited,
    })
}

impl Wire<Option<wire::service_breaker::Trip>> for Trip {
    fn read(wire: Option<wire::service_breaker::Trip>, cx: &mut Reader) -> Result<Self, Invalid> {
        use wire::service_breaker::Trip as Kind;
        Ok(match wire {
            None => return empty(),
            Some(Kind::Ratio(it)) => Self::Ratio {
                failure_percent: Wire::read(it.failure_percent, cx).at("failure_percent")?,
                window: Wire::read(it.window_ms, cx).at("window_ms")?,
                min_requests: it.min_requests,
            },
            Some(Kind::Consecutive(it)) => Self::Consecutive { count: it.count },
            Some(Kind::Count(it)) => {
                Self::Count { failures: it.failures, window: Wire::read(it.window_ms, cx).at("window_ms")? }
            }
        })
    }

    fn write(&self, cx: &mut Writer) -> Option<wire::service_breaker::Trip> {
        use wire::service_breaker::Trip as Kind;
        Some(match self {
            Self::Ratio { failure_percent, window, min_requests } => Kind::Ratio(wire::TripRatio {
                failure_percent: failure_percent.write(cx),
                window_ms: window.write(cx),
                min_requests: *min_requests,
            }),
            Self::Consecutive { count } => Kind::Consecutive(wire::TripConsecutive { count: *count }),
            Self::Count { failures, window } => {
                Kind::Count(wire::TripCount { failures: *failures, window_ms: window.write(cx) })
            }
        })
    }
}

impl Wire<Option<wire::service_breaker::OnOpen>> for OnOpen {
    fn read(wire: Option<wire::service_breaker::OnOpen>, cx: &mut Reader) -> Result<Self, Invalid> {
        use wire::service_breaker::OnOpen as Kind;
        Ok(match wire {
            None => return empty(),
            Some(Kind::Reject(wire::Reject { status: status @ 400..=599 })) => {
                Self::Reject { status: Wire::read(status, cx)? }
            }
            Some(Kind::Reject(wire::Reject { status })) => {
                return invalid(format!("{status} is not 400 to 599")).at("status");
            }
            Some(Kind::Fallback(it)) => Self::Fallback(Box::new(Wire::read(it, cx).at("fallback")?)),
        })
    }

    fn write(&self, cx: &mut Writer) -> Option<wire::service_breaker::OnOpen> {
        use wire::service_breaker::OnOpen as Kind;
        Some(match self {
            Self::Reject { status } => Kind::Reject(wire::Reject { status: status.write(cx) }),
            Self::Fallback(it) => Kind::Fallback(it.as_ref().write(cx)),
        })
    }
}

impl Wire<Option<wire::load_balancing::Algorithm>> for Algorithm {
    fn read(wire: Option<wire::load_balancing::Algorithm>, cx: &mut Reader) -> Result<Self, Invalid> {
        use wire::consistent_hash::Key;
        use wire::load_balancing::Algorithm as Kind;
        Ok(match wire {
            None => return empty(),
            Some(Kind::LeastLoaded(it)) => {
                Self::LeastLoaded { decay: Wire::read(it.decay_ms, cx).at("least_loaded.decay_ms")? }
            }
            Some(Kind::RoundRobin(wire::RoundRobin {})) => Self::RoundRobin,
            Some(Kind::ConsistentHash(it)) => {
                let key = match it.key {
                    None => return empty().at("consistent_hash.key"),
                    Some(Key::Header(name)) => HashKey::Header(name.into()),
                    Some(Key::Cookie(name)) => HashKey::Cookie(name.into()),
                    Some(Key::SourceIp(wire::SourceIp {})) => HashKey::SourceIp,
                };
                Self::ConsistentHash { key, bounded_percent: it.bounded_percent }
            }
        })
    }

    fn write(&self, cx: &mut Writer) -> Option<wire::load_balancing::Algorithm> {
        use wire::consistent_hash::Key;
        use wire::load_balancing::Algorithm as Kind;
        Some(match self {
            Self::LeastLoaded { decay } => Kind::LeastLoaded(wire::LeastLoaded { decay_ms: decay.write(cx) }),
            Self::RoundRobin => Kind::RoundRobin(wire::RoundRobin {}),
            Self::ConsistentHash { key, bounded_percent } => {
                let key = match key {
                    HashKey::Header(name) => Key::Header(name.to_string()),
                    HashKey::Cookie(name) => Key::Cookie(name.to_string()),
                    HashKey::SourceIp => Key::SourceIp(wire::SourceIp {}),
                };
                Kind::ConsistentHash(wire::ConsistentHash { key: Some(key), bounded_percent: *bounded_percent })
            }
        })
    }
}

impl Wire<Option<wire::Subset>> for Subset {
    fn read(wire: Option<wire::Subset>, _: &mut Reader) -> Result<Self, Invalid> {
        use wire::subset::Subset as Kind;
        Ok(match wire.and_then(|wire| wire.subset) {
            None => return empty(),
            Some(Kind::Auto(wire::SubsetAuto {})) => Self::Auto,
            Some(Kind::Off(wire::SubsetOff {})) => Self::Off,
            Some(Kind::Size(size)) => Self::Size(size),
        })
    }

    fn write(&self, _: &mut Writer) -> Option<wire::Subset> {
        use wire::subset::Subset as Kind;
        let subset = match self {
            Self::Auto => Kind::Auto(wire::SubsetAuto {}),
            Self::Off => Kind::Off(wire::SubsetOff {}),
            Self::Size(size) => Kind::Size(*size),
        };
        Some(wire::Subset { subset: Some(subset) })
    }
}
