//! Epochs, versions and partitions.

use std::fmt;

/// A number the leader raises durably before it sends anything: version and fence of what it does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The version of a write: the epoch it was made in and the partition's counter. Totally ordered,
/// never a clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// Epoch of the leader that sequenced the write.
    pub epoch: Epoch,
    /// Counter of the partition within that epoch, from 1.
    pub seq: u64,
}

impl Version {
    /// Below every version that a leader hands out.
    pub const ZERO: Self = Self { epoch: Epoch(0), seq: 0 };

    /// The version with this epoch and counter.
    pub fn new(epoch: Epoch, seq: u64) -> Self {
        Self { epoch, seq }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.seq)
    }
}

/// One of the fixed slices of the hash space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionId(pub u16);

impl PartitionId {
    /// Records that concern the whole store, not a partition, carry this number.
    pub const STORE: Self = Self(u16::MAX);

    /// The position of this partition in a table of all partitions.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Into how many partitions the hash space is cut: a power of two from 1 to 32,768, fixed when a
/// cluster is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionCount(u16);

impl PartitionCount {
    /// What clusters are created with.
    pub const DEFAULT: Self = Self(1024);

    /// This many partitions, or nothing if the number is not a power of two.
    pub fn new(count: u16) -> Option<Self> {
        count.is_power_of_two().then_some(Self(count))
    }

    /// The number itself.
    pub fn get(self) -> u16 {
        self.0
    }

    /// Every partition, in order.
    pub fn all(self) -> impl Iterator<Item = PartitionId> {
        (0..self.0).map(PartitionId)
    }

    /// The partition a placement hash falls into: its top bits.
    pub fn partition_of(self, hash: u64) -> PartitionId {
        let bits = self.0.trailing_zeros();
        let top = hash.checked_shr(64 - bits).unwrap_or(0);
        PartitionId(u16::try_from(top).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn top_bits_choose_the_partition() {
        let count = PartitionCount::DEFAULT;
        assert_eq!(count.partition_of(0), PartitionId(0));
        assert_eq!(count.partition_of(u64::MAX), PartitionId(1023));
        assert_eq!(count.partition_of(1 << 54), PartitionId(1));
        assert_eq!(
            PartitionCount::new(1).map(|one| one.partition_of(u64::MAX)),
            Some(PartitionId(0))
        );
        assert_eq!(PartitionCount::new(1000), None);
    }

    #[test]
    fn an_epoch_outranks_every_counter() {
        assert!(Version::new(Epoch(2), 1) > Version::new(Epoch(1), u64::MAX));
    }
}
