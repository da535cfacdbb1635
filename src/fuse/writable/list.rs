//! Directories into replies.
//!
//! May assume: cookies of a directory never change while it is known. Must not
//! know how many bytes the kernel has room for; the reply says when it is full.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::SystemTime;

use fuser::{Errno, INodeNo, ReplyDirectory, ReplyDirectoryPlus};

use super::super::adapter::{FOR_EVER, GENERATION};
use super::super::attr;
use super::Core;
use crate::node::Ino;
use crate::union::{FsError, Listed};

impl Core {
    /// Answers READDIR.
    pub(super) fn list(&self, dir: Ino, cookie: u64, mut reply: ReplyDirectory) {
        let listed = self.tree.list(dir, cookie, &mut |line| {
            let name = OsStr::from_bytes(line.name);
            !reply.add(
                INodeNo(line.ino.0),
                line.cookie,
                attr::kind(line.kind),
                name,
            )
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(self.failed(dir, None, &error)),
        }
    }

    /// Answers READDIRPLUS: every line is a lookup, too.
    pub(super) fn list_plus(&self, dir: Ino, cookie: u64, mut reply: ReplyDirectoryPlus) {
        let mut some = false;
        let mut failed = None;
        let listed = self.tree.list(dir, cookie, &mut |line| match self
            .add_plus(dir, &line, &mut reply)
        {
            Ok(full) => {
                some |= !full;
                !full
            }
            Err(errno) => {
                failed = Some(errno);
                false
            }
        });
        let failure = match listed {
            Err(error) => Some(self.failed(dir, None, &error)),
            Ok(()) => failed,
        };
        match failure {
            // What was listed before the damage is handed out first; the next
            // request begins at the damage.
            Some(errno) if !some => reply.error(errno),
            _ => reply.ok(),
        }
    }

    /// Adds one line with attributes; says whether there is no more room.
    fn add_plus(
        &self,
        dir: Ino,
        line: &Listed<'_>,
        reply: &mut ReplyDirectoryPlus,
    ) -> Result<bool, Errno> {
        let name = OsStr::from_bytes(line.name);
        let (ttl, cookie) = (&FOR_EVER, line.cookie);
        // The kernel takes neither of these two into its caches, nor counts them.
        if matches!(line.name, b"." | b"..") {
            let attr = attr::directory(line.ino.0, SystemTime::UNIX_EPOCH, 0);
            return Ok(reply.add(INodeNo(line.ino.0), cookie, name, ttl, &attr, GENERATION));
        }
        match self.tree.lookup(dir, line.name) {
            Ok(known) => {
                let number = known.ino.0;
                let attr = attr::stat(number, &known.stat);
                let full = reply.add(INodeNo(number), cookie, name, ttl, &attr, GENERATION);
                if full {
                    self.tree.forget(known.ino, 1);
                }
                Ok(full)
            }
            // Somebody has removed it meanwhile.
            Err(FsError::NotFound) => Ok(false),
            Err(error) => Err(self.failed(dir, Some(line.name), &error)),
        }
    }
}
