//! One span, decoded piece by piece.
//!
//! What it is for: a reader of a small file can be answered from a span's first
//! part, verified by other means, before the rest is decoded. Must not know maps.

use xxhash_rust::xxh3::xxh3_64;

use super::SPAN;
use super::engine::Stream;
use crate::layer::{ReadError, Source};

/// A span being decoded.
#[derive(Debug)]
pub struct SpanDecoder {
    stream: Stream,
    number: u32,
    /// Bytes that come before the span and are dropped.
    skip: u64,
    len: usize,
    check: u64,
    out: Vec<u8>,
}

impl SpanDecoder {
    pub(super) fn new(stream: Stream, number: u32, skip: u64, len: usize, check: u64) -> Self {
        Self {
            stream,
            number,
            skip,
            len,
            check,
            out: Vec::new(),
        }
    }

    /// Bytes that the span has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the span has no bytes, which none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes so far, at least `until` of them unless the span is shorter. They
    /// are *not checked yet*: only [`Self::finish`] does that.
    ///
    /// # Errors
    /// Damage of the blob, failure to read.
    pub fn advance(&mut self, until: usize, blob: &dyn Source) -> Result<&[u8], ReadError> {
        while self.skip > 0 {
            let part = self.skip.min(SPAN);
            self.out.clear();
            // At most SPAN.
            self.stream.fill(blob, &mut self.out, part as usize)?;
            self.skip -= part;
            self.out.clear();
        }
        let until = until.min(self.len);
        if self.out.len() < until {
            self.out.reserve_exact(self.len - self.out.len());
            self.stream.fill(blob, &mut self.out, until)?;
        }
        Ok(&self.out)
    }

    /// Decodes the rest, and hands the whole span out if it passes its check.
    ///
    /// # Errors
    /// Damage of the blob, failure to read.
    pub fn finish(mut self, blob: &dyn Source) -> Result<Vec<u8>, ReadError> {
        self.advance(self.len, blob)?;
        if xxh3_64(&self.out) != self.check {
            let what = format!("span {} fails its check", self.number);
            return Err(self.stream.corrupt(blob, what));
        }
        Ok(self.out)
    }
}
