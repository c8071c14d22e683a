//! Stores that are slower than the others by far (rule 7).
//!
//! A write waits for the slowest of its copies, so one bad disk slows down everything that it holds.
//! A store's *pace* is the mean time, over a second, from sending it a batch with something to store
//! to hearing that this is durable: its network, its queue and its disk together. It is compared with
//! the median of the others in the same second, so load that slows down all is nobody's fault. A
//! store is *slow* when its pace was ten times that median for half a minute; below 20 ms nobody is,
//! since on a quiet cluster ten times as much is nothing yet.
//!
//! One that was found slow loses its places in the in-sync sets, and with them its writes; so it is
//! sent an empty batch now and then, and judged by that. It counts as fast again when its pace was
//! below half the limit for ten seconds: between the two limits nothing changes.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::types::{Moment, StoreId};

/// How slow is slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlownessSettings {
    /// Paces are means over so long.
    pub interval: Duration,
    /// So many times the median of the others.
    pub factor: u32,
    /// A pace below this is never slow.
    pub least: Duration,
    /// For so long.
    pub slow_after: Duration,
    /// Below half the limit for so long, a slow store counts as fast again.
    pub fast_after: Duration,
}

impl Default for SlownessSettings {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(1),
            factor: 10,
            least: Duration::from_millis(20),
            slow_after: Duration::from_secs(30),
            fast_after: Duration::from_secs(10),
        }
    }
}

/// Without a batch for so many intervals, what was seen before shows nothing any more.
const STALE_INTERVALS: u32 = 5;

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// A store is slower than the others by far.
    Slow {
        /// The store.
        store: StoreId,
        /// Its pace.
        pace: Duration,
        /// The median of the others.
        others: Duration,
    },
    /// It is not any more.
    Fast(StoreId),
}

#[derive(Clone, Debug, Default)]
struct Observed {
    /// Of this interval: how long all batches took, and how many there were.
    total: Duration,
    batches: u32,
    slow: bool,
    /// Since when it has looked like the contrary of what it is taken for.
    changed: Option<Moment>,
    /// When it last had a pace.
    last: Moment,
}

impl Observed {
    fn pace(&self) -> Option<Duration> {
        self.total.checked_div(self.batches)
    }
}

/// Judges the paces of stores.
#[derive(Clone, Debug)]
pub(super) struct Slowness {
    settings: SlownessSettings,
    stores: BTreeMap<StoreId, Observed>,
    judged: Moment,
    /// The last median of all stores that are not slow.
    usual: Option<Duration>,
}

/// The lower of the two in the middle where there are two: of two others one may be slow as well.
fn median(mut paces: Vec<Duration>) -> Option<Duration> {
    paces.sort_unstable();
    paces.get(paces.len().saturating_sub(1) / 2).copied()
}

impl Slowness {
    /// Knows nothing yet.
    pub(super) fn new(settings: SlownessSettings, now: Moment) -> Self {
        Self { settings, stores: BTreeMap::new(), judged: now, usual: None }
    }

    /// Some batches of a store became durable, and took so long together.
    pub(super) fn took(&mut self, store: StoreId, total: Duration, batches: u32) {
        let seen = self.stores.entry(store).or_default();
        seen.total += total;
        seen.batches += batches;
    }

    /// The leader or all stores stood still: what was seen lately is nobody's pace.
    pub(super) fn discard(&mut self) {
        for seen in self.stores.values_mut() {
            (seen.total, seen.batches) = (Duration::ZERO, 0);
        }
    }

    /// A store does not exist any more.
    pub(super) fn forget(&mut self, store: StoreId) {
        self.stores.remove(&store);
    }

    /// Whether a store was found slow.
    pub(super) fn is_slow(&self, store: StoreId) -> bool {
        self.stores.get(&store).is_some_and(|seen| seen.slow)
    }

