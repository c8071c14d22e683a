//! Clients' operations: what waits for what on a key.
//!
//! A key with nothing under way takes any operation at once. While a copy is being read for it,
//! further reads join that read and everything else queues behind, in order: so a base cannot
//! change between its read and its use (rule 36), and a connection's pipelined requests on one key
//! keep their order. A read of a key with an unsettled version waits for that (rule 10).

use std::time::Duration;

use smallvec::SmallVec;

use crate::types::{KeyHash, Moment, Version};

use super::Partition;
use super::cache::Cached;
use super::io::{
    Action, Content, Operation, Output, ReadAnswer, ReadId, Reply, Unavailable, Write,
};
use super::keys::{KeyRead, KeyState};
use super::replicas::Slots;
use super::unsettled::{Waiter, Waiting};
use crate::logic::mutants::{self, Mutant};

/// What an outstanding read is for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Reading {
    /// Clients.
    Key { key_hash: KeyHash, slot: usize },
    /// The content of an unsettled version (rule 12).
    Content { version: Version, slot: usize },
}

/// Whether the operation at the front of a key's queue was dealt with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Done,
    Blocked,
}

/// What an operation finds as its base.
#[derive(Clone, Copy, Debug)]
struct Base {
    version: Option<Version>,
    exists: bool,
}

/// The answer to a read that found this.
pub(super) fn reply_with(version: Version, content: &Content) -> Reply {
    match &content.value {
        Some(value) => Reply::Value { version, value: value.clone() },
        None => Reply::NotFound { version: Some(version) },
    }
}

fn waiter(operation: &Operation, waiting: Waiting) -> Waiter {
    Waiter { id: operation.id, waiting, deadline: operation.deadline }
}

impl Partition {
    pub(super) fn submit(&mut self, operation: Operation, out: &mut Vec<Output>) {
        self.note_deadline(operation.deadline);
        let mut held = self.held.iter().map(|held| held.key_hash);
        let behind = held.any(|key_hash| key_hash == operation.key_hash);
        if !self.serving || behind || self.awaits_members(&operation) {
            self.held.push_back(operation);
        } else {
            self.admit_operation(operation, out);
        }
    }

    /// Just after the leader began, too few members for a write may only mean that they are late.
    fn awaits_members(&self, operation: &Operation) -> bool {
        operation.action != Action::Get
            && self.now.since(self.began) < self.settings.absent_grace
            && self.usable().count() < self.settings.floor
    }

    pub(super) fn release_held(&mut self, out: &mut Vec<Output>) {
        if self.serving {
            for operation in std::mem::take(&mut self.held) {
                self.submit(operation, out);
            }
        }
    }

    fn admit_operation(&mut self, operation: Operation, out: &mut Vec<Output>) {
        let key_hash = operation.key_hash;
        let state = self.keys.entry(key_hash).or_default();
        let joins = state.queue.is_empty() && operation.action == Action::Get;
        match &mut state.read {
            // Whoever comes after something has settled must not be told what was before.
            Some(read) if joins && !read.overtaken => {
                read.readers.push(waiter(&operation, Waiting::Value));
            }
            _ => {
                state.queue.push_back(operation);
                self.drain_key(key_hash, out);
            }
        }
    }

    /// Deals with a key's queue as far as nothing is in the way.
    pub(super) fn drain_key(&mut self, key_hash: KeyHash, out: &mut Vec<Output>) {
        loop {
            let Some(state) = self.keys.get_mut(&key_hash) else { return };
            if state.read.is_some() {
                return;
            }
            let Some(operation) = state.queue.pop_front() else { break };
            if self.dispatch(operation, out) == Step::Blocked {
                return;
            }
        }
        self.forget_idle_key(key_hash);
    }

    pub(super) fn drain_all_keys(&mut self, out: &mut Vec<Output>) {
        let waiting: Vec<KeyHash> = self
            .keys
            .iter()
            .filter(|(_, state)| !state.queue.is_empty())
            .map(|(key_hash, _)| *key_hash)
            .collect();
        for key_hash in waiting {
            self.drain_key(key_hash, out);
        }
    }

