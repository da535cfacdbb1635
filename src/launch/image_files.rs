//! Files of an image, read through its root file system before it is anybody's root.
//!
//! Links are followed as a process in there would follow them, so none leads out of it;
//! and what is no file is not opened.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, open, openat2};

use crate::image::identity::Database;

/// Longest user database that is read: a million users.
const FILE_MAX: u64 = 64 << 20;

/// A root file system to read from.
#[derive(Debug)]
pub struct ImageFiles {
    root: OwnedFd,
}

impl ImageFiles {
    /// That one.
    ///
    /// # Errors
    /// There is none.
    pub fn open(root: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = open(root, flags, Mode::empty())?;
        Ok(Self { root })
    }

    fn at(&self, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
        let flags = flags | OFlags::CLOEXEC;
        let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        Ok(openat2(&self.root, path, flags, Mode::empty(), inside)?)
    }

    /// What is in a file; nothing if it is none.
    fn read(&self, path: &str) -> Vec<u8> {
        let read = || {
            let place = self.at(path, OFlags::PATH)?;
            if FileType::from_raw_mode(fstat(&place)?.st_mode) != FileType::RegularFile {
                return Err(io::Error::from(io::ErrorKind::InvalidInput));
            }
            let file = self.at(path, OFlags::RDONLY | OFlags::NONBLOCK)?;
            let mut bytes = Vec::new();
            File::from(file).take(FILE_MAX).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        // Whoever is not in it is not known, whatever the reason.
        read().unwrap_or_default()
    }
}

impl Database for ImageFiles {
    fn passwd(&self) -> Vec<u8> {
        self.read("etc/passwd")
    }

    fn group(&self) -> Vec<u8> {
        self.read("etc/group")
    }

    fn owner(&self, path: &str) -> Option<(u32, u32)> {
        let place = self.at(path.trim_start_matches('/'), OFlags::PATH).ok()?;
        let stat = fstat(&place).ok()?;
        Some((stat.st_uid, stat.st_gid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::CWD;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_do_not_lead_out_and_what_is_no_file_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::write(dir.path().join("passwd"), "outside").unwrap();
        let files = ImageFiles::open(&root).unwrap();
        assert_eq!(files.passwd(), b"");
        for target in ["../../passwd", "/passwd"] {
            symlink(target, root.join("etc/passwd")).unwrap();
            assert_eq!(files.passwd(), b"", "{target}");
            fs::write(root.join("passwd"), "inside").unwrap();
            assert_eq!(files.passwd(), b"inside", "{target}");
            fs::remove_file(root.join("passwd")).unwrap();
            fs::remove_file(root.join("etc/passwd")).unwrap();
        }
        // Opening it would wait for a writer.
        let fifo = root.join("etc/group");
        let mode = Mode::from_raw_mode(0o644);
        rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, mode, 0).unwrap();
        assert_eq!(files.group(), b"");
        assert!(files.owner("/etc/group").is_some() && files.owner("/none").is_none());
    }
}
