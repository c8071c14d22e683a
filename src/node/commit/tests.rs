//! The commit thread over a simulated disk.

use bytes::Bytes;

use super::*;
use crate::node::pacing::Pacing;
use crate::node::stream::LeaderStream;
use crate::protocol::record::{Flags, Kind, Record};
use crate::rpc::v1::order::Order;
use crate::runtime::tasks::Tasks;
use crate::storage::disk::simulated::Operation;
use crate::storage::{Options, Reserve, SimulatedDisk};
use crate::types::{ClusterId, Epoch, IndexKey, Token, Version};

const STORE: StoreId = StoreId::from_number(1);
const KEY: IndexKey = IndexKey([3; 16]);
const P: PartitionId = PartitionId(1);
const T: Token = Token(5);
const PATIENCE: Duration = Duration::from_secs(20);

/// A commit thread, its disk, and the one stream that was opened.
struct Bench {
    commits: Commits,
    served: Arc<Served>,
    figures: Arc<Figures>,
    reader: Reader<SimulatedDisk>,
    end: oneshot::Receiver<Result<(), StorageError>>,
    stream: Arc<LeaderStream>,
    number: u64,
}

fn open_store(disk: &SimulatedDisk) -> Store<SimulatedDisk> {
    let reserve = Reserve::Bytes(0);
    let options = Options { segment_bytes: 256 << 10, reserve, ..Options::default() };
    Store::open(disk.clone(), KEY, PartitionCount::new(4).unwrap(), options).unwrap().0
}

fn stream(id: u64) -> Arc<LeaderStream> {
    Arc::new(LeaderStream::new(id, Epoch(1)))
}

impl Bench {
    fn start_on(disk: &SimulatedDisk, (commits, inputs): (Commits, Inputs)) -> Self {
        let store = open_store(disk);
        let partitions = PartitionCount::new(4).unwrap();
        let (served, figures) = (Arc::new(Served::new(partitions)), Arc::default());
        let cluster = ClusterId::from_number(1);
        let reader = store.reader();
        let tasks = Tasks::new();
        let pacing = Arc::new(Pacing::new(None, Arc::default()));
        let (reading, queue) = (reader.clone(), commits.clone());
        let mover = Mover::new(cluster, STORE, 1 << 20, reading, queue, pacing, tasks);
        let parts = Parts {
            store_id: STORE,
            store,
            partitions,
            buffered: false,
            doubt: Doubt::None,
            doubted: false,
            mover,
            served: Arc::clone(&served),
            figures: Arc::clone(&figures),
        };
        let (ended, end) = oneshot::channel();
        start(parts, inputs, ended).unwrap();
        Self { commits, served, figures, reader, end, stream: stream(1), number: 0 }
    }

    /// With partition [`P`] begun.
    async fn begun(disk: &SimulatedDisk) -> Self {
        let mut bench = Self::start_on(disk, queue());
        bench.commits.open(Arc::clone(&bench.stream)).await.unwrap();
        let orders = vec![v1::Order::new(P, T, Order::Begin(v1::Begin {}))];
        let reply = bench.durable(v1::Batch { orders, ..v1::Batch::default() }).await;
        assert_eq!(reply.refusals, []);
        bench
    }

    async fn send(&mut self, batch: v1::Batch) {
        self.number += 1;
        self.stream.arrived(self.number, true).unwrap();
        let batch = v1::Batch { number: self.number, ..batch };
        self.commits.batch(&self.stream, batch).await.unwrap();
    }

    async fn durable(&mut self, batch: v1::Batch) -> v1::ReplicateReply {
        self.send(batch).await;
        self.heard(self.number).await
    }

    /// What the stream says when a batch is acknowledged.
    async fn heard(&self, through: u64) -> v1::ReplicateReply {
        loop {
            let next = tokio::time::timeout(PATIENCE, self.stream.next()).await.unwrap();
            let reply = next.unwrap().unwrap();
            if reply.durable_through == through {
                return reply;
            }
        }
    }

    async fn stop(self) {
        self.commits.stop();
        tokio::time::timeout(PATIENCE, self.end).await.unwrap().unwrap().unwrap();
    }
}

fn put(seq: u64, key: &str, value: &[u8]) -> Bytes {
    let record = Record {
        kind: Kind::Put,
        flags: Flags::NONE,
        partition: P,
        version: Version::new(Epoch(1), seq),
        expires: 0,
        key: key.as_bytes(),
        value,
    };
    record.to_bytes().unwrap()
}

fn batch(watermark: u64, records: &[Bytes]) -> v1::Batch {
    let watermark = Version::new(Epoch(1), watermark);
    let count = u32::try_from(records.len()).unwrap();
    let sections = vec![v1::Section::new(P, T, watermark, count)];
    v1::Batch { sections, records: records.concat().into(), ..v1::Batch::default() }
}

#[tokio::test]
async fn everything_that_has_arrived_is_one_commit() {
    let disk = SimulatedDisk::new(1);
    Bench::begun(&disk).await.stop().await;
    let (commits, inputs) = queue();
    let stream = stream(1);
    let opening = tokio::spawn({
        let (commits, stream) = (commits.clone(), Arc::clone(&stream));
        async move { commits.open(stream).await }
    });
    while inputs.0.is_empty() {
        tokio::task::yield_now().await;
    }
    for number in 1..=50 {
        stream.arrived(number, true).unwrap();
        let batch = v1::Batch { number, ..batch(0, &[put(number, "key", b"value")]) };
        commits.batch(&stream, batch).await.unwrap();
    }
    let mut bench = Bench::start_on(&disk, (commits, inputs));
    bench.stream = stream;
    opening.await.unwrap().unwrap();
    bench.heard(50).await;
    let counts = bench.figures.counts();
    assert_eq!((counts.commits, counts.batches, counts.records), (1, 50, 50));
    bench.stop().await;
}

