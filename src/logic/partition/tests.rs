//! Rules of the contract, one at a time, on a partition driven by hand. What happens when many
//! things go wrong together is the simulation's to find.

mod caching;
mod doubt;
mod mending;
mod reconfiguration;
mod recovery;
mod tombstones;

use std::time::Duration;

use bytes::Bytes;
use smallvec::SmallVec;

use super::cache::Cache;
use super::io::{
    Action, Attempt, FenceAnswer, Input, Operation, OperationId, Order, Output, ReadAnswer, Reply,
    StoreEvent, Summary, Unavailable, Write,
};
use super::{Partition, Settings};
use crate::logic::comparison::{Doubt, Point};
use crate::logic::mutants::{self, Mutant};
use crate::types::{
    Configuration, ConfigurationVersion, Epoch, IndexKey, Key, Member, Moment, PartitionId,
    StoreId, Token, Version,
};

const INDEX_KEY: IndexKey = IndexKey([7; 16]);

fn store(number: u128) -> StoreId {
    StoreId::from_number(number)
}

fn member(number: u128) -> Member {
    Member { store: store(number), token: Token(u64::try_from(number).unwrap()) }
}

struct Bench {
    partition: Partition,
    now: Moment,
    out: Vec<Output>,
    next: u64,
    cache: Cache,
}

impl Bench {
    /// A partition in epoch 5 whose members, 1 to `members`, have not yet connected.
    fn new(members: u128, settings: Settings) -> Self {
        let configuration = Configuration {
            version: ConfigurationVersion(3),
            members: (1..=members).map(member).collect(),
        };
        let cache = Cache::new(1 << 20);
        let (id, epoch, began) = (PartitionId(0), Epoch(5), Moment::ZERO);
        let partition = Partition::new(id, epoch, configuration, settings, began, cache.clone());
        Self { partition, now: began, out: Vec::new(), next: 0, cache }
    }

    /// The same, all members peered with nothing above their watermarks.
    fn serving(members: u128, settings: Settings) -> Self {
        let mut bench = Self::new(members, settings);
        for number in 1..=members {
            bench.connect(number);
            bench.answer_fence(number, Version::ZERO, vec![]);
        }
        bench.out.clear();
        bench
    }

    /// Members are told configurations, and soon have heard of them.
    fn step(&mut self, input: Input) {
        let before = self.out.len();
        self.partition.step(self.now, input, &mut self.out);
        let told: Vec<Input> = self.out[before..]
            .iter()
            .filter_map(|output| match output {
                Output::Order { to, order: Order::Configuration(configuration) } => {
                    let (store, token) = (to.store, to.token);
                    Some(Input::Told { store, token, version: configuration.version })
                }
                _ => None,
            })
            .collect();
        for told in told {
            self.step(told);
        }
    }

    fn later(&mut self, by: Duration) {
        self.now = self.now + by;
        self.step(Input::Tick);
    }

    fn connect(&mut self, number: u128) {
        self.event(number, StoreEvent::Connected);
    }

    fn event(&mut self, number: u128, event: StoreEvent) {
        self.step(Input::Store { store: store(number), event });
    }

    fn answer_fence(&mut self, number: u128, watermark: Version, records: Vec<Summary>) {
        self.answer_doubting(number, Doubt::None, watermark, records);
    }

    fn answer_doubting(
        &mut self,
        number: u128,
        doubt: Doubt,
        watermark: Version,
        records: Vec<Summary>,
    ) {
        let fence = self.out.iter().rev().find_map(|output| match output {
            Output::Order { to, order: Order::Fence(attempt) } if to.store == store(number) => {
                Some((to.token, *attempt))
            }
            _ => None,
        });
        let (token, attempt) = fence.expect("the member was fenced");
        let answer = told(attempt, true, doubt, watermark, records);
        self.step(Input::Fenced { store: store(number), token, answer });
    }

