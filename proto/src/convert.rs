//! Wire to model and back, the only place that knows both. It must never guess: what is missing, unknown or out of range
//! makes the whole resource `Invalid` with the field's path, so that the last good one stays in force.

mod message;
mod traffic;
mod union;

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use prost::Message;

use crate::capability;
use crate::identity::SpiffeId;
use crate::identity::TrustDomain;
use crate::policy::InboundTraffic;
use crate::policy::Pattern;
use crate::policy::Resource;
use crate::policy::Traffic;
use crate::wire::policy as wire;

pub use message::BUCKET_ENDPOINTS_MAX;

/// The most bytes of one resource: what fits into a message of 256 KiB with the key, the hash and the framing around it.
pub const RESOURCE_BYTES_MAX: usize = 255 * 1024;

/// What makes a resource unusable, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    /// As in `outbound.ports[0].routes[2].kind`; empty for the resource as a whole.
    pub field: String,
    pub message: String,
}

impl Resource {
    /// Never panics, whatever the bytes.
    ///
    /// # Errors
    /// The bytes are no resource, or one that this build cannot take whole.
    pub fn decode(bytes: &[u8]) -> Result<Self, Invalid> {
        if bytes.len() > RESOURCE_BYTES_MAX {
            return invalid(format!("{} bytes are more than {RESOURCE_BYTES_MAX}", bytes.len()));
        }
        let resource = wire::Resource::decode(bytes).map_err(|e| Invalid::new(e.to_string()))?;
        for name in &resource.requires {
            if !capability::SECURITY.contains(&name.as_str()) {
                return invalid(format!("this build lacks the required capability {name:?}")).at("requires");
            }
        }
        let mut cx = Reader::new();
        cx.read_tables(resource.traffic, resource.inbound_traffic)?;
        union::read_resource(resource.kind, &mut cx)
    }

    /// Equal resources give equal bytes. What is longer than `RESOURCE_BYTES_MAX` no proxy will take.
    pub fn encode(&self) -> Vec<u8> {
        let mut cx = Writer::default();
        let kind = union::write_resource(self, &mut cx);
        let requires = capability::required(self).into_iter().map(str::to_owned).collect();
        wire::Resource {
            requires,
            traffic: cx.traffic.entries,
            inbound_traffic: cx.inbound_traffic.entries,
            kind: Some(kind),
        }
        .encode_to_vec()
    }
}

/// `Resource::encode`, for those who hold it behind a pointer.
pub fn encode(resource: &Resource) -> Vec<u8> {
    resource.encode()
}

/// A type of the model and how it looks as `W` on the wire.
trait Wire<W>: Sized {
    fn read(wire: W, cx: &mut Reader) -> Result<Self, Invalid>;
    fn write(&self, cx: &mut Writer) -> W;
}

/// What reading one resource shares: the tables read so far, and how much is left of each bound.
struct Reader {
    traffic: Vec<Arc<Traffic>>,
    /// How many policies hang below each entry of `traffic` in a chain, itself included.
    chains: Vec<usize>,
    /// The longest chain that the entry being read refers to.
    chain: usize,
    inbound_traffic: Vec<Arc<InboundTraffic>>,
    patterns_left: usize,
    /// Backends within filters of backends.
    depth: usize,
}

/// A policy may fall back to a backend whose policy falls back, this often.
const CHAIN_MAX: usize = 8;
const DEPTH_MAX: usize = 4;
/// With the bound of one pattern, at most 32 MiB for one resource.
const PATTERNS_MAX: usize = 512;
/// More than GEP-2257 can say (4 times 99999 hours), and little enough to be added to any clock.
const DURATION_MS_MAX: u64 = 400_000 * 3_600_000;

impl Reader {
    fn new() -> Self {
        Self {
            traffic: Vec::new(),
            chains: Vec::new(),
            chain: 0,
            inbound_traffic: Vec::new(),
            patterns_left: PATTERNS_MAX,
            depth: 0,
        }
    }

