//! Files that are being fetched, in a directory that many share.
//!
//! What it is for: a part of a file stays when its transfer is cut, and who goes on
//! with it holds its lock. `NAME.part` is what came so far, `NAME.json` what it is a
//! part of where the name does not say it, `NAME.lock` who fetches something. Must not
//! know what the bytes are.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::FetchError;

/// Parts that nobody touched for this long are removed.
pub(crate) const FORGOTTEN: Duration = Duration::from_secs(7 * 24 * 3600);

/// Removes the parts in a directory that are kept for the next time, but for those
/// that are being fetched; how many there were, and their bytes.
///
/// # Errors
/// What the system says.
pub fn remove_all(dir: &Path) -> io::Result<(u64, u64)> {
    remove_parts(dir, Duration::ZERO)
}

/// What [`remove_all`] would remove: how many parts there are, and their bytes.
///
/// # Errors
/// What the system says.
pub fn count(dir: &Path) -> io::Result<(u64, u64)> {
    visit_parts(dir, Duration::ZERO, &mut |_| Ok(()))
}

/// The file at a path, locked; nothing where somebody else has it. What is locked is
/// what has the name: whoever finished in between took the name of the file away that
/// was opened, and two would then write one mark.
pub(crate) fn locked(path: &Path, create: bool) -> io::Result<Option<File>> {
    loop {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(create)
            .truncate(false)
            .open(path)?;
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(None);
        }
        let (ours, named) = (file.metadata()?, fs::metadata(path));
        if named.is_ok_and(|named| (named.dev(), named.ino()) == (ours.dev(), ours.ino())) {
            return Ok(Some(file));
        }
    }
}

/// Whether somebody has the lock of such a file, which is left as it is.
pub(crate) fn is_held(file: &File) -> bool {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockShared) {
        Err(error) => error == Errno::WOULDBLOCK,
        Ok(()) => {
            // It goes with the file at the latest.
            let _ = rustix::fs::flock(file, FlockOperation::Unlock);
            false
        }
    }
}

/// Removes parts of files in `dir` (and locks of those who fetch) that nobody is fetching
/// and that were not touched for `age`; how many there were and their bytes.
///
/// # Errors
/// What the system says; a directory that is not there has no parts.
pub(crate) fn remove_parts(dir: &Path, age: Duration) -> io::Result<(u64, u64)> {
    visit_parts(dir, age, &mut |path| {
        remove_name(&path.with_extension("json"))?;
        remove_name(path)
    })
}

/// Shows such parts one by one, locked; how many there are, and their bytes.
pub(crate) fn visit_parts(
    dir: &Path,
    age: Duration,
    each: &mut dyn FnMut(&Path) -> io::Result<()>,
) -> io::Result<(u64, u64)> {
    let (mut files, mut bytes) = (0, 0);
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((0, 0)),
        other => other?,
    };
    for entry in entries {
        let path = entry?.path();
        if path
            .extension()
            .is_none_or(|kind| kind != "part" && kind != "lock")
        {
            continue;
        }
        let file = match locked(&path, false) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        };
        let Some(data) = file.as_ref().map(File::metadata).transpose()? else {
            continue;
        };
        // A clock that was put back makes nothing old.
        let untouched = data.modified()?.elapsed().unwrap_or_default();
        if untouched >= age {
            each(&path)?;
            files += 1;
            bytes += data.len();
        }
    }
    Ok((files, bytes))
}

/// Takes a name away; one that is not there is none.
pub(crate) fn remove_name(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// An error at a file.
pub(crate) fn failed(path: &Path) -> impl FnOnce(io::Error) -> FetchError + use<'_> {
    move |source| FetchError::File {
        path: path.display().to_string(),
        source,
    }
}
