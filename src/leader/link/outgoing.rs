//! The sending half of a lane: a stream that makes a batch of everything queued whenever the
//! connection can take one.
//!
//! The connection asks for a message only when it has room for one, so batches fill by themselves
//! while it is busy, and nothing waits while it is not. No task stands between the shards' queue
//! and the connection.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use futures::Stream;
use smallvec::SmallVec;
use tokio::sync::mpsc;

use super::piece::{Gauge, Piece};
use crate::rpc::transport::BATCH_BYTES;
use crate::rpc::v1;
use crate::rpc::v1::replicate_request::Kind;
use crate::runtime::clock;
use crate::types::Moment;

/// The pieces of one shard in a batch: a run of its sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) shard: usize,
    pub(crate) first: u64,
    pub(crate) last: u64,
}

/// A batch that has left.
#[derive(Debug)]
pub(crate) struct SentBatch {
    pub(crate) number: u64,
    pub(crate) bytes: usize,
    pub(crate) runs: SmallVec<[Run; 4]>,
    pub(crate) at: Moment,
    /// The store has to write something for it.
    pub(crate) stores: bool,
    /// It carries records.
    pub(crate) writes: bool,
}

/// The stream of requests of one lane.
#[derive(Debug)]
pub(crate) struct Outgoing {
    opening: Option<v1::Open>,
    pieces: mpsc::UnboundedReceiver<Piece>,
    /// Taken from the queue, and did not fit.
    next: Option<Piece>,
    number: u64,
    sent: mpsc::UnboundedSender<SentBatch>,
    gauge: Arc<Gauge>,
}

impl Outgoing {
    /// A stream that begins with `opening`, and tells of every batch before it leaves.
    pub(crate) fn new(
        opening: v1::Open,
        pieces: mpsc::UnboundedReceiver<Piece>,
        sent: mpsc::UnboundedSender<SentBatch>,
        gauge: Arc<Gauge>,
    ) -> Self {
        Self { opening: Some(opening), pieces, next: None, number: 0, sent, gauge }
    }

    fn poll_batch(&mut self, context: &mut Context<'_>) -> Poll<Option<v1::Batch>> {
        let mut gathered = Gathered::default();
        loop {
            let piece = match self.next.take() {
                Some(piece) => piece,
                None => match self.pieces.poll_recv(context) {
                    Poll::Ready(Some(piece)) => piece,
                    Poll::Ready(None) if gathered.is_empty() => return Poll::Ready(None),
                    Poll::Pending if gathered.is_empty() => return Poll::Pending,
                    Poll::Ready(None) | Poll::Pending => break,
                },
            };
            if !gathered.fits(&piece) {
                self.next = Some(piece);
                break;
            }
            gathered.add(piece);
        }
        Poll::Ready(Some(self.depart(gathered)))
    }

    fn depart(&mut self, gathered: Gathered) -> v1::Batch {
        self.number += 1;
        let at = clock::now();
        self.gauge.sent(at);
        let writes = !gathered.records.is_empty();
        let sent = SentBatch {
            number: self.number,
            bytes: gathered.bytes,
            runs: gathered.runs.clone(),
            at,
            stores: gathered.probe || writes,
            writes,
        };
        // Nobody hears of it only when the session is over, and then nobody needs to.
        let _ = self.sent.send(sent);
        gathered.into_batch(self.number)
    }
}

impl Stream for Outgoing {
    type Item = v1::ReplicateRequest;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(opening) = self.opening.take() {
            return Poll::Ready(Some(v1::ReplicateRequest { kind: Some(Kind::Open(opening)) }));
        }
        self.poll_batch(context)
            .map(|batch| batch.map(|batch| v1::ReplicateRequest { kind: Some(Kind::Batch(batch)) }))
    }
}

/// Pieces that will leave as one batch.
#[derive(Debug, Default)]
struct Gathered {
    bytes: usize,
    runs: SmallVec<[Run; 4]>,
    orders: Vec<v1::Order>,
    sections: Vec<v1::Section>,
    records: SmallVec<[Bytes; 4]>,
    reads: Vec<v1::Read>,
    probe: bool,
}

/// Moves the items of one list to the end of another, without copying where that one is empty.
fn append<T>(to: &mut Vec<T>, mut from: Vec<T>) {
    if to.is_empty() {
        *to = from;
    } else {
        to.append(&mut from);
    }
}

impl Gathered {
    fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    fn fits(&self, piece: &Piece) -> bool {
        self.is_empty() || self.bytes + piece.bytes() <= BATCH_BYTES
    }

