//! Changes as bytes.
//!
//! ```text
//! epoch          1  epoch u64
//! cluster        2  id 16 bytes, index key 16 bytes, partitions u16, created i64
//! member         3  store 16 bytes, u8 of bits (1 placed, 2 drained), address, admin address: u16
//!                   length and text
//! forget         4  store 16 bytes
//! configuration  5  partition u16, then as in the stores' logs
//! rebuilt        6  the same
//! outdated       7  epoch u64
//! ```
//!
//! Little-endian, back to back. A number that is not known here means a newer build: it cannot be
//! skipped, since nothing says how long it is.

use bytes::{Buf, BufMut};

use super::{Change, Cluster, MemberInfo, MetadataError};
use crate::protocol::control::{decode_configuration, encode_configuration};
use crate::types::{
    ClusterId, Configuration, Epoch, IndexKey, PartitionCount, PartitionId, StoreId,
};

const EPOCH: u8 = 1;
const CLUSTER: u8 = 2;
const MEMBER: u8 = 3;
const FORGET: u8 = 4;
const CONFIGURATION: u8 = 5;
const REBUILT: u8 = 6;
const OUTDATED: u8 = 7;

/// The bits of a member.
const PLACED: u8 = 1;
const DRAINED: u8 = 2;

/// Appends a change.
pub(super) fn encode(change: &Change, bytes: &mut Vec<u8>) -> Result<(), MetadataError> {
    match change {
        Change::Epoch(epoch) => {
            bytes.put_u8(EPOCH);
            bytes.put_u64_le(epoch.0);
        }
        Change::Cluster(cluster) => {
            bytes.put_u8(CLUSTER);
            bytes.put_slice(cluster.id.as_bytes());
            bytes.put_slice(&cluster.index_key.0);
            bytes.put_u16_le(cluster.partitions.get());
            bytes.put_i64_le(cluster.created);
        }
        Change::Member(store, info) => {
            bytes.put_u8(MEMBER);
            bytes.put_slice(store.as_bytes());
            let placed = if info.placed { PLACED } else { 0 };
            let drained = if info.drained { DRAINED } else { 0 };
            bytes.put_u8(placed | drained);
            put_text(&info.address, bytes)?;
            put_text(&info.admin_address, bytes)?;
        }
        Change::Forget(store) => {
            bytes.put_u8(FORGET);
            bytes.put_slice(store.as_bytes());
        }
        Change::Configuration(partition, configuration) => {
            put_configuration(CONFIGURATION, *partition, configuration, bytes)?;
        }
        Change::Rebuilt(partition, configuration) => {
            put_configuration(REBUILT, *partition, configuration, bytes)?;
        }
        Change::Outdated(promised) => {
            bytes.put_u8(OUTDATED);
            bytes.put_u64_le(promised.0);
        }
    }
    Ok(())
}

fn put_configuration(
    kind: u8,
    partition: PartitionId,
    configuration: &Configuration,
    bytes: &mut Vec<u8>,
) -> Result<(), MetadataError> {
    if configuration.members.len() > usize::from(u8::MAX) {
        return Err(MetadataError::TooLarge("a partition has over 255 members"));
    }
    bytes.put_u8(kind);
    bytes.put_u16_le(partition.0);
    encode_configuration(configuration, bytes);
    Ok(())
}

fn put_text(text: &str, bytes: &mut Vec<u8>) -> Result<(), MetadataError> {
    let length = u16::try_from(text.len());
    bytes
        .put_u16_le(length.map_err(|_| MetadataError::TooLarge("an address is over 64 KiB long"))?);
    bytes.put_slice(text.as_bytes());
    Ok(())
}

