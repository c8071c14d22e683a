//! Members that fail, copies that are filled, and the configurations that follow.
//!
//! Every change of the in-sync set is proposed, made durable elsewhere, and only then acted on. One
//! proposal is under way at a time.

use std::time::Duration;

use smallvec::SmallVec;

use crate::types::{Configuration, ConfigurationVersion, Member, Moment, StoreId, Token};

use super::Partition;
use super::io::{Attempt, Order, Output};
use super::replicas::{Filling, Replica, Role, Slots};
use crate::logic::mutants::{self, Mutant};

/// How long a store that failed waits before it is admitted again; doubles with each failure.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
/// The longest it waits.
const LAST_BACKOFF: Duration = Duration::from_mins(1);
/// How long a member that refused something is left alone.
const ASK_AGAIN: Duration = Duration::from_secs(1);

impl Partition {
    /// Whether a member may be removed for its failure (rules 7 and 13).
    fn has_failed(&self, replica: &Replica) -> bool {
        let state = self.state_of(replica.store);
        let may_still_come = !state.seen && self.now.since(self.began) < self.settings.absent_grace;
        replica.disowned
            || state.evicted
            || state.suspected
            || (!state.connected && !may_still_come)
    }

    /// Proposes the next configuration, if there is reason for one and none is under way.
    pub(super) fn reconfigure(&mut self, out: &mut Vec<Output>) {
        if self.proposed.is_some() || !self.told {
            return;
        }
        if self.unconfirmed {
            self.confirm(out);
        }
        if !self.serving {
            return;
        }
        match self.next_members() {
            Some(members) => {
                let version = self.configuration.version.next();
                self.propose(Configuration { version, members }, out);
            }
            None => self.dismiss_strangers(out),
        }
    }

    fn next_members(&self) -> Option<SmallVec<[Member; 4]>> {
        let current = &self.configuration.members;
        let added = self
            .replicas
            .iter()
            .find(|(_, replica)| {
                let quiet = self.unsettled.len() == 0 || !mutants::enabled(Mutant::WaitForQuiet);
                quiet
                    && replica.is_complete()
                    && replica.peered
                    && self.state_of(replica.store).is_live()
            })
            .map(|(_, replica)| replica.address());
        let mut next = current.clone();
        // A store that had lost its copy takes the place of the member that it was.
        next.retain(|member| added.is_none_or(|added| added.store != member.store));
        next.extend(added);
        self.drop_failed(&mut next, added);
        self.drop_surplus(&mut next, added);
        self.drop_slow(&mut next, added);
        if !next.iter().any(|member| current.contains(member)) {
            next.extend(current.iter().copied());
        }
        (next != *current && self.have_begun(&next)).then_some(next)
    }

    /// The first configuration may name members that never began. No later one may: there they
    /// would count as members that lost what they held, and as copies that survive the others.
    fn have_begun(&self, next: &[Member]) -> bool {
        next.iter().all(|member| {
            let replica = self.replicas.get(member.store);
            replica.is_some_and(|(_, replica)| !self.never_began(replica))
        })
    }

    /// Whether a member of the first configuration has not been heard of yet. If it failed, it goes
    /// as soon as a spare is there: no other could come before.
    fn never_began(&self, replica: &Replica) -> bool {
        let first = self.configuration.version == ConfigurationVersion::FIRST;
        first && replica.is_member() && !replica.merged
    }

    /// Whether a member of the next set is there to be read and written, and holds for certain what
    /// those did that go: one that stopped uncleanly is compared before it outlives another.
    fn serves(&self, member: &Member, added: Option<Member>) -> bool {
        Some(*member) == added || self.sound().any(|(_, sound)| sound.store == member.store)
    }

    /// Rule 8: a shrinking set keeps the floor's worth of live members, or stays as it is. A spare
    /// takes the place of a failed one in one change.
    fn drop_failed(&self, next: &mut SmallVec<[Member; 4]>, added: Option<Member>) {
        let failed: SmallVec<[&Replica; 4]> = self
            .replicas
            .members()
            .map(|(_, replica)| replica)
            .filter(|replica| self.has_failed(replica))
            .collect();
        if failed.is_empty() {
            return;
        }
        let floor = if mutants::enabled(Mutant::BelowFloor) { 1 } else { self.settings.floor };
        let spare = added.is_some();
        if next.iter().filter(|member| self.serves(member, added)).count() >= floor {
            let crowded = next.len() > self.settings.copies;
            let needed = (spare && crowded) || self.is_held_up_by(&failed);
            next.retain(|member| {
                let failed = failed.iter().find(|replica| replica.store == member.store);
                // Who has lost its copy cannot come back with it: it leaves, to be filled anew.
                failed.is_none_or(|replica| {
                    let gone = replica.lost || self.state_of(replica.store).evicted;
                    !(needed || gone || (spare && self.never_began(replica)))
                })
            });
        } else if spare && next.len() > self.settings.floor {
            let first = failed
                .iter()
                .max_by_key(|replica| self.state_of(replica.store).evicted)
                .map(|replica| replica.store);
            next.retain(|member| Some(member.store) != first);
        }
    }

