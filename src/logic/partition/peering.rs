//! What members held when this epoch began, and what they lack since.
//!
//! A new epoch knows nothing of the writes under way in the old one. It fences every member and
//! takes up what lies above the highest watermark heard, with its original version: some of it may
//! have been acknowledged, none of it may be forgotten (rule 12).

use std::time::Duration;

use smallvec::SmallVec;

use crate::types::{ConfigurationVersion, KeyHash, StoreId, Token, Version};

use super::Partition;
use super::io::{Attempt, FenceAnswer, Order, Output, ReadAnswer, Summary};
use super::operations::Reading;
use super::replicas::{Filling, Role, Slots};
use super::unsettled::Entry;
use crate::logic::mutants::{self, Mutant};

impl Partition {
    pub(super) fn connected(&mut self, store: StoreId, out: &mut Vec<Output>) {
        match self.replicas.get_mut(store) {
            None => {
                self.strangers.insert(store);
            }
            Some((_, replica)) if replica.is_member() => {
                (replica.disowned, replica.lost) = (false, false);
                replica.begun = false;
                if replica.merged && mutants::enabled(Mutant::TrustedReturn) {
                    replica.peered = true;
                    return;
                }
                self.fence(store, out);
            }
            // What a copy in the making was sent on the old stream is lost: it begins again.
            Some(_) => self.abandon_copy(store, out),
        }
    }

    pub(super) fn disconnected(&mut self, store: StoreId, out: &mut Vec<Output>) {
        self.strangers.remove(&store);
        let Some((slot, replica)) = self.replicas.get_mut(store) else { return };
        // Rule 15: whatever it answers to an older attempt counts no longer.
        replica.peered = false;
        replica.attempt = Attempt(replica.attempt.0 + 1);
        let is_member = replica.is_member();
        self.forget_reads_of(slot);
        if !is_member {
            self.abandon_copy(store, out);
        }
        self.retry_reads(Duration::MAX, out);
    }

    /// Asks a member what it holds above its watermark.
    pub(super) fn fence(&mut self, store: StoreId, out: &mut Vec<Output>) {
        let Some((slot, replica)) = self.replicas.get_mut(store) else { return };
        replica.peered = false;
        replica.attempt = Attempt(replica.attempt.0 + 1);
        let order = Order::Fence(replica.attempt);
        out.push(Output::Order { to: replica.address(), order });
        self.forget_reads_of(slot);
    }

    pub(super) fn fenced(
        &mut self,
        store: StoreId,
        token: Token,
        answer: FenceAnswer,
        out: &mut Vec<Output>,
    ) {
        let Some((slot, replica)) = self.replicas.admitted(store, token) else { return };
        let current = replica.attempt == answer.attempt || mutants::enabled(Mutant::AnyAttempt);
        if current && !replica.is_member() {
            self.copy_told(store, &answer, out);
            return;
        }
        if !current || replica.peered {
            return;
        }
        if !answer.member {
            self.not_a_member(store, out);
            return;
        }
        let first = !replica.merged;
        replica.peered = true;
        replica.merged = true;
        replica.floor = answer.floor;
        self.garbage.told(&answer);
        self.take_doubt(slot, answer.doubt);
        self.tell_configuration(slot, out);
        // Before anything goes on that waited for this answer: it may go on from what is in it.
        for summary in answer.records {
            self.merge(slot, first, summary, out);
        }
        // What is at or below a floor is settled, and was forgotten.
        self.adopt_watermark(answer.watermark.max(answer.floor), out);
        self.resend_all_to(slot, out);
        self.fetch_contents(out);
        self.begin_serving(out);
        self.compare_members(out);
        self.progress(out);
    }

    /// A copy in the making says what it holds of what is unsettled.
    fn copy_told(&mut self, store: StoreId, answer: &FenceAnswer, out: &mut Vec<Output>) {
        let Some((slot, replica)) = self.replicas.get_mut(store) else { return };
        let Role::CatchingUp { filling, .. } = &mut replica.role else { return };
        if *filling != Filling::Telling {
            return;
        }
        if !answer.member {
            self.abandon_copy(store, out);
            return;
        }
        *filling = Filling::Finished;
        replica.floor = answer.floor;
        // It may have been a member before, and have dropped tombstones that its source has.
        self.garbage.told(answer);
        for summary in &answer.records {
            if let Some(entry) = self.unsettled.get_mut(summary.version) {
                entry.acknowledged.insert(Slots::one(slot));
            }
        }
        self.forget_lost(out);
        self.reconfigure(out);
    }