    pub(super) fn forget_idle_key(&mut self, key_hash: KeyHash) {
        if self.keys.get(&key_hash).is_some_and(KeyState::is_idle) {
            self.keys.remove(&key_hash);
        }
    }

    fn dispatch(&mut self, operation: Operation, out: &mut Vec<Output>) -> Step {
        if self.frozen.contains(&operation.key_hash) {
            out.push(Output::Reply { id: operation.id, reply: Reply::Damaged });
            return Step::Done;
        }
        match &operation.action {
            Action::Get => self.dispatch_read(&operation, out),
            Action::Set(_) | Action::Delete => self.write(operation, out),
            Action::Update(_) => return self.dispatch_update(operation, out),
        }
        Step::Done
    }

    /// Rule 10: from the newest unsettled version once it settles, else from the cache or a copy.
    fn dispatch_read(&mut self, operation: &Operation, out: &mut Vec<Output>) {
        let Operation { id, key_hash, .. } = *operation;
        let waiter = waiter(operation, Waiting::Value);
        let newest = self.newest_unsettled(key_hash);
        if let Some(version) = newest.filter(|_| !mutants::enabled(Mutant::DirtyRead)) {
            self.keys.entry(key_hash).or_default().remembered = true;
            self.wait_for(version, waiter);
        } else if let Some(cached) = self.cached(key_hash) {
            self.cache.count_hits(1);
            out.push(Output::Reply { id, reply: cached.into() });
        } else {
            self.cache.count_miss();
            self.start_read(key_hash, Some(waiter), out);
        }
    }

    pub(super) fn newest_unsettled(&self, key_hash: KeyHash) -> Option<Version> {
        self.keys.get(&key_hash)?.unsettled.last().copied()
    }

    fn wait_for(&mut self, version: Version, waiter: Waiter) {
        self.note_deadline(waiter.deadline);
        if let Some(entry) = self.unsettled.get_mut(version) {
            entry.waiters.push(waiter);
        }
    }

    /// Rule 4, then rule 5.
    fn write(&mut self, operation: Operation, out: &mut Vec<Output>) {
        let (have, need) = (self.usable().count(), self.settings.floor);
        let refusal = if have < need {
            Some(Reply::NotEnoughNodes { have, need })
        } else if self.usable().any(|(_, replica)| self.state_of(replica.store).full)
            && operation.action != Action::Delete
        {
            Some(Reply::DiskFull)
        } else {
            None
        };
        if let Some(reply) = refusal {
            out.push(Output::Reply { id: operation.id, reply });
            return;
        }
        let waiter = waiter(&operation, Waiting::Stored);
        let value = match operation.action {
            Action::Set(value) | Action::Update(value) => Some(value),
            Action::Delete | Action::Get => None,
        };
        let content = Content { key: operation.key, value, expires: 0 };
        self.sequence(operation.key_hash, content, waiter, out);
    }

    /// Rule 36: the base is the newest unsettled version, else what the cache or a copy holds.
    fn dispatch_update(&mut self, operation: Operation, out: &mut Vec<Output>) -> Step {
        let key_hash = operation.key_hash;
        let newest = self.newest_unsettled(key_hash);
        let newest = newest.filter(|_| !mutants::enabled(Mutant::StaleBase));
        let Some(version) = newest else {
            if let Some(Cached { version, value }) = self.cached(key_hash) {
                return self.update_on(Base { version, exists: value.is_some() }, operation, out);
            }
            self.requeue(operation);
            // Before that, nothing read could be its base (rule 37).
            if self.is_whole() || mutants::enabled(Mutant::EarlyBase) {
                self.start_read(key_hash, None, out);
            }
            return Step::Blocked;
        };
        let content = self.unsettled.get(version).and_then(|entry| entry.content.as_ref());
        let Some(exists) = content.map(|content| content.value.is_some()) else {
            self.requeue(operation);
            return Step::Blocked;
        };
        self.update_on(Base { version: Some(version), exists }, operation, out)
    }

    fn requeue(&mut self, operation: Operation) {
        let state = self.keys.entry(operation.key_hash).or_default();
        state.queue.push_front(operation);
    }

