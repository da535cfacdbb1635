//! The recording pass: a stream decoded forwards, once, while points are noted.
//!
//! What it is for: import. May assume that pushed pieces follow each other. Must
//! not know who takes the bytes, nor how a map is written.

use std::fmt;

use xxhash_rust::xxh3::Xxh3;

use super::bytes::{Kind, Span};
use super::engine::{Engine, Event, IDLE_MAX};
use super::window::WindowJob;
use super::{Compression, DecodeError, REACH_MAX, SPAN, SPAN_MAX, Sink, Stopped};
use crate::layer::Limits;
use crate::layer::inflate::{Stop, WINDOW};

/// A member or frame begins a span if the one before has so many bytes; smaller
/// ones are put together (zstd:chunked has a frame for each small file).
const UNIT_MIN: u64 = SPAN / 2;
/// Compressed bytes kept for a [`WindowJob`]. 32 KiB of output need hardly more
/// than 32 KiB of input; a stream of empty blocks could need any number.
const FOLLOWING_MAX: usize = 2 * WINDOW;
/// A sink's buffer below this is enlarged.
const BUFFER_MIN: usize = 4 << 10;

/// Decodes a stream and records points.
#[derive(Debug)]
pub struct Recorder {
    compression: Compression,
    limits: Limits,
    engine: Engine,
    /// Decoded, not yet handed on.
    out: Vec<u8>,
    taken: u64,
    made: u64,
    /// The last byte taken: a point may begin inside it.
    byte: u8,
    spans: Vec<Span>,
    open: Option<Open>,
    candidate: Option<Candidate>,
    following: Option<WindowJob>,
    /// The frame says that it is too long to be one span.
    long: bool,
    used_until: u64,
}

/// The span that bytes are being added to.
struct Open {
    span: Span,
    hash: Box<Xxh3>,
    /// It is closed when it has so many bytes.
    limit: u64,
}

impl Open {
    /// Its length when `made` bytes are made; as good as endless if it is continued:
    /// the next place to begin at is welcome at once.
    fn len_at(&self, made: u64) -> u64 {
        match self.span.kind {
            Kind::Continued => u64::MAX,
            _ => made - self.span.out,
        }
    }
}

impl fmt::Debug for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Open({:?}, limit {})", self.span, self.limit)
    }
}

/// Where the next span could begin, once a byte of it has come.
#[derive(Debug, Clone, Copy)]
enum Candidate {
    /// A member or frame begins at this byte of the blob.
    Unit(u64),
    /// `following` has the place.
    Block,
}

/// What a [`Recorder`] found: points, span checks and lengths; no windows.
#[derive(Debug)]
pub struct Recorded {
    pub(super) compression: Compression,
    pub(super) spans: Vec<Span>,
    pub(super) blob_len: u64,
    pub(super) tar_len: u64,
    /// Bytes of the blob behind which nothing is unpacked any more.
    pub(super) used_until: u64,
}

impl Recorded {
    /// Length of the blob in bytes.
    #[must_use]
    pub fn blob_len(&self) -> u64 {
        self.blob_len
    }

    /// Length of the uncompressed tar in bytes.
    #[must_use]
    pub fn tar_len(&self) -> u64 {
        self.tar_len
    }
}

impl Recorder {
    /// At the beginning of a stream.
    #[must_use]
    pub fn new(compression: Compression, limits: Limits) -> Self {
        Self {
            compression,
            limits,
            engine: Engine::new(compression, true),
            out: Vec::new(),
            taken: 0,
            made: 0,
            byte: 0,
            spans: Vec::new(),
            open: None,
            candidate: Some(Candidate::Unit(0)),
            following: None,
            long: false,
            used_until: 0,
        }
    }

