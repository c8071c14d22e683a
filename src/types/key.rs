//! Keys, values and the hashes that stand for keys.

use std::fmt;
use std::hash::Hasher;

use bytes::Bytes;
use siphasher::sip128::{Hasher128, SipHasher24};

/// A key: 1 to `limits.max_key_bytes` bytes. Never a file name, and never logged unescaped.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub Bytes);

impl Key {
    /// The bytes of the key.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({self})")
    }
}

/// A value: any bytes, up to `limits.max_value_bytes`.
pub type Value = Bytes;

/// The keyed hash of a key, which stands for the key in indexes and between leader and nodes.
///
/// Only the top 96 bits are set, as many as a store's index keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyHash(u128);

impl KeyHash {
    const MASK: u128 = !0 << 32;

    /// The hash with these bits; all but the top 96 are dropped.
    pub fn from_bits(bits: u128) -> Self {
        Self(bits & Self::MASK)
    }

    /// The bits of the hash, the low 32 of them zero.
    pub fn bits(self) -> u128 {
        self.0
    }

    /// As it travels: little-endian.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_le_bytes()
    }

    /// Reads what [`Self::to_bytes`] wrote; `None` unless there are 16 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Some(Self::from_bits(u128::from_le_bytes(bytes.try_into().ok()?)))
    }

    /// One of the 256 leaves of a partition's digest: the top byte.
    pub fn leaf(self) -> u8 {
        self.0.to_be_bytes()[0]
    }
}

/// The secret of a cluster that keys [`KeyHash`]: the same in every store, unknown to clients, so
/// that nobody outside can make keys that collide.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct IndexKey(pub [u8; 16]);

impl IndexKey {
    /// SipHash-2-4 with 128 bits of output (Aumasson and Bernstein, 2012), cut to 96.
    pub fn hash(&self, key: &[u8]) -> KeyHash {
        let mut hasher = SipHasher24::new_with_key(&self.0);
        hasher.write(key);
        KeyHash::from_bits(hasher.finish128().as_u128())
    }
}

impl fmt::Debug for IndexKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IndexKey(secret)")
    }
}
