//! How a container goes.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::slice;

use super::record::{Record, Rootfs, directory, trash};
use super::repair::end_run;
use super::{ContainerError, Containers, entries, failed, unique_name};
use crate::backend::lower;
use crate::container_id::ContainerId;
use crate::mounts;
use crate::remove::{self, RemoveError};
use crate::store::StoreError;
use crate::store::containers::ContainerLock;
use crate::store::metrics::Counter;
use crate::store::named_lock::Hold;

/// Somebody mounts in what goes so often at most.
const ROUNDS: usize = 20;
/// Hexadecimal digits that tell things of one container in the trash from each other:
/// there is room for them in a file's name behind the longest name of a container.
const TRASH_DIGITS: usize = 12;

/// How names of what a container has in the trash begin. No container's name has a `=`.
fn trash_prefix(record: &Record) -> String {
    format!("{}=", record.id.file_name())
}

impl Containers<'_> {
    /// Destroys a container, those in it first. Waits for whoever works on them. One that goes with its run
    /// takes that along, and those around it that were only noted for what is in them. Files
    /// that are open and directories that somebody is in do not matter: whoever has
    /// them keeps them until he leaves. What a crash interrupts, another call finishes.
    ///
    /// # Errors
    /// No such container, or something of it stays; then it can be tried again.
    pub fn destroy(&self, id: &ContainerId) -> Result<(), ContainerError> {
        self.count_destroyed(self.destroy_now(id))
    }

    /// Counts what came of destroying one container.
    pub(super) fn count_destroyed(
        &self,
        outcome: Result<(), ContainerError>,
    ) -> Result<(), ContainerError> {
        match &outcome {
            Ok(()) => self.store.count(Counter::Destroys),
            Err(
                ContainerError::Unknown(_)
                | ContainerError::Strange { .. }
                | ContainerError::Interrupted,
            ) => {}
            Err(_) => self.store.count(Counter::RemoveContainerErrors),
        }
        outcome
    }

    fn destroy_now(&self, id: &ContainerId) -> Result<(), ContainerError> {
        let lock = self.lock(id, Hold::Alone)?;
        match self.store.container::<Record>(id) {
            Ok(Some(record)) => self.destroy_held(lock, record),
            Ok(None) if !self.store.damaged_containers()?.contains(id) => {
                self.store.forget_lock(lock)?;
                let directory = directory(self.rootfs_dir, id);
                Err(match fs::symlink_metadata(&directory) {
                    Ok(_) => ContainerError::Strange {
                        id: id.clone(),
                        directory,
                    },
                    Err(_) => ContainerError::Unknown(id.clone()),
                })
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

    pub(super) fn destroy_held(
        &self,
        lock: ContainerLock,
        mut record: Record,
    ) -> Result<(), ContainerError> {
        let id = record.id.clone();
        for child in self.children(&id)? {
            match self.destroy(&child) {
                // Somebody else was quicker.
                Ok(()) | Err(ContainerError::Unknown(_) | ContainerError::Strange { .. }) => {}
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
        // What goes with its run is destroyed by recovery whatever its record says, so nothing
        // has to be on the disk before or after.
        if !record.transient {
            if !self.note_if_room(&lock, &mut record)? {
                // There is room for it when its files are gone, or a moment later. What a crash interrupts until
                // then is lost, but not destroyed.
                self.clear_directory(&record)?;
                self.note_if_room(&lock, &mut record)?;
            }
            self.clear(&record)?;
            return Ok(self.store.remove_container(lock)?);
        }
        end_run(&record)?;
        if let Err(error) = self.clear(&record) {
            // Nobody adds to what is half gone. Its error is the one that counts.
            let _ = self.note_destroying(&lock, &mut record);
            return Err(error);
        }
        self.store.drop_container(lock)?;
        let mut above = id.parent();
        while let Some(id) = above {
            // This one is gone, whatever becomes of them: recovery forgets them, too.
            if let Err(error) = self.forget_if_empty(&id) {
                log::info!("`{id}` stays: {error}");
            }
            above = id.parent();
        }
        Ok(())
    }

    /// Notes that it is being destroyed; false where the disk is too full for that.
    fn note_if_room(
        &self,
        lock: &ContainerLock,
        record: &mut Record,
    ) -> Result<bool, ContainerError> {
        match self.note_destroying(lock, record) {
            Err(ContainerError::Store(StoreError::Full(..))) => Ok(false),
            noted => noted.map(|()| true),
        }
    }

    fn note_destroying(
        &self,
        lock: &ContainerLock,
        record: &mut Record,
    ) -> Result<(), ContainerError> {
        if !record.destroying {
            let noted = Record {
                destroying: true,
                ..record.clone()
            };
            self.store.write_container(lock, &noted)?;
            *record = noted;
        }
        Ok(())
    }

    /// Removes all that a container has but its record.
    fn clear(&self, record: &Record) -> Result<(), ContainerError> {
        let cleared = self.clear_directory(record);
        self.counted(&record.rootfses, cleared)?;
        for rootfs in &record.rootfses {
            self.counted(slice::from_ref(rootfs), self.release(rootfs))?;
        }
        Ok(())
    }

    /// Counts root file systems that could not be removed.
    fn counted(
        &self,
        rootfses: &[Rootfs],
        removed: Result<(), ContainerError>,
    ) -> Result<(), ContainerError> {
        if let Err(error) = &removed
            && !matches!(error, ContainerError::Interrupted)
        {
            let stay = rootfses.iter();
            let stay = stay.map(|rootfs| (Counter::RemoveRootfsErrors(rootfs.backend), 1));
            self.store.tally(&stay.collect::<Vec<_>>());
        }
        removed
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
        self.move_away(record, &record.directory())?;
        // Also what an earlier call has moved there, and not removed.
        for place in entries(&trash(&record.rootfs_dir))? {
            let name = place.file_name().unwrap_or_default().as_bytes();
            if name.starts_with(trash_prefix(record).as_bytes()) {
                self.empty(&place)?;
            }
        }
        Ok(())
    }

    /// Renames something of a container into the trash; where it is now. Nothing if it is
    /// not there.
    fn move_away(&self, record: &Record, path: &Path) -> Result<Option<PathBuf>, ContainerError> {
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(failed("read", path))?,
        };
        let trash = trash(&record.rootfs_dir);
        fs::create_dir_all(&trash).map_err(failed("create", &trash))?;
        let mut name = trash_prefix(record);
        name.push_str(&unique_name()?[..TRASH_DIGITS]);
        let to = trash.join(name);
        match fs::rename(path, &to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            other => other.map(|()| Some(to)).map_err(failed("rename", path)),
        }
    }

    /// Removes something from the trash with all mounts in it.
    pub(super) fn empty(&self, place: &Path) -> Result<(), ContainerError> {
        let mut rounds = 0;
        loop {
            mounts::detach_below(place)?;
            match remove::remove(place) {
                // A server whose starter was killed was on its way to the mount when the
                // directory got its name here.
                Err(RemoveError::Mounted(_)) if rounds < ROUNDS => rounds += 1,
                other => return Ok(other.map(drop)?),
            }
        }
    }

    /// Removes one rootfs of a container that stays.
    pub(super) fn dismantle(&self, record: &Record, rootfs: &Rootfs) -> Result<(), ContainerError> {
        self.counted(slice::from_ref(rootfs), self.take_down(record, rootfs))
    }

    fn take_down(&self, record: &Record, rootfs: &Rootfs) -> Result<(), ContainerError> {
        // First: the server that loses its changes does not bring them to the disk.
        let scratch = self.move_away(record, &record.scratch(rootfs))?;
        let path = record.path(rootfs);
        let mut rounds = 0;
        let files = loop {
            mounts::detach_below(&path)?;
            match self.move_away(record, &path) {
                // As in `empty`.
                Err(ContainerError::Io { source, .. })
                    if source.kind() == io::ErrorKind::ResourceBusy && rounds < ROUNDS =>
                {
                    rounds += 1;
                }
                other => break other?,
            }
        };
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
