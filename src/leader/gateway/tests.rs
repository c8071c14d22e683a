//! The gateway before shards of the tests' own.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tower::{Service, ServiceExt};

use super::recall::Recall;
use super::router::{Options, shard_of};
use super::*;
use crate::leader::view::{ClusterView, Views};
use crate::logic::hash::partition_of;
use crate::logic::partition::cache::Cache;
use crate::net::batch::{Asked, Batch, ReplyReceiver};
use crate::protocol::command::Question;
use crate::protocol::reply::Outcome;
use crate::types::{IndexKey, Key, PartitionCount};

struct Front {
    gateway: Gateway,
    shards: Vec<mpsc::Receiver<ShardBatch>>,
    budget: Budget,
    views: Views,
    recall: Recall,
}

fn front(shards: usize, inbox: usize) -> Front {
    let (budget, views) = (Budget::new(1000), Views::new());
    let recall = Recall::new(Cache::new(1 << 20));
    let (senders, shards) = (0..shards).map(|_| mpsc::channel(inbox)).unzip();
    let options = Options {
        shards: senders,
        partitions: PartitionCount::DEFAULT,
        request_timeout: Duration::from_secs(5),
        views: views.clone(),
        recall: recall.clone(),
    };
    Front { gateway: gateway(options, budget.clone()), shards, budget, views, recall }
}

fn get(number: u64) -> Asked {
    Asked::Key(Operation::Get { key: Key(format!("key{number}").into()) })
}

fn batch(requests: impl IntoIterator<Item = Asked>) -> (Batch, ReplyReceiver) {
    let (replies, receiver) = ReplySender::new();
    let requests = (0..).zip(requests).collect();
    (Batch { requests, replies, arrived: Moment(7_000_000), alone: true }, receiver)
}

#[tokio::test]
async fn each_shard_touched_gets_one_message_with_its_keys_in_order() {
    let mut front = front(3, 1);
    let (batch, _replies) = batch((0..100).map(get));
    front.gateway.ready().await.unwrap().call(batch).await.unwrap();
    let mut seen = 0;
    for (shard, inbox) in front.shards.iter_mut().enumerate() {
        let message = inbox.try_recv().unwrap();
        assert!(inbox.try_recv().is_err(), "one message");
        assert!(message.requests.is_sorted_by_key(|request| request.slot));
        for request in &message.requests {
            let key = request.operation.key().as_bytes();
            assert_eq!(key, format!("key{}", request.slot).as_bytes());
            assert_eq!(request.partition, partition_of(key, PartitionCount::DEFAULT));
            assert_eq!(shard_of(request.partition, 3), shard);
            assert_eq!(request.deadline, Moment(12_000_000));
        }
        seen += message.requests.len();
    }
    assert_eq!(seen, 100);
}

#[tokio::test]
async fn questions_are_answered_from_the_view_without_any_shard() {
    let mut front = front(1, 1);
    front.views.publish(ClusterView { tolerance: 4, ..ClusterView::default() });
    let (batch, _replies) = batch([Asked::Cluster(Question::Status)]);
    let answers = front.gateway.ready().await.unwrap().call(batch).await.unwrap();
    let expected = front.views.current().answer(Question::Status);
    assert_eq!(answers, [(0, Outcome::Lines(expected))]);
    assert!(front.shards[0].try_recv().is_err());
}

/// A front that remembers what two reads found, as they would have put it there.
fn remembering() -> Front {
    const INDEX_KEY: IndexKey = IndexKey([7; 16]);
    let front = front(1, 1);
    front.recall.begin(INDEX_KEY);
    for (key, value) in [(b"key1", Some(Bytes::from_static(b"value"))), (b"key2", None)] {
        let partition = partition_of(key, PartitionCount::DEFAULT);
        front.recall.cache().hold(partition, INDEX_KEY.hash(key), value.as_ref());
    }
    front
}

#[tokio::test]
async fn what_is_remembered_is_answered_without_any_shard() {
    let mut front = remembering();
    let (batch, _replies) = batch([get(1), get(2)]);
    let answers = front.gateway.ready().await.unwrap().call(batch).await.unwrap();
    assert_eq!(answers, [(0, Outcome::Value("value".into())), (1, Outcome::NotFound)]);
    assert!(front.shards[0].try_recv().is_err());
    assert_eq!(front.recall.answered(), 2);
}

#[tokio::test]
async fn what_is_remembered_overtakes_nothing() {
    let set = Asked::Key(Operation::Set { key: Key("key1".into()), value: "new".into() });
    let mut front = remembering();
    let (first, _replies) = batch([get(2), set, get(1)]);
    let answers = front.gateway.ready().await.unwrap().call(first).await.unwrap();
    assert_eq!(answers, [(0, Outcome::NotFound)]);
    let slots = |batch: ShardBatch| batch.requests.iter().map(|one| one.slot).collect::<Vec<_>>();
    assert_eq!(slots(front.shards[0].try_recv().unwrap()), [1, 2]);

    let (mut second, _replies) = batch([get(1)]);
    second.alone = false;
    assert_eq!(front.gateway.ready().await.unwrap().call(second).await.unwrap(), []);
    assert_eq!(slots(front.shards[0].try_recv().unwrap()), [0]);
}

#[tokio::test]
async fn a_full_inbox_makes_the_call_wait_and_lose_nothing() {
    let mut front = front(1, 1);
    let (first, _first) = batch([get(1)]);
    let (second, _second) = batch([get(2)]);
    front.gateway.ready().await.unwrap().call(first).await.unwrap();
    let waiting = tokio::spawn(front.gateway.ready().await.unwrap().call(second));
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    assert!(front.shards[0].recv().await.is_some());
    waiting.await.unwrap().unwrap();
    assert!(front.shards[0].recv().await.is_some());
}

#[tokio::test]
async fn requests_to_a_shard_that_has_ended_are_unavailable() {
    let mut front = front(1, 1);
    front.shards.clear();
    let (batch, mut replies) = batch([get(1), get(2)]);
    front.gateway.ready().await.unwrap().call(batch).await.unwrap();
    let answers = replies.try_recv().unwrap();
    assert_eq!(answers, [(0, Outcome::Unavailable), (1, Outcome::Unavailable)]);
}

#[tokio::test]
async fn over_the_budget_a_batch_is_shed_and_under_it_again_taken() {
    let mut front = front(1, 1);
    let mut share = front.budget.share();
    share.resize(1001);
    let (shed, _replies) = batch([get(1)]);
    assert!(front.gateway.ready().await.unwrap().call(shed).await.is_err());
    assert!(front.shards[0].try_recv().is_err());
    share.resize(1000);
    let (taken, _replies) = batch([get(1)]);
    front.gateway.ready().await.unwrap().call(taken).await.unwrap();
    assert!(front.shards[0].try_recv().is_ok());
}
