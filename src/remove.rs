//! Removing a tree without ever leaving its mount.
//!
//! What it is for: whatever is given up (changes, a copied rootfs, trash) goes by
//! this one walk. It reaches everything by descriptors, one name at a time: nothing is
//! followed, no path is too long, no tree too deep, and memory does not depend on the
//! size of a directory. A mount point is not entered and not even looked at, since what
//! serves it may be dead. May assume: others remove at the same time, too. Must not know
//! what it removes.

use std::ffi::OsString;
use std::io;
use std::mem::MaybeUninit;
use std::ops::AddAssign;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RawDir, ResolveFlags, SeekFrom, Stat};
use rustix::io::Errno;

/// Bytes that one getdents(2) fills at most. It also bounds what is remembered of a
/// directory.
const LISTING: usize = 32 << 10;
/// Directories that are kept open at a time; those above are opened again, by `..`, on
/// the way back.
const OPEN_MAX: usize = 64;
/// Bytes of a name that are kept in the trash: room for a number beside it (NAME_MAX is 255).
const NAME_KEPT: usize = 200;

/// What went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Removed {
    /// Names of anything but directories.
    pub files: u64,
    /// Bytes on disk that are free now: those of files whose last name went.
    pub bytes: u64,
}

impl AddAssign for Removed {
    fn add_assign(&mut self, more: Self) {
        self.files += more.files;
        self.bytes += more.bytes;
    }
}

/// Why something is left.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// A mount point, which is left alone with all that lies beyond.
    #[error("something is mounted at `{}`", .0.display())]
    Mounted(PathBuf),
    /// Somebody moved a directory elsewhere while it was emptied.
    #[error("`{}` was moved while it was removed", .0.display())]
    Moved(PathBuf),
    /// The system refuses.
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

impl RemoveError {
    /// What to try.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Mounted(path) => Some(format!("umount {}, then again", path.display())),
            Self::Moved(_) => Some("once more".to_owned()),
            Self::Io { source, .. } => match Errno::from_io_error(source) {
                Some(Errno::PERM) => Some("chattr -i -a on it and on its directory".to_owned()),
                _ => None,
            },
        }
    }
}

/// Removes a file, or a directory with all that is in it. Nothing there is fine. The
/// path's own directory is found as the system finds it; from there on nothing is followed.
///
/// # Errors
/// [`RemoveError::Mounted`], or what the system says. What lies outside of the mount point
/// may be gone by then.
pub fn remove(path: &Path) -> Result<Removed, RemoveError> {
    match Removal::of(path)? {
        Some(removal) => removal.run(),
        None => Ok(Removed::default()),
    }
}

/// Removes all that is in a directory, which stays. No such directory is fine.
///
/// # Errors
/// As for [`remove`]; also if it is no directory, or a mount point itself.
pub fn remove_contents(path: &Path) -> Result<Removed, RemoveError> {
    let Some(mut removal) = Removal::of(path)? else {
        return Ok(Removed::default());
    };
    let Some(name) = removal.levels[0].waiting.pop() else {
        return Ok(Removed::default());
    };
    removal.stay = 2;
    removal.descend(name)?;
    removal.run()
}

/// Moves a file or a directory into the trash directory, which lies on the same file
/// system, and removes it there: at once out of sight, and if the process ends early
/// whoever empties the trash finds the rest.
///
/// # Errors
/// As for [`remove`]; paths then begin in the trash if it was moved already.
pub fn discard(path: &Path, trash: &Path) -> Result<Removed, RemoveError> {
    let Some((dir, name)) = place(path)? else {
        return Ok(Removed::default());
    };
    let to = open_directory(trash).map_err(failed("open", trash))?;
    let moved = loop {
        let new = trash_name(&name);
        match rustix::fs::renameat(&dir, name.as_slice(), &to, new.as_slice()) {
            Ok(()) => break trash.join(OsString::from_vec(new)),
            Err(Errno::NOENT) => return Ok(Removed::default()),
            // Left there by an earlier process of our number.
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR | Errno::ISDIR) => {}
            Err(Errno::BUSY) if is_mount_point(&dir, &name) => {
                return Err(RemoveError::Mounted(path.to_owned()));
            }
            Err(error) => return Err(failed("move to the trash", path)(error)),
        }
    };
    remove(&moved)
}

