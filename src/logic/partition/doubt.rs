//! Members that may lack what they acknowledged (rules 15 and 15a).
//!
//! A store that did not stop in order may have lost its last batches: one whose log has a torn end
//! the last one, by damage that looks just so; one that was buffered, when its machine went down, all
//! since its last sync. It says so when it is fenced. From then on
//!
//! * what it acknowledged of what is unsettled counts no longer, and is sent to it again;
//! * it is read only where no *sound* member is there - and where the loss is likely, not at all;
//! * nothing is copied from it, and no other member is let go in its favour;
//! * it is compared with a sound member, and fetches what it turns out to lack. Where none is sound,
//!   it is compared with every other member: then the highest versions found among all win.
//!
//! What can be missing is only what was settled when it was fenced: later writes it has to
//! acknowledge like everybody. So one comparison per partition is enough, however many writes go on
//! meanwhile. But of an earlier epoch's writes that are being rolled forward nobody knows whether they
//! had settled: it is not trusted before it has acknowledged those, too.

use std::time::Duration;

use smallvec::SmallVec;

use super::Partition;
use super::io::{Attempt, Order, Output};
use super::replicas::{Replica, Slots};
use crate::logic::comparison::{Doubt, Point};
use crate::logic::mutants::{self, Mutant};
use crate::types::{Member, Moment, StoreId, Token, Version};

/// How long a comparison that failed waits for the next.
const COMPARE_AGAIN: Duration = Duration::from_secs(1);

/// With whom a member in doubt was compared, since it was last fenced.
#[derive(Clone, Debug, Default)]
pub(super) struct Comparisons {
    done: SmallVec<[StoreId; 4]>,
    /// With whom it is being compared, and whether that one was sound.
    under_way: Option<(StoreId, bool)>,
    /// It was compared with a sound one.
    passed: bool,
    attempt: Attempt,
    not_before: Moment,
}

/// What a member in doubt needs next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// To be compared with this member, sound or not.
    With(StoreId, bool),
    /// Others to come back.
    Wait,
    /// Nothing: it was compared with everybody there is.
    Trust,
}

impl Partition {
    /// Usable members that hold for certain what they acknowledged.
    pub(super) fn sound(&self) -> impl Iterator<Item = (usize, &Replica)> {
        self.usable().filter(|(_, replica)| replica.doubt == Doubt::None)
    }

    /// Whom reads may be sent to: sound members; if there is none, any that is usable.
    pub(super) fn readable(&self) -> SmallVec<[(usize, Member); 8]> {
        let at_once = mutants::enabled(Mutant::UncleanReadAtOnce)
            || mutants::enabled(Mutant::PossibleLossAnswers);
        let any = self.sound().next().is_none() || at_once;
        let readable = self.usable().filter(|(_, replica)| any || replica.doubt == Doubt::None);
        readable.map(|(slot, replica)| (slot, replica.address())).collect()
    }

    /// A member says in the answer to its fence how far it is to be trusted.
    pub(super) fn take_doubt(&mut self, slot: usize, doubt: Doubt) {
        let Some(replica) = self.replicas.in_slot_mut(slot) else { return };
        let attempt = Attempt(replica.comparisons.attempt.0 + 1);
        replica.doubt = doubt;
        replica.comparisons = Comparisons { attempt, ..Comparisons::default() };
        if doubt != Doubt::None && !mutants::enabled(Mutant::UncleanAcknowledgements) {
            self.unsettled.forget_slot(slot);
        }
    }

    /// Has members in doubt compared, or trusts them.
    pub(super) fn compare_members(&mut self, out: &mut Vec<Output>) {
        let due: SmallVec<[StoreId; 4]> = self
            .replicas
            .members()
            .map(|(_, replica)| replica)
            .filter(|replica| {
                let comparisons = &replica.comparisons;
                replica.doubt != Doubt::None
                    && replica.peered
                    && self.state_of(replica.store).connected
                    && comparisons.under_way.is_none()
                    && self.now >= comparisons.not_before
            })
            .map(|replica| replica.store)
            .collect();
        for store in due {
            match self.next_comparison(store) {
                Next::With(source, sound) => self.compare(store, source, sound, out),
                Next::Trust => self.trust(store, out),
                Next::Wait => {}
            }
        }
    }

