//! Upper directories that nobody has named: one for each writable mount.
//!
//! What it is for: a mount without `--upper` keeps its changes here for as long
//! as it lives. May assume: whoever has one holds its `lock`, which goes by itself
//! at kill -9. Must not know what is in an upper directory, but for whether
//! anything is.
//!
//! ```text
//! uppers/NAME/lock     flocked by the process that serves the mount
//! uppers/NAME/image    which image it belongs to: its ID and a newline
//! uppers/NAME/upper/   the changes
//! uppers/NAME/work/    what is being made
//! ```
//!
//! A mount that is undone takes its directory along. After a crash it stays: gc
//! removes it when it holds no change, and names it otherwise.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Dir, FileType, FlockOperation, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::leases::is_dead;
use super::{
    Store, StoreError, failed, gone_is_fine, private_directory, read_small, sync_directory,
};
use crate::digest::ImageId;
use crate::remove;

/// Directories in each other that are measured by going down into them. Programs can
/// make them deeper than any stack is.
const DEPTH_MAX: u32 = 200;

/// The upper directory of a mount that lives.
#[derive(Debug)]
pub struct FreshUpper {
    path: PathBuf,
    trash: PathBuf,
    _lock: File,
}

impl FreshUpper {
    /// Where changes go.
    #[must_use]
    pub fn upper(&self) -> PathBuf {
        self.path.join("upper")
    }

    /// The work directory beside it.
    #[must_use]
    pub fn work(&self) -> PathBuf {
        self.path.join("work")
    }

    /// Removes it with all changes: at once out of sight, then file by file.
    ///
    /// # Errors
    /// What the system says; the rest is in the trash then, where gc finds it.
    pub fn remove(self) -> Result<(), StoreError> {
        remove::discard(&self.path, &self.trash)?;
        Ok(())
    }
}

/// An upper directory whose process is gone.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct KeptUpper {
    /// `uppers/NAME`; the changes are in `upper` below it.
    pub path: PathBuf,
    /// The image that was changed; nothing when the crash came before it was
    /// written down.
    pub image: Option<ImageId>,
    /// Bytes on disk.
    pub bytes: u64,
    /// It holds changes.
    pub changed: bool,
}

impl Store {
    /// A new upper directory, in use by this process until it is dropped.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn fresh_upper(&self, image: ImageId) -> Result<FreshUpper, StoreError> {
        let directory = self.root().join("uppers");
        let trash = self.root().join("trash");
        for path in [&directory, &trash] {
            // A store of an older program has no `uppers`.
            fs::create_dir_all(path).map_err(failed("create", path))?;
        }
        // Against gc: it must not find the directory before the lock is taken.
        let store = self.lock()?;
        let made = private_directory(&directory, "upper-");
        let path = made.map_err(failed("create", &directory))?.keep();
        let name = path.join("lock");
        let held = File::create(&name).and_then(|file| {
            rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
            Ok(file)
        });
        let lock = held.map_err(failed("lock", &name))?;
        drop(store);
        let fresh = FreshUpper {
            path,
            trash,
            _lock: lock,
        };
        let record = fresh.path.join("image");
        fs::write(&record, format!("{image}\n")).map_err(failed("write", &record))?;
        // As a root directory is; the directory above lets nobody else in.
        let upper = fresh.upper();
        fs::DirBuilder::new()
            .mode(0o755)
            .create(&upper)
            .map_err(failed("create", &upper))?;
        sync_directory(&fresh.path)?;
        sync_directory(&directory)?;
        Ok(fresh)
    }

    /// Upper directories whose processes are gone.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn kept_uppers(&self) -> Result<Vec<KeptUpper>, StoreError> {
        let mut kept = Vec::new();
        for path in self.dead_uppers()? {
            // One without a lock is being made at this moment, or gc's alone.
            if super::present(&path.join("lock"))? {
                kept.push(look(path)?.measured()?);
            }
        }
        Ok(kept)
    }

    fn dead_uppers(&self) -> Result<Vec<PathBuf>, StoreError> {
        let directory = self.root().join("uppers");
        let entries = fs::read_dir(&directory).map_err(failed("read", &directory));
        let mut dead = Vec::new();
        for entry in gone_is_fine(entries)?.into_iter().flatten() {
            let path = entry.map_err(failed("read", &directory))?.path();
            if is_dead(&path.join("lock"))? {
                dead.push(path);
            }
        }
        dead.sort();
        Ok(dead)
    }

    /// Bytes on disk of all upper directories, also of mounts that live.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn upper_bytes(&self) -> Result<u64, StoreError> {
        on_disk(&self.root().join("uppers"), DEPTH_MAX)
    }

    /// What becomes of upper directories whose processes are gone: those that hold no
    /// changes go; with `changed` all of them. Those that stay are not yet measured.
    ///
    /// # Errors
    /// They cannot be read.
    pub(crate) fn fates_of_uppers(&self, changed: bool) -> Result<Fates, StoreError> {
        let mut fates = Fates::default();
        for path in self.dead_uppers()? {
            let kept = look(path)?;
            match kept.changed && !changed {
                true => fates.stay.push(kept),
                false => fates.go.push(kept.path),
            }
        }
        Ok(fates)
    }
}

