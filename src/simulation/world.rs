//! The simulated world: everything there is, and the loop in which it happens.

use std::collections::{BTreeMap, VecDeque};

use super::checks::{Checks, Counts};
use super::clients::{self, Client};
use super::copies::Pull;
use super::disk::RealStore;
use super::faults::Fault;
use super::leader::{Leader, Metadata};
use super::members::{Saying, Told};
use super::messages::{ReadRequest, Reply, ToLeader};
use super::network::{Message, Network, StreamId, Way};
use super::node::Node;
use super::profile::{MILLISECOND, Profile, SECOND};
use super::queue::Queue;
use super::random::Random;
use super::reduce::Omission;
use super::tombstones::Ended;
use super::trace::Trace;
use crate::logic::history::{Kind, Operation, Outcome};
use crate::logic::partition::cache::Cache;
use crate::logic::partition::io::Write;
use crate::types::{ClusterId, IndexKey, KeyHash, Moment, PartitionCount, StoreId};

/// How long the heal phase may take before the cluster counts as stuck.
const HEAL_LIMIT: u64 = 240 * SECOND;
/// Clients go on for so long after the faults.
const AFTERMATH: u64 = 2 * SECOND;

/// Something that happens.
#[derive(Debug)]
pub(super) enum Event {
    Deliver {
        stream: StreamId,
        message: Message,
    },
    LeaderLoses {
        stream: StreamId,
    },
    NodeLoses {
        stream: StreamId,
    },
    KeepaliveFails {
        node: usize,
    },
    Say {
        incarnation: u64,
        node: usize,
        boot: u64,
        store: StoreId,
        saying: Saying,
    },
    Told {
        node: usize,
        boot: u64,
        told: Told,
        cluster: ClusterId,
    },
    LeaveEnds {
        node: usize,
        boot: u64,
    },
    Committed {
        node: usize,
        boot: u64,
    },
    NodeReads {
        stream: StreamId,
        reads: Vec<ReadRequest>,
    },
    NodeAnswers {
        stream: StreamId,
        reply: Reply,
    },
    NodeTick {
        node: usize,
        boot: u64,
    },
    StartNode {
        node: usize,
    },
    DiskFails {
        node: usize,
    },
    BatchFails {
        node: usize,
    },
    DiskRots {
        node: usize,
    },
    Pull(Pull),
    Pulled {
        node: usize,
        boot: u64,
        job: u64,
        records: Vec<(KeyHash, Write)>,
        done: Option<Ended>,
        next: Option<Pull>,
    },
    LeaderStarted {
        incarnation: u64,
    },
    LeaderTick {
        incarnation: u64,
    },
    Flush {
        incarnation: u64,
        node: usize,
    },
    MetadataWritten {
        incarnation: u64,
    },
    Request {
        incarnation: u64,
        place: usize,
    },
    Answer {
        place: usize,
        outcome: Outcome,
    },
    Lost {
        place: usize,
    },
    ClientAsks {
        client: usize,
    },
    Fault(Fault),
    EndOfChaos,
    Quiet,
    Look,
    Resume(Process),
}

/// Whose process an event is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Process {
    Node(usize),
    Leader,
}

/// Everything there is.
#[derive(Debug)]
pub(super) struct World {
    pub(super) now: Moment,
    pub(super) queue: Queue<Event>,
    pub(super) random: Random,
    pub(super) profile: Profile,
    pub(super) count: PartitionCount,
    pub(super) index_key: IndexKey,
    pub(super) network: Network,
    pub(super) nodes: Vec<Node>,
    pub(super) next_store: u128,
    pub(super) next_job: u64,
    pub(super) metadata: Metadata,
    pub(super) leader: Option<Leader>,
    /// What the leader remembers.
    pub(super) cache: Cache,
    /// Counts the starts of the leader.
    pub(super) incarnation: u64,
    pub(super) leader_paused_until: Moment,
    pub(super) clients: Vec<Client>,
    pub(super) history: Vec<Operation>,
    pub(super) checks: Checks,
    pub(super) counts: Counts,
    pub(super) trace: Trace,
    /// There are faults.
    pub(super) chaos: bool,
    /// Faults that are left out.
    pub(super) omission: Omission,
    /// The number of the next fault.
    pub(super) next_fault: u64,
    /// The faults there were, by number.
    pub(super) faults: Vec<(u64, Fault)>,
    /// Clients ask no more.
    pub(super) quiet: bool,
    /// What paused processes will find.
    waiting: BTreeMap<Process, VecDeque<Event>>,
    done: bool,
}

