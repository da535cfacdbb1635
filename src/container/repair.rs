//! Doing what the plan says.
//!
//! Each action locks its container and looks again: whoever works on it at this moment
//! is left alone, and a plan that has become old does no harm.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::record::{Record, Rootfs, trash};
use super::recover::{Action, Facts, Server, Why, is_going, plan};
use super::{ContainerError, Containers, entries, failed};
use crate::backend::Kind;
use crate::backend::hold::{holder, is_elsewhere};
use crate::backend::lower;
use crate::container_id::ContainerId;
use crate::mounts;
use crate::store::StoreError;
use crate::store::containers::ContainerLock;
use crate::store::named_lock::Hold;

/// A killed process is gone within this; it takes milliseconds.
const GONE: Duration = Duration::from_secs(10);

/// What became of an action.
#[derive(Debug)]
pub struct Done {
    /// What was to be done.
    pub action: Action,
    /// Whether it was; nothing: somebody works on the container, or has done it.
    pub outcome: Result<Option<()>, ContainerError>,
}

impl Containers<'_> {
    /// What is to be done: see [`plan`]. Nothing is changed, and nothing is asked of a
    /// mount that may be dead.
    ///
    /// # Errors
    /// Records, mount table or directories cannot be read.
    pub fn plan(
        &self,
        known: Option<&BTreeSet<ContainerId>>,
    ) -> Result<Vec<Action>, ContainerError> {
        Ok(plan(&self.facts()?, known))
    }

    /// Does it, and goes on after a failure.
    pub fn repair(&self, actions: Vec<Action>) -> Vec<Done> {
        let doing = |action: Action| Done {
            outcome: self.apply(&action),
            action,
        };
        actions.into_iter().map(doing).collect()
    }

    fn facts(&self) -> Result<Facts, ContainerError> {
        let mut facts = Facts::default();
        for (id, record) in self.all()? {
            match record {
                Ok(record) => facts.records.push(record),
                Err(StoreError::Damaged { .. }) => facts.damaged.push(id),
                Err(error) => return Err(error.into()),
            }
        }
        facts.aside = self.store.damaged_containers()?;
        // After the records: a mount that is missing is missing for one of them.
        facts.mounts = mounts::all()?;
        for record in &facts.records {
            if is_running(record)? {
                facts.running.insert(record.id.clone());
            }
            for rootfs in record.rootfses.iter().filter(|rootfs| rootfs.ready) {
                if rootfs.backend == Kind::Fuse
                    && let Some(server) = server(record, rootfs)?
                {
                    facts.servers.insert(rootfs.name.clone(), server);
                }
                let place = match rootfs.has_upper() {
                    true => record.scratch(rootfs).join("upper"),
                    // Never a mount of ours: files that were written.
                    false if rootfs.backend == Kind::Copy => record.path(rootfs),
                    false => continue,
                };
                if is_directory(&place)? {
                    facts.kept.insert(rootfs.name.clone());
                }
            }
        }
        facts.lowers = lower::all(self.store, &facts.mounts)?;
        // As the mount table names it. Where there is none yet, there is no trash.
        let own = mounts::resolve(self.rootfs_dir).ok();
        let mut places: BTreeSet<PathBuf> = own.into_iter().collect();
        for place in &places {
            facts.strange.extend(self.strange(place)?);
        }
        places.extend(facts.records.iter().map(|record| record.rootfs_dir.clone()));
        let trash: BTreeSet<PathBuf> = places.iter().map(|place| trash(place)).collect();
        for place in trash {
            facts.trash.extend(entries(&place)?);
        }
        Ok(facts)
    }

    /// Directories that could be containers' and that no record knows, in a place of containers.
    fn strange(&self, rootfs_dir: &Path) -> Result<Vec<PathBuf>, ContainerError> {
        let aside = self.store.damaged_containers()?;
        let mut strange = Vec::new();
        for place in entries(rootfs_dir)? {
            let id = place.file_name().and_then(|name| name.to_str());
            let Some(id) = id.and_then(|name| name.parse::<ContainerId>().ok()) else {
                continue;
            };
            // In this order: who makes one writes the record first, who destroys one removes it last.
            if !aside.contains(&id) && !self.store.has_container(&id)? && is_directory(&place)? {
                strange.push(place);
            }
        }
        Ok(strange)
    }

    fn apply(&self, action: &Action) -> Result<Option<()>, ContainerError> {
        match action {
            Action::PutAside { id } => self.put_aside(id),
            Action::Destroy { id, why } => self.destroy_planned(id, *why),
            Action::Drop { id, rootfs } => self.drop_rootfs(id, rootfs),
            Action::Remount { id, rootfs } => self.remount(id, rootfs),
            Action::Lost { .. }
            | Action::Elsewhere { .. }
            | Action::Running { .. }
            | Action::Strange { .. } => Ok(None),
            Action::DropLower { name } => {
                let gone = lower::release(self.store, name, self.stop)?;
                Ok(gone.then_some(()))
            }
            Action::Empty { place } => self.empty(place).map(Some),
        }
    }

    /// The lock of a container that nobody works on.
    fn free(&self, id: &ContainerId) -> Result<Option<ContainerLock>, ContainerError> {
        Ok(self.store.try_lock_container(id, Hold::Alone)?)
    }

    /// Who was at work when the plan was made may have finished since.
    fn destroy_planned(&self, id: &ContainerId, why: Why) -> Result<Option<()>, ContainerError> {
        let Some(lock) = self.free(id)? else {
            return Ok(None);
        };
        let Some(record) = self.store.container::<Record>(id)? else {
            self.store.forget_lock(lock)?;
            return Ok(None);
        };
        if why != Why::Orphan && !is_going(&self.facts_within(id)?, id) {
            return Ok(None);
        }
        self.count_destroyed(self.destroy_held(lock, record))
            .map(Some)
    }

    /// The records of a container and of those in it. While it is locked, none comes.
    fn facts_within(&self, id: &ContainerId) -> Result<Facts, ContainerError> {
        let within = |other: &ContainerId| other == id || other.ancestors().contains(id);
        let mut facts = Facts::default();
        for other in self.store.container_ids()?.into_iter().filter(within) {
            match self.store.container(&other) {
                Ok(record) => facts.records.extend(record),
                Err(StoreError::Damaged { .. }) => facts.damaged.push(other),
                Err(error) => return Err(error.into()),
            }
        }
        for record in &facts.records {
            if is_running(record)? {
                facts.running.insert(record.id.clone());
            }
        }
        facts.aside = self.store.damaged_containers()?;
        facts.aside.retain(within);
        Ok(facts)
    }

    fn put_aside(&self, id: &ContainerId) -> Result<Option<()>, ContainerError> {
        let Some(lock) = self.free(id)? else {
            return Ok(None);
        };
        match self.store.container::<Record>(id) {
            Err(StoreError::Damaged { .. }) => {
                self.store.put_container_aside(&lock)?;
                Ok(Some(()))
            }
            other => Ok(other.map(|_| None)?),
        }
    }

    /// A container, locked, and the place of one of its root file systems in the record.
    fn hold(
        &self,
        id: &ContainerId,
        rootfs: &str,
    ) -> Result<Option<(ContainerLock, Record, usize)>, ContainerError> {
        let Some(lock) = self.free(id)? else {
            return Ok(None);
        };
        let Some(record) = self.store.container::<Record>(id)? else {
            self.store.forget_lock(lock)?;
            return Ok(None);
        };
        let number = record.rootfses.iter().position(|one| one.name == rootfs);
        Ok(number
            .filter(|_| !record.destroying)
            .map(|number| (lock, record, number)))
    }

    fn drop_rootfs(&self, id: &ContainerId, rootfs: &str) -> Result<Option<()>, ContainerError> {
        let Some((lock, mut record, number)) = self.hold(id, rootfs)? else {
            return Ok(None);
        };
        if record.rootfses[number].ready {
            return Ok(None);
        }
        self.dismantle(&record, &record.rootfses[number])?;
        record.rootfses.remove(number);
        self.store.write_container(&lock, &record)?;
        Ok(Some(()))
    }

    fn remount(&self, id: &ContainerId, rootfs: &str) -> Result<Option<()>, ContainerError> {
        let Some((lock, mut record, number)) = self.hold(id, rootfs)? else {
            return Ok(None);
        };
        let one = &record.rootfses[number];
        let path = record.path(one);
        if one.has_upper() && !is_directory(&record.scratch(one).join("upper"))? {
            return Err(ContainerError::Lost(path));
        }
        if let Some(server) = server(&record, one)? {
            if server.elsewhere || server.pid == 0 {
                return Ok(None);
            }
            let mount = mounts::mount_at(&path).ok().flatten();
            if mount.is_some_and(|mount| mount.is_ours()) {
                return Ok(None);
            }
            // Its mount was undone while somebody was inside, so it has not ended yet.
            end(&record.scratch(one).join("server"))?;
        }
        mounts::detach_below(&path)?;
        let before = record.clone();
        self.make(&mut record, number, &mut |_, _| ())
            .map_err(|source| ContainerError::Backend {
                id: id.clone(),
                image: record.rootfses[number].title.clone(),
                source,
            })?;
        if record != before {
            self.store.write_container(&lock, &record)?;
        }
        Ok(Some(()))
    }
}

