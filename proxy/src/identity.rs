//! The proxy's own certificate: a key that is made here and leaves only for the sidecar's own volume, certified for a
//! token, renewed well before its end. It must never give up: an expired leaf does not block its own renewal.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use leno_proto::identity::SpiffeId;
use leno_proto::policy::Resource;
use leno_proto::wire::control::CertifyRequest;
use rand::RngExt;
use rcgen::CertificateParams;
use rcgen::KeyPair;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::PrivatePkcs8KeyDer;
use tonic::Request;

use crate::control::anchors::Anchors;
use crate::control::dial::BACKOFF_BASE;
use crate::control::dial::Dialer;
use crate::control::dial::backoff;
use crate::control::progress::Progress;
use crate::control::resource::Decode;
use crate::metrics::Metrics;
use crate::store::Kept;
use crate::store::KeptIdentity;
use crate::store::Store;
use crate::tls;
use crate::tls::Identity;
use crate::tls::Tls;

/// Keeps the proxy's certificate fresh.
pub struct Renewal {
    /// Who we are to be, as the pod's namespace and service account say.
    pub id: SpiffeId,
    pub dialer: Arc<Dialer>,
    pub anchors: Arc<Anchors>,
    pub tls: Arc<Tls>,
    pub store: Arc<Store>,
    pub metrics: Arc<Metrics>,
    pub progress: Arc<Progress>,
    pub decode: Decode,
}

impl Renewal {
    /// Takes up the certificate of an earlier process where it still holds.
    pub fn restore(&self, kept: &Kept) {
        let Some(identity) = &kept.identity else { return };
        match self.usable(identity) {
            Ok(()) => tracing::info!(id = self.id.as_str(), "certificate restored from the volume"),
            Err(why) => tracing::warn!(why, "the certificate in the volume is not used"),
        }
    }

    fn usable(&self, kept: &KeptIdentity) -> Result<(), String> {
        if kept.not_after_unix <= unix_now() {
            return Err("it has expired".into());
        }
        self.take_up(kept)
    }

    /// Puts a key and chain into force.
    fn take_up(&self, kept: &KeptIdentity) -> Result<(), String> {
        let chain: Vec<_> = kept.chain.iter().cloned().map(CertificateDer::from).collect();
        let id = tls::identity_of(&chain)?;
        if id != self.id {
            return Err(format!("it names {}, and we are {}", id.as_str(), self.id.as_str()));
        }
        let key = Arc::new(PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(kept.key.clone())));
        let (not_before_unix, not_after_unix) = (kept.not_before_unix, kept.not_after_unix);
        let identity = Identity { id, chain, key, not_before_unix, not_after_unix };
        self.tls.set_identity(identity).map_err(|error| error.to_string())?;
        self.metrics.proxy.certificate_expires.set(not_after_unix);
        Ok(())
    }

    /// Certifies and renews for ever.
    pub async fn run(self) {
        let mut failures = 0;
        if let Some(current) = self.tls.identity() {
            let life = seconds(current.not_after_unix - current.not_before_unix);
            let age = seconds(unix_now() - current.not_before_unix);
            let wait = renewal(life, rand::rng().random()).saturating_sub(age);
            tokio::time::sleep(wait).await;
        }
        loop {
            match self.certify().await {
                Ok(life) => {
                    failures = 0;
                    self.progress.certified();
                    self.metrics.proxy.certificate_renewals.increment();
                    let wait = renewal(life, rand::rng().random());
                    tokio::time::sleep(wait).await;
                }
                Err(why) => {
                    self.metrics.proxy.certificate_failures.increment();
                    tracing::warn!(why, failures, "no certificate yet; trying again");
                    self.progress.not_certified(why);
                    let wait = retry(failures, self.left(), rand::rng().random());
                    tokio::time::sleep(wait).await;
                    failures += 1;
                }
            }
        }
    }

    /// How long the certificate in force still holds; nothing where there is none.
    fn left(&self) -> Duration {
        self.tls.identity().map_or(Duration::ZERO, |current| seconds(current.not_after_unix - unix_now()))
    }

    /// One new key, certified and in force; says how long it holds.
    async fn certify(&self) -> Result<Duration, String> {
        let (key, csr) = new_key()?;
        let mut link = self.dialer.connect(None).await?;
        let mut request = Request::new(CertifyRequest { csr: csr.into() });
        request.metadata_mut().insert("authorization", link.bearer.clone());
        let answer = tokio::time::timeout(CERTIFY_TIMEOUT, link.client.certify(request)).await;
        let answer = answer.map_err(|_| format!("certify at {}: no answer in time", link.address))?;
        let answer = answer
            .map_err(|status| format!("certify at {}: {:?}: {}", link.address, status.code(), status.message()))?;
        let answer = answer.into_inner();
        let life = answer.not_after_unix.saturating_sub(answer.not_before_unix);
        if life <= 0 {
            return Err(format!("certify at {}: the certificate has no life", link.address));
        }
        // First the anchors, so that chain and trust come into force together the first time. Later the session says which
        // anchors hold; this answer may come from a replica that is behind.
        if !self.anchors.has_bundle() {
            match (self.decode)(&answer.trust_bundle) {
                Ok(Resource::TrustBundle(bundle)) => self.anchors.adopt(&bundle)?,
                Ok(_) => return Err("the answer's trust bundle is another resource".into()),
                Err(refused) => return Err(format!("the answer's trust bundle: {}", refused.message)),
            }
        }
        let kept = KeptIdentity {
            key,
            chain: answer.chain.iter().map(|der| der.to_vec()).collect(),
            not_before_unix: answer.not_before_unix,
            not_after_unix: answer.not_after_unix,
        };
        self.take_up(&kept)?;
        let remembered = self.dialer.remembered();
        let written = self.store.update(|file| {
            file.identity = Some(kept);
            file.control_plane = remembered;
        });
        if let Err(error) = written {
            tracing::warn!(%error, "the certificate cannot be kept in the volume");
        }
        tracing::info!(id = self.id.as_str(), at = link.address, life, "certified");
        Ok(seconds(life))
    }
}

/// A fresh P-256 key (PKCS#8) and a request that proves that we hold it. The request names nobody: the token does.
fn new_key() -> Result<(Vec<u8>, Vec<u8>), String> {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(|error| format!("new key: {error}"))?;
    let request = CertificateParams::default().serialize_request(&key).map_err(|error| format!("request: {error}"))?;
    Ok((key.serialize_der(), request.der().to_vec()))
}

/// When to renew: uniformly within 50 to 70 % of the life, so that proxies that started together part. `chance` is uniform
/// in 0..1.
fn renewal(life: Duration, chance: f64) -> Duration {
    life.mul_f64(0.5 + 0.2 * chance.clamp(0.0, 1.0))
}

/// When to ask again: after the usual backoff, but at most an eighth of what is left of the life, so that a control plane
/// that returns before its end is asked before its end. `chance` is uniform in 0..1.
fn retry(failures: u32, left: Duration, chance: f64) -> Duration {
    let usual = backoff(failures, chance);
    match left {
        Duration::ZERO => usual,
        left => usual.min((left / 8).max(BACKOFF_BASE).mul_f64(chance.clamp(0.0, 1.0))),
    }
}

fn seconds(count: i64) -> Duration {
    Duration::from_secs(u64::try_from(count).unwrap_or(0))
}

fn unix_now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

const CERTIFY_TIMEOUT: Duration = Duration::from_secs(10);
