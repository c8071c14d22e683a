//! Peers that are there and say nothing: they accept a call, answer pings, and get no further. What a
//! broken connection would end, such a peer hangs for ever, unless the caller has a deadline.

use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, Stream, StreamExt};
use parking_lot::Mutex;
use tonic::{Request, Response, Status, Streaming};

use super::hosts::{LEADER, LEADER_PORT, NODE_PORT, PARTITIONS};
use crate::rpc::v1::membership_client::MembershipClient;
use crate::rpc::v1::membership_server::{Membership, MembershipServer};
use crate::rpc::v1::register_reply::Outcome;
use crate::rpc::v1::replica_server::{Replica, ReplicaServer};
use crate::rpc::v1::transfer_server::{Transfer, TransferServer};
use crate::rpc::{convert, transport, v1};
use crate::runtime::{clock, identity, listen};
use crate::types::{BootId, ClusterId, StoreId};

pub(super) const CLUSTER: ClusterId = ClusterId::from_number(77);

/// Where a peer gets no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum At {
    Nothing,
    Register,
    Heartbeat,
    HeartbeatReplies,
    Leave,
    LeaveProgress,
    Replicate,
    Holdings,
    Pull,
    PullReplies,
}

/// A peer that is stuck, and when it was called. Clones are the same peer.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    stuck: At,
    calls: Arc<Mutex<Vec<(At, Duration)>>>,
}

type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Peer {
    pub(super) fn stuck(stuck: At) -> Self {
        Self { stuck, calls: Arc::default() }
    }

    /// When it was called so, in simulated time.
    pub(super) fn calls(&self, at: At) -> Vec<Duration> {
        let calls = self.calls.lock();
        calls.iter().filter(|(call, _)| *call == at).map(|(_, when)| *when).collect()
    }

    async fn called(&self, at: At) {
        let now = Duration::from_micros(clock::now().0);
        self.calls.lock().push((at, now));
        if self.stuck == at {
            pending::<()>().await;
        }
    }

    fn replies<T: Send + Sync + 'static>(
        &self,
        at: At,
        replies: impl Stream<Item = Result<T, Status>> + Send + 'static,
    ) -> Response<Replies<T>> {
        Response::new(if self.stuck == at {
            Box::pin(stream::pending())
        } else {
            Box::pin(replies)
        })
    }

    /// Serves nodes as a leader would.
    pub(super) async fn lead(self) -> turmoil::Result {
        let (listener, _) = listen::listen(([0, 0, 0, 0], LEADER_PORT).into()).await?;
        let router = transport::server().add_service(MembershipServer::new(self));
        router.serve_with_incoming(transport::incoming(listener)).await?;
        Ok(())
    }

    /// Serves a leader and other nodes as a node would.
    pub(super) async fn serve(self) -> turmoil::Result {
        let (listener, _) = listen::listen(([0, 0, 0, 0], NODE_PORT).into()).await?;
        let router = transport::server()
            .add_service(ReplicaServer::new(self.clone()))
            .add_service(TransferServer::new(self));
        router.serve_with_incoming(transport::incoming(listener)).await?;
        Ok(())
    }

    /// Serves, and is a member in good standing of the leader's cluster, as far as anybody can tell.
    pub(super) async fn take_part(self, name: String) -> turmoil::Result {
        tokio::spawn(async move { self.serve().await.map_err(|error| error.to_string()) });
        let (store, boot): (StoreId, BootId) = (identity::store_id(), identity::boot_id());
        let store_id = move || convert::id_bytes(store.as_bytes());
        let boot_id = move || convert::id_bytes(boot.as_bytes());
        let endpoint = transport::endpoint(&format!("{LEADER}:{LEADER_PORT}"))?;
        let mut leader = MembershipClient::new(transport::connect_lazy(&endpoint));
        let beat = move || v1::HeartbeatRequest {
            store_id: store_id(),
            boot_id: boot_id(),
            ..<_>::default()
        };
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let request = v1::RegisterRequest {
                store_id: store_id(),
                boot_id: boot_id(),
                address: format!("{name}:{NODE_PORT}"),
                format: transport::FORMAT,
                ..<_>::default()
            };
            let Ok(reply) = leader.register(request).await else { continue };
            if !matches!(reply.into_inner().outcome, Some(Outcome::Accepted(_))) {
                continue;
            }
            let every = Duration::from_millis(250);
            let beats = stream::unfold((), move |()| async move {
                tokio::time::sleep(every).await;
                Some(((), ()))
            });
            let Ok(replies) = leader.heartbeat(beats.map(move |()| beat())).await else { continue };
            let mut replies = replies.into_inner();
            while let Ok(Some(_)) = replies.message().await {}
        }
    }
}

fn accepted() -> v1::RegisterReply {
    let accepted = v1::Accepted {
        cluster_id: convert::id_bytes(CLUSTER.as_bytes()),
        index_key: Bytes::from_static(&[9; 16]),
        epoch: 1,
        partitions: PARTITIONS.into(),
        heartbeat_interval_ms: 250,
    };
    v1::RegisterReply { outcome: Some(Outcome::Accepted(accepted)) }
}

#[tonic::async_trait]
impl Membership for Peer {
    type HeartbeatStream = Replies<v1::HeartbeatReply>;
    type LeaveStream = Replies<v1::LeaveProgress>;

    async fn register(
        &self,
        _: Request<v1::RegisterRequest>,
    ) -> Result<Response<v1::RegisterReply>, Status> {
        self.called(At::Register).await;
        Ok(Response::new(accepted()))
    }

    async fn heartbeat(
        &self,
        request: Request<Streaming<v1::HeartbeatRequest>>,
    ) -> Result<Response<Self::HeartbeatStream>, Status> {
        self.called(At::Heartbeat).await;
        let live = |_| Ok(v1::HeartbeatReply { state: "live".into(), register_again: false });
        Ok(self.replies(At::HeartbeatReplies, request.into_inner().map(live)))
    }

    async fn leave(
        &self,
        _: Request<v1::LeaveRequest>,
    ) -> Result<Response<Self::LeaveStream>, Status> {
        self.called(At::Leave).await;
        let done = v1::LeaveProgress { partitions_left: 0, may_stop: true };
        Ok(self.replies(At::LeaveProgress, stream::iter([Ok(done)])))
    }
}

#[tonic::async_trait]
impl Replica for Peer {
    type ReplicateStream = Replies<v1::ReplicateReply>;

    async fn replicate(
        &self,
        _: Request<Streaming<v1::ReplicateRequest>>,
    ) -> Result<Response<Self::ReplicateStream>, Status> {
        self.called(At::Replicate).await;
        Ok(Response::new(Box::pin(stream::pending())))
    }

    async fn holdings(
        &self,
        _: Request<v1::HoldingsRequest>,
    ) -> Result<Response<v1::HoldingsReply>, Status> {
        self.called(At::Holdings).await;
        Err(Status::unimplemented("this peer holds nothing"))
    }
}

#[tonic::async_trait]
impl Transfer for Peer {
    type PullStream = Replies<v1::PullReply>;

    async fn pull(
        &self,
        _: Request<v1::PullRequest>,
    ) -> Result<Response<Self::PullStream>, Status> {
        self.called(At::Pull).await;
        Ok(self.replies(At::PullReplies, stream::empty()))
    }
}
