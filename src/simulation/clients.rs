//! Clients: each asks, waits for the answer, thinks, and asks again; everything they see is history.

use bytes::Bytes;

use super::profile::{MILLISECOND, SECOND};
use super::world::{Event, World};
use crate::logic::hash;
use crate::logic::history::{Kind, Operation, Outcome};
use crate::logic::partition::io::{Action, Reply};
use crate::types::{Key, Moment};

/// One client.
#[derive(Clone, Debug)]
pub(super) struct Client {
    keys: Vec<Key>,
    next_value: u64,
    /// The operation it waits for.
    waits_for: Option<usize>,
}

/// Groups of clients, each with keys of its own, so that no key has more clients than a search of
/// its history can bear.
pub(super) fn groups(groups: u32, clients: u32, keys: u32) -> Vec<Client> {
    let key = |group, number| Key(Bytes::from(format!("key-{group}-{number}")));
    (0..groups)
        .flat_map(|group| {
            let keys: Vec<Key> = (0..keys).map(|number| key(group, number)).collect();
            (0..clients).map(move |_| Client { keys: keys.clone(), next_value: 0, waits_for: None })
        })
        .collect()
}

impl World {
    /// A client asks something, if there is a leader to ask.
    pub(super) fn client_asks(&mut self, client: usize) {
        if self.quiet {
            return;
        }
        let Some(incarnation) = self.leader.as_ref().map(|leader| leader.incarnation) else {
            let at = Moment(self.now.0 + 20 * MILLISECOND);
            self.queue.plan(at, Event::ClientAsks { client });
            return;
        };
        let key = self.random.pick(&self.clients[client].keys).clone();
        let kind = self.choose(client);
        self.invoke(incarnation, client, key, kind);
    }

    fn choose(&mut self, client: usize) -> Kind {
        let state = &mut self.clients[client];
        state.next_value += 1;
        let value = Bytes::from(format!("{client}.{}", state.next_value));
        match self.random.below(100) {
            0..45 => Kind::Get,
            45..75 => Kind::Set(value),
            75..87 => Kind::Update(value),
            _ => Kind::Delete,
        }
    }

    pub(super) fn invoke(&mut self, incarnation: u64, client: usize, key: Key, kind: Kind) {
        let place = self.history.len();
        self.history.push(Operation {
            client: u32::try_from(client).unwrap_or(0),
            key,
            kind,
            invoked: self.now,
            returned: None,
            outcome: Outcome::Pending,
        });
        if let Some(client) = self.clients.get_mut(client) {
            client.waits_for = Some(place);
        }
        let at = Moment(self.now.0 + self.random.between(20, 300));
        self.queue.plan(at, Event::Request { incarnation, place });
        if self.chaos && self.random.per_million(2_000) {
            let at = Moment(self.now.0 + self.random.below(2 * SECOND));
            self.queue.plan(at, Event::Lost { place });
        }
    }

    /// What the leader is asked: the partition, what to do, and the key.
    pub(super) fn request(&self, place: usize) -> (usize, Action, Key) {
        let operation = &self.history[place];
        let partition = hash::partition_of(operation.key.as_bytes(), self.count);
        let action = match &operation.kind {
            Kind::Get => Action::Get,
            Kind::Set(value) => Action::Set(value.clone()),
            Kind::Update(value) => Action::Update(value.clone()),
            Kind::Delete => Action::Delete,
        };
        (partition.index(), action, operation.key.clone())
    }

    pub(super) fn answer_client(&mut self, place: usize, reply: &Reply) {
        let outcome = match reply {
            Reply::Stored { version, .. } => Outcome::Stored { version: Some(*version) },
            Reply::Value { version, value } => {
                Outcome::Value { version: Some(*version), value: value.clone() }
            }
            Reply::NotFound { version } => Outcome::NotFound { version: *version },
            Reply::Uncertain => Outcome::Uncertain,
            Reply::Unavailable(_)
            | Reply::NotEnoughNodes { .. }
            | Reply::DiskFull
            | Reply::Damaged => Outcome::Failed,
        };
        let at = Moment(self.now.0 + self.random.between(20, 300));
        self.queue.plan(at, Event::Answer { place, outcome });
    }

    /// The connection of a client is gone, and with it the answer.
    pub(super) fn answer_lost(&mut self, place: usize) {
        let outcome = match self.history[place].kind {
            Kind::Get => Outcome::Failed,
            _ => Outcome::Uncertain,
        };
        self.client_hears(place, outcome);
    }

    pub(super) fn client_hears(&mut self, place: usize, outcome: Outcome) {
        let operation = &mut self.history[place];
        if operation.returned.is_some() {
            return;
        }
        operation.returned = Some(self.now);
        self.count_outcome(place, &outcome);
        let failed = outcome == Outcome::Failed;
        let operation = &mut self.history[place];
        operation.outcome = outcome;
        let client = operation.client as usize;
        let waited = self.clients.get_mut(client).map(|client| client.waits_for.take());
        if waited.flatten().is_some() {
            let pause = if failed { 20 * MILLISECOND } else { 1 };
            let at = Moment(self.now.0 + pause + self.random.below(self.profile.think));
            self.queue.plan(at, Event::ClientAsks { client });
        }
    }

    /// Every key that any client uses.
    pub(super) fn all_keys(&self) -> Vec<Key> {
        let mut keys: Vec<Key> =
            self.clients.iter().flat_map(|client| client.keys.iter().cloned()).collect();
        keys.sort();
        keys.dedup();
        keys
    }
}
