//! Which watermarks the log must be told.
//!
//! A watermark arrives with every section; most are forgotten by the next. It only has to be in the
//! log now and then, so that a node that restarts does not report everything it ever stored as
//! possibly unsettled: when enough records came after the logged one, and when it has become quiet.

use crate::types::{PartitionCount, PartitionId, Version};

/// So many records may come before a watermark is logged anew.
const RECORDS_BETWEEN: u32 = 64;

#[derive(Clone, Copy, Debug, Default)]
struct Mark {
    known: Version,
    logged: Version,
    records: u32,
}

/// The watermarks of all partitions.
#[derive(Debug)]
pub(crate) struct Watermarks(Vec<Mark>);

impl Watermarks {
    /// As the log has them.
    pub(crate) fn new(
        count: PartitionCount,
        mut logged: impl FnMut(PartitionId) -> Version,
    ) -> Self {
        let mark = |version| Mark { known: version, logged: version, records: 0 };
        Self(count.all().map(|partition| mark(logged(partition))).collect())
    }

    /// A section told this watermark and brought so many records. Says whether it is news.
    pub(crate) fn learn(&mut self, partition: PartitionId, version: Version, records: u32) -> bool {
        let Some(mark) = self.0.get_mut(partition.index()) else { return false };
        mark.records = mark.records.saturating_add(records);
        let news = version > mark.known;
        mark.known = mark.known.max(version);
        news
    }

    /// The watermark to be logged with the records that just came, if it is time.
    pub(crate) fn due(&mut self, partition: PartitionId) -> Option<Version> {
        let mark = self.0.get_mut(partition.index())?;
        (mark.records > RECORDS_BETWEEN).then(|| mark.log()).flatten()
    }

    /// Every watermark that the log does not have yet.
    pub(crate) fn all_due(&mut self) -> Vec<(PartitionId, Version)> {
        let marks = (0..).map(PartitionId).zip(&mut self.0);
        marks.filter_map(|(partition, mark)| Some((partition, mark.log()?))).collect()
    }

    /// The partition is gone, or begins anew: its watermark too.
    pub(crate) fn forget(&mut self, partition: PartitionId) {
        if let Some(mark) = self.0.get_mut(partition.index()) {
            *mark = Mark::default();
        }
    }
}

impl Mark {
    fn log(&mut self) -> Option<Version> {
        if self.known <= self.logged {
            return None;
        }
        (self.logged, self.records) = (self.known, 0);
        Some(self.known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Epoch;

    #[test]
    fn a_watermark_is_logged_after_many_records_or_when_it_is_quiet() {
        let at = |seq| Version::new(Epoch(1), seq);
        let p = PartitionId(0);
        let mut marks = Watermarks::new(PartitionCount::new(2).unwrap(), |_| at(5));
        assert!(!marks.learn(p, at(5), 65), "the log has it");
        assert_eq!(marks.due(p), None);
        assert!(marks.learn(p, at(60), 1));
        assert_eq!(marks.due(p), Some(at(60)));
        assert!(marks.learn(p, at(70), 10));
        assert_eq!(marks.due(p), None);
        assert_eq!(marks.all_due(), [(p, at(70))]);
        assert_eq!(marks.all_due(), []);
    }
}
