//! Last known good: key, chain, anchors and resources in one file of the sidecar's own volume, so that a restarted proxy needs
//! no control plane. It must never be read by another user, and never be believed where it is not whole.

#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;
use std::io;
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;

use bytes::Bytes;
use leno_proto::hash::Hash;
use leno_proto::key::Key;
use parking_lot::Mutex;
use prost::Message;

use crate::aside::step_aside;

/// What survives the process.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Kept {
    pub identity: Option<KeptIdentity>,
    pub resources: BTreeMap<Key, KeptResource>,
    /// Versions that this build has refused, by key.
    pub rejected: BTreeMap<Key, Vec<Hash>>,
    /// Control-plane addresses that worked, latest first.
    pub control_plane: Vec<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct KeptIdentity {
    /// PKCS#8.
    pub key: Vec<u8>,
    /// DER, leaf first.
    pub chain: Vec<Vec<u8>>,
    pub not_before_unix: i64,
    pub not_after_unix: i64,
}

#[derive(Debug, Clone, PartialEq)]
pub struct KeptResource {
    pub hash: Hash,
    pub bytes: Bytes,
    /// Of its last change or use; what was used longest ago leaves first when the file would grow too large.
    pub used_unix: i64,
    /// Not in force: it had not been used for long when a healthy session let it go. It serves again when it is asked for while
    /// no control plane answers.
    pub evicted: bool,
}

/// Whose file this is: another pod's or another build's rejections are nothing to us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    pub pod_uid: String,
    pub build: String,
}

pub struct Store {
    path: PathBuf,
    owner: Owner,
    bytes_max: usize,
    kept: Mutex<Kept>,
}

/// How the file was found, for the log.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    Nothing,
    /// What was wrong; it is not used, and the next write replaces it.
    Unusable(String),
    Good,
}

impl Store {
    /// Makes the folder where it is missing and reads what an earlier process left. A bad file is as good as none: the
    /// control plane can say everything again.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn open(folder: &Path, owner: Owner, bytes_max: usize) -> io::Result<(Self, Found)> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let path = folder.join(FILE);
        let (kept, found) = match read(&path, bytes_max, &owner) {
            Ok(Some(kept)) => (kept, Found::Good),
            Ok(None) => (Kept::default(), Found::Nothing),
            Err(why) => (Kept::default(), Found::Unusable(why)),
        };
        Ok((Self { path, owner, bytes_max, kept: Mutex::new(kept) }, found))
    }

    pub fn kept(&self) -> Kept {
        self.kept.lock().clone()
    }

    /// What was evicted under these keys: an Outbound of any view, and all buckets of Endpoints.
    pub fn evicted(&self, like: &Key) -> Vec<(Key, KeptResource)> {
        let kept = self.kept.lock();
        let alike = |key: &Key| match (like, key) {
            (Key::Outbound { service, .. }, Key::Outbound { service: it, .. }) => service == it,
            (Key::Endpoints { target, .. }, Key::Endpoints { target: it, .. }) => target == it,
            (like, key) => like == key,
        };
        let found = kept.resources.iter().filter(|(key, one)| one.evicted && alike(key));
        found.map(|(key, one)| (key.clone(), one.clone())).collect()
    }

    /// Changes what is kept and writes it. Called on the control thread: the volume is memory.
    ///
    /// # Errors
    /// The file cannot be written; what was there before is still whole.
    pub fn update(&self, change: impl FnOnce(&mut Kept)) -> io::Result<()> {
        let mut kept = self.kept.lock();
        change(&mut kept);
        bound(&mut kept, self.bytes_max);
        write(&self.path, &encode(&kept, &self.owner))
    }
}

/// Lets go of what was used longest ago, only as much as is needed; what every connection needs stays.
fn bound(kept: &mut Kept, bytes_max: usize) {
    let cost = |key: &Key, resource: &KeptResource| resource.bytes.len() + key.name().len() + RESOURCE_OVERHEAD;
    let mut total: usize = kept.resources.iter().map(|(key, resource)| cost(key, resource)).sum();
    if total <= bytes_max {
        return;
    }
    // What is in force was used since what was evicted.
    let mut by_age: Vec<_> =
        kept.resources.iter().map(|(k, r)| (!r.evicted, r.used_unix, k.clone(), cost(k, r))).collect();
    by_age.sort();
    for (_, _, key, cost) in by_age {
        let evictable = matches!(key, Key::Destination(_) | Key::Outbound { .. } | Key::Endpoints { .. });
        if total <= bytes_max {
            break;
        }
        if evictable {
            kept.resources.remove(&key);
            total -= cost;
        }
    }
}

fn read(path: &Path, bytes_max: usize, owner: &Owner) -> Result<Option<Kept>, String> {
    let size = match std::fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    // Headroom for what is not counted into the bound: identity, addresses, rejections.
    if size > 2 * bytes_max as u64 + (1 << 20) {
        return Err(format!("it has {size} bytes, more than were ever written"));
    }
    let file = std::fs::read(path).map_err(|error| error.to_string())?;
    decode(&file, owner).map(Some)
}

