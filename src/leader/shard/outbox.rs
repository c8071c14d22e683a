//! What one shard sends to one store, and what of it is not yet durable.
//!
//! Everything a turn of the shard has for a store is gathered here and handed to the link as one
//! piece. Pieces are numbered; the link says up to which number they are durable, and this is where
//! that one number becomes the acknowledgements of all the writes in them.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::leader::link::news::{Refused, Session};
use crate::leader::link::piece::{Lane, LinkSender, Piece};
use crate::rpc::v1;
use crate::types::{ConfigurationVersion, PartitionId, Token, Version};

/// A piece is handed over when it has grown to this, so that a long turn does not keep its store
/// waiting, and two pieces still fit into one batch.
const PIECE_BYTES: usize = 512 << 10;

/// Something sent whose fate a partition must hear of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) partition: PartitionId,
    pub(crate) token: Token,
    pub(crate) what: What,
}

/// What was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// This write.
    Write(Version),
    /// The order to finish a shadow copy.
    Finish,
    /// This configuration, to be kept.
    Configuration(ConfigurationVersion),
    /// It was refused; its number means nothing.
    Refused,
}

/// One lane of an outbox.
#[derive(Debug)]
struct Outgoing {
    lane: Lane,
    /// Of the piece being filled.
    sequence: u64,
    piece: Piece,
    records: BytesMut,
    /// Items of the piece being filled.
    items: usize,
    /// Items of all pieces outstanding, and how many belong to each piece.
    sent: VecDeque<Sent>,
    pieces: VecDeque<(u64, usize)>,
}

impl Outgoing {
    fn new(lane: Lane) -> Self {
        Self {
            lane,
            sequence: 1,
            piece: Piece::default(),
            records: BytesMut::new(),
            items: 0,
            sent: VecDeque::new(),
            pieces: VecDeque::new(),
        }
    }

    fn track(&mut self, partition: PartitionId, token: Token, what: What) {
        self.sent.push_back(Sent { partition, token, what });
        self.items += 1;
    }

    /// The section that the next record of this partition and token belongs to.
    fn section(
        &mut self,
        partition: PartitionId,
        token: Token,
        watermark: Version,
    ) -> Option<&mut v1::Section> {
        let sections = &mut self.piece.sections;
        let continues = sections
            .last()
            .is_some_and(|last| last.partition == u32::from(partition.0) && last.token == token.0);
        if !continues {
            sections.push(v1::Section::new(partition, token, watermark, 0));
        }
        let section = sections.last_mut()?;
        section.watermark_epoch = watermark.epoch.0;
        section.watermark_seq = watermark.seq;
        Some(section)
    }

    fn is_empty(&self) -> bool {
        self.piece.orders.is_empty()
            && self.piece.sections.is_empty()
            && self.piece.reads.is_empty()
    }

    fn flush(&mut self, shard: usize, sender: &LinkSender) {
        if self.is_empty() {
            return;
        }
        let mut piece = std::mem::take(&mut self.piece);
        if !self.records.is_empty() {
            piece.records = self.records.split().freeze();
        }
        piece.shard = shard;
        piece.sequence = self.sequence;
        self.pieces.push_back((self.sequence, std::mem::take(&mut self.items)));
        self.sequence += 1;
        sender.send(self.lane, piece);
    }

    fn durable(&mut self, through: u64, tell: &mut impl FnMut(Sent)) {
        while let Some((_, items)) = self.pieces.pop_front_if(|(sequence, _)| *sequence <= through)
        {
            for sent in self.sent.drain(..items.min(self.sent.len())) {
                tell(sent);
            }
        }
    }

    fn refuse(&mut self, refused: &Refused) {
        let mut before = 0;
        for (sequence, items) in &self.pieces {
            if (refused.first..=refused.last).contains(sequence) {
                for sent in self.sent.iter_mut().skip(before).take(*items) {
                    if sent.partition == refused.partition && sent.token == refused.token {
                        sent.what = What::Refused;
                    }
                }
            }
            before += items;
        }
    }
}

/// A large write that must not overtake the order that opens its copy.
#[derive(Debug)]
struct Held {
    /// The piece of the small lane that must be durable first.
    after: u64,
    partition: PartitionId,
    token: Token,
    version: Version,
    record: Bytes,
}

/// What one shard sends to one store on one session of its link.
#[derive(Debug)]
pub(crate) struct Outbox {
    shard: usize,
    session: Session,
    sender: LinkSender,
    address: Arc<str>,
    small: Outgoing,
    large: Outgoing,
    /// The last piece of the small lane that opens a copy, until it is durable.
    opening: Option<u64>,
    held: VecDeque<Held>,
}

