//! One stream of a leader: what waits to be told to it, gathered until it is ready to listen.
//!
//! Whoever has something to say adds it here; whenever the connection can take a message, it takes
//! everything there is. So under load one message acknowledges many batches, and without load
//! nothing waits. What waits is bounded: reads that were answered stop their threads when the
//! leader does not listen, all else is bounded by what was accepted.

use std::collections::VecDeque;

use parking_lot::{Condvar, Mutex};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::rpc::transport::BATCH_BYTES;
use crate::rpc::{Malformed, v1};
use crate::types::{BootId, Epoch};

/// Answered reads that may wait for the leader to listen.
const WAITING_READ_BYTES: usize = 32 << 20;
/// What a read answer takes besides its record.
const READ_ANSWER_BYTES: usize = 64;
/// What a record summary takes.
const SUMMARY_BYTES: usize = 48;

/// What follows from a commit for one stream.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// Every batch up to this one is durable.
    pub(crate) through: u64,
    /// What was not carried out.
    pub(crate) refusals: Vec<v1::Refusal>,
    /// Answers to fences.
    pub(crate) fences: Vec<v1::FenceAnswer>,
    /// Copies that ended.
    pub(crate) copies: Vec<v1::CopyReport>,
    /// Comparisons that ended.
    pub(crate) comparisons: Vec<v1::ComparisonReport>,
    /// Records that cannot be read.
    pub(crate) unreadable: Vec<v1::Unreadable>,
}

impl Told {
    fn is_empty(&self) -> bool {
        self.refusals.is_empty()
            && self.fences.is_empty()
            && self.copies.is_empty()
            && self.comparisons.is_empty()
            && self.unreadable.is_empty()
    }
}

#[derive(Debug, Default)]
struct Outgoing {
    /// The first reply says nothing but that the leader's epoch is promised.
    greeted: bool,
    told: Told,
    /// The last `through` that was sent.
    sent: u64,
    /// The last batch that arrived, and the last of them that the commit thread must see.
    arrived: u64,
    queued: u64,
    reads: VecDeque<v1::ReadAnswer>,
    read_bytes: usize,
    end: Option<Status>,
}

/// One stream of a leader.
#[derive(Debug)]
pub(crate) struct LeaderStream {
    id: u64,
    epoch: Epoch,
    leader: Option<BootId>,
    outgoing: Mutex<Outgoing>,
    ready: Notify,
    drained: Condvar,
    closed: CancellationToken,
}

fn read_bytes(answer: &v1::ReadAnswer) -> usize {
    READ_ANSWER_BYTES + answer.record.len()
}

impl LeaderStream {
    pub(crate) fn new(id: u64, epoch: Epoch) -> Self {
        Self {
            id,
            epoch,
            leader: None,
            outgoing: Mutex::default(),
            ready: Notify::new(),
            drained: Condvar::new(),
            closed: CancellationToken::new(),
        }
    }

    /// As it is, and opened by this start of its leader's process.
    pub(crate) fn opened_by(self, leader: Option<BootId>) -> Self {
        Self { leader, ..self }
    }

    /// Tells streams of one process apart; later ones have higher numbers.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// The epoch of its leader.
    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The start of its leader's process, if that was said.
    pub(crate) fn leader(&self) -> Option<BootId> {
        self.leader
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.is_cancelled()
    }

    /// Completes when nothing more is taken from the leader.
    pub(crate) async fn closed(&self) {
        self.closed.cancelled().await;
    }

    /// A batch arrived. One that brings nothing to store is durable with the one before it, so the
    /// commit thread need not be woken for it.
    pub(crate) fn arrived(&self, number: u64, to_be_committed: bool) -> Result<(), Malformed> {
        let mut outgoing = self.outgoing.lock();
        if number != outgoing.arrived + 1 {
            return Err(Malformed("batches must be numbered from 1, without gaps"));
        }
        outgoing.arrived = number;
        if to_be_committed {
            outgoing.queued = number;
        } else if outgoing.told.through >= outgoing.queued {
            outgoing.told.through = number;
            drop(outgoing);
            self.ready.notify_one();
        }
        Ok(())
    }

    /// Adds what follows from a commit.
    pub(crate) fn tell(&self, told: Told) {
        let mut outgoing = self.outgoing.lock();
        if told.through > 0 {
            let last = told.through >= outgoing.queued;
            outgoing.told.through = if last { outgoing.arrived } else { told.through };
        }
        outgoing.told.refusals.extend(told.refusals);
        outgoing.told.fences.extend(told.fences);
        outgoing.told.copies.extend(told.copies);
        outgoing.told.comparisons.extend(told.comparisons);
        outgoing.told.unreadable.extend(told.unreadable);
        drop(outgoing);
        self.ready.notify_one();
    }

    /// Adds answers to reads; waits while too many of them wait for the leader.
    pub(crate) fn answer(&self, answers: Vec<v1::ReadAnswer>) {
        let bytes: usize = answers.iter().map(read_bytes).sum();
        let mut outgoing = self.outgoing.lock();
        while outgoing.read_bytes > WAITING_READ_BYTES && !self.is_closed() {
            self.drained.wait(&mut outgoing);
        }
        outgoing.read_bytes += bytes;
        outgoing.reads.extend(answers);
        drop(outgoing);
        self.ready.notify_one();
    }

