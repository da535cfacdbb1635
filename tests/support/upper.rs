//! An upper directory in memory, and a strict one.
//!
//! What it is for: the tree of changes in the model test. It is the referee of
//! what the union may ask of an [`Upper`]: whatever the trait does not allow ends
//! the test with a word about it. It can fail and crash at any change, be mounted
//! again (what has no name is gone then), and it tells what was written.
//!
//! Names of a directory come in an odd order, and keys are given out again as
//! early as the trait allows: both as on disk.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use lazyroot::node::Kind;
use lazyroot::tree_path::printable;
use lazyroot::union::Xattrs;
use lazyroot::union::upper::{
    Change, Data, Entry, Key, Mark, Marks, New, SetTime, SetXattr, Space, Stat, Upper, What,
};
use objects::{CAPABILITY, ROOT, State, check_name, odd, os, picture};
pub(crate) use objects::{CLOCK, Fault};
use parking_lot::Mutex;

#[path = "objects.rs"]
mod objects;

/// The upper directory.
#[derive(Debug, Clone)]
pub(crate) struct Memory(Arc<Mutex<State>>);

struct Open {
    state: Arc<Mutex<State>>,
    key: Key,
    mount: u64,
}

impl Memory {
    /// An empty directory.
    pub(crate) fn new() -> Self {
        let mut state = State {
            objects: BTreeMap::new(),
            known: BTreeSet::new(),
            clock: CLOCK,
            fault: None,
            fired: false,
            crashed: false,
            mount: 0,
            written: 0,
        };
        let new = New {
            what: What::Dir,
            mode: 0o755,
            uid: 0,
            gid: 0,
            times: None,
            xattrs: &[],
            marks: &Marks::default(),
            parent_hands_down: false,
        };
        let key = state.add(&new, "new");
        let root = state.objects.remove(&key).unwrap();
        state.objects.insert(ROOT, root);
        state.known = BTreeSet::from([ROOT]);
        Self(Arc::new(Mutex::new(state)))
    }

    /// Whoever used it is gone: what has no name is too, and nothing is known.
    pub(crate) fn remount(&self) {
        let mut state = self.0.lock();
        state.crashed = false;
        state.fault = None;
        state.mount += 1;
        state.known = BTreeSet::from([ROOT]);
        let mut named = BTreeSet::from([ROOT]);
        let mut todo = vec![ROOT];
        while let Some(dir) = todo.pop() {
            let children = state.objects[&dir].entries.values().flatten();
            todo.extend(children.filter(|child| named.insert(**child)));
        }
        state.objects.retain(|key, _| named.contains(key));
        for object in state.objects.values_mut() {
            object.opens = 0;
        }
    }

    /// The change after the next `n` goes wrong.
    pub(crate) fn arm(&self, n: u32, fault: Fault) {
        let mut state = self.0.lock();
        state.fault = Some((n, fault));
        state.fired = false;
    }

    /// Nothing goes wrong any more; says whether something did.
    pub(crate) fn disarm(&self) -> bool {
        let mut state = self.0.lock();
        state.fault = None;
        std::mem::take(&mut state.fired)
    }

    /// How many bytes of contents were written so far.
    pub(crate) fn written(&self) -> u64 {
        self.0.lock().written
    }

    /// Objects, no directories, that somebody still asks for.
    pub(crate) fn known_files(&self) -> Vec<String> {
        let state = self.0.lock();
        let known = state.known.iter().map(|key| (key, &state.objects[key]));
        let files = known.filter(|(_, object)| object.attr.kind != Kind::Dir);
        files
            .map(|(key, object)| format!("{key:?} {:?}", object.attr.kind))
            .collect()
    }

    /// Objects without a name: staged, or removed and not forgotten.
    pub(crate) fn nameless(&self) -> Vec<String> {
        let state = self.0.lock();
        let keys = state
            .objects
            .keys()
            .filter(|key| **key != ROOT && state.names(**key) == 0);
        keys.map(|key| format!("{key:?} {:?}", state.objects[key].attr.kind))
            .collect()
    }

