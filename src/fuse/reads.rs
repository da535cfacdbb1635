//! One read, answered.
//!
//! What it is for: a job of the pool. May assume: the tree checks the bytes that
//! it hands out. Must not know which thread it runs on.

use std::sync::Arc;

use fuser::ReplyData;

use super::image::Image;
use super::reports::Reports;
use crate::node::Ino;

/// Largest read the kernel may ask for: 256 pages, its own limit
/// (`fs.fuse.max_pages_limit`).
pub(super) const READ_MAX: u32 = 1 << 20;

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
        if buffer.len() < size {
            buffer.resize(size, 0);
        }
        let mut done = 0;
        // A short answer means the end of the file to the kernel, so a short
        // read is gone on with.
        while done < size {
            let at = self.offset.saturating_add(done as u64);
            match self.image.union.read(self.ino, at, &mut buffer[done..size]) {
                Ok(0) => break,
                Ok(more) => done += more,
                Err(error) => {
                    self.reply
                        .error(self.image.failed(reports, self.ino, None, &error));
                    return;
                }
            }
        }
        self.reply.data(buffer.get(..done).unwrap_or_default());
    }
}
