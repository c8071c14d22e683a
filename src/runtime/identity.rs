//! Random identities.
#![allow(clippy::disallowed_methods, reason = "this is the one place that makes random numbers")]

use uuid::Uuid;

use crate::types::{BootId, ClusterId, IndexKey, StoreId};

/// A new identity for a data directory. Ordered by time, so that lists show the oldest first.
pub fn store_id() -> StoreId {
    StoreId::from_uuid(ordered())
}

/// A new identity for a cluster.
pub fn cluster_id() -> ClusterId {
    ClusterId::from_uuid(ordered())
}

/// A new identity for one start of a process.
pub fn boot_id() -> BootId {
    BootId::from_uuid(random())
}

/// What tells this start of the machine from others, if the system says so.
pub fn machine_boot() -> Option<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// A new secret for the hash of a cluster's indexes: 122 random bits.
pub fn index_key() -> IndexKey {
    IndexKey(*random().as_bytes())
}

fn ordered() -> Uuid {
    #[cfg(test)]
    if let Some(drawn) = simulated::draw() {
        return drawn;
    }
    Uuid::now_v7()
}

fn random() -> Uuid {
    #[cfg(test)]
    if let Some(drawn) = simulated::draw() {
        return drawn;
    }
    Uuid::new_v4()
}

/// The identities of a simulation follow from its seed.
#[cfg(test)]
pub(crate) mod simulated {
    use std::cell::Cell;

    use uuid::Uuid;
    use xxhash_rust::xxh3::xxh3_128;

    thread_local! {
        static DRAWN: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
    }

    /// Identities drawn on this thread in a simulation follow from this seed.
    pub(crate) fn seed(seed: u64) {
        DRAWN.set((seed, 0));
    }

    pub(super) fn draw() -> Option<Uuid> {
        if !turmoil::in_simulation() {
            return None;
        }
        let (seed, count) = DRAWN.get();
        DRAWN.set((seed, count + 1));
        let hash = xxh3_128(&[seed.to_le_bytes(), count.to_le_bytes()].concat());
        Some(Uuid::from_u128(hash))
    }
}
