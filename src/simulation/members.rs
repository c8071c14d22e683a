//! Who belongs to the cluster: the real membership machine, and the shell around it that the
//! leader's coordinator is - registrations, heartbeats, links kept and dropped, nodes that go.

use std::collections::BTreeSet;
use std::time::Duration;

use super::leader::Leader;
use super::links::Link;
use super::network::StreamId;
use super::profile::MILLISECOND;
use super::world::{Event, World};
use crate::logic::detector::{self, DetectorSettings, SlownessSettings, Suspicion};
use crate::logic::membership::{
    Answer, Change, Cluster, Heard, Input, Membership, MembershipSettings, Output, Registration,
};
use crate::logic::partition::io::{self, StoreEvent};
use crate::logic::placement::Table;
use crate::types::{BootId, ClusterId, Moment, PartitionId, StoreId};

/// Between two looks at the time.
pub(super) const LEADER_TICK: u64 = 25 * MILLISECOND;

/// Stores are judged sooner here: a run takes seconds.
const SLOWNESS: SlownessSettings = SlownessSettings {
    interval: Duration::from_millis(100),
    factor: 10,
    least: Duration::from_millis(10),
    slow_after: Duration::from_secs(1),
    fast_after: Duration::from_millis(400),
};

/// A start of a node's process, as it names itself.
fn boot_id(node: usize, boot: u64) -> BootId {
    BootId::from_number((node as u128) << 64 | u128::from(boot))
}

/// What a node says that is not about its data.
#[derive(Clone, Debug)]
pub(super) enum Saying {
    Register { cluster: Option<ClusterId>, heard: Heard },
    Heartbeat { full: bool },
    Leave,
}

/// What it is answered.
#[derive(Clone, Copy, Debug)]
pub(super) enum Told {
    Accepted,
    RegisterAgain,
    MayStop,
}

impl World {
    /// The membership of a leader that begins.
    pub(super) fn membership(&self) -> Membership {
        let detector = DetectorSettings {
            suspect_after: Duration::from_micros(self.profile.suspect_after),
            evict_after: Duration::from_micros(self.profile.evict_after),
            tick_interval: Duration::from_micros(LEADER_TICK),
            slowness: SLOWNESS,
            ..DetectorSettings::default()
        };
        let settings = MembershipSettings {
            copies: self.profile.copies,
            floor: self.profile.floor,
            quiet: Duration::from_micros(self.profile.quiet),
            departure: Duration::from_micros(self.profile.departure),
            detector,
            ..MembershipSettings::default()
        };
        let spare = Cluster {
            id: ClusterId::from_number(u128::from(self.incarnation) + 1),
            index_key: self.index_key,
            partitions: self.count,
            created: 0,
        };
        Membership::new(settings, self.now, &self.metadata.state, spare)
    }

    // The node's side.

    /// What a node tells the leader now and then.
    pub(super) fn node_reports(&mut self, index: usize) {
        let node = &self.nodes[index];
        let saying = if node.registered {
            Saying::Heartbeat { full: node.full_until > self.now }
        } else {
            Saying::Register { cluster: node.cluster, heard: node.store.heard() }
        };
        self.say(index, saying);
        if self.nodes[index].leaving {
            self.say(index, Saying::Leave);
        }
    }

    fn say(&mut self, node: usize, saying: Saying) {
        let delay = super::network::delay(&self.profile, &mut self.random);
        let at = self.network.to_leader(self.now, node, delay);
        let (incarnation, store) = (self.incarnation, self.nodes[node].store.id);
        let boot = self.nodes[node].boot;
        self.queue.plan(at, Event::Say { incarnation, node, boot, store, saying });
    }

    /// A node is told something about its membership.
    pub(super) fn node_told(&mut self, index: usize, boot: u64, told: Told, cluster: ClusterId) {
        let node = &mut self.nodes[index];
        if !node.up || node.boot != boot {
            return;
        }
        match told {
            Told::Accepted => {
                node.registered = true;
                node.cluster = Some(cluster);
            }
            Told::RegisterAgain => node.registered = false,
            Told::MayStop if node.leaving => self.crash_node(index),
            Told::MayStop => {}
        }
    }

    fn tell(&mut self, node: usize, boot: u64, told: Told) {
        let cluster = self.metadata.state.cluster.map(|cluster| cluster.id);
        // Only who is accepted looks at it.
        let cluster = cluster.unwrap_or(ClusterId::from_number(0));
        let delay = super::network::delay(&self.profile, &mut self.random);
        let at = self.network.to_node(self.now, node, delay);
        self.queue.plan(at, Event::Told { node, boot, told, cluster });
    }

    // The leader's side.

