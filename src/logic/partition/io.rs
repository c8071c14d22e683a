//! What goes into a partition and what comes out of it.

use bytes::Bytes;
use smallvec::SmallVec;

use crate::logic::comparison::{Doubt, Point};
use crate::types::{
    Configuration, ConfigurationVersion, Key, KeyHash, Member, Moment, StoreId, Token, Version,
};

/// Names a client's operation within its shard; comes back with the [`Reply`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationId(pub u64);

/// Names one read of one copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReadId(pub u64);

/// Names one fence of one member; an answer to an older attempt is dropped (rule 12).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attempt(pub u64);

/// What a client wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The value.
    Get,
    /// Store this value.
    Set(Bytes),
    /// Store this value if the key exists.
    Update(Bytes),
    /// Delete the key; deleting an absent one is fine.
    Delete,
}

/// A client's operation on one key.
#[derive(Clone, Debug)]
pub struct Operation {
    /// Comes back with the reply.
    pub id: OperationId,
    /// The key.
    pub key: Key,
    /// Its hash under the cluster's index key.
    pub key_hash: KeyHash,
    /// What is wanted.
    pub action: Action,
    /// When an answer must be given, whatever it is.
    pub deadline: Moment,
}

/// What a key holds at one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// The key.
    pub key: Key,
    /// The value; `None` is a tombstone.
    pub value: Option<Bytes>,
    /// Milliseconds since 1970 after which it counts as deleted; 0 is never.
    pub expires: i64,
}

/// One write, as it is sent to copies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// When it was sequenced.
    pub version: Version,
    /// What it stores.
    pub content: Content,
}

/// One line of a fence's answer: a record above the watermark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The key.
    pub key_hash: KeyHash,
    /// The version the member holds.
    pub version: Version,
    /// The record's checksum.
    pub checksum: u32,
}

/// What a member says when it is fenced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FenceAnswer {
    /// The attempt it answers.
    pub attempt: Attempt,
    /// Whether it holds the partition under the token it was asked with, completely.
    pub member: bool,
    /// How far what it holds is to be trusted.
    pub doubt: Doubt,
    /// The highest watermark it knows of.
    pub watermark: Version,
    /// What it holds above that.
    pub records: Vec<Summary>,
    /// Tombstones at or below this version are gone.
    pub floor: Version,
    /// How many there are above it.
    pub tombstones: u64,
}

/// What a copy found when it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadAnswer {
    /// This version, a tombstone perhaps.
    Found(Write),
    /// Nothing, not even a tombstone.
    Absent,
    /// A record whose checksum fails.
    Damaged,
    /// The copy does not hold the partition under the token it was asked with.
    Refused,
}

/// What happened to a store, as far as every partition must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreEvent {
    /// A new stream to it is open. What was sent on an older one is lost or stale.
    Connected,
    /// The stream broke.
    Disconnected,
    /// It is late or silent; it may come back.
    Suspected,
    /// It moves again, on the same stream.
    Recovered,
    /// It was given up: its copies are to be made elsewhere.
    Evicted,
    /// Its disk has no room for writes.
    Full,
    /// Its disk has room again.
    Roomy,
    /// It is slower than the others by far.
    Slow,
    /// It is not any more.
    Fast,
}

/// What a partition is told.
#[derive(Clone, Debug)]
pub enum Input {
    /// A client's operation.
    Operation(Operation),
    /// A write is durable on a store, under this token.
    Acknowledged {
        /// The store.
        store: StoreId,
        /// The token it was sent under.
        token: Token,
        /// The write.
        version: Version,
    },
    /// A store would not take a write or an order.
    Refused {
        /// The store.
        store: StoreId,
        /// The token it was sent under.
        token: Token,
    },
    /// A copy answered a read.
    Read {
        /// The read.
        id: ReadId,
        /// What it found.
        answer: ReadAnswer,
    },
    /// A member answered its fence.
    Fenced {
        /// The store.
        store: StoreId,
        /// The token it was asked with.
        token: Token,
        /// What it says.
        answer: FenceAnswer,
    },
    /// Something happened to a store.
    Store {
        /// The store.
        store: StoreId,
        /// What happened.
        event: StoreEvent,
    },
    /// The ring proposes these stores, best first.
    Target(SmallVec<[StoreId; 4]>),
    /// There is room to fill a copy on this store (see `Partition::wanted`).
    Admit(StoreId),
    /// A shadow copy holds all that its source had, or failed.
    Copied {
        /// The store.
        store: StoreId,
        /// The token of the copy.
        token: Token,
        /// Whether it is complete.
        complete: bool,
    },
    /// A member could not read a record of which it was to give a copy.
    Unreadable {
        /// The member, under the token it was asked with.
        at: Member,
        /// The key.
        key_hash: KeyHash,
    },
    /// A member was compared with another, and fetched what it lacked; or that failed.
    Compared {
        /// The member in doubt.
        store: StoreId,
        /// The token it was asked with.
        token: Token,
        /// The attempt it answers.
        attempt: Attempt,
        /// Whether everything was compared.
        complete: bool,
        /// How many settled records it had lost and has again.
        restored: u64,
    },
    /// The order to finish a shadow copy is durable.
    Finished {
        /// The store.
        store: StoreId,
        /// The token of the copy.
        token: Token,
    },
    /// The proposed configuration is durable.
    Configured(ConfigurationVersion),
    /// A member has durably heard of this configuration.
    Told {
        /// The store.
        store: StoreId,
        /// The token it was told under.
        token: Token,
        /// The configuration.
        version: ConfigurationVersion,
    },
    /// The number of copies wanted, and the fewest that take writes, changed.
    Copies {
        /// How many copies each value is to have.
        wanted: usize,
        /// `min_replicas`.
        floor: usize,
    },
    /// An operator decided that all members are lost, and that the partition goes on with these
    /// stores: of members that answer with what they hold, of others with whatever they have.
    Force(SmallVec<[StoreId; 4]>),
    /// Time passed.
    Tick,
}

