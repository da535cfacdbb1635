//! Room on the disk for what was decoded.
//!
//! What it is for: copies of decoded bytes are to make reading faster, never to fill a disk. May assume:
//! all that lies in the directory may be removed at any time. Must not know what is in the files.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Three times as much as lies in a file stays free on its disk, whoever fills that.
const STAYS_FREE: u64 = 3;

/// Drops the files that were not used for the longest time, but for `own`, until `wanted` more
/// bytes fit below `quota`. Readers keep their files open, so none is disturbed.
///
/// # Errors
/// What the system says; there cannot be as much room.
pub(super) fn make_room(
    directory: &Path,
    wanted: u64,
    quota: u64,
    own: Option<&Path>,
) -> io::Result<()> {
    let too_much = || {
        Err(io::Error::other(format!(
            "{wanted} bytes do not fit the cache of {quota} bytes (--cache-size)"
        )))
    };
    if wanted > quota {
        return too_much();
    }
    // Others make room too: what they have removed is gone for us as well.
    let gone = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    let mut files = Vec::new();
    let mut total = wanted;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let meta = match entry.metadata() {
            Err(error) if gone(&error) => continue,
            other => other?,
        };
        let taken = taken(&meta);
        total += taken;
        if own != Some(&entry.path()) {
            files.push((meta.modified()?, taken, entry.path()));
        }
    }
    files.sort();
    for (_, taken, path) in files {
        if total <= quota {
            break;
        }
        match fs::remove_file(&path) {
            Err(error) if !gone(&error) => return Err(error),
            _ => total -= taken,
        }
    }
    if total > quota { too_much() } else { Ok(()) }
}

/// Refuses a file of so many bytes where the disk has become tight.
///
/// # Errors
/// `StorageFull`; what the system says.
pub(super) fn must_have_room(file: &File, bytes: u64) -> io::Result<()> {
    let disk = rustix::fs::fstatvfs(file)?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if free < bytes.saturating_mul(STAYS_FREE) {
        return Err(io::ErrorKind::StorageFull.into());
    }
    Ok(())
}

/// Bytes on the disk, of files with holes, too (stat(2): units of 512 bytes).
#[must_use]
pub fn taken(meta: &fs::Metadata) -> u64 {
    512 * meta.blocks()
}
