//! A record: one version of one key, or a control record, as it travels and as it is stored.
//!
//! ```text
//! checksum u32   CRC-32 over everything that follows flags, padding apart
//! flags    u8    how the record is carried (installed, moved); outside the checksum, so that a
//!                copy has the same checksum everywhere
//! kind     u8    put, tombstone, control
//! key_len  u16   value_len u32   partition u16   reserved u16
//! epoch    u64   seq u64         the version
//! expires  i64   milliseconds since 1970, 0 = never
//! key, value, zeroes up to a multiple of 8 bytes
//! ```
//!
//! All numbers are little-endian. The leader encodes a record once; links copy the bytes, nodes
//! check and store them, readers get them back and cut the value out.

use bytes::{Bytes, BytesMut};

use crate::types::{Epoch, PartitionId, Version};

/// Bytes before the key.
pub const HEADER_BYTES: usize = 40;
/// Records begin at multiples of this.
pub const ALIGNMENT: usize = 8;
/// The largest key the format can carry.
pub const MAX_KEY_BYTES: usize = u16::MAX as usize;
/// The largest value the format can carry.
pub const MAX_VALUE_BYTES: usize = 1 << 30;
/// Where the bytes under the checksum begin: everything after checksum and flags.
const CHECKED_FROM: usize = 5;

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The key has this value.
    Put,
    /// The key was deleted.
    Tombstone,
    /// An instruction to the store; see [`Control`](super::control::Control).
    Control,
}

impl Kind {
    fn code(self) -> u8 {
        match self {
            Self::Put => 1,
            Self::Tombstone => 2,
            Self::Control => 3,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Put),
            2 => Some(Self::Tombstone),
            3 => Some(Self::Control),
            _ => None,
        }
    }
}

/// How a record is carried. Not under the record's checksum (the frame's covers it on disk).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(u8);

impl Flags {
    /// A live write.
    pub const NONE: Self = Self(0);
    /// A record copied from an in-sync source.
    pub const INSTALL: Self = Self(1);
    /// A record that compaction moved within one store.
    pub const MOVE: Self = Self(2);
}

/// A record that could not be read.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum RecordError {
    /// Fewer bytes than the record says it has.
    #[error("the record is cut short")]
    Short,
    /// A length beyond the limits of the format.
    #[error("the record's length is impossible")]
    Length,
    /// The checksum does not match.
    #[error("the record's checksum does not match")]
    Checksum,
    /// An unknown kind or flag: written by a newer build, or damaged.
    #[error("the record's kind or flags are unknown")]
    Kind,
}

/// A record, its key and value still where they were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// What it says.
    pub kind: Kind,
    /// How it is carried.
    pub flags: Flags,
    /// The partition it belongs to.
    pub partition: PartitionId,
    /// When it was sequenced.
    pub version: Version,
    /// Milliseconds since 1970 after which it counts as deleted; 0 is never.
    pub expires: i64,
    /// The key.
    pub key: &'a [u8],
    /// The value; empty in a tombstone.
    pub value: &'a [u8],
}

/// Numbers of a record's header, before anything is verified.
#[derive(Clone, Copy, Debug)]
struct Lengths {
    key: usize,
    value: usize,
    total: usize,
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], RecordError> {
    let part = bytes.get(at..at + N).ok_or(RecordError::Short)?;
    part.try_into().map_err(|_| RecordError::Short)
}

fn lengths(bytes: &[u8]) -> Result<Lengths, RecordError> {
    let key = usize::from(u16::from_le_bytes(array(bytes, 6)?));
    let value = u32::from_le_bytes(array(bytes, 8)?) as usize;
    if value > MAX_VALUE_BYTES {
        return Err(RecordError::Length);
    }
    Ok(Lengths { key, value, total: encoded_bytes(key, value) })
}

/// How many bytes a record with a key and a value of these lengths takes, padding included.
pub fn encoded_bytes(key: usize, value: usize) -> usize {
    (HEADER_BYTES + key + value).next_multiple_of(ALIGNMENT)
}

