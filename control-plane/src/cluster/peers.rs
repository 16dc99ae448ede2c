//! What the proxies of the other replicas said: asked of each replica by the one that writes statuses, both proving that they are
//! the control plane. It must never count a replica that does not answer as one without proxies.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;

use leno_proto::hash::Hash;
use leno_proto::key::Key;
use rustls::ClientConfig;
use serde_json::Value;
use serde_json::json;

use crate::index::Topic;
use crate::index::World;
use crate::kube::Error;
use crate::kube::access::Access;
use crate::kube::access::Credential;
use crate::kube::client::Client;
use crate::object::Name;
use crate::object::Object;
use crate::push::replica::PATH;
use crate::status::Proxy;

/// The Service whose endpoints the replicas are.
const SERVICE: &str = "leno-control-plane";
/// Its port that proxies call, and replicas.
const PORT: &str = "grpc-sidecars";

/// The other replicas, by address.
pub struct Peers {
    tls: Arc<ClientConfig>,
    known: BTreeMap<(String, u16), Peer>,
}

struct Peer {
    client: Arc<Client>,
    /// Names what it told last.
    at: String,
    told: Vec<Proxy>,
}

impl Peers {
    /// `tls`: proves that we are the control plane, and that they are.
    pub fn new(tls: Arc<ClientConfig>) -> Peers {
        Peers { tls, known: BTreeMap::new() }
    }

    /// Asks every ready replica but ourselves.
    ///
    /// # Errors
    /// The first that did not answer: then nothing can be said of all.
    pub async fn ask(&mut self, world: &World, namespace: &str, own: &str) -> Result<Vec<Proxy>, Error> {
        let addresses = addresses(world, namespace, own);
        self.known.retain(|address, _| addresses.contains(address));
        let mut proxies = Vec::new();
        for (host, port) in addresses {
            let tls = &self.tls;
            let fresh = || {
                let access = Access { host: host.clone(), port, tls: Some(tls.clone()), credential: Credential::None };
                Peer { client: Client::new(access), at: String::new(), told: Vec::new() }
            };
            let peer = self.known.entry((host.clone(), port)).or_insert_with(fresh);
            let told = peer.client.get(&format!("{PATH}?known={}", peer.at)).await?;
            let wrong = || Error::Malformed(format!("{host}:{port}{PATH}"));
            let at = told["at"].as_str().ok_or_else(wrong)?;
            if at != peer.at {
                (peer.told, peer.at) = (decode(&told["proxies"]).ok_or_else(wrong)?, at.to_owned());
            }
            proxies.extend(peer.told.iter().cloned());
        }
        Ok(proxies)
    }

    /// What names all that was told last.
    pub fn told(&self) -> Vec<String> {
        self.known.iter().map(|((host, port), peer)| format!("{host}:{port} {}", peer.at)).collect()
    }
}

/// All of them. A proxy that moved to another replica is not lost, whatever the one says that it left.
pub fn merged(own: Vec<Proxy>, theirs: Vec<Proxy>) -> Vec<Proxy> {
    let mut all = own;
    all.extend(theirs);
    let connected = all.iter().filter(|proxy| proxy.connected).map(|proxy| proxy.uid.clone());
    let connected: BTreeSet<String> = connected.collect();
    all.retain(|proxy| proxy.connected || !connected.contains(&proxy.uid));
    all
}

fn addresses(world: &World, namespace: &str, own: &str) -> Vec<(String, u16)> {
    let mut found = BTreeMap::new();
    for object in world.about(&Topic::SlicesOf(Name::new(namespace, SERVICE))) {
        let Object::EndpointSlice(slice) = object else { continue };
        let port = slice.ports.iter().find(|port| port.name == PORT).and_then(|port| port.port);
        let Some(port) = port else { continue };
        for endpoint in slice.endpoints.iter().filter(|endpoint| endpoint.conditions.ready != Some(false)) {
            let Some(target) = endpoint.target_ref.as_ref().filter(|target| target.name != own) else { continue };
            // One address of each, whatever the families.
            if let Some(address) = endpoint.addresses.first() {
                found.entry(target.name.clone()).or_insert_with(|| (address.clone(), port));
            }
        }
    }
    found.into_values().collect()
}

/// For `PATH`: what was said, named by `at`. Who names that already is not told again.
pub fn encode(at: &str, known: &str, proxies: impl FnOnce() -> Vec<Proxy>) -> String {
    let mut told = json!({"at": at});
    if at != known {
        told["proxies"] = rows(&proxies());
    }
    told.to_string()
}

fn rows(proxies: &[Proxy]) -> Value {
    let key = |key: &Key| json!([key.kind() as i32, key.name()]);
    let all = proxies.iter().map(|one| {
        let applied = one.applied.iter().map(|(name, hash)| json!([key(name), hex(hash)]));
        let rejected = one.rejected.iter().map(|(name, (hash, why))| json!([key(name), hex(hash), why]));
        let unsupported = one.unsupported.iter().map(|(name, fields)| json!([key(name), fields]));
        json!({
            "uid": one.uid,
            "pod": one.pod,
            "namespace": one.namespace,
            "connected": one.connected,
            "applied": applied.collect::<Vec<_>>(),
            "rejected": rejected.collect::<Vec<_>>(),
            "unsupported": unsupported.collect::<Vec<_>>(),
        })
    });
    Value::from(all.collect::<Vec<_>>())
}

