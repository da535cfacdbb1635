//! A tree shown through FUSE; the only home of the crate `fuser`.
//!
//! What it is for: answering the kernel's requests from a [`Union`], read-only,
//! or from a [`Writable`], with as few messages as the protocol allows. A tree
//! never changes while it is mounted, unless by the kernel's own requests, so the
//! kernel may keep every answer for ever: names, attributes, absent names,
//! listings, symlinks, pages. Warm, a read-only mount costs no message.
//! May assume: numbers of a union are stable and below 2^40. Must not know:
//! where layers and changes are kept, how containers are run.
//!
//! * `errno`: failures of a tree and their errno, one table.
//! * `attr`: what `stat` tells, in the kernel's words.
//! * `image`: one tree at its place in the mount's numbers.
//! * `browse`: many trees by name in one mount. `names`: those as paths. `changes`: names
//!   change, and the kernel is told.
//! * `adapter`: request, answer. `writable`: the same for a tree that can be changed.
//! * `listing`: directories into replies.
//! * `pool`: threads for what may be slow (reading decodes). `workers`: threads for
//!   what may take minutes (copying).
//! * `caller`: rights of the process that asks.
//! * `reads`: one read, answered. `xattrs`: extended attributes.
//! * `reports`: each damaged thing is told once.
//! * `haste`: whether requests come, and how fast. `turns`: who waits for the next one.
//! * `options`: what a user may ask of a mount.
//! * `session`: mount, run, unmount.

mod adapter;
mod attr;
mod browse;
mod caller;
mod changes;
mod errno;
pub(crate) mod haste;
mod image;
mod listing;
mod names;
mod options;
mod pool;
mod reads;
mod reports;
mod session;
mod turns;
mod workers;
mod writable;
mod xattrs;

use std::fmt;
use std::sync::Arc;

pub use browse::{Catalogue, Changes};
pub use options::{MountOptions, OptionError};
pub use session::{ServeError, serve};

use crate::union::Union;
use crate::union::writable::Writable;

/// What a mount shows.
pub enum Tree {
    /// One image; its root is the mount's root.
    Image(Arc<Union>),
    /// The same for containers to share. Kernel overlayfs above it takes its own marks for what they say whoever has made
    /// them: those that the image has are not told.
    Lower(Arc<Union>),
    /// Every image of a catalogue, by name.
    Images(Arc<dyn Catalogue>),
    /// One image that can be changed; its root is the mount's root.
    Writable(Arc<Writable>),
}

impl fmt::Debug for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Image(_) => "Tree::Image",
            Self::Lower(_) => "Tree::Lower",
            Self::Images(_) => "Tree::Images",
            Self::Writable(_) => "Tree::Writable",
        })
    }
}

/// A tree, and what the server of its mount needs besides.
pub struct Served {
    /// What the mount table calls it (its source): the image's name.
    pub name: String,
    /// What is shown.
    pub tree: Tree,
    /// Called when no request came for a while, once until the next request:
    /// the place to let caches go.
    pub idle: Option<Box<dyn Fn() + Send>>,
    /// Idle processors are kept awake while requests follow one another closely, where
    /// this process may and they would halt.
    pub keep_awake: bool,
}

impl fmt::Debug for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Served `{}`: {:?}", self.name, self.tree)
    }
}
