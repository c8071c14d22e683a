//! One client of etcd: put and linearizable range, over gRPC.

use std::net::SocketAddr;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::time::timeout;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use super::book::Book;
use super::client::{Request, Watch};
use super::error::BenchError;
use super::load::Operation;
use super::recorder::Ending;
use crate::runtime::clock;
use crate::types::Moment;

/// What is generated from `proto/etcd/kv.proto`.
#[allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    unused_qualifications,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    reason = "generated code; the .proto file carries the documentation"
)]
mod proto {
    tonic::include_proto!("etcdserverpb");
}

use proto::kv_client::KvClient;
use proto::{PutRequest, RangeRequest};

/// Values are at most this long here.
const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// How many connections all clients share. gRPC is made for that, and it costs driver and server
/// less than a connection for each client.
const CHANNELS: usize = 5;

/// Connections to one member.
#[derive(Clone, Debug)]
pub(super) struct Channels([Channel; CHANNELS]);

impl Channels {
    pub(super) async fn connect(address: SocketAddr, within: Duration) -> Result<Self, BenchError> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
        let endpoint = endpoint.tcp_nodelay(true).connect_timeout(within);
        // Connects once now, to learn whether there is anybody.
        endpoint.connect().await?;
        Ok(Self([(); CHANNELS].map(|()| endpoint.connect_lazy())))
    }

    /// What a client talks over.
    #[allow(clippy::indexing_slicing, reason = "a remainder is less than the divisor")]
    pub(super) fn session(&self, client: usize, within: Duration) -> EtcdSession {
        let channel = self.0[client % CHANNELS].clone();
        let kv = KvClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
        EtcdSession { within, kv }
    }
}

/// One client's way to a member.
#[derive(Debug)]
pub(super) struct EtcdSession {
    within: Duration,
    kv: KvClient<Channel>,
}

/// What one call returned.
enum Answer {
    Stored,
    Found(Option<bytes::Bytes>),
    Refused(String),
}

impl EtcdSession {
    /// Makes all calls at once and judges each answer. The requests are on different keys: calls
    /// on one connection have no order.
    pub(super) async fn batch(
        &mut self,
        requests: &[Request],
        book: &mut Book,
        watch: &Watch,
    ) -> Result<(), BenchError> {
        let begun = clock::now();
        let calls: FuturesUnordered<_> = requests
            .iter()
            .map(|request| {
                let call = self.call(*request, book);
                async move { (*request, call.await) }
            })
            .collect();
        let judge = judge(calls, begun, book, watch);
        let late = |_| BenchError::Missing {
            client: watch.client(),
            missing: requests.len(),
            within: self.within,
        };
        timeout(self.within, judge).await.map_err(late)?
    }

    fn call(&self, request: Request, book: &mut Book) -> impl Future<Output = Answer> + use<> {
        let mut kv = self.kv.clone();
        let mut key = Vec::new();
        book.keys().key(request.slot, &mut key);
        let mut value = Vec::new();
        if request.operation == Operation::Set {
            let version = book.write(request.slot);
            book.keys().value(request.slot, version, &mut value);
        }
        async move {
            let outcome = match request.operation {
                Operation::Set => {
                    let put = PutRequest { key: key.into(), value: value.into() };
                    kv.put(put).await.map(|_| Answer::Stored)
                }
                Operation::Get => kv.range(RangeRequest { key: key.into() }).await.map(|found| {
                    Answer::Found(found.into_inner().kvs.into_iter().next().map(|kv| kv.value))
                }),
            };
            outcome.unwrap_or_else(|status| {
                let code = status.code();
                let code = if code == Code::Unknown { "" } else { code.description() };
                Answer::Refused(format!("{} {code}", status.message()))
            })
        }
    }
}

async fn judge(
    mut calls: FuturesUnordered<impl Future<Output = (Request, Answer)>>,
    begun: Moment,
    book: &mut Book,
    watch: &Watch,
) -> Result<(), BenchError> {
    while let Some((request, answer)) = calls.next().await {
        let ending = match &answer {
            Answer::Stored => {
                book.settle(request.slot);
                Ending::Done
            }
            Answer::Found(value) => {
                book.read(request.slot, value.as_deref())?;
                Ending::Done
            }
            Answer::Refused(text) => Ending::Refused(text.as_bytes()),
        };
        watch.record(request.operation, (begun, clock::now()), ending);
    }
    Ok(())
}