    fn submit(&mut self, key: &'static str, action: Action) -> OperationId {
        self.next += 1;
        let id = OperationId(self.next);
        let key = Key(Bytes::from_static(key.as_bytes()));
        let key_hash = INDEX_KEY.hash(key.as_bytes());
        let deadline = self.now + Duration::from_secs(5);
        self.step(Input::Operation(Operation { id, key, key_hash, action, deadline }));
        id
    }

    fn set(&mut self, key: &'static str, value: &'static str) -> OperationId {
        self.submit(key, Action::Set(Bytes::from_static(value.as_bytes())))
    }

    fn acknowledge(&mut self, number: u128, version: Version) {
        let token = member(number).token;
        self.step(Input::Acknowledged { store: store(number), token, version });
    }

    fn reply(&self, wanted: OperationId) -> Option<&Reply> {
        self.out.iter().find_map(|output| match output {
            Output::Reply { id, reply } if *id == wanted => Some(reply),
            _ => None,
        })
    }

    fn writes_to(&self, number: u128) -> Vec<Version> {
        self.out
            .iter()
            .filter_map(|output| match output {
                Output::Write { to, write } => {
                    to.iter().any(|to| to.store == store(number)).then_some(write.version)
                }
                _ => None,
            })
            .collect()
    }

    fn proposals(&self) -> Vec<Configuration> {
        self.out
            .iter()
            .filter_map(|output| match output {
                Output::Propose(configuration) => Some(configuration.clone()),
                _ => None,
            })
            .collect()
    }

    /// What the cache says of a key.
    fn recalled(&self, key: &str) -> Option<Bytes> {
        self.cache.recall(PartitionId(0), INDEX_KEY.hash(key.as_bytes()))?.value
    }

    fn last_read(&self) -> Option<(StoreId, super::io::ReadId)> {
        self.out.iter().rev().find_map(|output| match output {
            Output::Read { from, id, .. } => Some((from.store, *id)),
            _ => None,
        })
    }
}

/// An answer to a fence, of a store that has dropped no tombstones and has none.
fn told(
    attempt: Attempt,
    member: bool,
    doubt: Doubt,
    watermark: Version,
    records: Vec<Summary>,
) -> FenceAnswer {
    let (floor, tombstones) = (Version::ZERO, 0);
    FenceAnswer { attempt, member, doubt, watermark, records, floor, tombstones }
}

fn v(seq: u64) -> Version {
    Version::new(Epoch(5), seq)
}

fn old(seq: u64) -> Version {
    Version::new(Epoch(4), seq)
}

fn summary(key: &str, version: Version, checksum: u32) -> Summary {
    Summary { key_hash: INDEX_KEY.hash(key.as_bytes()), version, checksum }
}

fn found(key: &'static str, value: &'static str, version: Version) -> ReadAnswer {
    let content = super::io::Content {
        key: Key(Bytes::from_static(key.as_bytes())),
        value: Some(Bytes::from_static(value.as_bytes())),
        expires: 0,
    };
    ReadAnswer::Found(Write { version, content })
}

#[test]
fn a_write_is_acknowledged_only_when_every_member_has_it() {
    let mut bench = Bench::serving(3, Settings { copies: 4, ..Settings::default() });
    let write = bench.set("k", "value");
    assert_eq!(bench.writes_to(2), vec![v(1)]);
    bench.acknowledge(1, v(1));
    bench.acknowledge(2, v(1));
    assert_eq!(bench.reply(write), None);
    bench.acknowledge(3, v(1));
    assert_eq!(bench.reply(write), Some(&Reply::Stored { version: v(1), copies: 3, wanted: 4 }));
    assert_eq!(bench.partition.watermark(), v(1));
}

#[test]
fn a_read_behind_an_unsettled_write_waits_for_it() {
    let mut bench = Bench::serving(2, Settings { copies: 2, ..Settings::default() });
    bench.set("k", "value");
    let read = bench.submit("k", Action::Get);
    assert_eq!(bench.last_read(), None);
    bench.acknowledge(1, v(1));
    assert_eq!(bench.reply(read), None);
    bench.acknowledge(2, v(1));
    let value = Bytes::from_static(b"value");
    assert_eq!(bench.reply(read), Some(&Reply::Value { version: v(1), value }));
}

