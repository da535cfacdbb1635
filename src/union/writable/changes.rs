//! What an upper directory changes of the layers below it.
//!
//! What it is for: the answer to "what is different now", from the upper directory and
//! from lookups in the layers: what nobody changed is not looked at. May assume
//! nothing of who wrote the upper directory. Must not know how it is told to people.
//!
//! The definition: a directory is compared with the directory of the layers that it is
//! merged with; one that is merged with none (a new one), with the directory that the
//! layers have at its path, if any; everything else with what the layers have at its
//! path. What a name stands for is
//!
//! * *added*, when the layers have nothing under that name;
//! * *deleted*, when they have and it is gone; what was in it is not named;
//! * *changed*, when both are there and differ in kind, contents (bytes, target, device
//!   number) or attributes (mode, owner, time of the last change, extended attributes).
//!
//! A directory that was moved is added (or changed) where it is now, with the path that
//! it came [`from`](Difference::from), and deleted where it was; what is named below it
//! is different from what it was there. Names of one file are compared one by one: a
//! link more or less is no change of the others.

use std::sync::Arc;

use super::dirs::{Dir, Slot};
use super::nodes::{File, Node};
use super::{Where, Writable};
use crate::node::{Attr, Ino, Kind};
use crate::tree_path::TreePath;
use crate::union::FsError;

/// Bytes of two files that are compared at a time.
const BUFFER: usize = 256 << 10;

/// How something differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Differs {
    /// The layers have nothing there.
    Added,
    /// Both have something there.
    Changed {
        /// It is of another kind: this one it was.
        was: Option<Kind>,
        /// Bytes of a file, target of a symlink, number of a device.
        contents: bool,
        /// Mode, owner, time of the last change, extended attributes.
        attributes: bool,
    },
    /// Only the layers have it.
    Deleted,
}

/// One path that is not as the layers have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Where it is, or was.
    pub path: TreePath,
    /// Its kind; of what is deleted, the kind that it had.
    pub kind: Kind,
    /// How it differs.
    pub differs: Differs,
    /// A directory that was somewhere else: where. With everything in it that is
    /// not named.
    pub from: Option<TreePath>,
}

/// A directory that is being compared.
struct Pending {
    dir: Arc<Dir>,
    base: Option<Ino>,
    path: TreePath,
}

impl Writable {
    /// Everything that is not as the layers have it, sorted by path.
    ///
    /// # Errors
    /// `Damaged`, `Upper`, `UpperDamaged`; `Stale`, `NotFound`: somebody changes the
    /// directory at the moment.
    pub fn changes(&self) -> Result<Vec<Difference>, FsError> {
        let mut found = Vec::new();
        if let Where::Upper(root) = self.dir(Ino::ROOT)?
            && !self.is_new()?
        {
            let path = TreePath::root();
            let base = Some(Ino::ROOT);
            if self.dir_differs(&root, Ino::ROOT)? {
                let differs = changed(None, false, true);
                found.push(difference(path.clone(), Kind::Dir, differs));
            }
            let mut waiting = vec![Pending {
                dir: root,
                base,
                path,
            }];
            while let Some(pending) = waiting.pop() {
                self.compare_dir(&pending, &mut found, &mut waiting)?;
            }
        }
        found.sort_by(|one, other| one.path.cmp(&other.path));
        found.dedup();
        Ok(found)
    }

    /// Compares the names of one directory.
    fn compare_dir(
        &self,
        pending: &Pending,
        found: &mut Vec<Difference>,
        waiting: &mut Vec<Pending>,
    ) -> Result<(), FsError> {
        let Pending { dir, base, path } = pending;
        let slots = self.names(dir)?.all();
        if dir.lower.is_none()
            && let Some(base) = *base
        {
            // Nothing of the layers shows through.
            for (name, kind) in self.lower_names(base)? {
                if !slots.contains_key(&*name) {
                    found.push(difference(path.child(&name), kind, Differs::Deleted));
                }
            }
        }
        for (name, slot) in &slots {
            let path = path.child(name);
            let below = match base {
                Some(base) => self.below(*base, name)?,
                None => None,
            };
            match *slot {
                Slot::Whiteout => {
                    if let Some((_, attr)) = below {
                        found.push(difference(path, attr.kind, Differs::Deleted));
                    }
                }
                Slot::Object(key, Kind::Dir, _) => {
                    let child = self.enter(dir, name, key)?.ok_or(FsError::Stale)?;
                    let next = self.compare_child(child, below, path, found)?;
                    waiting.push(next);
                }
                Slot::Object(..) => self.compare_object(dir, name, below, path, found)?,
            }
        }
        Ok(())
    }

    fn compare_child(
        &self,
        child: Arc<Dir>,
        below: Option<(Ino, Attr)>,
        path: TreePath,
        found: &mut Vec<Difference>,
    ) -> Result<Pending, FsError> {
        let below_dir = below.filter(|(_, attr)| attr.kind == Kind::Dir);
        let below_dir = below_dir.map(|(ino, _)| ino);
        let base = child.lower.or(below_dir);
        let moved = match child.lower {
            Some(lower) if below_dir != Some(lower) => Some(self.lower.path_of(lower)?),
            _ => None,
        };
        let attributes = match below_dir {
            Some(below) => self.dir_differs(&child, below)?,
            None => true,
        };
        let differs = match below {
            None => Some(Differs::Added),
            Some((_, attr)) => {
                let was = (attr.kind != Kind::Dir).then_some(attr.kind);
                let differs = was.is_some() || attributes || moved.is_some();
                differs.then_some(Differs::Changed {
                    was,
                    contents: false,
                    attributes,
                })
            }
        };
        if let Some(differs) = differs {
            found.push(Difference {
                path: path.clone(),
                kind: Kind::Dir,
                differs,
                from: moved,
            });
        }
        Ok(Pending {
            dir: child,
            base,
            path,
        })
    }

