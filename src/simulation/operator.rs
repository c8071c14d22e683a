//! What an operator does meanwhile: drains nodes and puts them back, changes the number of copies.

use super::world::World;
use crate::logic::membership::{Input, Wish};
use crate::types::StoreId;

impl World {
    /// One command, if the leader is there to take it and grants it.
    pub(super) fn operate(&mut self, node: usize) {
        if self.random.percent(30) {
            let (floor, most) = (self.profile.floor as u64, self.nodes.len().min(4) as u64);
            let copies = self.random.between(floor, most.max(floor));
            self.change_copies(usize::try_from(copies).unwrap_or(self.profile.copies));
            return;
        }
        let store = self.nodes[node].store.id;
        let member = self.metadata.state.members.get(&store);
        let drained = member.is_some_and(|info| info.drained);
        self.wish(store, if drained { Wish::Undrain } else { Wish::Drain });
    }

    /// The number is in a file: a leader that begins later finds it there.
    fn change_copies(&mut self, copies: usize) {
        self.profile.copies = copies;
        self.step_membership(Input::Copies { copies, floor: self.profile.floor });
    }

    fn wish(&mut self, store: StoreId, wish: Wish) {
        let Some(leader) = &self.leader else { return };
        if leader.membership.objection_to(store, wish).is_none() {
            self.step_membership(Input::Operator { store, wish });
        }
    }

    /// At the end every node is wanted again.
    pub(super) fn undrain_all(&mut self) {
        let members = self.metadata.state.members.iter();
        let drained: Vec<_> =
            members.filter(|(_, info)| info.drained).map(|(store, _)| *store).collect();
        for store in drained {
            self.wish(store, Wish::Undrain);
        }
    }
}
