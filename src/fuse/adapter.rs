//! Request, answer.
//!
//! What it is for: `fuser`'s calls turned into questions to a tree. May assume:
//! nothing that is shown ever changes, name directories of [`Browse`] apart.
//! Must not know how the mount was made.
//!
//! Requests that the kernel need not send are answered ENOSYS once: it never
//! asks again on this mount (libfuse, "no_open": `FUSE_NO_OPEN_SUPPORT`).

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileAttr, FileHandle, FileType,
    Filesystem, FopenFlags, Generation, INodeNo, InitFlags, IoctlFlags, KernelConfig, LockOwner,
    OpenFlags, PollEvents, PollFlags, PollNotifier, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen,
    ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::attr;
use super::browse::{Browse, Place};
use super::haste::Activity;
use super::image::Image;
use super::listing::Line;
use super::pool::Pool;
use super::reads::{READ_MAX, Read, SHORT, seek_from};
use super::reports::Reports;
use super::turns::Turns;
use super::xattrs::answer_xattr;
use crate::node::Ino;
use crate::tree_path::NAME_MAX;

/// For ever: 136 years. The kernel caps what its clock cannot count.
pub(super) const FOR_EVER: Duration = Duration::from_secs(u32::MAX as u64);
/// The kernel must ask again each time.
pub(super) const AT_ONCE: Duration = Duration::ZERO;
/// Numbers are never given to something else, so there is one generation.
pub(super) const GENERATION: Generation = Generation(0);
/// Reads ahead that may be under way; the kernel's own default of 12 starves two
/// sequential readers.
pub(super) const BACKGROUND: u16 = 64;
/// Reads that wait for a thread of the pool. More are answered where they
/// arrive, so no request is ever refused.
pub(super) const WAITING: usize = 1024;
/// Threads of the pool beyond one per processor: a read may wait for the disk.
pub(super) const MORE_THREADS: usize = 2;

/// What a mount shows, resolved.
#[derive(Debug)]
pub(super) enum Shown {
    One(Arc<Image>),
    Many(Arc<Browse>),
}

/// A read-only file system over a tree.
#[derive(Debug)]
pub(super) struct Adapter {
    pub(super) shown: Shown,
    pub(super) reports: Arc<Reports>,
    activity: Arc<Activity>,
    reads: Pool<Read>,
    turns: Arc<Turns>,
    /// No object has extended attributes, and none ever will.
    no_xattrs: bool,
    /// Others may map the mount's owners to theirs (mount_setattr(2)). Requests
    /// then come without a user, so it excludes mounts that are for one user.
    pub(super) allow_idmap: bool,
    /// The kernel can do without OPEN and OPENDIR.
    no_open: bool,
    no_opendir: bool,
}

impl Adapter {
    /// An adapter for what is shown.
    pub(super) fn new(shown: Shown, processors: usize, activity: Arc<Activity>) -> Self {
        let reports = Arc::new(Reports::default());
        let told = Arc::clone(&reports);
        let work = move |read: Read, buffer: &mut Vec<u8>| read.answer(buffer, &told);
        let reads = Pool::new(processors, processors + MORE_THREADS, WAITING, work);
        let no_xattrs = match &shown {
            Shown::One(image) => !image.union.any_xattrs(),
            Shown::Many(_) => false,
        };
        let (allow_idmap, no_open, no_opendir) = (false, false, false);
        Self {
            shown,
            reports,
            activity,
            reads,
            turns: Arc::default(),
            no_xattrs,
            allow_idmap,
            no_open,
            no_opendir,
        }
    }

    /// Who waits for the next request.
    pub(super) fn turns(&self) -> Arc<Turns> {
        Arc::clone(&self.turns)
    }

    /// What a number stands for. Every request begins here.
    pub(super) fn place(&self, number: INodeNo) -> Result<Place, Errno> {
        self.activity.request();
        match &self.shown {
            Shown::One(image) => Ok(Place::Image(Arc::clone(image), Ino(number.0))),
            Shown::Many(browse) => browse.place(number.0),
        }
    }

