//! One tree twice: as the union shows it, and as the naive model says it is.
//!
//! What it is for: every operation is done to both, then everything that can be
//! seen is compared. Counts what the union is owed (`forget`), keeps files open and
//! directories half read, and writes down what happened, as a story to be read
//! when the two differ.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lazyroot::node::{Device, Ino, Kind};
use lazyroot::tree_path::printable;
use lazyroot::union::upper::{CAPABILITY, Change, SetXattr, Upper, What};
use lazyroot::union::writable::{Contents, Known, Maker, Open, Rename, Writable};
use lazyroot::union::{FsError, Union};

use super::posix::{Id, Mtime, Posix};
use super::support::both;
use super::support::layers::Entry;
use super::upper::{Fault, Memory};

/// Why the two are not the same.
pub(crate) type Verdict<T = ()> = Result<T, String>;

macro_rules! ensure {
    ($holds:expr, $($why:tt)+) => {
        if !$holds {
            return Err(format!($($why)+));
        }
    };
}

#[path = "compare.rs"]
mod compare;

/// What is to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Thing {
    File,
    Dir,
    Symlink(&'static [u8]),
    Char(u32, u32),
    Block(u32, u32),
    Fifo,
}

impl Thing {
    fn what(&self) -> What<'_> {
        match *self {
            Self::File => What::File(0),
            Self::Dir => What::Dir,
            Self::Symlink(target) => What::Symlink(target),
            Self::Char(major, minor) => What::Char(Device { major, minor }),
            Self::Block(major, minor) => What::Block(Device { major, minor }),
            Self::Fifo => What::Fifo,
        }
    }
}

/// A place for a name.
pub(crate) type At = (Id, Vec<u8>);

/// A change of the tree.
#[derive(Debug, Clone)]
pub(crate) enum Call {
    Make(At, Thing, Maker),
    Link(Id, At),
    Unlink(At),
    Rmdir(At),
    Rename(At, At, Rename),
    SetAttr(Id, Change),
    Strip(Id),
    Open(Id, Open),
    SetXattr(Id, Vec<u8>, Vec<u8>, SetXattr),
    RemoveXattr(Id, Vec<u8>),
}

/// An open file.
struct Handle {
    of: Id,
    how: Open,
    contents: Contents,
}

/// A directory that is being read.
struct Cursor {
    of: Id,
    cookie: u64,
    /// All that were told.
    cookies: BTreeSet<u64>,
    seen: Vec<Vec<u8>>,
    /// What was there at the beginning and was not touched since.
    untouched: BTreeSet<Vec<u8>>,
}

/// The two trees.
pub(crate) struct Twins {
    lower: Arc<Union>,
    pub(crate) upper: Memory,
    union: Option<Writable>,
    pub(crate) model: Posix,
    /// The number that each object was seen with, in any mount.
    inos: BTreeMap<Id, Ino>,
    /// Objects that the union knows, the root apart.
    known: BTreeMap<Id, Ino>,
    owed: BTreeMap<Ino, u64>,
    handles: Vec<Handle>,
    cursors: Vec<Cursor>,
    /// Whether what a comparison looked up stays known.
    keeps: bool,
    pub(crate) story: Vec<String>,
}

fn errno(error: &FsError) -> i32 {
    match error {
        FsError::NotFound => libc::ENOENT,
        FsError::NotDir => libc::ENOTDIR,
        FsError::IsDir => libc::EISDIR,
        FsError::WrongKind | FsError::BelowItself => libc::EINVAL,
        FsError::Loop | FsError::TooManySteps => libc::ELOOP,
        FsError::Interrupted => libc::EINTR,
        FsError::NoAttribute => libc::ENODATA,
        FsError::Exists => libc::EEXIST,
        FsError::NotEmpty => libc::ENOTEMPTY,
        FsError::NameTooLong => libc::ENAMETOOLONG,
        FsError::NotPermitted => libc::EPERM,
        FsError::Upper(error) => error.raw_os_error().unwrap_or(libc::EIO),
        FsError::Stale => libc::ESTALE,
        FsError::UpperDamaged(_) | FsError::Damaged(_) => libc::EIO,
    }
}

fn well<T>(outcome: Result<T, FsError>, what: &str) -> Verdict<T> {
    outcome.map_err(|error| format!("{what}: {error:?}"))
}

