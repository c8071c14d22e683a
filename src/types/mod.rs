//! The vocabulary of the project: small values that every floor above shares.
//!
//! Identities ([`StoreId`], [`ClusterId`], [`BootId`]) are random and made once; numbers that fence
//! ([`Epoch`], [`Token`], [`ConfigurationVersion`]) only ever go up; a [`Version`] orders all
//! writes of a partition without any clock. Each is a type of its own, so that a token can never be
//! passed where an epoch is meant.

mod configuration;
mod identity;
mod key;
mod moment;
mod version;

pub use configuration::{Configuration, ConfigurationVersion, Member, Token};
pub use identity::{BootId, ClusterId, IdentityError, StoreId};
pub use key::{IndexKey, Key, KeyHash, Value};
pub use moment::Moment;
pub use version::{Epoch, PartitionCount, PartitionId, Version};
