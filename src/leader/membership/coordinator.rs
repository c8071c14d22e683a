//! The task that owns the membership.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;
use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;

use super::links::Links;
use super::overview::{self, Context, Summaries};
use super::progress::Progress;
use super::rebuild::{Asked, Rebuilding, Refugees};
use super::recovery::Recoverable;
use super::{Beat, Call, Command, Options};
use crate::leader::link;
use crate::leader::shard::inbox::{Event, Founding};
use crate::logic::detector::{Status, Suspicion};
use crate::logic::membership::{
    Answer, Change, Cluster, Input, Objection, Output, Rebuild, Registration, Wish,
};
use crate::logic::partition::io::StoreEvent;
use crate::meta::{Metadata, MetadataError};
use crate::rpc::{convert, v1};
use crate::runtime::clock;
use crate::runtime::tasks::Tasks;
use crate::types::{BootId, Configuration, Epoch, Moment, PartitionId, StoreId};

/// Every so many ticks the view is published.
const TICKS_PER_VIEW: u32 = 2;
/// Every so many ticks a slow store is sent something by which it is judged.
const TICKS_PER_PROBE: u32 = 20;
/// A store that waits for a cluster and has not asked for this long is not shown any more.
const CANDIDATE_GONE: Duration = Duration::from_secs(3);
/// A disk that was full takes writes again once this part of its reserve is free, in percent.
const ROOMY_PERCENT: u64 = 110;

/// Whoever waits for the answer to a registration.
type Waiting = HashMap<(StoreId, BootId), Vec<oneshot::Sender<v1::RegisterReply>>>;

/// The owner of the membership.
#[derive(Debug)]
pub(super) struct Coordinator {
    options: Options,
    epoch: Epoch,
    tasks: Tasks,
    links: Links,
    summaries: Summaries,
    waiting: Waiting,
    leaving: HashMap<(StoreId, BootId), mpsc::Sender<v1::LeaveProgress>>,
    beats: BTreeMap<StoreId, Beat>,
    progress: Progress,
    /// Copies that had to be made when the view was last published.
    queued: usize,
    /// Stores whose disk has no room for writes.
    full: BTreeSet<StoreId>,
    /// Stores that wait for a cluster: where they are, and when they last asked.
    candidates: BTreeMap<StoreId, (String, Moment)>,
    /// Configurations that are durable, of partitions that have not begun.
    configurations: Vec<(PartitionId, Configuration)>,
    /// Those of them that were made anew.
    unconfirmed: BTreeSet<PartitionId>,
}

impl Coordinator {
    pub(super) fn new(options: Options, tasks: Tasks) -> Self {
        // Those of an older copy do not count.
        let state = Some(&options.state).filter(|state| state.outdated.is_none());
        let configurations = state.iter().flat_map(|state| state.configurations());
        let configurations = configurations.map(|(id, one)| (id, one.clone())).collect();
        Self {
            epoch: options.state.epoch,
            unconfirmed: state.map(|state| state.unconfirmed.clone()).unwrap_or_default(),
            summaries: Summaries::new(options.summaries.clone()),
            options,
            tasks,
            links: Links::default(),
            waiting: HashMap::new(),
            leaving: HashMap::new(),
            beats: BTreeMap::new(),
            progress: Progress::default(),
            queued: 0,
            full: BTreeSet::new(),
            candidates: BTreeMap::new(),
            configurations,
        }
    }

    /// Runs until nobody can call any more, or the metadata fails.
    pub(super) async fn run(mut self, mut calls: mpsc::Receiver<Call>) {
        let failed = self.options.failed.clone();
        if let Err(error) = self.coordinate(&mut calls).await {
            tracing::error!(%error, "the metadata failed; the leader must stop");
            let _ = failed.send(error).await;
        }
    }