#[test]
fn a_late_answer_of_an_earlier_read_is_not_taken_for_a_later_one() {
    let mut bench = Bench::serving(2, Settings { copies: 2, ..Settings::default() });
    bench.submit("k", Action::Get);
    let (_, slow) = bench.last_read().unwrap();
    bench.later(Duration::from_millis(300));
    let (_, quick) = bench.last_read().unwrap();
    assert_ne!(slow, quick);
    bench.step(Input::Read { id: quick, answer: ReadAnswer::Absent });
    bench.set("k", "new");
    bench.acknowledge(1, v(1));
    bench.acknowledge(2, v(1));
    bench.cache.forget(INDEX_KEY.hash(b"k"));
    let read = bench.submit("k", Action::Get);
    bench.step(Input::Read { id: slow, answer: ReadAnswer::Absent });
    assert_eq!(bench.reply(read), None);
    let (_, id) = bench.last_read().unwrap();
    bench.step(Input::Read { id, answer: found("k", "new", v(1)) });
    let value = Bytes::from_static(b"new");
    assert_eq!(bench.reply(read), Some(&Reply::Value { version: v(1), value }));
}

#[test]
fn an_open_write_is_uncertain_at_its_deadline_and_still_settles_later() {
    let mut bench = Bench::serving(2, Settings { copies: 2, ..Settings::default() });
    let write = bench.set("k", "value");
    bench.acknowledge(1, v(1));
    bench.later(Duration::from_secs(6));
    assert_eq!(bench.reply(write), Some(&Reply::Uncertain));
    bench.acknowledge(2, v(1));
    assert_eq!(bench.partition.watermark(), v(1));
}

#[test]
fn a_new_epoch_rolls_forward_what_one_member_alone_had() {
    let mut bench = Bench::new(2, Settings { copies: 2, ..Settings::default() });
    bench.connect(1);
    bench.connect(2);
    bench.answer_fence(1, old(6), vec![summary("k", old(7), 1)]);
    bench.answer_fence(2, old(5), vec![]);
    let read = bench.submit("k", Action::Get);
    let (from, id) = bench.last_read().expect("the content is fetched");
    assert_eq!(from, store(1));
    bench.step(Input::Read { id, answer: found("k", "open", old(7)) });
    assert_eq!(bench.writes_to(2), vec![old(7)]);
    assert_eq!(bench.reply(read), None, "not before it is settled");
    bench.acknowledge(2, old(7));
    let value = Bytes::from_static(b"open");
    assert_eq!(bench.reply(read), Some(&Reply::Value { version: old(7), value }));
    assert_eq!(bench.partition.watermark(), v(0));
}

#[test]
fn a_partition_serves_without_an_absent_member_but_keeps_its_watermark() {
    let mut bench = Bench::new(3, Settings { copies: 3, ..Settings::default() });
    for number in [1, 2] {
        bench.connect(number);
        bench.answer_fence(number, old(6), vec![]);
    }
    let read = bench.submit("k", Action::Get);
    assert_eq!(bench.last_read(), None);
    bench.later(Duration::from_millis(600));
    let (_, id) = bench.last_read().expect("it serves now");
    bench.step(Input::Read { id, answer: ReadAnswer::Absent });
    assert_eq!(bench.reply(read), Some(&Reply::NotFound { version: None }));
    bench.later(Duration::from_millis(50));
    assert_eq!(bench.partition.watermark(), old(6));
}

#[test]
fn an_update_waits_until_nothing_can_slip_behind_its_base() {
    let mut bench = Bench::new(3, Settings { copies: 3, ..Settings::default() });
    for number in [1, 2] {
        bench.connect(number);
        bench.answer_fence(number, old(6), vec![]);
    }
    bench.later(Duration::from_millis(600));
    let update = bench.submit("k", Action::Update(Bytes::from_static(b"new")));
    assert_eq!(bench.last_read(), None);
    bench.later(Duration::from_secs(3));
    let proposal = bench.proposals().pop().expect("the absent member is removed");
    bench.step(Input::Configured(proposal.version));
    let (_, id) = bench.last_read().expect("the base is read");
    bench.step(Input::Read { id, answer: ReadAnswer::Absent });
    assert_eq!(bench.reply(update), Some(&Reply::NotFound { version: None }));
}

