//! What an operator does meanwhile: drains nodes and puts them back, changes the number of copies;
//! and when the leader's disk was lost, starts empty stores last.

use super::members::Saying;
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

    /// Whether a node is not started yet, or is stopped again. Neither an empty leader nor an empty
    /// store knows that there was a cluster: alone with each other they would begin another. So after
    /// the loss of the leader's disk those come last, when a store with data has been there.
    pub(super) fn holds_back(&mut self, node: usize, saying: &Saying) -> bool {
        let empty = matches!(saying, Saying::Register { cluster: None, .. });
        let lost = self.counts.metadata_losses > 0 && self.metadata.state.cluster.is_none();
        let others = self.nodes.iter().any(|node| node.cluster.is_some());
        let warned =
            self.leader.as_ref().is_some_and(|leader| leader.membership.refusal().is_some());
        let held = empty && lost && others && !warned;
        if held {
            let now = self.now;
            self.trace.line(now, || format!("node {node} is held back"));
        }
        held
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
