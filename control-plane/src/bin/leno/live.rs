//! What the objects of a cluster say of themselves: accepted, in force in how many proxies, and why not. Read from their own
//! statuses, which speak for all replicas; it must never count by itself.

use leno_control_plane::cluster;
use leno_control_plane::object::CONTROLLER;
use leno_control_plane::object::Kind;
use serde::Serialize;
use serde_json::Value;

use crate::reach::Cluster;
use crate::reach::items;
use crate::reach::text;

/// Kinds with a status of ours.
pub(crate) const KINDS: [Kind; 8] = [
    Kind::Mesh,
    Kind::TrafficPolicy,
    Kind::InboundPolicy,
    Kind::AccessPolicy,
    Kind::EgressHost,
    Kind::HttpRoute,
    Kind::GrpcRoute,
    Kind::TcpRoute,
];

/// One object, as it says itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Live {
    pub(crate) kind: &'static str,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) state: State,
    /// Why, in words; empty where all is well.
    pub(crate) message: String,
    /// `3/4`; empty for routes, which cannot say it.
    pub(crate) proxies: String,
    pub(crate) warnings: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum State {
    Live,
    /// Some proxies have not taken it up yet.
    Pending,
    /// No control plane has spoken of this generation yet.
    Unseen,
    /// It is not in force, and will not be as it stands.
    Refused,
}

impl State {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            State::Live => "live",
            State::Pending => "pending",
            State::Unseen => "unseen",
            State::Refused => "refused",
        }
    }
}

impl Live {
    /// `Kind namespace/name`, or `Kind name` where there are no namespaces.
    pub(crate) fn object(&self) -> String {
        let Live { kind, namespace, name, .. } = self;
        let slash = if namespace.is_empty() { "" } else { "/" };
        format!("{kind} {namespace}{slash}{name}")
    }
}

/// Of one namespace, or of all.
pub(crate) async fn all(cluster: &Cluster, namespace: Option<&str>) -> anyhow::Result<Vec<Live>> {
    let mut found = Vec::new();
    for kind in KINDS {
        let scope = namespace.filter(|_| kind.namespaced()).unwrap_or_default();
        for base in cluster::paths(kind) {
            let version = base.rsplit('/').nth(1).unwrap_or("v1");
            let listed = cluster.list(&cluster::path(kind, version, scope), "").await?;
            if !listed.is_empty() {
                found.extend(listed.iter().filter_map(|object| of(kind, object)));
                break;
            }
        }
    }
    Ok(found)
}

/// `None`: a route that is none of ours, having no Service as a parent.
pub(crate) fn of(kind: Kind, object: &Value) -> Option<Live> {
    let generation = object["metadata"]["generation"].as_i64().unwrap_or(0);
    let ours = kind.group() == "policy.leno.dev";
    let sets: Vec<&Value> = if ours {
        vec![&object["status"]["conditions"]]
    } else {
        let service = |parent: &&Value| parent["kind"] == "Service";
        let wanted = items(&object["spec"]["parentRefs"]).filter(service).count();
        if wanted == 0 {
            return None;
        }
        let entries = items(&object["status"]["parents"]).filter(|entry| entry["controllerName"] == CONTROLLER);
        let mut sets: Vec<&Value> = entries.map(|entry| &entry["conditions"]).collect();
        // A parent without an entry of ours has not been judged.
        sets.resize(sets.len().max(wanted), &Value::Null);
        sets
    };
    let (state, message) = sets.iter().map(|set| judge(set, generation)).max_by_key(|(state, _)| *state as u8)?;
    let warnings = sets.iter().filter_map(|set| condition(set, "Warnings")).find(|one| one["status"] == "True");
    let proxies = &object["status"]["proxies"];
    let meta = &object["metadata"];
    Some(Live {
        kind: kind.as_str(),
        namespace: text(&meta["namespace"]).to_owned(),
        name: text(&meta["name"]).to_owned(),
        state,
        message,
        proxies: match (proxies["applied"].as_i64(), proxies["selected"].as_i64()) {
            (Some(applied), Some(selected)) => format!("{applied}/{selected}"),
            _ => String::new(),
        },
        warnings: warnings.map(|one| text(&one["message"]).to_owned()).unwrap_or_default(),
    })
}