impl World {
    pub(super) fn new(seed: u64, omission: Omission, with_lines: bool) -> Self {
        let mut random = Random::new(seed);
        let profile = Profile::draw(&mut random);
        let count = PartitionCount::new(profile.partitions).unwrap_or(PartitionCount::DEFAULT);
        let stores: Vec<StoreId> = (1..=profile.nodes as u128).map(StoreId::from_number).collect();
        let clients =
            clients::groups(profile.groups, profile.clients_per_group, profile.keys_per_group);
        let mut trace = Trace::new(with_lines);
        trace.line(Moment::ZERO, || format!("seed {seed}: {profile:#?}"));
        Self {
            now: Moment::ZERO,
            queue: Queue::new(),
            network: Network::new(profile.nodes),
            nodes: stores
                .iter()
                .map(|store| {
                    let disk = new_disk(&profile, count, &mut random);
                    Node::new(*store, count, disk, profile.journal())
                })
                .collect(),
            next_store: 100,
            next_job: 0,
            metadata: Metadata::default(),
            leader: None,
            cache: Cache::new(profile.cache_bytes),
            incarnation: 0,
            leader_paused_until: Moment::ZERO,
            clients,
            history: Vec::new(),
            checks: Checks::default(),
            counts: Counts::default(),
            trace,
            chaos: true,
            omission,
            next_fault: 0,
            faults: Vec::new(),
            quiet: false,
            waiting: BTreeMap::new(),
            done: false,
            index_key: INDEX_KEY,
            count,
            profile,
            random,
        }
    }

    /// Runs until all is at rest, or something is wrong.
    pub(super) fn run(&mut self) {
        for node in 0..self.nodes.len() {
            let at = Moment(self.random.below(100 * MILLISECOND));
            self.queue.plan(at, Event::StartNode { node });
        }
        self.queue.plan(Moment::ZERO, Event::LeaderStarted { incarnation: 0 });
        for client in 0..self.clients.len() {
            self.queue.plan(Moment(MILLISECOND), Event::ClientAsks { client });
        }
        self.plan_faults();
        self.queue.plan(Moment(self.profile.chaos), Event::EndOfChaos);
        while let Some((at, event)) = self.queue.next() {
            self.now = at;
            self.counts.events += 1;
            self.happen(event);
            if self.done || self.checks.violation.is_some() {
                return;
            }
        }
        self.violate("nothing is left to happen".into());
    }

    pub(super) fn new_disk(&mut self) -> Option<RealStore> {
        new_disk(&self.profile, self.count, &mut self.random)
    }

    fn process_of(&self, event: &Event) -> Option<Process> {
        Some(match event {
            Event::Deliver { stream, message: Message::ToNode(_) }
            | Event::NodeLoses { stream }
            | Event::NodeReads { stream, .. }
            | Event::NodeAnswers { stream, .. } => Process::Node(self.network.stream(*stream).node),
            Event::Committed { node, .. }
            | Event::Told { node, .. }
            | Event::NodeTick { node, .. }
            | Event::Pulled { node, .. } => Process::Node(*node),
            Event::Pull(pull) => Process::Node(pull.source()),
            Event::Deliver { message: Message::ToLeader(_), .. }
            | Event::LeaderLoses { .. }
            | Event::Say { .. }
            | Event::LeaderTick { .. }
            | Event::Flush { .. }
            | Event::MetadataWritten { .. }
            | Event::Request { .. } => Process::Leader,
            _ => return None,
        })
    }

    fn paused_until(&self, process: Process) -> Moment {
        match process {
            Process::Node(node) => self.nodes[node].paused_until,
            Process::Leader => self.leader_paused_until,
        }
    }

    /// What comes for a paused process waits, in order, until it goes on.
    fn happen(&mut self, event: Event) {
        let Some(process) = self.process_of(&event) else { return self.take_place(event) };
        let until = self.paused_until(process);
        let waiting = self.waiting.entry(process).or_default();
        if until <= self.now && waiting.is_empty() {
            return self.take_place(event);
        }
        if waiting.is_empty() {
            self.queue.plan(until, Event::Resume(process));
        }
        waiting.push_back(event);
    }

    fn resume(&mut self, process: Process) {
        let until = self.paused_until(process);
        if until > self.now {
            self.queue.plan(until, Event::Resume(process));
            return;
        }
        let waiting = self.waiting.insert(process, VecDeque::new());
        for event in waiting.unwrap_or_default() {
            self.take_place(event);
        }
    }

