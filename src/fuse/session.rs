//! Mount, run, unmount.
//!
//! What it is for: the life of one mount, within one call. May assume: it is
//! alone in its process as far as SIGTERM, SIGINT and SIGHUP go. Must not know
//! who started the process, nor what is shown.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, unbounded};
use fuser::{Config, Filesystem, MountOption, Notifier, Session, SessionACL};
use rustix::mount::MountFlags;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::adapter::{Adapter, Shown};
use super::browse::Browse;
use super::changes;
use super::haste::{self, Activity, Awake, CALM, CALM_REQUESTS, Event};
use super::image::Image;
use super::reads::READ_PIECE;
use super::turns::Turns;
use super::writable::WritableAdapter;
use super::{MountOptions, Served, Tree};
use crate::mounts::{self, FS_TYPE, MountError, Seen};

/// No request for so long: the process is idle.
const IDLE: Duration = Duration::from_secs(10);
/// After a signal those who are still inside may finish for so long.
const GRACE: Duration = Duration::from_secs(5);
/// Four spans, each a read of its own: they are decoded while the program has those before. Measured
/// with large files, gcc and places of a mapped file, all cold (docs/performance.md).
const READ_AHEAD_KIB: &str = "1024";
/// The second half of [`FS_TYPE`].
const SUBTYPE: &str = "lazyroot";

