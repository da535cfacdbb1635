//! The seek map, written and asked.
//!
//! What it is for: from a byte of the tar to the bytes of the blob that make it.
//! Trusts nothing that it reads. Must not know offsets inside records.

use std::io::{self, Write};
use std::ops::Range;
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use super::bytes::{
    HEADER, Header, Kind, Placed, SEAL, SPAN_SIZE, Span, span_bytes, span_of, u64_at,
};
use super::engine::{Engine, Stream};
use super::gzip::Gunzip;
use super::record::Recorded;
use super::span::SpanDecoder;
use super::window::{self, PackedWindow};
use super::{Compression, REACH_MAX, SPAN_MAX};
use crate::digest::{BlobId, DiffId};
use crate::layer::blocks::{BlockCache, BlockFile, BlockWriter};
use crate::layer::inflate::WINDOW;
use crate::layer::{ReadError, Source};

/// A packed window is at most this long: Zstandard's worst case for 32 KiB.
const PACKED_MAX: u32 = 33 << 10;
/// Windows may take a quarter of the blob before them and 1 MiB; what would take
/// more is left out, and its span continues the one before. Real layers need 3 %;
/// without a limit a hostile one could make the map many times its own size.
const WINDOWS_SHARE: u64 = 4;
const WINDOWS_FREE: u64 = 1 << 20;

/// Writes a seek map while its windows are being packed.
#[derive(Debug)]
pub struct MapWriter<W: Write> {
    to: BlockWriter<W>,
    /// Nothing for a window that was left out.
    windows: Vec<Option<Placed>>,
}

impl<W: Write> MapWriter<W> {
    /// An empty map.
    pub fn new(to: W) -> Self {
        Self {
            to: BlockWriter::new(to, SEAL),
            windows: Vec::new(),
        }
    }

    /// The next window, in the order of the jobs.
    ///
    /// # Errors
    /// What the writer answers.
    pub fn window(&mut self, window: PackedWindow) -> io::Result<()> {
        let at = self.to.position();
        let allowed = window.at / WINDOWS_SHARE + WINDOWS_FREE;
        let packed = u32::try_from(window.bytes.len())
            .ok()
            .filter(|&len| len <= PACKED_MAX);
        let packed = packed.filter(|&len| at + u64::from(len) <= allowed);
        self.windows.push(packed.map(|packed| Placed {
            at,
            packed,
            len: window.len,
        }));
        if packed.is_some() {
            self.to.write(&window.bytes)?;
        }
        Ok(())
    }

    /// Writes points and header, seals, and hands the writer back.
    ///
    /// # Errors
    /// What the writer answers; [`io::ErrorKind::InvalidInput`] if there were fewer
    /// windows than jobs.
    pub fn finish(mut self, recorded: Recorded, blob: BlobId, diff: DiffId) -> io::Result<W> {
        self.to.align(8)?;
        let table = self.to.position();
        let mut windows = self.windows.iter();
        let mut random_access = true;
        let (mut restart, mut begins) = (0, (0, 0));
        for (number, span) in (0u32..).zip(&recorded.spans) {
            let mut span = *span;
            let mut placed = Placed::default();
            if let Kind::Block { .. } = span.kind {
                let window = windows.next().ok_or(io::ErrorKind::InvalidInput)?;
                match window {
                    Some(window) => placed = *window,
                    None => span.kind = Kind::Continued,
                }
            }
            if span.kind != Kind::Continued {
                (restart, begins) = (number, (span.out, span.at));
            }
            span.restart = restart;
            let ends = match recorded.spans.get(number as usize + 1) {
                Some(next) => (next.out, next.at),
                None => (recorded.tar_len, recorded.used_until),
            };
            random_access &= ends.0 - begins.0 <= REACH_MAX && ends.1 - begins.1 <= REACH_MAX;
            self.to.write(&span_bytes(&span, placed))?;
        }
        let header = Header {
            blob,
            diff,
            compression: recorded.compression,
            random_access,
            blob_len: recorded.blob_len,
            tar_len: recorded.tar_len,
            used_until: recorded.used_until,
            // As many as `Recorder` counted in 32 bits.
            spans: recorded.spans.len() as u32,
            table,
        };
        self.to.write(&header.bytes())?;
        self.to.finish()
    }
}

/// A seek map, opened.
#[derive(Debug)]
pub struct SeekMap {
    file: BlockFile,
    header: Header,
}

