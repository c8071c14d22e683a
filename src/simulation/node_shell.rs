//! A node's shell: it takes what arrives to the next commit, and answers when that is durable.

use super::disk::RealStore;
use super::messages::{ReadRequest, Reply, ToLeader, ToNode};
use super::network::StreamId;
use super::node::{Arrival, Fence, Group, log, removal_clock};
use super::profile::{MILLISECOND, SECOND};
use super::store::Item;
use super::tombstones::Ended;
use super::world::{Event, World};
use crate::logic::mutants::{self, Mutant};
use crate::logic::partition::io::{FenceAnswer, Write};
use crate::types::Moment;

/// A node that hears nothing from its source gives the copy up.
const SOURCE_PATIENCE: u64 = 3 * SECOND;
/// Between two looks at what is due.
pub(super) const NODE_TICK: u64 = 100 * MILLISECOND;

impl World {
    pub(super) fn node_receives(&mut self, stream: StreamId, message: ToNode) {
        let (index, boot) = {
            let stream = self.network.stream(stream);
            (stream.node, stream.boot)
        };
        let node = &mut self.nodes[index];
        if !node.up || node.boot != boot {
            return;
        }
        let now = self.now;
        self.trace.line(now, || format!("node {index} gets {stream:?} {message:?}"));
        let message = match message {
            ToNode::Batch(mut batch) => {
                let reads = std::mem::take(&mut batch.reads);
                if !reads.is_empty() && node.current.is_some_and(|(current, _)| current == stream) {
                    let at = Moment(self.now.0 + self.random.below(self.profile.disk));
                    self.queue.plan(at, Event::NodeReads { stream, reads });
                }
                ToNode::Batch(batch)
            }
            open @ ToNode::Open(_) => open,
        };
        self.node_arrival(index, Arrival::Message(stream, message));
    }

    pub(super) fn node_reads(&mut self, stream: StreamId, reads: &[ReadRequest]) {
        let (index, boot) = {
            let stream = self.network.stream(stream);
            (stream.node, stream.boot)
        };
        if self.nodes[index].up && self.nodes[index].boot == boot {
            let reply = self.nodes[index].answer(reads);
            // Readers are threads of their own: one may stand still between reading and answering.
            let slow = self.chaos && self.random.percent(self.profile.slow_reads);
            let longest = if slow { self.profile.longest_read } else { 1 };
            let at = Moment(self.now.0 + self.random.below(longest));
            self.queue.plan(at, Event::NodeAnswers { stream, reply });
        }
    }

    pub(super) fn node_answers(&mut self, stream: StreamId, reply: Reply) {
        let (index, boot) = (self.network.stream(stream).node, self.network.stream(stream).boot);
        if self.nodes[index].up && self.nodes[index].boot == boot {
            self.send_to_leader(stream, ToLeader::Reply(reply));
        }
    }

    pub(super) fn node_arrival(&mut self, index: usize, arrival: Arrival) {
        self.nodes[index].arrive(arrival);
        if !self.nodes[index].is_committing() {
            self.begin_commit(index);
        }
    }

    fn begin_commit(&mut self, index: usize) {
        let key = self.index_key;
        let hash = move |write: &Write| key.hash(write.content.key.as_bytes());
        self.nodes[index].gather(self.now, &hash);
        if mutants::enabled(Mutant::EarlyAcknowledgement) {
            self.acknowledge_early(index);
        }
        let slow = self.random.per_million(self.profile.long_commits) && self.chaos;
        let disk = self.profile.disk;
        let longest = if slow { self.profile.longest_commit.max(disk) } else { disk * 3 };
        let slow = self.chaos && self.nodes[index].slow_until > self.now;
        let extra = if slow { self.random.between(20, 60) * MILLISECOND } else { 0 };
        let at = Moment(self.now.0 + extra + self.random.between(disk, longest));
        self.queue.plan(at, Event::Committed { node: index, boot: self.nodes[index].boot });
    }

    /// A mistake: what was written is acknowledged before it is durable.
    fn acknowledge_early(&mut self, index: usize) {
        let Some(group) = &self.nodes[index].committing else { return };
        for (stream, reply) in group.told.clone() {
            self.send_to_leader(stream, ToLeader::Reply(reply));
        }
    }

