//! A shard between clients and stores that the test plays by hand.

use bytes::Bytes;
use tokio::sync::mpsc;

use super::*;
use crate::leader::gateway::ShardRequest;
use crate::leader::link::news::{Heard, Session};
use crate::leader::link::piece::{LinkSender, Piece, Queues};
use crate::leader::view::ClusterView;
use crate::logic::comparison::Doubt;
use crate::logic::partition::cache::Cache;
use crate::logic::partition::io::{Attempt, FenceAnswer};
use crate::net::batch::{Answer, ReplyReceiver, ReplySender};
use crate::protocol::command::Operation as Request;
use crate::protocol::reply::{CopyState, Outcome};
use crate::rpc::v1;
use crate::types::{
    Configuration, ConfigurationVersion, Epoch, IndexKey, Key, Member, Token, Version,
};

const PARTITIONS: u16 = 4;

/// A shard that owns every partition, and two stores.
fn recall() -> Recall {
    Recall::new(Cache::new(1 << 20))
}

struct Bench {
    shard: Shard,
    now: Moment,
    proposals: mpsc::UnboundedReceiver<Proposal>,
    stores: [Queues; 2],
    session: u64,
    client: (ReplySender, ReplyReceiver),
    slot: u64,
}

fn store(at: usize) -> StoreId {
    StoreId::from_number(at as u128 + 1)
}

fn token(at: usize) -> Token {
    Token(at as u64 + 1)
}

impl Bench {
    /// Both stores are members of every partition.
    fn new() -> Self {
        let (propose, proposals) = mpsc::unbounded_channel();
        let settings = Settings { copies: 2, floor: 2, ..Settings::default() };
        let mut shard = Shard::new(0, 1, settings, propose, Views::new(), recall());
        let members = [0, 1].map(|at| Member { store: store(at), token: token(at) });
        let version = ConfigurationVersion::FIRST;
        let configuration = Configuration { version, members: members.into_iter().collect() };
        let configurations =
            (0..PARTITIONS).map(|id| (PartitionId(id), configuration.clone())).collect();
        shard.begin(&Founding {
            index_key: IndexKey([7; 16]),
            epoch: Epoch(1),
            began: Moment::ZERO,
            configurations,
            unconfirmed: [].into(),
        });
        let stores = [0, 1].map(|_| LinkSender::new().1);
        let client = ReplySender::new();
        Self { shard, now: Moment(1), proposals, stores, session: 0, client, slot: 0 }
    }

    /// Both stores connected and fenced.
    fn ready() -> Self {
        let mut bench = Self::new();
        for at in 0..2 {
            bench.connect(at);
            bench.answer_fences(at);
            while bench.next(at).is_some() {}
        }
        bench
    }

    fn turn(&mut self, events: Vec<Event>, batches: Vec<ShardBatch>) {
        self.now = self.now + Duration::from_millis(1);
        let (mut events, mut batches) = (events, batches);
        self.shard.turn(self.now, &mut events, &mut batches, false);
    }

    fn wait(&mut self, time: Duration) {
        self.now = self.now + time;
        self.shard.turn(self.now, &mut Vec::new(), &mut Vec::new(), true);
    }

    fn news(&mut self, at: usize, session: u64, news: News) {
        let event = LinkEvent { store: store(at), session: Session(session), news };
        self.turn(vec![Event::Link(event)], Vec::new());
    }

    fn hear(&mut self, at: usize, heard: Heard) {
        let session = self.shard.carrier.links[&store(at)].session().0;
        self.news(at, session, News::Heard(heard));
    }

    fn connect(&mut self, at: usize) {
        self.session += 1;
        let (sender, queues) = LinkSender::new();
        self.stores[at] = queues;
        self.news(at, self.session, News::Connected { sender, address: "there:1".into() });
    }

    fn next(&mut self, at: usize) -> Option<Piece> {
        self.stores[at].small.try_recv().ok()
    }