fn decode(told: &Value) -> Option<Vec<Proxy>> {
    told.as_array()?.iter().map(proxy).collect()
}

fn proxy(told: &Value) -> Option<Proxy> {
    let text = |field: &str| told[field].as_str().map(str::to_owned);
    let rows = |field: &str| told[field].as_array().map(Vec::as_slice);
    let key = |row: &Value| Key::parse(i32::try_from(row[0][0].as_i64()?).ok()?, row[0][1].as_str()?).ok();
    let hash = |row: &Value| unhex(row[1].as_str()?);
    let applied = rows("applied")?.iter().map(|row| Some((key(row)?, hash(row)?)));
    let rejected = rows("rejected")?.iter().map(|row| Some((key(row)?, (hash(row)?, row[2].as_str()?.to_owned()))));
    let words = |row: &Value| {
        row[1].as_array()?.iter().map(|word| word.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
    };
    let unsupported = rows("unsupported")?.iter().map(|row| Some((key(row)?, words(row)?)));
    Some(Proxy {
        uid: text("uid")?,
        pod: text("pod")?,
        namespace: text("namespace")?,
        connected: told["connected"].as_bool()?,
        applied: applied.collect::<Option<_>>()?,
        rejected: rejected.collect::<Option<_>>()?,
        unsupported: unsupported.collect::<Option<_>>()?,
    })
}

fn hex(hash: &Hash) -> String {
    hash.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Hash> {
    let pair = |at: usize| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
    let bytes: Option<Vec<u8>> = (0..text.len()).step_by(2).map(pair).collect();
    Hash::from_bytes(&bytes?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::Event;
    use crate::object::Kind;

    #[test]
    fn what_a_replica_tells_is_what_the_leader_hears() {
        let (outbound, inbound) = (Key::parse(2, "shop/web@default").unwrap(), Key::parse(4, "uid-0").unwrap());
        let hash = Hash::of(b"one");
        let told = Proxy {
            uid: "uid-0".to_owned(),
            pod: "shop/web-0".to_owned(),
            namespace: "shop".to_owned(),
            connected: true,
            applied: [(outbound.clone(), hash)].into(),
            rejected: [(inbound, (hash, "ports[0] \"cannot\" be".to_owned()))].into(),
            unsupported: [(outbound, vec!["mode".to_owned()])].into(),
        };
        let text = encode("7", "6", || vec![told.clone()]);
        let heard = decode(&serde_json::from_str::<Value>(&text).unwrap()["proxies"]).unwrap();
        assert_eq!(format!("{heard:?}"), format!("{:?}", [told]));
        assert_eq!(encode("7", "7", || panic!("it is known")), r#"{"at":"7"}"#);
        for wrong in ["{}", "[{}]", "null"] {
            assert!(decode(&serde_json::from_str(wrong).unwrap()).is_none(), "{wrong}");
        }
    }

    #[test]
    fn who_moved_to_another_replica_is_not_lost() {
        let proxy = |uid: &str, connected| Proxy { uid: uid.to_owned(), connected, ..Proxy::default() };
        let merged = merged(vec![proxy("moved", false), proxy("lost", false)], vec![proxy("moved", true)]);
        let told: Vec<_> = merged.iter().map(|proxy| (proxy.uid.as_str(), proxy.connected)).collect();
        assert_eq!(told, [("lost", false), ("moved", true)]);
    }

    #[test]
    fn every_ready_replica_is_asked_once_and_never_ourselves() {
        let endpoint = |name: &str, address: &str, ready: bool| json!({"addresses": [address], "conditions": {"ready": ready}, "targetRef": {"kind": "Pod", "name": name}});
        let slice = |name: &str, endpoints: Value| {
            let labels = json!({"kubernetes.io/service-name": SERVICE});
            let meta = json!({"name": name, "namespace": "leno-system", "labels": labels});
            let ports = json!([{"name": "http-admin", "port": 15014}, {"name": PORT, "port": 15012}]);
            let slice = json!({"metadata": meta, "endpoints": endpoints, "ports": ports});
            Event::Applied(Object::decode(Kind::EndpointSlice, slice).unwrap().into())
        };
        let mut world = World::default();
        world.apply(vec![
            slice(
                "v4",
                json!([
                    endpoint("a", "10.0.0.1", true),
                    endpoint("b", "10.0.0.2", true),
                    endpoint("c", "10.0.0.3", false)
                ]),
            ),
            slice("v6", json!([endpoint("b", "fd00::2", true)])),
        ]);
        assert_eq!(addresses(&world, "leno-system", "a"), [("10.0.0.2".to_owned(), 15012)]);
    }
}