/// How many bytes the record at the front of `bytes` takes by its own word, unverified.
pub fn length_of_first(bytes: &[u8]) -> Result<usize, RecordError> {
    if bytes.len() < HEADER_BYTES {
        return Err(RecordError::Short);
    }
    lengths(bytes).map(|lengths| lengths.total)
}

/// The checksum an encoded record carries, unverified.
pub fn checksum_of(bytes: &[u8]) -> Result<u32, RecordError> {
    array(bytes, 0).map(u32::from_le_bytes)
}

/// Changes how an encoded record is carried; its checksum stays what it was.
pub fn set_flags(bytes: &mut [u8], flags: Flags) {
    if let Some(place) = bytes.get_mut(4) {
        *place = flags.0;
    }
}

impl<'a> Record<'a> {
    /// Appends the encoded record. The key and value must be within [`MAX_KEY_BYTES`] and
    /// [`MAX_VALUE_BYTES`]: callers enforce smaller limits long before.
    ///
    /// # Errors
    /// [`RecordError::Length`] if they are not.
    pub fn encode(&self, into: &mut BytesMut) -> Result<(), RecordError> {
        let key_len = u16::try_from(self.key.len()).map_err(|_| RecordError::Length)?;
        let value_len = u32::try_from(self.value.len()).map_err(|_| RecordError::Length)?;
        if self.value.len() > MAX_VALUE_BYTES {
            return Err(RecordError::Length);
        }
        let start = into.len();
        let total = encoded_bytes(self.key.len(), self.value.len());
        into.reserve(total);
        // The header is put together here: each write is encoded once, and each piece put costs.
        let mut header = [0; HEADER_BYTES];
        header[4] = self.flags.0;
        header[5] = self.kind.code();
        header[6..8].copy_from_slice(&key_len.to_le_bytes());
        header[8..12].copy_from_slice(&value_len.to_le_bytes());
        header[12..14].copy_from_slice(&self.partition.0.to_le_bytes());
        header[16..24].copy_from_slice(&self.version.epoch.0.to_le_bytes());
        header[24..32].copy_from_slice(&self.version.seq.to_le_bytes());
        header[32..40].copy_from_slice(&self.expires.to_le_bytes());
        into.extend_from_slice(&header);
        into.extend_from_slice(self.key);
        into.extend_from_slice(self.value);
        let checked = into.get(start + CHECKED_FROM..).map_or(0, crc32fast::hash);
        into.resize(start + total, 0);
        if let Some(place) = into.get_mut(start..start + 4) {
            place.copy_from_slice(&checked.to_le_bytes());
        }
        Ok(())
    }

    /// The encoded record as bytes of its own.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn to_bytes(&self) -> Result<Bytes, RecordError> {
        let mut buffer = BytesMut::with_capacity(encoded_bytes(self.key.len(), self.value.len()));
        self.encode(&mut buffer)?;
        Ok(buffer.freeze())
    }

    /// Reads and verifies the record at the front of `bytes`, and says how many bytes it took.
    ///
    /// # Errors
    /// What was wrong with it; the bytes after it are then not to be trusted either.
    pub fn decode(bytes: &'a [u8]) -> Result<(Self, usize), RecordError> {
        if bytes.len() < HEADER_BYTES {
            return Err(RecordError::Short);
        }
        let lengths = lengths(bytes)?;
        let content = HEADER_BYTES + lengths.key + lengths.value;
        if bytes.len() < lengths.total {
            return Err(RecordError::Short);
        }
        let checked = bytes.get(CHECKED_FROM..content).ok_or(RecordError::Short)?;
        if crc32fast::hash(checked) != checksum_of(bytes)? {
            return Err(RecordError::Checksum);
        }
        let [flags, kind] = array(bytes, 4)?;
        if flags > Flags::INSTALL.0 | Flags::MOVE.0 {
            return Err(RecordError::Kind);
        }
        let record = Self {
            kind: Kind::from_code(kind).ok_or(RecordError::Kind)?,
            flags: Flags(flags),
            partition: PartitionId(u16::from_le_bytes(array(bytes, 12)?)),
            version: Version::new(
                Epoch(u64::from_le_bytes(array(bytes, 16)?)),
                u64::from_le_bytes(array(bytes, 24)?),
            ),
            expires: i64::from_le_bytes(array(bytes, 32)?),
            key: bytes.get(HEADER_BYTES..HEADER_BYTES + lengths.key).ok_or(RecordError::Short)?,
            value: bytes.get(HEADER_BYTES + lengths.key..content).ok_or(RecordError::Short)?,
        };
        Ok((record, lengths.total))
    }
}

