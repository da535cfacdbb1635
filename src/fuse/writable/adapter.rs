//! Request, answer.
//!
//! What it is for: `fuser`'s calls turned into questions to, and changes of, a
//! writable tree; what may be slow goes to threads of its own. Must not know how
//! the mount was made.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags,
    INodeNo, InitFlags, IoctlFlags, KernelConfig, LockOwner, Notifier, OpenFlags, PollEvents,
    PollFlags, PollNotifier, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::super::adapter::{
    BACKGROUND, FOR_EVER, GENERATION, MORE_THREADS, WAITING, answer_nothing,
};
use super::super::attr;
use super::super::haste::Activity;
use super::super::pool::Pool;
use super::super::reads::{READ_MAX, SHORT};
use super::super::reports::Reports;
use super::super::turns::Turns;
use super::super::workers::Workers;
use super::super::xattrs::{answer_xattr, names};
use super::Core;
use super::changed::Changed;
use super::open::{RUNNING, Read, cuts_unseen, syncs, wanted};
use super::opens::Opens;
use crate::node::Ino;
use crate::tree_path::NAME_MAX;
use crate::union::FsError;
use crate::union::upper::{Change, SetTime, What};
use crate::union::writable::{Known, Open, Writable};

/// Largest write that the kernel may send.
const WRITE_MAX: u32 = 1 << 20;
/// A write of more than this is done by a thread that may wait for the disk;
/// handing a smaller one over takes longer than writing it.
const WRITE_HERE: usize = 64 << 10;
/// Copies and fsyncs that are under way at once. They wait for the disk and not
/// for each other; the next one waits for a thread.
const SLOW_MOST: usize = 64;

/// A file system over a writable tree.
#[derive(Debug)]
pub(in crate::fuse) struct WritableAdapter {
    core: Arc<Core>,
    reads: Pool<Read>,
    slow: Workers,
    turns: Arc<Turns>,
    /// The kernel can do without OPENDIR.
    no_opendir: bool,
}

impl WritableAdapter {
    /// An adapter for `tree`, called `name`.
    pub(in crate::fuse) fn new(
        name: String,
        tree: Arc<Writable>,
        processors: usize,
        activity: Arc<Activity>,
    ) -> Self {
        let work = |read: Read, buffer: &mut Vec<u8>| read.answer(buffer);
        Self {
            core: Arc::new(Core {
                name,
                tree,
                opens: Opens::default(),
                reports: Reports::default(),
                activity,
                passthrough: AtomicBool::new(false),
                passed: AtomicBool::new(false),
                notifier: Arc::default(),
                changed: Changed::default(),
            }),
            reads: Pool::new(processors, processors + MORE_THREADS, WAITING, work),
            slow: Workers::new(SLOW_MOST),
            turns: Arc::default(),
            no_opendir: false,
        }
    }

    /// Where to put what the kernel is told things by.
    pub(in crate::fuse) fn notifier(&self) -> Arc<OnceLock<Notifier>> {
        Arc::clone(&self.core.notifier)
    }

    /// Who waits for the next request.
    pub(in crate::fuse) fn turns(&self) -> Arc<Turns> {
        Arc::clone(&self.turns)
    }

    /// The object that a number stands for. Every request begins here.
    fn object(&self, number: INodeNo) -> Ino {
        self.core.activity.request();
        Ino(number.0)
    }

    /// Has something slow done.
    fn slowly(&self, job: impl FnOnce(&Core) + Send + 'static) {
        let core = Arc::clone(&self.core);
        self.slow.give(move || job(&core));
    }
}

fn entry(reply: ReplyEntry, made: Result<Known, Errno>) {
    match made {
        Ok(known) => {
            let attr = attr::stat(known.ino.0, &known.stat);
            reply.entry(&FOR_EVER, &attr, GENERATION);
        }
        Err(errno) => reply.error(errno),
    }
}

