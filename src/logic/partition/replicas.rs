//! The copies of a partition as the leader sees them: who is a member, who is being filled, who
//! can be asked.

use std::collections::BTreeMap;

use crate::types::{Member, Moment, StoreId, Token, Version};

use super::doubt::Comparisons;
use super::io::{Attempt, Write};
use crate::logic::comparison::Doubt;
use crate::logic::mutants::{self, Mutant};

/// How many copies a partition can deal with at once: seven members, their replacements, and room.
pub(super) const MAX_SLOTS: usize = 16;

/// A set of slots, a bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Slots(u32);

impl Slots {
    pub(super) const NONE: Self = Self(0);
    /// A slot that no copy is ever in: a set with it is contained in none that copies made.
    pub(super) const VACANT: Self = Self(1 << MAX_SLOTS);

    pub(super) fn one(slot: usize) -> Self {
        Self(1u32.checked_shl(u32::try_from(slot).unwrap_or(u32::MAX)).unwrap_or(0))
    }

    pub(super) fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    pub(super) fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    pub(super) fn insert(&mut self, other: Self) {
        self.0 |= other.0;
    }

    pub(super) fn remove(&mut self, other: Self) {
        self.0 &= !other.0;
    }
}

/// How far a shadow copy has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filling {
    /// The source's records are being copied.
    Copying,
    /// They are all there; the order to finish is on its way.
    Finishing,
    /// It is whole, and tells which unsettled versions it was given with the copy: where the leader
    /// never learnt what one of them says, this may be the only copy that does.
    Telling,
    /// It holds everything but, perhaps, what is missing.
    Finished,
}

/// What a copy is to the partition.
#[derive(Clone, Debug)]
pub(super) enum Role {
    /// In the committed in-sync set.
    Member,
    /// Admitted and being filled (`C` of the rules).
    CatchingUp {
        /// How far it has come.
        filling: Filling,
        /// Settled writes it has not acknowledged (rule 18), each until it does.
        missing: BTreeMap<Version, Write>,
        /// Bytes of those.
        missing_bytes: usize,
    },
}

/// One copy.
#[allow(clippy::struct_excessive_bools, reason = "independent facts, each told on its own")]
#[derive(Clone, Debug)]
pub(super) struct Replica {
    pub(super) store: StoreId,
    pub(super) token: Token,
    pub(super) role: Role,
    /// It has answered the current attempt of this epoch's fence.
    pub(super) peered: bool,
    /// Its records have been merged once in this epoch: what it reports later and is not unsettled
    /// has settled meanwhile.
    pub(super) merged: bool,
    /// It said that it does not hold the partition, or would not take a write: no authority.
    pub(super) disowned: bool,
    /// When it last said so.
    pub(super) disowned_at: Moment,
    /// It said that it does not hold the partition, which it once did: its disk is damaged, and there
    /// is nothing to be had from it.
    pub(super) lost: bool,
    /// How far it is to be trusted, as it said when it was fenced.
    pub(super) doubt: Doubt,
    /// With whom it was compared since.
    pub(super) comparisons: Comparisons,
    /// It was told to begin since it was connected.
    pub(super) begun: bool,
    /// The attempt of the fence it is to answer.
    pub(super) attempt: Attempt,
    /// The garbage floor that it was told of since it was connected, or had then.
    pub(super) floor: Version,
}

impl Replica {
    pub(super) fn member(store: StoreId, token: Token) -> Self {
        Self {
            store,
            token,
            role: Role::Member,
            peered: false,
            merged: false,
            disowned: false,
            disowned_at: Moment::ZERO,
            lost: false,
            doubt: Doubt::None,
            comparisons: Comparisons::default(),
            begun: false,
            attempt: Attempt(0),
            floor: Version::ZERO,
        }
    }

    pub(super) fn catching_up(store: StoreId, token: Token, floor: Version) -> Self {
        let role = Role::CatchingUp {
            filling: Filling::Copying,
            missing: BTreeMap::new(),
            missing_bytes: 0,
        };
        // It takes live writes from its first order on, and answers no fence.
        Self { role, peered: true, floor, ..Self::member(store, token) }
    }

    /// A member that said it has lost its copy.
    pub(super) fn lost(store: StoreId, token: Token, now: Moment) -> Self {
        Self { lost: true, disowned: true, disowned_at: now, ..Self::member(store, token) }
    }

    /// It has said that it does not hold the partition, or would not take a write.
    pub(super) fn disown(&mut self, now: Moment) {
        self.disowned = true;
        self.disowned_at = now;
    }

    pub(super) fn is_member(&self) -> bool {
        matches!(self.role, Role::Member)
    }

    pub(super) fn address(&self) -> Member {
        Member { store: self.store, token: self.token }
    }

