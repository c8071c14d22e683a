//! Between messages and types.

use bytes::Bytes;

use super::v1;
use crate::logic::comparison::{Doubt, Point};
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

    /// The garbage floor it tells.
    pub fn floor(&self) -> Version {
        version(self.floor_epoch, self.floor_seq)
    }
}

impl v1::Start {
    /// The partition's garbage floor.
    pub fn floor(&self) -> Version {
        version(self.floor_epoch, self.floor_seq)
    }
}

impl v1::GarbageFloor {
    /// The floor it orders.
    pub fn floor(&self) -> Version {
        version(self.epoch, self.seq)
    }
}

impl v1::PullReply {
    /// The source's garbage floor.
    pub fn floor(&self) -> Version {
        version(self.floor_epoch, self.floor_seq)
    }
}

impl From<Doubt> for v1::Doubt {
    fn from(doubt: Doubt) -> Self {
        match doubt {
            Doubt::None => Self::Unspecified,
            Doubt::Unclean => Self::Unclean,
            Doubt::Lost => Self::Lost,
        }
    }
}

impl From<v1::Doubt> for Doubt {
    fn from(doubt: v1::Doubt) -> Self {
        match doubt {
            v1::Doubt::Unspecified => Self::None,
            v1::Doubt::Unclean => Self::Unclean,
            v1::Doubt::Lost => Self::Lost,
        }
    }
}

impl v1::Compare {
    /// An order to compare with a source, as of a point.
    pub fn new(attempt: u64, source: StoreId, source_address: String, point: &Point) -> Self {
        Self {
            attempt,
            source_store_id: id_bytes(source.as_bytes()),
            source_address,
            before_epoch: point.before.epoch.0,
            before_seq: point.before.seq,
            under_way_epochs: point.under_way.iter().map(|version| version.epoch.0).collect(),
            under_way_seqs: point.under_way.iter().map(|version| version.seq).collect(),
        }
    }

    /// As of when to compare.
    pub fn point(&self) -> Point {
        let under_way = self.under_way_epochs.iter().zip(&self.under_way_seqs);
        let mut under_way: Vec<_> = under_way.map(|(epoch, seq)| version(*epoch, *seq)).collect();
        under_way.sort_unstable();
        Point { before: version(self.before_epoch, self.before_seq), under_way }
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
    fn a_point_is_read_back() {
        let under_way = vec![version(2, 9), version(3, 1)];
        let point = Point { before: version(3, 4), under_way };
        let message = v1::Compare::new(1, StoreId::from_number(1), "here:1".into(), &point);
        assert_eq!(message.point(), point);
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
