//! Contents of one upper file.
//!
//! What it is for: [`Data`] on an open file. May assume: it was opened for reading
//! and writing. Must not know names.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::io::Errno;

use super::reach::Opened;
use super::write_out;
use crate::union::upper::Data;

/// An open regular file.
impl Data for Opened {
    fn read_at(&self, offset: u64, to: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < to.len() {
            match self.file().read_at(&mut to[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(len) => done += len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // What was read before is right; the next read meets the error.
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn write_some(&self, offset: u64, from: &[u8]) -> io::Result<usize> {
        loop {
            match self.file().write_at(from, offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                done => return done,
            }
        }
    }

    fn allocate(&self, mode: i32, offset: u64, len: u64) -> io::Result<()> {
        let mode = FallocateFlags::from_bits_retain(mode.cast_unsigned());
        Ok(rustix::io::retry_on_intr(|| {
            rustix::fs::fallocate(self.file(), mode, offset, len)
        })?)
    }

    fn seek(&self, offset: u64, data: bool) -> io::Result<Option<u64>> {
        // Reads and writes all say where: nobody minds the position.
        let from = if data {
            SeekFrom::Data(offset)
        } else {
            SeekFrom::Hole(offset)
        };
        match rustix::fs::seek(self.file(), from) {
            Ok(at) => Ok(Some(at)),
            Err(Errno::NXIO) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn sync(&self, data_only: bool) -> io::Result<()> {
        if data_only {
            self.file().sync_data()
        } else {
            self.file().sync_all()
        }
    }

    fn begin_sync(&self, offset: u64, len: u64) {
        write_out::begin(self.file(), offset, len);
    }

    fn begin_sync_once(&self) {
        if self.first_begin() {
            write_out::begin(self.file(), 0, write_out::AT_ONCE);
        }
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.file().as_fd())
    }
}
