//! Control records: instructions to a store that lie in its log among the data they govern.
//!
//! A control record is a [`Record`] of kind control whose value holds the
//! encoded [`Control`]; it concerns the record's partition, or the whole store
//! ([`PartitionId::STORE`]).

use bytes::{Buf, BufMut, BytesMut};

use super::record::{Flags, Kind, Record, RecordError};
use crate::types::{
    Configuration, ConfigurationVersion, Epoch, KeyHash, Member, PartitionId, StoreId, Token,
    Version,
};

/// An instruction to a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    /// Refuse every lower epoch from now on. Concerns the whole store.
    Promise(Epoch),
    /// The latest durable configuration of the partition (rule 30).
    Configuration(Configuration),
    /// Everything at or below this version is settled.
    Watermark(Version),
    /// The store is a first member of the partition, which begins empty.
    Begin(Token),
    /// A shadow copy begins under this token: what is there is unvouched from now on.
    Start(Token),
    /// An in-sync source vouches for this version of a key.
    Vouch {
        /// The key.
        key_hash: KeyHash,
        /// Its version.
        version: Version,
    },
    /// The shadow copy is complete: what nobody vouched for goes, the store holds the partition.
    Finish(Token),
    /// A durable configuration, this one, does not name the store: everything of the partition goes.
    Remove(ConfigurationVersion),
    /// Tombstones at or below this version go, and no write at or below it is applied again.
    GarbageFloor(Version),
    /// Whatever is there of the partition counts from now on, under this token: no better copy is
    /// left, and an operator decided so (rule 29).
    Adopt(Token),
    /// This version of a key goes: it was deleted, by a tombstone that the store has lost and its
    /// source has dropped.
    Forget {
        /// The key.
        key_hash: KeyHash,
        /// Its version.
        version: Version,
    },
}

/// A control record that could not be read.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error("the control record is malformed or from a newer build")]
pub struct ControlError;

const PROMISE: u8 = 1;
const CONFIGURATION: u8 = 2;
const WATERMARK: u8 = 3;
const BEGIN: u8 = 4;
const START: u8 = 5;
const VOUCH: u8 = 6;
const FINISH: u8 = 7;
const REMOVE: u8 = 8;
const GARBAGE_FLOOR: u8 = 9;
const ADOPT: u8 = 10;
const FORGET: u8 = 11;

fn put_version(into: &mut Vec<u8>, version: Version) {
    into.put_u64_le(version.epoch.0);
    into.put_u64_le(version.seq);
}

fn put_entry(into: &mut Vec<u8>, key_hash: KeyHash, version: Version) {
    into.put_slice(&key_hash.to_bytes());
    put_version(into, version);
}

fn get_entry(from: &mut &[u8]) -> Result<(KeyHash, Version), ControlError> {
    let hash = from.get(..16).and_then(KeyHash::from_bytes).ok_or(ControlError)?;
    from.advance(16);
    Ok((hash, get_version(from)?))
}

fn get_u64(from: &mut &[u8]) -> Result<u64, ControlError> {
    from.try_get_u64_le().map_err(|_| ControlError)
}

fn get_version(from: &mut &[u8]) -> Result<Version, ControlError> {
    Ok(Version::new(Epoch(get_u64(from)?), get_u64(from)?))
}

/// Appends a configuration in the form that logs of nodes and leader share.
pub fn encode_configuration(configuration: &Configuration, into: &mut Vec<u8>) {
    into.put_u64_le(configuration.version.0);
    into.put_u8(u8::try_from(configuration.members.len()).unwrap_or(u8::MAX));
    for member in configuration.members.iter().take(usize::from(u8::MAX)) {
        into.put_slice(member.store.as_bytes());
        into.put_u64_le(member.token.0);
    }
}

/// Reads what [`encode_configuration`] wrote from the front of `from`, and moves it on.
///
/// # Errors
/// If the bytes are cut short.
pub fn decode_configuration(from: &mut &[u8]) -> Result<Configuration, ControlError> {
    let version = ConfigurationVersion(get_u64(from)?);
    let count = from.try_get_u8().map_err(|_| ControlError)?;
    let members = (0..count)
        .map(|_| {
            let store = StoreId::try_from(from.get(..16).ok_or(ControlError)?);
            from.advance(16);
            let store = store.map_err(|_| ControlError)?;
            Ok(Member { store, token: Token(get_u64(from)?) })
        })
        .collect::<Result<_, ControlError>>()?;
    Ok(Configuration { version, members })
}

impl Control {
    /// Appends the instruction as a record of `partition`.
    ///
    /// # Errors
    /// Never for instructions that this build makes; the type is that of records.
    pub fn encode(&self, partition: PartitionId, into: &mut BytesMut) -> Result<(), RecordError> {
        let value = self.body();
        let record = Record {
            kind: Kind::Control,
            flags: Flags::NONE,
            partition,
            version: Version::ZERO,
            expires: 0,
            key: &[],
            value: &value,
        };
        record.encode(into)
    }

