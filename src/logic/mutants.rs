//! Mistakes that can be switched on, in test builds only, to show that the simulation would notice.
//!
//! Each is the shortcut that a rule of the contract warns of: it loses data, or tells a client
//! something untrue, or never heals. A checker that cannot fail proves nothing; so for each of these
//! a test runs seeds until one of them is caught. In every other build [`enabled`] is always false,
//! and nothing of this is left.

/// One mistake. The numbers are those of the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// 1: a store is known by its node's name, so a wiped one counts as the copy it was.
    KnownByName,
    /// 1, 17: the leader looks at no token.
    AnyToken,
    /// 2: nodes take messages of earlier epochs.
    AnyEpoch,
    /// 5: nodes acknowledge before it is durable.
    #[cfg(test)]
    EarlyAcknowledgement,
    /// 6: a member being added is not waited for.
    OldSetOnly,
    /// 7: a member is gone before its removal is durable.
    RemovedInMemory,
    /// 8: the in-sync set shrinks below the floor.
    BelowFloor,
    /// 9: what is not settled in time is called failed.
    CalledFailed,
    /// 10: a read is answered with what is not settled.
    DirtyRead,
    /// 11: what cannot be asked is called absent.
    CalledAbsent,
    /// 12: what members report is not taken up.
    NoRollForward,
    /// 12: late answers to earlier fences count, and what they report is taken up again.
    AnyAttempt,
    /// 13: members that have not answered are read and counted.
    UnpeeredCounts,
    /// 14: the watermark advances while a member has not answered.
    EarlyWatermark,
    /// 15: who comes back on a new stream is taken to hold what it was sent on the old one.
    TrustedReturn,
    /// 15: a store that stopped uncleanly is read at once.
    UncleanReadAtOnce,
    /// 15: what it acknowledged before it stopped counts on.
    UncleanAcknowledgements,
    /// 15a: a store that may have lost what it acknowledged answers as a member.
    PossibleLossAnswers,
    /// 16: a store that returns keeps its old records.
    #[cfg(test)]
    KeptRecords,
    /// 17: acknowledgements of an earlier membership count for the next.
    KeptAcknowledgements,
    /// 16: a member that lost its copy is forgotten when its new one fails.
    ForgottenMember,
    /// 18: a copy begins without what is unsettled.
    MissingUnsettled,
    /// 18: a copy is not sent what members report late.
    MissingMerged,
    /// 19: a copy is added only when nothing is unsettled.
    WaitForQuiet,
    /// 20: a copied record replaces a newer one.
    #[cfg(test)]
    InstallWins,
    /// 21: a copy is added before it has everything.
    EarlyMember,
    /// 25: each node drops tombstones by itself, some time after they came.
    #[cfg(test)]
    DroppedByAge,
    /// 25: tombstones are dropped, and no floor is made durable.
    #[cfg(test)]
    NoFloor,
    /// 25: the floor is raised above what is settled.
    FloorAboveWatermark,
    /// 25: the floor is raised while a copy is being filled.
    FloorWhileFilling,
    /// 25: the floor is raised while a member may have lost a tombstone.
    FloorInDoubt,
    /// 25: a member that had lost a tombstone keeps what a source that has dropped it does not have.
    AbsenceKeeps,
    /// 30: lost metadata is made anew from fewer than every member of the newest configurations.
    RebuiltFromSome,
    /// 30: a partition whose configuration was made anew serves like any other.
    ServedUnconfirmed,
    /// 36: a base is read from a copy although a newer version is unsettled.
    StaleBase,
    /// 37: a base is read before every member has answered.
    EarlyBase,
    /// 38: what a base says is told before it is settled.
    EarlyNotFound,
    /// 39: what was answered as too late is carried out all the same.
    LeftQueued,
    /// 42: the leader's cache holds what is not settled.
    CachedUnsettled,
    /// 42: a write leaves in the cache what it replaces.
    KeptEntry,
    /// 42: the cache of one epoch, its doors open, is that of the next.
    #[cfg(test)]
    KeptCache,
    /// 42: what was cached is told though no member stands behind it.
    OpenDoor,
    /// 43: a read caches what it found, whatever has settled meanwhile.
    OverwritingRead,
    /// 43: a read caches what it found if nothing newer is cached.
    ComparingRead,
}

#[cfg(test)]
impl Mutant {
    /// Every mistake there is.
    pub(crate) const ALL: [Self; 44] = [
        Self::KnownByName,
        Self::AnyToken,
        Self::AnyEpoch,
        Self::EarlyAcknowledgement,
        Self::OldSetOnly,
        Self::RemovedInMemory,
        Self::BelowFloor,
        Self::CalledFailed,
        Self::DirtyRead,
        Self::CalledAbsent,
        Self::NoRollForward,
        Self::AnyAttempt,
        Self::UnpeeredCounts,
        Self::EarlyWatermark,
        Self::TrustedReturn,
        Self::UncleanReadAtOnce,
        Self::UncleanAcknowledgements,
        Self::PossibleLossAnswers,
        Self::KeptRecords,
        Self::KeptAcknowledgements,
        Self::ForgottenMember,
        Self::MissingUnsettled,
        Self::MissingMerged,
        Self::WaitForQuiet,
        Self::InstallWins,
        Self::EarlyMember,
        Self::DroppedByAge,
        Self::NoFloor,
        Self::FloorAboveWatermark,
        Self::FloorWhileFilling,
        Self::FloorInDoubt,
        Self::AbsenceKeeps,
        Self::RebuiltFromSome,
        Self::ServedUnconfirmed,
        Self::StaleBase,
        Self::EarlyBase,
        Self::EarlyNotFound,
        Self::LeftQueued,
        Self::CachedUnsettled,
        Self::KeptEntry,
        Self::KeptCache,
        Self::OpenDoor,
        Self::OverwritingRead,
        Self::ComparingRead,
    ];
}

#[cfg(test)]
thread_local! {
    static ENABLED: std::cell::Cell<Option<Mutant>> = const { std::cell::Cell::new(None) };
}

/// Whether a mistake is to be made.
#[cfg(test)]
pub(crate) fn enabled(mutant: Mutant) -> bool {
    ENABLED.get() == Some(mutant)
}

/// Whether a mistake is to be made: never.
#[cfg(not(test))]
pub(crate) const fn enabled(_: Mutant) -> bool {
    false
}

/// Whether it is a mistake that only the simple store of the simulation can make.
#[cfg(test)]
pub(crate) fn enabled_in_stores() -> bool {
    use Mutant::{DroppedByAge, InstallWins, KeptRecords, NoFloor};
    [KeptRecords, InstallWins, DroppedByAge, NoFloor].into_iter().any(enabled)
}

/// Makes a mistake, on this thread, while something runs.
#[cfg(test)]
pub(crate) fn with<T>(mutant: Option<Mutant>, run: impl FnOnce() -> T) -> T {
    ENABLED.set(mutant);
    let result = run();
    ENABLED.set(None);
    result
}
