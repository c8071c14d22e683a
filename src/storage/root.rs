//! The root: which segments a reopening must read, in order.
//!
//! It is replaced at every rotation and at no other time. One that cannot be read is damage: an
//! older one would cut off what came later without a word.

use bytes::{Buf, BufMut};
use siphasher::sip::SipHasher24;
use std::hash::Hasher;

use super::error::StorageError;
use crate::types::{IndexKey, PartitionCount};

/// The name of the root's file.
pub(crate) const NAME: &str = "root";
const MAGIC: &[u8; 8] = b"HKSROOT\n";
/// Stands for the format of all files of a store: frames, records, checkpoints.
const FORMAT: u32 = 1;
const MAX_LISTED: u32 = 1 << 20;

/// A segment of the tail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    pub id: u32,
    pub generation: u64,
    /// The number of its first frame.
    pub first: u64,
}

/// The root's content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Root {
    /// The highest frame number that was synced when the root was written.
    pub mark: u64,
    /// No segment has had this generation or a higher one.
    pub next_generation: u64,
    /// The segments of the tail, oldest first; the last one is written to.
    pub listed: Vec<Listed>,
}

/// What the bytes of a root turn out to be.
#[derive(Debug)]
pub(crate) enum Parsed {
    Root(Root),
    Unreadable,
}

/// Tells stores of different clusters apart without telling the secret.
fn key_check(key: &IndexKey) -> u64 {
    let mut hasher = SipHasher24::new_with_key(&key.0);
    hasher.write(b"root of a store");
    hasher.finish()
}

impl Root {
    /// As it lies on disk.
    pub(crate) fn encode(&self, key: &IndexKey, partitions: PartitionCount) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64 + self.listed.len() * 20);
        bytes.put_slice(MAGIC);
        bytes.put_u32_le(FORMAT);
        bytes.put_u16_le(partitions.get());
        bytes.put_u64_le(key_check(key));
        bytes.put_u64_le(self.mark);
        bytes.put_u64_le(self.next_generation);
        bytes.put_u32_le(u32::try_from(self.listed.len()).unwrap_or(u32::MAX));
        for listed in &self.listed {
            bytes.put_u32_le(listed.id);
            bytes.put_u64_le(listed.generation);
            bytes.put_u64_le(listed.first);
        }
        let checksum = crc32fast::hash(&bytes);
        bytes.put_u32_le(checksum);
        bytes
    }

    /// Reads what [`Self::encode`] wrote. An intact root of another format, cluster or number of
    /// partitions is an error; anything else that cannot be read is damage.
    pub(crate) fn parse(
        bytes: &[u8],
        key: &IndexKey,
        partitions: PartitionCount,
    ) -> Result<Parsed, StorageError> {
        let Some((mut content, checksum)) = bytes.split_last_chunk::<4>() else {
            return Ok(Parsed::Unreadable);
        };
        if crc32fast::hash(content) != u32::from_le_bytes(*checksum) {
            return Ok(Parsed::Unreadable);
        }
        if content.get(..MAGIC.len()) != Some(MAGIC) {
            return Err(StorageError::Format("its root is not one of a store".into()));
        }
        content.advance(MAGIC.len());
        check_format(&mut content, key, partitions)?;
        Ok(body(&mut content).map_or(Parsed::Unreadable, Parsed::Root))
    }

    /// Whether the segment is part of the tail.
    pub(crate) fn lists(&self, id: u32) -> bool {
        self.listed.iter().any(|listed| listed.id == id)
    }
}

fn check_format(
    content: &mut &[u8],
    key: &IndexKey,
    partitions: PartitionCount,
) -> Result<(), StorageError> {
    let cut = |_| StorageError::Format("its root is cut short".into());
    let format = content.try_get_u32_le().map_err(cut)?;
    if format != FORMAT {
        return Err(StorageError::Format(format!(
            "its format is {format}, this build knows {FORMAT}; use the build that wrote it"
        )));
    }
    let stored = content.try_get_u16_le().map_err(cut)?;
    if stored != partitions.get() {
        return Err(StorageError::Format(format!(
            "it has {stored} partitions, the cluster {}",
            partitions.get()
        )));
    }
    if content.try_get_u64_le().map_err(cut)? != key_check(key) {
        return Err(StorageError::Format("its index key is that of another cluster".into()));
    }
    Ok(())
}

fn body(content: &mut &[u8]) -> Option<Root> {
    let mark = content.try_get_u64_le().ok()?;
    let next_generation = content.try_get_u64_le().ok()?;
    let count = content.try_get_u32_le().ok()?;
    let listed = (0..count.min(MAX_LISTED))
        .map(|_| {
            Some(Listed {
                id: content.try_get_u32_le().ok()?,
                generation: content.try_get_u64_le().ok()?,
                first: content.try_get_u64_le().ok()?,
            })
        })
        .collect::<Option<Vec<_>>>()?;
    let usable = content.is_empty() && !listed.is_empty();
    usable.then_some(Root { mark, next_generation, listed })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: IndexKey = IndexKey([3; 16]);

    fn sample() -> Root {
        let listed = |id| Listed { id, generation: 7 + u64::from(id), first: 100 * u64::from(id) };
        Root { mark: 99, next_generation: 11, listed: vec![listed(1), listed(2)] }
    }

    #[test]
    fn it_is_read_back_and_any_flipped_bit_is_noticed() {
        let bytes = sample().encode(&KEY, PartitionCount::DEFAULT);
        let parse = |bytes: &[u8]| Root::parse(bytes, &KEY, PartitionCount::DEFAULT).unwrap();
        assert!(matches!(parse(&bytes), Parsed::Root(root) if root == sample()));
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(parse(&bad), Parsed::Unreadable), "bit {bit}");
        }
        for cut in 0..bytes.len() {
            assert!(matches!(parse(&bytes[..cut]), Parsed::Unreadable), "cut at {cut}");
        }
    }

    #[test]
    fn a_root_of_others_is_refused() {
        let bytes = sample().encode(&KEY, PartitionCount::DEFAULT);
        let other_key = Root::parse(&bytes, &IndexKey([4; 16]), PartitionCount::DEFAULT);
        assert!(other_key.unwrap_err().to_string().contains("another cluster"));
        let other_count = Root::parse(&bytes, &KEY, PartitionCount::new(8).unwrap());
        assert!(other_count.unwrap_err().to_string().contains("1024 partitions"));
        let mut newer = bytes[..bytes.len() - 4].to_vec();
        newer[8] = 2;
        newer.extend_from_slice(&crc32fast::hash(&newer).to_le_bytes());
        let newer = Root::parse(&newer, &KEY, PartitionCount::DEFAULT);
        assert!(newer.unwrap_err().to_string().contains("format is 2"));
    }
}
