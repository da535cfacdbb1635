//! What running processes need, so that nothing in use is swept.
//!
//! Rule: *pin first, look second*. A lease is a file in `leases/` that its
//! process keeps flocked; at kill -9 the lock goes by itself, and the file is
//! swept by the next gc. Pins are added under the store's short lock; gc reads
//! them under the same lock. A user who may only read the store pins nothing:
//! he keeps every file open that he needs, and an open file outlives its name.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use rustix::fs::FlockOperation;

use super::{Store, StoreError, StoreLock, failed, gone_is_fine, read_small};
use crate::digest::DiffId;

/// Pins of one process, until dropped.
#[derive(Debug)]
pub struct Lease {
    _file: File,
    path: PathBuf,
    /// What is in the file already.
    pinned: Mutex<BTreeSet<DiffId>>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        // A lease left behind is unlocked, so gc takes it for dead.
        let _ = fs::remove_file(&self.path);
    }
}

impl Store {
    /// A new lease without pins; nothing when this user may not write here.
    ///
    /// # Errors
    /// Failures other than missing permission.
    pub fn lease(&self) -> Result<Option<Lease>, StoreError> {
        let lock = match self.lock() {
            Ok(lock) => lock,
            Err(StoreError::ReadOnly(..)) => return Ok(None),
            Err(error) => return Err(error),
        };
        let directory = self.root().join("leases");
        let made = tempfile::Builder::new()
            .prefix("lease-")
            .tempfile_in(&directory);
        let (file, path) = made
            .map_err(failed("create", &directory))?
            .keep()
            .map_err(|error| failed("create", &directory)(error.error))?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
            .map_err(|error| failed("lock", &path)(error.into()))?;
        drop(lock);
        Ok(Some(Lease {
            _file: file,
            path,
            pinned: Mutex::default(),
        }))
    }

    /// Adds pins. From here on gc leaves these layers and their blobs alone.
    ///
    /// # Errors
    /// When the lease cannot be written.
    pub fn pin(&self, lease: &Lease, layers: &[DiffId]) -> Result<(), StoreError> {
        let mut pinned = lease.pinned.lock();
        let mut text = String::new();
        for layer in layers.iter().filter(|layer| !pinned.contains(layer)) {
            text.push_str(&layer.to_string());
            text.push('\n');
        }
        let lock = self.lock()?;
        let written = OpenOptions::new()
            .append(true)
            .open(&lease.path)
            .and_then(|mut file| {
                let before = file.metadata()?.len();
                // Half a line would be damage to those who read pins.
                file.write_all(text.as_bytes())
                    .inspect_err(|_| drop(file.set_len(before)))
            });
        drop(lock);
        written.map_err(failed("write", &lease.path))?;
        pinned.extend(layers);
        Ok(())
    }

    /// All layers that living leases and containers pin; sweeps dead leases.
    ///
    /// # Errors
    /// When leases cannot be read: then nothing may be removed.
    pub(crate) fn pinned(&self, _lock: &StoreLock) -> Result<BTreeSet<DiffId>, StoreError> {
        let directory = self.root().join("leases");
        let mut pins = self.container_pins()?;
        for entry in fs::read_dir(&directory).map_err(failed("read", &directory))? {
            let path = entry.map_err(failed("read", &directory))?.path();
            // A lease may end while it is looked at: then its file is gone.
            if is_dead(&path)? {
                gone_is_fine(fs::remove_file(&path).map_err(failed("remove", &path)))?;
                continue;
            }
            let text = gone_is_fine(read_small(&path))?.unwrap_or_default();
            for line in String::from_utf8_lossy(&text).lines() {
                pins.insert(line.parse().map_err(|_| StoreError::Damaged {
                    path: path.clone(),
                    what: format!("`{line}` is not a digest"),
                })?);
            }
        }
        Ok(pins)
    }
}

/// Whether nobody holds the lock of this file any more.
pub(crate) fn is_dead(path: &Path) -> Result<bool, StoreError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(failed("read", path)(error)),
    };
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(failed("lock", path)(error.into())),
    }
}
