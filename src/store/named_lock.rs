//! A lock that a file's name stands for.
//!
//! It goes by itself with its process. The file can be removed by whoever has it alone;
//! who was waiting for it notices that its name is gone and begins again, so no
//! two processes ever believe to have the same lock.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::{StoreError, failed, gone_is_fine, lock_options};

/// Between two looks at a lock that another process has.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// How a lock is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// Nobody else has it.
    Alone,
    /// Others may have it likewise.
    Shared,
}

/// A lock, held until dropped.
#[derive(Debug)]
pub struct NamedLock {
    file: File,
    path: PathBuf,
}

impl NamedLock {
    /// Takes the lock if nobody has it otherwise. The file is made where there is none.
    ///
    /// # Errors
    /// What the system says.
    pub fn try_take(path: &Path, how: Hold) -> Result<Option<Self>, StoreError> {
        let operation = match how {
            Hold::Alone => FlockOperation::NonBlockingLockExclusive,
            Hold::Shared => FlockOperation::NonBlockingLockShared,
        };
        loop {
            let file = lock_options().open(path).map_err(failed("write", path))?;
            match rustix::fs::flock(&file, operation) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(error) => return Err(failed("lock", path)(error.into())),
            }
            // Removed between open and lock: a newcomer would lock another file.
            if file.metadata().map_err(failed("read", path))?.nlink() > 0 {
                let path = path.to_owned();
                return Ok(Some(Self { file, path }));
            }
        }
    }

    /// Takes the lock; `waits` is called once if that takes a moment. Nothing once
    /// `stop` is set.
    ///
    /// # Errors
    /// What the system says.
    pub fn take(
        path: &Path,
        how: Hold,
        stop: &AtomicBool,
        waits: &dyn Fn(),
    ) -> Result<Option<Self>, StoreError> {
        let mut told = false;
        loop {
            if let Some(lock) = Self::try_take(path, how)? {
                return Ok(Some(lock));
            }
            if stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            if !told {
                waits();
                told = true;
            }
            thread::sleep(LOOK_AGAIN);
        }
    }

    /// Removes the file, and lets the lock go. Whoever calls has it alone.
    ///
    /// # Errors
    /// What the system says.
    pub fn remove(self) -> Result<(), StoreError> {
        let removed = fs::remove_file(&self.path).map_err(failed("remove", &self.path));
        let outcome = gone_is_fine(removed);
        drop(self.file);
        outcome.map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(path: &Path, how: Hold) -> Option<NamedLock> {
        NamedLock::try_take(path, how).unwrap()
    }

    #[test]
    fn who_does_not_own_a_lock_cannot_have_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        take(&path, Hold::Shared).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o077, 0);
    }

    #[test]
    fn a_lock_is_had_alone_or_shared() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let alone = take(&path, Hold::Alone).unwrap();
        assert!(take(&path, Hold::Shared).is_none());
        drop(alone);
        let shared = take(&path, Hold::Shared).unwrap();
        assert!(take(&path, Hold::Shared).is_some());
        assert!(take(&path, Hold::Alone).is_none());
        drop(shared);
        take(&path, Hold::Alone).unwrap().remove().unwrap();
        assert!(!path.is_file());
    }

    #[test]
    fn who_waits_for_a_lock_that_is_removed_takes_the_next_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let (stop, inside) = (AtomicBool::new(false), AtomicBool::new(false));
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let lock = NamedLock::take(&path, Hold::Alone, &stop, &|| ());
                        let lock = lock.unwrap().unwrap();
                        assert!(!inside.swap(true, Ordering::SeqCst));
                        inside.store(false, Ordering::SeqCst);
                        lock.remove().unwrap();
                    }
                });
            }
        });
        stop.store(true, Ordering::Relaxed);
        let lock = take(&path, Hold::Alone);
        assert!(
            NamedLock::take(&path, Hold::Alone, &stop, &|| ())
                .unwrap()
                .is_none()
        );
        drop(lock);
    }
}