    /// Takes the next compressed bytes.
    ///
    /// # Errors
    /// See [`DecodeError`]. The recorder is of no use after one.
    pub fn push(&mut self, mut input: &[u8], to: &mut dyn Sink) -> Result<(), DecodeError> {
        let (mut more, mut idle) = (false, 0);
        while !input.is_empty() || more {
            if self.out.capacity() == 0 {
                self.out = to.buffer();
                self.out.clear();
                if self.out.capacity() < BUFFER_MIN {
                    self.out.reserve_exact(SPAN as usize);
                }
            }
            let from = self.out.len();
            let (room, stop) = self.wanted();
            let step = self.engine.step(input, &mut self.out, room, stop);
            let step = step.map_err(|what| self.damaged(what))?;
            let (used, rest) = input.split_at(step.consumed);
            input = rest;
            let made = self.out.len() - from;
            more = made == room;
            idle = if used.is_empty() && made == 0 {
                idle + 1
            } else {
                0
            };
            if idle > IDLE_MAX {
                return Err(self.damaged("the stream does not go on"));
            }
            self.taken += used.len() as u64;
            self.byte = used.last().copied().unwrap_or(self.byte);
            self.made += made as u64;
            self.limits.unpacking(self.made, self.taken)?;
            self.follow(used, from);
            if made > 0 {
                self.used_until = self.taken;
                self.add(from);
            }
            if self
                .following
                .as_ref()
                .is_some_and(|job| job.output.len() == WINDOW)
            {
                self.end_following(to)?;
            }
            self.event(step.event, to)?;
            if self.out.len() == self.out.capacity() {
                self.hand_on(to)?;
            }
        }
        Ok(())
    }

    /// The stream ended.
    ///
    /// # Errors
    /// When it ended too early.
    pub fn finish(mut self, to: &mut dyn Sink) -> Result<Recorded, DecodeError> {
        if !self.engine.may_end() {
            return Err(self.damaged("it ends in the middle"));
        }
        if !self.out.is_empty() {
            self.hand_on(to)?;
        }
        self.close();
        Ok(Recorded {
            compression: self.compression,
            spans: self.spans,
            blob_len: self.taken,
            tar_len: self.made,
            used_until: self.used_until,
        })
    }

    /// How much the next step may make, and whether it has to stop at a block.
    fn wanted(&self) -> (usize, Stop) {
        let mut room = self.out.capacity() - self.out.len();
        let mut stop = Stop::Never;
        let at_most = |room: usize, most: u64| usize::try_from(most).map_or(room, |n| n.min(room));
        if self.compression == Compression::Gzip {
            let open = self.open.as_ref();
            let len = open.map_or(0, |open| open.len_at(self.made));
            if len < SPAN {
                room = at_most(room, SPAN - len);
            } else if self.candidate.is_some() {
                room = at_most(room, SPAN);
            } else if self.following.is_none() {
                stop = Stop::AtBlock;
            }
        }
        if let Some(job) = &self.following {
            room = room.min(WINDOW - job.output.len());
        }
        (room, stop)
    }

    /// Keeps what a [`WindowJob`] needs of what follows its point.
    fn follow(&mut self, used: &[u8], from: usize) {
        let Some(job) = &mut self.following else {
            return;
        };
        job.output.extend_from_slice(&self.out[from..]);
        job.input = job
            .input
            .take()
            .filter(|kept| kept.len() + used.len() <= FOLLOWING_MAX);
        if let Some(kept) = &mut job.input {
            kept.extend_from_slice(used);
        }
    }

    fn end_following(&mut self, to: &mut dyn Sink) -> Result<(), DecodeError> {
        match self.following.take() {
            Some(job) => to.window(job).map_err(|Stopped| DecodeError::Stopped),
            None => Ok(()),
        }
    }

