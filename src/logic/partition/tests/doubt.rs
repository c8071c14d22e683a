//! Members that may lack what they acknowledged.

use super::*;

/// The last order to compare a member: with whom, and as of when.
pub(super) fn comparison(bench: &Bench, number: u128) -> Option<(StoreId, Attempt, Point)> {
    bench.out.iter().rev().find_map(|output| match output {
        Output::Order { to, order: Order::Compare { attempt, source, point } } => {
            (to.store == store(number)).then(|| (*source, *attempt, point.clone()))
        }
        _ => None,
    })
}

impl Bench {
    pub(super) fn compared(&mut self, number: u128, attempt: Attempt, restored: u64) {
        let (store, token) = (store(number), member(number).token);
        self.step(Input::Compared { store, token, attempt, complete: true, restored });
    }

    pub(super) fn return_in(&mut self, number: u128, doubt: Doubt) {
        self.event(number, StoreEvent::Disconnected);
        self.connect(number);
        self.answer_doubting(number, doubt, Version::ZERO, vec![]);
    }

    pub(super) fn doubt_of(&self, number: u128) -> Doubt {
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
fn what_only_a_member_has_that_is_gone_does_not_keep_another_in_doubt() {
    let mut bench = Bench::new(2, Settings { copies: 2, floor: 2, ..Settings::default() });
    bench.connect(1);
    bench.answer_fence(1, old(6), vec![summary("k", old(7), 1)]);
    bench.event(1, StoreEvent::Disconnected);
    bench.connect(2);
    bench.answer_doubting(2, Doubt::Unclean, old(6), vec![]);
    bench.later(Duration::from_secs(1));
    assert_eq!(bench.doubt_of(2), Doubt::Unclean, "the other one may be back");
    bench.event(1, StoreEvent::Evicted);
    bench.later(Duration::from_secs(1));
    assert_eq!(bench.doubt_of(2), Doubt::None);
}