/// A file whose attributes were copied up earlier, when a crash interrupts its
/// contents on their way: writing has changed its time and taken its capabilities, and
/// nobody is left to put them back (kernel overlayfs has the same gap).
fn interrupted(before: &Posix, id: Id) -> Vec<Posix> {
    let object = before.get(id);
    let (Kind::File, Mtime::At(time)) = (object.kind, object.mtime) else {
        return Vec::new();
    };
    let mut timeless = before.clone();
    timeless.get_mut(id).mtime = Mtime::Either(time);
    let mut incapable = timeless.clone();
    incapable.get_mut(id).xattrs.remove(CAPABILITY);
    vec![timeless, incapable]
}

/// What is left when privileges are only taken away in part: no system call takes
/// a capability and a mode's bits together, the kernel takes them in this order too.
fn half_stripped(before: &Posix, id: Id) -> Posix {
    let mut half = before.clone();
    half.get_mut(id).xattrs.remove(CAPABILITY);
    half
}

impl Twins {
    /// Both trees of a stack of layers, unchanged.
    pub(crate) fn new(stack: &[Vec<Entry>], keeps: bool) -> Self {
        let (lower, tree) = both(stack);
        let lower = Arc::new(lower);
        let mut twins = Self {
            lower,
            upper: Memory::new(),
            union: None,
            model: Posix::of(&tree),
            inos: BTreeMap::new(),
            known: BTreeMap::new(),
            owed: BTreeMap::new(),
            handles: Vec::new(),
            cursors: Vec::new(),
            keeps,
            story: Vec::new(),
        };
        twins.mount().unwrap();
        twins
    }

    fn union(&self) -> &Writable {
        self.union.as_ref().unwrap()
    }

    fn mount(&mut self) -> Verdict {
        let upper: Arc<dyn Upper> = Arc::new(self.upper.clone());
        self.union = Some(well(
            Writable::new(Arc::clone(&self.lower), upper),
            "mount",
        )?);
        Ok(())
    }

    /// Another process shows the tree: what was open or had no name is gone.
    pub(crate) fn remount(&mut self) -> Verdict {
        self.story.push("remount".to_owned());
        self.handles.clear();
        self.cursors.clear();
        self.known.clear();
        self.owed.clear();
        self.union = None;
        self.upper.remount();
        self.mount()
    }

    /// The layers and the upper directory, which no union has any more.
    pub(crate) fn unmounted(&mut self) -> (Arc<Union>, Memory) {
        self.handles.clear();
        self.cursors.clear();
        self.known.clear();
        self.owed.clear();
        self.union = None;
        self.upper.remount();
        (Arc::clone(&self.lower), self.upper.clone())
    }

    /// An object's path, for the story.
    fn shown(&self, id: Id) -> String {
        match self.model.path(id) {
            Some(path) => format!("/{}", printable(&path.join(&b'/'))),
            None => format!("lost #{id}"),
        }
    }

    fn place(&self, at: &At) -> String {
        format!(
            "{}/{}",
            self.shown(at.0).trim_end_matches('/'),
            printable(&at.1)
        )
    }

    fn tell(&self, call: &Call) -> String {
        match call {
            Call::Make(at, thing, maker) => format!(
                "make {} {thing:?} mode {:o} umask {:o} owner {}:{}",
                self.place(at),
                maker.mode,
                maker.umask,
                maker.uid,
                maker.gid
            ),
            Call::Link(id, at) => format!("link {} as {}", self.shown(*id), self.place(at)),
            Call::Unlink(at) => format!("unlink {}", self.place(at)),
            Call::Rmdir(at) => format!("rmdir {}", self.place(at)),
            Call::Rename(from, to, how) => {
                format!("rename {} to {} {how:?}", self.place(from), self.place(to))
            }
            Call::SetAttr(id, change) => format!("set {} {change:?}", self.shown(*id)),
            Call::Strip(id) => format!("strip {}", self.shown(*id)),
            Call::Open(id, how) => format!("open {} {how:?}", self.shown(*id)),
            Call::SetXattr(id, name, value, how) => format!(
                "set xattr {} of {} to {} {how:?}",
                printable(name),
                self.shown(*id),
                printable(value)
            ),
            Call::RemoveXattr(id, name) => {
                format!("remove xattr {} of {}", printable(name), self.shown(*id))
            }
        }
    }

    fn owe(&mut self, ino: Ino) {
        if ino != Ino::ROOT {
            *self.owed.entry(ino).or_default() += 1;
        }
    }

    /// The union said that the object has this number.
    fn meet(&mut self, id: Id, ino: Ino) -> Verdict {
        let was = *self.inos.entry(id).or_insert(ino);
        ensure!(
            was == ino,
            "{} had the number {}, now {}",
            self.shown(id),
            was.0,
            ino.0
        );
        if ino != Ino::ROOT {
            self.known.insert(id, ino);
        }
        Ok(())
    }

