//! When deleted keys are forgotten (rule 25).

use super::*;

/// A partition's turn comes once in this time.
const TURN: Duration = Duration::from_secs(11);

impl Bench {
    /// Deletes a key on members 1 to `members`.
    fn delete(&mut self, key: &'static str, version: Version, members: u128) {
        self.submit(key, Action::Delete);
        (1..=members).for_each(|number| self.acknowledge(number, version));
    }

    /// The floors that were ordered since this was last asked, and of whom.
    fn floors(&mut self) -> Vec<(StoreId, Version)> {
        let out = std::mem::take(&mut self.out);
        let floors = out.iter().filter_map(|output| match output {
            Output::Order { to, order: Order::GarbageFloor(floor) } => Some((to.store, *floor)),
            _ => None,
        });
        floors.collect()
    }

    fn turn(&mut self) -> Vec<(StoreId, Version)> {
        self.later(TURN);
        self.floors()
    }

    /// A member answers its fence with a floor and tombstones above it.
    fn answer_with(&mut self, number: u128, floor: Version, tombstones: u64) {
        let fence = self.out.iter().rev().find_map(|output| match output {
            Output::Order { to, order: Order::Fence(attempt) } if to.store == store(number) => {
                Some((to.token, *attempt))
            }
            _ => None,
        });
        let (token, attempt) = fence.expect("the member was fenced");
        let answer = told(attempt, true, Doubt::None, old(9), vec![]);
        let answer = FenceAnswer { floor, tombstones, ..answer };
        self.step(Input::Fenced { store: store(number), token, answer });
    }
}

fn three() -> Bench {
    Bench::serving(3, Settings { copies: 3, ..Settings::default() })
}

fn everybody(floor: Version) -> Vec<(StoreId, Version)> {
    [1, 2, 3].map(|number| (store(number), floor)).to_vec()
}

#[test]
fn a_settled_delete_is_forgotten_everywhere_and_only_once() {
    let mut bench = three();
    bench.set("k", "value");
    (1..=3).for_each(|number| bench.acknowledge(number, v(1)));
    assert_eq!(bench.turn(), [], "nothing was deleted");
    bench.delete("k", v(2), 3);
    assert_eq!(bench.turn(), everybody(v(2)));
    assert_eq!(bench.turn(), [], "and that was all");
}

#[test]
fn the_floor_stays_below_what_is_not_settled() {
    let mut bench = three();
    bench.delete("a", v(1), 3);
    bench.delete("b", v(2), 2);
    bench.delete("c", v(3), 3);
    assert_eq!(bench.turn(), everybody(v(1)), "one member may lack the delete of b");
    bench.acknowledge(3, v(2));
    assert_eq!(bench.turn(), everybody(v(3)));
}

#[test]
fn nothing_is_forgotten_while_a_copy_is_filled_and_the_copy_begins_at_the_floor() {
    let mut bench = three();
    bench.delete("a", v(1), 3);
    assert_eq!(bench.turn(), everybody(v(1)));
    bench.step(Input::Copies { wanted: 4, floor: 2 });
    bench.step(Input::Target([1, 2, 3, 4].map(store).into_iter().collect()));
    bench.connect(4);
    bench.step(Input::Admit(store(4)));
    let start = bench.out.iter().find_map(|output| match output {
        Output::Order { to, order: Order::Start { floor, .. } } => Some((to.token, *floor)),
        _ => None,
    });
    let (token, floor) = start.expect("a copy is begun");
    assert_eq!(floor, v(1));
    bench.delete("b", v(2), 3);
    assert_eq!(bench.turn(), [], "the copy's source may have been read before b was deleted");
    bench.step(Input::Copied { store: store(4), token, complete: false });
    bench.floors();
    assert_eq!(bench.turn(), everybody(v(2)), "it is not filled any more");
}

