//! Names: how they come, go and move.
//!
//! What it is for: each change is one system call that programs can see, with
//! preparations in the work directory before it and tidying there behind it. May
//! assume: the directory's lock is held for writing (`publish` takes it itself).
//! Must not know when a whiteout is needed.

use std::io;
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, FileType, RenameFlags, Stat as RawStat, Timespec};
use rustix::io::Errno;

use super::reach::{self, Opened};
use super::{Directory, clean, device, make};
use crate::union::upper::{Key, Mark};

/// A name in an open directory.
#[derive(Debug, Clone, Copy)]
struct At<'a> {
    key: Key,
    dir: &'a Opened,
    name: &'a [u8],
}

impl<'a> At<'a> {
    fn new(key: Key, dir: &'a Opened, name: &'a [u8]) -> Self {
        Self { key, dir, name }
    }
}

fn is_dir(raw: &RawStat) -> bool {
    FileType::from_raw_mode(raw.st_mode) == FileType::Directory
}

fn renameat(from: At<'_>, to: At<'_>, flags: RenameFlags) -> io::Result<()> {
    Ok(rustix::fs::renameat_with(
        from.dir, from.name, to.dir, to.name, flags,
    )?)
}

impl Directory {
    /// Gives a staged object its names.
    pub(super) fn publish_staged(&self, key: Key, names: &[(Key, &[u8])]) -> io::Result<()> {
        for (_, name) in names {
            reach::check_name(name)?;
        }
        let (opened, raw) = {
            let _looking = self.changes.read();
            self.object(key)?
        };
        let _changing = self.changes.write();
        let temporary = self.staged_name(key)?;
        let Some(((dir, name), more)) = names.split_first() else {
            rustix::fs::unlinkat(
                &*self.work,
                &temporary,
                if is_dir(&raw) {
                    AtFlags::REMOVEDIR
                } else {
                    AtFlags::empty()
                },
            )?;
            let mut table = self.table.lock();
            table.lost(key, self.work_key, temporary.as_bytes(), Some(opened));
            return Ok(());
        };
        let parent = self.dir(*dir)?;
        device::comes_to(&parent, &raw, self.prefix)?;
        quietly(&parent, true, || {
            self.put(&temporary, is_dir(&raw), &parent, name)
        })?;
        let from = (self.work_key, temporary.as_bytes());
        self.table.lock().moved(key, from, (*dir, name));
        for (dir, name) in more {
            self.link_opened(key, (&opened, &raw), *dir, name, true)?;
        }
        Ok(())
    }

    /// The temporary name of a staged object.
    fn staged_name(&self, key: Key) -> io::Result<String> {
        let name = self.table.lock().name_in(key, self.work_key);
        let name = name.and_then(|name| String::from_utf8(name.into_vec()).ok());
        name.ok_or_else(|| Errno::INVAL.into())
    }

    /// Gives a known object one more name.
    pub(super) fn link_at(&self, key: Key, dir: Key, name: &[u8], quiet: bool) -> io::Result<()> {
        let (opened, raw) = self.object(key)?;
        self.link_opened(key, (&opened, &raw), dir, name, quiet)
    }

    fn link_opened(
        &self,
        key: Key,
        (opened, raw): (&Opened, &RawStat),
        dir: Key,
        name: &[u8],
        quiet: bool,
    ) -> io::Result<()> {
        let parent = self.dir(dir)?;
        let kind = self.table.lock().place(key)?.0;
        device::comes_to(&parent, raw, self.prefix)?;
        // By descriptor: what is linked is the object, whatever its names are.
        let link = |to: &Opened, name: &[u8]| {
            rustix::fs::linkat(CWD, opened.path(), to, name, AtFlags::SYMLINK_FOLLOW)
        };
        quietly(&parent, quiet, || {
            match link(&parent, name) {
                Err(Errno::EXIST) => {}
                result => return Ok(result?),
            }
            self.must_be_whiteout(&parent, name)?;
            let temporary = self.temporary();
            link(&self.work, temporary.as_bytes())?;
            let put = self.put(&temporary, false, &parent, name);
            if put.is_err() {
                self.discard(&temporary);
            }
            put
        })?;
        self.table.lock().found(key, kind, dir, name);
        Ok(())
    }

