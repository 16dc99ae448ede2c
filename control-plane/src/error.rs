//! What can go wrong while the control plane starts or signs, said so that an operator knows what to do.
//! It never carries key material or a token.

use std::io;
use std::path::Path;
use std::path::PathBuf;

use crate::kube;

/// A failure of the control plane itself. What is wrong with a user's object is a condition, and what is wrong with a
/// caller is a gRPC status; neither is this.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{doing} {path}: {source}")]
    File { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("{path}: {why}")]
    Content { path: PathBuf, why: String },
    #[error("state folder {path} is used by another control plane; stop it or choose another folder")]
    FolderInUse { path: PathBuf },
    #[error(
        "the root key {root} is missing, but {anchor} shows that proxies already trust one. A new root would cut every \
         proxy off. Restore {root} from a backup; or, to start anew and restart every proxy, remove {anchor}"
    )]
    RootLost { root: PathBuf, anchor: PathBuf },
    #[error(
        "Secret {secret} is missing, but ConfigMap {trusting}/leno-trust shows that proxies already trust a root. A new one \
         would cut every proxy off. Restore the Secret from a backup; or, to start anew and restart every meshed Pod, delete \
         the ConfigMaps named leno-trust in all namespaces"
    )]
    RootSecretLost { secret: String, trusting: String },
    #[error(
        "{path} belongs to trust domain {held}, not {asked}; a trust domain cannot change, use another state folder"
    )]
    OtherTrustDomain { path: PathBuf, held: String, asked: String },
    #[error(
        "the issuing certificate authority expired: renew the issuer's Secret; or, where the root is Leno's own, rotate it with \
         `leno dev rotate-root`, which works while proxies can still reach this replica"
    )]
    RootExpired,
    #[error("the API server has not been heard for a while, so it is not certain which root signs; trying again")]
    RootUnheard,
    #[error("a rotation of the root is under way ({0}); wait until it ends")]
    RotationUnderWay(String),
    /// What an operator gave us to sign with is not fit for it.
    #[error("Secret {secret}, field {field}: {why}")]
    Issuer { secret: String, field: &'static str, why: String },
    #[error("Secret {0} does not exist; it is to hold the certificate authority that signs (tls.crt, tls.key, ca.crt)")]
    NoIssuer(String),
    #[error("sign a certificate: {0}")]
    Sign(String),
    #[error("listen on {address}: {source}")]
    Listen { address: std::net::SocketAddr, source: io::Error },
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    #[error("{doing}: {source}")]
    Cluster { doing: &'static str, source: kube::Error },
    #[error("{0}")]
    Usage(String),
}

impl Error {
    /// Names the file and what was being done to it.
    pub fn file(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        let path = path.to_owned();
        move |source| Error::File { doing, path, source }
    }

    pub fn content(path: &Path, why: impl Into<String>) -> Error {
        Error::Content { path: path.to_owned(), why: why.into() }
    }
}
