//! What a node lets into its log: the rules by which a store stays one that can be trusted.
//!
//! The leader decides; a node only refuses. It refuses an epoch below the one it has promised, and
//! in that one another leader than the one it was promised to, so that a delayed message of an
//! earlier leader lands nowhere; it refuses everything that names
//! another token than the one under which it holds the partition, so that a store that was wiped
//! or came back is never taken for the copy it once was; it opens a shadow copy when told to start
//! and takes copied records only while that copy is open; and it deletes nothing but on the word of
//! a durable configuration, and then only after a while in which the order may turn out wrong.
//!
//! [`Replica`] holds what was *admitted*, which runs ahead of what is durable by the one commit
//! that is under way: the orders and records of one commit are judged in the order in which they
//! will lie in the log, and nothing is answered before that commit is durable.

use std::time::Duration;

use crate::logic::comparison::Doubt;
use crate::logic::mutants::{self, Mutant};
use crate::types::{
    BootId, Configuration, ConfigurationVersion, Epoch, Moment, PartitionCount, PartitionId,
    StoreId, Token, Version,
};

#[cfg(test)]
mod tests;

/// How long the data of a removed partition is kept aside.
pub const REMOVAL_DELAY: Duration = Duration::from_mins(10);

/// What a store holds of a partition when it is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// The membership it is held under, if any.
    pub token: Option<Token>,
    /// Whether that is an unfinished copy.
    pub shadow: bool,
    /// Whether there are records, members' or not.
    pub records: bool,
    /// Version of the newest configuration known.
    pub configuration: ConfigurationVersion,
    /// The token under which that configuration names this store.
    pub named: Option<Token>,
    /// The store has lost something once: that nothing is there does not mean that nothing was.
    pub doubted: bool,
}

/// What the leader asks for a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Become a first member of a partition that begins empty.
    Begin,
    /// Tell what lies above the watermark.
    Fence,
    /// Open a shadow copy.
    Start,
    /// Close the shadow copy: it is complete.
    Finish,
    /// Drop the partition: this durable configuration does not name the store.
    Remove(ConfigurationVersion),
    /// Keep the latest durable configuration.
    Configuration(Configuration),
    /// Compare the copy with that of another member, and fetch what it lacks.
    Compare,
    /// The copy was compared with all that it takes: it is trusted again.
    Trust,
    /// Let whatever is there count as a whole copy: an operator decided that no better one is left.
    Adopt,
    /// Drop tombstones at or below this version, and take no write at or below it again.
    GarbageFloor(Version),
}

/// What goes to the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Lower epochs are refused from now on.
    Promise(Epoch),
    /// The store is a first member of the partition.
    Begin(Token),
    /// A shadow copy is open: what was there is unvouched.
    Start(Token),
    /// The copy is whole.
    Finish(Token),
    /// Everything of the partition goes.
    Remove(ConfigurationVersion),
    /// The latest configuration.
    Configuration(Configuration),
    /// Whatever is there is a whole copy from now on.
    Adopt(Token),
    /// Tombstones at or below this version are gone, and so is whatever is written at or below it.
    GarbageFloor(Version),
}

/// What follows from an order that was not refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Nothing: it is so already, or is due later.
    Nothing,
    /// This goes to the log.
    Change(Change),
    /// An answer, once everything admitted before is durable.
    Answer {
        /// Whether the store holds the partition, whole, under the token.
        member: bool,
    },
    /// A copy from the source, once everything admitted before is durable.
    Copy(Option<Change>),
    /// A comparison, once everything admitted before is durable.
    Compare,
}

