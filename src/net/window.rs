//! The requests of a connection that are not answered yet, in order.

use std::collections::VecDeque;

use crate::protocol::command::Command;
use crate::protocol::line::LineEnd;
use crate::protocol::reply::{Outcome, Renderer, Reply};
use crate::types::Moment;

/// What one request costs beside its bytes.
const SLOT_BYTES: usize = 128;
/// What a value is at least expected to be long.
const MIN_EXPECTED_BYTES: usize = 256;
/// Slots that are kept for reuse once a burst is over.
const KEPT_SLOTS: usize = 1024;
/// And by a connection that has nothing to do.
const IDLE_SLOTS: usize = 32;

/// What a connection may have in flight.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WindowLimits {
    /// Requests.
    pub(crate) requests: usize,
    /// Bytes of requests and of replies together; several of the largest values.
    pub(crate) bytes: usize,
    /// The largest value.
    pub(crate) value_bytes: usize,
}

/// What a window may come to hold with one more answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    /// With what is expected.
    pub(crate) expected: usize,
    /// Without it: memory.
    pub(crate) held: usize,
}

/// A request, as far as the connection remembers it.
#[derive(Debug)]
pub(crate) struct Slot {
    /// What it was counted as; none if it was no request at all.
    pub(crate) command: Option<Command>,
    /// How its reply must end.
    pub(crate) end: LineEnd,
    /// Who writes its reply.
    pub(crate) renderer: Renderer,
    /// When it came.
    pub(crate) arrived: Moment,
    /// What it holds in memory: before the answer the request, or what it is expected to bring;
    /// then the reply.
    bytes: usize,
    /// How much of that has not come yet and is only expected.
    expected: usize,
    reply: Option<Reply>,
}

/// A ring of slots, one for each request, that turns answers in any order into replies in theirs.
///
/// It bounds what the connection holds. The size of a value is known only when it comes, so a
/// `GET` is counted with the size that the values before it lead to expect, the first ones with the
/// largest there can be; and should the values suddenly be much larger than that, those that do not
/// fit are answered `ERROR BUSY`.
#[derive(Debug)]
pub(crate) struct Window {
    /// The number of the slot at the front.
    first: u64,
    slots: VecDeque<Slot>,
    limits: WindowLimits,
    bytes: usize,
    /// How much of those bytes has not come yet.
    awaited: usize,
    /// How many requests wait for an answer.
    waiting: usize,
    /// What the next value is expected to be long.
    expected: usize,
}

impl Window {
    pub(crate) fn new(limits: WindowLimits) -> Self {
        let expected = limits.value_bytes;
        Self {
            first: 0,
            slots: VecDeque::new(),
            limits,
            bytes: 0,
            awaited: 0,
            waiting: 0,
            expected,
        }
    }

