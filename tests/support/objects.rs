//! What is in the upper directory of the model test, and its rules.
//!
//! What it is for: objects and names in maps, and the checks of what may be asked.
//! Must not know the trait's methods one by one.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use lazyroot::node::{Attr, Device, Kind, Time};
use lazyroot::tree_path::printable;
use lazyroot::union::upper::{Key, Marks, New, Stat, What};

/// The clock begins here, in seconds: behind any time that layers and programs say.
pub(crate) const CLOCK: i64 = 1_000_000_000;

pub(super) const ROOT: Key = Key(7);

pub(super) const CAPABILITY: &[u8] = b"security.capability";

/// How a change goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// That one change fails with ENOSPC.
    NoSpace,
    /// From there on nothing happens any more.
    Crash,
}

#[derive(Debug, Clone)]
pub(super) struct Object {
    pub(super) attr: Attr,
    pub(super) atime: Time,
    pub(super) ctime: Time,
    pub(super) target: Vec<u8>,
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(super) marks: Marks,
    pub(super) bytes: Vec<u8>,
    /// Nothing: a whiteout.
    pub(super) entries: BTreeMap<Vec<u8>, Option<Key>>,
    /// It has never had a name.
    pub(super) staged: bool,
    /// How many hold its contents open.
    pub(super) opens: usize,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) objects: BTreeMap<Key, Object>,
    pub(super) known: BTreeSet<Key>,
    pub(super) clock: i64,
    /// So many changes still go well.
    pub(super) fault: Option<(u32, Fault)>,
    pub(super) fired: bool,
    pub(super) crashed: bool,
    /// Which mount: contents that an earlier one opened are gone.
    pub(super) mount: u64,
    pub(super) written: u64,
}