/// Where members have forgotten a floor, a store that knows it still has dropped what they have.
#[test]
fn a_copy_begins_at_the_floor_of_any_copy_before_it() {
    let mut bench = three();
    bench.step(Input::Copies { wanted: 5, floor: 2 });
    bench.step(Input::Target((1..=5).map(store).collect()));
    let mut floors = Vec::new();
    for (number, known) in [(4, old(8)), (5, v(0))] {
        bench.connect(number);
        bench.out.clear();
        bench.step(Input::Admit(store(number)));
        let start = bench.out.iter().find_map(|output| match output {
            Output::Order { to, order: Order::Start { floor, .. } } => Some((*to, *floor)),
            _ => None,
        });
        let (Member { store, token }, floor) = start.expect("a copy is begun");
        floors.push(floor);
        bench.step(Input::Copied { store, token, complete: true });
        bench.step(Input::Finished { store, token });
        bench.answer_with(number, known, 0);
        let next = bench.proposals().pop().expect("it is to be a member");
        bench.step(Input::Configured(next.version));
    }
    assert_eq!(floors, [Version::ZERO, old(8)]);
}

#[test]
fn nothing_is_forgotten_while_a_member_is_away_or_in_doubt() {
    let mut bench = three();
    bench.delete("a", v(1), 3);
    bench.event(3, StoreEvent::Disconnected);
    assert_eq!(bench.turn(), []);
    bench.connect(3);
    bench.answer_doubting(3, Doubt::Unclean, v(0), vec![]);
    bench.acknowledge(3, v(1));
    assert_eq!(bench.turn(), [], "it may have lost the delete");
    bench.connect(3);
    bench.answer_fence(3, v(1), vec![]);
    bench.floors();
    assert_eq!(bench.turn(), everybody(v(1)));
}

#[test]
fn nothing_is_forgotten_while_the_set_is_about_to_change() {
    let mut bench = three();
    bench.event(3, StoreEvent::Disconnected);
    bench.submit("a", Action::Delete);
    (1..=2).for_each(|number| bench.acknowledge(number, v(1)));
    bench.later(TURN);
    let proposal = bench.proposals().pop().expect("a removal");
    assert_eq!(bench.turn(), []);
    bench.step(Input::Configured(proposal.version));
    bench.floors();
    let two = [1, 2].map(|number| (store(number), v(1)));
    assert_eq!(bench.turn(), two, "who was removed has no say when it returns");
}

#[test]
fn a_member_that_missed_a_floor_is_told_again() {
    let mut bench = three();
    bench.delete("a", v(1), 3);
    assert_eq!(bench.turn(), everybody(v(1)));
    bench.event(3, StoreEvent::Disconnected);
    bench.connect(3);
    bench.answer_fence(3, v(1), vec![]);
    bench.floors();
    assert_eq!(bench.turn(), [(store(3), v(1))]);
}

#[test]
fn a_new_leader_learns_of_floors_and_tombstones_from_the_members() {
    let mut bench = Bench::new(3, Settings { copies: 3, ..Settings::default() });
    for (number, floor, tombstones) in [(1, old(4), 1), (2, old(7), 0), (3, old(4), 1)] {
        bench.connect(number);
        bench.answer_with(number, floor, tombstones);
    }
    bench.floors();
    assert_eq!(bench.turn(), everybody(v(0)), "everything of earlier epochs is settled");
}

#[test]
fn what_is_at_or_below_a_floor_is_settled_whoever_reports_it() {
    let mut bench = Bench::new(2, Settings { copies: 2, ..Settings::default() });
    bench.connect(1);
    bench.answer_fence(1, Version::ZERO, vec![summary("k", old(3), 1)]);
    bench.connect(2);
    bench.answer_with(2, old(9), 0);
    assert_eq!(bench.partition.status().unsettled, 0);
    assert_eq!(bench.partition.watermark(), v(0));
}

#[test]
fn partitions_take_turns() {
    let turn = |id: u16| {
        let configuration = Configuration {
            version: ConfigurationVersion(3),
            members: [member(1)].into_iter().collect(),
        };
        let settings = Settings { copies: 1, floor: 1, ..Settings::default() };
        let cache = Cache::new(0);
        let (id, epoch) = (PartitionId(id), Epoch(5));
        let partition =
            Partition::new(id, epoch, configuration, settings, Moment::ZERO, cache.clone());
        let mut bench = Bench { partition, now: Moment::ZERO, out: Vec::new(), next: 0, cache };
        bench.connect(1);
        bench.answer_fence(1, Version::ZERO, vec![]);
        bench.delete("k", v(1), 1);
        (1..=220).find(|_| {
            bench.later(Duration::from_millis(50));
            !bench.floors().is_empty()
        })
    };
    let turns: Vec<_> = [0, 256, 512, 1023].map(turn).into_iter().flatten().collect();
    assert_eq!(turns, [1, 50, 100, 200]);
}