    /// Rules 35, 37 and 38: evaluated here, once, on a base that nothing can slip behind.
    fn update_on(&mut self, base: Base, operation: Operation, out: &mut Vec<Output>) -> Step {
        let current = base.version.is_some_and(|version| version.epoch == self.epoch);
        if !current && !self.is_whole() && !mutants::enabled(Mutant::EarlyBase) {
            self.requeue(operation);
            return Step::Blocked;
        }
        if base.exists {
            #[cfg(test)]
            let (id, key_hash) = (operation.id, operation.key_hash);
            self.write(operation, out);
            #[cfg(test)]
            self.bases.push((id, key_hash, base.version, self.seq));
            return Step::Done;
        }
        let unsettled = base.version.filter(|version| self.unsettled.get(*version).is_some());
        let unsettled = unsettled.filter(|_| !mutants::enabled(Mutant::EarlyNotFound));
        if let Some(version) = unsettled {
            self.wait_for(version, waiter(&operation, Waiting::NotFound));
        } else {
            let reply = Reply::NotFound { version: base.version };
            out.push(Output::Reply { id: operation.id, reply });
        }
        Step::Done
    }

    // Reads of copies.

    /// A reader whose version settled before its value was known asks a copy after all.
    pub(super) fn read_again(&mut self, key_hash: KeyHash, waiter: Waiter, out: &mut Vec<Output>) {
        self.start_read(key_hash, Some(waiter), out);
    }

    fn start_read(&mut self, key_hash: KeyHash, reader: Option<Waiter>, out: &mut Vec<Output>) {
        let state = self.keys.entry(key_hash).or_default();
        let read = state.read.get_or_insert_with(KeyRead::default);
        read.readers.extend(reader);
        if read.asked.is_none() {
            self.ask_a_copy(key_hash, out);
        }
    }

    /// Sends the read to a usable member that was not tried yet; all tried, begins again.
    fn ask_a_copy(&mut self, key_hash: KeyHash, out: &mut Vec<Output>) {
        let Some(tried) = self.keys.get(&key_hash).and_then(|state| state.read.as_ref()) else {
            return;
        };
        let tried = tried.tried;
        let usable = self.readable();
        // Keys spread over the copies, each key staying with one, whose page cache then holds it.
        let turn = usize::from(key_hash.leaf());
        let candidate = (0..usable.len())
            .filter_map(|step| usable.get((turn + step) % usable.len()))
            .min_by_key(|(slot, _)| tried.contains(Slots::one(*slot)))
            .copied();
        let now = self.now;
        let Some((slot, from)) = candidate else { return };
        let Some(read) = self.keys.get_mut(&key_hash).and_then(|state| state.read.as_mut()) else {
            return;
        };
        read.tried.insert(Slots::one(slot));
        read.asked = Some((slot, now));
        self.next_read += 1;
        let id = ReadId(self.next_read);
        read.ids.push(id);
        self.reads.insert(id, Reading::Key { key_hash, slot });
        out.push(Output::Read { from, id, key_hash });
    }

    /// Ends the read of a key's copies, and with it whatever else was asked for it.
    fn end_read(&mut self, key_hash: KeyHash) -> SmallVec<[Waiter; 1]> {
        let Some(read) = self.keys.get_mut(&key_hash).and_then(|state| state.read.take()) else {
            return SmallVec::new();
        };
        for id in read.ids {
            self.reads.remove(&id);
        }
        read.readers
    }

    pub(super) fn fresh_read(&mut self, reading: Reading) -> ReadId {
        self.next_read += 1;
        let id = ReadId(self.next_read);
        self.reads.insert(id, reading);
        id
    }

    pub(super) fn read_answered(&mut self, id: ReadId, answer: ReadAnswer, out: &mut Vec<Output>) {
        match self.reads.remove(&id) {
            Some(Reading::Key { key_hash, slot }) => {
                self.key_answered(key_hash, slot, answer, out);
            }
            Some(Reading::Content { version, slot }) => {
                self.content_answered(version, slot, answer, out);
            }
            None => {}
        }
    }

