//! Says in words what is wrong with the operations of one key.
//!
//! The judge finds out that no order of them makes sense; why not, it cannot say. Most of what goes
//! wrong has a simple form, though, and can be shown with two or three operations: one that was
//! certainly over when the next began. That is looked for here. What is found is always wrong; what
//! is not found may be wrong all the same, which the judge knows.

use std::collections::HashMap;

use bytes::Bytes;

use super::verdict::Wrong;
use crate::logic::history::{Kind, Operation, Outcome};
use crate::types::Moment;

/// After the last moment.
const NEVER: Moment = Moment(u64::MAX);
/// How much of a value is shown.
const SHOWN_BYTES: usize = 40;

/// A write of a value, or a delete, and by when it had certainly taken effect, if it had at all.
#[derive(Clone, Copy, Debug)]
struct Write<'a> {
    operation: &'a Operation,
    done: Moment,
}

impl Write<'_> {
    /// Whether it is certain that this one came before the other.
    fn is_before(&self, other: &Self) -> bool {
        self.done < other.operation.invoked
    }
}

/// What was written to a key, and who read it.
struct Story<'a> {
    writes: Vec<Write<'a>>,
    writers: HashMap<&'a Bytes, Write<'a>>,
    reads: Vec<&'a Operation>,
}

/// The first thing that is wrong with these operations of one key, if it can be told.
pub(super) fn explain(operations: &[Operation]) -> Option<(Wrong, String)> {
    let story = Story::new(operations);
    story.reads.iter().find_map(|read| match &read.outcome {
        Outcome::Value { value, .. } => story.doubt_value(read, value),
        Outcome::NotFound { .. } => story.doubt_absence(read),
        _ => None,
    })
}

impl<'a> Story<'a> {
    fn new(operations: &'a [Operation]) -> Self {
        let saw = |operation: &Operation| {
            matches!(operation.outcome, Outcome::Value { .. } | Outcome::NotFound { .. })
        };
        let mut reads: Vec<&Operation> =
            operations.iter().filter(|operation| saw(operation)).collect();
        reads.sort_by_key(|read| end(read));
        // Who sees a value proves that its write has happened.
        let mut seen: HashMap<&Bytes, Moment> = HashMap::new();
        for read in &reads {
            if let Outcome::Value { value, .. } = &read.outcome {
                seen.entry(value).or_insert(end(read));
            }
        }
        let mut story = Self { writes: Vec::new(), writers: HashMap::new(), reads };
        for operation in operations {
            let told = match operation.outcome {
                Outcome::Stored { .. } => end(operation),
                _ => NEVER,
            };
            let shown = operation.written().and_then(|value| seen.get(value)).copied();
            let write = Write { operation, done: told.min(shown.unwrap_or(NEVER)) };
            if let Some(value) = operation.written() {
                story.writers.insert(value, write);
            }
            let happens = matches!(
                operation.outcome,
                Outcome::Stored { .. } | Outcome::Uncertain | Outcome::Pending
            );
            if operation.kind != Kind::Get && happens {
                story.writes.push(write);
            }
        }
        story
    }

    /// Whether this value cannot have been there.
    fn doubt_value(&self, read: &Operation, value: &Bytes) -> Option<(Wrong, String)> {
        let Some(writer) = self.writers.get(value) else {
            return Some((Wrong::Invented, format!("{}, which nobody wrote", told(read))));
        };
        let origin = writer.operation;
        if matches!(origin.outcome, Outcome::Failed | Outcome::NotFound { .. }) {
            let text = format!("{}, and yet later {}", told(origin), told(read));
            return Some((Wrong::Phantom, text));
        }
        if origin.invoked > end(read) {
            let text = format!("{}, and only later {}", told(read), told(origin));
            return Some((Wrong::Invented, text));
        }
        let over = |write: &&Write| writer.is_before(write) && write.done < read.invoked;
        let newer = self.writes.iter().filter(over).max_by_key(|write| write.operation.invoked)?;
        let newer = newer.operation;
        let wrong = match newer.kind {
            Kind::Delete => Wrong::Undone,
            _ if self.comes_back(newer, read) => Wrong::Stale,
            _ => Wrong::Lost,
        };
        let story = [told(origin), told(newer), told(read)];
        Some((wrong, story.join("; then ")))
    }

    /// Whether something newer than what was read is seen again: then it is not gone, and only the
    /// read was wrong.
    fn comes_back(&self, newer: &Operation, read: &Operation) -> bool {
        let again = |later: &&&Operation| match &later.outcome {
            Outcome::Value { value, .. } => newer.written() == Some(value),
            _ => false,
        };
        let later = self.reads.iter().filter(|later| end(later) > read.invoked);
        let overwritten = self.writes.iter().any(|write| end(write.operation) > read.invoked);
        overwritten || later.into_iter().any(|later| again(&later))
    }

    /// Whether the key cannot have been absent: it was written, and nobody can have deleted it.
    fn doubt_absence(&self, read: &Operation) -> Option<(Wrong, String)> {
        let is_delete = |write: &&Write| write.operation.kind == Kind::Delete;
        let deletes: Vec<&Write> = self.writes.iter().filter(is_delete).collect();
        let present = |write: &&Write| {
            let mut after = deletes.iter().filter(|delete| !delete.is_before(write));
            !is_delete(write)
                && write.done < read.invoked
                && !after.any(|delete| delete.operation.invoked <= end(read))
        };
        let kept = self.writes.iter().filter(present).max_by_key(|write| write.done)?;
        let after =
            if deletes.is_empty() { "nobody deleted it" } else { "nobody deleted it since" };
        let text = format!("{}; {after}; then {}", told(kept.operation), told(read));
        Some((Wrong::Lost, text))
    }
}

fn end(operation: &Operation) -> Moment {
    operation.returned.unwrap_or(NEVER)
}

/// What a client asked and was told, and when, in seconds of the history's clock.
fn told(operation: &Operation) -> String {
    let Operation { client, invoked, .. } = operation;
    let what = match &operation.kind {
        Kind::Get => "read".to_owned(),
        Kind::Set(value) => format!("set {}", shown(value)),
        Kind::Update(value) => format!("updated to {}", shown(value)),
        Kind::Delete => "deleted".to_owned(),
    };
    let outcome = match &operation.outcome {
        Outcome::Stored { .. } => "done".to_owned(),
        Outcome::Value { value, .. } => format!("found {}", shown(value)),
        Outcome::NotFound { .. } => "found nothing".to_owned(),
        Outcome::Failed => "refused".to_owned(),
        Outcome::Uncertain => "outcome uncertain".to_owned(),
        Outcome::Pending => "not answered".to_owned(),
    };
    let until = operation.returned.map_or_else(|| "...".to_owned(), seconds);
    format!("client {client} {what} [{} to {until} s]: {outcome}", seconds(*invoked))
}

fn shown(value: &Bytes) -> String {
    let part = value.get(..SHOWN_BYTES).unwrap_or(value);
    let more = if part.len() < value.len() { "..." } else { "" };
    format!("`{}{more}`", part.escape_ascii())
}

fn seconds(moment: Moment) -> String {
    format!("{}.{:06}", moment.0 / 1_000_000, moment.0 % 1_000_000)
}