    /// The object of an image that a number stands for; `other` for a name
    /// directory.
    pub(super) fn object(&self, number: INodeNo, other: Errno) -> Result<(Arc<Image>, Ino), Errno> {
        match self.place(number)? {
            Place::Image(image, ino) => Ok((image, ino)),
            Place::Names(_) => Err(other),
        }
    }

    /// Counts a number that the kernel is about to be told.
    pub(super) fn told(&self, number: u64) {
        if let Shown::Many(browse) = &self.shown {
            browse.told(number);
        }
    }

    /// The errno of a failure; damage is told.
    pub(super) fn failed(&self, image: &Image, ino: Ino, error: &crate::union::FsError) -> Errno {
        image.failed(&self.reports, ino, None, error)
    }

    /// Attributes of a name directory, and how long an answer with them holds that was
    /// begun in this generation.
    pub(super) fn directory(
        &self,
        browse: &Browse,
        dir: u64,
        begun: u64,
    ) -> Result<(Duration, FileAttr), Errno> {
        let look = browse.look(dir, &self.reports)?;
        let attr = attr::directory(dir, look.mtime, look.entries);
        let holds = if look.gone {
            AT_ONCE
        } else {
            browse.holds(begun)
        };
        Ok((holds, attr))
    }

    fn attributes(&self, number: INodeNo) -> Result<(Duration, FileAttr), Errno> {
        match (self.place(number)?, &self.shown) {
            (Place::Image(image, ino), _) => match image.union.attr(ino) {
                Ok(of) => Ok((FOR_EVER, attr::attr(number.0, &of))),
                Err(error) => Err(self.failed(&image, ino, &error)),
            },
            (Place::Names(dir), Shown::Many(browse)) => {
                let begun = browse.generation();
                self.directory(browse, dir, begun)
            }
            (Place::Names(_), Shown::One(_)) => Err(Errno::ESTALE),
        }
    }

    /// A name below a name directory: how long its attributes hold, how long itself,
    /// and those.
    fn found(
        &self,
        browse: &Browse,
        dir: u64,
        name: &[u8],
    ) -> Result<(Duration, Duration, FileAttr), Errno> {
        let begun = browse.generation();
        match browse.lookup(dir, name, &self.reports)? {
            Place::Names(number) => {
                let (ttl, attr) = self.directory(browse, number, begun)?;
                Ok((ttl, ttl, attr))
            }
            Place::Image(image, ino) => {
                let number = image.number(ino);
                match image.union.attr(ino) {
                    Ok(of) => {
                        let ttl = browse.name_holds(&image, begun);
                        Ok((FOR_EVER, ttl, attr::attr(number, &of)))
                    }
                    Err(error) => {
                        browse.forget(number, 1);
                        Err(self.failed(&image, ino, &error))
                    }
                }
            }
        }
    }

    fn seek(&self, number: INodeNo, offset: i64, whence: i32) -> Result<i64, Errno> {
        let (data, from) = seek_from(offset, whence)?;
        let (image, ino) = self.object(number, Errno::EINVAL)?;
        let found = image.union.seek(ino, from, data);
        let found = found.map_err(|error| self.failed(&image, ino, &error))?;
        i64::try_from(found.ok_or(Errno::ENXIO)?).map_err(|_| Errno::EOVERFLOW)
    }
}

/// Answers that there is no such name, and that the kernel will know of any
/// change: number 0 (struct fuse_entry_out; an errno would be asked for again).
pub(super) fn answer_nothing(reply: ReplyEntry) {
    let nothing = attr::directory(0, SystemTime::UNIX_EPOCH, 0);
    reply.entry(&FOR_EVER, &nothing, GENERATION);
}

