//! Answers from the leader's memory, without asking a shard.
//!
//! A read of a key that is cached could wait for its shard and be answered from the same cache
//! there; here it costs no message to another task and back. What may be told is not decided here:
//! see [`cache`](crate::logic::partition::cache).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crate::logic::partition::cache::{Cache, Cached};
use crate::protocol::command::Operation;
use crate::protocol::reply::Outcome;
use crate::types::{IndexKey, PartitionId};

/// The leader's memory, as the gateway reads it. Clones share it.
#[derive(Clone, Debug)]
pub struct Recall {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    cache: Cache,
    /// Known once the cluster exists.
    index_key: OnceLock<IndexKey>,
    answered: AtomicU64,
}

impl Recall {
    /// Looks into this cache.
    pub fn new(cache: Cache) -> Self {
        let shared = Shared { cache, index_key: OnceLock::new(), answered: AtomicU64::new(0) };
        Self { shared: Arc::new(shared) }
    }

    /// The cluster exists, and keys are hashed with this key.
    pub fn begin(&self, index_key: IndexKey) {
        // Every shard says so, and all say the same.
        let _ = self.shared.index_key.set(index_key);
    }

    /// The cache it looks into.
    pub fn cache(&self) -> &Cache {
        &self.shared.cache
    }

    /// How many requests it has answered.
    pub fn answered(&self) -> u64 {
        self.shared.answered.load(Ordering::Relaxed)
    }

    /// The answer to a read of a key whose value is remembered.
    pub(super) fn answer(&self, partition: PartitionId, operation: &Operation) -> Option<Outcome> {
        let Operation::Get { key } = operation else { return None };
        let key_hash = self.shared.index_key.get()?.hash(key.as_bytes());
        let Cached { value, .. } = self.shared.cache.recall(partition, key_hash)?;
        Some(value.map_or(Outcome::NotFound, Outcome::Value))
    }

    /// Counts answers that were given.
    pub(super) fn count(&self, answers: usize) {
        let answers = u64::try_from(answers).unwrap_or(u64::MAX);
        self.shared.answered.fetch_add(answers, Ordering::Relaxed);
        self.shared.cache.count_hits(answers);
    }
}
