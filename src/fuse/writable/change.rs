//! Everything that changes names and attributes.
//!
//! May assume: the kernel has checked permissions (`default_permissions`), and
//! holds its own locks on the directories and the object of a request. Must not
//! know which thread it runs on.

use fuser::{Errno, RenameFlags};

use super::super::{attr, caller};
use super::{Caller, Core};
use crate::node::Ino;
use crate::union::FsError;
use crate::union::upper::{CAPABILITY, Change, SetXattr, Stat, What};
use crate::union::writable::{Known, Maker, Rename};

/// S_ISGID of inode(7).
const SET_GROUP: u16 = 0o2000;
/// S_ISUID and S_ISGID.
pub(super) const SET_IDS: u16 = 0o6000;
/// Permission bits of `st_mode`.
const BITS: u32 = 0o7777;
/// What acl(5) calls the access control list of an object.
const ACL: &[u8] = b"system.posix_acl_access";

/// The low bits of a mode or a umask.
pub(super) fn bits(mode: u32) -> u16 {
    (mode & BITS) as u16
}

/// What mknod(2) is to make.
fn special(mode: u32, rdev: u32) -> Result<What<'static>, Errno> {
    let device = attr::device(rdev);
    match mode & libc::S_IFMT {
        libc::S_IFREG | 0 => Ok(What::File(0)),
        libc::S_IFIFO => Ok(What::Fifo),
        libc::S_IFCHR => Ok(What::Char(device)),
        libc::S_IFBLK => Ok(What::Block(device)),
        libc::S_IFSOCK => Ok(What::Socket),
        _ => Err(Errno::EPERM),
    }
}

impl Core {
    /// Makes an object; the kernel is about to be told of it.
    pub(super) fn make(
        &self,
        dir: Ino,
        name: &[u8],
        what: What<'_>,
        mode: u32,
        umask: u32,
        by: Caller,
    ) -> Result<Known, Errno> {
        let maker = Maker {
            uid: by.uid,
            gid: by.gid,
            mode: bits(mode),
            umask: bits(umask),
        };
        let made = self.tree.make(dir, name, what, &maker);
        let made = self.changed(dir, made);
        made.map_err(|error| self.failed(dir, Some(name), &error))
    }

    /// As mknod(2).
    pub(super) fn make_special(
        &self,
        dir: Ino,
        name: &[u8],
        (mode, rdev, umask): (u32, u32, u32),
        by: Caller,
    ) -> Result<Known, Errno> {
        self.make(dir, name, special(mode, rdev)?, mode, umask, by)
    }

    pub(super) fn rename(
        &self,
        from: (Ino, &[u8]),
        to: (Ino, &[u8]),
        flags: RenameFlags,
        by: Caller,
    ) -> Result<(), Errno> {
        let whiteout = RenameFlags::RENAME_WHITEOUT;
        let how = match flags {
            RenameFlags::RENAME_NOREPLACE => Rename::NoReplace,
            RenameFlags::RENAME_EXCHANGE => Rename::Exchange,
            flags if flags - RenameFlags::RENAME_NOREPLACE == whiteout => Rename::Whiteout {
                replace: flags == whiteout,
                owner: (by.uid, by.gid),
            },
            none if none.is_empty() => Rename::Replace,
            _ => return Err(Errno::EINVAL),
        };
        let renamed = self.tree.rename(from, to, how);
        let renamed = self.changed(from.0, renamed);
        let renamed = self.changed(to.0, renamed);
        renamed.map_err(|error| self.failed(from.0, Some(from.1), &error))
    }

    /// Sets attributes; slow when a size has contents to copy. Without any
    /// attribute the kernel means: take away what a write takes away
    /// (FUSE_HANDLE_KILLPRIV_V2).
    pub(super) fn set_attr(&self, ino: Ino, change: &Change, pid: u32) -> Result<Stat, Errno> {
        if *change == Change::default() {
            return self.strip_after_write(ino, pid);
        }
        if change.size.is_some() {
            self.strip_before_cut(ino, pid)?;
        }
        let set = self.tree.set_attr(ino, change);
        set.map_err(|error| self.failed(ino, None, &error))
    }

    /// Who may keep setuid and setgid bits still takes capabilities away when he
    /// writes; the kernel asks for both in the same way.
    fn strip_after_write(&self, ino: Ino, pid: u32) -> Result<Stat, Errno> {
        let failed = |error| self.failed(ino, None, &error);
        let now = self.tree.attr(ino).map_err(failed)?;
        if now.attr.mode & SET_IDS == 0 || !caller::keeps_set_id(pid) {
            return self.tree.strip_privileges(ino).map_err(failed);
        }
        match self.tree.remove_xattr(ino, CAPABILITY) {
            Ok(()) | Err(FsError::NoAttribute) => self.tree.attr(ino).map_err(failed),
            Err(error) => Err(failed(error)),
        }
    }

    /// As setxattr(2).
    pub(super) fn set_xattr(
        &self,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        flags: i32,
        by: Caller,
    ) -> Result<(), Errno> {
        let how = match flags {
            0 => SetXattr::Any,
            libc::XATTR_CREATE => SetXattr::Create,
            libc::XATTR_REPLACE => SetXattr::Replace,
            _ => return Err(Errno::EINVAL),
        };
        let failed = |error| self.failed(ino, None, &error);
        self.tree.set_xattr(ino, name, value, how).map_err(failed)?;
        if name == ACL {
            self.strip_group_of_stranger(ino, by)?;
        }
        Ok(())
    }

    /// Who sets an access control list, which is a kind of chmod(2), and is not in
    /// the object's group, does not keep its setgid bit. The kernel leaves it to
    /// us, and its word for it does not come through
    /// (FUSE_SETXATTR_ACL_KILL_SGID).
    fn strip_group_of_stranger(&self, ino: Ino, by: Caller) -> Result<(), Errno> {
        let failed = |error| self.failed(ino, None, &error);
        let now = self.tree.attr(ino).map_err(failed)?.attr;
        if now.mode & SET_GROUP == 0
            || caller::is_in_group(by.pid, by.gid, now.gid)
            || caller::keeps_set_id(by.pid)
        {
            return Ok(());
        }
        let change = Change {
            mode: Some(now.mode & !SET_GROUP),
            ..Change::default()
        };
        self.tree.set_attr(ino, &change).map_err(failed)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Device;

    #[test]
    fn mknod_makes_what_its_mode_says() {
        let device = Device { major: 1, minor: 3 };
        let table = [
            (libc::S_IFREG, What::File(0)),
            (0, What::File(0)),
            (libc::S_IFIFO, What::Fifo),
            (libc::S_IFCHR, What::Char(device)),
            (libc::S_IFBLK, What::Block(device)),
            (libc::S_IFSOCK, What::Socket),
        ];
        for (mode, what) in table {
            assert_eq!(special(mode | 0o644, 0x103).ok(), Some(what));
        }
        assert!(special(libc::S_IFDIR, 0).is_err());
    }
}
