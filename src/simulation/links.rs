//! The leader's links: what is sent to each node, what of it is not yet durable, and who is late.

use std::collections::BTreeMap;

use super::members::Seen;
use super::messages::{Batch, Comparison, NodeOrder, Reply, Section, ToLeader, ToNode};
use super::network::{StreamId, Way};
use super::profile::SECOND;
use super::world::{Event, World};
use crate::logic::partition::io::{self, Input, Order, StoreEvent};
use crate::types::{ConfigurationVersion, Member, Moment, PartitionId, StoreId, Token, Version};

/// An attempt to connect is given up after so long.
const CONNECT_PATIENCE: u64 = SECOND;

/// What was sent in a batch and waits to be durable.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    partition: PartitionId,
    token: Token,
    versions: Vec<Version>,
    finish: bool,
    told: Option<ConfigurationVersion>,
}

/// A batch that is outstanding.
#[derive(Debug)]
pub(super) struct SentBatch {
    at: Moment,
    stores: bool,
    sent: Vec<Sent>,
}

/// The leader's end of a stream.
#[derive(Debug)]
pub(super) struct Outstanding {
    pub(super) store: StoreId,
    pub(super) batches: BTreeMap<u64, SentBatch>,
}

/// The way to a node.
#[derive(Debug, Default)]
pub(super) struct Link {
    /// The store and start of its process that a stream is to be kept to.
    pub(super) wanted: Option<(StoreId, u64)>,
    /// The store of the last stream.
    pub(super) store: Option<StoreId>,
    pub(super) opening: Option<(StreamId, Moment)>,
    pub(super) stream: Option<StreamId>,
    pub(super) next: Batch,
    pub(super) flushing: bool,
    /// Counts batches that were acknowledged.
    pub(super) acknowledged: u64,
    /// Batches that stored something since the last look, and how long they took.
    pub(super) stored: u32,
    pub(super) took: u64,
    pub(super) seen: Seen,
}

impl World {
    /// Adds to what is sent to a store next; without a stream it is lost.
    pub(super) fn add(&mut self, store: StoreId, add: impl FnOnce(&mut Batch)) {
        let Some(leader) = &mut self.leader else { return };
        let incarnation = leader.incarnation;
        let Some((node, link)) = leader.link_of(store) else { return };
        add(&mut link.next);
        if !std::mem::replace(&mut link.flushing, true) {
            let at = Moment(self.now.0 + self.random.below(200));
            self.queue.plan(at, Event::Flush { incarnation, node });
        }
    }

    pub(super) fn add_section(
        &mut self,
        partition: PartitionId,
        to: Member,
        write: Option<io::Write>,
    ) {
        self.add(to.store, |batch| match batch.sections.last_mut() {
            Some(last) if last.partition == partition && last.token == to.token => {
                last.writes.extend(write);
            }
            _ => batch.sections.push(Section {
                partition,
                token: to.token,
                watermark: Version::ZERO,
                writes: write.into_iter().collect(),
            }),
        });
    }

    pub(super) fn add_order(&mut self, partition: PartitionId, to: Member, order: &Order) {
        let node_of = |source: StoreId| {
            let links = self.leader.iter().flat_map(|leader| &leader.links);
            links.into_iter().position(|link| link.store == Some(source)).unwrap_or(0)
        };
        let order = match order {
            Order::Begin => NodeOrder::Begin,
            Order::Fence(attempt) => NodeOrder::Fence(*attempt),
            Order::Configuration(configuration) => NodeOrder::Configuration(configuration.clone()),
            // Its disks lose what was not durable, and nothing else; no copy is ever given up.
            Order::Restore(_) | Order::Adopt => return,
            Order::Start { source, floor } => {
                let (source, node) = (*source, node_of(*source));
                NodeOrder::Start { source, node, floor: *floor }
            }
            Order::GarbageFloor(floor) => NodeOrder::GarbageFloor(*floor),
            Order::Finish => NodeOrder::Finish,
            Order::Remove(version) => NodeOrder::Remove(*version),
            Order::Compare { attempt, source, point } => {
                let (attempt, source, node) = (*attempt, *source, node_of(*source));
                NodeOrder::Compare { attempt, source, node, point: point.clone() }
            }
            Order::Trust => {
                self.excuse(partition.index(), to.store, None);
                NodeOrder::Trust
            }
        };
        self.add(to.store, |batch| batch.orders.push((partition, to.token, order)));
    }

