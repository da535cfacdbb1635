//! Which layers make a directory.
//!
//! What it is for: a directory of the union is a stack of directories of
//! layers, from the topmost that contributes downwards. This file holds the
//! rules by which the stack of a child follows from the stack of its parent,
//! and finds the stack of a place from its path.
//!
//! The rules (OCI image spec, layer.md, "Applying Changesets"; the naive tree in
//! `tests/support/model.rs` is their definition): going down the parent's stack,
//! * a directory of the name joins the stack;
//! * an opaque one is the last that does;
//! * a whiteout or anything that is no directory ends it, and is what the name
//!   stands for when nothing joined before;
//! * a layer that says nothing of the name is passed.
//!
//! A layer may be restricted to whitelists (AppC): what is not on all of them is as
//! if the layer did not have it.

use std::sync::Arc;

use super::numbers::Place;
use super::{FsError, Union};
use crate::layer::path_set::{Listed, PathKey};
use crate::layer::read::{Hit, Index};
use crate::layer::{ReadError, Row};
use crate::node::{Attr, Device, Ino, Kind, Time};
use crate::tree_path::DEPTH_MAX;

/// What the merged directories that are kept may weigh together; see
/// [`Dir::weight`]. About 2 MiB.
pub(super) const DIRS_WEIGHT: usize = 32 << 10;

#[derive(Debug, Clone)]
enum Parts {
    /// By far the most frequent: no list to allocate.
    One([Place; 1]),
    Many(Arc<[Place]>),
}

/// A directory of the union.
#[derive(Debug, Clone)]
pub(super) struct Dir {
    parts: Parts,
    /// Stands for its path in whitelists; the root's where there are none.
    key: PathKey,
    /// Where its attributes come from; nothing: no layer names it.
    source: Option<Place>,
}

impl Dir {
    fn new(parts: Vec<Place>, source: Option<Place>, key: PathKey) -> Self {
        let parts = match parts[..] {
            [one] => Parts::One([one]),
            _ => Parts::Many(parts.into()),
        };
        Self { parts, key, source }
    }

    /// The layers' directories, the topmost first. Empty only for the root of a
    /// union without layers.
    pub(super) fn parts(&self) -> &[Place] {
        match &self.parts {
            Parts::One(one) => one,
            Parts::Many(parts) => parts,
        }
    }

    /// The place that gives the directory its number.
    pub(super) fn top(&self) -> Option<Place> {
        self.parts().first().copied()
    }

    /// Where its attributes and extended attributes come from.
    pub(super) fn source(&self) -> Option<Place> {
        self.source
    }

    fn has(&self, place: Place) -> bool {
        self.parts().contains(&place)
    }

    /// Units of about 8 bytes, the cache's own overhead included.
    pub(super) fn weight(&self) -> usize {
        10 + self.parts().len()
    }
}

/// What a name in a directory stands for.
#[derive(Debug, Clone)]
pub(super) enum Step {
    /// A directory.
    Dir(Dir),
    /// Anything else that has a row of its own.
    Object(Object),
    /// A hard link into lower layers: number `n` of that layer's.
    Link {
        /// The layer that has the link.
        layer: u32,
        /// Its number there.
        n: u32,
    },
    /// Nothing visible.
    Absent,
}

/// An object that is no directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Object {
    /// Where it lies.
    pub(super) place: Place,
    /// Its kind.
    pub(super) kind: Kind,
}

/// Attributes of a directory that no layer names.
pub(super) const UNNAMED: Attr = Attr {
    kind: Kind::Dir,
    mode: 0o755,
    uid: 0,
    gid: 0,
    size: 0,
    stored: 0,
    mtime: Time {
        seconds: 0,
        nanos: 0,
    },
    nlink: 2,
    rdev: Device { major: 0, minor: 0 },
};

/// Joins layers' directories of one path, from the top down.
#[derive(Default)]
struct Joining {
    parts: Vec<Place>,
    source: Option<Place>,
    /// An opaque directory ended the stack.
    cut: bool,
}

impl Joining {
    /// Takes the next lower directory; says whether to go on downwards.
    fn join(&mut self, index: &Index, place: Place) -> Result<bool, ReadError> {
        let info = index.node(place.row)?.dir.ok_or_else(|| no_tree(index))?;
        if !self.cut {
            self.parts.push(place);
        }
        if self.source.is_none() && !info.implied {
            self.source = Some(place);
        }
        // An opaque mark hides what lies in lower directories, not what they are:
        // if the layer has no member for the directory itself, then mode and owner
        // stay (as unpacking in order leaves them), so the search goes on for these.
        self.cut |= info.opaque;
        Ok(!self.cut || self.source.is_none())
    }