    fn take_place(&mut self, event: Event) {
        self.trace.mix(&[self.now.0]);
        match event {
            Event::Deliver { stream, message } => self.deliver(stream, message),
            Event::LeaderLoses { stream } => self.stream_lost(stream),
            Event::NodeLoses { stream } => self.node_loses(stream),
            Event::KeepaliveFails { node } => self.keepalive_fails(node),
            Event::Say { incarnation, node, boot, store, saying } => {
                self.leader_told(incarnation, (node, boot), store, saying);
            }
            Event::Told { node, boot, told, cluster } => self.node_told(node, boot, told, cluster),
            Event::LeaveEnds { node, boot } => self.leave_ends(node, boot),
            Event::Committed { node, boot } => self.node_committed(node, boot),
            Event::NodeReads { stream, reads } => self.node_reads(stream, &reads),
            Event::NodeAnswers { stream, reply } => self.node_answers(stream, reply),
            Event::NodeTick { node, boot } => self.node_tick(node, boot),
            Event::DiskFails { node } => self.disk_fails(node),
            Event::BatchFails { node } => self.batch_fails(node),
            Event::DiskRots { node } => self.disk_rots(node),
            Event::StartNode { node } => self.start_node(node),
            Event::Pull(pull) => self.serve_pull(pull),
            Event::Pulled { node, boot, job, records, done, next } => {
                self.pulled(node, boot, job, records, done, next);
            }
            Event::LeaderStarted { incarnation } => self.leader_started(incarnation),
            Event::LeaderTick { incarnation } => self.leader_tick(incarnation),
            Event::Flush { incarnation, node } => self.flush(incarnation, node),
            Event::MetadataWritten { incarnation } => self.metadata_written(incarnation),
            Event::Request { incarnation, place } => self.leader_asked(incarnation, place),
            Event::Answer { place, outcome } => self.client_hears(place, outcome),
            Event::Lost { place } => self.answer_lost(place),
            Event::ClientAsks { client } => self.client_asks(client),
            Event::Fault(fault) => self.fault(fault),
            Event::EndOfChaos => {
                self.end_chaos();
                self.queue.plan(Moment(self.now.0 + AFTERMATH), Event::Quiet);
            }
            Event::Quiet => {
                self.quiet = true;
                self.look();
            }
            Event::Look => self.look(),
            Event::Resume(process) => self.resume(process),
        }
    }

    /// What is under way on a broken stream may take its time.
    fn lingers(&mut self, stream: StreamId) -> bool {
        let broken = self.network.stream(stream).broken;
        broken && self.chaos && self.profile.late_answers && self.random.percent(40)
    }

    fn deliver(&mut self, stream: StreamId, message: Message) {
        if self.lingers(stream) {
            let at = Moment(self.now.0 + self.random.below(2 * SECOND));
            self.network.hold(stream, message.way(), at);
        }
        let held = self.network.held(stream, message.way());
        if held > self.now {
            self.queue.plan(held, Event::Deliver { stream, message });
            return;
        }
        match message {
            Message::ToNode(message) if self.network.arrives(self.now, stream, Way::ToNode) => {
                self.node_receives(stream, message);
            }
            Message::ToLeader(message) if self.network.arrives(self.now, stream, Way::ToLeader) => {
                self.leader_receives(stream, message);
            }
            _ => {}
        }
    }

    pub(super) fn send_to_leader(&mut self, stream: StreamId, message: ToLeader) {
        let delay = super::network::delay(&self.profile, &mut self.random);
        if let Some(at) = self.network.send(self.now, stream, Way::ToLeader, delay) {
            let message = Message::ToLeader(message);
            self.queue.plan(at, Event::Deliver { stream, message });
        }
    }

    /// Looks whether all is at rest; if so, every key is read once more, and that is the end.
    fn look(&mut self) {
        let waits = self.history.iter().find(|operation| operation.returned.is_none());
        let rest = match waits {
            Some(operation) => Err(format!("never answered: {operation:?}")),
            None => self.is_at_rest(),
        };
        match rest {
            Ok(()) => self.read_everything(),
            Err(unrest) if self.now.0 > self.profile.chaos + HEAL_LIMIT => {
                self.violate(format!("F: not healed after {HEAL_LIMIT} us: {unrest}"));
            }
            Err(_) => self.queue.plan(Moment(self.now.0 + 200 * MILLISECOND), Event::Look),
        }
    }

    fn read_everything(&mut self) {
        let asked =
            self.history.last().is_some_and(|last| last.client as usize >= self.clients.len());
        if asked {
            self.done = true;
            return;
        }
        let client = self.clients.len();
        for (number, key) in self.all_keys().into_iter().enumerate() {
            self.invoke(self.incarnation, client + number, key, Kind::Get);
        }
        self.queue.plan(Moment(self.now.0 + 50 * MILLISECOND), Event::Look);
    }
}

const INDEX_KEY: IndexKey = IndexKey([7; 16]);

/// A disk for the real store, if nodes have it.
fn new_disk(profile: &Profile, count: PartitionCount, random: &mut Random) -> Option<RealStore> {
    profile.real_stores.then(|| RealStore::new(INDEX_KEY, count, profile.buffered, random))
}