    /// Sends a node what has gathered.
    pub(super) fn flush(&mut self, incarnation: u64, node: usize) {
        let at = self.now;
        let Some(leader) = self.leader_mut(incarnation) else { return };
        let link = &mut leader.links[node];
        link.flushing = false;
        let Some(stream) = link.stream.filter(|_| !link.next.is_empty()) else { return };
        let number = link.next.number + 1;
        let next = Batch { number, ..Batch::default() };
        let mut batch = std::mem::replace(&mut link.next, next);
        batch.number = number;
        for section in &mut batch.sections {
            section.watermark = leader.partitions[section.partition.index()].watermark();
        }
        if let Some(outstanding) = leader.outstanding.get_mut(&stream) {
            let (stores, sent) = (batch.stores(), sent(&batch));
            outstanding.batches.insert(number, SentBatch { at, stores, sent });
        }
        self.send_to_node(stream, ToNode::Batch(batch));
    }

    pub(super) fn leader_receives(&mut self, stream: StreamId, message: ToLeader) {
        let (incarnation, node) = {
            let stream = self.network.stream(stream);
            (stream.incarnation, stream.node)
        };
        let late = self.profile.late_answers;
        let Some(leader) = self.leader_mut(incarnation) else { return };
        let link = &mut leader.links[node];
        match message {
            ToLeader::Opened(store) => {
                if link.opening.is_some_and(|(opening, _)| opening == stream) {
                    link.opening = None;
                    self.connected(node, stream, store);
                }
            }
            ToLeader::Closed => self.stream_lost(stream),
            ToLeader::Reply(reply) => {
                let current = link.stream == Some(stream);
                let store = leader.outstanding.get(&stream).map(|outstanding| outstanding.store);
                if let Some(store) = store.filter(|_| current || late) {
                    self.replied(stream, node, store, reply);
                }
            }
        }
    }

    fn connected(&mut self, node: usize, stream: StreamId, store: StoreId) {
        let Some(leader) = &mut self.leader else { return };
        let link = &mut leader.links[node];
        link.store = Some(store);
        link.stream = Some(stream);
        link.next = Batch::default();
        leader.outstanding.insert(stream, Outstanding { store, batches: BTreeMap::new() });
        self.feed_all(&Input::Store { store, event: StoreEvent::Connected });
    }

    /// The leader learns that a stream has ended.
    pub(super) fn stream_lost(&mut self, stream: StreamId) {
        let (incarnation, node) = {
            let stream = self.network.stream(stream);
            (stream.incarnation, stream.node)
        };
        self.break_stream(stream);
        let Some(leader) = self.leader_mut(incarnation) else { return };
        let link = &mut leader.links[node];
        if link.opening.is_some_and(|(opening, _)| opening == stream) {
            link.opening = None;
        }
        if link.stream == Some(stream) {
            link.stream = None;
            link.next = Batch::default();
            let Some(store) = link.store else { return };
            self.feed_all(&Input::Store { store, event: StoreEvent::Disconnected });
        }
    }

