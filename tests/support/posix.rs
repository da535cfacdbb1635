//! What a program may expect of a tree that can be changed: a naive POSIX file
//! system.
//!
//! What it is for: the second half of the definition of the union. The layers'
//! tree (`model.rs`) is taken over object by object, then every operation does what
//! a local file system does, with its errno, in the order in which Linux looks
//! (`fs/namei.c`). There are no layers here and no copy-up; link counts are counted.

use std::collections::BTreeMap;

use lazyroot::node::{Device, Kind, Time};
use lazyroot::union::upper::{Change, SetTime, SetXattr, What};
use lazyroot::union::writable::{Maker, Rename};
use libc::{EEXIST, EINVAL, EISDIR, ENAMETOOLONG, ENODATA, ENOENT, ENOTDIR, ENOTEMPTY, EPERM};

use super::support::model::{Node, Path, Tree};

/// An object, for ever: never given to another one.
pub(crate) type Id = usize;

/// When contents changed last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mtime {
    /// Then.
    At(Time),
    /// When the operation ran; what is seen first is kept.
    Now,
    /// Both are right: POSIX leaves it open.
    Either(Time),
}

#[derive(Debug, Clone)]
pub(crate) struct Object {
    pub(crate) kind: Kind,
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Mtime,
    pub(crate) rdev: Device,
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(crate) target: Vec<u8>,
    pub(crate) bytes: Vec<u8>,
    pub(crate) entries: BTreeMap<Vec<u8>, Id>,
}

/// The tree, and objects that have lost their last name.
#[derive(Debug, Clone)]
pub(crate) struct Posix {
    pub(crate) objects: BTreeMap<Id, Object>,
    pub(crate) root: Id,
}

impl Posix {
    /// The layers' tree.
    pub(crate) fn of(tree: &Tree) -> Self {
        let mut objects = BTreeMap::new();
        let number = |node: &Node| match *node {
            Node::Dir(number) | Node::Object(number) => Some(number),
            Node::Nowhere => None,
        };
        for (path, node) in &tree.nodes {
            let Some(id) = number(node) else { continue };
            let (from, attr) = (tree.object(path), tree.attr(path));
            let children = tree.children(path).into_iter();
            let object = Object {
                kind: attr.kind,
                mode: attr.mode,
                uid: attr.uid,
                gid: attr.gid,
                mtime: Mtime::At(attr.mtime),
                rdev: attr.rdev,
                xattrs: from.xattrs.iter().cloned().collect(),
                target: from.target.clone(),
                bytes: from
                    .data
                    .as_ref()
                    .map(|data| data.bytes())
                    .unwrap_or_default(),
                entries: match node {
                    Node::Dir(_) => children
                        .filter_map(|(name, node)| Some((name, number(&node)?)))
                        .collect(),
                    _ => BTreeMap::new(),
                },
            };
            objects.insert(id, object);
        }
        let root = number(&tree.nodes[&Path::new()]).unwrap();
        Self { objects, root }
    }

    pub(crate) fn get(&self, id: Id) -> &Object {
        &self.objects[&id]
    }

    pub(crate) fn get_mut(&mut self, id: Id) -> &mut Object {
        self.objects.get_mut(&id).unwrap()
    }

    pub(crate) fn is_dir(&self, id: Id) -> bool {
        self.get(id).kind == Kind::Dir
    }

    /// How many names an object has.
    pub(crate) fn names(&self, id: Id) -> usize {
        let entries = self.objects.values().flat_map(|dir| dir.entries.values());
        entries.filter(|child| **child == id).count()
    }

    /// Whether no name leads to the object any more.
    pub(crate) fn is_lost(&self, id: Id) -> bool {
        id != self.root && self.names(id) == 0
    }

    /// Every name, in order, a directory before what is in it: directory, name,
    /// object.
    pub(crate) fn all(&self) -> Vec<(Id, Vec<u8>, Id)> {
        let mut all = Vec::new();
        self.all_below(self.root, &mut all);
        all
    }

    pub(crate) fn all_below(&self, dir: Id, all: &mut Vec<(Id, Vec<u8>, Id)>) {
        for (name, &id) in &self.get(dir).entries {
            all.push((dir, name.clone(), id));
            self.all_below(id, all);
        }
    }

    /// A path that leads to the object, if there is one.
    pub(crate) fn path(&self, id: Id) -> Option<Path> {
        if id == self.root {
            return Some(Path::new());
        }
        let (dir, name, _) = self.all().into_iter().find(|(_, _, child)| *child == id)?;
        let mut path = self.path(dir)?;
        path.push(name);
        Some(path)
    }

    fn is_below(&self, id: Id, dir: Id) -> bool {
        let mut all = Vec::new();
        self.all_below(dir, &mut all);
        id == dir || all.iter().any(|(_, _, child)| *child == id)
    }

