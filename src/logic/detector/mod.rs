//! The failure detector: which stores can be relied on, judged by what they do.
//!
//! Three things make a store *suspect*, and cost it its place in the in-sync sets:
//!
//! * its connection was reset: that counts at once;
//! * something is outstanding and it has acknowledged nothing at all for a second;
//! * it has been silent for a second: no heartbeat, no message of any kind.
//!
//! After ten seconds of silence it is *evicted*: the ring forgets it and its copies are made anew.
//!
//! # Whose fault is it?
//!
//! A detector that blames others for its own stall removes healthy copies, and that is how clusters
//! fall over at their busiest. So these findings stop blaming:
//!
//! * **The leader was stalled.** A tick that comes more than 250 ms late says so. All timers start
//!   anew; whatever queued meanwhile is taken in before anybody is judged.
//! * **Everybody is late at once.** Then the leader, its network or the host is the cause. Nobody
//!   is removed until one of them moves, and then all timers start anew. For the same reason nobody
//!   is evicted while no store at all is live.
//! * **Nobody acknowledges anything**, and several stores owe it. A store that owes nothing sends its
//!   heartbeats while a disk that all of them share stands still: it says nothing about the cause. So
//!   nobody is late then, until one of them moves and the others get their time again. Two disks that
//!   died at once look the same, where nothing else is written: so this excuses a store for four times
//!   `suspect_after` and no longer, which is less than a client waits for its write if neither was
//!   changed. Silence is not excused: processes that are frozen send no heartbeats either.
//!
//! A store that comes back is *live* at once, so that a partition at its floor can use it. Where it
//! lost its place it has to wait, longer each time; each partition sees to that for itself.
//!
//! A store that works, but slower than the others by far, is *slow*, which `slowness` finds out.

mod slowness;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::types::{Moment, StoreId};
pub use slowness::SlownessSettings;
use slowness::{Finding, Slowness};

/// How long is long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DetectorSettings {
    /// Silence or lateness that makes a store suspect.
    pub suspect_after: Duration,
    /// Silence after which it is evicted.
    pub evict_after: Duration,
    /// How often the owner promises to tick.
    pub tick_interval: Duration,
    /// A tick this much later than promised means that the leader itself was stalled.
    pub late_tick: Duration,
    /// When a store is slower than the others by far.
    pub slowness: SlownessSettings,
}

impl Default for DetectorSettings {
    fn default() -> Self {
        Self {
            suspect_after: Duration::from_secs(1),
            evict_after: Duration::from_secs(10),
            tick_interval: Duration::from_millis(50),
            late_tick: Duration::from_millis(250),
            slowness: SlownessSettings::default(),
        }
    }
}

impl DetectorSettings {
    /// For how long it may be somebody else's fault that a store acknowledges nothing.
    fn longest_excuse(&self) -> Duration {
        self.suspect_after * 4
    }
}

/// What happened to a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// It is a member, and has yet to show itself: after a start of the leader, or a registration.
    Expected(StoreId),
    /// The stream of batches to it is open.
    Connected(StoreId),
    /// The stream of batches to it was reset or refused.
    Disconnected(StoreId),
    /// Something was sent that it must acknowledge.
    Sent(StoreId),
    /// It acknowledged something.
    Acknowledged {
        /// The store.
        store: StoreId,
        /// Whether it still owes acknowledgements.
        outstanding: bool,
    },
    /// So many batches became durable, each so long after it was sent that it makes this in all.
    Took {
        /// The store.
        store: StoreId,
        /// The time of all of them.
        total: Duration,
        /// How many.
        batches: u32,
    },
    /// A heartbeat, or any other message of it.
    Heard(StoreId),
    /// It asked to go and is no longer given anything new.
    Leaving(StoreId),
    /// It was let go: whatever it still says, it cannot be relied on before it registers again.
    Left(StoreId),
    /// It is no longer a member, or has gone.
    Forgotten(StoreId),
    /// Time has passed. Everything that had queued must have been taken in before.
    Tick,
}

/// Why a store is suspect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suspicion {
    /// Its connection was reset.
    Disconnected,
    /// It owes acknowledgements and has given none.
    Late,
    /// Nothing was heard of it.
    Silent,
    /// It asked to go, and was let go.
    Left,
}

