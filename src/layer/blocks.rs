//! A sealed file: bytes in blocks, a check for each, looked at when a block is
//! first used.
//!
//! What it is for: index and seek map are opened in constant time, may be
//! damaged at any moment, and must never make a wrong answer or a crash. So
//! they are read (not mapped: a truncated map kills the process by SIGBUS, and
//! its pages count as resident memory), block by block, through one bounded
//! cache. Must not know what is in the blocks, nor where the bytes are kept.
//!
//! Layout, all numbers little-endian:
//!
//! ```text
//! payload                    n bytes, n as below
//! checks                     8 bytes per 16 KiB block of the payload: XXH3-64
//! footer, 48 bytes:
//!   0  magic                 8 bytes, says which format the payload has
//!   8  version               u32
//!  12  log2 of the block     u32, 14
//!  16  n                     u64, length of the payload
//!  24  check of the checks   u64, XXH3-64 of all of them
//!  32  zero                  u64
//!  40  check of the footer   u64, XXH3-64 of the 40 bytes before
//! ```
//!
//! A file whose length is not payload + checks + footer is refused at once.

use std::fmt;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use lru::LruCache;
use parking_lot::Mutex;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::{ReadError, Source};

const BLOCK_LOG2: u32 = 14;
/// Bytes in one block.
pub const BLOCK: u64 = 1 << BLOCK_LOG2;
/// Blocks that the disk is asked for together: a file of this kind has one or two MiB for an
/// image, and each single read of a cold one takes as long as to decode a small file.
const AROUND: u64 = 8 * BLOCK;
const FOOTER: u64 = 48;
/// A payload over this is refused: 64 GiB is a hundred times the largest index
/// that the limits of a layer allow.
const PAYLOAD_MAX: u64 = 64 << 30;

/// What the payload of a sealed file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seal {
    /// First bytes of the footer.
    pub magic: [u8; 8],
    /// Version of the payload's format.
    pub version: u32,
}

/// Writes a sealed file from front to back.
pub struct BlockWriter<W: Write> {
    to: W,
    seal: Seal,
    written: u64,
    block: Xxh3,
    checks: Vec<u8>,
}

impl<W: Write> fmt::Debug for BlockWriter<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlockWriter at {}", self.written)
    }
}

impl<W: Write> BlockWriter<W> {
    /// A file with nothing in it yet. `to` should be buffered.
    pub fn new(to: W, seal: Seal) -> Self {
        Self {
            to,
            seal,
            written: 0,
            block: Xxh3::new(),
            checks: Vec::new(),
        }
    }

    /// Bytes of payload so far: where the next byte will lie.
    pub fn position(&self) -> u64 {
        self.written
    }

    /// Appends to the payload.
    ///
    /// # Errors
    /// What the writer below answers.
    pub fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        self.to.write_all(bytes)?;
        while !bytes.is_empty() {
            let room = BLOCK - self.written % BLOCK;
            let take = usize::try_from(room).map_or(bytes.len(), |room| room.min(bytes.len()));
            let (now, later) = bytes.split_at(take);
            self.block.update(now);
            self.written += now.len() as u64;
            if self.written.is_multiple_of(BLOCK) {
                self.end_block();
            }
            bytes = later;
        }
        Ok(())
    }

    /// Appends zeros until the position is a multiple of `to` (at most a block).
    ///
    /// # Errors
    /// What the writer below answers.
    pub fn align(&mut self, to: u64) -> io::Result<()> {
        let gap = self.written.next_multiple_of(to) - self.written;
        self.write(&vec![0; usize::try_from(gap).unwrap_or(0)])
    }

    fn end_block(&mut self) {
        self.checks
            .extend_from_slice(&self.block.digest().to_le_bytes());
        self.block.reset();
    }

    /// Writes checks and footer and hands the writer back, not flushed.
    ///
    /// # Errors
    /// What the writer below answers.
    pub fn finish(mut self) -> io::Result<W> {
        if !self.written.is_multiple_of(BLOCK) {
            self.end_block();
        }
        self.to.write_all(&self.checks)?;
        let mut footer = Vec::with_capacity(48);
        footer.extend_from_slice(&self.seal.magic);
        footer.extend_from_slice(&self.seal.version.to_le_bytes());
        footer.extend_from_slice(&BLOCK_LOG2.to_le_bytes());
        footer.extend_from_slice(&self.written.to_le_bytes());
        footer.extend_from_slice(&xxh3_64(&self.checks).to_le_bytes());
        footer.extend_from_slice(&0u64.to_le_bytes());
        footer.extend_from_slice(&xxh3_64(&footer).to_le_bytes());
        self.to.write_all(&footer)?;
        Ok(self.to)
    }
}

