//! Versions: a resource's version is the hash of its bytes, equal on every replica and after every restart.

#[cfg(test)]
mod tests;

use std::fmt;

use sha2::Digest;
use sha2::Sha256;

use crate::key::Key;

/// SHA-256 of a resource's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hash([u8; 32]);

impl Hash {
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// From the wire; `None` where it is not 32 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    pub fn to_vec(self) -> Vec<u8> {
        self.0.to_vec()
    }
}

/// What both sides of a session compare in their heartbeats: keys and hashes in key order.
pub fn digest<'a>(held: impl IntoIterator<Item = (&'a Key, &'a Hash)>) -> Hash {
    let mut pairs: Vec<_> = held.into_iter().collect();
    pairs.sort_unstable();
    let mut sha = Sha256::new();
    for (key, hash) in pairs {
        let name = key.name();
        sha.update((key.kind() as i32).to_be_bytes());
        sha.update((name.len() as u32).to_be_bytes());
        sha.update(name.as_bytes());
        sha.update(hash.0);
    }
    Hash(sha.finalize().into())
}

/// The first eight bytes in hexadecimal: enough for people.
impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..8].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
