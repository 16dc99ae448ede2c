//! The certificate authority: its own P-256 root or an operator's issuer, short leaves, and a rotation that nobody notices. Its
//! state is the folder's; or that of all replicas, who agree elsewhere what it is, and then `adopt` it here.
//!
//! It must never mint a second root while proxies trust a first one that is only mislaid, never sign past its own end,
//! and never drop an anchor while a leaf that chains to it may still be valid.

mod csr;
mod issuer;
mod roots;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use leno_proto::identity::SpiffeId;
use leno_proto::identity::TrustDomain;
use parking_lot::Mutex;
use rcgen::CertificateParams;
use rcgen::DistinguishedName;
use rcgen::ExtendedKeyUsagePurpose;
use rcgen::KeyPair;
use rcgen::KeyUsagePurpose;
use rcgen::PublicKeyData;
use rcgen::SanType;
use rustls::pki_types::CertificateDer;
use tokio::sync::watch;

use crate::ca::roots::Roots;
use crate::error::Error;
use crate::folder;
use crate::folder::Access;
use crate::folder::Folder;

pub use crate::ca::csr::CSR_MAX;
pub use crate::ca::csr::CsrError;
pub use crate::ca::csr::PublicKey;
pub use crate::ca::issuer::Issuer;

/// Keys of every root that still signs, and the anchors that are still trusted. 0600.
pub const ROOTS_FILE: &str = "ca.json";
/// What proxies are started with: every trusted anchor, PEM.
pub const ANCHOR_FILE: &str = "trust-anchor.pem";
/// The same for people and tools: generation, hashes, roles, ends.
pub const TRUST_FILE: &str = "trust.json";
/// Whoever may write into the state folder may ask for a rotation by leaving this file.
pub const ROTATE_FILE: &str = "rotate-root.request";

/// Long enough for a renewal in the second half of a leaf's life to meet one outage of hours.
pub const LEAF_TTL: Duration = Duration::from_secs(24 * 3600);
/// A shorter leaf would be renewed faster than a rotation or a test can observe.
pub const LEAF_TTL_MIN: Duration = Duration::from_secs(10);
/// A longer one outlives the reason to have short leaves.
pub const LEAF_TTL_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// The control plane's own ServiceAccount, which is part of its identity.
pub const OWN_ACCOUNT: &str = "leno-control-plane";
/// Leaves are valid from a minute before they are made, for peers whose clock is behind (reliability: F8).
const SKEW: Duration = Duration::from_secs(60);
/// A replica that has not heard for so long which root signs, signs no more; so long after a change others may still sign as before.
pub const UNHEARD_MAX: Duration = Duration::from_secs(90);
/// A root of our own is replaced so long before its end.
const ROTATE_BEFORE: Duration = Duration::from_secs(365 * 24 * 3600);

pub struct Settings {
    pub trust_domain: TrustDomain,
    pub leaf_ttl: Duration,
    /// Further places where the anchors are published (the volume that proxies mount).
    pub publish: Vec<PathBuf>,
    /// The state is that of all replicas: it changes by `adopt` alone.
    pub shared: bool,
}

pub struct Ca {
    folder: Folder,
    settings: Settings,
    state: Mutex<State>,
    trust: watch::Sender<Arc<Trust>>,
}

struct State {
    roots: Roots,
    /// When the replicas' common state was last seen to be this one.
    heard: SystemTime,
}

/// What is asked of the state that replicas share.
pub struct Ask<'a> {
    pub rotate: bool,
    /// Every open session, of every replica, has applied the present anchors.
    pub trusted_everywhere: bool,
    pub signer: Signer<'a>,
}

/// Who is to sign.
pub enum Signer<'a> {
    /// A root of our own.
    Own,
    Issuer(&'a Issuer),
    /// Who signs now: an operator's issuer is wanted and cannot be read.
    AsItIs,
}

/// The anchors that this mesh trusts now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trust {
    pub trust_domain: TrustDomain,
    /// Grows with each change of the anchors or of the root that issues.
    pub generation: u64,
    /// DER, the issuing root first.
    pub anchors: Vec<Vec<u8>>,
}

/// A certificate and what leads from it to an anchor.
#[derive(Debug, Clone)]
pub struct Issued {
    /// Leaf first; while a rotation lasts, then the new root as the old one signed it.
    pub chain: Vec<CertificateDer<'static>>,
    /// When it was made; the certificate itself is valid from a minute earlier.
    pub not_before: SystemTime,
    pub not_after: SystemTime,
}

/// A first state, encoded as `ROOTS_FILE` holds it: for those who keep it elsewhere than in a folder.
pub fn first(
    trust_domain: &TrustDomain,
    issuer: Option<&Issuer>,
    leaf_ttl: Duration,
    now: SystemTime,
) -> Result<Vec<u8>, Error> {
    let mut roots = match issuer {
        Some(issuer) => Roots::of_issuer(trust_domain.as_str(), issuer, now),
        None => Roots::first(trust_domain.as_str(), now)?,
    };
    roots.will_issue_for(leaf_ttl);
    Ok(roots.encode())
}

