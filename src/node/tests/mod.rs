//! The node as its leader sees it, over real connections.

mod harness;
mod tombstones;

use std::sync::atomic::Ordering::SeqCst;

use self::harness::*;
use crate::rpc::v1;
use crate::rpc::v1::order::Order;
use crate::rpc::v1::register_reply::Outcome;
use crate::types::{Token, Version};

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_restart() {
    let (dir, leader, node) = one_node().await;
    let mut link = node.link(4).await;
    link.begin(T).await;
    let records = [put(version(4, 1), "a", "1"), put(version(4, 2), "b", "2")];
    assert_eq!(link.durable(batch(T, Version::ZERO, &records)).await, []);
    assert_eq!(link.value(T, "a").await.as_deref(), Some("1"));
    assert_eq!(link.value(T, "c").await, None);
    node.stop().await;

    let node = TestNode::start(dir.path(), &leader).await;
    let registrations = leader.told.registrations.lock().clone();
    assert_eq!(registrations[0].store_id, registrations[1].store_id, "the same store");
    assert_ne!(registrations[0].boot_id, registrations[1].boot_id);
    assert_eq!(registrations[0].cluster_id.len(), 0, "it was fresh");
    assert_eq!(registrations[1].cluster_id.as_ref(), CLUSTER.as_bytes());
    assert_eq!(registrations[1].tail(), v1::TailState::Clean);
    let mut link = node.link(4).await;
    assert_eq!(link.value(T, "b").await.as_deref(), Some("2"));
    node.stop().await;
}

#[tokio::test]
async fn a_leader_of_an_earlier_epoch_is_refused_even_after_a_restart() {
    let (dir, leader, node) = one_node().await;
    node.link(7).await;
    let refused = node.try_link(node.open_message(6)).await.err().unwrap();
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
    node.stop().await;
    let node = TestNode::start(dir.path(), &leader).await;
    assert!(node.try_link(node.open_message(6)).await.is_err());
    node.link(7).await;
    node.stop().await;
}

#[tokio::test]
async fn a_later_stream_ends_the_one_before() {
    let (_dir, _leader, node) = one_node().await;
    let mut earlier = node.link(1).await;
    earlier.begin(T).await;
    let mut later = node.link(2).await;
    assert_eq!(earlier.end().await.code(), tonic::Code::Aborted);
    let late = batch(T, Version::ZERO, &[put(version(1, 1), "k", "late")]);
    let late = v1::replicate_request::Kind::Batch(v1::Batch { number: 2, ..late });
    let _ = earlier.messages.send(v1::ReplicateRequest { kind: Some(late) }).await;
    assert_eq!(later.durable(batch(T, Version::ZERO, &[put(version(2, 1), "l", "")])).await, []);
    assert_eq!(later.value(T, "k").await, None);
    node.stop().await;
}

#[tokio::test]
async fn others_than_the_stores_own_leader_are_refused() {
    let (_dir, _leader, node) = one_node().await;
    let good = node.open_message(1);
    let other = bytes::Bytes::from_static(&[1; 16]);
    for bad in [
        v1::Open { cluster_id: other.clone(), ..good.clone() },
        v1::Open { store_id: other.clone(), ..good.clone() },
        v1::Open { boot_id: other, ..good.clone() },
    ] {
        let refused = node.try_link(bad).await.err().unwrap();
        assert_eq!(refused.code(), tonic::Code::FailedPrecondition, "{refused}");
    }
    let short = v1::Open { store_id: bytes::Bytes::new(), ..good };
    assert_eq!(node.try_link(short).await.err().unwrap().code(), tonic::Code::InvalidArgument);
    node.stop().await;
}

#[tokio::test]
async fn another_membership_is_neither_written_nor_read() {
    let (_dir, _leader, node) = one_node().await;
    let mut link = node.member().await;
    let wrong = Token(T.0 + 1);
    let refused = link.durable(batch(wrong, Version::ZERO, &[put(version(1, 1), "k", "v")])).await;
    assert_eq!(refused.len(), 1);
    assert_eq!((refused[0].batch, refused[0].token), (link.number, wrong.0));
    assert_eq!(link.value(T, "k").await, None);
    assert_eq!(link.read(wrong, "k").await.0, v1::ReadStatus::Refused);
    node.stop().await;
}

