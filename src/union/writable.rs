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

//!
//! One file per question:
//! * `nodes`: what is known, and where it is;
//! * `dirs`: directories of the upper directory, their names in memory;
//! * `look`: lookup, attributes, listings;
//! * `groups`: hard link groups of layers, and where a layer's directory is now;
//! * `copy_up`: what is changed goes up first;
//! * `contents`: opening, reading, holes;
//! * `change`: making and removing names, attributes;
//! * `rename`; `acl`: what directories hand down;
//! * `changes`: what is not as the layers have it; `above`: as a layer above them;
//! * `unchanged`: a tree without an upper directory, to be looked at.
//!
//! Locks, in the order in which they may be taken: `copying` of one object (while its
//! contents are copied, as long as that takes), `changes` (one change of names at a
//! time; only short calls to the upper directory), names of one directory or `finding` (the upper
//! directory's idea of what is known and the table agree), `table`.

mod above;
mod acl;
mod change;
mod changes;
mod contents;
mod copy_up;
mod dirs;
mod groups;
mod look;
mod nodes;
mod rename;
mod unchanged;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use parking_lot::Mutex;

use super::upper::{self, Change, Data, Mark, Marks, SetTime, SetXattr, Space, Stat, Upper};
use super::{FsError, Union};
use crate::node::{Attr, Ino, Kind};
use crate::tree_path::TreePath;
pub use above::{Said, Says};
pub use changes::{Difference, Differs};
use dirs::Dir;
use nodes::{Node, Table};

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
    /// A 0/0 character device, visible to programs, is left at the old name
    /// (RENAME_WHITEOUT, as another overlayfs above asks for it).
    Whiteout {
        /// What is at the new name is replaced; else EEXIST (with RENAME_NOREPLACE).
        replace: bool,
        /// Whose the device is: user and group, unless the directory hands down its own.
        owner: (u32, u32),
    },
}

/// A tree that can be changed. All methods may be called from many threads.
#[derive(Debug)]
pub struct Writable {
    lower: Arc<Union>,
    upper: Arc<dyn Upper>,
    table: Mutex<Table>,
    finding: Mutex<()>,
    changes: Mutex<()>,
    /// Files whose contents are being copied up.
    copying: Mutex<HashMap<Ino, Arc<Mutex<()>>>>,
    /// Every directory of the upper directory has its node.
    scanned: AtomicBool,
    /// Nothing may be written to the upper directory: it is only looked at.
    frozen: bool,
}

/// Where a directory is.
#[derive(Debug, Clone)]
enum Where {
    /// In the upper directory, too.
    Upper(Arc<Dir>),
    /// In the layers alone.
    Lower(Ino),
}

/// The origin mark of a top directory that has its attributes.
const ROOT_ORIGIN: &[u8] = b"/";

impl Writable {
    /// The tree of `lower` with the changes that `upper` has. A new upper directory
    /// gets the attributes of the layers' root.
    ///
    /// # Errors
    /// The upper directory cannot be read or written; a layer is damaged.
    pub fn new(lower: Arc<Union>, upper: Arc<dyn Upper>) -> Result<Self, FsError> {
        let this = Self::over(lower, upper, false)?;
        if this.is_new()? {
            this.adopt_root()?;
        }
        Ok(this)
    }

    /// The same tree, to be looked at: nothing is written to the upper directory, which
    /// may be in use by another mount. A file that a crash left in a group half copied
    /// up has two contents then, which [`Self::changes`] and [`Self::layer`] know.
    ///
    /// # Errors
    /// Those of [`Self::new`].
    pub fn frozen(lower: Arc<Union>, upper: Arc<dyn Upper>) -> Result<Self, FsError> {
        Self::over(lower, upper, true)
    }

    fn over(lower: Arc<Union>, upper: Arc<dyn Upper>, frozen: bool) -> Result<Self, FsError> {
        let key = upper.root();
        let marks = upper.marks(key).map_err(FsError::Upper)?;
        let mut table = Table::default();
        let below = (!marks.opaque).then_some(Ino::ROOT);
        let root = Dir::new(Ino::ROOT, key, below, (Ino::ROOT, b""), &marks, false);
        table.put(Ino::ROOT, Node::Dir(Arc::new(root)));
        // The root is known without being looked up (FUSE_ROOT_ID).
        table.count(Ino::ROOT);
        Ok(Self {
            lower,
            upper,
            table: Mutex::new(table),
            finding: Mutex::default(),
            changes: Mutex::default(),
            copying: Mutex::default(),
            scanned: AtomicBool::new(false),
            frozen,
        })
    }

    /// Whether no mount has had the upper directory yet.
    fn is_new(&self) -> Result<bool, FsError> {
        let marks = self.upper.marks(self.upper.root());
        Ok(marks.map_err(FsError::Upper)? == Marks::default() && self.is_empty()?)
    }

    fn is_empty(&self) -> Result<bool, FsError> {
        let mut empty = true;
        let listed = self
            .upper
            .list(self.upper.root(), &mut |_, _| empty = false);
        listed.map_err(FsError::Upper)?;
        Ok(empty)
    }

