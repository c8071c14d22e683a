//! The rules of admission, each beside the shortcut that loses data.

use super::*;
use crate::types::Member;

const STORE: StoreId = StoreId::from_number(1);
const OTHER: StoreId = StoreId::from_number(2);
const P: PartitionId = PartitionId(3);
const E: Epoch = Epoch(5);
const OLD: Token = Token(10);
const NEW: Token = Token(11);

fn replica(held: Held) -> Replica {
    let count = PartitionCount::new(8).unwrap();
    Replica::new(STORE, count, E, Doubt::None, |id| if id == P { held } else { Held::default() })
}

fn member() -> Held {
    Held {
        token: Some(OLD),
        records: true,
        configuration: ConfigurationVersion(4),
        named: Some(OLD),
        ..Held::default()
    }
}

fn shadow() -> Held {
    Held { shadow: true, ..member() }
}

fn order(replica: &mut Replica, token: Token, order: Order) -> Result<Admission, Refusal> {
    replica.order(Moment::ZERO, E, P, token, order)
}

fn configuration(version: u64, members: &[(StoreId, Token)]) -> Configuration {
    let members = members.iter().map(|(store, token)| Member { store: *store, token: *token });
    Configuration { version: ConfigurationVersion(version), members: members.collect() }
}

#[test]
fn a_lower_epoch_is_refused_and_a_higher_one_is_promised_first() {
    let mut replica = replica(member());
    let refused = replica.open(Epoch(4), None);
    assert_eq!(refused, Err(Refusal::Epoch { offered: Epoch(4), promised: E }));
    assert_eq!(replica.open(E, None), Ok(None), "the same leader comes back");
    assert_eq!(replica.open(Epoch(6), None), Ok(Some(Change::Promise(Epoch(6)))));
    assert_eq!(replica.promised(), Epoch(6));
}

#[test]
fn an_epoch_is_promised_to_one_start_of_one_leader() {
    let mut replica = replica(member());
    let [one, other] = [1, 2].map(|number| Some(BootId::from_number(number)));
    // To whom it was promised before the store was opened is not known.
    assert_eq!(replica.open(E, one), Ok(None));
    assert_eq!(replica.open(E, one), Ok(None), "a second stream of the same leader");
    assert_eq!(replica.open(E, other), Err(Refusal::Leader(E)));
    assert_eq!(replica.open(Epoch(6), other), Ok(Some(Change::Promise(Epoch(6)))));
    assert_eq!(replica.open(Epoch(6), one), Err(Refusal::Leader(Epoch(6))));
}

#[test]
fn what_the_earlier_leader_had_under_way_lands_nowhere() {
    let mut replica = replica(member());
    assert_eq!(replica.admit_section(E, P, OLD), Ok(()));
    replica.open(Epoch(6), None).unwrap();
    let late = Refusal::Epoch { offered: E, promised: Epoch(6) };
    assert_eq!(replica.admit_section(E, P, OLD), Err(late));
    assert_eq!(replica.admit_install(E, P, OLD), Err(late));
    for order in [Order::Begin, Order::Fence, Order::Start, Order::Finish] {
        assert_eq!(replica.order(Moment::ZERO, E, P, NEW, order), Err(late));
    }
    assert_eq!(replica.admit_section(Epoch(6), P, OLD), Ok(()));
}

#[test]
fn a_write_for_another_membership_is_refused() {
    let replica = replica(member());
    assert_eq!(replica.admit_section(E, P, NEW), Err(Refusal::Token));
    assert_eq!(replica.admit_section(E, PartitionId(0), Token(0)), Err(Refusal::Token));
    let beyond = PartitionId(8);
    assert_eq!(replica.admit_section(E, beyond, OLD), Err(Refusal::Partition(beyond)));
}

#[test]
fn only_a_whole_copy_that_nobody_doubts_forgets_deletes() {
    let floor = Order::GarbageFloor(Version::new(E, 7));
    let change = Change::GarbageFloor(Version::new(E, 7));
    assert_eq!(order(&mut replica(member()), OLD, floor.clone()), Ok(Admission::Change(change)));
    assert_eq!(order(&mut replica(member()), NEW, floor.clone()), Err(Refusal::Incomplete));
    assert_eq!(order(&mut replica(shadow()), OLD, floor.clone()), Err(Refusal::Incomplete));
    let count = PartitionCount::new(8).unwrap();
    let mut doubted = Replica::new(STORE, count, E, Doubt::Unclean, |_| member());
    assert_eq!(order(&mut doubted, OLD, floor.clone()), Err(Refusal::InDoubt));
    order(&mut doubted, OLD, Order::Trust).unwrap();
    assert!(order(&mut doubted, OLD, floor).is_ok());
}

