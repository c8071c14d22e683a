//! A leader: the real partition machines, and a shell around them that does what the leader's own
//! shards and links do, with simulated streams and simulated durable metadata.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::links::{Link, Outstanding};
use super::members::LEADER_TICK;
use super::messages::ReadRequest;
use super::network::StreamId;
use super::profile::{MILLISECOND, SECOND};
use super::world::{Event, World};
use crate::logic::membership::{self, Change, Membership, State};
use crate::logic::mutants::{self, Mutant};
use crate::logic::partition::cache::Cache;
use crate::logic::partition::io::{
    self, Action, Input, OperationId, Output, StoreEvent, Unavailable,
};
use crate::logic::partition::{Partition, Settings};
use crate::types::{Configuration, Epoch, KeyHash, Moment, PartitionId, StoreId, Version};

/// What is durable of the cluster, and configurations on their way there.
#[derive(Clone, Debug, Default)]
pub(super) struct Metadata {
    pub(super) state: State,
    /// The disk is to be lost as soon as the next configuration is durable.
    pub(super) doomed: bool,
    /// Waits for the next write.
    waiting: Vec<(usize, Configuration)>,
    /// Is being written.
    writing: Vec<(usize, Configuration)>,
}

impl Metadata {
    /// The durable configuration of each partition; none before the cluster is created.
    pub(super) fn configurations(&self) -> &[Configuration] {
        &self.state.configurations
    }

    /// Configurations of a partition that may become durable.
    pub(super) fn proposed(&self, partition: usize) -> impl Iterator<Item = &Configuration> {
        let all = self.waiting.iter().chain(&self.writing);
        all.filter(move |(index, _)| *index == partition).map(|(_, configuration)| configuration)
    }
}

/// A running leader.
#[derive(Debug)]
pub(super) struct Leader {
    pub(super) incarnation: u64,
    pub(super) epoch: Epoch,
    pub(super) partitions: Vec<Partition>,
    pub(super) links: Vec<Link>,
    pub(super) outstanding: BTreeMap<StreamId, Outstanding>,
    pub(super) operations: BTreeMap<OperationId, usize>,
    next_operation: u64,
    pub(super) membership: Membership,
    /// Stores whose disk is full.
    pub(super) full: BTreeSet<StoreId>,
    pub(super) settings: Settings,
    began: Moment,
}

impl Leader {
    pub(super) fn is_connected(&self, node: usize) -> bool {
        self.links[node].stream.is_some()
    }

    pub(super) fn link_of(&mut self, store: StoreId) -> Option<(usize, &mut Link)> {
        let all = self.links.iter_mut().enumerate();
        all.into_iter().find(|(_, link)| link.store == Some(store) && link.stream.is_some())
    }
}

impl World {
    /// The epoch is durable: the leader begins.
    pub(super) fn leader_started(&mut self, incarnation: u64) {
        if self.incarnation != incarnation || self.leader.is_some() {
            return;
        }
        let epoch = self.metadata.state.epoch.next();
        if let Err(regression) = self.metadata.state.apply(&Change::Epoch(epoch)) {
            self.violate(format!("D: {regression}"));
        }
        let settings = Settings {
            copies: self.profile.copies,
            floor: self.profile.floor,
            missing_bytes: self.profile.missing_bytes,
            tombstone_interval: Duration::from_micros(self.profile.tombstone_interval()),
            peering_grace: Duration::from_micros(self.profile.peering_grace),
            absent_grace: Duration::from_micros(self.profile.absent_grace),
            evict_after: Duration::from_micros(self.profile.evict_after),
            ..Settings::default()
        };
        let now = self.now;
        if !mutants::enabled(Mutant::KeptCache) {
            self.counts.hits += self.cache.figures().hits;
            self.cache = Cache::new(self.profile.cache_bytes);
        }
        let membership = self.membership();
        let table = Arc::clone(membership.table());
        self.leader = Some(Leader {
            incarnation,
            epoch,
            partitions: Vec::new(),
            links: self.nodes.iter().map(|_| Link::default()).collect(),
            outstanding: BTreeMap::new(),
            operations: BTreeMap::new(),
            next_operation: 0,
            membership,
            full: BTreeSet::new(),
            settings,
            began: now,
        });
        self.trace.line(now, || format!("leader {incarnation} begins epoch {epoch}"));
        if self.metadata.state.cluster.is_some() {
            self.begin_partitions();
            self.retarget(&table);
        }
        if !self.chaos {
            self.undrain_all();
        }
        self.leader_tick(incarnation);
    }

