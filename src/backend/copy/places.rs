//! Where things are in a copy, and how they are reached.
//!
//! What it is for: directories have numbers, names lie in one heap, and a directory is
//! opened through those above it, the last ones of which stay open. May assume: what has
//! a number was made. Must not know what is copied.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lru::LruCache;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::node::Ino;
use crate::tree_path::TreePath;

/// Directories that one thread keeps open: more than most trees are deep.
const OPEN_MAX: NonZeroUsize = NonZeroUsize::new(64).expect("64 is not 0");

/// A directory's number; one has a larger number than those that it lies in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct DirId(u32);

impl DirId {
    /// The root of the copy.
    pub(super) const ROOT: Self = Self(0);
}

/// A name in a directory. The root is the empty name in itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Name {
    /// The directory.
    pub(super) dir: DirId,
    start: usize,
    len: u8,
}

/// All directories, and names.
#[derive(Debug)]
pub(super) struct Places {
    dirs: Vec<(Ino, Name)>,
    heap: Vec<u8>,
}

impl Places {
    /// The root alone.
    pub(super) fn new() -> Self {
        let name = Name {
            dir: DirId::ROOT,
            start: 0,
            len: 0,
        };
        Self {
            dirs: vec![(Ino::ROOT, name)],
            heap: Vec::new(),
        }
    }

    /// Remembers a name.
    pub(super) fn add_name(&mut self, dir: DirId, name: &[u8]) -> Name {
        let start = self.heap.len();
        self.heap.extend_from_slice(name);
        Name {
            dir,
            start,
            len: u8::try_from(name.len()).expect("because no name in a layer is longer than 255"),
        }
    }

    /// Remembers a directory.
    pub(super) fn add_dir(&mut self, ino: Ino, name: Name) -> DirId {
        let id = u32::try_from(self.dirs.len()).expect("because layers count in 32 bits");
        self.dirs.push((ino, name));
        DirId(id)
    }

    /// All directories; those above come before those below.
    pub(super) fn dirs(&self) -> impl DoubleEndedIterator<Item = DirId> + use<> {
        (0..self.dirs.len() as u32).map(DirId)
    }

    pub(super) fn ino(&self, dir: DirId) -> Ino {
        self.dirs[dir.0 as usize].0
    }

    pub(super) fn name_of_dir(&self, dir: DirId) -> Name {
        self.dirs[dir.0 as usize].1
    }

    /// The bytes of a name.
    pub(super) fn name(&self, name: Name) -> &[u8] {
        &self.heap[name.start..name.start + usize::from(name.len)]
    }

    fn names(&self, name: Name) -> Vec<&[u8]> {
        let mut names = vec![self.name(name)];
        let mut dir = name.dir;
        while dir != DirId::ROOT {
            let above = self.name_of_dir(dir);
            names.push(self.name(above));
            dir = above.dir;
        }
        names.reverse();
        names
    }

    /// The path in the tree.
    pub(super) fn path(&self, name: Name) -> TreePath {
        let names = self.names(name);
        names
            .iter()
            .fold(TreePath::root(), |path, name| match *name {
                // The root itself.
                b"" => path,
                name => path.child(name),
            })
    }

    /// The path below a directory, for messages: it may be too long for the system.
    pub(super) fn path_below(&self, top: &Path, name: Name) -> PathBuf {
        let mut path = top.as_os_str().as_bytes().to_vec();
        for name in self.names(name).into_iter().filter(|name| !name.is_empty()) {
            path.push(b'/');
            path.extend_from_slice(name);
        }
        PathBuf::from(OsString::from_vec(path))
    }
}

/// Opens directories, and keeps those of last use open.
pub(super) struct Reach<'a> {
    root: BorrowedFd<'a>,
    open: LruCache<DirId, Arc<OwnedFd>>,
}

impl<'a> Reach<'a> {
    pub(super) fn new(root: &'a OwnedFd) -> Self {
        Self {
            root: root.as_fd(),
            open: LruCache::new(OPEN_MAX),
        }
    }

    /// Opens a directory, from the nearest one that is open.
    ///
    /// # Errors
    /// As openat(2).
    pub(super) fn open(&mut self, places: &Places, dir: DirId) -> Result<Arc<OwnedFd>, Errno> {
        let (mut missing, mut at) = (Vec::new(), dir);
        let mut here = loop {
            if let Some(open) = self.open.get(&at) {
                break Arc::clone(open);
            }
            if at == DirId::ROOT {
                let root = Arc::new(rustix::io::fcntl_dupfd_cloexec(self.root, 0)?);
                self.open.put(at, Arc::clone(&root));
                break root;
            }
            missing.push(at);
            at = places.name_of_dir(at).dir;
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        for at in missing.into_iter().rev() {
            let name = places.name(places.name_of_dir(at));
            let opened = rustix::fs::openat(&here, name, flags, Mode::empty())?;
            here = Arc::new(opened);
            self.open.put(at, Arc::clone(&here));
        }
        Ok(here)
    }
}