impl Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let can = config.capabilities();
        self.no_open = can.contains(InitFlags::FUSE_NO_OPEN_SUPPORT);
        self.no_opendir = can.contains(InitFlags::FUSE_NO_OPENDIR_SUPPORT);
        let mut want = InitFlags::FUSE_ASYNC_READ
            | InitFlags::FUSE_ASYNC_DIO
            | InitFlags::FUSE_MAX_PAGES
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_READDIRPLUS_AUTO
            | InitFlags::FUSE_CACHE_SYMLINKS;
        // Left out on purpose, though our numbers are good for as long as the layers are: EXPORT_SUPPORT.
        // By the handle that overlayfs has noted at a copy-up the kernel would make a dentry that has run out
        // (`fuse_get_dentry`), and which Linux 6.18 calls stale without asking us (`fuse_dentry_revalidate`,
        // the epoch): what was copied up before a remount could be neither read nor removed.
        if let Shown::Many(_) = self.shown {
            // A directory's cached listing is thrown away when its mtime moves:
            // that is how name directories are listed afresh without OPENDIR.
            want |= InitFlags::FUSE_AUTO_INVAL_DATA;
        }
        if !self.no_xattrs {
            // The kernel then checks access control lists. Not for nothing: it
            // asks for one at the first access of a stranger to each object.
            want |= InitFlags::FUSE_POSIX_ACL;
        }
        if self.allow_idmap {
            want |= InitFlags::FUSE_ALLOW_IDMAP;
        }
        // Those that the kernel lacks cost speed alone.
        let _ = config.add_capabilities(want & can);
        let _ = config.set_max_write(READ_MAX);
        let _ = config.set_max_background(BACKGROUND);
        let _ = config.set_congestion_threshold(BACKGROUND / 4 * 3);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let _turn = self.turns.turn();
        let name = name.as_bytes();
        let (image, dir) = match (self.place(parent), &self.shown) {
            (Ok(Place::Image(image, dir)), _) => (image, dir),
            (Ok(Place::Names(dir)), Shown::Many(browse)) => {
                match self.found(browse, dir, name) {
                    Ok((attr_ttl, ttl, attr)) => {
                        reply.entry_with_ttls(&attr_ttl, &ttl, &attr, GENERATION);
                    }
                    Err(errno) => reply.error(errno),
                }
                return;
            }
            (Ok(Place::Names(_)), Shown::One(_)) => return reply.error(Errno::ESTALE),
            (Err(errno), _) => return reply.error(errno),
        };
        match image.union.lookup(dir, name) {
            Ok(found) => {
                let number = image.listed(dir, name, found.ino);
                self.told(number);
                reply.entry(&FOR_EVER, &attr::attr(number, &found.attr), GENERATION);
            }
            Err(crate::union::FsError::NotFound) => {
                if let Shown::Many(browse) = &self.shown {
                    browse.told_nothing(parent.0);
                }
                answer_nothing(reply);
            }
            Err(error) => {
                reply.error(image.failed(&self.reports, dir, Some(name), &error));
            }
        }
    }

    fn forget(&self, req: &Request, ino: INodeNo, nlookup: u64) {
        let _turn = self.turns.turn_of_one(req.unique().0);
        if let Shown::Many(browse) = &self.shown {
            browse.forget(ino.0, nlookup);
        }
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        let _turn = self.turns.turn();
        match self.attributes(ino) {
            Ok((ttl, attr)) => reply.attr(&ttl, &attr),
            Err(errno) => reply.error(errno),
        }
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        let _turn = self.turns.turn();
        let target = self.object(ino, Errno::EINVAL).and_then(|(image, ino)| {
            image
                .union
                .target(ino)
                .map_err(|error| self.failed(&image, ino, &error))
        });
        match target {
            Ok(target) => reply.data(&target),
            Err(errno) => reply.error(errno),
        }
    }

    fn open(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.activity.request();
        if self.no_open {
            // Never again: files open without a message and keep their pages.
            return reply.error(Errno::ENOSYS);
        }
        reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let _turn = self.turns.quiet_turn();
        self.turns.takes_long();
        let (image, ino) = match self.object(ino, Errno::EISDIR) {
            Ok(object) => object,
            Err(errno) => return reply.error(errno),
        };
        let read = Read {
            image,
            ino,
            offset,
            size,
            reply,
        };
        self.reads.give(read, size <= SHORT);
    }

    fn flush(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        // Never again; there is nothing to write back.
        reply.error(Errno::ENOSYS);
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        // Never again, and fsync(2) succeeds.
        reply.error(Errno::ENOSYS);
    }

    fn opendir(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.activity.request();
        if self.no_opendir {
            return reply.error(Errno::ENOSYS);
        }
        let flags = FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR;
        reply.opened(FileHandle(0), flags);
    }

    fn readdir(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let _turn = self.turns.turn();
        let listed = self.list(ino, offset, &mut |line| match line {
            Line::Object(image, dir, listed) => {
                let number = INodeNo(image.listed(dir, listed.name, listed.ino));
                let name = OsStr::from_bytes(listed.name);
                Ok(reply.add(number, listed.cookie, attr::kind(listed.kind), name))
            }
            Line::Name(_, entry) => {
                let number = INodeNo(entry.number);
                Ok(reply.add(number, entry.cookie, FileType::Directory, &entry.name))
            }
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn readdirplus(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let _turn = self.turns.turn();
        match self.list(ino, offset, &mut |line| self.add_plus(&line, &mut reply)) {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn statfs(&self, _req: &Request, ino: INodeNo, reply: ReplyStatfs) {
        let totals = match self.place(ino) {
            Ok(Place::Image(image, _)) => image.union.totals(),
            _ => crate::union::Totals::default(),
        };
        let blocks = totals.bytes.div_ceil(attr::BLOCK.into());
        // Nothing is free: nothing can be written.
        reply.statfs(
            blocks,
            0,
            0,
            totals.objects,
            0,
            attr::BLOCK,
            NAME_MAX as u32,
            attr::BLOCK,
        );
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let _turn = self.turns.turn();
        if self.no_xattrs {
            // Never again: programs get EOPNOTSUPP without a message.
            self.activity.request();
            return reply.error(Errno::ENOSYS);
        }
        answer_xattr(reply, size, self.xattr(ino, name.as_bytes()));
    }

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let _turn = self.turns.turn();
        // Not ENOSYS even where there are none: programs that copy trees would
        // get EOPNOTSUPP where a local file system gives an empty list.
        answer_xattr(reply, size, self.xattr_names(ino, req.pid()));
    }

    fn access(&self, _req: &Request, _ino: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        // Never again: the kernel checks (default_permissions).
        reply.error(Errno::ENOSYS);
    }

    fn lseek(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let _turn = self.turns.turn();
        match self.seek(ino, offset, whence) {
            Ok(offset) => reply.offset(offset),
            Err(errno) => reply.error(errno),
        }
    }

    fn ioctl(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        let _turn = self.turns.turn();
        // isatty(3) asks by an ioctl, and wants this one for no.
        reply.error(Errno::ENOTTY);
    }

    fn poll(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _ph: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        // Never again: the kernel then says that a file is always ready, as it is (`no_poll` in
        // fs/fuse/file.c).
        reply.error(Errno::ENOSYS);
    }

    // The mount is read-only, so the kernel refuses what follows before it asks,
    // unless somebody has made it writable by a remount.

    fn setattr(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        _size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        reply.error(Errno::EROFS);
    }

    fn mknod(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        reply.error(Errno::EROFS);
    }

    fn mkdir(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn unlink(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn rmdir(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn symlink(&self, _: &Request, _: INodeNo, _: &OsStr, _: &Path, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn rename(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _newparent: INodeNo,
        _newname: &OsStr,
        _flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EROFS);
    }

    fn link(&self, _: &Request, _: INodeNo, _: INodeNo, _: &OsStr, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn write(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _offset: u64,
        _data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::EROFS);
    }

    fn create(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        reply.error(Errno::EROFS);
    }

    fn setxattr(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _name: &OsStr,
        _value: &[u8],
        _flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EROFS);
    }

    fn removexattr(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn fallocate(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _offset: u64,
        _length: u64,
        _mode: i32,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EROFS);
    }

    fn copy_file_range(
        &self,
        _req: &Request,
        _ino_in: INodeNo,
        _fh_in: FileHandle,
        _offset_in: u64,
        _ino_out: INodeNo,
        _fh_out: FileHandle,
        _offset_out: u64,
        _len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::EROFS);
    }
}
