//! How a run is: drawn from its seed, so that rare combinations turn up by themselves.

use super::random::Random;
use crate::logic::mutants;

pub(super) const MILLISECOND: u64 = 1_000;
pub(super) const SECOND: u64 = 1_000_000;

/// How often each fault happens: the mean time between two, in microseconds; none is never.
#[derive(Clone, Debug, Default)]
pub(super) struct Rates {
    pub(super) node_crash: Option<u64>,
    pub(super) leader_crash: Option<u64>,
    pub(super) node_pause: Option<u64>,
    pub(super) leader_pause: Option<u64>,
    pub(super) stream_break: Option<u64>,
    pub(super) leader_cut: Option<u64>,
    pub(super) node_cut: Option<u64>,
    pub(super) wipe: Option<u64>,
    pub(super) power_cut: Option<u64>,
    pub(super) full_disk: Option<u64>,
    pub(super) leave: Option<u64>,
    pub(super) lost_batch: Option<u64>,
    pub(super) machine: Option<u64>,
    pub(super) slow_disk: Option<u64>,
    pub(super) metadata_loss: Option<u64>,
    pub(super) operate: Option<u64>,
    pub(super) rot: Option<u64>,
}

/// One run.
#[derive(Clone, Debug)]
pub(super) struct Profile {
    pub(super) nodes: usize,
    pub(super) partitions: u16,
    pub(super) copies: usize,
    pub(super) floor: usize,
    /// Groups of clients; each has keys of its own.
    pub(super) groups: u32,
    pub(super) clients_per_group: u32,
    pub(super) keys_per_group: u32,
    /// The longest pause of a client between two operations.
    pub(super) think: u64,
    /// How long clients wait.
    pub(super) deadline: u64,
    /// How long there are faults.
    pub(super) chaos: u64,
    /// A message takes this long, and up to as much again.
    pub(super) delay: u64,
    /// So many of a million messages take far longer.
    pub(super) long_delays: u64,
    pub(super) longest_delay: u64,
    /// A commit takes this long, and up to twice as much again.
    pub(super) disk: u64,
    /// So many of a million commits take far longer.
    pub(super) long_commits: u64,
    pub(super) longest_commit: u64,
    /// So many of a hundred reads take up to the longest.
    pub(super) slow_reads: u64,
    pub(super) longest_read: u64,
    /// Nodes have the real store, over simulated disks.
    pub(super) real_stores: bool,
    /// Stores are synced every second only.
    pub(super) buffered: bool,
    /// The leader hears answers on streams that it gave up. Not where stores lose what they have
    /// acknowledged: there it matters that links forget their old streams.
    pub(super) late_answers: bool,
    /// Copied records come so many at a time.
    pub(super) chunk: usize,
    pub(super) missing_bytes: usize,
    /// What the leader may remember: nothing, a key or two, or all of them.
    pub(super) cache_bytes: usize,
    pub(super) peering_grace: u64,
    pub(super) absent_grace: u64,
    pub(super) suspect_after: u64,
    pub(super) evict_after: u64,
    /// A cluster begins when no further node came for so long.
    pub(super) quiet: u64,
    /// How long a node that asks to go is kept.
    pub(super) departure: u64,
    /// Processes are down this long at least and at most.
    pub(super) shortest_outage: u64,
    pub(super) longest_outage: u64,
    pub(super) rates: Rates,
}