/// Why something was refused.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Refusal {
    /// A leader of an earlier epoch speaks, or one that has not opened a stream.
    #[error("epoch {offered} is not the one promised here, {promised}")]
    Epoch {
        /// The epoch of the message.
        offered: Epoch,
        /// The epoch promised.
        promised: Epoch,
    },
    /// Two leaders speak in one epoch: one of them has an older copy of the other's metadata.
    #[error("epoch {0} was promised to another leader, or another start of it")]
    Leader(Epoch),
    /// No such partition.
    #[error("there is no partition {0}")]
    Partition(PartitionId),
    /// Held under another token, or not at all.
    #[error("the store does not hold the partition under this token")]
    Token,
    /// The copy is not complete.
    #[error("the store's copy of the partition is not complete")]
    Incomplete,
    /// The copy is complete, or was never begun.
    #[error("the store has no open copy of the partition under this token")]
    NoCopy,
    /// A tombstone may have been lost, and what it deletes be back.
    #[error("the store's copy of the partition was not compared yet")]
    InDoubt,
    /// A partition may only begin where nothing is.
    #[error("the store already holds something of the partition")]
    Occupied,
    /// A copy needs a token of its own, from 1.
    #[error("a copy begins under a new token")]
    UsedToken,
    /// Newer configurations are known.
    #[error("the store knows configuration {0}, which is newer")]
    Superseded(ConfigurationVersion),
    /// The configuration given for a removal names the store.
    #[error("configuration {0} names the store")]
    Named(ConfigurationVersion),
}

/// How the store stands towards a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Not at all.
    Absent,
    /// It holds a whole copy.
    Member,
    /// It holds a copy that is being filled.
    Shadow,
    /// Nothing is there, which proves nothing: it may be what was lost.
    Distrusted,
    /// Removed: kept aside until the moment.
    Aside(ConfigurationVersion, Moment),
}

#[derive(Clone, Copy, Debug)]
struct Partition {
    standing: Standing,
    token: Token,
    records: bool,
    configuration: ConfigurationVersion,
    named: Option<Token>,
    /// It is held since before the store was opened, and waits to be compared.
    in_doubt: bool,
}

impl Partition {
    fn load(held: Held, doubt: Doubt) -> Self {
        let standing = match (held.token, held.shadow) {
            // Where something was lost a partition never begins: it may have begun before.
            (None, _) if held.doubted => Standing::Distrusted,
            (None, _) => Standing::Absent,
            (Some(_), true) => Standing::Shadow,
            (Some(_), false) => Standing::Member,
        };
        Self {
            standing,
            token: held.token.unwrap_or_default(),
            records: held.records,
            configuration: held.configuration,
            named: held.named,
            in_doubt: doubt != Doubt::None && standing == Standing::Member,
        }
    }

    fn has_token(&self, token: Token) -> bool {
        self.token == token || mutants::enabled(Mutant::KnownByName)
    }

    fn holds(&self, token: Token) -> bool {
        self.has_token(token) && matches!(self.standing, Standing::Member | Standing::Shadow)
    }

    fn is_member(&self, token: Token) -> bool {
        let empty = self.standing == Standing::Absent && mutants::enabled(Mutant::KnownByName);
        empty || (self.has_token(token) && self.standing == Standing::Member)
    }

    fn begin(&mut self, token: Token) -> Result<Admission, Refusal> {
        if self.is_member(token) {
            return Ok(Admission::Nothing);
        }
        if self.standing != Standing::Absent || self.records {
            return Err(Refusal::Occupied);
        }
        if token == Token::default() {
            return Err(Refusal::UsedToken);
        }
        (self.standing, self.token, self.records) = (Standing::Member, token, true);
        Ok(Admission::Change(Change::Begin(token)))
    }

    /// A copy that is open under the same token goes on without a new mark in the log: the mark
    /// would void writes that were acknowledged under that token.
    fn start(&mut self, token: Token) -> Result<Admission, Refusal> {
        if self.standing == Standing::Shadow && self.token == token {
            return Ok(Admission::Copy(None));
        }
        let used = self.standing != Standing::Absent && self.token == token;
        if used || token == Token::default() {
            return Err(Refusal::UsedToken);
        }
        (self.standing, self.token, self.records) = (Standing::Shadow, token, true);
        self.in_doubt = false;
        Ok(Admission::Copy(Some(Change::Start(token))))
    }

    fn finish(&mut self, token: Token) -> Result<Admission, Refusal> {
        if self.is_member(token) {
            return Ok(Admission::Nothing);
        }
        if !self.holds(token) {
            return Err(Refusal::NoCopy);
        }
        self.standing = Standing::Member;
        Ok(Admission::Change(Change::Finish(token)))
    }

