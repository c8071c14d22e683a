//! The short list of what lies above the watermark, by version.
//!
//! Peering asks for it at every restart of the leader, so it must never be a scan of the index.
//! Items are added as versions arrive - nearly always in order - and dropped as the watermark
//! passes them. An item whose key has a newer version by now stays until then, or until such items
//! are the greater part of a long list.

use std::collections::VecDeque;

use crate::types::{KeyHash, Version};

/// The list of one partition.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recent {
    items: VecDeque<(Version, KeyHash)>,
    /// The length at which the list is cleaned of outdated items.
    clean_at: usize,
}

impl Recent {
    const SHORTEST_CLEANED: usize = 1024;

    /// Adds a version.
    pub(crate) fn add(&mut self, version: Version, key_hash: KeyHash) {
        let in_order = self.items.back().is_none_or(|(last, _)| *last < version);
        if in_order {
            self.items.push_back((version, key_hash));
        } else {
            let at = self.items.partition_point(|item| *item < (version, key_hash));
            if self.items.get(at) != Some(&(version, key_hash)) {
                self.items.insert(at, (version, key_hash));
            }
        }
    }

    /// Whether it is time for [`Self::retain`].
    pub(crate) fn is_long(&self) -> bool {
        self.items.len() > self.clean_at.max(Self::SHORTEST_CLEANED)
    }

    /// Keeps the items that are still true.
    pub(crate) fn retain(&mut self, mut is_current: impl FnMut(Version, KeyHash) -> bool) {
        self.items.retain(|(version, key_hash)| is_current(*version, *key_hash));
        self.clean_at = self.items.len() * 2;
    }

    /// Drops everything at or below the watermark.
    pub(crate) fn trim(&mut self, watermark: Version) {
        while self.items.front().is_some_and(|(version, _)| *version <= watermark) {
            self.items.pop_front();
        }
    }

    /// Drops everything.
    pub(crate) fn clear(&mut self) {
        self.items.clear();
    }

    /// The items, by version.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Version, KeyHash)> + '_ {
        self.items.iter().copied()
    }
}
