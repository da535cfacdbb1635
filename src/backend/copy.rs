//! The copy backend: the view is walked and its files are written.
//!
//! What it is for: a rootfs that needs no server and no kernel feature; what the first
//! provisioners made, and the oracle of the other backends. May assume: nobody else
//! changes the directory meanwhile (it lets nobody but its owner in until it is done).
//! Must not know how layers become one tree: it asks the union like everybody else.
//!
//! The order: directories, and all that has no contents (`walk`); files in the order in
//! which their layers have them, so that each layer is decoded once (`contents`); hard
//! links; attributes of directories from below upwards, since what is made in a
//! directory changes its times. Everything is reached by descriptors (`places`), one name
//! at a time: nothing is followed and no path is too long.
//!
//! What a copy cannot have: `user.*` attributes of what is neither file nor directory
//! (the kernel shows them nowhere, xattr(7)), and times that its file system rounds or
//! does not reach.

mod attributes;
mod contents;
mod places;
mod walk;

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use crate::node::Ino;
use crate::tree_path::TreePath;
use crate::union::{FsError, Union};
use attributes::Object;
use places::{Name, Places, Reach};

/// What was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Copied {
    /// Objects, the root not counted; one with many names is one.
    pub objects: u64,
    /// Bytes of contents, holes not counted.
    pub bytes: u64,
}

/// Why there is no copy. What was made so far stays; the caller removes it.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The caller wanted no more of it.
    #[error("the copy was interrupted")]
    Interrupted,
    /// There is something in the directory.
    #[error("`{}` is not empty", .0.display())]
    NotEmpty(PathBuf),
    /// A layer is damaged or cannot be read.
    #[error("cannot read `{path}` of layer {layer}")]
    Read {
        /// The object in the image.
        path: TreePath,
        /// Its layer.
        layer: String,
        /// What is wrong.
        source: FsError,
    },
    /// The disk is full.
    #[error("no space is left for `{}`", path.display())]
    Full {
        /// What was being written.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The owner cannot be set.
    #[error("cannot give `{}` to user {uid} and group {gid}", path.display())]
    Owner {
        /// What was being written.
        path: PathBuf,
        /// The user.
        uid: u32,
        /// The group.
        gid: u32,
        /// What the system says.
        source: io::Error,
    },
    /// An extended attribute cannot be set.
    #[error("cannot set the attribute `{name}` of `{}`", path.display())]
    Attribute {
        /// What was being written.
        path: PathBuf,
        /// The attribute.
        name: String,
        /// What the system says.
        source: io::Error,
    },
    /// Anything else that the system refuses.
    #[error("cannot {what} `{}`", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl CopyError {
    /// What to try.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Interrupted => return None,
            Self::NotEmpty(_) => "a new directory",
            Self::Read { .. } => "lazyroot verify names all that is damaged",
            Self::Full { .. } => "free some space, or a backend that copies nothing: fuse, overlay",
            Self::Owner { .. } => "as root; a user namespace has to map these ids",
            Self::Attribute { source, .. } => match Errno::from_io_error(source) {
                Some(Errno::PERM) => "as root, outside of any user namespace",
                Some(Errno::NOTSUP | Errno::NOSPC | Errno::TOOBIG) => {
                    "a directory on a file system that takes it, such as XFS; or the backend fuse"
                }
                _ => return None,
            },
            Self::Io { what, source, .. } => match Errno::from_io_error(source) {
                Some(Errno::PERM) if *what == walk::MAKE_DEVICE => {
                    "as root, outside of any user namespace; or the backend fuse"
                }
                _ => return None,
            },
        };
        Some(hint.to_owned())
    }
}

/// Writes a tree into an empty directory, whose own attributes become those of the root,
/// last of all. `progress` is told from time to time how many bytes and objects there are
/// by now. Nothing is synced: that is the caller's decision (see [`sync`]).
///
/// # Errors
/// See [`CopyError`]; [`CopyError::Interrupted`] soon after `stop` is set. Whatever an
/// image has and this process cannot make is an error: there is no copy that lacks things.
pub fn copy(
    union: &Union,
    to: &Path,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Copied, CopyError> {
    let copy = Copy {
        union,
        to,
        root: open_empty(to)?,
        with_xattrs: union.any_xattrs(),
        stop,
        bytes: AtomicU64::new(0),
        objects: AtomicU64::new(0),
    };
    let plan = copy.walk(progress)?;
    copy.write_contents(&plan, progress)?;
    copy.link(&plan)?;
    copy.furnish_directories(&plan.places)?;
    let copied = copy.copied();
    progress(copied.bytes, copied.objects);
    Ok(copied)
}

/// Has a copy on disk, so that it is there after a power cut. All of its file system is
/// flushed, once: for many files that is cheaper than one by one.
///
/// # Errors
/// What the system says.
pub fn sync(to: &Path) -> Result<(), CopyError> {
    let synced = open(to).and_then(|dir| Ok(rustix::fs::syncfs(dir)?));
    synced.map_err(failed("sync", to))
}

fn failed<E: Into<io::Error>>(what: &'static str, path: &Path) -> impl FnOnce(E) -> CopyError {
    let path = path.to_owned();
    move |error| {
        let source: io::Error = error.into();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                CopyError::Full { path, source }
            }
            _ => CopyError::Io { what, path, source },
        }
    }
}

