//! What leaves an outbox, and what its acknowledgements mean.

use super::*;
use crate::leader::link::piece::Queues;
use crate::types::Epoch;

struct Fixture {
    outbox: Outbox,
    queues: Queues,
}

fn fixture() -> Fixture {
    let (sender, queues) = LinkSender::new();
    Fixture { outbox: Outbox::new(0, Session(1), sender, "there:1".into()), queues }
}

fn version(seq: u64) -> Version {
    Version::new(Epoch(1), seq)
}

fn write(outbox: &mut Outbox, partition: u16, token: u64, seq: u64) {
    outbox.write(PartitionId(partition), Token(token), version(seq - 1), version(seq), &[0; 40]);
}

fn durable(outbox: &mut Outbox, lane: Lane, through: u64) -> Vec<(u16, What)> {
    let mut told = Vec::new();
    outbox.durable(lane, through, |sent| told.push((sent.partition.0, sent.what)));
    told
}

#[test]
fn consecutive_writes_of_one_partition_share_a_section() {
    let mut fixture = fixture();
    for (partition, token, seq) in [(1, 7, 1), (1, 7, 2), (2, 7, 1), (1, 7, 3), (1, 8, 4)] {
        write(&mut fixture.outbox, partition, token, seq);
    }
    fixture.outbox.flush();
    let piece = fixture.queues.small.try_recv().unwrap();
    let sections: Vec<_> = piece
        .sections
        .iter()
        .map(|section| (section.partition, section.token, section.records, section.watermark_seq))
        .collect();
    assert_eq!(sections, [(1, 7, 2, 1), (2, 7, 1, 0), (1, 7, 1, 2), (1, 8, 1, 3)]);
    assert_eq!(piece.records.len(), 5 * 40);
    fixture.outbox.flush();
    assert!(fixture.queues.small.try_recv().is_err(), "nothing is sent twice");
}

#[test]
fn one_number_acknowledges_all_writes_before_it() {
    let mut fixture = fixture();
    let outbox = &mut fixture.outbox;
    write(outbox, 1, 7, 1);
    write(outbox, 2, 7, 1);
    outbox.flush();
    write(outbox, 1, 7, 2);
    outbox.order(PartitionId(3), Token(9), v1::order::Order::Finish(v1::Finish {}));
    outbox.flush();
    assert_eq!(durable(outbox, Lane::Large, 9), []);
    let first = [(1, What::Write(version(1))), (2, What::Write(version(1)))];
    assert_eq!(durable(outbox, Lane::Small, 1), first);
    assert_eq!(durable(outbox, Lane::Small, 1), []);
    assert_eq!(durable(outbox, Lane::Small, 2), [(1, What::Write(version(2))), (3, What::Finish)]);
}

#[test]
fn what_was_refused_is_not_acknowledged() {
    let mut fixture = fixture();
    let outbox = &mut fixture.outbox;
    for seq in 1..=3 {
        write(outbox, 1, 7, seq);
        write(outbox, 2, 7, seq);
        outbox.flush();
    }
    let (lane, partition, token) = (Lane::Small, PartitionId(1), Token(7));
    outbox.refuse(&Refused { lane, partition, token, first: 2, last: 2 });
    let told = durable(outbox, Lane::Small, 3);
    let of_first: Vec<_> = told.iter().filter(|(partition, _)| *partition == 1).collect();
    assert_eq!(of_first, [&(1, What::Write(version(1))), &(1, What::Write(version(3)))]);
    assert_eq!(told.len(), 5);
}

#[test]
fn a_large_write_does_not_overtake_the_order_that_opens_its_copy() {
    let mut fixture = fixture();
    let outbox = &mut fixture.outbox;
    let large = |outbox: &mut Outbox, seq| {
        let record = vec![0; 100 << 10].into();
        outbox.write_large(PartitionId(1), Token(7), version(0), version(seq), record);
    };
    large(outbox, 1);
    assert!(fixture.queues.large.try_recv().is_ok(), "nothing stands in its way");
    outbox.order(PartitionId(1), Token(7), v1::order::Order::Start(v1::Start::default()));
    large(outbox, 2);
    outbox.flush();
    assert!(fixture.queues.large.try_recv().is_err());
    durable(outbox, Lane::Small, 1);
    assert_eq!(fixture.queues.large.try_recv().unwrap().sequence, 2);
    let told = [(1, What::Write(version(1))), (1, What::Write(version(2)))];
    assert_eq!(durable(outbox, Lane::Large, 2), told);
}

#[test]
fn a_long_turn_leaves_in_several_pieces() {
    let mut fixture = fixture();
    let record = [0; 40];
    for seq in 1..=u64::try_from(2 * PIECE_BYTES / record.len()).unwrap() {
        write(&mut fixture.outbox, 1, 7, seq);
    }
    assert_eq!(fixture.queues.small.try_recv().unwrap().sequence, 1);
    fixture.outbox.flush();
    assert_eq!(fixture.queues.small.try_recv().unwrap().sequence, 2);
}
