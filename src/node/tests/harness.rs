//! A leader that does what the test says, and a node in this process, over real connections.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::node::{Error, Handle, Options, Service};
use crate::protocol::record::{Flags, Kind, Record};
use crate::rpc::v1::order::Order;
use crate::rpc::v1::replicate_request::Kind as Message;
use crate::rpc::{convert, transport, v1};
use crate::runtime::sockets::TcpListener;
use crate::types::{ClusterId, Epoch, IndexKey, KeyHash, PartitionId, Token, Version};

pub(super) const CLUSTER: ClusterId = ClusterId::from_number(77);
pub(super) const KEY: IndexKey = IndexKey([9; 16]);
pub(super) const P: PartitionId = PartitionId(3);
pub(super) const T: Token = Token(10);
const PATIENCE: Duration = Duration::from_secs(20);
const PARTITIONS: u16 = 16;

/// What the leader's membership service was told, and what it answers.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) registrations: Mutex<Vec<v1::RegisterRequest>>,
    pub(super) answers: Mutex<Vec<v1::register_reply::Outcome>>,
    pub(super) beats: AtomicUsize,
    pub(super) forgotten: AtomicUsize,
    pub(super) left: AtomicUsize,
}

#[derive(Clone, Debug)]
pub(super) struct FakeLeader {
    pub(super) told: Arc<Told>,
    pub(super) address: String,
}

pub(super) fn accepted() -> v1::register_reply::Outcome {
    v1::register_reply::Outcome::Accepted(v1::Accepted {
        cluster_id: convert::id_bytes(CLUSTER.as_bytes()),
        index_key: Bytes::copy_from_slice(&KEY.0),
        epoch: 1,
        partitions: PARTITIONS.into(),
        heartbeat_interval_ms: 20,
    })
}

impl FakeLeader {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let leader = Self {
            told: Arc::new(Told {
                registrations: Mutex::default(),
                answers: Mutex::default(),
                beats: AtomicUsize::new(0),
                forgotten: AtomicUsize::new(0),
                left: AtomicUsize::new(0),
            }),
            address: listener.local_addr().unwrap().to_string(),
        };
        let server = v1::membership_server::MembershipServer::new(leader.clone());
        let router = transport::server().add_service(server);
        tokio::spawn(router.serve_with_incoming(transport::incoming(listener)));
        leader
    }
}

type Replies<T> = std::pin::Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl v1::membership_server::Membership for FakeLeader {
    type HeartbeatStream = Replies<v1::HeartbeatReply>;
    type LeaveStream = Replies<v1::LeaveProgress>;

    async fn register(
        &self,
        request: Request<v1::RegisterRequest>,
    ) -> Result<Response<v1::RegisterReply>, Status> {
        self.told.registrations.lock().push(request.into_inner());
        let outcome = self.told.answers.lock().pop().unwrap_or_else(accepted);
        Ok(Response::new(v1::RegisterReply { outcome: Some(outcome) }))
    }

    async fn heartbeat(
        &self,
        request: Request<Streaming<v1::HeartbeatRequest>>,
    ) -> Result<Response<Self::HeartbeatStream>, Status> {
        let told = Arc::clone(&self.told);
        let replies = request.into_inner().map(move |_| {
            told.beats.fetch_add(1, SeqCst);
            let forget = |left: usize| left.checked_sub(1);
            let register_again = told.forgotten.fetch_update(SeqCst, SeqCst, forget).is_ok();
            Ok(v1::HeartbeatReply { state: "live".into(), register_again })
        });
        Ok(Response::new(Box::pin(replies)))
    }

    async fn leave(
        &self,
        _: Request<v1::LeaveRequest>,
    ) -> Result<Response<Self::LeaveStream>, Status> {
        self.told.left.fetch_add(1, SeqCst);
        let steps = [(3, false), (0, true)];
        let steps = steps
            .map(|(partitions_left, may_stop)| Ok(v1::LeaveProgress { partitions_left, may_stop }));
        Ok(Response::new(Box::pin(futures::stream::iter(steps))))
    }
}

pub(super) struct TestNode {
    pub(super) handle: Handle,
    pub(super) running: JoinHandle<Result<(), Error>>,
}

pub(super) fn options(data_dir: &Path, leader: &FakeLeader) -> Options {
    Options {
        data_dir: data_dir.to_owned(),
        max_slots: 4,
        storage: crate::storage::Options::default(),
        listen: "127.0.0.1:0".parse().unwrap(),
        advertise: None,
        admin_address: None,
        leader_address: leader.address.clone(),
        heartbeat_interval: Duration::from_millis(20),
        repair_bytes_per_second: None,
        max_value_bytes: 4 << 20,
        reader_threads: 2,
    }
}

