//! The judge that trusts no version: a search for an order that explains everything.
//!
//! Each client has at most one operation under way, so how far a search has come is one position
//! per client. What is open (uncertain, or never answered) would stay possible for ever and make
//! the search explode. It need not be searched, though: such an operation matters only at the
//! instant at which somebody sees its effect, so it can be taken to happen just before that. A
//! value nobody read belongs to an operation that can be left out; a set that nobody read can only
//! have made a key exist for an update; deletes are all alike, so that only their number counts.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use smallvec::SmallVec;

use super::{Kind, OfKey, Operation, Outcome, Unfit, Violation, by_key};
use crate::types::{Key, Moment};

/// How many clients of one key can be searched.
pub const MAX_CLIENTS: usize = 6;
/// Where a search is given up: far beyond what such histories need.
const MAX_STEPS: usize = 20_000_000;

/// Judges a history by searching, for each key, an order of its operations that makes sense.
///
/// # Errors
/// The first key for which there is none, or which cannot be searched.
pub fn check_register(history: &[Operation]) -> Result<(), Violation> {
    by_key(history).into_iter().try_for_each(|(key, operations)| {
        let search = Search::new(key, &operations)?;
        search.run()
    })
}

/// What a mandatory operation did.
#[derive(Clone, Copy, Debug)]
enum Effect {
    /// It saw this value.
    Saw(usize),
    /// It saw that there is none.
    SawNothing,
    /// It stored this value.
    Set(usize),
    /// It stored this value over another.
    Update(usize),
    /// It deleted the key.
    Delete,
}

#[derive(Clone, Copy, Debug)]
struct Step {
    effect: Effect,
    invoked: Moment,
    returned: Moment,
}

/// An open write whose value was seen.
#[derive(Clone, Copy, Debug)]
struct Optional {
    invoked: Moment,
    /// It needed the key to exist.
    update: bool,
}

/// How far a search has come; what lies ahead depends on nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Position {
    /// How many operations of each client are explained.
    done: SmallVec<[u32; MAX_CLIENTS]>,
    /// What the key holds: the number of a value.
    holds: Option<usize>,
    /// How many open deletes have happened.
    deletes: u32,
    /// How many open sets have happened that nobody read.
    sets: u32,
}

struct Search<'a> {
    key: &'a Key,
    clients: Vec<Vec<Step>>,
    optional: HashMap<usize, Optional>,
    /// Invocations, in order, of open deletes.
    deletes: Vec<Moment>,
    /// Invocations, in order, of open sets whose value nobody read.
    sets: Vec<Moment>,
}

/// The number of a value nobody ever reads.
const UNREAD: usize = usize::MAX;

impl<'a> Search<'a> {
    fn new(key: &'a Key, operations: &OfKey<'a>) -> Result<Self, Violation> {
        let unfit = |problem| Violation::Unfit { key: key.clone(), problem };
        let (numbers, read) = number_values(operations).map_err(unfit)?;
        let mut search = Self {
            key,
            clients: Vec::new(),
            optional: HashMap::new(),
            deletes: Vec::new(),
            sets: Vec::new(),
        };
        let mut clients: HashMap<u32, Vec<Step>> = HashMap::new();
        for &(place, operation) in operations {
            if operation.is_open() {
                search.add_open(operation, |value| {
                    numbers.get(value).copied().filter(|number| read.contains(number))
                });
            } else if let Some(effect) = effect(operation, &numbers) {
                let (invoked, returned) = (operation.invoked, operation.end());
                let effect = effect.map_err(|value| search.explain(operations, place, value))?;
                let steps = clients.entry(operation.client).or_default();
                if steps.last().is_some_and(|last| last.returned > invoked) {
                    return Err(unfit(Unfit::Overlap(operation.client)));
                }
                steps.push(Step { effect, invoked, returned });
            }
        }
        if clients.len() > MAX_CLIENTS {
            return Err(unfit(Unfit::Clients(clients.len())));
        }
        let mut clients: Vec<_> = clients.into_iter().collect();
        clients.sort_by_key(|(client, _)| *client);
        search.clients = clients.into_iter().map(|(_, steps)| steps).collect();
        Ok(search)
    }

    fn add_open(&mut self, operation: &Operation, number: impl Fn(&Bytes) -> Option<usize>) {
        let invoked = operation.invoked;
        let update = matches!(operation.kind, Kind::Update(_));
        match operation.written() {
            None => self.deletes.push(invoked),
            Some(value) => match number(value) {
                Some(number) => {
                    self.optional.insert(number, Optional { invoked, update });
                }
                None if update => {}
                None => self.sets.push(invoked),
            },
        }
    }

    /// A value was read that no write can have stored.
    fn explain(&self, operations: &OfKey<'a>, read: usize, value: &Bytes) -> Violation {
        let key = self.key.clone();
        let writer = operations.iter().find(|(_, operation)| operation.written() == Some(value));
        match writer {
            Some((write, _)) => Violation::Phantom { key, write: *write, read },
            None => Violation::Invented { key, read, version: crate::types::Version::ZERO },
        }
    }

