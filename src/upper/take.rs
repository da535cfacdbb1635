//! Taking an upper directory into use.
//!
//! What it is for: after [`Directory::open`] everything that the other files need
//! has been tried, the work directory is empty, and nobody else has either. May
//! assume: whoever calls chose the paths; links in them are followed. Must not
//! know what will be changed.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use rustix::fs::{
    AtFlags, CWD, FlockOperation, Mode, OFlags, RenameFlags, Stat, StatxFlags, XattrFlags,
};
use rustix::io::Errno;

use super::reach::{self, Opened};
use super::table::Table;
use super::xattrs::{self, Of, Prefix};
use super::{Directory, UpperError, clean, whiteout};
use crate::union::upper::Key;

/// Whose changes an upper directory holds: a mark on its root.
const LAYERS: &str = "lazyroot.layers";
/// What is used of the work directory, as kernel overlayfs names it.
pub(super) const WORK: &str = "work";

/// Whoever has just been unmounted may still be about to let go: umount(2) does not wait for the end of a server.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(5);
/// A directory is made again at most so often, if somebody removes it.
const ROUNDS: u32 = 10;

/// Bits of modes that the process does not make files with: those that programs with the usual umask do not ask for.
pub(super) const UMASK: u16 = 0o022;

/// One of the two directories while it is being looked at.
pub(super) struct Candidate<'a> {
    path: &'a Path,
    pub(super) fd: OwnedFd,
    pub(super) stat: Stat,
}

impl Directory {
    /// Takes an upper directory into use, and clears what an earlier user left
    /// in the work directory. Both are made if missing (not those above them).
    /// `layers` names the stack of layers that the changes belong to; a directory
    /// that belongs to none yet belongs to it from then on.
    ///
    /// Sets the umask of the process, which serves one mount, to 022: what it makes in the store must not be open for
    /// everybody, and what a program makes has its mode exactly, and in most cases by one system call.
    ///
    /// # Errors
    /// See [`UpperError`].
    pub fn open(upper: &Path, work: &Path, layers: &str) -> Result<Self, UpperError> {
        rustix::process::umask(Mode::from_raw_mode(UMASK.into()));
        let mut made = Vec::new();
        Self::take(upper, work, layers, &mut made).inspect_err(|error| {
            let in_use = matches!(error, UpperError::InUse(_));
            for path in made.into_iter().rev() {
                // Somebody may have found it as soon as it was there. Who has opened it and waits for its lock sees
                // that it is gone.
                let lock = Candidate::there(path).ok().filter(Candidate::is_free);
                if lock.is_some() || !in_use {
                    // What has something in it by now stays.
                    let _ = rustix::fs::rmdir(path);
                }
            }
        })
    }

    /// The same; `made` are the directories that were missing.
    fn take<'a>(
        upper: &'a Path,
        work: &'a Path,
        layers: &str,
        made: &mut Vec<&'a Path>,
    ) -> Result<Self, UpperError> {
        let until = Instant::now() + PATIENCE;
        let (upper, work) = loop {
            let upper = Candidate::take(upper, 0o755, made)?;
            let work = Candidate::take(work, 0o700, made)?;
            fit_together(&upper, &work)?;
            upper.lock(&upper, until)?;
            work.lock(&upper, until)?;
            // Whoever had it before may have removed it since it was opened.
            if upper.is_there() && work.is_there() {
                break (upper, work);
            }
            if Instant::now() > until {
                return Err(UpperError::InUse(upper.path.to_owned()));
            }
        };
        upper.needs_proc()?;
        let counter = AtomicU64::new(1);
        let opened = work.clear(&counter)?;
        let prefix = upper.prefix(&opened, &work)?;
        work.try_whiteouts(&opened, &counter)?;
        upper.belongs_to(layers, prefix)?;

        let root = upper.opened()?;
        let (root_key, work_key) = (Key(upper.stat.st_ino), Key(number(&opened, work.path)?));
        let opened = Arc::new(opened);
        let fixed = [(root_key, root), (work_key, Arc::clone(&opened))];
        Ok(Self {
            root: root_key,
            work_key,
            work: opened,
            table: Mutex::new(Table::new(fixed)),
            changes: RwLock::new(()),
            prefix,
            device: upper.stat.st_dev,
            temporary: counter,
            put_off: Mutex::default(),
            whiteout: AtomicU64::new(0),
            process: (
                rustix::process::geteuid().as_raw(),
                rustix::process::getegid().as_raw(),
            ),
            locked: [upper.fd, work.fd],
            own_work: None,
        })
    }

    /// The work directory goes when the directory is no longer in use, before anybody else can use it:
    /// for one that nobody has named. One that is not empty stays, and the next mount clears it.
    #[must_use]
    pub fn with_own_work(mut self, work: PathBuf) -> Self {
        self.own_work = Some(work);
        self
    }
}

