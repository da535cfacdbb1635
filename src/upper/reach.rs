//! Getting hold of objects: every one by a descriptor that is checked to be it.
//!
//! What it is for: the only place that opens anything in the upper directory. One
//! name at a time (a path may be longer than PATH_MAX), nothing followed, no mount
//! crossed; a descriptor of something else than the wanted object is ESTALE. May
//! assume: the directory's lock is held. Must not change anything.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::Directory;
use super::table::Place;
use crate::node::Kind;
use crate::union::upper::Key;

/// A directory, and its name in the one above.
type Step = (Key, Box<[u8]>);

/// An object that is open: for being named (O_PATH) and nothing else, or a regular
/// file for all that can be done with it.
#[derive(Debug)]
pub(super) struct Opened {
    fd: File,
    /// Its contents can be reached by the descriptor, and what takes none that is
    /// opened with O_PATH.
    whole: bool,
    /// Mode and group as last seen, for directories that hand down their group.
    mode_and_group: AtomicU64,
    /// What was written was once sent to the disk before anybody synced it.
    begun: AtomicBool,
}

impl Opened {
    pub(super) fn new(fd: OwnedFd, stat: &Stat) -> Self {
        let opened = Self {
            fd: fd.into(),
            whole: false,
            mode_and_group: AtomicU64::new(0),
            begun: AtomicBool::new(false),
        };
        opened.learn(stat);
        opened
    }

    /// A regular file that was opened for its contents.
    pub(super) fn whole(fd: OwnedFd) -> Self {
        Self {
            fd: fd.into(),
            whole: true,
            mode_and_group: AtomicU64::new(0),
            begun: AtomicBool::new(false),
        }
    }

    /// Whether it was opened for its contents.
    pub(super) fn is_whole(&self) -> bool {
        self.whole
    }

    /// Its file; one that is not whole can be named and no more (EBADF).
    pub(super) fn file(&self) -> &File {
        &self.fd
    }

    /// Whether its contents are to be sent to the disk for the first time.
    pub(super) fn first_begin(&self) -> bool {
        !self.begun.swap(true, Ordering::Relaxed)
    }

    /// Remembers mode and group.
    pub(super) fn learn(&self, stat: &Stat) {
        let both = u64::from(stat.st_mode) << 32 | u64::from(stat.st_gid);
        self.mode_and_group.store(both, Ordering::Relaxed);
    }

    /// The group that this directory hands down to what is made in it.
    pub(super) fn group_handed_down(&self) -> Option<u32> {
        let both = self.mode_and_group.load(Ordering::Relaxed);
        let setgid = (both >> 32) & u64::from(Mode::SGID.bits()) != 0;
        // The lower half is the group.
        setgid.then_some((both & u64::from(u32::MAX)) as u32)
    }

    /// A path that leads to the object itself, also to a symlink: for the system
    /// calls that take no descriptor opened with O_PATH. To resolve it takes longer
    /// than most of them.
    pub(super) fn path(&self) -> String {
        format!("/proc/self/fd/{}", self.fd.as_raw_fd())
    }

    /// A path that leads to what this directory has under `name`, which must
    /// not be followed.
    pub(super) fn path_of(&self, name: &[u8]) -> Vec<u8> {
        let mut path = self.path().into_bytes();
        path.push(b'/');
        path.extend_from_slice(name);
        path
    }

    pub(super) fn stat(&self) -> io::Result<Stat> {
        Ok(rustix::fs::fstat(&self.fd)?)
    }

    /// Opens it again, for more than being named.
    pub(super) fn reopen(&self, flags: OFlags) -> io::Result<OwnedFd> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOCTTY;
        Ok(rustix::fs::open(self.path(), flags, Mode::empty())?)
    }

    /// Opens a directory for listing and for fsync.
    pub(super) fn readable(&self) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.fd, ".", flags, Mode::empty())?)
    }
}

impl AsFd for Opened {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Opens what a directory has under one name.
pub(super) fn open_at(dir: impl AsFd, name: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat2(
        dir,
        name,
        flags,
        Mode::empty(),
        resolve,
    )?)
}

/// Opens what a directory has under one name, for being named.
pub(super) fn open_path(dir: impl AsFd, name: &[u8]) -> io::Result<(Opened, Stat)> {
    let fd = open_at(dir, name, OFlags::PATH)?;
    let stat = rustix::fs::fstat(&fd)?;
    Ok((Opened::new(fd, &stat), stat))
}

/// What a directory has under one name; nothing: no such name.
pub(super) fn stat_at(dir: impl AsFd, name: &[u8]) -> io::Result<Option<Stat>> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Whether a name is one: a path must not reach the system calls.
///
/// # Errors
/// EINVAL.
pub(super) fn check_name(name: &[u8]) -> io::Result<()> {
    match name {
        b"" | b"." | b".." => Err(Errno::INVAL.into()),
        name if name.iter().any(|byte| matches!(byte, b'/' | 0)) => Err(Errno::INVAL.into()),
        _ => Ok(()),
    }
}

/// The kind that the system sees.
///
/// # Errors
/// EOPNOTSUPP: of no known type.
pub(super) fn kind_of(stat: &Stat) -> io::Result<Kind> {
    kind(FileType::from_raw_mode(stat.st_mode)).ok_or_else(|| Errno::OPNOTSUPP.into())
}

/// The kind that a type of file means; nothing for unknown ones.
pub(super) fn kind(file_type: FileType) -> Option<Kind> {
    Some(match file_type {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Dir,
        FileType::Symlink => Kind::Symlink,
        FileType::CharacterDevice => Kind::Char,
        FileType::BlockDevice => Kind::Block,
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        FileType::Unknown => return None,
    })
}

