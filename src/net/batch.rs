//! What a connection and its backend say to each other.

use tokio::sync::mpsc;

use crate::protocol::command::{Operation, Question};
use crate::protocol::reply::Outcome;
use crate::types::Moment;

/// A request that the backend answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// About one key.
    Key(Operation),
    /// About the cluster.
    Cluster(Question),
}

/// The requests of one chunk, in the order they came.
#[derive(Debug)]
pub struct Batch {
    /// Each with its place on the connection.
    pub requests: Vec<(u64, Asked)>,
    /// Where the answers go.
    pub replies: ReplySender,
    /// When the chunk had been read.
    pub arrived: Moment,
    /// Whether nothing else of this connection is under way, so that what is answered at once
    /// overtakes nothing.
    pub alone: bool,
}

/// One answer: the place of its request on the connection, and what came of it.
pub type Answer = (u64, Outcome);

/// Takes the answers to one connection.
///
/// Each request is answered exactly once. The queue behind it has no limit of its own and needs
/// none: it holds at most one answer for each request that the connection has let through.
#[derive(Clone, Debug)]
pub struct ReplySender {
    answers: mpsc::UnboundedSender<Vec<Answer>>,
}

/// The connection's end of its [`ReplySender`]s.
pub type ReplyReceiver = mpsc::UnboundedReceiver<Vec<Answer>>;

impl ReplySender {
    /// The two ends of a new connection's queue of answers.
    pub fn new() -> (Self, ReplyReceiver) {
        let (answers, receiver) = mpsc::unbounded_channel();
        (Self { answers }, receiver)
    }

    /// Hands answers over. A connection that has gone is no error: nobody waits for them any more.
    pub fn send(&self, answers: Vec<Answer>) {
        if !answers.is_empty() {
            let _ = self.answers.send(answers);
        }
    }
}