    async fn coordinate(&mut self, calls: &mut mpsc::Receiver<Call>) -> Result<(), MetadataError> {
        if let Some(cluster) = self.options.membership.cluster().copied() {
            self.found(cluster).await;
            let table = Arc::clone(self.options.membership.table());
            self.tell_shards(|| Event::Targets(Arc::clone(&table))).await;
        }
        let mut ticks = tokio::time::interval(self.options.tick);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut until_view, mut until_probe) = (0, 0);
        loop {
            tokio::select! {
                call = calls.recv() => match call {
                    Some(call) => self.call(call).await?,
                    None => return Ok(()),
                },
                _ = ticks.tick() => {
                    while let Ok(call) = calls.try_recv() {
                        self.call(call).await?;
                    }
                    self.tick().await?;
                    until_view = (until_view + 1) % TICKS_PER_VIEW;
                    if until_view == 0 {
                        self.publish();
                    }
                    until_probe = (until_probe + 1) % TICKS_PER_PROBE;
                    if until_probe == 0 {
                        self.options.membership.slow().for_each(|store| self.links.probe(store));
                    }
                }
            }
        }
    }

    async fn tick(&mut self) -> Result<(), MetadataError> {
        for seen in self.links.look() {
            self.step(Input::Link(seen)).await?;
        }
        self.step(Input::Tick).await?;
        self.show_refusal();
        Ok(())
    }

    fn show_refusal(&self) {
        let refusal = self.options.membership.refusal();
        let news = self.options.refusal.send_if_modified(|known| {
            let news = *known != refusal;
            known.clone_from(&refusal);
            news
        });
        if let Some(reason) = refusal.filter(|_| news) {
            tracing::error!(reason, "this leader does not serve");
        }
    }

    fn publish(&mut self) {
        let now = clock::now();
        self.candidates.retain(|_, (_, asked)| now.since(*asked) < CANDIDATE_GONE);
        self.progress.look(now);
        let waiting = self.candidates.iter();
        let context = Context {
            epoch: self.epoch,
            copies: self.options.copies,
            floor: self.options.floor,
            beats: &self.beats,
            progress: &self.progress,
            candidates: waiting.map(|(store, (address, _))| (*store, address.clone())).collect(),
        };
        let view = overview::view(&context, &self.options.membership, &self.summaries, now);
        let before = std::mem::replace(&mut self.queued, view.repair.queued);
        if before > 0 && view.repair.queued == 0 {
            tracing::info!("all copies are made");
        }
        self.options.views.publish(view);
    }

    // Calls.

    async fn call(&mut self, call: Call) -> Result<(), MetadataError> {
        match call {
            Call::Register { registration, software, tail, disk, reply } => {
                let Registration { store, boot, .. } = registration;
                match tail {
                    v1::TailState::Damaged => {
                        tracing::warn!(%store, software, "a store may have lost what it acknowledged");
                    }
                    v1::TailState::Torn => {
                        tracing::info!(%store, "a store stopped uncleanly; it is to be compared");
                    }
                    _ => {}
                }
                self.judge_disk(store, &disk).await;
                if self.options.membership.cluster().is_none() {
                    let place = (registration.address.clone(), clock::now());
                    self.candidates.insert(store, place);
                }
                self.waiting.entry((store, boot)).or_default().push(reply);
                self.step(Input::Register(registration)).await
            }
            Call::Heartbeat { beat, reply } => {
                let (store, boot) = (beat.store, beat.boot);
                self.step(Input::Heartbeat { store, boot }).await?;
                let standing = self.options.membership.standing(store, boot);
                if standing.is_some() {
                    self.judge_disk(store, &beat.disk).await;
                    self.progress.hear(store, boot, beat.copied_bytes);
                    self.beats.insert(store, beat);
                }
                let state = standing.map(|status| status.name().to_owned());
                let register_again = state.is_none();
                let state = state.unwrap_or_default();
                let _ = reply.send(v1::HeartbeatReply { state, register_again });
                Ok(())
            }
            Call::Leave { store, boot, progress } => {
                tracing::info!(%store, "a node asks to go");
                self.leaving.insert((store, boot), progress);
                self.step(Input::Leave { store, boot }).await
            }
            Call::Copies { copies, floor } => self.step(Input::Copies { copies, floor }).await,
            Call::Operate { store, command, reply } => {
                let outcome = self.operate(store, command).await?;
                // Whoever asked looks at the view next.
                self.publish();
                let _ = reply.send(outcome);
                Ok(())
            }
            Call::Refugees { reply } => {
                let _ = reply.send(self.refugees());
                Ok(())
            }
            Call::Recoverable { reply } => {
                let _ = reply.send(self.recoverable());
                Ok(())
            }
            Call::Force { decided, reply } => {
                tracing::warn!(partitions = decided.len(), "an operator gave up all members");
                let decided = Arc::new(decided);
                self.tell_shards(|| Event::Force(Arc::clone(&decided))).await;
                let _ = reply.send(());
                Ok(())
            }
            Call::Rebuild(rebuilding) => self.rebuild(*rebuilding).await,
        }
    }

    /// Carries out an operator's command, or says why not.
    async fn operate(
        &mut self,
        store: StoreId,
        command: Command,
    ) -> Result<Result<(), Objection>, MetadataError> {
        let wish = match command {
            Command::Drain => Wish::Drain,
            Command::Undrain => Wish::Undrain,
            Command::Decommission => Wish::Decommission { held: self.summaries.held_by(store) },
        };
        if let Some(objection) = self.options.membership.objection_to(store, wish) {
            tracing::warn!(%store, ?command, %objection, "an operator's command was not carried out");
            return Ok(Err(objection));
        }
        tracing::info!(%store, ?command, "an operator's command");
        self.step(Input::Operator { store, wish }).await?;
        if command == Command::Decommission {
            self.beats.remove(&store);
            self.full.remove(&store);
        }
        Ok(Ok(()))
    }

    fn refugees(&self) -> Option<Refugees> {
        let membership = &self.options.membership;
        let waiting = membership.cluster().is_none().then(|| membership.waiting(clock::now()));
        let (stores, partitions) = (waiting?.cloned().collect(), membership.partitions());
        Some(Refugees { stores, partitions })
    }

    fn recoverable(&self) -> Recoverable {
        let membership = &self.options.membership;
        let cluster = membership.cluster().map(|cluster| cluster.id);
        let nodes = membership.nodes(clock::now()).filter(|node| node.status == Status::Live);
        let asked = nodes.filter_map(|node| {
            let (cluster, boot, address) = (cluster?, node.boot?, node.info.address.clone());
            Some(Asked { cluster, store: node.store, boot, address })
        });
        let summaries = self.summaries.latest();
        let partitions = summaries.iter().flat_map(|summary| &summary.partitions);
        let lost = partitions.filter(|(_, status)| !status.serving);
        let mut lost: Vec<_> = lost.map(|(id, status)| (*id, status.copies.clone())).collect();
        lost.sort_by_key(|(id, _)| *id);
        Recoverable { live: asked.collect(), lost, targets: Arc::clone(membership.table()) }
    }

    /// The metadata is made anew, durably and all at once, and the cluster goes on.
    async fn rebuild(&mut self, rebuilding: Rebuilding) -> Result<(), MetadataError> {
        let Rebuilding { testimonies, decisions, epoch, reply } = rebuilding;
        let partitions = self.options.membership.partitions();
        let rebuild = Rebuild::new(&testimonies, &decisions, partitions);
        let state = rebuild.state(epoch, clock::wall_milliseconds(), self.options.copies);
        let founded = self.options.membership.cluster().is_some();
        if let Some(state) = state.filter(|_| !founded) {
            tracing::warn!(%epoch, stores = testimonies.len(), "the metadata is made anew");
            self.step(Input::Rebuilt(Box::new(state))).await?;
            let _ = reply.send(true);
        } else {
            let _ = reply.send(false);
        }
        Ok(())
    }

    /// Rule 27: no writes to a store whose disk is full, with some room between full and not.
    async fn judge_disk(&mut self, store: StoreId, disk: &v1::Disk) {
        if disk.total_bytes == 0 {
            return;
        }
        let free = disk.free_bytes;
        let event = if free < disk.reserve_bytes && self.full.insert(store) {
            tracing::warn!(%store, free, "a disk is full");
            StoreEvent::Full
        } else if free >= disk.reserve_bytes / 100 * ROOMY_PERCENT && self.full.remove(&store) {
            tracing::info!(%store, free, "a disk has room again");
            StoreEvent::Roomy
        } else {
            return;
        };
        self.tell_shards(|| Event::Store(store, event)).await;
    }

    // The machine.

    async fn step(&mut self, input: Input) -> Result<(), MetadataError> {
        let outputs = {
            let (floor, summaries) = (self.options.floor, &self.summaries);
            let short = |without: &BTreeSet<StoreId>| summaries.short(floor, without);
            self.options.membership.step(clock::now(), input, &short)
        };
        for output in outputs {
            self.carry_out(output).await?;
        }
        Ok(())
    }

    async fn carry_out(&mut self, output: Output) -> Result<(), MetadataError> {
        match output {
            Output::Persist(changes) => self.persist(changes).await?,
            Output::Founded(cluster) => {
                tracing::info!(cluster = %cluster.id, epoch = %self.epoch, "the cluster begins");
                self.candidates.clear();
                self.found(cluster).await;
            }
            Output::Outdated => self.outdated().await,
            Output::Answer { store, boot, answer } => self.answer(store, boot, answer),
            Output::Link { store, boot, address } => self.link(store, boot, &address),
            Output::Unlink(store) => self.links.drop(store),
            // Shards hear that a link broke from the link, and that it is back: this would be late.
            Output::Suspected { store, why: Suspicion::Disconnected } => {
                tracing::info!(%store, "a node is disconnected");
            }
            Output::Suspected { store, why } => {
                tracing::warn!(%store, %why, "a node is suspect");
                self.tell_shards(|| Event::Store(store, StoreEvent::Suspected)).await;
            }
            Output::Recovered(store) => {
                tracing::info!(%store, "a node is live");
                self.tell_shards(|| Event::Store(store, StoreEvent::Recovered)).await;
            }
            Output::Evicted(store) => {
                tracing::warn!(%store, "a node was away for too long; its copies are made anew");
                self.beats.remove(&store);
                self.tell_shards(|| Event::Store(store, StoreEvent::Evicted)).await;
            }
            Output::Slow { store, pace, others } => {
                tracing::warn!(
                    %store, ?pace, ?others,
                    "a node is slower than the others by far; it goes where it can be spared"
                );
                self.tell_shards(|| Event::Store(store, StoreEvent::Slow)).await;
            }
            Output::Fast(store) => {
                tracing::info!(%store, "a node that was slow keeps up again");
                self.tell_shards(|| Event::Store(store, StoreEvent::Fast)).await;
            }
            Output::Targets(table) => {
                self.tell_shards(|| Event::Targets(Arc::clone(&table))).await;
            }
            Output::Copies { copies, floor } => {
                tracing::info!(copies, floor, "the number of copies changed");
                (self.options.copies, self.options.floor) = (copies, floor);
                self.tell_shards(|| Event::Copies { wanted: copies, floor }).await;
            }
            Output::Departure { store, boot, partitions_left, may_stop } => {
                self.depart(store, boot, partitions_left, may_stop);
            }
            Output::Newcomer { store, away } => {
                let away: Vec<_> = away.iter().map(ToString::to_string).collect();
                tracing::warn!(
                    %store, away = away.join(" "),
                    "a store is new while others, which were live until lately, are away; if it was to be \
                     one of them, its data directory is not the one it had"
                );
            }
            Output::Stalled(late) => {
                tracing::warn!(?late, "the leader was stalled; nobody is blamed");
            }
            Output::AllLate => {
                tracing::warn!("all nodes that owe something are late at once; nobody is blamed");
            }
        }
        Ok(())
    }

    async fn persist(&mut self, changes: Vec<Change>) -> Result<(), MetadataError> {
        let epoch = changes.iter().find_map(|change| match change {
            Change::Epoch(epoch) => Some(*epoch),
            _ => None,
        });
        for change in &changes {
            match change {
                Change::Configuration(partition, configuration) => {
                    self.configurations.push((*partition, configuration.clone()));
                }
                Change::Rebuilt(partition, configuration) => {
                    self.configurations.push((*partition, configuration.clone()));
                    self.unconfirmed.insert(*partition);
                }
                _ => {}
            }
        }
        self.options.metadata.propose(changes).await?;
        self.epoch = epoch.unwrap_or(self.epoch);
        Ok(())
    }

    /// The cluster exists: its partitions begin.
    async fn found(&mut self, cluster: Cluster) {
        let configurations = std::mem::take(&mut self.configurations);
        let founding = Founding {
            index_key: cluster.index_key,
            epoch: self.epoch,
            began: clock::now(),
            configurations,
            unconfirmed: std::mem::take(&mut self.unconfirmed),
        };
        let founding = Arc::new(founding);
        self.tell_shards(|| Event::Founded(Arc::clone(&founding))).await;
        // Partitions that did not exist could not be told.
        for store in &self.full {
            self.tell_shards(|| Event::Store(*store, StoreEvent::Full)).await;
        }
    }

    /// The metadata is an older copy: nothing of what was done by it counts.
    async fn outdated(&mut self) {
        self.links = Links::default();
        self.leaving.clear();
        self.beats.clear();
        self.tell_shards(|| Event::Outdated).await;
        self.show_refusal();
        self.publish();
    }

    fn answer(&mut self, store: StoreId, boot: BootId, answer: Answer) {
        use v1::register_reply::Outcome;
        let outcome = match answer {
            Answer::Accepted => self.accepted().map(Outcome::Accepted),
            Answer::Pending { retry_after, reason } => {
                let retry_after_ms = u32::try_from(retry_after.as_millis()).unwrap_or(u32::MAX);
                Some(Outcome::Pending(v1::Pending { retry_after_ms, reason }))
            }
            Answer::Refused { reason, last_word } => Some(refused(store, reason, last_word, false)),
            Answer::Decommissioned => {
                let reason = format!(
                    "store {store} was decommissioned: what it holds is out of date, and it is not \
                     taken again"
                );
                Some(refused(store, reason, true, true))
            }
        };
        for waiting in self.waiting.remove(&(store, boot)).unwrap_or_default() {
            let _ = waiting.send(v1::RegisterReply { outcome: outcome.clone() });
        }
    }

    fn accepted(&self) -> Option<v1::Accepted> {
        let cluster = self.options.membership.cluster()?;
        let interval = self.options.heartbeat_interval.as_millis();
        Some(v1::Accepted {
            cluster_id: convert::id_bytes(cluster.id.as_bytes()),
            index_key: convert::id_bytes(&cluster.index_key.0),
            epoch: self.epoch.0,
            partitions: u32::from(cluster.partitions.get()),
            heartbeat_interval_ms: u32::try_from(interval).unwrap_or(u32::MAX),
        })
    }

    fn link(&mut self, store: StoreId, boot: BootId, address: &str) {
        let Some(cluster) = self.options.membership.cluster() else { return };
        let options = link::Options {
            store,
            boot,
            address: address.into(),
            cluster: cluster.id,
            epoch: self.epoch,
            leader: self.options.boot,
            shards: self.options.shards.clone(),
            durations: self.options.durations.clone(),
            max_value_bytes: self.options.max_value_bytes,
            large_lane: true,
        };
        self.links.keep(options, &self.tasks);
    }

    fn depart(&mut self, store: StoreId, boot: BootId, partitions_left: usize, may_stop: bool) {
        let Some(progress) = self.leaving.get(&(store, boot)) else { return };
        let partitions_left = u32::try_from(partitions_left).unwrap_or(u32::MAX);
        // A node that does not listen is told again with the next change, or has gone.
        let _ = progress.try_send(v1::LeaveProgress { partitions_left, may_stop });
        if may_stop {
            tracing::info!(%store, partitions_left, "a node may go");
            self.leaving.remove(&(store, boot));
        }
    }

    async fn tell_shards(&self, event: impl Fn() -> Event) {
        for shard in &self.options.shards {
            // Nobody listens only when the leader stops.
            let _ = shard.send(event()).await;
        }
    }
}

fn refused(
    store: StoreId,
    reason: String,
    last_word: bool,
    decommissioned: bool,
) -> v1::register_reply::Outcome {
    tracing::warn!(%store, reason, "a node is refused");
    v1::register_reply::Outcome::Refused(v1::Refused { reason, r#final: last_word, decommissioned })
}
