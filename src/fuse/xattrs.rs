//! Extended attributes into replies.
//!
//! Must not know what any attribute means, `trusted.` ones being privileged
//! apart.

use fuser::{Errno, INodeNo, ReplyXattr};

use super::adapter::Adapter;
use super::browse::Place;
use super::caller::is_privileged;
use crate::union::Xattrs;

impl Adapter {
    pub(super) fn xattr(&self, number: INodeNo, name: &[u8]) -> Result<Vec<u8>, Errno> {
        let (image, ino) = self.object(number, Errno::NO_XATTR)?;
        let all = image
            .xattrs(ino)
            .map_err(|error| self.failed(&image, ino, &error))?;
        let found = all.into_iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value).ok_or(Errno::NO_XATTR)
    }

    pub(super) fn xattr_names(&self, number: INodeNo, pid: u32) -> Result<Vec<u8>, Errno> {
        let Place::Image(image, ino) = self.place(number)? else {
            return Ok(Vec::new());
        };
        let all = image
            .xattrs(ino)
            .map_err(|error| self.failed(&image, ino, &error))?;
        Ok(names(&all, pid))
    }
}

/// The names as listxattr(2) wants them, a NUL behind each.
pub(super) fn names(all: &Xattrs, pid: u32) -> Vec<u8> {
    // Only a privileged process sees `trusted.` (xattr(7)); fuse in the
    // kernel leaves that to us.
    let hidden = |name: &[u8]| name.starts_with(b"trusted.");
    let hide = all.iter().any(|(name, _)| hidden(name)) && !is_privileged(pid);
    let mut names = Vec::new();
    for (name, _) in all.iter().filter(|(name, _)| !hide || !hidden(name)) {
        names.extend_from_slice(name);
        names.push(0);
    }
    names
}

/// Answers with a value of an extended attribute, or its size when `size` is 0.
pub(super) fn answer_xattr(reply: ReplyXattr, size: u32, value: Result<Vec<u8>, Errno>) {
    match value {
        Err(errno) => reply.error(errno),
        // XATTR_SIZE_MAX is 64 KiB; what cannot be counted cannot be had.
        Ok(value) => match u32::try_from(value.len()) {
            Err(_) => reply.error(Errno::E2BIG),
            Ok(len) if size == 0 => reply.size(len),
            Ok(len) if size < len => reply.error(Errno::ERANGE),
            Ok(_) => reply.data(&value),
        },
    }
}