#[tokio::test]
async fn of_a_batch_only_what_is_refused_is_left_out() {
    let (_dir, _leader, node) = one_node().await;
    let mut link = node.member().await;
    let section = |token, records| v1::Section::new(P, token, Version::ZERO, records);
    let keys = ["a", "b", "c", "d", "e"];
    let records: Vec<_> =
        (1..).zip(keys).map(|(seq, key)| put(version(1, seq), key, key)).collect();
    let sections = vec![section(T, 1), section(Token(99), 2), section(T, 1), section(T, 1)];
    let refused = link.durable(v1::Batch { sections, ..batch(T, Version::ZERO, &records) }).await;
    assert_eq!(refused.len(), 1);
    for (key, stored) in keys.into_iter().zip([true, false, false, true, true]) {
        assert_eq!(link.value(T, key).await.is_some(), stored, "{key}");
    }
    node.stop().await;
}

#[tokio::test]
async fn a_damaged_record_is_never_stored_and_ends_the_stream() {
    let (_dir, _leader, node) = one_node().await;
    let mut link = node.member().await;
    let good = put(version(1, 1), "good", "value");
    let mut damaged = put(version(1, 2), "damaged", "value").to_vec();
    damaged[45] ^= 1;
    link.send(batch(T, Version::ZERO, &[good.clone(), damaged.into()])).await;
    assert_eq!(link.end().await.code(), tonic::Code::DataLoss);

    let mut link = node.link(1).await;
    assert_eq!(link.value(T, "damaged").await, None);
    assert_eq!(link.durable(batch(T, Version::ZERO, &[good])).await, [], "sent again");
    let other = v1::Section::new(crate::types::PartitionId(4), T, Version::ZERO, 1);
    let misplaced = batch(T, Version::ZERO, &[put(version(1, 3), "misplaced", "")]);
    link.send(v1::Batch { sections: vec![other], ..misplaced }).await;
    assert_eq!(link.end().await.code(), tonic::Code::DataLoss);
    node.stop().await;
}

#[tokio::test]
async fn a_fence_tells_what_lies_above_the_watermark() {
    let (_dir, _leader, node) = one_node().await;
    let mut link = node.member().await;
    let records: Vec<_> =
        (1..=3).map(|seq| put(version(1, seq), &format!("k{seq}"), "v")).collect();
    link.durable(batch(T, Version::ZERO, &records)).await;
    link.durable(batch(T, version(1, 2), &[])).await;
    let answer = link.fence(T).await;
    assert!(answer.member);
    assert_eq!(answer.watermark(), version(1, 2));
    let [only] = answer.records.as_slice() else { panic!("{answer:?}") };
    assert_eq!(only.version(), version(1, 3));
    assert_eq!(only.key_hash.as_ref(), hash("k3").to_bytes());
    assert_eq!(Ok(only.checksum), crate::protocol::record::checksum_of(&records[2]));
    assert!(!link.fence(Token(99)).await.member);
    node.stop().await;
}

#[tokio::test]
async fn a_copy_is_whole_and_undoes_nothing_newer() {
    let (_dirs, _leader, [source, target]) = two_nodes().await;
    let mut from = source.member().await;
    let big = "x".repeat(700 << 10);
    let mut records: Vec<_> =
        (1..=2000).map(|seq| put(version(1, seq), &format!("k{seq}"), "copied")).collect();
    records.push(put(version(1, 2001), "big", &big));
    from.durable(batch(T, Version::ZERO, &records)).await;

    let mut to = target.link(1).await;
    let token = Token(11);
    let orders = vec![v1::Order::new(P, token, Order::Start(source.as_source()))];
    let live = batch(token, Version::ZERO, &[put(version(1, 3000), "k7", "live")]);
    assert_eq!(to.durable(v1::Batch { orders, ..live }).await, []);
    assert_eq!(to.read(token, "k7").await.0, v1::ReadStatus::Refused, "not whole yet");
    let report = to.copied().await;
    assert_eq!((report.partition, report.token), (P.0.into(), token.0));
    to.order(vec![v1::Order::new(P, token, Order::Finish(v1::Finish {}))]).await;
    assert_eq!(to.value(token, "k7").await.as_deref(), Some("live"));
    assert_eq!(to.value(token, "k2000").await.as_deref(), Some("copied"));
    assert_eq!(to.value(token, "big").await, Some(big));
    eventually("all are there", || target.handle.health().unwrap().records == 2001).await;
    source.stop().await;
    target.stop().await;
}

