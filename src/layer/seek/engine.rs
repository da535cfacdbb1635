//! One face for the three ways a blob may be packed, and bytes of a blob drawn
//! through it.
//!
//! What it is for: recording, decoding a span and decoding everything are the
//! same steps. Must not know points or maps.

use super::frames::Frames;
use super::gzip::Gunzip;
use super::{Compression, SPAN};
use crate::layer::inflate::Stop;
use crate::layer::{ReadError, Source};

/// What one step did, apart from the bytes that it appended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    /// Bytes of input used.
    pub consumed: usize,
    /// What was reached.
    pub event: Event,
}

/// What a step reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// Nothing: input or room are used up, or there was only a header.
    None,
    /// The border of two deflate blocks; only if it was asked for.
    Block {
        /// High bits of the last byte that are still to come.
        bits: u8,
    },
    /// A Zstandard frame began.
    Frame {
        /// Bytes that it says it unpacks to.
        declared: Option<u64>,
    },
    /// A gzip member or a Zstandard frame ended: another may begin.
    UnitEnds,
}

/// A decoder of any kind.
#[derive(Debug)]
pub(super) enum Engine {
    /// Copies.
    Plain,
    /// gzip.
    Gzip(Box<Gunzip>),
    /// Zstandard.
    Zstd(Box<Frames>),
}

impl Engine {
    /// At the beginning of a stream, or of a member or frame.
    pub(super) fn new(compression: Compression, verify: bool) -> Self {
        match compression {
            Compression::Plain => Self::Plain,
            Compression::Gzip => Self::Gzip(Box::new(Gunzip::new(verify))),
            Compression::Zstd => Self::Zstd(Box::new(Frames::new())),
        }
    }

    /// Whether the stream may end here.
    pub(super) fn may_end(&self) -> bool {
        match self {
            Self::Plain => true,
            Self::Gzip(gunzip) => gunzip.may_end(),
            Self::Zstd(frames) => frames.may_end(),
        }
    }

    /// Uses some of `input` and appends at most `room` bytes, within `out`'s capacity.
    /// When exactly `room` bytes came, more may come without any input.
    ///
    /// # Errors
    /// What is wrong with the stream.
    pub(super) fn step(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
        room: usize,
        stop: Stop,
    ) -> Result<Step, &'static str> {
        let room = room.min(out.capacity() - out.len());
        match self {
            Self::Plain => {
                let take = input.len().min(room);
                out.extend_from_slice(&input[..take]);
                Ok(Step {
                    consumed: take,
                    event: Event::None,
                })
            }
            Self::Gzip(gunzip) => gunzip.step(input, out, room, stop),
            Self::Zstd(frames) => frames.step(input, out, room),
        }
    }
}

/// Steps in a row that neither use nor make a byte: a block's end, a stream's end,
/// what was buffered used up. More of them, and the decoder would never go on.
pub(super) const IDLE_MAX: u32 = 4;

/// First read from a blob: enough for most small files.
const FIRST: u64 = 32 << 10;
/// Further reads.
const FURTHER: u64 = 128 << 10;

/// A part of a blob, drawn through an engine.
#[derive(Debug)]
pub(super) struct Stream {
    engine: Engine,
    /// Where the next read begins, and where the part ends.
    at: u64,
    end: u64,
    input: Vec<u8>,
    used: usize,
    /// The last step filled its room, so that more may come without input.
    more: bool,
    next_read: u64,
}

impl Stream {
    /// The bytes `at..end` of a blob through `engine`.
    pub(super) fn new(engine: Engine, at: u64, end: u64) -> Self {
        let input = Vec::new();
        Self {
            engine,
            at,
            end,
            input,
            used: 0,
            more: false,
            next_read: FIRST,
        }
    }

    /// Appends to `out` until it has `until` bytes.
    ///
    /// # Errors
    /// Damage (also an end before that), failure to read.
    pub(super) fn fill(
        &mut self,
        blob: &dyn Source,
        out: &mut Vec<u8>,
        until: usize,
    ) -> Result<(), ReadError> {
        out.reserve_exact(until.saturating_sub(out.len()));
        if matches!(self.engine, Engine::Plain) {
            return self.copy(blob, out, until);
        }
        let mut idle = 0;
        while out.len() < until {
            if self.used == self.input.len() && !self.more {
                self.read(blob)?;
            }
            let (len, room) = (out.len(), until - out.len());
            let input = &self.input[self.used..];
            let step = self.engine.step(input, out, room, Stop::Never);
            let step = step.map_err(|what| self.corrupt(blob, what))?;
            self.used += step.consumed;
            self.more = out.len() - len == room;
            idle = if step.consumed == 0 && out.len() == len {
                idle + 1
            } else {
                0
            };
            if idle > IDLE_MAX {
                return Err(self.corrupt(blob, "the stream does not go on"));
            }
        }
        Ok(())
    }

    fn copy(
        &mut self,
        blob: &dyn Source,
        out: &mut Vec<u8>,
        until: usize,
    ) -> Result<(), ReadError> {
        let len = out.len();
        let wanted = until.saturating_sub(len);
        if self.end.saturating_sub(self.at) < wanted as u64 {
            return Err(self.corrupt(blob, "the blob ends before the span does"));
        }
        out.resize(len + wanted, 0);
        blob.read_at(self.at, &mut out[len..])?;
        self.at += wanted as u64;
        Ok(())
    }

    fn read(&mut self, blob: &dyn Source) -> Result<(), ReadError> {
        if blob.len() < self.end {
            return Err(self.corrupt(blob, "the blob is shorter than its seek map says"));
        }
        let left = self.end.saturating_sub(self.at);
        if left == 0 {
            return Err(self.corrupt(blob, "the stream ends before the span does"));
        }
        // At most FURTHER.
        let take = left.min(self.next_read) as usize;
        self.input.clear();
        self.used = 0;
        self.input.resize(take, 0);
        blob.read_at(self.at, &mut self.input)?;
        self.at += take as u64;
        if self.next_read == FIRST && self.at < self.end {
            // The disk works while this is decoded. Few spans have more when they are packed.
            blob.will_need(self.at..self.end.min(self.at + SPAN));
        }
        self.next_read = FURTHER;
        Ok(())
    }

    /// An error about the place where the stream stands.
    pub(super) fn corrupt(&self, blob: &dyn Source, what: impl Into<String>) -> ReadError {
        let ahead = (self.input.len() - self.used) as u64;
        let offset = self.at.saturating_sub(ahead);
        ReadError::Corrupt {
            file: blob.name(),
            offset,
            what: what.into(),
        }
    }
}
