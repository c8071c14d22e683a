//! A node: the real admission machine over a store, driven as the node's own shell drives it.
//!
//! A commit takes all that has arrived, judges it in order, and answers once it is durable. Reads go
//! past it, to what is durable already. A crash in the middle of a commit leaves a prefix of it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::disk::RealStore;
use super::losses::{self, Journal};
use super::messages::{Batch, Comparison, NodeOrder, ReadRequest, Refused, Reply, ToNode};
use super::network::StreamId;
use super::random::Random;
use super::store::{Item, Store, checksum};
use super::tombstones::Ended;
use crate::logic::comparison::{Doubt, Finding, Point};
use crate::logic::mutants::{self, Mutant};
use crate::logic::partition::io::{Attempt, ReadAnswer, Summary, Write};
use crate::logic::replica::{Admission, Change, Order, Replica};
use crate::types::{
    ClusterId, Epoch, KeyHash, Moment, PartitionCount, PartitionId, StoreId, Token, Version,
};

/// Ten minutes, for which a removed partition is kept aside, are a second here.
pub(super) fn removal_clock(now: Moment) -> Moment {
    Moment(now.0 * 600)
}

/// What waits for the next commit.
#[derive(Clone, Debug)]
pub(super) enum Arrival {
    Message(StreamId, ToNode),
    Installed(u64, Vec<(KeyHash, Write)>, Option<Ended>),
}

/// A copy that is being filled.
#[derive(Clone, Debug)]
pub(super) struct CopyJob {
    pub(super) number: u64,
    pub(super) stream: StreamId,
    pub(super) epoch: Epoch,
    pub(super) partition: PartitionId,
    pub(super) token: Token,
    pub(super) source: usize,
    pub(super) source_store: StoreId,
    pub(super) heard: Moment,
    /// A whole copy is compared.
    pub(super) comparison: Option<Comparing>,
}

/// How a comparison goes.
#[derive(Clone, Debug)]
pub(super) struct Comparing {
    attempt: Attempt,
    point: Point,
    restored: u64,
    unclear: bool,
    /// What the other copy has.
    there: BTreeSet<KeyHash>,
}

/// A fence to be answered.
#[derive(Clone, Debug)]
pub(super) struct Fence {
    pub(super) stream: StreamId,
    pub(super) partition: PartitionId,
    pub(super) token: Token,
    pub(super) attempt: Attempt,
    pub(super) member: bool,
}

/// One commit.
#[derive(Clone, Debug, Default)]
pub(super) struct Group {
    pub(super) items: Vec<Item>,
    pub(super) openings: Vec<StreamId>,
    pub(super) told: BTreeMap<StreamId, Reply>,
    pub(super) fences: Vec<Fence>,
    pub(super) started: Vec<CopyJob>,
    pub(super) ends: Vec<StreamId>,
    /// Sections with records, in case there is no room for them.
    stored: Vec<(StreamId, Refused)>,
    /// Copies that brought records.
    installed: Vec<(StreamId, PartitionId, Token, Option<Attempt>)>,
}

/// A node: a machine with one disk, on which a process runs or does not.
#[derive(Debug)]
pub(super) struct Node {
    /// What is durable; what the real store must hold, where there is one.
    pub(super) store: Store,
    pub(super) real: Option<RealStore>,
    /// What was being committed when the process died.
    pub(super) half_done: Vec<Item>,
    /// What the store may lose, if it may.
    pub(super) journal: Option<Journal>,
    /// How far the store is to be trusted, and of which partitions it may have lost something.
    pub(super) doubt: Doubt,
    pub(super) lost: BTreeSet<PartitionId>,
    /// Memberships that ended because the disk was damaged.
    pub(super) damaged: BTreeSet<(PartitionId, Token)>,
    pub(super) up: bool,
    /// Counts the starts of its process.
    pub(super) boot: u64,
    /// The cluster its store belongs to.
    pub(super) cluster: Option<ClusterId>,
    /// The leader has accepted it.
    pub(super) registered: bool,
    /// It has asked to go.
    pub(super) leaving: bool,
    /// Its disk takes no values before this.
    pub(super) full_until: Moment,
    /// Its disk is slow before this.
    pub(super) slow_until: Moment,
    pub(super) paused_until: Moment,
    pub(super) replica: Replica,
    pub(super) inbox: VecDeque<Arrival>,
    pub(super) committing: Option<Group>,
    pub(super) current: Option<(StreamId, Epoch)>,
    pub(super) copies: BTreeMap<PartitionId, CopyJob>,
    pub(super) watermarks: BTreeMap<PartitionId, Version>,
}