/// Why a mount could not be made or served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The mount point is missing or no directory.
    #[error("cannot mount at `{}`", at.display())]
    MountPoint {
        /// The mount point.
        at: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// One of our mounts is there already. A second one over it would have to be
    /// undone twice, and nobody would see that.
    #[error("`{}` has `{name}` mounted already", at.display())]
    Occupied {
        /// The mount point.
        at: PathBuf,
        /// What is mounted there.
        name: String,
    },
    /// The kernel has no FUSE, or this process may not use it.
    #[error("cannot open `/dev/fuse`")]
    Device(#[source] io::Error),
    /// Others may not look into an ordinary user's mounts.
    #[error("`allow_other` needs the line `user_allow_other` in `/etc/fuse.conf`")]
    AllowOther,
    /// The helper for ordinary users is missing.
    #[error("`fusermount3` is missing: install the package fuse3")]
    NoHelper,
    /// The kernel refused the mount, or the first words with it failed.
    #[error("cannot mount `{name}` at `{}`", at.display())]
    Mount {
        /// What was to be mounted.
        name: String,
        /// The mount point.
        at: PathBuf,
        /// What the system or the helper says.
        source: io::Error,
    },
    /// Ordinary users mount read-only.
    #[error("a writable mount needs root, or root of a user namespace")]
    NotForUsers,
    /// The mount was made and cannot be found.
    #[error(transparent)]
    Table(#[from] MountError),
    /// The connection to the kernel failed while the mount was served.
    #[error("serving `{name}` failed")]
    Serve {
        /// What was served.
        name: String,
        /// What the system says.
        source: io::Error,
    },
}

/// Mounts a tree at a directory and answers for it until it is unmounted, by
/// whomever. `ready` is called once it can be used. SIGTERM, SIGINT and SIGHUP
/// unmount it; who is still inside may finish for a few seconds, or until the
/// second signal.
///
/// # Errors
/// The mount cannot be made, or the connection to the kernel fails.
pub fn serve(
    what: Served,
    at: &Path,
    options: &MountOptions,
    ready: impl FnOnce(),
) -> Result<(), ServeError> {
    let Served {
        name,
        tree,
        idle,
        keep_awake,
    } = what;
    let at = mount_point(at)?;
    let fails = |source| ServeError::Mount {
        name: name.clone(),
        at: at.clone(),
        source,
    };
    let (wake, events) = unbounded();
    let activity = Arc::new(Activity::new(wake.clone()));
    let processors = haste::processors();
    let shown = match tree {
        Tree::Image(union) => Ok(Shown::One(Arc::new(Image::alone(name.clone(), union)))),
        Tree::Lower(union) => Ok(Shown::One(Arc::new(Image::below(name.clone(), union)))),
        Tree::Images(catalogue) => Ok(Shown::Many(Arc::new(Browse::new(catalogue)))),
        Tree::Writable(tree) => Err(tree),
    };
    let browse = match &shown {
        Ok(Shown::Many(browse)) => Some(Arc::clone(browse)),
        _ => None,
    };
    let swept = browse.clone();
    let written = shown.as_ref().err().cloned();
    let idle = move || {
        if let Some(browse) = &swept {
            browse.sweep(Duration::ZERO);
        }
        if let Some(idle) = &idle {
            idle();
        }
    };
    let rest = move || {
        if let Some(tree) = &written {
            tree.rest();
        }
    };

    // Before the mount: from the first moment on a signal undoes it.
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(fails)?;
    let place = Place {
        name: &name,
        at: &at,
        options,
        writable: shown.is_err(),
        processors,
    };
    // With one processor, who waits keeps those from running who are waited for.
    let haste = keep_awake && processors > 1;
    let (run, names) = match shown {
        Ok(shown) => {
            let adapter = Adapter::new(shown, processors, activity.clone());
            let turns = haste.then(|| adapter.turns());
            let (run, notifier) = place.open(adapter, turns, |adapter| {
                adapter.allow_idmap = true;
            })?;
            (run, browse.map(|browse| (browse, notifier)))
        }
        Err(tree) => {
            let adapter = WritableAdapter::new(name.clone(), tree, processors, activity.clone());
            let told = adapter.notifier();
            let turns = haste.then(|| adapter.turns());
            let (run, notifier) = place.open(adapter, turns, |_| {})?;
            // It is the only one.
            let _ = told.set(notifier);
            (run, None)
        }
    };
    let mut undone = Undone(Some(&at));
    let mount = Ours {
        seen: mounts::seen_at(&at)?,
        unique: mounts::unique_id(&at),
        at: at.clone(),
    };
    read_further_ahead(&mount);

    if let Some((browse, notifier)) = names {
        changes::follow(browse, notifier).map_err(fails)?;
    }

    let ended = wake.clone();
    let serving = thread::Builder::new().name("session".to_owned());
    let spawned = serving.spawn(move || {
        let _ = ended.send(Event::Ended(run()));
    });
    spawned.map_err(|source| ServeError::Serve {
        name: name.clone(),
        source,
    })?;
    let handle = signals.handle();
    let listening = thread::Builder::new().name("signals".to_owned());
    let spawned = listening.spawn(move || {
        for _ in signals.forever() {
            let _ = wake.send(Event::Signal);
        }
    });
    spawned.map_err(|source| ServeError::Serve {
        name: name.clone(),
        source,
    })?;
    undone.0 = None;
    ready();
    let result = wait(&events, &mount, &activity, (&idle, &rest, IDLE), keep_awake);
    handle.close();
    result.map_err(|source| ServeError::Serve { name, source })
}

/// Waits for the end. `idle` is called when no request came for `after`, `rest` also when
/// some did, unless they follow one another closely.
fn wait(
    events: &Receiver<Event>,
    mount: &Ours,
    activity: &Activity,
    (idle, rest, after): (&dyn Fn(), &dyn Fn(), Duration),
    keep_awake: bool,
) -> io::Result<()> {
    let mut leaving: Option<Instant> = None;
    let mut awake: Option<Awake> = None;
    let mut before = 0;
    loop {
        let event = match (leaving, &awake) {
            (Some(until), _) => events.recv_deadline(until),
            (None, Some(_)) => events.recv_timeout(CALM),
            (None, None) if activity.is_asleep() => {
                events.recv().map_err(|_| RecvTimeoutError::Disconnected)
            }
            (None, None) => events.recv_timeout(after),
        };
        match event {
            Ok(Event::Ended(result)) => {
                // Mostly because it was unmounted; an aborted connection leaves a
                // dead mount behind, which nobody but us would take away.
                detach(mount);
                return result;
            }
            Ok(Event::Woken) => {}
            Ok(Event::Haste) => {
                before = activity.requests();
                awake = (keep_awake && haste::keeps_awake())
                    .then(Awake::hold)
                    .flatten();
            }
            Ok(Event::Signal) if leaving.is_none() => {
                detach(mount);
                leaving = Some(Instant::now() + GRACE);
            }
            Ok(Event::Signal) => {
                abort(mount);
                return Ok(());
            }
            Err(RecvTimeoutError::Timeout) if leaving.is_some() => {
                log::warn!(
                    "`{}` is still in use; its users are cut off",
                    mount.at.display()
                );
                abort(mount);
                return Ok(());
            }
            Err(RecvTimeoutError::Timeout) => {
                let now = activity.requests();
                if awake.is_some() {
                    if now - before < CALM_REQUESTS {
                        awake = None;
                        activity.calm();
                    }
                } else {
                    // Who asks meanwhile is heard of.
                    if now == before {
                        activity.sleep();
                        idle();
                    }
                    rest();
                }
                before = now;
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
    }
}

/// A mount that is undone with its scope: nobody will ever answer for it.
struct Undone<'a>(Option<&'a Path>);

impl Drop for Undone<'_> {
    fn drop(&mut self) {
        if let Some(at) = self.0
            && let Err(error) = mounts::unmount(at, true)
        {
            log::error!("{error}");
        }
    }
}

/// The mount that this process serves.
#[derive(Debug)]
struct Ours {
    at: PathBuf,
    /// As the kernel tells it; what is read in the mount table takes the longer
    /// the more containers there are.
    seen: Seen,
    /// Its number that no later mount gets, where the kernel has such.
    unique: Option<u64>,
}

/// Has the kernel read further ahead than its 128 KiB when a program is mapped, or
/// a file read on: what it asks for costs the decoding of whole spans anyhow.
fn read_further_ahead(mount: &Ours) {
    let (major, minor) = mount.seen.device;
    let file = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    // Who may not, or has no /sys, reads in smaller pieces.
    if let Err(error) = fs::write(&file, READ_AHEAD_KIB) {
        log::info!("cannot write `{file}`: {error}");
    }
}

/// Takes the mount out of the tree, unless another has taken its place.
fn detach(ours: &Ours) {
    let here = mounts::seen_at(&ours.at);
    if here.is_ok_and(|here| here == ours.seen)
        && mounts::unique_id(&ours.at) == ours.unique
        && let Err(error) = mounts::unmount(&ours.at, true)
    {
        log::error!("{error}");
    }
}

/// Ends the connection: whoever waits for an answer gets an error at once.
fn abort(ours: &Ours) {
    let file = format!("/sys/fs/fuse/connections/{}/abort", ours.seen.device.1);
    // It is gone when the last user is, and then there is nothing to end.
    let _ = fs::write(file, "1");
}

/// Where to mount: a directory, without links.
fn mount_point(at: &Path) -> Result<PathBuf, ServeError> {
    let place = mounts::resolve(at)?;
    // Before a look at the place itself: it may be a mount whose server died.
    if mounts::may_be_mounted_at(&place)
        && let Some(mount) = mounts::uppermost(&mounts::all()?, &place).filter(|m| m.is_ours())
    {
        let name = mount.source.to_string_lossy().into_owned();
        return Err(ServeError::Occupied { at: place, name });
    }
    match fs::symlink_metadata(&place) {
        Ok(meta) if meta.is_dir() => Ok(place),
        Ok(_) => {
            let source = io::ErrorKind::NotADirectory.into();
            Err(ServeError::MountPoint { at: place, source })
        }
        Err(source) => Err(ServeError::MountPoint { at: place, source }),
    }
}

/// Answers requests until the mount is gone.
type Run = Box<dyn FnOnce() -> io::Result<()> + Send>;

/// A mount to be made.
struct Place<'a> {
    name: &'a str,
    at: &'a Path,
    options: &'a MountOptions,
    writable: bool,
    processors: usize,
}

impl Place<'_> {
    fn fails(&self, source: io::Error) -> ServeError {
        ServeError::Mount {
            name: self.name.to_owned(),
            at: self.at.to_owned(),
            source,
        }
    }

    /// Mounts and says the first words with the kernel (INIT). `direct` is told
    /// when no helper had to be asked. `turns`: requests are looked for. The kernel is
    /// told things by what comes with the answer.
    fn open<FS: Filesystem>(
        &self,
        mut adapter: FS,
        turns: Option<Arc<Turns>>,
        direct: impl FnOnce(&mut FS),
    ) -> Result<(Run, Notifier), ServeError> {
        let mut config = Config::default();
        config.n_threads = Some(self.processors);
        let session = match self.mount_directly()? {
            Some(device) => {
                direct(&mut adapter);
                let session = Session::from_fd(adapter, device, SessionACL::All, config);
                session.map_err(|error| {
                    // The mount is there already, and nobody will ever answer for it.
                    let _ = mounts::unmount(self.at, true);
                    self.fails(error)
                })?
            }
            // The helper gives a mount to one user and tells nobody else of it:
            // owners of files would be his to say.
            None if self.writable => return Err(ServeError::NotForUsers),
            None => self.through_helper(adapter, config)?,
        };
        let notifier = session.notifier();
        if let Some(turns) = turns {
            // Out of descriptors: nobody looks.
            if let Ok(device) = session.as_fd().try_clone_to_owned() {
                turns.look_at(device);
            }
        }
        Ok((Box::new(|| session.run()), notifier))
    }

    /// mount(2) by ourselves: for root, also of a user namespace. Nothing when this
    /// process may not.
    fn mount_directly(&self) -> Result<Option<OwnedFd>, ServeError> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let device = File::options().read(true).write(true).open("/dev/fuse");
        let device = device.map_err(ServeError::Device)?;
        let mut flags = MountFlags::empty();
        flags.set(MountFlags::RDONLY, !self.writable);
        flags.set(MountFlags::NOSUID, !self.options.suid);
        flags.set(MountFlags::NODEV, !self.options.dev);
        flags.set(MountFlags::NOEXEC, self.options.noexec);
        let (uid, gid) = (rustix::process::getuid(), rustix::process::getgid());
        // `rootmode` is a directory's type; the mode itself is asked for later.
        let data = format!(
            "fd={},rootmode=40000,user_id={},group_id={},default_permissions,allow_other,max_read={READ_PIECE}\0",
            device.as_raw_fd(),
            uid.as_raw(),
            gid.as_raw(),
        );
        let data = std::ffi::CStr::from_bytes_with_nul(data.as_bytes())
            .expect("because the text has been made of numbers and one final NUL");
        // The subtype is part of the type's name here (kernel fs/namespace.c).
        match rustix::mount::mount(self.name, self.at, FS_TYPE, flags, data) {
            Ok(()) => Ok(Some(device.into())),
            Err(rustix::io::Errno::PERM) => Ok(None),
            Err(error) => Err(self.fails(error.into())),
        }
    }

    /// Mounts through the setuid helper: for everybody else.
    fn through_helper<FS: Filesystem>(
        &self,
        adapter: FS,
        mut config: Config,
    ) -> Result<Session<FS>, ServeError> {
        config.mount_options = vec![
            // The helper splits options at commas and knows the backslash.
            MountOption::FSName(self.name.replace('\\', "\\\\").replace(',', "\\,")),
            MountOption::Subtype(SUBTYPE.to_owned()),
            MountOption::RO,
            MountOption::DefaultPermissions,
            MountOption::NoSuid,
            MountOption::NoDev,
            MountOption::CUSTOM(format!("max_read={READ_PIECE}")),
        ];
        if self.options.noexec {
            config.mount_options.push(MountOption::NoExec);
        }
        if self.options.allow_other {
            let conf = fs::read_to_string("/etc/fuse.conf").unwrap_or_default();
            if !allows_other(&conf) {
                return Err(ServeError::AllowOther);
            }
            config.acl = SessionACL::All;
        }
        Session::new(adapter, self.at, &config).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => ServeError::NoHelper,
            io::ErrorKind::PermissionDenied => ServeError::Device(source),
            // What the helper says ends with a newline.
            kind => self.fails(io::Error::new(kind, source.to_string().trim().to_owned())),
        })
    }
}