    /// Gives the top directory what the layers' root has. The mark comes last: without
    /// it all of this is done again.
    fn adopt_root(&self) -> Result<(), FsError> {
        let key = self.upper.root();
        let attr = self.lower.attr(Ino::ROOT)?;
        let change = Change {
            mode: Some(attr.mode),
            uid: Some(attr.uid),
            gid: Some(attr.gid),
            ..Change::default()
        };
        self.upper.set_attr(key, &change).map_err(FsError::Upper)?;
        for (name, value) in self.lower.xattrs(Ino::ROOT)? {
            match self.upper.set_xattr(key, &name, &value, SetXattr::Any) {
                Err(error) if is_refused(&error) && upper::may_be_left(&name) => {}
                set => set.map_err(FsError::Upper)?,
            }
        }
        let change = Change {
            atime: Some(SetTime::To(attr.mtime)),
            mtime: Some(SetTime::To(attr.mtime)),
            ..Change::default()
        };
        self.upper.set_attr(key, &change).map_err(FsError::Upper)?;
        self.upper
            .mark(key, Mark::Origin(ROOT_ORIGIN))
            .map_err(FsError::Upper)
    }

    /// The layers' tree.
    #[must_use]
    pub fn lower(&self) -> &Arc<Union> {
        &self.lower
    }

    /// Room of the upper directory's file system.
    ///
    /// # Errors
    /// As statvfs(3).
    pub fn space(&self) -> Result<Space, FsError> {
        self.upper.space().map_err(FsError::Upper)
    }

    /// Lets go of what is held in case that somebody asks.
    pub fn rest(&self) {
        self.upper.rest();
    }

    /// Whoever was told of `ino` (by `lookup`, `make`, `link`) forgets it `times` times.
    pub fn forget(&self, ino: Ino, times: u64) {
        let _finding = self.finding.lock();
        let mut table = self.table.lock();
        let node = table.forget(ino, times);
        drop(table);
        match node {
            Some(Node::Dir(dir)) if dir.is_gone() => self.upper.forget(dir.key),
            Some(Node::Dir(dir)) => dir.drop_names(),
            Some(Node::File(file)) => self.upper.forget(file.key),
            Some(Node::Gone) | None => {}
        }
    }

    /// A path that leads to the object, for messages; of what is no directory, the
    /// path that layers have it at.
    ///
    /// # Errors
    /// `Stale`: none is remembered. `Damaged`.
    pub fn path_of(&self, ino: Ino) -> Result<TreePath, FsError> {
        let file = match self.node(ino) {
            Some(Node::File(file)) => Some(file.below.unwrap_or(ino)),
            Some(Node::Gone) => Some(ino),
            Some(Node::Dir(_)) => None,
            None if self.lower_kind(ino)?.kind == Kind::Dir => None,
            None => Some(ino),
        };
        if let Some(file) = file {
            return self.lower.path_of(file);
        }
        // Directories above may have been renamed, in the upper directory alone.
        let mut names = Vec::new();
        let mut at = ino;
        while at != Ino::ROOT {
            let (parent, name) = match self.node(at) {
                Some(Node::Dir(dir)) => dir.home(),
                _ => {
                    let (parent, name) = self.lower.home(at)?;
                    (parent, name.into())
                }
            };
            names.push(name);
            at = parent;
        }
        let down = names.iter().rev();
        Ok(down.fold(TreePath::root(), |path, name| path.child(name)))
    }

    fn node(&self, ino: Ino) -> Option<Node> {
        self.table.lock().node(ino).cloned()
    }

    /// Where a directory that somebody knows is.
    fn dir(&self, ino: Ino) -> Result<Where, FsError> {
        match self.node(ino) {
            Some(Node::Dir(dir)) => Ok(Where::Upper(dir)),
            Some(Node::File(_)) => Err(FsError::NotDir),
            Some(Node::Gone) => Err(match self.lower_kind(ino)?.kind {
                Kind::Dir => FsError::NotFound,
                _ => FsError::NotDir,
            }),
            None => Ok(Where::Lower(ino)),
        }
    }

    /// Whether a known object is a directory, which it stays.
    fn is_dir(&self, ino: Ino) -> Result<bool, FsError> {
        Ok(match self.node(ino) {
            Some(Node::Dir(_)) => true,
            Some(Node::File(_)) => false,
            Some(Node::Gone) | None => self.lower_kind(ino)?.kind == Kind::Dir,
        })
    }

    fn lower_kind(&self, ino: Ino) -> Result<Attr, FsError> {
        self.lower.attr(ino)
    }
}

/// Whether the system does not let this process do something.
fn is_refused(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::Unsupported
    )
}

/// Names that nothing can be made under.
fn check_name(name: &[u8]) -> Result<(), FsError> {
    if name.len() > crate::tree_path::NAME_MAX {
        return Err(FsError::NameTooLong);
    }
    if matches!(name, b"." | b"..") {
        return Err(FsError::Exists);
    }
    Ok(())
}

/// What `stat` tells of an object of a layer: a tar has one time of each.
fn lower_stat(attr: Attr) -> Stat {
    Stat {
        attr,
        atime: attr.mtime,
        ctime: attr.mtime,
    }
}
