//! Members that fail, copies that take their places.

use super::*;

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
fn a_copy_is_filled_and_then_proposed_in_place_of_a_dead_member() {
    let mut bench = Bench::serving(2, Settings { copies: 2, ..Settings::default() });
    bench.event(2, StoreEvent::Disconnected);
    bench.event(2, StoreEvent::Evicted);
    bench.connect(3);
    bench.step(Input::Target(SmallVec::from_iter([store(1), store(3)])));
    assert_eq!(bench.partition.wanted(), Some(store(3)));
    bench.step(Input::Admit(store(3)));
    let start = bench.out.iter().find_map(|output| match output {
        Output::Order { to, order: Order::Start { source, .. } } => Some((*to, *source)),
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
fn a_store_that_fails_again_and_again_waits_longer_each_time_before_it_is_filled() {
    let mut bench = Bench::serving(2, Settings { copies: 3, ..Settings::default() });
    bench.connect(3);
    bench.step(Input::Target(SmallVec::from_iter([1, 2, 3].map(store))));
    let mut waits = Vec::new();
    for _ in 0..8 {
        bench.out.clear();
        bench.step(Input::Admit(store(3)));
        let start = bench.out.iter().find_map(|output| match output {
            Output::Order { to, order: Order::Start { .. } } => Some(*to),
            _ => None,
        });
        let Member { store, token } = start.expect("a copy is started");
        bench.step(Input::Copied { store, token, complete: false });
        let failed = bench.now;
        while bench.partition.wanted().is_none() {
            bench.later(Duration::from_millis(500));
        }
        waits.push(bench.now.since(failed).as_secs());
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
}
