//! `/dev` in a container: a small one of its own.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use rustix::mount::{MountFlags, mount};
use rustix::process::umask;

use super::root::{own_directory, put, take};
use super::spec::Spec;
use super::{LaunchError, broken, failed};

/// Name, major and minor number (kernel, `admin-guide/devices.txt`).
const NODES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

/// What comes from the machine.
pub(super) struct Taken {
    /// In the order of [`NODES`], where no devices can be made.
    nodes: Vec<OwnedFd>,
    terminal: Option<OwnedFd>,
}

impl Taken {
    pub(super) fn from(spec: &Spec) -> Result<Self, LaunchError> {
        let node = |(name, ..): &(&str, u32, u32)| take(&Path::new("/dev").join(name));
        Ok(Self {
            // Own ones, so that nobody in there changes the machine's.
            nodes: match spec.user_namespace {
                true => NODES.iter().map(node).collect::<Result<_, _>>()?,
                false => Vec::new(),
            },
            terminal: match spec.terminal {
                true => terminal()?,
                false => None,
            },
        })
    }
}

/// The caller's terminal. Its path has to be looked up again: what he has opened is of his
/// mount namespace, and cannot be mounted in this one. One that has no path here is done without.
fn terminal() -> Result<Option<OwnedFd>, LaunchError> {
    let stdin = io::stdin();
    let path = match rustix::termios::ttyname(&stdin, Vec::new()) {
        Ok(path) => PathBuf::from(OsStr::from_bytes(path.as_bytes())),
        Err(_) => return Ok(None),
    };
    take(&path).map(Some)
}

pub(super) fn build(spec: &Spec, taken: &Taken) -> Result<(), LaunchError> {
    own_directory("/dev")?;
    let memory = |at: &str, flags: MountFlags, options: &std::ffi::CStr| {
        mount("tmpfs", at, "tmpfs", flags, options).map_err(failed("mount", at))
    };
    memory("/dev", MountFlags::NOSUID, c"mode=755,size=65536k")?;
    let before = umask(Mode::empty());
    for (number, (name, major, minor)) in NODES.iter().enumerate() {
        let path = Path::new("/dev").join(name);
        match taken.nodes.get(number) {
            Some(node) => {
                std::fs::File::create_new(&path).map_err(broken("create", &path))?;
                put(node, &path.to_string_lossy(), false)?;
            }
            None => {
                let (mode, device) = (Mode::from_raw_mode(0o666), makedev(*major, *minor));
                mknodat(CWD, &path, FileType::CharacterDevice, mode, device)
                    .map_err(failed("create", &path))?;
            }
        }
    }
    umask(before);
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("core", "/proc/kcore"),
        ("ptmx", "pts/ptmx"),
    ] {
        let path = Path::new("/dev").join(name);
        symlink(target, &path).map_err(broken("create", &path))?;
    }
    let closed = MountFlags::NOSUID | MountFlags::NOEXEC;
    for name in ["/dev/pts", "/dev/shm", "/dev/mqueue"] {
        std::fs::create_dir(name).map_err(broken("create", name))?;
    }
    let options = match spec.user_namespace {
        // There is no group 5 (tty) in there.
        true => c"newinstance,ptmxmode=0666,mode=0620",
        false => c"newinstance,ptmxmode=0666,mode=0620,gid=5",
    };
    mount("devpts", "/dev/pts", "devpts", closed, options).map_err(failed("mount", "/dev/pts"))?;
    memory(
        "/dev/shm",
        closed | MountFlags::NODEV,
        c"mode=1777,size=65536k",
    )?;
    let queues = mount(
        "mqueue",
        "/dev/mqueue",
        "mqueue",
        closed | MountFlags::NODEV,
        None,
    );
    match queues {
        // A kernel without message queues.
        Err(rustix::io::Errno::NODEV) => {}
        other => other.map_err(failed("mount", "/dev/mqueue"))?,
    }
    if let Some(terminal) = &taken.terminal {
        let path = "/dev/console";
        std::fs::File::create_new(path).map_err(broken("create", path))?;
        put(terminal, path, false)?;
    }
    Ok(())
}
