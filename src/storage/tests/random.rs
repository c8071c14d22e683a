//! Random histories: commits, maintenance, crashes and failures of the disk, drawn from a seed, and
//! after every reopening the store must be what the model says.

use std::fmt::Write as _;

use bytes::Bytes;

use super::model::{Model, Order, Step, shown};
use super::support::*;
use crate::protocol::control::Control;
use crate::storage::disk::simulated::{Operation, Seeded, Survival};
use crate::storage::guards::{Guard, Guards};
use crate::storage::{IoMode, Options, SimulatedDisk, StorageError, Store, Tail};
use crate::types::{Configuration, ConfigurationVersion, Epoch, PartitionId, Token, Version};

/// What a history is made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Profile {
    pub steps: u64,
    pub io_mode: IoMode,
    /// In a thousand steps: power cuts, kills, failing operations, clean stops.
    pub cuts: u64,
    pub kills: u64,
    pub failures: u64,
    pub closes: u64,
    /// Keys in each partition.
    pub keys: u64,
    /// Values are up to this long.
    pub value_bytes: u64,
    pub guard_off: Option<Guard>,
}

pub(super) const USUAL: Profile = Profile {
    steps: 250,
    io_mode: IoMode::Unbuffered,
    cuts: 25,
    kills: 10,
    failures: 15,
    closes: 10,
    keys: 12,
    value_bytes: 3000,
    guard_off: None,
};

pub(super) const BUFFERED: Profile = Profile { io_mode: IoMode::Buffered, ..USUAL };

/// A store, the model beside it, and what is not yet certain.
struct History {
    random: Seeded,
    profile: Profile,
    disk: SimulatedDisk,
    store: Option<Store<SimulatedDisk>>,
    /// What is certainly durable.
    certain: Model,
    /// What was written since, in order.
    pending: Vec<Step>,
    /// How many of the pending were acknowledged.
    acknowledged: usize,
    seqs: Vec<u64>,
    epoch: u64,
    token: u64,
}

/// Runs one history; says what was wrong.
pub(super) fn run(seed: u64, profile: Profile) -> Result<(), String> {
    let mut history = History::new(seed, profile)?;
    for step in 0..profile.steps {
        history.step().map_err(|problem| format!("seed {seed} step {step}: {problem}"))?;
    }
    history.crash(Crash::Cut).map_err(|problem| format!("seed {seed} at the end: {problem}"))
}

/// Runs one history to a state that is marked as synced; gives the disk, and what a store on it
/// must show.
pub(super) fn settled(seed: u64, profile: Profile) -> Result<(SimulatedDisk, Model), String> {
    let mut history = History::new(seed, profile)?;
    for _ in 0..profile.steps {
        history.step()?;
    }
    history.crash(Crash::Cut)?;
    history.with_store(Store::mark_quiet).map_err(|error| error.to_string())?;
    history.disk.kill();
    Ok((history.disk, history.certain))
}

#[derive(Clone, Copy)]
enum Crash {
    Cut,
    Kill,
    Close,
}

impl History {
    fn new(seed: u64, profile: Profile) -> Result<Self, String> {
        let mut history = Self {
            random: Seeded::new(seed),
            profile,
            disk: SimulatedDisk::new(seed ^ 0xd15c),
            store: None,
            certain: Model::new(),
            pending: Vec::new(),
            acknowledged: 0,
            seqs: vec![0; usize::from(partitions().get())],
            epoch: 1,
            token: 0,
        };
        history.open(false)?;
        Ok(history)
    }

    fn options(&self) -> Options {
        Options {
            io_mode: self.profile.io_mode,
            tail_bytes: 200 << 10,
            spare_segments: 1,
            guards: self.profile.guard_off.map_or_else(Guards::default, Guards::without),
            ..options()
        }
    }

