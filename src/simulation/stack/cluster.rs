//! One run: hosts on a network, faults as they were planned, and what must be true in the end.

use std::fmt::Write as _;
use std::time::Duration;

use tempfile::TempDir;
use turmoil::Sim;

use super::clients::{self, SharedLog};
use super::faults::{Fault, LEADER_HOST, Profile};
use super::hosts::{self, LEADER, Leader, Node, REQUEST_TIMEOUT, Setting, Shown, node_name};
use super::panics;
use crate::runtime::identity;
use crate::simulation::random::Random;
use crate::storage::SimulatedDisk;
use crate::storage::disk::volume;
use crate::types::Key;

/// A leader that was told to stop has ended within this time: what it may take to answer clients, and
/// to end the rest.
const LEADER_STOPS: Duration = REQUEST_TIMEOUT.saturating_add(Duration::from_secs(9));
/// A node that was told to leave has ended within this time: 2 s to ask, 25 s to be let go, 20 s to
/// close its store, 2 s for the rest.
const NODE_STOPS: Duration = Duration::from_secs(50);
/// When all faults are over, everything is healed within this time. Connections on which something
/// was lost are given up after 15 s; a store that failed often may come back only after 60 s.
pub(super) const HEAL: Duration = Duration::from_mins(2);
/// Clients go on for so long after the faults.
const AFTERMATH: Duration = Duration::from_secs(2);
const KEYS_PER_RUN: usize = 6;
/// Segments that a simulated socket holds.
const SOCKET_SEGMENTS: usize = 256;

/// What is done with a host.
#[derive(Debug, Default)]
struct Host {
    /// It is to run.
    wanted: bool,
    /// It does.
    up: bool,
    /// It was told to stop, and must have ended by then.
    stops_by: Option<Duration>,
}

/// What was wrong.
pub(super) type Violation = String;

/// A cluster on its network.
pub(super) struct Cluster {
    sim: Sim<'static>,
    profile: Profile,
    random: Random,
    leader: Leader,
    nodes: Vec<Node>,
    disks: Vec<SimulatedDisk>,
    hosts: Vec<Host>,
    readers: u32,
    pub(super) log: SharedLog,
    /// What was done, in words, to be read.
    pub(super) trace: String,
    /// Identities and locks, which are not worth simulating, lie in the file system.
    _directory: TempDir,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        volume::unmount_all();
    }
}

