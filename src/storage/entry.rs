//! What the index keeps of a record: 32 bytes.
//!
//! ```text
//! hash      96 bits   of the key, keyed by a secret of the cluster
//! checksum  32 bits   of the record
//! version   16 bits   position in the partition's list of epochs;   48 bits seq
//! place      1 bit tombstone, 1 bit unvouched, 20 bits segment, 27 bits offset / 8, 15 bits length
//! ```

use crate::types::KeyHash;

/// The largest `seq` an entry can hold.
pub(crate) const MAX_SEQ: u64 = (1 << SEQ_BITS) - 1;
/// The largest number of segments.
pub(crate) const MAX_SEGMENTS: u32 = 1 << SEGMENT_BITS;
/// The largest segment: half of what a length can tell.
pub(crate) const MAX_SEGMENT_BYTES: u64 = 256 << 20;
/// How many epochs the entries of one partition can be of.
pub(crate) const MAX_EPOCHS: usize = 1 << 16;

const SEQ_BITS: u32 = 48;
const LENGTH_BITS: u32 = 15;
const OFFSET_BITS: u32 = 27;
const SEGMENT_BITS: u32 = 20;
const MANTISSA_BITS: u32 = 11;
const UNVOUCHED: u64 = 1 << 62;
const TOMBSTONE: u64 = 1 << 63;

/// Where a record lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    /// The segment.
    pub segment: u32,
    /// Where in it, a multiple of 8.
    pub offset: u32,
    /// How many bytes to read to have all of it; see [`readable_bytes`].
    pub length: u32,
}

/// A length rounded up to what an entry can tell: exact up to 16 KiB, to a thousandth above.
pub(crate) fn readable_bytes(length: u32) -> u32 {
    decode_length(encode_length(length))
}

fn encode_length(length: u32) -> u64 {
    let mut units = length.div_ceil(8);
    let mut exponent = 0;
    while units >> MANTISSA_BITS > 0 {
        units = units.div_ceil(2);
        exponent += 1;
    }
    u64::from(exponent << MANTISSA_BITS | units)
}

fn decode_length(code: u64) -> u32 {
    let mantissa = code & ((1 << MANTISSA_BITS) - 1);
    let bytes = (mantissa * 8) << (code >> MANTISSA_BITS);
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

impl Place {
    fn pack(self) -> u64 {
        let offset = u64::from(self.offset >> 3);
        let segment = u64::from(self.segment);
        segment << (OFFSET_BITS + LENGTH_BITS) | offset << LENGTH_BITS | encode_length(self.length)
    }

    fn unpack(bits: u64) -> Self {
        let part = |shift: u32, width: u32| (bits >> shift) & ((1 << width) - 1);
        let narrow = |part: u64| u32::try_from(part).unwrap_or(u32::MAX);
        Self {
            segment: narrow(part(OFFSET_BITS + LENGTH_BITS, SEGMENT_BITS)),
            offset: narrow(part(LENGTH_BITS, OFFSET_BITS) << 3),
            length: decode_length(part(0, LENGTH_BITS)),
        }
    }
}

/// An entry of the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    hash_high: u64,
    version: u64,
    place: u64,
    hash_low: u32,
    /// The record's checksum.
    pub checksum: u32,
}

/// How many bytes an entry takes, in memory and in a checkpoint.
pub(crate) const ENTRY_BYTES: usize = 32;

/// A version with its epoch replaced by the position in the partition's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ShortVersion(u64);

impl ShortVersion {
    pub(crate) fn new(epoch_position: u16, seq: u64) -> Self {
        Self(u64::from(epoch_position) << SEQ_BITS | seq.min(MAX_SEQ))
    }

    pub(crate) fn epoch_position(self) -> usize {
        usize::try_from(self.0 >> SEQ_BITS).unwrap_or(usize::MAX)
    }

    pub(crate) fn seq(self) -> u64 {
        self.0 & MAX_SEQ
    }
}

impl Entry {
    /// A vouched entry.
    pub(crate) fn new(
        hash: KeyHash,
        version: ShortVersion,
        checksum: u32,
        tombstone: bool,
        place: Place,
    ) -> Self {
        let (hash_high, hash_low) = split(hash);
        let flag = if tombstone { TOMBSTONE } else { 0 };
        Self { hash_high, hash_low, checksum, version: version.0, place: place.pack() | flag }
    }

    pub(crate) fn key_hash(&self) -> KeyHash {
        KeyHash::from_bits(u128::from(self.hash_high) << 64 | u128::from(self.hash_low) << 32)
    }