    fn done(self, key: PathKey) -> Option<Dir> {
        (!self.parts.is_empty()).then(|| Dir::new(self.parts, self.source, key))
    }
}

/// A path, and what whitelists say of it: each is asked once at most, however many
/// layers are restricted to it.
pub(super) struct Asked<'a> {
    union: &'a Union,
    /// Stands for the path; the root's where there are no whitelists.
    key: PathKey,
    /// By whitelist.
    answers: Vec<Option<Listed>>,
}

impl Asked<'_> {
    /// Whether what a layer has at the path is on all its whitelists. A directory is
    /// also shown if it leads to a path that is listed.
    pub(super) fn admits(&mut self, layer: u32, hit: Hit) -> Result<bool, ReadError> {
        let leads = match hit {
            Hit::Absent | Hit::Whiteout => return Ok(true),
            Hit::Node(_, kind) => kind == Kind::Dir,
            Hit::Link(_) => false,
        };
        let Some(lists) = self.union.lists.get(layer as usize) else {
            return Ok(true);
        };
        for &number in lists {
            let known = self.answers[number];
            let answer = match known {
                Some(answer) => answer,
                None => self.union.sets[number].get(self.key)?,
            };
            self.answers[number] = Some(answer);
            match answer {
                Listed::Yes => {}
                Listed::Above if leads => {}
                Listed::Above | Listed::No => return Ok(false),
            }
        }
        Ok(true)
    }
}

/// An index whose checks are right but whose directories are no tree.
pub(super) fn no_tree(index: &Index) -> ReadError {
    let file = format!("index of {}", index.diff_id());
    ReadError::Corrupt {
        file,
        offset: 0,
        what: "its directories do not form a tree".to_owned(),
    }
}

impl Union {
    pub(super) fn index(&self, place: Place) -> &Index {
        &self.layers[place.layer as usize].index
    }

    /// The root of the tree that the `height` lowest layers make.
    pub(super) fn root_of(&self, height: usize) -> Result<Dir, ReadError> {
        let mut joining = Joining::default();
        for (layer, shared) in self.layers.iter().enumerate().take(height).rev() {
            // No memory holds 2^32 layers.
            let place = Place {
                layer: layer as u32,
                row: Row::ROOT,
            };
            if !joining.join(&shared.index, place)? {
                break;
            }
        }
        let root = joining.done(PathKey::ROOT);
        Ok(root.unwrap_or_else(|| Dir::new(Vec::new(), None, PathKey::ROOT)))
    }

    /// The root of the whole tree.
    pub(super) fn root(&self) -> Result<Dir, ReadError> {
        if let Some(root) = self.root.get() {
            return Ok(root.clone());
        }
        let root = self.root_of(self.layers.len())?;
        Ok(self.root.get_or_init(|| root).clone())
    }

    /// What `name` in `dir` stands for. The name is neither `.` nor `..`.
    pub(super) fn child(&self, dir: &Dir, name: &[u8]) -> Result<Step, ReadError> {
        let mut joining = Joining::default();
        let mut asked = self.ask(dir, name);
        for &place in dir.parts() {
            match self.shown_hit(place, name, &mut asked)? {
                Hit::Absent => {}
                Hit::Node(row, Kind::Dir) => {
                    if !joining.join(self.index(place), place.sibling(row))? {
                        break;
                    }
                }
                _ if !joining.parts.is_empty() => break,
                Hit::Node(row, kind) => {
                    return Ok(Step::Object(Object {
                        place: place.sibling(row),
                        kind,
                    }));
                }
                Hit::Link(n) => {
                    return Ok(Step::Link {
                        layer: place.layer,
                        n,
                    });
                }
                Hit::Whiteout => break,
            }
        }
        Ok(joining.done(asked.key).map_or(Step::Absent, Step::Dir))
    }