    /// Compares what is no directory.
    fn compare_object(
        &self,
        dir: &Dir,
        name: &[u8],
        below: Option<(Ino, Attr)>,
        path: TreePath,
        found: &mut Vec<Difference>,
    ) -> Result<(), FsError> {
        let held = self.hold(dir.ino, name)?;
        let kind = self.attr(held.ino)?.attr.kind;
        let differs = match below {
            None => Some(Differs::Added),
            Some((below, attr)) => self.object_differs(held.ino, below, &attr)?,
        };
        if let Some(differs) = differs {
            found.push(difference(path, kind, differs));
        }
        // After a crash some names of a group may not have gone up with it; they
        // do at the next look of a mount.
        for (path, below) in self.left_behind(held.ino)? {
            let attr = self.lower.attr(below)?;
            if let Some(differs) = self.object_differs(held.ino, below, &attr)? {
                found.push(difference(path, kind, differs));
            }
        }
        Ok(())
    }

    /// Names of an object in the upper directory that are not there with it: a
    /// crash came between.
    pub(super) fn left_behind(&self, ino: Ino) -> Result<Vec<(TreePath, Ino)>, FsError> {
        if ino.0 > self.lower.last_ino().0 || self.lower.attr(ino)?.nlink < 2 {
            return Ok(Vec::new());
        }
        let names = self.names_now(ino)?.into_iter();
        let path = |(place, name): (Where, Vec<u8>)| {
            let dir = match place {
                Where::Upper(dir) => dir.ino,
                Where::Lower(dir) => dir,
            };
            Ok((self.path_of(dir)?.child(&name), ino))
        };
        names.map(path).collect()
    }

    fn object_differs(&self, now: Ino, below: Ino, was: &Attr) -> Result<Option<Differs>, FsError> {
        let attr = self.attr(now)?.attr;
        if attr.kind != was.kind {
            return Ok(Some(changed(Some(was.kind), true, true)));
        }
        let attributes =
            !same_attributes(&attr, was) || self.xattrs(now)? != self.lower.xattrs(below)?;
        let contents = match attr.kind {
            Kind::File => attr.size != was.size || !self.same_bytes(now, below, attr.size)?,
            Kind::Symlink => self.target(now)? != self.lower.target(below)?,
            _ => attr.rdev != was.rdev,
        };
        Ok((attributes || contents).then(|| changed(None, contents, attributes)))
    }

    /// Whether attributes of a directory differ from those of one of the layers.
    pub(super) fn dir_differs(&self, dir: &Dir, below: Ino) -> Result<bool, FsError> {
        let attr = self.upper.stat(dir.key).map_err(FsError::Upper)?.attr;
        let same = same_attributes(&attr, &self.lower.attr(below)?)
            && self.xattrs_above(dir.key, dir.ino)? == self.lower.xattrs(below)?;
        Ok(!same)
    }

    /// Whether two files of one size have the same bytes.
    fn same_bytes(&self, now: Ino, below: Ino, size: u64) -> Result<bool, FsError> {
        let contents_of = match self.node(now) {
            Some(Node::File(File {
                below: Some(ino), ..
            })) => Some(ino),
            None => Some(now),
            _ => None,
        };
        if contents_of == Some(below) {
            return Ok(true);
        }
        let (mut one, mut other) = (vec![0; BUFFER], vec![0; BUFFER]);
        let mut at = 0;
        while at < size {
            let got = self.read(now, at, &mut one)?;
            let have = self.lower.read(below, at, &mut other[..got])?;
            if got == 0 || one[..got] != other[..have] {
                return Ok(false);
            }
            at += got as u64;
        }
        Ok(true)
    }

    /// What the layers have in one of their directories.
    pub(super) fn below(&self, dir: Ino, name: &[u8]) -> Result<Option<(Ino, Attr)>, FsError> {
        match self.lower.lookup(dir, name) {
            Ok(found) => Ok(Some((found.ino, found.attr))),
            Err(FsError::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All names of a directory of the layers.
    fn lower_names(&self, dir: Ino) -> Result<Vec<(Vec<u8>, Kind)>, FsError> {
        let mut names = Vec::new();
        self.lower.list(dir, 0, &mut |listed| {
            if !matches!(listed.name, b"." | b"..") {
                names.push((listed.name.to_vec(), listed.kind));
            }
            true
        })?;
        Ok(names)
    }
}

fn same_attributes(one: &Attr, other: &Attr) -> bool {
    let of = |attr: &Attr| (attr.mode, attr.uid, attr.gid, attr.mtime);
    of(one) == of(other)
}

fn changed(was: Option<Kind>, contents: bool, attributes: bool) -> Differs {
    Differs::Changed {
        was,
        contents,
        attributes,
    }
}

fn difference(path: TreePath, kind: Kind, differs: Differs) -> Difference {
    Difference {
        path,
        kind,
        differs,
        from: None,
    }
}