    /// The cluster exists: its partitions begin.
    pub(super) fn begin_partitions(&mut self) {
        let Some(leader) = &mut self.leader else { return };
        let (epoch, settings, began) = (leader.epoch, leader.settings, leader.began);
        let cache = &self.cache;
        let configurations = self.metadata.configurations().iter().cloned().enumerate();
        let partitions = configurations.map(|(index, configuration)| {
            let id = PartitionId(u16::try_from(index).unwrap_or(0));
            let partition =
                Partition::new(id, epoch, configuration, settings, began, cache.clone());
            let unconfirmed = self.metadata.state.unconfirmed.contains(&id);
            if unconfirmed { partition.rebuilt() } else { partition }
        });
        leader.partitions = partitions.collect();
        for store in leader.full.clone() {
            self.feed_all(&Input::Store { store, event: StoreEvent::Full });
        }
    }

    /// The leader's process dies. What was being written may have become durable.
    pub(super) fn crash_leader(&mut self) {
        self.incarnation += 1;
        let durable = self.random.percent(50);
        let writing = std::mem::take(&mut self.metadata.writing);
        self.metadata.waiting.clear();
        if durable {
            for change in writing {
                self.store_configuration(change);
            }
        }
        let now = self.now;
        self.trace.line(now, || "leader crashes".into());
        let Some(leader) = self.leader.take() else { return };
        let streams: Vec<StreamId> = self
            .network
            .streams()
            .filter(|(_, stream)| stream.incarnation == leader.incarnation && !stream.broken)
            .map(|(id, _)| id)
            .collect();
        for stream in streams {
            self.break_stream(stream);
        }
        for place in leader.operations.into_values() {
            let at = Moment(self.now.0 + self.random.below(5 * MILLISECOND));
            self.queue.plan(at, Event::Lost { place });
        }
    }

    pub(super) fn leader_mut(&mut self, incarnation: u64) -> Option<&mut Leader> {
        self.leader.as_mut().filter(|leader| leader.incarnation == incarnation)
    }

    /// Gives a partition an input, and carries out what it wants done.
    pub(super) fn feed(&mut self, index: usize, input: Input) {
        let now = self.now;
        let Some(leader) = &mut self.leader else { return };
        self.trace.line(now, || format!("p{index} <- {input:?}"));
        let partition = &mut leader.partitions[index];
        let before = partition.watermark();
        let mut out = Vec::new();
        let reported = reported(&input);
        partition.step(now, input, &mut out);
        let went_back = partition.watermark() < before;
        let slipped = slipped_between(partition, &reported);
        if went_back {
            self.violate(format!("D: the watermark of partition {index} went back"));
        }
        if let Some((version, base)) = slipped {
            self.violate(format!("I: {version} was taken up above the base {base:?} of an update"));
        }
        for output in out {
            self.trace.line(now, || format!("p{index} -> {output:?}"));
            self.carry_out(index, output);
        }
    }

    pub(super) fn feed_all(&mut self, input: &Input) {
        for index in 0..self.metadata.configurations().len() {
            self.feed(index, input.clone());
        }
    }

    fn carry_out(&mut self, index: usize, output: Output) {
        let partition = PartitionId(u16::try_from(index).unwrap_or(0));
        match output {
            Output::Reply { id, reply } => self.reply(index, id, &reply),
            Output::Write { to, write } => {
                for member in to {
                    self.add_section(partition, member, Some(write.clone()));
                }
            }
            Output::Watermark(to) => {
                for member in to {
                    self.add_section(partition, member, None);
                }
            }
            Output::Read { from, id, key_hash } => {
                self.excuse(index, from.store, Some(key_hash));
                let read = ReadRequest { id, partition, token: from.token, key_hash };
                self.add(from.store, |batch| batch.reads.push(read));
            }
            Output::Order { to, order } => self.add_order(partition, to, &order),
            Output::Propose(configuration) => self.propose(index, configuration),
            Output::Restored { records, .. } => self.counts.restored += records,
            Output::PossibleLoss => self.check_possible_loss(index),
            Output::Force(_) => self.violate("rule 29: something was forced by itself".into()),
            Output::Unreadable(_) => {}
            Output::Alarm { key_hash, version } => {
                self.violate(format!("C: alarm over {key_hash:?} {version}"));
            }
        }
    }

    pub(super) fn propose(&mut self, index: usize, configuration: Configuration) {
        self.check_proposal(index, &configuration);
        self.metadata.waiting.push((index, configuration));
        if self.metadata.writing.is_empty() {
            self.write_metadata();
        }
    }

    fn write_metadata(&mut self) {
        self.metadata.writing = std::mem::take(&mut self.metadata.waiting);
        if !self.metadata.writing.is_empty() {
            let slow = self.random.percent(3) && self.chaos;
            let longest = if slow { SECOND } else { 3 * MILLISECOND };
            let at = Moment(self.now.0 + self.random.between(self.profile.disk, longest));
            self.queue.plan(at, Event::MetadataWritten { incarnation: self.incarnation });
        }
    }

