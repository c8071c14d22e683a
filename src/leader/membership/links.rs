//! The links of the leader, watched: what they do is told to the failure detector.
//!
//! Links are looked at once a tick instead of reporting every message: that there was some progress
//! since the last tick is all a detector can use.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::leader::link::piece::Gauge;
use crate::leader::link::{self, Link};
use crate::logic::detector::Input;
use crate::runtime::tasks::Tasks;
use crate::types::{BootId, StoreId};

/// A link and what was last seen of it.
#[derive(Debug)]
struct Watched {
    link: Link,
    boot: BootId,
    address: Arc<str>,
    gauge: Option<Arc<Gauge>>,
    batches: u64,
}

/// Every link, by store.
#[derive(Debug, Default)]
pub(super) struct Links {
    links: BTreeMap<StoreId, Watched>,
}

impl Links {
    /// Keeps a link to this process of a store, and drops one to an earlier process.
    pub(super) fn keep(&mut self, options: link::Options, tasks: &Tasks) {
        let link::Options { store, boot, ref address, .. } = options;
        let known = self.links.get(&store);
        if known.is_some_and(|known| known.boot == boot && known.address == *address) {
            return;
        }
        self.links.remove(&store);
        let address = Arc::clone(address);
        let link = Link::start(options, tasks);
        self.links.insert(store, Watched { link, boot, address, gauge: None, batches: 0 });
    }

    /// Drops the link to a store.
    pub(super) fn drop(&mut self, store: StoreId) {
        self.links.remove(&store);
    }

    /// Has a store write something, so that it is seen how long that takes.
    pub(super) fn probe(&self, store: StoreId) {
        if let Some(watched) = self.links.get(&store) {
            watched.link.probe();
        }
    }

    /// What links did since this was last asked.
    pub(super) fn look(&mut self) -> Vec<Input> {
        let mut seen = Vec::new();
        for (store, watched) in &mut self.links {
            watched.look(*store, &mut seen);
        }
        seen
    }
}

impl Watched {
    fn look(&mut self, store: StoreId, seen: &mut Vec<Input>) {
        let gauge = self.link.gauge();
        let same = match (&self.gauge, &gauge) {
            (Some(before), Some(now)) => Arc::ptr_eq(before, now),
            (before, now) => before.is_none() && now.is_none(),
        };
        if !same {
            if self.gauge.is_some() {
                seen.push(Input::Disconnected(store));
            }
            if gauge.is_some() {
                seen.push(Input::Connected(store));
            }
            (self.gauge, self.batches) = (gauge, 0);
        }
        let Some(gauge) = &self.gauge else { return };
        let batches = gauge.batches();
        let outstanding = gauge.stuck_since().is_some();
        let (stored, total) = gauge.take_pace();
        if stored > 0 {
            seen.push(Input::Took { store, total, batches: stored });
        }
        if batches != self.batches {
            self.batches = batches;
            seen.push(Input::Acknowledged { store, outstanding });
        } else if outstanding {
            seen.push(Input::Sent(store));
        }
    }
}
