//! The rules that tests can break on purpose.
//!
//! A test that cannot fail proves nothing: each rule named here can be switched off in test builds,
//! and a test then shows that something is lost. In every other build they are all on, and cost
//! nothing.

/// A rule of the store's design.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Guard {
    /// Rotation syncs the active segment before the new root is written.
    RotationSyncs,
    /// Rotation makes the new root durable before a frame is written into the new segment.
    RootIsDurable,
    /// A segment that the root lists is not free.
    ListedIsNotFree,
    /// A segment that a reader holds is not free.
    ReadIsNotFree,
    /// A segment is not free before what made its last entry dead is synced.
    DeathIsSynced,
    /// A checkpoint is taken only at a position that is synced.
    CheckpointIsSynced,
    /// A checkpoint's content is synced before it gets its name.
    CheckpointContentSynced,
    /// An unreadable checkpoint is damage, not an empty partition.
    CheckpointIsNeeded,
    /// Compaction's records change only the place of an entry with that very version.
    MoveNeverCreates,
    /// Unvouched entries lose every comparison of versions.
    UnvouchedLoses,
    /// A copy's end drops what nobody vouched for.
    FinishDrops,
    /// Writes at or below the garbage floor are not applied.
    FloorStopsPuts,
    /// Copied live records are not subject to the garbage floor.
    FloorSparesInstalls,
    /// Records are installed only while a copy is under way.
    InstallOnlyInShadow,
    /// Recovery reads what the device holds, not what memory shows.
    ReadsPastCache,
    /// Later frames that still verify behind a torn tail are destroyed.
    LaterFramesZeroed,
    /// A frame missing at or below a mark is damage.
    MarksShowDamage,
    /// A later frame that verifies is not damage by itself.
    LaterFrameIsNotDamage,
    /// Frames share no page.
    FramesAligned,
    /// After a failed write or sync the store serves no more.
    FailureIsFinal,
    /// A value is checked against its key and checksum before it is returned.
    ReadsVerified,
    /// Writes of values leave the reserve of the disk alone.
    ReserveIsKept,
}

/// Which rules are on.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Guards {
    #[cfg(test)]
    off: Option<Guard>,
}

impl Guards {
    /// All rules but this one.
    #[cfg(test)]
    pub(crate) fn without(guard: Guard) -> Self {
        Self { off: Some(guard) }
    }

    /// Whether the rule is on.
    #[cfg(test)]
    pub(crate) fn keep(self, guard: Guard) -> bool {
        self.off != Some(guard)
    }

    /// Whether the rule is on: always.
    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "the same call as in test builds")]
    pub(crate) fn keep(self, _guard: Guard) -> bool {
        true
    }
}