/// A whiteout is a character device 0/0 (overlayfs.rst, "whiteouts and opaque
/// directories").
pub(super) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

impl Directory {
    fn is(&self, stat: &Stat, key: Key) -> bool {
        stat.st_ino == key.0 && stat.st_dev == self.device
    }

    /// A known directory, open.
    ///
    /// # Errors
    /// ESTALE: it is not known or not there any more; ENOTDIR; as openat2(2).
    pub(super) fn dir(&self, key: Key) -> io::Result<Arc<Opened>> {
        let (mut opened, below) = self.nearest_open(key)?;
        for (key, name) in below.into_iter().rev() {
            let fd = match open_at(&*opened, &name, OFlags::PATH | OFlags::DIRECTORY) {
                Err(error) if leads_elsewhere(&error) => return Err(Errno::STALE.into()),
                opened => opened?,
            };
            let stat = rustix::fs::fstat(&fd)?;
            if !self.is(&stat, key) {
                return Err(Errno::STALE.into());
            }
            opened = Arc::new(Opened::new(fd, &stat));
            self.table.lock().keep_open(key, &opened);
        }
        Ok(opened)
    }

    /// The nearest directory above `key` (or itself) that is open, and the names
    /// that lead from there to `key`, the last one first.
    fn nearest_open(&self, key: Key) -> io::Result<(Arc<Opened>, Vec<Step>)> {
        let mut table = self.table.lock();
        let (mut at, mut below) = (key, Vec::new());
        // No path has more directories than there are: whoever moves them behind
        // our back can make the table's paths a circle.
        while below.len() <= table.len() {
            let (kind, place) = table.place(at)?;
            if kind != Kind::Dir {
                return Err(Errno::NOTDIR.into());
            }
            match place {
                Place::Open(opened) => return Ok((opened, below)),
                Place::Names(names) => {
                    let name = names.into_iter().next().ok_or(Errno::STALE)?;
                    below.push((at, name.name));
                    at = name.parent;
                }
            }
        }
        Err(Errno::STALE.into())
    }

    /// A known object, open for being named, and what the system's stat says.
    ///
    /// # Errors
    /// ESTALE: it is not known or not there any more; as openat2(2).
    pub(super) fn object(&self, key: Key) -> io::Result<(Arc<Opened>, Stat)> {
        let place = self.table.lock().place(key)?;
        let names = match place {
            (_, Place::Open(opened)) => {
                let stat = opened.stat()?;
                return Ok((opened, stat));
            }
            (Kind::Dir, Place::Names(_)) => {
                let opened = self.dir(key)?;
                let stat = opened.stat()?;
                return Ok((opened, stat));
            }
            (_, Place::Names(names)) => names,
        };
        for name in names {
            match open_path(&*self.dir(name.parent)?, &name.name) {
                Ok((opened, stat)) if self.is(&stat, key) => return Ok((Arc::new(opened), stat)),
                Ok(_) => {}
                Err(error) if leads_elsewhere(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Errno::STALE.into())
    }

    /// What the system's stat says of a known object; opens no more than the
    /// directory that it is in.
    ///
    /// # Errors
    /// ESTALE: it is not known or not there any more; as fstatat(2).
    pub(super) fn raw_stat(&self, key: Key) -> io::Result<Stat> {
        let place = self.table.lock().place(key)?.1;
        let names = match place {
            Place::Open(opened) => return opened.stat(),
            Place::Names(names) => names,
        };
        for name in names {
            match stat_at(&*self.dir(name.parent)?, &name.name)? {
                Some(stat) if self.is(&stat, key) => return Ok(stat),
                _ => {}
            }
        }
        Err(Errno::STALE.into())
    }

    /// A known regular file, open as `flags` say.
    ///
    /// # Errors
    /// ESTALE: it is not known or not there any more; as openat2(2).
    pub(super) fn file(&self, key: Key, flags: OFlags) -> io::Result<OwnedFd> {
        let place = self.table.lock().place(key)?;
        let names = match place {
            (Kind::File, Place::Open(opened)) => return opened.reopen(flags),
            (Kind::File, Place::Names(names)) => names,
            _ => return Err(Errno::INVAL.into()),
        };
        for name in names {
            // NONBLOCK has no effect on files; should it be something else by now,
            // opening it does not wait.
            let flags = flags | OFlags::NOCTTY | OFlags::NONBLOCK;
            match open_at(&*self.dir(name.parent)?, &name.name, flags) {
                Ok(fd) if self.is(&rustix::fs::fstat(&fd)?, key) => return Ok(fd),
                Ok(_) => {}
                Err(error) if leads_elsewhere(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Errno::STALE.into())
    }

    /// Keeps a regular file open that was opened for its contents.
    pub(super) fn keep_file(&self, key: Key, whole: &Arc<Opened>) {
        // Closed when nobody waits for the table.
        let _old = self.table.lock().keep_file(key, whole);
    }

    /// What a directory has under a name, which is on this file system.
    ///
    /// # Errors
    /// EXDEV: something is mounted there; as fstatat(2).
    pub(super) fn stat_here(&self, dir: &Opened, name: &[u8]) -> io::Result<Option<Stat>> {
        match stat_at(dir, name)? {
            Some(stat) if stat.st_dev != self.device => Err(Errno::XDEV.into()),
            stat => Ok(stat),
        }
    }
}

/// Whether a recorded name is not there any more, or something of another kind is.
fn leads_elsewhere(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(
        errno,
        Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ISDIR)
    )
}
