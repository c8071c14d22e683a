//! Records that a copy has and cannot read (rule 28).
//!
//! A member finds out when a client's read asks it, or when it gives a copy of the partition. Either
//! way the record is read from another member and written anew where it cannot be read. A copy that
//! lacks a record never becomes a member: it would answer that there is no such key. So it is made
//! again after a while, when the record may have been written anew, from each member in turn.
//!
//! A record that no readable member can read is logged and counted until somebody can, or until it
//! is overwritten: as long as it is there, no copy of the partition can be made.

use std::time::Duration;

use crate::types::{KeyHash, Member};

use super::Partition;
use super::io::{Order, Output, Write};
use super::keys::KeyRead;
use super::replicas::Slots;

/// How long copies are asked for a record that another could not read.
const PATIENCE: Duration = Duration::from_secs(5);

impl KeyRead {
    /// A copy has the record and cannot read it.
    fn cannot_be_read_at(&mut self, slot: usize) {
        let slot = Slots::one(slot);
        self.tried.insert(slot);
        self.failed.insert(slot);
        self.damaged.insert(slot);
    }

    fn waits_for_another_than(&self, slot: usize) -> bool {
        self.asked.is_some_and(|(asked, _)| asked != slot)
    }
}

impl Partition {
    /// A member could not read a record of which it was to give a copy. The others are asked, as they
    /// would be for a client.
    pub(super) fn unreadable(&mut self, at: Member, key_hash: KeyHash, out: &mut Vec<Output>) {
        let member = self.replicas.get(at.store);
        let member = member.filter(|(_, it)| it.is_member() && it.address() == at);
        // What is being written anew, or must not be, needs nothing else.
        let idle = self.newest_unsettled(key_hash).is_none() && !self.frozen.contains(&key_hash);
        let Some((slot, _)) = member.filter(|_| self.serving && idle) else { return };
        let read = self.keys.entry(key_hash).or_default().read.get_or_insert_with(KeyRead::default);
        read.cannot_be_read_at(slot);
        if read.waits_for_another_than(slot) {
            return;
        }
        self.note_deadline(self.now + PATIENCE);
        self.copy_failed(key_hash, out);
    }

    /// Copies that cannot read a record get it from one that can.
    pub(super) fn restore(&self, damaged: Slots, write: &Write, out: &mut Vec<Output>) {
        for (slot, replica) in self.replicas.members() {
            if damaged.contains(Slots::one(slot)) && self.state_of(replica.store).connected {
                let order = Order::Restore(write.clone());
                out.push(Output::Order { to: replica.address(), order });
            }
        }
    }

    /// Every copy that may be read was asked for a record, and these cannot read it.
    pub(super) fn nobody_answers(
        &mut self,
        key_hash: KeyHash,
        (damaged, readable): (Slots, Slots),
        out: &mut Vec<Output>,
    ) {
        let all = readable != Slots::NONE && damaged.contains(readable);
        if all && self.unreadable.insert(key_hash) {
            out.push(Output::Unreadable(key_hash));
        }
    }

    /// Somebody could read it, or it was overwritten.
    pub(super) fn is_readable(&mut self, key_hash: KeyHash) {
        self.unreadable.remove(&key_hash);
    }
}