    fn key_answered(
        &mut self,
        key_hash: KeyHash,
        slot: usize,
        answer: ReadAnswer,
        out: &mut Vec<Output>,
    ) {
        let Some(state) = self.keys.get_mut(&key_hash) else { return };
        let Some(read) = &mut state.read else { return };
        let found = match answer {
            ReadAnswer::Found(write) => Some(write),
            ReadAnswer::Absent => None,
            ReadAnswer::Damaged | ReadAnswer::Refused => {
                read.failed.insert(Slots::one(slot));
                if answer == ReadAnswer::Damaged {
                    read.damaged.insert(Slots::one(slot));
                }
                self.copy_failed(key_hash, out);
                return;
            }
        };
        let (damaged, overtaken) = (read.damaged, read.overtaken);
        if let Some(write) = &found {
            self.restore(damaged, write, out);
        }
        self.is_readable(key_hash);
        self.cache_read(key_hash, found.as_ref());
        for reader in self.end_read(key_hash) {
            self.finish_read(key_hash, found.as_ref(), reader, out);
        }
        if !overtaken {
            self.continue_with_base(key_hash, found.as_ref(), out);
        }
        self.drain_key(key_hash, out);
    }

    /// Rule 10: an answer whose version became unsettled meanwhile waits for it.
    fn finish_read(
        &mut self,
        key_hash: KeyHash,
        found: Option<&Write>,
        reader: Waiter,
        out: &mut Vec<Output>,
    ) {
        debug_assert!(found.is_none_or(|write| write.version.epoch <= self.epoch));
        let reply = match found {
            Some(write)
                if self.unsettled.get(write.version).is_some()
                    && !mutants::enabled(Mutant::DirtyRead) =>
            {
                if let Some(entry) = self.unsettled.get_mut(write.version) {
                    entry.content.get_or_insert_with(|| write.content.clone());
                    debug_assert_eq!(entry.key_hash, key_hash);
                }
                self.wait_for(write.version, reader);
                return;
            }
            Some(write) => reply_with(write.version, &write.content),
            None => Reply::NotFound { version: None },
        };
        out.push(Output::Reply { id: reader.id, reply });
    }

    /// The operation that asked for its base is at the front of the queue.
    fn continue_with_base(
        &mut self,
        key_hash: KeyHash,
        found: Option<&Write>,
        out: &mut Vec<Output>,
    ) {
        // A merge may have brought a newer version since the read was sent: that is the base then.
        let newer = self.newest_unsettled(key_hash);
        if newer.is_some_and(|newer| found.is_none_or(|write| write.version < newer))
            && !mutants::enabled(Mutant::StaleBase)
        {
            return;
        }
        let Some(state) = self.keys.get_mut(&key_hash) else { return };
        let updates = |first: &mut Operation| matches!(first.action, Action::Update(_));
        let Some(operation) = state.queue.pop_front_if(updates) else { return };
        let base = Base {
            version: found.map(|write| write.version),
            exists: found.is_some_and(|write| write.content.value.is_some()),
        };
        self.update_on(base, operation, out);
    }

    /// Rule 11: a copy that cannot answer is passed over; when all are, nothing is claimed.
    pub(super) fn copy_failed(&mut self, key_hash: KeyHash, out: &mut Vec<Output>) {
        let mut usable = Slots::NONE;
        self.readable().iter().for_each(|(slot, _)| usable.insert(Slots::one(*slot)));
        let Some(state) = self.keys.get_mut(&key_hash) else { return };
        let Some(read) = &mut state.read else { return };
        if !read.failed.contains(usable) {
            read.asked = None;
            self.ask_a_copy(key_hash, out);
            return;
        }
        let damaged = read.damaged;
        let based = state
            .queue
            .pop_front_if(|first| matches!(first.action, Action::Update(_)))
            .map(|operation| operation.id);
        let readers = self.end_read(key_hash);
        self.nobody_answers(key_hash, (damaged, usable), out);
        for id in readers.iter().map(|reader| reader.id).chain(based) {
            out.push(Output::Reply { id, reply: Reply::Unavailable(Unavailable::Checksum) });
        }
        self.drain_key(key_hash, out);
    }

