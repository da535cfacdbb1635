//! One tree at its place in the mount's numbers.
//!
//! Must not know which request is answered.

use std::fmt;
use std::sync::Arc;

use fuser::Errno;

use super::errno;
use super::reports::Reports;
use crate::causes::chain;
use crate::node::Ino;
use crate::union::{FsError, Union, Xattrs};

/// Bits of a mount's number that are a union's own; those above are a slot.
/// 2^40 is more than the layers' limits allow (4 million entries a layer).
pub(super) const INO_BITS: u32 = 40;

/// A union, shown at a slot: a number of the mount is `slot << 40 | ino`.
pub(super) struct Image {
    /// What messages call it.
    pub(super) name: String,
    pub(super) union: Arc<Union>,
    slot: u64,
    /// The mount's number of what `..` in the root is.
    parent: u64,
    /// Marks of overlayfs are not told.
    hides_marks: bool,
}

/// How marks of overlayfs begin (kernel Documentation/filesystems/overlayfs.rst).
const MARKS: [&[u8]; 2] = [b"trusted.overlay.", b"user.overlay."];

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Image `{}` at slot {}", self.name, self.slot)
    }
}

impl Image {
    /// The image that is all of a mount.
    pub(super) fn alone(name: String, union: Arc<Union>) -> Self {
        Self {
            name,
            union,
            slot: 0,
            parent: Ino::ROOT.0,
            hides_marks: false,
        }
    }

    /// The same, below overlayfs.
    pub(super) fn below(name: String, union: Arc<Union>) -> Self {
        Self {
            hides_marks: true,
            ..Self::alone(name, union)
        }
    }

    /// The extended attributes that are told of an object.
    pub(super) fn xattrs(&self, ino: Ino) -> Result<Xattrs, FsError> {
        let mut all = self.union.xattrs(ino)?;
        if self.hides_marks {
            all.retain(|(name, _)| !MARKS.iter().any(|mark| name.starts_with(mark)));
        }
        Ok(all)
    }

    /// An image among others, below the directory `parent`. Nothing when its
    /// numbers do not fit.
    pub(super) fn at(name: String, union: Arc<Union>, slot: u64, parent: u64) -> Option<Self> {
        (union.last_ino().0 >> INO_BITS == 0).then_some(Self {
            name,
            union,
            slot,
            parent,
            hides_marks: false,
        })
    }

    /// The mount's number for one of the union's.
    pub(super) fn number(&self, ino: Ino) -> u64 {
        self.slot << INO_BITS | ino.0
    }

    /// The mount's number of what is listed as `name` in `dir`.
    pub(super) fn listed(&self, dir: Ino, name: &[u8], ino: Ino) -> u64 {
        if dir == Ino::ROOT && name == b".." {
            self.parent
        } else {
            self.number(ino)
        }
    }

    /// The errno for a failure at `ino` (`name` in it, if there is one). Damage
    /// is told: image, layer, path, and what was found.
    pub(super) fn failed(
        &self,
        reports: &Reports,
        ino: Ino,
        name: Option<&[u8]>,
        error: &FsError,
    ) -> Errno {
        if let FsError::Damaged(damage) = error {
            reports.once((&self.name, ino, name), || {
                let layer = self.union.layer_of(ino).ok();
                let layer = layer.and_then(|number| self.union.layers().get(number));
                let layer = layer.map_or_else(String::new, |l| format!(", layer {}", l.diff_id()));
                // The path itself may lie in what is damaged.
                let path = self.union.path_of(ino).map(|path| match name {
                    Some(name) => path.child(name),
                    None => path,
                });
                let path = path.map_or_else(|_| format!("object {}", ino.0), |p| format!("`{p}`"));
                let what = chain(damage);
                format!(
                    "{path} cannot be read (image `{}`{layer}): {what}",
                    self.name
                )
            });
        }
        errno::of(error)
    }
}