    pub(super) fn leader_told(
        &mut self,
        incarnation: u64,
        (node, boot): (usize, u64),
        store: StoreId,
        saying: Saying,
    ) {
        if self.leader_mut(incarnation).is_none() || self.holds_back(node, &saying) {
            return;
        }
        let boot_id = boot_id(node, boot);
        match saying {
            Saying::Register { cluster, heard } => {
                let (address, admin_address) = (node.to_string(), String::new());
                let registration = Registration {
                    store,
                    cluster,
                    boot: boot_id,
                    address,
                    admin_address,
                    format: 1,
                    heard,
                };
                self.step_membership(Input::Register(registration));
            }
            Saying::Heartbeat { full } => {
                self.step_membership(Input::Heartbeat { store, boot: boot_id });
                let Some(leader) = &self.leader else { return };
                if leader.membership.standing(store, boot_id).is_some() {
                    self.judge_disk(store, full);
                } else {
                    self.tell(node, boot, Told::RegisterAgain);
                }
            }
            Saying::Leave => self.step_membership(Input::Leave { store, boot: boot_id }),
        }
    }

    fn judge_disk(&mut self, store: StoreId, full: bool) {
        let Some(leader) = &mut self.leader else { return };
        let event = if full && leader.full.insert(store) {
            StoreEvent::Full
        } else if !full && leader.full.remove(&store) {
            StoreEvent::Roomy
        } else {
            return;
        };
        self.feed_all(&io::Input::Store { store, event });
    }

    pub(super) fn step_membership(&mut self, input: Input) {
        let now = self.now;
        let Some(leader) = &mut self.leader else { return };
        if input != Input::Tick {
            self.trace.line(now, || format!("membership <- {input:?}"));
        }
        let (partitions, floor) = (&leader.partitions, self.profile.floor);
        let short = |without: &BTreeSet<StoreId>| short(partitions, floor, without);
        let outputs = leader.membership.step(now, input, &short);
        for output in outputs {
            self.trace.line(now, || format!("membership -> {output:?}"));
            self.carry_out_membership(output);
        }
    }

    fn carry_out_membership(&mut self, output: Output) {
        match output {
            Output::Persist(changes) => self.persist(&changes),
            Output::Founded(_) => self.begin_partitions(),
            Output::Outdated => self.violate("the leader takes its metadata for a copy".into()),
            Output::Answer { boot, answer, .. } => {
                let (node, boot) = named(boot);
                if answer == Answer::Accepted {
                    self.tell(node, boot, Told::Accepted);
                }
            }
            Output::Link { store, boot, .. } => {
                let (node, boot) = named(boot);
                self.keep_link(node, boot, store);
            }
            Output::Unlink(store) => self.drop_link(store),
            // Partitions hear from the link itself that it broke.
            Output::Suspected { why: Suspicion::Disconnected, .. } => {}
            Output::Suspected { store, .. } => self.tell_all(store, StoreEvent::Suspected),
            Output::Recovered(store) => self.tell_all(store, StoreEvent::Recovered),
            Output::Evicted(store) => self.tell_all(store, StoreEvent::Evicted),
            Output::Slow { store, .. } => {
                self.counts.slow += 1;
                self.tell_all(store, StoreEvent::Slow);
            }
            Output::Fast(store) => self.tell_all(store, StoreEvent::Fast),
            Output::Targets(table) => self.retarget(&table),
            Output::Departure { boot, may_stop: true, .. } => {
                let (node, boot) = named(boot);
                self.tell(node, boot, Told::MayStop);
            }
            Output::Copies { copies, floor } => {
                if let Some(leader) = &mut self.leader {
                    leader.settings.copies = copies;
                }
                self.feed_all(&io::Input::Copies { wanted: copies, floor });
            }
            Output::Departure { .. }
            | Output::Newcomer { .. }
            | Output::Stalled(_)
            | Output::AllLate => {}
        }
    }

    fn persist(&mut self, changes: &[Change]) {
        if let Err(regression) = self.metadata.state.apply_all(changes) {
            self.violate(format!("D: {regression}"));
        }
    }

    fn tell_all(&mut self, store: StoreId, event: StoreEvent) {
        self.feed_all(&io::Input::Store { store, event });
    }

    /// Tells partitions what the ring proposes.
    pub(super) fn retarget(&mut self, table: &Table) {
        for (index, partition) in self.count.all().enumerate() {
            let target = table.stores(partition).iter().copied().collect();
            self.feed(index, io::Input::Target(target));
        }
    }

    /// Slow stores are sent something by which they are judged.
    pub(super) fn probe(&mut self) {
        let Some(leader) = &self.leader else { return };
        let slow: Vec<StoreId> = leader.membership.slow().collect();
        for store in slow {
            self.add(store, |batch| batch.probe = true);
        }
    }

