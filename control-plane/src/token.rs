//! Who is calling: `verify(token) -> Caller`, by the API server's review, or by the state folder's own key with the claims of
//! Kubernetes' projected service-account tokens. It must never accept another algorithm, audience or key.

mod base64url;
mod review;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use aws_lc_rs::digest;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature;
use aws_lc_rs::signature::EcdsaKeyPair;
use aws_lc_rs::signature::KeyPair;
use aws_lc_rs::signature::UnparsedPublicKey;
use serde::Deserialize;
use serde::Serialize;

use crate::error::Error;
use crate::folder::Access;
use crate::folder::Folder;

pub use crate::token::review::Review;

/// The one audience; a token for the API server is refused here, and ours is refused there.
pub const AUDIENCE: &str = "leno";
pub const ISSUER: &str = "leno";
/// PKCS#8 DER of the key that signs the folder's tokens. 0600.
pub const KEY_FILE: &str = "token.key";
/// Kubernetes' own are about 1 KiB.
pub const TOKEN_MAX: usize = 8192;
/// The kubelet refuses shorter ones.
pub const TTL_MIN: Duration = Duration::from_secs(1);
/// Clocks may differ by this much in `iat` and `nbf`; `exp` gets none.
const SKEW: u64 = 60;

/// What a verified token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub namespace: Arc<str>,
    pub service_account: Arc<str>,
    pub pod_name: Arc<str>,
    pub pod_uid: Arc<str>,
    pub expires: SystemTime,
}

/// Why a token was refused. Said to the caller: it holds nothing that the caller does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("no bearer token in the metadata `authorization`")]
    Missing,
    #[error("the token is larger than {TOKEN_MAX} bytes")]
    TooLarge,
    #[error("the token is malformed: {0}")]
    Malformed(&'static str),
    #[error("the token's algorithm is not ES256")]
    Algorithm,
    #[error("the token is signed by another key")]
    OtherKey,
    #[error("the token's signature is wrong")]
    Signature,
    #[error("the token's issuer is not `{ISSUER}`")]
    Issuer,
    #[error("the token's audience is not `{AUDIENCE}`")]
    Audience,
    #[error("the token expired {0} s ago")]
    Expired(u64),
    #[error("the token is valid only in {0} s; compare the clocks")]
    NotYet(u64),
    #[error("the token is not bound to a pod")]
    NotBound,
    #[error("the API server does not accept the token: {0}")]
    Unauthenticated(String),
    /// Says nothing about the token: try again.
    #[error("the token cannot be reviewed now: {0}")]
    Unavailable(String),
}

/// How tokens are verified, which follows from the source.
#[derive(Debug, Clone)]
pub enum Verifier {
    Folder(Arc<FolderKey>),
    /// TokenReview with audience `leno`, and no fallback.
    Review(Arc<Review>),
}

impl Verifier {
    pub async fn verify(&self, token: &str, now: SystemTime) -> Result<Caller, TokenError> {
        match self {
            Verifier::Folder(key) => key.verify(token, now),
            Verifier::Review(review) => review.verify(token, now).await,
        }
    }
}

/// What to put into a token.
#[derive(Debug, Clone)]
pub struct Subject {
    pub namespace: String,
    pub service_account: String,
    pub pod_name: String,
    pub pod_uid: String,
}

#[derive(Debug)]
pub struct FolderKey {
    key: EcdsaKeyPair,
    id: String,
}

#[derive(Serialize, Deserialize)]
struct Header {
    alg: String,
    kid: String,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    aud: Vec<String>,
    exp: u64,
    iat: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nbf: Option<u64>,
    iss: String,
    sub: String,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Kubernetes,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
struct Kubernetes {
    namespace: String,
    serviceaccount: Object,
    pod: Option<Object>,
}

#[derive(Serialize, Deserialize)]
struct Object {
    name: String,
    uid: String,
}

impl FolderKey {
    /// Reads the folder's key, or makes it. Two processes that make it at once end with the same one.
    pub fn open(folder: &Folder) -> Result<FolderKey, Error> {
        let path = folder.path(KEY_FILE);
        if folder.read(KEY_FILE)?.is_none() {
            let fresh = EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_FIXED_SIGNING)
                .map_err(|_| Error::content(&path, "cannot make a key"))?;
            let der = fresh.to_pkcs8v1().map_err(|_| Error::content(&path, "cannot encode a key"))?;
            folder.create(KEY_FILE, Access::Private, der.as_ref())?;
        }
        let bytes = folder.read(KEY_FILE)?.ok_or_else(|| Error::content(&path, "vanished"))?;
        let key = EcdsaKeyPair::from_pkcs8(&signature::ECDSA_P256_SHA256_FIXED_SIGNING, &bytes)
            .map_err(|why| Error::content(&path, format!("not a P-256 key in PKCS#8: {why}")))?;
        let id = base64url::encode(&digest::digest(&digest::SHA256, key.public_key().as_ref()).as_ref()[..16]);
        Ok(FolderKey { key, id })
    }

