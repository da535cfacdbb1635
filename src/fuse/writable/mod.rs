//! A tree that can be changed, shown through FUSE.
//!
//! What it is for: the kernel's requests as questions to, and changes of, a
//! [`Writable`]. May assume: nobody but this mount changes the tree, so the
//! kernel may keep names, absent names, attributes and pages for ever: it throws
//! away by itself what its own requests change, and asks again for attributes
//! that a write has moved. Must not know how the mount was made, nor where
//! changes are kept.
//!
//! * `adapter`: request, answer.
//! * `opens`: which files are open, and how. `open`: OPEN, CREATE, and what is
//!   done with open files.
//! * `change`: everything that changes names and attributes.
//! * `list`: directories into replies.
//! * `changed`: what the kernel is told after a change.

mod adapter;
mod change;
mod changed;
mod list;
mod open;
mod opens;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use fuser::{BackingId, Errno, INodeNo, Notifier, Request};

pub(super) use adapter::WritableAdapter;
use changed::Changed;
use opens::Opens;

use super::errno;
use super::haste::Activity;
use super::reports::Reports;
use crate::causes::chain;
use crate::node::Ino;
use crate::union::FsError;
use crate::union::writable::Writable;

/// Who sent a request.
#[derive(Debug, Clone, Copy)]
struct Caller {
    pid: u32,
    uid: u32,
    gid: u32,
}

impl From<&Request> for Caller {
    fn from(request: &Request) -> Self {
        Self {
            pid: request.pid(),
            uid: request.uid(),
            gid: request.gid(),
        }
    }
}

/// What all threads of a writable mount share.
#[derive(Debug)]
struct Core {
    /// What messages call the image.
    name: String,
    tree: Arc<Writable>,
    opens: Opens<BackingId>,
    reports: Reports,
    activity: Arc<Activity>,
    /// The kernel takes backing files, as far as is known.
    passthrough: AtomicBool,
    /// It has taken one: pages that it keeps of a file may be older than the file.
    passed: AtomicBool,
    /// How the kernel is told what it cannot know; from the mount on.
    notifier: Arc<OnceLock<Notifier>>,
    changed: Changed,
}

impl Core {
    /// Notes that a name of a directory was changed, if it was.
    fn changed<T>(&self, dir: Ino, outcome: Result<T, FsError>) -> Result<T, FsError> {
        if outcome.is_ok() {
            self.changed.note(dir, &self.notifier);
        }
        outcome
    }

    /// The errno for a failure at `ino` (`name` in it, if there is one). Damage is
    /// told: which image, which path, and what was found.
    fn failed(&self, ino: Ino, name: Option<&[u8]>, error: &FsError) -> Errno {
        let what = match error {
            FsError::Damaged(damage) => chain(damage),
            FsError::UpperDamaged(_) => error.to_string(),
            FsError::Upper(source) if told(source) => chain(error),
            _ => return errno::of(error),
        };
        self.reports.once((ino, name, &what), || {
            let path = self.tree.path_of(ino).map(|path| match name {
                Some(name) => path.child(name),
                None => path,
            });
            let path = path.map_or_else(|_| format!("object {}", ino.0), |p| format!("`{p}`"));
            format!("{path} is not to be had (image `{}`): {what}", self.name)
        });
        errno::of(error)
    }

    /// The errno for a failure with the contents of `ino`.
    fn refused(&self, ino: Ino, error: std::io::Error) -> Errno {
        self.failed(ino, None, &FsError::Upper(error))
    }

    /// A file that was open for reading and writing is closed. What was written to a shared
    /// mapping of a backing file moves size and times that the kernel keeps of ours, and it
    /// does not notice.
    fn may_have_been_mapped(&self, ino: Ino) {
        if let Some(notifier) = self.notifier.get() {
            // -1: attributes alone. The kernel may have forgotten it by now.
            let _ = notifier.inval_inode(INodeNo(ino.0), -1, 0);
        }
    }

    /// Whether files may be handed to the kernel.
    fn passes(&self) -> bool {
        self.passthrough.load(Ordering::Relaxed)
    }

    /// The kernel did not take a backing file.
    fn did_not_pass(&self, error: &std::io::Error) {
        let why = match error.raw_os_error() {
            // Soon there may be room again.
            Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM) => return,
            Some(libc::EPERM) => "it needs CAP_SYS_ADMIN outside of any user namespace",
            Some(libc::ELOOP) => "changes are kept on a stacked file system",
            _ => "the kernel refuses",
        };
        if self.passthrough.swap(false, Ordering::Relaxed) {
            log::info!("no passthrough ({error}): {why}; files are read and written here");
        }
    }
}

/// Whether an error of the upper directory's file system is one that whoever
/// runs the mount should hear of: no program can have caused it.
fn told(error: &std::io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        None | Some(libc::EIO | libc::EUCLEAN | libc::EROFS | libc::ESTALE | libc::EBADF)
    )
}