    /// A version of an earlier epoch whose only holders were removed before anybody had read it from
    /// them: it is on no copy, so it never was acknowledged and never will be.
    pub(super) fn forget_lost(&mut self, out: &mut Vec<Output>) {
        let may_turn_up = !self.is_whole()
            || self.replicas.iter().any(|(_, replica)| match &replica.role {
                Role::Member => false,
                Role::CatchingUp { filling, .. } => *filling != Filling::Finished,
            });
        if may_turn_up {
            return;
        }
        let mut copies = Slots::NONE;
        self.replicas.iter().for_each(|(slot, _)| copies.insert(Slots::one(slot)));
        let lost: Vec<Version> = self
            .unsettled
            .iter()
            .filter(|(_, entry)| entry.content.is_none() && !entry.superseded)
            .filter(|(_, entry)| {
                let mut held = entry.acknowledged;
                held.insert(entry.unreadable);
                !held.intersects(copies)
            })
            .map(|(version, _)| version)
            .collect();
        for version in lost.iter().copied() {
            self.forget(version, out);
        }
        if !lost.is_empty() {
            self.advance_watermark();
        }
    }

    fn forget(&mut self, version: Version, out: &mut Vec<Output>) {
        let Some(entry) = self.unsettled.remove(version) else { return };
        let key_hash = entry.key_hash;
        if let Some(state) = self.keys.get_mut(&key_hash) {
            state.unsettled.retain(|other| *other != version);
        }
        for waiter in entry.waiters {
            self.read_again(key_hash, waiter, out);
        }
        self.forget_idle_key(key_hash);
        self.drain_key(key_hash, out);
    }

    /// In its first configuration a partition may never have begun on a member: as that member
    /// never acknowledged anything, nothing can have settled, and it begins now. In any later one
    /// the member has lost what it held.
    fn not_a_member(&mut self, store: StoreId, out: &mut Vec<Output>) {
        let first = self.configuration.version == ConfigurationVersion::FIRST;
        let forced = self.forced == Some(self.configuration.version);
        let Some((slot, replica)) = self.replicas.get_mut(store) else { return };
        if (first || forced) && !replica.begun {
            replica.begun = true;
            let order = if forced { Order::Adopt } else { Order::Begin };
            out.push(Output::Order { to: replica.address(), order });
            self.fence(store, out);
        } else {
            replica.disown(self.now);
            replica.lost = true;
            // What it acknowledged it has no longer.
            self.unsettled.forget_slot(slot);
            self.forget_lost(out);
            self.reconfigure(out);
        }
    }

    /// Everything at or below a watermark that any member heard is settled.
    fn adopt_watermark(&mut self, watermark: Version, out: &mut Vec<Output>) {
        if watermark <= self.watermark {
            return;
        }
        self.watermark = watermark;
        let settled: Vec<Version> = self
            .unsettled
            .iter()
            .map(|(version, _)| version)
            .take_while(|version| *version <= watermark)
            .collect();
        for version in settled {
            self.settle(version, out);
        }
    }

    /// Takes up one record of a member's answer.
    ///
    /// A version that is not unsettled here is new only in the member's first answer of this epoch:
    /// until then nothing could settle without it. Later it has settled meanwhile, and to take it
    /// up again would put an old value above a newer, settled one.
    fn merge(&mut self, slot: usize, first: bool, summary: Summary, out: &mut Vec<Output>) {
        let Summary { key_hash, version, checksum } = summary;
        if version <= self.watermark || mutants::enabled(Mutant::NoRollForward) {
            return;
        }
        if let Some(entry) = self.unsettled.get_mut(version) {
            let conflict =
                entry.key_hash != key_hash || entry.checksum.is_some_and(|other| other != checksum);
            entry.acknowledged.insert(Slots::one(slot));
            if conflict && self.frozen.insert(key_hash) {
                self.cache.forget(key_hash);
                out.push(Output::Alarm { key_hash, version });
            }
        } else if (first || mutants::enabled(Mutant::AnyAttempt)) && version.epoch < self.epoch {
            self.take_up(slot, summary);
        }
    }

