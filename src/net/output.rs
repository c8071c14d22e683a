//! Bytes that wait to be written to a socket.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes, BytesMut};
use smallvec::SmallVec;

use crate::protocol::reply::Sink;

/// Values at least this long are written from where they are; shorter ones are copied together, so
/// that many replies are one piece of memory.
const UNCOPIED_BYTES: usize = 16 << 10;
/// Pieces given to one write.
const MAX_SLICES: usize = 32;
/// More memory than this is given back once everything in it was written.
const KEPT_BYTES: usize = 256 << 10;
/// And more than this by a connection that has nothing to do.
const IDLE_BYTES: usize = 16 << 10;

/// Replies in order, small ones copied together, large values as they are.
#[derive(Debug, Default)]
pub(crate) struct Output {
    /// What comes before `tail`.
    pieces: VecDeque<Bytes>,
    /// What is still growing.
    tail: BytesMut,
    bytes: usize,
}

impl Output {
    /// How many bytes wait.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// The front of what waits, in as many pieces as one write takes.
    pub(crate) fn slices(&self) -> SmallVec<[IoSlice<'_>; MAX_SLICES]> {
        let pieces = self.pieces.iter().map(|piece| &piece[..]);
        let tail = std::iter::once(&self.tail[..]).filter(|tail| !tail.is_empty());
        pieces.chain(tail).take(MAX_SLICES).map(IoSlice::new).collect()
    }

    /// Forgets this many bytes at the front: they were written.
    pub(crate) fn advance(&mut self, mut written: usize) {
        self.bytes = self.bytes.saturating_sub(written);
        while let Some(piece) = self.pieces.front_mut() {
            if written < piece.len() {
                piece.advance(written);
                return;
            }
            written -= piece.len();
            self.pieces.pop_front();
        }
        self.tail.advance(written.min(self.tail.len()));
        if self.tail.is_empty() {
            self.rewind();
        }
    }

    /// Gives memory back that nothing waits in.
    pub(crate) fn give_back(&mut self) {
        if self.is_empty() && self.tail.capacity() > IDLE_BYTES {
            self.tail = BytesMut::new();
        }
        if self.pieces.is_empty() && self.pieces.capacity() > MAX_SLICES {
            self.pieces = VecDeque::new();
        }
    }

    fn rewind(&mut self) {
        if self.tail.capacity() > KEPT_BYTES {
            self.tail = BytesMut::new();
        } else {
            self.tail.clear();
        }
    }
}

impl Sink for Output {
    fn text(&mut self, text: &[u8]) {
        self.bytes += text.len();
        self.tail.extend_from_slice(text);
    }

    fn value(&mut self, value: Bytes) {
        if value.len() < UNCOPIED_BYTES {
            return self.text(&value);
        }
        self.bytes += value.len();
        if !self.tail.is_empty() {
            self.pieces.push_back(self.tail.split().freeze());
        }
        self.pieces.push_back(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_the_sizes_of_the_writes_the_order_is_kept() {
        for step in [1, 7, 1000, UNCOPIED_BYTES + 3] {
            let mut output = Output::default();
            let mut expected = Vec::new();
            for number in 0..10u8 {
                let value = vec![number; if number % 3 == 0 { UNCOPIED_BYTES } else { 100 }];
                output.text(b"OK ");
                output.value(value.clone().into());
                expected.extend_from_slice(b"OK ");
                expected.extend_from_slice(&value);
            }
            assert_eq!(output.bytes(), expected.len());
            let mut written = Vec::new();
            while !output.is_empty() {
                let slices = output.slices();
                let front = slices.iter().flat_map(|slice| slice.iter().copied()).take(step);
                let before = written.len();
                written.extend(front);
                let count = written.len() - before;
                drop(slices);
                output.advance(count);
            }
            assert_eq!(written, expected, "writes of {step}");
            assert!(output.slices().is_empty());
        }
    }
}