    /// Whether one more request may come, with this many bytes of replies not written yet. One
    /// always may when there is nothing else.
    pub(crate) fn is_open(&self, unwritten: usize) -> bool {
        let bytes = self.bytes.saturating_add(unwritten);
        self.slots.len() < self.limits.requests && (bytes == 0 || bytes < self.limits.bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The bytes that requests and replies hold now. What is only expected holds none: it bounds
    /// this connection, and must not make others wait for memory that nobody uses.
    pub(crate) fn held_bytes(&self) -> usize {
        self.bytes - self.awaited
    }

    /// How many requests others have not answered yet.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }

    /// The number that the next slot will have.
    pub(crate) fn next_slot(&self) -> u64 {
        self.first + u64::try_from(self.slots.len()).unwrap_or(u64::MAX)
    }

    /// Adds a request that others answer, which holds this many bytes; says its number.
    pub(crate) fn wait(&mut self, mut slot: Slot, request_bytes: usize) -> u64 {
        let reads = slot.command == Some(Command::Get);
        slot.expected = if reads { self.expected } else { 0 };
        slot.bytes = SLOT_BYTES + request_bytes + slot.expected;
        self.awaited += slot.expected;
        self.waiting += 1;
        self.push(slot)
    }

    /// Adds a request that is answered already.
    pub(crate) fn settle(&mut self, mut slot: Slot, reply: Reply) {
        slot.bytes = SLOT_BYTES;
        slot.reply = Some(reply);
        self.push(slot);
    }

    fn push(&mut self, slot: Slot) -> u64 {
        let number = self.next_slot();
        self.bytes += slot.bytes;
        self.slots.push_back(slot);
        number
    }

    /// What the window may hold at most, should it hold more than was expected, and in all
    /// `held` bytes of memory.
    pub(crate) fn room(&self, held: usize) -> Room {
        Room { expected: self.limits.bytes.saturating_mul(2), held }
    }

    /// Takes an answer, if it fits into this room. Says whether a request waited for it.
    pub(crate) fn answer(&mut self, number: u64, outcome: Outcome, room: Room) -> bool {
        let index = number.checked_sub(self.first).and_then(|index| usize::try_from(index).ok());
        let waiting = index.and_then(|index| self.slots.get_mut(index));
        let Some(slot) = waiting.filter(|slot| slot.reply.is_none()) else {
            return false;
        };
        self.waiting -= 1;
        self.bytes -= slot.bytes;
        self.awaited -= std::mem::take(&mut slot.expected);
        let length = reply_bytes(&outcome);
        let fits = length == 0
            || (self.bytes.saturating_add(length) <= room.expected
                && (self.bytes - self.awaited).saturating_add(length) <= room.held);
        let outcome = if fits { outcome } else { Outcome::Busy };
        slot.bytes = SLOT_BYTES + if fits { length } else { 0 };
        self.bytes += slot.bytes;
        slot.reply = Some(Reply::Store(outcome));
        if slot.command == Some(Command::Get) {
            self.expect(length);
        }
        true
    }

    /// Answers every request from this number on that still waits.
    pub(crate) fn answer_all_from(&mut self, number: u64, outcome: &Outcome) {
        let room = Room { expected: usize::MAX, held: usize::MAX };
        for number in number..self.next_slot() {
            self.answer(number, outcome.clone(), room);
        }
    }

    /// Gives memory back that nothing in flight needs.
    pub(crate) fn give_back(&mut self) {
        if self.slots.capacity() > 2 * IDLE_SLOTS {
            self.slots.shrink_to(IDLE_SLOTS);
        }
    }

    /// Grows at once to a larger value, and comes down slowly.
    fn expect(&mut self, length: usize) {
        let eased = self.expected - self.expected / 8;
        self.expected = length.max(eased).max(MIN_EXPECTED_BYTES);
    }

    /// The request at the front with its reply, if that is there.
    pub(crate) fn pop_due(&mut self) -> Option<(Slot, Reply)> {
        let reply = self.slots.front_mut()?.reply.take()?;
        let slot = self.slots.pop_front()?;
        self.first += 1;
        self.bytes -= slot.bytes;
        if self.slots.is_empty() && self.slots.capacity() > KEPT_SLOTS {
            self.slots.shrink_to(KEPT_SLOTS);
        }
        Some((slot, reply))
    }
}

impl Slot {
    /// A request that has just come.
    pub(crate) fn new(
        command: Option<Command>,
        end: LineEnd,
        renderer: Renderer,
        arrived: Moment,
    ) -> Self {
        Self { command, end, renderer, arrived, bytes: 0, expected: 0, reply: None }
    }
}

/// What an outcome holds in memory beside itself.
fn reply_bytes(outcome: &Outcome) -> usize {
    match outcome {
        Outcome::Value(value) => value.len(),
        Outcome::Lines(lines) => lines.iter().map(String::len).sum(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: WindowLimits =
        WindowLimits { requests: 100, bytes: 1 << 20, value_bytes: 1 << 18 };
    const ROOM: Room = Room { expected: usize::MAX, held: usize::MAX };

    #[test]
    fn what_is_only_expected_holds_no_memory() {
        let mut window = Window::new(LIMITS);
        let number = window.wait(slot(Command::Get), 10);
        assert!(window.bytes >= LIMITS.value_bytes, "it bounds the connection");
        assert!(window.held_bytes() < 1000, "it is no memory that others would have to wait for");
        window.answer(number, value(5000), ROOM);
        assert!(window.held_bytes() >= 5000);
    }

    fn slot(command: Command) -> Slot {
        Slot::new(Some(command), LineEnd::Lf, Renderer::Simple, Moment::ZERO)
    }

    fn value(length: usize) -> Outcome {
        Outcome::Value(vec![0; length].into())
    }

    #[test]
    fn no_more_requests_than_allowed() {
        let mut window = Window::new(LIMITS);
        while window.is_open(0) {
            window.wait(slot(Command::Delete), 3);
        }
        assert_eq!(window.slots.len(), LIMITS.requests);
        assert!(window.answer(0, Outcome::Deleted, ROOM));
        assert!(!window.is_open(0), "answered but not yet written");
        assert!(window.pop_due().is_some());
        assert!(window.is_open(0));
    }

    #[test]
    fn no_more_bytes_than_allowed_but_always_one_request() {
        let mut window = Window::new(LIMITS);
        window.wait(slot(Command::Set), 10 * LIMITS.bytes);
        assert!(!window.is_open(0));
        window.answer(0, Outcome::Stored { copies: 1, wanted: 1 }, ROOM);
        window.pop_due();
        assert!(window.is_open(0));
        assert!(!window.is_open(LIMITS.bytes), "the client does not read");
    }

    #[test]
    fn small_values_open_the_window_and_large_ones_close_it() {
        let mut window = Window::new(LIMITS);
        let mut fill = |length| {
            let from = window.next_slot();
            while window.is_open(0) {
                window.wait(slot(Command::Get), 3);
            }
            let count = window.next_slot() - from;
            for number in from..from + count {
                window.answer(number, value(length), ROOM);
                window.pop_due();
            }
            count
        };
        assert_eq!(fill(10), 4, "unknown values are taken for the largest");
        for _ in 0..5 {
            fill(10);
        }
        assert_eq!(fill(10), 100, "small ones are as many as may be");
        fill(200 << 10);
        assert!(fill(200 << 10) <= 6, "of large ones there are few at once");
    }

    #[test]
    fn values_that_turn_out_much_too_large_are_refused_not_held() {
        let mut window = Window::new(LIMITS);
        window.expected = MIN_EXPECTED_BYTES;
        for _ in 0..100 {
            window.wait(slot(Command::Get), 3);
        }
        for number in 0..100 {
            window.answer(number, value(LIMITS.bytes / 2), window.room(usize::MAX));
            assert!(window.bytes <= 2 * LIMITS.bytes + 100 * SLOT_BYTES * 4);
        }
        let replies: Vec<_> = std::iter::from_fn(|| window.pop_due()).map(|due| due.1).collect();
        assert_eq!(replies.len(), 100);
        assert!(matches!(replies.first(), Some(Reply::Store(Outcome::Value(_)))));
        assert_eq!(replies.last(), Some(&Reply::Store(Outcome::Busy)));
        assert_eq!(window.bytes, 0);
    }

    #[test]
    fn values_for_which_there_is_no_memory_are_refused() {
        let mut window = Window::new(LIMITS);
        for _ in 0..4 {
            window.wait(slot(Command::Get), 3);
        }
        let room = window.room(20_000);
        (0..4).for_each(|number| assert!(window.answer(number, value(9_000), room)));
        assert!(window.held_bytes() <= 20_000, "{}", window.held_bytes());
        let replies: Vec<_> = std::iter::from_fn(|| window.pop_due()).map(|due| due.1).collect();
        let busy = replies.iter().filter(|reply| **reply == Reply::Store(Outcome::Busy)).count();
        assert_eq!(busy, 2);
    }

    #[test]
    fn an_answer_nobody_waits_for_changes_nothing() {
        let mut window = Window::new(LIMITS);
        window.wait(slot(Command::Delete), 3);
        assert!(!window.answer(1, Outcome::Deleted, ROOM));
        assert!(window.answer(0, Outcome::Deleted, ROOM));
        assert!(!window.answer(0, Outcome::Uncertain, ROOM), "answered twice");
        assert_eq!(window.pop_due().map(|due| due.1), Some(Reply::Store(Outcome::Deleted)));
        assert!(!window.answer(0, Outcome::Deleted, ROOM), "answered long ago");
    }

    proptest! {
        #[test]
        fn replies_come_in_order_whatever_the_order_of_the_answers(
            order in Just((0..50u64).collect::<Vec<_>>()).prop_shuffle())
        {
            let mut window = Window::new(LIMITS);
            for _ in 0..50 {
                window.wait(slot(Command::Where), 3);
            }
            let mut due = Vec::new();
            for number in order {
                let lines = vec![number.to_string()];
                window.answer(number, Outcome::Lines(lines), ROOM);
                due.extend(std::iter::from_fn(|| window.pop_due()).map(|due| due.1));
            }
            let line = |number: u64| Reply::Store(Outcome::Lines(vec![number.to_string()]));
            prop_assert_eq!(due, (0..50).map(line).collect::<Vec<_>>());
            prop_assert_eq!(window.bytes, 0);
        }
    }
}
