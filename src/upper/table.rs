//! Known objects, and the names under which each can be found.
//!
//! What it is for: from a [`Key`] to a place on disk. May assume: it is told of
//! every change of names (the calls come under the directory's lock). Must not make
//! system calls; it holds descriptors that others opened.
//!
//! *A known object can be reached*: it has a recorded name, or a held descriptor,
//! which also keeps its inode number from being given to another file.

use std::collections::HashMap;
use std::io;
use std::num::NonZeroUsize;
use std::sync::{Arc, Weak};

use lru::LruCache;
use rustix::io::Errno;

use super::reach::Opened;
use crate::node::Kind;
use crate::union::upper::Key;

/// Directories that stay open at most: a quarter of the usual limit of 1024
/// descriptors, the rest is for files.
const OPEN_MAX: NonZeroUsize = NonZeroUsize::new(256).expect("256 is not 0");
/// Files that stay open at most though nobody asks for their contents: what was just
/// made or opened is about to be given an owner, a mode, times, and to be synced.
const KEPT_MAX: NonZeroUsize = NonZeroUsize::new(64).expect("64 is not 0");
/// Names that are remembered of one object at most. One would do; more save a
/// descriptor when some of them go.
const NAMES_MAX: usize = 8;

/// One name of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name {
    /// The directory.
    pub(super) parent: Key,
    /// The name in it.
    pub(super) name: Box<[u8]>,
}

impl Name {
    fn is(&self, parent: Key, name: &[u8]) -> bool {
        self.parent == parent && *self.name == *name
    }
}

/// Where an object can be reached.
#[derive(Debug)]
pub(super) enum Place {
    /// By this descriptor.
    Open(Arc<Opened>),
    /// By one of these names, the latest first.
    Names(Vec<Name>),
}

#[derive(Debug)]
struct Object {
    kind: Kind,
    /// Somebody asks for it by its key.
    known: bool,
    names: Vec<Name>,
    /// Recorded names that are in it: it stays in the table for them.
    children: usize,
    held: Option<Arc<Opened>>,
    /// A regular file, open for its contents.
    whole: Weak<Opened>,
}

/// What is left to do when an object is forgotten.
#[derive(Debug, Default)]
pub(super) struct Forgotten {
    /// Names in the work directory that are to be removed.
    pub(super) staged: Vec<Box<[u8]>>,
    /// To be closed, when the table is not held.
    pub(super) open: Vec<Arc<Opened>>,
}

/// All objects that are known, and the directories that lead to them.
#[derive(Debug)]
pub(super) struct Table {
    objects: HashMap<Key, Object>,
    open: LruCache<Key, Arc<Opened>>,
    /// Regular files, open for their contents.
    kept: LruCache<Key, Arc<Opened>>,
    /// The directories that stay whatever happens.
    fixed: [Key; 2],
}

impl Table {
    /// A table that knows two directories: the top and the work directory.
    pub(super) fn new(fixed: [(Key, Arc<Opened>); 2]) -> Self {
        let keys = [fixed[0].0, fixed[1].0];
        let objects = fixed.map(|(key, opened)| {
            let mut object = Object::new(Kind::Dir);
            object.held = Some(opened);
            (key, object)
        });
        Self {
            objects: objects.into(),
            open: LruCache::new(OPEN_MAX),
            kept: LruCache::new(KEPT_MAX),
            fixed: keys,
        }
    }

    /// An object is known from now on, and has this name.
    pub(super) fn found(&mut self, key: Key, kind: Kind, parent: Key, name: &[u8]) {
        let object = self.objects.entry(key).or_insert_with(|| Object::new(kind));
        object.known = true;
        object.kind = kind;
        self.add_name(key, parent, name);
    }

    fn add_name(&mut self, key: Key, parent: Key, name: &[u8]) {
        let Some(object) = self.objects.get_mut(&key) else {
            return;
        };
        // The fixed directories are held for good, whatever leads to them.
        if self.fixed.contains(&key) {
            return;
        }
        if object.names.iter().any(|known| known.is(parent, name)) {
            return;
        }
        // A directory has one name: another one means that the first is out of date.
        let old = match object.kind {
            Kind::Dir => std::mem::take(&mut object.names),
            _ if object.names.len() >= NAMES_MAX => return,
            _ => Vec::new(),
        };
        object.names.push(Name {
            parent,
            name: name.into(),
        });
        object.held = None;
        if let Some(parent) = self.objects.get_mut(&parent) {
            parent.children += 1;
        }
        for name in old {
            self.release(name.parent);
        }
    }

    /// Whether an object must be held open when it loses this name.
    pub(super) fn must_hold(&self, key: Key, parent: Key, name: &[u8]) -> bool {
        self.objects.get(&key).is_some_and(|object| {
            object.held.is_none() && object.names.iter().all(|known| known.is(parent, name))
        })
    }

    /// An object lost a name; `held` keeps it when that was the last recorded one.
    pub(super) fn lost(&mut self, key: Key, parent: Key, name: &[u8], held: Option<Arc<Opened>>) {
        let Some(object) = self.objects.get_mut(&key) else {
            return;
        };
        let before = object.names.len();
        object.names.retain(|known| !known.is(parent, name));
        let removed = before - object.names.len();
        if object.names.is_empty() && object.held.is_none() {
            object.held = held;
        }
        if removed > 0 {
            self.release(parent);
            self.drop_unused(key);
        }
    }