    fn take_up(&mut self, slot: usize, summary: Summary) {
        let mut acknowledged = Slots::one(slot);
        if mutants::enabled(Mutant::MissingMerged) {
            let catching_up = self.replicas.iter().filter(|(_, replica)| !replica.is_member());
            catching_up.for_each(|(slot, _)| acknowledged.insert(Slots::one(slot)));
        }
        let entry = Entry {
            key_hash: summary.key_hash,
            content: None,
            checksum: Some(summary.checksum),
            acknowledged,
            unreadable: Slots::NONE,
            waiters: SmallVec::new(),
            fetch: None,
            superseded: false,
        };
        self.uncache(summary.key_hash, summary.version, None);
        self.unsettled.insert(summary.version, entry);
        let versions = &mut self.keys.entry(summary.key_hash).or_default().unsettled;
        let at = versions.partition_point(|other| *other < summary.version);
        versions.insert(at, summary.version);
    }

    /// Rule 13: with every member, or after the grace with any.
    pub(super) fn begin_serving(&mut self, out: &mut Vec<Output>) {
        if self.serving || self.unconfirmed {
            return;
        }
        let answered = self.replicas.members().filter(|(_, replica)| replica.peered).count();
        let all = answered == self.configuration.members.len();
        let waited = self.now.since(self.began) >= self.settings.peering_grace;
        if all || (waited && answered > 0) {
            self.serving = true;
            self.progress(out);
        }
    }

    /// Rule 37: every member of the committed set has answered this epoch once.
    pub(super) fn is_whole(&self) -> bool {
        self.replicas.members().all(|(_, replica)| replica.merged)
    }

    /// Something that operations may have waited for has happened.
    pub(super) fn progress(&mut self, out: &mut Vec<Output>) {
        self.settle_what_can(out);
        self.forget_lost(out);
        if self.serving {
            self.drain_all_keys(out);
            self.release_held(out);
        }
        self.retry_reads(Duration::MAX, out);
        self.reconfigure(out);
    }

    // Contents: peering brings only summaries; a value is fetched where somebody lacks it.

    pub(super) fn fetch_contents(&mut self, out: &mut Vec<Output>) {
        let lacking: Vec<Version> = self
            .unsettled
            .iter()
            .filter(|(_, entry)| entry.content.is_none() && !entry.superseded)
            .filter(|(_, entry)| self.is_due(entry) && self.is_wanted(entry))
            .map(|(version, _)| version)
            .collect();
        for version in lacking {
            self.fetch(version, out);
        }
    }

    fn is_due(&self, entry: &Entry) -> bool {
        entry.fetch.is_none_or(|(id, sent)| {
            !self.reads.contains_key(&id) || self.now.since(sent) >= self.settings.read_retry
        })
    }

    fn is_wanted(&self, entry: &Entry) -> bool {
        let somebody_lacks = self.replicas.iter().any(|(slot, replica)| {
            replica.peered && !entry.acknowledged.contains(Slots::one(slot))
        });
        somebody_lacks || !entry.waiters.is_empty() || self.has_queue(entry.key_hash)
    }

    fn fetch(&mut self, version: Version, out: &mut Vec<Output>) {
        let Some(entry) = self.unsettled.get(version) else { return };
        let key_hash = entry.key_hash;
        // A member that may have lost something else has this.
        let holder = self
            .answering()
            .find(|(slot, _)| entry.acknowledged.contains(Slots::one(*slot)))
            .map(|(slot, replica)| (slot, replica.address()));
        let Some((slot, from)) = holder else { return };
        let id = self.fresh_read(Reading::Content { version, slot });
        let now = self.now;
        if let Some(entry) = self.unsettled.get_mut(version) {
            entry.fetch = Some((id, now));
        }
        out.push(Output::Read { from, id, key_hash });
    }

    pub(super) fn content_answered(
        &mut self,
        version: Version,
        slot: usize,
        answer: ReadAnswer,
        out: &mut Vec<Output>,
    ) {
        let Some(entry) = self.unsettled.get_mut(version) else { return };
        let key_hash: KeyHash = entry.key_hash;
        entry.fetch = None;
        match answer {
            ReadAnswer::Found(write) if write.version == version => {
                entry.content = Some(write.content);
                self.resend(version, out);
            }
            // A write of this epoch has replaced it there, and settles it when it settles.
            ReadAnswer::Found(write) if write.version > version => entry.superseded = true,
            // For now, or under a token that is no longer its own: it is asked again.
            ReadAnswer::Refused => {}
            _ => {
                entry.acknowledged.remove(Slots::one(slot));
                entry.unreadable.insert(Slots::one(slot));
            }
        }
        self.drain_key(key_hash, out);
        self.fetch_contents(out);
    }
}
