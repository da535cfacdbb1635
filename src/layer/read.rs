//! An index, asked.
//!
//! STUB: to be written. The types below are fixed.

use std::sync::Arc;

use super::blocks::BlockCache;
use super::tar::Extent;
use super::{Dialect, ReadError, Row, Source};
use crate::digest::{DiffId, Digest};
use crate::node::{Attr, Kind};
use crate::tree_path::TreePath;

/// What a name in a directory of one layer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hit {
    /// An object of this layer.
    Node(Row, Kind),
    /// A hard link to something in lower layers: number in [`Index::unresolved`].
    Link(u32),
    /// Lower layers' entry of this name is hidden.
    Whiteout,
    /// This layer says nothing of the name.
    Absent,
}

/// What the index says of one directory, beyond its attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirInfo {
    /// The directory it lies in; the root's is the root.
    pub parent: Row,
    /// Nothing of lower layers shows through (`.wh..wh..opq`).
    pub opaque: bool,
    /// No member names it, only something below it: its attributes are those of
    /// the next lower layer that has the directory, else 0755 root, time 0.
    pub implied: bool,
    /// Entries that the layer lists in it, whiteouts included.
    pub entries: u32,
}

/// One object of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node {
    /// What `stat` tells. `nlink` counts the names within this layer; a
    /// directory's is 2 + the subdirectories that this layer lists in it.
    pub attr: Attr,
    /// For directories.
    pub dir: Option<DirInfo>,
    /// Whether it has extended attributes.
    pub has_xattrs: bool,
}

/// Where a regular file's bytes lie in the uncompressed tar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extents {
    /// Where the stored data begins, in bytes.
    pub start: u64,
    /// The file's size, in bytes.
    pub size: u64,
    /// The stored stretches of a sparse file; nothing: all of it is stored.
    pub map: Option<Vec<Extent>>,
}

/// A hard link whose target lies in a lower layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unresolved {
    /// The directory that has the name.
    pub dir: Row,
    /// The name.
    pub name: Vec<u8>,
    /// What it leads to, from the root of the image.
    pub target: TreePath,
}

/// What a layer adds, in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Summary {
    /// Rows (objects, the root and implied directories included).
    pub rows: u32,
    /// Names listed in directories, whiteouts included.
    pub entries: u32,
    /// Regular files.
    pub files: u32,
    /// Directories.
    pub dirs: u32,
    /// Whiteouts and opaque marks.
    pub whiteouts: u32,
    /// Hard links into lower layers.
    pub unresolved: u32,
    /// Objects with extended attributes.
    pub with_xattrs: u32,
    /// Sum of the sizes of all regular files, in bytes.
    pub bytes: u64,
}

/// An index, opened.
#[derive(Debug)]
pub struct Index {}

impl Index {
    /// Opens a sealed index: constant time, reads header and footer only.
    ///
    /// # Errors
    /// Damage, another version, failure to read.
    pub fn open(_source: Box<dyn Source>, _cache: Arc<BlockCache>) -> Result<Self, ReadError> {
        unimplemented!()
    }

    /// The layer it describes.
    #[must_use]
    pub fn diff_id(&self) -> DiffId {
        unimplemented!()
    }

    /// What special names mean in it.
    #[must_use]
    pub fn dialect(&self) -> Dialect {
        unimplemented!()
    }

    /// Length of the uncompressed tar in bytes.
    #[must_use]
    pub fn tar_len(&self) -> u64 {
        unimplemented!()
    }

    /// What the layer adds, in numbers (from the header).
    #[must_use]
    pub fn summary(&self) -> Summary {
        unimplemented!()
    }

    /// Looks a name up in a directory.
    ///
    /// # Errors
    /// Damage; also when `dir` is no directory.
    pub fn lookup(&self, _dir: Row, _name: &[u8]) -> Result<Hit, ReadError> {
        unimplemented!()
    }

    /// Lists a directory in the order of the names' bytes, from entry number
    /// `from` on, until `visit` (number, name, hit) says false.
    ///
    /// # Errors
    /// Damage; also when `dir` is no directory.
    pub fn list(
        &self,
        _dir: Row,
        _from: u32,
        _visit: &mut dyn FnMut(u32, &[u8], Hit) -> bool,
    ) -> Result<(), ReadError> {
        unimplemented!()
    }

    /// An object's attributes.
    ///
    /// # Errors
    /// Damage; also when there is no such row.
    pub fn node(&self, _row: Row) -> Result<Node, ReadError> {
        unimplemented!()
    }

    /// An object's extended attributes: full names and raw values, sorted by name.
    ///
    /// # Errors
    /// Damage; also when there is no such row.
    pub fn xattrs(&self, _row: Row) -> Result<Vec<(Vec<u8>, Vec<u8>)>, ReadError> {
        unimplemented!()
    }

    /// A symlink's target.
    ///
    /// # Errors
    /// Damage; also when the row is no symlink.
    pub fn target(&self, _row: Row) -> Result<Vec<u8>, ReadError> {
        unimplemented!()
    }

    /// Where a regular file's bytes lie.
    ///
    /// # Errors
    /// Damage; also when the row is no regular file.
    pub fn extents(&self, _row: Row) -> Result<Extents, ReadError> {
        unimplemented!()
    }

    /// The SHA-256 of a regular file's stored data.
    ///
    /// # Errors
    /// Damage; also when the row is no regular file.
    pub fn digest(&self, _row: Row) -> Result<Digest, ReadError> {
        unimplemented!()
    }

    /// All names that an object has in this layer, each with its directory
    /// (one for a directory; none for the root).
    ///
    /// # Errors
    /// Damage; also when there is no such row.
    pub fn names(&self, _row: Row) -> Result<Vec<(Row, Vec<u8>)>, ReadError> {
        unimplemented!()
    }

    /// The hard links that lead into lower layers; `Hit::Link` is a place herein.
    ///
    /// # Errors
    /// Damage.
    pub fn unresolved(&self) -> Result<&[Unresolved], ReadError> {
        unimplemented!()
    }

    /// Reads all of it and checks every rule of the format: references, order,
    /// names, that directories form one tree.
    ///
    /// # Errors
    /// The first rule broken.
    pub fn verify(&self) -> Result<(), ReadError> {
        unimplemented!()
    }
}
