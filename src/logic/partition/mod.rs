//! A partition, as its leader runs it: the order of its writes, who holds them, and what clients
//! may be told.
//!
//! # What it guarantees
//!
//! Each key is one linearizable register. A write is acknowledged only when it is *settled*:
//! durable on every member of the committed in-sync set and of one being proposed. So any single
//! member holds every acknowledged write, reads ask just one, and all members but one may be lost.
//! The set changes only by a durable configuration, made elsewhere, before anything is told to a
//! client that depends on it. This is primary-backup replication with an outside configuration
//! manager (Lin, Yang, Zhang and Zhou, *`PacificA`: Replication in Log-Based Distributed Storage
//! Systems*, MSR-TR-2008-25, sections 2.2 to 2.4), with per-key instead of per-log settling.
//!
//! # How it is built
//!
//! [`Partition::step`] takes one [`Input`] and appends [`Output`]s. It reads no clock, sends
//! nothing, allocates no random number: a shell carries out what it says, and a simulation drives
//! the very same code through crashes that a test with real processes would meet once a year.
//!
//! * [`io`] - inputs and outputs.
//! * `operations`, `keys` - clients: what waits for what on a key (rules 4, 9 to 11, 35 to 39).
//! * `settling` - versions, acknowledgements, the watermark (rules 5, 6, 14, 18).
//! * `peering` - what members held when this epoch began (rules 12, 13, 15).
//! * `doubt` - members that may lack what they acknowledged (rules 15, 15a).
//! * `reconfiguration` - members that fail, copies that are filled (rules 7, 8, 16 to 23).
//! * [`cache`], `caching` - settled values in memory, bounded, to be looked up by whoever answers
//!   clients (rules 42 and 43).
//! * `mending` - records that a copy has and cannot read (rule 28).
//! * `tombstones` - when deleted keys are forgotten (rule 25).
//! * `recovery` - what an operator decides when every member is lost (rule 29).
//! * `telling` - what members know of configurations, and partitions whose configuration was made
//!   anew from what they know (rule 30).
//!
//! Per key it keeps something only while an operation on that key is under way: but for the cache,
//! the leader's memory does not grow with the data.

pub mod cache;
mod caching;
mod doubt;
pub mod io;
mod keys;
mod mending;
mod operations;
mod peering;
mod reconfiguration;
mod recovery;
mod replicas;
mod settling;
mod telling;
#[cfg(test)]
mod tests;
mod tombstones;
mod unsettled;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use smallvec::SmallVec;

use crate::logic::comparison::Doubt;
use crate::logic::mutants::{self, Mutant};
use crate::types::{
    Configuration, ConfigurationVersion, Epoch, KeyHash, Moment, PartitionId, StoreId, Token,
    Version,
};
use cache::Cache;
use io::{Input, Operation, Output, StoreEvent};
use keys::KeyState;
use operations::Reading;
use replicas::{Replica, Replicas, Slots, StoreState};
use tombstones::Garbage;
use unsettled::Unsettled;

/// What an operator decides about every partition.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How many copies each value is to have (`tolerance.conf`).
    pub copies: usize,
    /// The fewest live members that take writes (`min_replicas`); the in-sync set never shrinks
    /// below it.
    pub floor: usize,
    /// How long a beginning leader waits for every member before it serves with those it has.
    pub peering_grace: Duration,
    /// How long members may take to turn up after the leader began before they count as failed.
    pub absent_grace: Duration,
    /// How long a member may be away before it is not waited for any more.
    pub evict_after: Duration,
    /// How long a read of a copy may take before another copy is asked.
    pub read_retry: Duration,
    /// How many bytes of settled writes a copy being filled may lag behind.
    pub missing_bytes: usize,
    /// How often the tombstones of a partition are dropped.
    pub tombstone_interval: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            copies: 4,
            floor: 2,
            peering_grace: Duration::from_millis(500),
            absent_grace: Duration::from_secs(3),
            evict_after: Duration::from_secs(10),
            read_retry: Duration::from_millis(250),
            missing_bytes: 16 << 20,
            tombstone_interval: Duration::from_secs(10),
        }
    }
}

