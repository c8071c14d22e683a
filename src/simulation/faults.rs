//! What goes wrong, and how it ends.

use super::network::{StreamId, Way};
use super::node::Node;
use super::profile::{MILLISECOND, SECOND};
use super::world::{Event, World};
use crate::logic::mutants::{self, Mutant};
use crate::types::{Configuration, Member, Moment, PartitionId, StoreId};

/// Kinds of faults, each with a rate of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    NodeCrash,
    LeaderCrash,
    NodePause,
    LeaderPause,
    StreamBreak,
    LeaderCut,
    NodeCut,
    Wipe,
    PowerCut,
    FullDisk,
    Leave,
    /// A crash after which the last synced batch is damaged.
    LostBatch,
    /// The machine of one node goes down.
    Machine,
    SlowDisk,
    MetadataLoss,
    Operate,
    /// A crash after which the disk is damaged.
    Rot,
}

/// Every kind of fault.
pub(super) const ALL: [Fault; 17] = [
    Fault::NodeCrash,
    Fault::LeaderCrash,
    Fault::NodePause,
    Fault::LeaderPause,
    Fault::StreamBreak,
    Fault::LeaderCut,
    Fault::NodeCut,
    Fault::Wipe,
    Fault::PowerCut,
    Fault::FullDisk,
    Fault::Leave,
    Fault::LostBatch,
    Fault::Machine,
    Fault::SlowDisk,
    Fault::MetadataLoss,
    Fault::Operate,
    Fault::Rot,
];

impl World {
    pub(super) fn plan_faults(&mut self) {
        for fault in ALL {
            self.plan_fault(fault);
        }
    }

    fn plan_fault(&mut self, fault: Fault) {
        let rates = &self.profile.rates;
        let mean = match fault {
            Fault::NodeCrash => rates.node_crash,
            Fault::LeaderCrash => rates.leader_crash,
            Fault::NodePause => rates.node_pause,
            Fault::LeaderPause => rates.leader_pause,
            Fault::StreamBreak => rates.stream_break,
            Fault::LeaderCut => rates.leader_cut,
            Fault::NodeCut => rates.node_cut,
            Fault::Wipe => rates.wipe,
            Fault::PowerCut => rates.power_cut,
            Fault::FullDisk => rates.full_disk,
            Fault::Leave => rates.leave,
            Fault::LostBatch => rates.lost_batch,
            Fault::Machine => rates.machine,
            Fault::SlowDisk => rates.slow_disk,
            Fault::MetadataLoss => rates.metadata_loss,
            Fault::Operate => rates.operate,
            Fault::Rot => rates.rot,
        };
        if let Some(mean) = mean {
            let at = Moment(self.now.0 + self.random.around(mean));
            self.queue.plan(at, Event::Fault(fault));
        }
    }

    pub(super) fn fault(&mut self, fault: Fault) {
        if !self.chaos {
            return;
        }
        let number = self.next_fault;
        self.next_fault += 1;
        if self.omission.covers(fault, number) {
            return self.plan_fault(fault);
        }
        self.faults.push((number, fault));
        self.trace.mix(&[fault as u64, self.now.0]);
        let now = self.now;
        self.trace.line(now, || format!("fault {number}: {fault:?}"));
        let node = self.random.index(self.nodes.len());
        match fault {
            Fault::NodeCrash => self.crash_node(node),
            Fault::LeaderCrash => self.restart_leader(),
            Fault::NodePause => {
                let until = self.until(3 * SECOND);
                let paused = &mut self.nodes[node].paused_until;
                *paused = until.max(*paused);
            }
            Fault::LeaderPause => {
                let until = self.until(2 * SECOND);
                self.leader_paused_until = until.max(self.leader_paused_until);
            }
            Fault::StreamBreak => self.break_some_stream(),
            Fault::LeaderCut => self.cut_leader(node),
            Fault::NodeCut => {
                let other = self.random.index(self.nodes.len());
                let until = self.until(5 * SECOND);
                self.network.cut_nodes(node, other, until);
            }
            Fault::Wipe => self.wipe(node),
            Fault::FullDisk => self.nodes[node].full_until = self.until(5 * SECOND),
            Fault::Leave => self.ask_to_leave(node),
            Fault::LostBatch => self.crash_before_damage(node),
            Fault::Machine => self.cut_power_of(node),
            Fault::SlowDisk => self.nodes[node].slow_until = self.until(8 * SECOND),
            Fault::MetadataLoss => self.doom_metadata(),
            Fault::Operate => self.operate(node),
            Fault::Rot => self.crash_before_rot(node),
            Fault::PowerCut => {
                (0..self.nodes.len()).for_each(|node| self.cut_power_of(node));
                self.restart_leader();
            }
        }
        self.plan_fault(fault);
    }