    /// The question what whitelists say of a name in a directory.
    pub(super) fn ask(&self, dir: &Dir, name: &[u8]) -> Asked<'_> {
        match self.lists.is_empty() {
            true => Asked {
                union: self,
                key: PathKey::ROOT,
                answers: Vec::new(),
            },
            false => Asked {
                union: self,
                key: dir.key.child(name),
                answers: vec![None; self.sets.len()],
            },
        }
    }

    /// Whether a layer is restricted to whitelists.
    pub(super) fn is_restricted(&self, layer: u32) -> bool {
        let lists = self.lists.get(layer as usize);
        lists.is_some_and(|lists| !lists.is_empty())
    }

    /// What a directory of a layer has at a name, as far as its whitelists go.
    pub(super) fn shown_hit(
        &self,
        place: Place,
        name: &[u8],
        asked: &mut Asked<'_>,
    ) -> Result<Hit, ReadError> {
        let hit = self.index(place).lookup(place.row, name)?;
        match asked.admits(place.layer, hit)? {
            true => Ok(hit),
            false => Ok(Hit::Absent),
        }
    }

    /// The directory `ino`.
    pub(super) fn dir(&self, ino: Ino) -> Result<Dir, FsError> {
        if ino == Ino::ROOT {
            return Ok(self.root()?);
        }
        let place = self.place(ino)?;
        let info = self
            .index(place)
            .node(place.row)?
            .dir
            .ok_or(FsError::NotDir)?;
        self.dir_of(place, info.implied)
    }

    /// The directory whose number is that of `place`, which the caller knows to
    /// be a directory of its layer.
    pub(super) fn dir_of(&self, place: Place, implied: bool) -> Result<Dir, FsError> {
        if place.layer == 0 && self.lists.is_empty() {
            // A directory that has its number from the lowest layer has no other.
            return Ok(Self::alone(place, implied));
        }
        let dir = self.dir_at(place)?.filter(|dir| dir.top() == Some(place));
        dir.ok_or(FsError::Stale)
    }

    /// A directory that one layer makes, in a union without whitelists.
    fn alone(place: Place, implied: bool) -> Dir {
        Dir {
            parts: Parts::One([place]),
            key: PathKey::ROOT,
            source: (!implied).then_some(place),
        }
    }

    /// The directory of the union that the layer's directory `place` is part of;
    /// nothing if higher layers hide it.
    pub(super) fn dir_at(&self, place: Place) -> Result<Option<Dir>, ReadError> {
        // Upwards to the root or to a directory that is known, downwards again.
        let index = self.index(place);
        let mut trail = Vec::new();
        let mut row = place.row;
        let mut known = loop {
            if row == Row::ROOT {
                let root = self.root()?;
                break root.has(place.sibling(row)).then_some(root);
            }
            if let Some(known) = self.dirs.get(&place.sibling(row)) {
                break known;
            }
            if trail.len() > DEPTH_MAX {
                return Err(no_tree(index));
            }
            let info = index.node(row)?.dir.ok_or_else(|| no_tree(index))?;
            trail.push((row, info.implied));
            row = info.parent;
        };
        while let Some((row, implied)) = trail.pop() {
            let here = place.sibling(row);
            known = match known {
                Some(parent) => self.child_at(&parent, here, implied)?,
                None => None,
            };
            self.dirs
                .put(here, known.clone(), known.as_ref().map_or(8, Dir::weight));
        }
        Ok(known)
    }

    /// The child of `parent` that `place` is part of, if it is.
    fn child_at(
        &self,
        parent: &Dir,
        place: Place,
        implied: bool,
    ) -> Result<Option<Dir>, ReadError> {
        if let [only] = parent.parts()
            && only.layer == place.layer
            && self.lists.is_empty()
        {
            return Ok(Some(Self::alone(place, implied)));
        }
        let (_, name) = self.name_in_layer(place)?;
        Ok(match self.child(parent, &name)? {
            Step::Dir(dir) if dir.has(place) => Some(dir),
            _ => None,
        })
    }

    /// The first name of an object in its layer, and the directory that has it.
    pub(super) fn name_in_layer(&self, place: Place) -> Result<(Row, Vec<u8>), ReadError> {
        let index = self.index(place);
        index
            .names(place.row)?
            .into_iter()
            .next()
            .ok_or_else(|| no_tree(index))
    }

    /// Keeps a directory that a lookup found, so that it need not be found again
    /// from its path.
    pub(super) fn remember(&self, dir: &Dir) {
        if let Some(top) = dir
            .top()
            .filter(|top| (top.layer > 0 || !self.lists.is_empty()) && top.row != Row::ROOT)
        {
            self.dirs.put(top, Some(dir.clone()), dir.weight());
        }
    }

    /// The number of a directory.
    pub(super) fn dir_number(&self, dir: &Dir) -> Ino {
        dir.top().map_or(Ino::ROOT, |top| self.numbers.of(top))
    }

    /// The number of the directory that the directory `ino` lies in; the root's
    /// is the root.
    pub(super) fn parent(&self, ino: Ino) -> Result<Ino, FsError> {
        if ino == Ino::ROOT {
            return Ok(ino);
        }
        let place = self.place(ino)?;
        let info = self
            .index(place)
            .node(place.row)?
            .dir
            .ok_or(FsError::NotDir)?;
        let parent = self
            .dir_at(place.sibling(info.parent))?
            .ok_or(FsError::Stale)?;
        Ok(self.dir_number(&parent))
    }
}
