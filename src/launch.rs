//! Running something in a root file system.
//!
//! What it is for: namespaces, mounts, devices, user and environment of a command, as
//! its image wants them; or the same said to another launcher (an OCI bundle). May
//! assume: the root file system is there and nobody else changes it. Must not know how it
//! came or how it goes: that is `container`'s, and the verb brings both together.
//!
//! | file | question |
//! |---|---|
//! | `command` | what is run? Pure; as whom, `image::identity` says. |
//! | `image_files` | what does the image say of its users? |
//! | `spec` | all that is decided, in one value |
//! | `outer` | the process that makes the namespaces |
//! | `inside` | process 1 in there |
//! | `root` | the mounts in there; `devices`, `masks` |
//! | `program` | from process 1 to the command |
//! | `capabilities` | what root may do in there |
//! | `relay` | signals go in, the exit code comes out |
//! | `terminal` | who has the caller's terminal |
//! | `limits` | control groups |
//! | `network` | `hosts`, `resolv.conf`, `hostname` |
//! | `bundle` | the same as an OCI bundle |
//!
//! Four processes, each the parent of the next:
//! 1. `lazyroot run` keeps the container, and destroys it in the end;
//! 2. `lazyroot launch` (this program again, with one thread) leaves the namespaces;
//! 3. process 1 in there builds the root and reaps orphans;
//! 4. the command.
//!
//! An ordinary user's first one becomes root of a user and a mount namespace, so that the
//! container's mounts are his alone, and end with it.
//!
//! Whichever dies, the kernel kills those below it: 2 and 3 have asked for it
//! (`PR_SET_PDEATHSIG`), and with 3 goes all of its process namespace.

pub mod bundle;
mod capabilities;
pub mod command;
mod devices;
pub mod image_files;
mod inside;
pub mod limits;
mod masks;
pub mod network;
mod outer;
mod program;
mod raw;
pub mod relay;
mod root;
pub mod spec;
pub mod terminal;

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

pub use outer::{enter_user_namespace, launch};

/// Why a command could not be run.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// There is no such program in the container.
    #[error("there is no `{}` in the container", .0.display())]
    NoProgram(OsString),
    /// It is there and cannot be run.
    #[error("cannot run `{}`", path.display())]
    Program {
        /// Where it is.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The working directory is closed to the user.
    #[error("cannot enter the working directory `{}`", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The system does not give them.
    #[error("cannot make namespaces")]
    Namespaces {
        /// One of users is among them.
        of_users: bool,
        /// What the system says.
        source: io::Error,
    },
    /// The command cannot become whom it is to be.
    #[error("cannot become user {uid} and group {gid}")]
    Identity {
        /// The user.
        uid: u32,
        /// The group.
        gid: u32,
        /// What the system says.
        source: io::Error,
    },
    /// A mount point is missing, and the root file system cannot be written to.
    #[error("the root file system is read-only and has no `{}` to mount at", .0.display())]
    NoMountPoint(PathBuf),
    /// A mount point is not what it must be.
    #[error("`{}` in the container is {what}", path.display())]
    MountPoint {
        /// Where.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// The machine cannot do that with control groups.
    #[error("cannot limit {what}: {why}")]
    Limit {
        /// CPU time or memory.
        what: &'static str,
        /// Why not.
        why: String,
    },
    /// Whoever wanted it is gone.
    #[error("whoever wanted it is gone")]
    Abandoned,
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

impl LaunchError {
    /// What the caller is answered: as `docker run` does.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NoProgram(_) => 127,
            Self::Program { source, .. } if source.kind() == io::ErrorKind::NotFound => 127,
            Self::Program { .. } | Self::Directory { .. } => 126,
            _ => 125,
        }
    }

    /// What to try.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Program { source, .. } => match source.raw_os_error() {
                Some(libc::ENOENT) => {
                    Some("the program that it names in `#!`, or its loader, is missing")
                }
                Some(libc::ENOEXEC) => Some("an image for this machine's architecture"),
                _ => None,
            },
            Self::Namespaces {
                of_users: false, ..
            } => Some("run it as root"),
            Self::Namespaces { of_users: true, .. } => {
                Some("the machine forbids user namespaces; lazyroot doctor says more")
            }
            Self::NoMountPoint(_) => Some("--backend fuse or overlay, which can be written to"),
            Self::Limit { .. } => Some("without --cpus, --memory and cgroups/cpu, cgroups/mem"),
            _ => None,
        }
    }
}

fn failed(
    what: &'static str,
    path: impl AsRef<Path>,
) -> impl FnOnce(rustix::io::Errno) -> LaunchError {
    let path = path.as_ref().to_owned();
    move |error| LaunchError::Io {
        what,
        path,
        source: error.into(),
    }
}

fn broken(what: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> LaunchError {
    let path = path.as_ref().to_owned();
    move |source| LaunchError::Io { what, path, source }
}