impl std::fmt::Display for Suspicion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Disconnected => "its connection was reset",
            Self::Late => "it owes acknowledgements and gives none",
            Self::Silent => "nothing is heard of it",
            Self::Left => "it left",
        })
    }
}

/// What the detector found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The store cannot be relied on.
    Suspected {
        /// The store.
        store: StoreId,
        /// Why.
        why: Suspicion,
    },
    /// The store can be relied on.
    Recovered(StoreId),
    /// The store has been away for too long.
    Evicted(StoreId),
    /// The store is slower than the others by far.
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
    /// The leader itself was stalled for this long; nobody is blamed.
    LeaderStalled(Duration),
    /// Every store is late at once, or all that owe something; nobody is blamed until one moves.
    AllLate,
}

/// How the detector sees a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It can be relied on.
    Live,
    /// It cannot be relied on for now.
    Suspect,
    /// It has been away for too long.
    Evicted,
    /// It is live and about to go.
    Leaving,
}

impl Status {
    /// As the wire and reports say it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Suspect => "suspect",
            Self::Evicted => "evicted",
            Self::Leaving => "leaving",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Condition {
    Live,
    Suspect,
    Evicted,
}

/// What is known of one store.
#[derive(Clone, Debug)]
struct Observed {
    condition: Condition,
    leaving: bool,
    left: bool,
    connected: bool,
    /// When it was last heard of.
    heard: Moment,
    /// Since when its silence counts: no earlier than the last time nobody was to blame.
    silent: Moment,
    /// Since when it owes an acknowledgement and has given none.
    owing: Option<Moment>,
    /// Its lateness counts from here at the earliest: nobody was to blame before.
    pardoned: Moment,
}

impl Observed {
    fn expected(now: Moment) -> Self {
        Self {
            condition: Condition::Suspect,
            leaving: false,
            left: false,
            connected: false,
            heard: now,
            silent: now,
            owing: None,
            pardoned: now,
        }
    }

    fn trouble(&self, now: Moment, settings: &DetectorSettings) -> Option<Suspicion> {
        let long = |since: Moment| now.since(since) >= settings.suspect_after;
        if self.left {
            Some(Suspicion::Left)
        } else if !self.connected {
            Some(Suspicion::Disconnected)
        } else if long(self.silent) {
            Some(Suspicion::Silent)
        } else if self.owing.is_some_and(|since| long(since.max(self.pardoned)))
            || self.is_overdue(now, settings)
        {
            Some(Suspicion::Late)
        } else {
            None
        }
    }

    /// Whether it has owed acknowledgements for longer than anything excuses.
    fn is_overdue(&self, now: Moment, settings: &DetectorSettings) -> bool {
        self.owing.is_some_and(|since| now.since(since) >= settings.longest_excuse())
    }

    /// Whether it has owed acknowledgements for half of what makes it late.
    fn is_stuck(&self, now: Moment, settings: &DetectorSettings) -> bool {
        self.owing.is_some_and(|since| now.since(since) >= settings.suspect_after / 2)
    }

    fn hear(&mut self, now: Moment) {
        self.heard = now;
        self.silent = now;
    }

    fn start_timers(&mut self, now: Moment) {
        self.silent = now;
        self.owing = self.owing.map(|_| now);
    }
}

/// The failure detector.
#[derive(Debug)]
pub struct Detector {
    settings: DetectorSettings,
    stores: BTreeMap<StoreId, Observed>,
    last_tick: Moment,
    slowness: Slowness,
    /// Everybody was late, or nobody live, at the last tick.
    holding: bool,
    /// When any store last acknowledged something.
    moved: Moment,
    /// Some were late at the last tick, and excused because nothing moved.
    excusing: bool,
}

impl Detector {
    /// A detector that knows no store yet.
    pub fn new(settings: DetectorSettings, now: Moment) -> Self {
        let slowness = Slowness::new(settings.slowness, now);
        Self {
            settings,
            stores: BTreeMap::new(),
            last_tick: now,
            slowness,
            holding: false,
            moved: now,
            excusing: false,
        }
    }

