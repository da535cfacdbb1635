//! What a writable tree needs from the place where changes are kept.
//!
//! What it is for: the line between the rules of a union (above it) and the
//! directory that keeps a container's changes (below it: a real directory in
//! `upper/`, a map in memory in the model test). Whoever implements [`Upper`]
//! knows how whiteouts, marks and escapes are spelled; who uses it knows when
//! they are needed. An implementation must not know the layers.
//!
//! May be assumed by an implementation: calls that change names or marks come one
//! at a time (the union has a lock for them); calls that only look, and those
//! that touch one object's contents or attributes, may come at any time beside
//! them. A name that is made is free (nothing or a whiteout is there), a name
//! that is removed is there; otherwise an error, never a change.
//! Every change of names is atomic: at kill -9 it has happened or not.

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::Xattrs;
use crate::node::{Attr, Device, Kind, Time};

/// What capabilities(7) calls those of a file: a write takes them away.
pub const CAPABILITY: &[u8] = b"security.capability";

/// Whether an attribute that a layer has may be missing of what is copied up, where the
/// system does not let this process set it: only root of the machine sees the one kind, and sets
/// the labels of security modules, which overlayfs does not copy, either (`security_inode_copy_up_xattr`).
#[must_use]
pub fn may_be_left(name: &[u8]) -> bool {
    name.starts_with(b"trusted.") || name.starts_with(b"security.") && name != CAPABILITY
}

/// An object of the upper directory: its inode number there, which is the same
/// in every later mount. Never given to another object while it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(pub u64);

/// What a name in an upper directory stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// It hides what lower layers have under that name.
    Whiteout,
    /// An object, of the kind that programs see.
    Object(Key, Kind),
}

/// What `stat` tells of an upper object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// As for any object; `nlink` of a directory counts its upper subdirectories.
    /// The size of a file that is a [`Marks::metacopy`] is right, `stored` is not.
    pub attr: Attr,
    /// Last access.
    pub atime: Time,
    /// Last change of attributes.
    pub ctime: Time,
}

/// Marks of the upper format: the xattrs of overlayfs of the same names (kernel
/// Documentation/filesystems/overlayfs.rst), and one of our own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Marks {
    /// A directory that hides all lower ones of its path (`opaque=y`).
    pub opaque: bool,
    /// Where its lower object is, if that is not at the same path: absolute in
    /// the layers' tree when it begins with `/`, else a name in the same directory.
    pub redirect: Option<Vec<u8>>,
    /// A regular file whose attributes are here and whose contents are still below.
    pub metacopy: bool,
    /// A directory with objects that have an origin.
    pub impure: bool,
    /// Ours: the lower object that this one was, in the union's words.
    pub origin: Option<Vec<u8>>,
}

/// One mark to be set on a known object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark<'a> {
    /// Sets [`Marks::opaque`].
    Opaque,
    /// Sets [`Marks::redirect`].
    Redirect(&'a [u8]),
    /// Sets [`Marks::impure`].
    Impure,
    /// Sets [`Marks::origin`].
    Origin(&'a [u8]),
    /// Contents are here now and durable: clears [`Marks::metacopy`], then
    /// [`Marks::redirect`].
    Complete,
}

/// What kind of object is to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What<'a> {
    /// A regular file of that size, all hole.
    File(u64),
    /// An empty directory.
    Dir,
    /// A symlink with that target.
    Symlink(&'a [u8]),
    /// A character device (also 0/0, which is a program's own and no whiteout).
    Char(Device),
    /// A block device.
    Block(Device),
    /// A named pipe.
    Fifo,
    /// A socket's name.
    Socket,
}

impl What<'_> {
    /// The kind of the object.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::File(_) => Kind::File,
            Self::Dir => Kind::Dir,
            Self::Symlink(_) => Kind::Symlink,
            Self::Char(_) => Kind::Char,
            Self::Block(_) => Kind::Block,
            Self::Fifo => Kind::Fifo,
            Self::Socket => Kind::Socket,
        }
    }
}

/// An object to be made, with everything it has from its first moment on: exactly
/// this, whatever the parent directory or the process would add (no umask, no
/// inherited group, no inherited access control list).
#[derive(Debug, Clone, Copy)]
pub struct New<'a> {
    /// Kind, and what belongs to it.
    pub what: What<'a>,
    /// Permission bits with setuid, setgid and sticky: 0 to 0o7777.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last access and last change of contents; nothing: now.
    pub times: Option<(Time, Time)>,
    /// Extended attributes as programs see them (escaped below); access control
    /// lists are among them, in the kernel's `system.posix_acl_*` form.
    pub xattrs: &'a [(Vec<u8>, Vec<u8>)],
    /// Marks that it has from the first moment on.
    pub marks: &'a Marks,
    /// The parent has a default access control list, which a directory on disk
    /// would hand down by itself.
    pub parent_hands_down: bool,
}

/// A time to be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetTime {
    /// The file system's idea of now.
    Now,
    /// This moment.
    To(Time),
}

