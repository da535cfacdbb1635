//! Who shows names is told when they change, before whoever changed them goes on.
//!
//! What it is for: a mount that shows all images by name lets the kernel keep what it
//! told of a name, and takes that back at a change. `lazyroot tag` must not return
//! before it did, or the next program would see the image that was.
//! May assume that other processes on this machine alone change the store: other
//! file systems than those of local disks are not watched. Must not know what is shown.
//!
//! What changes below `images-v1/` is told by inotify, whoever did it and however it
//! ended. The wait is made of locks: who watches holds a shared one of the file
//! `images-v1/names.watched`. Who changed names puts another file in its place, before the
//! writer lock goes, and waits until nobody holds the old one. That is when each
//! watcher has locked the new one, has dealt with all that changed until then, and has
//! called [`Watch::wait`] again. The lock of a process that ends goes by itself; for one
//! that hangs nobody waits longer than 2 seconds, and not more than two who change something.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::mem::{self, MaybeUninit};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

use super::{Store, StoreError, failed, present};

/// Longer nobody waits for those who watch. An image that is being opened holds up its
/// watcher for so long, which is some 10 ms on an idle machine.
const PATIENCE: Duration = Duration::from_secs(2);

/// File systems that only this machine changes (linux/magic.h): the kernel tells of
/// all changes. Those of a network or of the host of a virtual machine it does not see.
const LOCAL: [u64; 9] = [
    0xef53,      // ext2, ext3, ext4
    0x5846_5342, // xfs
    0x9123_683e, // btrfs
    0x0102_1994, // tmpfs
    0x8584_58f6, // ramfs
    0xf2f5_2010, // f2fs
    0x2fc1_2fc1, // zfs
    0xca45_1a4e, // bcachefs
    0x794c_7630, // overlayfs: its lower layers must not change (overlayfs.rst)
];

/// Tells of changes of names, see [`Store::watch`].
#[derive(Debug)]
pub struct Watch {
    events: OwnedFd,
    file: PathBuf,
    /// The lock of the file as it is.
    held: File,
    /// That of the one before: somebody may be waiting for this.
    old: Option<File>,
}

impl Store {
    /// Watches the names and the records of images from now on.
    ///
    /// # Errors
    /// What the system says: too many watch, or the file system cannot be watched.
    pub fn watch(&self) -> Result<Watch, StoreError> {
        let directory = self.root().join("images-v1");
        let fails = |error: Errno| failed("watch", &directory)(error.into());
        let kind = rustix::fs::statfs(&directory).map_err(fails)?.f_type;
        if !u64::try_from(kind).is_ok_and(|kind| LOCAL.contains(&kind)) {
            let what = "other machines may change this file system";
            let error = io::Error::new(io::ErrorKind::Unsupported, what);
            return Err(failed("watch", &directory)(error));
        }
        let events = inotify::init(CreateFlags::CLOEXEC).map_err(fails)?;
        // Files are put here by renames; who writes into one does what he must not. MODIFY
        // would tell of each use of an image as well, see [`Store::touch`].
        let changes = WatchFlags::CREATE
            | WatchFlags::MOVE
            | WatchFlags::DELETE
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF;
        inotify::add_watch(&events, &directory, changes).map_err(fails)?;
        inotify::add_watch(&events, self.root(), WatchFlags::MOVE_SELF).map_err(fails)?;
        let file = watched(self.root());
        make(self.root())?;
        Ok(Watch {
            events,
            held: lock(&file)?,
            old: None,
            file,
        })
    }
}

/// Makes the file in a new store, and in one of an older program: who may only read the
/// store cannot make it, and may want to watch.
pub(super) fn make(root: &Path) -> Result<(), StoreError> {
    let path = watched(root);
    // It may be another user's, and to open it for writing would be told as a change.
    if present(&path)? {
        return Ok(());
    }
    let made = OpenOptions::new().create(true).append(true).open(&path);
    made.map_err(failed("create", &path)).map(drop)
}

impl Watch {
    /// Waits until something may have changed. By calling it again the caller says that
    /// he has dealt with all that changed before it returned.
    ///
    /// # Errors
    /// Changes will not be told any more: the store was moved, or is gone.
    pub fn wait(&mut self) -> Result<(), StoreError> {
        self.old = None;
        let fails = |error: io::Error| failed("watch", &self.file)(error);
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(&self.events, &mut buffer);
        loop {
            let lost = match reader.next() {
                // An overflow is told where events were lost. It is a change like others.
                Ok(event) => event.events().intersects(
                    ReadFlags::IGNORED
                        | ReadFlags::UNMOUNT
                        | ReadFlags::DELETE_SELF
                        | ReadFlags::MOVE_SELF,
                ),
                Err(Errno::INTR) => continue,
                Err(error) => return Err(fails(error.into())),
            };
            if lost {
                return Err(fails(io::Error::other("the store was moved or removed")));
            }
            if reader.is_buffer_empty() {
                break;
            }
        }
        // Before the caller looks: who changes something later waits for this one.
        let now = lock(&self.file)?;
        self.old = Some(mem::replace(&mut self.held, now));
        Ok(())
    }
}

fn watched(root: &Path) -> PathBuf {
    root.join("images-v1/names.watched")
}

