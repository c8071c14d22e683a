//! The log of the metadata, synchronous: open, append, and nothing else.
//!
//! One file, `metadata`. Its first frame is a snapshot: the format, and the changes that make the
//! state out of nothing. Each frame after it holds the changes of one append, and is synced before
//! the append returns. When the file is full, the state - the new changes included - is written as
//! the snapshot of a new file, which replaces the old one: then that is what made them durable.
//!
//! # Torn or damaged?
//!
//! Frames are numbered without gaps, and one is written only when the one before is synced, so each
//! says that all before it were durable. Let `n` be the first that does not verify. If any later
//! one does, `n` was durable: that is damage, and so is a snapshot that does not verify, because it
//! got its name only when it was synced. Otherwise `n` is an interrupted write that nobody was told
//! of. What this cannot tell apart is damage to exactly the last frame; so [`MetadataLog::settle`]
//! writes an empty frame behind it as soon as there is time.

use bytes::{Buf, BufMut};

use super::{Change, MetadataError, State, codec};
use crate::storage::disk::{self, Disk, DiskFile};
use crate::storage::frame::{self, Builder, FrameKey, Header, PAGE_BYTES};
use crate::types::IndexKey;

/// The file.
const NAME: &str = "metadata";
/// What a snapshot begins with.
const MAGIC: &[u8; 8] = b"HKMETA\r\n";
const FORMAT: u32 = 1;
/// Metadata has no secrets of clients in it; this only tells its frames from those of stores.
const KEY: IndexKey = IndexKey(*b"hatokuse metadat");
/// A file longer than this was not written by us.
const MAX_FILE_BYTES: u64 = 1 << 30;

/// How large things are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// Room for changes after a snapshot; a multiple of a page.
    pub log_bytes: u64,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self { log_bytes: 4 << 20 }
    }
}

/// What was found when the log was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing: this is new.
    Nothing,
    /// Everything that was ever written.
    Whole,
    /// An interrupted write at the end, which was cut off; nobody had been told that it was done.
    Torn,
}

/// The log, and the state it adds up to.
#[derive(Debug)]
pub struct MetadataLog<D: Disk> {
    disk: D,
    options: LogOptions,
    file: D::File,
    state: State,
    builder: Builder,
    generation: u64,
    /// The number of the last frame.
    number: u64,
    /// Where the next frame goes.
    offset: u64,
    /// How long the file is.
    size: u64,
    /// The last frame holds changes, and no frame after it says that it was durable.
    unsettled: bool,
    failed: bool,
}

/// The frames of a file, replayed.
struct Replayed {
    state: State,
    generation: u64,
    number: u64,
    /// Behind the last frame that verifies.
    end: usize,
    last_is_empty: bool,
}

impl<D: Disk> MetadataLog<D> {
    /// Opens the log in this directory, or begins one.
    ///
    /// # Errors
    /// If the disk fails, or the log is damaged or from a newer build; then nothing was changed.
    pub fn open(disk: D, options: LogOptions) -> Result<(Self, Found), MetadataError> {
        let exists =
            disk.list().map_err(MetadataError::io("list"))?.iter().any(|name| name == NAME);
        if !exists {
            return Ok((Self::begin(disk, options)?, Found::Nothing));
        }
        let (file, bytes) = read_durable(&disk)?;
        let replayed = replay(&bytes)?;
        let torn = torn_bytes(&bytes, &replayed)?;
        let mut log = Self {
            disk,
            options,
            file,
            state: replayed.state,
            builder: Builder::default(),
            generation: replayed.generation,
            number: replayed.number,
            offset: replayed.end as u64,
            size: bytes.len() as u64,
            unsettled: torn > 0 || !replayed.last_is_empty,
            failed: false,
        };
        log.file.write_at(log.offset, &vec![0; torn]).map_err(MetadataError::io("write"))?;
        // An empty frame takes the place of a torn one, and says that the last was durable.
        log.settle()?;
        disk::remove_temporaries(&log.disk).map_err(MetadataError::io("tidy up"))?;
        Ok((log, if torn > 0 { Found::Torn } else { Found::Whole }))
    }

