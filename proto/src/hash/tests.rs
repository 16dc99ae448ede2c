//! Versions and digests.

use super::*;

#[test]
fn a_hash_is_sha_256() {
    // FIPS 180-4, the empty message.
    assert_eq!(Hash::of(b"").to_string(), "e3b0c44298fc1c14");
    assert_eq!(Hash::from_bytes(Hash::of(b"a").as_bytes()), Some(Hash::of(b"a")));
    assert_eq!(Hash::from_bytes(b"short"), None);
}

#[test]
fn a_digest_depends_on_what_is_held_and_not_on_the_order() {
    let (a, b) = ((Key::TrustBundle, Hash::of(b"a")), (Key::Share, Hash::of(b"b")));
    let of = |held: &[&(Key, Hash)]| digest(held.iter().map(|(k, h)| (k, h)));
    assert_eq!(of(&[&a, &b]), of(&[&b, &a]));
    assert_ne!(of(&[&a, &b]), of(&[&a]));
    let swapped = ((Key::TrustBundle, Hash::of(b"b")), (Key::Share, Hash::of(b"a")));
    assert_ne!(of(&[&a, &b]), of(&[&swapped.0, &swapped.1]));
}