impl Profile {
    pub(super) fn draw(random: &mut Random) -> Self {
        let nodes = usize::try_from(random.between(3, 5)).unwrap_or(3);
        let copies = usize::try_from(random.between(2, nodes.min(4) as u64)).unwrap_or(2);
        let floor = if copies <= 2 && random.percent(70) { 1 } else { 2 };
        let harsh = random.percent(40);
        let mut profile = Self {
            nodes,
            partitions: *random.pick(&[1, 2, 2, 4]),
            copies,
            floor,
            groups: 2,
            clients_per_group: u32::try_from(random.between(2, 5)).unwrap_or(3),
            keys_per_group: u32::try_from(random.between(1, 4)).unwrap_or(2),
            think: *random.pick(&[2, 10, 50, 200]) * MILLISECOND,
            deadline: *random.pick(&[500, 2_000, 5_000]) * MILLISECOND,
            chaos: random.between(6, 16) * SECOND,
            delay: random.between(50, 500),
            long_delays: 0,
            longest_delay: *random.pick(&[20, 200, 1_500]) * MILLISECOND,
            disk: random.between(60, 800),
            long_commits: *random.pick(&[0, 500, 10_000]),
            longest_commit: *random.pick(&[20, 300, 2_500]) * MILLISECOND,
            slow_reads: 3,
            longest_read: *random.pick(&[1, 20, 240]) * MILLISECOND,
            real_stores: random.percent(50) && !mutants::enabled_in_stores(),
            buffered: random.percent(15),
            late_answers: random.percent(40),
            chunk: random.index(3) + 1,
            peering_grace: *random.pick(&[20, 100, 500]) * MILLISECOND,
            absent_grace: *random.pick(&[100, 500, 3_000]) * MILLISECOND,
            missing_bytes: *random.pick(&[1 << 20, 2_000]),
            cache_bytes: *random.pick(&[0, 300, 500, 500, 900, 1 << 20]),
            suspect_after: *random.pick(&[300, 1_000]) * MILLISECOND,
            quiet: *random.pick(&[10, 300, 1_000]) * MILLISECOND,
            departure: random.between(100, 6_000) * MILLISECOND,
            evict_after: *random.pick(&[2, 5, 10]) * SECOND,
            shortest_outage: 5 * MILLISECOND,
            longest_outage: *random.pick(&[60, 500, 3_000, 15_000]) * MILLISECOND,
            rates: Rates::default(),
        };
        profile.draw_faults(random, harsh);
        if random.percent(25) {
            profile.make_restless(random);
        }
        // One of twenty each. Of other draws, so that all other runs stay as they were.
        match profile.delay % 20 {
            0 => profile.make_forgetful(random),
            1 => profile.make_deserted(random),
            2 => profile.make_late(random),
            _ => {}
        }
        profile.late_answers &= !profile.loses();
        // A store that may have lost something waits for every member: for a wiped one for ever.
        profile.rates.wipe = profile.rates.wipe.filter(|_| !profile.buffered);
        profile
    }

    /// The journal of what a store may lose: whether it is buffered; none if it loses nothing.
    pub(super) fn journal(&self) -> Option<bool> {
        self.loses().then_some(self.buffered)
    }

    /// Whether stores may lose what they have acknowledged.
    pub(super) fn loses(&self) -> bool {
        self.buffered || self.rates.lost_batch.is_some()
    }

    /// Leaders that hardly live long enough to hear every member, among members that are late, with
    /// writes under way and copies being filled all the time: where what is rare elsewhere happens.
    fn make_restless(&mut self, random: &mut Random) {
        self.nodes = self.nodes.max(4);
        self.copies = self.copies.max(3);
        self.floor = 2;
        self.think = random.between(2, 10) * MILLISECOND;
        self.deadline = random.between(200, 2_000) * MILLISECOND;
        self.peering_grace = random.between(5, 50) * MILLISECOND;
        self.absent_grace = 3 * SECOND;
        self.longest_outage = random.between(50, 1_500) * MILLISECOND;
        self.late_answers = true;
        self.evict_after = random.between(500, 2_000) * MILLISECOND;
        self.long_delays = random.between(10_000, 60_000);
        self.longest_delay = random.between(20, 400) * MILLISECOND;
        let mut rate = |low, high| Some(random.between(low, high) * MILLISECOND);
        self.rates.leader_crash = rate(200, 1_500);
        self.rates.leader_cut = rate(150, 800);
        self.rates.node_crash = rate(500, 2_000);
        self.rates.stream_break = rate(200, 1_000);
    }

