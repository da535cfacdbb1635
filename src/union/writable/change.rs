//! Making and removing names, and changing one object.

use std::io;
use std::sync::Arc;

use super::dirs::{Dir, Slot};
use super::nodes::{File, Node};
use super::{Known, Maker, Where, Writable, check_name};
use crate::node::{Ino, Kind};
use crate::union::FsError;
use crate::union::upper::{CAPABILITY, Change, Key, Mark, Marks, New, SetXattr, Stat, What};

/// ENODATA: no such attribute (xattr(7)).
const ENODATA: i32 = 61;

impl Writable {
    /// The kind of what a directory has under a name.
    pub(super) fn present(&self, dir: &Dir, name: &[u8]) -> Result<Option<Kind>, FsError> {
        Ok(match self.slot(dir, name)? {
            Some(Slot::Whiteout) => None,
            Some(Slot::Object(_, kind, _)) => Some(kind),
            None => self.in_layers(dir, name)?.map(|found| found.attr.kind),
        })
    }

    /// A directory to be changed, in the upper directory.
    pub(super) fn changed_dir(&self, dir: Ino) -> Result<Arc<Dir>, FsError> {
        if let Where::Lower(lower) = self.dir(dir)?
            && self.lower_kind(lower)?.kind != Kind::Dir
        {
            return Err(FsError::NotDir);
        }
        let dir = self.raise_dir(dir)?;
        if dir.is_gone() {
            return Err(FsError::NotFound);
        }
        Ok(dir)
    }

    /// Makes an object; it is known once. Group, mode and access control lists
    /// follow the directory's setgid bit and default list (mkdir(2), acl(5)).
    ///
    /// # Errors
    /// `Exists`, `NotFound` (the directory was removed), `NotDir`, `NameTooLong`,
    /// `Stale`, `Damaged`, `Upper`.
    pub fn make(
        &self,
        dir: Ino,
        name: &[u8],
        what: What<'_>,
        maker: &Maker,
    ) -> Result<Known, FsError> {
        check_name(name)?;
        let _changes = self.changes.lock();
        let dir = self.changed_dir(dir)?;
        if self.present(&dir, name)?.is_some() {
            return Err(FsError::Exists);
        }
        let in_layers = self.layers_have(&dir, name)?;
        let hands = self.hands_down(&dir)?;
        let begins = hands.begin(what.kind(), maker);
        let marks = Marks {
            opaque: what.kind() == Kind::Dir && in_layers,
            ..Marks::default()
        };
        let new = New {
            what,
            mode: begins.mode,
            uid: maker.uid,
            gid: begins.gid,
            times: None,
            xattrs: &begins.xattrs,
            marks: &marks,
            parent_hands_down: hands.has_list(),
        };
        let made = self.upper.make(dir.key, name, &new);
        let (key, stat) = made.map_err(FsError::Upper)?;
        let ino = self.own_number(key);
        let node = match what.kind() {
            Kind::Dir => {
                let below = (dir.ino, name);
                Node::Dir(Arc::new(Dir::new(ino, key, None, below, &marks, true)))
            }
            kind => Node::File(File::whole(key, kind)),
        };
        let mut table = self.table.lock();
        table.put(ino, node);
        table.count(ino);
        drop(table);
        let slot = Slot::Object(key, what.kind(), ino);
        dir.update(|names| names.put(name, slot, in_layers));
        Ok(Known { ino, stat })
    }

    /// Gives an object that is no directory one more name; it is known once more.
    ///
    /// # Errors
    /// `NotPermitted` (a directory), `Exists`, `NotFound`, `NotDir`, `NameTooLong`,
    /// `Stale`, `Damaged`, `Upper`.
    pub fn link(&self, ino: Ino, dir: Ino, name: &[u8]) -> Result<Known, FsError> {
        check_name(name)?;
        let _changes = self.changes.lock();
        let stat = self.attr(ino)?;
        if stat.attr.kind == Kind::Dir {
            return Err(FsError::NotPermitted);
        }
        if stat.attr.nlink == 0 {
            return Err(FsError::NotFound);
        }
        let dir = self.changed_dir(dir)?;
        if self.present(&dir, name)?.is_some() {
            return Err(FsError::Exists);
        }
        let key = self.raise(ino)?;
        self.lead_below(ino)?;
        if ino != self.own_number(key) {
            self.make_impure(&dir)?;
        }
        // What can fail comes before the change: nobody could take it back.
        let in_layers = self.layers_have(&dir, name)?;
        self.upper
            .link(key, dir.key, name, false)
            .map_err(FsError::Upper)?;
        let slot = Slot::Object(key, stat.attr.kind, ino);
        dir.update(|names| names.put(name, slot, in_layers));
        self.table.lock().count(ino);
        let stat = self.attr(ino)?;
        Ok(Known { ino, stat })
    }