/// One partition. See the module for what it guarantees.
#[allow(clippy::struct_excessive_bools, reason = "independent facts, each told on its own")]
#[derive(Debug)]
pub struct Partition {
    id: PartitionId,
    epoch: Epoch,
    settings: Settings,
    began: Moment,
    now: Moment,
    configuration: Configuration,
    proposed: Option<Configuration>,
    /// Some member has durably heard of the committed configuration.
    told: bool,
    /// The configuration was made anew from what stores knew, and may name a store too many.
    unconfirmed: bool,
    /// The configuration that an operator decided, until it is confirmed.
    forced: Option<ConfigurationVersion>,
    replicas: Replicas,
    stores: BTreeMap<StoreId, StoreState>,
    target: SmallVec<[StoreId; 4]>,
    /// Slots whose acknowledgement settles a write: the committed set and the proposed one.
    required: Slots,
    unsettled: Unsettled,
    keys: BTreeMap<KeyHash, KeyState>,
    reads: BTreeMap<io::ReadId, Reading>,
    /// Connected stores that may hold the partition without being a copy of it.
    strangers: BTreeSet<StoreId>,
    /// Keys of which members hold one version with different contents.
    frozen: BTreeSet<KeyHash>,
    /// Keys whose record no readable copy could read when it was asked last.
    unreadable: BTreeSet<KeyHash>,
    /// Operations that came while the partition could not yet take them.
    held: VecDeque<Operation>,
    serving: bool,
    /// Settled values, shared with the other partitions and with whoever answers clients.
    cache: Cache,
    /// Whether what the cache holds may be told.
    open: bool,
    seq: u64,
    watermark: Version,
    /// Some copy may not have heard the watermark.
    watermark_untold: bool,
    /// When a write last took the watermark along.
    sequenced: Moment,
    garbage: Garbage,
    next_read: u64,
    next_token: u64,
    /// No client waits beyond this without being looked at.
    next_deadline: Option<Moment>,
    /// For the simulation: each update that was written, its key, its base, and its own counter.
    #[cfg(test)]
    pub(crate) bases: Vec<(io::OperationId, KeyHash, Option<Version>, u64)>,
}

/// A member or a copy in the making, for people to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyStatus {
    /// The store.
    pub store: StoreId,
    /// In the committed in-sync set.
    pub in_sync: bool,
    /// Connected and not suspected.
    pub live: bool,
    /// Has answered this epoch's fence.
    pub peered: bool,
    /// How far it is to be trusted.
    pub doubt: Doubt,
}

impl CopyStatus {
    /// Whether it is an in-sync copy that can be read and counted.
    pub fn is_usable(&self) -> bool {
        self.in_sync && self.live && self.peered && self.doubt != Doubt::Lost
    }

    /// Whether it is one of those, and holds for certain what it acknowledged.
    pub fn is_sound(&self) -> bool {
        self.is_usable() && self.doubt == Doubt::None
    }
}

/// How a partition is, for people to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Reads are answered.
    pub serving: bool,
    /// Writes are taken.
    pub writable: bool,
    /// Every copy.
    pub copies: Vec<CopyStatus>,
    /// How many copies there should be.
    pub wanted: usize,
    /// Copies that the ring proposes and that are not there yet, those in the making included.
    pub missing: usize,
    /// Writes under way.
    pub unsettled: usize,
    /// Keys of which copies hold one version with different contents.
    pub frozen: usize,
    /// Keys whose record no copy can read.
    pub unreadable: usize,
}

impl Status {
    /// Live members of the in-sync set that hold for certain what they acknowledged.
    pub fn live_copies(&self) -> usize {
        self.copies.iter().filter(|copy| copy.is_sound()).count()
    }

    /// Whether there are fewer copies than wanted.
    pub fn is_under_replicated(&self) -> bool {
        self.live_copies() < self.wanted
    }
}

impl Partition {
    /// A partition under its latest durable configuration, in an epoch that is durable too.
    ///
    /// `began` is when the leader started: the graces of rule 13 count from it. `cache` is as old as
    /// the epoch.
    pub fn new(
        id: PartitionId,
        epoch: Epoch,
        configuration: Configuration,
        settings: Settings,
        began: Moment,
        cache: Cache,
    ) -> Self {
        let mut replicas = Replicas::default();
        let mut required = Slots::NONE;
        for member in &configuration.members {
            if let Some(slot) = replicas.insert(Replica::member(member.store, member.token)) {
                required.insert(Slots::one(slot));
            }
        }
        let target = configuration.members.iter().map(|member| member.store).collect();
        Self {
            id,
            epoch,
            settings,
            began,
            now: began,
            configuration,
            proposed: None,
            told: false,
            unconfirmed: false,
            forced: None,
            replicas,
            stores: BTreeMap::new(),
            target,
            required,
            unsettled: Unsettled::default(),
            keys: BTreeMap::new(),
            reads: BTreeMap::new(),
            strangers: BTreeSet::new(),
            frozen: BTreeSet::new(),
            unreadable: BTreeSet::new(),
            held: VecDeque::new(),
            serving: false,
            cache,
            open: false,
            seq: 0,
            watermark: Version::ZERO,
            watermark_untold: false,
            sequenced: began,
            garbage: Garbage::new(id, began, settings.tombstone_interval),
            next_read: 0,
            next_token: 0,
            next_deadline: None,
            #[cfg(test)]
            bases: Vec::new(),
        }
    }

    /// For the simulation: the epoch it runs in.
    #[cfg(test)]
    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// For the simulation: whether a version is under way.
    #[cfg(test)]
    pub(crate) fn is_unsettled(&self, version: Version) -> bool {
        self.unsettled.get(version).is_some()
    }