    /// Stores that lose the last that they acknowledged, again and again, while a few keys are read and
    /// written all the time: where it matters that nobody trusts them at once.
    fn make_forgetful(&mut self, random: &mut Random) {
        self.clients_per_group = 4;
        self.keys_per_group = 2;
        self.think = random.between(4, 10) * MILLISECOND;
        self.cache_bytes = 0;
        self.chunk = 1;
        self.delay = random.between(50, 300);
        self.buffered = false;
        self.longest_outage = random.between(50, 400) * MILLISECOND;
        // Whoever is alone for longer than this is believed, though it may have lost something.
        self.evict_after = 10 * SECOND;
        let mut rate = |low, high| Some(random.between(low, high) * MILLISECOND);
        self.rates = Rates {
            lost_batch: rate(200, 600),
            node_pause: rate(200, 1_000),
            slow_disk: rate(1_000, 4_000),
            ..Rates::default()
        };
    }

    /// Leaders that wait for nobody, and nodes that are away for long: what one of them alone has is
    /// forgotten, and must be when it is back.
    fn make_deserted(&mut self, random: &mut Random) {
        self.nodes = self.nodes.max(4);
        self.copies = self.copies.max(3);
        self.floor = 2;
        self.clients_per_group = 5;
        // So many that few are written again before somebody returns.
        self.keys_per_group = 200;
        self.think = random.between(5, 10) * MILLISECOND;
        self.peering_grace = random.between(5, 30) * MILLISECOND;
        self.absent_grace = random.between(30, 100) * MILLISECOND;
        self.longest_outage = random.between(300, 800) * MILLISECOND;
        self.evict_after = 2 * SECOND;
        self.long_delays = random.between(100_000, 200_000);
        self.longest_delay = random.between(10, 40) * MILLISECOND;
        let mut rate = |low, high| Some(random.between(low, high) * MILLISECOND);
        self.rates =
            Rates { leader_crash: rate(150, 400), node_crash: rate(150, 400), ..Rates::default() };
    }

    /// Members that tell late what they alone have, while reads of the same keys are under way, and a
    /// memory that keeps next to nothing.
    fn make_late(&mut self, random: &mut Random) {
        self.make_restless(random);
        self.clients_per_group = 5;
        self.keys_per_group = 1;
        self.think = random.between(1, 3) * MILLISECOND;
        self.peering_grace = random.between(2, 10) * MILLISECOND;
        self.long_delays = random.between(100_000, 200_000);
        self.longest_delay = random.between(10, 60) * MILLISECOND;
        self.slow_reads = 60;
        self.longest_read = 240 * MILLISECOND;
        self.cache_bytes = *random.pick(&[300, 500, 1 << 20]);
        self.buffered = false;
        self.rates.lost_batch = None;
        self.rates.leader_crash = Some(random.between(100, 400) * MILLISECOND);
    }

    fn draw_faults(&mut self, random: &mut Random, harsh: bool) {
        let factor = if harsh { 1 } else { 4 };
        self.long_delays = if harsh { random.between(2_000, 60_000) } else { random.below(2_000) };
        let mut rate = |chance: u64, mean: u64| {
            random.percent(chance).then(|| random.between(mean / 4, mean) * factor)
        };
        self.rates = Rates {
            node_crash: rate(70, 2 * SECOND),
            leader_crash: rate(70, 2 * SECOND),
            node_pause: rate(40, 2 * SECOND),
            leader_pause: rate(30, 3 * SECOND),
            stream_break: rate(60, SECOND),
            leader_cut: rate(50, 2 * SECOND),
            node_cut: rate(30, 2 * SECOND),
            wipe: rate(40, 4 * SECOND),
            power_cut: rate(20, 5 * SECOND),
            full_disk: rate(25, 4 * SECOND),
            leave: rate(25, 4 * SECOND),
            lost_batch: rate(40, 2 * SECOND),
            machine: rate(60, 3 * SECOND),
            slow_disk: rate(25, 4 * SECOND),
            metadata_loss: rate(20, 6 * SECOND),
            // Of other draws, so that they change no run but those that they are part of.
            operate: self.chaos.is_multiple_of(4).then_some(self.chaos / 6),
            rot: self.chaos.is_multiple_of(3).then_some(self.chaos / 6),
        };
    }
}
