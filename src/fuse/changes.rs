//! Names change, and the kernel is told.
//!
//! What it is for: the thread that takes back what the kernel keeps of names. May
//! assume: it answers no requests. The kernel waits here for those who are asking
//! about the same directory (`fuse_reverse_inval_entry` takes its lock), so no lock
//! may be held meanwhile that an answer needs. A kernel that does not wait is told nothing,
//! and keeps nothing.

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
    let changes = match waits_for_lookups(rustix::system::uname().release().to_bytes()) {
        true => browse.watch(),
        false => Err("this kernel may keep what is taken back".to_owned()),
    };
    match changes {
        Ok(changes) => {
            let thread = thread::Builder::new().name("changes".to_owned());
            // It ends with the process.
            thread.spawn(move || tell(&browse, changes, &notifier))?;
        }
        Err(what) => log::warn!("every use of a name asks for it: {what}"),
    }
    Ok(())
}

/// Whether a kernel of this release takes a name back only when no answer for it is on
/// its way to where names are kept. Those from 6.19 on look first, and lock then (`fuse: use
/// start_removing_noperm()`, c9ba789dad15).
fn waits_for_lookups(release: &[u8]) -> bool {
    let release = String::from_utf8_lossy(release);
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut next = || numbers.next()?.parse::<u32>().ok();
    matches!((next(), next()), (Some(major), Some(minor)) if (major, minor) < (6, 19))
}

fn tell(browse: &Browse, mut changes: Changes, notifier: &Notifier) {
    let _ends = Ends(browse);
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

/// Nothing is kept from the end of the thread on, also if it panicked.
struct Ends<'a>(&'a Browse);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        let _ = self.0.unwatched();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newer_kernels_are_told_apart() {
        for release in ["5.10.0-28-amd64", "6.1.0", "6.18.44-fc", "6.9"] {
            assert!(waits_for_lookups(release.as_bytes()), "{release}");
        }
        for release in ["6.19.0-rc1", "6.20", "7.0.1", "", "odd"] {
            assert!(!waits_for_lookups(release.as_bytes()), "{release}");
        }
    }
}