    fn step(&mut self) -> Result<(), String> {
        let roll = self.random.below(1000);
        let Profile { cuts, kills, failures, closes, .. } = self.profile;
        let mut bound = cuts;
        if roll < bound {
            return if self.random.chance(500) { self.crash(Crash::Cut) } else { self.cut_soon() };
        }
        bound += kills;
        if roll < bound {
            return self.crash(Crash::Kill);
        }
        bound += closes;
        if roll < bound {
            return self.crash(Crash::Close);
        }
        bound += failures;
        if roll < bound {
            let kind = if self.random.chance(600) { Operation::Sync } else { Operation::Write };
            self.disk.fail(kind, self.random.below(4));
        }
        self.work()
    }

    /// Ordinary work; a failure leads to a crash.
    fn work(&mut self) -> Result<(), String> {
        let outcome = match self.random.below(100) {
            0..=64 => self.commit(),
            65..=89 => self.maintain(),
            90..=93 => self.sync(),
            94..=95 => self.with_store(Store::mark_quiet).map(|()| true),
            _ => return self.compare_live(),
        };
        match outcome {
            Ok(durable) => {
                if durable {
                    self.settle();
                }
                Ok(())
            }
            Err(StorageError::DiskFull { .. }) => Ok(()),
            Err(_) if self.profile.guard_off == Some(Guard::FailureIsFinal) => Ok(()),
            Err(_) => {
                let again = self.with_store(|store| store.commit(&[put("a", 1, "late")]).map(drop));
                if !matches!(again, Err(StorageError::Failed)) {
                    return Err(format!("after a failure a commit came to {again:?}"));
                }
                let crash = if self.random.chance(500) { Crash::Cut } else { Crash::Kill };
                self.crash(crash)
            }
        }
    }

    fn with_store<T>(
        &mut self,
        act: impl FnOnce(&mut Store<SimulatedDisk>) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        self.store.as_mut().map_or(Err(StorageError::Failed), act)
    }

    /// Everything acknowledged is durable by now.
    fn settle(&mut self) {
        for step in self.pending.drain(..self.acknowledged) {
            self.certain.apply(&step);
        }
        self.acknowledged = 0;
    }

    fn commit(&mut self) -> Result<bool, StorageError> {
        let large = self.random.chance(20);
        let count = 1 + self.random.below(if large { 60 } else { 5 });
        let steps: Vec<Step> = (0..count).map(|_| self.draw()).collect();
        let records: Vec<Bytes> = steps.iter().map(Step::encode).collect();
        let refused = self.pending.len();
        self.pending.extend(steps);
        match self.with_store(|store| store.commit(&records)) {
            Ok(_) => {
                self.acknowledged = self.pending.len();
                Ok(self.profile.io_mode == IoMode::Unbuffered)
            }
            Err(error) => {
                if matches!(error, StorageError::DiskFull { .. }) {
                    self.pending.truncate(refused);
                }
                Err(error)
            }
        }
    }

    fn maintain(&mut self) -> Result<bool, StorageError> {
        for _ in 0..=self.random.below(12) {
            self.with_store(Store::maintain)?;
        }
        Ok(false)
    }

    fn sync(&mut self) -> Result<bool, StorageError> {
        self.with_store(Store::sync)?;
        Ok(true)
    }

    fn draw(&mut self) -> Step {
        let partition = PartitionId(u16::try_from(self.random.below(3)).unwrap());
        let key = format!("k{}", self.random.below(self.profile.keys));
        if self.random.chance(10) {
            self.epoch += 1;
            let promise = Order::Control(Control::Promise(Epoch(self.epoch)));
            return Step { partition: PartitionId::STORE, order: promise };
        }
        let seq = &mut self.seqs[partition.index()];
        *seq += 1;
        let newest = *seq;
        let past = Version::new(Epoch(self.epoch), 1 + self.random.below(newest));
        let version = Version::new(Epoch(self.epoch), newest);
        // The value follows from the version, as everywhere in a cluster.
        let longest = self.profile.value_bytes;
        let value = |version: Version| {
            let mixed = Seeded::new(version.seq ^ version.epoch.0 << 32).below(longest);
            Some(vec![(version.seq % 251) as u8; usize::try_from(mixed).unwrap()])
        };
        let order = match self.random.below(100) {
            0..=54 => Order::Write { key, version, value: value(version), install: false },
            55..=64 => Order::Write { key, version, value: None, install: false },
            65..=69 => Order::Write { key, version: past, value: value(past), install: false },
            70..=77 => Order::Write { key, version: past, value: value(past), install: true },
            78..=79 => Order::Write { key, version: past, value: None, install: true },
            _ => Order::Control(self.draw_control(&key, partition, past)),
        };
        Step { partition, order }
    }

