//! Directories of the upper directory, and their names in memory.
//!
//! What it is for: a directory that has an upper part is read once; from then on
//! its upper names are kept in memory for as long as it is known, and every
//! change updates both. So a name that is not there costs no system call, and a
//! listing goes on undisturbed where it was, whatever changes meanwhile.
//!
//! Cookies: names that the layers have keep the layers' cookies; names that only
//! the upper directory has are numbered as they come, downwards, and no number is used twice. They are
//! listed first, those that came last before the others. So who lists a directory and makes or renames something at each
//! name that he is told comes to an end: what is new lies behind him.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, MutexGuard};

use super::Writable;
use super::acl;
use super::nodes::Node;
use crate::node::{Ino, Kind};
use crate::tree_path::TreePath;
use crate::union::upper::{Entry, Key, Mark, Marks};
use crate::union::{Found, FsError};

/// Cookies of names that only the upper directory has are behind this; those of layers, which count the
/// entries of one directory, are below.
pub(super) const OWN_COOKIES: u64 = 1 << 30;
/// They come down from here: readdir(3) of programs with 32 bits that know no large files fails with
/// `EOVERFLOW` at a greater one (glibc, sysdeps/unix/sysv/linux/readdir.c).
const FIRST_OWN: u64 = 1 << 31;
/// The same for those that come when there is none left: what the kernel takes for a place in a file (`loff_t`)
/// has 63 bits.
const FIRST_LATE: u64 = 1 << 62;

/// The cookie of the `came`th name that only the upper directory has, from 1 on.
fn own_cookie(came: u64) -> u64 {
    match FIRST_OWN - OWN_COOKIES > came {
        true => FIRST_OWN - came,
        false => FIRST_LATE - came,
    }
}

/// What a name of the upper directory stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slot {
    Whiteout,
    Object(Key, Kind, Ino),
}

/// The upper names of a directory.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// By name; with the cookie where no layer has the name.
    slots: HashMap<Box<[u8]>, (Slot, Option<u64>)>,
    /// Names that only the upper directory has, those that came last first.
    order: BTreeMap<u64, Box<[u8]>>,
    /// How many have come.
    came: u64,
}

impl Names {
    pub(super) fn get(&self, name: &[u8]) -> Option<Slot> {
        self.slots.get(name).map(|(slot, _)| *slot)
    }

    /// All of them.
    pub(super) fn all(&self) -> BTreeMap<Box<[u8]>, Slot> {
        let all = self.slots.iter();
        all.map(|(name, (slot, _))| (name.clone(), *slot)).collect()
    }

    /// Up to `most` names that only the upper directory has, behind `cookie`.
    pub(super) fn own(&self, cookie: u64, most: usize) -> Vec<(u64, Box<[u8]>, Slot)> {
        let behind = self.order.range(cookie.saturating_add(1)..).take(most);
        behind
            .filter_map(|(cookie, name)| Some((*cookie, name.clone(), self.get(name)?)))
            .collect()
    }

    pub(super) fn put(&mut self, name: &[u8], slot: Slot, in_layers: bool) {
        if let Some((old, cookie)) = self.slots.get_mut(name) {
            *old = slot;
            // Whether a layer has a name never changes while it has a slot.
            debug_assert_eq!(cookie.is_none(), in_layers, "a layer's names never change");
            return;
        }
        let cookie = (!in_layers).then(|| {
            self.came += 1;
            let cookie = own_cookie(self.came);
            self.order.insert(cookie, name.into());
            cookie
        });
        self.slots.insert(name.into(), (slot, cookie));
    }

    pub(super) fn remove(&mut self, name: &[u8]) {
        if let Some((_, Some(cookie))) = self.slots.remove(name) {
            self.order.remove(&cookie);
        }
    }
}

/// A directory that has an upper part.
#[derive(Debug)]
pub(super) struct Dir {
    pub(super) ino: Ino,
    pub(super) key: Key,
    /// The layers' directory that it is merged with.
    pub(super) lower: Option<Ino>,
    /// Where it is: directory and name.
    home: Mutex<(Ino, Box<[u8]>)>,
    names: Mutex<Option<Names>>,
    impure: AtomicBool,
    gone: AtomicBool,
    /// What it hands down to what is made in it; asked for once, and again after
    /// its attributes were changed.
    hands: Mutex<Option<Arc<acl::HandsDown>>>,
}

impl Dir {
    pub(super) fn new(
        ino: Ino,
        key: Key,
        lower: Option<Ino>,
        home: (Ino, &[u8]),
        marks: &Marks,
        empty: bool,
    ) -> Self {
        Self {
            ino,
            key,
            lower,
            home: Mutex::new((home.0, home.1.into())),
            names: Mutex::new(empty.then(Names::default)),
            impure: AtomicBool::new(marks.impure),
            gone: AtomicBool::new(false),
            hands: Mutex::new(None),
        }
    }