#[tokio::test]
async fn a_full_disk_refuses_records_and_not_orders() {
    let disk = SimulatedDisk::new(2);
    let mut bench = Bench::begun(&disk).await;
    disk.set_capacity(2 << 20);
    let value = vec![1; 100_000];
    let refused = loop {
        let seq = bench.number;
        let key = format!("key{seq}");
        let reply = bench.durable(batch(0, &[put(seq, &key, &value)])).await;
        if let [refusal] = reply.refusals.as_slice() {
            break refusal.clone();
        }
    };
    assert_eq!((refused.batch, refused.reason.as_str()), (bench.number, "disk full"));
    let key_hash = KEY.hash(format!("key{}", bench.number - 1).as_bytes());
    assert!(bench.reader.get(P, key_hash).unwrap().is_none());

    let order = v1::Order::new(PartitionId(2), T, Order::Begin(v1::Begin {}));
    let both = v1::Batch { orders: vec![order], ..batch(0, &[put(99, "more", &value)]) };
    let reply = bench.durable(both).await;
    let refused: Vec<_> = reply.refusals.iter().map(|refusal| refusal.partition).collect();
    assert_eq!(refused, [u32::from(P.0)]);
    assert_eq!(bench.served.token(PartitionId(2)), Some(T), "the order was carried out");
    disk.set_capacity(1 << 30);
    assert_eq!(bench.durable(batch(0, &[put(99, "more", &value)])).await.refusals, []);
    bench.stop().await;
}

#[tokio::test]
async fn a_failed_sync_acknowledges_nothing_and_ends_everything() {
    let disk = SimulatedDisk::new(3);
    let mut bench = Bench::begun(&disk).await;
    bench.durable(batch(0, &[put(1, "kept", b"value")])).await;
    disk.fail(Operation::Sync, 0);
    bench.send(batch(0, &[put(2, "lost", b"value")])).await;
    let end = tokio::time::timeout(PATIENCE, bench.stream.next()).await.unwrap();
    assert_eq!(end.unwrap().unwrap_err().code(), tonic::Code::Internal);
    let ended = tokio::time::timeout(PATIENCE, bench.end).await.unwrap().unwrap();
    assert!(ended.is_err());
    assert_eq!(bench.served.token(P), None, "nothing is served any more");
    disk.power_cut();
    let reader = open_store(&disk).reader();
    assert!(reader.get(P, KEY.hash(b"kept")).unwrap().is_some());
}

#[tokio::test]
async fn two_streams_of_a_leader_stand_side_by_side_and_no_more() {
    let mut bench = Bench::begun(&SimulatedDisk::new(4)).await;
    let (second, third) = (stream(2), stream(3));
    bench.commits.open(Arc::clone(&second)).await.unwrap();
    assert!(!bench.stream.is_closed());
    bench.commits.open(Arc::clone(&third)).await.unwrap();
    assert!(bench.stream.is_closed() && !second.is_closed());
    bench.send(batch(0, &[put(1, "late", b"of a stream that is over")])).await;
    let next_leader = Arc::new(LeaderStream::new(4, Epoch(2)));
    bench.commits.open(next_leader).await.unwrap();
    assert!(second.is_closed() && third.is_closed());
    assert!(bench.reader.get(P, KEY.hash(b"late")).unwrap().is_none());
    bench.stop().await;
}

#[tokio::test]
async fn after_a_crash_only_the_last_few_records_may_be_unsettled() {
    let disk = SimulatedDisk::new(5);
    let mut bench = Bench::begun(&disk).await;
    for seq in 1..=200 {
        let key = format!("key{seq}");
        bench.durable(batch(seq - 1, &[put(seq, &key, b"value")])).await;
    }
    let disk = disk.copy(6);
    disk.power_cut();
    let reader = open_store(&disk).reader();
    let above = reader.above_watermark(P).len();
    assert!((1..=70).contains(&above), "{above}");
    bench.stop().await;
}

#[tokio::test]
async fn a_record_that_the_store_cannot_take_is_refused() {
    let mut bench = Bench::begun(&SimulatedDisk::new(7)).await;
    let too_large = put(1, "key", &vec![0; 300 << 10]);
    let reply = bench.durable(batch(0, &[too_large])).await;
    assert_eq!(reply.refusals.len(), 1, "{reply:?}");
    assert_eq!(bench.durable(batch(0, &[put(2, "key", b"value")])).await.refusals, []);
    bench.stop().await;
}

#[tokio::test]
async fn a_probe_is_answered_when_something_was_written() {
    let mut bench = Bench::begun(&SimulatedDisk::new(9)).await;
    for _ in 0..20 {
        let before = bench.reader.sync_statistics().durations.count();
        bench.durable(v1::Batch { probe: true, ..v1::Batch::default() }).await;
        assert!(bench.reader.sync_statistics().durations.count() > before);
    }
}