    fn draw_control(&mut self, key: &str, partition: PartitionId, older: Version) -> Control {
        self.token += 1;
        let token = Token(self.token);
        let model = self.newest();
        let held = &model.partitions[partition.index()];
        let current = held.token.unwrap_or_default();
        match self.random.below(20) {
            0 => Control::Begin(token),
            1 => Control::Start(token),
            2 => Control::Start(current),
            3..=10 => {
                let version = held.entries.get(key).map_or(older, |held| held.version);
                Control::Vouch { key_hash: hash(key), version }
            }
            11 => Control::Finish(current),
            12 if self.random.chance(100) => Control::Adopt(token),
            12 if self.random.chance(300) => Control::Remove(ConfigurationVersion(self.token)),
            13..=15 => Control::Watermark(older),
            16 => Control::GarbageFloor(older),
            17 if self.random.chance(500) => Control::GarbageFloor(older),
            17 => {
                let version = held.entries.get(key).map_or(older, |held| held.version);
                Control::Forget { key_hash: hash(key), version }
            }
            _ => Control::Configuration(Configuration {
                version: ConfigurationVersion(self.random.below(self.token + 1)),
                ..Configuration::default()
            }),
        }
    }

    /// The model with everything that was acknowledged.
    fn newest(&self) -> Model {
        let mut model = self.certain.clone();
        for step in self.pending.iter().take(self.acknowledged) {
            model.apply(step);
        }
        model
    }

    fn compare_live(&mut self) -> Result<(), String> {
        let Some(store) = &self.store else { return Ok(()) };
        if store.reader().has_failed() {
            return Ok(());
        }
        let shown = shown(store)?;
        if shown == self.newest() { Ok(()) } else { Err(differs(&self.newest(), &shown)) }
    }

    /// The power goes off in the middle of some operation soon.
    fn cut_soon(&mut self) -> Result<(), String> {
        self.disk.cut_after(self.random.below(12));
        for _ in 0..30 {
            let outcome = if self.random.chance(700) { self.commit() } else { self.maintain() };
            match outcome {
                Ok(true) => self.settle(),
                Ok(false) => {}
                Err(_) => return self.crash(Crash::Cut),
            }
        }
        self.crash(Crash::Cut)
    }

    fn crash(&mut self, crash: Crash) -> Result<(), String> {
        let mut clean = false;
        match crash {
            Crash::Cut => {
                self.store = None;
                let survival = match self.random.below(6) {
                    0 => Survival::Nothing,
                    1 => Survival::Everything,
                    _ => Survival::Random,
                };
                self.disk.power_cut_with(survival);
            }
            Crash::Kill => {
                // The machine keeps what it was given, unless it has failed to before.
                let failed = self.store.take().is_none_or(|store| store.reader().has_failed());
                self.disk.kill();
                if !failed {
                    self.settle();
                    return self.open_now(false);
                }
            }
            Crash::Close => {
                clean = self.store.take().is_some_and(|store| store.close().is_ok());
                if clean {
                    self.settle();
                    self.pending.clear();
                }
                self.disk.kill();
            }
        }
        self.open(clean)
    }

    fn open(&mut self, clean: bool) -> Result<(), String> {
        // Sometimes the power goes off while the store is being opened.
        if self.random.chance(200) {
            self.disk.cut_after(self.random.below(10));
            let cut = Store::open(self.disk.clone(), KEY, partitions(), self.options());
            if let Ok((store, opened)) = cut {
                check_tail(opened.tail, &opened.damaged, false)?;
                drop(store);
            }
            self.disk.power_cut();
            return self.open_now(false);
        }
        self.open_now(clean)
    }

