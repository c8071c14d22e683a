//! The keys of a group of clients: which are in use, what was asked on each, which are done with.
//!
//! A key is *live*, then *leaving*: nothing is asked on it any more, but for the read that closes
//! it once everything else is answered. From then on it is *retired*: only what may still take
//! effect can change it, until it is read back at the end.

use std::collections::{BTreeMap, HashSet, VecDeque};

use bytes::Bytes;

use super::random::Random;
use crate::logic::history::{Kind, Operation, Outcome};
use crate::types::{Key, Moment};

/// What was asked on a key.
#[derive(Debug)]
pub(super) struct KeyLog {
    pub(super) operations: Vec<Operation>,
    /// How many of the operations have been handed over before.
    pub(super) handed_over: usize,
    pub(super) key: Key,
    under_way: usize,
}

impl KeyLog {
    fn new(key: Key) -> Self {
        Self { key, operations: Vec::new(), handed_over: 0, under_way: 0 }
    }
}

/// What a client does next.
#[derive(Debug)]
pub(super) enum Task {
    /// This, on this key.
    Ask(Ticket),
    /// Nothing, until others have been answered.
    Wait,
    /// Nothing any more.
    Done,
}

/// An operation under way.
#[derive(Debug)]
pub(super) struct Ticket {
    pub(super) key: Key,
    pub(super) kind: Kind,
    /// Whether it may close the key: nothing else is under way on it, nor will be.
    closing: bool,
    log: u64,
    place: usize,
}

/// The keys of a group.
#[derive(Debug)]
pub(super) struct Group {
    prefix: String,
    /// So many operations, and a key is retired.
    limit: usize,
    /// How long values are at least.
    value_bytes: usize,
    /// The keys that operations are under way on, or may be.
    logs: BTreeMap<u64, KeyLog>,
    live: Vec<u64>,
    leaving: VecDeque<u64>,
    /// What may still become visible of each retired key.
    retired: VecDeque<KeyLog>,
    /// How many logs there have been.
    opened: u64,
    /// How many keys there have been.
    named: u64,
    /// How many values have been made.
    written: u64,
}

impl Group {
    pub(super) fn new(prefix: String, keys: usize, limit: usize, value_bytes: usize) -> Self {
        let mut group = Self {
            prefix,
            limit: limit.max(1),
            value_bytes,
            logs: BTreeMap::new(),
            live: Vec::new(),
            leaving: VecDeque::new(),
            retired: VecDeque::new(),
            opened: 0,
            named: 0,
            written: 0,
        };
        group.live = (0..keys).map(|_| group.begin_key()).collect();
        group
    }

    /// Every key there has been.
    pub(super) fn keys(&self) -> Vec<Key> {
        (0..self.named).map(|number| self.key(number)).collect()
    }

    fn key(&self, number: u64) -> Key {
        Key(Bytes::from(format!("{}{number}", self.prefix)))
    }

    fn begin_key(&mut self) -> u64 {
        let key = self.key(self.named);
        self.named += 1;
        self.open(KeyLog::new(key))
    }

    fn open(&mut self, log: KeyLog) -> u64 {
        let number = self.opened;
        self.opened += 1;
        self.logs.insert(number, log);
        number
    }

    /// What a client asks next, now.
    pub(super) fn next(&mut self, client: u32, random: &mut Random, now: Moment) -> Task {
        if let Some(log) = self.closable() {
            return self.ask(log, client, Kind::Get, now, true);
        }
        let Some(log) = random.pick(&self.live).copied() else { return Task::Done };
        let kind = self.choose(client, random);
        self.ask(log, client, kind, now, false)
    }

    /// What a client does to bring the load to its end: it closes what is leaving, then reads back
    /// what was retired.
    pub(super) fn settle(&mut self, client: u32, now: Moment) -> Task {
        self.leaving.extend(self.live.drain(..));
        if self.closable().is_none()
            && let Some(log) = self.retired.pop_front()
        {
            let log = self.open(log);
            self.leaving.push_back(log);
        }
        match self.closable() {
            Some(log) => self.ask(log, client, Kind::Get, now, true),
            None if self.leaving.is_empty() => Task::Done,
            None => Task::Wait,
        }
    }

