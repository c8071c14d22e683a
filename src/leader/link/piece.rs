//! What shards hand to a link, and how full the link is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::rpc::v1;
use crate::types::Moment;

/// Past so many bytes on their way to one store, writes to its partitions are refused as `BUSY`.
const LIMIT_BYTES: usize = 64 << 20;
const ORDER_BYTES: usize = 64;
const SECTION_BYTES: usize = 40;
const READ_BYTES: usize = 40;

/// One of the two connections to a store. Records over [`LARGE_BYTES`](super::LARGE_BYTES) travel
/// apart, so that they do not hold up small ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Orders, reads and small records.
    Small,
    /// Large records, each a batch of its own.
    Large,
}

/// What one shard sends to one store at once.
#[derive(Debug, Default)]
pub(crate) struct Piece {
    /// Which shard.
    pub(crate) shard: usize,
    /// Counts the shard's pieces of one lane and session, from 1.
    pub(crate) sequence: u64,
    /// Carried out before the records are stored.
    pub(crate) orders: Vec<v1::Order>,
    /// Whose records follow.
    pub(crate) sections: Vec<v1::Section>,
    /// Encoded, back to back.
    pub(crate) records: Bytes,
    /// Answered after the records were stored.
    pub(crate) reads: Vec<v1::Read>,
    /// Something is to be written even if nothing is to be stored.
    pub(crate) probe: bool,
}

impl Piece {
    /// About how many bytes it takes on the wire.
    pub(crate) fn bytes(&self) -> usize {
        self.records.len()
            + self.orders.len() * ORDER_BYTES
            + self.sections.len() * SECTION_BYTES
            + self.reads.len() * READ_BYTES
    }
}

/// How full one session of a link is. Written by its two halves and the shards, read by whoever
/// judges whether the store moves.
#[derive(Debug, Default)]
pub(crate) struct Gauge {
    /// Queued or sent, and not yet durable.
    bytes: AtomicUsize,
    /// Batches sent, and durable, on both lanes together.
    sent: AtomicU64,
    durable: AtomicU64,
    /// When the oldest batch outstanding was sent, or the last one before it became durable.
    since: AtomicU64,
    /// Batches that stored something and became durable since this was last asked, and the time from
    /// sending each to hearing so, in microseconds, of all together.
    stored: AtomicU64,
    took: AtomicU64,
}

impl Gauge {
    /// A shard hands over so many bytes.
    pub(crate) fn queued(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A batch leaves.
    pub(crate) fn sent(&self, now: Moment) {
        let sent = self.sent.fetch_add(1, Ordering::AcqRel);
        if sent == self.durable.load(Ordering::Acquire) {
            self.since.store(now.0, Ordering::Release);
        }
    }

    /// So many batches, of so many bytes in all, are durable.
    pub(crate) fn durable(&self, batches: u64, bytes: usize, now: Moment) {
        self.since.store(now.0, Ordering::Release);
        self.durable.fetch_add(batches, Ordering::AcqRel);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// A batch that stored something is durable, so long after it was sent.
    pub(crate) fn stored(&self, after: Duration) {
        let micros = u64::try_from(after.as_micros()).unwrap_or(u64::MAX);
        self.took.fetch_add(micros, Ordering::Relaxed);
        self.stored.fetch_add(1, Ordering::Relaxed);
    }

    /// How many batches stored something since this was last asked, and how long all of them took.
    pub(crate) fn take_pace(&self) -> (u32, Duration) {
        let batches = self.stored.swap(0, Ordering::Relaxed);
        let took = Duration::from_micros(self.took.swap(0, Ordering::Relaxed));
        (u32::try_from(batches).unwrap_or(u32::MAX), took)
    }

    /// Since when something is outstanding and nothing at all became durable (rule 7).
    pub(crate) fn stuck_since(&self) -> Option<Moment> {
        let since = Moment(self.since.load(Ordering::Acquire));
        let durable = self.durable.load(Ordering::Acquire);
        (self.sent.load(Ordering::Acquire) > durable).then_some(since)
    }

    /// Batches that became durable.
    pub(crate) fn batches(&self) -> u64 {
        self.durable.load(Ordering::Relaxed)
    }

    /// Whether no more writes should be admitted for this store.
    pub(crate) fn is_full(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) > LIMIT_BYTES
    }
}

/// A shard's end of one session of a link. Sending never waits: what is on its way is bounded by
/// what is admitted while the [`Gauge`] has room.
#[derive(Clone, Debug)]
pub(crate) struct LinkSender {
    small: mpsc::UnboundedSender<Piece>,
    large: Option<mpsc::UnboundedSender<Piece>>,
    gauge: Arc<Gauge>,
}

/// The link's end of the queues of both lanes.
#[derive(Debug)]
pub(crate) struct Queues {
    pub(crate) small: mpsc::UnboundedReceiver<Piece>,
    pub(crate) large: mpsc::UnboundedReceiver<Piece>,
}

impl LinkSender {
    /// The two ends of a session with both lanes.
    pub(crate) fn new() -> (Self, Queues) {
        let (small, to_small) = mpsc::unbounded_channel();
        let (large, to_large) = mpsc::unbounded_channel();
        let sender = Self { small, large: Some(large), gauge: Arc::default() };
        (sender, Queues { small: to_small, large: to_large })
    }

    /// The same session with nothing but the lane for small records.
    #[must_use]
    pub(crate) fn single_lane(self) -> Self {
        Self { large: None, ..self }
    }

    /// Whether large records have a lane of their own.
    pub(crate) fn has_large_lane(&self) -> bool {
        self.large.is_some()
    }

    /// How full the session is.
    pub(crate) fn gauge(&self) -> &Arc<Gauge> {
        &self.gauge
    }

    /// Hands a piece over. When the session has ended it goes nowhere, and the shard hears of that.
    pub(crate) fn send(&self, lane: Lane, piece: Piece) {
        self.gauge.queued(piece.bytes());
        let queue = self.large.as_ref().filter(|_| lane == Lane::Large).unwrap_or(&self.small);
        let _ = queue.send(piece);
    }

    /// Has the store write something, so that it is seen how long that takes. What is durable then
    /// concerns no shard.
    pub(crate) fn probe(&self) {
        let _ = self.small.send(Piece { shard: usize::MAX, probe: true, ..Piece::default() });
    }

    /// Whether no more writes should be admitted for this store.
    pub(crate) fn is_full(&self) -> bool {
        self.gauge.is_full()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_stuck_only_while_something_is_outstanding() {
        let gauge = Gauge::default();
        assert_eq!(gauge.stuck_since(), None);
        gauge.sent(Moment(10));
        gauge.sent(Moment(20));
        assert_eq!(gauge.stuck_since(), Some(Moment(10)));
        gauge.durable(1, 0, Moment(30));
        assert_eq!(gauge.stuck_since(), Some(Moment(30)), "it moved");
        gauge.durable(1, 0, Moment(40));
        assert_eq!(gauge.stuck_since(), None);
        gauge.sent(Moment(500));
        assert_eq!(gauge.stuck_since(), Some(Moment(500)), "idle time does not count");
    }

    #[test]
    fn a_full_link_has_room_again_once_batches_are_durable() {
        let gauge = Gauge::default();
        gauge.queued(LIMIT_BYTES);
        assert!(!gauge.is_full());
        gauge.queued(1);
        assert!(gauge.is_full());
        gauge.durable(1, LIMIT_BYTES, Moment(1));
        assert!(!gauge.is_full());
    }
}
