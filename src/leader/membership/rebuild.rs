//! Lost metadata made anew from what stores know ([`logic::membership`](crate::logic::membership)'s
//! `rebuild`): here the stores are asked.
//!
//! Nothing is kept while this goes on, so it may be broken off and begun again at any time; the
//! metadata becomes valid in one write. Before that write every store promises the epoch that is to
//! be, and is asked again: what it says then nobody can change any more, not even a leader that was
//! thought dead.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Duration;

use tokio::sync::oneshot;
use tonic::Status;

use super::{Call, Handle};
use crate::logic::membership::{
    Decisions, Holding, MemberInfo, Rebuild, Registration, Survey, Testimony,
};
use crate::rpc::v1::replica_client::ReplicaClient;
use crate::rpc::{Malformed, convert, transport, v1};
use crate::types::{
    BootId, ClusterId, Configuration, Epoch, IndexKey, PartitionCount, StoreId, Token, Version,
};

/// How long one store may take to say what it knows.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// An answer about as many partitions as there can be.
const MAX_ANSWER_BYTES: usize = 32 << 20;

/// The stores that wait for the metadata.
#[derive(Debug)]
pub(crate) struct Refugees {
    pub(crate) stores: Vec<Registration>,
    /// Into how many partitions this leader cuts clusters.
    pub(crate) partitions: PartitionCount,
}

/// What metadata is to be made of.
#[derive(Debug)]
pub(crate) struct Rebuilding {
    pub(crate) testimonies: BTreeMap<StoreId, Testimony>,
    pub(crate) decisions: Decisions,
    pub(crate) epoch: Epoch,
    /// Told when the metadata is durable, or that it was not made.
    pub(crate) reply: oneshot::Sender<bool>,
}

/// A store that has come.
#[derive(Clone, Debug)]
pub(crate) struct Witness {
    pub(crate) store: StoreId,
    pub(crate) address: String,
    /// Why it could not be asked, if it could not.
    pub(crate) problem: Option<String>,
}

/// How far it is.
#[derive(Debug)]
pub(crate) struct Progress {
    pub(crate) witnesses: Vec<Witness>,
    pub(crate) survey: Survey,
    /// Nothing is in the way.
    pub(crate) complete: bool,
}

/// Why the metadata was not made anew.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RebuildError {
    /// There is nothing to be made anew.
    #[error("this leader has its metadata; there is nothing to be made anew")]
    NotLost,
    /// Something is in the way.
    #[error("not everything is known yet")]
    Incomplete(Box<Progress>),
    /// Not the stores that the operator was shown.
    #[error("other stores have come than were named")]
    OtherStores,
    /// Every epoch there can be was used.
    #[error("every epoch that there can be was used")]
    Epochs,
    /// It could not be written down who decided what.
    #[error("the audit log cannot be written: {0}")]
    Audit(#[from] io::Error),
    /// The leader stops.
    #[error("the leader stops")]
    Stopping,
}

/// One store that is asked what it holds.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) cluster: ClusterId,
    pub(crate) store: StoreId,
    pub(crate) boot: BootId,
    pub(crate) address: String,
}

/// What a store holds of one partition, beyond what metadata is made of.
#[derive(Clone, Debug)]
pub(crate) struct Copy {
    pub(crate) holding: Holding,
    pub(crate) newest: Version,
    pub(crate) records: u64,
    /// Records for which nobody has vouched.
    pub(crate) loose: u64,
}

/// What a store answered.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) index_key: IndexKey,
    pub(crate) partitions: PartitionCount,
    pub(crate) promised: Epoch,
    pub(crate) copies: Vec<Copy>,
}

/// Asks a store what it holds and knows. An epoch above 0 it promises first.
pub(crate) async fn ask(asked: &Asked, epoch: Epoch, leader: BootId) -> Result<Answer, Status> {
    let asking = tokio::time::timeout(ANSWER_WITHIN, exchange(asked, epoch, leader)).await;
    let reply = asking.map_err(|_| Status::deadline_exceeded("no answer in time"))??;
    Ok(answer(&reply)?)
}

async fn exchange(
    asked: &Asked,
    epoch: Epoch,
    leader: BootId,
) -> Result<v1::HoldingsReply, Status> {
    let endpoint = transport::endpoint(&asked.address);
    let endpoint = endpoint.map_err(|error| Status::invalid_argument(error.to_string()))?;
    let channel = endpoint.connect().await.map_err(|_| Status::unavailable("cannot connect"))?;
    let mut client = ReplicaClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES);
    let open = v1::Open {
        cluster_id: convert::id_bytes(asked.cluster.as_bytes()),
        store_id: convert::id_bytes(asked.store.as_bytes()),
        boot_id: convert::id_bytes(asked.boot.as_bytes()),
        epoch: epoch.0,
        leader_boot_id: convert::id_bytes(leader.as_bytes()),
    };
    let request = v1::HoldingsRequest { open: Some(open) };
    client.holdings(request).await.map(tonic::Response::into_inner)
}

