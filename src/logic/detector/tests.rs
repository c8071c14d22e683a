//! The detector under the situations it was made for.

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
            self.now = self.now + ms(50);
            for store in healthy.iter().copied().map(id) {
                self.tell(Input::Acknowledged { store, outstanding: false });
            }
            self.tell(Input::Tick);
        }
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
