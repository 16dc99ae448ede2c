//! Certificates for the peers, and a client's leaf under Leno's own root for the handshake load. For the benchmark alone.

use std::fs;
use std::path::Path;

use anyhow::Context;
use rcgen::BasicConstraints;
use rcgen::CertificateParams;
use rcgen::DistinguishedName;
use rcgen::DnType;
use rcgen::ExtendedKeyUsagePurpose;
use rcgen::IsCa;
use rcgen::Issuer;
use rcgen::KeyPair;
use rcgen::KeyUsagePurpose;
use rcgen::SanType;
use serde_json::Value;

/// Writes `ca.pem`, and for `client` and `server` a chain, a key, and both in one file (`NAME.both.pem`, as HAProxy wants it).
///
/// # Errors
/// The folder cannot be written.
pub fn write(folder: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(folder)?;
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name = named("bench root");
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let root = params.self_signed(&key)?;
    fs::write(folder.join("ca.pem"), root.pem())?;
    let issuer = Issuer::from_params(&params, &key);
    for name in ["client", "server"] {
        leaf(folder, name, &spiffe(name), &issuer)?;
    }
    Ok(())
}

/// The identities of the peers' certificates.
pub fn spiffe(name: &str) -> String {
    format!("spiffe://bench.test/ns/shop/sa/{name}")
}

/// A client's leaf under the root of the control plane whose state folder this is.
///
/// # Errors
/// There is no such root, or the folder cannot be written.
pub fn leaf_of_leno(state: &Path, folder: &Path, identity: &str) -> anyhow::Result<()> {
    fs::create_dir_all(folder)?;
    let file = state.join("ca.json");
    let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    let roots: Value = serde_json::from_str(&text)?;
    let root = &roots["roots"][0];
    let part = |name: &str| root[name].as_str().with_context(|| format!("{}: no {name}", file.display()));
    let key = KeyPair::from_pem(part("key")?)?;
    let issuer = Issuer::from_ca_cert_pem(part("certificate")?, key)?;
    leaf(folder, "client", identity, &issuer)
}

fn leaf<S: rcgen::SigningKey>(folder: &Path, name: &str, identity: &str, issuer: &Issuer<'_, S>) -> anyhow::Result<()> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = named(&format!("{name}.bench.test"));
    let dns = SanType::DnsName(format!("{name}.bench.test").try_into()?);
    params.subject_alt_names = vec![dns, SanType::URI(identity.try_into()?)];
    // Leno's verifier wants the identity as the one name.
    if identity.starts_with("spiffe://cluster.local") {
        params.subject_alt_names.remove(0);
    }
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params.signed_by(&key, issuer)?.pem();
    let key = key.serialize_pem();
    fs::write(folder.join(format!("{name}.pem")), &certificate)?;
    fs::write(folder.join(format!("{name}.key")), &key)?;
    fs::write(folder.join(format!("{name}.both.pem")), certificate + &key)?;
    Ok(())
}

fn named(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    name
}
