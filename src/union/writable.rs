//! Layers below, one upper directory above: a tree that can be changed.
//!
//! What it is for: every operation of a file system on the union of a read-only
//! [`Union`] and an [`Upper`], with the rules of overlayfs and three more: hard
//! links of layers stay one object, numbers stay as they are over copy-up, rename
//! and remount, and a directory of a layer can be renamed. May assume: nobody else
//! changes the upper directory meanwhile; whoever asks has been checked for
//! permission. Must not know where changes are kept, nor who asks.
//!
//! Numbers: what layers have keeps the number it has there, also after copy-up;
//! what is new has its [`Key`](super::upper::Key) behind the last of them.

use std::sync::Arc;

use super::upper::{Change, Data, SetXattr, Space, Stat, Upper, What};
use super::{FsError, Listed, Union, Xattrs};
use crate::node::Ino;
use crate::tree_path::TreePath;

/// An object as `lookup` finds it or a change has made it. Whoever is told of
/// one owes a [`Writable::forget`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// Its number.
    pub ino: Ino,
    /// What `stat` tells.
    pub stat: Stat,
}

/// Who makes an object, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Maker {
    /// Owner of what is made.
    pub uid: u32,
    /// Group of what is made, unless the directory hands down its own.
    pub gid: u32,
    /// Wanted permission bits: 0 to 0o7777.
    pub mode: u16,
    /// Bits that are taken away, unless the directory has a default access
    /// control list (acl(5)).
    pub umask: u16,
}

/// What a file is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Open {
    /// Reading alone: nothing is copied up.
    Read,
    /// Writing: contents are copied up first.
    Write,
    /// Writing, and its contents go (O_TRUNC): none are copied.
    Truncate,
}

/// Where a file's contents are at the moment.
#[derive(Debug, Clone)]
pub enum Contents {
    /// In a layer: [`Writable::read`] has them. They may be copied up any time.
    Lower,
    /// In the upper directory, for as long as the file exists.
    Upper(Arc<dyn Data>),
}

/// How a rename treats what is at the new name (renameat2(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rename {
    /// It is replaced.
    Replace,
    /// EEXIST (RENAME_NOREPLACE).
    NoReplace,
    /// Both change places (RENAME_EXCHANGE).
    Exchange,
    /// It is replaced, and a 0/0 character device, visible to programs, is left
    /// at the old name (RENAME_WHITEOUT, as another overlayfs above asks for it).
    Whiteout,
}

/// A tree that can be changed. All methods may be called from many threads.
#[derive(Debug)]
pub struct Writable {
    lower: Arc<Union>,
    upper: Arc<dyn Upper>,
}

#[expect(unused_variables, reason = "skeleton")]
#[expect(clippy::missing_errors_doc, reason = "skeleton")]
impl Writable {
    /// The tree of `lower` with the changes that `upper` has.
    ///
    /// # Errors
    /// The upper directory cannot be read.
    pub fn new(lower: Arc<Union>, upper: Arc<dyn Upper>) -> Result<Self, FsError> {
        Ok(Self { lower, upper })
    }

    /// The layers' tree.
    #[must_use]
    pub fn lower(&self) -> &Arc<Union> {
        &self.lower
    }

    /// Looks up a name in a directory; the object is known once more.
    pub fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Known, FsError> {
        unimplemented!()
    }

    /// Whoever was told of `ino` (by `lookup`, `make`, `link`) forgets it `times` times.
    pub fn forget(&self, ino: Ino, times: u64) {
        unimplemented!()
    }

    /// What `stat` tells of a known object.
    pub fn attr(&self, ino: Ino) -> Result<Stat, FsError> {
        unimplemented!()
    }