    /// The commit under way is durable: it is applied, and only now anything is answered.
    pub(super) fn node_committed(&mut self, index: usize, boot: u64) {
        if !self.nodes[index].up || self.nodes[index].boot != boot {
            return;
        }
        let Some(group) = self.nodes[index].committing.take() else { return };
        for item in &group.items {
            self.check_item(index, item);
        }
        if let Err(problem) = self.nodes[index].store_items(self.now, group.items) {
            self.violate(format!("node {index}: {problem}"));
        }
        for stream in group.ends {
            self.send_to_leader(stream, ToLeader::Closed);
            self.break_stream(stream);
        }
        let store = self.nodes[index].store.id;
        for stream in group.openings {
            self.send_to_leader(stream, ToLeader::Opened(store));
        }
        let mut told = group.told;
        for fence in group.fences {
            let answer = self.fence_answer(index, &fence);
            let reply = told.entry(fence.stream).or_default();
            reply.fences.push((fence.partition, fence.token, answer));
        }
        for (stream, reply) in told {
            self.send_to_leader(stream, ToLeader::Reply(reply));
        }
        for job in group.started {
            self.start_copy(index, job);
        }
        if self.nodes[index].has_arrivals() {
            self.begin_commit(index);
        }
    }

    fn fence_answer(&self, index: usize, fence: &Fence) -> FenceAnswer {
        let node = &self.nodes[index];
        let member = fence.member && node.store.is_member(fence.partition, fence.token);
        let watermark = node.watermarks.get(&fence.partition).copied().unwrap_or_default();
        let records = if member { node.above(fence.partition, watermark) } else { Vec::new() };
        let doubt = node.replica.doubt(fence.partition);
        let (floor, tombstones) = node.store.tombstones(fence.partition);
        let attempt = fence.attempt;
        FenceAnswer { attempt, member, doubt, watermark, records, floor, tombstones }
    }

    /// Time passes on a node: silent sources are given up, watermarks are logged, signs of life sent.
    pub(super) fn node_tick(&mut self, index: usize, boot: u64) {
        let node = &mut self.nodes[index];
        if !node.up || node.boot != boot {
            return;
        }
        self.drop_by_age(index);
        let node = &mut self.nodes[index];
        let now = self.now;
        let silent: Vec<u64> = node
            .copies
            .values()
            .filter(|job| now.0 - job.heard.0 > SOURCE_PATIENCE)
            .map(|job| job.number)
            .collect();
        for job in silent {
            self.node_arrival(index, Arrival::Installed(job, Vec::new(), Some(Ended::FAILED)));
        }
        if !self.nodes[index].is_committing() {
            self.commit_quiet(index);
            if let Err(problem) = self.rest(index) {
                self.violate(format!("node {index}: {problem}"));
            }
        }
        self.queue.plan(Moment(now.0 + NODE_TICK), Event::NodeTick { node: index, boot });
        self.node_reports(index);
    }

    /// What a store does for itself. The real one syncs when it rests, so a buffered one rests when it
    /// is synced.
    fn rest(&mut self, index: usize) -> Result<(), String> {
        let now = self.now;
        let node = &mut self.nodes[index];
        node.settle_doubt()?;
        if node.is_sync_due(now) {
            node.sync(now)?;
        } else if node.is_buffered() {
            return Ok(());
        }
        node.real.as_mut().map_or(Ok(()), RealStore::rest)
    }

    /// What falls due by itself: removals, and watermarks that the log does not have.
    fn commit_quiet(&mut self, index: usize) {
        let now = self.now;
        let node = &mut self.nodes[index];
        let mut group = Group::default();
        for (partition, change) in node.replica.tick(removal_clock(now)) {
            node.watermarks.remove(&partition);
            log(&mut group, partition, change);
        }
        for (partition, known) in &node.watermarks {
            let logged = node.store.copies.get(partition).map(|copy| copy.watermark);
            if logged.is_some_and(|logged| *known > logged) {
                group.items.push(Item::Watermark(*partition, *known));
            }
        }
        if !group.items.is_empty() {
            node.committing = Some(group);
            let at = Moment(now.0 + self.profile.disk);
            self.queue.plan(at, Event::Committed { node: index, boot: self.nodes[index].boot });
        }
    }

    /// A node learns that a stream has ended.
    pub(super) fn node_loses(&mut self, stream: StreamId) {
        let (index, boot) = {
            let stream = self.network.stream(stream);
            (stream.node, stream.boot)
        };
        let node = &mut self.nodes[index];
        if node.up
            && node.boot == boot
            && node.current.is_some_and(|(current, _)| current == stream)
        {
            node.current = None;
            node.copies.clear();
        }
    }
}
