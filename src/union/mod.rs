//! The heart: layers make one tree. No disk, no kernel.
//!
//! STUB: to be written. The types and signatures below are fixed.

use crate::layer::{ReadError, SharedLayer};
use crate::node::{Attr, Ino, Kind};
use crate::tree_path::TreePath;

/// What a file system call can fail with. One place gives each its errno: `fuse/errno.rs`.
#[derive(Debug, thiserror::Error)]
pub enum FsError {
    /// ENOENT
    #[error("no such file or directory")]
    NotFound,
    /// ENOTDIR
    #[error("not a directory")]
    NotDir,
    /// EISDIR
    #[error("is a directory")]
    IsDir,
    /// EINVAL: not a symlink, or not a regular file
    #[error("not of the right type")]
    WrongKind,
    /// ELOOP
    #[error("too many levels of symbolic links")]
    Loop,
    /// ENODATA
    #[error("no such extended attribute")]
    NoAttribute,
    /// ESTALE: a number that this union never gave out
    #[error("no such object")]
    Stale,
    /// EIO: a layer is damaged or cannot be read
    #[error("a layer cannot be read")]
    Damaged(#[from] ReadError),
}

/// One object as `lookup` finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Its number: stable over remounts of the same layers.
    pub ino: Ino,
    /// What `stat` tells.
    pub attr: Attr,
}

/// One name in a listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed<'a> {
    /// Where a later call goes on behind this name (a readdir cookie, never 0).
    pub cookie: u64,
    /// The name; `.` and `..` are listed too.
    pub name: &'a [u8],
    /// The number that `lookup` of the name gives.
    pub ino: Ino,
    /// Its kind.
    pub kind: Kind,
}

/// Totals for `statfs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Sum of the layers' file sizes, in bytes (what upper layers hide included).
    pub bytes: u64,
    /// Sum of the layers' objects.
    pub objects: u64,
}

/// The tree that a stack of layers makes.
#[derive(Debug)]
pub struct Union {
    _layers: Vec<SharedLayer>,
}

impl Union {
    /// The tree of `layers`, lowest first. Constant time per layer: nothing is walked.
    #[must_use]
    pub fn new(layers: Vec<SharedLayer>) -> Self {
        Self { _layers: layers }
    }

    /// The layers, lowest first.
    #[must_use]
    pub fn layers(&self) -> &[SharedLayer] {
        unimplemented!()
    }

    /// The largest number that this union gives out.
    #[must_use]
    pub fn last_ino(&self) -> Ino {
        unimplemented!()
    }

    /// Looks up a name (`.` and `..` too) in a directory.
    ///
    /// # Errors
    /// `NotFound`, `NotDir`, `Stale`, `Damaged`.
    pub fn lookup(&self, _dir: Ino, _name: &[u8]) -> Result<Found, FsError> {
        unimplemented!()
    }

    /// What `stat` tells. `nlink` counts the names visible in this tree.
    ///
    /// # Errors
    /// `Stale`, `Damaged`.
    pub fn attr(&self, _ino: Ino) -> Result<Attr, FsError> {
        unimplemented!()
    }

    /// Lists a directory from behind `cookie` (0: the beginning) until `visit` says false.
    ///
    /// # Errors
    /// `NotDir`, `Stale`, `Damaged`.
    pub fn list(
        &self,
        _dir: Ino,
        _cookie: u64,
        _visit: &mut dyn FnMut(Listed<'_>) -> bool,
    ) -> Result<(), FsError> {
        unimplemented!()
    }

    /// A symlink's target.
    ///
    /// # Errors
    /// `WrongKind`, `Stale`, `Damaged`.
    pub fn target(&self, _ino: Ino) -> Result<Vec<u8>, FsError> {
        unimplemented!()
    }

    /// Names and values of the extended attributes, sorted.
    ///
    /// # Errors
    /// `Stale`, `Damaged`.
    pub fn xattrs(&self, _ino: Ino) -> Result<Vec<(Vec<u8>, Vec<u8>)>, FsError> {
        unimplemented!()
    }

    /// Whether any object of any layer has extended attributes.
    #[must_use]
    pub fn any_xattrs(&self) -> bool {
        unimplemented!()
    }

    /// Reads a regular file; returns the bytes read, 0 at its end. May be slow.
    ///
    /// # Errors
    /// `IsDir`, `WrongKind`, `Stale`, `Damaged`.
    pub fn read(&self, _ino: Ino, _offset: u64, _to: &mut [u8]) -> Result<usize, FsError> {
        unimplemented!()
    }

    /// Where the next data (`data`) or hole (else) of a file is, at or behind
    /// `offset`; nothing at its end (lseek(2), `SEEK_DATA`, `SEEK_HOLE`).
    ///
    /// # Errors
    /// `IsDir`, `WrongKind`, `Stale`, `Damaged`.
    pub fn seek(&self, _ino: Ino, _offset: u64, _data: bool) -> Result<Option<u64>, FsError> {
        unimplemented!()
    }

    /// Walks a path from the root. Symlinks on the way are followed inside the
    /// tree, the last one only with `follow` (at most 40, as the kernel).
    ///
    /// # Errors
    /// `NotFound`, `NotDir`, `Loop`, `Damaged`.
    pub fn resolve(&self, _path: &TreePath, _follow: bool) -> Result<Found, FsError> {
        unimplemented!()
    }

    /// A name of the object, for messages.
    ///
    /// # Errors
    /// `Stale`, `Damaged`.
    pub fn path_of(&self, _ino: Ino) -> Result<TreePath, FsError> {
        unimplemented!()
    }

    /// Hard links that lead nowhere: path of the link and of its target.
    ///
    /// # Errors
    /// `Damaged`.
    pub fn dangling_links(&self) -> Result<Vec<(TreePath, TreePath)>, FsError> {
        unimplemented!()
    }

    /// Totals for `statfs`.
    #[must_use]
    pub fn totals(&self) -> Totals {
        unimplemented!()
    }

    /// Which layer (from the bottom, 0 the lowest) an object's data comes from.
    ///
    /// # Errors
    /// `Stale`.
    pub fn layer_of(&self, _ino: Ino) -> Result<usize, FsError> {
        unimplemented!()
    }
}
