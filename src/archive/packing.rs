//! How an archive as a whole is compressed, and what is inside.

use std::fmt;
use std::io::{self, BufRead, Read};

use bzip2::bufread::MultiBzDecoder;
use flate2::bufread::MultiGzDecoder;
use liblzma::bufread::XzDecoder;
use liblzma::stream::{CONCATENATED, Stream};

use crate::layer::seek::{Compression, Sniffed};

/// Memory that a decoder of xz may take: the largest preset takes 65 MiB, and what
/// the header asks for must not be believed.
const XZ_MEMORY: u64 = 128 << 20;

/// A method of compression that can be read from the front.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// None.
    Plain,
    /// gzip, any number of members.
    Gzip,
    /// Zstandard, any number of frames.
    Zstd,
    /// bzip2, any number of streams.
    Bzip2,
    /// xz, any number of streams.
    Xz,
}

impl Packing {
    /// What a stream is by its beginning; nothing if it is no tar, compressed or not.
    #[must_use]
    pub fn of(sniffed: Sniffed) -> Option<Self> {
        match sniffed {
            Sniffed::Tar => Some(Self::Plain),
            Sniffed::Compressed(Compression::Plain) => Some(Self::Plain),
            Sniffed::Compressed(Compression::Gzip) => Some(Self::Gzip),
            Sniffed::Compressed(Compression::Zstd) => Some(Self::Zstd),
            Sniffed::Bzip2 => Some(Self::Bzip2),
            Sniffed::Xz => Some(Self::Xz),
            Sniffed::Empty | Sniffed::Json | Sniffed::Unknown => None,
        }
    }

    /// What people call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "nothing",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Bzip2 => "bzip2",
            Self::Xz => "xz",
        }
    }

    /// The plain bytes of a stream, decoded as they are read. A stream that is cut
    /// short is an error at its end.
    ///
    /// # Errors
    /// A decoder that cannot be made.
    pub fn unpack<R: BufRead>(self, from: R) -> io::Result<Unpacked<R>> {
        Ok(Unpacked(match self {
            Self::Plain => Decoder::Plain(from),
            Self::Gzip => Decoder::Gzip(MultiGzDecoder::new(from)),
            // Its window is at most 128 MiB, zstd's own default.
            Self::Zstd => Decoder::Zstd(zstd::stream::read::Decoder::with_buffer(from)?),
            Self::Bzip2 => Decoder::Bzip2(MultiBzDecoder::new(from)),
            Self::Xz => {
                let stream = Stream::new_stream_decoder(XZ_MEMORY, CONCATENATED)
                    .map_err(io::Error::other)?;
                Decoder::Xz(XzDecoder::new_stream(from, stream))
            }
        }))
    }
}

/// The plain bytes of a compressed stream.
pub struct Unpacked<R: BufRead>(Decoder<R>);

enum Decoder<R: BufRead> {
    Plain(R),
    Gzip(MultiGzDecoder<R>),
    Zstd(zstd::stream::read::Decoder<'static, R>),
    Bzip2(MultiBzDecoder<R>),
    Xz(XzDecoder<R>),
}

impl<R: BufRead> fmt::Debug for Unpacked<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Unpacked")
    }
}

impl<R: BufRead> Read for Unpacked<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            Decoder::Plain(from) => from.read(to),
            Decoder::Gzip(from) => from.read(to),
            Decoder::Zstd(from) => from.read(to),
            Decoder::Bzip2(from) => from.read(to),
            Decoder::Xz(from) => from.read(to),
        }
    }
}
