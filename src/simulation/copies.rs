//! Copies: a store pulls a partition from one that holds it whole.

use super::node::{Arrival, CopyJob};
use super::tombstones::Ended;
use super::world::{Event, World};
use crate::logic::comparison::Doubt;
use crate::logic::partition::io::{ReadAnswer, Write};
use crate::types::{Epoch, KeyHash, PartitionId, StoreId, Token, Version};

/// A copy being given.
#[derive(Clone, Debug)]
pub(super) struct Pull {
    job: u64,
    to: usize,
    boot: u64,
    source: usize,
    source_store: StoreId,
    epoch: Epoch,
    partition: PartitionId,
    /// It only compares what it has.
    compares: bool,
    given: Option<Given>,
}

impl Pull {
    pub(super) fn source(&self) -> usize {
        self.source
    }
}

/// What is still to be given, last first, under which authority.
#[derive(Clone, Debug)]
struct Given {
    token: Token,
    boot: u64,
    keys: Vec<KeyHash>,
    floor: Version,
}

impl World {
    pub(super) fn start_copy(&mut self, index: usize, mut job: CopyJob) {
        let current = self.nodes[index].current.map(|(stream, _)| stream);
        if current != Some(job.stream) {
            return;
        }
        self.next_job += 1;
        job.number = self.next_job;
        job.heard = self.now;
        let pull = Pull {
            job: job.number,
            to: index,
            boot: self.nodes[index].boot,
            source: job.source,
            source_store: job.source_store,
            epoch: job.epoch,
            partition: job.partition,
            compares: job.comparison.is_some(),
            given: None,
        };
        self.nodes[index].copies.insert(job.partition, job);
        self.plan_pull(pull);
    }

    fn plan_pull(&mut self, pull: Pull) {
        let delay = super::network::delay(&self.profile, &mut self.random);
        let at = self.network.between(self.now, pull.to, pull.source, delay);
        self.queue.plan(at, Event::Pull(pull));
    }

    /// The source gives the next records, if it has the authority to.
    pub(super) fn serve_pull(&mut self, mut pull: Pull) {
        let source = &self.nodes[pull.source];
        if !source.up {
            return;
        }
        let served = source.replica.served(pull.partition);
        let given = pull.given.clone().or_else(|| {
            let token = served?;
            let mut keys = source.keys(pull.partition);
            keys.reverse();
            let floor = source.store.floor(pull.partition);
            Some(Given { token, boot: source.boot, keys, floor })
        });
        let sound = source.replica.doubt(pull.partition) == Doubt::None;
        let fit = source.store.id == pull.source_store
            && pull.epoch >= source.store.promised
            && (sound || pull.compares);
        let given = given.filter(|given| {
            fit && served == Some(given.token)
                && given.boot == source.boot
                && source.store.is_member(pull.partition, given.token)
        });
        let (records, done) = match given {
            None => (Vec::new(), Some(Ended::FAILED)),
            Some(mut given) => {
                let from = given.keys.len().saturating_sub(self.profile.chunk);
                let chunk = given.keys.split_off(from);
                let mut unreadable = false;
                let entry = |key_hash: KeyHash| match source.read_held(pull.partition, key_hash) {
                    ReadAnswer::Found(write) => Some((key_hash, write)),
                    answer => {
                        unreadable |= answer == ReadAnswer::Damaged;
                        None
                    }
                };
                let records = chunk.into_iter().rev().filter_map(entry).collect();
                // What was dropped meanwhile may not have been given.
                let floor = given.floor;
                let complete = !pull.compares || source.store.floor(pull.partition) == floor;
                let done = given.keys.is_empty().then_some(Ended { complete, floor });
                let done = if unreadable { Some(Ended { complete: false, floor }) } else { done };
                pull.given = Some(given);
                (records, done)
            }
        };
        let delay = super::network::delay(&self.profile, &mut self.random);
        let at = self.network.between(self.now, pull.to, pull.source, delay);
        let (node, boot, job) = (pull.to, pull.boot, pull.job);
        let next = done.is_none().then_some(pull);
        self.queue.plan(at, Event::Pulled { node, boot, job, records, done, next });
    }

    pub(super) fn pulled(
        &mut self,
        index: usize,
        boot: u64,
        job: u64,
        records: Vec<(KeyHash, Write)>,
        done: Option<Ended>,
        next: Option<Pull>,
    ) {
        let node = &self.nodes[index];
        if !node.up || node.boot != boot || !node.copies.values().any(|copy| copy.number == job) {
            return;
        }
        self.node_arrival(index, Arrival::Installed(job, records, done));
        if let Some(pull) = next {
            self.plan_pull(pull);
        }
    }
}
