//! What one client knows of its keys: what a read may return, and what it must not.

use super::error::{BenchError, shown};
use super::value::Keyspace;

/// The keys of a client, and what it stored under each.
#[derive(Debug)]
pub(super) struct Book {
    client: usize,
    keys: Keyspace,
    slots: Vec<Slot>,
}

/// Versions of one key; 0 is none at all.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    /// The newest that is known to have taken effect.
    settled: u32,
    /// The newest that was sent.
    newest: u32,
}

impl Book {
    /// Nothing stored yet.
    pub(super) fn new(client: usize, keys: Keyspace, slots: u32) -> Self {
        let slots = (0..slots).map(|_| Slot::default()).collect();
        Self { client, keys, slots }
    }

    pub(super) fn keys(&self) -> &Keyspace {
        &self.keys
    }

    /// The version that a write of this slot has, which is about to be sent.
    pub(super) fn write(&mut self, slot: u32) -> u32 {
        let slot = self.slot(slot);
        slot.newest += 1;
        slot.newest
    }

    /// The newest write of a slot was acknowledged.
    pub(super) fn settle(&mut self, slot: u32) {
        let slot = self.slot(slot);
        slot.settled = slot.newest;
    }

    /// Judges what a read returned: the last acknowledged version, or one sent after it whose
    /// outcome is open.
    pub(super) fn read(&mut self, slot: u32, found: Option<&[u8]>) -> Result<(), BenchError> {
        let Slot { settled, newest } = *self.slot(slot);
        let Some(found) = found else {
            return if settled == 0 { Ok(()) } else { Err(self.lost(slot)) };
        };
        let versions = settled.max(1)..newest + 1;
        let Some(version) = self.keys.version_of(slot, versions, found) else {
            return Err(self.wrong(slot, newest, found));
        };
        // What was seen once is there to stay.
        self.slot(slot).settled = version;
        Ok(())
    }

    #[allow(clippy::indexing_slicing, reason = "slots come from the plan that made this book")]
    fn slot(&mut self, slot: u32) -> &mut Slot {
        &mut self.slots[slot as usize]
    }

    fn key(&self, slot: u32) -> String {
        let mut key = Vec::new();
        self.keys.key(slot, &mut key);
        shown(&key)
    }

    fn lost(&self, slot: u32) -> BenchError {
        BenchError::Lost { client: self.client, key: self.key(slot) }
    }

    fn wrong(&self, slot: u32, newest: u32, found: &[u8]) -> BenchError {
        let mut expected = Vec::new();
        self.keys.value(slot, newest, &mut expected);
        let (key, expected, found) = (self.key(slot), shown(&expected), shown(found));
        BenchError::Wrong { client: self.client, key, expected, found }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::value::Text;

    fn book() -> Book {
        Book::new(1, Keyspace::new("r", 1, Text::new(40)), 4)
    }

    fn value(book: &Book, slot: u32, version: u32) -> Vec<u8> {
        let mut value = Vec::new();
        book.keys.value(slot, version, &mut value);
        value
    }

    #[test]
    fn a_read_returns_the_last_acknowledged_value() {
        let mut book = book();
        assert!(book.read(2, None).is_ok(), "never stored");
        assert_eq!(book.write(2), 1);
        book.settle(2);
        assert_eq!(book.write(2), 2);
        book.settle(2);
        let (old, new, other) = (value(&book, 2, 1), value(&book, 2, 2), value(&book, 3, 2));
        assert!(book.read(2, Some(&new)).is_ok());
        assert!(matches!(book.read(2, Some(&old)), Err(BenchError::Wrong { .. })), "stale");
        assert!(matches!(book.read(2, Some(&other)), Err(BenchError::Wrong { .. })), "mixed up");
        assert!(matches!(book.read(2, None), Err(BenchError::Lost { .. })));
    }

    #[test]
    fn a_write_whose_outcome_is_open_may_be_seen_or_not_but_not_unseen() {
        let mut book = book();
        book.write(0);
        book.settle(0);
        book.write(0);
        book.write(0);
        let [first, second, third] = [1, 2, 3].map(|version| value(&book, 0, version));
        assert!(book.read(0, Some(&first)).is_ok());
        assert!(book.read(0, Some(&second)).is_ok());
        assert!(book.read(0, Some(&first)).is_err(), "went back");
        assert!(book.read(0, Some(&third)).is_ok());
        assert!(book.read(0, Some(&second)).is_err(), "went back");
    }
}
