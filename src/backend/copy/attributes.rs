//! Attributes of what was made.
//!
//! What it is for: owner, extended attributes, mode and times, in the one order in which
//! none takes another away. May assume: contents and names are there already.

use std::fmt::Write as _;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::places::{Name, Places};
use super::{Copy, CopyError};
use crate::node::{Attr, Ino, Kind};
use crate::tree_path::printable;

/// How an object is named to the system.
#[derive(Clone, Copy)]
pub(super) enum Object<'a> {
    /// A file or a directory, open.
    Open(&'a OwnedFd),
    /// Anything else, by name in this directory.
    In(&'a OwnedFd, &'a [u8]),
}

impl Object<'_> {
    fn chown(self, uid: u32, gid: u32) -> Result<(), Errno> {
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        match self {
            Self::Open(fd) => rustix::fs::fchown(fd, uid, gid),
            Self::In(dir, name) => {
                rustix::fs::chownat(dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
            }
        }
    }

    fn set_xattr(self, name: &[u8], value: &[u8]) -> Result<(), Errno> {
        match self {
            Self::Open(fd) => rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty()),
            Self::In(dir, own) => {
                // No system call of all kernels takes a directory and a name.
                let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
                path.extend_from_slice(own);
                rustix::fs::lsetxattr(path, name, value, XattrFlags::empty())
            }
        }
    }

    /// Not for symlinks, which have no mode.
    fn chmod(self, mode: u16) -> Result<(), Errno> {
        let mode = Mode::from_raw_mode(mode.into());
        match self {
            Self::Open(fd) => rustix::fs::fchmod(fd, mode),
            Self::In(dir, name) => {
                // chmod(2) follows links, but not from a descriptor of the object itself.
                let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let object = rustix::fs::openat(dir, name, flags, Mode::empty())?;
                let mut path = String::new();
                let _ = write!(path, "/proc/self/fd/{}", object.as_raw_fd());
                rustix::fs::chmod(path, mode)
            }
        }
    }

    fn set_times(self, attr: &Attr) -> Result<(), Errno> {
        let time = Timespec {
            tv_sec: attr.mtime.seconds,
            tv_nsec: attr.mtime.nanos.into(),
        };
        // The time of access is what a mount shows, too.
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        match self {
            Self::Open(fd) => rustix::fs::futimens(fd, &times),
            Self::In(dir, name) => {
                rustix::fs::utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW)
            }
        }
    }
}

impl Copy<'_> {
    /// Gives an object all that the union says of it.
    pub(super) fn furnish(
        &self,
        object: Object<'_>,
        places: &Places,
        name: Name,
        ino: Ino,
        attr: &Attr,
    ) -> Result<(), CopyError> {
        // A change of the owner takes setuid, setgid and capabilities away (chown(2)).
        let owned = object.chown(attr.uid, attr.gid);
        owned.map_err(|error| CopyError::Owner {
            path: self.path(places, name),
            uid: attr.uid,
            gid: attr.gid,
            source: error.into(),
        })?;
        if self.with_xattrs {
            self.set_xattrs(object, places, name, ino, attr.kind)?;
        }
        // Behind the access control lists, which change it.
        if attr.kind != Kind::Symlink {
            let changed = object.chmod(attr.mode);
            changed.map_err(|error| self.failed("set the mode of", places, name)(error))?;
        }
        let timed = object.set_times(attr);
        timed.map_err(|error| self.failed("set the times of", places, name)(error))
    }

    fn set_xattrs(
        &self,
        object: Object<'_>,
        places: &Places,
        name: Name,
        ino: Ino,
        kind: Kind,
    ) -> Result<(), CopyError> {
        let xattrs = self.union.xattrs(ino);
        let xattrs = xattrs.map_err(|error| self.unreadable(places, name, ino, error))?;
        for (key, value) in xattrs {
            // The kernel lets nobody set or see these (xattr(7), "Extended user attributes").
            if key.starts_with(b"user.") && !matches!(kind, Kind::File | Kind::Dir) {
                continue;
            }
            let set = object.set_xattr(&key, &value);
            set.map_err(|error| CopyError::Attribute {
                path: self.path(places, name),
                name: printable(&key).to_string(),
                source: io::Error::from(error),
            })?;
        }
        Ok(())
    }
}
