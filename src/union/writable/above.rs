//! The layer that makes of the layers below what the tree is now.
//!
//! What it is for: the members of that layer, in their order: what an unpacker that
//! knows whiteouts, opaque directories and hard links has to be told. May assume what
//! [`changes`](super::changes) may. Must not know how a layer is packed.
//!
//! Rules:
//! * a directory comes before what is in it, and whenever anything in it comes: who
//!   unpacks a layer into a directory of its own would make one with attributes of its
//!   choice;
//! * a directory that is not merged with the layers' one of its path is opaque, and all of it
//!   comes: what is new and what is moved alike;
//! * a file with several names comes with all of them in this layer, the first one as the
//!   file: a link to what only a lower layer has is nothing that every unpacker can make.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::dirs::{Dir, Slot};
use super::{Where, Writable};
use crate::node::{Ino, Kind};
use crate::tree_path::TreePath;
use crate::union::FsError;

/// What a member of the layer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Says {
    /// The layers below have something of that name, which is gone.
    Whiteout,
    /// What the layers below have in this directory is gone.
    Opaque,
    /// An object: [`Writable::lookup`] of the name in that directory finds it, the root
    /// without a name.
    Object(Ino, Box<[u8]>),
    /// One more name of what an earlier member is.
    Link(TreePath),
}

/// A member of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// Where.
    pub path: TreePath,
    /// What.
    pub says: Says,
}

/// A directory whose members are still to come.
struct Open {
    ino: Ino,
    path: TreePath,
    /// How it is itself told, unless that is done.
    untold: Option<Said>,
    /// Names that are still to come, the last one first.
    left: Vec<Name>,
}

struct Name {
    name: Box<[u8]>,
    what: What,
}

enum What {
    Whiteout,
    Object,
    /// A directory: what it is merged with at its path; `whole`: all of it comes;
    /// `told`: itself comes, too; `opaque`: it hides one of the layers.
    Dir {
        whole: bool,
        told: bool,
        opaque: bool,
        base: Option<Ino>,
    },
}

struct Telling<'a> {
    tree: &'a Writable,
    said: Vec<Said>,
    /// The first name of each object that has several.
    first: BTreeMap<Ino, TreePath>,
    told: BTreeSet<TreePath>,
}

impl Writable {
    /// The members of the layer, directories first; names of one directory in order.
    /// Nothing: there is no difference.
    ///
    /// # Errors
    /// Those of [`Self::changes`].
    pub fn layer(&self) -> Result<Vec<Said>, FsError> {
        let Where::Upper(root) = self.dir(Ino::ROOT)? else {
            return Ok(Vec::new());
        };
        if self.is_new()? {
            return Ok(Vec::new());
        }
        let telling = self.telling();
        let told = self.dir_differs(&root, Ino::ROOT)?;
        let base = root.lower;
        let left = match base {
            Some(base) => telling.changed_names(&root, Some(base))?,
            None => telling.all_names(Ino::ROOT)?,
        };
        telling.tell(told, base.is_none(), left)
    }

    /// The members of a layer that makes all of the tree out of nothing.
    ///
    /// # Errors
    /// Those of [`Self::changes`].
    pub fn whole(&self) -> Result<Vec<Said>, FsError> {
        let telling = self.telling();
        let left = telling.all_names(Ino::ROOT)?;
        telling.tell(true, false, left)
    }

    fn telling(&self) -> Telling<'_> {
        Telling {
            tree: self,
            said: Vec::new(),
            first: BTreeMap::new(),
            told: BTreeSet::new(),
        }
    }
}

