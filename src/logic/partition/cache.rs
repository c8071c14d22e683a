//! The leader's memory of settled values.
//!
//! The partitions alone decide what is in it; whoever answers clients may look. It holds what the
//! newest settled version of a key says, and of a key that is changing it holds nothing:
//!
//! * what enters `U` leaves the cache, and comes back when it has settled, before anybody is told
//!   (rule 42). So whoever finds a value here finds one that no acknowledged write has replaced;
//! * a key that nobody has read does not enter it by being written;
//! * what a read finds enters only if no version of the key has settled since the read was sent, and
//!   none is under way (rule 43);
//! * a partition's entries count only while its *door* is open: while the partition serves and a
//!   usable member stands behind what it says. The door is looked at after the value was found.
//!
//! It dies with the leader's process, and so with the epoch. That no other leader can have written
//! meanwhile, however long this one stood still, follows from the lock on the metadata directory,
//! which the kernel keeps for as long as this process exists. With more than one leader a lease has
//! to be looked at as well, at the same place as the door (rule 33).

use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use quick_cache::sync::{Cache as Entries, DefaultLifecycle};
use quick_cache::{OptionsBuilder, Weighter};

use super::io::Reply;
use crate::logic::mutants::{self, Mutant};
use crate::types::{KeyHash, PartitionId, Version};

/// Longer values are not kept: one of them would take the place of hundreds.
const LONGEST_VALUE: usize = 64 << 10;
/// What an entry costs beside its value: its place in the table, the value's allocation, and its
/// share of the marks that remember what was let go.
const ENTRY_BYTES: u64 = 192;
/// How much an entry is expected to take, value and all; it only sizes the marks.
const EXPECTED_BYTES: usize = 256;
/// How many marks of entries that were let go are kept, for each entry there is room for.
const MARKS: f64 = 0.25;
/// Parts with a lock each; fewer if the cache is small.
const PARTS: usize = 16;
const WORD_BITS: usize = 64;
/// One bit for each [`PartitionId`].
const DOOR_WORDS: usize = (1 << 16) / WORD_BITS;

/// What a key holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cached {
    /// Since which version; none if there is not even a tombstone.
    pub version: Option<Version>,
    /// The value; `None` if the key does not exist.
    pub value: Option<Bytes>,
}

impl From<Cached> for Reply {
    fn from(Cached { version, value }: Cached) -> Self {
        match (version, value) {
            (Some(version), Some(value)) => Self::Value { version, value },
            (version, _) => Self::NotFound { version },
        }
    }
}

/// What a cache has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Reads it answered.
    pub hits: u64,
    /// Reads for which a copy was asked.
    pub misses: u64,
    /// Bytes it holds.
    pub bytes: u64,
}

/// The values of a leader's partitions that were read last, as they have settled since. Clones share them.
#[derive(Clone, Debug)]
pub struct Cache(Arc<Shared>);

type Table = Entries<KeyHash, Cached, Weight, BuildHasherDefault<KeyHasher>>;

#[derive(Debug)]
struct Shared {
    /// None if there is to be no cache.
    entries: Option<Table>,
    /// Of each partition there can be, a bit: whether its entries count.
    doors: Box<[AtomicU64]>,
    hits: AtomicU64,
    misses: AtomicU64,
}

impl Cache {
    /// A cache of at most so many bytes, all doors closed. With no bytes at all it holds nothing.
    pub fn new(bytes: usize) -> Self {
        let options = OptionsBuilder::new()
            .shards(PARTS)
            .estimated_items_capacity(bytes / EXPECTED_BYTES)
            .weight_capacity(bytes as u64)
            .ghost_allocation(MARKS)
            .build();
        // Nothing is missing from the options.
        let options = options.ok().filter(|_| bytes > 0);
        let table = |options| {
            Table::with_options(
                options,
                Weight,
                BuildHasherDefault::new(),
                DefaultLifecycle::default(),
            )
        };
        Self(Arc::new(Shared {
            entries: options.map(table),
            doors: (0..DOOR_WORDS).map(|_| AtomicU64::new(0)).collect(),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }))
    }

    /// What a key of this partition holds, if that is known and may be told.
    pub fn recall(&self, partition: PartitionId, key_hash: KeyHash) -> Option<Cached> {
        let found = self.get(key_hash)?;
        self.is_open(partition).then_some(found)
    }

    /// Counts reads that were answered with what was [recalled](Self::recall).
    pub fn count_hits(&self, hits: u64) {
        self.0.hits.fetch_add(hits, Ordering::Relaxed);
    }

    /// What it has done until now.
    pub fn figures(&self) -> Figures {
        Figures {
            hits: self.0.hits.load(Ordering::Relaxed),
            misses: self.0.misses.load(Ordering::Relaxed),
            bytes: self.0.entries.as_ref().map_or(0, Table::weight),
        }
    }

    fn is_open(&self, partition: PartitionId) -> bool {
        let (word, bit) = door(partition);
        let open =
            self.0.doors.get(word).is_some_and(|word| word.load(Ordering::Acquire) & bit > 0);
        open || mutants::enabled(Mutant::OpenDoor)
    }