    fn lookup(&mut self, dir: Ino, name: &[u8], id: Id) -> Verdict<Known> {
        let found = self.union().lookup(dir, name);
        if let Ok(found) = &found {
            self.owe(found.ino);
        }
        let found = found.map_err(|e| format!("lookup of {} gives {e:?}", self.shown(id)))?;
        self.meet(id, found.ino)?;
        Ok(found)
    }

    /// The number of an object, looked up on its path if it is not known.
    pub(crate) fn ino(&mut self, id: Id) -> Verdict<Ino> {
        if id == self.model.root {
            return Ok(Ino::ROOT);
        }
        if let Some(ino) = self.known.get(&id) {
            return Ok(*ino);
        }
        let path = self
            .model
            .path(id)
            .ok_or("an object that is lost and not known")?;
        let (mut dir, mut at) = (Ino::ROOT, self.model.root);
        for name in path {
            at = self.model.lookup(at, &name).unwrap();
            dir = self.lookup(dir, &name, at)?.ino;
        }
        Ok(dir)
    }

    /// Objects that have lost their last name and are still known.
    pub(crate) fn lost(&self) -> Vec<Id> {
        let known = self.known.keys().copied();
        known.filter(|id| self.model.is_lost(*id)).collect()
    }

    fn do_to_model(model: &mut Posix, call: &Call) -> Result<Option<Id>, i32> {
        match call {
            Call::Make((dir, name), thing, maker) => {
                return model.make(*dir, name, thing.what(), maker).map(Some);
            }
            Call::Link(id, (dir, name)) => {
                model.link(*id, *dir, name)?;
                return Ok(Some(*id));
            }
            Call::Unlink((dir, name)) => model.unlink(*dir, name)?,
            Call::Rmdir((dir, name)) => model.rmdir(*dir, name)?,
            Call::Rename(from, to, how) => model.rename((from.0, &from.1), (to.0, &to.1), *how)?,
            Call::SetAttr(id, change) => model.set_attr(*id, change)?,
            Call::Strip(id) => model.strip(*id),
            Call::Open(id, how) => model.open(*id, *how == Open::Truncate)?,
            Call::SetXattr(id, name, value, how) => model.set_xattr(*id, name, value, *how)?,
            Call::RemoveXattr(id, name) => model.remove_xattr(*id, name)?,
        }
        Ok(None)
    }

    /// Looks up all that the call speaks of.
    fn prepare(&mut self, call: &Call) -> Verdict<[Ino; 2]> {
        let (one, other) = match call {
            Call::Make(at, ..) | Call::Unlink(at) | Call::Rmdir(at) => (at.0, at.0),
            Call::Link(id, at) => (*id, at.0),
            Call::Rename(from, to, _) => (from.0, to.0),
            Call::SetAttr(id, _)
            | Call::Strip(id)
            | Call::Open(id, _)
            | Call::SetXattr(id, ..)
            | Call::RemoveXattr(id, _) => (*id, *id),
        };
        Ok([self.ino(one)?, self.ino(other)?])
    }

    /// What the call made or found, if it does.
    fn do_to_union(&mut self, call: &Call, inos: [Ino; 2]) -> Result<Option<Known>, FsError> {
        let ([ino, other], union) = (inos, self.union());
        match call {
            Call::Make((_, name), thing, maker) => {
                return union.make(ino, name, thing.what(), maker).map(Some);
            }
            Call::Link(_, (_, name)) => return union.link(ino, other, name).map(Some),
            Call::Unlink((_, name)) => union.unlink(ino, name)?,
            Call::Rmdir((_, name)) => union.rmdir(ino, name)?,
            Call::Rename(from, to, how) => union.rename((ino, &from.1), (other, &to.1), *how)?,
            Call::SetAttr(_, change) => drop(union.set_attr(ino, change)?),
            Call::Strip(_) => drop(union.strip_privileges(ino)?),
            Call::Open(id, how) => {
                let handle = Handle {
                    of: *id,
                    how: *how,
                    contents: union.open(ino, *how)?,
                };
                self.handles.push(handle);
            }
            Call::SetXattr(_, name, value, how) => union.set_xattr(ino, name, value, *how)?,
            Call::RemoveXattr(_, name) => union.remove_xattr(ino, name)?,
        }
        Ok(None)
    }

