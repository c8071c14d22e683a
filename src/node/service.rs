//! The stream of the leader: its first message says who speaks, the others are batches.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use futures::stream;
use tonic::{Request, Response, Status, Streaming};

use super::core::{Core, CoreWatch, opened, protocol};
use super::holdings::holdings;
use super::stream::LeaderStream;
use crate::rpc::v1::replicate_request::Kind;
use crate::rpc::{Malformed, v1};

/// How long a stream may be silent before it says who speaks.
const FIRST_MESSAGE: Duration = Duration::from_secs(5);

/// The service `Replica`.
#[derive(Clone, Debug)]
pub(crate) struct ReplicaService {
    core: CoreWatch,
}

impl ReplicaService {
    pub(crate) fn new(core: CoreWatch) -> Self {
        Self { core }
    }
}

type Replies = Pin<Box<dyn Stream<Item = Result<v1::ReplicateReply, Status>> + Send>>;

#[tonic::async_trait]
impl v1::replica_server::Replica for ReplicaService {
    type ReplicateStream = Replies;

    async fn holdings(
        &self,
        request: Request<v1::HoldingsRequest>,
    ) -> Result<Response<v1::HoldingsReply>, Status> {
        let core = opened(&self.core).await?;
        let open = request.into_inner().open.ok_or(Malformed("nobody asks"))?;
        holdings(core, &open).await.map(Response::new)
    }

    /// Answers when the leader's epoch is durably promised, and not before.
    async fn replicate(
        &self,
        request: Request<Streaming<v1::ReplicateRequest>>,
    ) -> Result<Response<Replies>, Status> {
        let core = opened(&self.core).await?;
        let mut inbound = request.into_inner();
        let open = first_message(&mut inbound).await?;
        let stream = core.stream(&open)?;
        core.commits.open(Arc::clone(&stream)).await?;
        tracing::info!(epoch = %stream.epoch(), "the leader has opened a stream");
        let pump = pump(Arc::clone(&core), Arc::clone(&stream), inbound);
        core.tasks.spawn(pump);
        Ok(Response::new(replies(stream)))
    }
}

async fn first_message(inbound: &mut Streaming<v1::ReplicateRequest>) -> Result<v1::Open, Status> {
    let first = tokio::time::timeout(FIRST_MESSAGE, inbound.message()).await;
    let first = first.map_err(|_| Status::deadline_exceeded("no message came"))??;
    match first.and_then(|message| message.kind) {
        Some(Kind::Open(open)) => Ok(open),
        _ => Err(protocol("the first message of a stream must be Open")),
    }
}

/// Carries batches in, until either side ends the stream.
async fn pump(
    core: Arc<Core>,
    stream: Arc<LeaderStream>,
    mut inbound: Streaming<v1::ReplicateRequest>,
) {
    loop {
        let message = tokio::select! {
            message = inbound.message() => message,
            () = stream.closed() => break,
        };
        let batch = match message.map(|message| message.map(|message| message.kind)) {
            Ok(Some(Some(Kind::Batch(batch)))) => batch,
            Ok(Some(_)) => break stream.close(protocol("after Open there are only batches")),
            Ok(None) => break,
            Err(status) => {
                tracing::info!(reason = status.message(), "the leader's stream broke");
                break stream.close(Status::cancelled("the stream broke"));
            }
        };
        if let Err(status) = core.accept(&stream, batch).await {
            break stream.close(status);
        }
    }
    core.commits.ended(stream);
}

/// Ends the stream when nobody listens any more.
struct Listening(Arc<LeaderStream>);

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.close(Status::cancelled("nobody listens any more"));
    }
}

fn replies(stream: Arc<LeaderStream>) -> Replies {
    Box::pin(stream::unfold(Listening(stream), |listening| async {
        let next = listening.0.next().await?;
        Some((next, listening))
    }))
}
