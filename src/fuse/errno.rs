//! Failures of a tree and their errno: the one table.
//!
//! Must not know which request failed.

use fuser::Errno;

use crate::union::FsError;

/// The errno that a program sees.
pub(super) fn of(error: &FsError) -> Errno {
    match error {
        FsError::NotFound => Errno::ENOENT,
        FsError::NotDir => Errno::ENOTDIR,
        FsError::IsDir => Errno::EISDIR,
        // readlink(2): EINVAL when it is no symlink; read(2): EINVAL when the
        // object is unsuitable for reading.
        FsError::WrongKind => Errno::EINVAL,
        // Symlinks that lead through each other are what takes so many steps.
        FsError::Loop | FsError::TooManySteps => Errno::ELOOP,
        FsError::Interrupted => Errno::EINTR,
        FsError::NoAttribute => Errno::NO_XATTR,
        // Not ENOENT: a path walk that meets ESTALE is tried again with fresh
        // lookups (kernel Documentation/filesystems/path-lookup.rst).
        FsError::Stale => Errno::ESTALE,
        FsError::Exists => Errno::EEXIST,
        FsError::NotEmpty => Errno::ENOTEMPTY,
        FsError::NameTooLong => Errno::ENAMETOOLONG,
        FsError::NotPermitted => Errno::EPERM,
        FsError::BelowItself => Errno::EINVAL,
        // What a program would get from the same call there.
        FsError::Upper(error) => Errno::from_i32(error.raw_os_error().unwrap_or(libc::EIO)),
        FsError::UpperDamaged(_) | FsError::Damaged(_) => Errno::EIO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::ReadError;

    #[test]
    fn every_failure_has_its_errno() {
        let damage = ReadError::Corrupt {
            file: "f".into(),
            offset: 0,
            what: "w".into(),
        };
        let table = [
            (FsError::NotFound, libc::ENOENT),
            (FsError::NotDir, libc::ENOTDIR),
            (FsError::IsDir, libc::EISDIR),
            (FsError::WrongKind, libc::EINVAL),
            (FsError::Loop, libc::ELOOP),
            (FsError::TooManySteps, libc::ELOOP),
            (FsError::Interrupted, libc::EINTR),
            (FsError::NoAttribute, libc::ENODATA),
            (FsError::Stale, libc::ESTALE),
            (FsError::Damaged(damage), libc::EIO),
        ];
        for (error, errno) in table {
            assert_eq!(of(&error).code(), errno, "{error}");
        }
    }
}
