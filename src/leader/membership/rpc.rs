//! The service that nodes call: every call becomes a message to the coordinator.

use std::net::SocketAddr;
use std::pin::Pin;

use futures::{Stream, StreamExt};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{Beat, Call};
use crate::logic::membership::{Heard, Registration};
use crate::rpc::{Malformed, convert, v1};
use crate::runtime::tasks::Tasks;
use crate::types::{ConfigurationVersion, Epoch};

/// Progress reports that wait for a node that is leaving.
const PROGRESS: usize = 16;

/// The service `Membership`.
#[derive(Clone, Debug)]
pub(crate) struct MembershipService {
    calls: mpsc::Sender<Call>,
    tasks: Tasks,
}

impl MembershipService {
    pub(super) fn new(calls: mpsc::Sender<Call>, tasks: Tasks) -> Self {
        Self { calls, tasks }
    }
}

fn stopping() -> Status {
    Status::unavailable("the leader stops")
}

async fn ask<T>(
    calls: &mpsc::Sender<Call>,
    call: impl FnOnce(oneshot::Sender<T>) -> Call,
) -> Result<T, Status> {
    let (reply, answer) = oneshot::channel();
    calls.send(call(reply)).await.map_err(|_| stopping())?;
    answer.await.map_err(|_| stopping())
}

type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl v1::membership_server::Membership for MembershipService {
    async fn register(
        &self,
        request: Request<v1::RegisterRequest>,
    ) -> Result<Response<v1::RegisterReply>, Status> {
        let from = request.remote_addr();
        let request = request.into_inner();
        let registration = registration(&request, from)?;
        tracing::debug!(store = %registration.store, address = registration.address, "registers");
        let (disk, tail) = (request.disk.unwrap_or_default(), request.tail());
        let software = request.software;
        ask(&self.calls, |reply| Call::Register { registration, software, tail, disk, reply })
            .await
            .map(Response::new)
    }

    type HeartbeatStream = Streamed<v1::HeartbeatReply>;

    async fn heartbeat(
        &self,
        request: Request<Streaming<v1::HeartbeatRequest>>,
    ) -> Result<Response<Self::HeartbeatStream>, Status> {
        let (calls, tasks) = (self.calls.clone(), self.tasks.clone());
        let answers = request.into_inner().then(move |message| {
            let calls = calls.clone();
            async move {
                let beat = beat(&message?)?;
                ask(&calls, |reply| Call::Heartbeat { beat, reply }).await
            }
        });
        let stopped = async move { tasks.stopping().await };
        Ok(Response::new(Box::pin(answers.take_until(Box::pin(stopped)))))
    }

    type LeaveStream = Streamed<v1::LeaveProgress>;

    async fn leave(
        &self,
        request: Request<v1::LeaveRequest>,
    ) -> Result<Response<Self::LeaveStream>, Status> {
        let request = request.into_inner();
        let store = convert::identity(&request.store_id)?;
        let boot = convert::identity(&request.boot_id)?;
        let (progress, reports) = mpsc::channel(PROGRESS);
        self.calls.send(Call::Leave { store, boot, progress }).await.map_err(|_| stopping())?;
        Ok(Response::new(Box::pin(ReceiverStream::new(reports).map(Ok))))
    }
}

fn beat(message: &v1::HeartbeatRequest) -> Result<Beat, Malformed> {
    Ok(Beat {
        store: convert::identity(&message.store_id)?,
        boot: convert::identity(&message.boot_id)?,
        disk: message.disk.unwrap_or_default(),
        records: message.records,
        bytes: message.bytes,
        copied_bytes: message.copied_bytes,
    })
}

fn registration(
    request: &v1::RegisterRequest,
    from: Option<SocketAddr>,
) -> Result<Registration, Malformed> {
    let versions = &request.configuration_versions;
    Ok(Registration {
        store: convert::identity(&request.store_id)?,
        cluster: convert::optional_identity(&request.cluster_id)?,
        boot: convert::identity(&request.boot_id)?,
        address: complete(&request.address, from)?,
        admin_address: complete(&request.admin_address, from).unwrap_or_default(),
        format: request.format,
        heard: Heard {
            promised: Epoch(request.promised_epoch),
            configurations: versions.iter().copied().map(ConfigurationVersion).collect(),
        },
    })
}

/// Puts in the host that the leader sees where an address has none.
fn complete(address: &str, from: Option<SocketAddr>) -> Result<String, Malformed> {
    let (host, port) =
        address.rsplit_once(':').ok_or(Malformed("an address must be host:port or :port"))?;
    let port: u16 = port.parse().map_err(|_| Malformed("an address must end in a port"))?;
    if !host.is_empty() {
        return Ok(format!("{host}:{port}"));
    }
    let from = from.ok_or(Malformed("an address must have a host"))?;
    Ok(SocketAddr::new(from.ip().to_canonical(), port).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_without_a_host_gets_the_one_that_is_seen() {
        let seen = |text: &str| Some(text.parse().unwrap());
        let v4 = seen("10.1.2.3:40000");
        assert_eq!(complete(":50052", v4), Ok("10.1.2.3:50052".into()));
        assert_eq!(complete(":50052", seen("[::ffff:10.1.2.3]:1")), Ok("10.1.2.3:50052".into()));
        assert_eq!(complete(":50052", seen("[fd00::1]:1")), Ok("[fd00::1]:50052".into()));
        assert_eq!(complete("node-3:50052", v4), Ok("node-3:50052".into()));
        assert!(complete("node-3", v4).is_err());
        assert!(complete(":port", v4).is_err());
        assert!(complete(":1", None).is_err());
    }
}