impl Node {
    pub(super) fn new(
        store: StoreId,
        count: PartitionCount,
        real: Option<RealStore>,
        buffered: Option<bool>,
    ) -> Self {
        let store = Store::new(store);
        let replica =
            Replica::new(store.id, count, store.promised, Doubt::None, |id| store.held(id));
        Self {
            real,
            half_done: Vec::new(),
            journal: buffered.map(|buffered| Journal::new(buffered, &store)),
            doubt: Doubt::None,
            lost: BTreeSet::new(),
            damaged: BTreeSet::new(),
            store,
            up: false,
            boot: 0,
            cluster: None,
            registered: false,
            leaving: false,
            full_until: Moment::ZERO,
            slow_until: Moment::ZERO,
            paused_until: Moment::ZERO,
            replica,
            inbox: VecDeque::new(),
            committing: None,
            current: None,
            copies: BTreeMap::new(),
            watermarks: BTreeMap::new(),
        }
    }

    /// Its process starts, knowing only what is durable.
    pub(super) fn start(&mut self, count: PartitionCount) -> Result<(), String> {
        if let Some(real) = &mut self.real {
            let doubt = real.open(&mut self.store, std::mem::take(&mut self.half_done))?;
            if doubt != self.doubt {
                return Err(format!("the store is {doubt:?}, and should be {:?}", self.doubt));
            }
        }
        let (store, doubt) = (&self.store, self.doubt);
        if let Some(journal) = &mut self.journal {
            *journal = Journal::new(journal.is_buffered(), store);
        }
        self.replica = Replica::new(store.id, count, store.promised, doubt, |id| store.held(id));
        self.watermarks =
            store.copies.iter().map(|(partition, copy)| (*partition, copy.watermark)).collect();
        self.up = true;
        (self.registered, self.leaving) = (false, false);
        self.boot += 1;
        self.paused_until = Moment::ZERO;
        Ok(())
    }

    /// Its process dies. Of the commit under way a prefix is there.
    pub(super) fn crash(&mut self, random: &mut Random) {
        let items = self.stop();
        self.doubt = self.doubt.max(Doubt::Unclean);
        if let Some(real) = &mut self.real {
            real.crash(&items, random);
            self.half_done = items;
        } else {
            let count = random.index(items.len() + 1);
            items.into_iter().take(count).for_each(|item| self.store.apply(item));
        }
    }

    /// Nothing goes on any more. Says what was being committed.
    pub(super) fn stop(&mut self) -> Vec<Item> {
        self.up = false;
        self.inbox.clear();
        self.current = None;
        self.copies.clear();
        self.committing.take().map(|group| group.items).unwrap_or_default()
    }

    pub(super) fn is_committing(&self) -> bool {
        self.committing.is_some()
    }

    pub(super) fn has_arrivals(&self) -> bool {
        !self.inbox.is_empty()
    }

    /// Reads are answered from what is durable, at once.
    pub(super) fn answer(&self, reads: &[ReadRequest]) -> Reply {
        let answers = reads.iter().map(|request| {
            let served = self.replica.served(request.partition);
            (request.partition, request.id, self.read(served, request))
        });
        Reply { reads: answers.collect(), ..Reply::default() }
    }

    fn read(&self, served: Option<Token>, request: &ReadRequest) -> ReadAnswer {
        let (partition, key_hash) = (request.partition, request.key_hash);
        let durable = self.store.is_member(partition, request.token);
        if served != Some(request.token) || !durable {
            return ReadAnswer::Refused;
        }
        self.read_held(partition, key_hash)
    }

    pub(super) fn read_held(&self, partition: PartitionId, key_hash: KeyHash) -> ReadAnswer {
        if let Some(real) = &self.real {
            return real.read(partition, key_hash);
        }
        match self.store.entry(partition, key_hash) {
            Some(entry) => ReadAnswer::Found(entry.write.clone()),
            None => ReadAnswer::Absent,
        }
    }

