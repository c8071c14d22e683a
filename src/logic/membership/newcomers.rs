//! Stores that are new while others are missing.
//!
//! A node that finds its data directory empty makes a new store, and the cluster takes it like any
//! other: nothing is lost, and copies are made on it. But if it is the successor of one that was live a
//! moment ago, somebody should know: a volume may not have been mounted, or was deleted.

use std::time::Duration;

use super::{Membership, Output, Registration};
use crate::logic::detector::Status;
use crate::types::{Moment, StoreId};

/// Who was live no longer ago than this is missed.
const MISSED_FOR: Duration = Duration::from_mins(10);

impl Membership {
    /// Says that a store is new while others, which were live until lately, are away.
    pub(super) fn notice_newcomer(
        &self,
        now: Moment,
        registration: &Registration,
        out: &mut Vec<Output>,
    ) {
        let store = registration.store;
        if registration.cluster.is_some() || self.members.contains_key(&store) {
            return;
        }
        let lately = |away: &StoreId| {
            self.detector.silence(*away, now).is_some_and(|silence| silence <= MISSED_FOR)
        };
        let away: Vec<StoreId> = self
            .detector
            .stores()
            .filter(|(_, status)| matches!(status, Status::Suspect | Status::Evicted))
            .map(|(away, _)| away)
            .filter(lately)
            .collect();
        if !away.is_empty() {
            out.push(Output::Newcomer { store, away });
        }
    }
}
