//! What is to be changed goes up first.
//!
//! What it is for: attributes alone go up at once, without contents
//! ([`Marks::metacopy`]); contents go up outside of every lock but the file's own,
//! into an object that no name leads to yet or behind the mark that says that the
//! layer still has them. So at every moment the tree has the old or the new file,
//! and a crash leaves one of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use super::dirs::{Dir, Slot};
use super::nodes::{File, Node};
use super::{Where, Writable};
use crate::node::{Attr, Ino, Kind, Time};
use crate::union::upper::{
    CAPABILITY, Change, Data, Entry, Key, Mark, Marks, New, SetTime, SetXattr, What,
};
use crate::union::{FsError, Xattrs};

/// Bytes that are copied at a time.
const PIECE: usize = 1 << 20;
/// Ranges of that size are copied by two threads: a thread costs as much as a
/// tenth of it.
const SHARED: u64 = 4 << 20;
/// So much is on its way to the disk while what follows is decoded. Waiting for all of it at
/// the end would take a third of the time of a large copy.
const BEGUN: u64 = 8 << 20;

/// A name in a directory.
type Name = (Arc<Dir>, Vec<u8>);

impl Writable {
    /// A directory, in the upper directory; the caller has the lock for changes.
    pub(super) fn raise_dir(&self, ino: Ino) -> Result<Arc<Dir>, FsError> {
        let place = self.dir(ino)?;
        self.raise_dir_at(&place)
    }

    pub(super) fn raise_dir_at(&self, place: &Where) -> Result<Arc<Dir>, FsError> {
        // Upwards to what is there, downwards again: trees may be deep.
        let mut trail = Vec::new();
        let mut here = match place {
            Where::Upper(dir) => return Ok(Arc::clone(dir)),
            Where::Lower(ino) => {
                let mut at = *ino;
                loop {
                    match self.dir(at)? {
                        Where::Upper(dir) => break dir,
                        Where::Lower(_) => {
                            let (parent, name) = self.lower.home(at)?;
                            trail.push((at, name));
                            at = parent;
                        }
                    }
                }
            }
        };
        while let Some((ino, name)) = trail.pop() {
            here = self.raise_one_dir(&here, ino, &name)?;
        }
        Ok(here)
    }

    fn raise_one_dir(&self, parent: &Dir, ino: Ino, name: &[u8]) -> Result<Arc<Dir>, FsError> {
        let attr = self.lower.attr(ino)?;
        let xattrs = self.lower.xattrs(ino)?;
        let marks = Marks::default();
        let key = self.stage(&attr, What::Dir, &xattrs, &marks)?;
        let publish = self.upper.publish(key, &[(parent.key, name)]);
        publish.map_err(|error| self.unstage(key, error))?;
        let dir = Dir::new(ino, key, Some(ino), (parent.ino, name), &marks, true);
        let dir = Arc::new(dir);
        self.table.lock().put(ino, Node::Dir(Arc::clone(&dir)));
        parent.update(|names| names.put(name, Slot::Object(key, Kind::Dir, ino), true));
        Ok(dir)
    }

    /// An object with the attributes of a layer's, which nothing leads to yet.
    fn stage(
        &self,
        attr: &Attr,
        what: What<'_>,
        xattrs: &Xattrs,
        marks: &Marks,
    ) -> Result<Key, FsError> {
        let new = New {
            what,
            mode: attr.mode,
            uid: attr.uid,
            gid: attr.gid,
            times: Some((attr.mtime, attr.mtime)),
            xattrs,
            marks,
            parent_hands_down: false,
        };
        self.upper.stage(&new).map_err(FsError::Upper)
    }

    fn unstage(&self, key: Key, error: std::io::Error) -> FsError {
        self.upper.forget(key);
        FsError::Upper(error)
    }

