//! No call waits for ever: each is made to a peer that never answers it.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use super::clients::{self, SharedLog};
use super::hosts::{LEADER, NODE_PORT, node_name};
use super::peers::{At, CLUSTER, Peer};
use super::scene::Scene;
use crate::logic::history::Outcome;
use crate::node::Health;
use crate::rpc::v1::order::Order;
use crate::rpc::v1::replica_client::ReplicaClient;
use crate::rpc::v1::replicate_request::Kind;
use crate::rpc::{convert, transport, v1};
use crate::simulation::random::Random;
use crate::types::{Key, PartitionId, Token};
use futures::stream::{self, StreamExt};

/// What a caller may take besides its deadline: its pause before the next attempt, and the network.
const MARGIN: Duration = Duration::from_secs(3);

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Calls are made again, each within its deadline and a margin after the one before.
#[track_caller]
fn assert_repeated(calls: &[Duration], deadline: Duration, until: Duration, what: At) {
    let mut before = seconds(0);
    for call in calls.iter().copied().chain([until]) {
        let pause = call.saturating_sub(before);
        assert!(pause < deadline + MARGIN, "{what:?}: nothing for {pause:?} after {before:?}");
        before = call;
    }
}

#[test]
fn a_leader_that_does_not_answer_is_asked_again() {
    for (stuck, deadline) in [(At::Register, 5), (At::Heartbeat, 5), (At::HeartbeatReplies, 3)] {
        let mut scene = Scene::new();
        let peer = Peer::stuck(stuck);
        let leader = peer.clone();
        scene.sim.host(LEADER, move || leader.clone().lead());
        scene.add_node(1);
        scene.run_for(seconds(40));
        assert_repeated(&peer.calls(At::Register), seconds(deadline), seconds(40), stuck);
    }
}

#[test]
fn a_leader_that_never_lets_go_does_not_keep_a_node() {
    for (stuck, deadline) in [(At::Nothing, 0), (At::Leave, 2), (At::LeaveProgress, 25)] {
        let mut scene = Scene::new();
        let leader = Peer::stuck(stuck);
        scene.sim.host(LEADER, move || leader.clone().lead());
        let node = scene.add_node(1);
        let registered =
            || node.handle().and_then(|it| it.health()).is_some_and(|health| health.registered);
        let asked = scene.run_until("registered", registered, seconds(10));
        node.handle().expect("it runs").leave();
        let limit = asked + seconds(deadline) + MARGIN;
        let ended = scene.run_until("ended", || node.ended().is_some(), limit);
        assert_eq!(node.ended(), Some(Ok(())), "{stuck:?}: asked at {asked:?}, now {ended:?}");
        assert!(ended >= asked + seconds(deadline), "{stuck:?} was not waited for");
    }
}

#[test]
fn a_node_that_does_not_answer_is_called_again_and_holds_nobody_up() {
    let mut scene = Scene::new();
    scene.add_leader();
    (1..=2).for_each(|node| drop(scene.add_node(node)));
    let peer = Peer::stuck(At::Replicate);
    let stuck = peer.clone();
    scene.sim.host(node_name(3), move || stuck.clone().take_part(node_name(3)));
    let (log, key) = (SharedLog::default(), Key("key".into()));
    let asking = clients::ask_on(0, vec![key], 20, Random::new(1), log.clone());
    scene.sim.client("client", asking);
    scene.run_for(seconds(45));

    let calls = peer.calls(At::Replicate);
    assert!(!calls.is_empty(), "it is a member");
    assert_repeated(&calls, seconds(5), seconds(45), At::Replicate);
    let log = log.borrow();
    assert_eq!(log.violation, None);
    let stored = log.history.iter().filter(|it| matches!(it.outcome, Outcome::Stored { .. }));
    assert!(stored.count() > 100, "the others serve");
}

#[test]
fn a_source_that_does_not_answer_is_given_up() {
    for (stuck, deadline) in [(At::Pull, 10), (At::PullReplies, 10)] {
        let mut scene = Scene::new();
        scene.sim.host(LEADER, || Peer::stuck(At::Nothing).lead());
        let node = scene.add_node(1);
        let source = Peer::stuck(stuck);
        scene.sim.host(node_name(2), move || source.clone().serve());
        let health = || node.handle().and_then(|handle| handle.health());
        let is_open = || health().is_some_and(|health| health.registered);
        scene.run_until("registered", is_open, seconds(10));

        let report = Rc::new(RefCell::new(None));
        let told = Rc::clone(&report);
        let health = health().expect("it runs");
        scene.sim.client("copier", async move {
            *told.borrow_mut() = Some(copy_from(&health, &node_name(2)).await?);
            Ok(())
        });
        let asked = scene.sim.elapsed();
        let limit = asked + seconds(deadline) + MARGIN;
        let given_up = scene.run_until("given up", || report.borrow().is_some(), limit);
        let report = report.take().expect("the copy is given up");
        assert!(!report.complete && report.reason.contains("did not answer"), "{report:?}");
        assert!(given_up >= asked + seconds(deadline), "{stuck:?} was not waited for");
    }
}

/// Orders a node to copy a partition, as its leader would, and waits for the report.
async fn copy_from(node: &Health, source: &str) -> turmoil::Result<v1::CopyReport> {
    let endpoint = transport::endpoint(&format!("{}:{NODE_PORT}", node_name(1)))?;
    let mut client = ReplicaClient::new(transport::connect(&endpoint).await?);
    let open = v1::Open {
        cluster_id: convert::id_bytes(CLUSTER.as_bytes()),
        store_id: convert::id_bytes(node.store.as_bytes()),
        boot_id: convert::id_bytes(node.boot.as_bytes()),
        epoch: 1,
        leader_boot_id: bytes::Bytes::new(),
    };
    let start = Order::Start(v1::Start {
        source_store_id: convert::id_bytes(CLUSTER.as_bytes()),
        source_address: format!("{source}:{NODE_PORT}"),
        ..v1::Start::default()
    });
    let orders = vec![v1::Order::new(PartitionId(3), Token(7), start)];
    let batch = v1::Batch { number: 1, orders, ..v1::Batch::default() };
    let messages = [Kind::Open(open), Kind::Batch(batch)];
    let messages = stream::iter(messages.map(|kind| v1::ReplicateRequest { kind: Some(kind) }));
    let mut replies = client.replicate(messages.chain(stream::pending())).await?.into_inner();
    loop {
        let reply = replies.message().await?.ok_or("the node ended the stream")?;
        if let Some(report) = reply.copies.into_iter().next() {
            return Ok(report);
        }
    }
}
