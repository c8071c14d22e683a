//! From a key to its partition.

use crate::types::{PartitionCount, PartitionId};

/// The partition a key belongs to: the top bits of `xxh3_64(key)` (seed 0), a hash whose result is
/// specified and will never change, unlike the standard library's.
pub fn partition_of(key: &[u8], partitions: PartitionCount) -> PartitionId {
    partitions.partition_of(xxhash_rust::xxh3::xxh3_64(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_placement_of_a_key_never_changes() {
        // Fixed for ever: a change would lose every key of every existing cluster.
        assert_eq!(partition_of(b"", PartitionCount::DEFAULT), PartitionId(180));
        assert_eq!(partition_of(b"key", PartitionCount::DEFAULT), PartitionId(751));
    }
}
