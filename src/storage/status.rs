//! What a store must remember about its own trustworthiness, in a small file beside the log.
//!
//! A tail that was torn, and a buffered store that found another boot of its machine, are in doubt
//! until compared with a healthy copy - also after a clean stop in between.

use std::io;

use super::disk::{self, Disk};
use super::error::StorageError;
use super::options::{IoMode, Options};
use super::recovery::Tail;

const NAME: &str = "status";

/// Why a store is not to be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Doubt {
    None,
    /// The tail was torn.
    Torn,
    /// What was acknowledged may be gone.
    Loss,
}

/// The content of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Status {
    io_mode: IoMode,
    machine_boot: String,
    doubt: Doubt,
    /// Something durable was unreadable once: that nothing is there of a partition proves nothing,
    /// also after everything that is there was compared.
    damaged: bool,
}

impl Doubt {
    /// The doubt about a store that was in this state and whose log ended so.
    fn after(before: &Status, tail: Tail, damaged: bool, options: &Options) -> Self {
        let known = if damaged { before.doubt.max(Self::Torn) } else { before.doubt };
        if tail == Tail::Clean {
            return known;
        }
        let same_boot = options
            .machine_boot
            .as_ref()
            .is_some_and(|boot| !boot.is_empty() && *boot == before.machine_boot);
        let lost = before.io_mode == IoMode::Buffered && !same_boot;
        if lost { Self::Loss } else { known.max(Self::Torn) }
    }

    fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Torn => "torn",
            Self::Loss => "loss",
        }
    }
}

impl Status {
    pub(crate) fn new(options: &Options, doubt: Doubt) -> Self {
        let boot = options.machine_boot.clone().unwrap_or_default();
        let machine_boot = boot.split_whitespace().collect();
        Self { io_mode: options.io_mode, machine_boot, doubt, damaged: false }
    }

    /// The state of a store that was in the state `before` and turned out to end so.
    pub(crate) fn after(before: &Self, tail: Tail, damaged: bool, options: &Options) -> Self {
        let damaged = damaged || matches!(tail, Tail::Damaged(_));
        let doubt = Doubt::after(before, tail, damaged, options);
        Self { damaged: before.damaged || damaged, ..Self::new(options, doubt) }
    }

    /// How far what the store holds is in doubt.
    pub(crate) fn doubt(&self) -> Doubt {
        self.doubt
    }

    /// Whether that the store has nothing of a partition does not mean that it never had.
    pub(crate) fn lost_something(&self) -> bool {
        self.damaged || self.doubt == Doubt::Loss
    }

    /// What the store holds was compared. What it once lost stays lost.
    pub(crate) fn trusted(&self, options: &Options) -> Self {
        Self { damaged: self.lost_something(), ..Self::new(options, Doubt::None) }
    }

    /// What the file says. One that is missing or cannot be read leaves everything in doubt.
    pub(crate) fn read<D: Disk>(disk: &D) -> Result<Self, StorageError> {
        match disk::read_whole(disk, NAME) {
            Ok(bytes) => Ok(Self::parse(&bytes).unwrap_or_else(Self::worst)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::worst()),
            Err(error) => Err(StorageError::io("read the status")(error)),
        }
    }

    fn worst() -> Self {
        Self {
            io_mode: IoMode::Buffered,
            machine_boot: String::new(),
            doubt: Doubt::Torn,
            damaged: false,
        }
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut lines = std::str::from_utf8(bytes).ok()?.lines();
        let mut value = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix('=');
        if value("format")? != "1" {
            return None;
        }
        let io_mode = match value("io_mode")? {
            "unbuffered" => IoMode::Unbuffered,
            "buffered" => IoMode::Buffered,
            _ => return None,
        };
        let machine_boot = value("machine_boot")?.to_owned();
        let doubt = value("doubt")?;
        let doubt = [Doubt::None, Doubt::Torn, Doubt::Loss]
            .into_iter()
            .find(|known| known.name() == doubt)?;
        let damaged = match value("damaged").unwrap_or("no") {
            "no" => false,
            "yes" => true,
            _ => return None,
        };
        Some(Self { io_mode, machine_boot, doubt, damaged })
    }

