//! Keys and values that tell whose they are and how new they are.
//!
//! Every client has keys of its own. A value begins with its version (least significant digit
//! first, so that even a short value tells neighbours apart) and continues with text that depends
//! on key and version, so that neither a stale value nor one of another key passes for the right
//! one.

use std::ops::Range;
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

/// Digits of the version at the beginning of a value.
const TAG_DIGITS: usize = 8;
/// The text that values are cut from repeats after this many bytes, a prime: no value size is a
/// multiple of it by accident.
const TEXT_PERIOD: usize = 4093;

/// The keys of one client, and the values of all their versions.
#[derive(Clone, Debug)]
pub(super) struct Keyspace {
    prefix: String,
    seed: u64,
    text: Text,
}

/// What all values of one size are cut from. Clones share the memory.
#[derive(Clone, Debug)]
pub(super) struct Text {
    value_bytes: usize,
    /// Long enough that a value may begin anywhere in the first period.
    letters: Arc<[u8]>,
}

impl Text {
    /// For values of this many bytes.
    pub(super) fn new(value_bytes: usize) -> Self {
        let letters = (0..TEXT_PERIOD + value_bytes).map(|at| letter(at % TEXT_PERIOD)).collect();
        Self { value_bytes, letters }
    }
}

impl Keyspace {
    /// The keys of a client within a run.
    pub(super) fn new(run: &str, client: usize, text: Text) -> Self {
        let prefix = format!("load:{run}:{client}:");
        Self { seed: xxh3_64(prefix.as_bytes()), prefix, text }
    }

    /// Appends the key of a slot.
    pub(super) fn key(&self, slot: u32, out: &mut Vec<u8>) {
        out.extend_from_slice(self.prefix.as_bytes());
        out.extend_from_slice(&digits(slot));
    }

    /// How long every key is.
    pub(super) fn key_bytes(&self) -> usize {
        self.prefix.len() + TAG_DIGITS
    }

    /// How long every value is.
    pub(super) fn value_bytes(&self) -> usize {
        self.text.value_bytes
    }

    /// Appends the value of a version of a slot.
    pub(super) fn value(&self, slot: u32, version: u32, out: &mut Vec<u8>) {
        let tag = digits(version);
        let tag = tag.get(..self.value_bytes()).unwrap_or(&tag);
        out.extend_from_slice(tag);
        out.extend_from_slice(self.rest(slot, version));
    }

    /// Whether this is the value of that version of a slot.
    pub(super) fn is_value(&self, slot: u32, version: u32, value: &[u8]) -> bool {
        if value.len() != self.value_bytes() {
            return false;
        }
        let tag = digits(version);
        let (head, rest) = value.split_at(TAG_DIGITS.min(value.len()));
        tag.starts_with(head) && rest == self.rest(slot, version)
    }

    /// The newest of these versions whose value this is.
    pub(super) fn version_of(&self, slot: u32, versions: Range<u32>, value: &[u8]) -> Option<u32> {
        versions.rev().find(|version| self.is_value(slot, *version, value))
    }

    /// What follows the version in a value.
    fn rest(&self, slot: u32, version: u32) -> &[u8] {
        let mixed = self.seed ^ (u64::from(slot) << 32 | u64::from(version));
        let mixed = mixed.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        let start = usize::try_from(mixed).unwrap_or_default() % TEXT_PERIOD;
        let length = self.value_bytes().saturating_sub(TAG_DIGITS);
        self.text.letters.get(start..start + length).unwrap_or_default()
    }
}

/// Text without order, in letters that every protocol carries.
fn letter(at: usize) -> u8 {
    let mixed = (at as u64).wrapping_add(1).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 40;
    b'a' + u8::try_from(mixed % 26).unwrap_or_default()
}

/// A number in eight hexadecimal digits, the least significant first.
fn digits(number: u32) -> [u8; TAG_DIGITS] {
    let mut left = number;
    [(); TAG_DIGITS].map(|()| {
        let digit = char::from_digit(left & 15, 16).unwrap_or_default();
        left >>= 4;
        u8::try_from(digit).unwrap_or_default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(keys: &Keyspace, slot: u32, version: u32) -> Vec<u8> {
        let mut value = Vec::new();
        keys.value(slot, version, &mut value);
        value
    }

    #[test]
    fn a_value_is_taken_for_no_other() {
        for size in [0, 1, 5, 8, 9, 100, 5000] {
            let keys = Keyspace::new("r", 7, Text::new(size));
            let written = value(&keys, 3, 18);
            assert_eq!(written.len(), size);
            assert!(keys.is_value(3, 18, &written), "{size}");
            assert_eq!(keys.version_of(3, 17..19, &written), Some(18), "{size}");
        }
        let keys = Keyspace::new("r", 7, Text::new(100));
        let written = value(&keys, 3, 18);
        assert!(!keys.is_value(3, 17, &written), "an older value of the key");
        assert!(!keys.is_value(4, 18, &written), "the value of another key");
        assert!(
            !Keyspace::new("r", 8, Text::new(100)).is_value(3, 18, &written),
            "of another client"
        );
        assert!(!Keyspace::new("s", 7, Text::new(100)).is_value(3, 18, &written), "of another run");
        assert!(!keys.is_value(3, 18, &written[..99]), "cut short");
        let mut damaged = written.clone();
        damaged[60] ^= 1;
        assert!(!keys.is_value(3, 18, &damaged), "damaged");
        assert_eq!(keys.version_of(3, 19..30, &written), None);
    }

    #[test]
    fn keys_of_slots_and_clients_differ() {
        let key = |client, slot| {
            let mut key = Vec::new();
            Keyspace::new("r", client, Text::new(10)).key(slot, &mut key);
            key
        };
        assert_ne!(key(1, 2), key(1, 3));
        assert_ne!(key(1, 2), key(2, 2));
        assert_eq!(key(1, 2).len(), Keyspace::new("r", 1, Text::new(10)).key_bytes());
        assert!(key(1, 2).iter().all(u8::is_ascii_graphic));
    }
}
