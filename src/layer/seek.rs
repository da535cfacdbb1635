//! Compressed bytes into plain ones: forwards while points are recorded, or
//! from any recorded point.
//!
//! STUB: to be written. The types below are fixed.

use std::io::{self, Write};
use std::sync::Arc;

use super::blocks::BlockCache;
use super::{Limits, ReadError, Source};
use crate::digest::{BlobId, DiffId};

/// How a blob is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Not at all.
    Plain,
    /// gzip, any number of members (RFC 1952).
    Gzip,
    /// Zstandard, any number of frames (RFC 8878).
    Zstd,
}

/// What the first bytes of a stream say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sniffed {
    /// Nothing there at all.
    Empty,
    /// A tar header (also 512 zero bytes: an empty tar).
    Tar,
    /// Compressed in a way that can be read.
    Compressed(Compression),
    /// bzip2 (cannot be read yet).
    Bzip2,
    /// xz (cannot be read yet).
    Xz,
    /// Begins like JSON.
    Json,
    /// None of these.
    Unknown,
}

/// Bytes that [`sniff`] wants to see, if there are so many.
pub const SNIFF: usize = 512;

/// Tells by content what a stream is.
#[must_use]
pub fn sniff(_head: &[u8]) -> Sniffed {
    unimplemented!()
}

/// Why a compressed stream cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Broken. `at` is a byte of the compressed stream.
    #[error("the {kind} stream is damaged at byte {at}: {what}")]
    Damaged {
        /// `gzip` or `zstd`.
        kind: &'static str,
        /// Where.
        at: u64,
        /// What is wrong.
        what: String,
    },
    /// A limit passed.
    #[error("the layer passes the limit `{limit}`: {what}")]
    Limit {
        /// `unpacked` or `ratio`.
        limit: &'static str,
        /// What is too large.
        what: String,
    },
    /// Whoever takes the output stopped.
    #[error("stopped")]
    Stopped,
}

/// Whoever takes the output stopped: it is gone or has failed.
#[derive(Debug)]
pub struct Stopped;

/// Who takes what a [`Recorder`] makes.
pub trait Sink {
    /// An empty buffer to decode into; its capacity is used (256 KiB or so).
    fn buffer(&mut self) -> Vec<u8>;
    /// The next uncompressed bytes, never empty.
    ///
    /// # Errors
    /// [`Stopped`] ends the recording.
    fn bytes(&mut self, bytes: Vec<u8>) -> Result<(), Stopped>;
    /// Work for another thread: [`WindowJob::pack`] it, and give the result to
    /// [`MapWriter::window`] in the order in which the jobs came.
    ///
    /// # Errors
    /// [`Stopped`] ends the recording.
    fn window(&mut self, job: WindowJob) -> Result<(), Stopped>;
}

/// What a window has to be packed from.
#[derive(Debug)]
pub struct WindowJob {}

/// A window, packed.
#[derive(Debug)]
pub struct PackedWindow {}

impl WindowJob {
    /// Finds which bytes of the window are referenced and packs those.
    #[must_use]
    pub fn pack(self) -> PackedWindow {
        unimplemented!()
    }
}

/// Decodes a stream and records points.
#[derive(Debug)]
pub struct Recorder {}

/// What a [`Recorder`] found: points, span checks and lengths; no windows.
#[derive(Debug)]
pub struct Recorded {}

impl Recorder {
    /// At the beginning of a stream.
    #[must_use]
    pub fn new(_compression: Compression, _limits: Limits) -> Self {
        Self {}
    }

    /// Takes the next compressed bytes.
    ///
    /// # Errors
    /// See [`DecodeError`].
    pub fn push(&mut self, _input: &[u8], _to: &mut dyn Sink) -> Result<(), DecodeError> {
        unimplemented!()
    }

    /// The stream ended.
    ///
    /// # Errors
    /// When it ended too early.
    pub fn finish(self, _to: &mut dyn Sink) -> Result<Recorded, DecodeError> {
        unimplemented!()
    }
}

/// Writes a seek map while its windows are being packed.
#[derive(Debug)]
pub struct MapWriter<W: Write> {
    _to: W,
}

impl<W: Write> MapWriter<W> {
    /// An empty map.
    pub fn new(to: W) -> Self {
        Self { _to: to }
    }

    /// The next window, in the order of the jobs.
    ///
    /// # Errors
    /// What the writer answers.
    pub fn window(&mut self, _window: PackedWindow) -> io::Result<()> {
        unimplemented!()
    }

    /// Writes points and header, seals, and hands the writer back.
    ///
    /// # Errors
    /// What the writer answers.
    pub fn finish(self, _recorded: Recorded, _blob: BlobId, _diff: DiffId) -> io::Result<W> {
        unimplemented!()
    }
}

/// A seek map, opened.
#[derive(Debug)]
pub struct SeekMap {}

impl SeekMap {
    /// Opens a sealed map: constant time.
    ///
    /// # Errors
    /// Damage, another version, failure to read.
    pub fn open(_source: Box<dyn Source>, _cache: Arc<BlockCache>) -> Result<Self, ReadError> {
        unimplemented!()
    }

    /// The blob it belongs to.
    #[must_use]
    pub fn blob(&self) -> BlobId {
        unimplemented!()
    }

    /// The layer that the blob unpacks to.
    #[must_use]
    pub fn diff_id(&self) -> DiffId {
        unimplemented!()
    }

    /// How the blob is compressed.
    #[must_use]
    pub fn compression(&self) -> Compression {
        unimplemented!()
    }

    /// Length of the blob in bytes.
    #[must_use]
    pub fn blob_len(&self) -> u64 {
        unimplemented!()
    }

    /// Length of the uncompressed tar in bytes.
    #[must_use]
    pub fn tar_len(&self) -> u64 {
        unimplemented!()
    }

    /// Whether any span can be decoded on its own at bounded cost. False: only
    /// [`Self::decode_all`] is sensible (zstd in one frame, or a hostile stream).
    #[must_use]
    pub fn random_access(&self) -> bool {
        unimplemented!()
    }

    /// Number of spans; they cover the tar without gaps.
    #[must_use]
    pub fn spans(&self) -> u32 {
        unimplemented!()
    }

    /// The span that has this byte of the tar, and where it begins and ends.
    ///
    /// # Errors
    /// Damage; a byte behind the end.
    pub fn span_at(&self, _offset: u64) -> Result<(u32, std::ops::Range<u64>), ReadError> {
        unimplemented!()
    }

    /// Decodes one span from the blob and checks it.
    ///
    /// # Errors
    /// Damage of map or blob, failure to read.
    pub fn decode(&self, _span: u32, _blob: &dyn Source) -> Result<Vec<u8>, ReadError> {
        unimplemented!()
    }

    /// Checks bytes that are said to be span `span` (from a cache on disk, say).
    ///
    /// # Errors
    /// Damage of the map.
    pub fn is_span(&self, _span: u32, _bytes: &[u8]) -> Result<bool, ReadError> {
        unimplemented!()
    }

    /// Decodes the whole blob forwards, checks every span, and hands each to
    /// `take` in order, until it says false.
    ///
    /// # Errors
    /// Damage of map or blob, failure to read.
    pub fn decode_all(
        &self,
        _blob: &dyn Source,
        _take: &mut dyn FnMut(u32, &[u8]) -> bool,
    ) -> Result<(), ReadError> {
        unimplemented!()
    }
}