    /// Says in the upper directory where a file's contents are below, before it
    /// gets a name where they would not be found.
    pub(super) fn lead_below(&self, ino: Ino) -> Result<(), FsError> {
        let Some(Node::File(File {
            key,
            below: Some(below),
            ..
        })) = self.node(ino)
        else {
            return Ok(());
        };
        let path = self.redirect_to(below)?;
        self.upper
            .mark(key, Mark::Redirect(&path))
            .map_err(FsError::Upper)
    }

    /// The absolute path of a layers' object in the layers.
    pub(super) fn redirect_to(&self, below: Ino) -> Result<Vec<u8>, FsError> {
        let mut path = vec![b'/'];
        path.extend_from_slice(self.lower.path_of(below)?.as_bytes());
        Ok(path)
    }

    /// Removes a name of anything but a directory.
    ///
    /// # Errors
    /// `NotFound`, `IsDir`, `NotDir`, `Stale`, `Damaged`, `Upper`.
    pub fn unlink(&self, dir: Ino, name: &[u8]) -> Result<(), FsError> {
        let _changes = self.changes.lock();
        let held = self.hold_with(dir, name, true)?;
        if self.is_dir(held.ino)? {
            return Err(FsError::IsDir);
        }
        let dir = self.changed_dir(dir)?;
        let known = self.loses_a_name(held.ino);
        self.remove_name(&dir, name)?;
        // The name is gone, whatever comes; whether it was the last one is asked for
        // again by whoever looks.
        let _ = self.lost_a_name(held.ino, known);
        Ok(())
    }

    /// Takes a name away; a whiteout is left where layers have it.
    fn remove_name(&self, dir: &Dir, name: &[u8]) -> Result<(), FsError> {
        let in_layers = self.layers_have(dir, name)?;
        match self.slot(dir, name)? {
            Some(_) => self.upper.remove(dir.key, name, in_layers),
            None => self.upper.cover(dir.key, name),
        }
        .map_err(FsError::Upper)?;
        dir.update(|names| {
            if in_layers {
                names.put(name, Slot::Whiteout, true);
            } else {
                names.remove(name);
            }
        });
        Ok(())
    }

    /// An object is about to lose a name; how many it is known to have. `changes` is locked until
    /// [`Self::lost_a_name`] was told.
    pub(super) fn loses_a_name(&self, ino: Ino) -> Option<u32> {
        self.table.lock().forget_links(ino).0
    }

    /// An object has a name less than the `known` ones; one of a layer that is not copied up may have none.
    pub(super) fn lost_a_name(&self, ino: Ino, known: Option<u32>) -> Result<(), FsError> {
        if self.node(ino).is_some() {
            return Ok(());
        }
        // Who has counted meanwhile has or has not seen the name.
        let (_, lost) = self.table.lock().forget_links(ino);
        let attr = self.lower_kind(ino)?;
        let left = match known {
            _ if attr.kind == Kind::Dir || attr.nlink <= 1 => 0,
            // That it was the last one is believed by nobody who has not looked.
            Some(known) if known > 1 => known - 1,
            _ => self.count_names_now(ino)?,
        };
        let mut table = self.table.lock();
        match left {
            0 => table.put(ino, Node::Gone),
            left => table.keep_links(ino, left, lost),
        }
        Ok(())
    }