    fn read_tables(&mut self, out: Vec<wire::Traffic>, inbound: Vec<wire::InboundTraffic>) -> Result<(), Invalid> {
        for (i, entry) in out.into_iter().enumerate() {
            self.chain = 0;
            let entry = Traffic::read(entry, self).at_index(i).at("traffic")?;
            let chain = self.chain + 1;
            if chain > CHAIN_MAX {
                return invalid(format!("fallbacks chain more than {CHAIN_MAX} policies")).at_index(i).at("traffic");
            }
            self.traffic.push(Arc::new(entry));
            self.chains.push(chain);
        }
        for (i, entry) in inbound.into_iter().enumerate() {
            let entry = InboundTraffic::read(entry, self).at_index(i).at("inbound_traffic")?;
            self.inbound_traffic.push(Arc::new(entry));
        }
        Ok(())
    }

    fn pattern(&mut self, text: &str) -> Result<Pattern, Invalid> {
        let Some(left) = self.patterns_left.checked_sub(1) else {
            return invalid(format!("more than {PATTERNS_MAX} regular expressions"));
        };
        self.patterns_left = left;
        Pattern::new(text).map_err(|e| Invalid::new(e.to_string()))
    }

    fn deeper<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, Invalid>) -> Result<T, Invalid> {
        if self.depth == DEPTH_MAX {
            return invalid(format!("backends nest deeper than {DEPTH_MAX}"));
        }
        self.depth += 1;
        let done = read(self);
        self.depth -= 1;
        done
    }
}

/// The tables that writing one resource fills.
#[derive(Default)]
struct Writer {
    traffic: Table<Traffic, wire::Traffic>,
    inbound_traffic: Table<InboundTraffic, wire::InboundTraffic>,
}

/// Entries in the order of their first use, each content once.
struct Table<T, W> {
    entries: Vec<W>,
    by_content: HashMap<Vec<u8>, u32>,
    /// Only spares encoding again what is the same object; the model is borrowed while it is written.
    by_address: HashMap<*const T, u32>,
}

impl<T, W> Default for Table<T, W> {
    fn default() -> Self {
        Self { entries: Vec::new(), by_content: HashMap::new(), by_address: HashMap::new() }
    }
}

impl<T, W: Message> Table<T, W> {
    fn position(&mut self, of: *const T, entry: W) -> u32 {
        let entries = &mut self.entries;
        let position = *self.by_content.entry(entry.encode_to_vec()).or_insert_with(|| {
            entries.push(entry);
            entries.len() as u32 - 1
        });
        self.by_address.insert(of, position);
        position
    }
}

impl Wire<u32> for Arc<Traffic> {
    fn read(position: u32, cx: &mut Reader) -> Result<Self, Invalid> {
        let i = position as usize;
        let (Some(policy), Some(chain)) = (cx.traffic.get(i), cx.chains.get(i)) else {
            return invalid(format!("no policy {position} before this place"));
        };
        cx.chain = cx.chain.max(*chain);
        Ok(policy.clone())
    }

    fn write(&self, cx: &mut Writer) -> u32 {
        if let Some(position) = cx.traffic.by_address.get(&Arc::as_ptr(self)) {
            return *position;
        }
        // Writing may add what the policy refers to first, so that references point backwards.
        let entry = Traffic::write(self, cx);
        cx.traffic.position(Arc::as_ptr(self), entry)
    }
}

impl Wire<u32> for Arc<InboundTraffic> {
    fn read(position: u32, cx: &mut Reader) -> Result<Self, Invalid> {
        let found = cx.inbound_traffic.get(position as usize).cloned();
        found.ok_or_else(|| Invalid::new(format!("no policy {position}")))
    }

    fn write(&self, cx: &mut Writer) -> u32 {
        if let Some(position) = cx.inbound_traffic.by_address.get(&Arc::as_ptr(self)) {
            return *position;
        }
        let entry = InboundTraffic::write(self, cx);
        cx.inbound_traffic.position(Arc::as_ptr(self), entry)
    }
}

impl Wire<u64> for Duration {
    fn read(ms: u64, _: &mut Reader) -> Result<Self, Invalid> {
        match ms {
            0..=DURATION_MS_MAX => Ok(Duration::from_millis(ms)),
            _ => invalid(format!("{ms} ms are more than {DURATION_MS_MAX}")),
        }
    }

    /// Whole milliseconds: what GEP-2257 can say.
    fn write(&self, _: &mut Writer) -> u64 {
        u64::try_from(self.as_millis()).unwrap_or(DURATION_MS_MAX)
    }
}

impl Wire<u32> for u32 {
    fn read(n: u32, _: &mut Reader) -> Result<Self, Invalid> {
        Ok(n)
    }

