//! How fast copies are made, by what nodes say with their signs of life.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::types::{BootId, Moment, StoreId};

/// The rate is that of so long a time.
const WINDOW: Duration = Duration::from_secs(5);

/// Bytes that came for copies, of all nodes together.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// What each process said last.
    said: BTreeMap<StoreId, (BootId, u64)>,
    total: u64,
    /// The total at some moments, the oldest no younger than the window where there is one.
    samples: VecDeque<(Moment, u64)>,
}

impl Progress {
    /// A process says how many bytes came for its copies since it started.
    pub(super) fn hear(&mut self, store: StoreId, boot: BootId, bytes: u64) {
        let before = match self.said.insert(store, (boot, bytes)) {
            Some((known, before)) if known == boot => before,
            // What it copied before this leader began is not this leader's.
            None => bytes,
            Some(_) => 0,
        };
        self.total += bytes.saturating_sub(before);
    }

    /// Time has passed.
    pub(super) fn look(&mut self, now: Moment) {
        self.samples.push_back((now, self.total));
        while self.samples.get(1).is_some_and(|(at, _)| now.since(*at) >= WINDOW) {
            self.samples.pop_front();
        }
    }

    /// Bytes that came since this leader began.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Bytes per second lately.
    pub(super) fn rate(&self) -> u64 {
        let ends = self.samples.front().zip(self.samples.back());
        let Some(((from, before), (to, after))) = ends else { return 0 };
        let micros = u128::from(to.0.saturating_sub(from.0));
        let bytes = u128::from(after.saturating_sub(*before)) * 1_000_000;
        let rate = bytes.checked_div(micros).unwrap_or(0);
        u64::try_from(rate).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment(seconds * 1_000_000)
    }

    #[test]
    fn what_nodes_copy_is_added_up_over_their_restarts() {
        let (store, other) = (StoreId::from_number(1), StoreId::from_number(2));
        let mut progress = Progress::default();
        progress.hear(store, BootId::from_number(1), 500);
        assert_eq!(progress.total(), 0, "from before this leader");
        progress.hear(store, BootId::from_number(1), 700);
        progress.hear(store, BootId::from_number(2), 50);
        progress.hear(other, BootId::from_number(3), 0);
        progress.hear(other, BootId::from_number(3), 1000);
        assert_eq!(progress.total(), 1250);
    }

    #[test]
    fn the_rate_is_that_of_the_last_seconds() {
        let store = StoreId::from_number(1);
        let mut progress = Progress::default();
        assert_eq!(progress.rate(), 0);
        for second in 0..20 {
            progress.hear(store, BootId::from_number(1), 1000 * second.min(10));
            progress.look(at(second));
            if second == 10 {
                assert_eq!(progress.rate(), 1000);
            }
        }
        assert_eq!(progress.rate(), 0, "nothing came for nine seconds");
    }
}
