//! The way to the commit thread: what waits there is bounded in bytes.

use std::sync::Arc;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tonic::Status;

use super::group::Opening;
use crate::node::mover::Copy;
use crate::node::stream::LeaderStream;
use crate::rpc::v1;
use crate::runtime::clock;
use crate::types::Moment;

/// Records and orders that may wait for the commit thread.
const QUEUE_BYTES: usize = 32 << 20;
/// Copied records that may wait besides.
const COPY_QUEUE_BYTES: usize = 8 << 20;
/// Room is counted in units of this.
const ROOM_UNIT: usize = 1 << 10;
/// A batch takes this much besides its records.
const BATCH_OVERHEAD: usize = 256;

/// What arrives at the commit thread.
#[derive(Debug)]
pub(crate) enum Input {
    Open {
        stream: Arc<LeaderStream>,
        opened: Opening,
    },
    Batch {
        stream: Arc<LeaderStream>,
        batch: v1::Batch,
        arrived: Moment,
        room: OwnedSemaphorePermit,
    },
    Ended {
        stream: Arc<LeaderStream>,
    },
    Install {
        copy: Arc<Copy>,
        records: Bytes,
        room: OwnedSemaphorePermit,
    },
    Copied {
        copy: Arc<Copy>,
        outcome: Result<u64, String>,
    },
    /// A record of a whole copy cannot be read.
    Unreadable(v1::Unreadable),
    Stop,
}

/// The commit thread has ended; the process is about to.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the node is stopping")]
pub(crate) struct Stopped;

impl From<Stopped> for Status {
    fn from(stopped: Stopped) -> Self {
        Self::unavailable(stopped.to_string())
    }
}

/// The way to the commit thread. What waits there is bounded in bytes.
#[derive(Clone, Debug)]
pub(crate) struct Commits {
    inputs: Sender<Input>,
    room: Arc<Semaphore>,
    copy_room: Arc<Semaphore>,
}

/// The commit thread's end of [`Commits`].
#[derive(Debug)]
pub(crate) struct Inputs(pub(super) Receiver<Input>);

/// A queue to a commit thread that is yet to be started.
pub(crate) fn queue() -> (Commits, Inputs) {
    // Not bounded in itself: everything of size in it holds room, and the rest is one per stream or copy.
    let (inputs, receiver) = crossbeam_channel::unbounded();
    let room = |bytes: usize| Arc::new(Semaphore::new(bytes / ROOM_UNIT));
    let (room, copy_room) = (room(QUEUE_BYTES), room(COPY_QUEUE_BYTES));
    (Commits { inputs, room, copy_room }, Inputs(receiver))
}

async fn take_room(
    room: &Arc<Semaphore>,
    bytes: usize,
    most: usize,
) -> Result<OwnedSemaphorePermit, Stopped> {
    let units = (bytes + BATCH_OVERHEAD).div_ceil(ROOM_UNIT).min(most / ROOM_UNIT);
    let units = u32::try_from(units).unwrap_or(u32::MAX);
    Arc::clone(room).acquire_many_owned(units).await.map_err(|_| Stopped)
}

impl Commits {
    fn send(&self, input: Input) -> Result<(), Stopped> {
        self.inputs.send(input).map_err(|_| Stopped)
    }

    /// Opens a stream: completes when the epoch of its leader is durably promised.
    pub(crate) async fn open(&self, stream: Arc<LeaderStream>) -> Result<(), Status> {
        let (opened, answer) = oneshot::channel();
        self.send(Input::Open { stream, opened })?;
        answer.await.map_err(|_| Stopped)?
    }

    /// Hands over a batch, when there is room for it. What follows is told to the stream.
    pub(crate) async fn batch(
        &self,
        stream: &Arc<LeaderStream>,
        batch: v1::Batch,
    ) -> Result<(), Stopped> {
        let arrived = clock::now();
        let bytes = batch.records.len() + 32 * (batch.sections.len() + batch.orders.len());
        let room = take_room(&self.room, bytes, QUEUE_BYTES).await?;
        self.send(Input::Batch { stream: Arc::clone(stream), batch, arrived, room })
    }

    /// A stream ended: nothing more comes from it.
    pub(crate) fn ended(&self, stream: Arc<LeaderStream>) {
        let _ = self.send(Input::Ended { stream });
    }

    /// Hands over copied records, when there is room for them.
    pub(crate) async fn install(&self, copy: &Arc<Copy>, records: Bytes) -> Result<(), Stopped> {
        let room = take_room(&self.copy_room, records.len(), COPY_QUEUE_BYTES).await?;
        self.send(Input::Install { copy: Arc::clone(copy), records, room })
    }

    /// A copy ended.
    pub(crate) fn copied(&self, copy: Arc<Copy>, outcome: Result<u64, String>) {
        let _ = self.send(Input::Copied { copy, outcome });
    }

    /// The leader is to hear of a record of a whole copy that cannot be read.
    pub(crate) fn unreadable(&self, record: v1::Unreadable) {
        let _ = self.send(Input::Unreadable(record));
    }

    /// Asks the thread to finish what it was given, close the store and end.
    pub(crate) fn stop(&self) {
        let _ = self.send(Input::Stop);
    }
}
