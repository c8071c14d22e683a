//! What goes to the log in one commit, and what follows once it is there.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tonic::Status;

use crate::node::mover::Copy;
use crate::node::stream::{LeaderStream, Told};
use crate::protocol::control::Control;
use crate::rpc::v1;
use crate::types::{Moment, PartitionId, Token, Version};

/// A fence to be answered.
#[derive(Debug)]
pub(crate) struct Fence {
    pub(crate) stream: Arc<LeaderStream>,
    pub(crate) partition: PartitionId,
    pub(crate) token: Token,
    pub(crate) attempt: u64,
    pub(crate) member: bool,
}

/// Who waits for a stream to be opened.
pub(crate) type Opening = oneshot::Sender<Result<(), Status>>;

/// The sections of a batch, kept in case there is no room for them.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) stream: Arc<LeaderStream>,
    pub(crate) batch: u64,
    pub(crate) sections: Vec<v1::Section>,
}

/// One commit.
#[derive(Debug, Default)]
pub(crate) struct Group {
    /// What is written, in order.
    pub(crate) log: Vec<Bytes>,
    /// The control records in it, in order.
    pub(crate) controls: Vec<Bytes>,
    pub(crate) bytes: usize,
    pub(crate) records: u64,
    pub(crate) batches: u64,
    /// When the first batch with records in it had arrived.
    pub(crate) clients_wait_since: Option<Moment>,
    pub(crate) stored: Vec<Stored>,
    pub(crate) installed: Vec<Arc<Copy>>,
    /// Records that take the place of ones that cannot be read.
    pub(crate) restored: Vec<Bytes>,
    pub(crate) told: Vec<(Arc<LeaderStream>, Told)>,
    pub(crate) fences: Vec<Fence>,
    pub(crate) openings: Vec<Opening>,
    pub(crate) started: Vec<Arc<Copy>>,
    pub(crate) ends: Vec<(Arc<LeaderStream>, Status)>,
    pub(crate) watermarks: Vec<(PartitionId, Version)>,
    /// Something is to be written, though there may be nothing to store.
    pub(crate) probe: bool,
    /// The epoch promised or a membership changed, which must survive even where values may not.
    pub(crate) has_changes: bool,
    /// Partitions whose membership changed.
    pub(crate) changed: Vec<PartitionId>,
    /// Room in the queue that is free again after the commit.
    pub(crate) rooms: Vec<OwnedSemaphorePermit>,
}

impl Group {
    /// Whether nothing has to be written or said.
    pub(crate) fn is_idle(&self) -> bool {
        self.log.is_empty()
            && self.told.is_empty()
            && self.fences.is_empty()
            && self.openings.is_empty()
            && self.ends.is_empty()
            && self.changed.is_empty()
            && self.started.is_empty()
            && self.restored.is_empty()
    }

    /// Adds records to what is written.
    pub(crate) fn write(&mut self, records: Bytes) {
        if !records.is_empty() {
            self.bytes += records.len();
            self.log.push(records);
        }
    }

    /// Adds a control record to what is written.
    pub(crate) fn control(&mut self, partition: PartitionId, control: &Control) {
        let mut buffer = BytesMut::new();
        // Encoding fails only for keys and values that are too long; control records have neither.
        if control.encode(partition, &mut buffer).is_ok() {
            let record = buffer.freeze();
            self.controls.push(record.clone());
            self.write(record);
        }
    }

    /// Adds to what is told to a stream. Nearly always there is one only, so the last is looked at.
    pub(crate) fn tell(&mut self, stream: &Arc<LeaderStream>, add: impl FnOnce(&mut Told)) {
        if let Some((last, told)) = self.told.last_mut()
            && last.id() == stream.id()
        {
            return add(told);
        }
        let mut told = Told::default();
        add(&mut told);
        self.told.push((Arc::clone(stream), told));
    }

    /// Tells a stream that something was not carried out.
    pub(crate) fn refuse(
        &mut self,
        stream: &Arc<LeaderStream>,
        batch: u64,
        partition: u32,
        token: u64,
        reason: String,
    ) {
        let refusal = v1::Refusal { batch, partition, token, reason };
        self.tell(stream, |told| told.refusals.push(refusal));
    }

    /// Nothing but the control records is written; whoever sent records is told why.
    pub(crate) fn drop_records(&mut self, reason: &str) {
        self.watermarks.clear();
        for stored in std::mem::take(&mut self.stored) {
            for section in stored.sections.iter().filter(|section| section.records > 0) {
                let (partition, token) = (section.partition, section.token);
                self.refuse(&stored.stream, stored.batch, partition, token, reason.into());
            }
        }
    }
}
