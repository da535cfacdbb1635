//! Directories in which names have changed, of which the kernel may have kept attributes from before.
//!
//! When a name changes the kernel forgets the directory's attributes by itself. But an answer that another thread waits for
//! may have been computed before the change and come to the kernel behind it, and nothing in the kernel tells
//! that it is older (`fuse_dir_changed` does not move `attr_version`, fs/fuse/dir.c). So a moment after a change
//! it is told once more: that does, and whatever was on its way then is not believed. May assume: the kernel takes
//! what it is told from any thread. Must not know what has changed.

use std::collections::HashSet;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};
use fuser::{INodeNo, Notifier};
use parking_lot::Mutex;

use crate::node::Ino;

/// From a change until the kernel is told; all others in between are told with it.
const MOMENT: Duration = Duration::from_millis(50);

/// See above.
#[derive(Debug, Default)]
pub(super) struct Changed {
    directories: Arc<Mutex<HashSet<Ino>>>,
    /// Wakes the thread that tells; made with the first change. Nothing where the system is out of threads: the
    /// kernel's own rule is all there is then.
    wake: OnceLock<Option<Sender<()>>>,
}

impl Changed {
    /// A name of a directory was changed just now; before the kernel is answered.
    pub(super) fn note(&self, dir: Ino, notifier: &Arc<OnceLock<Notifier>>) {
        let Some(wake) = self.wake.get_or_init(|| self.begin(notifier)) else {
            return;
        };
        let first = {
            let mut directories = self.directories.lock();
            directories.insert(dir) && directories.len() == 1
        };
        if first {
            // One that is there already is enough: the thread takes all.
            let _ = wake.try_send(());
        }
    }

    /// Ends with this, which has the only sender.
    fn begin(&self, notifier: &Arc<OnceLock<Notifier>>) -> Option<Sender<()>> {
        let (wake, woken) = bounded(1);
        let (directories, notifier) = (Arc::clone(&self.directories), Arc::clone(notifier));
        let begun = thread::Builder::new().spawn(move || {
            for () in woken {
                thread::sleep(MOMENT);
                let all = std::mem::take(&mut *directories.lock());
                let Some(notifier) = notifier.get() else {
                    continue;
                };
                for dir in all {
                    // -1: attributes alone. The kernel may have forgotten it by now.
                    let _ = notifier.inval_inode(INodeNo(dir.0), -1, 0);
                }
            }
        });
        begun.is_ok().then_some(wake)
    }
}