    /// Rule 21, but for the unsettled: finished, and nothing settled is missing.
    pub(super) fn is_complete(&self) -> bool {
        match &self.role {
            Role::Member => false,
            Role::CatchingUp { filling, missing, .. } => {
                let early = mutants::enabled(Mutant::EarlyMember);
                early || (*filling == Filling::Finished && missing.is_empty())
            }
        }
    }
}

#[allow(clippy::struct_excessive_bools, reason = "independent facts, each told on its own")]
/// What the partition knows of a store, whether it holds a copy or not.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct StoreState {
    pub(super) connected: bool,
    /// Was connected at some time in this epoch, so its absence is a failure and no late start.
    pub(super) seen: bool,
    pub(super) suspected: bool,
    pub(super) evicted: bool,
    pub(super) full: bool,
    /// It is slower than the others by far.
    pub(super) slow: bool,
    /// When it may be admitted again after a failure, and how long it waited for that.
    pub(super) admit_after: Moment,
    pub(super) failures: u32,
}

impl StoreState {
    pub(super) fn is_live(self) -> bool {
        self.connected && !self.suspected && !self.evicted
    }
}

/// The copies, each in a slot that stays its own for as long as it is one.
#[derive(Clone, Debug, Default)]
pub(super) struct Replicas {
    slots: Vec<Option<Replica>>,
}

impl Replicas {
    pub(super) fn insert(&mut self, replica: Replica) -> Option<usize> {
        let free = self.slots.iter().position(Option::is_none);
        match free {
            Some(slot) => {
                *self.slots.get_mut(slot)? = Some(replica);
                Some(slot)
            }
            None if self.slots.len() < MAX_SLOTS => {
                self.slots.push(Some(replica));
                Some(self.slots.len() - 1)
            }
            None => None,
        }
    }

    /// Frees the slot of a store.
    pub(super) fn remove(&mut self, store: StoreId) -> Option<(usize, Replica)> {
        let slot = self.slot_of(store)?;
        let replica = self.slots.get_mut(slot)?.take()?;
        Some((slot, replica))
    }

    pub(super) fn slot_of(&self, store: StoreId) -> Option<usize> {
        self.slots
            .iter()
            .position(|slot| slot.as_ref().is_some_and(|replica| replica.store == store))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &Replica)> {
        self.slots
            .iter()
            .enumerate()
            .filter_map(|(slot, replica)| replica.as_ref().map(|replica| (slot, replica)))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (usize, &mut Replica)> {
        self.slots
            .iter_mut()
            .enumerate()
            .filter_map(|(slot, replica)| replica.as_mut().map(|replica| (slot, replica)))
    }

    pub(super) fn get(&self, store: StoreId) -> Option<(usize, &Replica)> {
        self.iter().find(|(_, replica)| replica.store == store)
    }

    pub(super) fn get_mut(&mut self, store: StoreId) -> Option<(usize, &mut Replica)> {
        self.iter_mut().find(|(_, replica)| replica.store == store)
    }

    pub(super) fn in_slot(&self, slot: usize) -> Option<&Replica> {
        self.slots.get(slot)?.as_ref()
    }

    pub(super) fn in_slot_mut(&mut self, slot: usize) -> Option<&mut Replica> {
        self.slots.get_mut(slot)?.as_mut()
    }

    /// The copy of a store, if it is still the one with this token.
    pub(super) fn admitted(
        &mut self,
        store: StoreId,
        token: Token,
    ) -> Option<(usize, &mut Replica)> {
        let any = mutants::enabled(Mutant::AnyToken);
        self.get_mut(store).filter(|(_, replica)| any || replica.token == token)
    }

    pub(super) fn members(&self) -> impl Iterator<Item = (usize, &Replica)> {
        self.iter().filter(|(_, replica)| replica.is_member())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_kept_until_its_copy_goes() {
        let mut replicas = Replicas::default();
        let store = StoreId::from_number;
        assert_eq!(replicas.insert(Replica::member(store(1), Token(1))), Some(0));
        assert_eq!(replicas.insert(Replica::member(store(2), Token(2))), Some(1));
        assert_eq!(replicas.remove(store(1)).map(|(slot, _)| slot), Some(0));
        assert_eq!(replicas.slot_of(store(2)), Some(1));
        assert_eq!(replicas.insert(Replica::member(store(3), Token(3))), Some(0));
        assert!(replicas.admitted(store(3), Token(1)).is_none());
    }

    #[test]
    fn slots_are_bounded() {
        let mut replicas = Replicas::default();
        for number in 0..MAX_SLOTS as u128 {
            let replica = Replica::member(StoreId::from_number(number), Token(1));
            assert!(replicas.insert(replica).is_some());
        }
        assert!(replicas.insert(Replica::member(StoreId::from_number(99), Token(1))).is_none());
    }
}