/// Attributes to be set; nothing means: as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Change {
    /// Permission bits: 0 to 0o7777. Changes the mask of an access control list.
    pub mode: Option<u16>,
    /// Owner. With it or `gid` a regular file loses setuid, setgid and
    /// capabilities, as chown(2) says.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Length of a regular file, in bytes.
    pub size: Option<u64>,
    /// Last access.
    pub atime: Option<SetTime>,
    /// Last change of contents.
    pub mtime: Option<SetTime>,
}

/// What setting an extended attribute may meet (setxattr(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetXattr {
    /// It may be there or not.
    Any,
    /// EEXIST when it is there (XATTR_CREATE).
    Create,
    /// ENODATA when it is not (XATTR_REPLACE).
    Replace,
}

/// Room of the file system that changes are kept in (statvfs(3)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Space {
    /// Bytes of a block.
    pub block: u32,
    /// All blocks, free ones, and those free for everybody.
    pub blocks: [u64; 3],
    /// All inodes, and free ones.
    pub inodes: [u64; 2],
}

/// Contents of an upper regular file, open for reading and writing. It stays
/// usable when the file has lost its last name.
pub trait Data: Send + Sync + fmt::Debug {
    /// Reads from `offset` on; returns the bytes read, 0 at the end.
    ///
    /// # Errors
    /// As pread(2).
    fn read_at(&self, offset: u64, to: &mut [u8]) -> io::Result<usize>;

    /// Writes `from` at `offset`, or the beginning of it where the rest has no room; how many bytes.
    ///
    /// # Errors
    /// As pwrite(2): ENOSPC, EFBIG, EDQUOT, EIO. Nothing was written then.
    fn write_some(&self, offset: u64, from: &[u8]) -> io::Result<usize>;

    /// Writes all of `from` at `offset`.
    ///
    /// # Errors
    /// See [`Self::write_some`]; the beginning may have been written.
    fn write_at(&self, offset: u64, from: &[u8]) -> io::Result<()> {
        let mut done = 0;
        while done < from.len() {
            match self.write_some(offset + done as u64, &from[done..])? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                written => done += written,
            }
        }
        Ok(())
    }

    /// Makes or frees room: `mode` is that of fallocate(2).
    ///
    /// # Errors
    /// As fallocate(2): EOPNOTSUPP where it cannot be done.
    fn allocate(&self, mode: i32, offset: u64, len: u64) -> io::Result<()>;

    /// Where the next data (else: hole) is at or behind `offset`; nothing at the end.
    ///
    /// # Errors
    /// As lseek(2), ENXIO apart.
    fn seek(&self, offset: u64, data: bool) -> io::Result<Option<u64>>;

    /// Makes contents durable, and unless `data_only` the attributes.
    ///
    /// # Errors
    /// As fsync(2).
    fn sync(&self, data_only: bool) -> io::Result<()>;

    /// What was written there may go to the disk from now on, so that a later
    /// [`Self::sync`] waits less. Promises nothing, so it cannot fail.
    fn begin_sync(&self, _offset: u64, _len: u64) {}

    /// The same for the file's beginning, as much as a disk takes without making anybody wait; while
    /// the upper directory keeps the file open only the first time, lest who writes again and again
    /// has the disk busy.
    fn begin_sync_once(&self) {}

    /// The open file, where there is one (for passthrough and copy_file_range).
    fn descriptor(&self) -> Option<BorrowedFd<'_>>;
}

/// A directory that keeps changes. Errors are the system's own; those of one
/// object's damage (marks that make no sense) are `InvalidData`.
pub trait Upper: Send + Sync + fmt::Debug {
    /// The top directory. It is always known.
    fn root(&self) -> Key;

    // Looking.

    /// What `dir` has under `name`; nothing: no such name. The object is known
    /// from then on, until [`Self::forget`], and may be found by this name.
    ///
    /// # Errors
    /// As fstatat(2), ENOENT apart.
    fn find(&self, dir: Key, name: &[u8]) -> io::Result<Option<Entry>>;

    /// Every name of `dir` in any order, without `.` and `..`. Makes nothing known.
    ///
    /// # Errors
    /// As getdents(2).
    fn list(&self, dir: Key, visit: &mut dyn FnMut(&[u8], Entry)) -> io::Result<()>;

    /// Attributes of a known object, as programs see them.
    ///
    /// # Errors
    /// As fstatat(2).
    fn stat(&self, key: Key) -> io::Result<Stat>;

    /// Marks of a known object.
    ///
    /// # Errors
    /// As listxattr(2).
    fn marks(&self, key: Key) -> io::Result<Marks>;

    /// Marks of what `dir` has under `name`, without making it known.
    ///
    /// # Errors
    /// As listxattr(2).
    fn marks_at(&self, dir: Key, name: &[u8]) -> io::Result<Marks>;