    fn adopt(&mut self, token: Token) -> Result<Admission, Refusal> {
        if self.is_member(token) {
            return Ok(Admission::Nothing);
        }
        if token == Token::default() {
            return Err(Refusal::UsedToken);
        }
        (self.standing, self.token, self.records) = (Standing::Member, token, true);
        self.in_doubt = false;
        Ok(Admission::Change(Change::Adopt(token)))
    }

    fn remove(
        &mut self,
        now: Moment,
        token: Token,
        version: ConfigurationVersion,
    ) -> Result<Admission, Refusal> {
        if self.standing == Standing::Absent {
            return Ok(Admission::Nothing);
        }
        // The leader need not know under which token a store holds what it no longer should.
        // A leader that does not know what the store holds names no token.
        if token != Token::default() && self.token != token {
            return Err(Refusal::Token);
        }
        if version < self.configuration {
            return Err(Refusal::Superseded(self.configuration));
        }
        if version == self.configuration && self.named == Some(self.token) {
            return Err(Refusal::Named(version));
        }
        (self.configuration, self.named) = (version, None);
        if !matches!(self.standing, Standing::Aside(..)) {
            self.standing = Standing::Aside(version, now + REMOVAL_DELAY);
            self.in_doubt = false;
        }
        Ok(Admission::Nothing)
    }

    fn compare(&self, token: Token) -> Result<Admission, Refusal> {
        if self.is_member(token) { Ok(Admission::Compare) } else { Err(Refusal::Token) }
    }

    fn trust(&mut self, token: Token) -> Result<Admission, Refusal> {
        if !self.is_member(token) {
            return Err(Refusal::Token);
        }
        self.in_doubt = false;
        Ok(Admission::Nothing)
    }

    /// Only a whole copy that nobody doubts. One that is being filled may yet be given what was
    /// deleted since its source was read; and one in doubt has perhaps lost the tombstone.
    fn raise_floor(&self, token: Token, floor: Version) -> Result<Admission, Refusal> {
        let whole = self.is_member(token) || mutants::enabled(Mutant::FloorWhileFilling);
        if !whole {
            return Err(Refusal::Incomplete);
        }
        if self.in_doubt && !mutants::enabled(Mutant::FloorInDoubt) {
            return Err(Refusal::InDoubt);
        }
        Ok(Admission::Change(Change::GarbageFloor(floor)))
    }

    fn configure(
        &mut self,
        store: StoreId,
        token: Token,
        configuration: Configuration,
    ) -> Result<Admission, Refusal> {
        if !self.holds(token) {
            return Err(Refusal::Token);
        }
        if configuration.version < self.configuration {
            return Err(Refusal::Superseded(self.configuration));
        }
        if configuration.version == self.configuration {
            return Ok(Admission::Nothing);
        }
        self.configuration = configuration.version;
        self.named = configuration.token_of(store);
        Ok(Admission::Change(Change::Configuration(configuration)))
    }

    fn expire(&mut self, now: Moment) -> Option<Change> {
        let Standing::Aside(version, due) = self.standing else { return None };
        if now < due {
            return None;
        }
        (self.standing, self.records) = (Standing::Absent, false);
        Some(Change::Remove(version))
    }
}

/// What a node has admitted, and by that what it refuses.
#[derive(Clone, Debug)]
pub struct Replica {
    store: StoreId,
    promised: Epoch,
    /// The start of the leader's process to which that was promised, if it was since the store was
    /// opened. Before, a leader that speaks in an epoch of another is found out when the store
    /// registers with it.
    promised_to: Option<BootId>,
    doubt: Doubt,
    partitions: Vec<Partition>,
}

impl Replica {
    /// A replica over what a store holds, and how far that is to be trusted. A store that is damaged
    /// holds nothing.
    pub fn new(
        store: StoreId,
        count: PartitionCount,
        promised: Epoch,
        doubt: Doubt,
        mut held: impl FnMut(PartitionId) -> Held,
    ) -> Self {
        let partitions = count.all().map(|id| Partition::load(held(id), doubt)).collect();
        Self { store, promised, promised_to: None, doubt, partitions }
    }

    /// The epoch below which everything is refused.
    pub fn promised(&self) -> Epoch {
        self.promised
    }

