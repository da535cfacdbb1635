//! The mount table; unmounting.
//!
//! What it is for: what is mounted where is judged by the kernel's table alone.
//! A mount whose server died answers every `stat` with ENOTCONN, so nothing
//! here looks at a mount point itself. May assume: /proc is there. Must not
//! know how our mounts are made.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{AtFlags, Mode, OFlags, Statx, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

/// The type that our mounts have in the mount table.
pub const FS_TYPE: &str = "fuse.lazyroot";
/// The program that unmounts for those who are not root.
const FUSERMOUNT: &str = "fusermount3";
/// Links that lead to a mount point, at most (the kernel's own limit).
const LINKS_MAX: usize = 40;
/// Looks at the table until nothing is mounted below a directory any more.
const ROUNDS: usize = 20;
/// Processes that are named when a mount is in use.
const USERS_MAX: usize = 5;

/// One line of the mount table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The mount's number.
    pub id: u32,
    /// The number of the mount that it lies in.
    pub parent: u32,
    /// Device of the file system: major and minor number. For FUSE the minor
    /// number is the connection's name in `/sys/fs/fuse/connections`.
    pub device: (u32, u32),
    /// What of the file system is mounted.
    pub root: PathBuf,
    /// Where.
    pub at: PathBuf,
    /// Options of the mount, with commas.
    pub options: String,
    /// Type of the file system, with its subtype.
    pub fs_type: OsString,
    /// What is mounted: for our mounts the image's name.
    pub source: OsString,
    /// Options of the file system, with commas.
    pub fs_options: String,
}

impl Mount {
    /// Whether it is one of ours.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.fs_type == FS_TYPE
    }
}

/// Why a mount could not be found or undone.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The mount table cannot be read.
    #[error("cannot read the mount table `/proc/self/mountinfo`")]
    Table(#[source] io::Error),
    /// The path leads nowhere.
    #[error("cannot find `{}`", path.display())]
    Path {
        /// As it was given.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Nothing is mounted there.
    #[error("`{}` is not a mount point", .0.display())]
    NotMounted(PathBuf),
    /// Something else is mounted there.
    #[error("what is mounted at `{}` is not ours but `{fs_type}`", path.display())]
    NotOurs {
        /// The mount point.
        path: PathBuf,
        /// What it is.
        fs_type: String,
    },
    /// Somebody has files open in it.
    #[error("`{}` is in use{}", path.display(), by(pids))]
    Busy {
        /// The mount point.
        path: PathBuf,
        /// Some of those who use it, where that could be seen.
        pids: Vec<u32>,
    },
    /// The helper for ordinary users is missing.
    #[error("`{FUSERMOUNT}` is missing: install the package fuse3")]
    NoHelper,
    /// The system refused.
    #[error("cannot unmount `{}`", path.display())]
    Unmount {
        /// The mount point.
        path: PathBuf,
        /// What the system or the helper says.
        source: io::Error,
    },
}

fn by(pids: &[u32]) -> String {
    if pids.is_empty() {
        return String::new();
    }
    let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
    format!(" by process {}", pids.join(", "))
}

/// Undoes the escapes of the mount table: a backslash and three octal digits
/// (kernel fs/proc_namespace.c: space, tab, newline, backslash and `#`).
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        let digits = match after {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] if first == b'\\' => {
                Some((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'))
            }
            _ => None,
        };
        out.push(digits.unwrap_or(first));
        rest = after
            .get(if digits.is_some() { 3 } else { 0 }..)
            .unwrap_or_default();
    }
    out
}

fn number(text: &[u8]) -> Option<u32> {
    str::from_utf8(text).ok()?.parse().ok()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&unescape(bytes)).into_owned()
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    // 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
    // (proc_pid_mountinfo(5)); between `master:1` and `-` any number of fields.
    let mut fields = line.split(|&byte| byte == b' ');
    let id = number(fields.next()?)?;
    let parent = number(fields.next()?)?;
    let mut device = fields.next()?.splitn(2, |&byte| byte == b':');
    let device = (number(device.next()?)?, number(device.next()?)?);
    let mut path = || Some(PathBuf::from(OsString::from_vec(unescape(fields.next()?))));
    let (root, at) = (path()?, path()?);
    let options = text(fields.next()?);
    fields.find(|field| *field == b"-")?;
    let mut word = || Some(OsString::from_vec(unescape(fields.next()?)));
    let (fs_type, source) = (word()?, word()?);
    let fs_options = text(fields.next().unwrap_or_default());
    Some(Mount {
        id,
        parent,
        device,
        root,
        at,
        options,
        fs_type,
        source,
        fs_options,
    })
}