    fn begin(disk: D, options: LogOptions) -> Result<Self, MetadataError> {
        let state = State::default();
        let mut builder = Builder::default();
        let (file, offset, size) = write_snapshot(&disk, options, &mut builder, &state, 1, 1)?;
        Ok(Self {
            disk,
            options,
            file,
            state,
            builder,
            generation: 1,
            number: 1,
            offset,
            size,
            unsettled: false,
            failed: false,
        })
    }

    /// What all changes so far add up to.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Makes changes durable, all or none.
    ///
    /// # Errors
    /// If a change must not be: then nothing was changed. If the disk fails: then the log is of no
    /// use any more, and whether the changes are durable is known after reopening.
    pub fn append(&mut self, changes: &[Change]) -> Result<(), MetadataError> {
        let mut next = self.state.clone();
        next.apply_all(changes)?;
        let mut payload = Vec::new();
        changes.iter().try_for_each(|change| codec::encode(change, &mut payload))?;
        self.commit(next, &payload)
    }

    /// As [`Self::append`], for changes that were applied and encoded already.
    pub(super) fn commit(&mut self, next: State, payload: &[u8]) -> Result<(), MetadataError> {
        if self.failed {
            return Err(MetadataError::Failed);
        }
        // Room for an empty frame is kept, so that the last changes can always be settled.
        let needed = frame::stored_bytes(payload.len()) + PAGE_BYTES;
        let written = if self.offset + needed as u64 <= self.size {
            self.write(payload)
        } else {
            self.replace(&next)
        };
        self.failed = written.is_err();
        written?;
        self.state = next;
        Ok(())
    }

    /// Writes down that the last changes are durable, so that damage to them is known for damage.
    /// Does nothing if that was done.
    pub fn settle(&mut self) -> Result<(), MetadataError> {
        if self.failed {
            return Err(MetadataError::Failed);
        }
        if !self.unsettled {
            return Ok(());
        }
        let written = self.write(&[]);
        self.failed = written.is_err();
        written
    }

    /// Whether [`Self::settle`] has something to do.
    pub fn is_unsettled(&self) -> bool {
        self.unsettled
    }

    fn write(&mut self, payload: &[u8]) -> Result<(), MetadataError> {
        let header = Header {
            number: self.number + 1,
            mark: self.number,
            generation: self.generation,
            closed: false,
        };
        self.builder.begin();
        self.builder.push(payload);
        let bytes = self.builder.finish(FrameKey::new(KEY), self.offset, header);
        self.file.write_at(self.offset, bytes).map_err(MetadataError::io("write"))?;
        self.file.sync().map_err(MetadataError::io("sync"))?;
        self.offset += bytes.len() as u64;
        self.size = self.size.max(self.offset);
        self.number += 1;
        self.unsettled = !payload.is_empty();
        Ok(())
    }

    /// Begins a new file with this state.
    fn replace(&mut self, state: &State) -> Result<(), MetadataError> {
        let (number, generation) = (self.number + 1, self.generation + 1);
        let written =
            write_snapshot(&self.disk, self.options, &mut self.builder, state, number, generation)?;
        (self.file, self.offset, self.size) = written;
        (self.number, self.generation, self.unsettled) = (number, generation, false);
        Ok(())
    }
}

/// Writes a file that begins with this state under the name of the log, durably. Says where the
/// next frame goes, and how long the file is.
fn write_snapshot<D: Disk>(
    disk: &D,
    options: LogOptions,
    builder: &mut Builder,
    state: &State,
    number: u64,
    generation: u64,
) -> Result<(D::File, u64, u64), MetadataError> {
    let mut payload = MAGIC.to_vec();
    payload.put_u32_le(FORMAT);
    for change in state.changes() {
        codec::encode(&change, &mut payload)?;
    }
    builder.begin();
    builder.push(&payload);
    let header = Header { number, mark: number, generation, closed: false };
    let mut bytes = builder.finish(FrameKey::new(KEY), 0, header).to_vec();
    let offset = bytes.len() as u64;
    // Zeroed ahead of need: a sync then has no length and no new blocks to write down.
    bytes.resize(bytes.len() + usize::try_from(options.log_bytes).unwrap_or(0), 0);
    disk::replace(disk, NAME, &bytes).map_err(MetadataError::io("replace"))?;
    let file = disk.open(NAME).map_err(MetadataError::io("open"))?;
    Ok((file, offset, bytes.len() as u64))
}

