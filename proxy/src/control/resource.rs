//! Resources as they come off the wire: checked against their key and hash, decoded, or refused with the field and the reason.
//! It must never let a resource through that says something about another key than its own.

use bytes::Bytes;
use leno_proto::hash::Hash;
use leno_proto::key::Key;
use leno_proto::policy::Resource;
use leno_proto::wire::control as wire;

/// Bytes to model; a function, so that tests can refuse what they like.
pub type Decode = fn(&Bytes) -> Result<Resource, Refusal>;

/// Why this build does not take a resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub field: String,
    pub message: String,
}

impl Refusal {
    pub fn new(field: &str, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}

/// What a proxy runs: the wire's own meaning.
///
/// # Errors
/// The bytes are no resource that this build understands; the field says which part.
pub fn decode(bytes: &Bytes) -> Result<Resource, Refusal> {
    Resource::decode(bytes).map_err(|invalid| Refusal::new(&invalid.field, invalid.message))
}

/// # Errors
/// The bytes are not what the hash says, cannot be decoded, or are about something else than the key.
pub(super) fn take(key: &Key, hash: Hash, bytes: &Bytes, decode: Decode) -> Result<Resource, Refusal> {
    if Hash::of(bytes) != hash {
        return Err(Refusal::new("hash", "the bytes have another hash"));
    }
    let resource = decode(bytes)?;
    match belongs(key, &resource) {
        true => Ok(resource),
        false => Err(Refusal::new("key", format!("the resource is about something else than {key}"))),
    }
}

fn belongs(key: &Key, resource: &Resource) -> bool {
    match (key, resource) {
        (Key::Destination(_), Resource::Destination(_))
        | (Key::TrustBundle, Resource::TrustBundle(_))
        | (Key::ProxyConfig, Resource::ProxyConfig(_))
        | (Key::EgressIndex, Resource::EgressIndex(_))
        | (Key::Share, Resource::Share(_)) => true,
        (Key::Outbound { service, .. }, Resource::Outbound(it)) => it.service == *service,
        (Key::Endpoints { target, bucket }, Resource::Endpoints(it)) => it.target == *target && it.bucket == *bucket,
        (Key::Inbound(uid), Resource::Inbound(it)) => it.uid == *uid,
        (
            Key::Destination(_)
            | Key::Outbound { .. }
            | Key::Endpoints { .. }
            | Key::Inbound(_)
            | Key::TrustBundle
            | Key::ProxyConfig
            | Key::EgressIndex
            | Key::Share,
            _,
        ) => false,
    }
}

pub(super) fn to_wire(key: &Key) -> wire::Key {
    wire::Key { kind: key.kind() as i32, name: key.name() }
}

pub(super) fn hash_bytes(hash: Hash) -> Bytes {
    Bytes::copy_from_slice(hash.as_bytes())
}
