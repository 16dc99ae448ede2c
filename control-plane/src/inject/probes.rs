//! The kubelet's probes, sent to the sidecar, which performs them on the application: a kubelet has no certificate, so a strict
//! port would refuse it. It must never change what is asked of the application, nor how often.

#[cfg(test)]
mod tests;

use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::inject::GRACE;
use crate::inject::PORTS;
use crate::inject::PROXY;
use crate::inject::annotation::Wishes;
use crate::inject::list;

/// The sidecar's variable that holds the originals: an object of `CONTAINER/KIND` and the probe as Kubernetes writes it, with
/// the port as a number.
pub(super) const VARIABLE: &str = "LENO_PROBES";

/// What a container may have: where, and how the sidecar's path calls it.
const PLACES: [(&str, &str); 5] = [
    ("/startupProbe", "startup"),
    ("/readinessProbe", "readiness"),
    ("/livenessProbe", "liveness"),
    ("/lifecycle/postStart", "postStart"),
    ("/lifecycle/preStop", "preStop"),
];
/// Kubernetes' own default of a probe's `timeoutSeconds`.
const TIMEOUT: i64 = 1;
/// A postStart hook has no limit; a container that waits for one longer than this is better started again.
const POST_START: i64 = 3600;

/// Turns the probes of a Pod's containers to the sidecar, and says what they were. Those that it has turned before stay turned.
pub(super) fn turn(pod: &mut Value, wishes: &Wishes) -> Map<String, Value> {
    let grace = pod["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(GRACE).max(1);
    let mut originals = Map::new();
    for list in ["initContainers", "containers"] {
        let containers = pod.pointer_mut(&format!("/spec/{list}")).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            // An init container that ends has no probes, and runs before anybody probes.
            let stays = list == "containers" || container["restartPolicy"] == "Always";
            if stays && container["name"] != PROXY {
                turn_container(container, wishes, grace, &mut originals);
            }
        }
    }
    originals
}

fn turn_container(container: &mut Value, wishes: &Wishes, grace: i64, originals: &mut Map<String, Value>) {
    let name = container["name"].as_str().unwrap_or_default().to_owned();
    for (place, kind) in PLACES {
        let Some(probe) = container.pointer(place) else { continue };
        let hook = place.starts_with("/lifecycle");
        let Some((action, port)) = action(container, probe, hook) else { continue };
        // What the sidecar never sees it need not answer for.
        if wishes.skips_inbound(port) {
            continue;
        }
        let limit = match kind {
            "postStart" => POST_START,
            "preStop" => grace,
            _ => probe["timeoutSeconds"].as_i64().unwrap_or(TIMEOUT).max(1),
        };
        let mut original = json!({"timeoutSeconds": limit});
        original[action] = probe[action].clone();
        original[action]["port"] = port.into();
        let path = format!("{name}/{kind}");
        let probe = container.pointer_mut(place).and_then(Value::as_object_mut).expect("it was there just now");
        probe.remove(action);
        probe.insert("httpGet".to_owned(), json!({"path": format!("/probe/{path}"), "port": PORTS[2]}));
        originals.insert(path, original);
    }
}

/// Which of its actions a probe has, and the number of the port, if the kubelet would ask the Pod itself. A command runs in the
/// container and needs nobody's help; an address that somebody wrote is not the Pod's.
fn action(container: &Value, probe: &Value, hook: bool) -> Option<(&'static str, i64)> {
    let actions: &[&str] = if hook { &["httpGet"] } else { &["httpGet", "tcpSocket", "grpc"] };
    let action = actions.iter().find(|action| probe[**action].is_object())?;
    let asked = &probe[*action];
    if asked["host"].as_str().is_some_and(|host| !host.is_empty()) {
        return None;
    }
    // The kubelet looks for a name among the container's own ports; what it would not find stays, and says so in its words.
    let named = |name: &str| list(&container["ports"]).find(|port| port["name"] == name)?["containerPort"].as_i64();
    let port = match &asked["port"] {
        // The kubelet takes digits for a number.
        Value::String(name) => named(name).or_else(|| name.parse().ok())?,
        number => number.as_i64()?,
    };
    ((1..=65_535).contains(&port) && !PORTS.contains(&port)).then_some((action, port))
}

/// The variable's value, if there is anything to say. No `$`: the kubelet would take it for a reference.
pub(super) fn value(originals: &Map<String, Value>) -> Option<String> {
    (!originals.is_empty()).then(|| Value::from(originals.clone()).to_string().replace('$', "\\u0024"))
}

/// What a later webhook has added to a Pod that has its sidecar already: its probes are turned too. `None`: nothing.
pub(super) fn turn_later(pod: &Value, wishes: &Wishes) -> Option<Value> {
    let mut pod = pod.clone();
    let added = turn(&mut pod, wishes);
    if added.is_empty() {
        return None;
    }
    let proxy = pod["spec"]["initContainers"].as_array_mut()?.iter_mut().find(|one| one["name"] == PROXY)?;
    let env = proxy["env"].as_array_mut()?;
    let known = env.iter_mut().find(|one| one["name"] == VARIABLE);
    let mut originals: Map<String, Value> = match &known {
        Some(known) => serde_json::from_str(known["value"].as_str()?).ok()?,
        None => Map::new(),
    };
    originals.extend(added);
    let value: Value = value(&originals)?.into();
    match known {
        Some(known) => known["value"] = value,
        None => env.push(json!({"name": VARIABLE, "value": value})),
    }
    Some(pod)
}
