//! Opening a store: fresh, as it was left, torn, or damaged.

use std::sync::Arc;

use super::checkpoint;
use super::disk::{self, Disk, DiskFile};
use super::error::StorageError;
use super::guards::Guard;
use super::index::Index;
use super::log::{Active, Log};
use super::options::Options;
use super::positions::Positions;
use super::recovery::{Recovered, Recovery, RootState, Tail, read_root};
use super::root::{Listed, Root};
use super::segment::{self, Segment, Segments};
use super::shared::Shared;
use super::status::{Doubt, Status};
use super::store::Store;
use super::usage::Usage;
use crate::types::{IndexKey, PartitionCount, PartitionId};

/// What a store turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// How the log ended. A torn tail stays torn over clean stops until [`Store::trust`].
    pub tail: Tail,
    /// The store may have lost what it acknowledged: it was buffered, and the machine has started
    /// anew since. Stays so until [`Store::trust`].
    pub possible_loss: bool,
    /// Something durable was lost, now or before: that the store has nothing of a partition does not
    /// mean that it never had. Stays so for ever.
    pub doubted: bool,
    /// Partitions whose state cannot be read: the store holds them no longer, and what records of
    /// them there are wait to be vouched for. All of them if the tail is damaged.
    pub damaged: Vec<PartitionId>,
    /// The store has never been used.
    pub fresh: bool,
    /// Live records in all partitions.
    pub records: u64,
}

impl<D: Disk> Store<D> {
    /// Opens the store on this disk, or makes one if the disk is empty.
    pub fn open(
        disk: D,
        index_key: IndexKey,
        partitions: PartitionCount,
        options: Options,
    ) -> Result<(Self, Opened), StorageError> {
        options.validate()?;
        let cleaned = disk.sync_dir().and_then(|()| disk::remove_temporaries(&disk));
        cleaned.map_err(StorageError::io("open the directory"))?;
        let past_cache = options.guards().keep(Guard::ReadsPastCache);
        let root = match read_root(&disk, &index_key, partitions, past_cache)? {
            RootState::Fresh => return Self::create(disk, index_key, partitions, options),
            RootState::Found(root) => Some(root),
            RootState::Unreadable => None,
        };
        let before = Status::read(&disk)?;
        let recovered = Recovery::new(&disk, index_key, partitions, &options)?.run(root)?;
        let (tail, damaged) = (recovered.tail, recovered.damaged.clone());
        let store = Self::continue_from(disk, recovered, options)?;
        let status = Status::after(&before, tail, !damaged.is_empty(), &store.options);
        status.write(&store.shared.disk)?;
        let doubt = status.doubt();
        let opened = Opened {
            tail: if tail == Tail::Clean && doubt != Doubt::None { Tail::Torn } else { tail },
            possible_loss: doubt == Doubt::Loss,
            doubted: status.lost_something(),
            damaged,
            fresh: false,
            records: store.reader().records(),
        };
        Ok((store, opened))
    }

    /// The store was compared with an in-sync one, or all of it was copied anew: what it holds is
    /// trusted again.
    pub fn trust(&mut self) -> Result<(), StorageError> {
        self.shared.healthy()?;
        let status = Status::read(&self.shared.disk)?.trusted(&self.options);
        match status.write(&self.shared.disk) {
            Err(StorageError::Io { source, .. }) if super::store::is_full(&source) => {
                Err(self.not_replaced(source))
            }
            written => written,
        }
    }

    fn create(
        disk: D,
        key: IndexKey,
        partitions: PartitionCount,
        options: Options,
    ) -> Result<(Self, Opened), StorageError> {
        remove_segments(&disk).map_err(StorageError::io("clear an unfinished store"))?;
        let guards = options.guards();
        let segments = Segments::open(&disk).map_err(StorageError::io("open the directory"))?;
        let index = Index::new(key, partitions, guards);
        Status::new(&options, Doubt::None).write(&disk)?;
        let recovered = Recovered {
            index,
            usage: Usage::default(),
            segments,
            root: Root { mark: 0, next_generation: 1, listed: Vec::new() },
            positions: Positions::new(partitions),
            next_number: 1,
            offset: 0,
            tail: Tail::Clean,
            damaged: Vec::new(),
        };
        let mut store = Self::in_new_segment(disk, recovered, options, false)?;
        store.append_empty(false)?;
        let opened = Opened {
            tail: Tail::Clean,
            possible_loss: false,
            doubted: false,
            damaged: Vec::new(),
            fresh: true,
            records: 0,
        };
        Ok((store, opened))
    }

