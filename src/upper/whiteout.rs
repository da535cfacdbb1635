//! Whiteouts, and names in the work directory.
//!
//! What it is for: a whiteout costs a link, no inode: all of them are names of one
//! inode in the work directory, as kernel overlayfs does it. May assume: names
//! change one at a time. Must not know what a whiteout hides.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

use rustix::fs::{AtFlags, FileType, Mode};
use rustix::io::Errno;

use super::Directory;
use super::clean;
use super::reach::Opened;

/// The shared whiteout's name in the work directory.
const SHARED: &str = "#whiteout";

/// Makes a new whiteout. Everybody may, other devices need CAP_MKNOD.
///
/// # Errors
/// As mknod(2).
pub(super) fn create(dir: impl AsFd, name: &str) -> io::Result<()> {
    let (kind, mode) = (FileType::CharacterDevice, Mode::empty());
    Ok(rustix::fs::mknodat(dir, name, kind, mode, 0)?)
}

impl Directory {
    /// A name in the work directory that nothing is at.
    pub(super) fn temporary(&self) -> String {
        clean::temporary(&self.temporary)
    }

    /// Links the shared whiteout to a name that is free.
    ///
    /// # Errors
    /// EEXIST; as mknod(2), link(2).
    pub(super) fn link_whiteout(&self, dir: &Opened, name: &[u8]) -> io::Result<()> {
        let link = || rustix::fs::linkat(&*self.work, SHARED, dir, name, AtFlags::empty());
        if self.whiteout.load(Ordering::Relaxed) != 0 {
            match link() {
                Err(Errno::MLINK | Errno::NOENT) => {}
                result => return Ok(result?),
            }
        }
        self.renew_whiteout()?;
        Ok(link()?)
    }

    /// The shared whiteout has as many links as it can, or there is none.
    fn renew_whiteout(&self) -> io::Result<()> {
        // Its number is trusted in listings only while it has a name here.
        self.whiteout.store(0, Ordering::Relaxed);
        match rustix::fs::unlinkat(&*self.work, SHARED, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        create(&*self.work, SHARED)?;
        let stat = rustix::fs::statat(&*self.work, SHARED, AtFlags::SYMLINK_NOFOLLOW)?;
        self.whiteout.store(stat.st_ino, Ordering::Relaxed);
        Ok(())
    }

    /// Whether an inode number in a listing is that of the shared whiteout.
    pub(super) fn is_shared_whiteout(&self, number: u64) -> bool {
        number != 0 && number == self.whiteout.load(Ordering::Relaxed)
    }

    /// A whiteout with a temporary name in the work directory.
    ///
    /// # Errors
    /// As mknod(2), link(2).
    pub(super) fn temporary_whiteout(&self) -> io::Result<String> {
        let name = self.temporary();
        self.link_whiteout(&self.work, name.as_bytes())?;
        Ok(name)
    }

    /// Removes what has a temporary name. That it goes is not what the caller was
    /// asked for: if it fails, the next mount clears the work directory.
    pub(super) fn discard(&self, name: &str) {
        if let Err(error) = clean::remove(&*self.work, name.as_bytes(), &self.temporary) {
            log::warn!("cannot remove `{name}` from the work directory: {error}");
        }
    }
}
