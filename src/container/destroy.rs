//! How a container goes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::record::{Record, Rootfs, trash};
use super::{ContainerError, Containers, failed, unique_name};
use crate::backend::lower;
use crate::container_id::ContainerId;
use crate::mounts;
use crate::remove;
use crate::store::StoreError;
use crate::store::containers::ContainerLock;
use crate::store::named_lock::Hold;

impl Containers<'_> {
    /// Destroys a container, those in it first. Waits for whoever works on them. Files
    /// that are open and directories that somebody is in do not matter: whoever has
    /// them keeps them until he leaves. What a crash interrupts, another call finishes.
    ///
    /// # Errors
    /// No such container, or something of it stays; then it can be tried again.
    pub fn destroy(&self, id: &ContainerId) -> Result<(), ContainerError> {
        let lock = self.lock(id, Hold::Alone)?;
        match self.store.container::<Record>(id) {
            Ok(Some(record)) => self.destroy_held(lock, record),
            Ok(None) if !self.store.damaged_containers()?.contains(id) => {
                self.store.forget_lock(lock)?;
                Err(ContainerError::Unknown(id.clone()))
            }
            // Its place is known without a record.
            Ok(None) | Err(StoreError::Damaged { .. }) => {
                let record = Record {
                    id: id.clone(),
                    rootfs_dir: self.own_directory()?,
                    created: 0,
                    destroying: true,
                    implicit: false,
                    transient: false,
                    hostname: None,
                    volumes: Vec::new(),
                    rootfses: Vec::new(),
                };
                self.destroy_held(lock, record)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn destroy_held(&self, lock: ContainerLock, mut record: Record) -> Result<(), ContainerError> {
        let id = record.id.clone();
        for child in self.children(&id)? {
            match self.destroy(&child) {
                // Somebody else was quicker.
                Ok(()) | Err(ContainerError::Unknown(_)) => {}
                Err(ContainerError::Interrupted) => return Err(ContainerError::Interrupted),
                Err(source) => {
                    return Err(ContainerError::Child {
                        id,
                        child,
                        source: Box::new(source),
                    });
                }
            }
        }
        if !record.destroying {
            record.destroying = true;
            self.store.write_container(&lock, &record)?;
        }
        self.clear_directory(&record)?;
        for rootfs in &record.rootfses {
            self.release(rootfs)?;
        }
        Ok(self.store.remove_container(lock)?)
    }

    /// Containers that are directly in another.
    fn children(&self, id: &ContainerId) -> Result<Vec<ContainerId>, ContainerError> {
        let mut children = self.store.container_ids()?;
        children.extend(self.store.damaged_containers()?);
        children.retain(|child| child.parent().as_ref() == Some(id));
        children.sort_unstable();
        children.dedup();
        Ok(children)
    }

    /// Removes a container's directory and all mounts in it.
    pub(super) fn clear_directory(&self, record: &Record) -> Result<(), ContainerError> {
        let directory = record.directory();
        if let Some(to) = self.move_away(&record.rootfs_dir, &directory)? {
            self.empty(&to)?;
        }
        Ok(())
    }

    /// Renames something into the trash; where it is now. Nothing if it is not there.
    fn move_away(&self, rootfs_dir: &Path, path: &Path) -> Result<Option<PathBuf>, ContainerError> {
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(failed("read", path))?,
        };
        let trash = trash(rootfs_dir);
        fs::create_dir_all(&trash).map_err(failed("create", &trash))?;
        let to = trash.join(unique_name()?);
        match fs::rename(path, &to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            other => other.map(|()| Some(to)).map_err(failed("rename", path)),
        }
    }

    /// Removes something from the trash with all mounts in it.
    pub(super) fn empty(&self, place: &Path) -> Result<(), ContainerError> {
        mounts::detach_below(place)?;
        remove::remove(place)?;
        Ok(())
    }

    /// Removes one rootfs of a container that stays.
    pub(super) fn dismantle(&self, record: &Record, rootfs: &Rootfs) -> Result<(), ContainerError> {
        // First: the server that loses its changes does not bring them to the disk.
        let scratch = self.move_away(&record.rootfs_dir, &record.scratch(rootfs))?;
        let path = record.path(rootfs);
        mounts::detach_below(&path)?;
        let files = self.move_away(&record.rootfs_dir, &path)?;
        for place in [scratch, files].into_iter().flatten() {
            self.empty(&place)?;
        }
        for path in [record.scratch(rootfs), record.path(rootfs)] {
            // `rootfses/`, the backend's directory, `backends/`: others may be in them.
            for above in path.ancestors().skip(1).take(3) {
                if fs::remove_dir(above).is_err() {
                    break;
                }
            }
        }
        self.release(rootfs)
    }

    /// The shared mount that a rootfs stood on may be the last one's.
    fn release(&self, rootfs: &Rootfs) -> Result<(), ContainerError> {
        if let Some(name) = &rootfs.lower {
            lower::release(self.store, name, self.stop)?;
        }
        Ok(())
    }

    /// Forgets a container that was only noted, if nothing is in it.
    pub(super) fn forget_if_empty(&self, id: &ContainerId) -> Result<(), ContainerError> {
        let Some(lock) = self.store.try_lock_container(id, Hold::Alone)? else {
            return Ok(());
        };
        let Some(record) = self.store.container::<Record>(id)? else {
            return Ok(self.store.forget_lock(lock)?);
        };
        let empty = record.implicit && record.rootfses.is_empty();
        if empty && self.children(id)?.is_empty() {
            self.clear_directory(&record)?;
            self.store.remove_container(lock)?;
        }
        Ok(())
    }
}