    /// The store answers the fences it was sent, holding nothing; gives what it is sent then.
    fn answer_fences(&mut self, at: usize) -> Option<Piece> {
        let piece = self.next(at).expect("fences");
        assert_eq!(piece.orders.len(), usize::from(PARTITIONS), "all in one piece");
        let fences = piece.orders.iter().map(|order| {
            let Some(v1::order::Order::Fence(fence)) = order.order else { panic!("{order:?}") };
            let answer = FenceAnswer {
                attempt: Attempt(fence.attempt),
                member: true,
                doubt: Doubt::None,
                watermark: Version::ZERO,
                records: Vec::new(),
                floor: Version::ZERO,
                tombstones: 0,
            };
            (PartitionId(u16::try_from(order.partition).unwrap()), Token(order.token), answer)
        });
        let fences = fences.collect();
        self.hear(at, Heard { fences, ..Heard::default() });
        self.next(at)
    }

    fn ask(&mut self, partition: u16, operations: Vec<Request>) {
        let deadline = self.now + Duration::from_secs(5);
        let partition = PartitionId(partition);
        let requests = operations.into_iter().map(|operation| {
            self.slot += 1;
            ShardRequest { slot: self.slot, partition, deadline, operation }
        });
        let batch = ShardBatch { requests: requests.collect(), connection: self.client.0.clone() };
        self.turn(Vec::new(), vec![batch]);
    }

    fn durable(&mut self, at: usize, through: u64) {
        let durable = Some((Lane::Small, through));
        self.hear(at, Heard { durable, ..Heard::default() });
    }

    /// The answers that came in one message.
    fn answers(&mut self) -> Vec<Answer> {
        self.client.1.try_recv().unwrap_or_default()
    }
}

fn key(text: &'static str) -> Key {
    Key(Bytes::from_static(text.as_bytes()))
}

fn set(text: &'static str) -> Request {
    Request::Set { key: key(text), value: Bytes::from_static(b"value") }
}

#[test]
fn a_batch_of_writes_is_one_piece_to_each_store_and_one_message_back() {
    let mut bench = Bench::ready();
    let delete = Request::Delete { key: key("c") };
    bench.ask(1, vec![set("a"), set("b"), delete]);
    let pieces = [bench.next(0).unwrap(), bench.next(1).unwrap()];
    for (at, piece) in pieces.iter().enumerate() {
        let [section] = piece.sections.as_slice() else { panic!("{:?}", piece.sections) };
        assert_eq!((section.partition, section.token, section.records), (1, token(at).0, 3));
    }
    assert_eq!(pieces[0].records, pieces[1].records);
    bench.durable(0, pieces[0].sequence);
    assert!(bench.answers().is_empty(), "one copy is not enough");
    bench.durable(1, pieces[1].sequence);
    let stored = Outcome::Stored { copies: 2, wanted: 2 };
    assert_eq!(bench.answers(), [(1, stored.clone()), (2, stored), (3, Outcome::Deleted)]);
}

#[test]
fn a_write_that_a_new_session_lacks_is_sent_again() {
    let mut bench = Bench::ready();
    bench.ask(1, vec![set("a")]);
    let first = bench.next(0).unwrap();
    bench.durable(0, first.sequence);
    bench.connect(1);
    let again = bench.answer_fences(1).expect("sent again");
    assert_eq!(again.records, first.records);
    bench.durable(1, again.sequence);
    assert_eq!(bench.answers().len(), 1);
}

#[test]
fn what_an_older_session_says_is_not_believed() {
    let mut bench = Bench::ready();
    bench.ask(1, vec![set("a")]);
    let first = bench.next(0).unwrap();
    bench.durable(0, first.sequence);
    let old = bench.shard.carrier.links[&store(1)].session().0;
    bench.connect(1);
    let again = bench.answer_fences(1).expect("sent again");
    let durable = Some((Lane::Small, again.sequence));
    bench.news(1, old, News::Heard(Heard { durable, ..Heard::default() }));
    assert!(bench.answers().is_empty());
    bench.news(1, old, News::Disconnected);
    assert!(bench.shard.carrier.links.contains_key(&store(1)), "the new session goes on");
    bench.durable(1, again.sequence);
    assert_eq!(bench.answers().len(), 1);
}