/// Whether `/etc/fuse.conf` lets users show their mounts to others.
fn allows_other(conf: &str) -> bool {
    conf.lines().any(|line| line.trim() == "user_allow_other")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn a_comment_in_the_configuration_allows_nothing() {
        assert!(!allows_other(
            "# user_allow_other\n#user_allow_other\nmount_max = 5\n"
        ));
        assert!(allows_other("mount_max = 5\n user_allow_other \n"));
    }

    #[test]
    fn a_mount_point_must_be_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(matches!(
            mount_point(&file),
            Err(ServeError::MountPoint { .. })
        ));
        assert!(matches!(
            mount_point(&dir.path().join("no")),
            Err(ServeError::MountPoint { .. })
        ));
        assert!(mount_point(dir.path()).is_ok());
    }

    #[test]
    fn a_mount_that_nobody_will_answer_for_is_undone() {
        let dir = tempfile::tempdir().unwrap();
        let at = mounts::resolve(dir.path()).unwrap();
        let place = Place {
            name: "nobody",
            at: &at,
            options: &MountOptions::default(),
            writable: false,
            processors: 1,
        };
        // Needs root, and a device.
        let Ok(Some(_device)) = place.mount_directly() else {
            return;
        };
        let is_there = || mounts::mount_at(&at).unwrap().is_some();
        let mut served = Undone(Some(&at));
        served.0 = None;
        drop(served);
        assert!(is_there());
        drop(Undone(Some(&at)));
        assert!(!is_there());
    }

    #[test]
    fn an_idle_server_lets_its_caches_go_once_until_it_is_asked_again() {
        let (wake, events) = unbounded();
        let activity = Activity::new(wake.clone());
        // It is none of ours, and stays.
        let at = PathBuf::from("/proc");
        let (seen, unique) = (mounts::seen_at(&at).unwrap(), mounts::unique_id(&at));
        let mount = Ours { at, seen, unique };
        let times = AtomicU64::new(0);
        let idle = || {
            times.fetch_add(1, Ordering::Relaxed);
        };
        let rests = AtomicU64::new(0);
        let rest = || {
            rests.fetch_add(1, Ordering::Relaxed);
        };
        let after = Duration::from_millis(10);
        thread::scope(|scope| {
            scope.spawn(|| {
                wait(&events, &mount, &activity, (&idle, &rest, after), false).unwrap();
            });
            let until = |wanted: u64| {
                while times.load(Ordering::Relaxed) < wanted {
                    thread::sleep(after);
                }
                thread::sleep(3 * after);
                assert_eq!(times.load(Ordering::Relaxed), wanted);
            };
            until(1);
            activity.request();
            until(2);
            // What is held for who asks next goes also when some do.
            let before = rests.load(Ordering::Relaxed);
            while rests.load(Ordering::Relaxed) < before + 3 {
                activity.request();
                thread::sleep(after / 3);
            }
            wake.send(Event::Ended(Ok(()))).unwrap();
        });
    }
}