    /// What is at a path, for messages and for tests of the format: marks of an
    /// object; nothing: a whiteout or no such name.
    pub(crate) fn marks_of(&self, path: &[&[u8]]) -> Option<Marks> {
        let state = self.0.lock();
        let mut at = ROOT;
        for name in path {
            at = (*state.objects[&at].entries.get(*name)?)?;
        }
        Some(state.objects[&at].marks.clone())
    }

    /// The whole directory as text, for messages.
    pub(crate) fn picture(&self) -> String {
        let state = self.0.lock();
        let mut text = String::new();
        picture(&state, ROOT, "", &mut text);
        text
    }
}

impl Upper for Memory {
    fn root(&self) -> Key {
        ROOT
    }

    fn find(&self, dir: Key, name: &[u8]) -> io::Result<Option<Entry>> {
        let mut state = self.0.lock();
        state.look()?;
        check_name(name, "find")?;
        let found = state.dir(dir, "find").entries.get(name).copied();
        Ok(found.map(|child| match child {
            None => Entry::Whiteout,
            Some(key) => {
                state.known.insert(key);
                Entry::Object(key, state.objects[&key].attr.kind)
            }
        }))
    }

    fn list(&self, dir: Key, visit: &mut dyn FnMut(&[u8], Entry)) -> io::Result<()> {
        let mut state = self.0.lock();
        state.look()?;
        let entries = state.dir(dir, "list").entries.clone();
        let mut list: Vec<_> = entries.into_iter().collect();
        list.sort_by_key(|(name, _)| odd(name));
        let kinds: Vec<_> = list
            .iter()
            .map(|(_, child)| match child {
                None => Entry::Whiteout,
                Some(key) => Entry::Object(*key, state.objects[key].attr.kind),
            })
            .collect();
        // As on disk: whoever is told may ask for more.
        drop(state);
        for ((name, _), entry) in list.iter().zip(kinds) {
            visit(name, entry);
        }
        Ok(())
    }

    fn stat(&self, key: Key) -> io::Result<Stat> {
        let mut state = self.0.lock();
        state.look()?;
        state.get(key, "stat");
        Ok(state.stat(key))
    }

    fn marks(&self, key: Key) -> io::Result<Marks> {
        let mut state = self.0.lock();
        state.look()?;
        Ok(state.get(key, "marks").marks.clone())
    }

    fn marks_at(&self, dir: Key, name: &[u8]) -> io::Result<Marks> {
        let mut state = self.0.lock();
        state.look()?;
        check_name(name, "marks_at")?;
        let key = state.there(dir, name, "marks_at");
        Ok(state.objects[&key].marks.clone())
    }

    fn target(&self, key: Key) -> io::Result<Vec<u8>> {
        let mut state = self.0.lock();
        state.look()?;
        let object = state.get(key, "target");
        match object.attr.kind {
            Kind::Symlink => Ok(object.target.clone()),
            _ => Err(os(libc::EINVAL)),
        }
    }

    fn xattrs(&self, key: Key) -> io::Result<Xattrs> {
        let mut state = self.0.lock();
        state.look()?;
        let xattrs = state.get(key, "xattrs").xattrs.clone();
        Ok(xattrs.into_iter().collect())
    }

    fn xattr(&self, key: Key, name: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let mut state = self.0.lock();
        state.look()?;
        Ok(state.get(key, "xattr").xattrs.get(name).cloned())
    }

    fn forget(&self, key: Key) {
        let mut state = self.0.lock();
        if state.crashed {
            return;
        }
        assert_ne!(key, ROOT, "the top directory is always known");
        assert!(state.known.remove(&key), "forget: {key:?} is not known");
        state.end(key);
    }

    fn space(&self) -> io::Result<Space> {
        self.0.lock().look()?;
        Ok(Space {
            block: 4096,
            blocks: [1000, 900, 800],
            inodes: [1000, 900],
        })
    }