#[tokio::test]
async fn a_store_that_comes_back_is_sent_only_what_it_lacks() {
    let (_dirs, _leader, [source, target]) = two_nodes().await;
    let (mut from, mut to) = (source.link(1).await, target.link(1).await);
    let value = "x".repeat(1000);
    let records: Vec<_> =
        (1..=2000).map(|seq| put(version(1, seq), &format!("k{seq}"), &value)).collect();
    for link in [&mut from, &mut to] {
        link.begin(T).await;
        link.durable(batch(T, Version::ZERO, &records)).await;
    }
    let stale = put(version(1, 2001), "stale", "never settled");
    to.durable(batch(T, Version::ZERO, &[stale])).await;
    let newer = put(version(1, 2002), "k1", "newer");
    from.durable(batch(T, Version::ZERO, &[newer])).await;

    let token = Token(11);
    to.order(vec![v1::Order::new(P, token, Order::Start(source.as_source()))]).await;
    let report = to.copied().await;
    assert!((1000..100_000).contains(&report.bytes), "of two million: {report:?}");
    to.order(vec![v1::Order::new(P, token, Order::Finish(v1::Finish {}))]).await;
    assert_eq!(to.value(token, "k1").await.as_deref(), Some("newer"));
    assert_eq!(to.value(token, "k2000").await, Some(value));
    assert_eq!(to.value(token, "stale").await, None);
    eventually("all are there", || target.handle.health().unwrap().records == 2000).await;
    source.stop().await;
    target.stop().await;
}

/// Says in the store's own words that it stopped uncleanly.
pub(super) fn doubt(directory: &std::path::Path) {
    let status = directory.join("slots/0001/status");
    let text = std::fs::read_to_string(&status).unwrap();
    std::fs::write(&status, text.replace("doubt=none", "doubt=torn")).unwrap();
}

#[tokio::test]
async fn a_store_in_doubt_fetches_what_it_lacks_and_is_trusted_then() {
    let ([_dir, other_dir], leader, [source, doubted]) = two_nodes().await;
    let record = |seq, key| put(version(1, seq), key, "value");
    let all = [record(1, "a"), record(2, "b"), record(3, "lost"), record(4, "under way")];
    let (mut from, mut to) = (source.link(1).await, doubted.link(1).await);
    for (link, records) in [(&mut from, &all[..]), (&mut to, &all[..2])] {
        link.begin(T).await;
        link.durable(batch(T, Version::ZERO, records)).await;
        assert_eq!(link.fence(T).await.doubt(), v1::Doubt::Unspecified);
    }
    doubted.stop().await;
    doubt(other_dir.path());

    let doubted = TestNode::start(other_dir.path(), &leader).await;
    let registered = leader.told.registrations.lock().last().unwrap().tail();
    assert_eq!(registered, v1::TailState::Torn);
    let mut to = doubted.link(1).await;
    assert_eq!(to.fence(T).await.doubt(), v1::Doubt::Unclean);
    let compare = |attempt| v1::Compare {
        attempt,
        source_store_id: source.open_message(1).store_id,
        source_address: source.address(),
        before_epoch: 1,
        before_seq: 9,
        under_way_epochs: vec![1],
        under_way_seqs: vec![4],
    };
    let order = |attempt| vec![v1::Order::new(P, T, Order::Compare(compare(attempt)))];
    to.order(order(7)).await;
    to.until(|heard| !heard.comparisons.is_empty()).await;
    let report = to.heard.comparisons.pop().unwrap();
    assert_eq!((report.attempt, report.restored), (7, 1), "{report:?}");
    assert!(!report.complete, "what is under way there may hide what was settled: {report:?}");
    assert_eq!(to.value(T, "lost").await.as_deref(), Some("value"));
    assert_eq!(to.value(T, "under way").await, None);
    to.durable(batch(T, Version::ZERO, &all[3..])).await;
    to.order(order(8)).await;
    to.until(|heard| !heard.comparisons.is_empty()).await;
    let report = to.heard.comparisons.pop().unwrap();
    assert!(report.complete && report.restored == 0, "{report:?}");

    to.order(vec![v1::Order::new(P, T, Order::Trust(v1::Trust {}))]).await;
    assert_eq!(to.fence(T).await.doubt(), v1::Doubt::Unspecified);
    let status = other_dir.path().join("slots/0001/status");
    let trusted = || std::fs::read_to_string(&status).unwrap().contains("doubt=none");
    eventually("the store is trusted", trusted).await;
    source.stop().await;
    doubted.stop().await;
}