pub(super) fn os(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

impl Object {
    /// Contents were changed: capabilities go, whoever does it (capabilities(7)).
    pub(super) fn changed(&mut self, now: Time) {
        (self.attr.mtime, self.ctime) = (now, now);
        self.xattrs.remove(CAPABILITY);
    }
}

impl State {
    pub(super) fn now(&mut self) -> Time {
        self.clock += 1;
        Time {
            seconds: self.clock,
            nanos: 1,
        }
    }

    /// Before each look.
    pub(super) fn look(&self) -> io::Result<()> {
        if self.crashed {
            return Err(os(libc::EIO));
        }
        Ok(())
    }

    /// Before each change.
    pub(super) fn change(&mut self) -> io::Result<()> {
        self.look()?;
        match &mut self.fault {
            Some((0, fault)) => {
                self.fired = true;
                self.crashed = *fault == Fault::Crash;
                self.fault = None;
                Err(os(libc::ENOSPC))
            }
            Some((left, _)) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    pub(super) fn get(&mut self, key: Key, by: &str) -> &mut Object {
        assert!(self.known.contains(&key), "{by}: {key:?} is not known");
        self.objects.get_mut(&key).expect("what is known is there")
    }

    pub(super) fn dir(&mut self, key: Key, by: &str) -> &mut Object {
        let object = self.get(key, by);
        assert_eq!(object.attr.kind, Kind::Dir, "{by}: {key:?} is no directory");
        object
    }

    /// A directory that a name is put into.
    pub(super) fn living_dir(&mut self, key: Key, by: &str) -> io::Result<()> {
        let staged = self.dir(key, by).staged;
        if key != ROOT && !staged && self.names(key) == 0 {
            return Err(os(libc::ENOENT));
        }
        Ok(())
    }

    pub(super) fn names(&self, key: Key) -> u32 {
        let dirs = self.objects.values();
        let names = dirs.flat_map(|dir| dir.entries.values());
        names.filter(|child| **child == Some(key)).count() as u32
    }

    pub(super) fn free(&mut self, dir: Key, name: &[u8], by: &str) -> io::Result<()> {
        check_name(name, by)?;
        self.living_dir(dir, by)?;
        let there = self.dir(dir, by).entries.get(name);
        assert!(
            !matches!(there, Some(Some(_))),
            "{by}: `{}` in {dir:?} is not free",
            printable(name)
        );
        Ok(())
    }

    pub(super) fn there(&mut self, dir: Key, name: &[u8], by: &str) -> Key {
        match self.dir(dir, by).entries.get(name) {
            Some(Some(key)) => *key,
            other => panic!("{by}: `{}` in {dir:?} is {other:?}", printable(name)),
        }
    }

    pub(super) fn has_objects(&self, key: Key) -> bool {
        self.objects[&key].entries.values().any(Option::is_some)
    }

    pub(super) fn put(&mut self, dir: Key, name: &[u8], entry: Option<Key>, quiet: bool) {
        let now = self.now();
        let dir = self.objects.get_mut(&dir).unwrap();
        dir.entries.insert(name.to_vec(), entry);
        if !quiet {
            (dir.attr.mtime, dir.ctime) = (now, now);
        }
    }

    /// Ends an object that nobody has any more.
    pub(super) fn end(&mut self, key: Key) {
        let object = &self.objects[&key];
        if key != ROOT && object.opens == 0 && !self.known.contains(&key) && self.names(key) == 0 {
            self.objects.remove(&key);
        }
    }

    pub(super) fn is_below(&self, key: Key, dir: Key) -> bool {
        key == dir
            || self.objects[&dir]
                .entries
                .values()
                .any(|child| child.is_some_and(|child| self.is_below(key, child)))
    }

    pub(super) fn stat(&self, key: Key) -> Stat {
        let object = &self.objects[&key];
        let is_dir = |child: &&Option<Key>| {
            child.is_some_and(|child| self.objects[&child].attr.kind == Kind::Dir)
        };
        let nlink = match object.attr.kind {
            Kind::Dir => 2 + object.entries.values().filter(is_dir).count() as u32,
            _ => self.names(key),
        };
        let size = match object.attr.kind {
            Kind::File => object.bytes.len() as u64,
            Kind::Symlink => object.target.len() as u64,
            _ => 0,
        };
        Stat {
            attr: Attr {
                nlink,
                size,
                stored: size,
                ..object.attr
            },
            atime: object.atime,
            ctime: object.ctime,
        }
    }

    pub(super) fn add(&mut self, new: &New<'_>, by: &str) -> Key {
        assert!(new.mode <= 0o7777, "{by}: mode {:o}", new.mode);
        let kind = new.what.kind();
        let of_dir = new.marks.opaque || new.marks.impure;
        assert!(!of_dir || kind == Kind::Dir, "{by}: {:?}", new.marks);
        assert!(
            !new.marks.metacopy || kind == Kind::File,
            "{by}: {:?}",
            new.marks
        );
        let now = self.now();
        let (atime, mtime) = new.times.unwrap_or((now, now));
        let rdev = match new.what {
            What::Char(rdev) | What::Block(rdev) => rdev,
            _ => Device::default(),
        };
        let attr = Attr {
            kind,
            mode: new.mode,
            uid: new.uid,
            gid: new.gid,
            size: 0,
            stored: 0,
            mtime,
            nlink: 0,
            rdev,
        };
        let object = Object {
            attr,
            atime,
            ctime: now,
            target: match new.what {
                What::Symlink(target) => target.to_vec(),
                _ => Vec::new(),
            },
            xattrs: new.xattrs.iter().cloned().collect(),
            marks: new.marks.clone(),
            bytes: match new.what {
                What::File(size) => vec![0; size as usize],
                _ => Vec::new(),
            },
            entries: BTreeMap::new(),
            staged: true,
            opens: 0,
        };
        let key = (1..).map(Key).find(|key| !self.objects.contains_key(key));
        let key = key.expect("numbers do not end");
        self.objects.insert(key, object);
        self.known.insert(key);
        key
    }
}

pub(super) fn check_name(name: &[u8], by: &str) -> io::Result<()> {
    let odd = name.is_empty() || name == b"." || name == b".." || name.contains(&b'/');
    assert!(!odd, "{by}: `{}` is no name", printable(name));
    if name.len() > 255 {
        return Err(os(libc::ENAMETOOLONG));
    }
    Ok(())
}

pub(super) fn picture(state: &State, dir: Key, path: &str, text: &mut String) {
    for (name, child) in &state.objects[&dir].entries {
        let path = format!("{path}/{}", printable(name));
        match child {
            None => text.push_str(&format!("  {path} whiteout\n")),
            Some(key) => {
                let object = &state.objects[key];
                let marks = &object.marks;
                let has = [
                    (marks.opaque, "opaque".to_owned()),
                    (marks.metacopy, "metacopy".to_owned()),
                    (marks.impure, "impure".to_owned()),
                    (
                        marks.redirect.is_some(),
                        format!("redirect={}", shown(&marks.redirect)),
                    ),
                    (
                        marks.origin.is_some(),
                        format!("origin={}", shown(&marks.origin)),
                    ),
                ];
                let has: Vec<_> = has
                    .into_iter()
                    .filter(|(is, _)| *is)
                    .map(|(_, w)| w)
                    .collect();
                let kind = object.attr.kind;
                text.push_str(&format!("  {path} {key:?} {kind:?} {}\n", has.join(" ")));
                picture(state, *key, &path, text);
            }
        }
    }
}

fn shown(bytes: &Option<Vec<u8>>) -> String {
    bytes.as_deref().map(printable).unwrap_or_default()
}

/// An order that is nobody's.
pub(super) fn odd(name: &[u8]) -> (u8, Vec<u8>) {
    let sum = name
        .iter()
        .fold(31u8, |sum, byte| sum.wrapping_mul(37) ^ byte);
    (sum, name.to_vec())
}
