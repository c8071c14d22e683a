//! The detector under the situations it was made for.

use proptest::prelude::*;

use super::*;

/// A detector with a clock: stores are numbers, events are text.
struct Watch {
    detector: Detector,
    now: Moment,
    said: Vec<String>,
}

fn id(number: u8) -> StoreId {
    StoreId::from_number(u128::from(number))
}

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

impl Watch {
    /// A detector of this many live stores.
    fn of(stores: u8) -> Self {
        let now = Moment::ZERO;
        let detector = Detector::new(DetectorSettings::default(), now);
        let mut watch = Self { detector, now, said: Vec::new() };
        for number in 1..=stores {
            watch.tell(Input::Expected(id(number)));
            watch.tell(Input::Connected(id(number)));
        }
        watch.said.clear();
        watch
    }

    fn tell(&mut self, input: Input) {
        for event in self.detector.step(self.now, input) {
            let at = self.now.since(Moment::ZERO).as_millis();
            let number = |store: StoreId| store.as_bytes()[15];
            self.said.push(match event {
                Event::Suspected { store, why } => {
                    format!("{at} suspect {} {why:?}", number(store))
                }
                Event::Recovered(store) => format!("{at} live {}", number(store)),
                Event::Evicted(store) => format!("{at} evict {}", number(store)),
                Event::Slow { store, .. } => format!("{at} slow {}", number(store)),
                Event::Fast(store) => format!("{at} fast {}", number(store)),
                Event::LeaderStalled(late) => format!("{at} stalled {late:?}"),
                Event::AllLate => format!("{at} all late"),
            });
        }
    }

    /// Lets time pass in ticks; these stores send heartbeats and acknowledge what they owe.
    fn run(&mut self, time: Duration, healthy: &[u8]) {
        let end = self.now + time;
        while self.now < end {
            self.tick(|_| true, healthy);
        }
    }

    /// Lets time pass in ticks while nothing becomes durable anywhere; these stores send heartbeats.
    fn stand_still(&mut self, time: Duration, heard: &[u8]) {
        let end = self.now + time;
        while self.now < end {
            self.tick(|_| false, heard);
        }
    }

    /// Lets a tick pass; of these stores that are heard, some acknowledge what they owe.
    fn tick(&mut self, acknowledges: impl Fn(u8) -> bool, heard: &[u8]) {
        self.now = self.now + ms(50);
        for number in heard.iter().copied() {
            let store = id(number);
            self.tell(if acknowledges(number) {
                Input::Acknowledged { store, outstanding: false }
            } else {
                Input::Heard(store)
            });
        }
        self.tell(Input::Tick);
    }

    fn said(&mut self) -> Vec<String> {
        std::mem::take(&mut self.said)
    }
}

#[test]
fn a_store_that_shows_itself_is_live_at_once() {
    let mut watch = Watch::of(0);
    watch.tell(Input::Expected(id(1)));
    assert_eq!(watch.detector.status(id(1)), Some(Status::Suspect));
    watch.tell(Input::Heard(id(1)));
    assert_eq!(watch.detector.status(id(1)), Some(Status::Suspect), "its link is not open yet");
    watch.tell(Input::Connected(id(1)));
    assert_eq!(watch.said(), ["0 live 1"]);
    assert_eq!(watch.detector.stores().collect::<Vec<_>>(), [(id(1), Status::Live)]);
}

#[test]
fn a_silent_store_is_suspect_after_a_second_and_evicted_after_ten() {
    let mut watch = Watch::of(3);
    watch.run(ms(12_000), &[1, 2]);
    assert_eq!(watch.said(), ["1000 suspect 3 Silent", "10000 evict 3"]);
    watch.tell(Input::Heard(id(3)));
    assert_eq!(watch.detector.status(id(3)), Some(Status::Evicted), "it must register first");
    watch.tell(Input::Expected(id(3)));
    watch.tell(Input::Connected(id(3)));
    assert_eq!(watch.said(), ["12000 live 3"]);
}

