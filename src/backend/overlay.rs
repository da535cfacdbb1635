//! Kernel overlayfs above a shared lazy mount.
//!
//! What it is for: writes at the kernel's speed, and still nothing is unpacked. The
//! options are those that lazyroot's own upper directories are written for, so either
//! can go on with what the other wrote (kernel Documentation/filesystems/overlayfs.rst).
//! `index` is off: it ties an upper directory to one mount of the layers, and the lazy
//! one comes again after a reboot.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use rustix::fs::{Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;
use rustix::mount::MountFlags;

use super::{BackendError, Kind, Task, failed, lower};

/// Mounts it; the name of the shared mount that it stands on.
///
/// # Errors
/// The shared mount cannot be made, or the kernel refuses.
pub(super) fn provision(task: &Task<'_>) -> Result<String, BackendError> {
    lower::stand_on(task, |tree| {
        // The mount table has to tell who stands on the tree, and it tells it so that
        // these cannot be told apart.
        let awkward = |byte: &u8| matches!(byte, b',' | b':' | b'\\');
        if tree.as_os_str().as_bytes().iter().any(awkward) {
            return Err(BackendError::Impossible {
                kind: Kind::Overlay,
                what: format!(
                    "the path `{}` has a comma, colon or backslash",
                    tree.display()
                ),
            });
        }
        let (upper, work) = (task.upper(), task.work());
        begin(tree, &upper)?;
        match fs::create_dir(&work) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed("create", &work)(error));
            }
            _ => {}
        }
        let own_marks = match in_user_namespace() {
            // Marks are `user.` there, and the other two options are refused with them.
            true => "userxattr",
            false => "redirect_dir=on,metacopy=on",
        };
        let mut data = format!("xino=on,index=off,{own_marks}").into_bytes();
        for (option, path) in [("lowerdir", tree), ("upperdir", &upper), ("workdir", &work)] {
            data.extend_from_slice(format!(",{option}=").as_bytes());
            escape(path, &mut data);
        }
        data.push(0);
        let data = std::ffi::CStr::from_bytes_with_nul(&data)
            .map_err(|_| failed("mount", task.rootfs)(io::ErrorKind::InvalidInput.into()))?;
        let mounted = rustix::mount::mount(
            task.title,
            task.rootfs,
            "overlay",
            MountFlags::empty(),
            data,
        );
        mounted.map_err(|error| BackendError::Overlay {
            at: task.rootfs.to_owned(),
            source: error.into(),
        })
    })
}

/// Options are split at commas, and layers at colons; the backslash escapes both.
fn escape(path: &Path, to: &mut Vec<u8>) {
    for &byte in path.as_os_str().as_bytes() {
        if matches!(byte, b'\\' | b',' | b':') {
            to.push(b'\\');
        }
        to.push(byte);
    }
}

/// Whether ids of this process are not those of the machine.
fn in_user_namespace() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let whole = ["0", "0", "4294967295"];
    !map.is_empty() && !map.split_whitespace().eq(whole)
}

/// Makes the upper directory. The root of the mount has its attributes, so they have to
/// be those of the tree's root.
fn begin(tree: &Path, upper: &Path) -> Result<(), BackendError> {
    // Made under another name: a crash leaves none that lacks attributes.
    let new = upper.with_extension("new");
    if upper.is_dir() {
        return Ok(());
    }
    let _ = fs::remove_dir(&new);
    let made = fs::DirBuilder::new().mode(0o700).create(&new);
    made.map_err(failed("create", &new))?;
    copy_attributes(tree, &new).map_err(failed("create", &new))?;
    fs::rename(&new, upper).map_err(failed("rename", &new))
}

fn copy_attributes(from: &Path, to: &Path) -> io::Result<()> {
    let meta = fs::metadata(from)?;
    std::os::unix::fs::chown(to, Some(meta.uid()), Some(meta.gid()))?;
    fs::set_permissions(to, fs::Permissions::from_mode(meta.mode() & 0o7777))?;
    let mut names = vec![0_u8; 64 << 10];
    let len = match rustix::fs::listxattr(from, &mut names) {
        Err(Errno::NOTSUP) => 0,
        other => other?,
    };
    let mut value = vec![0_u8; 64 << 10];
    for name in names[..len].split(|&byte| byte == 0) {
        if name.is_empty() {
            continue;
        }
        let got = rustix::fs::getxattr(from, name, &mut value)?;
        rustix::fs::setxattr(to, name, &value[..got], XattrFlags::empty())?;
    }
    let time = |seconds, nanos| Timespec {
        tv_sec: seconds,
        tv_nsec: nanos,
    };
    let times = Timestamps {
        last_access: time(meta.atime(), meta.atime_nsec()),
        last_modification: time(meta.mtime(), meta.mtime_nsec()),
    };
    rustix::fs::utimensat(rustix::fs::CWD, to, &times, rustix::fs::AtFlags::empty())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_a_meaning_in_options_is_escaped() {
        let mut to = Vec::new();
        escape(Path::new("/a:b,c\\d"), &mut to);
        assert_eq!(to, b"/a\\:b\\,c\\\\d");
    }
}
