//! What operators decide about stores: to take one off the ring for good, to put it back, to forget
//! it.
//!
//! A *drained* store is not proposed by the ring, whatever becomes of its node, until an operator
//! puts it back. That is durable, so it outlives the leader. The store stays a member, and in the
//! in-sync sets, until its copies have been made elsewhere: nothing is given up for it.
//!
//! A *decommissioned* store belongs to the cluster no more, and never again: what it holds is out of
//! date, and a node that brings it back is told so for good.

use super::{Change, MemberInfo, Membership, Output};
use crate::logic::detector::{self, Status};
use crate::types::{Moment, StoreId};

/// What an operator wants of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Move everything off it, and keep it off the ring.
    Drain,
    /// Put it back on the ring.
    Undrain,
    /// Forget it.
    Decommission {
        /// Partitions that count it as a copy.
        held: usize,
    },
}

/// Why a wish is not granted. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Objection {
    /// The store is not a member.
    #[error("no node {0} belongs to this cluster")]
    Unknown(StoreId),
    /// Its copies would have no place to go.
    #[error("{stay} nodes would stay, and each value is to have {copies} copies")]
    TooFewNodes {
        /// Nodes on the ring without it.
        stay: usize,
        /// Copies each value should have.
        copies: usize,
    },
    /// It is in use.
    #[error("node {0} is in use: it was not drained and has not been away for long")]
    InUse(StoreId),
    /// Partitions still count on it.
    #[error("{held} partitions still count the copy on node {store}")]
    StillNeeded {
        /// The store.
        store: StoreId,
        /// How many.
        held: usize,
    },
}

impl Membership {
    /// Why an operator's wish is not granted, if it is not.
    pub fn objection_to(&self, store: StoreId, wish: Wish) -> Option<Objection> {
        let Some(info) = self.members.get(&store) else { return Some(Objection::Unknown(store)) };
        match wish {
            Wish::Drain if !info.drained => {
                let stay = self.placed().into_iter().filter(|placed| *placed != store).count();
                let copies = self.settings.copies;
                (stay < copies).then_some(Objection::TooFewNodes { stay, copies })
            }
            Wish::Drain | Wish::Undrain => None,
            Wish::Decommission { .. } if !info.drained && !self.is_evicted(store) => {
                Some(Objection::InUse(store))
            }
            Wish::Decommission { held } => {
                (held > 0).then_some(Objection::StillNeeded { store, held })
            }
        }
    }

    /// Grants a wish, unless there is an objection.
    pub(super) fn grant(&mut self, store: StoreId, wish: Wish, out: &mut Vec<Output>) {
        if self.objection_to(store, wish).is_some() {
            return;
        }
        match wish {
            Wish::Drain => self.set_drained(store, true, out),
            Wish::Undrain => self.set_drained(store, false, out),
            Wish::Decommission { .. } => self.forget(store, out),
        }
    }

    fn is_evicted(&self, store: StoreId) -> bool {
        matches!(self.detector.status(store), None | Some(Status::Evicted))
    }

    fn set_drained(&mut self, store: StoreId, drained: bool, out: &mut Vec<Output>) {
        let Some(info) = self.members.get(&store).filter(|info| info.drained != drained) else {
            return;
        };
        let info = MemberInfo { drained, ..info.clone() };
        self.remember(store, info, out);
        self.replace_table(out);
    }

    /// Its node, if it still runs, has to register, and will be refused.
    fn forget(&mut self, store: StoreId, out: &mut Vec<Output>) {
        self.members.remove(&store);
        self.forgotten.insert(store);
        self.boots.remove(&store);
        self.departures.forget(store);
        self.detector.step(Moment::ZERO, detector::Input::Forgotten(store));
        out.extend([Output::Persist(vec![Change::Forget(store)]), Output::Unlink(store)]);
    }
}
