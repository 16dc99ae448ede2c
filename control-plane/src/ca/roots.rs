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
use rcgen::Issuer;
use rcgen::KeyPair;
use rcgen::KeyUsagePurpose;
use rcgen::PublicKeyData;
use rcgen::SanType;
use rcgen::SerialNumber;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::Deserialize;
use serde::Serialize;

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
    /// Seconds since 1970 at which it took its role.
    since: u64,
    not_after: u64,
    /// The longest lifetime, in seconds, that any of its leaves may have been given.
    leaf_ttl_max: u64,
    /// PEM.
    certificate: String,
    /// PEM, PKCS#8; forgotten when the root retires.
    key: Option<String>,
    /// This root's key as the previous root signed it, PEM; while that one is trusted.
    cross: Option<String>,
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

    pub(super) fn parse(bytes: &[u8]) -> Result<Roots, String> {
        let roots: Roots = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let issuing = roots.roots.iter().filter(|root| root.role == Role::Issuing).count();
        if issuing != 1 || roots.roots.first().is_none_or(|root| root.role != Role::Issuing) {
            return Err(format!("{issuing} issuing roots, expected one and at the front"));
        }
        for root in &roots.roots {
            root.der().map_err(|error| error.to_string())?;
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

    pub(super) fn will_issue_for(&mut self, leaf_ttl: Duration) {
        for root in self.roots.iter_mut().filter(|root| root.role != Role::Retiring) {
            root.leaf_ttl_max = root.leaf_ttl_max.max(leaf_ttl.as_secs());
        }
    }

    pub(super) fn trust(&self, trust_domain: &TrustDomain) -> Trust {
        // `parse` and `new` have proven each certificate.
        let anchors = self.roots.iter().filter_map(|root| root.der().ok()).map(|der| der.to_vec()).collect();
        Trust { trust_domain: trust_domain.clone(), generation: self.generation, anchors }
    }

    pub(super) fn anchors_pem(&self) -> String {
        self.roots.iter().map(|root| root.certificate.as_str()).collect()
    }

    pub(super) fn describe(&self) -> String {
        let anchors: Vec<_> = self
            .roots
            .iter()
            .map(|root| {
                serde_json::json!({
                    "sha256": root.der().map(|der| hex(digest::digest(&digest::SHA256, &der).as_ref())).unwrap_or_default(),
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

    pub(super) fn step(&mut self, now: SystemTime, trusted_everywhere: bool) -> bool {
        let at = unix(now);
        if let Some(position) = self.roots.iter().position(|root| root.role == Role::Joining) {
            let waited = Duration::from_secs(at.saturating_sub(self.roots[position].since));
            if waited >= JOIN_MAX || (trusted_everywhere && waited >= JOIN_MIN) {
                let mut next = self.roots.remove(position);
                (next.role, next.since) = (Role::Issuing, at);
                for old in self.roots.iter_mut().filter(|old| old.role == Role::Issuing) {
                    (old.role, old.since, old.key, old.cross) = (Role::Retiring, at, None, None);
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
        let cross = match previous {
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
        })
    }

    pub(super) fn not_after(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.not_after)
    }

    pub(super) fn issuer(&self) -> Result<Issuer<'static, KeyPair>, Error> {
        let key = self.key.as_deref().ok_or_else(|| Error::Sign("this root's key is gone".to_owned()))?;
        let key = KeyPair::from_pem(key).map_err(sign)?;
        Issuer::from_ca_cert_der(&self.der()?, key).map_err(sign)
    }

    fn der(&self) -> Result<CertificateDer<'static>, Error> {
        CertificateDer::from_pem_slice(self.certificate.as_bytes()).map_err(|error| Error::Sign(error.to_string()))
    }

    /// What stands between a leaf of this root and the previous anchor, if that still matters.
    pub(super) fn cross(&self) -> Result<Option<CertificateDer<'static>>, Error> {
        let Some(pem) = &self.cross else { return Ok(None) };
        CertificateDer::from_pem_slice(pem.as_bytes()).map(Some).map_err(|error| Error::Sign(error.to_string()))
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

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