    /// Takes in what happened and says what follows.
    pub fn step(&mut self, now: Moment, input: Input) -> Vec<Event> {
        match input {
            Input::Expected(store) => return self.expect(store, now),
            Input::Connected(store) => self.connect(store, now),
            Input::Disconnected(store) => return self.disconnect(store),
            Input::Sent(store) => {
                self.observe(store, |seen| seen.owing = seen.owing.or(Some(now)));
                return Vec::new();
            }
            Input::Acknowledged { store, outstanding } => {
                self.move_on(now);
                self.observe(store, |seen| {
                    seen.hear(now);
                    seen.owing = outstanding.then_some(now);
                });
            }
            Input::Took { store, total, batches } => {
                self.slowness.took(store, total, batches);
                return Vec::new();
            }
            Input::Heard(store) => self.observe(store, |seen| seen.hear(now)),
            Input::Left(store) => return self.let_go(store),
            Input::Leaving(store) => self.observe(store, |seen| seen.leaving = true),
            Input::Forgotten(store) => {
                self.stores.remove(&store);
                self.slowness.forget(store);
                return Vec::new();
            }
            Input::Tick => {
                let mut events = self.tick(now);
                let stalled = events.iter().any(|it| matches!(it, Event::LeaderStalled(_)));
                events.extend(self.compare_paces(now, stalled));
                return events;
            }
        }
        self.recover(input, now)
    }

    /// How a store is seen; nothing if it is unknown.
    pub fn status(&self, store: StoreId) -> Option<Status> {
        self.stores.get(&store).map(|seen| match seen.condition {
            Condition::Live if seen.leaving => Status::Leaving,
            Condition::Live => Status::Live,
            Condition::Suspect => Status::Suspect,
            Condition::Evicted => Status::Evicted,
        })
    }

    /// Whether a store is slower than the others by far.
    pub fn is_slow(&self, store: StoreId) -> bool {
        self.slowness.is_slow(store)
    }

    /// The stores that are.
    pub fn slow(&self) -> impl Iterator<Item = StoreId> + '_ {
        self.slowness.slow()
    }

    /// How long ago a store was last heard of.
    pub fn silence(&self, store: StoreId, now: Moment) -> Option<Duration> {
        self.stores.get(&store).map(|seen| now.since(seen.heard))
    }

