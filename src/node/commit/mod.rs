//! The commit thread: the one owner of the store, and the pace of everything.
//!
//! It takes everything that has arrived, judges it in order ([`judge`]), makes one frame of what
//! was admitted, and only when that frame is on the disk says what follows from it ([`group`]): one
//! number that acknowledges thousands of records, the answers to fences, copies to be started.
//! While one commit is under way the next one fills; nobody ever waits for a batch to be full.
//!
//! It is a thread of its own since it waits for the disk, and the runtime must not. What waits for it
//! is bounded ([`queue`]).
//!
//! *When the disk is full*, records are refused and said to be so; orders are small and have room
//! kept for them. *When the disk fails*, the store is at an end (rule 26): what a failed fsync left
//! behind nobody knows, so nothing is acknowledged or read any more, and the process must exit and
//! come back through recovery.

mod group;
mod judge;
mod queue;
mod watermarks;

#[cfg(test)]
mod tests;

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use tokio::sync::oneshot;
use tonic::Status;

use self::group::{Fence, Group};
use self::judge::Judge;
use self::queue::Input;
pub(crate) use self::queue::{Commits, Inputs, Stopped, queue};
use self::watermarks::Watermarks;
use super::figures::Figures;
use super::mover::Mover;
use super::served::Served;
use crate::logic::comparison::Doubt;
use crate::logic::replica::{Held, Replica};
use crate::rpc::{convert, v1};
use crate::runtime::clock;
use crate::runtime::workers::{self, Worker};
use crate::storage::{Disk, Membership, Reader, StorageError, Store, Summary, Syncer};
use crate::types::{Moment, PartitionCount, PartitionId, StoreId};

/// A commit that has this much is not filled further.
const GROUP_BYTES: usize = 8 << 20;
/// Without anything to do for so long it is quiet.
const QUIET: Duration = Duration::from_secs(1);
/// How long housekeeping may be put off by work.
const HOUSEKEEPING: Duration = Duration::from_millis(5);
/// How often deadlines are looked at.
const TICK: Duration = Duration::from_secs(1);
/// How often a buffered store is synced.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);

/// What the leader is told where there is no room.
const DISK_FULL: &str = "disk full";

/// What a commit thread works with.
#[derive(Debug)]
pub(crate) struct Parts<D: Disk> {
    pub(crate) store_id: StoreId,
    pub(crate) store: Store<D>,
    pub(crate) partitions: PartitionCount,
    /// Whether commits are durable only after the next sync, which is made every second.
    pub(crate) buffered: bool,
    /// How far what the store holds is to be trusted.
    pub(crate) doubt: Doubt,
    /// The store has lost something once.
    pub(crate) doubted: bool,
    pub(crate) mover: Mover<D>,
    pub(crate) served: Arc<Served>,
    pub(crate) figures: Arc<Figures>,
}

/// Starts the commit thread. It says how it ended: in order, or because the storage failed.
pub(crate) fn start<D: Disk>(
    parts: Parts<D>,
    inputs: Inputs,
    ended: oneshot::Sender<Result<(), StorageError>>,
) -> io::Result<()> {
    // Dropped with the commit thread, which ends the one that syncs.
    let (running, ended_too) = crossbeam_channel::bounded(1);
    if parts.buffered {
        workers::start("sync", ended_too, Syncing(parts.store.syncer()))?;
    }
    let queue = inputs.0.clone();
    let committer = Committer::new(parts, inputs.0);
    let committing = Committing { committer, ended, outcome: Ok(()), _running: running };
    workers::start("commit", queue, committing)?;
    Ok(())
}

/// Syncs a buffered store every second, until the commit thread ends. If that fails, the store has
/// failed, and the commit thread finds out.
struct Syncing<D: Disk>(Syncer<D>);

impl<D: Disk> Worker for Syncing<D> {
    type Input = ();

    fn patience(&self) -> Option<Duration> {
        Some(SYNC_INTERVAL)
    }

    fn turn(&mut self, arrived: Result<(), RecvTimeoutError>) -> ControlFlow<()> {
        if arrived != Err(RecvTimeoutError::Timeout) {
            return ControlFlow::Break(());
        }
        if let Err(error) = self.0.sync() {
            tracing::error!(%error, "the store could not be synced");
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }

    fn end(self) {}
}

/// The commit thread, and whom it tells how it ended.
struct Committing<D: Disk> {
    committer: Committer<D>,
    ended: oneshot::Sender<Result<(), StorageError>>,
    outcome: Result<(), StorageError>,
    _running: Sender<()>,
}

impl<D: Disk> Worker for Committing<D> {
    type Input = Input;

