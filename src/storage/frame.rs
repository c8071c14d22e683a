//! A frame: what one write call puts into a log.
//!
//! ```text
//! magic u32   checksum u32   length u32   flags u32
//! number u64  mark u64       generation u64
//! records, zeroes up to a multiple of 4,096 bytes
//! ```
//!
//! Little-endian; `length` counts the header and the records. The checksum covers everything after
//! itself and is seeded by a secret, the generation and the offset: what an earlier use of the same
//! file left behind never verifies, nor does a frame that a client has hidden in a value. Frames
//! begin at multiples of a page because a page that is being written may be lost whole when the
//! power goes: no frame shares one with another.

use std::hash::Hasher;

use siphasher::sip::SipHasher24;

use crate::types::IndexKey;

/// Bytes before the records.
pub const HEADER_BYTES: usize = 40;
/// Frames begin at multiples of this.
pub const PAGE_BYTES: usize = 4096;
const MAGIC: u32 = u32::from_le_bytes(*b"HKF1");
/// Where the bytes under the checksum begin.
const CHECKED_FROM: usize = 8;
const CLOSED: u32 = 1;

/// The secret that seeds the checksums of a log.
#[derive(Clone, Copy, Debug)]
pub struct FrameKey(IndexKey);

impl FrameKey {
    /// The key of a log whose clients do not know this secret.
    pub fn new(secret: IndexKey) -> Self {
        Self(secret)
    }

    fn seed(self, generation: u64, offset: u64) -> u32 {
        let mut hasher = SipHasher24::new_with_key(&self.0.0);
        hasher.write_u64(generation.to_le());
        hasher.write_u64(offset.to_le());
        let [a, b, c, d, ..] = hasher.finish().to_le_bytes();
        u32::from_le_bytes([a, b, c, d])
    }

    fn checksum(self, generation: u64, offset: u64, bytes: &[u8]) -> u32 {
        let mut hasher = crc32fast::Hasher::new_with_initial(self.seed(generation, offset));
        hasher.update(bytes);
        hasher.finalize()
    }
}

/// What a frame says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Counts the frames of a log; never goes back.
    pub number: u64,
    /// The highest number whose sync had returned when this frame was written.
    pub mark: u64,
    /// Counts the uses of segments; never goes back.
    pub generation: u64,
    /// The log was closed with this frame, everything before it synced.
    pub closed: bool,
}

/// A frame that verifies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What it says of itself.
    pub header: Header,
    /// Its records, back to back.
    pub payload: &'a [u8],
}

impl Frame<'_> {
    /// How many bytes the frame takes in the file, padding included.
    pub fn stored_bytes(&self) -> usize {
        stored_bytes(self.payload.len())
    }
}

/// How many bytes a frame with a payload of this length takes in the file, padding included.
pub fn stored_bytes(payload: usize) -> usize {
    (HEADER_BYTES + payload).next_multiple_of(PAGE_BYTES)
}

/// Builds frames in a buffer that is used again and again.
#[derive(Debug, Default)]
pub struct Builder {
    buffer: Vec<u8>,
}

impl Builder {
    /// A buffer this large is given back after use.
    const KEPT_BYTES: usize = 8 << 20;

    /// Begins a frame, forgetting the one before.
    pub fn begin(&mut self) {
        self.buffer.clear();
        self.buffer.shrink_to(Self::KEPT_BYTES);
        self.buffer.resize(HEADER_BYTES, 0);
    }

    /// Appends records.
    pub fn push(&mut self, records: &[u8]) {
        self.buffer.extend_from_slice(records);
    }

    /// How many bytes of records were pushed.
    pub fn payload_bytes(&self) -> usize {
        self.buffer.len().saturating_sub(HEADER_BYTES)
    }

