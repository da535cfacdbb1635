//! Words for one file system object, and which identifier lives where.
//!
//! * [`Ino`]: what the kernel and programs see (`st_ino`, the FUSE node id).
//!   Made by `union` alone; one place, one `Ino`.
//! * `layer::Row`: a place in one layer's index. Never leaves `layer` and
//!   `union`.
//!
//! Must not know how any of it is stored.

/// An inode number as the kernel sees it; 1 is the root of the mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ino(pub u64);

impl Ino {
    /// The root of a file system (FUSE_ROOT_ID).
    pub const ROOT: Self = Self(1);
}

/// The type of an object (the `S_IFMT` bits of `st_mode`, inode(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Regular file.
    File,
    /// Directory.
    Dir,
    /// Symbolic link.
    Symlink,
    /// Character device.
    Char,
    /// Block device.
    Block,
    /// Named pipe.
    Fifo,
    /// Socket with a name (unix(7)). No layer has one: tar cannot say it.
    Socket,
}

/// A moment, as seconds and nanoseconds since 1970 (negative before).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, PartialOrd, Ord)]
pub struct Time {
    /// Whole seconds, rounded towards the past.
    pub seconds: i64,
    /// Nanoseconds after `seconds`: 0 to 999 999 999.
    pub nanos: u32,
}

/// A device number in its two parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Device {
    /// Major number, 0 for anything but a device node.
    pub major: u32,
    /// Minor number, 0 for anything but a device node.
    pub minor: u32,
}

/// What `stat` tells of an object, apart from its inode number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attr {
    /// Type of the object.
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky: 0 to 0o7777.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes of a regular file (holes included) or of a symlink's target; 0
    /// otherwise. What people are shown is [`Self::shown_size`].
    pub size: u64,
    /// Bytes of a regular file that are not holes; equals `size` without holes.
    pub stored: u64,
    /// Last change of contents.
    pub mtime: Time,
    /// Names of the object (2 + subdirectories for a directory).
    pub nlink: u32,
    /// Device number of a device node.
    pub rdev: Device,
}

/// The size that every directory claims: what ext4 shows of small ones. No tar
/// says one, and programs take 0 for an odd file system.
pub const DIR_SIZE: u64 = 4096;

impl Attr {
    /// `st_size`: what `stat` says on a mount, and what listings print.
    #[must_use]
    pub fn shown_size(&self) -> u64 {
        match self.kind {
            Kind::Dir => DIR_SIZE,
            _ => self.size,
        }
    }
}
