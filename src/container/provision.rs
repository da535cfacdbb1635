//! How a container comes.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::time::Instant;

use super::record::{HostVolume, Record, Rootfs, trash};
use super::{ContainerError, Containers, failed, unique_name};
use crate::backend::{self, BackendError, Kind, Task, hold};
use crate::container_id::ContainerId;
use crate::digest::{DiffId, ImageId};
use crate::mounts;
use crate::store::containers::ContainerLock;
use crate::store::metrics::{Copied, Counter, Timer};
use crate::store::named_lock::Hold;
use crate::view::Stack;

/// A root file system that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Which image of the store.
    pub id: ImageId,
    /// What it was called.
    pub title: String,
    /// It is not to be written to.
    pub read_only: bool,
    /// Where in the container it is wanted, if it is not its root.
    pub container_path: Option<String>,
}

/// What is wanted of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Its name. One that is there already gets further root file systems.
    pub id: ContainerId,
    /// How root file systems are made.
    pub backend: Kind,
    /// Which. None at all: the container is only noted.
    pub images: Vec<Image>,
    /// What a launcher is to call the machine.
    pub hostname: Option<String>,
    /// Directories of the machine for a launcher.
    pub volumes: Vec<HostVolume>,
    /// Seconds since 1970.
    pub now: u64,
    /// It must not be there yet.
    pub new: bool,
    /// It goes with whoever holds [`Provisioned::hold`], should he die before he destroys it.
    pub transient: bool,
}

/// A container that can be used.
#[derive(Debug, serde::Serialize)]
pub struct Provisioned {
    /// Its name.
    pub id: ContainerId,
    /// Those of its root file systems that were asked for now, in that order.
    pub rootfses: Vec<Shown>,
    /// What a launcher is to call the machine.
    pub hostname: Option<String>,
    /// Directories of the machine for a launcher.
    pub volumes: Vec<HostVolume>,
    /// Where its root file systems and what belongs to them are.
    #[serde(skip)]
    pub directory: PathBuf,
    /// Held for as long as a transient container is wanted.
    #[serde(skip)]
    pub hold: Option<hold::Hold>,
}

/// A root file system that can be used.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Shown {
    /// Where it is.
    pub path: PathBuf,
    /// Its name, the last part of the path.
    pub name: String,
    /// How it is made.
    pub backend: Kind,
    /// It cannot be written to.
    pub read_only: bool,
    /// Which image it shows.
    pub image: ImageId,
    /// What that was called.
    pub title: String,
    /// Its layers, lowest first.
    pub layers: Vec<DiffId>,
    /// Directories with what is written in it, to be counted against a quota.
    pub ephemeral: Vec<PathBuf>,
    /// Where in the container it is wanted, if it is not its root.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container_path: Option<String>,
}

impl Shown {
    /// What a record says of a root file system.
    #[must_use]
    pub fn of(record: &Record, rootfs: &Rootfs) -> Self {
        let scratch = record.scratch(rootfs);
        let ephemeral = match rootfs.has_upper() {
            true => vec![scratch.join("upper"), scratch.join("work")],
            false => Vec::new(),
        };
        Self {
            path: record.path(rootfs),
            name: rootfs.name.clone(),
            backend: rootfs.backend,
            read_only: rootfs.read_only,
            image: rootfs.image,
            title: rootfs.title.clone(),
            layers: rootfs.stack.layers.iter().map(|layer| layer.diff).collect(),
            ephemeral,
            container_path: rootfs.container_path.clone(),
        }
    }
}