#[tokio::test]
async fn a_copy_that_cannot_be_made_is_reported() {
    let (_dirs, _leader, [source, target]) = two_nodes().await;
    let mut to = target.link(1).await;
    let addresses = [source.address(), "127.0.0.1:1".into(), "no address at all".into()];
    for (token, source_address) in (1..).map(Token).zip(addresses) {
        let start = Order::Start(v1::Start { source_address, ..source.as_source() });
        to.order(vec![v1::Order::new(P, token, start)]).await;
        to.until(|heard| !heard.copies.is_empty()).await;
        let report = to.heard.copies.pop().unwrap();
        assert!(!report.complete && !report.reason.is_empty(), "{report:?}");
    }
    source.stop().await;
    target.stop().await;
}

#[tokio::test]
async fn a_gap_in_the_numbers_ends_the_stream() {
    let (_dir, _leader, node) = one_node().await;
    let mut link = node.member().await;
    link.number += 1;
    link.send(batch(T, Version::ZERO, &[])).await;
    assert_eq!(link.end().await.code(), tonic::Code::InvalidArgument);
    node.stop().await;
}

#[tokio::test]
async fn a_node_waits_for_its_leader_and_comes_back_when_forgotten() {
    let (dir, leader) = (tempfile::tempdir().unwrap(), FakeLeader::start().await);
    let pending = v1::Pending { retry_after_ms: 1, reason: "too few nodes".into() };
    *leader.told.answers.lock() = vec![Outcome::Pending(pending)];
    let node = TestNode::start(dir.path(), &leader).await;
    assert_eq!(leader.told.registrations.lock().len(), 2);
    let port = node.handle.health().unwrap().address.port();
    assert_eq!(leader.told.registrations.lock()[1].address, format!(":{port}"));
    eventually("signs of life", || leader.told.beats.load(SeqCst) > 2).await;
    leader.told.forgotten.store(1, SeqCst);
    eventually("registered again", || leader.told.registrations.lock().len() == 3).await;
    node.stop().await;
}

#[tokio::test]
async fn a_node_that_is_refused_for_good_ends_and_says_why() {
    let (dir, leader) = (tempfile::tempdir().unwrap(), FakeLeader::start().await);
    let refused =
        v1::Refused { reason: "format 9 is too new".into(), r#final: true, decommissioned: false };
    *leader.told.answers.lock() = vec![Outcome::Refused(refused)];
    let node = TestNode::run(options(dir.path(), &leader));
    let error = node.running.await.unwrap().unwrap_err();
    assert!(error.to_string().contains("format 9 is too new"), "{error}");
}

#[tokio::test]
async fn a_node_asks_before_it_leaves_and_finishes_what_it_has() {
    let (dir, leader, node) = one_node().await;
    let mut link = node.member().await;
    link.send(batch(T, Version::ZERO, &[put(version(1, 1), "k", "v")])).await;
    link.until(|heard| heard.durable_through == 2).await;
    node.handle.leave();
    assert_eq!(link.end().await.code(), tonic::Code::Unavailable);
    node.running.await.unwrap().unwrap();
    assert_eq!(leader.told.left.load(SeqCst), 1);
    let node = TestNode::start(dir.path(), &leader).await;
    assert_eq!(node.link(1).await.value(T, "k").await.as_deref(), Some("v"));
    node.stop().await;
}

#[tokio::test]
async fn what_a_store_holds_is_told_and_no_earlier_leader_changes_it_after_that() {
    let (_dir, _leader, node) = one_node().await;
    let mut link = node.link(4).await;
    link.begin(T).await;
    let store_id = node.open_message(0).store_id;
    let member = v1::Member { store_id, token: T.0 };
    let configuration = v1::Configuration { version: 3, members: vec![member] };
    let order = Order::Configuration(configuration.clone());
    link.order(vec![v1::Order::new(P, T, order)]).await;
    let records = [put(version(4, 1), "a", "1"), put(version(4, 2), "b", "2")];
    assert_eq!(link.durable(batch(T, version(4, 1), &records)).await, []);

    let told = node.holdings(0).await;
    assert_eq!((told.promised, told.index_key.as_ref()), (4, KEY.0.as_slice()));
    let [holding] = &told.holdings[..] else { panic!("{told:?}") };
    assert_eq!((holding.partition, holding.token, holding.records), (P.0.into(), T.0, 2));
    assert_eq!((holding.newest_epoch, holding.newest_seq), (4, 2));
    assert_eq!(holding.configuration, Some(configuration));
    assert_eq!(link.value(T, "a").await.as_deref(), Some("1"), "to be asked changes nothing");

    assert_eq!(node.holdings(9).await.promised, 9);
    assert_eq!(link.end().await.code(), tonic::Code::Aborted);
    assert!(node.try_link(node.open_message(4)).await.is_err());
    node.stop().await;
}