#[test]
fn a_reset_connection_counts_at_once() {
    let mut watch = Watch::of(3);
    watch.tell(Input::Disconnected(id(2)));
    watch.tell(Input::Disconnected(id(2)));
    watch.tell(Input::Heard(id(2)));
    assert_eq!(watch.said(), ["0 suspect 2 Disconnected"]);
    watch.tell(Input::Connected(id(2)));
    assert_eq!(watch.said(), ["0 live 2"]);
}

#[test]
fn a_store_that_sends_heartbeats_but_acknowledges_nothing_is_suspect() {
    let mut watch = Watch::of(3);
    watch.tell(Input::Sent(id(3)));
    for _ in 0..40 {
        watch.tell(Input::Heard(id(3)));
        watch.run(ms(50), &[1, 2]);
    }
    assert_eq!(watch.said(), ["1000 suspect 3 Late"]);
    watch.tell(Input::Acknowledged { store: id(3), outstanding: true });
    assert_eq!(watch.said(), ["2000 live 3"]);
}

#[test]
fn any_acknowledgement_starts_the_wait_anew() {
    let mut watch = Watch::of(2);
    watch.tell(Input::Sent(id(2)));
    for _ in 0..5 {
        watch.run(ms(900), &[1]);
        watch.tell(Input::Sent(id(2)));
        watch.tell(Input::Acknowledged { store: id(2), outstanding: true });
    }
    assert_eq!(watch.said(), Vec::<String>::new());
}

#[test]
fn a_stalled_leader_blames_nobody() {
    let mut watch = Watch::of(2);
    watch.tell(Input::Sent(id(1)));
    watch.now = watch.now + ms(3000);
    watch.tell(Input::Tick);
    watch.run(ms(900), &[]);
    assert_eq!(watch.said(), ["3000 stalled 2.95s"]);
    watch.run(ms(200), &[1]);
    assert_eq!(watch.said(), ["4000 suspect 2 Silent"], "a second of its own running time later");
}

#[test]
fn nobody_is_blamed_while_all_are_late() {
    let mut watch = Watch::of(3);
    watch.run(ms(15_000), &[]);
    assert_eq!(watch.said(), ["1000 all late"]);
    watch.run(ms(900), &[2]);
    assert_eq!(watch.said(), Vec::<String>::new(), "the others get their second again");
    watch.run(ms(300), &[2, 3]);
    assert_eq!(watch.said(), ["16050 suspect 1 Silent"]);
}

#[test]
fn nobody_is_late_while_nothing_moves() {
    let mut watch = Watch::of(5);
    watch.tell(Input::Sent(id(2)));
    watch.stand_still(ms(400), &[1, 2, 3, 4, 5]);
    watch.tell(Input::Sent(id(3)));
    watch.stand_still(ms(2_100), &[1, 2, 3, 4, 5]);
    assert_eq!(watch.said(), ["1000 all late"], "1, 4 and 5 owe nothing and say nothing");
    watch.tell(Input::Acknowledged { store: id(2), outstanding: false });
    watch.stand_still(ms(900), &[1, 2, 3, 4, 5]);
    assert_eq!(watch.said(), Vec::<String>::new(), "the other gets its second again");
    watch.stand_still(ms(900), &[1, 2, 3, 4, 5]);
    assert_eq!(watch.said(), ["3500 suspect 3 Late"]);
}

#[test]
fn stores_are_late_if_another_moves() {
    let mut watch = Watch::of(3);
    watch.tell(Input::Sent(id(2)));
    watch.tell(Input::Sent(id(3)));
    for _ in 0..10 {
        watch.run(ms(50), &[1]);
        watch.stand_still(ms(150), &[1, 2, 3]);
    }
    assert_eq!(watch.said(), ["1000 suspect 2 Late", "1000 suspect 3 Late"]);
}

#[test]
fn a_store_that_alone_owes_something_is_late() {
    let mut watch = Watch::of(3);
    watch.tell(Input::Sent(id(3)));
    watch.stand_still(ms(2_000), &[1, 2, 3]);
    assert_eq!(watch.said(), ["1000 suspect 3 Late"]);
}

