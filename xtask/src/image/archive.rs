//! An image as one tar file that container engines import: an OCI layout, with the index that `docker load` reads beside it.
//! It must never hold anything but what it was given: no time, no owner, no compression whose bytes a version changes.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde_json::Value;
use serde_json::json;
use sha2::Digest;
use sha2::Sha256;

/// Everything an image consists of.
pub(crate) struct Image {
    pub(crate) name: String,
    pub(crate) architecture: &'static str,
    /// Path without its leading slash -> mode and bytes.
    pub(crate) files: BTreeMap<String, (u32, Vec<u8>)>,
    pub(crate) entrypoint: Vec<String>,
    /// `uid:gid`.
    pub(crate) user: String,
}

impl Image {
    pub(crate) fn archive(&self) -> Vec<u8> {
        let layer = tar(&self.files);
        let layer_digest = digest(&layer);
        let config = json!({
            "architecture": self.architecture,
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": {
                "User": self.user,
                "Entrypoint": self.entrypoint,
                "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin:/"],
                "WorkingDir": "/",
            },
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer_digest}")]},
        });
        let config = text(&config);
        let config_digest = digest(&config);
        let blob = |kind: &str, digest: &str, bytes: &[u8]| json!({"mediaType": format!("application/vnd.oci.image.{kind}"), "digest": format!("sha256:{digest}"), "size": bytes.len()});
        let manifest = text(&json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": blob("config.v1+json", &config_digest, &config),
            "layers": [blob("layer.v1.tar", &layer_digest, &layer)],
        }));
        let manifest_digest = digest(&manifest);
        let mut entry = blob("manifest.v1+json", &manifest_digest, &manifest);
        entry["platform"] = json!({"architecture": self.architecture, "os": "linux"});
        let tag = self.name.rsplit(':').next().unwrap_or_default();
        entry["annotations"] = json!({"io.containerd.image.name": self.name, "org.opencontainers.image.ref.name": tag});
        let index = text(&json!({"schemaVersion": 2, "manifests": [entry]}));
        let docker = text(&json!([{
            "Config": path(&config_digest),
            "RepoTags": [self.name],
            "Layers": [path(&layer_digest)],
        }]));
        let files = [
            (path(&config_digest), config),
            (path(&layer_digest), layer),
            (path(&manifest_digest), manifest),
            ("index.json".to_owned(), index),
            ("manifest.json".to_owned(), docker),
            ("oci-layout".to_owned(), text(&json!({"imageLayoutVersion": "1.0.0"}))),
        ];
        tar(&files.into_iter().map(|(path, bytes)| (path, (0o644, bytes))).collect())
    }
}

fn path(digest: &str) -> String {
    format!("blobs/sha256/{digest}")
}

fn text(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

const BLOCK: usize = 512;

/// A POSIX tar (ustar) of these files and the folders above them, in the order of their names.
fn tar(files: &BTreeMap<String, (u32, Vec<u8>)>) -> Vec<u8> {
    let mut folders = BTreeSet::new();
    for path in files.keys() {
        folders.extend(path.match_indices('/').map(|(at, _)| path[..=at].to_owned()));
    }
    let mut out = Vec::new();
    for folder in folders {
        out.extend(header(&folder, 0o755, 0, b'5'));
    }
    for (path, (mode, bytes)) in files {
        out.extend(header(path, *mode, bytes.len(), b'0'));
        out.extend(bytes);
        out.resize(out.len().next_multiple_of(BLOCK), 0);
    }
    out.resize(out.len() + 2 * BLOCK, 0);
    out
}

/// One header: owned by root, of the year 1970.
fn header(path: &str, mode: u32, size: usize, kind: u8) -> [u8; BLOCK] {
    let mut header = [0; BLOCK];
    // POSIX.1 ustar: a name of up to 100 bytes; all of ours are known here and shorter.
    assert!(path.len() <= 100, "{path} is too long for a tar header");
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, path.as_bytes());
    put(100, format!("{mode:07o}\0").as_bytes());
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{size:011o}\0").as_bytes());
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, &[kind]);
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}
