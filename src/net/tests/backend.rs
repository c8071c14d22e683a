//! A store in memory behind the connection under test.

use std::collections::HashMap;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use parking_lot::Mutex;
use tower::{BoxError, Service};

use crate::net::batch::{Answer, Asked, Batch, ReplySender};
use crate::protocol::command::{Operation, Question};
use crate::protocol::reply::{CopyLocation, CopyState, Location, Outcome};
use crate::types::{Epoch, Moment, PartitionId, StoreId, Version};

/// When the backend answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answers {
    /// At once.
    AtOnce,
    /// When told to, the last request first.
    Held,
    /// Never: every batch is refused.
    Refused,
}

/// A store in memory, shared by its clones.
#[derive(Clone, Debug)]
pub(super) struct Backend {
    answers: Answers,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    values: HashMap<Bytes, Bytes>,
    held: Vec<(ReplySender, u64, Outcome)>,
    batches: usize,
    last_arrived: Moment,
}

impl Backend {
    pub(super) fn new(answers: Answers) -> Self {
        Self { answers, state: Arc::default() }
    }

    /// Requests that wait for [`Self::release`].
    pub(super) fn held(&self) -> usize {
        self.state.lock().held.len()
    }

    /// Batches seen so far.
    pub(super) fn batches(&self) -> usize {
        self.state.lock().batches
    }

    /// Since when the last batch counts.
    pub(super) fn last_arrived(&self) -> Moment {
        self.state.lock().last_arrived
    }

    /// Answers all that was held, the last request first, each in a message of its own.
    pub(super) fn release(&self) {
        for (sender, slot, outcome) in self.state.lock().held.drain(..).rev() {
            sender.send(vec![(slot, outcome)]);
        }
    }
}

impl State {
    fn answer(&mut self, asked: Asked) -> Outcome {
        match asked {
            Asked::Key(operation) => self.carry_out(operation),
            Asked::Cluster(Question::Nodes) => Outcome::Lines(vec!["Node: 1 -> 10.0.0.1:1".into()]),
            Asked::Cluster(Question::Files) => Outcome::Lines(vec!["10.0.0.1:1: 3".into()]),
            Asked::Cluster(Question::Status) => Outcome::Lines(Vec::new()),
        }
    }

    fn carry_out(&mut self, operation: Operation) -> Outcome {
        let stored = Outcome::Stored { copies: 2, wanted: 2 };
        if let Some(outcome) = arranged(operation.key().as_bytes()) {
            return outcome;
        }
        match operation {
            Operation::Get { key } => match self.values.get(&key.0) {
                Some(value) => Outcome::Value(value.clone()),
                None => Outcome::NotFound,
            },
            Operation::Update { key, .. } if !self.values.contains_key(&key.0) => Outcome::NotFound,
            Operation::Set { key, value } | Operation::Update { key, value } => {
                self.values.insert(key.0, value);
                stored
            }
            Operation::Delete { key } => {
                self.values.remove(&key.0);
                Outcome::Deleted
            }
            Operation::Where { .. } => Outcome::Located(Box::new(location())),
        }
    }
}

/// Keys that stand for what a cluster may answer.
fn arranged(key: &[u8]) -> Option<Outcome> {
    Some(match key {
        b"degraded" => Outcome::Stored { copies: 3, wanted: 4 },
        b"unavailable" => Outcome::Unavailable,
        b"few-nodes" => Outcome::NotEnoughNodes { have: 1, need: 2 },
        b"uncertain" => Outcome::Uncertain,
        b"busy" => Outcome::Busy,
        b"disk-full" => Outcome::DiskFull,
        b"damaged" => Outcome::Damaged,
        _ => return None,
    })
}

fn location() -> Location {
    let copy = |number, state| CopyLocation {
        store: StoreId::from_number(number),
        address: format!("10.0.0.{number}:50052"),
        state,
    };
    Location {
        partition: PartitionId(7),
        version: Some(Version::new(Epoch(3), 12)),
        copies: vec![copy(1, CopyState::InSync), copy(2, CopyState::CatchingUp)],
    }
}

impl Service<Batch> for Backend {
    type Response = Vec<Answer>;
    type Error = BoxError;
    type Future = Ready<Result<Vec<Answer>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, batch: Batch) -> Self::Future {
        if self.answers == Answers::Refused {
            return ready(Err("refused".into()));
        }
        let mut state = self.state.lock();
        state.batches += 1;
        state.last_arrived = batch.arrived;
        let mut answers = Vec::new();
        for (slot, asked) in batch.requests {
            let outcome = state.answer(asked);
            if self.answers == Answers::Held {
                state.held.push((batch.replies.clone(), slot, outcome));
            } else {
                answers.push((slot, outcome));
            }
        }
        ready(Ok(answers))
    }
}