#[test]
fn a_partition_begins_only_where_nothing_is() {
    let begun = Ok(Admission::Change(Change::Begin(NEW)));
    let mut fresh = replica(Held::default());
    assert_eq!(order(&mut fresh, NEW, Order::Begin), begun);
    assert_eq!(order(&mut fresh, NEW, Order::Begin), Ok(Admission::Nothing), "said twice");
    assert_eq!(order(&mut fresh, OLD, Order::Begin), Err(Refusal::Occupied));
    let leftover = Held { records: true, ..Held::default() };
    for held in [member(), shadow(), leftover] {
        assert_eq!(order(&mut replica(held), NEW, Order::Begin), Err(Refusal::Occupied));
    }
}

#[test]
fn a_started_copy_has_no_authority_until_it_is_finished() {
    let mut replica = replica(member());
    assert_eq!(replica.served(P), Some(OLD));
    let started = Admission::Copy(Some(Change::Start(NEW)));
    assert_eq!(order(&mut replica, NEW, Order::Start), Ok(started));
    assert_eq!(replica.served(P), None);
    let fenced = order(&mut replica, NEW, Order::Fence);
    assert_eq!(fenced, Ok(Admission::Answer { member: false }));
    assert_eq!(replica.admit_section(E, P, OLD), Err(Refusal::Token), "the old membership is over");
    assert_eq!(replica.admit_section(E, P, NEW), Ok(()), "it receives live writes");
    assert_eq!(replica.admit_install(E, P, NEW), Ok(()));
    let finished = Admission::Change(Change::Finish(NEW));
    assert_eq!(order(&mut replica, NEW, Order::Finish), Ok(finished));
    assert_eq!(replica.served(P), Some(NEW));
}

#[test]
fn a_copy_that_goes_on_keeps_what_it_acknowledged() {
    let mut replica = replica(shadow());
    assert_eq!(order(&mut replica, OLD, Order::Start), Ok(Admission::Copy(None)));
    order(&mut replica, OLD, Order::Finish).unwrap();
    assert_eq!(order(&mut replica, OLD, Order::Start), Err(Refusal::UsedToken));
}

#[test]
fn copied_records_are_taken_only_while_the_copy_is_open() {
    let mut replica = replica(shadow());
    assert_eq!(replica.admit_install(E, P, NEW), Err(Refusal::NoCopy));
    assert_eq!(replica.admit_install(E, P, OLD), Ok(()));
    order(&mut replica, OLD, Order::Finish).unwrap();
    assert_eq!(replica.admit_install(E, P, OLD), Err(Refusal::NoCopy), "after the end");
    assert_eq!(order(&mut replica, OLD, Order::Finish), Ok(Admission::Nothing), "said twice");
    assert_eq!(order(&mut replica, NEW, Order::Finish), Err(Refusal::NoCopy));
}

#[test]
fn a_fence_tells_whether_the_copy_counts() {
    let answer = |member| Ok(Admission::Answer { member });
    assert_eq!(order(&mut replica(member()), OLD, Order::Fence), answer(true));
    assert_eq!(order(&mut replica(member()), NEW, Order::Fence), answer(false));
    assert_eq!(order(&mut replica(shadow()), OLD, Order::Fence), answer(false));
}

#[test]
fn data_goes_only_by_a_newer_configuration_and_only_after_a_while() {
    let mut replica = replica(member());
    let known = ConfigurationVersion(4);
    let by = |version| Order::Remove(ConfigurationVersion(version));
    assert_eq!(order(&mut replica, OLD, by(3)), Err(Refusal::Superseded(known)));
    assert_eq!(order(&mut replica, OLD, by(4)), Err(Refusal::Named(known)));
    assert_eq!(order(&mut replica, NEW, by(5)), Err(Refusal::Token));
    assert_eq!(order(&mut replica, OLD, by(5)), Ok(Admission::Nothing));
    assert_eq!(replica.served(P), None, "kept aside is not held");
    assert_eq!(replica.admit_section(E, P, OLD), Err(Refusal::Token));

    let early = Moment(Moment::ZERO.0 + u64::try_from(REMOVAL_DELAY.as_micros()).unwrap() - 1);
    assert_eq!(replica.tick(early), []);
    let later = replica.order(early, E, P, OLD, by(6));
    assert_eq!(later, Ok(Admission::Nothing), "a second order does not put it off");
    let due = Moment::ZERO + REMOVAL_DELAY;
    assert_eq!(replica.tick(due), [(P, Change::Remove(ConfigurationVersion(5)))]);
    assert_eq!(replica.tick(due), [], "once");
    assert_eq!(order(&mut replica, OLD, by(6)), Ok(Admission::Nothing), "already gone");
}

