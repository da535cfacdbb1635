//! Ways to get a rootfs.
//!
//! What it is for: starting what shows a tree, and knowing when it can be used.
//! Must not know what a container is.
//!
//! * [`fuse`]: our own program in the background, serving one FUSE mount. [`hold`]: whether
//!   it lives.
//! * `overlay`: kernel overlayfs above a read-only lazy mount. `bind`: that mount itself.
//!   [`lower`]: the mount that both share.
//! * [`copy`](mod@copy): all files, written out from a view.
//! * [`catalogue`]: the store's images by name, for a mount that shows them all.
//!
//! All show the same tree, and have no rules of their own for what is in it. None of
//! them undoes anything: what is mounted below a directory is undone by [`mounts`](crate::mounts),
//! whoever made it.

mod bind;
pub mod catalogue;
pub mod copy;
pub mod fuse;
pub mod hold;
pub mod lower;
mod overlay;

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::AtomicBool;

pub use crate::backend_kind::{AUTO, Kind, UnknownBackend};
use crate::mounts::MountError;
use crate::store::{Caches, Store, StoreError};
use crate::view::Stack;
use fuse::{ServeCommand, Spare, StartError};

/// What somebody wants of backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Choice {
    /// The best one that this machine can do.
    Auto,
    /// This one, or none.
    Kind(Kind),
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.pad(AUTO),
            Self::Kind(kind) => kind.fmt(f),
        }
    }
}

impl FromStr for Choice {
    type Err = UnknownBackend;

    fn from_str(text: &str) -> Result<Self, UnknownBackend> {
        match text {
            AUTO => Ok(Self::Auto),
            kind => kind.parse().map(Self::Kind),
        }
    }
}

impl serde::Serialize for Choice {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Choice {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl Choice {
    /// The backend that it comes to on this machine.
    ///
    /// # Errors
    /// It was chosen, and this machine cannot do it.
    pub fn settle(self) -> Result<Kind, BackendError> {
        match self {
            Self::Kind(kind) => kind.possible().map(|()| kind),
            // Files can always be written.
            Self::Auto => match Kind::Fuse.possible() {
                Ok(()) => Ok(Kind::Fuse),
                Err(_) => Ok(Kind::Copy),
            },
        }
    }
}

impl Kind {
    /// Whether this machine can do it.
    ///
    /// # Errors
    /// What it lacks.
    pub fn possible(self) -> Result<(), BackendError> {
        let lacks = |what: String| Err(BackendError::Impossible { kind: self, what });
        if self == Self::Copy {
            return Ok(());
        }
        if let Err(error) = File::options().read(true).write(true).open("/dev/fuse") {
            return lacks(format!("cannot open `/dev/fuse`: {error}"));
        }
        if self == Self::Fuse {
            return Ok(());
        }
        if !rustix::process::geteuid().is_root() {
            return lacks("it needs root, or root of a user namespace".to_owned());
        }
        if self == Self::Overlay {
            let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
            let built_in = known.lines().any(|line| line.ends_with("\toverlay"));
            // As a module it is loaded by the first mount.
            if !built_in && !has_module("overlay") {
                return lacks("the kernel has no overlayfs".to_owned());
            }
        }
        Ok(())
    }
}

/// Whether this kernel came with a module of that name.
fn has_module(name: &str) -> bool {
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    let list = Path::new("/lib/modules").join(release).join("modules.dep");
    let file = format!("/{name}.ko");
    fs::read_to_string(list).is_ok_and(|list| list.lines().any(|line| line.contains(&file)))
}

/// Why there is no rootfs.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// This machine lacks something.
    #[error("this machine cannot do the backend `{kind}`: {what}")]
    Impossible {
        /// Which.
        kind: Kind,
        /// What it lacks.
        what: String,
    },
    /// The server of a mount did not begin.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The kernel refuses to mount overlayfs there.
    #[error("the kernel refuses overlayfs at `{}`", at.display())]
    Overlay {
        /// Where.
        at: PathBuf,
        /// What it says.
        source: io::Error,
    },
    /// The mount table cannot be read, or a mount cannot be undone.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// Layers are missing or damaged.
    #[error(transparent)]
    Store(StoreError),
    /// Files cannot be written.
    #[error(transparent)]
    Copy(copy::CopyError),
    /// Somebody wants it to stop.
    #[error("interrupted")]
    Interrupted,
    /// Any other failure of the system.
    #[error("cannot {what} `{}`", path.display())]
    Io {
        /// The verb: `create`, `mount` ...
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl BackendError {
    /// What to try.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Impossible {
                kind: Kind::Fuse, ..
            } => Some("lazyroot doctor; --read-only needs no root; or --backend copy".into()),
            Self::Impossible { .. } => Some("lazyroot doctor, or --backend copy".into()),
            Self::Overlay { .. } => Some(
                "the kernel's log says why (dmesg); overlayfs wants its changes on ext4, xfs, btrfs or tmpfs: --rootfs-dir there, or --backend fuse"
                    .into(),
            ),
            Self::Store(error) => error.hint(),
            Self::Copy(error) => error.hint(),
            _ => None,
        }
    }
}