impl Telling<'_> {
    /// Tells the root and everything below.
    fn tell(mut self, told: bool, opaque: bool, left: Vec<Name>) -> Result<Vec<Said>, FsError> {
        let path = TreePath::root();
        let itself = said(path.clone(), Says::Object(Ino::ROOT, Box::default()));
        let mut open = vec![Open {
            ino: Ino::ROOT,
            path: path.clone(),
            untold: Some(itself),
            left,
        }];
        if told {
            self.say(&mut open, None);
        }
        if opaque {
            self.say(&mut open, Some(said(path, Says::Opaque)));
        }
        while let Some(top) = open.last_mut() {
            let (ino, path) = (top.ino, &top.path);
            match top.left.pop() {
                None => drop(open.pop()),
                Some(Name { name, what }) => {
                    let path = path.child(&name);
                    self.tell_name(&mut open, ino, name, path, what)?;
                }
            }
        }
        self.tell_other_names()?;
        Ok(self.said)
    }

    fn tell_name(
        &mut self,
        open: &mut Vec<Open>,
        dir: Ino,
        name: Box<[u8]>,
        path: TreePath,
        what: What,
    ) -> Result<(), FsError> {
        match what {
            What::Whiteout => self.say(open, Some(said(path, Says::Whiteout))),
            What::Object => {
                let says = self.object(dir, name, &path)?;
                self.say(open, Some(said(path, says)));
            }
            What::Dir {
                whole,
                told,
                opaque,
                base,
            } => {
                let held = self.tree.hold(dir, &name)?;
                let ino = held.ino;
                let left = match (whole, self.tree.dir(ino)?) {
                    (false, Where::Upper(dir)) => self.changed_names(&dir, base)?,
                    _ => self.all_names(ino)?,
                };
                drop(held);
                let untold = Some(said(path.clone(), Says::Object(dir, name)));
                open.push(Open {
                    ino,
                    path: path.clone(),
                    untold,
                    left,
                });
                if told {
                    self.say(open, None);
                }
                if opaque {
                    self.say(open, Some(said(path, Says::Opaque)));
                }
            }
        }
        Ok(())
    }

    /// Says something in the innermost open directory, after all directories above.
    fn say(&mut self, open: &mut [Open], member: Option<Said>) {
        let above = open.iter_mut().filter_map(|dir| dir.untold.take());
        for member in above.chain(member) {
            if !matches!(member.says, Says::Opaque | Says::Whiteout) {
                self.told.insert(member.path.clone());
            }
            self.said.push(member);
        }
    }

    /// How an object that is no directory is told under this name.
    fn object(&mut self, dir: Ino, name: Box<[u8]>, path: &TreePath) -> Result<Says, FsError> {
        let held = self.tree.hold(dir, &name)?;
        if self.tree.attr(held.ino)?.attr.nlink < 2 && self.tree.left_behind(held.ino)?.is_empty() {
            return Ok(Says::Object(dir, name));
        }
        Ok(match self.first.get(&held.ino) {
            Some(first) => Says::Link(first.clone()),
            None => {
                self.first.insert(held.ino, path.clone());
                Says::Object(dir, name)
            }
        })
    }

    /// Names of told objects that lie where nothing else was told.
    fn tell_other_names(&mut self) -> Result<(), FsError> {
        let mut others = BTreeMap::new();
        for (ino, first) in &self.first {
            for (path, _) in self.tree.left_behind(*ino)? {
                if !self.told.contains(&path) {
                    others.insert(path, first.clone());
                }
            }
        }
        for (path, first) in others {
            let mut above = Vec::new();
            let mut at = path.clone();
            while let Some((parent, _)) = at.split_last() {
                above.push(parent.clone());
                at = parent;
            }
            for dir in above.into_iter().rev() {
                if self.told.insert(dir.clone()) {
                    let says = self.dir_at(&dir)?;
                    self.said.push(said(dir, says));
                }
            }
            self.said.push(said(path, Says::Link(first)));
        }
        Ok(())
    }

    /// A directory by its path.
    fn dir_at(&self, path: &TreePath) -> Result<Says, FsError> {
        let (mut dir, mut name): (Ino, Box<[u8]>) = (Ino::ROOT, Box::default());
        for next in path.names() {
            if !name.is_empty() {
                dir = self.tree.hold(dir, &name)?.ino;
            }
            name = next.into();
        }
        Ok(Says::Object(dir, name))
    }

    /// The names of an upper directory that is merged with `base`, which is at its
    /// path, too; or new where nothing is.
    fn changed_names(&self, dir: &Arc<Dir>, base: Option<Ino>) -> Result<Vec<Name>, FsError> {
        let slots = self.tree.names(dir)?.all();
        let mut names = Vec::with_capacity(slots.len());
        for (name, slot) in slots.into_iter().rev() {
            let below = match base {
                Some(base) => self.tree.below(base, &name)?,
                None => None,
            };
            let what = match slot {
                Slot::Whiteout if below.is_none() => continue,
                Slot::Whiteout => What::Whiteout,
                Slot::Object(key, Kind::Dir, _) => {
                    let child = self.tree.enter(dir, &name, key)?.ok_or(FsError::Stale)?;
                    let below = below.filter(|(_, attr)| attr.kind == Kind::Dir);
                    let below = below.map(|(ino, _)| ino);
                    let same = child.lower == below;
                    let told = match below {
                        Some(below) if same => self.tree.dir_differs(&child, below)?,
                        _ => true,
                    };
                    What::Dir {
                        whole: !same,
                        told,
                        opaque: !same && below.is_some(),
                        base: below,
                    }
                }
                Slot::Object(..) => What::Object,
            };
            names.push(Name { name, what });
        }
        Ok(names)
    }

    /// All names of a directory.
    fn all_names(&self, dir: Ino) -> Result<Vec<Name>, FsError> {
        let mut names = Vec::new();
        self.tree.list(dir, 0, &mut |listed| {
            if !matches!(listed.name, b"." | b"..") {
                let what = match listed.kind {
                    Kind::Dir => What::Dir {
                        whole: true,
                        told: true,
                        opaque: false,
                        base: None,
                    },
                    _ => What::Object,
                };
                let name = listed.name.into();
                names.push(Name { name, what });
            }
            true
        })?;
        names.sort_by(|one, other| other.name.cmp(&one.name));
        Ok(names)
    }
}

fn said(path: TreePath, says: Says) -> Said {
    Said { path, says }
}
