//! Whether both trees look the same: names, numbers, attributes, contents.
//!
//! What it is for: everything that a program can see of the union is asked for, and
//! the model says what it has to be.

use std::collections::BTreeMap;

use lazyroot::node::{Ino, Kind};
use lazyroot::tree_path::printable;
use lazyroot::union::FsError;
use lazyroot::union::writable::{Contents, Open};

use super::super::NAMES;
use super::super::posix::{Id, Mtime};
use super::super::upper::CLOCK;
use super::{Twins, Verdict, well};

/// A name in a listing: cookie, name, number, kind.
type Name = (u64, Vec<u8>, Ino, Kind);

impl Twins {
    /// Compares all that can be seen.
    pub(crate) fn check(&mut self) -> Verdict {
        let (owed, known) = (self.owed.clone(), self.known.clone());
        let root = self.model.root;
        let mut numbers = BTreeMap::from([(Ino::ROOT, root)]);
        self.check_object(root, Ino::ROOT)?;
        self.check_dir(root, Ino::ROOT, Ino::ROOT, &mut numbers)?;
        for id in self.lost() {
            let ino = self.known[&id];
            let other = numbers.insert(ino, id);
            ensure!(other.is_none(), "two objects have the number {}", ino.0);
            self.check_object(id, ino)?;
        }
        self.check_handles()?;
        if !self.keeps {
            // Whoever looked forgets again, the lowest first.
            let ids: Vec<_> = self.model.all().into_iter().map(|(_, _, id)| id).collect();
            for ino in ids.iter().rev().filter_map(|id| self.inos.get(id).copied()) {
                let was = owed.get(&ino).copied().unwrap_or(0);
                let is = self.owed.insert(ino, was).unwrap_or(was);
                if is > was {
                    self.union().forget(ino, is - was);
                }
            }
            (self.owed, self.known) = (owed, known);
        }
        Ok(())
    }

