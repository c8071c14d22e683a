//! What is left when something was lost: damaged records and copies, metadata made anew.

use super::*;

fn orders(bench: &Bench, number: u128) -> Vec<Order> {
    let orders = bench.out.iter().filter_map(|output| match output {
        Output::Order { to, order } if to.store == store(number) => Some(order.clone()),
        _ => None,
    });
    orders.collect()
}

fn write(key: &'static str, version: Version) -> Write {
    let key = Key(Bytes::from_static(key.as_bytes()));
    let value = Some(Bytes::from_static(b"v"));
    Write { version, content: super::super::io::Content { key, value, expires: 0 } }
}

/// The number of a store that is one of the first few.
fn number(wanted: StoreId) -> u128 {
    (1..10).find(|number| store(*number) == wanted).unwrap()
}

#[test]
fn a_copy_that_cannot_read_a_record_gets_it_from_one_that_can() {
    let mut bench = Bench::serving(3, Settings::default());
    let id = bench.submit("k", Action::Get);
    let (damaged, read) = bench.last_read().unwrap();
    bench.step(Input::Read { id: read, answer: ReadAnswer::Damaged });
    let (other, read) = bench.last_read().unwrap();
    assert_ne!(other, damaged, "another copy is asked");
    let record = write("k", Version::new(Epoch(4), 9));
    bench.step(Input::Read { id: read, answer: ReadAnswer::Found(record.clone()) });
    assert!(matches!(bench.reply(id), Some(Reply::Value { .. })));
    assert!(orders(&bench, number(damaged)).contains(&Order::Restore(record)));
    assert!(!orders(&bench, number(other)).iter().any(|it| matches!(it, Order::Restore(_))));
}

#[test]
fn a_member_that_lost_its_copy_leaves_though_nothing_waits_for_it() {
    let mut bench = Bench::new(3, Settings { copies: 3, ..Settings::default() });
    for number in 1..=2 {
        bench.connect(number);
        bench.answer_fence(number, Version::ZERO, vec![]);
    }
    bench.connect_lost(3);
    bench.later(Duration::from_secs(1));
    let left = bench.proposals().pop().expect("it is removed");
    assert_eq!(left.members[..], [member(1), member(2)]);
    bench.step(Input::Configured(left.version));
    bench.step(Input::Target((1..=3).map(store).collect()));
    bench.later(Duration::from_secs(5));
    assert_eq!(bench.partition.wanted(), Some(store(3)), "it is to be filled anew");
}

#[test]
fn a_member_that_lost_its_copy_and_may_not_leave_is_filled_in_its_place() {
    let mut bench = Bench::new(2, Settings { copies: 2, floor: 2, ..Settings::default() });
    bench.connect(1);
    bench.answer_fence(1, Version::ZERO, vec![]);
    bench.connect_lost(2);
    bench.later(Duration::from_millis(600));
    assert_eq!(bench.proposals(), [], "one copy alone is below the floor");
    assert_eq!(bench.partition.wanted(), Some(store(2)));
    let to = bench.admit(2);
    bench.step(Input::Copied { store: to.store, token: to.token, complete: true });
    bench.step(Input::Finished { store: to.store, token: to.token });
    bench.answer_fence(2, Version::ZERO, vec![]);
    let next = bench.proposals().pop().expect("it is a member again");
    assert_eq!(next.members[..], [member(1), to]);
    bench.step(Input::Configured(next.version));
    assert!(bench.partition.status().writable);
}

impl Bench {
    /// A member connects and says that it does not hold the partition any more.
    fn connect_lost(&mut self, number: u128) {
        self.connect(number);
        let Some(Order::Fence(attempt)) = orders(self, number).pop() else { panic!("no fence") };
        let (doubt, watermark, records) = (Doubt::None, Version::ZERO, vec![]);
        let answer = told(attempt, false, doubt, watermark, records);
        self.step(Input::Fenced { store: store(number), token: member(number).token, answer });
    }

    /// A copy of this store is begun.
    fn admit(&mut self, number: u128) -> Member {
        self.step(Input::Admit(store(number)));
        let started = self.out.iter().rev().find_map(|output| match output {
            Output::Order { to, order: Order::Start { .. } } => Some(*to),
            _ => None,
        });
        started.expect("a copy is started")
    }
}