    /// Whether anything waits for an acknowledgement or an answer of these members, and of them
    /// alone. Without need nobody is removed: who returns before the next write has missed nothing.
    /// And nobody is removed on the word of members that are silent themselves: they may be gone for
    /// good, and he who is late the only one left.
    fn is_held_up_by(&self, failed: &[&Replica]) -> bool {
        let (mut late, mut kept) = (Slots::NONE, Slots::NONE);
        let mut all_peered = true;
        for (slot, replica) in self.replicas.members() {
            if failed.iter().any(|failed| failed.store == replica.store) {
                late.insert(Slots::one(slot));
            } else {
                kept.insert(Slots::one(slot));
                all_peered &= replica.peered;
            }
        }
        let mut lacking = self.unsettled.iter().map(|(_, entry)| entry.acknowledged);
        lacking.any(|acknowledged| acknowledged.contains(kept) && !acknowledged.contains(late))
            || (all_peered && !self.is_whole() && self.has_queues())
    }

    /// More members than wanted: those the ring does not propose go, failed ones first, but only
    /// where as many as wanted serve without them. Who is away for a moment, or may still come after
    /// a start of the leader, is no reason to let go of another.
    fn drop_surplus(&self, next: &mut SmallVec<[Member; 4]>, added: Option<Member>) {
        let wanted = self.settings.copies.max(self.settings.floor);
        while next.len() > wanted {
            let leaving = next
                .iter()
                .filter(|member| Some(**member) != added && !self.target.contains(&member.store))
                .max_by_key(|member| !self.serves(member, added))
                .copied();
            let Some(leaving) = leaving else { return };
            let others = next.iter().filter(|member| **member != leaving);
            if others.filter(|member| self.serves(member, added)).count() < wanted {
                return;
            }
            next.retain(|member| *member != leaving);
        }
    }

    /// Rule 7: a member that is slower than the others by far goes where enough serve without it.
    fn drop_slow(&self, next: &mut SmallVec<[Member; 4]>, added: Option<Member>) {
        for slow in next.clone() {
            let others = next.iter().filter(|other| **other != slow);
            let serving = others.filter(|other| self.serves(other, added)).count();
            if self.state_of(slow.store).slow && serving >= self.settings.floor {
                next.retain(|member| *member != slow);
            }
        }
    }

    pub(super) fn propose(&mut self, configuration: Configuration, out: &mut Vec<Output>) {
        out.push(Output::Propose(configuration.clone()));
        self.proposed = Some(configuration);
        self.require();
    }

    /// Rule 6: what settles a write is both the committed set and the proposed one, each member under
    /// its token. A copy that is being filled in the place of a member that lost its own cannot speak
    /// for it: until it is a member itself it has no authority, should all others be lost.
    fn require(&mut self) {
        self.required = Slots::NONE;
        let proposed = self.proposed.iter().flat_map(|proposed| &proposed.members);
        let proposed: SmallVec<[&Member; 4]> = match self.proposed {
            Some(_) if mutants::enabled(Mutant::OldSetOnly) => SmallVec::new(),
            _ => proposed.collect(),
        };
        let removed_already = self.proposed.is_some() && mutants::enabled(Mutant::RemovedInMemory);
        let committed = self.configuration.members.iter().filter(|_| !removed_already);
        for member in committed.chain(proposed) {
            let replica = self.replicas.get(member.store);
            let itself = replica.filter(|(_, replica)| replica.token == member.token);
            self.required.insert(itself.map_or(Slots::VACANT, |(slot, _)| Slots::one(slot)));
        }
    }

