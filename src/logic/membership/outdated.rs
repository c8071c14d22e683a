//! Metadata that turns out to be an older copy.
//!
//! A leader makes its epoch durable before it speaks, and a configuration before any store hears of
//! it. So no store can have promised an epoch, or know a configuration, that the leader's own
//! metadata has not - unless an older copy of its directory was put back, and the cluster had gone
//! on. Such a leader would use an epoch again, in which its versions lie below those of before, and
//! would ask stores that were let go since. It finds out when stores register, and from then on it
//! serves nothing: it is as one that has lost its metadata, and stays so when it is started again,
//! since each start raises its epoch, in the end above what the stores have promised.
//!
//! What a store heard of this very start of the leader proves nothing. So an equal epoch, and a
//! newer configuration, count only for a store that has not registered with it before.
//!
//! The way back is the newest copy of the directory, or metadata made anew from what stores know
//! ([`Rebuild`](super::Rebuild)), which takes the place of the older copy.

use std::sync::Arc;

use super::{Change, Departures, Detector, Membership, Output, Registration, State};
use crate::types::{ConfigurationVersion, Epoch, Moment, PartitionId, StoreId};

/// What a store has heard of leaders.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// The highest epoch it has promised.
    pub promised: Epoch,
    /// For each partition in order, the version of the newest configuration it heard of. Those at
    /// the end may be missing.
    pub configurations: Vec<ConfigurationVersion>,
}

/// What shows that the metadata is an older copy.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
enum Evidence {
    #[error("store {store} has promised epoch {promised}, and this metadata ended before it")]
    Epoch { store: StoreId, promised: Epoch },
    #[error(
        "store {store} heard of configuration {heard} of partition {partition}, where this metadata \
         has {known}"
    )]
    Configuration {
        store: StoreId,
        partition: PartitionId,
        heard: ConfigurationVersion,
        known: ConfigurationVersion,
    },
    /// It was found at an earlier start.
    #[error("a store that had promised epoch {0} heard of later changes")]
    Earlier(Epoch),
}

fn reason(evidence: Evidence) -> String {
    format!(
        "the metadata of this leader is an older copy: {evidence}; start the leader with the newest \
         copy of its data directory, or make the metadata anew from the nodes: hatokuse \
         rebuild-metadata"
    )
}

pub(super) fn versions(state: &State) -> Vec<ConfigurationVersion> {
    state.configurations.iter().map(|one| one.version).collect()
}

impl Membership {
    /// The metadata was found to be an older copy at an earlier start.
    pub(super) fn begin_outdated(&mut self, now: Moment, promised: Epoch) {
        self.set_aside(now, Evidence::Earlier(promised));
    }

    /// Serves nothing any more if this store has heard what it cannot have heard of this metadata.
    pub(super) fn judge(&mut self, now: Moment, told: &Registration, out: &mut Vec<Output>) {
        if let Some(evidence) = self.evidence(told) {
            self.set_aside(now, evidence);
            let promised = told.heard.promised;
            out.extend([Output::Outdated, Output::Persist(vec![Change::Outdated(promised)])]);
        }
    }

    fn evidence(&self, registration: &Registration) -> Option<Evidence> {
        self.cluster.as_ref()?;
        let Registration { store, heard, .. } = registration;
        let (store, promised) = (*store, heard.promised);
        let spoken_to = self.spoken_to.contains(&store);
        if promised > self.epoch || (promised == self.epoch && !spoken_to) {
            return Some(Evidence::Epoch { store, promised });
        }
        if spoken_to {
            return None;
        }
        let both = heard.configurations.iter().zip(&self.known);
        let mut newer =
            (0..).map(PartitionId).zip(both).filter(|(_, (heard, known))| heard > known);
        let (partition, (heard, known)) = newer.next()?;
        Some(Evidence::Configuration { store, partition, heard: *heard, known: *known })
    }

    fn set_aside(&mut self, now: Moment, evidence: Evidence) {
        self.cluster = None;
        self.members.clear();
        self.boots.clear();
        self.known.clear();
        self.spoken_to.clear();
        self.detector = Detector::new(self.settings.detector, now);
        self.departures = Departures::default();
        (self.table, self.table_due) = (Arc::default(), None);
        self.bootstrap.set_aside(reason(evidence));
    }
}