/// What becomes of upper directories.
#[derive(Debug, Default)]
pub(crate) struct Fates {
    /// They stay.
    pub(crate) stay: Vec<KeptUpper>,
    /// They go.
    pub(crate) go: Vec<PathBuf>,
}

impl KeptUpper {
    /// The same with its size.
    pub(crate) fn measured(mut self) -> Result<Self, StoreError> {
        self.bytes = on_disk(&self.path, DEPTH_MAX)?;
        Ok(self)
    }
}

/// What is in an upper directory.
fn look(path: PathBuf) -> Result<KeptUpper, StoreError> {
    let record = gone_is_fine(read_small(&path.join("image")))?;
    let record = record.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let upper = path.join("upper");
    let entries = gone_is_fine(fs::read_dir(&upper).map_err(failed("read", &upper)))?;
    Ok(KeptUpper {
        image: record.and_then(|text| text.trim().parse().ok()),
        bytes: 0,
        // Attributes of the root directory alone are not worth keeping.
        changed: entries.is_some_and(|mut entries| entries.next().is_some()),
        path,
    })
}

/// Bytes that a tree takes; what lies too deep is not counted, nor what is mounted in it: a mount
/// whose server died would answer nobody.
fn on_disk(path: &Path, depth: u32) -> Result<u64, StoreError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(path, flags, Mode::empty());
    let dir = gone_is_fine(dir.map_err(|error| failed("read", path)(error.into())))?;
    dir.map_or(Ok(0), |dir| bytes_in(&dir, depth))
        .map_err(|error| failed("read", path)(error.into()))
}

fn bytes_in(dir: &OwnedFd, depth: u32) -> Result<u64, Errno> {
    let mut sum = 0;
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let open = |flags: OFlags| {
            let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let within = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV;
            rustix::fs::openat2(dir, name, flags, Mode::empty(), within)
        };
        let place = match open(OFlags::PATH) {
            Ok(place) => place,
            Err(Errno::NOENT | Errno::XDEV) => continue,
            Err(error) => return Err(error),
        };
        let stat = rustix::fs::fstat(&place)?;
        // Never negative.
        sum += stat.st_blocks.unsigned_abs() * 512;
        drop(place);
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory && depth > 0 {
            match open(OFlags::RDONLY | OFlags::DIRECTORY) {
                Ok(below) => sum += bytes_in(&below, depth - 1)?,
                Err(Errno::NOENT | Errno::XDEV | Errno::NOTDIR) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(sum)
}

#[cfg(test)]
#[expect(clippy::print_stdout, reason = "a test says when it is skipped")]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(&dir.path().join("store"), 1 << 20).unwrap();
        (dir, store)
    }

    fn image() -> ImageId {
        ImageId(crate::digest::Digest::sha256(b"image"))
    }

    fn names(directory: &Path) -> usize {
        fs::read_dir(directory).unwrap().count()
    }

    #[test]
    fn one_in_use_is_neither_named_nor_swept() {
        let (_dir, store) = store();
        let fresh = store.fresh_upper(image()).unwrap();
        fs::write(fresh.upper().join("file"), "x").unwrap();
        assert_eq!(store.kept_uppers().unwrap(), []);
        assert_eq!(store.gc(true).unwrap().uppers, []);
        assert!(fresh.upper().join("file").is_file());
        fresh.remove().unwrap();
        assert_eq!(names(&store.root().join("uppers")), 0);
        assert_eq!(names(&store.root().join("trash")), 0);
    }

    #[test]
    fn after_a_crash_changes_stay_until_they_are_given_up() {
        let (_dir, store) = store();
        let empty = store.fresh_upper(image()).unwrap();
        let full = store.fresh_upper(image()).unwrap();
        let file = full.upper().join("file");
        fs::write(&file, "x").unwrap();
        drop((empty, full));
        let kept = store.kept_uppers().unwrap();
        assert_eq!(kept.iter().filter(|kept| kept.changed).count(), 1);
        assert!(kept.iter().all(|kept| kept.image == Some(image())));
        let stay = store.gc(false).unwrap().uppers;
        assert_eq!(stay.len(), 1);
        assert!(file.is_file());
        assert_eq!(store.gc(true).unwrap().uppers, []);
        assert_eq!(names(&store.root().join("uppers")), 0);
        assert_eq!(names(&store.root().join("trash")), 0);
    }

    #[test]
    fn what_is_mounted_in_one_is_neither_looked_at_nor_counted() {
        let (_dir, store) = store();
        let kept = store.fresh_upper(image()).unwrap();
        let below = kept.upper().join("a/b");
        fs::create_dir_all(&below).unwrap();
        fs::write(below.join("file"), vec![1; 1 << 20]).unwrap();
        let before = store.upper_bytes().unwrap();
        assert!(before >= 1 << 20);
        let at = kept.upper().join("at");
        fs::create_dir(&at).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        if rustix::mount::mount("none", &at, "tmpfs", flags, None).is_err() {
            println!("SKIPPED: needs root to mount");
            return;
        }
        fs::write(at.join("large"), vec![1; 4 << 20]).unwrap();
        let now = store.upper_bytes();
        rustix::mount::unmount(&at, rustix::mount::UnmountFlags::DETACH).unwrap();
        assert!(now.unwrap() < before + (1 << 20));
    }
}