    /// Lists a directory from behind `cookie` (0: the beginning) until `visit` says
    /// false. Cookies of names never change while the directory is known; what is
    /// made or removed meanwhile disturbs no other name. `visit` may call any method.
    pub fn list(
        &self,
        dir: Ino,
        cookie: u64,
        visit: &mut dyn FnMut(Listed<'_>) -> bool,
    ) -> Result<(), FsError> {
        unimplemented!()
    }

    /// A symlink's target.
    pub fn target(&self, ino: Ino) -> Result<Vec<u8>, FsError> {
        unimplemented!()
    }

    /// Extended attributes, sorted by name.
    pub fn xattrs(&self, ino: Ino) -> Result<Xattrs, FsError> {
        unimplemented!()
    }

    /// One extended attribute. `NoAttribute`: there is none of that name.
    pub fn xattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>, FsError> {
        unimplemented!()
    }

    /// Whether opening a file for writing, or changing its size, has contents to copy: it may take long.
    #[must_use]
    pub fn copies(&self, ino: Ino) -> bool {
        unimplemented!()
    }

    /// A regular file's contents. For writing they are copied up first.
    pub fn open(&self, ino: Ino, how: Open) -> Result<Contents, FsError> {
        unimplemented!()
    }

    /// Reads a regular file, wherever its contents are; may be slow.
    pub fn read(&self, ino: Ino, offset: u64, to: &mut [u8]) -> Result<usize, FsError> {
        unimplemented!()
    }

    /// Where the next data (`data`) or hole (else) of a file is; nothing at its end.
    pub fn seek(&self, ino: Ino, offset: u64, data: bool) -> Result<Option<u64>, FsError> {
        unimplemented!()
    }

    /// Room of the upper directory's file system.
    pub fn space(&self) -> Result<Space, FsError> {
        unimplemented!()
    }

    /// Makes an object; it is known once. Group, mode and access control lists
    /// follow the directory's setgid bit and default list (mkdir(2), acl(5)).
    pub fn make(
        &self,
        dir: Ino,
        name: &[u8],
        what: What<'_>,
        maker: &Maker,
    ) -> Result<Known, FsError> {
        unimplemented!()
    }

    /// Gives an object that is no directory one more name; it is known once more.
    pub fn link(&self, ino: Ino, dir: Ino, name: &[u8]) -> Result<Known, FsError> {
        unimplemented!()
    }

    /// Removes a name of anything but a directory.
    pub fn unlink(&self, dir: Ino, name: &[u8]) -> Result<(), FsError> {
        unimplemented!()
    }

    /// Removes an empty directory.
    pub fn rmdir(&self, dir: Ino, name: &[u8]) -> Result<(), FsError> {
        unimplemented!()
    }

    /// Renames.
    pub fn rename(&self, from: (Ino, &[u8]), to: (Ino, &[u8]), how: Rename) -> Result<(), FsError> {
        unimplemented!()
    }

    /// Sets attributes; contents are copied up only for a size.
    pub fn set_attr(&self, ino: Ino, change: &Change) -> Result<Stat, FsError> {
        unimplemented!()
    }

    /// Takes setuid, setgid (where the group may execute) and capabilities away,
    /// as a write by an ordinary user does.
    pub fn strip_privileges(&self, ino: Ino) -> Result<Stat, FsError> {
        unimplemented!()
    }

    /// Sets an extended attribute.
    pub fn set_xattr(
        &self,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        how: SetXattr,
    ) -> Result<(), FsError> {
        unimplemented!()
    }

    /// Removes an extended attribute. `NoAttribute`: there is none of that name.
    pub fn remove_xattr(&self, ino: Ino, name: &[u8]) -> Result<(), FsError> {
        unimplemented!()
    }

    /// Makes a file or directory durable, as fsync(2) and fdatasync(2) (`data_only`) say.
    pub fn sync(&self, ino: Ino, data_only: bool) -> Result<(), FsError> {
        unimplemented!()
    }

    /// A path that leads to the object, for messages.
    pub fn path_of(&self, ino: Ino) -> Result<TreePath, FsError> {
        unimplemented!()
    }
}
