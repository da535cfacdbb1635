//! A FUSE file system that does nothing: what a message takes, whoever serves it, and what
//! pages take that the kernel has of such a file system (`scripts/bench-floors`).
//!
//! `nothing DIRECTORY` mounts it there, and ends when it is unmounted. Whoever has answered
//! looks for the next request at once, so that no time goes by until a sleeping server is awake.
//! A name that is a number is a file of so many zeroes, which the kernel keeps.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::sync::OnceLock;
use std::time::{Duration, Instant, UNIX_EPOCH};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, FopenFlags, Generation, INodeNo, KernelConfig,
    LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEntry, ReplyOpen, ReplyStatfs, Request,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// So long it looks, then it sleeps.
const LOOK: Duration = Duration::from_millis(1);
/// So long the kernel may believe what it was told.
const TTL: Duration = Duration::from_secs(86_400);
/// The least size of a file: its number is its size, and 1 is the root's.
const SIZE_MIN: u64 = 4096;
/// What is read at once, as in our mounts.
const READ_AHEAD: u32 = 1 << 20;

#[derive(Default)]
struct Nothing {
    device: OnceLock<RawFd>,
}

impl Nothing {
    fn look(&self) {
        let device = *self.device.get_or_init(|| device().unwrap_or(-1));
        if device < 0 {
            return;
        }
        // SAFETY: the session keeps its device open for as long as it calls this.
        #[expect(unsafe_code, reason = "fuser hands out no descriptor")]
        let device = unsafe { BorrowedFd::borrow_raw(device) };
        let begun = Instant::now();
        let mut one = [PollFd::from_borrowed_fd(device, PollFlags::IN)];
        while begun.elapsed() < LOOK {
            if poll(&mut one, Some(&Timespec::default())) != Ok(0) {
                return;
            }
        }
    }
}

/// The descriptor of the mount.
fn device() -> Option<RawFd> {
    fs::read_dir("/proc/self/fd")
        .ok()?
        .flatten()
        .find_map(|entry| {
            let is_fuse =
                fs::read_link(entry.path()).is_ok_and(|target| target.as_os_str() == "/dev/fuse");
            is_fuse.then(|| entry.file_name().to_str()?.parse().ok())?
        })
}

fn attributes(ino: INodeNo) -> FileAttr {
    let is_file = ino.0 >= SIZE_MIN;
    FileAttr {
        ino,
        size: if is_file { ino.0 } else { 0 },
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: match is_file {
            true => FileType::RegularFile,
            false => FileType::Directory,
        },
        perm: 0o755,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl fuser::Filesystem for Nothing {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let _ = config.set_max_readahead(READ_AHEAD);
        Ok(())
    }

    fn lookup(&self, _request: &Request, _parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match name.to_str().and_then(|name| name.parse().ok()) {
            Some(size) if size >= SIZE_MIN => {
                reply.entry(&TTL, &attributes(INodeNo(size)), Generation(0));
            }
            _ => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &attributes(ino));
    }

    fn open(&self, _request: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
        self.look();
    }

    fn read(
        &self,
        _request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let there = ino.0.saturating_sub(offset).min(u64::from(size));
        reply.data(&vec![0; there as usize]);
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        reply.statfs(0, 0, 0, 0, 0, 512, 255, 0);
        self.look();
    }
}

fn main() -> io::Result<()> {
    let missing = || io::Error::new(io::ErrorKind::InvalidInput, "usage: nothing DIRECTORY");
    let directory = std::env::args_os().nth(1).ok_or_else(missing)?;
    fuser::mount(Nothing::default(), directory, &fuser::Config::default())
}
