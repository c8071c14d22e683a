//! Placement: which stores should hold which partition.
//!
//! [`place`] is a pure function of the *set* of stores: the same members always give the same
//! table, whatever the order they came in, on every machine and in every build. The table only
//! proposes; what a partition's stores are is decided by its durable configuration.
//!
//! # What it guarantees
//!
//! * Every partition has exactly `min(copies, stores)` distinct stores.
//! * Every store holds its share of all copies within 5 % (or within one partition, where 5 % is
//!   less than that): consistent hashing with bounded loads (Mirrokni, Thorup and Zadimoghaddam,
//!   2017), with a bound from below as well.
//! * A store that joins or leaves moves little more than its own share. What the bounds leave alone
//!   stays where it was.
//!
//! # How
//!
//! Each partition walks the [ring](super::ring) clockwise and takes the first distinct stores it
//! meets. Stores that got too much or too little are then evened out, each time by the exchange
//! that sends copies the shortest way further along the ring. Giving way in order of arrival, as
//! the plain bounded walk does, lets one full store push copies through all others; the cheapest
//! exchange moves the few copies that lie near a border anyway, and the same ones before and after
//! a join. Measured over random rings of 3 to 9 stores and 2 to 6 copies: a join moves 1.02 times
//! the ideal share on average and 1.15 at worst.

mod balance;

#[cfg(test)]
mod tests;

use smallvec::SmallVec;

use super::ring::Ring;
use crate::types::{PartitionCount, PartitionId, StoreId};
use balance::Balance;

/// The stores proposed for each partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    rows: Vec<SmallVec<[StoreId; 4]>>,
}

impl Table {
    /// The stores of a partition, nearest on the ring first; empty without stores or for a
    /// partition that is not in the table.
    pub fn stores(&self, partition: PartitionId) -> &[StoreId] {
        self.rows.get(partition.index()).map_or(&[], SmallVec::as_slice)
    }

    /// This table, with what another proposes for some partitions.
    #[must_use]
    pub fn with_rows_of(&self, other: &Self, partitions: &[PartitionId]) -> Self {
        let mut table = self.clone();
        for partition in partitions {
            if let Some(row) = table.rows.get_mut(partition.index()) {
                *row = SmallVec::from_slice(other.stores(*partition));
            }
        }
        table
    }

    /// How many partitions a store is proposed for.
    pub fn share(&self, store: StoreId) -> usize {
        self.rows.iter().filter(|row| row.contains(&store)).count()
    }
}

/// Proposes `copies` distinct stores for each partition, or all stores where there are fewer.
pub fn place(partitions: PartitionCount, stores: &[StoreId], copies: usize) -> Table {
    let mut stores = stores.to_vec();
    stores.sort_unstable();
    stores.dedup();
    let ring = Ring::new(&stores);
    let costs = partitions.all().map(|partition| ring.distances(partition, partitions)).collect();
    let mut balance = Balance::nearest(costs, copies.min(stores.len()));
    balance.settle();
    let rows = balance.chosen().map(|row| row.filter_map(|at| stores.get(at).copied()).collect());
    Table { rows: rows.collect() }
}
