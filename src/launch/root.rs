//! The mounts in a container.
//!
//! All that comes from the machine is taken first, as mounts that are nowhere yet; then the
//! root file system becomes the root and the machine's is gone; then all is put into its
//! place. So every path in there is resolved with that root, and no link of an
//! image leads out of it.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, StatVfsMountFlags, statvfs};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags, fsconfig_create, fsmount, fsopen, mount, mount_bind, mount_change,
    mount_remount, move_mount, open_tree, unmount,
};
use rustix::process::{chdir, pivot_root, umask};

use super::spec::{Spec, Volume};
use super::{LaunchError, broken, devices, failed, masks};
use crate::mounts;

/// Links that are followed to the place of a file (the kernel's own limit).
const LINKS_MAX: usize = 40;

/// Builds the root of a container, which is this process's from then on.
pub(super) fn build(spec: &Spec) -> Result<(), LaunchError> {
    // Nothing that is mounted from now on is seen outside.
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).map_err(failed("make private", "/"))?;
    umask(Mode::from_raw_mode(0o022));
    let taken = Taken::from(spec)?;
    // A directory that is no mount cannot become the root.
    let rootfs = &spec.rootfs;
    mount_bind(rootfs, rootfs).map_err(failed("bind", rootfs))?;
    if !spec.privileged {
        // Whatever nodes an image has: no control group guards the machine's devices.
        restrict(rootfs, MountFlags::NODEV)?;
    }
    chdir(rootfs).map_err(failed("enter", rootfs))?;
    pivot_root(".", ".").map_err(failed("make a root of", rootfs))?;
    // The machine's lies above ours now.
    unmount(".", UnmountFlags::DETACH).map_err(failed("leave", "/"))?;
    chdir("/").map_err(failed("enter", "/"))?;
    place(spec, taken)
}

/// What comes from outside.
struct Taken {
    proc: OwnedFd,
    sys: OwnedFd,
    devices: devices::Taken,
    volumes: Vec<OwnedFd>,
    files: Vec<OwnedFd>,
}

impl Taken {
    fn from(spec: &Spec) -> Result<Self, LaunchError> {
        let each = |volumes: &[Volume]| {
            let trees = volumes.iter().map(|volume| take(&volume.source));
            trees.collect::<Result<Vec<_>, _>>()
        };
        Ok(Self {
            // While the machine's can be seen: else a user namespace gets none.
            proc: new_file_system("proc", MountAttrFlags::empty())?,
            sys: match spec.user_namespace && !spec.own_network {
                // It shows the network, which is not this namespace's.
                true => take(Path::new("/sys"))?,
                false => new_file_system("sysfs", MountAttrFlags::MOUNT_ATTR_RDONLY)?,
            },
            devices: devices::Taken::from(spec)?,
            volumes: each(&spec.volumes)?,
            files: each(&spec.files)?,
        })
    }
}

/// A copy of a tree of mounts, mounted nowhere.
pub(super) fn take(source: &Path) -> Result<OwnedFd, LaunchError> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    open_tree(CWD, source, flags).map_err(failed("take", source))
}

fn new_file_system(kind: &str, more: MountAttrFlags) -> Result<OwnedFd, LaunchError> {
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC
        | more;
    let make = || {
        let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_create(&context)?;
        fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
    };
    make().map_err(failed("make the file system", kind))
}

fn place(spec: &Spec, taken: Taken) -> Result<(), LaunchError> {
    own_directory("/proc")?;
    put(&taken.proc, "/proc", false)?;
    own_directory("/sys")?;
    put(&taken.sys, "/sys", false)?;
    if spec.user_namespace && !spec.own_network {
        make_read_only("/sys")?;
    }
    devices::build(spec, &taken.devices)?;
    for memory in &spec.tmpfs {
        let path = &memory.path;
        directory(path)?;
        let mut flags = MountFlags::NOSUID | MountFlags::NODEV;
        flags.set(MountFlags::NOEXEC, memory.no_exec);
        flags.set(MountFlags::RDONLY, memory.read_only);
        let options = CString::new(memory.data()).unwrap_or_default();
        mount("tmpfs", path, "tmpfs", flags, &*options).map_err(failed("mount", path))?;
    }
    for (volume, tree) in spec.files.iter().zip(&taken.files) {
        // An image that has no place for them, and cannot get one, goes without.
        match file(&volume.target) {
            Err(LaunchError::NoMountPoint(_)) => {}
            other => {
                other?;
                put(tree, &volume.target, true)?;
            }
        }
    }
    for (volume, tree) in spec.volumes.iter().zip(&taken.volumes) {
        put_volume(volume, tree)?;
    }
    for path in &spec.directories {
        // What is there, a file or a link that leads nowhere, is what the image has, or what somebody has
        // mounted there; and whoever needs one that cannot be made will say so.
        if fs::symlink_metadata(path).is_err() {
            let _ = directory(path);
        }
    }
    match directory(&spec.directory) {
        Err(LaunchError::NoMountPoint(_)) => {}
        other => other?,
    }
    if !spec.privileged {
        masks::build()?;
    }
    if spec.read_only {
        read_only("/")?;
    }
    Ok(())
}

