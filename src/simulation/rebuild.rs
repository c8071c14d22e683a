//! The leader's disk is lost, and its metadata made anew from what stores know.
//!
//! An operator does that within the promise: not while a store that matters is lost as well, and
//! never before all of them have come. (Whoever is wiped for good he gives up.) Stores are asked as
//! the leader asks them, twice, the second time with a promise of the epoch that is to be.

use std::collections::{BTreeMap, BTreeSet};

use super::world::World;
use crate::logic::membership::{Decisions, Holding, Input, MemberInfo, Rebuild, State, Testimony};
use crate::logic::mutants::{self, Mutant};
use crate::types::{Epoch, Member, PartitionId, StoreId};

impl World {
    /// The leader's disk fails, at once or as soon as the next configuration is durable on it: when
    /// nobody has heard of that yet.
    pub(super) fn doom_metadata(&mut self) {
        let known = !self.metadata.configurations().is_empty();
        if known && self.metadata.state.unconfirmed.is_empty() {
            self.metadata.doomed = true;
            if self.random.percent(30) {
                self.lose_metadata();
            }
        }
    }

    pub(super) fn lose_metadata(&mut self) {
        self.metadata.doomed = false;
        if !self.every_member_exists() {
            return;
        }
        self.counts.metadata_losses += 1;
        self.restart_leader();
        let now = self.now;
        self.trace.line(now, || "the leader loses its disk".into());
        self.metadata.state = State::default();
    }

    fn every_member_exists(&self) -> bool {
        let exists = |partition: PartitionId, member: &Member| {
            let node = self.nodes.iter().find(|node| node.store.id == member.store);
            node.is_some_and(|node| !node.damaged.contains(&(partition, member.token)))
        };
        self.count.all().zip(self.metadata.configurations()).all(|(partition, durable)| {
            let proposed = self.metadata.proposed(partition.index());
            let mut sets = std::iter::once(durable).chain(proposed);
            sets.all(|set| set.members.iter().all(|member| exists(partition, member)))
        })
    }

    /// Whether copies may be lost: not while it is open which of them count.
    pub(super) fn metadata_is_whole(&self) -> bool {
        let state = &self.metadata.state;
        !state.configurations.is_empty() && state.unconfirmed.is_empty() && !self.metadata.doomed
    }

    /// The operator tries to have the metadata made anew, again and again until it works.
    pub(super) fn rebuild_metadata(&mut self) {
        let Some(leader) = &self.leader else { return };
        if leader.membership.refusal().is_none() {
            return;
        }
        let waiting: BTreeSet<StoreId> =
            leader.membership.waiting(self.now).map(|it| it.store).collect();
        let everybody = self.nodes.iter().all(|node| {
            let fresh = node.cluster.is_none();
            let answers = node.up && node.paused_until <= self.now && !node.is_committing();
            fresh || (answers && waiting.contains(&node.store.id))
        });
        if !everybody && !mutants::enabled(Mutant::RebuiltFromSome) {
            return;
        }
        let decisions = Decisions { given_up: self.wiped(), begin_empty: true };
        let first = self.testimonies(&waiting);
        let rebuild = Rebuild::new(&first, &decisions, self.count);
        let Some(epoch) = rebuild.epoch().filter(|_| rebuild.survey().is_complete(&decisions))
        else {
            return;
        };
        self.promise(&waiting, epoch);
        let second = self.testimonies(&waiting);
        let rebuild = Rebuild::new(&second, &decisions, self.count);
        let Some(state) = rebuild.state(epoch, 0, self.profile.copies) else { return };
        if let Some(leader) = &mut self.leader {
            leader.epoch = epoch;
        }
        self.counts.rebuilds += 1;
        self.step_membership(Input::Rebuilt(Box::new(state)));
    }

    /// Stores that some configuration names and that are gone for good.
    fn wiped(&self) -> BTreeSet<StoreId> {
        let exists = |store: &StoreId| self.nodes.iter().any(|node| node.store.id == *store);
        let copies = self.nodes.iter().flat_map(|node| node.store.copies.values());
        let members =
            copies.filter_map(|copy| copy.configuration.as_ref()).flat_map(|it| &it.members);
        members.map(|member| member.store).filter(|store| !exists(store)).collect()
    }

    fn testimonies(&self, waiting: &BTreeSet<StoreId>) -> BTreeMap<StoreId, Testimony> {
        let here = self.nodes.iter().filter(|node| node.up && waiting.contains(&node.store.id));
        let testimony = |node: &super::node::Node| {
            let holdings = self.count.all().map(|partition| Holding {
                token: node.replica.served(partition),
                configuration: node
                    .store
                    .copies
                    .get(&partition)
                    .and_then(|copy| copy.configuration.clone()),
            });
            let testimony = Testimony {
                cluster: node.cluster?,
                index_key: self.index_key,
                partitions: self.count,
                promised: node.store.promised,
                info: MemberInfo::default(),
                holdings: holdings.collect(),
            };
            Some((node.store.id, testimony))
        };
        here.filter_map(testimony).collect()
    }

    fn promise(&mut self, waiting: &BTreeSet<StoreId>, epoch: Epoch) {
        let now = self.now;
        for index in 0..self.nodes.len() {
            let node = &mut self.nodes[index];
            if node.up
                && waiting.contains(&node.store.id)
                && let Err(problem) = node.promise(now, epoch)
            {
                self.violate(format!("node {index}: {problem}"));
            }
        }
    }
}