#[test]
fn a_leader_that_names_no_token_removes_what_no_configuration_names() {
    let any = Token::default();
    let by = |version| Order::Remove(ConfigurationVersion(version));
    let mut replica = replica(member());
    let known = ConfigurationVersion(4);
    assert_eq!(order(&mut replica, any, by(3)), Err(Refusal::Superseded(known)));
    assert_eq!(order(&mut replica, any, by(4)), Err(Refusal::Named(known)));
    assert_eq!(replica.served(P), Some(OLD));
    assert_eq!(order(&mut replica, any, by(5)), Ok(Admission::Nothing));
    assert_eq!(replica.served(P), None);
}

#[test]
fn a_copy_that_starts_in_time_keeps_the_data() {
    let mut replica = replica(member());
    order(&mut replica, OLD, Order::Remove(ConfigurationVersion(5))).unwrap();
    assert_eq!(order(&mut replica, NEW, Order::Begin), Err(Refusal::Occupied));
    assert_eq!(order(&mut replica, OLD, Order::Start), Err(Refusal::UsedToken));
    order(&mut replica, NEW, Order::Start).unwrap();
    assert_eq!(replica.tick(Moment::ZERO + REMOVAL_DELAY), []);
}

#[test]
fn configurations_never_go_back() {
    let mut replica = replica(member());
    let older = configuration(3, &[(OTHER, OLD)]);
    let newer = configuration(6, &[(STORE, OLD), (OTHER, NEW)]);
    let refused = Err(Refusal::Superseded(ConfigurationVersion(4)));
    assert_eq!(order(&mut replica, OLD, Order::Configuration(older)), refused);
    let change = Admission::Change(Change::Configuration(newer.clone()));
    assert_eq!(order(&mut replica, OLD, Order::Configuration(newer.clone())), Ok(change));
    let again = order(&mut replica, OLD, Order::Configuration(newer));
    assert_eq!(again, Ok(Admission::Nothing));
    let by = Order::Remove(ConfigurationVersion(6));
    let refused = Err(Refusal::Named(ConfigurationVersion(6)));
    assert_eq!(order(&mut replica, OLD, by), refused, "this configuration names the store");
}

#[test]
fn a_store_in_doubt_says_so_until_every_copy_was_compared_or_begun_anew() {
    let count = PartitionCount::new(8).unwrap();
    let both = [P, PartitionId(4)];
    let held = |id| if both.contains(&id) { member() } else { Held::default() };
    let mut replica = Replica::new(STORE, count, E, Doubt::Lost, held);
    assert_eq!(both.map(|id| replica.doubt(id)), [Doubt::Lost; 2]);
    assert_eq!(replica.doubt(PartitionId(0)), Doubt::None, "nothing is held there");
    let fenced = order(&mut replica, OLD, Order::Fence);
    assert_eq!(fenced, Ok(Admission::Answer { member: true }), "whoever asks is told the doubt");
    assert_eq!(order(&mut replica, OLD, Order::Compare), Ok(Admission::Compare));
    for asked in [Order::Compare, Order::Trust] {
        assert_eq!(order(&mut replica, NEW, asked), Err(Refusal::Token));
    }
    assert_eq!(order(&mut replica, OLD, Order::Trust), Ok(Admission::Nothing));
    assert_eq!(replica.doubt(P), Doubt::None);
    assert!(replica.is_in_doubt(), "of the other one");
    replica.order(Moment::ZERO, E, both[1], NEW, Order::Start).unwrap();
    assert!(!replica.is_in_doubt());
}

#[test]
fn whatever_is_there_becomes_a_copy_only_by_the_order_to_adopt_it() {
    for held in [shadow(), Held { records: true, ..Held::default() }, Held::default(), member()] {
        let mut replica = replica(held);
        let adopted = order(&mut replica, NEW, Order::Adopt);
        assert_eq!(adopted, Ok(Admission::Change(Change::Adopt(NEW))));
        assert_eq!(replica.served(P), Some(NEW));
        assert_eq!(order(&mut replica, NEW, Order::Adopt), Ok(Admission::Nothing));
    }
    let count = PartitionCount::new(8).unwrap();
    let mut in_doubt = Replica::new(STORE, count, E, Doubt::Lost, |_| member());
    assert!(order(&mut in_doubt, NEW, Order::Adopt).is_ok());
    assert_eq!((in_doubt.served(P), in_doubt.doubt(P)), (Some(NEW), Doubt::None));
}

#[test]
fn where_something_was_lost_a_partition_is_filled_and_never_begins() {
    let doubted = Held { doubted: true, ..Held::default() };
    let mut replica = replica(doubted);
    assert_eq!(order(&mut replica, NEW, Order::Begin), Err(Refusal::Occupied));
    assert_eq!(order(&mut replica, NEW, Order::Fence), Ok(Admission::Answer { member: false }));
    let filled = order(&mut replica, NEW, Order::Start);
    assert_eq!(filled, Ok(Admission::Copy(Some(Change::Start(NEW)))));
}