/// A shared lock of the file that has this name now. Writers have it for a moment only;
/// anybody else who may read the store could have it for ever.
fn lock(path: &Path) -> Result<File, StoreError> {
    let begin = Instant::now();
    loop {
        let file = File::open(path).map_err(failed("read", path))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) if begin.elapsed() < PATIENCE / 2 => {
                thread::sleep(Duration::from_millis(1));
                continue;
            }
            Err(error) => return Err(failed("lock", path)(error.into())),
        }
        let number = |meta: fs::Metadata| (meta.dev(), meta.ino());
        let held = file.metadata().map(number).map_err(failed("read", path))?;
        // Another may have been put in its place in between.
        if fs::metadata(path).is_ok_and(|meta| number(meta) == held) {
            return Ok(file);
        }
    }
}

/// Those who watch, as of a change; they are to be waited for without the writer lock, which
/// they may need first.
#[derive(Debug)]
pub(super) struct Watchers(File);

impl Watchers {
    /// Has all who watch the store at `root` come round; nothing if nobody does. Under the writer lock.
    pub(super) fn call(root: &Path) -> Option<Self> {
        let path = watched(root);
        // Where it is missing nobody watches.
        let old = File::open(&path).ok()?;
        if is_free(&old) {
            return None;
        }
        let new = tempfile::Builder::new()
            .permissions(Permissions::from_mode(0o644))
            .tempfile_in(root.join("staging"))
            .and_then(|new| Ok(new.persist(&path)?));
        match new {
            Ok(_) => Some(Self(old)),
            Err(error) => {
                // The change itself is told all the same.
                log::warn!("cannot wait for those who show names: {error}");
                None
            }
        }
    }

    /// Waits until all of them have dealt with the change.
    pub(super) fn wait(self) {
        let begin = Instant::now();
        let mut pause = Duration::from_micros(50);
        while !is_free(&self.0) {
            if begin.elapsed() > PATIENCE {
                log::warn!("a mount that shows names does not answer; it may show old ones");
                return;
            }
            thread::sleep(pause);
            pause = (2 * pause).min(Duration::from_millis(2));
        }
    }
}

/// Whether nobody has a lock of this file. What cannot be known holds nobody up.
fn is_free(file: &File) -> bool {
    let locked = rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive);
    if locked.is_ok() {
        let _ = rustix::fs::flock(file, FlockOperation::Unlock);
    }
    locked != Err(Errno::WOULDBLOCK)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc::channel;

    use super::*;
    use crate::digest::{Digest, ImageId};
    use crate::store::images::Names;

    fn store(dir: &tempfile::TempDir) -> Store {
        Store::create(&dir.path().join("store"), 0).unwrap()
    }

    /// Writes names, each time others.
    fn change(store: &Store, number: u8) {
        let name = "app:1".parse().unwrap();
        let names = Names::from([(name, ImageId(Digest::sha256(&[number])))]);
        store.write_names(&names, &store.lock().unwrap()).unwrap();
    }

    /// Waits until somebody is waiting for what was locked before.
    fn until_called(watch: &mut Watch, store: &Store) {
        let number = |path: &Path| fs::metadata(path).unwrap().ino();
        let before = watch.held.metadata().unwrap().ino();
        while watch.held.metadata().unwrap().ino() == before {
            watch.wait().unwrap();
        }
        assert_ne!(number(&watched(store.root())), before);
    }

    #[test]
    fn who_changes_names_goes_on_when_those_who_watch_have_dealt_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(&dir);
        let (mut watch, mut other) = (store.watch().unwrap(), store.watch().unwrap());
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let begin = Instant::now();
                change(&store, 1);
                done.store(true, Ordering::SeqCst);
                begin.elapsed()
            });
            until_called(&mut watch, &store);
            until_called(&mut other, &store);
            let (ended, end) = channel();
            scope.spawn(move || {
                // Returns at the next change.
                watch.wait().unwrap();
                ended.send(()).unwrap();
            });
            thread::sleep(Duration::from_millis(50));
            assert!(!done.load(Ordering::SeqCst), "the other has not");
            // Others may change something meanwhile.
            drop(store.lock().unwrap());
            drop(other);
            assert!(writer.join().unwrap() < PATIENCE);
            change(&store, 2);
            end.recv().unwrap();
        });
    }

    #[test]
    fn nobody_waits_long_for_who_hangs_nor_a_second_time() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(&dir);
        let _hangs = store.watch().unwrap();
        let time = |number| {
            let begin = Instant::now();
            change(&store, number);
            begin.elapsed()
        };
        assert!(time(1) >= PATIENCE);
        assert!(time(2) < PATIENCE);
    }

    #[test]
    fn nobody_is_called_where_nobody_watches_or_no_name_changes() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(&dir);
        let file = watched(store.root());
        let number = || fs::metadata(&file).unwrap().ino();
        let before = number();
        change(&store, 1);
        let watch = store.watch().unwrap();
        drop(store.lock().unwrap());
        drop(watch);
        change(&store, 2);
        assert_eq!(number(), before);
        // An older program has not made it.
        fs::remove_file(&file).unwrap();
        change(&store, 3);
        drop(store.watch().unwrap());
        assert!(file.try_exists().unwrap());
    }

    #[test]
    fn the_watch_of_a_store_that_is_moved_or_removed_ends() {
        for removed in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let store = store(&dir);
            let mut watch = store.watch().unwrap();
            match removed {
                true => fs::remove_dir_all(store.root()).unwrap(),
                false => fs::rename(store.root(), dir.path().join("other")).unwrap(),
            }
            let error = loop {
                if let Err(error) = watch.wait() {
                    break error;
                }
            };
            assert!(error.to_string().starts_with("cannot "), "{error}");
        }
    }
}
