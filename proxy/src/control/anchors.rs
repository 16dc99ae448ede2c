//! Which anchors are trusted, and where they come from: the file that every pod mounts, and what the control plane pushed
//! since. It must never leave a proxy without any anchor because a newer answer was empty.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use leno_proto::identity::TrustDomain;
use leno_proto::policy::TrustBundle;
use parking_lot::Mutex;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::tls::Tls;
use crate::tls::Trust;

pub struct Anchors {
    /// PEM; read anew whenever the control plane is dialled, because the kubelet replaces it.
    file: PathBuf,
    domain: TrustDomain,
    tls: Arc<Tls>,
    bundle: Mutex<Option<TrustBundle>>,
}

impl Anchors {
    pub fn new(file: PathBuf, domain: TrustDomain, tls: Arc<Tls>) -> Self {
        Self { file, domain, tls, bundle: Mutex::default() }
    }

    /// What the control plane says now. The same again changes nothing: sessions stay resumable.
    ///
    /// # Errors
    /// The bundle has no anchor of our own domain, or cannot be used; the one before stays.
    pub fn adopt(&self, bundle: &TrustBundle) -> Result<(), String> {
        if !bundle.domains.iter().any(|(domain, anchors)| *domain == self.domain && !anchors.is_empty()) {
            return Err(format!("the trust bundle has no anchor of {}, our own domain", self.domain.as_str()));
        }
        let mut current = self.bundle.lock();
        if current.as_ref() == Some(bundle) {
            return Ok(());
        }
        self.tls.set_trust(Trust::new(bundle)).map_err(|error| error.to_string())?;
        *current = Some(bundle.clone());
        Ok(())
    }

    pub fn has_bundle(&self) -> bool {
        self.bundle.lock().is_some()
    }

    /// By which the control plane proves itself: the mounted anchors and the pushed ones of our own domain, because either
    /// may be newer than the other.
    ///
    /// # Errors
    /// There is no anchor in either place.
    pub fn for_control_plane(&self) -> Result<Arc<Trust>, String> {
        let (mounted, fault) = match self.mounted() {
            Ok(anchors) => (anchors, None),
            Err(why) => (Vec::new(), Some(why)),
        };
        let pushed = self.bundle.lock().clone().unwrap_or_default();
        let pushed = pushed.domains.into_iter().filter(|(domain, _)| *domain == self.domain);
        let mut anchors = mounted;
        for anchor in pushed.flat_map(|(_, anchors)| anchors) {
            if !anchors.contains(&anchor) {
                anchors.push(anchor);
            }
        }
        let trust = Trust::new(&TrustBundle { domains: vec![(self.domain.clone(), anchors)] });
        match trust.is_empty() {
            true => Err(fault.unwrap_or_else(|| format!("{} holds no certificate", self.file.display()))),
            false => Ok(Arc::new(trust)),
        }
    }

    fn mounted(&self) -> Result<Vec<Bytes>, String> {
        let said = |why: &dyn std::fmt::Display| format!("trust anchor {}: {why}", self.file.display());
        let pem = std::fs::read(&self.file).map_err(|error| said(&error))?;
        if pem.len() > FILE_MAX {
            return Err(said(&"larger than 1 MiB"));
        }
        let all = CertificateDer::pem_slice_iter(&pem).map(|one| one.map(|der| Bytes::copy_from_slice(&der)));
        all.collect::<Result<_, _>>().map_err(|error| said(&error))
    }
}

/// Hundreds of anchors.
const FILE_MAX: usize = 1 << 20;
