//! The life of containers: a name, its root file systems, and what is left of them.
//!
//! What it is for: provision, destroy, recover, so that whatever dies at whatever moment
//! nothing is lost that was ready and nothing stays that was not. May assume: the
//! images are in the store. Must not know what is run in a container.
//!
//! | file | question |
//! |---|---|
//! | `record` | what is written down? |
//! | `provision` | how does one come? |
//! | `destroy` | how does one go? |
//! | `recover` | what is to be done after a crash? A pure plan. |
//! | `repair` | doing it |
//!
//! Rules:
//! * *Record first, act second.* The intent is on the disk before anything is made.
//! * Whoever changes a container holds its lock; whoever makes one inside of it holds it
//!   shared. The outer lock is taken first.
//! * A container that goes is renamed into `.trash` beside the others: from then on
//!   nothing of it can be reached at its path, and what is left is garbage by its place.
//! * A mount is judged by the mount table, a server by the lock that it holds; neither by
//!   a look at what may be dead.

mod destroy;
mod provision;
pub mod record;
pub mod recover;
mod repair;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

pub use provision::{Image, Provisioned, Request, Shown};
pub use repair::Done;

use crate::backend::BackendError;
use crate::backend::fuse::Spare;
use crate::container_id::ContainerId;
use crate::mounts::MountError;
use crate::remove::RemoveError;
use crate::store::containers::ContainerLock;
use crate::store::named_lock::Hold;
use crate::store::{Store, StoreError};
use record::Record;

/// Why something could not be done to a container.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    /// No such container.
    #[error("there is no container `{0}`")]
    Unknown(ContainerId),
    /// No such container, but something where it would be.
    #[error("there is no container `{id}`; `{}` belongs to none of this store", directory.display())]
    Strange {
        /// The container.
        id: ContainerId,
        /// Its place.
        directory: PathBuf,
    },
    /// One that was to be new is there already.
    #[error("there is a container `{0}` already")]
    Exists(ContainerId),
    /// It is going, and cannot be added to.
    #[error("container `{0}` is being destroyed")]
    Destroying(ContainerId),
    /// Its place is taken by something that this store knows nothing of.
    #[error("`{}` is there already, and is no container of this store", directory.display())]
    Taken {
        /// The container.
        id: ContainerId,
        /// Its place.
        directory: PathBuf,
        /// It is what is left of a container whose record is damaged.
        damaged: bool,
    },
    /// A container in it could not be destroyed, so it stays.
    #[error("container `{id}` stays, because `{child}` in it cannot be destroyed")]
    Child {
        /// The container.
        id: ContainerId,
        /// The one in it.
        child: ContainerId,
        /// Why.
        source: Box<ContainerError>,
    },
    /// A rootfs could not be made. Nothing of it is left.
    #[error("cannot provision `{image}` for container `{id}`")]
    Backend {
        /// The container.
        id: ContainerId,
        /// What was to be shown.
        image: String,
        /// Why.
        source: BackendError,
    },
    /// A shared mount could not be undone.
    #[error(transparent)]
    Lower(#[from] BackendError),
    /// A mount could not be undone.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// Files could not be removed.
    #[error(transparent)]
    Remove(#[from] RemoveError),
    /// The record or the store could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What was changed is not there any more.
    #[error("`{}` is gone, and with it what was written in it", .0.display())]
    Lost(PathBuf),
    /// Somebody wants it to stop.
    #[error("interrupted")]
    Interrupted,
    /// Any other failure of the system.
    #[error("cannot {what} `{}`", path.display())]
    Io {
        /// The verb.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl ContainerError {
    /// What to try.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unknown(_) => Some("lazyroot containers shows which there are".into()),
            Self::Exists(id) => Some(format!("another name, or lazyroot destroy {id}")),
            Self::Destroying(id) => Some(format!("lazyroot destroy {id} finishes that")),
            Self::Taken { damaged: true, id, .. } => {
                Some(format!("lazyroot destroy {id} removes what is left of it"))
            }
            Self::Taken { .. } => Some("another name, or another --rootfs-dir".into()),
            Self::Strange { .. } => Some(
                "--store DIR for the store that it is of; where that is lost, umount what is mounted \
                 in there, and remove it by hand"
                    .into(),
            ),
            Self::Child { source, .. } => source.hint(),
            Self::Backend { source, .. } | Self::Lower(source) => source.hint(),
            Self::Remove(error) => error.hint(),
            Self::Store(error) => error.hint(),
            Self::Lost(_) => Some("lazyroot destroy removes what is left".into()),
            _ => None,
        }
    }
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ContainerError {
    let path = path.to_owned();
    move |source| ContainerError::Io { what, path, source }
}

/// What is in a directory, sorted; nothing if it is not there.
fn entries(directory: &Path) -> Result<Vec<PathBuf>, ContainerError> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(failed("read", directory))?,
    };
    let mut all = Vec::new();
    for entry in entries {
        all.push(entry.map_err(failed("read", directory))?.path());
    }
    all.sort();
    Ok(all)
}

/// A record, or why it cannot be read.
pub type Written = Result<Record, StoreError>;

/// The containers of a store.
#[derive(Clone, Copy)]
pub struct Containers<'a> {
    /// Where their records and images are.
    pub store: &'a Store,
    /// Where new ones are made: absolute.
    pub rootfs_dir: &'a Path,
    /// Where servers log, if not to the system's log.
    pub log: Option<&'a Path>,
    /// Servers keep idle processors awake in haste.
    pub keep_awake: bool,
    /// What may serve a rootfs, instead of this program begun again.
    pub spare: Option<&'a Spare>,
    /// Set from elsewhere: stop soon, and undo what was begun.
    pub stop: &'a AtomicBool,
    /// Told what takes a moment.
    pub say: &'a dyn Fn(&str),
}

impl std::fmt::Debug for Containers<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Containers")
            .field("rootfs_dir", &self.rootfs_dir)
            .finish_non_exhaustive()
    }
}

impl Containers<'_> {
    /// All of them, each after the one that it is in; records that cannot be read with
    /// the reason.
    ///
    /// # Errors
    /// The records cannot be listed.
    pub fn all(&self) -> Result<Vec<(ContainerId, Written)>, StoreError> {
        let mut all = Vec::new();
        for id in self.store.container_ids()? {
            match self.store.container(&id) {
                // Destroyed meanwhile.
                Ok(None) => {}
                Ok(Some(record)) => all.push((id, Ok(record))),
                Err(error) => all.push((id, Err(error))),
            }
        }
        Ok(all)
    }

    fn lock(&self, id: &ContainerId, how: Hold) -> Result<ContainerLock, ContainerError> {
        let waits = || (self.say)(&format!("waiting for another process that works on `{id}`"));
        let lock = self.store.lock_container(id, how, self.stop, &waits)?;
        lock.ok_or(ContainerError::Interrupted)
    }
}

/// 128 random bits: no two things ever have the same path.
///
/// # Errors
/// The system has none.
pub fn unique_name() -> Result<String, ContainerError> {
    let mut bits = [0_u8; 16];
    let got = rustix::rand::getrandom(&mut bits, rustix::rand::GetRandomFlags::empty());
    got.map_err(|error| failed("read", Path::new("/dev/random"))(error.into()))?;
    Ok(format!("{:032x}", u128::from_le_bytes(bits)))
}