    fn text(&self) -> String {
        let io_mode = match self.io_mode {
            IoMode::Unbuffered => "unbuffered",
            IoMode::Buffered => "buffered",
        };
        let (boot, doubt) = (&self.machine_boot, self.doubt.name());
        let damaged = if self.damaged { "yes" } else { "no" };
        format!(
            "format=1\nio_mode={io_mode}\nmachine_boot={boot}\ndoubt={doubt}\ndamaged={damaged}\n"
        )
    }

    /// Makes the file say this, if it does not yet.
    pub(crate) fn write<D: Disk>(&self, disk: &D) -> Result<(), StorageError> {
        let text = self.text();
        if disk::read_whole(disk, NAME).is_ok_and(|bytes| bytes == text.as_bytes()) {
            return Ok(());
        }
        disk::replace(disk, NAME, text.as_bytes()).map_err(StorageError::io("write the status"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::disk::simulated::SimulatedDisk;

    fn options(io_mode: IoMode, boot: &str) -> Options {
        Options { io_mode, machine_boot: Some(boot.into()), ..Options::default() }
    }

    #[test]
    fn it_is_read_back_and_nonsense_is_doubt() {
        let disk = SimulatedDisk::new(1);
        let status = Status::new(&options(IoMode::Unbuffered, "a-b"), Doubt::None);
        status.write(&disk).unwrap();
        assert_eq!(Status::read(&disk).unwrap(), status);
        disk::replace(&disk, NAME, b"format=2\n").unwrap();
        assert_eq!(Status::read(&disk).unwrap(), Status::worst());
    }

    #[test]
    fn doubt_outlives_a_clean_stop_and_another_boot_is_loss_only_if_buffered() {
        let after = |mode, boot, doubt, tail| {
            let before = Status::new(&options(mode, "one"), doubt);
            Doubt::after(&before, tail, false, &options(mode, boot))
        };
        let (buffered, unbuffered) = (IoMode::Buffered, IoMode::Unbuffered);
        assert_eq!(after(unbuffered, "one", Doubt::None, Tail::Clean), Doubt::None);
        assert_eq!(after(unbuffered, "one", Doubt::Torn, Tail::Clean), Doubt::Torn);
        assert_eq!(after(unbuffered, "two", Doubt::None, Tail::Torn), Doubt::Torn);
        assert_eq!(after(buffered, "one", Doubt::None, Tail::Torn), Doubt::Torn);
        assert_eq!(after(buffered, "two", Doubt::None, Tail::Torn), Doubt::Loss);
        assert_eq!(after(buffered, "two", Doubt::None, Tail::Clean), Doubt::None);
        assert_eq!(after(buffered, "one", Doubt::Loss, Tail::Torn), Doubt::Loss);
    }

    #[test]
    fn damage_is_remembered_for_ever() {
        let options = options(IoMode::Unbuffered, "one");
        let before = Status::new(&options, Doubt::None);
        let tail = Tail::Damaged(crate::storage::Damage::Root);
        for (tail, partition) in [(tail, false), (Tail::Clean, true)] {
            let status = Status::after(&before, tail, partition, &options);
            assert_eq!((status.doubt(), status.lost_something()), (Doubt::Torn, true));
            let disk = SimulatedDisk::new(1);
            status.trusted(&options).write(&disk).unwrap();
            let read = Status::read(&disk).unwrap();
            let later = Status::after(&read, Tail::Clean, false, &options);
            assert_eq!((later.doubt(), later.lost_something()), (Doubt::None, true));
        }
        let torn = Status::after(&before, Tail::Torn, false, &options);
        assert!(!torn.lost_something());
    }
}
