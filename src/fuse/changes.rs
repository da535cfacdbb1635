//! Names change, and the kernel is told.
//!
//! What it is for: the thread that takes back what the kernel keeps of names. May
//! assume: it answers no requests. The kernel waits here for those who are asking
//! about the same directory (`fuse_reverse_inval_entry` takes its lock), so no lock
//! may be held meanwhile that an answer needs.

use std::ffi::OsStr;
use std::io;
use std::sync::Arc;
use std::thread;

use fuser::{INodeNo, Notifier};

use super::browse::{Browse, Changes, Outdated};

/// Has the kernel keep names, and takes them back when they change. Where nobody can
/// tell of changes it asks each time, and the log says why. To be called before the
/// first request is answered.
pub(super) fn follow(browse: Arc<Browse>, notifier: Notifier) -> io::Result<()> {
    match browse.watch() {
        Ok(changes) => {
            let thread = thread::Builder::new().name("changes".to_owned());
            // It ends with the process.
            thread.spawn(move || tell(&browse, changes, &notifier))?;
        }
        Err(what) => log::warn!("every use of a name asks for it: {what}"),
    }
    Ok(())
}

fn tell(browse: &Browse, mut changes: Changes, notifier: &Notifier) {
    loop {
        let told = changes();
        let outdated = match &told {
            Ok(()) => browse.outdated(),
            Err(_) => browse.unwatched(),
        };
        for one in outdated {
            if let Err(error) = take_back(&one, notifier) {
                log::error!("the kernel does not forget {one:?}: {error}");
            }
        }
        if let Err(what) = told {
            log::warn!("every use of a name asks for it from now on: {what}");
            return;
        }
    }
}

fn take_back(one: &Outdated, notifier: &Notifier) -> io::Result<()> {
    match one {
        Outdated::Entry(parent, name) => notifier.inval_entry(INodeNo(*parent), OsStr::new(name)),
        Outdated::Directory(parent, dir) => {
            // Nothing has that name; but the kernel has waited for the lock, so that nobody
            // is about to make the directory known with what it had.
            notifier.inval_entry(INodeNo(*parent), OsStr::new("."))?;
            // The attributes: its listing is read again because the mtime has moved.
            notifier.inval_inode(INodeNo(*dir), -1, 0)
        }
    }
}