    /// Ends the stream, once what was told before has been sent. The first reason counts.
    pub(crate) fn close(&self, reason: Status) {
        let mut outgoing = self.outgoing.lock();
        outgoing.end.get_or_insert(reason);
        self.closed.cancel();
        drop(outgoing);
        self.drained.notify_all();
        self.ready.notify_one();
    }

    /// Waits until there is something to say, and takes as much of it as one message may hold.
    /// `None` is the end of the stream.
    pub(crate) async fn next(&self) -> Option<Result<v1::ReplicateReply, Status>> {
        loop {
            if let Some(next) = self.take() {
                return next.transpose();
            }
            self.ready.notified().await;
        }
    }

    /// The next reply, or the end; nothing if there is nothing to say yet.
    fn take(&self) -> Option<Result<Option<v1::ReplicateReply>, Status>> {
        let mut outgoing = self.outgoing.lock();
        if let Some(reply) = outgoing.reply() {
            drop(outgoing);
            self.drained.notify_all();
            return Some(Ok(Some(reply)));
        }
        let end = outgoing.end.as_mut()?;
        if end.code() == tonic::Code::Ok {
            return Some(Ok(None));
        }
        let reason = std::mem::replace(end, Status::ok(""));
        Some(Err(reason))
    }
}

impl Outgoing {
    fn reply(&mut self) -> Option<v1::ReplicateReply> {
        let news = !self.told.is_empty() || self.told.through > self.sent;
        if self.greeted && self.reads.is_empty() && !news {
            return None;
        }
        self.greeted = true;
        self.sent = self.told.through;
        Some(v1::ReplicateReply {
            durable_through: self.told.through,
            refusals: std::mem::take(&mut self.told.refusals),
            copies: std::mem::take(&mut self.told.copies),
            comparisons: std::mem::take(&mut self.told.comparisons),
            unreadable: std::mem::take(&mut self.told.unreadable),
            fences: self.take_fences(),
            reads: self.take_reads(),
        })
    }

    fn take_fences(&mut self) -> Vec<v1::FenceAnswer> {
        let mut bytes = 0;
        let fits = self.told.fences.iter().take_while(|answer| {
            let first = bytes == 0;
            bytes += SUMMARY_BYTES * (1 + answer.records.len());
            first || bytes <= BATCH_BYTES
        });
        let count = fits.count();
        let rest = self.told.fences.split_off(count);
        std::mem::replace(&mut self.told.fences, rest)
    }

    fn take_reads(&mut self) -> Vec<v1::ReadAnswer> {
        let mut bytes = 0;
        let fits = self.reads.iter().take_while(|answer| {
            let first = bytes == 0;
            bytes += read_bytes(answer);
            first || bytes <= BATCH_BYTES
        });
        let count = fits.count();
        let taken: Vec<_> = self.reads.drain(..count).collect();
        self.read_bytes -= taken.iter().map(read_bytes).sum::<usize>();
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn through(number: u64) -> Told {
        Told { through: number, ..Told::default() }
    }

    fn next(stream: &LeaderStream) -> Option<v1::ReplicateReply> {
        stream.take().and_then(Result::unwrap)
    }

    fn greeted() -> LeaderStream {
        let stream = LeaderStream::new(1, Epoch(1));
        assert_eq!(next(&stream), Some(v1::ReplicateReply::default()));
        stream
    }

    #[test]
    fn one_message_acknowledges_everything_before_it() {
        let stream = greeted();
        for number in 1..=3 {
            stream.arrived(number, true).unwrap();
        }
        stream.tell(through(1));
        stream.tell(through(2));
        assert_eq!(next(&stream).unwrap().durable_through, 2);
        assert!(next(&stream).is_none(), "nothing new");
        assert!(stream.arrived(5, true).is_err(), "one is missing");
    }

    #[test]
    fn reads_are_not_acknowledged_before_the_writes_that_came_first() {
        let stream = greeted();
        stream.arrived(1, false).unwrap();
        assert_eq!(next(&stream).unwrap().durable_through, 1);
        stream.arrived(2, true).unwrap();
        stream.arrived(3, false).unwrap();
        assert!(next(&stream).is_none());
        stream.tell(through(2));
        assert_eq!(next(&stream).unwrap().durable_through, 3);
    }

    #[test]
    fn large_answers_travel_in_messages_of_bounded_size() {
        let stream = greeted();
        let answer =
            |id| v1::ReadAnswer { id, record: vec![0; 700 << 10].into(), ..<_>::default() };
        stream.answer((0..3).map(answer).collect());
        for id in 0..3 {
            let reply = next(&stream).unwrap();
            assert_eq!(reply.reads.iter().map(|read| read.id).collect::<Vec<_>>(), [id]);
        }
    }

    #[test]
    fn the_end_comes_after_what_was_told_before() {
        let stream = greeted();
        stream.arrived(1, true).unwrap();
        stream.tell(through(1));
        stream.close(Status::aborted("first"));
        stream.close(Status::aborted("second"));
        assert!(stream.is_closed());
        assert_eq!(next(&stream).unwrap().durable_through, 1);
        let end = stream.take().unwrap().unwrap_err();
        assert_eq!(end.message(), "first");
        assert!(stream.take().unwrap().unwrap().is_none());
    }
}
