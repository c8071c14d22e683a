//! The judge that goes by versions.

use std::collections::HashMap;

use bytes::Bytes;

use super::{Kind, OfKey, Operation, Outcome, Unfit, Violation, by_key};
use crate::types::{Key, Moment, Version};

/// Judges a history by the versions in its answers; what came without one is not judged, but for
/// its value.
///
/// # Errors
/// The first violation found.
pub fn check_versions(history: &[Operation]) -> Result<(), Violation> {
    by_key(history).into_iter().try_for_each(|(key, operations)| {
        let mut register = Register::new(key, &operations)?;
        register.name_versions(&operations)?;
        register.check_order(&operations)
    })
}

/// Who wrote what, as far as it is known.
struct Register<'a> {
    key: &'a Key,
    writers: HashMap<&'a Bytes, (usize, &'a Operation)>,
    /// The write that made each version.
    makers: HashMap<Version, Maker>,
    /// Deletes that may have taken effect untold, by invocation.
    open_deletes: Vec<Moment>,
    /// Deletes that took effect: their versions and invocations.
    deletes: Vec<(Version, Moment)>,
}

/// The write that made a version.
#[derive(Clone, Copy)]
enum Maker {
    /// The write at this place in the history.
    Write(usize),
    /// Some delete that nobody was told of; the read at this place saw it.
    OpenDelete(usize),
}

/// What an operation proves about the order of versions: it made one, or saw one.
#[derive(Clone, Copy)]
struct Proof {
    place: usize,
    version: Version,
    made: bool,
    deleted: bool,
    invoked: Moment,
    returned: Moment,
}

impl<'a> Register<'a> {
    fn new(key: &'a Key, operations: &OfKey<'a>) -> Result<Self, Violation> {
        let mut register = Self {
            key,
            writers: HashMap::new(),
            makers: HashMap::new(),
            open_deletes: Vec::new(),
            deletes: Vec::new(),
        };
        for &(place, operation) in operations {
            if let Some(value) = operation.written()
                && register.writers.insert(value, (place, operation)).is_some()
            {
                return Err(Violation::Unfit { key: key.clone(), problem: Unfit::Value });
            }
            if operation.kind == Kind::Delete && operation.is_open() {
                register.open_deletes.push(operation.invoked);
            }
            if let Outcome::Stored { version: Some(version) } = operation.outcome {
                register.claim(version, place)?;
                if operation.kind == Kind::Delete {
                    register.deletes.push((version, operation.invoked));
                }
            }
        }
        Ok(register)
    }

    /// Notes that the write at `place` made `version`.
    fn claim(&mut self, version: Version, place: usize) -> Result<(), Violation> {
        let first = match self.makers.insert(version, Maker::Write(place)) {
            Some(Maker::Write(first)) if first != place => first,
            Some(Maker::OpenDelete(first)) => first,
            _ => return Ok(()),
        };
        Err(Violation::Shared { key: self.key.clone(), first, second: place, version })
    }