    /// An object with its attributes, in the upper directory; contents of a file may
    /// stay below. The caller has the lock for changes.
    pub(super) fn raise(&self, ino: Ino) -> Result<Key, FsError> {
        if let Some(key) = self.key(ino) {
            return Ok(key);
        }
        let attr = self.lower.attr(ino)?;
        if attr.kind == Kind::Dir {
            return Ok(match self.node(ino) {
                Some(Node::Gone) => self.raise_gone_dir(ino, &attr)?,
                _ => self.raise_dir(ino)?.key,
            });
        }
        let target;
        let what = match attr.kind {
            Kind::Symlink => {
                target = self.lower.target(ino)?;
                What::Symlink(&target)
            }
            Kind::Char => What::Char(attr.rdev),
            Kind::Block => What::Block(attr.rdev),
            Kind::Fifo => What::Fifo,
            Kind::Socket => What::Socket,
            Kind::File | Kind::Dir => What::File(attr.size),
        };
        let metacopy = attr.kind == Kind::File && attr.size > 0;
        let marks = Marks {
            metacopy,
            origin: Some(self.lower.origin(ino)?),
            ..Marks::default()
        };
        let key = self.stage(&attr, what, &self.lower.xattrs(ino)?, &marks)?;
        self.give_names(ino, key, attr.kind, metacopy.then_some(ino))?;
        Ok(key)
    }

    /// A removed directory that somebody still has open, to take new attributes.
    fn raise_gone_dir(&self, ino: Ino, attr: &Attr) -> Result<Key, FsError> {
        let marks = Marks {
            opaque: true,
            ..Marks::default()
        };
        let key = self.stage(attr, What::Dir, &self.lower.xattrs(ino)?, &marks)?;
        self.upper
            .publish(key, &[])
            .map_err(|error| self.unstage(key, error))?;
        let dir = Dir::new(ino, key, None, (Ino::ROOT, b""), &marks, true);
        dir.set_gone();
        self.table.lock().put(ino, Node::Dir(Arc::new(dir)));
        Ok(key)
    }

    /// Publishes a staged copy of a layer's object under every name that it has now.
    fn give_names(
        &self,
        ino: Ino,
        key: Key,
        kind: Kind,
        below: Option<Ino>,
    ) -> Result<(), FsError> {
        let places = self
            .raise_names(ino)
            .inspect_err(|_| self.upper.forget(key))?;
        let names: Vec<_> = places
            .iter()
            .map(|(dir, name)| (dir.key, name.as_slice()))
            .collect();
        let published = self.upper.publish(key, &names);
        let mut given = places;
        if published.is_err() {
            // Names given so far stay.
            given.retain(|(dir, name)| self.has_name(key, dir, name));
        }
        let published = match published {
            Err(error) if given.is_empty() => return Err(self.unstage(key, error)),
            published => published,
        };
        let file = File {
            below,
            ..File::whole(key, kind)
        };
        let mut table = self.table.lock();
        table.put(ino, Node::File(file));
        if published.is_err() {
            // The others follow when somebody looks.
            table.settled.remove(&ino);
        }
        drop(table);
        for (dir, name) in &given {
            dir.update(|names| names.put(name, Slot::Object(key, kind, ino), true));
        }
        published.map_err(FsError::Upper)
    }

    fn has_name(&self, key: Key, dir: &Dir, name: &[u8]) -> bool {
        let found = self.upper.find(dir.key, name);
        matches!(found, Ok(Some(Entry::Object(found, _))) if found == key)
    }

    /// The names that a layer's object has now, their directories in the upper
    /// directory.
    fn raise_names(&self, ino: Ino) -> Result<Vec<Name>, FsError> {
        if matches!(self.node(ino), Some(Node::Gone)) {
            return Ok(Vec::new());
        }
        let mut places = Vec::new();
        for (place, name) in self.names_now(ino)? {
            let dir = self.raise_dir_at(&place)?;
            self.make_impure(&dir)?;
            places.push((dir, name));
        }
        Ok(places)
    }

    /// A file whose first `most` bytes are in the upper directory; those behind are
    /// not wanted any more. May take as long as copying takes.
    pub(super) fn raise_contents(&self, ino: Ino, most: u64) -> Result<Key, FsError> {
        self.alone(ino, || self.raise_contents_alone(ino, most))
    }

    /// Changes attributes of an object, but not while its contents are copied: what is put
    /// back behind the copy is what was there before it.
    pub(super) fn beside_copies<T>(&self, ino: Ino, act: impl FnOnce() -> T) -> T {
        match self.copies(ino) {
            true => self.alone(ino, act),
            false => act(),
        }
    }

