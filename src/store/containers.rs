//! Records of containers: one file each.
//!
//! What it is for: keeping what somebody says of a container so that it survives
//! a crash at any moment, and what it pins, so that nothing it needs is swept. Must not
//! know what a container is: what is said of it is the caller's ([`Body`]).
//!
//! ```text
//! containers-v1/ID.json     the record; `+` stands for the `/` in a nested container's ID
//! containers-v1/ID.damaged  one that could not be read, put aside
//! containers-v1/ID.new      one that is being written
//! containers-v1/ID.lock     flocked by whoever works on the container
//! ```
//!
//! Rules: a record is replaced by rename, synced before and after. Whoever changes
//! it holds its lock. Who needs the locks of several containers takes the outer one
//! first. A lock file goes with its record; who was waiting for it notices that
//! its name is gone and begins again.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::leases::Pins;
use super::named_lock::{Hold, NamedLock};
use super::{Store, StoreError, failed, gone_is_fine, read_small, sync_directory};
use crate::container_id::ContainerId;
use crate::digest::{DiffId, Digest, ImageId};

/// Where records lie in the store.
const DIRECTORY: &str = "containers-v1";

/// What is said of a container.
pub trait Body: Serialize + DeserializeOwned {
    /// What must stay while the record is there.
    fn pins(&self) -> Pins;
}

/// The file: what is said, what it pins, and a check over both.
#[derive(serde::Serialize, serde::Deserialize)]
struct RecordFile {
    /// SHA-256 of the rest as compact JSON, keys sorted.
    check: Digest,
    #[serde(flatten)]
    checked: Checked,
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Checked {
    layers: BTreeSet<DiffId>,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    images: BTreeSet<ImageId>,
    container: Value,
}

impl Checked {
    /// Maps of [`Value`] are sorted, so the text is the same when it comes back.
    fn check(&self) -> serde_json::Result<Digest> {
        Ok(Digest::sha256(&serde_json::to_vec(self)?))
    }

    fn open(bytes: &[u8]) -> Result<Self, String> {
        let file: RecordFile = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        match file.checked.check() {
            Ok(check) if check == file.check => Ok(file.checked),
            _ => Err("the record fails its check".to_owned()),
        }
    }
}

/// A container's lock, held until dropped.
#[derive(Debug)]
pub struct ContainerLock {
    lock: NamedLock,
    id: ContainerId,
}

impl ContainerLock {
    /// Whose lock it is.
    #[must_use]
    pub fn id(&self) -> &ContainerId {
        &self.id
    }
}

impl Store {
    fn container_directory(&self) -> PathBuf {
        self.root().join(DIRECTORY)
    }

    /// Where a container's record lies.
    #[must_use]
    pub fn container_path(&self, id: &ContainerId) -> PathBuf {
        self.container_file(id, "json")
    }

    fn container_file(&self, id: &ContainerId, extension: &str) -> PathBuf {
        // Names have dots in them, so no `with_extension`.
        let name = format!("{}.{extension}", id.file_name());
        self.container_directory().join(name)
    }

    /// Containers with a record, sorted: each comes after the one that it is in.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn container_ids(&self) -> Result<Vec<ContainerId>, StoreError> {
        self.container_names(".json")
    }