    /// Does a call to both trees; with `fault`, the change after so many goes wrong.
    pub(crate) fn call(&mut self, call: &Call, fault: Option<(u32, Fault)>) -> Verdict {
        let told = self.tell(call);
        self.story.push(told);
        let inos = self.prepare(call)?;
        let before = self.model.clone();
        let expected = Self::do_to_model(&mut self.model, call);
        if let Some((n, fault)) = fault {
            self.upper.arm(n, fault);
        }
        let outcome = self.do_to_union(call, inos);
        let fired = self.upper.disarm();
        if let Ok(Some(known)) = &outcome {
            self.owe(known.ino);
        }
        if let (true, Some((n, fault))) = (fired, fault) {
            self.story.push(format!(
                "  the change after {n} fails: {fault:?}: {outcome:?}"
            ));
            self.touch(&before);
            let after = std::mem::replace(&mut self.model, before);
            let mut allowed = vec![self.model.clone()];
            match call {
                Call::Open(id, _) | Call::SetAttr(id, _) if fault == Fault::Crash => {
                    allowed.extend(interrupted(&self.model, *id));
                }
                Call::Strip(id) => allowed.push(half_stripped(&self.model, *id)),
                _ => {}
            }
            allowed.push(after);
            return self.after_fault(fault, outcome.is_ok(), allowed);
        }
        match (&expected, &outcome) {
            (Ok(id), Ok(known)) => {
                if let (Some(id), Some(known)) = (id, known) {
                    self.meet(*id, known.ino)?;
                }
            }
            (Err(wanted), Err(error)) if *wanted == errno(error) => {}
            _ => return Err(format!("expected {expected:?}, but {outcome:?}")),
        }
        if let Err(wanted) = expected {
            self.story.push(format!("  errno {wanted}"));
        }
        self.touch(&before);
        self.check()
    }

    /// What went wrong has happened (the last that is allowed) or not; nothing in
    /// between.
    fn after_fault(&mut self, fault: Fault, well: bool, mut allowed: Vec<Posix>) -> Verdict {
        if fault == Fault::Crash {
            self.remount()?;
        }
        if well {
            allowed.drain(..allowed.len() - 1);
        }
        let (inos, known) = (self.inos.clone(), self.known.clone());
        let mut wrong = Vec::new();
        for model in allowed {
            (self.model, self.inos, self.known) = (model, inos.clone(), known.clone());
            match self.check() {
                Ok(()) => return Ok(()),
                Err(why) => wrong.push(why),
            }
        }
        Err(format!(
            "neither as before nor as after: {}",
            wrong.join("; ")
        ))
    }

    /// Notes which names a change touched, for those who are reading directories.
    fn touch(&mut self, before: &Posix) {
        for cursor in &mut self.cursors {
            let (was, is) = (before.get(cursor.of), self.model.get(cursor.of));
            let same = |name: &Vec<u8>| was.entries.get(name) == is.entries.get(name);
            cursor.untouched.retain(same);
        }
    }

    /// Closes a file, which may be the last one.
    pub(crate) fn close(&mut self, n: usize) {
        if !self.handles.is_empty() {
            let handle = self.handles.remove(n % self.handles.len());
            self.story.push(format!("close {}", self.shown(handle.of)));
        }
    }

    /// Writes through a file that is open for writing, if there is one.
    pub(crate) fn write(&mut self, n: usize, offset: usize, bytes: &[u8]) -> Verdict {
        self.through_handle(
            n,
            &format!("write {} bytes at {offset}", bytes.len()),
            |data, model, id| {
                model.write(id, offset, bytes);
                data.write_at(offset as u64, bytes)
            },
        )
    }

    /// Punches a hole through a file that is open for writing, if there is one.
    pub(crate) fn punch(&mut self, n: usize, offset: usize, len: usize) -> Verdict {
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        self.through_handle(
            n,
            &format!("punch {len} bytes at {offset}"),
            |data, model, id| {
                model.punch(id, offset, len);
                data.allocate(mode, offset as u64, len as u64)
            },
        )
    }

    fn through_handle(
        &mut self,
        n: usize,
        what: &str,
        change: impl Fn(&dyn lazyroot::union::upper::Data, &mut Posix, Id) -> std::io::Result<()>,
    ) -> Verdict {
        let writing: Vec<_> = self
            .handles
            .iter()
            .filter(|h| h.how != Open::Read)
            .collect();
        let Some(handle) = writing.get(n % writing.len().max(1)) else {
            return Ok(());
        };
        let Contents::Upper(data) = &handle.contents else {
            return Err("opened for writing, but the contents are in a layer".to_owned());
        };
        let (data, id) = (Arc::clone(data), handle.of);
        self.story.push(format!("{what} of {}", self.shown(id)));
        change(&*data, &mut self.model, id).map_err(|error| format!("{what}: {error}"))?;
        self.check()
    }