type Key = (u32, u32);
type Shard = Mutex<LruCache<Key, Arc<Vec<u8>>>>;
const SHARDS: usize = 8;

/// Blocks that were read and checked, shared by all sealed files of a process,
/// bounded in bytes; the least recently used ones go first.
pub struct BlockCache {
    shards: [Shard; SHARDS],
    files: AtomicU32,
}

impl fmt::Debug for BlockCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BlockCache")
    }
}

impl BlockCache {
    /// A cache of at most about `bytes` bytes.
    #[must_use]
    pub fn new(bytes: u64) -> Arc<Self> {
        let each = usize::try_from(bytes / BLOCK).unwrap_or(usize::MAX) / SHARDS;
        let capacity = NonZeroUsize::new(each.max(2)).unwrap_or(NonZeroUsize::MIN);
        // Unbounded maps grow on demand; the bound is kept by `put`.
        Arc::new(Self {
            shards: std::array::from_fn(|_| Mutex::new(LruCache::new(capacity))),
            files: AtomicU32::new(0),
        })
    }

    fn shard(&self, key: Key) -> &Shard {
        &self.shards[(key.0 ^ key.1) as usize % SHARDS]
    }

    /// Forgets every block, so that an idle process is small.
    pub fn clear(&self) {
        for shard in &self.shards {
            shard.lock().clear();
        }
    }
}

/// A sealed file, opened.
#[derive(Debug)]
pub struct BlockFile {
    source: Box<dyn Source>,
    payload: u64,
    checks: Vec<u8>,
    cache: Arc<BlockCache>,
    number: u32,
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes
        .get(at..at + 8)
        .and_then(|b| b.try_into().ok())
        .map_or(0, u64::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..at + 4)
        .and_then(|b| b.try_into().ok())
        .map_or(0, u32::from_le_bytes)
}

impl BlockFile {
    /// Opens a sealed file: reads footer and checks; of the payload nothing, unless the file has less
    /// than a block.
    ///
    /// # Errors
    /// Another magic, version or length than the seal says, or damage.
    pub fn open(
        source: Box<dyn Source>,
        seal: Seal,
        cache: Arc<BlockCache>,
    ) -> Result<Self, ReadError> {
        let len = source.len();
        let corrupt = |offset: u64, what: &str| ReadError::Corrupt {
            file: source.name(),
            offset,
            what: what.to_owned(),
        };
        let at = len
            .checked_sub(FOOTER)
            .ok_or_else(|| corrupt(0, "the file is too short"))?;
        // One read for the footer and most often for the checks; of a small layer it is the whole file.
        let tail_at = len.saturating_sub(BLOCK);
        // At most BLOCK.
        let mut tail = vec![0; (len - tail_at) as usize];
        source.read_at(tail_at, &mut tail)?;
        let footer = &tail[(at - tail_at) as usize..];
        if footer[..8] != seal.magic {
            return Err(corrupt(at, "the magic number is another format's"));
        }
        if xxh3_64(&footer[..40]) != u64_at(footer, 40) {
            return Err(corrupt(at, "the footer fails its check"));
        }
        if u32_at(footer, 8) != seal.version || u32_at(footer, 12) != BLOCK_LOG2 {
            return Err(corrupt(at + 8, "the format version is not ours"));
        }
        let payload = u64_at(footer, 16);
        if payload > PAYLOAD_MAX || payload + 8 * payload.div_ceil(BLOCK) + FOOTER != len {
            return Err(corrupt(
                at + 16,
                "the length in the footer is not the file's",
            ));
        }
        let size = usize::try_from(8 * payload.div_ceil(BLOCK))
            .map_err(|_| corrupt(at + 16, "the file is too large for this machine"))?;
        let checks = match payload.checked_sub(tail_at) {
            // Payload, checks and footer are the file, so `size` bytes are there.
            Some(inside) => tail[inside as usize..][..size].to_vec(),
            None => {
                let mut checks = vec![0; size];
                source.read_at(payload, &mut checks)?;
                checks
            }
        };
        if xxh3_64(&checks) != u64_at(footer, 24) {
            return Err(corrupt(payload, "the table of checks fails its own check"));
        }
        let number = cache.files.fetch_add(1, Ordering::Relaxed);
        let file = Self {
            source,
            payload,
            checks,
            cache,
            number,
        };
        if tail_at == 0 && payload > 0 {
            // Less than a block.
            tail.truncate(payload as usize);
            file.check(0, &tail)?;
            file.put((number, 0), tail);
        }
        Ok(file)
    }

