//! Held to the standard library's map.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn same(ours: &Sorted<u16, u32>, theirs: &BTreeMap<u16, u32>) {
    assert!(ours.iter().eq(theirs.iter()));
    assert_eq!((ours.len(), ours.is_empty()), (theirs.len(), theirs.is_empty()));
    assert!(ours.chunks.iter().all(|chunk| !chunk.is_empty() && chunk.len() <= CHUNK));
}

proptest! {
    #[test]
    fn it_is_a_sorted_map_and_its_copies_stay_as_they_were(
        steps in prop::collection::vec((0..400_u16, prop::option::weighted(0.6, any::<u32>()), prop::bool::weighted(0.02)), 0..2000)
    ) {
        let (mut ours, mut theirs) = (Sorted::default(), BTreeMap::new());
        let mut copies = Vec::new();
        for (key, value, copy) in steps {
            if copy {
                copies.push((ours.clone(), theirs.clone()));
            }
            match value {
                Some(value) if value % 3 == 0 => {
                    if let (Some(a), Some(b)) = (ours.get_mut(&key), theirs.get_mut(&key)) {
                        (*a, *b) = (value, value);
                    }
                }
                Some(value) => {
                    ours.insert(key, value);
                    theirs.insert(key, value);
                }
                None => prop_assert_eq!(ours.remove(&key), theirs.remove(&key)),
            }
            prop_assert_eq!(ours.get(&key), theirs.get(&key));
        }
        same(&ours, &theirs);
        copies.iter().for_each(|(ours, theirs)| same(ours, theirs));
    }
}

#[test]
fn a_change_copies_its_neighbours_alone() {
    let mut map = Sorted::default();
    (0..100_000_u32).for_each(|key| map.insert(key, key));
    let copy = map.clone();
    map.insert(70_000, 0);
    map.remove(&5);
    let shared = map.chunks.iter().filter(|chunk| copy.chunks.iter().any(|other| Arc::ptr_eq(chunk, other))).count();
    assert_eq!(shared, map.chunks.len() - 2);
    assert_eq!((copy.get(&70_000), copy.get(&5)), (Some(&70_000), Some(&5)));
}

#[test]
fn what_comes_and_goes_leaves_few_chunks() {
    let mut map = Sorted::default();
    (0..64_000_u32).for_each(|key| map.insert(key, ()));
    (0..64_000).filter(|key| key % 64 != 0).for_each(|key| assert!(map.remove(&key).is_some()));
    assert_eq!(map.len(), 1000);
    assert!(map.chunks.len() <= 130, "{}", map.chunks.len());
}