    /// Does something while nobody copies contents of the object.
    fn alone<T>(&self, ino: Ino, act: impl FnOnce() -> T) -> T {
        let own = {
            let mut copying = self.copying.lock();
            Arc::clone(copying.entry(ino).or_default())
        };
        let result = {
            let _copying = own.lock();
            act()
        };
        let mut copying = self.copying.lock();
        // This one, and the map's.
        if Arc::strong_count(&own) == 2 {
            copying.remove(&ino);
        }
        result
    }

    fn raise_contents_alone(&self, ino: Ino, most: u64) -> Result<Key, FsError> {
        loop {
            match self.node(ino) {
                Some(Node::File(file @ File { below: None, .. })) => {
                    file.check_regular()?;
                    return Ok(file.key);
                }
                Some(Node::File(File {
                    key,
                    below: Some(below),
                    ..
                })) => return self.complete(ino, key, below, most),
                Some(Node::Dir(_)) => return Err(FsError::IsDir),
                Some(Node::Gone) | None => {
                    if let Some(key) = self.raise_whole(ino, most)? {
                        return Ok(key);
                    }
                }
            }
        }
    }

    /// Copies attributes and contents of a layer's file into a new object, and
    /// publishes it. Nothing: the attributes went up meanwhile.
    fn raise_whole(&self, ino: Ino, most: u64) -> Result<Option<Key>, FsError> {
        let attr = self.lower.attr(ino)?;
        match attr.kind {
            Kind::File => {}
            Kind::Dir => return Err(FsError::IsDir),
            _ => return Err(FsError::WrongKind),
        }
        let marks = Marks {
            origin: Some(self.lower.origin(ino)?),
            ..Marks::default()
        };
        let size = attr.size.min(most);
        let mut xattrs = self.lower.xattrs(ino)?;
        // Whoever sees it cut sees that it was changed.
        let mtime = match size < attr.size {
            true => {
                xattrs.retain(|(name, _)| name != CAPABILITY);
                SetTime::Now
            }
            false => SetTime::To(attr.mtime),
        };
        let key = self.stage(&attr, What::File(size), &xattrs, &marks)?;
        let copied = self
            .copy(ino, key, size)
            .and_then(|()| self.put_back(key, (attr.mtime, mtime), capability(&xattrs)));
        // Durable before it has a name, and while nobody waits for it.
        let durable = copied.and_then(|()| match size {
            0 => Ok(()),
            _ => self
                .upper
                .open(key)
                .and_then(|data| data.sync(false))
                .map_err(FsError::Upper),
        });
        durable.inspect_err(|_| self.upper.forget(key))?;
        let _changes = self.changes.lock();
        if self.key(ino).is_some() {
            self.upper.forget(key);
            return Ok(None);
        }
        self.give_names(ino, key, Kind::File, None)?;
        Ok(Some(key))
    }

    /// Copies the contents of a file whose attributes went up earlier, at most so many bytes of them, and cuts it there. The
    /// mark that they are below goes last; what fails before leaves the file as it was (or cut, if it is the mark).
    fn complete(&self, ino: Ino, key: Key, below: Ino, most: u64) -> Result<Key, FsError> {
        let stat = self.upper.stat(key).map_err(FsError::Upper)?;
        let size = stat.attr.size.min(most);
        let times = (stat.atime, SetTime::To(stat.attr.mtime));
        let caps = self.upper.xattr(key, CAPABILITY).map_err(FsError::Upper)?;
        self.freeze(ino, Some((stat.atime, stat.attr.mtime)));
        let copied = self.copy(below, key, size);
        // After a failure, too.
        let put_back = self.put_back(key, times, caps.as_deref());
        let done = copied.and(put_back).and_then(|()| {
            if size > 0 {
                let data = self.upper.open(key).map_err(FsError::Upper)?;
                data.sync(false).map_err(FsError::Upper)?;
            }
            if size < stat.attr.size {
                let change = Change {
                    size: Some(size),
                    ..Change::default()
                };
                self.upper.set_attr(key, &change).map_err(FsError::Upper)?;
            }
            // A rename looks whether contents are below, and sets a redirect if so.
            let _changes = self.changes.lock();
            self.upper
                .mark(key, Mark::Complete)
                .map_err(FsError::Upper)?;
            if let Some(Node::File(file)) = self.table.lock().node_mut(ino) {
                file.below = None;
            }
            Ok(())
        });
        self.freeze(ino, None);
        done.map(|()| key)
    }