/// A span with its end, its parts consistent with each other.
#[derive(Debug, Clone, Copy)]
struct Place {
    span: Span,
    window: Placed,
    /// Where it ends in the tar, and where in the blob nothing of it comes any more.
    out_end: u64,
    at_end: u64,
}

impl Place {
    /// At most [`SPAN_MAX`], looked at when the place was read.
    fn len(&self) -> usize {
        (self.out_end - self.span.out) as usize
    }
}

impl SeekMap {
    /// Opens a sealed map: constant time.
    ///
    /// # Errors
    /// Damage, another version, failure to read.
    pub fn open(source: Box<dyn Source>, cache: Arc<BlockCache>) -> Result<Self, ReadError> {
        let file = BlockFile::open(source, SEAL, cache)?;
        let at = file.len().checked_sub(HEADER as u64);
        let at = at.ok_or_else(|| file.corrupt(0, "the map is too short"))?;
        let header = file.with(at, HEADER, Header::parse)?;
        let header = header.map_err(|what| file.corrupt(at, what))?;
        // No overflow: 32 bits of spans.
        let table = SPAN_SIZE * u64::from(header.spans);
        if header.table.checked_add(table) != Some(at) {
            return Err(file.corrupt(at, "the table of points does not fit the map"));
        }
        let nothing = header.spans == 0;
        if nothing != (header.tar_len == 0) || header.used_until > header.blob_len {
            return Err(file.corrupt(at, "lengths and points contradict each other"));
        }
        Ok(Self { file, header })
    }

    /// The blob it belongs to.
    #[must_use]
    pub fn blob(&self) -> BlobId {
        self.header.blob
    }

    /// The layer that the blob unpacks to.
    #[must_use]
    pub fn diff_id(&self) -> DiffId {
        self.header.diff
    }

    /// How the blob is compressed.
    #[must_use]
    pub fn compression(&self) -> Compression {
        self.header.compression
    }

    /// Length of the blob in bytes.
    #[must_use]
    pub fn blob_len(&self) -> u64 {
        self.header.blob_len
    }

    /// Length of the uncompressed tar in bytes.
    #[must_use]
    pub fn tar_len(&self) -> u64 {
        self.header.tar_len
    }

    /// Whether any span can be decoded on its own at bounded cost. False: only
    /// [`Self::decode_all`] is sensible (zstd in one frame, or a hostile stream).
    #[must_use]
    pub fn random_access(&self) -> bool {
        self.header.random_access
    }

    /// Whether its bytes are not simply those of the blob.
    #[must_use]
    pub fn is_compressed(&self) -> bool {
        self.compression() != Compression::Plain
    }

    /// Number of spans; they cover the tar without gaps.
    #[must_use]
    pub fn spans(&self) -> u32 {
        self.header.spans
    }

