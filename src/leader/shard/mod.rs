//! Shards: tasks that own the partitions.
//!
//! A partition belongs to shard `partition % shards`, which alone touches it: no locks, no order
//! between threads to reason about. Each turn, a shard
//!
//! 1. takes *everything* that is queued for it - what links heard, events of stores, batches of
//!    requests,
//! 2. steps the partitions concerned, links' news first: what has settled makes room,
//! 3. carries out what they say, once: one piece to each link, one message to each connection, and
//!    proposals to the metadata.
//!
//! So under load the cost of a message between tasks is paid once for many requests, and without
//! load nothing waits for a batch to fill.
//!
//! # What it guarantees
//!
//! * A shard never waits for anything but its inbox: no link, disk or client can stop it.
//! * What it queues is bounded: requests by what connections let through, writes towards a store by
//!   the gauge of its link, beyond which they are refused as busy.
//! * A partition hears of a store's sessions in order, and of nothing that an older session said.
//!
//! # How
//!
//! * [`inbox`] - what shards are told.
//! * [`operations`] - clients' operations under way, and whom they answer.
//! * [`outbox`] - what goes to a store, and which acknowledgement means what.
//! * [`carrier`] - carries out the partitions' outputs.

pub(crate) mod carrier;
pub(crate) mod inbox;
pub(crate) mod operations;
pub(crate) mod outbox;
mod repairs;
mod requests;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use hashbrown::HashMap;
use smallvec::SmallVec;
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;

use crate::leader::gateway::ShardBatch;
use crate::leader::gateway::recall::Recall;
use crate::leader::link::news::{Compared, Heard, LinkEvent, News};
use crate::leader::link::piece::Lane;
use crate::leader::view::Views;
use crate::logic::partition::io::{Input, Output, StoreEvent};
use crate::logic::partition::{Partition, Settings};
use crate::runtime::clock;
use crate::runtime::tasks::Tasks;
use crate::types::{IndexKey, Member, Moment, PartitionId, StoreId};
use carrier::Carrier;
use inbox::{Event, Founding, Proposal, Summary};
use operations::Operations;
use outbox::{Outbox, Sent, What};

/// How often partitions look at the time: deadlines, reads to be repeated, watermarks to be told.
const TICK: Duration = Duration::from_millis(50);
/// Longer than any request may take.
const NEVER: Duration = Duration::from_hours(24);
/// Messages taken from a queue at once.
const TAKE: usize = 256;

/// What a shard is made of.
#[derive(Debug)]
pub(crate) struct Options {
    /// Its number.
    pub(crate) index: usize,
    /// How many there are.
    pub(crate) shards: usize,
    /// What an operator decided about partitions.
    pub(crate) settings: Settings,
    /// Requests.
    pub(crate) batches: mpsc::Receiver<ShardBatch>,
    /// Everything else.
    pub(crate) events: mpsc::Receiver<Event>,
    /// Takes proposals.
    pub(crate) proposals: mpsc::UnboundedSender<Proposal>,
    /// Where its state is shown.
    pub(crate) summary: watch::Sender<Arc<Summary>>,
    /// Knows where stores are reached.
    pub(crate) views: Views,
    /// What the leader remembers.
    pub(crate) recall: Recall,
}

/// Runs a shard until the tasks are told to stop.
pub(crate) fn start(options: Options, tasks: &Tasks) {
    let Options { batches, events, .. } = options;
    let task = tasks.clone();
    let shard = Shard::new(
        options.index,
        options.shards,
        options.settings,
        options.proposals,
        options.views,
        options.recall,
    );
    let summary = options.summary;
    tasks.spawn(async move {
        tokio::select! {
            () = run(shard, batches, events, summary) => {}
            () = task.stopping() => {}
        }
    });
}

async fn run(
    mut shard: Shard,
    mut batches: mpsc::Receiver<ShardBatch>,
    mut events: mpsc::Receiver<Event>,
    summary: watch::Sender<Arc<Summary>>,
) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut batch_queue, mut event_queue) = (Vec::new(), Vec::new());
    loop {
        let mut tick = false;
        tokio::select! {
            biased;
            _ = ticks.tick() => tick = true,
            taken = events.recv_many(&mut event_queue, TAKE) => if taken == 0 { return },
            taken = batches.recv_many(&mut batch_queue, TAKE) => if taken == 0 { return },
        }
        take_all(&mut events, &mut event_queue);
        take_all(&mut batches, &mut batch_queue);
        shard.turn(clock::now(), &mut event_queue, &mut batch_queue, tick);
        if tick {
            summary.send_replace(Arc::new(shard.summary()));
        }
    }
}