/// The mounts that a mount table names, in its order. Lines that are none are
/// passed over: a later kernel may say more.
#[must_use]
pub fn parse(table: &[u8]) -> Vec<Mount> {
    table
        .split(|&byte| byte == b'\n')
        .filter_map(parse_line)
        .collect()
}

/// All mounts that this process sees.
///
/// # Errors
/// The table cannot be read.
pub fn all() -> Result<Vec<Mount>, MountError> {
    fs::read("/proc/self/mountinfo")
        .map(|table| parse(&table))
        .map_err(MountError::Table)
}

/// The mount that is seen at a path: of several over each other the uppermost.
#[must_use]
pub fn uppermost<'a>(mounts: &'a [Mount], at: &Path) -> Option<&'a Mount> {
    let here: Vec<&Mount> = mounts.iter().filter(|mount| mount.at == at).collect();
    let covered = |lower: &Mount| {
        here.iter()
            .any(|m| m.parent == lower.id && m.id != lower.id)
    };
    here.iter().copied().rev().find(|mount| !covered(mount))
}

/// Where a path leads, without a look at what is mounted there: links are
/// followed, but the last part is not touched.
///
/// # Errors
/// The directory that it lies in cannot be opened.
pub fn resolve(path: &Path) -> Result<PathBuf, MountError> {
    let failed = |source| MountError::Path {
        path: path.to_owned(),
        source,
    };
    let mut wanted = std::path::absolute(path).map_err(failed)?;
    for _ in 0..LINKS_MAX {
        let (Some(Component::Normal(name)), Some(parent)) =
            (wanted.components().next_back(), wanted.parent())
        else {
            // `/`, or a path that ends with `..`: neither hides a dead mount of ours.
            return real(&wanted).map_err(failed);
        };
        let place = real(parent).map_err(failed)?.join(name);
        match fs::read_link(&place) {
            // A relative target begins in the directory of the link.
            Ok(target) => wanted = place.parent().unwrap_or(Path::new("/")).join(target),
            // No link, or a dead mount: either way this is the place.
            Err(_) => return Ok(place),
        }
    }
    Err(failed(Errno::LOOP.into()))
}

/// The path of an existing directory without links in it.
fn real(dir: &Path) -> io::Result<PathBuf> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = rustix::fs::open(dir, flags, Mode::empty())?;
    let fd = std::os::fd::AsRawFd::as_raw_fd(&open);
    fs::read_link(format!("/proc/self/fd/{fd}"))
}

/// A number of the mount that a path leads to which no other mount ever has
/// (`STATX_MNT_ID_UNIQUE`, Linux 6.8); that of the mount table is given to the next
/// mount as soon as it is free. Asks no server, so a dead one does not matter.
#[must_use]
pub fn unique_id(at: &Path) -> Option<u64> {
    // linux/stat.h; the crate has no name for it yet.
    let wanted = StatxFlags::from_bits_retain(0x4000);
    let flags = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
    let statx = rustix::fs::statx(rustix::fs::CWD, at, flags, wanted).ok()?;
    (statx.stx_mask & wanted.bits() != 0).then_some(statx.stx_mnt_id)
}

/// A mount as the kernel tells of it where a path leads to, without the mount table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Its number, as the table has it ([`Mount::id`]).
    pub id: u64,
    /// The device of its file system, as there.
    pub device: (u32, u32),
}

/// Which mount a path leads to. Asks no server, as [`unique_id`].
///
/// # Errors
/// The path leads nowhere.
pub fn seen_at(at: &Path) -> Result<Seen, MountError> {
    let failed = |error: Errno| MountError::Path {
        path: at.to_owned(),
        source: error.into(),
    };
    let stat = look(at, StatxFlags::MNT_ID).map_err(failed)?;
    Ok(Seen {
        id: stat.stx_mnt_id,
        device: (stat.stx_dev_major, stat.stx_dev_minor),
    })
}

/// Whether something may be mounted at a resolved path: the mount table says what. No is
/// certain, and costs one system call however long the table is.
#[must_use]
pub fn may_be_mounted_at(place: &Path) -> bool {
    match look(place, StatxFlags::empty()) {
        Ok(stat) => {
            let root = StatxAttributes::MOUNT_ROOT;
            // The kernel says which attributes it knows of (Linux 5.8 of this one).
            !stat.stx_attributes_mask.contains(root) || stat.stx_attributes.contains(root)
        }
        Err(Errno::NOENT) => false,
        // A mount that is closed to us, for instance.
        Err(_) => true,
    }
}