#[test]
fn two_contents_of_one_version_freeze_the_key() {
    let mut bench = Bench::new(2, Settings { copies: 2, ..Settings::default() });
    bench.connect(1);
    bench.connect(2);
    bench.answer_fence(1, old(6), vec![summary("k", old(7), 1)]);
    bench.answer_fence(2, old(6), vec![summary("k", old(7), 2)]);
    assert!(bench.out.iter().any(|output| matches!(output, Output::Alarm { .. })));
    let read = bench.submit("k", Action::Get);
    assert_eq!(bench.reply(read), Some(&Reply::Damaged));
}

#[test]
fn an_operation_that_was_never_taken_gets_a_definite_answer() {
    let mut bench = Bench::new(2, Settings { copies: 2, ..Settings::default() });
    let read = bench.submit("k", Action::Get);
    let write = bench.set("k", "value");
    bench.later(Duration::from_secs(6));
    let unavailable = Reply::Unavailable(Unavailable::Deadline);
    assert_eq!(bench.reply(read), Some(&unavailable));
    assert_eq!(bench.reply(write), Some(&unavailable));
}

#[test]
fn what_only_a_removed_member_held_is_forgotten() {
    let mut bench = Bench::new(2, Settings { copies: 2, floor: 1, ..Settings::default() });
    bench.connect(1);
    bench.connect(2);
    bench.answer_fence(1, old(6), vec![summary("k", old(7), 1)]);
    bench.answer_fence(2, old(6), vec![]);
    assert_eq!(bench.partition.status().unsettled, 1);
    let read = bench.submit("k", Action::Get);
    bench.event(1, StoreEvent::Disconnected);
    bench.later(Duration::from_secs(3));
    let other = bench.set("other", "value");
    bench.acknowledge(2, v(1));
    bench.later(Duration::from_millis(50));
    let proposal = bench.proposals().pop().expect("the member that is gone is removed");
    assert!(bench.reply(read).is_none(), "it may still return with what it holds");
    bench.step(Input::Configured(proposal.version));
    assert!(matches!(bench.reply(other), Some(Reply::Stored { .. })));
    assert_eq!(bench.partition.status().unsettled, 0);
    let (from, id) = bench.last_read().expect("a copy that is left is read");
    assert_eq!(from, store(2));
    bench.step(Input::Read { id, answer: ReadAnswer::Absent });
    assert_eq!(bench.reply(read), Some(&Reply::NotFound { version: None }));
}

#[test]
fn an_update_is_not_based_on_what_the_last_answer_replaces() {
    let mut bench = Bench::new(3, Settings { copies: 3, ..Settings::default() });
    for number in 1..=3 {
        bench.connect(number);
    }
    bench.answer_fence(1, old(4), vec![summary("k", old(5), 1)]);
    bench.answer_fence(2, old(4), vec![summary("k", old(6), 1)]);
    bench.later(Duration::from_millis(600));
    let reads = bench.out.iter().filter_map(|output| match output {
        Output::Read { from, id, .. } => Some((from.store, *id)),
        _ => None,
    });
    for (from, id) in reads.collect::<Vec<_>>() {
        let version = if from == store(1) { old(5) } else { old(6) };
        bench.step(Input::Read { id, answer: found("k", "value", version) });
    }
    bench.submit("k", Action::Update(Bytes::from_static(b"new")));
    bench.answer_fence(3, old(5), vec![summary("k", old(7), 1)]);
    let written = bench
        .out
        .iter()
        .any(|output| matches!(output, Output::Write { write, .. } if write.version == v(1)));
    assert!(!written, "version 7 is the base now, and its value is not known yet");
}