    fn find(&self, dir: Id, name: &[u8]) -> Result<Option<Id>, i32> {
        // A name that is too long is so anywhere.
        if name.len() > 255 {
            return Err(ENAMETOOLONG);
        }
        if !self.is_dir(dir) {
            return Err(ENOTDIR);
        }
        if self.is_lost(dir) {
            return Err(ENOENT);
        }
        Ok(self.get(dir).entries.get(name).copied())
    }

    pub(crate) fn lookup(&self, dir: Id, name: &[u8]) -> Result<Id, i32> {
        self.find(dir, name)?.ok_or(ENOENT)
    }

    fn put(&mut self, dir: Id, name: &[u8], id: Id) {
        let dir = self.get_mut(dir);
        dir.entries.insert(name.to_vec(), id);
        dir.mtime = Mtime::Now;
    }

    fn take(&mut self, dir: Id, name: &[u8]) {
        let dir = self.get_mut(dir);
        dir.entries.remove(name);
        dir.mtime = Mtime::Now;
    }

    fn add(&mut self, object: Object) -> Id {
        let id = self.objects.keys().last().map_or(0, |last| last + 1);
        self.objects.insert(id, object);
        id
    }

    pub(crate) fn make(
        &mut self,
        dir: Id,
        name: &[u8],
        what: What<'_>,
        maker: &Maker,
    ) -> Result<Id, i32> {
        if self.find(dir, name)?.is_some() {
            return Err(EEXIST);
        }
        let parent = self.get(dir);
        let inherits = parent.mode & 0o2000 != 0;
        let (rdev, target) = match what {
            What::Char(rdev) | What::Block(rdev) => (rdev, Vec::new()),
            What::Symlink(target) => (Device::default(), target.to_vec()),
            _ => (Device::default(), Vec::new()),
        };
        let mode = match what {
            What::Symlink(_) => 0o777,
            // mkdir(2): the set-group-ID bit of the parent is handed down.
            What::Dir if inherits => maker.mode & !maker.umask | 0o2000,
            _ => maker.mode & !maker.umask,
        };
        let object = Object {
            kind: what.kind(),
            mode,
            uid: maker.uid,
            gid: if inherits { parent.gid } else { maker.gid },
            mtime: Mtime::Now,
            rdev,
            xattrs: BTreeMap::new(),
            target,
            bytes: Vec::new(),
            entries: BTreeMap::new(),
        };
        let id = self.add(object);
        self.put(dir, name, id);
        Ok(id)
    }

    pub(crate) fn link(&mut self, id: Id, dir: Id, name: &[u8]) -> Result<(), i32> {
        // link(2) lets a file system look at either end first; Linux looks at both
        // itself before it asks one.
        if name.len() > 255 {
            return Err(ENAMETOOLONG);
        }
        if self.is_dir(id) {
            return Err(EPERM);
        }
        if self.is_lost(id) {
            return Err(ENOENT);
        }
        if self.find(dir, name)?.is_some() {
            return Err(EEXIST);
        }
        self.put(dir, name, id);
        Ok(())
    }

    pub(crate) fn unlink(&mut self, dir: Id, name: &[u8]) -> Result<(), i32> {
        let id = self.lookup(dir, name)?;
        if self.is_dir(id) {
            return Err(EISDIR);
        }
        self.take(dir, name);
        Ok(())
    }

    pub(crate) fn rmdir(&mut self, dir: Id, name: &[u8]) -> Result<(), i32> {
        let id = self.lookup(dir, name)?;
        if !self.is_dir(id) {
            return Err(ENOTDIR);
        }
        if !self.get(id).entries.is_empty() {
            return Err(ENOTEMPTY);
        }
        self.take(dir, name);
        Ok(())
    }

    pub(crate) fn rename(
        &mut self,
        from: (Id, &[u8]),
        to: (Id, &[u8]),
        how: Rename,
    ) -> Result<(), i32> {
        if from.1.len().max(to.1.len()) > 255 {
            return Err(ENAMETOOLONG);
        }
        if !self.is_dir(to.0) {
            return Err(ENOTDIR);
        }
        let source = self.lookup(from.0, from.1)?;
        let there = self.find(to.0, to.1)?;
        match (how, there) {
            (Rename::NoReplace | Rename::Whiteout { replace: false, .. }, Some(_)) => {
                return Err(EEXIST);
            }
            (Rename::Exchange, None) => return Err(ENOENT),
            _ => {}
        }
        if self.is_dir(source) && self.is_below(to.0, source) {
            return Err(EINVAL);
        }
        if let Some(there) = there {
            if self.is_dir(there) && self.is_below(from.0, there) {
                let exchange = how == Rename::Exchange;
                return Err(if exchange { EINVAL } else { ENOTEMPTY });
            }
            // rename(2): two names of one object stay as they are.
            if there == source {
                return Ok(());
            }
            if how != Rename::Exchange {
                match (self.is_dir(source), self.is_dir(there)) {
                    (true, false) => return Err(ENOTDIR),
                    (false, true) => return Err(EISDIR),
                    (true, true) if !self.get(there).entries.is_empty() => return Err(ENOTEMPTY),
                    _ => {}
                }
            }
        }
        self.take(from.0, from.1);
        self.put(to.0, to.1, source);
        match (how, there) {
            (Rename::Exchange, Some(there)) => self.put(from.0, from.1, there),
            (Rename::Whiteout { owner, .. }, _) => {
                // `ext4_whiteout_for_rename`: the caller's 0/0 character device of mode 0.
                let maker = Maker {
                    uid: owner.0,
                    gid: owner.1,
                    mode: 0,
                    umask: 0,
                };
                self.make(from.0, from.1, What::Char(Device::default()), &maker)?;
            }
            _ => {}
        }
        Ok(())
    }

