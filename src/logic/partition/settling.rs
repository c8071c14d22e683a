//! Versions, acknowledgements, and the watermark.

use std::time::Duration;

use smallvec::SmallVec;

use crate::types::{KeyHash, Member, StoreId, Token, Version};

use super::Partition;
use super::io::{Content, Output, Reply, Write};
use super::operations::reply_with;
use super::replicas::{Replica, Role, Slots};
use super::unsettled::{Entry, Waiter, Waiting};
use crate::logic::mutants::{self, Mutant};

/// How long a watermark may wait for a write to take it along (rule 14).
const TELL_AFTER: Duration = Duration::from_millis(100);

impl Partition {
    /// Rule 5: the next version, and to every copy that takes live writes.
    pub(super) fn sequence(
        &mut self,
        key_hash: KeyHash,
        content: Content,
        waiter: Waiter,
        out: &mut Vec<Output>,
    ) {
        self.seq += 1;
        self.sequenced = self.now;
        let version = Version::new(self.epoch, self.seq);
        let remembered = self.uncache(key_hash, version, Some(&content));
        if content.value.is_none() {
            self.garbage.deleted(version);
        }
        let to = self.recipients(Slots::NONE);
        out.push(Output::Write { to, write: Write { version, content: content.clone() } });
        self.note_deadline(waiter.deadline);
        let entry = Entry {
            key_hash,
            content: Some(content),
            checksum: None,
            acknowledged: Slots::NONE,
            unreadable: Slots::NONE,
            waiters: SmallVec::from_buf([waiter]),
            fetch: None,
            superseded: false,
        };
        self.unsettled.insert(version, entry);
        let state = self.keys.entry(key_hash).or_default();
        state.unsettled.push(version);
        state.remembered |= remembered;
    }

    /// Copies that take live writes and are not among those that have this one already. A member
    /// that has not answered its fence gets what it lacks when it does.
    fn recipients(&self, have: Slots) -> SmallVec<[Member; 4]> {
        self.replicas
            .iter()
            .filter(|(slot, replica)| {
                !have.contains(Slots::one(*slot)) && self.takes_writes(replica)
            })
            .map(|(_, replica)| replica.address())
            .collect()
    }

    fn takes_writes(&self, replica: &Replica) -> bool {
        replica.peered && !replica.disowned && self.state_of(replica.store).connected
    }

    /// Sends an unsettled write to whoever lacks it.
    pub(super) fn resend(&self, version: Version, out: &mut Vec<Output>) {
        let Some(entry) = self.unsettled.get(version) else { return };
        let Some(content) = entry.content.clone().filter(|_| !entry.superseded) else { return };
        let to = self.recipients(entry.acknowledged);
        if !to.is_empty() {
            out.push(Output::Write { to, write: Write { version, content } });
        }
    }

    /// Sends one copy every unsettled write it lacks.
    pub(super) fn resend_all_to(&self, slot: usize, out: &mut Vec<Output>) {
        let Some(replica) = self.replicas.in_slot(slot) else { return };
        for (version, entry) in self.unsettled.iter() {
            let lacks = !entry.acknowledged.contains(Slots::one(slot)) && !entry.superseded;
            if let Some(content) = entry.content.clone().filter(|_| lacks) {
                let to = SmallVec::from_iter([replica.address()]);
                out.push(Output::Write { to, write: Write { version, content } });
            }
        }
    }

    pub(super) fn acknowledged(
        &mut self,
        store: StoreId,
        token: Token,
        version: Version,
        out: &mut Vec<Output>,
    ) {
        let Some((slot, replica)) = self.replicas.admitted(store, token) else { return };
        let mut completes = false;
        if let Role::CatchingUp { missing, missing_bytes, .. } = &mut replica.role
            && let Some(write) = missing.remove(&version)
        {
            *missing_bytes = missing_bytes.saturating_sub(bytes_of(&write.content));
            completes = missing.is_empty();
        }
        if let Some(entry) = self.unsettled.get_mut(version) {
            entry.acknowledged.insert(Slots::one(slot));
            if entry.acknowledged.contains(self.required) {
                self.settle(version, out);
                self.advance_watermark();
            }
        }
        if completes {
            self.reconfigure(out);
        }
    }

    /// Settles whatever the required copies now all have.
    pub(super) fn settle_what_can(&mut self, out: &mut Vec<Output>) {
        let ready: Vec<Version> = self
            .unsettled
            .iter()
            .filter(|(_, entry)| self.is_settled(entry))
            .map(|(version, _)| version)
            .collect();
        for version in ready {
            self.settle(version, out);
        }
        self.advance_watermark();
    }

