//! Making objects.
//!
//! What it is for: an object has everything that was asked for from the moment
//! when its name is there. May assume: the directory's lock is held for writing,
//! the process has the umask of [`take`](super::take). Must not know whence attributes come.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::fs::{AtFlags, Dev, FileType, Gid, Mode, OFlags, Stat as RawStat, Uid, XattrFlags};
use rustix::fs::{RenameFlags, Timespec, Timestamps};
use rustix::io::Errno;

use super::reach::{self, Opened};
use super::take::UMASK;
use super::{Directory, device, marks, xattrs};
use crate::node::{Device, Kind, Time};
use crate::union::upper::{Key, Marks, New, Stat, What, may_be_left};

/// setuid and setgid: the system calls that make things may drop them.
const PRIVILEGES: u16 = 0o6000;

impl Directory {
    /// Makes an object under a name that nothing, or a whiteout, is at.
    pub(super) fn make_at(&self, dir: Key, name: &[u8], new: &New<'_>) -> io::Result<(Key, Stat)> {
        let parent = self.dir(dir)?;
        if self.comes_out_right(&parent, new) {
            match self.make_in_place(&parent, name, new) {
                Ok((raw, whole)) => {
                    let made = self.learn(dir, name, &raw, super::look::plain(&raw)?)?;
                    if let Some(whole) = whole {
                        self.keep_file(made.0, &whole);
                    }
                    return Ok(made);
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        let temporary = self.temporary();
        let (opened, raw) = self.build(&temporary, new)?;
        let put = device::comes_to(&parent, &raw, self.prefix)
            .and_then(|()| self.put(&temporary, new.what.kind() == Kind::Dir, &parent, name));
        if let Err(error) = put {
            self.discard(&temporary);
            return Err(error);
        }
        // A rename changes its object's ctime.
        let raw = opened.stat()?;
        let stat = self.stat_of(&opened, &raw)?;
        let made = self.learn(dir, name, &raw, stat)?;
        if opened.is_whole() {
            self.keep_file(made.0, &opened);
        }
        Ok(made)
    }

    /// Makes an object in the work directory.
    pub(super) fn make_staged(&self, new: &New<'_>) -> io::Result<Key> {
        let temporary = self.temporary();
        let (opened, raw) = self.build(&temporary, new)?;
        let key = Key(raw.st_ino);
        let kind = new.what.kind();
        self.table
            .lock()
            .found(key, kind, self.work_key, temporary.as_bytes());
        if opened.is_whole() {
            self.keep_file(key, &opened);
        }
        Ok(key)
    }

    fn learn(&self, dir: Key, name: &[u8], raw: &RawStat, stat: Stat) -> io::Result<(Key, Stat)> {
        let key = Key(raw.st_ino);
        self.table.lock().found(key, stat.attr.kind, dir, name);
        Ok((key, stat))
    }

    /// Whether one system call gives exactly what is wanted: then nothing has to
    /// be put right before the name is there.
    fn comes_out_right(&self, parent: &Opened, new: &New<'_>) -> bool {
        let handed_down = parent.group_handed_down();
        let (uid, gid) = self.process;
        let kind = match new.what {
            What::File(size) => size == 0,
            // It would inherit the setgid bit.
            What::Dir => handed_down.is_none(),
            What::Char(number) => number != Device::default(),
            What::Symlink(_) | What::Block(_) | What::Fifo | What::Socket => true,
        };
        kind && new.xattrs.is_empty()
            && *new.marks == Marks::default()
            && !new.parent_hands_down
            && new.times.is_none()
            && (new.mode & (PRIVILEGES | UMASK) == 0 || new.what.kind() == Kind::Symlink)
            && new.uid == uid
            && new.gid == handed_down.unwrap_or(gid)
    }

    /// Makes an object under its name; what is a file is open.
    fn make_in_place(
        &self,
        parent: &Opened,
        name: &[u8],
        new: &New<'_>,
    ) -> io::Result<(RawStat, Option<Arc<Opened>>)> {
        let (raw, whole) = create(parent, name, new.what, new.mode)?;
        let as_wanted = (raw.st_uid, raw.st_gid) == (new.uid, new.gid)
            && (raw.st_mode & 0o7777 == u32::from(new.mode) || new.what.kind() == Kind::Symlink);
        if as_wanted {
            return Ok((raw, whole.map(Arc::new)));
        }
        // The file system has rules of its own (mount option `grpid`), or the
        // directory's group bit has changed just now.
        let right = reach::open_path(parent, name)
            .and_then(|(opened, raw)| self.furnish(&opened, &raw, new));
        if right.is_err() {
            let flags = match new.what {
                What::Dir => AtFlags::REMOVEDIR,
                _ => AtFlags::empty(),
            };
            rustix::fs::unlinkat(parent, name, flags)?;
        }
        right.map(|raw| (raw, whole.map(Arc::new)))
    }

    /// Makes an object with a temporary name in the work directory.
    fn build(&self, temporary: &str, new: &New<'_>) -> io::Result<(Arc<Opened>, RawStat)> {
        // setuid and setgid come behind the owner, who takes them away.
        let mode = new.mode & !PRIVILEGES;
        let built = create(&*self.work, temporary.as_bytes(), on_disk(new.what), mode)
            .and_then(|(raw, whole)| match whole {
                Some(whole) => Ok((whole, raw)),
                None => reach::open_path(&*self.work, temporary.as_bytes()),
            })
            .and_then(|(opened, raw)| {
                let raw = self.furnish(&opened, &raw, new)?;
                Ok((Arc::new(opened), raw))
            });
        if built.is_err() {
            self.discard(temporary);
        }
        built
    }

    /// Gives an object all that it is to have.
    fn furnish(&self, opened: &Opened, raw: &RawStat, new: &New<'_>) -> io::Result<RawStat> {
        // Owner first: a change takes setuid, setgid and capabilities away
        // (chown(2)). Mode behind the access control lists, whose mask it is.
        if (raw.st_uid, raw.st_gid) != (new.uid, new.gid) {
            chown(opened, Some(new.uid), Some(new.gid))?;
        }
        for (name, value) in new.xattrs {
            let stored = self.prefix.stored(name);
            match xattrs::set(opened, &stored, value, XattrFlags::empty()) {
                // In a user namespace; else the file could not be changed at all.
                Err(error)
                    if may_be_left(name)
                        && matches!(
                            Errno::from_io_error(&error),
                            Some(Errno::PERM | Errno::NOTSUP)
                        ) => {}
                set => set?,
            }
        }
        let kind = reach::kind_of(raw)?;
        marks::write(opened, kind, new.marks, self.prefix)?;
        let mut mode = new.mode;
        if is_own_device(new.what) {
            device::mark(opened, new.mode, self.prefix)?;
            mode |= device::HINT;
        }
        // Access control lists have changed the mode that it was made with.
        let made_so = raw.st_mode & 0o7777 == u32::from(mode) && new.xattrs.is_empty();
        if kind != Kind::Symlink && !made_so {
            chmod(opened, mode)?;
        }
        if let Some((atime, mtime)) = new.times {
            set_times(opened, timespec(atime), timespec(mtime))?;
        }
        let raw = opened.stat()?;
        opened.learn(&raw);
        Ok(raw)
    }

    /// Gives what has a temporary name its name, which nothing, or a whiteout, is at.
    pub(super) fn put(
        &self,
        temporary: &str,
        is_dir: bool,
        parent: &Opened,
        name: &[u8],
    ) -> io::Result<()> {
        let rename = |flags| rustix::fs::renameat_with(&*self.work, temporary, parent, name, flags);
        match rename(RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => {}
            result => return Ok(result?),
        }
        self.must_be_whiteout(parent, name)?;
        if !is_dir {
            return Ok(rename(RenameFlags::empty())?);
        }
        // A directory cannot replace what is none.
        rename(RenameFlags::EXCHANGE)?;
        self.discard(temporary);
        Ok(())
    }

    /// # Errors
    /// EEXIST: something else is there.
    pub(super) fn must_be_whiteout(&self, parent: &Opened, name: &[u8]) -> io::Result<()> {
        match self.stat_here(parent, name)? {
            Some(raw) if reach::is_whiteout(&raw) => Ok(()),
            _ => Err(Errno::EXIST.into()),
        }
    }
}

fn is_own_device(what: What<'_>) -> bool {
    matches!(what, What::Char(number) if number == Device::default())
}

/// What is made for it on disk.
fn on_disk(what: What<'_>) -> What<'_> {
    if is_own_device(what) {
        What::File(0)
    } else {
        what
    }
}

/// Makes an object as the system does it; what is a file is open then.
fn create(
    dir: impl AsFd,
    name: &[u8],
    what: What<'_>,
    mode: u16,
) -> io::Result<(RawStat, Option<Opened>)> {
    let mode = Mode::from_raw_mode(mode.into());
    let mknod = |kind, number: Device| {
        let device: Dev = rustix::fs::makedev(number.major, number.minor);
        rustix::fs::mknodat(&dir, name, kind, mode, device)
    };
    match what {
        What::File(size) => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR;
            let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = rustix::fs::openat(&dir, name, flags, mode)?;
            if size > 0 {
                rustix::fs::ftruncate(&fd, size)?;
            }
            return Ok((rustix::fs::fstat(&fd)?, Some(Opened::whole(fd))));
        }
        What::Dir => rustix::fs::mkdirat(&dir, name, mode)?,
        What::Symlink(target) => rustix::fs::symlinkat(target, &dir, name)?,
        What::Char(number) => mknod(FileType::CharacterDevice, number)?,
        What::Block(number) => mknod(FileType::BlockDevice, number)?,
        What::Fifo => mknod(FileType::Fifo, Device::default())?,
        What::Socket => mknod(FileType::Socket, Device::default())?,
    }
    let raw = rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok((raw, None))
}

/// Changes the owner; nothing means: as it is.
///
/// # Errors
/// As chown(2); EINVAL: the number that chown(2) has a meaning of its own for.
pub(super) fn chown(opened: &Opened, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
    if uid == Some(u32::MAX) || gid == Some(u32::MAX) {
        return Err(Errno::INVAL.into());
    }
    let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
    Ok(rustix::fs::chownat(
        opened,
        "",
        uid,
        gid,
        AtFlags::EMPTY_PATH,
    )?)
}

/// Changes the mode of anything but a symlink.
///
/// # Errors
/// As chmod(2).
pub(super) fn chmod(opened: &Opened, mode: u16) -> io::Result<()> {
    let mode = Mode::from_raw_mode(mode.into());
    Ok(match opened.is_whole() {
        true => rustix::fs::fchmod(opened, mode),
        false => rustix::fs::chmod(opened.path(), mode),
    }?)
}

/// Sets both times.
///
/// # Errors
/// As utimensat(2).
pub(super) fn set_times(opened: &Opened, atime: Timespec, mtime: Timespec) -> io::Result<()> {
    let times = Timestamps {
        last_access: atime,
        last_modification: mtime,
    };
    Ok(rustix::fs::utimensat(
        opened,
        "",
        &times,
        AtFlags::EMPTY_PATH,
    )?)
}

/// A moment as the system calls want it.
pub(super) fn timespec(time: Time) -> Timespec {
    Timespec {
        tv_sec: time.seconds,
        tv_nsec: time.nanos.into(),
    }
}
