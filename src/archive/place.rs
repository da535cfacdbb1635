//! Where the bytes of a file lie: a descriptor and a range of it.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// A range of an open file.
#[derive(Debug, Clone)]
pub struct Place {
    file: Arc<File>,
    offset: u64,
    len: u64,
}

impl Place {
    pub(super) fn new(file: Arc<File>, offset: u64, len: u64) -> Self {
        Self { file, offset, len }
    }

    /// The file that has it.
    #[must_use]
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Where it begins in that file.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Its length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Its bytes from the beginning; the file's own position is not used, so any
    /// number of readers can be at work.
    #[must_use]
    pub fn reader(&self) -> PlaceReader {
        PlaceReader {
            place: self.clone(),
            at: 0,
        }
    }

    /// All of its bytes.
    ///
    /// # Errors
    /// More than `limit`, or failure to read.
    pub fn whole(&self, limit: u64) -> io::Result<Vec<u8>> {
        let len = usize::try_from(self.len).ok().filter(|_| self.len <= limit);
        let mut bytes = vec![0; len.ok_or(io::ErrorKind::FileTooLarge)?];
        self.file.read_exact_at(&mut bytes, self.offset)?;
        Ok(bytes)
    }
}

/// Reads a [`Place`].
#[derive(Debug)]
pub struct PlaceReader {
    place: Place,
    at: u64,
}

impl Read for PlaceReader {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let left = self.place.len.saturating_sub(self.at);
        let most = usize::try_from(left).map_or(to.len(), |left| left.min(to.len()));
        if most == 0 {
            return Ok(0);
        }
        let from = self
            .place
            .offset
            .checked_add(self.at)
            .ok_or(io::ErrorKind::InvalidInput)?;
        let got = self.place.file.read_at(&mut to[..most], from)?;
        if got == 0 {
            // It was as long as this when it was opened.
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the file became shorter",
            ));
        }
        self.at += got as u64;
        Ok(got)
    }
}

impl Seek for PlaceReader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.place.len.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}
