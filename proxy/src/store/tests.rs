//! The file is whole or it is nothing.

use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;

use super::*;

/// A folder of its own for each test, gone with it.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("leno-proxy-test-{}-{number}", std::process::id()));
        // A process of the same number that was killed may have left one.
        let _ = std::fs::remove_dir_all(&path);
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn owner() -> Owner {
    Owner { pod_uid: "u-1".into(), build: "1".into() }
}

fn destination(last: u8) -> Key {
    Key::Destination(format!("10.0.0.{last}:80").parse().unwrap())
}

fn resource(bytes: Vec<u8>, used_unix: i64) -> KeptResource {
    let bytes = Bytes::from(bytes);
    KeptResource { hash: Hash::of(&bytes), bytes, used_unix, evicted: false }
}

fn full() -> Kept {
    Kept {
        identity: Some(KeptIdentity {
            key: vec![1, 2],
            chain: vec![vec![3], vec![4, 5]],
            not_before_unix: 7,
            not_after_unix: 8,
        }),
        resources: [(destination(1), resource(vec![9; 100], 1)), (Key::TrustBundle, resource(vec![8], 0))].into(),
        rejected: [(destination(1), vec![Hash::of(b"bad")])].into(),
        control_plane: vec!["127.0.0.1:15012".into()],
    }
}

#[test]
fn what_was_kept_is_found_again_by_its_owner_alone() {
    let folder = Folder::new();
    let (store, found) = Store::open(&folder.0, owner(), 1 << 20).unwrap();
    assert_eq!(found, Found::Nothing);
    store.update(|kept| *kept = full()).unwrap();
    let (store, found) = Store::open(&folder.0, owner(), 1 << 20).unwrap();
    assert_eq!((store.kept(), found), (full(), Found::Good));

    let other = Owner { pod_uid: "u-2".into(), ..owner() };
    let (store, found) = Store::open(&folder.0, other, 1 << 20).unwrap();
    assert_eq!(store.kept(), Kept::default());
    assert!(matches!(found, Found::Unusable(why) if why.contains("u-1")));

    let newer = Owner { build: "2".into(), ..owner() };
    let (store, _) = Store::open(&folder.0, newer, 1 << 20).unwrap();
    assert_eq!(store.kept(), Kept { rejected: BTreeMap::new(), ..full() }, "a new build judges anew");
}

#[test]
fn nobody_else_may_read_it() {
    let folder = Folder::new();
    let (store, _) = Store::open(&folder.0, owner(), 1 << 20).unwrap();
    store.update(|kept| *kept = full()).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder.0), 0o700);
    assert_eq!(mode(&folder.0.join(FILE)), 0o600);
    assert_eq!(std::fs::read_dir(&folder.0).unwrap().count(), 1);
}

#[test]
fn garbage_is_said_and_replaced() {
    let folder = Folder::new();
    let (store, _) = Store::open(&folder.0, owner(), 1 << 20).unwrap();
    store.update(|kept| *kept = full()).unwrap();
    let path = folder.0.join(FILE);
    let good = std::fs::read(&path).unwrap();
    let cut = good[..good.len() - 1].to_vec();
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let inner = b"\xff\xff\xff".as_slice();
    let sealed = [MAGIC, Hash::of(inner).as_bytes(), inner].concat();
    for bad in [b"".to_vec(), b"hello".to_vec(), MAGIC.to_vec(), cut, flipped, sealed, vec![0; 5 << 20]] {
        std::fs::write(&path, &bad).unwrap();
        let (store, found) = Store::open(&folder.0, owner(), 1 << 20).unwrap();
        assert!(matches!(found, Found::Unusable(_)), "{} bytes: {found:?}", bad.len());
        assert_eq!(store.kept(), Kept::default());
        store.update(|kept| *kept = full()).unwrap();
        assert_eq!(Store::open(&folder.0, owner(), 1 << 20).unwrap().1, Found::Good);
    }
    assert_eq!(std::fs::read(&path).unwrap(), good);
}

#[test]
fn what_was_used_longest_ago_leaves_first_and_trust_never() {
    let folder = Folder::new();
    let (store, _) = Store::open(&folder.0, owner(), 1000).unwrap();
    store
        .update(|kept| {
            kept.resources.insert(Key::TrustBundle, resource(vec![1; 300], 0));
            for (last, used) in [(1, 30), (2, 10), (3, 20)] {
                kept.resources.insert(destination(last), resource(vec![last; 250], used));
            }
        })
        .unwrap();
    let keys: Vec<_> = store.kept().resources.into_keys().collect();
    assert_eq!(keys, [destination(1), destination(3), Key::TrustBundle]);
}

#[test]
fn what_was_evicted_leaves_before_what_is_in_force_and_is_found_under_its_name() {
    let folder = Folder::new();
    let (store, _) = Store::open(&folder.0, owner(), 1000).unwrap();
    let evicted = |bytes, used| KeptResource { evicted: true, ..resource(bytes, used) };
    let outbound = |view: &str| Key::parse(2, &format!("shop/web@{view}")).unwrap();
    store
        .update(|kept| {
            kept.resources.insert(destination(1), resource(vec![1; 250], 1));
            kept.resources.insert(destination(2), evicted(vec![2; 250], 50));
            kept.resources.insert(destination(3), evicted(vec![3; 250], 60));
            kept.resources.insert(outbound("front"), evicted(vec![4; 50], 70));
        })
        .unwrap();
    let (store, _) = Store::open(&folder.0, owner(), 1000).unwrap();
    let keys: Vec<_> = store.kept().resources.into_keys().collect();
    assert_eq!(keys, [destination(1), destination(3), outbound("front")]);
    assert_eq!(store.evicted(&outbound("default")).len(), 1, "whichever view it was");
    assert_eq!((store.evicted(&destination(1)).len(), store.evicted(&destination(3)).len()), (0, 1));
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
        let _ = decode(&bytes, &owner());
        let _ = decode(&[MAGIC, Hash::of(&bytes).as_bytes(), &bytes].concat(), &owner());
    }
}
