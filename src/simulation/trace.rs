//! What happened: a number that differs if anything did, and lines to read on demand.

use crate::types::Moment;

/// The record of a run.
#[derive(Debug, Default)]
pub(super) struct Trace {
    hash: u64,
    lines: Option<Vec<String>>,
}

impl Trace {
    pub(super) fn new(with_lines: bool) -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, lines: with_lines.then(Vec::new) }
    }

    /// Mixes numbers into the hash.
    pub(super) fn mix(&mut self, numbers: &[u64]) {
        for number in numbers {
            self.hash = (self.hash ^ number).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
        }
    }

    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    /// Adds a line, which is made only if somebody wants to read it.
    pub(super) fn line(&mut self, now: Moment, line: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines {
            lines.push(format!("{:>6}.{:03} ms  {}", now.0 / 1000, now.0 % 1000, line()));
        }
    }

    pub(super) fn lines(&self) -> &[String] {
        self.lines.as_deref().unwrap_or_default()
    }
}
