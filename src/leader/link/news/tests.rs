//! What shards hear of a store's replies.

use std::time::Duration;

use super::*;
use crate::protocol::record::Flags;
use crate::types::{Epoch, Version};

fn ledger(batches: &[(u64, &[Run])]) -> Ledger {
    let (tell, sent) = mpsc::unbounded_channel();
    let gauge = Arc::new(Gauge::default());
    for (number, runs) in batches {
        gauge.sent(Moment(1));
        let runs = runs.iter().copied().collect();
        tell.send(SentBatch {
            number: *number,
            bytes: 0,
            runs,
            at: Moment(1),
            stores: *number != 2,
            writes: true,
        })
        .unwrap();
    }
    Ledger::new(Lane::Small, 2, sent, gauge, DurationHistogram::default())
}

fn run(shard: usize, first: u64, last: u64) -> Run {
    Run { shard, first, last }
}

fn durable(number: u64) -> v1::ReplicateReply {
    v1::ReplicateReply { durable_through: number, ..<_>::default() }
}

fn hear(ledger: &mut Ledger, reply: v1::ReplicateReply) -> Vec<(usize, Heard)> {
    ledger.read(reply, Moment(2)).unwrap().collect()
}

#[test]
fn one_number_completes_the_pieces_of_every_shard() {
    let mut ledger =
        ledger(&[(1, &[run(0, 1, 2)]), (2, &[run(1, 1, 1), run(0, 3, 3)]), (3, &[run(0, 4, 9)])]);
    let heard = hear(&mut ledger, durable(2));
    let sequences: Vec<_> = heard.iter().map(|(shard, heard)| (*shard, heard.durable)).collect();
    assert_eq!(sequences, [(0, Some((Lane::Small, 3))), (1, Some((Lane::Small, 1)))]);
    assert_eq!(ledger.gauge.take_pace(), (1, Duration::from_micros(1)), "one stored something");
    assert!(hear(&mut ledger, durable(2)).is_empty(), "nothing new");
    assert_eq!(ledger.durations.count(), 2);
    assert!(ledger.read(durable(4), Moment(3)).is_err(), "batch 4 was never sent");
}

#[test]
fn a_refusal_names_the_pieces_it_was_sent_in() {
    let mut ledger = ledger(&[(1, &[run(0, 1, 1)]), (2, &[run(0, 2, 3), run(1, 1, 1)])]);
    let refusal = v1::Refusal { batch: 2, partition: 6, token: 7, reason: String::new() };
    let reply = v1::ReplicateReply { refusals: vec![refusal.clone()], ..durable(2) };
    let heard = hear(&mut ledger, reply);
    let (shard, first) = &heard[0];
    assert_eq!(*shard, 0);
    let refused = Refused {
        lane: Lane::Small,
        partition: PartitionId(6),
        token: Token(7),
        first: 2,
        last: 3,
    };
    assert_eq!(first.refused, [refused]);
    assert_eq!(first.durable, Some((Lane::Small, 3)));
    let late = v1::ReplicateReply { refusals: vec![refusal], ..<_>::default() };
    assert!(ledger.read(late, Moment(3)).is_err(), "it was acknowledged before");
}

#[test]
fn a_read_is_believed_only_with_a_valid_checksum() {
    let record = Record {
        kind: Kind::Put,
        flags: Flags::NONE,
        partition: PartitionId(1),
        version: Version::new(Epoch(1), 5),
        expires: 0,
        key: b"key",
        value: b"value",
    };
    let mut bytes = record.to_bytes().unwrap().to_vec();
    let answer = |record: &[u8]| v1::ReadAnswer {
        id: 3,
        partition: 1,
        status: v1::ReadStatus::Found.into(),
        record: Bytes::copy_from_slice(record),
    };
    let ReadAnswer::Found(write) = read_answer(&answer(&bytes)) else { panic!("not found") };
    assert_eq!(write.content.value.as_deref(), Some(&b"value"[..]));
    bytes[44] ^= 1;
    assert_eq!(read_answer(&answer(&bytes)), ReadAnswer::Damaged);
}
