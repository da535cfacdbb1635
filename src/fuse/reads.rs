//! One read, answered.
//!
//! What it is for: a job of the pool. May assume: the tree checks the bytes that
//! it hands out. Must not know which thread it runs on.

use std::sync::Arc;

use fuser::{Errno, ReplyData};

use super::image::Image;
use super::reports::Reports;
use crate::node::Ino;

/// Largest read that is answered: 256 pages, the kernel's own limit
/// (`fs.fuse.max_pages_limit`).
pub(super) const READ_MAX: u32 = 1 << 20;

/// So much the kernel is told to ask for in one read (`max_read`, kernel
/// Documentation/filesystems/fuse.rst): a span. What it reads ahead
/// are several then, which several threads decode at the same time.
pub(super) const READ_PIECE: u32 = 256 << 10;

/// A read of at most so much is short: small files, and single pages. Its buffer is made anew.
pub(super) const SHORT: u32 = 128 << 10;

/// A read to be answered by the pool.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) image: Arc<Image>,
    pub(super) ino: Ino,
    pub(super) offset: u64,
    pub(super) size: u32,
    pub(super) reply: ReplyData,
}

impl Read {
    /// Reads and answers; `buffer` is anybody's.
    pub(super) fn answer(self, buffer: &mut Vec<u8>, reports: &Reports) {
        let size = self.size.min(READ_MAX) as usize;
        let done = fill(buffer, size, self.offset, |at, to| {
            self.image.union.read(self.ino, at, to)
        });
        match done {
            Ok(done) => self.reply.data(buffer.get(..done).unwrap_or_default()),
            Err(error) => {
                self.reply
                    .error(self.image.failed(reports, self.ino, None, &error));
            }
        }
    }
}

/// Reads up to `size` bytes into `buffer`; how many there are. A short answer
/// means the end of the file to the kernel, so a short read is gone on with.
pub(super) fn fill<E>(
    buffer: &mut Vec<u8>,
    size: usize,
    offset: u64,
    mut read: impl FnMut(u64, &mut [u8]) -> Result<usize, E>,
) -> Result<usize, E> {
    if buffer.len() < size {
        buffer.resize(size, 0);
    }
    let mut done = 0;
    while done < size {
        let at = offset.saturating_add(done as u64);
        match read(at, &mut buffer[done..size])? {
            0 => break,
            more => done += more,
        }
    }
    Ok(done)
}

/// What an lseek(2) that the kernel passes on looks for: data (else: a hole), and
/// from where on.
pub(super) fn seek_from(offset: i64, whence: i32) -> Result<(bool, u64), Errno> {
    let data = match whence {
        libc::SEEK_DATA => true,
        libc::SEEK_HOLE => false,
        _ => return Err(Errno::EINVAL),
    };
    // lseek(2): ENXIO when the offset is beyond the end.
    let from = u64::try_from(offset).map_err(|_| Errno::ENXIO)?;
    Ok((data, from))
}