#[test]
fn a_member_whose_new_copy_failed_is_still_one_that_lost_its_copy() {
    let mut bench = Bench::new(3, Settings { copies: 3, floor: 2, ..Settings::default() });
    bench.connect(1);
    bench.answer_fence(1, Version::ZERO, vec![]);
    bench.connect_lost(2);
    bench.connect_lost(3);
    bench.later(Duration::from_millis(600));
    let failed = bench.admit(2);
    bench.step(Input::Copied { store: failed.store, token: failed.token, complete: false });
    assert_eq!(bench.partition.wanted(), Some(store(3)), "the other one need not wait");
    let filled = bench.admit(3);
    bench.step(Input::Copied { store: filled.store, token: filled.token, complete: true });
    bench.step(Input::Finished { store: filled.store, token: filled.token });
    bench.answer_fence(3, Version::ZERO, vec![]);
    let next = bench.proposals().pop().expect("enough serve without the one that failed");
    assert_eq!(next.members[..], [member(1), filled]);
    bench.step(Input::Configured(next.version));
    assert!(bench.partition.status().writable);
}

/// Three members, of which the third alone has a write that an earlier epoch left open.
fn with_a_write_on_the_third_alone() -> Bench {
    let mut bench = Bench::new(3, Settings { copies: 3, ..Settings::default() });
    for number in 1..=2 {
        bench.connect(number);
        bench.answer_fence(number, old(6), vec![]);
    }
    bench.connect(3);
    bench.answer_fence(3, old(6), vec![summary("k", old(7), 1)]);
    bench
}

#[test]
fn what_only_a_member_had_that_lost_it_is_waited_for_no_more() {
    let mut bench = with_a_write_on_the_third_alone();
    assert_eq!(bench.partition.status().unsettled, 1, "it may have been acknowledged");
    bench.event(3, StoreEvent::Disconnected);
    bench.connect_lost(3);
    assert_eq!(bench.partition.status().unsettled, 0, "the others would have it, too");
}

#[test]
fn what_only_a_removed_member_had_holds_up_no_watermark() {
    let mut bench = with_a_write_on_the_third_alone();
    bench.event(3, StoreEvent::Disconnected);
    bench.event(3, StoreEvent::Evicted);
    let left = bench.proposals().pop().expect("it is removed");
    assert_eq!(left.members[..], [member(1), member(2)]);
    bench.step(Input::Configured(left.version));
    assert_eq!(bench.partition.status().unsettled, 0);
    assert_eq!(bench.partition.watermark(), v(0), "with nothing more to come");
}

#[test]
fn what_a_copy_in_a_members_place_acknowledges_settles_nothing_before_it_is_that_member() {
    let mut bench = Bench::new(2, Settings { copies: 2, floor: 2, ..Settings::default() });
    bench.connect(1);
    bench.answer_fence(1, old(6), vec![summary("k", old(7), 1)]);
    bench.connect_lost(2);
    bench.later(Duration::from_millis(600));
    let read = bench.submit("k", Action::Get);
    bench.later(Duration::from_millis(1));
    let (_, fetch) = bench.last_read().expect("the value is fetched");
    bench.step(Input::Read { id: fetch, answer: found("k", "value", old(7)) });
    let Member { store, token } = bench.admit(2);
    bench.step(Input::Acknowledged { store, token, version: old(7) });
    assert_eq!(bench.reply(read), None, "were the first one lost, nobody could tell");
    bench.step(Input::Copied { store, token, complete: true });
    bench.step(Input::Finished { store, token });
    bench.answer_fence(2, Version::ZERO, vec![]);
    let next = bench.proposals().pop().expect("it is to be a member");
    assert_eq!(bench.reply(read), None, "that is not durable yet");
    bench.step(Input::Configured(next.version));
    let value = Bytes::from_static(b"value");
    assert_eq!(bench.reply(read), Some(&Reply::Value { version: old(7), value }));
}

#[test]
fn a_configuration_is_told_before_any_watermark_reached_under_it() {
    let mut bench = Bench::serving(3, Settings { copies: 3, ..Settings::default() });
    bench.set("k", "v");
    let version = Version::new(Epoch(5), 1);
    bench.acknowledge(1, version);
    bench.acknowledge(2, version);
    bench.event(3, StoreEvent::Disconnected);
    let next = bench.proposals().pop().expect("the third is removed");
    bench.out.clear();
    bench.step(Input::Configured(next.version));
    assert_eq!(bench.partition.watermark(), version);
    let told = |output: &Output| matches!(output, Output::Order { order: Order::Configuration(it), .. } if *it == next);
    let first = bench.out.iter().position(|output| !matches!(output, Output::Reply { .. }));
    assert!(told(&bench.out[first.unwrap()]), "{:?}", bench.out);
    assert_eq!(bench.out.iter().filter(|output| told(output)).count(), 2);
}