    /// Whether nothing is in a directory.
    pub(super) fn is_empty_dir(&self, ino: Ino) -> Result<bool, FsError> {
        let mut empty = true;
        self.list(ino, 0, &mut |listed| {
            empty &= matches!(listed.name, b"." | b"..");
            empty
        })?;
        Ok(empty)
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// `NotFound`, `NotDir`, `NotEmpty`, `Stale`, `Damaged`, `Upper`.
    pub fn rmdir(&self, dir: Ino, name: &[u8]) -> Result<(), FsError> {
        let removed = self.remove_dir(dir, name);
        // Thousands of whiteouts may have been in it.
        self.upper.tidy();
        removed
    }

    fn remove_dir(&self, dir: Ino, name: &[u8]) -> Result<(), FsError> {
        let _changes = self.changes.lock();
        let held = self.hold_with(dir, name, true)?;
        if !self.is_dir(held.ino)? {
            return Err(FsError::NotDir);
        }
        if !self.is_empty_dir(held.ino)? {
            return Err(FsError::NotEmpty);
        }
        let dir = self.changed_dir(dir)?;
        self.remove_name(&dir, name)?;
        self.lost_dir(held.ino);
        Ok(())
    }

    /// A directory has been removed; somebody may still have it open.
    pub(super) fn lost_dir(&self, ino: Ino) {
        match self.node(ino) {
            Some(Node::Dir(dir)) => dir.set_gone(),
            _ => self.table.lock().put(ino, Node::Gone),
        }
    }

    /// Sets attributes; contents are copied up only for a size.
    ///
    /// # Errors
    /// `Stale`, `Damaged`, `Upper`, `IsDir` and `WrongKind` for a size.
    pub fn set_attr(&self, ino: Ino, change: &Change) -> Result<Stat, FsError> {
        match change.size {
            Some(size) => {
                let key = self.raise_contents(ino, size)?;
                self.upper.set_attr(key, change).map_err(FsError::Upper)?;
            }
            None => self.beside_copies(ino, || {
                let key = self.raised(ino)?;
                self.upper.set_attr(key, change).map_err(FsError::Upper)
            })?,
        }
        self.attributes_changed(ino);
        self.attr(ino)
    }

    /// An object to be changed, in the upper directory.
    fn raised(&self, ino: Ino) -> Result<Key, FsError> {
        if let Some(key) = self.key(ino) {
            return Ok(key);
        }
        let _changes = self.changes.lock();
        self.raise(ino)
    }

    fn attributes_changed(&self, ino: Ino) {
        if let Some(Node::Dir(dir)) = self.node(ino) {
            dir.attributes_changed();
        }
    }

    /// Takes setuid, setgid (where the group may execute) and capabilities away,
    /// as a write by an ordinary user does (inode(7), capabilities(7)). These are two
    /// changes, capabilities first: after a failure the second may not have happened.
    ///
    /// # Errors
    /// `Stale`, `Damaged`, `Upper`.
    pub fn strip_privileges(&self, ino: Ino) -> Result<Stat, FsError> {
        let stat = self.attr(ino)?;
        let old = stat.attr.mode;
        let mut mode = old & !0o4000;
        if mode & 0o2010 == 0o2010 {
            mode &= !0o2000;
        }
        let capable = match self.xattr(ino, CAPABILITY) {
            Ok(_) => true,
            Err(FsError::NoAttribute) => false,
            Err(error) => return Err(error),
        };
        if capable {
            self.remove_xattr(ino, CAPABILITY)?;
        }
        if mode == old {
            return self.attr(ino);
        }
        let change = Change {
            mode: Some(mode),
            ..Change::default()
        };
        self.set_attr(ino, &change)
    }

    /// Sets an extended attribute.
    ///
    /// # Errors
    /// `Exists` and `NoAttribute` as `how` says; `Stale`, `Damaged`, `Upper`.
    pub fn set_xattr(
        &self,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        how: SetXattr,
    ) -> Result<(), FsError> {
        // What fails copies nothing up.
        if how != SetXattr::Any {
            match (how, self.xattr(ino, name)) {
                (SetXattr::Create, Ok(_)) => return Err(FsError::Exists),
                (SetXattr::Replace, Err(error)) => return Err(error),
                _ => {}
            }
        }
        let set = self.beside_copies(ino, || {
            let key = self.raised(ino)?;
            let set = self.upper.set_xattr(key, name, value, how);
            set.map_err(xattr_error)
        });
        self.attributes_changed(ino);
        set
    }

    /// Removes an extended attribute.
    ///
    /// # Errors
    /// `NoAttribute`: there is none of that name. `NotPermitted`: it is one that could not be
    /// set, either. `Stale`, `Damaged`, `Upper`.
    pub fn remove_xattr(&self, ino: Ino, name: &[u8]) -> Result<(), FsError> {
        self.xattr(ino, name)?;
        if self.is_left_below(ino, name)? {
            return Err(FsError::NotPermitted);
        }
        let removed = self.beside_copies(ino, || {
            let key = self.raised(ino)?;
            let removed = self.upper.remove_xattr(key, name);
            removed.map_err(xattr_error)
        });
        self.attributes_changed(ino);
        removed
    }
}

fn xattr_error(error: io::Error) -> FsError {
    match error.raw_os_error() {
        Some(ENODATA) => FsError::NoAttribute,
        _ => FsError::Upper(error),
    }
}