    /// The stores that were found slow.
    pub(super) fn slow(&self) -> impl Iterator<Item = StoreId> + '_ {
        self.stores.iter().filter(|(_, seen)| seen.slow).map(|(store, _)| *store)
    }

    /// Time has passed.
    pub(super) fn tick(&mut self, now: Moment) -> Vec<Finding> {
        if now.since(self.judged) < self.settings.interval {
            return Vec::new();
        }
        self.judged = now;
        let paces: Vec<(StoreId, Duration, bool)> = self
            .stores
            .iter()
            .filter_map(|(store, seen)| Some((*store, seen.pace()?, seen.slow)))
            .collect();
        let unslow = |without: Option<StoreId>| {
            let others = paces.iter().filter(|(store, _, slow)| Some(*store) != without && !slow);
            median(others.map(|(_, pace, _)| *pace).collect())
        };
        let mut findings = Vec::new();
        for (store, pace, _) in &paces {
            if let Some(others) = unslow(Some(*store)).or(self.usual) {
                findings.extend(self.judge(now, *store, *pace, others));
            }
        }
        self.usual = unslow(None).or(self.usual);
        self.discard();
        findings
    }

    fn judge(
        &mut self,
        now: Moment,
        store: StoreId,
        pace: Duration,
        others: Duration,
    ) -> Option<Finding> {
        let settings = self.settings;
        let limit = others.saturating_mul(settings.factor).max(settings.least);
        let seen = self.stores.get_mut(&store)?;
        if now.since(seen.last) > settings.interval * STALE_INTERVALS {
            seen.changed = None;
        }
        seen.last = now;
        let contrary = if seen.slow { pace.saturating_mul(2) <= limit } else { pace >= limit };
        if !contrary {
            seen.changed = None;
            return None;
        }
        let since = *seen.changed.get_or_insert(now);
        let long = if seen.slow { settings.fast_after } else { settings.slow_after };
        if now.since(since) < long {
            return None;
        }
        seen.slow = !seen.slow;
        seen.changed = None;
        Some(if seen.slow { Finding::Slow { store, pace, others } } else { Finding::Fast(store) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: StoreId = StoreId::from_number(1);
    const B: StoreId = StoreId::from_number(2);
    const C: StoreId = StoreId::from_number(3);

    /// Lets seconds pass in which batches took so many milliseconds, and says what was found when.
    fn run(
        slowness: &mut Slowness,
        seconds: std::ops::Range<u64>,
        paces: &[(StoreId, u64)],
    ) -> Vec<(u64, Finding)> {
        let mut found = Vec::new();
        for second in seconds {
            for (store, millis) in paces {
                slowness.took(*store, Duration::from_millis(millis * 4), 4);
            }
            let findings = slowness.tick(Moment::ZERO + Duration::from_secs(second));
            found.extend(findings.into_iter().map(|finding| (second, finding)));
        }
        found
    }

    fn new() -> Slowness {
        Slowness::new(SlownessSettings::default(), Moment::ZERO)
    }

    fn found_slow(found: &[(u64, Finding)]) -> Vec<(u64, StoreId)> {
        let slow = |(second, finding): &(u64, Finding)| match finding {
            Finding::Slow { store, .. } => Some((*second, *store)),
            Finding::Fast(_) => None,
        };
        found.iter().filter_map(slow).collect()
    }

    #[test]
    fn ten_times_slower_for_half_a_minute_is_slow_and_anything_less_is_not() {
        let found = run(&mut new(), 1..60, &[(A, 3), (B, 4), (C, 50)]);
        assert_eq!(found_slow(&found), [(31, C)]);
        assert_eq!(run(&mut new(), 1..60, &[(A, 3), (B, 6), (C, 29)]), [], "not ten times");
        assert_eq!(run(&mut new(), 1..60, &[(A, 0), (B, 0), (C, 19)]), [], "that is nothing");
        assert_eq!(run(&mut new(), 1..60, &[(A, 400), (B, 500), (C, 600)]), [], "all are");
        assert_eq!(run(&mut new(), 1..60, &[(C, 900)]), [], "slower than whom?");
    }

    #[test]
    fn one_good_second_in_between_begins_the_time_anew() {
        let mut slowness = new();
        let bad = [(A, 3), (B, 3), (C, 90)];
        assert_eq!(run(&mut slowness, 1..30, &bad), []);
        assert_eq!(run(&mut slowness, 30..31, &[(A, 3), (B, 3), (C, 3)]), []);
        assert_eq!(found_slow(&run(&mut slowness, 31..90, &bad)), [(61, C)]);
    }

    #[test]
    fn two_bad_disks_do_not_excuse_each_other() {
        let found = run(&mut new(), 1..60, &[(A, 3), (B, 80), (C, 90)]);
        assert_eq!(found_slow(&found), [(31, B), (31, C)]);
    }

    #[test]
    fn a_slow_store_is_fast_again_only_well_below_the_limit() {
        let mut slowness = new();
        let at = |pace| [(A, 3), (B, 3), (C, pace)];
        assert_eq!(found_slow(&run(&mut slowness, 1..40, &at(90))), [(31, C)]);
        assert_eq!(run(&mut slowness, 40..200, &at(20)), [], "between the limits");
        assert!(slowness.is_slow(C));
        let found = run(&mut slowness, 200..220, &[(C, 10)]);
        assert_eq!(found, [(210, Finding::Fast(C))], "the others have nothing to do meanwhile");
        assert!(!slowness.is_slow(C));
    }
}