fn look(at: &Path, wanted: StatxFlags) -> Result<Statx, Errno> {
    let flags = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT | AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::statx(rustix::fs::CWD, at, flags, wanted)
}

/// The mount at a path, if there is one.
///
/// # Errors
/// The path leads nowhere, or the table cannot be read.
pub fn mount_at(path: &Path) -> Result<Option<Mount>, MountError> {
    let at = resolve(path)?;
    Ok(uppermost(&all()?, &at).cloned())
}

/// Undoes our mount at a path. `lazy`: at once, also when it is in use; those
/// who are inside may go on until they leave.
///
/// # Errors
/// No mount, not ours, in use, refused.
pub fn unmount(path: &Path, lazy: bool) -> Result<(), MountError> {
    let at = resolve(path)?;
    let mounts = all()?;
    let mount = uppermost(&mounts, &at).ok_or_else(|| MountError::NotMounted(at.clone()))?;
    if !mount.is_ours() {
        let fs_type = mount.fs_type.to_string_lossy().into_owned();
        return Err(MountError::NotOurs { path: at, fs_type });
    }
    // No link may lead elsewhere between the look at the table and now.
    let mut flags = UnmountFlags::NOFOLLOW;
    flags.set(UnmountFlags::DETACH, lazy);
    match rustix::mount::unmount(&at, flags) {
        Ok(()) => Ok(()),
        Err(Errno::PERM) => unmount_by_helper(&at, lazy),
        Err(Errno::BUSY) => Err(MountError::Busy {
            pids: users(&at),
            path: at,
        }),
        Err(error) => Err(MountError::Unmount {
            path: at,
            source: error.into(),
        }),
    }
}

/// Undoes, at once and whoever is inside, all that is mounted at a directory or below
/// it, the innermost first; how many. Nothing is left there when this returns.
///
/// # Errors
/// The table cannot be read, or the system refuses.
pub fn detach_below(dir: &Path) -> Result<usize, MountError> {
    let mut undone = 0;
    // Who mounts there at this moment is undone in the next round.
    for _ in 0..ROUNDS {
        let mounts = below(&all()?, dir);
        if mounts.is_empty() {
            return Ok(undone);
        }
        // The table is in the order in which they were made.
        for mount in mounts.iter().rev() {
            match rustix::mount::unmount(&mount.at, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH) {
                Ok(()) => undone += 1,
                // Gone with the one that it was in.
                Err(Errno::INVAL | Errno::NOENT) => {}
                Err(Errno::PERM) => {
                    unmount_by_helper(&mount.at, true)?;
                    undone += 1;
                }
                Err(error) => {
                    return Err(MountError::Unmount {
                        path: mount.at.clone(),
                        source: error.into(),
                    });
                }
            }
        }
    }
    let again = io::Error::other("somebody mounts there again and again");
    Err(MountError::Unmount {
        path: dir.to_owned(),
        source: again,
    })
}

/// The mounts at a directory and below it, in the table's order.
#[must_use]
pub fn below(mounts: &[Mount], dir: &Path) -> Vec<Mount> {
    let inside = mounts.iter().filter(|mount| mount.at.starts_with(dir));
    inside.cloned().collect()
}

fn unmount_by_helper(at: &Path, lazy: bool) -> Result<(), MountError> {
    let mut command = Command::new(FUSERMOUNT);
    command.arg("-u");
    if lazy {
        command.arg("-z");
    }
    let output = command.arg("--").arg(at).stdin(Stdio::null()).output();
    let output = output.map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => MountError::NoHelper,
        _ => MountError::Unmount {
            path: at.to_owned(),
            source,
        },
    })?;
    if output.status.success() {
        return Ok(());
    }
    // The helper has one exit code for all failures; its last words tell EBUSY.
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if said.ends_with("Device or resource busy") {
        return Err(MountError::Busy {
            pids: users(at),
            path: at.to_owned(),
        });
    }
    Err(MountError::Unmount {
        path: at.to_owned(),
        source: io::Error::other(said),
    })
}