#[test]
fn where_a_key_lives_is_answered_with_its_version() {
    let mut bench = Bench::ready();
    bench.ask(1, vec![Request::Where { key: key("a") }]);
    let read = (0..2).find_map(|at| bench.next(at)).unwrap().reads.remove(0);
    let write = crate::logic::partition::io::Write {
        version: Version::new(Epoch(1), 0),
        content: crate::logic::partition::io::Content {
            key: key("a"),
            value: Some(Bytes::new()),
            expires: 0,
        },
    };
    let answer = crate::logic::partition::io::ReadAnswer::Found(write);
    let reads = vec![(PartitionId(1), crate::logic::partition::io::ReadId(read.id), answer)];
    bench.hear(0, Heard { reads, ..Heard::default() });
    let answers = bench.answers();
    let [(1, Outcome::Located(location))] = answers.as_slice() else { panic!("{answers:?}") };
    assert_eq!(location.version, Some(Version::new(Epoch(1), 0)));
    assert!(location.copies.iter().all(|copy| copy.state == CopyState::InSync));
    assert_eq!(location.copies.len(), 2);
}

#[test]
fn a_store_with_too_much_on_its_way_makes_writers_wait_elsewhere() {
    let mut bench = Bench::ready();
    let sender = LinkSender::new().0;
    sender.gauge().queued(1 << 40);
    let outbox = Outbox::new(0, Session(9), sender, "there:1".into());
    bench.shard.carrier.links.insert(store(0), outbox);
    bench.ask(1, vec![set("a")]);
    assert_eq!(bench.answers(), [(1, Outcome::Busy)]);
}

#[test]
fn without_a_cluster_nothing_is_promised() {
    let mut bench = Bench::new();
    bench.shard.index_key = None;
    bench.ask(1, vec![set("a"), Request::Get { key: key("a") }]);
    let not_enough = Outcome::NotEnoughNodes { have: 0, need: 2 };
    assert_eq!(bench.answers(), [(1, not_enough), (2, Outcome::Unavailable)]);
}

#[test]
fn whoever_waits_is_answered_when_the_metadata_turns_out_to_be_an_older_copy() {
    let mut bench = Bench::ready();
    bench.ask(1, vec![set("a")]);
    bench.ask(2, vec![Request::Get { key: key("b") }]);
    assert!(bench.answers().is_empty());
    bench.turn(vec![Event::Outdated], Vec::new());
    assert_eq!(bench.answers(), [(1, Outcome::Uncertain)]);
    assert_eq!(bench.answers(), [(2, Outcome::Unavailable)]);
    bench
        .shard
        .carrier
        .views
        .publish(ClusterView { refusal: Some("an older copy".into()), ..ClusterView::default() });
    bench.ask(1, vec![set("a"), Request::Get { key: key("a") }]);
    assert_eq!(bench.answers(), [(3, Outcome::NoMetadata), (4, Outcome::NoMetadata)]);
    assert!(bench.proposals.try_recv().is_err(), "nothing is changed by it any more");
}

#[test]
fn a_failed_member_is_proposed_to_go_and_a_spare_is_filled() {
    let mut bench = Bench::ready();
    bench.shard.settings.floor = 1;
    bench.turn(vec![Event::Copies { wanted: 2, floor: 1 }], Vec::new());
    bench.ask(1, vec![set("a")]);
    let first = bench.next(0).unwrap();
    bench.durable(0, first.sequence);
    let session = bench.shard.carrier.links[&store(1)].session().0;
    bench.news(1, session, News::Disconnected);
    let proposal =
        bench.proposals.try_recv().expect("the set shrinks before the write is acknowledged");
    assert_eq!(proposal.partition, PartitionId(1));
    assert!(bench.answers().is_empty());
    let done = vec![(proposal.partition, proposal.configuration.version)];
    bench.turn(vec![Event::Configured(done)], Vec::new());
    assert_eq!(bench.answers(), [(1, Outcome::Stored { copies: 1, wanted: 2 })]);
    let told = bench.next(0).unwrap();
    assert!(matches!(told.orders[0].order, Some(v1::order::Order::Configuration(_))));

    bench.wait(Duration::from_mins(1));
    bench.connect(1);
    bench.wait(Duration::from_secs(2));
    let mut orders = std::iter::from_fn(|| bench.next(1)).flat_map(|piece| piece.orders);
    let start = orders.find(|order| matches!(order.order, Some(v1::order::Order::Start(_))));
    assert_eq!(start.expect("the copy is filled again").partition, 1);
    assert_eq!(bench.shard.carrier.copying.len(), 1);
}
