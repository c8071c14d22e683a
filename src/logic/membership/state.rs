//! What a leader must never forget, and how it changes.
//!
//! The leader's durable metadata is a sequence of [`Change`]s; [`State`] is what they add up to. A
//! change that would take back a number that fences - an epoch, a configuration's version - is
//! refused, live and at replay: such a number going back is how two leaders come to believe in
//! different copies.

use std::collections::{BTreeMap, BTreeSet};

use crate::types::{
    ClusterId, Configuration, ConfigurationVersion, Epoch, IndexKey, PartitionCount, PartitionId,
    StoreId,
};

/// What is fixed when a cluster is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Its identity.
    pub id: ClusterId,
    /// The secret that keys the hash of its stores' indexes.
    pub index_key: IndexKey,
    /// Into how many partitions its keys are cut.
    pub partitions: PartitionCount,
    /// When it was created, in milliseconds since 1970; for people.
    pub created: i64,
}

/// A store that belongs to the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberInfo {
    /// `host:port` of its node's data service, as it last registered.
    pub address: String,
    /// `host:port` of its node's admin service.
    pub admin_address: String,
    /// Whether it has its place on the ring: from when it is first live until it is evicted.
    pub placed: bool,
    /// Whether an operator has taken it off the ring, whatever becomes of its node.
    pub drained: bool,
}

/// One change of the metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A leader begins this epoch.
    Epoch(Epoch),
    /// The cluster is created.
    Cluster(Cluster),
    /// A store belongs to the cluster, with this to be known of it.
    Member(StoreId, MemberInfo),
    /// A store no longer belongs to the cluster, and never will again.
    Forget(StoreId),
    /// The partition is held by these stores.
    Configuration(PartitionId, Configuration),
    /// The partition is held by these stores as far as stores know: the metadata was lost and made
    /// anew. The next configuration confirms it.
    Rebuilt(PartitionId, Configuration),
    /// All of this is an older copy: a store that has promised this epoch heard of later changes.
    /// From then on there may be another [`Change::Cluster`], which takes the place of all but the
    /// epoch and the stores that were forgotten.
    Outdated(Epoch),
}

/// A change that must not be.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Regression {
    /// An epoch that is not above the last.
    #[error("epoch {next} would follow epoch {last}")]
    Epoch {
        /// The last.
        last: Epoch,
        /// What would follow it.
        next: Epoch,
    },
    /// A second cluster.
    #[error("cluster {0} exists already")]
    Cluster(ClusterId),
    /// A configuration that is not above the last of its partition.
    #[error("configuration {next} of partition {partition} would follow {last}")]
    Configuration {
        /// The partition.
        partition: PartitionId,
        /// The version of the last.
        last: ConfigurationVersion,
        /// What would follow it.
        next: ConfigurationVersion,
    },
    /// A partition that the cluster does not have.
    #[error("there is no partition {0}")]
    Partition(PartitionId),
}

/// What all changes so far add up to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// The highest epoch a leader began.
    pub epoch: Epoch,
    /// The cluster, once it was created.
    pub cluster: Option<Cluster>,
    /// The stores that belong to it.
    pub members: BTreeMap<StoreId, MemberInfo>,
    /// The stores that did once: what they hold is out of date, and they are never taken again.
    pub forgotten: BTreeSet<StoreId>,
    /// For each partition, the stores that hold it; empty before the cluster was created.
    pub configurations: Vec<Configuration>,
    /// Partitions whose configuration was made anew and is not yet confirmed.
    pub unconfirmed: BTreeSet<PartitionId>,
    /// This is an older copy of the metadata, as a store has shown that had promised this epoch.
    pub outdated: Option<Epoch>,
}

impl State {
    /// Carries out a change, or says why it must not be; then nothing has changed.
    pub fn apply(&mut self, change: &Change) -> Result<(), Regression> {
        match change {
            Change::Epoch(next) if *next <= self.epoch => {
                return Err(Regression::Epoch { last: self.epoch, next: *next });
            }
            Change::Epoch(next) => self.epoch = *next,
            Change::Cluster(cluster) => self.create(*cluster)?,
            Change::Member(store, info) => {
                self.members.insert(*store, info.clone());
            }
            Change::Forget(store) => {
                self.members.remove(store);
                self.forgotten.insert(*store);
            }
            Change::Configuration(partition, next) => {
                self.configure(*partition, next)?;
                self.unconfirmed.remove(partition);
            }
            Change::Rebuilt(partition, next) => {
                self.configure(*partition, next)?;
                self.unconfirmed.insert(*partition);
            }
            Change::Outdated(promised) => self.outdated = Some(*promised),
        }
        Ok(())
    }

    /// Carries out all of these changes, or none and says why.
    pub fn apply_all(&mut self, changes: &[Change]) -> Result<(), Regression> {
        // One change is all or nothing by itself, and most proposals have one.
        if let [change] = changes {
            return self.apply(change);
        }
        let mut next = self.clone();
        changes.iter().try_for_each(|change| next.apply(change))?;
        *self = next;
        Ok(())
    }