fn empty(reply: ReplyEmpty, done: Result<(), Errno>) {
    match done {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

fn written(reply: ReplyWrite, done: Result<u32, Errno>) {
    match done {
        Ok(bytes) => reply.written(bytes),
        Err(errno) => reply.error(errno),
    }
}

fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(time) => SetTime::To(attr::time(time)),
    }
}

impl Filesystem for WritableAdapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let can = config.capabilities();
        self.no_opendir = can.contains(InitFlags::FUSE_NO_OPENDIR_SUPPORT);
        // Left out on purpose: WRITEBACK_CACHE excludes passthrough and keeps
        // sizes and times that we would not know of. EXPORT_SUPPORT asks for
        // objects that the kernel has forgotten, and a number of the upper
        // directory is found by a walk alone. ALLOW_IDMAP takes user and group
        // out of requests, and what is made has to have an owner.
        let want = InitFlags::FUSE_ASYNC_READ
            | InitFlags::FUSE_ASYNC_DIO
            | InitFlags::FUSE_ATOMIC_O_TRUNC
            | InitFlags::FUSE_BIG_WRITES
            | InitFlags::FUSE_CACHE_SYMLINKS
            | InitFlags::FUSE_DONT_MASK
            | InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_HANDLE_KILLPRIV_V2
            | InitFlags::FUSE_MAX_PAGES
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_POSIX_ACL
            | InitFlags::FUSE_READDIRPLUS_AUTO;
        let lacks = want & !can;
        if !lacks.is_empty() {
            log::info!("the kernel lacks {lacks:?}");
        }
        // Both tell a write that takes setuid away; without it they would stay.
        let must = InitFlags::FUSE_HANDLE_KILLPRIV_V2 | InitFlags::FUSE_ATOMIC_O_TRUNC;
        if lacks.intersects(must) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let _ = config.add_capabilities(want & can);
        // 1: files lie on a plain file system, and an overlayfs may lie upon us.
        let passes = config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok()
            && config.set_max_stack_depth(1).is_ok();
        *Arc::get_mut(&mut self.core)
            .map(|core| core.passthrough.get_mut())
            .ok_or(io::ErrorKind::ResourceBusy)? = passes;
        let _ = config.set_max_write(WRITE_MAX.max(READ_MAX));
        let _ = config.set_max_background(BACKGROUND);
        let _ = config.set_congestion_threshold(BACKGROUND / 4 * 3);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let _turn = self.turns.turn();
        let dir = self.object(parent);
        match self.core.tree.lookup(dir, name.as_bytes()) {
            Ok(known) => entry(reply, Ok(known)),
            Err(FsError::NotFound) => answer_nothing(reply),
            Err(error) => reply.error(self.core.failed(dir, Some(name.as_bytes()), &error)),
        }
    }

    fn forget(&self, req: &Request, ino: INodeNo, nlookup: u64) {
        let _turn = self.turns.turn_of_one(req.unique().0);
        self.core.tree.forget(Ino(ino.0), nlookup);
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        let _turn = self.turns.turn();
        let ino = self.object(ino);
        match self.core.tree.attr(ino) {
            Ok(stat) => reply.attr(&FOR_EVER, &attr::stat(ino.0, &stat)),
            Err(error) => reply.error(self.core.failed(ino, None, &error)),
        }
    }

    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let _turn = self.turns.turn();
        let (ino, pid) = (self.object(ino), req.pid());
        let change = Change {
            mode: mode.map(super::change::bits),
            uid,
            gid,
            size,
            atime: atime.map(set_time),
            mtime: mtime.map(set_time),
        };
        let answer = move |core: &Core| match core.set_attr(ino, &change, pid) {
            Ok(stat) => reply.attr(&FOR_EVER, &attr::stat(ino.0, &stat)),
            Err(errno) => reply.error(errno),
        };
        let tree = &self.core.tree;
        if tree.is_copying(ino) || size.is_some() && tree.copies(ino) {
            return self.slowly(answer);
        }
        answer(&self.core);
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        let _turn = self.turns.turn();
        let ino = self.object(ino);
        match self.core.tree.target(ino) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(self.core.failed(ino, None, &error)),
        }
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let _turn = self.turns.turn();
        let how = (mode, rdev, umask);
        let dir = self.object(parent);
        let made = self
            .core
            .make_special(dir, name.as_bytes(), how, req.into());
        entry(reply, made);
    }

    fn mkdir(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let _turn = self.turns.turn();
        let (dir, name) = (self.object(parent), name.as_bytes());
        let by = req.into();
        entry(reply, self.core.make(dir, name, What::Dir, mode, umask, by));
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let _turn = self.turns.turn();
        let (dir, name) = (self.object(parent), name.as_bytes());
        let done = self.core.changed(dir, self.core.tree.unlink(dir, name));
        empty(
            reply,
            done.map_err(|error| self.core.failed(dir, Some(name), &error)),
        );
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let _turn = self.turns.turn();
        let (dir, name) = (self.object(parent), name.as_bytes());
        let done = self.core.changed(dir, self.core.tree.rmdir(dir, name));
        empty(
            reply,
            done.map_err(|error| self.core.failed(dir, Some(name), &error)),
        );
    }

    fn symlink(
        &self,
        req: &Request,
        parent: INodeNo,
        link_name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let _turn = self.turns.turn();
        let (dir, name) = (self.object(parent), link_name.as_bytes());
        let what = What::Symlink(target.as_os_str().as_bytes());
        // symlink(7): permissions are always these, and no umask applies.
        let made = self.core.make(dir, name, what, 0o777, 0, req.into());
        entry(reply, made);
    }

    fn rename(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let _turn = self.turns.turn();
        let from = (self.object(parent), name.as_bytes());
        let to = (Ino(newparent.0), newname.as_bytes());
        empty(reply, self.core.rename(from, to, flags, req.into()));
    }

    fn link(
        &self,
        _req: &Request,
        ino: INodeNo,
        newparent: INodeNo,
        newname: &OsStr,
        reply: ReplyEntry,
    ) {
        let _turn = self.turns.turn();
        let (dir, name) = (self.object(newparent), newname.as_bytes());
        let linked = self.core.tree.link(Ino(ino.0), dir, name);
        let linked = self.core.changed(dir, linked);
        entry(
            reply,
            linked.map_err(|error| self.core.failed(dir, Some(name), &error)),
        );
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let _turn = self.turns.turn();
        let (ino, pid, flags) = (self.object(ino), req.pid(), flags.0);
        if cuts_unseen(flags) && self.core.opens.runs(ino.0) {
            return reply.error(Errno::ETXTBSY);
        }
        if wanted(flags) != Open::Read && (syncs(flags) || self.core.tree.copies(ino)) {
            return self.slowly(move |core| core.open(ino, flags, pid, reply));
        }
        self.core.open(ino, flags, pid, reply);
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let _turn = self.turns.turn();
        let (dir, name) = (self.object(parent), name.as_bytes());
        let file = What::File(0);
        match self.core.make(dir, name, file, mode, umask, req.into()) {
            Ok(known) => self.core.created(&known, reply),
            Err(errno) => reply.error(errno),
        }
    }

    fn release(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let _turn = self.turns.quiet_turn();
        let passed = self.core.opens.closed(ino.0, fh == RUNNING);
        reply.ok();
        if passed && flags.0 & libc::O_ACCMODE == libc::O_RDWR {
            self.core.may_have_been_mapped(Ino(ino.0));
        }
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
        let read = Read {
            ino: self.object(ino),
            core: Arc::clone(&self.core),
            offset,
            size,
            reply,
        };
        self.reads.give(read, size <= SHORT);
    }

    fn write(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let _turn = self.turns.turn();
        let ino = self.object(ino);
        let strip = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        if data.len() <= WRITE_HERE {
            return written(reply, self.core.write(ino, offset, data, strip));
        }
        let data = data.to_vec();
        self.slowly(move |core| written(reply, core.write(ino, offset, &data, strip)));
    }

    fn flush(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        // Never again; every write was done when it was answered.
        reply.error(Errno::ENOSYS);
    }

    fn fsync(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        let _turn = self.turns.turn();
        let ino = self.object(ino);
        self.slowly(move |core| {
            let done = core.tree.sync(ino, datasync);
            empty(reply, done.map_err(|error| core.failed(ino, None, &error)));
        });
    }

    fn fsyncdir(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.fsync(req, ino, fh, datasync, reply);
    }

    fn opendir(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.core.activity.request();
        if self.no_opendir {
            // Never again. The kernel keeps listings and throws one away when it
            // changes the directory, as nobody else does.
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
        reply: ReplyDirectory,
    ) {
        let _turn = self.turns.turn();
        self.core.list(self.object(ino), offset, reply);
    }

    fn readdirplus(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        let _turn = self.turns.turn();
        self.core.list_plus(self.object(ino), offset, reply);
    }

    fn statfs(&self, _req: &Request, ino: INodeNo, reply: ReplyStatfs) {
        let ino = self.object(ino);
        match self.core.tree.space() {
            Ok(space) => {
                let ([all, free, usable], [files, spare]) = (space.blocks, space.inodes);
                let name = NAME_MAX as u32;
                reply.statfs(
                    all,
                    free,
                    usable,
                    files,
                    spare,
                    space.block,
                    name,
                    space.block,
                );
            }
            Err(error) => reply.error(self.core.failed(ino, None, &error)),
        }
    }

    fn setxattr(
        &self,
        req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let _turn = self.turns.turn();
        let (ino, name) = (self.object(ino), name.as_bytes());
        let by = req.into();
        if self.core.tree.is_copying(ino) {
            let (name, value) = (name.to_vec(), value.to_vec());
            return self.slowly(move |core| {
                empty(reply, core.set_xattr(ino, &name, &value, flags, by));
            });
        }
        empty(reply, self.core.set_xattr(ino, name, value, flags, by));
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let _turn = self.turns.turn();
        let ino = self.object(ino);
        let value = self.core.tree.xattr(ino, name.as_bytes());
        let value = value.map_err(|error| self.core.failed(ino, None, &error));
        answer_xattr(reply, size, value);
    }

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let _turn = self.turns.turn();
        let ino = self.object(ino);
        let all = self.core.tree.xattrs(ino);
        let all = all.map_err(|error| self.core.failed(ino, None, &error));
        answer_xattr(reply, size, all.map(|all| names(&all, req.pid())));
    }

    fn removexattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let _turn = self.turns.turn();
        let (ino, name) = (self.object(ino), name.as_bytes());
        let remove = move |core: &Core, name: &[u8]| {
            let done = core.tree.remove_xattr(ino, name);
            empty(reply, done.map_err(|error| core.failed(ino, None, &error)));
        };
        if self.core.tree.is_copying(ino) {
            let name = name.to_vec();
            return self.slowly(move |core| remove(core, &name));
        }
        remove(&self.core, name);
    }

    fn access(&self, _req: &Request, _ino: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        // Never again: the kernel checks (default_permissions).
        reply.error(Errno::ENOSYS);
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

    fn fallocate(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let ino = self.object(ino);
        self.slowly(move |core| empty(reply, core.allocate(ino, mode, offset, length)));
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
        match self.core.seek(self.object(ino), offset, whence) {
            Ok(offset) => reply.offset(offset),
            Err(errno) => reply.error(errno),
        }
    }

    fn copy_file_range(
        &self,
        _req: &Request,
        ino_in: INodeNo,
        _fh_in: FileHandle,
        offset_in: u64,
        ino_out: INodeNo,
        _fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let from = (self.object(ino_in), offset_in);
        let to = (Ino(ino_out.0), offset_out);
        self.slowly(move |core| written(reply, core.copy_range(from, to, len)));
    }
}
