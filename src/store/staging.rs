//! Where an import makes its files before they are published.
//!
//! A staging directory is flocked by its process; one that nobody holds is left
//! over from a crash and is swept when the next one is made.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use super::leases::is_dead;
use super::{Store, StoreError, StoreLock, failed, private_directory, sync_directory};
use crate::remove::{self, Removed};

/// A directory of one import, removed when dropped.
#[derive(Debug)]
pub struct Staging {
    path: PathBuf,
    _lock: File,
}

impl Drop for Staging {
    fn drop(&mut self) {
        // What stays is unlocked, so the next import sweeps it.
        let _ = remove::remove(&self.path);
    }
}

/// One file that is ready to be published.
#[derive(Debug)]
pub struct Staged {
    /// Where it is now.
    pub from: PathBuf,
    /// Where it belongs.
    pub to: PathBuf,
}

/// How many files are flushed one by one; beyond, the whole file system is
/// (126 layers would be 500 journal commits).
const SINGLE_SYNCS: usize = 24;

impl Staging {
    /// A path for a new file in it.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Writes a small file into it.
    ///
    /// # Errors
    /// What the system says.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<PathBuf, StoreError> {
        let path = self.file(name);
        fs::write(&path, bytes).map_err(failed("write", &path))?;
        Ok(path)
    }

    /// Brings files to the disk. Slow, so it comes before the store is locked.
    ///
    /// # Errors
    /// What the system says.
    pub fn flush<'a>(
        &self,
        files: impl Iterator<Item = &'a Staged> + Clone,
    ) -> Result<(), StoreError> {
        if files.clone().count() > SINGLE_SYNCS {
            let dir = File::open(&self.path).map_err(failed("read", &self.path))?;
            rustix::fs::syncfs(&dir).map_err(|e| failed("sync", &self.path)(e.into()))?;
        } else {
            for staged in files {
                let file = File::open(&staged.from).map_err(failed("read", &staged.from))?;
                file.sync_data().map_err(failed("sync", &staged.from))?;
            }
        }
        Ok(())
    }

    /// Gives flushed files their names, in their order; all names are on disk
    /// before this returns. Under the lock: a sweep in between would find a blob
    /// that no record names yet, and take it away.
    ///
    /// # Errors
    /// What the system says; some may then have their names already.
    pub fn publish(&self, files: &[Staged], _lock: &StoreLock) -> Result<(), StoreError> {
        let mut directories = Vec::new();
        for staged in files {
            fs::rename(&staged.from, &staged.to).map_err(failed("rename", &staged.to))?;
            if let Some(parent) = staged.to.parent()
                && !directories.contains(&parent)
            {
                directories.push(parent);
            }
        }
        directories.into_iter().try_for_each(sync_directory)
    }
}

impl Store {
    /// A new staging directory; sweeps those whose process is gone.
    ///
    /// # Errors
    /// What the system says.
    pub fn stage(&self) -> Result<Staging, StoreError> {
        let directory = self.root().join("staging");
        let lock = self.lock()?;
        sweep(&directory)?;
        let made =
            private_directory(&directory, "import-").map_err(failed("create", &directory))?;
        let name = made.path().join("lock");
        let held = File::create(&name).and_then(|file| {
            rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
            Ok(file)
        });
        let held = held.map_err(failed("lock", &name))?;
        drop(lock);
        Ok(Staging {
            _lock: held,
            path: made.keep(),
        })
    }
}

impl Store {
    /// Removes what killed imports have left half-made.
    ///
    /// # Errors
    /// What the system says.
    pub fn sweep_staging(&self) -> Result<(), StoreError> {
        let _lock = self.lock()?;
        sweep(&self.root().join("staging")).map(|_| ())
    }
}

/// Removes staging directories that no process holds. The store's lock is held.
pub(crate) fn sweep(directory: &Path) -> Result<Removed, StoreError> {
    let mut swept = Removed::default();
    for path in left(directory)? {
        let removed = remove::remove(&path)?;
        swept.files += removed.files;
        swept.bytes += removed.bytes;
    }
    Ok(swept)
}

/// What no process holds of the staging directories. The store's lock is held.
pub(crate) fn left(directory: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let mut left = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed("read", directory))? {
        let entry = entry.map_err(failed("read", directory))?;
        let path = entry.path();
        let is_dir = entry.file_type().map_err(failed("read", &path))?.is_dir();
        // A plain file is a table of names that was not finished: those are
        // written under the lock that is held here.
        if !is_dir || is_dead(&path.join("lock"))? {
            left.push(path);
        }
    }
    Ok(left)
}
