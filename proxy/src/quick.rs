//! A quick hash for tables that are looked up at every request. It must never meet keys that strangers choose: whoever knows
//! it can make them collide.

use std::hash::BuildHasherDefault;
use std::hash::Hasher;

/// A table whose keys come from policy, or from ourselves.
pub type Table<K, V> = std::collections::HashMap<K, V, BuildHasherDefault<Quick>>;

/// Multiply and rotate, a word at a time, as Firefox and rustc do it; at the end the product's good bits are spread to where
/// the table looks.
#[derive(Debug, Default, Clone, Copy)]
pub struct Quick(u64);

impl Quick {
    fn add(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(ODD);
    }
}

impl Hasher for Quick {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        words.iter().for_each(|word| self.add(u64::from_le_bytes(*word)));
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.add(u64::from_le_bytes(last));
    }

    fn write_u8(&mut self, n: u8) {
        self.add(u64::from(n));
    }

    fn write_u16(&mut self, n: u16) {
        self.add(u64::from(n));
    }

    fn write_u32(&mut self, n: u32) {
        self.add(u64::from(n));
    }

    fn write_u64(&mut self, n: u64) {
        self.add(n);
    }

    fn write_usize(&mut self, n: usize) {
        self.add(n as u64);
    }

    fn finish(&self) -> u64 {
        (self.0 ^ (self.0 >> 32)).wrapping_mul(ODD).rotate_left(26)
    }
}

/// Bits without a pattern, and odd.
const ODD: u64 = 0x517c_c1b7_2722_0a95;

#[cfg(test)]
mod tests;
