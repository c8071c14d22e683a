//! What a partition keeps of a key, while something is under way on it.

use std::collections::VecDeque;

use smallvec::SmallVec;

use super::io::{Operation, ReadId};
use super::replicas::Slots;
use super::unsettled::Waiter;
use crate::types::{Moment, Version};

/// What is under way on one key.
#[derive(Clone, Debug, Default)]
pub(super) struct KeyState {
    /// Its versions in `U`, oldest first.
    pub(super) unsettled: SmallVec<[Version; 2]>,
    pub(super) read: Option<KeyRead>,
    /// Operations that wait for what is being read.
    pub(super) queue: VecDeque<Operation>,
    /// Somebody reads it: its value was cached when a write replaced it, or is waited for.
    pub(super) remembered: bool,
}

impl KeyState {
    /// What is being read may be older than what has settled since.
    pub(super) fn overtake_read(&mut self) {
        if let Some(read) = &mut self.read {
            read.overtaken = true;
        }
    }

    /// Whether what a copy says may be older than what has settled, or is about to be.
    pub(super) fn is_overtaken(&self) -> bool {
        !self.unsettled.is_empty() || self.read.as_ref().is_none_or(|read| read.overtaken)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.unsettled.is_empty() && self.read.is_none() && self.queue.is_empty()
    }
}

/// A read of a key's copies, perhaps of several in turn.
#[derive(Clone, Debug, Default)]
pub(super) struct KeyRead {
    /// Who hears the value; an operation that needs it as its base is at the front of the queue.
    pub(super) readers: SmallVec<[Waiter; 1]>,
    pub(super) tried: Slots,
    pub(super) failed: Slots,
    /// Copies that have the record and cannot read it.
    pub(super) damaged: Slots,
    pub(super) asked: Option<(usize, Moment)>,
    /// A version of the key has settled since it was sent (rule 43).
    pub(super) overtaken: bool,
    /// Every read sent for it. None of their answers may outlive it: a late one knows nothing of
    /// what was written since.
    pub(super) ids: SmallVec<[ReadId; 2]>,
}