/// Waits for a condition, not for ever.
pub(super) async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// A node in a directory of its own.
pub(super) async fn one_node() -> (TempDir, FakeLeader, TestNode) {
    let (dir, leader) = (tempfile::tempdir().unwrap(), FakeLeader::start().await);
    let node = TestNode::start(dir.path(), &leader).await;
    (dir, leader, node)
}

/// Two nodes of one leader.
pub(super) async fn two_nodes() -> ([TempDir; 2], FakeLeader, [TestNode; 2]) {
    let (dir, leader, node) = one_node().await;
    let other_dir = tempfile::tempdir().unwrap();
    let other = TestNode::start(other_dir.path(), &leader).await;
    ([dir, other_dir], leader, [node, other])
}

impl TestNode {
    pub(super) fn run(options: Options) -> Self {
        let service = Service::new(options);
        Self { handle: service.handle(), running: tokio::spawn(service.run()) }
    }

    pub(super) async fn start(data_dir: &Path, leader: &FakeLeader) -> Self {
        let node = Self::run(options(data_dir, leader));
        let handle = node.handle.clone();
        eventually("registered", || handle.health().is_some_and(|health| health.registered)).await;
        node
    }

    pub(super) async fn stop(self) {
        self.handle.stop();
        let ended = tokio::time::timeout(PATIENCE, self.running).await.unwrap();
        ended.unwrap().unwrap();
    }

    pub(super) fn address(&self) -> String {
        self.handle.health().unwrap().address.to_string()
    }

    pub(super) fn open_message(&self, epoch: u64) -> v1::Open {
        let health = self.handle.health().unwrap();
        v1::Open {
            cluster_id: convert::id_bytes(CLUSTER.as_bytes()),
            store_id: convert::id_bytes(health.store.as_bytes()),
            boot_id: convert::id_bytes(health.boot.as_bytes()),
            epoch,
            leader_boot_id: Bytes::new(),
        }
    }

    pub(super) async fn link(&self, epoch: u64) -> Link {
        self.try_link(self.open_message(epoch)).await.unwrap()
    }

    /// A link of epoch 1 over which it became a member of [`P`] under [`T`].
    pub(super) async fn member(&self) -> Link {
        let mut link = self.link(1).await;
        link.begin(T).await;
        link
    }

    /// The order to fill a copy from this node.
    pub(super) fn as_source(&self) -> v1::Start {
        v1::Start {
            source_store_id: self.open_message(1).store_id,
            source_address: self.address(),
            ..v1::Start::default()
        }
    }

    /// What it says it holds, after a promise of this epoch unless it is 0.
    pub(super) async fn holdings(&self, epoch: u64) -> v1::HoldingsReply {
        let channel = transport::endpoint(&self.address()).unwrap().connect().await.unwrap();
        let mut client = v1::replica_client::ReplicaClient::new(channel);
        let open = Some(self.open_message(epoch));
        client.holdings(v1::HoldingsRequest { open }).await.unwrap().into_inner()
    }

    pub(super) async fn try_link(&self, open: v1::Open) -> Result<Link, Status> {
        let channel = transport::endpoint(&self.address()).unwrap().connect().await.unwrap();
        let mut client = v1::replica_client::ReplicaClient::new(channel)
            .max_decoding_message_size(16 << 20)
            .max_encoding_message_size(16 << 20);
        let (messages, receiver) = mpsc::channel(64);
        let open = v1::ReplicateRequest { kind: Some(Message::Open(open)) };
        messages.send(open).await.unwrap();
        let replies = client.replicate(ReceiverStream::new(receiver)).await?.into_inner();
        Ok(Link { messages, replies, number: 0, heard: v1::ReplicateReply::default() })
    }
}

/// One stream of the leader to a node.
pub(super) struct Link {
    pub(super) messages: mpsc::Sender<v1::ReplicateRequest>,
    pub(super) replies: Streaming<v1::ReplicateReply>,
    pub(super) number: u64,
    /// Everything that was heard, put together.
    pub(super) heard: v1::ReplicateReply,
}

impl Link {
    pub(super) async fn send(&mut self, batch: v1::Batch) {
        self.number += 1;
        let batch = v1::Batch { number: self.number, ..batch };
        let message = v1::ReplicateRequest { kind: Some(Message::Batch(batch)) };
        self.messages.send(message).await.unwrap();
    }

    /// Listens until what was heard, put together, is enough.
    pub(super) async fn until(&mut self, enough: impl Fn(&v1::ReplicateReply) -> bool) {
        while !enough(&self.heard) {
            let reply = tokio::time::timeout(PATIENCE, self.replies.message()).await;
            let reply = reply.expect("the node says nothing").unwrap().expect("the stream ended");
            assert!(reply.durable_through >= self.heard.durable_through);
            self.heard.durable_through = reply.durable_through;
            self.heard.refusals.extend(reply.refusals);
            self.heard.reads.extend(reply.reads);
            self.heard.fences.extend(reply.fences);
            self.heard.copies.extend(reply.copies);
            self.heard.comparisons.extend(reply.comparisons);
        }
    }