    fn next_comparison(&self, store: StoreId) -> Next {
        let Some((slot, doubted)) = self.replicas.get(store) else { return Next::Wait };
        let mut gone = Slots::NONE;
        for (slot, _) in self.replicas.members().filter(|(_, it)| self.is_gone(it, doubted.doubt)) {
            gone.insert(Slots::one(slot));
        }
        let trusted = if self.has_rolled_forward(slot, gone) { Next::Trust } else { Next::Wait };
        if doubted.comparisons.passed {
            return trusted;
        }
        let sound: SmallVec<[StoreId; 4]> =
            self.sound().map(|(_, replica)| replica.store).filter(|it| *it != store).collect();
        // Another one each time, should one of them not be reachable from there.
        let turn = usize::try_from(doubted.comparisons.attempt.0).unwrap_or(0) + self.id.index();
        if let Some(source) = sound.get(turn % sound.len().max(1)) {
            return Next::With(*source, true);
        }
        let mut complete = true;
        for (_, other) in self.replicas.members() {
            let state = self.state_of(other.store);
            let gone = self.is_gone(other, doubted.doubt);
            if other.store == store || gone || doubted.comparisons.done.contains(&other.store) {
                continue;
            }
            if other.peered && state.is_live() {
                return Next::With(other.store, false);
            }
            complete = false;
        }
        if complete { trusted } else { Next::Wait }
    }

    /// Whether a member is not waited for by one that is in doubt so. Nothing is to be had from a
    /// member that has lost its copy. One that is away for long may still return, but is not waited for
    /// by stores that most likely lack nothing.
    fn is_gone(&self, other: &Replica, doubt: Doubt) -> bool {
        let state = self.state_of(other.store);
        let never_came = !state.seen && self.now.since(self.began) >= self.settings.evict_after;
        other.lost || (doubt == Doubt::Unclean && (state.evicted || never_came))
    }

    /// Whether a copy has all that an earlier epoch left open: each such version, or a newer one of its
    /// key. What only members have that are gone, and nobody could read from them, is not waited for.
    fn has_rolled_forward(&self, slot: usize, gone: Slots) -> bool {
        let mut open = self.unsettled.iter().filter(|(version, entry)| {
            let reachable = entry.content.is_some() || !gone.contains(entry.acknowledged);
            version.epoch < self.epoch && reachable
        });
        open.all(|(version, entry)| {
            let versions = self.keys.get(&entry.key_hash).map(|key| key.unsettled.iter());
            let mut newer = versions.into_iter().flatten().filter(|other| **other >= version);
            newer.any(|newer| {
                let newer = self.unsettled.get(*newer);
                newer.is_some_and(|newer| newer.acknowledged.contains(Slots::one(slot)))
            })
        })
    }

    fn compare(&mut self, store: StoreId, source: StoreId, sound: bool, out: &mut Vec<Output>) {
        let point = Point {
            before: Version::new(self.epoch, self.seq + 1),
            under_way: self.unsettled.iter().map(|(version, _)| version).collect(),
        };
        let Some((_, replica)) = self.replicas.get_mut(store) else { return };
        let comparisons = &mut replica.comparisons;
        comparisons.under_way = Some((source, sound));
        comparisons.attempt.0 += 1;
        let order = Order::Compare { attempt: comparisons.attempt, source, point };
        out.push(Output::Order { to: replica.address(), order });
    }

    /// A comparison has ended.
    pub(super) fn compared(
        &mut self,
        store: StoreId,
        token: Token,
        (attempt, complete, restored): (Attempt, bool, u64),
        out: &mut Vec<Output>,
    ) {
        let now = self.now;
        let Some((_, replica)) = self.replicas.admitted(store, token) else { return };
        let comparisons = &mut replica.comparisons;
        let current = replica.peered && comparisons.attempt == attempt;
        let Some((source, sound)) = comparisons.under_way.take_if(|_| current) else { return };
        if complete {
            comparisons.done.push(source);
            comparisons.passed |= sound;
        } else {
            comparisons.not_before = now + COMPARE_AGAIN;
        }
        if restored > 0 {
            out.push(Output::Restored { store, records: restored });
        }
        self.compare_members(out);
    }

    /// A member was compared with a sound one, or with everybody there is.
    fn trust(&mut self, store: StoreId, out: &mut Vec<Output>) {
        let others = self.replicas.members().filter(|(_, replica)| replica.store != store);
        let all_lost = others.map(|(_, it)| it).all(|it| it.lost || it.doubt == Doubt::Lost);
        let Some((_, replica)) = self.replicas.get_mut(store) else { return };
        let lost = std::mem::take(&mut replica.doubt) == Doubt::Lost && !replica.comparisons.passed;
        out.push(Output::Order { to: replica.address(), order: Order::Trust });
        if lost && all_lost {
            // What is remembered may be newer than what has survived. It is forgotten of every
            // partition, as when an operator gives members up: which keys are whose is not known.
            self.cache.clear();
            out.push(Output::PossibleLoss);
        }
        self.progress(out);
    }
}
