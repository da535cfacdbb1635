//! Lookup, attributes, listings.

use super::dirs::{Dir, OWN_COOKIES, Slot};
use super::nodes::{File, Node};
use super::{Known, Where, Writable, lower_stat};
use crate::node::{Ino, Kind};
use crate::union::list::DOTS;
use crate::union::upper::{Entry, Key, Stat, may_be_left};
use crate::union::{FsError, Listed, Xattrs};

/// Names that a listing takes from a directory at a time.
const BATCH: usize = 64;

/// One told number, forgotten at the end of a scope.
#[derive(Debug)]
pub(super) struct Held<'a> {
    tree: &'a Writable,
    pub(super) ino: Ino,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.tree.forget(self.ino, 1);
    }
}

impl Writable {
    /// Looks up a name in a directory; the object is known once more.
    ///
    /// # Errors
    /// `NotFound`, `NotDir`, `NameTooLong`, `Stale`, `Damaged`, `Upper`.
    pub fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Known, FsError> {
        let held = self.hold(dir, name)?;
        let stat = self.attr(held.ino)?;
        let ino = held.ino;
        std::mem::forget(held);
        Ok(Known { ino, stat })
    }

    /// Finds a name; what it stands for stays known as long as the result lives.
    pub(super) fn hold(&self, dir: Ino, name: &[u8]) -> Result<Held<'_>, FsError> {
        self.hold_with(dir, name, false)
    }

    /// As [`Self::hold`]; `locked`: the caller has the lock for changes.
    pub(super) fn hold_with(
        &self,
        dir: Ino,
        name: &[u8],
        locked: bool,
    ) -> Result<Held<'_>, FsError> {
        if name.len() > crate::tree_path::NAME_MAX {
            return Err(FsError::NameTooLong);
        }
        let hold = |ino| {
            self.table.lock().count(ino);
            Ok(Held { tree: self, ino })
        };
        if name == b"." {
            return hold(dir);
        }
        if name == b".." {
            return hold(self.parent(dir)?);
        }
        let mut raced = false;
        loop {
            // A name that changes while it is looked at is looked at again when no
            // change is under way.
            let _changes = (raced && !locked).then(|| self.changes.lock());
            let locked = raced || locked;
            let dir = match self.dir(dir)? {
                Where::Upper(dir) => dir,
                Where::Lower(dir) => {
                    let found = self.lower.lookup(dir, name)?;
                    return self.hold_lower(found.ino, found.attr.kind, found.attr.nlink, locked);
                }
            };
            if dir.is_gone() {
                return Err(FsError::NotFound);
            }
            match self.slot(&dir, name)? {
                Some(Slot::Whiteout) => return Err(FsError::NotFound),
                Some(Slot::Object(key, Kind::Dir, _)) => {
                    if let Some(found) = self.enter(&dir, name, key)?
                        && let Some(held) = self.hold_dir(found.ino)
                    {
                        return Ok(held);
                    }
                }
                Some(Slot::Object(key, kind, _)) => {
                    if let Some(held) = self.hold_upper(&dir, name, key, kind)? {
                        // The rest of its group follows if a crash left it behind.
                        self.settle_if_can(held.ino, locked)?;
                        return Ok(held);
                    }
                }
                None => {
                    let found = self.in_layers(&dir, name)?.ok_or(FsError::NotFound)?;
                    return self.hold_lower(found.ino, found.attr.kind, found.attr.nlink, locked);
                }
            }
            if raced {
                return Err(FsError::Stale);
            }
            raced = true;
        }
    }

    /// Makes a directory of the upper directory known once more. Nothing: since it was
    /// found it was removed, and forgotten by the last who knew it.
    fn hold_dir(&self, ino: Ino) -> Option<Held<'_>> {
        let mut table = self.table.lock();
        table.node(ino)?;
        table.count(ino);
        Some(Held { tree: self, ino })
    }

    fn hold_lower(
        &self,
        ino: Ino,
        kind: Kind,
        nlink: u32,
        locked: bool,
    ) -> Result<Held<'_>, FsError> {
        self.table.lock().count(ino);
        let held = Held { tree: self, ino };
        if kind != Kind::Dir && nlink > 1 {
            self.settle_if_can(ino, locked)?;
        }
        Ok(held)
    }

    /// Makes an upper object that is no directory known, by a name of it. Nothing:
    /// it was changed meanwhile.
    pub(super) fn hold_upper(
        &self,
        dir: &Dir,
        name: &[u8],
        key: Key,
        kind: Kind,
    ) -> Result<Option<Held<'_>>, FsError> {
        let _finding = self.finding.lock();
        let known = |ino| {
            self.table.lock().count(ino);
            Ok(Some(Held { tree: self, ino }))
        };
        let there = self.table.lock().by_key(key);
        if let Some(ino) = there {
            return known(ino);
        }
        if self.upper.find(dir.key, name).map_err(FsError::Upper)? != Some(Entry::Object(key, kind))
        {
            return Ok(None);
        }
        let marks = self.upper.marks(key).map_err(FsError::Upper);
        let found = marks.and_then(|marks| self.identity(dir, name, key, kind, &marks));
        let (ino, below) = found.inspect_err(|_| self.upper.forget(key))?;
        let file = File {
            below,
            ..File::whole(key, kind)
        };
        self.table.lock().put(ino, Node::File(file));
        known(ino)
    }

    /// What `stat` tells of a known object.
    ///
    /// # Errors
    /// `Stale`, `Damaged`, `Upper`.
    pub fn attr(&self, ino: Ino) -> Result<Stat, FsError> {
        match self.node(ino) {
            None => {
                let mut attr = self.lower.attr(ino)?;
                if attr.kind != Kind::Dir && attr.nlink > 1 {
                    attr.nlink = self.links_now(ino)?;
                }
                Ok(lower_stat(attr))
            }
            Some(Node::Gone) => {
                let mut attr = self.lower.attr(ino)?;
                attr.nlink = 0;
                Ok(lower_stat(attr))
            }
            Some(Node::Dir(dir)) => {
                let mut stat = self.upper.stat(dir.key).map_err(FsError::Upper)?;
                if dir.is_gone() {
                    stat.attr.nlink = 0;
                } else if dir.lower.is_some() {
                    // Subdirectories are not counted: 1 says so, as on btrfs and in
                    // merged directories of overlayfs (find(1), `-noleaf`).
                    stat.attr.nlink = 1;
                }
                Ok(stat)
            }
            Some(Node::File(file)) => {
                let mut stat = self.upper.stat(file.key).map_err(FsError::Upper)?;
                if let Some(below) = file.below {
                    stat.attr.stored = self.lower.attr(below)?.stored.min(stat.attr.size);
                }
                if let Some((atime, mtime)) = file.frozen {
                    stat.atime = atime;
                    stat.attr.mtime = mtime;
                }
                Ok(stat)
            }
        }
    }

    /// The directory that a directory lies in.
    pub(super) fn parent(&self, dir: Ino) -> Result<Ino, FsError> {
        match self.dir(dir)? {
            Where::Upper(dir) => Ok(dir.home().0),
            // Had it been moved, it would be in the upper directory.
            Where::Lower(dir) => self.lower.parent(dir),
        }
    }

    /// Lists a directory from behind `cookie` (0: the beginning) until `visit` says
    /// false: dots, names of the upper directory alone, names that the layers have. Cookies of names never change
    /// while the directory is known; what is made or removed meanwhile disturbs no other name. `visit` may call any method.
    ///
    /// # Errors
    /// `NotDir`, `Stale`, `Damaged`, `Upper`.
    pub fn list(
        &self,
        dir: Ino,
        cookie: u64,
        visit: &mut dyn FnMut(Listed<'_>) -> bool,
    ) -> Result<(), FsError> {
        let dir = match self.dir(dir) {
            Ok(Where::Upper(dir)) => dir,
            Ok(Where::Lower(dir)) => return self.lower.list(dir, cookie, visit),
            // A removed directory has no names, not even dots.
            Err(FsError::NotFound) => return Ok(()),
            Err(error) => return Err(error),
        };
        if dir.is_gone() {
            return Ok(());
        }
        if !self.list_dots(&dir, cookie, visit) {
            return Ok(());
        }
        // Who is among the names of layers was there already, or began before there was an upper directory.
        let mut more = !(DOTS + 1..OWN_COOKIES).contains(&cookie);
        let mut behind = cookie.max(OWN_COOKIES);
        while more {
            let own = self.names(&dir)?.own(behind, BATCH);
            more = own.len() == BATCH;
            for (cookie, name, slot) in own {
                behind = cookie;
                let Slot::Object(_, kind, ino) = slot else {
                    continue;
                };
                let name = &name;
                if !visit(Listed {
                    cookie,
                    name,
                    ino,
                    kind,
                }) {
                    return Ok(());
                }
            }
        }
        let cookie = match cookie < OWN_COOKIES {
            true => cookie.max(DOTS),
            false => DOTS,
        };
        (dir.lower).map_or(Ok(()), |lower| self.list_layers(&dir, lower, cookie, visit))
    }

    /// Lists the dots, and says whether to go on behind them.
    fn list_dots(&self, dir: &Dir, cookie: u64, visit: &mut dyn FnMut(Listed<'_>) -> bool) -> bool {
        let kind = Kind::Dir;
        let dots = [(1, &b"."[..], dir.ino), (DOTS, b"..", dir.home().0)];
        dots.into_iter()
            .filter(|dot| dot.0 > cookie)
            .all(|(cookie, name, ino)| {
                visit(Listed {
                    cookie,
                    name,
                    ino,
                    kind,
                })
            })
    }

    /// Lists the names that the layers have, as the upper directory leaves them, from behind a cookie that
    /// is behind the dots.
    fn list_layers(
        &self,
        dir: &Dir,
        lower: Ino,
        cookie: u64,
        visit: &mut dyn FnMut(Listed<'_>) -> bool,
    ) -> Result<(), FsError> {
        let mut failed = None;
        self.lower.list(lower, cookie, &mut |listed| {
            let shown = match self.slot(dir, listed.name) {
                Ok(None) => Some(listed),
                Ok(Some(Slot::Whiteout)) => None,
                Ok(Some(Slot::Object(_, kind, ino))) => Some(Listed {
                    ino,
                    kind,
                    ..listed
                }),
                Err(error) => {
                    failed = Some(error);
                    return false;
                }
            };
            shown.is_none_or(&mut *visit)
        })?;
        failed.map_or(Ok(()), Err)
    }

    /// A symlink's target.
    ///
    /// # Errors
    /// `WrongKind`, `Stale`, `Damaged`, `Upper`.
    pub fn target(&self, ino: Ino) -> Result<Vec<u8>, FsError> {
        match self.node(ino) {
            None | Some(Node::Gone) => self.lower.target(ino),
            Some(Node::Dir(_)) => Err(FsError::WrongKind),
            Some(Node::File(file)) => self.upper.target(file.key).map_err(|error| {
                // readlink(2): EINVAL is for what is no symlink.
                match error.raw_os_error() {
                    Some(22) => FsError::WrongKind,
                    _ => FsError::Upper(error),
                }
            }),
        }
    }

    /// Extended attributes, sorted by name.
    ///
    /// # Errors
    /// `Stale`, `Damaged`, `Upper`.
    pub fn xattrs(&self, ino: Ino) -> Result<Xattrs, FsError> {
        match self.key(ino) {
            Some(key) => self.xattrs_above(key, ino),
            None => self.lower.xattrs(ino),
        }
    }

    /// Those of an object of the upper directory, with what could not be copied up.
    pub(super) fn xattrs_above(&self, key: Key, ino: Ino) -> Result<Xattrs, FsError> {
        let mut all = self.upper.xattrs(key).map_err(FsError::Upper)?;
        for (name, value) in self.left_below(ino)? {
            if let Err(place) = all.binary_search_by(|(known, _)| known.cmp(&name)) {
                all.insert(place, (name, value));
            }
        }
        Ok(all)
    }

    /// Attributes of a layers' object that whoever copies it up may not set. They are its
    /// own for ever: who may not set them may not remove them, either.
    fn left_below(&self, ino: Ino) -> Result<Xattrs, FsError> {
        if !self.upper.leaves_xattrs() || ino.0 > self.lower.last_ino().0 {
            return Ok(Xattrs::new());
        }
        let mut all = self.lower.xattrs(ino)?;
        all.retain(|(name, _)| may_be_left(name));
        Ok(all)
    }

    /// Whether an attribute is one of those.
    pub(super) fn is_left_below(&self, ino: Ino, name: &[u8]) -> Result<bool, FsError> {
        let all = match may_be_left(name) {
            true => self.left_below(ino)?,
            false => Xattrs::new(),
        };
        Ok(all.iter().any(|(known, _)| known == name))
    }

    /// One extended attribute.
    ///
    /// # Errors
    /// `NoAttribute`: there is none of that name. `Stale`, `Damaged`, `Upper`.
    pub fn xattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>, FsError> {
        let above = match self.key(ino) {
            Some(key) => Some(self.upper.xattr(key, name).map_err(FsError::Upper)?),
            None => None,
        };
        let below = match &above {
            Some(Some(_)) => Xattrs::new(),
            Some(None) if !may_be_left(name) => Xattrs::new(),
            Some(None) => self.left_below(ino)?,
            None => self.lower.xattrs(ino)?,
        };
        let below = below.into_iter().find(|(known, _)| known == name);
        let found = above.flatten().or(below.map(|(_, value)| value));
        found.ok_or(FsError::NoAttribute)
    }

    /// The upper object of a number, if it has one.
    pub(super) fn key(&self, ino: Ino) -> Option<Key> {
        match self.node(ino)? {
            Node::Dir(dir) => Some(dir.key),
            Node::File(file) => Some(file.key),
            Node::Gone => None,
        }
    }
}
