//! What is known of a chain ends with its time, and holds for nothing else.

use std::time::Duration;

use proptest::prelude::any;
use proptest::proptest;
use rustls::pki_types::CertificateDer;

use super::*;
use crate::tls::tests::ca::Ca;
use crate::tls::tests::ca::Leaf;

fn at(seconds: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}

/// A certificate of this time; the bytes after the leaf's are those of the issuer.
fn certificate(from: (i32, u8, u8), until: (i32, u8, u8)) -> CertificateDer<'static> {
    let mut params = Ca::new("mesh.test").params("web", Leaf::Good);
    params.not_before = rcgen::date_time_ymd(from.0, from.1, from.2);
    params.not_after = rcgen::date_time_ymd(until.0, until.1, until.2);
    params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().der().clone()
}

#[test]
fn a_certificates_own_time_is_read_in_both_of_its_forms() {
    let cases = [
        ((1975, 1, 1), (2000, 2, 29), 157_766_400, 951_782_400),
        ((2026, 11, 21), (2049, 12, 31), 1_795_219_200, 2_524_521_600),
        // From 2050 on there are four digits for the year (RFC 5280 section 4.1.2.5).
        ((2024, 2, 29), (2050, 3, 1), 1_709_164_800, 2_529_705_600),
        ((2100, 2, 28), (2100, 3, 1), 4_107_456_000, 4_107_542_400),
    ];
    for (begin, end, from, until) in cases {
        assert_eq!(validity(&certificate(begin, end)), Some(Window { from, until }), "{begin:?} {end:?}");
    }
}

#[test]
fn what_was_verified_holds_for_its_time_its_use_and_its_bytes_alone() {
    let known = Known::default();
    let (leaf, other) = (certificate((2025, 1, 1), (2027, 1, 1)), certificate((2025, 1, 1), (2027, 1, 1)));
    let between = [certificate((2026, 1, 1), (2028, 1, 1))];
    let chain = Chain { leaf: &leaf, intermediates: &between };
    let (from, until) = (1_767_225_600, 1_798_761_600);
    assert!(!known.holds(chain, Usage::Client, at(from)));
    known.add(chain, Usage::Client);
    for (now, holds) in [(from - 1, false), (from, true), (until, true), (until + 1, false)] {
        assert_eq!(known.holds(chain, Usage::Client, at(now)), holds, "at {now}");
    }
    assert!(!known.holds(chain, Usage::Server, at(from)));
    assert!(!known.holds(Chain { leaf: &other, ..chain }, Usage::Client, at(from)));
    assert!(!known.holds(Chain { intermediates: &[], ..chain }, Usage::Client, at(from)));
}

#[test]
fn it_never_grows_beyond_its_bound() {
    let known = Known::default();
    let between = [certificate((2026, 1, 1), (2028, 1, 1))];
    let mut leaf = between[0].to_vec();
    for number in 0..=MOST as u32 {
        // The signature, which nobody reads here.
        let end = leaf.len();
        leaf[end - 4..].copy_from_slice(&number.to_be_bytes());
        known.add(Chain { leaf: &CertificateDer::from(leaf.as_slice()), intermediates: &between }, Usage::Client);
        assert!(known.0.lock().len() <= MOST);
    }
    assert_eq!(known.0.lock().len(), 1);
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64), at in 0_usize..512, byte: u8) {
        let _ = validity(&bytes);
        let mut certificate = certificate((2026, 1, 1), (2028, 1, 1)).to_vec();
        let at = at % certificate.len();
        certificate[at] = byte;
        let _ = validity(&certificate);
    }
}
