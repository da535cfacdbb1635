//! Extended attributes: reading and writing them, and the two names of each.
//!
//! What it is for: what programs see below the marks' prefix is stored with one
//! more `overlay.` behind it (overlayfs.rst, "Nesting overlayfs mounts"), so nobody
//! forges a mark and an overlayfs above us finds its own. May assume: /proc is
//! there. Must not know what any mark means.

use std::io;

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use super::reach::Opened;
use crate::union::Xattrs;

/// What most values fit in; longer ones take a second call.
const SHORT: usize = 256;
/// The kernel's limits of one value and of a list (XATTR_SIZE_MAX, XATTR_LIST_MAX).
const LONG: usize = 65536;
/// What an escaped name has behind the prefix.
const ESCAPE: &[u8] = b"overlay.";

/// Says, on the work directory, that the upper directory's marks are `trusted.*`. It
/// has to be seen where those are not. Not on the upper directory itself: kernel overlayfs would show it.
pub(super) const TRUSTED_HERE: &str = "user.overlay.lazyroot.trusted";

/// What all marks' names begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Prefix {
    /// `trusted.overlay.`: for those who are root of the machine.
    Trusted,
    /// `user.overlay.`: as kernel overlayfs with its option `userxattr`.
    User,
}

impl Prefix {
    fn text(self) -> &'static str {
        match self {
            Self::Trusted => "trusted.overlay.",
            Self::User => "user.overlay.",
        }
    }

    /// The stored name of a mark.
    pub(super) fn mark(self, mark: &str) -> String {
        format!("{}{mark}", self.text())
    }

    /// The mark that a stored name is; nothing: an attribute of programs.
    pub(super) fn mark_of(self, stored: &[u8]) -> Option<&[u8]> {
        let below = stored.strip_prefix(self.text().as_bytes())?;
        (!below.starts_with(ESCAPE)).then_some(below)
    }

    /// How a name that a program says is stored.
    pub(super) fn stored(self, seen: &[u8]) -> Vec<u8> {
        match seen.strip_prefix(self.text().as_bytes()) {
            Some(below) => [self.text().as_bytes(), ESCAPE, below].concat(),
            None => seen.to_vec(),
        }
    }

    /// What programs see of a stored name; nothing: it is a mark.
    pub(super) fn seen(self, stored: &[u8]) -> Option<Vec<u8>> {
        match stored.strip_prefix(self.text().as_bytes()) {
            Some(below) => {
                let rest = below.strip_prefix(ESCAPE)?;
                Some([self.text().as_bytes(), rest].concat())
            }
            None => Some(stored.to_vec()),
        }
    }
}

/// Whose attributes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Of<'a> {
    /// This object's.
    Object(&'a Opened),
    /// Those of what a directory has under a name.
    Name(&'a Opened, &'a [u8]),
}

impl Of<'_> {
    /// One attribute by its stored name; nothing: there is none.
    ///
    /// # Errors
    /// As getxattr(2), ENODATA apart.
    pub(super) fn get(self, stored: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let read = |buffer: &mut [u8]| match self {
            Self::Object(opened) if opened.is_whole() => {
                rustix::fs::fgetxattr(opened, stored, buffer)
            }
            Self::Object(opened) => rustix::fs::getxattr(opened.path(), stored, buffer),
            Self::Name(dir, name) => rustix::fs::lgetxattr(dir.path_of(name), stored, buffer),
        };
        match with_room(read) {
            Ok(value) => Ok(Some(value)),
            Err(Errno::NODATA) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The stored names, each ended by NUL.
    ///
    /// # Errors
    /// As listxattr(2); of a file system that has no attributes at all, none.
    pub(super) fn list(self) -> io::Result<Vec<u8>> {
        let read = |buffer: &mut [u8]| match self {
            Self::Object(opened) if opened.is_whole() => rustix::fs::flistxattr(opened, buffer),
            Self::Object(opened) => rustix::fs::listxattr(opened.path(), buffer),
            Self::Name(dir, name) => rustix::fs::llistxattr(dir.path_of(name), buffer),
        };
        match with_room(read) {
            Err(Errno::NOTSUP) => Ok(Vec::new()),
            list => Ok(list?),
        }
    }

    /// Every attribute that programs see, sorted by name.
    ///
    /// # Errors
    /// As listxattr(2), getxattr(2).
    pub(super) fn seen(self, prefix: Prefix) -> io::Result<Xattrs> {
        let mut all = Xattrs::new();
        for stored in names(&self.list()?) {
            let Some(seen) = prefix.seen(stored) else {
                continue;
            };
            // Gone since the list was read: somebody removed it meanwhile.
            if let Some(value) = self.get(stored)? {
                all.push((seen, value));
            }
        }
        all.sort_unstable();
        Ok(all)
    }
}

/// Sets an attribute by its stored name.
///
/// # Errors
/// As setxattr(2).
pub(super) fn set(
    object: &Opened,
    stored: &[u8],
    value: &[u8],
    flags: XattrFlags,
) -> io::Result<()> {
    Ok(match object.is_whole() {
        true => rustix::fs::fsetxattr(object, stored, value, flags),
        false => rustix::fs::setxattr(object.path(), stored, value, flags),
    }?)
}

/// Removes an attribute by its stored name.
///
/// # Errors
/// As removexattr(2).
pub(super) fn remove(object: &Opened, stored: &[u8]) -> io::Result<()> {
    Ok(match object.is_whole() {
        true => rustix::fs::fremovexattr(object, stored),
        false => rustix::fs::removexattr(object.path(), stored),
    }?)
}

/// The names of a list.
pub(super) fn names(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|&byte| byte == 0)
        .filter(|name| !name.is_empty())
}

/// Reads with a short buffer, and if that is too short with the longest.
fn with_room(read: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut short = [0; SHORT];
    match read(&mut short) {
        Ok(len) => Ok(short[..len].to_vec()),
        Err(Errno::RANGE) => {
            let mut long = vec![0; LONG];
            let len = read(&mut long)?;
            long.truncate(len);
            Ok(long)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod names_are_escaped {
    use super::*;

    #[test]
    fn what_is_below_the_prefix_goes_one_down_and_comes_back() {
        for prefix in [Prefix::Trusted, Prefix::User] {
            for below in ["opaque", "overlay.opaque", "", "overlay."] {
                let seen = prefix.mark(below).into_bytes();
                let stored = prefix.stored(&seen);
                assert_ne!(seen, stored);
                assert_eq!(prefix.mark_of(&stored), None, "{below}");
                assert_eq!(prefix.seen(&stored), Some(seen), "{below}");
            }
            assert_eq!(prefix.seen(prefix.mark("opaque").as_bytes()), None);
        }
    }

    #[test]
    fn other_names_stay_as_they_are() {
        for name in [
            "user.overlay",
            "user.a",
            "trusted.overlay",
            "system.posix_acl_access",
        ] {
            assert_eq!(Prefix::Trusted.stored(name.as_bytes()), name.as_bytes());
            assert_eq!(Prefix::Trusted.seen(name.as_bytes()), Some(name.into()));
            assert_eq!(Prefix::Trusted.mark_of(name.as_bytes()), None);
        }
    }
}
