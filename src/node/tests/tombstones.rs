//! Deleted keys that are forgotten, between real nodes.

use super::doubt;
use super::harness::*;
use crate::rpc::v1;
use crate::rpc::v1::order::Order;
use crate::types::{Token, Version};

#[tokio::test]
async fn a_deleted_key_is_forgotten_by_order_and_what_comes_late_is_taken_and_not_stored() {
    let (dir, leader, node) = one_node().await;
    let mut link = node.member().await;
    let records =
        [put(version(1, 1), "a", "1"), put(version(1, 2), "b", "2"), delete(version(1, 3), "a")];
    link.durable(batch(T, Version::ZERO, &records)).await;
    assert_eq!(link.fence(T).await.tombstones, 1);
    assert_eq!(node.handle.health().unwrap().tombstones, 1);
    link.raise_floor(T, version(1, 3)).await;
    let late = batch(T, Version::ZERO, &[put(version(1, 1), "a", "1")]);
    assert_eq!(link.durable(late).await, [], "it is acknowledged");
    node.stop().await;

    let node = TestNode::start(dir.path(), &leader).await;
    let mut link = node.link(1).await;
    assert_eq!(link.value(T, "a").await, None);
    assert_eq!(link.value(T, "b").await.as_deref(), Some("2"));
    let answer = link.fence(T).await;
    let told = (answer.tombstones, answer.floor(), answer.watermark(), answer.records.len());
    assert_eq!(told, (0, version(1, 3), version(1, 3), 0));
    assert_eq!(node.handle.health().unwrap().tombstones, 0);
    node.stop().await;
}

#[tokio::test]
async fn deletes_that_were_forgotten_meanwhile_cost_a_store_that_comes_back_nothing() {
    let (_dirs, _leader, [source, target]) = two_nodes().await;
    let (mut from, mut to) = (source.link(1).await, target.link(1).await);
    let value = "x".repeat(1000);
    let kept = (1..=1000).map(|seq| put(version(1, seq), &format!("k{seq}"), &value));
    let deleted = (1001..=2000).map(|seq| delete(version(1, seq), &format!("d{seq}")));
    let records: Vec<_> = kept.chain(deleted).collect();
    for link in [&mut from, &mut to] {
        link.begin(T).await;
        link.durable(batch(T, Version::ZERO, &records)).await;
    }
    // The one that is away misses a delete, and that it is forgotten.
    let missed = delete(version(1, 2001), "k7");
    from.durable(batch(T, Version::ZERO, &[missed])).await;
    from.raise_floor(T, version(1, 2001)).await;

    let token = Token(11);
    let start = v1::Start { floor_epoch: 1, floor_seq: 2001, ..source.as_source() };
    let start = Order::Start(start);
    to.order(vec![v1::Order::new(P, token, start)]).await;
    let report = to.copied().await;
    assert!(report.bytes < 30_000, "one leaf of 256 of a million: {report:?}");
    to.order(vec![v1::Order::new(P, token, Order::Finish(v1::Finish {}))]).await;
    assert_eq!(to.value(token, "k7").await, None);
    assert_eq!(to.value(token, "k8").await, Some(value));
    let health = target.handle.health().unwrap();
    assert_eq!((health.records, health.tombstones), (999, 0));
    source.stop().await;
    target.stop().await;
}

#[tokio::test]
async fn a_store_that_has_lost_a_delete_learns_of_it_from_one_that_has_forgotten_it() {
    let ([_dir, other_dir], leader, [source, doubted]) = two_nodes().await;
    let (mut from, mut to) = (source.link(1).await, doubted.link(1).await);
    let records = [
        put(version(1, 1), "a", "1"),
        put(version(1, 2), "b", "2"),
        put(version(1, 3), "c", "3"),
        delete(version(1, 4), "c"),
        delete(version(1, 5), "a"),
    ];
    for (link, records) in [(&mut from, &records[..]), (&mut to, &records[..4])] {
        link.begin(T).await;
        link.durable(batch(T, Version::ZERO, records)).await;
    }
    let later = put(version(1, 6), "later", "under way");
    to.durable(batch(T, Version::ZERO, &[later])).await;
    from.raise_floor(T, version(1, 5)).await;
    doubted.stop().await;
    doubt(other_dir.path());

    let doubted = TestNode::start(other_dir.path(), &leader).await;
    let mut to = doubted.link(1).await;
    assert_eq!(to.fence(T).await.doubt(), v1::Doubt::Unclean);
    let compare = v1::Compare {
        attempt: 7,
        source_store_id: source.open_message(1).store_id,
        source_address: source.address(),
        before_epoch: 1,
        before_seq: 7,
        under_way_epochs: vec![1],
        under_way_seqs: vec![6],
    };
    to.order(vec![v1::Order::new(P, T, Order::Compare(compare))]).await;
    to.until(|heard| !heard.comparisons.is_empty()).await;
    let report = to.heard.comparisons.pop().unwrap();
    assert!(report.complete && report.restored == 1, "the delete of a: {report:?}");
    assert_eq!(to.value(T, "a").await, None);
    assert_eq!(to.value(T, "b").await.as_deref(), Some("2"));
    assert_eq!(to.value(T, "later").await.as_deref(), Some("under way"));
    let answer = to.fence(T).await;
    assert_eq!((answer.floor(), answer.tombstones), (version(1, 5), 0), "it knows as much now");
    source.stop().await;
    doubted.stop().await;
}
