//! Carries out what partitions say: answers, messages to stores, proposals.

use bytes::BytesMut;
use hashbrown::HashMap;
use tokio::sync::mpsc;

use super::inbox::Proposal;
use super::operations::{Asked, Operations};
use super::outbox::Outbox;
use crate::leader::link::LARGE_BYTES;
use crate::leader::view::Views;
use crate::logic::comparison::Point;
use crate::logic::partition::Partition;
use crate::logic::partition::io::{Attempt, Content, Input, Order, Output, Reply, Write};
use crate::protocol::record::{Flags, Kind, Record, RecordError};
use crate::protocol::reply::{CopyLocation, CopyState, Location, Outcome};
use crate::rpc::{convert, v1};
use crate::types::{Member, PartitionId, StoreId, Version};

/// What a shard has besides its partitions: everything their outputs go to.
#[derive(Debug)]
pub(crate) struct Carrier {
    /// Number of the shard.
    pub(crate) shard: usize,
    /// Clients' operations under way.
    pub(crate) operations: Operations,
    /// What goes to each store that is connected.
    pub(crate) links: HashMap<StoreId, Outbox>,
    /// Copies being made: where to, and from where.
    pub(crate) copying: HashMap<PartitionId, (StoreId, StoreId)>,
    /// What follows from carrying out an output, for the partition to hear next.
    pub(crate) follow_up: Vec<(PartitionId, Input)>,
    /// Takes proposals.
    pub(crate) proposals: mpsc::UnboundedSender<Proposal>,
    /// Knows where stores are reached.
    pub(crate) views: Views,
    /// A record being encoded, before it is copied to each recipient's piece.
    pub(crate) scratch: BytesMut,
    /// Settled records that stores had lost and fetched again.
    pub(crate) restored_records: u64,
    /// Partitions of which every member may have lost something.
    pub(crate) possible_losses: u64,
}

impl Carrier {
    /// Carries out what one partition said.
    pub(crate) fn carry(&mut self, partition: &Partition, outputs: &mut Vec<Output>) {
        for output in outputs.drain(..) {
            match output {
                Output::Reply { id, reply } => {
                    let Some(asked) = self.operations.asked(id) else { continue };
                    let outcome = outcome(asked, reply, partition, &self.views);
                    self.operations.answer(id, outcome);
                }
                Output::Write { to, write } => self.write(partition, &to, &write),
                Output::Read { from, id, key_hash } => {
                    if let Some(link) = self.links.get_mut(&from.store) {
                        link.read(v1::Read {
                            id: id.0,
                            partition: u32::from(partition.id().0),
                            token: from.token.0,
                            key_hash: convert::id_bytes(&key_hash.to_bytes()),
                        });
                    }
                }
                Output::Order { to, order } => self.order(partition.id(), to, &order),
                Output::Watermark(to) => {
                    for member in to {
                        if let Some(link) = self.links.get_mut(&member.store) {
                            link.watermark(partition.id(), member.token, partition.watermark());
                        }
                    }
                }
                Output::Propose(configuration) => {
                    self.propose(partition.id(), configuration, false);
                }
                Output::Force(configuration) => self.propose(partition.id(), configuration, true),
                Output::Restored { store, records } => {
                    let partition = partition.id();
                    self.restored_records += records;
                    tracing::error!(
                        %store, %partition, records,
                        "a store that stopped uncleanly had lost settled records; it has fetched \
                         them from another copy"
                    );
                }
                Output::PossibleLoss => {
                    let partition = partition.id();
                    self.possible_losses += 1;
                    tracing::error!(
                        %partition,
                        "possible loss: every copy was buffered and went down with its machine; \
                         the highest versions found among all of them count now"
                    );
                }
                Output::Unreadable(key_hash) => {
                    let (partition, key) = (partition.id(), key_hash.bits());
                    tracing::error!(
                        %partition, key = format_args!("{key:032x}"),
                        "no copy can read a record: until it is overwritten or deleted, no other \
                         copy of its partition can be made"
                    );
                }
                Output::Alarm { key_hash, version } => {
                    let (partition, key) = (partition.id(), key_hash.bits());
                    tracing::error!(
                        %partition, key = format_args!("{key:032x}"), %version,
                        "copies hold one version of a key with different contents: the key is \
                         frozen until an operator has looked"
                    );
                }
            }
        }
    }

    /// Hands everything over.
    pub(crate) fn flush(&mut self) {
        for link in self.links.values_mut() {
            link.flush();
        }
        self.operations.flush();
    }

    fn propose(
        &mut self,
        partition: PartitionId,
        configuration: crate::types::Configuration,
        forced: bool,
    ) {
        let proposal = Proposal { shard: self.shard, partition, configuration, forced };
        // Nobody takes proposals only when the leader stops.
        let _ = self.proposals.send(proposal);
    }

    /// The record is encoded once, and its bytes are copied into each recipient's piece; a large
    /// one is not copied but shared.
    fn write(&mut self, partition: &Partition, to: &[Member], write: &Write) {
        let (id, watermark, version) = (partition.id(), partition.watermark(), write.version);
        let Content { key, value, .. } = &write.content;
        let large =
            key.as_bytes().len() + value.as_ref().map_or(0, bytes::Bytes::len) > LARGE_BYTES;
        self.scratch.clear();
        if let Err(error) = encode(id, write, &mut self.scratch) {
            // Larger limits than the format's cannot be configured.
            tracing::error!(partition = %id, %version, %error, "a record cannot be encoded");
            return;
        }
        if large {
            let record = self.scratch.split().freeze();
            for member in to {
                if let Some(link) = self.links.get_mut(&member.store) {
                    link.write_large(id, member.token, watermark, version, record.clone());
                }
            }
            return;
        }
        for member in to {
            if let Some(link) = self.links.get_mut(&member.store) {
                link.write(id, member.token, watermark, version, &self.scratch);
            }
        }
    }

