//! The metadata in a directory of the leader's machine: a thread that owns the log.
//!
//! Proposals queue while the disk is busy with the ones before; then all that have queued become one
//! frame and one sync. Nothing waits for a batch to fill.

use std::future::Future;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use tokio::sync::oneshot;

use super::log::{Found, LogOptions, MetadataLog};
use super::{Change, Metadata, MetadataError, State, codec};
use crate::runtime::workers::{self, Running, Worker};
use crate::storage::VolumeDisk;
use crate::storage::disk::Disk;
use crate::storage::slots::DirectoryLock;
use crate::types::Epoch;

/// Proposals that may wait for the disk. A partition proposes one at a time, so that even all of the
/// most partitions a cluster can have find room.
const QUEUE: usize = 1 << 16;
/// Changes that one frame takes.
const BATCH_CHANGES: usize = 1 << 16;
/// After this long without proposals the last ones are settled.
const QUIET: Duration = Duration::from_secs(1);

type Done = Box<dyn FnOnce(Result<(), MetadataError>) + Send>;

enum Message {
    Propose(Vec<Change>, Done),
    Stop,
}

/// Proposes changes. Clones propose to the same metadata.
#[derive(Clone, Debug)]
pub struct MetadataHandle {
    queue: Sender<Message>,
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Propose(changes, _) => write!(f, "Propose({} changes)", changes.len()),
            Self::Stop => f.write_str("Stop"),
        }
    }
}

impl Metadata for MetadataHandle {
    fn propose(
        &self,
        changes: Vec<Change>,
    ) -> impl Future<Output = Result<(), MetadataError>> + Send + 'static {
        let (done, outcome) = oneshot::channel();
        self.propose_then(changes, move |result| {
            let _ = done.send(result);
        });
        async move { outcome.await.unwrap_or(Err(MetadataError::Closed)) }
    }

    fn propose_then(
        &self,
        changes: Vec<Change>,
        done: impl FnOnce(Result<(), MetadataError>) + Send + 'static,
    ) {
        match self.queue.try_send(Message::Propose(changes, Box::new(done))) {
            Ok(())
            | Err(TrySendError::Full(Message::Stop) | TrySendError::Disconnected(Message::Stop)) => {
            }
            Err(TrySendError::Full(Message::Propose(_, done))) => done(Err(MetadataError::Busy)),
            Err(TrySendError::Disconnected(Message::Propose(_, done))) => {
                done(Err(MetadataError::Closed));
            }
        }
    }
}

/// The metadata of a leader, open until dropped.
#[derive(Debug)]
pub struct LocalMetadata {
    handle: MetadataHandle,
    state: State,
    found: Found,
    thread: Option<Running>,
}

impl LocalMetadata {
    /// Locks the directory, which is made if it is missing, and opens the metadata in it.
    ///
    /// # Errors
    /// If another process has the directory, the disk fails, or the metadata is damaged or from a
    /// newer build.
    pub fn open(directory: &Path) -> Result<Self, MetadataError> {
        std::fs::create_dir_all(directory).map_err(|source| MetadataError::Create {
            path: directory.to_owned(),
            source: Arc::new(source),
        })?;
        let lock = DirectoryLock::take(directory);
        let lock = lock.map_err(|error| MetadataError::Directory(Arc::new(error)))?;
        let disk = VolumeDisk::new(directory).map_err(MetadataError::io("open"))?;
        Self::start(disk, LogOptions::default(), lock)
    }

    /// Opens the metadata on a disk. `lock` is held as long as the log is in use.
    pub(super) fn start<D: Disk>(
        disk: D,
        options: LogOptions,
        lock: impl Send + 'static,
    ) -> Result<Self, MetadataError> {
        let (log, found) = MetadataLog::open(disk, options)?;
        let state = log.state().clone();
        let (queue, proposals) = bounded(QUEUE);
        let keeper = Keeper { log, proposals: proposals.clone(), _lock: lock };
        let thread = workers::start("metadata", proposals, keeper);
        let thread = thread.map_err(MetadataError::io("start the thread of"))?;
        Ok(Self { handle: MetadataHandle { queue }, state, found, thread: Some(thread) })
    }