/// Reads the change at the front of `from`, which is not empty, and moves it on; nothing if there
/// is none that this build knows.
pub(super) fn decode(from: &mut &[u8]) -> Option<Change> {
    Some(match from.try_get_u8().ok()? {
        EPOCH => Change::Epoch(Epoch(from.try_get_u64_le().ok()?)),
        CLUSTER => Change::Cluster(Cluster {
            id: ClusterId::try_from(take(from, 16)?).ok()?,
            index_key: IndexKey(take(from, 16)?.try_into().ok()?),
            partitions: PartitionCount::new(from.try_get_u16_le().ok()?)?,
            created: from.try_get_i64_le().ok()?,
        }),
        MEMBER => {
            let store = store(from)?;
            let bits = from.try_get_u8().ok().filter(|bits| bits & !(PLACED | DRAINED) == 0)?;
            let (placed, drained) = (bits & PLACED != 0, bits & DRAINED != 0);
            let (address, admin_address) = (text(from)?, text(from)?);
            Change::Member(store, MemberInfo { address, admin_address, placed, drained })
        }
        FORGET => Change::Forget(store(from)?),
        CONFIGURATION => {
            let partition = PartitionId(from.try_get_u16_le().ok()?);
            Change::Configuration(partition, decode_configuration(from).ok()?)
        }
        REBUILT => {
            let partition = PartitionId(from.try_get_u16_le().ok()?);
            Change::Rebuilt(partition, decode_configuration(from).ok()?)
        }
        OUTDATED => Change::Outdated(Epoch(from.try_get_u64_le().ok()?)),
        _ => return None,
    })
}

fn take<'a>(from: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = from.split_at_checked(length)?;
    *from = rest;
    Some(taken)
}

fn store(from: &mut &[u8]) -> Option<StoreId> {
    StoreId::try_from(take(from, 16)?).ok()
}

fn text(from: &mut &[u8]) -> Option<String> {
    let length = from.try_get_u16_le().ok()?;
    String::from_utf8(take(from, usize::from(length))?.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::types::{ConfigurationVersion, Member, Token};

    fn every_change() -> Vec<Change> {
        let store = StoreId::from_number(7);
        let cluster = Cluster {
            id: ClusterId::from_number(3),
            index_key: IndexKey([4; 16]),
            partitions: PartitionCount::DEFAULT,
            created: -5,
        };
        let info = MemberInfo {
            address: "node-1:50052".into(),
            admin_address: String::new(),
            placed: true,
            drained: false,
        };
        let members = [Member { store, token: Token(1 << 40) }, Member { store, token: Token(2) }];
        let configuration = Configuration {
            version: ConfigurationVersion(9),
            members: members.into_iter().collect(),
        };
        vec![
            Change::Epoch(Epoch(5)),
            Change::Cluster(cluster),
            Change::Member(store, info),
            Change::Forget(store),
            Change::Configuration(PartitionId(1023), configuration.clone()),
            Change::Rebuilt(PartitionId(1022), configuration),
            Change::Outdated(Epoch(6)),
        ]
    }

    #[test]
    fn every_change_is_read_back_and_none_that_is_cut_short() {
        let drained = MemberInfo { drained: true, ..MemberInfo::default() };
        let drained = Change::Member(StoreId::from_number(8), drained);
        for change in every_change().into_iter().chain([drained]) {
            let mut bytes = Vec::new();
            encode(&change, &mut bytes).unwrap();
            let mut rest = bytes.as_slice();
            assert_eq!(decode(&mut rest), Some(change.clone()));
            assert!(rest.is_empty());
            for cut in 0..bytes.len() {
                assert_eq!(decode(&mut &bytes[..cut]), None, "{change:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn the_bytes_never_change() {
        // Metadata of earlier builds must open for ever.
        let mut bytes = Vec::new();
        for change in &every_change()[..5] {
            encode(change, &mut bytes).unwrap();
        }
        assert_eq!((bytes.len(), crc32fast::hash(&bytes)), (163, 2_963_936_620));
    }

    #[test]
    fn what_is_too_long_is_refused() {
        let info = MemberInfo { address: "a".repeat(1 << 16), ..MemberInfo::default() };
        let change = Change::Member(StoreId::from_number(1), info);
        assert!(matches!(encode(&change, &mut Vec::new()), Err(MetadataError::TooLarge(_))));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 1..200)) {
            let _ = decode(&mut bytes.as_slice());
        }
    }
}
