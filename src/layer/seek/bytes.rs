//! The fixed records of a seek map, byte by byte. The specification is in
//! [`super`]; nothing else knows an offset. Must not know how spans are decoded.

use super::Compression;
use crate::digest::{BlobId, DiffId, Digest};
use crate::layer::blocks::Seal;

/// What a sealed seek map says it is.
pub(super) const SEAL: Seal = Seal {
    magic: *b"lzrtseek",
    version: 1,
};
/// Length of a record of the table.
pub(super) const SPAN_SIZE: u64 = 48;
/// Length of the header.
pub(super) const HEADER: usize = 168;

/// How a span begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Where the one before ends: it can only be reached through that.
    Continued,
    /// With a gzip member, a Zstandard frame, or a byte of a plain tar.
    Unit,
    /// With a deflate block, `bits` high bits of `byte` first.
    Block {
        /// 0 to 7.
        bits: u8,
        /// The byte before.
        byte: u8,
    },
}

/// A span as recorded; it ends where the next begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    /// First byte of the tar.
    pub out: u64,
    /// First byte of the blob that it is made of; if it is continued: all before
    /// is made of the bytes before this one.
    pub at: u64,
    /// XXH3-64 of its bytes.
    pub check: u64,
    /// The span at which a decode of this one begins.
    pub restart: u32,
    /// How it begins.
    pub kind: Kind,
}

/// Where a packed window lies in the payload.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Placed {
    pub at: u64,
    pub packed: u32,
    pub len: u16,
}

/// A record of the table.
pub(super) fn span_bytes(span: &Span, window: Placed) -> Vec<u8> {
    let (kind, bits, byte) = match span.kind {
        Kind::Continued => (0, 0, 0),
        Kind::Unit => (1, 0, 0),
        Kind::Block { bits, byte } => (2, bits, byte),
    };
    let mut to = Vec::with_capacity(SPAN_SIZE as usize);
    to.extend_from_slice(&span.out.to_le_bytes());
    to.extend_from_slice(&span.at.to_le_bytes());
    to.extend_from_slice(&span.check.to_le_bytes());
    to.extend_from_slice(&window.at.to_le_bytes());
    to.extend_from_slice(&window.packed.to_le_bytes());
    to.extend_from_slice(&span.restart.to_le_bytes());
    to.extend_from_slice(&window.len.to_le_bytes());
    to.extend_from_slice(&[kind, bits, byte, 0, 0, 0]);
    to
}

/// Little-endian numbers at fixed places; 0 behind the end, where no caller asks.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes
        .get(at..)
        .and_then(|b| b.first_chunk())
        .map_or(0, |b| u64::from_le_bytes(*b))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..)
        .and_then(|b| b.first_chunk())
        .map_or(0, |b| u32::from_le_bytes(*b))
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes
        .get(at..)
        .and_then(|b| b.first_chunk())
        .map_or(0, |b| u16::from_le_bytes(*b))
}

/// A record of the table, if its kind is known.
pub(super) fn span_of(bytes: &[u8]) -> Option<(Span, Placed)> {
    let kind = match bytes.get(42..48)? {
        [0, 0, 0, 0, 0, 0] => Kind::Continued,
        [1, 0, 0, 0, 0, 0] => Kind::Unit,
        [2, bits @ 0..=7, byte, 0, 0, 0] => Kind::Block {
            bits: *bits,
            byte: *byte,
        },
        _ => return None,
    };
    let span = Span {
        out: u64_at(bytes, 0),
        at: u64_at(bytes, 8),
        check: u64_at(bytes, 16),
        restart: u32_at(bytes, 36),
        kind,
    };
    let window = Placed {
        at: u64_at(bytes, 24),
        packed: u32_at(bytes, 32),
        len: u16_at(bytes, 40),
    };
    Some((span, window))
}

/// The end of the payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub blob: BlobId,
    pub diff: DiffId,
    pub compression: Compression,
    pub random_access: bool,
    pub blob_len: u64,
    pub tar_len: u64,
    pub used_until: u64,
    pub spans: u32,
    pub table: u64,
}

impl Header {
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut to = Vec::with_capacity(HEADER);
        to.extend_from_slice(&self.blob_len.to_le_bytes());
        to.extend_from_slice(&self.tar_len.to_le_bytes());
        to.extend_from_slice(&self.used_until.to_le_bytes());
        to.extend_from_slice(&self.table.to_le_bytes());
        to.extend_from_slice(&self.spans.to_le_bytes());
        let compression = match self.compression {
            Compression::Plain => 0,
            Compression::Gzip => 1,
            Compression::Zstd => 2,
        };
        to.extend_from_slice(&[compression, self.random_access.into()]);
        for digest in [&self.blob.0, &self.diff.0] {
            to.push(match digest {
                Digest::Sha256(_) => 1,
                Digest::Sha512(_) => 2,
            });
        }
        for digest in [&self.blob.0, &self.diff.0] {
            to.extend_from_slice(digest.as_bytes());
            to.resize(to.len() + 64 - digest.as_bytes().len(), 0);
        }
        to
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        let wrong = "the header is not understood";
        let (&[compression, random, blob, diff], digests) = bytes
            .get(36..HEADER)
            .and_then(|rest| rest.split_first_chunk::<4>())
            .ok_or(wrong)?;
        let digest = |algorithm: u8, bytes: &[u8]| match algorithm {
            1 => bytes.first_chunk().map(|b| Digest::Sha256(*b)),
            2 => bytes.first_chunk().map(|b| Digest::Sha512(*b)),
            _ => None,
        };
        let compression = match compression {
            0 => Compression::Plain,
            1 => Compression::Gzip,
            2 => Compression::Zstd,
            _ => return Err(wrong),
        };
        Ok(Self {
            blob: digest(blob, digests).map(BlobId).ok_or(wrong)?,
            diff: digest(diff, &digests[64..]).map(DiffId).ok_or(wrong)?,
            compression,
            random_access: random == 1,
            blob_len: u64_at(bytes, 0),
            tar_len: u64_at(bytes, 8),
            used_until: u64_at(bytes, 16),
            table: u64_at(bytes, 24),
            spans: u32_at(bytes, 32),
        })
    }
}