    /// What lies above a watermark.
    pub(super) fn above(&self, partition: PartitionId, watermark: Version) -> Vec<Summary> {
        match &self.real {
            Some(real) => real.above(partition, watermark),
            None => self.store.above(partition, watermark),
        }
    }

    /// Everything it has of a partition.
    pub(super) fn keys(&self, partition: PartitionId) -> Vec<KeyHash> {
        match &self.real {
            Some(real) => real.keys(partition),
            None => {
                self.store.above(partition, Version::ZERO).iter().map(|it| it.key_hash).collect()
            }
        }
    }

    /// Makes a commit durable.
    pub(super) fn store_items(&mut self, now: Moment, items: Vec<Item>) -> Result<(), String> {
        if let Some(real) = &mut self.real {
            real.commit(&items)?;
        }
        if let Some(journal) = self.journal.as_mut().filter(|_| !items.is_empty()) {
            journal.note(&self.store, &items);
        }
        let changes = losses::has_changes(&items);
        for item in items {
            if let Item::Begin(partition, _)
            | Item::Start(partition, _)
            | Item::Remove(partition, _) = &item
            {
                self.lost.remove(partition);
            }
            self.store.apply(item);
        }
        if changes && self.is_buffered() { self.sync(now) } else { Ok(()) }
    }

    /// Once every partition was compared, the store is trusted again.
    pub(super) fn settle_doubt(&mut self) -> Result<(), String> {
        if self.doubt == Doubt::None || self.replica.is_in_doubt() {
            return Ok(());
        }
        self.doubt = Doubt::None;
        self.real.as_mut().map_or(Ok(()), RealStore::trust)
    }

    pub(super) fn arrive(&mut self, arrival: Arrival) {
        self.inbox.push_back(arrival);
    }

    /// Judges everything that has arrived: what follows is one commit.
    pub(super) fn gather(&mut self, now: Moment, hash: &dyn Fn(&Write) -> KeyHash) {
        let mut group = Group::default();
        while let Some(arrival) = self.inbox.pop_front() {
            match arrival {
                Arrival::Message(stream, ToNode::Open(epoch)) => {
                    self.open(&mut group, stream, epoch);
                }
                Arrival::Message(stream, ToNode::Batch(batch)) => {
                    self.batch(now, &mut group, stream, batch, hash);
                }
                Arrival::Installed(job, records, done) => {
                    self.install(now, &mut group, job, records, done);
                }
            }
        }
        if self.full_until > now && group.adds_value() {
            self.refuse_records(&mut group);
        }
        self.committing = Some(group);
    }

    /// There is no room for values: only orders are stored, and whoever sent records is told.
    fn refuse_records(&mut self, group: &mut Group) {
        let compared: BTreeSet<PartitionId> =
            group.installed.iter().map(|(_, partition, ..)| *partition).collect();
        let is_record = |item: &Item| match item {
            Item::Put(..) | Item::Install(..) => true,
            Item::GarbageFloor(partition, _) | Item::Forget(partition, ..) => {
                compared.contains(partition)
            }
            _ => false,
        };
        group.items.retain(|item| !is_record(item));
        for (stream, refused) in std::mem::take(&mut group.stored) {
            group.told.entry(stream).or_default().refusals.push(refused);
        }
        for (stream, partition, token, attempt) in std::mem::take(&mut group.installed) {
            self.copies.retain(|other, job| *other != partition || job.token != token);
            let told = group.told.entry(stream).or_default();
            if let Some(attempt) = attempt {
                let failed = Comparison { partition, token, attempt, complete: false, restored: 0 };
                told.comparisons.retain(|it| (it.partition, it.attempt) != (partition, attempt));
                told.comparisons.push(failed);
                continue;
            }
            let copies = &mut told.copies;
            copies.retain(|(other, of, _)| *other != partition || *of != token);
            copies.push((partition, token, false));
        }
    }

    fn open(&mut self, group: &mut Group, stream: StreamId, epoch: Epoch) {
        match self.replica.open(epoch, None) {
            Ok(change) => {
                self.end_stream(group);
                if let Some(change) = change {
                    log(group, PartitionId::STORE, change);
                }
                self.current = Some((stream, epoch));
                group.openings.push(stream);
            }
            Err(_) => group.ends.push(stream),
        }
    }