impl Outbox {
    /// Nothing sent yet.
    pub(crate) fn new(
        shard: usize,
        session: Session,
        sender: LinkSender,
        address: Arc<str>,
    ) -> Self {
        let (small, large) = (Outgoing::new(Lane::Small), Outgoing::new(Lane::Large));
        let held = VecDeque::new();
        Self { shard, session, sender, address, small, large, opening: None, held }
    }

    /// The session it sends on.
    pub(crate) fn session(&self) -> Session {
        self.session
    }

    /// Where other nodes reach the store.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Whether so much is on its way that no more writes should be admitted.
    pub(crate) fn is_full(&self) -> bool {
        self.sender.is_full()
    }

    /// Adds a small write.
    pub(crate) fn write(
        &mut self,
        partition: PartitionId,
        token: Token,
        watermark: Version,
        version: Version,
        record: &[u8],
    ) {
        let lane = &mut self.small;
        if let Some(section) = lane.section(partition, token, watermark) {
            section.records += 1;
        }
        lane.records.extend_from_slice(record);
        lane.track(partition, token, What::Write(version));
        if lane.records.len() >= PIECE_BYTES {
            lane.flush(self.shard, &self.sender);
        }
    }

    /// Sends a large write, or keeps it until the copy it is for is open. The watermark goes by the
    /// small lane all the same: there it cannot overtake the configuration it was reached under.
    pub(crate) fn write_large(
        &mut self,
        partition: PartitionId,
        token: Token,
        watermark: Version,
        version: Version,
        record: Bytes,
    ) {
        if !self.sender.has_large_lane() {
            self.write(partition, token, watermark, version, &record);
            return;
        }
        self.watermark(partition, token, watermark);
        match self.opening {
            Some(after) => {
                self.held.push_back(Held { after, partition, token, version, record });
            }
            None => self.send_large(partition, token, version, record),
        }
    }

    fn send_large(
        &mut self,
        partition: PartitionId,
        token: Token,
        version: Version,
        record: Bytes,
    ) {
        let lane = &mut self.large;
        lane.piece.sections.push(v1::Section::new(partition, token, Version::ZERO, 1));
        lane.piece.records = record;
        lane.track(partition, token, What::Write(version));
        lane.flush(self.shard, &self.sender);
    }

    /// Tells the watermark, though there is nothing to store.
    pub(crate) fn watermark(&mut self, partition: PartitionId, token: Token, watermark: Version) {
        let _ = self.small.section(partition, token, watermark);
    }

    /// Adds an order.
    pub(crate) fn order(&mut self, partition: PartitionId, token: Token, order: v1::order::Order) {
        match &order {
            v1::order::Order::Start(_) => self.opening = Some(self.small.sequence),
            v1::order::Order::Finish(_) => self.small.track(partition, token, What::Finish),
            v1::order::Order::Configuration(configuration) => {
                let version = ConfigurationVersion(configuration.version);
                self.small.track(partition, token, What::Configuration(version));
            }
            _ => {}
        }
        self.small.piece.orders.push(v1::Order::new(partition, token, order));
    }

    /// Adds a read.
    pub(crate) fn read(&mut self, read: v1::Read) {
        self.small.piece.reads.push(read);
    }

    /// Hands over everything gathered.
    pub(crate) fn flush(&mut self) {
        self.small.flush(self.shard, &self.sender);
    }

    /// Every piece of a lane up to `through` is durable: tells what was in them, refusals apart.
    pub(crate) fn durable(&mut self, lane: Lane, through: u64, mut tell: impl FnMut(Sent)) {
        let mut tell = |sent: Sent| {
            if sent.what != What::Refused {
                tell(sent);
            }
        };
        if lane == Lane::Large {
            self.large.durable(through, &mut tell);
            return;
        }
        self.small.durable(through, &mut tell);
        self.opening = self.opening.filter(|opening| *opening > through);
        while let Some(held) = self.held.pop_front_if(|held| held.after <= through) {
            let Held { partition, token, version, record, .. } = held;
            self.send_large(partition, token, version, record);
        }
    }

    /// A store did not take what it was sent for a partition.
    pub(crate) fn refuse(&mut self, refused: &Refused) {
        match refused.lane {
            Lane::Small => self.small.refuse(refused),
            Lane::Large => self.large.refuse(refused),
        }
    }
}

#[cfg(test)]
mod tests;