impl Ca {
    /// Reads the roots, or makes the first one where nothing was ever published.
    pub fn open(folder: Folder, settings: Settings, now: SystemTime) -> Result<Ca, Error> {
        if !(LEAF_TTL_MIN..=LEAF_TTL_MAX).contains(&settings.leaf_ttl) {
            return Err(Error::Usage(format!(
                "leaf lifetime {:?} is outside {LEAF_TTL_MIN:?} to {LEAF_TTL_MAX:?}",
                settings.leaf_ttl
            )));
        }
        let path = folder.path(ROOTS_FILE);
        let mut roots = match folder.read(ROOTS_FILE)? {
            Some(bytes) => Roots::parse(&bytes).map_err(|why| Error::content(&path, why))?,
            None => {
                let published = [folder.path(ANCHOR_FILE), folder.path(TRUST_FILE)];
                let published = published.iter().chain(&settings.publish);
                if let Some(anchor) = published.into_iter().find(|anchor| anchor.exists()) {
                    return Err(Error::RootLost { root: path, anchor: anchor.clone() });
                }
                // Where the whole folder was lost, this is what tells the operator why no sidecar trusts us.
                tracing::warn!(path = %path.display(), "no root of trust was ever published here; making the first one");
                Roots::first(settings.trust_domain.as_str(), now)?
            }
        };
        if roots.trust_domain != settings.trust_domain.as_str() {
            let asked = settings.trust_domain.as_str().to_owned();
            return Err(Error::OtherTrustDomain { path, held: roots.trust_domain, asked });
        }
        if !settings.shared {
            roots.will_issue_for(settings.leaf_ttl);
        }
        let trust = watch::Sender::new(Arc::new(roots.trust(&settings.trust_domain)));
        let ca = Ca { folder, settings, state: Mutex::new(State { roots, heard: now }), trust };
        ca.keep(&ca.state.lock().roots)?;
        Ok(ca)
    }

    /// The anchors, live.
    pub fn trust(&self) -> watch::Receiver<Arc<Trust>> {
        self.trust.subscribe()
    }

    pub fn leaf_ttl(&self) -> Duration {
        self.settings.leaf_ttl
    }

    /// What is under way, for people.
    pub fn rotation(&self) -> Option<String> {
        self.state.lock().roots.rotation()
    }

    /// When the issuing root ends.
    pub fn root_not_after(&self) -> SystemTime {
        self.state.lock().roots.issuing().not_after()
    }

    /// Certifies that whoever holds `key` is the workload `namespace`/`service_account`.
    pub fn issue(
        &self,
        key: &impl PublicKeyData,
        namespace: &str,
        service_account: &str,
        now: SystemTime,
    ) -> Result<Issued, Error> {
        let id = SpiffeId::workload(&self.settings.trust_domain, namespace, service_account)
            .map_err(|error| Error::Sign(error.to_string()))?;
        // X509-SVID section 2: exactly one URI SAN.
        self.certify(key, vec![SanType::URI(id.as_str().try_into().map_err(sign)?)], now)
    }

    fn certify(&self, key: &impl PublicKeyData, names: Vec<SanType>, now: SystemTime) -> Result<Issued, Error> {
        let state = self.state.lock();
        let root = state.roots.issuing();
        if root.not_after() <= now {
            return Err(Error::RootExpired);
        }
        let mut leaf_ttl = self.settings.leaf_ttl;
        if self.settings.shared {
            // The root may have retired elsewhere, and whoever drops its anchor counts on this.
            if now.duration_since(state.heard).unwrap_or_default() > UNHEARD_MAX {
                return Err(Error::RootUnheard);
            }
            leaf_ttl = root.longest(leaf_ttl);
        }
        let not_after = (now + leaf_ttl).min(root.not_after());
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        // RFC 5280 section 4.2.1.6: critical, as the subject is empty.
        params.subject_alt_names = names;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.not_before = (now - SKEW).into();
        params.not_after = not_after.into();
        params.serial_number = Some(roots::serial()?);
        let leaf = params.signed_by(key, &root.issuer()?).map_err(sign)?;
        let mut chain = vec![leaf.der().clone()];
        chain.extend(root.between()?);
        Ok(Issued { chain, not_before: now, not_after })
    }