    /// As if a partition had put it there; for tests of those who look.
    #[cfg(test)]
    pub(crate) fn hold(&self, partition: PartitionId, key_hash: KeyHash, value: Option<&Bytes>) {
        self.open(partition, true);
        self.put(key_hash, Some(Version::ZERO), value);
    }

    // For partitions.

    pub(super) fn open(&self, partition: PartitionId, open: bool) {
        let (word, bit) = door(partition);
        match self.0.doors.get(word) {
            Some(word) if open => word.fetch_or(bit, Ordering::Release),
            Some(word) => word.fetch_and(!bit, Ordering::Release),
            None => return,
        };
    }

    /// What a key holds, whatever its partition's door.
    pub(super) fn get(&self, key_hash: KeyHash) -> Option<Cached> {
        self.0.entries.as_ref()?.get(&key_hash)
    }

    /// Remembers what a key holds since this version, all of it settled.
    pub(super) fn put(&self, key_hash: KeyHash, version: Option<Version>, value: Option<&Bytes>) {
        let Some(entries) = &self.0.entries else { return };
        if value.is_some_and(|value| value.len() > LONGEST_VALUE) {
            entries.remove(&key_hash);
            return;
        }
        // A copy of its own: the bytes may be a small part of all that came with them.
        let value = value.map(|value| Bytes::copy_from_slice(value));
        entries.insert(key_hash, Cached { version, value });
    }

    /// Forgets a key. Whether it was remembered.
    pub(super) fn forget(&self, key_hash: KeyHash) -> bool {
        self.0.entries.as_ref().is_some_and(|entries| entries.remove(&key_hash).is_some())
    }

    /// Forgets everything, of all partitions.
    pub(crate) fn clear(&self) {
        if let Some(entries) = &self.0.entries {
            entries.clear();
        }
    }

    pub(super) fn count_miss(&self) {
        self.0.misses.fetch_add(1, Ordering::Relaxed);
    }
}

/// Where a partition's bit is: the word and the bit.
fn door(partition: PartitionId) -> (usize, u64) {
    (partition.index() / WORD_BITS, 1 << (partition.index() % WORD_BITS))
}

/// What an entry costs.
#[derive(Clone, Copy, Debug)]
struct Weight;

impl Weighter<KeyHash, Cached> for Weight {
    fn weight(&self, _: &KeyHash, cached: &Cached) -> u64 {
        ENTRY_BYTES + cached.value.as_ref().map_or(0, |value| value.len() as u64)
    }
}

/// A [`KeyHash`] is a keyed hash already: its upper half serves as it is.
#[derive(Clone, Copy, Debug, Default)]
struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn write_u128(&mut self, bits: u128) {
        self.0 = u64::try_from(bits >> 64).unwrap_or(u64::MAX);
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARTITION: PartitionId = PartitionId(7);

    fn key(number: u128) -> KeyHash {
        KeyHash::from_bits(number.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835))
    }

    fn put(cache: &Cache, number: u128, length: usize) {
        let value = Bytes::from(vec![7; length]);
        cache.put(key(number), Some(Version::ZERO), Some(&value));
    }

    fn cache(bytes: usize) -> Cache {
        let cache = Cache::new(bytes);
        cache.open(PARTITION, true);
        cache
    }

    #[test]
    fn it_never_holds_more_than_it_may() {
        for bytes in [500, 100_000, 1 << 20] {
            let cache = cache(bytes);
            for number in 0..20_000 {
                put(&cache, number, usize::try_from(number % 700).unwrap());
                assert!(cache.figures().bytes <= bytes as u64);
            }
            assert!(cache.figures().bytes > bytes as u64 / 3, "{:?} of {bytes}", cache.figures());
        }
    }

    #[test]
    fn what_is_read_again_and_again_stays_while_others_come_and_go() {
        let cache = cache(1 << 20);
        put(&cache, 0, 100);
        for number in 1..100_000 {
            put(&cache, number, 100);
            assert!(cache.recall(PARTITION, key(0)).is_some(), "after {number}");
        }
    }

    #[test]
    fn a_long_value_takes_the_place_of_nothing_but_the_one_before_it() {
        let cache = cache(1 << 20);
        put(&cache, 1, 100);
        put(&cache, 2, 100);
        put(&cache, 2, LONGEST_VALUE + 1);
        assert!(cache.recall(PARTITION, key(1)).is_some());
        assert_eq!(cache.recall(PARTITION, key(2)), None);
        let small = self::cache(1000);
        put(&small, 1, 100);
        put(&small, 1, 5000);
        assert_eq!(small.recall(PARTITION, key(1)), None, "longer than the whole cache");
    }

    #[test]
    fn behind_a_closed_door_nothing_is_recalled() {
        let cache = cache(1 << 20);
        put(&cache, 1, 100);
        cache.open(PARTITION, false);
        assert_eq!(cache.recall(PARTITION, key(1)), None);
        cache.open(PartitionId(u16::MAX), true);
        assert_eq!(cache.recall(PARTITION, key(1)), None, "another door");
        cache.open(PARTITION, true);
        assert!(cache.recall(PARTITION, key(1)).is_some());
    }

    #[test]
    fn without_bytes_it_remembers_nothing() {
        let cache = cache(0);
        put(&cache, 1, 0);
        assert_eq!(cache.recall(PARTITION, key(1)), None);
        assert_eq!(cache.figures(), Figures::default());
    }
}
