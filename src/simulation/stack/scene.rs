//! A network with the hosts that a test wants, and no faults but its own.

use std::time::Duration;

use tempfile::TempDir;
use turmoil::Sim;

use super::hosts::{self, LEADER, Leader, Node, Setting, node_name};
use super::panics;
use crate::runtime::identity;
use crate::storage::SimulatedDisk;
use crate::storage::disk::volume;

/// A network whose hosts have simulated disks.
pub(super) struct Scene {
    pub(super) sim: Sim<'static>,
    directory: TempDir,
}

impl Drop for Scene {
    fn drop(&mut self) {
        volume::unmount_all();
    }
}

impl Scene {
    pub(super) fn new() -> Self {
        panics::watch();
        panics::take();
        identity::simulated::seed(1);
        let mut network = turmoil::Builder::new();
        network.rng_seed(1).tcp_capacity(256).simulation_duration(Duration::from_mins(10));
        network.max_message_latency(Duration::from_millis(5));
        let directory = tempfile::tempdir().expect("a directory for identities and locks");
        Self { sim: network.build(), directory }
    }

    pub(super) fn add_node(&mut self, node: usize) -> Node {
        let disk = SimulatedDisk::new(node as u64);
        volume::mount(&self.directory.path().join(node_name(node)), disk);
        hosts::add_node(&mut self.sim, self.directory.path(), node)
    }

    pub(super) fn add_leader(&mut self) -> Leader {
        volume::mount(&self.directory.path().join(LEADER), SimulatedDisk::new(0));
        let directory = self.directory.path().to_owned();
        let setting = Setting { directory, shards: 1, evict_after: Duration::from_secs(5) };
        hosts::add_leader(&mut self.sim, &setting)
    }

    pub(super) fn run_for(&mut self, time: Duration) {
        let end = self.sim.elapsed() + time;
        self.run_until("the end", || false, end);
    }

    /// Runs until something is so, and says when that was.
    #[track_caller]
    pub(super) fn run_until(
        &mut self,
        what: &str,
        is_so: impl Fn() -> bool,
        limit: Duration,
    ) -> Duration {
        while !is_so() && self.sim.elapsed() < limit {
            self.sim.step().expect("the hosts go on");
            assert_eq!(panics::take(), None, "while waiting for: {what}");
        }
        self.sim.elapsed()
    }
}