    /// Every store that is known, and how it is seen.
    pub fn stores(&self) -> impl Iterator<Item = (StoreId, Status)> + '_ {
        self.stores.keys().filter_map(|store| Some((*store, self.status(*store)?)))
    }

    fn observe(&mut self, store: StoreId, change: impl FnOnce(&mut Observed)) {
        if let Some(seen) = self.stores.get_mut(&store) {
            change(seen);
        }
    }

    /// A process that registers again has lost its connections, and no longer wants to leave.
    fn expect(&mut self, store: StoreId, now: Moment) -> Vec<Event> {
        let events = self.disconnect(store);
        let seen = self.stores.entry(store).or_insert_with(|| Observed::expected(now));
        seen.condition = Condition::Suspect;
        seen.leaving = false;
        seen.left = false;
        seen.hear(now);
        events
    }

    fn connect(&mut self, store: StoreId, now: Moment) {
        self.observe(store, |seen| {
            seen.connected = true;
            seen.hear(now);
            seen.owing = None;
        });
    }

    fn disconnect(&mut self, store: StoreId) -> Vec<Event> {
        self.observe(store, |seen| {
            seen.connected = false;
            seen.owing = None;
        });
        self.blame(store, Suspicion::Disconnected)
    }

    fn let_go(&mut self, store: StoreId) -> Vec<Event> {
        self.observe(store, |seen| seen.left = true);
        self.blame(store, Suspicion::Left)
    }

    /// Makes a live store suspect without waiting for anything.
    fn blame(&mut self, store: StoreId, why: Suspicion) -> Vec<Event> {
        match self.stores.get_mut(&store) {
            Some(seen) if seen.condition == Condition::Live => {
                seen.condition = Condition::Suspect;
                vec![Event::Suspected { store, why }]
            }
            _ => Vec::new(),
        }
    }

    /// Whether the store of this input can be relied on again. One that was evicted must register
    /// first.
    fn recover(&mut self, input: Input, now: Moment) -> Vec<Event> {
        let (Input::Connected(store) | Input::Heard(store) | Input::Acknowledged { store, .. }) =
            input
        else {
            return Vec::new();
        };
        let Some(seen) = self.stores.get_mut(&store) else { return Vec::new() };
        if seen.condition != Condition::Suspect || seen.trouble(now, &self.settings).is_some() {
            return Vec::new();
        }
        seen.condition = Condition::Live;
        vec![Event::Recovered(store)]
    }

    fn tick(&mut self, now: Moment) -> Vec<Event> {
        let elapsed = now.since(self.last_tick);
        self.last_tick = now;
        let late = elapsed.saturating_sub(self.settings.tick_interval);
        if late > self.settings.late_tick {
            self.start_timers(now);
            return vec![Event::LeaderStalled(late)];
        }
        let live = self.live().count();
        let mut troubled = self.troubled(now);
        if troubled.len() == live {
            let begins = !std::mem::replace(&mut self.holding, true) && !self.excusing;
            return if begins && live > 0 { vec![Event::AllLate] } else { Vec::new() };
        }
        if std::mem::take(&mut self.holding) {
            self.start_timers(now);
            return Vec::new();
        }
        let mut events = self.excuse(&mut troubled, now);
        events.extend(self.suspect(troubled));
        events.extend(self.evict(now));
        events
    }

    /// Leaves out who is late while nothing moves.
    fn excuse(&mut self, troubled: &mut Vec<(StoreId, Suspicion)>, now: Moment) -> Vec<Event> {
        let found = troubled.len();
        if self.is_at_a_standstill(now) {
            troubled.retain(|(store, why)| *why != Suspicion::Late || self.is_overdue(*store, now));
        }
        let excusing = troubled.len() < found;
        let begins = !std::mem::replace(&mut self.excusing, excusing) && excusing;
        if begins { vec![Event::AllLate] } else { Vec::new() }
    }

    /// Whether a store has owed acknowledgements for longer than anything excuses.
    fn is_overdue(&self, store: StoreId, now: Moment) -> bool {
        self.stores.get(&store).is_some_and(|seen| seen.is_overdue(now, &self.settings))
    }

    /// Whether several live stores are stuck and none has acknowledged anything for as long. Half of
    /// what makes a store late is enough: they need not have stopped in the same tick.
    fn is_at_a_standstill(&self, now: Moment) -> bool {
        let stuck = self.live().filter(|(_, seen)| seen.is_stuck(now, &self.settings));
        now.since(self.moved) >= self.settings.suspect_after / 2 && stuck.count() > 1
    }

    /// A store acknowledged something: whoever was excused meanwhile gets its time again.
    fn move_on(&mut self, now: Moment) {
        self.moved = now;
        if std::mem::take(&mut self.excusing) {
            let live = self.stores.values_mut().filter(|seen| seen.condition == Condition::Live);
            live.for_each(|seen| seen.pardoned = now);
        }
    }

    fn compare_paces(&mut self, now: Moment, stalled: bool) -> Vec<Event> {
        if stalled || self.holding || self.excusing {
            self.slowness.discard();
            return Vec::new();
        }
        let event = |finding| match finding {
            Finding::Slow { store, pace, others } => Event::Slow { store, pace, others },
            Finding::Fast(store) => Event::Fast(store),
        };
        self.slowness.tick(now).into_iter().map(event).collect()
    }

    fn start_timers(&mut self, now: Moment) {
        self.stores.values_mut().for_each(|seen| seen.start_timers(now));
    }

    fn live(&self) -> impl Iterator<Item = (&StoreId, &Observed)> {
        self.stores.iter().filter(|(_, seen)| seen.condition == Condition::Live)
    }

    /// The live stores that should no longer be.
    fn troubled(&self, now: Moment) -> Vec<(StoreId, Suspicion)> {
        let trouble = |(store, seen): (&StoreId, &Observed)| {
            seen.trouble(now, &self.settings).map(|why| (*store, why))
        };
        self.live().filter_map(trouble).collect()
    }

    fn suspect(&mut self, stores: Vec<(StoreId, Suspicion)>) -> Vec<Event> {
        let suspect = |(store, why)| {
            self.observe(store, |seen| seen.condition = Condition::Suspect);
            Event::Suspected { store, why }
        };
        stores.into_iter().map(suspect).collect()
    }

    fn evict(&mut self, now: Moment) -> Vec<Event> {
        let long = self.settings.evict_after;
        let gone = self.stores.iter_mut().filter(|(_, seen)| {
            seen.condition == Condition::Suspect && now.since(seen.silent) >= long
        });
        let evict = |(store, seen): (&StoreId, &mut Observed)| {
            seen.condition = Condition::Evicted;
            Event::Evicted(*store)
        };
        gone.map(evict).collect()
    }
}