    pub(crate) fn set_attr(&mut self, id: Id, change: &Change) -> Result<(), i32> {
        let object = self.get_mut(id);
        if let Some(size) = change.size {
            match object.kind {
                Kind::File => {}
                Kind::Dir => return Err(EISDIR),
                _ => return Err(EINVAL),
            }
            let size = usize::try_from(size).unwrap();
            object.mtime = match object.mtime {
                Mtime::At(time) | Mtime::Either(time) if size == object.bytes.len() => {
                    Mtime::Either(time)
                }
                _ => Mtime::Now,
            };
            object.bytes.resize(size, 0);
            object.changed();
        }
        if change.uid.is_some() || change.gid.is_some() {
            object.uid = change.uid.unwrap_or(object.uid);
            object.gid = change.gid.unwrap_or(object.gid);
            if object.kind != Kind::Dir {
                object.strip();
            }
        }
        object.mode = change.mode.unwrap_or(object.mode);
        match change.mtime {
            Some(SetTime::To(time)) => object.mtime = Mtime::At(time),
            Some(SetTime::Now) => object.mtime = Mtime::Now,
            None => {}
        }
        Ok(())
    }

    pub(crate) fn strip(&mut self, id: Id) {
        self.get_mut(id).strip();
    }

    /// Opens a file; with `truncate` its contents go.
    pub(crate) fn open(&mut self, id: Id, truncate: bool) -> Result<(), i32> {
        match self.get(id).kind {
            Kind::File => {}
            Kind::Dir => return Err(EISDIR),
            _ => return Err(EINVAL),
        }
        if truncate {
            let change = Change {
                size: Some(0),
                ..Change::default()
            };
            self.set_attr(id, &change)?;
        }
        Ok(())
    }

    pub(crate) fn write(&mut self, id: Id, offset: usize, bytes: &[u8]) {
        let object = self.get_mut(id);
        let end = offset + bytes.len();
        object.bytes.resize(object.bytes.len().max(end), 0);
        object.bytes[offset..end].copy_from_slice(bytes);
        object.changed();
        object.mtime = Mtime::Now;
    }

    /// fallocate(2) with `FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE`.
    pub(crate) fn punch(&mut self, id: Id, offset: usize, len: usize) {
        let object = self.get_mut(id);
        let end = object.bytes.len().min(offset + len);
        if offset < end {
            object.bytes[offset..end].fill(0);
        }
        object.changed();
        object.mtime = match object.mtime {
            Mtime::At(time) | Mtime::Either(time) => Mtime::Either(time),
            Mtime::Now => Mtime::Now,
        };
    }

    pub(crate) fn set_xattr(
        &mut self,
        id: Id,
        name: &[u8],
        value: &[u8],
        how: SetXattr,
    ) -> Result<(), i32> {
        let xattrs = &mut self.get_mut(id).xattrs;
        match (how, xattrs.contains_key(name)) {
            (SetXattr::Create, true) => return Err(EEXIST),
            (SetXattr::Replace, false) => return Err(ENODATA),
            _ => {}
        }
        xattrs.insert(name.to_vec(), value.to_vec());
        Ok(())
    }

    pub(crate) fn remove_xattr(&mut self, id: Id, name: &[u8]) -> Result<(), i32> {
        let removed = self.get_mut(id).xattrs.remove(name);
        removed.map(|_| ()).ok_or(ENODATA)
    }
}

impl Object {
    /// chown(2), write(2): what gives rights goes.
    fn strip(&mut self) {
        self.mode &= !0o4000;
        if self.mode & 0o010 != 0 {
            self.mode &= !0o2000;
        }
        self.changed();
    }

    /// Whatever changes contents takes capabilities away (capabilities(7)).
    fn changed(&mut self) {
        self.xattrs.remove(&b"security.capability"[..]);
    }
}