    fn freeze(&self, ino: Ino, times: Option<(Time, Time)>) {
        if let Some(Node::File(file)) = self.table.lock().node_mut(ino) {
            file.frozen = times;
        }
    }

    /// Puts back what writing has changed.
    fn put_back(
        &self,
        key: Key,
        times: (Time, SetTime),
        caps: Option<&[u8]>,
    ) -> Result<(), FsError> {
        let put = |caps| self.upper.set_xattr(key, CAPABILITY, caps, SetXattr::Any);
        let caps = caps.map_or(Ok(()), put);
        let change = Change {
            atime: Some(SetTime::To(times.0)),
            mtime: Some(times.1),
            ..Change::default()
        };
        // Both, whatever becomes of the other.
        let times = self.upper.set_attr(key, &change);
        caps.and(times).map_err(FsError::Upper)
    }

    /// Copies the first `size` bytes of a layer's file, and leaves its holes holes.
    fn copy(&self, from: Ino, to: Key, size: u64) -> Result<(), FsError> {
        if size == 0 {
            return Ok(());
        }
        let data = self.upper.open(to).map_err(FsError::Upper)?;
        let mut at = 0;
        while at < size
            && let Some(start) = self.lower.seek(from, at, true)?
        {
            let end = self
                .lower
                .seek(from, start, false)?
                .unwrap_or(size)
                .min(size);
            if start >= end {
                // A file that was cut up there, before it was copied.
                break;
            }
            self.copy_range(from, &*data, start, end)?;
            at = end;
        }
        Ok(())
    }

    /// Copies what lies between two holes. A large range is shared by threads: to
    /// decode and check takes longer than to write, and no piece needs another.
    fn copy_range(&self, from: Ino, to: &dyn Data, start: u64, end: u64) -> Result<(), FsError> {
        let next = AtomicU64::new(start);
        let failed = AtomicBool::new(false);
        let copy = || {
            let left = usize::try_from(end - start).unwrap_or(PIECE);
            let mut piece = vec![0; PIECE.min(left)];
            while !failed.load(Ordering::Relaxed) {
                let mut at = next.fetch_add(PIECE as u64, Ordering::Relaxed);
                // All before it are written, but for those that other threads are at.
                if at > start && (at - start).is_multiple_of(BEGUN) {
                    to.begin_sync(at - BEGUN, BEGUN);
                }
                let stop = end.min(at.saturating_add(PIECE as u64));
                if at >= end {
                    break;
                }
                while at < stop {
                    at += self
                        .copy_piece(from, to, at, stop, &mut piece)
                        .inspect_err(|_| failed.store(true, Ordering::Relaxed))?;
                }
            }
            Ok(())
        };
        if end - start < SHARED {
            return copy();
        }
        thread::scope(|scope| {
            // Where no thread can be had, one does it all.
            let other = thread::Builder::new().spawn_scoped(scope, copy);
            let mine = copy();
            let theirs = other.map_or(Ok(()), |thread| {
                thread.join().expect("because a copy does not panic")
            });
            mine.and(theirs)
        })
    }

    fn copy_piece(
        &self,
        from: Ino,
        to: &dyn Data,
        at: u64,
        end: u64,
        piece: &mut [u8],
    ) -> Result<u64, FsError> {
        let wanted = usize::try_from(end - at).map_or(piece.len(), |left| left.min(piece.len()));
        let got = self.lower.read(from, at, &mut piece[..wanted])?;
        if got == 0 {
            let what = "a file ends before its size".to_owned();
            return Err(FsError::UpperDamaged(what));
        }
        to.write_at(at, &piece[..got]).map_err(FsError::Upper)?;
        Ok(got as u64)
    }
}

fn capability(xattrs: &Xattrs) -> Option<&[u8]> {
    let found = xattrs.iter().find(|(name, _)| name == CAPABILITY);
    found.map(|(_, value)| value.as_slice())
}
