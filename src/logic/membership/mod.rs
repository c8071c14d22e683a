//! Who belongs to the cluster, who of them is there, and what follows from that.
//!
//! Nodes register the store they have opened, show that they live, and ask before they go. This
//! machine decides who is accepted, when a cluster begins, which stores the ring proposes for each
//! partition, and when a node may go. It changes no partition: that is done by the partitions, which
//! are told what happened to stores and what the ring proposes.
//!
//! # What it guarantees
//!
//! * A cluster is created once, over stores that are all empty, by a leader that has no metadata.
//!   A leader without metadata that meets a store with data refuses to serve: it would hide what
//!   that store holds behind empty configurations.
//! * A leader that meets a store which heard of later changes than its metadata has refuses to
//!   serve: its metadata is an older copy.
//! * A store is its `store_id`, never an address. While one process has it open and lives, another
//!   that claims it is refused; so is a store of another cluster.
//! * Whatever depends on a change of the metadata happens after the change is durable.
//! * A node that asks to go is let go at once if that leaves every partition enough live copies;
//!   else those partitions are copied first, and only those.
//!
//! # How
//!
//! [`Membership::step`] takes one [`Input`] and returns [`Output`]s, **to be carried out in order;
//! what comes after [`Output::Persist`] only when that is durable.** A leader whose metadata fails
//! must stop.
//!
//! * `bootstrap` - the beginning of a cluster (rule 3a).
//! * `departure` - nodes that ask to go (rule 24).
//! * `operations` - what operators decide: drained and decommissioned stores.
//! * `outdated` - metadata that turns out to be an older copy.
//! * `rebuild` - metadata that was lost, made anew from what stores know (rule 30).
//! * `state` - the metadata.

mod bootstrap;
mod departure;
mod newcomers;
mod operations;
mod outdated;
mod rebuild;
mod state;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::logic::detector::{self, Detector, DetectorSettings, Event, Status, Suspicion};
use crate::logic::placement::{Table, place};
use crate::types::{
    BootId, ClusterId, ConfigurationVersion, Epoch, Moment, PartitionCount, PartitionId, StoreId,
};
use bootstrap::Bootstrap;
use departure::Departures;
pub use operations::{Objection, Wish};
pub use outdated::Heard;
pub use rebuild::{Decisions, Holding, Missing, Rebuild, Survey, Testimony};
pub use state::{Change, Cluster, MemberInfo, Regression, State};

/// Stores that may belong to a cluster, dormant ones included.
pub const MAX_MEMBERS: usize = 1024;
/// Stores that come and go within this time move copies once: five nodes that start together must not
/// begin five moves, of which four are in vain.
const SETTLE: Duration = Duration::from_millis(500);

/// What an operator decides about the membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MembershipSettings {
    /// Copies each value should have (`tolerance`).
    pub copies: usize,
    /// Live copies that a write needs (`min_replicas`).
    pub floor: usize,
    /// With how many stores a cluster begins; if it is not said, with the floor or more, once no
    /// further one comes.
    pub bootstrap_nodes: Option<usize>,
    /// How long no further store must have come before a cluster begins.
    pub quiet: Duration,
    /// How long a node that asks to go may be kept for copying.
    pub departure: Duration,
    /// The highest format of wire and disk that this build understands.
    pub format: u32,
    /// When stores are suspect, and when evicted.
    pub detector: DetectorSettings,
}

impl Default for MembershipSettings {
    fn default() -> Self {
        Self {
            copies: 4,
            floor: 2,
            bootstrap_nodes: None,
            quiet: Duration::from_secs(2),
            departure: Duration::from_secs(25),
            format: 1,
            detector: DetectorSettings::default(),
        }
    }
}