#[test]
fn silence_is_not_excused() {
    let mut watch = Watch::of(4);
    for store in 1..=3 {
        watch.tell(Input::Sent(id(store)));
    }
    watch.stand_still(ms(100), &[1, 2, 3, 4]);
    watch.stand_still(ms(2_000), &[1, 2, 4]);
    assert_eq!(watch.said(), ["1000 all late", "1100 suspect 3 Silent"]);
}

proptest! {
    #[test]
    fn nothing_excuses_a_store_for_long(moving in prop::collection::vec(1u8..60, 80)) {
        let mut watch = Watch::of(5);
        watch.tell(Input::Sent(id(4)));
        watch.tell(Input::Sent(id(5)));
        for moving in moving {
            watch.tick(|store| store < 4 && store == moving, &[1, 2, 3, 4, 5]);
        }
        let suspect = |(_, status): &(StoreId, Status)| *status == Status::Suspect;
        let suspects: Vec<_> = watch.detector.stores().filter(suspect).collect();
        prop_assert_eq!(suspects, [(id(4), Status::Suspect), (id(5), Status::Suspect)]);
    }
}

#[test]
fn nobody_is_evicted_while_nobody_is_live() {
    let mut watch = Watch::of(2);
    watch.tell(Input::Disconnected(id(1)));
    watch.tell(Input::Disconnected(id(2)));
    watch.run(ms(60_000), &[]);
    watch.said();
    watch.tell(Input::Connected(id(1)));
    watch.run(ms(9_000), &[1]);
    assert_eq!(watch.said(), ["60000 live 1"]);
    watch.run(ms(2_000), &[1]);
    assert_eq!(watch.said(), ["70050 evict 2"]);
}

#[test]
fn a_leaving_store_is_shown_so_and_forgotten_when_it_has_gone() {
    let mut watch = Watch::of(2);
    watch.tell(Input::Leaving(id(1)));
    assert_eq!(watch.detector.status(id(1)), Some(Status::Leaving));
    watch.tell(Input::Disconnected(id(1)));
    assert_eq!(watch.said(), ["0 suspect 1 Disconnected"]);
    watch.tell(Input::Forgotten(id(1)));
    assert_eq!(watch.detector.status(id(1)), None);
    watch.run(ms(20_000), &[2]);
    assert_eq!(watch.said(), Vec::<String>::new());
}

#[test]
fn a_process_that_registers_again_has_no_connection() {
    let mut watch = Watch::of(2);
    watch.tell(Input::Expected(id(1)));
    assert_eq!(watch.detector.status(id(1)), Some(Status::Suspect));
    assert_eq!(watch.detector.silence(id(1), Moment::ZERO + ms(70)), Some(ms(70)));
    watch.tell(Input::Connected(id(1)));
    assert_eq!(watch.said(), ["0 suspect 1 Disconnected", "0 live 1"]);
}

#[test]
fn a_store_that_was_let_go_does_not_come_back_by_talking() {
    let mut watch = Watch::of(2);
    watch.tell(Input::Leaving(id(2)));
    watch.tell(Input::Left(id(2)));
    watch.tell(Input::Heard(id(2)));
    watch.run(ms(500), &[1, 2]);
    assert_eq!(watch.said(), ["0 suspect 2 Left"]);
    watch.tell(Input::Expected(id(2)));
    watch.tell(Input::Connected(id(2)));
    assert_eq!(watch.said(), ["500 live 2"]);
}

#[test]
fn a_store_far_slower_than_the_others_is_told_and_stays_live() {
    let mut watch = Watch::of(3);
    let mut seconds = |count: u32, third: u64| {
        for _ in 0..count {
            for (store, millis) in [(1, 2), (2, 3), (3, third)] {
                watch.tell(Input::Took { store: id(store), total: ms(millis), batches: 1 });
            }
            watch.run(ms(1_000), &[1, 2, 3]);
        }
        watch.said()
    };
    assert_eq!(seconds(40, 60), ["31000 slow 3"]);
    assert_eq!(seconds(20, 3), ["51000 fast 3"]);
}
