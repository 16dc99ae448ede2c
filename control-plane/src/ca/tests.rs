use rustls::RootCertStore;
use rustls::pki_types::UnixTime;
use rustls::server::WebPkiClientVerifier;
use x509_parser::prelude::FromDer;
use x509_parser::prelude::GeneralName;
use x509_parser::prelude::X509Certificate;

use super::*;
use crate::testing::Scratch;

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
}

fn settings(leaf_ttl: u64) -> Settings {
    Settings {
        trust_domain: "cluster.local".parse().unwrap(),
        leaf_ttl: Duration::from_secs(leaf_ttl),
        publish: Vec::new(),
        shared: false,
    }
}

fn open(scratch: &Scratch, leaf_ttl: u64, now: u64) -> Result<Ca, Error> {
    Ca::open(Folder::open(scratch.path()).unwrap(), settings(leaf_ttl), at(now))
}

fn leaf(ca: &Ca, now: u64) -> Issued {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    ca.issue(&key, "shop", "cart", at(now)).unwrap()
}

/// What any proxy does: path building to the anchors that it knows.
fn verifies(issued: &Issued, anchors: &[Vec<u8>], now: u64) -> bool {
    let mut roots = RootCertStore::empty();
    for anchor in anchors {
        roots.add(CertificateDer::from(anchor.clone())).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
    let now = UnixTime::since_unix_epoch(Duration::from_secs(unix(at(now))));
    verifier.verify_client_cert(&issued.chain[0], &issued.chain[1..], now).is_ok()
}

fn anchors(ca: &Ca) -> Vec<Vec<u8>> {
    ca.trust().borrow().anchors.clone()
}

#[test]
fn a_leaf_says_who_it_is_and_nothing_more() {
    let scratch = Scratch::new();
    let ca = open(&scratch, 3600, 0).unwrap();
    let issued = leaf(&ca, 0);
    assert!(verifies(&issued, &anchors(&ca), 10));
    assert!(!verifies(&issued, &anchors(&ca), 3601), "an expired leaf");
    let (_, certificate) = X509Certificate::from_der(&issued.chain[0]).unwrap();
    assert_eq!(certificate.subject().iter().count(), 0);
    let names = certificate.subject_alternative_name().unwrap().unwrap();
    assert!(names.critical);
    assert_eq!(names.value.general_names, [GeneralName::URI("spiffe://cluster.local/ns/shop/sa/cart")]);
    assert!(!certificate.is_ca());
    assert_eq!(certificate.key_usage().unwrap().unwrap().value.flags, 1, "digitalSignature alone");
    assert_ne!(leaf(&ca, 0).chain[0], issued.chain[0]);
}

#[test]
fn a_leaf_never_outlives_its_root() {
    let scratch = Scratch::new();
    let ca = open(&scratch, 3600, 0).unwrap();
    let end = unix(ca.root_not_after()) - unix(at(0));
    assert_eq!(leaf(&ca, end - 100).not_after, ca.root_not_after());
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    assert!(matches!(ca.issue(&key, "shop", "cart", at(end)), Err(Error::RootExpired)));
}

#[test]
fn a_restart_keeps_the_root() {
    let scratch = Scratch::new();
    let first = anchors(&open(&scratch, 3600, 0).unwrap());
    assert_eq!(anchors(&open(&scratch, 3600, 50).unwrap()), first);
}

#[test]
fn a_lost_root_is_not_replaced_behind_the_proxies_backs() {
    let scratch = Scratch::new();
    open(&scratch, 3600, 0).unwrap();
    std::fs::remove_file(scratch.path().join(ROOTS_FILE)).unwrap();
    let error = open(&scratch, 3600, 1).err().unwrap();
    assert!(matches!(error, Error::RootLost { .. }));
    let said = error.to_string();
    assert!(said.contains("ca.json is missing") && said.contains("Restore") && said.contains("remove"), "{said}");
    for published in [ANCHOR_FILE, TRUST_FILE] {
        std::fs::remove_file(scratch.path().join(published)).unwrap();
    }
    open(&scratch, 3600, 2).unwrap();
}

#[test]
fn an_anchor_published_elsewhere_counts_when_the_whole_folder_is_lost() {
    let (scratch, volume, fresh) = (Scratch::new(), Scratch::new(), Scratch::new());
    let anchor = volume.path().join("anchor.pem");
    let settings = || Settings { publish: vec![anchor.clone()], ..settings(3600) };
    Ca::open(Folder::open(scratch.path()).unwrap(), settings(), at(0)).unwrap();
    let lost = Ca::open(Folder::open(fresh.path()).unwrap(), settings(), at(1));
    assert!(matches!(lost, Err(Error::RootLost { .. })));
}

#[test]
fn another_trust_domain_or_a_torn_file_stops_the_start() {
    let scratch = Scratch::new();
    open(&scratch, 3600, 0).unwrap();
    let folder = || Folder::open(scratch.path()).unwrap();
    let other = Settings { trust_domain: "other".parse().unwrap(), ..settings(3600) };
    assert!(matches!(Ca::open(folder(), other, at(0)), Err(Error::OtherTrustDomain { .. })));
    std::fs::write(scratch.path().join(ROOTS_FILE), b"{").unwrap();
    assert!(matches!(open(&scratch, 3600, 0), Err(Error::Content { .. })));
}

#[test]
fn a_lifetime_outside_its_bounds_is_refused() {
    for wrong in [0, 9, 7 * 24 * 3600 + 1] {
        assert!(matches!(open(&Scratch::new(), wrong, 0), Err(Error::Usage(_))), "{wrong}");
    }
}

#[test]
fn keys_are_private_and_anchors_public() {
    use std::os::unix::fs::PermissionsExt;
    let scratch = Scratch::new();
    open(&scratch, 3600, 0).unwrap();
    for (name, mode) in [(ROOTS_FILE, 0o600), (ANCHOR_FILE, 0o644), (TRUST_FILE, 0o644)] {
        let found = std::fs::metadata(scratch.path().join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!(found, mode, "{name}");
    }
    assert!(!std::fs::read_to_string(scratch.path().join(ANCHOR_FILE)).unwrap().contains("PRIVATE"));
}

#[test]
fn during_a_rotation_every_leaf_is_accepted_by_everyone() {
    let scratch = Scratch::new();
    let ca = open(&scratch, 100, 0).unwrap();
    let (old_anchors, old_leaf) = (anchors(&ca), leaf(&ca, 0));
    ca.rotate(at(10)).unwrap();
    assert!(matches!(ca.rotate(at(10)), Err(Error::RotationUnderWay(_))));
    let both = anchors(&ca);
    assert_eq!(both.len(), 2);

    assert!(!ca.step(at(11), true).unwrap(), "the new anchors need a moment");
    assert!(!ca.step(at(20), false).unwrap(), "someone has not applied them");
    assert!(verifies(&leaf(&ca, 20), &old_anchors, 21), "the old root still issues");
    assert!(ca.step(at(20), true).unwrap());

    let new_leaf = leaf(&ca, 21);
    assert_eq!(new_leaf.chain.len(), 2, "carries the new root as the old one signed it");
    let new_anchor = vec![anchors(&ca)[0].clone()];
    assert_ne!(new_anchor, old_anchors);
    for known in [&old_anchors, &both, &new_anchor, &anchors(&ca)] {
        assert!(verifies(&new_leaf, known, 22));
    }
    assert!(verifies(&old_leaf, &anchors(&ca), 22));
    assert!(!verifies(&old_leaf, &new_anchor, 22));

    // 20 (retired) + 100 (life of a leaf) + 60 (clocks).
    assert!(!ca.step(at(179), true).unwrap());
    let reopened = open(&scratch, 100, 179);
    assert_eq!(anchors(&reopened.unwrap()).len(), 2, "a restart goes on where it was");
    assert!(ca.step(at(180), true).unwrap());
    assert_eq!(anchors(&ca), new_anchor);
    assert_eq!(leaf(&ca, 181).chain.len(), 1);
    assert_eq!(ca.rotation(), None);
}

#[test]
fn a_straggler_delays_a_rotation_and_does_not_stop_it() {
    let scratch = Scratch::new();
    let ca = open(&scratch, 100, 0).unwrap();
    ca.rotate(at(0)).unwrap();
    assert!(!ca.step(at(59), false).unwrap());
    assert!(ca.step(at(60), false).unwrap());
}

#[test]
fn a_shorter_lifetime_does_not_shorten_the_wait_for_older_leaves() {
    let scratch = Scratch::new();
    open(&scratch, 1000, 0).unwrap();
    let ca = open(&scratch, 10, 5).unwrap();
    ca.rotate(at(10)).unwrap();
    assert!(ca.step(at(20), true).unwrap());
    assert!(!ca.step(at(20 + 1000 + 59), true).unwrap());
    assert!(ca.step(at(20 + 1000 + 60), true).unwrap());
}

#[test]
fn a_request_in_the_folder_is_taken_once() {
    let scratch = Scratch::new();
    let ca = open(&scratch, 100, 0).unwrap();
    assert!(!ca.take_request().unwrap());
    std::fs::write(scratch.path().join(ROTATE_FILE), b"").unwrap();
    assert!(ca.take_request().unwrap());
    assert!(!ca.take_request().unwrap());
}

/// As `Ca`s of two replicas know the state that they share.
fn replicas(state: &[u8], now: u64) -> [(Scratch, Ca); 2] {
    [(), ()].map(|()| {
        let scratch = Scratch::new();
        let folder = Folder::open(scratch.path()).unwrap();
        folder.write(ROOTS_FILE, Access::Private, state).unwrap();
        let ca = Ca::open(folder, Settings { shared: true, ..settings(100) }, at(now)).unwrap();
        (scratch, ca)
    })
}

fn first_state() -> Vec<u8> {
    first(&"cluster.local".parse().unwrap(), None, Duration::from_secs(100), at(0)).unwrap()
}

fn ask(signer: Signer<'_>) -> Ask<'_> {
    Ask { rotate: false, trusted_everywhere: false, signer }
}

#[test]
fn replicas_that_adopt_one_after_the_other_accept_each_other_all_along() {
    let [(_one, leader), (_two, other)] = replicas(&first_state(), 0);
    let old = leaf(&other, 0);
    let mut seconds = 10;
    let mut turns = 0;
    let asked = |rotate| Ask { rotate, trusted_everywhere: true, signer: Signer::Own };
    let mut next = leader.next(&asked(true), at(seconds)).unwrap();
    loop {
        if let Some(state) = next {
            turns += 1;
            assert!(leader.adopt(&state, at(seconds)).unwrap());
            // The other is a moment behind: both still take the leaves of both.
            for (from, to) in [(&leader, &other), (&other, &leader)] {
                assert!(verifies(&leaf(from, seconds), &anchors(to), seconds + 1), "{turns} turns, {seconds} s");
            }
            assert!(other.adopt(&state, at(seconds)).unwrap());
            assert!(!other.adopt(&state, at(seconds)).unwrap(), "it is no news twice");
        }
        if turns == 3 {
            break;
        }
        seconds += 1;
        for ca in [&leader, &other] {
            ca.adopt(&ca.encoded(), at(seconds)).unwrap();
        }
        next = leader.next(&asked(false), at(seconds)).unwrap();
    }
    // 12 (took over) + 90 (others may not have heard) + 100 (life of a leaf) + 60 (clocks).
    assert_eq!(seconds, 262);
    assert!(!verifies(&old, &anchors(&leader), 50));
    assert_eq!(leader.rotation(), None);
}

#[test]
fn nothing_is_in_force_before_it_is_adopted() {
    let [(_one, ca), _] = replicas(&first_state(), 0);
    let rotate = Ask { rotate: true, ..ask(Signer::Own) };
    ca.next(&rotate, at(1)).unwrap().unwrap();
    assert_eq!((anchors(&ca).len(), ca.rotation()), (1, None));
}

#[test]
fn a_replica_that_has_long_heard_nothing_signs_nothing() {
    let [(_one, ca), _] = replicas(&first_state(), 0);
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    ca.issue(&key, "shop", "cart", at(90)).unwrap();
    assert!(matches!(ca.issue(&key, "shop", "cart", at(91)), Err(Error::RootUnheard)));
    ca.adopt(&ca.encoded(), at(92)).unwrap();
    ca.issue(&key, "shop", "cart", at(93)).unwrap();
}

#[test]
fn no_leaf_outlives_what_the_common_state_counts_on() {
    let [(_one, ca), _] = replicas(&first_state(), 0);
    let longer = Settings { shared: true, ..settings(1000) };
    let scratch = Scratch::new();
    let folder = Folder::open(scratch.path()).unwrap();
    folder.write(ROOTS_FILE, Access::Private, &first_state()).unwrap();
    let upgraded = Ca::open(folder, longer, at(0)).unwrap();
    upgraded.adopt(&ca.encoded(), at(1)).unwrap();
    assert_eq!(leaf(&upgraded, 1).not_after, at(101), "others count on 100 s");
    let state = upgraded.next(&ask(Signer::Own), at(2)).unwrap().unwrap();
    upgraded.adopt(&state, at(2)).unwrap();
    assert_eq!(leaf(&upgraded, 2).not_after, at(1002));
}

#[test]
fn a_root_near_its_end_is_replaced_unasked() {
    let [(_one, ca), _] = replicas(&first_state(), 0);
    let end = unix(ca.root_not_after()) - unix(at(0));
    assert!(ca.next(&ask(Signer::Own), at(end - ROTATE_BEFORE.as_secs())).unwrap().is_none());
    assert!(ca.next(&ask(Signer::Own), at(end - ROTATE_BEFORE.as_secs() + 1)).unwrap().is_some());
}

/// An authority as cert-manager makes one: a root, and an intermediate below it that signs.
struct Authority {
    root: rcgen::Certificate,
    key: KeyPair,
}

impl Authority {
    fn new(name: &str) -> Authority {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        Authority { root: authority(name).self_signed(&key).unwrap(), key }
    }

    fn secret(&self) -> serde_json::Value {
        let issuer = rcgen::Issuer::from_ca_cert_der(self.root.der(), &self.key).unwrap();
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let below = authority("below").signed_by(&key, &issuer).unwrap();
        secret(&below.pem(), &key.serialize_pem(), &self.root.pem())
    }
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.not_before = at(0).into();
    params.not_after = at(1_000_000).into();
    params
}

fn secret(chain: &str, key: &str, anchors: &str) -> serde_json::Value {
    let coded = |text: &str| crate::kube::base64::encode(text.as_bytes());
    serde_json::json!({"data": {"tls.crt": coded(chain), "tls.key": coded(key), "ca.crt": coded(anchors)}})
}

fn read(secret: &serde_json::Value, now: u64) -> Result<Issuer, Error> {
    Issuer::read(secret, "leno-system/issuer", &"cluster.local".parse().unwrap(), at(now))
}

#[test]
fn an_operators_issuer_signs_and_its_renewal_needs_no_rotation() {
    let authority = Authority::new("corporate");
    let issuer = read(&authority.secret(), 10).unwrap();
    let state = first(&"cluster.local".parse().unwrap(), Some(&issuer), Duration::from_secs(100), at(10)).unwrap();
    let [(_one, ca), _] = replicas(&state, 10);
    assert_eq!(anchors(&ca), [authority.root.der().to_vec()]);
    let old = leaf(&ca, 10);
    assert_eq!(old.chain.len(), 2, "with what leads to the anchor");
    assert!(verifies(&old, &anchors(&ca), 20));
    assert!(ca.next(&ask(Signer::Issuer(&issuer)), at(20)).unwrap().is_none(), "nothing is new");

    let renewed = read(&authority.secret(), 30).unwrap();
    let state = ca.next(&ask(Signer::Issuer(&renewed)), at(30)).unwrap().unwrap();
    ca.adopt(&state, at(30)).unwrap();
    assert_eq!(ca.rotation(), None);
    assert_ne!(leaf(&ca, 30).chain[1], old.chain[1]);
    for leaf in [&old, &leaf(&ca, 30)] {
        assert!(verifies(leaf, &anchors(&ca), 31));
    }
    assert!(ca.next(&ask(Signer::AsItIs), at(31)).unwrap().is_none(), "an issuer that cannot be read changes nothing");
}

#[test]
fn another_anchor_is_trusted_everywhere_before_it_signs() {
    let [(_one, ca), _] = replicas(&first_state(), 0);
    let (old, own) = (leaf(&ca, 0), anchors(&ca));
    let authority = Authority::new("corporate");
    let issuer = read(&authority.secret(), 10).unwrap();
    let step = |seconds, everywhere| {
        let ask = Ask { trusted_everywhere: everywhere, ..ask(Signer::Issuer(&issuer)) };
        ca.adopt(&ca.encoded(), at(seconds)).unwrap();
        let next = ca.next(&ask, at(seconds)).unwrap();
        next.is_some_and(|state| ca.adopt(&state, at(seconds)).unwrap())
    };
    assert!(step(10, true));
    assert_eq!(anchors(&ca).len(), 2);
    assert!(!step(84, true), "what mounts the anchors has not seen them yet");
    assert!(verifies(&leaf(&ca, 84), &own, 85), "the old root still signs");
    assert!(!step(86, false), "a sidecar lacks them, and nothing would carry the new leaves to it");
    assert!(step(87, true));
    assert!(verifies(&leaf(&ca, 87), &[authority.root.der().to_vec()], 88));
    assert!(verifies(&old, &anchors(&ca), 88));
    assert!(!step(87 + 90 + 100 + 59, true));
    assert!(step(87 + 90 + 100 + 60, true));
    assert_eq!(anchors(&ca), [authority.root.der().to_vec()]);

    // And back, where the operator takes the issuer away.
    assert!(ca.next(&ask(Signer::Own), at(400)).unwrap().is_some());
}

#[test]
fn what_is_wrong_with_an_issuer_names_the_secret_and_the_field() {
    let (authority, other) = (Authority::new("corporate"), Authority::new("other"));
    let good = authority.secret();
    let with = |field: &str, value: serde_json::Value| {
        let mut secret = good.clone();
        secret["data"][field] = value;
        secret
    };
    let of = |from: &serde_json::Value, field: &str| from["data"][field].clone();
    let text = |text: &str| serde_json::Value::from(crate::kube::base64::encode(text.as_bytes()));
    let leaf = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
    let leaf = leaf.self_signed(&KeyPair::generate().unwrap()).unwrap().pem();
    let table = [
        (serde_json::json!({}), 10, "tls.crt", "missing"),
        (with("ca.crt", serde_json::Value::Null), 10, "ca.crt", "missing"),
        (with("tls.key", "%".into()), 10, "tls.key", "base64"),
        (with("tls.crt", text("no PEM")), 10, "tls.crt", "0 certificates"),
        (with("tls.key", text("no PEM")), 10, "tls.key", "no private key"),
        (with("tls.key", of(&other.secret(), "tls.key")), 10, "tls.key", "not the key"),
        (with("ca.crt", of(&other.secret(), "ca.crt")), 10, "tls.crt", "would not accept"),
        (with("tls.crt", text(&leaf)), 10, "tls.crt", "isCA: true"),
        (good.clone(), 1_000_000, "tls.crt", "renew it"),
    ];
    for (secret, now, field, says) in table {
        let said = read(&secret, now).unwrap_err().to_string();
        let names = said.starts_with(&format!("Secret leno-system/issuer, field {field}: "));
        assert!(names && said.contains(says), "{field} {says}: {said}");
    }
}

#[test]
fn keys_as_cert_manager_writes_them_are_read() {
    // PKCS#1 and SEC 1 are its defaults. Both were made for this test alone.
    for key in [include_str!("tests/key-pkcs1.pem"), include_str!("tests/key-sec1.pem")] {
        let pair = KeyPair::from_pem(key).unwrap();
        let root = authority("self-signed").self_signed(&pair).unwrap().pem();
        read(&secret(&root, key, &root), 10).unwrap();
    }
}

fn csr(algorithm: &'static rcgen::SignatureAlgorithm, params: CertificateParams) -> Vec<u8> {
    let key = KeyPair::generate_for(algorithm).unwrap();
    params.serialize_request(&key).unwrap().der().to_vec()
}

#[test]
fn a_request_gives_its_key_and_nothing_else() {
    let plain = csr(&rcgen::PKCS_ECDSA_P256_SHA256, CertificateParams::default());
    let mut greedy = CertificateParams::new(vec!["admin.example".to_owned()]).unwrap();
    greedy.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    greedy.subject_alt_names.push(SanType::URI("spiffe://cluster.local/ns/kube-system/sa/admin".try_into().unwrap()));
    let greedy = csr(&rcgen::PKCS_ECDSA_P256_SHA256, greedy);
    let ca = open(&Scratch::new(), 100, 0).unwrap();
    for request in [plain, greedy] {
        let key = PublicKey::from_csr(&request).unwrap();
        let issued = ca.issue(&key, "shop", "cart", at(0)).unwrap();
        let (_, certificate) = X509Certificate::from_der(&issued.chain[0]).unwrap();
        let names = certificate.subject_alternative_name().unwrap().unwrap();
        assert_eq!(names.value.general_names, [GeneralName::URI("spiffe://cluster.local/ns/shop/sa/cart")]);
        assert!(!certificate.is_ca());
        assert!(request.windows(65).any(|window| window == key.der_bytes()));
    }
}

#[test]
fn every_bad_request_is_refused_for_its_own_reason() {
    let good = csr(&rcgen::PKCS_ECDSA_P256_SHA256, CertificateParams::default());
    let other = csr(&rcgen::PKCS_ECDSA_P256_SHA256, CertificateParams::default());
    let point = good.windows(2).position(|window| window == [0, 4]).unwrap() + 1;
    let mut foreign_key = good.clone();
    let other_point = other.windows(2).position(|window| window == [0, 4]).unwrap() + 1;
    foreign_key[point..point + 65].copy_from_slice(&other[other_point..other_point + 65]);
    let mut compressed = good.clone();
    compressed[point] = 2;
    let mut trailing = good.clone();
    trailing.push(0);
    let mut many = CertificateParams::default();
    many.subject_alt_names = vec![SanType::DnsName("a".repeat(60).try_into().unwrap()); 100];
    let table = [
        ("empty", Vec::new(), CsrError::Malformed),
        ("text", b"-----BEGIN CERTIFICATE REQUEST-----".to_vec(), CsrError::Malformed),
        ("cut short", good[..good.len() - 1].to_vec(), CsrError::Malformed),
        ("trailing byte", trailing, CsrError::Malformed),
        ("P-384", csr(&rcgen::PKCS_ECDSA_P384_SHA384, CertificateParams::default()), CsrError::NotP256),
        ("Ed25519", csr(&rcgen::PKCS_ED25519, CertificateParams::default()), CsrError::NotP256),
        ("compressed point", compressed, CsrError::NotP256),
        ("another's key", foreign_key, CsrError::Signature),
        ("6 KB of names", csr(&rcgen::PKCS_ECDSA_P256_SHA256, many), CsrError::TooLarge),
        ("1 MB", vec![0x30; 1 << 20], CsrError::TooLarge),
    ];
    for (name, request, expected) in table {
        assert_eq!(PublicKey::from_csr(&request), Err(expected), "{name}");
    }
    // Up to the end of the key: all of it is signed, or frames what is.
    for position in 0..point + 65 {
        let mut flipped = good.clone();
        flipped[position] ^= 0x55;
        assert!(PublicKey::from_csr(&flipped).is_err(), "byte {position} flipped");
    }
}

#[test]
fn the_folder_serves_one_control_plane() {
    let scratch = Scratch::new();
    let folder = Folder::open(scratch.path()).unwrap();
    let lock = folder.lock().unwrap();
    assert!(matches!(folder.lock(), Err(Error::FolderInUse { .. })));
    drop(lock);
    folder.lock().unwrap();
}