/// What a node says of itself when it registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// The store it has opened.
    pub store: StoreId,
    /// The cluster the store belongs to; none if it is fresh.
    pub cluster: Option<ClusterId>,
    /// This start of its process.
    pub boot: BootId,
    /// `host:port` of its data service, the host filled in.
    pub address: String,
    /// `host:port` of its admin service, the host filled in.
    pub admin_address: String,
    /// The format of wire and disk it speaks.
    pub format: u32,
    /// What the store has heard of leaders.
    pub heard: Heard,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A node registers.
    Register(Registration),
    /// A heartbeat came.
    Heartbeat {
        /// From this store.
        store: StoreId,
        /// From this process.
        boot: BootId,
    },
    /// The link to a store reports. Sends and acknowledgements need not be told one by one: the
    /// first that is outstanding, and that there was some progress since the last tick, is enough.
    Link(detector::Input),
    /// A node asks to go.
    Leave {
        /// Its store.
        store: StoreId,
        /// Its process.
        boot: BootId,
    },
    /// The operator changed the number of copies.
    Copies {
        /// Copies each value should have.
        copies: usize,
        /// Live copies that a write needs.
        floor: usize,
    },
    /// An operator wants something of a store, and [`Membership::objection_to`] has none.
    Operator {
        /// The store.
        store: StoreId,
        /// What.
        wish: Wish,
    },
    /// The metadata that was lost, made anew ([`Rebuild`]).
    Rebuilt(Box<State>),
    /// Time has passed. Comes every [`DetectorSettings::tick_interval`], after everything that had
    /// queued was taken in.
    Tick,
}

/// The answer to a registration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The store belongs to the cluster.
    Accepted,
    /// There is no cluster yet: register again after a while.
    Pending {
        /// After this long.
        retry_after: Duration,
        /// What is waited for.
        reason: String,
    },
    /// The store is not taken.
    Refused {
        /// Why, and what to do.
        reason: String,
        /// Whether waiting cannot help.
        last_word: bool,
    },
    /// The store was decommissioned, and is not taken any more.
    Decommissioned,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Make these changes durable before anything that follows is done.
    Persist(Vec<Change>),
    /// The cluster exists now; its configurations are in what was just persisted.
    Founded(Cluster),
    /// The metadata is an older copy: nothing is served any more, and no link is kept.
    Outdated,
    /// Answer the registration of this process.
    Answer {
        /// The store that registered.
        store: StoreId,
        /// The process.
        boot: BootId,
        /// The answer.
        answer: Answer,
    },
    /// Keep a link to this store's process, and drop one to an earlier process of it.
    Link {
        /// The store.
        store: StoreId,
        /// The process.
        boot: BootId,
        /// Where it is.
        address: String,
    },
    /// Drop the link to this store: it must register before it is used again.
    Unlink(StoreId),
    /// The store cannot be relied on.
    Suspected {
        /// The store.
        store: StoreId,
        /// Why.
        why: Suspicion,
    },
    /// The store can be relied on.
    Recovered(StoreId),
    /// The store was away for too long: its copies are to be made anew elsewhere.
    Evicted(StoreId),
    /// The store is slower than the others by far: it is to go where it can be spared.
    Slow {
        /// The store.
        store: StoreId,
        /// What a batch takes there.
        pace: Duration,
        /// What it takes elsewhere.
        others: Duration,
    },
    /// It is not any more.
    Fast(StoreId),
    /// What the ring proposes for each partition.
    Targets(Arc<Table>),
    /// How many copies there should be, and how many a write needs.
    Copies {
        /// Copies each value should have.
        copies: usize,
        /// Live copies that a write needs.
        floor: usize,
    },
    /// Tell a node that asked to go how far that is.
    Departure {
        /// Its store.
        store: StoreId,
        /// Its process.
        boot: BootId,
        /// Partitions that still have too few live copies without those who go.
        partitions_left: usize,
        /// Whether it may stop now.
        may_stop: bool,
    },
    /// For the log: a store is new while others, which were live until lately, are away.
    Newcomer {
        /// The new one.
        store: StoreId,
        /// The others.
        away: Vec<StoreId>,
    },
    /// For the log: the leader was stalled for this long, and blamed nobody.
    Stalled(Duration),
    /// For the log: every store, or all that owe something, are late at once, and nobody is blamed.
    AllLate,
}