    /// Asks another copy where the one asked is gone or suspected, or slower than `patience`.
    pub(super) fn retry_reads(&mut self, patience: Duration, out: &mut Vec<Output>) {
        let due: Vec<KeyHash> = self
            .keys
            .iter()
            .filter(|(_, state)| {
                state.read.as_ref().is_some_and(|read| match read.asked {
                    None => true,
                    Some((slot, sent)) => {
                        let gone = !self.usable().any(|(usable, _)| usable == slot);
                        gone || self.now.since(sent) >= patience
                    }
                })
            })
            .map(|(key_hash, _)| *key_hash)
            .collect();
        for key_hash in due {
            self.ask_a_copy(key_hash, out);
        }
    }

    pub(super) fn has_queue(&self, key_hash: KeyHash) -> bool {
        self.keys.get(&key_hash).is_some_and(|state| !state.queue.is_empty())
    }

    pub(super) fn has_queues(&self) -> bool {
        self.keys.values().any(|state| !state.queue.is_empty())
    }

    // Deadlines.

    pub(super) fn note_deadline(&mut self, deadline: Moment) {
        self.next_deadline = Some(self.next_deadline.map_or(deadline, |next| next.min(deadline)));
    }

    /// Rules 9, 10 and 39: whoever waited too long is told what is known.
    pub(super) fn expire(&mut self, out: &mut Vec<Output>) {
        let now = self.now;
        if self.next_deadline.is_none_or(|next| now < next) {
            return;
        }
        self.next_deadline = None;
        let mut next: Option<Moment> = None;
        let mut keep = |deadline: Moment| {
            let waits = now < deadline;
            if waits {
                next = Some(next.map_or(deadline, |next| next.min(deadline)));
            }
            waits
        };
        let late = |id, waiting| {
            let reply = match waiting {
                Waiting::Stored if !mutants::enabled(Mutant::CalledFailed) => Reply::Uncertain,
                Waiting::Value if mutants::enabled(Mutant::CalledAbsent) => {
                    Reply::NotFound { version: None }
                }
                _ => Reply::Unavailable(Unavailable::Deadline),
            };
            Output::Reply { id, reply }
        };
        for (_, entry) in self.unsettled.iter_mut() {
            entry.waiters.retain(|waiter| {
                keep(waiter.deadline) || {
                    out.push(late(waiter.id, waiter.waiting));
                    false
                }
            });
        }
        let mut keep_operation = |operation: &Operation, out: &mut Vec<Output>| {
            keep(operation.deadline) || {
                out.push(late(operation.id, Waiting::Value));
                mutants::enabled(Mutant::LeftQueued)
            }
        };
        self.held.retain(|operation| keep_operation(operation, out));
        for state in self.keys.values_mut() {
            state.queue.retain(|operation| keep_operation(operation, out));
        }
        for state in self.keys.values_mut() {
            let Some(read) = &mut state.read else { continue };
            read.readers.retain(|waiter| {
                keep(waiter.deadline) || {
                    out.push(late(waiter.id, waiter.waiting));
                    false
                }
            });
            if read.readers.is_empty() && state.queue.is_empty() {
                for id in state.read.take().into_iter().flat_map(|read| read.ids) {
                    self.reads.remove(&id);
                }
            }
        }
        self.keys.retain(|_, state| !state.is_idle());
        self.next_deadline = next;
    }

    /// Nothing may be left that was to be answered by a member which can never answer.
    pub(super) fn forget_reads_of(&mut self, slot: usize) {
        self.reads.retain(|_, reading| match reading {
            Reading::Key { slot: asked, .. } | Reading::Content { slot: asked, .. } => {
                *asked != slot
            }
        });
        for state in self.keys.values_mut() {
            if let Some(read) = &mut state.read {
                read.tried.remove(Slots::one(slot));
                read.failed.remove(Slots::one(slot));
                read.damaged.remove(Slots::one(slot));
                if read.asked.is_some_and(|(asked, _)| asked == slot) {
                    read.asked = None;
                }
            }
        }
    }
}
