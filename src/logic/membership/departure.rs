//! Nodes that ask to go.
//!
//! A node may go as soon as every partition keeps enough live copies without it and without the
//! others that are going. If some partitions would not, the ring proposes other stores for those,
//! and only those, until they are copied or the time is up. If too few nodes stay to hold anything,
//! the whole cluster is being stopped, and all go at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Membership, Output, Short};
use crate::logic::detector::{Input, Status};
use crate::logic::placement::place;
use crate::types::{BootId, Moment, PartitionId, StoreId};

/// A node that asked to go.
#[derive(Debug)]
struct Departure {
    boot: BootId,
    since: Moment,
    /// Told last, if it was told anything.
    left: Option<usize>,
    let_go: bool,
}

/// The nodes that asked to go.
#[derive(Debug, Default)]
pub(super) struct Departures {
    going: BTreeMap<StoreId, Departure>,
    /// The partitions for which the ring proposes stores that stay.
    moved: Vec<PartitionId>,
}

impl Departures {
    /// The store has come back, or has been away for so long that it does not matter.
    pub(super) fn forget(&mut self, store: StoreId) {
        self.going.remove(&store);
    }

    /// Whether the store was told that it may stop.
    pub(super) fn was_let_go(&self, store: StoreId) -> bool {
        self.going.get(&store).is_some_and(|departure| departure.let_go)
    }

    /// The ring's proposals were made anew, for all partitions.
    pub(super) fn table_changed(&mut self) {
        self.moved.clear();
    }

    fn stores(&self) -> BTreeSet<StoreId> {
        self.going.keys().copied().collect()
    }

    fn waiting(&self) -> impl Iterator<Item = (StoreId, &Departure)> {
        let waiting = self.going.iter().filter(|(_, departure)| !departure.let_go);
        waiting.map(|(store, departure)| (*store, departure))
    }
}

impl Membership {
    pub(super) fn leave(
        &mut self,
        now: Moment,
        store: StoreId,
        boot: BootId,
        short: Short<'_>,
        out: &mut Vec<Output>,
    ) {
        let asked_before = self.departures.going.get(&store).is_some_and(|known| !known.let_go);
        if self.standing(store, boot).is_none() || self.cluster.is_none() {
            out.push(Output::Departure { store, boot, partitions_left: 0, may_stop: true });
            return;
        }
        if !asked_before {
            let departure = Departure { boot, since: now, left: None, let_go: false };
            self.departures.going.insert(store, departure);
            self.detect(now, Input::Leaving(store), out);
        }
        self.review_departures(now, short, out);
    }

    /// Lets go who may go, and sees to it that the others soon may.
    pub(super) fn review_departures(
        &mut self,
        now: Moment,
        short: Short<'_>,
        out: &mut Vec<Output>,
    ) {
        if self.departures.waiting().next().is_none() {
            self.restore_table(out);
            return;
        }
        let missing = short(&self.departures.stores());
        let all_go = missing.is_empty() || self.staying() < self.settings.floor;
        let limit = self.settings.departure;
        let ready: Vec<(StoreId, BootId)> = self
            .departures
            .waiting()
            .filter(|(_, departure)| all_go || now.since(departure.since) >= limit)
            .map(|(store, departure)| (store, departure.boot))
            .collect();
        for (store, boot) in ready {
            self.let_go(now, store, boot, missing.len(), out);
        }
        if self.departures.waiting().next().is_some() {
            self.move_away(missing, out);
        }
    }

    /// Live stores that take copies and have not asked to go.
    fn staying(&self) -> usize {
        let drained = |store: &StoreId| self.members.get(store).is_some_and(|info| info.drained);
        let live = self.detector.stores().filter(|(_, status)| *status == Status::Live);
        let stays = |store: &StoreId| !self.departures.going.contains_key(store) && !drained(store);
        live.filter(|(store, _)| stays(store)).count()
    }

    fn let_go(
        &mut self,
        now: Moment,
        store: StoreId,
        boot: BootId,
        partitions_left: usize,
        out: &mut Vec<Output>,
    ) {
        if let Some(departure) = self.departures.going.get_mut(&store) {
            departure.let_go = true;
        }
        self.detect(now, Input::Left(store), out);
        out.push(Output::Departure { store, boot, partitions_left, may_stop: true });
    }

    /// Proposes stores that stay for the partitions that need them, and tells those who wait.
    fn move_away(&mut self, missing: Vec<PartitionId>, out: &mut Vec<Output>) {
        for (store, departure) in &mut self.departures.going {
            if !departure.let_go && departure.left != Some(missing.len()) {
                departure.left = Some(missing.len());
                out.push(Output::Departure {
                    store: *store,
                    boot: departure.boot,
                    partitions_left: missing.len(),
                    may_stop: false,
                });
            }
        }
        // What was begun to be moved goes on: a partition that has just got enough copies must not
        // be given back to a store that is going.
        let news = missing.iter().any(|partition| !self.departures.moved.contains(partition));
        let Some(cluster) = self.cluster.filter(|_| news) else { return };
        let mut moved = std::mem::take(&mut self.departures.moved);
        moved.extend(missing);
        moved.sort_unstable();
        moved.dedup();
        let stay: Vec<StoreId> = self
            .placed()
            .into_iter()
            .filter(|store| !self.departures.going.contains_key(store))
            .collect();
        let without = place(cluster.partitions, &stay, self.settings.copies);
        out.push(Output::Targets(Arc::new(self.table.with_rows_of(&without, &moved))));
        self.departures.moved = moved;
    }

    /// Nobody waits any more: the ring proposes what it did, unless it is about to propose anew.
    fn restore_table(&mut self, out: &mut Vec<Output>) {
        let nobody = self.departures.going.is_empty() && self.table_due.is_none();
        if !self.departures.moved.is_empty() && nobody {
            self.departures.moved.clear();
            out.push(Output::Targets(Arc::clone(&self.table)));
        }
    }
}