fn number(opened: &Opened, path: &Path) -> Result<u64, UpperError> {
    let stat = opened.stat().map_err(failed("look at", path))?;
    Ok(stat.st_ino)
}

/// What an error of the system becomes.
pub(super) fn failed<E: Into<io::Error>>(
    what: &'static str,
    path: &Path,
) -> impl Fn(E) -> UpperError {
    move |error| UpperError::Io {
        what,
        path: path.to_owned(),
        source: error.into(),
    }
}

impl<'a> Candidate<'a> {
    /// Opens a directory, which is made with that mode, and `made` then, if it is missing.
    fn take(path: &'a Path, mode: u32, made: &mut Vec<&'a Path>) -> Result<Self, UpperError> {
        let mut rounds = 0..ROUNDS;
        loop {
            match rustix::fs::mkdirat(CWD, path, Mode::from_raw_mode(mode)) {
                Ok(()) => made.push(path),
                Err(Errno::EXIST) => {}
                Err(error) => return Err(failed("make", path)(error)),
            }
            match Self::there(path) {
                // Whoever had it before has removed it meanwhile; or it is a link to nothing.
                Err(UpperError::Io { source, .. })
                    if source.kind() == io::ErrorKind::NotFound && rounds.next().is_some() => {}
                other => return other,
            }
        }
    }

    /// Whether its path still leads to it.
    fn is_there(&self) -> bool {
        rustix::fs::stat(self.path)
            .is_ok_and(|now| (now.st_dev, now.st_ino) == (self.stat.st_dev, self.stat.st_ino))
    }

    /// Opens a directory that is there.
    pub(super) fn there(path: &'a Path) -> Result<Self, UpperError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = rustix::fs::openat(CWD, path, flags, Mode::empty());
        let fd = open.map_err(failed("open", path))?;
        let stat = rustix::fs::fstat(&fd).map_err(failed("look at", path))?;
        Ok(Self { path, fd, stat })
    }

