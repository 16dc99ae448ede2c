//! The roots of trust as a state machine: Issuing alone; Joining beside it; then Issuing with the old one Retiring.
//!
//! A joining root is trusted and signs nothing. When it takes over, its leaves carry it as the old root signed it, so that
//! a proxy that knows only the old anchor still accepts them. The old root's key is forgotten at that moment, its anchor
//! only after its last leaf has ended. No I/O, no clock.

use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use aws_lc_rs::digest;
use leno_proto::identity::TrustDomain;
use rcgen::BasicConstraints;
use rcgen::CertificateParams;
use rcgen::DistinguishedName;
use rcgen::DnType;
use rcgen::IsCa;
use rcgen::KeyPair;
use rcgen::KeyUsagePurpose;
use rcgen::PublicKeyData;
use rcgen::SanType;
use rcgen::SerialNumber;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::Deserialize;
use serde::Serialize;

use crate::ca::Issuer;
use crate::ca::Trust;
use crate::ca::sign;
use crate::ca::unix;
use crate::error::Error;

const ROOT_TTL: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Roots are never compared with a clock that runs an hour ahead of ours.
const ROOT_SKEW: Duration = Duration::from_secs(3600);
/// A joining root takes over after this even if some session has not confirmed it: the cross-signed certificate carries it.
const JOIN_MAX: Duration = Duration::from_secs(60);
/// And not sooner than this, so that the new anchors are on their way.
const JOIN_MIN: Duration = Duration::from_secs(2);
/// The same for a root that nothing carries to those who know only the old anchors: those who start meanwhile read the new ones
/// from a mounted ConfigMap, which the kubelet looks at once a minute.
const JOIN_ALONE_MAX: Duration = Duration::from_secs(600);
const JOIN_ALONE_MIN: Duration = Duration::from_secs(75);

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Roots {
    pub(super) trust_domain: String,
    pub(super) generation: u64,
    /// The issuing one first.
    roots: Vec<Root>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Role {
    Issuing,
    Joining,
    Retiring,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Root {
    role: Role,
    /// Seconds since 1970 at which it took its role; of a retiring one, from which on nobody signs with it.
    since: u64,
    not_after: u64,
    /// The longest lifetime, in seconds, that any of its leaves may have been given.
    leaf_ttl_max: u64,
    /// What is trusted, PEM: the root's own certificate, or all anchors of an operator's issuer.
    certificate: String,
    /// PEM, PKCS#8; forgotten when the root retires.
    key: Option<String>,
    /// This root's key as the previous root signed it, PEM; while that one is trusted.
    cross: Option<String>,
    /// Of an operator's issuer: the certificate whose key is `key`, and what leads from it to an anchor, PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    issuer: Option<String>,
}

impl std::fmt::Debug for Root {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Root").field("role", &self.role).field("since", &self.since).finish_non_exhaustive()
    }
}

impl Roots {
    pub(super) fn first(trust_domain: &str, now: SystemTime) -> Result<Roots, Error> {
        let root = Root::new(trust_domain, Role::Issuing, None, now)?;
        Ok(Roots { trust_domain: trust_domain.to_owned(), generation: 1, roots: vec![root] })
    }

    /// With an operator's issuer in place of a root of our own.
    pub(super) fn of_issuer(trust_domain: &str, issuer: &Issuer, now: SystemTime) -> Roots {
        let root = Root::of_issuer(issuer, Role::Issuing, unix(now));
        Roots { trust_domain: trust_domain.to_owned(), generation: 1, roots: vec![root] }
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<Roots, String> {
        let roots: Roots = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let issuing = roots.roots.iter().filter(|root| root.role == Role::Issuing).count();
        if issuing != 1 || roots.roots.first().is_none_or(|root| root.role != Role::Issuing) {
            return Err(format!("{issuing} issuing roots, expected one and at the front"));
        }
        for root in &roots.roots {
            root.anchors().map_err(|error| error.to_string())?;
            if root.role != Role::Retiring {
                root.issuer().map_err(|error| error.to_string())?;
            }
        }
        Ok(roots)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("plain strings and numbers")
    }

    pub(super) fn issuing(&self) -> &Root {
        self.roots.first().expect("parse and every edit keep the issuing root at the front")
    }

    /// True where it was not known yet.
    pub(super) fn will_issue_for(&mut self, leaf_ttl: Duration) -> bool {
        let mut news = false;
        for root in self.roots.iter_mut().filter(|root| root.role != Role::Retiring) {
            news |= root.leaf_ttl_max < leaf_ttl.as_secs();
            root.leaf_ttl_max = root.leaf_ttl_max.max(leaf_ttl.as_secs());
        }
        news
    }

    pub(super) fn trust(&self, trust_domain: &TrustDomain) -> Trust {
        // `parse` and `new` have proven each certificate.
        let mut anchors: Vec<Vec<u8>> = Vec::new();
        for der in self.roots.iter().filter_map(|root| root.anchors().ok()).flatten() {
            if !anchors.iter().any(|known| known[..] == der[..]) {
                anchors.push(der.to_vec());
            }
        }
        Trust { trust_domain: trust_domain.clone(), generation: self.generation, anchors }
    }

    pub(super) fn anchors_pem(&self) -> String {
        let mut all: Vec<&str> = self.roots.iter().map(|root| root.certificate.as_str()).collect();
        all.dedup();
        all.concat()
    }

    pub(super) fn describe(&self) -> String {
        let anchors: Vec<_> = self
            .roots
            .iter()
            .map(|root| {
                serde_json::json!({
                    "sha256": root.fingerprints(),
                    "role": root.role, "sinceUnix": root.since, "notAfterUnix": root.not_after,
                })
            })
            .collect();
        let trust = serde_json::json!({
            "trustDomain": self.trust_domain, "generation": self.generation, "anchors": anchors,
        });
        format!("{trust:#}\n")
    }

    pub(super) fn rotation(&self) -> Option<String> {
        let under_way = self.roots.iter().find(|root| root.role != Role::Issuing)?;
        Some(match under_way.role {
            Role::Joining => "the new root is trusted and does not issue yet".to_owned(),
            Role::Retiring => format!("the old root is trusted until unix {}", under_way.retired_until()),
            Role::Issuing => return None,
        })
    }

    pub(super) fn rotate(&mut self, now: SystemTime) -> Result<(), Error> {
        if let Some(rotation) = self.rotation() {
            return Err(Error::RotationUnderWay(rotation));
        }
        let mut joining = Root::new(&self.trust_domain, Role::Joining, Some(self.issuing()), now)?;
        joining.leaf_ttl_max = self.issuing().leaf_ttl_max;
        self.roots.push(joining);
        Ok(())
    }

    /// Lets an operator's issuer sign in time. True when something changed: the same anchors need no rotation, other ones do.
    pub(super) fn take_issuer(&mut self, issuer: &Issuer, now: SystemTime) -> bool {
        let at = unix(now);
        let newest = self.roots.iter().position(|root| root.role == Role::Joining).unwrap_or(0);
        if self.roots[newest].is(issuer) {
            return false;
        }
        let mut taken = Root::of_issuer(issuer, Role::Joining, at);
        taken.leaf_ttl_max = self.issuing().leaf_ttl_max;
        if self.issuing().certificate == issuer.anchors {
            // What joined in between is not wanted any more; nothing chains to it.
            self.roots.retain(|root| root.role != Role::Joining);
            (taken.role, taken.since) = (Role::Issuing, self.roots[0].since);
            self.roots[0] = taken;
        } else {
            self.roots.retain(|root| root.role != Role::Joining);
            self.roots.push(taken);
        }
        true
    }

    /// Whether the newest root is an operator's.
    pub(super) fn external(&self) -> bool {
        let newest = self.roots.iter().find(|root| root.role == Role::Joining).unwrap_or(self.issuing());
        newest.issuer.is_some()
    }

    /// `lag`: for how long others may go on signing with a root that retires now.
    pub(super) fn step(&mut self, now: SystemTime, trusted_everywhere: bool, lag: Duration) -> bool {
        let at = unix(now);
        if let Some(position) = self.roots.iter().position(|root| root.role == Role::Joining) {
            let joining = &self.roots[position];
            let waited = Duration::from_secs(at.saturating_sub(joining.since));
            let (least, most) = match joining.cross {
                Some(_) => (JOIN_MIN, JOIN_MAX),
                None => (JOIN_ALONE_MIN, JOIN_ALONE_MAX),
            };
            if waited >= most || (trusted_everywhere && waited >= least) {
                let mut next = self.roots.remove(position);
                (next.role, next.since) = (Role::Issuing, at);
                for old in self.roots.iter_mut().filter(|old| old.role == Role::Issuing) {
                    (old.role, old.since, old.key, old.cross) = (Role::Retiring, at + lag.as_secs(), None, None);
                    old.issuer = None;
                }
                self.roots.insert(0, next);
                return true;
            }
            return false;
        }
        let before = self.roots.len();
        self.roots.retain(|root| root.role != Role::Retiring || root.retired_until() > at);
        if self.roots.len() == before {
            return false;
        }
        if self.roots.len() == 1 {
            self.roots[0].cross = None;
        }
        true
    }
}

impl Root {
    fn new(trust_domain: &str, role: Role, previous: Option<&Root>, now: SystemTime) -> Result<Root, Error> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(sign)?;
        let not_after = now + ROOT_TTL;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        // The name tells roots apart for path building, so it carries the key's hash.
        let hash = digest::digest(&digest::SHA256, key.der_bytes());
        params.distinguished_name.push(DnType::OrganizationName, "Leno");
        params.distinguished_name.push(DnType::CommonName, format!("root {}", hex(&hash.as_ref()[..8])));
        params.subject_alt_names = vec![SanType::URI(format!("spiffe://{trust_domain}").try_into().map_err(sign)?)];
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = (now - ROOT_SKEW).into();
        params.not_after = not_after.into();
        params.serial_number = Some(serial()?);
        let certificate = params.self_signed(&key).map_err(sign)?;
        // An operator's issuer may not be allowed to sign another authority: whoever validates would refuse the path.
        let cross = match previous.filter(|previous| previous.issuer.is_none()) {
            None => None,
            Some(previous) => {
                params.use_authority_key_identifier_extension = true;
                params.serial_number = Some(serial()?);
                params.not_after = not_after.min(previous.not_after()).into();
                Some(params.signed_by(&key, &previous.issuer()?).map_err(sign)?.pem())
            }
        };
        Ok(Root {
            role,
            since: unix(now),
            not_after: unix(not_after),
            leaf_ttl_max: 0,
            certificate: certificate.pem(),
            key: Some(key.serialize_pem()),
            cross,
            issuer: None,
        })
    }

    fn of_issuer(issuer: &Issuer, role: Role, since: u64) -> Root {
        Root {
            role,
            since,
            not_after: issuer.not_after,
            leaf_ttl_max: 0,
            certificate: issuer.anchors.clone(),
            key: Some(issuer.key.clone()),
            cross: None,
            issuer: Some(issuer.chain.clone()),
        }
    }

    fn is(&self, issuer: &Issuer) -> bool {
        self.issuer.as_deref() == Some(issuer.chain.as_str())
            && self.key.as_deref() == Some(issuer.key.as_str())
            && self.certificate == issuer.anchors
    }

    pub(super) fn not_after(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.not_after)
    }

    pub(super) fn issuer(&self) -> Result<rcgen::Issuer<'static, KeyPair>, Error> {
        let key = self.key.as_deref().ok_or_else(|| Error::Sign("this root's key is gone".to_owned()))?;
        let key = KeyPair::from_pem(key).map_err(sign)?;
        let signer = certificates(self.issuer.as_deref().unwrap_or(&self.certificate))?;
        let signer = signer.first().ok_or_else(|| Error::Sign("the issuer has no certificate".to_owned()))?;
        rcgen::Issuer::from_ca_cert_der(signer, key).map_err(sign)
    }

    fn anchors(&self) -> Result<Vec<CertificateDer<'static>>, Error> {
        certificates(&self.certificate)
    }

    fn fingerprints(&self) -> String {
        let all = self.anchors().unwrap_or_default();
        let all: Vec<String> = all.iter().map(|der| hex(digest::digest(&digest::SHA256, der).as_ref())).collect();
        all.join(" ")
    }

    /// What stands between a leaf and an anchor: of a new root, its key as the previous one signed it, while that still matters;
    /// of an operator's issuer, all that is no anchor itself.
    pub(super) fn between(&self) -> Result<Vec<CertificateDer<'static>>, Error> {
        let mut between = certificates(self.cross.as_deref().unwrap_or_default())?;
        if let Some(chain) = &self.issuer {
            let anchors = self.anchors()?;
            between.extend(certificates(chain)?.into_iter().filter(|one| !anchors.contains(one)));
        }
        Ok(between)
    }

    /// The longest life that a leaf may be given here: whoever drops the anchor counts on it.
    pub(super) fn longest(&self, wanted: Duration) -> Duration {
        if self.leaf_ttl_max == 0 { wanted } else { wanted.min(Duration::from_secs(self.leaf_ttl_max)) }
    }

    /// From when on no leaf of this root can be valid, by any clock that is at most a leaf's life or a minute behind.
    fn retired_until(&self) -> u64 {
        self.since + self.leaf_ttl_max + self.leaf_ttl_max.min(60)
    }
}

/// RFC 5280 section 4.1.2.2: positive and at most 20 octets. Chance, so that no two leaves of one key share one.
pub(super) fn serial() -> Result<SerialNumber, Error> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| Error::Sign("no randomness".to_owned()))?;
    bytes[0] &= 0x7f;
    bytes[0] |= 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

pub(super) fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    all.map_err(|error| Error::Sign(error.to_string()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
