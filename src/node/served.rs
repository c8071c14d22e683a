//! What reads are answered for: the token of each partition that the store holds whole.
//!
//! The commit thread writes it, after what it says has become durable; readers look at it without
//! a lock.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::types::{PartitionCount, PartitionId, Token};

/// No membership has this token.
const NONE: u64 = 0;

/// The token of each partition that is held whole, and whether it is in no doubt.
#[derive(Debug)]
pub(crate) struct Served {
    tokens: Box<[AtomicU64]>,
    sound: Box<[AtomicBool]>,
}

impl Served {
    pub(crate) fn new(count: PartitionCount) -> Self {
        Self {
            tokens: count.all().map(|_| AtomicU64::new(NONE)).collect(),
            sound: count.all().map(|_| AtomicBool::new(false)).collect(),
        }
    }

    pub(crate) fn set(&self, partition: PartitionId, token: Option<Token>, sound: bool) {
        if let Some(place) = self.sound.get(partition.index()) {
            place.store(sound, Ordering::Release);
        }
        if let Some(place) = self.tokens.get(partition.index()) {
            place.store(token.map_or(NONE, |token| token.0), Ordering::Release);
        }
    }

    pub(crate) fn token(&self, partition: PartitionId) -> Option<Token> {
        let token = self.tokens.get(partition.index())?.load(Ordering::Acquire);
        (token != NONE).then_some(Token(token))
    }

    /// Whether nothing that was acknowledged can be missing from the copy.
    pub(crate) fn is_sound(&self, partition: PartitionId) -> bool {
        self.sound.get(partition.index()).is_some_and(|place| place.load(Ordering::Acquire))
    }

    /// Nothing is served any more.
    pub(crate) fn clear(&self) {
        self.tokens.iter().for_each(|place| place.store(NONE, Ordering::Release));
    }

    /// The partitions that are served.
    pub(crate) fn partitions(&self) -> impl Iterator<Item = PartitionId> {
        (0..).map(PartitionId).zip(&self.tokens).filter_map(|(partition, place)| {
            (place.load(Ordering::Acquire) != NONE).then_some(partition)
        })
    }
}