    fn order(&mut self, partition: PartitionId, to: Member, order: &Order) {
        use v1::order::Order as Wire;
        let wire = match order {
            Order::Begin => Wire::Begin(v1::Begin {}),
            Order::Fence(attempt) => Wire::Fence(v1::Fence { attempt: attempt.0 }),
            Order::Start { source, floor } => match self.start(partition, to, (*source, *floor)) {
                Some(start) => Wire::Start(start),
                None => return,
            },
            Order::Finish => Wire::Finish(v1::Finish {}),
            Order::Configuration(configuration) => Wire::Configuration(configuration.into()),
            Order::Adopt => Wire::Adopt(v1::Adopt {}),
            Order::Restore(write) => {
                let mut record = BytesMut::new();
                if encode(partition, write, &mut record).is_err() {
                    return;
                }
                Wire::Restore(v1::Restore { record: record.freeze() })
            }
            Order::Remove(version) => Wire::Remove(v1::Remove { configuration_version: version.0 }),
            Order::Compare { attempt, source, point } => {
                match self.compare(partition, to, (*attempt, *source), point) {
                    Some(compare) => Wire::Compare(compare),
                    None => return,
                }
            }
            Order::Trust => Wire::Trust(v1::Trust {}),
            Order::GarbageFloor(Version { epoch, seq }) => {
                Wire::GarbageFloor(v1::GarbageFloor { epoch: epoch.0, seq: *seq })
            }
        };
        if let Some(link) = self.links.get_mut(&to.store) {
            link.order(partition, to.token, wire);
        }
    }

    /// The order to fill a copy. A source that has gone in the same turn cannot be named: the copy
    /// fails before it began.
    fn start(
        &mut self,
        partition: PartitionId,
        to: Member,
        (source, floor): (StoreId, Version),
    ) -> Option<v1::Start> {
        let Some(link) = self.links.get(&source) else {
            let Member { store, token } = to;
            self.follow_up.push((partition, Input::Copied { store, token, complete: false }));
            return None;
        };
        self.copying.insert(partition, (to.store, source));
        let source_address = link.address().to_owned();
        Some(v1::Start {
            source_store_id: convert::id_bytes(source.as_bytes()),
            source_address,
            floor_epoch: floor.epoch.0,
            floor_seq: floor.seq,
        })
    }

    /// The order to compare a copy, likewise.
    fn compare(
        &mut self,
        partition: PartitionId,
        to: Member,
        (attempt, source): (Attempt, StoreId),
        point: &Point,
    ) -> Option<v1::Compare> {
        let Some(link) = self.links.get(&source) else {
            let Member { store, token } = to;
            let failed = Input::Compared { store, token, attempt, complete: false, restored: 0 };
            self.follow_up.push((partition, failed));
            return None;
        };
        Some(v1::Compare::new(attempt.0, source, link.address().to_owned(), point))
    }
}

fn encode(partition: PartitionId, write: &Write, into: &mut BytesMut) -> Result<(), RecordError> {
    let Content { key, value, expires } = &write.content;
    let kind = if value.is_some() { Kind::Put } else { Kind::Tombstone };
    let value = value.as_deref().unwrap_or_default();
    let record = Record {
        kind,
        flags: Flags::NONE,
        partition,
        version: write.version,
        expires: *expires,
        key: key.as_bytes(),
        value,
    };
    record.encode(into)
}

/// What the client is told.
fn outcome(asked: Asked, reply: Reply, partition: &Partition, views: &Views) -> Outcome {
    if asked == Asked::Where {
        let version = match &reply {
            Reply::Value { version, .. } => Some(*version),
            _ => None,
        };
        return Outcome::Located(Box::new(locate(partition, version, views)));
    }
    match reply {
        Reply::Stored { .. } if asked == Asked::Delete => Outcome::Deleted,
        Reply::Stored { copies, wanted, .. } => Outcome::Stored { copies, wanted },
        Reply::Value { value, .. } => Outcome::Value(value),
        Reply::NotFound { .. } => Outcome::NotFound,
        Reply::Unavailable(_) => Outcome::Unavailable,
        Reply::NotEnoughNodes { have, need } => Outcome::NotEnoughNodes { have, need },
        Reply::Uncertain => Outcome::Uncertain,
        Reply::DiskFull => Outcome::DiskFull,
        Reply::Damaged => Outcome::Damaged,
    }
}

fn locate(partition: &Partition, version: Option<Version>, views: &Views) -> Location {
    let view = views.current();
    let status = partition.status();
    let copies = status.copies.iter().map(|copy| {
        let node = view.nodes.iter().find(|node| node.store == copy.store);
        let state = match (copy.in_sync, copy.is_usable()) {
            (true, true) => CopyState::InSync,
            (true, false) => CopyState::Away,
            (false, _) => CopyState::CatchingUp,
        };
        let address = node.map(|node| node.address.clone()).unwrap_or_default();
        CopyLocation { store: copy.store, address, state }
    });
    Location { partition: partition.id(), version, copies: copies.collect() }
}
