//! Paths: from names to objects, and back.
//!
//! What it is for: what `ls IMAGE:PATH` and the targets of hard links need. The
//! kernel walks paths itself and never comes here.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};

use super::numbers::Place;
use super::stack::{Dir, Object, Step, no_tree};
use super::{Found, FsError, Union};
use crate::layer::{ReadError, Row};
use crate::node::{Ino, Kind};
use crate::tree_path::{DEPTH_MAX, TreePath};

/// Symlinks that one walk follows (`MAXSYMLINKS` of the kernel, `namei.h`).
const LINKS_MAX: u32 = 40;

/// Steps of all hard links into lower layers of a union. As many links as one layer may have,
/// four million, can be 16 names deep; of those that are made to take long (40 symlinks of
/// 2048 names), 800 are too many. It is a matter of seconds.
const STEPS_MAX: u64 = 1 << 26;

/// Where a walk ended.
#[derive(Debug, Clone)]
pub(super) enum Reached {
    /// At a directory.
    Dir(Dir),
    /// At anything else.
    Object(Object),
}

/// What following names may cost.
#[derive(Debug)]
pub struct Effort<'a> {
    /// Names that may still be looked up, each counted once for every layer that is asked.
    left: Cell<u64>,
    stop: Option<&'a AtomicBool>,
}

impl<'a> Effort<'a> {
    /// So many steps, and none once `stop` is set.
    #[must_use]
    pub fn new(steps: u64, stop: &'a AtomicBool) -> Self {
        Self {
            left: Cell::new(steps),
            stop: Some(stop),
        }
    }

    /// As many as the hard links of a union may take, and none once `stop` is set.
    #[must_use]
    pub fn of_links(stop: &'a AtomicBool) -> Self {
        Self::new(STEPS_MAX, stop)
    }

    /// One walk, which the length of paths and the number of symlinks bound; or many that were bounded once.
    pub(super) fn of_one() -> Self {
        Self {
            left: Cell::new(u64::MAX),
            stop: None,
        }
    }

    pub(super) fn spend(&self, steps: usize) -> Result<(), FsError> {
        if self.stop.is_some_and(|stop| stop.load(Ordering::Relaxed)) {
            return Err(FsError::Interrupted);
        }
        let left = self.left.get().checked_sub(steps as u64);
        self.left.set(left.ok_or(FsError::TooManySteps)?);
        Ok(())
    }
}

/// How to find what a hard link into lower layers (layer, number) stands for.
pub(super) type LinkOf<'a> = &'a dyn Fn(u32, u32) -> Result<Option<Object>, FsError>;

impl Union {
    /// Walks from `root`, inside it: absolute symlinks begin there, `..` ends there.
    pub(super) fn walk(
        &self,
        root: &Dir,
        path: &TreePath,
        follow: bool,
        link_of: LinkOf<'_>,
        effort: &Effort<'_>,
    ) -> Result<Reached, FsError> {
        // The directories down to where the walk stands; the root is not in it.
        let mut above: Vec<Dir> = Vec::new();
        // What is still to be walked, the next name last.
        let mut names: Vec<Vec<u8>> = path.names().rev().map(<[u8]>::to_vec).collect();
        let mut links = 0;
        while let Some(name) = names.pop() {
            match name.as_slice() {
                b"" | b"." => {
                    effort.spend(1)?;
                    continue;
                }
                b".." => {
                    effort.spend(1)?;
                    above.pop();
                    continue;
                }
                _ => {}
            }
            let dir = above.last().unwrap_or(root);
            effort.spend(dir.parts().len())?;
            let object = match self.child(dir, &name)? {
                Step::Dir(dir) => {
                    above.push(dir);
                    continue;
                }
                Step::Object(object) => object,
                Step::Link { layer, n } => link_of(layer, n)?.ok_or(FsError::NotFound)?,
                Step::Absent => return Err(FsError::NotFound),
            };
            if object.kind == Kind::Symlink && (follow || !names.is_empty()) {
                links += 1;
                if links > LINKS_MAX {
                    return Err(FsError::Loop);
                }
                let target = self.index(object.place).target(object.place.row)?;
                match target.first() {
                    None => return Err(FsError::NotFound),
                    Some(b'/') => above.clear(),
                    Some(_) => {}
                }
                // A target that ends in `/` leaves an empty name behind, which
                // only a directory can be followed by, as in path_resolution(7).
                names.extend(target.split(|&b| b == b'/').rev().map(<[u8]>::to_vec));
                continue;
            }
            return if names.is_empty() {
                Ok(Reached::Object(object))
            } else {
                Err(FsError::NotDir)
            };
        }
        Ok(Reached::Dir(above.pop().unwrap_or_else(|| root.clone())))
    }

    /// Walks a path from the root. Symlinks on the way are followed inside the
    /// tree, the last one only with `follow` (at most 40, as the kernel).
    ///
    /// # Errors
    /// `NotFound`, `NotDir`, `Loop`, `Damaged`.
    pub fn resolve(&self, path: &TreePath, follow: bool) -> Result<Found, FsError> {
        let link_of: LinkOf<'_> = &|layer, n| self.link(layer, n);
        let effort = Effort::of_one();
        let reached = self.walk(&self.root()?, path, follow, link_of, &effort)?;
        match reached {
            Reached::Dir(dir) => {
                self.remember(&dir);
                self.found_dir(&dir)
            }
            Reached::Object(object) => self.found(object.place),
        }
    }

    /// A name of the object, for messages.
    ///
    /// # Errors
    /// `Stale`, `Damaged`.
    pub fn path_of(&self, ino: Ino) -> Result<TreePath, FsError> {
        if ino == Ino::ROOT {
            return Ok(TreePath::root());
        }
        let place = self.place(ino)?;
        if self.index(place).node(place.row)?.dir.is_some() {
            return Ok(self.path_in_layer(place)?);
        }
        let (dir, name) = self.shown_name(place)?;
        Ok(self.path_in_layer(dir)?.child(&name))
    }

    /// The path of a directory, from the names in its layer.
    pub(super) fn path_in_layer(&self, place: Place) -> Result<TreePath, ReadError> {
        let mut names = Vec::new();
        let mut at = place;
        while at.row != Row::ROOT {
            let (parent, name) = self.name_in_layer(at)?;
            names.push(name);
            if names.len() > DEPTH_MAX {
                return Err(no_tree(self.index(place)));
            }
            at = at.sibling(parent);
        }
        names.reverse();
        let index = self.index(place);
        TreePath::parse(&names.join(&b'/')).map_err(|_| no_tree(index))
    }
}