    /// The span that has this byte of the tar, and where it begins and ends.
    ///
    /// # Errors
    /// Damage; a byte behind the end.
    pub fn span_at(&self, offset: u64) -> Result<(u32, Range<u64>), ReadError> {
        if offset >= self.tar_len() {
            return Err(self
                .file
                .corrupt(0, format!("the layer has no byte {offset}")));
        }
        // Invariant: spans before `low` begin at or before `offset`, those from
        // `high` on behind it. It ends for any table, sorted or not.
        let (mut low, mut high) = (0, self.spans());
        while low < high {
            let middle = low + (high - low) / 2;
            let at = self.table(middle);
            if self.file.with(at, 8, |bytes| u64_at(bytes, 0))? <= offset {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let number = low.saturating_sub(1);
        let place = self.place(number)?;
        let range = place.span.out..place.out_end;
        if !range.contains(&offset) {
            return Err(self.bad(number, "the table of points is not in order"));
        }
        Ok((number, range))
    }

    /// Decodes one span from the blob and checks it.
    ///
    /// # Errors
    /// Damage of map or blob, failure to read.
    pub fn decode(&self, span: u32, blob: &dyn Source) -> Result<Vec<u8>, ReadError> {
        self.start(span)?.finish(blob)
    }

    /// Prepares to decode one span piece by piece.
    ///
    /// # Errors
    /// Damage of the map.
    pub fn start(&self, span: u32) -> Result<SpanDecoder, ReadError> {
        let place = self.place(span)?;
        let from = if place.span.restart == span {
            place
        } else {
            self.place(place.span.restart)?
        };
        let reach = place.out_end.checked_sub(from.span.out);
        let far = reach.is_none_or(|reach| self.random_access() && reach > REACH_MAX);
        if far || from.span.kind == Kind::Continued {
            return Err(self.bad(span, "a point leads to the wrong beginning"));
        }
        let engine = match from.span.kind {
            Kind::Block { bits, byte } if self.compression() == Compression::Gzip => {
                let window = self.window(place.span.restart, from.window)?;
                Engine::Gzip(Box::new(Gunzip::resume(&window, bits, byte)))
            }
            Kind::Block { .. } => return Err(self.bad(span, "only gzip has blocks to begin at")),
            _ => Engine::new(self.compression(), false),
        };
        let stream = Stream::new(engine, from.span.at, place.at_end);
        let skip = place.span.out.checked_sub(from.span.out);
        let skip = skip.ok_or_else(|| self.bad(span, "a point leads to a later one"))?;
        Ok(SpanDecoder::new(
            stream,
            span,
            skip,
            place.len(),
            place.span.check,
        ))
    }

    /// Which bytes of the tar a span has.
    ///
    /// # Errors
    /// Damage of the map; a number that none has.
    pub fn range(&self, span: u32) -> Result<Range<u64>, ReadError> {
        let place = self.place(span)?;
        Ok(place.span.out..place.out_end)
    }

    /// Checks bytes that are said to be span `span` (from a cache on disk, say).
    ///
    /// # Errors
    /// Damage of the map.
    pub fn is_span(&self, span: u32, bytes: &[u8]) -> Result<bool, ReadError> {
        let place = self.place(span)?;
        Ok(bytes.len() == place.len() && xxh3_64(bytes) == place.span.check)
    }

    /// Decodes the whole blob forwards, checks every span, and hands each to
    /// `take` in order, until it says false.
    ///
    /// # Errors
    /// Damage of map or blob, failure to read.
    pub fn decode_all(
        &self,
        blob: &dyn Source,
        take: &mut dyn FnMut(u32, &[u8]) -> bool,
    ) -> Result<(), ReadError> {
        let engine = Engine::new(self.compression(), true);
        let mut stream = Stream::new(engine, 0, self.blob_len());
        let mut out = Vec::new();
        for number in 0..self.spans() {
            let place = self.place(number)?;
            out.clear();
            stream.fill(blob, &mut out, place.len())?;
            if xxh3_64(&out) != place.span.check {
                return Err(stream.corrupt(blob, format!("span {number} fails its check")));
            }
            if !take(number, &out) {
                break;
            }
        }
        Ok(())
    }

    /// Where the record of a span lies.
    fn table(&self, number: u32) -> u64 {
        self.header.table + SPAN_SIZE * u64::from(number)
    }

    fn bad(&self, number: u32, what: &str) -> ReadError {
        self.file.corrupt(self.table(number), what)
    }

    fn place(&self, number: u32) -> Result<Place, ReadError> {
        let last = match self.spans().checked_sub(1) {
            Some(last) if number <= last => number == last,
            _ => {
                return Err(self
                    .file
                    .corrupt(0, format!("the layer has no span {number}")));
            }
        };
        let size = if last { SPAN_SIZE } else { 2 * SPAN_SIZE } as usize;
        let (this, next) = self.file.with(self.table(number), size, |bytes| {
            let next = bytes.get(SPAN_SIZE as usize..).unwrap_or(&[]);
            (span_of(bytes), (u64_at(next, 0), u64_at(next, 8)))
        })?;
        let (span, window) = this.ok_or_else(|| self.bad(number, "a point is not understood"))?;
        let (out_end, at_end) = if last {
            (self.tar_len(), self.blob_len())
        } else {
            next
        };
        let len = out_end.saturating_sub(span.out);
        let continued = span.kind == Kind::Continued;
        let fits = (1..=SPAN_MAX).contains(&len)
            && span.at <= at_end
            && at_end <= self.blob_len()
            && span.restart <= number
            && continued == (span.restart != number)
            && (number > 0 || span.out == 0);
        if !fits {
            return Err(self.bad(number, "a point contradicts its neighbour"));
        }
        Ok(Place {
            span,
            window,
            out_end,
            at_end,
        })
    }

    fn window(&self, number: u32, placed: Placed) -> Result<Vec<u8>, ReadError> {
        let len = usize::from(placed.len);
        if len > WINDOW || placed.packed > PACKED_MAX {
            return Err(self.bad(number, "a window is too long"));
        }
        let packed = placed.packed as usize;
        let window = self
            .file
            .with(placed.at, packed, |packed| window::unpack(packed, len))?;
        window.map_err(|what| self.file.corrupt(placed.at, what))
    }
}