#[test]
fn no_configuration_follows_one_that_nobody_has_heard_of() {
    let mut bench = Bench::serving(3, Settings { copies: 3, floor: 1, ..Settings::default() });
    bench.set("k", "v");
    bench.acknowledge(1, Version::new(Epoch(5), 1));
    bench.acknowledge(2, Version::new(Epoch(5), 1));
    bench.event(3, StoreEvent::Disconnected);
    let first = bench.proposals().pop().unwrap();
    // Past the bench, which lets members hear at once.
    let configured = Input::Configured(first.version);
    bench.partition.step(bench.now, configured, &mut bench.out);
    bench.out.clear();
    bench.set("k", "w");
    bench.acknowledge(1, Version::new(Epoch(5), 2));
    bench.event(2, StoreEvent::Disconnected);
    bench.later(Duration::from_secs(1));
    assert_eq!(bench.proposals(), []);
    let Member { store, token } = member(1);
    bench.step(Input::Told { store, token, version: first.version });
    assert_eq!(bench.proposals().pop().unwrap().members[..], [member(1)]);
}

#[test]
fn a_change_keeps_one_of_the_members_it_follows() {
    let settings = Settings { copies: 1, floor: 1, ..Settings::default() };
    let mut bench = Bench::serving(1, settings);
    bench.connect(2);
    bench.step(Input::Target(SmallVec::from_iter([store(2)])));
    bench.step(Input::Admit(store(2)));
    let start = bench.out.iter().find_map(|output| match output {
        Output::Order { to, order: Order::Start { .. } } => Some(*to),
        _ => None,
    });
    let Member { store: to, token } = start.expect("a copy is started");
    bench.event(1, StoreEvent::Disconnected);
    bench.event(1, StoreEvent::Evicted);
    bench.step(Input::Copied { store: to, token, complete: true });
    bench.step(Input::Finished { store: to, token });
    bench.answer_fence(2, Version::ZERO, vec![]);
    let next = bench.proposals().pop().expect("the copy is proposed");
    assert_eq!(next.members.len(), 2, "{next:?}");
}

/// Three members of a configuration made anew; the third was removed before, which nobody knew.
fn rebuilt() -> Bench {
    let mut bench = Bench::new(3, Settings { copies: 3, ..Settings::default() });
    bench.partition = bench.partition.rebuilt();
    bench
}

#[test]
fn a_configuration_made_anew_serves_only_when_all_its_members_have_the_same() {
    let mut bench = rebuilt();
    let lost = Version::new(Epoch(4), 7);
    let summary = Summary { key_hash: INDEX_KEY.hash(b"k"), version: lost, checksum: 1 };
    let read = bench.submit("k", Action::Get);
    bench.connect(3);
    bench.answer_fence(3, Version::ZERO, vec![]);
    bench.later(Duration::from_secs(4));
    assert_eq!(bench.reply(read), None, "one that was removed knows nothing of what came since");
    for number in [1, 2] {
        bench.connect(number);
        bench.answer_fence(number, Version::ZERO, vec![summary]);
    }
    let (_, fetch) = bench.last_read().unwrap();
    bench.step(Input::Read { id: fetch, answer: ReadAnswer::Found(write("k", lost)) });
    assert_eq!(bench.writes_to(3), [lost], "it is rolled forward");
    assert_eq!((bench.proposals(), bench.reply(read)), (vec![], None));
    bench.acknowledge(3, lost);
    bench.later(Duration::from_millis(50));
    let confirmed = bench.proposals().pop().expect("the set is confirmed");
    assert_eq!(confirmed.members[..], [member(1), member(2), member(3)]);
    assert_eq!(bench.reply(read), None);
    bench.step(Input::Configured(confirmed.version));
    assert!(!bench.partition.is_unconfirmed());
    let (_, id) = bench.last_read().unwrap();
    bench.step(Input::Read { id, answer: ReadAnswer::Found(write("k", lost)) });
    assert!(matches!(bench.reply(read), Some(Reply::Value { version, .. }) if *version == lost));
}