/// A name that this process has not given before.
fn trash_name(name: &[u8]) -> Vec<u8> {
    static GIVEN: AtomicU64 = AtomicU64::new(0);
    let number = GIVEN.fetch_add(1, Ordering::Relaxed);
    let process = std::process::id();
    let mut new = name[..name.len().min(NAME_KEPT)].to_vec();
    new.extend_from_slice(format!("-{process}-{number}").as_bytes());
    new
}

fn failed<E: Into<io::Error>>(what: &'static str, path: &Path) -> impl FnOnce(E) -> RemoveError {
    let path = path.to_owned();
    move |error| RemoveError::Io {
        what,
        path,
        source: error.into(),
    }
}

/// The directory that has the last name of a path, and that name; nothing if there is
/// no such directory.
fn place(path: &Path) -> Result<Option<(OwnedFd, Vec<u8>)>, RemoveError> {
    let Some(name) = path.file_name() else {
        let source = io::Error::new(io::ErrorKind::InvalidInput, "it does not end in a name");
        return Err(failed("remove", path)(source));
    };
    let above = path.parent().filter(|above| !above.as_os_str().is_empty());
    let above = above.unwrap_or(Path::new("."));
    match open_directory(above) {
        Ok(dir) => Ok(Some((dir, name.as_bytes().to_vec()))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(failed("open", above)(error)),
    }
}

fn open_directory(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty())
}

/// Opens what a directory has under a name; EXDEV if something is mounted there, be it
/// of the same file system.
fn open_at(dir: impl AsFd, name: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    // What is gone above is no way out: `..` is checked by who asks for it.
    let resolve = match name {
        b".." => resolve,
        _ => resolve | ResolveFlags::BENEATH,
    };
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat2(dir, name, flags, Mode::empty(), resolve)
}

/// Whether something is mounted there; it is not touched.
fn is_mount_point(dir: impl AsFd, name: &[u8]) -> bool {
    open_at(dir, name, OFlags::PATH).err() == Some(Errno::XDEV)
}

/// What tells a directory from every other.
type Identity = (u64, u64);

fn identity(stat: &Stat) -> Identity {
    (stat.st_dev, stat.st_ino)
}

/// A directory on the way down to where the walk stands.
struct Level {
    /// Its name in the one above.
    name: Vec<u8>,
    identity: Identity,
    /// Closed when too many are open.
    fd: Option<OwnedFd>,
    /// Subdirectories that were listed and are still to be removed.
    waiting: Vec<Vec<u8>>,
    /// Everything was listed.
    ended: bool,
    /// Something was found since the listing began.
    found: bool,
}

/// A walk that removes.
struct Removal {
    /// Where the lowest level lies, for messages.
    above: PathBuf,
    levels: Vec<Level>,
    /// So many levels are not removed themselves.
    stay: usize,
    removed: Removed,
    buffer: Vec<MaybeUninit<u8>>,
}

impl Removal {
    /// The removal of one path: the lowest level is the directory that has it.
    fn of(path: &Path) -> Result<Option<Self>, RemoveError> {
        let Some((dir, name)) = place(path)? else {
            return Ok(None);
        };
        let above = path.parent().unwrap_or(Path::new("")).to_owned();
        let stat = rustix::fs::fstat(&dir).map_err(failed("look at", &above))?;
        let level = Level {
            name: Vec::new(),
            identity: identity(&stat),
            fd: Some(dir),
            waiting: vec![name],
            ended: true,
            found: false,
        };
        Ok(Some(Self {
            above,
            levels: vec![level],
            stay: 1,
            removed: Removed::default(),
            buffer: vec![MaybeUninit::uninit(); LISTING],
        }))
    }

