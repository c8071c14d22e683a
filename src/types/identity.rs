//! Identities: random, made once, never derived from a host name or an address.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

/// An identity that could not be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum IdentityError {
    /// The bytes on the wire are not 16.
    #[error("an identity is 16 bytes, got {0}")]
    Length(usize),
    /// The text is not a UUID.
    #[error("'{0}' is not a UUID (like 0197c5f2-7a30-7e10-b7e5-5d0d1f6a2b3c)")]
    Text(String),
}

macro_rules! identity {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// The identity made of this UUID.
            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// The identity with this number, for tests and simulations that must be repeatable.
            pub const fn from_number(number: u128) -> Self {
                Self(Uuid::from_u128(number))
            }

            /// The 16 bytes that travel and are stored.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }
        }

        impl TryFrom<&[u8]> for $name {
            type Error = IdentityError;

            fn try_from(bytes: &[u8]) -> Result<Self, IdentityError> {
                Uuid::from_slice(bytes)
                    .map(Self)
                    .map_err(|_| IdentityError::Length(bytes.len()))
            }
        }

        impl FromStr for $name {
            type Err = IdentityError;

            fn from_str(text: &str) -> Result<Self, IdentityError> {
                Uuid::parse_str(text).map(Self).map_err(|_| IdentityError::Text(text.into()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

identity! {
    /// One data directory. A wiped disk is a new store; a node is a process that has opened one.
    StoreId
}
identity! {
    /// One cluster. A store of another cluster is refused.
    ClusterId
}
identity! {
    /// One start of a node's process.
    BootId
}
