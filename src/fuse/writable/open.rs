//! OPEN, CREATE, and what is done with open files.
//!
//! Lower contents are read through the kernel's cache. Upper contents are handed
//! to the kernel, unless somebody has the file open through the cache at that
//! moment: then the newcomer comes the same way, and what he writes is seen by
//! descriptors that were there before the contents were copied up. Must not know
//! which thread it runs on.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use fuser::{BackingId, Errno, FileHandle, FopenFlags, ReplyCreate, ReplyData, ReplyOpen};

use super::super::adapter::{FOR_EVER, GENERATION};
use super::super::reads::{READ_MAX, fill, seek_from};
use super::super::{attr, caller};
use super::Core;
use super::change::SET_IDS;
use super::opens::{File, Mode};
use crate::node::Ino;
use crate::union::upper::Data;
use crate::union::writable::{Contents, Known, Open};

/// One copy_file_range(2) takes no more than this, so that a program that is to
/// be ended does not wait for the end of a large one.
const COPY_MAX: u64 = 256 << 20;

/// The handle of a program that runs, and of everything else. The kernel gives it
/// back when the file is closed.
pub(super) const RUNNING: FileHandle = FileHandle(1);
const PLAIN: FileHandle = FileHandle(0);

/// How execve(2) opens a file (`FMODE_EXEC`, kernel include/linux/fs.h), also told to us.
const EXECUTE: i32 = 0x20;