    /// The path of the directory where the walk stands, or of a name in it.
    fn path(&self, name: &[u8]) -> PathBuf {
        let mut path = self.above.as_os_str().as_bytes().to_vec();
        let names = self.levels[1..].iter().map(|level| level.name.as_slice());
        for name in names.chain([name]).filter(|name| !name.is_empty()) {
            if !path.is_empty() && path.last() != Some(&b'/') {
                path.push(b'/');
            }
            path.extend_from_slice(name);
        }
        PathBuf::from(OsString::from_vec(path))
    }

    fn failed(&self, what: &'static str, name: &[u8], error: Errno) -> RemoveError {
        match error {
            Errno::XDEV => RemoveError::Mounted(self.path(name)),
            _ => failed(what, &self.path(name))(error),
        }
    }

    fn run(mut self) -> Result<Removed, RemoveError> {
        while let Some(level) = self.levels.last_mut() {
            if let Some(name) = level.waiting.pop() {
                self.descend(name)?;
            } else if !level.ended {
                self.list()?;
            } else if self.levels.len() > self.stay {
                self.ascend()?;
            } else {
                break;
            }
        }
        Ok(self.removed)
    }

    /// Goes down into a directory; what proves to be none is removed.
    fn descend(&mut self, name: Vec<u8>) -> Result<(), RemoveError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let here = self.here()?;
        let opened = match open_at(here, &name, flags) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(()),
            Err(Errno::NOTDIR | Errno::LOOP) if self.levels.len() >= self.stay => {
                return self.remove_file(&name);
            }
            Err(error) => return Err(self.failed("open", &name, error)),
        };
        let stat = rustix::fs::fstat(&opened);
        let stat = stat.map_err(|error| self.failed("look at", &name, error))?;
        self.levels.push(Level {
            name,
            identity: identity(&stat),
            fd: Some(opened),
            waiting: Vec::new(),
            ended: false,
            found: false,
        });
        // The lowest one stays open: nothing is above it to come back by.
        if let Some(far) = self
            .levels
            .len()
            .checked_sub(OPEN_MAX)
            .filter(|far| *far > 0)
        {
            self.levels[far].fd = None;
        }
        Ok(())
    }

    fn here(&self) -> Result<&OwnedFd, RemoveError> {
        let open = self.levels.last().and_then(|level| level.fd.as_ref());
        open.ok_or_else(|| RemoveError::Moved(self.path(b"")))
    }

    /// Lists a part of the directory, and removes all of that but directories.
    fn list(&mut self) -> Result<(), RemoveError> {
        let (mut directories, mut others) = (Vec::new(), Vec::new());
        let (mut ended, mut failure) = (false, None);
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut entries = RawDir::new(self.here()?, &mut buffer);
        loop {
            match entries.next() {
                None => ended = true,
                // Somebody has removed the directory itself.
                Some(Err(Errno::NOENT)) => ended = true,
                Some(Err(error)) => failure = Some(error),
                Some(Ok(entry)) => match (entry.file_name().to_bytes(), entry.file_type()) {
                    (b"." | b"..", _) => {}
                    (name, FileType::Directory) => directories.push(name.to_vec()),
                    (name, _) => others.push(name.to_vec()),
                },
            }
            if ended || failure.is_some() || entries.is_buffer_empty() {
                break;
            }
        }
        self.buffer = buffer;
        if let Some(error) = failure {
            return Err(self.failed("read", b"", error));
        }
        for name in &others {
            self.remove_file(name)?;
        }
        if let Some(level) = self.levels.last_mut() {
            level.found |= !directories.is_empty() || !others.is_empty();
            level.ended = ended;
            level.waiting.append(&mut directories);
        }
        Ok(())
    }

    /// Removes what is not known to be a directory.
    fn remove_file(&mut self, name: &[u8]) -> Result<(), RemoveError> {
        let here = self.here()?;
        // Not stat(2): that would ask whoever serves a mount that lies there.
        let stat = open_at(here, name, OFlags::PATH).and_then(rustix::fs::fstat);
        let stat = match stat {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(self.failed("look at", name, error)),
        };
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            // The file system does not tell kinds when it lists.
            if let Some(level) = self.levels.last_mut() {
                level.waiting.push(name.to_vec());
            }
            return Ok(());
        }
        match rustix::fs::unlinkat(here, name, AtFlags::empty()) {
            Ok(()) => {
                self.removed.files += 1;
                if stat.st_nlink == 1 {
                    // Units of 512 bytes (stat(2)).
                    self.removed.bytes += 512 * u64::try_from(stat.st_blocks).unwrap_or(0);
                }
                Ok(())
            }
            Err(Errno::NOENT) => Ok(()),
            Err(Errno::BUSY) if is_mount_point(here, name) => {
                Err(RemoveError::Mounted(self.path(name)))
            }
            Err(error) => Err(self.failed("remove", name, error)),
        }
    }

    /// Removes the directory where the walk stands, and goes up. If it is not empty, it
    /// is listed once more.
    fn ascend(&mut self) -> Result<(), RemoveError> {
        self.open_above()?;
        let [.., above, level] = self.levels.as_mut_slice() else {
            return Ok(());
        };
        let dir = above.fd.as_ref().expect("because it was opened just now");
        match rustix::fs::unlinkat(dir, level.name.as_slice(), AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {
                self.levels.pop();
                Ok(())
            }
            // Others put something there, or the listing passed over what moved in it.
            Err(Errno::NOTEMPTY | Errno::EXIST) if level.found => {
                (level.ended, level.found) = (false, false);
                let begin = |fd| rustix::fs::seek(fd, SeekFrom::Start(0));
                let begun = level.fd.as_ref().map_or(Ok(0), begin);
                begun.map_err(|error| self.failed("read", b"", error))?;
                Ok(())
            }
            Err(Errno::BUSY) if is_mount_point(dir, &level.name) => {
                Err(RemoveError::Mounted(self.path(b"")))
            }
            Err(error) => Err(self.failed("remove", b"", error)),
        }
    }

    /// Opens the directory above where the walk stands, if it was closed.
    fn open_above(&mut self) -> Result<(), RemoveError> {
        let [.., above, level] = self.levels.as_mut_slice() else {
            return Ok(());
        };
        if above.fd.is_some() {
            return Ok(());
        }
        let here = level.fd.as_ref().ok_or(Errno::BADF);
        let opened = here.and_then(|fd| open_at(fd, b"..", OFlags::RDONLY | OFlags::DIRECTORY));
        let opened = opened.and_then(|fd| Ok((rustix::fs::fstat(&fd)?, fd)));
        match opened {
            Ok((stat, fd)) if identity(&stat) == above.identity => {
                above.fd = Some(fd);
                Ok(())
            }
            Ok(_) => Err(RemoveError::Moved(self.path(b""))),
            Err(error) => Err(self.failed("leave", b"", error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

    fn names(path: &Path) -> usize {
        fs::read_dir(path).unwrap().count()
    }

    /// A chain of directories, each with a file and an empty directory beside the next.
    fn chain(top: &Path, depth: usize) {
        let mut at = open_directory(top).unwrap();
        let make = OFlags::CREATE | OFlags::WRONLY;
        for _ in 0..depth {
            for name in ["a", "next", "z"] {
                rustix::fs::mkdirat(&at, name, Mode::RWXU).unwrap();
            }
            rustix::fs::openat(&at, "file", make, Mode::RWXU).unwrap();
            at = rustix::fs::openat(&at, "next", OFlags::PATH, Mode::empty()).unwrap();
        }
    }

    #[test]
    fn files_and_bytes_on_disk_are_counted_once() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir_all(tree.join("a/b")).unwrap();
        fs::write(tree.join("a/file"), vec![1; 10_000]).unwrap();
        fs::hard_link(tree.join("a/file"), tree.join("a/b/again")).unwrap();
        fs::write(dir.path().join("kept"), vec![1; 10_000]).unwrap();
        fs::hard_link(dir.path().join("kept"), tree.join("kept")).unwrap();
        symlink("/", tree.join("link")).unwrap();
        let blocks = fs::metadata(tree.join("a/file")).unwrap().blocks();
        let link = fs::symlink_metadata(tree.join("link")).unwrap().blocks();
        let removed = remove(&tree).unwrap();
        let bytes = 512 * (blocks + link);
        assert_eq!(removed, Removed { files: 4, bytes });
        assert_eq!(names(dir.path()), 1);
    }

    #[test]
    fn nothing_there_is_nothing_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let nothing = Removed::default();
        for path in ["no", "no/such"].map(|path| dir.path().join(path)) {
            assert_eq!(remove(&path).unwrap(), nothing);
            assert_eq!(remove_contents(&path).unwrap(), nothing);
            assert_eq!(discard(&path, dir.path()).unwrap(), nothing);
        }
    }

    #[test]
    fn a_path_without_a_last_name_is_refused() {
        for path in ["/", "..", "/tmp/.."] {
            let error = remove(Path::new(path)).unwrap_err();
            let Some(io) = std::error::Error::source(&error) else {
                panic!("{error}")
            };
            assert_eq!(io.to_string(), "it does not end in a name");
        }
    }

    #[test]
    fn a_symlink_goes_and_what_it_leads_to_stays() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("real")).unwrap();
        fs::write(dir.path().join("real/file"), "x").unwrap();
        symlink("real", dir.path().join("link")).unwrap();
        assert!(remove_contents(&dir.path().join("link")).is_err());
        assert_eq!(remove(&dir.path().join("link")).unwrap().files, 1);
        assert_eq!(names(&dir.path().join("real")), 1);
    }

    #[test]
    fn contents_go_and_the_directory_stays() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir_all(tree.join("a/b")).unwrap();
        fs::write(tree.join("a/file"), "x").unwrap();
        assert_eq!(remove_contents(&tree).unwrap().files, 1);
        assert_eq!(names(&tree), 0);
        fs::write(tree.join("file"), "x").unwrap();
        assert!(remove_contents(&tree.join("file")).is_err());
        assert_eq!(names(&tree), 1);
    }

    #[test]
    fn a_tree_deeper_than_any_path_and_any_stack_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir(&tree).unwrap();
        chain(&tree, 2500);
        assert_eq!(remove(&tree).unwrap().files, 2500);
        assert_eq!(names(dir.path()), 0);
    }

    #[test]
    fn a_directory_larger_than_one_listing_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        for number in 0..3000 {
            let name = format!("{number}-{}", "n".repeat(100));
            match number % 3 {
                0 => fs::create_dir_all(tree.join(name).join("below")).unwrap(),
                _ => fs::write(tree.join(name), "").unwrap(),
            }
        }
        assert_eq!(remove(&tree).unwrap().files, 2000);
        assert_eq!(names(dir.path()), 0);
    }

    #[test]
    fn odd_modes_and_names_are_no_obstacle_to_root() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        let odd = tree.join(OsString::from_vec(b"\xff\n\\ ".to_vec()));
        fs::create_dir_all(&odd).unwrap();
        fs::write(odd.join("file"), "x").unwrap();
        for path in [&odd.join("file"), &odd, &tree] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o0)).unwrap();
        }
        assert_eq!(remove(&tree).unwrap().files, 1);
    }

    #[test]
    fn many_may_remove_the_same_tree() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir(&tree).unwrap();
        chain(&tree, 200);
        let removed = std::thread::scope(|scope| {
            let all = [(); 4].map(|()| scope.spawn(|| remove(&tree)));
            all.map(|one| one.join().unwrap().unwrap().files)
        });
        assert!(removed.iter().sum::<u64>() >= 200, "{removed:?}");
        assert_eq!(names(dir.path()), 0);
    }

    #[test]
    fn what_is_discarded_may_have_a_name_that_the_trash_has_already() {
        let dir = tempfile::tempdir().unwrap();
        let trash = dir.path().join("trash");
        let long = "n".repeat(255);
        fs::create_dir(&trash).unwrap();
        fs::create_dir_all(trash.join("web1/kept")).unwrap();
        for name in ["web1", "web1", &long] {
            let path = dir.path().join(name);
            fs::create_dir(&path).unwrap();
            fs::write(path.join("file"), "x").unwrap();
            assert_eq!(discard(&path, &trash).unwrap().files, 1);
        }
        assert_eq!(names(&trash), 1);
        assert_eq!(names(dir.path()), 1);
    }
}