    pub(super) fn configured(&mut self, version: ConfigurationVersion, out: &mut Vec<Output>) {
        let Some(proposed) = self.proposed.take_if(|proposed| proposed.version == version) else {
            return;
        };
        let before = std::mem::replace(&mut self.configuration, proposed);
        // What an operator decided is to be confirmed like a configuration made anew.
        let forced = self.forced == Some(version);
        self.forced = self.forced.filter(|_| forced);
        (self.told, self.unconfirmed) = (false, forced);
        for member in &before.members {
            if !self.configuration.contains(member.store) {
                self.dismiss(member.store);
            }
        }
        if forced {
            self.take_in_forced(out);
        }
        let added: SmallVec<[StoreId; 2]> = self
            .configuration
            .members
            .iter()
            .filter(|member| !forced && !before.members.contains(member))
            .map(|member| member.store)
            .collect();
        for store in added {
            self.welcome(store, out);
        }
        self.require();
        self.tell_members(out);
        self.begin_serving(out);
        self.progress(out);
    }

    /// A copy has become a member. It was filled in this epoch, so it has answered it.
    fn welcome(&mut self, store: StoreId, out: &mut Vec<Output>) {
        let connected = self.state_of(store).connected;
        let Some((_, replica)) = self.replicas.get_mut(store) else { return };
        replica.role = Role::Member;
        replica.merged = true;
        if !replica.peered && connected {
            self.fence(store, out);
        }
    }

    /// A member is one no longer.
    fn dismiss(&mut self, store: StoreId) {
        let failed = self.state_of(store).slow
            || self.replicas.get(store).is_some_and(|(_, replica)| self.has_failed(replica));
        let Some((slot, _)) = self.replicas.remove(store) else { return };
        if !mutants::enabled(Mutant::KeptAcknowledgements) {
            self.unsettled.forget_slot(slot);
        }
        self.forget_reads_of(slot);
        if failed {
            self.back_off(store);
        }
        if self.state_of(store).connected {
            self.strangers.insert(store);
        }
    }

    fn back_off(&mut self, store: StoreId) {
        let now = self.now;
        let state = self.stores.entry(store).or_default();
        if now.since(state.admit_after) > LAST_BACKOFF {
            state.failures = 0;
        }
        let doubled = FIRST_BACKOFF.saturating_mul(1 << state.failures.min(6));
        state.admit_after = now + doubled.min(LAST_BACKOFF);
        state.failures += 1;
    }

    /// Rule 23: stores that hold the partition without need may drop it, by a durable configuration
    /// that does not name them, while there are as many members as there should be.
    fn dismiss_strangers(&mut self, out: &mut Vec<Output>) {
        if self.strangers.is_empty() || self.sound().count() < self.settings.copies {
            return;
        }
        let order = Order::Remove(self.configuration.version);
        for store in std::mem::take(&mut self.strangers) {
            let returns = self.target.contains(&store) || self.replicas.slot_of(store).is_some();
            if !returns && self.state_of(store).connected {
                let to = Member { store, token: Token::default() };
                out.push(Output::Order { to, order: order.clone() });
            }
        }
    }

    // Copies in the making.

    /// A store that the ring proposes, that holds no copy yet, and that could be filled now.
    pub fn wanted(&self) -> Option<StoreId> {
        let filling = self.replicas.iter().any(|(_, replica)| !replica.is_member());
        if !self.serving || filling || self.sound().next().is_none() {
            return None;
        }
        self.target.iter().copied().find(|store| self.may_admit(*store, self.now))
    }

    fn may_admit(&self, store: StoreId, now: Moment) -> bool {
        let state = self.state_of(store);
        // Who has lost its copy and may not leave, since too few others serve, is filled in its place.
        let lost =
            |replica: &Replica| replica.is_member() && replica.lost && self.proposed.is_none();
        let absent = self.replicas.get(store).is_none_or(|(_, replica)| lost(replica));
        absent && state.is_live() && !state.full && !state.slow && now >= state.admit_after
    }

    /// Rules 16 to 19: a fresh token, a source, and everything unsettled from the start.
    pub(super) fn admit(&mut self, store: StoreId, out: &mut Vec<Output>) {
        if self.wanted().is_none() || !self.may_admit(store, self.now) {
            return;
        }
        let sources: SmallVec<[StoreId; 4]> =
            self.sound().map(|(_, replica)| replica.store).collect();
        // Another source each time: one may have a record that it cannot read.
        let tries = usize::try_from(self.next_token).unwrap_or(0);
        let turn = (self.id.index() + tries) % sources.len().max(1);
        let Some(source) = sources.get(turn).copied() else { return };
        let token = self.fresh_token();
        if let Some((slot, _)) = self.replicas.remove(store) {
            self.unsettled.forget_slot(slot);
            self.forget_reads_of(slot);
        }
        let floor = self.garbage.floor;
        let copy = Replica::catching_up(store, token, floor);
        let Some(slot) = self.replicas.insert(copy) else { return };
        self.require();
        self.strangers.remove(&store);
        let order = Order::Start { source, floor };
        out.push(Output::Order { to: Member { store, token }, order });
        if mutants::enabled(Mutant::MissingUnsettled) {
            let entries = self.unsettled.iter_mut();
            entries.for_each(|(_, entry)| entry.acknowledged.insert(Slots::one(slot)));
        }
        self.resend_all_to(slot, out);
        self.fetch_contents(out);
    }