    /// Finds the write behind each version that was returned.
    fn name_versions(&mut self, operations: &OfKey<'a>) -> Result<(), Violation> {
        let mut named = HashMap::new();
        for &(read, operation) in operations {
            match &operation.outcome {
                Outcome::Value { version, value } => {
                    let write = self.writer_of(read, operation, value, *version)?;
                    let Some(version) = *version else { continue };
                    self.claim(version, write)?;
                    if *named.entry(write).or_insert(version) != version {
                        return Err(self.shared(write, read, version));
                    }
                }
                Outcome::NotFound { version: Some(version) } => {
                    self.tombstone(read, operation, *version, operations)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The write of a value that was read.
    fn writer_of(
        &self,
        read: usize,
        operation: &Operation,
        value: &Bytes,
        version: Option<Version>,
    ) -> Result<usize, Violation> {
        let key = || self.key.clone();
        let Some(&(write, writer)) = self.writers.get(value) else {
            let version = version.unwrap_or(Version::ZERO);
            return Err(Violation::Invented { key: key(), read, version });
        };
        if writer.invoked > operation.end() {
            return Err(Violation::Early { key: key(), write, read });
        }
        match writer.outcome {
            Outcome::Failed | Outcome::NotFound { .. } => {
                Err(Violation::Phantom { key: key(), write, read })
            }
            Outcome::Stored { version: Some(made) } if version.is_some_and(|v| v != made) => {
                Err(self.shared(write, read, made))
            }
            _ => Ok(write),
        }
    }

    /// A tombstone was seen: some delete must have made it.
    fn tombstone(
        &mut self,
        read: usize,
        operation: &Operation,
        version: Version,
        operations: &OfKey<'a>,
    ) -> Result<(), Violation> {
        let invented = Violation::Invented { key: self.key.clone(), read, version };
        match self.makers.get(&version) {
            Some(Maker::OpenDelete(_)) => Ok(()),
            Some(Maker::Write(write)) => {
                let writer = operations.iter().find(|(place, _)| place == write);
                let deleted = writer.is_some_and(|(_, writer)| {
                    writer.kind == Kind::Delete && writer.invoked <= operation.end()
                });
                if deleted { Ok(()) } else { Err(invented) }
            }
            None => {
                let end = operation.end();
                let some = self.open_deletes.iter().position(|invoked| *invoked <= end);
                let invoked = self.open_deletes.remove(some.ok_or(invented)?);
                self.makers.insert(version, Maker::OpenDelete(read));
                self.deletes.push((version, invoked));
                Ok(())
            }
        }
    }

    fn shared(&self, first: usize, second: usize, version: Version) -> Violation {
        Violation::Shared { key: self.key.clone(), first, second, version }
    }

    /// Non-overlapping operations must have versions in the order of time.
    fn check_order(&self, operations: &OfKey<'a>) -> Result<(), Violation> {
        let proofs = self.proofs(operations);
        let mut ends: Vec<&Proof> = proofs.iter().collect();
        ends.sort_by_key(|proof| proof.returned);
        let mut ends = ends.into_iter().peekable();
        let mut proofs = proofs.iter().peekable();
        let mut newest: Option<&Proof> = None;
        for &(place, operation) in operations {
            while let Some(end) = ends.next_if(|proof| proof.returned < operation.invoked) {
                if newest.is_none_or(|known| end.version > known.version) {
                    newest = Some(end);
                }
            }
            let proof = proofs.next_if(|proof| proof.place == place);
            let Some(newest) = newest else { continue };
            match proof {
                Some(proof) => self.check_after(newest, proof)?,
                None => self.check_absent(newest, place, operation)?,
            }
        }
        Ok(())
    }

    fn check_after(&self, newest: &Proof, proof: &Proof) -> Result<(), Violation> {
        let fine = if proof.made {
            proof.version > newest.version
        } else {
            proof.version >= newest.version
        };
        if fine {
            return Ok(());
        }
        Err(Violation::Backwards {
            key: self.key.clone(),
            earlier: newest.place,
            known: newest.version,
            later: proof.place,
            found: proof.version,
        })
    }

    /// "Not there" without a version: a delete must be possible that is newer than what is known.
    fn check_absent(
        &self,
        newest: &Proof,
        read: usize,
        operation: &Operation,
    ) -> Result<(), Violation> {
        if operation.outcome != (Outcome::NotFound { version: None }) || newest.deleted {
            return Ok(());
        }
        let end = operation.end();
        let told =
            |(version, invoked): &(Version, Moment)| *version > newest.version && *invoked <= end;
        if self.open_deletes.iter().any(|invoked| *invoked <= end) || self.deletes.iter().any(told)
        {
            return Ok(());
        }
        let (earlier, known) = (newest.place, newest.version);
        Err(Violation::Lost { key: self.key.clone(), earlier, known, read })
    }

    /// What each operation proves, in order of invocation. An open write whose version was read
    /// proves when it was made, though not by when.
    fn proofs(&self, operations: &OfKey<'a>) -> Vec<Proof> {
        let versions: HashMap<usize, Version> = self
            .makers
            .iter()
            .filter_map(|(version, maker)| match maker {
                Maker::Write(place) => Some((*place, *version)),
                Maker::OpenDelete(_) => None,
            })
            .collect();
        let prove = |&(place, operation): &(usize, &Operation)| {
            let (version, deleted) = match &operation.outcome {
                Outcome::Value { version, .. } => ((*version)?, false),
                Outcome::NotFound { version } => ((*version)?, true),
                _ => (*versions.get(&place)?, operation.kind == Kind::Delete),
            };
            Some(Proof {
                place,
                version,
                made: matches!(operation.outcome, Outcome::Stored { .. }) || operation.is_open(),
                deleted,
                invoked: operation.invoked,
                returned: if operation.is_open() { Moment(u64::MAX) } else { operation.end() },
            })
        };
        let proofs: Vec<Proof> = operations.iter().filter_map(prove).collect();
        debug_assert!(proofs.is_sorted_by_key(|proof| proof.invoked));
        proofs
    }
}
