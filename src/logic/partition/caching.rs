//! What a partition puts into the leader's cache, and when it may be told (rules 42 and 43).

use crate::logic::mutants::{self, Mutant};
use crate::types::{KeyHash, Version};

use super::Partition;
use super::cache::Cached;
use super::io::{Content, Write};
use super::unsettled::Entry;

impl Partition {
    /// Whether anything about a key may be told: peering is over, and a usable member stands behind
    /// what is said (rules 11 and 13).
    pub(super) fn may_answer(&self) -> bool {
        self.serving && self.usable().next().is_some()
    }

    /// What the cache holds may be told while a member could be asked, and no longer.
    pub(super) fn tend_the_door(&mut self) {
        let open = self.may_answer();
        if self.open != open {
            self.open = open;
            self.cache.open(self.id, open);
        }
    }

    /// What the cache knows of a key that has no version in `U`.
    pub(super) fn cached(&self, key_hash: KeyHash) -> Option<Cached> {
        self.cache.get(key_hash).filter(|_| self.may_answer())
    }

    /// A version enters `U`: until it has settled, nothing but the partition itself can tell what a
    /// reader may see. Says whether the key was remembered.
    pub(super) fn uncache(
        &self,
        key_hash: KeyHash,
        version: Version,
        content: Option<&Content>,
    ) -> bool {
        match content {
            _ if mutants::enabled(Mutant::KeptEntry) => false,
            Some(content) if mutants::enabled(Mutant::CachedUnsettled) => {
                self.cache.put(key_hash, Some(version), content.value.as_ref());
                true
            }
            _ => self.cache.forget(key_hash),
        }
    }

    /// A version has settled: if somebody reads the key, it is cached before anybody is told, unless a
    /// newer one is under way. What is being read meanwhile is older. What is only ever written takes
    /// the place of nothing that is read, and costs nothing.
    pub(super) fn cache_settled(&mut self, version: Version, entry: &Entry) {
        let Some(state) = self.keys.get_mut(&entry.key_hash) else { return };
        state.overtake_read();
        let is_read = state.remembered || state.read.is_some();
        let Some(content) = entry.content.as_ref().filter(|_| state.unsettled.is_empty()) else {
            return;
        };
        let cacheable = content.is_cacheable() && !mutants::enabled(Mutant::KeptEntry);
        if cacheable && is_read {
            self.cache.put(entry.key_hash, Some(version), content.value.as_ref());
        }
    }

    /// A copy was read: what it holds is cached if nothing has settled since it was asked, and
    /// nothing is under way. To compare versions would not do: the newer one may have been cached,
    /// and have been let go again.
    pub(super) fn cache_read(&self, key_hash: KeyHash, found: Option<&Write>) {
        let current = self.keys.get(&key_hash).is_some_and(|state| !state.is_overtaken());
        let version = found.map(|write| write.version);
        let newer = || self.cache.get(key_hash).is_none_or(|cached| cached.version < version);
        let current = current
            || mutants::enabled(Mutant::OverwritingRead)
            || (mutants::enabled(Mutant::ComparingRead) && newer());
        let cacheable = found.is_none_or(|write| write.content.is_cacheable());
        if current && cacheable && !self.frozen.contains(&key_hash) {
            self.cache.put(key_hash, version, found.and_then(|write| write.content.value.as_ref()));
        }
    }
}

impl Content {
    /// What is to end at some time is not: that it has ended is for the partition to decide.
    fn is_cacheable(&self) -> bool {
        self.expires == 0
    }
}
