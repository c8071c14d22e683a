//! Bytes that change on a disk while no process looks.
//!
//! A store whose log or index cannot be read back says so when it opens: it holds the partitions
//! concerned no longer, and what is left of them waits for somebody to vouch for it. That is within
//! the contract as long as each of its sets has a member that is sound. Only damage that an opening
//! must notice is done here; that of cold records shows when they are read.

use super::disk::RealStore;
use super::node::Node;
use super::profile::{MILLISECOND, SECOND};
use super::random::Random;
use super::store::Store;
use super::world::{Event, World};
use crate::types::Moment;

impl World {
    /// A node crashes; while it is down, its disk may be damaged.
    pub(super) fn crash_before_rot(&mut self, node: usize) {
        if !self.nodes[node].up {
            return;
        }
        let outage = self.random.between(20 * MILLISECOND, 3 * SECOND);
        self.nodes[node].stop_between();
        self.after_crash(node, outage + 1);
        self.queue.plan(Moment(self.now.0 + outage), Event::DiskRots { node });
    }

    /// Only where a sound member of each set is left, and when the leader has noticed that the node is
    /// gone: or it may just be removing that other one.
    pub(super) fn disk_rots(&mut self, node: usize) {
        let noticed = self.leader.as_ref().is_none_or(|leader| !leader.is_connected(node));
        let safe = self.metadata_is_whole() && self.survivors(node) >= 1;
        if !self.chaos || self.nodes[node].up || !noticed || !safe {
            return;
        }
        match self.nodes[node].rot(&mut self.random) {
            Ok(false) => {}
            Ok(true) => {
                self.counts.rotten += 1;
                self.end_memberships(node);
                let (now, damaged) = (self.now, self.nodes[node].damaged.clone());
                self.trace.line(now, || format!("the disk of node {node} rots: {damaged:?}"));
            }
            Err(problem) => self.violate(format!("node {node}: {problem}")),
        }
    }

    /// Whatever names a damaged store a member names one that holds the partition no longer. What it
    /// had not begun it will not begin: it may be what was lost.
    fn end_memberships(&mut self, node: usize) {
        let store = &self.nodes[node].store;
        let mut ended = Vec::new();
        for (partition, durable) in self.count.all().zip(self.metadata.configurations()) {
            let sets = std::iter::once(durable).chain(self.metadata.proposed(partition.index()));
            let tokens = sets.filter_map(|set| set.token_of(store.id));
            let gone = tokens.filter(|token| store.held(partition).token != Some(*token));
            ended.extend(gone.map(|token| (partition, token)));
        }
        self.nodes[node].damaged.extend(ended);
    }
}

impl Node {
    /// Damages the disk, if damage is found that an opening would notice.
    fn rot(&mut self, random: &mut Random) -> Result<bool, String> {
        let after = match &mut self.real {
            Some(real) => real.rot(&self.store, random)?,
            None => Some(demoted(&self.store, random)),
        };
        let rotten = after.is_some();
        self.store = after.unwrap_or_else(|| self.store.clone());
        Ok(rotten)
    }
}

impl RealStore {
    /// What the store will take itself to hold.
    fn rot(&mut self, before: &Store, random: &mut Random) -> Result<Option<Store>, String> {
        /// So many bytes are tried.
        const TRIES: u32 = 8;
        for _ in 0..TRIES {
            let Some((name, offset)) = self.some_byte(random) else { return Ok(None) };
            let mask = 1 << random.below(8);
            self.flip(&name, offset, mask);
            if let Some(after) = self.as_damaged(before)? {
                return Ok(Some(after));
            }
            self.flip(&name, offset, mask);
        }
        Ok(None)
    }
}

/// The simple store: all partitions are damaged, or one of them, and some of the records are gone.
fn demoted(before: &Store, random: &mut Random) -> Store {
    let mut after = before.clone();
    after.doubted = true;
    let all = random.percent(50);
    let one = random.index(before.copies.len().max(1));
    for (index, copy) in after.copies.values_mut().enumerate() {
        if all || index == one {
            (copy.token, copy.shadow) = (None, false);
            copy.records.values_mut().for_each(|entry| entry.unvouched = true);
            copy.records.retain(|_, _| random.percent(80));
        }
    }
    after
}
