//! What a load is made of.

use std::path::PathBuf;
use std::time::Duration;

use crate::runtime::clock;

/// How many clients share a key: one less than the judge can search.
pub const CLIENTS_PER_KEY: usize = 5;

/// What a load is made of, and with whom.
#[derive(Clone, Debug)]
pub struct Options {
    /// The client ports of leaders, each `host:port`; clients are divided among them, and try the
    /// next one when theirs cannot be reached.
    pub addresses: Vec<String>,
    /// How many clients there are, each with a connection of its own; at least one.
    pub clients: usize,
    /// How many keys are in use at a time. Each group of [`CLIENTS_PER_KEY`] clients has at least
    /// one.
    pub keys: usize,
    /// How long the load runs; until it is stopped, if this is nothing.
    pub duration: Option<Duration>,
    /// How long a client waits, on average, from one answer to its next request. Zero: not at all.
    pub pace: Duration,
    /// How long an answer may take before the outcome counts as open. Longer than the leader's
    /// `request_timeout` (5 s unless it is configured otherwise), or its answers are missed.
    pub reply_within: Duration,
    /// How many operations a key sees before a new one takes its place.
    pub operations_per_key: usize,
    /// How many operations are held in memory before keys that were retired are judged and let go.
    pub held_operations: usize,
    /// How long values are at least, in bytes. What names a write is some 20 bytes.
    pub value_bytes: usize,
    /// What every key begins with. The store must hold no such key: the judge takes each key to be
    /// absent in the beginning.
    pub prefix: String,
    /// What the clients choose follows from this number, but for the order in which they come.
    pub seed: u64,
    /// How long keys may take to be read back at the end, all together.
    pub settle_within: Duration,
    /// Whether all keys are deleted at the end, after they were read back.
    pub delete_keys: bool,
    /// Where the whole history is written to, in the form of [`super::file`].
    pub history: Option<PathBuf>,
}

impl Options {
    /// 10 clients on 20 keys of this leader, with a prefix of their own, until they are stopped: 1 ms
    /// from answer to request, 7 s for an answer, 2,000 operations a key, a minute to read all back.
    pub fn new(address: impl Into<String>) -> Self {
        Self {
            addresses: vec![address.into()],
            clients: 10,
            keys: 20,
            duration: None,
            pace: Duration::from_millis(1),
            reply_within: Duration::from_secs(7),
            operations_per_key: 2_000,
            held_operations: 400_000,
            value_bytes: 0,
            prefix: format!("chaos-{:x}-", clock::wall_milliseconds()),
            seed: 1,
            settle_within: Duration::from_mins(1),
            delete_keys: false,
            history: None,
        }
    }

    /// How many groups the clients make.
    pub(super) fn groups(&self) -> usize {
        self.clients.max(1).div_ceil(CLIENTS_PER_KEY)
    }

    /// How many keys each group has at a time.
    pub(super) fn keys_of_a_group(&self) -> usize {
        self.keys.div_ceil(self.groups()).max(1)
    }
}