    /// A leader that has lost its metadata asks for a promise; nothing is being committed.
    pub(super) fn promise(&mut self, now: Moment, epoch: Epoch) -> Result<(), String> {
        if self.replica.open(epoch, None).is_err() {
            return Err(format!("it would not promise epoch {epoch}"));
        }
        (self.current, self.copies) = (None, BTreeMap::new());
        self.store_items(now, vec![Item::Promise(epoch)])
    }

    fn end_stream(&mut self, group: &mut Group) {
        self.copies.clear();
        if let Some((stream, _)) = self.current.take() {
            group.ends.push(stream);
        }
    }

    fn batch(
        &mut self,
        now: Moment,
        group: &mut Group,
        stream: StreamId,
        batch: Batch,
        hash: &dyn Fn(&Write) -> KeyHash,
    ) {
        let any = mutants::enabled(Mutant::AnyEpoch);
        let Some((_, epoch)) = self.current.filter(|(current, _)| any || *current == stream) else {
            return;
        };
        let number = batch.number;
        for (partition, token, order) in batch.orders {
            let refused = Refused { batch: number, partition, token };
            if !self.order(now, group, (stream, epoch), partition, token, order) {
                group.told.entry(stream).or_default().refusals.push(refused);
            }
        }
        for section in batch.sections {
            let (partition, token) = (section.partition, section.token);
            if self.replica.admit_section(epoch, partition, token).is_err() {
                let refused = Refused { batch: number, partition, token };
                group.told.entry(stream).or_default().refusals.push(refused);
                continue;
            }
            if !section.writes.is_empty() {
                group.stored.push((stream, Refused { batch: number, partition, token }));
            }
            let puts = section.writes.into_iter();
            group.items.extend(puts.map(|write| Item::Put(partition, hash(&write), write)));
            let known = self.watermarks.entry(partition).or_default();
            *known = section.watermark.max(*known);
        }
        group.told.entry(stream).or_default().through = number;
    }

    fn order(
        &mut self,
        now: Moment,
        group: &mut Group,
        (stream, epoch): (StreamId, Epoch),
        partition: PartitionId,
        token: Token,
        order: NodeOrder,
    ) -> bool {
        let asked = match &order {
            NodeOrder::Begin => Order::Begin,
            NodeOrder::Fence(_) => Order::Fence,
            NodeOrder::Start { .. } => Order::Start,
            NodeOrder::Finish => Order::Finish,
            NodeOrder::Remove(version) => Order::Remove(*version),
            NodeOrder::Configuration(configuration) => Order::Configuration(configuration.clone()),
            NodeOrder::Compare { .. } => Order::Compare,
            NodeOrder::Trust => Order::Trust,
            NodeOrder::GarbageFloor(floor) => Order::GarbageFloor(*floor),
        };
        let Ok(admission) = self.replica.order(removal_clock(now), epoch, partition, token, asked)
        else {
            return false;
        };
        let job = |source, source_store, comparison| CopyJob {
            number: 0,
            stream,
            epoch,
            partition,
            token,
            source,
            source_store,
            heard: now,
            comparison,
        };
        match (admission, order) {
            (Admission::Change(change), _) => {
                if matches!(change, Change::Begin(_)) {
                    self.watermarks.remove(&partition);
                }
                if let Change::GarbageFloor(floor) = &change {
                    self.learn_floor(partition, *floor);
                }
                log(group, partition, change);
            }
            (Admission::Answer { member }, NodeOrder::Fence(attempt)) => {
                group.fences.push(Fence { stream, partition, token, attempt, member });
            }
            (Admission::Copy(change), NodeOrder::Start { source, node, floor }) => {
                if let Some(change) = change {
                    log(group, partition, change);
                    self.learn_floor(partition, floor);
                    log(group, partition, Change::GarbageFloor(floor));
                }
                group.started.push(job(node, source, None));
            }
            (Admission::Compare, NodeOrder::Compare { attempt, source, node, point }) => {
                let there = BTreeSet::new();
                let comparison = Comparing { attempt, point, restored: 0, unclear: false, there };
                group.started.push(job(node, source, Some(comparison)));
            }
            (_, NodeOrder::Trust) => {
                self.lost.remove(&partition);
            }
            _ => {}
        }
        true
    }