fn take_all<T>(queue: &mut mpsc::Receiver<T>, into: &mut Vec<T>) {
    while into.len() < TAKE {
        match queue.try_recv() {
            Ok(item) => into.push(item),
            Err(_) => return,
        }
    }
}

/// A shard: its partitions, and everything they talk to.
#[derive(Debug)]
struct Shard {
    index: usize,
    shards: usize,
    settings: Settings,
    index_key: Option<IndexKey>,
    recall: Recall,
    /// Partition `n` is at `n / shards`.
    partitions: Vec<Partition>,
    carrier: Carrier,
    /// The outputs of one step; empty between steps.
    outputs: Vec<Output>,
    /// What one message of a store acknowledged; empty between messages.
    durable: Vec<Sent>,
    now: Moment,
    /// Copies may be begun: one has ended, or a tick has come.
    repair_due: bool,
}

impl Shard {
    fn new(
        index: usize,
        shards: usize,
        settings: Settings,
        proposals: mpsc::UnboundedSender<Proposal>,
        views: Views,
        recall: Recall,
    ) -> Self {
        let carrier = Carrier {
            shard: index,
            operations: Operations::default(),
            links: HashMap::new(),
            copying: HashMap::new(),
            follow_up: Vec::new(),
            proposals,
            views,
            scratch: BytesMut::new(),
            restored_records: 0,
            possible_losses: 0,
        };
        Self {
            index,
            shards,
            settings,
            index_key: None,
            recall,
            partitions: Vec::new(),
            carrier,
            outputs: Vec::new(),
            durable: Vec::new(),
            now: Moment::ZERO,
            repair_due: false,
        }
    }