    /// Listens until the stream ends, and says how.
    pub(super) async fn end(&mut self) -> Status {
        loop {
            let reply = tokio::time::timeout(PATIENCE, self.replies.message()).await;
            match reply.expect("the stream goes on") {
                Ok(Some(_)) => {}
                Ok(None) => return Status::ok(""),
                Err(status) => return status,
            }
        }
    }

    /// Sends a batch and waits until it is durable; what was refused comes back.
    pub(super) async fn durable(&mut self, batch: v1::Batch) -> Vec<v1::Refusal> {
        self.send(batch).await;
        let number = self.number;
        self.until(|heard| heard.durable_through >= number).await;
        std::mem::take(&mut self.heard.refusals)
    }

    /// Carries out orders that must not be refused.
    pub(super) async fn order(&mut self, orders: Vec<v1::Order>) {
        let refused = self.durable(v1::Batch { orders, ..v1::Batch::default() }).await;
        assert_eq!(refused, []);
    }

    pub(super) async fn begin(&mut self, token: Token) {
        self.order(vec![v1::Order::new(P, token, Order::Begin(v1::Begin {}))]).await;
    }

    /// Has tombstones up to this version dropped.
    pub(super) async fn raise_floor(&mut self, token: Token, floor: Version) {
        let floor = v1::GarbageFloor { epoch: floor.epoch.0, seq: floor.seq };
        self.order(vec![v1::Order::new(P, token, Order::GarbageFloor(floor))]).await;
    }

    /// Waits for the end of a copy, which must be whole.
    pub(super) async fn copied(&mut self) -> v1::CopyReport {
        self.until(|heard| !heard.copies.is_empty()).await;
        let report = self.heard.copies.pop().unwrap();
        assert!(report.complete, "{report:?}");
        report
    }

    /// Reads a key of [`P`].
    pub(super) async fn read(&mut self, token: Token, key: &str) -> (v1::ReadStatus, Bytes) {
        let id = self.number + 1000;
        let read = v1::Read {
            id,
            partition: P.0.into(),
            token: token.0,
            key_hash: convert::id_bytes(&hash(key).to_bytes()),
        };
        self.send(v1::Batch { reads: vec![read], ..v1::Batch::default() }).await;
        self.until(|heard| heard.reads.iter().any(|answer| answer.id == id)).await;
        let answer = self.heard.reads.pop().unwrap();
        (answer.status(), answer.record)
    }

    /// The value of a key of [`P`]; `None` if it is absent.
    pub(super) async fn value(&mut self, token: Token, key: &str) -> Option<String> {
        let (status, record) = self.read(token, key).await;
        match status {
            v1::ReadStatus::Absent => None,
            v1::ReadStatus::Found => {
                let (record, _) = Record::decode(&record).unwrap();
                assert_eq!((record.key, record.partition), (key.as_bytes(), P));
                Some(String::from_utf8(record.value.to_vec()).unwrap())
            }
            other => panic!("{key}: {other:?}"),
        }
    }

    pub(super) async fn fence(&mut self, token: Token) -> v1::FenceAnswer {
        let attempt = self.number;
        let order = v1::Order::new(P, token, Order::Fence(v1::Fence { attempt }));
        self.order(vec![order]).await;
        self.until(|heard| heard.fences.iter().any(|answer| answer.attempt == attempt)).await;
        self.heard.fences.pop().unwrap()
    }
}

pub(super) fn hash(key: &str) -> KeyHash {
    KEY.hash(key.as_bytes())
}

pub(super) fn version(epoch: u64, seq: u64) -> Version {
    Version::new(Epoch(epoch), seq)
}

pub(super) fn put(version: Version, key: &str, value: &str) -> Bytes {
    record(Kind::Put, version, key, value)
}

pub(super) fn delete(version: Version, key: &str) -> Bytes {
    record(Kind::Tombstone, version, key, "")
}

fn record(kind: Kind, version: Version, key: &str, value: &str) -> Bytes {
    let record = Record {
        kind,
        flags: Flags::NONE,
        partition: P,
        version,
        expires: 0,
        key: key.as_bytes(),
        value: value.as_bytes(),
    };
    record.to_bytes().unwrap()
}

/// A batch of records of [`P`].
pub(super) fn batch(token: Token, watermark: Version, records: &[Bytes]) -> v1::Batch {
    let mut bytes = BytesMut::new();
    for record in records {
        bytes.extend_from_slice(record);
    }
    let count = u32::try_from(records.len()).unwrap();
    let section = v1::Section::new(P, token, watermark, count);
    v1::Batch { sections: vec![section], records: bytes.freeze(), ..v1::Batch::default() }
}
