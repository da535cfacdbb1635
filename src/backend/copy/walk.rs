//! The walk: everything but contents.
//!
//! What it is for: directories, symlinks and special files are made as they are met;
//! what is left to be done is written down. A directory is listed in parts, so memory
//! holds one name and one place of each file and no more.

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use rustix::fs::{FileType, Mode};
use rustix::io::Errno;

use super::attributes::Object;
use super::places::{DirId, Name, Places, Reach};
use super::{Copy, CopyError};
use crate::node::{Attr, Ino, Kind};
use std::sync::atomic::Ordering;

/// What is said when a device node cannot be made.
pub(super) const MAKE_DEVICE: &str = "make the device node";
/// Names that are listed at a time; progress is told after each part.
const PART: usize = 512;

/// A regular file that is to be written.
#[derive(Debug, Clone, Copy)]
pub(super) struct File {
    /// Where its contents lie: layer, and place in that layer's tar.
    pub(super) at: (usize, u64),
    pub(super) ino: Ino,
    pub(super) name: Name,
}

/// What is left to be done.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) places: Places,
    /// In the order in which they are to be written.
    pub(super) files: Vec<File>,
    /// First and further name of the same object.
    pub(super) links: Vec<(Name, Name)>,
}

/// One name of a listing.
struct Entry {
    name: Vec<u8>,
    ino: Ino,
    kind: Kind,
}

/// A walk under way.
struct Walk<'a, 'b> {
    copy: &'a Copy<'b>,
    plan: Plan,
    /// Objects with several names: the one that was met first.
    firsts: HashMap<Ino, Name>,
    /// Directories that are still to be listed.
    waiting: Vec<DirId>,
}

impl Copy<'_> {
    /// Makes everything that has no contents.
    pub(super) fn walk(&self, progress: &mut dyn FnMut(u64, u64)) -> Result<Plan, CopyError> {
        let mut walk = Walk {
            copy: self,
            plan: Plan {
                places: Places::new(),
                files: Vec::new(),
                links: Vec::new(),
            },
            firsts: HashMap::new(),
            waiting: vec![DirId::ROOT],
        };
        let mut reach = Reach::new(&self.root);
        while let Some(dir) = walk.waiting.pop() {
            let places = &walk.plan.places;
            let name = places.name_of_dir(dir);
            let opened = reach.open(places, dir);
            let opened = opened.map_err(|error| self.failed("open", places, name)(error))?;
            let mut cookie = 0;
            loop {
                self.go_on()?;
                let entries = walk.list(dir, &mut cookie)?;
                if entries.is_empty() {
                    break;
                }
                for entry in entries {
                    walk.meet(dir, &opened, &entry)?;
                }
                progress(0, self.objects.load(Ordering::Relaxed));
            }
        }
        let mut plan = walk.plan;
        plan.files.sort_unstable_by_key(|file| file.at);
        Ok(plan)
    }
}

impl Walk<'_, '_> {
    /// The next names of a directory; none at its end.
    fn list(&self, dir: DirId, cookie: &mut u64) -> Result<Vec<Entry>, CopyError> {
        let places = &self.plan.places;
        let ino = places.ino(dir);
        let mut entries = Vec::new();
        let listed = self.copy.union.list(ino, *cookie, &mut |listed| {
            if entries.len() == PART {
                return false;
            }
            *cookie = listed.cookie;
            if !matches!(listed.name, b"." | b"..") {
                entries.push(Entry {
                    name: listed.name.to_vec(),
                    ino: listed.ino,
                    kind: listed.kind,
                });
            }
            true
        });
        let name = places.name_of_dir(dir);
        listed.map_err(|error| self.copy.unreadable(places, name, ino, error))?;
        Ok(entries)
    }

    /// Makes what a name leads to, or writes it down.
    fn meet(&mut self, dir: DirId, opened: &OwnedFd, entry: &Entry) -> Result<(), CopyError> {
        let Entry { ino, kind, .. } = *entry;
        let (union, copy) = (self.copy.union, self.copy);
        let name = self.plan.places.add_name(dir, &entry.name);
        if kind == Kind::Dir {
            let made = rustix::fs::mkdirat(opened, &*entry.name, Mode::RWXU);
            made.map_err(|error| copy.failed("make", &self.plan.places, name)(error))?;
            let dir = self.plan.places.add_dir(ino, name);
            self.waiting.push(dir);
            copy.objects.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        let places = &self.plan.places;
        let attr = union.attr(ino);
        let attr = attr.map_err(|error| copy.unreadable(places, name, ino, error))?;
        if attr.nlink > 1 {
            if let Some(first) = self.firsts.get(&ino) {
                self.plan.links.push((*first, name));
                return Ok(());
            }
            self.firsts.insert(ino, name);
        }
        if kind == Kind::File {
            let at = union.contents_at(ino);
            let at = at.map_err(|error| copy.unreadable(places, name, ino, error))?;
            self.plan.files.push(File { at, ino, name });
            return Ok(());
        }
        self.make(opened, name, ino, &attr)?;
        let object = Object::In(opened, &entry.name);
        copy.furnish(object, places, name, ino, &attr)?;
        copy.objects.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Makes a symlink or a special file.
    fn make(&self, dir: &OwnedFd, name: Name, ino: Ino, attr: &Attr) -> Result<(), CopyError> {
        let (copy, places) = (self.copy, &self.plan.places);
        let own = places.name(name);
        let (kind, what) = match attr.kind {
            Kind::Symlink => {
                let target = copy.union.target(ino);
                let target = target.map_err(|error| copy.unreadable(places, name, ino, error))?;
                let made = rustix::fs::symlinkat(target, dir, own);
                return made.map_err(|error| copy.failed("make", places, name)(error));
            }
            Kind::Char => (FileType::CharacterDevice, MAKE_DEVICE),
            Kind::Block => (FileType::BlockDevice, MAKE_DEVICE),
            Kind::Socket => (FileType::Socket, "make"),
            // The others are made elsewhere.
            Kind::Fifo | Kind::File | Kind::Dir => (FileType::Fifo, "make"),
        };
        let device = rustix::fs::makedev(attr.rdev.major, attr.rdev.minor);
        let made: Result<(), Errno> =
            rustix::fs::mknodat(dir, own, kind, Mode::RUSR | Mode::WUSR, device);
        made.map_err(|error| copy.failed(what, places, name)(error))
    }
}