fn put_volume(volume: &Volume, tree: &OwnedFd) -> Result<(), LaunchError> {
    let stat = rustix::fs::fstat(tree).map_err(failed("read", &volume.source))?;
    match rustix::fs::FileType::from_raw_mode(stat.st_mode) {
        rustix::fs::FileType::Directory => directory(&volume.target)?,
        _ => file(&volume.target)?,
    }
    put(tree, &volume.target, true)?;
    match volume.read_only {
        true => make_read_only(&volume.target),
        false => Ok(()),
    }
}

/// Mounts what was taken.
pub(super) fn put(tree: &OwnedFd, at: &str, follow: bool) -> Result<(), LaunchError> {
    let mut flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    if follow {
        flags |= MoveMountFlags::MOVE_MOUNT_T_SYMLINKS;
    }
    move_mount(tree, "", CWD, at, flags).map_err(failed("mount", at))
}

/// Closes a mount and all below it for writing.
fn make_read_only(path: &str) -> Result<(), LaunchError> {
    let resolved = mounts::resolve(Path::new(path))
        .map_err(|error| broken("read", path)(io::Error::other(error)))?;
    let table = mounts::all().map_err(|error| broken("read", path)(io::Error::other(error)))?;
    read_only(&resolved)?;
    for below in mounts::below(&table, &resolved) {
        if below.at != resolved {
            read_only(&below.at)?;
        }
    }
    Ok(())
}

/// Closes one mount for writing.
pub(super) fn read_only(at: impl AsRef<Path>) -> Result<(), LaunchError> {
    restrict(at.as_ref(), MountFlags::RDONLY)
}

/// Adds to what is forbidden in a mount.
fn restrict(at: &Path, more: MountFlags) -> Result<(), LaunchError> {
    let is = statvfs(at).map_err(failed("read", at))?.f_flag;
    let mut flags = MountFlags::BIND | more;
    // What a user namespace did not set it may not take away.
    for (has, flag) in [
        (StatVfsMountFlags::RDONLY, MountFlags::RDONLY),
        (StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (StatVfsMountFlags::NODEV, MountFlags::NODEV),
        (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
        (StatVfsMountFlags::NOATIME, MountFlags::NOATIME),
        (StatVfsMountFlags::NODIRATIME, MountFlags::NODIRATIME),
        (StatVfsMountFlags::RELATIME, MountFlags::RELATIME),
    ] {
        if is.contains(has) {
            flags |= flag;
        }
    }
    mount_remount(at, flags, "").map_err(failed("restrict", at))
}

/// A directory at the top of the root that is no link: what is mounted there must be found there.
pub(super) fn own_directory(path: &str) -> Result<(), LaunchError> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => Ok(()),
        Ok(_) => Err(LaunchError::MountPoint {
            path: path.into(),
            what: "no directory",
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => directory(path),
        Err(error) => Err(broken("read", path)(error)),
    }
}

/// Makes a directory with all above it, where there is none.
fn directory(path: &str) -> Result<(), LaunchError> {
    match fs::create_dir_all(path) {
        Ok(()) => Ok(()),
        Err(error) if is_closed(&error) => Err(LaunchError::NoMountPoint(path.into())),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(LaunchError::MountPoint {
                path: path.into(),
                what: "no directory",
            })
        }
        Err(error) => Err(broken("create", path)(error)),
    }
}

/// Makes an empty file where there is none, also where a link points to nothing.
fn file(path: &str) -> Result<(), LaunchError> {
    let mut at = PathBuf::from(path);
    for _ in 0..LINKS_MAX {
        let above = at.parent().unwrap_or(Path::new("/")).to_owned();
        match fs::symlink_metadata(&at) {
            Ok(meta) if meta.is_symlink() => {
                let target = fs::read_link(&at).map_err(broken("read", &at))?;
                at = above.join(target);
            }
            Ok(meta) if meta.is_dir() => {
                return Err(LaunchError::MountPoint {
                    path: path.into(),
                    what: "a directory, and a file is to be mounted there",
                });
            }
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                directory(&above.to_string_lossy())?;
                return match fs::File::create_new(&at) {
                    Err(error) if is_closed(&error) => Err(LaunchError::NoMountPoint(at)),
                    other => other.map(|_| ()).map_err(broken("create", &at)),
                };
            }
            Err(error) => return Err(broken("read", &at)(error)),
        }
    }
    Err(broken("follow", path)(Errno::LOOP.into()))
}

fn is_closed(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied
    )
}