impl From<copy::CopyError> for BackendError {
    fn from(error: copy::CopyError) -> Self {
        match error {
            copy::CopyError::Interrupted => Self::Interrupted,
            error => Self::Copy(error),
        }
    }
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BackendError {
    let path = path.to_owned();
    move |source| BackendError::Io { what, path, source }
}

/// A rootfs to be.
#[derive(Debug, Clone, Copy)]
pub struct Task<'a> {
    /// Where the layers are.
    pub store: &'a Store,
    /// Which they are.
    pub stack: &'a Stack,
    /// What the mount table calls it.
    pub title: &'a str,
    /// An empty directory: the rootfs.
    pub rootfs: &'a Path,
    /// A directory for what belongs to it: changes, the server's lock.
    pub scratch: &'a Path,
    /// Nothing is to be written.
    pub read_only: bool,
    /// Where servers log, if not to the system's log.
    pub log: Option<&'a Path>,
    /// Servers keep idle processors awake in haste.
    pub keep_awake: bool,
    /// What may serve the rootfs, instead of this program begun again.
    pub spare: Option<&'a Spare>,
    /// Set from elsewhere: stop soon.
    pub stop: &'a AtomicBool,
}

impl Task<'_> {
    /// Where changes are kept.
    #[must_use]
    pub fn upper(&self) -> PathBuf {
        self.scratch.join("upper")
    }

    /// The work directory beside it.
    #[must_use]
    pub fn work(&self) -> PathBuf {
        self.scratch.join("work")
    }

    /// The file whose lock the server holds.
    #[must_use]
    pub fn server(&self) -> PathBuf {
        self.scratch.join("server")
    }

    /// A server of these layers; where it mounts, and what is written, is to be added.
    fn command(&self) -> ServeCommand {
        let mut what: Vec<OsString> = vec![
            format!("--title={}", self.title).into(),
            format!("--stack={}", self.stack.identity).into(),
        ];
        let Stack { layers, images, .. } = self.stack;
        what.extend(layers.iter().map(|layer| format!("--layer={layer}").into()));
        what.extend(images.iter().map(|image| format!("--of={image}").into()));
        ServeCommand {
            store: self.store.root().to_owned(),
            cache_size: self.store.cache_quota(),
            prefetch: self.store.prefetch(),
            keep_awake: self.keep_awake,
            what,
            log: self.log.map(Path::to_owned),
            ..ServeCommand::default()
        }
    }

    fn fuse(&self) -> Result<(), BackendError> {
        let command = ServeCommand {
            read_only: self.read_only,
            upper: (!self.read_only).then(|| self.upper()),
            work: (!self.read_only).then(|| self.work()),
            hold: Some(self.server()),
            at: self.rootfs.to_owned(),
            ..self.command()
        };
        match self.spare {
            Some(spare) => spare.start(&command.words())?,
            None => fuse::start(&command.words(), None)?,
        };
        Ok(())
    }

    fn copy(&self, advance: &mut dyn FnMut(u64, u64)) -> Result<(), BackendError> {
        let union = self.stack.open(self.store, &Caches::default(), None)?;
        copy::copy(&union, self.rootfs, self.stop, advance)?;
        copy::sync(self.rootfs)?;
        Ok(())
    }
}

/// What a rootfs stands on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Made {
    /// The shared mount below it.
    pub lower: Option<String>,
}

/// Makes the rootfs. What was kept of changes to it is there again. `advance` is told
/// how many bytes and objects were written, by the backend that writes them.
///
/// # Errors
/// It cannot be made; what was mounted or written until then is the caller's to undo.
pub fn provision(
    kind: Kind,
    task: &Task<'_>,
    advance: &mut dyn FnMut(u64, u64),
) -> Result<Made, BackendError> {
    // Nobody else may reach setuid programs in it.
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(task.scratch);
    made.map_err(failed("create", task.scratch))?;
    let lower = match kind {
        Kind::Fuse if !task.read_only && !rustix::process::geteuid().is_root() => {
            let what = "what can be written to needs root, or root of a user namespace".to_owned();
            return Err(BackendError::Impossible { kind, what });
        }
        Kind::Fuse => return task.fuse().map(|()| Made::default()),
        Kind::Copy => return task.copy(advance).map(|()| Made::default()),
        Kind::Overlay if !task.read_only => overlay::provision(task)?,
        Kind::Overlay | Kind::Bind => bind::provision(task)?,
    };
    Ok(Made { lower: Some(lower) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backends_are_lower_case_words_everywhere() {
        let all = Kind::ALL.map(Choice::Kind);
        for choice in all.into_iter().chain([Choice::Auto]) {
            let word = choice.to_string();
            assert_eq!(word.parse(), Ok(choice));
            let json = serde_json::to_string(&choice).unwrap();
            assert_eq!(json, format!("\"{word}\""));
            assert_eq!(serde_json::from_str::<Choice>(&json).unwrap(), choice);
            if let Choice::Kind(kind) = choice {
                assert_eq!(serde_json::to_string(&kind).unwrap(), json);
            }
        }
        let aufs = "aufs".parse::<Choice>().unwrap_err();
        assert!(aufs.to_string().starts_with("`aufs` is no backend"));
        assert!("auto".parse::<Kind>().is_err());
    }
}
