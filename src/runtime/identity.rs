//! Random identities.
#![allow(clippy::disallowed_methods, reason = "this is the one place that makes random numbers")]

use uuid::Uuid;

use crate::types::{BootId, ClusterId, IndexKey, StoreId};

/// A new identity for a data directory. Ordered by time, so that lists show the oldest first.
pub fn store_id() -> StoreId {
    StoreId::from_uuid(Uuid::now_v7())
}

/// A new identity for a cluster.
pub fn cluster_id() -> ClusterId {
    ClusterId::from_uuid(Uuid::now_v7())
}

/// A new identity for one start of a process.
pub fn boot_id() -> BootId {
    BootId::from_uuid(Uuid::new_v4())
}

/// What tells this start of the machine from others, if the system says so.
pub fn machine_boot() -> Option<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// A new secret for the hash of a cluster's indexes: 122 random bits.
pub fn index_key() -> IndexKey {
    IndexKey(*Uuid::new_v4().as_bytes())
}