impl Cluster {
    pub(super) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let profile = Profile::draw(&mut random);
        identity::simulated::seed(seed);
        let directory = tempfile::tempdir().expect("a directory for identities and locks");
        let mut sim = turmoil::Builder::new()
            .rng_seed(random.next())
            .simulation_duration(Duration::from_hours(1))
            .tcp_capacity(SOCKET_SEGMENTS)
            .min_message_latency(Duration::from_millis(1))
            .max_message_latency(profile.latency)
            .enable_random_order()
            .build();
        let disks: Vec<_> =
            (0..=profile.nodes).map(|_| SimulatedDisk::new(random.next())).collect();
        for (host, disk) in disks.iter().enumerate() {
            volume::mount(&directory.path().join(host_name(host)), disk.clone());
        }
        let setting = Setting {
            directory: directory.path().to_owned(),
            shards: profile.shards,
            evict_after: profile.evict_after,
        };
        let leader = hosts::add_leader(&mut sim, &setting);
        let nodes =
            (1..=profile.nodes).map(|node| hosts::add_node(&mut sim, directory.path(), node));
        let nodes = nodes.collect();
        let up = || Host { wanted: true, up: true, stops_by: None };
        Self {
            sim,
            leader,
            nodes,
            disks,
            hosts: (0..=profile.nodes).map(|_| up()).collect(),
            readers: 0,
            log: SharedLog::default(),
            trace: format!("{profile:#?}\n"),
            profile,
            random,
            _directory: directory,
        }
    }

    /// Chaos, calm, and an orderly end; then everything is still there.
    pub(super) fn run(&mut self) -> Result<(), Violation> {
        self.start_clients();
        self.chaos()?;
        self.heal()?;
        self.read_everything()?;
        self.end_in_order()?;
        self.start_all();
        self.heal()?;
        self.read_everything()
    }

    fn keys() -> Vec<Key> {
        (0..KEYS_PER_RUN).map(|key| Key(format!("key-{key}").into())).collect()
    }

    fn start_clients(&mut self) {
        for client in 0..self.profile.clients {
            let random = Random::new(self.random.next());
            let (think, log) = (self.profile.think, self.log.clone());
            let asking = clients::ask_on(client, Self::keys(), think, random, log);
            self.sim.client(format!("client-{client}"), asking);
        }
    }

    fn chaos(&mut self) -> Result<(), Violation> {
        let plan = std::mem::take(&mut self.profile.plan);
        for (at, faults) in plan.range(..self.profile.calm) {
            self.run_until(Duration::from_millis(*at))?;
            for fault in faults {
                self.apply(*fault);
            }
        }
        self.run_until(Duration::from_millis(self.profile.calm))?;
        self.say("faults end");
        for (a, b) in self.pairs() {
            for fault in [Fault::Release(a, b), Fault::Repair(a, b), Fault::Slow(a, b, 2)] {
                self.change_network(fault);
            }
        }
        self.start_all();
        self.run_until(self.sim.elapsed() + AFTERMATH)?;
        self.log.borrow_mut().quiet = true;
        Ok(())
    }

    fn pairs(&self) -> Vec<(usize, usize)> {
        let hosts = 0..self.hosts.len();
        hosts.clone().flat_map(|a| hosts.clone().skip(a + 1).map(move |b| (a, b))).collect()
    }

    /// Waits until every partition serves and has all its copies.
    fn heal(&mut self) -> Result<(), Violation> {
        let limit = self.sim.elapsed() + HEAL;
        let wanted = self.hosts.len() - 1;
        loop {
            let view = self.leader.handle().map(|leader| leader.views().current());
            let live = |view: &crate::leader::view::ClusterView| {
                view.nodes_in(crate::leader::view::NodeState::Live).count()
            };
            if view.as_ref().is_some_and(|view| view.is_healthy() && live(view) == wanted) {
                self.say("healed");
                return Ok(());
            }
            if self.sim.elapsed() > limit {
                return Err(format!("not healed within {HEAL:?}: {view:#?}"));
            }
            self.step()?;
        }
    }

    fn read_everything(&mut self) -> Result<(), Violation> {
        let keys = Self::keys();
        let client = self.profile.clients;
        self.log.borrow_mut().read = 0;
        let reading = clients::read_all(client, keys.clone(), self.log.clone());
        self.readers += 1;
        self.sim.client(format!("reader-{}", self.readers), reading);
        let limit = self.sim.elapsed() + HEAL;
        while self.log.borrow().read < keys.len() {
            self.step()?;
            if self.sim.elapsed() > limit {
                return Err(format!("not every key could be read within {HEAL:?} of calm"));
            }
        }
        self.say("everything was read");
        Ok(())
    }

    /// A node leaves, the leader stops, the others go; nobody takes longer than he may.
    fn end_in_order(&mut self) -> Result<(), Violation> {
        let first = self.random.index(self.nodes.len()) + 1;
        self.end(&[first])?;
        let others: Vec<usize> = (1..self.hosts.len()).filter(|host| *host != first).collect();
        if self.random.percent(50) {
            self.end(&[LEADER_HOST])?;
            self.end(&others)?;
        } else {
            self.end(&others)?;
            self.end(&[LEADER_HOST])?;
        }
        // What was closed in order needs nothing that is not on the disk.
        self.disks.iter().for_each(SimulatedDisk::power_cut);
        Ok(())
    }

    fn end(&mut self, hosts: &[usize]) -> Result<(), Violation> {
        for host in hosts {
            self.apply(Fault::Stop(*host));
        }
        while hosts.iter().any(|host| self.hosts[*host].up) {
            self.step()?;
        }
        Ok(())
    }

    fn start_all(&mut self) {
        for host in 0..self.hosts.len() {
            self.apply(Fault::Start(host));
        }
    }

    // Time.

    fn run_until(&mut self, until: Duration) -> Result<(), Violation> {
        while self.sim.elapsed() < until {
            self.step()?;
        }
        Ok(())
    }

    fn step(&mut self) -> Result<(), Violation> {
        self.sim.step().map_err(|error| error.to_string())?;
        if let Some(panic) = panics::take() {
            return Err(format!("a panic: {panic}"));
        }
        if let Some(violation) = &self.log.borrow().violation {
            return Err(violation.clone());
        }
        (0..self.hosts.len()).try_for_each(|host| self.look_after(host))
    }

    /// Sees to a process that has ended, or should have, and starts one that is wanted.
    fn look_after(&mut self, host: usize) -> Result<(), Violation> {
        let ended = self.shown(host, Shown::ended, Shown::ended);
        let state = &mut self.hosts[host];
        if let Some(ended) = ended.filter(|_| state.up) {
            if state.stops_by.is_none() || ended.is_err() {
                return Err(format!("{} ended by itself: {ended:?}", host_name(host)));
            }
            (state.up, state.stops_by) = (false, None);
            self.sim.crash(host_name(host));
            self.disks[host].kill();
            self.say(&format!("{} has ended", host_name(host)));
        } else if state.stops_by.is_some_and(|limit| self.sim.elapsed() > limit) {
            return Err(format!("{} did not end in time", host_name(host)));
        }
        let state = &mut self.hosts[host];
        if state.wanted && !state.up {
            state.up = true;
            self.shown(host, Shown::forget, Shown::forget);
            self.sim.bounce(host_name(host));
        }
        Ok(())
    }

    fn shown<T>(
        &self,
        host: usize,
        of_leader: impl FnOnce(&Leader) -> T,
        of_node: impl FnOnce(&Node) -> T,
    ) -> T {
        match host.checked_sub(1) {
            None => of_leader(&self.leader),
            Some(node) => of_node(&self.nodes[node]),
        }
    }

    // Faults.

    fn apply(&mut self, fault: Fault) {
        self.say(&format!("{fault:?}"));
        match fault {
            Fault::Kill(host) => self.crash(host, SimulatedDisk::kill),
            Fault::PowerCut(host) => self.crash(host, SimulatedDisk::power_cut),
            Fault::Stop(host) => self.stop(host),
            Fault::Start(host) => self.hosts[host].wanted = true,
            of_network => self.change_network(of_network),
        }
    }

    fn crash(&mut self, host: usize, disk: impl FnOnce(&SimulatedDisk)) {
        let state = &mut self.hosts[host];
        state.wanted = false;
        if std::mem::take(&mut state.up) {
            state.stops_by = None;
            self.sim.crash(host_name(host));
            disk(&self.disks[host]);
            self.shown(host, Shown::forget, Shown::forget);
        }
    }

    fn stop(&mut self, host: usize) {
        let elapsed = self.sim.elapsed();
        let state = &mut self.hosts[host];
        state.wanted = false;
        if !state.up || state.stops_by.is_some() {
            return;
        }
        let within = if host == LEADER_HOST { LEADER_STOPS } else { NODE_STOPS };
        state.stops_by = Some(elapsed + within);
        let of_leader = |shown: &Leader| shown.handle().map(|leader| leader.stop());
        let of_node = |shown: &Node| shown.handle().map(|node| node.leave());
        if self.shown(host, of_leader, of_node).is_none() {
            // It was only just started, and nobody can ask it yet.
            self.hosts[host].stops_by = None;
            self.crash(host, SimulatedDisk::kill);
        }
    }

    fn change_network(&mut self, fault: Fault) {
        let sim = &self.sim;
        match fault {
            Fault::Hold(a, b) => sim.hold(host_name(a), host_name(b)),
            Fault::Release(a, b) => sim.release(host_name(a), host_name(b)),
            Fault::Partition(a, b) => sim.partition(host_name(a), host_name(b)),
            Fault::PartitionOneWay(a, b) => sim.partition_oneway(host_name(a), host_name(b)),
            Fault::Repair(a, b) => sim.repair(host_name(a), host_name(b)),
            Fault::Slow(a, b, milliseconds) => {
                let latency = Duration::from_millis(milliseconds);
                sim.set_link_latency(host_name(a), host_name(b), latency);
            }
            Fault::Kill(_) | Fault::PowerCut(_) | Fault::Stop(_) | Fault::Start(_) => {}
        }
    }

    fn say(&mut self, what: &str) {
        let at = self.sim.elapsed().as_millis();
        let _ = writeln!(self.trace, "{at:>7} ms  {what}");
        tracing::info!("*** {what}");
    }

    /// How long it ran, in simulated time.
    pub(super) fn elapsed(&self) -> Duration {
        self.sim.elapsed()
    }
}

fn host_name(host: usize) -> String {
    if host == LEADER_HOST { LEADER.to_owned() } else { node_name(host) }
}