    fn add(&mut self, piece: Piece) {
        self.bytes += piece.bytes();
        self.run(piece.shard, piece.sequence);
        append(&mut self.orders, piece.orders);
        append(&mut self.sections, piece.sections);
        append(&mut self.reads, piece.reads);
        self.probe |= piece.probe;
        if !piece.records.is_empty() {
            self.records.push(piece.records);
        }
    }

    fn run(&mut self, shard: usize, sequence: u64) {
        match self.runs.iter_mut().find(|run| run.shard == shard) {
            Some(run) => run.last = sequence,
            None => self.runs.push(Run { shard, first: sequence, last: sequence }),
        }
    }

    fn into_batch(mut self, number: u64) -> v1::Batch {
        let records = match self.records.as_mut_slice() {
            [] => Bytes::new(),
            [only] => std::mem::take(only),
            several => {
                let bytes = several.iter().map(Bytes::len).sum();
                let mut joined = BytesMut::with_capacity(bytes);
                for part in several {
                    joined.extend_from_slice(part);
                }
                joined.freeze()
            }
        };
        v1::Batch {
            number,
            orders: self.orders,
            sections: self.sections,
            records,
            reads: self.reads,
            probe: self.probe,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, StreamExt};

    use super::*;

    fn piece(shard: usize, sequence: u64, bytes: usize) -> Piece {
        let records = vec![u8::try_from(sequence).unwrap(); bytes].into();
        Piece { shard, sequence, records, ..Piece::default() }
    }

    struct Fixture {
        stream: Outgoing,
        pieces: mpsc::UnboundedSender<Piece>,
        sent: mpsc::UnboundedReceiver<SentBatch>,
    }

    fn fixture() -> Fixture {
        let (pieces, queue) = mpsc::unbounded_channel();
        let (tell, sent) = mpsc::unbounded_channel();
        let mut stream = Outgoing::new(v1::Open::default(), queue, tell, Arc::default());
        let first = stream.next().now_or_never().unwrap().unwrap();
        assert!(matches!(first.kind, Some(Kind::Open(_))));
        Fixture { stream, pieces, sent }
    }

    fn next(stream: &mut Outgoing) -> Option<v1::Batch> {
        match stream.next().now_or_never()??.kind {
            Some(Kind::Batch(batch)) => Some(batch),
            _ => None,
        }
    }

    #[test]
    fn everything_queued_leaves_as_one_batch() {
        let mut fixture = fixture();
        assert!(next(&mut fixture.stream).is_none(), "nothing to send");
        for (shard, sequence) in [(0, 1), (1, 1), (0, 2)] {
            fixture.pieces.send(piece(shard, sequence, 8)).unwrap();
        }
        let batch = next(&mut fixture.stream).unwrap();
        assert_eq!((batch.number, batch.records.len()), (1, 24));
        let sent = fixture.sent.try_recv().unwrap();
        let runs = [Run { shard: 0, first: 1, last: 2 }, Run { shard: 1, first: 1, last: 1 }];
        assert_eq!(sent.runs.as_slice(), runs);
        assert!(next(&mut fixture.stream).is_none());
    }

    #[test]
    fn a_batch_is_timed_only_if_something_is_to_be_written() {
        let mut fixture = fixture();
        let probe = Piece { shard: usize::MAX, probe: true, ..Piece::default() };
        let reads = Piece { reads: vec![v1::Read::default()], ..piece(0, 2, 0) };
        let stores = [piece(0, 1, 8), reads, probe].map(|piece| {
            fixture.pieces.send(piece).unwrap();
            let batch = next(&mut fixture.stream).unwrap();
            (batch.probe, fixture.sent.try_recv().unwrap().stores)
        });
        assert_eq!(stores, [(false, true), (false, false), (true, true)]);
    }

    #[test]
    fn a_batch_ends_where_the_next_piece_would_not_fit() {
        let mut fixture = fixture();
        for sequence in 1..=3 {
            fixture.pieces.send(piece(0, sequence, BATCH_BYTES / 2)).unwrap();
        }
        fixture.pieces.send(piece(0, 4, 3 * BATCH_BYTES)).unwrap();
        let sizes: Vec<_> =
            std::iter::from_fn(|| next(&mut fixture.stream).map(|batch| batch.records.len()))
                .collect();
        assert_eq!(sizes, [BATCH_BYTES, BATCH_BYTES / 2, 3 * BATCH_BYTES]);
        let runs: Vec<_> = std::iter::from_fn(|| fixture.sent.try_recv().ok())
            .map(|sent| (sent.number, sent.runs[0].first, sent.runs[0].last))
            .collect();
        assert_eq!(runs, [(1, 1, 2), (2, 3, 3), (3, 4, 4)]);
    }
}
