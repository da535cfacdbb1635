//! What a tree says of users, for manifests and configs that name them.

use crate::image::identity::Database;
use crate::node::{Ino, Kind};
use crate::union::FsError;
use crate::union::upper::Stat;
use crate::union::writable::Writable;

use super::bytes::Bytes;

/// Longest user database that is read: a million users.
const FILE_MAX: u64 = 64 << 20;
/// Symlinks that one walk follows (`MAXSYMLINKS` of the kernel, `namei.h`).
const LINKS_MAX: u32 = 40;

/// The files of a tree.
pub(super) struct TreeFiles<'a>(pub(super) &'a Writable);

impl TreeFiles<'_> {
    /// What is at a path, links followed inside the tree, with all directories above it:
    /// known, so that they are forgotten afterwards.
    fn walk(&self, path: &str, known: &mut Vec<Ino>) -> Result<(Ino, Stat), FsError> {
        let split = |path: &[u8]| -> Vec<Vec<u8>> {
            path.rsplit(|byte| *byte == b'/')
                .filter(|name| !matches!(*name, b"" | b"."))
                .map(<[u8]>::to_vec)
                .collect()
        };
        let mut left = split(path.as_bytes());
        let mut above = vec![Ino::ROOT];
        let mut links = 0;
        let mut at = (Ino::ROOT, self.0.attr(Ino::ROOT)?);
        while let Some(name) = left.pop() {
            if name == b".." {
                above.truncate(above.len().max(2) - 1);
            } else {
                let dir = above.last().copied().unwrap_or(Ino::ROOT);
                let found = self.0.lookup(dir, &name)?;
                known.push(found.ino);
                match found.stat.attr.kind {
                    Kind::Dir => above.push(found.ino),
                    Kind::Symlink => {
                        links += 1;
                        if links > LINKS_MAX {
                            return Err(FsError::Loop);
                        }
                        let target = self.0.target(found.ino)?;
                        if target.starts_with(b"/") {
                            above.truncate(1);
                        }
                        left.extend(split(&target));
                    }
                    _ if left.is_empty() => return Ok((found.ino, found.stat)),
                    _ => return Err(FsError::NotDir),
                }
            }
            let dir = above.last().copied().unwrap_or(Ino::ROOT);
            at = (dir, self.0.attr(dir)?);
        }
        Ok(at)
    }

    fn with<T>(&self, path: &str, then: impl FnOnce(Ino, Stat) -> Result<T, FsError>) -> Option<T> {
        let mut known = Vec::new();
        let outcome = self.walk(path, &mut known);
        let outcome = outcome.and_then(|(ino, stat)| then(ino, stat));
        for ino in known {
            self.0.forget(ino, 1);
        }
        // Whoever is not in it is not known, whatever the reason.
        outcome.ok()
    }

    fn read(&self, path: &str) -> Vec<u8> {
        let read = |ino, stat: Stat| {
            if stat.attr.kind != Kind::File || stat.attr.size > FILE_MAX {
                return Err(FsError::NotFound);
            }
            let bytes = Bytes::open(self.0, ino)?;
            // At most FILE_MAX.
            let mut all = vec![0; stat.attr.size as usize];
            let mut at = 0;
            while at < all.len() {
                match bytes.read(at as u64, &mut all[at..])? {
                    0 => break,
                    got => at += got,
                }
            }
            all.truncate(at);
            Ok(all)
        };
        self.with(path, read).unwrap_or_default()
    }
}

impl Database for TreeFiles<'_> {
    fn passwd(&self) -> Vec<u8> {
        self.read("etc/passwd")
    }

    fn group(&self) -> Vec<u8> {
        self.read("etc/group")
    }

    fn owner(&self, path: &str) -> Option<(u32, u32)> {
        self.with(path, |_, stat| Ok((stat.attr.uid, stat.attr.gid)))
    }
}