    /// What links did since the last look, for the detector.
    pub(super) fn look_at_links(&mut self) {
        let Some(leader) = &mut self.leader else { return };
        for input in leader.look() {
            self.step_membership(Input::Link(input));
        }
    }
}

/// The node and the count of its start behind a name.
fn named(boot: BootId) -> (usize, u64) {
    let number = u128::from_be_bytes(*boot.as_bytes());
    let part = |bits: u128| u64::try_from(bits & u128::from(u64::MAX)).unwrap_or(0);
    (usize::try_from(part(number >> 64)).unwrap_or(0), part(number))
}

/// The partitions that would have too few live copies without these stores.
fn short(
    partitions: &[crate::logic::partition::Partition],
    floor: usize,
    without: &BTreeSet<StoreId>,
) -> Vec<PartitionId> {
    let is_short = |partition: &&crate::logic::partition::Partition| {
        let copies = partition.status().copies;
        let live = copies.iter().filter(|copy| copy.is_sound());
        live.filter(|copy| !without.contains(&copy.store)).count() < floor
    };
    partitions.iter().filter(is_short).map(crate::logic::partition::Partition::id).collect()
}

/// What a link looked like when the detector was last told.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    stream: Option<StreamId>,
    acknowledged: u64,
}

impl Leader {
    fn look(&mut self) -> Vec<detector::Input> {
        let mut inputs = Vec::new();
        for link in &mut self.links {
            let Some(store) = link.store else { continue };
            if link.seen.stream != link.stream {
                if link.seen.stream.is_some() {
                    inputs.push(detector::Input::Disconnected(store));
                }
                if link.stream.is_some() {
                    inputs.push(detector::Input::Connected(store));
                }
                link.seen = Seen { stream: link.stream, acknowledged: link.acknowledged };
            }
            let total = Duration::from_micros(std::mem::take(&mut link.took));
            let batches = std::mem::take(&mut link.stored);
            if batches > 0 {
                inputs.push(detector::Input::Took { store, total, batches });
            }
            let Some(stream) = link.stream else { continue };
            let outstanding = self
                .outstanding
                .get(&stream)
                .is_some_and(|outstanding| !outstanding.batches.is_empty());
            if link.seen.acknowledged != link.acknowledged {
                link.seen.acknowledged = link.acknowledged;
                inputs.push(detector::Input::Acknowledged { store, outstanding });
            } else if outstanding {
                inputs.push(detector::Input::Sent(store));
            }
        }
        inputs
    }
}

impl World {
    /// A link to this process of a store is to be kept. One to a store that was on a lost disk would
    /// never connect.
    fn keep_link(&mut self, node: usize, boot: u64, store: StoreId) {
        if self.nodes[node].store.id != store {
            return;
        }
        let Some(leader) = &mut self.leader else { return };
        let link = &mut leader.links[node];
        if link.wanted == Some((store, boot)) {
            return;
        }
        let before = link.store.filter(|before| *before != store);
        if let Some(before) = before {
            self.drop_link(before);
        }
        self.close_link(node);
        if let Some(leader) = &mut self.leader {
            leader.links[node].wanted = Some((store, boot));
        }
    }

    fn drop_link(&mut self, store: StoreId) {
        let Some(leader) = &mut self.leader else { return };
        // One that already waits for the store of a new disk is no longer that of the old one.
        let of = |link: &Link| link.wanted.map_or(link.store, |(wanted, _)| Some(wanted));
        let node = leader.links.iter().position(|link| of(link) == Some(store));
        let Some(node) = node else { return };
        self.close_link(node);
        if let Some(leader) = &mut self.leader {
            leader.links[node].wanted = None;
        }
    }

    fn close_link(&mut self, node: usize) {
        let Some(leader) = &self.leader else { return };
        let link = &leader.links[node];
        let streams = [link.stream, link.opening.map(|(stream, _)| stream)];
        for stream in streams.into_iter().flatten() {
            self.stream_lost(stream);
        }
    }

    /// A node whose process is asked to end lets the leader know.
    pub(super) fn ask_to_leave(&mut self, node: usize) {
        if self.nodes[node].up {
            self.nodes[node].leaving = true;
            let boot = self.nodes[node].boot;
            let at = Moment(self.now.0 + self.profile.departure);
            self.queue.plan(at, Event::LeaveEnds { node, boot });
        }
    }

    /// Whoever asked to go goes after a while, answered or not.
    pub(super) fn leave_ends(&mut self, node: usize, boot: u64) {
        if self.nodes[node].boot == boot && self.nodes[node].leaving {
            self.crash_node(node);
        }
    }
}
