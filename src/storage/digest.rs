//! Digests: sums that tell whether two copies of a partition hold the same.
//!
//! For each of 256 leaves (by the top byte of the key hash) the wrapping sum of a keyed hash of
//! `(key hash, version, checksum)`: a change costs one addition, and the order of changes does not
//! matter. Sums of vouched and unvouched entries are kept apart. Two copies may be compared only
//! at the same garbage floor, since tombstones count until they are dropped.

use std::hash::Hasher;

use siphasher::sip::SipHasher24;

use crate::types::{IndexKey, KeyHash, Version};

/// How many leaves a partition has.
pub const LEAVES: usize = 256;

/// The digest of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest {
    /// Tombstones at or below it are gone: compare only digests at equal floors.
    pub garbage_floor: Version,
    /// One sum for each leaf, over the vouched entries.
    pub leaves: Vec<u64>,
    /// How many vouched entries there are, tombstones included.
    pub entries: u64,
}

/// The share of one entry.
pub(crate) fn share(key: &IndexKey, hash: KeyHash, version: Version, checksum: u32) -> u64 {
    let mut hasher = SipHasher24::new_with_key(&key.0);
    hasher.write(&hash.to_bytes());
    hasher.write(&version.epoch.0.to_le_bytes());
    hasher.write(&version.seq.to_le_bytes());
    hasher.write(&checksum.to_le_bytes());
    hasher.finish()
}

/// The sums of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sums {
    vouched: Box<[u64; LEAVES]>,
    unvouched: Box<[u64; LEAVES]>,
}

impl Default for Sums {
    fn default() -> Self {
        Self { vouched: Box::new([0; LEAVES]), unvouched: Box::new([0; LEAVES]) }
    }
}

impl Sums {
    fn side(&mut self, vouched: bool) -> &mut [u64; LEAVES] {
        if vouched { &mut self.vouched } else { &mut self.unvouched }
    }

    /// An entry of this leaf appeared.
    pub(crate) fn add(&mut self, leaf: u8, vouched: bool, share: u64) {
        if let Some(sum) = self.side(vouched).get_mut(usize::from(leaf)) {
            *sum = sum.wrapping_add(share);
        }
    }

    /// An entry of this leaf went.
    pub(crate) fn subtract(&mut self, leaf: u8, vouched: bool, share: u64) {
        self.add(leaf, vouched, share.wrapping_neg());
    }

    /// All entries are unvouched from now on.
    pub(crate) fn doubt_all(&mut self) {
        for (doubted, sum) in self.unvouched.iter_mut().zip(self.vouched.iter_mut()) {
            *doubted = doubted.wrapping_add(std::mem::take(sum));
        }
    }

    /// All unvouched entries went.
    pub(crate) fn drop_unvouched(&mut self) {
        self.unvouched.fill(0);
    }

    /// The sums of the vouched entries.
    pub(crate) fn leaves(&self) -> &[u64] {
        self.vouched.as_slice()
    }

    /// As they lie in a checkpoint.
    pub(crate) fn append_to(&self, bytes: &mut Vec<u8>) {
        for sum in self.vouched.iter().chain(self.unvouched.iter()) {
            bytes.extend_from_slice(&sum.to_le_bytes());
        }
    }

    /// How many bytes [`Self::append_to`] appends.
    pub(crate) const STORED_BYTES: usize = LEAVES * 16;

    /// Reads what [`Self::append_to`] wrote.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Self {
        let mut sums = Self::default();
        let places = sums.vouched.iter_mut().chain(sums.unvouched.iter_mut());
        for (place, chunk) in places.zip(bytes.as_chunks::<8>().0) {
            *place = u64::from_le_bytes(*chunk);
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Epoch;

    #[test]
    fn every_part_of_an_entry_counts() {
        let key = IndexKey([1; 16]);
        let hash = KeyHash::from_bits(77 << 64);
        let version = Version::new(Epoch(1), 1);
        let base = share(&key, hash, version, 5);
        assert_ne!(base, share(&key, KeyHash::from_bits(78 << 64), version, 5));
        assert_ne!(base, share(&key, hash, Version::new(Epoch(2), 1), 5));
        assert_ne!(base, share(&key, hash, Version::new(Epoch(1), 2), 5));
        assert_ne!(base, share(&key, hash, version, 6));
        assert_ne!(base, share(&IndexKey([2; 16]), hash, version, 5));
    }

    #[test]
    fn sums_are_read_back_and_doubt_moves_them() {
        let mut sums = Sums::default();
        sums.add(3, true, 10);
        sums.add(255, false, 11);
        let mut bytes = Vec::new();
        sums.append_to(&mut bytes);
        assert_eq!(bytes.len(), Sums::STORED_BYTES);
        assert_eq!(Sums::from_bytes(&bytes), sums);
        sums.doubt_all();
        assert!(sums.leaves().iter().all(|sum| *sum == 0));
        sums.subtract(3, false, 10);
        sums.subtract(255, false, 11);
        assert_eq!(sums, Sums::default());
    }
}
