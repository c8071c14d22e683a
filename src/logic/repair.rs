//! Repair: which partitions may be filled now.
//!
//! A dead store leaves some hundred partitions a copy short, and all of them know at once where they
//! want a new one. Filling them all at once would take every disk and every link of the cluster at
//! the same time, and finish none of them soon. So the copies to make are admitted a few at a time:
//! first those of which the fewest copies are left, at most so many towards one store and away from
//! one store. What a partition wants stays its own decision; only *when* is decided here.

use std::collections::BTreeMap;

use smallvec::SmallVec;

use crate::types::{PartitionId, StoreId};

/// How many copies may be made at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Towards one store.
    pub per_target: usize,
    /// Away from one store.
    pub per_source: usize,
}

impl Limits {
    /// At once in the whole cluster, towards and away from each store.
    pub const CLUSTER: Self = Self { per_target: 4, per_source: 4 };

    /// The share of one of so many owners of partitions that do not know of each other: never less
    /// than one, or a partition might never be filled.
    #[must_use]
    pub fn divided_by(self, owners: usize) -> Self {
        let share = |limit: usize| limit.checked_div(owners).unwrap_or(limit).max(1);
        Self { per_target: share(self.per_target), per_source: share(self.per_source) }
    }
}

/// A copy that a partition would like to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The partition.
    pub partition: PartitionId,
    /// Where the copy is to be.
    pub target: StoreId,
    /// How many copies are in sync and alive: the fewer, the sooner.
    pub copies: usize,
    /// Who may be copied from.
    pub sources: SmallVec<[StoreId; 4]>,
}

/// A copy that is being made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copying {
    /// Where.
    pub target: StoreId,
    /// From where.
    pub source: StoreId,
}

/// How busy each store is.
#[derive(Debug, Default)]
struct Load {
    filled: BTreeMap<StoreId, usize>,
    copied: BTreeMap<StoreId, usize>,
}

impl Load {
    fn add(&mut self, copying: Copying) {
        *self.filled.entry(copying.target).or_default() += 1;
        *self.copied.entry(copying.source).or_default() += 1;
    }

    fn filling(&self, store: StoreId) -> usize {
        self.filled.get(&store).copied().unwrap_or(0)
    }

    fn copying(&self, store: StoreId) -> usize {
        self.copied.get(&store).copied().unwrap_or(0)
    }
}

/// Chooses the wishes that may be granted beside what is being copied. The partition chooses its
/// source itself; it is taken to be the least busy one, and counted as what it is from then on.
pub fn admit(limits: Limits, running: &[Copying], mut wishes: Vec<Wish>) -> Vec<Wish> {
    let mut load = Load::default();
    for copying in running {
        load.add(*copying);
    }
    wishes.sort_by_key(|wish| (wish.copies, wish.partition));
    wishes.retain(|wish| {
        let source = wish.sources.iter().copied().min_by_key(|source| load.copying(*source));
        let Some(source) = source.filter(|source| load.copying(*source) < limits.per_source) else {
            return false;
        };
        let free = load.filling(wish.target) < limits.per_target;
        if free {
            load.add(Copying { target: wish.target, source });
        }
        free
    });
    wishes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(number: u128) -> StoreId {
        StoreId::from_number(number)
    }

    fn wish(partition: u16, target: u128, copies: usize, sources: &[u128]) -> Wish {
        let sources = sources.iter().copied().map(store).collect();
        Wish { partition: PartitionId(partition), target: store(target), copies, sources }
    }

    fn granted(limits: Limits, running: &[(u128, u128)], wishes: Vec<Wish>) -> Vec<u16> {
        let running: Vec<_> = running
            .iter()
            .map(|(target, source)| Copying { target: store(*target), source: store(*source) })
            .collect();
        admit(limits, &running, wishes).iter().map(|wish| wish.partition.0).collect()
    }

    #[test]
    fn the_fewest_copies_come_first_and_no_store_is_overrun() {
        let limits = Limits { per_target: 2, per_source: 3 };
        let wishes = vec![
            wish(1, 9, 3, &[1, 2]),
            wish(2, 9, 1, &[1]),
            wish(3, 9, 2, &[1, 2]),
            wish(4, 8, 3, &[1, 2]),
        ];
        assert_eq!(granted(limits, &[], wishes.clone()), [2, 3, 4], "store 9 takes two");
        assert_eq!(granted(limits, &[(9, 3)], wishes.clone()), [2, 4], "one is under way there");
        assert_eq!(granted(limits, &[(9, 3), (9, 3)], wishes), [4]);
    }

    #[test]
    fn a_busy_source_makes_a_partition_wait_unless_it_has_another() {
        let limits = Limits { per_target: 4, per_source: 1 };
        let wishes = vec![wish(1, 8, 2, &[1]), wish(2, 9, 2, &[1]), wish(3, 7, 2, &[1, 2])];
        assert_eq!(granted(limits, &[], wishes), [1, 3]);
    }

    #[test]
    fn without_anybody_to_copy_from_nothing_begins() {
        assert!(granted(Limits::CLUSTER, &[], vec![wish(1, 9, 0, &[])]).is_empty());
    }

    #[test]
    fn a_share_is_never_nothing() {
        let share = Limits::CLUSTER.divided_by(8);
        assert_eq!(share, Limits { per_target: 1, per_source: 1 });
        assert_eq!(Limits::CLUSTER.divided_by(0), Limits::CLUSTER);
    }
}