/// Whether somebody runs something in a container that goes with him.
fn is_running(record: &Record) -> Result<bool, ContainerError> {
    if !record.transient {
        return Ok(false);
    }
    let file = record.run_lock();
    Ok(holder(&file).map_err(failed("read", &file))?.is_some())
}

/// Ends what somebody else runs in a container that goes with him: all of it goes with the process
/// that keeps it.
pub(super) fn end_run(record: &Record) -> Result<(), ContainerError> {
    let file = record.run_lock();
    match holder(&file).map_err(failed("read", &file))? {
        Some(pid) if pid == std::process::id() => Ok(()),
        _ => end(&file),
    }
}

/// The server of a rootfs, if it lives.
fn server(record: &Record, rootfs: &Rootfs) -> Result<Option<Server>, ContainerError> {
    let file = record.scratch(rootfs).join("server");
    let pid = holder(&file).map_err(failed("read", &file))?;
    Ok(pid.map(|pid| Server {
        pid,
        elsewhere: is_elsewhere(pid, &record.path(rootfs)),
    }))
}

/// Kills the holder of a lock and waits until it is gone.
fn end(file: &Path) -> Result<(), ContainerError> {
    let begin = Instant::now();
    while let Some(pid) = holder(file).map_err(failed("read", file))? {
        kill_holder(file, pid);
        if begin.elapsed() > GONE {
            // It may have another number in its PID namespace.
            let source = io::Error::from(io::ErrorKind::TimedOut);
            return Err(failed("end the process that holds", file)(source));
        }
        let pause =
            (begin.elapsed() / 10).clamp(Duration::from_millis(1), Duration::from_millis(50));
        thread::sleep(pause);
    }
    Ok(())
}

/// Kills a process, if it is the one that has a file open: its number may be that of another PID namespace, or be
/// another's by now.
fn kill_holder(file: &Path, pid: u32) {
    let Some(process) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return;
    };
    // From here on the handle means this one or none.
    let Ok(handle) = pidfd_open(process, PidfdFlags::empty()) else {
        return;
    };
    let place = |meta: fs::Metadata| (meta.dev(), meta.ino());
    let wanted = fs::metadata(file).map(place).ok();
    let open = fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten();
    let mut open = open.filter_map(|entry| fs::metadata(entry.ok()?.path()).map(place).ok());
    if open.any(|one| Some(one) == wanted) {
        // Gone already is what is wanted.
        let _ = pidfd_send_signal(&handle, Signal::KILL);
    }
}

fn is_directory(path: &Path) -> Result<bool, ContainerError> {
    match fs::symlink_metadata(path) {
        Ok(meta) => Ok(meta.is_dir()),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(false)
        }
        Err(error) => Err(failed("read", path)(error)),
    }
}
