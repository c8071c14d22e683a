//! Who holds a partition, by the leader's durable word.

use std::fmt;

use smallvec::SmallVec;

use super::StoreId;

/// A number handed out at each admission of a store into a partition. It tells two memberships of
/// one store apart, so that a wiped or returning store is never taken for the copy it once was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// Counts the configurations of one partition; never goes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConfigurationVersion(pub u64);

impl ConfigurationVersion {
    /// The first configuration of a partition, made with the cluster.
    pub const FIRST: Self = Self(1);

    /// The version after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for ConfigurationVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A store in a partition's in-sync set, and the token of its admission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Member {
    /// The store.
    pub store: StoreId,
    /// Its admission.
    pub token: Token,
}

/// The in-sync set of a partition: every member holds every settled write, and only members have
/// authority (`PacificA`, section 2.2, keeps the same pair with an outside manager).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configuration {
    /// Goes up with every change.
    pub version: ConfigurationVersion,
    /// The in-sync set, in order of admission.
    pub members: SmallVec<[Member; 4]>,
}

impl Configuration {
    /// The token under which a store is a member.
    pub fn token_of(&self, store: StoreId) -> Option<Token> {
        self.members.iter().find(|member| member.store == store).map(|member| member.token)
    }

    /// Whether a store is a member.
    pub fn contains(&self, store: StoreId) -> bool {
        self.token_of(store).is_some()
    }
}