    fn is_settled(&self, entry: &Entry) -> bool {
        !self.frozen.contains(&entry.key_hash) && entry.acknowledged.contains(self.required)
    }

    /// Rule 6: the version is on every required copy; all older ones of its key settle with it.
    pub(super) fn settle(&mut self, version: Version, out: &mut Vec<Output>) {
        let Some(entry) = self.unsettled.get(version) else { return };
        let key_hash = entry.key_hash;
        if self.frozen.contains(&key_hash) {
            return;
        }
        let Some(state) = self.keys.get_mut(&key_hash) else { return };
        let settled: SmallVec<[Version; 2]> =
            state.unsettled.iter().copied().filter(|other| *other <= version).collect();
        state.unsettled.retain(|other| *other > version);
        for older in settled {
            if let Some(entry) = self.unsettled.remove(older) {
                if older == version {
                    self.keep_for_catching_up(version, &entry, out);
                    self.is_readable(entry.key_hash);
                    self.cache_settled(version, &entry);
                }
                self.release(older, &entry, out);
            }
        }
        self.forget_idle_key(key_hash);
        self.drain_key(key_hash, out);
    }

    /// Tells those who waited for a version.
    fn release(&mut self, version: Version, entry: &Entry, out: &mut Vec<Output>) {
        for waiter in &entry.waiters {
            let reply = match (waiter.waiting, &entry.content) {
                (Waiting::Stored, _) => Reply::Stored {
                    version,
                    copies: self.configuration.members.len(),
                    wanted: self.settings.copies,
                },
                (Waiting::NotFound, _) => Reply::NotFound { version: Some(version) },
                (Waiting::Value, Some(content)) => reply_with(version, content),
                (Waiting::Value, None) => {
                    self.read_again(entry.key_hash, *waiter, out);
                    continue;
                }
            };
            out.push(Output::Reply { id: waiter.id, reply });
        }
    }

    /// Rules 17a and 18: what a copy in the making has not acknowledged stays missing there.
    fn keep_for_catching_up(&mut self, version: Version, entry: &Entry, out: &mut Vec<Output>) {
        let limit = self.settings.missing_bytes;
        let mut overrun: SmallVec<[StoreId; 2]> = SmallVec::new();
        for (slot, replica) in self.replicas.iter_mut() {
            let Role::CatchingUp { missing, missing_bytes, .. } = &mut replica.role else {
                continue;
            };
            if entry.acknowledged.contains(Slots::one(slot)) || entry.superseded {
                continue;
            }
            let Some(content) = entry.content.clone() else {
                // Its value never came to the leader, so the copy cannot be told: begin it anew.
                overrun.push(replica.store);
                continue;
            };
            *missing_bytes += bytes_of(&content);
            missing.insert(version, Write { version, content });
            if *missing_bytes > limit {
                overrun.push(replica.store);
            }
        }
        for store in overrun {
            self.abandon_copy(store, out);
        }
    }

    /// Rule 14: only while every member is peered, or records above it could still turn up.
    pub(super) fn advance_watermark(&mut self) {
        let all_peered = self.replicas.members().all(|(_, replica)| replica.peered)
            || mutants::enabled(Mutant::EarlyWatermark);
        if !self.serving || !all_peered {
            return;
        }
        let reached = match self.unsettled.oldest() {
            None => Version::new(self.epoch, self.seq),
            Some(oldest) if oldest.epoch == self.epoch => {
                Version::new(self.epoch, oldest.seq.saturating_sub(1))
            }
            Some(_) => return,
        };
        if reached > self.watermark {
            self.watermark = reached;
            self.watermark_untold = true;
        }
    }

    /// Writes take the watermark along; without any it is told on its own.
    pub(super) fn tell_watermark(&mut self, out: &mut Vec<Output>) {
        if !self.watermark_untold || self.now.since(self.sequenced) < TELL_AFTER {
            return;
        }
        self.watermark_untold = false;
        let to = self.recipients(Slots::NONE);
        if !to.is_empty() {
            out.push(Output::Watermark(to));
        }
    }
}

/// What a write costs to keep.
fn bytes_of(content: &Content) -> usize {
    const OVERHEAD: usize = 128;
    OVERHEAD + content.key.as_bytes().len() + content.value.as_ref().map_or(0, bytes::Bytes::len)
}