    /// The bytes of the frame for this offset, padded.
    pub fn finish(&mut self, key: FrameKey, offset: u64, header: Header) -> &[u8] {
        let content = self.buffer.len();
        self.buffer.resize(content.next_multiple_of(PAGE_BYTES), 0);
        let length = u32::try_from(content).unwrap_or(u32::MAX);
        let flags = if header.closed { CLOSED } else { 0 };
        self.put(0, &MAGIC.to_le_bytes());
        self.put(8, &length.to_le_bytes());
        self.put(12, &flags.to_le_bytes());
        self.put(16, &header.number.to_le_bytes());
        self.put(24, &header.mark.to_le_bytes());
        self.put(32, &header.generation.to_le_bytes());
        let checked = self.buffer.get(CHECKED_FROM..content).unwrap_or(&[]);
        let checksum = key.checksum(header.generation, offset, checked);
        self.put(4, &checksum.to_le_bytes());
        &self.buffer
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        if let Some(place) = self.buffer.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// How many bytes the frame that begins here takes without its padding, by its own unverified word;
/// nothing if no frame begins here.
pub fn length_of(bytes: &[u8]) -> Option<usize> {
    let length = u32_at(bytes, 8)? as usize;
    (u32_at(bytes, 0)? == MAGIC && length >= HEADER_BYTES).then_some(length)
}

/// Reads the frame that begins at the front of `bytes`, which lie at this offset of their file;
/// nothing unless it verifies.
pub fn decode(key: FrameKey, offset: u64, bytes: &[u8]) -> Option<Frame<'_>> {
    let length = length_of(bytes)?;
    let content = bytes.get(..length)?;
    let flags = u32_at(content, 12)?;
    let header = Header {
        number: u64_at(content, 16)?,
        mark: u64_at(content, 24)?,
        generation: u64_at(content, 32)?,
        closed: flags & CLOSED != 0,
    };
    let checksum = key.checksum(header.generation, offset, content.get(CHECKED_FROM..)?);
    if u32_at(content, 4)? != checksum || flags & !CLOSED != 0 {
        return None;
    }
    Some(Frame { header, payload: content.get(HEADER_BYTES..)? })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: FrameKey = FrameKey(IndexKey([7; 16]));
    const HEADER: Header = Header { number: 5, mark: 4, generation: 3, closed: false };

    fn frame(payload: &[u8], offset: u64, header: Header) -> Vec<u8> {
        let mut builder = Builder::default();
        builder.begin();
        builder.push(payload);
        builder.finish(KEY, offset, header).to_vec()
    }

    proptest! {
        #[test]
        fn what_was_built_is_read_back(payload in prop::collection::vec(any::<u8>(), 0..9000),
            number in any::<u64>(), mark in any::<u64>(), closed in any::<bool>())
        {
            let header = Header { number, mark, closed, ..HEADER };
            let bytes = frame(&payload, 4096, header);
            prop_assert_eq!(bytes.len(), stored_bytes(payload.len()));
            let read = decode(KEY, 4096, &bytes);
            prop_assert_eq!(read, Some(Frame { header, payload: &payload }));
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(decode(KEY, 0, &bytes), None);
        }
    }

    #[test]
    fn a_frame_verifies_in_its_own_place_only() {
        let bytes = frame(b"records", 8192, HEADER);
        assert!(decode(KEY, 8192, &bytes).is_some());
        assert_eq!(decode(KEY, 4096, &bytes), None, "another offset");
        assert_eq!(decode(FrameKey(IndexKey([8; 16])), 8192, &bytes), None, "another secret");
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let bytes = frame(b"some records", 0, HEADER);
        let content = HEADER_BYTES + 12;
        for at in 0..content {
            for bit in 0..8 {
                let mut bad = bytes.clone();
                bad[at] ^= 1 << bit;
                assert_eq!(decode(KEY, 0, &bad), None, "byte {at} bit {bit}");
            }
            assert_eq!(decode(KEY, 0, &bytes[..at]), None, "cut at {at}");
        }
    }
}
