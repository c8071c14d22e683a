//! From what arrived to what goes to the log: the replica's rules, applied in order.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;
use tonic::Status;

use super::group::{Fence, Group, Opening, Stored};
use super::watermarks::Watermarks;
use crate::logic::replica::{Admission, Change, Order, Refusal, Replica};
use crate::node::mover::Copy;
use crate::node::served::Served;
use crate::node::stream::LeaderStream;
use crate::protocol::control::Control;
use crate::protocol::record::{Flags, Kind, Record, RecordError};
use crate::rpc::{Malformed, convert, v1};
use crate::runtime::clock;
use crate::types::{
    Configuration, ConfigurationVersion, Epoch, PartitionId, StoreId, Token, Version,
};

/// A leader speaks on so many streams: large values travel apart, so that they do not hold up small
/// ones.
const LANES: usize = 2;

/// Records that are not what they should be. Nothing of them is stored, and the stream ends: its
/// sender is wrong, or the way between is.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum Damage {
    #[error("{0}")]
    Record(#[from] RecordError),
    #[error("a record of partition {0} lies in a section of partition {1}")]
    Partition(PartitionId, PartitionId),
    #[error("a record of this kind does not belong here")]
    Kind,
    #[error("a record of epoch {0} came in epoch {1}")]
    Epoch(Epoch, Epoch),
    #[error("there are more or fewer records than the sections say")]
    Count,
    #[error("{0}")]
    Malformed(#[from] Malformed),
}

/// How records are expected to be.
#[derive(Clone, Copy, Debug)]
struct Expected {
    partition: PartitionId,
    epoch: Epoch,
    flags: Flags,
    /// They come from a comparison.
    compares: bool,
}

impl Expected {
    /// Verifies the record at the front, and says how long it is.
    fn check(self, bytes: &[u8]) -> Result<usize, Damage> {
        self.look(bytes).map(|(length, _)| length)
    }

    /// The same, and whether it is about a key.
    fn look(self, bytes: &[u8]) -> Result<(usize, bool), Damage> {
        let (record, length) = Record::decode(bytes)?;
        if record.partition != self.partition {
            return Err(Damage::Partition(record.partition, self.partition));
        }
        if record.kind == Kind::Control {
            return self.check_control(&record).map(|of_key| (length, of_key));
        }
        if record.flags != self.flags || record.key.is_empty() {
            return Err(Damage::Kind);
        }
        if record.version.epoch > self.epoch {
            return Err(Damage::Epoch(record.version.epoch, self.epoch));
        }
        Ok((length, true))
    }

    /// Instructions that may lie among records: a copy's word for what was there before, and a
    /// comparison's against it. Says whether it is about a key.
    fn check_control(self, record: &Record<'_>) -> Result<bool, Damage> {
        match Control::decode(record) {
            Ok(Control::Vouch { .. }) if self.flags == Flags::INSTALL => Ok(true),
            Ok(Control::Forget { .. }) if self.compares => Ok(true),
            Ok(Control::GarbageFloor(_)) if self.compares => Ok(false),
            _ => Err(Damage::Kind),
        }
    }

    /// Verifies so many records from a place on, and says where they end.
    fn check_many(self, records: &[u8], from: usize, count: u32) -> Result<usize, Damage> {
        (0..count).try_fold(from, |at, _| {
            let rest = records.get(at..).ok_or(Damage::Count)?;
            Ok(at + self.check(rest)?)
        })
    }

    /// Verifies records that fill their buffer, and counts those about keys.
    fn check_all(self, records: &[u8]) -> Result<u64, Damage> {
        let (mut at, mut count) = (0, 0);
        while let Some(rest) = records.get(at..).filter(|rest| !rest.is_empty()) {
            let (length, of_key) = self.look(rest)?;
            at += length;
            count += u64::from(of_key);
        }
        Ok(count)
    }
}

/// Applies the rules: what is admitted goes into the group, what is not is refused there.
#[derive(Debug)]
pub(crate) struct Judge {
    store: StoreId,
    pub(crate) replica: Replica,
    pub(crate) watermarks: Watermarks,
    served: Arc<Served>,
    /// The streams whose batches count, the oldest first.
    current: SmallVec<[Arc<LeaderStream>; LANES]>,
    copies: HashMap<PartitionId, Arc<Copy>>,
}

impl Judge {
    pub(crate) fn new(
        store: StoreId,
        replica: Replica,
        watermarks: Watermarks,
        served: Arc<Served>,
    ) -> Self {
        Self {
            store,
            replica,
            watermarks,
            served,
            current: SmallVec::new(),
            copies: HashMap::new(),
        }
    }

    /// A leader opens a stream: those of earlier leaders are over, whatever they still bring, and
    /// of its own all but the last.
    pub(crate) fn open(&mut self, group: &mut Group, stream: Arc<LeaderStream>, opened: Opening) {
        match self.replica.open(stream.epoch(), stream.leader()) {
            Err(refusal) => {
                let _ = opened.send(Err(Status::failed_precondition(refusal.to_string())));
            }
            Ok(change) => {
                let stays = if change.is_some() { 0 } else { LANES - 1 };
                while self.current.len() > stays {
                    let oldest = self.current.remove(0);
                    let reason = "a later stream took the place of this one";
                    self.close(group, oldest, Status::aborted(reason));
                }
                if let Some(change) = change {
                    self.log(group, PartitionId::STORE, change);
                }
                self.current.push(stream);
                group.openings.push(opened);
            }
        }
    }

    /// The sender of a stream has closed it.
    pub(crate) fn ended(&mut self, group: &mut Group, stream: &Arc<LeaderStream>) {
        self.end(group, stream, Status::ok(""));
    }

    /// Nothing more is taken from a stream.
    fn end(&mut self, group: &mut Group, stream: &Arc<LeaderStream>, reason: Status) {
        if self.is_current(stream) {
            self.current.retain(|current| current.id() != stream.id());
            self.close(group, Arc::clone(stream), reason);
        }
    }

    /// Nothing more is taken from any stream.
    pub(crate) fn end_all(&mut self, group: &mut Group, reason: &Status) {
        for stream in std::mem::take(&mut self.current) {
            self.close(group, stream, reason.clone());
        }
    }

    /// A stream is over, and what it began too.
    fn close(&mut self, group: &mut Group, stream: Arc<LeaderStream>, reason: Status) {
        self.copies.retain(|_, copy| {
            let stays = copy.stream().id() != stream.id();
            if !stays {
                copy.cancel();
            }
            stays
        });
        group.ends.push((stream, reason));
    }

    /// One batch: orders, then records.
    pub(crate) fn batch(
        &mut self,
        group: &mut Group,
        stream: &Arc<LeaderStream>,
        batch: v1::Batch,
    ) {
        if !self.is_current(stream) {
            return;
        }
        let number = batch.number;
        group.probe |= batch.probe;
        for order in batch.orders {
            self.order(group, stream, number, order);
        }
        match self.sections(group, stream, number, &batch.sections, &batch.records) {
            Ok(()) => {
                group.tell(stream, |told| told.through = number);
                group.stored.push(Stored {
                    stream: Arc::clone(stream),
                    batch: number,
                    sections: batch.sections,
                });
            }
            Err(damage) => self.end(group, stream, Status::data_loss(damage.to_string())),
        }
    }

    fn is_current(&self, stream: &LeaderStream) -> bool {
        self.current.iter().any(|current| current.id() == stream.id())
    }

    /// Walks the sections; records of neighbours that are both admitted go to the log as one piece.
    fn sections(
        &mut self,
        group: &mut Group,
        stream: &Arc<LeaderStream>,
        batch: u64,
        sections: &[v1::Section],
        records: &Bytes,
    ) -> Result<(), Damage> {
        let (mut from, mut at) = (0, 0);
        for section in sections {
            let start = at;
            let checked = check(stream, section, records, start);
            at = checked.inspect_err(|damage| {
                group.write(records.slice(from..start));
                group.refuse(stream, batch, section.partition, section.token, damage.to_string());
            })?;
            if let Err(refusal) = self.admit(group, stream.epoch(), section) {
                let reason = refusal.to_string();
                group.refuse(stream, batch, section.partition, section.token, reason);
                group.write(records.slice(from..start));
                from = at;
            }
        }
        group.write(records.slice(from..at));
        for section in sections {
            self.log_watermark(group, section);
        }
        if at == records.len() { Ok(()) } else { Err(Damage::Count) }
    }

    fn admit(
        &mut self,
        group: &mut Group,
        epoch: Epoch,
        section: &v1::Section,
    ) -> Result<(), Refusal> {
        let partition = section_partition(section);
        self.replica.admit_section(epoch, partition, Token(section.token))?;
        group.records += u64::from(section.records);
        let watermark = section.watermark();
        if self.watermarks.learn(partition, watermark, section.records) {
            group.watermarks.push((partition, watermark));
        }
        Ok(())
    }

    /// After the records: what is at or below the watermark was stored here long before.
    fn log_watermark(&mut self, group: &mut Group, section: &v1::Section) {
        let partition = section_partition(section);
        if let Some(version) = self.watermarks.due(partition) {
            group.control(partition, &Control::Watermark(version));
        }
    }

    fn order(
        &mut self,
        group: &mut Group,
        stream: &Arc<LeaderStream>,
        batch: u64,
        order: v1::Order,
    ) {
        let (number, token) = (order.partition, order.token);
        if let Err(refused) = self.try_order(group, stream, order) {
            group.refuse(stream, batch, number, token, refused);
        }
    }

    fn try_order(
        &mut self,
        group: &mut Group,
        stream: &Arc<LeaderStream>,
        order: v1::Order,
    ) -> Result<(), String> {
        let partition = convert::partition(order.partition).map_err(|error| error.to_string())?;
        let token = Token(order.token);
        let wire = order.order.ok_or("this build does not know this order")?;
        let wire = match wire {
            v1::order::Order::Restore(restore) => {
                return self.restore(group, stream.epoch(), partition, token, restore.record);
            }
            wire => wire,
        };
        let asked = read_order(&wire).map_err(|error| error.to_string())?;
        let epoch = stream.epoch();
        let admission = self
            .replica
            .order(clock::now(), epoch, partition, token, asked)
            .map_err(|refusal| refusal.to_string())?;
        self.carry_out(group, stream, partition, token, wire, admission);
        if self.replica.served(partition).is_none() {
            self.served.set(partition, None, false);
        }
        group.changed.push(partition);
        Ok(())
    }

    /// A record of which this store has the very version, and cannot read it.
    fn restore(
        &self,
        group: &mut Group,
        epoch: Epoch,
        partition: PartitionId,
        token: Token,
        record: Bytes,
    ) -> Result<(), String> {
        let admitted = self.replica.admit_section(epoch, partition, token);
        admitted.map_err(|refusal| refusal.to_string())?;
        let expected = Expected { partition, epoch, flags: Flags::NONE, compares: false };
        expected.check_all(&record).map_err(|damage| damage.to_string())?;
        group.restored.push(record);
        Ok(())
    }

    fn carry_out(
        &mut self,
        group: &mut Group,
        stream: &Arc<LeaderStream>,
        partition: PartitionId,
        token: Token,
        wire: v1::order::Order,
        admission: Admission,
    ) {
        match (admission, wire) {
            (Admission::Change(change), _) => self.log(group, partition, change),
            (Admission::Answer { member }, v1::order::Order::Fence(v1::Fence { attempt })) => {
                let stream = Arc::clone(stream);
                group.fences.push(Fence { stream, partition, token, attempt, member });
            }
            (Admission::Copy(change), v1::order::Order::Start(start)) => {
                if let Some(change) = change {
                    self.log(group, partition, change);
                    // Before anything is copied: what its source has dropped is not to tell them apart.
                    let floor = start.floor();
                    if floor > Version::ZERO {
                        self.log(group, partition, Change::GarbageFloor(floor));
                    }
                }
                let copy = Copy::fill(Arc::clone(stream), partition, token, start);
                self.start(group, Arc::new(copy));
            }
            (Admission::Compare, v1::order::Order::Compare(compare)) => {
                let copy = Copy::compare(Arc::clone(stream), partition, token, compare);
                self.start(group, Arc::new(copy));
            }
            _ => {}
        }
    }

    fn start(&mut self, group: &mut Group, copy: Arc<Copy>) {
        group.started.push(Arc::clone(&copy));
        if let Some(earlier) = self.copies.insert(copy.partition(), copy) {
            earlier.cancel();
        }
    }

    fn log(&mut self, group: &mut Group, partition: PartitionId, change: Change) {
        if matches!(change, Change::Begin(_) | Change::Remove(_)) {
            self.watermarks.forget(partition);
        }
        // A floor that a buffered store loses is lost with what it has dropped.
        group.has_changes |= !matches!(change, Change::GarbageFloor(_));
        group.control(partition, &control(change));
        group.changed.push(partition);
    }

    /// Records that a copy or a comparison brought.
    pub(crate) fn install(&mut self, group: &mut Group, copy: &Arc<Copy>, records: Bytes) {
        if !self.is_running(copy) {
            copy.cancel();
            return;
        }
        let (partition, token) = (copy.partition(), copy.token());
        let epoch = copy.stream().epoch();
        let compares = copy.is_comparison();
        let (flags, admitted) = if compares {
            (Flags::NONE, self.replica.admit_section(epoch, partition, token))
        } else {
            (Flags::INSTALL, self.replica.admit_install(epoch, partition, token))
        };
        let expected = Expected { partition, epoch, flags, compares };
        let admitted = admitted
            .map_err(|refusal| refusal.to_string())
            .and_then(|()| expected.check_all(&records).map_err(|damage| damage.to_string()));
        match admitted {
            Ok(count) => {
                group.records += count;
                copy.brought(count);
                group.write(records);
                group.installed.push(Arc::clone(copy));
            }
            Err(reason) => self.copied(group, copy, Err(reason)),
        }
    }

    /// A copy or a comparison ended: its bytes, or why it failed. It is reported once.
    pub(crate) fn copied(
        &mut self,
        group: &mut Group,
        copy: &Arc<Copy>,
        outcome: Result<u64, String>,
    ) {
        if !self.is_running(copy) {
            return;
        }
        self.copies.remove(&copy.partition());
        copy.cancel();
        let complete = outcome.is_ok();
        let (partition, token) = (u32::from(copy.partition().0), copy.token().0);
        let bytes = outcome.as_ref().copied().unwrap_or(0);
        let reason = outcome.err().unwrap_or_default();
        group.tell(copy.stream(), |told| match copy.attempt() {
            None => told.copies.push(v1::CopyReport { partition, token, complete, reason, bytes }),
            Some(attempt) => {
                let restored = copy.records();
                let report =
                    v1::ComparisonReport { partition, token, attempt, complete, reason, restored };
                told.comparisons.push(report);
            }
        });
    }

    /// The leader hears of it on whichever of its streams is open. If none is, it hears of it when
    /// the record is needed again.
    pub(crate) fn unreadable(&self, group: &mut Group, record: v1::Unreadable) {
        if let Some(stream) = self.current.first() {
            group.tell(stream, |told| told.unreadable.push(record));
        }
    }

    fn is_running(&self, copy: &Arc<Copy>) -> bool {
        let running = self.copies.get(&copy.partition());
        running.is_some_and(|running| Arc::ptr_eq(running, copy)) && !copy.is_cancelled()
    }

    /// Time has passed: what was kept aside long enough goes.
    pub(crate) fn tick(&mut self, group: &mut Group) {
        for (partition, change) in self.replica.tick(clock::now()) {
            tracing::info!(%partition, store = %self.store, "dropping a partition that was removed");
            self.log(group, partition, change);
        }
    }

    /// It is quiet: the log is told every watermark it does not have yet.
    pub(crate) fn log_watermarks(&mut self, group: &mut Group) {
        for (partition, version) in self.watermarks.all_due() {
            group.control(partition, &Control::Watermark(version));
        }
    }
}

fn check(
    stream: &LeaderStream,
    section: &v1::Section,
    records: &[u8],
    start: usize,
) -> Result<usize, Damage> {
    let partition = convert::partition(section.partition)?;
    let (epoch, flags) = (stream.epoch(), Flags::NONE);
    let expected = Expected { partition, epoch, flags, compares: false };
    expected.check_many(records, start, section.records)
}

/// The partition of a section whose number was checked.
fn section_partition(section: &v1::Section) -> PartitionId {
    convert::partition(section.partition).unwrap_or(PartitionId::STORE)
}

fn read_order(order: &v1::order::Order) -> Result<Order, Malformed> {
    Ok(match order {
        v1::order::Order::Begin(_) => Order::Begin,
        v1::order::Order::Fence(_) => Order::Fence,
        v1::order::Order::Start(_) => Order::Start,
        v1::order::Order::Finish(_) => Order::Finish,
        v1::order::Order::Remove(remove) => {
            Order::Remove(ConfigurationVersion(remove.configuration_version))
        }
        v1::order::Order::Configuration(message) => {
            Order::Configuration(Configuration::try_from(message)?)
        }
        v1::order::Order::Compare(_) => Order::Compare,
        v1::order::Order::Trust(_) => Order::Trust,
        v1::order::Order::Adopt(_) => Order::Adopt,
        v1::order::Order::GarbageFloor(message) => Order::GarbageFloor(message.floor()),
        v1::order::Order::Restore(_) => {
            return Err(Malformed("a record to be restored is no order about a partition"));
        }
    })
}

fn control(change: Change) -> Control {
    match change {
        Change::Promise(epoch) => Control::Promise(epoch),
        Change::Begin(token) => Control::Begin(token),
        Change::Start(token) => Control::Start(token),
        Change::Finish(token) => Control::Finish(token),
        Change::Remove(version) => Control::Remove(version),
        Change::Configuration(configuration) => Control::Configuration(configuration),
        Change::Adopt(token) => Control::Adopt(token),
        Change::GarbageFloor(floor) => Control::GarbageFloor(floor),
    }
}
