//! Checkpoints: the state of one partition as of a frame, in a file of its own.
//!
//! A reopening loads it and applies the tail from there. The store-wide facts form a checkpoint of
//! their own. One that cannot be read is damage of its partition: there is no older one to fall
//! back to, and the log that led to it is gone.

use bytes::{Buf, BufMut};

use super::digest::Sums;
use super::entry::{ENTRY_BYTES, Entry, MAX_EPOCHS};
use super::partition_index::{Membership, PartitionIndex};
use super::usage::Usage;
use crate::protocol::control::{decode_configuration, encode_configuration};
use crate::types::{Epoch, PartitionId, Token, Version};

const MAGIC: &[u8; 8] = b"HKSCHK1\n";
const TOKEN: u8 = 1;
const SHADOW: u8 = 2;
const CONFIGURATION: u8 = 4;

/// The name of a partition's checkpoint.
pub(crate) fn name_of(partition: PartitionId) -> String {
    format!("checkpoint-{:05}", partition.0)
}

/// Whether a file is a checkpoint.
pub(crate) fn is_name(name: &str) -> bool {
    name.starts_with("checkpoint-")
}

fn begin(partition: PartitionId, position: u64, entries: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(256 + Sums::STORED_BYTES + entries * ENTRY_BYTES);
    bytes.put_slice(MAGIC);
    bytes.put_u16_le(partition.0);
    bytes.put_u64_le(position);
    bytes
}

fn end(mut bytes: Vec<u8>) -> Vec<u8> {
    let checksum = crc32fast::hash(&bytes);
    bytes.put_u32_le(checksum);
    bytes
}

/// The checkpoint of the store-wide facts.
pub(crate) fn encode_store(position: u64, promised: Epoch) -> Vec<u8> {
    let mut bytes = begin(PartitionId::STORE, position, 0);
    bytes.put_u64_le(promised.0);
    end(bytes)
}

/// The checkpoint of a partition.
pub(crate) fn encode(partition: PartitionId, position: u64, index: &PartitionIndex) -> Vec<u8> {
    let mut bytes = begin(partition, position, index.table.len());
    put_membership(&index.membership, &mut bytes);
    bytes.put_u32_le(u32::try_from(index.epochs.len()).unwrap_or(u32::MAX));
    for epoch in &index.epochs {
        bytes.put_u64_le(epoch.0);
    }
    index.sums.append_to(&mut bytes);
    bytes.put_u64_le(index.table.len() as u64);
    for entry in index.iter() {
        entry.append_to(&mut bytes);
    }
    end(bytes)
}

fn put_membership(membership: &Membership, bytes: &mut Vec<u8>) {
    let flag = |is: bool, flag: u8| if is { flag } else { 0 };
    bytes.put_u8(
        flag(membership.token.is_some(), TOKEN)
            | flag(membership.shadow, SHADOW)
            | flag(membership.configuration.is_some(), CONFIGURATION),
    );
    bytes.put_u64_le(membership.token.unwrap_or_default().0);
    for version in [membership.watermark, membership.garbage_floor] {
        bytes.put_u64_le(version.epoch.0);
        bytes.put_u64_le(version.seq);
    }
    if let Some(configuration) = &membership.configuration {
        encode_configuration(configuration, bytes);
    }
}

fn get_version(from: &mut &[u8]) -> Option<Version> {
    let epoch = Epoch(from.try_get_u64_le().ok()?);
    Some(Version::new(epoch, from.try_get_u64_le().ok()?))
}

fn get_membership(from: &mut &[u8]) -> Option<Membership> {
    let flags = from.try_get_u8().ok()?;
    let token = Token(from.try_get_u64_le().ok()?);
    let watermark = get_version(from)?;
    let garbage_floor = get_version(from)?;
    let configuration =
        if flags & CONFIGURATION == 0 { None } else { Some(decode_configuration(from).ok()?) };
    Some(Membership {
        token: (flags & TOKEN != 0).then_some(token),
        shadow: flags & SHADOW != 0,
        watermark,
        garbage_floor,
        configuration,
    })
}

/// The position and the rest of a checkpoint that verifies.
fn open(bytes: &[u8], partition: PartitionId) -> Option<(u64, &[u8])> {
    let (content, checksum) = bytes.split_last_chunk::<4>()?;
    if crc32fast::hash(content) != u32::from_le_bytes(*checksum) {
        return None;
    }
    let mut rest = content.strip_prefix(MAGIC)?;
    if rest.try_get_u16_le().ok()? != partition.0 {
        return None;
    }
    let position = rest.try_get_u64_le().ok()?;
    Some((position, rest))
}

/// Reads the checkpoint of the store-wide facts; nothing unless it verifies.
pub(crate) fn decode_store(bytes: &[u8]) -> Option<(u64, Epoch)> {
    let (position, mut rest) = open(bytes, PartitionId::STORE)?;
    Some((position, Epoch(rest.try_get_u64_le().ok()?)))
}

/// Reads the checkpoint of a partition; nothing unless it verifies.
pub(crate) fn decode(
    bytes: &[u8],
    partition: PartitionId,
    usage: &mut Usage,
) -> Option<(u64, PartitionIndex)> {
    let (position, mut rest) = open(bytes, partition)?;
    let membership = get_membership(&mut rest)?;
    let epochs = rest.try_get_u32_le().ok()? as usize;
    if epochs > MAX_EPOCHS {
        return None;
    }
    let epochs =
        (0..epochs).map(|_| rest.try_get_u64_le().ok().map(Epoch)).collect::<Option<Vec<_>>>()?;
    let (sums, mut rest) = rest.split_at_checked(Sums::STORED_BYTES)?;
    let count = rest.try_get_u64_le().ok()?;
    let (entries, rest) = rest.as_chunks::<ENTRY_BYTES>();
    if count != entries.len() as u64 || !rest.is_empty() {
        return None;
    }
    let entries = entries.iter().map(Entry::from_bytes);
    let sums = Sums::from_bytes(sums);
    Some((position, PartitionIndex::from_parts(membership, epochs, sums, entries, usage)))
}