    pub(super) fn opened(&self) -> Result<Arc<Opened>, UpperError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, ".", flags, Mode::empty());
        let fd = fd.map_err(failed("open", self.path))?;
        Ok(Arc::new(Opened::new(fd, &self.stat)))
    }

    /// The number of the mount that it was reached by.
    fn mount(&self) -> Result<u64, UpperError> {
        let wanted = StatxFlags::MNT_ID;
        let statx = rustix::fs::statx(&self.fd, "", AtFlags::EMPTY_PATH, wanted);
        Ok(statx.map_err(failed("look at", self.path))?.stx_mnt_id)
    }

    /// Whether it is the other one, or lies in it.
    fn is_in(&self, other: &Candidate<'_>) -> Result<bool, UpperError> {
        let place = |stat: &Stat| (stat.st_dev, stat.st_ino);
        let failed = failed("look above", self.path);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let above = |fd: &OwnedFd| rustix::fs::openat(fd, "..", flags, Mode::empty());
        let (mut here, mut stat) = (above(&self.fd).map_err(&failed)?, self.stat);
        loop {
            if place(&stat) == place(&other.stat) {
                return Ok(true);
            }
            let up = rustix::fs::fstat(&here).map_err(&failed)?;
            if place(&up) == place(&stat) {
                return Ok(false);
            }
            stat = up;
            here = above(&here).map_err(&failed)?;
        }
    }

    /// Whether nobody has its lock, which is ours then.
    fn is_free(&self) -> bool {
        rustix::fs::flock(&self.fd, FlockOperation::NonBlockingLockExclusive).is_ok()
    }

    fn lock(&self, upper: &Candidate<'_>, until: Instant) -> Result<(), UpperError> {
        loop {
            match rustix::fs::flock(&self.fd, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(()),
                Err(Errno::WOULDBLOCK) if Instant::now() < until => thread::sleep(PAUSE),
                Err(Errno::WOULDBLOCK) => return Err(UpperError::InUse(upper.path.to_owned())),
                Err(error) => return Err(failed("lock", self.path)(error)),
            }
        }
    }

    pub(super) fn unfit(&self, lacks: &'static str) -> UpperError {
        UpperError::Unfit {
            path: self.path.to_owned(),
            lacks,
        }
    }

    /// Objects are reached through /proc/self/fd.
    pub(super) fn needs_proc(&self) -> Result<(), UpperError> {
        let path = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        match rustix::fs::stat(path) {
            Ok(stat) if stat.st_ino == self.stat.st_ino => Ok(()),
            _ => Err(self.unfit("`/proc` is not mounted")),
        }
    }

    /// Clears the work directory and makes a new directory in it.
    fn clear(&self, counter: &AtomicU64) -> Result<Opened, UpperError> {
        // Only what a mount leaves there: somebody may have named the wrong directory.
        clean::list(&self.fd, |name, _, _| match name {
            b"work" | b"index" => Ok(()),
            _ if name.starts_with(b"#") => Ok(()),
            _ => Err(io::ErrorKind::DirectoryNotEmpty.into()),
        })
        .map_err(|error| match error.kind() {
            io::ErrorKind::DirectoryNotEmpty => self.unfit("a work directory has to be empty"),
            _ => failed("read", self.path)(error),
        })?;
        let start = rustix::fs::SeekFrom::Start(0);
        rustix::fs::seek(&self.fd, start).map_err(failed("read", self.path))?;
        clean::clear(&self.fd, counter).map_err(failed("clean", self.path))?;
        let made = rustix::fs::mkdirat(&self.fd, WORK, Mode::RWXU);
        made.map_err(failed("make a directory in", self.path))?;
        let opened = reach::open_path(&self.fd, WORK.as_bytes());
        let (opened, _) = opened.map_err(failed("open", self.path))?;
        // What is made in it must not inherit anything.
        match xattrs::remove(&opened, b"system.posix_acl_default") {
            Ok(()) => {}
            Err(error)
                if matches!(
                    Errno::from_io_error(&error),
                    Some(Errno::NODATA | Errno::NOTSUP)
                ) => {}
            Err(error) => return Err(failed("change", self.path)(error)),
        }
        Ok(opened)
    }

    /// What marks begin with here. Who may set `trusted.*` still goes on with
    /// `user.*` where a user namespace's root began.
    fn prefix(&self, work: &Opened, outer: &Candidate<'_>) -> Result<Prefix, UpperError> {
        let begun = self.begun_by_user()?;
        let trusted = outer.has(xattrs::TRUSTED_HERE)?;
        let candidates: &[Prefix] = if begun {
            &[Prefix::User]
        } else {
            &[Prefix::Trusted, Prefix::User]
        };
        for &prefix in candidates {
            let name = prefix.mark("lazyroot");
            match xattrs::set(work, name.as_bytes(), b"y", XattrFlags::empty()) {
                // Without its marks a file of zeros would stand for a layer's.
                Ok(()) if prefix == Prefix::User && (trusted || !begun && !self.is_empty()?) => {
                    return Err(self.unfit("only root of the machine sees its marks"));
                }
                Ok(()) if prefix == Prefix::Trusted => {
                    outer.say_trusted()?;
                    return Ok(prefix);
                }
                Ok(()) => return Ok(prefix),
                Err(error) => match Errno::from_io_error(&error) {
                    // EPERM: not root of the machine.
                    Some(Errno::PERM | Errno::NOTSUP) => {}
                    _ => return Err(failed("set an extended attribute of", outer.path)(error)),
                },
            }
        }
        Err(self.unfit("it has no extended attributes"))
    }

    /// Whether a user namespace's root began it.
    pub(super) fn begun_by_user(&self) -> Result<bool, UpperError> {
        // A program in the mount can set the first of these, as root the second is ours alone.
        Ok(self.has(&Prefix::User.mark(LAYERS))? && !self.has(&Prefix::Trusted.mark(LAYERS))?)
    }

    fn is_empty(&self) -> Result<bool, UpperError> {
        let mut empty = true;
        let read = clean::list(&self.fd, |_, _, _| {
            empty = false;
            Ok(())
        });
        read.map_err(failed("read", self.path))?;
        Ok(empty)
    }

    fn has(&self, name: &str) -> Result<bool, UpperError> {
        match Of::Object(&*self.opened()?).get(name.as_bytes()) {
            Ok(value) => Ok(value.is_some()),
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NOTSUP) => Ok(false),
            Err(error) => Err(failed("read an extended attribute of", self.path)(error)),
        }
    }

    fn say_trusted(&self) -> Result<(), UpperError> {
        let name = xattrs::TRUSTED_HERE.as_bytes();
        match xattrs::set(&*self.opened()?, name, b"y", XattrFlags::empty()) {
            // Where `user.*` cannot be had, no user namespace takes it.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NOTSUP) => Ok(()),
            set => set.map_err(failed("set an extended attribute of", self.path)),
        }
    }

    /// Tries all kinds of rename that are used, and whiteouts; with two files, because to make files is
    /// most of what it costs to take a directory into use.
    fn try_whiteouts(&self, work: &Opened, counter: &AtomicU64) -> Result<(), UpperError> {
        let names: [String; 3] = std::array::from_fn(|_| clean::temporary(counter));
        let [one, other, third] = &names;
        let rename =
            |from: &str, to: &str, flags| rustix::fs::renameat_with(work, from, work, to, flags);
        whiteout::create(work, one).map_err(|_| self.unfit("it has no whiteouts"))?;
        rename(one, other, RenameFlags::WHITEOUT)
            .map_err(|_| self.unfit("it cannot leave whiteouts"))?;
        rename(one, other, RenameFlags::EXCHANGE)
            .map_err(|_| self.unfit("it cannot exchange names"))?;
        rename(one, third, RenameFlags::NOREPLACE)
            .map_err(|_| self.unfit("it cannot rename without replacing"))?;
        for name in [other, third] {
            clean::remove(work.as_fd(), name.as_bytes(), counter)
                .map_err(failed("clean", self.path))?;
        }
        Ok(())
    }

    /// Whether the changes are those to `layers`; false: it does not say.
    pub(super) fn is_about(&self, layers: &str, prefix: Prefix) -> Result<bool, UpperError> {
        let root = self.opened()?;
        let now = Of::Object(&root).get(prefix.mark(LAYERS).as_bytes());
        match now.map_err(failed("read an extended attribute of", self.path))? {
            Some(now) if now == layers.as_bytes() => Ok(true),
            Some(_) => Err(UpperError::OtherImage(self.path.to_owned())),
            None => Ok(false),
        }
    }

    /// The changes are those to `layers`, or there are none yet.
    fn belongs_to(&self, layers: &str, prefix: Prefix) -> Result<(), UpperError> {
        if self.is_about(layers, prefix)? {
            return Ok(());
        }
        let name = prefix.mark(LAYERS);
        let value = layers.as_bytes();
        xattrs::set(&*self.opened()?, name.as_bytes(), value, XattrFlags::CREATE)
            .map_err(failed("set an extended attribute of", self.path))
    }
}

/// Renames must be possible between the two, and neither may show the other.
fn fit_together(upper: &Candidate<'_>, work: &Candidate<'_>) -> Result<(), UpperError> {
    let paths = (upper.path.to_owned(), work.path.to_owned());
    if upper.stat.st_dev != work.stat.st_dev || upper.mount()? != work.mount()? {
        let (upper, work) = paths;
        return Err(UpperError::Apart { upper, work });
    }
    if upper.is_in(work)? || work.is_in(upper)? {
        let (upper, work) = paths;
        return Err(UpperError::Nested { upper, work });
    }
    Ok(())
}
