//! Clients' operations under way: whom each one answers.
//!
//! A partition knows an operation by its number alone. The number leads to an entry of a table
//! whose places are used again and again; it also holds how often its place was used, so that a
//! number from before cannot answer somebody else. What the requests of one batch have in common,
//! their connection, is kept once for the batch, and their answers are gathered there: a connection
//! gets one message for all of its answers that fall due together.

use crate::logic::partition::io::OperationId;
use crate::net::batch::{Answer, ReplySender};
use crate::protocol::reply::Outcome;

/// What a request becomes once it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// A value, or that a write was stored.
    Plain,
    /// A delete: what was stored is a tombstone.
    Delete,
    /// Where the key lives.
    Where,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    uses: u32,
    batch: u32,
    slot: u64,
    /// `None` while the place is free.
    asked: Option<Asked>,
}

#[derive(Debug)]
struct BatchEntry {
    connection: ReplySender,
    outstanding: usize,
    answers: Vec<Answer>,
}

/// Names a batch while some of its requests are not answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchPlace(u32);

/// The operations of one shard.
#[derive(Debug, Default)]
pub(crate) struct Operations {
    entries: Vec<Entry>,
    free: Vec<u32>,
    batches: Vec<Option<BatchEntry>>,
    free_batches: Vec<u32>,
    /// Batches with answers that were not sent.
    answered: Vec<u32>,
    total: u64,
}

fn place(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

impl Operations {
    /// A batch of this many requests begins, to be answered through `connection`.
    pub(crate) fn begin(&mut self, connection: ReplySender, requests: usize) -> BatchPlace {
        let answers = Vec::with_capacity(requests);
        let entry = Some(BatchEntry { connection, outstanding: requests, answers });
        let at = self.free_batches.pop().unwrap_or_else(|| {
            self.batches.push(None);
            place(self.batches.len() - 1)
        });
        if let Some(batch) = self.batches.get_mut(at as usize) {
            *batch = entry;
        }
        BatchPlace(at)
    }

    /// The number under which a request of a batch goes to its partition.
    pub(crate) fn add(&mut self, batch: BatchPlace, slot: u64, asked: Asked) -> OperationId {
        let at = self.free.pop().unwrap_or_else(|| {
            self.entries.push(Entry { uses: 0, batch: 0, slot: 0, asked: None });
            place(self.entries.len() - 1)
        });
        let uses = self.entries.get_mut(at as usize).map_or(0, |entry| {
            let uses = entry.uses.wrapping_add(1);
            *entry = Entry { uses, batch: batch.0, slot, asked: Some(asked) };
            uses
        });
        OperationId(u64::from(uses) << 32 | u64::from(at))
    }

    /// What an operation asked; `None` if it was answered before.
    pub(crate) fn asked(&self, id: OperationId) -> Option<Asked> {
        let (at, uses) = parts(id);
        self.entries.get(at).filter(|entry| entry.uses == uses)?.asked
    }

    /// Answers an operation, once.
    pub(crate) fn answer(&mut self, id: OperationId, outcome: Outcome) {
        let (at, uses) = parts(id);
        let Some(entry) = self.entries.get_mut(at).filter(|entry| entry.uses == uses) else {
            return;
        };
        if entry.asked.take().is_some() {
            let (batch, slot) = (BatchPlace(entry.batch), entry.slot);
            self.free.push(place(at));
            self.answer_directly(batch, slot, outcome);
        }
    }

    /// Answers a request of a batch that never became an operation.
    pub(crate) fn answer_directly(&mut self, place: BatchPlace, slot: u64, outcome: Outcome) {
        let Some(Some(batch)) = self.batches.get_mut(place.0 as usize) else { return };
        if batch.answers.is_empty() {
            self.answered.push(place.0);
        }
        batch.answers.push((slot, outcome));
        self.total += 1;
    }

    /// Sends every connection its answers.
    pub(crate) fn flush(&mut self) {
        for place in self.answered.drain(..) {
            let Some(slot) = self.batches.get_mut(place as usize) else { continue };
            let Some(batch) = slot else { continue };
            let answers = std::mem::take(&mut batch.answers);
            batch.outstanding = batch.outstanding.saturating_sub(answers.len());
            batch.connection.send(answers);
            if batch.outstanding == 0 {
                *slot = None;
                self.free_batches.push(place);
            }
        }
    }

    /// How many were answered since the beginning.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }
}

fn parts(id: OperationId) -> (usize, u32) {
    let at = id.0 & u64::from(u32::MAX);
    (usize::try_from(at).unwrap_or(usize::MAX), u32::try_from(id.0 >> 32).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(answers: Option<Vec<Answer>>) -> Vec<u64> {
        answers.unwrap_or_default().into_iter().map(|(slot, _)| slot).collect()
    }

    #[test]
    fn answers_that_fall_due_together_travel_together() {
        let (sender, mut receiver) = ReplySender::new();
        let mut operations = Operations::default();
        let batch = operations.begin(sender, 3);
        let first = operations.add(batch, 10, Asked::Plain);
        let second = operations.add(batch, 11, Asked::Plain);
        operations.answer_directly(batch, 12, Outcome::Busy);
        operations.answer(second, Outcome::NotFound);
        assert!(receiver.try_recv().is_err());
        operations.flush();
        assert_eq!(slots(receiver.try_recv().ok()), [12, 11]);
        operations.answer(first, Outcome::NotFound);
        operations.flush();
        assert_eq!(slots(receiver.try_recv().ok()), [10]);
        assert!(operations.batches.iter().all(Option::is_none), "the batch is forgotten");
    }

    #[test]
    fn an_old_number_answers_nobody_else() {
        let (sender, mut receiver) = ReplySender::new();
        let mut operations = Operations::default();
        let batch = operations.begin(sender.clone(), 1);
        let old = operations.add(batch, 1, Asked::Plain);
        operations.answer(old, Outcome::NotFound);
        operations.flush();
        assert_eq!(slots(receiver.try_recv().ok()), [1]);
        let batch = operations.begin(sender, 1);
        let new = operations.add(batch, 2, Asked::Delete);
        assert_eq!(new.0 & 0xff, old.0 & 0xff, "the place is used again");
        operations.answer(old, Outcome::Deleted);
        operations.flush();
        assert!(receiver.try_recv().is_err());
        assert_eq!(operations.asked(new), Some(Asked::Delete));
    }
}