/// Why an operation cannot be answered now; nothing was changed by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unavailable {
    /// The members have not yet told what they hold.
    Peering,
    /// No member of the in-sync set can be asked.
    NoCopy,
    /// It was not answered in time.
    Deadline,
    /// Every copy that could be asked failed its checksum.
    Checksum,
}

/// What a client is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The write is settled.
    Stored {
        /// Its version.
        version: Version,
        /// On how many copies.
        copies: usize,
        /// How many there should be.
        wanted: usize,
    },
    /// The key holds this value.
    Value {
        /// Its version.
        version: Version,
        /// The value.
        value: Bytes,
    },
    /// The key does not exist.
    NotFound {
        /// The tombstone's version, if there is one.
        version: Option<Version>,
    },
    /// It cannot be answered now; nothing was changed.
    Unavailable(Unavailable),
    /// Too few members of the in-sync set are there; nothing was changed.
    NotEnoughNodes {
        /// How many there are.
        have: usize,
        /// How many it takes.
        need: usize,
    },
    /// The write may or may not take effect.
    Uncertain,
    /// A member's disk is full; nothing was changed.
    DiskFull,
    /// Copies disagree about one version of this key.
    Damaged,
}

/// An order to a store about its copy of the partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// The partition begins, empty, on a first member.
    Begin,
    /// Tell what lies above your watermark.
    Fence(Attempt),
    /// Open a shadow copy and fill it from this in-sync member.
    Start {
        /// Where to copy from.
        source: StoreId,
        /// The garbage floor to begin with.
        floor: Version,
    },
    /// The copy is complete.
    Finish,
    /// This durable configuration does not name you.
    Remove(ConfigurationVersion),
    /// Compare your copy with that of this member, and fetch what you lack.
    Compare {
        /// Names this order.
        attempt: Attempt,
        /// With whom.
        source: StoreId,
        /// As of when.
        point: Point,
    },
    /// You were compared with all that it takes.
    Trust,
    /// Drop tombstones at or below this version, and take no write at or below it again (rule 25).
    GarbageFloor(Version),
    /// Keep the latest durable configuration, which names you (rule 30).
    Configuration(Configuration),
    /// Whatever you have of the partition is a whole copy: an operator decided that no better one is
    /// left (rule 29).
    Adopt,
    /// What you have of this very version cannot be read: write it anew (rule 28).
    Restore(Write),
}

/// What a partition wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Answer a client.
    Reply {
        /// Whose operation.
        id: OperationId,
        /// What to say.
        reply: Reply,
    },
    /// Send a write to these copies.
    Write {
        /// To whom, under which tokens.
        to: SmallVec<[Member; 4]>,
        /// The write.
        write: Write,
    },
    /// Read a copy.
    Read {
        /// Whom to ask.
        from: Member,
        /// Comes back with the answer.
        id: ReadId,
        /// What to read.
        key_hash: KeyHash,
    },
    /// Send an order.
    Order {
        /// To whom, under which token.
        to: Member,
        /// The order.
        order: Order,
    },
    /// Tell these copies the watermark, though there is nothing else to send.
    Watermark(SmallVec<[Member; 4]>),
    /// Make this configuration durable, then say [`Input::Configured`].
    Propose(Configuration),
    /// A member had lost settled records, and fetched them again from another.
    Restored {
        /// The member.
        store: StoreId,
        /// How many records.
        records: u64,
    },
    /// Every member may have lost what it acknowledged. The highest versions found among all count.
    PossibleLoss,
    /// Make this configuration durable, as one that is yet to be confirmed, then say
    /// [`Input::Configured`]: an operator decided it.
    Force(Configuration),
    /// No copy can read the record of this key: the partition cannot be copied.
    Unreadable(KeyHash),
    /// Two members hold one version with different contents: an operator must look.
    Alarm {
        /// The key.
        key_hash: KeyHash,
        /// The version.
        version: Version,
    },
}