    /// A key that is leaving and has nothing under way.
    fn closable(&self) -> Option<u64> {
        let idle = |log: &&u64| self.logs.get(log).is_some_and(|log| log.under_way == 0);
        self.leaving.iter().find(idle).copied()
    }

    fn choose(&mut self, client: u32, random: &mut Random) -> Kind {
        match random.below(100) {
            0..45 => Kind::Get,
            45..78 => Kind::Set(self.value(client)),
            78..88 => Kind::Update(self.value(client)),
            _ => Kind::Delete,
        }
    }

    /// A value that was never written before.
    fn value(&mut self, client: u32) -> Bytes {
        self.written += 1;
        let name = format!("{client}.{}", self.written);
        Bytes::from(format!("{name:.<width$}", width = self.value_bytes))
    }

    fn ask(&mut self, number: u64, client: u32, kind: Kind, now: Moment, closing: bool) -> Task {
        let Some(log) = self.logs.get_mut(&number) else { return Task::Wait };
        let (key, place) = (log.key.clone(), log.operations.len());
        log.under_way += 1;
        log.operations.push(Operation {
            client,
            key: key.clone(),
            kind: kind.clone(),
            invoked: now,
            returned: None,
            outcome: Outcome::Pending,
        });
        Task::Ask(Ticket { key, kind, closing, log: number, place })
    }

    /// Writes down an answer. Returns the key's log once the key is closed: what has to be judged.
    pub(super) fn finish(
        &mut self,
        ticket: &Ticket,
        outcome: Outcome,
        now: Moment,
    ) -> Option<KeyLog> {
        let log = self.logs.get_mut(&ticket.log)?;
        log.under_way -= 1;
        let answered = matches!(outcome, Outcome::Value { .. } | Outcome::NotFound { .. });
        if let Some(operation) = log.operations.get_mut(ticket.place) {
            operation.returned = Some(now);
            operation.outcome = outcome;
        }
        if log.operations.len() >= self.limit {
            self.retire(ticket.log);
        }
        if !ticket.closing || !answered {
            return None;
        }
        self.leaving.retain(|leaving| *leaving != ticket.log);
        let log = self.logs.remove(&ticket.log)?;
        if log.handed_over == 0 {
            self.retired.extend(remainder(&log));
        }
        Some(log)
    }

    /// Puts a new key in the place of one that is live.
    fn retire(&mut self, number: u64) {
        let Some(place) = self.live.iter().position(|live| *live == number) else { return };
        self.leaving.push_back(number);
        let fresh = self.begin_key();
        if let Some(slot) = self.live.get_mut(place) {
            *slot = fresh;
        }
    }

    /// No more is asked: what could not be closed, and how many keys were not read back.
    pub(super) fn abandon(&mut self) -> (Vec<KeyLog>, usize) {
        let logs: Vec<KeyLog> = std::mem::take(&mut self.logs).into_values().collect();
        let unread = logs.len() + self.retired.len();
        self.retired.clear();
        self.live.clear();
        self.leaving.clear();
        (logs, unread)
    }
}

/// What has to be remembered of a key that was closed: the state it was closed with, and whatever
/// may still take effect. An update is remembered as a set, since what it found is not.
fn remainder(log: &KeyLog) -> Option<KeyLog> {
    let closing = log.operations.last()?;
    let held = match &closing.outcome {
        Outcome::Value { value, .. } => Some(value),
        _ => None,
    };
    let seen: HashSet<&Bytes> = log
        .operations
        .iter()
        .filter_map(|operation| match &operation.outcome {
            Outcome::Value { value, .. } => Some(value),
            _ => None,
        })
        .collect();
    let remains = |operation: &&Operation| {
        let open = matches!(operation.outcome, Outcome::Uncertain | Outcome::Pending);
        match operation.written() {
            Some(value) if Some(value) == held => true,
            // What was seen has happened, and cannot happen again.
            Some(value) => open && !seen.contains(value),
            None => open && operation.kind == Kind::Delete,
        }
    };
    let mut operations: Vec<Operation> = log.operations.iter().filter(remains).cloned().collect();
    for operation in &mut operations {
        if let Kind::Update(value) = &operation.kind {
            operation.kind = Kind::Set(value.clone());
        }
    }
    operations.push(closing.clone());
    let handed_over = operations.len();
    Some(KeyLog { operations, handed_over, ..KeyLog::new(log.key.clone()) })
}
