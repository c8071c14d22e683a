//! Comparing a copy that may lack what it acknowledged with one that does not (rules 15 and 15a).
//!
//! Two copies of a partition never stand still together: while they are compared, writes reach one
//! before the other. So they are compared as of a [`Point`]: what the leader knew to be settled when
//! it gave the order. All of that is on every member, in that version or a newer one; what was still
//! under way is resent by the leader anyway and shows nothing.

use crate::logic::mutants::{self, Mutant};
use crate::types::Version;

/// How far a store is to be trusted that did not stop in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Doubt {
    /// It holds what it acknowledged.
    #[default]
    None,
    /// It stopped uncleanly. Damage to exactly the last synced batch would look the same: it is read
    /// only where nothing better is there, until it was compared.
    Unclean,
    /// It may have lost what it acknowledged: it has no authority until it was compared.
    Lost,
}

/// What of a partition was settled at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Point {
    /// Versions from here on had not been given out.
    pub before: Version,
    /// Earlier ones that were still under way, in order.
    pub under_way: Vec<Version>,
}

/// What a record of the other copy says about one's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Nothing is missing.
    Held,
    /// The record is settled and one's own copy lacks it.
    Missing,
    /// The other copy has a newer one by now, which hides what was settled: to be compared again.
    Unclear,
}

impl Point {
    /// Whether a version that some member holds was settled then.
    pub fn has_settled(&self, version: Version) -> bool {
        version < self.before && self.under_way.binary_search(&version).is_err()
    }

    /// Judges one's own copy of a key by the version that the other copy has. At or below one's own
    /// garbage floor nothing can be missing: what is not there was deleted, by a tombstone that the
    /// other may still have.
    pub fn judge(&self, own: Option<Version>, floor: Version, other: Version) -> Finding {
        if other <= floor {
            return Finding::Held;
        }
        let own = own.unwrap_or(Version::ZERO);
        // What is under way on a key is newer than all that is settled of it.
        let ahead = own > Version::ZERO && !self.has_settled(own);
        if own >= other || ahead {
            Finding::Held
        } else if self.has_settled(other) {
            Finding::Missing
        } else {
            Finding::Unclear
        }
    }
}

/// Whether a key of one's own that the other copy, which has this garbage floor, does not have was
/// deleted. Every member had all that is at or below the floor when it was raised; so the other had
/// this version or a newer one, and what it has dropped since was a tombstone.
pub fn is_deleted(own: Version, floor: Version) -> bool {
    own <= floor && !mutants::enabled(Mutant::AbsenceKeeps)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Epoch;

    fn v(seq: u64) -> Version {
        Version::new(Epoch(2), seq)
    }

    #[test]
    fn only_what_was_settled_can_be_missing() {
        let point = Point { before: v(10), under_way: vec![v(6), v(8)] };
        let old = Version::new(Epoch(1), 99);
        for (own, other, finding) in [
            (None, old, Finding::Missing),
            (Some(old), v(5), Finding::Missing),
            (Some(v(5)), v(5), Finding::Held),
            (Some(v(7)), v(5), Finding::Held),
            (Some(v(5)), v(6), Finding::Unclear),
            (None, v(10), Finding::Unclear),
            (Some(v(6)), v(12), Finding::Held),
            (Some(v(11)), v(12), Finding::Held),
        ] {
            assert_eq!(point.judge(own, Version::ZERO, other), finding, "{own:?} {other}");
        }
    }

    #[test]
    fn below_a_garbage_floor_absence_is_a_delete() {
        let point = Point { before: v(10), under_way: vec![] };
        assert_eq!(
            point.judge(None, v(5), v(5)),
            Finding::Held,
            "a tombstone that was dropped here"
        );
        assert_eq!(point.judge(None, v(5), v(6)), Finding::Missing);
        assert!(is_deleted(v(5), v(5)) && !is_deleted(v(6), v(5)));
        let kept = || !is_deleted(v(5), v(5));
        assert!(mutants::with(Some(Mutant::AbsenceKeeps), kept), "and a mistake that is noticed");
    }
}
