//! The upper directory of a writable mount, on disk.
//!
//! What it is for: [`Upper`](crate::union::upper::Upper) on a real directory, in
//! the format of kernel overlayfs, so that either can go on with what the other
//! wrote. May assume: upper and work directory are on one file system, and nobody
//! else changes them. Must not know layers, nor numbers of a union.
//!
//! | file | question |
//! |---|---|
//! | `take` | how is a directory taken into use? |
//! | `table` | under which names can a known object be found? |
//! | `reach` | how does one get hold of it? |
//! | `look` | what is there? |
//! | `xattrs` `marks` `device` | how are names, marks and a program's 0/0 device spelled? |
//! | `make` `names` `whiteout` | how do names come, go and move? |
//! | `data` `write_out` | how are contents read and written, and sent to the disk? |
//! | `clean` | how does a tree go away? |
//! | `seen` | how is a directory looked at that another process may be using? |
//! | `operations` | which of all that is which method of the trait? |
//!
//! The format (kernel Documentation/filesystems/overlayfs.rst): a whiteout is a
//! character device 0/0; marks are xattrs below `trusted.overlay.`, or below
//! `user.overlay.` where the process may not set the former (in a user namespace).
//! What both of them lack has names that overlayfs hides from programs as it hides
//! its own: `lazyroot` (origin), `lazyroot.layers` (on the root: whose changes
//! these are), `lazyroot.device` and `lazyroot.devices` (see `device`). What root of
//! the machine marked, root of a user namespace refuses: it would not see the marks.
//!
//! Kill -9 at any moment: whatever a program can see appears, goes and moves by
//! one system call; everything before it happens in the work directory, which is
//! cleared by the next [`Directory::open`], and what comes after it changes nothing
//! that can be seen.
//!
//! Limits: below `user.overlay.` symlinks and special files keep no origin, since
//! `user.*` is for files and directories alone (xattr(7)).

mod clean;
mod data;
mod device;
mod look;
mod make;
mod marks;
mod names;
mod operations;
mod reach;
mod seen;
mod table;
mod take;
#[cfg(test)]
mod tests;
mod whiteout;
mod write_out;
mod xattrs;

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use parking_lot::{Mutex, RwLock};
use rustix::fs::{AtFlags, FlockOperation};

pub use self::seen::Seen;

use self::reach::Opened;
use self::table::Table;
use self::xattrs::Prefix;
use crate::union::upper::Key;

/// Why an upper directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UpperError {
    /// Another mount has it.
    #[error("the upper directory `{}` is in use by another mount", .0.display())]
    InUse(PathBuf),
    /// Upper and work directory are not on one file system.
    #[error("`{}` and `{}` are not on one file system", upper.display(), work.display())]
    Apart {
        /// The upper directory.
        upper: PathBuf,
        /// The work directory.
        work: PathBuf,
    },
    /// One is the other, or lies in it.
    #[error("`{}` and `{}` lie in one another", upper.display(), work.display())]
    Nested {
        /// The upper directory.
        upper: PathBuf,
        /// The work directory.
        work: PathBuf,
    },
    /// Its changes belong to other layers.
    #[error("the upper directory `{}` holds changes to another image", .0.display())]
    OtherImage(PathBuf),
    /// The file system lacks something that cannot be done without.
    #[error("the file system of `{}` cannot keep changes: {lacks}", path.display())]
    Unfit {
        /// A directory on it.
        path: PathBuf,
        /// What it lacks: `extended attributes`, ...
        lacks: &'static str,
    },
    /// Any other failure of the system.
    #[error("cannot {what} `{}`", path.display())]
    Io {
        /// The verb: `open`, `clean` ...
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// An upper directory and its work directory, in use by this process.
#[derive(Debug)]
pub struct Directory {
    root: Key,
    /// Where things are that have no name in the tree: `work` in the work
    /// directory, the name that kernel overlayfs uses (it clears it, too).
    work_key: Key,
    work: Arc<Opened>,
    table: Mutex<Table>,
    /// Held for writing while names change, for reading while an object is
    /// reached by name: so a name that is used means what the table says.
    changes: RwLock<()>,
    prefix: Prefix,
    /// `st_dev` of all that belongs to the directory.
    device: u64,
    /// Number of the next temporary name in the work directory.
    temporary: AtomicU64,
    /// Temporary names of directories that are to be removed.
    put_off: Mutex<Vec<String>>,
    /// Inode number of the shared whiteout, 0 while there is none.
    whiteout: AtomicU64,
    /// Owner and group of what this process makes.
    process: (u32, u32),
    /// Their locks (flock(2)) keep other mounts away; gone by themselves at kill -9.
    locked: [OwnedFd; 2],
    /// The work directory, if it goes with the use.
    own_work: Option<PathBuf>,
}

impl Drop for Directory {
    fn drop(&mut self) {
        if let Some(work) = &self.own_work {
            // While nobody else can have it. What is not empty stays.
            let _ = rustix::fs::unlinkat(&self.locked[1], take::WORK, AtFlags::REMOVEDIR);
            let _ = rustix::fs::rmdir(work);
        }
        // Closing is not enough while a process that was just forked has them, too.
        for fd in &self.locked {
            if let Err(error) = rustix::fs::flock(fd, FlockOperation::Unlock) {
                log::warn!("cannot unlock an upper directory: {error}");
            }
        }
    }
}
