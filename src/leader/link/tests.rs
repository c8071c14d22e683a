//! A link to a node that the test plays by hand.

use std::net::SocketAddr;
use std::pin::Pin;

use bytes::Bytes;
use futures::Stream;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Request, Response, Status};

use super::*;
use crate::leader::link::news::Heard;
use crate::leader::link::piece::Piece;
use crate::rpc::v1::replica_server::{Replica, ReplicaServer};
use crate::rpc::v1::replicate_request::Kind;
use crate::runtime::sockets::TcpListener;

const SOON: Duration = Duration::from_secs(10);

/// One stream, as its node sees it.
struct NodeStream {
    open: v1::Open,
    batches: mpsc::UnboundedReceiver<v1::Batch>,
    replies: mpsc::UnboundedSender<Result<v1::ReplicateReply, Status>>,
}

#[derive(Clone)]
struct Node {
    streams: mpsc::UnboundedSender<NodeStream>,
}

type Replies = Pin<Box<dyn Stream<Item = Result<v1::ReplicateReply, Status>> + Send>>;

#[tonic::async_trait]
impl Replica for Node {
    type ReplicateStream = Replies;

    async fn holdings(
        &self,
        _: Request<v1::HoldingsRequest>,
    ) -> Result<Response<v1::HoldingsReply>, Status> {
        Err(Status::unimplemented("links do not ask"))
    }

    async fn replicate(
        &self,
        request: Request<Streaming<v1::ReplicateRequest>>,
    ) -> Result<Response<Replies>, Status> {
        let mut inbound = request.into_inner();
        let first = inbound.message().await?.and_then(|message| message.kind);
        let Some(Kind::Open(open)) = first else { return Err(Status::invalid_argument("no Open")) };
        let (batch, batches) = mpsc::unbounded_channel();
        let (replies, answers) = mpsc::unbounded_channel();
        let _ = self.streams.send(NodeStream { open, batches, replies });
        tokio::spawn(async move {
            while let Some(Ok(message)) = inbound.next().await {
                if let Some(Kind::Batch(message)) = message.kind {
                    let _ = batch.send(message);
                }
            }
        });
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(answers))))
    }
}

async fn node() -> (SocketAddr, mpsc::UnboundedReceiver<NodeStream>, Tasks) {
    let listener = TcpListener::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (streams, opened) = mpsc::unbounded_channel();
    let tasks = Tasks::new();
    let stop = tasks.clone();
    tasks.spawn(async move {
        let server = transport::server().add_service(ReplicaServer::new(Node { streams }));
        let serving = server.serve_with_incoming(transport::incoming(listener));
        tokio::select! {
            ended = serving => ended.unwrap(),
            () = stop.stopping() => {}
        }
    });
    (address, opened, tasks)
}

async fn soon<T>(future: impl Future<Output = Option<T>>) -> T {
    tokio::time::timeout(SOON, future).await.expect("in time").expect("not closed")
}

struct Fixture {
    link: Link,
    events: mpsc::Receiver<Event>,
    streams: mpsc::UnboundedReceiver<NodeStream>,
    node: Tasks,
    tasks: Tasks,
}

async fn fixture(large_lane: bool) -> Fixture {
    let (address, streams, node) = node().await;
    let (shard, events) = mpsc::channel(16);
    let tasks = Tasks::new();
    let options = Options {
        store: StoreId::from_number(1),
        boot: BootId::from_number(2),
        address: address.to_string().into(),
        cluster: ClusterId::from_number(3),
        epoch: Epoch(4),
        leader: BootId::from_number(5),
        shards: vec![shard],
        max_value_bytes: 1 << 20,
        durations: <_>::default(),
        large_lane,
    };
    Fixture { link: Link::start(options, &tasks), events, streams, node, tasks }
}

impl Fixture {
    async fn news(&mut self) -> (Session, News) {
        match soon(self.events.recv()).await {
            Event::Link(event) => (event.session, event.news),
            other => panic!("{other:?}"),
        }
    }

    async fn connected(&mut self) -> (Session, LinkSender) {
        match self.news().await {
            (session, News::Connected { sender, .. }) => (session, sender),
            other => panic!("{other:?}"),
        }
    }

    async fn heard(&mut self) -> Heard {
        match self.news().await {
            (_, News::Heard(heard)) => heard,
            other => panic!("{other:?}"),
        }
    }
}

fn piece(sequence: u64) -> Piece {
    let sections = vec![v1::Section { partition: 5, token: 6, records: 1, ..<_>::default() }];
    Piece { sequence, sections, records: Bytes::from_static(b"record"), ..Piece::default() }
}

fn durable(through: u64) -> v1::ReplicateReply {
    v1::ReplicateReply { durable_through: through, ..<_>::default() }
}

#[tokio::test]
async fn what_a_shard_sends_is_reported_durable_when_the_node_says_so() {
    let mut fixture = fixture(false).await;
    let mut stream = soon(fixture.streams.recv()).await;
    assert_eq!(stream.open.epoch, 4);
    let (_, sender) = fixture.connected().await;
    assert!(!sender.has_large_lane());
    sender.send(Lane::Small, piece(1));
    let batch = soon(stream.batches.recv()).await;
    assert_eq!((batch.number, batch.records.as_ref()), (1, &b"record"[..]));
    let gauge = fixture.link.gauge().unwrap();
    assert!(gauge.stuck_since().is_some(), "something is outstanding");
    stream.replies.send(Ok(durable(1))).unwrap();
    assert_eq!(fixture.heard().await.durable, Some((Lane::Small, 1)));
    assert_eq!(gauge.stuck_since(), None);
    drop(fixture.link);
    assert!(matches!(
        soon(fixture.events.recv()).await,
        Event::Link(LinkEvent { news: News::Disconnected, .. })
    ));
    fixture.node.finish(SOON).await;
}

#[tokio::test]
async fn a_broken_stream_is_told_and_opened_again() {
    let mut fixture = fixture(true).await;
    let [small, large] = [soon(fixture.streams.recv()).await, soon(fixture.streams.recv()).await];
    let (first, _) = fixture.connected().await;
    drop(small);
    large.replies.send(Err(Status::aborted("the end"))).unwrap();
    let (session, news) = fixture.news().await;
    assert_eq!(session, first);
    assert!(matches!(news, News::Disconnected));
    let (second, sender) = fixture.connected().await;
    assert!(second > first);
    let mut streams = [soon(fixture.streams.recv()).await, soon(fixture.streams.recv()).await];
    sender.send(Lane::Large, piece(1));
    sender.send(Lane::Small, piece(1));
    for stream in &mut streams {
        assert_eq!(soon(stream.batches.recv()).await.number, 1, "each lane counts for itself");
        stream.replies.send(Ok(durable(1))).unwrap();
        assert!(fixture.heard().await.durable.is_some());
    }
    assert!(fixture.tasks.finish(SOON).await);
    fixture.node.finish(SOON).await;
}

#[tokio::test]
async fn a_node_that_breaks_the_rules_loses_its_link() {
    let mut fixture = fixture(false).await;
    let stream = soon(fixture.streams.recv()).await;
    fixture.connected().await;
    stream.replies.send(Ok(durable(9))).unwrap();
    assert!(matches!(fixture.news().await, (_, News::Disconnected)));
    assert!(fixture.tasks.finish(SOON).await);
    fixture.node.finish(SOON).await;
}