    fn store_configuration(&mut self, (index, configuration): (usize, Configuration)) {
        let now = self.now;
        self.trace.line(now, || format!("p{index} durable: {configuration:?}"));
        let partition = PartitionId(u16::try_from(index).unwrap_or(0));
        if self.metadata.state.unconfirmed.contains(&partition) {
            self.counts.confirmed += 1;
        }
        let change = Change::Configuration(partition, configuration);
        if let Err(regression) = self.metadata.state.apply(&change) {
            self.violate(format!("D: {regression}"));
        }
        self.check_configuration(index);
    }

    pub(super) fn metadata_written(&mut self, incarnation: u64) {
        if self.leader_mut(incarnation).is_none() {
            return;
        }
        let written = std::mem::take(&mut self.metadata.writing);
        for (index, configuration) in written.clone() {
            self.store_configuration((index, configuration));
        }
        for (index, configuration) in written {
            self.feed(index, Input::Configured(configuration.version));
        }
        if self.metadata.doomed {
            self.lose_metadata();
        }
        let same = self.leader_mut(incarnation).is_some();
        if same && self.metadata.writing.is_empty() {
            self.write_metadata();
        }
    }

    pub(super) fn leader_tick(&mut self, incarnation: u64) {
        if self.leader_mut(incarnation).is_none() {
            return;
        }
        let next = Moment(self.now.0 + LEADER_TICK);
        self.queue.plan(next, Event::LeaderTick { incarnation });
        self.connect();
        self.look_at_links();
        self.probe();
        self.step_membership(membership::Input::Tick);
        self.rebuild_metadata();
        self.feed_all(&Input::Tick);
        self.admit();
    }

    fn admit(&mut self) {
        for index in 0..self.metadata.configurations().len() {
            let wanted = self.leader.as_ref().and_then(|leader| leader.partitions[index].wanted());
            if let Some(store) = wanted
                && self.random.percent(50)
            {
                self.feed(index, Input::Admit(store));
            }
        }
    }

    /// A client's request reached the leader.
    pub(super) fn leader_asked(&mut self, incarnation: u64, place: usize) {
        let (index, action, key) = self.request(place);
        let deadline = Moment(self.now.0 + self.profile.deadline);
        let key_hash = self.index_key.hash(key.as_bytes());
        let Some(leader) = self.leader_mut(incarnation) else {
            self.queue.plan(self.now, Event::Lost { place });
            return;
        };
        if index >= leader.partitions.len() {
            return self.answer_client(place, &io::Reply::Unavailable(Unavailable::Peering));
        }
        if self.random.percent(50) && self.recall(index, place, &action, key_hash) {
            return;
        }
        let Some(leader) = &mut self.leader else { return };
        leader.next_operation += 1;
        let id = OperationId(leader.next_operation);
        leader.operations.insert(id, place);
        let operation = io::Operation { id, key, key_hash, action, deadline };
        self.feed(index, Input::Operation(operation));
    }

    /// A reader whose connection has nothing under way is answered without asking the partition, if
    /// the cache has what it wants.
    fn recall(&mut self, index: usize, place: usize, action: &Action, key_hash: KeyHash) -> bool {
        let partition = PartitionId(u16::try_from(index).unwrap_or(0));
        let cached = self.cache.recall(partition, key_hash).filter(|_| *action == Action::Get);
        let Some(cached) = cached else { return false };
        self.cache.count_hits(1);
        let (now, reply) = (self.now, cached.into());
        self.trace.line(now, || format!("p{index} recalled for {place}: {reply:?}"));
        let status = self.leader.as_ref().map(|leader| leader.partitions[index].status());
        if !status.is_some_and(|status| status.serving) {
            self.violate(format!("11: {reply:?} was told though no member stands behind it"));
        }
        self.check_reply(index, place, &reply);
        self.answer_client(place, &reply);
        true
    }

    fn reply(&mut self, index: usize, id: OperationId, reply: &io::Reply) {
        let Some(leader) = &mut self.leader else { return };
        let Some(place) = leader.operations.remove(&id) else {
            self.violate(format!("operation {id:?} was answered twice: {reply:?}"));
            return;
        };
        self.check_reply(index, place, reply);
        self.answer_client(place, reply);
    }
}

/// What a member says it holds.
fn reported(input: &Input) -> Vec<(KeyHash, Version)> {
    match input {
        Input::Fenced { answer, .. } => {
            answer.records.iter().map(|it| (it.key_hash, it.version)).collect()
        }
        _ => Vec::new(),
    }
}

/// Invariant I: a version that was taken up although an update had been written on an older base.
fn slipped_between(
    partition: &Partition,
    reported: &[(KeyHash, Version)],
) -> Option<(Version, Option<Version>)> {
    let (epoch, reported) = (partition.epoch(), reported.iter());
    let mut taken_up =
        reported.filter(|(_, version)| version.epoch < epoch && partition.is_unsettled(*version));
    taken_up.find_map(|(key_hash, version)| {
        let mut updates = partition.bases.iter();
        let update = updates
            .find(|(_, key, base, _)| key == key_hash && base.is_some_and(|base| base < *version));
        update.map(|(_, _, base, _)| (*version, *base))
    })
}
