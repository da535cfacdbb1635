//! Removing trees from the work directory.
//!
//! What it is for: leftovers of a killed process, of kernel overlayfs, and removed
//! directories with whiteouts in them. Follows nothing, crosses no mount, needs
//! neither recursion nor long paths: subdirectories are moved up and removed from
//! there. May assume: nobody else uses the directory. Must not know what it removes.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, FileType, OFlags, RawDir, RenameFlags};
use rustix::io::Errno;

use super::reach;

/// Bytes that one getdents(2) fills at most.
const LISTING: usize = 32 * 1024;

/// A name that was not given before by this counter.
pub(super) fn temporary(counter: &AtomicU64) -> String {
    format!("#{:x}", counter.fetch_add(1, Ordering::Relaxed))
}

/// Calls `visit` with name, type and inode number of everything in an open directory.
///
/// # Errors
/// As getdents(2), or what `visit` says.
pub(super) fn list(
    dir: &OwnedFd,
    mut visit: impl FnMut(&[u8], FileType, u64) -> io::Result<()>,
) -> io::Result<()> {
    let mut buffer = vec![MaybeUninit::uninit(); LISTING];
    let mut entries = RawDir::new(dir, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            visit(name, entry.file_type(), entry.ino())?;
        }
    }
    Ok(())
}

/// Removes everything that is in a directory.
///
/// # Errors
/// As openat2(2), unlink(2), rename(2); EXDEV: something is mounted in it.
pub(super) fn clear(dir: &OwnedFd, counter: &AtomicU64) -> io::Result<()> {
    // What is moved up while it is listed is met by a later round.
    loop {
        let names = all_names(dir)?;
        if names.is_empty() {
            return Ok(());
        }
        for name in names {
            remove_one(dir, &name, counter)?;
        }
        rustix::fs::seek(dir, rustix::fs::SeekFrom::Start(0))?;
    }
}

/// Removes a tree that has a name in a directory.
///
/// # Errors
/// As for [`clear`].
pub(super) fn remove(dir: impl AsFd, name: &[u8], counter: &AtomicU64) -> io::Result<()> {
    let mut left = vec![name.to_vec()];
    while let Some(name) = left.pop() {
        left.extend(remove_one(&dir, &name, counter)?);
    }
    Ok(())
}

/// Removes one thing; returns the names that its subdirectories were moved to.
fn remove_one(dir: impl AsFd, name: &[u8], counter: &AtomicU64) -> io::Result<Vec<Vec<u8>>> {
    match rustix::fs::unlinkat(&dir, name, AtFlags::empty()) {
        Ok(()) => return Ok(Vec::new()),
        Err(Errno::ISDIR) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let inside = reach::open_at(&dir, name, flags)?;
    let mut moved = Vec::new();
    for name in all_names(&inside)? {
        match rustix::fs::unlinkat(&inside, &name, AtFlags::empty()) {
            Ok(()) => {}
            Err(Errno::ISDIR) => moved.push(move_up(&inside, &name, &dir, counter)?),
            Err(error) => return Err(error.into()),
        }
    }
    rustix::fs::unlinkat(&dir, name, AtFlags::REMOVEDIR)?;
    Ok(moved)
}

/// Moves a directory from one to another under a name that is free there.
fn move_up(from: &OwnedFd, name: &[u8], to: impl AsFd, counter: &AtomicU64) -> io::Result<Vec<u8>> {
    loop {
        let free = temporary(counter);
        match rustix::fs::renameat_with(from, name, &to, &free, RenameFlags::NOREPLACE) {
            Ok(()) => return Ok(free.into_bytes()),
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn all_names(dir: &OwnedFd) -> io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    list(dir, |name, _, _| {
        names.push(name.to_vec());
        Ok(())
    })?;
    Ok(names)
}