    fn make(&self, dir: Key, name: &[u8], new: &New<'_>) -> io::Result<(Key, Stat)> {
        let mut state = self.0.lock();
        state.free(dir, name, "make")?;
        state.change()?;
        let key = state.add(new, "make");
        state.objects.get_mut(&key).unwrap().staged = false;
        state.put(dir, name, Some(key), false);
        Ok((key, state.stat(key)))
    }

    fn stage(&self, new: &New<'_>) -> io::Result<Key> {
        let mut state = self.0.lock();
        state.change()?;
        Ok(state.add(new, "stage"))
    }

    fn publish(&self, key: Key, names: &[(Key, &[u8])]) -> io::Result<()> {
        let mut state = self.0.lock();
        let object = state.get(key, "publish");
        assert!(object.staged, "publish: {key:?} is not staged");
        let kind = object.attr.kind;
        assert!(
            kind != Kind::Dir || names.len() < 2,
            "publish: a directory has one name"
        );
        for (dir, name) in names {
            state.free(*dir, name, "publish")?;
            // Some of the names may be there at a crash.
            state.change()?;
            state.put(*dir, name, Some(key), true);
            state.objects.get_mut(&key).unwrap().staged = false;
        }
        state.look()?;
        state.objects.get_mut(&key).unwrap().staged = false;
        Ok(())
    }

    fn link(&self, key: Key, dir: Key, name: &[u8], quiet: bool) -> io::Result<()> {
        let mut state = self.0.lock();
        state.free(dir, name, "link")?;
        assert_ne!(
            state.get(key, "link").attr.kind,
            Kind::Dir,
            "link: a directory"
        );
        assert_ne!(state.names(key), 0, "link: {key:?} has lost its last name");
        state.change()?;
        state.put(dir, name, Some(key), quiet);
        let now = state.now();
        state.get(key, "link").ctime = now;
        Ok(())
    }

    fn remove(&self, dir: Key, name: &[u8], cover: bool) -> io::Result<()> {
        let mut state = self.0.lock();
        check_name(name, "remove")?;
        let key = state.there(dir, name, "remove");
        assert!(!state.has_objects(key), "remove: {key:?} has objects in it");
        state.change()?;
        state.put(dir, name, None, false);
        if !cover {
            state.dir(dir, "remove").entries.remove(name);
        }
        state.end(key);
        Ok(())
    }

    fn cover(&self, dir: Key, name: &[u8]) -> io::Result<()> {
        let mut state = self.0.lock();
        state.free(dir, name, "cover")?;
        let there = state.dir(dir, "cover").entries.get(name);
        assert!(there.is_none(), "cover: a whiteout is there already");
        state.change()?;
        state.put(dir, name, None, false);
        Ok(())
    }

    fn rename(&self, from: (Key, &[u8]), to: (Key, &[u8]), cover: bool) -> io::Result<()> {
        let mut state = self.0.lock();
        check_name(from.1, "rename")?;
        check_name(to.1, "rename")?;
        let key = state.there(from.0, from.1, "rename");
        state.living_dir(to.0, "rename")?;
        assert!(
            !state.is_below(to.0, key),
            "rename: {key:?} would be below itself"
        );
        let there = state
            .dir(to.0, "rename")
            .entries
            .get(to.1)
            .copied()
            .flatten();
        if let Some(there) = there {
            assert_ne!(there, key, "rename: both are names of one object");
            let kinds = [key, there].map(|key| state.objects[&key].attr.kind == Kind::Dir);
            assert_eq!(kinds[0], kinds[1], "rename: a directory and something else");
            assert!(
                !state.has_objects(there),
                "rename: {there:?} has objects in it"
            );
        }
        state.change()?;
        state.put(from.0, from.1, None, false);
        if !cover {
            state.dir(from.0, "rename").entries.remove(from.1);
        }
        state.put(to.0, to.1, Some(key), false);
        if let Some(there) = there {
            state.end(there);
        }
        Ok(())
    }

