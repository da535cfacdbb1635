//! An upper directory that is only looked at.
//!
//! What it is for: diff and commit, also while a mount is at work on the directory:
//! nothing is written, nothing is cleared, the work directory is not asked for. May assume
//! what [`Directory`] may, but for one thing: somebody else may change the directory
//! meanwhile; then objects are `ESTALE` or `ENOENT` that were there a moment ago. Every
//! call that would change something is refused with `EROFS`.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use parking_lot::{Mutex, RwLock};
use rustix::fs::{FlockOperation, OFlags};
use rustix::io::Errno;

use super::reach::Opened;
use super::table::Table;
use super::take::{Candidate, failed};
use super::xattrs::Prefix;
use super::{Directory, UpperError};
use crate::union::Xattrs;
use crate::union::upper::{
    Change, Data, Entry, Key, Mark, Marks, New, SetXattr, Space, Stat, Upper,
};

/// No directory has this number: nothing is ever in a work directory.
const NOWHERE: Key = Key(u64::MAX);

/// An upper directory, to be looked at.
#[derive(Debug)]
pub struct Seen {
    directory: Directory,
    live: bool,
}

impl Seen {
    /// Opens an upper directory that holds changes to the stack of layers `layers`, or
    /// that does not say to which. As long as it is open, no mount of ours can begin on it;
    /// one that has it already goes on.
    ///
    /// # Errors
    /// `OtherImage`; `Unfit`: its marks cannot be seen by this user; as open(2).
    pub fn open(path: &Path, layers: &str) -> Result<Self, UpperError> {
        let upper = Candidate::there(path)?;
        let live = match rustix::fs::flock(&upper.fd, FlockOperation::NonBlockingLockShared) {
            Ok(()) => false,
            Err(Errno::WOULDBLOCK) => true,
            Err(error) => return Err(failed("lock", path)(error)),
        };
        upper.needs_proc()?;
        let prefix = match upper.begun_by_user()? {
            true => Prefix::User,
            false if sees_trusted() => Prefix::Trusted,
            false => return Err(upper.unfit("only root of the machine sees its marks")),
        };
        upper.is_about(layers, prefix)?;
        let root = upper.opened()?;
        let key = Key(upper.stat.st_ino);
        let fixed = [(key, Arc::clone(&root)), (NOWHERE, Arc::clone(&root))];
        let again = upper.fd.try_clone().map_err(failed("open", path))?;
        let directory = Directory {
            root: key,
            work_key: NOWHERE,
            work: root,
            table: Mutex::new(Table::new(fixed)),
            changes: RwLock::new(()),
            prefix,
            device: upper.stat.st_dev,
            temporary: AtomicU64::new(1),
            put_off: Mutex::default(),
            whiteout: AtomicU64::new(0),
            process: (
                rustix::process::geteuid().as_raw(),
                rustix::process::getegid().as_raw(),
            ),
            locked: [upper.fd, again],
            own_work: None,
        };
        Ok(Self { directory, live })
    }

    /// Whether a mount was at work on it when it was opened.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.live
    }
}

/// Whether this process sees attributes below `trusted.`: as root, outside of user
/// namespaces (xattr(7)). There the map of owners is the whole of them.
fn sees_trusted() -> bool {
    let all = |map: String| map.split_ascii_whitespace().eq(["0", "0", "4294967295"]);
    rustix::process::geteuid().is_root()
        && std::fs::read_to_string("/proc/self/uid_map").is_ok_and(all)
}

fn refused<T>() -> io::Result<T> {
    Err(Errno::ROFS.into())
}

impl Upper for Seen {
    fn root(&self) -> Key {
        self.directory.root()
    }

    fn find(&self, dir: Key, name: &[u8]) -> io::Result<Option<Entry>> {
        self.directory.find(dir, name)
    }

    fn leaves_xattrs(&self) -> bool {
        self.directory.leaves_xattrs()
    }

    fn list(&self, dir: Key, visit: &mut dyn FnMut(&[u8], Entry)) -> io::Result<()> {
        self.directory.list(dir, visit)
    }

    fn stat(&self, key: Key) -> io::Result<Stat> {
        self.directory.stat(key)
    }

    fn marks(&self, key: Key) -> io::Result<Marks> {
        self.directory.marks(key)
    }

    fn marks_at(&self, dir: Key, name: &[u8]) -> io::Result<Marks> {
        self.directory.marks_at(dir, name)
    }

    fn target(&self, key: Key) -> io::Result<Vec<u8>> {
        self.directory.target(key)
    }

    fn xattrs(&self, key: Key) -> io::Result<Xattrs> {
        self.directory.xattrs(key)
    }

    fn xattr(&self, key: Key, name: &[u8]) -> io::Result<Option<Vec<u8>>> {
        self.directory.xattr(key, name)
    }

    fn forget(&self, key: Key) {
        self.directory.forget(key);
    }

    fn space(&self) -> io::Result<Space> {
        self.directory.space()
    }

    fn make(&self, _: Key, _: &[u8], _: &New<'_>) -> io::Result<(Key, Stat)> {
        refused()
    }

    fn stage(&self, _: &New<'_>) -> io::Result<Key> {
        refused()
    }

    fn publish(&self, _: Key, _: &[(Key, &[u8])]) -> io::Result<()> {
        refused()
    }

    fn link(&self, _: Key, _: Key, _: &[u8], _: bool) -> io::Result<()> {
        refused()
    }

    fn remove(&self, _: Key, _: &[u8], _: bool) -> io::Result<()> {
        refused()
    }

    fn cover(&self, _: Key, _: &[u8]) -> io::Result<()> {
        refused()
    }

    fn rename(&self, _: (Key, &[u8]), _: (Key, &[u8]), _: bool) -> io::Result<()> {
        refused()
    }

    fn exchange(&self, _: (Key, &[u8]), _: (Key, &[u8])) -> io::Result<()> {
        refused()
    }

    fn mark(&self, _: Key, _: Mark<'_>) -> io::Result<()> {
        refused()
    }

    fn set_attr(&self, _: Key, _: &Change) -> io::Result<()> {
        refused()
    }

    fn set_xattr(&self, _: Key, _: &[u8], _: &[u8], _: SetXattr) -> io::Result<()> {
        refused()
    }

    fn remove_xattr(&self, _: Key, _: &[u8]) -> io::Result<()> {
        refused()
    }

    fn open(&self, key: Key) -> io::Result<Arc<dyn Data>> {
        let _looking = self.directory.changes.read();
        let fd = self.directory.file(key, OFlags::RDONLY)?;
        Ok(Arc::new(Opened::whole(fd)))
    }

    fn sync_dir(&self, _: Key) -> io::Result<()> {
        Ok(())
    }
}
