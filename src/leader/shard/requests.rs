//! Clients' requests: from a batch to operations of partitions.

use smallvec::SmallVec;

use super::Shard;
use super::operations::{Asked, BatchPlace};
use super::outbox::Outbox;
use crate::leader::gateway::{ShardBatch, ShardRequest};
use crate::logic::partition::Partition;
use crate::logic::partition::io::{Action, Input, Operation};
use crate::protocol::command::Operation as Request;
use crate::protocol::reply::Outcome;
use crate::types::{IndexKey, Key, PartitionId, StoreId};

/// Stores towards which too much is on its way: hardly ever any.
pub(super) type FullStores = SmallVec<[StoreId; 4]>;

/// A request as its partition takes it, and what its answer becomes.
fn action(request: Request) -> (Key, Action, Asked) {
    match request {
        Request::Get { key } => (key, Action::Get, Asked::Plain),
        Request::Set { key, value } => (key, Action::Set(value), Asked::Plain),
        Request::Update { key, value } => (key, Action::Update(value), Asked::Plain),
        Request::Delete { key } => (key, Action::Delete, Asked::Delete),
        // The version is the one a read finds.
        Request::Where { key } => (key, Action::Get, Asked::Where),
    }
}

impl Shard {
    pub(super) fn batch(&mut self, batch: ShardBatch, full: &FullStores) {
        let place = self.carrier.operations.begin(batch.connection, batch.requests.len());
        match self.index_key {
            Some(index_key) => {
                for request in batch.requests {
                    self.request(index_key, place, request, full);
                }
            }
            None => {
                for request in batch.requests {
                    let outcome = self.before_the_cluster(&request.operation);
                    self.carrier.operations.answer_directly(place, request.slot, outcome);
                }
            }
        }
    }

    fn request(
        &mut self,
        index_key: IndexKey,
        place: BatchPlace,
        request: ShardRequest,
        full: &FullStores,
    ) {
        let ShardRequest { slot, partition, deadline, operation } = request;
        let (key, action, asked) = action(operation);
        if action != Action::Get && !full.is_empty() && self.leads_to_any(partition, full) {
            self.carrier.operations.answer_directly(place, slot, Outcome::Busy);
            return;
        }
        let id = self.carrier.operations.add(place, slot, asked);
        let key_hash = index_key.hash(key.as_bytes());
        let operation = Operation { id, key, key_hash, action, deadline };
        self.step(partition, Input::Operation(operation));
    }

    /// Without a cluster there is nothing to read and nobody to write to.
    fn before_the_cluster(&self, request: &Request) -> Outcome {
        let view = self.carrier.views.current();
        if view.refusal.is_some() {
            return Outcome::NoMetadata;
        }
        match request {
            Request::Get { .. } | Request::Where { .. } => Outcome::Unavailable,
            Request::Set { .. } | Request::Update { .. } | Request::Delete { .. } => {
                let have = view.nodes.len();
                Outcome::NotEnoughNodes { have, need: self.settings.floor }
            }
        }
    }

    fn leads_to_any(&self, partition: PartitionId, stores: &FullStores) -> bool {
        let configuration = self.partition(partition).map(Partition::configuration);
        configuration.is_some_and(|one| stores.iter().any(|store| one.contains(*store)))
    }

    pub(super) fn full_stores(&self) -> FullStores {
        let links = self.carrier.links.iter();
        links.filter(|(_, link)| Outbox::is_full(link)).map(|(store, _)| *store).collect()
    }
}
