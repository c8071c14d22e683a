//! How a node becomes and stays a member: it registers until it is accepted, shows that it lives,
//! registers anew when the leader does not know it any more, and asks before it goes.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use crate::rpc::transport::{self, AddressError};
use crate::rpc::v1;
use crate::rpc::v1::membership_client::MembershipClient;
use crate::rpc::v1::register_reply::Outcome;
use crate::runtime::clock;
use crate::types::Moment;

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How often a failing registration is mentioned in the log.
const MENTION: Duration = Duration::from_secs(5);
/// How long the leader may take to answer a call.
const CALL: Duration = Duration::from_secs(5);
/// A leader that does not answer heartbeats for so long is looked for anew.
const SILENCE: Duration = Duration::from_secs(3);
/// How long a leader that cannot be reached is waited for when leaving.
const LEAVE_UNREACHABLE: Duration = Duration::from_secs(2);
/// How long the leader may take to let a node go.
const LEAVE: Duration = Duration::from_secs(25);

/// The leader refuses this store for good.
#[derive(Debug, thiserror::Error)]
#[error("the leader refuses this node: {reason}")]
pub(crate) struct Refused {
    pub(crate) reason: String,
    /// An operator took the store out of the cluster.
    pub(crate) decommissioned: bool,
}

/// Mentions a failure in the log, but not at every attempt.
#[derive(Debug)]
struct Mention {
    last: Option<Moment>,
}

impl Mention {
    fn of(&mut self, what: &str, leader: &str) {
        if self.is_due() {
            tracing::warn!(leader, "{what}; trying again");
        }
    }

    /// Nothing is wrong: others are yet to come.
    fn wait(&mut self, what: &str, leader: &str) {
        if self.is_due() {
            tracing::info!(leader, "waiting: {what}");
        }
    }

    fn is_due(&mut self) -> bool {
        let now = clock::now();
        let due = self.last.is_none_or(|last| now.since(last) >= MENTION);
        if due {
            self.last = Some(now);
        }
        due
    }
}

/// Pauses that grow while something fails.
#[derive(Debug)]
struct Pauses(Duration);

impl Pauses {
    async fn pause(&mut self) {
        tokio::time::sleep(self.0).await;
        self.0 = LONGEST_PAUSE.min(self.0 * 2);
    }
}

/// The way to the leader, on a connection that carries nothing else.
#[derive(Clone, Debug)]
pub(crate) struct Membership {
    leader: String,
    client: MembershipClient<Channel>,
}

impl Membership {
    pub(crate) fn new(leader: &str) -> Result<Self, AddressError> {
        let channel = transport::connect_lazy(&transport::endpoint(leader)?);
        Ok(Self { leader: leader.into(), client: MembershipClient::new(channel) })
    }

    /// Registers, however long it takes until there is a leader that accepts.
    pub(crate) async fn register(
        &mut self,
        request: &v1::RegisterRequest,
    ) -> Result<v1::Accepted, Refused> {
        let mut pauses = Pauses(FIRST_PAUSE);
        let mut mention = Mention { last: None };
        loop {
            match self.ask(request).await {
                Ok(Outcome::Accepted(accepted)) => return Ok(accepted),
                Ok(Outcome::Refused(refused)) if refused.r#final => {
                    let v1::Refused { reason, decommissioned, .. } = refused;
                    return Err(Refused { reason, decommissioned });
                }
                Ok(Outcome::Refused(refused)) => {
                    mention.of(&format!("not accepted yet: {}", refused.reason), &self.leader);
                }
                Ok(Outcome::Pending(pending)) => {
                    mention.wait(&pending.reason, &self.leader);
                    pauses = Pauses(retry_after(&pending));
                }
                Err(status) => {
                    let why = status.message();
                    mention.of(&format!("the leader does not answer ({why})"), &self.leader);
                }
            }
            pauses.pause().await;
        }
    }

    async fn ask(&mut self, request: &v1::RegisterRequest) -> Result<Outcome, Status> {
        let reply = timeout(CALL, self.client.register(request.clone())).await;
        let reply = reply.map_err(|_| Status::deadline_exceeded("no answer in time"))??;
        reply.into_inner().outcome.ok_or_else(|| Status::internal("an empty answer"))
    }

    /// Shows every so often that this node lives. Returns when it has to register anew.
    pub(crate) async fn beat(
        &mut self,
        interval: Duration,
        beat: impl Fn() -> v1::HeartbeatRequest,
        told: impl Fn(&str),
    ) {
        let (beats, receiver) = mpsc::channel(1);
        let _ = beats.try_send(beat());
        let call = timeout(CALL, self.client.heartbeat(ReceiverStream::new(receiver))).await;
        let replies = match call {
            Ok(Ok(replies)) => replies.into_inner(),
            Ok(Err(status)) => {
                return tracing::warn!(reason = status.message(), "heartbeats are refused");
            }
            Err(_) => return tracing::warn!("the leader does not answer heartbeats"),
        };
        let sending = async {
            let mut ticks = tokio::time::interval(interval);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                // A full queue means that the connection is slow: one sign of life is on its way.
                if let Err(mpsc::error::TrySendError::Closed(_)) = beats.try_send(beat()) {
                    break;
                }
            }
        };
        tokio::select! {
            () = sending => {}
            () = listen(replies, interval.max(SILENCE), told) => {}
        }
    }

    /// Asks to go, and waits until the leader agrees; not for ever.
    pub(crate) async fn leave(&mut self, request: v1::LeaveRequest) {
        let asked = timeout(LEAVE_UNREACHABLE, self.client.leave(request)).await;
        let mut progress = match asked {
            Ok(Ok(progress)) => progress.into_inner(),
            Ok(Err(status)) => {
                let reason = status.message();
                return tracing::warn!(reason, "going without the leader's word");
            }
            Err(_) => return tracing::warn!("going without the leader, which does not answer"),
        };
        let waiting = async {
            while let Ok(Some(progress)) = progress.message().await {
                if progress.may_stop {
                    return;
                }
                tracing::info!(partitions = progress.partitions_left, "waiting to leave");
            }
            tracing::warn!("the leader went away before it let this node go");
        };
        if timeout(LEAVE, waiting).await.is_err() {
            tracing::warn!("going before the leader let this node go: it took too long");
        }
    }
}

fn retry_after(pending: &v1::Pending) -> Duration {
    let asked = Duration::from_millis(u64::from(pending.retry_after_ms));
    asked.clamp(FIRST_PAUSE, LONGEST_PAUSE)
}

/// Listens to what the leader says, until it says nothing more or does not know this node.
async fn listen(
    mut replies: Streaming<v1::HeartbeatReply>,
    silence: Duration,
    told: impl Fn(&str),
) {
    loop {
        match timeout(silence, replies.message()).await {
            Ok(Ok(Some(reply))) if reply.register_again => {
                return tracing::info!("the leader asks this node to register again");
            }
            Ok(Ok(Some(reply))) => told(&reply.state),
            Ok(Ok(None)) => return tracing::warn!("the leader ended the heartbeats"),
            Ok(Err(status)) => {
                return tracing::warn!(reason = status.message(), "the leader's connection broke");
            }
            Err(_) => return tracing::warn!("the leader has not answered for a while"),
        }
    }
}