    /// Whether these bytes are block `number`.
    fn check(&self, number: u64, bytes: &[u8]) -> Result<(), ReadError> {
        if xxh3_64(bytes) != u64_at(&self.checks, 8 * number as usize) {
            return Err(self.corrupt(number * BLOCK, "a block fails its check"));
        }
        Ok(())
    }

    /// Has a block in the cache.
    fn put(&self, key: Key, bytes: Vec<u8>) -> Arc<Vec<u8>> {
        // Not as a slice: that would be a copy of it.
        let bytes = Arc::new(bytes);
        self.cache.shard(key).lock().put(key, Arc::clone(&bytes));
        bytes
    }

    /// What messages call the file.
    #[must_use]
    pub fn name(&self) -> String {
        self.source.name()
    }

    /// Length of the payload in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.payload
    }

    /// Whether the payload is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.payload == 0
    }

    /// An error about this file.
    pub fn corrupt(&self, offset: u64, what: impl Into<String>) -> ReadError {
        ReadError::Corrupt {
            file: self.name(),
            offset,
            what: what.into(),
        }
    }

    /// Block `number`, checked. The last one may be short.
    fn block(&self, number: u64) -> Result<Arc<Vec<u8>>, ReadError> {
        // PAYLOAD_MAX / BLOCK fits 32 bits.
        let key = (self.number, number as u32);
        if let Some(hit) = self.cache.shard(key).lock().get(&key) {
            return Ok(Arc::clone(hit));
        }
        let at = number * BLOCK;
        let size = self.payload.saturating_sub(at).min(BLOCK);
        if size == 0 {
            return Err(self.corrupt(at, "a reference leads behind the end"));
        }
        // Who looks up one name will look up more.
        let around = at / AROUND * AROUND;
        self.source
            .will_need(around..(around + AROUND).min(self.payload));
        let mut bytes = vec![0; size as usize];
        self.source.read_at(at, &mut bytes)?;
        self.check(number, &bytes)?;
        Ok(self.put(key, bytes))
    }

    /// Hands `len` bytes from `offset` on to `look`; copies only across blocks.
    ///
    /// # Errors
    /// Damage, failure to read, or a place behind the end.
    pub fn with<T>(
        &self,
        offset: u64,
        len: usize,
        look: impl FnOnce(&[u8]) -> T,
    ) -> Result<T, ReadError> {
        let end = offset.checked_add(len as u64);
        if end.is_none_or(|end| end > self.payload) {
            return Err(self.corrupt(offset, "a reference leads behind the end"));
        }
        if len == 0 {
            return Ok(look(&[]));
        }
        let inside = (offset % BLOCK) as usize;
        if inside + len <= BLOCK as usize {
            let block = self.block(offset / BLOCK)?;
            return match block.get(inside..inside + len) {
                Some(bytes) => Ok(look(bytes)),
                None => Err(self.corrupt(offset, "a reference leads behind the end")),
            };
        }
        let mut joined = vec![0; len];
        self.read(offset, &mut joined)?;
        Ok(look(&joined))
    }

    /// Fills `to` from `offset` on.
    ///
    /// # Errors
    /// As [`Self::with`].
    pub fn read(&self, mut offset: u64, mut to: &mut [u8]) -> Result<(), ReadError> {
        while !to.is_empty() {
            let inside = (offset % BLOCK) as usize;
            let take = to.len().min(BLOCK as usize - inside);
            let (now, later) = to.split_at_mut(take);
            let block = self.block(offset / BLOCK)?;
            match block.get(inside..inside + take) {
                Some(bytes) => now.copy_from_slice(bytes),
                None => return Err(self.corrupt(offset, "a reference leads behind the end")),
            }
            offset += take as u64;
            to = later;
        }
        Ok(())
    }

    /// Reads and checks every block, past the cache.
    ///
    /// # Errors
    /// The first damage found.
    pub fn verify(&self) -> Result<(), ReadError> {
        let mut bytes = vec![0; BLOCK as usize];
        for number in 0..self.payload.div_ceil(BLOCK) {
            let at = number * BLOCK;
            let bytes = &mut bytes[..(self.payload - at).min(BLOCK) as usize];
            self.source.read_at(at, bytes)?;
            self.check(number, bytes)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEAL: Seal = Seal {
        magic: *b"testseal",
        version: 1,
    };

    fn sealed(payload: &[u8]) -> Vec<u8> {
        let mut writer = BlockWriter::new(Vec::new(), SEAL);
        for piece in payload.chunks(1000) {
            writer.write(piece).unwrap();
        }
        writer.finish().unwrap()
    }

    #[test]
    fn what_is_sealed_comes_back_across_blocks() {
        for len in [0usize, 1, 16383, 16384, 16385, 50000] {
            let payload: Vec<u8> = (0..len).map(|i| (i * 7 % 251) as u8).collect();
            let file =
                BlockFile::open(Box::new(sealed(&payload)), SEAL, BlockCache::new(1)).unwrap();
            let mut back = vec![0; len];
            file.read(0, &mut back).unwrap();
            assert_eq!(back, payload);
            assert!(file.with(len as u64, 1, |_| ()).is_err());
            assert!(file.with(u64::MAX, 1, |_| ()).is_err());
            if len > 20000 {
                assert_eq!(
                    file.with(16380, 8, <[u8]>::to_vec).unwrap(),
                    payload[16380..16388]
                );
            }
            file.verify().unwrap();
        }
    }

    #[test]
    fn a_file_of_less_than_a_block_is_read_once() {
        #[derive(Debug)]
        struct Counted(Vec<u8>, Arc<AtomicU32>);
        impl Source for Counted {
            fn name(&self) -> String {
                "counted".to_owned()
            }
            fn len(&self) -> u64 {
                self.0.len() as u64
            }
            fn read_at(&self, offset: u64, to: &mut [u8]) -> Result<(), ReadError> {
                self.1.fetch_add(1, Ordering::Relaxed);
                self.0.read_at(offset, to)
            }
        }
        let whole = BLOCK as usize - 8 - FOOTER as usize;
        for (len, reads) in [(0, 1), (500, 1), (whole, 1), (whole + 1, 2), (16384, 2)] {
            let payload: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
            let count = Arc::new(AtomicU32::new(0));
            let source = Counted(sealed(&payload), Arc::clone(&count));
            let file = BlockFile::open(Box::new(source), SEAL, BlockCache::new(1 << 20)).unwrap();
            let mut back = vec![0; len];
            file.read(0, &mut back).unwrap();
            assert_eq!(back, payload);
            assert_eq!(count.load(Ordering::Relaxed), reads, "{len}");
        }
    }

    #[test]
    fn no_flipped_byte_goes_unnoticed() {
        let good = sealed(&[9; 20000]);
        for at in (0..good.len())
            .step_by(97)
            .chain(good.len() - 60..good.len())
        {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            let outcome = BlockFile::open(Box::new(bad), SEAL, BlockCache::new(1))
                .and_then(|file| file.verify());
            assert!(
                matches!(outcome, Err(ReadError::Corrupt { .. })),
                "byte {at}"
            );
        }
        for cut in [0, 10, good.len() - 1] {
            assert!(
                BlockFile::open(Box::new(good[..cut].to_vec()), SEAL, BlockCache::new(1)).is_err()
            );
        }
    }
}