    /// Some moment from now, up to the longest.
    fn until(&mut self, longest: u64) -> Moment {
        let short = self.random.percent(50);
        let longest = if short { longest / 10 } else { longest };
        Moment(self.now.0 + self.random.between(MILLISECOND, longest))
    }

    pub(super) fn outage(&mut self) -> u64 {
        let (shortest, longest) = (self.profile.shortest_outage, self.profile.longest_outage);
        let longest = if self.random.percent(50) { 60 * MILLISECOND } else { longest };
        self.random.between(shortest, longest)
    }

    pub(super) fn crash_node(&mut self, node: usize) {
        let outage = self.outage();
        self.crash_node_for(node, outage);
    }

    fn crash_node_for(&mut self, node: usize, outage: u64) {
        if !self.nodes[node].up {
            return;
        }
        self.note_deletes_under_way(node);
        self.nodes[node].crash(&mut self.random);
        self.after_crash(node, outage);
    }

    /// The process of a node has died: its streams break, and it starts again after a while.
    pub(super) fn after_crash(&mut self, node: usize, outage: u64) {
        self.counts.node_crashes += 1;
        let now = self.now;
        self.trace.line(now, || format!("node {node} crashes"));
        let boot = self.nodes[node].boot;
        let streams: Vec<StreamId> = self
            .network
            .streams()
            .filter(|(_, stream)| stream.node == node && stream.boot == boot && !stream.broken)
            .map(|(id, _)| id)
            .collect();
        for stream in streams {
            self.break_stream(stream);
        }
        self.queue.plan(Moment(self.now.0 + outage), Event::StartNode { node });
    }

    pub(super) fn start_node(&mut self, node: usize) {
        if self.nodes[node].up {
            return;
        }
        let count = self.count;
        if let Err(problem) = self.nodes[node].start(count) {
            self.violate(format!("node {node}: {problem}"));
        }
        let now = self.now;
        self.trace.line(now, || format!("node {node} starts"));
        self.check_store(node);
        let boot = self.nodes[node].boot;
        self.queue.plan(self.now, Event::NodeTick { node, boot });
    }

    pub(super) fn restart_leader(&mut self) {
        self.counts.leader_crashes += 1;
        self.crash_leader();
        self.leader_paused_until = Moment::ZERO;
        let at = Moment(self.now.0 + self.outage());
        self.queue.plan(at, Event::LeaderStarted { incarnation: self.incarnation });
    }

    fn break_some_stream(&mut self) {
        let open: Vec<StreamId> = self
            .network
            .streams()
            .filter(|(_, stream)| !stream.broken && stream.incarnation == self.incarnation)
            .map(|(id, _)| id)
            .collect();
        if !open.is_empty() {
            let stream = *self.random.pick(&open);
            self.break_stream(stream);
        }
    }

    /// Breaks a stream; each side learns of it after a while.
    pub(super) fn break_stream(&mut self, stream: StreamId) {
        let now = self.now;
        if self.network.break_stream(now, stream, &mut self.random) {
            self.trace.line(now, || format!("{stream:?} breaks"));
            let slow = self.chaos && self.random.percent(20);
            let longest = if slow { 2 * SECOND } else { 5 * MILLISECOND };
            let at = Moment(now.0 + self.random.between(100, longest));
            self.queue.plan(at, Event::LeaderLoses { stream });
            let at = Moment(now.0 + self.random.between(100, longest));
            self.queue.plan(at, Event::NodeLoses { stream });
        }
    }