impl Containers<'_> {
    /// Makes root file systems for a container. Waits for whoever works on it. `advance`
    /// is told how many bytes and objects are written, by backends that write them.
    ///
    /// # Errors
    /// Nothing of what was asked for is left then.
    pub fn provision(
        &self,
        request: &Request,
        advance: &mut dyn FnMut(u64, u64),
    ) -> Result<Provisioned, ContainerError> {
        let begin = Instant::now();
        let outcome = self.provision_pinned(request, advance);
        let backend = request.backend;
        match &outcome {
            _ if request.images.is_empty() => {}
            Ok(_) => (self.store).observe(Timer::Provision(backend), begin.elapsed()),
            // Somebody's wish is no failure.
            Err(ContainerError::Interrupted) => {}
            Err(_) => self.store.count(Counter::ProvisionErrors(backend)),
        }
        outcome
    }

    fn provision_pinned(
        &self,
        request: &Request,
        advance: &mut dyn FnMut(u64, u64),
    ) -> Result<Provisioned, ContainerError> {
        // Until the record says what is needed: nothing of it goes in between.
        let lease = self.store.lease()?;
        let stacks = (request.images.iter())
            .map(|image| Stack::pinned(self.store, image.id, lease.as_ref()));
        let stacks = stacks.collect::<Result<Vec<_>, _>>()?;
        let (above, rootfs_dir) = self.hold_ancestors(request)?;
        let outcome = self.provision_held(request, stacks, rootfs_dir, advance);
        let made = above.iter().filter(|(_, made)| *made);
        let made: Vec<ContainerId> = made.map(|(lock, _)| lock.id().clone()).collect();
        drop(above);
        if outcome.is_err() {
            // Parents that were noted for this one alone. Somebody may have come
            // meanwhile, and then they stay.
            for id in made.iter().rev() {
                self.forget_if_empty(id)?;
            }
        }
        outcome
    }

    fn provision_held(
        &self,
        request: &Request,
        stacks: Vec<Stack>,
        rootfs_dir: PathBuf,
        advance: &mut dyn FnMut(u64, u64),
    ) -> Result<Provisioned, ContainerError> {
        let id = &request.id;
        let lock = self.lock(id, Hold::Alone)?;
        let before = self.store.container::<Record>(id)?;
        let mut record = match &before {
            Some(record) if record.destroying => {
                return Err(ContainerError::Destroying(id.clone()));
            }
            Some(record) => record.clone(),
            None => self.new_record(id, rootfs_dir, request.now)?,
        };
        if before.is_some() && request.new {
            return Err(ContainerError::Exists(id.clone()));
        }
        if before.is_none() {
            // Somebody else's further rootfs does not make it stay.
            record.transient = request.transient;
        }
        // With the last write: what a crash interrupts leaves a container as it was.
        let noted = |record: &mut Record| {
            record.implicit = false;
            if request.hostname.is_some() {
                record.hostname.clone_from(&request.hostname);
            }
            record.volumes.extend(request.volumes.iter().cloned());
        };
        if request.images.is_empty() {
            noted(&mut record);
        }
        let first = record.rootfses.len();
        for (image, stack) in request.images.iter().zip(stacks) {
            record.rootfses.push(Rootfs {
                name: unique_name()?,
                ready: false,
                backend: request.backend,
                read_only: image.read_only || request.backend == Kind::Bind,
                image: image.id,
                title: image.title.clone(),
                stack,
                lower: None,
                container_path: image.container_path.clone(),
            });
        }
        if let Err(error) = self.store.write_container(&lock, &record) {
            // It may be there, and only not be on the disk.
            self.undo(lock, before, record, first)?;
            return Err(error.into());
        }
        // Before it is ready, so that it never looks as if nobody wanted it.
        let hold = match request.transient.then(|| self.hold_run(&record)) {
            Some(Err(error)) => {
                self.undo(lock, before, record, first)?;
                return Err(error);
            }
            other => other.transpose()?,
        };
        for number in first..record.rootfses.len() {
            if let Err(source) = self.make(&mut record, number, advance) {
                let image = record.rootfses[number].title.clone();
                self.undo(lock, before, record, first)?;
                return Err(match source {
                    BackendError::Interrupted => ContainerError::Interrupted,
                    source => ContainerError::Backend {
                        id: id.clone(),
                        image,
                        source,
                    },
                });
            }
        }
        let intended = record.rootfses.get_mut(first..).unwrap_or_default();
        if !intended.is_empty() {
            intended.iter_mut().for_each(|rootfs| rootfs.ready = true);
            noted(&mut record);
            let written = match record.transient {
                // Whether it was ready is all the same to recovery once its run has ended.
                true => self.store.replace_container(&lock, &record),
                false => self.store.write_container(&lock, &record),
            };
            if let Err(error) = written {
                self.undo(lock, before, record, first)?;
                return Err(error.into());
            }
        }
        for image in &request.images {
            self.store.touch(image.id);
        }
        let made = record.rootfses.get(first..).unwrap_or_default();
        Ok(Provisioned {
            id: id.clone(),
            rootfses: made
                .iter()
                .map(|rootfs| Shown::of(&record, rootfs))
                .collect(),
            hostname: record.hostname.clone(),
            volumes: record.volumes.clone(),
            directory: record.directory(),
            hold,
        })
    }

    /// Makes the directory of a transient container, and says that it is wanted.
    fn hold_run(&self, record: &Record) -> Result<hold::Hold, ContainerError> {
        let directory = record.directory();
        let made = fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory);
        made.map_err(failed("create", &directory))?;
        let file = record.run_lock();
        hold::Hold::take(&file).map_err(failed("lock", &file))
    }

    /// Makes one rootfs of a record, or makes it again above the changes that it has.
    pub(super) fn make(
        &self,
        record: &mut Record,
        number: usize,
        advance: &mut dyn FnMut(u64, u64),
    ) -> Result<(), BackendError> {
        let rootfs = &record.rootfses[number];
        let (path, scratch) = (record.path(rootfs), record.scratch(rootfs));
        // What is in there is for whoever provisioned it: setuid programs, others' files.
        let made = fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path);
        made.map_err(|source| BackendError::Io {
            what: "create",
            path: path.clone(),
            source,
        })?;
        let task = Task {
            store: self.store,
            stack: &rootfs.stack,
            title: &rootfs.title,
            rootfs: &path,
            scratch: &scratch,
            read_only: rootfs.read_only,
            log: self.log,
            keep_awake: self.keep_awake,
            spare: self.spare,
            stop: self.stop,
        };
        let mut written = 0;
        let made = backend::provision(rootfs.backend, &task, &mut |bytes, objects| {
            written = bytes;
            advance(bytes, objects);
        });
        let copied = Counter::MaterialisedBytes(Copied::Rootfs);
        self.store.tally(&[(copied, written)]);
        record.rootfses[number].lower = made?.lower;
        Ok(())
    }

    /// Takes back what a failed call has begun.
    fn undo(
        &self,
        lock: ContainerLock,
        before: Option<Record>,
        record: Record,
        first: usize,
    ) -> Result<(), ContainerError> {
        for rootfs in record.rootfses.get(first..).unwrap_or_default() {
            self.dismantle(&record, rootfs)?;
        }
        match before {
            Some(before) => Ok(self.store.write_container(&lock, &before)?),
            None => {
                self.clear_directory(&record)?;
                Ok(self.store.remove_container(lock)?)
            }
        }
    }

    /// Holds the locks of all that a container is in, so that nobody destroys them, and
    /// notes those that nobody has provisioned. With each, whether it was noted now; and
    /// where they are kept.
    fn hold_ancestors(
        &self,
        request: &Request,
    ) -> Result<(Vec<(ContainerLock, bool)>, PathBuf), ContainerError> {
        let mut held = Vec::new();
        let mut rootfs_dir = None;
        for id in request.id.ancestors() {
            let mut made = false;
            loop {
                let lock = self.lock(&id, Hold::Shared)?;
                match self.store.container::<Record>(&id)? {
                    Some(record) if record.destroying => {
                        return Err(ContainerError::Destroying(id));
                    }
                    Some(record) => {
                        rootfs_dir.get_or_insert(record.rootfs_dir);
                        held.push((lock, made));
                        break;
                    }
                    None => drop(lock),
                }
                // A lock cannot be made stricter without letting it go for a moment.
                let lock = self.lock(&id, Hold::Alone)?;
                if self.store.container::<Record>(&id)?.is_none() {
                    let dir = match &rootfs_dir {
                        Some(dir) => PathBuf::clone(dir),
                        None => self.own_directory()?,
                    };
                    let record = self.new_record(&id, dir, request.now)?;
                    self.store.write_container(&lock, &record)?;
                    made = true;
                }
            }
        }
        match rootfs_dir {
            Some(dir) => Ok((held, dir)),
            None => Ok((held, self.own_directory()?)),
        }
    }

    /// Where new containers are made, without links: as the mount table will name it.
    pub(super) fn own_directory(&self) -> Result<PathBuf, ContainerError> {
        let trash = trash(self.rootfs_dir);
        fs::create_dir_all(&trash).map_err(failed("create", &trash))?;
        Ok(mounts::resolve(self.rootfs_dir)?)
    }

    /// A container that nobody knew, and whose place nobody has.
    fn new_record(
        &self,
        id: &ContainerId,
        rootfs_dir: PathBuf,
        now: u64,
    ) -> Result<Record, ContainerError> {
        let record = Record {
            id: id.clone(),
            rootfs_dir,
            created: now,
            destroying: false,
            implicit: true,
            transient: false,
            hostname: None,
            volumes: Vec::new(),
            rootfses: Vec::new(),
        };
        let directory = record.directory();
        match fs::symlink_metadata(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(record),
            Err(error) => Err(failed("read", &directory)(error)),
            // What is in there may be another store's, or a container's whose record is damaged.
            Ok(_) => Err(ContainerError::Taken {
                damaged: self.store.damaged_containers()?.contains(id),
                id: id.clone(),
                directory,
            }),
        }
    }
}