    /// A name of an object, if that is in the table, is another one now.
    pub(super) fn moved(&mut self, key: Key, from: (Key, &[u8]), to: (Key, &[u8])) {
        if !self.objects.contains_key(&key) {
            return;
        }
        // The new name first: the object is never without any. A full list has
        // room once the old name is out of it.
        let full = |object: &Object| object.names.len() >= NAMES_MAX;
        if self.objects.get(&key).is_some_and(full) {
            self.lost(key, from.0, from.1, None);
            self.add_name(key, to.0, to.1);
        } else {
            self.add_name(key, to.0, to.1);
            self.lost(key, from.0, from.1, None);
        }
    }

    /// Nobody asks for an object any more; `work` is where objects are made.
    pub(super) fn forget(&mut self, key: Key, work: Key) -> Forgotten {
        if self.fixed.contains(&key) {
            return Forgotten::default();
        }
        let Some(object) = self.objects.get_mut(&key) else {
            return Forgotten::default();
        };
        object.known = false;
        let staged = object.names.iter().filter(|name| name.parent == work);
        let staged = staged.map(|name| name.name.clone()).collect();
        let open = self.drop_unused(key);
        Forgotten { staged, open }
    }

    /// One recorded name less in `parent`.
    fn release(&mut self, parent: Key) {
        if let Some(object) = self.objects.get_mut(&parent) {
            object.children = object.children.saturating_sub(1);
        }
        self.drop_unused(parent);
    }

    /// Drops an object that nobody needs, and then those that led to it; returns what was open of them.
    fn drop_unused(&mut self, key: Key) -> Vec<Arc<Opened>> {
        let mut open = Vec::new();
        let mut unsure = vec![key];
        while let Some(key) = unsure.pop() {
            let unused = |object: &Object| !object.known && object.children == 0;
            if self.fixed.contains(&key) || !self.objects.get(&key).is_some_and(unused) {
                continue;
            }
            open.extend(self.open.pop(&key));
            open.extend(self.kept.pop(&key));
            let Some(object) = self.objects.remove(&key) else {
                continue;
            };
            open.extend(object.held);
            for name in object.names {
                if let Some(parent) = self.objects.get_mut(&name.parent) {
                    parent.children = parent.children.saturating_sub(1);
                    unsure.push(name.parent);
                }
            }
        }
        open
    }

    /// Where an object can be reached, and what kind it is of.
    ///
    /// # Errors
    /// ESTALE: it is not known.
    pub(super) fn place(&mut self, key: Key) -> io::Result<(Kind, Place)> {
        let object = self.objects.get(&key).ok_or(Errno::STALE)?;
        // A whole file first: it takes all that there is to ask.
        let whole = object.whole.upgrade();
        if whole.is_some() {
            self.kept.promote(&key);
        }
        let open = whole
            .or_else(|| object.held.clone())
            .or_else(|| self.open.get(&key).cloned());
        let place = match open {
            Some(open) => Place::Open(open),
            None => Place::Names(object.names.iter().rev().cloned().collect()),
        };
        Ok((object.kind, place))
    }

    /// A name that an object has in one directory.
    pub(super) fn name_in(&self, key: Key, parent: Key) -> Option<Box<[u8]>> {
        let names = &self.objects.get(&key)?.names;
        let name = names.iter().find(|name| name.parent == parent)?;
        Some(name.name.clone())
    }

    /// Keeps a directory open for a while.
    pub(super) fn keep_open(&mut self, key: Key, opened: &Arc<Opened>) {
        if self.objects.contains_key(&key) {
            self.open.put(key, Arc::clone(opened));
        }
    }

    /// A regular file that is open for its contents.
    pub(super) fn whole(&mut self, key: Key) -> Option<Arc<Opened>> {
        self.kept.promote(&key);
        self.objects.get(&key)?.whole.upgrade()
    }

    /// A regular file has been opened for its contents, and stays so for a while. What is
    /// returned need not be kept any longer.
    pub(super) fn keep_file(&mut self, key: Key, whole: &Arc<Opened>) -> Option<Arc<Opened>> {
        let object = self.objects.get_mut(&key)?;
        // A program's own 0/0 device is a file on disk, and has no contents.
        if object.kind != Kind::File {
            return None;
        }
        object.whole = Arc::downgrade(whole);
        let (_, old) = self.kept.push(key, Arc::clone(whole))?;
        Some(old)
    }

    /// Keeps no file open that nobody asks for.
    pub(super) fn keep_none(&mut self) -> LruCache<Key, Arc<Opened>> {
        std::mem::replace(&mut self.kept, LruCache::new(KEPT_MAX))
    }

    /// How many objects are in the table, the two fixed directories included.
    pub(super) fn len(&self) -> usize {
        self.objects.len()
    }
}

impl Object {
    fn new(kind: Kind) -> Self {
        Self {
            kind,
            known: true,
            names: Vec::new(),
            children: 0,
            held: None,
            whole: Weak::new(),
        }
    }
}
