//! A stream that nothing can seek in, packed again so that everything can.
//!
//! What it is for: bzip2 and xz are read from the front only, so a layer in one of
//! them is kept as zstd in frames of a span each. What came is hashed on its way,
//! so that it can be compared with what an image says of it, and be recorded.

use std::cell::RefCell;
use std::io::{self, BufReader, Read};
use std::rc::Rc;

use zstd::bulk::Compressor;

use crate::archive::{Packing, Unpacked};
use crate::digest::{BlobId, Hasher};
use crate::layer::Limits;
use crate::layer::seek::{DecodeError, SPAN};
use crate::store::layers::Received;

/// zstd's own default: half a core's second for 100 MiB, and smaller than gzip.
const LEVEL: i32 = 3;
/// What is read of the stream at once.
const BUFFER: usize = 256 << 10;

/// The same bytes in frames of zstd, as a stream.
pub(super) struct Reframed<R: Read> {
    packing: Packing,
    plain: Unpacked<BufReader<Hashed<R>>>,
    limits: Limits,
    /// Bytes that were unpacked.
    made: u64,
    refused: Option<DecodeError>,
    passed: Rc<RefCell<Passed>>,
    compressor: Compressor<'static>,
    /// Plain bytes of the next frame.
    span: Vec<u8>,
    /// The frame that is handed out, and how much of it was.
    frame: Vec<u8>,
    at: usize,
}

/// What has passed of the stream as it came.
struct Passed {
    hasher: Hasher,
    len: u64,
    /// The stream could not be read, which is not its compression's fault.
    failed: bool,
}

/// The stream as it comes.
struct Hashed<R> {
    from: R,
    passed: Rc<RefCell<Passed>>,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let outcome = self.from.read(to);
        let mut passed = self.passed.borrow_mut();
        passed.failed |= outcome.is_err();
        let got = outcome?;
        passed.hasher.update(&to[..got]);
        passed.len += got as u64;
        Ok(got)
    }
}

impl<R: Read> Reframed<R> {
    /// The stream `from`, which is packed so and whose digest `hasher` makes. Limits are counted against what comes, as
    /// what is made of it is of our own packing.
    ///
    /// # Errors
    /// A decoder or encoder that cannot be made.
    pub(super) fn new(
        packing: Packing,
        from: R,
        hasher: Hasher,
        limits: Limits,
    ) -> io::Result<Self> {
        let passed = Rc::new(RefCell::new(Passed {
            hasher,
            len: 0,
            failed: false,
        }));
        let hashed = Hashed {
            from,
            passed: Rc::clone(&passed),
        };
        Ok(Self {
            packing,
            plain: packing.unpack(BufReader::with_capacity(BUFFER, hashed))?,
            limits,
            made: 0,
            refused: None,
            passed,
            compressor: Compressor::new(LEVEL)?,
            span: Vec::new(),
            frame: Vec::new(),
            at: 0,
        })
    }

    /// What came. To be asked when all was read.
    pub(super) fn received(&self) -> Received {
        let passed = self.passed.borrow();
        Received {
            blob: BlobId(passed.hasher.clone().finish()),
            size: passed.len,
        }
    }

    /// What is wrong with the stream, after reading has failed; nothing where it was
    /// the stream below that failed.
    pub(super) fn damage(&mut self, error: &io::Error) -> Option<DecodeError> {
        if self.refused.is_some() {
            return self.refused.take();
        }
        let passed = self.passed.borrow();
        (!passed.failed).then(|| DecodeError::Damaged {
            kind: self.packing.name(),
            at: passed.len,
            what: error.to_string(),
        })
    }

    fn next_frame(&mut self) -> io::Result<()> {
        self.span.clear();
        self.plain.by_ref().take(SPAN).read_to_end(&mut self.span)?;
        self.made += self.span.len() as u64;
        let taken = self.passed.borrow().len;
        if let Err(refused) = self.limits.unpacking(self.made, taken) {
            self.refused = Some(refused);
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.at = 0;
        self.frame = match self.span.is_empty() {
            true => Vec::new(),
            false => self.compressor.compress(&self.span)?,
        };
        Ok(())
    }
}

impl<R: Read> Read for Reframed<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if self.at == self.frame.len() {
            self.next_frame()?;
        }
        let left = &self.frame[self.at..];
        let got = left.len().min(to.len());
        to[..got].copy_from_slice(&left[..got]);
        self.at += got;
        Ok(got)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::digest::Digest;

    #[test]
    fn what_was_packed_otherwise_comes_out_as_zstd_and_is_told() {
        let data: Vec<u8> = (0..3 * SPAN / 2).map(|n| (n * n / 7) as u8).collect();
        let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        bzip2.write_all(&data).unwrap();
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
        xz.write_all(&data).unwrap();
        let all = [
            (Packing::Bzip2, bzip2.finish().unwrap()),
            (Packing::Xz, xz.finish().unwrap()),
        ];
        for (packing, packed) in all {
            let mut reframed =
                Reframed::new(packing, &packed[..], Hasher::default(), Limits::default()).unwrap();
            let mut frames = Vec::new();
            reframed.read_to_end(&mut frames).unwrap();
            assert_eq!(zstd::decode_all(&frames[..]).unwrap(), data);
            let received = reframed.received();
            let expected = (BlobId(Digest::sha256(&packed)), packed.len() as u64);
            assert_eq!((received.blob, received.size), expected);
            for len in [0, 1, 20, packed.len() / 2, packed.len() - 1] {
                let outcome = Reframed::new(
                    packing,
                    &packed[..len],
                    Hasher::default(),
                    Limits::default(),
                )
                .and_then(|mut cut| io::copy(&mut cut, &mut io::sink()));
                assert!(outcome.is_err(), "{packing:?} cut at {len}");
            }
        }
    }
}