    /// Begins to read a directory.
    pub(crate) fn begin(&mut self, dir: Id) -> Verdict {
        self.story
            .push(format!("begin to read {}", self.shown(dir)));
        self.ino(dir)?;
        self.cursors.push(Cursor {
            of: dir,
            cookie: 0,
            cookies: BTreeSet::from([0]),
            seen: Vec::new(),
            untouched: self.model.get(dir).entries.keys().cloned().collect(),
        });
        Ok(())
    }

    /// Reads on: so many names, or to the end.
    pub(crate) fn read_on(&mut self, n: usize, most: usize) -> Verdict {
        if self.cursors.is_empty() {
            return Ok(());
        }
        let n = n % self.cursors.len();
        let mut cursor = self.cursors.remove(n);
        self.story
            .push(format!("read {most} names of {}", self.shown(cursor.of)));
        if self.model.is_lost(cursor.of) {
            return Ok(());
        }
        let ino = self.ino(cursor.of)?;
        let mut taken = Vec::new();
        let mut visit = |listed: lazyroot::union::Listed<'_>| {
            if taken.len() == most {
                return false;
            }
            taken.push((listed.cookie, listed.name.to_vec()));
            true
        };
        well(self.union().list(ino, cursor.cookie, &mut visit), "list")?;
        let ended = taken.len() < most;
        for (cookie, name) in taken {
            ensure!(
                cursor.cookies.insert(cookie),
                "cookie {cookie} is told twice"
            );
            cursor.cookie = cookie;
            let twice = cursor.seen.contains(&name) && cursor.untouched.contains(&name);
            ensure!(!twice, "`{}` is listed twice", printable(&name));
            cursor.seen.push(name);
        }
        if ended {
            let mut missing = cursor
                .untouched
                .iter()
                .filter(|name| !cursor.seen.contains(name));
            let missing = missing.next();
            ensure!(
                missing.is_none(),
                "{:?} was not listed",
                missing.map(|name| printable(name))
            );
        } else {
            self.cursors.push(cursor);
        }
        Ok(())
    }

    /// The kernel forgets what nobody holds: an object, of a directory all below.
    pub(crate) fn forget(&mut self, id: Id) {
        let mut below = Vec::new();
        self.model.all_below(id, &mut below);
        let below = below.into_iter().map(|(_, _, child)| child);
        let all: Vec<_> = std::iter::once(id).chain(below).collect();
        self.story.push(format!("forget {}", self.shown(id)));
        self.forget_these(&all);
    }

    /// The kernel forgets all that nobody holds.
    pub(crate) fn forget_all(&mut self) {
        self.story.push("forget all".to_owned());
        let mut all: Vec<_> = self.model.all().into_iter().map(|(_, _, id)| id).collect();
        all.extend(self.lost());
        self.forget_these(&all);
    }

    /// What comes later is below and forgotten first.
    fn forget_these(&mut self, ids: &[Id]) {
        let mut held: BTreeSet<Id> = self.handles.iter().map(|handle| handle.of).collect();
        held.extend(self.cursors.iter().map(|cursor| cursor.of));
        let above = |id: &Id| {
            let mut below = Vec::new();
            self.model.all_below(*id, &mut below);
            held.contains(id) || below.iter().any(|(_, _, child)| held.contains(child))
        };
        let free: Vec<_> = ids.iter().rev().filter(|id| !above(id)).collect();
        for id in free {
            if let Some(ino) = self.known.remove(id) {
                let times = self.owed.remove(&ino).unwrap_or(0);
                self.union().forget(ino, times);
            }
        }
    }

    /// Forgets all; the upper directory has then nothing to remember but directories.
    pub(crate) fn end(&mut self) -> Verdict {
        self.handles.clear();
        self.cursors.clear();
        self.forget_all();
        for (ino, times) in std::mem::take(&mut self.owed) {
            self.union().forget(ino, times);
        }
        let known = self.upper.known_files();
        ensure!(
            known.is_empty(),
            "still known when all is forgotten: {known:?}"
        );
        let nameless = self.upper.nameless();
        ensure!(
            nameless.is_empty(),
            "without a name and still there: {nameless:?}"
        );
        self.remount()?;
        self.check()
    }

    /// What happened so far, and what is wrong.
    pub(crate) fn tale(&self, wrong: &str) -> String {
        let story = self.story.join("\n  ");
        format!(
            "{wrong}\n  {story}\nupper directory:\n{}",
            self.upper.picture()
        )
    }
}