fn answer(reply: &v1::HoldingsReply) -> Result<Answer, Malformed> {
    let index_key = reply.index_key.as_ref().try_into();
    let index_key = IndexKey(index_key.map_err(|_| Malformed("an index key has 16 bytes"))?);
    let partitions = u16::try_from(reply.partitions).ok().and_then(PartitionCount::new);
    let partitions = partitions.ok_or(Malformed("partitions are a power of two up to 32,768"))?;
    let nothing = Copy { holding: Holding::default(), newest: Version::ZERO, records: 0, loose: 0 };
    let mut copies = vec![nothing; usize::from(partitions.get())];
    for told in &reply.holdings {
        let place = copies.get_mut(convert::partition(told.partition)?.index());
        let place = place.ok_or(Malformed("a partition that the cluster does not have"))?;
        let configuration = told.configuration.as_ref().map(Configuration::try_from).transpose()?;
        let token = (told.token != 0).then_some(Token(told.token));
        *place = Copy {
            holding: Holding { token, configuration },
            newest: convert::version(told.newest_epoch, told.newest_seq),
            records: told.records,
            loose: told.loose_records,
        };
    }
    Ok(Answer { index_key, partitions, promised: Epoch(reply.promised), copies })
}

/// What was heard of all stores that wait.
struct Heard {
    witnesses: Vec<Witness>,
    testimonies: BTreeMap<StoreId, Testimony>,
    partitions: PartitionCount,
}

impl Heard {
    fn rebuild<'a>(&'a self, decisions: &'a Decisions) -> Rebuild<'a> {
        Rebuild::new(&self.testimonies, decisions, self.partitions)
    }

    fn progress(self, decisions: &Decisions) -> Progress {
        let survey = self.rebuild(decisions).survey();
        // Who came and cannot be asked may know better than all others.
        let all_asked = self.witnesses.iter().all(|witness| witness.problem.is_none());
        let complete = all_asked && survey.is_complete(decisions);
        Progress { witnesses: self.witnesses, survey, complete }
    }
}

impl Handle {
    /// How far it is: which stores have come, and what is missing.
    pub(crate) async fn survey(&self, decisions: &Decisions) -> Result<Progress, RebuildError> {
        Ok(self.hear(Epoch(0)).await?.progress(decisions))
    }

    /// Makes the metadata anew, if nothing is in the way and the stores that have come are those the
    /// operator was shown, and lets the cluster go on.
    pub(crate) async fn rebuild(
        &self,
        decisions: Decisions,
        shown: &BTreeSet<StoreId>,
    ) -> Result<Progress, RebuildError> {
        let first = self.hear(Epoch(0)).await?;
        let epoch = first.rebuild(&decisions).epoch();
        let progress = first.progress(&decisions);
        if !progress.complete {
            return Err(RebuildError::Incomplete(Box::new(progress)));
        }
        let epoch = epoch.ok_or(RebuildError::Epochs)?;
        let heard = self.hear(epoch).await?;
        let testimonies = heard.testimonies.clone();
        if !testimonies.keys().eq(shown) {
            return Err(RebuildError::OtherStores);
        }
        let progress = heard.progress(&decisions);
        if !progress.complete {
            return Err(RebuildError::Incomplete(Box::new(progress)));
        }
        let (reply, done) = oneshot::channel();
        self.write_down(epoch, &progress, &decisions).await?;
        let rebuilding = Rebuilding { testimonies, decisions, epoch, reply };
        self.call(Call::Rebuild(Box::new(rebuilding))).await?;
        let made = done.await.map_err(|_| RebuildError::Stopping)?;
        if made { Ok(progress) } else { Err(RebuildError::NotLost) }
    }

    async fn write_down(
        &self,
        epoch: Epoch,
        progress: &Progress,
        decisions: &Decisions,
    ) -> Result<(), RebuildError> {
        let names = |stores: &mut dyn Iterator<Item = StoreId>| -> Vec<String> {
            stores.map(|store| store.to_string()).collect()
        };
        let details = serde_json::json!({
            "epoch": epoch.0,
            "stores": names(&mut progress.witnesses.iter().map(|witness| witness.store)),
            "given_up": names(&mut decisions.given_up.iter().copied()),
            "unavailable_partitions": progress.survey.lost.len(),
            "partitions_that_begin_empty": progress.survey.unheard.len(),
        });
        Ok(self.audit.record("rebuild-metadata", &details).await?)
    }

    pub(super) async fn call(&self, call: Call) -> Result<(), RebuildError> {
        self.calls.send(call).await.map_err(|_| RebuildError::Stopping)
    }

    /// Asks every store that waits, all at once.
    async fn hear(&self, epoch: Epoch) -> Result<Heard, RebuildError> {
        let (reply, refugees) = oneshot::channel();
        self.call(Call::Refugees { reply }).await?;
        let refugees = refugees.await.map_err(|_| RebuildError::Stopping)?;
        let Refugees { stores, partitions } = refugees.ok_or(RebuildError::NotLost)?;
        let leader = self.boot;
        let asking = stores.into_iter().filter_map(|it| {
            let cluster = it.cluster?;
            Some(async move {
                let (store, boot, address) = (it.store, it.boot, it.address.clone());
                let asked = Asked { cluster, store, boot, address };
                let answer = ask(&asked, epoch, leader).await;
                (asked, it.admin_address, answer)
            })
        });
        let mut heard = Heard { witnesses: Vec::new(), testimonies: BTreeMap::new(), partitions };
        for (asked, admin_address, answer) in futures::future::join_all(asking).await {
            let Asked { store, address, cluster, .. } = asked;
            let problem = answer.as_ref().err().map(|status| status.message().to_owned());
            heard.witnesses.push(Witness { store, address: address.clone(), problem });
            if let Ok(Answer { index_key, partitions, promised, copies }) = answer {
                let info = MemberInfo { address, admin_address, ..MemberInfo::default() };
                let holdings = copies.into_iter().map(|copy| copy.holding).collect();
                let testimony =
                    Testimony { cluster, index_key, partitions, promised, info, holdings };
                heard.testimonies.insert(store, testimony);
            }
        }
        Ok(heard)
    }
}