    /// What the metadata was when it was opened, and the epoch that was begun since.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Begins the next epoch, durably: a leader does so before it says anything to anybody.
    pub async fn begin_epoch(&mut self) -> Result<Epoch, MetadataError> {
        let epoch = self.state.epoch.next();
        self.handle.propose(vec![Change::Epoch(epoch)]).await?;
        self.state.epoch = epoch;
        Ok(epoch)
    }

    /// Whether an interrupted write was found, or nothing at all.
    pub fn found(&self) -> Found {
        self.found
    }

    /// Proposes changes to this metadata.
    pub fn handle(&self) -> MetadataHandle {
        self.handle.clone()
    }
}

impl Drop for LocalMetadata {
    /// Waits until what was proposed is durable; what is proposed later is refused as closed.
    fn drop(&mut self) {
        let _ = self.handle.queue.send(Message::Stop);
        if let Some(thread) = self.thread.take() {
            thread.join();
        }
    }
}

/// The thread: until it is told to stop, or nobody is left to propose anything.
struct Keeper<D: Disk, L> {
    log: MetadataLog<D>,
    proposals: Receiver<Message>,
    _lock: L,
}

impl<D: Disk, L: Send + 'static> Worker for Keeper<D, L> {
    type Input = Message;

    fn patience(&self) -> Option<Duration> {
        Some(QUIET)
    }

    fn turn(&mut self, arrived: Result<Message, RecvTimeoutError>) -> ControlFlow<()> {
        let first = match arrived {
            Ok(first) => first,
            Err(RecvTimeoutError::Timeout) => {
                settle(&mut self.log);
                return ControlFlow::Continue(());
            }
            Err(RecvTimeoutError::Disconnected) => return ControlFlow::Break(()),
        };
        let (batch, stop) = gather(first, &self.proposals);
        commit(&mut self.log, batch);
        if stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn end(mut self) {
        settle(&mut self.log);
        for message in self.proposals.try_iter() {
            if let Message::Propose(_, done) = message {
                done(Err(MetadataError::Closed));
            }
        }
    }
}

fn settle<D: Disk>(log: &mut MetadataLog<D>) {
    // A failure is told to whoever proposes next.
    if let Err(error) = log.settle().or_else(unless_known) {
        tracing::error!(%error, "the metadata has failed");
    }
}

fn unless_known(error: MetadataError) -> Result<(), MetadataError> {
    if matches!(error, MetadataError::Failed) { Ok(()) } else { Err(error) }
}

/// Everything that has queued, and whether the end was among it.
fn gather(first: Message, proposals: &Receiver<Message>) -> (Vec<(Vec<Change>, Done)>, bool) {
    let mut batch = Vec::new();
    let mut changes = 0;
    let mut next = Some(first);
    while let Some(message) = next {
        match message {
            Message::Stop => return (batch, true),
            Message::Propose(proposed, done) => {
                changes += proposed.len();
                batch.push((proposed, done));
            }
        }
        next = if changes < BATCH_CHANGES { proposals.try_recv().ok() } else { None };
    }
    (batch, false)
}

/// Makes a batch durable with one sync, and tells everybody what became of his proposal.
fn commit<D: Disk>(log: &mut MetadataLog<D>, batch: Vec<(Vec<Change>, Done)>) {
    if batch.is_empty() {
        return;
    }
    let mut next = log.state().clone();
    let mut payload = Vec::new();
    let mut accepted: Vec<Done> = Vec::new();
    for (changes, done) in batch {
        match add(&mut next, &mut payload, &changes) {
            Ok(()) => accepted.push(done),
            Err(error) => done(Err(error)),
        }
    }
    if accepted.is_empty() {
        return;
    }
    let outcome = log.commit(next, &payload);
    if let Err(error) = &outcome {
        tracing::error!(%error, "the metadata has failed");
    }
    for done in accepted {
        done(outcome.clone());
    }
}

/// Adds one proposal to a batch, or nothing of it if some change must not be.
fn add(state: &mut State, payload: &mut Vec<u8>, changes: &[Change]) -> Result<(), MetadataError> {
    let before = payload.len();
    let encoded = changes.iter().try_for_each(|change| codec::encode(change, payload));
    let outcome = encoded.and_then(|()| Ok(state.apply_all(changes)?));
    if outcome.is_err() {
        payload.truncate(before);
    }
    outcome
}