    fn exchange(&self, one: (Key, &[u8]), other: (Key, &[u8])) -> io::Result<()> {
        let mut state = self.0.lock();
        for (dir, name) in [one, other] {
            check_name(name, "exchange")?;
            state.living_dir(dir, "exchange")?;
            let there = state.dir(dir, "exchange").entries.contains_key(name);
            assert!(
                there,
                "exchange: `{}` in {dir:?} is not there",
                printable(name)
            );
        }
        let [a, b] = [one, other].map(|(dir, name)| state.objects[&dir].entries[name]);
        assert_ne!(a, b, "exchange: both are names of one object");
        for (key, dir) in [(a, other.0), (b, one.0)] {
            let below = key.is_some_and(|key| state.is_below(dir, key));
            assert!(!below, "exchange: {key:?} would be below itself");
        }
        state.change()?;
        state.put(one.0, one.1, b, false);
        state.put(other.0, other.1, a, false);
        Ok(())
    }

    fn mark(&self, key: Key, mark: Mark<'_>) -> io::Result<()> {
        let mut state = self.0.lock();
        let object = state.get(key, "mark");
        let kind = object.attr.kind;
        match mark {
            Mark::Opaque | Mark::Impure => assert_eq!(kind, Kind::Dir, "{mark:?} of {key:?}"),
            Mark::Complete => assert!(object.marks.metacopy, "{mark:?} of {key:?}"),
            Mark::Redirect(_) => {
                assert!(
                    kind == Kind::Dir || object.marks.metacopy,
                    "{mark:?} of {key:?}"
                );
            }
            Mark::Origin(_) => {}
        }
        state.change()?;
        let crashes = matches!(state.fault, Some((_, Fault::Crash)));
        let marks = &mut state.get(key, "mark").marks;
        match mark {
            Mark::Opaque => marks.opaque = true,
            Mark::Impure => marks.impure = true,
            Mark::Redirect(to) => marks.redirect = Some(to.to_vec()),
            Mark::Origin(origin) => marks.origin = Some(origin.to_vec()),
            Mark::Complete => {
                marks.metacopy = false;
                // Two attributes; to take one away needs no room.
                if crashes {
                    state.change()?;
                }
                state.get(key, "mark").marks.redirect = None;
            }
        }
        Ok(())
    }

    fn set_attr(&self, key: Key, change: &Change) -> io::Result<()> {
        let mut state = self.0.lock();
        let kind = state.get(key, "set_attr").attr.kind;
        assert!(change.mode.is_none_or(|mode| mode <= 0o7777), "{change:?}");
        assert!(
            change.size.is_none() || kind == Kind::File,
            "size of {key:?} {kind:?}"
        );
        match state.fault {
            // What changes no size needs no room.
            Some((_, Fault::NoSpace)) if change.size.is_none() => {}
            _ => state.change()?,
        }
        let now = state.now();
        let time = |set: SetTime| match set {
            SetTime::Now => now,
            SetTime::To(time) => time,
        };
        let object = state.get(key, "set_attr");
        if let Some(size) = change.size {
            object.bytes.resize(size as usize, 0);
            object.changed(now);
        }
        if change.uid.is_some() || change.gid.is_some() {
            object.attr.uid = change.uid.unwrap_or(object.attr.uid);
            object.attr.gid = change.gid.unwrap_or(object.attr.gid);
            if kind != Kind::Dir {
                object.attr.mode &= !0o4000;
                if object.attr.mode & 0o010 != 0 {
                    object.attr.mode &= !0o2000;
                }
                object.xattrs.remove(CAPABILITY);
            }
        }
        object.attr.mode = change.mode.unwrap_or(object.attr.mode);
        object.atime = change.atime.map_or(object.atime, time);
        object.attr.mtime = change.mtime.map_or(object.attr.mtime, time);
        object.ctime = now;
        Ok(())
    }