    /// Depth first, never twice from one position.
    fn run(&self) -> Result<(), Violation> {
        let total: usize = self.clients.iter().map(Vec::len).sum();
        let start = Position {
            done: SmallVec::from_elem(0, self.clients.len()),
            holds: None,
            deletes: 0,
            sets: 0,
        };
        let mut seen = HashSet::new();
        let mut open = vec![start];
        let (mut steps, mut best) = (0, 0);
        while let Some(position) = open.pop() {
            let explained = position.done.iter().map(|done| *done as usize).sum();
            best = best.max(explained);
            if explained == total {
                return Ok(());
            }
            steps += 1;
            if steps > MAX_STEPS {
                let problem = Unfit::Steps(MAX_STEPS);
                return Err(Violation::Unfit { key: self.key.clone(), problem });
            }
            self.expand(&position, |next| {
                if seen.insert(next.clone()) {
                    open.push(next);
                }
            });
        }
        Err(Violation::NoOrder { key: self.key.clone(), explained: best, operations: total })
    }

    /// The operation of a client that is not explained yet.
    fn next(&self, position: &Position, client: usize) -> Option<&Step> {
        let done = *position.done.get(client)? as usize;
        self.clients.get(client)?.get(done)
    }

    /// Every position one operation further.
    fn expand(&self, position: &Position, mut visit: impl FnMut(Position)) {
        let clients = 0..self.clients.len();
        let pending = clients.clone().filter_map(|client| self.next(position, client));
        // Nothing may be put behind an operation that returned before it was invoked.
        let horizon = pending.map(|step| step.returned).min().unwrap_or(Moment(u64::MAX));
        for client in clients {
            let Some(step) = self.next(position, client) else { continue };
            if step.invoked > horizon {
                continue;
            }
            if let Some(mut next) = self.apply(position, step.effect, horizon) {
                if let Some(done) = next.done.get_mut(client) {
                    *done += 1;
                }
                visit(next);
            }
        }
    }

    /// The position after an effect, with what open operations it takes; `None` if impossible.
    fn apply(&self, position: &Position, effect: Effect, horizon: Moment) -> Option<Position> {
        let mut next = position.clone();
        match effect {
            Effect::Set(value) => next.holds = Some(value),
            Effect::Delete => next.holds = None,
            Effect::Update(value) => {
                self.make_present(&mut next, horizon)?;
                next.holds = Some(value);
            }
            Effect::SawNothing => {
                if next.holds.is_some() {
                    let possible = self.deletes.get(next.deletes as usize)?;
                    next.deletes += 1;
                    next.holds = None;
                    return (*possible <= horizon).then_some(next);
                }
            }
            Effect::Saw(value) => {
                if next.holds != Some(value) {
                    // It happens just before its first reader: if it had one before, it is over.
                    let optional = self.optional.get(&value)?;
                    if optional.invoked > horizon || self.was_read(position, value) {
                        return None;
                    }
                    if optional.update {
                        self.make_present(&mut next, horizon)?;
                    }
                    next.holds = Some(value);
                }
            }
        }
        Some(next)
    }

    /// The key must exist: perhaps by an open set that nobody read.
    fn make_present(&self, next: &mut Position, horizon: Moment) -> Option<()> {
        if next.holds.is_some() {
            return Some(());
        }
        let possible = self.sets.get(next.sets as usize)?;
        next.sets += 1;
        next.holds = Some(UNREAD);
        (*possible <= horizon).then_some(())
    }

    /// Whether an explained operation has read this value.
    fn was_read(&self, position: &Position, value: usize) -> bool {
        self.clients.iter().zip(&position.done).any(|(steps, done)| {
            let explained = steps.iter().take(*done as usize);
            explained.rev().any(|step| matches!(step.effect, Effect::Saw(seen) if seen == value))
        })
    }
}

/// Gives each value that may have been stored a number, and says which were read.
fn number_values<'a>(
    operations: &OfKey<'a>,
) -> Result<(HashMap<&'a Bytes, usize>, HashSet<usize>), Unfit> {
    let mut numbers = HashMap::new();
    let mut all = HashSet::new();
    for (_, operation) in operations {
        let Some(value) = operation.written() else { continue };
        if !all.insert(value) {
            return Err(Unfit::Value);
        }
        if operation.is_open() || matches!(operation.outcome, Outcome::Stored { .. }) {
            numbers.insert(value, numbers.len());
        }
    }
    let read = operations.iter().filter_map(|(_, operation)| match &operation.outcome {
        Outcome::Value { value, .. } => numbers.get(value).copied(),
        _ => None,
    });
    let read = read.collect();
    Ok((numbers, read))
}

/// What an operation that was answered did, if anything; or the value that nobody stored.
fn effect<'a>(
    operation: &'a Operation,
    numbers: &HashMap<&Bytes, usize>,
) -> Option<Result<Effect, &'a Bytes>> {
    let number = |value: &'a Bytes| numbers.get(value).copied().ok_or(value);
    Some(match (&operation.outcome, &operation.kind) {
        (Outcome::Value { value, .. }, _) => number(value).map(Effect::Saw),
        (Outcome::NotFound { .. }, _) => Ok(Effect::SawNothing),
        (Outcome::Stored { .. }, Kind::Set(value)) => number(value).map(Effect::Set),
        (Outcome::Stored { .. }, Kind::Update(value)) => number(value).map(Effect::Update),
        (Outcome::Stored { .. }, Kind::Delete) => Ok(Effect::Delete),
        _ => return None,
    })
}