/// Some processes with a file of the mount open or their directory in it. Only
/// the links in /proc are read, never what they lead to.
fn users(at: &Path) -> Vec<u32> {
    let Ok(processes) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let inside = |link: &Path| fs::read_link(link).is_ok_and(|target| target.starts_with(at));
    let uses = |process: &Path| {
        ["cwd", "root", "exe"]
            .iter()
            .any(|link| inside(&process.join(link)))
            || fs::read_dir(process.join("fd"))
                .is_ok_and(|fds| fds.flatten().any(|fd| inside(&fd.path())))
    };
    let pids = processes.flatten().filter_map(|process| {
        let pid = number(OsStr::as_bytes(&process.file_name()))?;
        uses(&process.path()).then_some(pid)
    });
    pids.take(USERS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"\
22 1 0:20 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
40 22 0:50 / /mnt/a\\040b\\134c ro,nosuid,nodev - fuse.lazyroot debian:12 ro,user_id=0\n\
41 22 0:51 / /mnt/twice rw master:1 propagate_from:2 - tmpfs tmpfs rw\n\
42 41 0:52 / /mnt/twice ro - fuse.lazyroot app:1 ro\n\
43 x 0:53 / /mnt/broken ro - tmpfs tmpfs rw\n\
44 22 0:54 / /mnt/short ro\n\
45 22 0:55 / /mnt/nosource ro -\n";

    #[test]
    fn a_mount_table_is_read_with_its_escapes() {
        let mounts = parse(TABLE);
        assert_eq!(mounts.len(), 4);
        let mount = &mounts[1];
        assert_eq!((mount.id, mount.parent, mount.device), (40, 22, (0, 50)));
        assert_eq!(mount.at, Path::new("/mnt/a b\\c"));
        assert_eq!(mount.source, "debian:12");
        assert_eq!(
            (mount.options.as_str(), mount.is_ours()),
            ("ro,nosuid,nodev", true)
        );
        assert_eq!(mounts[2].fs_type, "tmpfs");
    }

    #[test]
    fn of_two_mounts_over_each_other_the_uppermost_is_seen() {
        let mut mounts = parse(TABLE);
        let seen = |mounts: &[Mount]| uppermost(mounts, Path::new("/mnt/twice")).map(|m| m.id);
        assert_eq!(seen(&mounts), Some(42));
        mounts.reverse();
        assert_eq!(seen(&mounts), Some(42));
        assert!(uppermost(&mounts, Path::new("/mnt")).is_none());
    }

    #[test]
    fn what_only_looks_like_an_escape_stays() {
        assert_eq!(unescape(b"\\04"), b"\\04");
        assert_eq!(unescape(b"\\0499\\"), b"\\0499\\");
        assert_eq!(unescape(b"\\777"), b"\\777");
        assert_eq!(unescape(b"\\043\\011"), b"#\t");
    }

    #[test]
    fn a_path_is_resolved_without_touching_its_last_part() {
        let dir = tempfile::tempdir().unwrap();
        let real = real(dir.path()).unwrap();
        std::os::unix::fs::symlink("sub/../there", dir.path().join("link")).unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        assert_eq!(
            resolve(&dir.path().join("link")).unwrap(),
            real.join("there")
        );
        assert_eq!(
            resolve(&dir.path().join("./sub/../x/")).unwrap(),
            real.join("x")
        );
        std::os::unix::fs::symlink("loop", dir.path().join("loop")).unwrap();
        assert!(matches!(
            resolve(&dir.path().join("loop")),
            Err(MountError::Path { .. })
        ));
        assert!(matches!(
            resolve(&dir.path().join("no/x")),
            Err(MountError::Path { .. })
        ));
    }

    #[test]
    fn a_mount_is_seen_without_the_table_as_with_it() {
        let proc = Path::new("/proc");
        let table = all().unwrap();
        let mount = uppermost(&table, proc).unwrap();
        let seen = seen_at(proc).unwrap();
        assert_eq!((seen.id, seen.device), (u64::from(mount.id), mount.device));
        assert!(may_be_mounted_at(proc));
        let dir = tempfile::tempdir().unwrap();
        assert!(!may_be_mounted_at(dir.path()));
        assert!(!may_be_mounted_at(&dir.path().join("no")));
        assert!(seen_at(&dir.path().join("no")).is_err());
    }

    #[test]
    fn what_is_not_mounted_is_not_unmounted() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("x");
        assert!(matches!(
            unmount(&at, false),
            Err(MountError::NotMounted(_))
        ));
        assert!(matches!(
            unmount(Path::new("/proc"), false),
            Err(MountError::NotOurs { .. })
        ));
    }

    #[test]
    fn errors_name_the_thing_and_its_users() {
        let busy = MountError::Busy {
            path: "/mnt/x".into(),
            pids: vec![3, 5],
        };
        assert_eq!(busy.to_string(), "`/mnt/x` is in use by process 3, 5");
        let free = MountError::Busy {
            path: "/mnt/x".into(),
            pids: vec![],
        };
        assert_eq!(free.to_string(), "`/mnt/x` is in use");
    }
}