    pub(super) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    pub(super) fn set_gone(&self) {
        self.gone.store(true, Ordering::Release);
    }

    pub(super) fn home(&self) -> (Ino, Box<[u8]>) {
        self.home.lock().clone()
    }

    pub(super) fn move_to(&self, dir: Ino, name: &[u8]) {
        *self.home.lock() = (dir, name.into());
    }

    /// Lets the names go; they are read again when they are asked for.
    pub(super) fn drop_names(&self) {
        *self.names.lock() = None;
    }

    /// Changes the names, if they are in memory; else they are read later as they are.
    pub(super) fn update(&self, change: impl FnOnce(&mut Names)) {
        if let Some(names) = self.names.lock().as_mut() {
            change(names);
        }
    }

    pub(super) fn attributes_changed(&self) {
        *self.hands.lock() = None;
    }
}

impl Writable {
    /// The upper names of a directory.
    pub(super) fn names<'a>(
        &self,
        dir: &'a Dir,
    ) -> Result<parking_lot::MappedMutexGuard<'a, Names>, FsError> {
        let mut guard = dir.names.lock();
        if guard.is_none() {
            *guard = Some(self.read_names(dir)?);
        }
        Ok(MutexGuard::map(guard, |names| {
            names.as_mut().expect("because it was filled just above")
        }))
    }

    fn read_names(&self, dir: &Dir) -> Result<Names, FsError> {
        let mut entries = Vec::new();
        if !dir.is_gone() {
            let read = self.upper.list(dir.key, &mut |name, entry| {
                entries.push((Box::from(name), entry))
            });
            read.map_err(FsError::Upper)?;
        }
        let mut names = Names::default();
        for (name, entry) in entries {
            let name: Box<[u8]> = name;
            let slot = match entry {
                Entry::Whiteout => Slot::Whiteout,
                Entry::Object(key, kind) => {
                    let mut ino = self.own_number(key);
                    if kind == Kind::Dir || dir.impure.load(Ordering::Relaxed) {
                        let marks = self.upper.marks_at(dir.key, &name);
                        let marks = marks.map_err(FsError::Upper)?;
                        match self.identity(dir, &name, key, kind, &marks) {
                            Ok((number, _)) => ino = number,
                            // Told to whoever looks it up; its neighbours are sound.
                            Err(FsError::UpperDamaged(_)) => {}
                            Err(error) => return Err(error),
                        }
                    }
                    Slot::Object(key, kind, ino)
                }
            };
            names.put(&name, slot, self.layers_have(dir, &name)?);
        }
        Ok(names)
    }

    pub(super) fn slot(&self, dir: &Dir, name: &[u8]) -> Result<Option<Slot>, FsError> {
        Ok(self.names(dir)?.get(name))
    }

    /// What the layers have under a name of a directory.
    pub(super) fn in_layers(&self, dir: &Dir, name: &[u8]) -> Result<Option<Found>, FsError> {
        let Some(lower) = dir.lower else {
            return Ok(None);
        };
        match self.lower.lookup(lower, name) {
            Ok(found) => Ok(Some(found)),
            Err(FsError::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) fn layers_have(&self, dir: &Dir, name: &[u8]) -> Result<bool, FsError> {
        Ok(self.in_layers(dir, name)?.is_some())
    }

    /// The layers' object that an upper object's redirect or name leads to.
    fn lower_of(
        &self,
        dir: &Dir,
        name: &[u8],
        redirect: Option<&[u8]>,
    ) -> Result<Option<Found>, FsError> {
        match redirect {
            Some(path) if path.starts_with(b"/") => {
                let damaged = |_| FsError::UpperDamaged("a redirect is no path".to_owned());
                let path = TreePath::parse(path).map_err(damaged)?;
                match self.lower.resolve(&path, false) {
                    Ok(found) => Ok(Some(found)),
                    Err(FsError::NotFound | FsError::NotDir | FsError::Loop) => Ok(None),
                    Err(error) => Err(error),
                }
            }
            Some(name) => self.in_layers(dir, name),
            None => self.in_layers(dir, name),
        }
    }

    /// The number of an upper object, and the layers' object that it is merged
    /// with (a directory) or has its contents from (a file).
    pub(super) fn identity(
        &self,
        dir: &Dir,
        name: &[u8],
        key: Key,
        kind: Kind,
        marks: &Marks,
    ) -> Result<(Ino, Option<Ino>), FsError> {
        let redirect = marks.redirect.as_deref();
        match kind {
            Kind::Dir if !marks.opaque => {
                let below = self.lower_of(dir, name, redirect)?;
                let below = below.filter(|found| found.attr.kind == Kind::Dir);
                let below = below.map(|found| found.ino);
                Ok((self.unless_taken(below, key), below))
            }
            Kind::File if marks.metacopy => {
                let below = self.lower_of(dir, name, redirect)?;
                let below = below.filter(|found| found.attr.kind == Kind::File);
                let below = below.ok_or_else(|| {
                    let name = String::from_utf8_lossy(name);
                    FsError::UpperDamaged(format!("no layer has the contents of `{name}`"))
                })?;
                let origin = self.origin(marks);
                // Without an origin it was kernel overlayfs, which splits hard links.
                let alone = (below.attr.nlink == 1).then_some(below.ino);
                Ok((self.unless_taken(origin.or(alone), key), Some(below.ino)))
            }
            _ => Ok((self.unless_taken(self.origin(marks), key), None)),
        }
    }

    fn origin(&self, marks: &Marks) -> Option<Ino> {
        self.lower.by_origin(marks.origin.as_deref()?)
    }

    /// The number of an object that is in the upper directory alone.
    pub(super) fn own_number(&self, key: Key) -> Ino {
        if key == self.upper.root() {
            return Ino::ROOT;
        }
        Ino(self.lower.last_ino().0 + key.0)
    }

    /// `ino`, unless another upper object has that number already (which only an
    /// upper directory that was tampered with has).
    fn unless_taken(&self, ino: Option<Ino>, key: Key) -> Ino {
        let own = self.own_number(key);
        let Some(ino) = ino else {
            return own;
        };
        let other = match self.table.lock().node(ino) {
            Some(Node::Dir(dir)) => Some(dir.key),
            Some(Node::File(file)) => Some(file.key),
            Some(Node::Gone) | None => None,
        };
        if other.is_some_and(|other| other != key) {
            own
        } else {
            ino
        }
    }

    /// The directory that `dir` has under `name` as the upper object `key`.
    /// Nothing: it was changed meanwhile.
    pub(super) fn enter(
        &self,
        dir: &Dir,
        name: &[u8],
        key: Key,
    ) -> Result<Option<Arc<Dir>>, FsError> {
        if let Some(known) = self.known_dir(key) {
            return Ok(Some(known));
        }
        let _finding = self.finding.lock();
        if let Some(known) = self.known_dir(key) {
            return Ok(Some(known));
        }
        if self.upper.find(dir.key, name).map_err(FsError::Upper)?
            != Some(Entry::Object(key, Kind::Dir))
        {
            return Ok(None);
        }
        let marks = self.upper.marks(key).map_err(FsError::Upper)?;
        let (ino, lower) = self.identity(dir, name, key, Kind::Dir, &marks)?;
        let found = Arc::new(Dir::new(ino, key, lower, (dir.ino, name), &marks, false));
        self.table.lock().put(ino, Node::Dir(Arc::clone(&found)));
        Ok(Some(found))
    }

    fn known_dir(&self, key: Key) -> Option<Arc<Dir>> {
        let table = self.table.lock();
        match table.node(table.by_key(key)?)? {
            Node::Dir(dir) => Some(Arc::clone(dir)),
            _ => None,
        }
    }

    /// Marks a directory as one that has objects with an origin.
    pub(super) fn make_impure(&self, dir: &Dir) -> Result<(), FsError> {
        if !dir.impure.load(Ordering::Relaxed) {
            self.upper
                .mark(dir.key, Mark::Impure)
                .map_err(FsError::Upper)?;
            dir.impure.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// What a directory hands down to what is made in it.
    pub(super) fn hands_down(&self, dir: &Dir) -> Result<Arc<acl::HandsDown>, FsError> {
        if let Some(hands) = dir.hands.lock().clone() {
            return Ok(hands);
        }
        let attr = self.upper.stat(dir.key).map_err(FsError::Upper)?.attr;
        let default = self.upper.xattr(dir.key, acl::DEFAULT);
        let default = default.map_err(FsError::Upper)?;
        let hands = Arc::new(acl::HandsDown::new(&attr, default));
        *dir.hands.lock() = Some(Arc::clone(&hands));
        Ok(hands)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_of_own_names_fit_31_bits_and_are_never_used_twice() {
        let mut names = Names::default();
        for name in [b"a", b"b", b"c"] {
            names.put(name, Slot::Whiteout, false);
        }
        let own = names.own(OWN_COOKIES, 9);
        let listed: Vec<&[u8]> = own.iter().map(|(_, name, _)| &**name).collect();
        assert_eq!(listed, [b"c", b"b", b"a"]);
        assert!(own.iter().all(|(cookie, ..)| *cookie <= i32::MAX as u64));
        let last = FIRST_OWN - OWN_COOKIES - 1;
        assert_eq!(own_cookie(last), OWN_COOKIES + 1);
        assert!(own_cookie(last + 1) > own_cookie(1));
        assert!(own_cookie(last + 2) < own_cookie(last + 1));
        assert!(own_cookie(last + 1) <= i64::MAX as u64);
    }
}