    /// What a node says, as the partitions hear it: refusals first, since a batch that is durable
    /// is so but for them.
    fn replied(&mut self, stream: StreamId, node: usize, store: StoreId, reply: Reply) {
        let now = self.now;
        let Some(leader) = &mut self.leader else { return };
        let mut inputs: Vec<(PartitionId, Input)> = Vec::new();
        for refused in &reply.refusals {
            let input = Input::Refused { store, token: refused.token };
            inputs.push((refused.partition, input));
        }
        if let Some(outstanding) = leader.outstanding.get_mut(&stream) {
            let later = outstanding.batches.split_off(&(reply.through + 1));
            let durable = std::mem::replace(&mut outstanding.batches, later);
            leader.links[node].acknowledged += durable.len() as u64;
            for (batch, SentBatch { at, stores, sent }) in durable {
                let link = &mut leader.links[node];
                link.stored += u32::from(stores);
                link.took += if stores { now.0 - at.0 } else { 0 };
                for sent in sent {
                    let refused = reply.refusals.iter().any(|refused| {
                        refused.batch == batch
                            && refused.partition == sent.partition
                            && refused.token == sent.token
                    });
                    if !refused {
                        inputs.extend(acknowledge(store, sent));
                    }
                }
            }
        }
        for (partition, id, answer) in reply.reads {
            inputs.push((partition, Input::Read { id, answer }));
        }
        for (partition, token, answer) in reply.fences {
            inputs.push((partition, Input::Fenced { store, token, answer }));
        }
        for (partition, token, complete) in reply.copies {
            inputs.push((partition, Input::Copied { store, token, complete }));
        }
        for compared in reply.comparisons {
            let Comparison { partition, token, attempt, complete, restored } = compared;
            let input = Input::Compared { store, token, attempt, complete, restored };
            inputs.push((partition, input));
        }
        for (partition, input) in inputs {
            self.feed(partition.index(), input);
        }
    }

    pub(super) fn connect(&mut self) {
        let now = self.now;
        let Some(leader) = &self.leader else { return };
        let (incarnation, epoch) = (leader.incarnation, leader.epoch);
        for node in 0..self.nodes.len() {
            let Some(leader) = &self.leader else { return };
            let link = &leader.links[node];
            match link.opening {
                Some((stream, began)) if now.0 - began.0 > CONNECT_PATIENCE => {
                    self.stream_lost(stream);
                }
                None if link.stream.is_none() => {
                    let Some((_, boot)) = link.wanted else { continue };
                    let stream = self.network.open(incarnation, node, boot);
                    if let Some(leader) = &mut self.leader {
                        leader.links[node].opening = Some((stream, now));
                    }
                    self.send_to_node(stream, ToNode::Open(epoch));
                }
                _ => {}
            }
        }
    }

    pub(super) fn send_to_node(&mut self, stream: StreamId, message: ToNode) {
        let delay = super::network::delay(&self.profile, &mut self.random);
        if let Some(at) = self.network.send(self.now, stream, Way::ToNode, delay) {
            let message = super::network::Message::ToNode(message);
            self.queue.plan(at, Event::Deliver { stream, message });
        }
    }
}

fn sent(batch: &Batch) -> Vec<Sent> {
    let sections = batch.sections.iter().map(|section| Sent {
        partition: section.partition,
        token: section.token,
        versions: section.writes.iter().map(|write| write.version).collect(),
        finish: false,
        told: None,
    });
    let orders = batch.orders.iter().filter_map(|(partition, token, order)| {
        let (finish, told) = match order {
            NodeOrder::Finish => (true, None),
            NodeOrder::Configuration(configuration) => (false, Some(configuration.version)),
            _ => return None,
        };
        let (partition, token) = (*partition, *token);
        Some(Sent { partition, token, versions: Vec::new(), finish, told })
    });
    sections.chain(orders).collect()
}

fn acknowledge(store: StoreId, sent: Sent) -> Vec<(PartitionId, Input)> {
    let Sent { partition, token, versions, finish, told } = sent;
    let finished = finish.then_some(Input::Finished { store, token });
    let told = told.map(|version| Input::Told { store, token, version });
    let acknowledged =
        versions.into_iter().map(|version| Input::Acknowledged { store, token, version });
    let inputs = finished.into_iter().chain(told).chain(acknowledged);
    inputs.map(|input| (partition, input)).collect()
}