    /// The changes that make this state out of nothing.
    pub fn changes(&self) -> impl Iterator<Item = Change> + '_ {
        let begun = self.epoch > Epoch::default();
        let epoch = begun.then_some(Change::Epoch(self.epoch));
        let cluster = self.cluster.map(Change::Cluster);
        let members = self.members.iter().map(|(store, info)| Change::Member(*store, info.clone()));
        let made = |(_, configuration): &(PartitionId, &Configuration)| {
            configuration.version > ConfigurationVersion::default()
        };
        let configurations = self.configurations().filter(made).map(|(partition, made)| {
            if self.unconfirmed.contains(&partition) {
                Change::Rebuilt(partition, made.clone())
            } else {
                Change::Configuration(partition, made.clone())
            }
        });
        let forgotten = self.forgotten.iter().map(|store| Change::Forget(*store));
        let outdated = self.outdated.map(Change::Outdated);
        let whole = epoch.into_iter().chain(cluster).chain(members).chain(forgotten);
        whole.chain(configurations).chain(outdated)
    }

    /// Every partition with its configuration.
    pub fn configurations(&self) -> impl Iterator<Item = (PartitionId, &Configuration)> {
        (0..).map(PartitionId).zip(&self.configurations)
    }

    fn create(&mut self, cluster: Cluster) -> Result<(), Regression> {
        if self.outdated.is_some() {
            let (epoch, forgotten) = (self.epoch, std::mem::take(&mut self.forgotten));
            *self = Self { epoch, forgotten, ..Self::default() };
        }
        if let Some(cluster) = &self.cluster {
            return Err(Regression::Cluster(cluster.id));
        }
        self.configurations.resize(usize::from(cluster.partitions.get()), Configuration::default());
        self.cluster = Some(cluster);
        Ok(())
    }

    fn configure(
        &mut self,
        partition: PartitionId,
        next: &Configuration,
    ) -> Result<(), Regression> {
        let place = self.configurations.get_mut(partition.index());
        let place = place.ok_or(Regression::Partition(partition))?;
        if next.version <= place.version {
            let (last, next) = (place.version, next.version);
            return Err(Regression::Configuration { partition, last, next });
        }
        place.clone_from(next);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Member, Token};

    fn cluster(number: u128) -> Cluster {
        Cluster {
            id: ClusterId::from_number(number),
            index_key: IndexKey([1; 16]),
            partitions: PartitionCount::new(4).unwrap(),
            created: 5,
        }
    }

    fn configuration(version: u64) -> Configuration {
        let member = Member { store: StoreId::from_number(1), token: Token(version) };
        Configuration {
            version: ConfigurationVersion(version),
            members: std::iter::once(member).collect(),
        }
    }

    #[test]
    fn numbers_that_fence_never_go_back() {
        let mut state = State::default();
        let p = PartitionId(3);
        let good = [
            Change::Epoch(Epoch(2)),
            Change::Cluster(cluster(1)),
            Change::Configuration(p, configuration(3)),
        ];
        for change in &good {
            assert_eq!(state.apply(change), Ok(()));
        }
        let before = state.clone();
        let bad = [
            Change::Epoch(Epoch(2)),
            Change::Epoch(Epoch(1)),
            Change::Cluster(cluster(2)),
            Change::Configuration(p, configuration(3)),
            Change::Configuration(p, configuration(2)),
            Change::Configuration(PartitionId(4), configuration(9)),
        ];
        for change in &bad {
            assert!(state.apply(change).is_err(), "{change:?}");
        }
        assert_eq!(state, before);
    }

    #[test]
    fn a_state_is_made_again_by_its_changes() {
        let mut state = State::default();
        let store = StoreId::from_number(7);
        let changes = [
            Change::Epoch(Epoch(5)),
            Change::Cluster(cluster(1)),
            Change::Member(store, MemberInfo { placed: true, ..MemberInfo::default() }),
            Change::Member(StoreId::from_number(8), MemberInfo::default()),
            Change::Forget(StoreId::from_number(8)),
            Change::Configuration(PartitionId(0), configuration(1)),
            Change::Configuration(PartitionId(0), configuration(4)),
            Change::Rebuilt(PartitionId(1), configuration(2)),
            Change::Rebuilt(PartitionId(2), configuration(2)),
            Change::Configuration(PartitionId(2), configuration(3)),
        ];
        for change in &changes {
            state.apply(change).unwrap();
        }
        let mut again = State::default();
        for change in state.changes() {
            again.apply(&change).unwrap();
        }
        assert_eq!(again, state);
        assert!(again.forgotten.contains(&StoreId::from_number(8)));
        assert_eq!(state.unconfirmed, [PartitionId(1)].into());
        assert_eq!(State::default().changes().count(), 0);
        state.apply(&Change::Outdated(Epoch(9))).unwrap();
        let mut again = State::default();
        again.apply_all(&state.changes().collect::<Vec<_>>()).unwrap();
        assert_eq!(again, state);
    }

    #[test]
    fn only_an_outdated_copy_is_replaced_and_its_epoch_and_the_forgotten_stay() {
        let forgotten = StoreId::from_number(8);
        let changes = [
            Change::Epoch(Epoch(5)),
            Change::Cluster(cluster(1)),
            Change::Member(StoreId::from_number(7), MemberInfo::default()),
            Change::Forget(forgotten),
            Change::Configuration(PartitionId(0), configuration(4)),
        ];
        let mut state = State::default();
        state.apply_all(&changes).unwrap();
        assert!(state.apply(&Change::Cluster(cluster(1))).is_err());
        state.apply(&Change::Outdated(Epoch(7))).unwrap();
        assert!(state.apply(&Change::Epoch(Epoch(5))).is_err());
        let anew = [
            Change::Epoch(Epoch(9)),
            Change::Cluster(cluster(1)),
            Change::Rebuilt(PartitionId(0), configuration(1)),
        ];
        state.apply_all(&anew).unwrap();
        assert_eq!((state.outdated, state.epoch), (None, Epoch(9)));
        assert!(state.members.is_empty() && state.forgotten.contains(&forgotten));
        assert_eq!(state.configurations[0], configuration(1));
    }
}