    /// Takes one input and appends what is to be done about it.
    pub fn step(&mut self, now: Moment, input: Input, out: &mut Vec<Output>) {
        self.now = self.now.max(now);
        // Most steps are one of these, and neither takes its standing from a member.
        let may_move_the_door = !matches!(input, Input::Operation(_) | Input::Acknowledged { .. });
        match input {
            Input::Operation(operation) => self.submit(operation, out),
            Input::Acknowledged { store, token, version } => {
                self.acknowledged(store, token, version, out);
            }
            Input::Refused { store, token } => self.refused(store, token, out),
            Input::Read { id, answer } => self.read_answered(id, answer, out),
            Input::Fenced { store, token, answer } => self.fenced(store, token, answer, out),
            Input::Store { store, event } => self.store_event(store, event, out),
            Input::Target(target) => {
                self.target = target;
                self.abandon_unwanted_copies(out);
                self.reconfigure(out);
            }
            Input::Admit(store) => self.admit(store, out),
            Input::Copied { store, token, complete } => self.copied(store, token, complete, out),
            Input::Compared { store, token, attempt, complete, restored } => {
                self.compared(store, token, (attempt, complete, restored), out);
            }
            Input::Unreadable { at, key_hash } => self.unreadable(at, key_hash, out),
            Input::Finished { store, token } => self.finished(store, token, out),
            Input::Configured(version) => self.configured(version, out),
            Input::Told { store, token, version } => self.heard(store, token, version, out),
            Input::Copies { wanted, floor } => {
                self.settings.copies = wanted;
                self.settings.floor = floor;
                self.reconfigure(out);
            }
            Input::Force(stores) => self.force(&stores, out),
            Input::Tick => self.tick(out),
        }
        if may_move_the_door {
            self.tend_the_door();
        }
    }

    /// Everything at or below this version is settled.
    pub fn watermark(&self) -> Version {
        self.watermark
    }

    /// The latest durable configuration.
    pub fn configuration(&self) -> &Configuration {
        &self.configuration
    }

    /// The partition's number.
    pub fn id(&self) -> PartitionId {
        self.id
    }

    /// How it is.
    pub fn status(&self) -> Status {
        let copies = self
            .replicas
            .iter()
            .map(|(_, replica)| CopyStatus {
                store: replica.store,
                in_sync: replica.is_member(),
                live: self.state_of(replica.store).is_live(),
                peered: replica.peered,
                doubt: replica.doubt,
            })
            .collect();
        Status {
            serving: self.may_answer(),
            writable: self.serving && self.usable().count() >= self.settings.floor,
            copies,
            wanted: self.settings.copies,
            missing: self.missing_copies(),
            unsettled: self.unsettled.len(),
            frozen: self.frozen.len(),
            unreadable: self.unreadable.len(),
        }
    }

    fn missing_copies(&self) -> usize {
        let in_sync = |store: &&StoreId| {
            self.replicas.get(**store).is_some_and(|(_, replica)| replica.is_member())
        };
        self.target.iter().filter(|store| !in_sync(store)).count()
    }

    fn state_of(&self, store: StoreId) -> StoreState {
        self.stores.get(&store).copied().unwrap_or_default()
    }

    /// Members that can be read and counted: live and peered, and not known to lack something.
    fn usable(&self) -> impl Iterator<Item = (usize, &Replica)> {
        self.answering().filter(|(_, replica)| {
            replica.doubt != Doubt::Lost || mutants::enabled(Mutant::PossibleLossAnswers)
        })
    }

    /// Members that are there and have told what they hold.
    fn answering(&self) -> impl Iterator<Item = (usize, &Replica)> {
        self.replicas.members().filter(|(_, replica)| {
            let peered = replica.peered || mutants::enabled(Mutant::UnpeeredCounts);
            peered && !replica.disowned && self.state_of(replica.store).is_live()
        })
    }

    fn store_event(&mut self, store: StoreId, event: StoreEvent, out: &mut Vec<Output>) {
        let state = self.stores.entry(store).or_default();
        match event {
            StoreEvent::Connected => {
                *state = StoreState { connected: true, seen: true, ..*state };
                state.suspected = false;
                state.evicted = false;
                self.connected(store, out);
            }
            StoreEvent::Disconnected => {
                state.connected = false;
                self.disconnected(store, out);
            }
            StoreEvent::Suspected => {
                state.suspected = true;
                self.retry_reads(Duration::MAX, out);
            }
            StoreEvent::Recovered => {
                state.suspected = false;
                self.progress(out);
            }
            StoreEvent::Evicted => state.evicted = true,
            StoreEvent::Full => state.full = true,
            StoreEvent::Slow => state.slow = true,
            StoreEvent::Fast => state.slow = false,
            StoreEvent::Roomy => {
                state.full = false;
                self.fence_again(store, out);
            }
        }
        self.reconfigure(out);
    }

    fn tick(&mut self, out: &mut Vec<Output>) {
        self.begin_serving(out);
        self.release_held(out);
        self.retry_reads(self.settings.read_retry, out);
        self.fetch_contents(out);
        self.expire(out);
        self.ask_disowned_again(out);
        self.compare_members(out);
        self.reconfigure(out);
        self.tell_watermark(out);
        self.drop_tombstones(out);
    }

    /// A token that no admission ever had: the epoch is durable and used once, and the members that
    /// a cluster is created with use the numbers below.
    fn fresh_token(&mut self) -> Token {
        const FIRST: u64 = 1 << 16;
        self.next_token += 1;
        Token((self.epoch.0 << 32) | (FIRST + self.next_token))
    }
}