    fn open_now(&mut self, clean: bool) -> Result<(), String> {
        let opened = Store::open(self.disk.clone(), KEY, partitions(), self.options());
        let (mut store, opened) = opened.map_err(|error| error.to_string())?;
        check_tail(opened.tail, &opened.damaged, clean)?;
        store.trust().map_err(|error| error.to_string())?;
        let shown = shown(&store)?;
        self.store = Some(store);
        self.resolve(&shown)
    }

    /// The store must show the certain state and some prefix of what was pending.
    fn resolve(&mut self, shown: &Model) -> Result<(), String> {
        let mut candidate = self.certain.clone();
        let mut rest = std::mem::take(&mut self.pending).into_iter();
        self.acknowledged = 0;
        while candidate != *shown {
            let Some(step) = rest.next() else { return Err(differs(&self.certain, shown)) };
            candidate.apply(&step);
        }
        self.certain = candidate;
        Ok(())
    }
}

fn check_tail(tail: Tail, damaged: &[PartitionId], clean: bool) -> Result<(), String> {
    match tail {
        Tail::Damaged(damage) => Err(format!("nothing was damaged, but: {damage}")),
        _ if !damaged.is_empty() => Err(format!("partitions {damaged:?} are not damaged")),
        Tail::Torn if clean => Err("a clean stop looks torn".into()),
        Tail::Clean | Tail::Torn => Ok(()),
    }
}

fn differs(expected: &Model, shown: &Model) -> String {
    let mut text = String::from("the store shows what it should not:");
    if expected.promised != shown.promised {
        let _ = write!(text, " promised {:?} not {:?}", shown.promised, expected.promised);
    }
    for (number, (expected, shown)) in expected.partitions.iter().zip(&shown.partitions).enumerate()
    {
        if expected == shown {
            continue;
        }
        let _ = write!(text, "\n partition {number}: {:?} not {:?}", shown.token, expected.token);
        let keys = expected.entries.keys().chain(shown.entries.keys());
        for key in keys {
            let brief = |model: &super::model::ModelPartition| {
                model
                    .entries
                    .get(key)
                    .map(|held| (held.version, held.value.as_ref().map(Vec::len), held.vouched))
            };
            if brief(expected) != brief(shown) {
                let _ = write!(text, "\n  {key}: {:?} not {:?}", brief(shown), brief(expected));
            }
        }
    }
    text
}

/// Runs seeds until one shows a violation.
pub(super) fn first_violation(seeds: std::ops::Range<u64>, profile: Profile) -> Option<String> {
    seeds.into_iter().find_map(|seed| run(seed, profile).err())
}

#[test]
fn every_prefix_survives_power_cuts_kills_and_failures() {
    assert_eq!(first_violation(0..400, USUAL), None);
}

#[test]
fn buffered_stores_lose_a_suffix_and_nothing_else() {
    assert_eq!(first_violation(1000..1400, BUFFERED), None);
}

#[test]
fn small_values_and_many_crashes() {
    let profile = Profile { cuts: 120, kills: 60, value_bytes: 100, keys: 40, ..USUAL };
    assert_eq!(first_violation(2000..2150, profile), None);
    let profile = Profile { io_mode: IoMode::Buffered, ..profile };
    assert_eq!(first_violation(3000..3150, profile), None);
}

#[test]
#[ignore = "by hand: a few minutes"]
fn many_more_histories() {
    let harsh = Profile { cuts: 100, kills: 50, failures: 60, ..USUAL };
    let large = Profile { value_bytes: 20_000, steps: 600, ..USUAL };
    for (number, profile) in [USUAL, BUFFERED, harsh, large].into_iter().enumerate() {
        let start = 1_000_000 * (number as u64 + 1);
        assert_eq!(first_violation(start..start + 10_000, profile), None);
        let buffered = Profile { io_mode: IoMode::Buffered, ..profile };
        assert_eq!(first_violation(start + 500_000..start + 505_000, buffered), None);
    }
}
