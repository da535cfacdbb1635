//! What running processes need, so that nothing in use is swept.
//!
//! Rule: *pin first, look second*. A lease is a file in `leases/` that its
//! process keeps flocked; at kill -9 the lock goes by itself, and the file is
//! swept by the next gc. Pins are added under the store's short lock; gc reads
//! them under the same lock. A user who may only read the store pins nothing:
//! he keeps every file open that he needs, and an open file outlives its name.
//!
//! A lease has lines: a digest is a layer (diff ID), `image` and a digest an image.
//! A pinned image keeps all that its record names; its layers are pinned as well,
//! so that they stay also when the image is removed by force.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use rustix::fs::FlockOperation;

use super::{Store, StoreError, StoreLock, failed, gone_is_fine, read_small};
use crate::digest::{DiffId, ImageId};

/// What stands before the digest of an image.
const IMAGE: &str = "image ";

/// Pins of one process, until dropped.
#[derive(Debug)]
pub struct Lease {
    _file: File,
    path: PathBuf,
    /// Lines that are in the file already.
    pinned: Mutex<BTreeSet<String>>,
}

/// All that is in use.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pins {
    /// These stay, with their blobs.
    pub layers: BTreeSet<DiffId>,
    /// These stay, with all that they are made of.
    pub images: BTreeSet<ImageId>,
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

    /// Pins layers. From here on gc leaves them and their blobs alone.
    ///
    /// # Errors
    /// When the lease cannot be written.
    pub fn pin(&self, lease: &Lease, layers: &[DiffId]) -> Result<(), StoreError> {
        self.add_pins(lease, layers.iter().map(ToString::to_string))
    }

    /// Pins layers and images at once.
    ///
    /// # Errors
    /// When the lease cannot be written.
    pub fn pin_all(&self, lease: &Lease, pins: &Pins) -> Result<(), StoreError> {
        self.add_pins(lease, pins.lines())
    }

    /// Pins images. From here on they are not removed (but by force), nor what they
    /// are made of; whether they are still there is to be looked at afterwards.
    ///
    /// # Errors
    /// When the lease cannot be written.
    pub fn pin_images(&self, lease: &Lease, images: &[ImageId]) -> Result<(), StoreError> {
        self.add_pins(lease, images.iter().map(line_of))
    }

    fn add_pins(
        &self,
        lease: &Lease,
        lines: impl Iterator<Item = String>,
    ) -> Result<(), StoreError> {
        let mut pinned = lease.pinned.lock();
        let new: BTreeSet<String> = lines.filter(|line| !pinned.contains(line)).collect();
        if new.is_empty() {
            return Ok(());
        }
        let text: String = new.iter().map(|line| format!("{line}\n")).collect();
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
        pinned.extend(new);
        Ok(())
    }

    /// All that is in use: the one place that says so. Each kind of user adds his.
    ///
    /// # Errors
    /// When it cannot be read: then nothing may be removed.
    pub fn pins(&self, lock: &StoreLock) -> Result<Pins, StoreError> {
        let mut pins = Pins::default();
        self.pins_of_leases(&mut pins, lock)?;
        // After the leases: a container that is made has one until its record is written.
        let Pins { layers, images } = self.container_pins()?;
        pins.layers.extend(layers);
        pins.images.extend(images);
        Ok(pins)
    }

    /// What living leases pin: those of mounts, imports and pulls. Sweeps dead ones.
    fn pins_of_leases(&self, pins: &mut Pins, _lock: &StoreLock) -> Result<(), StoreError> {
        let directory = self.root().join("leases");
        for entry in fs::read_dir(&directory).map_err(failed("read", &directory))? {
            let path = entry.map_err(failed("read", &directory))?.path();
            // A lease may end while it is looked at: then its file is gone.
            if is_dead(&path)? {
                gone_is_fine(fs::remove_file(&path).map_err(failed("remove", &path)))?;
                continue;
            }
            let text = gone_is_fine(read_small(&path))?.unwrap_or_default();
            for line in String::from_utf8_lossy(&text).lines() {
                pins.add(line).ok_or_else(|| StoreError::Damaged {
                    path: path.clone(),
                    what: format!("`{line}` is not a pin"),
                })?;
            }
        }
        Ok(())
    }
}

/// How an image is pinned in a lease.
fn line_of(image: &ImageId) -> String {
    format!("{IMAGE}{image}")
}

impl Pins {
    /// As a lease has them.
    fn lines(&self) -> impl Iterator<Item = String> {
        let layers = self.layers.iter().map(ToString::to_string);
        layers.chain(self.images.iter().map(line_of))
    }

    /// What one line of a lease says; nothing when it says nothing.
    fn add(&mut self, line: &str) -> Option<()> {
        match line.strip_prefix(IMAGE) {
            Some(image) => self.images.insert(image.parse().ok()?),
            None => self.layers.insert(line.parse().ok()?),
        };
        Some(())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    #[test]
    fn a_lease_pins_layers_and_images_as_long_as_it_lives() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(&dir.path().join("store"), 0).unwrap();
        let (layer, image) = (Digest::sha256(b"layer"), Digest::sha256(b"image"));
        let lease = store.lease().unwrap().unwrap();
        store.pin(&lease, &[DiffId(layer)]).unwrap();
        store.pin_images(&lease, &[ImageId(image)]).unwrap();
        store.pin(&lease, &[DiffId(layer)]).unwrap();
        // Older programs write layers only, a digest on each line.
        let text = fs::read_to_string(&lease.path).unwrap();
        assert_eq!(text, format!("{layer}\nimage {image}\n"));
        let pins = || store.pins(&store.lock().unwrap()).unwrap();
        assert!(pins().layers.iter().eq(&[DiffId(layer)]));
        assert!(pins().images.iter().eq(&[ImageId(image)]));
        drop(lease);
        assert_eq!(pins(), Pins::default());
    }

    #[test]
    fn a_lease_that_cannot_be_understood_stops_whoever_would_remove() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(&dir.path().join("store"), 0).unwrap();
        let lease = store.lease().unwrap().unwrap();
        for line in ["image sha256:12", "volume x", "sha256:"] {
            fs::write(&lease.path, format!("{line}\n")).unwrap();
            let error = store.pins(&store.lock().unwrap()).unwrap_err();
            assert!(error.to_string().contains(line), "{error}");
        }
    }
}