/// The file's content as the device has it. After a kill, memory may show what the next power cut
/// would take away: so it is synced, and what a failed sync has lost is read anew.
fn read_durable<D: Disk>(disk: &D) -> Result<(D::File, Vec<u8>), MetadataError> {
    disk.sync_dir().map_err(MetadataError::io("sync"))?;
    let file = disk.open(NAME).map_err(MetadataError::io("open"))?;
    file.sync().map_err(MetadataError::io("sync"))?;
    file.drop_cache().map_err(MetadataError::io("read"))?;
    let size = file.size().map_err(MetadataError::io("read"))?;
    if size > MAX_FILE_BYTES {
        return Err(damaged(0, format!("{size} bytes are more than metadata can have")));
    }
    let bytes = disk::read_whole(disk, NAME).map_err(MetadataError::io("read"))?;
    Ok((file, bytes))
}

fn damaged(offset: usize, problem: impl Into<String>) -> MetadataError {
    MetadataError::Damaged { offset: offset as u64, problem: problem.into() }
}

fn frame_at(bytes: &[u8], offset: usize) -> Option<frame::Frame<'_>> {
    frame::decode(FrameKey::new(KEY), offset as u64, bytes.get(offset..)?)
}

/// Reads the snapshot and every frame after it up to the first that does not verify.
fn replay(bytes: &[u8]) -> Result<Replayed, MetadataError> {
    let snapshot = frame_at(bytes, 0).ok_or_else(|| damaged(0, "the snapshot does not verify"))?;
    let mut replayed = Replayed {
        state: State::default(),
        generation: snapshot.header.generation,
        number: snapshot.header.number,
        end: snapshot.stored_bytes(),
        last_is_empty: true,
    };
    apply_all(&mut replayed.state, after_format(snapshot.payload)?, 0)?;
    while let Some(frame) = frame_at(bytes, replayed.end) {
        let header = frame.header;
        if header.generation != replayed.generation || header.number != replayed.number + 1 {
            break;
        }
        apply_all(&mut replayed.state, frame.payload, replayed.end)?;
        replayed.number = header.number;
        replayed.end += frame.stored_bytes();
        replayed.last_is_empty = frame.payload.is_empty();
    }
    Ok(replayed)
}

/// What follows the format of a snapshot.
fn after_format(payload: &[u8]) -> Result<&[u8], MetadataError> {
    let rest = payload.strip_prefix(MAGIC.as_slice());
    let mut rest = rest.ok_or_else(|| damaged(0, "the file is not metadata"))?;
    let found = rest.try_get_u32_le().map_err(|_| damaged(0, "the format is missing"))?;
    if found != FORMAT {
        return Err(MetadataError::Format { found, known: FORMAT });
    }
    Ok(rest)
}

fn apply_all(state: &mut State, mut payload: &[u8], offset: usize) -> Result<(), MetadataError> {
    while !payload.is_empty() {
        let change = codec::decode(&mut payload);
        let change = change.ok_or_else(|| damaged(offset, "a change makes no sense"))?;
        state.apply(&change).map_err(|problem| damaged(offset, problem.to_string()))?;
    }
    Ok(())
}

/// How many bytes of an interrupted write lie behind the frames. Damage if a later frame verifies.
fn torn_bytes(bytes: &[u8], replayed: &Replayed) -> Result<usize, MetadataError> {
    let rest = (replayed.end..bytes.len()).step_by(PAGE_BYTES);
    let later = rest.filter_map(|offset| frame_at(bytes, offset)).find(|frame| {
        frame.header.generation == replayed.generation && frame.header.mark > replayed.number
    });
    if let Some(later) = later {
        let problem = format!(
            "frame {} does not verify, though it was durable before frame {} was written",
            replayed.number + 1,
            later.header.number
        );
        return Err(damaged(replayed.end, problem));
    }
    let rest = bytes.get(replayed.end..).unwrap_or(&[]);
    Ok(rest.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1))
}
