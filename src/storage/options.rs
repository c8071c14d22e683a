//! How a store is to behave.

use super::entry::MAX_SEGMENT_BYTES;
use super::error::StorageError;
use super::frame::PAGE_BYTES;
#[cfg(test)]
use super::guards::Guards;

/// When a commit counts as durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IoMode {
    /// When it is synced: survives a power cut.
    #[default]
    Unbuffered,
    /// When the operating system has it: survives a crash of the process only. The caller syncs
    /// every second, see [`Syncer`](super::reader::Syncer).
    Buffered,
}

/// How much of the disk is kept back for deletes, control records and compaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reserve {
    /// The larger of 5 % of the volume and 64 MiB.
    #[default]
    Standard,
    /// This many bytes.
    Bytes(u64),
}

impl Reserve {
    const STANDARD_BYTES: u64 = 64 << 20;

    /// The reserve on a volume of this size. At least two segments: compaction needs them.
    pub(crate) fn bytes(self, total: u64, segment_bytes: u64) -> u64 {
        let wanted = match self {
            Self::Standard => Self::STANDARD_BYTES.max(total / 20),
            Self::Bytes(bytes) => bytes,
        };
        wanted.max(segment_bytes * 2)
    }
}

/// How a store is to behave.
#[derive(Clone, Debug)]
pub struct Options {
    /// The size of a segment: a multiple of 4,096 from 64 KiB to 256 MiB. No record can be larger.
    pub segment_bytes: u64,
    /// When a commit counts as durable.
    pub io_mode: IoMode,
    /// What is kept back for deletes and compaction.
    pub reserve: Reserve,
    /// How much log a reopening should have to read, at most.
    pub tail_bytes: u64,
    /// Segments that are kept ready to be written.
    pub spare_segments: usize,
    /// This boot of the machine, if the system tells it: a buffered store that was not closed and
    /// finds another one may have lost what it acknowledged.
    pub machine_boot: Option<String>,
    /// The rules that tests switch off.
    #[cfg(test)]
    pub(crate) guards: Guards,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            io_mode: IoMode::Unbuffered,
            reserve: Reserve::Standard,
            tail_bytes: 1_500_000_000,
            spare_segments: 2,
            machine_boot: None,
            #[cfg(test)]
            guards: Guards::default(),
        }
    }
}

impl Options {
    const SMALLEST_SEGMENT: u64 = 64 << 10;

    pub(crate) fn validate(&self) -> Result<(), StorageError> {
        let bytes = self.segment_bytes;
        let aligned = bytes.is_multiple_of(PAGE_BYTES as u64);
        if !aligned || !(Self::SMALLEST_SEGMENT..=MAX_SEGMENT_BYTES).contains(&bytes) {
            return Err(StorageError::Option {
                name: "segment_bytes",
                value: bytes,
                allowed: "a multiple of 4096 from 64 KiB to 256 MiB",
            });
        }
        Ok(())
    }

    #[cfg(test)]
    pub(crate) fn guards(&self) -> Guards {
        self.guards
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "the same call as in test builds")]
    pub(crate) fn guards(&self) -> super::guards::Guards {
        super::guards::Guards::default()
    }
}