fn decode(file: &[u8], owner: &Owner) -> Result<Kept, String> {
    let rest = file.strip_prefix(MAGIC).ok_or("it does not begin as our files do")?;
    let (sum, payload) = rest.split_at_checked(32).ok_or("it is cut short")?;
    if Hash::of(payload).as_bytes() != sum {
        return Err("its checksum is wrong".into());
    }
    let file = File::decode(payload).map_err(|error| error.to_string())?;
    if file.pod_uid != owner.pod_uid {
        return Err(format!("it belongs to pod {}", file.pod_uid));
    }
    let mut kept = Kept { control_plane: file.control_plane, ..Kept::default() };
    kept.identity = file.identity.map(|it| KeptIdentity {
        key: it.key,
        chain: it.chain,
        not_before_unix: it.not_before_unix,
        not_after_unix: it.not_after_unix,
    });
    for one in file.resources {
        // A key that a later build wrote: not ours to use.
        let Ok(key) = Key::parse(one.kind, &one.name) else { continue };
        let hash = Hash::of(&one.bytes);
        let one = KeptResource { hash, bytes: one.bytes, used_unix: one.used_unix, evicted: one.evicted };
        kept.resources.insert(key, one);
    }
    // What another build could not read, this one may.
    if file.build == owner.build {
        for one in file.rejected {
            let Ok(key) = Key::parse(one.kind, &one.name) else { continue };
            kept.rejected.insert(key, one.hashes.iter().filter_map(|hash| Hash::from_bytes(hash)).collect());
        }
    }
    Ok(kept)
}

fn encode(kept: &Kept, owner: &Owner) -> Vec<u8> {
    let file = File {
        pod_uid: owner.pod_uid.clone(),
        build: owner.build.clone(),
        identity: kept.identity.clone().map(|it| FileIdentity {
            key: it.key,
            chain: it.chain,
            not_before_unix: it.not_before_unix,
            not_after_unix: it.not_after_unix,
        }),
        resources: kept
            .resources
            .iter()
            .map(|(key, one)| {
                step_aside();
                FileResource {
                    kind: key.kind() as i32,
                    name: key.name(),
                    bytes: one.bytes.clone(),
                    used_unix: one.used_unix,
                    evicted: one.evicted,
                }
            })
            .collect(),
        rejected: kept
            .rejected
            .iter()
            .map(|(key, hashes)| FileRejected {
                kind: key.kind() as i32,
                name: key.name(),
                hashes: hashes.iter().map(|hash| hash.to_vec()).collect(),
            })
            .collect(),
        control_plane: kept.control_plane.clone(),
    };
    let payload = file.encode_to_vec();
    [MAGIC, Hash::of(&payload).as_bytes(), &payload].concat()
}

/// Another file first, then a rename: a reader sees the old or the new, never a part. No fsync: the volume is memory, and
/// what must be survived is the process's end, not the machine's.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let aside = path.with_extension("new");
    match std::fs::remove_file(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
    file.write_all(bytes)?;
    drop(file);
    std::fs::rename(&aside, path)
}

#[derive(Clone, PartialEq, Message)]
struct File {
    #[prost(string, tag = "1")]
    pod_uid: String,
    #[prost(string, tag = "2")]
    build: String,
    #[prost(message, optional, tag = "3")]
    identity: Option<FileIdentity>,
    #[prost(message, repeated, tag = "4")]
    resources: Vec<FileResource>,
    #[prost(message, repeated, tag = "5")]
    rejected: Vec<FileRejected>,
    #[prost(string, repeated, tag = "6")]
    control_plane: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct FileIdentity {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", repeated, tag = "2")]
    chain: Vec<Vec<u8>>,
    #[prost(int64, tag = "3")]
    not_before_unix: i64,
    #[prost(int64, tag = "4")]
    not_after_unix: i64,
}

#[derive(Clone, PartialEq, Message)]
struct FileResource {
    #[prost(int32, tag = "1")]
    kind: i32,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(bytes = "bytes", tag = "3")]
    bytes: Bytes,
    #[prost(int64, tag = "4")]
    used_unix: i64,
    #[prost(bool, tag = "5")]
    evicted: bool,
}

#[derive(Clone, PartialEq, Message)]
struct FileRejected {
    #[prost(int32, tag = "1")]
    kind: i32,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(bytes = "vec", repeated, tag = "3")]
    hashes: Vec<Vec<u8>>,
}

const FILE: &str = "last-known-good";

/// Name and version of the format; another version is another file.
const MAGIC: &[u8] = b"leno last known good 1\n";

/// Field headers and numbers of one resource.
const RESOURCE_OVERHEAD: usize = 48;

/// What the resources of one proxy may take of the volume: hundreds of Services with thousands of endpoints.
pub const BYTES_MAX: usize = 16 * 1024 * 1024;