    /// A fresh key with a certificate for DNS names: for the API server, which knows no SPIFFE ids. It carries no id, so that no
    /// sidecar takes its holder for anybody.
    pub fn issue_names(&self, names: &[String], now: SystemTime) -> Result<(KeyPair, Issued), Error> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(sign)?;
        let names: Result<Vec<SanType>, _> =
            names.iter().map(|name| name.as_str().try_into().map(SanType::DnsName)).collect();
        let issued = self.certify(&key, names.map_err(sign)?, now)?;
        Ok((key, issued))
    }

    /// Every anchor that is trusted now, PEM.
    pub fn anchors_pem(&self) -> String {
        self.state.lock().roots.anchors_pem()
    }

    /// A fresh key with its certificate, for the control plane's own socket.
    pub fn issue_own(&self, namespace: &str, now: SystemTime) -> Result<(KeyPair, Issued), Error> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(sign)?;
        let issued = self.issue(&key, namespace, OWN_ACCOUNT, now)?;
        Ok((key, issued))
    }

    /// Begins a rotation: a new root that is trusted beside the old one and does not issue yet.
    pub fn rotate(&self, now: SystemTime) -> Result<(), Error> {
        self.change(|roots| roots.rotate(now).map(|()| true))
    }

    /// Moves a rotation on. `trusted_everywhere`: every open session has applied the present anchors.
    /// True when something changed.
    pub fn step(&self, now: SystemTime, trusted_everywhere: bool) -> Result<bool, Error> {
        let mut changed = false;
        self.change(|roots| {
            changed = roots.step(now, trusted_everywhere, Duration::ZERO);
            Ok(changed)
        })?;
        Ok(changed)
    }

    /// Takes a request that was left in the state folder. True when there was one.
    pub fn take_request(&self) -> Result<bool, Error> {
        if !self.folder.path(ROTATE_FILE).exists() {
            return Ok(false);
        }
        self.folder.remove(ROTATE_FILE)?;
        Ok(true)
    }

    /// Changes a copy, keeps it on disk, and only then lets it speak: a crash in between leaves what was.
    fn change(&self, edit: impl FnOnce(&mut Roots) -> Result<bool, Error>) -> Result<(), Error> {
        let mut state = self.state.lock();
        let mut next = state.roots.clone();
        if !edit(&mut next)? {
            return Ok(());
        }
        next.generation += 1;
        self.force(&mut state, next)
    }

    fn force(&self, state: &mut State, next: Roots) -> Result<(), Error> {
        self.keep(&next)?;
        state.roots = next;
        self.trust.send_replace(Arc::new(state.roots.trust(&self.settings.trust_domain)));
        Ok(())
    }

    pub fn shared(&self) -> bool {
        self.settings.shared
    }

    /// The state that replicas share, as it is known here.
    pub fn encoded(&self) -> Vec<u8> {
        self.state.lock().roots.encode()
    }

    /// Puts into force what the replicas share, as it was read at `now`. True when it is news.
    pub fn adopt(&self, bytes: &[u8], now: SystemTime) -> Result<bool, Error> {
        let path = self.folder.path(ROOTS_FILE);
        let roots = Roots::parse(bytes).map_err(|why| Error::content(&path, why))?;
        if roots.trust_domain != self.settings.trust_domain.as_str() {
            let asked = self.settings.trust_domain.as_str().to_owned();
            return Err(Error::OtherTrustDomain { path, held: roots.trust_domain, asked });
        }
        let mut state = self.state.lock();
        state.heard = now;
        if state.roots.encode() == roots.encode() {
            return Ok(false);
        }
        self.force(&mut state, roots)?;
        Ok(true)
    }

    /// What the replicas' common state should become; `None`: what it is. Nothing is in force before it is adopted.
    pub fn next(&self, ask: &Ask<'_>, now: SystemTime) -> Result<Option<Vec<u8>>, Error> {
        let mut next = self.state.lock().roots.clone();
        let mut changed = next.will_issue_for(self.settings.leaf_ttl);
        match ask.signer {
            Signer::Issuer(issuer) => changed |= next.take_issuer(issuer, now),
            Signer::AsItIs => {}
            Signer::Own => {
                let due = next.external() || next.issuing().not_after() < now + ROTATE_BEFORE;
                if (ask.rotate || due) && next.rotation().is_none() {
                    next.rotate(now)?;
                    changed = true;
                }
            }
        }
        changed |= next.step(now, ask.trusted_everywhere, UNHEARD_MAX);
        next.generation += 1;
        Ok(changed.then(|| next.encode()))
    }

    /// Keys first, then what is published: an anchor is never out before the key behind it is safe.
    fn keep(&self, roots: &Roots) -> Result<(), Error> {
        self.folder.write(ROOTS_FILE, Access::Private, &roots.encode())?;
        let anchors = roots.anchors_pem();
        self.folder.write(ANCHOR_FILE, Access::Public, anchors.as_bytes())?;
        self.folder.write(TRUST_FILE, Access::Public, roots.describe().as_bytes())?;
        for place in &self.settings.publish {
            folder::write(place, Access::Public, anchors.as_bytes())?;
        }
        Ok(())
    }
}

fn sign(error: rcgen::Error) -> Error {
    Error::Sign(error.to_string())
}

/// Whole seconds since 1970; a clock before that is taken as 1970.
pub(crate) fn unix(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
