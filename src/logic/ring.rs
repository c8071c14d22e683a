//! The consistent hash ring: how far clockwise a partition has to go to reach each store.
//!
//! A store stands on the ring with [`VIRTUAL_NODES`] points; a partition begins at the place where
//! its slice of the hash space begins. Both are hashes of documented bytes, so that every build on
//! every machine draws the same ring for ever.

use std::hash::{BuildHasher, Hash, Hasher};

use hashring::{DefaultHashBuilder, HashRing};
use xxhash_rust::xxh3::xxh3_64;

use crate::types::{PartitionCount, PartitionId, StoreId};

/// Points of one store on the ring. More points even the shares out before anything is moved;
/// beyond this many, what is left is the noise of having only so many partitions.
pub const VIRTUAL_NODES: u32 = 512;

/// One point of a store on the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct VirtualNode {
    store: StoreId,
    number: u32,
    /// Position of the store among the stores of the ring.
    index: usize,
}

impl Hash for VirtualNode {
    /// Feeds `xxh3_64` of 20 bytes: the store's id, and the point's number as little-endian. Nothing
    /// else may ever decide where a point lies; the standard library's own encoding of values is
    /// not promised.
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let mut bytes = [0; 20];
        let (id, number) = bytes.split_at_mut(16);
        id.copy_from_slice(self.store.as_bytes());
        number.copy_from_slice(&self.number.to_le_bytes());
        hasher.write(&xxh3_64(&bytes).to_le_bytes());
    }
}

/// The points of all stores in clockwise order.
#[derive(Debug)]
pub struct Ring {
    points: Vec<(u64, usize)>,
    stores: usize,
}

impl Ring {
    /// The ring of these stores, which must be sorted and distinct: two points that hash alike lie
    /// in the order of their stores.
    pub fn new(stores: &[StoreId]) -> Self {
        let mut ring = HashRing::new();
        let nodes = stores.iter().enumerate().flat_map(|(index, &store)| {
            (0..VIRTUAL_NODES).map(move |number| VirtualNode { store, number, index })
        });
        ring.batch_add(nodes.collect());
        let points = ring.into_iter().map(|node| (DefaultHashBuilder.hash_one(node), node.index));
        Self { points: points.collect(), stores: stores.len() }
    }

    /// For each store, how far clockwise of the partition's place its first point lies. The
    /// distance is cut to 48 bits, so that sums of many stay exact.
    pub fn distances(&self, partition: PartitionId, partitions: PartitionCount) -> Vec<i64> {
        let place = place_of(partition, partitions);
        let first = self.points.partition_point(|(point, _)| *point < place);
        let (before, after) = self.points.split_at_checked(first).unwrap_or((&[], &self.points));
        let mut distances = vec![i64::MAX; self.stores];
        let mut missing = self.stores;
        for (point, store) in after.iter().chain(before) {
            let Some(distance) = distances.get_mut(*store) else { continue };
            if *distance == i64::MAX {
                *distance = i64::try_from(point.wrapping_sub(place) >> 16).unwrap_or(i64::MAX);
                missing -= 1;
            }
            if missing == 0 {
                break;
            }
        }
        distances
    }
}

/// Where a partition's slice of the hash space begins.
fn place_of(partition: PartitionId, partitions: PartitionCount) -> u64 {
    let bits = partitions.get().trailing_zeros();
    u64::from(partition.0).checked_shl(64 - bits).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_never_changes() {
        // Fixed for ever: another ring would move every partition of every existing cluster.
        let ring = Ring::new(&[StoreId::from_number(1), StoreId::from_number(2)]);
        assert_eq!(ring.points.len(), 1024);
        let near = [0, 1, 1023].map(|p| ring.distances(PartitionId(p), PartitionCount::DEFAULT));
        let expected = [
            [1_279_689_207_935, 758_235_706_149],
            [1_004_811_300_991, 483_357_799_205],
            [1_554_567_114_879, 1_033_113_613_093],
        ];
        assert_eq!(near, expected);
    }

    #[test]
    fn a_partition_begins_where_its_keys_hash_to() {
        let count = PartitionCount::DEFAULT;
        for partition in count.all() {
            assert_eq!(count.partition_of(place_of(partition, count)), partition);
        }
    }
}