/// Cuts the value out of an encoded record without copying it; empty for a tombstone.
///
/// # Errors
/// If the record does not verify.
pub fn value_of(encoded: &Bytes) -> Result<Bytes, RecordError> {
    let (record, _) = Record::decode(encoded)?;
    Ok(encoded.slice_ref(record.value))
}

/// Walks the records that lie back to back in a buffer, each with the bytes it was read from.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    rest: &'a [u8],
}

impl<'a> Records<'a> {
    /// The records of this buffer.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<(Record<'a>, &'a [u8]), RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let decoded = Record::decode(self.rest).map(|(record, length)| {
            let (bytes, rest) = self.rest.split_at_checked(length).unwrap_or((self.rest, &[]));
            self.rest = rest;
            (record, bytes)
        });
        if decoded.is_err() {
            self.rest = &[];
        }
        Some(decoded)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample<'a>(key: &'a [u8], value: &'a [u8]) -> Record<'a> {
        Record {
            kind: Kind::Put,
            flags: Flags::NONE,
            partition: PartitionId(7),
            version: Version::new(Epoch(3), 9),
            expires: 0,
            key,
            value,
        }
    }

    #[test]
    fn carrying_a_record_differently_keeps_its_checksum() {
        let mut bytes = sample(b"key", b"value").to_bytes().unwrap().to_vec();
        let before = checksum_of(&bytes).unwrap();
        set_flags(&mut bytes, Flags::INSTALL);
        let (record, _) = Record::decode(&bytes).unwrap();
        assert_eq!(record.flags, Flags::INSTALL);
        assert_eq!(checksum_of(&bytes).unwrap(), before);
    }

    #[test]
    fn every_flipped_bit_of_content_is_noticed() {
        let good = sample(b"key", b"value").to_bytes().unwrap();
        let content = HEADER_BYTES + 8;
        for at in (0..content).filter(|at| *at != 4) {
            for bit in 0..8 {
                let mut bad = good.to_vec();
                bad[at] ^= 1 << bit;
                assert!(Record::decode(&bad).is_err(), "byte {at} bit {bit}");
            }
        }
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_read_back(key in prop::collection::vec(any::<u8>(), 0..300),
            value in prop::collection::vec(any::<u8>(), 0..3000), expires in any::<i64>(),
            partition in any::<u16>(), epoch in any::<u64>(), seq in any::<u64>())
        {
            let record = Record { expires, partition: PartitionId(partition),
                version: Version::new(Epoch(epoch), seq), ..sample(&key, &value) };
            let bytes = record.to_bytes().unwrap();
            prop_assert_eq!(bytes.len() % ALIGNMENT, 0);
            prop_assert_eq!(Record::decode(&bytes), Ok((record, bytes.len())));
            prop_assert_eq!(value_of(&bytes).unwrap(), value);
        }

        #[test]
        fn cut_anywhere_it_is_an_error(cut in 0usize..100) {
            let bytes = sample(b"0123456789", &[1; 50]).to_bytes().unwrap();
            prop_assert_eq!(bytes.len(), 104);
            prop_assert!(Record::decode(&bytes[..cut]).is_err());
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Record::decode(&bytes);
            prop_assert!(Records::new(&bytes).count() <= bytes.len() / HEADER_BYTES + 1);
        }
    }
}
