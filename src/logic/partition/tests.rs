//! Rules of the contract, one at a time, on a partition driven by hand. What happens when many
//! things go wrong together is the simulation's to find.

mod recovery;

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
        let answer = FenceAnswer { attempt, member: true, doubt, watermark, records };
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
fn a_member_that_fails_is_removed_durably_before_the_write_is_acknowledged() {
    let mut bench = Bench::serving(3, Settings { copies: 3, ..Settings::default() });
    bench.event(3, StoreEvent::Disconnected);
    assert!(bench.proposals().is_empty(), "nothing waits for it yet");
    let write = bench.set("k", "value");
    bench.acknowledge(1, v(1));
    bench.acknowledge(2, v(1));
    bench.later(Duration::from_millis(50));
    let proposal = bench.proposals().pop().expect("a removal");
    assert!(!proposal.contains(store(3)));
    assert_eq!(bench.reply(write), None, "not before the change is durable");
    bench.step(Input::Configured(proposal.version));
    assert_eq!(bench.reply(write), Some(&Reply::Stored { version: v(1), copies: 2, wanted: 3 }));
}

#[test]
fn the_set_never_shrinks_below_the_floor_and_writes_are_refused_there() {
    let mut bench = Bench::serving(2, Settings { copies: 2, ..Settings::default() });
    bench.event(2, StoreEvent::Disconnected);
    bench.event(2, StoreEvent::Evicted);
    bench.later(Duration::from_secs(4));
    let write = bench.set("k", "value");
    bench.later(Duration::from_secs(1));
    assert!(bench.proposals().is_empty());
    assert_eq!(bench.reply(write), Some(&Reply::NotEnoughNodes { have: 1, need: 2 }));
    assert!(bench.partition.status().serving, "reads are still answered");
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
fn a_copy_is_filled_and_then_proposed_in_place_of_a_dead_member() {
    let mut bench = Bench::serving(2, Settings { copies: 2, ..Settings::default() });
    bench.event(2, StoreEvent::Disconnected);
    bench.event(2, StoreEvent::Evicted);
    bench.connect(3);
    bench.step(Input::Target(SmallVec::from_iter([store(1), store(3)])));
    assert_eq!(bench.partition.wanted(), Some(store(3)));
    bench.step(Input::Admit(store(3)));
    let start = bench.out.iter().find_map(|output| match output {
        Output::Order { to, order: Order::Start { source } } => Some((*to, *source)),
        _ => None,
    });
    let (to, source) = start.expect("a copy is started");
    assert_eq!((to.store, source), (store(3), store(1)));
    let copied = Input::Copied { store: to.store, token: to.token, complete: true };
    bench.step(copied);
    assert!(bench.proposals().is_empty(), "not before it has finished");
    bench.step(Input::Finished { store: to.store, token: to.token });
    assert!(bench.proposals().is_empty(), "not before it has told what it holds");
    bench.answer_fence(3, v(0), Vec::new());
    let proposal = bench.proposals().pop().expect("it is proposed");
    assert!(proposal.contains(store(3)) && !proposal.contains(store(2)));
    bench.step(Input::Configured(proposal.version));
    let write = bench.set("k", "value");
    bench.acknowledge(1, v(1));
    bench.step(Input::Acknowledged { store: to.store, token: to.token, version: v(1) });
    assert_eq!(bench.reply(write), Some(&Reply::Stored { version: v(1), copies: 2, wanted: 2 }));
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
fn a_member_that_refused_is_asked_again() {
    let mut bench = Bench::serving(2, Settings { copies: 2, ..Settings::default() });
    let token = bench.partition.configuration().token_of(store(2)).expect("a member");
    let write = bench.set("k", "value");
    bench.acknowledge(1, v(1));
    bench.step(Input::Refused { store: store(2), token });
    assert!(!bench.partition.status().writable);
    bench.later(Duration::from_secs(2));
    bench.answer_fence(2, v(0), vec![]);
    assert!(bench.partition.status().writable);
    bench.acknowledge(2, v(1));
    assert_eq!(bench.reply(write), Some(&Reply::Stored { version: v(1), copies: 2, wanted: 2 }));
}

#[test]
fn a_copy_too_many_stays_while_another_may_still_come() {
    let mut bench = Bench::new(2, Settings { copies: 2, floor: 1, ..Settings::default() });
    bench.connect(1);
    bench.answer_fence(1, old(6), vec![]);
    bench.later(Duration::from_millis(600));
    bench.connect(3);
    bench.step(Input::Target(SmallVec::from_iter([store(2), store(3)])));
    bench.step(Input::Admit(store(3)));
    let start = bench.out.iter().find_map(|output| match output {
        Output::Order { to, order: Order::Start { .. } } => Some(*to),
        _ => None,
    });
    let to = start.expect("a copy is started");
    bench.step(Input::Copied { store: to.store, token: to.token, complete: true });
    bench.step(Input::Finished { store: to.store, token: to.token });
    bench.answer_fence(3, v(0), vec![]);
    let proposal = bench.proposals().pop().expect("the copy is added");
    assert!(proposal.contains(store(1)), "only it and the copy are there");
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

/// The last order to compare a member: with whom, and as of when.
fn comparison(bench: &Bench, number: u128) -> Option<(StoreId, Attempt, Point)> {
    bench.out.iter().rev().find_map(|output| match output {
        Output::Order { to, order: Order::Compare { attempt, source, point } } => {
            (to.store == store(number)).then(|| (*source, *attempt, point.clone()))
        }
        _ => None,
    })
}

impl Bench {
    fn compared(&mut self, number: u128, attempt: Attempt, restored: u64) {
        let (store, token) = (store(number), member(number).token);
        self.step(Input::Compared { store, token, attempt, complete: true, restored });
    }

    fn return_in(&mut self, number: u128, doubt: Doubt) {
        self.event(number, StoreEvent::Disconnected);
        self.connect(number);
        self.answer_doubting(number, doubt, Version::ZERO, vec![]);
    }

    fn doubt_of(&self, number: u128) -> Doubt {
        let copies = self.partition.status().copies;
        copies.iter().find(|copy| copy.store == store(number)).unwrap().doubt
    }
}

#[test]
fn a_member_that_stopped_uncleanly_is_read_only_once_it_was_compared() {
    let mut bench = Bench::serving(2, Settings { copies: 2, ..Settings::default() });
    bench.set("other", "value");
    bench.acknowledge(1, v(1));
    bench.acknowledge(2, v(1));
    bench.set("open", "value");
    bench.acknowledge(2, v(2));
    bench.return_in(2, Doubt::Unclean);
    assert_eq!(bench.writes_to(2), [v(1), v(2), v(2)], "what it acknowledged counts no longer");
    let (source, attempt, point) = comparison(&bench, 2).expect("it is compared");
    assert_eq!(source, store(1));
    assert!(point.has_settled(v(1)) && !point.has_settled(v(2)) && !point.has_settled(v(3)));
    for key in ["a", "b", "c", "d", "e"] {
        bench.submit(key, Action::Get);
        assert_eq!(bench.last_read().unwrap().0, store(1), "{key}");
    }
    bench.compared(2, attempt, 3);
    assert!(bench.out.contains(&Output::Restored { store: store(2), records: 3 }));
    assert!(
        bench.out.iter().any(|output| matches!(output, Output::Order { order: Order::Trust, .. }))
    );
    assert_eq!(bench.doubt_of(2), Doubt::None);
}

#[test]
fn nobody_is_let_go_in_favour_of_a_member_in_doubt() {
    let settings = Settings { copies: 2, floor: 1, ..Settings::default() };
    let mut bench = Bench::serving(2, settings);
    bench.return_in(2, Doubt::Unclean);
    bench.event(1, StoreEvent::Disconnected);
    let (_, attempt, _) = comparison(&bench, 2).expect("it is compared");
    let (two, token) = (store(2), member(2).token);
    let failed = Input::Compared { store: two, token, attempt, complete: false, restored: 0 };
    bench.step(failed);
    bench.submit("k", Action::Get);
    assert_eq!(bench.last_read().unwrap().0, store(2), "there is nobody else");
    bench.set("k", "value");
    bench.acknowledge(2, v(1));
    bench.later(Duration::from_secs(2));
    assert!(bench.proposals().is_empty(), "the other one may have what this one lost");
    bench.event(1, StoreEvent::Evicted);
    bench.later(Duration::from_secs(1));
    assert!(bench.proposals().pop().is_some_and(|next| !next.contains(store(1))));
}

#[test]
fn a_member_that_may_have_lost_something_has_no_say_until_all_were_compared() {
    let settings = Settings { copies: 2, floor: 1, ..Settings::default() };
    let mut bench = Bench::new(2, settings);
    bench.connect(1);
    bench.answer_doubting(1, Doubt::Lost, old(5), vec![]);
    bench.later(Duration::from_secs(20));
    bench.submit("k", Action::Get);
    assert_eq!(bench.last_read(), None, "however long the other one is away");
    bench.connect(2);
    bench.answer_doubting(2, Doubt::Lost, old(4), vec![]);
    let (source, attempt, _) = comparison(&bench, 1).expect("they are compared with each other");
    assert_eq!(source, store(2));
    assert_eq!(bench.last_read(), None);
    bench.compared(1, attempt, 0);
    assert!(bench.out.contains(&Output::PossibleLoss));
    assert_eq!(bench.last_read().unwrap().0, store(1));
    for _ in 0..2 {
        let (source, attempt, _) = comparison(&bench, 2).unwrap();
        assert_eq!(source, store(1), "once more, as it has everything only now");
        bench.compared(2, attempt, 0);
    }
    let losses = bench.out.iter().filter(|output| **output == Output::PossibleLoss).count();
    assert_eq!((losses, bench.doubt_of(2)), (1, Doubt::None));
}

#[test]
fn a_member_is_not_trusted_before_it_has_what_an_earlier_epoch_left_open() {
    let mut bench = Bench::new(2, Settings { copies: 2, ..Settings::default() });
    bench.connect(1);
    bench.connect(2);
    bench.answer_fence(1, old(6), vec![summary("k", old(7), 1)]);
    bench.answer_doubting(2, Doubt::Unclean, old(5), vec![]);
    let (_, attempt, point) = comparison(&bench, 2).expect("it is compared");
    assert!(!point.has_settled(old(7)));
    bench.compared(2, attempt, 0);
    assert_eq!(bench.doubt_of(2), Doubt::Unclean, "it may have acknowledged version 7, too");
    let (_, id) = bench.last_read().expect("the content is fetched");
    bench.step(Input::Read { id, answer: found("k", "open", old(7)) });
    bench.acknowledge(2, old(7));
    bench.later(Duration::from_millis(50));
    assert_eq!(bench.doubt_of(2), Doubt::None);
}

#[test]
fn a_slow_member_goes_only_while_enough_serve_without_it() {
    let mut bench = Bench::serving(3, Settings { copies: 3, ..Settings::default() });
    bench.event(3, StoreEvent::Slow);
    let proposal = bench.proposals().pop().expect("it can be spared");
    assert!(!proposal.contains(store(3)));
    bench.step(Input::Configured(proposal.version));
    bench.event(2, StoreEvent::Slow);
    assert_eq!(bench.proposals().len(), 1, "at the floor everybody is needed");
    bench.later(Duration::from_secs(5));
    assert_eq!(bench.partition.wanted(), None, "it is still slow");
    bench.event(3, StoreEvent::Fast);
    assert_eq!(bench.partition.wanted(), Some(store(3)));
}

#[test]
fn what_has_settled_is_recalled_and_what_is_changing_is_not() {
    let mut bench = Bench::serving(2, Settings { copies: 2, ..Settings::default() });
    bench.set("k", "old");
    bench.acknowledge(1, v(1));
    assert_eq!(bench.recalled("k"), None, "not before it has settled");
    bench.acknowledge(2, v(1));
    assert_eq!(bench.recalled("k").as_deref(), Some("old".as_bytes()));
    let read = bench.submit("k", Action::Get);
    let value = Bytes::from_static(b"old");
    assert_eq!(bench.reply(read), Some(&Reply::Value { version: v(1), value }));
    assert_eq!(bench.last_read(), None, "no copy was asked");
    bench.set("k", "new");
    assert_eq!(bench.recalled("k"), None);
    bench.acknowledge(1, v(2));
    bench.acknowledge(2, v(2));
    assert_eq!(bench.recalled("k").as_deref(), Some("new".as_bytes()));
}

/// While a copy is read for `k`, a member that was away tells of a version that nobody else has, it
/// settles, and the cache lets it go again. What is recalled after the copy's answer.
fn recalled_after_a_read_that_was_overtaken() -> Option<Bytes> {
    let mut bench = Bench::new(3, Settings { copies: 3, floor: 1, ..Settings::default() });
    for number in [1, 2] {
        bench.connect(number);
        bench.answer_fence(number, old(5), vec![]);
    }
    bench.later(Duration::from_millis(600));
    bench.submit("k", Action::Get);
    let (_, slow) = bench.last_read().expect("a copy is asked");
    bench.connect(3);
    bench.answer_fence(3, old(5), vec![summary("k", old(7), 1)]);
    let (_, content) = bench.last_read().expect("its content is fetched");
    bench.step(Input::Read { id: content, answer: found("k", "late", old(7)) });
    bench.acknowledge(1, old(7));
    bench.acknowledge(2, old(7));
    assert_eq!(bench.recalled("k").as_deref(), Some("late".as_bytes()));
    bench.cache.forget(INDEX_KEY.hash(b"k"));
    bench.step(Input::Read { id: slow, answer: found("k", "early", old(3)) });
    bench.recalled("k")
}

#[test]
fn what_a_copy_said_is_recalled_unless_something_settled_meanwhile() {
    let mut bench = Bench::serving(2, Settings { copies: 2, ..Settings::default() });
    bench.submit("k", Action::Get);
    let (_, id) = bench.last_read().expect("a copy is asked");
    bench.step(Input::Read { id, answer: found("k", "value", old(3)) });
    assert_eq!(bench.recalled("k").as_deref(), Some("value".as_bytes()));

    assert_eq!(recalled_after_a_read_that_was_overtaken(), None);
    for mutant in [Mutant::OverwritingRead, Mutant::ComparingRead] {
        let recalled = mutants::with(Some(mutant), recalled_after_a_read_that_was_overtaken);
        assert_eq!(recalled.as_deref(), Some("early".as_bytes()), "{mutant:?} would be noticed");
    }
}

#[test]
fn nothing_is_recalled_once_no_member_stands_behind_it() {
    let mut bench = Bench::serving(2, Settings { copies: 2, ..Settings::default() });
    bench.set("k", "value");
    bench.acknowledge(1, v(1));
    bench.acknowledge(2, v(1));
    bench.event(1, StoreEvent::Disconnected);
    assert!(bench.recalled("k").is_some(), "reads need one member");
    bench.event(2, StoreEvent::Suspected);
    assert_eq!(bench.recalled("k"), None);
    let read = bench.submit("k", Action::Get);
    assert_eq!(bench.reply(read), None);
    bench.event(2, StoreEvent::Recovered);
    assert!(bench.recalled("k").is_some());
}

#[test]
fn an_update_finds_its_base_in_the_cache() {
    let mut bench = Bench::serving(2, Settings { copies: 2, ..Settings::default() });
    bench.submit("k", Action::Delete);
    bench.acknowledge(1, v(1));
    bench.acknowledge(2, v(1));
    let update = bench.submit("k", Action::Update(Bytes::from_static(b"new")));
    assert_eq!(bench.reply(update), Some(&Reply::NotFound { version: Some(v(1)) }));
    assert_eq!(bench.last_read(), None);
}

#[test]
fn a_frozen_key_is_never_recalled() {
    let mut bench = Bench::new(3, Settings { copies: 3, ..Settings::default() });
    for number in [1, 2, 3] {
        bench.connect(number);
    }
    bench.answer_fence(1, old(6), vec![]);
    bench.later(Duration::from_millis(600));
    bench.submit("k", Action::Get);
    let (_, id) = bench.last_read().expect("a copy is asked");
    bench.answer_fence(2, old(6), vec![summary("k", old(7), 1)]);
    bench.answer_fence(3, old(6), vec![summary("k", old(7), 2)]);
    bench.step(Input::Read { id, answer: found("k", "value", old(3)) });
    assert_eq!(bench.recalled("k"), None);
}

#[test]
fn a_record_that_a_source_cannot_read_is_written_anew_from_another_member() {
    let mut bench = Bench::serving(3, Settings { copies: 3, ..Settings::default() });
    let at = bench.partition.configuration().members[0];
    bench.out.clear();
    bench.step(Input::Unreadable { at, key_hash: INDEX_KEY.hash(b"k") });
    let (from, id) = bench.last_read().expect("another is asked");
    assert_ne!(from, at.store);
    bench.step(Input::Read { id, answer: ReadAnswer::Damaged });
    let (from, id) = bench.last_read().expect("the third is asked");
    bench.step(Input::Read { id, answer: found("k", "value", old(3)) });
    let restored = bench.out.iter().filter_map(|output| match output {
        Output::Order { to, order: Order::Restore(write) } => Some((to.store, write.version)),
        _ => None,
    });
    let restored: Vec<_> = restored.collect();
    assert_eq!(restored.len(), 2, "both that cannot read it: {restored:?}");
    assert!(restored.iter().all(|(to, version)| *to != from && *version == old(3)));
    assert_eq!(bench.partition.status().unreadable, 0);
}

#[test]
fn a_record_that_nobody_can_read_is_said_once_and_counted_until_it_is_overwritten() {
    let mut bench = Bench::serving(2, Settings { copies: 2, ..Settings::default() });
    let at = bench.partition.configuration().members[0];
    for _ in 0..2 {
        bench.step(Input::Unreadable { at, key_hash: INDEX_KEY.hash(b"k") });
        let (_, id) = bench.last_read().expect("the other is asked");
        bench.step(Input::Read { id, answer: ReadAnswer::Damaged });
    }
    let said = bench.out.iter().filter(|output| matches!(output, Output::Unreadable(_)));
    assert_eq!((said.count(), bench.partition.status().unreadable), (1, 1));
    bench.set("k", "value");
    bench.acknowledge(1, v(1));
    bench.acknowledge(2, v(1));
    assert_eq!(bench.partition.status().unreadable, 0);
}

#[test]
fn what_is_asked_for_no_client_is_not_asked_for_ever() {
    let mut bench = Bench::serving(2, Settings { copies: 2, ..Settings::default() });
    let at = bench.partition.configuration().members[0];
    bench.step(Input::Unreadable { at, key_hash: INDEX_KEY.hash(b"k") });
    bench.later(Duration::from_secs(6));
    bench.out.clear();
    bench.later(Duration::from_secs(1));
    assert_eq!(bench.last_read(), None);
}