fn open(to: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(CWD, to, flags, Mode::empty())?)
}

/// Opens the directory, and closes it to others. What is made in it must inherit nothing.
fn open_empty(to: &Path) -> Result<OwnedFd, CopyError> {
    let root = open(to).map_err(failed("open", to))?;
    let names = rustix::fs::Dir::read_from(&root).map_err(failed("read", to))?;
    for name in names {
        let name = name.map_err(failed("read", to))?;
        if !matches!(name.file_name().to_bytes(), b"." | b"..") {
            return Err(CopyError::NotEmpty(to.to_owned()));
        }
    }
    for name in ["system.posix_acl_default", "system.posix_acl_access"] {
        match rustix::fs::fremovexattr(&root, name) {
            Ok(()) | Err(Errno::NODATA | Errno::NOTSUP) => {}
            Err(error) => return Err(failed("change", to)(error)),
        }
    }
    rustix::fs::fchmod(&root, Mode::RWXU).map_err(failed("change", to))?;
    Ok(root)
}

/// A copy in the making.
struct Copy<'a> {
    union: &'a Union,
    to: &'a Path,
    root: OwnedFd,
    with_xattrs: bool,
    stop: &'a AtomicBool,
    bytes: AtomicU64,
    objects: AtomicU64,
}

impl Copy<'_> {
    fn copied(&self) -> Copied {
        Copied {
            objects: self.objects.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }

    fn go_on(&self) -> Result<(), CopyError> {
        match self.stop.load(Ordering::Relaxed) {
            true => Err(CopyError::Interrupted),
            false => Ok(()),
        }
    }

    /// Where on disk something of the tree lies.
    fn path(&self, places: &Places, name: Name) -> PathBuf {
        places.path_below(self.to, name)
    }

    fn failed<E: Into<io::Error>>(
        &self,
        what: &'static str,
        places: &Places,
        name: Name,
    ) -> impl FnOnce(E) -> CopyError {
        let path = self.path(places, name);
        move |error| failed(what, &path)(error)
    }

    /// The union could not say something of an object.
    fn unreadable(&self, places: &Places, name: Name, ino: Ino, source: FsError) -> CopyError {
        let layers = self.union.layers();
        let layer = self.union.layer_of(ino).ok().and_then(|at| layers.get(at));
        CopyError::Read {
            path: places.path(name),
            layer: layer.map_or_else(String::new, |layer| layer.diff_id().to_string()),
            source,
        }
    }

    /// Gives files their further names.
    fn link(&self, plan: &walk::Plan) -> Result<(), CopyError> {
        let places = &plan.places;
        let (mut from, mut to) = (Reach::new(&self.root), Reach::new(&self.root));
        for &(first, further) in &plan.links {
            self.go_on()?;
            let mut link = || -> Result<(), Errno> {
                let (from, to) = (from.open(places, first.dir)?, to.open(places, further.dir)?);
                let (first, further) = (places.name(first), places.name(further));
                rustix::fs::linkat(from, first, to, further, AtFlags::empty())
            };
            link().map_err(|error| self.failed("make", places, further)(error))?;
        }
        Ok(())
    }

    /// Those below come first: from then on one may be closed to this process, too.
    fn furnish_directories(&self, places: &Places) -> Result<(), CopyError> {
        let mut reach = Reach::new(&self.root);
        for dir in places.dirs().rev() {
            self.go_on()?;
            let (name, ino) = (places.name_of_dir(dir), places.ino(dir));
            let attr = self.union.attr(ino);
            let attr = attr.map_err(|error| self.unreadable(places, name, ino, error))?;
            let opened = reach.open(places, dir);
            let opened = opened.map_err(|error| self.failed("open", places, name)(error))?;
            self.furnish(Object::Open(&opened), places, name, ino, &attr)?;
        }
        Ok(())
    }
}
