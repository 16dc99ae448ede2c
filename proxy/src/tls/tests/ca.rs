//! A certificate authority for tests: as good or as bad as a test asks. It must never be linked outside them.

use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use leno_proto::identity::SpiffeId;
use leno_proto::policy::TrustBundle;
use rcgen::BasicConstraints;
use rcgen::CertificateParams;
use rcgen::ExtendedKeyUsagePurpose;
use rcgen::IsCa;
use rcgen::Issuer;
use rcgen::KeyPair;
use rcgen::KeyUsagePurpose;
use rcgen::SanType;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::PrivatePkcs8KeyDer;

use crate::tls::Identity;
use crate::tls::Tls;
use crate::tls::Trust;

pub(crate) struct Ca {
    domain: String,
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
    pub(crate) pem: String,
}

/// How a leaf is out of the ordinary.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Leaf {
    Good,
    Expired,
    NotYet,
    TwoIds,
    NoId,
}

impl Ca {
    pub(crate) fn new(domain: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let root = params.self_signed(&key).unwrap();
        let (root, pem) = (root.der().clone(), root.pem());
        Self { domain: domain.into(), issuer: Issuer::new(params, key), root, pem }
    }

    pub(crate) fn bundle(&self) -> TrustBundle {
        TrustBundle { domains: vec![(self.domain.parse().unwrap(), vec![self.root.to_vec().into()])] }
    }

    pub(crate) fn id(&self, account: &str) -> SpiffeId {
        format!("spiffe://{}/ns/shop/sa/{account}", self.domain).parse().unwrap()
    }

    pub(crate) fn params(&self, account: &str, leaf: Leaf) -> CertificateParams {
        let mut params = CertificateParams::default();
        let uri = |id: &SpiffeId| SanType::URI(id.as_str().try_into().unwrap());
        params.subject_alt_names = match leaf {
            Leaf::Good | Leaf::Expired | Leaf::NotYet => vec![uri(&self.id(account))],
            Leaf::TwoIds => vec![uri(&self.id(account)), uri(&self.id("second"))],
            Leaf::NoId => vec![],
        };
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let hour = Duration::from_secs(3600);
        let now = SystemTime::now();
        (params.not_before, params.not_after) = match leaf {
            Leaf::Expired => ((now - 2 * hour).into(), (now - hour).into()),
            Leaf::NotYet => ((now + hour).into(), (now + 2 * hour).into()),
            Leaf::Good | Leaf::TwoIds | Leaf::NoId => ((now - hour).into(), (now + hour).into()),
        };
        params
    }

    pub(crate) fn identity(&self, account: &str, leaf: Leaf) -> Identity {
        let key = KeyPair::generate().unwrap();
        let params = self.params(account, leaf);
        let chain = vec![params.signed_by(&key, &self.issuer).unwrap().der().clone()];
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
        Identity {
            id: self.id(account),
            chain,
            key: Arc::new(PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()))),
            not_before_unix: now - 3600,
            not_after_unix: now + 3600,
        }
    }

    /// Signs somebody's request, as Certify does.
    pub(crate) fn sign(&self, csr: &[u8], account: &str) -> CertificateDer<'static> {
        let mut request = rcgen::CertificateSigningRequestParams::from_der(&csr.into()).unwrap();
        request.params = self.params(account, Leaf::Good);
        request.signed_by(&self.issuer).unwrap().der().clone()
    }

    /// The TLS of a proxy that trusts this authority.
    pub(crate) fn tls(&self, account: &str, leaf: Leaf) -> Arc<Tls> {
        self.tls_trusting(account, leaf, &self.bundle())
    }

    pub(crate) fn tls_trusting(&self, account: &str, leaf: Leaf, bundle: &TrustBundle) -> Arc<Tls> {
        let tls = Tls::new();
        tls.set_trust(Trust::new(bundle)).unwrap();
        tls.set_identity(self.identity(account, leaf)).unwrap();
        tls
    }
}