    /// One turn: everything taken is stepped, and what follows is sent once.
    fn turn(
        &mut self,
        now: Moment,
        events: &mut Vec<Event>,
        batches: &mut Vec<ShardBatch>,
        tick: bool,
    ) {
        self.now = now;
        for event in events.drain(..) {
            self.event(event);
        }
        let full = self.full_stores();
        for batch in batches.drain(..) {
            self.batch(batch, &full);
        }
        if tick {
            self.step_all(&Input::Tick);
            self.repair_due = true;
        }
        if std::mem::take(&mut self.repair_due) {
            self.repair();
        }
        self.follow_up();
        self.carrier.flush();
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Link(event) => self.link_event(event),
            Event::Store(store, event) => self.step_all(&Input::Store { store, event }),
            Event::Founded(founding) => self.begin(&founding),
            Event::Outdated => self.abandon(),
            Event::Targets(table) => {
                for at in 0..self.partitions.len() {
                    let id = self.id_at(at);
                    self.step(id, Input::Target(SmallVec::from_slice(table.stores(id))));
                }
                self.repair_due = true;
            }
            Event::Copies { wanted, floor } => {
                (self.settings.copies, self.settings.floor) = (wanted, floor);
                self.step_all(&Input::Copies { wanted, floor });
            }
            Event::Force(decided) => {
                for (partition, stores) in decided.iter() {
                    if partition.index() % self.shards == self.index {
                        self.step(*partition, Input::Force(stores.clone()));
                    }
                }
            }
            Event::Configured(done) => {
                for (partition, version) in done {
                    self.step(partition, Input::Configured(version));
                }
                self.repair_due = true;
            }
        }
    }

    // Partitions.

    fn begin(&mut self, founding: &Founding) {
        self.index_key = Some(founding.index_key);
        self.recall.begin(founding.index_key);
        let mut own: Vec<_> = founding
            .configurations
            .iter()
            .filter(|(partition, _)| partition.index() % self.shards == self.index)
            .collect();
        own.sort_by_key(|(partition, _)| *partition);
        let (settings, Founding { epoch, began, unconfirmed, .. }) = (self.settings, founding);
        let machine = |(id, configuration): &(PartitionId, _)| {
            let configuration = Clone::clone(configuration);
            let cache = self.recall.cache().clone();
            let machine = Partition::new(*id, *epoch, configuration, settings, *began, cache);
            if unconfirmed.contains(id) { machine.rebuilt() } else { machine }
        };
        self.partitions = own.into_iter().map(machine).collect();
    }

    /// Nothing is served any more. Whoever waits is answered as if his time were up: that says what
    /// is open and what is not.
    fn abandon(&mut self) {
        let linked: Vec<StoreId> = self.carrier.links.keys().copied().collect();
        for store in linked {
            self.disconnected(store);
        }
        let late = self.now + NEVER;
        for partition in &mut self.partitions {
            partition.step(late, Input::Tick, &mut self.outputs);
            self.outputs.retain(|output| matches!(output, Output::Reply { .. }));
            self.carrier.carry(partition, &mut self.outputs);
        }
        self.partitions.clear();
        self.index_key = None;
        self.carrier.copying.clear();
        self.carrier.follow_up.clear();
        self.recall.cache().clear();
    }

    fn id_at(&self, at: usize) -> PartitionId {
        self.partitions.get(at).map_or(PartitionId::STORE, Partition::id)
    }

    fn partition(&self, id: PartitionId) -> Option<&Partition> {
        self.partitions.get(id.index() / self.shards)
    }

    fn step(&mut self, id: PartitionId, input: Input) {
        if let Some(partition) = self.partitions.get_mut(id.index() / self.shards) {
            partition.step(self.now, input, &mut self.outputs);
            self.carrier.carry(partition, &mut self.outputs);
        }
    }

    fn step_all(&mut self, input: &Input) {
        for partition in &mut self.partitions {
            partition.step(self.now, input.clone(), &mut self.outputs);
            self.carrier.carry(partition, &mut self.outputs);
        }
    }

    fn follow_up(&mut self) {
        for (partition, input) in std::mem::take(&mut self.carrier.follow_up) {
            self.step(partition, input);
        }
    }

    // Links.

    fn link_event(&mut self, event: LinkEvent) {
        let LinkEvent { store, session, news } = event;
        let current = self.carrier.links.get(&store).map(Outbox::session);
        match news {
            News::Connected { sender, address } => {
                if current.is_some() {
                    self.disconnected(store);
                }
                let outbox = Outbox::new(self.index, session, sender, address);
                self.carrier.links.insert(store, outbox);
                self.step_all(&Input::Store { store, event: StoreEvent::Connected });
            }
            News::Disconnected if current == Some(session) => self.disconnected(store),
            News::Heard(heard) if current == Some(session) => self.heard(store, heard),
            News::Disconnected | News::Heard(_) => {}
        }
    }

    /// What was on its way is forgotten: the partitions send again what the store turns out to lack.
    fn disconnected(&mut self, store: StoreId) {
        self.carrier.links.remove(&store);
        self.step_all(&Input::Store { store, event: StoreEvent::Disconnected });
    }

    fn heard(&mut self, store: StoreId, heard: Heard) {
        for refused in heard.refused {
            if let Some(link) = self.carrier.links.get_mut(&store) {
                link.refuse(&refused);
            }
            self.step(refused.partition, Input::Refused { store, token: refused.token });
        }
        if let Some((lane, through)) = heard.durable {
            self.durable(store, lane, through);
        }
        for (partition, token, answer) in heard.fences {
            self.step(partition, Input::Fenced { store, token, answer });
        }
        for copied in heard.copies {
            let (token, complete) = (copied.token, copied.complete);
            self.step(copied.partition, Input::Copied { store, token, complete });
            self.repair_due = true;
        }
        for (partition, token, key_hash) in heard.unreadable {
            self.step(partition, Input::Unreadable { at: Member { store, token }, key_hash });
        }
        for compared in heard.comparisons {
            let Compared { partition, token, attempt, complete, restored } = compared;
            self.step(partition, Input::Compared { store, token, attempt, complete, restored });
        }
        for (partition, id, answer) in heard.reads {
            self.step(partition, Input::Read { id, answer });
        }
    }

    fn durable(&mut self, store: StoreId, lane: Lane, through: u64) {
        let mut durable = std::mem::take(&mut self.durable);
        if let Some(link) = self.carrier.links.get_mut(&store) {
            link.durable(lane, through, |sent| durable.push(sent));
        }
        for Sent { partition, token, what } in durable.drain(..) {
            match what {
                What::Write(version) => {
                    self.step(partition, Input::Acknowledged { store, token, version });
                }
                What::Finish => self.step(partition, Input::Finished { store, token }),
                What::Configuration(version) => {
                    self.step(partition, Input::Told { store, token, version });
                }
                What::Refused => {}
            }
        }
        self.durable = durable;
    }

    fn summary(&self) -> Summary {
        let partitions = self.partitions.iter().map(|one| (one.id(), one.status())).collect();
        let answered = self.carrier.operations.total();
        let Carrier { restored_records, possible_losses, .. } = self.carrier;
        let copying = self.carrier.copying.len();
        Summary { partitions, answered, copying, restored_records, possible_losses }
    }
}