    fn whole_list(&self, dir: Ino, cookie: u64) -> Verdict<Vec<Name>> {
        let mut list = Vec::new();
        let mut visit = |listed: lazyroot::union::Listed<'_>| {
            list.push((listed.cookie, listed.name.to_vec(), listed.ino, listed.kind));
            true
        };
        well(self.union().list(dir, cookie, &mut visit), "list")?;
        Ok(list)
    }

    fn check_dir(
        &mut self,
        id: Id,
        ino: Ino,
        parent: Ino,
        numbers: &mut BTreeMap<Ino, Id>,
    ) -> Verdict {
        let path = self.shown(id);
        let list = self.whole_list(ino, 0)?;
        let half = list.len() / 2;
        let rest = self.whole_list(ino, list.get(half).map_or(0, |listed| listed.0))?;
        ensure!(
            list.get(half + 1..) == Some(&rest[..]),
            "{path}: list from the middle: {rest:?}"
        );
        let dots: Vec<_> = list.iter().take(2).map(|l| (&l.1[..], l.2)).collect();
        ensure!(
            dots == [(&b"."[..], ino), (b"..", parent)],
            "{path} begins with {dots:?}"
        );
        let mut listed: BTreeMap<_, _> = BTreeMap::new();
        for (_, name, ino, kind) in &list[2..] {
            let twice = listed.insert(name.clone(), (*ino, *kind));
            ensure!(twice.is_none(), "{path} lists {} twice", printable(name));
        }
        let entries = self.model.get(id).entries.clone();
        let names = |names: Vec<&Vec<u8>>| -> Vec<String> {
            names.into_iter().map(|name| printable(name)).collect()
        };
        let (is, wanted) = (
            names(listed.keys().collect()),
            names(entries.keys().collect()),
        );
        ensure!(is == wanted, "{path} lists {is:?} instead of {wanted:?}");
        for name in NAMES.iter().copied().chain([&b"absent"[..], b".wh.a"]) {
            let outcome = self.union().lookup(ino, name);
            if let Ok(known) = &outcome {
                self.owe(known.ino);
            }
            ensure!(
                entries.contains_key(name) || matches!(outcome, Err(FsError::NotFound)),
                "{path}/{} should not be there: {outcome:?}",
                printable(name)
            );
        }
        for (name, child) in entries {
            let found = self.lookup(ino, &name, child)?;
            let path = format!("{path}/{}", printable(&name));
            let shown = (found.ino, found.stat.attr.kind);
            ensure!(
                listed[&name] == shown,
                "{path}: listed {:?}, found {shown:?}",
                listed[&name]
            );
            let other = *numbers.entry(found.ino).or_insert(child);
            ensure!(
                other == child,
                "{path} has the number of {}",
                self.shown(other)
            );
            let again = well(self.union().attr(found.ino), &path)?;
            ensure!(
                again == found.stat,
                "{path}: lookup says {:?}, stat {again:?}",
                found.stat
            );
            self.check_object(child, found.ino)?;
            if self.model.is_dir(child) {
                self.check_dir(child, found.ino, ino, numbers)?;
            }
        }
        Ok(())
    }

    fn check_object(&mut self, id: Id, ino: Ino) -> Verdict {
        let path = self.shown(id);
        let attr = well(self.union().attr(ino), &path)?.attr;
        let object = self.model.get(id).clone();
        let is = (attr.kind, attr.mode, attr.uid, attr.gid, attr.rdev);
        let wanted = (
            object.kind,
            object.mode,
            object.uid,
            object.gid,
            object.rdev,
        );
        ensure!(is == wanted, "{path}: {is:?} instead of {wanted:?}");
        self.check_nlink(id, attr.nlink)?;
        let now = attr.mtime.seconds >= CLOCK;
        let right = match object.mtime {
            Mtime::At(time) => attr.mtime == time,
            Mtime::Now => now,
            Mtime::Either(time) => now || attr.mtime == time,
        };
        ensure!(
            right,
            "{path}: mtime {:?} instead of {:?}",
            attr.mtime,
            object.mtime
        );
        self.model.get_mut(id).mtime = Mtime::At(attr.mtime);
        let is = well(self.union().xattrs(ino), &path)?;
        let wanted: Vec<_> = object.xattrs.clone().into_iter().collect();
        ensure!(is == wanted, "{path}: xattrs {is:?} instead of {wanted:?}");
        for (name, value) in &object.xattrs {
            let is = well(self.union().xattr(ino, name), &path)?;
            ensure!(is == *value, "{path}: xattr {} is {is:?}", printable(name));
        }
        let none = self.union().xattr(ino, b"user.none");
        ensure!(
            matches!(none, Err(FsError::NoAttribute)),
            "{path}: xattr of nobody: {none:?}"
        );
        let target = self.union().target(ino);
        match object.kind {
            Kind::Symlink => {
                let target = well(target, &path)?;
                ensure!(target == object.target, "{path} -> {target:?}");
                ensure!(
                    attr.size == target.len() as u64,
                    "{path}: size {}",
                    attr.size
                );
            }
            Kind::File => self.check_contents(&path, ino, attr.size, &object.bytes)?,
            _ => ensure!(
                matches!(target, Err(FsError::WrongKind)),
                "{path} -> {target:?}"
            ),
        }
        if self.model.is_dir(id) && !self.model.is_lost(id) {
            let named = well(self.union().path_of(ino), &path)?;
            let mut at = Ok(self.model.root);
            for name in named.names() {
                at = at.and_then(|dir| self.model.lookup(dir, name));
            }
            ensure!(at == Ok(id), "{path} is said to be at {named:?}");
        }
        Ok(())
    }

    fn check_nlink(&self, id: Id, nlink: u32) -> Verdict {
        let path = self.shown(id);
        if !self.model.is_dir(id) {
            let names = self.model.names(id);
            ensure!(
                nlink as usize == names,
                "{path}: {nlink} links instead of {names}"
            );
        } else if self.model.is_lost(id) {
            ensure!(nlink == 0, "{path}: removed, and {nlink} links");
        } else {
            // 1 says that nobody counts (find(1), `-noleaf`).
            let children = self.model.get(id).entries.values();
            let dirs = 2 + children.filter(|child| self.model.is_dir(**child)).count();
            let right = nlink == 1 || nlink as usize == dirs;
            ensure!(right, "{path}: {nlink} links instead of {dirs}");
        }
        Ok(())
    }

    fn check_contents(&self, path: &str, ino: Ino, size: u64, bytes: &[u8]) -> Verdict {
        ensure!(
            size == bytes.len() as u64,
            "{path}: size {size} instead of {}",
            bytes.len()
        );
        let mut buffer = vec![0xaa; bytes.len() + 9];
        let read = well(self.union().read(ino, 0, &mut buffer), path)?;
        ensure!(
            buffer[..read] == *bytes,
            "{path}: {:?} instead of {bytes:?}",
            &buffer[..read]
        );
        let from = bytes.len() / 2;
        let read = well(self.union().read(ino, from as u64, &mut buffer[..3]), path)?;
        let wanted = &bytes[from..bytes.len().min(from + 3)];
        ensure!(
            buffer[..read] == *wanted,
            "{path} from {from}: {:?}",
            &buffer[..read]
        );
        let mut at = 0;
        while at < size {
            let data = well(self.union().seek(ino, at, true), path)?.unwrap_or(size);
            let hole = &bytes[at as usize..data as usize];
            ensure!(
                hole.iter().all(|byte| *byte == 0),
                "{path}: data in the hole at {at}"
            );
            if data == size {
                break;
            }
            at = well(self.union().seek(ino, data, false), path)?.unwrap_or(size);
            ensure!(at > data, "{path}: no hole behind {data}, but {at}");
        }
        Ok(())
    }

    /// Whatever a file was opened for, it shows what was written since.
    fn check_handles(&self) -> Verdict {
        for handle in &self.handles {
            let path = self.shown(handle.of);
            let bytes = &self.model.get(handle.of).bytes;
            let mut buffer = vec![0xaa; bytes.len() + 9];
            let read = match &handle.contents {
                Contents::Lower => {
                    ensure!(handle.how == Open::Read, "{path}: writing into a layer");
                    well(
                        self.union().read(self.known[&handle.of], 0, &mut buffer),
                        &path,
                    )?
                }
                Contents::Upper(data) => data.read_at(0, &mut buffer).map_err(|e| e.to_string())?,
            };
            ensure!(
                buffer[..read] == **bytes,
                "{path}, open for {:?}: {:?} instead of {bytes:?}",
                handle.how,
                &buffer[..read]
            );
        }
        Ok(())
    }
}