    fn event(&mut self, event: Event, to: &mut dyn Sink) -> Result<(), DecodeError> {
        match event {
            Event::None => {}
            Event::Frame { declared } => self.long = declared.is_some_and(|len| len > REACH_MAX),
            Event::UnitEnds => {
                self.long = false;
                if matches!(self.candidate, Some(Candidate::Block)) {
                    // Nothing came behind that border.
                    self.following = None;
                } else {
                    self.end_following(to)?;
                }
                self.candidate = Some(Candidate::Unit(self.taken));
            }
            Event::Block { bits } => {
                let Engine::Gzip(gunzip) = &mut self.engine else {
                    return Ok(());
                };
                self.following = Some(WindowJob {
                    at: self.taken,
                    window: gunzip.window(),
                    bits,
                    byte: self.byte,
                    input: Some(Vec::with_capacity(WINDOW)),
                    output: Vec::with_capacity(WINDOW),
                });
                self.candidate = Some(Candidate::Block);
            }
        }
        Ok(())
    }

    /// Adds what was just made, from `from` on in `out`, to spans.
    fn add(&mut self, from: usize) {
        let len = (self.out.len() - from) as u64;
        let start = self.made - len;
        if let Some(candidate) = self.candidate.take() {
            self.consider(candidate, start);
        }
        let (mut at, mut from) = (start, from);
        while from < self.out.len() {
            if self
                .open
                .as_ref()
                .is_none_or(|open| at - open.span.out == open.limit)
            {
                self.open(at, self.taken, Kind::Continued);
            }
            let Some(open) = &mut self.open else { return };
            let room = open.limit - (at - open.span.out);
            let left = self.out.len() - from;
            let take = usize::try_from(room).map_or(left, |room| room.min(left));
            open.hash.update(&self.out[from..from + take]);
            from += take;
            at += take as u64;
        }
    }

    /// Begins a span at the candidate if that is worth it.
    fn consider(&mut self, candidate: Candidate, start: u64) {
        let len = self.open.as_ref().map(|open| open.len_at(start));
        match candidate {
            Candidate::Unit(at) if len.is_none_or(|len| len >= UNIT_MIN) => {
                self.open(start, at, Kind::Unit);
            }
            Candidate::Unit(_) => {}
            Candidate::Block => {
                if let Some(job) = &self.following {
                    self.open(
                        start,
                        job.at,
                        Kind::Block {
                            bits: job.bits,
                            byte: job.byte,
                        },
                    );
                }
            }
        }
    }

    /// Closes the open span and opens one.
    fn open(&mut self, out: u64, at: u64, kind: Kind) {
        let hash = self.close();
        let plain = self.compression == Compression::Plain;
        // Every byte of a plain blob is a place to begin at.
        let (kind, at) = if plain { (Kind::Unit, out) } else { (kind, at) };
        // Spans are counted in 32 bits: at 128 KiB and more each, that is 512 TiB.
        let number = self.spans.len() as u32;
        let restart = match (kind, self.spans.last()) {
            (Kind::Continued, Some(before)) => before.restart,
            _ => number,
        };
        let begins = self
            .spans
            .get(restart as usize)
            .map_or(out, |span| span.out);
        let long = plain || self.long || out - begins >= REACH_MAX;
        let limit = if long { SPAN } else { SPAN_MAX };
        let span = Span {
            out,
            at,
            check: 0,
            restart,
            kind,
        };
        self.open = Some(Open { span, hash, limit });
    }

    /// Closes the open span; gives its hash state for the next.
    fn close(&mut self) -> Box<Xxh3> {
        let Some(Open {
            mut span, mut hash, ..
        }) = self.open.take()
        else {
            return Box::default();
        };
        span.check = hash.digest();
        hash.reset();
        self.spans.push(span);
        hash
    }

    fn hand_on(&mut self, to: &mut dyn Sink) -> Result<(), DecodeError> {
        to.bytes(std::mem::take(&mut self.out))
            .map_err(|Stopped| DecodeError::Stopped)
    }

    fn damaged(&self, what: &str) -> DecodeError {
        let kind = match self.compression {
            Compression::Plain => "plain",
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
        };
        DecodeError::Damaged {
            kind,
            at: self.taken,
            what: what.to_owned(),
        }
    }
}