    fn body(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(32);
        match self {
            Self::Promise(epoch) => {
                body.put_u8(PROMISE);
                body.put_u64_le(epoch.0);
            }
            Self::Configuration(configuration) => {
                body.put_u8(CONFIGURATION);
                encode_configuration(configuration, &mut body);
            }
            Self::Watermark(version) => {
                body.put_u8(WATERMARK);
                put_version(&mut body, *version);
            }
            Self::Begin(token) => {
                body.put_u8(BEGIN);
                body.put_u64_le(token.0);
            }
            Self::Start(token) => {
                body.put_u8(START);
                body.put_u64_le(token.0);
            }
            Self::Vouch { key_hash, version } => {
                body.put_u8(VOUCH);
                put_entry(&mut body, *key_hash, *version);
            }
            Self::Finish(token) => {
                body.put_u8(FINISH);
                body.put_u64_le(token.0);
            }
            Self::Remove(version) => {
                body.put_u8(REMOVE);
                body.put_u64_le(version.0);
            }
            Self::GarbageFloor(version) => {
                body.put_u8(GARBAGE_FLOOR);
                put_version(&mut body, *version);
            }
            Self::Adopt(token) => {
                body.put_u8(ADOPT);
                body.put_u64_le(token.0);
            }
            Self::Forget { key_hash, version } => {
                body.put_u8(FORGET);
                put_entry(&mut body, *key_hash, *version);
            }
        }
        body
    }

    /// Reads the instruction out of a control record.
    ///
    /// # Errors
    /// If the record is of another kind, cut short, too long, or its instruction is unknown.
    pub fn decode(record: &Record<'_>) -> Result<Self, ControlError> {
        if record.kind != Kind::Control {
            return Err(ControlError);
        }
        let mut body = record.value;
        let code = body.try_get_u8().map_err(|_| ControlError)?;
        let control = match code {
            PROMISE => Self::Promise(Epoch(get_u64(&mut body)?)),
            CONFIGURATION => Self::Configuration(decode_configuration(&mut body)?),
            WATERMARK => Self::Watermark(get_version(&mut body)?),
            BEGIN => Self::Begin(Token(get_u64(&mut body)?)),
            START => Self::Start(Token(get_u64(&mut body)?)),
            VOUCH => {
                let (key_hash, version) = get_entry(&mut body)?;
                Self::Vouch { key_hash, version }
            }
            FINISH => Self::Finish(Token(get_u64(&mut body)?)),
            REMOVE => Self::Remove(ConfigurationVersion(get_u64(&mut body)?)),
            GARBAGE_FLOOR => Self::GarbageFloor(get_version(&mut body)?),
            ADOPT => Self::Adopt(Token(get_u64(&mut body)?)),
            FORGET => {
                let (key_hash, version) = get_entry(&mut body)?;
                Self::Forget { key_hash, version }
            }
            _ => return Err(ControlError),
        };
        if body.is_empty() { Ok(control) } else { Err(ControlError) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_control() -> Vec<Control> {
        let version = Version::new(Epoch(5), 77);
        let members = [
            Member { store: StoreId::from_number(1), token: Token(9) },
            Member { store: StoreId::from_number(2), token: Token(10) },
        ];
        vec![
            Control::Promise(Epoch(4)),
            Control::Configuration(Configuration {
                version: ConfigurationVersion(3),
                members: members.into_iter().collect(),
            }),
            Control::Watermark(version),
            Control::Begin(Token(1)),
            Control::Start(Token(2)),
            Control::Vouch { key_hash: KeyHash::from_bits(u128::MAX), version },
            Control::Finish(Token(2)),
            Control::Remove(ConfigurationVersion(8)),
            Control::GarbageFloor(version),
            Control::Adopt(Token(11)),
            Control::Forget { key_hash: KeyHash::from_bits(7), version },
        ]
    }

    #[test]
    fn every_control_is_read_back() {
        for control in every_control() {
            let mut buffer = BytesMut::new();
            control.encode(PartitionId(5), &mut buffer).unwrap();
            let (record, length) = Record::decode(&buffer).unwrap();
            assert_eq!(length, buffer.len());
            assert_eq!(record.partition, PartitionId(5));
            assert_eq!(Control::decode(&record), Ok(control));
        }
    }

    #[test]
    fn a_control_cut_short_or_with_more_is_refused() {
        for control in every_control() {
            let body = control.body();
            for cut in 0..body.len() {
                assert_eq!(Control::decode(&record_of(&body[..cut])), Err(ControlError));
            }
            let longer = [body.as_slice(), &[0]].concat();
            assert_eq!(Control::decode(&record_of(&longer)), Err(ControlError));
        }
    }

    fn record_of(value: &[u8]) -> Record<'_> {
        Record {
            kind: Kind::Control,
            flags: Flags::NONE,
            partition: PartitionId(0),
            version: Version::ZERO,
            expires: 0,
            key: &[],
            value,
        }
    }
}