    fn cut_leader(&mut self, node: usize) {
        let until = self.until(4 * SECOND);
        let ways = self.random.below(3);
        if ways != 0 {
            self.network.cut_leader(node, Way::ToNode, until);
        }
        if ways != 1 {
            self.network.cut_leader(node, Way::ToLeader, until);
        }
        let long = until.0 - self.now.0 > SECOND;
        if long && self.random.percent(60) {
            let at = Moment(self.now.0 + self.random.below(until.0 - self.now.0));
            self.queue.plan(at, Event::KeepaliveFails { node });
        }
    }

    pub(super) fn keepalive_fails(&mut self, node: usize) {
        if !self.network.is_cut(self.now, node) {
            return;
        }
        let open: Vec<StreamId> = self
            .network
            .streams()
            .filter(|(_, stream)| stream.node == node && !stream.broken)
            .map(|(id, _)| id)
            .collect();
        for stream in open {
            self.break_stream(stream);
        }
    }

    /// A disk is lost, within the promise: at once where two other copies of each set survive;
    /// where only one does, when the leader has noticed that the node is gone. (Before that it may
    /// remove the survivor for being late: then two copies have failed.)
    fn wipe(&mut self, node: usize) {
        if !self.metadata_is_whole() {
            return;
        }
        // With a floor of one the leader may even go on with the lost one alone.
        if self.survivors(node) >= 2 && self.profile.floor >= 2 {
            self.crash_node(node);
            self.lose_disk(node);
        } else {
            let outage = self.random.between(MILLISECOND, 3 * SECOND);
            self.crash_node_for(node, outage + 1);
            self.queue.plan(Moment(self.now.0 + outage), Event::DiskFails { node });
        }
    }

    /// The disk of a node that crashed fails too.
    pub(super) fn disk_fails(&mut self, node: usize) {
        let noticed = self.leader.as_ref().is_none_or(|leader| !leader.is_connected(node));
        let safe = self.metadata_is_whole() && self.survivors(node) >= 1;
        if self.chaos && !self.nodes[node].up && noticed && safe {
            self.lose_disk(node);
        }
    }

    /// How many copies besides this node's exist and have lost nothing, at least, of each set of stores that is durable or
    /// may be about to be; of sets that do not name it, any number.
    pub(super) fn survivors(&self, node: usize) -> usize {
        let lost = self.nodes[node].store.id;
        let exists = |partition: PartitionId, member: &Member| {
            let holds = |node: &Node| node.store.is_member(partition, member.token);
            let whole = |node: &Node| node.lost.is_empty() && holds(node);
            member.store != lost
                && self.nodes.iter().any(|node| node.store.id == member.store && whole(node))
        };
        let sets = self.count.all().zip(self.metadata.configurations());
        let sets = sets.flat_map(|(partition, durable)| {
            let proposed = self.metadata.proposed(partition.index());
            std::iter::once(durable).chain(proposed).map(move |set| (partition, set))
        });
        let sets = sets.filter(|(_, set)| set.contains(lost));
        let members = |(partition, set): (PartitionId, &Configuration)| {
            set.members.iter().filter(|member| exists(partition, member)).count()
        };
        sets.map(members).min().unwrap_or(usize::MAX)
    }

    fn lose_disk(&mut self, node: usize) {
        self.counts.wipes += 1;
        self.next_store += 1;
        let by_name = mutants::enabled(Mutant::KnownByName);
        let store = StoreId::from_number(self.next_store);
        let store = if by_name { self.nodes[node].store.id } else { store };
        let (count, boot) = (self.count, self.nodes[node].boot);
        let now = self.now;
        self.trace.line(now, || format!("node {node} loses its disk, now {store}"));
        let real = self.new_disk();
        self.nodes[node] = Node::new(store, count, real, self.profile.journal());
        self.nodes[node].boot = boot;
    }

    /// Faults end, and everything starts that does not run.
    pub(super) fn end_chaos(&mut self) {
        self.chaos = false;
        self.metadata.doomed = false;
        let now = self.now;
        self.trace.line(now, || "faults end".into());
        self.network.heal();
        self.undrain_all();
        for node in 0..self.nodes.len() {
            self.start_node(node);
        }
        if self.leader.is_none() {
            let incarnation = self.incarnation;
            self.queue.plan(self.now, Event::LeaderStarted { incarnation });
        }
    }
}
