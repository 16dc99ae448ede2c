use std::collections::HashSet;
use std::hash::BuildHasher;
use std::hash::BuildHasherDefault;

use super::*;

#[test]
fn names_that_differ_in_one_place_part_in_the_bits_that_a_table_looks_at() {
    let build = BuildHasherDefault::<Quick>::default();
    let names: Vec<String> = (0..4096).map(|number| format!("shop/orders-{number}:80")).collect();
    let hashes: Vec<u64> = names.iter().map(|name| build.hash_one(name.as_str())).collect();
    assert_eq!(hashes.iter().collect::<HashSet<_>>().len(), names.len());
    // Of 4096 places by the low bits, chance alone would fill 63 %.
    let places: HashSet<u64> = hashes.iter().map(|hash| hash % 4096).collect();
    assert!(places.len() > 2200, "{} places", places.len());
    let tags: HashSet<u64> = hashes.iter().map(|hash| hash >> 57).collect();
    assert_eq!(tags.len(), 128);
}
