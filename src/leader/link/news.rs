//! What a link tells shards: the replies of a store, taken apart by the shard they concern.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::outgoing::{Run, SentBatch};
use super::piece::{Gauge, Lane, LinkSender};
use crate::leader::gateway::router::shard_of;
use crate::logic::partition::io::{
    Attempt, Content, FenceAnswer, ReadAnswer, ReadId, Summary, Write,
};
use crate::protocol::record::{Kind, Record};
use crate::rpc::{Malformed, convert, v1};
use crate::runtime::metrics::DurationHistogram;
use crate::types::{Key, KeyHash, Moment, PartitionId, StoreId, Token};

/// One connection of a link; later ones have higher numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Session(pub(crate) u64);

/// Something happened on a link.
#[derive(Debug)]
pub(crate) struct LinkEvent {
    /// To which store.
    pub(crate) store: StoreId,
    /// On which of its connections.
    pub(crate) session: Session,
    /// What.
    pub(crate) news: News,
}

/// What happened on a link.
#[derive(Debug)]
pub(crate) enum News {
    /// It is open, and the store has promised this epoch.
    Connected {
        /// Where to send.
        sender: LinkSender,
        /// Where other nodes reach the store.
        address: Arc<str>,
    },
    /// The store said something.
    Heard(Heard),
    /// It broke; nothing of it will be heard any more.
    Disconnected,
}

/// What a store said in one message, as far as it concerns one shard.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    /// Pieces that were not carried out as a whole. They come before `durable`.
    pub(crate) refused: Vec<Refused>,
    /// Every piece of the lane up to this sequence is durable, refusals apart.
    pub(crate) durable: Option<(Lane, u64)>,
    /// Answers to fences.
    pub(crate) fences: Vec<(PartitionId, Token, FenceAnswer)>,
    /// Shadow copies that ended.
    pub(crate) copies: Vec<Copied>,
    /// Comparisons that ended.
    pub(crate) comparisons: Vec<Compared>,
    /// Records that the store has and could not read.
    pub(crate) unreadable: Vec<(PartitionId, Token, KeyHash)>,
    /// Answers to reads.
    pub(crate) reads: Vec<(PartitionId, ReadId, ReadAnswer)>,
}

impl Heard {
    fn is_empty(&self) -> bool {
        self.refused.is_empty()
            && self.durable.is_none()
            && self.fences.is_empty()
            && self.copies.is_empty()
            && self.comparisons.is_empty()
            && self.unreadable.is_empty()
            && self.reads.is_empty()
    }
}

/// What was sent for a partition in a run of pieces was not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) lane: Lane,
    pub(crate) partition: PartitionId,
    pub(crate) token: Token,
    pub(crate) first: u64,
    pub(crate) last: u64,
}

/// A shadow copy ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Copied {
    pub(crate) partition: PartitionId,
    pub(crate) token: Token,
    pub(crate) complete: bool,
}

/// A comparison ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Compared {
    pub(crate) partition: PartitionId,
    pub(crate) token: Token,
    pub(crate) attempt: Attempt,
    pub(crate) complete: bool,
    pub(crate) restored: u64,
}

/// The receiving half of a lane: which batches are outstanding, and whose.
#[derive(Debug)]
pub(crate) struct Ledger {
    lane: Lane,
    shards: usize,
    sent: mpsc::UnboundedReceiver<SentBatch>,
    outstanding: VecDeque<SentBatch>,
    /// The last batch that is durable.
    through: u64,
    gauge: Arc<Gauge>,
    /// From when a batch of writes left until it was durable on the store.
    durations: DurationHistogram,
}

impl Ledger {
    /// The ledger of a lane whose sending half tells of its batches through `sent`.
    pub(crate) fn new(
        lane: Lane,
        shards: usize,
        sent: mpsc::UnboundedReceiver<SentBatch>,
        gauge: Arc<Gauge>,
        durations: DurationHistogram,
    ) -> Self {
        Self { lane, shards, sent, outstanding: VecDeque::new(), through: 0, gauge, durations }
    }

    /// Takes a reply apart: what each shard must hear, with the shard's number.
    pub(crate) fn read(
        &mut self,
        reply: v1::ReplicateReply,
        now: Moment,
    ) -> Result<impl Iterator<Item = (usize, Heard)>, Malformed> {
        while let Ok(batch) = self.sent.try_recv() {
            self.outstanding.push_back(batch);
        }
        let mut heard: Vec<Heard> =
            std::iter::repeat_with(Heard::default).take(self.shards).collect();
        for refusal in &reply.refusals {
            self.refusal(refusal, &mut heard)?;
        }
        self.durable(reply.durable_through, &mut heard, now)?;
        for answer in reply.fences {
            let partition = convert::partition(answer.partition)?;
            let fence = (partition, Token(answer.token), fence_answer(&answer)?);
            of_partition(&mut heard, partition)?.fences.push(fence);
        }
        for report in reply.copies {
            let copied = copied(&report)?;
            of_partition(&mut heard, copied.partition)?.copies.push(copied);
        }
        for report in reply.comparisons {
            let compared = compared(&report)?;
            of_partition(&mut heard, compared.partition)?.comparisons.push(compared);
        }
        for unreadable in reply.unreadable {
            let partition = convert::partition(unreadable.partition)?;
            let key_hash = convert::key_hash(&unreadable.key_hash)?;
            let unreadable = (partition, Token(unreadable.token), key_hash);
            of_partition(&mut heard, partition)?.unreadable.push(unreadable);
        }
        for answer in reply.reads {
            let partition = convert::partition(answer.partition)?;
            let read = (partition, ReadId(answer.id), read_answer(&answer));
            of_partition(&mut heard, partition)?.reads.push(read);
        }
        Ok(heard.into_iter().enumerate().filter(|(_, heard)| !heard.is_empty()))
    }