    /// A leader opens a stream. A higher epoch is promised to it, which must be durable before
    /// anything is answered.
    pub fn open(
        &mut self,
        epoch: Epoch,
        leader: Option<BootId>,
    ) -> Result<Option<Change>, Refusal> {
        if epoch < self.promised && !mutants::enabled(Mutant::AnyEpoch) {
            return Err(Refusal::Epoch { offered: epoch, promised: self.promised });
        }
        let raised = epoch > self.promised;
        let both = self.promised_to.zip(leader);
        if !raised && both.is_some_and(|(known, speaks)| known != speaks) {
            return Err(Refusal::Leader(epoch));
        }
        self.promised = epoch;
        self.promised_to = if raised { leader } else { self.promised_to.or(leader) };
        Ok(raised.then_some(Change::Promise(epoch)))
    }

    /// Whether live writes may be stored: by members and by copies that are being filled.
    pub fn admit_section(
        &self,
        epoch: Epoch,
        partition: PartitionId,
        token: Token,
    ) -> Result<(), Refusal> {
        self.check_epoch(epoch)?;
        let holds = self.partition(partition)?.holds(token);
        if holds { Ok(()) } else { Err(Refusal::Token) }
    }

    /// Whether copied records may be stored: only while the copy is open, for what is not vouched
    /// for was dropped when it was closed, and would be back.
    pub fn admit_install(
        &self,
        epoch: Epoch,
        partition: PartitionId,
        token: Token,
    ) -> Result<(), Refusal> {
        self.check_epoch(epoch)?;
        let state = self.partition(partition)?;
        let open = state.standing == Standing::Shadow && state.token == token;
        if open { Ok(()) } else { Err(Refusal::NoCopy) }
    }

    /// The token under which reads are answered: that of a whole copy.
    pub fn served(&self, partition: PartitionId) -> Option<Token> {
        let state = self.partition(partition).ok()?;
        (state.standing == Standing::Member).then_some(state.token)
    }

    /// How far its copy of a partition is to be trusted.
    pub fn doubt(&self, partition: PartitionId) -> Doubt {
        let in_doubt = self.partition(partition).is_ok_and(|state| state.in_doubt);
        if in_doubt { self.doubt } else { Doubt::None }
    }

    /// Whether any copy is still to be compared.
    pub fn is_in_doubt(&self) -> bool {
        self.partitions.iter().any(|state| state.in_doubt)
    }

    /// Judges an order, and takes what follows from it as done.
    pub fn order(
        &mut self,
        now: Moment,
        epoch: Epoch,
        partition: PartitionId,
        token: Token,
        order: Order,
    ) -> Result<Admission, Refusal> {
        self.check_epoch(epoch)?;
        let store = self.store;
        let state =
            self.partitions.get_mut(partition.index()).ok_or(Refusal::Partition(partition))?;
        match order {
            Order::Begin => state.begin(token),
            Order::Fence => Ok(Admission::Answer { member: state.is_member(token) }),
            Order::Start => state.start(token),
            Order::Finish => state.finish(token),
            Order::Remove(version) => state.remove(now, token, version),
            Order::Configuration(configuration) => state.configure(store, token, configuration),
            Order::Compare => state.compare(token),
            Order::Trust => state.trust(token),
            Order::Adopt => state.adopt(token),
            Order::GarbageFloor(floor) => state.raise_floor(token, floor),
        }
    }

    /// Removals that were kept aside long enough.
    pub fn tick(&mut self, now: Moment) -> Vec<(PartitionId, Change)> {
        (0..)
            .map(PartitionId)
            .zip(&mut self.partitions)
            .filter_map(|(id, state)| state.expire(now).map(|change| (id, change)))
            .collect()
    }

    fn check_epoch(&self, offered: Epoch) -> Result<(), Refusal> {
        if offered == self.promised || mutants::enabled(Mutant::AnyEpoch) {
            return Ok(());
        }
        Err(Refusal::Epoch { offered, promised: self.promised })
    }

    fn partition(&self, id: PartitionId) -> Result<&Partition, Refusal> {
        self.partitions.get(id.index()).ok_or(Refusal::Partition(id))
    }
}