    /// Puts a whiteout at a name that nothing is at.
    pub(super) fn cover_at(&self, dir: Key, name: &[u8]) -> io::Result<()> {
        self.link_whiteout(&*self.dir(dir)?, name)
    }

    /// Removes a name.
    pub(super) fn remove_at(&self, dir: Key, name: &[u8], cover: bool) -> io::Result<()> {
        let parent = self.dir(dir)?;
        let at = At::new(dir, &parent, name);
        let raw = self.object_at(at)?;
        let held = self.hold(at, &raw)?;
        match (is_dir(&raw), cover) {
            (true, _) => self.remove_dir(at, cover)?,
            (false, false) => rustix::fs::unlinkat(at.dir, name, AtFlags::empty())?,
            (false, true) => {
                let temporary = self.temporary_whiteout()?;
                let put = renameat(self.at_work(&temporary), at, RenameFlags::empty());
                if put.is_err() {
                    self.discard(&temporary);
                }
                put?;
            }
        }
        self.table.lock().lost(Key(raw.st_ino), dir, name, held);
        Ok(())
    }

    fn remove_dir(&self, at: At<'_>, cover: bool) -> io::Result<()> {
        let whiteouts = self.has_whiteouts_only(at)?;
        if cover {
            // Whoever looks sees the directory, then the whiteout, never neither.
            let temporary = self.temporary_whiteout()?;
            let exchanged = renameat(self.at_work(&temporary), at, RenameFlags::EXCHANGE);
            self.put_off.lock().push(temporary);
            return exchanged;
        }
        if !whiteouts {
            return Ok(rustix::fs::unlinkat(at.dir, at.name, AtFlags::REMOVEDIR)?);
        }
        let temporary = self.temporary();
        renameat(at, self.at_work(&temporary), RenameFlags::NOREPLACE)?;
        self.put_off.lock().push(temporary);
        Ok(())
    }

    /// Moves a name.
    pub(super) fn rename_at(
        &self,
        from: (Key, &[u8]),
        to: (Key, &[u8]),
        cover: bool,
    ) -> io::Result<()> {
        let (from_dir, to_dir) = (self.dir(from.0)?, self.dir(to.0)?);
        let source = At::new(from.0, &from_dir, from.1);
        let target = At::new(to.0, &to_dir, to.1);
        let raw = self.object_at(source)?;
        let there = self.stat_here(target.dir, target.name)?;
        if there.is_some_and(|there| there.st_ino == raw.st_ino) {
            // Two names of one object: rename(2) does nothing then.
            return Ok(());
        }
        device::comes_to(target.dir, &raw, self.prefix)?;
        let flags = if cover {
            RenameFlags::WHITEOUT
        } else {
            RenameFlags::empty()
        };
        let mut held = None;
        match there {
            Some(there) if reach::is_whiteout(&there) && is_dir(&raw) => {
                renameat(source, target, RenameFlags::EXCHANGE)?;
                if !cover {
                    self.uncover(source);
                }
            }
            Some(there) if !reach::is_whiteout(&there) => {
                held = self.hold(target, &there)?;
                if is_dir(&raw) && is_dir(&there) {
                    self.empty(target)?;
                }
                renameat(source, target, flags)?;
            }
            _ => renameat(source, target, flags)?,
        }
        let mut table = self.table.lock();
        if let Some(there) = there {
            table.lost(Key(there.st_ino), to.0, to.1, held);
        }
        table.moved(Key(raw.st_ino), from, to);
        Ok(())
    }

    /// Removes a whiteout where no layer has anything: until it is gone, it hides
    /// nothing. The rename has happened, so a failure is none of that.
    fn uncover(&self, at: At<'_>) {
        if let Err(error) = rustix::fs::unlinkat(at.dir, at.name, AtFlags::empty()) {
            let name = String::from_utf8_lossy(at.name);
            log::warn!("a whiteout is left at `{name}`: {error}");
        }
    }