    /// Records that a copy brought, and whether it ended, well or not.
    fn install(
        &mut self,
        now: Moment,
        group: &mut Group,
        number: u64,
        records: Vec<(KeyHash, Write)>,
        done: Option<Ended>,
    ) {
        let Some(job) = self.copies.values_mut().find(|job| job.number == number) else { return };
        job.heard = now;
        if job.comparison.is_some() {
            return self.compare(group, number, records, done);
        }
        let job = job.clone();
        let (partition, token) = (job.partition, job.token);
        let admitted = self.replica.admit_install(job.epoch, partition, token).is_ok();
        if admitted {
            group.installed.push((job.stream, partition, token, None));
            for (key_hash, write) in records {
                let same = self.store.entry(partition, key_hash).is_some_and(|entry| {
                    entry.write.version == write.version
                        && entry.checksum == checksum(partition, &write)
                });
                group.items.push(if same {
                    Item::Vouch(partition, key_hash, write.version)
                } else {
                    Item::Install(partition, key_hash, write)
                });
            }
        }
        if let Some(Ended { complete, .. }) = done.or((!admitted).then_some(Ended::FAILED)) {
            self.copies.remove(&partition);
            let told = group.told.entry(job.stream).or_default();
            told.copies.push((partition, token, complete));
        }
    }
}

impl Node {
    /// Records of the copy with which one's own is compared: what is settled and missing is stored.
    fn compare(
        &mut self,
        group: &mut Group,
        number: u64,
        records: Vec<(KeyHash, Write)>,
        done: Option<Ended>,
    ) {
        let Some(job) = self.copies.values_mut().find(|job| job.number == number) else { return };
        let Some(comparing) = &mut job.comparison else { return };
        let (partition, token, attempt) = (job.partition, job.token, comparing.attempt);
        let admitted = self.replica.admit_section(job.epoch, partition, token).is_ok();
        for (key_hash, write) in records.into_iter().filter(|_| admitted) {
            comparing.there.insert(key_hash);
            let own = self.store.version(partition, key_hash);
            let floor = self.store.floor(partition);
            match comparing.point.judge(Some(own), floor, write.version) {
                Finding::Held => {}
                Finding::Unclear => comparing.unclear = true,
                Finding::Missing => {
                    comparing.restored += 1;
                    group.items.push(Item::Put(partition, key_hash, write));
                }
            }
        }
        group.installed.push((job.stream, partition, token, Some(attempt)));
        if let Some(Ended { complete, floor }) = done.or((!admitted).then_some(Ended::FAILED)) {
            for item in self.store.deleted(partition, &comparing.there, floor) {
                comparing.restored += 1;
                group.items.push(item);
            }
            if complete && floor > self.store.floor(partition) {
                group.items.push(Item::GarbageFloor(partition, floor));
                let known = self.watermarks.entry(partition).or_default();
                *known = floor.max(*known);
            }
            let (complete, restored) = (complete && !comparing.unclear, comparing.restored);
            let told = group.told.entry(job.stream).or_default();
            told.comparisons.push(Comparison { partition, token, attempt, complete, restored });
            self.copies.remove(&partition);
        }
    }
}

impl Group {
    fn adds_value(&self) -> bool {
        self.items.iter().any(|item| match item {
            Item::Put(_, _, write) | Item::Install(_, _, write) => write.content.value.is_some(),
            _ => false,
        })
    }
}

pub(super) fn log(group: &mut Group, partition: PartitionId, change: Change) {
    group.items.push(match change {
        Change::Promise(epoch) => Item::Promise(epoch),
        Change::Begin(token) => Item::Begin(partition, token),
        Change::Start(token) => Item::Start(partition, token),
        // No operator of a simulated cluster has anything adopted.
        Change::Finish(token) | Change::Adopt(token) => Item::Finish(partition, token),
        Change::Remove(version) => Item::Remove(partition, version),
        Change::Configuration(configuration) => Item::Configuration(partition, configuration),
        Change::GarbageFloor(floor) => Item::GarbageFloor(partition, floor),
    });
}