    fn patience(&self) -> Option<Duration> {
        Some(self.committer.patience())
    }

    fn turn(&mut self, arrived: Result<Input, RecvTimeoutError>) -> ControlFlow<()> {
        let mut group = Group::default();
        if let Err(error) = self.committer.turn(&mut group, arrived) {
            self.committer.fail(&error, group);
            self.outcome = Err(error);
            return ControlFlow::Break(());
        }
        if self.committer.stopping { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn end(self) {
        let store = self.committer.store;
        let outcome = self.outcome.and_then(|()| store.close());
        let _ = self.ended.send(outcome);
    }
}

fn held<D: Disk>(
    reader: &Reader<D>,
    store: StoreId,
    doubted: bool,
    partition: PartitionId,
) -> Held {
    let membership = reader.membership(partition);
    let configuration = membership.configuration.as_ref();
    let counts = reader.counts(partition);
    Held {
        token: membership.token,
        shadow: membership.shadow,
        records: counts.records + counts.tombstones + counts.unvouched > 0,
        configuration: configuration.map(|it| it.version).unwrap_or_default(),
        named: configuration.and_then(|it| it.token_of(store)),
        doubted,
    }
}

#[allow(clippy::struct_excessive_bools, reason = "independent facts")]
struct Committer<D: Disk> {
    store_id: StoreId,
    partitions: PartitionCount,
    doubt: Doubt,
    doubted: bool,
    buffered: bool,
    store: Store<D>,
    reader: Reader<D>,
    judge: Judge,
    mover: Mover<D>,
    served: Arc<Served>,
    figures: Arc<Figures>,
    inputs: Receiver<Input>,
    stopping: bool,
    worked: Moment,
    kept_house: Moment,
    busy_house: bool,
    ticked: Moment,
}

impl<D: Disk> Committer<D> {
    fn new(parts: Parts<D>, inputs: Receiver<Input>) -> Self {
        let (buffered, doubt, doubted) = (parts.buffered, parts.doubt, parts.doubted);
        let Parts { store_id, store, partitions, mover, served, figures, .. } = parts;
        let reader = store.reader();
        let now = clock::now();
        let replica = Replica::new(store_id, partitions, reader.promised(), doubt, |partition| {
            held(&reader, store_id, doubted, partition)
        });
        partitions.all().for_each(|partition| serve(&served, &replica, partition));
        let watermarks =
            Watermarks::new(partitions, |partition| reader.membership(partition).watermark);
        let judge = Judge::new(store_id, replica, watermarks, Arc::clone(&served));
        Self {
            store_id,
            partitions,
            doubt,
            doubted,
            buffered,
            store,
            reader,
            judge,
            mover,
            served,
            figures,
            inputs,
            stopping: false,
            worked: now,
            kept_house: now,
            busy_house: true,
            ticked: now,
        }
    }

    /// Takes everything that has arrived, and commits it.
    fn turn(
        &mut self,
        group: &mut Group,
        arrived: Result<Input, RecvTimeoutError>,
    ) -> Result<(), StorageError> {
        let idle = arrived.is_err();
        match arrived {
            Ok(first) => self.gather(first, group),
            Err(RecvTimeoutError::Timeout) => self.rest(group)?,
            Err(RecvTimeoutError::Disconnected) => self.stopping = true,
        }
        self.tick(group)?;
        if !group.is_idle() {
            self.commit(group)?;
        }
        self.keep_house(idle)
    }

    fn gather(&mut self, first: Input, group: &mut Group) {
        self.worked = clock::now();
        self.take(first, group);
        while group.bytes < GROUP_BYTES
            && !self.stopping
            && let Ok(next) = self.inputs.try_recv()
        {
            self.take(next, group);
        }
    }

    fn take(&mut self, input: Input, group: &mut Group) {
        match input {
            Input::Open { stream, opened } => self.judge.open(group, stream, opened),
            Input::Batch { stream, batch, arrived, room } => {
                group.rooms.push(room);
                group.batches += 1;
                if !batch.records.is_empty() {
                    group.clients_wait_since.get_or_insert(arrived);
                }
                self.judge.batch(group, &stream, batch);
            }
            Input::Ended { stream } => self.judge.ended(group, &stream),
            Input::Install { copy, records, room } => {
                group.rooms.push(room);
                self.judge.install(group, &copy, records);
            }
            Input::Copied { copy, outcome } => self.judge.copied(group, &copy, outcome),
            Input::Unreadable(record) => self.judge.unreadable(group, record),
            Input::Stop => {
                self.stopping = true;
                self.judge.end_all(group, &Status::unavailable("the node is stopping"));
            }
        }
    }

    fn tick(&mut self, group: &mut Group) -> Result<(), StorageError> {
        let now = clock::now();
        if now.since(self.ticked) < TICK {
            return Ok(());
        }
        self.ticked = now;
        self.judge.tick(group);
        if self.doubt != Doubt::None && !self.judge.replica.is_in_doubt() {
            match self.store.trust() {
                Ok(()) => {
                    self.doubt = Doubt::None;
                    tracing::info!("every partition was compared: the store is trusted again");
                }
                // It is written down when there is room again.
                Err(error) if is_refusal(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn commit(&mut self, group: &mut Group) -> Result<(), StorageError> {
        let began = clock::now();
        if !group.log.is_empty() {
            match self.store.commit(&group.log) {
                Ok(_) => self.sync_changes(group)?,
                Err(error) if is_refusal(&error) => return self.commit_orders(group, &error),
                Err(error) => return Err(error),
            }
            let now = clock::now();
            let took = now.since(began);
            self.figures.committed(group.records, group.batches, group.bytes, took);
            if let Some(since) = group.clients_wait_since {
                self.figures.foreground_committed(now.since(since));
            }
        } else if group.probe {
            self.store.probe()?;
        }
        self.restore(group)?;
        self.conclude(group);
        Ok(())
    }

    /// Rule 28: records that cannot be read here, as another copy has them.
    fn restore(&mut self, group: &mut Group) -> Result<(), StorageError> {
        let records = std::mem::take(&mut group.restored);
        if records.is_empty() {
            return Ok(());
        }
        match self.store.restore(&records) {
            Ok(restored) => tracing::info!(restored, "damaged records were written anew"),
            Err(error) if is_refusal(&error) => {
                tracing::warn!(%error, "damaged records could not be written anew");
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Records are refused; what the orders changed is small, and is committed alone.
    fn commit_orders(
        &mut self,
        group: &mut Group,
        refusal: &StorageError,
    ) -> Result<(), StorageError> {
        let reason = reason(refusal);
        group.drop_records(&reason);
        for copy in std::mem::take(&mut group.installed) {
            self.judge.copied(group, &copy, Err(reason.clone()));
        }
        if group.controls.is_empty() {
            self.conclude(group);
            return Ok(());
        }
        match self.store.commit(&group.controls) {
            Ok(_) => {
                self.sync_changes(group)?;
                self.conclude(group);
            }
            Err(error) if is_refusal(&error) => self.forget(group, &reason),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// A buffered store may lose values with its machine, but not what it is: a promise that came
    /// back lower would let an earlier leader in, a membership that is gone cannot be compared.
    fn sync_changes(&mut self, group: &Group) -> Result<(), StorageError> {
        if self.buffered && group.has_changes { self.store.sync() } else { Ok(()) }
    }

    /// Not even orders could be stored: back to what is durable, and everybody has to ask again.
    fn forget(&mut self, group: &mut Group, reason: &str) {
        tracing::error!(reason, "orders could not be stored; the leader has to repeat them");
        self.judge.end_all(group, &Status::resource_exhausted(reason));
        for (stream, status) in group.ends.drain(..) {
            stream.close(status);
        }
        for opening in group.openings.drain(..) {
            let _ = opening.send(Err(Status::resource_exhausted(reason)));
        }
        let (reader, store, doubted) = (&self.reader, self.store_id, self.doubted);
        self.judge.replica =
            Replica::new(store, self.partitions, reader.promised(), self.doubt, |partition| {
                held(reader, store, doubted, partition)
            });
        for partition in self.partitions.all() {
            serve(&self.served, &self.judge.replica, partition);
        }
    }

    /// What was admitted is durable: everything that follows from it happens now.
    fn conclude(&mut self, group: &mut Group) {
        for (partition, version) in group.watermarks.drain(..) {
            self.reader.set_watermark(partition, version);
        }
        for partition in group.changed.drain(..) {
            serve(&self.served, &self.judge.replica, partition);
        }
        for fence in std::mem::take(&mut group.fences) {
            let answer = self.answer(&fence);
            group.tell(&fence.stream, |told| told.fences.push(answer));
        }
        for (stream, told) in group.told.drain(..) {
            stream.tell(told);
        }
        for copy in group.started.drain(..).filter(|copy| !copy.is_cancelled()) {
            self.mover.start(copy);
        }
        for (stream, reason) in group.ends.drain(..) {
            stream.close(reason);
        }
        for opening in group.openings.drain(..) {
            let _ = opening.send(Ok(()));
        }
        group.rooms.clear();
    }

    fn answer(&self, fence: &Fence) -> v1::FenceAnswer {
        let held = self.judge.replica.served(fence.partition) == Some(fence.token);
        let mut answer = v1::FenceAnswer {
            partition: u32::from(fence.partition.0),
            token: fence.token.0,
            attempt: fence.attempt,
            member: fence.member && held,
            doubt: v1::Doubt::from(self.judge.replica.doubt(fence.partition)).into(),
            ..v1::FenceAnswer::default()
        };
        if answer.member {
            let Membership { watermark, garbage_floor, .. } =
                self.reader.membership(fence.partition);
            (answer.floor_epoch, answer.floor_seq) = (garbage_floor.epoch.0, garbage_floor.seq);
            answer.tombstones = self.reader.counts(fence.partition).tombstones;
            (answer.watermark_epoch, answer.watermark_seq) = (watermark.epoch.0, watermark.seq);
            let above = self.reader.above_watermark(fence.partition);
            answer.records = above.into_iter().map(summary).collect();
        }
        answer
    }

    /// How long to wait for something to do.
    fn patience(&self) -> Duration {
        if self.busy_house { Duration::ZERO } else { QUIET }
    }

    /// Nothing has arrived for a while: the log is told what it was spared while there was work.
    fn rest(&mut self, group: &mut Group) -> Result<(), StorageError> {
        if clock::now().since(self.worked) < QUIET {
            return Ok(());
        }
        self.judge.log_watermarks(group);
        if group.log.is_empty() { self.store.mark_quiet() } else { Ok(()) }
    }

    /// One step of what the store does for itself: when there is nothing else to do, and every so
    /// often when there is.
    fn keep_house(&mut self, idle: bool) -> Result<(), StorageError> {
        if idle || clock::now().since(self.kept_house) >= HOUSEKEEPING {
            self.busy_house = self.store.maintain()?.more;
            self.kept_house = clock::now();
        }
        Ok(())
    }

    /// The storage failed: nothing is acknowledged or served any more.
    fn fail(&mut self, error: &StorageError, mut group: Group) {
        tracing::error!(%error, "the storage failed; this process ends, and must be started again");
        self.served.clear();
        let reason = format!("the storage failed: {error}");
        self.judge.end_all(&mut group, &Status::internal(reason.clone()));
        for (stream, status) in group.ends {
            stream.close(status);
        }
        for opening in group.openings {
            let _ = opening.send(Err(Status::internal(reason.clone())));
        }
    }
}

/// Whether nothing was written, so that the store goes on.
fn is_refusal(error: &StorageError) -> bool {
    use StorageError as E;
    matches!(
        error,
        E::DiskFull { .. }
            | E::Record { .. }
            | E::Unusable { .. }
            | E::TooLarge { .. }
            | E::TooManyEpochs
    )
}

/// Whoever reads or copies a partition finds it as the rules now say.
fn serve(served: &Served, replica: &Replica, partition: PartitionId) {
    let sound = replica.doubt(partition) == Doubt::None;
    served.set(partition, replica.served(partition), sound);
}

/// Why records were refused, as the leader is told.
fn reason(refusal: &StorageError) -> String {
    match refusal {
        StorageError::DiskFull { .. } => DISK_FULL.into(),
        other => other.to_string(),
    }
}

fn summary(entry: Summary) -> v1::RecordSummary {
    v1::RecordSummary {
        key_hash: convert::id_bytes(&entry.key_hash.to_bytes()),
        epoch: entry.version.epoch.0,
        seq: entry.version.seq,
        checksum: entry.checksum,
    }
}
