//! What is still to happen, in the order of time; what is due at one instant happens in the order
//! in which it was planned.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use crate::types::Moment;

#[derive(Debug)]
struct Planned<T> {
    at: Moment,
    number: u64,
    event: T,
}

impl<T> PartialEq for Planned<T> {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl<T> Eq for Planned<T> {}

impl<T> PartialOrd for Planned<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Planned<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// Events to come.
#[derive(Debug)]
pub(super) struct Queue<T> {
    planned: BinaryHeap<Reverse<Planned<T>>>,
    number: u64,
}

impl<T> Queue<T> {
    pub(super) fn new() -> Self {
        Self { planned: BinaryHeap::new(), number: 0 }
    }

    pub(super) fn plan(&mut self, at: Moment, event: T) {
        self.number += 1;
        self.planned.push(Reverse(Planned { at, number: self.number, event }));
    }

    pub(super) fn next(&mut self) -> Option<(Moment, T)> {
        self.planned.pop().map(|Reverse(planned)| (planned.at, planned.event))
    }
}