/// The partitions that would have too few live copies without these stores. Asked only while a node
/// wants to go.
pub type Short<'a> = &'a dyn Fn(&BTreeSet<StoreId>) -> Vec<PartitionId>;

/// A store as the leader sees it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node<'a> {
    /// The store.
    pub store: StoreId,
    /// What is durably known of it.
    pub info: &'a MemberInfo,
    /// The process that has it open, since this leader began.
    pub boot: Option<BootId>,
    /// How it is.
    pub status: Status,
    /// How long ago it was heard of, if it was since this leader began.
    pub silence: Option<Duration>,
    /// Whether it is slower than the others by far.
    pub slow: bool,
}

/// The membership. See the module for what it guarantees.
#[derive(Debug)]
pub struct Membership {
    settings: MembershipSettings,
    epoch: Epoch,
    cluster: Option<Cluster>,
    members: BTreeMap<StoreId, MemberInfo>,
    /// Stores that were decommissioned.
    forgotten: BTreeSet<StoreId>,
    /// The versions of the configurations that this leader began with.
    known: Vec<ConfigurationVersion>,
    /// Stores that have heard something of this leader itself, since it began.
    spoken_to: BTreeSet<StoreId>,
    /// The processes that registered with this leader.
    boots: BTreeMap<StoreId, BootId>,
    detector: Detector,
    bootstrap: Bootstrap,
    departures: Departures,
    /// What the ring proposes, without regard to nodes that are about to go.
    table: Arc<Table>,
    /// When it is to be made anew, since stores have come or gone.
    table_due: Option<Moment>,
}

impl Membership {
    /// The membership of a leader that begins with this metadata, whose epoch is its own.
    ///
    /// `spare` is what a cluster will be if one is to be created.
    pub fn new(settings: MembershipSettings, now: Moment, state: &State, spare: Cluster) -> Self {
        let mut membership = Self {
            settings,
            epoch: state.epoch,
            cluster: state.cluster,
            members: state.members.clone(),
            forgotten: state.forgotten.clone(),
            known: outdated::versions(state),
            spoken_to: BTreeSet::new(),
            boots: BTreeMap::new(),
            detector: Detector::new(settings.detector, now),
            bootstrap: Bootstrap::new(spare),
            departures: Departures::default(),
            table: Arc::default(),
            table_due: None,
        };
        for store in state.members.iter().filter(|(_, info)| info.placed).map(|(store, _)| *store) {
            membership.detector.step(now, detector::Input::Expected(store));
        }
        membership.table = membership.propose();
        if let Some(promised) = state.outdated {
            membership.begin_outdated(now, promised);
        }
        membership
    }

    /// Takes in what happened and says what is to be done.
    pub fn step(&mut self, now: Moment, input: Input, short: Short<'_>) -> Vec<Output> {
        let mut out = Vec::new();
        match input {
            Input::Register(registration) => self.register(now, registration, &mut out),
            Input::Heartbeat { store, boot } if self.boots.get(&store) == Some(&boot) => {
                self.detect(now, detector::Input::Heard(store), &mut out);
            }
            Input::Heartbeat { .. } => {}
            Input::Link(input) => self.detect(now, input, &mut out),
            Input::Leave { store, boot } => self.leave(now, store, boot, short, &mut out),
            Input::Copies { copies, floor } => self.set_copies(copies, floor, &mut out),
            Input::Operator { store, wish } => self.grant(store, wish, &mut out),
            Input::Rebuilt(state) => self.rebuilt(now, &state, &mut out),
            Input::Tick => {
                self.detect(now, detector::Input::Tick, &mut out);
                self.found(now, &mut out);
                if self.table_due.is_some_and(|due| now >= due) {
                    self.replace_table(&mut out);
                }
                self.review_departures(now, short, &mut out);
            }
        }
        out
    }