    /// Whether the entry is of this key.
    pub(crate) fn is_of(&self, hash: KeyHash) -> bool {
        (self.hash_high, self.hash_low) == split(hash)
    }

    /// What places the entry in a hash table.
    pub(crate) fn table_hash(&self) -> u64 {
        table_hash(self.key_hash())
    }

    pub(crate) fn version(&self) -> ShortVersion {
        ShortVersion(self.version)
    }

    /// Changes the position of the epoch, after the list was cleaned.
    pub(crate) fn set_version(&mut self, version: ShortVersion) {
        self.version = version.0;
    }

    pub(crate) fn place(&self) -> Place {
        Place::unpack(self.place & !(TOMBSTONE | UNVOUCHED))
    }

    /// Changes the place and nothing else.
    pub(crate) fn set_place(&mut self, place: Place) {
        self.place = self.place & (TOMBSTONE | UNVOUCHED) | place.pack();
    }

    pub(crate) fn is_tombstone(&self) -> bool {
        self.place & TOMBSTONE != 0
    }

    pub(crate) fn is_vouched(&self) -> bool {
        self.place & UNVOUCHED == 0
    }

    pub(crate) fn set_vouched(&mut self, vouched: bool) {
        if vouched {
            self.place &= !UNVOUCHED;
        } else {
            self.place |= UNVOUCHED;
        }
    }

    /// As it lies in a checkpoint.
    pub(crate) fn append_to(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.hash_high.to_le_bytes());
        bytes.extend_from_slice(&self.version.to_le_bytes());
        bytes.extend_from_slice(&self.place.to_le_bytes());
        bytes.extend_from_slice(&self.hash_low.to_le_bytes());
        bytes.extend_from_slice(&self.checksum.to_le_bytes());
    }

    /// Reads what [`Self::append_to`] wrote.
    pub(crate) fn from_bytes(bytes: &[u8; ENTRY_BYTES]) -> Self {
        let word = |at: usize| {
            let part = bytes.get(at..at + 8).and_then(|part| part.try_into().ok());
            u64::from_le_bytes(part.unwrap_or_default())
        };
        let last = word(24);
        Self {
            hash_high: word(0),
            version: word(8),
            place: word(16),
            hash_low: u32::try_from(last & u64::from(u32::MAX)).unwrap_or(0),
            checksum: u32::try_from(last >> 32).unwrap_or(0),
        }
    }
}

fn split(hash: KeyHash) -> (u64, u32) {
    let bits = hash.bits();
    let high = u64::try_from(bits >> 64).unwrap_or(0);
    let low = u32::try_from((bits >> 32) & u128::from(u32::MAX)).unwrap_or(0);
    (high, low)
}

/// What places a key in a hash table: bits that do not choose its leaf.
pub(crate) fn table_hash(hash: KeyHash) -> u64 {
    u64::try_from((hash.bits() >> 32) & u128::from(u64::MAX)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_entry_takes_32_bytes() {
        assert_eq!(size_of::<Entry>(), ENTRY_BYTES);
    }

    proptest! {
        #[test]
        fn every_part_is_read_back(bits in any::<u128>(), epoch in any::<u16>(), seq in 0..=MAX_SEQ,
            checksum in any::<u32>(), segment in 0..MAX_SEGMENTS, offset in 0u32..1 << 27,
            length in 40u32..1 << 28, tombstone in any::<bool>(), vouched in any::<bool>())
        {
            let hash = KeyHash::from_bits(bits);
            let place = Place { segment, offset: offset << 3, length };
            let mut entry =
                Entry::new(hash, ShortVersion::new(epoch, seq), checksum, tombstone, place);
            entry.set_vouched(vouched);
            let mut bytes = Vec::new();
            entry.append_to(&mut bytes);
            let read = Entry::from_bytes(&bytes.try_into().unwrap());
            prop_assert_eq!(read, entry);
            prop_assert_eq!(read.key_hash(), hash);
            prop_assert!(read.is_of(hash));
            prop_assert_eq!(read.version().seq(), seq);
            prop_assert_eq!(read.version().epoch_position(), usize::from(epoch));
            prop_assert_eq!(read.is_tombstone(), tombstone);
            prop_assert_eq!(read.is_vouched(), vouched);
            let held = read.place();
            prop_assert_eq!((held.segment, held.offset), (segment, offset << 3));
            prop_assert!(held.length >= length);
            prop_assert!(held.length <= length + 8 + length / 1000);
            prop_assert_eq!(readable_bytes(length), held.length);
        }
    }
}
