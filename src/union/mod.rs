//! The heart: layers make one tree. No disk, no kernel.
//!
//! What it is for: every question that a read-only file system is asked, answered
//! from a stack of [`Layer`](crate::layer::Layer)s when it is asked. Nothing is
//! walked beforehand and nothing must be remembered: what is kept between two
//! questions lives in bounded caches and can be computed again. May assume that a
//! layer's index and contents check themselves. Must not know where they come from,
//! nor who asks.
//!
//! Numbers: a number that nothing has is `Stale`. One whose object higher layers
//! hide is never given out; asked for anyway, it is `Stale` or answers as its layer
//! has it, whichever costs less.
//!
//! One file per question:
//! * `numbers`: which number an object has;
//! * `stack`: which layers make a directory (the rules of whiteouts);
//! * `list`: names in order, and cookies;
//! * `links`: hard links across layers, and how many names an object has;
//! * `resolve`: paths;
//! * `holes`: sparse files;
//! * `cache`: what is kept between two questions.

mod below;
mod cache;
mod holes;
mod links;
mod list;
mod numbers;
mod resolve;
mod stack;
pub mod upper;
pub mod writable;

pub use resolve::Effort;

use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use crate::layer::path_set::PathSet;
use crate::layer::read::Node;
use crate::layer::{ReadError, SharedLayer};
use crate::node::{Attr, Ino, Kind};
use cache::Bounded;
use links::Links;
use numbers::{Numbers, Place};
use stack::{Dir, Step};

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
    /// ELOOP: all hard links into lower layers together
    #[error("following the hard links into lower layers takes too many steps")]
    TooManySteps,
    /// EINTR: somebody asked to stop
    #[error("interrupted")]
    Interrupted,
    /// ENODATA
    #[error("no such extended attribute")]
    NoAttribute,
    /// EEXIST
    #[error("file exists")]
    Exists,
    /// ENOTEMPTY
    #[error("directory not empty")]
    NotEmpty,
    /// ENAMETOOLONG: a name of more than 255 bytes
    #[error("name too long")]
    NameTooLong,
    /// EPERM: a hard link to a directory
    #[error("operation not permitted")]
    NotPermitted,
    /// EINVAL: a directory cannot be moved below itself
    #[error("a directory cannot be moved below itself")]
    BelowItself,
    /// The upper directory's file system refuses: its own errno
    #[error("the upper directory refuses")]
    Upper(#[source] std::io::Error),
    /// EIO: what the upper directory has makes no sense
    #[error("the upper directory is damaged: {0}")]
    UpperDamaged(String),
    /// ESTALE: a number that this union never gave out
    #[error("no such object")]
    Stale,
    /// EIO: a layer is damaged or cannot be read
    #[error("a layer cannot be read")]
    Damaged(#[from] ReadError),
}

/// Link count of a directory whose subdirectories are not counted, as btrfs and
/// overlayfs have it: each would have to be looked up in every whitelist.
pub const UNCOUNTED: u32 = 1;

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

/// Names and raw values of extended attributes, sorted by name.
pub type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// The tree that a stack of layers makes.
#[derive(Debug)]
pub struct Union {
    layers: Vec<SharedLayer>,
    /// The whitelists.
    sets: Vec<Arc<PathSet>>,
    /// For each layer those that it is restricted to; empty if none is.
    lists: Vec<Vec<usize>>,
    numbers: Numbers,
    /// Whether any layer has hard links into lower ones.
    linked: bool,
    root: OnceLock<Dir>,
    links: OnceLock<Links>,
    /// Held while `links` is made.
    building: Mutex<()>,
    /// For a directory of a layer the directory of the union that it is part of;
    /// nothing: it is hidden.
    dirs: Bounded<Place, Option<Dir>>,
    /// `nlink` where it takes counting.
    counts: Bounded<Ino, u32>,
    /// Where listings of merged directories stopped.
    stops: Bounded<list::Stop, Box<[u32]>>,
}

impl Union {
    /// The tree of `layers`, lowest first. Constant time per layer: nothing is walked.
    #[must_use]
    pub fn new(layers: Vec<SharedLayer>) -> Self {
        Self {
            numbers: Numbers::new(layers.iter().map(|layer| layer.index.summary().rows)),
            linked: layers
                .iter()
                .any(|layer| layer.index.summary().unresolved > 0),
            layers,
            sets: Vec::new(),
            lists: Vec::new(),
            root: OnceLock::new(),
            links: OnceLock::new(),
            building: Mutex::new(()),
            dirs: Bounded::new(stack::DIRS_WEIGHT),
            counts: Bounded::new(links::COUNTS_WEIGHT),
            stops: Bounded::new(list::STOPS_WEIGHT),
        }
    }

    /// The tree of layers of which some show only what is on all of their whitelists;
    /// lowest first. Constant time per layer, too.
    #[must_use]
    pub fn restricted(layers: Vec<(SharedLayer, Vec<Arc<PathSet>>)>) -> Self {
        let (layers, lists): (Vec<_>, Vec<_>) = layers.into_iter().unzip();
        let mut sets: Vec<Arc<PathSet>> = Vec::new();
        let mut number_of = |list: &Arc<PathSet>| {
            let known = sets.iter().position(|set| Arc::ptr_eq(set, list));
            known.unwrap_or_else(|| {
                sets.push(Arc::clone(list));
                sets.len() - 1
            })
        };
        let number = |lists: &Vec<Arc<PathSet>>| lists.iter().map(&mut number_of).collect();
        let lists: Vec<Vec<usize>> = lists.iter().map(number).collect();
        Self {
            lists: if sets.is_empty() { Vec::new() } else { lists },
            sets,
            ..Self::new(layers)
        }
    }

    /// The layers, lowest first.
    #[must_use]
    pub fn layers(&self) -> &[SharedLayer] {
        &self.layers
    }

    /// The largest number that this union gives out.
    #[must_use]
    pub fn last_ino(&self) -> Ino {
        self.numbers.last()
    }

    /// Looks up a name (`.` and `..` too) in a directory.
    ///
    /// # Errors
    /// `NotFound`, `NotDir`, `Stale`, `Damaged`.
    pub fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Found, FsError> {
        let parent = self.dir(dir)?;
        if name == b"." {
            let attr = self.attr(dir)?;
            return Ok(Found { ino: dir, attr });
        }
        if name == b".." {
            let ino = self.parent(dir)?;
            let attr = self.attr(ino)?;
            return Ok(Found { ino, attr });
        }
        match self.child(&parent, name)? {
            Step::Dir(dir) => {
                self.remember(&dir);
                self.found_dir(&dir)
            }
            Step::Object(object) => self.found(object.place),
            Step::Link { layer, n } => {
                let object = self.link(layer, n)?.ok_or(FsError::NotFound)?;
                self.found(object.place)
            }
            Step::Absent => Err(FsError::NotFound),
        }
    }

    /// What `stat` tells. `nlink` counts the names visible in this tree; it is
    /// [`UNCOUNTED`] for a directory that is restricted to whitelists.
    ///
    /// # Errors
    /// `Stale`, `Damaged`.
    pub fn attr(&self, ino: Ino) -> Result<Attr, FsError> {
        if ino == Ino::ROOT {
            return self.dir_attr(&self.root()?);
        }
        let place = self.place(ino)?;
        let node = self.index(place).node(place.row)?;
        match node.dir {
            Some(info) => self.dir_attr(&self.dir_of(place, info.implied)?),
            None => self.object_attr(place, &node),
        }
    }

    /// A symlink's target.
    ///
    /// # Errors
    /// `WrongKind`, `Stale`, `Damaged`.
    pub fn target(&self, ino: Ino) -> Result<Vec<u8>, FsError> {
        if ino == Ino::ROOT {
            return Err(FsError::WrongKind);
        }
        let place = self.place(ino)?;
        let index = self.index(place);
        match index.node(place.row)?.attr.kind {
            Kind::Symlink => Ok(index.target(place.row)?),
            _ => Err(FsError::WrongKind),
        }
    }

    /// Names and values of the extended attributes, sorted.
    ///
    /// # Errors
    /// `Stale`, `Damaged`.
    pub fn xattrs(&self, ino: Ino) -> Result<Xattrs, FsError> {
        let source = if ino == Ino::ROOT {
            self.root()?.source()
        } else {
            let place = self.place(ino)?;
            match self.index(place).node(place.row)?.dir {
                // They come from where the other attributes come from.
                Some(info) => self.dir_of(place, info.implied)?.source(),
                None => Some(place),
            }
        };
        match source {
            Some(place) => Ok(self.index(place).xattrs(place.row)?),
            None => Ok(Vec::new()),
        }
    }

    /// Whether any object of any layer has extended attributes.
    #[must_use]
    pub fn any_xattrs(&self) -> bool {
        self.layers
            .iter()
            .any(|layer| layer.index.summary().with_xattrs > 0)
    }

    /// Reads a regular file; returns the bytes read, 0 at its end. May be slow.
    ///
    /// # Errors
    /// `IsDir`, `WrongKind`, `Stale`, `Damaged`.
    pub fn read(&self, ino: Ino, offset: u64, to: &mut [u8]) -> Result<usize, FsError> {
        let place = self.file(ino)?;
        Ok(self.layers[place.layer as usize].read_file(place.row, offset, to)?)
    }

    /// As [`Self::read`], for one who reads files in the order of
    /// [`Self::contents_at`].
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_on(&self, ino: Ino, offset: u64, to: &mut [u8]) -> Result<usize, FsError> {
        let place = self.file(ino)?;
        Ok(self.layers[place.layer as usize].read_file_on(place.row, offset, to)?)
    }

    /// Where the next data (`data`) or hole (else) of a file is, at or behind
    /// `offset`; nothing at its end (lseek(2), `SEEK_DATA`, `SEEK_HOLE`).
    ///
    /// # Errors
    /// `IsDir`, `WrongKind`, `Stale`, `Damaged`.
    pub fn seek(&self, ino: Ino, offset: u64, data: bool) -> Result<Option<u64>, FsError> {
        let place = self.file(ino)?;
        let extents = self.index(place).extents(place.row)?;
        let found = if data {
            holes::next_data
        } else {
            holes::next_hole
        };
        Ok(found(&extents, offset))
    }

    /// Totals for `statfs`.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for layer in &self.layers {
            let summary = layer.index.summary();
            totals.bytes = totals.bytes.saturating_add(summary.bytes);
            totals.objects = totals.objects.saturating_add(summary.rows.into());
        }
        totals
    }

    /// Which layer (from the bottom, 0 the lowest) an object's data comes from.
    ///
    /// # Errors
    /// `Stale`.
    pub fn layer_of(&self, ino: Ino) -> Result<usize, FsError> {
        if ino == Ino::ROOT {
            return Ok(self.layers.len().saturating_sub(1));
        }
        Ok(self.place(ino)?.layer as usize)
    }

    /// Where a regular file's contents begin: its layer (0 the lowest) and the place in
    /// that layer's uncompressed tar. Whoever reads many files in this order has each
    /// layer decoded once.
    ///
    /// # Errors
    /// `IsDir`, `WrongKind`, `Stale`, `Damaged`.
    pub fn contents_at(&self, ino: Ino) -> Result<(usize, u64), FsError> {
        let place = self.file(ino)?;
        let extents = self.index(place).extents(place.row)?;
        Ok((place.layer as usize, extents.start))
    }

    fn place(&self, ino: Ino) -> Result<Place, FsError> {
        self.numbers.place(ino).ok_or(FsError::Stale)
    }

    /// The place of a regular file.
    fn file(&self, ino: Ino) -> Result<Place, FsError> {
        if ino == Ino::ROOT {
            return Err(FsError::IsDir);
        }
        let place = self.place(ino)?;
        match self.index(place).node(place.row)?.attr.kind {
            Kind::File => Ok(place),
            Kind::Dir => Err(FsError::IsDir),
            _ => Err(FsError::WrongKind),
        }
    }

    /// Number and attributes of an object that is no directory.
    fn found(&self, place: Place) -> Result<Found, FsError> {
        let node = self.index(place).node(place.row)?;
        Ok(Found {
            ino: self.numbers.of(place),
            attr: self.object_attr(place, &node)?,
        })
    }

    fn object_attr(&self, place: Place, node: &Node) -> Result<Attr, FsError> {
        Ok(Attr {
            nlink: self.count_names(place, node)?,
            ..node.attr
        })
    }

    fn found_dir(&self, dir: &Dir) -> Result<Found, FsError> {
        Ok(Found {
            ino: self.dir_number(dir),
            attr: self.dir_attr(dir)?,
        })
    }

    fn dir_attr(&self, dir: &Dir) -> Result<Attr, FsError> {
        let node = |place: Place| self.index(place).node(place.row);
        let attr = match dir.source() {
            Some(place) => node(place)?.attr,
            None => stack::UNNAMED,
        };
        let nlink = match dir.parts() {
            [] => stack::UNNAMED.nlink,
            parts if parts.iter().any(|part| self.is_restricted(part.layer)) => UNCOUNTED,
            [only] if dir.source() == Some(*only) => attr.nlink,
            [only] => node(*only)?.attr.nlink,
            _ => self.merged_nlink(dir)?,
        };
        Ok(Attr { nlink, ..attr })
    }

    fn merged_nlink(&self, dir: &Dir) -> Result<u32, ReadError> {
        let ino = self.dir_number(dir);
        if let Some(count) = self.counts.get(&ino) {
            return Ok(count);
        }
        // `..` of every subdirectory, `.`, and the name itself.
        let count = self.count_dirs(dir)?.saturating_add(2);
        self.counts.put(ino, count, 1);
        Ok(count)
    }
}
