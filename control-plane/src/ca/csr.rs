//! Takes the public key out of a PKCS#10 request, and nothing else: who the caller is comes from its token.
//! It must never accept a key whose private half the caller did not prove to hold.

use aws_lc_rs::signature;
use aws_lc_rs::signature::UnparsedPublicKey;
use rcgen::PublicKeyData;
use rcgen::SignatureAlgorithm;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::oid_registry;
use x509_parser::prelude::FromDer;

/// An honest P-256 request is about 300 bytes; extensions that we ignore may make it somewhat larger.
pub const CSR_MAX: usize = 4096;

/// An uncompressed P-256 point (SEC 1 section 2.3.3), proven to be on the curve and to be the caller's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey(Vec<u8>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    #[error("the request is larger than {CSR_MAX} bytes")]
    TooLarge,
    #[error("the request is not a PKCS#10 certification request in DER")]
    Malformed,
    #[error("the key is not an uncompressed P-256 point; only P-256 keys are certified")]
    NotP256,
    #[error("the request is not signed with ecdsa-with-SHA256")]
    SignatureAlgorithm,
    #[error("the request's signature does not fit its key")]
    Signature,
}

impl PublicKey {
    pub fn from_csr(der: &[u8]) -> Result<PublicKey, CsrError> {
        if der.len() > CSR_MAX {
            return Err(CsrError::TooLarge);
        }
        let (rest, request) = X509CertificationRequest::from_der(der).map_err(|_| CsrError::Malformed)?;
        if !rest.is_empty() {
            return Err(CsrError::Malformed);
        }
        let spki = &request.certification_request_info.subject_pki;
        let curve = spki.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
        let point = spki.subject_public_key.data.as_ref();
        // RFC 5480 section 2.1.1: an EC key names its curve; section 2.2: 0x04 and two coordinates of 32 bytes.
        if spki.algorithm.algorithm != oid_registry::OID_KEY_TYPE_EC_PUBLIC_KEY
            || curve != Some(oid_registry::OID_EC_P256)
            || point.len() != 65
            || point.first() != Some(&4)
        {
            return Err(CsrError::NotP256);
        }
        if request.signature_algorithm.algorithm != oid_registry::OID_SIG_ECDSA_WITH_SHA256 {
            return Err(CsrError::SignatureAlgorithm);
        }
        UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_ASN1, point)
            .verify(request.certification_request_info.raw, &request.signature_value.data)
            .map_err(|_| CsrError::Signature)?;
        Ok(PublicKey(point.to_vec()))
    }
}

impl PublicKeyData for PublicKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}