    fn write(&self, _: &mut Writer) -> u32 {
        *self
    }
}

/// Ports and HTTP statuses.
impl Wire<u32> for u16 {
    fn read(n: u32, _: &mut Reader) -> Result<Self, Invalid> {
        u16::try_from(n).map_err(|_| Invalid::new(format!("{n} is more than {}", u16::MAX)))
    }

    fn write(&self, _: &mut Writer) -> u32 {
        (*self).into()
    }
}

/// Percentages.
impl Wire<u32> for u8 {
    fn read(n: u32, _: &mut Reader) -> Result<Self, Invalid> {
        match u8::try_from(n) {
            Ok(percent @ 0..=100) => Ok(percent),
            _ => invalid(format!("{n} is more than 100")),
        }
    }

    fn write(&self, _: &mut Writer) -> u32 {
        (*self).into()
    }
}

impl Wire<bool> for bool {
    fn read(b: bool, _: &mut Reader) -> Result<Self, Invalid> {
        Ok(b)
    }

    fn write(&self, _: &mut Writer) -> bool {
        *self
    }
}

impl Wire<String> for Arc<str> {
    fn read(text: String, _: &mut Reader) -> Result<Self, Invalid> {
        Ok(text.into())
    }

    fn write(&self, _: &mut Writer) -> String {
        self.to_string()
    }
}

impl Wire<bytes::Bytes> for bytes::Bytes {
    fn read(bytes: bytes::Bytes, _: &mut Reader) -> Result<Self, Invalid> {
        Ok(bytes)
    }

    fn write(&self, _: &mut Writer) -> bytes::Bytes {
        self.clone()
    }
}

macro_rules! parsed {
    ($($name:ty: $what:literal),* $(,)?) => { $(
        impl Wire<String> for $name {
            fn read(text: String, _: &mut Reader) -> Result<Self, Invalid> {
                // A scope id means something on one host only.
                let parsed = (!text.contains('%')).then(|| text.parse().ok()).flatten();
                parsed.ok_or_else(|| Invalid::new(format!(concat!("{:?} is no ", $what), text)))
            }

            fn write(&self, _: &mut Writer) -> String {
                self.to_string()
            }
        }
    )* };
}

parsed! {
    SpiffeId: "SPIFFE id",
    TrustDomain: "trust domain",
    SocketAddr: "address with a port",
    IpAddr: "address",
    IpNet: "network",
}

impl<T: Wire<W>, W> Wire<Option<W>> for Option<T> {
    fn read(wire: Option<W>, cx: &mut Reader) -> Result<Self, Invalid> {
        wire.map(|wire| T::read(wire, cx)).transpose()
    }

    fn write(&self, cx: &mut Writer) -> Option<W> {
        self.as_ref().map(|it| it.write(cx))
    }
}

impl<T: Wire<W>, W> Wire<Vec<W>> for Vec<T> {
    fn read(wire: Vec<W>, cx: &mut Reader) -> Result<Self, Invalid> {
        wire.into_iter().enumerate().map(|(i, wire)| T::read(wire, cx).at_index(i)).collect()
    }

    fn write(&self, cx: &mut Writer) -> Vec<W> {
        self.iter().map(|it| it.write(cx)).collect()
    }
}

impl Invalid {
    fn new(message: String) -> Self {
        Self { field: String::new(), message }
    }
}

fn invalid<T>(message: String) -> Result<T, Invalid> {
    Err(Invalid::new(message))
}

/// Puts the path together from the inside out.
trait At {
    fn at(self, field: &str) -> Self;
    fn at_index(self, index: usize) -> Self;
}

impl<T> At for Result<T, Invalid> {
    fn at(self, field: &str) -> Self {
        self.map_err(|e| match e.field.as_str() {
            "" => Invalid { field: field.to_owned(), ..e },
            inner if inner.starts_with('[') => Invalid { field: format!("{field}{inner}"), ..e },
            inner => Invalid { field: format!("{field}.{inner}"), ..e },
        })
    }

    fn at_index(self, index: usize) -> Self {
        self.at(&format!("[{index}]"))
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.field.as_str() {
            "" => f.write_str(&self.message),
            field => write!(f, "{field}: {}", self.message),
        }
    }
}

impl std::error::Error for Invalid {}

#[cfg(test)]
mod tests;