/// Registers a file with the kernel.
type Register<'a> = &'a dyn Fn(BorrowedFd<'_>) -> std::io::Result<BackingId>;

/// The handle for a file that is opened with these flags.
pub(super) fn handle(flags: i32) -> FileHandle {
    if flags & EXECUTE != 0 { RUNNING } else { PLAIN }
}

/// Whether these flags cut a file that the kernel does not take for opened for
/// writing: only afterwards would it refuse that for a running program (ETXTBSY).
pub(super) fn cuts_unseen(flags: i32) -> bool {
    flags & libc::O_TRUNC != 0 && flags & libc::O_ACCMODE == libc::O_RDONLY
}

/// Whether every write is to be durable when it is done (O_DSYNC; O_SYNC has its bit, too).
pub(super) fn syncs(flags: i32) -> bool {
    flags & libc::O_DSYNC != 0
}

/// Whether a file is opened for nothing but writing, and neither cut nor appended to; not as
/// touch(1) does it.
fn writes_over(flags: i32) -> bool {
    let others = libc::O_TRUNC | libc::O_APPEND | libc::O_NONBLOCK;
    flags & (libc::O_ACCMODE | others) == libc::O_WRONLY
}

/// What a file is opened for, from the flags of open(2).
pub(super) fn wanted(flags: i32) -> Open {
    if flags & libc::O_TRUNC != 0 {
        return Open::Truncate;
    }
    match flags & libc::O_ACCMODE {
        libc::O_WRONLY | libc::O_RDWR => Open::Write,
        _ => Open::Read,
    }
}

impl Core {
    /// Answers OPEN. Slow when there are contents to copy, or when it is for writes that are
    /// durable when they are done: then what makes it the upper directory's file is on the
    /// disk before the first write is, since the kernel syncs no more than the bytes.
    pub(super) fn open(&self, ino: Ino, flags: i32, pid: u32, reply: ReplyOpen) {
        let (how, handle) = (wanted(flags), handle(flags));
        let durable = how != Open::Read && syncs(flags);
        let synced = |data| match durable {
            true => self.tree.sync(ino, true).map(|()| data),
            false => Ok(data),
        };
        let data = self.made_ready(ino, how, pid).and_then(|data| {
            let synced = synced(data);
            synced.map_err(|error| self.failed(ino, None, &error))
        });
        let data = match data {
            Ok(data) => data,
            Err(errno) => return reply.error(errno),
        };
        // dpkg opens every file that it has made so, to have it written out before it syncs
        // the first: the others then have nothing left to sync. But sync_file_range(2)
        // reaches no file system below the kernel's FUSE, nor does it send a message.
        if let Some(data) = data.as_ref().filter(|_| writes_over(flags)) {
            data.begin_sync_once();
        }
        self.opens.with(ino.0, |file| {
            let register = |fd: BorrowedFd<'_>| reply.open_backing(fd);
            let (first, flags) = match self.mode(ino, file, data, &register) {
                Ok(mode) => mode,
                Err(errno) => return reply.error(errno),
            };
            match file.opened(first, handle == RUNNING) {
                Mode::Cached => reply.opened(handle, flags),
                Mode::Passthrough(backing) => {
                    reply.opened_passthrough(handle, FopenFlags::empty(), backing);
                }
            }
        });
    }

    /// Answers CREATE for a file that was just made; `known` is the kernel's from
    /// then on.
    pub(super) fn created(&self, known: &Known, reply: ReplyCreate) {
        let ino = known.ino;
        let attr = attr::stat(ino.0, &known.stat);
        self.opens.with(ino.0, |file| {
            let register = |fd: BorrowedFd<'_>| reply.open_backing(fd);
            let (first, flags) = match self.mode(ino, file, None, &register) {
                Ok(mode) => mode,
                Err(errno) => {
                    self.tree.forget(ino, 1);
                    return reply.error(errno);
                }
            };
            let (ttl, handle) = (&FOR_EVER, PLAIN);
            match file.opened(first, false) {
                Mode::Cached => reply.created(ttl, &attr, GENERATION, handle, flags),
                Mode::Passthrough(backing) => {
                    let flags = FopenFlags::empty();
                    reply.created_passthrough(ttl, &attr, GENERATION, handle, flags, backing);
                }
            }
        });
    }

    /// Copies contents up, or away, as the open wants it.
    fn made_ready(&self, ino: Ino, how: Open, pid: u32) -> Result<Option<Arc<dyn Data>>, Errno> {
        if how == Open::Read {
            return Ok(None);
        }
        if how == Open::Truncate {
            self.strip_before_cut(ino, pid)?;
        }
        match self.tree.open(ino, how) {
            Ok(Contents::Upper(data)) => Ok(Some(data)),
            Ok(Contents::Lower) => Err(Errno::EIO),
            Err(error) => Err(self.failed(ino, None, &error)),
        }
    }

    /// How a file is to be opened: the mode, if nobody has it open, and flags in
    /// case that it is cached. `data`: contents that are known to be in the upper
    /// directory; they stay there.
    fn mode(
        &self,
        ino: Ino,
        file: &mut File<BackingId>,
        data: Option<Arc<dyn Data>>,
        register: Register<'_>,
    ) -> Result<(Option<Mode<BackingId>>, FopenFlags), Errno> {
        let keep = FopenFlags::FOPEN_KEEP_CACHE;
        if let Some(Mode::Passthrough(_)) = file.mode() {
            return Ok((None, FopenFlags::empty()));
        }
        if file.data.is_none() {
            // Asked while nobody else opens it: an answer from before might be
            // from before a copy-up, and a writer's visit, too.
            file.data = match data.map_or_else(|| self.tree.open(ino, Open::Read), upper) {
                Ok(Contents::Upper(data)) => Some(data),
                Ok(Contents::Lower) => None,
                Err(error) => return Err(self.failed(ino, None, &error)),
            };
        }
        match (file.mode(), &file.data) {
            (Some(_), _) => Ok((None, keep)),
            (None, None) => Ok((Some(Mode::Cached), keep)),
            (None, Some(data)) => Ok(match self.register(&**data, register) {
                Some(backing) => {
                    // The kernel has it, and this process one descriptor less.
                    file.data = None;
                    (Some(Mode::Passthrough(backing)), FopenFlags::empty())
                }
                // Pages are kept, unless the file may have been written to behind
                // the kernel's cache.
                None if self.passed.load(Ordering::SeqCst) => {
                    (Some(Mode::Cached), FopenFlags::empty())
                }
                None => (Some(Mode::Cached), keep),
            }),
        }
    }

    /// Hands a file to the kernel, if it takes it.
    fn register(&self, data: &dyn Data, register: Register<'_>) -> Option<BackingId> {
        let descriptor = data.descriptor().filter(|_| self.passes())?;
        match register(descriptor) {
            Ok(backing) => {
                self.passed.store(true, Ordering::SeqCst);
                Some(backing)
            }
            Err(error) => {
                self.did_not_pass(&error);
                None
            }
        }
    }

    /// Contents of a file that is open for writing.
    pub(super) fn data(&self, ino: Ino) -> Result<Arc<dyn Data>, Errno> {
        if let Some(data) = self.opens.data(ino.0) {
            return Ok(data);
        }
        self.made_ready(ino, Open::Write, 0)?.ok_or(Errno::EIO)
    }

    /// Before contents are cut off: who may not keep setuid and setgid bits loses
    /// them. fuser does not pass on the kernel's word for it (FATTR_KILL_SUIDGID,
    /// FUSE_OPEN_KILL_SUIDGID).
    pub(super) fn strip_before_cut(&self, ino: Ino, pid: u32) -> Result<(), Errno> {
        let failed = |error| self.failed(ino, None, &error);
        let mode = self.tree.attr(ino).map_err(failed)?.attr.mode;
        if mode & SET_IDS != 0 && !caller::keeps_set_id(pid) {
            self.tree.strip_privileges(ino).map_err(failed)?;
        }
        Ok(())
    }

    /// Writes, and tells how much, as write(2) does where there is no room for all; `strip`: the kernel says that it takes
    /// setuid and the like away.
    pub(super) fn write(
        &self,
        ino: Ino,
        offset: u64,
        from: &[u8],
        strip: bool,
    ) -> Result<u32, Errno> {
        if strip {
            let stripped = self.tree.strip_privileges(ino);
            stripped.map_err(|error| self.failed(ino, None, &error))?;
        }
        let data = self.data(ino)?;
        let written = data.write_some(offset, from);
        let written = written.map_err(|error| self.refused(ino, error))?;
        u32::try_from(written).map_err(|_| Errno::EINVAL)
    }

    /// As lseek(2) for data and holes.
    pub(super) fn seek(&self, ino: Ino, offset: i64, whence: i32) -> Result<i64, Errno> {
        let (data, from) = seek_from(offset, whence)?;
        let found = self.tree.seek(ino, from, data);
        let found = found.map_err(|error| self.failed(ino, None, &error))?;
        i64::try_from(found.ok_or(Errno::ENXIO)?).map_err(|_| Errno::EOVERFLOW)
    }

    /// As fallocate(2).
    pub(super) fn allocate(&self, ino: Ino, mode: i32, offset: u64, len: u64) -> Result<(), Errno> {
        let done = self.data(ino)?.allocate(mode, offset, len);
        done.map_err(|error| self.refused(ino, error))
    }

    /// As copy_file_range(2), between two files in the upper directory.
    pub(super) fn copy_range(
        &self,
        from: (Ino, u64),
        to: (Ino, u64),
        len: u64,
    ) -> Result<u32, Errno> {
        let source = match self.opens.data(from.0.0) {
            Some(data) => data,
            None => match self.tree.open(from.0, Open::Read) {
                Ok(Contents::Upper(data)) => data,
                // No file: the kernel then reads and writes itself.
                Ok(Contents::Lower) => return Err(Errno::EXDEV),
                Err(error) => return Err(self.failed(from.0, None, &error)),
            },
        };
        let target = self.data(to.0)?;
        let (Some(input), Some(output)) = (source.descriptor(), target.descriptor()) else {
            return Err(Errno::EXDEV);
        };
        let (mut read_at, mut write_at) = (from.1, to.1);
        let len = usize::try_from(len.min(COPY_MAX)).map_err(|_| Errno::EINVAL)?;
        let copied = rustix::fs::copy_file_range(
            input,
            Some(&mut read_at),
            output,
            Some(&mut write_at),
            len,
        );
        let copied = copied.map_err(|error| self.refused(to.0, error.into()))?;
        u32::try_from(copied).map_err(|_| Errno::EOVERFLOW)
    }
}

fn upper(data: Arc<dyn Data>) -> Result<Contents, crate::union::FsError> {
    Ok(Contents::Upper(data))
}

/// A read of an open file, to be answered by the pool.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) core: Arc<Core>,
    pub(super) ino: Ino,
    pub(super) offset: u64,
    pub(super) size: u32,
    pub(super) reply: ReplyData,
}