#[test]
fn a_configuration_made_anew_loses_no_member_before_it_is_confirmed() {
    let mut bench = rebuilt();
    for number in [1, 3] {
        bench.connect(number);
        bench.answer_fence(number, Version::ZERO, vec![]);
    }
    bench.set("k", "v");
    bench.later(Duration::from_secs(30));
    assert_eq!(bench.proposals(), []);
    assert!(!bench.partition.status().serving);
}

/// The configuration that an operator's decision became.
fn forced(bench: &Bench) -> Option<Configuration> {
    bench.out.iter().rev().find_map(|output| match output {
        Output::Force(configuration) => Some(configuration.clone()),
        _ => None,
    })
}

#[test]
fn nothing_is_given_up_by_itself_and_nothing_while_a_member_answers() {
    let mut bench = Bench::serving(2, Settings { copies: 2, floor: 1, ..Settings::default() });
    bench.connect(3);
    bench.step(Input::Target((1..=3).map(store).collect()));
    bench.event(2, StoreEvent::Disconnected);
    bench.step(Input::Force(SmallVec::from_iter([store(3)])));
    assert_eq!(forced(&bench), None, "the first answers");
    for event in [StoreEvent::Disconnected, StoreEvent::Suspected, StoreEvent::Evicted] {
        bench.event(1, event);
        bench.event(2, event);
    }
    bench.later(Duration::from_hours(1));
    assert_eq!((forced(&bench), bench.proposals()), (None, vec![]));
}

#[test]
fn an_operator_lets_a_partition_go_on_with_what_a_store_has() {
    let mut bench = Bench::serving(1, Settings { copies: 2, floor: 1, ..Settings::default() });
    let (id, key) = (bench.partition.id(), INDEX_KEY.hash(b"k"));
    bench.cache.hold(id, key, Some(&Bytes::from_static(b"what is given up")));
    bench.connect(3);
    bench.event(1, StoreEvent::Disconnected);
    bench.step(Input::Force(SmallVec::from_iter([store(3)])));
    let decided = forced(&bench).expect("it is decided");
    assert_eq!(decided.members.len(), 1);
    let to = decided.members[0];
    assert!(to.store == store(3) && to.token > Token(1 << 16), "under a token of its own");
    bench.out.clear();
    let read = bench.submit("k", Action::Get);
    bench.step(Input::Configured(decided.version));
    assert_eq!(bench.cache.get(key), None, "it is nowhere else any more");
    assert!(!orders(&bench, 3).contains(&Order::Adopt), "it may hold the partition already");
    let Some(Order::Fence(attempt)) = orders(&bench, 3).pop() else { panic!("no fence") };
    let (doubt, watermark, records) = (Doubt::None, Version::ZERO, vec![]);
    let answer = told(attempt, false, doubt, watermark, records);
    bench.step(Input::Fenced { store: to.store, token: to.token, answer });
    assert!(orders(&bench, 3).contains(&Order::Adopt));
    assert!(!bench.partition.status().serving);
    bench.answer_fence(3, Version::ZERO, vec![]);
    let confirmed = bench.proposals().pop().expect("its answer is what counts from now on");
    assert_eq!(confirmed.members, decided.members);
    bench.step(Input::Configured(confirmed.version));
    let (_, id) = bench.last_read().expect("it serves");
    bench.step(Input::Read { id, answer: ReadAnswer::Absent });
    assert_eq!(bench.reply(read), Some(&Reply::NotFound { version: None }));
    // Who was given up and returns has no say.
    bench.connect(1);
    assert_eq!(bench.partition.configuration().members, decided.members);
}

#[test]
fn members_that_answer_go_on_with_what_they_hold() {
    let mut bench = rebuilt();
    for number in [1, 2] {
        bench.connect(number);
        bench.answer_fence(number, Version::ZERO, vec![]);
    }
    bench.step(Input::Force(SmallVec::from_iter([store(1), store(2)])));
    let decided = forced(&bench).unwrap();
    assert_eq!(decided.members[..], [member(1), member(2)]);
    bench.step(Input::Configured(decided.version));
    bench.later(Duration::from_millis(50));
    let confirmed = bench.proposals().pop().expect("both have answered");
    bench.step(Input::Configured(confirmed.version));
    assert!(bench.partition.status().writable);
}
