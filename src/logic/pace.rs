//! Pace: how fast copies are made beside what clients do.
//!
//! A copy that is made as fast as disks and links allow holds up every write of every client on its
//! way. So the bytes of copies pass at a rate: at most the one that was set, and less while clients
//! have to wait. Ten times a second the pace looks at what writes of clients took on this node since
//! it last looked. Took they longer than [`PATIENCE`] on average, the rate is halved; else it grows by
//! an eighth of the most (additive increase, multiplicative decrease: Chiu and Jain, 1989). It never
//! falls below an eighth of the most: as long as copies are missing, data is in danger, and repair
//! must come to an end under any load.

use std::num::NonZeroU64;
use std::time::Duration;

use crate::types::Moment;

/// Writes of clients that take longer than this on average slow copies down.
pub const PATIENCE: Duration = Duration::from_millis(20);
/// How often the rate is judged anew.
const INTERVAL: Duration = Duration::from_millis(100);
/// The rate grows by this part of the most, and never falls below it.
const STEP: u64 = 8;
/// Bytes that were not used for this long may pass at once.
const BURST: Duration = Duration::from_millis(100);

/// What clients' writes took on this node, since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Foreground {
    /// Commits that stored something for clients.
    pub commits: u64,
    /// What they took in all, from the arrival of the first write of each.
    pub time: Duration,
}

/// The pace of copies in one direction. See the module for how it is found.
#[derive(Clone, Debug)]
pub struct Pace {
    /// Bytes per second; none is no limit.
    most: Option<NonZeroU64>,
    rate: u64,
    /// When the next bytes may pass.
    next: Moment,
    judged: Moment,
    seen: Foreground,
}

impl Pace {
    /// At most so many bytes per second; none is no limit, whatever clients have to wait.
    pub fn new(most: Option<NonZeroU64>) -> Self {
        let rate = most.map_or(0, NonZeroU64::get);
        let (next, judged) = (Moment::ZERO, Moment::ZERO);
        Self { most, rate, next, judged, seen: Foreground::default() }
    }

    /// Bytes per second that pass now; none is no limit.
    pub fn rate(&self) -> Option<u64> {
        self.most.map(|_| self.rate)
    }

    /// So many bytes of a copy are to pass: how long they have to wait.
    pub fn take(&mut self, now: Moment, bytes: u64, foreground: Foreground) -> Duration {
        let Some(most) = self.most else { return Duration::ZERO };
        self.judge(now, most.get(), foreground);
        let unused = Moment(now.0.saturating_sub(micros(BURST)));
        let begin = self.next.max(unused);
        let takes = u128::from(bytes) * 1_000_000 / u128::from(self.rate.max(1));
        let end = begin.0.saturating_add(u64::try_from(takes).unwrap_or(u64::MAX));
        self.next = Moment(end);
        self.next.since(now)
    }

    fn judge(&mut self, now: Moment, most: u64, foreground: Foreground) {
        if now.since(self.judged) < INTERVAL {
            return;
        }
        let commits = foreground.commits.saturating_sub(self.seen.commits);
        let time = foreground.time.saturating_sub(self.seen.time);
        (self.judged, self.seen) = (now, foreground);
        let step = (most / STEP).max(1);
        let commits = u32::try_from(commits).unwrap_or(u32::MAX);
        self.rate = match time.checked_div(commits) {
            Some(mean) if mean > PATIENCE => (self.rate / 2).max(step),
            _ => self.rate.saturating_add(step).min(most),
        };
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn at(millis: u64) -> Moment {
        Moment(millis * 1000)
    }

    fn pace(most: u64) -> Pace {
        Pace::new(NonZeroU64::new(most))
    }

    #[test]
    fn no_more_passes_than_was_set() {
        let mut pace = pace(8 * MIB);
        let mut now = at(10_000);
        let began = now;
        let mut passed = 0;
        while now.since(began) < Duration::from_secs(10) {
            now = now + pace.take(now, MIB, Foreground::default());
            passed += MIB;
        }
        assert!((80 * MIB..=82 * MIB).contains(&passed), "{} MiB in 10 s", passed / MIB);
    }

    #[test]
    fn without_a_limit_nothing_waits() {
        let mut pace = pace(0);
        let slow = Foreground { commits: 1, time: Duration::from_secs(9) };
        assert_eq!(pace.take(at(5), u64::MAX, slow), Duration::ZERO);
        assert_eq!(pace.rate(), None);
    }

    #[test]
    fn it_gives_way_to_clients_that_wait_but_never_stops_and_comes_back() {
        let mut pace = pace(64 * MIB);
        let mut foreground = Foreground::default();
        let mut rates = Vec::new();
        for tick in 1..30 {
            let slow = tick < 10;
            foreground.commits += 10;
            foreground.time += if slow { PATIENCE * 11 } else { PATIENCE * 9 };
            pace.take(at(tick * 100), 0, foreground);
            rates.push(pace.rate().unwrap() / MIB);
        }
        assert_eq!(rates[..5], [32, 16, 8, 8, 8], "down to an eighth");
        assert_eq!(rates[8..12], [8, 16, 24, 32], "and up by eighths");
        assert_eq!(rates.last(), Some(&64));
    }

    #[test]
    fn a_node_without_clients_copies_at_full_rate() {
        let mut pace = pace(64 * MIB);
        let slow = Foreground { commits: 1, time: Duration::from_secs(1) };
        pace.take(at(100), 0, slow);
        assert_eq!(pace.rate(), Some(32 * MIB));
        for tick in 2..10 {
            pace.take(at(tick * 100), 0, slow);
        }
        assert_eq!(pace.rate(), Some(64 * MIB), "nothing new was slow");
    }
}