    pub(super) fn copied(
        &mut self,
        store: StoreId,
        token: Token,
        complete: bool,
        out: &mut Vec<Output>,
    ) {
        let Some((_, replica)) = self.replicas.admitted(store, token) else { return };
        let Role::CatchingUp { filling, .. } = &mut replica.role else { return };
        if complete && *filling == Filling::Copying {
            *filling = Filling::Finishing;
            out.push(Output::Order { to: replica.address(), order: Order::Finish });
        } else if !complete {
            self.abandon_copy(store, out);
        }
    }

    pub(super) fn finished(&mut self, store: StoreId, token: Token, out: &mut Vec<Output>) {
        let Some((_, replica)) = self.replicas.admitted(store, token) else { return };
        let Role::CatchingUp { filling, .. } = &mut replica.role else { return };
        if *filling == Filling::Finishing {
            *filling = Filling::Telling;
            replica.attempt = Attempt(replica.attempt.0 + 1);
            let order = Order::Fence(replica.attempt);
            out.push(Output::Order { to: replica.address(), order });
        }
    }

    /// Gives up a copy in the making, token and all. One that is being proposed cannot be taken
    /// back: it becomes a member, and has to be fenced like any that was away.
    pub(super) fn abandon_copy(&mut self, store: StoreId, out: &mut Vec<Output>) {
        if self.proposed.as_ref().is_some_and(|proposed| proposed.contains(store)) {
            if let Some((_, replica)) = self.replicas.get_mut(store) {
                replica.peered = false;
            }
            return;
        }
        let Some((slot, _)) = self.replicas.remove(store) else { return };
        if !mutants::enabled(Mutant::KeptAcknowledgements) {
            self.unsettled.forget_slot(slot);
        }
        self.forget_reads_of(slot);
        self.back_off(store);
        let is_still = self.configuration.token_of(store);
        if let Some(token) = is_still.filter(|_| !mutants::enabled(Mutant::ForgottenMember)) {
            // It was filled in the place of the member that it still is: one that lost its copy.
            self.replicas.insert(Replica::lost(store, token, self.now));
            self.require();
        } else if self.state_of(store).connected {
            self.strangers.insert(store);
        }
        self.retry_reads(Duration::MAX, out);
    }

    /// The ring has changed its mind about stores that are still being filled.
    pub(super) fn abandon_unwanted_copies(&mut self, out: &mut Vec<Output>) {
        let unwanted: SmallVec<[StoreId; 2]> = self
            .replicas
            .iter()
            .filter(|(_, replica)| !replica.is_member() && !self.target.contains(&replica.store))
            .map(|(_, replica)| replica.store)
            .collect();
        for store in unwanted {
            self.abandon_copy(store, out);
        }
    }

    /// A store would not take what it was sent: it does not hold what it should, or has no room.
    pub(super) fn refused(&mut self, store: StoreId, token: Token, out: &mut Vec<Output>) {
        let Some((_, replica)) = self.replicas.admitted(store, token) else { return };
        if replica.is_member() {
            replica.disown(self.now);
            self.retry_reads(Duration::MAX, out);
        } else {
            self.abandon_copy(store, out);
        }
        self.reconfigure(out);
    }

    /// Members that refused something are asked again after a while: a disk may have had no room
    /// for a moment too short for a heartbeat to tell.
    pub(super) fn ask_disowned_again(&mut self, out: &mut Vec<Output>) {
        let due: SmallVec<[StoreId; 2]> = self
            .replicas
            .members()
            .map(|(_, replica)| replica)
            .filter(|replica| replica.disowned && self.state_of(replica.store).is_live())
            .filter(|replica| self.now.since(replica.disowned_at) >= ASK_AGAIN)
            .map(|replica| replica.store)
            .collect();
        for store in due {
            self.fence_again(store, out);
        }
    }

    /// A member that had no room has some: what it refused is sent again after a fence.
    pub(super) fn fence_again(&mut self, store: StoreId, out: &mut Vec<Output>) {
        let Some((_, replica)) = self.replicas.get_mut(store) else { return };
        if replica.is_member() && replica.disowned {
            (replica.disowned, replica.lost) = (false, false);
            self.fence(store, out);
        }
    }
}
