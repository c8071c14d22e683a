//! What two stores hold of a partition, compared leaf by leaf.
//!
//! A store that comes back asks for a copy and says, in one sum for each of 256 leaves, what it still
//! has from before. Of a leaf whose sum the source has too, nothing needs to travel: the source
//! vouches for it. So a short absence costs what was written meanwhile, not everything.

use bytes::BufMut;
use xxhash_rust::xxh3::xxh3_128;

use crate::storage::{LEAVES, Summary};

const SUM_BYTES: usize = 16;

/// For each leaf the wrapping sum over hashes of key, version and checksum. The hash of the key is
/// keyed by a secret, so nobody outside can make two leaves look the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Leaves(Vec<u128>);

impl Leaves {
    pub(crate) fn of<'a>(entries: impl Iterator<Item = &'a Summary>) -> Self {
        let mut sums = vec![0u128; LEAVES];
        for entry in entries {
            if let Some(sum) = sums.get_mut(usize::from(entry.key_hash.leaf())) {
                *sum = sum.wrapping_add(share(entry));
            }
        }
        Self(sums)
    }

    /// As they travel.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(|sum| sum.to_le_bytes()).collect()
    }

    /// The leaves that are the same as those that travelled here; none if those make no sense.
    pub(crate) fn same_as(&self, bytes: &[u8]) -> Vec<u8> {
        let (sums, rest) = bytes.as_chunks::<SUM_BYTES>();
        if sums.len() != self.0.len() || !rest.is_empty() {
            return Vec::new();
        }
        let pairs = self.0.iter().zip(sums).zip(0..=u8::MAX);
        let same = pairs.filter(|((ours, theirs), _)| u128::from_le_bytes(**theirs) == **ours);
        same.map(|(_, leaf)| leaf).collect()
    }
}

fn share(entry: &Summary) -> u128 {
    let mut bytes = [0; 36];
    let mut rest = bytes.as_mut_slice();
    rest.put_slice(&entry.key_hash.to_bytes());
    rest.put_u64_le(entry.version.epoch.0);
    rest.put_u64_le(entry.version.seq);
    rest.put_u32_le(entry.checksum);
    xxh3_128(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Epoch, KeyHash, Version};

    fn entry(leaf: u8, seq: u64, checksum: u32) -> Summary {
        let key_hash = KeyHash::from_bits(u128::from(leaf) << 120 | u128::from(seq) << 40);
        Summary { key_hash, version: Version::new(Epoch(1), seq), checksum }
    }

    #[test]
    fn a_leaf_is_the_same_only_if_every_entry_is() {
        let ours = [entry(0, 1, 7), entry(0, 2, 7), entry(9, 3, 7), entry(255, 4, 7)];
        let same = |theirs: &[Summary]| {
            let same = Leaves::of(ours.iter()).same_as(&Leaves::of(theirs.iter()).to_bytes());
            [0, 9, 255].map(|leaf| same.contains(&leaf))
        };
        let [a, b, c, d] = ours;
        assert_eq!(same(&[d, b, c, a]), [true, true, true], "in any order");
        assert_eq!(same(&[a, c, d]), [false, true, true], "one is missing");
        assert_eq!(same(&[a, b, entry(9, 3, 8), d]), [true, false, true], "another checksum");
        let newer = Summary { version: Version::new(Epoch(2), 4), ..d };
        assert_eq!(same(&[a, b, c, newer]), [true, true, false], "another version");
        assert_eq!(Leaves::of(ours.iter()).same_as(b"nonsense"), Vec::<u8>::new());
        assert_eq!(Leaves::of(ours.iter()).same_as(&[]), Vec::<u8>::new());
    }
}