impl Read {
    /// Reads and answers; `buffer` is anybody's. Contents are looked for when they
    /// are read: somebody may have copied them up since the file was opened.
    pub(super) fn answer(self, buffer: &mut Vec<u8>) {
        let (core, ino) = (&self.core, self.ino);
        let size = self.size.min(READ_MAX) as usize;
        let done = match core.opens.data(ino.0) {
            Some(data) => fill(buffer, size, self.offset, |at, to| data.read_at(at, to))
                .map_err(|error| core.refused(ino, error)),
            None => fill(buffer, size, self.offset, |at, to| {
                core.tree.read(ino, at, to)
            })
            .map_err(|error| core.failed(ino, None, &error)),
        };
        match done {
            Ok(done) => self.reply.data(buffer.get(..done).unwrap_or_default()),
            Err(errno) => self.reply.error(errno),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_cut_is_opened_for_writing_whatever_else_is_said() {
        assert!(syncs(libc::O_WRONLY | libc::O_SYNC) && syncs(libc::O_RDWR | libc::O_DSYNC));
        assert!(!syncs(libc::O_RDWR | libc::O_APPEND));
        assert!(writes_over(libc::O_WRONLY) && writes_over(libc::O_WRONLY | libc::O_NOFOLLOW));
        assert!(!writes_over(libc::O_RDONLY) && !writes_over(libc::O_RDWR));
        let others = [libc::O_TRUNC, libc::O_APPEND, libc::O_NONBLOCK];
        assert!(
            !others
                .into_iter()
                .any(|other| writes_over(libc::O_WRONLY | other))
        );
        assert_eq!(wanted(libc::O_RDONLY), Open::Read);
        assert_eq!(wanted(libc::O_RDONLY | libc::O_TRUNC), Open::Truncate);
        assert_eq!(wanted(libc::O_RDWR | libc::O_APPEND), Open::Write);
        assert_eq!(wanted(libc::O_WRONLY | libc::O_TRUNC), Open::Truncate);
    }
}
