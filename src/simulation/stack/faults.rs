//! What goes wrong, and when: drawn from the seed before the run begins.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::simulation::random::Random;

/// The leader's place among the hosts; nodes have the others.
pub(super) const LEADER_HOST: usize = 0;

/// Something that is done to hosts or to the network between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Nothing arrives between two hosts until they are released; then everything does.
    Hold(usize, usize),
    /// What was held arrives.
    Release(usize, usize),
    /// What is sent between two hosts is lost, and with it every connection.
    Partition(usize, usize),
    /// As before, one way only.
    PartitionOneWay(usize, usize),
    /// What is sent arrives again.
    Repair(usize, usize),
    /// Every message takes so many milliseconds.
    Slow(usize, usize, u64),
    /// The process is killed; what it wrote stays.
    Kill(usize),
    /// The machine loses power, and what it had not synced.
    PowerCut(usize),
    /// The process is asked to end in good order.
    Stop(usize),
    /// It is started again, if it does not run.
    Start(usize),
}

/// What happens when, in milliseconds of simulated time.
pub(super) type Plan = BTreeMap<u64, Vec<Fault>>;

/// How a run goes wrong.
#[derive(Clone, Debug)]
pub(super) struct Profile {
    pub(super) nodes: usize,
    pub(super) clients: u32,
    /// Milliseconds between a client's questions, about.
    pub(super) think: u64,
    pub(super) shards: usize,
    pub(super) evict_after: Duration,
    pub(super) latency: Duration,
    pub(super) plan: Plan,
    /// When faults end.
    pub(super) calm: u64,
}

/// Faults begin when the cluster has had time to begin itself.
const BEGIN: u64 = 4_000;

impl Profile {
    pub(super) fn draw(random: &mut Random) -> Self {
        let nodes = random.index(3) + 3;
        let calm = BEGIN + random.between(6_000, 14_000);
        let mut plan = Plan::new();
        let mean = random.between(400, 2_500);
        let mut at = BEGIN + random.around(mean);
        while at < calm {
            draw_fault(random, nodes, at, &mut plan);
            at += random.around(mean);
        }
        Self {
            nodes,
            clients: u32::try_from(random.between(3, 5)).unwrap_or(3),
            think: random.between(10, 80),
            shards: random.index(2) + 1,
            evict_after: Duration::from_millis(random.between(2_500, 8_000)),
            latency: Duration::from_millis(random.between(1, 12)),
            plan,
            calm,
        }
    }
}

fn draw_fault(random: &mut Random, nodes: usize, at: u64, plan: &mut Plan) {
    let node = random.index(nodes) + 1;
    // Most links that matter lead to the leader; copies go between nodes.
    let other = if random.percent(75) { LEADER_HOST } else { node % nodes + 1 };
    let (short, long) = (random.between(50, 1_500), random.between(500, 8_000));
    let mut then = |after: u64, fault| plan.entry(at + after).or_default().push(fault);
    match random.below(100) {
        0..20 => {
            then(0, Fault::Hold(node, other));
            then(long, Fault::Release(node, other));
        }
        20..34 => {
            then(0, Fault::Partition(node, other));
            then(long, Fault::Repair(node, other));
        }
        34..42 => {
            let (from, to) = if long % 2 == 0 { (node, other) } else { (other, node) };
            then(0, Fault::PartitionOneWay(from, to));
            then(long, Fault::Repair(from, to));
        }
        42..52 => {
            then(0, Fault::Slow(node, other, long / 20));
            then(long, Fault::Slow(node, other, 2));
        }
        52..64 => {
            then(0, Fault::Kill(node));
            then(short, Fault::Start(node));
        }
        64..76 => {
            then(0, Fault::PowerCut(node));
            then(short, Fault::Start(node));
        }
        76..84 => {
            let cut = if long % 2 == 0 { Fault::Kill(0) } else { Fault::PowerCut(0) };
            then(0, cut);
            then(short, Fault::Start(LEADER_HOST));
        }
        84..94 => {
            then(0, Fault::Stop(node));
            then(long, Fault::Start(node));
        }
        _ => {
            then(0, Fault::Stop(LEADER_HOST));
            then(long, Fault::Start(LEADER_HOST));
        }
    }
}