    fn refusal(&self, refusal: &v1::Refusal, heard: &mut [Heard]) -> Result<(), Malformed> {
        let partition = convert::partition(refusal.partition)?;
        let oldest = self.outstanding.front().map_or(0, |batch| batch.number);
        let at = refusal.batch.checked_sub(oldest).and_then(|at| usize::try_from(at).ok());
        let batch = at.and_then(|at| self.outstanding.get(at));
        let batch = batch.ok_or(Malformed("a refusal names a batch that is not outstanding"))?;
        let shard = shard_of(partition, self.shards);
        let run = batch.runs.iter().find(|run| run.shard == shard);
        let run = run.ok_or(Malformed("a refusal names a partition that was not in its batch"))?;
        let (token, lane) = (Token(refusal.token), self.lane);
        tracing::warn!(%partition, %token, reason = refusal.reason, "a store refused");
        let refused = Refused { lane, partition, token, first: run.first, last: run.last };
        of_partition(heard, partition)?.refused.push(refused);
        Ok(())
    }

    fn durable(&mut self, through: u64, heard: &mut [Heard], now: Moment) -> Result<(), Malformed> {
        let (mut batches, mut bytes) = (0, 0);
        while let Some(batch) = self.outstanding.pop_front_if(|batch| batch.number <= through) {
            batches += 1;
            bytes += batch.bytes;
            self.through = batch.number;
            let took = now.since(batch.at);
            if batch.stores {
                self.gauge.stored(took);
            }
            if batch.writes {
                self.durations.observe(took);
            }
            for Run { shard, last, .. } in batch.runs {
                if let Some(heard) = heard.get_mut(shard) {
                    heard.durable = Some((self.lane, last));
                }
            }
        }
        if through > self.through {
            return Err(Malformed("a batch is durable that was never sent"));
        }
        if batches > 0 {
            self.gauge.durable(batches, bytes, now);
        }
        Ok(())
    }
}

fn of_partition(heard: &mut [Heard], partition: PartitionId) -> Result<&mut Heard, Malformed> {
    let shard = shard_of(partition, heard.len());
    heard.get_mut(shard).ok_or(Malformed("a partition belongs to no shard"))
}

fn fence_answer(answer: &v1::FenceAnswer) -> Result<FenceAnswer, Malformed> {
    let summaries = answer.records.iter().map(|record| {
        Ok(Summary {
            key_hash: convert::key_hash(&record.key_hash)?,
            version: record.version(),
            checksum: record.checksum,
        })
    });
    let records = summaries.collect::<Result<_, Malformed>>()?;
    Ok(FenceAnswer {
        attempt: Attempt(answer.attempt),
        member: answer.member,
        doubt: answer.doubt().into(),
        watermark: answer.watermark(),
        records,
        floor: answer.floor(),
        tombstones: answer.tombstones,
    })
}

fn compared(report: &v1::ComparisonReport) -> Result<Compared, Malformed> {
    let (partition, token) = (convert::partition(report.partition)?, Token(report.token));
    if !report.complete {
        tracing::warn!(%partition, %token, reason = report.reason, "a comparison failed");
    }
    let (attempt, complete) = (Attempt(report.attempt), report.complete);
    Ok(Compared { partition, token, attempt, complete, restored: report.restored })
}

fn copied(report: &v1::CopyReport) -> Result<Copied, Malformed> {
    let (partition, token) = (convert::partition(report.partition)?, Token(report.token));
    if !report.complete {
        tracing::warn!(%partition, %token, reason = report.reason, "a copy failed");
    }
    Ok(Copied { partition, token, complete: report.complete })
}

fn read_answer(answer: &v1::ReadAnswer) -> ReadAnswer {
    match answer.status() {
        v1::ReadStatus::Found => {
            write_of(&answer.record).map_or(ReadAnswer::Damaged, ReadAnswer::Found)
        }
        v1::ReadStatus::Absent => ReadAnswer::Absent,
        v1::ReadStatus::Damaged => ReadAnswer::Damaged,
        v1::ReadStatus::Refused | v1::ReadStatus::Unspecified => ReadAnswer::Refused,
    }
}

/// What an encoded record says, its key and value still in the message it came in. The checksum is
/// verified once more here: the record has travelled since its store did.
fn write_of(encoded: &Bytes) -> Option<Write> {
    let (record, _) = Record::decode(encoded).ok()?;
    let value = match record.kind {
        Kind::Put => Some(encoded.slice_ref(record.value)),
        Kind::Tombstone => None,
        Kind::Control => return None,
    };
    let key = Key(encoded.slice_ref(record.key));
    Some(Write {
        version: record.version,
        content: Content { key, value, expires: record.expires },
    })
}

#[cfg(test)]
mod tests;