    /// The cluster, once it exists.
    pub fn cluster(&self) -> Option<&Cluster> {
        self.cluster.as_ref()
    }

    /// What the ring proposes; what a leader begins with, until [`Output::Targets`] says otherwise.
    pub fn table(&self) -> &Arc<Table> {
        &self.table
    }

    /// How the process that has a store open is seen; nothing if it must register first.
    pub fn standing(&self, store: StoreId, boot: BootId) -> Option<Status> {
        let known = self.boots.get(&store) == Some(&boot);
        let status = self.detector.status(store).filter(|_| known)?;
        (status != Status::Evicted).then_some(status)
    }

    /// The stores that are slower than the others by far. Where they have nothing else to do, they are
    /// to be sent something now and then, by which they are judged.
    pub fn slow(&self) -> impl Iterator<Item = StoreId> + '_ {
        self.detector.slow()
    }

    /// Every store that belongs to the cluster.
    pub fn nodes(&self, now: Moment) -> impl Iterator<Item = Node<'_>> {
        self.members.iter().map(move |(store, info)| {
            let boot = self.boots.get(store).copied();
            Node {
                store: *store,
                info,
                boot,
                status: self.detector.status(*store).unwrap_or(Status::Evicted),
                silence: boot.and_then(|_| self.detector.silence(*store, now)),
                slow: self.detector.is_slow(*store),
            }
        })
    }

    /// Why this leader does not serve, if it must not.
    pub fn refusal(&self) -> Option<String> {
        if self.cluster.is_some() { None } else { self.bootstrap.refusal() }
    }

    /// Stores of a cluster of which this leader knows nothing, that wait for it to be told.
    pub fn waiting(&self, now: Moment) -> impl Iterator<Item = &Registration> {
        self.bootstrap.members(now)
    }

    /// Into how many partitions this leader cuts clusters.
    pub fn partitions(&self) -> PartitionCount {
        self.bootstrap.partitions()
    }

    // Registration.

    fn register(&mut self, now: Moment, registration: Registration, out: &mut Vec<Output>) {
        let (store, boot) = (registration.store, registration.boot);
        let objection = self.objection(&registration);
        if objection.is_none() {
            self.judge(now, &registration, out);
        }
        let answer = match objection {
            Some(refused) => refused,
            None if self.cluster.is_some() => {
                self.accept(now, registration, out);
                Answer::Accepted
            }
            None => self.bootstrap.register(now, registration, &self.settings),
        };
        out.push(Output::Answer { store, boot, answer });
    }

    /// Why a store is not taken, if it is not.
    fn objection(&self, registration: &Registration) -> Option<Answer> {
        let refuse = |reason, last_word| Some(Answer::Refused { reason, last_word });
        let Registration { store, format, .. } = registration;
        if self.forgotten.contains(store) {
            return Some(Answer::Decommissioned);
        }
        if *format > self.settings.format {
            let known = self.settings.format;
            let reason = format!(
                "store {store} has format {format}, this leader knows formats up to {known}; \
                 upgrade the leader first"
            );
            return refuse(reason, true);
        }
        let cluster = self.cluster.as_ref()?;
        if let Some(other) = registration.cluster.filter(|other| *other != cluster.id) {
            let ours = cluster.id;
            let reason = format!(
                "store {store} belongs to cluster {other}, this is cluster {ours}; give the node \
                 another data directory, or the right leader"
            );
            return refuse(reason, true);
        }
        if self.is_open_elsewhere(registration) {
            let reason = format!(
                "store {store} is open in another process that is alive; stop one of the two"
            );
            return refuse(reason, false);
        }
        if !self.members.contains_key(store) && self.members.len() >= MAX_MEMBERS {
            let reason = format!("the cluster has {MAX_MEMBERS} stores already; forget some first");
            return refuse(reason, false);
        }
        None
    }

    fn is_open_elsewhere(&self, registration: &Registration) -> bool {
        let other = self.boots.get(&registration.store).is_some_and(|b| *b != registration.boot);
        let status = self.detector.status(registration.store);
        other && matches!(status, Some(Status::Live | Status::Leaving))
    }

    fn accept(&mut self, now: Moment, registration: Registration, out: &mut Vec<Output>) {
        self.notice_newcomer(now, &registration, out);
        let Registration { store, boot, address, admin_address, .. } = registration;
        let known = self.members.get(&store);
        let placed = known.is_some_and(|info| info.placed);
        let drained = known.is_some_and(|info| info.drained);
        let info = MemberInfo { address: address.clone(), admin_address, placed, drained };
        self.remember(store, info, out);
        self.spoken_to.insert(store);
        // A process that is known and registers again has doubts, not a new beginning.
        if self.standing(store, boot).is_none() || self.departures.was_let_go(store) {
            self.boots.insert(store, boot);
            self.departures.forget(store);
            self.detect(now, detector::Input::Expected(store), out);
        }
        out.push(Output::Link { store, boot, address });
    }

    /// Makes durable what is known of a store, if that is news.
    fn remember(&mut self, store: StoreId, info: MemberInfo, out: &mut Vec<Output>) {
        if self.members.get(&store) != Some(&info) {
            self.members.insert(store, info.clone());
            out.push(Output::Persist(vec![Change::Member(store, info)]));
        }
    }

    // Stores that come and go.

    fn detect(&mut self, now: Moment, input: detector::Input, out: &mut Vec<Output>) {
        for event in self.detector.step(now, input) {
            match event {
                Event::Suspected { store, why } => out.push(Output::Suspected { store, why }),
                Event::Recovered(store) => {
                    out.push(Output::Recovered(store));
                    self.set_placed(now, store, true, out);
                }
                Event::Evicted(store) => {
                    self.departures.forget(store);
                    out.extend([Output::Unlink(store), Output::Evicted(store)]);
                    self.set_placed(now, store, false, out);
                }
                Event::Slow { store, pace, others } => {
                    out.push(Output::Slow { store, pace, others });
                }
                Event::Fast(store) => out.push(Output::Fast(store)),
                Event::LeaderStalled(late) => out.push(Output::Stalled(late)),
                Event::AllLate => out.push(Output::AllLate),
            }
        }
    }

    /// Puts a store on the ring or takes it off; what follows is proposed a little later.
    fn set_placed(&mut self, now: Moment, store: StoreId, placed: bool, out: &mut Vec<Output>) {
        let Some(info) = self.members.get(&store).filter(|info| info.placed != placed) else {
            return;
        };
        let info = MemberInfo { placed, ..info.clone() };
        let drained = info.drained;
        self.remember(store, info, out);
        if !drained {
            self.table_due.get_or_insert(now + SETTLE);
        }
    }

    fn set_copies(&mut self, copies: usize, floor: usize, out: &mut Vec<Output>) {
        if (copies, floor) == (self.settings.copies, self.settings.floor) {
            return;
        }
        (self.settings.copies, self.settings.floor) = (copies, floor);
        out.push(Output::Copies { copies, floor });
        self.replace_table(out);
    }

    // The ring.

    /// The stores on the ring.
    fn placed(&self) -> Vec<StoreId> {
        let on_the_ring = |info: &MemberInfo| info.placed && !info.drained;
        let placed = self.members.iter().filter(|(_, info)| on_the_ring(info));
        placed.map(|(store, _)| *store).collect()
    }

    fn propose(&self) -> Arc<Table> {
        let Some(cluster) = &self.cluster else { return Arc::default() };
        Arc::new(place(cluster.partitions, &self.placed(), self.settings.copies))
    }

    fn replace_table(&mut self, out: &mut Vec<Output>) {
        self.table_due = None;
        if self.cluster.is_some() {
            self.table = self.propose();
            self.departures.table_changed();
            out.push(Output::Targets(Arc::clone(&self.table)));
        }
    }
}
