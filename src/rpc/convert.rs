//! Between messages and types.

use bytes::Bytes;

use super::v1;
use crate::types::{
    Configuration, ConfigurationVersion, Epoch, KeyHash, Member, PartitionId, StoreId, Token,
    Version,
};

/// A message that breaks the rules of the wire.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error("malformed message: {0}")]
pub struct Malformed(pub &'static str);

impl From<Malformed> for tonic::Status {
    fn from(malformed: Malformed) -> Self {
        Self::invalid_argument(malformed.to_string())
    }
}

/// An identity out of its 16 bytes.
pub fn identity<'a, I: TryFrom<&'a [u8]>>(bytes: &'a [u8]) -> Result<I, Malformed> {
    I::try_from(bytes).map_err(|_| Malformed("an identity must have 16 bytes"))
}

/// An identity, or nothing where there are no bytes.
pub fn optional_identity<'a, I: TryFrom<&'a [u8]>>(
    bytes: &'a [u8],
) -> Result<Option<I>, Malformed> {
    if bytes.is_empty() { Ok(None) } else { identity(bytes).map(Some) }
}

/// The bytes of an identity or a key hash.
pub fn id_bytes(id: &[u8; 16]) -> Bytes {
    Bytes::copy_from_slice(id)
}

/// A partition's number.
pub fn partition(number: u32) -> Result<PartitionId, Malformed> {
    u16::try_from(number)
        .map(PartitionId)
        .map_err(|_| Malformed("a partition's number is below 65,536"))
}

/// The hash of a key out of its 16 bytes.
pub fn key_hash(bytes: &[u8]) -> Result<KeyHash, Malformed> {
    KeyHash::from_bytes(bytes).ok_or(Malformed("the hash of a key must have 16 bytes"))
}

/// The version that travels as two numbers.
pub fn version(epoch: u64, seq: u64) -> Version {
    Version::new(Epoch(epoch), seq)
}

impl v1::Section {
    /// So many records of a partition follow, under these terms.
    pub fn new(partition: PartitionId, token: Token, watermark: Version, records: u32) -> Self {
        Self {
            partition: u32::from(partition.0),
            token: token.0,
            watermark_epoch: watermark.epoch.0,
            watermark_seq: watermark.seq,
            records,
        }
    }

    /// The watermark it carries.
    pub fn watermark(&self) -> Version {
        version(self.watermark_epoch, self.watermark_seq)
    }
}

impl v1::Order {
    /// An order for a partition.
    pub fn new(partition: PartitionId, token: Token, order: v1::order::Order) -> Self {
        Self { partition: u32::from(partition.0), token: token.0, order: Some(order) }
    }
}

impl v1::FenceAnswer {
    /// The watermark it tells.
    pub fn watermark(&self) -> Version {
        version(self.watermark_epoch, self.watermark_seq)
    }
}

impl v1::RecordSummary {
    /// The version of the record.
    pub fn version(&self) -> Version {
        version(self.epoch, self.seq)
    }
}

impl From<&Configuration> for v1::Configuration {
    fn from(configuration: &Configuration) -> Self {
        let members = configuration.members.iter().map(|member| v1::Member {
            store_id: id_bytes(member.store.as_bytes()),
            token: member.token.0,
        });
        Self { version: configuration.version.0, members: members.collect() }
    }
}

impl TryFrom<&v1::Configuration> for Configuration {
    type Error = Malformed;

    fn try_from(message: &v1::Configuration) -> Result<Self, Malformed> {
        let members = message.members.iter().map(|member| {
            let store = identity::<StoreId>(&member.store_id)?;
            Ok(Member { store, token: Token(member.token) })
        });
        let members = members.collect::<Result<_, Malformed>>()?;
        Ok(Self { version: ConfigurationVersion(message.version), members })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ClusterId;

    #[test]
    fn a_configuration_is_read_back() {
        let member = |n| Member { store: StoreId::from_number(n), token: Token(7) };
        let configuration = Configuration {
            version: ConfigurationVersion(3),
            members: [member(1), member(2)].into_iter().collect(),
        };
        let message = v1::Configuration::from(&configuration);
        assert_eq!(Configuration::try_from(&message), Ok(configuration));
    }

    #[test]
    fn what_is_malformed_is_an_error() {
        assert!(identity::<ClusterId>(&[0; 15]).is_err());
        assert_eq!(optional_identity::<ClusterId>(&[]), Ok(None));
        assert!(partition(65_536).is_err());
        assert!(key_hash(&[0; 17]).is_err());
        let member = v1::Member { store_id: Bytes::from_static(b"short"), token: 1 };
        let message = v1::Configuration { version: 1, members: vec![member] };
        assert!(Configuration::try_from(&message).is_err());
    }
}