    /// Removes the whiteouts from a directory that has nothing else. It is opaque
    /// from before: so it shows nothing at any moment, as it did.
    fn empty(&self, at: At<'_>) -> io::Result<()> {
        if !self.has_whiteouts_only(at)? {
            return Ok(());
        }
        let (opened, raw) = reach::open_path(at.dir, at.name)?;
        let kind = reach::kind_of(&raw)?;
        super::marks::set(&opened, kind, Mark::Opaque, self.prefix)?;
        let fd = opened.readable()?;
        clean::clear(&fd, &self.temporary)
    }

    /// Exchanges two names.
    pub(super) fn exchange_at(&self, one: (Key, &[u8]), other: (Key, &[u8])) -> io::Result<()> {
        let (one_dir, other_dir) = (self.dir(one.0)?, self.dir(other.0)?);
        let first = At::new(one.0, &one_dir, one.1);
        let second = At::new(other.0, &other_dir, other.1);
        let (first_raw, second_raw) = (self.object_at(first)?, self.object_at(second)?);
        if first_raw.st_ino == second_raw.st_ino {
            return Ok(());
        }
        device::comes_to(second.dir, &first_raw, self.prefix)?;
        device::comes_to(first.dir, &second_raw, self.prefix)?;
        renameat(first, second, RenameFlags::EXCHANGE)?;
        let mut table = self.table.lock();
        table.moved(Key(first_raw.st_ino), one, other);
        table.moved(Key(second_raw.st_ino), other, one);
        Ok(())
    }

    fn at_work<'a>(&'a self, temporary: &'a str) -> At<'a> {
        At::new(self.work_key, &self.work, temporary.as_bytes())
    }

    /// What is there, which must be an object.
    ///
    /// # Errors
    /// ENOENT: nothing, or a whiteout.
    fn object_at(&self, at: At<'_>) -> io::Result<RawStat> {
        match self.stat_here(at.dir, at.name)? {
            Some(raw) if !reach::is_whiteout(&raw) => Ok(raw),
            _ => Err(Errno::NOENT.into()),
        }
    }

    /// A descriptor for an object that is about to lose the last name that the
    /// table has of it.
    fn hold(&self, at: At<'_>, raw: &RawStat) -> io::Result<Option<Arc<Opened>>> {
        let key = Key(raw.st_ino);
        if !self.table.lock().must_hold(key, at.key, at.name) {
            return Ok(None);
        }
        if let Some(whole) = self.table.lock().whole(key) {
            return Ok(Some(whole));
        }
        let (opened, now) = reach::open_path(at.dir, at.name)?;
        if now.st_ino != raw.st_ino {
            return Err(Errno::STALE.into());
        }
        Ok(Some(Arc::new(opened)))
    }

    /// Whether a directory has whiteouts.
    ///
    /// # Errors
    /// ENOTEMPTY: it has something else.
    fn has_whiteouts_only(&self, at: At<'_>) -> io::Result<bool> {
        let (opened, _) = reach::open_path(at.dir, at.name)?;
        let mut any = false;
        clean::list(&opened.readable()?, |name, kind, number| {
            any = true;
            let whiteout = kind == FileType::CharacterDevice && self.is_shared_whiteout(number)
                || self
                    .stat_here(&opened, name)?
                    .is_some_and(|raw| reach::is_whiteout(&raw));
            if whiteout {
                Ok(())
            } else {
                Err(Errno::NOTEMPTY.into())
            }
        })?;
        Ok(any)
    }
}

/// Changes a directory, and with `quiet` puts its times back. Kill -9 in between
/// leaves the directory changed later than it was, which is true.
fn quietly(dir: &Opened, quiet: bool, change: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    if !quiet {
        return change();
    }
    let before = dir.stat()?;
    change()?;
    let time = |seconds, nanos: u64| Timespec {
        tv_sec: seconds,
        // Below 1 000 000 000 (timespec(3type)).
        tv_nsec: nanos.cast_signed(),
    };
    let atime = time(before.st_atime, before.st_atime_nsec);
    let mtime = time(before.st_mtime, before.st_mtime_nsec);
    // The change has happened: it must not be told as a failure.
    if let Err(error) = make::set_times(dir, atime, mtime) {
        log::warn!("cannot put back the times of a directory: {error}");
    }
    Ok(())
}
