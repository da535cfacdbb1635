//! Sending what was written to the disk, without waiting for it to arrive.
//!
//! What it is for: a later fsync(2) waits less, and on a file system that gives files
//! their blocks as late as it can (ext4, XFS) many files get theirs in one transaction of the
//! journal instead of one each. Must not know why.

#![expect(unsafe_code, reason = "no crate wraps sync_file_range(2)")]

use std::fs::File;
use std::os::fd::AsRawFd as _;

/// So many bytes are sent in passing: where the disk has more to do than it can queue, whoever sends
/// has to wait until there is room.
pub(super) const AT_ONCE: u64 = 4 << 20;

/// Begins to write out what was written there. Only a hint: where it cannot be followed,
/// fsync(2) has more to do.
pub(super) fn begin(file: &File, offset: u64, len: u64) {
    let (Ok(offset), Ok(len)) = (i64::try_from(offset), i64::try_from(len)) else {
        return;
    };
    // SAFETY: the descriptor is open for as long as `file` lives, and nothing else is passed
    // but numbers.
    unsafe {
        libc::sync_file_range(file.as_raw_fd(), offset, len, libc::SYNC_FILE_RANGE_WRITE);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::super::reach::Opened;
    use super::*;

    /// `struct cachestat` (linux/mman.h): pages in the cache, dirty ones, those on their way to
    /// the disk, evicted ones, recently evicted ones.
    fn cached(file: &File) -> Option<[u64; 5]> {
        const CACHESTAT: libc::c_long = 451;
        let (range, mut found) = ([0_u64, 0], [0_u64; 5]);
        // SAFETY: both are as large as the kernel's structures, and live longer than the call.
        let done = unsafe {
            let (range, found) = (range.as_ptr(), found.as_mut_ptr());
            libc::syscall(CACHESTAT, file.as_raw_fd(), range, found, 0)
        };
        (done == 0).then_some(found)
    }

    #[test]
    #[expect(clippy::print_stdout, reason = "skips are told")]
    fn what_was_written_is_sent_to_the_disk_and_stays_in_memory() {
        let dirty = || {
            let mut file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).ok()?;
            file.write_all(&[1; 1 << 20]).ok()?;
            let found = cached(&file).filter(|found| found[1] > 0)?;
            Some((file, found))
        };
        let Some((file, [before, ..])) = dirty() else {
            println!("SKIPPED: needs cachestat(2), and a file system that writes later");
            return;
        };
        begin(&file, 0, AT_ONCE);
        let [after, dirty, ..] = cached(&file).unwrap();
        assert_eq!((after, dirty), (before, 0));
    }

    #[test]
    fn who_writes_again_and_again_has_it_sent_once() {
        let opened = Opened::whole(tempfile::tempfile().unwrap().into());
        assert!(opened.first_begin());
        assert!(!opened.first_begin());
    }
}
