//! How long a client may keep its connection waiting.

use std::time::Duration;

use crate::types::Moment;

/// A line that has grown this long is dropped when its rest does not come.
const LARGE_LINE_BYTES: usize = 64 << 10;
/// And one of this length when memory is short.
pub(crate) const LARGE_WHEN_CROWDED_BYTES: usize = 4 << 10;
/// Nobody holds memory longer than this without a sign of life while it is short: as long as TCP
/// needs to repeat what was lost, three times.
const SHORT: Duration = Duration::from_secs(2);
/// A line that comes at least as fast as this may take as long as it takes.
const MIN_BYTES_PER_SECOND: u64 = 64 << 10;

/// How long a client may keep its connection waiting. Nothing is asked of one that is only idle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// From the first byte of a line to its end; a second more for each 64 KiB that have come.
    pub read: Duration,
    /// For taking anything at all of the replies that wait.
    pub write: Duration,
    /// For the next byte of a large line, which holds memory.
    pub stall: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            read: Duration::from_secs(30),
            write: Duration::from_mins(1),
            stall: Duration::from_secs(10),
        }
    }
}

/// Why a client is not waited for any longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    /// It does not read its replies.
    Unread,
    /// The line it began has no end.
    Overdue,
    /// The large line it began stands still.
    Stalled,
}

/// What a client owes its connection, and since when. While it owes anything, [`Self::verdict`] is
/// to be asked every [`Self::period`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    timeouts: Timeouts,
    line: Option<Line>,
    unread: Option<Moment>,
}

/// A line whose end has not come.
#[derive(Clone, Copy, Debug)]
struct Line {
    since: Moment,
    last: Moment,
    bytes: u64,
}

impl Patience {
    pub(crate) fn new(timeouts: Timeouts) -> Self {
        Self { timeouts, line: None, unread: None }
    }

    /// The client owes the rest of a line.
    pub(crate) fn line_began(&mut self, now: Moment) {
        self.line.get_or_insert(Line { since: now, last: now, bytes: 0 });
    }

    /// It owes none: its line has ended, or we do not read.
    pub(crate) fn line_ended(&mut self) {
        self.line = None;
    }

    /// Something came.
    pub(crate) fn received(&mut self, bytes: usize, now: Moment) {
        if let Some(line) = &mut self.line {
            line.last = now;
            line.bytes = line.bytes.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
        }
    }

    /// Replies wait that the socket does not take, though it may have taken some just now.
    pub(crate) fn replies_wait(&mut self, took_some: bool, now: impl FnOnce() -> Moment) {
        if took_some || self.unread.is_none() {
            self.unread = Some(now());
        }
    }

    /// All replies were taken.
    pub(crate) fn replies_gone(&mut self) {
        self.unread = None;
    }

    /// How often to ask for the verdict; nothing if the client owes nothing.
    pub(crate) fn period(&self) -> Option<Duration> {
        let Timeouts { read, write, stall } = self.timeouts;
        let owes = self.line.is_some() || self.unread.is_some();
        owes.then(|| SHORT.min(read).min(write).min(stall))
    }

    /// Whether the client is not waited for any longer. `held` is how much of its line is there,
    /// `crowded` whether other connections hold so much that memory is short.
    pub(crate) fn verdict(&self, now: Moment, held: usize, crowded: bool) -> Option<Lost> {
        let limit = |timeout: Duration| if crowded { timeout.min(SHORT) } else { timeout };
        if self.unread.is_some_and(|since| now.since(since) >= limit(self.timeouts.write)) {
            return Some(Lost::Unread);
        }
        let line = self.line?;
        let earned = Duration::from_secs(line.bytes / MIN_BYTES_PER_SECOND);
        if now.since(line.since) >= self.timeouts.read + earned {
            return Some(Lost::Overdue);
        }
        let large = if crowded { LARGE_WHEN_CROWDED_BYTES } else { LARGE_LINE_BYTES };
        let still = now.since(line.last) >= limit(self.timeouts.stall);
        (held >= large && still).then_some(Lost::Stalled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: usize = 100;

    fn at(seconds: u64) -> Moment {
        Moment::ZERO + Duration::from_secs(seconds)
    }

    fn patience() -> Patience {
        Patience::new(Timeouts::default())
    }

    #[test]
    fn who_owes_nothing_may_be_silent_for_ever() {
        let mut patience = patience();
        patience.line_began(at(0));
        patience.line_ended();
        patience.replies_wait(false, || at(0));
        patience.replies_gone();
        assert_eq!(patience.period(), None);
        assert_eq!(patience.verdict(at(1_000_000), SMALL, true), None);
    }

    #[test]
    fn a_line_that_dribbles_is_overdue_in_the_end() {
        let mut patience = patience();
        patience.line_began(at(0));
        for second in 1..30 {
            patience.line_began(at(second));
            patience.received(1, at(second));
            assert_eq!(patience.verdict(at(second), SMALL, false), None);
        }
        assert!(patience.period().is_some());
        assert_eq!(patience.verdict(at(30), SMALL, false), Some(Lost::Overdue));
    }

    #[test]
    fn a_line_that_comes_fast_enough_may_take_long() {
        let mut patience = patience();
        patience.line_began(at(0));
        for second in 1..100 {
            patience.received(64 << 10, at(second));
            assert_eq!(patience.verdict(at(second), 1 << 20, false), None);
        }
        assert_eq!(patience.verdict(at(109), 1 << 20, false), Some(Lost::Stalled));
        assert_eq!(patience.verdict(at(109), SMALL, false), None, "it holds nothing");
        assert_eq!(patience.verdict(at(130), SMALL, false), Some(Lost::Overdue));
    }

    #[test]
    fn what_holds_memory_that_others_need_has_less_time() {
        let mut patience = patience();
        patience.line_began(at(0));
        assert_eq!(patience.verdict(at(9), 5 << 10, false), None);
        assert_eq!(patience.verdict(at(9), SMALL, true), None, "it holds next to nothing");
        assert_eq!(patience.verdict(at(1), 5 << 10, true), None);
        assert_eq!(patience.verdict(at(2), 5 << 10, true), Some(Lost::Stalled));
        patience.received(1, at(2));
        assert_eq!(patience.verdict(at(3), 5 << 10, true), None);
    }

    #[test]
    fn replies_that_are_not_read_are_waited_for_while_there_is_memory() {
        let mut patience = patience();
        patience.replies_wait(false, || at(0));
        patience.replies_wait(false, || at(50));
        assert_eq!(patience.verdict(at(59), 0, false), None);
        assert_eq!(patience.verdict(at(60), 0, false), Some(Lost::Unread));
        patience.replies_wait(true, || at(60));
        assert_eq!(patience.verdict(at(61), 0, true), None);
        assert_eq!(patience.verdict(at(62), 0, true), Some(Lost::Unread));
    }
}