fn judge(set: &Value, generation: i64) -> (State, String) {
    let said = |kind: &str| condition(set, kind).filter(|one| one["observedGeneration"].as_i64() >= Some(generation));
    let fault = ["Accepted", "ResolvedRefs"].into_iter().find_map(|kind| {
        let one = said(kind).filter(|one| one["status"] == "False")?;
        Some(format!("{kind}: {} {}", text(&one["reason"]), text(&one["message"])))
    });
    if let Some(fault) = fault {
        return (State::Refused, fault);
    }
    match said("Programmed").or_else(|| said("leno.dev/Programmed")) {
        None => (State::Unseen, "the control plane has not spoken of this generation yet".to_owned()),
        Some(one) if one["status"] == "True" => (State::Live, String::new()),
        Some(one) => (State::Pending, text(&one["message"]).to_owned()),
    }
}

fn condition<'v>(set: &'v Value, kind: &str) -> Option<&'v Value> {
    let named = |one: &&Value| {
        let name = text(&one["type"]);
        name == kind || name.strip_prefix("leno.dev/") == Some(kind)
    };
    items(set).find(named)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn policy(generation: i64, conditions: &Value) -> Live {
        let object = json!({
            "metadata": {"name": "orders", "namespace": "shop", "generation": generation},
            "status": {"conditions": conditions, "proxies": {"selected": 3, "applied": 2}},
        });
        of(Kind::TrafficPolicy, &object).unwrap()
    }

    fn said(kind: &str, status: &str, generation: i64) -> Value {
        json!({"type": kind, "status": status, "reason": "Because", "message": "of this", "observedGeneration": generation})
    }

    #[test]
    fn only_what_is_said_of_this_generation_counts() {
        let live = json!([said("Accepted", "True", 2), said("Programmed", "True", 2)]);
        assert_eq!(policy(2, &live).state, State::Live);
        assert_eq!(policy(2, &live).object(), "TrafficPolicy shop/orders");
        assert_eq!(policy(3, &live).state, State::Unseen);
        assert_eq!(policy(1, &json!([])).state, State::Unseen);
        let pending = policy(2, &json!([said("Accepted", "True", 2), said("Programmed", "False", 2)]));
        assert_eq!(
            (pending.state, pending.message.as_str(), pending.proxies.as_str()),
            (State::Pending, "of this", "2/3")
        );
        let refused = policy(2, &json!([said("Accepted", "False", 2), said("Programmed", "True", 2)]));
        assert_eq!((refused.state, refused.message.as_str()), (State::Refused, "Accepted: Because of this"));
    }

    #[test]
    fn a_route_is_live_when_every_parent_of_ours_is() {
        let entry = |status: &str| {
            let conditions = json!([said("Accepted", "True", 1), said("leno.dev/Programmed", status, 1)]);
            json!({"controllerName": CONTROLLER, "conditions": conditions})
        };
        let route = |parents: Value, entries: Value| {
            let meta = json!({"name": "r", "namespace": "shop", "generation": 1});
            json!({"metadata": meta, "spec": {"parentRefs": parents}, "status": {"parents": entries}})
        };
        let service = json!({"kind": "Service", "name": "a"});
        let two = json!([service, service]);
        let state = |object: &Value| of(Kind::HttpRoute, object).map(|live| live.state);
        assert_eq!(state(&route(two.clone(), json!([entry("True"), entry("True")]))), Some(State::Live));
        assert_eq!(state(&route(two.clone(), json!([entry("True"), entry("False")]))), Some(State::Pending));
        assert_eq!(state(&route(two, json!([entry("True")]))), Some(State::Unseen));
        let foreign = json!({"controllerName": "another/one", "conditions": []});
        assert_eq!(state(&route(json!([service]), json!([foreign, entry("True")]))), Some(State::Live));
        assert_eq!(state(&route(json!([{"kind": "Gateway", "name": "edge"}]), json!([]))), None);
    }
}