    /// A known symlink's target.
    ///
    /// # Errors
    /// As readlink(2).
    fn target(&self, key: Key) -> io::Result<Vec<u8>>;

    /// Extended attributes of a known object as programs see them: marks left
    /// out, escaped names as they were set. Sorted by name.
    ///
    /// # Errors
    /// As listxattr(2), getxattr(2).
    fn xattrs(&self, key: Key) -> io::Result<Xattrs>;

    /// One extended attribute of a known object; nothing: it has none of that name.
    ///
    /// # Errors
    /// As getxattr(2), ENODATA apart.
    fn xattr(&self, key: Key, name: &[u8]) -> io::Result<Option<Vec<u8>>>;

    /// Whether who writes here may be nobody whom the system lets set attributes that
    /// [`may_be_left`]. Then objects that were copied up have still those of the layers.
    fn leaves_xattrs(&self) -> bool {
        false
    }

    /// Nobody asks for the object any more until it is found again. An object
    /// without a name ends with this.
    fn forget(&self, key: Key);

    /// Room.
    ///
    /// # Errors
    /// As statvfs(3).
    fn space(&self) -> io::Result<Space>;

    // Making.

    /// Makes an object under a free name; it is known from then on.
    ///
    /// # Errors
    /// As the system call of the kind.
    fn make(&self, dir: Key, name: &[u8], new: &New<'_>) -> io::Result<(Key, Stat)>;

    /// Makes an object that has no name yet, outside of the tree; it is known.
    /// It is gone at [`Self::forget`], or at a crash, unless it was published.
    ///
    /// # Errors
    /// As the system call of the kind.
    fn stage(&self, new: &New<'_>) -> io::Result<Key>;

    /// Gives a staged object its names, all of them free. Whoever needs its contents
    /// durable before the first name is there has synced them. Each directory keeps
    /// its times: what was copied up was there before. Without any name it stays an
    /// object that has lost its last one.
    ///
    /// # Errors
    /// As link(2), rename(2). Names given so far stay.
    fn publish(&self, key: Key, names: &[(Key, &[u8])]) -> io::Result<()>;

    /// Gives a known object, no directory, one more name, which is free. With
    /// `quiet` the directory keeps its times: the name was there before.
    ///
    /// # Errors
    /// As link(2).
    fn link(&self, key: Key, dir: Key, name: &[u8], quiet: bool) -> io::Result<()>;

    /// Removes a name: of any object, of a directory only when nothing but
    /// whiteouts is in it. With `cover` a whiteout takes its place at once.
    /// The object, if known, stays usable until it is forgotten.
    ///
    /// # Errors
    /// As unlink(2), rmdir(2).
    fn remove(&self, dir: Key, name: &[u8], cover: bool) -> io::Result<()>;

    /// Does what [`Self::remove`] put off because it may take long, while nobody waits
    /// for the next change. What a crash keeps it from, the next mount does.
    fn tidy(&self) {}

    /// Lets go of what is held for nobody but whoever asks next.
    fn rest(&self) {}

    /// Puts a whiteout at a name that nothing is at.
    ///
    /// # Errors
    /// As mknod(2).
    fn cover(&self, dir: Key, name: &[u8]) -> io::Result<()>;

    /// Moves a name; what is at `to` (a whiteout, an object, a directory with
    /// nothing but whiteouts) is replaced. With `cover` a whiteout is left behind at once.
    ///
    /// # Errors
    /// As renameat2(2).
    fn rename(&self, from: (Key, &[u8]), to: (Key, &[u8]), cover: bool) -> io::Result<()>;

    /// Exchanges two names that are both there.
    ///
    /// # Errors
    /// As renameat2(2).
    fn exchange(&self, one: (Key, &[u8]), other: (Key, &[u8])) -> io::Result<()>;

    /// Sets a mark of a known object.
    ///
    /// # Errors
    /// As setxattr(2).
    fn mark(&self, key: Key, mark: Mark<'_>) -> io::Result<()>;

    // Changing one object.

    /// Sets attributes of a known object.
    ///
    /// # Errors
    /// As chmod(2), chown(2), truncate(2), utimensat(2).
    fn set_attr(&self, key: Key, change: &Change) -> io::Result<()>;

    /// Sets an extended attribute of a known object; the name is as a program
    /// says it.
    ///
    /// # Errors
    /// As setxattr(2).
    fn set_xattr(&self, key: Key, name: &[u8], value: &[u8], how: SetXattr) -> io::Result<()>;

    /// Removes an extended attribute of a known object.
    ///
    /// # Errors
    /// As removexattr(2).
    fn remove_xattr(&self, key: Key, name: &[u8]) -> io::Result<()>;

    /// Contents of a known regular file.
    ///
    /// # Errors
    /// As open(2).
    fn open(&self, key: Key) -> io::Result<Arc<dyn Data>>;

    /// Makes a known directory durable.
    ///
    /// # Errors
    /// As fsync(2).
    fn sync_dir(&self, key: Key) -> io::Result<()>;
}
