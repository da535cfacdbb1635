//! Compressed bytes into plain ones: forwards while points are recorded, or
//! from any recorded point.
//!
//! What it is for: a layer is stored as it was received and read as if it were
//! unpacked. May assume a [`Source`] for blob and map, or bytes pushed in. Must
//! not know files, the store's layout, or what a tar is.
//!
//! * `sniff`: what a stream is.
//! * [`Recorder`]: the one pass of import. It cuts the plain bytes into *spans*
//!   and notes where each can be decoded from.
//! * [`WindowJob`]: the part of that work that another thread can do.
//! * [`MapWriter`], [`SeekMap`]: what was noted, on disk.
//! * [`SpanDecoder`]: random access.
//!
//! # Spans
//!
//! Spans cover the plain bytes without gaps; none is longer than [`SPAN_MAX`].
//! A span begins
//!
//! * in gzip: at the first border of deflate blocks behind [`SPAN`] bytes, or with
//!   a member if the span before has half of that;
//! * in zstd: with a frame, likewise;
//! * in a plain tar: every [`SPAN`] bytes;
//! * else, where no such place comes within [`SPAN_MAX`]: anywhere, *continued*. It
//!   is decoded from the last span that is not. When that begins more than
//!   [`REACH_MAX`] bytes before (of blob or tar), continued spans have [`SPAN`]
//!   bytes and the map says that its blob has no random access.
//!
//! # The map: `seek-v1/`
//!
//! A sealed file ([`super::blocks`]) with magic `lzrtseek`, version 1. All numbers
//! are little-endian. The payload:
//!
//! ```text
//! windows                    one after another, each a Zstandard frame; then
//!                            zeros up to a multiple of 8
//! table                      48 bytes per span, in order:
//!    0  out                  u64, first byte of the tar; 0 for the first span,
//!                            greater than the one before
//!    8  at                   u64, first byte of the blob that is decoded for it
//!                            (continued: all before needs only bytes before `at`);
//!                            not less than the one before
//!   16  check                u64, XXH3-64 of the span's plain bytes
//!   24  window               u64, offset in the payload
//!   32  packed               u32, length of the window there, at most 33 KiB
//!   36  restart              u32, number of the span that decoding begins at;
//!                            its own number unless it is continued
//!   40  length               u16, of the window unpacked, at most 32 KiB
//!   42  kind                 u8: 0 continued, 1 member, frame or plain, 2 block
//!   43  bits                 u8, 0 to 7: high bits of `byte` that come first
//!   44  byte                 u8, the blob's byte before `at`
//!   45  zero                 3 bytes
//! header, 168 bytes, the end of the payload:
//!    0  blob length          u64
//!    8  tar length           u64
//!   16  used                 u64, bytes of the blob behind which nothing is unpacked
//!   24  table                u64, its offset in the payload
//!   32  spans                u32
//!   36  compression          u8: 0 plain, 1 gzip, 2 zstd
//!   37  random access        u8: 1 yes, 0 no
//!   38  algorithms           2 x u8, of the two digests: 1 SHA-256, 2 SHA-512
//!   40  blob digest          64 bytes, filled up with zeros
//!  104  layer digest         64 bytes, likewise: that of the plain tar
//! ```
//!
//! Fields 24 to 35 and 40 to 44 are zero except in kind 2. A window is what came
//! right before the block; bytes that nothing refers to are zero, and those before
//! the first that something refers to are left out.

mod bytes;
mod engine;
mod frames;
mod gzip;
mod map;
mod pool;
mod record;
mod references;
mod sniff;
mod span;
mod window;

pub use map::{MapWriter, SeekMap};
pub use record::{Recorded, Recorder};
pub use sniff::{SNIFF, Sniffed, sniff};
pub use span::SpanDecoder;
pub use window::{PackedWindow, WindowJob};

#[cfg(doc)]
use super::Source;

/// Bytes after which a span ends at the next opportunity: the price of the first
/// read (0.4 ms for a whole span) against the size of the map (2 to 3 % of the blob).
pub const SPAN: u64 = 256 << 10;
/// Bytes that no span exceeds: what a reader must be ready to hold.
pub const SPAN_MAX: u64 = 4 << 20;
/// Bytes decoded for one span at most where there is random access: a deflate
/// block of a run of zeros has up to 8.1 MiB (zlib and GNU gzip end a block after
/// 32 Ki symbols at the latest, a symbol makes 258 bytes at most).
pub const REACH_MAX: u64 = 9 << 20;

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

/// [`super::Limits::ratio`] is looked at behind so many bytes: small layers may be all
/// zeros.
const RATIO_FREE: u64 = 1 << 30;

impl super::Limits {
    /// Whether so many unpacked bytes may come out of so many packed ones.
    ///
    /// # Errors
    /// [`DecodeError::Limit`].
    pub fn unpacking(&self, made: u64, taken: u64) -> Result<(), DecodeError> {
        let Self {
            unpacked, ratio, ..
        } = *self;
        let (limit, what) = if made > unpacked {
            let what = format!("it unpacks to more than {unpacked} bytes");
            ("unpacked", what)
        } else if made > RATIO_FREE && made > taken.saturating_mul(ratio) {
            let what = format!("{made} bytes out of {taken} are more than {ratio} for one");
            ("ratio", what)
        } else {
            return Ok(());
        };
        Err(DecodeError::Limit { limit, what })
    }
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

#[cfg(test)]
mod tests;