    fn set_xattr(&self, key: Key, name: &[u8], value: &[u8], how: SetXattr) -> io::Result<()> {
        let mut state = self.0.lock();
        let there = state.get(key, "set_xattr").xattrs.contains_key(name);
        match (how, there) {
            (SetXattr::Create, true) => return Err(os(libc::EEXIST)),
            (SetXattr::Replace, false) => return Err(os(libc::ENODATA)),
            _ => {}
        }
        match state.fault {
            // They have the room that they had until a write took them away.
            Some((_, Fault::NoSpace)) if name == CAPABILITY && !there => {}
            _ => state.change()?,
        }
        let now = state.now();
        let object = state.get(key, "set_xattr");
        object.xattrs.insert(name.to_vec(), value.to_vec());
        object.ctime = now;
        Ok(())
    }

    fn remove_xattr(&self, key: Key, name: &[u8]) -> io::Result<()> {
        let mut state = self.0.lock();
        if !state.get(key, "remove_xattr").xattrs.contains_key(name) {
            return Err(os(libc::ENODATA));
        }
        state.change()?;
        let now = state.now();
        let object = state.get(key, "remove_xattr");
        object.xattrs.remove(name);
        object.ctime = now;
        Ok(())
    }

    fn open(&self, key: Key) -> io::Result<Arc<dyn Data>> {
        let mut state = self.0.lock();
        state.look()?;
        let mount = state.mount;
        let object = state.get(key, "open");
        assert_eq!(object.attr.kind, Kind::File, "open of {key:?}");
        object.opens += 1;
        Ok(Arc::new(Open {
            state: Arc::clone(&self.0),
            key,
            mount,
        }))
    }

    fn sync_dir(&self, key: Key) -> io::Result<()> {
        let mut state = self.0.lock();
        state.look()?;
        state.dir(key, "sync_dir");
        Ok(())
    }
}

impl fmt::Debug for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Open({:?})", self.key)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut state = self.state.lock();
        if state.mount == self.mount {
            state.objects.get_mut(&self.key).unwrap().opens -= 1;
            state.end(self.key);
        }
    }
}

impl Open {
    fn check(&self, state: &State) -> io::Result<()> {
        assert_eq!(state.mount, self.mount, "contents of an earlier mount");
        state.look()
    }
}

impl Data for Open {
    fn read_at(&self, offset: u64, to: &mut [u8]) -> io::Result<usize> {
        let state = self.state.lock();
        self.check(&state)?;
        let bytes = &state.objects[&self.key].bytes;
        let from = bytes.get(offset as usize..).unwrap_or_default();
        let len = from.len().min(to.len());
        to[..len].copy_from_slice(&from[..len]);
        Ok(len)
    }

    fn write_some(&self, offset: u64, from: &[u8]) -> io::Result<usize> {
        let mut state = self.state.lock();
        self.check(&state)?;
        state.change()?;
        state.written += from.len() as u64;
        let now = state.now();
        let object = state.objects.get_mut(&self.key).unwrap();
        let (at, end) = (offset as usize, offset as usize + from.len());
        object.bytes.resize(object.bytes.len().max(end), 0);
        object.bytes[at..end].copy_from_slice(from);
        object.changed(now);
        Ok(from.len())
    }

    fn allocate(&self, mode: i32, offset: u64, len: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        self.check(&state)?;
        if mode != libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE {
            return Err(os(libc::EOPNOTSUPP));
        }
        state.change()?;
        let now = state.now();
        let object = state.objects.get_mut(&self.key).unwrap();
        let end = object.bytes.len().min((offset + len) as usize);
        if (offset as usize) < end {
            object.bytes[offset as usize..end].fill(0);
        }
        object.changed(now);
        Ok(())
    }

    /// Every zero is a hole.
    fn seek(&self, offset: u64, data: bool) -> io::Result<Option<u64>> {
        let state = self.state.lock();
        self.check(&state)?;
        let bytes = &state.objects[&self.key].bytes;
        let size = bytes.len() as u64;
        let found = (offset..size).find(|at| (bytes[*at as usize] != 0) == data);
        Ok(found.or((!data && offset < size).then_some(size)))
    }

    fn sync(&self, _data_only: bool) -> io::Result<()> {
        self.check(&self.state.lock())
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