    /// A token as the kubelet would project it.
    pub fn mint(&self, subject: &Subject, ttl: Duration, now: SystemTime) -> Result<String, Error> {
        let names = [&subject.namespace, &subject.service_account, &subject.pod_name];
        if let Some(bad) = names.into_iter().find(|name| !is_name(name)) {
            return Err(Error::Usage(format!("`{bad}` is not a Kubernetes name")));
        }
        if subject.pod_uid.is_empty() || ttl < TTL_MIN {
            return Err(Error::Usage("a token needs a pod uid and at least one second of life".to_owned()));
        }
        let iat = unix(now);
        let claims = Claims {
            aud: vec![AUDIENCE.to_owned()],
            exp: iat.saturating_add(ttl.as_secs()),
            iat,
            nbf: Some(iat),
            iss: ISSUER.to_owned(),
            sub: format!("system:serviceaccount:{}:{}", subject.namespace, subject.service_account),
            kubernetes: Kubernetes {
                namespace: subject.namespace.clone(),
                // The directory source has no ServiceAccount uids; nothing reads this one.
                serviceaccount: Object { name: subject.service_account.clone(), uid: String::new() },
                pod: Some(Object { name: subject.pod_name.clone(), uid: subject.pod_uid.clone() }),
            },
        };
        let header = Header { alg: "ES256".to_owned(), kid: self.id.clone() };
        Ok(self.sign(&to_json(&header), &to_json(&claims)))
    }

    fn sign(&self, header: &[u8], claims: &[u8]) -> String {
        let signed = format!("{}.{}", base64url::encode(header), base64url::encode(claims));
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes()).expect("a P-256 key signs any bytes");
        format!("{signed}.{}", base64url::encode(signature.as_ref()))
    }

    pub fn verify(&self, token: &str, now: SystemTime) -> Result<Caller, TokenError> {
        if token.len() > TOKEN_MAX {
            return Err(TokenError::TooLarge);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed("not three parts"))?;
        let (header, claims) = signed.split_once('.').ok_or(TokenError::Malformed("not three parts"))?;
        let decode = |part| base64url::decode(part).ok_or(TokenError::Malformed("not base64url"));
        let header: Header = serde_json::from_slice(&decode(header)?)
            .map_err(|_| TokenError::Malformed("header is not what we know"))?;
        // The algorithm is ours to choose, never the token's (RFC 8725 section 3.1).
        if header.alg != "ES256" {
            return Err(TokenError::Algorithm);
        }
        if header.kid != self.id {
            return Err(TokenError::OtherKey);
        }
        UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, self.key.public_key().as_ref())
            .verify(signed.as_bytes(), &decode(signature)?)
            .map_err(|_| TokenError::Signature)?;
        let claims: Claims = serde_json::from_slice(&decode(claims)?)
            .map_err(|_| TokenError::Malformed("claims are not what we know"))?;
        claims.caller(unix(now))
    }
}

impl Claims {
    fn caller(self, now: u64) -> Result<Caller, TokenError> {
        if self.iss != ISSUER {
            return Err(TokenError::Issuer);
        }
        if self.aud != [AUDIENCE] {
            return Err(TokenError::Audience);
        }
        if self.exp <= now {
            return Err(TokenError::Expired(now - self.exp));
        }
        let from = self.nbf.unwrap_or(self.iat).max(self.iat);
        if from > now.saturating_add(SKEW) {
            return Err(TokenError::NotYet(from - now));
        }
        let Kubernetes { namespace, serviceaccount, pod } = self.kubernetes;
        let pod = pod.filter(|pod| !pod.uid.is_empty()).ok_or(TokenError::NotBound)?;
        if ![&namespace, &serviceaccount.name, &pod.name].into_iter().all(|name| is_name(name)) {
            return Err(TokenError::Malformed("a name is not a Kubernetes name"));
        }
        if self.sub != format!("system:serviceaccount:{namespace}:{}", serviceaccount.name) {
            return Err(TokenError::Malformed("sub and kubernetes.io disagree"));
        }
        let expires = UNIX_EPOCH.checked_add(Duration::from_secs(self.exp));
        Ok(Caller {
            namespace: namespace.into(),
            service_account: serviceaccount.name.into(),
            pod_name: pod.name.into(),
            pod_uid: pod.uid.into(),
            expires: expires.ok_or(TokenError::Malformed("exp is beyond time"))?,
        })
    }
}

/// RFC 1123 subdomain, as Kubernetes names its objects: nothing that could leave its place in a SPIFFE id.
fn is_name(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let edges = [name.bytes().next(), name.bytes().last()];
    name.len() <= 253
        && edges.into_iter().all(|byte| byte.is_some_and(inner))
        && name.bytes().all(|byte| inner(byte) || byte == b'-' || byte == b'.')
}

fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain strings and numbers")
}

fn unix(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