    fn continue_from(
        disk: D,
        recovered: Recovered<D>,
        options: Options,
    ) -> Result<Self, StorageError> {
        let last = recovered.root.listed.last().copied();
        let segment = last.and_then(|last| recovered.segments.get(last.id));
        let mut store = match (recovered.tail, last, segment) {
            (Tail::Clean | Tail::Torn, Some(last), Some(segment)) => {
                let active = Active {
                    id: last.id,
                    generation: last.generation,
                    segment,
                    offset: recovered.offset,
                };
                Self::with_active(disk, recovered, options, active)
            }
            _ => Self::in_new_segment(disk, recovered, options, true)?,
        };
        store.append_empty(false)?;
        store.settle_damaged()?;
        store.remove_unusable()?;
        // Whatever is garbage now may have died at any time.
        let sealed = store.sealed();
        let garbage =
            sealed.iter().map(|(id, it)| it.bytes.saturating_sub(store.usage.of(*id).bytes));
        store.usage.died_bytes += garbage.sum::<u64>();
        Ok(store)
    }

    fn with_active(
        disk: D,
        recovered: Recovered<D>,
        options: Options,
        active: Active<D::File>,
    ) -> Self {
        let Recovered { index, usage, segments, root, positions, next_number, damaged, .. } =
            recovered;
        let synced = next_number.saturating_sub(1);
        let shared = Arc::new(Shared::new(disk, index, segments, options.guards(), synced));
        let log = Log::new(Arc::clone(&shared), active, next_number);
        let mut store = Self::from_parts(shared, log, usage, root, positions, options);
        store.progress.damaged = damaged;
        store
    }

    /// Lets the log begin anew in a segment of its own, everything before it in checkpoints. Until
    /// the root is replaced, the store is as damaged as it was: checkpoints lie ahead of its log.
    fn in_new_segment(
        disk: D,
        mut recovered: Recovered<D>,
        options: Options,
        damaged: bool,
    ) -> Result<Self, StorageError> {
        let failed = || StorageError::io("make a segment");
        let id = recovered.segments.unused_id().ok_or(StorageError::Failed)?;
        let file = disk.create(&segment::name_of(id)).map_err(failed())?;
        let bytes = options.segment_bytes;
        let made = file.allocate(bytes).and_then(|()| file.sync());
        made.and_then(|()| disk.sync_dir()).map_err(failed())?;
        let segment = recovered.segments.put(id, Segment { file, bytes });
        let generation = recovered.root.next_generation.max(1);
        let active = Active { id, generation, segment, offset: 0 };
        recovered.damaged.clear();
        let mut store = Self::with_active(disk, recovered, options, active);
        if damaged {
            let all = store.all_checkpoints();
            store.write_checkpoints(&all)?;
        }
        let root = Root {
            mark: store.shared.synced(),
            next_generation: generation + 1,
            listed: vec![Listed { id, generation, first: store.log.next_number }],
        };
        store.write_root(&root)?;
        store.root = root;
        store.refresh_space();
        Ok(store)
    }

    /// Replaces the checkpoints that cannot be read by ones that say that nothing is held.
    fn settle_damaged(&mut self) -> Result<(), StorageError> {
        let damaged = std::mem::take(&mut self.progress.damaged);
        if damaged.is_empty() { Ok(()) } else { self.write_checkpoints(&damaged) }
    }

    /// Writes these checkpoints as of the last frame, which is synced.
    pub(super) fn write_checkpoints(
        &mut self,
        partitions: &[PartitionId],
    ) -> Result<(), StorageError> {
        let position = self.log.next_number - 1;
        let written = self.write_checkpoint_files(partitions, position);
        match written {
            Ok(()) => {
                for partition in partitions {
                    self.positions.set(*partition, position);
                }
                Ok(())
            }
            Err(error) if super::store::is_full(&error) => Err(self.not_replaced(error)),
            Err(error) => self.shared.guarded(Err(StorageError::io("write a checkpoint")(error))),
        }
    }

    fn write_checkpoint_files(
        &self,
        partitions: &[PartitionId],
        position: u64,
    ) -> std::io::Result<()> {
        let synced = self.options.guards().keep(Guard::CheckpointContentSynced);
        let index = &self.shared.index;
        let mut names = Vec::with_capacity(partitions.len());
        for partition in partitions {
            let bytes = match index.partition(*partition) {
                Some(held) => checkpoint::encode(*partition, position, &held.read()),
                None => checkpoint::encode_store(position, index.promised()),
            };
            let name = checkpoint::name_of(*partition);
            disk::prepare(&self.shared.disk, &name, &bytes, synced)?;
            names.push(name);
        }
        disk::publish(&self.shared.disk, &names)
    }
}

/// Segments without a root are what an interrupted creation left: nothing was written into them.
fn remove_segments<D: Disk>(disk: &D) -> std::io::Result<()> {
    for name in disk.list()?.iter().filter(|name| segment::id_of(name).is_some()) {
        disk.remove(name)?;
    }
    disk.sync_dir()
}