    /// Containers whose record was put aside.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn damaged_containers(&self) -> Result<Vec<ContainerId>, StoreError> {
        self.container_names(".damaged")
    }

    fn container_names(&self, suffix: &str) -> Result<Vec<ContainerId>, StoreError> {
        let directory = self.container_directory();
        let entries = gone_is_fine(fs::read_dir(&directory).map_err(failed("read", &directory)))?;
        let mut ids = Vec::new();
        for entry in entries.into_iter().flatten() {
            let name = entry.map_err(failed("read", &directory))?.file_name();
            let id = name.to_str().and_then(|name| name.strip_suffix(suffix));
            ids.extend(id.and_then(ContainerId::of_file_name));
        }
        ids.sort_unstable();
        Ok(ids)
    }

    /// Locks a container, whether it has a record or not. Waits for those who work on
    /// it; `waits` is called once if that takes a moment. Nothing once `stop` is set.
    ///
    /// # Errors
    /// The lock file cannot be made.
    pub fn lock_container(
        &self,
        id: &ContainerId,
        how: Hold,
        stop: &AtomicBool,
        waits: &dyn Fn(),
    ) -> Result<Option<ContainerLock>, StoreError> {
        let lock = NamedLock::take(&self.lock_file(id)?, how, stop, waits)?;
        Ok(lock.map(|lock| ContainerLock {
            lock,
            id: id.clone(),
        }))
    }

    /// Locks a container if nobody works on it.
    ///
    /// # Errors
    /// The lock file cannot be made.
    pub fn try_lock_container(
        &self,
        id: &ContainerId,
        how: Hold,
    ) -> Result<Option<ContainerLock>, StoreError> {
        let lock = NamedLock::try_take(&self.lock_file(id)?, how)?;
        Ok(lock.map(|lock| ContainerLock {
            lock,
            id: id.clone(),
        }))
    }

    fn lock_file(&self, id: &ContainerId) -> Result<PathBuf, StoreError> {
        let directory = self.container_directory();
        fs::create_dir_all(&directory).map_err(failed("create", &directory))?;
        Ok(self.container_file(id, "lock"))
    }

    /// Whether a container has a record, sound or not.
    ///
    /// # Errors
    /// What the system says.
    pub fn has_container(&self, id: &ContainerId) -> Result<bool, StoreError> {
        super::present(&self.container_path(id))
    }

    /// What is said of a container; nothing if it has no record.
    ///
    /// # Errors
    /// A record that cannot be read or is not what it must be.
    pub fn container<B: Body>(&self, id: &ContainerId) -> Result<Option<B>, StoreError> {
        let path = self.container_path(id);
        let Some(checked) = read(&path)? else {
            return Ok(None);
        };
        let body = serde_json::from_value(checked.container);
        body.map(Some).map_err(|error| StoreError::Damaged {
            path,
            what: error.to_string(),
        })
    }

    /// Replaces what is said of a container; durable when this returns.
    ///
    /// # Errors
    /// What the system says; the old record is then still there.
    pub fn write_container<B: Body>(
        &self,
        lock: &ContainerLock,
        body: &B,
    ) -> Result<(), StoreError> {
        self.replace_container(lock, body)?;
        sync_directory(&self.container_directory())
    }

    /// The same, but after a loss of power it may be as it was before this call: for what no
    /// recovery asks.
    ///
    /// # Errors
    /// As [`Store::write_container`].
    pub fn replace_container<B: Body>(
        &self,
        lock: &ContainerLock,
        body: &B,
    ) -> Result<(), StoreError> {
        let path = self.container_path(lock.id());
        let wrong = |error: serde_json::Error| failed("write", &path)(error.into());
        let Pins { layers, images } = body.pins();
        let checked = Checked {
            layers,
            images,
            container: serde_json::to_value(body).map_err(wrong)?,
        };
        let file = RecordFile {
            check: checked.check().map_err(wrong)?,
            checked,
        };
        let text = serde_json::to_vec_pretty(&file).map_err(wrong)?;
        let new = self.container_file(lock.id(), "new");
        File::create(&new)
            .and_then(|mut file| file.write_all(&text).and_then(|()| file.sync_data()))
            .map_err(failed("write", &new))?;
        fs::rename(&new, &path).map_err(failed("rename", &new))
    }

    /// Removes the record, what was put aside of it, and the lock with it.
    ///
    /// # Errors
    /// What the system says.
    pub fn remove_container(&self, lock: ContainerLock) -> Result<(), StoreError> {
        self.unlink_container(&lock)?;
        sync_directory(&self.container_directory())?;
        self.forget_lock(lock)
    }

    /// The same, but after a loss of power the record may be there again: for one that
    /// recovery removes then.
    ///
    /// # Errors
    /// What the system says.
    pub fn drop_container(&self, lock: ContainerLock) -> Result<(), StoreError> {
        self.unlink_container(&lock)?;
        self.forget_lock(lock)
    }

    fn unlink_container(&self, lock: &ContainerLock) -> Result<(), StoreError> {
        for extension in ["json", "damaged", "new"] {
            let path = self.container_file(lock.id(), extension);
            gone_is_fine(fs::remove_file(&path).map_err(failed("remove", &path)))?;
        }
        Ok(())
    }

    /// Removes the lock file of a container that has no record.
    ///
    /// # Errors
    /// What the system says.
    pub fn forget_lock(&self, lock: ContainerLock) -> Result<(), StoreError> {
        lock.lock.remove()
    }

    /// Puts a damaged record aside, so that it stops nobody; where it is now.
    ///
    /// # Errors
    /// What the system says.
    pub fn put_container_aside(&self, lock: &ContainerLock) -> Result<PathBuf, StoreError> {
        let path = self.container_path(lock.id());
        let aside = self.container_file(lock.id(), "damaged");
        fs::rename(&path, &aside).map_err(failed("rename", &path))?;
        sync_directory(&self.container_directory())?;
        Ok(aside)
    }

    /// Removes what killed processes left: half-written records, and locks of containers
    /// that have none. How many files.
    ///
    /// # Errors
    /// What the system says.
    pub fn sweep_containers(&self) -> Result<u64, StoreError> {
        let mut swept = 0;
        let mut left: BTreeSet<ContainerId> = BTreeSet::new();
        left.extend(self.container_names(".new")?);
        left.extend(self.container_names(".lock")?);
        for id in left {
            // Whoever holds it is writing.
            let Some(lock) = self.try_lock_container(&id, Hold::Alone)? else {
                continue;
            };
            let new = self.container_file(&id, "new");
            let removed = fs::remove_file(&new).map_err(failed("remove", &new));
            swept += u64::from(gone_is_fine(removed)?.is_some());
            let named = ["json", "damaged"].map(|extension| self.container_file(&id, extension));
            if !super::present(&named[0])? && !super::present(&named[1])? {
                self.forget_lock(lock)?;
                swept += 1;
            }
        }
        Ok(swept)
    }

    /// What records of containers pin.
    ///
    /// # Errors
    /// A damaged record: what it needs cannot be known, so nothing may be removed.
    pub(super) fn container_pins(&self) -> Result<Pins, StoreError> {
        let mut pins = Pins::default();
        for id in self.container_ids()? {
            // Nothing: removed meanwhile.
            if let Some(checked) = read(&self.container_path(&id))? {
                pins.layers.extend(checked.layers);
                pins.images.extend(checked.images);
            }
        }
        Ok(pins)
    }
}

/// Whether a file is the record of a container.
pub(super) fn is_record(path: &Path) -> bool {
    path.parent().is_some_and(|dir| dir.ends_with(DIRECTORY))
}

fn read(path: &Path) -> Result<Option<Checked>, StoreError> {
    let Some(bytes) = gone_is_fine(read_small(path))? else {
        return Ok(None);
    };
    Checked::open(&bytes)
        .map(Some)
        .map_err(|what| StoreError::Damaged {
            path: path.to_owned(),
            what,
        })
}
